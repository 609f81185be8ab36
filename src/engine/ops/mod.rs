//! The operations, one file for each family.

mod alloc;
mod attr;
mod create;
mod dir;
mod io;
mod remove;
mod rename;
mod xattr;

pub(crate) use attr::{file_kind, ioctl_flags, resize};
pub(crate) use io::{Source, part, piece_of};
