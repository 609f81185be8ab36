//! Checkpoints: all rows of the index at one place of the log (docs/format.md, "Checkpoint").

use super::cursor::{Reader, Writer};
use super::record::{RECORD_RAW_LEN_MAX, decode_ops};
use super::rows::Op;
use super::{Hash, HashFn};
use crate::base::{Error, Lsn, PackId, PackOff, Result, StoreId, Timestamp};

/// First 8 bytes of a checkpoint.
pub const CHECKPOINT_MAGIC: [u8; 8] = *b"mmhckpt\n";
/// First 8 bytes of a part.
pub const CHECKPOINT_PART_MAGIC: [u8; 8] = *b"mmhckprt";
/// First 8 bytes of the end.
pub const CHECKPOINT_END_MAGIC: [u8; 8] = *b"mmhckend";
/// The version that this program writes.
pub const CHECKPOINT_VERSION: u16 = 1;
/// Length of the header in bytes.
pub const CHECKPOINT_HEADER_LEN: usize = 256;
/// Length of the header of a part in bytes.
pub const CHECKPOINT_PART_LEN: usize = 64;
/// Length of the end in bytes.
pub const CHECKPOINT_END_LEN: usize = 64;

/// What a checkpoint says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// The store that it belongs to.
    pub store: StoreId,
    /// LOG pack of the last record whose operations are in the rows.
    pub pack: PackId,
    /// Offset just after that record.
    pub off: PackOff,
    /// Its number.
    pub lsn: Lsn,
    /// Its chain hash.
    pub chain: Hash,
    /// When it was begun; for humans.
    pub created: Timestamp,
}

/// What the header of a part says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHead {
    /// Position of the part, from 0.
    pub index: u32,
    /// How the payload is compressed: 0 = raw, 1 = zstd.
    pub codec: u8,
    /// Bytes of the payload, decompressed.
    pub raw_len: u32,
    /// Bytes of the payload as it is stored.
    pub stored_len: u32,
    /// Rows in it.
    pub row_count: u32,
}

/// What comes after a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointPiece {
    /// The header of a part, and its checksum.
    Part(PartHead, Hash),
    /// The end: it is complete, if its checksum is that of the parts.
    End(CheckpointEnd),
}

/// The end of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointEnd {
    /// Number of parts.
    pub part_count: u32,
    /// Rows of all parts.
    pub row_count: u64,
    /// Over the header's checksum and those of all parts.
    pub sum: Hash,
}

impl PartHead {
    /// Bytes of the whole part, padding included.
    #[must_use]
    pub fn part_len(&self) -> usize {
        let stored = usize::try_from(self.stored_len).unwrap_or(usize::MAX);
        CHECKPOINT_PART_LEN
            .saturating_add(stored)
            .next_multiple_of(super::ALIGN)
    }

    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(CHECKPOINT_PART_LEN);
        w.bytes(&CHECKPOINT_PART_MAGIC)
            .u32(self.index)
            .u8(self.codec);
        w.zeros(3)
            .u32(self.raw_len)
            .u32(self.stored_len)
            .u32(self.row_count);
        w.zeros(4);
        w.finish()
    }
}

/// Makes the 256 bytes of a header. `hash` is bound to the domain "checkpoint".
#[must_use]
pub fn encode_checkpoint_header(head: &CheckpointHead, hash: HashFn<'_>) -> Vec<u8> {
    let mut w = Writer::with_capacity(CHECKPOINT_HEADER_LEN);
    w.bytes(&CHECKPOINT_MAGIC).u16(CHECKPOINT_VERSION).zeros(6);
    w.bytes(head.store.as_bytes())
        .u64(head.pack.raw())
        .u64(head.off.raw());
    w.u64(head.lsn.raw())
        .bytes(&head.chain)
        .timestamp(head.created);
    w.zeros(CHECKPOINT_HEADER_LEN - 32 - w.len());
    let sum = hash(&[w.as_slice()]);
    w.bytes(&sum);
    w.finish()
}

/// Inverse of [`encode_checkpoint_header`]; returns the header's checksum too.
///
/// # Errors
/// `Malformed` if it is not a header or is damaged; [`Error::VersionTooNew`] if it is intact and newer.
pub fn decode_checkpoint_header(bytes: &[u8], hash: HashFn<'_>) -> Result<(CheckpointHead, Hash)> {
    let mut r = Reader::new("checkpoint", bytes);
    r.ensure(bytes.len() == CHECKPOINT_HEADER_LEN, "length")?;
    let magic: [u8; 8] = r.array()?;
    r.ensure(magic == CHECKPOINT_MAGIC, "magic")?;
    let (covered, sum) = bytes
        .split_last_chunk::<32>()
        .ok_or_else(|| r.error("length"))?;
    r.ensure(*sum == hash(&[covered]), "checksum does not match")?;
    let version = r.u16()?;
    if version > CHECKPOINT_VERSION {
        return Err(Error::VersionTooNew {
            found: u32::from(version),
            supported: u32::from(CHECKPOINT_VERSION),
        });
    }
    r.ensure(version == CHECKPOINT_VERSION, "version")?;
    r.zeros(6)?;
    let head = CheckpointHead {
        store: StoreId::from_raw(r.array()?),
        pack: PackId::from_raw(r.u64()?),
        off: PackOff::from_raw(r.u64()?),
        lsn: Lsn::from_raw(r.u64()?),
        chain: r.array()?,
        created: r.timestamp()?,
    };
    r.zeros(r.remaining().saturating_sub(32))?;
    let placed = head.pack.raw() > 0 && head.lsn.raw() > 0;
    r.ensure(placed, "it has no place in the log")?;
    Ok((head, *sum))
}

