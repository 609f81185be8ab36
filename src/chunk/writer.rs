//! Writes packs and the log: the order in which bytes become durable is decided here.
//!
//! A pack comes into being in this order, each step durable before the next:
//! 1. its file, under its final name, with its header; 2. its name in the directory; 3. the superblock's
//!    high-water mark; 4. the first commit that uses it.
//!
//! A crash before 3 leaves a pack above the high-water mark that no commit can name: replay passes it over
//! if its header is torn. After 3 every number up to the mark has a file, so that a missing one shows. A torn
//! LOG pack must stay above the mark or below the newest LOG pack: so DATA packs are created only while a LOG
//! pack is open.
//!
//! A commit: frames of DATA packs, their sync, inline frames, record parts, one sync of the LOG pack.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::{Batch, PackedFrame};
use super::files::{PACKS, PackFiles, pack_name};
use super::pack::PackWriter;
use super::replay::LogTail;
use super::superblocks::save_superblock;
use super::types::{Committed, Durable, Watermark};
use crate::base::limits::RECORD_PAYLOAD_MAX;
use crate::base::{ByteLen, ChunkId, Digest, Env, Error, Lsn, PackId, PackOff, Result};
use crate::codec::compress;
use crate::disk::Disk;
use crate::format::footer::{
    FOOTER_FRAME_LEN, FOOTER_HEADER_LEN, Footer, FooterFrame, TRAILER_LEN, encode_footer,
};
use crate::format::frame::{Address, FRAME_CHUNK_LEN, FrameHead, encode_frame};
use crate::format::pack::{Cut, PACK_HEADER_LEN, PackHeader, encode_pack_header};
use crate::format::record::{
    OP_LEN_MAX, RECORD_HEADER_LEN, RecordHead, encode_ops, encode_record, op_is_valid, op_len,
};
use crate::format::rows::{ChunkRow, Op, PackKind, PackRow, Table};
use crate::format::superblock::Superblock;
use crate::format::{ALIGN, CHAIN_START, Hash, keys};
use crate::hash::{Checksum, SpanHasher, checksum};

/// Bytes of a footer beside its directory, padding included.
const FOOTER_FIXED_LEN: usize = FOOTER_HEADER_LEN + 32 + TRAILER_LEN + ALIGN;
/// Length of the operation that puts a chunk's row, rounded up.
const CHUNK_OP_LEN: usize = 96;
/// Version of this program, as pack headers have it.
const WRITER_VERSION: u32 = 0x0000_0100;

/// The hash of a record at a place: its domain is bound to the store and the place, so that bytes which
/// look like a record but were written elsewhere (a copy of a log within a file) never verify.
pub(super) fn record_hash(at: Address) -> impl Fn(&[&[u8]]) -> Hash {
    move |parts| {
        let mut sum = SpanHasher::new(Checksum::Chain);
        sum.update(at.store.as_bytes());
        sum.update(&at.pack.raw().to_le_bytes());
        sum.update(&at.off.raw().to_le_bytes());
        for part in parts {
            sum.update(part);
        }
        sum.finish()
    }
}

/// Where the chunks of a frame are.
pub(super) type ChunkRows = Vec<(ChunkId, ChunkRow)>;

/// A pack that is open for appending.
struct OpenPack {
    out: PackWriter,
    frames: Vec<FooterFrame>,
    /// Length of its footer if it were sealed now.
    footer_len: usize,
}

/// The open LOG pack and the place of the log within it.
struct OpenLog {
    pack: OpenPack,
    epoch: u64,
    /// Last record so far, durable or not.
    lsn: Lsn,
    chain: Hash,
    /// End of that record, or of the header.
    record_end: PackOff,
    record_count: u64,
    /// Bytes since `record_end`.
    span: SpanHasher,
}

/// The end of the log that is durable: the next LOG pack's cut.
#[derive(Clone, Copy)]
struct LogEnd {
    mark: Watermark,
    /// Epoch of its pack, 0 before the first.
    epoch: u64,
}

