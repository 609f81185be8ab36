//! Open, read, write, fsync, lseek, release.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::{ByteLen, ChunkId, Error, FileOff, Ino, Result, Timestamp, Verified};
use crate::chunk::ChunkBytes;
use crate::engine::handles::Target;
use crate::engine::inode::{Inode, State};
use crate::engine::layer::{Layer, Piece};
use crate::engine::ops::attr::{resize, without_suid};
use crate::engine::types::{Caller, FileKind, Handle, OpenHow, Seek, WriteHow};
use crate::engine::{AtimePolicy, Engine, extents};
use crate::format::rows::{ExtentRow, FLAG_APPEND, FLAG_IMMUTABLE, FLAG_NOATIME, Kind};

/// What a range of a file shows, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Zeros.
    Hole,
    /// Bytes in a layer: not on disk yet.
    Dirty,
    /// Bytes of a chunk from this offset on.
    Chunk(ChunkId, u32),
}

const DAY: i64 = 24 * 60 * 60;

impl Engine {
    /// Opens a file. The kernel has checked the permissions.
    ///
    /// # Errors
    /// [`Error::IsDirectory`], [`Error::NotPermitted`] for writing to an immutable file or truncating an
    /// append-only one, [`Error::ReadOnly`].
    pub fn open_file(&self, ino: Ino, how: OpenHow) -> Result<Handle> {
        if self.is_virtual(ino) {
            if how.write || how.truncate {
                return Err(Error::ReadOnly("snapshots cannot be changed"));
            }
            self.getattr(ino)?;
            return Ok(self.handles.open(Target::Virtual(ino), how));
        }
        if how.write || how.truncate {
            self.check_writable()?;
        }
        let inode = self.inode(ino)?;
        let mut guard = inode.write();
        if guard.gone {
            return Err(Error::Stale);
        }
        let flags = guard.row.attrs.flags;
        // What the kernel opens itself, as fifos, or never opens, as symbolic links, holds no bytes.
        Self::check_file(guard.row.attrs.kind)?;
        if how.write && flags & FLAG_IMMUTABLE != 0 {
            return Err(Error::NotPermitted("immutable"));
        }
        if how.write && flags & FLAG_APPEND != 0 && (!how.append || how.truncate) {
            return Err(Error::NotPermitted("append-only"));
        }
        if how.truncate {
            let now = self.env.now();
            let mut change = self.change();
            resize(&change, &inode, &mut guard, 0, now);
            change.put_inode(&inode, &guard);
            change.apply();
        }
        Ok(self.handles.open(Target::Live(Arc::clone(&inode)), how))
    }

    /// Closes a handle; an inode without names goes with its last one.
    ///
    /// # Errors
    /// [`Error::Stale`] for an unknown handle.
    pub fn release(&self, handle: Handle) -> Result<()> {
        if let Some(inode) = self.handles.close(handle)? {
            self.reap_closed(&inode);
        }
        Ok(())
    }

    /// Called at each `close(2)`.
    ///
    /// # Errors
    /// None at present: nothing that was accepted is ever dropped, so there is no late error to tell.
    pub fn flush(&self, handle: Handle) -> Result<()> {
        self.handles.get(handle).map(|_| ())
    }

    /// Appends up to `len` bytes of the file from `off` on to `sink`; fewer at its end.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and other damage, never wrong bytes (I3); then `sink` is as before.
    pub fn read(&self, handle: Handle, off: FileOff, len: usize, sink: &mut Vec<u8>) -> Result<()> {
        let open = self.handles.get(handle)?;
        let inode = match &open.target {
            Target::Virtual(ino) => return self.virtual_read(*ino, off, len, sink),
            Target::Live(inode) => inode,
        };
        let before = sink.len();
        let touch = {
            let state = inode.state.read();
            let size = state.row.attrs.size;
            let end = off.raw().saturating_add(len as u64).min(size);
            if off.raw() >= end {
                return Ok(());
            }
            let range = off.raw()..end;
            let sequential =
                open.read_end.swap(end, Ordering::Relaxed) == range.start && range.start > 0;
            if let Err(error) = self.read_range(inode, range, sink) {
                sink.truncate(before);
                return Err(self.name_damage(inode.ino, error));
            }
            // What was asked for is there: an error of what comes later shows when that is asked for.
            if sequential && let Err(error) = self.read_ahead(inode, end..size) {
                log::debug!("no read-ahead of inode {}: {error}", inode.ino);
            }
            self.atime_is_due(&state, self.env.now())
        };
        if touch {
            self.touch_atime(inode)?;
        }
        Ok(())
    }

