//! The sweep: empties packs and removes them.
//!
//! What a commit has pinned since the mark is live, whatever the count said; what has moved since is left
//! alone. So every commit of the sweep looks at its rows again, under the turn that every commit needs.

use std::collections::{BTreeSet, HashSet};

use super::Watch;
use super::count::{self, Tallies};
use super::release::Last;
use crate::base::limits::{CLEAN_BATCH_LEN, CLEAN_OPS_MAX};
use crate::base::{ChunkId, Error, PackId, Result};
use crate::chunk::{LiveSet, MovingFrame, pack_name};
use crate::engine::Engine;
use crate::engine::types::{CleanReport, CleanStep, Progress};
use crate::format::keys;
use crate::format::rows::{ChunkRow, Op, PackKind, Table};
use crate::meta::{Rows, View};

/// A chunk and where it was when the rows were read.
type Placed = (ChunkId, ChunkRow);

pub(super) struct Sweep<'a> {
    engine: &'a Engine,
    view: &'a View<'a>,
    live: &'a LiveSet,
    packs: Tallies,
    watch: Watch<'a>,
    report: &'a mut CleanReport,
    progress: Progress,
    /// Packs that are to be emptied.
    chosen: BTreeSet<PackId>,
    /// Packs that are empty, and wait for others of their groups or for room.
    held: Vec<PackId>,
}

