//! Reads that heal: what the disk has lost of a frame is computed from parity (I3).
//!
//! 1. A frame that cannot be read, or does not verify, is asked of [`ParityStore::reconstruct_range`]. What comes is decoded
//!    and verified exactly like bytes from the disk: parity is trusted no more than the disk is.
//! 2. The frame is remembered as damaged, so that deduplication does not rely on it, and its pack is queued for repair,
//!    which somebody else does (`Signal`).
//! 3. A frame that parity cannot bring back is remembered as lost, so that its next readers do not all try again.
//!
//! A row that is out of date, because cleaning has moved its chunk, is no damage: the index is asked again before
//! anything is computed. Should cleaning come between that question and the computing, nothing wrong happens: what is read is
//! verified all the same, and a repair looks whether the pack is still part of the store.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::cache::FrameKey;
use super::files::pack_name;
use super::parity::ParityStore;
use super::read::DecodedFrame;
use super::repair::{LostRange, RangeOutcome};
use super::store::ChunkStore;
use crate::base::limits::{DAMAGED_FRAMES_MAX, FRAME_RAW_LEN_MAX};
use crate::base::{Error, PackId, PackOff, Result, Site};
use crate::format::frame::{Address, FRAME_LEN_MAX};
use crate::format::rows::{ChunkRow, PackKind};

const _: () = assert!(FRAME_RAW_LEN_MAX <= FRAME_LEN_MAX);

/// Wakes whoever makes parity and repairs packs, and ends it.
///
/// Locks: a leaf.
#[derive(Debug, Default)]
pub struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SignalState {
    kicked: bool,
    stopped: bool,
}

impl Signal {
    /// There is something to do.
    pub fn kick(&self) {
        self.state.lock().kicked = true;
        self.changed.notify_all();
    }

    /// There will be nothing to do any more.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Waits until there is something to do, at most for a time; `false` if there will be nothing any more.
    pub fn wait(&self, most: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.kicked && !state.stopped {
            self.changed.wait_for(&mut state, most);
        }
        state.kicked = false;
        !state.stopped
    }

    /// Whether [`Signal::stop`] was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }
}

/// What is known of damaged frames since the store was opened.
#[derive(Debug, Default)]
struct Wounds {
    /// Where they are, and their stored lengths.
    damaged: HashMap<FrameKey, u32>,
    /// Those of them that parity could not bring back.
    lost: HashSet<FrameKey>,
    /// Packs that wait for their repair.
    queue: BTreeSet<PackId>,
    /// Packs that could not be repaired.
    hopeless: BTreeSet<PackId>,
}

/// What reads have found and healed since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealStats {
    /// Frames that cannot be read from the disk, as far as is known.
    pub damaged_frames: u64,
    /// Of these those that parity cannot bring back either.
    pub lost_frames: u64,
    /// Reads of frames that were answered from parity.
    pub reads_healed: u64,
    /// Packs that wait for their repair.
    pub packs_waiting: u64,
}

/// Heals reads, and remembers damage.
///
/// Locks: `computing` is held while bytes are computed, disk waits included: that takes some ten MiB of memory, so one
/// read does it at a time. It is taken within a flight of the cache and takes `wounds` only, which is a leaf.
pub(super) struct Healer {
    computing: Mutex<()>,
    parity: Option<Arc<ParityStore>>,
    read_only: bool,
    wounds: Mutex<Wounds>,
    reads_healed: AtomicU64,
    signal: Arc<Signal>,
}

impl Healer {
    pub(super) fn new(parity: Option<Arc<ParityStore>>, read_only: bool) -> Self {
        Self {
            computing: Mutex::new(()),
            parity,
            read_only,
            wounds: Mutex::default(),
            reads_healed: AtomicU64::new(0),
            signal: Arc::default(),
        }
    }

