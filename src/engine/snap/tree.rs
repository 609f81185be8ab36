//! Reading a snapshot's tree of nodes.

use std::ops::Range;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::nodes;
use crate::base::limits::{SEGMENT_LEN, TRIE_DEPTH_MAX};
use crate::base::{ChunkId, Error, Result, Verified};
use crate::chunk::{ChunkBytes, ChunkStore};
use crate::engine::extents::clip;
use crate::engine::names::slot_of_hash;
use crate::engine::ops::part;
use crate::format::node::{Body, DirBody, DirChild, DirInner, Entry, Node};
use crate::format::rows::{ExtentRow, Kind, SnapshotRow};
use crate::hash::{self, EntryKind, RootRecord, Seed};

/// The trees of all snapshots of a store, read through a cache of decoded nodes.
pub(crate) struct Tree<'a> {
    pub(crate) store: &'a ChunkStore,
    pub(crate) cache: &'a NodeCache,
}

/// Decoded nodes, least recently used ones go first.
#[derive(Debug)]
pub(crate) struct NodeCache(Mutex<Cached>);

#[derive(Debug)]
struct Cached {
    /// Nodes with the lengths of their encodings.
    nodes: LruCache<ChunkId, (Arc<Node>, usize)>,
    /// Sum of these lengths in bytes.
    len: usize,
    /// What it may come to.
    len_max: usize,
}

impl NodeCache {
    pub(crate) fn new(len_max: u64) -> Self {
        Self(Mutex::new(Cached {
            nodes: LruCache::unbounded(),
            len: 0,
            len_max: usize::try_from(len_max).unwrap_or(usize::MAX),
        }))
    }

    fn get(&self, id: &ChunkId) -> Option<Arc<Node>> {
        let mut cached = self.0.lock();
        cached.nodes.get(id).map(|(node, _)| Arc::clone(node))
    }

    /// Keeps a node. One that is larger than all that may be kept stays alone until the next one.
    fn put(&self, id: ChunkId, node: Arc<Node>, len: usize) {
        let mut cached = self.0.lock();
        if let Some((_, old)) = cached.nodes.put(id, (node, len)) {
            cached.len -= old;
        }
        cached.len += len;
        while cached.len > cached.len_max && cached.nodes.len() > 1 {
            if let Some((_, (_, old))) = cached.nodes.pop_lru() {
                cached.len -= old;
            }
        }
    }
}

/// The kind of an entry in the terms of docs/seed.md.
pub(crate) fn entry_kind(kind: Kind, mode: u16) -> EntryKind {
    match kind {
        Kind::File => EntryKind::of_regular(u32::from(mode)),
        Kind::Dir => EntryKind::Directory,
        Kind::Symlink => EntryKind::Symlink,
        Kind::Fifo => EntryKind::Fifo,
        Kind::Socket => EntryKind::Socket,
        Kind::CharDevice => EntryKind::CharDevice,
        Kind::BlockDevice => EntryKind::BlockDevice,
    }
}

fn malformed(detail: &'static str) -> Error {
    Error::Malformed {
        what: "snapshot",
        detail,
    }
}

/// A part of a directory's trie: what lies below the first `depth` bits of `prefix`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) child: DirChild,
    depth: u32,
    prefix: [u8; 32],
}

impl Part {
    /// All of it.
    pub(super) fn whole(child: DirChild) -> Self {
        Self {
            child,
            depth: 0,
            prefix: [0; 32],
        }
    }

    /// The slots of names in this part are up to this one: they hold 55 bits of hash from bit 62 down.
    fn last_slot(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.prefix;
        let top = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        top >> 1 | (u64::MAX >> (1 + self.depth.min(62)))
    }

    /// Both halves.
    pub(super) fn halves(&self, inner: &DirInner) -> [Self; 2] {
        let mut right = self.prefix;
        if let Some(byte) = right.get_mut((self.depth / 8) as usize) {
            *byte |= 0x80 >> (self.depth % 8);
        }
        let half = |child, prefix| Self {
            child,
            depth: self.depth + 1,
            prefix,
        };
        [half(inner.left, self.prefix), half(inner.right, right)]
    }

