//! Tables in memory, for an index that no directory holds: simulated runs keep it, copy it and lose it as they like.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

use super::Row;
use crate::format::rows::Table;

/// What an index holds at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    watermark: Option<Vec<u8>>,
}

/// One change of a batch.
#[derive(Debug)]
pub(super) enum Edit {
    Put(Table, Vec<u8>, Vec<u8>),
    Del(Table, Vec<u8>),
    DelRange(Table, Vec<u8>, Vec<u8>),
}

/// The tables of an index in memory. Clones share them; [`MemoryTables::copy`] does not.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables(Arc<RwLock<Arc<Contents>>>);

impl MemoryTables {
    /// Tables of their own that hold what these hold now; costs nothing until one of the two changes.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Arc::new(RwLock::new(self.contents())))
    }

    /// Removes everything.
    pub fn clear(&self) {
        *self.0.write() = Arc::default();
    }

    /// Makes these tables hold what others hold now.
    pub fn become_copy_of(&self, other: &Self) {
        *self.0.write() = other.contents();
    }

    pub(super) fn contents(&self) -> Arc<Contents> {
        Arc::clone(&self.0.read())
    }

    /// Makes the changes and sets the watermark, if there is one, all at once.
    pub(super) fn write(&self, edits: Vec<Edit>, watermark: Option<&[u8]>) {
        let mut contents = self.0.write();
        let contents = Arc::make_mut(&mut contents);
        for edit in edits {
            match edit {
                Edit::Put(table, key, value) => {
                    contents.rows.insert((table, key), value);
                }
                Edit::Del(table, key) => {
                    contents.rows.remove(&(table, key));
                }
                Edit::DelRange(table, from, to) => {
                    let range = contents.range(table, Bound::Included(from), Bound::Excluded(to));
                    let keys: Vec<_> = range.map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        contents.rows.remove(&key);
                    }
                }
            }
        }
        if let Some(watermark) = watermark {
            contents.watermark = Some(watermark.to_vec());
        }
    }
}

impl Contents {
    fn range(
        &self,
        table: Table,
        from: Bound<Vec<u8>>,
        to: Bound<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = (&(Table, Vec<u8>), &Vec<u8>)> {
        let of = |bound: Bound<Vec<u8>>| bound.map(|key| (table, key));
        let empty = match (&from, &to) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from), Bound::Excluded(to)) => from >= to,
            _ => false,
        };
        // A range that ends before it begins is one that `BTreeMap` refuses.
        (!empty)
            .then(|| self.rows.range((of(from), of(to))))
            .into_iter()
            .flatten()
    }

    pub(super) fn watermark(&self) -> Option<Vec<u8>> {
        self.watermark.clone()
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        self.rows.get(&(table, key.to_vec())).cloned()
    }

    pub(super) fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Vec<Row> {
        let (from, to) = (from.to_vec(), to.to_vec());
        self.range(table, Bound::Included(from), Bound::Excluded(to))
            .take(limit)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }

    pub(super) fn last_at(&self, table: Table, from: &[u8], at: &[u8]) -> Option<Row> {
        let (from, at) = (from.to_vec(), at.to_vec());
        self.range(table, Bound::Included(from), Bound::Included(at))
            .next_back()
            .map(|((_, key), value)| (key.clone(), value.clone()))
    }

    pub(super) fn rows_of(&self, table: Table) -> u64 {
        let rows = self.rows.keys().filter(|(of, _)| *of == table);
        rows.count() as u64
    }
}
