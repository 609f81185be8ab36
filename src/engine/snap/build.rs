//! Taking a snapshot: from the dirty rows of a frozen view to new nodes, digests and one commit.

use std::collections::HashMap;

use rayon::prelude::*;

use super::dirty::{Changes, by_depth};
use super::entry::{Built, Source, dir_body, new_entry, node_attrs};
use super::tree::Tree;
use super::trie::{Group, Groups, NodeSink, Update, child_of};
use crate::base::{ChunkId, Digest, Error, Ino, Result, Slot};
use crate::chunk::PutKind;
use crate::engine::Engine;
use crate::engine::names::DISCRIMINATORS;
use crate::engine::types::Progress;
use crate::format::keys;
use crate::format::node::{Body, Entry, Node};
use crate::format::rows::{
    DirentRow, Kind, Op, SnapDirRow, SnapFileRow, SnapshotRow, Table, encode_counter,
};
use crate::hash::{self, RootRecord};
use crate::meta::{Index, Rows, View};

/// Changed entries of a directory that are worked on in parallel.
const PAGE: usize = 256;
/// Bytes of nodes that are gathered before they are stored.
const NODES_LEN: usize = 4 << 20;

/// Nodes on their way into the store, and the rows that the snapshot's commit will hold.
struct Sink<'a> {
    engine: &'a Engine,
    nodes: Vec<Vec<u8>>,
    len: usize,
    ops: Vec<Op>,
    /// Entries hashed so far, for progress.
    done: Progress,
}

impl NodeSink for Sink<'_> {
    fn put(&mut self, node: &Node) -> Result<ChunkId> {
        let bytes = node.encode();
        let id = hash::node_id(&bytes);
        self.len += bytes.len();
        self.nodes.push(bytes);
        if self.len >= NODES_LEN {
            self.flush()?;
        }
        Ok(id)
    }
}

impl Sink<'_> {
    /// Stores the nodes gathered so far in a commit of their own. If the snapshot is never finished, they are
    /// chunks that nothing refers to.
    fn flush(&mut self) -> Result<()> {
        let nodes = std::mem::take(&mut self.nodes);
        self.len = 0;
        if nodes.is_empty() {
            Ok(())
        } else {
            self.engine.commit_nodes(&nodes, Vec::new())
        }
    }
}

/// Changed groups of entries of one directory.
struct DirGroups<'a> {
    source: &'a Source<'a>,
    changes: &'a Changes,
    dirs: &'a HashMap<Ino, SnapDirRow>,
    dir: Ino,
    slots: std::slice::Iter<'a, u64>,
    sink_ops: Vec<Op>,
    nodes: Vec<Node>,
    progress: &'a (dyn Fn(Progress) + Sync),
    done: Progress,
}

impl Groups for DirGroups<'_> {
    fn next_page(&mut self) -> Result<Vec<Group>> {
        let slots: Vec<u64> = self.slots.by_ref().take(PAGE).copied().collect();
        let built: Vec<(u64, Vec<Built>)> = slots
            .into_par_iter()
            .map(|slot| Ok((slot, self.group(slot)?)))
            .collect::<Result<_>>()?;
        let mut groups = Vec::with_capacity(built.len());
        for (slot, built) in built {
            let mut entries = Vec::with_capacity(built.len());
            for one in built {
                let ino = one.entry.ino;
                self.done.entries += 1;
                self.done.bytes += one.entry.attrs.size;
                self.nodes.extend(one.nodes);
                if let Some(node) = one.file {
                    let row = SnapFileRow { node };
                    self.sink_ops.push(Op::Put(
                        Table::SnapFile,
                        keys::inode(ino).to_vec(),
                        row.encode(),
                    ));
                } else if one.entry.attrs.kind == Kind::File {
                    self.forget_file(ino)?;
                }
                entries.push(one.entry);
            }
            groups.push(Group { slot, entries });
        }
        (self.progress)(self.done);
        Ok(groups)
    }
}

impl DirGroups<'_> {
    /// Notes that a file has no node of its own any more: what changes from now on is no change of that node.
    fn forget_file(&mut self, ino: Ino) -> Result<()> {
        let key = keys::inode(ino);
        if self.source.view.get(Table::SnapFile, &key)?.is_some() {
            self.sink_ops.push(Op::Del(Table::SnapFile, key.to_vec()));
        }
        Ok(())
    }

    /// All entries whose names share the hash of `slot`.
    fn group(&self, slot: u64) -> Result<Vec<Built>> {
        let from = keys::dirent(self.dir, Slot::from_raw(slot));
        let to = keys::dirent(self.dir, Slot::from_raw(slot + DISCRIMINATORS));
        let rows = self.source.view.scan(
            Table::Dirent,
            &from,
            &to,
            usize::try_from(DISCRIMINATORS).unwrap_or(256),
        )?;
        rows.iter()
            .map(|(_, value)| self.entry(&DirentRow::decode(value)?))
            .collect()
    }

    fn entry(&self, dirent: &DirentRow) -> Result<Built> {
        let row = self
            .source
            .inode(dirent.ino)?
            .ok_or(Error::Internal("an entry without its inode"))?;
        if row.attrs.kind != Kind::Dir {
            return self.source.entry(
                &dirent.name,
                dirent.ino,
                &row,
                self.changes.segments.get(&dirent.ino),
            );
        }
        let snap = match self.dirs.get(&dirent.ino) {
            Some(snap) => *snap,
            // Renamed, not changed.
            None => {
                let snap = self
                    .source
                    .view
                    .get(Table::SnapDir, &keys::inode(dirent.ino))?;
                SnapDirRow::decode(
                    &snap.ok_or(Error::Internal("a new directory was not visited"))?,
                )?
            }
        };
        let trie = child_of(self.source.tree, snap.trie)?;
        let xattrs = self.source.xattrs(dirent.ino, &row)?;
        let body = dir_body(trie, snap.groups);
        let entry = new_entry(
            &dirent.name,
            dirent.ino,
            &row,
            xattrs,
            snap.content,
            snap.full,
            body,
        );
        Ok(Built {
            entry,
            nodes: Vec::new(),
            file: None,
        })
    }
}