    /// Reads a range that lies within the file; the caller holds the inode's lock.
    pub(crate) fn read_range(
        &self,
        inode: &Inode,
        range: Range<u64>,
        sink: &mut Vec<u8>,
    ) -> Result<()> {
        let base = sink.len();
        let len = usize::try_from(range.end - range.start).map_err(|_| Error::FileTooLarge)?;
        sink.resize(base + len, 0);
        let mut stored: Vec<(u64, u64, ChunkId, u32)> = Vec::new();
        let mut below: Vec<Range<u64>> = Vec::new();
        {
            let layers = inode.layers.lock();
            let mut gaps = vec![range.clone()];
            for layer in [Some(&layers.active), layers.frozen.as_deref()]
                .into_iter()
                .flatten()
            {
                let mut rest = Vec::new();
                for gap in gaps {
                    fill_from_layer(layer, gap, &range, sink, base, &mut stored, &mut rest);
                }
                gaps = rest;
            }
            below.append(&mut gaps);
        }
        for gap in below {
            for (off, extent) in extents::clipped(self.index().as_ref(), inode.ino, gap)? {
                stored.push((off, u64::from(extent.len), extent.chunk, extent.chunk_off));
            }
        }
        for (off, len, id, chunk_off) in stored {
            let bytes = self.store.get(&id)?;
            let (from, to) = part(&bytes, chunk_off, len)?;
            let at = base + usize::try_from(off - range.start).map_err(|_| Error::FileTooLarge)?;
            let out = sink
                .get_mut(at..at + (to - from))
                .ok_or(Error::Internal("read out of range"))?;
            out.copy_from_slice(
                bytes
                    .get(from..to)
                    .ok_or(Error::Internal("chunk out of range"))?,
            );
        }
        Ok(())
    }

    /// Starts decoding what a sequential reader will ask for next.
    fn read_ahead(&self, inode: &Inode, range: Range<u64>) -> Result<()> {
        const WINDOW: u64 = 2 << 20;
        let range = range.start..range.end.min(range.start + WINDOW);
        if range.is_empty() {
            return Ok(());
        }
        let ids = extents::clipped(self.index().as_ref(), inode.ino, range)?;
        self.store
            .prefetch(ids.into_iter().map(|(_, extent)| extent.chunk).collect());
        Ok(())
    }

    fn atime_is_due(&self, state: &State, now: Timestamp) -> bool {
        let attrs = &state.row.attrs;
        if self.config.read_only || attrs.flags & FLAG_NOATIME != 0 {
            return false;
        }
        match self.config.atime {
            AtimePolicy::Noatime => false,
            AtimePolicy::Strict => true,
            AtimePolicy::Relatime => {
                attrs.atime <= attrs.mtime
                    || attrs.atime <= attrs.ctime
                    || now.secs - attrs.atime.secs >= DAY
            }
        }
    }

    fn touch_atime(&self, inode: &Arc<Inode>) -> Result<()> {
        if self.check_writable().is_err() {
            return Ok(());
        }
        let mut guard = inode.write();
        let now = self.env.now();
        if !guard.gone && self.atime_is_due(&guard, now) {
            let mut change = self.change();
            guard.row.attrs.atime = now;
            change.put_inode(inode, &guard);
            change.apply();
        }
        Ok(())
    }

