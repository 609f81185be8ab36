//! The index: typed tables in RocksDB, and the overlay of rows that are not yet in the log.
//!
//! The index holds only what can be replayed from the log; it may be deleted at any time (I12).

mod index;
mod memory;
mod overlay;

pub use index::{Index, IndexConfig, SEGMENT_ALL, View};
pub use memory::MemoryTables;
pub use overlay::{Overlays, Txn};

use crate::base::Result;
use crate::format::rows::Table;

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Takes a key and its value; `false` ends the walk.
pub type EachRow<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool>;

/// Rows that can be read: the index, a frozen view of it, or the index under its overlay.
pub trait Rows {
    /// The value of a key.
    ///
    /// # Errors
    /// [`crate::base::Error::Index`] if RocksDB fails.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// At most `limit` rows with keys in `from..to`, ascending.
    ///
    /// Fewer than `limit` rows mean that the range is exhausted.
    ///
    /// # Errors
    /// [`crate::base::Error::Index`] if RocksDB fails.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>>;

    /// The row with the greatest key in `from..=at`.
    ///
    /// # Errors
    /// [`crate::base::Error::Index`] if RocksDB fails.
    fn last_at(&self, table: Table, from: &[u8], at: &[u8]) -> Result<Option<Row>>;
}

/// Calls `each` for every row with a key in `from..to`, a page at a time, until it returns `false`.
///
/// # Errors
/// Those of [`Rows::scan`] and of `each`.
pub fn for_each_row(
    rows: &(impl Rows + ?Sized),
    table: Table,
    from: &[u8],
    to: &[u8],
    each: EachRow<'_>,
) -> Result<()> {
    const PAGE: usize = 512;
    let mut at = from.to_vec();
    loop {
        let page = rows.scan(table, &at, to, PAGE)?;
        for (key, value) in &page {
            if !each(key, value)? {
                return Ok(());
            }
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => {
                at.clone_from(key);
                at.push(0);
            }
            _ => return Ok(()),
        }
    }
}
