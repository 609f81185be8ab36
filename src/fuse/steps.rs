//! Steps of the operations that take more than one call of the engine.

use super::adapter::Adapter;
use super::convert::{file_off, permissions};
use super::ioctl;
use crate::base::{Error, FileOff, Ino, Result};
use crate::engine::{Caller, Engine, FileKind, Handle, NewNode, OpenHow, Seek, SetAttr};

/// Set-user-ID and set-group-ID.
const SET_ID_BITS: u16 = 0o6000;

impl Adapter {
    /// Whether an inode has a set-user-ID or set-group-ID bit.
    ///
    /// # Errors
    /// As getattr.
    pub(super) fn has_set_id(&self, ino: Ino) -> Result<bool> {
        Ok(self.engine.getattr(ino)?.mode & SET_ID_BITS != 0)
    }

    /// Takes set-id bits away after a change that the kernel does not flag (fallocate,
    /// copy_file_range), and from the kernel's idea of the mode. Being root stands for CAP_FSETID.
    ///
    /// # Errors
    /// As setattr.
    pub(super) fn drop_set_id(&self, caller: &Caller, ino: Ino) -> Result<()> {
        if caller.uid == 0 || !self.has_set_id(ino)? {
            return Ok(());
        }
        let change = SetAttr {
            kill_suid: true,
            ..SetAttr::default()
        };
        self.engine.setattr(caller, ino, None, &change)?;
        self.cache.forget_attributes(ino)
    }
}

/// Opens a file; a truncation by somebody who may not keep set-id bits takes them away.
pub(super) fn open_file(
    adapter: &Adapter,
    caller: &Caller,
    ino: Ino,
    how: OpenHow,
) -> Result<Handle> {
    // fuser does not hand on FUSE_OPEN_KILL_SUIDGID, which the kernel sets unless the caller has
    // CAP_FSETID; being root stands for that.
    let engine = &adapter.engine;
    if !how.truncate || caller.uid == 0 {
        return engine.open_file(ino, how);
    }
    let without = OpenHow {
        truncate: false,
        ..how
    };
    let handle = engine.open_file(ino, without)?;
    let cut = SetAttr {
        size: Some(FileOff::ZERO),
        kill_suid: true,
        ..SetAttr::default()
    };
    match engine.setattr(caller, ino, Some(handle), &cut) {
        Ok(_) => {
            // The kernel learns the new size by itself, the new mode only by asking.
            // That it cannot be told is no reason to lose the handle: nobody would ever close it.
            if let Err(error) = adapter.cache.forget_attributes(ino) {
                log::warn!("the kernel keeps old attributes of inode {ino}: {error}");
            }
            Ok(handle)
        }
        Err(error) => {
            engine.release(handle)?;
            Err(error)
        }
    }
}

/// A new inode without a device number.
pub(super) fn new_node(kind: FileKind, mode: u32, umask: u32) -> NewNode {
    NewNode {
        kind,
        mode: permissions(mode),
        umask: permissions(umask),
        rdev: (0, 0),
    }
}

/// Answers SEEK_DATA and SEEK_HOLE; the kernel serves the other kinds itself.
pub(super) fn seek(engine: &Engine, handle: Handle, from: i64, whence: i32) -> Result<i64> {
    let wanted = match whence {
        libc::SEEK_DATA => Seek::Data,
        libc::SEEK_HOLE => Seek::Hole,
        _ => return Err(Error::Invalid("lseek whence")),
    };
    // lseek(2): an offset outside the file is ENXIO, a negative one included.
    let from = u64::try_from(from).map_err(|_| Error::PastEnd)?;
    let found = engine.lseek(handle, file_off(from)?, wanted)?;
    i64::try_from(found.raw()).map_err(|_| Error::FileTooLarge)
}

/// Answers one request for inode flags.
pub(super) fn inode_flags(
    engine: &Engine,
    caller: &Caller,
    ino: Ino,
    request: ioctl::Request,
) -> Result<Vec<u8>> {
    match request {
        ioctl::Request::GetFlags => Ok(ioctl::flags_reply(engine.get_flags(ino)?)),
        ioctl::Request::GetXflags => Ok(ioctl::xflags_reply(engine.get_flags(ino)?)),
        ioctl::Request::SetFlags(flags) => {
            engine.set_flags(caller, ino, flags)?;
            Ok(Vec::new())
        }
        ioctl::Request::SetXflags(wanted) => {
            let flags = ioctl::merge_xflags(engine.get_flags(ino)?, wanted);
            engine.set_flags(caller, ino, flags)?;
            Ok(Vec::new())
        }
    }
}
