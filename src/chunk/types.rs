//! What the callers of the chunk store see.

use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::sync::Arc;

use super::parity::ParityStore;
use crate::base::{ByteLen, ChunkId, Env, Error, Lsn, PackId, PackOff, Result};
use crate::format::frame::FrameKind;
use crate::format::rows::{ChunkRow, Op, PackKind, PackRow};

/// A place between two commits of the log: everything before it has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The LOG pack; [`PackId`] 0 before the first commit.
    pub pack: PackId,
    /// Offset just after the commit's last record.
    pub off: PackOff,
    /// Number of that record; 0 before the first commit.
    pub lsn: Lsn,
    /// Chain hash of that record; zeros before the first commit.
    pub chain: [u8; 32],
}

impl Watermark {
    /// The place before the first commit.
    pub const START: Self = Self {
        pack: PackId::from_raw(0),
        off: PackOff::from_raw(0),
        lsn: Lsn::from_raw(0),
        chain: [0; 32],
    };
    /// Length of [`Watermark::encode`] in bytes.
    pub const LEN: usize = 56;

    /// Its bytes: pack, offset and LSN as little-endian u64, then the chain hash.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        for number in [self.pack.raw(), self.off.raw(), self.lsn.raw()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.chain);
        out
    }

    /// The inverse of [`Watermark::encode`].
    ///
    /// # Errors
    /// [`Error::Malformed`] if there are not exactly [`Watermark::LEN`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wrong = || Error::Malformed {
            what: "watermark",
            detail: "its length",
        };
        let (pack, rest) = bytes.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (off, rest) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (lsn, rest) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
        Ok(Self {
            pack: PackId::from_raw(u64::from_le_bytes(*pack)),
            off: PackOff::from_raw(u64::from_le_bytes(*off)),
            lsn: Lsn::from_raw(u64::from_le_bytes(*lsn)),
            chain: rest.try_into().map_err(|_| wrong())?,
        })
    }
}

/// Where the index is asked for chunks and packs; the engine implements it.
pub trait ChunkLookup: Send + Sync {
    /// Where a chunk or node is stored; `None` if the store does not have it.
    ///
    /// # Errors
    /// Those of the index.
    fn chunk(&self, id: &ChunkId) -> Result<Option<ChunkRow>>;

    /// The row of a pack; `None` if it has none.
    ///
    /// # Errors
    /// Those of the index.
    fn pack(&self, id: PackId) -> Result<Option<PackRow>>;
}

/// How a chunk store is opened.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Level of zstd.
    pub level: i32,
    /// Decode and compare each frame before it is written.
    pub verify_writes: bool,
    /// Bytes of decoded frames kept in memory.
    pub cache_len: usize,
    /// Never write anything.
    pub read_only: bool,
    /// What damaged frames are computed from.
    pub parity: Option<Arc<ParityStore>>,
    /// Time and chance.
    pub env: Env,
}

/// What a piece is, which decides the domain that its id is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutKind {
    /// Bytes of a file.
    Data,
    /// A node of a snapshot.
    Node,
}

impl PutKind {
    /// The kind of frame that it goes into.
    pub(super) fn frame_kind(self) -> FrameKind {
        match self {
            Self::Data => FrameKind::Data,
            Self::Node => FrameKind::Nodes,
        }
    }
}

/// What is certain to survive a crash: only a successful sync makes one (I1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// Marks `value` as durable. Only for the line after the sync that made it so.
    pub(super) fn after_sync(value: T) -> Self {
        Self(value)
    }

    /// The value.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Durable<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A commit that is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Every operation of it, in the order of the log: rows of chunks and packs first.
    pub ops: Vec<Op>,
    /// The place after it.
    pub watermark: Watermark,
}

/// The bytes of one chunk; clones share the decoded frame.
#[derive(Clone, Debug)]
pub struct ChunkBytes {
    frame: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl ChunkBytes {
    /// The bytes `range` of a frame; a range outside of it is empty.
    pub(super) fn new(frame: Arc<Vec<u8>>, range: Range<usize>) -> Self {
        Self { frame, range }
    }
}

impl Deref for ChunkBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.frame.get(self.range.clone()).unwrap_or(&[])
    }
}

/// A pack file as listings show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackInfo {
    /// Its number.
    pub id: PackId,
    /// LOG or DATA.
    pub kind: PackKind,
    /// Length of the file.
    pub len: ByteLen,
    /// Whether it ends with a footer.
    pub sealed: bool,
    /// The file.
    pub path: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_survives_its_encoding_and_no_other_length_is_one() {
        let mark = Watermark {
            pack: PackId::from_raw(1),
            off: PackOff::from_raw(2),
            lsn: Lsn::from_raw(3),
            chain: [4; 32],
        };
        let bytes = mark.encode();
        assert_eq!(bytes.len(), Watermark::LEN);
        assert_eq!(Watermark::decode(&bytes).unwrap(), mark);
        assert!(Watermark::decode(&bytes[1..]).is_err());
        assert!(Watermark::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}
