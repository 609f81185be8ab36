//! What is done with a store that may be full of lies: opened, read, checked, restored, changed. Errors are fine; a
//! panic, a wait without end, or a write outside of where it belongs is not.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mmhfs::base::{Error, FileOff, Ino};
use mmhfs::engine::{
    Caller, CleanOptions, Config, Engine, FileKind, KeepPolicy, NewNode, OpenHow, Place, RenameHow,
    RestoreOptions, Seek, SetAttr, WriteHow, XattrMode,
};
use mmhfs::meta::MemoryTables;
use mmhfs::sim::{Dice, Medium, SimDisk};

use super::base::{Known, RW, config, env};

/// Entries of one tree that are looked at, and bytes of one file that are read.
const ENTRIES_MAX: usize = 1200;
const READ_MAX: u64 = 4 << 20;
/// What a user who sees these numbers in the list of snapshots would still restore.
const RESTORE_ENTRIES_MAX: u64 = 2000;
const RESTORE_BYTES_MAX: u64 = 64 << 20;

/// What is done.
#[derive(Clone, Debug)]
pub struct Deeds {
    pub read_only: bool,
    pub check: bool,
    pub verify: bool,
    pub restore: bool,
    pub snapshot: bool,
    pub clean: bool,
    pub edit: bool,
    pub again: bool,
    pub dice: Dice,
}

impl Deeds {
    pub fn new(bits: u8, salt: u64) -> Self {
        let has = |bit: u8| bits >> bit & 1 == 1;
        Self {
            read_only: has(0),
            check: has(1),
            verify: has(2),
            restore: has(3),
            snapshot: has(4),
            clean: has(5),
            edit: has(6),
            again: has(7),
            dice: Dice(salt),
        }
    }
}

/// A name of the tree.
#[derive(Clone, Debug)]
struct Found {
    dir: Ino,
    name: Vec<u8>,
    ino: Ino,
    kind: FileKind,
}

struct Exercise<'a> {
    engine: &'a Engine,
    known: Option<&'a Known>,
    deeds: Deeds,
    dir: &'a Path,
}

/// A store on a disk in memory. Its lock has a directory of its own: nothing is restored into a store.
pub fn place(dir: &Path, medium: Medium, index: MemoryTables) -> Place {
    let lock = dir.join("store");
    fs::create_dir_all(&lock).unwrap();
    Place {
        disk: Arc::new(SimDisk::new(medium, 5)),
        dir: lock,
        index: Some(index),
    }
}

/// Does it; returns how many entries were seen, `None` if the store does not open.
pub fn exercise(
    dir: &Path,
    (medium, index): (Medium, MemoryTables),
    known: Option<&Known>,
    deeds: Deeds,
) -> Option<usize> {
    let place = place(dir, medium, index);
    let config = |read_only| Config {
        read_only,
        ..config()
    };
    let engine = Engine::open_on(&place, env(9), config(deeds.read_only)).ok()?;
    let again = deeds.again;
    let is_read_only = deeds.read_only;
    let mut exercise = Exercise {
        engine: &engine,
        known,
        deeds,
        dir,
    };
    let seen = exercise.run();
    let _ = engine.close();
    drop(engine);
    if again
        && !is_read_only
        && let Ok(engine) = Engine::open_on(&place, env(10), config(false))
    {
        let mut exercise = Exercise {
            engine: &engine,
            known: None,
            deeds: Deeds::new(0, 1),
            dir,
        };
        exercise.run();
        let _ = engine.check(&|_| {});
        let _ = engine.close();
    }
    Some(seen)
}

