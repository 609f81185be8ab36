//! Folding: small overwrites are logged as the small chunks that they are, so that an fsync costs what was
//! written; once a region of a file has come to rest, its many small extents are written anew as whole chunks.
//!
//! A region is noted by the commit that stores a small piece into it, and looked at only if a whole pass has gone by
//! without another one. What is noted is kept in memory alone: after a restart, fragments stay until they are touched.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::Engine;
use super::commit::Frozen;
use super::extents;
use super::inode::Inode;
use super::layer::Piece;
use crate::base::limits::{FOLD_EXTENTS_MIN, FOLD_QUEUE_MAX, FOLD_REGION_LEN};
use crate::base::{FileOff, Ino, Result};
use crate::format::rows::Kind;

/// Regions of files that small pieces were written to: inode and number of the region.
#[derive(Debug, Default)]
pub(crate) struct FoldQueue {
    /// Written since the last pass began.
    young: BTreeSet<(Ino, u64)>,
    /// Not written for a whole pass.
    old: BTreeSet<(Ino, u64)>,
}

impl FoldQueue {
    fn note(&mut self, region: (Ino, u64)) {
        self.old.remove(&region);
        if self.young.len() < FOLD_QUEUE_MAX {
            self.young.insert(region);
        }
    }

    /// The next region at rest; at the end of a pass the young ones grow old.
    fn next(&mut self) -> Option<(Ino, u64)> {
        self.old.pop_first()
    }

    fn end_pass(&mut self) {
        if self.old.is_empty() {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

impl Engine {
    /// Notes where a commit has stored small pieces beside others of the same file.
    pub(super) fn note_small_pieces(&self, frozen: &Frozen) {
        let small = |len: usize| (len as u64) < self.average_len(0);
        for (inode, layer) in &frozen.files {
            let mapped = inode.layers.lock().mapped;
            for (off, piece) in layer.iter() {
                if let Piece::Data(bytes) = piece
                    && small(bytes.len())
                    && (bytes.len() as u64) < mapped
                {
                    self.folds.lock().note((inode.ino, off / FOLD_REGION_LEN));
                }
            }
        }
    }

    /// Looks at up to `limit` regions at rest, and writes those anew that are in more pieces than they need be.
    /// Returns how many it has written; they are durable with the next commit. Nothing that a user sees changes.
    ///
    /// # Errors
    /// Those of reading, with damage, and of a full disk; the region is left as it is.
    pub fn fold(&self, limit: usize) -> Result<usize> {
        let mut folded = 0;
        for _ in 0..limit {
            let Some((ino, region)) = self.folds.lock().next() else {
                break;
            };
            self.check_writable()?;
            self.throttle()?;
            let at = region * FOLD_REGION_LEN;
            // A file that is gone has nothing to fold.
            if let Ok(inode) = self.inode(ino)
                && self.fold_region(&inode, at..at + FOLD_REGION_LEN)?
            {
                folded += 1;
            }
        }
        self.folds.lock().end_pass();
        Ok(folded)
    }

    fn fold_region(&self, inode: &Arc<Inode>, region: Range<u64>) -> Result<bool> {
        // Nobody changes the file while its bytes are read and put back.
        let guard = inode.write();
        if guard.gone || guard.row.attrs.kind != Kind::File {
            return Ok(false);
        }
        // Bug: a commit that was under way took extents out of the index after they had been looked up here; what was
        // read was the hole that it had put, and that came back as zeros. With nothing written, no commit changes them.
        if is_written(inode) {
            self.folds
                .lock()
                .note((inode.ino, region.start / FOLD_REGION_LEN));
            return Ok(false);
        }
        let size = guard.row.attrs.size;
        let mut pieces = Vec::new();
        for (range, extents) in self.runs(inode.ino, region)? {
            let expected = (range.end - range.start) / self.average_len(range.start) + 1;
            if extents < FOLD_EXTENTS_MIN || extents <= 2 * expected || range.end > size {
                continue;
            }
            self.reserve(range.end - range.start)?;
            let mut bytes = Vec::new();
            self.read_range(inode, range.clone(), &mut bytes)?;
            pieces.push((range.start, Piece::Data(bytes)));
        }
        if pieces.is_empty() {
            return Ok(false);
        }
        let change = self.change();
        change.put_pieces(inode, pieces);
        change.apply();
        drop(guard);
        Ok(true)
    }

    /// Ranges without holes that reach into `region`, whole extents, each with the number of its extents.
    fn runs(&self, ino: Ino, region: Range<u64>) -> Result<Vec<(Range<u64>, u64)>> {
        let mut runs: Vec<(Range<u64>, u64)> = Vec::new();
        let index = self.index();
        extents::for_each_overlapping(index.as_ref(), ino, region, &mut |off, extent| {
            let end = off + u64::from(extent.len);
            match runs.last_mut() {
                Some((range, count)) if range.end == off => {
                    range.end = end;
                    *count += 1;
                }
                _ => runs.push((off..end, 1)),
            }
            Ok(true)
        })?;
        Ok(runs)
    }

    /// The average length of the chunks that the chunker makes at `off` of a file, in bytes.
    fn average_len(&self, off: u64) -> u64 {
        let classes = &self.superblock.chunker.classes;
        let off = FileOff::from_raw(off);
        let class = classes.iter().rfind(|class| class.from <= off);
        class.map_or(FOLD_REGION_LEN, |class| u64::from(class.avg_len.max(1)))
    }
}

/// Whether something of a file is not in its extents yet. The caller holds the inode's lock.
fn is_written(inode: &Inode) -> bool {
    let layers = inode.layers.lock();
    !layers.active.is_empty() || layers.frozen.is_some()
}
