//! Rows that are newer than the index: an active overlay that operations write to, and a frozen one
//! that is on its way into the log.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::{Index, Row, Rows};
use crate::base::Result;
use crate::format::rows::{Op, Table};

/// A row or, for `None`, its absence.
type Values = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// Changes that take effect together.
#[derive(Debug, Default)]
pub struct Txn {
    values: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
    ranges: Vec<(Table, Vec<u8>, Vec<u8>)>,
}

impl Txn {
    /// Sets a row.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.values.push((table, key.into(), Some(value.into())));
    }

    /// Removes a row.
    pub fn del(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.values.push((table, key.into(), None));
    }

    /// Removes all rows of `from..to` that belong to an inode which is gone.
    ///
    /// Readers of the overlay do not see range deletions: only rows that nobody can reach any more may
    /// be removed this way.
    pub fn del_range(&mut self, table: Table, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) {
        self.ranges.push((table, from.into(), to.into()));
    }
}

#[derive(Debug, Default)]
struct Overlay {
    values: Values,
    ranges: Vec<(Table, Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct State {
    active: Overlay,
    frozen: Option<Arc<Overlay>>,
}

/// The index under its overlays: what the live tree is.
#[derive(Debug)]
pub struct Overlays {
    index: Arc<Index>,
    /// Guards both overlays. A leaf lock: nothing else is taken and no disk is touched while it is held.
    state: RwLock<State>,
    /// Bytes of the active one, and of the frozen one.
    bytes: AtomicU64,
    frozen_bytes: AtomicU64,
}

const ROW_COST: usize = 96;

impl Overlays {
    /// An empty overlay over `index`.
    #[must_use]
    pub fn new(index: Arc<Index>) -> Self {
        Self {
            index,
            state: RwLock::default(),
            bytes: AtomicU64::new(0),
            frozen_bytes: AtomicU64::new(0),
        }
    }

    /// Approximate bytes of memory in the active overlay: what the next commit will take.
    #[must_use]
    pub fn active_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Approximate bytes of memory in both overlays: what is not in the index yet.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        let frozen = self.frozen_bytes.load(Ordering::Relaxed);
        self.active_bytes().saturating_add(frozen)
    }

    /// Whether nothing waits for a commit.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let state = self.state.read();
        state.active.values.is_empty() && state.active.ranges.is_empty() && state.frozen.is_none()
    }

    /// Makes the changes visible, all at once.
    pub fn apply(&self, txn: Txn) {
        let mut cost = 0;
        let mut state = self.state.write();
        for (table, key, value) in txn.values {
            cost += ROW_COST + key.len() + value.as_ref().map_or(0, Vec::len);
            if let Some(old) = state.active.values.insert((table, key), value) {
                cost = cost.saturating_sub(ROW_COST + old.map_or(0, |v| v.len()));
            }
        }
        state.active.ranges.extend(txn.ranges);
        drop(state);
        self.bytes.fetch_add(cost as u64, Ordering::Relaxed);
    }

