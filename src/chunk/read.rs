//! Reads frames: one read, its checksum with its address, its decoding, the digest of each chunk asked for. What the
//! disk does not give any more comes from parity (`heal`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::cache::{FrameCache, Weighed};
use super::files::PackFiles;
use super::heal::Healer;
use super::types::ChunkBytes;
use crate::base::limits::PREFETCH_FRAMES_MAX;
use crate::base::{ChunkId, Error, Result, Site, StoreId, Verified};
use crate::codec::decompress;
use crate::format::frame::{Address, FRAME_LEN_MAX, FrameHead, FrameKind, decode_frame};
use crate::format::rows::ChunkRow;
use crate::hash::{Checksum, checksum, chunk_id, node_id};

/// A frame in memory. Its own checksum has been verified; each chunk's digest is when it is first read.
pub(super) struct DecodedFrame {
    kind: FrameKind,
    raw: Arc<Vec<u8>>,
    chunks: Vec<FramedChunk>,
}

struct FramedChunk {
    id: ChunkId,
    range: Range<usize>,
    verified: AtomicBool,
}

impl Weighed for DecodedFrame {
    fn weight(&self) -> usize {
        self.raw.capacity() + self.chunks.len() * size_of::<FramedChunk>() + size_of::<Self>()
    }
}

impl DecodedFrame {
    /// Verifies and decodes the bytes of a frame read from `at`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] that names the place.
    pub(super) fn decode(bytes: &[u8], at: &Address) -> Result<(Self, FrameHead)> {
        Self::decode_range(bytes, at).map(|(frame, head, _)| (frame, head))
    }

    /// As [`DecodedFrame::decode`], with the payload as it is stored.
    ///
    /// # Errors
    /// [`Error::Corrupt`] that names the place.
    pub(super) fn decode_whole(bytes: &[u8], at: &Address) -> Result<(Self, FrameHead, Vec<u8>)> {
        let (frame, head, payload) = Self::decode_range(bytes, at)?;
        let payload = bytes.get(payload).unwrap_or(&[]).to_vec();
        Ok((frame, head, payload))
    }

    fn decode_range(bytes: &[u8], at: &Address) -> Result<(Self, FrameHead, Range<usize>)> {
        let (head, range) = decode_frame(bytes, at, &|parts| checksum(Checksum::Frame, parts))
            .map_err(|error| corrupt("frame", at, error))?;
        let payload = bytes.get(range.clone()).unwrap_or(&[]);
        let raw_len = usize::try_from(head.raw_len).unwrap_or(usize::MAX);
        let mut raw = Vec::new();
        decompress(head.codec, payload, raw_len, &mut raw)
            .map_err(|error| corrupt("frame", at, error))?;
        let mut start = 0;
        let mut chunks = Vec::with_capacity(head.chunks.len());
        for chunk in &head.chunks {
            let end = start + usize::try_from(chunk.len).unwrap_or(usize::MAX);
            chunks.push(FramedChunk {
                id: chunk.id,
                range: start..end,
                verified: AtomicBool::new(false),
            });
            start = end;
        }
        let frame = Self {
            kind: head.kind,
            raw: Arc::new(raw),
            chunks,
        };
        Ok((frame, head, range))
    }

    /// The chunks and their bytes, in order. Only their frame has been verified.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (ChunkId, &[u8])> {
        self.chunks.iter().map(|chunk| {
            let bytes = self.raw.get(chunk.range.clone()).unwrap_or(&[]);
            (chunk.id, bytes)
        })
    }

    /// Compares the digest of a chunk with its id, once per decoding.
    fn verify(&self, chunk: &FramedChunk, at: &Address) -> Result<()> {
        if chunk.verified.load(Ordering::Relaxed) {
            return Ok(());
        }
        let bytes = self.raw.get(chunk.range.clone()).unwrap_or(&[]);
        let found = match self.kind {
            FrameKind::Data => chunk_id(bytes),
            FrameKind::Nodes => node_id(bytes),
        };
        if found != chunk.id {
            return Err(Error::Corrupt {
                what: "chunk",
                site: site(at),
                detail: format!("its digest is {found}, expected {}", chunk.id),
            });
        }
        chunk.verified.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Compares the digests of all chunks.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for the first that does not match.
    pub(super) fn verify_all(&self, at: &Address) -> Result<()> {
        self.chunks
            .iter()
            .try_for_each(|chunk| self.verify(chunk, at))
    }

    fn chunk(&self, id: &ChunkId, row: &ChunkRow, at: &Address) -> Result<Verified<ChunkBytes>> {
        let start = usize::try_from(row.raw_off).unwrap_or(usize::MAX);
        let len = usize::try_from(row.len).unwrap_or(usize::MAX);
        let found = self.chunks.get(usize::from(row.idx));
        let found = found.filter(|chunk| {
            chunk.id == *id && chunk.range.start == start && chunk.range.len() == len
        });
        let Some(chunk) = found else {
            return Err(Error::Corrupt {
                what: "frame",
                site: site(at),
                detail: format!("it does not hold chunk {id} where the index says"),
            });
        };
        self.verify(chunk, at)?;
        let bytes = ChunkBytes::new(Arc::clone(&self.raw), chunk.range.clone());
        Ok(Verified::assert(bytes))
    }
}

