//! Damage heals: reads, opening, cleaning beside groups of parity (I3, I8).

use std::path::{Path, PathBuf};

use mmhfs::base::{Error, FileOff};
use mmhfs::engine::{CleanOptions, CleanReport, ProtectReport};

use super::model::{assert_same, seen};
use super::world::{Dice, World};

pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    Dice(seed).bytes(len)
}

pub(crate) fn protect(world: &World) -> ProtectReport {
    world.engine().protect().unwrap()
}

pub(crate) fn clean(world: &World) -> CleanReport {
    let options = CleanOptions {
        unused_percent: 0,
        ..CleanOptions::default()
    };
    world.engine().clean(&options, &|_, _| {}).unwrap()
}

pub(crate) fn parity_files(world: &World) -> Vec<PathBuf> {
    let Ok(list) = std::fs::read_dir(world.store().join("parity")) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = list.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "log")
}

pub(crate) fn data_packs(world: &World) -> Vec<PathBuf> {
    let packs = world.packs().into_iter();
    packs.filter(|path| !is_log(path)).collect()
}

/// Ruins sectors of a file.
pub(crate) fn ruin(path: &Path, at: usize, len: usize) {
    let mut whole = std::fs::read(path).unwrap();
    for byte in &mut whole[at..at + len] {
        *byte ^= 0x5a;
    }
    std::fs::write(path, whole).unwrap();
}

/// A closed store with one file of a DATA pack, everything protected.
pub(crate) fn protected(len: usize) -> (World, Vec<u8>) {
    let mut world = World::new();
    let data = bytes(1, len);
    world.put("f", &data);
    world.snapshot("one");
    world.reopen();
    protect(&world);
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.packs_bare, stats.pending), (0, 0), "{stats:?}");
    world.close();
    (world, data)
}

/// Seventeen packs or more of about one length: a group, and some that are alone.
pub(crate) fn grouped() -> World {
    let mut world = World::new();
    for n in 0..18 {
        world.put(&format!("f{n}"), &bytes(100 + n, 3_700_000));
        world.engine().sync().unwrap();
    }
    world.snapshot("one");
    world.reopen();
    let report = protect(&world);
    assert_eq!(report.groups, 1, "{report:?}");
    world
}

#[test]
fn i3_a_read_of_a_ruined_sector_returns_the_right_bytes_and_the_disk_is_mended() {
    let (mut world, data) = protected(3_000_000);
    let pack = data_packs(&world)[0].clone();
    let whole = std::fs::read(&pack).unwrap();
    ruin(&pack, 1_000_000, 4096);
    world.open_again();
    assert_eq!(world.read("f").unwrap(), data);
    let stats = world.engine().parity_stats().unwrap();
    assert!(
        stats.reads_healed > 0 && stats.damaged_frames > 0,
        "{stats:?}"
    );
    assert_ne!(std::fs::read(&pack).unwrap(), whole);
    assert_eq!(protect(&world).repaired, 1);
    assert_eq!(std::fs::read(&pack).unwrap(), whole);
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.damaged_frames, stats.packs_repaired), (0, 1));
    assert_eq!(stats.pending, 0, "{stats:?}");
    assert!(world.store().join("quarantine").exists());
    world.assert_sound();
    world.reopen();
    assert_eq!(world.read("f").unwrap(), data);
    world.assert_verifies("one");
}

#[test]
fn i3_a_read_only_store_heals_in_memory_and_changes_nothing() {
    let (mut world, data) = protected(3_000_000);
    let pack = data_packs(&world)[0].clone();
    ruin(&pack, 1_000_000, 4096);
    let ruined = std::fs::read(&pack).unwrap();
    world.open_read_only().unwrap();
    assert_eq!(world.read("f").unwrap(), data);
    let refused = world.engine().protect();
    assert!(matches!(refused, Err(Error::ReadOnly(_))), "{refused:?}");
    world.close();
    assert_eq!(std::fs::read(&pack).unwrap(), ruined);
    assert!(!world.store().join("quarantine").exists());
}

