//! Making objects: files, directories, special files, symbolic and hard links.

use std::sync::atomic::Ordering;

use crate::base::limits::{INO_MAX, LINKS_MAX, SYMLINK_LEN_MAX};
use crate::base::{Error, FileOff, Ino, Result, Timestamp};
use crate::engine::Engine;
use crate::engine::acl::{self, Acl};
use crate::engine::handles::Target;
use crate::engine::inode::{Locked, State};
use crate::engine::names::{check_name, is_reserved};
use crate::engine::ops::attr::{row_kind, stat};
use crate::engine::types::{Caller, FileKind, Handle, NewNode, OpenHow, Stat};
use crate::format::keys;
use crate::format::rows::{
    Attrs, FLAG_APPEND, FLAG_HAS_XATTRS, FLAG_IMMUTABLE, InodeRow, Kind, Table,
};
use crate::meta::Rows;

/// What a new inode inherits from the default ACL of its directory.
struct Inherited {
    mode: u16,
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

impl Engine {
    /// Makes a regular file and opens it.
    ///
    /// # Errors
    /// As [`Engine::mknod`].
    pub fn create(
        &self,
        caller: &Caller,
        dir: Ino,
        name: &[u8],
        new: &NewNode,
        how: OpenHow,
    ) -> Result<(Stat, Handle)> {
        let stat = self.make(caller, dir, name, new, &[])?;
        let inode = self.inode(stat.ino)?;
        Ok((stat, self.handles.open(Target::Live(inode), how)))
    }

    /// Makes a file, directory, fifo, socket or device.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NotFound`] if the directory was removed, [`Error::NameTooLong`],
    /// [`Error::NotPermitted`] in an immutable directory, [`Error::NoSpace`].
    pub fn mknod(&self, caller: &Caller, dir: Ino, name: &[u8], new: &NewNode) -> Result<Stat> {
        if new.kind == FileKind::Symlink {
            return Err(Error::Invalid("a symbolic link needs a target"));
        }
        self.make(caller, dir, name, new, &[])
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`Engine::mknod`]; [`Error::NameTooLong`] for a target of more than 4095 bytes.
    pub fn symlink(&self, caller: &Caller, dir: Ino, name: &[u8], target: &[u8]) -> Result<Stat> {
        if target.is_empty() {
            return Err(Error::NotFound);
        }
        if target.len() > SYMLINK_LEN_MAX {
            return Err(Error::NameTooLong);
        }
        let new = NewNode {
            kind: FileKind::Symlink,
            mode: 0o777,
            umask: 0,
            rdev: (0, 0),
        };
        self.make(caller, dir, name, &new, target)
    }

    fn make(
        &self,
        caller: &Caller,
        dir: Ino,
        name: &[u8],
        new: &NewNode,
        target: &[u8],
    ) -> Result<Stat> {
        self.refuse_virtual(dir)?;
        self.check_writable()?;
        check_name(name)?;
        self.throttle()?;
        self.reserve(0)?;
        let parent = self.inode(dir)?;
        let mut guard = parent.write();
        check_dir(&guard, true)?;
        if is_reserved(dir, name) || self.find(dir, name)?.is_some() {
            return Err(Error::Exists);
        }
        let kind = row_kind(new.kind);
        if kind == Kind::Dir && guard.row.nlink >= LINKS_MAX {
            return Err(Error::TooManyLinks);
        }
        let slot = self.free_slot(dir, name)?;
        let inherited = self.inherit(dir, &guard, kind, new)?;
        let now = self.env.now();
        let row = new_row(caller, &guard, dir, kind, new, &inherited, target, now);
        let ino = Ino::from_raw(self.next_ino.fetch_add(1, Ordering::AcqRel));
        if ino.raw() > INO_MAX {
            return Err(Error::NoSpace);
        }

        let mut change = self.change();
        let inode = change.put_new_inode(ino, &row);
        if let Some(access) = &inherited.access {
            change.set_xattr(ino, acl::ACCESS, Some(access));
        }
        if let Some(default) = &inherited.default {
            change.set_xattr(ino, acl::DEFAULT, Some(default));
        }
        if slot.raw() & 0xff != 0 {
            self.collisions.store(true, Ordering::Release);
            change.set_collisions();
        }
        change.put_entry(dir, slot, ino, kind, name);
        guard.row.attrs.size += 1;
        guard.row.attrs.mtime = now;
        guard.row.attrs.ctime = now;
        if kind == Kind::Dir {
            guard.row.nlink += 1;
        }
        change.put_inode(&parent, &guard);
        change.apply();
        // Nobody else knows the new inode's number yet, so its lock is free whatever the order.
        let state = inode.state.read();
        Ok(stat(&inode, &state))
    }

