//! Digests that are no part of the seed: chunk ids, node ids and the checksums of stored records.

use std::fmt;

use super::domain::{Domain, digest, finish};
use crate::base::ChunkId;

/// The id of a chunk: a digest of its bytes.
#[must_use]
pub fn chunk_id(bytes: &[u8]) -> ChunkId {
    ChunkId::from_raw(*digest(Domain::Chunk, &[bytes]).as_bytes())
}

/// The id of a snapshot node: a digest of its encoding, never equal to the id of a chunk.
#[must_use]
pub fn node_id(bytes: &[u8]) -> ChunkId {
    ChunkId::from_raw(*digest(Domain::Node, &[bytes]).as_bytes())
}

/// What a checksum protects; each has a domain of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// A frame: its header, its address and its payload.
    Frame,
    /// The log bytes since the previous commit record.
    Span,
    /// The chain of commit records.
    Chain,
    /// A pack footer.
    Footer,
    /// A pack header.
    PackHeader,
    /// A whole pack file.
    Pack,
    /// The header of a parity file.
    ParityHeader,
    /// A page of a parity file's table.
    ParityTable,
    /// A symbol, source or repair.
    ParitySymbol,
    /// A superblock.
    Superblock,
    /// The header, a part or the whole of a checkpoint.
    Checkpoint,
    /// How far a scrub has got.
    ScrubMark,
}

impl Checksum {
    const fn domain(self) -> Domain {
        match self {
            Self::Frame => Domain::Frame,
            Self::Span => Domain::Span,
            Self::Chain => Domain::Chain,
            Self::Footer => Domain::Footer,
            Self::PackHeader => Domain::PackHeader,
            Self::Pack => Domain::Pack,
            Self::ParityHeader => Domain::ParityHeader,
            Self::ParityTable => Domain::ParityTable,
            Self::ParitySymbol => Domain::ParitySymbol,
            Self::Superblock => Domain::Superblock,
            Self::Checkpoint => Domain::Checkpoint,
            Self::ScrubMark => Domain::ScrubMark,
        }
    }
}

/// The checksum of the concatenation of `parts`.
#[must_use]
pub fn checksum(context: Checksum, parts: &[&[u8]]) -> [u8; 32] {
    *digest(context.domain(), parts).as_bytes()
}

/// A checksum that is fed piece by piece; equal to [`checksum`] of the pieces.
#[derive(Clone)]
pub struct SpanHasher(blake3::Hasher);

impl SpanHasher {
    /// An empty checksum of the given kind.
    #[must_use]
    pub fn new(context: Checksum) -> Self {
        Self(context.domain().hasher())
    }

    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Bytes fed so far.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.0.count()
    }

    /// The checksum of all bytes so far; more may follow.
    #[must_use]
    pub fn finish(&self) -> [u8; 32] {
        *finish(&self.0).as_bytes()
    }
}

impl fmt::Debug for SpanHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpanHasher({} bytes)", self.0.count())
    }
}

/// The hash of a directory entry's name: plain BLAKE3, no context.
///
/// Its bits, most significant first, are the entry's path in the directory trie (docs/seed.md), and
/// its first bits the entry's slot in a store.
#[must_use]
pub fn name_hash(name: &[u8]) -> [u8; 32] {
    *blake3::hash(name).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_fed_in_pieces_equals_its_checksum() {
        let mut span = SpanHasher::new(Checksum::Span);
        span.update(b"one");
        span.update(b"");
        span.update(b"two");
        assert_eq!(span.finish(), checksum(Checksum::Span, &[b"onet", b"wo"]));
        assert_eq!(span.len_bytes(), 6);
        assert_ne!(span.finish(), checksum(Checksum::Chain, &[b"onetwo"]));
    }

    #[test]
    fn chunks_and_nodes_of_the_same_bytes_have_different_ids() {
        assert_ne!(chunk_id(b"x"), node_id(b"x"));
    }
}
