//! What `/proc/self/mountinfo` says is mounted where, without touching the mounted filesystems: a dead
//! one would answer with an error, a hung one not at all.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{read, write};

use crate::base::{Error, Result};

/// The type under which a mount of this program shows in `/proc/mounts`.
pub(super) const FS_TYPE: &str = "fuse.mmhfs";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Device number that `stat` gives for files on it: major and minor.
    pub(super) device: (u32, u32),
    /// Type, such as "fuse.mmhfs" or "ext4".
    pub(super) fs_type: String,
}

/// The mount that is on top at exactly this path, if any.
///
/// # Errors
/// [`Error::Io`] if the list cannot be read.
pub(super) fn on_top(path: &Path) -> Result<Option<Entry>> {
    let list = slurp("/proc/self/mountinfo")?;
    Ok(find(&list, path))
}

/// Writes a value into a file of `/proc` or `/sys`.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened or does not take the value.
pub(super) fn set(path: &str, value: &str) -> Result<()> {
    let failed = |e: nix::Error| Error::io(format!("write {path}"), e.into());
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
    write(&file, value.as_bytes()).map_err(failed)?;
    Ok(())
}

/// The path of a mountpoint as the kernel lists it.
///
/// Works for a dead mount too, where the last component cannot be looked at.
///
/// # Errors
/// [`Error::Io`] if the path does not exist.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    let error = match path.canonicalize() {
        Ok(path) => return Ok(path),
        Err(error) => error,
    };
    let parent = path.parent().map(Path::canonicalize);
    if let (Some(Ok(parent)), Some(name)) = (parent, path.file_name()) {
        let path = parent.join(name);
        if on_top(&path)?.is_some() {
            return Ok(path);
        }
    }
    Err(Error::io(format!("mountpoint {}", path.display()), error))
}

/// Reads a file of `/proc`, which has no length to go by.
fn slurp(path: &str) -> Result<Vec<u8>> {
    let failed = |e: nix::Error| Error::io(format!("read {path}"), e.into());
    let file = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
    let (mut all, mut part) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let len = read(&file, &mut part).map_err(failed)?;
        match part.get(..len) {
            Some(bytes) if len > 0 => all.extend_from_slice(bytes),
            _ => return Ok(all),
        }
    }
}

/// The last of the lines for a path is the mount on top.
fn find(list: &[u8], path: &Path) -> Option<Entry> {
    list.split(|b| *b == b'\n')
        .filter_map(parse)
        .filter(|(at, _)| at == path)
        .map(|(_, entry)| entry)
        .next_back()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`, see proc(5).
fn parse(line: &[u8]) -> Option<(PathBuf, Entry)> {
    let mut fields = line.split(|b| *b == b' ');
    let device = str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let at = unescape(fields.nth(1)?);
    // Optional fields end with a lone "-".
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    let entry = Entry {
        device: (major.parse().ok()?, minor.parse().ok()?),
        fs_type: OsStr::from_bytes(fs_type).to_string_lossy().into_owned(),
    };
    Some((at, entry))
}

/// Spaces, tabs, newlines and backslashes are listed as `\` and three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .first_chunk::<3>()
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, octal, tail.get(3..)) {
            (b'\\', Some(byte), Some(after)) => {
                plain.push(byte);
                rest = after;
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"36 35 98:0 / / rw,noatime master:1 - ext3 /dev/root rw\n\
        40 36 0:50 / /mnt/a\\040b rw,relatime - tmpfs tmpfs rw\n\
        41 40 0:51 / /mnt/a\\040b rw shared:3 master:2 - fuse.mmhfs /st\\040ore rw,user_id=0\n";

    #[test]
    fn the_last_mount_at_a_path_is_the_one_on_top() {
        let top = find(LIST, Path::new("/mnt/a b")).unwrap();
        assert_eq!(top.device, (0, 51));
        assert_eq!(top.fs_type, FS_TYPE);
    }

    #[test]
    fn a_path_below_a_mount_is_not_a_mount() {
        assert_eq!(find(LIST, Path::new("/mnt")), None);
    }

    #[test]
    fn the_root_of_this_machine_is_listed() {
        assert!(on_top(Path::new("/")).unwrap().is_some());
    }

    #[test]
    fn a_mountpoint_that_does_not_exist_is_an_error_that_names_it() {
        let error = resolve(Path::new("/nonexistent/x")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x"));
    }
}
