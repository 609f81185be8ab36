//! Making, opening and closing stores; rebuilding the index.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::Engine;
use super::commit::CommitGate;
use super::handles::Handles;
use super::inode::InodeCache;
use super::snap::{NodeCache, Virtual};
use crate::base::limits::{
    MEMORY_DEFAULT, MEMORY_MIN, PACK_CAPACITY_DEFAULT, PACK_CAPACITY_MAX, PACK_CAPACITY_MIN,
};
use crate::base::{ByteLen, ChunkId, Env, Error, Ino, Result, StoreId};
use crate::chunk::{
    ChunkLookup, ChunkStore, LogTail, Replay, StoreConfig, Watermark, load_superblock, replay,
    settle_log,
};
use crate::disk::{Disk, RealDisk, StoreLock, create_dirs, owner_of, remove_tree};
use crate::format::keys;
use crate::format::rows::{Attrs, ChunkRow, InodeRow, Kind, Op, PackRow, Table, decode_counter};
use crate::format::superblock::Superblock;
use crate::meta::{Index, IndexConfig, MemoryTables, Overlays, Rows, for_each_row};

/// Name of the directory of the index within a store.
const INDEX: &str = "index";

/// Choices that are made once, when a store is made.
#[derive(Clone, Copy, Debug)]
pub struct InitOptions {
    /// Capacity of a pack file in bytes.
    pub pack_capacity: u64,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            pack_capacity: PACK_CAPACITY_DEFAULT,
        }
    }
}

impl InitOptions {
    fn check(&self) -> Result<()> {
        if (PACK_CAPACITY_MIN..=PACK_CAPACITY_MAX).contains(&self.pack_capacity) {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "pack capacity {} is not within {PACK_CAPACITY_MIN} and {PACK_CAPACITY_MAX} bytes",
            self.pack_capacity
        )))
    }
}

/// When reading a file sets its access time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtimePolicy {
    /// When it is older than the last change or than a day (mount(8), `relatime`).
    #[default]
    Relatime,
    /// Never.
    Noatime,
    /// Always.
    Strict,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// Change nothing in the store.
    pub read_only: bool,
    /// Memory budget in bytes, caches and pending changes together.
    pub memory: u64,
    /// Level of zstd.
    pub level: i32,
    /// Decode and compare each frame before it is written.
    pub verify_writes: bool,
    /// Threads for hashing and compression; 0: one for each core.
    pub threads: usize,
    /// When reading sets the access time.
    pub atime: AtimePolicy,
    /// Show this snapshot (by name, seed, content digest or short form) instead of the live tree; read-only.
    pub seed: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            read_only: false,
            memory: MEMORY_DEFAULT,
            level: 1,
            verify_writes: true,
            threads: 0,
            atime: AtimePolicy::default(),
            seed: None,
        }
    }
}

/// Where a store is: what its files are on and what holds its index.
#[derive(Clone)]
pub struct Place {
    /// What its packs and superblocks are on.
    pub disk: Arc<dyn Disk>,
    /// A directory of the system, for its lock and, unless `index` is given, its index.
    pub dir: PathBuf,
    /// Tables that the index is in instead of a directory.
    pub index: Option<MemoryTables>,
}

impl Place {
    /// A store that is in a directory with all it has.
    #[must_use]
    pub fn directory(dir: &Path) -> Self {
        Self {
            disk: Arc::new(RealDisk::new(dir)),
            dir: dir.to_owned(),
            index: None,
        }
    }

    fn open_index(&self, config: &Config) -> Result<Index> {
        match &self.index {
            Some(tables) => Index::in_memory(tables.clone()),
            None => Index::open(&self.dir.join(INDEX), &index_config(config)),
        }
    }

    fn remove_index(&self) -> Result<()> {
        match &self.index {
            Some(tables) => tables.clear(),
            None => remove_tree(&self.dir.join(INDEX))?,
        }
        Ok(())
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({})", self.dir.display())
    }
}

/// The index as the chunk store sees it.
struct Lookup(Arc<Index>);

impl ChunkLookup for Lookup {
    fn chunk(&self, id: &ChunkId) -> Result<Option<ChunkRow>> {
        self.0
            .get(Table::Chunk, &keys::chunk(id))?
            .map(|row| ChunkRow::decode(&row))
            .transpose()
    }
}

