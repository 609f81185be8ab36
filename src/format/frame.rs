//! Frames: one or more chunks encoded together, bound to the store, the pack and the offset.

use std::ops::Range;

use super::cursor::{Reader, Writer};
use super::{ALIGN, Hash, HashFn};
use crate::base::limits::{CHUNK_LEN_MAX, FRAME_CHUNKS_MAX, FRAME_RAW_LEN_MAX};
use crate::base::{ChunkId, PackId, PackOff, Result, StoreId};

/// First 8 bytes of a frame.
pub const FRAME_MAGIC: [u8; 8] = *b"mmhframe";
/// Version of the frame's layout.
pub const FRAME_VERSION: u8 = 1;
/// Length of the fixed part of a frame in bytes; the chunk directory follows.
pub const FRAME_HEADER_LEN: usize = 64;
/// Length of one entry of the chunk directory in bytes.
pub const FRAME_CHUNK_LEN: usize = 36;
/// Length of the largest frame in bytes, padding included.
pub const FRAME_LEN_MAX: usize =
    FRAME_HEADER_LEN + FRAME_CHUNKS_MAX * FRAME_CHUNK_LEN + FRAME_RAW_LEN_MAX;
/// Codec of a payload that is stored as it is.
pub const CODEC_RAW: u8 = 0;
/// Codec of a payload that is one zstd frame.
pub const CODEC_ZSTD: u8 = 1;

/// Bytes of the header that the checksum covers: all before the checksum itself.
const COVERED_LEN: usize = FRAME_HEADER_LEN - 32;

/// Where a frame is; part of what its checksum covers, so that a misdirected or stale read is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The store.
    pub store: StoreId,
    /// The pack.
    pub pack: PackId,
    /// Offset of the frame's first byte in the pack, a multiple of 8.
    pub off: PackOff,
}

/// What the chunks of a frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Chunks of file bytes.
    Data = 1,
    /// Nodes of snapshots.
    Nodes = 2,
}

impl FrameKind {
    /// The kind of a stored number.
    ///
    /// # Errors
    /// `Malformed` if no kind has the number.
    pub fn from_raw(raw: u8) -> Result<Self> {
        match raw {
            1 => Ok(Self::Data),
            2 => Ok(Self::Nodes),
            _ => Err(super::cursor::malformed("frame", "unknown kind of frame")),
        }
    }

    /// The number that is stored.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self as u8
    }

    /// The largest chunk that a frame of the kind may hold, in bytes.
    #[must_use]
    pub const fn chunk_len_max(self) -> usize {
        match self {
            Self::Data => CHUNK_LEN_MAX,
            Self::Nodes => FRAME_RAW_LEN_MAX,
        }
    }
}

/// An entry of the chunk directory. The chunks lie in the decoded payload one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameChunk {
    /// The chunk's id.
    pub id: ChunkId,
    /// Its length in the decoded payload in bytes, at least 1.
    pub len: u32,
}

/// What a frame says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// How the payload is encoded: [`CODEC_RAW`], [`CODEC_ZSTD`] or one that `codec` knows.
    pub codec: u8,
    /// What the chunks are.
    pub kind: FrameKind,
    /// Length of the decoded payload in bytes: the sum of the chunks' lengths.
    pub raw_len: u32,
    /// The chunks, `1..=FRAME_CHUNKS_MAX`.
    pub chunks: Vec<FrameChunk>,
}

impl FrameHead {
    /// The head of a frame of these chunks.
    #[must_use]
    pub fn new(codec: u8, kind: FrameKind, chunks: Vec<FrameChunk>) -> Self {
        let raw_len = chunks
            .iter()
            .fold(0_u32, |sum, chunk| sum.saturating_add(chunk.len));
        Self {
            codec,
            kind,
            raw_len,
            chunks,
        }
    }

    /// Length in bytes of the frame with a payload of `stored_len` bytes, padding included.
    #[must_use]
    pub const fn frame_len(&self, stored_len: usize) -> usize {
        unpadded_len(self.chunks.len(), stored_len).next_multiple_of(ALIGN)
    }

    fn check(&self, r: &Reader<'_>, stored_len: usize) -> Result<()> {
        let count = self.chunks.len();
        r.ensure((1..=FRAME_CHUNKS_MAX).contains(&count), "count of chunks")?;
        let mut sum = 0_usize;
        for chunk in &self.chunks {
            let len = usize::try_from(chunk.len).unwrap_or(usize::MAX);
            let max = self.kind.chunk_len_max();
            r.ensure((1..=max).contains(&len), "length of a chunk")?;
            sum = sum.saturating_add(len);
        }
        r.ensure(usize::try_from(self.raw_len) == Ok(sum), "decoded length")?;
        r.ensure(sum <= FRAME_RAW_LEN_MAX, "decoded length")?;
        let fits = match self.codec {
            CODEC_RAW => stored_len == sum,
            _ => (1..=sum).contains(&stored_len),
        };
        r.ensure(fits, "stored length")
    }
}

const fn unpadded_len(chunks: usize, stored_len: usize) -> usize {
    FRAME_HEADER_LEN + chunks * FRAME_CHUNK_LEN + stored_len
}

