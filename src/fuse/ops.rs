//! The operations of the FUSE protocol, each handed to the engine. No policy lives here.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::adapter::{Adapter, GENERATION, report};
use super::convert::{
    allocate, caller, decode_dev, file_off, file_type, mknod_kind, open_how, permissions,
    rename_how, set_time, time, xattr_mode,
};
use super::ioctl;
use super::offload::Job;
use super::panics::contain;
use super::steps::{inode_flags, new_node, open_file, seek};
use crate::base::Error;
use crate::base::limits::NAME_LEN_MAX;
use crate::engine::{Engine, FileKind, Handle, NewNode, SetAttr, WriteHow};

/// Most bytes that one copy_file_range request copies: the answer has 32 bits, and a copy that takes
/// long holds a thread that answers requests. The caller asks again for the rest.
const COPY_LEN_MAX: u64 = 1 << 30;

thread_local! {
    /// The bytes of the last read of this thread: its allocation serves the next one.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.configure(config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.look_up(self.map.to_engine(parent), name, reply);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        let ino = self.map.to_engine(ino);
        // There is no reply, so a panic has been logged and that is all.
        let _ = self.run("forget", ino, |engine| {
            if let Some(references) = self.known.take(ino, nlookup) {
                engine.forget(ino, references);
            }
            Ok(())
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let ino = self.map.to_engine(ino);
        self.attr("getattr", ino, reply, |engine| engine.getattr(ino));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let ino = self.map.to_engine(ino);
        self.attr("setattr", ino, reply, |engine| {
            let change = SetAttr {
                mode: mode.map(permissions),
                uid,
                gid,
                size: size.map(file_off).transpose()?,
                atime: atime.map(set_time),
                mtime: mtime.map(set_time),
                ctime: ctime.map(time),
                // fuser does not hand on FATTR_KILL_SUIDGID. The kernel sets it for every change of
                // owner, and for a truncation unless the caller has CAP_FSETID, for which being
                // root stands here.
                kill_suid: uid.is_some() || gid.is_some() || (size.is_some() && req.uid() != 0),
            };
            engine.setattr(&caller(req), ino, fh.map(|fh| Handle(fh.0)), &change)
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let ino = self.map.to_engine(ino);
        match self.run("readlink", ino, |engine| engine.readlink(ino)) {
            Ok(target) => reply.data(&target),
            Err(code) => reply.error(code),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let dir = self.map.to_engine(parent);
        self.entry("mknod", dir, reply, |engine| {
            let kind = mknod_kind(mode)?;
            let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
            let node = NewNode {
                kind,
                mode: permissions(mode),
                umask: permissions(umask),
                rdev: if device { decode_dev(rdev) } else { (0, 0) },
            };
            engine.mknod(&caller(req), dir, name.as_bytes(), &node)
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let dir = self.map.to_engine(parent);
        let node = new_node(FileKind::Dir, mode, umask);
        self.entry("mkdir", dir, reply, |engine| {
            engine.mknod(&caller(req), dir, name.as_bytes(), &node)
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = self.map.to_engine(parent);
        self.empty("unlink", dir, reply, |engine| {
            engine.unlink(dir, name.as_bytes())
        });
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = self.map.to_engine(parent);
        self.empty("rmdir", dir, reply, |engine| {
            engine.rmdir(dir, name.as_bytes())
        });
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let dir = self.map.to_engine(parent);
        let target = target.as_os_str().as_bytes();
        self.entry("symlink", dir, reply, |engine| {
            engine.symlink(&caller(req), dir, link_name.as_bytes(), target)
        });
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (self.map.to_engine(parent), self.map.to_engine(newparent));
        self.empty("rename", from, reply, |engine| {
            let how = rename_how(flags.bits())?;
            engine.rename(from, name.as_bytes(), to, newname.as_bytes(), how)
        });
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (ino, dir) = (self.map.to_engine(ino), self.map.to_engine(newparent));
        self.entry("link", ino, reply, |engine| {
            engine.link(ino, dir, newname.as_bytes())
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let ino = self.map.to_engine(ino);
        let how = open_how(flags.0);
        match self.run("open", ino, |_| open_file(self, &caller(req), ino, how)) {
            Ok(handle) => {
                if how.write {
                    self.cache.writers().opened(ino);
                }
                reply.opened(FileHandle(handle.0), self.file_caching(ino));
            }
            Err(code) => reply.error(code),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let dir = self.map.to_engine(parent);
        let how = open_how(flags);
        let node = new_node(FileKind::File, mode, umask);
        match self.run("create", dir, |engine| {
            engine.create(&caller(req), dir, name.as_bytes(), &node, how)
        }) {
            Ok((stat, handle)) => {
                if how.write {
                    self.cache.writers().opened(stat.ino);
                }
                self.known.give(stat.ino);
                reply.created(
                    &self.lifetime(stat.ino),
                    &self.map.attr(&stat),
                    GENERATION,
                    FileHandle(handle.0),
                    self.file_caching(stat.ino),
                );
            }
            Err(code) => reply.error(code),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let ino = self.map.to_engine(ino);
        let mut buffer = READ_BUFFER.take();
        buffer.clear();
        let outcome = self.run("read", ino, |engine| {
            let len = usize::try_from(size).map_err(|_| Error::Invalid("read length"))?;
            let at = file_off(offset)?;
            engine.read(Handle(fh.0), at, len, &mut buffer)
        });
        match outcome {
            Ok(()) => reply.data(&buffer),
            Err(code) => reply.error(code),
        }
        READ_BUFFER.set(buffer);
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let ino = self.map.to_engine(ino);
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let outcome = self.run("write", ino, |engine| {
            let at = file_off(offset)?;
            let had_set_id = kill && self.has_set_id(ino)?;
            let how = WriteHow {
                kill_suid: kill,
                cached: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            };
            let done = engine.write(&caller(req), Handle(fh.0), at, data, how)?;
            if had_set_id {
                // The kernel does not ask for the mode again after a write, and would go on to
                // execute the file with the bits that have just been taken away.
                self.cache.forget_attributes(ino)?;
            }
            u32::try_from(done).map_err(|_| Error::Internal("more written than given"))
        });
        match outcome {
            Ok(done) => reply.written(done),
            Err(code) => reply.error(code),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let ino = self.map.to_engine(ino);
        self.empty("flush", ino, reply, |engine| engine.flush(Handle(fh.0)));
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let ino = self.map.to_engine(ino);
        if open_how(flags.0).write {
            self.cache.writers().released(ino);
        }
        self.empty("release", ino, reply, |engine| engine.release(Handle(fh.0)));
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let ino = self.map.to_engine(ino);
        self.empty_elsewhere("fsync", ino, reply, move |engine| {
            engine.fsync(Handle(fh.0), datasync)
        });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let ino = self.map.to_engine(ino);
        match self.run("opendir", ino, |engine| engine.opendir(ino)) {
            Ok(handle) => reply.opened(FileHandle(handle.0), self.dir_caching(ino)),
            Err(code) => reply.error(code),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let ino = self.map.to_engine(ino);
        let outcome = self.listing("readdir", ino, |engine, some| {
            engine.readdir(Handle(fh.0), offset, &mut |item| {
                let full = reply.add(
                    self.map.to_kernel(item.ino),
                    item.cookie,
                    file_type(item.kind),
                    OsStr::from_bytes(&item.name),
                );
                *some |= !full;
                !full
            })
        });
        match outcome {
            Ok(()) => reply.ok(),
            Err(code) => reply.error(code),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let ino = self.map.to_engine(ino);
        let outcome = self.listing("readdirplus", ino, |engine, some| {
            engine.readdirplus(Handle(fh.0), offset, &mut |item, stat| {
                let is_child = item.name != b"." && item.name != b"..";
                let full = reply.add(
                    self.map.to_kernel(item.ino),
                    item.cookie,
                    OsStr::from_bytes(&item.name),
                    &self.lifetime(item.ino),
                    &self.map.attr(&stat),
                    GENERATION,
                );
                if !full && is_child {
                    // The kernel takes no reference to the other two.
                    self.known.give(item.ino);
                }
                *some |= !full;
                !full
            })
        });
        match outcome {
            Ok(()) => reply.ok(),
            Err(code) => reply.error(code),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let ino = self.map.to_engine(ino);
        self.empty("releasedir", ino, reply, |engine| {
            engine.releasedir(Handle(fh.0))
        });
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let ino = self.map.to_engine(ino);
        self.empty_elsewhere("fsyncdir", ino, reply, move |engine| {
            engine.fsyncdir(Handle(fh.0))
        });
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let ino = self.map.to_engine(ino);
        match self.run("statfs", ino, Engine::statfs) {
            Ok(fs) => reply.statfs(
                fs.blocks,
                fs.free,
                fs.available,
                fs.files,
                fs.files_free,
                fs.block_len,
                u32::try_from(NAME_LEN_MAX).unwrap_or(u32::MAX),
                fs.block_len,
            ),
            Err(code) => reply.error(code),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let ino = self.map.to_engine(ino);
        self.empty("setxattr", ino, reply, |engine| {
            let mode = xattr_mode(flags)?;
            engine.setxattr(&caller(req), ino, name.as_bytes(), value, mode)
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let ino = self.map.to_engine(ino);
        self.xattr("getxattr", ino, size, reply, |engine| {
            engine.getxattr(ino, name.as_bytes())
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let ino = self.map.to_engine(ino);
        self.xattr("listxattr", ino, size, reply, |engine| {
            engine.listxattr(&caller(req), ino)
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let ino = self.map.to_engine(ino);
        self.empty("removexattr", ino, reply, |engine| {
            engine.removexattr(&caller(req), ino, name.as_bytes())
        });
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions itself; ENOSYS says: do not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let ino = self.map.to_engine(ino);
        self.empty("fallocate", ino, reply, |engine| {
            let at = file_off(offset)?;
            engine.fallocate(Handle(fh.0), at, length, allocate(mode)?)?;
            self.drop_set_id(&caller(req), ino)
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let ino = self.map.to_engine(ino);
        let (engine, cache) = (Arc::clone(&self.engine), self.cache.clone());
        let dirty = cache.writers().any(ino);
        let job: Job = Box::new(move || {
            let outcome = contain("lseek", ino, || {
                if dirty {
                    // The kernel does not hand over unwritten bytes before it asks for holes; without
                    // them cp(1) would take a file that is being written for empty.
                    cache.collect_file(ino)?;
                }
                seek(&engine, Handle(fh.0), offset, whence)
            });
            match outcome {
                Ok(at) => reply.offset(at),
                Err(error) => reply.error(report("lseek", ino, &error)),
            }
        });
        if dirty {
            // Handing over takes write requests, which need the threads that read requests. If the
            // queue is full, the job is dropped, and its reply with it answers EIO.
            drop(self.offload.run(job));
        } else {
            job();
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let ino = self.map.to_engine(ino_out);
        let outcome = self.run("copy_file_range", ino, |engine| {
            let (from, to) = (file_off(offset_in)?, file_off(offset_out)?);
            let len = len.min(COPY_LEN_MAX);
            let (input, output) = (Handle(fh_in.0), Handle(fh_out.0));
            let done = engine.copy_file_range(&caller(req), input, from, output, to, len)?;
            self.drop_set_id(&caller(req), ino)?;
            u32::try_from(done).map_err(|_| Error::Internal("more copied than asked for"))
        });
        match outcome {
            Ok(done) => reply.written(done),
            Err(code) => reply.error(code),
        }
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let ino = self.map.to_engine(ino);
        let outcome = self.run("ioctl", ino, |engine| {
            let Some(request) = ioctl::parse(cmd, in_data)? else {
                return Ok(None);
            };
            inode_flags(engine, &caller(req), ino, request).map(Some)
        });
        match outcome {
            Ok(Some(answer)) => reply.ioctl(0, &answer),
            Ok(None) => reply.error(Errno::ENOTTY),
            Err(code) => reply.error(code),
        }
    }
}
