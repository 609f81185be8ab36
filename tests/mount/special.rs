//! What is not a file or directory, statfs, inode flags, and the mount itself.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::statvfs::statvfs;

use crate::store::{MountedStore, errno, out, sh};
use crate::sys::{FS_APPEND_FL, FS_IMMUTABLE_FL, get_flags, set_flags};

#[test]
fn fifos_sockets_and_devices_can_be_made() {
    let mut store = MountedStore::new();
    let mode = Mode::from_bits_truncate(0o640);
    mknod(&store.path("fifo"), SFlag::S_IFIFO, mode, 0).unwrap();
    mknod(&store.path("sock"), SFlag::S_IFSOCK, mode, 0).unwrap();
    mknod(&store.path("null"), SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
    mknod(
        &store.path("disk"),
        SFlag::S_IFBLK,
        mode,
        makedev(259, 70_000),
    )
    .unwrap();
    mknod(&store.path("file"), SFlag::S_IFREG, mode, 0).unwrap();
    store.remount();
    let stat = |name: &str| fs::symlink_metadata(store.path(name)).unwrap();
    assert!(stat("fifo").file_type().is_fifo());
    assert!(stat("sock").file_type().is_socket());
    assert!(stat("null").file_type().is_char_device());
    assert_eq!(stat("null").rdev(), makedev(1, 3));
    assert_eq!(stat("disk").rdev(), makedev(259, 70_000));
    assert!(stat("file").is_file());
    // The device is the real one.
    OpenOptions::new()
        .write(true)
        .open(store.path("null"))
        .unwrap()
        .write_all(b"x")
        .unwrap();
    assert_eq!(stat("null").len(), 0);
}

#[test]
fn statfs_tells_of_the_backing_disk() {
    let store = MountedStore::new();
    let fs = statvfs(store.root()).unwrap();
    assert_eq!(fs.name_max(), 255);
    assert!(fs.blocks() > 0 && fs.blocks_free() <= fs.blocks());
    assert!(fs.blocks_available() <= fs.blocks_free());
}

#[test]
fn an_immutable_file_cannot_be_changed_by_root() {
    let store = MountedStore::new();
    fs::write(store.path("a"), b"x").unwrap();
    let file = File::open(store.path("a")).unwrap();
    set_flags(&file, FS_IMMUTABLE_FL).unwrap();
    assert_eq!(get_flags(&file).unwrap() & FS_IMMUTABLE_FL, FS_IMMUTABLE_FL);
    assert_eq!(
        errno(OpenOptions::new().write(true).open(store.path("a"))),
        libc::EPERM
    );
    assert_eq!(errno(fs::remove_file(store.path("a"))), libc::EPERM);
    assert_eq!(
        errno(fs::rename(store.path("a"), store.path("b"))),
        libc::EPERM
    );
    assert_eq!(
        errno(fs::hard_link(store.path("a"), store.path("b"))),
        libc::EPERM
    );
    set_flags(&file, 0).unwrap();
    fs::remove_file(store.path("a")).unwrap();
}

#[test]
fn an_append_only_file_grows_and_nothing_else() {
    let store = MountedStore::new();
    fs::write(store.path("a"), b"x").unwrap();
    let file = File::open(store.path("a")).unwrap();
    set_flags(&file, FS_APPEND_FL).unwrap();
    assert_eq!(
        errno(OpenOptions::new().write(true).open(store.path("a"))),
        libc::EPERM
    );
    assert_eq!(errno(fs::remove_file(store.path("a"))), libc::EPERM);
    let mut appending = OpenOptions::new()
        .append(true)
        .open(store.path("a"))
        .unwrap();
    appending.write_all(b"y").unwrap();
    drop(appending);
    assert_eq!(fs::read(store.path("a")).unwrap(), b"xy");
    set_flags(&file, 0).unwrap();
}

#[test]
fn chattr_and_lsattr_work() {
    let store = MountedStore::new();
    let script = "touch a; chattr +i a && lsattr a | cut -c5 && chattr -i a && rm a";
    assert_eq!(out(sh(store.root(), script)), "i");
}

#[test]
fn an_unknown_ioctl_is_answered_with_enotty() {
    let store = MountedStore::new();
    fs::write(store.path("a"), b"x").unwrap();
    let text = out(sh(
        store.root(),
        "python3 -c 'import fcntl\ntry: fcntl.ioctl(open(\"a\"),0x5401,b\"x\"*64)\nexcept OSError as e: print(e.errno)'",
    ));
    assert_eq!(text, libc::ENOTTY.to_string());
}

#[test]
fn the_mount_shows_its_type_and_source() {
    let store = MountedStore::new();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mine = mounts
        .lines()
        .find(|l| l.contains(store.root().to_str().unwrap()))
        .unwrap();
    assert!(
        mine.contains("/store ") && mine.contains(" fuse.mmhfs "),
        "{mine}"
    );
    let device = fs::metadata(store.root()).unwrap().dev();
    let (major, minor) = store.mounted().device();
    assert_eq!(device, makedev(major.into(), minor.into()));
}

#[test]
fn a_read_only_mount_refuses_changes_with_erofs() {
    let store = MountedStore::with(|options| options.read_only = true);
    assert_eq!(errno(fs::write(store.path("a"), b"x")), libc::EROFS);
}

#[test]
fn an_unmount_ends_the_wait_and_leaves_a_stranger_mounted_over_it_alone() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let store = MountedStore::new();
    mount(
        None::<&str>,
        store.root(),
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let refused = store.mounted().unmount(mmhfs::fuse::UnmountHow::Plain);
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let still = mounts
        .lines()
        .filter(|l| l.contains(store.root().to_str().unwrap()))
        .count();
    umount2(store.root(), MntFlags::empty()).unwrap();
    assert!(refused.is_err());
    assert_eq!(still, 2);
    store
        .mounted()
        .unmount(mmhfs::fuse::UnmountHow::Plain)
        .unwrap();
    store.mounted().wait().unwrap();
    assert!(store.mounted().ended());
}

#[test]
fn what_a_killed_daemon_left_behind_is_detached_before_mounting() {
    use std::os::fd::AsRawFd as _;
    let store = MountedStore::with(|options| {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .unwrap();
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let (at, flags) = (&options.mountpoint, nix::mount::MsFlags::empty());
        nix::mount::mount(
            Some("dead"),
            at,
            Some("fuse.mmhfs"),
            flags,
            Some(data.as_str()),
        )
        .unwrap();
        drop(device);
        assert_eq!(errno(fs::metadata(at)), libc::ENOTCONN);
    });
    fs::write(store.path("a"), b"x").unwrap();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let here = mounts
        .lines()
        .filter(|l| l.contains(store.root().to_str().unwrap()))
        .count();
    assert_eq!(here, 1);
}
