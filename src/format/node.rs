//! Nodes of snapshots: immutable, named by their content, stored as chunks.

use super::cursor::{Reader, Writer};
use super::keys::xattr_name_is_valid;
use super::rows::{Attrs, ExtentRow, Kind, name_is_valid, target_is_valid};
use super::split::KIND_SPLIT;
use crate::base::limits::{
    DIR_LEAF_ENTRIES_MAX, INLINE_EXTENTS_FILE_LEN_MAX, INLINE_EXTENTS_MAX, SEGMENT_LEN,
    SUBTREE_LEN, XATTR_VALUE_LEN_MAX,
};
use crate::base::{ChunkId, Digest, FileOff, Ino, Result};

/// Version of the encoding of nodes: their second byte.
pub const NODE_VERSION: u8 = 1;

const KIND_ROOT: u8 = 1;
const KIND_DIR_LEAF: u8 = 2;
const KIND_DIR_INNER: u8 = 3;
const KIND_FILE: u8 = 4;
const KIND_SEGMENT: u8 = 5;

const BODY_INLINE: u8 = 1;
const BODY_FILE: u8 = 2;
const BODY_DIR: u8 = 3;
const BODY_SYMLINK: u8 = 4;
const BODY_SPECIAL: u8 = 5;

/// Least bytes of an encoded entry: an empty name, no xattrs, body `Special`.
const ENTRY_LEN_MIN: usize = 1 + 8 + Attrs::ENCODED_LEN + 4 + 8 + 32 + 32 + 2 + 1;

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

impl Node {
    /// The canonical encoding: its digest is the node's id.
    ///
    /// # Panics
    /// If a count or length exceeds its field: the caller has broken a limit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Self::Root(entry) => {
                w.u8(KIND_ROOT).u8(NODE_VERSION);
                entry.write(&mut w);
            }
            Self::DirLeaf(entries) => {
                w.u8(KIND_DIR_LEAF).u8(NODE_VERSION).len_u16(entries.len());
                for entry in entries {
                    entry.write(&mut w);
                }
            }
            Self::DirInner(inner) => {
                w.u8(KIND_DIR_INNER).u8(NODE_VERSION);
                inner.left.write(&mut w);
                inner.right.write(&mut w);
            }
            Self::File(file) => {
                w.u8(KIND_FILE).u8(NODE_VERSION);
                file.write(&mut w);
            }
            Self::Segment(segment) => {
                w.u8(KIND_SEGMENT).u8(NODE_VERSION);
                segment.write(&mut w);
            }
        }
        let bytes = w.finish();
        debug_assert!(
            Self::decode(&bytes).as_ref().is_ok_and(|node| node == self),
            "nobody will read it: {:?}",
            Self::decode(&bytes).err()
        );
        bytes
    }

    /// Inverse of [`Node::encode`].
    ///
    /// # Errors
    /// `Malformed` for bytes that `encode` does not make of a valid node.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("node", bytes);
        let kind = r.u8()?;
        let version = r.u8()?;
        r.ensure(version == NODE_VERSION, "unknown version of the node")?;
        let node = match kind {
            KIND_ROOT => {
                let entry = Entry::read(&mut r)?;
                r.ensure(entry.name.is_empty(), "the root has a name")?;
                let is_dir = entry.attrs.kind == Kind::Dir;
                r.ensure(is_dir, "the root is not a directory")?;
                Self::Root(Box::new(entry))
            }
            KIND_DIR_LEAF => Self::DirLeaf(read_leaf(&mut r)?),
            KIND_DIR_INNER => Self::DirInner(DirInner {
                left: DirChild::read(&mut r)?,
                right: DirChild::read(&mut r)?,
            }),
            KIND_FILE => Self::File(FileNode::read(&mut r)?),
            KIND_SEGMENT => Self::Segment(SegmentNode::read(&mut r)?),
            KIND_SPLIT => return Err(r.error("a split node within a node")),
            _ => return Err(r.error("unknown kind of node")),
        };
        r.finish()?;
        Ok(node)
    }

    /// Calls `each` with every id that the node names: of nodes below it and of chunks of file
    /// bytes, in the order of the encoding, duplicates included.
    pub fn for_each_id(&self, mut each: impl FnMut(&ChunkId)) {
        match self {
            Self::Root(entry) => entry.for_each_id(&mut each),
            Self::DirLeaf(entries) => {
                for entry in entries {
                    entry.for_each_id(&mut each);
                }
            }
            Self::DirInner(inner) => {
                each(&inner.left.node);
                each(&inner.right.node);
            }
            Self::File(file) => file.segments.iter().for_each(|(_, id, _)| each(id)),
            Self::Segment(segment) => segment.extents.iter().for_each(|(_, e)| each(&e.chunk)),
        }
    }
}

