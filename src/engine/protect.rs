//! Parity is made and damage repaired: by a thread of its own, at close, and when asked for.
//!
//! 1. Packs in which reads have found damage are repaired (`heal`).
//! 2. What is to be done is planned from what there is (`parity_plan`), so nothing has to be remembered: after a crash the
//!    next pass finds the same or what is left of it.
//! 3. Each piece of work is done under `parity_turn`, and looks first whether its packs are still part of the store. What takes
//!    the place of something else is durable before that goes.
//!
//! A pack that is damaged is refused, said once and counted; others do not wait for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::Engine;
use super::parity_plan::{Facts, Work};
use super::types::ParityStats;
use crate::base::limits::{
    IDLE_SEAL_LEN_MIN, IDLE_SEAL_MS, OPEN_PACK_AGE_MS_MAX, PARITY_FAILURES_MAX, PARITY_INTERVAL_MS,
    PARITY_MEMORY_SHARE, PARITY_PERCENT_DEFAULT, PARITY_ROOM_MIN,
};
use crate::base::{ByteLen, Error, Lsn, PackId, ParityId, Result, Timestamp};
use crate::chunk::{Durable, PackToCover, ParityConfig, damaged_pack};
use crate::format::parity::{Member, ParityKind};

/// What the engine keeps for making parity.
#[derive(Debug, Default)]
pub(crate) struct Protection {
    thread: Mutex<Option<JoinHandle<()>>>,
    /// What a stats call shows, and what a pass need not try again. A leaf.
    pub(super) state: Mutex<ProtectState>,
    /// A leaf.
    idle: Mutex<Idle>,
}

/// See [`Protection`].
#[derive(Debug, Default)]
pub(crate) struct ProtectState {
    /// Packs that are damaged and have no parity to be repaired from.
    pub(super) refused: BTreeSet<PackId>,
    /// Packs that were repaired since the store was opened.
    pub(super) repaired: u64,
    /// Why the last pass did not get to its end.
    pub(super) trouble: Option<String>,
}

/// Since when nothing has happened.
#[derive(Debug, Default)]
struct Idle {
    lsn: Lsn,
    quiet_since: Timestamp,
    open: Vec<PackId>,
    open_since: Timestamp,
}

/// What a pass has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProtectReport {
    /// Packs that got parity of their own.
    pub covered: u64,
    /// Groups that were made.
    pub groups: u64,
    /// Parity files that were removed.
    pub removed: u64,
    /// Packs that were repaired.
    pub repaired: u64,
    /// Packs that are damaged and have no parity: each with what is wrong.
    pub refused: Vec<String>,
}

/// Which work a pass does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All of it.
    All,
    /// Only what protects packs that have no parity yet.
    Bare,
}

fn elapsed_ms(since: Timestamp, now: Timestamp) -> u64 {
    let ms = |at: Timestamp| i128::from(at.secs) * 1000 + i128::from(at.nanos / 1_000_000);
    u64::try_from(ms(now) - ms(since)).unwrap_or(0)
}

impl Engine {
    /// Parity in percent of what it protects; 0: none.
    pub(super) fn parity_percent(&self) -> u8 {
        let told = self.superblock.parity_percent;
        told.unwrap_or(PARITY_PERCENT_DEFAULT)
    }

    /// How parity is made and packs are repaired.
    pub(crate) fn parity_config(&self) -> ParityConfig {
        parity_config(&self.config, self.parity_percent())
    }

    /// Repairs what is known to be damaged and gives parity to every finished pack, on the caller's thread, until nothing
    /// is left to do. A pack that cannot be covered keeps no other from it.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::NoSpace`], those of the disk; what was done until then is good.
    pub fn protect(&self) -> Result<ProtectReport> {
        self.check_writable()?;
        self.protect_pass(Extent::All)
    }

    /// As [`Engine::protect`], after a commit and with the packs that are being written finished first: then everything
    /// written so far has parity.
    ///
    /// # Errors
    /// Those of the commit, of sealing and of [`Engine::protect`].
    pub fn protect_all(&self) -> Result<ProtectReport> {
        self.check_writable()?;
        self.commit()?;
        self.exclusive(|| self.store.roll())?;
        self.protect()
    }

    fn protect_pass(&self, extent: Extent) -> Result<ProtectReport> {
        let mut pass = Pass {
            engine: self,
            report: ProtectReport::default(),
            failed: BTreeSet::new(),
            tried: BTreeSet::new(),
            direct: extent == Extent::All,
            first: None,
        };
        let done = pass.run(extent);
        let done = done.and(pass.first.map_or(Ok(()), Err));
        let mut state = self.protection.state.lock();
        state.trouble = done.as_ref().err().map(ToString::to_string);
        drop(state);
        done.map(|()| pass.report)
    }

