//! Attributes, times, device numbers and flags between the kernel's form and the engine's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::base::{Error, FileOff, Ino, Result, Timestamp};
use crate::engine::{Allocate, Caller, FileKind, OpenHow, RenameHow, SetTime, Stat, XattrMode};

/// Permission bits of a mode, set-id and sticky bits included.
const MODE_BITS: u32 = 0o7777;

/// Maps the kernel's inode numbers to the engine's and back.
///
/// The kernel's root is always 1; a mounted snapshot has another root. The two numbers change places,
/// so that the map is a bijection whatever the engine's other numbers are.
#[derive(Clone, Copy, Debug)]
pub(super) struct InoMap {
    root: Ino,
}

impl InoMap {
    /// The map for a tree with this root.
    pub(super) fn new(root: Ino) -> Self {
        Self { root }
    }

    /// The engine's number.
    pub(super) fn to_engine(self, ino: INodeNo) -> Ino {
        self.swap(Ino::from_raw(ino.0))
    }

    /// The kernel's number.
    pub(super) fn to_kernel(self, ino: Ino) -> INodeNo {
        INodeNo(self.swap(ino).raw())
    }

    fn swap(self, ino: Ino) -> Ino {
        if ino == Ino::ROOT {
            self.root
        } else if ino == self.root {
            Ino::ROOT
        } else {
            ino
        }
    }

    /// The attributes as the kernel wants them.
    pub(super) fn attr(self, stat: &Stat) -> FileAttr {
        FileAttr {
            ino: self.to_kernel(stat.ino),
            size: stat.size,
            blocks: stat.blocks,
            atime: stat.atime.to_system(),
            mtime: stat.mtime.to_system(),
            ctime: stat.ctime.to_system(),
            crtime: stat.btime.to_system(),
            kind: file_type(stat.kind),
            perm: stat.mode,
            nlink: stat.nlink,
            uid: stat.uid,
            gid: stat.gid,
            rdev: encode_dev(stat.rdev),
            blksize: 4096,
            flags: 0,
        }
    }
}

/// The attributes of "no such entry", for a reply that lets the kernel remember the absence.
pub(super) fn negative() -> FileAttr {
    FileAttr {
        // Inode 0 in the reply to a lookup is what makes it a negative entry.
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The type of an entry in the kernel's form.
pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// What `mknod(2)` asks for.
///
/// # Errors
/// [`Error::Invalid`] for a type that mknod cannot make.
pub(super) fn mknod_kind(mode: u32) -> Result<FileKind> {
    match mode & libc::S_IFMT {
        // mknod(2) takes type 0 as a regular file.
        0 | libc::S_IFREG => Ok(FileKind::File),
        libc::S_IFIFO => Ok(FileKind::Fifo),
        libc::S_IFSOCK => Ok(FileKind::Socket),
        libc::S_IFCHR => Ok(FileKind::CharDevice),
        libc::S_IFBLK => Ok(FileKind::BlockDevice),
        _ => Err(Error::Invalid("mknod of this file type")),
    }
}

/// The permission bits of a mode.
pub(super) fn permissions(mode: u32) -> u16 {
    (mode & MODE_BITS) as u16
}

/// Who sent a request.
pub(super) fn caller(req: &fuser::Request) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
        pid: req.pid(),
    }
}

