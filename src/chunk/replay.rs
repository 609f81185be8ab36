//! Reads the log back.
//!
//! 1. List the packs. A number up to the superblock's high-water mark without a file is a missing pack.
//! 2. From the newest LOG pack follow the cuts back to the first: each names the pack before it and how many of
//!    its bytes count. A pack that is not there or shorter is an error; what follows a cut is ignored; LOG
//!    packs that no cut names were cut out whole.
//! 3. Make sure that the watermark is a place of this log (`place`). What is before it is in the index and
//!    is not read: rot there must not keep the rest from being used, and `check` finds it.
//! 4. Walk the records forward from the watermark (or the first pack), verifying every span and every chain
//!    hash.
//! 5. A record that does not verify before a cut or before a footer is damage. In the
//!    newest pack, if it has no footer, it is a *torn tail*, which is ignored together with the parts
//!    of its commit — unless a record of a later commit follows that verifies from its own previous
//!    chain hash: that commit was written after the sync of the bad one, so it is rot and an error.
//!    (Rot in the very last commit of an unsealed pack cannot be told from a tear, except by the watermark.)

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::first_needed;
use super::files::{list_packs, pack_name, read_exactly};
use super::place::{Place, place_of};
use super::types::Watermark;
use super::walk::{FoundRecord, Step, Walk, detail_of};
use super::window::Window;
use crate::base::{ByteLen, Error, Lsn, PackId, PackOff, Result, Site};
use crate::disk::{Access, Disk, DiskFile};
use crate::format::footer::{TRAILER_LEN, decode_trailer};
use crate::format::keys;
use crate::format::pack::{Cut, PACK_HEADER_LEN, PackHeader, decode_pack_header};
use crate::format::rows::{Op, PackKind, PackRow, Table};
use crate::format::superblock::Superblock;
use crate::hash::{Checksum, checksum};

/// How a replay ended.
#[derive(Debug)]
pub enum Replay {
    /// The log was read to its end.
    Done(LogTail),
    /// The watermark is no place of this log: the index must be rebuilt from nothing. `each` was not called.
    Foreign,
}

/// The end of the log, where a store goes on.
#[derive(Clone, Debug)]
pub struct LogTail {
    /// After the last complete commit.
    pub(super) mark: Watermark,
    /// Epoch of its pack, 0 before the first.
    pub(super) epoch: u64,
    /// The number that the next pack gets.
    pub(super) next_pack: PackId,
    /// The last row of each pack among what was replayed.
    pub(super) rows: BTreeMap<PackId, PackRow>,
    /// DATA packs that what was replayed names and that are not there.
    pub(super) missing: Vec<PackId>,
    /// Numbers above the newest LOG pack that have no file and that nothing replayed names as DATA: unless the
    /// index does, they were LOG packs with commits that are lost. Empty after a replay from the start.
    pub(super) unnamed: Vec<Range<PackId>>,
    /// How many bytes count of each LOG pack that the cuts lead to.
    pub(super) limits: BTreeMap<PackId, PackOff>,
    /// The LOG packs without a footer that no commit has said so of: the first commit of a later pack does.
    pub(super) unsettled: BTreeMap<PackId, PackOff>,
}

impl LogTail {
    /// The place after the last complete commit.
    #[must_use]
    pub fn watermark(&self) -> Watermark {
        self.mark
    }

    /// The rows that LOG packs get which were found without a footer.
    pub(super) fn retired(&self) -> BTreeMap<PackId, PackRow> {
        let row = |len: &PackOff| PackRow::log(ByteLen::from_raw(len.raw()));
        self.unsettled
            .iter()
            .map(|(id, len)| (*id, row(len)))
            .collect()
    }
}

/// What is called with the operations of each commit and the place after it.
pub type EachCommit<'a> = &'a mut dyn FnMut(Vec<Op>, Watermark) -> Result<()>;

