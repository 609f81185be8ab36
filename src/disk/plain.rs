//! Reads plain directory trees, for `mmhfs seed`: facts, names, attributes, bytes and holes.
//!
//! Symbolic links are never followed. Every error names the file. Paths are passed whole, so a path
//! longer than the kernel takes in one call (4,095 bytes) is an error, not an omission.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::base::{Error, Result, Timestamp};

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// What identifies a file among all mounted filesystems, however many names it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlainId {
    /// The filesystem.
    pub dev: u64,
    /// The inode number in it.
    pub ino: u64,
}

/// What `lstat` says. Two reads that are equal had no change of the file between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainFacts {
    /// What it is.
    pub kind: PlainKind,
    /// Identity, for hard links.
    pub id: PlainId,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Number of names.
    pub link_count: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of anything; it cannot be set back.
    pub ctime: Timestamp,
    /// Major number of a device.
    pub rdev_major: u32,
    /// Minor number of a device.
    pub rdev_minor: u32,
}

/// Extended attributes: names and values, sorted by name.
pub type PlainXattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The facts of what `path` itself names.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn plain_facts(path: &Path) -> Result<PlainFacts> {
    let found = fs::symlink_metadata(path).map_err(|source| named("lstat", path, source))?;
    facts_of(path, &found)
}

/// The facts of the directory that `path` leads to: the one place where a symbolic link is followed,
/// because the user named it.
///
/// # Errors
/// [`Error::Io`] with the path; [`Error::Usage`] if it is not a directory.
pub fn plain_root(path: &Path) -> Result<PlainFacts> {
    let found = fs::metadata(path).map_err(|source| named("stat", path, source))?;
    if !found.is_dir() {
        return Err(Error::Usage(format!(
            "{} is not a directory",
            path.display()
        )));
    }
    facts_of(path, &found)
}

/// Whether `path`, which need not exist, is the directory `dir` or lies below it, by whatever names.
///
/// # Errors
/// [`Error::Io`] with the path; [`Error::Usage`] for a `..` behind something that does not exist.
pub fn is_within(path: &Path, dir: &Path) -> Result<bool> {
    let outer = plain_root(dir)?.id;
    let mut at = std::path::absolute(path).map_err(|source| named("stat", path, source))?;
    let real = loop {
        match fs::canonicalize(&at) {
            Ok(real) => break real,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                if at.ends_with("..") {
                    let text = format!("{} leads through what is not there", path.display());
                    return Err(Error::Usage(text));
                }
                if !at.pop() {
                    return Err(named("stat", path, source));
                }
            }
            Err(source) => return Err(named("stat", path, source)),
        }
    };
    for above in real.ancestors() {
        if plain_facts(above)?.id == outer {
            return Ok(true);
        }
    }
    Ok(false)
}

fn facts_of(path: &Path, found: &Metadata) -> Result<PlainFacts> {
    let kind = found.file_type();
    let kind = if kind.is_file() {
        PlainKind::Regular
    } else if kind.is_dir() {
        PlainKind::Directory
    } else if kind.is_symlink() {
        PlainKind::Symlink
    } else if kind.is_fifo() {
        PlainKind::Fifo
    } else if kind.is_socket() {
        PlainKind::Socket
    } else if kind.is_char_device() {
        PlainKind::CharDevice
    } else if kind.is_block_device() {
        PlainKind::BlockDevice
    } else {
        return Err(Error::Usage(format!(
            "{} is of an unknown type",
            path.display()
        )));
    };
    Ok(PlainFacts {
        kind,
        id: PlainId {
            dev: found.dev(),
            ino: found.ino(),
        },
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        size_bytes: found.size(),
        link_count: found.nlink(),
        mtime: timestamp(found.mtime(), found.mtime_nsec()),
        ctime: timestamp(found.ctime(), found.ctime_nsec()),
        rdev_major: libc::major(found.rdev()),
        rdev_minor: libc::minor(found.rdev()),
    })
}

fn timestamp(secs: i64, nanos: i64) -> Timestamp {
    Timestamp {
        secs,
        nanos: u32::try_from(nanos).unwrap_or(0),
    }
}

/// The names in a directory in byte order, without `.` and `..`.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn plain_names(path: &Path) -> Result<Vec<Vec<u8>>> {
    let entries = fs::read_dir(path).map_err(|source| named("read directory", path, source))?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name().into_vec()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|source| named("read directory", path, source))?;
    names.sort_unstable();
    Ok(names)
}

/// The target of a symbolic link, as it is stored.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn plain_link_target(path: &Path) -> Result<Vec<u8>> {
    let target = fs::read_link(path).map_err(|source| named("readlink", path, source))?;
    Ok(target.into_os_string().into_vec())
}

