//! Folding: what many small synced writes have left becomes whole chunks, and nobody sees it happen.

use mmhfs::base::FileOff;
use mmhfs::engine::{Allocate, Seek};

use super::world::{Dice, World};

/// A file of 1 MiB, and 60 pages of it overwritten one by one, each with a sync.
fn fragmented(world: &World) -> Vec<u8> {
    let mut dice = Dice(5);
    let mut bytes = dice.bytes(1 << 20);
    world.put("f", &bytes);
    world.engine().sync().unwrap();
    for _ in 0..60 {
        let at = usize::try_from(dice.below(255)).unwrap() * 4096 + 17;
        let page = dice.bytes(4096);
        bytes[at..at + 4096].copy_from_slice(&page);
        world.write_at("f", at as u64, &page).unwrap();
        world.engine().sync().unwrap();
    }
    bytes
}

fn extents(world: &World) -> u64 {
    let ino = world.ino("f").unwrap();
    world.engine().file_facts(ino).unwrap().extents
}

/// The first pass lets the young regions grow old, the second one folds them.
fn fold(world: &World) -> usize {
    assert_eq!(world.engine().fold(100).unwrap(), 0);
    let folded = world.engine().fold(100).unwrap();
    world.engine().sync().unwrap();
    folded
}

#[test]
fn small_synced_overwrites_become_whole_chunks_and_nothing_else_changes() {
    let mut world = World::new();
    let bytes = fragmented(&world);
    let (before, scattered) = (world.stat("f").unwrap(), extents(&world));
    assert!(scattered > 60, "{scattered}");
    let seed = world.snapshot("scattered").seed;
    assert_eq!(fold(&world), 1);
    let gathered = extents(&world);
    assert!(gathered < 40, "{gathered} extents, {scattered} before");
    assert_eq!(world.read("f").unwrap(), bytes);
    assert_eq!(world.stat("f").unwrap(), before);
    assert_eq!(world.snapshot("gathered").seed, seed);
    world.assert_sound();
    world.reopen_without_index();
    assert_eq!(world.read("f").unwrap(), bytes);
}

#[test]
fn holes_stay_holes_when_their_neighbours_are_folded() {
    let world = World::new();
    let mut bytes = fragmented(&world);
    let hole = 300_000..500_000;
    let (off, len) = (FileOff::from_raw(300_000), 200_000);
    world
        .with_file("f", |handle| {
            let engine = world.engine();
            engine.fallocate(handle, off, len, Allocate::Punch)
        })
        .unwrap();
    world.engine().sync().unwrap();
    bytes[hole].fill(0);
    assert_eq!(fold(&world), 1);
    assert_eq!(world.read("f").unwrap(), bytes);
    let first_hole = world.with_file("f", |handle| {
        let start = FileOff::from_raw(0);
        world.engine().lseek(handle, start, Seek::Hole)
    });
    assert_eq!(first_hole.unwrap(), off);
}

#[test]
fn a_region_that_is_still_being_written_is_left_alone() {
    let world = World::new();
    fragmented(&world);
    assert_eq!(world.engine().fold(100).unwrap(), 0);
    // Written again before its pass: young again, and then with bytes that are not committed.
    world.write_at("f", 100, b"once more").unwrap();
    world.engine().sync().unwrap();
    assert_eq!(world.engine().fold(100).unwrap(), 0);
    world.write_at("f", 100, b"and again").unwrap();
    assert_eq!(world.engine().fold(100).unwrap(), 0);
}

/// Bug: what a commit that was under way had just made a hole was read as zeros and put back as data.
#[test]
fn a_file_with_anything_uncommitted_is_not_folded_but_later() {
    let world = World::new();
    let mut bytes = fragmented(&world);
    assert_eq!(world.engine().fold(100).unwrap(), 0);
    // Far from the region that is at rest.
    world.write_at("f", 5 << 20, b"beyond").unwrap();
    assert_eq!(world.engine().fold(100).unwrap(), 0);
    world.engine().sync().unwrap();
    assert!(extents(&world) > 60);
    assert_eq!(world.engine().fold(100).unwrap(), 1);
    bytes.resize(5 << 20, 0);
    bytes.extend_from_slice(b"beyond");
    assert_eq!(world.read("f").unwrap(), bytes);
}
