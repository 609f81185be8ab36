//! Commit records: the operations of a group of changes, chained by hashes, and their encoding.

use std::ops::Range;

use super::cursor::{Reader, Writer};
use super::frame::{CODEC_RAW, CODEC_ZSTD};
use super::rows::{Op, Table};
use super::{ALIGN, Hash, HashFn};
use crate::base::limits::{RECORD_PAYLOAD_MAX, XATTR_VALUE_LEN_MAX};
use crate::base::{Lsn, Result, Timestamp};

/// First 8 bytes of a commit record.
pub const RECORD_MAGIC: [u8; 8] = *b"mmhrecrd";
/// Version of the record's layout and of the rows in it.
pub const RECORD_VERSION: u16 = 1;
/// Length of the fixed part of a record in bytes; the payload follows.
pub const RECORD_HEADER_LEN: usize = 160;
/// Longest key of an operation in bytes.
pub const KEY_LEN_MAX: usize = 512;
/// Longest value of an operation in bytes.
pub const VALUE_LEN_MAX: usize = XATTR_VALUE_LEN_MAX;
/// Longest encoding of one operation in bytes.
pub const OP_LEN_MAX: usize = 4 + KEY_LEN_MAX + 4 + VALUE_LEN_MAX;
/// Largest payload before compression that a record may have, in bytes: a writer closes a record once
/// it has reached `RECORD_PAYLOAD_MAX`.
pub const RECORD_RAW_LEN_MAX: usize = RECORD_PAYLOAD_MAX + OP_LEN_MAX;

/// Bytes of the header that the chain hash covers: all before the chain hash itself.
const COVERED_LEN: usize = RECORD_HEADER_LEN - 32;
const FLAG_LAST: u8 = 1;
/// Tag, table, length of the key.
const OP_LEN_MIN: usize = 5;
const TAG_PUT: u8 = 1;
const TAG_DEL: u8 = 2;
const TAG_DEL_RANGE: u8 = 3;

/// What the writer of a record decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Sequence number: one more than the record before, 1 for the first.
    pub lsn: Lsn,
    /// Index of this part within its commit, from 0.
    pub part: u32,
    /// Whether it is the last part: the commit takes effect with it.
    pub last: bool,
    /// How the payload is encoded: [`CODEC_RAW`] or [`CODEC_ZSTD`].
    pub codec: u8,
    /// Bytes between the end of the previous record, or of the pack header, and this record.
    pub span_len: u64,
    /// Hash of those bytes.
    pub span_hash: Hash,
    /// When the commit was made.
    pub time: Timestamp,
    /// Length of the payload before compression in bytes.
    pub raw_len: u32,
    /// Operations in the payload.
    pub op_count: u32,
    /// Chain hash of the previous record.
    pub prev_chain: Hash,
}

/// A record's header as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the writer decided.
    pub head: RecordHead,
    /// Length of the payload as it is stored, in bytes.
    pub stored_len: u32,
    /// Hash of the header, the previous chain hash and the span's hash in it, and the payload.
    pub chain: Hash,
}

impl Record {
    /// Length in bytes of the whole record, padding included.
    #[must_use]
    pub fn record_len(&self) -> u64 {
        padded_len(u64::from(self.stored_len))
    }

    /// Where the stored payload is in the record's bytes.
    #[must_use]
    pub fn payload(&self) -> Range<usize> {
        let len = usize::try_from(self.stored_len).unwrap_or(usize::MAX);
        RECORD_HEADER_LEN..RECORD_HEADER_LEN.saturating_add(len)
    }

    /// Decodes the operations of this record from its decompressed payload.
    ///
    /// # Errors
    /// As [`decode_ops`], and `Malformed` if the length or the count is not that of the header.
    pub fn decode_ops(&self, raw_payload: &[u8]) -> Result<Vec<Op>> {
        let r = Reader::new("commit record", raw_payload);
        let len_fits = u32::try_from(raw_payload.len()) == Ok(self.head.raw_len);
        r.ensure(len_fits, "length of the payload")?;
        let ops = decode_ops(raw_payload)?;
        let count_fits = u32::try_from(ops.len()) == Ok(self.head.op_count);
        r.ensure(count_fits, "count of operations")?;
        Ok(ops)
    }
}

const fn padded_len(stored_len: u64) -> u64 {
    (RECORD_HEADER_LEN as u64 + stored_len).next_multiple_of(ALIGN as u64)
}

