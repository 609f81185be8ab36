//! The erasure code: repair symbols of one source block, and lost symbols from what is left of it.
//!
//! RaptorQ (RFC 6330). The only module that names `raptorq`. The crate asserts what it is given, so every count
//! and length is checked here first, and its deserialisers, which panic on short input, are not used at all. The
//! code detects nothing: a wrong symbol that is handed in as a good one makes all that comes out wrong.

mod few;

use std::sync::Arc;

use few::{Equation, solve};
use parking_lot::Mutex;
use raptorq::{
    EncodingPacket, ObjectTransmissionInformation, PayloadId, SourceBlockDecoder,
    SourceBlockEncoder, SourceBlockEncodingPlan,
};

use crate::base::limits::{PARITY_BLOCK_SYMBOLS_MAX, PARITY_PLANS_MAX};
use crate::base::{Error, Result};

/// Number that packets carry for their block; there is one block at a time.
const BLOCK_NUMBER: u8 = 0;
/// Bytes of each symbol that are encoded at a time: the code treats every byte of a symbol alike. So the crate's copies of
/// a block stay small enough for the allocator to keep them for the next; fresh pages would cost more than the copying.
const COLUMN_LEN: usize = 2048;
/// Repair symbols beyond those that are missing with which decoding is tried first. With some more than needed the
/// crate gets by with exclusive ors alone; handing it all that there are would only cost copies.
const SPARE_SYMBOLS: usize = 24;

/// Most lost symbols of a block that are computed by [`few`]; for more than about so many the crate's own way is quicker.
const FEW_SYMBOLS: usize = 48;
/// Repair symbols beyond those that are missing with which that is tried: each makes it about 100 times less likely that
/// they do not suffice.
const FEW_SPARE_SYMBOLS: usize = 4;

/// The size of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    /// Source symbols (K).
    pub source_count: u32,
    /// Bytes of a symbol.
    pub symbol_len: u32,
}

/// A symbol with its number.
#[derive(Clone, Copy, Debug)]
pub struct Numbered<'a> {
    /// A source symbol's index in the block; a repair symbol's index among the repair symbols.
    pub idx: u32,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Plans for encoding by count of source symbols, at most [`PARITY_PLANS_MAX`], the latest used last.
///
/// A plan costs about as much as encoding a block; with it a block is encoded several times faster. The lock is a
/// leaf and is not held while a plan is made.
#[derive(Default)]
pub struct Plans {
    kept: Mutex<Vec<(u16, Arc<SourceBlockEncodingPlan>)>>,
}

impl std::fmt::Debug for Plans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plans({})", self.kept.lock().len())
    }
}

impl BlockSize {
    /// Bytes of a block.
    ///
    /// # Errors
    /// [`Error::Internal`] for a size that the code does not have.
    pub fn byte_len(&self) -> Result<usize> {
        let count = (1..=PARITY_BLOCK_SYMBOLS_MAX).contains(&self.source_count);
        let len = self.symbol_len.is_multiple_of(8) && u16::try_from(self.symbol_len).is_ok();
        if !count || !len || self.symbol_len == 0 {
            return Err(Error::Internal("size of a source block"));
        }
        Ok(index(self.source_count) * index(self.symbol_len))
    }

    fn config(&self) -> Result<ObjectTransmissionInformation> {
        let len = self.byte_len()?;
        let symbol_len = u16::try_from(self.symbol_len).unwrap_or(u16::MAX);
        // One source block, one sub-block, symbols aligned to 8 bytes.
        Ok(ObjectTransmissionInformation::new(
            len as u64, symbol_len, 1, 1, 8,
        ))
    }

    fn owns_repair(&self, symbol: &Numbered<'_>) -> Result<()> {
        if symbol.idx >= PARITY_BLOCK_SYMBOLS_MAX {
            return Err(Error::Internal("number of a repair symbol"));
        }
        self.owns(symbol.bytes)
    }

    fn owns(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() == index(self.symbol_len) {
            return Ok(());
        }
        Err(Error::Internal("length of a symbol"))
    }
}

