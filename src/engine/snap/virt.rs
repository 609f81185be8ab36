//! The read-only trees beside the live one: `.mmhfs`, `.mmhfs/snapshots`, and every snapshot in it.
//!
//! Their inode numbers have bit 63 set, then 15 bits for the snapshot and 48 for the inode number that the
//! entry had in the live tree. Entries are remembered from the lookup that made their number known until
//! the kernel forgets them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::tree::Tree;
use crate::base::limits::{INO_MAX, SEGMENT_LEN, VIRTUAL_ROOTS_MAX};
use crate::base::{ChunkId, Error, FileOff, Ino, Result, Timestamp};
use crate::engine::Engine;
use crate::engine::names::is_reserved;
use crate::engine::ops::{file_kind, ioctl_flags};
use crate::engine::types::{DirItem, FileKind, Seek, Stat};
use crate::format::node::{Body, Entry};
use crate::format::rows::{Kind, SnapshotRow};

const BIT: u64 = 1 << 63;
const INO_BITS: u32 = 48;
/// `.mmhfs`
const HOME: Ino = Ino::from_raw(BIT | 1);
/// `.mmhfs/snapshots`
const SNAPSHOTS: Ino = Ino::from_raw(BIT | 2);

/// An entry that the kernel knows.
#[derive(Debug)]
struct Known {
    entry: Arc<Entry>,
    parent: Ino,
    /// References of the kernel.
    lookups: u64,
}

/// A snapshot that has been looked at.
#[derive(Debug)]
struct Root {
    row: SnapshotRow,
    entry: Arc<Entry>,
    /// References of the kernel to the root directory.
    lookups: u64,
    /// It was deleted and nothing of it was open when its space was given back.
    gone: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Roots of snapshots; the index is the number within inode numbers, from 1 on.
    roots: Vec<Root>,
    known: HashMap<Ino, Known>,
}

impl State {
    /// The root of a snapshot that has been looked at before; takes references to it.
    fn find(&mut self, row: &SnapshotRow, references: u64) -> Option<Ino> {
        let mut roots = self.roots.iter_mut().enumerate();
        let (at, root) = roots.find(|(_, root)| root.row.root == row.root && !root.gone)?;
        root.lookups += references;
        Some(virtual_ino(at + 1, Ino::ROOT))
    }

    /// Gives a root a number: that of one that nobody knows any more if there are `most` already.
    fn place(
        &mut self,
        new: Root,
        most: usize,
        is_kept: &dyn Fn(usize, &Root) -> bool,
    ) -> Result<Ino> {
        if self.roots.len() < most {
            self.roots.push(new);
            return Ok(virtual_ino(self.roots.len(), Ino::ROOT));
        }
        let known: HashSet<usize> = self.known.keys().copied().map(number).collect();
        let mut roots = self.roots.iter_mut().enumerate();
        let unknown = roots.find(|(at, root)| {
            root.lookups == 0 && !known.contains(&(at + 1)) && !is_kept(at + 1, root)
        });
        let (at, root) = unknown.ok_or(Error::Busy("too many snapshots are open"))?;
        *root = new;
        Ok(virtual_ino(at + 1, Ino::ROOT))
    }

    /// The snapshot of which an inode is the root directory.
    fn root_of(&mut self, ino: Ino) -> Option<&mut Root> {
        let n = number(ino);
        let at = n
            .checked_sub(1)
            .filter(|_| ino == virtual_ino(n, Ino::ROOT))?;
        self.roots.get_mut(at)
    }
}

/// What is known of the virtual trees.
#[derive(Debug, Default)]
pub(crate) struct Virtual {
    state: Mutex<State>,
}

fn number(ino: Ino) -> usize {
    usize::try_from((ino.raw() & !BIT) >> INO_BITS).unwrap_or(0)
}

fn virtual_ino(number: usize, ino: Ino) -> Ino {
    Ino::from_raw(BIT | ((number as u64) << INO_BITS) | (ino.raw() & ((1 << INO_BITS) - 1)))
}

impl Engine {
    /// Whether an inode is of a read-only tree beside the live one. Snapshots do not change, but the list of
    /// snapshots does.
    #[must_use]
    pub fn is_virtual(&self, ino: Ino) -> bool {
        ino.raw() & BIT != 0
    }

