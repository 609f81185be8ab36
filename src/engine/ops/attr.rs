//! Attributes: lookup, getattr, setattr, readlink, statfs, inode flags.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::limits::NAME_LEN_MAX;
use crate::base::{Error, FileOff, Ino, Result, Slot, Timestamp};
use crate::engine::Engine;
use crate::engine::acl::{self, Acl};
use crate::engine::change::ChangeSet;
use crate::engine::inode::{Inode, State};
use crate::engine::names::{DISCRIMINATORS, first_slot};
use crate::engine::types::{Caller, FileKind, Handle, SetAttr, SetTime, Stat, StatFs};
use crate::format::keys;
use crate::format::rows::{
    DirentRow, FLAG_APPEND, FLAG_HAS_XATTRS, FLAG_IMMUTABLE, FLAG_NOATIME, FLAG_NODUMP, FLAG_SYNC,
    Kind, Table,
};
use crate::meta::{Rows, for_each_row};

/// `FS_*_FL` bits of the `FS_IOC_GETFLAGS` ioctl and the flags they are stored as.
const IOCTL_FLAGS: [(u32, u32); 5] = [
    (0x10, FLAG_IMMUTABLE),
    (0x20, FLAG_APPEND),
    (0x40, FLAG_NODUMP),
    (0x80, FLAG_NOATIME),
    (0x08, FLAG_SYNC),
];

pub(crate) fn file_kind(kind: Kind) -> FileKind {
    match kind {
        Kind::File => FileKind::File,
        Kind::Dir => FileKind::Dir,
        Kind::Symlink => FileKind::Symlink,
        Kind::Fifo => FileKind::Fifo,
        Kind::Socket => FileKind::Socket,
        Kind::CharDevice => FileKind::CharDevice,
        Kind::BlockDevice => FileKind::BlockDevice,
    }
}

pub(crate) fn row_kind(kind: FileKind) -> Kind {
    match kind {
        FileKind::File => Kind::File,
        FileKind::Dir => Kind::Dir,
        FileKind::Symlink => Kind::Symlink,
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::CharDevice => Kind::CharDevice,
        FileKind::BlockDevice => Kind::BlockDevice,
    }
}

pub(crate) fn ioctl_flags(stored: u32) -> u32 {
    IOCTL_FLAGS
        .iter()
        .filter(|(_, s)| stored & s != 0)
        .map(|(bit, _)| bit)
        .sum()
}

/// Attributes as `stat` shows them.
pub(crate) fn stat(inode: &Inode, state: &State) -> Stat {
    let attrs = &state.row.attrs;
    let bytes = if attrs.kind == Kind::File {
        let layers = inode.layers.lock();
        let pending = layers.active.data_len() + layers.frozen.as_ref().map_or(0, |l| l.data_len());
        // What is pending may lie over what is mapped: never show more than a file without holes has.
        layers
            .mapped
            .saturating_add(pending)
            .min(attrs.size.saturating_add(511))
    } else {
        0
    };
    Stat {
        ino: inode.ino,
        kind: file_kind(attrs.kind),
        mode: attrs.mode,
        nlink: state.row.nlink,
        uid: attrs.uid,
        gid: attrs.gid,
        rdev: (attrs.rdev_major, attrs.rdev_minor),
        size: attrs.size,
        blocks: bytes.div_ceil(512),
        atime: attrs.atime,
        mtime: attrs.mtime,
        ctime: attrs.ctime,
        btime: attrs.btime,
        flags: ioctl_flags(attrs.flags),
    }
}

