//! Open files and directories.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::inode::Inode;
use super::types::{Handle, OpenHow};
use crate::base::{Error, Ino, Result};

/// What a handle is open on.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// An inode of the live tree.
    Live(Arc<Inode>),
    /// An inode of a snapshot or of the directories that lead there.
    Virtual(Ino),
}

#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) target: Target,
    pub(crate) how: OpenHow,
    /// End of the last read, to recognise sequential reading.
    pub(crate) read_end: AtomicU64,
}

/// All open handles. Numbers are not reused while the store is open.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    open: RwLock<HashMap<u64, Arc<Open>>>,
    last: AtomicU64,
}

impl Handles {
    pub(crate) fn open(&self, target: Target, how: OpenHow) -> Handle {
        if let Target::Live(inode) = &target {
            inode.opens.fetch_add(1, Ordering::AcqRel);
        }
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let open = Arc::new(Open {
            target,
            how,
            read_end: AtomicU64::new(0),
        });
        self.open.write().insert(id, open);
        Handle(id)
    }

    pub(crate) fn get(&self, handle: Handle) -> Result<Arc<Open>> {
        self.open.read().get(&handle.0).cloned().ok_or(Error::Stale)
    }

    /// The inodes of snapshots that handles are open on, in no order.
    pub(crate) fn virtuals(&self) -> impl Iterator<Item = Ino> + use<> {
        let open = self.open.read();
        let inos = open.values().filter_map(|open| match open.target {
            Target::Virtual(ino) => Some(ino),
            Target::Live(_) => None,
        });
        inos.collect::<Vec<_>>().into_iter()
    }

    /// Whether anything is open.
    pub(crate) fn is_any_open(&self) -> bool {
        !self.open.read().is_empty()
    }

    /// The inode of the live tree that a handle is open on.
    pub(crate) fn live(&self, handle: Handle) -> Result<(Arc<Inode>, Arc<Open>)> {
        let open = self.get(handle)?;
        match &open.target {
            Target::Live(inode) => Ok((Arc::clone(inode), Arc::clone(&open))),
            Target::Virtual(_) => Err(Error::ReadOnly("snapshots cannot be changed")),
        }
    }

    /// Closes a handle; returns the inode if this was its last one.
    pub(crate) fn close(&self, handle: Handle) -> Result<Option<Arc<Inode>>> {
        let open = self.open.write().remove(&handle.0).ok_or(Error::Stale)?;
        match &open.target {
            Target::Live(inode) => {
                Ok((inode.opens.fetch_sub(1, Ordering::AcqRel) == 1).then(|| Arc::clone(inode)))
            }
            Target::Virtual(_) => Ok(None),
        }
    }
}