fn read_leaf(r: &mut Reader<'_>) -> Result<Vec<Entry>> {
    let count = r.count_u16(ENTRY_LEN_MIN)?;
    r.ensure(count <= DIR_LEAF_ENTRIES_MAX, "too many entries in a leaf")?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = Entry::read(r)?;
        r.ensure(name_is_valid(&entry.name), "name of an entry")?;
        let ascends = entries.last().is_none_or(|last| last.name < entry.name);
        r.ensure(ascends, "entries are not in order")?;
        entries.push(entry);
    }
    Ok(entries)
}

impl DirChild {
    /// Length of the encoding in bytes.
    pub const ENCODED_LEN: usize = 121;

    fn write(&self, w: &mut Writer) {
        w.bytes(self.node.as_bytes()).u8(u8::from(self.inner));
        w.u64(self.count).u64(self.entries).u64(self.bytes);
        w.bytes(self.content.as_bytes()).bytes(self.full.as_bytes());
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let node = ChunkId::from_raw(r.array()?);
        let inner = r.u8()?;
        r.ensure(inner <= 1, "flag of an inner node")?;
        let count = r.u64()?;
        // The trie is canonical: up to 256 entries are one leaf, more are never one.
        let is_large = count > DIR_LEAF_ENTRIES_MAX as u64;
        r.ensure((inner == 1) == is_large, "count of entries of a node")?;
        let entries = r.u64()?;
        let bytes = r.u64()?;
        r.ensure(entries >= count, "entries of a subtree")?;
        Ok(Self {
            node,
            inner: inner == 1,
            count,
            entries,
            bytes,
            content: r.digest()?,
            full: r.digest()?,
        })
    }
}

impl Entry {
    fn write(&self, w: &mut Writer) {
        w.len_u8(self.name.len()).bytes(&self.name);
        w.u64(self.ino.raw());
        self.attrs.write(w);
        w.u32(self.nlink).u64(self.mapped);
        w.bytes(self.content.as_bytes()).bytes(self.full.as_bytes());
        w.len_u16(self.xattrs.len());
        for (name, value) in &self.xattrs {
            w.len_u8(name.len()).bytes(name);
            w.len_u32(value.len()).bytes(value);
        }
        self.body.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let name_len = usize::from(r.u8()?);
        let name = r.bytes(name_len)?.to_vec();
        let ino = Ino::from_raw(r.u64()?);
        r.ensure(ino.raw() != 0, "inode 0")?;
        let attrs = Attrs::read(r)?;
        let nlink = r.u32()?;
        let mapped = r.u64()?;
        let content = r.digest()?;
        let full = r.digest()?;
        let xattrs = read_xattrs(r)?;
        let body = Body::read(r, &attrs)?;
        Ok(Self {
            name,
            ino,
            attrs,
            nlink,
            mapped,
            xattrs,
            content,
            full,
            body,
        })
    }

    fn for_each_id(&self, each: &mut impl FnMut(&ChunkId)) {
        match &self.body {
            Body::Inline(extents) => extents.iter().for_each(|(_, e)| each(&e.chunk)),
            Body::File(node) => each(node),
            Body::Dir(dir) => each(&dir.trie.node),
            Body::Symlink(_) | Body::Special => {}
        }
    }
}

fn read_xattrs(r: &mut Reader<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let count = r.count_u16(6)?;
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(count);
    for _ in 0..count {
        let name_len = usize::from(r.u8()?);
        let name = r.bytes(name_len)?;
        r.ensure(xattr_name_is_valid(name), "attribute name")?;
        let ascends = xattrs.last().is_none_or(|(last, _)| last.as_slice() < name);
        r.ensure(ascends, "attributes are not in order")?;
        let value_len = r.count_u32(1)?;
        r.ensure(value_len <= XATTR_VALUE_LEN_MAX, "attribute value")?;
        xattrs.push((name.to_vec(), r.bytes(value_len)?.to_vec()));
    }
    Ok(xattrs)
}

impl Body {
    fn write(&self, w: &mut Writer) {
        match self {
            Self::Inline(extents) => {
                w.u8(BODY_INLINE).len_u16(extents.len());
                for (off, extent) in extents {
                    w.u64(*off);
                    extent.write(w);
                }
            }
            Self::File(node) => {
                w.u8(BODY_FILE).bytes(node.as_bytes());
            }
            Self::Dir(dir) => {
                w.u8(BODY_DIR);
                dir.trie.write(w);
                w.bytes(dir.groups.as_bytes());
            }
            Self::Symlink(target) => {
                w.u8(BODY_SYMLINK).len_u16(target.len()).bytes(target);
            }
            Self::Special => {
                w.u8(BODY_SPECIAL);
            }
        }
    }

