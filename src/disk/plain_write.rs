//! Writes plain directory trees, for `mmhfs restore`.
//!
//! Every operation is relative to an open directory and follows no symbolic link, so nothing that lies in
//! the destination, or is put there meanwhile, can lead a write out of it. Every error names the file.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, OFlag, RenameFlags, open, openat, readlinkat, renameat, renameat2,
};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat,
    futimens, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, syncfs, unlinkat};
use xattr::FileExt as _;

use super::plain::{PlainFacts, PlainFile, PlainId, PlainKind};
use crate::base::{Error, Result, Timestamp};

/// An open directory to write in.
#[derive(Debug)]
pub struct PlainDir {
    fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
}

/// Attributes to give to a file or directory.
#[derive(Clone, Copy, Debug)]
pub struct PlainMeta<'a> {
    /// Permission bits, 07777; a symbolic link has none.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes, name and value.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
    /// Whether an extended attribute of this name is to be removed if it is not among `xattrs`.
    pub removes: fn(&[u8]) -> bool,
}

impl PlainDir {
    /// Opens the directory `path`, which is made with all above it if it is missing; says whether it was.
    ///
    /// The one place where a symbolic link is followed, because the user named it.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn open_or_create(path: &Path) -> Result<(Self, bool)> {
        let failed = |op: &str, source| Error::io(format!("{op} {}", path.display()), source);
        let missing = match fs::metadata(path) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(failed("stat", error)),
        };
        if missing {
            fs::create_dir_all(path).map_err(|source| failed("make directory", source))?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(path, flags, Mode::empty())
            .map_err(|errno| failed("open directory", errno.into()))?;
        let path = path.to_owned();
        Ok((Self { fd, path }, missing))
    }

    /// The path of `name` in this directory, for messages.
    #[must_use]
    pub fn path_of(&self, name: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(name))
    }

    fn failed(&self, op: &str, name: &[u8], errno: Errno) -> Error {
        match errno {
            Errno::ENOSPC => Error::NoSpace,
            _ => Error::io(
                format!("{op} {}", self.path_of(name).display()),
                errno.into(),
            ),
        }
    }

    /// Opens the directory `name` in this one.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, also for a symbolic link to a directory.
    pub fn child(&self, name: &[u8]) -> Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, OsStr::from_bytes(name), flags, Mode::empty())
            .map_err(|errno| self.failed("open directory", name, errno))?;
        let path = self.path_of(name);
        Ok(Self { fd, path })
    }

    /// Makes a directory that only its owner may enter.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn make_dir(&self, name: &[u8]) -> Result<()> {
        mkdirat(&self.fd, OsStr::from_bytes(name), Mode::S_IRWXU)
            .map_err(|errno| self.failed("make directory", name, errno))
    }

    /// Lets the owner list and change this directory, as far as the system allows it.
    pub fn open_up(&self) {
        if let Ok(found) = fstat(&self.fd) {
            let mode = Mode::from_bits_truncate(found.st_mode & 0o7777);
            if !mode.contains(Mode::S_IRWXU) {
                let _ = fchmod(&self.fd, mode | Mode::S_IRWXU);
            }
        }
    }

    /// The facts of what `name` itself names; `None` if there is nothing of that name.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn facts(&self, name: &[u8]) -> Result<Option<PlainFacts>> {
        match fstatat(
            &self.fd,
            OsStr::from_bytes(name),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        ) {
            Ok(found) => Ok(Some(facts_of(&found))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.failed("lstat", name, errno)),
        }
    }

    /// The target of the symbolic link `name`.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn link_target(&self, name: &[u8]) -> Result<Vec<u8>> {
        readlinkat(&self.fd, OsStr::from_bytes(name))
            .map(OsStringExt::into_vec)
            .map_err(|errno| self.failed("readlink", name, errno))
    }

    /// Makes a regular file that only its owner may read, open for writing.
    ///
    /// # Errors
    /// [`Error::Exists`] if the name is taken, else [`Error::Io`] with the path.
    pub fn make_file(&self, name: &[u8]) -> Result<PlainNode> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        match openat(&self.fd, OsStr::from_bytes(name), flags, mode) {
            Ok(fd) => Ok(PlainNode {
                file: File::from(fd),
                is_open: true,
                path: self.path_of(name),
            }),
            Err(Errno::EEXIST) => Err(Error::Exists),
            Err(errno) => Err(self.failed("create", name, errno)),
        }
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`PlainDir::make_file`].
    pub fn make_symlink(&self, name: &[u8], target: &[u8]) -> Result<()> {
        let (target, at) = (OsStr::from_bytes(target), OsStr::from_bytes(name));
        match symlinkat(target, &self.fd, at) {
            Err(Errno::EEXIST) => Err(Error::Exists),
            other => other.map_err(|errno| self.failed("make symbolic link", name, errno)),
        }
    }

    /// Makes a fifo, socket or device; `false` if the system does not let this user make one.
    ///
    /// # Errors
    /// As [`PlainDir::make_file`].
    pub fn make_special(&self, name: &[u8], kind: PlainKind, rdev: (u32, u32)) -> Result<bool> {
        let flag = match kind {
            PlainKind::Fifo => SFlag::S_IFIFO,
            PlainKind::Socket => SFlag::S_IFSOCK,
            PlainKind::CharDevice => SFlag::S_IFCHR,
            PlainKind::BlockDevice => SFlag::S_IFBLK,
            _ => return Err(Error::Internal("not a special file")),
        };
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let rdev = makedev(u64::from(rdev.0), u64::from(rdev.1));
        match mknodat(&self.fd, OsStr::from_bytes(name), flag, mode, rdev) {
            Ok(()) => Ok(true),
            Err(Errno::EPERM) => Ok(false),
            Err(Errno::EEXIST) => Err(Error::Exists),
            Err(errno) => Err(self.failed("make special file", name, errno)),
        }
    }

    /// Gives what `from_name` in `from` names another name here.
    ///
    /// # Errors
    /// As [`PlainDir::make_file`].
    pub fn make_link(&self, from: &Self, from_name: &[u8], name: &[u8]) -> Result<()> {
        let (old, new) = (OsStr::from_bytes(from_name), OsStr::from_bytes(name));
        // Without AT_SYMLINK_FOLLOW a symbolic link itself gets the name.
        match linkat(&from.fd, old, &self.fd, new, AtFlags::empty()) {
            Err(Errno::EEXIST) => Err(Error::Exists),
            other => other.map_err(|errno| self.failed("link", name, errno)),
        }
    }

    /// Renames within this directory; replaces nothing.
    ///
    /// # Errors
    /// As [`PlainDir::make_file`].
    pub fn publish(&self, from: &[u8], name: &[u8]) -> Result<()> {
        let (old, new) = (OsStr::from_bytes(from), OsStr::from_bytes(name));
        match renameat2(&self.fd, old, &self.fd, new, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => Err(Error::Exists),
            // Not every filesystem has the flag.
            Err(Errno::EINVAL | Errno::ENOSYS) => match self.facts(name)? {
                Some(_) => Err(Error::Exists),
                None => self.replace(from, name),
            },
            Err(errno) => Err(self.failed("rename to", name, errno)),
        }
    }

    /// Renames within this directory; replaces what has the name, unless it is a directory.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn replace(&self, from: &[u8], name: &[u8]) -> Result<()> {
        let (old, new) = (OsStr::from_bytes(from), OsStr::from_bytes(name));
        renameat(&self.fd, old, &self.fd, new)
            .map_err(|errno| self.failed("rename to", name, errno))
    }

    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn unlink(&self, name: &[u8]) -> Result<()> {
        unlinkat(
            &self.fd,
            OsStr::from_bytes(name),
            UnlinkatFlags::NoRemoveDir,
        )
        .map_err(|errno| self.failed("remove", name, errno))
    }

    /// Opens a regular file for reading, which its owner is allowed to first if its mode forbids it.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn open_file(&self, name: &[u8]) -> Result<PlainFile> {
        let flags = OFlag::O_RDONLY
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let open = || openat(&self.fd, OsStr::from_bytes(name), flags, Mode::empty());
        let opened = match open() {
            Err(Errno::EACCES) => {
                let node = self.node(name)?.proc_mode(Mode::S_IRUSR | Mode::S_IWUSR);
                node.and_then(|()| open())
            }
            other => other,
        };
        let fd = opened.map_err(|errno| self.failed("open", name, errno))?;
        Ok(PlainFile::from_file(self.path_of(name), File::from(fd)))
    }

    /// Whatever `name` itself names, for setting its attributes.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn node(&self, name: &[u8]) -> Result<PlainNode> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, OsStr::from_bytes(name), flags, Mode::empty())
            .map_err(|errno| self.failed("open", name, errno))?;
        Ok(PlainNode {
            file: File::from(fd),
            is_open: false,
            path: self.path_of(name),
        })
    }

    /// This directory itself, for setting its attributes.
    ///
    /// # Errors
    /// [`Error::Io`] with the path if no more files can be opened.
    pub fn itself(&self) -> Result<PlainNode> {
        let fd = self.fd.try_clone().map_err(|source| {
            Error::io(format!("open directory {}", self.path.display()), source)
        })?;
        Ok(PlainNode {
            file: File::from(fd),
            is_open: true,
            path: self.path.clone(),
        })
    }

    /// Makes everything durable that was written to this directory's filesystem.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn sync_filesystem(&self) -> Result<()> {
        syncfs(&self.fd).map_err(|errno| self.failed("syncfs", b"", errno))
    }
}