impl Exercise<'_> {
    fn run(&mut self) -> usize {
        let engine = self.engine;
        let found = self.walk(engine.root());
        let _ = (engine.statfs(), engine.stats(), engine.halted());
        let snapshots = engine.snapshots().unwrap_or_default();
        if self.deeds.check {
            let _ = engine.check(&|_| {});
        }
        for info in snapshots.iter().take(6) {
            self.snapshot(info);
        }
        if self.deeds.edit {
            self.edit(&found);
        }
        if self.deeds.snapshot {
            let _ = engine.snapshot(Some("mine"), &|_| {});
            let _ = engine.snapshot(None, &|_| {});
            let policy = KeepPolicy {
                last: 2,
                ..KeepPolicy::default()
            };
            let _ = engine.forget_snapshots(&policy, true);
        }
        if self.deeds.clean {
            let options = CleanOptions {
                dry_run: self.deeds.dice.one_in(3),
                unused_percent: 0,
            };
            let _ = engine.clean(&options, &|_, _| {});
        }
        if self.deeds.again
            && let Some(info) = snapshots.last()
            && info.entries <= RESTORE_ENTRIES_MAX
        {
            let _ = engine.diff(&info.name, None, &mut |_| {});
            let _ = engine.rollback(&info.name);
        }
        let _ = engine.sync();
        if self.deeds.edit || self.deeds.clean || self.deeds.again {
            self.walk(engine.root());
        }
        found.len()
    }

    /// Looks at everything below a directory.
    fn walk(&self, root: Ino) -> Vec<Found> {
        let mut all = Vec::new();
        let mut todo = vec![(root, Vec::new(), 0)];
        let mut seen = HashSet::from([root]);
        while let Some((dir, path, depth)) = todo.pop() {
            if all.len() >= ENTRIES_MAX {
                break;
            }
            for found in self.list(dir) {
                let mut path: Vec<u8> = path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&found.name);
                let _ = self.engine.lookup(dir, &found.name);
                self.look(&found, &path);
                if found.kind == FileKind::Dir && depth < 100 && seen.insert(found.ino) {
                    todo.push((found.ino, path, depth + 1));
                }
                all.push(found);
            }
        }
        all
    }

    fn list(&self, dir: Ino) -> Vec<Found> {
        let mut list = Vec::new();
        let Ok(handle) = self.engine.opendir(dir) else {
            return list;
        };
        let mut after = 0;
        loop {
            let start = after;
            let _ = self.engine.readdirplus(handle, after, &mut |item, _| {
                after = item.cookie;
                if item.name != b"." && item.name != b".." {
                    list.push(Found {
                        dir,
                        name: item.name,
                        ino: item.ino,
                        kind: item.kind,
                    });
                }
                list.len() % 64 != 63
            });
            if after == start || list.len() >= ENTRIES_MAX {
                break;
            }
            assert!(after > start, "a listing goes back");
        }
        let _ = self.engine.readdir(handle, 0, &mut |_| true);
        let _ = self.engine.releasedir(handle);
        list
    }

    /// Whether a reader may be shown this.
    fn judge(&self, path: &[u8], off: u64, bytes: &[u8], is_end: bool) {
        let Some(known) = self.known else {
            return;
        };
        let text = String::from_utf8_lossy(path);
        let known = known.get(path);
        let known = known.unwrap_or_else(|| panic!("{text:?} was never there"));
        let fits = |whole: &Vec<u8>| {
            let off = usize::try_from(off).unwrap_or(usize::MAX);
            whole.get(off..off + bytes.len()) == Some(bytes)
                && (!is_end || off + bytes.len() == whole.len())
        };
        assert!(known.iter().any(fits), "{text:?} never held these bytes");
    }

    fn look(&self, found: &Found, path: &[u8]) {
        let (engine, ino) = (self.engine, found.ino);
        let stat = engine.getattr(ino);
        if let Ok(list) = engine.listxattr(&Caller::default(), ino) {
            for name in list
                .split(|byte| *byte == 0)
                .filter(|name| !name.is_empty())
            {
                let _ = engine.getxattr(ino, name);
            }
        }
        let _ = engine.getxattr(ino, b"user.mmhfs.stored");
        match (found.kind, stat) {
            (FileKind::Symlink, _) => {
                if let Ok(target) = engine.readlink(ino) {
                    self.judge(path, 0, &target, true);
                }
            }
            (FileKind::File, Ok(stat)) => {
                let _ = engine.file_facts(ino);
                let how = OpenHow { write: false, ..RW };
                if let Ok(handle) = engine.open_file(ino, how) {
                    let size = stat.size;
                    let places = if size <= READ_MAX {
                        vec![(0, size)]
                    } else {
                        let end = size.saturating_sub(70_000);
                        vec![(0, 70_000), (size / 2, 70_000), (end, 80_000)]
                    };
                    for (off, len) in places {
                        let mut bytes = Vec::new();
                        let at = FileOff::from_raw(off);
                        let len = usize::try_from(len).unwrap_or(0);
                        if engine.read(handle, at, len, &mut bytes).is_ok() {
                            assert!(bytes.len() <= len);
                            let is_end = off + bytes.len() as u64 >= size;
                            self.judge(path, off, &bytes, is_end);
                        }
                    }
                    for off in [0, size / 2, size.saturating_sub(1)] {
                        for seek in [Seek::Data, Seek::Hole] {
                            let _ = engine.lseek(handle, FileOff::from_raw(off), seek);
                        }
                    }
                    let _ = engine.release(handle);
                }
            }
            _ => {}
        }
    }

    fn snapshot(&self, info: &mmhfs::engine::SnapshotInfo) {
        let engine = self.engine;
        for text in [&info.name, &info.seed, &info.content, &info.dna] {
            let _ = engine.resolve(text);
        }
        if !(self.deeds.verify || self.deeds.restore) {
            return;
        }
        if let Ok(root) = engine.tree_open(Some(&info.name)) {
            self.walk(root);
        }
        let is_small = info.entries <= RESTORE_ENTRIES_MAX && info.bytes <= RESTORE_BYTES_MAX;
        if self.deeds.verify && is_small {
            let _ = engine.verify(&info.name, &|_| {});
        }
        if self.deeds.restore && is_small {
            self.restore(&info.name);
        }
    }

    /// Restores into a directory in which links to a place beside it lie in wait.
    fn restore(&self, name: &str) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let scratch = self.dir.join(format!("restore-{number}"));
        let (dest, outside) = (scratch.join("dest"), scratch.join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("canary"), b"sings").unwrap();
        fs::create_dir(&dest).unwrap();
        let mut dice = self.deeds.dice.clone();
        if dice.one_in(2) {
            for name in ["a", "big", "way", "l", "d", "linked"] {
                symlink("../outside", dest.join(name)).unwrap();
            }
            symlink("../outside/canary", dest.join("after")).unwrap();
        }
        let options = RestoreOptions {
            resume: dice.one_in(2),
            overwrite: dice.one_in(2),
            threads: std::num::NonZeroUsize::new(1),
            ..RestoreOptions::default()
        };
        let done = self.engine.restore(name, None, &dest, &options, &|_| {});
        assert!(!matches!(done, Err(Error::Usage(_))), "{done:?}");
        let list = |dir: &Path| -> Vec<String> {
            let list = fs::read_dir(dir).unwrap();
            let names = list.map(|entry| entry.unwrap().file_name());
            let mut names: Vec<String> = names
                .map(|name| name.to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        assert_eq!(list(&scratch), ["dest", "outside"], "written beside");
        assert_eq!(list(&outside), ["canary"], "written through a link");
        assert_eq!(fs::read(outside.join("canary")).unwrap(), b"sings");
        let _ = fs::remove_dir_all(&scratch);
    }

    /// Changes of all kinds at names that were found.
    fn edit(&mut self, found: &[Found]) {
        let engine = self.engine;
        let caller = Caller::default();
        if found.is_empty() {
            return;
        }
        // What is there from here on is new.
        self.known = None;
        for n in 0..12 {
            let pick = |dice: &mut Dice| found[dice.below(found.len() as u64) as usize].clone();
            let (one, two) = (pick(&mut self.deeds.dice), pick(&mut self.deeds.dice));
            let dir = if two.kind == FileKind::Dir {
                two.ino
            } else {
                two.dir
            };
            let new = format!("new-{n}").into_bytes();
            let node = |kind| NewNode {
                kind,
                mode: 0o755,
                umask: 0,
                rdev: (0, 0),
            };
            match self.deeds.dice.below(12) {
                0 => {
                    let _ = engine.mknod(&caller, dir, &new, &node(FileKind::Dir));
                }
                1 | 2 => {
                    let made = engine.create(&caller, dir, &new, &node(FileKind::File), RW);
                    if let Ok((_, handle)) = made {
                        let how = WriteHow::default();
                        let at = FileOff::from_raw(self.deeds.dice.below(5000));
                        let _ = engine.write(&caller, handle, at, &[7; 3000], how);
                        let _ = engine.fsync(handle, false);
                        let _ = engine.release(handle);
                    }
                }
                3 | 4 => {
                    if let Ok(handle) = engine.open_file(one.ino, RW) {
                        let how = WriteHow::default();
                        let at = FileOff::from_raw(self.deeds.dice.below(5000));
                        let _ = engine.write(&caller, handle, at, &[8; 100], how);
                        let _ = engine.release(handle);
                    }
                }
                5 => {
                    let size = [0, 100, 1 << 20, i64::MAX as u64];
                    let set = SetAttr {
                        size: Some(FileOff::from_raw(self.deeds.dice.pick(&size))),
                        mode: Some(0o600),
                        ..SetAttr::default()
                    };
                    let _ = engine.setattr(&caller, one.ino, None, &set);
                }
                6 => {
                    let how = RenameHow::default();
                    let _ = engine.rename(one.dir, &one.name, dir, &new, how);
                }
                7 => {
                    let how = RenameHow {
                        exchange: self.deeds.dice.one_in(2),
                        ..RenameHow::default()
                    };
                    let _ = engine.rename(one.dir, &one.name, two.dir, &two.name, how);
                }
                8 => {
                    let _ = engine.unlink(one.dir, &one.name);
                    engine.forget(one.ino, 1);
                }
                9 => {
                    let _ = engine.rmdir(one.dir, &one.name);
                    engine.forget(one.ino, 1);
                }
                10 => {
                    let _ = engine.link(one.ino, dir, &new);
                }
                _ => {
                    let name = b"user.new";
                    let _ = engine.setxattr(&caller, one.ino, name, b"v", XattrMode::Any);
                    let _ = engine.removexattr(&caller, two.ino, name);
                }
            }
        }
        let _ = engine.sync();
        let _ = engine.fold(4);
    }
}
