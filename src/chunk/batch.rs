//! What one commit puts: pieces are hashed, deduplicated and grouped into frames, frames are compressed.
//!
//! 1. `hash_pieces`: the id of every piece and whether the store has it, on all cores.
//! 2. `Batch::add`: new pieces join the open frame of their kind; full frames are handed out.
//! 3. `compress_frames`: probe and compress, on all cores; decode again and compare if asked for.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::types::PutKind;
use crate::base::limits::{FRAME_CHUNKS_MAX, FRAME_TARGET_LEN};
use crate::base::{ChunkId, Error, Result};
use crate::codec::{Codec, compress, decompress};
use crate::format::ALIGN;
use crate::format::footer::FOOTER_FRAME_LEN;
use crate::format::frame::{FRAME_CHUNK_LEN, FRAME_HEADER_LEN, FrameChunk, FrameHead, FrameKind};
use crate::format::rows::ChunkRow;
use crate::hash::{chunk_id, node_id};

/// Total length from which pieces are hashed on several cores.
const PARALLEL_LEN_MIN: usize = 128 << 10;

/// Chunks of one commit, from `ChunkStore::begin` to `ChunkStore::finish`.
///
/// Dropping it forgets the commit; frames that were already written stay behind unnamed.
#[derive(Debug)]
pub struct Batch {
    /// Whether frames go into the LOG pack. Turns false if they become too many.
    pub(super) inline: bool,
    /// Ids that this batch stores.
    pub(super) new: HashSet<ChunkId>,
    /// Rows of the frames that are in DATA packs.
    pub(super) rows: Vec<(ChunkId, ChunkRow)>,
    /// Frames of an inline batch: their addresses are known only when it is finished.
    pub(super) staged: Vec<PackedFrame>,
    /// Stored bytes of `staged`.
    pub(super) staged_len: usize,
    /// A put has failed: what it has stored is incomplete.
    pub(super) failed: bool,
    open_data: RawFrame,
    open_nodes: RawFrame,
    turn: Turn,
}

/// The right to be the one batch at a time; given back when dropped.
#[derive(Debug)]
pub(super) struct Turn(Arc<AtomicBool>);

impl Turn {
    /// Takes the turn.
    ///
    /// # Errors
    /// [`Error::Internal`] if another batch has it.
    pub(super) fn take(flag: &Arc<AtomicBool>) -> Result<Self> {
        if flag.swap(true, Ordering::AcqRel) {
            return Err(Error::Internal("two batches at a time"));
        }
        Ok(Self(Arc::clone(flag)))
    }

    fn is_of(&self, flag: &Arc<AtomicBool>) -> bool {
        Arc::ptr_eq(&self.0, flag)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Pieces that will be one frame.
#[derive(Debug)]
pub(super) struct RawFrame {
    kind: FrameKind,
    raw: Vec<u8>,
    chunks: Vec<FrameChunk>,
}

/// A frame but for its address.
#[derive(Debug)]
pub(super) struct PackedFrame {
    /// What its chunks are.
    pub(super) kind: FrameKind,
    /// How `payload` is encoded.
    pub(super) codec: Codec,
    /// The stored bytes.
    pub(super) payload: Vec<u8>,
    /// The chunks, in order.
    pub(super) chunks: Vec<FrameChunk>,
}

impl PackedFrame {
    /// What the frame will say of itself.
    pub(super) fn head(&self) -> FrameHead {
        FrameHead::new(self.codec.id(), self.kind, self.chunks.clone())
    }

    /// Length of the whole frame in a pack.
    pub(super) fn stored_len(&self) -> usize {
        let unpadded = FRAME_HEADER_LEN + self.chunks.len() * FRAME_CHUNK_LEN + self.payload.len();
        unpadded.next_multiple_of(ALIGN)
    }

    /// The same, with its entry in the footer.
    pub(super) fn total_len(&self) -> usize {
        self.stored_len() + FOOTER_FRAME_LEN + self.chunks.len() * FRAME_CHUNK_LEN
    }
}

/// A piece that was hashed and looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashedPiece<'a> {
    /// Its id.
    pub(super) id: ChunkId,
    /// Where the store has it.
    pub(super) known: Option<ChunkRow>,
    /// Its bytes.
    pub(super) bytes: &'a [u8],
}

impl Batch {
    pub(super) fn new(inline: bool, turn: Turn) -> Self {
        Self {
            inline,
            new: HashSet::new(),
            rows: Vec::new(),
            staged: Vec::new(),
            staged_len: 0,
            failed: false,
            open_data: RawFrame::new(FrameKind::Data),
            open_nodes: RawFrame::new(FrameKind::Nodes),
            turn,
        }
    }

