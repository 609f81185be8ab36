//! Edits of one file's extent map during a commit, on top of the extents in the index.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::limits::SEGMENT_LEN;
use crate::base::{Error, FileOff, Ino, Result};
use crate::format::keys;
use crate::format::rows::{ExtentRow, Op, Table};
use crate::meta::{Rows, for_each_row};

/// Shortens an extent from its front by `by` bytes.
pub(crate) fn skip_front(extent: ExtentRow, by: u64) -> ExtentRow {
    // `by` is less than the extent's length, which is a u32.
    let by = u32::try_from(by).unwrap_or(extent.len);
    ExtentRow {
        len: extent.len - by,
        chunk: extent.chunk,
        chunk_off: extent.chunk_off + by,
    }
}

/// Shortens an extent to its first `len` bytes.
pub(crate) fn keep_front(extent: ExtentRow, len: u64) -> ExtentRow {
    ExtentRow {
        len: u32::try_from(len).map_or(extent.len, |l| l.min(extent.len)),
        ..extent
    }
}

/// The extents of `ino` that overlap `range`, ascending, clipped to it. Where rows overlap, the first one counts.
pub(crate) fn clipped(
    rows: &(impl Rows + ?Sized),
    ino: Ino,
    range: Range<u64>,
) -> Result<Vec<(u64, ExtentRow)>> {
    let mut out = Vec::new();
    let mut rest = range.clone();
    for_each_overlapping(rows, ino, range, &mut |off, extent| {
        // Bug: of two rows that reach beyond the range, of which only damage makes two, the second became an extent of
        // no length, and a snapshot a node that nobody reads.
        if off + u64::from(extent.len) > rest.start && !rest.is_empty() {
            let (off, extent) = clip(off, extent, &rest);
            rest.start = off + u64::from(extent.len);
            out.push((off, extent));
        }
        Ok(true)
    })?;
    Ok(out)
}

/// Clips an extent that overlaps `range` to it.
pub(crate) fn clip(off: u64, extent: ExtentRow, range: &Range<u64>) -> (u64, ExtentRow) {
    let (off, extent) = if off < range.start {
        (range.start, skip_front(extent, range.start - off))
    } else {
        (off, extent)
    };
    (off, keep_front(extent, range.end - off))
}

/// Calls `each` for the extents of `ino` that overlap `range`, whole, ascending, until it returns `false`.
pub(crate) fn for_each_overlapping(
    rows: &(impl Rows + ?Sized),
    ino: Ino,
    range: Range<u64>,
    each: &mut dyn FnMut(u64, ExtentRow) -> Result<bool>,
) -> Result<()> {
    if range.start >= range.end {
        return Ok(());
    }
    let key = |off: u64| keys::extent(ino, FileOff::from_raw(off));
    // A commit may cut the extent before the range in two at its start between the two looks: then the second one
    // finds a part of what was told already.
    let mut told = range.start;
    if range.start > 0
        && let Some((at, value)) = rows.last_at(Table::Extent, &key(0), &key(range.start - 1))?
    {
        let (_, off) = keys::parse_extent(&at)?;
        let extent = ExtentRow::decode(&value)?;
        let end = off.raw() + u64::from(extent.len);
        if end > range.start && !each(off.raw(), extent)? {
            return Ok(());
        }
        told = told.max(end);
    }
    for_each_row(
        rows,
        Table::Extent,
        &key(range.start),
        &key(range.end),
        &mut |at, value| {
            let (_, off) = keys::parse_extent(at)?;
            let extent = ExtentRow::decode(value)?;
            if off.raw() + u64::from(extent.len) <= told {
                return Ok(true);
            }
            each(off.raw(), extent)
        },
    )
}

/// Changes to the extents of one file, collected during a commit.
#[derive(Debug)]
pub(crate) struct ExtentEdits {
    ino: Ino,
    /// Extents that differ from the index; `None` is a deletion.
    changes: BTreeMap<u64, Option<ExtentRow>>,
    /// Everything from here on is deleted in the index, before `changes` apply.
    cut: Option<u64>,
    /// By how much the mapped bytes change.
    mapped_delta: i64,
}

