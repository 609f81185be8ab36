//! The files of packs go, and what parity protects stays protected (I8).
//!
//! All of it under the parity turn, so that no group is made of packs that go and no repair brings one back:
//!
//! 1. Of each group that loses packs, those that stay get parity of their own, durable before anything goes.
//! 2. The packs go, the directory is synced.
//! 3. Parity files that cover nothing any more go.
//!
//! A crash after 1 leaves parity twice, after 2 a group with members that are gone: both are what a pass of
//! `protect` finds and mends.
//!
//! *A full disk.* Packs in no group, and groups that go whole, need no new parity: they go first, and make room for the rest.
//! What does not find room then waits until the end of the cleaning and is tried again with what was freed by then. If
//! that does not suffice, packs go at a price, one at a time: each gives room for parity of those that stay, which is tried
//! again after each. What is without parity of its own after the last has only what is left of the group's: with two of
//! sixteen gone that repairs nothing any more. This is said, shows in the statistics, and the next pass of `protect` that
//! finds room mends it. A full disk that no deletion can empty would be worse: its owner would begin to delete files of
//! the store.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Error, PackId, ParityId, Result};
use crate::chunk::damaged_pack;
use crate::engine::Engine;
use crate::engine::parity_plan::{Work, pack_of};
use crate::format::parity::ParityKind;

/// Whether this is the last chance of a cleaning to remove packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// More may be freed later.
    No,
    /// All that can be freed without new parity is.
    Yes,
}

/// What has become of packs that were to be removed.
#[derive(Debug, Default)]
pub(super) struct Released {
    pub(super) removed: u64,
    pub(super) freed_bytes: u64,
    /// Packs that wait for room.
    pub(super) waiting: Vec<PackId>,
    /// Packs that stay for now, and why.
    pub(super) kept: Vec<(PackId, String)>,
}

impl Engine {
    /// Removes packs that nothing names any more, which is durable in the log and in the index.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn release_packs(&self, gone: Vec<PackId>, last: Last) -> Result<Released> {
        let _turn = self.parity_turn.lock();
        let mut released = Released::default();
        let (free, costly) = self.by_group(&gone);
        self.drop_packs(&free, &mut released)?;
        for (group, packs) in costly {
            match self.cover_rest(group, &packs) {
                Ok(()) => self.drop_packs(&packs, &mut released)?,
                Err(Error::NoSpace) if last == Last::No => released.waiting.extend(packs),
                Err(Error::NoSpace) => self.drop_at_a_price(group, packs, &mut released)?,
                Err(error) => {
                    let why = format!("the rest of its parity group cannot be covered: {error}");
                    released
                        .kept
                        .extend(packs.iter().map(|id| (*id, why.clone())));
                }
            }
        }
        Ok(released)
    }

    /// Those that can go without new parity, and the others by their groups.
    fn by_group(&self, gone: &[PackId]) -> (Vec<PackId>, BTreeMap<ParityId, Vec<PackId>>) {
        let going: BTreeSet<PackId> = gone.iter().copied().collect();
        let mut free = Vec::new();
        let mut costly: BTreeMap<ParityId, Vec<PackId>> = BTreeMap::new();
        for id in gone {
            let leaves_some = |group: ParityId| {
                let header = self.parity.header(group);
                header.is_some_and(|header| {
                    let mut members = header.members().iter();
                    members.any(|m| !going.contains(&m.pack) && self.store.holds_pack(m.pack))
                })
            };
            let covers = self.parity.covers(*id).into_iter();
            let mut groups = covers.filter(|cover| cover.kind == ParityKind::Group);
            match groups.find(|cover| leaves_some(cover.parity)) {
                Some(group) => costly.entry(group.parity).or_default().push(*id),
                None => free.push(*id),
            }
        }
        (free, costly)
    }

    /// Removes packs of a group although there is no room for parity of those that stay: no more of them than it takes to
    /// make that room.
    fn drop_at_a_price(
        &self,
        group: ParityId,
        packs: Vec<PackId>,
        released: &mut Released,
    ) -> Result<()> {
        log::warn!("no room for new parity: what is left of a group has less of it until there is");
        let mut rest = packs.as_slice();
        while let Some((first, more)) = rest.split_first() {
            self.drop_packs(&[*first], released)?;
            rest = more;
            if self.cover_rest(group, rest).is_ok() {
                break;
            }
        }
        self.drop_packs(rest, released)
    }

    /// Gives parity of their own to the packs of a group, and of others that cover `going`, that stay when those go.
    fn cover_rest(&self, group: ParityId, going: &[PackId]) -> Result<()> {
        let mut groups: BTreeSet<ParityId> = BTreeSet::from([group]);
        for id in going {
            let covers = self.parity.covers(*id).into_iter();
            let of_groups = covers.filter(|cover| cover.kind == ParityKind::Group);
            groups.extend(of_groups.map(|cover| cover.parity));
        }
        for group in &groups {
            let Some(header) = self.parity.header(*group) else {
                continue;
            };
            for member in header.members() {
                let id = member.pack;
                let stays = self.store.holds_pack(id) && !going.contains(&id);
                let covers = self.parity.covers(id).into_iter();
                let mut others = covers.filter(|cover| !groups.contains(&cover.parity));
                if !stays || others.any(|_| true) {
                    continue;
                }
                let pack = [pack_of(member)];
                let made = self.cover_in_turn(&pack, 0);
                match made.as_ref().err().and_then(damaged_pack) {
                    // The group is still whole: it can mend what is to leave it.
                    Some(damaged) if self.repair_in_turn(damaged)?.0 => {
                        self.cover_in_turn(&pack, 0)?;
                    }
                    _ => drop(made?),
                }
            }
        }
        Ok(())
    }

    /// Removes packs, and the parity files that nothing needs after that.
    fn drop_packs(&self, packs: &[PackId], released: &mut Released) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        let removed = self.store.remove_packs(packs);
        let is_gone = |pack: &PackId| !self.store.holds_pack(*pack);
        self.parity.note_gone(packs.iter().copied().filter(is_gone));
        released.freed_bytes += removed?;
        released.removed += packs.len() as u64;
        for work in self.parity_plan(&BTreeSet::new(), false)? {
            match work {
                Work::Dissolve(file, left) if left.is_empty() => self.parity.remove(file)?,
                Work::Drop(file) => self.parity.remove(file)?,
                _ => {}
            }
        }
        Ok(())
    }
}
