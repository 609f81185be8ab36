//! Reads the log back.
//!
//! 1. List the packs. A number up to the superblock's high-water mark without a file is a missing pack.
//! 2. From the newest LOG pack follow the cuts back to the first: each names the pack before it and how many of
//!    its bytes count. A pack that is not there or shorter is an error; what follows a cut is ignored; LOG
//!    packs that no cut names were cut out whole.
//! 3. Walk the records forward from the watermark's pack (or the first), verifying every span and every chain
//!    hash. Nothing is reported before the watermark's place has been found.
//! 4. A record that does not verify before a cut, before a footer or before the watermark is damage. In the
//!    newest pack, if it has no footer, it is a *torn tail*, which is ignored together with the parts
//!    of its commit — unless a record of a later commit follows that verifies from its own previous
//!    chain hash: that commit was written after the sync of the bad one, so it is rot and an error.
//!    (Rot in the very last commit of an unsealed pack cannot be told from a tear, except by the watermark.)

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{list_packs, pack_name, read_exactly};
use super::types::Watermark;
use super::walk::{FoundRecord, Step, Walk, detail_of};
use super::window::Window;
use crate::base::{Error, Lsn, PackId, PackOff, Result, Site};
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
    /// DATA packs that should be there and are not.
    pub(super) missing: Vec<PackId>,
    /// How many bytes count of each LOG pack.
    pub(super) limits: BTreeMap<PackId, PackOff>,
}

impl LogTail {
    /// The place after the last complete commit.
    #[must_use]
    pub fn watermark(&self) -> Watermark {
        self.mark
    }
}

/// What is called with the operations of each commit and the place after it.
pub type EachCommit<'a> = &'a mut dyn FnMut(Vec<Op>, Watermark) -> Result<()>;

/// Reads the log from `from`, or from its beginning, and calls `each` with every complete commit in order.
///
/// Writes nothing, but syncs the newest LOG pack: what is reported is durable. Reads the LOG packs from the watermark's on, and the header of every older one.
///
/// # Errors
/// [`Error::PackMissing`], [`Error::PackTruncated`], [`Error::LogDamaged`] as described for the module; those
/// of `each`; [`Error::Io`]. A DATA pack that is missing is no error here but one of
/// [`ChunkStore::open`](super::ChunkStore::open) for writing.
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
    };
    let chain = log.chain()?;
    if let Some(newest) = chain.last() {
        // A process that died before its sync left records that only the system's cache holds. They are made
        // durable before the index, or the cut of the next LOG pack, relies on them (I1).
        newest.file.sync_data()?;
    }
    let absent = log.absent_numbers();
    let missing = if absent.is_empty() {
        Vec::new()
    } else {
        log.missing_data(&chain, &absent)?
    };
    let mut state = State::new(from, each);
    if let Some(mark) = from {
        match chain.iter().position(|link| link.id == mark.pack) {
            Some(idx) => state.skip = idx,
            None => return Ok(Replay::Foreign),
        }
    }
    if !log.walk(&chain, &mut state)? {
        return Ok(Replay::Foreign);
    }
    let highest = packs.keys().next_back().copied().unwrap_or_default();
    Ok(Replay::Done(LogTail {
        mark: state.done,
        epoch: state.done_epoch,
        next_pack: highest.max(superblock.pack_high_water).next(),
        rows: state.rows,
        missing,
        limits: chain
            .iter()
            .map(|link| (link.id, link.committed(&state.done)))
            .collect(),
    }))
}

/// One LOG pack of the chain.
struct Link {
    id: PackId,
    cut: Cut,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// How many bytes count.
    limit: PackOff,
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
}

/// What the walk has seen so far.
struct State<'a> {
    /// Where to start reporting; `None` once it was reached.
    from: Option<Watermark>,
    each: EachCommit<'a>,
    /// Links before this one are not walked.
    skip: usize,
    /// The commit whose last part has not come yet.
    ops: Vec<Op>,
    parts: u32,
    /// Whether the first part seen may be a later one of its commit.
    joining: bool,
    done: Watermark,
    done_epoch: u64,
    rows: BTreeMap<PackId, PackRow>,
}

