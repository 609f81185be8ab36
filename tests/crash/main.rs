//! Crashes and faults on a simulated disk: whatever is lost, what was confirmed is there (I11, I1, I12).
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    dead_code,
    reason = "tests: a failure here is a failed test; the world is shared with tests/engine"
)]

mod facts;
mod healing;
mod history;
#[path = "../engine/model.rs"]
mod model;
mod recovery;
mod soak;
#[path = "../engine/steps.rs"]
mod steps;
#[path = "../engine/world.rs"]
mod world;
