//! Snapshots that something is read from: they are not deleted meanwhile, and cleaning keeps what is below them (I8).
//!
//! Who reads a snapshot notes its root first and looks for its row then. If a deletion was faster, the row is gone and the
//! reader is told so; if not, whoever cleans after the deletion finds the root here. So no lock is held while reading.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::list::info;
use crate::base::{ChunkId, Error, Result};
use crate::engine::Engine;
use crate::engine::types::SnapshotInfo;
use crate::format::rows::SnapshotRow;

/// How often each root is in use. A leaf lock; bounded by the readers there are.
#[derive(Debug, Default)]
pub(crate) struct RootsInUse(Mutex<HashMap<ChunkId, u64>>);

/// Keeps a snapshot from being deleted, and what it holds from being cleaned away, until it is dropped.
#[derive(Debug)]
pub struct SnapshotInUse {
    roots: Arc<RootsInUse>,
    root: ChunkId,
}

impl Drop for SnapshotInUse {
    fn drop(&mut self) {
        let mut roots = self.roots.0.lock();
        if let Some(count) = roots.get_mut(&self.root) {
            *count -= 1;
            if *count == 0 {
                roots.remove(&self.root);
            }
        }
    }
}

impl RootsInUse {
    fn add(self: &Arc<Self>, root: ChunkId) -> SnapshotInUse {
        *self.0.lock().entry(root).or_default() += 1;
        SnapshotInUse {
            roots: Arc::clone(self),
            root,
        }
    }

    pub(crate) fn contains(&self, root: &ChunkId) -> bool {
        self.0.lock().contains_key(root)
    }

    pub(crate) fn all(&self) -> Vec<ChunkId> {
        self.0.lock().keys().copied().collect()
    }
}

impl Engine {
    /// Finds a snapshot as [`Engine::resolve`] does and keeps it from being deleted until the second value is dropped.
    ///
    /// # Errors
    /// Those of [`Engine::resolve`].
    pub fn use_snapshot(&self, text: &str) -> Result<(SnapshotInfo, SnapshotInUse)> {
        let (name, row, in_use) = self.use_row(text)?;
        Ok((info(&name, &row), in_use))
    }

    pub(crate) fn use_row(&self, text: &str) -> Result<(String, SnapshotRow, SnapshotInUse)> {
        let (_, row) = self.resolve_row(text)?;
        let in_use = self.roots_in_use.add(row.root);
        let (name, again) = self.resolve_row(text)?;
        if again.root != row.root {
            // Deleted, and its name given to another one, within a moment.
            return Err(Error::SeedUnknown(text.to_owned()));
        }
        Ok((name, again, in_use))
    }
}
