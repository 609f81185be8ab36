//! fallocate in all its modes, and copy_file_range, which shares chunks instead of copying.

use std::ops::Range;
use std::sync::Arc;

use crate::base::{ByteLen, Error, FileOff, Result};
use crate::engine::Engine;
use crate::engine::inode::{Inode, Locked};
use crate::engine::layer::Piece;
use crate::engine::ops::io::Source;
use crate::engine::types::{Allocate, Caller, Handle};
use crate::format::rows::{FLAG_APPEND, FLAG_IMMUTABLE};

/// Collapse and insert move whole blocks, as on other filesystems.
const BLOCK: u64 = 4096;

impl Engine {
    /// Changes the allocation of a range.
    ///
    /// Nothing is reserved on disk by [`Allocate::Reserve`]: contents are compressed and shared, so a later
    /// write may still fail for lack of space (docs/semantics.md).
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty or unaligned range, [`Error::FileTooLarge`], [`Error::NoSpace`].
    pub fn fallocate(&self, handle: Handle, off: FileOff, len: u64, how: Allocate) -> Result<()> {
        let (inode, _) = self.handles.live(handle)?;
        self.check_writable()?;
        self.throttle()?;
        if len == 0 {
            return Err(Error::Invalid("length of a range"));
        }
        let end = off.end(ByteLen::from_raw(len))?;
        let range = off.raw()..end.raw();
        let mut guard = inode.write();
        Self::check_file(guard.row.attrs.kind)?;
        let flags = guard.row.attrs.flags;
        if flags & FLAG_IMMUTABLE != 0
            || (flags & FLAG_APPEND != 0 && !matches!(how, Allocate::Reserve { .. }))
        {
            return Err(Error::NotPermitted("immutable or append-only"));
        }
        let size = guard.row.attrs.size;
        if matches!(how, Allocate::Reserve { .. }) {
            self.reserve(range.end.saturating_sub(size.max(range.start)))?;
        }
        let moved = match how {
            Allocate::Collapse => Some(self.collapsed(&inode, &range, size)?),
            Allocate::Insert => Some(self.inserted(&inode, &range, size)?),
            _ => None,
        };
        let now = self.env.now();
        let mut change = self.change();
        let new_size = match how {
            Allocate::Reserve { keep_size: false } | Allocate::Zero { keep_size: false } => {
                size.max(range.end)
            }
            Allocate::Collapse => size - len,
            Allocate::Insert => size + len,
            _ => size,
        };
        match how {
            Allocate::Reserve { .. } => {}
            Allocate::Punch | Allocate::Zero { .. } => change.punch(&inode, range),
            Allocate::Collapse | Allocate::Insert => {
                change.punch(&inode, range.start..FileOff::MAX.raw());
                change.put_pieces(&inode, moved.unwrap_or_default());
            }
        }
        guard.row.attrs.size = new_size;
        guard.row.attrs.mtime = now;
        guard.row.attrs.ctime = now;
        change.put_inode(&inode, &guard);
        change.apply();
        Ok(())
    }

    fn collapsed(
        &self,
        inode: &Arc<Inode>,
        range: &Range<u64>,
        size: u64,
    ) -> Result<Vec<(u64, Piece)>> {
        if !range.start.is_multiple_of(BLOCK)
            || !range.end.is_multiple_of(BLOCK)
            || range.end >= size
        {
            return Err(Error::Invalid("range to collapse"));
        }
        let mut pieces = self.pieces(inode, range.end..size)?;
        for (at, _) in &mut pieces {
            *at -= range.end - range.start;
        }
        Ok(pieces)
    }

    fn inserted(
        &self,
        inode: &Arc<Inode>,
        range: &Range<u64>,
        size: u64,
    ) -> Result<Vec<(u64, Piece)>> {
        let len = range.end - range.start;
        if !range.start.is_multiple_of(BLOCK) || !len.is_multiple_of(BLOCK) || range.start >= size {
            return Err(Error::Invalid("range to insert"));
        }
        if size
            .checked_add(len)
            .is_none_or(|end| end > FileOff::MAX.raw())
        {
            return Err(Error::FileTooLarge);
        }
        let mut pieces = self.pieces(inode, range.start..size)?;
        for (at, _) in &mut pieces {
            *at += len;
        }
        Ok(pieces)
    }

