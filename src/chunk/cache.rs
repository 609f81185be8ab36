//! Decoded frames in memory, bounded by bytes; readers of one frame decode it once.
//!
//! 1. A hit takes the shard's lock, moves the frame to the front and clones an `Arc`.
//! 2. On a miss the first reader registers a flight and decodes without a lock; later readers of the same
//!    frame wait for the flight to land and look again.
//! 3. A flight that fails wakes its waiters, each of which then tries for itself and gets its own error.

use std::collections::HashMap;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use crate::base::limits::{CACHE_SHARDS, FRAME_RAW_LEN_MAX};
use crate::base::{PackId, PackOff, Result};

/// Where a frame is; the address of its cache entry.
pub(super) type FrameKey = (PackId, PackOff);

/// Something that the cache holds.
pub(super) trait Weighed {
    /// Bytes it takes.
    fn weight(&self) -> usize;
}

struct Shard<V> {
    frames: LruCache<FrameKey, Arc<V>>,
    held_bytes: usize,
    flights: HashMap<FrameKey, Arc<Flight>>,
}

/// A decode in progress. Locks: `landed` guards only the flag; taken under no other lock.
#[derive(Default)]
struct Flight {
    landed: Mutex<bool>,
    wake: Condvar,
}

/// A cache of decoded frames.
///
/// Locks: each shard's mutex guards its map and its flights and is never held while decoding.
pub(super) struct FrameCache<V> {
    shards: Vec<Mutex<Shard<V>>>,
    shard_len_max: usize,
}

/// Lands its flight however the decode ends, so that waiters never hang.
struct Landing<'a, V> {
    shard: &'a Mutex<Shard<V>>,
    key: FrameKey,
    flight: Arc<Flight>,
}

impl<V> Drop for Landing<'_, V> {
    fn drop(&mut self) {
        self.shard.lock().flights.remove(&self.key);
        *self.flight.landed.lock() = true;
        self.flight.wake.notify_all();
    }
}

enum Turn<V> {
    Hit(Arc<V>),
    Lead(Arc<Flight>),
    Wait(Arc<Flight>),
}

impl<V: Weighed> FrameCache<V> {
    /// A cache of at most about `len` bytes; one frame per shard is always kept.
    pub(super) fn new(len: usize) -> Self {
        let shards = (len / (4 * FRAME_RAW_LEN_MAX)).clamp(1, CACHE_SHARDS);
        let shard = || {
            Mutex::new(Shard {
                frames: LruCache::unbounded(),
                held_bytes: 0,
                flights: HashMap::new(),
            })
        };
        Self {
            shards: std::iter::repeat_with(shard).take(shards).collect(),
            shard_len_max: len / shards,
        }
    }

    fn shard(&self, key: FrameKey) -> Option<&Mutex<Shard<V>>> {
        // Frames of one file lie side by side in one pack: mix before taking the remainder.
        let mixed = (key.0.raw() ^ key.1.raw().rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let slot = (mixed >> 40) % (self.shards.len() as u64).max(1);
        usize::try_from(slot)
            .ok()
            .and_then(|slot| self.shards.get(slot))
    }

    fn turn(shard: &Mutex<Shard<V>>, key: FrameKey) -> Turn<V> {
        let mut state = shard.lock();
        if let Some(found) = state.frames.get(&key) {
            return Turn::Hit(Arc::clone(found));
        }
        if let Some(flight) = state.flights.get(&key) {
            return Turn::Wait(Arc::clone(flight));
        }
        let flight = Arc::<Flight>::default();
        state.flights.insert(key, Arc::clone(&flight));
        Turn::Lead(flight)
    }

    /// The frame at `key`, from memory or by `decode`.
    ///
    /// # Errors
    /// Those of `decode`; nothing is kept then.
    pub(super) fn get(&self, key: FrameKey, decode: impl Fn() -> Result<V>) -> Result<Arc<V>> {
        let Some(shard) = self.shard(key) else {
            return decode().map(Arc::new);
        };
        loop {
            match Self::turn(shard, key) {
                Turn::Hit(frame) => return Ok(frame),
                Turn::Wait(flight) => {
                    let mut landed = flight.landed.lock();
                    while !*landed {
                        flight.wake.wait(&mut landed);
                    }
                }
                Turn::Lead(flight) => {
                    let landing = Landing { shard, key, flight };
                    let frame = Arc::new(decode()?);
                    self.keep(shard, key, &frame);
                    drop(landing);
                    return Ok(frame);
                }
            }
        }
    }

    fn keep(&self, shard: &Mutex<Shard<V>>, key: FrameKey, frame: &Arc<V>) {
        let mut state = shard.lock();
        if let Some(old) = state.frames.put(key, Arc::clone(frame)) {
            state.held_bytes -= old.weight();
        }
        state.held_bytes += frame.weight();
        while state.held_bytes > self.shard_len_max && state.frames.len() > 1 {
            if let Some((_, old)) = state.frames.pop_lru() {
                state.held_bytes -= old.weight();
            }
        }
    }

    /// Whether the frame is in memory.
    pub(super) fn holds(&self, key: FrameKey) -> bool {
        self.shard(key)
            .is_some_and(|shard| shard.lock().frames.contains(&key))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::base::Error;

    struct Bytes(usize);

    impl Weighed for Bytes {
        fn weight(&self) -> usize {
            self.0
        }
    }

    fn key(n: u64) -> FrameKey {
        (PackId::from_raw(1), PackOff::from_raw(n))
    }

    #[test]
    fn what_it_holds_stays_within_its_bytes() {
        let cache = FrameCache::new(1000);
        for n in 0..100 {
            cache.get(key(n), || Ok(Bytes(100))).unwrap();
        }
        let held = (0..100).filter(|&n| cache.holds(key(n))).count();
        assert_eq!(held, 10);
        assert!(cache.holds(key(99)));
    }

    #[test]
    fn readers_of_one_frame_decode_it_once() {
        let cache = FrameCache::new(1000);
        let decodes = AtomicUsize::new(0);
        let gate = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    gate.wait();
                    let decode = || {
                        decodes.fetch_add(1, Ordering::SeqCst);
                        Ok(Bytes(1))
                    };
                    cache.get(key(1), decode).unwrap();
                });
            }
        });
        assert_eq!(decodes.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failed_decode_is_an_error_for_its_reader_and_leaves_nothing_behind() {
        let cache = FrameCache::new(1000);
        assert!(cache.get(key(1), || Err(Error::Internal("test"))).is_err());
        assert!(!cache.holds(key(1)));
        assert!(cache.get(key(1), || Ok(Bytes(1))).is_ok());
    }
}
