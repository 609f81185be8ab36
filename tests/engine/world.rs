//! A store in a temporary directory, driven by paths, with a clock and chance of its own.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use mmhfs::base::{Env, Error, FileOff, Ino, Result, Timestamp};
use mmhfs::engine::{
    AtimePolicy, Caller, CheckReport, Config, DiffItem, Engine, FileKind, Handle, InitOptions,
    NewNode, OpenHow, PlainSeedOptions, SetAttr, SetTime, SnapshotInfo, Stat, WriteHow, XattrMode,
    seed_of_dir,
};
pub(crate) use mmhfs::sim::Dice;

pub(crate) const RW: OpenHow = OpenHow {
    read: true,
    write: true,
    append: false,
    truncate: false,
    sync: false,
};

pub(crate) struct World {
    pub(crate) dir: Arc<tempfile::TempDir>,
    /// Which copy of the store is in use: a crash goes on in a new one.
    pub(crate) copy: u32,
    pub(crate) env: Env,
    pub(crate) engine: Option<Arc<Engine>>,
}

pub(crate) fn caller() -> Caller {
    let meta = std::fs::metadata("/proc/self").unwrap();
    use std::os::unix::fs::MetadataExt as _;
    Caller {
        uid: meta.uid(),
        gid: meta.gid(),
        pid: 1,
    }
}