#[test]
fn i3_damage_beyond_parity_is_an_error_that_names_the_place() {
    let (mut world, _) = protected(3_000_000);
    let pack = data_packs(&world)[0].clone();
    ruin(&pack, 100_000, 2_500_000);
    world.open_again();
    match world.read("f") {
        Err(Error::Corrupt { site, .. }) => {
            let name = format!("{:016x}.dat", site.pack.raw());
            assert!(pack.ends_with(name) && site.off.raw() >= 4096, "{site}");
        }
        other => panic!("{:?}", other.map(|b| b.len())),
    }
    let stats = world.engine().parity_stats().unwrap();
    assert!(stats.lost_frames > 0, "{stats:?}");
    let ruined = std::fs::read(&pack).unwrap();
    assert_eq!(protect(&world).repaired, 0);
    assert_eq!(std::fs::read(&pack).unwrap(), ruined);
    assert!(world.read("f").is_err());
    // It is not tried again and again.
    assert_eq!(world.engine().parity_stats().unwrap().pending, 0);
}

#[test]
fn i3_a_lost_pack_of_a_full_group_comes_back() {
    let mut world = grouped();
    let want = seen(&world, world.engine().root());
    world.close();
    for (n, pack) in data_packs(&world).into_iter().enumerate().step_by(5) {
        let whole = std::fs::read(&pack).unwrap();
        std::fs::remove_file(&pack).unwrap();
        if n == 0 {
            world.open_read_only().unwrap();
            assert_same(&seen(&world, world.engine().root()), &want);
            world.close();
            assert!(!pack.exists());
        }
        world.open_for_writing().unwrap();
        assert_eq!(std::fs::read(&pack).unwrap(), whole);
        assert_same(&seen(&world, world.engine().root()), &want);
        world.close();
    }
    world.open_again();
    world.assert_sound();
    world.assert_verifies("one");
}

#[test]
fn a_pack_that_is_lost_while_the_store_is_open_comes_back() {
    let world = grouped();
    let pack = data_packs(&world)[3].clone();
    let whole = std::fs::read(&pack).unwrap();
    std::fs::remove_file(&pack).unwrap();
    for n in 0..18 {
        assert_eq!(
            world.read(&format!("f{n}")).unwrap(),
            bytes(100 + n, 3_700_000)
        );
    }
    protect(&world);
    // A file that is open can be read although its name is gone: nobody has noticed.
    if pack.exists() {
        assert_eq!(std::fs::read(&pack).unwrap(), whole);
    }
}

#[test]
fn parity_files_that_are_gone_or_unreadable_are_made_anew() {
    let (mut world, data) = protected(3_000_000);
    let files = parity_files(&world);
    std::fs::remove_file(&files[0]).unwrap();
    std::fs::write(&files[1], b"rubbish").unwrap();
    world.open_again();
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.unreadable, stats.packs_bare), (1, 2), "{stats:?}");
    assert_eq!(protect(&world).covered, 2);
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.unreadable, stats.packs_bare), (1, 0), "{stats:?}");
    // What cannot be read stays for somebody to look at.
    assert_eq!(std::fs::read(&files[1]).unwrap(), b"rubbish");
    world.close();
    ruin(&data_packs(&world)[0], 500_000, 4096);
    world.open_again();
    assert_eq!(world.read("f").unwrap(), data);
}

#[test]
fn i2_a_damaged_pack_without_parity_gets_none_and_keeps_no_other_from_it() {
    // After a crash no footer vouches for it.
    for crashed in [false, true] {
        let mut world = World::new();
        world.put("f", &bytes(1, 6_000_000));
        if crashed {
            world.engine().sync().unwrap();
            world.crash(true, b"");
        } else {
            world.reopen();
        }
        world.close();
        let packs = data_packs(&world);
        assert!(packs.len() > 1);
        ruin(packs.last().unwrap(), 200_000, 1);
        world.open_again();
        let report = protect(&world);
        assert_eq!(report.refused.len(), 1, "{report:?}");
        assert!(report.covered > 0);
        let stats = world.engine().parity_stats().unwrap();
        assert_eq!((stats.packs_bare, stats.packs_refused), (1, 1), "{stats:?}");
        // It is said once.
        assert_eq!(protect(&world), ProtectReport::default());
    }
}

