//! POSIX semantics with no FUSE in sight.

mod plain_seed;

pub use plain_seed::{PlainSeed, PlainSeedOptions, PlainSeedProgress, seed_of_dir};
