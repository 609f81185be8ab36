//! Checkpoints: copies of the index from which it can be made anew without the log before them.
//!
//! A checkpoint counts once it is complete, synced, read back and named; until then its name ends in `.tmp`, and
//! a crash leaves what the next one removes. All that are kept are of equal worth: a LOG pack may go when it is
//! before the places of all of them.

use std::sync::Arc;

use super::files::read_exactly;
use super::store::ChunkStore;
use super::types::Watermark;
use crate::base::limits::{CHECKPOINTS_KEPT, RECORD_PAYLOAD_MAX};
use crate::base::{Error, Lsn, PackId, PackOff, Result};
use crate::codec::{compress, decompress};
use crate::disk::{Access, Disk, DiskFile};
use crate::format::checkpoint::{
    CHECKPOINT_END_LEN, CHECKPOINT_HEADER_LEN, CHECKPOINT_PART_LEN, CheckpointEnd, CheckpointHead,
    CheckpointPiece, PartHead, checkpoint_payload, decode_checkpoint_header,
    decode_checkpoint_piece, decode_checkpoint_rows, encode_checkpoint_end,
    encode_checkpoint_header, encode_checkpoint_part,
};
use crate::format::record::{encode_ops, op_len};
use crate::format::rows::Op;
use crate::format::superblock::{FEATURE_CHECKPOINTS, Superblock};
use crate::hash::{Checksum, SpanHasher, checksum};

/// The directory of the checkpoints, within the store.
const CHECKPOINTS: &str = "checkpoints";
/// What the name of one that is being written ends in.
const UNFINISHED: &str = ".tmp";

/// A checkpoint by its name: where it is in the log, and which copy of it it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointName {
    /// Number of the last record that is in it.
    pub lsn: Lsn,
    /// The LOG pack of that record.
    pub pack: PackId,
    /// Tells copies apart.
    pub copy: u8,
}

impl CheckpointName {
    /// The file within the store.
    #[must_use]
    pub fn path(&self) -> String {
        let (pack, lsn) = (self.pack.raw(), self.lsn.raw());
        format!("{CHECKPOINTS}/{pack:016x}-{lsn:016x}-{}.ckp", self.copy)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".ckp")?.split('-');
        let pack = u64::from_str_radix(parts.next()?, 16).ok()?;
        let lsn = u64::from_str_radix(parts.next()?, 16).ok()?;
        let found = Self {
            lsn: Lsn::from_raw(lsn),
            pack: PackId::from_raw(pack),
            copy: parts.next()?.parse().ok()?,
        };
        // Exactly the name that this program writes.
        (found.path() == format!("{CHECKPOINTS}/{name}")).then_some(found)
    }
}

fn names(disk: &dyn Disk) -> Result<Vec<String>> {
    match disk.list(CHECKPOINTS) {
        Err(Error::NotFound) => Ok(Vec::new()),
        other => other,
    }
}

