//! Reads what is left of a damaged log.
//!
//! Where `replay` stops, this goes on. Records carry absolute values, so each one that verifies is worth having:
//!
//! 1. Of every LOG pack the header is read. What later headers cut off of a pack is no part of the log; where a header is
//!    damaged, a record whose number a later pack has as well was cut off.
//! 2. Each pack is read from front to back. A record counts if it verifies with the previous chain hash that it carries
//!    itself: its own bytes are right then, whatever is lost before it. After something damaged the next piece is looked
//!    for at every eighth byte.
//! 3. Of a commit that is not there whole what is there is taken, but for the end of the log, where a crash leaves one.
//!
//! Everything that was passed over is reported.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::files::{list_packs, pack_name};
use super::replay::{LogTail, sealed_at};
use super::scan::{Claim, ScanReport, Scanned, scan};
use super::store::ChunkStore;
use super::types::Watermark;
use super::window::Window;
use super::writer::record_hash;
use crate::base::limits::{SALVAGE_PENDING_OPS_MAX, SALVAGE_SKIPPED_MAX};
use crate::base::{Lsn, PackId, PackOff, Result};
use crate::codec::decompress;
use crate::disk::{Access, Disk, DiskFile};
use crate::format::frame::{
    Address, FRAME_HEADER_LEN, FRAME_LEN_MAX, decode_frame, peek_frame_len,
};
use crate::format::keys;
use crate::format::pack::{Cut, PACK_HEADER_LEN, Piece, decode_pack_header, piece_at};
use crate::format::record::{
    RECORD_HEADER_LEN, RECORD_RAW_LEN_MAX, Record, decode_header, decode_record,
};
use crate::format::rows::{Op, PackKind, Table};
use crate::format::superblock::Superblock;
use crate::format::{ALIGN, Hash};
use crate::hash::{Checksum, checksum};

/// A part of the log that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedLog {
    /// The pack file, within the store.
    pub pack: String,
    /// Its bytes, half-open; empty where records are missing between two that are there.
    pub range: Range<u64>,
    /// What is wrong.
    pub detail: String,
}

/// What was read of a log.
#[derive(Clone, Debug, Default)]
pub struct SalvagedLog {
    /// Records that verify and were new.
    pub records: u64,
    /// What was passed over.
    pub skipped: Vec<SkippedLog>,
    /// Number of further places.
    pub skipped_more: u64,
    highest: PackId,
}

/// What is called with operations, in the order of the log, and the place after them.
pub type EachOps<'a> = &'a mut dyn FnMut(Vec<Op>, Watermark) -> Result<()>;

/// A LOG pack before its records are read.
struct LogPack {
    id: PackId,
    file: Arc<dyn DiskFile>,
    cut: Option<Cut>,
    sealed: Option<PackOff>,
    len: u64,
    /// How many bytes count.
    limit: u64,
    /// Records with higher numbers were cut off.
    lsn_max: Lsn,
}

/// What comes at a place.
enum Next {
    Frame(u64),
    Record(Box<Record>, Vec<u8>),
    End,
    Bad,
}

struct Salvage<'a> {
    superblock: &'a Superblock,
    each: EachOps<'a>,
    log: SalvagedLog,
    /// The last record that was taken.
    last: Lsn,
    chain: Hash,
    /// Operations of a commit whose last part has not come yet.
    pending: Vec<Op>,
    part: u32,
    done: Watermark,
}

impl SalvagedLog {
    fn skip(&mut self, id: PackId, range: Range<u64>, detail: impl Into<String>) {
        if self.skipped.len() >= SALVAGE_SKIPPED_MAX {
            self.skipped_more += 1;
            return;
        }
        self.skipped.push(SkippedLog {
            pack: pack_name(id, PackKind::Log),
            range,
            detail: detail.into(),
        });
    }

