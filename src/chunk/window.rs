//! Reads a pack from front to back through one buffer.

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::{Error, PackOff, Result};
use crate::disk::DiskFile;

/// Bytes that one read asks for.
const WINDOW_LEN: usize = 1 << 20;

/// A window onto the bytes `..limit` of a file.
pub(super) struct Window {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    limit: u64,
    start: u64,
    buf: Vec<u8>,
}

impl Window {
    /// A window onto the first `limit` bytes of a file, which has that many.
    pub(super) fn new(file: Arc<dyn DiskFile>, path: PathBuf, limit: PackOff) -> Self {
        Self {
            file,
            path,
            limit: limit.raw(),
            start: 0,
            buf: Vec::new(),
        }
    }

    /// End of what can be read.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes `off..off + len`, fewer at the limit. `len` is bounded by the caller.
    ///
    /// # Errors
    /// [`Error::PackTruncated`] if the file has become shorter than the limit; [`Error::Io`].
    pub(super) fn bytes(&mut self, off: u64, len: usize) -> Result<&[u8]> {
        let end = off.saturating_add(len as u64).min(self.limit);
        let held_end = self.start + self.buf.len() as u64;
        if off < self.start || end > held_end {
            self.fill(off, end)?;
        }
        let from = usize::try_from(off - self.start).unwrap_or(usize::MAX);
        let to = usize::try_from(end.saturating_sub(self.start)).unwrap_or(usize::MAX);
        Ok(self.buf.get(from..to).unwrap_or(&[]))
    }

    fn fill(&mut self, off: u64, end: u64) -> Result<()> {
        let most = self.limit.saturating_sub(off);
        let len = end.saturating_sub(off).max(WINDOW_LEN as u64).min(most);
        self.buf.clear();
        self.buf.resize(usize::try_from(len).unwrap_or(0), 0);
        self.start = off;
        let found = self.file.read_at(PackOff::from_raw(off), &mut self.buf)?;
        if found < self.buf.len() {
            self.buf.truncate(found);
            return Err(Error::PackTruncated {
                path: self.path.clone(),
                found_bytes: off + found as u64,
                expected_bytes: off + len,
            });
        }
        Ok(())
    }
}
