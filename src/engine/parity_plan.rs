//! What is to be done so that every finished pack has parity: a function of what there is.
//!
//! 1. A group of which a member is gone, by cleaning: its other members get parity of their own, then the file goes.
//! 2. A parity file of one pack that is gone, or that a whole group covers as well (a crash came between), goes.
//! 3. A finished pack that nothing covers gets parity of its own.
//! 4. Sixteen packs (or as many as the configuration says) of about one length that have parity of their own become a group. Others stay as they are: the
//!    overhead of a group counts as if all its packs were as long as its longest.
//! 5. If so many packs have no parity at all, as after much was written, they become a group at once: they are read and encoded
//!    once then, not twice.
//!
//! The first two come first: what they remove may be counted as cover otherwise.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::limits::{PARITY_GROUP_LEN_PERCENT_MIN, PARITY_MEMBERS_MAX};
use crate::base::{PackId, ParityId};
use crate::chunk::PackToCover;
use crate::format::parity::{Member, ParityHeader, ParityKind};

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A group's file is to go, after these of its packs have parity of their own.
    Dissolve(ParityId, Vec<PackToCover>),
    /// A parity file covers nothing that is not covered better.
    Drop(ParityId),
    /// A pack is to get parity of its own.
    Cover(PackToCover),
    /// Packs that all have parity of their own, or all have none, are to become a group.
    Group(Vec<PackToCover>),
}

/// What the plan is made from.
pub(super) struct Facts<'a> {
    /// All parity files that can be read.
    pub(super) files: Vec<Arc<ParityHeader>>,
    /// Finished packs that none of them covers.
    pub(super) bare: Vec<PackToCover>,
    /// Whether a pack is part of the store.
    pub(super) holds: &'a dyn Fn(PackId) -> bool,
    /// Packs that were refused: they are damaged.
    pub(super) refused: &'a BTreeSet<PackId>,
    /// Whether the store is to have parity.
    pub(super) wanted: bool,
    /// Packs of a group.
    pub(super) group_packs: usize,
    /// Whether packs that nothing covers may go into a group at once; tells the bytes of each.
    pub(super) direct: Option<&'a dyn Fn(PackId) -> u64>,
}

/// The pack of a member, as it is to be covered anew.
pub(super) fn pack_of(member: &Member) -> PackToCover {
    PackToCover {
        pack: member.pack,
        kind: member.kind,
        digest: Some(member.digest),
    }
}

