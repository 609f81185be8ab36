//! System calls as values: made at random, and run below one directory.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{Error, Result, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{mkdir, mkfifo, truncate};

use crate::dice::{Dice, noise};
use crate::sys::{copy_file_range, get_xattr, remove_xattr, set_xattr};
use crate::trees::{digest, facts, xattrs};

/// Files that a sequence may have open at once.
const SLOTS: usize = 4;
/// Directories of one level and files in them have these names; few, so that calls meet.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "longer name with ümlaut", "x.tmp"];
/// Offsets and sizes are around these: pages, chunks, requests of the kernel.
const PLACES: [u64; 8] = [0, 1, 4096, 8192, 65_536, 131_072, 262_144, 300_000];

/// One call. Paths are relative to the sequence's directory.
#[derive(Clone, Debug)]
pub enum Call {
    Open {
        slot: usize,
        path: PathBuf,
        flags: i32,
        create: bool,
    },
    Close {
        slot: usize,
    },
    Write {
        slot: usize,
        seed: u64,
        len: usize,
    },
    WriteAt {
        slot: usize,
        off: u64,
        seed: u64,
        len: usize,
    },
    ReadAt {
        slot: usize,
        off: u64,
        len: usize,
    },
    SetLen {
        slot: usize,
        size: u64,
    },
    Allocate {
        slot: usize,
        mode: i32,
        off: u64,
        len: u64,
    },
    Sync {
        slot: usize,
        data_only: bool,
    },
    StatOpen {
        slot: usize,
    },
    Copy {
        from: usize,
        to: usize,
        from_off: u64,
        to_off: u64,
        len: u64,
    },
    Truncate {
        path: PathBuf,
        size: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        flags: u32,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    Mkdir {
        path: PathBuf,
        mode: u32,
    },
    Rmdir {
        path: PathBuf,
    },
    Symlink {
        target: PathBuf,
        path: PathBuf,
    },
    Mkfifo {
        path: PathBuf,
        mode: u32,
    },
    Chmod {
        path: PathBuf,
        mode: u32,
    },
    Chown {
        path: PathBuf,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Times {
        path: PathBuf,
        atime: i64,
        mtime: i64,
        nanos: i64,
    },
    SetXattr {
        path: PathBuf,
        name: u64,
        len: usize,
        flags: i32,
    },
    RemoveXattr {
        path: PathBuf,
        name: u64,
    },
    GetXattr {
        path: PathBuf,
        name: u64,
    },
    Look {
        path: PathBuf,
    },
    List {
        path: PathBuf,
    },
    Remount,
    Snapshot,
}

/// What the calls are made of.
trait Parts {
    fn slot(&mut self) -> usize;
    fn path(&mut self) -> PathBuf;
    fn place(&mut self) -> u64;
    fn len(&mut self) -> u64;
    fn mode(&mut self) -> u32;
}

impl Parts for Dice {
    fn slot(&mut self) -> usize {
        usize::try_from(self.below(SLOTS as u64)).unwrap()
    }

    fn path(&mut self) -> PathBuf {
        let mut path = PathBuf::new();
        for _ in 0..self.pick(&[1, 1, 1, 2, 2, 3]) {
            path.push(self.pick(&NAMES));
        }
        match self.below(200) {
            0 => path.push("n".repeat(255)),
            1 => path.push("n".repeat(256)),
            2 => path.push("."),
            3 => path.push(".."),
            _ => {}
        }
        path
    }

    fn place(&mut self) -> u64 {
        let near = self.below(40);
        let place = self.pick(&PLACES) + near;
        if self.one_in(2) { place - near } else { place }
    }

    fn len(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1..=4 => self.below(5_000),
            5 | 6 => 4096 * (1 + self.below(8)),
            _ => self.below(150_000),
        }
    }

    fn mode(&mut self) -> u32 {
        self.pick(&[
            0o644, 0o755, 0o600, 0o777, 0o1777, 0o2755, 0o4755, 0o6711, 0o000,
        ])
    }
}

/// A random sequence.
pub fn sequence(dice: &mut Dice, len: usize) -> Vec<Call> {
    // Few sequences pay for a remount of their own.
    let remounts = dice.one_in(20);
    (0..len)
        .map(|_| match dice.below(100) {
            0 if remounts => Call::Remount,
            0 | 1 => Call::Snapshot,
            2..=17 => open(dice),
            18..=57 => on_open_file(dice),
            _ => on_path(dice),
        })
        .collect()
}

fn open(dice: &mut Dice) -> Call {
    let access = dice.pick(&[
        libc::O_RDWR,
        libc::O_RDWR,
        libc::O_RDWR,
        libc::O_WRONLY,
        libc::O_RDONLY,
    ]);
    let extra = dice.pick(&[
        0,
        0,
        0,
        libc::O_APPEND,
        libc::O_TRUNC,
        libc::O_EXCL,
        libc::O_DSYNC,
        libc::O_NOFOLLOW,
    ]);
    Call::Open {
        slot: dice.slot(),
        path: dice.path(),
        // Without it, opening a fifo waits for its other end.
        flags: access | extra | libc::O_NONBLOCK,
        create: !dice.one_in(4),
    }
}

fn on_open_file(dice: &mut Dice) -> Call {
    let slot = dice.slot();
    let (off, len) = (dice.place(), dice.len());
    let bytes = usize::try_from(len).unwrap();
    let seed = dice.below(1000);
    match dice.below(40) {
        0..=9 => Call::WriteAt {
            slot,
            off,
            seed,
            len: bytes,
        },
        10..=15 => Call::Write {
            slot,
            seed,
            len: bytes,
        },
        16..=20 => Call::ReadAt {
            slot,
            off,
            len: bytes,
        },
        21..=24 => Call::SetLen { slot, size: off },
        25..=29 => Call::Allocate {
            slot,
            mode: dice.pick(&[
                0,
                libc::FALLOC_FL_KEEP_SIZE,
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                libc::FALLOC_FL_PUNCH_HOLE,
                libc::FALLOC_FL_ZERO_RANGE,
                libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
            ]),
            off,
            len,
        },
        30 | 31 => Call::Sync {
            slot,
            data_only: dice.one_in(2),
        },
        32 | 33 => Call::StatOpen { slot },
        34..=37 => Call::Copy {
            from: dice.slot(),
            to: slot,
            from_off: dice.place(),
            to_off: off,
            len,
        },
        _ => Call::Close { slot },
    }
}

fn on_path(dice: &mut Dice) -> Call {
    let path = dice.path();
    match dice.below(42) {
        0..=6 => Call::Rename {
            from: path,
            to: dice.path(),
            flags: dice.pick(&[
                0,
                0,
                0,
                libc::RENAME_NOREPLACE,
                libc::RENAME_EXCHANGE,
                libc::RENAME_EXCHANGE,
                libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE,
            ]),
        },
        7..=9 => Call::Link {
            from: path,
            to: dice.path(),
        },
        10..=13 => Call::Unlink { path },
        14..=19 => Call::Mkdir {
            path,
            mode: dice.mode(),
        },
        20..=22 => Call::Rmdir { path },
        23 | 24 => Call::Symlink {
            target: dice.path(),
            path,
        },
        25 => Call::Mkfifo {
            path,
            mode: dice.mode(),
        },
        26 | 27 => Call::Truncate {
            path,
            size: dice.place(),
        },
        28 | 29 => Call::Chmod {
            path,
            mode: dice.mode(),
        },
        30 => Call::Chown {
            path,
            uid: dice.pick(&[None, Some(0), Some(1000)]),
            gid: dice.pick(&[None, Some(0), Some(77)]),
        },
        31 | 32 => Call::Times {
            path,
            atime: dice.pick(&[0, 1, 1_000_000_000, -5]),
            mtime: dice.pick(&[0, 1, 1_500_000_000, -1]),
            nanos: dice.pick(&[0, 1, 999_999_999, libc::UTIME_OMIT]),
        },
        33 | 34 => Call::SetXattr {
            path,
            name: dice.below(4),
            len: usize::try_from(dice.below(200)).unwrap(),
            flags: dice.pick(&[0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE]),
        },
        35 => Call::RemoveXattr {
            path,
            name: dice.below(4),
        },
        36 => Call::GetXattr {
            path,
            name: dice.below(4),
        },
        37 | 38 => Call::List { path },
        _ => Call::Look { path },
    }
}

/// One directory in which a sequence runs, with the files that it has open.
pub struct Side {
    root: PathBuf,
    open: [Option<File>; SLOTS],
}

impl Side {
    /// Makes the directory.
    pub fn new(root: PathBuf) -> Self {
        fs::create_dir(&root).unwrap();
        Self {
            root,
            open: Default::default(),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Closes all files.
    pub fn close(&mut self) {
        self.open = Default::default();
    }

    /// Runs one call and tells what it did: a value, or the name of the error.
    pub fn run(&mut self, call: &Call) -> String {
        match self.attempt(call) {
            Ok(value) => value,
            Err(error) => match error.raw_os_error() {
                Some(code) => format!("{:?}", nix::errno::Errno::from_raw(code)),
                None => error.to_string(),
            },
        }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    fn file(&self, slot: usize) -> Result<&File> {
        self.open[slot]
            .as_ref()
            .ok_or_else(|| Error::from_raw_os_error(libc::EBADF))
    }

    fn attempt(&mut self, call: &Call) -> Result<String> {
        match call {
            Call::Open {
                slot,
                path,
                flags,
                create,
            } => {
                self.open[*slot] = None;
                let file = open_file(&self.at(path), *flags, *create)?;
                let shown = open_facts(&file.metadata()?);
                self.open[*slot] = Some(file);
                Ok(shown)
            }
            Call::Close { slot } => {
                self.open[*slot] = None;
                Ok("closed".into())
            }
            Call::Copy {
                from,
                to,
                from_off,
                to_off,
                len,
            } => copy(
                self.file(*from)?,
                self.file(*to)?,
                (*from_off, *to_off),
                *len,
            ),
            Call::Write { slot, .. }
            | Call::WriteAt { slot, .. }
            | Call::ReadAt { slot, .. }
            | Call::SetLen { slot, .. }
            | Call::Allocate { slot, .. }
            | Call::Sync { slot, .. }
            | Call::StatOpen { slot } => use_file(self.file(*slot)?, call),
            other => self
                .use_path(other)
                .map(|done| done.unwrap_or_else(|| "done".into())),
        }
    }

    fn use_path(&self, call: &Call) -> Result<Option<String>> {
        match call {
            Call::Truncate { path, size } => {
                truncate(&self.at(path), i64::try_from(*size).unwrap())?
            }
            Call::Rename { from, to, flags } => {
                let flags = RenameFlags::from_bits_truncate(*flags);
                renameat2(AT_FDCWD, &self.at(from), AT_FDCWD, &self.at(to), flags)?;
            }
            Call::Link { from, to } => fs::hard_link(self.at(from), self.at(to))?,
            Call::Unlink { path } => nix::unistd::unlink(&self.at(path))?,
            Call::Mkdir { path, mode } => mkdir(&self.at(path), Mode::from_bits_truncate(*mode))?,
            Call::Rmdir { path } => fs::remove_dir(self.at(path))?,
            Call::Symlink { target, path } => std::os::unix::fs::symlink(target, self.at(path))?,
            Call::Mkfifo { path, mode } => mkfifo(&self.at(path), Mode::from_bits_truncate(*mode))?,
            Call::Chmod { path, mode } => {
                fs::set_permissions(self.at(path), Permissions::from_mode(*mode))?;
            }
            Call::Chown { path, uid, gid } => std::os::unix::fs::lchown(self.at(path), *uid, *gid)?,
            Call::Times { path, .. } => return set_times(&self.at(path), call).map(Some),
            Call::SetXattr {
                path,
                name,
                len,
                flags,
            } => {
                set_xattr(
                    &self.at(path),
                    &xattr_name(*name),
                    &noise(*name, *len),
                    *flags,
                )?;
            }
            Call::RemoveXattr { path, name } => remove_xattr(&self.at(path), &xattr_name(*name))?,
            Call::GetXattr { path, name } => {
                return Ok(Some(digest(&get_xattr(
                    &self.at(path),
                    &xattr_name(*name),
                    100,
                )?)));
            }
            Call::Look { path } => return self.look(path).map(Some),
            Call::List { path } => return list(&self.at(path)).map(Some),
            _ => unreachable!("not a call on a path"),
        }
        Ok(None)
    }

    fn look(&self, path: &Path) -> Result<String> {
        let full = self.at(path);
        let meta = fs::symlink_metadata(&full)?;
        let mut text = format!("{} {}", facts(&meta), xattrs(&full));
        if meta.is_symlink() {
            text.push_str(&format!(" -> {:?}", fs::read_link(&full)?));
        }
        Ok(text)
    }
}

fn xattr_name(number: u64) -> String {
    format!("user.name{number}")
}

/// Like `facts`, of a file that may have no name any more.
fn open_facts(meta: &Metadata) -> String {
    facts(meta)
}

fn open_file(path: &Path, flags: i32, create: bool) -> Result<File> {
    let access = flags & libc::O_ACCMODE;
    let mut options = OpenOptions::new();
    options
        .read(access != libc::O_WRONLY)
        .write(access != libc::O_RDONLY);
    let mut custom = flags & !libc::O_ACCMODE;
    if create {
        custom |= libc::O_CREAT;
    }
    // The standard library refuses some pairs of flags that the system understands.
    options.custom_flags(custom).mode(0o664).open(path)
}

fn use_file(file: &File, call: &Call) -> Result<String> {
    match call {
        Call::Write { seed, len, .. } => {
            let mut file = file;
            file.write(&noise(*seed, *len))
                .map(|done| format!("{done} written"))
        }
        Call::WriteAt { off, seed, len, .. } => file
            .write_at(&noise(*seed, *len), *off)
            .map(|done| format!("{done} written")),
        Call::ReadAt { off, len, .. } => {
            let mut bytes = vec![0; *len];
            let mut done = 0;
            while done < *len {
                match file.read_at(&mut bytes[done..], off + done as u64)? {
                    0 => break,
                    more => done += more,
                }
            }
            Ok(digest(&bytes[..done]))
        }
        Call::SetLen { size, .. } => file.set_len(*size).map(|()| "done".into()),
        Call::Allocate { mode, off, len, .. } => {
            let (off, len) = (i64::try_from(*off).unwrap(), i64::try_from(*len).unwrap());
            fallocate(file, FallocateFlags::from_bits_retain(*mode), off, len)?;
            Ok("done".into())
        }
        Call::Sync { data_only, .. } => if *data_only {
            file.sync_data()
        } else {
            file.sync_all()
        }
        .map(|()| "done".into()),
        _ => Ok(open_facts(&file.metadata()?)),
    }
}

fn copy(from: &File, to: &File, at: (u64, u64), len: u64) -> Result<String> {
    let (mut from_off, mut to_off) = (i64::try_from(at.0).unwrap(), i64::try_from(at.1).unwrap());
    let mut done = 0;
    let len = usize::try_from(len).unwrap();
    while done < len {
        match copy_file_range((from, &mut from_off), (to, &mut to_off), len - done)? {
            0 => break,
            more => done += more,
        }
    }
    Ok(format!("{done} copied"))
}

fn set_times(path: &Path, call: &Call) -> Result<String> {
    let Call::Times {
        atime,
        mtime,
        nanos,
        ..
    } = call
    else {
        unreachable!("not a call on times");
    };
    let (a, m) = (TimeSpec::new(*atime, *nanos), TimeSpec::new(*mtime, 0));
    utimensat(AT_FDCWD, path, &a, &m, UtimensatFlags::NoFollowSymlink)?;
    let meta = fs::symlink_metadata(path)?;
    let atime = match *nanos {
        libc::UTIME_OMIT => String::new(),
        _ => format!("{}.{:09}", meta.atime(), meta.atime_nsec()),
    };
    Ok(format!(
        "atime {atime} mtime {}.{:09}",
        meta.mtime(),
        meta.mtime_nsec()
    ))
}

fn list(path: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        names.push((
            entry.file_name().as_bytes().to_vec(),
            kind.is_dir(),
            kind.is_symlink(),
        ));
    }
    names.sort();
    Ok(format!("{names:?}"))
}