    /// Writes `data` at `off`; returns the length.
    ///
    /// # Errors
    /// [`Error::NoSpace`] before anything is accepted, [`Error::FileTooLarge`], [`Error::NotPermitted`].
    pub fn write(
        &self,
        _caller: &Caller,
        handle: Handle,
        off: FileOff,
        data: &[u8],
        how: WriteHow,
    ) -> Result<usize> {
        let (inode, open) = self.handles.live(handle)?;
        self.check_writable()?;
        if data.is_empty() {
            // write(2): nothing happens, whatever the offset. A layer has no piece without length.
            return Ok(0);
        }
        self.throttle()?;
        self.reserve(data.len() as u64)?;
        {
            let mut guard = inode.write();
            if guard.gone {
                return Err(Error::Stale);
            }
            if guard.row.attrs.flags & FLAG_IMMUTABLE != 0 && !how.cached {
                return Err(Error::NotPermitted("immutable"));
            }
            // The kernel has chosen the offset of an append: with its cache ahead of us, it alone knows the size.
            let size = guard.row.attrs.size;
            // A page from the cache may begin before the end that was appended to.
            if guard.row.attrs.flags & FLAG_APPEND != 0 && off.raw() < size && !how.cached {
                return Err(Error::NotPermitted("append-only"));
            }
            let end = off.end(ByteLen::from_raw(data.len() as u64))?;
            let drop_capability = how.kill_suid
                && self
                    .xattr_row(inode.ino, &guard, b"security.capability")?
                    .is_some();
            let now = self.env.now();
            let mut change = self.change();
            change.write(&inode, off.raw(), data);
            guard.row.attrs.size = size.max(end.raw());
            if !how.cached {
                guard.row.attrs.mtime = now;
                guard.row.attrs.ctime = now;
            }
            if how.kill_suid {
                guard.row.attrs.mode = without_suid(guard.row.attrs.mode);
            }
            if drop_capability {
                change.set_xattr(inode.ino, b"security.capability", None);
            }
            change.put_inode(&inode, &guard);
            change.apply();
        }
        if open.how.sync {
            self.commit()?;
        }
        Ok(data.len())
    }

    /// Makes a file durable: its bytes, its attributes and its names.
    ///
    /// # Errors
    /// The error of the commit. A failed one is never reported as success later (D1). [`Error::Halted`] once the
    /// store has halted.
    pub fn fsync(&self, handle: Handle, _data_only: bool) -> Result<()> {
        let open = self.handles.get(handle)?;
        match &open.target {
            Target::Virtual(_) => Ok(()),
            Target::Live(inode) => {
                // Bug: bytes that were refused since the store had halted were gone from the kernel's cache after the
                // fsync that failed, and the next one succeeded, since the engine had not seen a change.
                if let Some(why) = self.halted() {
                    return Err(Error::Halted(why));
                }
                // Taking the lock waits for a change of the inode that is being made.
                let changed = {
                    let _state = inode.state.read();
                    inode.changed.load(Ordering::Acquire)
                };
                if changed <= self.inodes.committed.load(Ordering::Acquire) {
                    return Ok(());
                }
                self.commit_through(changed)
            }
        }
    }

    /// The next data or hole at or after `off`.
    ///
    /// # Errors
    /// [`Error::PastEnd`] if there is none before the end of the file.
    pub fn lseek(&self, handle: Handle, off: FileOff, seek: Seek) -> Result<FileOff> {
        let open = self.handles.get(handle)?;
        let inode = match &open.target {
            Target::Virtual(ino) => return self.virtual_lseek(*ino, off, seek),
            Target::Live(inode) => inode,
        };
        let state = inode.state.read();
        let size = state.row.attrs.size;
        if off.raw() >= size {
            return Err(Error::PastEnd);
        }
        let mut found = None;
        self.map_range(inode, off.raw()..size, &mut |at, _, source| {
            let hit = matches!(source, Source::Hole) == matches!(seek, Seek::Hole);
            if hit {
                found = Some(FileOff::from_raw(at));
            }
            Ok(!hit)
        })?;
        match (found, seek) {
            (Some(at), _) => Ok(at),
            // The end of a file counts as a hole.
            (None, Seek::Hole) => Ok(FileOff::from_raw(size)),
            (None, Seek::Data) => Err(Error::PastEnd),
        }
    }

