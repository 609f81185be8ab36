//! Writing one entry of a snapshot that is not a directory.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::entry::{hash_file, overlapping};
use super::restore::{Job, Restore};
use super::tree::read_extents;
use crate::base::limits::{
    RESTORE_DAMAGED_RANGES_MAX, SALVAGE_RANGES_MAX, SEGMENT_LEN, SUBTREE_LEN,
};
use crate::base::{ByteLen, Digest, Error, Result};
use crate::disk::{PlainDir, PlainFacts, PlainFile, PlainKind, PlainMeta, PlainNode};
use crate::format::node::{Body, Entry};
use crate::format::rows::{ExtentRow, FLAG_APPEND, FLAG_IMMUTABLE, Kind};
use crate::hash::{self, FileHasher};

/// A name in the destination that is there only until what it names is complete.
struct Temporary<'a> {
    dir: &'a PlainDir,
    name: Vec<u8>,
    is_gone: bool,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.is_gone {
            // It may not have been made; what else fails here, the error on the way out tells better.
            let _ = self.dir.unlink(&self.name);
        }
    }
}

impl Restore<'_> {
    /// Writes anything but a directory, unless it is there already and may be kept; `false` if this user
    /// cannot make it.
    pub(super) fn put(&self, job: &Job) -> Result<bool> {
        let (dir, entry) = (&*job.dir, &job.entry);
        if let Some(found) = dir.facts(&entry.name)? {
            if self.options.resume && self.is_same(dir, entry, &found)? {
                self.set_meta(&dir.node(&entry.name)?, job)?;
                self.skipped.fetch_add(1, Ordering::Relaxed);
                return Ok(true);
            }
            self.check_replaceable(&found)?;
        }
        let mut temporary = self.temporary(dir, &entry.name)?;
        let name = temporary.name.clone();
        let node = match &entry.body {
            Body::Inline(_) | Body::File(_) => {
                let node = dir.make_file(&name)?;
                if !self.write_checked(&node, job)? {
                    return Ok(false);
                }
                node
            }
            Body::Symlink(target) => {
                dir.make_symlink(&name, target)?;
                dir.node(&name)?
            }
            Body::Special => {
                let rdev = (entry.attrs.rdev_major, entry.attrs.rdev_minor);
                if !dir.make_special(&name, plain_kind(entry.attrs.kind), rdev)? {
                    let path = dir.path_of(&entry.name);
                    self.warn(vec![format!(
                        "{}: only root may make this device",
                        path.display()
                    )]);
                    return Ok(false);
                }
                dir.node(&name)?
            }
            Body::Dir(_) => return Err(Error::IsDirectory),
        };
        self.set_meta(&node, job)?;
        drop(node);
        self.publish(&mut temporary, &entry.name)?;
        Ok(true)
    }

    /// Makes a further name of what `name` in `from` names; `false` if that could not be made.
    pub(super) fn put_link(&self, job: &Job, from: &PlainDir, name: &[u8]) -> Result<bool> {
        let (dir, entry) = (&*job.dir, &job.entry);
        if job.is_left_out(self) {
            let cause = "another name of a file that cannot be read";
            job.damaged(self, (Vec::new(), 0), cause.to_owned());
            if !self.options.salvage {
                return Ok(false);
            }
        }
        let Some(first) = from.facts(name)? else {
            // A device; the warning is there.
            return Ok(false);
        };
        if let Some(found) = dir.facts(&entry.name)? {
            if found.id == first.id && (self.options.resume || self.options.overwrite) {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                return Ok(true);
            }
            self.check_replaceable(&found)?;
        }
        let mut temporary = self.temporary(dir, &entry.name)?;
        dir.make_link(from, name, &temporary.name)?;
        self.publish(&mut temporary, &entry.name)?;
        Ok(true)
    }

    pub(super) fn set_meta(&self, node: &PlainNode, job: &Job) -> Result<()> {
        let entry = &job.entry;
        let attrs = &entry.attrs;
        if attrs.flags & (FLAG_IMMUTABLE | FLAG_APPEND) != 0 {
            let path = job.path_on_disk();
            self.warn(vec![format!(
                "{}: the flags immutable and append-only are not restored",
                path.display()
            )]);
        }
        let warnings = node.set_meta(&PlainMeta {
            mode: u32::from(attrs.mode),
            uid: attrs.uid,
            gid: attrs.gid,
            atime: attrs.atime,
            mtime: attrs.mtime,
            xattrs: &entry.xattrs,
            // What the destination's default list gave it, for one.
            removes: hash::is_counted_xattr,
        })?;
        self.warn(warnings);
        Ok(())
    }

    fn check_replaceable(&self, found: &PlainFacts) -> Result<()> {
        if !self.options.overwrite {
            Err(Error::Exists)
        } else if found.kind == PlainKind::Directory {
            Err(Error::IsDirectory)
        } else {
            Ok(())
        }
    }

    /// A free temporary name, always the same one for a name: what a killed restore has left goes.
    fn temporary<'d>(&self, dir: &'d PlainDir, name: &[u8]) -> Result<Temporary<'d>> {
        let mut text = String::from(".mmhfs-restore-");
        for byte in hash::name_hash(name).iter().take(8) {
            let _ = write!(text, "{byte:02x}");
        }
        let name = text.into_bytes();
        if let Some(found) = dir.facts(&name)? {
            let may_go = self.options.resume || self.options.overwrite;
            if !may_go || found.kind == PlainKind::Directory {
                return Err(Error::Usage(format!(
                    "{} is in the way: what an earlier restore has left; resume it, or remove this file",
                    dir.path_of(&name).display()
                )));
            }
            dir.unlink(&name)?;
        }
        Ok(Temporary {
            dir,
            name,
            is_gone: false,
        })
    }

    fn publish(&self, temporary: &mut Temporary<'_>, name: &[u8]) -> Result<()> {
        if self.options.overwrite {
            temporary.dir.replace(&temporary.name, name)?;
        } else {
            temporary.dir.publish(&temporary.name, name)?;
        }
        temporary.is_gone = true;
        Ok(())
    }

    /// Whether what is there already is what would be written, attributes aside.
    fn is_same(&self, dir: &PlainDir, entry: &Entry, found: &PlainFacts) -> Result<bool> {
        if found.kind != plain_kind(entry.attrs.kind) {
            return Ok(false);
        }
        // A file with another name somewhere else is not ours to change.
        if found.link_count > u64::from(entry.nlink.max(1)) {
            return Ok(false);
        }
        match &entry.body {
            Body::Inline(_) | Body::File(_) => {
                let facts =
                    found.size_bytes == entry.attrs.size && found.mtime == entry.attrs.mtime;
                Ok(facts
                    && content(&dir.open_file(&entry.name)?, entry.attrs.size)? == entry.content)
            }
            Body::Symlink(target) => Ok(dir.link_target(&entry.name)? == *target),
            Body::Special if entry.attrs.kind.is_device() => {
                let rdev = (entry.attrs.rdev_major, entry.attrs.rdev_minor);
                Ok((found.rdev_major, found.rdev_minor) == rdev)
            }
            Body::Special => Ok(true),
            Body::Dir(_) => Ok(false),
        }
    }

    /// Writes the bytes of a file and compares their digest; `false`, and noted, if they cannot all be read. A salvage
    /// notes it and keeps what there is.
    fn write_checked(&self, node: &PlainNode, job: &Job) -> Result<bool> {
        let entry = &job.entry;
        let bad = Mutex::new(Bad::default());
        let found = self.write(node, entry, &bad)?;
        let mut bad = bad.into_inner();
        if let Some(cause) = bad.cause {
            bad.ranges.sort_by_key(|range| range.start);
            let most = if self.options.salvage {
                SALVAGE_RANGES_MAX
            } else {
                RESTORE_DAMAGED_RANGES_MAX
            };
            let ranges = joined(&bad.ranges, most, self.options.salvage);
            job.damaged(self, ranges, cause);
            return Ok(self.options.salvage);
        }
        if self.source.has_digests() && found != Some(entry.content) {
            let error = Error::SeedMismatch {
                expected: entry.content.to_hex(),
                found: found.map_or_else(String::new, |found| found.to_hex()),
            };
            let whole = 0..entry.attrs.size;
            job.damaged(self, (vec![whole], 0), error.to_string());
            return Ok(self.options.salvage);
        }
        Ok(true)
    }

    /// Writes the bytes of a file; returns the digest of what was handed to the disk, none if something
    /// could not be read.
    fn write(&self, node: &PlainNode, entry: &Entry, bad: &Mutex<Bad>) -> Result<Option<Digest>> {
        let size = entry.attrs.size;
        node.set_len(size)?;
        let mut hasher = FileHasher::new();
        let segments = match self.source.segments(entry) {
            Ok(segments) => segments,
            Err(error) => {
                let whole = self.options.salvage.then_some(0..size);
                bad.lock().add(whole, &error);
                return Ok(None);
            }
        };
        let mut mapped = 0_u64;
        for idx in segments {
            let start = idx.saturating_mul(SEGMENT_LEN);
            if start >= size {
                break;
            }
            let end = (start + SEGMENT_LEN).min(size);
            let hole = start - hasher.len().raw();
            hasher.push_zeros(ByteLen::from_raw(hole));
            let extents = match self.source.extents(entry, start..end) {
                Ok(extents) => extents,
                Err(error) => {
                    bad.lock().add(Some(start..end), &error);
                    Vec::new()
                }
            };
            let lens = extents.iter().map(|(_, extent)| u64::from(extent.len));
            mapped = lens.fold(mapped, u64::saturating_add);
            let parts: Vec<Digest> = (0..(end - start).div_ceil(SUBTREE_LEN))
                .into_par_iter()
                .map(|n| {
                    let at = start + n * SUBTREE_LEN;
                    let part = at..(at + SUBTREE_LEN).min(end);
                    self.write_part(node, &extents, part, bad)
                })
                .collect::<Result<_>>()?;
            hasher.push_subtree(ByteLen::from_raw(end - start), hash::join_subtrees(&parts));
            self.count(0, hole + (end - start));
        }
        if !self.source.has_digests() && mapped != entry.mapped && bad.lock().cause.is_none() {
            bad.lock().cause = Some(format!(
                "{mapped} bytes are mapped, {} were: some of its holes are lost bytes",
                entry.mapped
            ));
        }
        let tail = size.saturating_sub(hasher.len().raw());
        hasher.push_zeros(ByteLen::from_raw(tail));
        self.count(0, tail);
        hasher.finish(ByteLen::from_raw(size)).map(Some)
    }

    /// Writes the data of at most 1 MiB, and leaves its holes; returns the digest of the whole. After
    /// something could not be read it only looks for what else cannot.
    fn write_part(
        &self,
        node: &PlainNode,
        extents: &[(u64, ExtentRow)],
        part: Range<u64>,
        bad: &Mutex<Bad>,
    ) -> Result<Digest> {
        let extents = overlapping(extents.iter().copied(), &part);
        if extents.is_empty() {
            return Ok(hash::zero_subtree(ByteLen::from_raw(part.end - part.start)));
        }
        let mut bytes = Vec::new();
        if read_extents(self.source.store(), &extents, part.clone(), &mut bytes).is_err() {
            let mut none = Vec::new();
            for (off, extent) in &extents {
                let range = *off..off + u64::from(extent.len);
                let one = [(*off, *extent)];
                none.clear();
                match read_extents(self.source.store(), &one, range.clone(), &mut none) {
                    Ok(()) if self.options.salvage => node.write_at(&none, *off)?,
                    Ok(()) => {}
                    Err(error) => bad.lock().add(Some(range), &error),
                }
            }
            return Ok(hash::zero_subtree(ByteLen::from_raw(part.end - part.start)));
        }
        if self.options.salvage || bad.lock().cause.is_none() {
            for run in runs(&extents) {
                let at = |off: u64| usize::try_from(off - part.start).unwrap_or(usize::MAX);
                let data = bytes
                    .get(at(run.start)..at(run.end))
                    .ok_or(Error::Internal("an extent outside of its part"))?;
                node.write_at(data, run.start)?;
            }
        }
        Ok(hash::subtree_digest(&bytes))
    }
}