pub(super) fn site(at: &Address) -> Site {
    Site {
        pack: at.pack,
        off: at.off,
    }
}

/// Says where bytes that do not decode were read.
fn corrupt(what: &'static str, at: &Address, error: Error) -> Error {
    match error {
        Error::Malformed { detail, .. } => Error::Corrupt {
            what,
            site: site(at),
            detail: detail.to_owned(),
        },
        other => other,
    }
}

/// The reading half of a store.
pub(super) struct Reader {
    store: StoreId,
    files: Arc<PackFiles>,
    cache: FrameCache<DecodedFrame>,
    pub(super) healer: Healer,
    in_flight: AtomicUsize,
}

/// Asks whether a row still is what the index says.
pub(super) type IsCurrent<'a> = &'a dyn Fn() -> Result<bool>;

impl Reader {
    pub(super) fn new(
        store: StoreId,
        files: Arc<PackFiles>,
        cache_len: usize,
        healer: Healer,
    ) -> Self {
        Self {
            store,
            files,
            cache: FrameCache::new(cache_len),
            healer,
            in_flight: AtomicUsize::new(0),
        }
    }

    fn address(&self, row: &ChunkRow) -> Address {
        Address {
            store: self.store,
            pack: row.pack,
            off: row.frame,
        }
    }

    fn load(&self, row: &ChunkRow) -> Result<DecodedFrame> {
        let at = self.address(row);
        let len = usize::try_from(row.frame_len).unwrap_or(usize::MAX);
        if len > FRAME_LEN_MAX {
            return Err(Error::Corrupt {
                what: "chunk row",
                site: site(&at),
                detail: "length of its frame".to_owned(),
            });
        }
        let bytes = self.files.read(row.pack, row.frame, len)?;
        DecodedFrame::decode(&bytes, &at).map(|(frame, _)| frame)
    }

    /// As [`Reader::load`], from parity if need be. Within the cache's flight: others who want the frame wait for it.
    fn load_healed(&self, row: &ChunkRow, is_current: IsCurrent<'_>) -> Result<DecodedFrame> {
        let decode =
            |bytes: &[u8]| DecodedFrame::decode(bytes, &self.address(row)).map(|(frame, _)| frame);
        self.load(row)
            .or_else(|error| self.healer.heal(row, error, is_current, &decode))
    }

    /// The bytes of a chunk whose row is given. An error is not yet known as damage: the row may be out of date.
    pub(super) fn chunk(
        &self,
        id: &ChunkId,
        row: &ChunkRow,
        is_current: IsCurrent<'_>,
    ) -> Result<Verified<ChunkBytes>> {
        let key = (row.pack, row.frame);
        self.cache
            .get(key, || self.load_healed(row, is_current))
            .and_then(|frame| frame.chunk(id, row, &self.address(row)))
    }

    /// As [`Reader::chunk`], from the disk or from memory only.
    pub(super) fn chunk_on_disk(
        &self,
        id: &ChunkId,
        row: &ChunkRow,
    ) -> Result<Verified<ChunkBytes>> {
        let key = (row.pack, row.frame);
        self.cache
            .get(key, || self.load(row))
            .and_then(|frame| frame.chunk(id, row, &self.address(row)))
    }

    /// Whether the frame is decoded in memory.
    pub(super) fn holds(&self, row: &ChunkRow) -> bool {
        self.cache.holds((row.pack, row.frame))
    }

    /// Takes a place among the reads ahead; false if they are too many already.
    pub(super) fn try_ahead(&self) -> bool {
        let more = |count| (count < PREFETCH_FRAMES_MAX).then_some(count + 1);
        self.in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .is_ok()
    }

    /// Reads a frame ahead and gives the place back. An error shows when the frame is asked for, and only then it is
    /// healed.
    pub(super) fn warm(&self, row: &ChunkRow) {
        let _ = self.cache.get((row.pack, row.frame), || self.load(row));
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    /// Codec and decoded length of a chunk's frame, read from its header, not verified.
    pub(super) fn frame_facts(&self, row: &ChunkRow) -> Result<(u8, u32)> {
        // Offsets of docs/format.md, "Frame".
        let head = self.files.read(row.pack, row.frame, 20)?;
        match head.as_slice() {
            [
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                codec,
                _,
                _,
                _,
                _,
                _,
                _,
                a,
                b,
                c,
                d,
            ] => Ok((*codec, u32::from_le_bytes([*a, *b, *c, *d]))),
            _ => Err(Error::Internal("frame header")),
        }
    }
}
