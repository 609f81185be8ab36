//! Cleaning: space comes back, nothing that is live goes, nothing that is gone comes back (I4, I8, I12).

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mmhfs::base::Error;
use mmhfs::engine::{CleanOptions, CleanReport, CleanStep, KeepPolicy, OpenHow};

use super::model::{assert_same, seen};
use super::world::{Dice, RW, World};

fn clean(world: &World) -> CleanReport {
    clean_with(world, |_| {})
}

/// Cleans until nothing dead is left, whatever it costs.
fn clean_all(world: &World) -> CleanReport {
    let options = CleanOptions {
        unused_percent: 0,
        ..CleanOptions::default()
    };
    world.engine().clean(&options, &|_, _| {}).unwrap()
}

/// Cleans, and calls `hook` after each step.
fn clean_with(world: &World, hook: impl Fn(CleanStep) + Sync) -> CleanReport {
    let options = CleanOptions::default();
    let done = world.engine().clean(&options, &|step, _| hook(step));
    done.unwrap()
}

/// Calls `work` after the first step of one kind.
fn clean_hooked(world: &World, at: CleanStep, work: impl FnOnce() + Send) -> CleanReport {
    let work = Mutex::new(Some(work));
    let report = clean_with(world, |step| {
        if step == at
            && let Some(work) = work.lock().unwrap().take()
        {
            work();
        }
    });
    assert!(work.into_inner().unwrap().is_none(), "{at:?} never came");
    report
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    Dice(seed).bytes(len)
}

#[test]
fn what_was_deleted_gives_its_space_back() {
    let mut world = World::new();
    for n in 0..8 {
        world.put(&format!("f{n}"), &bytes(n, 3_000_000));
    }
    world.put("stays", &bytes(99, 1_000_000));
    world.engine().sync().unwrap();
    let full = world.stored_len();
    for n in 0..8 {
        world.unlink(&format!("f{n}")).unwrap();
    }
    let report = clean(&world);
    assert!(report.kept.is_empty(), "{report:?}");
    assert_eq!(report.space.live_bytes / 100_000, 10, "{report:?}");
    assert!(report.space.pending_bytes > 23_000_000, "{report:?}");
    assert!(
        world.stored_len() < 1_300_000,
        "{} of {full}",
        world.stored_len()
    );
    assert_eq!(world.read("stays").unwrap(), bytes(99, 1_000_000));
    world.assert_sound();
    world.reopen();
    world.assert_sound();
    world.reopen_without_index();
    assert_eq!(world.read("stays").unwrap(), bytes(99, 1_000_000));
    world.assert_sound();
}

#[test]
fn after_ten_times_the_data_was_written_and_deleted_little_is_left_beside_what_is_live() {
    let mut world = World::new();
    for n in 0..20 {
        world.put(&format!("keep{n}"), &bytes(1000 + n, 250_000));
        for m in 0..20 {
            world.put(&format!("t{m}"), &bytes(n * 100 + m, 125_000));
            if m % 7 == 0 {
                world.engine().sync().unwrap();
            }
        }
    }
    for m in 0..20 {
        world.unlink(&format!("t{m}")).unwrap();
    }
    let want = seen(&world, world.engine().root());
    clean(&world);
    world.engine().sync().unwrap();
    let live = 20 * 250_000;
    let stored = world.stored_len();
    assert!(
        stored < live * 115 / 100,
        "{stored} bytes for {live} live ones"
    );
    assert_same(&seen(&world, world.engine().root()), &want);
    world.reopen_without_index();
    assert_same(&seen(&world, world.engine().root()), &want);
    world.assert_sound();
}

