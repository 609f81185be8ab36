//! What the store needs from a disk, without a type of the operating system in sight.

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::{ByteLen, PackOff, Result};

/// How an existing file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All but [`DiskFile::write_at`] will be called.
    Read,
    /// Everything will be called.
    ReadWrite,
}

/// Space of the filesystem that holds the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Space {
    /// Capacity in bytes.
    pub total_bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
    /// Free bytes that an unprivileged user may use.
    pub available_bytes: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
}

/// A directory tree of files, named by paths relative to its root with `/` between the parts; `""`
/// is the root itself.
///
/// Nothing that is created, renamed or removed is durable before [`Disk::sync_dir`] of its directory
/// has returned. A full disk is [`Error::NoSpace`](crate::base::Error::NoSpace), any other failure
/// [`Error::Io`](crate::base::Error::Io) with the operation and the name.
pub trait Disk: Send + Sync {
    /// Creates a file that must not exist and opens it for reading and writing.
    ///
    /// # Errors
    /// [`Error::Exists`](crate::base::Error::Exists) if the name is taken.
    fn create_new(&self, name: &str) -> Result<Arc<dyn DiskFile>>;

    /// Opens an existing file.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::base::Error::NotFound) if there is none.
    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn DiskFile>>;

    /// Renames a file over another one or to a new name.
    ///
    /// # Errors
    /// As described for the trait.
    fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::base::Error::NotFound) if there is none.
    fn remove(&self, name: &str) -> Result<()>;

    /// Creates a directory; one that exists already is left as it is.
    ///
    /// # Errors
    /// As described for the trait.
    fn create_dir(&self, name: &str) -> Result<()>;

    /// Names of the entries of a directory, sorted.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::base::Error::NotFound) if there is no such directory.
    fn list(&self, dir: &str) -> Result<Vec<String>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As described for the trait.
    fn sync_dir(&self, dir: &str) -> Result<()>;

    /// Length of a file in bytes; `None` if it does not exist.
    ///
    /// # Errors
    /// As described for the trait.
    fn len(&self, name: &str) -> Result<Option<ByteLen>>;

    /// How much room there is.
    ///
    /// # Errors
    /// As described for the trait.
    fn space(&self) -> Result<Space>;

    /// The path that messages name a file by.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file. Offsets are the caller's; there is no file position.
pub trait DiskFile: Send + Sync {
    /// Reads into `buf` from `off` until it is full or the file ends, and returns how many bytes came.
    ///
    /// # Errors
    /// [`Error::Io`](crate::base::Error::Io) that names the file and the offset.
    fn read_at(&self, off: PackOff, buf: &mut [u8]) -> Result<usize>;

    /// Writes all of `buf` at `off`.
    ///
    /// # Errors
    /// [`Error::NoSpace`](crate::base::Error::NoSpace) or [`Error::Io`](crate::base::Error::Io). How
    /// much of `buf` was written is then unknown.
    fn write_at(&self, off: PackOff, buf: &[u8]) -> Result<()>;

    /// Makes what was written durable, the file's length included.
    ///
    /// # Errors
    /// As [`DiskFile::write_at`]. After an error nothing may be concluded from a later success: the
    /// system may have dropped the pages.
    fn sync_data(&self) -> Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// [`Error::Io`](crate::base::Error::Io) that names the file.
    fn len(&self) -> Result<ByteLen>;

    /// Lets the system forget what it has cached of the file, so that the next reads ask the medium. A hint.
    fn drop_cached(&self) {}

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As [`DiskFile::len`].
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == ByteLen::from_raw(0))
    }
}
