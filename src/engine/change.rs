//! Changing the tree in memory: rows into the overlay, bytes into layers, under the barrier.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLockReadGuard;

use super::Engine;
use super::inode::{Inode, State};
use super::layer::{Layer, Piece};
use crate::base::{Ino, Slot};
use crate::format::keys;
use crate::format::rows::{DirentRow, FLAG_HAS_XATTRS, InodeRow, Kind, Table, encode_counter};
use crate::meta::Txn;

/// A change that takes effect as one: no commit falls between its parts.
///
/// Made after all reading is done and all inode locks are taken, and ended by [`ChangeSet::apply`].
pub(crate) struct ChangeSet<'a> {
    engine: &'a Engine,
    txn: Txn,
    epoch: u64,
    // Before the barrier: what is half done must be known before a commit can freeze it.
    half: Half<'a>,
    _barrier: RwLockReadGuard<'a, ()>,
}

/// Halts the store if a change ends between its parts: the next commit would make half of it durable.
struct Half<'a> {
    engine: &'a Engine,
    is_begun: std::cell::Cell<bool>,
    is_applied: bool,
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        // A panic may have come after an edit of the attributes that this does not see.
        if !self.is_applied && (self.is_begun.get() || std::thread::panicking()) {
            self.engine.halt("a change was only half made");
        }
    }
}

impl Engine {
    pub(crate) fn change(&self) -> ChangeSet<'_> {
        let barrier = self.barrier.read();
        ChangeSet {
            engine: self,
            txn: Txn::default(),
            epoch: self.epoch.load(Ordering::Acquire),
            half: Half {
                engine: self,
                is_begun: std::cell::Cell::new(false),
                is_applied: false,
            },
            _barrier: barrier,
        }
    }
}

