//! Brings damaged and lost packs back from parity, byte for byte.
//!
//! 1. Each suspected pack is read from front to back and compared with the table of checksums: what does not match,
//!    cannot be read or is not there is erased. A pack whose digest matches is intact whatever the table says.
//! 2. Every block with an erased symbol is read, the other packs' symbols with it, checked and decoded. What comes out
//!    is written to a new file beside the pack; the intact symbols are copied to it. Another pack of which a symbol turns
//!    out to be erased is taken through the first step then.
//! 3. The new file is read back and its digest compared. Only then it is renamed to `….repaired`, the damaged pack is
//!    moved to quarantine, and the new one takes its name, each step durable before the next. A crash between the last
//!    two leaves a pack that is only there as `….repaired`: [`ParityStore::finish_repairs`] ends that.
//!
//! A pack with a symbol that cannot be computed is left alone, and what is lost is reported exactly.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::files::{PACKS, pack_name, parse_name};
use super::log_end::digest_of;
use super::parity::{ParityConfig, ParityStore};
use super::parity_group::{Block, Group, RUN_LEN, remove_if_there};
use crate::base::limits::{PARITY_RANGE_LEN_MAX, QUARANTINE_FILES_MAX};
use crate::base::{Digest, Error, PackId, PackOff, ParityId, Result, Site};
use crate::disk::DiskFile;
use crate::fec::Plans;
use crate::format::parity::{Member, ParityHeader, SourceAt, SymbolAt};
use crate::hash::{Checksum, SpanHasher};

/// The directory of damaged packs within a store.
const QUARANTINE: &str = "quarantine";
/// What a pack's name ends with while it is being rebuilt.
const TEMP: &str = ".tmp";
/// What it ends with once it is whole, verified and durable.
const REPAIRED: &str = ".repaired";

/// Bytes of a pack that cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// The pack.
    pub pack: PackId,
    /// The bytes.
    pub range: Range<PackOff>,
}

/// A pack that was replaced by what was originally encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairedPack {
    /// The pack.
    pub pack: PackId,
    /// Symbols of it that were computed.
    pub symbols: u64,
    /// Name within the store of the damaged file; `None` if there was none.
    pub quarantined: Option<String>,
}

/// What a repair has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairOutcome {
    /// The packs are what was encoded; nothing was written.
    Clean,
    /// All damage that was found is repaired.
    Repaired(Vec<RepairedPack>),
    /// Some packs have more damage than parity.
    BeyondRepair {
        /// Packs that could be repaired all the same.
        repaired: Vec<RepairedPack>,
        /// What is lost, by pack and offset; those packs were not touched.
        lost: Vec<LostRange>,
    },
}

/// What a read of damaged bytes has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeOutcome {
    /// The bytes as they were encoded. A reader verifies them as if they came from the disk.
    Bytes(Vec<u8>),
    /// Some of them cannot be computed.
    BeyondRepair(Vec<LostRange>),
    /// No parity file covers them.
    Unprotected,
}

/// A suspected pack after the first reading.
pub(super) struct Survey {
    /// For each symbol whether it has to be computed.
    pub(super) bad: Vec<bool>,
    /// Whether the pack is what was encoded.
    pub(super) clean: bool,
}

/// A pack that is being rebuilt.
struct Rebuild {
    member: usize,
    survey: Survey,
    file: Arc<dyn DiskFile>,
    hopeless: bool,
}

/// One pass over the damaged packs that are known.
#[derive(Default)]
struct Pass {
    repaired: Vec<RepairedPack>,
    lost: Vec<LostRange>,
    /// Members that turned out to be damaged as well.
    others: BTreeSet<usize>,
    /// Packs that are intact after all: only the checksums of some of their symbols were lost.
    clean: BTreeSet<PackId>,
}

/// Adds a range to those that ascend, joining it to the one before.
fn add_lost(lost: &mut Vec<LostRange>, group: &Group, at: SymbolAt) {
    let Some(member) = group.header.members().get(at.member) else {
        return;
    };
    let start = group.offset(at.idx);
    let end = PackOff::from_raw(start.raw().saturating_add(group.real_len(at) as u64));
    lost.push(LostRange {
        pack: member.pack,
        range: start..end,
    });
}

