//! Functional updates of a directory's persistent trie.
//!
//! The shape is canonical (docs/seed.md): a subtree with at most 256 entries is a leaf. Changes come in the
//! order of the slots, so a directory of any size is updated in one pass with bounded memory:
//! 1. where nothing changes, the old subtree is kept as it is, unread;
//! 2. where few entries change, they are merged with the old leaf in memory and built;
//! 3. where many change, the range is halved.

use std::collections::VecDeque;

use super::tree::{Tree, entry_kind};
use crate::base::limits::{DIR_LEAF_ENTRIES_MAX, TRIE_DEPTH_MAX};
use crate::base::{ChunkId, Error, Result};
use crate::engine::names::slot_of_hash;
use crate::format::node::{Body, DirChild, DirInner, Entry, Node};
use crate::hash::{self, DirEntry, TwoDigests};

/// Changed groups of entries that are merged in memory at a time.
const MERGE_MAX: usize = 2048;

/// All entries, after the change, whose names share 55 bits of hash.
pub(crate) struct Group {
    /// The first slot of these names.
    pub(crate) slot: u64,
    /// What is there now; empty if they were removed.
    pub(crate) entries: Vec<Entry>,
}

/// Where changed groups come from, in ascending order of slots.
pub(crate) trait Groups {
    /// The next groups, none when there are no more.
    fn next_page(&mut self) -> Result<Vec<Group>>;
}

/// Where new nodes go.
pub(crate) trait NodeSink {
    /// Stores a node and returns its id.
    fn put(&mut self, node: &Node) -> Result<ChunkId>;
}

/// A subtree: its entries while they fit a leaf, else a stored node.
enum Sub {
    Small(Vec<Entry>),
    Node(DirChild),
}

pub(crate) struct Update<'a, G, S> {
    tree: &'a Tree<'a>,
    groups: &'a mut G,
    sink: &'a mut S,
    ahead: VecDeque<Group>,
    exhausted: bool,
}

impl<'a, G: Groups, S: NodeSink> Update<'a, G, S> {
    pub(crate) fn new(tree: &'a Tree<'a>, groups: &'a mut G, sink: &'a mut S) -> Self {
        Self {
            tree,
            groups,
            sink,
            ahead: VecDeque::new(),
            exhausted: false,
        }
    }

    /// Applies all changes to the trie `old` (`None`: an empty directory) and returns the new root.
    pub(crate) fn run(mut self, old: Option<DirChild>) -> Result<DirChild> {
        let old = match old {
            Some(child) => Sub::Node(child),
            None => Sub::Small(Vec::new()),
        };
        let new = self.update(old, 0, 0)?;
        self.store(new)
    }

    /// Updates the subtree whose slots begin with the `depth` bits of `prefix`.
    fn update(&mut self, old: Sub, depth: u32, prefix: u64) -> Result<Sub> {
        let end = prefix.saturating_add((1u64 << 63).checked_shr(depth).unwrap_or(0));
        let within = self.fill(end)?;
        if within == 0 {
            return Ok(old);
        }
        let old = match old {
            Sub::Node(child) => match &*self.tree.node(&child.node)? {
                Node::DirInner(inner) => {
                    let bit = (1u64 << 62).checked_shr(depth).unwrap_or(0);
                    let left = self.update(Sub::Node(inner.left), depth + 1, prefix)?;
                    let right = self.update(Sub::Node(inner.right), depth + 1, prefix | bit)?;
                    return self.join(left, right);
                }
                Node::DirLeaf(entries) => entries.clone(),
                _ => {
                    return Err(Error::Malformed {
                        what: "snapshot",
                        detail: "a directory holds another node",
                    });
                }
            },
            Sub::Small(entries) => entries,
        };
        if within > MERGE_MAX {
            let bit = (1u64 << 62).checked_shr(depth).unwrap_or(0);
            let (right, left): (Vec<Entry>, Vec<Entry>) = old
                .into_iter()
                .partition(|e| hash::trie_bit(&hash::name_hash(&e.name), depth));
            let left = self.update(Sub::Small(left), depth + 1, prefix)?;
            let right = self.update(Sub::Small(right), depth + 1, prefix | bit)?;
            return self.join(left, right);
        }
        let groups: Vec<Group> = self.ahead.drain(..within).collect();
        let mut entries = old;
        entries.retain(|e| {
            let slot = slot_of_hash(&hash::name_hash(&e.name)).raw();
            groups.binary_search_by_key(&slot, |g| g.slot).is_err()
        });
        entries.extend(groups.into_iter().flat_map(|g| g.entries));
        self.build(entries, depth)
    }

    /// Reads changes ahead; returns how many of them lie before `end`, at most `MERGE_MAX + 1`.
    fn fill(&mut self, end: u64) -> Result<usize> {
        while !self.exhausted
            && self.ahead.len() <= MERGE_MAX
            && self.ahead.back().is_none_or(|group| group.slot < end)
        {
            let page = self.groups.next_page()?;
            self.exhausted = page.is_empty();
            self.ahead.extend(page);
        }
        Ok(self
            .ahead
            .iter()
            .take(MERGE_MAX + 1)
            .take_while(|group| group.slot < end)
            .count())
    }