/// What of a file cannot be read.
#[derive(Default)]
struct Bad {
    ranges: Vec<Range<u64>>,
    /// Set as soon as there is anything.
    cause: Option<String>,
}

impl Bad {
    fn add(&mut self, range: Option<Range<u64>>, error: &Error) {
        self.cause.get_or_insert_with(|| error.to_string());
        self.ranges.extend(range);
    }
}

/// Sorted ranges with neighbours joined, and the number of those beyond `most`: without `exact` none, because the last
/// one takes in those after it.
fn joined(ranges: &[Range<u64>], most: usize, exact: bool) -> (Vec<Range<u64>>, u64) {
    let mut out: Vec<Range<u64>> = Vec::new();
    let mut more = 0;
    for range in ranges {
        let is_full = out.len() >= most;
        match out.last_mut() {
            Some(last) if last.end >= range.start || is_full && !exact => {
                last.end = last.end.max(range.end);
            }
            _ if is_full => more += 1,
            _ => out.push(range.clone()),
        }
    }
    (out, more)
}

/// The ranges that extents cover without a gap.
fn runs(extents: &[(u64, ExtentRow)]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (off, extent) in extents {
        let end = off + u64::from(extent.len);
        match runs.last_mut() {
            Some(last) if last.end == *off => last.end = end,
            _ => runs.push(*off..end),
        }
    }
    runs
}

/// The content digest of a file that is there already.
fn content(file: &PlainFile, size: u64) -> Result<Digest> {
    hash_file(
        size,
        |range, bytes| {
            let len = usize::try_from(range.end - range.start).map_err(|_| Error::FileTooLarge)?;
            bytes.resize(len, 0);
            file.read_exact_at(bytes, range.start)
        },
        |at| Ok(file.next_data(at, size)?.map_or(size, |data| data.start)),
    )
}

fn plain_kind(kind: Kind) -> PlainKind {
    match kind {
        Kind::File => PlainKind::Regular,
        Kind::Dir => PlainKind::Directory,
        Kind::Symlink => PlainKind::Symlink,
        Kind::Fifo => PlainKind::Fifo,
        Kind::Socket => PlainKind::Socket,
        Kind::CharDevice => PlainKind::CharDevice,
        Kind::BlockDevice => PlainKind::BlockDevice,
    }
}