impl ExtentEdits {
    pub(crate) fn new(ino: Ino) -> Self {
        Self {
            ino,
            changes: BTreeMap::new(),
            cut: None,
            mapped_delta: 0,
        }
    }

    pub(crate) fn mapped_delta(&self) -> i64 {
        self.mapped_delta
    }

    /// Removes whatever is mapped in `range` and maps `extents` there instead.
    pub(crate) fn replace(
        &mut self,
        rows: &(impl Rows + ?Sized),
        range: Range<u64>,
        extents: &[(u64, ExtentRow)],
    ) -> Result<()> {
        for (off, extent) in self.overlapping(rows, range.clone())? {
            self.set(off, None);
            let end = off + u64::from(extent.len);
            self.mapped_delta -= delta(end.min(range.end) - off.max(range.start))?;
            if off < range.start {
                self.set(off, Some(keep_front(extent, range.start - off)));
            }
            if end > range.end {
                self.set(range.end, Some(skip_front(extent, range.end - off)));
            }
        }
        for (off, extent) in extents {
            self.mapped_delta += delta(u64::from(extent.len))?;
            // An extent never crosses a segment of a snapshot, so that its key alone tells which one it is in.
            let border = (off / SEGMENT_LEN + 1) * SEGMENT_LEN;
            if off + u64::from(extent.len) > border {
                self.set(*off, Some(keep_front(*extent, border - off)));
                self.set(border, Some(skip_front(*extent, border - off)));
            } else {
                self.set(*off, Some(*extent));
            }
        }
        Ok(())
    }

    /// Removes everything from `off` on: one range deletion however long the file is.
    pub(crate) fn truncate(&mut self, rows: &(impl Rows + ?Sized), off: u64) -> Result<()> {
        let mut removed = 0u64;
        let mut from = off;
        // One segment at a time: an extent never crosses the end of one.
        loop {
            let end = (from / SEGMENT_LEN + 1).saturating_mul(SEGMENT_LEN);
            for (at, extent) in self.overlapping(rows, from..end)? {
                removed += (at + u64::from(extent.len)) - at.max(off);
                if at < off {
                    self.set(at, Some(keep_front(extent, off - at)));
                }
            }
            match self.next_from(rows, end)? {
                Some(next) => from = next,
                None => break,
            }
        }
        self.mapped_delta -= delta(removed)?;
        self.changes.retain(|at, _| *at < off);
        self.cut = Some(self.cut.map_or(off, |cut| cut.min(off)));
        Ok(())
    }

    /// The operations of a commit record, in an order that may be applied one after the other.
    pub(crate) fn into_ops(self, ops: &mut Vec<Op>) {
        let key = |off: u64| keys::extent(self.ino, FileOff::from_raw(off)).to_vec();
        if let Some(cut) = self.cut {
            ops.push(Op::DelRange(Table::Extent, key(cut), key(u64::MAX)));
        }
        ops.extend(self.changes.iter().map(|(off, extent)| match extent {
            Some(extent) => Op::Put(Table::Extent, key(*off), extent.encode()),
            None => Op::Del(Table::Extent, key(*off)),
        }));
    }

