//! Where a run of file bytes is cut into chunks.
//!
//! 1. Class 0: FastCDC (Xia et al., 2020, normalisation level 1) with the superblock's sizes.
//! 2. A later class, for larger file offsets: consecutive class-0 chunks are merged until a hash of the 32
//!    bytes before a class-0 cut has its low bits clear, or the next one would not fit. So its cuts are
//!    a subset of the class-0 cuts, and content that lies at a small offset in one file and at a
//!    large one in another finds the same cut points again.
//!
//! The merge looks at its own hash and not at FastCDC's: that one comes shifted by a bit when a cut falls on
//! an odd distance from the chunk's start, and would resynchronise worse.

use fastcdc::v2020::{
    AVERAGE_MAX, AVERAGE_MIN, FastCDC, MAXIMUM_MAX, MAXIMUM_MIN, MINIMUM_MAX, MINIMUM_MIN,
    Normalization,
};

use crate::base::FileOff;
use crate::format::superblock::{ChunkClass, Chunker};

/// Bytes before a cut that decide whether a chunk of a later class ends there.
const WINDOW_LEN: usize = 32;

/// Cuts `data`, which starts at `off` of its file, and returns the lengths of the chunks; they sum up to
/// `data.len()` and none is 0.
///
/// A run of at most the smallest chunk size is one chunk. Reads each byte once.
#[must_use]
pub fn cut(data: &[u8], off: FileOff, chunker: &Chunker) -> Vec<usize> {
    let Some(base) = chunker.classes.first() else {
        return data.chunks(MAXIMUM_MIN).map(<[u8]>::len).collect();
    };
    let class = chunker.classes.iter().rfind(|class| class.from <= off);
    let class = class.unwrap_or(base);
    // FastCDC asserts that its sizes are even and within these bounds.
    let even = |len: u32, min: usize, max: usize| to_len(len).clamp(min, max) & !1;
    let min_len = even(base.min_len, MINIMUM_MIN, MINIMUM_MAX);
    if data.len() <= min_len {
        return Vec::from_iter((!data.is_empty()).then_some(data.len()));
    }
    let small = FastCDC::with_level_and_seed(
        data,
        min_len,
        even(base.avg_len, AVERAGE_MIN, AVERAGE_MAX),
        even(base.max_len, MAXIMUM_MIN, MAXIMUM_MAX),
        Normalization::Level1,
        chunker.gear_seed,
    )
    .map(|chunk| chunk.length);
    if class == base {
        return small.collect();
    }
    merge(data, small, base, class)
}

fn to_len(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

fn merge(
    data: &[u8],
    small: impl Iterator<Item = usize>,
    base: &ChunkClass,
    class: &ChunkClass,
) -> Vec<usize> {
    let ratio = (class.avg_len / base.avg_len.max(1)).max(1);
    let mask = u64::from(ratio.next_power_of_two() - 1);
    let (len_min, len_max) = (to_len(class.min_len), to_len(class.max_len));
    let mut lens = Vec::new();
    let (mut open, mut end) = (0_usize, 0_usize);
    for len in small {
        if open > 0 && open + len > len_max {
            lens.push(open);
            open = 0;
        }
        open += len;
        end += len;
        if open >= len_min && window_hash(data, end) & mask == 0 {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::dice::noise;

    fn ends(lens: &[usize]) -> BTreeSet<usize> {
        lens.iter()
            .scan(0, |end, len| {
                *end += len;
                Some(*end)
            })
            .collect()
    }

    fn large() -> FileOff {
        FileOff::from_raw(1 << 40)
    }

    #[test]
    fn cuts_at_large_offsets_are_among_those_at_small_ones() {
        let data = noise(0, 20 << 20);
        let chunker = Chunker::standard();
        let small = cut(&data, FileOff::ZERO, &chunker);
        let merged = cut(&data, large(), &chunker);
        assert!(ends(&merged).is_subset(&ends(&small)));
        assert!(
            merged.len() < small.len() * 3 / 4,
            "{} of {}",
            merged.len(),
            small.len()
        );
        for lens in [&small, &merged] {
            assert_eq!(lens.iter().sum::<usize>(), data.len());
        }
        assert!(small.iter().all(|&len| len <= 256 << 10));
        assert!(merged.iter().all(|&len| len <= 512 << 10));
    }

    #[test]
    fn an_insertion_moves_the_cuts_around_it_and_no_others() {
        let data = noise(0, 8 << 20);
        let edited = [&data[..1 << 20], b"inserted", &data[1 << 20..]].concat();
        let chunker = Chunker::standard();
        for off in [FileOff::ZERO, large()] {
            let before: BTreeSet<usize> = ends(&cut(&data, off, &chunker));
            let after = ends(&cut(&edited, off, &chunker));
            let kept = after
                .iter()
                .filter(|&&end| end > 8 && before.contains(&(end - 8)))
                .count();
            assert!(kept * 10 > before.len() * 7, "{kept} of {}", before.len());
        }
    }

    #[test]
    fn short_and_uniform_runs_are_cut_too() {
        let chunker = Chunker::standard();
        assert!(cut(&[], FileOff::ZERO, &chunker).is_empty());
        assert_eq!(cut(&[1; 16 << 10], FileOff::ZERO, &chunker), [16 << 10]);
        for off in [FileOff::ZERO, large()] {
            let zeros = vec![0; 3 << 20];
            assert_eq!(
                cut(&zeros, off, &chunker).iter().sum::<usize>(),
                zeros.len()
            );
        }
    }
}