#[test]
fn i12_after_cleaning_the_index_can_be_lost_and_nothing_is_resurrected() {
    let mut world = World::new();
    world.put("a", &bytes(1, 2_000_000));
    world.put("b", &bytes(2, 2_000_000));
    world.mkdir("d").unwrap();
    world.put("d/c", &bytes(3, 300_000));
    let one = world.snapshot("one");
    world.unlink("a").unwrap();
    world.unlink("d/c").unwrap();
    let two = world.snapshot("two");
    world.engine().delete_snapshot("one").unwrap();
    clean(&world);
    let want = seen(&world, world.engine().root());
    world.reopen_without_index();
    assert_same(&seen(&world, world.engine().root()), &want);
    assert!(world.ino("a").is_err() && world.ino("d/c").is_err());
    assert!(world.engine().resolve(&one.seed).is_err());
    assert_eq!(world.engine().resolve("two").unwrap().seed, two.seed);
    world.assert_verifies("two");
    world.assert_sound();
    // The same bytes again are new bytes.
    world.put("a", &bytes(1, 2_000_000));
    world.put("d/c", &bytes(3, 300_000));
    world.reopen();
    assert_eq!(world.read("a").unwrap(), bytes(1, 2_000_000));
    world.assert_sound();
}

#[test]
fn a_snapshot_keeps_alive_what_the_live_tree_has_lost() {
    let mut world = World::new();
    world.mkdir("d").unwrap();
    world.put("d/big", &bytes(1, 3_000_000));
    world.put("d/small", &bytes(2, 10_000));
    world.snapshot("one");
    world.unlink("d/big").unwrap();
    world.unlink("d/small").unwrap();
    world.put("other", &bytes(3, 3_000_000));
    world.engine().sync().unwrap();
    world.unlink("other").unwrap();
    clean(&world);
    world.assert_verifies("one");
    world.reopen_without_index();
    let root = world.engine().tree_open(Some("one")).unwrap();
    let dir = world.engine().lookup(root, b"d").unwrap().ino;
    let big = world.engine().lookup(dir, b"big").unwrap().ino;
    assert_eq!(world.read_ino(big).unwrap(), bytes(1, 3_000_000));
    world.assert_sound();
    // Without it they go.
    let before = world.stored_len();
    world.engine().delete_snapshot("one").unwrap();
    clean(&world);
    assert!(world.stored_len() + 2_900_000 < before);
}

/// The next snapshot builds on nodes of the last one, deleted or not.
#[test]
fn a_snapshot_after_the_last_one_was_deleted_and_cleaned_is_whole() {
    let mut world = World::new();
    world.mkdir("d").unwrap();
    world.mkdir("d/e").unwrap();
    for n in 0..400 {
        world.put(&format!("d/f{n}"), &bytes(n, 100));
    }
    world.put("d/e/big", &bytes(1000, 3_000_000));
    world.snapshot("one");
    world.put("d/f7", b"other");
    world.write_at("d/e/big", 2_500_000, b"changed").unwrap();
    world.engine().delete_snapshot("one").unwrap();
    clean_all(&world);
    world.assert_sound();
    world.snapshot("two");
    world.assert_verifies("two");
    let to = world.beside("plain");
    world.materialise(world.engine().root(), &to);
    let seed = world.engine().resolve("two").unwrap().seed;
    assert_eq!(seed, super::world::plain_seed(&to));
    clean_all(&world);
    world.reopen_without_index();
    world.assert_verifies("two");
    world.assert_sound();
}

/// A deduplication hit on a chunk that the mark did not see must keep it.
#[test]
fn i8_what_is_written_again_between_mark_and_sweep_is_kept() {
    for step in [CleanStep::Marked, CleanStep::Counted] {
        let mut world = World::new();
        world.put("old", &bytes(1, 2_000_000));
        world.put("small", &bytes(2, 5_000));
        world.engine().sync().unwrap();
        world.unlink("old").unwrap();
        world.unlink("small").unwrap();
        world.engine().sync().unwrap();
        clean_hooked(&world, step, || {
            world.put("again", &bytes(1, 2_000_000));
            world.put("small2", &bytes(2, 5_000));
            world.engine().sync().unwrap();
        });
        world.assert_sound();
        world.reopen_without_index();
        assert_eq!(world.read("again").unwrap(), bytes(1, 2_000_000));
        assert_eq!(world.read("small2").unwrap(), bytes(2, 5_000));
        world.assert_sound();
        clean(&world);
        assert_eq!(world.read("again").unwrap(), bytes(1, 2_000_000));
    }
}