/// Makes the bytes of a frame: header, chunk directory, payload, zeros up to a multiple of 8.
///
/// `payload` is already encoded by the codec that `head` names; a payload that would not be smaller
/// than its raw form must be stored as [`CODEC_RAW`]. `hash` is bound to the domain "frame".
///
/// # Errors
/// `Malformed` if the head breaks a limit or does not fit the payload, or the offset is unaligned.
pub fn encode_frame(
    at: &Address,
    head: &FrameHead,
    payload: &[u8],
    hash: HashFn<'_>,
) -> Result<Vec<u8>> {
    let r = Reader::new("frame", &[]);
    head.check(&r, payload.len())?;
    check_address(&r, at)?;
    let mut w = Writer::with_capacity(COVERED_LEN);
    w.bytes(&FRAME_MAGIC).u8(FRAME_VERSION);
    w.u8(head.codec).u8(0).u8(head.kind.raw());
    w.len_u16(head.chunks.len()).u16(0);
    w.u32(head.raw_len).len_u32(payload.len()).zeros(8);
    let covered = w.finish();

    let mut directory = Writer::with_capacity(head.chunks.len() * FRAME_CHUNK_LEN);
    for chunk in &head.chunks {
        directory.bytes(chunk.id.as_bytes()).u32(chunk.len);
    }
    let directory = directory.finish();

    let mut frame = Writer::with_capacity(head.frame_len(payload.len()));
    let sum = checksum(at, &covered, &directory, payload, hash);
    frame.bytes(&covered).bytes(&sum);
    frame.bytes(&directory).bytes(payload).pad_to(ALIGN);
    Ok(frame.finish())
}

/// Verifies a frame that was read from `at` and returns its head and where the payload is in `bytes`.
///
/// `bytes` is the whole frame, padding included, and nothing else. Allocates 36 bytes per chunk of the
/// directory that is there.
///
/// # Errors
/// `Malformed` if the frame is not one, breaks a limit, or its checksum does not match: it is
/// damaged, or it belongs to another place.
pub fn decode_frame(
    bytes: &[u8],
    at: &Address,
    hash: HashFn<'_>,
) -> Result<(FrameHead, Range<usize>)> {
    let mut r = Reader::new("frame", bytes);
    check_address(&r, at)?;
    let fixed = read_fixed(&mut r)?;
    let sum: Hash = r.array()?;
    let directory = r.bytes(fixed.chunk_count * FRAME_CHUNK_LEN)?;
    let start = bytes.len() - r.remaining();
    let payload = r.bytes(fixed.stored_len)?;
    let padding = fixed.frame_len() - unpadded_len(fixed.chunk_count, fixed.stored_len);
    r.zeros(padding)?;
    let covered = bytes.get(..COVERED_LEN).unwrap_or_default();
    let expected = checksum(at, covered, directory, payload, hash);
    r.ensure(sum == expected, "checksum does not match")?;
    r.finish()?;

    let mut r = Reader::new("frame", directory);
    let mut chunks = Vec::with_capacity(fixed.chunk_count);
    for _ in 0..fixed.chunk_count {
        let id = ChunkId::from_raw(r.array()?);
        chunks.push(FrameChunk { id, len: r.u32()? });
    }
    let head = FrameHead {
        codec: fixed.codec,
        kind: fixed.kind,
        raw_len: fixed.raw_len,
        chunks,
    };
    head.check(&r, fixed.stored_len)?;
    Ok((head, start..start + fixed.stored_len))
}

/// Length in bytes of the whole frame, padding included, that begins with `bytes`; for walking a pack.
///
/// `bytes` are at least the first [`FRAME_HEADER_LEN`] bytes. Nothing is verified: the length is a claim.
///
/// # Errors
/// `Malformed` if there are too few bytes or they are not the header of a frame.
pub fn peek_frame_len(bytes: &[u8]) -> Result<u64> {
    let mut r = Reader::new("frame", bytes);
    let fixed = read_fixed(&mut r)?;
    r.bytes(32)?;
    Ok(fixed.frame_len() as u64)
}

struct Fixed {
    codec: u8,
    kind: FrameKind,
    chunk_count: usize,
    raw_len: u32,
    stored_len: usize,
}

impl Fixed {
    const fn frame_len(&self) -> usize {
        unpadded_len(self.chunk_count, self.stored_len).next_multiple_of(ALIGN)
    }
}

fn read_fixed(r: &mut Reader<'_>) -> Result<Fixed> {
    let magic: [u8; 8] = r.array()?;
    r.ensure(magic == FRAME_MAGIC, "magic")?;
    let version = r.u8()?;
    r.ensure(version == FRAME_VERSION, "unknown version of the frame")?;
    let codec = r.u8()?;
    let cipher = r.u8()?;
    r.ensure(cipher == 0, "unknown cipher")?;
    let kind = FrameKind::from_raw(r.u8()?)?;
    let chunk_count = usize::from(r.u16()?);
    let in_bounds = (1..=FRAME_CHUNKS_MAX).contains(&chunk_count);
    r.ensure(in_bounds, "count of chunks")?;
    let dependencies = r.u16()?;
    r.ensure(dependencies == 0, "unknown dependencies")?;
    let raw_len = r.u32()?;
    let stored_len = usize::try_from(r.u32()?).unwrap_or(usize::MAX);
    r.ensure(stored_len <= FRAME_RAW_LEN_MAX, "stored length")?;
    r.zeros(8)?;
    Ok(Fixed {
        codec,
        kind,
        chunk_count,
        raw_len,
        stored_len,
    })
}

fn check_address(r: &Reader<'_>, at: &Address) -> Result<()> {
    let aligned = at.off.raw().is_multiple_of(ALIGN as u64);
    r.ensure(aligned, "offset is not a multiple of 8")
}

fn checksum(
    at: &Address,
    covered: &[u8],
    directory: &[u8],
    payload: &[u8],
    hash: HashFn<'_>,
) -> Hash {
    hash(&[
        at.store.as_bytes(),
        &at.pack.raw().to_le_bytes(),
        &at.off.raw().to_le_bytes(),
        covered,
        directory,
        payload,
    ])
}