/// Makes a part; `header` is the checksum of the checkpoint's header. Returns its checksum too.
///
/// # Errors
/// `Malformed` if the head does not fit the payload.
pub fn encode_checkpoint_part(
    head: &PartHead,
    payload: &[u8],
    header: &Hash,
    hash: HashFn<'_>,
) -> Result<(Vec<u8>, Hash)> {
    let mut w = Writer::with_capacity(head.part_len());
    w.bytes(&head.encode());
    if usize::try_from(head.stored_len) != Ok(payload.len()) {
        return Err(malformed("stored length of a part"));
    }
    let sum = hash(&[header, w.as_slice(), payload]);
    w.bytes(&sum).bytes(payload).pad_to(super::ALIGN);
    Ok((w.finish(), sum))
}

/// Makes the end; `hash` is over the header's checksum and those of the parts, one after another, then `parts`
/// and `rows` as they are stored.
#[must_use]
pub fn encode_checkpoint_end(end: &CheckpointEnd) -> Vec<u8> {
    let mut w = Writer::with_capacity(CHECKPOINT_END_LEN);
    w.bytes(&CHECKPOINT_END_MAGIC).u32(end.part_count).zeros(4);
    w.u64(end.row_count).zeros(8).bytes(&end.sum);
    w.finish()
}

/// Tells what begins at a place after the header: a part or the end. `bytes` are the 64 there.
///
/// # Errors
/// `Malformed` for anything else, and for lengths out of range.
pub fn decode_checkpoint_piece(bytes: &[u8]) -> Result<CheckpointPiece> {
    let mut r = Reader::new("checkpoint", bytes);
    let magic: [u8; 8] = r.array()?;
    if magic == CHECKPOINT_END_MAGIC {
        let part_count = r.u32()?;
        r.zeros(4)?;
        let row_count = r.u64()?;
        r.zeros(8)?;
        let sum = r.array()?;
        r.finish()?;
        return Ok(CheckpointPiece::End(CheckpointEnd {
            part_count,
            row_count,
            sum,
        }));
    }
    r.ensure(magic == CHECKPOINT_PART_MAGIC, "no part begins here")?;
    let index = r.u32()?;
    let codec = r.u8()?;
    r.zeros(3)?;
    let head = PartHead {
        index,
        codec,
        raw_len: r.u32()?,
        stored_len: r.u32()?,
        row_count: r.u32()?,
    };
    r.zeros(4)?;
    let sum = r.array()?;
    let raw_len = usize::try_from(head.raw_len).unwrap_or(usize::MAX);
    let stored_fits = match head.codec {
        0 => head.stored_len == head.raw_len,
        1 => (1..=head.raw_len).contains(&head.stored_len),
        _ => false,
    };
    let fits = (1..=RECORD_RAW_LEN_MAX).contains(&raw_len) && stored_fits && head.row_count > 0;
    r.ensure(fits, "lengths of a part")?;
    r.finish()?;
    Ok(CheckpointPiece::Part(head, sum))
}

/// Verifies a whole part, of which [`decode_checkpoint_piece`] has told the head, and returns its payload.
///
/// # Errors
/// `Malformed` if its checksum does not match.
pub fn checkpoint_payload<'a>(
    head: &PartHead,
    bytes: &'a [u8],
    header: &Hash,
    hash: HashFn<'_>,
) -> Result<&'a [u8]> {
    let wrong = || malformed("length of a part");
    let (covered, rest) = bytes.split_first_chunk::<32>().ok_or_else(wrong)?;
    let (sum, rest) = rest.split_first_chunk::<32>().ok_or_else(wrong)?;
    let stored = usize::try_from(head.stored_len).unwrap_or(usize::MAX);
    let (payload, padding) = rest.split_at_checked(stored).ok_or_else(wrong)?;
    if bytes.len() != head.part_len() || padding.iter().any(|byte| *byte != 0) {
        return Err(wrong());
    }
    if *sum != hash(&[header, covered, payload]) {
        return Err(malformed("checksum of a part does not match"));
    }
    Ok(payload)
}

/// The rows of a part: puts, in ascending order of table and key, after `last`, which is moved on.
///
/// # Errors
/// `Malformed` for anything else.
pub fn decode_checkpoint_rows(
    head: &PartHead,
    raw: &[u8],
    last: &mut Option<(u8, Vec<u8>)>,
) -> Result<Vec<Op>> {
    let ops = decode_ops(raw)?;
    if u32::try_from(ops.len()) != Ok(head.row_count) {
        return Err(malformed("number of rows of a part"));
    }
    for op in &ops {
        let Op::Put(table, key, _) = op else {
            return Err(malformed("an operation that is no row"));
        };
        let at = (table.raw(), key.clone());
        if last.as_ref().is_some_and(|last| *last >= at) {
            return Err(malformed("rows are not in order"));
        }
        *last = Some(at);
    }
    Ok(ops)
}

fn malformed(detail: &'static str) -> Error {
    Error::Malformed {
        what: "checkpoint",
        detail,
    }
}
