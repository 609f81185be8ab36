//! The only module that names `std::fs` (beside `cli`): the disk that a store lives on, plain trees.

mod lock;
mod real;
mod traits;

pub use lock::StoreLock;
pub use real::RealDisk;
pub use traits::{Access, Disk, DiskFile, Space};