    /// Whether names with this hash belong here.
    fn holds(&self, hash: &[u8; 32]) -> bool {
        (0..self.depth).all(|bit| hash::trie_bit(hash, bit) == hash::trie_bit(&self.prefix, bit))
    }

    /// Checks that a node is what its parent says, as far as it takes for a walk to end: names are where their hashes
    /// belong, so no node is met twice, and parts have the number of entries that they are said to have, so each
    /// that is entered has some.
    pub(super) fn check(&self, node: &Node) -> Result<()> {
        let fits = match node {
            Node::DirInner(DirInner { left, right }) => {
                self.depth < TRIE_DEPTH_MAX
                    && left.count.checked_add(right.count) == Some(self.child.count)
            }
            Node::DirLeaf(entries) => {
                let mut names = entries.iter().map(|entry| hash::name_hash(&entry.name));
                entries.len() as u64 == self.child.count && names.all(|hash| self.holds(&hash))
            }
            _ => return Err(malformed("a directory holds another kind of node")),
        };
        if fits {
            Ok(())
        } else {
            Err(malformed(
                "a part of a directory is not what it is said to be",
            ))
        }
    }
}

/// How many entries a snapshot has below its root by what it says itself: whoever visits all of them stops at more.
///
/// A directory of two directories that are one and the same node, and so on down, is a tree of 2^n entries in n nodes.
/// Such a tree may be true; then its number of entries, which lists show, says how large it is.
#[derive(Debug)]
pub(crate) struct Quota(u64);

impl Quota {
    /// That of a directory.
    pub(crate) fn of(dir: &DirBody) -> Self {
        Self(dir.trie.entries)
    }

    /// That of a tree of which each directory is met once, whatever its rows say: rows are as many as they are.
    pub(crate) fn of_rows() -> Self {
        Self(u64::MAX)
    }

    /// That of two trees together.
    pub(crate) fn and(self, other: &Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Counts some entries.
    ///
    /// # Errors
    /// [`Error::Malformed`] if they are more than there may be.
    pub(crate) fn take(&mut self, entries: usize) -> Result<()> {
        let left = self.0.checked_sub(entries as u64);
        self.0 = left.ok_or_else(|| malformed("it has more entries than it says"))?;
        Ok(())
    }
}

/// What a walk through a directory calls: for each entry, and for what cannot be read.
struct Walk<'a> {
    each: &'a mut dyn FnMut(u64, &Entry) -> Result<bool>,
    bad: &'a mut dyn FnMut(Error) -> Result<()>,
}