/// Reads the log from `from`, or from its beginning, and calls `each` with every complete commit in order.
///
/// Writes nothing, but syncs the newest LOG pack: what is reported is durable. Reads the log from the watermark on,
/// and the header of every older LOG pack that has a good one.
///
/// # Errors
/// [`Error::PackMissing`], [`Error::PackTruncated`], [`Error::LogDamaged`] as described for the module, for what
/// is not before the watermark; those of `each`; [`Error::Io`]. A DATA pack, or a LOG pack before the watermark,
/// that is missing is no error here but one of [`ChunkStore::open`](super::ChunkStore::open) for writing. So is
/// one newer than the newest LOG pack that is there, but for a replay from the start, of which it is an error.
pub fn replay(
    disk: &dyn Disk,
    superblock: &Superblock,
    from: Option<Watermark>,
    each: EachCommit<'_>,
) -> Result<Replay> {
    let packs = list_packs(disk)?;
    let from = from.filter(|mark| *mark != Watermark::START);
    let log = Log {
        disk,
        superblock,
        packs: &packs,
        start: first_needed(disk, superblock, from.as_ref())?,
    };
    let chain = log.chain(from.as_ref())?;
    if let Some(newest) = chain.links.last() {
        // A process that died before its sync left records that only the system's cache holds. They are made
        // durable before the index, or the cut of the next LOG pack, relies on them (I1).
        newest.file.sync_data()?;
    }
    let mut state = State::new(each);
    if let Some(mark) = from {
        match log.locate(&chain.links, &mark)? {
            Some((idx, epoch)) => state.start(mark, idx, epoch),
            None => return Ok(Replay::Foreign),
        }
    }
    log.walk(&chain.links, &mut state)?;
    let absent = log.absent_numbers();
    let newest = chain.links.last();
    let unnamed = log.unnamed(newest.map(|link| link.id), &absent, &state.rows);
    if from.is_none()
        && let Some(lost) = unnamed.first()
    {
        return Err(log.missing_log(lost.start));
    }
    let is_absent = |id: &&PackId| absent.iter().any(|range| range.contains(*id));
    let highest = packs.keys().next_back().copied().unwrap_or_default();
    let mut limits = chain.older;
    // Bug: of two packs, of which a crash had left the first without a footer and the second without a commit, only
    // the second was said to be unsealed, and the torn footer of the first to be damage.
    let mut unsettled = chain.footless;
    for link in &chain.links {
        let committed = link.committed(&state.done);
        limits.insert(link.id, committed);
        if link.open {
            unsettled.insert(link.id, committed);
        }
    }
    unsettled.retain(|id, _| *id >= state.done.pack);
    Ok(Replay::Done(LogTail {
        mark: state.done,
        epoch: state.done_epoch,
        next_pack: highest.max(superblock.pack_high_water).next(),
        missing: state.rows.keys().filter(is_absent).copied().collect(),
        unnamed,
        limits,
        unsettled,
        rows: state.rows,
    }))
}

/// The LOG packs that the cuts lead to.
struct Chain {
    /// Ascending, from the watermark's pack (or the first) to the newest.
    links: Vec<Link>,
    /// How many bytes count of the packs before them.
    older: BTreeMap<PackId, PackOff>,
    /// How many bytes count of those of all these packs but the newest that have no footer.
    footless: BTreeMap<PackId, PackOff>,
}

/// One LOG pack of the chain.
pub(super) struct Link {
    pub(super) id: PackId,
    pub(super) cut: Cut,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: PathBuf,
    /// How many bytes count.
    pub(super) limit: PackOff,
    /// Where its footer begins.
    pub(super) sealed: Option<PackOff>,
    /// Nothing follows it.
    newest: bool,
    /// The newest pack without a footer: its tail may be torn.
    open: bool,
}

impl Link {
    /// How many bytes count once the log was read up to `done`: not the torn tail of a pack that was open.
    fn committed(&self, done: &Watermark) -> PackOff {
        match (self.open, done.pack == self.id) {
            (false, _) => self.limit,
            (true, true) => done.off,
            (true, false) => PackOff::from_raw(PACK_HEADER_LEN as u64),
        }
    }
}

struct Log<'a> {
    disk: &'a dyn Disk,
    superblock: &'a Superblock,
    packs: &'a BTreeMap<PackId, PackKind>,
    /// LOG packs before this one may be gone: checkpoints stand for them.
    start: Option<PackId>,
}

/// What the walk has seen so far.
struct State<'a> {
    each: EachCommit<'a>,
    /// Links before this one are not walked.
    skip: usize,
    /// The commit whose last part has not come yet.
    ops: Vec<Op>,
    parts: u32,
    /// The last complete commit, at first the watermark's.
    done: Watermark,
    done_epoch: u64,
    rows: BTreeMap<PackId, PackRow>,
}

