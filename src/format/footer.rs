//! The footer of a sealed pack: what the pack holds, found from the end of the file.

use super::cursor::{Reader, Writer};
use super::frame::{FRAME_CHUNK_LEN, FRAME_HEADER_LEN, FRAME_LEN_MAX, FrameChunk, FrameKind};
use super::pack::PACK_HEADER_LEN;
use super::rows::PackKind;
use super::{ALIGN, CHAIN_START, Hash, HashFn};
use crate::base::limits::{FRAME_CHUNKS_MAX, FRAME_RAW_LEN_MAX, PACK_CAPACITY_MAX};
use crate::base::{ChunkId, Lsn, PackId, PackOff, Result, StoreId};

/// First 8 bytes of a footer.
pub const FOOTER_MAGIC: [u8; 8] = *b"mmhfootr";
/// First 8 bytes of the trailer, the last 64 bytes of a sealed pack.
pub const TRAILER_MAGIC: [u8; 8] = *b"mmhtrail";
/// Version of the footer's and the trailer's layout.
pub const FOOTER_VERSION: u16 = 1;
/// Length of the fixed part of a footer in bytes; the frame directory follows.
pub const FOOTER_HEADER_LEN: usize = 136;
/// Length of the trailer in bytes.
pub const TRAILER_LEN: usize = 64;
/// Length of a frame's entry in the directory in bytes, without its chunks.
pub const FOOTER_FRAME_LEN: usize = 16;

/// What a sealed pack holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The store that the pack belongs to.
    pub store: StoreId,
    /// The number of the pack.
    pub pack: PackId,
    /// LOG or DATA.
    pub kind: PackKind,
    /// Bytes before the footer: where the footer starts.
    pub data_len: PackOff,
    /// Commit records in the pack; 0 for DATA.
    pub record_count: u64,
    /// LSN of the last record up to the end of this pack, 0 if there is none or for DATA.
    pub last_lsn: Lsn,
    /// Chain hash of that record, [`CHAIN_START`] if there is none or for DATA.
    pub chain: Hash,
    /// Digest of the first `data_len` bytes of the pack.
    pub body: Hash,
    /// All frames, ascending by offset.
    pub frames: Vec<FooterFrame>,
}

/// A frame as the footer's directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FooterFrame {
    /// Offset of the frame in the pack.
    pub off: PackOff,
    /// Length of the whole frame in bytes, padding included.
    pub len: u32,
    /// What its chunks are.
    pub kind: FrameKind,
    /// How its payload is encoded.
    pub codec: u8,
    /// Its chunks, in the order of the decoded payload.
    pub chunks: Vec<FrameChunk>,
}

/// Where the footer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Offset of the footer in the pack.
    pub footer_off: PackOff,
    /// Length of the footer in bytes, the trailer included: it ends with the file.
    pub footer_len: u64,
}

impl Footer {
    /// Length in bytes of the encoding, the trailer included.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let chunks: usize = self.frames.iter().map(|frame| frame.chunks.len()).sum();
        let directory = self.frames.len() * FOOTER_FRAME_LEN + chunks * FRAME_CHUNK_LEN;
        (FOOTER_HEADER_LEN + directory).next_multiple_of(ALIGN) + 32 + TRAILER_LEN
    }

    fn check(&self) -> Result<()> {
        let r = Reader::new("footer", &[]);
        r.ensure(self.pack.raw() != 0, "pack 0")?;
        let len = self.data_len.raw();
        let in_bounds = (PACK_HEADER_LEN as u64..=PACK_CAPACITY_MAX).contains(&len);
        r.ensure(in_bounds, "length of the data")?;
        r.ensure(len.is_multiple_of(ALIGN as u64), "length of the data")?;
        let no_lsn = self.last_lsn.raw() == 0;
        r.ensure(no_lsn == (self.chain == CHAIN_START), "chain hash")?;
        r.ensure(self.record_count <= self.last_lsn.raw(), "count of records")?;
        let is_data = self.kind == PackKind::Data;
        r.ensure(!is_data || no_lsn, "records in a DATA pack")?;
        let mut end = PACK_HEADER_LEN as u64;
        for frame in &self.frames {
            let off = frame.off.raw();
            r.ensure(off >= end, "frames overlap or are not in order")?;
            r.ensure(off.is_multiple_of(ALIGN as u64), "offset of a frame")?;
            frame.check(&r)?;
            end = off.saturating_add(u64::from(frame.len));
            r.ensure(end <= len, "frame past the end of the data")?;
        }
        Ok(())
    }
}

