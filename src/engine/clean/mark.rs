//! The mark: which chunks and nodes are live.
//!
//! 1. Every chunk of an extent of the live tree. A file that has no name but is open has its extents still.
//! 2. Everything below the root of every snapshot, and of snapshots that were deleted while files of theirs
//!    are open. A node that several share is visited once.
//! 3. The nodes that the next snapshot will build on, which belong to the last one, deleted or not. Of these
//!    not the chunks of files: what has not changed since is in the live tree, of what has changed only new
//!    bytes are read.
//!
//! Whatever cannot be read, or names a chunk that the index does not know, ends the cleaning: nothing that it would
//! have decided is certain then (I8).

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use crate::base::limits::{VISITED_ID_LEN, VISITED_SHARE};
use crate::base::{ChunkId, Error, Result};
use crate::chunk::LiveSet;
use crate::engine::Engine;
use crate::engine::snap::load_node;
use crate::format::keys;
use crate::format::node::{Body, Entry, Node};
use crate::format::rows::{ExtentRow, SnapDirRow, SnapFileRow, SnapshotRow, Table};
use crate::format::split::SplitNode;
use crate::meta::{Rows, View, for_each_row};

/// One mark over a frozen view of the index.
pub(super) struct Mark<'a> {
    engine: &'a Engine,
    view: &'a View<'a>,
    live: &'a LiveSet,
    visited: HashSet<ChunkId>,
    visited_max: usize,
}

impl<'a> Mark<'a> {
    pub(super) fn new(engine: &'a Engine, view: &'a View<'a>, live: &'a LiveSet) -> Self {
        let bytes = engine.config.memory / VISITED_SHARE;
        Self {
            engine,
            view,
            live,
            visited: HashSet::new(),
            visited_max: usize::try_from(bytes / VISITED_ID_LEN).unwrap_or(usize::MAX),
        }
    }

    /// Adds everything that is live in the view, and what is below the nodes `open`.
    pub(super) fn run(mut self, open: &[ChunkId]) -> Result<()> {
        let view = self.view;
        let mut roots = open.to_vec();
        for_each_row(view, Table::Extent, &[], &[0xff; 17], &mut |_, value| {
            self.id(&ExtentRow::decode(value)?.chunk)?;
            Ok(true)
        })?;
        for_each_row(view, Table::Snapshot, &[], &[0xff; 4], &mut |_, value| {
            roots.push(SnapshotRow::decode(value)?.root);
            Ok(true)
        })?;
        for root in roots {
            self.tree(root, true)?;
        }
        for_each_row(view, Table::SnapDir, &[], &[0xff; 9], &mut |_, value| {
            self.tree(SnapDirRow::decode(value)?.trie, false)?;
            Ok(true)
        })?;
        for_each_row(view, Table::SnapFile, &[], &[0xff; 9], &mut |_, value| {
            self.tree(SnapFileRow::decode(value)?.node, false)?;
            Ok(true)
        })
    }

    /// Adds one chunk or node.
    fn id(&mut self, id: &ChunkId) -> Result<()> {
        if self.engine.closed.load(Ordering::Relaxed) {
            return Err(Error::Stale);
        }
        if self.live.insert(id) && self.view.get(Table::Chunk, &keys::chunk(id))?.is_none() {
            // The index is not whole: what it does not name may be live as well.
            return Err(Error::ChunkUnknown(id.to_hex()));
        }
        Ok(())
    }

    /// Reads a node and adds the parts that it is stored in.
    fn node(&mut self, id: &ChunkId) -> Result<Node> {
        let stored = self.engine.store.get(id)?;
        if !SplitNode::is_split(&stored) {
            return Node::decode(&stored);
        }
        for part in SplitNode::decode(&stored)?.parts {
            self.id(&part)?;
        }
        load_node(&self.engine.store, id).map(|(node, _)| node)
    }

    /// Adds a node and the nodes below it; with `files` also the chunks of the files there.
    fn tree(&mut self, root: ChunkId, files: bool) -> Result<()> {
        let mut todo = vec![root];
        while let Some(id) = todo.pop() {
            if self.visited.contains(&id) {
                continue;
            }
            if self.visited.len() < self.visited_max {
                self.visited.insert(id);
            }
            self.id(&id)?;
            let node = self.node(&id)?;
            let mut chunks = Vec::new();
            below(&node, &mut todo, &mut chunks);
            if files {
                chunks.iter().try_for_each(|chunk| self.id(chunk))?;
            }
        }
        Ok(())
    }
}

/// The nodes that a node names, and the chunks of files.
fn below(node: &Node, nodes: &mut Vec<ChunkId>, chunks: &mut Vec<ChunkId>) {
    match node {
        Node::Root(entry) => below_entry(entry, nodes, chunks),
        Node::DirLeaf(entries) => {
            for entry in entries {
                below_entry(entry, nodes, chunks);
            }
        }
        Node::DirInner(inner) => nodes.extend([inner.left.node, inner.right.node]),
        Node::File(file) => nodes.extend(file.segments.iter().map(|(_, id, _)| *id)),
        Node::Segment(segment) => chunks.extend(segment.extents.iter().map(|(_, e)| e.chunk)),
    }
}

fn below_entry(entry: &Entry, nodes: &mut Vec<ChunkId>, chunks: &mut Vec<ChunkId>) {
    match &entry.body {
        Body::Inline(extents) => chunks.extend(extents.iter().map(|(_, extent)| extent.chunk)),
        Body::File(id) => nodes.push(*id),
        Body::Dir(body) => nodes.push(body.trie.node),
        _ => {}
    }
}
