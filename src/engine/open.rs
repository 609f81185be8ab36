//! Making, opening and closing stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::Engine;
use super::clean::Cleaning;
use super::commit::CommitGate;
use super::handles::Handles;
use super::heal::{Opening, mark_parity_dir, parity_trouble};
use super::index;
use super::inode::InodeCache;
use super::protect::Protection;
use super::snap::{NodeCache, Virtual};
use super::space::{AutoClean, Bounds};
use crate::base::limits::{
    INO_MAX, MEMORY_DEFAULT, MEMORY_MIN, PACK_CAPACITY_DEFAULT, PACK_CAPACITY_MAX,
    PACK_CAPACITY_MIN, PARITY_GROUP_PACKS, RESERVE_NEEDED_LEN,
};
use crate::base::{ByteLen, ChunkId, Env, Error, Ino, PackId, Result, StoreId};
use crate::chunk::{
    ChunkLookup, ChunkStore, PARITY_DIR, ParityPlace, ParityStore, StoreConfig, load_superblock,
    mend_superblock, remove_reserve, settle_log,
};
use crate::disk::{Disk, RealDisk, StoreLock, create_dirs, link_to_dir, owner_of};
use crate::format::keys;
use crate::format::rows::{Attrs, ChunkRow, InodeRow, Kind, PackRow, Table, decode_counter};
use crate::format::superblock::{PARITY_PERCENT_MAX, Superblock};
use crate::meta::{Index, MemoryTables, Overlays, Rows, for_each_row};

/// Choices that are made once, when a store is made.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Capacity of a pack file in bytes.
    pub pack_capacity: u64,
    /// Parity in percent of what it protects, `0..=100`, 0 for none; `None`: the default of the program.
    pub parity_percent: Option<u8>,
    /// A directory for the parity files, on another disk perhaps; created, or empty. `None`: within the store.
    pub parity_dir: Option<PathBuf>,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            pack_capacity: PACK_CAPACITY_DEFAULT,
            parity_percent: None,
            parity_dir: None,
        }
    }
}

impl InitOptions {
    fn check(&self) -> Result<()> {
        if self
            .parity_percent
            .is_some_and(|percent| percent > PARITY_PERCENT_MAX)
        {
            let most = PARITY_PERCENT_MAX;
            return Err(Error::Usage(format!("parity is 0 to {most} percent")));
        }
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
    /// Make parity and repair damaged packs by itself: in the background and at close. Without it only
    /// [`Engine::protect`] does, and opening a store.
    pub protect: bool,
    /// Opened for one command that somebody waits for: parity and repair take all threads, not half of them.
    pub foreground: bool,
    /// Packs that make a group of parity, `2..=32`. With fewer than the default the loss of a whole pack needs a higher
    /// percentage of parity.
    pub parity_group_packs: usize,
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
            protect: true,
            foreground: false,
            parity_group_packs: PARITY_GROUP_PACKS,
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
pub(super) struct Lookup(pub(super) Arc<Index>);

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
    /// [`Error::CannotInit`] if there is something in `dir` or in the directory for parity, [`Error::Usage`] for a capacity or
    /// percentage out of range.
    pub fn init(dir: &Path, env: &Env, options: &InitOptions) -> Result<()> {
        options.check()?;
        create_dirs(dir)?;
        let place = Place::directory(dir);
        check_empty(&place)?;
        let superblock = new_superblock(env, options);
        if let Some(parity) = &options.parity_dir {
            create_dirs(parity)?;
            let elsewhere = Place::directory(parity);
            check_empty(&elsewhere)?;
            check_empty(&place)?;
            mark_parity_dir(elsewhere.disk.as_ref(), &superblock)?;
            link_to_dir(parity, &dir.join(PARITY_DIR))?;
        }
        ChunkStore::create(&place.disk, &superblock)
    }

    /// As [`Engine::init`], on a disk of the caller's, which has the parity files as well.
    ///
    /// # Errors
    /// As [`Engine::init`].
    pub fn init_on(place: &Place, env: &Env, options: &InitOptions) -> Result<()> {
        options.check()?;
        check_empty(place)?;
        ChunkStore::create(&place.disk, &new_superblock(env, options))
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
            if engine.config.protect {
                engine.start_protection()?;
            }
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
            engine.replace_checkpoints();
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
            if disk.space()?.available_bytes < RESERVE_NEEDED_LEN {
                remove_reserve(disk.as_ref())?;
            }
            for name in mend_superblock(disk.as_ref(), &superblock)? {
                log::warn!("{name} was written anew: it was missing, damaged or out of date");
            }
        }
        let parity_trouble = parity_trouble(dir, disk.as_ref(), &superblock)?;
        if let Some(trouble) = &parity_trouble {
            log::error!("no parity is made or used: {trouble}");
        }
        let parity_place = ParityPlace::within(Arc::clone(&disk));
        let parity = ParityStore::open(Arc::clone(&disk), parity_place, superblock.store)?;
        let parity = Arc::new(parity);
        if !config.read_only {
            // Before anything looks at the packs: one that a repair was about to put in place is missing.
            for name in parity.finish_repairs()? {
                log::info!("{name} is in its place again: its repair was interrupted");
            }
            if parity_trouble.is_none() {
                parity.remove_leftovers()?;
            }
        }
        let opening = Opening {
            dir,
            parity: &parity,
            config: &config,
            superblock: &superblock,
        };
        let (index, store) = opening.healed(|| open_packs(place, &opening, &env))?;
        if !config.read_only {
            opening.restore_lost(&store, &index)?;
        }
        let counter = |name: &str| -> Result<u64> {
            index
                .get(Table::Counter, &keys::counter(name))?
                .map_or(Ok(0), |value| decode_counter(&value))
        };
        let bounds = Bounds::of(config.memory);
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
            parity,
            parity_turn: Mutex::new(()),
            scrubbing: Mutex::new(()),
            parity_trouble,
            protection: Protection::default(),
            live: Overlays::new(Arc::clone(&index)),
            inodes: InodeCache::new(),
            handles: Handles::default(),
            barrier: RwLock::new(()),
            dirty: Mutex::default(),
            dirty_bytes: AtomicU64::new(0),
            bounds,
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
            nodes: NodeCache::new(bounds.nodes),
            virtuals: Virtual::default(),
            roots_in_use: Arc::default(),
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
        self.settle_commit()
    }