impl Log<'_> {
    fn damaged(link: &Link, off: u64, detail: impl Into<String>) -> Error {
        Error::LogDamaged {
            path: link.path.clone(),
            site: Site {
                pack: link.id,
                off: PackOff::from_raw(off),
            },
            detail: detail.into(),
        }
    }

    /// The LOG packs from the first to the newest.
    fn chain(&self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        let Some(newest) = self.newest()? else {
            return Ok(links);
        };
        let mut cut = newest.cut;
        links.push(newest);
        while cut.prev.raw() != 0 {
            let link = self.link(cut.prev, Some(cut.len))?;
            if link.cut.epoch.checked_add(1) != Some(cut.epoch) || link.cut.lsn > cut.lsn {
                return Err(Self::damaged(
                    &link,
                    0,
                    "a later pack's header does not continue it",
                ));
            }
            // Strictly older: the decoder refuses a cut that names its own or a later pack.
            cut = link.cut;
            links.push(link);
        }
        links.reverse();
        Ok(links)
    }

    /// The newest LOG pack that may hold commits.
    fn newest(&self) -> Result<Option<Link>> {
        let logs = self
            .packs
            .iter()
            .rev()
            .filter(|(_, kind)| **kind == PackKind::Log);
        for (&id, _) in logs {
            match self.link(id, None) {
                // A crash while it was created; no commit is in a pack above the high-water mark.
                Err(Error::LogDamaged { .. } | Error::PackTruncated { .. })
                    if id > self.superblock.pack_high_water => {}
                other => return other.map(Some),
            }
        }
        Ok(None)
    }

    /// Opens a LOG pack, of which `valid` bytes count; by default all before its footer.
    fn link(&self, id: PackId, valid: Option<PackOff>) -> Result<Link> {
        let name = pack_name(id, PackKind::Log);
        let path = self.disk.path(&name);
        let file = match self.disk.open(&name, Access::Read) {
            Err(Error::NotFound) => return Err(Error::PackMissing { path }),
            other => other?,
        };
        let start = PackOff::from_raw(0);
        let header = read_exactly(file.as_ref(), start, PACK_HEADER_LEN, || path.clone())?;
        let hash = |parts: &[&[u8]]| checksum(Checksum::PackHeader, parts);
        let site = Site {
            pack: id,
            off: start,
        };
        let damaged = |detail: &str| Error::LogDamaged {
            path: path.clone(),
            site,
            detail: format!("pack header: {detail}"),
        };
        let header: PackHeader = match decode_pack_header(&header, &hash) {
            Ok(header) => header,
            Err(error) => return Err(damaged(detail_of(error)?)),
        };
        let cut = match header.cut {
            Some(cut) if header.store == self.superblock.store && header.pack == id => cut,
            _ => {
                return Err(damaged(
                    "it belongs to another store, number or kind of pack",
                ));
            }
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
            newest: valid.is_none(),
            open: valid.is_none() && sealed.is_none(),
        })
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

    /// Of absent packs those that the log names as DATA.
    ///
    /// An absent one below the newest LOG pack that neither a cut nor a row names held nothing that counts. One
    /// above it that no row names was a LOG pack newer than all we have: then commits are lost.
    fn missing_data(&self, chain: &[Link], absent: &[Range<PackId>]) -> Result<Vec<PackId>> {
        let mut ignore = |_: Vec<Op>, _: Watermark| Ok(());
        let mut state = State::new(None, &mut ignore);
        self.walk(chain, &mut state)?;
        let newest = chain.last().map(|link| link.id).unwrap_or_default();
        for range in absent {
            let mut id = range.start.max(newest.next());
            while id < range.end && state.rows.contains_key(&id) {
                id = id.next();
            }
            if id < range.end {
                return Err(Error::PackMissing {
                    path: self.disk.path(&pack_name(id, PackKind::Log)),
                });
            }
        }
        let is_absent = |id: &&PackId| absent.iter().any(|range| range.contains(*id));
        Ok(state.rows.keys().filter(is_absent).copied().collect())
    }

    /// Walks the records; false if the watermark is not met.
    fn walk(&self, chain: &[Link], state: &mut State<'_>) -> Result<bool> {
        for (idx, link) in chain.iter().enumerate().skip(state.skip) {
            let window = Window::new(Arc::clone(&link.file), link.path.clone(), link.limit);
            let mut walk = Walk::new(self.superblock.store, link.id, &link.cut, window);
            if !self.walk_link(link, &mut walk, state)? {
                return Ok(false);
            }
            if let Some(next) = chain.get(idx + 1)
                && (walk.lsn != next.cut.lsn || walk.chain != next.cut.chain)
            {
                return Err(Self::damaged(
                    link,
                    walk.off,
                    "the log does not lead to the next pack's cut",
                ));
            }
        }
        Ok(state.from.is_none())
    }

    fn walk_link(&self, link: &Link, walk: &mut Walk, state: &mut State<'_>) -> Result<bool> {
        loop {
            if state
                .from
                .is_some_and(|mark| mark.pack == link.id && walk.off > mark.off.raw())
            {
                return Ok(false);
            }
            match walk.next()? {
                Step::Record(record) => {
                    let detail = state.record(link, &record)?;
                    if let Some(detail) = detail {
                        return Err(Self::damaged(link, record.place.start, detail));
                    }
                }
                // What an aborted commit left before the pack was sealed or synced again.
                Step::End { loose_frames } if !loose_frames || link.newest => {
                    return self.end_of(link, walk, state);
                }
                Step::End { .. } => {
                    return Err(Self::damaged(
                        link,
                        walk.off,
                        "frames without a record before a cut",
                    ));
                }
                Step::Bad { off, detail } if !link.open => {
                    return Err(Self::damaged(link, off, detail));
                }
                Step::Bad { off, detail } => {
                    let commit = state.next_commit(walk.lsn);
                    let vouched = state
                        .from
                        .is_some_and(|mark| mark.pack == link.id && mark.off.raw() > walk.off);
                    if vouched || walk.later_commit_follows(commit)? {
                        return Err(Self::damaged(link, off, detail));
                    }
                    return self.end_of(link, walk, state);
                }
            }
        }
    }

    /// The end of a pack's records: a watermark beyond it is lost or foreign.
    fn end_of(&self, link: &Link, walk: &mut Walk, state: &State<'_>) -> Result<bool> {
        let Some(mark) = state.from.filter(|mark| mark.pack == link.id) else {
            return Ok(true);
        };
        let len = link.file.len()?.raw();
        if mark.off.raw() > len {
            return Err(Error::PackTruncated {
                path: walk.window().path().clone(),
                found_bytes: len,
                expected_bytes: mark.off.raw(),
            });
        }
        Ok(false)
    }
}