/// Sorts ranges and joins those that touch.
fn join_lost(mut lost: Vec<LostRange>) -> Vec<LostRange> {
    let key = |lost: &LostRange| (lost.pack, lost.range.start, lost.range.end);
    lost.sort_by_key(key);
    let mut joined: Vec<LostRange> = Vec::new();
    for next in lost {
        match joined.last_mut() {
            Some(last) if last.pack == next.pack && last.range.end >= next.range.start => {
                last.range.end = last.range.end.max(next.range.end);
            }
            _ => joined.push(next),
        }
    }
    joined
}

impl Survey {
    fn bad_count(&self) -> u64 {
        self.bad.iter().filter(|bad| **bad).count() as u64
    }
}

impl ParityStore {
    /// Compares suspected packs of a parity file with what was encoded, and rewrites those that are damaged. Other
    /// packs of the group that turn out to be damaged on the way are rewritten as well.
    ///
    /// One repair runs at a time. Whoever has a rewritten pack open holds the damaged file: it must be opened anew.
    /// Packs that were noted as gone ([`ParityStore::note_gone`]) are left gone.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a parity file or pack that is not known; [`Error::NoSpace`], [`Error::Io`] while writing;
    /// [`Error::Corrupt`] if a rebuilt pack does not have its digest. The damaged pack is then still in its place.
    pub fn reconstruct(
        &self,
        parity: ParityId,
        suspects: &[PackId],
        config: &ParityConfig,
    ) -> Result<RepairOutcome> {
        self.reconstruct_where(parity, suspects, config, &|pack| !self.is_gone(pack))
    }

    /// As [`ParityStore::reconstruct`], but of the other packs of the group none is rewritten: while it is not known
    /// which of them are part of the store.
    ///
    /// # Errors
    /// As [`ParityStore::reconstruct`].
    pub fn reconstruct_only(
        &self,
        parity: ParityId,
        suspects: &[PackId],
        config: &ParityConfig,
    ) -> Result<RepairOutcome> {
        self.reconstruct_where(parity, suspects, config, &|pack| suspects.contains(&pack))
    }

    fn reconstruct_where(
        &self,
        parity: ParityId,
        suspects: &[PackId],
        config: &ParityConfig,
        may_rewrite: &dyn Fn(PackId) -> bool,
    ) -> Result<RepairOutcome> {
        let header = self.header(parity);
        let header = header.ok_or(Error::Invalid("no parity file has this number"))?;
        let _one_at_a_time = self.repairs.lock();
        self.finish_repairs_locked()?;
        let of = |pack: &PackId| header.member_of(*pack);
        let wanted = suspects.iter().filter(|pack| may_rewrite(**pack));
        let suspects: Option<BTreeSet<usize>> = wanted.map(of).collect();
        let mut suspects =
            suspects.ok_or(Error::Invalid("the parity file does not cover the pack"))?;
        let may = |member: &usize| {
            let member = header.members().get(*member);
            member.is_some_and(|member| may_rewrite(member.pack))
        };
        let (mut seen, mut repaired, mut lost) = (BTreeSet::new(), Vec::new(), Vec::new());
        while !suspects.is_empty() {
            let group = self.open_group(Arc::clone(&header));
            let pass = match self.repair_pass(&group, &suspects, &may, config) {
                // Room for those that were asked for is more than none.
                Err(Error::NoSpace) => self.repair_pass(&group, &suspects, &|_| false, config)?,
                done => done?,
            };
            seen.extend(std::mem::take(&mut suspects));
            repaired.extend(pass.repaired);
            lost.extend(pass.lost);
            lost.retain(|lost: &LostRange| !pass.clean.contains(&lost.pack));
            let is_clean = |member: &usize| {
                let member = header.members().get(*member);
                member.is_some_and(|member| pass.clean.contains(&member.pack))
            };
            let others = pass.others.difference(&seen).copied();
            suspects = others.filter(|m| may(m) && !is_clean(m)).collect();
        }
        let lost = join_lost(lost);
        Ok(match (repaired.is_empty(), lost.is_empty()) {
            (true, true) => RepairOutcome::Clean,
            (false, true) => RepairOutcome::Repaired(repaired),
            (_, false) => RepairOutcome::BeyondRepair { repaired, lost },
        })
    }