/// The one writer of a store.
pub(super) struct Writer {
    files: Arc<PackFiles>,
    superblock: Superblock,
    env: Env,
    level: i32,
    next_pack: PackId,
    /// A file may have had the next number and be gone, not certainly: this process removed it, or one before it.
    unsettled: bool,
    log: Option<OpenLog>,
    /// The LOG pack that was begun and not sealed, also while a commit has it in its hands.
    unsealed_log: Option<PackId>,
    data: Option<OpenPack>,
    end: LogEnd,
    /// DATA packs that got frames since the batch began; of those no longer open, the final row.
    touched: BTreeMap<PackId, Option<PackRow>>,
    /// LOG packs that stay without a footer and whose rows are in no record yet.
    retired: BTreeMap<PackId, PackRow>,
    /// Packs that this process has sealed, with the digests of what it wrote, until they are taken to be covered.
    sealed: BTreeMap<PackId, Digest>,
}

impl OpenPack {
    fn fits(&self, more: usize, capacity: u64) -> bool {
        let end = self.out.end().raw();
        let more = more.saturating_add(self.footer_len);
        end.saturating_add(more as u64) <= capacity
    }

    /// Appends a frame and returns its bytes and the rows of its chunks.
    fn append_frame(
        &mut self,
        superblock: &Superblock,
        frame: &PackedFrame,
    ) -> Result<(Vec<u8>, ChunkRows)> {
        let at = Address {
            store: superblock.store,
            pack: self.out.id(),
            off: self.out.end(),
        };
        let head = frame.head();
        let hash = |parts: &[&[u8]]| checksum(Checksum::Frame, parts);
        let bytes = encode_frame(&at, &head, &frame.payload, &hash)?;
        self.out.append(&bytes)?;
        let frame_len = u32::try_from(bytes.len()).map_err(|_| Error::Internal("frame length"))?;
        let rows = chunk_rows(at.pack, at.off, frame_len, &head)?;
        self.footer_len += FOOTER_FRAME_LEN + head.chunks.len() * FRAME_CHUNK_LEN;
        self.frames.push(FooterFrame {
            off: at.off,
            len: frame_len,
            kind: head.kind,
            codec: head.codec,
            chunks: head.chunks,
        });
        Ok((bytes, rows))
    }

    /// Writes the footer and syncs; returns the pack's last row.
    fn seal(mut self, superblock: &Superblock, log: (u64, Lsn, Hash)) -> Result<Durable<PackRow>> {
        let (record_count, last_lsn, chain) = log;
        // A footer says that what is before it is whole: no crash may keep the footer and tear that.
        self.out.sync()?;
        let footer = Footer {
            store: superblock.store,
            pack: self.out.id(),
            kind: self.out.kind(),
            data_len: self.out.end(),
            record_count,
            last_lsn,
            chain,
            body: self.out.digest(),
            frames: self.frames,
        };
        let bytes = encode_footer(&footer, &|parts| checksum(Checksum::Footer, parts))?;
        self.out.append(&bytes)?;
        let len = self.out.sync()?.into_inner();
        Ok(Durable::after_sync(PackRow {
            kind: footer.kind,
            len,
            sealed: Some(Digest::from_raw(self.out.digest())),
        }))
    }
}

/// The rows of a frame's chunks.
fn chunk_rows(pack: PackId, frame: PackOff, frame_len: u32, head: &FrameHead) -> Result<ChunkRows> {
    let mut raw_off = 0_u32;
    let mut rows = Vec::with_capacity(head.chunks.len());
    for (idx, chunk) in head.chunks.iter().enumerate() {
        let row = ChunkRow {
            pack,
            frame,
            frame_len,
            idx: u16::try_from(idx).map_err(|_| Error::Internal("too many chunks in a frame"))?,
            raw_off,
            len: chunk.len,
        };
        rows.push((chunk.id, row));
        raw_off = raw_off.saturating_add(chunk.len);
    }
    Ok(rows)
}

