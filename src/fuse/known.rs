//! How many references to each inode the kernel holds.
//!
//! Every reply that names an entry gives the kernel one; it takes them back in a `forget`, several at once and
//! not always all. An inode without a name stays until the last one is back: a program may still have it
//! without having it open (`O_PATH`).

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::base::Ino;

const SHARDS: u64 = 16;

/// References of one inode.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    held: u64,
    /// Given since the kernel last held none.
    given: u64,
}

/// The inodes that the kernel knows by one mount. Its size is that of the kernel's own cache of them.
#[derive(Debug)]
pub(super) struct Known(Vec<Mutex<HashMap<Ino, Count>>>);

impl Known {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    fn shard(&self, ino: Ino) -> Option<&Mutex<HashMap<Ino, Count>>> {
        self.0.get(usize::try_from(ino.raw() % SHARDS).ok()?)
    }

    /// Notes a reference that the next reply gives.
    pub(super) fn give(&self, ino: Ino) {
        if let Some(shard) = self.shard(ino) {
            let mut shard = shard.lock();
            let count = shard.entry(ino).or_default();
            count.held += 1;
            count.given += 1;
        }
    }

    /// Takes references back. If they were the last ones: how many there were.
    pub(super) fn take(&self, ino: Ino, references: u64) -> Option<u64> {
        let mut shard = self.shard(ino)?.lock();
        let count = shard.get_mut(&ino)?;
        count.held = count.held.saturating_sub(references);
        if count.held > 0 {
            return None;
        }
        shard.remove(&ino).map(|count| count.given)
    }

    /// Takes everything back: a mount that ends sends no `forget`.
    pub(super) fn take_all(&self) -> Vec<(Ino, u64)> {
        let shards = self.0.iter();
        shards
            .flat_map(|shard| std::mem::take(&mut *shard.lock()))
            .map(|(ino, count)| (ino, count.given))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_known_until_as_many_references_are_back_as_were_given() {
        let (known, ino) = (Known::new(), Ino::from_raw(9));
        for _ in 0..3 {
            known.give(ino);
        }
        assert_eq!(known.take(ino, 2), None);
        known.give(ino);
        assert_eq!(known.take(ino, 2), Some(4));
        assert_eq!(known.take(ino, 1), None);
        known.give(ino);
        assert_eq!(known.take_all(), [(ino, 1)]);
    }
}
