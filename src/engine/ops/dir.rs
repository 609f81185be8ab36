//! Listing directories.

use crate::base::{Error, Ino, Result, Slot};
use crate::engine::Engine;
use crate::engine::handles::Target;
use crate::engine::ops::attr::file_kind;
use crate::engine::types::{DirItem, FileKind, Handle, OpenHow, Stat};
use crate::format::keys;
use crate::format::rows::{DirentRow, InodeRow, Kind, Table};
use crate::meta::Rows;

/// Cookies of `.` and `..`; those of entries are their slots, which start at 256.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// Entries that are read at a time.
const PAGE: usize = 128;

impl Engine {
    /// Opens a directory.
    ///
    /// # Errors
    /// [`Error::NotDirectory`], [`Error::Stale`].
    pub fn opendir(&self, ino: Ino) -> Result<Handle> {
        let stat = self.getattr(ino)?;
        if stat.kind != FileKind::Dir {
            return Err(Error::NotDirectory);
        }
        let target = if self.is_virtual(ino) {
            Target::Virtual(ino)
        } else {
            Target::Live(self.inode(ino)?)
        };
        Ok(self.handles.open(
            target,
            OpenHow {
                read: true,
                ..OpenHow::default()
            },
        ))
    }

    /// Closes a directory.
    ///
    /// # Errors
    /// [`Error::Stale`] for an unknown handle.
    pub fn releasedir(&self, handle: Handle) -> Result<()> {
        self.release(handle)
    }

    /// Makes the entries of a directory durable.
    ///
    /// # Errors
    /// The error of the commit.
    pub fn fsyncdir(&self, handle: Handle) -> Result<()> {
        self.fsync(handle, false)
    }

    /// Calls `each` for the entries after `after` until it returns `false`.
    ///
    /// Entries come in the order of their slots, so an entry that is neither added nor removed meanwhile is
    /// seen exactly once whatever else changes.
    ///
    /// # Errors
    /// [`Error::Stale`] for an unknown handle.
    pub fn readdir(
        &self,
        handle: Handle,
        after: u64,
        each: &mut dyn FnMut(DirItem) -> bool,
    ) -> Result<()> {
        let open = self.handles.get(handle)?;
        let inode = match &open.target {
            Target::Virtual(ino) => return self.virtual_readdir(*ino, after, each),
            Target::Live(inode) => inode,
        };
        let parent = {
            let state = inode.state.read();
            if state.gone || state.row.nlink == 0 {
                return Ok(());
            }
            state.row.parent
        };
        for (cookie, ino, name) in [(DOT, inode.ino, &b"."[..]), (DOT_DOT, parent, b"..")] {
            let item = DirItem {
                ino,
                kind: FileKind::Dir,
                name: name.to_vec(),
                cookie,
            };
            if after < cookie && !each(item) {
                return Ok(());
            }
        }
        let to = keys::dirent(inode.ino, Slot::from_raw(u64::MAX));
        let mut at = after;
        loop {
            let from = keys::dirent(inode.ino, Slot::from_raw(at.saturating_add(1)));
            let page = {
                let _state = inode.state.read();
                self.live.scan(Table::Dirent, &from, &to, PAGE)?
            };
            for (key, value) in &page {
                let (_, slot) = keys::parse_dirent(key)?;
                let row = DirentRow::decode(value)?;
                at = slot.raw();
                if !each(DirItem {
                    ino: row.ino,
                    kind: file_kind(row.kind),
                    name: row.name,
                    cookie: at,
                }) {
                    return Ok(());
                }
            }
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// As [`Engine::readdir`], with the attributes of each entry.
    ///
    /// # Errors
    /// As [`Engine::readdir`].
    pub fn readdirplus(
        &self,
        handle: Handle,
        after: u64,
        each: &mut dyn FnMut(DirItem, Stat) -> bool,
    ) -> Result<()> {
        if let Target::Virtual(ino) = self.handles.get(handle)?.target {
            return self.virtual_readdirplus(ino, after, each);
        }
        let mut failed = None;
        self.readdir(handle, after, &mut |item| {
            match self.getattr(item.ino) {
                Ok(stat) => each(item, stat),
                // Removed since the page was read: it does not appear.
                Err(Error::Stale) => true,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// The parent of a directory of the live tree.
    pub(crate) fn parent_of(&self, dir: Ino) -> Result<Ino> {
        let row = self
            .live
            .get(Table::Inode, &keys::inode(dir))?
            .ok_or(Error::Stale)?;
        let row = InodeRow::decode(&row)?;
        if row.attrs.kind == Kind::Dir {
            Ok(row.parent)
        } else {
            Err(Error::NotDirectory)
        }
    }
}
