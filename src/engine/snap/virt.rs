//! The read-only trees beside the live one: `.mmhfs`, `.mmhfs/snapshots`, and every snapshot in it.
//!
//! Their inode numbers have bit 63 set, then 15 bits for the snapshot and 48 for the inode number that the
//! entry had in the live tree. Entries are remembered from the lookup that made their number known until
//! the kernel forgets them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::tree::Tree;
use crate::base::limits::INO_MAX;
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
    /// It was deleted and nothing of it was open when its space was given back.
    gone: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Roots of snapshots; the index is the number within inode numbers, from 1 on.
    roots: Vec<Root>,
    known: HashMap<Ino, Known>,
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

    /// The inode number of the root of a snapshot.
    pub(crate) fn virtual_root(&self, _name: &str, row: &SnapshotRow) -> Result<Ino> {
        let mut state = self.virtuals.state.lock();
        let known = |root: &Root| root.row.root == row.root && !root.gone;
        if let Some(at) = state.roots.iter().position(known) {
            return Ok(virtual_ino(at + 1, Ino::ROOT));
        }
        if state.roots.len() >= (1 << 15) - 1 {
            return Err(Error::Busy("too many snapshots are open"));
        }
        drop(state);
        let entry = Arc::new(self.tree().root(row)?);
        state = self.virtuals.state.lock();
        state.roots.push(Root {
            row: row.clone(),
            entry,
            gone: false,
        });
        Ok(virtual_ino(state.roots.len(), Ino::ROOT))
    }

    /// The root nodes of snapshots of which something is open: what is below them is live, deleted or not. A
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
            } else if !named.contains(&root.row.root) {
                root.gone = true;
            }
        }
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
            let (name, row) = found.ok_or(Error::NotFound)?;
            let ino = self.virtual_root(name, row)?;
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
        if let Some(known) = state.known.get_mut(&ino) {
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
            let taken = each(item, stat);
            if !taken && !dots {
                self.virtual_forget(child, 1);
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
                let ino = self.virtual_root(&name, &row)?;
                if !each(
                    DirItem {
                        ino,
                        kind: FileKind::Dir,
                        name: name.into_bytes(),
                        cookie,
                    },
                    None,
                ) {
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
        for (start, extent) in self.tree().extents(&entry, at..size)? {
            match seek {
                Seek::Data => return Ok(FileOff::from_raw(start)),
                Seek::Hole if start > at => return Ok(FileOff::from_raw(at)),
                Seek::Hole => at = start + u64::from(extent.len),
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
