//! Nodes as chunks: the one place that knows that a large node is stored in parts.

use crate::base::limits::{NODE_LEN_MAX, NODE_PART_LEN, NODE_WHOLE_LEN_MAX};
use crate::base::{ChunkId, Error, Result};
use crate::chunk::ChunkStore;
use crate::format::node::Node;
use crate::format::split::SplitNode;
use crate::hash;

/// A node as the chunks that it is stored in.
pub(crate) struct Encoded {
    /// The name of the node.
    pub(crate) id: ChunkId,
    /// Its chunks, each after those that it names: parts, then the node itself.
    pub(crate) chunks: Vec<Vec<u8>>,
}

/// Encodes a node; one of more than 2 MiB is split.
///
/// # Errors
/// [`Error::Unsupported`] for one that is too large even so.
pub(crate) fn encode(node: &Node) -> Result<Encoded> {
    let bytes = node.encode();
    if bytes.len() <= NODE_WHOLE_LEN_MAX {
        return Ok(Encoded {
            id: hash::node_id(&bytes),
            chunks: vec![bytes],
        });
    }
    if bytes.len() > NODE_LEN_MAX {
        return Err(Error::Unsupported(
            "a snapshot of a file with more extents than a node may have",
        ));
    }
    let mut chunks: Vec<Vec<u8>> = bytes.chunks(NODE_PART_LEN).map(<[u8]>::to_vec).collect();
    let split = SplitNode {
        len: bytes.len(),
        parts: chunks.iter().map(|part| hash::node_id(part)).collect(),
    };
    let split = split.encode();
    let id = hash::node_id(&split);
    chunks.push(split);
    Ok(Encoded { id, chunks })
}

/// Whether one of these chunks is a split node, which a store says in its superblock.
pub(crate) fn has_split(chunks: &[Vec<u8>]) -> bool {
    // A part may look like one by chance, but parts come before the split node that they belong to.
    chunks.iter().any(|chunk| SplitNode::is_split(chunk))
}

/// Reads a node; gives the length of its encoding as well.
///
/// Memory: no more than the parts that were read and verified, which are at most [`NODE_LEN_MAX`] bytes.
pub(crate) fn load(store: &ChunkStore, id: &ChunkId) -> Result<(Node, usize)> {
    let stored = store.get(id)?;
    if !SplitNode::is_split(&stored) {
        return Ok((Node::decode(&stored)?, stored.len()));
    }
    let split = SplitNode::decode(&stored)?;
    let mut bytes = Vec::new();
    for (idx, part) in split.parts.iter().enumerate() {
        let part = store.get(part)?;
        if part.len() != split.part_len(idx) {
            return Err(Error::Malformed {
                what: "split node",
                detail: "length of a part",
            });
        }
        bytes.extend_from_slice(&part);
    }
    if bytes.len() != split.len {
        return Err(Error::Malformed {
            what: "split node",
            detail: "length of the parts",
        });
    }
    Ok((Node::decode(&bytes)?, bytes.len()))
}

/// The chunks that a node is stored in: itself and its parts. Of one that cannot be read, itself.
pub(crate) fn chunk_ids(store: &ChunkStore, id: &ChunkId) -> Vec<ChunkId> {
    let mut ids = vec![*id];
    if let Ok(stored) = store.get(id)
        && SplitNode::is_split(&stored)
        && let Ok(split) = SplitNode::decode(&stored)
    {
        ids.extend(split.parts);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;
    use crate::base::limits::SEGMENT_LEN;
    use crate::format::node::FileNode;

    /// A file with this many segments, all different.
    fn file(segments: u64) -> Node {
        let segment = |idx: u64| {
            let name = hash::node_id(&idx.to_le_bytes());
            (idx, name, Digest::from_raw(*name.as_bytes()))
        };
        Node::File(FileNode {
            size: segments * SEGMENT_LEN,
            segments: (0..segments).map(segment).collect(),
        })
    }

    #[test]
    fn a_node_is_split_exactly_above_two_mib() {
        // 14 bytes, and 72 for each segment.
        let most = (NODE_WHOLE_LEN_MAX as u64 - 14) / 72;
        let whole = encode(&file(most)).unwrap();
        assert_eq!(whole.chunks.len(), 1);
        assert!(!has_split(&whole.chunks));
        let split = encode(&file(most + 1)).unwrap();
        assert_eq!(split.chunks.len(), 4);
        assert!(has_split(&split.chunks));
    }

    #[test]
    fn the_parts_of_a_split_node_are_its_encoding_and_the_last_chunk_names_them() {
        // 2 TiB without holes.
        let node = file(32_768);
        let encoded = encode(&node).unwrap();
        let (last, parts) = encoded.chunks.split_last().unwrap();
        assert_eq!(hash::node_id(last), encoded.id);
        assert!(parts.iter().all(|part| part.len() <= NODE_PART_LEN));
        let split = SplitNode::decode(last).unwrap();
        let ids: Vec<ChunkId> = parts.iter().map(|part| hash::node_id(part)).collect();
        assert_eq!(split.parts, ids);
        for (idx, part) in parts.iter().enumerate() {
            assert_eq!(split.part_len(idx), part.len());
        }
        assert_eq!(Node::decode(&parts.concat()).unwrap(), node);
        assert!(Node::decode(last).is_err());
    }
}
