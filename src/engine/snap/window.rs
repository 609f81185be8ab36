//! Changed entries of a directory, some thousands at a time, and the content digests of the small files among them.
//!
//! Entries come in the order of the hashes of their names, which is none on the disk: a frame that many small files share would be
//! read and decoded again for each of them. So their bytes are hashed in the order of their places, as many as fit
//! in memory at a time.

use rayon::prelude::*;

use super::entry::{SmallFile, Source};
use crate::base::{Error, Ino, PackId, PackOff, Result, Slot};
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

/// Where the first chunk of a file is.
type At = Option<(PackId, PackOff)>;

/// A small file: the slot it is of, its number among the slot's entries, and what to hash.
struct Job {
    place: At,
    slot: usize,
    entry: usize,
    size: u64,
    extents: Vec<(u64, ExtentRow)>,
}

/// All entries of the names whose hashes fall into `slots`, ascending.
pub(crate) fn drafts(source: &Source<'_>, dir: Ino, slots: &[u64]) -> Result<Vec<Slotful>> {
    let mut drafts: Vec<Slotful> = slots
        .par_iter()
        .map(|slot| Ok((*slot, entries(source, dir, *slot)?)))
        .collect::<Result<_>>()?;
    let mut jobs: Vec<Job> = drafts
        .par_iter()
        .enumerate()
        .map(|(slot, (_, drafts))| jobs(source, slot, drafts))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    jobs.sort_by_key(|job| job.place);
    let done: Vec<(usize, usize, SmallFile)> = jobs
        .par_chunks_mut(RUN)
        .flat_map_iter(|run| run.iter_mut().map(|job| hash(source, job)))
        .collect::<Result<_>>()?;
    for (slot, entry, small) in done {
        if let Some((_, drafts)) = drafts.get_mut(slot)
            && let Some(draft) = drafts.get_mut(entry)
        {
            draft.small = Some(small);
        }
    }
    Ok(drafts)
}

/// All entries whose names share the hash of `slot`.
fn entries(source: &Source<'_>, dir: Ino, slot: u64) -> Result<Vec<Draft>> {
    let from = keys::dirent(dir, Slot::from_raw(slot));
    let to = keys::dirent(dir, Slot::from_raw(slot + DISCRIMINATORS));
    let most = usize::try_from(DISCRIMINATORS).unwrap_or(256);
    let rows = source.view.scan(Table::Dirent, &from, &to, most)?;
    let draft = |(_, value): &(Vec<u8>, Vec<u8>)| {
        let dirent = DirentRow::decode(value)?;
        let row = source
            .inode(dirent.ino)?
            .ok_or(Error::Internal("an entry without its inode"))?;
        Ok(Draft {
            dirent,
            row,
            small: None,
        })
    };
    rows.iter().map(draft).collect()
}

fn jobs(source: &Source<'_>, slot: usize, drafts: &[Draft]) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for (entry, Draft { dirent, row, .. }) in drafts.iter().enumerate() {
        if row.attrs.kind != Kind::File {
            continue;
        }
        let size = row.attrs.size;
        if let Some(extents) = source.small_extents(dirent.ino, size)? {
            jobs.push(Job {
                place: place(source, &extents)?,
                slot,
                entry,
                size,
                extents,
            });
        }
    }
    Ok(jobs)
}

/// Only a hint: cleaning may move it meanwhile.
fn place(source: &Source<'_>, extents: &[(u64, ExtentRow)]) -> Result<At> {
    let Some((_, first)) = extents.first() else {
        return Ok(None);
    };
    let row = source.view.get(Table::Chunk, &keys::chunk(&first.chunk))?;
    let row = row.map(|row| ChunkRow::decode(&row)).transpose()?;
    Ok(row.map(|row| (row.pack, row.frame)))
}

fn hash(source: &Source<'_>, job: &mut Job) -> Result<(usize, usize, SmallFile)> {
    let extents = std::mem::take(&mut job.extents);
    let content = source.small_content(job.size, &extents)?;
    Ok((job.slot, job.entry, SmallFile { content, extents }))
}
