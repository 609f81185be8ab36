//! What the kernel caches for us, and how to make it let go.
//!
//! With the writeback cache the kernel holds file bytes that the engine has not seen. It hands them over
//! at fsync, at close and when it likes; there can be such bytes only while a file is open for
//! writing. [`Writers`] counts those files, so that a question about a file's holes and a snapshot can
//! ask for exactly their bytes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;

use super::convert::InoMap;
use crate::base::{Error, Ino, Result};

/// How many times each file is open for writing; files that are not have no entry.
#[derive(Debug, Default)]
pub(super) struct Writers(Mutex<HashMap<Ino, u32>>);

impl Writers {
    /// A file was opened for writing.
    pub(super) fn opened(&self, ino: Ino) {
        *self.0.lock().entry(ino).or_insert(0) += 1;
    }

    /// An open for writing was released: the kernel has handed over its bytes before.
    pub(super) fn released(&self, ino: Ino) {
        let mut open = self.0.lock();
        if let Some(count) = open.get_mut(&ino) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&ino);
            }
        }
    }

    /// Whether the kernel may hold bytes of this file.
    pub(super) fn any(&self, ino: Ino) -> bool {
        self.0.lock().contains_key(&ino)
    }

    fn all(&self) -> Vec<Ino> {
        self.0.lock().keys().copied().collect()
    }
}

#[derive(Debug)]
struct Shared {
    map: InoMap,
    writers: Writers,
    notifier: OnceLock<Notifier>,
}

/// The kernel's caches of one mount: names, attributes, file bytes.
///
/// None of the functions may be called from a thread that answers requests: the kernel may answer
/// only after it has sent requests of its own.
#[derive(Clone, Debug)]
pub struct KernelCache(Arc<Shared>);

impl KernelCache {
    pub(super) fn new(map: InoMap) -> Self {
        Self(Arc::new(Shared {
            map,
            writers: Writers::default(),
            notifier: OnceLock::new(),
        }))
    }

    /// Connects the cache to its session; before that there is nothing cached.
    pub(super) fn connect(&self, notifier: Notifier) {
        // A second session for one adapter does not exist; the first connection stays.
        let _ = self.0.notifier.set(notifier);
    }

    pub(super) fn writers(&self) -> &Writers {
        &self.0.writers
    }

    /// Makes the kernel hand over the bytes of a file that it has not written yet, and forget what it
    /// has cached of the file. When this returns the engine has seen the bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel refuses.
    pub fn collect_file(&self, ino: Ino) -> Result<()> {
        // Offset 0 and length 0: everything. Dirty pages are written and waited for, not dropped.
        self.invalidate(ino, 0)
    }

    /// As [`KernelCache::collect_file`], for every file that is open for writing.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel refuses.
    pub fn collect(&self) -> Result<()> {
        for ino in self.0.writers.all() {
            self.collect_file(ino)?;
        }
        Ok(())
    }

    /// Makes the kernel ask for the attributes of an inode again. The bytes stay cached, and this one
    /// may be called from any thread.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel refuses.
    pub fn forget_attributes(&self, ino: Ino) -> Result<()> {
        // A negative offset stands for "attributes only".
        self.invalidate(ino, -1)
    }

    /// Makes the kernel look a name up again: for changes that did not come from the kernel.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel refuses.
    pub fn forget_name(&self, dir: Ino, name: &[u8]) -> Result<()> {
        let Some(notifier) = self.0.notifier.get() else {
            return Ok(());
        };
        notifier
            .inval_entry(self.kernel_ino(dir), OsStr::from_bytes(name))
            .map_err(|e| Error::io("invalidation of a cached name", e))
    }

    fn invalidate(&self, ino: Ino, from: i64) -> Result<()> {
        let Some(notifier) = self.0.notifier.get() else {
            return Ok(());
        };
        notifier
            .inval_inode(self.kernel_ino(ino), from, 0)
            .map_err(|e| Error::io("invalidation of a cached inode", e))
    }

    fn kernel_ino(&self, ino: Ino) -> INodeNo {
        self.0.map.to_kernel(ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_as_written_until_its_last_writer_has_released_it() {
        let writers = Writers::default();
        let ino = Ino::from_raw(9);
        writers.opened(ino);
        writers.opened(ino);
        writers.released(ino);
        assert!(writers.any(ino));
        writers.released(ino);
        writers.released(ino);
        assert!(!writers.any(ino));
        assert!(writers.all().is_empty());
    }
}
