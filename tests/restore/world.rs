//! A store in a temporary directory and a tree in it with one of everything.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmhfs::base::{Env, FileOff, Ino, Timestamp};
use mmhfs::engine::{
    Caller, Config, Engine, FileKind, Handle, InitOptions, NewNode, OpenHow, RenameHow, SetAttr,
    SetTime, SnapshotInfo, Stat, WriteHow, XattrMode,
};
use tempfile::TempDir;

/// Top-level names of the tree that [`World::with_tree`] makes.
pub(crate) const TREE_NAMES: &[&[u8]] = &[
    b"small",
    b"empty",
    b"sparse",
    b"link",
    b"fifo",
    b"socket",
    b"device",
    b"sub",
    b"other",
    b"odd\xff\n name",
    b"locked",
    b"hidden",
    b"suid",
];

/// Entries with what `stat` says of them but times and numbers of inodes, by path.
pub(crate) type Listing =
    BTreeMap<Vec<u8>, (FileKind, u16, u32, u32, u32, u64, Timestamp, u32, Vec<u8>)>;

pub(crate) struct World {
    pub(crate) engine: Arc<Engine>,
    dir: Arc<TempDir>,
    pub(crate) store: PathBuf,
}

pub(crate) fn is_root() -> bool {
    caller().uid == 0
}

fn caller() -> Caller {
    Caller {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        pid: 1,
    }
}

fn new(kind: FileKind, mode: u16) -> NewNode {
    let rdev = if kind == FileKind::CharDevice {
        (1, 3)
    } else {
        (0, 0)
    };
    NewNode {
        kind,
        mode,
        umask: 0,
        rdev,
    }
}

const WRITE: OpenHow = OpenHow {
    read: true,
    write: true,
    append: false,
    truncate: false,
    sync: false,
};