/// The checkpoints of a store, the oldest first.
///
/// # Errors
/// [`Error::Io`].
pub fn checkpoints(disk: &dyn Disk) -> Result<Vec<CheckpointName>> {
    let names = names(disk)?;
    let mut found: Vec<_> = names
        .iter()
        .filter_map(|name| CheckpointName::parse(name))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// The first LOG pack that a reader needs: those before it may be gone. `None` if all are needed.
///
/// # Errors
/// [`Error::Io`].
pub fn log_start(disk: &dyn Disk, superblock: &Superblock) -> Result<Option<PackId>> {
    if superblock.features.incompatible & FEATURE_CHECKPOINTS == 0 {
        return Ok(None);
    }
    Ok(checkpoints(disk)?.iter().map(|name| name.pack).min())
}

/// As [`log_start`], for a reader that begins at `mark`: should all checkpoints be gone, its index is all that stands for
/// the log before it, and it is enough.
pub(super) fn first_needed(
    disk: &dyn Disk,
    superblock: &Superblock,
    mark: Option<&Watermark>,
) -> Result<Option<PackId>> {
    let start = log_start(disk, superblock)?;
    let relies = superblock.features.incompatible & FEATURE_CHECKPOINTS != 0;
    Ok(start.or_else(|| mark.filter(|_| relies).map(|mark| mark.pack)))
}

/// Takes rows in the order of tables and keys.
pub type EachRows<'a> = &'a mut dyn FnMut(Vec<Op>) -> Result<()>;

/// Reads a checkpoint and gives its rows to `each`; returns its place in the log.
///
/// The rows count only if it returns without an error: its end may not be what it should.
///
/// # Errors
/// [`Error::CheckpointDamaged`] that names it; [`Error::Io`]; those of `each`.
pub fn load_checkpoint(
    disk: &dyn Disk,
    superblock: &Superblock,
    name: CheckpointName,
    each: EachRows<'_>,
) -> Result<Watermark> {
    let file = disk.open(&name.path(), Access::Read)?;
    let mut reading = Reading {
        disk,
        name,
        file,
        at: 0,
    };
    reading.run(superblock, each)
}

struct Reading<'a> {
    disk: &'a dyn Disk,
    name: CheckpointName,
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl Reading<'_> {
    fn damaged(&self, detail: impl Into<String>) -> Error {
        Error::CheckpointDamaged {
            path: self.disk.path(&self.name.path()),
            offset: self.at,
            detail: detail.into(),
        }
    }

    /// Says where bytes that do not decode are.
    fn found<T>(&self, decoded: Result<T>) -> Result<T> {
        decoded.map_err(|error| match error {
            Error::Malformed { detail, .. } => self.damaged(detail),
            Error::PackTruncated { .. } => self.damaged("it ends before its time"),
            other => other,
        })
    }

    fn bytes(&self, len: usize) -> Result<Vec<u8>> {
        let path = || self.disk.path(&self.name.path());
        self.found(read_exactly(
            self.file.as_ref(),
            PackOff::from_raw(self.at),
            len,
            path,
        ))
    }

    fn run(&mut self, superblock: &Superblock, each: EachRows<'_>) -> Result<Watermark> {
        let hash = |parts: &[&[u8]]| checksum(Checksum::Checkpoint, parts);
        let header = self.bytes(CHECKPOINT_HEADER_LEN)?;
        let (head, header) = self.found(decode_checkpoint_header(&header, &hash))?;
        let same = head.lsn == self.name.lsn && head.pack == self.name.pack;
        if head.store != superblock.store || !same {
            return Err(self.damaged("it belongs to another store or place"));
        }
        self.at += CHECKPOINT_HEADER_LEN as u64;
        let mut sum = SpanHasher::new(Checksum::Checkpoint);
        sum.update(&header);
        let (mut parts, mut rows) = (0_u32, 0_u64);
        let mut last = None;
        loop {
            let piece = self.bytes(CHECKPOINT_PART_LEN)?;
            match self.found(decode_checkpoint_piece(&piece))? {
                CheckpointPiece::Part(part, part_sum) => {
                    if part.index != parts {
                        return Err(self.damaged("a part is missing"));
                    }
                    let bytes = self.bytes(part.part_len())?;
                    let ops = self.found(read_part(&part, &bytes, &header, &mut last))?;
                    each(ops)?;
                    sum.update(&part_sum);
                    parts = parts.saturating_add(1);
                    rows = rows.saturating_add(u64::from(part.row_count));
                    self.at += bytes.len() as u64;
                }
                CheckpointPiece::End(end) => {
                    let whole = self.at + CHECKPOINT_END_LEN as u64 == self.file.len()?.raw();
                    if end != end_of(parts, rows, sum) || !whole {
                        return Err(self.damaged("its end does not fit"));
                    }
                    return Ok(Watermark {
                        pack: head.pack,
                        off: head.off,
                        lsn: head.lsn,
                        chain: head.chain,
                    });
                }
            }
        }
    }
}

