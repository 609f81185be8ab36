//! Ids and other newtypes, the error type, every limit, the clock: what all other modules share.

mod date;
/// Random numbers and bytes for tests.
#[cfg(test)]
#[path = "../sim/dice.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "tests use some of it; elsewhere it is public"
)]
pub(crate) mod dice;
mod env;
mod error;
mod ids;
pub mod limits;
mod verified;

pub use date::{civil, utc};
pub use env::{Env, Timestamp};
pub use error::{Error, Result, Site};
pub use ids::{
    ByteLen, ChunkId, Digest, FileOff, Ino, Lsn, PackId, PackOff, ParityId, Slot, StoreId,
};
pub use verified::Verified;
