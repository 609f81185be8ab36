//! Snapshots: taking them, naming them, reading them.

mod build;
mod dirty;
mod entry;
mod list;
mod tree;
mod trie;
mod virt;

pub(crate) use tree::NodeCache;
pub(crate) use virt::Virtual;
