//! Taking a snapshot: from the dirty rows of a frozen view to new nodes, digests and one commit.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::dirty::{Changes, by_depth};
use super::entry::{Built, PutChunk, Source, dir_body, new_entry, node_attrs};
use super::nodes;
use super::tree::Tree;
use super::trie::{Group, Groups, NodeSink, Update, child_of};
use super::window::{Draft, Slotful, WINDOW, drafts};
use crate::base::limits::{INLINE_COMMIT_LEN_MAX, SNAPSHOT_PENDING_LEN, SNAPSHOT_STREAMED_LEN};
use crate::base::{ChunkId, Digest, Error, Ino, Result};
use crate::chunk::PutKind;
use crate::engine::Engine;
use crate::engine::types::Progress;
use crate::format::keys;
use crate::format::node::{Body, DirBody, DirChild, Entry, Node};
use crate::format::rows::{Kind, Op, SnapDirRow, SnapFileRow, SnapshotRow, Table, encode_counter};
use crate::format::superblock::FEATURE_SPLIT_NODES;
use crate::hash::{self, RootRecord};
use crate::meta::{Index, Rows, View};

/// Changed entries of a directory that are worked on in parallel.
const PAGE: usize = 256;
/// Memory of a row that waits for its commit, beside what it consists of.
const ROW_LEN: usize = 128;

/// Nodes and rows on their way into the store, in commits of about [`SNAPSHOT_PENDING_LEN`] bytes.
///
/// Only the last commit makes a snapshot of them, and only it deletes the dirty rows. If it never comes,
/// nodes are chunks that nothing refers to, and rows of directories and files tell of a later state than the
/// last snapshot's: all that has changed since that one is still dirty, and is brought up to date again.
struct Sink<'a> {
    engine: &'a Engine,
    progress: &'a (dyn Fn(Progress) + Sync),
    /// Held while chunks are stored, which iterates in parallel: so nothing is put from within a parallel
    /// iteration, where a thread that waits may be given work that wants the lock it has.
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    chunks: Vec<Vec<u8>>,
    ops: Vec<Op>,
    len: usize,
    /// Directories whose rows are among `ops`, with the roots of their tries.
    dirs: HashMap<Ino, (SnapDirRow, DirChild)>,
    /// Entries hashed so far, for progress.
    done: Progress,
}

impl NodeSink for &Sink<'_> {
    fn put(&mut self, node: &Node) -> Result<ChunkId> {
        let encoded = nodes::encode(node)?;
        encoded
            .chunks
            .into_iter()
            .try_for_each(|chunk| self.chunk(chunk))?;
        Ok(encoded.id)
    }
}

impl Sink<'_> {
    fn chunk(&self, chunk: Vec<u8>) -> Result<()> {
        let mut pending = self.pending.lock();
        pending.len += chunk.len();
        pending.chunks.push(chunk);
        self.flush_if_full(&mut pending)
    }

    /// Adds a row; what it names was put before.
    fn op(&self, op: Op) -> Result<()> {
        let mut pending = self.pending.lock();
        pending.len += ROW_LEN;
        pending.ops.push(op);
        self.flush_if_full(&mut pending)
    }

    fn dir(&self, dir: Ino, row: SnapDirRow, trie: DirChild) -> Result<()> {
        let mut pending = self.pending.lock();
        pending.dirs.insert(dir, (row, trie));
        pending.len += 3 * ROW_LEN;
        pending.ops.push(Op::Put(
            Table::SnapDir,
            keys::inode(dir).to_vec(),
            row.encode(),
        ));
        self.flush_if_full(&mut pending)
    }

    fn flush_if_full(&self, pending: &mut Pending) -> Result<()> {
        if pending.len < SNAPSHOT_PENDING_LEN {
            return Ok(());
        }
        let chunks = std::mem::take(&mut pending.chunks);
        let ops = std::mem::take(&mut pending.ops);
        pending.dirs.clear();
        pending.len = 0;
        self.engine.commit_nodes(&chunks, ops)
    }

    /// Stores the rest together with the rows that make it a snapshot.
    fn finish(self, ops: Vec<Op>) -> Result<()> {
        let mut pending = self.pending.into_inner();
        pending.ops.extend(ops);
        self.engine.commit_nodes(&pending.chunks, pending.ops)
    }

    fn count(&self, entry: &Entry) {
        let mut pending = self.pending.lock();
        pending.done.entries += 1;
        // Sparse files of exbibytes have more together than a number holds.
        pending.done.bytes = pending.done.bytes.saturating_add(entry.attrs.size);
    }

    fn report(&self) {
        let done = self.pending.lock().done;
        (self.progress)(done);
    }

    /// What the snapshot knows of a directory: as it was built, or as it was and is.
    fn known_dir(&self, source: &Source<'_>, changes: &Changes, dir: Ino) -> Result<KnownDir> {
        if let Some(known) = self.pending.lock().dirs.get(&dir) {
            return Ok(*known);
        }
        let key = keys::inode(dir);
        let row = if changes.dirs.contains_key(&dir) {
            self.engine.index().get(Table::SnapDir, &key)?
        } else {
            // Renamed, not changed.
            source.view.get(Table::SnapDir, &key)?
        };
        let row = row.ok_or(Error::Internal("a new directory was not visited"))?;
        let row = SnapDirRow::decode(&row)?;
        Ok((row, child_of(source.tree, row.trie)?))
    }
}