impl Engine {
    /// Makes an empty store in `dir`, which is created or must be empty.
    ///
    /// # Errors
    /// [`Error::CannotInit`] if there is something in `dir`, [`Error::Usage`] for a capacity out of range.
    pub fn init(dir: &Path, env: &Env, options: &InitOptions) -> Result<()> {
        options.check()?;
        create_dirs(dir)?;
        Self::init_on(&Place::directory(dir), env, options)
    }

    /// As [`Engine::init`], on a disk of the caller's.
    ///
    /// # Errors
    /// As [`Engine::init`].
    pub fn init_on(place: &Place, env: &Env, options: &InitOptions) -> Result<()> {
        options.check()?;
        let cannot = |detail| Error::CannotInit {
            path: place.dir.clone(),
            detail,
        };
        let names = place.disk.list("")?;
        if names.iter().any(|name| name.starts_with("super.")) {
            return Err(cannot("it is a store already"));
        }
        if !names.is_empty() {
            return Err(cannot("it is not empty"));
        }
        let mut id = [0; 16];
        env.random(&mut id);
        let superblock = Superblock::new(
            StoreId::from_raw(id),
            env.now(),
            ByteLen::from_raw(options.pack_capacity),
        );
        ChunkStore::create(&place.disk, &superblock)
    }

    /// Opens the store in `dir` and recovers whatever a crash has left.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Locked`], [`Error::VersionTooNew`], [`Error::UnknownFeatures`],
    /// [`Error::LogDamaged`], [`Error::PackMissing`], [`Error::PackTruncated`], [`Error::SeedUnknown`] and others.
    pub fn open(dir: &Path, env: Env, config: Config) -> Result<Arc<Self>> {
        let engine = Self::open_on(&Place::directory(dir), env, config)?;
        if !engine.config.read_only {
            let timer = Arc::clone(&engine);
            let thread = std::thread::Builder::new().name("mmhfs-commit".into());
            thread
                .spawn(move || timer.commit_timer())
                .map_err(|e| Error::io("start the commit thread", e))?;
        }
        Ok(engine)
    }

