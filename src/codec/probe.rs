//! Whether bytes are worth compressing, decided for less than compressing them costs.
//!
//! 1. Short input: try it, the cost is nothing.
//! 2. Count the bytes of blocks spread over the input. An order-0 entropy well below eight bits per byte
//!    means that an entropy coder alone will gain.
//! 3. Otherwise the bytes look like noise. They may still repeat at a distance, so the answer is a trial:
//!    zstd's fastest level over the whole input finds matches at several gigabytes per second
//!    in noise, because it skips ahead where it finds none.

use std::cell::RefCell;

use zstd::bulk::Compressor;

/// Inputs up to this length are always worth a try.
const SHORT_LEN: usize = 1024;
/// Length of one sampled block.
const BLOCK_LEN: usize = 512;
/// Number of sampled blocks.
const BLOCKS: usize = 16;
/// Bits per byte below which the answer is yes. A uniform sample of 8 KiB measures 7.98.
const ENTROPY_SURE: f64 = 7.6;
/// zstd's level of the trial: negative levels trade ratio for speed.
const TRIAL_LEVEL: i32 = -5;

thread_local! {
    static TRIAL: RefCell<Option<(Compressor<'static>, Vec<u8>)>> = const { RefCell::new(None) };
}

/// Whether `raw` is likely to shrink by at least 2 %.
#[must_use]
pub fn worth_compressing(raw: &[u8]) -> bool {
    raw.len() <= SHORT_LEN || entropy(raw) < ENTROPY_SURE || trial_gains(raw)
}

/// Order-0 entropy of a sample, in bits per byte.
fn entropy(raw: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    let stride = (raw.len() / BLOCKS).max(BLOCK_LEN);
    for block in raw.chunks(stride).take(BLOCKS) {
        for &byte in block.iter().take(BLOCK_LEN) {
            if let Some(count) = counts.get_mut(usize::from(byte)) {
                *count += 1;
            }
        }
    }
    let total = f64::from(counts.iter().sum::<u32>());
    let bits = |&count: &u32| {
        let share = f64::from(count) / total;
        -share * share.log2()
    };
    counts.iter().filter(|&&count| count > 0).map(bits).sum()
}

fn trial_gains(raw: &[u8]) -> bool {
    TRIAL.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Compressor::new(TRIAL_LEVEL).ok().map(|c| (c, Vec::new()));
        }
        let Some((compressor, out)) = slot else {
            return true;
        };
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        compressor
            .compress_to_buffer(raw, out)
            .is_ok_and(|len| len <= raw.len() - raw.len() / 50)
    })
}
