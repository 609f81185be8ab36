//! Which chunks lie in damaged places, and which paths of the live tree and of snapshots need them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::ops::Range;

use super::Engine;
use super::facts::path_in;
use super::snap::{self, Tree};
use crate::base::limits::{CHECK_DAMAGED_MAX, PROBLEM_PATHS_MAX};
use crate::base::{ChunkId, Ino, PackId, Result};
use crate::format::keys;
use crate::format::rows::{ChunkRow, DirentRow, ExtentRow, SnapshotRow, Table};
use crate::meta::{Rows, View, for_each_row};

/// Where frames of a pack may be damaged.
#[derive(Clone, Debug)]
pub(super) enum Suspect {
    /// In these bytes, ascending and not touching.
    Within(Vec<Range<u64>>),
    /// As [`Suspect::Within`], and parity was found not to suffice for them.
    BeyondRepair(Vec<Range<u64>>),
    /// Everywhere but at these offsets, where frames verify.
    AllBut(HashSet<u64>),
}

/// What is lost of suspected packs.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Chunks and nodes that cannot be read, with the pack they were in.
    pub(super) chunks: HashMap<ChunkId, PackId>,
    /// Frames that cannot be read.
    pub(super) frames: BTreeMap<PackId, BTreeMap<u64, u64>>,
}

impl Suspect {
    /// The bytes that are known to be damaged, as far as they are.
    pub(super) fn ranges(&self) -> &[Range<u64>] {
        match self {
            Self::Within(ranges) | Self::BeyondRepair(ranges) => ranges,
            Self::AllBut(_) => &[],
        }
    }

    fn may_hold(&self, frame: &Range<u64>) -> bool {
        match self {
            Self::Within(ranges) | Self::BeyondRepair(ranges) => {
                let next = ranges.partition_point(|range| range.end <= frame.start);
                ranges
                    .get(next)
                    .is_some_and(|range| range.start < frame.end)
            }
            Self::AllBut(sound) => !sound.contains(&frame.start),
        }
    }
}

/// All paths of an inode, at most [`PROBLEM_PATHS_MAX`]; its number if it has none.
pub(super) fn names_of(rows: &impl Rows, ino: Ino) -> Result<Vec<String>> {
    let (from, to) = keys::ino_range(ino);
    let mut names = Vec::new();
    for_each_row(rows, Table::Link, &from, &to, &mut |key, _| {
        let (_, dir, slot) = keys::parse_link(key)?;
        let entry = rows.get(Table::Dirent, &keys::dirent(dir, slot))?;
        if let Some(entry) = entry.and_then(|row| DirentRow::decode(&row).ok()) {
            let dir = path_in(rows, dir).unwrap_or_else(|| format!("inode {dir}"));
            let name = String::from_utf8_lossy(&entry.name);
            names.push(format!("{}/{name}", dir.trim_end_matches('/')));
        }
        Ok(names.len() < PROBLEM_PATHS_MAX)
    })?;
    if names.is_empty() {
        names.push(format!("inode {ino}"));
    }
    Ok(names)
}

/// Calls `each(place, path)` for the paths of a snapshot that need one of `chunks`.
pub(super) fn paths_in_snapshot<P: Copy + Ord>(
    tree: &Tree<'_>,
    row: &SnapshotRow,
    chunks: &HashMap<ChunkId, P>,
    each: &mut dyn FnMut(P, &[u8]),
) {
    snap::for_each_id(tree, row, &mut |path, ids| {
        let mut places: BTreeSet<P> = BTreeSet::new();
        places.extend(ids.iter().filter_map(|id| chunks.get(id)));
        for place in places {
            each(place, path);
        }
    });
}

impl Engine {
    /// The chunks of suspected packs whose frames cannot be read; each suspected frame is read once.
    ///
    /// # Errors
    /// Those of the index.
    pub(super) fn lost_chunks(
        &self,
        view: &View<'_>,
        suspects: &BTreeMap<PackId, Suspect>,
    ) -> Result<Lost> {
        let mut lost = Lost::default();
        if suspects.is_empty() {
            return Ok(lost);
        }
        // Whether a frame can be read. Chunks of a frame have rows far apart.
        let mut tried: HashMap<(PackId, u64), bool> = HashMap::new();
        for_each_row(view, Table::Chunk, &[], &[0xff; 33], &mut |key, value| {
            let Ok(row) = ChunkRow::decode(value) else {
                return Ok(true);
            };
            let start = row.frame.raw();
            let frame = start..start.saturating_add(u64::from(row.frame_len));
            let Some(suspect) = suspects.get(&row.pack) else {
                return Ok(true);
            };
            if !suspect.may_hold(&frame) {
                return Ok(true);
            }
            let bounded = tried.len() < CHECK_DAMAGED_MAX;
            let known = tried.get(&(row.pack, start)).copied();
            let good = known.unwrap_or_else(|| match suspect {
                // Asking parity in vain costs the decoding of as many blocks as the frame has symbols.
                Suspect::BeyondRepair(_) => self.store.is_on_disk(&row),
                Suspect::Within(_) | Suspect::AllBut(_) => self.store.read_frame(&row).is_ok(),
            });
            if bounded {
                tried.insert((row.pack, start), good);
            }
            if !good && lost.chunks.len() < CHECK_DAMAGED_MAX {
                lost.chunks.insert(keys::parse_chunk(key)?, row.pack);
                let frames = lost.frames.entry(row.pack).or_default();
                frames.insert(frame.start, frame.end);
            }
            Ok(true)
        })?;
        Ok(lost)
    }

    /// Calls `each(place, path)` for every path of the live tree and (`snapshot:path`) of the snapshots that needs one
    /// of `chunks`.
    ///
    /// # Errors
    /// Those of the index.
    pub(super) fn paths_that_need<P: Copy + Ord + Hash>(
        &self,
        view: &View<'_>,
        chunks: &HashMap<ChunkId, P>,
        each: &mut dyn FnMut(P, String),
    ) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        let mut inodes: BTreeSet<(Ino, P)> = BTreeSet::new();
        for_each_row(view, Table::Extent, &[], &[0xff; 17], &mut |key, value| {
            let place = ExtentRow::decode(value)
                .ok()
                .and_then(|extent| chunks.get(&extent.chunk));
            if let Some(place) = place
                && inodes.len() < CHECK_DAMAGED_MAX
            {
                inodes.insert((keys::parse_extent(key)?.0, *place));
            }
            Ok(true)
        })?;
        for (ino, place) in inodes {
            for path in names_of(view, ino)? {
                each(place, path);
            }
        }
        let mut rows = Vec::new();
        for_each_row(view, Table::Snapshot, &[], &[0xff; 4], &mut |key, value| {
            if let Ok(row) = SnapshotRow::decode(value) {
                rows.push((keys::parse_snapshot(key)?.to_owned(), row));
            }
            Ok(true)
        })?;
        for (name, row) in rows {
            paths_in_snapshot(&self.tree(), &row, chunks, &mut |place, path| {
                each(place, format!("{name}:/{}", String::from_utf8_lossy(path)));
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_suspected_if_a_damaged_byte_is_in_it() {
        let suspect = Suspect::Within(vec![10..20, 30..31]);
        for (frame, expected) in [
            (0..10, false),
            (0..11, true),
            (19..20, true),
            (20..30, false),
            (20..31, true),
            (31..40, false),
        ] {
            assert_eq!(suspect.may_hold(&frame), expected, "{frame:?}");
        }
    }
}