/// A count or length of 32 bits as an index.
fn index(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Plans {
    /// No plans yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn plan(&self, source_count: u32) -> Result<Arc<SourceBlockEncodingPlan>> {
        let count = u16::try_from(source_count).map_err(|_| Error::Internal("source symbols"))?;
        let mut kept = self.kept.lock();
        if let Some(at) = kept.iter().position(|(other, _)| *other == count) {
            let found = kept.remove(at);
            let plan = Arc::clone(&found.1);
            kept.push(found);
            return Ok(plan);
        }
        drop(kept);
        let plan = Arc::new(SourceBlockEncodingPlan::generate(count));
        let mut kept = self.kept.lock();
        if kept.iter().all(|(other, _)| *other != count) {
            if kept.len() >= PARITY_PLANS_MAX {
                kept.remove(0);
            }
            kept.push((count, Arc::clone(&plan)));
        }
        Ok(plan)
    }

    /// The first `repair_count` repair symbols of a block, in order.
    ///
    /// `block` is all source symbols, one after another.
    ///
    /// # Errors
    /// [`Error::Internal`] if the sizes do not fit together.
    pub fn encode(
        &self,
        size: &BlockSize,
        block: &[u8],
        repair_count: u32,
    ) -> Result<Vec<Vec<u8>>> {
        if block.len() != size.byte_len()? || repair_count > PARITY_BLOCK_SYMBOLS_MAX {
            return Err(Error::Internal("size of a source block"));
        }
        self.encode_some(size, block, &(0..repair_count).collect::<Vec<u32>>())
    }

    /// As [`Plans::encode`], of the repair symbols with these numbers.
    fn encode_some(&self, size: &BlockSize, block: &[u8], numbers: &[u32]) -> Result<Vec<Vec<u8>>> {
        let plan = self.plan(size.source_count)?;
        let symbol_len = index(size.symbol_len);
        let mut repair = vec![Vec::with_capacity(symbol_len); numbers.len()];
        let mut column = Vec::new();
        for from in (0..symbol_len).step_by(COLUMN_LEN) {
            let part = from..symbol_len.min(from + COLUMN_LEN);
            let size = BlockSize {
                symbol_len: u32::try_from(part.len()).unwrap_or(u32::MAX),
                ..*size
            };
            column.clear();
            for symbol in block.chunks(symbol_len) {
                column.extend_from_slice(symbol.get(part.clone()).unwrap_or_default());
            }
            let config = size.config()?;
            let encoder =
                SourceBlockEncoder::with_encoding_plan(BLOCK_NUMBER, &config, &column, &plan);
            for (symbol, number) in repair.iter_mut().zip(numbers) {
                for packet in encoder.repair_packets(*number, 1) {
                    symbol.extend_from_slice(packet.data());
                }
            }
        }
        Ok(repair)
    }

    /// Computes the source symbols `missing` of a block, ascending, from the others and from repair symbols, all of
    /// which are known to be right. Returns whether they suffice; if not, the missing ones are anything.
    ///
    /// As many repair symbols as are missing suffice in about 99 of 100 cases, two more nearly always. They may come in any
    /// order, each once.
    ///
    /// # Errors
    /// [`Error::Internal`] for a symbol of another length or a number that the block does not have.
    pub fn recover(
        &self,
        size: &BlockSize,
        block: &mut [u8],
        missing: &[u32],
        repair: &[Numbered<'_>],
    ) -> Result<bool> {
        if block.len() != size.byte_len()? || missing.iter().any(|esi| *esi >= size.source_count) {
            return Err(Error::Internal("size of a source block"));
        }
        for symbol in repair {
            size.owns_repair(symbol)?;
        }
        if missing.is_empty() {
            return Ok(true);
        }
        if repair.len() < missing.len() {
            return Ok(false);
        }
        let found = if missing.len() <= FEW_SYMBOLS {
            self.recover_few(size, block, missing, repair)?
        } else {
            None
        };
        let symbol_len = index(size.symbol_len);
        if let Some(found) = found {
            for (esi, found) in missing.iter().zip(found) {
                fill_symbol(block, symbol_len, *esi, &found);
            }
            return Ok(true);
        }
        let is_there = |(_, esi): &(&[u8], u32)| missing.binary_search(esi).is_err();
        let source: Vec<_> = block
            .chunks(symbol_len)
            .zip(0..)
            .filter(is_there)
            .map(|(bytes, idx)| Numbered { idx, bytes })
            .collect();
        let Some(whole) = decode(size, &source, repair)? else {
            return Ok(false);
        };
        for (symbol, esi) in whole.chunks(symbol_len).zip(0..) {
            if missing.binary_search(&esi).is_ok() {
                fill_symbol(block, symbol_len, esi, symbol);
            }
        }
        Ok(true)
    }

    /// The code is linear over GF(256) (RFC 6330, section 5.3): a repair symbol is the sum of all source symbols, each
    /// times a coefficient. So what the repair symbols of the block without the missing ones differ from the true ones by is
    /// a sum of the missing ones, and a block that has a one for each of those, in a column of its own, gives the coefficients.
    fn recover_few(
        &self,
        size: &BlockSize,
        block: &mut [u8],
        missing: &[u32],
        repair: &[Numbered<'_>],
    ) -> Result<Option<Vec<Vec<u8>>>> {
        let symbol_len = index(size.symbol_len);
        let some = repair.iter().take(missing.len() + FEW_SPARE_SYMBOLS);
        let some: Vec<&Numbered<'_>> = some.collect();
        let numbers: Vec<u32> = some.iter().map(|symbol| symbol.idx).collect();
        for esi in missing {
            fill_symbol(block, symbol_len, *esi, &[]);
        }
        let sums = self.encode_some(size, block, &numbers)?;
        let ones_len = missing.len().next_multiple_of(8);
        let mut ones = vec![0; index(size.source_count) * ones_len];
        for (n, esi) in missing.iter().enumerate() {
            if let Some(one) = ones.get_mut(index(*esi) * ones_len + n) {
                *one = 1;
            }
        }
        let ones_size = BlockSize {
            symbol_len: u32::try_from(ones_len).unwrap_or(u32::MAX),
            ..*size
        };
        let coefficients = self.encode_some(&ones_size, &ones, &numbers)?;
        let equation =
            |((mut sum, mut coefficients), symbol): ((Vec<u8>, Vec<u8>), &&Numbered<'_>)| {
                for (sum, there) in sum.iter_mut().zip(symbol.bytes) {
                    *sum ^= there;
                }
                coefficients.truncate(missing.len());
                Equation { coefficients, sum }
            };
        let equations = sums.into_iter().zip(coefficients).zip(&some);
        Ok(solve(equations.map(equation).collect(), missing.len()))
    }
}

/// Puts a symbol into a block; what `bytes` lacks of it becomes zero.
fn fill_symbol(block: &mut [u8], symbol_len: usize, esi: u32, bytes: &[u8]) {
    let place = block.chunks_mut(symbol_len).nth(index(esi));
    let all = bytes.iter().copied().chain(std::iter::repeat(0));
    for (place, byte) in place.into_iter().flatten().zip(all) {
        *place = byte;
    }
}

/// The whole block, from source symbols and repair symbols that are known to be right; `None` if they do not
/// suffice. K symbols of either sort suffice in about 99 of 100 cases, two more nearly always.
///
/// Symbols may come in any order; one that comes twice counts once. Costs about as much as encoding without
/// a plan, however few are missing.
///
/// # Errors
/// [`Error::Internal`] for a symbol of another length or a number that the block does not have.
fn decode(
    size: &BlockSize,
    source: &[Numbered<'_>],
    repair: &[Numbered<'_>],
) -> Result<Option<Vec<u8>>> {
    let block_len = size.byte_len()?;
    let mut have = vec![false; index(size.source_count)];
    for symbol in source {
        size.owns(symbol.bytes)?;
        let seen = have.get_mut(index(symbol.idx));
        *seen.ok_or(Error::Internal("number of a source symbol"))? = true;
    }
    for symbol in repair {
        size.owns_repair(symbol)?;
    }
    let missing = have.iter().filter(|have| !**have).count();
    let config = size.config()?;
    let mut decoder = SourceBlockDecoder::new(BLOCK_NUMBER, &config, block_len as u64);
    let packet = |esi: u32, bytes: &[u8]| {
        EncodingPacket::new(PayloadId::new(BLOCK_NUMBER, esi), bytes.to_vec())
    };
    let sources = source.iter().map(|symbol| packet(symbol.idx, symbol.bytes));
    let repairs = |part: &[Numbered<'_>]| -> Vec<EncodingPacket> {
        part.iter()
            .map(|symbol| packet(size.source_count.saturating_add(symbol.idx), symbol.bytes))
            .collect()
    };
    let few = missing.saturating_add(SPARE_SYMBOLS).min(repair.len());
    let (first, more) = repair.split_at_checked(few).unwrap_or((repair, &[]));
    let block = decoder.decode(sources.chain(repairs(first)));
    let block = match block {
        None if !more.is_empty() => decoder.decode(repairs(more)),
        other => other,
    };
    match block {
        Some(block) if block.len() != block_len => Err(Error::Internal("length of a block")),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[3]
        })
        .take(len)
        .collect()
    }

    fn size(source_count: u32) -> BlockSize {
        BlockSize {
            source_count,
            symbol_len: 64,
        }
    }

    /// Decodes without the source symbols `lost` and with the repair symbols `kept`.
    fn check(plans: &Plans, count: u32, lost: &[u32], kept: std::ops::Range<u32>) -> bool {
        let size = size(count);
        let block = noise(size.byte_len().unwrap());
        let repair = plans.encode(&size, &block, kept.end).unwrap();
        let source: Vec<_> = block
            .chunks(64)
            .zip(0..)
            .filter(|(_, idx)| !lost.contains(idx))
            .map(|(bytes, idx)| Numbered { idx, bytes })
            .collect();
        let repair: Vec<_> = kept
            .map(|idx| Numbered {
                idx,
                bytes: &repair[index(idx)],
            })
            .collect();
        let decoded = decode(&size, &source, &repair).unwrap();
        let mut holes = block.clone();
        for esi in lost {
            holes[index(*esi) * 64..][..64].fill(0xee);
        }
        let is_whole = plans.recover(&size, &mut holes, lost, &repair).unwrap();
        assert_eq!(
            is_whole,
            decoded.is_some(),
            "{count} symbols without {lost:?}"
        );
        if let Some(decoded) = decoded {
            assert_eq!(decoded, block, "{count} symbols without {lost:?}");
            assert_eq!(holes, block, "{count} symbols without {lost:?}");
        }
        is_whole
    }

    #[test]
    fn lost_symbols_come_back_from_as_many_repair_symbols_and_a_few() {
        let plans = Plans::new();
        for count in (1..40).chain([100, 255, 256, 257, 500, 1024]) {
            for lost in [1, 2, 8, count] {
                let lost = lost.min(count);
                let all: Vec<u32> = (0..lost).map(|n| n * count / lost).collect();
                assert!(
                    check(&plans, count, &all, 0..lost + 6),
                    "{lost} of {count} are not recovered"
                );
                assert!(check(&plans, count, &all, 3..lost + 9));
            }
        }
        assert!(plans.kept.lock().len() <= PARITY_PLANS_MAX);
    }

    #[test]
    fn fewer_repair_symbols_than_are_lost_never_suffice() {
        let plans = Plans::new();
        for count in [10, 100, 300] {
            let lost: Vec<u32> = (0..8).collect();
            assert!(!check(&plans, count, &lost, 0..7));
            assert!(!check(&plans, count, &lost, 0..0));
        }
    }

    #[test]
    fn nothing_lost_needs_nothing() {
        assert!(check(&Plans::new(), 20, &[], 0..0));
    }

    #[test]
    fn a_block_that_is_encoded_in_columns_is_encoded_as_a_whole() {
        for symbol_len in [
            8,
            COLUMN_LEN - 8,
            COLUMN_LEN,
            COLUMN_LEN + 8,
            3 * COLUMN_LEN,
        ] {
            let size = BlockSize {
                source_count: 12,
                symbol_len: u32::try_from(symbol_len).unwrap(),
            };
            let block = noise(size.byte_len().unwrap());
            let found = Plans::new().encode(&size, &block, 5).unwrap();
            let whole = SourceBlockEncoder::new(BLOCK_NUMBER, &size.config().unwrap(), &block);
            let whole = whole.repair_packets(0, 5);
            let whole: Vec<_> = whole.iter().map(|packet| packet.data().to_vec()).collect();
            assert_eq!(found, whole, "symbols of {symbol_len} bytes");
        }
    }

    #[test]
    fn a_symbol_that_comes_twice_counts_once() {
        let plans = Plans::new();
        let size = size(10);
        let block = noise(640);
        let repair = plans.encode(&size, &block, 1).unwrap();
        let one = Numbered {
            idx: 0,
            bytes: &repair[0],
        };
        let source: Vec<_> = block
            .chunks(64)
            .zip(0..)
            .skip(2)
            .map(|(bytes, idx)| Numbered { idx, bytes })
            .collect();
        assert_eq!(decode(&size, &source, &[one, one, one]).unwrap(), None);
    }

    #[test]
    fn sizes_and_numbers_that_the_code_does_not_have_are_errors() {
        let plans = Plans::new();
        for (source_count, symbol_len) in [(0, 64), (10, 0), (10, 65_536), (10, 12), (8193, 64)] {
            let size = BlockSize {
                source_count,
                symbol_len,
            };
            assert!(plans.encode(&size, &[], 1).is_err());
            assert!(decode(&size, &[], &[]).is_err());
        }
        let ok = size(2);
        assert!(plans.encode(&ok, &[0; 127], 1).is_err());
        assert!(plans.encode(&ok, &[0; 128], 8193).is_err());
        let symbol = |idx, bytes| Numbered { idx, bytes };
        assert!(decode(&ok, &[symbol(2, &[0; 64])], &[]).is_err());
        assert!(decode(&ok, &[symbol(0, &[0; 63])], &[]).is_err());
        assert!(decode(&ok, &[], &[symbol(0, &[0; 65])]).is_err());
        assert!(decode(&ok, &[], &[symbol(8192, &[0; 64])]).is_err());
    }
}
