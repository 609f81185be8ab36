//! The set of chunks that cleaning must keep: a Bloom filter with a salt.
//!
//! It may take a chunk for live that is not, which keeps garbage until the next run with another salt. It
//! never takes a live one for dead. Its bits are atomic: the mark and every commit add to it at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::ChunkId;
use crate::base::limits::{LIVE_BITS_PER_CHUNK, LIVE_PROBES, LIVE_SET_LEN_MIN};

/// Ids of chunks and nodes, of bounded size.
#[derive(Debug)]
pub struct LiveSet {
    words: Vec<AtomicU64>,
    salt: [u64; 2],
}

/// A bijection that spreads every bit (the finaliser of SplitMix64).
fn spread(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl LiveSet {
    /// An empty set for about `chunks` ids in at most `len_max` bytes (at least [`LIVE_SET_LEN_MIN`]).
    #[must_use]
    pub fn new(chunks: u64, len_max: usize, salt: [u64; 2]) -> Self {
        let wanted = chunks.saturating_mul(LIVE_BITS_PER_CHUNK) / 8;
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let len = wanted.min(len_max).max(LIVE_SET_LEN_MIN);
        let words = std::iter::repeat_with(AtomicU64::default);
        Self {
            words: words.take(len.div_ceil(8)).collect(),
            salt,
        }
    }

    /// The words and masks of an id. Ids are digests: 16 of their bytes are as good as two hash functions.
    fn probes(&self, id: &ChunkId) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let half = |at: usize| {
            let bytes = id.as_bytes().get(at..at + 8);
            let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        let [a, b] = self.salt;
        let first = spread(half(0) ^ a);
        let step = spread(half(8) ^ b) | 1;
        let bits = (self.words.len() as u64).saturating_mul(64).max(1);
        (0..LIVE_PROBES).filter_map(move |n| {
            let bit = first.wrapping_add(step.wrapping_mul(n)) % bits;
            let word = self.words.get(usize::try_from(bit / 64).ok()?)?;
            Some((word, 1_u64 << (bit % 64)))
        })
    }

    /// Adds an id; `true` if it was certainly not in the set before.
    pub fn insert(&self, id: &ChunkId) -> bool {
        let mut new = false;
        for (word, mask) in self.probes(id) {
            new |= word.fetch_or(mask, Ordering::AcqRel) & mask == 0;
        }
        new
    }

    /// Whether an id may be in the set; `false` is certain.
    #[must_use]
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.probes(id)
            .all(|(word, mask)| word.load(Ordering::Acquire) & mask != 0)
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.words.len() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::chunk_id;

    fn id(n: u64) -> ChunkId {
        chunk_id(&n.to_le_bytes())
    }

    #[test]
    fn what_was_added_is_in_the_set_and_little_else() {
        let set = LiveSet::new(10_000, usize::MAX, [1, 2]);
        for n in 0..10_000 {
            set.insert(&id(n));
        }
        assert!((0..10_000).all(|n| set.contains(&id(n))));
        let wrong = (10_000..110_000).filter(|n| set.contains(&id(*n))).count();
        assert!(wrong < 300, "{wrong} of 100,000 strangers");
    }

    #[test]
    fn another_salt_takes_other_strangers_for_its_own() {
        let strangers = |salt| -> Vec<u64> {
            let set = LiveSet::new(0, 0, salt);
            for n in 0..200_000 {
                set.insert(&id(n));
            }
            (200_000..201_000)
                .filter(|n| set.contains(&id(*n)))
                .collect()
        };
        let (one, other) = (strangers([1, 2]), strangers([3, 4]));
        assert!(
            !one.is_empty(),
            "the set is not crowded enough for the test"
        );
        assert_ne!(one, other);
    }

    #[test]
    fn its_memory_is_bounded_whatever_is_asked_for() {
        assert_eq!(LiveSet::new(u64::MAX, 1 << 20, [0, 0]).len_bytes(), 1 << 20);
        assert_eq!(LiveSet::new(0, 0, [0, 0]).len_bytes(), LIVE_SET_LEN_MIN);
    }
}