    /// What is to be done for parity now; `direct`: whether packs that nothing covers may go into a group at once.
    pub(super) fn parity_plan(&self, skip: &BTreeSet<PackId>, direct: bool) -> Result<Vec<Work>> {
        if self.parity_trouble.is_some() {
            return Ok(Vec::new());
        }
        let mut refused = self.protection.state.lock().refused.clone();
        refused.extend(skip);
        // A pack that has gone meanwhile, or has no file: nothing is as short.
        let len_of = |pack| self.store.pack_len(pack).map_or(0, ByteLen::raw);
        let facts = Facts {
            files: self.parity.all(),
            bare: self.store.bare_packs(&self.parity)?,
            holds: &|pack| self.store.holds_pack(pack),
            refused: &refused,
            wanted: self.parity_percent() > 0,
            group_packs: self.config.parity_group_packs,
            direct: direct.then_some(&len_of),
        };
        Ok(facts.plan())
    }

    /// Seals the open packs if nothing was committed for a while, or if they are old: only finished packs have parity.
    ///
    /// To be called now and then; says whether it has sealed any.
    ///
    /// # Errors
    /// Those of [`ChunkStore::roll`](crate::chunk::ChunkStore::roll) and of the index.
    pub fn seal_idle(&self) -> Result<bool> {
        self.check_writable()?;
        let lens = self.store.open_pack_lens();
        let open: Vec<PackId> = lens.iter().map(|(id, _)| *id).collect();
        let len: u64 = lens.iter().map(|(_, len)| len.raw()).sum();
        let lsn = match self.index().watermark()? {
            Some(mark) => crate::chunk::Watermark::decode(&mark)?.lsn,
            None => Lsn::from_raw(0),
        };
        let now = self.env.now();
        let mut idle = self.protection.idle.lock();
        if idle.lsn != lsn {
            (idle.lsn, idle.quiet_since) = (lsn, now);
        }
        if idle.open.first() != open.first() {
            idle.open_since = now;
        }
        idle.open.clone_from(&open);
        let quiet = elapsed_ms(idle.quiet_since, now) >= IDLE_SEAL_MS && len >= IDLE_SEAL_LEN_MIN;
        let old = elapsed_ms(idle.open_since, now) >= OPEN_PACK_AGE_MS_MAX;
        drop(idle);
        if open.is_empty() || !(quiet || old) {
            return Ok(false);
        }
        self.exclusive(|| self.store.roll())?;
        Ok(true)
    }

    /// Facts about parity, and about damage since the store was opened.
    ///
    /// # Errors
    /// Those of the index.
    pub fn parity_stats(&self) -> Result<ParityStats> {
        let heal = self.store.heal_stats();
        let plan = self.parity_plan(&BTreeSet::new(), false)?;
        let mut stats = ParityStats {
            percent: u64::from(self.parity_percent()),
            files: self.parity.all().len() as u64,
            bytes: self.parity.used_bytes(),
            unreadable: self.parity.unreadable().len() as u64,
            pending: (plan.len() as u64).saturating_add(heal.packs_waiting),
            damaged_frames: heal.damaged_frames,
            lost_frames: heal.lost_frames,
            reads_healed: heal.reads_healed,
            ..ParityStats::default()
        };
        let holds = |member: &Member| self.store.holds_pack(member.pack);
        for pack in self.store.pack_ids() {
            let covers = self.parity.covers(pack).into_iter();
            let files = covers.filter_map(|cover| self.parity.header(cover.parity));
            let ranks = files.map(|file| match file.kind() {
                ParityKind::Group if file.members().iter().all(holds) => 3,
                ParityKind::Single => 2,
                ParityKind::Group => 1,
            });
            match ranks.max() {
                Some(3) => stats.packs_in_groups += 1,
                Some(2) => stats.packs_alone += 1,
                Some(_) => stats.packs_weakened += 1,
                None => stats.packs_bare += 1,
            }
        }
        let state = self.protection.state.lock();
        stats.packs_refused = state.refused.len() as u64;
        stats.packs_repaired = state.repaired;
        stats.trouble = self
            .parity_trouble
            .clone()
            .or_else(|| state.trouble.clone());
        Ok(stats)
    }