impl FooterFrame {
    fn check(&self, r: &Reader<'_>) -> Result<()> {
        let count = self.chunks.len();
        r.ensure((1..=FRAME_CHUNKS_MAX).contains(&count), "count of chunks")?;
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        let least = FRAME_HEADER_LEN + count * FRAME_CHUNK_LEN + 1;
        let in_bounds = (least..=FRAME_LEN_MAX).contains(&len) && len.is_multiple_of(ALIGN);
        r.ensure(in_bounds, "length of a frame")?;
        let mut sum = 0_usize;
        for chunk in &self.chunks {
            let len = usize::try_from(chunk.len).unwrap_or(usize::MAX);
            let max = self.kind.chunk_len_max();
            r.ensure((1..=max).contains(&len), "length of a chunk")?;
            sum = sum.saturating_add(len);
        }
        r.ensure(sum <= FRAME_RAW_LEN_MAX, "decoded length of a frame")
    }
}

/// Makes the bytes of a footer and its trailer, to be written at `data_len`. `hash` is bound to the
/// domain "footer".
///
/// # Errors
/// `Malformed` if a field breaks a limit or the frames overlap or are not in order.
pub fn encode_footer(footer: &Footer, hash: HashFn<'_>) -> Result<Vec<u8>> {
    footer.check()?;
    let mut w = Writer::with_capacity(footer.encoded_len());
    w.bytes(&FOOTER_MAGIC).u16(FOOTER_VERSION);
    w.u8(footer.kind.raw()).zeros(5);
    w.bytes(footer.store.as_bytes()).u64(footer.pack.raw());
    w.u64(footer.data_len.raw()).u64(footer.record_count);
    w.len_u32(footer.frames.len()).zeros(4);
    w.u64(footer.last_lsn.raw());
    w.bytes(&footer.chain).bytes(&footer.body);
    for frame in &footer.frames {
        w.u64(frame.off.raw()).u32(frame.len);
        w.len_u16(frame.chunks.len())
            .u8(frame.kind.raw())
            .u8(frame.codec);
        for chunk in &frame.chunks {
            w.bytes(chunk.id.as_bytes()).u32(chunk.len);
        }
    }
    w.pad_to(ALIGN);
    let sum = hash(&[w.as_slice()]);
    w.bytes(&sum);

    let mut trailer = Writer::with_capacity(TRAILER_LEN);
    trailer.bytes(&TRAILER_MAGIC).u16(FOOTER_VERSION).zeros(6);
    trailer.u64(footer.data_len.raw());
    trailer.u64((w.len() + TRAILER_LEN) as u64);
    let sum = hash(&[trailer.as_slice()]);
    w.bytes(trailer.as_slice()).bytes(&sum);
    Ok(w.finish())
}

/// Reads the trailer: the last [`TRAILER_LEN`] bytes of a pack file of `file_len` bytes.
///
/// # Errors
/// `Malformed` if they are no trailer or a damaged one, or do not fit the length: the pack is not
/// sealed, is damaged, or was truncated or extended.
pub fn decode_trailer(bytes: &[u8], file_len: u64, hash: HashFn<'_>) -> Result<Trailer> {
    let mut r = Reader::new("trailer", bytes);
    let magic: [u8; 8] = r.array()?;
    r.ensure(magic == TRAILER_MAGIC, "magic")?;
    let version = r.u16()?;
    r.ensure(version == FOOTER_VERSION, "unknown version of the trailer")?;
    r.zeros(6)?;
    let footer_off = PackOff::from_raw(r.u64()?);
    let footer_len = r.u64()?;
    let sum: Hash = r.array()?;
    r.finish()?;
    let covered = bytes.get(..TRAILER_LEN - 32).unwrap_or_default();
    let r = Reader::new("trailer", &[]);
    r.ensure(sum == hash(&[covered]), "checksum does not match")?;
    let r = Reader::new("trailer", &[]);
    let end = footer_off.raw().checked_add(footer_len);
    r.ensure(end == Some(file_len), "footer does not end with the file")?;
    let least = (FOOTER_HEADER_LEN + 32 + TRAILER_LEN) as u64;
    r.ensure(footer_len >= least, "length of the footer")?;
    Ok(Trailer {
        footer_off,
        footer_len,
    })
}