impl OpenLog {
    fn seal(self, superblock: &Superblock) -> Result<Durable<PackRow>> {
        let log = (self.record_count, self.lsn, self.chain);
        self.pack.seal(superblock, log)
    }

    fn cut(&self) -> Cut {
        Cut {
            prev: self.pack.out.id(),
            len: self.record_end,
            lsn: self.lsn,
            chain: self.chain,
            epoch: self.epoch + 1,
        }
    }

    /// Appends one record after the bytes since the last one.
    fn append_record(
        &mut self,
        superblock: &Superblock,
        head: &RecordHead,
        payload: &[u8],
    ) -> Result<()> {
        let at = Address {
            store: superblock.store,
            pack: self.pack.out.id(),
            off: self.pack.out.end(),
        };
        let (bytes, chain) = encode_record(head, payload, &record_hash(at))?;
        self.pack.out.append(&bytes)?;
        self.lsn = head.lsn;
        self.chain = chain;
        self.record_end = self.pack.out.end();
        self.record_count += 1;
        self.span = SpanHasher::new(Checksum::Span);
        Ok(())
    }
}

/// A record but for its place.
struct Part {
    raw_len: usize,
    op_count: usize,
    codec: u8,
    payload: Vec<u8>,
    last: bool,
}

impl Writer {
    /// A writer that continues a log; nothing is written yet.
    pub(super) fn new(
        files: Arc<PackFiles>,
        superblock: Superblock,
        tail: &LogTail,
        env: Env,
        level: i32,
    ) -> Self {
        Self {
            files,
            superblock,
            env,
            level,
            next_pack: tail.next_pack,
            unsettled: true,
            log: None,
            unsealed_log: None,
            data: None,
            end: LogEnd {
                mark: tail.mark,
                epoch: tail.epoch,
            },
            touched: BTreeMap::new(),
            retired: tail.retired(),
            sealed: BTreeMap::new(),
        }
    }

    /// Notes that a pack was sealed.
    fn note_sealed(&mut self, id: PackId, row: &PackRow) {
        self.sealed.extend(row.sealed.map(|digest| (id, digest)));
    }

    /// What this process has written into a pack that it has sealed.
    pub(super) fn sealed_digest(&self, id: PackId) -> Option<Digest> {
        self.sealed.get(&id).copied()
    }

    /// Forgets the digest of a pack that is covered, or gone.
    pub(super) fn forget_sealed(&mut self, id: PackId) {
        self.sealed.remove(&id);
    }

    /// The row of a LOG pack that stays without a footer, if no record has it yet.
    pub(super) fn retired_row(&self, id: PackId) -> Option<PackRow> {
        self.retired.get(&id).copied()
    }

    /// Forgets what an abandoned batch has touched. Its frames stay where they are, unnamed.
    pub(super) fn begin(&mut self) {
        self.touched.clear();
    }

    /// After an error: nothing more is appended to the open packs, the next commit starts new ones, and
    /// the LOG pack's cut leaves out whatever was not durable.
    pub(super) fn give_up(&mut self) {
        self.log = None;
        if let Some(id) = self.unsealed_log.take() {
            self.retire(id);
        }
        self.data = None;
        self.touched.clear();
    }

    /// Whether a LOG pack stays without a footer, which the next commit will say.
    pub(super) fn has_retired(&self, id: PackId) -> bool {
        self.retired.contains_key(&id)
    }

    /// Notes that a LOG pack stays without a footer. Of it counts what is durable.
    fn retire(&mut self, id: PackId) {
        let mark = &self.end.mark;
        let len = match mark.pack == id {
            true => mark.off.raw(),
            false => PACK_HEADER_LEN as u64,
        };
        let row = PackRow::log(ByteLen::from_raw(len));
        self.retired.insert(id, row);
    }

