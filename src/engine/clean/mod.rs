//! Cleaning: what no tree needs any more gives its space back.
//!
//! 1. *Set up* between two commits and while no snapshot is being made: from here on every commit adds what it
//!    names to the set of live chunks ([`ChunkStore::pin_into`](crate::chunk::ChunkStore::pin_into)), so that no
//!    reference slips through while the rest runs beside it. The open packs are ended: all that is emptied
//!    later is older than the log goes on in.
//! 2. *Mark* what is live in a frozen view of the index (`mark`).
//! 3. *Count* the rows of chunks by pack and choose packs (`count`).
//! 4. *Sweep* (`sweep`): live chunks of the chosen packs are moved, the rows of the dead ones deleted, in commits that
//!    look again at each row under the commit turn. Then, in this order: the commit that says that the
//!    pack is gone; an index flush past it; parity for what is left of its group; the file (`release`).
//!
//! Any error before the sweep leaves the store as it was; an error in it keeps the pack that it concerns (I8).

mod checkpoint;
mod count;
mod mark;
mod release;
mod sweep;

use std::sync::Arc;

use parking_lot::Mutex;

use super::Engine;
use super::types::{CleanOptions, CleanReport, CleanStep, Progress, SpaceUse};
use crate::base::limits::{LIVE_SET_SHARE, RESERVE_NEEDED_LEN};
use crate::base::{Error, PackId, Result};
use crate::chunk::{LiveSet, log_start};
use crate::format::parity::ParityKind;
use crate::format::rows::Table;
use crate::meta::View;

use count::Tallies;
use mark::Mark;
use sweep::Sweep;

/// Is told each step of a cleaning when it is done.
pub(crate) type Watch<'a> = &'a (dyn Fn(CleanStep, Progress) + Sync);

/// What the engine keeps for cleaning.
#[derive(Debug, Default)]
pub(crate) struct Cleaning {
    /// Held by what must not run beside a cleaning, such as `check`, which compares a view with the files. Taken
    /// before all other locks.
    pub(crate) one: Mutex<()>,
    /// What the last count has found. A leaf.
    pub(crate) space: Mutex<Option<SpaceUse>>,
}

/// Ends the pinning, however a cleaning ends.
struct Pinned<'a>(&'a Engine);

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.0.store.pin_into(None);
    }
}

impl Engine {
    /// Gives the space of what no tree needs any more back to the disk. Works beside everything else but `check`.
    ///
    /// Costs a walk over the extents, the snapshots and the rows of chunks, and rewrites what is live in packs that
    /// are mostly dead. `watch` is called after each step without a lock that an operation of the engine needs.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] unless it is a dry run. Damage found by the mark, and those of the index: nothing is
    /// changed then. [`Error::NoSpace`] if live chunks cannot be moved: what could be freed without that is.
    pub fn clean(
        &self,
        options: &CleanOptions,
        watch: &(dyn Fn(CleanStep, Progress) + Sync),
    ) -> Result<CleanReport> {
        if !options.dry_run {
            self.check_writable()?;
        }
        let _one = self.cleaning.one.lock();
        let live = self.live_set();
        let live = Arc::new(live);
        let _pinned = Pinned(self);
        let (view, open, before) = self.set_up(options, &live)?;
        Mark::new(self, &view, &live).run(&open)?;
        drop(view);
        watch(CleanStep::Marked, Progress::default());
        let mut report = CleanReport {
            dry_run: options.dry_run,
            pack_bytes_before: self.store.used_bytes()?,
            ..CleanReport::default()
        };
        let view = self.index().view();
        let mut packs = self.tallies(&view, &live, before)?;
        report.space = count::space(&packs);
        *self.cleaning.space.lock() = Some(report.space);
        watch(CleanStep::Counted, Progress::default());
        let mut done = Ok(());
        if !options.dry_run {
            let due = checkpoint::is_due(&packs, before, options.unused_percent);
            if due || self.has_damaged_checkpoint()? {
                self.free_log(&mut packs, before, watch)?;
            }
            let sweep = Sweep::new(self, &view, &live, packs, watch, &mut report);
            done = sweep.run(options.unused_percent);
        }
        report.pack_bytes_after = self.store.used_bytes()?;
        if !options.dry_run {
            self.note_cleaned();
            self.hold_reserve();
        }
        done.map(|()| report)
    }

    /// Makes LOG packs eligible that no reader of the log needs.
    fn free_log(&self, packs: &mut Tallies, before: PackId, watch: Watch<'_>) -> Result<()> {
        let start = match self.checkpoint() {
            Ok(start) => start,
            // The rest of the cleaning may make room for the next one.
            Err(Error::NoSpace) => return Ok(()),
            Err(error) => return Err(error),
        };
        watch(CleanStep::Checkpointed, Progress::default());
        for (id, tally) in packs {
            tally.eligible |= tally.log && *id < before.min(start);
        }
        Ok(())
    }

    fn live_set(&self) -> LiveSet {
        let mut salt = [0; 16];
        self.env.random(&mut salt);
        let (one, other) = salt.split_at(8);
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let chunks = self.index().estimate_rows(Table::Chunk);
        let len_max = usize::try_from(self.config.memory / LIVE_SET_SHARE).unwrap_or(usize::MAX);
        // The estimate does not count what is still in RocksDB's memory twice, and may be too low.
        LiveSet::new(
            chunks.saturating_add(chunks / 2),
            len_max,
            [word(one), word(other)],
        )
    }

    /// Begins the pinning; returns the view to mark, the roots that are open, and the first pack that is not to be
    /// looked at.
    fn set_up(
        &self,
        options: &CleanOptions,
        live: &Arc<LiveSet>,
    ) -> Result<(View<'_>, Vec<crate::base::ChunkId>, PackId)> {
        if !self.config.read_only {
            match self.commit() {
                Ok(()) => {}
                // What is in memory waits; the few rows that say what is gone must find room.
                Err(Error::NoSpace) => drop(self.store.release_reserve()?),
                Err(error) => return Err(error),
            }
            if !options.dry_run && self.disk.space()?.available_bytes < RESERVE_NEEDED_LEN {
                self.store.release_reserve()?;
            }
        }
        // A snapshot that is being made names nodes that nothing in the index refers to yet, and reads files
        // as they were; a rollback holds on to chunks of a snapshot.
        let _no_snapshot = self.snapshots.lock();
        self.exclusive(|| {
            if !options.dry_run {
                match self.store.roll() {
                    // They stay without a footer, and are not written to any more.
                    Ok(()) | Err(Error::NoSpace) => {}
                    Err(error) => return Err(error),
                }
            }
            self.store.pin_into(Some(Arc::clone(live)));
            let open = self.open_roots()?;
            Ok((self.index().view(), open, self.store.next_pack()))
        })
    }

    fn tallies(&self, view: &View<'_>, live: &LiveSet, before: PackId) -> Result<Tallies> {
        let mut packs = count::of_files(self.store.pack_files()?);
        let open = self.store.open_packs();
        let start = log_start(self.disk.as_ref(), &self.store.current_superblock())?;
        for (id, tally) in &mut packs {
            let needed = tally.log && start.is_none_or(|start| *id >= start);
            tally.eligible = !needed && *id < before && !open.contains(id);
            let cover = self.parity.covering(*id);
            let group = cover.filter(|cover| cover.kind == ParityKind::Group);
            tally.group = group.map(|cover| cover.parity);
        }
        count::count(view, live, &mut packs)?;
        Ok(packs)
    }
}
