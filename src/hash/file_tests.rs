//! Every route to a file's digest gives the same answer (I9).

#![expect(
    clippy::cast_possible_truncation,
    reason = "test data wraps and is small"
)]

use proptest::prelude::*;

use super::*;
use crate::base::limits::{SEGMENT_LEN, SUBTREE_LEN};

const LEAF: u64 = LEAF_LEN_U64;

/// The definition, word for word: RFC 6962's split over the leaves.
fn by_definition(bytes: &[u8]) -> Digest {
    fn tree(leaves: &[Digest]) -> Digest {
        match leaves {
            [one] => *one,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                let (left, right) = leaves.split_at(split);
                inner(&tree(left), &tree(right))
            }
        }
    }
    let mut leaves: Vec<Digest> = bytes.chunks(LEAF_LEN).map(leaf_digest).collect();
    if leaves.is_empty() {
        leaves.push(leaf_digest(&[]));
    }
    tree(&leaves)
}

fn len(raw: u64) -> ByteLen {
    ByteLen::from_raw(raw)
}

fn content(bytes: &[u8]) -> Digest {
    file_content(len(bytes.len() as u64), by_definition(bytes))
}

#[test]
fn an_empty_file_is_one_empty_leaf() {
    assert_eq!(by_definition(&[]), leaf_digest(&[]));
    assert_eq!(subtree_digest(&[]), leaf_digest(&[]));
    assert_eq!(join_subtrees(&[]), leaf_digest(&[]));
    assert_eq!(zero_subtree(len(0)), leaf_digest(&[]));
    assert_eq!(FileHasher::new().finish(len(0)).unwrap(), content(&[]));
}

#[test]
fn lengths_around_leaves_and_subtrees_follow_the_definition() {
    let bytes: Vec<u8> = (0..3 * SUBTREE_LEN + 70_000)
        .map(|at| (at % 251) as u8)
        .collect();
    for size in [
        1,
        LEAF - 1,
        LEAF,
        LEAF + 1,
        2 * LEAF,
        3 * LEAF,
        5 * LEAF + 7,
        SUBTREE_LEN - 1,
        SUBTREE_LEN,
        SUBTREE_LEN + 1,
        2 * SUBTREE_LEN,
        3 * SUBTREE_LEN,
        3 * SUBTREE_LEN + 70_000,
    ] {
        let part = &bytes[..size as usize];
        let want = by_definition(part);
        assert_eq!(subtree_digest(part), want, "{size}");
        let children: Vec<Digest> = part
            .chunks(SUBTREE_LEN as usize)
            .map(subtree_digest)
            .collect();
        assert_eq!(join_subtrees(&children), want, "{size}");
        assert_eq!(
            zero_subtree(len(size)),
            by_definition(&vec![0; size as usize]),
            "{size}"
        );
    }
}

#[test]
fn the_largest_file_of_zeros_costs_next_to_nothing_by_every_route() {
    let size = FileOff::MAX.raw();
    let mut whole = FileHasher::new();
    whole.push_zeros(len(size));
    let want = whole.finish(len(size)).unwrap();
    let sparse = sparse_file_content(len(size), len(SEGMENT_LEN), []).unwrap();
    assert_eq!(sparse, want);
    // A segment that is given and happens to be zero, in the middle and at the short end.
    let middle = (1 << 62) / SEGMENT_LEN + 5;
    let last = size / SEGMENT_LEN;
    let segments = [
        (middle, zero_subtree(len(SEGMENT_LEN))),
        (last, zero_subtree(len(size % SEGMENT_LEN))),
    ];
    let sparse = sparse_file_content(len(size), len(SEGMENT_LEN), segments).unwrap();
    assert_eq!(sparse, want);
    let other = sparse_file_content(len(size), len(SEGMENT_LEN), [(middle, leaf_digest(b"x"))]);
    assert_ne!(other.unwrap(), want);
}

