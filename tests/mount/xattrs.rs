//! Extended attributes.

use std::fs;

use crate::store::{MountedStore, errno};
use crate::sys::{get_xattr, list_xattr, remove_xattr, set_xattr};

#[test]
fn attributes_are_set_listed_replaced_and_removed() {
    let mut store = MountedStore::new();
    fs::write(store.path("a"), b"").unwrap();
    set_xattr(&store.path("a"), "user.one", b"1", 0).unwrap();
    set_xattr(&store.path("a"), "user.two", &[9; 60_000], 0).unwrap();
    set_xattr(&store.path("a"), "trusted.three", b"", 0).unwrap();
    store.remount();
    let path = store.path("a");
    assert_eq!(get_xattr(&path, "user.one", 100).unwrap(), b"1");
    assert_eq!(get_xattr(&path, "user.two", 65_536).unwrap(), [9; 60_000]);
    assert_eq!(get_xattr(&path, "user.two", 0).unwrap().len(), 60_000);
    let names = list_xattr(&path).unwrap();
    for name in ["user.one", "user.two", "trusted.three"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
    remove_xattr(&path, "user.one").unwrap();
    assert_eq!(errno(get_xattr(&path, "user.one", 100)), libc::ENODATA);
}

#[test]
fn each_misuse_of_attributes_has_its_errno() {
    let store = MountedStore::new();
    let path = store.path("a");
    fs::write(&path, b"").unwrap();
    set_xattr(&path, "user.a", b"12345", 0).unwrap();
    let set = |name: &str, flags| errno(set_xattr(&path, name, b"x", flags));
    assert_eq!(set("user.a", libc::XATTR_CREATE), libc::EEXIST);
    assert_eq!(set("user.b", libc::XATTR_REPLACE), libc::ENODATA);
    assert_eq!(errno(get_xattr(&path, "user.a", 3)), libc::ERANGE);
    assert_eq!(errno(get_xattr(&path, "user.b", 3)), libc::ENODATA);
    assert_eq!(errno(remove_xattr(&path, "user.b")), libc::ENODATA);
    assert_eq!(
        errno(set_xattr(&path, "user.big", &[0; 65_537], 0)),
        libc::E2BIG
    );
    assert_eq!(
        errno(set_xattr(&path, "nonsense.x", b"x", 0)),
        libc::EOPNOTSUPP
    );
    let long = format!("user.{}", "n".repeat(251));
    assert_eq!(errno(set_xattr(&path, &long, b"x", 0)), libc::ERANGE);
}