    /// Calls `each(offset, length, source)` for the parts of a range, ascending and without gaps, until it
    /// returns `false`; the caller holds the inode's lock.
    pub(crate) fn map_range(
        &self,
        inode: &Inode,
        range: Range<u64>,
        each: &mut dyn FnMut(u64, u64, Source) -> Result<bool>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            // One step: the part of a layer that covers `at`, or what is below up to where a layer begins.
            let mut limit = range.end;
            let mut covered = None;
            {
                let layers = inode.layers.lock();
                for layer in [Some(&layers.active), layers.frozen.as_deref()]
                    .into_iter()
                    .flatten()
                {
                    let Some((off, piece)) = layer.overlapping(at..limit).next() else {
                        continue;
                    };
                    if off > at {
                        limit = off;
                        continue;
                    }
                    let end = (off + piece.len()).min(limit);
                    let source = match piece {
                        Piece::Data(_) => Source::Dirty,
                        Piece::Hole(_) => Source::Hole,
                        // The offset within a chunk is below the chunk's length, a u32.
                        Piece::Chunk { id, off: o, .. } => Source::Chunk(
                            *id,
                            o.saturating_add(u32::try_from(at - off).unwrap_or(u32::MAX)),
                        ),
                    };
                    covered = Some((end, source));
                    break;
                }
            }
            if let Some((end, source)) = covered {
                if !each(at, end - at, source)? {
                    return Ok(());
                }
                at = end;
                continue;
            }
            let mut stop = false;
            extents::for_each_overlapping(
                self.index().as_ref(),
                inode.ino,
                at..limit,
                &mut |off, extent| {
                    if off + u64::from(extent.len) <= at {
                        return Ok(true);
                    }
                    let (off, extent) = extents::clip(off, extent, &(at..limit));
                    if off > at && !each(at, off - at, Source::Hole)? {
                        stop = true;
                        return Ok(false);
                    }
                    at = off + u64::from(extent.len);
                    stop = !each(
                        off,
                        u64::from(extent.len),
                        Source::Chunk(extent.chunk, extent.chunk_off),
                    )?;
                    Ok(!stop)
                },
            )?;
            if stop {
                return Ok(());
            }
            if at < limit {
                if !each(at, limit - at, Source::Hole)? {
                    return Ok(());
                }
                at = limit;
            }
        }
        Ok(())
    }

    /// Adds the path of a file to an error that says that its bytes are damaged, and logs it.
    pub(crate) fn name_damage(&self, ino: Ino, error: Error) -> Error {
        if error.is_damage() {
            let path = self.path_of(ino).unwrap_or_else(|| format!("inode {ino}"));
            log::error!("cannot read {path}: {error}");
        }
        error
    }

    /// Fails if the kind of an inode is not a regular file's.
    pub(crate) fn check_file(kind: Kind) -> Result<()> {
        match kind {
            Kind::File => Ok(()),
            Kind::Dir => Err(Error::IsDirectory),
            _ => Err(Error::Invalid("not a regular file")),
        }
    }

    /// Whether an inode is a directory.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn is_dir(&self, ino: Ino) -> Result<bool> {
        Ok(self.getattr(ino)?.kind == FileKind::Dir)
    }
}

/// The part of a chunk that an extent shows, checked against the chunk's length.
pub(crate) fn part(bytes: &Verified<ChunkBytes>, off: u32, len: u64) -> Result<(usize, usize)> {
    let from = off as usize;
    let to = usize::try_from(len)
        .ok()
        .and_then(|len| from.checked_add(len));
    match to {
        Some(to) if to <= bytes.len() => Ok((from, to)),
        _ => Err(Error::Malformed {
            what: "extent",
            detail: "it reaches beyond its chunk",
        }),
    }
}

/// Copies what `layer` has of `gap` into the output, notes chunk references, and lists what it has not.
fn fill_from_layer(
    layer: &Layer,
    gap: Range<u64>,
    range: &Range<u64>,
    sink: &mut [u8],
    base: usize,
    stored: &mut Vec<(u64, u64, ChunkId, u32)>,
    rest: &mut Vec<Range<u64>>,
) {
    let mut at = gap.start;
    for (off, piece) in layer.overlapping(gap.clone()) {
        let (from, to) = (off.max(gap.start), (off + piece.len()).min(gap.end));
        if from > at {
            rest.push(at..from);
        }
        at = to;
        let skip = from - off;
        match piece {
            Piece::Data(bytes) => {
                let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                let source = bytes.get(place(skip)..place(to - off));
                let target =
                    sink.get_mut(base + place(from - range.start)..base + place(to - range.start));
                if let (Some(target), Some(source)) = (target, source) {
                    target.copy_from_slice(source);
                }
            }
            Piece::Hole(_) => {}
            Piece::Chunk {
                id, off: chunk_off, ..
            } => {
                let skip = u32::try_from(skip).unwrap_or(u32::MAX);
                stored.push((from, to - from, *id, chunk_off.saturating_add(skip)));
            }
        }
    }
    if at < gap.end {
        rest.push(at..gap.end);
    }
}

/// An extent as a piece of a layer.
pub(crate) fn piece_of(extent: &ExtentRow) -> Piece {
    Piece::Chunk {
        id: extent.chunk,
        off: extent.chunk_off,
        len: extent.len,
    }
}