    /// Whether the log was read without a gap.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.skipped.is_empty() && self.skipped_more == 0
    }

    /// The end of the log for a chunk store that is only read.
    #[must_use]
    pub fn tail(&self) -> LogTail {
        LogTail {
            mark: Watermark::START,
            epoch: 0,
            next_pack: self.highest.next(),
            rows: BTreeMap::new(),
            missing: Vec::new(),
            unnamed: Vec::new(),
            limits: BTreeMap::new(),
            unsettled: BTreeMap::new(),
        }
    }
}

/// Reads every record of the log that verifies and is newer than `from`, and gives its operations to `each`.
///
/// Memory: the operations of one commit, bounded by [`SALVAGE_PENDING_OPS_MAX`]; a commit that is larger is given in
/// several calls.
///
/// # Errors
/// [`Error::NotAStore`](crate::base::Error::NotAStore) if there are no packs at all; those of `each`.
pub fn salvage_log(
    disk: &dyn Disk,
    superblock: &Superblock,
    from: Option<Watermark>,
    each: EachOps<'_>,
) -> Result<SalvagedLog> {
    let packs = list_packs(disk)?;
    let start = from.unwrap_or(Watermark::START);
    let mut salvage = Salvage {
        superblock,
        each,
        log: SalvagedLog::default(),
        last: start.lsn,
        chain: start.chain,
        pending: Vec::new(),
        part: 0,
        done: start,
    };
    let highest = packs.keys().next_back().copied().unwrap_or_default();
    salvage.log.highest = highest.max(superblock.pack_high_water);
    let logs = salvage.open(disk, &packs, &start)?;
    let newest = logs.last().map(|log| log.id);
    for log in &logs {
        salvage.pack(log, newest == Some(log.id))?;
    }
    // Numbers above the newest LOG pack: one of them may have been a newer one.
    let above = newest.unwrap_or_default().next();
    let mut id = above;
    let mut gone = 0_u64;
    while id <= superblock.pack_high_water && gone <= packs.len() as u64 {
        if !packs.contains_key(&id) {
            gone += 1;
            salvage.log.skip(
                id,
                0..0,
                "no file has this number, which may have been the newest of the log",
            );
        }
        id = id.next();
    }
    Ok(salvage.log)
}