    /// Moves the active overlay into the frozen place, which must be empty.
    pub fn freeze(&self) {
        let mut state = self.state.write();
        assert!(state.frozen.is_none(), "one frozen overlay at a time");
        let active = std::mem::take(&mut state.active);
        state.frozen = Some(Arc::new(active));
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.frozen_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The frozen rows as operations of a commit record.
    ///
    /// Range deletions come last: they remove what is left of inodes that are gone for good, so they must
    /// also remove rows that the same commit put before the inode went.
    #[must_use]
    pub fn frozen_ops(&self) -> Vec<Op> {
        let frozen = self.state.read().frozen.clone();
        let Some(frozen) = frozen else {
            return Vec::new();
        };
        let mut ops = Vec::with_capacity(frozen.ranges.len() + frozen.values.len());
        ops.extend(frozen.values.iter().map(|((t, key), value)| match value {
            Some(value) => Op::Put(*t, key.clone(), value.clone()),
            None => Op::Del(*t, key.clone()),
        }));
        ops.extend(
            frozen
                .ranges
                .iter()
                .map(|(t, from, to)| Op::DelRange(*t, from.clone(), to.clone())),
        );
        ops
    }

    /// Forgets the frozen overlay: its rows are in the index now.
    pub fn drop_frozen(&self) {
        let frozen = self.state.write().frozen.take();
        self.frozen_bytes.store(0, Ordering::Relaxed);
        drop(frozen);
    }

    /// The index below.
    #[must_use]
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    fn overlaid(&self, table: Table, key: &[u8]) -> Option<Option<Vec<u8>>> {
        let state = self.state.read();
        let at = (table, key.to_vec());
        if let Some(value) = state.active.values.get(&at) {
            return Some(value.clone());
        }
        state
            .frozen
            .as_ref()
            .and_then(|f| f.values.get(&at))
            .cloned()
    }

    /// Up to `limit` overlaid rows of a range, merged, and whether there may be more behind them.
    fn overlaid_range(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> (Values, bool) {
        let state = self.state.read();
        let range = (
            Bound::Included((table, from.to_vec())),
            Bound::Excluded((table, to.to_vec())),
        );
        let mut merged = Values::new();
        let mut cut: Option<(Table, Vec<u8>)> = None;
        let layers = [state.frozen.as_deref(), Some(&state.active)];
        for layer in layers.into_iter().flatten() {
            for (n, (key, value)) in layer.values.range(range.clone()).enumerate() {
                if n == limit {
                    if cut.as_ref().is_none_or(|c| key < c) {
                        cut = Some(key.clone());
                    }
                    break;
                }
                merged.insert(key.clone(), value.clone());
            }
        }
        match cut {
            Some(cut) => {
                merged.split_off(&cut);
                (merged, true)
            }
            None => (merged, false),
        }
    }
}

impl Rows for Overlays {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        // The overlay is read before the index: a commit that finishes in between has then already put
        // into the index what it takes out of the overlay.
        match self.overlaid(table, key) {
            Some(value) => Ok(value),
            None => self.index.get(table, key),
        }
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>> {
        let mut out: Vec<Row> = Vec::new();
        let mut at = from.to_vec();
        while out.len() < limit {
            let (over, more) = self.overlaid_range(table, &at, to, limit);
            let end = match over.last_key_value() {
                Some(((_, key), _)) if more => {
                    let mut end = key.clone();
                    end.push(0);
                    end
                }
                _ => to.to_vec(),
            };
            // Tombstones may hide rows of the page, so ask for that many more.
            let base = self.index.scan(table, &at, &end, limit + over.len())?;
            let base_end = match base.last() {
                Some((key, _)) if base.len() == limit + over.len() => Some(key.clone()),
                _ => None,
            };
            let mut merged: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
                base.into_iter().map(|(k, v)| (k, Some(v))).collect();
            merged.extend(over.into_iter().map(|((_, k), v)| (k, v)));
            for (key, value) in merged {
                if base_end.as_ref().is_some_and(|end| &key > end) || out.len() == limit {
                    break;
                }
                at.clone_from(&key);
                at.push(0);
                out.extend(value.map(|value| (key, value)));
            }
            if base_end.is_none() {
                if !more {
                    break;
                }
                if at < end {
                    at = end;
                }
            }
        }
        Ok(out)
    }

    fn last_at(&self, table: Table, from: &[u8], at: &[u8]) -> Result<Option<Row>> {
        let mut at = at.to_vec();
        loop {
            let over = {
                let state = self.state.read();
                let range = (
                    Bound::Included((table, from.to_vec())),
                    Bound::Included((table, at.clone())),
                );
                let last = |o: &Overlay| {
                    o.values
                        .range(range.clone())
                        .next_back()
                        .map(|(k, v)| (k.1.clone(), v.clone()))
                };
                let active = last(&state.active);
                let frozen = state.frozen.as_deref().and_then(last);
                match (active, frozen) {
                    (Some(a), Some(f)) => Some(if f.0 > a.0 { f } else { a }),
                    (a, f) => a.or(f),
                }
            };
            let base = self.index.last_at(table, from, &at)?;
            match (over, base) {
                (None, base) => return Ok(base),
                (Some((key, _)), Some(base)) if base.0 > key => return Ok(Some(base)),
                (Some((key, Some(value))), _) => return Ok(Some((key, value))),
                // A tombstone: go on below it.
                (Some((key, None)), _) => match before(&key, from) {
                    Some(key) => at = key,
                    None => return Ok(None),
                },
            }
        }
    }
}

/// The greatest key of the same length that is less than `key`, if it is not below `from`.
fn before(key: &[u8], from: &[u8]) -> Option<Vec<u8>> {
    let mut prev = key.to_vec();
    for byte in prev.iter_mut().rev() {
        if *byte == 0 {
            *byte = 0xff;
        } else {
            *byte -= 1;
            return (prev.as_slice() >= from).then_some(prev);
        }
    }
    None
}