/// The kernel's 32-bit device number (`new_encode_dev`): 12 bits major, 20 bits minor.
pub(super) fn encode_dev((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// Major and minor number of the kernel's 32-bit device number.
pub(super) fn decode_dev(dev: u32) -> (u32, u32) {
    (
        (dev & 0xf_ff00) >> 8,
        (dev & 0xff) | ((dev >> 12) & 0xf_ff00),
    )
}

/// A time from a request.
///
/// fuser 0.18 turns (seconds, nanoseconds) before 1970 into `epoch - (|seconds| + nanoseconds)`, while
/// the kernel means `epoch - |seconds| + nanoseconds`. Both numbers can still be read off, so this
/// undoes it: -1.5 s arrives as (-2 s, 500 ms), is handed over as -2.5 s, and becomes (-2 s, 500 ms).
pub(super) fn time(at: SystemTime) -> Timestamp {
    let (since, before): (Duration, bool) = match at.duration_since(UNIX_EPOCH) {
        Ok(since) => (since, false),
        Err(error) => (error.duration(), true),
    };
    let secs = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp {
        secs: if before { -secs } else { secs },
        nanos: since.subsec_nanos(),
    }
}

/// A time to set.
pub(super) fn set_time(at: TimeOrNow) -> SetTime {
    match at {
        TimeOrNow::SpecificTime(at) => SetTime::At(time(at)),
        TimeOrNow::Now => SetTime::Now,
    }
}

/// How a file is opened.
pub(super) fn open_how(flags: i32) -> OpenHow {
    OpenHow {
        // With the writeback cache the kernel reads the rest of a page through whatever handle there
        // is, a write-only one included. Whether the program may read is the kernel's to check.
        read: true,
        write: flags & libc::O_ACCMODE != libc::O_RDONLY,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        // O_SYNC contains the bit of O_DSYNC.
        sync: flags & libc::O_DSYNC != 0,
    }
}

/// The flags of `renameat2(2)`.
///
/// # Errors
/// [`Error::Invalid`] for RENAME_WHITEOUT and for flags that exclude one another.
pub(super) fn rename_how(flags: u32) -> Result<RenameHow> {
    let how = RenameHow {
        no_replace: flags & libc::RENAME_NOREPLACE != 0,
        exchange: flags & libc::RENAME_EXCHANGE != 0,
    };
    let known = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE;
    if flags & !known != 0 || (how.no_replace && how.exchange) {
        return Err(Error::Invalid("rename flags"));
    }
    Ok(how)
}

/// The flags of `setxattr(2)`.
///
/// # Errors
/// [`Error::Invalid`] for unknown flags and for both at once.
pub(super) fn xattr_mode(flags: i32) -> Result<XattrMode> {
    match flags {
        0 => Ok(XattrMode::Any),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Error::Invalid("setxattr flags")),
    }
}

/// The mode of `fallocate(2)`.
///
/// # Errors
/// [`Error::Unsupported`] for combinations that no filesystem knows.
pub(super) fn allocate(mode: i32) -> Result<Allocate> {
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Ok(Allocate::Reserve { keep_size }),
        libc::FALLOC_FL_PUNCH_HOLE if keep_size => Ok(Allocate::Punch),
        libc::FALLOC_FL_ZERO_RANGE => Ok(Allocate::Zero { keep_size }),
        libc::FALLOC_FL_COLLAPSE_RANGE if !keep_size => Ok(Allocate::Collapse),
        libc::FALLOC_FL_INSERT_RANGE if !keep_size => Ok(Allocate::Insert),
        _ => Err(Error::Unsupported("fallocate mode")),
    }
}

/// A file offset from a request.
///
/// # Errors
/// [`Error::FileTooLarge`] above 2^63 - 1.
pub(super) fn file_off(raw: u64) -> Result<FileOff> {
    if raw > FileOff::MAX.raw() {
        return Err(Error::FileTooLarge);
    }
    Ok(FileOff::from_raw(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_kernels_encoding() {
        for dev in [(0, 0), (1, 3), (8, 17), (0xfff, 0xf_ffff), (259, 70_000)] {
            assert_eq!(decode_dev(encode_dev(dev)), dev);
        }
        // /dev/null is 1:3 and stat(1) shows 0x103.
        assert_eq!(encode_dev((1, 3)), 0x103);
    }

    #[test]
    fn a_time_before_1970_with_a_fraction_is_what_the_kernel_meant() {
        // The kernel sends -1.5 s as (-2, 500_000_000); fuser hands over epoch - 2.5 s.
        let from_fuser = UNIX_EPOCH - Duration::new(2, 500_000_000);
        let expected = Timestamp {
            secs: -2,
            nanos: 500_000_000,
        };
        assert_eq!(time(from_fuser), expected);
        let later = UNIX_EPOCH + Duration::new(7, 9);
        assert_eq!(time(later), Timestamp { secs: 7, nanos: 9 });
    }

    #[test]
    fn the_kernels_root_is_the_engines_root_and_the_numbers_change_places() {
        let map = InoMap::new(Ino::from_raw(70));
        assert_eq!(map.to_engine(INodeNo(1)), Ino::from_raw(70));
        assert_eq!(map.to_kernel(Ino::from_raw(70)), INodeNo(1));
        assert_eq!(map.to_kernel(Ino::from_raw(1)), INodeNo(70));
        assert_eq!(map.to_engine(INodeNo(5)), Ino::from_raw(5));
    }

    #[test]
    fn a_write_only_open_may_read_and_dsync_is_sync() {
        let how = open_how(libc::O_WRONLY | libc::O_DSYNC | libc::O_APPEND);
        assert!(how.read && how.write && how.sync && how.append && !how.truncate);
        assert!(!open_how(libc::O_RDONLY).write);
    }

    #[test]
    fn whiteouts_and_contradicting_flags_are_refused() {
        assert!(rename_how(libc::RENAME_WHITEOUT).is_err());
        assert!(rename_how(libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE).is_err());
        assert!(xattr_mode(3).is_err());
        assert!(allocate(libc::FALLOC_FL_PUNCH_HOLE).is_err());
    }
}
