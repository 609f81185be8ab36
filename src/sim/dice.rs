//! Chance that is a function of a seed.

/// SplitMix64 (Steele, Lea, Flood, 2014): every choice of a simulated run comes from one of these.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.word().checked_rem(n).unwrap_or(0)
    }

    /// True once in `n` throws.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.word().to_le_bytes());
        words.flatten().take(len).collect()
    }

    /// One of `from`, which must not be empty.
    ///
    /// # Panics
    /// If it is.
    #[allow(
        clippy::indexing_slicing,
        reason = "below the length; an empty list is a mistake in a test"
    )]
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let at = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from[at]
    }
}

/// Bytes that do not compress, another run for each seed.
#[must_use]
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    Dice(seed).bytes(len)
}
