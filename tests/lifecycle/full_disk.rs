//! A backing disk that is really full.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::World;
use super::dice::noise;

const MIB: usize = 1 << 20;

/// A store on a small filesystem of its own, with other people's bytes on it.
struct SmallDisk {
    world: World,
    disk: PathBuf,
}

impl SmallDisk {
    /// `None` where it cannot be had.
    fn new(mib: usize) -> Option<Self> {
        let world = World::new()?;
        let disk = world.path("disk");
        fs::create_dir(&disk).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}M"), "tmpfs"])
            .arg(&disk)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("a tmpfs cannot be mounted here: not tested");
            return None;
        }
        let this = Self { world, disk };
        this.world.ok(&["init", "--pack-size", "4M", &this.store()]);
        this.mount();
        Some(this)
    }

    fn store(&self) -> String {
        self.disk.join("store").to_str().unwrap().to_owned()
    }

    fn mount(&self) {
        self.world.ok(&["mount", &self.store(), &self.world.mnt()]);
    }

    fn file(&self, number: u64) -> PathBuf {
        self.world.point().join(number.to_string())
    }

    /// Writes and syncs a file of its own bytes.
    fn put(&self, number: u64) -> io::Result<()> {
        let mut file = File::create(self.file(number))?;
        file.write_all(&noise(number, MIB))?;
        file.sync_all()
    }

    /// Puts files until there is no room; gives the numbers of those that were synced.
    fn fill(&self, from: u64) -> Vec<u64> {
        let mut synced = Vec::new();
        for number in from.. {
            assert!(number < from + 1000, "the disk is never full");
            match self.put(number) {
                Ok(()) => synced.push(number),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                    break;
                }
            }
        }
        synced
    }

    fn expect(&self, numbers: &[u64]) {
        for number in numbers {
            let bytes = fs::read(self.file(*number)).unwrap();
            assert!(bytes == noise(*number, MIB), "file {number} has changed");
        }
    }

    /// Bytes of somebody else, as many as find room.
    fn ballast(&self, name: &str, mib: usize) -> PathBuf {
        let path = self.disk.join(name);
        let file = File::create(&path).unwrap();
        let block = vec![1; 64 << 10];
        for at in 0..mib * 16 {
            if file
                .write_all_at(&block, (at * block.len()) as u64)
                .is_err()
            {
                break;
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.world.run(&["umount", "--lazy", &self.world.mnt()]);
        let _ = Command::new("umount").arg("-l").arg(&self.disk).status();
    }
}

fn remove(paths: &[&Path]) {
    for path in paths {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_full_disk_refuses_what_is_new_and_keeps_what_was_synced() {
    let Some(small) = SmallDisk::new(96) else {
        return;
    };
    let world = &small.world;
    let ballast = small.ballast("ballast", 24);
    assert!(small.put(1).is_ok());
    world.ok(&["snapshot", &world.mnt(), "v1"]);
    let mut synced = small.fill(2);
    assert!(synced.len() > 5, "{synced:?}");
    synced.push(1);
    small.expect(&synced);
    // Deleting is the way out.
    let gone = synced.remove(0);
    remove(&[&small.file(gone)]);
    // The kernel tells once more, of the whole mount, that bytes found no room: those that fsync has told of.
    let told = world.run(&["sync", &world.mnt()]).status.code();
    assert!(matches!(told, Some(0 | 11)), "{told:?}");
    world.ok(&["sync", &world.mnt()]);
    world.ok(&["delete-snapshot", &small.store(), "v1"]);
    world.umount();
    small.mount();
    small.expect(&synced);
    assert!(!small.file(gone).exists());
    world.ok(&["check", &small.store()]);
    remove(&[&ballast]);
    let more = small.fill(2000);
    assert!(more.len() > 5, "{more:?}");
    small.expect(&synced);
    small.expect(&more);
    world.umount();
    world.ok(&["check", &small.store()]);
}

/// The reserve that the store leaves is taken by others: not even a commit of nothing finds room.
#[test]
fn a_disk_that_others_have_filled_to_the_last_byte_loses_nothing_that_was_synced() {
    let Some(small) = SmallDisk::new(80) else {
        return;
    };
    let world = &small.world;
    for number in 0..4 {
        small.put(number).unwrap();
    }
    let mut late = File::create(small.file(100)).unwrap();
    late.write_all(&noise(100, MIB)).unwrap();
    let ballast = small.ballast("ballast", 80);
    let refused = late.sync_all().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC), "{refused}");
    small.expect(&[0, 1, 2, 3, 100]);
    remove(&[&small.file(0)]);
    // Once there is room, the same bytes are made durable after all.
    remove(&[&ballast]);
    late.sync_all().unwrap();
    drop(late);
    small.put(101).unwrap();
    small.expect(&[1, 2, 3, 100, 101]);
    let ballast = small.ballast("ballast", 80);
    let _ = fs::write(small.file(200), noise(200, MIB));
    // What was not synced cannot be kept; that is told, and nothing else is lost.
    let told = world.run(&["umount", &world.mnt()]);
    assert_eq!(told.status.code(), Some(11), "{told:?}");
    remove(&[&ballast]);
    small.mount();
    small.expect(&[1, 2, 3, 100, 101]);
    assert!(!small.file(0).exists());
    world.ok(&["check", &small.store()]);
    small.put(201).unwrap();
    world.umount();
    world.ok(&["check", &small.store()]);
}

/// Cleaning makes commits, which need room: a file that only keeps room goes first.
#[test]
fn a_disk_that_others_have_filled_can_be_cleaned() {
    let Some(small) = SmallDisk::new(200) else {
        return;
    };
    let world = &small.world;
    for number in 0..70 {
        small.put(number).unwrap();
    }
    world.ok(&["clean", &world.mnt()]);
    for number in 0..60 {
        remove(&[&small.file(number)]);
    }
    world.ok(&["sync", &world.mnt()]);
    let ballast = small.ballast("ballast", 200);
    let shown = world.ok(&["--json", "clean", &world.mnt()]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let freed = shown["freed_bytes"].as_u64().unwrap();
    assert!(freed > 50 << 20, "{shown}");
    remove(&[&ballast]);
    small.expect(&(60..70).collect::<Vec<_>>());
    small.put(100).unwrap();
    world.umount();
    world.ok(&["check", &small.store()]);
}

/// Bug: opening a store commits what a crash or a last unlink has left, and failed on a full disk; so nothing could be
/// deleted or cleaned there either.
#[test]
fn a_store_on_a_full_disk_is_opened_and_cleaned() {
    let Some(small) = SmallDisk::new(200) else {
        return;
    };
    let world = &small.world;
    for number in 0..70 {
        small.put(number).unwrap();
    }
    world.ok(&["clean", &world.mnt()]);
    for number in 0..60 {
        remove(&[&small.file(number)]);
    }
    // A row of a hard link that is none any more: opening removes it.
    fs::hard_link(small.file(60), small.file(1000)).unwrap();
    remove(&[&small.file(1000)]);
    world.umount();
    let ballast = small.ballast("ballast", 200);
    let shown = world.ok(&["--json", "clean", &small.store()]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert!(shown["freed_bytes"].as_u64().unwrap() > 50 << 20, "{shown}");
    small.mount();
    small.expect(&(60..70).collect::<Vec<_>>());
    remove(&[&small.file(60), &ballast]);
    world.umount();
    world.ok(&["check", &small.store()]);
}
