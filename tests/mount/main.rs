//! What programs see through a mount: each test makes a store, mounts it, and takes it down.
//!
//! Needs root and `/dev/fuse`. `docs/semantics.md` says what these tests hold.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "the modules are helpers of tests, which fail by panicking"
)]

mod access;
mod calls;
mod data;
#[path = "../common/dice.rs"]
mod dice;
mod holes;
mod links;
mod listing;
mod locks;
mod names;
mod random;
mod special;
mod store;
mod sys;
mod times;
mod trees;
mod xattrs;
