//! Scrubbing: reads every stored byte again, finds what has rotted, and repairs it from parity.
//!
//! 1. The copies of the superblock.
//! 2. Every pack, ascending. One that parity covers is compared byte for byte with what was encoded; another one is
//!    verified piece by piece, up to what is durable of it. With `repair`, a damaged one is rebuilt at once.
//! 3. Checkpoints and parity files; these are repaired after the packs, because they may have to be made of them.
//! 4. Damage that is left: which frames cannot be read, which paths of the live tree and of snapshots need them.
//!
//! It runs beside everything else. A pack may go while it is read: whether a damaged one still belongs to the store is
//! asked under `parity_turn`, which is held while packs are repaired or removed. After an interruption it goes on where
//! it was, but never past a pack with damage that is left: that is found again, and told again.

mod closed;
mod pace;
mod parity;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::Engine;
use super::affected::Suspect;
use super::types::{DamageState, Progress, ScrubDamage, ScrubOptions, ScrubReport};
use crate::base::limits::{
    PROBLEM_PATHS_MAX, PROBLEMS_MAX, SCRUB_MARK_INTERVAL_LEN, SCRUB_RANGES_MAX,
};
use crate::base::{ByteLen, Error, PackId, Result};
use crate::chunk::{
    Compared, ParityStore, RepairOutcome, RepairedPack, Scanned, log_start, pack_name,
};
use crate::format::keys;
use crate::format::rows::{ChunkRow, PackKind, PackRow, Table};
use crate::meta::{Rows, for_each_row};

use pace::Pace;
pub(in crate::engine) use parity::describe;

/// Is told how far a scrub is; `false` ends it, and the next one goes on there.
pub(crate) type Watch<'a> = &'a (dyn Fn(Progress) -> bool + Sync);

/// What names a pack.
#[derive(Clone, Copy, Debug, Default)]
struct Named {
    kind: Option<PackKind>,
    row: Option<PackRow>,
    /// Bytes that it has at least.
    len: u64,
}

/// What rebuilding a pack has come to.
#[derive(Default)]
struct Rebuilt {
    /// Whether the pack is what it was.
    is_sound: bool,
    repaired: Vec<RepairedPack>,
    /// Bytes of it that cannot be computed, by the last parity file that was tried.
    lost: Vec<Range<u64>>,
}

/// Damage of one pack that is left.
struct Left {
    /// Its place in the report.
    at: Option<usize>,
    suspect: Suspect,
}

struct Scrub<'a> {
    engine: &'a Engine,
    parity: Arc<ParityStore>,
    repair: bool,
    pace: Pace<'a>,
    report: ScrubReport,
    left: BTreeMap<PackId, Left>,
    /// The first pack that a later run has to read.
    next: PackId,
    /// Bytes read when the mark was last noted.
    marked: u64,
}

impl Engine {
    /// Reads the superblocks, packs, checkpoints and parity files, and compares them with what they were when they
    /// were written; with [`ScrubOptions::repair`] brings back what parity allows.
    ///
    /// Never deletes what is damaged: what is replaced goes to quarantine. `progress` may return `false` to end it; the
    /// next one goes on there, if the store is open for writing.
    ///
    /// # Errors
    /// [`Error::Busy`] while another scrub runs; [`Error::ReadOnly`] for a repair of a store that is open for reading;
    /// [`Error::Stale`] if the store is closed meanwhile; those of the index and of the disk, but for what cannot be
    /// read, which is damage. Damage is in the report.
    pub fn scrub(
        &self,
        options: &ScrubOptions,
        progress: &(dyn Fn(Progress) -> bool + Sync),
    ) -> Result<ScrubReport> {
        if options.repair {
            self.check_writable()?;
        }
        self.scrub_any(options, progress)
    }

    /// As [`Engine::scrub`], for a store that is open for reading only because its damage keeps it from being opened
    /// for writing: what is repaired are files, and nothing is written to the log.
    ///
    /// # Errors
    /// As [`Engine::scrub`].
    pub fn scrub_offline(
        &self,
        options: &ScrubOptions,
        progress: &(dyn Fn(Progress) -> bool + Sync),
    ) -> Result<ScrubReport> {
        self.scrub_any(options, progress)
    }