    /// What a range holds, as pieces: references where it is stored, bytes where it is not yet. Holes are
    /// left out.
    fn pieces(&self, inode: &Inode, range: Range<u64>) -> Result<Vec<(u64, Piece)>> {
        let mut parts = Vec::new();
        self.map_range(inode, range, &mut |off, len, source| {
            parts.push((off, len, source));
            Ok(true)
        })?;
        let mut pieces = Vec::new();
        for (off, len, source) in parts {
            match source {
                Source::Hole => {}
                Source::Chunk(id, chunk_off) => {
                    let len = u32::try_from(len)
                        .map_err(|_| Error::Internal("extent longer than 4 GiB"))?;
                    pieces.push((
                        off,
                        Piece::Chunk {
                            id,
                            off: chunk_off,
                            len,
                        },
                    ));
                }
                Source::Dirty => {
                    let mut bytes = Vec::new();
                    self.read_range(inode, off..off + len, &mut bytes)?;
                    pieces.push((off, Piece::Data(bytes)));
                }
            }
        }
        Ok(pieces)
    }

    /// Copies a range by sharing its chunks; returns the length, less than asked for at the end of the source.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the ranges overlap within one file, [`Error::FileTooLarge`], [`Error::Unsupported`]
    /// from a snapshot (the caller then copies bytes).
    pub fn copy_file_range(
        &self,
        _caller: &Caller,
        from: Handle,
        from_off: FileOff,
        to: Handle,
        to_off: FileOff,
        len: u64,
    ) -> Result<u64> {
        let source = match self.handles.live(from) {
            Ok((inode, _)) => inode,
            Err(Error::ReadOnly(_)) => {
                return Err(Error::Unsupported("copy_file_range from a snapshot"));
            }
            Err(other) => return Err(other),
        };
        let (target, _) = self.handles.live(to)?;
        self.check_writable()?;
        self.throttle()?;
        let (source_ino, target_ino) = (source.ino, target.ino);
        let same = source_ino == target_ino;
        let mut locked = Locked::new([Arc::clone(&source), Arc::clone(&target)]);
        let size = {
            let (_, state) = locked.get(source_ino)?;
            Self::check_file(state.row.attrs.kind)?;
            state.row.attrs.size
        };
        Self::check_file(locked.get(target_ino)?.1.row.attrs.kind)?;
        let len = len.min(size.saturating_sub(from_off.raw()));
        if len == 0 {
            return Ok(0);
        }
        let range = from_off.raw()..from_off.raw() + len;
        let end = to_off.end(ByteLen::from_raw(len))?;
        if same && range.start < end.raw() && to_off.raw() < range.end {
            return Err(Error::Invalid("overlapping ranges"));
        }
        if locked.get(target_ino)?.1.row.attrs.flags & FLAG_IMMUTABLE != 0 {
            return Err(Error::NotPermitted("immutable"));
        }
        let mut pieces = self.pieces(&source, range.clone())?;
        // What is not stored yet is copied, and must find room like what is written.
        let copied = pieces
            .iter()
            .filter(|(_, piece)| matches!(piece, Piece::Data(_)));
        let copied: u64 = copied.map(|(_, piece)| piece.len()).sum();
        if copied > 0 {
            self.reserve(copied)?;
        }
        for (at, _) in &mut pieces {
            *at = *at - range.start + to_off.raw();
        }
        let now = self.env.now();
        let mut change = self.change();
        change.punch(&target, to_off.raw()..end.raw());
        change.put_pieces(&target, pieces);
        let (target, state) = locked.get(target_ino)?;
        state.row.attrs.size = state.row.attrs.size.max(end.raw());
        state.row.attrs.mtime = now;
        state.row.attrs.ctime = now;
        change.put_inode(target, state);
        change.apply();
        Ok(len)
    }
}