    /// Up to where the packs that are open must verify: a LOG pack's last record, what a DATA pack's file has.
    pub(super) fn open_packs(&self) -> Vec<(PackId, PackOff)> {
        let log = self
            .log
            .as_ref()
            .map(|log| (log.pack.out.id(), log.record_end));
        let data = self
            .data
            .as_ref()
            .map(|data| (data.out.id(), data.out.written()));
        log.into_iter().chain(data).collect()
    }

    /// The number that the next pack gets.
    pub(super) fn next_pack(&self) -> PackId {
        self.next_pack
    }

    /// The superblock as it was last written.
    pub(super) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Sets incompatible feature bits in the superblock, durably.
    pub(super) fn require_features(&mut self, bits: u64) -> Result<()> {
        if self.superblock.features.incompatible & bits == bits {
            return Ok(());
        }
        // Copies may have this generation even if saving fails: it is not used again.
        self.superblock.generation += 1;
        let mut with = self.superblock.clone();
        with.features.incompatible |= bits;
        save_superblock(self.files.disk(), &with)?;
        self.superblock = with;
        Ok(())
    }

    fn capacity(&self) -> u64 {
        self.superblock.pack_capacity.raw()
    }

    fn create(&mut self, cut: Option<Cut>) -> Result<OpenPack> {
        let kind = if cut.is_some() {
            PackKind::Log
        } else {
            PackKind::Data
        };
        let id = self.next_pack;
        let disk = Arc::clone(self.files.disk());
        let name = pack_name(id, kind);
        // Bug: a DATA pack that could not be begun was removed, a LOG pack got its number, and a crash brought the
        // first one's name back beside the other's: two packs of one number are no store.
        if self.unsettled {
            disk.sync_dir(PACKS)?;
            self.unsettled = false;
        }
        let file = disk.create_new(&name).map_err(|error| match error {
            // To a caller of the engine these two would speak of a file of the tree.
            Error::Exists | Error::NotFound => {
                Error::io(format!("create {name}"), std::io::Error::other(error))
            }
            other => other,
        })?;
        let mut out = PackWriter::new(id, kind, Arc::clone(&file));
        let header = PackHeader {
            store: self.superblock.store,
            pack: id,
            capacity: self.superblock.pack_capacity,
            created: self.env.now(),
            writer: WRITER_VERSION,
            cut,
        };
        let durable = encode_pack_header(&header, &|parts| checksum(Checksum::PackHeader, parts))
            .and_then(|bytes| out.append(&bytes))
            .and_then(|_| out.sync())
            .and_then(|_| disk.sync_dir(PACKS));
        if let Err(error) = durable {
            // The number stays free if the file is gone; otherwise it is used up.
            self.unsettled = true;
            if disk.remove(&name).is_err() {
                self.next_pack = id.next();
            }
            return Err(error);
        }
        // From here on a copy of the superblock may name the pack: its file stays.
        self.next_pack = id.next();
        self.superblock.pack_high_water = id;
        self.superblock.generation += 1;
        save_superblock(&disk, &self.superblock)?;
        self.files.add(id, kind, file);
        Ok(OpenPack {
            out,
            frames: Vec::new(),
            footer_len: FOOTER_FIXED_LEN,
        })
    }

    /// Creates a DATA pack, after a LOG pack if none is open: see the order above.
    fn create_data(&mut self) -> Result<OpenPack> {
        if self.log.is_none() {
            let log = self.take_log(0, false)?;
            self.log = Some(log);
        }
        self.create(None)
    }

    /// Appends a frame to the open DATA pack, or to a new one if it is full.
    pub(super) fn append_data(&mut self, frame: &PackedFrame) -> Result<ChunkRows> {
        let need = frame.total_len();
        let capacity = self.capacity();
        let mut pack = match self.data.take() {
            Some(pack) if pack.fits(need, capacity) => pack,
            Some(full) => {
                let id = full.out.id();
                let row = full.seal(&self.superblock, (0, Lsn::from_raw(0), CHAIN_START))?;
                let row = row.into_inner();
                self.note_sealed(id, &row);
                self.touched.insert(id, Some(row));
                self.create_data()?
            }
            None => self.create_data()?,
        };
        // An error drops the pack: it is poisoned.
        let (_, rows) = pack.append_frame(&self.superblock, frame)?;
        self.touched.insert(pack.out.id(), None);
        self.data = Some(pack);
        Ok(rows)
    }

