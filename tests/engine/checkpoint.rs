//! Checkpoints: the log before one can go, and the index can be lost nevertheless (I12).

use std::path::PathBuf;

use mmhfs::base::Error;
use mmhfs::engine::CleanOptions;

use super::model::{Tree, assert_same, seen};
use super::world::{Dice, World, remove_index};

/// Cleans until nothing dead is left, so that the log goes as well.
fn clean(world: &World) {
    let options = CleanOptions {
        unused_percent: 0,
        ..CleanOptions::default()
    };
    let done = world.engine().clean(&options, &|_, _| {});
    assert!(done.unwrap().kept.is_empty());
}

fn logs(world: &World) -> Vec<PathBuf> {
    let mut packs = world.packs();
    packs.retain(|path| path.extension().is_some_and(|e| e == "log"));
    packs
}

/// A store with a long log, most of it about what is gone, and two snapshots.
fn long_lived() -> World {
    let world = World::new();
    world.mkdir("d").unwrap();
    for n in 0..60 {
        world.put(&format!("d/f{}", n % 10), &Dice(n).bytes(200_000));
        world.put(&format!("small{n}"), &Dice(1000 + n).bytes(300));
        world.engine().sync().unwrap();
        if n == 20 {
            world.snapshot("one");
        }
    }
    world.snapshot("two");
    assert!(logs(&world).len() > 2);
    world
}

fn tree(world: &World) -> Tree {
    seen(world, world.engine().root())
}

fn work(world: &World, n: u64) {
    world.put("d/f3", &Dice(500 + n).bytes(20_000));
    world.unlink(&format!("small{n}")).unwrap();
    world.put(&format!("new{n}"), &Dice(600 + n).bytes(700_000));
    world.engine().sync().unwrap();
}

#[test]
fn i12_the_log_before_a_checkpoint_goes_and_the_index_can_still_be_lost() {
    let mut world = long_lived();
    let first = logs(&world)[0].clone();
    for n in 0..4 {
        clean(&world);
        assert!(!first.exists());
        work(&world, n);
        let want = tree(&world);
        if n % 2 == 0 {
            world.reopen_without_index();
        } else {
            world.crash(false, b"rubbish");
        }
        assert_same(&tree(&world), &want);
        world.assert_verifies("one");
        world.assert_verifies("two");
        world.assert_sound();
        world.snapshot(&format!("s{n}"));
        world.reopen();
        world.assert_verifies(&format!("s{n}"));
    }
    world.close();
    let report = mmhfs::engine::Engine::rebuild_index(&world.store(), &Default::default());
    report.unwrap();
    world.open_again();
    world.assert_verifies("s3");
    world.assert_sound();
}

