//! Snapshots: taking them, naming them, reading them.

mod build;
mod dirty;
mod entry;
mod list;
mod restore;
mod restore_put;
mod rollback;
mod tree;
mod trie;
mod virt;

pub use restore::{RestoreOptions, RestoreReport};
pub(crate) use tree::NodeCache;
pub(crate) use virt::Virtual;