    fn repair_pass(
        &self,
        group: &Group,
        suspects: &BTreeSet<usize>,
        may_rewrite: &dyn Fn(&usize) -> bool,
        config: &ParityConfig,
    ) -> Result<Pass> {
        let mut pass = Pass::default();
        let mut rebuilds = Vec::new();
        let done = self.rebuild(
            group,
            suspects,
            may_rewrite,
            config,
            &mut rebuilds,
            &mut pass,
        );
        let install = |rebuild: &Rebuild| {
            let member = group.header.members().get(rebuild.member)?;
            let may = done.is_ok() && !rebuild.hopeless;
            let installed = may.then(|| self.install(group, member, rebuild));
            if matches!(installed, Some(Ok(_))) {
                self.note_rewritten(pack_name(member.pack, member.kind));
            } else {
                // If this fails, `finish_repairs` removes it; the first error is the one that counts.
                let temp = pack_name(member.pack, member.kind) + TEMP;
                let _ = remove_if_there(self.packs.as_ref(), &temp);
            }
            installed.map(|installed| (member, installed))
        };
        let mut installed = Vec::with_capacity(rebuilds.len());
        for some in rebuilds.chunks(config.threads.max(1)) {
            installed.par_extend(some.par_iter().map(install));
        }
        for (rebuild, installed) in rebuilds.iter().zip(installed) {
            let Some((member, installed)) = installed else {
                continue;
            };
            pass.repaired.push(RepairedPack {
                pack: member.pack,
                symbols: rebuild.survey.bad_count(),
                quarantined: installed?,
            });
        }
        done.map(|()| pass)
    }

    /// Surveys the suspects and computes what is missing in those that are damaged.
    fn rebuild(
        &self,
        group: &Group,
        suspects: &BTreeSet<usize>,
        may_rewrite: &dyn Fn(&usize) -> bool,
        config: &ParityConfig,
        rebuilds: &mut Vec<Rebuild>,
        pass: &mut Pass,
    ) -> Result<()> {
        let blocks = usize::try_from(group.header.shape().block_count).unwrap_or(usize::MAX);
        let mut affected = vec![false; blocks];
        self.survey_all(group, suspects, config, &mut affected, rebuilds, pass)?;
        let mut surveyed = suspects.clone();
        let width = group.width(config);
        let mut blocks = Vec::new();
        // Front to back; a pack that turns out to be damaged on the way may affect what lies before.
        while let Some(from) = affected.iter().position(|hit| *hit) {
            let run = affected.iter().skip(from).take_while(|hit| **hit).count();
            let count = u32::try_from(run).unwrap_or(u32::MAX).min(width.held);
            let start = u32::try_from(from).unwrap_or(u32::MAX);
            self.check_interrupted()?;
            group.load(&mut blocks, start, count, config.threads);
            let mut recovered = Vec::with_capacity(blocks.len());
            for some in blocks.chunks_mut(width.busy) {
                let whole: Result<Vec<bool>> = some
                    .par_iter_mut()
                    .map(|block| {
                        group.check(block);
                        group.recover(&self.plans, block)
                    })
                    .collect();
                recovered.extend(whole?);
            }
            let found: BTreeSet<usize> = blocks
                .iter()
                .flat_map(|block| damaged_members(group, block))
                .filter(|member| !surveyed.contains(member) && may_rewrite(member))
                .collect();
            self.survey_all(group, &found, config, &mut affected, rebuilds, pass)?;
            surveyed.extend(found);
            for (block, whole) in blocks.iter().zip(recovered) {
                take_block(group, block, whole, rebuilds, pass)?;
            }
            let done = usize::try_from(count).unwrap_or(usize::MAX);
            affected
                .iter_mut()
                .skip(from)
                .take(done)
                .for_each(|hit| *hit = false);
        }
        Ok(())
    }

