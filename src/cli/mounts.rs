//! The mount table, and unmounting.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, umount2};

use super::exit::{Exit, Failure, Outcome};

/// The filesystem type in the mount table.
pub(super) const TYPE: &str = "fuse.mmhfs";

/// One mounted filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    pub(super) kind: String,
    pub(super) source: PathBuf,
}

/// All mounts that this process sees, in the order of the kernel's table: later ones lie on top.
pub(super) fn table() -> Outcome<Vec<Mount>> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read(path).map_err(|e| Failure::path("read", path, &e))?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// One line of mountinfo (proc(5)): the fields after " - " are type, source and super options.
fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    Some(Mount {
        point: unescape(fields.get(4)?).into(),
        kind: String::from_utf8_lossy(fields.get(dash + 1)?).into_owned(),
        source: unescape(fields.get(dash + 2)?).into(),
    })
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| {
                let text = std::str::from_utf8(digits).ok()?;
                u8::from_str_radix(text, 8).ok()
            });
        if let Some(byte) = octal {
            out.push(byte);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(out)
}

/// The mount that `path` lies in.
pub(super) fn containing(table: &[Mount], path: &Path) -> Option<Mount> {
    let covers = table.iter().filter(|m| path.starts_with(&m.point));
    // `max_by_key` returns the last of equals: the mount on top.
    covers.max_by_key(|m| m.point.components().count()).cloned()
}

/// The mmhfs mount whose mount point is exactly `path`.
pub(super) fn at(table: &[Mount], path: &Path) -> Option<Mount> {
    let top = table.iter().rev().find(|m| m.point == path)?;
    (top.kind == TYPE).then(|| top.clone())
}

/// The absolute path with symbolic links resolved where that is possible.
///
/// A mount whose process died answers `ENOTCONN` even to `stat`; its parent still resolves.
pub(super) fn absolute(path: &Path) -> Outcome<PathBuf> {
    if let Ok(full) = fs::canonicalize(path) {
        return Ok(full);
    }
    let full = std::path::absolute(path).map_err(|e| Failure::path("resolve", path, &e))?;
    let (Some(parent), Some(name)) = (full.parent(), full.file_name()) else {
        return Ok(full);
    };
    Ok(fs::canonicalize(parent).map_or_else(|_| full.clone(), |p| p.join(name)))
}

/// Whether the process behind the mount at `path` has died.
pub(super) fn is_dead(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|e| e.raw_os_error() == Some(nix::errno::Errno::ENOTCONN as i32))
}

/// Takes a mount away: by the system call, or by fusermount3 where that needs privileges.
///
/// # Errors
/// [`Exit::Locked`] if files in it are in use (never with `lazy`), else what the system says.
pub(super) fn unmount(point: &Path, lazy: bool) -> Outcome<()> {
    let flags = MntFlags::UMOUNT_NOFOLLOW
        | if lazy {
            MntFlags::MNT_DETACH
        } else {
            MntFlags::empty()
        };
    match umount2(point, flags) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EPERM) => by_helper(point, lazy),
        Err(nix::errno::Errno::EBUSY) => Err(busy(point)),
        Err(e) => Err(Failure::path("unmount", point, &io::Error::from(e))),
    }
}

fn busy(point: &Path) -> Failure {
    Failure::new(
        Exit::Locked,
        format!(
            "{} is busy: a process has a file or its working directory in it",
            point.display()
        ),
    )
}

fn by_helper(point: &Path, lazy: bool) -> Outcome<()> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for program in ["fusermount3", "fusermount"] {
        let mut command = Command::new(program);
        command
            .arg(if lazy { "-uz" } else { "-u" })
            .arg("--")
            .arg(point);
        match command.stdin(Stdio::null()).stdout(Stdio::null()).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                if text.contains("busy") {
                    return Err(busy(point));
                }
                return Err(Failure::new(Exit::Io, text));
            }
            Err(e) => last = e,
        }
    }
    Err(Failure::io("cannot run fusermount3", &last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        40 22 0:50 / /mnt/a\\040b rw,nosuid - fuse.mmhfs /srv/st\\134ore rw,user_id=0\n\
        41 22 0:51 / /mnt/c rw master:2 propagate_from:1 - fuse.other x rw\n\
        42 22 0:52 / /mnt/c rw - fuse.mmhfs /srv/c rw\n";

    fn lines() -> Vec<Mount> {
        LINES
            .as_bytes()
            .split(|b| *b == b'\n')
            .filter_map(parse)
            .collect()
    }

    #[test]
    fn escaped_names_and_optional_fields_are_understood() {
        let table = lines();
        assert_eq!(table.len(), 4);
        let mount = at(&table, Path::new("/mnt/a b")).unwrap();
        assert_eq!(mount.source, Path::new("/srv/st\\ore"));
    }

    #[test]
    fn the_mount_on_top_counts() {
        let table = lines();
        assert_eq!(
            at(&table, Path::new("/mnt/c")).unwrap().source,
            Path::new("/srv/c")
        );
        assert_eq!(at(&table, Path::new("/mnt")), None);
        let inside = containing(&table, Path::new("/mnt/c/deep/er")).unwrap();
        assert_eq!(inside.source, Path::new("/srv/c"));
        assert_eq!(
            containing(&table, Path::new("/mnt/cc")).unwrap().kind,
            "ext4"
        );
    }
}