/// A clock and chance of its own: both are functions of the seed and of how often they are asked.
pub(crate) fn env(seed: u64) -> Env {
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

pub(crate) fn config() -> Config {
    Config {
        atime: AtimePolicy::Noatime,
        verify_writes: false,
        memory: 128 << 20,
        // What a test wants to be protected, it protects.
        protect: false,
        ..Config::default()
    }
}

fn no_progress(_: mmhfs::engine::Progress) {}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(1, 4 << 20)
    }

    pub(crate) fn with(seed: u64, pack_capacity: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = env(seed);
        let store = dir.path().join("store-0");
        Engine::init(
            &store,
            &env,
            &InitOptions {
                pack_capacity,
                ..InitOptions::default()
            },
        )
        .unwrap();
        let engine = Engine::open(&store, env.clone(), config()).unwrap();
        Self {
            dir: Arc::new(dir),
            copy: 0,
            env,
            engine: Some(engine),
        }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join(format!("store-{}", self.copy))
    }

    /// A path beside the store.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&mut self) {
        self.open_with(config()).unwrap();
    }

    fn open_with(&mut self, config: Config) -> Result<()> {
        loop {
            match Engine::open(&self.store(), self.env.clone(), config.clone()) {
                // The commit thread has the last reference and is about to drop it.
                Err(Error::Locked { .. }) => std::thread::yield_now(),
                other => {
                    self.engine = Some(other?);
                    return Ok(());
                }
            }
        }
    }

    pub(crate) fn close(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.close().unwrap();
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// Closes the store and opens it again.
    pub(crate) fn reopen(&mut self) {
        self.close();
        self.open();
    }

    /// Opens a store that was closed.
    pub(crate) fn open_again(&mut self) {
        self.open();
    }

    /// Opens a store that was closed, and may be damaged.
    pub(crate) fn open_for_writing(&mut self) -> Result<()> {
        self.open_with(config())
    }

    /// Opens a store that was closed, with a limit of its size in bytes.
    pub(crate) fn open_limited(&mut self, size_limit: u64) -> Result<()> {
        let config = Config {
            size_limit: Some(size_limit),
            ..config()
        };
        self.open_with(config)
    }

    /// Opens a store that was closed, for reading only.
    pub(crate) fn open_read_only(&mut self) -> Result<()> {
        let config = Config {
            read_only: true,
            ..config()
        };
        self.open_with(config)
    }

    /// Closes the store, deletes the index and opens it again.
    pub(crate) fn reopen_without_index(&mut self) {
        self.close();
        remove_index(&self.store());
        self.open();
    }

    /// Goes on with what is on disk now, without the store being told; optionally with rubbish where the
    /// log would have gone on.
    pub(crate) fn crash(&mut self, with_index: bool, rubbish: &[u8]) {
        let from = self.store();
        self.copy += 1;
        copy_store(&from, &self.store(), with_index);
        self.close();
        std::fs::remove_dir_all(&from).unwrap();
        if !rubbish.is_empty() {
            let mut logs = self.packs();
            logs.retain(|path| path.extension().is_some_and(|e| e == "log"));
            if let Some(last) = logs.last() {
                let mut bytes = std::fs::read(last).unwrap();
                // Nothing is ever appended to a pack that was sealed.
                let trailer = bytes.len().saturating_sub(64);
                if !bytes[trailer..].starts_with(b"mmhtrail") {
                    bytes.extend_from_slice(rubbish);
                    std::fs::write(last, bytes).unwrap();
                }
            }
        }
        self.open();
    }

    /// Copies what is on disk now beside the store, as a crash would leave it.
    pub(crate) fn copy_aside(&self) {
        copy_store(&self.store(), &self.beside("aside"), true);
    }

    /// Goes on with the copy made by [`World::copy_aside`].
    pub(crate) fn go_on_aside(&mut self, with_index: bool) {
        self.close();
        std::fs::remove_dir_all(self.store()).unwrap();
        self.copy += 1;
        std::fs::rename(self.beside("aside"), self.store()).unwrap();
        if !with_index {
            remove_index(&self.store());
        }
        self.open();
    }

    /// The pack files, ascending.
    pub(crate) fn packs(&self) -> Vec<PathBuf> {
        let list = std::fs::read_dir(self.store().join("packs")).unwrap();
        let mut packs: Vec<PathBuf> = list.map(|entry| entry.unwrap().path()).collect();
        packs.sort();
        packs
    }

    pub(crate) fn stored_len(&self) -> u64 {
        let len = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
        let packs: u64 = self.packs().iter().map(len).sum();
        packs + self.checkpoints().iter().map(len).sum::<u64>()
    }

    /// The checkpoints, ascending.
    pub(crate) fn checkpoints(&self) -> Vec<PathBuf> {
        let Ok(list) = std::fs::read_dir(self.store().join("checkpoints")) else {
            return Vec::new();
        };
        let mut found: Vec<PathBuf> = list.map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }

    // ---- operations by path --------------------------------------------------------------------

    pub(crate) fn ino(&self, path: &str) -> Result<Ino> {
        let mut at = self.engine().root();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.engine().lookup(at, name.as_bytes())?.ino;
        }
        Ok(at)
    }

    /// The directory of a path and its last name.
    pub(crate) fn place<'a>(&self, path: &'a str) -> Result<(Ino, &'a [u8])> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.ino(dir)?, name.as_bytes()))
    }

    pub(crate) fn stat(&self, path: &str) -> Result<Stat> {
        self.engine().getattr(self.ino(path)?)
    }

    pub(crate) fn create(&self, path: &str) -> Result<Handle> {
        let (dir, name) = self.place(path)?;
        let new = NewNode {
            kind: FileKind::File,
            mode: 0o644,
            umask: 0,
            rdev: (0, 0),
        };
        self.engine()
            .create(&caller(), dir, name, &new, RW)
            .map(|(_, handle)| handle)
    }

    pub(crate) fn mkdir(&self, path: &str) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let new = NewNode {
            kind: FileKind::Dir,
            mode: 0o755,
            umask: 0,
            rdev: (0, 0),
        };
        self.engine().mknod(&caller(), dir, name, &new).map(|_| ())
    }

    pub(crate) fn with_file<T>(
        &self,
        path: &str,
        work: impl FnOnce(Handle) -> Result<T>,
    ) -> Result<T> {
        let handle = self.engine().open_file(self.ino(path)?, RW)?;
        let done = work(handle);
        self.engine().release(handle)?;
        done
    }

    pub(crate) fn write_at(&self, path: &str, off: u64, data: &[u8]) -> Result<()> {
        self.with_file(path, |handle| {
            let how = WriteHow::default();
            let off = FileOff::from_raw(off);
            let done = self.engine().write(&caller(), handle, off, data, how)?;
            assert_eq!(done, data.len());
            Ok(())
        })
    }

    /// Makes a file, or replaces what is in it.
    pub(crate) fn put(&self, path: &str, data: &[u8]) {
        match self.create(path) {
            Ok(handle) => self.engine().release(handle).unwrap(),
            Err(Error::Exists) => self.truncate(path, 0).unwrap(),
            Err(error) => panic!("{path}: {error}"),
        }
        self.write_at(path, 0, data).unwrap();
    }

    pub(crate) fn truncate(&self, path: &str, size: u64) -> Result<()> {
        let set = SetAttr {
            size: Some(FileOff::from_raw(size)),
            ..SetAttr::default()
        };
        self.set(path, &set)
    }

    pub(crate) fn set(&self, path: &str, set: &SetAttr) -> Result<()> {
        let ino = self.ino(path)?;
        self.engine().setattr(&caller(), ino, None, set).map(|_| ())
    }

    /// Sets the time of the last change to a whole number of seconds.
    pub(crate) fn touch(&self, path: &str, secs: i64) {
        let at = SetTime::At(Timestamp { secs, nanos: 0 });
        let set = SetAttr {
            mtime: Some(at),
            ..SetAttr::default()
        };
        self.set(path, &set).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.read_ino(self.ino(path)?)
    }

    pub(crate) fn read_ino(&self, ino: Ino) -> Result<Vec<u8>> {
        let size = self.engine().getattr(ino)?.size;
        let how = OpenHow { write: false, ..RW };
        let handle = self.engine().open_file(ino, how)?;
        let mut bytes = Vec::new();
        let mut done = Ok(());
        while (bytes.len() as u64) < size && done.is_ok() {
            let off = FileOff::from_raw(bytes.len() as u64);
            done = self.engine().read(handle, off, 4 << 20, &mut bytes);
        }
        self.engine().release(handle)?;
        done.map(|()| bytes)
    }

    pub(crate) fn link(&self, path: &str, new: &str) -> Result<()> {
        let (dir, name) = self.place(new)?;
        self.engine().link(self.ino(path)?, dir, name).map(|_| ())
    }

    pub(crate) fn symlink(&self, path: &str, target: &str) -> Result<()> {
        let (dir, name) = self.place(path)?;
        self.engine()
            .symlink(&caller(), dir, name, target.as_bytes())
            .map(|_| ())
    }

    pub(crate) fn unlink(&self, path: &str) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let ino = self.ino(path)?;
        self.engine().unlink(dir, name)?;
        self.engine().forget(ino, 1);
        Ok(())
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.rename_how(from, to, mmhfs::engine::RenameHow::default())
    }

    pub(crate) fn rename_how(
        &self,
        from: &str,
        to: &str,
        how: mmhfs::engine::RenameHow,
    ) -> Result<()> {
        let ((dir, name), (new_dir, new_name)) = (self.place(from)?, self.place(to)?);
        let replaced = self.ino(to).ok();
        self.engine().rename(dir, name, new_dir, new_name, how)?;
        if let Some(ino) = replaced {
            self.engine().forget(ino, 1);
        }
        Ok(())
    }

    pub(crate) fn set_xattr(&self, path: &str, name: &str, value: &[u8]) -> Result<()> {
        let ino = self.ino(path)?;
        let name = name.as_bytes();
        self.engine()
            .setxattr(&caller(), ino, name, value, XattrMode::Any)
    }

    pub(crate) fn list(&self, dir: Ino) -> BTreeMap<String, Ino> {
        let handle = self.engine().opendir(dir).unwrap();
        let mut found = BTreeMap::new();
        let mut after = 0;
        loop {
            // A few at a time, as the kernel asks.
            let mut left = 7;
            let mut last = after;
            self.engine()
                .readdir(handle, after, &mut |item| {
                    left -= 1;
                    last = item.cookie;
                    let name = String::from_utf8(item.name).unwrap();
                    if name != "." && name != ".." {
                        assert!(found.insert(name, item.ino).is_none(), "listed twice");
                    }
                    left > 0
                })
                .unwrap();
            if last == after {
                break;
            }
            after = last;
        }
        self.engine().releasedir(handle).unwrap();
        found
    }

    // ---- snapshots -----------------------------------------------------------------------------

    pub(crate) fn snapshot(&self, name: &str) -> SnapshotInfo {
        self.engine().snapshot(Some(name), &no_progress).unwrap()
    }

    pub(crate) fn check(&self) -> CheckReport {
        self.engine().check(&no_progress).unwrap()
    }

    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        let report = self.check();
        assert!(report.problems.is_empty(), "{:#?}", report.problems);
    }

    pub(crate) fn verify(&self, text: &str) -> CheckReport {
        self.engine().verify(text, &no_progress).unwrap()
    }

    #[track_caller]
    pub(crate) fn assert_verifies(&self, text: &str) {
        let report = self.verify(text);
        assert!(report.problems.is_empty(), "{:#?}", report.problems);
    }

    pub(crate) fn diff(&self, from: &str, to: Option<&str>) -> Vec<String> {
        let mut lines = Vec::new();
        let mut each = |item: DiffItem| {
            let text = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
            let from = item
                .from
                .map_or(String::new(), |p| format!(" from {}", text(&p)));
            lines.push(format!("{:?} {}{from}", item.change, text(&item.path)));
        };
        self.engine().diff(from, to, &mut each).unwrap();
        lines
    }

    /// Writes a tree of the engine out as plain files with the same attributes.
    pub(crate) fn materialise(&self, dir: Ino, to: &Path) {
        std::fs::create_dir(to).unwrap();
        let mut linked = BTreeMap::new();
        self.materialise_below(dir, to, &mut linked);
    }

    fn materialise_below(&self, dir: Ino, to: &Path, linked: &mut BTreeMap<Ino, PathBuf>) {
        for (name, _) in self.list(dir) {
            let stat = self.engine().lookup(dir, name.as_bytes()).unwrap();
            let path = to.join(&name);
            if let Some(first) = linked.get(&stat.ino) {
                std::fs::hard_link(first, &path).unwrap();
                continue;
            }
            match stat.kind {
                FileKind::Dir => {
                    std::fs::create_dir(&path).unwrap();
                    self.materialise_below(stat.ino, &path, linked);
                }
                FileKind::Symlink => {
                    let target = self.engine().readlink(stat.ino).unwrap();
                    symlink(String::from_utf8(target).unwrap(), &path).unwrap();
                }
                _ => {
                    self.write_sparse(&stat, &path);
                }
            }
            if stat.kind != FileKind::Dir && stat.nlink > 1 {
                linked.insert(stat.ino, path.clone());
            }
            self.copy_attributes(&stat, &path);
        }
    }

    fn write_sparse(&self, stat: &Stat, path: &Path) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::create(path).unwrap();
        file.set_len(stat.size).unwrap();
        let how = OpenHow { write: false, ..RW };
        let handle = self.engine().open_file(stat.ino, how).unwrap();
        let mut at = 0;
        while let Ok(data) =
            self.engine()
                .lseek(handle, FileOff::from_raw(at), mmhfs::engine::Seek::Data)
        {
            let hole = self.engine().lseek(handle, data, mmhfs::engine::Seek::Hole);
            let end = hole.unwrap().raw();
            at = data.raw();
            while at < end {
                let mut bytes = Vec::new();
                let len = (end - at).min(1 << 20) as usize;
                let off = FileOff::from_raw(at);
                self.engine().read(handle, off, len, &mut bytes).unwrap();
                file.write_all_at(&bytes, at).unwrap();
                at += bytes.len() as u64;
            }
        }
        self.engine().release(handle).unwrap();
    }

    fn copy_attributes(&self, stat: &Stat, path: &Path) {
        let list = self.engine().listxattr(&caller(), stat.ino).unwrap();
        for name in list.split(|b| *b == 0).filter(|name| !name.is_empty()) {
            let value = self.engine().getxattr(stat.ino, name).unwrap();
            let name = std::str::from_utf8(name).unwrap();
            xattr::set(path, name, &value).unwrap();
        }
        if stat.kind != FileKind::Symlink {
            let mode = std::fs::Permissions::from_mode(u32::from(stat.mode));
            std::fs::set_permissions(path, mode).unwrap();
        }
        let time = nix::sys::time::TimeSpec::new(stat.mtime.secs, i64::from(stat.mtime.nanos));
        nix::sys::stat::utimensat(
            nix::fcntl::AT_FDCWD,
            path,
            &time,
            &time,
            nix::sys::stat::UtimensatFlags::NoFollowSymlink,
        )
        .unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            let _ = engine.close();
        }
    }
}

/// The seed of plain files.
pub(crate) fn plain_seed(dir: &Path) -> String {
    let found = seed_of_dir(dir, &PlainSeedOptions::default(), &|_| {}).unwrap();
    found.seed.to_string()
}

/// Deletes the index of a store that was closed: the last reference to the engine may just be going.
pub(crate) fn remove_index(store: &Path) {
    use std::io::ErrorKind::DirectoryNotEmpty;
    loop {
        match std::fs::remove_dir_all(store.join("index")) {
            Err(error) if error.kind() == DirectoryNotEmpty => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

fn copy_store(from: &Path, to: &Path, with_index: bool) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == "lock" || name == "index" && !with_index {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        if entry.file_type().unwrap().is_dir() {
            copy_store(&source, &target, true);
        } else {
            match std::fs::copy(source, target) {
                // The index drops files that it has merged; a copy that lacks one is an index to be made anew.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => drop(other.unwrap()),
            }
        }
    }
}