    /// Reads packs from front to back; begins a rebuilt one for each that is damaged, and marks the blocks that it needs.
    fn survey_all(
        &self,
        group: &Group,
        members: &BTreeSet<usize>,
        config: &ParityConfig,
        affected: &mut [bool],
        rebuilds: &mut Vec<Rebuild>,
        pass: &mut Pass,
    ) -> Result<()> {
        let count = affected.len().max(1);
        let survey = |&member: &usize| Ok((member, self.survey_member(group, member)?));
        let members: Vec<usize> = members.iter().copied().collect();
        let mut surveys = Vec::with_capacity(members.len());
        for some in members.chunks(config.threads.max(1)) {
            let found: Result<Vec<(usize, Survey)>> = some.par_iter().map(survey).collect();
            surveys.extend(found?);
        }
        for (member, survey) in surveys {
            let Some(facts) = group.header.members().get(member) else {
                continue;
            };
            if survey.clean {
                pass.clean.insert(facts.pack);
                continue;
            }
            for (idx, _) in survey.bad.iter().enumerate().filter(|(_, bad)| **bad) {
                if let Some(block) = affected.get_mut(idx % count) {
                    *block = true;
                }
            }
            let temp = pack_name(facts.pack, facts.kind) + TEMP;
            remove_if_there(self.packs.as_ref(), &temp)?;
            rebuilds.push(Rebuild {
                member,
                survey,
                file: self.packs.create_new(&temp)?,
                hopeless: false,
            });
        }
        Ok(())
    }

    /// The first reading of a suspected pack.
    pub(super) fn survey_member(&self, group: &Group, member: usize) -> Result<Survey> {
        let Some(facts) = group.header.members().get(member) else {
            return Err(Error::Internal("a member that there is not"));
        };
        let symbols = group.header.symbols(member);
        let mut bad = Vec::new();
        let mut whole = SpanHasher::new(Checksum::Pack);
        let mut readable = true;
        let mut buf = vec![0; RUN_LEN];
        let mut idx = 0;
        while idx < symbols {
            let left = usize::try_from(symbols - idx).unwrap_or(usize::MAX);
            let count = (RUN_LEN / group.symbol_len()).min(left);
            let run = buf.get_mut(..count * group.symbol_len());
            let run = run.unwrap_or_default();
            let came = group.read_run(SymbolAt { member, idx }, run);
            for (symbol, came) in run.chunks(group.symbol_len()).zip(came) {
                let at = SymbolAt { member, idx };
                whole.update(symbol.get(..group.real_len(at)).unwrap_or_default());
                readable &= came;
                bad.push(!came || !group.accepts(at, symbol));
                idx += 1;
            }
        }
        let len = match group.members.get(member) {
            Some(Some(file)) => file.len().ok(),
            _ => None,
        };
        let same = readable && Digest::from_raw(whole.finish()) == facts.digest;
        Ok(Survey {
            clean: same && len == Some(facts.len),
            bad,
        })
    }

    /// Completes a rebuilt pack, verifies it and puts it in the place of the damaged one.
    fn install(&self, group: &Group, member: &Member, rebuild: &Rebuild) -> Result<Option<String>> {
        copy_good(group, rebuild)?;
        rebuild.file.sync_data()?;
        verify(rebuild.file.as_ref(), member)?;
        let disk = self.packs.as_ref();
        let name = pack_name(member.pack, member.kind);
        disk.rename(&format!("{name}{TEMP}"), &format!("{name}{REPAIRED}"))?;
        disk.sync_dir(PACKS)?;
        let quarantined = self.quarantine(&name)?;
        disk.rename(&format!("{name}{REPAIRED}"), &name)?;
        disk.sync_dir(PACKS)?;
        Ok(quarantined)
    }

    /// Moves a damaged file to the directory of damaged files; returns its name there.
    fn quarantine(&self, name: &str) -> Result<Option<String>> {
        let disk = self.packs.as_ref();
        if disk.len(name)?.is_none() {
            return Ok(None);
        }
        disk.create_dir(QUARANTINE)?;
        disk.sync_dir("")?;
        let plain = name.rsplit('/').next().unwrap_or(name);
        for n in 0..QUARANTINE_FILES_MAX {
            let to = format!("{QUARANTINE}/{plain}.{n}");
            if disk.len(&to)?.is_none() {
                disk.rename(name, &to)?;
                disk.sync_dir(QUARANTINE)?;
                disk.sync_dir(PACKS)?;
                return Ok(Some(to));
            }
        }
        Err(Error::Busy("quarantine holds too many files of one pack"))
    }

