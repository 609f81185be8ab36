//! The stores that are changed: one small store at several moments of its life.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use mmhfs::base::{Env, FileOff, Ino, StoreId, Timestamp};
use mmhfs::chunk::load_superblock;
use mmhfs::disk::Disk;
use mmhfs::engine::{
    AtimePolicy, Caller, CleanOptions, Config, Engine, FileKind, InitOptions, NewNode, OpenHow,
    Place, SetAttr, WriteHow, XattrMode,
};
use mmhfs::format::rows::Table;
use mmhfs::meta::{Index, MemoryTables, Rows as _};
use mmhfs::sim::{Dice, Medium, SimDisk, noise};

/// By path, the bytes of files and the targets of links that were ever there: what a reader may be shown.
pub type Known = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;
/// The rows of an index, in order.
pub type AllRows = Vec<(Table, Vec<u8>, Vec<u8>)>;

/// The store at one moment.
pub struct Stage {
    pub medium: Medium,
    pub index: MemoryTables,
    /// What is in the index, for changes to begin with.
    pub rows: AllRows,
}

/// The store at all moments.
pub struct Base {
    pub store: StoreId,
    pub stages: Vec<Stage>,
    pub known: Known,
}

pub const RW: OpenHow = OpenHow {
    read: true,
    write: true,
    append: false,
    truncate: false,
    sync: false,
};

/// A clock and chance that are functions of how often they were asked.
pub fn env(seed: u64) -> Env {
    let clock = AtomicI64::new(1_000_000_000_000);
    let chance = AtomicU64::new(seed);
    Env::new(
        move || {
            let at = clock.fetch_add(1_000_003, Ordering::Relaxed);
            Timestamp {
                secs: at / 1_000_000_000,
                nanos: (at % 1_000_000_000) as u32,
            }
        },
        move |buf| {
            let mut dice = Dice(chance.fetch_add(1, Ordering::Relaxed));
            let len = buf.len();
            buf.copy_from_slice(&dice.bytes(len));
        },
    )
}

pub fn config() -> Config {
    Config {
        atime: AtimePolicy::Noatime,
        memory: 128 << 20,
        threads: 1,
        ..Config::default()
    }
}

/// A store that is being made.
struct Making {
    place: Place,
    env: Env,
    engine: Option<Arc<Engine>>,
    contents: BTreeMap<Vec<u8>, Vec<u8>>,
    known: Known,
}

impl Making {
    fn open(&mut self) {
        let engine = Engine::open_on(&self.place, self.env.clone(), config());
        self.engine = Some(engine.unwrap());
    }

    fn close(&mut self) {
        // The lock is given back with the last reference.
        self.engine.take().unwrap().close().unwrap();
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn dir_of<'a>(&self, path: &'a str) -> (Ino, &'a [u8]) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.ino(dir), name.as_bytes())
    }

    fn ino(&self, path: &str) -> Ino {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.fold(self.engine().root(), |at, name| {
            self.engine().lookup(at, name.as_bytes()).unwrap().ino
        })
    }

    fn node(&self, path: &str, kind: FileKind, mode: u16, rdev: (u32, u32)) {
        let (dir, name) = self.dir_of(path);
        let new = NewNode {
            kind,
            mode,
            umask: 0,
            rdev,
        };
        self.engine()
            .mknod(&Caller::default(), dir, name, &new)
            .unwrap();
    }

    fn dir(&self, path: &str) {
        self.node(path, FileKind::Dir, 0o755, (0, 0));
    }

    /// Notes what a path holds from now on.
    fn note(&mut self, path: &str, bytes: Vec<u8>) {
        let path = path.as_bytes().to_vec();
        let known = self.known.entry(path.clone()).or_default();
        known.push(bytes.clone());
        self.contents.insert(path, bytes);
    }

    fn write(&mut self, path: &str, off: usize, bytes: &[u8]) {
        let old = self.contents.get(path.as_bytes()).cloned();
        if old.is_none() {
            self.node(path, FileKind::File, 0o644, (0, 0));
        }
        let handle = self.engine().open_file(self.ino(path), RW).unwrap();
        let at = FileOff::from_raw(off as u64);
        let how = WriteHow::default();
        self.engine()
            .write(&Caller::default(), handle, at, bytes, how)
            .unwrap();
        self.engine().release(handle).unwrap();
        let mut all = old.unwrap_or_default();
        all.resize(all.len().max(off + bytes.len()), 0);
        all[off..off + bytes.len()].copy_from_slice(bytes);
        self.note(path, all);
    }

    fn truncate(&mut self, path: &str, len: usize) {
        let set = SetAttr {
            size: Some(FileOff::from_raw(len as u64)),
            ..SetAttr::default()
        };
        self.engine()
            .setattr(&Caller::default(), self.ino(path), None, &set)
            .unwrap();
        let mut all = self.contents[path.as_bytes()].clone();
        all.resize(len, 0);
        self.note(path, all);
    }

    fn symlink(&mut self, path: &str, target: &str) {
        let (dir, name) = self.dir_of(path);
        self.engine()
            .symlink(&Caller::default(), dir, name, target.as_bytes())
            .unwrap();
        self.note(path, target.as_bytes().to_vec());
    }

