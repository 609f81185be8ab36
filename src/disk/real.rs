//! The real disk: a directory of the operating system.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

use super::traits::{Access, Disk, DiskFile, Space};
use crate::base::{ByteLen, Error, PackOff, Result};

/// A [`Disk`] whose root is a directory.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The disk rooted at `root`, which should exist.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Says what an error of the system means: a full disk and an exceeded quota are [`Error::NoSpace`].
fn translate(op: &str, name: &str, source: io::Error) -> Error {
    let errno = source.raw_os_error().map(Errno::from_raw);
    match errno {
        Some(Errno::ENOSPC | Errno::EDQUOT) => Error::NoSpace,
        Some(Errno::ENOENT) => Error::NotFound,
        Some(Errno::EEXIST) => Error::Exists,
        _ => Error::io(format!("{op} {name}"), source),
    }
}

fn wrap(name: &str, file: File) -> Arc<dyn DiskFile> {
    Arc::new(RealFile {
        name: name.to_owned(),
        file,
    })
}

impl Disk for RealDisk {
    fn create_new(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path(name));
        match opened {
            Ok(file) => Ok(wrap(name, file)),
            Err(e) => Err(translate("create", name, e)),
        }
    }

    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn DiskFile>> {
        let opened = OpenOptions::new()
            .read(true)
            .write(access == Access::ReadWrite)
            .open(self.path(name));
        match opened {
            Ok(file) => Ok(wrap(name, file)),
            Err(e) => Err(translate("open", name, e)),
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        std::fs::rename(self.path(from), self.path(to)).map_err(|e| translate("rename", from, e))
    }

    fn remove(&self, name: &str) -> Result<()> {
        std::fs::remove_file(self.path(name)).map_err(|e| translate("remove", name, e))
    }

    fn create_dir(&self, name: &str) -> Result<()> {
        match std::fs::create_dir(self.path(name)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.path(name).is_dir() => {
                Ok(())
            }
            other => other.map_err(|e| translate("mkdir", name, e)),
        }
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(self.path(dir)).map_err(|e| translate("list", dir, e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| translate("list", dir, e))?;
            // A name that is not UTF-8 is none that a store makes.
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        File::open(self.path(dir))
            .and_then(|d| d.sync_all())
            .map_err(|e| translate("fsync directory", dir, e))
    }

    fn len(&self, name: &str) -> Result<Option<ByteLen>> {
        match std::fs::metadata(self.path(name)) {
            Ok(meta) => Ok(Some(ByteLen::from_raw(meta.len()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(translate("stat", name, e)),
        }
    }

    fn space(&self) -> Result<Space> {
        let s = statvfs(&self.root).map_err(|e| translate("statvfs", "store", e.into()))?;
        let unit = s.fragment_size();
        Ok(Space {
            total_bytes: s.blocks().saturating_mul(unit),
            free_bytes: s.blocks_free().saturating_mul(unit),
            available_bytes: s.blocks_available().saturating_mul(unit),
            files: s.files(),
            files_free: s.files_free(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.root.clone()
        } else {
            self.root.join(name)
        }
    }
}

struct RealFile {
    name: String,
    file: File,
}

impl DiskFile for RealFile {
    fn read_at(&self, off: PackOff, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = off.raw().saturating_add(done as u64);
            match self.file.read_at(rest, at) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(translate(&format!("read at offset {at} of"), &self.name, e));
                }
            }
        }
        Ok(done)
    }

    fn write_at(&self, off: PackOff, buf: &[u8]) -> Result<()> {
        self.file
            .write_all_at(buf, off.raw())
            .map_err(|e| translate(&format!("write at offset {off} of"), &self.name, e))
    }

    fn sync_data(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| translate("fdatasync", &self.name, e))
    }

    fn drop_cached(&self) {
        use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
        // What cannot be dropped is read from memory: nothing worse.
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    fn len(&self) -> Result<ByteLen> {
        match self.file.metadata() {
            Ok(meta) => Ok(ByteLen::from_raw(meta.len())),
            Err(e) => Err(translate("stat", &self.name, e)),
        }
    }
}

/// Where a symbolic link leads, as it says; `None` if the path is no symbolic link.
///
/// # Errors
/// [`Error::Io`] that names the path.
pub fn link_target(path: &Path) -> Result<Option<PathBuf>> {
    let found = std::fs::symlink_metadata(path);
    match found {
        Ok(facts) if facts.is_symlink() => std::fs::read_link(path)
            .map(Some)
            .map_err(|e| Error::io(format!("readlink {}", path.display()), e)),
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("stat {}", path.display()), e))
        }
        _ => Ok(None),
    }
}