    /// Syncs the DATA packs of this batch and returns their rows.
    fn sync_data(&mut self) -> Result<Durable<Vec<(PackId, PackRow)>>> {
        let mut rows = Vec::new();
        for (id, sealed) in std::mem::take(&mut self.touched) {
            let row = match (sealed, &mut self.data) {
                (Some(row), _) => row,
                (None, Some(data)) if data.out.id() == id => PackRow {
                    kind: PackKind::Data,
                    len: data.out.sync()?.into_inner(),
                    sealed: None,
                },
                _ => return Err(Error::Internal("a touched pack is not open")),
            };
            rows.push((id, row));
        }
        Ok(Durable::after_sync(rows))
    }

    /// The open LOG pack with room for `need` bytes more, or a new one that is cut from `cut_at`.
    fn take_log(&mut self, need: usize, in_commit: bool) -> Result<OpenLog> {
        let capacity = self.capacity();
        let cut = match self.log.take() {
            Some(log) if log.pack.fits(need, capacity) => return Ok(log),
            Some(full) => {
                let cut = full.cut();
                // Within a commit its first parts must be durable; before it, they are already.
                match full.seal(&self.superblock) {
                    Err(error) if in_commit => return Err(error),
                    Err(_) => self.retire(cut.prev),
                    Ok(row) => self.note_sealed(cut.prev, &row),
                }
                self.unsealed_log = None;
                cut
            }
            None => self.end.cut(),
        };
        let epoch = cut.epoch;
        let (lsn, chain) = (cut.lsn, cut.chain);
        let pack = self.create(Some(cut))?;
        self.unsealed_log = Some(pack.out.id());
        Ok(OpenLog {
            record_end: pack.out.end(),
            pack,
            epoch,
            lsn,
            chain,
            record_count: 0,
            span: SpanHasher::new(Checksum::Span),
        })
    }

    /// Makes a batch and its operations durable. On an error the caller calls [`Writer::give_up`].
    pub(super) fn commit(&mut self, batch: &mut Batch, ops: Vec<Op>) -> Result<Durable<Committed>> {
        // What replay refuses would make the log unreadable from there on.
        if !ops.iter().all(op_is_valid) {
            return Err(Error::Internal("an operation that no record may hold"));
        }
        let data_rows = self.sync_data()?.into_inner();
        let staged_len: usize = batch.staged.iter().map(PackedFrame::total_len).sum();
        let chunks: usize = batch.staged.iter().map(|frame| frame.chunks.len()).sum();
        let ops_len: usize = ops.iter().map(op_len).sum::<usize>()
            + (chunks + batch.rows.len() + data_rows.len() + self.retired.len()) * CHUNK_OP_LEN;
        let first_part = RECORD_HEADER_LEN + ALIGN + ops_len.min(RECORD_PAYLOAD_MAX + OP_LEN_MAX);
        let mut log = self.take_log(staged_len + first_part, false)?;

        let mut rows = std::mem::take(&mut batch.rows);
        for frame in &batch.staged {
            let (bytes, more) = log.pack.append_frame(&self.superblock, frame)?;
            log.span.update(&bytes);
            rows.extend(more);
        }
        let mut all = Vec::with_capacity(rows.len() + data_rows.len() + ops.len());
        for (id, row) in &rows {
            all.push(Op::Put(Table::Chunk, id.as_bytes().to_vec(), row.encode()));
        }
        let retired: Vec<(PackId, PackRow)> =
            self.retired.iter().map(|(id, row)| (*id, *row)).collect();
        for (id, row) in data_rows.iter().chain(&retired) {
            all.push(Op::Put(Table::Pack, keys::pack(*id).to_vec(), row.encode()));
        }
        all.extend(ops);

        let mut log = self.append_parts(log, &all)?;
        log.pack.out.sync()?;
        let watermark = Watermark {
            pack: log.pack.out.id(),
            off: log.record_end,
            lsn: log.lsn,
            chain: log.chain,
        };
        self.end = LogEnd {
            mark: watermark,
            epoch: log.epoch,
        };
        self.log = Some(log);
        // What was retired while this commit was written waits for the next one.
        for (id, _) in &retired {
            self.retired.remove(id);
        }
        Ok(Durable::after_sync(Committed {
            ops: all,
            watermark,
        }))
    }

