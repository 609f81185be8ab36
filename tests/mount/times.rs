//! Times.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;

use crate::store::MountedStore;

#[test]
fn nanoseconds_are_kept_and_omitted_times_stay() {
    let mut store = MountedStore::new();
    let file = File::create(store.path("a")).unwrap();
    futimens(
        &file,
        &TimeSpec::new(11, 123_456_789),
        &TimeSpec::new(22, 987_654_321),
    )
    .unwrap();
    futimens(&file, &TimeSpec::UTIME_OMIT, &TimeSpec::new(33, 1)).unwrap();
    drop(file);
    let check = |store: &MountedStore| {
        let stat = fs::metadata(store.path("a")).unwrap();
        assert_eq!((stat.atime(), stat.atime_nsec()), (11, 123_456_789));
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (33, 1));
    };
    check(&store);
    store.remount();
    check(&store);
}

/// fuser hands over times before 1970 wrongly; the adapter undoes it.
#[test]
fn a_time_before_1970_with_a_fraction_is_kept() {
    let mut store = MountedStore::new();
    fs::write(store.path("a"), b"").unwrap();
    let time = TimeSpec::new(-2, 500_000_000);
    utimensat(
        nix::fcntl::AT_FDCWD,
        &store.path("a"),
        &time,
        &time,
        UtimensatFlags::FollowSymlink,
    )
    .unwrap();
    store.remount();
    let stat = fs::metadata(store.path("a")).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (-2, 500_000_000));
}

#[test]
fn a_write_moves_mtime_and_ctime_and_a_chmod_only_ctime() {
    let store = MountedStore::new();
    let file = File::create(store.path("a")).unwrap();
    futimens(&file, &TimeSpec::new(11, 0), &TimeSpec::new(22, 0)).unwrap();
    let old = file.metadata().unwrap();
    crate::store::chmod(store.path("a"), 0o600);
    let changed = fs::metadata(store.path("a")).unwrap();
    assert_eq!(changed.mtime(), 22);
    assert!((changed.ctime(), changed.ctime_nsec()) >= (old.ctime(), old.ctime_nsec()));
    std::io::Write::write_all(&mut &file, b"x").unwrap();
    drop(file);
    let written = fs::metadata(store.path("a")).unwrap();
    assert!(written.mtime() > 22);
}

#[test]
fn making_and_removing_a_name_moves_the_directorys_mtime() {
    let store = MountedStore::new();
    fs::create_dir(store.path("d")).unwrap();
    let set = || {
        let time = TimeSpec::new(5, 0);
        let path = store.path("d");
        utimensat(
            nix::fcntl::AT_FDCWD,
            &path,
            &time,
            &time,
            UtimensatFlags::FollowSymlink,
        )
        .unwrap();
    };
    set();
    fs::write(store.path("d/a"), b"").unwrap();
    assert!(fs::metadata(store.path("d")).unwrap().mtime() > 5);
    set();
    fs::remove_file(store.path("d/a")).unwrap();
    assert!(fs::metadata(store.path("d")).unwrap().mtime() > 5);
}
