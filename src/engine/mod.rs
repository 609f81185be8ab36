//! POSIX semantics on top of the chunk store, with no FUSE in sight.

mod acl;
mod affected;
mod change;
mod check;
mod check_roots;
mod clean;
mod commit;
mod extents;
mod facts;
mod findings;
mod fold;
mod handles;
mod heal;
mod index;
mod inode;
mod layer;
mod names;
mod open;
mod ops;
mod parity_plan;
mod plain_seed;
mod protect;
mod salvage;
mod scrub;
mod snap;
mod space;
mod types;
mod way;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

pub use open::{AtimePolicy, Config, InitOptions, Place};
pub use protect::ProtectReport;
pub use salvage::{SalvageOptions, SalvageReport};
pub use snap::{DamagedPath, RestoreOptions, RestoreReport, SnapshotInUse};
pub use types::{
    Allocate, Caller, Change, CheckReport, CleanOptions, CleanReport, CleanStep, DamageState,
    DiffItem, DirItem, FileFacts, FileKind, ForgetReport, Handle, KeepPolicy, NewNode, OpenHow,
    ParityStats, Problem, Progress, RenameHow, ScrubDamage, ScrubOptions, ScrubReport, Seek,
    SetAttr, SetTime, SnapshotInfo, SpaceUse, Stat, StatFs, Stats, WriteHow, XattrMode,
};

use crate::base::{Env, Error, Ino, Result};
use crate::chunk::{ChunkStore, ParityStore};
use crate::disk::{Disk, StoreLock};
use crate::format::keys;
use crate::format::rows::{InodeRow, Table};
use crate::format::superblock::Superblock;
use crate::meta::{Index, Overlays, Rows};

pub use plain_seed::{PlainSeed, PlainSeedOptions, PlainSeedProgress, seed_of_dir};

use clean::Cleaning;
use commit::CommitGate;
use fold::FoldQueue;
use handles::Handles;
use inode::{Inode, InodeCache};
use protect::Protection;
use snap::{NodeCache, RootsInUse, Virtual};
use space::{AutoClean, Bounds};

/// An open store and the tree in it.
///
/// All operations take `&self` and may be called from any number of threads.
pub struct Engine {
    env: Env,
    config: Config,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    superblock: Superblock,
    store: Arc<ChunkStore>,
    parity: Arc<ParityStore>,
    /// Held while parity is made, packs are repaired or packs are removed: a repair must not bring back what cleaning
    /// removes, nor a group be made of packs that go. Taken before the commit turn; readers and writers never take it.
    parity_turn: Mutex<()>,
    /// Held by a scrub, one at a time, throughout; nothing waits for it.
    scrubbing: Mutex<()>,
    /// Why no parity can be made, if the directory of parity files is not where it should be.
    parity_trouble: Option<String>,
    protection: Protection,
    live: Overlays,
    inodes: InodeCache,
    handles: Handles,
    /// Held for reading by every change for the moments in which it edits memory, and for writing by the
    /// commit while it freezes: what is frozen is a prefix of the history (I11). Taken after inode locks;
    /// no disk is touched while it is held.
    barrier: RwLock<()>,
    /// Files whose active layer is not empty.
    dirty: Mutex<Vec<Arc<Inode>>>,
    dirty_bytes: AtomicU64,
    bounds: Bounds,
    epoch: AtomicU64,
    next_ino: AtomicU64,
    /// Whether any directory has, or had, two names with one hash.
    collisions: AtomicBool,
    gate: CommitGate,
    /// Where small pieces were stored. A leaf.
    folds: Mutex<FoldQueue>,
    /// The thread that commits every few seconds; ended by close.
    timer: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Held by each rename, so that two of them cannot make a loop of directories.
    renames: Mutex<()>,
    /// Inodes without names, and whether the kernel has forgotten them: then they go with their last handle.
    orphans: Mutex<HashMap<Ino, bool>>,
    /// Held while a snapshot is taken or deleted.
    snapshots: Mutex<()>,
    cleaning: Cleaning,
    nodes: NodeCache,
    virtuals: Virtual,
    roots_in_use: Arc<RootsInUse>,
    root: Ino,
    halted: Mutex<Option<String>>,
    closed: AtomicBool,
    /// Bytes that may still be accepted before the backing disk is asked for its room again.
    space_checked: AtomicU64,
    auto_clean: AutoClean,
    /// The last field, so that it is given free after the index is closed.
    _lock: StoreLock,
}

impl Engine {
    /// Why the store accepts no more changes, if so.
    #[must_use]
    pub fn halted(&self) -> Option<String> {
        self.halted.lock().clone()
    }

    /// The inode number of the root of the tree that is mounted.
    #[must_use]
    pub fn root(&self) -> Ino {
        self.root
    }

    /// The directory of the store.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Lets the store accept no more changes: its state in memory may be wrong.
    pub fn halt(&self, why: impl Into<String>) {
        let why = why.into();
        log::error!("the store accepts no more changes: {why}");
        self.halted.lock().get_or_insert(why);
    }

    fn index(&self) -> &Arc<Index> {
        self.live.index()
    }

    /// The inode `ino` of the live tree.
    ///
    /// # Errors
    /// [`Error::Stale`] if there is none.
    fn inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        loop {
            let miss = match self.inodes.find(ino) {
                Ok(inode) => return Ok(inode),
                Err(miss) => miss,
            };
            let row = self.live.get(Table::Inode, &keys::inode(ino))?;
            let row = InodeRow::decode(&row.ok_or(Error::Stale)?)?;
            if let Some(inode) = self.inodes.insert_loaded(miss, row) {
                return Ok(inode);
            }
        }
    }

    /// Fails if the store accepts no changes.
    fn check_writable(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Stale);
        }
        if self.config.read_only {
            return Err(Error::ReadOnly("mounted read-only"));
        }
        match &*self.halted.lock() {
            Some(why) => Err(Error::Halted(why.clone())),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