/// Makes the bytes of a record, a multiple of 8, and returns them with its chain hash.
///
/// `payload` is already encoded by the codec that `head` names. `hash` is bound to the domain
/// "record chain".
///
/// # Errors
/// `Malformed` if the head breaks a limit or does not fit the payload.
pub fn encode_record(
    head: &RecordHead,
    payload: &[u8],
    hash: HashFn<'_>,
) -> Result<(Vec<u8>, Hash)> {
    let r = Reader::new("commit record", &[]);
    let stored_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    check_head(&r, head, stored_len)?;
    let mut w = Writer::with_capacity(RECORD_HEADER_LEN + payload.len() + ALIGN);
    w.bytes(&RECORD_MAGIC).u16(RECORD_VERSION);
    w.u8(if head.last { FLAG_LAST } else { 0 }).u8(head.codec);
    w.u32(head.part).u64(head.lsn.raw());
    w.u64(head.span_len).bytes(&head.span_hash);
    w.timestamp(head.time);
    w.u32(head.raw_len).u32(stored_len).u32(head.op_count);
    w.zeros(8).bytes(&head.prev_chain);
    let chain = hash(&[w.as_slice(), payload]);
    w.bytes(&chain).bytes(payload).pad_to(ALIGN);
    Ok((w.finish(), chain))
}

/// Reads a record's header, to learn its length. Nothing is verified: all fields are claims.
///
/// `bytes` are at least the first [`RECORD_HEADER_LEN`] bytes.
///
/// # Errors
/// `Malformed` if there are too few bytes or they are not a record's header.
pub fn decode_header(bytes: &[u8]) -> Result<Record> {
    read_header(&mut Reader::new("commit record", bytes))
}

fn read_header(r: &mut Reader<'_>) -> Result<Record> {
    let magic: [u8; 8] = r.array()?;
    r.ensure(magic == RECORD_MAGIC, "magic")?;
    let version = r.u16()?;
    r.ensure(version == RECORD_VERSION, "unknown version of the record")?;
    let flags = r.u8()?;
    r.ensure(flags & !FLAG_LAST == 0, "unknown flags")?;
    let codec = r.u8()?;
    let part = r.u32()?;
    let lsn = Lsn::from_raw(r.u64()?);
    let span_len = r.u64()?;
    let span_hash = r.array()?;
    let time = r.timestamp()?;
    let raw_len = r.u32()?;
    let stored_len = r.u32()?;
    let op_count = r.u32()?;
    r.zeros(8)?;
    let prev_chain = r.array()?;
    let chain = r.array()?;
    let head = RecordHead {
        lsn,
        part,
        last: flags & FLAG_LAST != 0,
        codec,
        span_len,
        span_hash,
        time,
        raw_len,
        op_count,
        prev_chain,
    };
    check_head(r, &head, stored_len)?;
    Ok(Record {
        head,
        stored_len,
        chain,
    })
}

fn check_head(r: &Reader<'_>, head: &RecordHead, stored_len: u32) -> Result<()> {
    r.ensure(head.lsn.raw() != 0, "LSN 0")?;
    let aligned = head.span_len.is_multiple_of(ALIGN as u64);
    r.ensure(aligned, "length of the span")?;
    r.ensure(head.time.nanos < 1_000_000_000, "nanoseconds out of range")?;
    let in_bounds = usize::try_from(head.raw_len).is_ok_and(|len| len <= RECORD_RAW_LEN_MAX);
    r.ensure(in_bounds, "length of the payload")?;
    let fits = match head.codec {
        CODEC_RAW => stored_len == head.raw_len,
        CODEC_ZSTD => stored_len <= head.raw_len && stored_len != 0,
        _ => return Err(r.error("unknown codec")),
    };
    r.ensure(fits, "stored length")?;
    let room = u64::from(head.op_count) * OP_LEN_MIN as u64;
    r.ensure(room <= u64::from(head.raw_len), "count of operations")
}

