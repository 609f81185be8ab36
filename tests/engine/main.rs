//! The engine without FUSE: operations against a model, recovery, snapshots, verify, check, diff.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests: a failure here is a failed test"
)]

mod checkpoint;
mod clean;
mod damage;
mod diff;
mod fold;
mod heal;
mod history;
mod large;
mod model;
mod protect;
mod recovery;
mod seeds;
mod steps;
mod world;