impl World {
    pub(crate) fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let store = dir.path().join("store");
        Engine::init(&store, &Env::real(), &InitOptions::default()).unwrap();
        Self::opened(dir, store)
    }

    fn opened(dir: Arc<TempDir>, store: PathBuf) -> Self {
        // What is damaged here stays damaged.
        let config = Config {
            protect: false,
            ..Config::default()
        };
        let engine = Engine::open(&store, Env::real(), config).unwrap();
        Self { engine, dir, store }
    }

    /// Closed, without its index, and open again.
    pub(crate) fn reopened(self) -> Self {
        self.engine.close().unwrap();
        let (dir, store) = (Arc::clone(&self.dir), self.store.clone());
        drop(self);
        Engine::rebuild_index(&store, &Config::default()).unwrap();
        Self::opened(dir, store)
    }

    /// A store with the packs that this one has now, as after a crash.
    pub(crate) fn copied(&self) -> Self {
        let to = self.path("copy");
        copy_tree(&self.store, &to);
        Self::opened(Arc::clone(&self.dir), to)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn snapshot(&self, name: &str) -> SnapshotInfo {
        self.engine.snapshot(Some(name), &|_| ()).unwrap()
    }

    pub(crate) fn mkdir(&self, dir: Ino, name: &[u8]) -> Ino {
        self.mknod(dir, name, FileKind::Dir, 0o755)
    }

    fn mknod(&self, dir: Ino, name: &[u8], kind: FileKind, mode: u16) -> Ino {
        self.engine
            .mknod(&caller(), dir, name, &new(kind, mode))
            .unwrap()
            .ino
    }

    /// Makes a file or writes over its beginning.
    pub(crate) fn write(&self, dir: Ino, name: &[u8], bytes: &[u8]) -> Ino {
        self.write_at(dir, name, &[(0, bytes)])
    }

    pub(crate) fn write_at(&self, dir: Ino, name: &[u8], parts: &[(u64, &[u8])]) -> Ino {
        let ino = match self.engine.lookup(dir, name) {
            Ok(stat) => stat.ino,
            Err(_) => self.mknod(dir, name, FileKind::File, 0o644),
        };
        let handle = self.engine.open_file(ino, WRITE).unwrap();
        for (off, bytes) in parts {
            let off = FileOff::from_raw(*off);
            self.engine
                .write(&caller(), handle, off, bytes, WriteHow::default())
                .unwrap();
        }
        self.engine.release(handle).unwrap();
        ino
    }

    pub(crate) fn open(&self, name: &[u8]) -> Handle {
        self.engine
            .open_file(self.ino(name), OpenHow::default())
            .unwrap()
    }

    fn ino(&self, name: &[u8]) -> Ino {
        self.engine.lookup(Ino::ROOT, name).unwrap().ino
    }

    fn set(&self, ino: Ino, mode: Option<u16>, mtime: (i64, u32)) {
        let mtime = Timestamp {
            secs: mtime.0,
            nanos: mtime.1,
        };
        let set = SetAttr {
            mode,
            mtime: Some(SetTime::At(mtime)),
            ..SetAttr::default()
        };
        self.engine.setattr(&caller(), ino, None, &set).unwrap();
    }

    fn chown(&self, ino: Ino, uid: u32, gid: u32) {
        let set = SetAttr {
            uid: Some(uid),
            gid: Some(gid),
            ..SetAttr::default()
        };
        self.engine.setattr(&caller(), ino, None, &set).unwrap();
    }

    fn truncate(&self, ino: Ino, size: u64) {
        let set = SetAttr {
            size: Some(FileOff::from_raw(size)),
            ..SetAttr::default()
        };
        self.engine.setattr(&caller(), ino, None, &set).unwrap();
    }

    fn xattr(&self, ino: Ino, name: &[u8], value: &[u8]) {
        self.engine
            .setxattr(&caller(), ino, name, value, XattrMode::Any)
            .unwrap();
    }

    /// A tree with one of everything, with times of its own.
    pub(crate) fn with_tree() -> Self {
        let world = Self::new();
        let root = Ino::ROOT;
        world.write(root, b"small", b"small");
        world.write(root, b"empty", b"");
        world.write(root, b"odd\xff\n name", &[7; 200_000]);
        let noise: Vec<u8> = (0..400_000u32)
            .flat_map(|n| n.wrapping_mul(40_503).to_le_bytes())
            .collect();
        let sparse: [(u64, &[u8]); 4] = [
            (5_000, b"early"),
            (30 << 20, &noise),
            ((64 << 20) - 10, &[9; 50_000]),
            (70 << 20, b"late"),
        ];
        let sparse = world.write_at(root, b"sparse", &sparse);
        world.truncate(sparse, (70 << 20) + 5);
        world
            .engine
            .symlink(&caller(), root, b"link", b"sub/\xfe where")
            .unwrap();
        world.mknod(root, b"fifo", FileKind::Fifo, 0o640);
        world.mknod(root, b"socket", FileKind::Socket, 0o600);
        let sub = world.mkdir(root, b"sub");
        let deep = world.mkdir(sub, b"deep");
        let one = world.write(sub, b"one", b"linked");
        world.engine.link(one, root, b"other").unwrap();
        world.engine.link(one, deep, b"third").unwrap();
        let link = world.engine.lookup(root, b"link").unwrap().ino;
        world.engine.link(link, deep, b"link too").unwrap();
        world.xattr(one, b"user.color", b"blue");
        world.xattr(sub, b"user.empty", b"");
        // u::rwx,u:1:rwx,g::r-x,m::rwx,o::--- for what is made in it.
        let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x07\0\x01\0\0\0\x04\0\x05\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
        world.xattr(deep, b"system.posix_acl_default", acl);
        world.xattr(deep, b"system.posix_acl_access", acl);
        world.write(deep, b"inherits", b"x");
        // Whose owner may not enter it.
        let locked = world.mkdir(root, b"locked");
        world.write(locked, b"in", b"in");
        let hidden = world.write(root, b"hidden", b"h");
        let suid = world.write(root, b"suid", b"#!");
        if is_root() {
            world.mknod(root, b"device", FileKind::CharDevice, 0o666);
            world.chown(hidden, 12, 34);
            world.chown(suid, 56, 78);
            world.xattr(
                suid,
                b"security.capability",
                b"\x01\0\0\x02\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            );
        }
        let mut paths: Vec<(Vec<u8>, Stat)> = Vec::new();
        world.walk(root, b"", &mut |path, stat| {
            paths.push((path.to_vec(), *stat))
        });
        for (n, (_, stat)) in paths.iter().enumerate() {
            world.set(stat.ino, None, (n as i64 * 1_000_003 - 5, 123_456_789));
        }
        // Somebody else than root could not compute the seed of a file without permissions.
        let (none, no_way) = if is_root() {
            (0o000, 0o2666)
        } else {
            (0o400, 0o2755)
        };
        world.set(hidden, Some(none), (1, 999_999_999));
        world.set(suid, Some(0o6711), (2, 0));
        world.set(locked, Some(0o500), (3, 0));
        world.set(sub, Some(no_way), (4, 0));
        world.set(root, Some(0o751), (1_111_111, 5));
        world
    }

    /// Changes, removes, adds, renames and relinks in the tree of [`World::with_tree`].
    pub(crate) fn change_everything(&self) {
        let (engine, root) = (&self.engine, Ino::ROOT);
        let (sub, how) = (self.ino(b"sub"), RenameHow::default());
        let deep = engine.lookup(sub, b"deep").unwrap().ino;
        self.write_at(
            root,
            b"sparse",
            &[(31 << 20, b"inside"), (66 << 20, &[1; 100_000])],
        );
        self.truncate(self.ino(b"odd\xff\n name"), 1_000);
        // Same size, same time, other bytes.
        let time = engine.getattr(self.ino(b"small")).unwrap().mtime;
        let small = self.write(root, b"small", b"SMALL");
        self.set(small, None, (time.secs, time.nanos));
        // Relinked: one name of the three is now a file of its own.
        engine.unlink(root, b"other").unwrap();
        self.write(root, b"other", b"linked");
        engine.link(small, root, b"small too").unwrap();
        engine.unlink(root, b"fifo").unwrap();
        self.mkdir(root, b"fifo");
        self.remove_all(root, b"locked");
        self.write(root, b"locked", b"a file now");
        engine.rename(sub, b"deep", root, b"moved", how).unwrap();
        self.write(deep, b"more", b"more");
        engine
            .rename(root, b"suid", sub, b"elsewhere", how)
            .unwrap();
        engine.removexattr(&caller(), sub, b"user.empty").unwrap();
        self.xattr(sub, b"user.new", b"new");
        self.set(self.ino(b"hidden"), Some(0o777), (99, 99));
        engine.unlink(root, b"link").unwrap();
        engine
            .symlink(&caller(), root, b"link", b"another")
            .unwrap();
        let kept = self.mkdir(root, b"kept");
        let inner = self.mkdir(kept, b"inner");
        let fixed = self.write(inner, b"fixed", b"immutable");
        if is_root() {
            engine.set_flags(&caller(), fixed, 0x10).unwrap();
            engine.set_flags(&caller(), inner, 0x10).unwrap();
            engine.unlink(root, b"device").unwrap();
        }
        self.set(root, Some(0o700), (7, 7));
    }

    /// Removes a name and everything below it, if it is there.
    pub(crate) fn remove_all(&self, dir: Ino, name: &[u8]) {
        let Ok(stat) = self.engine.lookup(dir, name) else {
            return;
        };
        if stat.kind != FileKind::Dir {
            self.engine.unlink(dir, name).unwrap();
            self.engine.forget(stat.ino, 1);
            return;
        }
        for (name, _) in self.children(stat.ino) {
            self.remove_all(stat.ino, &name);
        }
        self.engine.rmdir(dir, name).unwrap();
        self.engine.forget(stat.ino, 1);
    }

    fn children(&self, dir: Ino) -> Vec<(Vec<u8>, Stat)> {
        let handle = self.engine.opendir(dir).unwrap();
        let mut found = Vec::new();
        let mut each = |item: mmhfs::engine::DirItem| {
            found.push(item);
            true
        };
        self.engine.readdir(handle, 0, &mut each).unwrap();
        self.engine.releasedir(handle).unwrap();
        found
            .into_iter()
            .filter(|item| item.name != b"." && item.name != b"..")
            .map(|item| {
                let stat = self.engine.getattr(item.ino).unwrap();
                (item.name, stat)
            })
            .collect()
    }

    fn walk(&self, dir: Ino, path: &[u8], each: &mut dyn FnMut(&[u8], &Stat)) {
        for (name, stat) in self.children(dir) {
            let path = [path, b"/", &name].concat();
            if stat.kind == FileKind::Dir {
                let up = self.engine.lookup(stat.ino, b"..").unwrap();
                assert_eq!(up.ino, dir, "'..' of {}", String::from_utf8_lossy(&path));
                self.walk(stat.ino, &path, each);
            }
            each(&path, &stat);
        }
    }

    /// What is in the tree and `stat` says of it, `nlink` included.
    pub(crate) fn listing(&self) -> Listing {
        let mut listing = Listing::new();
        let root = self.engine.getattr(Ino::ROOT).unwrap();
        let mut add = |path: &[u8], s: &Stat| {
            let target = match s.kind {
                FileKind::Symlink => self.engine.readlink(s.ino).unwrap(),
                _ => self.engine.listxattr(&caller(), s.ino).unwrap(),
            };
            let row = (
                s.kind, s.mode, s.nlink, s.uid, s.gid, s.size, s.mtime, s.flags, target,
            );
            listing.insert(path.to_vec(), row);
        };
        add(b"", &root);
        self.walk(Ino::ROOT, b"", &mut add);
        listing
    }

    /// The last change of every inode.
    pub(crate) fn ctimes(&self) -> BTreeMap<Ino, Timestamp> {
        let mut times = BTreeMap::new();
        let root = self.engine.getattr(Ino::ROOT).unwrap();
        times.insert(root.ino, root.ctime);
        self.walk(Ino::ROOT, b"", &mut |_, stat| {
            times.insert(stat.ino, stat.ctime);
        });
        times
    }

    /// Closed, with one byte flipped in the middle of the largest pack, and open again.
    pub(crate) fn with_a_flipped_byte(self) -> Self {
        self.engine.close().unwrap();
        let (dir, store) = (Arc::clone(&self.dir), self.store.clone());
        drop(self);
        let packs = fs::read_dir(store.join("packs")).unwrap();
        let largest = packs
            .map(|entry| entry.unwrap().path())
            .max_by_key(|path| fs::metadata(path).unwrap().len())
            .unwrap();
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(&largest)
            .unwrap();
        let at = fs::metadata(&largest).unwrap().len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        Self::opened(dir, store)
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if name == "index" {
            continue;
        }
        if path.is_dir() {
            copy_tree(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}