    fn read(r: &mut Reader<'_>, attrs: &Attrs) -> Result<Self> {
        let tag = r.u8()?;
        let fits = match tag {
            BODY_INLINE | BODY_FILE => attrs.kind == Kind::File,
            BODY_DIR => attrs.kind == Kind::Dir,
            BODY_SYMLINK => attrs.kind == Kind::Symlink,
            BODY_SPECIAL => !matches!(attrs.kind, Kind::File | Kind::Dir | Kind::Symlink),
            _ => return Err(r.error("unknown body")),
        };
        r.ensure(fits, "body of another kind of inode")?;
        Ok(match tag {
            BODY_INLINE => Self::Inline(read_inline(r, attrs.size)?),
            BODY_FILE => Self::File(ChunkId::from_raw(r.array()?)),
            BODY_DIR => {
                let trie = DirChild::read(r)?;
                let groups = r.digest()?;
                Self::Dir(DirBody { trie, groups })
            }
            BODY_SYMLINK => {
                let len = usize::from(r.u16()?);
                let target = r.bytes(len)?;
                r.ensure(target_is_valid(target), "symlink target")?;
                let same = u64::try_from(len) == Ok(attrs.size);
                r.ensure(same, "size of a symlink is its target's length")?;
                Self::Symlink(target.to_vec())
            }
            _ => Self::Special,
        })
    }
}

fn read_inline(r: &mut Reader<'_>, size: u64) -> Result<Vec<(u64, ExtentRow)>> {
    let small = size <= INLINE_EXTENTS_FILE_LEN_MAX;
    r.ensure(small, "inline extents of a large file")?;
    let count = r.count_u16(8 + ExtentRow::ENCODED_LEN)?;
    r.ensure(count <= INLINE_EXTENTS_MAX, "too many inline extents")?;
    let mut extents = Vec::with_capacity(count);
    let mut end = 0;
    for _ in 0..count {
        let off = r.u64()?;
        let extent = ExtentRow::read(r)?;
        r.ensure(off >= end, "extents overlap or are not in order")?;
        r.ensure(off <= size, "extent past the end of the file")?;
        end = off + u64::from(extent.len);
        r.ensure(end <= size, "extent past the end of the file")?;
        extents.push((off, extent));
    }
    Ok(extents)
}

impl FileNode {
    fn write(&self, w: &mut Writer) {
        w.u64(self.size).len_u32(self.segments.len());
        for (idx, node, digest) in &self.segments {
            w.u64(*idx).bytes(node.as_bytes()).bytes(digest.as_bytes());
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let size = r.u64()?;
        r.ensure(size <= FileOff::MAX.raw(), "size exceeds 63 bits")?;
        let segment_count = size.div_ceil(SEGMENT_LEN);
        let count = r.count_u32(72)?;
        let mut segments: Vec<(u64, ChunkId, Digest)> = Vec::with_capacity(count);
        for _ in 0..count {
            let idx = r.u64()?;
            r.ensure(idx < segment_count, "segment past the end of the file")?;
            let ascends = segments.last().is_none_or(|(last, ..)| *last < idx);
            r.ensure(ascends, "segments are not in order")?;
            segments.push((idx, ChunkId::from_raw(r.array()?), r.digest()?));
        }
        Ok(Self { size, segments })
    }
}

impl SegmentNode {
    fn write(&self, w: &mut Writer) {
        w.u64(self.len).len_u32(self.extents.len());
        for (off, extent) in &self.extents {
            w.u32(*off);
            extent.write(w);
        }
        for digest in &self.subtrees {
            w.bytes(digest.as_bytes());
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let len = r.u64()?;
        r.ensure((1..=SEGMENT_LEN).contains(&len), "length of a segment")?;
        let count = r.count_u32(4 + ExtentRow::ENCODED_LEN)?;
        let mut extents = Vec::with_capacity(count);
        let mut end = 0;
        for _ in 0..count {
            let off = r.u32()?;
            let extent = ExtentRow::read(r)?;
            r.ensure(u64::from(off) >= end, "extents overlap or are not in order")?;
            end = u64::from(off) + u64::from(extent.len);
            r.ensure(end <= len, "extent past the end of the segment")?;
            extents.push((off, extent));
        }
        let mut subtrees = Vec::new();
        for _ in 0..len.div_ceil(SUBTREE_LEN) {
            subtrees.push(r.digest()?);
        }
        Ok(Self {
            len,
            extents,
            subtrees,
        })
    }
}
