//! Reading directories.

use std::collections::BTreeSet;
use std::fs;

use crate::store::{MountedStore, names};
use crate::sys::Stream;

#[test]
fn a_large_directory_lists_every_name_once() {
    let mut store = MountedStore::new();
    let expected: BTreeSet<String> = (0..3_000).map(|n| format!("file-{n}")).collect();
    for name in &expected {
        fs::write(store.path(name), b"").unwrap();
    }
    assert_eq!(
        names(store.root()),
        expected.iter().cloned().collect::<Vec<_>>()
    );
    store.remount();
    assert_eq!(
        names(store.root()),
        expected.iter().cloned().collect::<Vec<_>>()
    );
    // The second time comes from the kernel's cache of the listing.
    assert_eq!(names(store.root()).len(), 3_000);
    fs::remove_file(store.path("file-7")).unwrap();
    assert_eq!(names(store.root()).len(), 2_999);
}

#[test]
fn deleting_while_listing_skips_and_repeats_nothing() {
    let store = MountedStore::new();
    for n in 0..2_000 {
        fs::write(store.path(format!("{n}")), b"").unwrap();
    }
    let mut stream = Stream::open(store.root());
    let mut seen = BTreeSet::new();
    while let Some(name) = stream.next() {
        if name.starts_with('.') {
            continue;
        }
        fs::remove_file(store.path(&name)).unwrap();
        assert!(seen.insert(name));
    }
    assert_eq!(seen.len(), 2_000);
    assert!(names(store.root()).is_empty());
}

#[test]
fn a_told_place_in_a_directory_stays_valid_when_entries_go() {
    let store = MountedStore::new();
    for n in 0..1_000 {
        fs::write(store.path(format!("{n}")), b"").unwrap();
    }
    let mut stream = Stream::open(store.root());
    let mut before = Vec::new();
    for _ in 0..300 {
        before.push(stream.next().unwrap());
    }
    let place = stream.tell();
    let mut after: BTreeSet<String> = BTreeSet::new();
    while let Some(name) = stream.next() {
        after.insert(name);
    }
    for name in before.iter().filter(|name| !name.starts_with('.')) {
        fs::remove_file(store.path(name)).unwrap();
    }
    stream.seek(place);
    let mut again = BTreeSet::new();
    while let Some(name) = stream.next() {
        assert!(again.insert(name));
    }
    assert_eq!(again, after);
}
