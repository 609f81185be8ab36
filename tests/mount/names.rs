//! Names: lengths, creating, renaming, removing.

use std::fs;
use std::os::unix::fs::symlink;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::store::{MountedStore, errno, names};

#[test]
fn a_name_has_at_most_255_bytes() {
    let mut store = MountedStore::new();
    let longest = "n".repeat(255);
    fs::write(store.path(&longest), b"x").unwrap();
    assert_eq!(
        errno(fs::write(store.path("n".repeat(256)), b"x")),
        libc::ENAMETOOLONG
    );
    assert_eq!(
        errno(fs::metadata(store.path("n".repeat(256)))),
        libc::ENAMETOOLONG
    );
    assert_eq!(
        errno(fs::create_dir(store.path("n".repeat(1000)))),
        libc::ENAMETOOLONG
    );
    store.remount();
    assert_eq!(names(store.root()), [longest]);
}

#[test]
fn a_symlink_target_has_at_most_4095_bytes() {
    let store = MountedStore::new();
    let longest = "t".repeat(4095);
    symlink(&longest, store.path("l")).unwrap();
    assert_eq!(
        fs::read_link(store.path("l")).unwrap().to_str(),
        Some(longest.as_str())
    );
    assert_eq!(
        errno(symlink("t".repeat(4096), store.path("m"))),
        libc::ENAMETOOLONG
    );
    assert_eq!(fs::symlink_metadata(store.path("l")).unwrap().len(), 4095);
}

#[test]
fn names_are_bytes_and_need_not_be_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let store = MountedStore::new();
    let name = OsStr::from_bytes(b"\xff\x01 \\\"'\n\xc3");
    fs::write(store.path(name), b"x").unwrap();
    let listed = fs::read_dir(store.root())
        .unwrap()
        .any(|e| e.unwrap().file_name() == name);
    assert!(listed);
}

#[test]
fn a_rename_replaces_a_file_and_an_empty_directory_only() {
    let store = MountedStore::new();
    fs::write(store.path("a"), b"a").unwrap();
    fs::write(store.path("b"), b"b").unwrap();
    fs::rename(store.path("a"), store.path("b")).unwrap();
    assert_eq!(fs::read(store.path("b")).unwrap(), b"a");
    fs::create_dir_all(store.path("full/x")).unwrap();
    fs::create_dir(store.path("dir")).unwrap();
    fs::create_dir(store.path("empty")).unwrap();
    assert_eq!(
        errno(fs::rename(store.path("dir"), store.path("full"))),
        libc::ENOTEMPTY
    );
    assert_eq!(
        errno(fs::rename(store.path("dir"), store.path("b"))),
        libc::ENOTDIR
    );
    assert_eq!(
        errno(fs::rename(store.path("b"), store.path("dir"))),
        libc::EISDIR
    );
    assert_eq!(
        errno(fs::rename(store.path("full"), store.path("full/x/y"))),
        libc::EINVAL
    );
    fs::rename(store.path("full"), store.path("empty")).unwrap();
    assert_eq!(names(store.root()), ["b", "dir", "empty"]);
    assert_eq!(names(store.path("empty")), ["x"]);
}

#[test]
fn rename_flags_refuse_to_replace_and_exchange() {
    let store = MountedStore::new();
    fs::write(store.path("a"), b"a").unwrap();
    fs::create_dir(store.path("d")).unwrap();
    fs::write(store.path("d/in"), b"in").unwrap();
    let rename = |from: &str, to: &str, flags| {
        renameat2(
            AT_FDCWD,
            &store.path(from),
            AT_FDCWD,
            &store.path(to),
            flags,
        )
    };
    assert_eq!(
        rename("a", "d", RenameFlags::RENAME_NOREPLACE),
        Err(Errno::EEXIST)
    );
    rename("a", "d", RenameFlags::RENAME_EXCHANGE).unwrap();
    assert_eq!(fs::read(store.path("d")).unwrap(), b"a");
    assert_eq!(fs::read(store.path("a/in")).unwrap(), b"in");
    assert_eq!(
        rename("a", "none", RenameFlags::RENAME_EXCHANGE),
        Err(Errno::ENOENT)
    );
    assert_eq!(
        rename("d", "w", RenameFlags::RENAME_WHITEOUT),
        Err(Errno::EINVAL)
    );
    rename("a", "free", RenameFlags::RENAME_NOREPLACE).unwrap();
    assert_eq!(names(store.root()), ["d", "free"]);
}

#[test]
fn an_absent_name_appears_when_it_is_made() {
    let store = MountedStore::new();
    for _ in 0..3 {
        assert_eq!(errno(fs::metadata(store.path("a"))), libc::ENOENT);
    }
    fs::write(store.path("b"), b"x").unwrap();
    fs::hard_link(store.path("b"), store.path("a")).unwrap();
    assert_eq!(fs::read(store.path("a")).unwrap(), b"x");
    fs::remove_file(store.path("a")).unwrap();
    assert_eq!(errno(fs::metadata(store.path("a"))), libc::ENOENT);
    assert_eq!(errno(fs::remove_dir(store.path("b"))), libc::ENOTDIR);
}

#[test]
fn a_file_handle_stays_valid_across_a_remount_and_ends_with_the_file() {
    use crate::sys::{handle_of, open_handle};
    let mut store = MountedStore::new();
    fs::create_dir_all(store.path("d/e")).unwrap();
    fs::write(store.path("d/e/a"), b"bytes").unwrap();
    let mut file = handle_of(&store.path("d/e/a")).unwrap();
    let mut dir = handle_of(&store.path("d/e")).unwrap();
    store.remount();
    let root = fs::File::open(store.root()).unwrap();
    let opened = open_handle(&root, &mut file).unwrap();
    assert_eq!(std::io::read_to_string(opened).unwrap(), "bytes");
    assert!(
        open_handle(&root, &mut dir)
            .unwrap()
            .metadata()
            .unwrap()
            .is_dir()
    );
    fs::remove_file(store.path("d/e/a")).unwrap();
    assert_eq!(errno(open_handle(&root, &mut file)), libc::ESTALE);
}
