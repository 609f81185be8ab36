//! A seed is a function of the tree and of nothing else (I9), and a snapshot costs what has changed.

use std::sync::atomic::{AtomicBool, Ordering};

use mmhfs::base::FileOff;
use mmhfs::engine::{Allocate, RenameHow};

use super::model::{assert_same, seen};
use super::world::{Dice, World, caller, plain_seed};

/// The seed of the live tree as plain files.
fn scratch(world: &World, name: &str) -> String {
    let to = world.beside(name);
    world.materialise(world.engine().root(), &to);
    let seed = plain_seed(&to);
    std::fs::remove_dir_all(&to).unwrap();
    seed
}

/// Takes a snapshot; its seed must be that of plain files, and everything must verify.
#[track_caller]
fn snapshot(world: &World, name: &str) -> String {
    let seed = world.snapshot(name).seed;
    assert_eq!(seed, scratch(world, name), "snapshot {name}");
    world.assert_verifies(name);
    seed
}

#[test]
fn i9_the_same_tree_has_the_same_seed_in_another_store_written_in_another_way() {
    let data = Dice(5).bytes(3_000_000);
    let (a, b) = (World::new(), World::with(77, 8 << 20));
    a.mkdir("d").unwrap();
    a.put("d/big", &data);
    a.put("small", b"hello");
    a.link("small", "d/again").unwrap();
    a.symlink("d/link", "../small").unwrap();
    a.set_xattr("small", "user.note", b"x").unwrap();

    b.put("other", b"hello");
    b.set_xattr("other", "user.note", b"x").unwrap();
    b.mkdir("e").unwrap();
    b.symlink("e/link", "../small").unwrap();
    b.put("e/big", b"");
    let mut order: Vec<usize> = (0..data.len()).step_by(7_777).collect();
    let mut dice = Dice(9);
    for at in (1..order.len()).rev() {
        order.swap(at, dice.below(at as u64 + 1) as usize);
    }
    for (n, at) in order.into_iter().enumerate() {
        let end = data.len().min(at + 7_777);
        b.write_at("e/big", at as u64, &data[at..end]).unwrap();
        if n % 50 == 0 {
            b.engine().sync().unwrap();
        }
    }
    b.link("other", "e/again").unwrap();
    b.rename("e", "d").unwrap();
    b.rename("other", "small").unwrap();
    for world in [&a, &b] {
        for path in ["d/big", "small", "d/link", "d"] {
            world.touch(path, 1_700_000_000);
        }
    }
    assert_eq!(snapshot(&a, "s"), snapshot(&b, "s"));
}

#[test]
fn a_snapshot_of_an_unchanged_tree_adds_less_than_64_kib() {
    let mut world = World::new();
    for dir in 0..20 {
        world.mkdir(&format!("d{dir}")).unwrap();
        for file in 0..20 {
            let data = Dice(dir * 100 + file).bytes(3000);
            world.put(&format!("d{dir}/{file}"), &data);
        }
    }
    world.put("big", &Dice(1).bytes(2_000_000));
    let first = snapshot(&world, "one");
    world.reopen();
    let before = world.stored_len();
    let second = world.snapshot("two");
    world.reopen();
    let added = world.stored_len() - before;
    assert_eq!(first, second.seed);
    assert!(added < 64 << 10, "{added} bytes");
}

#[test]
fn one_change_among_5000_entries_gives_the_seed_of_a_tree_made_from_scratch() {
    let mut world = World::new();
    world.mkdir("d").unwrap();
    for n in 0..5000 {
        let path = format!("d/file-{n}");
        let handle = world.create(&path).unwrap();
        world.engine().release(handle).unwrap();
    }
    snapshot(&world, "one");
    world.put("d/file-1234", b"changed");
    let before = world.stored_len();
    snapshot(&world, "two");
    world.close();
    world.open_again();
    let added = world.stored_len() - before;
    assert!(added < 256 << 10, "one path of the trie, not {added} bytes");
    world.unlink("d/file-77").unwrap();
    world.rename("d/file-78", "d/other").unwrap();
    snapshot(&world, "three");
}

#[test]
fn a_directory_that_grows_and_shrinks_across_256_entries_has_the_seed_of_scratch() {
    let world = World::new();
    world.mkdir("d").unwrap();
    let make = |n: u32| {
        let path = format!("d/{n}");
        let handle = world.create(&path).unwrap();
        world.engine().release(handle).unwrap();
    };
    (0..255).for_each(make);
    snapshot(&world, "255");
    make(255);
    snapshot(&world, "256");
    make(256);
    snapshot(&world, "257");
    (257..600).for_each(make);
    snapshot(&world, "600");
    (300..600).for_each(|n| world.unlink(&format!("d/{n}")).unwrap());
    snapshot(&world, "300");
    (256..300).for_each(|n| world.unlink(&format!("d/{n}")).unwrap());
    let at_256 = snapshot(&world, "256-again");
    (0..256).for_each(|n| world.unlink(&format!("d/{n}")).unwrap());
    snapshot(&world, "0");
    assert!(at_256.starts_with("mmh1"));
    world.assert_sound();
}