/// Makes a symbolic link to a directory, by its absolute path without links in it; durable when this returns.
/// Returns that path.
///
/// # Errors
/// [`Error::Io`] that names the path.
pub fn link_to_dir(dir: &Path, link: &Path) -> Result<PathBuf> {
    let whole = dir
        .canonicalize()
        .map_err(|e| Error::io(format!("find {}", dir.display()), e))?;
    std::os::unix::fs::symlink(&whole, link)
        .map_err(|e| Error::io(format!("symlink {}", link.display()), e))?;
    link.parent().map_or(Ok(()), sync_dir_at)?;
    Ok(whole)
}

/// User and group that own a file or directory.
///
/// # Errors
/// [`Error::Io`] that names the path.
pub fn owner_of(path: &Path) -> Result<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let facts =
        std::fs::metadata(path).map_err(|e| Error::io(format!("stat {}", path.display()), e))?;
    Ok((facts.uid(), facts.gid()))
}

/// Removes a directory with everything in it; one that does not exist is fine.
///
/// # Errors
/// [`Error::Io`] that names the path.
pub fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// Sum of the lengths of the files in a directory, without its subdirectories; 0 if there is none.
///
/// # Errors
/// [`Error::Io`] that names the path.
pub fn files_len(path: &Path) -> Result<u64> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Ok(0);
    };
    let mut sum = 0_u64;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(format!("list {}", path.display()), e))?;
        // A file that goes away meanwhile no longer counts.
        sum = sum.saturating_add(entry.metadata().map_or(0, |facts| facts.len()));
    }
    Ok(sum)
}

/// Creates a directory and those above it, each durably; one that exists is left as it is.
///
/// # Errors
/// [`Error::Io`] that names the path.
pub fn create_dirs(path: &Path) -> Result<()> {
    let holders = holders_of_new(path);
    std::fs::create_dir_all(path)
        .map_err(|e| Error::io(format!("create {}", path.display()), e))?;
    // A name is durable once the directory that holds it is synced, whatever was synced below it.
    holders.iter().try_for_each(|holder| sync_dir_at(holder))
}

/// The directories that get a new name when `path` is created, from the top; the parent of one that is there
/// already counts too: who made it may not have synced it.
fn holders_of_new(path: &Path) -> Vec<PathBuf> {
    let mut holders = Vec::new();
    for dir in path.ancestors() {
        let holder = match dir.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => break,
        };
        holders.push(holder.to_owned());
        if dir.is_dir() {
            break;
        }
    }
    holders.reverse();
    holders
}

fn sync_dir_at(dir: &Path) -> Result<()> {
    match File::open(dir) {
        // Only its owner can: a directory that we may enter but not read was not made by us.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        opened => opened
            .and_then(|dir| dir.sync_all())
            .map_err(|e| Error::io(format!("fsync {}", dir.display()), e)),
    }
}

/// Renames a directory to a name that is free, durably; one that does not exist is fine.
///
/// # Errors
/// [`Error::Io`] that names the path.
pub fn move_dir(from: &Path, to: &Path) -> Result<()> {
    match std::fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(format!("rename {}", from.display()), e)),
        Ok(()) => {}
    }
    to.parent().map_or(Ok(()), sync_dir_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bug: `init` synced what is in the store but not the directory that holds it: after a crash there was none.
    #[test]
    fn every_directory_that_gets_a_name_is_synced_when_a_store_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let names = |path: &str| -> Vec<PathBuf> { holders_of_new(&root.join(path)) };
        assert_eq!(
            names("a/b/c"),
            [
                root.parent().unwrap().to_owned(),
                root.to_owned(),
                root.join("a"),
                root.join("a/b")
            ]
        );
        create_dirs(&root.join("a/b/c")).unwrap();
        assert!(root.join("a/b/c").is_dir());
        assert_eq!(names("a/b/c"), [root.join("a/b")]);
        assert_eq!(
            holders_of_new(Path::new("no-such-name-here"))[0],
            Path::new(".")
        );
    }
}