    /// Starts the thread that makes parity and repairs packs.
    pub(crate) fn start_protection(self: &Arc<Self>) -> Result<()> {
        let engine = Arc::clone(self);
        let signal = self.store.signal();
        let wait = Duration::from_millis(PARITY_INTERVAL_MS);
        let work = move || {
            signal.kick();
            while signal.wait(wait) {
                if let Err(error) = engine.seal_idle() {
                    log::warn!("the open packs were not sealed: {error}");
                }
                match engine.protect() {
                    Ok(report) if report == ProtectReport::default() => {}
                    Ok(report) => log::info!("parity: {report:?}"),
                    Err(_) if signal.is_stopped() => {}
                    Err(error) => log::warn!("some packs have no parity yet: {error}"),
                }
            }
        };
        let thread = std::thread::Builder::new().name("mmhfs-parity".into());
        thread
            .spawn(work)
            .map(|thread| *self.protection.thread.lock() = Some(thread))
            .map_err(|e| Error::io("start the parity thread", e))
    }

    /// Ends the thread, if there is one, and waits for it: it holds a reference to the engine.
    pub(crate) fn stop_protection(&self) {
        self.store.signal().stop();
        let Some(thread) = self.protection.thread.lock().take() else {
            return;
        };
        self.parity.interrupt(true);
        if thread.join().is_err() {
            log::error!("the parity thread has panicked");
        }
        self.parity.interrupt(false);
    }

    /// Gives parity to the packs that were just sealed, before the store is closed. That it fails is no failure of the
    /// close: the next mount does it.
    pub(crate) fn protect_at_close(&self) {
        if !self.config.protect || self.parity_percent() == 0 {
            return;
        }
        if let Err(error) = self.protect_pass(Extent::Bare) {
            log::warn!("some packs have no parity yet: {error}");
        }
    }

    /// Fails unless the disk has room for the parity of `len` bytes and `margin` more.
    pub(super) fn check_parity_room(&self, len: u64, margin: u64) -> Result<()> {
        /// Headers, tables and the fewest repair symbols that there are.
        const FIXED: u64 = 128 << 10;
        // Repair symbols, and two tables of eight bytes for every symbol of 4 KiB.
        let share = u64::from(self.parity_percent()) + 1;
        let need = (len / 100).saturating_mul(share).saturating_add(FIXED);
        if self.disk.space()?.available_bytes < need.saturating_add(margin) {
            return Err(Error::NoSpace);
        }
        Ok(())
    }

    /// Encodes packs, all of which are part of the store; the caller has the parity turn. `margin`: see
    /// [`Engine::check_parity_room`].
    pub(super) fn encode_in_turn(
        &self,
        kind: ParityKind,
        packs: &[PackToCover],
        margin: u64,
    ) -> Result<Option<Durable<ParityId>>> {
        let mut longest = 0;
        for pack in packs {
            longest = longest.max(self.store.pack_len(pack.pack)?.raw());
        }
        // The overhead counts as if all were as long as the longest.
        let len = longest.saturating_mul(packs.len() as u64);
        self.check_parity_room(len, margin)?;
        for pack in packs {
            if self.parity.covering(pack.pack).is_none() {
                self.store.prepare_cover(pack)?;
            }
        }
        let made = self.parity.encode(kind, packs, &self.parity_config())?;
        if made.is_some() {
            for pack in packs {
                self.store.note_covered(pack.pack);
            }
        }
        Ok(made)
    }

    /// Gives packs parity of their own, those that have none; the caller has the parity turn. Returns how many.
    pub(super) fn cover_in_turn(&self, packs: &[PackToCover], margin: u64) -> Result<u64> {
        let mut made = 0;
        for pack in packs {
            let done =
                self.encode_in_turn(ParityKind::Single, std::slice::from_ref(pack), margin)?;
            made += u64::from(done.is_some());
        }
        Ok(made)
    }
}

/// How parity is made and packs are repaired.
pub(super) fn parity_config(config: &super::Config, percent: u8) -> ParityConfig {
    let cores = match config.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let share = if config.foreground { 1 } else { 2 };
    ParityConfig {
        percent,
        threads: (cores / share).max(1),
        memory_len: usize::try_from(config.memory / PARITY_MEMORY_SHARE).unwrap_or(usize::MAX),
    }
}

/// One look at everything.
struct Pass<'a> {
    engine: &'a Engine,
    report: ProtectReport,
    /// Packs that could not be worked on in this pass.
    failed: BTreeSet<PackId>,
    /// Packs whose repair this pass has tried.
    tried: BTreeSet<PackId>,
    /// Whether packs that nothing covers may go into a group at once.
    direct: bool,
    first: Option<Error>,
}

