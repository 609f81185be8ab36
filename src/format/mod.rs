//! Every byte on disk: encoders and decoders, pure, no I/O. Specified in docs/format.md.
//!
//! Encoders are canonical; decoders refuse what an encoder cannot have written, never panic and never
//! allocate more than the input's length justifies (I10). This module knows no hash function: what has
//! a checksum takes a [`HashFn`], to which the caller has bound the domain.

pub mod checkpoint;
pub mod cursor;
pub mod footer;
pub mod frame;
pub mod keys;
pub mod node;
pub mod pack;
pub mod parity;
pub mod record;
pub mod rows;
pub mod scrub;
pub mod split;
pub mod superblock;

/// A hash of 32 bytes as checksums have it.
pub type Hash = [u8; 32];
/// Hashes the concatenation of its parts, in the domain that the caller has bound.
pub type HashFn<'a> = &'a dyn Fn(&[&[u8]]) -> Hash;

/// The chain hash before the first record.
pub const CHAIN_START: Hash = [0; 32];
/// Frames, records and footers begin at multiples of this many bytes in a pack.
pub const ALIGN: usize = 8;
