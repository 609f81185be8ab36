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
    /// The kernel's number of its connection.
    pub(super) minor: u32,
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
    let (_, minor) = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?;
    Some(Mount {
        minor: minor.parse().ok()?,
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

/// Ends the connections of mounts whose process was killed and cannot end.
///
/// A thread of it may be waiting for the kernel to hand over what was written (`syncfs`). Nobody answers the
/// kernel any more, the connection closes only with the last thread, and no signal reaches that one: the store would
/// stay locked, and whoever looks at the mount would wait as well. So this comes before any look at a mount.
///
/// Returns the mounts that it has taken away.
pub(super) fn end_stuck() -> Outcome<Vec<Mount>> {
    let mut ended = Vec::new();
    for mount in table()?.iter().filter(|mount| mount.kind == TYPE) {
        let lock = fs::read_to_string(mount.source.join("lock")).unwrap_or_default();
        if holder_here(&lock).is_some_and(is_stuck) {
            log::warn!(
                "{}: ending the mount of a process that was killed",
                mount.point.display()
            );
            let abort = format!("/sys/fs/fuse/connections/{}/abort", mount.minor);
            let forced = umount2(&mount.point, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
            if forced.is_ok() {
                ended.push(mount.clone());
            } else if let Err(e) = fs::write(&abort, "1") {
                log::warn!("{abort}: {e}");
            }
        }
    }
    Ok(ended)
}

/// The process that a lock file names, if it is one of this machine.
fn holder_here(lock: &str) -> Option<u32> {
    let (pid, host) = lock.trim().strip_prefix("pid ")?.split_once(" on ")?;
    let here = nix::unistd::gethostname().ok()?;
    (here.to_str() == Some(host))
        .then(|| pid.parse().ok())
        .flatten()
}

/// Whether a process's first thread has ended and others have not.
fn is_stuck(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    is_zombie(&stat) && threads > 1
}

/// Whether a line of proc_pid_stat(5) is that of a thread that has ended.
fn is_zombie(stat: &str) -> bool {
    // The name in parentheses may have anything in it.
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
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

    /// Bug: a process that was killed while a command had it call `syncfs` on its own mount stayed for ever, and
    /// with it the lock of the store. `scripts/killpoints` meets it; here is how such a process is told.
    #[test]
    fn a_killed_process_that_cannot_end_is_told_by_its_first_thread() {
        assert!(is_zombie("14635 (mmhfs) Z 1 14635 14635 0 -1 4228364"));
        assert!(!is_zombie("14635 (mmhfs) S 1 14635 14635 0 -1 4228364"));
        assert!(!is_zombie("14635 (a) Z (b) D 1 14635 14635 0"));
        assert!(!is_zombie(""));
        assert!(!is_stuck(std::process::id()));
        let here = nix::unistd::gethostname().unwrap();
        let words = format!("pid 12 on {}\n", here.to_str().unwrap());
        assert_eq!(holder_here(&words), Some(12));
        assert_eq!(holder_here("pid 12 on another.example\n"), None);
        assert_eq!(holder_here(""), None);
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
