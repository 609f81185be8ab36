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
    shards: Vec<Mutex<Shard>>,
    /// Highest epoch that is committed: older changes no longer pin an inode.
    pub(crate) committed: AtomicU64,
}

#[derive(Debug)]
struct Shard {
    inodes: LruCache<Ino, Arc<Inode>>,
    /// How many inodes have been taken out.
    taken: u64,
}

/// What [`InodeCache::find`] did not find, and when it looked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Miss {
    ino: Ino,
    taken: u64,
}

const SHARDS: usize = 16;

impl InodeCache {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS)
                .map(|_| {
                    Mutex::new(Shard {
                        inodes: LruCache::unbounded(),
                        taken: 0,
                    })
                })
                .collect(),
            committed: AtomicU64::new(0),
        }
    }

    fn shard(&self, ino: Ino) -> Option<&Mutex<Shard>> {
        self.shards
            .get(usize::try_from(ino.raw()).unwrap_or(0) % SHARDS)
    }

    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.shard(ino)?.lock().inodes.get(&ino).cloned()
    }

    /// An inode, or what [`InodeCache::insert_loaded`] needs to know of its absence.
    pub(crate) fn find(&self, ino: Ino) -> std::result::Result<Arc<Inode>, Miss> {
        let Some(shard) = self.shard(ino) else {
            return Err(Miss { ino, taken: 0 });
        };
        let mut shard = shard.lock();
        let taken = shard.taken;
        shard.inodes.get(&ino).cloned().ok_or(Miss { ino, taken })
    }

    /// Adds an inode whose row was read after `miss`; if another thread was faster, its inode wins.
    ///
    /// `None` if inodes have been taken out since: this one may have been among them, loaded, changed and taken out by
    /// others, so that the row is an old one and has to be read again.
    pub(crate) fn insert_loaded(&self, miss: Miss, row: InodeRow) -> Option<Arc<Inode>> {
        let mut shard = self.shard(miss.ino)?.lock();
        (shard.taken == miss.taken).then(|| self.add(&mut shard, Inode::new(miss.ino, row)))
    }

    /// Adds an inode that was made.
    pub(crate) fn insert(&self, inode: Arc<Inode>) -> Arc<Inode> {
        match self.shard(inode.ino) {
            Some(shard) => self.add(&mut shard.lock(), inode),
            None => inode,
        }
    }

    fn add(&self, shard: &mut Shard, inode: Arc<Inode>) -> Arc<Inode> {
        if let Some(known) = shard.inodes.get(&inode.ino) {
            return Arc::clone(known);
        }
        shard.inodes.put(inode.ino, Arc::clone(&inode));
        let keep = NonZeroUsize::MIN.get().max(CACHED_MAX / SHARDS);
        // Inodes in use are skipped: they move to the young end and are looked at again later.
        let mut tries = 4;
        while shard.inodes.len() > keep && tries > 0 {
            tries -= 1;
            let Some((ino, old)) = shard.inodes.pop_lru() else {
                break;
            };
            if self.in_use(&old) {
                shard.inodes.put(ino, old);
            } else {
                shard.taken += 1;
            }
        }
        inode
    }

    pub(crate) fn remove(&self, ino: Ino) {
        if let Some(shard) = self.shard(ino) {
            let mut shard = shard.lock();
            if shard.inodes.pop(&ino).is_some() {
                shard.taken += 1;
            }
        }
    }

    fn in_use(&self, inode: &Arc<Inode>) -> bool {
        Arc::strong_count(inode) > 1
            || inode.opens.load(Ordering::Acquire) > 0
            || inode.changed.load(Ordering::Acquire) > self.committed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::format::rows::{Attrs, Kind};

    fn row(size: u64) -> InodeRow {
        let time = Timestamp::default();
        let attrs = Attrs {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            rdev_major: 0,
            rdev_minor: 0,
            flags: 0,
            size,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        };
        InodeRow {
            attrs,
            nlink: 1,
            mapped: 0,
            parent: Ino::ROOT,
            target: Vec::new(),
        }
    }

    fn size(inode: &Inode) -> u64 {
        inode.state.read().row.attrs.size
    }

    /// Bug: a thread read an inode's row; before it had put it into the cache, another one loaded the inode, removed
    /// the file, and took the inode out; then the first one's inode, with a name that is none, stayed in the cache.
    #[test]
    fn a_row_that_was_read_before_its_inode_was_taken_out_is_read_again() {
        let (cache, ino) = (InodeCache::new(), Ino::from_raw(7));
        let slow = cache.find(ino).unwrap_err();
        let fast = cache.find(ino).unwrap_err();
        let loaded = cache.insert_loaded(fast, row(1)).unwrap();
        loaded.state.write().row.attrs.size = 2;
        assert_eq!(size(&cache.insert_loaded(slow, row(1)).unwrap()), 2);
        drop(loaded);
        cache.remove(ino);
        assert!(cache.insert_loaded(slow, row(1)).is_none());
        let again = cache.find(ino).unwrap_err();
        assert_eq!(size(&cache.insert_loaded(again, row(2)).unwrap()), 2);
    }

    #[test]
    fn a_row_that_was_read_before_its_inode_was_evicted_is_read_again() {
        let (cache, ino) = (InodeCache::new(), Ino::from_raw(7));
        let slow = cache.find(ino).unwrap_err();
        drop(cache.insert(Inode::new(ino, row(1))));
        let mut others = (ino.raw() + 1..).filter(|n| n % (SHARDS as u64) == ino.raw());
        while cache.get(ino).is_some() {
            // Looking at it has made it the youngest.
            for other in others.by_ref().take(CACHED_MAX / SHARDS) {
                drop(cache.insert(Inode::new(Ino::from_raw(other), row(0))));
            }
        }
        assert!(cache.insert_loaded(slow, row(1)).is_none());
    }
}
