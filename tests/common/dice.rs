//! Numbers and bytes that look random and are the same in every run.
#![allow(
    unused_imports,
    unreachable_pub,
    reason = "each of the programs that include it uses some of it"
)]

pub use mmhfs::sim::{Dice, noise};