#[test]
fn groups_of_hard_links_follow_renames_of_the_directories_above() {
    let world = World::new();
    for dir in ["a", "a/b", "a/c", "z"] {
        world.mkdir(dir).unwrap();
    }
    world.put("a/b/x", b"one");
    world.link("a/b/x", "a/c/y").unwrap();
    world.put("z/p", b"two");
    world.link("z/p", "z/q").unwrap();
    let mut seeds = vec![snapshot(&world, "0")];
    world.rename("a/c", "a/d").unwrap();
    seeds.push(snapshot(&world, "1"));
    world.rename("a/d", "z/d").unwrap();
    seeds.push(snapshot(&world, "2"));
    world.rename("z", "y").unwrap();
    seeds.push(snapshot(&world, "3"));
    let how = RenameHow {
        exchange: true,
        ..RenameHow::default()
    };
    world.rename_how("a/b", "y/d", how).unwrap();
    seeds.push(snapshot(&world, "4"));
    world.unlink("y/q").unwrap();
    seeds.push(snapshot(&world, "5"));
    world.unlink("a/b/y").unwrap();
    seeds.push(snapshot(&world, "6"));
    world.link("y/d/x", "top").unwrap();
    seeds.push(snapshot(&world, "7"));
    let mut distinct = seeds.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), seeds.len());
    world.assert_sound();
}

#[test]
fn a_group_of_hard_links_in_a_directory_that_is_new_and_renamed_at_once() {
    let world = World::new();
    world.put("f", b"one");
    world.snapshot("0");
    world.mkdir("new").unwrap();
    world.link("f", "new/g").unwrap();
    world.rename("new", "newer").unwrap();
    snapshot(&world, "1");
    world.mkdir("above").unwrap();
    world.rename("newer", "above/new").unwrap();
    snapshot(&world, "2");
    world.unlink("f").unwrap();
    snapshot(&world, "3");
}

#[test]
fn a_large_sparse_file_costs_what_is_in_it_and_has_the_seed_of_scratch() {
    let world = World::new();
    world.put("sparse", b"start");
    world.truncate("sparse", 3 << 40).unwrap();
    world
        .write_at("sparse", (1 << 40) + 12_345, b"middle")
        .unwrap();
    world.write_at("sparse", (3 << 40) - 3, b"end").unwrap();
    snapshot(&world, "one");
    world
        .write_at("sparse", (1 << 40) + (70 << 20), b"more")
        .unwrap();
    snapshot(&world, "two");
    world.truncate("sparse", (1 << 40) + 12_347).unwrap();
    snapshot(&world, "three");
    let done = world.with_file("sparse", |handle| {
        let off = FileOff::from_raw(1 << 40);
        let engine = world.engine();
        engine.fallocate(handle, off, 1 << 20, Allocate::Punch)
    });
    done.unwrap();
    snapshot(&world, "four");
    world.truncate("sparse", 100 << 20).unwrap();
    snapshot(&world, "five");
    assert!(world.stored_len() < 1 << 20);
    world.assert_sound();
}

#[test]
fn a_file_that_was_large_and_small_and_large_again_has_the_seed_of_scratch() {
    // The node of the first snapshot must not come back in the third: its file was small in between.
    let world = World::new();
    world.put("f", b"start");
    world
        .write_at("f", 2 << 20, b"in the first segment")
        .unwrap();
    world.truncate("f", 130 << 20).unwrap();
    snapshot(&world, "one");
    world.truncate("f", 512 << 10).unwrap();
    snapshot(&world, "two");
    world.truncate("f", 130 << 20).unwrap();
    snapshot(&world, "three");
}

#[test]
fn a_file_that_is_emptied_and_removed_leaves_nothing_behind() {
    let world = World::new();
    world.put("f", &Dice(1).bytes(50_000));
    world.engine().sync().unwrap();
    world.truncate("f", 0).unwrap();
    world.unlink("f").unwrap();
    world.engine().sync().unwrap();
    world.assert_sound();
}