/// Verifies a whole record: that it follows the record with chain hash `prev_chain`, that the bytes
/// between them are the span of that length and hash, and that its own chain hash is right.
///
/// `bytes` is the whole record, padding included, and nothing else; [`Record::payload`] says where the
/// payload is in it. `hash` is bound to the domain "record chain". The caller compares the LSN.
///
/// # Errors
/// `Malformed` if anything does not match.
pub fn decode_record(
    bytes: &[u8],
    prev_chain: &Hash,
    span_len: u64,
    span_hash: &Hash,
    hash: HashFn<'_>,
) -> Result<Record> {
    let mut r = Reader::new("commit record", bytes);
    let record = read_header(&mut r)?;
    let payload = r.bytes(record.payload().len())?;
    r.zeros(r.remaining())?;
    let whole = u64::try_from(bytes.len()) == Ok(record.record_len());
    r.ensure(whole, "length of the record")?;
    let head = &record.head;
    r.ensure(
        head.prev_chain == *prev_chain,
        "does not continue the chain",
    )?;
    r.ensure(head.span_len == span_len, "length of the span")?;
    r.ensure(head.span_hash == *span_hash, "hash of the span")?;
    let covered = bytes.get(..COVERED_LEN).unwrap_or_default();
    let chain = hash(&[covered, payload]);
    r.ensure(record.chain == chain, "chain hash does not match")?;
    Ok(record)
}

/// Length in bytes of the encoding of one operation: for cutting a commit into records.
#[must_use]
pub fn op_len(op: &Op) -> usize {
    match op {
        Op::Put(_, key, value) => 4 + key.len() + 4 + value.len(),
        Op::Del(_, key) => 4 + key.len(),
        Op::DelRange(_, from, to) => 4 + from.len() + 2 + to.len(),
    }
}

/// Whether [`decode_ops`] accepts an operation; an encoder must not be given any other.
#[must_use]
pub fn op_is_valid(op: &Op) -> bool {
    let key_fits = |key: &[u8]| (1..=KEY_LEN_MAX).contains(&key.len());
    match op {
        Op::Put(_, key, value) => key_fits(key) && value.len() <= VALUE_LEN_MAX,
        Op::Del(_, key) => key_fits(key),
        Op::DelRange(_, from, to) => key_fits(from) && key_fits(to) && from < to,
    }
}

/// The payload of a record: its operations one after another.
///
/// # Panics
/// If a key exceeds 16 or a value 32 bits of length: the caller has broken a limit.
#[must_use]
pub fn encode_ops(ops: &[Op]) -> Vec<u8> {
    let mut w = Writer::with_capacity(ops.iter().map(op_len).sum());
    for op in ops {
        match op {
            Op::Put(table, key, value) => {
                write_key(&mut w, TAG_PUT, *table, key);
                w.len_u32(value.len()).bytes(value);
            }
            Op::Del(table, key) => write_key(&mut w, TAG_DEL, *table, key),
            Op::DelRange(table, from, to) => {
                write_key(&mut w, TAG_DEL_RANGE, *table, from);
                w.len_u16(to.len()).bytes(to);
            }
        }
    }
    w.finish()
}

fn write_key(w: &mut Writer, tag: u8, table: Table, key: &[u8]) {
    w.u8(tag).u8(table.raw()).len_u16(key.len()).bytes(key);
}

/// Inverse of [`encode_ops`]. Keys and values are not parsed: see `keys` and `rows`.
///
/// # Errors
/// `Malformed` for an unknown operation or table, an empty or too long key, a too long value, an
/// empty range, and for bytes that end within an operation.
pub fn decode_ops(payload: &[u8]) -> Result<Vec<Op>> {
    let mut r = Reader::new("operation", payload);
    let mut ops = Vec::new();
    while r.remaining() > 0 {
        let tag = r.u8()?;
        let table = Table::from_raw(r.u8()?)?;
        let key = read_key(&mut r)?;
        ops.push(match tag {
            TAG_PUT => {
                let len = r.count_u32(1)?;
                r.ensure(len <= VALUE_LEN_MAX, "value is too long")?;
                Op::Put(table, key, r.bytes(len)?.to_vec())
            }
            TAG_DEL => Op::Del(table, key),
            TAG_DEL_RANGE => {
                let to = read_key(&mut r)?;
                r.ensure(key < to, "empty range")?;
                Op::DelRange(table, key, to)
            }
            _ => return Err(r.error("unknown operation")),
        });
    }
    Ok(ops)
}

fn read_key(r: &mut Reader<'_>) -> Result<Vec<u8>> {
    let len = usize::from(r.u16()?);
    r.ensure((1..=KEY_LEN_MAX).contains(&len), "length of a key")?;
    Ok(r.bytes(len)?.to_vec())
}
