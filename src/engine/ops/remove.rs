//! Removing names, and inodes once nothing refers to them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::limits::SETTLE_STEP_LEN;
use crate::base::{Error, Ino, Result, Slot};
use crate::engine::Engine;
use crate::engine::change::ChangeSet;
use crate::engine::inode::{Inode, Locked, State};
use crate::engine::names::is_reserved;
use crate::engine::ops::create::check_dir;
use crate::format::keys;
use crate::format::rows::{DirentRow, FLAG_APPEND, FLAG_IMMUTABLE, Kind, Table};
use crate::meta::Rows;

impl Engine {
    /// Removes a name of something that is not a directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`], [`Error::NotPermitted`].
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.remove(dir, name, false)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::NotEmpty`], [`Error::NotPermitted`].
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.remove(dir, name, true)
    }

    fn remove(&self, dir: Ino, name: &[u8], want_dir: bool) -> Result<()> {
        self.refuse_virtual(dir)?;
        self.check_writable()?;
        if is_reserved(dir, name) {
            return Err(Error::NotPermitted("the directory of the snapshots"));
        }
        match name {
            b"." => return Err(Error::Invalid("'.' cannot be removed")),
            b".." => return Err(Error::NotEmpty),
            _ => {}
        }
        self.throttle_unless_full()?;
        let (mut locked, slot, row) = self.lock_entry(dir, name)?;
        check_dir(locked.get(dir)?.1, false)?;
        let (_, state) = locked.get(row.ino)?;
        match (want_dir, row.kind == Kind::Dir) {
            (true, false) => return Err(Error::NotDirectory),
            (false, true) => return Err(Error::IsDirectory),
            (true, true) if state.row.attrs.size > 0 => return Err(Error::NotEmpty),
            _ => {}
        }
        if state.row.attrs.flags & (FLAG_IMMUTABLE | FLAG_APPEND) != 0 {
            return Err(Error::NotPermitted("immutable or append-only"));
        }
        let now = self.env.now();
        let mut change = self.change();
        change.del_entry(dir, slot, row.ino);
        let (inode, state) = locked.get(row.ino)?;
        state.row.attrs.ctime = now;
        self.drop_name(&mut change, inode, state);
        let (parent, state) = locked.get(dir)?;
        state.row.attrs.size = state.row.attrs.size.saturating_sub(1);
        state.row.attrs.mtime = now;
        state.row.attrs.ctime = now;
        if row.kind == Kind::Dir {
            state.row.nlink = state.row.nlink.saturating_sub(1);
        }
        change.put_inode(parent, state);
        change.apply();
        Ok(())
    }

    /// As [`Engine::throttle`], but a full disk does not keep anybody from deleting: that is the way out. Only memory does.
    fn throttle_unless_full(&self) -> Result<()> {
        match self.throttle() {
            Err(Error::NoSpace) if self.live.pending_bytes() < self.bounds.meta_most => Ok(()),
            other => other,
        }
    }

    /// Locks a directory and the inode of its entry `name`, in order, whatever happens meanwhile.
    pub(crate) fn lock_entry(&self, dir: Ino, name: &[u8]) -> Result<(Locked, Slot, DirentRow)> {
        let parent = self.inode(dir)?;
        let mut missing = None;
        loop {
            let (_, row) = {
                let _state = parent.state.read();
                self.find(dir, name)?.ok_or(Error::NotFound)?
            };
            let child = match self.inode(row.ino) {
                Err(Error::Stale) if missing == Some(row.ino) => return Err(dangling()),
                Err(Error::Stale) => {
                    missing = Some(row.ino);
                    continue;
                }
                other => other?,
            };
            let mut locked = Locked::new([Arc::clone(&parent), child]);
            match self.find(dir, name)? {
                Some((slot, now)) if now.ino == row.ino => {
                    check_kind(&mut locked, &now)?;
                    return Ok((locked, slot, now));
                }
                Some(_) => {}
                None => return Err(Error::NotFound),
            }
        }
    }

    /// Takes one name from an inode whose entry was removed in this change; without names and handles its
    /// rows go too.
    pub(crate) fn drop_name(
        &self,
        change: &mut ChangeSet<'_>,
        inode: &Arc<Inode>,
        state: &mut State,
    ) {
        let left = match state.row.attrs.kind {
            Kind::Dir => 0,
            _ => state.row.nlink.saturating_sub(1),
        };
        state.row.nlink = left;
        if left > 0 {
            change.put_inode(inode, state);
            return;
        }
        // The kernel still knows the inode and may have it open. It stays until the kernel forgets it, and
        // does not survive a crash: opening a store removes orphans.
        change.put_inode(inode, state);
        change.set_orphan(inode.ino, true);
        self.orphans.lock().insert(inode.ino, false);
    }

    /// The kernel has dropped its `count` references to an inode, all that it had: the inode goes if it has no name,
    /// at once or with its last handle.
    pub fn forget(&self, ino: Ino, count: u64) {
        if self.virtual_forget(ino, count) {
            return;
        }
        let is_orphan = match self.orphans.lock().get_mut(&ino) {
            Some(forgotten) => {
                *forgotten = true;
                true
            }
            None => false,
        };
        if is_orphan && let Ok(inode) = self.inode(ino) {
            self.reap(&inode);
        }
    }

    /// Removes an inode whose handle was closed, unless it has a name or may be opened again: by somebody who
    /// refers to it without having it open (`O_PATH`).
    pub(crate) fn reap_closed(&self, inode: &Arc<Inode>) {
        if self.orphans.lock().get(&inode.ino) == Some(&true) {
            self.reap(inode);
        }
    }

    /// Removes an inode without names once nothing has it open.
    pub(crate) fn reap(&self, inode: &Arc<Inode>) {
        let mut guard = inode.write();
        if guard.gone || guard.row.nlink > 0 || inode.opens.load(Ordering::Acquire) > 0 {
            return;
        }
        let mut change = self.change();
        change.set_orphan(inode.ino, false);
        change.del_inode(inode, &mut guard);
        change.apply();
        self.orphans.lock().remove(&inode.ino);
        self.inodes.remove(inode.ino);
    }

    /// Commits what opening a store has changed so far, once that is enough.
    pub(crate) fn settle_step(&self) -> Result<()> {
        if self.live.active_bytes() >= SETTLE_STEP_LEN {
            self.settle_commit()
        } else {
            Ok(())
        }
    }

    /// Removes what was open without a name when the store was last closed or the machine stopped.
    pub(crate) fn reap_orphans(&self) -> Result<()> {
        loop {
            let page = self.live.scan(Table::Orphan, &[], &[0xff; 9], 256)?;
            if page.is_empty() {
                return Ok(());
            }
            for (key, _) in page {
                self.settle_step()?;
                let ino = keys::parse_inode(&key)?;
                match self.inode(ino) {
                    Ok(inode) if inode.state.read().row.nlink == 0 => self.reap(&inode),
                    // It has names: no orphan after all.
                    Ok(_) => {
                        let mut change = self.change();
                        change.set_orphan(ino, false);
                        change.apply();
                    }
                    Err(Error::Stale) => {
                        let mut change = self.change();
                        change.set_orphan(ino, false);
                        change.apply();
                    }
                    Err(other) => return Err(other),
                }
            }
        }
    }
}

/// An inode that is gone although an entry still names it: an entry goes before its inode does, and no number is ever used
/// again (I4), so who finds the same one gone twice has not come too late.
pub(crate) fn dangling() -> Error {
    Error::Malformed {
        what: "directory entry",
        detail: "there is no inode of its number",
    }
}

/// Checks that an entry says of its inode what it is: who changes either goes by it.
pub(crate) fn check_kind(locked: &mut Locked, entry: &DirentRow) -> Result<()> {
    if locked.get(entry.ino)?.1.row.attrs.kind == entry.kind {
        Ok(())
    } else {
        Err(Error::Malformed {
            what: "directory entry",
            detail: "its inode is of another kind",
        })
    }
}