    /// Answers a read of a frame that has failed with `error` from parity, if that can be done.
    ///
    /// `is_current` asks whether the row still is what the index says.
    ///
    /// # Errors
    /// `error`.
    pub(super) fn heal<T>(
        &self,
        row: &ChunkRow,
        error: Error,
        is_current: &dyn Fn() -> Result<bool>,
        decode: &dyn Fn(&[u8]) -> Result<T>,
    ) -> Result<T> {
        let key = (row.pack, row.frame);
        let Some(parity) = &self.parity else {
            return Err(error);
        };
        let can_be_damage = error.is_damage() || matches!(error, Error::Io { .. });
        let is_lost = || self.wounds.lock().lost.contains(&key);
        if !can_be_damage || !matches!(is_current(), Ok(true)) || is_lost() {
            return Err(error);
        }
        let site = Site {
            pack: row.pack,
            off: row.frame,
        };
        let len = usize::try_from(row.frame_len).unwrap_or(usize::MAX);
        let computed = {
            let _one_at_a_time = self.computing.lock();
            parity.reconstruct_range(row.pack, row.frame, len)
        };
        let why = match computed {
            Ok(RangeOutcome::Bytes(bytes)) => match decode(&bytes) {
                Ok(frame) => {
                    self.reads_healed.fetch_add(1, Ordering::Relaxed);
                    if self.note_damage(key, row.frame_len) {
                        log::warn!("{error}; the frame at {site} was read from parity instead");
                    }
                    self.queue(row.pack);
                    return Ok(frame);
                }
                Err(other) => format!("parity gives bytes that do not verify either: {other}"),
            },
            Ok(RangeOutcome::BeyondRepair(lost)) => {
                format!("beyond what parity can repair: {}", ranges(&lost))
            }
            Ok(RangeOutcome::Unprotected) => return Err(error),
            Err(other) => {
                log::error!("{error}; the frame at {site} cannot be read from parity: {other}");
                return Err(error);
            }
        };
        log::error!("{error}; the frame at {site} is lost: {why}");
        self.note_damage(key, row.frame_len);
        let mut wounds = self.wounds.lock();
        if wounds.lost.len() < DAMAGED_FRAMES_MAX {
            wounds.lost.insert(key);
        }
        drop(wounds);
        // Other damage in the pack may be within what can be repaired.
        self.queue(row.pack);
        Err(error)
    }

    /// Remembers that a frame cannot be read; says whether that is new.
    pub(super) fn note_damage(&self, key: FrameKey, len: u32) -> bool {
        let mut wounds = self.wounds.lock();
        wounds.damaged.len() < DAMAGED_FRAMES_MAX && wounds.damaged.insert(key, len).is_none()
    }

    /// Asks for the repair of a pack that a parity file covers.
    fn queue(&self, pack: PackId) {
        let mut wounds = self.wounds.lock();
        let waits = self.read_only || wounds.hopeless.contains(&pack);
        if !waits && wounds.queue.insert(pack) {
            drop(wounds);
            self.signal.kick();
        }
    }

    /// Forgets the damage in a pack that is gone.
    pub(super) fn forget(&self, pack: PackId) {
        let mut wounds = self.wounds.lock();
        wounds.damaged.retain(|(of, _), _| *of != pack);
        wounds.lost.retain(|(of, _)| *of != pack);
        wounds.queue.remove(&pack);
        wounds.hopeless.remove(&pack);
    }

    /// Forgets that a frame was damaged.
    fn forget_frame(&self, key: FrameKey) {
        let mut wounds = self.wounds.lock();
        wounds.damaged.remove(&key);
        wounds.lost.remove(&key);
    }

    /// Whether a frame may be used instead of storing its chunks again.
    pub(super) fn is_trusted(&self, key: FrameKey) -> bool {
        let wounds = self.wounds.lock();
        // With so much damage that it cannot be remembered nothing is trusted.
        wounds.damaged.len() < DAMAGED_FRAMES_MAX && !wounds.damaged.contains_key(&key)
    }

    /// The damaged frames.
    pub(super) fn damaged(&self) -> Vec<Site> {
        let wounds = self.wounds.lock();
        let sites = wounds.damaged.keys();
        let mut sites: Vec<Site> = sites.map(|&(pack, off)| Site { pack, off }).collect();
        sites.sort_unstable_by_key(|site| (site.pack, site.off));
        sites
    }