impl Engine {
    /// The attributes of the entry `name` of `dir`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::NameTooLong`], [`Error::Stale`].
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Stat> {
        if name.len() > NAME_LEN_MAX {
            return Err(Error::NameTooLong);
        }
        if let Some(stat) = self.virtual_lookup(dir, name)? {
            return Ok(stat);
        }
        let inode = self.inode(dir)?;
        let child = {
            let state = inode.state.read();
            if state.row.attrs.kind != Kind::Dir {
                return Err(Error::NotDirectory);
            }
            match name {
                b"." => dir,
                b".." => state.row.parent,
                _ => self.find(dir, name)?.ok_or(Error::NotFound)?.1.ino,
            }
        };
        // The directory is unlocked: its child may have a smaller number (I5).
        match self.getattr(child) {
            Err(Error::Stale) => Err(Error::NotFound),
            other => other,
        }
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// [`Error::Stale`] if it does not exist any more.
    pub fn getattr(&self, ino: Ino) -> Result<Stat> {
        if let Some(stat) = self.virtual_getattr(ino)? {
            return Ok(stat);
        }
        let inode = self.inode(ino)?;
        let state = inode.state.read();
        if state.gone {
            return Err(Error::Stale);
        }
        Ok(stat(&inode, &state))
    }

    /// Sets attributes; the kernel has checked the permissions.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] for an immutable or append-only inode, [`Error::IsDirectory`] and
    /// [`Error::Invalid`] for a size of what has none, [`Error::FileTooLarge`].
    pub fn setattr(
        &self,
        _caller: &Caller,
        ino: Ino,
        _handle: Option<Handle>,
        set: &SetAttr,
    ) -> Result<Stat> {
        self.refuse_virtual(ino)?;
        self.check_writable()?;
        self.throttle()?;
        let inode = self.inode(ino)?;
        let mut guard = inode.write();
        if guard.gone {
            return Err(Error::Stale);
        }
        check_flags(&guard, set)?;
        if let Some(size) = set.size {
            check_size(&guard, size)?;
        }
        let acl = match set.mode {
            Some(mode) => self.acl_after_chmod(&inode, &guard, mode)?,
            None => None,
        };
        let capability = (set.kill_suid || set.uid.is_some() || set.gid.is_some())
            && guard.row.attrs.kind != Kind::Dir;
        let drop_capability = capability
            && self
                .xattr_row(ino, &guard, b"security.capability")?
                .is_some();
        let now = self.env.now();
        let mut change = self.change();
        if let Some(size) = set.size {
            resize(&change, &inode, &mut guard, size.raw(), now);
        }
        apply_attrs(&mut guard, set, now);
        if let Some(acl) = acl {
            change.set_xattr(ino, acl::ACCESS, Some(&acl));
        }
        if drop_capability {
            change.set_xattr(ino, b"security.capability", None);
        }
        change.put_inode(&inode, &guard);
        change.apply();
        Ok(stat(&inode, &guard))
    }

    /// The access list as it follows a `chmod`, if the inode has one.
    fn acl_after_chmod(&self, inode: &Inode, state: &State, mode: u16) -> Result<Option<Vec<u8>>> {
        let Some(value) = self.xattr_row(inode.ino, state, acl::ACCESS)? else {
            return Ok(None);
        };
        let mut list = Acl::parse(&value)?;
        list.chmod(mode);
        Ok(Some(list.encode()))
    }

    /// The value of an xattr, `None` if the inode has none of that name.
    pub(crate) fn xattr_row(
        &self,
        ino: Ino,
        state: &State,
        name: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        if state.row.attrs.flags & FLAG_HAS_XATTRS == 0 {
            return Ok(None);
        }
        self.live.get(Table::Xattr, &keys::xattr(ino, name))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not one.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        if let Some(target) = self.virtual_readlink(ino)? {
            return Ok(target);
        }
        let inode = self.inode(ino)?;
        let state = inode.state.read();
        if state.row.attrs.kind != Kind::Symlink {
            return Err(Error::Invalid("not a symbolic link"));
        }
        Ok(state.row.target.clone())
    }

    /// Space of the backing filesystem: what is free there is what can still be stored, before compression.
    ///
    /// # Errors
    /// [`Error::Io`] if the backing filesystem does not answer.
    pub fn statfs(&self) -> Result<StatFs> {
        let space = self.space()?;
        let files = self.index().estimate_rows(Table::Inode);
        Ok(StatFs {
            block_len: 4096,
            blocks: space.total_bytes / 4096,
            free: space.free_bytes / 4096,
            available: space.available_bytes / 4096,
            files: files.saturating_add(space.available_bytes / 512),
            files_free: space.available_bytes / 512,
        })
    }

    /// Inode flags in the terms of `FS_IOC_GETFLAGS`.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn get_flags(&self, ino: Ino) -> Result<u32> {
        Ok(self.getattr(ino)?.flags)
    }

    /// Sets inode flags in the terms of `FS_IOC_SETFLAGS`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for flags that are not kept; [`Error::NotPermitted`] for callers that are neither
    /// root nor (for harmless flags) the owner.
    pub fn set_flags(&self, caller: &Caller, ino: Ino, flags: u32) -> Result<()> {
        self.refuse_virtual(ino)?;
        self.check_writable()?;
        let known: u32 = IOCTL_FLAGS.iter().map(|(bit, _)| bit).sum();
        // The extents flag is shown by other filesystems and set back by `cp` and `chattr`.
        if flags & !(known | 0x0008_0000) != 0 {
            return Err(Error::Unsupported("inode flags other than aidAS"));
        }
        let inode = self.inode(ino)?;
        let mut guard = inode.write();
        if guard.gone {
            return Err(Error::Stale);
        }
        let stored: u32 = IOCTL_FLAGS
            .iter()
            .filter(|(bit, _)| flags & bit != 0)
            .map(|(_, s)| s)
            .sum();
        let old = guard.row.attrs.flags;
        let changed = (old & !FLAG_HAS_XATTRS) ^ stored;
        if caller.uid != 0 && caller.uid != guard.row.attrs.uid {
            return Err(Error::NotPermitted("only the owner sets inode flags"));
        }
        if caller.uid != 0 && changed & (FLAG_IMMUTABLE | FLAG_APPEND) != 0 {
            return Err(Error::NotPermitted(
                "only root changes the immutable and append-only flags",
            ));
        }
        let now = self.env.now();
        let mut change = self.change();
        guard.row.attrs.flags = stored | (old & FLAG_HAS_XATTRS);
        guard.row.attrs.ctime = now;
        change.put_inode(&inode, &guard);
        change.apply();
        Ok(())
    }