impl Link {
    pub(super) fn damaged(&self, off: u64, detail: impl Into<String>) -> Error {
        Error::LogDamaged {
            path: self.path.clone(),
            site: Site {
                pack: self.id,
                off: PackOff::from_raw(off),
            },
            detail: detail.into(),
        }
    }
}

impl Log<'_> {
    /// The LOG packs to the newest, from the first or from the one that follows the watermark's place or holds it.
    ///
    /// Of packs before these only the limits are wanted: what cannot be read of them ends the search.
    fn chain(&self, from: Option<&Watermark>) -> Result<Chain> {
        let mut links = Vec::new();
        let (mut older, mut footless) = (BTreeMap::new(), BTreeMap::new());
        let Some(newest) = self.newest()? else {
            return Ok(Chain {
                links,
                older,
                footless,
            });
        };
        let mut cut = newest.cut;
        let mut before = from.is_some_and(|mark| mark.pack == newest.id);
        links.push(newest);
        while cut.prev.raw() != 0 {
            before |= from.is_some_and(|mark| is_at(&cut, mark));
            // One that a checkpoint has made superfluous, and cleaning has removed.
            let gone = !self.packs.contains_key(&cut.prev);
            let gone = gone && self.start.is_some_and(|start| cut.prev < start);
            // Bug: if the watermark's pack was lost, this one was said to be missing.
            if gone && from.is_some() {
                break;
            }
            if before {
                older.insert(cut.prev, cut.len);
            }
            let holds_mark = from.is_some_and(|mark| mark.pack == cut.prev);
            // Its header is before the watermark: without it the cut that names it tells enough.
            let stand_in = (holds_mark && !before).then_some(Cut {
                epoch: cut.epoch.saturating_sub(1),
                ..Cut::START
            });
            let link = match self.link(cut.prev, Some(cut.len), stand_in) {
                Ok(link) => link,
                Err(_) if before => break,
                Err(error) => return Err(error),
            };
            if link.cut.epoch.checked_add(1) != Some(cut.epoch) || link.cut.lsn > cut.lsn {
                if before {
                    break;
                }
                return Err(link.damaged(0, "a later pack's header does not continue it"));
            }
            if link.sealed.is_none() {
                footless.insert(link.id, cut.len);
            }
            // Strictly older: the decoder refuses a cut that names its own or a later pack.
            cut = link.cut;
            if !before {
                before = holds_mark;
                links.push(link);
            }
        }
        links.reverse();
        Ok(Chain {
            links,
            older,
            footless,
        })
    }

    /// The link from which the log goes on after the watermark, and the epoch of the watermark's pack; `None` if
    /// it is no place of this log.
    fn locate(&self, links: &[Link], mark: &Watermark) -> Result<Option<(usize, u64)>> {
        if let Some(first) = links.first().filter(|first| is_at(&first.cut, mark)) {
            return Ok(Some((0, first.cut.epoch.saturating_sub(1))));
        }
        let Some(idx) = links.iter().position(|link| link.id == mark.pack) else {
            // The index has seen a pack that was given out by this store and is gone.
            let known = self.packs.contains_key(&mark.pack);
            if mark.pack <= self.superblock.pack_high_water && !known {
                return Err(self.missing_log(mark.pack));
            }
            return Ok(None);
        };
        let (Some(link), next) = (links.get(idx), links.get(idx + 1)) else {
            return Ok(None);
        };
        let place = place_of(
            self.superblock.store,
            link,
            next.map(|next| &next.cut),
            mark,
        )?;
        Ok((place == Place::Found).then_some((idx, link.cut.epoch)))
    }

    /// The newest LOG pack that may hold commits.
    fn newest(&self) -> Result<Option<Link>> {
        let logs = self
            .packs
            .iter()
            .rev()
            .filter(|(_, kind)| **kind == PackKind::Log);
        for (&id, _) in logs {
            match self.link(id, None, None) {
                // A crash while it was created; no commit is in a pack above the high-water mark.
                Err(Error::LogDamaged { .. } | Error::PackTruncated { .. })
                    if id > self.superblock.pack_high_water => {}
                other => return other.map(Some),
            }
        }
        Ok(None)
    }

    /// Opens a LOG pack, of which `valid` bytes count; by default all before its footer. `stand_in` takes the place
    /// of a header that cannot be used.
    fn link(&self, id: PackId, valid: Option<PackOff>, stand_in: Option<Cut>) -> Result<Link> {
        let name = pack_name(id, PackKind::Log);
        let path = self.disk.path(&name);
        let file = match self.disk.open(&name, Access::Read) {
            Err(Error::NotFound) => return Err(Error::PackMissing { path }),
            other => other?,
        };
        let cut = match (self.cut_of(id, file.as_ref(), &path), stand_in) {
            (Err(_), Some(cut)) => cut,
            (found, _) => found?,
        };
        let len = file.len()?.raw();
        let sealed = sealed_at(file.as_ref(), len, &path)?;
        let limit = valid.or(sealed).unwrap_or(PackOff::from_raw(len));
        if limit.raw() > len {
            return Err(Error::PackTruncated {
                path,
                found_bytes: len,
                expected_bytes: limit.raw(),
            });
        }
        Ok(Link {
            id,
            cut,
            file,
            path,
            limit,
            sealed,
            newest: valid.is_none(),
            open: valid.is_none() && sealed.is_none(),
        })
    }

    /// The cut in the header of a LOG pack.
    fn cut_of(&self, id: PackId, file: &dyn DiskFile, path: &Path) -> Result<Cut> {
        let start = PackOff::from_raw(0);
        let header = read_exactly(file, start, PACK_HEADER_LEN, || path.to_owned())?;
        let hash = |parts: &[&[u8]]| checksum(Checksum::PackHeader, parts);
        let damaged = |detail: &str| Error::LogDamaged {
            path: path.to_owned(),
            site: Site {
                pack: id,
                off: start,
            },
            detail: format!("pack header: {detail}"),
        };
        let header: PackHeader = match decode_pack_header(&header, &hash) {
            Ok(header) => header,
            Err(error) => return Err(damaged(detail_of(error)?)),
        };
        match header.cut {
            Some(cut) if header.store == self.superblock.store && header.pack == id => Ok(cut),
            _ => Err(damaged(
                "it belongs to another store, number or kind of pack",
            )),
        }
    }

    /// Ranges of pack numbers that were given out and have no file; at most one more than there are packs.
    fn absent_numbers(&self) -> Vec<Range<PackId>> {
        let mut next = PackId::default().next();
        let mut absent = Vec::new();
        let end = self.superblock.pack_high_water.next();
        for &id in self.packs.keys().chain([&end]).filter(|id| **id <= end) {
            if next < id {
                absent.push(next..id);
            }
            next = id.next();
        }
        absent
    }

    fn missing_log(&self, id: PackId) -> Error {
        Error::PackMissing {
            path: self.disk.path(&pack_name(id, PackKind::Log)),
        }
    }

    /// Of absent numbers those that no row names as DATA and that are above the newest LOG pack.
    ///
    /// An absent one below it that neither a cut nor a row names held nothing that counts. One
    /// above it was a LOG pack newer than all we have: then commits are lost.
    fn unnamed(
        &self,
        newest: Option<PackId>,
        absent: &[Range<PackId>],
        rows: &BTreeMap<PackId, PackRow>,
    ) -> Vec<Range<PackId>> {
        let above = newest.unwrap_or_default().next();
        let mut unnamed = Vec::new();
        for range in absent {
            let mut start = range.start.max(above);
            let named = rows.range(start.min(range.end)..range.end);
            for (&id, _) in named.filter(|(_, row)| row.kind == PackKind::Data) {
                if start < id {
                    unnamed.push(start..id);
                }
                start = id.next();
            }
            if start < range.end {
                unnamed.push(start..range.end);
            }
        }
        unnamed
    }

    /// Walks the records that were not seen yet.
    fn walk(&self, chain: &[Link], state: &mut State<'_>) -> Result<()> {
        let start = state.done;
        for (idx, link) in chain.iter().enumerate().skip(state.skip) {
            let window = Window::new(Arc::clone(&link.file), link.path.clone(), link.limit);
            let mut walk = Walk::new(self.superblock.store, link.id, &link.cut, window);
            if link.id == start.pack {
                walk.go_to(&start);
            }
            Self::walk_link(link, &mut walk, state)?;
            if let Some(next) = chain.get(idx + 1)
                && (walk.lsn != next.cut.lsn || walk.chain != next.cut.chain)
            {
                return Err(link.damaged(walk.off, "the log does not lead to the next pack's cut"));
            }
        }
        Ok(())
    }

    fn walk_link(link: &Link, walk: &mut Walk, state: &mut State<'_>) -> Result<()> {
        loop {
            match walk.next()? {
                Step::Record(record) => {
                    let detail = state.record(link, &record)?;
                    if let Some(detail) = detail {
                        return Err(link.damaged(record.place.start, detail));
                    }
                }
                // What an aborted commit left before the pack was sealed or synced again.
                Step::End { loose_frames } if !loose_frames || link.newest => return Ok(()),
                Step::End { .. } => {
                    return Err(link.damaged(walk.off, "frames without a record before a cut"));
                }
                Step::Bad { off, detail } => {
                    let commit = state.next_commit(walk.lsn);
                    if !link.open || walk.later_commit_follows(commit)? {
                        return Err(link.damaged(off, detail));
                    }
                    return Ok(());
                }
            }
        }
    }
}

