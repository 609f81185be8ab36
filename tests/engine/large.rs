//! Snapshots of what is large in some way: nodes above 2 MiB, many changed directories, many orphans.

use mmhfs::engine::RestoreOptions;
use mmhfs::format::superblock::FEATURE_SPLIT_NODES;

use super::model::seen;
use super::world::{Dice, World, plain_seed};

/// The incompatible feature bits of the three copies of the superblock.
fn features(world: &World) -> Vec<u64> {
    let copy = |n| std::fs::read(world.store().join(format!("super.{n}"))).unwrap();
    let bits = |bytes: Vec<u8>| u64::from_le_bytes(bytes[56..64].try_into().unwrap());
    (0..3).map(|n| bits(copy(n))).collect()
}

/// Takes a snapshot whose nodes do not fit a chunk, and uses it in every way that there is.
fn check_snapshot_of_large_nodes(mut world: World, restores: bool) {
    assert_eq!(features(&world), [0; 3]);
    let want = seen(&world, world.engine().root());
    let taken = world.snapshot("large");
    assert_eq!(features(&world), [FEATURE_SPLIT_NODES; 3]);
    world.assert_verifies("large");
    world.assert_sound();

    world.reopen_without_index();
    world.assert_verifies("large");
    let root = world.engine().tree_open(Some("large")).unwrap();
    assert_eq!(seen(&world, root), want);

    if restores {
        let out = world.beside("out");
        let options = RestoreOptions::default();
        let report = world
            .engine()
            .restore("large", None, &out, &options, &|_| {});
        assert_eq!(report.unwrap().damaged, []);
        assert_eq!(plain_seed(&out), taken.seed);
    }

    world.put("d/0", b"changed");
    world.put("d/new", b"made");
    assert_eq!(world.diff("large", None), ["Changed d/0", "Added d/new"]);
    let after = world.snapshot("after");
    assert_ne!(after.seed, taken.seed);
    world.assert_verifies("after");
    assert_eq!(
        world.diff("large", Some("after")),
        ["Changed d/0", "Added d/new"]
    );
    world.engine().rollback("large").unwrap();
    world.assert_sound();
    assert_eq!(world.snapshot("again").seed, taken.seed);
}

/// A directory whose leaf has more than 2 MiB of attributes, and one of their values.
fn with_many_attributes() -> (World, Vec<u8>) {
    let world = World::new();
    let mut dice = Dice(5);
    let mut value = Vec::new();
    world.mkdir("d").unwrap();
    for n in 0..250 {
        let path = format!("d/{n}");
        world.put(&path, path.as_bytes());
        for k in 0..10 {
            value = dice.bytes(900);
            world
                .set_xattr(&path, &format!("user.a{k}"), &value)
                .unwrap();
        }
    }
    (world, value)
}

#[test]
fn attributes_that_make_a_directory_leaf_larger_than_a_node_are_snapshotted() {
    // Some plain filesystems have no more than 4 KiB of attributes for each file.
    check_snapshot_of_large_nodes(with_many_attributes().0, false);
}