    fn append_parts(&mut self, mut log: OpenLog, ops: &[Op]) -> Result<OpenLog> {
        let time = self.env.now();
        for (idx, part) in cut_parts(ops, self.level)?.into_iter().enumerate() {
            let need = RECORD_HEADER_LEN + part.payload.len() + ALIGN;
            if idx > 0 && !log.pack.fits(need, self.capacity()) {
                self.log = Some(log);
                log = self.take_log(need, true)?;
            }
            let to_u32 = |n: usize| u32::try_from(n).map_err(|_| Error::Internal("record length"));
            let head = RecordHead {
                lsn: log.lsn.next(),
                part: to_u32(idx)?,
                last: part.last,
                codec: part.codec,
                span_len: log.span.len_bytes(),
                span_hash: log.span.finish(),
                time,
                raw_len: to_u32(part.raw_len)?,
                op_count: to_u32(part.op_count)?,
                prev_chain: log.chain,
            };
            log.append_record(&self.superblock, &head, &part.payload)?;
        }
        Ok(log)
    }

    /// Ends the open packs with footers. Their last rows are in no record: the footers say that they are sealed.
    pub(super) fn seal(&mut self) -> Result<()> {
        self.touched.clear();
        let (data, log) = (self.data.take(), self.log.take());
        if let Some(data) = data {
            let id = data.out.id();
            let row = data.seal(&self.superblock, (0, Lsn::from_raw(0), CHAIN_START))?;
            self.note_sealed(id, &row);
        }
        if let Some(log) = log {
            let id = log.pack.out.id();
            let row = log.seal(&self.superblock)?;
            self.note_sealed(id, &row);
            self.unsealed_log = None;
        }
        Ok(())
    }
}

impl LogEnd {
    fn cut(&self) -> Cut {
        if self.mark.pack.raw() == 0 {
            return Cut::START;
        }
        Cut {
            prev: self.mark.pack,
            len: self.mark.off,
            lsn: self.mark.lsn,
            chain: self.mark.chain,
            epoch: self.epoch + 1,
        }
    }
}

/// Cuts operations into records of at most `RECORD_PAYLOAD_MAX` bytes and compresses them.
fn cut_parts(ops: &[Op], level: i32) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = ops;
    loop {
        let mut len = 0_usize;
        let fitting = rest
            .iter()
            .take_while(|op| {
                let first = len == 0;
                len += op_len(op);
                first || len <= RECORD_PAYLOAD_MAX
            })
            .count();
        let (now, later) = rest.split_at_checked(fitting).unwrap_or((rest, &[]));
        let raw = encode_ops(now);
        let mut payload = Vec::new();
        let codec = compress(&raw, level, &mut payload)?;
        parts.push(Part {
            raw_len: raw.len(),
            op_count: now.len(),
            codec: codec.id(),
            payload,
            last: later.is_empty(),
        });
        rest = later;
        if rest.is_empty() {
            return Ok(parts);
        }
    }
}

/// Creates the directory of packs and the first superblock of a store.
///
/// # Errors
/// [`Error::NoSpace`], [`Error::Io`].
pub(super) fn create_store(disk: &Arc<dyn Disk>, superblock: &Superblock) -> Result<()> {
    disk.create_dir(PACKS)?;
    disk.sync_dir(PACKS)?;
    disk.sync_dir("")?;
    save_superblock(disk, superblock)
}
