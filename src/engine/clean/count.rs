//! How much of each pack is live, by the rows of chunks.

use std::collections::BTreeMap;

use crate::base::limits::CLEAN_ROWS_MAX;
use crate::base::{ByteLen, ChunkId, PackId, ParityId, Result};
use crate::chunk::LiveSet;
use crate::engine::types::SpaceUse;
use crate::format::frame::{FRAME_CHUNK_LEN, FRAME_HEADER_LEN};
use crate::format::keys;
use crate::format::pack::PACK_HEADER_LEN;
use crate::format::rows::{ChunkRow, PackKind, Table};
use crate::meta::{Rows, for_each_row};

/// What one chunk costs beside its bytes: its frame's header, and its entries in the frame and in the footer.
const CHUNK_COST: u64 = (FRAME_HEADER_LEN + 2 * FRAME_CHUNK_LEN) as u64;

/// What is known of one pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Length of the file.
    pub(super) len: u64,
    /// Whether it is a LOG pack.
    pub(super) log: bool,
    /// Whether it may be emptied: it is not written to, and the log is not read from it.
    pub(super) eligible: bool,
    /// Whether it has a row of its own.
    pub(super) named: bool,
    /// The parity file of its group, if it is in one.
    pub(super) group: Option<ParityId>,
    pub(super) live_chunks: u64,
    /// Bytes of them, decoded.
    pub(super) live_raw: u64,
    pub(super) dead_chunks: u64,
    pub(super) dead_raw: u64,
}

impl Tally {
    /// About how many bytes of the file are needed.
    ///
    /// Frames are never stored longer than they are decoded, but for their heads: that bounds it for a pack
    /// that is mostly filled with something else. Otherwise its share of the decoded bytes counts.
    pub(super) fn live_len(&self) -> u64 {
        if self.live_chunks == 0 {
            return 0;
        }
        let most = self
            .live_raw
            .saturating_add(self.live_chunks.saturating_mul(CHUNK_COST))
            .saturating_add(2 * PACK_HEADER_LEN as u64);
        let all = u128::from(self.live_raw) + u128::from(self.dead_raw);
        let share = u128::from(self.len) * u128::from(self.live_raw) / all.max(1);
        most.min(u64::try_from(share).unwrap_or(u64::MAX))
            .min(self.len)
    }

    /// The rest of it.
    pub(super) fn dead_len(&self) -> u64 {
        self.len.saturating_sub(self.live_len())
    }

    pub(super) fn rows(&self) -> u64 {
        self.live_chunks.saturating_add(self.dead_chunks)
    }
}

/// All packs, and what is known of each.
pub(super) type Tallies = BTreeMap<PackId, Tally>;

/// Adds the rows of `view` to the packs.
pub(super) fn count(view: &impl Rows, live: &LiveSet, packs: &mut Tallies) -> Result<()> {
    for_each_row(view, Table::Pack, &[], &[0xff; 9], &mut |key, _| {
        packs.entry(keys::parse_pack(key)?).or_default().named = true;
        Ok(true)
    })?;
    for_each_row(view, Table::Chunk, &[], &[0xff; 33], &mut |key, value| {
        let id = keys::parse_chunk(key)?;
        let row = ChunkRow::decode(value)?;
        let tally = packs.entry(row.pack).or_default();
        let (chunks, raw) = if live.contains(&id) {
            (&mut tally.live_chunks, &mut tally.live_raw)
        } else {
            (&mut tally.dead_chunks, &mut tally.dead_raw)
        };
        *chunks += 1;
        *raw = raw.saturating_add(u64::from(row.len));
        Ok(true)
    })
}

/// A tally for each pack file.
pub(super) fn of_files(files: Vec<(PackId, PackKind, ByteLen)>) -> Tallies {
    let tally = |(id, kind, len): (PackId, PackKind, ByteLen)| {
        let tally = Tally {
            len: len.raw(),
            log: kind == PackKind::Log,
            ..Tally::default()
        };
        (id, tally)
    };
    files.into_iter().map(tally).collect()
}

/// The packs to be emptied, those with the least in them first: all that hold nothing live, and as many others
/// as it takes until what is dead in the rest is at most `unused_percent` of what is live.
///
/// Of packs with equally much in them those come first that are in no group, then one group after the other: what is left of a
/// group needs new parity before any of it can go.
pub(super) fn choose(packs: &Tallies, unused_percent: u64) -> Vec<PackId> {
    let live: u64 = packs.values().map(Tally::live_len).sum();
    let mut dead: u64 = packs.values().map(Tally::dead_len).sum();
    let bound = live.saturating_mul(unused_percent) / 100;
    let mut some: Vec<(&PackId, &Tally)> = packs.iter().filter(|(_, t)| t.eligible).collect();
    // By the live share, exactly: a / b < c / d as a * d < c * b.
    some.sort_by(|(_, one), (_, other)| {
        let left = u128::from(one.live_len()) * u128::from(other.len.max(1));
        left.cmp(&(u128::from(other.live_len()) * u128::from(one.len.max(1))))
            .then_with(|| one.group.cmp(&other.group))
    });
    let mut chosen = Vec::new();
    for (id, tally) in some {
        let full = tally.dead_chunks == 0 && tally.live_len() == tally.len;
        if tally.live_chunks > 0 && (dead <= bound || full) {
            break;
        }
        dead = dead.saturating_sub(tally.dead_len());
        chosen.push(*id);
    }
    chosen
}