/// What the next snapshot has to look at is in the checkpoint too: the log that told it is gone.
#[test]
fn i9_a_snapshot_after_a_checkpoint_and_the_loss_of_the_index_sees_every_change() {
    let mut world = long_lived();
    world.put("d/f1", b"changed after the snapshot");
    world.unlink("d/f2").unwrap();
    world.set_xattr("d/f4", "user.a", b"b").unwrap();
    clean(&world);
    world.reopen_without_index();
    let info = world.snapshot("three");
    let to = world.beside("plain");
    world.materialise(world.engine().root(), &to);
    assert_eq!(info.seed, super::world::plain_seed(&to));
    world.assert_verifies("three");
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_copy_of_a_checkpoint_is_passed_over_and_two_are_an_error_that_names_one() {
    let mut world = long_lived();
    clean(&world);
    work(&world, 1);
    let want = tree(&world);
    world.close();
    let copies = world.checkpoints();
    assert_eq!(copies.len(), 2);
    let len = std::fs::metadata(&copies[0]).unwrap().len() as usize;
    for at in [3, 100, 300, len / 2, len - 70, len - 20] {
        remove_index(&world.store());
        flip(&copies[1], at);
        world.open_again();
        assert_same(&tree(&world), &want);
        let problems = world.check().problems;
        assert!(
            problems.len() == 1 && problems[0].detail.contains(".ckp"),
            "{problems:?}"
        );
        world.close();
        remove_index(&world.store());
        flip(&copies[0], at);
        let refused = world.open_for_writing();
        let named = |error: &Error| error.to_string().contains(".ckp");
        assert!(refused.as_ref().is_err_and(named), "{at}: {refused:?}");
        flip(&copies[0], at);
        flip(&copies[1], at);
        world.open_again();
        world.close();
    }
    // Without any the log is known to be incomplete.
    remove_index(&world.store());
    for copy in &copies {
        std::fs::remove_file(copy).unwrap();
    }
    let refused = world.open_for_writing();
    assert!(
        matches!(refused, Err(Error::PackMissing { .. })),
        "{refused:?}"
    );
}

#[test]
fn an_unfinished_checkpoint_is_ignored_and_removed_by_the_next() {
    let mut world = long_lived();
    clean(&world);
    world.close();
    let copy = world.checkpoints()[0].clone();
    let mut name = copy.file_name().unwrap().to_owned();
    name.push(".tmp");
    let unfinished = copy.with_file_name(name);
    let bytes = std::fs::read(&copy).unwrap();
    std::fs::write(&unfinished, &bytes[..bytes.len() / 2]).unwrap();
    world.open_again();
    world.reopen_without_index();
    world.assert_sound();
    for n in 0..60 {
        world.put("d/f1", &Dice(n).bytes(200_000));
        world.engine().sync().unwrap();
    }
    clean(&world);
    assert!(!unfinished.exists());
    world.assert_sound();
}

/// An index that was put back from a copy older than the checkpoint does not fit the log any more.
#[test]
fn an_index_older_than_the_log_is_made_anew() {
    let mut world = long_lived();
    world.reopen();
    world.copy_aside();
    // Otherwise the first cut after the old index's place would still lead there.
    for n in 3..6 {
        work(&world, n);
        world.reopen();
    }
    clean(&world);
    work(&world, 2);
    let want = tree(&world);
    world.close();
    let index = world.store().join("index");
    remove_index(&world.store());
    std::fs::rename(world.beside("aside").join("index"), &index).unwrap();
    world.open_again();
    assert_same(&tree(&world), &want);
    world.assert_sound();
}

/// Bug: without its checkpoints a store of which the index was whole did not open for writing any more.
#[test]
fn i12_lost_checkpoints_are_written_again_as_long_as_the_index_is_whole() {
    for lost in [1, 2] {
        let mut world = long_lived();
        clean(&world);
        work(&world, 1);
        // A log that begins before the checkpoint's place: its first packs are gone.
        world.reopen();
        work(&world, 2);
        let want = tree(&world);
        world.close();
        for copy in &world.checkpoints()[..lost] {
            std::fs::remove_file(copy).unwrap();
        }
        world.open_read_only().unwrap();
        let problems = world.check().problems;
        let told = problems.iter().any(|p| p.detail.contains("checkpoints"));
        assert!(told && problems.len() == 1, "{problems:?}");
        world.close();
        world.open_for_writing().unwrap();
        assert_same(&tree(&world), &want);
        assert_eq!(world.checkpoints().len(), 2);
        world.assert_sound();
        world.reopen_without_index();
        assert_same(&tree(&world), &want);
        world.assert_verifies("one");
        world.assert_verifies("two");
        world.assert_sound();
    }
}

/// A copy that is lost while the store is open is made up for by the next cleaning.
#[test]
fn a_cleaning_replaces_a_copy_that_is_gone() {
    let mut world = long_lived();
    clean(&world);
    std::fs::remove_file(&world.checkpoints()[0]).unwrap();
    clean(&world);
    assert_eq!(world.checkpoints().len(), 2);
    world.reopen_without_index();
    world.assert_sound();
}

/// Bug: two rotten copies kept the index from being made anew from a log of which nothing was missing.
#[test]
fn i12_a_log_that_is_whole_needs_no_checkpoint() {
    let mut world = long_lived();
    world.reopen();
    // A checkpoint is written, and nothing goes.
    world.copy_aside();
    clean(&world);
    let want = tree(&world);
    world.close();
    let (whole, cleaned) = (world.beside("aside"), world.store());
    for pack in std::fs::read_dir(whole.join("packs")).unwrap() {
        let pack = pack.unwrap();
        let to = cleaned.join("packs").join(pack.file_name());
        if !to.exists() {
            std::fs::copy(pack.path(), to).unwrap();
        }
    }
    for copy in world.checkpoints() {
        let len = std::fs::metadata(&copy).unwrap().len() as usize;
        flip(&copy, len / 2);
    }
    remove_index(&world.store());
    world.open_for_writing().unwrap();
    assert_same(&tree(&world), &want);
    world.assert_verifies("two");
}