/// A file, directory, symbolic link or special file whose attributes can be set.
#[derive(Debug)]
pub struct PlainNode {
    file: File,
    /// Whether the file is open, or only its place is held (`O_PATH`): for what cannot be opened without
    /// effects, as devices and fifos.
    is_open: bool,
    path: PathBuf,
}

impl PlainNode {
    fn failed(&self, op: &str, source: io::Error) -> Error {
        match source.raw_os_error() {
            Some(libc::ENOSPC) => Error::NoSpace,
            _ => Error::io(format!("{op} {}", self.path.display()), source),
        }
    }

    /// Sets the length of a regular file; new bytes are a hole.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, [`Error::NoSpace`].
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.file
            .set_len(len)
            .map_err(|source| self.failed("set the length of", source))
    }

    /// Writes all of `bytes` at `off`.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, [`Error::NoSpace`].
    pub fn write_at(&self, bytes: &[u8], off: u64) -> Result<()> {
        self.file
            .write_all_at(bytes, off)
            .map_err(|source| self.failed("write", source))
    }

    /// Sets owner, extended attributes, permission bits and times, in this order: a change of owner takes
    /// capabilities and set-id bits away, and read-only files accept no attributes of their owner.
    ///
    /// Returns, in words, what this user may not set or the filesystem does not keep.
    ///
    /// # Errors
    /// [`Error::Io`] with the path for anything else.
    pub fn set_meta(&self, meta: &PlainMeta<'_>) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let found = fstat(&self.file).map_err(|errno| self.failed("fstat", errno.into()))?;
        let is_owned = self.set_owner(&found, meta, &mut warnings)?;
        self.set_xattrs(meta, &mut warnings)?;
        if found.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFLNK.bits() {
            let mut mode = meta.mode & 0o7777;
            if !is_owned && mode & 0o6000 != 0 {
                // They would give the rights of the wrong user.
                mode &= !0o6000;
                warnings.push(self.warning("set-id bits were left out"));
            }
            let mode = Mode::from_bits_truncate(mode);
            let done = if self.is_open {
                fchmod(&self.file, mode)
            } else {
                self.proc_mode(mode)
            };
            done.map_err(|errno| self.failed("chmod", errno.into()))?;
        }
        self.set_times(meta)?;
        Ok(warnings)
    }

    fn proc_mode(&self, mode: Mode) -> nix::Result<()> {
        fchmodat(AT_FDCWD, &self.proc(), mode, FchmodatFlags::FollowSymlink)
    }

    fn set_owner(
        &self,
        found: &FileStat,
        meta: &PlainMeta<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<bool> {
        if found.st_uid == meta.uid && found.st_gid == meta.gid {
            return Ok(true);
        }
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        let empty = OsStr::new("");
        match fchownat(
            &self.file,
            empty,
            Some(uid),
            Some(gid),
            AtFlags::AT_EMPTY_PATH,
        ) {
            Ok(()) => Ok(true),
            // EINVAL: an id that the user namespace does not map.
            Err(Errno::EPERM | Errno::EINVAL) => {
                let _ = fchownat(&self.file, empty, None, Some(gid), AtFlags::AT_EMPTY_PATH);
                let text = format!("owner {}:{} cannot be set", meta.uid, meta.gid);
                warnings.push(self.warning(&text));
                Ok(false)
            }
            Err(errno) => Err(self.failed("chown", errno.into())),
        }
    }

    fn set_xattrs(&self, meta: &PlainMeta<'_>, warnings: &mut Vec<String>) -> Result<()> {
        for name in self.xattr_names()? {
            let is_wanted = meta.xattrs.iter().any(|(wanted, _)| *wanted == name);
            if !is_wanted && (meta.removes)(&name) {
                let at = OsStr::from_bytes(&name);
                let removed = if self.is_open {
                    self.file.remove_xattr(at)
                } else {
                    xattr::remove_deref(self.proc(), at)
                };
                removed.map_err(|source| self.failed_xattr("remove", &name, source))?;
            }
        }
        for (name, value) in meta.xattrs {
            let at = OsStr::from_bytes(name);
            let found = if self.is_open {
                self.file.get_xattr(at)
            } else {
                xattr::get_deref(self.proc(), at)
            };
            if matches!(&found, Ok(Some(found)) if found == value) {
                continue;
            }
            let set = if self.is_open {
                self.file.set_xattr(at, value)
            } else {
                xattr::set_deref(self.proc(), at, value)
            };
            match set {
                Ok(()) => {}
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)) =>
                {
                    let text = format!("attribute {} cannot be set: {error}", at.display());
                    warnings.push(self.warning(&text));
                }
                Err(source) => return Err(self.failed_xattr("set", name, source)),
            }
        }
        Ok(())
    }

    fn xattr_names(&self) -> Result<Vec<Vec<u8>>> {
        let names = if self.is_open {
            self.file.list_xattr()
        } else {
            xattr::list_deref(self.proc())
        };
        match names {
            Ok(names) => Ok(names.map(OsStringExt::into_vec).collect()),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
            Err(source) => Err(self.failed("list the attributes of", source)),
        }
    }

    fn set_times(&self, meta: &PlainMeta<'_>) -> Result<()> {
        let (atime, mtime) = (spec(meta.atime), spec(meta.mtime));
        let set = if self.is_open {
            futimens(&self.file, &atime, &mtime)
        } else {
            let follow = UtimensatFlags::FollowSymlink;
            utimensat(AT_FDCWD, &self.proc(), &atime, &mtime, follow)
        };
        set.map_err(|errno| self.failed("set the times of", errno.into()))
    }

    /// A name that leads to exactly what is held open: the kernel jumps there and follows nothing further,
    /// not even a symbolic link that is held itself.
    fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    fn failed_xattr(&self, op: &str, name: &[u8], source: io::Error) -> Error {
        let name = OsStr::from_bytes(name);
        self.failed(&format!("{op} the attribute {} of", name.display()), source)
    }

    fn warning(&self, text: &str) -> String {
        format!("{}: {text}", self.path.display())
    }
}