impl Salvage<'_> {
    /// The LOG packs that may have something new, ascending.
    fn open(
        &mut self,
        disk: &dyn Disk,
        packs: &BTreeMap<PackId, PackKind>,
        start: &Watermark,
    ) -> Result<Vec<LogPack>> {
        let mut logs = Vec::new();
        let ids = packs.iter().filter(|(_, kind)| **kind == PackKind::Log);
        for (&id, _) in ids.filter(|(id, _)| **id >= start.pack) {
            match self.open_one(disk, id) {
                Ok(log) => logs.push(log),
                Err(error) => self.log.skip(id, 0..0, error.to_string()),
            }
        }
        // From the newest back: what later packs cut off.
        let mut lsn_max = Lsn::from_raw(u64::MAX);
        let mut limits: BTreeMap<PackId, u64> = BTreeMap::new();
        let mut named: Vec<(PackId, u64)> = Vec::new();
        for log in logs.iter_mut().rev() {
            if let Some(&limit) = limits.get(&log.id) {
                if limit > log.len {
                    self.log
                        .skip(log.id, log.len..limit, "the file is too short");
                }
                log.limit = log.limit.min(limit);
            }
            log.lsn_max = lsn_max;
            let first = match &log.cut {
                Some(cut) => {
                    if cut.prev.raw() != 0 {
                        limits.entry(cut.prev).or_insert(cut.len.raw());
                        named.push((cut.prev, cut.len.raw()));
                    }
                    Some(cut.lsn)
                }
                None => self.first_lsn(log)?,
            };
            if let Some(first) = first {
                lsn_max = lsn_max.min(first);
            }
        }
        for (id, len) in named {
            if id >= start.pack && !packs.contains_key(&id) {
                self.log.skip(id, 0..len, "the file is missing");
            }
        }
        Ok(logs)
    }

    fn open_one(&self, disk: &dyn Disk, id: PackId) -> Result<LogPack> {
        let name = pack_name(id, PackKind::Log);
        let file = disk.open(&name, Access::Read)?;
        let len = file.len()?.raw();
        let sealed = sealed_at(file.as_ref(), len, &disk.path(&name))?;
        let mut header = vec![0; PACK_HEADER_LEN];
        let found = file.read_at(PackOff::from_raw(0), &mut header)?;
        header.truncate(found);
        let hash = |parts: &[&[u8]]| checksum(Checksum::PackHeader, parts);
        let header = decode_pack_header(&header, &hash).ok();
        let own = header.filter(|h| h.store == self.superblock.store && h.pack == id);
        Ok(LogPack {
            id,
            cut: own.and_then(|header| header.cut),
            sealed,
            len,
            limit: sealed.map_or(len, PackOff::raw),
            lsn_max: Lsn::from_raw(u64::MAX),
            file,
        })
    }

    fn window(log: &LogPack) -> Window {
        let path = std::path::PathBuf::new();
        Window::new(Arc::clone(&log.file), path, PackOff::from_raw(log.limit))
    }

    /// The number before that of the first record that verifies in a pack whose header does not.
    fn first_lsn(&self, log: &LogPack) -> Result<Option<Lsn>> {
        let mut window = Self::window(log);
        let mut at = PACK_HEADER_LEN as u64;
        while at < log.limit {
            match self.next(log, &mut window, at)? {
                Next::Frame(len) => at += len,
                Next::Record(record, _) => {
                    return Ok(Some(Lsn::from_raw(record.head.lsn.raw().saturating_sub(1))));
                }
                Next::End => break,
                Next::Bad => at += ALIGN as u64,
            }
        }
        Ok(None)
    }

    /// What verifies at a place.
    fn next(&self, log: &LogPack, window: &mut Window, at: u64) -> Result<Next> {
        let address = Address {
            store: self.superblock.store,
            pack: log.id,
            off: PackOff::from_raw(at),
        };
        let head = window.bytes(at, RECORD_HEADER_LEN)?;
        match piece_at(head) {
            Ok(Piece::Frame) => {
                let Ok(len) = peek_frame_len(head.get(..FRAME_HEADER_LEN).unwrap_or(head)) else {
                    return Ok(Next::Bad);
                };
                let want = usize::try_from(len).unwrap_or(usize::MAX);
                if want > FRAME_LEN_MAX || len == 0 {
                    return Ok(Next::Bad);
                }
                let bytes = window.bytes(at, want)?;
                let hash = |parts: &[&[u8]]| checksum(Checksum::Frame, parts);
                let good = bytes.len() == want && decode_frame(bytes, &address, &hash).is_ok();
                Ok(if good { Next::Frame(len) } else { Next::Bad })
            }
            Ok(Piece::Record) => {
                let Ok(claim) = decode_header(head) else {
                    return Ok(Next::Bad);
                };
                let want = usize::try_from(claim.record_len()).unwrap_or(usize::MAX);
                if want > RECORD_HEADER_LEN + RECORD_RAW_LEN_MAX + ALIGN {
                    return Ok(Next::Bad);
                }
                let bytes = window.bytes(at, want)?;
                let (head, hash) = (&claim.head, record_hash(address));
                // Its span is not asked: frames vouch for themselves.
                match decode_record(
                    bytes,
                    &head.prev_chain,
                    head.span_len,
                    &head.span_hash,
                    &hash,
                ) {
                    Ok(record) => {
                        let payload = bytes.get(record.payload()).unwrap_or(&[]).to_vec();
                        Ok(Next::Record(Box::new(record), payload))
                    }
                    Err(_) => Ok(Next::Bad),
                }
            }
            Ok(Piece::Footer) if log.sealed.is_none_or(|sealed| sealed.raw() <= at) => {
                Ok(Next::End)
            }
            _ => Ok(Next::Bad),
        }
    }

    /// Takes the records of one pack.
    fn pack(&mut self, log: &LogPack, newest: bool) -> Result<()> {
        if log.cut.is_none() {
            self.log.skip(
                log.id,
                0..PACK_HEADER_LEN as u64,
                "the header of the pack is damaged",
            );
        }
        let mut window = Self::window(log);
        let mut at = PACK_HEADER_LEN as u64;
        let mut bad: Option<u64> = None;
        while at < log.limit {
            let next = self.next(log, &mut window, at)?;
            if !matches!(next, Next::Bad)
                && let Some(from) = bad.take()
            {
                self.log.skip(log.id, from..at, "nothing in it verifies");
            }
            match next {
                Next::Frame(len) => at += len,
                Next::Record(record, payload) => {
                    self.record(log, at, &record, &payload)?;
                    at += record.record_len();
                }
                Next::End => break,
                Next::Bad => {
                    bad.get_or_insert(at);
                    at += ALIGN as u64;
                }
            }
        }
        let torn = newest && log.sealed.is_none();
        if let Some(from) = bad
            // What a crash leaves at the end of the log is no damage.
            && !torn
        {
            self.log
                .skip(log.id, from..log.limit, "nothing in it verifies");
        }
        if !newest || !torn {
            self.flush()?;
        }
        Ok(())
    }

    fn record(&mut self, log: &LogPack, at: u64, record: &Record, payload: &[u8]) -> Result<()> {
        let head = &record.head;
        // In the checkpoint already, or cut off.
        if head.lsn <= self.last || head.lsn > log.lsn_max {
            return Ok(());
        }
        let follows = head.lsn == self.last.next();
        if !follows {
            let (from, to) = (self.last.raw() + 1, head.lsn.raw() - 1);
            let detail = format!("the records {from} to {to} are missing");
            self.log.skip(log.id, at..at, detail);
        } else if head.prev_chain != self.chain {
            self.log
                .skip(log.id, at..at, "a record does not continue those before it");
        }
        if !follows || head.part != self.part {
            // What there is of the commit before.
            self.flush()?;
        }
        self.last = head.lsn;
        self.chain = record.chain;
        self.part = if head.last {
            0
        } else {
            head.part.saturating_add(1)
        };
        let raw_len = usize::try_from(head.raw_len).unwrap_or(usize::MAX);
        let mut raw = Vec::new();
        let ops = decompress(head.codec, payload, raw_len, &mut raw)
            .and_then(|()| record.decode_ops(&raw));
        let end = at.saturating_add(record.record_len());
        match ops {
            Ok(ops) => self.pending.extend(ops.into_iter().filter(is_sound)),
            Err(error) => self.log.skip(log.id, at..end, error.to_string()),
        }
        self.log.records += 1;
        self.done = Watermark {
            pack: log.id,
            off: PackOff::from_raw(end),
            lsn: head.lsn,
            chain: record.chain,
        };
        if head.last || self.pending.len() >= SALVAGE_PENDING_OPS_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let ops = std::mem::take(&mut self.pending);
        if ops.is_empty() {
            return Ok(());
        }
        (self.each)(ops, self.done)
    }
}

/// Whether the index takes an operation: one that has the shape of its table.
fn is_sound(op: &Op) -> bool {
    match op {
        Op::Put(Table::Dirty, ..) => false,
        Op::Put(table, key, _) | Op::Del(table, key) => keys::dirty_of(*table, key).is_ok(),
        Op::DelRange(_, from, to) => from.len() >= 8 && to.len() >= 8,
    }
}

impl ChunkStore {
    /// Verifies all frames of a pack, whatever else is damaged in it or vouches for it, and calls `each` with them.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn scan_frames(
        &self,
        id: PackId,
        each: &mut dyn FnMut(Scanned) -> Result<()>,
    ) -> Result<ScanReport> {
        let len = self.files.file(id).and_then(|file| file.len());
        let claim = Claim {
            vouched: len.ok().map(|len| PackOff::from_raw(len.raw())),
            unfinished: true,
        };
        scan(&self.files, self.superblock.store, id, claim, each)
    }
}
