//! Making the live tree equal to a snapshot.
//!
//! 1. Both trees are walked together. A directory below which nothing has changed since the newest
//!    snapshot, and whose entries were in that snapshot what they are to be (the same node), is passed by.
//! 2. In each directory first goes what is not in the snapshot, then comes what is missing: an inode of
//!    the snapshot that still lives gets its name back, any other is made anew (I4) with references to the
//!    snapshot's chunks, so nothing is copied. Attributes come last.
//! 3. No commit runs meanwhile until [`ROLLBACK_STEP_LEN`] of metadata is pending. So a rollback that fits
//!    is one commit: after a crash the tree is either the old one or the snapshot. A larger one is several,
//!    and a crash between them leaves a tree that is partly the one and partly the other, each file whole
//!    or, if it has more than a segment of 64 MiB, changed up to some segment; rolling back again finishes it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::dirty::Changes;
use super::entry::{Source, joined};
use super::tree::{Quota, Tree};
use crate::base::limits::{ROLLBACK_STEP_LEN, SEGMENT_LEN};
use crate::base::{Error, Ino, Result, Slot};
use crate::engine::Engine;
use crate::engine::ops::{Source as Bytes, file_kind, piece_of, resize};
use crate::engine::types::{Caller, FileKind, NewNode};
use crate::format::keys;
use crate::format::node::{Body, Entry};
use crate::format::rows::{
    Attrs, DirentRow, ExtentRow, FLAG_APPEND, FLAG_HAS_XATTRS, FLAG_IMMUTABLE, Kind, SnapDirRow,
    Table,
};
use crate::meta::{Rows, for_each_row};

/// Entries of a directory that are read at a time.
const PAGE: usize = 256;

/// Something left to do; the last one comes first.
enum Step {
    /// Makes the entries and attributes of a directory those of the snapshot.
    Dir(Ino, Arc<Entry>),
    /// Removes what is not in the snapshot from the slots after this one.
    Sweep(Ino, Arc<Entry>, u64),
    /// Makes what comes after this cookie in the snapshot.
    Fill(Ino, Arc<Entry>, u64),
    /// Makes one entry.
    Put(Ino, Arc<Entry>),
    /// Makes the bytes of a file from this offset on those of the snapshot.
    Bytes(Ino, Arc<Entry>, u64),
    /// Sets attributes.
    Attributes(Ino, Arc<Entry>),
    /// Removes a directory and everything below it.
    Remove(Ino, Vec<u8>, Ino),
}

struct Rollback<'a> {
    engine: &'a Engine,
    /// Directories below which something has changed since the newest snapshot.
    changed: HashSet<Ino>,
    steps: Vec<Step>,
    /// Inodes that were made anew for inodes of the snapshot with several names.
    made: HashMap<Ino, Ino>,
    /// Directories that are being removed: one that is met again lies below itself.
    removing: HashSet<Ino>,
    /// Entries of the snapshot that are left to come.
    quota: Quota,
    /// Memory of references to chunks since the last commit; the engine counts the rest.
    pieces_len: u64,
}

impl Engine {
    /// Makes the live tree equal to a snapshot and commits that.
    ///
    /// Modes, owners, times of change, extended attributes, hard links and inode flags are those of the
    /// snapshot; ctimes say when it was done. Inodes that are gone come back with other numbers. Costs what
    /// differs. If it fails or the machine stops in between, see the top of this file: rolling back again
    /// is always possible.
    ///
    /// # Errors
    /// [`Error::Busy`] while files are open: the store must not be mounted. Those of [`Engine::resolve`],
    /// damage of the snapshot's nodes, and those of the commit.
    pub fn rollback(&self, text: &str) -> Result<()> {
        self.check_writable()?;
        let _one = self.snapshots.lock();
        if self.handles.is_any_open() {
            return Err(Error::Busy("files of the store are open"));
        }
        let (_, row) = self.resolve_row(text)?;
        let root = Arc::new(self.tree().checked_root(&row)?);
        self.commit()?;
        let mut rollback = Rollback {
            engine: self,
            changed: self.changed_dirs()?,
            quota: Quota::of(Tree::dir(&root)?),
            steps: vec![Step::Dir(Ino::ROOT, root)],
            made: HashMap::new(),
            removing: HashSet::new(),
            pieces_len: 0,
        };
        while !rollback.steps.is_empty() {
            // No commit falls into a slice: it is durable as a whole or not at all.
            self.exclusive(|| rollback.slice())?;
            self.commit()?;
        }
        Ok(())
    }