    fn link(&mut self, path: &str, new: &str) {
        let (dir, name) = self.dir_of(new);
        self.engine().link(self.ino(path), dir, name).unwrap();
        let bytes = self.contents[path.as_bytes()].clone();
        self.note(new, bytes);
    }

    fn unlink(&mut self, path: &str) {
        let (dir, name) = self.dir_of(path);
        let ino = self.ino(path);
        self.engine().unlink(dir, name).unwrap();
        self.engine().forget(ino, 1);
    }

    fn xattr(&self, path: &str, name: &str, value: &[u8]) {
        let ino = self.ino(path);
        self.engine()
            .setxattr(
                &Caller::default(),
                ino,
                name.as_bytes(),
                value,
                XattrMode::Any,
            )
            .unwrap();
    }

    fn snapshot(&self, name: &str) {
        self.engine().snapshot(Some(name), &|_| {}).unwrap();
    }

    /// The tree that there is at first.
    fn plant(&mut self) {
        for dir in ["a", "a/b", "a/b/c"] {
            self.dir(dir);
        }
        self.write("a/small", 0, b"hello");
        self.write("a/noise", 0, &noise(1, 9000));
        let text = b"the quick brown fox jumps over the lazy dog\n".repeat(40);
        self.write("a/b/text", 0, &text);
        self.write("a/b/c/deep", 0, b"deep below");
        // More than a MiB: a node and a segment of its own; mostly a hole.
        self.write("big", 0, &noise(2, 3000));
        self.write("big", (2 << 20) + 77, &noise(3, 2000));
        self.truncate("big", 3 << 20);
        self.write("linked", 0, b"one file, two names");
        self.link("linked", "a/b/linked too");
        self.symlink("a/way", "b/text");
        self.symlink("out", "/canary");
        self.node("fifo", FileKind::Fifo, 0o600, (0, 0));
        self.node("null", FileKind::CharDevice, 0o666, (1, 3));
        self.write(&"n".repeat(255), 0, b"a long name");
        self.xattr("a/small", "user.one", b"value");
        self.xattr("a/b", "user.two", &noise(4, 300));
    }
}

/// All rows of an index.
fn rows_of(index: &MemoryTables) -> AllRows {
    let index = Index::in_memory(index.copy()).unwrap();
    let mut rows = Vec::new();
    for table in Table::ALL {
        let found = index.scan(table, &[], &[0xff; 513], usize::MAX).unwrap();
        rows.extend(found.into_iter().map(|(key, value)| (table, key, value)));
    }
    rows
}

impl Base {
    /// Makes the store; `dir` is for its lock.
    pub fn new(dir: &Path) -> Self {
        let disk = Arc::new(SimDisk::new(Medium::new(), 1));
        let mut making = Making {
            place: Place {
                disk: Arc::clone(&disk) as Arc<dyn Disk>,
                dir: dir.to_owned(),
                index: Some(MemoryTables::default()),
            },
            env: env(1),
            engine: None,
            contents: BTreeMap::new(),
            known: Known::new(),
        };
        let options = InitOptions {
            pack_capacity: 4 << 20,
            ..InitOptions::default()
        };
        Engine::init_on(&making.place, &making.env, &options).unwrap();
        let mut base = Self {
            store: load_superblock(disk.as_ref()).unwrap().store,
            stages: Vec::new(),
            known: Known::new(),
        };
        making.open();
        making.plant();
        making.engine().sync().unwrap();
        base.note(&disk, &making);

        // Snapshots; sealed; a second LOG pack that cuts the first one off.
        making.snapshot("v1");
        making.write("a/b/text", 10, b"QUICK");
        making.truncate("a/small", 2);
        making.write("a/b/c/new", 0, &noise(5, 1000));
        making.snapshot("v2");
        making.unlink("a/noise");
        making.close();
        base.note(&disk, &making);
        making.open();
        making.write("big", 100, &noise(6, 500));
        making.engine().sync().unwrap();
        base.note(&disk, &making);

        // Cleaned: DATA packs, a checkpoint, and no log before it.
        making.engine().delete_snapshot("v1").unwrap();
        let clean = CleanOptions {
            unused_percent: 0,
            ..CleanOptions::default()
        };
        making.engine().clean(&clean, &|_, _| {}).unwrap();
        making.engine().clean(&clean, &|_, _| {}).unwrap();
        making.write("after", 0, b"after the cleaning");
        making.close();
        making.open();
        making.snapshot("v3");
        making.write("after", 0, b"AFTER");
        making.engine().sync().unwrap();
        base.note(&disk, &making);

        // A directory that takes more than one leaf, and a file that is deleted but open: not closed.
        making.dir("wide");
        for n in 0..300 {
            making.link("linked", &format!("wide/{n}"));
        }
        making.snapshot("v4");
        making.write("orphan", 0, b"no name, but open");
        let ino = making.ino("orphan");
        making.engine().open_file(ino, RW).unwrap();
        making.engine().sync().unwrap();
        making.unlink("orphan");
        making.engine().sync().unwrap();
        base.note(&disk, &making);
        base.known = making.known;
        base
    }

    /// Notes the store as it is.
    fn note(&mut self, disk: &SimDisk, making: &Making) {
        let index = making.place.index.as_ref().unwrap().copy();
        self.stages.push(Stage {
            medium: disk.medium(),
            rows: rows_of(&index),
            index,
        });
    }
}