impl ChangeSet<'_> {
    /// Makes everything visible at once, and starts a commit if much has gathered.
    pub(crate) fn apply(mut self) {
        self.engine.live.apply(self.txn);
        self.half.is_applied = true;
        drop(self.half);
        drop(self._barrier);
        let bounds = self.engine.bounds;
        if self.engine.dirty_bytes.load(Ordering::Relaxed) >= bounds.dirty_start
            || self.engine.live.active_bytes() >= bounds.meta_start
        {
            self.engine.gate.kick();
        }
    }

    /// Records the attributes of an inode as they are in `state`.
    pub(crate) fn put_inode(&mut self, inode: &Inode, state: &State) {
        inode.changed.store(self.epoch, Ordering::Release);
        self.txn
            .put(Table::Inode, keys::inode(inode.ino), state.row.encode());
    }

    /// Records an inode that is not in memory yet.
    pub(crate) fn put_new_inode(&mut self, ino: Ino, row: &InodeRow) -> Arc<Inode> {
        self.half.is_begun.set(true);
        self.txn.put(Table::Inode, keys::inode(ino), row.encode());
        let inode = Inode::new(ino, row.clone());
        inode.changed.store(self.epoch, Ordering::Release);
        self.engine.inodes.insert(inode)
    }

    /// Adds a name.
    pub(crate) fn put_entry(&mut self, dir: Ino, slot: Slot, ino: Ino, kind: Kind, name: &[u8]) {
        let row = DirentRow {
            ino,
            kind,
            name: name.to_vec(),
        };
        self.txn
            .put(Table::Dirent, keys::dirent(dir, slot), row.encode());
        self.txn
            .put(Table::Link, keys::link(ino, dir, slot), Vec::new());
    }

    /// Removes a name.
    pub(crate) fn del_entry(&mut self, dir: Ino, slot: Slot, ino: Ino) {
        self.txn.del(Table::Dirent, keys::dirent(dir, slot));
        self.txn.del(Table::Link, keys::link(ino, dir, slot));
    }

    /// Sets or removes an extended attribute.
    pub(crate) fn set_xattr(&mut self, ino: Ino, name: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => self.txn.put(Table::Xattr, keys::xattr(ino, name), value),
            None => self.txn.del(Table::Xattr, keys::xattr(ino, name)),
        }
    }

    /// Notes that an inode has no name left but is in use, or that this is over.
    pub(crate) fn set_orphan(&mut self, ino: Ino, orphan: bool) {
        if orphan {
            self.txn.put(Table::Orphan, keys::inode(ino), Vec::new());
        } else {
            self.txn.del(Table::Orphan, keys::inode(ino));
        }
    }

    /// Notes that a directory has two names with one hash.
    pub(crate) fn set_collisions(&mut self) {
        self.txn.put(
            Table::Counter,
            keys::counter(keys::COUNTER_COLLISIONS),
            encode_counter(1),
        );
    }

    /// Notes that an inode has several names; it belongs to no link group of a snapshot yet.
    pub(crate) fn put_hard_link(&mut self, ino: Ino) {
        self.txn
            .put(Table::HardLink, keys::inode(ino), encode_counter(0));
    }

    /// Forgets that an inode had several names.
    pub(crate) fn del_hard_link(&mut self, ino: Ino) {
        self.txn.del(Table::HardLink, keys::inode(ino));
    }

    /// Removes everything that is recorded of an inode that nobody can reach any more.
    pub(crate) fn del_inode(&mut self, inode: &Inode, state: &mut State) {
        self.half.is_begun.set(true);
        state.gone = true;
        let had_xattrs = state.row.attrs.flags & FLAG_HAS_XATTRS != 0;
        self.txn.del(Table::Inode, keys::inode(inode.ino));
        if had_xattrs {
            let (from, to) = keys::ino_range(inode.ino);
            self.txn.del_range(Table::Xattr, from, to);
        }
        let mut layers = inode.layers.lock();
        // The row does not know what was mapped since it was read; a file that was emptied still has extents
        // until its hole is committed, and with this change it never is.
        let maps = layers.mapped > 0
            || layers.frozen.is_some()
            || state.row.mapped > 0
            || state.row.attrs.size > 0;
        if state.row.attrs.kind == Kind::File && maps {
            let (from, to) = keys::ino_range(inode.ino);
            self.txn.del_range(Table::Extent, from, to);
        }
        let freed = layers.active.memory_len();
        layers.active = Layer::default();
        drop(layers);
        self.engine.dirty_bytes.fetch_sub(freed, Ordering::Relaxed);
        inode.changed.store(self.epoch, Ordering::Release);
    }

    /// Writes bytes into the active layer.
    pub(crate) fn write(&self, inode: &Arc<Inode>, off: u64, data: &[u8]) {
        self.edit(inode, |layer| layer.write(off, data));
    }

    /// Makes a range of the active layer a hole.
    pub(crate) fn punch(&self, inode: &Arc<Inode>, range: Range<u64>) {
        self.edit(inode, |layer| layer.punch(range));
    }

    /// Puts pieces into the active layer.
    pub(crate) fn put_pieces(&self, inode: &Arc<Inode>, pieces: Vec<(u64, Piece)>) {
        self.edit(inode, |layer| {
            for (off, piece) in pieces {
                layer.put(off, piece);
            }
        });
    }

    fn edit(&self, inode: &Arc<Inode>, edit: impl FnOnce(&mut Layer)) {
        self.half.is_begun.set(true);
        inode.changed.store(self.epoch, Ordering::Release);
        let mut layers = inode.layers.lock();
        let (was_empty, before) = (layers.active.is_empty(), layers.active.memory_len());
        edit(&mut layers.active);
        let (is_empty, after) = (layers.active.is_empty(), layers.active.memory_len());
        drop(layers);
        if after >= before {
            self.engine
                .dirty_bytes
                .fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.engine
                .dirty_bytes
                .fetch_sub(before - after, Ordering::Relaxed);
        }
        if was_empty && !is_empty {
            self.engine.dirty.lock().push(Arc::clone(inode));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Env, Error};
    use crate::engine::{Config, InitOptions};

    /// Bug: a panic between the parts of a change left some of it in memory, and the next commit made that durable.
    #[test]
    fn a_store_in_which_a_change_was_only_half_made_is_halted() {
        let dir = tempfile::tempdir().unwrap();
        Engine::init(dir.path(), &Env::real(), &InitOptions::default()).unwrap();
        let engine = Engine::open(dir.path(), Env::real(), Config::default()).unwrap();
        let root = engine.inode(Ino::ROOT).unwrap();
        let whole = engine.change();
        whole.punch(&root, 0..1);
        whole.apply();
        drop(engine.change());
        assert_eq!(engine.halted(), None);
        let half = engine.change();
        half.punch(&root, 0..1);
        drop(half);
        assert!(engine.halted().is_some());
        assert!(matches!(engine.commit(), Err(Error::Halted(_))));
        let _ = engine.close();
    }
}
