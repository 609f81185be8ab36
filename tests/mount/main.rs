//! What programs see through a mount: each test makes a store, mounts it, and takes it down.
//!
//! Needs root and `/dev/fuse`. `docs/semantics.md` says what these tests hold.

#![allow(unreachable_pub, reason = "a test's modules are not an interface")]

mod access;
mod data;
mod holes;
mod links;
mod listing;
mod locks;
mod names;
mod special;
mod store;
mod sys;
mod times;
mod xattrs;
