//! Digests: chunk ids, the seed of a tree (docs/seed.md) and the checksums of records.
//!
//! The only module that names `blake3`. Everything here is a pure function of its arguments; the
//! same tree gives the same seed whatever the store, the thread count or the order of writes (I9).

mod attrs;
mod dir;
mod domain;
mod file;
mod links;
mod record;
mod root;
mod text;

pub use attrs::{NodeAttrs, encode_attrs, is_counted_xattr, node_full};
pub use dir::{
    DirEntry, EntryKind, TwoDigests, dir_content, dir_full, dir_inner, dir_leaf, root_dir_full,
    special_content, symlink_content, trie_bit, trie_root,
};
pub use file::{
    FileHasher, file_content, join_subtrees, leaf_digest, sparse_file_content, subtree_digest,
    zero_subtree,
};
pub use links::{LinkGroups, groups_digest, link_groups};
pub use record::{Checksum, SpanHasher, checksum, chunk_id, name_hash, node_id};
pub use root::{ContentSeed, RootRecord, Seed};
pub use text::{SHORT_SEED_LEN, SeedText, short_hex, short_letters};
