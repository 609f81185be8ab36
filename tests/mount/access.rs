//! Permissions: modes, ACLs, set-id and sticky bits, as seen by another user.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, chown};

use crate::store::{MountedStore, STRANGER, chmod, mode, out, sh_as_stranger};
use crate::sys::{get_xattr, list_xattr, remove_xattr, set_xattr};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// The kernel's form of an ACL: version 2, then (tag, permissions, id) of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

const OWNER: u16 = 1;
const USER: u16 = 2;
const GROUP: u16 = 4;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NO_ID: u32 = u32::MAX;

/// The owner everything, the stranger `permissions`, nobody else anything.
fn stranger_acl(permissions: u16) -> Vec<u8> {
    acl(&[
        (OWNER, 7, NO_ID),
        (USER, permissions, STRANGER),
        (GROUP, 0, NO_ID),
        (MASK, 7, NO_ID),
        (OTHER, 0, NO_ID),
    ])
}

fn stranger_can(store: &MountedStore, script: &str) -> bool {
    sh_as_stranger(store.root(), script).status.success()
}

#[test]
fn modes_are_enforced_for_other_users() {
    let store = MountedStore::new();
    fs::write(store.path("a"), b"secret").unwrap();
    chmod(store.path("a"), 0o600);
    assert!(!stranger_can(&store, "cat a"));
    chmod(store.path("a"), 0o644);
    assert!(stranger_can(&store, "cat a"));
    assert!(!stranger_can(&store, "echo x >> a"));
    assert!(!stranger_can(&store, "touch new"));
    chmod(store.root(), 0o777);
    assert!(stranger_can(&store, "touch new && rm new"));
    assert!(!stranger_can(&store, "chmod 777 a"));
    assert!(!stranger_can(&store, "chown $(id -u) a"));
}

#[test]
fn the_umask_applies_and_a_default_acl_replaces_it() {
    let store = MountedStore::new();
    chmod(store.root(), 0o777);
    out(sh_as_stranger(store.root(), "umask 027; mkdir d; touch f"));
    assert_eq!(
        (mode(store.path("d")), mode(store.path("f"))),
        (0o750, 0o640)
    );
    assert_eq!(fs::metadata(store.path("f")).unwrap().uid(), STRANGER);
    set_xattr(&store.path("d"), DEFAULT, &stranger_acl(6), 0).unwrap();
    out(sh_as_stranger(
        store.root(),
        "umask 077; mkdir d/sub; touch d/f",
    ));
    // Mode 0666 cut down by the ACL and not by the umask: its mask takes the place of the group.
    assert_eq!(mode(store.path("d/f")), 0o660);
    assert_eq!(
        get_xattr(&store.path("d/sub"), DEFAULT, 1000).unwrap(),
        stranger_acl(6)
    );
    assert!(
        list_xattr(&store.path("d/f"))
            .unwrap()
            .iter()
            .any(|n| n == ACCESS)
    );
}

#[test]
fn an_acl_grants_and_denies() {
    let mut store = MountedStore::new();
    fs::write(store.path("a"), b"x").unwrap();
    chmod(store.path("a"), 0o600);
    set_xattr(&store.path("a"), ACCESS, &stranger_acl(4), 0).unwrap();
    assert!(stranger_can(&store, "cat a"));
    assert!(!stranger_can(&store, "echo x >> a"));
    assert_eq!(mode(store.path("a")), 0o770);
    // chmod of the group bits is chmod of the ACL's mask.
    chmod(store.path("a"), 0o700);
    assert!(!stranger_can(&store, "cat a"));
    chmod(store.path("a"), 0o770);
    store.remount();
    assert!(stranger_can(&store, "cat a"));
    remove_xattr(&store.path("a"), ACCESS).unwrap();
    assert!(!stranger_can(&store, "cat a"));
}

#[test]
fn a_setgid_directory_hands_its_group_down() {
    let store = MountedStore::new();
    fs::create_dir(store.path("d")).unwrap();
    chown(store.path("d"), None, Some(77)).unwrap();
    chmod(store.path("d"), 0o2777);
    out(sh_as_stranger(store.root(), "mkdir d/sub; touch d/f"));
    assert_eq!(fs::metadata(store.path("d/f")).unwrap().gid(), 77);
    let sub = fs::metadata(store.path("d/sub")).unwrap();
    assert_eq!((sub.gid(), sub.mode() & 0o2000), (77, 0o2000));
}

#[test]
fn in_a_sticky_directory_only_owners_remove() {
    let store = MountedStore::new();
    fs::create_dir(store.path("tmp")).unwrap();
    chmod(store.path("tmp"), 0o1777);
    fs::write(store.path("tmp/mine"), b"").unwrap();
    assert!(!stranger_can(&store, "rm -f tmp/mine"));
    assert!(!stranger_can(&store, "mv tmp/mine tmp/yours"));
    assert!(stranger_can(
        &store,
        "touch tmp/theirs && mv tmp/theirs tmp/t && rm tmp/t"
    ));
}

#[test]
fn set_id_bits_go_when_somebody_else_writes() {
    let store = MountedStore::new();
    let path = store.path("a");
    for script in [
        "echo x >> a",
        ": > a",
        "truncate -s 1 a",
        "dd if=/dev/zero of=a conv=notrunc status=none count=1",
        "fallocate -l 100 a",
        "fallocate -z -o 2 -l 3 a",
    ] {
        fs::write(&path, b"0123456789").unwrap();
        chmod(&path, 0o6777);
        assert_eq!(mode(&path), 0o6777);
        out(sh_as_stranger(store.root(), script));
        assert_eq!(mode(&path), 0o777, "{script}");
    }
}

#[test]
fn root_may_write_without_losing_set_id_bits_and_chown_takes_them() {
    let store = MountedStore::new();
    let path = store.path("a");
    fs::write(&path, b"x").unwrap();
    chmod(&path, 0o6755);
    std::io::Write::write_all(&mut File::options().append(true).open(&path).unwrap(), b"y")
        .unwrap();
    assert_eq!(mode(&path), 0o6755);
    chown(&path, Some(1), Some(1)).unwrap();
    assert_eq!(mode(&path), 0o755);
}

/// The kernel does not ask for the mode again after such a write, and executes by the mode it knows.
#[test]
fn a_set_id_program_that_somebody_else_wrote_to_runs_without_its_owners_rights() {
    let store = MountedStore::new();
    fs::copy("/usr/bin/id", store.path("id")).unwrap();
    chmod(store.path("id"), 0o6777);
    assert_eq!(out(sh_as_stranger(store.root(), "./id -u")), "0");
    let script =
        "dd if=/dev/zero of=id bs=1 seek=1000000 count=1 conv=notrunc status=none; ./id -u";
    assert_eq!(
        out(sh_as_stranger(store.root(), script)),
        STRANGER.to_string()
    );
}