    /// Whether what the kernel knows of an inode may become wrong without a change made through it.
    #[must_use]
    pub fn is_volatile(&self, ino: Ino) -> bool {
        ino == HOME || ino == SNAPSHOTS
    }

    pub(crate) fn refuse_virtual(&self, ino: Ino) -> Result<()> {
        if self.is_virtual(ino) {
            Err(Error::ReadOnly("snapshots cannot be changed"))
        } else {
            Ok(())
        }
    }

    /// The inode number of the root of a snapshot, to which `references` are taken.
    pub(crate) fn virtual_root(&self, row: &SnapshotRow, references: u64) -> Result<Ino> {
        if let Some(ino) = self.virtuals.state.lock().find(row, references) {
            return Ok(ino);
        }
        let entry = Arc::new(self.tree().root(row)?);
        let open: HashSet<usize> = self.handles.virtuals().map(number).collect();
        let mut state = self.virtuals.state.lock();
        if let Some(ino) = state.find(row, references) {
            return Ok(ino);
        }
        let new = Root {
            row: row.clone(),
            entry,
            lookups: references,
            gone: false,
        };
        let own = number(self.root);
        let is_kept = |n: usize, root: &Root| {
            n == own || open.contains(&n) || self.roots_in_use.contains(&root.row.root)
        };
        state.place(new, VIRTUAL_ROOTS_MAX, &is_kept)
    }

    /// The root nodes of snapshots of which something is open or in use: what is below them is live, deleted or not. A
    /// deleted one of which nothing is open cannot be read through the mount any more from here on.
    pub(crate) fn open_roots(&self) -> Result<Vec<ChunkId>> {
        let named: HashSet<ChunkId> = self
            .snapshot_rows()?
            .into_iter()
            .map(|(_, row)| row.root)
            .collect();
        let mut state = self.virtuals.state.lock();
        let open: HashSet<usize> = self.handles.virtuals().map(number).collect();
        let mut roots = Vec::new();
        for (at, root) in state.roots.iter_mut().enumerate() {
            if open.contains(&(at + 1)) && !root.gone {
                roots.push(root.row.root);
            } else if !named.contains(&root.row.root) && !self.roots_in_use.contains(&root.row.root)
            {
                root.gone = true;
            }
        }
        roots.extend(self.roots_in_use.all());
        Ok(roots)
    }

    fn virtual_entry(&self, ino: Ino) -> Result<Arc<Entry>> {
        let state = self.virtuals.state.lock();
        let n = number(ino);
        let root = n.checked_sub(1).and_then(|at| state.roots.get(at));
        let root = root.filter(|root| !root.gone).ok_or(Error::Stale)?;
        if ino == virtual_ino(n, Ino::ROOT) {
            return Ok(Arc::clone(&root.entry));
        }
        state
            .known
            .get(&ino)
            .map(|known| Arc::clone(&known.entry))
            .ok_or(Error::Stale)
    }

    fn virtual_parent(&self, ino: Ino) -> Ino {
        if ino == HOME {
            return Ino::ROOT;
        }
        if ino == SNAPSHOTS {
            return HOME;
        }
        if ino == virtual_ino(number(ino), Ino::ROOT) {
            return if ino == self.root { ino } else { SNAPSHOTS };
        }
        self.virtuals
            .state
            .lock()
            .known
            .get(&ino)
            .map_or(SNAPSHOTS, |known| known.parent)
    }

    /// Remembers an entry that the kernel comes to know.
    ///
    /// No digest covers the numbers of inodes: two entries may be one inode only if they are the same in all that digests
    /// cover, or one would be shown in the place of the other.
    fn learn(&self, parent: Ino, entry: &Entry) -> Result<Ino> {
        let ino = virtual_ino(number(parent), entry.ino);
        let mut state = self.virtuals.state.lock();
        let known = state.known.entry(ino).or_insert_with(|| Known {
            entry: Arc::new(entry.clone()),
            parent,
            lookups: 0,
        });
        let other = &known.entry;
        let is_same = (other.attrs.kind, other.content, other.full)
            == (entry.attrs.kind, entry.content, entry.full);
        if !is_same || entry.ino.raw() <= Ino::ROOT.raw() || entry.ino.raw() > INO_MAX {
            if known.lookups == 0 {
                state.known.remove(&ino);
            }
            return Err(Error::Malformed {
                what: "snapshot",
                detail: "two entries have one inode number",
            });
        }
        known.lookups += 1;
        Ok(ino)
    }

