//! Changed entries of a directory, some thousands at a time, and the content digests of the small files among them.
//!
//! Entries come in the order of the hashes of their names, which is none on the disk: a frame that many small files share would be
//! read and decoded again for each of them. So their bytes are hashed in the order of their places, as many as fit
//! in memory at a time.

use rayon::prelude::*;

use super::entry::{SmallFile, Source};
use crate::base::{Error, Ino, Result, Slot};
use crate::engine::names::DISCRIMINATORS;
use crate::format::keys;
use crate::format::rows::{ChunkRow, DirentRow, ExtentRow, InodeRow, Kind, Table};
use crate::meta::Rows;

/// Slots that are looked at together: about 20 MiB of rows.
pub(crate) const WINDOW: usize = 32_768;
/// Files that one thread hashes one after another, so that it meets a frame that they share once.
const RUN: usize = 128;

/// An entry on its way into a snapshot.
pub(crate) struct Draft {
    pub(crate) dirent: DirentRow,
    pub(crate) row: InodeRow,
    /// Of a small file what is in it.
    pub(crate) small: Option<SmallFile>,
}

/// The entries of a slot.
pub(crate) type Slotful = (u64, Vec<Draft>);

/// A small file on its way to its digest.
struct Job {
    /// The entry's number among those of the window.
    entry: usize,
    size: u64,
    extents: Vec<(u64, ExtentRow)>,
    /// Of its first chunk. Cleaning may move that meanwhile.
    row: Option<ChunkRow>,
}

/// All entries of the names whose hashes fall into `slots`, ascending.
///
/// Each table is asked in the order of its keys: rows that share a block are read together.
pub(crate) fn drafts(source: &Source<'_>, dir: Ino, slots: &[u64]) -> Result<Vec<Slotful>> {
    let dirents: Vec<Vec<DirentRow>> = slots
        .par_iter()
        .map(|slot| entries(source, dir, *slot))
        .collect::<Result<_>>()?;
    let counts: Vec<usize> = dirents.iter().map(Vec::len).collect();
    let dirents: Vec<DirentRow> = dirents.into_iter().flatten().collect();
    let mut order: Vec<usize> = (0..dirents.len()).collect();
    order.sort_unstable_by_key(|at| dirents.get(*at).map(|dirent| dirent.ino));
    let found: Vec<(usize, InodeRow, Option<Job>)> = order
        .par_chunks(RUN)
        .flat_map_iter(|run| run.iter().map(|at| look_up(source, &dirents, *at)))
        .collect::<Result<_>>()?;
    let mut rows: Vec<Option<(InodeRow, Option<SmallFile>)>> = Vec::new();
    rows.resize_with(dirents.len(), || None);
    let mut jobs = Vec::new();
    for (entry, row, job) in found {
        jobs.extend(job);
        if let Some(place) = rows.get_mut(entry) {
            *place = Some((row, None));
        }
    }
    for (entry, small) in digests(source, jobs)? {
        if let Some(Some((_, place))) = rows.get_mut(entry) {
            *place = Some(small);
        }
    }
    let mut drafts = dirents.into_iter().zip(rows).map(|(dirent, row)| {
        let (row, small) = row.ok_or(Error::Internal("an entry was not looked up"))?;
        Ok(Draft { dirent, row, small })
    });
    let slots = slots.iter().zip(counts);
    slots
        .map(|(slot, count)| Ok((*slot, drafts.by_ref().take(count).collect::<Result<_>>()?)))
        .collect()
}

/// All entries whose names share the hash of `slot`.
fn entries(source: &Source<'_>, dir: Ino, slot: u64) -> Result<Vec<DirentRow>> {
    let from = keys::dirent(dir, Slot::from_raw(slot));
    let to = keys::dirent(dir, Slot::from_raw(slot + DISCRIMINATORS));
    let most = usize::try_from(DISCRIMINATORS).unwrap_or(256);
    let rows = source.view.scan(Table::Dirent, &from, &to, most)?;
    rows.iter()
        .map(|(_, value)| DirentRow::decode(value))
        .collect()
}

fn look_up(
    source: &Source<'_>,
    dirents: &[DirentRow],
    entry: usize,
) -> Result<(usize, InodeRow, Option<Job>)> {
    let lost = Error::Internal("an entry without its inode");
    let Some(ino) = dirents.get(entry).map(|dirent| dirent.ino) else {
        return Err(lost);
    };
    let row = source.inode(ino)?.ok_or(lost)?;
    let size = row.attrs.size;
    let extents = match row.attrs.kind {
        Kind::File => source.small_extents(ino, size)?,
        _ => None,
    };
    let job = extents.map(|extents| Job {
        entry,
        size,
        extents,
        row: None,
    });
    Ok((entry, row, job))
}

/// The digests of small files, which are read in the order of their places.
fn digests(source: &Source<'_>, mut jobs: Vec<Job>) -> Result<Vec<(usize, SmallFile)>> {
    jobs.sort_by_key(|job| job.extents.first().map(|(_, first)| first.chunk));
    jobs.par_chunks_mut(RUN).try_for_each(|run| {
        run.iter_mut().try_for_each(|job| {
            job.row = first_row(source, &job.extents)?;
            Ok::<(), Error>(())
        })
    })?;
    jobs.sort_by_key(|job| job.row.map(|row| (row.pack, row.frame)));
    jobs.par_chunks_mut(RUN)
        .flat_map_iter(|run| run.iter_mut().map(|job| digest(source, job)))
        .collect()
}

fn first_row(source: &Source<'_>, extents: &[(u64, ExtentRow)]) -> Result<Option<ChunkRow>> {
    let Some((_, first)) = extents.first() else {
        return Ok(None);
    };
    let row = source.view.get(Table::Chunk, &keys::chunk(&first.chunk))?;
    row.map(|row| ChunkRow::decode(&row)).transpose()
}

fn digest(source: &Source<'_>, job: &mut Job) -> Result<(usize, SmallFile)> {
    let extents = std::mem::take(&mut job.extents);
    let content = source.small_content(job.size, &extents, job.row)?;
    Ok((job.entry, SmallFile { content, extents }))
}