    /// The slot and row of the entry `name`; the caller holds the directory's lock.
    pub(crate) fn find(&self, dir: Ino, name: &[u8]) -> Result<Option<(Slot, DirentRow)>> {
        let first = first_slot(name);
        if let Some(value) = self.live.get(Table::Dirent, &keys::dirent(dir, first))? {
            let row = DirentRow::decode(&value)?;
            if row.name == name {
                return Ok(Some((first, row)));
            }
        }
        if !self.collisions.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut found = None;
        self.for_each_twin(dir, first, &mut |slot, row| {
            if row.name == name {
                found = Some((slot, row));
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    }

    /// A free slot for `name`, which is not in the directory; the caller holds the directory's lock.
    pub(crate) fn free_slot(&self, dir: Ino, name: &[u8]) -> Result<Slot> {
        let first = first_slot(name);
        if self
            .live
            .get(Table::Dirent, &keys::dirent(dir, first))?
            .is_none()
        {
            return Ok(first);
        }
        let mut taken = Vec::new();
        self.for_each_twin(dir, first, &mut |slot, _| {
            taken.push(slot);
            Ok(true)
        })?;
        (first.raw()..first.raw() + DISCRIMINATORS)
            .map(Slot::from_raw)
            .find(|slot| !taken.contains(slot))
            .ok_or(Error::Unsupported(
                "more than 256 names with one hash in a directory",
            ))
    }

    fn for_each_twin(
        &self,
        dir: Ino,
        first: Slot,
        each: &mut dyn FnMut(Slot, DirentRow) -> Result<bool>,
    ) -> Result<()> {
        let from = keys::dirent(dir, first);
        let to = keys::dirent(dir, Slot::from_raw(first.raw() + DISCRIMINATORS));
        for_each_row(&self.live, Table::Dirent, &from, &to, &mut |key, value| {
            each(keys::parse_dirent(key)?.1, DirentRow::decode(value)?)
        })
    }
}

fn check_flags(state: &State, set: &SetAttr) -> Result<()> {
    let flags = state.row.attrs.flags;
    let explicit =
        set.mode.is_some() || set.uid.is_some() || set.gid.is_some() || set.size.is_some();
    // What was written before the flag was set still comes from the page cache, and its times after it: refusing them
    // would make fsync fail.
    let only_times = !explicit && set.atime.is_none() && set.mtime.is_some() && set.ctime.is_some();
    if flags & FLAG_IMMUTABLE != 0 && !only_times {
        return Err(Error::NotPermitted("immutable"));
    }
    if flags & FLAG_APPEND != 0 && explicit {
        return Err(Error::NotPermitted("append-only"));
    }
    Ok(())
}

fn check_size(state: &State, size: FileOff) -> Result<()> {
    match state.row.attrs.kind {
        Kind::File if size > FileOff::MAX => Err(Error::FileTooLarge),
        Kind::File => Ok(()),
        Kind::Dir => Err(Error::IsDirectory),
        _ => Err(Error::Invalid("only files have a size that can be set")),
    }
}

/// Sets the size of a file: what was beyond it is gone, what comes to be is a hole.
pub(crate) fn resize(
    change: &ChangeSet<'_>,
    inode: &Arc<Inode>,
    state: &mut State,
    size: u64,
    now: Timestamp,
) {
    let old = state.row.attrs.size;
    if size < old {
        change.punch(inode, size..u64::MAX >> 1);
        // A hole up to 2^63 - 1 that starts at `size`: the commit deletes every extent from there on.
    }
    if size != old {
        state.row.attrs.size = size;
    }
    state.row.attrs.mtime = now;
    state.row.attrs.ctime = now;
}

fn apply_attrs(state: &mut State, set: &SetAttr, now: Timestamp) {
    let attrs = &mut state.row.attrs;
    let at = |time: SetTime| match time {
        SetTime::Now => now,
        SetTime::At(time) => time,
    };
    if let Some(mode) = set.mode {
        attrs.mode = mode & 0o7777;
    }
    attrs.uid = set.uid.unwrap_or(attrs.uid);
    attrs.gid = set.gid.unwrap_or(attrs.gid);
    attrs.atime = set.atime.map_or(attrs.atime, at);
    attrs.mtime = set.mtime.map_or(attrs.mtime, at);
    attrs.ctime = set.ctime.unwrap_or(now);
    // chown(2): on a directory the set-group-ID bit means something else, and stays.
    if set.kill_suid && attrs.kind != Kind::Dir {
        attrs.mode = without_suid(attrs.mode);
    }
}

/// The mode after a write or a change of owner by somebody without privilege: no setuid, and no setgid
/// where group execution makes it one (without, it marks mandatory locking and stays).
pub(crate) fn without_suid(mode: u16) -> u16 {
    let mode = mode & !0o4000;
    if mode & 0o010 != 0 {
        mode & !0o2000
    } else {
        mode
    }
}