    pub(crate) fn virtual_lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Stat>> {
        if is_reserved(dir, name) {
            return Ok(Some(self.plain_dir(HOME)));
        }
        if !self.is_virtual(dir) {
            return Ok(None);
        }
        if name == b"." || name == b".." {
            let ino = if name == b"." {
                dir
            } else {
                self.virtual_parent(dir)
            };
            return self.getattr(ino).map(Some);
        }
        if dir == HOME {
            return if name == b"snapshots" {
                Ok(Some(self.plain_dir(SNAPSHOTS)))
            } else {
                Err(Error::NotFound)
            };
        }
        if dir == SNAPSHOTS {
            let rows = self.snapshot_rows()?;
            let found = rows.iter().find(|(n, _)| n.as_bytes() == name);
            let (_, row) = found.ok_or(Error::NotFound)?;
            let ino = self.virtual_root(row, 1)?;
            return self.virtual_getattr(ino);
        }
        let entry = self.virtual_entry(dir)?;
        let found = self
            .tree()
            .lookup(Tree::dir(&entry)?, name)?
            .ok_or(Error::NotFound)?;
        let ino = self.learn(dir, &found)?;
        Ok(Some(entry_stat(ino, &found)))
    }

    pub(crate) fn virtual_getattr(&self, ino: Ino) -> Result<Option<Stat>> {
        if !self.is_virtual(ino) {
            return Ok(None);
        }
        if ino == HOME || ino == SNAPSHOTS {
            return Ok(Some(self.plain_dir(ino)));
        }
        Ok(Some(entry_stat(ino, self.virtual_entry(ino)?.as_ref())))
    }

    pub(crate) fn virtual_readlink(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        if !self.is_virtual(ino) {
            return Ok(None);
        }
        if ino == HOME || ino == SNAPSHOTS {
            return Err(Error::Invalid("not a symbolic link"));
        }
        match &self.virtual_entry(ino)?.body {
            Body::Symlink(target) => Ok(Some(target.clone())),
            _ => Err(Error::Invalid("not a symbolic link")),
        }
    }

    /// Takes references back; `true` if the inode is of a virtual tree.
    pub(crate) fn virtual_forget(&self, ino: Ino, count: u64) -> bool {
        if !self.is_virtual(ino) {
            return false;
        }
        let mut state = self.virtuals.state.lock();
        if let Some(root) = state.root_of(ino) {
            root.lookups = root.lookups.saturating_sub(count);
        } else if let Some(known) = state.known.get_mut(&ino) {
            known.lookups = known.lookups.saturating_sub(count);
            if known.lookups == 0 {
                state.known.remove(&ino);
            }
        }
        true
    }

    pub(crate) fn virtual_readdir(
        &self,
        ino: Ino,
        after: u64,
        each: &mut dyn FnMut(DirItem) -> bool,
    ) -> Result<()> {
        self.virtual_list(ino, after, &mut |item, _| each(item))
    }

