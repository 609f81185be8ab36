//! One open pack: appends at a tracked offset, one sync, a footer at the end.
//!
//! A write or sync that fails poisons the pack: it is never written or synced again (the system may have
//! dropped the pages, so that a later sync would succeed without them).

use std::sync::Arc;

use super::types::Durable;
use crate::base::{ByteLen, Error, PackId, PackOff, Result};
use crate::disk::DiskFile;
use crate::format::rows::PackKind;
use crate::hash::{Checksum, SpanHasher};

/// Bytes that are collected before they are written, so that small frames and a record are one write.
const BUFFER_LEN: usize = 256 << 10;

/// The end of a pack that is being written.
pub(super) struct PackWriter {
    id: PackId,
    kind: PackKind,
    file: Arc<dyn DiskFile>,
    /// Bytes that are in the file.
    written: u64,
    /// Bytes that follow them.
    buf: Vec<u8>,
    /// Digest of all bytes so far, for the footer.
    digest: SpanHasher,
    poisoned: bool,
}

impl PackWriter {
    /// A writer for a file that was just created and is empty.
    pub(super) fn new(id: PackId, kind: PackKind, file: Arc<dyn DiskFile>) -> Self {
        Self {
            id,
            kind,
            file,
            written: 0,
            buf: Vec::new(),
            digest: SpanHasher::new(Checksum::Pack),
            poisoned: false,
        }
    }

    /// Its id.
    pub(super) fn id(&self) -> PackId {
        self.id
    }

    /// Its kind.
    pub(super) fn kind(&self) -> PackKind {
        self.kind
    }

    /// Where the next byte goes.
    pub(super) fn end(&self) -> PackOff {
        PackOff::from_raw(self.written.saturating_add(self.buf.len() as u64))
    }

    /// Bytes that were handed to the system; ends between two appended pieces.
    pub(super) fn written(&self) -> PackOff {
        PackOff::from_raw(self.written)
    }

    /// Digest of all bytes appended so far.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest.finish()
    }

    fn usable(&self) -> Result<()> {
        if self.poisoned {
            return Err(Error::Internal("a pack is used after a failed write"));
        }
        Ok(())
    }

    /// Runs a disk operation that poisons the pack if it fails.
    fn guard(&mut self, done: Result<()>) -> Result<()> {
        self.poisoned |= done.is_err();
        done
    }

    /// Appends bytes and returns their offset.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<PackOff> {
        self.usable()?;
        let off = self.end();
        self.digest.update(bytes);
        self.buf.extend_from_slice(bytes);
        if self.buf.len() >= BUFFER_LEN {
            self.flush()?;
        }
        Ok(off)
    }

    /// Hands all appended bytes to the system.
    fn flush(&mut self) -> Result<()> {
        if self.buf.is_empty() {
            return Ok(());
        }
        let done = self
            .file
            .write_at(PackOff::from_raw(self.written), &self.buf);
        self.guard(done)?;
        self.written = self.written.saturating_add(self.buf.len() as u64);
        self.buf.clear();
        Ok(())
    }

    /// Makes everything appended so far durable and returns the pack's length.
    ///
    /// # Errors
    /// [`Error::NoSpace`] or [`Error::Io`]; the pack is poisoned then.
    pub(super) fn sync(&mut self) -> Result<Durable<ByteLen>> {
        self.usable()?;
        self.flush()?;
        let done = self.file.sync_data();
        self.guard(done)?;
        Ok(Durable::after_sync(ByteLen::from_raw(self.written)))
    }
}
