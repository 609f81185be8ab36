//! Where a run of file bytes is cut into chunks.
//!
//! 1. Class 0: FastCDC (Xia et al., 2020, normalisation level 1) with the superblock's sizes.
//! 2. Class 1, for large file offsets: consecutive class-0 chunks are merged until a hash of the 32 bytes
//!    before a class-0 cut has its low bits clear, or the next one would not fit. So class-1 cuts are a
//!    subset of the class-0 cuts, and content that lies at a small offset in one file and at a large
//!    one in another finds the same cut points again.
//!
//! The merge looks at its own hash and not at FastCDC's: that one comes shifted by a bit when a cut falls on
//! an odd distance from the chunk's start, and would resynchronise worse.

use fastcdc::v2020::{FastCDC, Normalization};

use crate::base::FileOff;
use crate::format::superblock::ChunkerParams;

/// Bytes before a cut that decide whether a class-1 chunk ends there.
const WINDOW_LEN: usize = 32;

/// Cuts `data`, which starts at `off` of its file, and returns the lengths of the chunks; they sum up to
/// `data.len()` and none is 0.
///
/// A run of at most the smallest chunk size is one chunk. Reads each byte once (about 2 GB/s).
#[must_use]
pub fn cut(data: &[u8], off: FileOff, params: &ChunkerParams) -> Vec<usize> {
    let to_len = |len: u32| usize::try_from(len).unwrap_or(usize::MAX);
    if data.is_empty() {
        return Vec::new();
    }
    if data.len() <= to_len(params.min_len) {
        return vec![data.len()];
    }
    let small = FastCDC::with_level(
        data,
        to_len(params.min_len),
        to_len(params.avg_len),
        to_len(params.max_len),
        Normalization::Level1,
    )
    .map(|chunk| chunk.length);
    if off < params.large_from {
        return small.collect();
    }
    merge(data, small, params.merge_bits, to_len(params.large_max_len))
}

fn merge(data: &[u8], small: impl Iterator<Item = usize>, bits: u8, len_max: usize) -> Vec<usize> {
    let mask = (1_u64 << bits.min(63)) - 1;
    let mut lens = Vec::new();
    let (mut open, mut end) = (0_usize, 0_usize);
    for len in small {
        if open > 0 && open + len > len_max {
            lens.push(open);
            open = 0;
        }
        open += len;
        end += len;
        if window_hash(data, end) & mask == 0 {
            lens.push(open);
            open = 0;
        }
    }
    if open > 0 {
        lens.push(open);
    }
    lens
}

/// A hash of the bytes before `end`.
fn window_hash(data: &[u8], end: usize) -> u64 {
    let window = data.get(end.saturating_sub(WINDOW_LEN)..end).unwrap_or(&[]);
    let mixed = window.chunks_exact(8).fold(0, |hash: u64, word| {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    // The high bits of a product depend on all bits below them.
    mixed >> 32
}