    fn build(&mut self, mut entries: Vec<Entry>, depth: u32) -> Result<Sub> {
        if entries.len() <= DIR_LEAF_ENTRIES_MAX {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            let twice = entries
                .windows(2)
                .any(|pair| matches!(pair, [a, b] if a.name == b.name));
            return if twice {
                Err(same_name())
            } else {
                Ok(Sub::Small(entries))
            };
        }
        if depth >= TRIE_DEPTH_MAX {
            return Err(same_name());
        }
        let (right, left): (Vec<Entry>, Vec<Entry>) = entries
            .into_iter()
            .partition(|e| hash::trie_bit(&hash::name_hash(&e.name), depth));
        let left = self.build(left, depth + 1)?;
        let right = self.build(right, depth + 1)?;
        self.join(left, right)
    }

    fn join(&mut self, left: Sub, right: Sub) -> Result<Sub> {
        let count = |sub: &Sub| match sub {
            Sub::Small(entries) => entries.len() as u64,
            Sub::Node(child) => child.count,
        };
        if count(&left) + count(&right) <= DIR_LEAF_ENTRIES_MAX as u64 {
            let mut entries = self.entries(left)?;
            entries.extend(self.entries(right)?);
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            return Ok(Sub::Small(entries));
        }
        let (left, right) = (self.store(left)?, self.store(right)?);
        let digests = hash::dir_inner(&digests_of(&left), &digests_of(&right));
        let node = self.sink.put(&Node::DirInner(DirInner { left, right }))?;
        Ok(Sub::Node(DirChild {
            node,
            inner: true,
            count: left.count + right.count,
            content: digests.content,
            full: digests.full,
            entries: left.entries + right.entries,
            bytes: left.bytes.saturating_add(right.bytes),
        }))
    }

    /// The entries of a subtree that fits a leaf.
    fn entries(&self, sub: Sub) -> Result<Vec<Entry>> {
        match sub {
            Sub::Small(entries) => Ok(entries),
            Sub::Node(child) => match &*self.tree.node(&child.node)? {
                Node::DirLeaf(entries) => Ok(entries.clone()),
                _ => Err(Error::Malformed {
                    what: "snapshot",
                    detail: "an inner node with few entries",
                }),
            },
        }
    }

    fn store(&mut self, sub: Sub) -> Result<DirChild> {
        match sub {
            Sub::Node(child) => Ok(child),
            Sub::Small(entries) => {
                let child = leaf_summary(&entries);
                let node = self.sink.put(&Node::DirLeaf(entries))?;
                Ok(DirChild { node, ..child })
            }
        }
    }
}

/// Rows of a live directory may be damaged so that a name is in it twice.
fn same_name() -> Error {
    Error::Malformed {
        what: "directory",
        detail: "two entries have the same name",
    }
}

pub(crate) fn digests_of(child: &DirChild) -> TwoDigests {
    TwoDigests {
        content: child.content,
        full: child.full,
    }
}

/// Everything about a leaf but its id.
fn leaf_summary(entries: &[Entry]) -> DirChild {
    let digests = hash::dir_leaf(entries.iter().map(|e| DirEntry {
        name: &e.name,
        kind: entry_kind(e.attrs.kind, e.attrs.mode),
        digests: TwoDigests {
            content: e.content,
            full: e.full,
        },
    }));
    let (mut below, mut bytes) = (entries.len() as u64, 0u64);
    for entry in entries {
        match &entry.body {
            Body::Dir(dir) => {
                below = below.saturating_add(dir.trie.entries);
                bytes = bytes.saturating_add(dir.trie.bytes);
            }
            Body::Inline(_) | Body::File(_) => bytes = bytes.saturating_add(entry.attrs.size),
            Body::Symlink(_) | Body::Special => {}
        }
    }
    DirChild {
        node: ChunkId::from_raw([0; 32]),
        inner: false,
        count: entries.len() as u64,
        content: digests.content,
        full: digests.full,
        entries: below,
        bytes,
    }
}

/// The root of a stored trie as a child, digests recomputed from its node.
pub(crate) fn child_of(tree: &Tree<'_>, id: ChunkId) -> Result<DirChild> {
    summary(id, &*tree.node(&id)?)
}

/// A node of a trie as its parent should name it: counts and digests recomputed.
pub(crate) fn summary(id: ChunkId, node: &Node) -> Result<DirChild> {
    match node {
        Node::DirLeaf(entries) => Ok(DirChild {
            node: id,
            ..leaf_summary(entries)
        }),
        Node::DirInner(DirInner { left, right }) => {
            let digests = hash::dir_inner(&digests_of(left), &digests_of(right));
            Ok(DirChild {
                node: id,
                inner: true,
                count: left.count.saturating_add(right.count),
                content: digests.content,
                full: digests.full,
                entries: left.entries.saturating_add(right.entries),
                bytes: left.bytes.saturating_add(right.bytes),
            })
        }
        _ => Err(Error::Malformed {
            what: "snapshot",
            detail: "a directory holds another kind of node",
        }),
    }
}