impl<'a> State<'a> {
    fn new(from: Option<Watermark>, each: EachCommit<'a>) -> Self {
        Self {
            from,
            each,
            skip: 0,
            ops: Vec::new(),
            parts: 0,
            joining: from.is_some(),
            done: Watermark::START,
            done_epoch: 0,
            rows: BTreeMap::new(),
        }
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
        if head.part != self.parts && !self.joining {
            return Ok(Some("a part of a commit is missing"));
        }
        self.joining = false;
        self.parts = head.part + 1;
        let reporting = self.from.is_none();
        if reporting {
            match found.ops() {
                Ok(ops) => self.ops.extend(ops),
                Err(error) => return detail_of(error).map(Some),
            }
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
        if reporting {
            let ops = std::mem::take(&mut self.ops);
            let taken = self.note_packs(&ops);
            if let Err(error) = taken.and_then(|()| (self.each)(ops, self.done)) {
                return detail_of(error).map(Some);
            }
        } else if self.from == Some(self.done) {
            self.from = None;
        }
        Ok(None)
    }

    fn note_packs(&mut self, ops: &[Op]) -> Result<()> {
        for op in ops {
            if let Op::Put(Table::Pack, key, value) = op {
                self.rows
                    .insert(keys::parse_pack(key)?, PackRow::decode(value)?);
            }
        }
        Ok(())
    }
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