/// Once a pack is known to be dead, only the look in its commit can save what is in it.
#[test]
fn i8_what_is_written_again_just_before_its_pack_goes_is_kept() {
    for at in 0..3 {
        let mut world = World::new();
        world.put("old", &bytes(1, 2_000_000));
        world.engine().sync().unwrap();
        world.unlink("old").unwrap();
        world.engine().sync().unwrap();
        let seen = AtomicUsize::new(0);
        clean_with(&world, |step| {
            if step == CleanStep::Moved && seen.fetch_add(1, Ordering::Relaxed) == at {
                world.put("again", &bytes(1, 2_000_000));
                world.engine().sync().unwrap();
            }
        });
        if world.ino("again").is_err() {
            continue;
        }
        world.reopen_without_index();
        assert_eq!(world.read("again").unwrap(), bytes(1, 2_000_000));
        world.assert_sound();
    }
}

#[test]
fn i8_a_snapshot_taken_while_cleaning_is_whole() {
    for step in [CleanStep::Marked, CleanStep::Counted, CleanStep::Moved] {
        let mut world = World::new();
        world.mkdir("d").unwrap();
        world.put("d/f", &bytes(1, 2_000_000));
        world.put("gone", &bytes(2, 2_000_000));
        world.snapshot("one");
        world.unlink("gone").unwrap();
        world.engine().delete_snapshot("one").unwrap();
        clean_hooked(&world, step, || {
            world.put("d/new", &bytes(3, 10_000));
            world.snapshot("two");
            world.unlink("d/f").unwrap();
            world.engine().sync().unwrap();
        });
        world.assert_verifies("two");
        clean(&world);
        world.reopen_without_index();
        world.assert_verifies("two");
        world.assert_sound();
    }
}

#[test]
fn i8_a_file_that_is_open_keeps_its_bytes_though_it_has_no_name() {
    let world = World::new();
    world.put("f", &bytes(1, 2_000_000));
    world.engine().sync().unwrap();
    let ino = world.ino("f").unwrap();
    let handle = world.engine().open_file(ino, RW).unwrap();
    let (dir, name) = world.place("f").unwrap();
    world.engine().unlink(dir, name).unwrap();
    clean(&world);
    let mut found = Vec::new();
    let off = mmhfs::base::FileOff::from_raw(0);
    world
        .engine()
        .read(handle, off, 2_000_000, &mut found)
        .unwrap();
    assert_eq!(found, bytes(1, 2_000_000));
    world.engine().release(handle).unwrap();
    world.engine().forget(ino, 2);
    let before = world.stored_len();
    clean(&world);
    assert!(world.stored_len() + 1_900_000 < before);
}

#[test]
fn i8_an_open_file_of_a_deleted_snapshot_can_be_read_until_it_is_closed() {
    let world = World::new();
    world.put("f", &bytes(1, 2_000_000));
    world.snapshot("one");
    world.unlink("f").unwrap();
    let root = world.engine().tree_open(Some("one")).unwrap();
    let ino = world.engine().lookup(root, b"f").unwrap().ino;
    let how = OpenHow { write: false, ..RW };
    let handle = world.engine().open_file(ino, how).unwrap();
    world.engine().delete_snapshot("one").unwrap();
    clean(&world);
    let mut found = Vec::new();
    let off = mmhfs::base::FileOff::from_raw(0);
    world
        .engine()
        .read(handle, off, 2_000_000, &mut found)
        .unwrap();
    assert_eq!(found, bytes(1, 2_000_000));
    world.engine().release(handle).unwrap();
    clean(&world);
    assert!(matches!(world.engine().getattr(ino), Err(Error::Stale)));
}

