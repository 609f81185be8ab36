//! Facts: paths of inodes, how files are stored, statistics of the store.

use std::collections::BTreeSet;

use super::Engine;
use super::extents;
use super::types::{FileFacts, Stats};
use crate::base::limits::PATH_DEPTH_MAX;
use crate::base::{Ino, Result};
use crate::format::keys;
use crate::format::rows::{ChunkRow, DirentRow, ExtentRow, InodeRow, Kind, Table};
use crate::meta::{Rows, for_each_row};

/// One path of an inode among `rows`, for messages; `None` if it has none that leads to the root.
pub(crate) fn path_in(rows: &impl Rows, ino: Ino) -> Option<String> {
    let mut parts = Vec::new();
    let mut at = ino;
    // Damaged rows may hold a loop: after its length at most, it meets the place marked at the last power of two.
    let mut mark = None;
    while at != Ino::ROOT {
        if parts.len() >= PATH_DEPTH_MAX || mark == Some(at) {
            return None;
        }
        if parts.len().is_power_of_two() {
            mark = Some(at);
        }
        let (from, to) = keys::ino_range(at);
        let (key, _) = rows.scan(Table::Link, &from, &to, 1).ok()?.pop()?;
        let (_, dir, slot) = keys::parse_link(&key).ok()?;
        let row = rows.get(Table::Dirent, &keys::dirent(dir, slot)).ok()??;
        parts.push(String::from_utf8_lossy(&DirentRow::decode(&row).ok()?.name).into_owned());
        at = dir;
    }
    parts.reverse();
    Some(format!("/{}", parts.join("/")))
}

impl Engine {
    /// One path of an inode of the live tree, for messages; `None` if it has none.
    pub(crate) fn path_of(&self, ino: Ino) -> Option<String> {
        path_in(&self.live, ino)
    }

    /// How a file is stored.
    ///
    /// # Errors
    /// [`crate::base::Error::Invalid`] for what is not a regular file, and those of reading frame headers.
    pub fn file_facts(&self, ino: Ino) -> Result<FileFacts> {
        let (size, found) = if self.is_virtual(ino) {
            let entry = self.snapshot_entry(ino)?;
            Self::check_file(entry.attrs.kind)?;
            (
                entry.attrs.size,
                self.tree().extents(&entry, 0..entry.attrs.size)?,
            )
        } else {
            let inode = self.inode(ino)?;
            let size = {
                let state = inode.state.read();
                Self::check_file(state.row.attrs.kind)?;
                state.row.attrs.size
            };
            (size, extents::clipped(self.index().as_ref(), ino, 0..size)?)
        };
        self.facts_of(size, &found)
    }

    fn facts_of(&self, size: u64, found: &[(u64, ExtentRow)]) -> Result<FileFacts> {
        let mut facts = FileFacts {
            size,
            extents: found.len() as u64,
            ..FileFacts::default()
        };
        let mut codecs = BTreeSet::new();
        let chunks: BTreeSet<_> = found.iter().map(|(_, extent)| extent.chunk).collect();
        facts.chunks = chunks.len() as u64;
        for id in chunks {
            let Some(row) = self.index().get(Table::Chunk, &keys::chunk(&id))? else {
                continue;
            };
            let row = ChunkRow::decode(&row)?;
            let (codec, raw_len) = self.store.frame_facts(&row)?;
            facts.stored += u64::from(row.frame_len) * u64::from(row.len) / raw_len.max(1);
            codecs.insert(codec.name().to_owned());
        }
        facts.codecs = codecs.into_iter().collect();
        Ok(facts)
    }

    /// Statistics of the store and the live tree. Reads all inode and chunk rows.
    ///
    /// # Errors
    /// Those of the index.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats {
            store_id: self.superblock.store.to_hex(),
            format_version: self.superblock.format_version,
            pack_bytes: self.store.used_bytes()?,
            packs: self.store.packs()?.len() as u64,
            index_bytes: crate::disk::files_len(&self.path.join("index"))?,
            snapshots: self.snapshot_rows()?.len() as u64,
            dirty_bytes: self.dirty_bytes.load(std::sync::atomic::Ordering::Relaxed),
            space: *self.cleaning.space.lock(),
            parity: self.parity_stats()?,
            ..Stats::default()
        };
        for_each_row(
            &self.live,
            Table::Inode,
            &[],
            &[0xff; 9],
            &mut |_, value| {
                let row = InodeRow::decode(value)?;
                stats.inodes += 1;
                if row.attrs.kind == Kind::File {
                    stats.logical_bytes = stats.logical_bytes.saturating_add(row.attrs.size);
                }
                Ok(true)
            },
        )?;
        for_each_row(
            self.index().as_ref(),
            Table::Chunk,
            &[],
            &[0xff; 33],
            &mut |_, value| {
                stats.chunks += 1;
                stats.chunk_bytes += u64::from(ChunkRow::decode(value)?.len);
                Ok(true)
            },
        )?;
        if let Some(mark) = self.index().watermark()? {
            stats.lsn = crate::chunk::Watermark::decode(&mark)?.lsn.raw();
        }
        Ok(stats)
    }
}