/// Verifies a footer; `bytes` are all from the footer's offset to the end of the file, the trailer
/// included. The caller compares store and pack number with what it expects.
///
/// Allocates in proportion to the directory that is there.
///
/// # Errors
/// `Malformed` if it is not a footer, is damaged, breaks a limit or does not fit its trailer.
pub fn decode_footer(bytes: &[u8], hash: HashFn<'_>) -> Result<Footer> {
    let mut r = Reader::new("footer", bytes);
    let covered_len = bytes.len().checked_sub(32 + TRAILER_LEN);
    let covered_len = covered_len.ok_or(r.error("ends too early"))?;
    let covered = r.bytes(covered_len)?;
    let sum: Hash = r.array()?;
    r.ensure(sum == hash(&[covered]), "checksum does not match")?;
    let trailer = r.rest();

    let mut r = Reader::new("footer", covered);
    let footer = read_footer(&mut r)?;
    let directory_end = covered_len - r.remaining();
    let aligned = directory_end.next_multiple_of(ALIGN) == covered_len;
    r.ensure(aligned, "length of the footer")?;
    r.zeros(r.remaining())?;
    footer.check()?;
    let file_len = footer.data_len.raw().saturating_add(bytes.len() as u64);
    let found = decode_trailer(trailer, file_len, hash)?;
    r.ensure(found.footer_off == footer.data_len, "offset of the footer")?;
    Ok(footer)
}

fn read_footer(r: &mut Reader<'_>) -> Result<Footer> {
    let magic: [u8; 8] = r.array()?;
    r.ensure(magic == FOOTER_MAGIC, "magic")?;
    let version = r.u16()?;
    r.ensure(version == FOOTER_VERSION, "unknown version of the footer")?;
    let kind = PackKind::from_raw(r.u8()?)?;
    r.zeros(5)?;
    let store = StoreId::from_raw(r.array()?);
    let pack = PackId::from_raw(r.u64()?);
    let data_len = PackOff::from_raw(r.u64()?);
    let record_count = r.u64()?;
    let frame_count = r.u32()?;
    r.zeros(4)?;
    let last_lsn = Lsn::from_raw(r.u64()?);
    let chain = r.array()?;
    let body = r.array()?;
    let mut frames = Vec::new();
    for _ in 0..frame_count {
        frames.push(read_frame(r)?);
    }
    Ok(Footer {
        store,
        pack,
        kind,
        data_len,
        record_count,
        last_lsn,
        chain,
        body,
        frames,
    })
}

fn read_frame(r: &mut Reader<'_>) -> Result<FooterFrame> {
    let off = PackOff::from_raw(r.u64()?);
    let len = r.u32()?;
    let count = usize::from(r.u16()?);
    let kind = FrameKind::from_raw(r.u8()?)?;
    let codec = r.u8()?;
    r.ensure(
        count * FRAME_CHUNK_LEN <= r.remaining(),
        "count exceeds the bytes that follow",
    )?;
    let mut chunks = Vec::with_capacity(count);
    for _ in 0..count {
        let id = ChunkId::from_raw(r.array()?);
        chunks.push(FrameChunk { id, len: r.u32()? });
    }
    Ok(FooterFrame {
        off,
        len,
        kind,
        codec,
        chunks,
    })
}