#[test]
fn i8_a_damaged_chunk_keeps_its_pack() {
    let mut world = World::new();
    world.put("live", &bytes(1, 300_000));
    world.put("dead", &bytes(2, 3_000_000));
    world.engine().sync().unwrap();
    world.unlink("dead").unwrap();
    world.close();
    let is_data = |path: &&PathBuf| path.extension().is_some_and(|e| e == "dat");
    let packs = world.packs();
    let pack = packs.iter().find(is_data).unwrap().clone();
    let mut whole = std::fs::read(&pack).unwrap();
    whole[4096 + 3000] ^= 1;
    std::fs::write(&pack, &whole).unwrap();
    world.open_again();
    let report = clean(&world);
    assert_eq!(report.kept.len(), 1, "{report:?}");
    assert!(pack.exists());
    // Once it reads as it should, it goes.
    whole[4096 + 3000] ^= 1;
    std::fs::write(&pack, &whole).unwrap();
    world.reopen();
    let report = clean(&world);
    assert!(report.kept.is_empty(), "{report:?}");
    assert!(!pack.exists());
    assert_eq!(world.read("live").unwrap(), bytes(1, 300_000));
    world.assert_sound();
}

#[test]
fn i8_a_snapshot_that_cannot_be_read_keeps_everything() {
    let mut world = World::new();
    world.mkdir("d").unwrap();
    world.put("d/f", &bytes(1, 10_000));
    world.snapshot("one");
    world.put("dead", &bytes(2, 3_000_000));
    world.engine().sync().unwrap();
    world.unlink("dead").unwrap();
    world.close();
    // The nodes of the snapshot are in the LOG pack.
    let log = world.packs()[0].clone();
    let mut whole = std::fs::read(&log).unwrap();
    let nodes = (4096..whole.len())
        .step_by(8)
        .filter(|at| whole[*at..].starts_with(b"mmhframe") && whole[*at + 11] == 2);
    let nodes: Vec<usize> = nodes.collect();
    for at in nodes {
        whole[at + 40] ^= 1;
    }
    std::fs::write(&log, &whole).unwrap();
    world.open_again();
    let before = world.packs();
    let failed = world.engine().clean(&CleanOptions::default(), &|_, _| {});
    assert!(failed.is_err(), "{failed:?}");
    let after = world.packs();
    assert!(before.iter().all(|pack| after.contains(pack)));
}

/// A crash after each step of a deletion: what is live is there, and the next cleaning finishes.
#[test]
fn a_crash_at_any_step_of_a_cleaning_loses_nothing() {
    let steps = [
        CleanStep::Marked,
        CleanStep::Counted,
        CleanStep::Checkpointed,
        CleanStep::Moved,
        CleanStep::Retired,
        CleanStep::Flushed,
        CleanStep::Removed,
    ];
    for step in steps {
        for with_index in [true, false] {
            let mut world = World::new();
            for n in 0..12 {
                world.put(&format!("f{n}"), &bytes(n, 1_000_000));
                world.put(&format!("s{n}"), &bytes(100 + n, 700));
                world.engine().sync().unwrap();
            }
            world.snapshot("one");
            for n in 0..11 {
                world.unlink(&format!("f{n}")).unwrap();
            }
            world.engine().delete_snapshot("one").unwrap();
            world.snapshot("two");
            let want = seen(&world, world.engine().root());
            let copied = AtomicBool::new(false);
            clean_with(&world, |now| {
                if now == step && !copied.swap(true, Ordering::Relaxed) {
                    world.copy_aside();
                }
            });
            assert!(copied.into_inner(), "{step:?} never came");
            world.go_on_aside(with_index);
            assert_same(&seen(&world, world.engine().root()), &want);
            world.assert_verifies("two");
            world.assert_sound();
            clean(&world);
            assert!(
                world.stored_len() < 1_500_000,
                "{step:?} {:?}",
                world.packs()
            );
            world.reopen_without_index();
            assert_same(&seen(&world, world.engine().root()), &want);
            world.assert_verifies("two");
            world.assert_sound();
        }
    }
}