/// As many packs from the front of `chosen` as have no more than [`CLEAN_ROWS_MAX`] rows together, at least one.
pub(super) fn next_packs(packs: &Tallies, chosen: &mut Vec<PackId>) -> Vec<PackId> {
    let mut rows = 0_u64;
    let fitting = chosen.iter().take_while(|id| {
        let first = rows == 0;
        rows = rows.saturating_add(packs.get(id).map_or(0, Tally::rows));
        first || rows <= CLEAN_ROWS_MAX as u64
    });
    let fitting = fitting.count();
    chosen.drain(..fitting).collect()
}

/// Chunks and where they are.
pub(super) type Placed = Vec<(ChunkId, ChunkRow)>;

/// The rows of the chunks that are in `packs`, each pack's by their places.
pub(super) fn rows_of(view: &impl Rows, packs: &[PackId]) -> Result<BTreeMap<PackId, Placed>> {
    let mut found: BTreeMap<PackId, Placed> = packs.iter().map(|id| (*id, Vec::new())).collect();
    for_each_row(view, Table::Chunk, &[], &[0xff; 33], &mut |key, value| {
        let row = ChunkRow::decode(value)?;
        if let Some(rows) = found.get_mut(&row.pack) {
            rows.push((keys::parse_chunk(key)?, row));
        }
        Ok(true)
    })?;
    for rows in found.values_mut() {
        rows.sort_unstable_by_key(|(_, row)| (row.frame, row.idx));
    }
    Ok(found)
}

/// What the packs hold, in the three classes that a user should be able to tell apart.
pub(super) fn space(packs: &Tallies) -> SpaceUse {
    let mut space = SpaceUse::default();
    for tally in packs.values() {
        let leaked = !tally.log && !tally.named && tally.rows() == 0 && tally.eligible;
        if leaked {
            space.leaked_bytes += tally.len;
        } else if tally.log && (!tally.eligible || tally.rows() == 0) {
            space.log_bytes += tally.len;
        } else {
            space.live_bytes += tally.live_len();
            space.pending_bytes += tally.dead_len();
        }
    }
    space
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(len: u64, live_raw: u64, dead_raw: u64) -> Tally {
        Tally {
            len,
            eligible: true,
            live_chunks: u64::from(live_raw > 0),
            live_raw,
            dead_chunks: u64::from(dead_raw > 0),
            dead_raw,
            ..Tally::default()
        }
    }

    fn packs(some: &[Tally]) -> Tallies {
        (1..)
            .map(PackId::from_raw)
            .zip(some.iter().copied())
            .collect()
    }

    #[test]
    fn packs_are_chosen_until_little_that_is_dead_is_left() {
        let mb = 1_000_000;
        let all = packs(&[
            tally(10 * mb, 10 * mb, 0),
            tally(10 * mb, 0, 10 * mb),
            tally(10 * mb, 5 * mb, 5 * mb),
            tally(100 * mb, 99 * mb, mb),
        ]);
        let ids = |raw: &[u64]| {
            raw.iter()
                .copied()
                .map(PackId::from_raw)
                .collect::<Vec<_>>()
        };
        assert_eq!(choose(&all, 5), ids(&[2, 3]));
        assert_eq!(choose(&all, 50), ids(&[2]));
        assert_eq!(choose(&all, 0), ids(&[2, 3, 4]));
    }

    #[test]
    fn a_pack_filled_with_something_unknown_is_sparse_although_no_chunk_of_it_is_known_as_dead() {
        let one = tally(10_000_000, 1000, 0);
        assert!(one.live_len() < 20_000);
    }

    #[test]
    fn packs_of_a_group_are_chosen_together_and_after_those_of_none() {
        let dead = |group: Option<u64>| Tally {
            group: group.map(ParityId::from_raw),
            ..tally(1_000_000, 0, 1_000_000)
        };
        let all = packs(&[
            dead(Some(2)),
            dead(Some(1)),
            dead(None),
            dead(Some(2)),
            dead(Some(1)),
        ]);
        let chosen: Vec<u64> = choose(&all, 5).iter().map(|id| id.raw()).collect();
        assert_eq!(chosen, [3, 2, 5, 1, 4]);
    }

    #[test]
    fn a_pack_that_is_written_to_is_never_chosen() {
        let mut one = tally(1_000_000, 0, 1_000_000);
        one.eligible = false;
        assert_eq!(choose(&packs(&[one]), 0), []);
    }
}
