//! Snapshots: taking them, naming them, reading them.

mod build;
mod diff;
mod dirty;
mod entry;
mod ids;
mod list;
mod nodes;
mod restore;
mod restore_put;
mod rollback;
mod tree;
mod trie;
mod verify;
mod virt;

pub(crate) use ids::for_each_id;
pub use restore::{DamagedPath, RestoreOptions, RestoreReport};
pub(crate) use tree::{NodeCache, Tree};
pub(crate) use virt::Virtual;
