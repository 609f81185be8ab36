//! Making, opening and closing stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::Engine;
use super::clean::Cleaning;
use super::commit::CommitGate;
use super::handles::Handles;
use super::index;
use super::inode::InodeCache;
use super::snap::{NodeCache, Virtual};
use super::space::AutoClean;
use crate::base::limits::{
    INO_MAX, MEMORY_DEFAULT, MEMORY_MIN, PACK_CAPACITY_DEFAULT, PACK_CAPACITY_MAX,
    PACK_CAPACITY_MIN,
};
use crate::base::{ByteLen, ChunkId, Env, Error, Ino, PackId, Result, StoreId};
use crate::chunk::{ChunkLookup, ChunkStore, StoreConfig, load_superblock, settle_log};
use crate::disk::{Disk, RealDisk, StoreLock, create_dirs, owner_of};
use crate::format::keys;
use crate::format::rows::{Attrs, ChunkRow, InodeRow, Kind, PackRow, Table, decode_counter};
use crate::format::superblock::Superblock;
use crate::meta::{Index, MemoryTables, Overlays, Rows, for_each_row};

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
    /// Bytes that pack files may take together; what would exceed them is [`Error::NoSpace`].
    pub size_limit: Option<u64>,
    /// Clean the store by itself, in the background.
    pub auto_clean: bool,
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
            size_limit: None,
            auto_clean: false,
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

    fn pack(&self, id: PackId) -> Result<Option<PackRow>> {
        self.0
            .get(Table::Pack, &keys::pack(id))?
            .map(|row| PackRow::decode(&row))
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
            let thread = thread
                .spawn(move || timer.commit_timer())
                .map_err(|e| Error::io("start the commit thread", e))?;
            *engine.timer.lock() = Some(thread);
            if engine.config.auto_clean {
                engine.start_auto_clean()?;
            }
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
        let (index, tail) = index::open(place, &superblock, &config)?;
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
        // A counter that lies would have numbers given out again (I4).
        let highest = index.last_at(Table::Inode, &[], &[0xff; 8])?;
        let highest = highest
            .map(|(key, _)| keys::parse_inode(&key))
            .transpose()?;
        let next_ino = counter(keys::COUNTER_NEXT_INO)?
            .max(highest.unwrap_or(Ino::ROOT).next().raw())
            .min(INO_MAX + 1);
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
            folds: Mutex::default(),
            timer: Mutex::new(None),
            renames: Mutex::new(()),
            orphans: Mutex::default(),
            snapshots: Mutex::new(()),
            cleaning: Cleaning::default(),
            nodes: NodeCache::new(),
            virtuals: Virtual::default(),
            root: Ino::ROOT,
            halted: Mutex::new(None),
            closed: AtomicBool::new(false),
            space_checked: AtomicU64::new(0),
            auto_clean: AutoClean::default(),
            _lock: lock,
        };
        engine.note_cleaned();
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
        self.hold_reserve();
        self.commit()
    }

    fn drop_stale_hard_links(&self) -> Result<()> {
        const PAGE: usize = 1024;
        let mut at = Vec::new();
        loop {
            let page = self.live.scan(Table::HardLink, &at, &[0xff; 9], PAGE)?;
            let mut stale = Vec::new();
            for (key, value) in &page {
                let ino = keys::parse_inode(key)?;
                let row = self.live.get(Table::Inode, &keys::inode(ino))?;
                let links = row
                    .map(|row| InodeRow::decode(&row))
                    .transpose()?
                    .map_or(0, |row| row.nlink);
                if links < 2 && decode_counter(value)? == 0 {
                    stale.push(ino);
                }
            }
            let mut change = self.change();
            for ino in stale {
                change.del_hard_link(ino);
            }
            change.apply();
            self.settle_step()?;
            match page.last() {
                Some((key, _)) if page.len() == PAGE => {
                    at.clone_from(key);
                    at.push(0);
                }
                _ => return Ok(()),
            }
        }
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
        self.auto_clean.stop();
        // It holds a reference of its own: whoever drops theirs after this call has closed the index.
        if let Some(timer) = self.timer.lock().take()
            && timer.join().is_err()
        {
            log::error!("the commit thread has panicked");
        }
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

    /// Makes the index of a store that is not open anew from the log.
    ///
    /// The old one goes only when the new one is complete. Returns the number of commits that were replayed.
    ///
    /// # Errors
    /// Those of [`Engine::open`]; the old index is still there then. [`Error::LogDamaged`] also if the log ends before a
    /// commit that the old index has: without the index rot in its last commit would pass for a torn tail.
    pub fn rebuild_index(dir: &Path, config: &Config) -> Result<u64> {
        index::rebuild(dir, config)
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
