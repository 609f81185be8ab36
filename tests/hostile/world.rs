//! Stores that somebody has changed with intent, and what is done with them. Shared with the fuzz target `store`.
//!
//! A *program* is a few bytes (see `program`): which of the prepared stores, what is changed, whether checksums are
//! made right again, and what is then done. Everything is a function of these bytes.

pub mod base;
pub mod exercise;
pub mod plant;
mod program;
pub mod sign;

pub use base::Base;
pub use program::{Verdict, run};

#[cfg(test)]
pub use sign::resign;