#[test]
fn mistakes_of_the_caller_are_errors_and_not_digests() {
    let segment = zero_subtree(len(SEGMENT_LEN));
    let sparse = |size, at: &[u64]| {
        let pairs: Vec<_> = at.iter().map(|idx| (*idx, segment)).collect();
        sparse_file_content(len(size), len(SEGMENT_LEN), pairs)
    };
    assert!(sparse(2 * SEGMENT_LEN, &[1, 0]).is_err());
    assert!(sparse(2 * SEGMENT_LEN, &[0, 0]).is_err());
    assert!(sparse(2 * SEGMENT_LEN, &[2]).is_err());
    assert!(sparse(2 * SEGMENT_LEN, &[u64::MAX]).is_err());
    assert!(sparse(2 * SEGMENT_LEN, &[0, 1]).is_ok());

    let mut unaligned = FileHasher::new();
    unaligned.push_zeros(len(LEAF));
    unaligned.push_subtree(len(2 * LEAF), segment);
    assert!(unaligned.finish(len(3 * LEAF)).is_err());

    let mut after_tail = FileHasher::new();
    after_tail.push_subtree(len(LEAF + 1), segment);
    after_tail.push(b"x");
    assert!(after_tail.finish(len(LEAF + 1)).is_err());

    let mut too_long = FileHasher::new();
    too_long.push_zeros(len(FileOff::MAX.raw()));
    assert!(too_long.finish(len(FileOff::MAX.raw())).is_ok());
    too_long.push(b"x");
    assert!(too_long.finish(len(FileOff::MAX.raw())).is_err());

    assert!(FileHasher::new().finish(len(1)).is_err());
}

/// A run of a file: bytes or zeros.
fn run() -> impl Strategy<Value = (bool, usize, u8)> {
    let lengths = prop_oneof![
        0..200_usize,
        0..300_000_usize,
        Just(LEAF_LEN),
        Just(4 * LEAF_LEN)
    ];
    (any::<bool>(), lengths, any::<u8>())
}

fn bytes_of(runs: &[(bool, usize, u8)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (hole, size, salt) in runs {
        bytes.extend((0..*size).map(|at| if *hole { 0 } else { (at % 253) as u8 ^ salt }));
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn i9_bytes_and_holes_in_any_pieces_give_the_digest_of_the_definition(
        runs in prop::collection::vec(run(), 0..8), piece in 1..200_000_usize,
    ) {
        let bytes = bytes_of(&runs);
        let mut hasher = FileHasher::new();
        let mut at = 0;
        for (hole, size, _) in &runs {
            if *hole {
                hasher.push_zeros(len(*size as u64));
            } else {
                bytes[at..at + size].chunks(piece).for_each(|part| hasher.push(part));
            }
            at += size;
        }
        prop_assert_eq!(hasher.finish(len(bytes.len() as u64)).unwrap(), content(&bytes));
    }

    #[test]
    fn i9_subtrees_of_any_aligned_size_give_the_digest_of_the_definition(
        runs in prop::collection::vec(run(), 0..8), level in 0..5_u32, known in any::<u64>(),
    ) {
        let bytes = bytes_of(&runs);
        let total = bytes.len() as u64;
        let size = LEAF_LEN << level;
        let mut hasher = FileHasher::new();
        let mut segments = Vec::new();
        for (idx, part) in bytes.chunks(size).enumerate() {
            if known >> (idx % 64) & 1 == 1 {
                hasher.push_subtree(len(part.len() as u64), subtree_digest(part));
            } else {
                hasher.push(part);
            }
            if part.iter().any(|byte| *byte != 0) {
                segments.push((idx as u64, subtree_digest(part)));
            }
        }
        prop_assert_eq!(hasher.finish(len(total)).unwrap(), content(&bytes));
        let sparse = sparse_file_content(len(total), len(size as u64), segments).unwrap();
        prop_assert_eq!(sparse, content(&bytes));
    }
}