fn read_part(
    part: &PartHead,
    bytes: &[u8],
    header: &[u8; 32],
    last: &mut Option<(u8, Vec<u8>)>,
) -> Result<Vec<Op>> {
    let hash = |parts: &[&[u8]]| checksum(Checksum::Checkpoint, parts);
    let payload = checkpoint_payload(part, bytes, header, &hash)?;
    let raw_len = usize::try_from(part.raw_len).unwrap_or(usize::MAX);
    let mut raw = Vec::new();
    decompress(part.codec, payload, raw_len, &mut raw)?;
    decode_checkpoint_rows(part, &raw, last)
}

fn end_of(part_count: u32, row_count: u64, mut sum: SpanHasher) -> CheckpointEnd {
    sum.update(&part_count.to_le_bytes());
    sum.update(&row_count.to_le_bytes());
    CheckpointEnd {
        part_count,
        row_count,
        sum: sum.finish(),
    }
}

/// A checkpoint that is being written: rows go in, parts of bounded size come out.
pub struct CheckpointWriter {
    file: Arc<dyn DiskFile>,
    name: CheckpointName,
    level: i32,
    at: u64,
    header: [u8; 32],
    sum: SpanHasher,
    parts: u32,
    rows: u64,
    ops: Vec<Op>,
    ops_len: usize,
}