    pub(crate) fn virtual_readdirplus(
        &self,
        ino: Ino,
        after: u64,
        each: &mut dyn FnMut(DirItem, Stat) -> bool,
    ) -> Result<()> {
        let mut failed = None;
        self.virtual_list(ino, after, &mut |item, entry| {
            let stat = match entry {
                Some(entry) => match self.learn(ino, entry) {
                    Ok(ino) => entry_stat(ino, entry),
                    Err(error) => {
                        failed = Some(error);
                        return false;
                    }
                },
                None => match self.getattr(item.ino) {
                    Ok(stat) => stat,
                    Err(_) => return true,
                },
            };
            let (child, dots) = (item.ino, entry.is_none());
            // The root of a snapshot, listed where the snapshots are: while it is listed it is kept.
            let is_root = ino == SNAPSHOTS && item.cookie > 2;
            let taken = each(item, stat);
            if !taken && !dots {
                self.virtual_forget(child, 1);
            }
            if taken
                && is_root
                && let Some(root) = self.virtuals.state.lock().root_of(child)
            {
                root.lookups += 1;
            }
            taken
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Lists a virtual directory; entries of snapshots come with what is known of them.
    fn virtual_list(
        &self,
        dir: Ino,
        after: u64,
        each: &mut dyn FnMut(DirItem, Option<&Entry>) -> bool,
    ) -> Result<()> {
        for (cookie, ino, name) in [(1, dir, &b"."[..]), (2, self.virtual_parent(dir), b"..")] {
            let item = DirItem {
                ino,
                kind: FileKind::Dir,
                name: name.to_vec(),
                cookie,
            };
            if after < cookie && !each(item, None) {
                return Ok(());
            }
        }
        if dir == HOME {
            let item = DirItem {
                ino: SNAPSHOTS,
                kind: FileKind::Dir,
                name: b"snapshots".to_vec(),
                cookie: 3,
            };
            if after < 3 {
                each(item, None);
            }
            return Ok(());
        }
        if dir == SNAPSHOTS {
            for (name, row) in self.snapshot_rows()? {
                // Generations ascend and are never used twice: a stable cookie.
                let cookie = row.generation.saturating_add(16);
                if cookie <= after {
                    continue;
                }
                let ino = self.virtual_root(&row, 1)?;
                let item = DirItem {
                    ino,
                    kind: FileKind::Dir,
                    name: name.into_bytes(),
                    cookie,
                };
                let more = each(item, None);
                self.virtual_forget(ino, 1);
                if !more {
                    return Ok(());
                }
            }
            return Ok(());
        }
        let entry = self.virtual_entry(dir)?;
        self.tree()
            .for_each_after(Tree::dir(&entry)?, after.max(2), &mut |cookie, child| {
                let ino = virtual_ino(number(dir), child.ino);
                let item = DirItem {
                    ino,
                    kind: file_kind(child.attrs.kind),
                    name: child.name.clone(),
                    cookie,
                };
                Ok(each(item, Some(child)))
            })
    }

    pub(crate) fn virtual_read(
        &self,
        ino: Ino,
        off: FileOff,
        len: usize,
        sink: &mut Vec<u8>,
    ) -> Result<()> {
        let entry = self.virtual_entry(ino)?;
        let end = off.raw().saturating_add(len as u64).min(entry.attrs.size);
        if entry.attrs.kind != Kind::File {
            return Err(Error::IsDirectory);
        }
        if off.raw() >= end {
            return Ok(());
        }
        let before = sink.len();
        let result = self.tree().read(&entry, off.raw()..end, sink);
        if let Err(error) = &result {
            sink.truncate(before);
            log::error!(
                "cannot read {} in a snapshot: {error}",
                String::from_utf8_lossy(&entry.name)
            );
        }
        result
    }

    pub(crate) fn virtual_lseek(&self, ino: Ino, off: FileOff, seek: Seek) -> Result<FileOff> {
        let entry = self.virtual_entry(ino)?;
        let size = entry.attrs.size;
        let mut at = off.raw();
        if at >= size {
            return Err(Error::PastEnd);
        }
        // Segment by segment: the first hit is most often near, and a file may have millions of extents.
        for segment in self.tree().segments(&entry)? {
            let end = segment
                .saturating_add(1)
                .saturating_mul(SEGMENT_LEN)
                .min(size);
            if end <= at {
                continue;
            }
            let from = at.max(segment.saturating_mul(SEGMENT_LEN));
            for (start, extent) in self.tree().extents(&entry, from..end)? {
                match seek {
                    Seek::Data => return Ok(FileOff::from_raw(start)),
                    Seek::Hole if start > at => return Ok(FileOff::from_raw(at)),
                    Seek::Hole => at = start + u64::from(extent.len),
                }
            }
        }
        match seek {
            Seek::Data => Err(Error::PastEnd),
            Seek::Hole => Ok(FileOff::from_raw(at)),
        }
    }

    pub(crate) fn virtual_getxattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        if !self.is_virtual(ino) {
            return Ok(None);
        }
        if ino == HOME || ino == SNAPSHOTS {
            return Err(Error::NoAttribute);
        }
        let entry = self.virtual_entry(ino)?;
        let found = entry.xattrs.iter().find(|(n, _)| n == name);
        found
            .map(|(_, value)| Some(value.clone()))
            .ok_or(Error::NoAttribute)
    }

    pub(crate) fn virtual_listxattr(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        if !self.is_virtual(ino) {
            return Ok(None);
        }
        if ino == HOME || ino == SNAPSHOTS {
            return Ok(Some(Vec::new()));
        }
        let entry = self.virtual_entry(ino)?;
        Ok(Some(
            entry
                .xattrs
                .iter()
                .flat_map(|(name, _)| name.iter().copied().chain([0]))
                .collect(),
        ))
    }

    /// The snapshot entry behind a virtual inode, for facts about its storage.
    pub(crate) fn snapshot_entry(&self, ino: Ino) -> Result<Arc<Entry>> {
        self.virtual_entry(ino)
    }

    fn plain_dir(&self, ino: Ino) -> Stat {
        let zero = Timestamp::default();
        Stat {
            ino,
            kind: FileKind::Dir,
            mode: 0o555,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            size: 0,
            blocks: 0,
            atime: zero,
            mtime: zero,
            ctime: zero,
            btime: zero,
            flags: 0,
        }
    }
}

/// Attributes of a snapshot's entry as `stat` shows them.
pub(crate) fn entry_stat(ino: Ino, entry: &Entry) -> Stat {
    let a = &entry.attrs;
    Stat {
        ino,
        kind: file_kind(a.kind),
        mode: a.mode,
        nlink: entry.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: (a.rdev_major, a.rdev_minor),
        size: a.size,
        blocks: entry.mapped.div_ceil(512),
        atime: a.atime,
        mtime: a.mtime,
        ctime: a.ctime,
        btime: a.btime,
        flags: ioctl_flags(a.flags),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;
    use crate::format::rows::Attrs;

    fn row(n: u8) -> SnapshotRow {
        SnapshotRow {
            seed: Digest::from_raw([n; 32]),
            content: Digest::from_raw([n; 32]),
            root: ChunkId::from_raw([n; 32]),
            generation: u64::from(n),
            created: Timestamp::default(),
            entries: 0,
            bytes: 0,
        }
    }

    fn place(state: &mut State, n: u8, lookups: u64, kept: usize) -> Result<Ino> {
        let zero = Timestamp::default();
        let attrs = Attrs {
            kind: Kind::Fifo,
            mode: 0,
            uid: 0,
            gid: 0,
            rdev_major: 0,
            rdev_minor: 0,
            flags: 0,
            size: 0,
            atime: zero,
            mtime: zero,
            ctime: zero,
            btime: zero,
        };
        let entry = Entry {
            name: Vec::new(),
            ino: Ino::ROOT,
            attrs,
            nlink: 1,
            mapped: 0,
            content: Digest::from_raw([0; 32]),
            full: Digest::from_raw([0; 32]),
            xattrs: Vec::new(),
            body: Body::Special,
        };
        let new = Root {
            row: row(n),
            entry: Arc::new(entry),
            lookups,
            gone: false,
        };
        state.place(new, 3, &|at, _| at == kept)
    }

    /// Bug: each snapshot that was ever looked at kept its number, and after 32,767 of them no other could be.
    #[test]
    fn the_number_of_a_snapshot_that_nobody_knows_is_given_out_again() {
        let mut state = State::default();
        for n in 1..=3 {
            let ino = place(&mut state, n, 1, 0).unwrap();
            assert_eq!(number(ino), usize::from(n));
        }
        assert!(matches!(place(&mut state, 4, 0, 0), Err(Error::Busy(_))));
        for n in 1..=2 {
            state.root_of(virtual_ino(n, Ino::ROOT)).unwrap().lookups = 0;
        }
        // Something is open in the first one.
        assert_eq!(number(place(&mut state, 4, 1, 1).unwrap()), 2);
        assert!(state.find(&row(2), 0).is_none());
        assert_eq!(state.find(&row(4), 0), Some(virtual_ino(2, Ino::ROOT)));
        assert_eq!(number(place(&mut state, 5, 1, 0).unwrap()), 1);
        assert!(matches!(place(&mut state, 6, 0, 0), Err(Error::Busy(_))));
        // Only the root's own numbers are those of the root.
        assert!(state.root_of(virtual_ino(2, Ino::from_raw(7))).is_none());
    }
}