impl Pass<'_> {
    fn run(&mut self, extent: Extent) -> Result<()> {
        loop {
            if extent == Extent::All {
                self.repair_wounded()?;
            }
            let plan = self.engine.parity_plan(&self.failed, self.direct)?;
            let wanted = |work: &Work| extent == Extent::All || matches!(work, Work::Cover(_));
            let plan: Vec<Work> = plan.into_iter().filter(wanted).collect();
            if plan.is_empty() {
                return Ok(());
            }
            for work in plan {
                match self.work(&work) {
                    Ok(()) => {}
                    Err(error) => self.failed_at(&work, error)?,
                }
            }
        }
    }

    /// Repairs the packs that wait for it; after an error the others go on waiting.
    fn repair_wounded(&mut self) -> Result<()> {
        let mut done = Ok(());
        for pack in self.engine.store.take_wounded() {
            if done.is_ok() {
                done = self.repair(pack).map(|_| ());
            } else {
                self.engine.store.note_wounded(pack);
            }
        }
        done
    }

    /// Does one piece of work, unless it has become pointless.
    fn work(&mut self, work: &Work) -> Result<()> {
        let engine = self.engine;
        let _turn = engine.parity_turn.lock();
        let holds = |packs: &[PackToCover]| packs.iter().all(|p| engine.store.holds_pack(p.pack));
        match work {
            Work::Dissolve(group, left) => {
                if engine.parity.header(*group).is_some() && holds(left) {
                    self.report.covered += engine.cover_in_turn(left, PARITY_ROOM_MIN)?;
                    engine.parity.remove(*group)?;
                    self.report.removed += 1;
                }
            }
            Work::Drop(file) => {
                // What makes it superfluous may have gone since: cleaning counts on what there is.
                if engine
                    .parity_plan(&self.failed, self.direct)?
                    .contains(work)
                {
                    engine.parity.remove(*file)?;
                    self.report.removed += 1;
                }
            }
            Work::Cover(pack) => {
                let bare = engine.parity.covering(pack.pack).is_none();
                if bare && holds(std::slice::from_ref(pack)) {
                    let pack = std::slice::from_ref(pack);
                    self.report.covered += engine.cover_in_turn(pack, PARITY_ROOM_MIN)?;
                }
            }
            Work::Group(packs) => {
                // Who had the turn before may have made it.
                let plan = engine.parity_plan(&self.failed, self.direct)?;
                if !holds(packs) || !plan.contains(work) {
                    return Ok(());
                }
                let made = engine.encode_in_turn(ParityKind::Group, packs, PARITY_ROOM_MIN)?;
                if let Some(group) = made {
                    self.report.groups += 1;
                    self.report.removed += engine.parity.remove_replaced(&group)?.len() as u64;
                }
            }
        }
        Ok(())
    }

    /// Decides whether the pass goes on after an error.
    fn failed_at(&mut self, work: &Work, error: Error) -> Result<()> {
        let engine = self.engine;
        let packs: Vec<PackId> = match work {
            Work::Drop(_) => return Err(error),
            Work::Cover(pack) => vec![pack.pack],
            Work::Dissolve(_, packs) | Work::Group(packs) => {
                packs.iter().map(|pack| pack.pack).collect()
            }
        };
        if let Some(pack) = damaged_pack(&error) {
            // Repaired, it can be encoded when the plan is made anew.
            if engine.parity.covering(pack).is_none() || !self.repair(pack)? {
                self.refuse(pack, &error);
            }
            return Ok(());
        }
        let is_bare = |pack: &PackId| engine.parity.covering(*pack).is_none();
        if matches!(work, Work::Group(_)) && packs.iter().any(is_bare) && self.direct {
            // One that cannot be read, or too little room, is no reason for the others to have no parity: one by one.
            self.direct = false;
            return Ok(());
        }
        match &error {
            // Nothing in it: the file of a pack whose creation a crash has cut off.
            Error::Invalid(_) if !packs.is_empty() => {
                packs.iter().for_each(|pack| self.refuse(*pack, &error));
            }
            Error::Io { .. } if !packs.is_empty() && self.failed.len() < PARITY_FAILURES_MAX => {
                self.failed.extend(packs);
                self.first.get_or_insert(error);
            }
            _ => return Err(error),
        }
        Ok(())
    }

    /// Notes that a pack is not encoded: parity would preserve its damage.
    fn refuse(&mut self, pack: PackId, error: &Error) {
        if self.engine.protection.state.lock().refused.insert(pack) {
            log::error!("pack {pack} gets no parity, it is damaged: {error}");
            self.report.refused.push(error.to_string());
        }
    }

    /// Repairs a pack, once in a pass; says whether it is sound now.
    fn repair(&mut self, pack: PackId) -> Result<bool> {
        if !self.tried.insert(pack) {
            return Ok(false);
        }
        let (sound, repaired) = self.engine.repair_pack(pack)?;
        self.report.repaired += repaired;
        Ok(sound)
    }
}
