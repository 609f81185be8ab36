//! Inodes in memory: their attributes, their layers, the cache that keeps them, locking several.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::{ArcRwLockWriteGuard, Mutex, RawRwLock, RwLock};

use super::layer::Layer;
use crate::base::{Error, Ino, Result};
use crate::format::rows::InodeRow;

/// Inodes that are kept in memory although nothing uses them.
const CACHED_MAX: usize = 32_768;

/// An inode in memory. There is at most one for each number.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) ino: Ino,
    /// Guards the attributes and, for a directory, its entries. Held across disk reads; when several are
    /// taken, in ascending inode order (I5). The barrier is taken after it, never before.
    pub(crate) state: Arc<RwLock<State>>,
    /// Guards the layers. Taken after `state` and the barrier; no disk is touched while it is held.
    pub(crate) layers: Mutex<Layers>,
    /// Handles that are open on it.
    pub(crate) opens: AtomicU64,
    /// The commit epoch in which it was last changed; kept in memory until that one is committed.
    pub(crate) changed: AtomicU64,
}

/// What `Inode::state` guards.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) row: InodeRow,
    /// No name, no handle: its rows are deleted.
    pub(crate) gone: bool,
}

/// The contents that are newer than the extents in the index.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    pub(crate) active: Layer,
    pub(crate) frozen: Option<Arc<Layer>>,
    /// Bytes mapped by the extents in the index.
    pub(crate) mapped: u64,
}

impl Inode {
    pub(crate) fn new(ino: Ino, row: InodeRow) -> Arc<Self> {
        let mapped = row.mapped;
        Arc::new(Self {
            ino,
            state: Arc::new(RwLock::new(State { row, gone: false })),
            layers: Mutex::new(Layers {
                mapped,
                ..Layers::default()
            }),
            opens: AtomicU64::new(0),
            changed: AtomicU64::new(0),
        })
    }

    pub(crate) fn write(&self) -> Guard {
        self.state.write_arc()
    }
}

pub(crate) type Guard = ArcRwLockWriteGuard<RawRwLock, State>;

/// Several inodes, locked for writing in ascending order (I5).
pub(crate) struct Locked {
    guards: Vec<(Arc<Inode>, Guard)>,
}

impl Locked {
    pub(crate) fn new(inodes: impl IntoIterator<Item = Arc<Inode>>) -> Self {
        let mut inodes: Vec<Arc<Inode>> = inodes.into_iter().collect();
        inodes.sort_by_key(|i| i.ino);
        inodes.dedup_by_key(|i| i.ino);
        Self {
            guards: inodes
                .into_iter()
                .map(|i| {
                    let guard = i.write();
                    (i, guard)
                })
                .collect(),
        }
    }

    pub(crate) fn get(&mut self, ino: Ino) -> Result<(&Arc<Inode>, &mut State)> {
        self.guards
            .iter_mut()
            .find(|(inode, _)| inode.ino == ino)
            .map(|(inode, guard)| (&*inode, &mut **guard))
            .ok_or(Error::Internal("an inode was used without its lock"))
    }
}

/// All inodes in memory.
#[derive(Debug)]
pub(crate) struct InodeCache {
    shards: Vec<Mutex<LruCache<Ino, Arc<Inode>>>>,
    /// Highest epoch that is committed: older changes no longer pin an inode.
    pub(crate) committed: AtomicU64,
}

const SHARDS: usize = 16;

impl InodeCache {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS)
                .map(|_| Mutex::new(LruCache::unbounded()))
                .collect(),
            committed: AtomicU64::new(0),
        }
    }

    fn shard(&self, ino: Ino) -> Option<&Mutex<LruCache<Ino, Arc<Inode>>>> {
        self.shards
            .get(usize::try_from(ino.raw()).unwrap_or(0) % SHARDS)
    }

    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.shard(ino)?.lock().get(&ino).cloned()
    }

    /// Adds an inode that was loaded or made; if another thread was faster, its inode wins.
    pub(crate) fn insert(&self, inode: Arc<Inode>) -> Arc<Inode> {
        let Some(shard) = self.shard(inode.ino) else {
            return inode;
        };
        let mut shard = shard.lock();
        if let Some(known) = shard.get(&inode.ino) {
            return Arc::clone(known);
        }
        shard.put(inode.ino, Arc::clone(&inode));
        let keep = NonZeroUsize::MIN.get().max(CACHED_MAX / SHARDS);
        // Inodes in use are skipped: they move to the young end and are looked at again later.
        let mut tries = 4;
        while shard.len() > keep && tries > 0 {
            tries -= 1;
            let Some((ino, old)) = shard.pop_lru() else {
                break;
            };
            if self.in_use(&old) {
                shard.put(ino, old);
            }
        }
        inode
    }

    pub(crate) fn remove(&self, ino: Ino) {
        if let Some(shard) = self.shard(ino) {
            shard.lock().pop(&ino);
        }
    }

    fn in_use(&self, inode: &Arc<Inode>) -> bool {
        Arc::strong_count(inode) > 1
            || inode.opens.load(Ordering::Acquire) > 0
            || inode.changed.load(Ordering::Acquire) > self.committed.load(Ordering::Acquire)
    }
}
