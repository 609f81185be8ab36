//! Attributes and flags: what a change of one does to the others.

use mmhfs::base::FileOff;
use mmhfs::engine::{SetAttr, SetTime, WriteHow};

use super::world::{World, caller};

/// What chattr(1) calls `i` and `a` (linux/fs.h).
const IMMUTABLE: u32 = 0x10;
const APPEND: u32 = 0x20;

/// Bug: chown and chgrp took the set-group-ID bit from directories, where it says whose group new files get.
#[test]
fn a_new_owner_takes_the_set_id_bits_from_files_and_not_from_directories() {
    let world = World::new();
    world.mkdir("d").unwrap();
    world.put("f", b"x");
    for path in ["d", "f"] {
        let mode = SetAttr {
            mode: Some(0o6775),
            ..SetAttr::default()
        };
        world.set(path, &mode).unwrap();
        let owner = SetAttr {
            gid: Some(7),
            kill_suid: true,
            ..SetAttr::default()
        };
        world.set(path, &owner).unwrap();
    }
    assert_eq!(world.stat("d").unwrap().mode, 0o6775);
    assert_eq!(world.stat("f").unwrap().mode, 0o775);
}

#[test]
fn an_append_only_file_is_not_written_over() {
    let world = World::new();
    world.put("f", b"0123456789");
    let ino = world.ino("f").unwrap();
    world.engine().set_flags(&caller(), ino, APPEND).unwrap();
    let write = |off, how| {
        let how: WriteHow = how;
        world.with_file("f", |handle| {
            let off = FileOff::from_raw(off);
            world.engine().write(&caller(), handle, off, b"ab", how)
        })
    };
    write(3, WriteHow::default()).unwrap_err();
    assert_eq!(world.read("f").unwrap(), b"0123456789");
}

/// Bug: what was written before the flag was set came from the page cache, its times after it, and fsync failed.
#[test]
fn the_times_of_what_was_written_before_reach_an_immutable_file() {
    let world = World::new();
    world.put("f", b"x");
    let ino = world.ino("f").unwrap();
    world.engine().set_flags(&caller(), ino, IMMUTABLE).unwrap();
    let stat = world.stat("f").unwrap();
    let times = SetAttr {
        mtime: Some(SetTime::At(stat.ctime)),
        ctime: Some(stat.ctime),
        ..SetAttr::default()
    };
    world.set("f", &times).unwrap();
    let mode = SetAttr {
        mode: Some(0o600),
        ..times
    };
    world.set("f", &mode).unwrap_err();
}