    fn inherit(&self, dir: Ino, parent: &State, kind: Kind, new: &NewNode) -> Result<Inherited> {
        let plain = Inherited {
            mode: new.mode & !new.umask,
            access: None,
            default: None,
        };
        if kind == Kind::Symlink {
            return Ok(Inherited {
                mode: 0o777,
                ..plain
            });
        }
        let Some(default) = self.xattr_row(dir, parent, acl::DEFAULT)? else {
            return Ok(plain);
        };
        let mut list = Acl::parse(&default)?;
        let mode = list.inherit(new.mode);
        Ok(Inherited {
            mode,
            access: (!list.is_minimal()).then(|| list.encode()),
            default: (kind == Kind::Dir).then_some(default),
        })
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] for a directory or an immutable inode, [`Error::TooManyLinks`],
    /// [`Error::NotFound`] if the inode has no name left, and those of [`Engine::mknod`].
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Stat> {
        self.refuse_virtual(ino)?;
        self.refuse_virtual(dir)?;
        self.check_writable()?;
        check_name(name)?;
        self.throttle()?;
        self.reserve(0)?;
        let (parent, inode) = (self.inode(dir)?, self.inode(ino)?);
        if ino == dir {
            return Err(Error::NotPermitted("hard link to a directory"));
        }
        let mut locked = Locked::new([parent, inode]);
        let (_, state) = locked.get(ino)?;
        let kind = state.row.attrs.kind;
        if kind == Kind::Dir {
            return Err(Error::NotPermitted("hard link to a directory"));
        }
        if state.row.attrs.flags & (FLAG_IMMUTABLE | FLAG_APPEND) != 0 {
            return Err(Error::NotPermitted("immutable or append-only"));
        }
        if state.row.nlink >= LINKS_MAX {
            return Err(Error::TooManyLinks);
        }
        if state.gone || state.row.nlink == 0 {
            return Err(Error::NotFound);
        }
        check_dir(locked.get(dir)?.1, true)?;
        if is_reserved(dir, name) || self.find(dir, name)?.is_some() {
            return Err(Error::Exists);
        }
        let slot = self.free_slot(dir, name)?;
        let known = self.live.get(Table::HardLink, &keys::inode(ino))?.is_some();
        let now = self.env.now();
        let mut change = self.change();
        if !known {
            change.put_hard_link(ino);
        }
        if slot.raw() & 0xff != 0 {
            self.collisions.store(true, Ordering::Release);
            change.set_collisions();
        }
        change.put_entry(dir, slot, ino, kind, name);
        let (inode, state) = locked.get(ino)?;
        state.row.nlink += 1;
        state.row.attrs.ctime = now;
        change.put_inode(inode, state);
        let result = stat(inode, state);
        let (parent, state) = locked.get(dir)?;
        state.row.attrs.size += 1;
        state.row.attrs.mtime = now;
        state.row.attrs.ctime = now;
        change.put_inode(parent, state);
        change.apply();
        Ok(result)
    }
}

/// Checks that entries of a directory may be changed; `adding` is allowed in an append-only one.
pub(crate) fn check_dir(state: &State, adding: bool) -> Result<()> {
    if state.row.attrs.kind != Kind::Dir {
        return Err(Error::NotDirectory);
    }
    if state.gone || state.row.nlink == 0 {
        return Err(Error::NotFound);
    }
    if state.row.attrs.flags & FLAG_IMMUTABLE != 0 {
        return Err(Error::NotPermitted("immutable directory"));
    }
    if !adding && state.row.attrs.flags & FLAG_APPEND != 0 {
        return Err(Error::NotPermitted("append-only directory"));
    }
    if adding && state.row.attrs.size >= FileOff::MAX.raw() {
        // No row holds one more; only a damaged store says that.
        return Err(Error::Malformed {
            what: "directory",
            detail: "count of its entries",
        });
    }
    Ok(())
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call, all of it known only there"
)]
fn new_row(
    caller: &Caller,
    parent: &State,
    dir: Ino,
    kind: Kind,
    new: &NewNode,
    inherited: &Inherited,
    target: &[u8],
    now: Timestamp,
) -> InodeRow {
    let setgid = parent.row.attrs.mode & 0o2000 != 0;
    let mode = inherited.mode & 0o7777;
    let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    let xattrs = inherited.access.is_some() || inherited.default.is_some();
    InodeRow {
        attrs: Attrs {
            kind,
            mode: if setgid && kind == Kind::Dir {
                mode | 0o2000
            } else {
                mode
            },
            uid: caller.uid,
            gid: if setgid {
                parent.row.attrs.gid
            } else {
                caller.gid
            },
            rdev_major: if device { new.rdev.0 } else { 0 },
            rdev_minor: if device { new.rdev.1 } else { 0 },
            flags: if xattrs { FLAG_HAS_XATTRS } else { 0 },
            size: target.len() as u64,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        },
        nlink: if kind == Kind::Dir { 2 } else { 1 },
        mapped: 0,
        parent: if kind == Kind::Dir {
            dir
        } else {
            Ino::from_raw(0)
        },
        target: target.to_vec(),
    }
}