    /// Ends repairs that a crash has interrupted: a rebuilt pack takes the place of one that was already moved to
    /// quarantine; what was begun before that is removed. To be called before the packs are looked at.
    ///
    /// Returns the packs that were put in place.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish_repairs(&self) -> Result<Vec<String>> {
        let _one_at_a_time = self.repairs.lock();
        self.finish_repairs_locked()
    }

    fn finish_repairs_locked(&self) -> Result<Vec<String>> {
        let disk = self.packs.as_ref();
        let mut placed = Vec::new();
        let mut changed = false;
        for name in disk.list(PACKS)? {
            let path = format!("{PACKS}/{name}");
            let is_pack = |end| name.strip_suffix(end).and_then(parse_name).is_some();
            if is_pack(TEMP) {
                disk.remove(&path)?;
                changed = true;
            } else if is_pack(REPAIRED) {
                let pack = path.strip_suffix(REPAIRED).unwrap_or(&path);
                if disk.len(pack)?.is_none() {
                    disk.rename(&path, pack)?;
                    placed.push(pack.to_owned());
                } else {
                    disk.remove(&path)?;
                }
                changed = true;
            }
        }
        if changed {
            disk.sync_dir(PACKS)?;
        }
        Ok(placed)
    }

    /// The bytes `off..off + len` of a pack as they were encoded, computed where the disk does not have them; nothing
    /// is written. `len` is at most [`PARITY_RANGE_LEN_MAX`].
    ///
    /// Reads the range and, of each block in which some of it is damaged, all symbols.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a range that is too long or past the end of what was encoded.
    pub fn reconstruct_range(
        &self,
        pack: PackId,
        off: PackOff,
        len: usize,
    ) -> Result<RangeOutcome> {
        let mut outcome = RangeOutcome::Unprotected;
        for cover in self.covers(pack) {
            let Some(header) = self.header(cover.parity) else {
                continue;
            };
            let found = self.range_from(header, pack, off, len)?;
            if matches!(found, RangeOutcome::Bytes(_)) {
                return Ok(found);
            }
            outcome = found;
        }
        Ok(outcome)
    }

    fn range_from(
        &self,
        header: Arc<ParityHeader>,
        pack: PackId,
        off: PackOff,
        len: usize,
    ) -> Result<RangeOutcome> {
        let member = header.member_of(pack).unwrap_or(0);
        let pack_len = header.members().get(member).map_or(0, |m| m.len.raw());
        let end = off.raw().saturating_add(len as u64);
        if len > PARITY_RANGE_LEN_MAX || end > pack_len {
            return Err(Error::Invalid("a range that the parity does not cover"));
        }
        if len == 0 {
            return Ok(RangeOutcome::Bytes(Vec::new()));
        }
        let group = self.open_group(header);
        let symbol_len = group.symbol_len() as u64;
        let (first, last) = (off.raw() / symbol_len, (end - 1) / symbol_len);
        let count = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
        let mut buf = vec![0; count * group.symbol_len()];
        let first = SymbolAt { member, idx: first };
        let lost = repair_run(&self.plans, &group, first, &mut buf)?;
        if !lost.is_empty() {
            return Ok(RangeOutcome::BeyondRepair(join_lost(lost)));
        }
        let skip = usize::try_from(off.raw() % symbol_len).unwrap_or(usize::MAX);
        buf.drain(..skip.min(buf.len()));
        buf.truncate(len);
        Ok(RangeOutcome::Bytes(buf))
    }
}

/// Reads consecutive symbols of a member into `buf` and computes those that are damaged; returns what cannot be.
fn repair_run(
    plans: &Plans,
    group: &Group,
    first: SymbolAt,
    buf: &mut [u8],
) -> Result<Vec<LostRange>> {
    let came = group.read_run(first, buf);
    let mut lost = Vec::new();
    // Blocks with damage, and where in `buf` their symbols of this run are.
    let mut damaged: Vec<(SourceAt, usize)> = Vec::new();
    for (n, (symbol, came)) in buf.chunks(group.symbol_len()).zip(came).enumerate() {
        let at = SymbolAt {
            member: first.member,
            idx: first.idx.saturating_add(n as u64),
        };
        if !came || !group.accepts(at, symbol) {
            damaged.push((group.header.source_at(at), n));
        }
    }
    damaged.sort_by_key(|(at, n)| (at.block, *n));
    let mut blocks = Vec::new();
    for same in damaged.chunk_by(|(a, _), (b, _)| a.block == b.block) {
        let Some((at, _)) = same.first() else {
            continue;
        };
        group.load(&mut blocks, at.block, 1, 1);
        for block in &mut blocks {
            group.check(block);
            let whole = group.recover(plans, block)?;
            for (at, n) in same {
                let esi = usize::try_from(at.esi).unwrap_or(usize::MAX);
                // One whose checksum is lost may have been computed; then it counts as right.
                if !whole && block.good.get(esi) != Some(&true) {
                    if let Some(symbol) = group.header.symbol_at(*at) {
                        add_lost(&mut lost, group, symbol);
                    }
                    continue;
                }
                let from = block.bytes.chunks(group.symbol_len()).nth(esi);
                let to = buf.chunks_mut(group.symbol_len()).nth(*n);
                if let (Some(from), Some(to)) = (from, to) {
                    to.copy_from_slice(from);
                }
            }
        }
    }
    Ok(lost)
}