#[test]
fn a_dry_run_changes_nothing_and_tells_the_classes_apart() {
    let mut world = World::new();
    world.put("live", &bytes(1, 1_000_000));
    world.put("dead", &bytes(2, 6_000_000));
    world.engine().sync().unwrap();
    world.unlink("dead").unwrap();
    world.close();
    // What a crash may leave: a pack that no commit names.
    let stray = world.store().join("packs/0000000000000099.dat");
    std::fs::copy(world.packs().last().unwrap(), &stray).unwrap();
    world.open_again();
    let before = world.packs();
    let options = CleanOptions {
        dry_run: true,
        ..CleanOptions::default()
    };
    let report = world.engine().clean(&options, &|_, _| {}).unwrap();
    assert_eq!(world.packs(), before);
    let near = |found: u64, want: u64| found.abs_diff(want) < want / 20;
    assert!(near(report.space.live_bytes, 1_000_000), "{report:?}");
    assert!(near(report.space.pending_bytes, 6_000_000), "{report:?}");
    let len = std::fs::metadata(&stray).unwrap().len();
    assert_eq!(report.space.leaked_bytes, len);
    clean(&world);
    assert!(!stray.exists());
    assert!(world.stored_len() < 1_200_000);
    world.assert_sound();
}

#[test]
fn readers_and_writers_beside_cleanings_always_see_the_right_bytes() {
    let world = World::new();
    for n in 0..20 {
        world.put(&format!("f{n}"), &bytes(n, 200_000));
        world.put(&format!("gone{n}"), &bytes(100 + n, 200_000));
    }
    world.engine().sync().unwrap();
    for n in 0..20 {
        world.unlink(&format!("gone{n}")).unwrap();
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for start in [0, 7] {
            let (world, ended) = (&world, &ended);
            scope.spawn(move || {
                let mut n = start;
                while !ended.load(Ordering::Relaxed) {
                    n = (n + 3) % 20;
                    assert_eq!(world.read(&format!("f{n}")).unwrap(), bytes(n, 200_000));
                }
            });
        }
        for round in 0..6 {
            world.put("w", &bytes(500 + round, 300_000));
            world.put("again", &bytes(100 + round, 200_000));
            world.engine().sync().unwrap();
            clean(&world);
        }
        ended.store(true, Ordering::Relaxed);
    });
    world.assert_sound();
}

#[test]
fn a_size_limit_is_seen_by_statfs_and_ends_writes_but_not_deleting_and_cleaning() {
    let mut world = World::new();
    world.close();
    world.open_limited(30 << 20).unwrap();
    let shown = world.engine().statfs().unwrap();
    assert_eq!(shown.blocks * 4096, 30 << 20);
    let mut full = None;
    for n in 0..60 {
        let path = format!("f{n}");
        let handle = world.create(&path);
        let written = handle.and_then(|handle| {
            world.engine().release(handle)?;
            world.write_at(&path, 0, &bytes(n, 1_000_000))
        });
        if let Err(error) = written {
            full = Some((n, error));
            break;
        }
        world.engine().sync().unwrap();
    }
    let (count, error) = full.expect("the limit never ended a write");
    assert!(matches!(error, Error::NoSpace), "{error:?}");
    assert!((20..=32).contains(&count), "{count}");
    assert!(world.stored_len() <= 32 << 20);
    for n in 0..count {
        world.unlink(&format!("f{n}")).unwrap();
    }
    clean(&world);
    let free = world.engine().statfs().unwrap().available * 4096;
    assert!(free > 28 << 20, "{free}");
    world.put("new", &bytes(1000, 1_000_000));
    world.engine().sync().unwrap();
    world.assert_sound();
}