    /// The directories with a change somewhere below them since the newest snapshot, as committed.
    fn changed_dirs(&self) -> Result<HashSet<Ino>> {
        let view = self.index().view();
        let tree = self.tree();
        let source = Source {
            view: &view,
            store: &self.store,
            tree: &tree,
        };
        let changes = Changes::collect(&source, self.index().generation())?;
        Ok(changes.dirs.into_keys().collect())
    }
}

impl Rollback<'_> {
    /// Works until nothing is left or enough is pending for a commit.
    fn slice(&mut self) -> Result<()> {
        self.pieces_len = 0;
        while let Some(step) = self.steps.pop() {
            match step {
                Step::Dir(ino, entry) => self.dir(ino, &entry)?,
                Step::Sweep(dir, entry, after) => self.sweep(dir, &entry, after)?,
                Step::Fill(dir, entry, after) => self.fill(dir, &entry, after)?,
                Step::Put(dir, entry) => self.put(dir, &entry)?,
                Step::Bytes(ino, entry, at) => self.bytes(ino, &entry, at)?,
                Step::Attributes(ino, entry) => self.attributes(ino, &entry)?,
                Step::Remove(dir, name, ino) => self.remove(dir, &name, ino)?,
            }
            if self.engine.live.pending_bytes() + self.pieces_len >= ROLLBACK_STEP_LEN {
                break;
            }
        }
        Ok(())
    }

    fn dir(&mut self, ino: Ino, entry: &Arc<Entry>) -> Result<()> {
        self.steps.push(Step::Attributes(ino, Arc::clone(entry)));
        if !self.changed.contains(&ino)
            && let Some(row) = self.engine.live.get(Table::SnapDir, &keys::inode(ino))?
            && SnapDirRow::decode(&row)?.trie == Tree::dir(entry)?.trie.node
        {
            return Ok(());
        }
        self.unprotect(ino)?;
        self.steps.push(Step::Fill(ino, Arc::clone(entry), 0));
        self.steps.push(Step::Sweep(ino, Arc::clone(entry), 0));
        Ok(())
    }

    /// A page of the entries of a live directory.
    fn page(&self, dir: Ino, after: u64) -> Result<Vec<(Slot, DirentRow)>> {
        let from = keys::dirent(dir, Slot::from_raw(after + 1));
        let (_, to) = keys::ino_range(dir);
        let rows = self.engine.live.scan(Table::Dirent, &from, &to, PAGE)?;
        rows.iter()
            .map(|(key, value)| Ok((keys::parse_dirent(key)?.1, DirentRow::decode(value)?)))
            .collect()
    }

    fn sweep(&mut self, dir: Ino, entry: &Arc<Entry>, after: u64) -> Result<()> {
        let page = self.page(dir, after)?;
        if page.len() == PAGE
            && let Some((last, _)) = page.last()
        {
            let next = Step::Sweep(dir, Arc::clone(entry), last.raw());
            self.steps.push(next);
        }
        for (_, row) in page {
            let wanted = self.engine.tree().lookup(Tree::dir(entry)?, &row.name)?;
            let stays = wanted.is_some_and(|wanted| {
                wanted.attrs.kind == row.kind && (row.kind == Kind::Dir || wanted.ino == row.ino)
            });
            if !stays {
                self.drop_entry(dir, row)?;
            }
        }
        Ok(())
    }

    /// Removes an entry of a live directory, now or, if it is a directory, as the next steps.
    fn drop_entry(&mut self, dir: Ino, row: DirentRow) -> Result<()> {
        if row.kind == Kind::Dir {
            if !self.removing.insert(row.ino) {
                return Err(Error::Malformed {
                    what: "directory",
                    detail: "it lies below itself or has two names",
                });
            }
            self.steps.push(Step::Remove(dir, row.name, row.ino));
            return Ok(());
        }
        self.unprotect(row.ino)?;
        self.engine.unlink(dir, &row.name)?;
        self.engine.forget(row.ino, 1);
        Ok(())
    }

    fn remove(&mut self, dir: Ino, name: &[u8], ino: Ino) -> Result<()> {
        self.unprotect(ino)?;
        let page = self.page(ino, 0)?;
        if page.is_empty() {
            self.engine.rmdir(dir, name)?;
            self.engine.forget(ino, 1);
            self.removing.remove(&ino);
            return Ok(());
        }
        self.steps.push(Step::Remove(dir, name.to_vec(), ino));
        for (_, row) in page {
            self.drop_entry(ino, row)?;
        }
        Ok(())
    }

    fn fill(&mut self, dir: Ino, entry: &Arc<Entry>, after: u64) -> Result<()> {
        let mut page = Vec::new();
        let mut last = after;
        let body = Tree::dir(entry)?;
        self.engine
            .tree()
            .for_each_after(body, after, &mut |cookie, child| {
                page.push(Arc::new(child.clone()));
                last = cookie;
                Ok(page.len() < PAGE)
            })?;
        self.quota.take(page.len())?;
        if page.len() == PAGE {
            self.steps.push(Step::Fill(dir, Arc::clone(entry), last));
        }
        self.steps
            .extend(page.into_iter().map(|child| Step::Put(dir, child)));
        Ok(())
    }

    fn put(&mut self, dir: Ino, entry: &Arc<Entry>) -> Result<()> {
        let ino = match self.engine.find(dir, &entry.name)? {
            Some((_, row)) => row.ino,
            None => self.give_name(dir, entry)?,
        };
        let step = match entry.attrs.kind {
            Kind::Dir => Step::Dir(ino, Arc::clone(entry)),
            Kind::File => {
                self.attributes(ino, entry)?;
                Step::Bytes(ino, Arc::clone(entry), 0)
            }
            _ => Step::Attributes(ino, Arc::clone(entry)),
        };
        self.steps.push(step);
        Ok(())
    }

    /// Makes a name that is missing; returns the inode.
    fn give_name(&mut self, dir: Ino, entry: &Entry) -> Result<Ino> {
        if entry.attrs.kind != Kind::Dir {
            let known = [Some(entry.ino), self.made.get(&entry.ino).copied()];
            for ino in known.into_iter().flatten() {
                if self.is_alive(ino, entry.attrs.kind)? {
                    self.unprotect(ino)?;
                    self.engine.link(ino, dir, &entry.name)?;
                    return Ok(ino);
                }
            }
        }
        let caller = Caller::default();
        let stat = match &entry.body {
            Body::Symlink(target) => self.engine.symlink(&caller, dir, &entry.name, target)?,
            _ => {
                let new = NewNode {
                    kind: file_kind(entry.attrs.kind),
                    mode: entry.attrs.mode,
                    umask: 0,
                    rdev: (entry.attrs.rdev_major, entry.attrs.rdev_minor),
                };
                debug_assert_ne!(new.kind, FileKind::Symlink);
                self.engine.mknod(&caller, dir, &entry.name, &new)?
            }
        };
        if entry.attrs.kind != Kind::Dir && entry.nlink > 1 {
            self.made.insert(entry.ino, stat.ino);
        }
        Ok(stat.ino)
    }

    /// Whether an inode has a name. One of another kind is another one: numbers are never used again (I4), but a
    /// snapshot from elsewhere may name any.
    fn is_alive(&self, ino: Ino, kind: Kind) -> Result<bool> {
        match self.engine.inode(ino) {
            Ok(inode) => {
                let state = inode.state.read();
                Ok(!state.gone && state.row.nlink > 0 && state.row.attrs.kind == kind)
            }
            Err(Error::Stale) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Takes the flags off that forbid changes; [`Self::attributes`] sets those of the snapshot.
    fn unprotect(&self, ino: Ino) -> Result<()> {
        const FLAGS: u32 = FLAG_IMMUTABLE | FLAG_APPEND;
        let inode = self.engine.inode(ino)?;
        let mut guard = inode.write();
        if guard.row.attrs.flags & FLAGS != 0 {
            guard.row.attrs.flags &= !FLAGS;
            let mut change = self.engine.change();
            change.put_inode(&inode, &guard);
            change.apply();
        }
        Ok(())
    }

    /// Sets attributes, extended attributes and the size of a file.
    fn attributes(&self, ino: Ino, entry: &Entry) -> Result<()> {
        let engine = self.engine;
        let inode = engine.inode(ino)?;
        let mut guard = inode.write();
        if guard.row.attrs.kind != entry.attrs.kind {
            return Err(Error::Malformed {
                what: "directory entry",
                detail: "its inode is of another kind",
            });
        }
        let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        if guard.row.attrs.flags & FLAG_HAS_XATTRS != 0 {
            let (from, to) = keys::ino_range(ino);
            for_each_row(&engine.live, Table::Xattr, &from, &to, &mut |key, value| {
                xattrs.push((keys::parse_xattr(key)?.1.to_vec(), value.to_vec()));
                Ok(true)
            })?;
        }
        let wanted = wanted_attrs(&guard.row.attrs, entry);
        if wanted == guard.row.attrs && xattrs == entry.xattrs {
            return Ok(());
        }
        let now = engine.env.now();
        let mut change = engine.change();
        for (name, _) in &xattrs {
            if !entry.xattrs.iter().any(|(kept, _)| kept == name) {
                change.set_xattr(ino, name, None);
            }
        }
        for (name, value) in entry
            .xattrs
            .iter()
            .filter(|wanted| !xattrs.contains(wanted))
        {
            change.set_xattr(ino, name, Some(value));
        }
        if wanted.size != guard.row.attrs.size {
            resize(&change, &inode, &mut guard, wanted.size, now);
        }
        guard.row.attrs = Attrs {
            ctime: now,
            ..wanted
        };
        change.put_inode(&inode, &guard);
        change.apply();
        Ok(())
    }

    /// Makes the next segment that has extents in either tree that of the snapshot.
    fn bytes(&mut self, ino: Ino, entry: &Arc<Entry>, at: u64) -> Result<()> {
        let size = entry.attrs.size;
        let tree = self.engine.tree();
        let wanted = tree.segments(entry)?;
        let first = wanted.partition_point(|idx| *idx < at / SEGMENT_LEN);
        let start = match (wanted.get(first), self.next_data(ino, at..size)?) {
            (None, None) => return Ok(()),
            (Some(idx), None) => *idx,
            (None, Some(off)) => off / SEGMENT_LEN,
            (Some(idx), Some(off)) => (*idx).min(off / SEGMENT_LEN),
        }
        .saturating_mul(SEGMENT_LEN);
        let range = start..start.saturating_add(SEGMENT_LEN).min(size);
        if range.is_empty() {
            return Ok(());
        }
        if range.end < size {
            self.steps
                .push(Step::Bytes(ino, Arc::clone(entry), range.end));
        }
        let extents = tree.extents(entry, range.clone())?;
        if self.is_mapped(ino, range.clone(), &extents)? {
            return Ok(());
        }
        let inode = self.engine.inode(ino)?;
        let guard = inode.write();
        let mut change = self.engine.change();
        change.punch(&inode, range);
        let pieces: Vec<_> = extents.iter().map(|(off, e)| (*off, piece_of(e))).collect();
        // A piece, its place in the layer, and the row that it becomes.
        self.pieces_len += pieces.len() as u64 * 160;
        change.put_pieces(&inode, pieces);
        // With the inode's row the commit settles how much is mapped.
        change.put_inode(&inode, &guard);
        change.apply();
        Ok(())
    }

    /// The first offset in a range of a live file that is not in a hole.
    fn next_data(&self, ino: Ino, range: Range<u64>) -> Result<Option<u64>> {
        let inode = self.engine.inode(ino)?;
        let _state = inode.state.read();
        let mut found = None;
        self.engine.map_range(&inode, range, &mut |off, _, bytes| {
            if bytes != Bytes::Hole {
                found = Some(off);
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    }

    /// Whether a range of a live file consists of these extents.
    fn is_mapped(&self, ino: Ino, range: Range<u64>, extents: &[(u64, ExtentRow)]) -> Result<bool> {
        let inode = self.engine.inode(ino)?;
        let _state = inode.state.read();
        let mut found: Vec<(u64, ExtentRow)> = Vec::new();
        let mut is_stored = true;
        self.engine
            .map_range(&inode, range, &mut |off, len, bytes| {
                match (bytes, u32::try_from(len)) {
                    (Bytes::Hole, _) => {}
                    (Bytes::Chunk(chunk, chunk_off), Ok(len)) => {
                        let extent = ExtentRow {
                            len,
                            chunk,
                            chunk_off,
                        };
                        found.push((off, extent));
                    }
                    _ => is_stored = false,
                }
                Ok(is_stored)
            })?;
        Ok(is_stored && joined(&found) == joined(extents))
    }
}

/// The attributes that an inode is to have; what its entries, its making and its kind say stays.
fn wanted_attrs(live: &Attrs, entry: &Entry) -> Attrs {
    let has_xattrs = if entry.xattrs.is_empty() {
        0
    } else {
        FLAG_HAS_XATTRS
    };
    Attrs {
        flags: entry.attrs.flags & !FLAG_HAS_XATTRS | has_xattrs,
        size: match entry.attrs.kind {
            Kind::File => entry.attrs.size,
            _ => live.size,
        },
        ctime: live.ctime,
        btime: live.btime,
        ..entry.attrs
    }
}
