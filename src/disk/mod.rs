//! Files and directories: the only module (beside `cli`) that names `std::fs`.

mod plain;

pub use plain::{
    PlainFacts, PlainFile, PlainId, PlainKind, PlainXattrs, plain_facts, plain_link_target,
    plain_names, plain_root, plain_xattrs,
};