    /// Where the first extent at or after `off` may begin.
    fn next_from(&self, rows: &(impl Rows + ?Sized), off: u64) -> Result<Option<u64>> {
        let end = self.cut.unwrap_or(u64::MAX >> 1);
        let key = |off: u64| keys::extent(self.ino, FileOff::from_raw(off));
        let stored = if off < end {
            let page = rows.scan(Table::Extent, &key(off), &key(end), 1)?;
            page.first()
                .map(|(key, _)| keys::parse_extent(key))
                .transpose()?
                .map(|(_, off)| off.raw())
        } else {
            None
        };
        let edited = self
            .changes
            .range(off..)
            .find(|(_, extent)| extent.is_some());
        let edited = edited.map(|(off, _)| *off);
        Ok(match (stored, edited) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        })
    }

    fn set(&mut self, off: u64, extent: Option<ExtentRow>) {
        self.changes.insert(off, extent);
    }

    /// The extents that overlap `range` as they are after the edits so far, whole, ascending.
    fn overlapping(
        &self,
        rows: &(impl Rows + ?Sized),
        range: Range<u64>,
    ) -> Result<Vec<(u64, ExtentRow)>> {
        let mut found = BTreeMap::new();
        for_each_overlapping(rows, self.ino, range.clone(), &mut |off, extent| {
            if self.cut.is_none_or(|cut| off < cut) {
                found.insert(off, extent);
            }
            Ok(true)
        })?;
        // Deletions in between do not hide an extent that starts before them and reaches further.
        let before = self
            .changes
            .range(..range.start)
            .rev()
            .find(|(_, extent)| extent.is_some());
        for (off, extent) in before.into_iter().chain(self.changes.range(range.clone())) {
            match extent {
                Some(extent) => found.insert(*off, *extent),
                None => found.remove(off),
            };
        }
        // An extent of the index that was cut short or removed by an edit is listed in `changes` under its
        // own offset, which may lie further before the range than the nearest change.
        found.retain(|off, extent| {
            let now = self.changes.get(off).copied().unwrap_or(Some(*extent));
            if let Some(now) = now {
                *extent = now;
            }
            now.is_some() && off + u64::from(extent.len) > range.start && *off < range.end
        });
        Ok(found.into_iter().collect())
    }
}

fn delta(len: u64) -> Result<i64> {
    i64::try_from(len).map_err(|_| Error::FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ChunkId;
    use crate::meta::Row;

    const INO: Ino = Ino::from_raw(7);

    /// Extents of which the first look sees others than the second.
    struct Changing {
        first: Vec<(u64, u32)>,
        second: Vec<(u64, u32)>,
    }

    fn row((off, len): (u64, u32)) -> Row {
        let extent = ExtentRow {
            len,
            chunk: ChunkId::from_raw([0; 32]),
            chunk_off: 0,
        };
        (
            keys::extent(INO, FileOff::from_raw(off)).to_vec(),
            extent.encode(),
        )
    }

    fn between(extents: &[(u64, u32)], keep: impl Fn(&[u8]) -> bool) -> Vec<Row> {
        let rows = extents.iter().map(|extent| row(*extent));
        rows.filter(|(key, _)| keep(key)).collect()
    }

    impl Rows for Changing {
        fn get(&self, _: Table, _: &[u8]) -> Result<Option<Vec<u8>>> {
            Ok(None)
        }

        fn scan(&self, _: Table, from: &[u8], to: &[u8], _: usize) -> Result<Vec<Row>> {
            Ok(between(&self.second, |key| from <= key && key < to))
        }

        fn last_at(&self, _: Table, from: &[u8], at: &[u8]) -> Result<Option<Row>> {
            Ok(between(&self.first, |key| from <= key && key <= at).pop())
        }
    }

    /// Bug: a commit that cut an extent at the start of a range, between the two looks at the index, had its rear part
    /// told twice, the second time with no length left.
    #[test]
    fn an_extent_that_is_cut_while_it_is_looked_for_is_told_once() {
        let rows = Changing {
            first: vec![(0, 80), (80, 20)],
            second: vec![(0, 60), (60, 20), (80, 20)],
        };
        let mut told = Vec::new();
        for_each_overlapping(&rows, INO, 60..100, &mut |off, extent| {
            told.push((off, extent.len));
            Ok(true)
        })
        .unwrap();
        assert_eq!(told, [(0, 80), (80, 20)]);
    }

    #[test]
    fn rows_that_overlap_at_the_end_of_the_range_count_once() {
        let rows = || vec![(0, 100), (50, 100), (60, 10)];
        let source = Changing {
            first: rows(),
            second: rows(),
        };
        for end in [40, 80, 100, 120, 170] {
            let found = clipped(&source, INO, 0..end).unwrap();
            assert!(found.iter().all(|(_, extent)| extent.len > 0), "{found:?}");
            let sum: u64 = found.iter().map(|(_, extent)| u64::from(extent.len)).sum();
            assert_eq!(sum, end.min(150));
        }
    }
}