impl CheckpointWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(PackOff::from_raw(self.at), bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Adds a row; tables ascend, and keys within one.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`].
    pub fn put(&mut self, row: Op) -> Result<()> {
        self.ops_len += op_len(&row);
        self.ops.push(row);
        if self.ops_len >= RECORD_PAYLOAD_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let ops = std::mem::take(&mut self.ops);
        self.ops_len = 0;
        if ops.is_empty() {
            return Ok(());
        }
        let raw = encode_ops(&ops);
        let mut payload = Vec::new();
        let codec = compress(&raw, self.level, &mut payload)?;
        let to_u32 = |n: usize| u32::try_from(n).map_err(|_| Error::Internal("checkpoint length"));
        let head = PartHead {
            index: self.parts,
            codec: codec.id(),
            raw_len: to_u32(raw.len())?,
            stored_len: to_u32(payload.len())?,
            row_count: to_u32(ops.len())?,
        };
        let hash = |parts: &[&[u8]]| checksum(Checksum::Checkpoint, parts);
        let (bytes, sum) = encode_checkpoint_part(&head, &payload, &self.header, &hash)?;
        self.write(&bytes)?;
        self.sum.update(&sum);
        self.parts += 1;
        self.rows += u64::from(head.row_count);
        Ok(())
    }

    fn finish(mut self) -> Result<u64> {
        self.flush()?;
        let end = end_of(self.parts, self.rows, self.sum.clone());
        self.write(&encode_checkpoint_end(&end))?;
        self.file.sync_data()?;
        Ok(self.rows)
    }
}

impl ChunkStore {
    /// Writes a checkpoint of the place `mark`, in [`CHECKPOINTS_KEPT`] copies, and then removes all older ones.
    /// `fill` gives all rows of the index as it is at `mark`, and is called once for each copy.
    ///
    /// Each copy is complete, synced and read back before it gets its name, and all of them have theirs before an
    /// older one goes.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`], [`Error::CheckpointDamaged`] if what was written does not read back: older
    /// checkpoints are still there then.
    pub fn write_checkpoint(
        &self,
        mark: &Watermark,
        fill: &dyn Fn(&mut CheckpointWriter) -> Result<()>,
    ) -> Result<()> {
        let disk = self.files.disk();
        disk.create_dir(CHECKPOINTS)?;
        disk.sync_dir("")?;
        self.remove_unfinished()?;
        let older = checkpoints(disk.as_ref())?;
        let copies = u8::try_from(CHECKPOINTS_KEPT).unwrap_or(u8::MAX);
        for copy in 0..copies {
            let name = CheckpointName {
                lsn: mark.lsn,
                pack: mark.pack,
                copy,
            };
            if !older.contains(&name) {
                self.write_copy(name, mark, fill)?;
            }
        }
        for name in older.iter().filter(|name| name.lsn != mark.lsn) {
            disk.remove(&name.path())?;
        }
        disk.sync_dir(CHECKPOINTS)
    }

    fn write_copy(
        &self,
        name: CheckpointName,
        mark: &Watermark,
        fill: &dyn Fn(&mut CheckpointWriter) -> Result<()>,
    ) -> Result<()> {
        let disk = self.files.disk();
        let path = name.path();
        let unfinished = format!("{path}{UNFINISHED}");
        let head = CheckpointHead {
            store: self.superblock.store,
            pack: mark.pack,
            off: mark.off,
            lsn: mark.lsn,
            chain: mark.chain,
            created: self.config.env.now(),
        };
        let hash = |parts: &[&[u8]]| checksum(Checksum::Checkpoint, parts);
        let header = encode_checkpoint_header(&head, &hash);
        let (_, header_sum) = decode_checkpoint_header(&header, &hash)?;
        let mut sum = SpanHasher::new(Checksum::Checkpoint);
        sum.update(&header_sum);
        let mut writer = CheckpointWriter {
            file: disk.create_new(&unfinished)?,
            name,
            level: self.config.level,
            at: 0,
            header: header_sum,
            sum,
            parts: 0,
            rows: 0,
            ops: Vec::new(),
            ops_len: 0,
        };
        let done = writer
            .write(&header)
            .and_then(|()| fill(&mut writer))
            .and_then(|()| writer.finish());
        let rows = match done {
            Ok(rows) => rows,
            Err(error) => {
                // What is left of it is removed by the next one, if not now.
                let _ = disk.remove(&unfinished);
                return Err(error);
            }
        };
        let mut found = 0_u64;
        let file = disk.open(&unfinished, Access::Read)?;
        let mut reading = Reading {
            disk: disk.as_ref(),
            name,
            file,
            at: 0,
        };
        reading.run(&self.superblock, &mut |ops| {
            found += ops.len() as u64;
            Ok(())
        })?;
        if found != rows {
            return Err(Error::Internal("a checkpoint reads back with other rows"));
        }
        disk.rename(&unfinished, &path)?;
        disk.sync_dir(CHECKPOINTS)
    }

    /// Removes what a crash has left of checkpoints.
    fn remove_unfinished(&self) -> Result<()> {
        let disk = self.files.disk();
        for name in names(disk.as_ref())? {
            if name.ends_with(UNFINISHED) {
                disk.remove(&format!("{CHECKPOINTS}/{name}"))?;
            }
        }
        Ok(())
    }

    /// Says in the superblock that LOG packs before the checkpoints may be gone: programs that do not know
    /// checkpoints must not open the store from here on.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`].
    pub fn rely_on_checkpoints(&self) -> Result<()> {
        self.writer.lock().require_features(FEATURE_CHECKPOINTS)
    }

    /// Whether LOG packs may be gone that only checkpoints stand for.
    #[must_use]
    pub fn relies_on_checkpoints(&self) -> bool {
        self.current_superblock().features.incompatible & FEATURE_CHECKPOINTS != 0
    }

    /// The checkpoints that are there, the oldest first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn checkpoints(&self) -> Result<Vec<CheckpointName>> {
        checkpoints(self.files.disk().as_ref())
    }

    /// Reads a checkpoint to its end.
    ///
    /// # Errors
    /// As [`load_checkpoint`].
    pub fn verify_checkpoint(&self, name: CheckpointName) -> Result<()> {
        let disk = self.files.disk().as_ref();
        load_checkpoint(disk, &self.superblock, name, &mut |_| Ok(())).map(|_| ())
    }
}

impl std::fmt::Debug for CheckpointWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CheckpointWriter({:?})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_store_writes_are_checkpoints() {
        let name = CheckpointName {
            lsn: Lsn::from_raw(0xabc),
            pack: PackId::from_raw(7),
            copy: 1,
        };
        let path = name.path();
        let plain = path.strip_prefix("checkpoints/").unwrap();
        assert_eq!(CheckpointName::parse(plain), Some(name));
        let unfinished = format!("{plain}.tmp");
        for other in ["", "7-abc-1.ckp", &unfinished, &plain.to_uppercase()] {
            assert_eq!(CheckpointName::parse(other), None, "{other}");
        }
    }
}