impl Facts<'_> {
    fn of_kind(&self, kind: ParityKind) -> impl Iterator<Item = &Arc<ParityHeader>> {
        self.files.iter().filter(move |file| file.kind() == kind)
    }

    fn is_whole(&self, file: &ParityHeader) -> bool {
        file.members().iter().all(|m| (self.holds)(m.pack))
    }

    /// The packs of a group that would have no cover if its file and those that are gone were.
    fn left_bare(&self, group: &ParityHeader) -> Vec<PackToCover> {
        let covered = |member: &Member| {
            let mut others = self.files.iter().filter(|f| f.parity() != group.parity());
            others.any(|f| f.member_of(member.pack).is_some() && self.is_whole(f))
        };
        let members = group.members().iter();
        let left = members.filter(|m| (self.holds)(m.pack) && !covered(m));
        left.map(pack_of).collect()
    }

    /// Everything that can be done now. Doing some of it may make more.
    pub(super) fn plan(&self) -> Vec<Work> {
        let mut plan = Vec::new();
        for group in self.of_kind(ParityKind::Group) {
            if self.is_whole(group) {
                continue;
            }
            let left = self.left_bare(group);
            let can = left.is_empty() || self.wanted;
            if can && !left.iter().any(|pack| self.refused.contains(&pack.pack)) {
                plan.push(Work::Dissolve(group.parity(), left));
            }
        }
        for single in self.of_kind(ParityKind::Single) {
            let mut groups = self.of_kind(ParityKind::Group);
            let same = |group: &&Arc<ParityHeader>| {
                self.is_whole(group) && single.members().iter().all(|m| group.members().contains(m))
            };
            if !self.is_whole(single) || groups.any(|group| same(&group)) {
                plan.push(Work::Drop(single.parity()));
            }
        }
        if self.wanted {
            let bare = self.bare.iter();
            let mut bare: Vec<PackToCover> = bare
                .filter(|pack| !self.refused.contains(&pack.pack))
                .cloned()
                .collect();
            let mut groups = self.alike(self.alone());
            if let Some(len_of) = self.direct {
                let lens = bare.iter().map(|pack| (len_of(pack.pack), pack.clone()));
                groups.extend(self.alike(lens.collect()));
                bare.retain(|pack| !groups.iter().flatten().any(|other| other == pack));
            }
            plan.extend(bare.into_iter().map(Work::Cover));
            plan.extend(groups.into_iter().map(Work::Group));
        }
        plan
    }

    /// Packs that have parity of their own only, with their bytes.
    fn alone(&self) -> Vec<(u64, PackToCover)> {
        let grouped: BTreeSet<PackId> = self
            .of_kind(ParityKind::Group)
            .flat_map(|group| group.members().iter().map(|m| m.pack))
            .collect();
        let mut seen = BTreeSet::new();
        let singles = self.of_kind(ParityKind::Single);
        singles
            .flat_map(|file| file.members().iter())
            .filter(|m| (self.holds)(m.pack) && !self.refused.contains(&m.pack))
            .filter(|m| !grouped.contains(&m.pack) && seen.insert(m.pack))
            .map(|m| (m.len.raw(), pack_of(m)))
            .collect()
    }

    /// Groups that can be made of packs; given with their bytes.
    fn alike(&self, mut packs: Vec<(u64, PackToCover)>) -> Vec<Vec<PackToCover>> {
        packs.sort_by_key(|(len, pack)| (std::cmp::Reverse(*len), pack.pack));
        let mut groups = Vec::new();
        let mut rest = packs.as_slice();
        let count = self.group_packs.clamp(2, PARITY_MEMBERS_MAX);
        while let Some(some) = rest.get(..count) {
            let longest = some.first().map_or(0, |(len, _)| *len);
            let shortest = some.last().map_or(0, |(len, _)| *len);
            let alike = u128::from(shortest) * 100
                >= u128::from(longest) * u128::from(PARITY_GROUP_LEN_PERCENT_MIN);
            if alike {
                groups.push(some.iter().map(|(_, pack)| pack.clone()).collect());
            }
            let skip = if alike { count } else { 1 };
            rest = rest.get(skip..).unwrap_or_default();
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ByteLen, Digest, StoreId};
    use crate::format::parity::Shape;
    use crate::format::rows::PackKind;

    fn member(pack: u64, len: u64) -> Member {
        Member {
            pack: PackId::from_raw(pack),
            kind: PackKind::Data,
            len: ByteLen::from_raw(len),
            digest: Digest::from_raw([u8::try_from(pack).unwrap(); 32]),
        }
    }

    fn file(parity: u64, kind: ParityKind, members: Vec<Member>) -> Arc<ParityHeader> {
        let rows: u64 = members.iter().map(|m| m.len.raw().div_ceil(4096)).sum();
        let shape = Shape {
            symbol_len: 4096,
            source_count: u32::try_from(rows).unwrap(),
            repair_count: 8,
            block_count: 1,
        };
        let (store, id) = (StoreId::from_raw([1; 16]), ParityId::from_raw(parity));
        Arc::new(ParityHeader::new(store, id, kind, shape, members).unwrap())
    }

    fn single(parity: u64, pack: u64, len: u64) -> Arc<ParityHeader> {
        file(parity, ParityKind::Single, vec![member(pack, len)])
    }

    fn plan(files: Vec<Arc<ParityHeader>>, bare: &[u64], gone: &[u64]) -> Vec<Work> {
        let holds = |pack: PackId| !gone.contains(&pack.raw());
        let facts = Facts {
            files,
            bare: bare.iter().map(|n| pack_of(&member(*n, 1))).collect(),
            holds: &holds,
            refused: &BTreeSet::new(),
            wanted: true,
            group_packs: 16,
            direct: None,
        };
        facts.plan()
    }

    #[test]
    fn a_pack_without_parity_gets_its_own() {
        let cover = Work::Cover(pack_of(&member(3, 1)));
        assert_eq!(plan(vec![single(1, 1, 4096)], &[3], &[]), [cover]);
    }

    #[test]
    fn sixteen_alike_become_a_group_and_shorter_ones_stay_alone() {
        let mut files: Vec<_> = (1..=16).map(|n| single(n, n, 100 * 4096)).collect();
        files.push(single(17, 17, 4096));
        let made = plan(files.clone(), &[], &[]);
        let [Work::Group(packs)] = made.as_slice() else {
            panic!("{made:?}");
        };
        assert_eq!(packs.len(), 16);
        assert!(packs.iter().all(|pack| pack.pack.raw() <= 16));
        // With one of them shorter than three quarters there are too few.
        files[4] = single(5, 5, 70 * 4096);
        assert_eq!(plan(files, &[], &[]), []);
    }

    #[test]
    fn bare_packs_become_a_group_at_once_where_that_is_wanted() {
        let files: Vec<_> = (1..=3).map(|n| single(n, n, 90 * 4096)).collect();
        let bare: Vec<PackToCover> = (4..=20).map(|n| pack_of(&member(n, 1))).collect();
        // The last one is too short for the group.
        let len_of = |pack: PackId| if pack.raw() == 20 { 4096 } else { 90 * 4096 };
        let none = BTreeSet::new();
        let facts = |direct| Facts {
            files: files.clone(),
            bare: bare.clone(),
            holds: &|_| true,
            refused: &none,
            wanted: true,
            group_packs: 16,
            direct,
        };
        let made = facts(Some(&len_of)).plan();
        let [Work::Cover(short), Work::Group(packs)] = made.as_slice() else {
            panic!("{made:?}");
        };
        assert_eq!(short.pack.raw(), 20);
        let grouped: Vec<u64> = packs.iter().map(|pack| pack.pack.raw()).collect();
        assert_eq!(grouped, (4..=19).collect::<Vec<_>>());
        let one_by_one = facts(None).plan();
        assert_eq!(one_by_one.len(), 17);
        assert!(one_by_one.iter().all(|work| matches!(work, Work::Cover(_))));
    }

    #[test]
    fn a_group_that_has_lost_a_member_goes_once_the_rest_is_covered() {
        let group = file(9, ParityKind::Group, vec![member(1, 4096), member(2, 4096)]);
        let dissolve = |left: Vec<PackToCover>| Work::Dissolve(ParityId::from_raw(9), left);
        let of = |pack| pack_of(&member(pack, 4096));
        assert_eq!(plan(vec![group.clone()], &[], &[]), []);
        assert_eq!(
            plan(vec![group.clone()], &[], &[1]),
            [dissolve(vec![of(2)])]
        );
        // The parity of its own is not superfluous then, as it would be beside a whole group.
        let both = vec![group, single(10, 2, 4096)];
        assert_eq!(plan(both.clone(), &[], &[1]), [dissolve(vec![])]);
        assert_eq!(plan(both, &[], &[]), [Work::Drop(ParityId::from_raw(10))]);
    }

    #[test]
    fn parity_of_a_pack_that_is_gone_goes() {
        let drop = Work::Drop(ParityId::from_raw(4));
        assert_eq!(plan(vec![single(4, 7, 4096)], &[], &[7]), [drop]);
    }

    #[test]
    fn refused_packs_do_not_keep_others_from_their_parity() {
        let refused = BTreeSet::from([PackId::from_raw(2)]);
        let facts = Facts {
            files: vec![],
            bare: [2, 3].iter().map(|n| pack_of(&member(*n, 1))).collect(),
            holds: &|_| true,
            refused: &refused,
            wanted: true,
            group_packs: 16,
            direct: None,
        };
        assert_eq!(facts.plan(), [Work::Cover(pack_of(&member(3, 1)))]);
    }
}
