//! Split nodes: encoded nodes that are too large for one chunk.

use super::cursor::{Reader, Writer};
use super::node::NODE_VERSION;
use crate::base::limits::{NODE_LEN_MAX, NODE_PART_LEN, NODE_WHOLE_LEN_MAX};
use crate::base::{ChunkId, Result};

/// First byte of a split node.
pub(super) const KIND_SPLIT: u8 = 6;

/// What is stored in the place of a node whose encoding has more than 2 MiB: where its parts are.
///
/// The encoding is the concatenation of the parts; each but the last has 1 MiB. Parts are chunks of frames of
/// nodes, named like nodes, and mean nothing alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitNode {
    /// Length of the node's encoding in bytes, `NODE_WHOLE_LEN_MAX + 1..=NODE_LEN_MAX`.
    pub len: usize,
    /// The parts in their order, `ceil(len / 1 MiB)` of them.
    pub parts: Vec<ChunkId>,
}

impl SplitNode {
    /// Whether a stored node is a split one.
    #[must_use]
    pub fn is_split(bytes: &[u8]) -> bool {
        bytes.first() == Some(&KIND_SPLIT)
    }

    /// The canonical encoding: its digest is the node's id.
    ///
    /// # Panics
    /// If the length exceeds its field: the caller has broken a limit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(KIND_SPLIT).u8(NODE_VERSION).len_u32(self.len);
        for part in &self.parts {
            w.bytes(part.as_bytes());
        }
        let bytes = w.finish();
        debug_assert!(Self::decode(&bytes).as_ref().is_ok_and(|node| node == self));
        bytes
    }

    /// Inverse of [`SplitNode::encode`].
    ///
    /// # Errors
    /// `Malformed` for bytes that `encode` does not make of a valid node.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("split node", bytes);
        let kind = r.u8()?;
        r.ensure(kind == KIND_SPLIT, "another kind of node")?;
        let version = r.u8()?;
        r.ensure(version == NODE_VERSION, "unknown version of the node")?;
        let len = r.count_u32(0)?;
        let in_bounds = (NODE_WHOLE_LEN_MAX + 1..=NODE_LEN_MAX).contains(&len);
        r.ensure(in_bounds, "length of a split node")?;
        let mut parts = Vec::new();
        for _ in 0..len.div_ceil(NODE_PART_LEN) {
            parts.push(ChunkId::from_raw(r.array()?));
        }
        r.finish()?;
        Ok(Self { len, parts })
    }

    /// The length of the part `idx`.
    #[must_use]
    pub fn part_len(&self, idx: usize) -> usize {
        let start = idx.saturating_mul(NODE_PART_LEN);
        self.len.saturating_sub(start).min(NODE_PART_LEN)
    }
}
