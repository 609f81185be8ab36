//! mmhfs: a read-write compressed, deduplicating FUSE filesystem whose whole tree is named by one
//! verifiable seed.
//!
//! The layers, from the top: `cli`, `fuse`, `engine`, `chunk`, `meta`/`codec`/`fec`, `format`/`disk`/`hash`,
//! `base`. Arrows point down only; `tests/tidy.rs` holds them. `docs/architecture.md` is the map.

pub mod base;
pub mod chunk;
pub mod cli;
pub mod codec;
pub mod disk;
pub mod engine;
pub mod fec;
pub mod format;
pub mod fuse;
pub mod hash;
pub mod meta;
pub mod sim;