    fn scrub_any(&self, options: &ScrubOptions, progress: Watch<'_>) -> Result<ScrubReport> {
        let Some(_one) = self.scrubbing.try_lock() else {
            return Err(Error::Busy("a scrub of this store is running"));
        };
        let mut start = None;
        if !options.restart {
            start = self.store.scrub_mark();
        }
        let parity = Arc::clone(&self.parity);
        let totals = parity.used_bytes();
        let mut scrub = Scrub {
            engine: self,
            parity,
            repair: options.repair,
            pace: Pace::new(self, options.rate, totals, progress),
            report: ScrubReport {
                resumed_at: start,
                ..ScrubReport::default()
            },
            left: BTreeMap::new(),
            next: start.unwrap_or_default(),
            marked: 0,
        };
        match scrub.run() {
            Ok(()) => scrub.report.is_finished = true,
            // Told to stop: what was found until then is told.
            Err(Error::Busy(_)) if scrub.pace.is_stopped() => {}
            Err(error) => {
                let _ = scrub.mark();
                return Err(error);
            }
        }
        scrub.repaired_by_others();
        scrub.mark()?;
        scrub.affected()?;
        Ok(scrub.report)
    }

    /// Rebuilds a damaged pack, and what else of its group is found to be damaged. The caller holds `parity_turn`, and
    /// has made sure that the pack belongs to the store.
    ///
    /// # Errors
    /// As [`ParityStore::reconstruct`].
    fn rebuild_pack(&self, pack: PackId) -> Result<Rebuilt> {
        let config = self.parity_config();
        let mut rebuilt = Rebuilt::default();
        for cover in self.parity.covers(pack) {
            let outcome = self.parity.reconstruct(cover.parity, &[pack], &config)?;
            let (repaired, lost) = match outcome {
                RepairOutcome::Clean => {
                    rebuilt.is_sound = true;
                    (Vec::new(), Vec::new())
                }
                RepairOutcome::Repaired(repaired) => (repaired, Vec::new()),
                RepairOutcome::BeyondRepair { repaired, lost } => (repaired, lost),
            };
            let header = self.parity.header(cover.parity);
            for done in &repaired {
                let member = header
                    .iter()
                    .find_map(|header| header.members().get(header.member_of(done.pack)?));
                if let Some(member) = member {
                    self.store.note_pack_back(done.pack, member.kind);
                }
                rebuilt.is_sound |= done.pack == pack;
            }
            self.note_repaired(&repaired);
            rebuilt.repaired.extend(repaired);
            let own = lost.into_iter().filter(|lost| lost.pack == pack);
            rebuilt.lost = own
                .map(|lost| lost.range.start.raw()..lost.range.end.raw())
                .collect();
            if rebuilt.is_sound {
                break;
            }
        }
        Ok(rebuilt)
    }

    /// Everything that names a pack: files, rows of packs and of chunks, the chain of the log.
    fn named_packs(&self) -> Result<BTreeMap<PackId, Named>> {
        let mut named: BTreeMap<PackId, Named> = BTreeMap::new();
        for (id, kind, len) in self.store.pack_sizes()? {
            let of = named.entry(id).or_default();
            of.kind = Some(kind);
            of.len = len.map_or(0, ByteLen::raw);
        }
        for (id, len) in self.needed_logs()? {
            let of = named.entry(id).or_default();
            of.kind = Some(PackKind::Log);
            of.len = of.len.max(len.raw());
        }
        let view = self.index().view();
        for_each_row(&view, Table::Pack, &[], &[0xff; 9], &mut |key, value| {
            if let Ok(row) = PackRow::decode(value) {
                let of = named.entry(keys::parse_pack(key)?).or_default();
                of.kind.get_or_insert(row.kind);
                of.row = Some(row);
                of.len = of.len.max(row.len.raw());
            }
            Ok(true)
        })?;
        for_each_row(&view, Table::Chunk, &[], &[0xff; 33], &mut |_, value| {
            if let Ok(row) = ChunkRow::decode(value) {
                let of = named.entry(row.pack).or_default();
                let end = row.frame.raw().saturating_add(u64::from(row.frame_len));
                of.len = of.len.max(end);
            }
            Ok(true)
        })?;
        Ok(named)
    }

