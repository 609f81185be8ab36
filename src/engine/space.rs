//! Room: what may still be written, and the thread that gives space back by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Engine;
use super::types::{CleanOptions, CleanReport};
use crate::base::limits::{
    AUTO_CLEAN_INTERVAL_MS, AUTO_CLEAN_PACKS_MIN, AUTO_CLEAN_PACKS_SHARE,
    AUTO_CLEAN_UNUSED_PERCENT, DIRTY_START_LEN, DIRTY_WAIT_LEN, MEMORY_DEFAULT, NODES_CACHED_LEN,
    PENDING_META_DELETE_FACTOR, PENDING_META_START_LEN, PENDING_META_WAIT_LEN,
    RESERVE_STORE_LEN_MIN, ROLLBACK_STEP_LEN,
};
use crate::base::{Error, Result};
use crate::disk::Space;

/// How much may wait in memory for a commit: bytes, the share of the memory budget that is not for caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Dirty file bytes at which a commit is started.
    pub(crate) dirty_start: u64,
    /// Dirty file bytes at which writers wait.
    pub(crate) dirty_wait: u64,
    /// Pending metadata at which a commit is started.
    pub(crate) meta_start: u64,
    /// Pending metadata at which changes wait.
    pub(crate) meta_wait: u64,
    /// Pending metadata that even deleting on a full disk may not exceed.
    pub(crate) meta_most: u64,
    /// Decoded nodes of snapshots that are kept.
    pub(crate) nodes: u64,
}

impl Bounds {
    /// The bounds for a budget: those of `limits` for the default one, smaller ones for a smaller one.
    pub(crate) fn of(memory: u64) -> Self {
        let share = |most: u64| {
            let part = u128::from(most) * u128::from(memory) / u128::from(MEMORY_DEFAULT);
            u64::try_from(part).unwrap_or(most).min(most)
        };
        // A step of a rollback must fit, or it would wait for a commit that waits for it.
        let meta_wait = share(PENDING_META_WAIT_LEN).max(ROLLBACK_STEP_LEN + ROLLBACK_STEP_LEN / 2);
        Self {
            dirty_start: share(DIRTY_START_LEN),
            dirty_wait: share(DIRTY_WAIT_LEN),
            meta_start: share(PENDING_META_START_LEN),
            meta_wait,
            meta_most: meta_wait * PENDING_META_DELETE_FACTOR,
            nodes: share(NODES_CACHED_LEN as u64),
        }
    }
}

/// When the store was last cleaned, and what has happened since.
#[derive(Debug, Default)]
pub(crate) struct AutoClean {
    /// The number that the next pack had then.
    pack: AtomicU64,
    /// A snapshot was deleted since.
    forgotten: AtomicBool,
    /// Guards the end of the thread. A leaf.
    stop: Mutex<bool>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl AutoClean {
    /// Ends the thread, if there is one, and waits for it: it holds a reference to the engine.
    pub(crate) fn stop(&self) {
        *self.stop.lock() = true;
        self.wake.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            log::error!("the cleaning thread has panicked");
        }
    }

    /// Notes that a snapshot was deleted.
    pub(crate) fn note_forgotten(&self) {
        self.forgotten.store(true, Ordering::Release);
    }

    /// Waits for the next look; `false` if there is none.
    fn wait(&self) -> bool {
        let mut stop = self.stop.lock();
        if !*stop {
            let wait = Duration::from_millis(AUTO_CLEAN_INTERVAL_MS);
            self.wake.wait_for(&mut stop, wait);
        }
        !*stop
    }
}

impl Engine {
    /// The room that the backing disk and the size limit leave.
    pub(crate) fn space(&self) -> Result<Space> {
        let mut space = self.disk.space()?;
        if let Some(limit) = self.config.size_limit {
            let left = limit.saturating_sub(self.store.used_now()?);
            space.total_bytes = space.total_bytes.min(limit);
            space.free_bytes = space.free_bytes.min(left);
            space.available_bytes = space.available_bytes.min(left);
        }
        Ok(space)
    }

    /// Fails if `len` more bytes may not find room on the backing disk, or would exceed the size limit.
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
        let need = pending.saturating_add(cost);
        let mut free = self.disk.space()?.available_bytes;
        if free < need.saturating_add(MARGIN) {
            return Err(Error::NoSpace);
        }
        if let Some(limit) = self.config.size_limit {
            free = free.min(limit.saturating_sub(self.store.used_now()?));
            if free < need {
                return Err(Error::NoSpace);
            }
        }
        self.space_checked
            .store(STEP.min(free - need), Ordering::Relaxed);
        Ok(())
    }

    /// Keeps some room for the commits of a cleaning, if there is plenty and the store is not small beside it.
    pub(crate) fn hold_reserve(&self) {
        let held = match self.store.used_now() {
            Ok(len) if len < RESERVE_STORE_LEN_MIN => return,
            Ok(_) => self.store.hold_reserve(),
            Err(error) => Err(error),
        };
        if let Err(error) = held {
            log::warn!("no room is kept for cleaning: {error}");
        }
    }

    /// Notes that the store has just been cleaned.
    pub(crate) fn note_cleaned(&self) {
        let next = self.store.next_pack().raw();
        self.auto_clean.pack.store(next, Ordering::Release);
        self.auto_clean.forgotten.store(false, Ordering::Release);
        // What was refused for want of room may fit now.
        self.space_checked.store(0, Ordering::Relaxed);
    }

    /// Cleans the store if enough was written since the last time, or a snapshot was deleted. Leaves more than
    /// [`Engine::clean`] does by default: rewriting costs the disk as well.
    ///
    /// # Errors
    /// Those of [`Engine::clean`].
    pub fn clean_if_due(&self) -> Result<Option<CleanReport>> {
        let last = self.auto_clean.pack.load(Ordering::Acquire);
        let grown = self.store.next_pack().raw().saturating_sub(last);
        let packs = self.store.pack_count() as u64;
        let enough = AUTO_CLEAN_PACKS_MIN.saturating_add(packs / AUTO_CLEAN_PACKS_SHARE);
        if grown < enough && !self.auto_clean.forgotten.load(Ordering::Acquire) {
            return Ok(None);
        }
        let options = CleanOptions {
            unused_percent: AUTO_CLEAN_UNUSED_PERCENT,
            ..CleanOptions::default()
        };
        self.clean(&options, &|_, _| {}).map(Some)
    }

    /// Starts the thread that cleans the store when it is due.
    pub(crate) fn start_auto_clean(self: &Arc<Self>) -> Result<()> {
        let engine = Arc::clone(self);
        let thread = std::thread::Builder::new().name("mmhfs-clean".into());
        let work = move || {
            while engine.auto_clean.wait() {
                match engine.clean_if_due() {
                    Ok(Some(report)) => log::info!("cleaned: {report:?}"),
                    Ok(None) => {}
                    Err(error) => log::warn!("the store was not cleaned: {error}"),
                }
            }
        };
        thread
            .spawn(work)
            .map(|thread| *self.auto_clean.thread.lock() = Some(thread))
            .map_err(|e| Error::io("start the cleaning thread", e))
    }
}