/// Frames that will be moved in one commit.
#[derive(Default)]
struct Load {
    frames: Vec<MovingFrame>,
    chunks: Vec<Placed>,
    len: usize,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        view: &'a View<'a>,
        live: &'a LiveSet,
        packs: Tallies,
        watch: Watch<'a>,
        report: &'a mut CleanReport,
    ) -> Self {
        Self {
            engine,
            view,
            live,
            packs,
            watch,
            report,
            progress: Progress::default(),
            chosen: BTreeSet::new(),
            held: Vec::new(),
        }
    }

    /// Empties and removes packs until little that is dead is left.
    pub(super) fn run(mut self, unused_percent: u64) -> Result<()> {
        let mut chosen = count::choose(&self.packs, unused_percent);
        let len = |id: &PackId| self.packs.get(id).map_or(0, |tally| tally.len);
        self.progress.bytes_total = chosen.iter().map(len).sum();
        self.chosen = chosen.iter().copied().collect();
        while !chosen.is_empty() {
            let now = count::next_packs(&self.packs, &mut chosen);
            let mut rows = count::rows_of(self.view, &now)?;
            let mut gone = Vec::new();
            let mut done = Ok(());
            for id in now {
                let rows = rows.remove(&id).unwrap_or_default();
                let all_dead = self.packs.get(&id).is_none_or(|t| t.live_chunks == 0);
                if !all_dead {
                    // On a full disk there is room for what is moved only once the first files are gone.
                    self.remove(&std::mem::take(&mut gone))?;
                }
                let emptied = match self.empty(id, &rows) {
                    // What waits for the rest of its group may be the room that is missing.
                    Err(Error::NoSpace) if !self.held.is_empty() => {
                        self.release(false)?;
                        self.empty(id, &rows)
                    }
                    other => other,
                };
                self.chosen.remove(&id);
                match emptied {
                    Ok(true) => gone.push(id),
                    Ok(false) => {}
                    Err(error) => {
                        done = Err(error);
                        break;
                    }
                }
                let len = self.packs.get(&id).map_or(0, |tally| tally.len);
                self.progress.bytes = self.progress.bytes.saturating_add(len);
                (self.watch)(CleanStep::Emptied, self.progress);
            }
            self.remove(&gone)?;
            if done.is_err() {
                self.release(true)?;
            }
            done?;
        }
        self.release(true)
    }

    /// The second half of the deletion: the log says that these packs are gone. Those whose groups have others that are
    /// about to be emptied wait for them.
    fn remove(&mut self, gone: &[PackId]) -> Result<()> {
        let parity = &self.engine.parity;
        let chosen = &self.chosen;
        let waits = |id: &PackId| {
            let mut covers = parity.covers(*id).into_iter();
            covers.any(|cover| {
                let group = parity.header(cover.parity);
                group.is_some_and(|group| group.members().iter().any(|m| chosen.contains(&m.pack)))
            })
        };
        let (wait, now): (Vec<PackId>, Vec<PackId>) = gone.iter().partition(|id| waits(id));
        self.held.extend(wait);
        self.remove_now(now, Last::No)
    }

    /// Removes what waits for others; at the end, whatever can be.
    fn release(&mut self, last: bool) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        let last = if last { Last::Yes } else { Last::No };
        self.remove_now(held, last)
    }

    fn remove_now(&mut self, gone: Vec<PackId>, last: Last) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        // An index that is behind would still name what was in them, and the log that would mend it may be in
        // one of them.
        self.engine.index().flush()?;
        (self.watch)(CleanStep::Flushed, self.progress);
        let released = self.engine.release_packs(gone, last)?;
        self.report.freed_bytes += released.freed_bytes;
        self.report.packs_removed += released.removed;
        self.held.extend(released.waiting);
        for (id, why) in released.kept {
            self.keep(id, &why);
        }
        if released.removed > 0 {
            (self.watch)(CleanStep::Removed, self.progress);
        }
        Ok(())
    }

    /// Notes why a pack stays.
    fn keep(&mut self, id: PackId, why: &str) {
        let log = self.packs.get(&id).is_some_and(|tally| tally.log);
        let kind = if log { PackKind::Log } else { PackKind::Data };
        let name = pack_name(id, kind);
        log::warn!("cleaning keeps {name}: {why}");
        self.report.kept.push(format!("{name}: {why}"));
    }

    /// Moves what is live out of a pack and deletes the rest from the index, the pack's own row last. `false`: the
    /// pack stays.
    fn empty(&mut self, id: PackId, rows: &[Placed]) -> Result<bool> {
        let (live, dead): (Vec<Placed>, Vec<Placed>) = rows
            .iter()
            .partition(|(chunk, _)| self.live.contains(chunk));
        let mut load = Load::default();
        for frame in live.chunk_by(|(_, one), (_, other)| one.frame == other.frame) {
            let Some((_, row)) = frame.first() else {
                continue;
            };
            match self.engine.store.read_frame(row) {
                Ok(moving) => load.add(moving, frame),
                Err(error) => {
                    // What cannot be read now may be repaired later, or wanted by a salvage.
                    self.keep(id, &error.to_string());
                    return Ok(false);
                }
            }
            if load.len >= CLEAN_BATCH_LEN {
                self.carry(std::mem::take(&mut load))?;
            }
        }
        self.carry(load)?;
        (self.watch)(CleanStep::Moved, self.progress);
        let gone = self.retire(id, &dead, &live)?;
        if gone {
            (self.watch)(CleanStep::Retired, self.progress);
        } else {
            // Nothing is wrong: the next run looks at it anew.
            log::info!("cleaning leaves pack {id}: it was used again meanwhile");
        }
        Ok(gone)
    }

    /// Commits chunks at new places.
    fn carry(&mut self, load: Load) -> Result<()> {
        if load.frames.is_empty() {
            return Ok(());
        }
        let engine = self.engine;
        let mut wanted: HashSet<ChunkId> = HashSet::with_capacity(load.chunks.len());
        engine.exclusive(|| {
            engine.check_writable()?;
            engine.index().check_current()?;
            for (chunk, row) in &load.chunks {
                // One that was stored again meanwhile is live at its new place.
                if engine.chunk_row(chunk)?.as_ref() == Some(row) {
                    wanted.insert(*chunk);
                }
            }
            let mut batch = engine.store.begin(false)?;
            engine.store.relocate(&mut batch, load.frames, &wanted)?;
            let durable = engine.store.finish(batch, Vec::new())?;
            engine.apply_durable(&durable)
        })?;
        self.report.moved_bytes += load.len as u64;
        Ok(())
    }

    /// The first half of the deletion: rows that say that the pack is gone.
    fn retire(&self, id: PackId, dead: &[Placed], moved: &[Placed]) -> Result<bool> {
        let mut parts: Vec<&[Placed]> = dead.chunks(CLEAN_OPS_MAX).collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            if !self.delete_rows(part, |_| Ok(Some(Vec::new())))? {
                return Ok(false);
            }
        }
        self.delete_rows(last, |engine| {
            for (chunk, _) in moved {
                if engine.chunk_row(chunk)?.is_some_and(|row| row.pack == id) {
                    return Ok(None);
                }
            }
            Ok(Some(vec![Op::Del(Table::Pack, keys::pack(id).to_vec())]))
        })
    }

    /// Deletes the rows of dead chunks together with what `more` says, unless that is `None` or one of them
    /// is not dead any more.
    fn delete_rows(
        &self,
        part: &[Placed],
        more: impl FnOnce(&Engine) -> Result<Option<Vec<Op>>>,
    ) -> Result<bool> {
        let engine = self.engine;
        engine.exclusive(|| {
            engine.check_writable()?;
            engine.index().check_current()?;
            let Some(more) = more(engine)? else {
                return Ok(false);
            };
            let mut ops = Vec::with_capacity(part.len() + more.len());
            for (chunk, row) in part {
                if self.live.contains(chunk) {
                    return Ok(false);
                }
                if engine.chunk_row(chunk)?.as_ref() == Some(row) {
                    ops.push(Op::Del(Table::Chunk, keys::chunk(chunk).to_vec()));
                }
            }
            ops.extend(more);
            if !ops.is_empty() {
                let batch = engine.store.begin(true)?;
                let durable = engine.store.finish(batch, ops)?;
                engine.apply_durable(&durable)?;
            }
            Ok(true)
        })
    }
}

impl Load {
    fn add(&mut self, moving: MovingFrame, chunks: &[Placed]) {
        self.len = self.len.saturating_add(moving.stored_len());
        self.frames.push(moving);
        self.chunks.extend_from_slice(chunks);
    }
}

impl Engine {
    /// Where a chunk is now.
    fn chunk_row(&self, id: &ChunkId) -> Result<Option<ChunkRow>> {
        let row = self.index().get(Table::Chunk, &keys::chunk(id))?;
        row.map(|row| ChunkRow::decode(&row)).transpose()
    }
}