impl Tree<'_> {
    /// A node.
    pub(crate) fn node(&self, id: &ChunkId) -> Result<Arc<Node>> {
        if let Some(node) = self.cache.get(id) {
            return Ok(node);
        }
        let (node, len) = nodes::load(self.store, id)?;
        let node = Arc::new(node);
        self.cache.put(*id, Arc::clone(&node), len);
        Ok(node)
    }

    /// The root directory of a snapshot, as an entry without a name.
    pub(crate) fn root(&self, snapshot: &SnapshotRow) -> Result<Entry> {
        match &*self.node(&snapshot.root)? {
            Node::Root(entry) => Ok((**entry).clone()),
            _ => Err(malformed("its root is another kind of node")),
        }
    }

    /// As [`Tree::root`], after comparing its digests with the seed of the snapshot.
    pub(crate) fn checked_root(&self, snapshot: &SnapshotRow) -> Result<Entry> {
        let root = self.root(snapshot)?;
        let record = RootRecord {
            content: root.content,
            full: root.full,
        };
        let expected = Seed::from_raw(*snapshot.seed.as_bytes());
        if record.seed() == expected {
            Ok(root)
        } else {
            Err(Error::SeedMismatch {
                expected: expected.to_string(),
                found: record.seed().to_string(),
            })
        }
    }

    /// The directory half of an entry.
    pub(crate) fn dir(entry: &Entry) -> Result<&DirBody> {
        match &entry.body {
            Body::Dir(body) => Ok(body),
            _ => Err(Error::NotDirectory),
        }
    }

    /// The entry `name` of a directory.
    pub(crate) fn lookup(&self, dir: &DirBody, name: &[u8]) -> Result<Option<Entry>> {
        let hash = hash::name_hash(name);
        let mut child = dir.trie;
        for depth in 0..=TRIE_DEPTH_MAX {
            match &*self.node(&child.node)? {
                Node::DirInner(inner) => {
                    child = if hash::trie_bit(&hash, depth) {
                        inner.right
                    } else {
                        inner.left
                    };
                }
                Node::DirLeaf(entries) => {
                    return Ok(entries.iter().find(|e| e.name == name).cloned());
                }
                _ => return Err(malformed("a directory holds another kind of node")),
            }
        }
        Err(malformed("a directory is deeper than its names are long"))
    }

    /// Calls `each(cookie, entry)` for the entries after `after`, in the order of their slots, until it
    /// returns `false`.
    pub(crate) fn for_each_after(
        &self,
        dir: &DirBody,
        after: u64,
        each: &mut dyn FnMut(u64, &Entry) -> Result<bool>,
    ) -> Result<()> {
        let bad = &mut Err;
        self.walk(&Part::whole(dir.trie), after, &mut Walk { each, bad })
            .map(|_| ())
    }

    /// As [`Tree::for_each_after`], but a part of the directory that cannot be read is told to `bad` and
    /// passed by if that returns `Ok`.
    pub(crate) fn for_each_readable(
        &self,
        dir: &DirBody,
        after: u64,
        each: &mut dyn FnMut(u64, &Entry) -> Result<bool>,
        bad: &mut dyn FnMut(Error) -> Result<()>,
    ) -> Result<()> {
        self.walk(&Part::whole(dir.trie), after, &mut Walk { each, bad })
            .map(|_| ())
    }

    /// Walks a part of a trie. Recursion ends at [`TRIE_DEPTH_MAX`].
    fn walk(&self, part: &Part, after: u64, how: &mut Walk<'_>) -> Result<bool> {
        if part.last_slot() <= after {
            return Ok(true);
        }
        let node = match self.node(&part.child.node) {
            Ok(node) => node,
            Err(error) => return (how.bad)(error).map(|()| true),
        };
        // No damage, which changes the name of a node: it was made so, and whoever passed it by might never end.
        part.check(&node)?;
        match &*node {
            Node::DirInner(inner) => {
                let [left, right] = part.halves(inner);
                Ok(self.walk(&left, after, how)? && self.walk(&right, after, how)?)
            }
            Node::DirLeaf(entries) => {
                let mut slots: Vec<(u64, &Entry)> = entries
                    .iter()
                    .map(|e| (slot_of_hash(&hash::name_hash(&e.name)).raw(), e))
                    .collect();
                slots.sort_by_key(|(slot, _)| *slot);
                let mut used = 0;
                for (slot, entry) in slots {
                    let cookie = slot.max(used + 1);
                    used = cookie;
                    if cookie > after && !(how.each)(cookie, entry)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Err(malformed("a directory holds another kind of node")),
        }
    }

    /// The extents of a file that overlap `range`, clipped to it, ascending.
    pub(crate) fn extents(
        &self,
        entry: &Entry,
        range: Range<u64>,
    ) -> Result<Vec<(u64, ExtentRow)>> {
        let mut out = Vec::new();
        let mut add = |off: u64, extent: ExtentRow| {
            if off < range.end && off + u64::from(extent.len) > range.start {
                out.push(clip(off, extent, &range));
            }
        };
        match &entry.body {
            Body::Inline(extents) => extents.iter().for_each(|(off, extent)| add(*off, *extent)),
            Body::File(id) => {
                let node = self.node(id)?;
                let Node::File(file) = &*node else {
                    return Err(malformed("a file holds another kind of node"));
                };
                let (first, end) = (range.start / SEGMENT_LEN, range.end.div_ceil(SEGMENT_LEN));
                let start = file.segments.partition_point(|(idx, _, _)| *idx < first);
                for (idx, id, _) in file
                    .segments
                    .iter()
                    .skip(start)
                    .take_while(|(idx, _, _)| *idx < end)
                {
                    let node = self.node(id)?;
                    let Node::Segment(segment) = &*node else {
                        return Err(malformed("a segment is another kind of node"));
                    };
                    segment.extents.iter().for_each(|(off, extent)| {
                        add(idx * SEGMENT_LEN + u64::from(*off), *extent)
                    });
                }
            }
            _ => return Err(Error::Invalid("not a regular file")),
        }
        Ok(out)
    }

    /// The indexes of the segments of a file that may have extents, ascending.
    pub(crate) fn segments(&self, entry: &Entry) -> Result<Vec<u64>> {
        match &entry.body {
            Body::Inline(extents) if extents.is_empty() => Ok(Vec::new()),
            Body::Inline(_) => Ok(vec![0]),
            Body::File(id) => match &*self.node(id)? {
                Node::File(file) => Ok(file.segments.iter().map(|(idx, ..)| *idx).collect()),
                _ => Err(malformed("a file holds another kind of node")),
            },
            _ => Err(Error::Invalid("not a regular file")),
        }
    }

    /// Appends the bytes of `range`, which lies within the file, to `sink`.
    pub(crate) fn read(&self, entry: &Entry, range: Range<u64>, sink: &mut Vec<u8>) -> Result<()> {
        let extents = self.extents(entry, range.clone())?;
        read_extents(self.store, &extents, range, sink)
    }
}

/// Appends the bytes of `range` to `sink`: those of `extents`, zeros elsewhere.
pub(crate) fn read_extents(
    store: &ChunkStore,
    extents: &[(u64, ExtentRow)],
    range: Range<u64>,
    sink: &mut Vec<u8>,
) -> Result<()> {
    read_extents_by(&|id| store.get(id), extents, range, sink)
}

/// The same, with chunks from `get`.
pub(crate) fn read_extents_by(
    get: &dyn Fn(&ChunkId) -> Result<Verified<ChunkBytes>>,
    extents: &[(u64, ExtentRow)],
    range: Range<u64>,
    sink: &mut Vec<u8>,
) -> Result<()> {
    let base = sink.len();
    let place = |off: u64| {
        usize::try_from(off - range.start)
            .map(|n| base + n)
            .map_err(|_| Error::FileTooLarge)
    };
    sink.resize(place(range.end)?, 0);
    for (off, extent) in extents {
        let bytes = get(&extent.chunk)?;
        let (from, to) = part(&bytes, extent.chunk_off, u64::from(extent.len))?;
        let at = place(*off)?;
        let out = sink
            .get_mut(at..at + (to - from))
            .ok_or(Error::Internal("read out of range"))?;
        out.copy_from_slice(
            bytes
                .get(from..to)
                .ok_or(Error::Internal("chunk out of range"))?,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Digest, Env};
    use crate::engine::{Config, Engine, InitOptions};
    use crate::format::node::DirInner;

    /// A trie whose inner nodes reach this deep.
    fn deep(engine: &Engine, depth: u32) -> DirChild {
        let mut chunks = Vec::new();
        let mut child = |node: &Node, inner| {
            let encoded = nodes::encode(node).unwrap();
            chunks.extend(encoded.chunks);
            DirChild {
                node: encoded.id,
                inner,
                // As many as the flag claims.
                count: if inner { 257 } else { 1 },
                content: Digest::from_raw([0; 32]),
                full: Digest::from_raw([0; 32]),
                entries: 257,
                bytes: 0,
            }
        };
        let right = child(&Node::DirLeaf(Vec::new()), false);
        let mut left = right;
        for _ in 0..depth {
            left = child(&Node::DirInner(DirInner { left, right }), true);
        }
        engine.commit_nodes(&chunks, Vec::new()).unwrap();
        left
    }

    /// Bug: what a store says its directories are like decided how deep the stack became.
    #[test]
    fn i10_a_directory_deeper_than_its_hashes_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        Engine::init(dir.path(), &Env::real(), &InitOptions::default()).unwrap();
        let engine = Engine::open(dir.path(), Env::real(), Config::default()).unwrap();
        let body = DirBody {
            trie: deep(&engine, TRIE_DEPTH_MAX + 1),
            groups: Digest::from_raw([0; 32]),
        };
        let walked = engine.tree().for_each_after(&body, 0, &mut |_, _| Ok(true));
        assert!(matches!(walked, Err(Error::Malformed { .. })), "{walked:?}");
        engine.close().unwrap();
    }
}