    /// LOG packs that must be there, and how many bytes of them count.
    fn needed_logs(&self) -> Result<Vec<(PackId, ByteLen)>> {
        let start = log_start(self.disk.as_ref(), &self.store.current_superblock())?;
        let mut logs = self.store.chained_logs();
        logs.retain(|(id, _)| start.is_none_or(|start| *id >= start));
        Ok(logs)
    }

    /// Whether a pack is part of the store: cleaning may have removed it meanwhile. The caller holds `parity_turn`.
    fn belongs(&self, id: PackId) -> Result<bool> {
        if self.store.kind_of(id).is_some() {
            return Ok(true);
        }
        if self.needed_logs()?.iter().any(|(other, _)| *other == id) {
            return Ok(true);
        }
        let index = self.index().as_ref();
        if index.get(Table::Pack, &keys::pack(id))?.is_some() {
            return Ok(true);
        }
        let mut found = false;
        for_each_row(index, Table::Chunk, &[], &[0xff; 33], &mut |_, value| {
            found = ChunkRow::decode(value).is_ok_and(|row| row.pack == id);
            Ok(!found)
        })?;
        Ok(found)
    }
}

impl Scrub<'_> {
    fn run(&mut self) -> Result<()> {
        self.superblocks()?;
        let named = self.engine.named_packs()?;
        let from = self.next;
        self.pace
            .expect(named.range(from..).map(|(_, pack)| pack.len).sum());
        for (id, pack) in named.range(from..) {
            self.pack(*id, pack)?;
            self.pace.one_more();
            // Never past damage that is left.
            if self.left.is_empty() {
                self.next = id.next();
            }
            if self.pace.read_bytes().saturating_sub(self.marked) >= SCRUB_MARK_INTERVAL_LEN {
                self.mark()?;
            }
        }
        self.checkpoints()?;
        self.parity_files()
    }

    fn superblocks(&mut self) -> Result<()> {
        let bad = self.engine.store.bad_superblocks()?;
        if self.repair && !bad.is_empty() {
            self.engine.store.mend_superblocks()?;
        }
        let state = if self.repair {
            DamageState::Repaired
        } else {
            DamageState::Repairable
        };
        for file in bad {
            self.note(file.name, &[], file.detail, state);
        }
        Ok(())
    }

    fn pack(&mut self, id: PackId, named: &Named) -> Result<()> {
        self.report.packs += 1;
        let before = self.pace.read_bytes();
        let pace = &mut self.pace;
        let compared = self.parity.compare(id, &mut |len| pace.read(len));
        let done = match compared {
            Ok(Compared::Same) => Ok(()),
            Ok(Compared::Unprotected) => {
                self.report.unprotected += 1;
                self.structure(id, named)
            }
            Ok(Compared::Missing { len }) => self.covered(
                id,
                named,
                std::iter::once(0..len).collect(),
                "the file is missing".to_owned(),
            ),
            Ok(Compared::Differs(ranges)) => {
                let detail = "not the bytes that were written".to_owned();
                self.covered(id, named, ranges, detail)
            }
            Err(error @ Error::Io { .. }) => {
                let whole = 0..named.len.max(1);
                self.covered(id, named, vec![whole], error.to_string())
            }
            Err(other) => Err(other),
        };
        self.report.bytes += self.pace.read_bytes().saturating_sub(before);
        done
    }

    fn name(&self, id: PackId, named: &Named) -> String {
        let kind = self.engine.store.kind_of(id).or(named.kind);
        pack_name(id, kind.unwrap_or(PackKind::Data))
    }

    /// A damaged pack that parity covers.
    fn covered(
        &mut self,
        id: PackId,
        named: &Named,
        ranges: Vec<Range<u64>>,
        detail: String,
    ) -> Result<()> {
        let engine = self.engine;
        let name = self.name(id, named);
        let turn = engine.parity_turn.lock();
        if !engine.belongs(id)? {
            return Ok(());
        }
        if !self.repair {
            drop(turn);
            let suspect = Suspect::Within(ranges);
            self.leave(id, name, suspect, detail, DamageState::Repairable);
            return Ok(());
        }
        let rebuilt = engine.rebuild_pack(id);
        drop(turn);
        let rebuilt = match rebuilt {
            Ok(rebuilt) => rebuilt,
            Err(error) => {
                let detail = format!("{detail}; it could not be repaired: {error}");
                let suspect = Suspect::Within(ranges);
                self.leave(id, name, suspect, detail, DamageState::BeyondRepair);
                return Ok(());
            }
        };
        for done in rebuilt.repaired {
            self.report.quarantined.extend(done.quarantined);
            if done.pack == id {
                let detail = detail.clone();
                self.note(name.clone(), &ranges, detail, DamageState::Repaired);
            } else {
                let other = self.name(done.pack, &Named::default());
                let detail = "not the bytes that were written".to_owned();
                self.note(other, &[], detail, DamageState::Repaired);
            }
        }
        // One that is sound without having been rebuilt was repaired by somebody else, or can be read now. What others of
        // the group have lost is found when their turn comes.
        if !rebuilt.is_sound {
            let suspect = if rebuilt.lost.is_empty() {
                Suspect::Within(ranges)
            } else {
                Suspect::BeyondRepair(rebuilt.lost)
            };
            self.leave(id, name, suspect, detail, DamageState::BeyondRepair);
        }
        Ok(())
    }

    /// A pack that nothing covers: verified piece by piece.
    fn structure(&mut self, id: PackId, named: &Named) -> Result<()> {
        let was_open = self.engine.store.open_packs().contains(&id);
        let mut found = self.scan(id, named)?;
        if was_open && !found.problems.is_empty() {
            // It may have been ended while it was read.
            found = self.scan(id, named)?;
        }
        if found.problems.is_empty() {
            return Ok(());
        }
        let name = self.name(id, named);
        {
            let _turn = self.engine.parity_turn.lock();
            if !self.engine.belongs(id)? {
                return Ok(());
            }
        }
        let details: Vec<&str> = found.problems.iter().map(|(_, d)| d.as_str()).collect();
        let detail = match details.as_slice() {
            [one] => (*one).to_owned(),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
            [] => String::new(),
        };
        let ranges = found.ranges(named.len);
        let at = self.note(name, &ranges, detail, DamageState::Unprotected);
        let suspect = Suspect::AllBut(found.sound);
        self.left.insert(id, Left { at, suspect });
        Ok(())
    }

    fn scan(&mut self, id: PackId, named: &Named) -> Result<Found> {
        self.engine.store.open_anew(id);
        let mut found = Found::default();
        let pace = &mut self.pace;
        let mut seen = 0;
        let report = self
            .engine
            .store
            .scan_pack(id, named.row, &mut |scanned| match scanned {
                Scanned::Frame { off, len, .. } => {
                    found.sound.insert(off.raw());
                    found.pieces.push(off.raw());
                    let end = off.raw().saturating_add(u64::from(len));
                    let more = end.saturating_sub(seen);
                    seen = seen.max(end);
                    pace.read(more)
                }
                Scanned::Record { off, .. } => {
                    found.pieces.push(off.raw());
                    Ok(())
                }
                Scanned::Problem { off, detail } => {
                    found.problems.push((off.raw(), detail));
                    Ok(())
                }
            })?;
        found.len = report.bytes;
        self.pace.read(report.bytes.saturating_sub(seen))?;
        Ok(found)
    }

    fn checkpoints(&mut self) -> Result<()> {
        let store = &self.engine.store;
        for name in store.checkpoints()? {
            let error = match store.verify_checkpoint(name) {
                Ok(()) | Err(Error::NotFound) => continue,
                Err(error) => error,
            };
            // A cleaning that has made newer ones removes it.
            if !store.checkpoints()?.contains(&name) {
                continue;
            }
            let mut state = DamageState::Repairable;
            let mut detail = error.to_string();
            if self.repair {
                let mended = match store.mend_checkpoint(name) {
                    Ok(true) => Ok(()),
                    Ok(false) => self.engine.renew_checkpoints(),
                    Err(error) => Err(error),
                };
                state = DamageState::Repaired;
                if let Err(error) = mended {
                    detail = format!("{detail}; it could not be made anew: {error}");
                    state = DamageState::BeyondRepair;
                }
            }
            self.note(name.path(), &[], detail, state);
        }
        Ok(())
    }

    /// Notes damage of a pack that is left.
    fn leave(
        &mut self,
        id: PackId,
        name: String,
        suspect: Suspect,
        detail: String,
        state: DamageState,
    ) {
        let at = self.note(name, suspect.ranges(), detail, state);
        self.left.insert(id, Left { at, suspect });
    }

    /// Adds damage to the report; gives its place there.
    fn note(
        &mut self,
        file: String,
        ranges: &[Range<u64>],
        detail: String,
        state: DamageState,
    ) -> Option<usize> {
        log::error!("scrub: {file}: {detail} ({})", state.name());
        if state == DamageState::Repaired {
            self.report.repaired += 1;
        } else {
            self.report.left += 1;
        }
        if self.report.damaged.len() >= PROBLEMS_MAX {
            self.report.damaged_more += 1;
            return None;
        }
        let mut listed: Vec<Range<u64>> = ranges.iter().take(SCRUB_RANGES_MAX).cloned().collect();
        if let (Some(to), Some(last)) = (ranges.last(), listed.last_mut()) {
            last.end = last.end.max(to.end);
        }
        self.report.damaged.push(ScrubDamage {
            file,
            ranges: listed,
            detail,
            state,
            paths: Vec::new(),
            paths_more: 0,
        });
        Some(self.report.damaged.len() - 1)
    }

    /// Notes durably where a later scrub goes on.
    fn mark(&mut self) -> Result<()> {
        self.marked = self.pace.read_bytes();
        if self.engine.config.read_only {
            return Ok(());
        }
        let next = (!self.report.is_finished).then_some(self.next);
        self.engine.store.note_scrub(next)
    }

    /// What was repaired since the last scrub without one: when the store was opened, or after a read.
    fn repaired_by_others(&mut self) {
        for name in self.parity.take_rewritten() {
            let told =
                |damage: &ScrubDamage| damage.file == name && damage.state == DamageState::Repaired;
            if !self.report.damaged.iter().any(told) {
                let detail = "it was damaged, and was repaired when it was needed".to_owned();
                self.note(name, &[], detail, DamageState::Repaired);
            }
        }
    }

    /// Finds the paths that suffer from what is left.
    fn affected(&mut self) -> Result<()> {
        let mut suspects = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (id, left) in std::mem::take(&mut self.left) {
            suspects.insert(id, left.suspect);
            places.extend(left.at.map(|at| (id, at)));
        }
        let view = self.engine.index().view();
        let lost = self.engine.lost_chunks(&view, &suspects)?;
        let damaged = &mut self.report.damaged;
        for (id, frames) in &lost.frames {
            let at = places.get(id);
            let Some(damage) = at.and_then(|at| damaged.get_mut(*at)) else {
                continue;
            };
            if damage.state == DamageState::Unprotected {
                let frames = frames.iter().map(|(from, to)| *from..*to);
                damage.ranges = joined(damage.ranges.drain(..).chain(frames).collect());
                damage.ranges.truncate(SCRUB_RANGES_MAX);
            }
        }
        self.engine
            .paths_that_need(&view, &lost.chunks, &mut |id, path| {
                let at = places.get(&id);
                let Some(damage) = at.and_then(|at| damaged.get_mut(*at)) else {
                    return;
                };
                if damage.paths.len() >= PROBLEM_PATHS_MAX {
                    damage.paths_more += 1;
                } else if damage.paths.last() != Some(&path) {
                    damage.paths.push(path);
                }
            })
    }
}

/// What verifying a pack piece by piece has shown.
#[derive(Default)]
struct Found {
    /// Offsets of frames that verify.
    sound: HashSet<u64>,
    /// Offsets of all pieces that verify.
    pieces: Vec<u64>,
    problems: Vec<(u64, String)>,
    /// Length of the file.
    len: u64,
}

impl Found {
    /// The bytes that the problems lie in: each up to the next piece that verifies.
    fn ranges(&mut self, named_len: u64) -> Vec<Range<u64>> {
        self.pieces.sort_unstable();
        let end = self.len.max(named_len);
        let of = |(off, _): &(u64, String)| {
            let next = self.pieces.partition_point(|piece| piece <= off);
            let to = self.pieces.get(next).copied().unwrap_or(end);
            // A pack that is too short is a problem of its whole; what is gone is its end.
            let from = if *off == 0 && self.pieces.is_empty() && self.len < named_len {
                self.len
            } else {
                *off
            };
            from..to.max(from)
        };
        joined(self.problems.iter().map(of).collect())
    }
}

/// Ranges in order, those that touch as one; empty ones are left out.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}