#[test]
fn the_same_content_twice_adds_almost_nothing() {
    let mut world = World::new();
    let data = Dice(3).bytes(4_000_000);
    world.put("one", &data);
    world.reopen();
    let before = world.stored_len();
    world.put("two", &data);
    world.mkdir("d").unwrap();
    world.put("d/shifted", &[b"a few bytes more", &data[..]].concat());
    world.reopen();
    let added = world.stored_len() - before;
    assert!(added < data.len() as u64 / 10, "{added} bytes");
    assert_eq!(world.read("two").unwrap(), data);
}

#[test]
fn i12_the_index_can_be_deleted() {
    let mut world = World::new();
    world.mkdir("d").unwrap();
    world.put("d/f", &Dice(4).bytes(2_500_000));
    world.link("d/f", "g").unwrap();
    world.set_xattr("g", "user.a", b"b").unwrap();
    let seed = snapshot(&world, "one");
    world.put("later", b"not in the snapshot");
    let before = seen(&world, world.engine().root());
    let stat = world.stat("later").unwrap();
    world.reopen_without_index();
    assert_same(&seen(&world, world.engine().root()), &before);
    assert_eq!(world.stat("later").unwrap().mtime, stat.mtime);
    assert_eq!(world.engine().resolve("one").unwrap().seed, seed);
    world.assert_verifies("one");
    world.unlink("later").unwrap();
    let again = world.snapshot("two");
    assert_ne!(again.seed, "");
    assert_eq!(scratch(&world, "plain"), again.seed);
    world.assert_sound();
}

#[test]
fn a_snapshot_shows_its_tree_whatever_is_done_to_the_live_one() {
    let mut world = World::new();
    world.mkdir("d").unwrap();
    world.put("d/f", &Dice(6).bytes(1_500_000));
    world.put("g", b"g");
    let before = seen(&world, world.engine().root());
    let info = world.snapshot("one");
    world.write_at("d/f", 1000, b"changed").unwrap();
    world.unlink("g").unwrap();
    world.rename("d", "e").unwrap();
    for text in ["one", &info.seed, &info.content, &info.dna] {
        let root = world.engine().tree_open(Some(text)).unwrap();
        assert_same(&seen(&world, root), &before);
    }
    world.reopen();
    let root = world.engine().tree_open(Some("one")).unwrap();
    assert_same(&seen(&world, root), &before);
}

#[test]
fn a_copy_by_reference_shows_the_same_bytes_and_stores_nothing() {
    let mut world = World::new();
    let data = Dice(8).bytes(3_000_000);
    world.put("a", &data);
    world.put("b", b"");
    world.reopen();
    let before = world.stored_len();
    let done = world.with_file("a", |a| {
        world.with_file("b", |b| {
            let zero = FileOff::ZERO;
            let engine = world.engine();
            engine.copy_file_range(&caller(), a, zero, b, zero, data.len() as u64)
        })
    });
    assert_eq!(done.unwrap(), data.len() as u64);
    world.reopen();
    assert_eq!(world.read("b").unwrap(), data);
    assert!(world.stored_len() - before < 64 << 10);
    world.assert_sound();
}

/// Ends the other thread, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_snapshot_that_is_taken_while_others_write_and_commit_is_a_tree_that_was() {
    let world = World::new();
    world.mkdir("d").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let handle = world.create(&format!("d/{n}")).unwrap();
                world.engine().fsync(handle, false).unwrap();
                world.engine().release(handle).unwrap();
            }
        });
        for n in 0..30 {
            let name = format!("s{n}");
            world.snapshot(&name);
            // The size of a directory is the number of its entries: both must be of the same moment.
            world.assert_verifies(&name);
        }
    });
    world.assert_sound();
}

/// Bug: a snapshot whose commit failed gave back what it had frozen only after it had let others commit, and
/// began with an attempt that others could fail behind its back: the next commit then froze twice, panicked,
/// and nobody could ever commit again.
#[test]
fn commits_and_snapshots_that_fail_beside_one_another_succeed_once_the_disk_is_well() {
    let world = World::new();
    let (packs, away) = (world.store().join("packs"), world.store().join("away"));
    for round in 0..20u64 {
        // Large commits need a new pack; without the directory they fail.
        std::fs::rename(&packs, &away).unwrap();
        let write = |n: u64| {
            let data = Dice(round * 10 + n).bytes(1 << 20);
            world.put(&format!("{round}-{n}"), &data);
            let _ = world.engine().sync();
        };
        std::thread::scope(|scope| {
            for n in 0..3 {
                let write = &write;
                scope.spawn(move || write(n));
            }
            let name = format!("failed-{round}");
            let _ = world.engine().snapshot(Some(&name), &|_| {});
        });
        std::fs::rename(&away, &packs).unwrap();
        world.engine().sync().unwrap();
    }
    snapshot(&world, "well");
}