    /// Commits what opening has changed. On a full disk the room kept for deleting is used for it; if even that does not
    /// suffice, the changes wait in memory: a store that cannot be opened could not be given room either.
    pub(crate) fn settle_commit(&self) -> Result<()> {
        match self.commit() {
            Err(Error::NoSpace) => {}
            done => return done,
        }
        self.store.release_reserve()?;
        match self.commit() {
            Err(Error::NoSpace) => {
                log::warn!("the disk is full: nothing can be written until there is room");
                Ok(())
            }
            done => done,
        }
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

    /// Commits everything, seals the packs, gives them parity and flushes the index. Later calls fail.
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
        self.stop_protection();
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
            // In the turn: a commit under way has frames in the packs that this ends.
            .and_then(|()| self.exclusive(|| self.store.seal()))
            .map(|()| self.protect_at_close())
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
        Self::rebuild_index_on(&Place::directory(dir), config)
    }

    /// As [`Engine::rebuild_index`], on a disk of the caller's.
    ///
    /// # Errors
    /// As [`Engine::rebuild_index`].
    pub fn rebuild_index_on(place: &Place, config: &Config) -> Result<u64> {
        index::rebuild(place, config)
    }
}

/// Fails if there is something in a directory that is to become a store.
fn check_empty(place: &Place) -> Result<()> {
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
    Ok(())
}

fn new_superblock(env: &Env, options: &InitOptions) -> Superblock {
    let mut id = [0; 16];
    env.random(&mut id);
    let capacity = ByteLen::from_raw(options.pack_capacity);
    let superblock = Superblock::new(StoreId::from_raw(id), env.now(), capacity);
    match options.parity_percent {
        Some(percent) => superblock.with_parity(percent),
        None => superblock,
    }
}

/// Makes the end of the log certain, brings the index up to it, and looks whether all packs are there.
fn open_packs(
    place: &Place,
    opening: &Opening<'_>,
    env: &Env,
) -> Result<(Arc<Index>, Arc<ChunkStore>)> {
    let (config, superblock) = (opening.config, opening.superblock);
    opening.parity.check_log_end(superblock)?;
    // For reading as well: the index, and who is shown the tree, rely on what is replayed.
    settle_log(place.disk.as_ref(), superblock)?;
    let (index, tail) = index::open(place, superblock, config)?;
    let index = Arc::new(index);
    let store_config = StoreConfig {
        level: config.level,
        verify_writes: config.verify_writes,
        cache_len: usize::try_from(config.memory / 4).unwrap_or(usize::MAX),
        read_only: config.read_only,
        parity: Some(Arc::clone(opening.parity)),
        env: env.clone(),
    };
    let lookup: Arc<dyn ChunkLookup> = Arc::new(Lookup(Arc::clone(&index)));
    let disk = Arc::clone(&place.disk);
    let store = ChunkStore::open(disk, superblock.clone(), tail, lookup, store_config)?;
    check_packs(&store, &index, config.read_only)?;
    Ok((index, store))
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