/// A directory's row and the root of its trie.
type KnownDir = (SnapDirRow, DirChild);

/// An entry of a directory, or what it is made of if that takes long and much memory.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are the large one, and few exist at a time"
)]
enum Done {
    Built(Built),
    Later(Box<Draft>),
}

/// Changed groups of entries of one directory.
struct DirGroups<'a> {
    source: &'a Source<'a>,
    changes: &'a Changes,
    dir: Ino,
    /// What was not yet looked at.
    slots: &'a [u64],
    window: std::vec::IntoIter<Slotful>,
    sink: &'a Sink<'a>,
}

/// The entries of a slot, and the chunks of the nodes of its files.
type GroupDone = (u64, Vec<Done>, Vec<Vec<u8>>);

impl Groups for DirGroups<'_> {
    fn next_page(&mut self) -> Result<Vec<Group>> {
        if self.window.len() == 0 {
            let (next, rest) = self.slots.split_at(self.slots.len().min(WINDOW));
            self.slots = rest;
            self.window = drafts(self.source, self.dir, next)?.into_iter();
        }
        let page: Vec<Slotful> = self.window.by_ref().take(PAGE).collect();
        let done: Vec<GroupDone> = page
            .into_par_iter()
            .map(|(slot, drafts)| {
                let mut chunks = Vec::new();
                let done = drafts.into_iter().map(|one| self.entry(one, &mut chunks));
                Ok((slot, done.collect::<Result<_>>()?, chunks))
            })
            .collect::<Result<_>>()?;
        let mut groups = Vec::with_capacity(done.len());
        for (slot, done, chunks) in done {
            for chunk in chunks {
                self.sink.chunk(chunk)?;
            }
            let entries = done.into_iter().map(|one| self.settle(one));
            let entries = entries.collect::<Result<_>>()?;
            groups.push(Group { slot, entries });
        }
        self.sink.report();
        Ok(groups)
    }
}

impl DirGroups<'_> {
    fn entry(&self, draft: Draft, chunks: &mut Vec<Vec<u8>>) -> Result<Done> {
        let (ino, row) = (draft.dirent.ino, &draft.row);
        if row.attrs.kind != Kind::Dir {
            if draft.small.is_none() && row.attrs.size > SNAPSHOT_STREAMED_LEN {
                return Ok(Done::Later(Box::new(draft)));
            }
            let mut put = |chunk| {
                chunks.push(chunk);
                Ok(())
            };
            return self.built(draft, &mut put).map(Done::Built);
        }
        let (snap, trie) = self.sink.known_dir(self.source, self.changes, ino)?;
        let xattrs = self.source.xattrs(ino, row)?;
        let body = dir_body(trie, snap.groups);
        let (content, full) = (snap.content, snap.full);
        let entry = new_entry(&draft.dirent.name, ino, row, xattrs, content, full, body);
        Ok(Done::Built(Built { entry, file: None }))
    }

    fn built(&self, draft: Draft, put: PutChunk<'_>) -> Result<Built> {
        let segments = self.changes.segments_of(draft.dirent.ino);
        self.source.entry(draft, segments, put)
    }

    /// Makes what was left for later, and the row that says which node a file has now.
    fn settle(&self, done: Done) -> Result<Entry> {
        let Built { entry, file } = match done {
            Done::Built(built) => built,
            Done::Later(draft) => self.built(*draft, &mut |chunk| self.sink.chunk(chunk))?,
        };
        self.sink.count(&entry);
        let key = keys::inode(entry.ino);
        if let Some(node) = file {
            let row = SnapFileRow { node }.encode();
            self.sink.op(Op::Put(Table::SnapFile, key.to_vec(), row))?;
        } else if entry.attrs.kind == Kind::File
            && self.source.view.get(Table::SnapFile, &key)?.is_some()
        {
            // It has no node of its own any more: what changes from now on is no change of that node.
            self.sink.op(Op::Del(Table::SnapFile, key.to_vec()))?;
        }
        Ok(entry)
    }
}

impl Engine {
    /// Stores chunks of nodes and rows in a commit of their own, between the others.
    pub(crate) fn commit_nodes(&self, chunks: &[Vec<u8>], ops: Vec<Op>) -> Result<()> {
        self.exclusive(|| {
            // Nobody looks after the packs of a store that is closed.
            if self.closed.load(Ordering::Acquire) {
                return Err(Error::Stale);
            }
            self.index().check_current()?;
            if nodes::has_split(chunks) {
                self.store.require_features(FEATURE_SPLIT_NODES)?;
            }
            let len: usize = chunks.iter().map(Vec::len).sum();
            let mut batch = self.store.begin(len as u64 <= INLINE_COMMIT_LEN_MAX)?;
            let pieces: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            self.store.put(&mut batch, PutKind::Node, &pieces)?;
            let durable = self.store.finish(batch, ops)?;
            self.apply_durable(&durable)
        })
    }