    /// As [`Engine::open`], on a disk of the caller's and without a thread of its own: what is not committed
    /// by a call stays in memory. With one seed behind `disk` and `env`, a run is a function of it.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_on(place: &Place, env: Env, config: Config) -> Result<Arc<Self>> {
        let engine = Arc::new(Self::open_with(place, env, config)?);
        if !engine.config.read_only {
            engine.settle()?;
        }
        Ok(engine)
    }

    fn open_with(place: &Place, env: Env, mut config: Config) -> Result<Self> {
        config.memory = config.memory.max(MEMORY_MIN);
        config.read_only |= config.seed.is_some();
        let (dir, disk) = (place.dir.as_path(), Arc::clone(&place.disk));
        // Checked before the lock, which would make a file in a directory that is not a store.
        load_superblock(disk.as_ref())?;
        let lock = StoreLock::take(dir)?;
        // Again: who held the lock until now may have raised the high-water mark.
        let superblock = load_superblock(disk.as_ref())?;
        if !config.read_only {
            superblock.check_writable()?;
        }
        if !config.read_only {
            settle_log(disk.as_ref(), &superblock)?;
        }
        let (index, tail) = open_index(place, &superblock, &config)?;
        let index = Arc::new(index);
        let store_config = StoreConfig {
            level: config.level,
            verify_writes: config.verify_writes,
            cache_len: usize::try_from(config.memory / 4).unwrap_or(usize::MAX),
            read_only: config.read_only,
            env: env.clone(),
        };
        let lookup: Arc<dyn ChunkLookup> = Arc::new(Lookup(Arc::clone(&index)));
        let store = ChunkStore::open(
            Arc::clone(&disk),
            superblock.clone(),
            tail,
            lookup,
            store_config,
        )?;
        check_packs(&store, &index, config.read_only)?;
        let counter = |name: &str| -> Result<u64> {
            index
                .get(Table::Counter, &keys::counter(name))?
                .map_or(Ok(0), |value| decode_counter(&value))
        };
        let next_ino = counter(keys::COUNTER_NEXT_INO)?.max(Ino::ROOT.raw() + 1);
        let collisions = counter(keys::COUNTER_COLLISIONS)? > 0;
        let engine = Self {
            env,
            config,
            path: dir.to_owned(),
            disk,
            superblock,
            store,
            live: Overlays::new(Arc::clone(&index)),
            inodes: InodeCache::new(),
            handles: Handles::default(),
            barrier: RwLock::new(()),
            dirty: Mutex::default(),
            dirty_bytes: AtomicU64::new(0),
            epoch: AtomicU64::new(1),
            next_ino: AtomicU64::new(next_ino),
            collisions: AtomicBool::new(collisions),
            gate: CommitGate::default(),
            renames: Mutex::new(()),
            orphans: Mutex::new(HashSet::new()),
            snapshots: Mutex::new(()),
            nodes: NodeCache::new(),
            virtuals: Virtual::default(),
            root: Ino::ROOT,
            halted: Mutex::new(None),
            closed: AtomicBool::new(false),
            space_checked: AtomicU64::new(0),
            _lock: lock,
        };
        engine.mount_seed()
    }

    /// Shows the snapshot that the configuration names instead of the live tree.
    fn mount_seed(mut self) -> Result<Self> {
        if let Some(text) = self.config.seed.clone() {
            self.root = self.tree_open(Some(&text))?;
        }
        Ok(self)
    }

    /// What has to be changed in a store before it is used: the root of a new one, orphans of a crash,
    /// rows of hard links that are none any more.
    fn settle(&self) -> Result<()> {
        if self
            .live
            .get(Table::Inode, &keys::inode(Ino::ROOT))?
            .is_none()
        {
            let now = self.env.now();
            let attrs = Attrs {
                kind: Kind::Dir,
                mode: 0o755,
                uid: 0,
                gid: 0,
                rdev_major: 0,
                rdev_minor: 0,
                flags: 0,
                size: 0,
                atime: now,
                mtime: now,
                ctime: now,
                btime: now,
            };
            let (uid, gid) = owner_of(&self.path)?;
            let row = InodeRow {
                attrs: Attrs { uid, gid, ..attrs },
                nlink: 2,
                mapped: 0,
                parent: Ino::ROOT,
                target: Vec::new(),
            };
            let mut change = self.change();
            change.put_new_inode(Ino::ROOT, &row);
            change.apply();
        }
        self.reap_orphans()?;
        self.drop_stale_hard_links()?;
        self.commit()
    }

    fn drop_stale_hard_links(&self) -> Result<()> {
        let mut stale = Vec::new();
        for_each_row(
            &self.live,
            Table::HardLink,
            &[],
            &[0xff; 9],
            &mut |key, value| {
                let ino = keys::parse_inode(key)?;
                let row = self.live.get(Table::Inode, &keys::inode(ino))?;
                let links = row
                    .map(|row| InodeRow::decode(&row))
                    .transpose()?
                    .map_or(0, |row| row.nlink);
                if links < 2 && decode_counter(value)? == 0 {
                    stale.push(ino);
                }
                Ok(true)
            },
        )?;
        let mut change = self.change();
        for ino in stale {
            change.del_hard_link(ino);
        }
        change.apply();
        Ok(())
    }

    /// Commits everything, seals the packs and flushes the index. Later calls fail.
    ///
    /// The store is free for others once the last reference to the engine is dropped: the lock must outlive
    /// the index, or who opens the store next finds the index in use.
    ///
    /// # Errors
    /// The error of the commit; the store is closed nevertheless.
    pub fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.gate.stop();
        if self.config.read_only {
            return Ok(());
        }
        self.commit()
            .and_then(|()| self.store.seal())
            .and_then(|()| self.index().flush())
    }

    /// Makes everything durable that was changed before.
    ///
    /// # Errors
    /// The error of the commit.
    pub fn sync(&self) -> Result<()> {
        if self.config.read_only {
            Ok(())
        } else {
            self.commit()
        }
    }

    /// Fails if `len` more bytes may not find room on the backing disk.
    ///
    /// The room is asked for again after each few MiB; what is not yet stored counts as it is, uncompressed.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    pub(crate) fn reserve(&self, len: u64) -> Result<()> {
        /// What the log, the index and a clean close may need.
        const MARGIN: u64 = 16 << 20;
        /// Bytes that may be written before the disk is asked again.
        const STEP: u64 = 4 << 20;
        let left = self.space_checked.load(Ordering::Relaxed);
        let cost = len.max(4096);
        if left > cost {
            self.space_checked.store(left - cost, Ordering::Relaxed);
            return Ok(());
        }
        let pending = self.dirty_bytes.load(Ordering::Relaxed) + self.live.pending_bytes();
        let free = self.disk.space()?.available_bytes;
        if free < pending.saturating_add(cost).saturating_add(MARGIN) {
            return Err(Error::NoSpace);
        }
        self.space_checked
            .store(STEP.min(free - pending - cost), Ordering::Relaxed);
        Ok(())
    }

    /// Deletes the index of a store that is not open and makes it anew from the log.
    ///
    /// Returns the number of commits that were replayed.
    ///
    /// # Errors
    /// Those of [`Engine::open`].
    pub fn rebuild_index(dir: &Path, config: &Config) -> Result<u64> {
        let disk = RealDisk::new(dir);
        load_superblock(&disk)?;
        let _lock = StoreLock::take(dir)?;
        let superblock = load_superblock(&disk)?;
        remove_tree(&dir.join(INDEX))?;
        let index = Index::open(&dir.join(INDEX), &index_config(config))?;
        let mut commits = 0;
        replay_into(&index, &disk, &superblock, None, &mut commits)?;
        index.flush()?;
        Ok(commits)
    }
}

