//! Hard links and directory link counts.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use crate::store::{MountedStore, errno};

#[test]
fn hard_links_are_one_file_with_a_count() {
    let mut store = MountedStore::new();
    fs::create_dir(store.path("d")).unwrap();
    fs::write(store.path("a"), b"one").unwrap();
    fs::hard_link(store.path("a"), store.path("d/b")).unwrap();
    let stat = |name: &str| fs::metadata(store.path(name)).unwrap();
    assert_eq!((stat("a").nlink(), stat("d/b").nlink()), (2, 2));
    assert_eq!(stat("a").ino(), stat("d/b").ino());
    fs::write(store.path("d/b"), b"two").unwrap();
    assert_eq!(fs::read(store.path("a")).unwrap(), b"two");
    fs::remove_file(store.path("a")).unwrap();
    assert_eq!(fs::metadata(store.path("d/b")).unwrap().nlink(), 1);
    store.remount();
    assert_eq!(fs::metadata(store.path("d/b")).unwrap().nlink(), 1);
    assert_eq!(fs::read(store.path("d/b")).unwrap(), b"two");
}

#[test]
fn a_directory_counts_its_subdirectories() {
    let store = MountedStore::new();
    fs::create_dir_all(store.path("d/x/y")).unwrap();
    fs::create_dir(store.path("d/z")).unwrap();
    let count = |name: &str| fs::metadata(store.path(name)).unwrap().nlink();
    assert_eq!(count("d"), 4);
    fs::rename(store.path("d/x"), store.path("x")).unwrap();
    assert_eq!(count("d"), 3);
    fs::remove_dir(store.path("d/z")).unwrap();
    assert_eq!(count("d"), 2);
}

#[test]
fn a_directory_cannot_be_linked_and_a_taken_name_not_either() {
    let store = MountedStore::new();
    fs::create_dir(store.path("d")).unwrap();
    fs::write(store.path("a"), b"").unwrap();
    assert_eq!(
        errno(fs::hard_link(store.path("d"), store.path("e"))),
        libc::EPERM
    );
    assert_eq!(
        errno(fs::hard_link(store.path("a"), store.path("d"))),
        libc::EEXIST
    );
}

/// Bug: the last close removed a file without a name, although somebody referred to it by `O_PATH` and could open
/// it again.
#[test]
fn a_file_without_a_name_can_be_opened_for_as_long_as_somebody_refers_to_it() {
    let store = MountedStore::new();
    fs::write(store.path("a"), b"here").unwrap();
    let place = fs::File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(store.path("a"))
        .unwrap();
    fs::remove_file(store.path("a")).unwrap();
    let again = format!("/proc/self/fd/{}", place.as_raw_fd());
    for _ in 0..50 {
        assert_eq!(fs::read(&again).unwrap(), b"here");
    }
}
