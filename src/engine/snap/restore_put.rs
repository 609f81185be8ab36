//! Writing one entry of a snapshot that is not a directory.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::entry::hash_file;
use super::restore::{Job, Restore};
use super::tree::read_extents;
use crate::base::limits::{SEGMENT_LEN, SUBTREE_LEN};
use crate::base::{ByteLen, Digest, Error, Result};
use crate::disk::{PlainDir, PlainFacts, PlainFile, PlainKind, PlainMeta, PlainNode};
use crate::engine::extents::clip;
use crate::format::node::{Body, Entry};
use crate::format::rows::{ExtentRow, Kind};
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
                self.set_meta(&dir.node(&entry.name)?, entry)?;
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
                let found = self.write(&node, entry)?;
                if found != entry.content {
                    return Err(Error::SeedMismatch {
                        expected: entry.content.to_hex(),
                        found: found.to_hex(),
                    });
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
        self.set_meta(&node, entry)?;
        drop(node);
        self.publish(&mut temporary, &entry.name)?;
        Ok(true)
    }

    /// Makes a further name of what `name` in `from` names; `false` if that could not be made.
    pub(super) fn put_link(&self, job: &Job, from: &PlainDir, name: &[u8]) -> Result<bool> {
        let (dir, entry) = (&*job.dir, &job.entry);
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

    pub(super) fn set_meta(&self, node: &PlainNode, entry: &Entry) -> Result<()> {
        let attrs = &entry.attrs;
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
        // A file with another name somewhere is not ours to change.
        if found.link_count > 1 && entry.nlink < 2 {
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

    /// Writes the bytes of a file; returns the digest of what was handed to the disk.
    fn write(&self, node: &PlainNode, entry: &Entry) -> Result<Digest> {
        let size = entry.attrs.size;
        node.set_len(size)?;
        let mut hasher = FileHasher::new();
        for idx in self.tree.segments(entry)? {
            let start = idx.saturating_mul(SEGMENT_LEN);
            if start >= size {
                break;
            }
            let end = (start + SEGMENT_LEN).min(size);
            let hole = start - hasher.len().raw();
            hasher.push_zeros(ByteLen::from_raw(hole));
            let extents = self.tree.extents(entry, start..end)?;
            let parts: Vec<Digest> = (0..(end - start).div_ceil(SUBTREE_LEN))
                .into_par_iter()
                .map(|n| {
                    let at = start + n * SUBTREE_LEN;
                    self.write_part(node, &extents, at..(at + SUBTREE_LEN).min(end))
                })
                .collect::<Result<_>>()?;
            hasher.push_subtree(ByteLen::from_raw(end - start), hash::join_subtrees(&parts));
            self.count(0, hole + (end - start));
        }
        let tail = size.saturating_sub(hasher.len().raw());
        hasher.push_zeros(ByteLen::from_raw(tail));
        self.count(0, tail);
        hasher.finish(ByteLen::from_raw(size))
    }

    /// Writes the data of at most 1 MiB, and leaves its holes; returns the digest of the whole.
    fn write_part(
        &self,
        node: &PlainNode,
        extents: &[(u64, ExtentRow)],
        part: Range<u64>,
    ) -> Result<Digest> {
        let extents: Vec<(u64, ExtentRow)> = extents
            .iter()
            .filter(|(off, e)| *off < part.end && off + u64::from(e.len) > part.start)
            .map(|(off, e)| clip(*off, *e, &part))
            .collect();
        if extents.is_empty() {
            return Ok(hash::zero_subtree(ByteLen::from_raw(part.end - part.start)));
        }
        let mut bytes = Vec::new();
        read_extents(self.tree.store, &extents, part.clone(), &mut bytes)?;
        for run in runs(&extents) {
            let at = |off: u64| usize::try_from(off - part.start).unwrap_or(usize::MAX);
            let data = bytes
                .get(at(run.start)..at(run.end))
                .ok_or(Error::Internal("an extent outside of its part"))?;
            node.write_at(data, run.start)?;
        }
        Ok(hash::subtree_digest(&bytes))
    }
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