/// The members of which a block has erased symbols.
fn damaged_members(group: &Group, block: &Block) -> BTreeSet<usize> {
    let at = |esi: &u32| {
        let at = SourceAt {
            block: block.block,
            esi: *esi,
        };
        group.header.symbol_at(at).map(|at| at.member)
    };
    block.erased.iter().filter_map(at).collect()
}

/// Takes over what a block has of the packs that are being rebuilt: what was computed, and what could not be read when
/// the pack was surveyed but came now.
fn take_block(
    group: &Group,
    block: &Block,
    whole: bool,
    rebuilds: &mut [Rebuild],
    pass: &mut Pass,
) -> Result<()> {
    for (symbol, esi) in block.bytes.chunks(group.symbol_len()).zip(0..) {
        let at = SourceAt {
            block: block.block,
            esi,
        };
        let Some(at) = group.header.symbol_at(at) else {
            continue;
        };
        let erased = block.erased.binary_search(&esi).is_ok();
        let is_lost = erased && !whole;
        if is_lost {
            add_lost(&mut pass.lost, group, at);
        }
        let Some(rebuild) = rebuilds.iter_mut().find(|r| r.member == at.member) else {
            if erased {
                pass.others.insert(at.member);
            }
            continue;
        };
        rebuild.hopeless |= is_lost;
        let idx = usize::try_from(at.idx).unwrap_or(usize::MAX);
        let bad = rebuild.survey.bad.get_mut(idx);
        let bad = bad.ok_or(Error::Internal("a symbol that there is not"))?;
        if (erased || *bad) && !is_lost {
            let real = symbol.get(..group.real_len(at)).unwrap_or_default();
            rebuild.file.write_at(group.offset(at.idx), real)?;
            *bad = true;
        }
    }
    Ok(())
}

/// Copies the symbols of a damaged pack that are right to the rebuilt one.
fn copy_good(group: &Group, rebuild: &Rebuild) -> Result<()> {
    let mut buf = vec![0; RUN_LEN];
    let per_run = (RUN_LEN / group.symbol_len()).max(1);
    let mut idx = 0_u64;
    for flags in rebuild.survey.bad.chunks(per_run) {
        let run = buf.get_mut(..flags.len() * group.symbol_len());
        let run = run.unwrap_or_default();
        let member = rebuild.member;
        if flags.iter().any(|bad| !bad) {
            group.read_run(SymbolAt { member, idx }, run);
        }
        // One write for each run of right symbols.
        let mut from = 0;
        for same in flags.chunk_by(|a, b| a == b) {
            let next = idx.saturating_add(same.len() as u64);
            if same.first() == Some(&false) {
                let last = SymbolAt {
                    member,
                    idx: next.saturating_sub(1),
                };
                let len = (same.len() - 1) * group.symbol_len() + group.real_len(last);
                let right = run.get(from..from + len).unwrap_or_default();
                rebuild.file.write_at(group.offset(idx), right)?;
            }
            from += same.len() * group.symbol_len();
            idx = next;
        }
    }
    Ok(())
}

/// Reads a rebuilt pack back and compares its length and digest.
fn verify(file: &dyn DiskFile, member: &Member) -> Result<()> {
    let (digest, len) = digest_of(file)?;
    if len == member.len && digest == member.digest {
        return Ok(());
    }
    Err(Error::Corrupt {
        what: "rebuilt pack",
        site: Site {
            pack: member.pack,
            off: PackOff::from_raw(0),
        },
        detail: "its digest does not match; the damaged pack is left in its place".to_owned(),
    })
}