impl<'a> State<'a> {
    fn new(each: EachCommit<'a>) -> Self {
        Self {
            each,
            skip: 0,
            ops: Vec::new(),
            parts: 0,
            done: Watermark::START,
            done_epoch: 0,
            rows: BTreeMap::new(),
        }
    }

    /// Goes on after a commit that is in the index.
    fn start(&mut self, mark: Watermark, idx: usize, epoch: u64) {
        self.skip = idx;
        self.done = mark;
        self.done_epoch = epoch;
    }

    /// Number of the first record of the commit that the next record belongs to.
    fn next_commit(&self, last: Lsn) -> Lsn {
        Lsn::from_raw(
            last.raw()
                .saturating_add(1)
                .saturating_sub(u64::from(self.parts)),
        )
    }

    /// Takes a record in; `Some` says why it cannot be.
    fn record(&mut self, link: &Link, found: &FoundRecord) -> Result<Option<&'static str>> {
        let head = &found.record.head;
        if head.part != self.parts {
            return Ok(Some("a part of a commit is missing"));
        }
        self.parts = head.part + 1;
        match found.ops() {
            Ok(ops) => self.ops.extend(ops),
            Err(error) => return detail_of(error).map(Some),
        }
        if !head.last {
            return Ok(None);
        }
        self.parts = 0;
        self.done = Watermark {
            pack: link.id,
            off: PackOff::from_raw(found.place.end),
            lsn: head.lsn,
            chain: found.record.chain,
        };
        self.done_epoch = link.cut.epoch;
        let ops = std::mem::take(&mut self.ops);
        let taken = self.note_packs(&ops);
        if let Err(error) = taken.and_then(|()| (self.each)(ops, self.done)) {
            return detail_of(error).map(Some);
        }
        Ok(None)
    }

    fn note_packs(&mut self, ops: &[Op]) -> Result<()> {
        for op in ops {
            match op {
                Op::Put(Table::Pack, key, value) => {
                    let row = PackRow::decode(value)?;
                    self.rows.insert(keys::parse_pack(key)?, row);
                }
                // Cleaning has emptied it: its file is gone, or will be.
                Op::Del(Table::Pack, key) => {
                    self.rows.remove(&keys::parse_pack(key)?);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether a cut is at the watermark's place.
fn is_at(cut: &Cut, mark: &Watermark) -> bool {
    (cut.prev, cut.len, cut.lsn, cut.chain) == (mark.pack, mark.off, mark.lsn, mark.chain)
}

/// Where the footer of a pack of `len` bytes begins; `None` if it does not end with one.
pub(super) fn sealed_at(file: &dyn DiskFile, len: u64, path: &Path) -> Result<Option<PackOff>> {
    let Some(start) = len.checked_sub(TRAILER_LEN as u64) else {
        return Ok(None);
    };
    let bytes = read_exactly(file, PackOff::from_raw(start), TRAILER_LEN, || {
        path.to_owned()
    })?;
    let trailer = decode_trailer(&bytes, len, &|parts| checksum(Checksum::Footer, parts));
    Ok(trailer.ok().map(|trailer| trailer.footer_off))
}
