//! What has been written to a file and is not in its extents yet: a map of ranges.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::ChunkId;

/// Data pieces stop growing here, so that cutting one copies little.
const PIECE_LEN_MAX: usize = 1 << 20;
/// About what one piece costs beside its bytes.
const PIECE_COST: u64 = 96;

/// What a range of a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// These bytes.
    Data(Vec<u8>),
    /// Zeros, of this length; nothing is stored for them.
    Hole(u64),
    /// `len` bytes of a stored chunk from `off` on.
    Chunk { id: ChunkId, off: u32, len: u32 },
}

impl Piece {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Hole(len) => *len,
            Self::Chunk { len, .. } => u64::from(*len),
        }
    }

    /// Splits off what starts `at` bytes into the piece; `at` is inside it.
    fn split_off(&mut self, at: u64) -> Self {
        let tail_len = self.len() - at;
        match self {
            Self::Data(bytes) => {
                let tail = bytes.split_off(usize::try_from(at).unwrap_or(bytes.len()));
                // What is left must not hold on to the memory of what has gone: nobody counts that.
                if bytes.capacity() / 2 > bytes.len() {
                    bytes.shrink_to_fit();
                }
                Self::Data(tail)
            }
            Self::Hole(len) => {
                *len = at;
                Self::Hole(tail_len)
            }
            Self::Chunk { id, off, len } => {
                // Both fit: `at` is less than `len`, which is a u32.
                let at = u32::try_from(at).unwrap_or(*len);
                let tail = Self::Chunk {
                    id: *id,
                    off: *off + at,
                    len: *len - at,
                };
                *len = at;
                tail
            }
        }
    }
}

/// Ranges of a file in ascending order, not overlapping; what is not in it shows what is below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layer {
    pieces: BTreeMap<u64, Piece>,
    data_len: u64,
}

impl Layer {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes of data pieces.
    pub(crate) fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Bytes of memory: holes, references and pieces of few bytes cost what a place in the map does.
    pub(crate) fn memory_len(&self) -> u64 {
        self.data_len + self.pieces.len() as u64 * PIECE_COST
    }

    /// The pieces with their offsets, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Piece)> {
        self.pieces.iter().map(|(off, piece)| (*off, piece))
    }

    /// Writes `data` at `off`.
    pub(crate) fn write(&mut self, off: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = off + data.len() as u64;
        if let Some((start, Piece::Data(bytes))) = self.pieces.range_mut(..=off).next_back() {
            let at = usize::try_from(off - start).unwrap_or(usize::MAX);
            if let Some(inside) = at
                .checked_add(data.len())
                .and_then(|to| bytes.get_mut(at..to))
            {
                inside.copy_from_slice(data);
                return;
            }
        }
        self.carve(off..end);
        self.data_len += data.len() as u64;
        if let Some((start, Piece::Data(bytes))) = self.pieces.range_mut(..off).next_back()
            && start + bytes.len() as u64 == off
            && bytes.len() + data.len() <= PIECE_LEN_MAX
        {
            bytes.extend_from_slice(data);
            return;
        }
        self.pieces.insert(off, Piece::Data(data.to_vec()));
    }

    /// Makes `range` a hole.
    pub(crate) fn punch(&mut self, range: Range<u64>) {
        if range.start < range.end {
            self.carve(range.clone());
            self.pieces
                .insert(range.start, Piece::Hole(range.end - range.start));
        }
    }

    /// Puts a piece at `off` in place of whatever is there.
    pub(crate) fn put(&mut self, off: u64, piece: Piece) {
        let len = piece.len();
        if len > 0 {
            self.carve(off..off + len);
            if let Piece::Data(bytes) = &piece {
                self.data_len += bytes.len() as u64;
            }
            self.pieces.insert(off, piece);
        }
    }

    /// The pieces that overlap `range`, each with its offset, ascending.
    pub(crate) fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &Piece)> {
        let first = self
            .pieces
            .range(..=range.start)
            .next_back()
            .filter(|(start, piece)| **start + piece.len() > range.start)
            .map_or(range.start, |(start, _)| *start);
        self.pieces
            .range(first..range.end.max(first))
            .map(|(off, piece)| (*off, piece))
    }

    /// Removes `range`; pieces that reach over its ends are cut.
    fn carve(&mut self, range: Range<u64>) {
        if let Some((start, piece)) = self.pieces.range_mut(..range.start).next_back() {
            let start = *start;
            if start + piece.len() > range.start {
                let tail = piece.split_off(range.start - start);
                self.pieces.insert(range.start, tail);
            }
        }
        while let Some((start, _)) = self.pieces.range(range.clone()).next() {
            let start = *start;
            let Some(mut piece) = self.pieces.remove(&start) else {
                break;
            };
            if start + piece.len() > range.end {
                let tail = piece.split_off(range.end - start);
                self.pieces.insert(range.end, tail);
            }
            if let Piece::Data(bytes) = piece {
                self.data_len -= bytes.len() as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u64) -> usize {
        usize::try_from(n).unwrap()
    }

    /// Applies the same operations to a layer over zeros and to plain bytes.
    fn check(ops: &[(u8, u64, u64)]) {
        let mut layer = Layer::default();
        let mut plain = vec![0u8; 4096];
        let mut known = vec![false; 4096];
        for (n, (op, off, len)) in ops.iter().enumerate() {
            let (off, len) = (off % 4000, 1 + len % 96);
            let range = place(off)..place(off + len);
            known[range.clone()].fill(true);
            if op % 3 == 0 {
                layer.punch(off..off + len);
                plain[range].fill(0);
            } else {
                let data = vec![u8::try_from(n % 250).unwrap() + 1; place(len)];
                layer.write(off, &data);
                plain[range].copy_from_slice(&data);
            }
        }
        let mut seen = vec![0u8; 4096];
        let mut covered = vec![false; 4096];
        let mut data_len = 0;
        for (off, piece) in layer.iter() {
            let range = place(off)..place(off + piece.len());
            assert!(
                covered[range.clone()].iter().all(|c| !c),
                "pieces do not overlap"
            );
            covered[range.clone()].fill(true);
            if let Piece::Data(bytes) = piece {
                seen[range].copy_from_slice(bytes);
                data_len += bytes.len() as u64;
            }
        }
        assert_eq!(seen, plain);
        assert_eq!(covered, known);
        assert_eq!(layer.data_len(), data_len);
    }

    proptest::proptest! {
        #[test]
        fn a_layer_holds_what_was_written_last(ops in proptest::collection::vec((0u8..9, 0u64..4096, 0u64..200), 1..60)) {
            check(&ops);
        }
    }

    /// Bug: a write of no bytes inside a hole put an empty piece in the place of the rest of the hole, so
    /// that what had been truncated away showed again.
    #[test]
    fn a_write_of_no_bytes_changes_nothing() {
        let mut layer = Layer::default();
        layer.punch(100..u64::MAX >> 1);
        let before = layer.clone();
        layer.write(200, b"");
        layer.write(100, b"");
        layer.write(7, b"");
        assert_eq!(layer, before);
    }

    #[test]
    fn overlapping_finds_the_piece_that_starts_before_the_range() {
        let mut layer = Layer::default();
        layer.write(10, b"0123456789");
        layer.write(100, b"x");
        let found: Vec<u64> = layer.overlapping(15..101).map(|(off, _)| off).collect();
        assert_eq!(found, [10, 100]);
        assert_eq!(layer.overlapping(20..100).count(), 0);
    }
}
