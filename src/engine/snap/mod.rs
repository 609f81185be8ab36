//! Snapshots: taking them, naming them, reading them.

mod build;
mod diff;
mod dirty;
mod entry;
mod ids;
mod in_use;
mod list;
mod nodes;
mod restore;
mod restore_from;
mod restore_put;
mod retention;
mod rollback;
mod tree;
mod trie;
mod verify;
mod virt;
mod window;

pub(crate) use ids::for_each_id;
pub(crate) use in_use::RootsInUse;
pub use in_use::SnapshotInUse;
pub(crate) use list::pick;
pub(crate) use nodes::load as load_node;
pub use restore::{DamagedPath, RestoreOptions, RestoreReport};
pub(crate) use restore::{What, restore_from};
pub(crate) use restore_from::{Live, Source};
pub(crate) use tree::{NodeCache, Tree};
pub(crate) use verify::verify_tree;
pub(crate) use virt::Virtual;
