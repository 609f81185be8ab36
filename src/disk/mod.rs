//! The only module (beside `cli`) that names `std::fs`: the disk that a store lives on, and plain trees.

mod lock;
mod plain;
mod plain_write;
mod real;
mod traits;

pub use lock::StoreLock;
pub use plain::{
    PlainFacts, PlainFile, PlainId, PlainKind, PlainXattrs, is_within, plain_facts,
    plain_link_target, plain_names, plain_root, plain_xattrs,
};
pub use plain_write::{PlainDir, PlainMeta, PlainNode};
pub use real::{
    RealDisk, create_dirs, files_len, link_target, link_to_dir, move_dir, owner_of, remove_tree,
};
pub use traits::{Access, Disk, DiskFile, Space};