/// The extended attributes of what `path` itself names, of those that `wanted` asks for by name.
///
/// A filesystem without extended attributes has none.
///
/// # Errors
/// [`Error::Io`] with the path and the attribute if one that is wanted cannot be read or has just gone:
/// leaving it out would name another tree.
pub fn plain_xattrs(path: &Path, wanted: impl Fn(&[u8]) -> bool) -> Result<PlainXattrs> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(source) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(source) => return Err(named("list the attributes of", path, source)),
    };
    let mut found = PlainXattrs::new();
    for name in names.filter(|name| wanted(name.as_bytes())) {
        let failed = |source| {
            let op = format!("read the attribute {} of", name.display());
            named(&op, path, source)
        };
        let value = xattr::get(path, &name)
            .map_err(failed)?
            .ok_or_else(|| failed(io::Error::from_raw_os_error(libc::ENODATA)))?;
        found.push((name.into_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}

/// A regular file that is open for reading.
#[derive(Debug)]
pub struct PlainFile {
    path: PathBuf,
    file: File,
}

impl PlainFile {
    /// Opens a regular file; neither a symbolic link nor a fifo that took its place can mislead it.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|source| named("open", path, source))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// A regular file that was opened in another way; `path` is for messages.
    pub(super) fn from_file(path: PathBuf, file: File) -> Self {
        Self { path, file }
    }

    /// The facts of the open file, which a rename cannot exchange.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn facts(&self) -> Result<PlainFacts> {
        let found = self
            .file
            .metadata()
            .map_err(|source| named("fstat", &self.path, source))?;
        facts_of(&self.path, &found)
    }

    /// The first run of data at or after `off`, within the first `len` bytes; `None` if only holes follow.
    ///
    /// A filesystem that does not know its holes says that everything is data.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn next_data(&self, off: u64, len: u64) -> Result<Option<Range<u64>>> {
        if off >= len {
            return Ok(None);
        }
        let start = match self.seek(off, Whence::SeekData) {
            Ok(start) => start.max(off),
            Err(Errno::ENXIO) => return Ok(None),
            Err(Errno::EINVAL) => return Ok(Some(off..len)),
            Err(errno) => return Err(named("seek in", &self.path, errno.into())),
        };
        if start >= len {
            return Ok(None);
        }
        let end = match self.seek(start, Whence::SeekHole) {
            Ok(end) => end.clamp(start + 1, len),
            // The file shrank; the facts after reading will say so.
            Err(Errno::ENXIO) => len,
            Err(errno) => return Err(named("seek in", &self.path, errno.into())),
        };
        Ok(Some(start..end))
    }

    fn seek(&self, off: u64, whence: Whence) -> nix::Result<u64> {
        let off = i64::try_from(off).map_err(|_| Errno::EOVERFLOW)?;
        let found = lseek(&self.file, off, whence)?;
        u64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }

    /// Whether the file gives nothing at `off`, where its length says that it ends: those of `/proc` do not keep to it.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn ends_at(&self, off: u64) -> Result<bool> {
        let found = self.file.read_at(&mut [0], off);
        let found = found.map_err(|source| named("read", &self.path, source))?;
        Ok(found == 0)
    }

    /// Fills `buf` from the file's bytes at `off`.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, also if the file ends before.
    pub fn read_exact_at(&self, buf: &mut [u8], off: u64) -> Result<()> {
        self.file
            .read_exact_at(buf, off)
            .map_err(|source| named("read", &self.path, source))
    }
}

fn named(op: &str, path: &Path, source: io::Error) -> Error {
    Error::io(format!("{op} {}", path.display()), source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_byte_order_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "a", "B", "ä"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let names = plain_names(dir.path()).unwrap();
        assert_eq!(
            names,
            ["B", "a", "b", "link", "ä"].map(|name| name.as_bytes().to_vec())
        );
        let link = dir.path().join("link");
        assert_eq!(plain_facts(&link).unwrap().kind, PlainKind::Symlink);
        assert_eq!(plain_link_target(&link).unwrap(), b"a");
        assert!(PlainFile::open(&link).is_err());
    }

    #[test]
    fn errors_name_the_path() {
        let missing = Path::new("/nonexistent/a/b");
        let texts = [
            plain_facts(missing).unwrap_err().to_string(),
            plain_names(missing).unwrap_err().to_string(),
            plain_link_target(missing).unwrap_err().to_string(),
            plain_xattrs(missing, |_| true).unwrap_err().to_string(),
            PlainFile::open(missing).unwrap_err().to_string(),
        ];
        for text in texts {
            assert!(text.contains("/nonexistent/a/b"), "{text}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(
            plain_root(file.path())
                .unwrap_err()
                .to_string()
                .contains("not a directory")
        );
    }

    #[test]
    fn data_runs_cover_every_byte_that_is_not_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(b"x", 4 << 20).unwrap();
        let file = PlainFile::open(&path).unwrap();
        let mut at = 0;
        let mut holds = false;
        while let Some(run) = file.next_data(at, 10 << 20).unwrap() {
            assert!(run.start >= at && run.end > run.start && run.end <= 10 << 20);
            holds |= run.contains(&(4 << 20));
            at = run.end;
        }
        assert!(holds);
        assert_eq!(file.next_data(10 << 20, 10 << 20).unwrap(), None);
        assert_eq!(file.next_data(0, 0).unwrap(), None);
    }
}