impl Engine {
    /// Stores nodes and rows in a commit of their own, between the others.
    pub(crate) fn commit_nodes(&self, nodes: &[Vec<u8>], ops: Vec<Op>) -> Result<()> {
        self.exclusive(|| {
            self.index().check_current()?;
            let len: usize = nodes.iter().map(Vec::len).sum();
            let mut batch = self
                .store
                .begin(len as u64 <= crate::base::limits::INLINE_COMMIT_LEN_MAX)?;
            let pieces: Vec<&[u8]> = nodes.iter().map(Vec::as_slice).collect();
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
        let mut sink = Sink {
            engine: self,
            nodes: Vec::new(),
            len: 0,
            ops: Vec::new(),
            done: Progress::default(),
        };
        let mut dirs: HashMap<Ino, SnapDirRow> = HashMap::new();
        for dir in by_depth(&source, changes.dirs.keys().copied())? {
            let row = self.build_dir(&source, &changes, &dirs, dir, &mut sink, progress)?;
            sink.ops.push(Op::Put(
                Table::SnapDir,
                keys::inode(dir).to_vec(),
                row.encode(),
            ));
            dirs.insert(dir, row);
        }
        for ino in &changes.gone {
            sink.ops
                .push(Op::Del(Table::SnapDir, keys::inode(*ino).to_vec()));
            sink.ops
                .push(Op::Del(Table::SnapFile, keys::inode(*ino).to_vec()));
        }
        for (ino, home) in &changes.group_dirs {
            let value = encode_counter(home.raw()).to_vec();
            sink.ops
                .push(Op::Put(Table::HardLink, keys::inode(*ino).to_vec(), value));
        }
        let row = self.root_row(&source, &dirs, generation, &mut sink)?;
        sink.ops
            .push(Op::Put(Table::Snapshot, keys::snapshot(name), row.encode()));
        let (from, to) = keys::dirty_range(0..generation + 1);
        sink.ops.push(Op::DelRange(Table::Dirty, from, to));
        let (nodes, ops) = (
            std::mem::take(&mut sink.nodes),
            std::mem::take(&mut sink.ops),
        );
        self.commit_nodes(&nodes, ops)?;
        Ok(row)
    }

    fn build_dir(
        &self,
        source: &Source<'_>,
        changes: &Changes,
        dirs: &HashMap<Ino, SnapDirRow>,
        dir: Ino,
        sink: &mut Sink<'_>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<SnapDirRow> {
        let old = source.view.get(Table::SnapDir, &keys::inode(dir))?;
        let old = old.map(|row| SnapDirRow::decode(&row)).transpose()?;
        let slots = changes.dirs.get(&dir).map_or(&[][..], Vec::as_slice);
        let mut groups = DirGroups {
            source,
            changes,
            dirs,
            dir,
            slots: slots.iter(),
            sink_ops: Vec::new(),
            nodes: Vec::new(),
            progress,
            done: sink.done,
        };
        let old_trie = old.map(|row| child_of(source.tree, row.trie)).transpose()?;
        let trie = Update::new(source.tree, &mut groups, sink).run(old_trie)?;
        sink.done = groups.done;
        sink.ops.append(&mut groups.sink_ops);
        for node in std::mem::take(&mut groups.nodes) {
            sink.put(&node)?;
        }
        // The trie of this directory is read again when its parent's entry is built.
        sink.flush()?;
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
            hash::dir_full(
                trie.count,
                trie.full,
                &node_attrs(&row, &xattrs),
                group_digest,
            )
        };
        Ok(SnapDirRow {
            trie: trie.node,
            content,
            groups: group_digest,
            full,
            count: trie.count,
            entries: trie.entries,
            bytes: trie.bytes,
        })
    }

    fn root_row(
        &self,
        source: &Source<'_>,
        dirs: &HashMap<Ino, SnapDirRow>,
        generation: u64,
        sink: &mut Sink<'_>,
    ) -> Result<SnapshotRow> {
        let dir = match dirs.get(&Ino::ROOT) {
            Some(row) => *row,
            None => {
                let row = source.view.get(Table::SnapDir, &keys::inode(Ino::ROOT))?;
                SnapDirRow::decode(&row.ok_or(Error::Internal("the root was not visited"))?)?
            }
        };
        let row = source
            .inode(Ino::ROOT)?
            .ok_or(Error::Internal("no root directory"))?;
        let xattrs = source.xattrs(Ino::ROOT, &row)?;
        let body = Body::Dir(crate::format::node::DirBody {
            trie: child_of(source.tree, dir.trie)?,
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