    /// Whether this batch was begun by the store of `flag`.
    pub(super) fn is_of(&self, flag: &Arc<AtomicBool>) -> bool {
        self.turn.is_of(flag)
    }

    /// Adds the pieces that are new and returns the frames that became full.
    pub(super) fn add(&mut self, kind: PutKind, pieces: &[HashedPiece<'_>]) -> Vec<RawFrame> {
        let open = match kind {
            PutKind::Data => &mut self.open_data,
            PutKind::Node => &mut self.open_nodes,
        };
        let mut full = Vec::new();
        for piece in pieces {
            if piece.known.is_some() || !self.new.insert(piece.id) {
                continue;
            }
            // A large chunk gets a frame of its own: who reads its small neighbours need not decode it.
            if piece.bytes.len() >= FRAME_TARGET_LEN && !open.chunks.is_empty() {
                full.push(open.take());
            }
            open.push(piece);
            if open.raw.len() >= FRAME_TARGET_LEN || open.chunks.len() >= FRAME_CHUNKS_MAX {
                full.push(open.take());
            }
        }
        full
    }

    /// Closes the frames that are not full.
    pub(super) fn close(&mut self) -> Vec<RawFrame> {
        [&mut self.open_data, &mut self.open_nodes]
            .into_iter()
            .filter(|open| !open.chunks.is_empty())
            .map(RawFrame::take)
            .collect()
    }
}

impl RawFrame {
    /// A frame without any.
    pub(super) fn new(kind: FrameKind) -> Self {
        Self {
            kind,
            raw: Vec::new(),
            chunks: Vec::new(),
        }
    }

    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.kind))
    }

    /// Appends a piece.
    pub(super) fn push(&mut self, piece: &HashedPiece<'_>) {
        self.raw.extend_from_slice(piece.bytes);
        let len = u32::try_from(piece.bytes.len()).unwrap_or(u32::MAX);
        self.chunks.push(FrameChunk { id: piece.id, len });
    }
}

/// Hashes pieces and asks `known` about each.
///
/// # Errors
/// [`Error::Internal`] for a piece that is empty or longer than a chunk of its kind may be; those of `known`.
pub(super) fn hash_pieces<'a>(
    kind: PutKind,
    pieces: &[&'a [u8]],
    known: &(dyn Fn(&ChunkId) -> Result<Option<ChunkRow>> + Sync),
) -> Result<Vec<HashedPiece<'a>>> {
    let len_max = kind.frame_kind().chunk_len_max();
    let hash = |bytes: &&'a [u8]| {
        let bytes = *bytes;
        if bytes.is_empty() || bytes.len() > len_max {
            return Err(Error::Internal("a piece of a length that no chunk has"));
        }
        let id = match kind {
            PutKind::Data => chunk_id(bytes),
            PutKind::Node => node_id(bytes),
        };
        let known = known(&id)?;
        Ok(HashedPiece { id, known, bytes })
    };
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    if total < PARALLEL_LEN_MIN {
        pieces.iter().map(hash).collect()
    } else {
        pieces.par_iter().map(hash).collect()
    }
}

/// Compresses frames, in their order.
///
/// # Errors
/// [`Error::Internal`] if `verify` finds that a frame does not decode to what went in: nothing of it has
/// been written then. [`Error::Io`] if zstd gets no memory.
pub(super) fn compress_frames(
    frames: Vec<RawFrame>,
    level: i32,
    verify: bool,
) -> Result<Vec<PackedFrame>> {
    let pack = |frame: RawFrame| {
        let mut payload = Vec::new();
        let codec = compress(&frame.raw, level, &mut payload)?;
        payload.shrink_to_fit();
        if verify {
            let mut back = Vec::new();
            decompress(codec.id(), &payload, frame.raw.len(), &mut back)?;
            if back != frame.raw {
                return Err(Error::Internal("a compressed frame decodes to other bytes"));
            }
        }
        Ok(PackedFrame {
            kind: frame.kind,
            codec,
            payload,
            chunks: frame.chunks,
        })
    };
    if frames.len() < 2 {
        frames.into_iter().map(pack).collect()
    } else {
        frames.into_par_iter().map(pack).collect()
    }
}