    /// Builds the snapshot of everything that is committed now; returns its row and stores it as `name`.
    pub(crate) fn build_snapshot(
        &self,
        name: &str,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<SnapshotRow> {
        let (generation, view) = self.close_generation()?;
        let tree = self.tree();
        let source = Source {
            view: &view,
            store: &self.store,
            tree: &tree,
        };
        let changes = Changes::collect(&source, generation)?;
        let sink = Sink {
            engine: self,
            progress,
            pending: Mutex::default(),
        };
        for dir in by_depth(&source, changes.dirs.keys().copied())? {
            self.build_dir(&source, &changes, dir, &sink)?;
        }
        for ino in &changes.gone {
            let key = keys::inode(*ino);
            sink.op(Op::Del(Table::SnapDir, key.to_vec()))?;
            sink.op(Op::Del(Table::SnapFile, key.to_vec()))?;
        }
        let row = self.root_row(&source, &changes, generation, &sink)?;
        let (from, to) = keys::dirty_range(0..generation + 1);
        let home = |(ino, home): &(Ino, Ino)| {
            let value = encode_counter(home.raw()).to_vec();
            Op::Put(Table::HardLink, keys::inode(*ino).to_vec(), value)
        };
        let mut ops: Vec<Op> = changes.group_dirs.iter().map(home).collect();
        ops.push(Op::Put(Table::Snapshot, keys::snapshot(name), row.encode()));
        ops.push(Op::DelRange(Table::Dirty, from, to));
        sink.finish(ops)?;
        Ok(row)
    }

    fn build_dir(
        &self,
        source: &Source<'_>,
        changes: &Changes,
        dir: Ino,
        sink: &Sink<'_>,
    ) -> Result<()> {
        let old = source.view.get(Table::SnapDir, &keys::inode(dir))?;
        let old = old.map(|row| SnapDirRow::decode(&row)).transpose()?;
        let slots = changes.dirs.get(&dir).map_or(&[][..], Vec::as_slice);
        let mut groups = DirGroups {
            source,
            changes,
            dir,
            slots,
            window: Vec::new().into_iter(),
            sink,
        };
        let old_trie = old.map(|row| child_of(source.tree, row.trie)).transpose()?;
        let trie = Update::new(source.tree, &mut groups, &mut &*sink).run(old_trie)?;
        let group_digest = changes
            .groups
            .get(&dir)
            .copied()
            .or(old.map(|row| row.groups))
            .unwrap_or_else(|| hash::groups_digest(&[]));
        let content = hash::dir_content(trie.count, trie.content);
        let full = if dir == Ino::ROOT {
            hash::root_dir_full(trie.count, trie.full, group_digest)
        } else {
            let row = source
                .inode(dir)?
                .ok_or(Error::Internal("a directory without its inode"))?;
            let xattrs = source.xattrs(dir, &row)?;
            let attrs = node_attrs(&row, &xattrs);
            hash::dir_full(trie.count, trie.full, &attrs, group_digest)
        };
        let row = SnapDirRow {
            trie: trie.node,
            content,
            groups: group_digest,
            full,
            count: trie.count,
            entries: trie.entries,
            bytes: trie.bytes,
        };
        sink.dir(dir, row, trie)
    }

    fn root_row(
        &self,
        source: &Source<'_>,
        changes: &Changes,
        generation: u64,
        mut sink: &Sink<'_>,
    ) -> Result<SnapshotRow> {
        let (dir, trie) = sink.known_dir(source, changes, Ino::ROOT)?;
        let row = source
            .inode(Ino::ROOT)?
            .ok_or(Error::Internal("no root directory"))?;
        let xattrs = source.xattrs(Ino::ROOT, &row)?;
        let body = Body::Dir(DirBody {
            trie,
            groups: dir.groups,
        });
        let entry: Entry = new_entry(b"", Ino::ROOT, &row, xattrs, dir.content, dir.full, body);
        let root = sink.put(&Node::Root(Box::new(entry)))?;
        let record = RootRecord {
            content: dir.content,
            full: dir.full,
        };
        Ok(SnapshotRow {
            seed: Digest::from_raw(*record.seed().as_bytes()),
            content: dir.content,
            root,
            created: self.env.now(),
            generation,
            entries: dir.entries,
            bytes: dir.bytes,
        })
    }

    /// Commits everything, and makes later changes count for the next snapshot; returns the generation that
    /// ends with it and the view of the tree that belongs to it: the same commit must be the last of both.
    fn close_generation(&self) -> Result<(u64, View<'_>)> {
        let index = self.index();
        if index.generation() >= u64::MAX - 1 {
            return Err(Error::Malformed {
                what: "counter of snapshots",
                detail: "there is no number left",
            });
        }
        self.commit_with(
            |index| vec![Index::set_generation_op(index.generation() + 1)],
            || (index.generation() - 1, index.view()),
        )
    }

    pub(crate) fn tree(&self) -> Tree<'_> {
        Tree {
            store: &self.store,
            cache: &self.nodes,
        }
    }
}