#[test]
fn a_store_is_cleaned_by_itself_once_much_was_written_or_a_snapshot_deleted() {
    let world = World::new();
    world.put("f", &bytes(0, 1_000_000));
    assert!(world.engine().clean_if_due().unwrap().is_none());
    for n in 0..6 {
        world.put("f", &bytes(n, 4_000_000));
        world.engine().sync().unwrap();
    }
    let report = world.engine().clean_if_due().unwrap().expect("it is due");
    assert!(report.freed_bytes > 12_000_000, "{report:?}");
    assert!(world.engine().clean_if_due().unwrap().is_none());
    world.snapshot("one");
    world.engine().delete_snapshot("one").unwrap();
    assert!(world.engine().clean_if_due().unwrap().is_some());
    world.assert_sound();
}

#[test]
fn forget_deletes_what_no_rule_keeps() {
    let world = World::new();
    for n in 0..5 {
        world.put("f", &bytes(n, 1_000));
        world.snapshot(&format!("s{n}"));
    }
    let names = |list: &[mmhfs::engine::SnapshotInfo]| -> Vec<String> {
        list.iter().map(|info| info.name.clone()).collect()
    };
    let policy = KeepPolicy {
        last: 2,
        names: vec!["*1".into()],
        ..KeepPolicy::default()
    };
    let dry = world.engine().forget_snapshots(&policy, true).unwrap();
    assert_eq!(names(&dry.removed), ["s0", "s2"]);
    assert_eq!(world.engine().snapshots().unwrap().len(), 5);
    world.engine().forget_snapshots(&policy, false).unwrap();
    assert_eq!(
        names(&world.engine().snapshots().unwrap()),
        ["s1", "s3", "s4"]
    );
    let none = world
        .engine()
        .forget_snapshots(&KeepPolicy::default(), false);
    assert!(matches!(none, Err(Error::Usage(_))));
}

/// Bug: a restore, a verification or a mount beside read a snapshot that was deleted and cleaned away under it.
#[test]
fn i8_a_snapshot_that_is_read_is_not_deleted_and_what_it_holds_stays() {
    let world = World::new();
    world.put("f", &bytes(1, 2_000_000));
    world.snapshot("one");
    world.unlink("f").unwrap();
    let (info, in_use) = world.engine().use_snapshot("one").unwrap();
    let refused = world.engine().delete_snapshot("one");
    assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
    let again = world.engine().use_snapshot(&info.seed).unwrap().1;
    drop(in_use);
    assert!(world.engine().delete_snapshot("one").is_err());
    drop(again);
    world.engine().delete_snapshot("one").unwrap();
    let gone = world.engine().use_snapshot("one");
    assert!(matches!(gone, Err(Error::SeedUnknown(_))), "{gone:?}");
}

#[test]
fn i8_a_snapshot_that_is_restored_verified_or_compared_is_not_deleted_meanwhile() {
    let world = World::new();
    for n in 0..40 {
        world.put(&format!("f{n}"), &bytes(n, 100_000));
    }
    world.snapshot("one");
    let calls = AtomicUsize::new(0);
    let delete = |_| {
        calls.fetch_add(1, Ordering::Relaxed);
        let refused = world.engine().delete_snapshot("one");
        assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
        clean(&world);
    };
    let report = world.engine().verify("one", &delete).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert!(calls.swap(0, Ordering::Relaxed) > 0);
    let to = world.beside("out");
    let options = mmhfs::engine::RestoreOptions::default();
    let restored = world.engine().restore("one", None, &to, &options, &delete);
    assert!(restored.unwrap().damaged.is_empty());
    assert!(calls.swap(0, Ordering::Relaxed) > 0);
    assert_eq!(std::fs::read(to.join("f7")).unwrap(), bytes(7, 100_000));
    world.engine().delete_snapshot("one").unwrap();
}