fn spec(time: Timestamp) -> TimeSpec {
    TimeSpec::new(time.secs, i64::from(time.nanos))
}

fn facts_of(found: &FileStat) -> PlainFacts {
    let kind = match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => PlainKind::Directory,
        SFlag::S_IFLNK => PlainKind::Symlink,
        SFlag::S_IFIFO => PlainKind::Fifo,
        SFlag::S_IFSOCK => PlainKind::Socket,
        SFlag::S_IFCHR => PlainKind::CharDevice,
        SFlag::S_IFBLK => PlainKind::BlockDevice,
        _ => PlainKind::Regular,
    };
    let time = |secs, nanos| Timestamp {
        secs,
        nanos: u32::try_from(nanos).unwrap_or(0),
    };
    PlainFacts {
        kind,
        id: PlainId {
            dev: found.st_dev,
            ino: found.st_ino,
        },
        mode: found.st_mode & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
        size_bytes: u64::try_from(found.st_size).unwrap_or(0),
        link_count: found.st_nlink,
        mtime: time(found.st_mtime, found.st_mtime_nsec),
        ctime: time(found.st_ctime, found.st_ctime_nsec),
        rdev_major: libc::major(found.st_rdev),
        rdev_minor: libc::minor(found.st_rdev),
    }
}
