//! A simulated disk, chance and faults from one seed, for tests of what a crash leaves behind.
//!
//! [`SimDisk`] is a [`Disk`](crate::disk::Disk) in memory that tells what was written from what was synced. A
//! [`Medium`] is what lies on the disk at one moment: bytes and names that a sync has made certain, and those
//! that are still on their way. [`Medium::after_power_loss`] chooses one of the states that a disk may be found
//! in then. The model of the medium, and what it assumes, is described in docs/durability.md.

mod dice;
mod disk;
mod faults;
mod medium;

pub use dice::{Dice, noise};
pub use disk::{Shot, SimDisk};
pub use faults::{CallKind, Fault, FaultError};
pub use medium::Medium;
