//! The directory trie is a function of the set of entries alone (I9).

use proptest::prelude::*;

use super::*;

fn two(salt: usize) -> TwoDigests {
    TwoDigests {
        content: symlink_content(&salt.to_le_bytes()),
        full: symlink_content(&[salt.to_le_bytes(), salt.to_le_bytes()].concat()),
    }
}

fn entries(names: &[Vec<u8>]) -> Vec<DirEntry<'_>> {
    let entry = |(at, name)| DirEntry {
        name,
        kind: EntryKind::Regular,
        digests: two(at),
    };
    names
        .iter()
        .map(Vec::as_slice)
        .enumerate()
        .map(entry)
        .collect()
}

fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|at| format!("name-{at}").into_bytes())
        .collect()
}

#[test]
fn up_to_256_entries_are_one_leaf_in_byte_order() {
    let names = numbered(256);
    let mut sorted = entries(&names);
    sorted.sort_by_key(|entry| entry.name);
    assert_eq!(trie_root(entries(&names)), dir_leaf(sorted));
    assert_eq!(trie_root([]), dir_leaf([]));
}

#[test]
fn the_257th_entry_splits_the_leaf_by_the_first_bit() {
    let names = numbered(257);
    let (mut right, mut left): (Vec<_>, Vec<_>) = entries(&names)
        .into_iter()
        .partition(|entry| name_hash(entry.name)[0] & 0x80 != 0);
    left.sort_by_key(|entry| entry.name);
    right.sort_by_key(|entry| entry.name);
    assert_eq!(
        trie_root(entries(&names)),
        dir_inner(&dir_leaf(left), &dir_leaf(right))
    );
}

#[test]
fn bits_come_most_significant_first() {
    let mut hash = [0; 32];
    hash[0] = 0x80;
    hash[1] = 0x01;
    let set: Vec<u32> = (0..300).filter(|depth| trie_bit(&hash, *depth)).collect();
    assert_eq!(set, [0, 15]);
}

#[test]
fn the_two_digests_of_a_directory_differ_in_what_they_cover() {
    let names = numbered(3);
    let mut list = entries(&names);
    let before = trie_root(list.clone());
    list[1].digests.full = two(99).full;
    let after = trie_root(list.clone());
    assert_eq!(before.content, after.content);
    assert_ne!(before.full, after.full);
    list[1].kind = EntryKind::Executable;
    assert_ne!(trie_root(list).content, after.content);
}

#[test]
#[should_panic(expected = "must ascend")]
fn two_entries_of_one_name_have_no_digest() {
    let names = vec![b"a".to_vec(), b"a".to_vec()];
    let _ = trie_root(entries(&names));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn i9_the_order_of_insertion_does_not_matter(count in 0..900_usize, turn in any::<prop::sample::Index>()) {
        let names = numbered(count);
        let mut list = entries(&names);
        let want = trie_root(list.clone());
        if count > 0 {
            list.rotate_left(turn.index(count));
        }
        list.reverse();
        prop_assert_eq!(trie_root(list), want);
    }
}