#[test]
fn i3_damage_in_a_part_of_a_split_node_is_found_and_the_path_is_named() {
    let (mut world, value) = with_many_attributes();
    world.put("good", b"good");
    world.snapshot("large");
    world.close();
    let mut flipped = 0;
    for pack in world.packs() {
        let mut bytes = std::fs::read(&pack).unwrap();
        let at = bytes.windows(900).position(|window| window == value);
        // The log has the value as well, in a record.
        if let Some(at) = at
            && pack.extension().is_some_and(|e| e == "dat")
        {
            bytes[at] ^= 1;
            std::fs::write(&pack, bytes).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    world.open_again();
    for report in [world.check(), world.verify("large")] {
        let mut paths = report.problems.iter().flat_map(|p| &p.paths);
        assert!(paths.any(|path| path == "large:/d"), "{report:#?}");
    }
    let out = world.beside("out");
    let report = world
        .engine()
        .restore("large", None, &out, &RestoreOptions::default(), &|_| {})
        .unwrap();
    assert_eq!(report.damaged.len(), 1, "{:?}", report.damaged);
    assert_eq!(report.damaged[0].path, b"d");
    assert_eq!(std::fs::read(out.join("good")).unwrap(), b"good");
}

#[test]
fn a_segment_with_more_extents_than_a_node_holds_is_snapshotted() {
    let world = World::new();
    world.mkdir("d").unwrap();
    world.put("d/0", b"one");
    world.put("d/many", b"");
    world
        .with_file("d/many", |handle| {
            for n in 0..50_000_u64 {
                let off = mmhfs::base::FileOff::from_raw(n * 1024);
                let how = mmhfs::engine::WriteHow::default();
                let caller = super::world::caller();
                world
                    .engine()
                    .write(&caller, handle, off, b"12345678", how)?;
            }
            Ok(())
        })
        .unwrap();
    check_snapshot_of_large_nodes(world, true);
}

#[test]
fn the_syncs_of_a_snapshot_do_not_grow_with_the_number_of_changed_directories() {
    let mut commits = Vec::new();
    for dirs in [10, 200] {
        let world = World::new();
        for n in 0..dirs {
            world.mkdir(&format!("d{n}")).unwrap();
            world.put(&format!("d{n}/file"), b"a file");
        }
        world.engine().sync().unwrap();
        let before = world.engine().stats().unwrap().lsn;
        world.snapshot("one");
        commits.push(world.engine().stats().unwrap().lsn - before);
        world.assert_verifies("one");
    }
    assert_eq!(commits[0], commits[1], "{commits:?}");
}

#[test]
fn orphans_of_a_crash_are_removed_in_several_commits() {
    let mut world = World::new();
    let mut handles = Vec::new();
    for n in 0..20_000 {
        let path = format!("f{n}");
        handles.push(world.create(&path).unwrap());
        let (dir, name) = world.place(&path).unwrap();
        world.engine().unlink(dir, name).unwrap();
    }
    world.engine().sync().unwrap();
    let before = world.engine().stats().unwrap().lsn;
    world.crash(true, b"");
    let commits = world.engine().stats().unwrap().lsn - before;
    assert!(commits >= 4, "{commits}");
    world.assert_sound();
    assert_eq!(world.list(world.engine().root()).len(), 0);
}

#[test]
fn a_file_of_many_segments_that_is_cut_short_maps_what_is_left() {
    let mut world = World::new();
    world.put("sparse", b"");
    const SEGMENT: u64 = 64 << 20;
    for n in 0..40 {
        // Every second one reaches over the end of its segment.
        let off = (n * 7 + 1) * SEGMENT - (n % 2) * 500;
        world.write_at("sparse", off, &[7; 1000]).unwrap();
    }
    world.engine().sync().unwrap();
    assert_eq!(
        world.stat("sparse").unwrap().blocks,
        40_000_u64.div_ceil(512)
    );
    // Within what is there, and then with edits that are not committed yet.
    world.truncate("sparse", (21 * 7 + 1) * SEGMENT).unwrap();
    world.engine().sync().unwrap();
    assert_eq!(
        world.stat("sparse").unwrap().blocks,
        21_500_u64.div_ceil(512)
    );
    world.assert_sound();
    world
        .write_at("sparse", 400 * SEGMENT - 10, &[8; 1000])
        .unwrap();
    world
        .write_at("sparse", 8 * SEGMENT + 100, &[8; 1000])
        .unwrap();
    world.truncate("sparse", 8 * SEGMENT + 700).unwrap();
    world.engine().sync().unwrap();
    assert_eq!(
        world.stat("sparse").unwrap().blocks,
        2_200_u64.div_ceil(512)
    );
    world.reopen();
    world.assert_sound();
    let bytes = world.read("sparse").unwrap();
    assert_eq!(bytes.iter().filter(|b| **b == 7).count(), 1600);
    assert_eq!(bytes.iter().filter(|b| **b == 8).count(), 600);
}