#[test]
fn a_damaged_log_pack_is_mended_when_the_store_is_opened() {
    for (what, with_index) in [(0, false), (1, false), (2, false), (2, true), (3, true)] {
        let mut world = World::new();
        world.put("a", b"first");
        world.reopen();
        world.put("b", b"second");
        world.reopen();
        protect(&world);
        let want = seen(&world, world.engine().root());
        world.close();
        let logs: Vec<PathBuf> = world.packs().into_iter().filter(|p| is_log(p)).collect();
        let last = logs.last().unwrap();
        let hit = if what == 0 { &logs[0] } else { last };
        let whole = std::fs::read(hit).unwrap();
        match what {
            0 => ruin(hit, 4096 + 64, 32),
            1 => std::fs::remove_file(hit).unwrap(),
            // As it was before the last commit, or a part of its footer: what a crash could have left.
            2 => std::fs::write(hit, &whole[..4096]).unwrap(),
            _ => std::fs::write(hit, &whole[..whole.len() - 16]).unwrap(),
        }
        if !with_index {
            std::fs::remove_dir_all(world.store().join("index")).unwrap();
        }
        match world.open_read_only() {
            Err(Error::Repairable { source, store }) => {
                assert!(source.is_damage() && store == world.store(), "{source}");
            }
            other => panic!("{what}: {other:?}"),
        }
        world.open_for_writing().unwrap();
        assert_same(&seen(&world, world.engine().root()), &want);
        world.assert_sound();
        assert_eq!(std::fs::read(hit).unwrap(), whole, "{what}");
        world.close();
    }
}

#[test]
fn an_older_pack_in_the_place_of_a_newer_one_and_swapped_blocks_are_mended() {
    let (mut world, data) = protected(3_000_000);
    let pack = data_packs(&world)[0].clone();
    let whole = std::fs::read(&pack).unwrap();
    let mut swapped = whole.clone();
    let (one, other) = swapped.split_at_mut(1_000_000);
    one[400_000..404_096].swap_with_slice(&mut other[400_000..404_096]);
    for damaged in [&whole[..whole.len() - 100_000], &swapped] {
        std::fs::write(&pack, damaged).unwrap();
        world.open_for_writing().unwrap();
        assert_eq!(world.read("f").unwrap(), data);
        protect(&world);
        world.close();
        assert_eq!(std::fs::read(&pack).unwrap(), whole);
    }
}

#[test]
fn copies_of_the_superblock_that_rot_are_written_anew() {
    let (mut world, _) = protected(100_000);
    let copy = |n: u32| world.store().join(format!("super.{n}"));
    let (first, second, third) = (copy(0), copy(1), copy(2));
    let good = std::fs::read(&third).unwrap();
    ruin(&first, 100, 8);
    std::fs::remove_file(&second).unwrap();
    world.open_read_only().unwrap();
    world.close();
    assert!(!second.exists());
    world.open_for_writing().unwrap();
    for copy in [&first, &second] {
        assert_eq!(std::fs::read(copy).unwrap(), good);
    }
    world.assert_sound();
}

#[test]
fn i8_cleaning_covers_what_is_left_of_a_group_before_its_packs_go() {
    let mut world = grouped();
    world.engine().delete_snapshot("one").unwrap();
    for n in 0..5 {
        world.unlink(&format!("f{n}")).unwrap();
    }
    let report = clean(&world);
    assert!(
        report.kept.is_empty() && report.packs_removed >= 5,
        "{report:?}"
    );
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!(
        (stats.packs_weakened, stats.packs_in_groups),
        (0, 0),
        "{stats:?}"
    );
    // What is left is too few for a group, and nothing is without parity but what the cleaning has written.
    protect(&world);
    let want = seen(&world, world.engine().root());
    world.reopen();
    protect(&world);
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.packs_bare, stats.pending), (0, 0), "{stats:?}");
    world.close();
    for pack in data_packs(&world) {
        ruin(&pack, 300_000, 4096);
    }
    world.open_again();
    assert_same(&seen(&world, world.engine().root()), &want);
    protect(&world);
    world.assert_sound();
}

