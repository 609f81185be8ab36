//! Nodes of snapshots: immutable, named by their content, stored as chunks.

use super::rows::{Attrs, ExtentRow};
use crate::base::{ChunkId, Digest, Ino};

/// A decoded node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// The root of a snapshot: the root directory as an entry with an empty name.
    Root(Box<Entry>),
    /// Leaf of a directory trie: at most 256 entries in byte order of the names.
    DirLeaf(Vec<Entry>),
    /// Inner node of a directory trie.
    DirInner(DirInner),
    /// A file that is too large or too fragmented to be inline.
    File(FileNode),
    /// 64 MiB of a file.
    Segment(SegmentNode),
}

/// Inner node of a directory trie; the left half has the next bit of BLAKE3(name) clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirInner {
    /// Next bit clear.
    pub left: DirChild,
    /// Next bit set.
    pub right: DirChild,
}

/// A child of a [`DirInner`], and the root of a trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirChild {
    /// The node.
    pub node: ChunkId,
    /// Whether it is an inner node.
    pub inner: bool,
    /// Entries below it, in this directory.
    pub count: u64,
    /// Digest of the content trie.
    pub content: Digest,
    /// Digest of the full trie.
    pub full: Digest,
    /// Entries below it, whole subtrees.
    pub entries: u64,
    /// Logical bytes below it, whole subtrees.
    pub bytes: u64,
}

/// An entry of a directory leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name; empty in a root node.
    pub name: Vec<u8>,
    /// The inode number in the live tree when the snapshot was taken; equal for hard links.
    pub ino: Ino,
    /// Attributes, logical size included.
    pub attrs: Attrs,
    /// Number of names inside the tree.
    pub nlink: u32,
    /// Bytes mapped by extents.
    pub mapped: u64,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Content digest (docs/seed.md).
    pub content: Digest,
    /// Full digest.
    pub full: Digest,
    /// What it holds.
    pub body: Body,
}

/// What an [`Entry`] holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A file whose extents are here: (file offset, extent), ascending, not overlapping.
    Inline(Vec<(u64, ExtentRow)>),
    /// A file with a node of its own.
    File(ChunkId),
    /// A directory.
    Dir(DirBody),
    /// A symbolic link's target.
    Symlink(Vec<u8>),
    /// A fifo, a socket, a device.
    Special,
}

/// The directory half of [`Body`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirBody {
    /// Root of the trie.
    pub trie: DirChild,
    /// Digest of its hard-link groups.
    pub groups: Digest,
}

/// A larger file: its segments that are not wholly holes, ascending by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNode {
    /// Logical size in bytes.
    pub size: u64,
    /// (segment index, node, digest of the segment's subtree).
    pub segments: Vec<(u64, ChunkId, Digest)>,
}

/// 64 MiB of a file, or less at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentNode {
    /// Length of the file within this segment, `1..=64 MiB`.
    pub len: u64,
    /// (offset within the segment, extent), ascending, not overlapping.
    pub extents: Vec<(u32, ExtentRow)>,
    /// Digests of the aligned 1 MiB subtrees, `ceil(len / 1 MiB)` of them.
    pub subtrees: Vec<Digest>,
}
