//! Everything that knows FUSE: the adapter (one function per operation, no policy), the conversion of
//! attributes, the map from errors to errno, and the session that owns the mount.
//!
//! What each operation promises, and where it differs from a local filesystem, is in `docs/semantics.md`.

mod adapter;
mod cache;
mod convert;
mod errno;
mod fusermount;
mod ioctl;
mod known;
mod mountinfo;
mod offload;
mod ops;
mod panics;
mod session;
mod steps;

pub use cache::KernelCache;
pub use errno::errno;
pub use panics::log_panics;
pub use session::{MountOptions, Mounted, UnmountHow, mount};