fn index_config(config: &Config) -> IndexConfig {
    let part = |n: u64| usize::try_from(config.memory / n).unwrap_or(usize::MAX);
    IndexConfig {
        cache_len: part(8),
        write_buffer_len: part(12),
        open_files_max: 256,
    }
}

/// Opens the index and brings it up to the end of the log; one that does not fit is made anew.
fn open_index(place: &Place, superblock: &Superblock, config: &Config) -> Result<(Index, LogTail)> {
    let (dir, disk) = (&place.dir, place.disk.as_ref());
    match place.open_index(config) {
        Ok(index) => {
            let mark = index
                .watermark()?
                .map(|mark| Watermark::decode(&mark))
                .transpose();
            match mark {
                Ok(mark) => {
                    let mut commits = 0;
                    if let Some(tail) = replay_into(&index, disk, superblock, mark, &mut commits)? {
                        return Ok((index, tail));
                    }
                    log::warn!(
                        "the index of {} does not fit its log; it is made anew",
                        dir.display()
                    );
                }
                Err(error) => log::warn!(
                    "the index of {} is unreadable ({error}); it is made anew",
                    dir.display()
                ),
            }
            drop(index);
        }
        Err(error) => log::warn!(
            "the index of {} cannot be opened ({error}); it is made anew",
            dir.display()
        ),
    }
    rebuilt(place, superblock, config)
}

fn rebuilt(place: &Place, superblock: &Superblock, config: &Config) -> Result<(Index, LogTail)> {
    place.remove_index()?;
    let index = place.open_index(config)?;
    let mut commits = 0;
    match replay_into(&index, place.disk.as_ref(), superblock, None, &mut commits)? {
        Some(tail) => Ok((index, tail)),
        None => Err(Error::Internal(
            "a replay from the start did not fit the log",
        )),
    }
}

/// Applies what follows `from` in the log; `None` if `from` is not a place in it.
fn replay_into(
    index: &Index,
    disk: &dyn Disk,
    superblock: &Superblock,
    from: Option<Watermark>,
    commits: &mut u64,
) -> Result<Option<LogTail>> {
    let mut each = |ops: Vec<Op>, mark: Watermark| {
        *commits += 1;
        index.apply(&ops, &mark.encode())
    };
    match replay(disk, superblock, from, &mut each)? {
        Replay::Done(tail) => Ok(Some(tail)),
        Replay::Foreign => Ok(None),
    }
}

/// Checks that every pack that the index names is there and long enough.
fn check_packs(store: &ChunkStore, index: &Index, read_only: bool) -> Result<()> {
    let mut rows = Vec::new();
    for_each_row(index, Table::Pack, &[], &[0xff; 9], &mut |key, value| {
        rows.push((keys::parse_pack(key)?, PackRow::decode(value)?));
        Ok(true)
    })?;
    match store.check_packs(rows.into_iter()) {
        Err(error) if read_only && error.is_damage() => {
            log::warn!("{error}");
            Ok(())
        }
        other => other,
    }
}