    fn damaged_in(&self, pack: PackId) -> Vec<(PackOff, u32)> {
        let wounds = self.wounds.lock();
        let of_pack = wounds.damaged.iter().filter(|((of, _), _)| *of == pack);
        let mut frames: Vec<_> = of_pack.map(|((_, off), len)| (*off, *len)).collect();
        frames.sort_unstable();
        frames
    }
}

/// Ranges of bytes for a message.
fn ranges(lost: &[LostRange]) -> String {
    /// So many are told word for word.
    const TOLD: usize = 8;
    let text = |lost: &LostRange| {
        let (from, to) = (lost.range.start, lost.range.end);
        format!("pack {} bytes {from}..{to}", lost.pack)
    };
    let mut told: Vec<String> = lost.iter().take(TOLD).map(text).collect();
    if lost.len() > TOLD {
        told.push(format!("and {} more", lost.len() - TOLD));
    }
    told.join(", ")
}

impl ChunkStore {
    /// What wakes the thread that repairs packs.
    #[must_use]
    pub fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.reader.healer.signal)
    }

    /// What reads have found and healed since the store was opened.
    #[must_use]
    pub fn heal_stats(&self) -> HealStats {
        let healer = &self.reader.healer;
        let wounds = healer.wounds.lock();
        HealStats {
            damaged_frames: wounds.damaged.len() as u64,
            lost_frames: wounds.lost.len() as u64,
            reads_healed: healer.reads_healed.load(Ordering::Relaxed),
            packs_waiting: wounds.queue.len() as u64,
        }
    }

    /// Packs that wait for their repair, ascending; they wait no more.
    #[must_use]
    pub fn take_wounded(&self) -> Vec<PackId> {
        let mut wounds = self.reader.healer.wounds.lock();
        std::mem::take(&mut wounds.queue).into_iter().collect()
    }

    /// Puts a pack back among those that wait for their repair.
    pub fn note_wounded(&self, pack: PackId) {
        self.reader.healer.wounds.lock().queue.insert(pack);
    }

    /// Notes that a pack cannot be repaired: it is not tried again before another one was.
    pub fn note_hopeless(&self, pack: PackId) {
        self.reader.healer.wounds.lock().hopeless.insert(pack);
    }

    /// Whether a pack is part of the store.
    #[must_use]
    pub fn holds_pack(&self, pack: PackId) -> bool {
        self.files.holds(pack)
    }

    /// Where the file of a pack is, or should be.
    #[must_use]
    pub fn pack_path(&self, pack: PackId, kind: PackKind) -> PathBuf {
        self.files.disk().path(&pack_name(pack, kind))
    }

    /// Takes a pack that was not there when the store was opened, and was rebuilt since, as part of the store.
    pub fn adopt(&self, pack: PackId, kind: PackKind) {
        self.files.adopt(pack, kind);
        *self.closed_len.lock() = None;
    }

    /// Forgets what was known of a pack that is no part of the store.
    pub fn forget_pack(&self, pack: PackId) {
        self.reader.healer.forget(pack);
    }

    /// Notes that a repair has put another file in the place of a pack, or has found nothing wrong with it: it is opened anew, and
    /// of its frames that were known to be damaged those that verify now are trusted again.
    pub fn pack_rewritten(&self, pack: PackId) {
        self.files.reopen(pack);
        let healer = &self.reader.healer;
        for (off, len) in healer.damaged_in(pack) {
            let at = Address {
                store: self.superblock.store,
                pack,
                off,
            };
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let read = self.files.read(pack, off, len.min(FRAME_LEN_MAX));
            let verified = read.and_then(|bytes| {
                let (frame, _) = DecodedFrame::decode(&bytes, &at)?;
                frame.verify_all(&at)
            });
            match verified {
                Ok(()) => healer.forget_frame((pack, off)),
                Err(error) => log::error!("still damaged after the repair: {error}"),
            }
        }
        // With this pack whole, parity may suffice for others of its group.
        let mut wounds = healer.wounds.lock();
        wounds.lost.clear();
        wounds.hopeless.clear();
    }
}