#[test]
fn i8_a_pack_that_was_removed_stays_removed() {
    let mut world = grouped();
    world.engine().delete_snapshot("one").unwrap();
    let before = data_packs(&world);
    world.put("again", b"so that something is damaged later");
    for n in 0..3 {
        world.unlink(&format!("f{n}")).unwrap();
    }
    // The group's file, as a crash after the packs are removed leaves it.
    let group = parity_files(&world);
    let group: Vec<_> = group
        .iter()
        .map(|p| (p.clone(), std::fs::read(p).unwrap()))
        .collect();
    clean(&world);
    let after = data_packs(&world);
    let gone: Vec<&PathBuf> = before.iter().filter(|pack| !after.contains(pack)).collect();
    assert!(gone.len() >= 3, "{gone:?}");
    protect(&world);
    world.close();
    for (path, bytes) in &group {
        if !path.exists() {
            std::fs::write(path, bytes).unwrap();
        }
    }
    let hit = before.iter().find(|pack| after.contains(pack)).unwrap();
    ruin(hit, 300_000, 4096);
    world.open_again();
    let want: Vec<Vec<u8>> = (3..18).map(|n| bytes(100 + n, 3_700_000)).collect();
    for (n, want) in (3..18).zip(&want) {
        assert_eq!(&world.read(&format!("f{n}")).unwrap(), want);
    }
    let report = protect(&world);
    assert!(report.repaired >= 1, "{report:?}");
    assert!(
        gone.iter().all(|pack| !pack.exists()),
        "a removed pack is back"
    );
    // And the files that cover packs which are gone have gone.
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.packs_weakened, stats.pending), (0, 0), "{stats:?}");
    world.reopen();
    assert!(gone.iter().all(|pack| !pack.exists()));
    world.assert_sound();
}

#[test]
fn dedup_does_not_trust_a_damaged_chunk_until_it_is_mended() {
    let (mut world, data) = protected(3_000_000);
    let pack = data_packs(&world)[0].clone();
    ruin(&pack, 1_000_000, 4096);
    world.open_again();
    assert_eq!(world.read("f").unwrap(), data);
    let before = world.stored_len();
    world.put("again", &data);
    world.engine().sync().unwrap();
    let more = world.stored_len() - before;
    assert!(
        (100_000..1_000_000).contains(&more),
        "{more} bytes were written"
    );
    protect(&world);
    // What was stored again is where it is read from now; the mended frame is as good.
    let before = world.stored_len();
    world.put("third", &data);
    world.engine().sync().unwrap();
    assert!(world.stored_len() - before < 20_000);
    assert_eq!(world.read("third").unwrap(), data);
    world.assert_sound();
}

#[test]
fn writing_the_same_content_again_heals_what_parity_cannot() {
    let (mut world, data) = protected(3_000_000);
    let pack = data_packs(&world)[0].clone();
    ruin(&pack, 100_000, 2_500_000);
    world.open_again();
    assert!(world.read("f").is_err_and(|error| error.is_damage()));
    // A frame is known to be damaged once somebody has read it.
    for off in (0..data.len() as u64).step_by(16 << 10) {
        let off = FileOff::from_raw(off);
        let mut out = Vec::new();
        let _ = world.with_file("f", |handle| world.engine().read(handle, off, 1, &mut out));
    }
    assert!(!world.verify("one").problems.is_empty());
    world.put("again", &data);
    world.engine().sync().unwrap();
    assert_eq!(world.read("f").unwrap(), data);
    world.assert_verifies("one");
}

#[test]
fn idle_packs_are_sealed_so_that_they_get_parity() {
    let world = World::new();
    world.put("f", &bytes(1, 2_000_000));
    world.engine().sync().unwrap();
    assert!(!world.engine().seal_idle().unwrap());
    assert_eq!(protect(&world).covered, 0);
    // The clock of the tests goes on by a millisecond each time it is asked.
    for _ in 0..60_000 {
        let _ = world.env.now();
    }
    assert!(world.engine().seal_idle().unwrap());
    assert!(!world.engine().seal_idle().unwrap());
    assert_eq!(protect(&world).covered, 2);
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.packs_bare, stats.packs_alone), (0, 2), "{stats:?}");
}
