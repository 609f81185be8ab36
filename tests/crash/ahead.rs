//! What only the system's cache holds of the log, and what memory holds while commits fail.

use std::collections::BTreeMap;
use std::sync::Arc;

use mmhfs::base::PackOff;
use mmhfs::disk::Access;
use mmhfs::engine::{CleanOptions, Config, Engine, InitOptions, Place};
use mmhfs::meta::MemoryTables;
use mmhfs::sim::{CallKind, Dice, Fault, FaultError, Medium, SimDisk};

use crate::history::{no_progress, scratch, sim_config};
use crate::recovery::{Found, clean_all, sound};
use crate::world::{World, env};

/// Something that only looks at a store.
type Look<'a> = &'a dyn Fn(&Place) -> mmhfs::base::Result<()>;

/// An open store on a simulated disk.
fn made(seed: u64) -> (Found, World) {
    let dir = scratch();
    let found = Found::new(Medium::new(), MemoryTables::default(), &dir, seed);
    let options = InitOptions {
        pack_capacity: 4 << 20,
        ..InitOptions::default()
    };
    Engine::init_on(&found.place, &env(seed), &options).unwrap();
    let world = opened(&found, &dir, seed);
    (found, world)
}

fn opened(found: &Found, dir: &Arc<tempfile::TempDir>, seed: u64) -> World {
    let engine = Engine::open_on(&found.place, env(seed), sim_config(0));
    World {
        dir: Arc::clone(dir),
        copy: 0,
        env: env(seed),
        engine: Some(engine.unwrap_or_else(|error| panic!("seed {seed}: {error}"))),
    }
}

/// What is left after the power has failed, with the index as it is.
fn power_loss(found: &Found, dir: &Arc<tempfile::TempDir>, seed: u64) -> Found {
    let medium = found.disk.medium().after_power_loss(&mut Dice(seed));
    let index = found.place.index.as_ref().map(MemoryTables::copy);
    Found::new(medium, index.unwrap(), dir, seed ^ 1)
}

fn fail(disk: &SimDisk, kind: CallKind, after: u64, error: FaultError) {
    disk.set_faults(vec![Fault {
        kind,
        after,
        times: 1,
        error,
    }]);
}

/// A commit whose first sync fails, once: the system's cache has its record, the disk may not.
fn fail_a_sync(found: &Found, world: &World) {
    fail(&found.disk, CallKind::Sync, 0, FaultError::Io);
    assert!(world.engine().sync().is_err());
    found.disk.set_faults(Vec::new());
}

/// Bug: a record whose sync had failed was read from the cache by somebody who only looked at the store, or made its
/// index anew. The index got it, the disk did not, and after a loss of power the store did not open any more.
#[test]
fn i1_who_only_reads_a_store_does_not_bring_its_index_ahead_of_its_log() {
    let read = |place: &Place| {
        let config = Config {
            read_only: true,
            ..sim_config(0)
        };
        Engine::open_on(place, env(3), config).map(|_| ())
    };
    let rebuild = |place: &Place| Engine::rebuild_index_on(place, &sim_config(0)).map(|_| ());
    let looks: [Look<'_>; 2] = [&read, &rebuild];
    for seed in 0..48 {
        let look = looks[seed as usize % 2];
        let (found, mut world) = made(seed);
        world.put("a", b"first");
        world.engine().sync().unwrap();
        world.put("b", b"second");
        fail_a_sync(&found, &world);
        world.engine = None;
        look(&found.place).unwrap();
        let dir = Arc::clone(&world.dir);
        let found = power_loss(&found, &dir, seed);
        let world = opened(&found, &dir, seed);
        assert_eq!(world.read("a").unwrap(), b"first");
        sound(&world).unwrap();
    }
}

/// Bug: a footer whose sync had failed was taken for one that the disk has; after a loss of power `check` found a damaged
/// one for ever.
#[test]
fn a_footer_that_only_the_cache_has_is_written_again() {
    for seed in 0..48 {
        let (found, mut world) = made(seed);
        world.put("a", b"first");
        world.engine().sync().unwrap();
        fail(&found.disk, CallKind::Sync, 1, FaultError::Io);
        assert!(world.engine().close().is_err());
        world.engine = None;
        found.disk.set_faults(Vec::new());
        let dir = Arc::clone(&world.dir);
        let world = opened(&found, &dir, seed);
        world.put("b", b"second");
        world.engine().sync().unwrap();
        drop(world);
        let found = power_loss(&found, &dir, seed);
        let world = opened(&found, &dir, seed);
        let problems = world.check().problems;
        assert!(problems.is_empty(), "seed {seed}: {problems:?}");
    }
}

/// Of a pack whose sync had failed the cache shows what the disk does not have: parity of that would call the disk
/// damaged after a loss of power.
#[test]
fn what_parity_is_made_of_is_on_the_disk() {
    // What the system shows.
    let packs = |found: &Found| {
        let names = found.place.disk.list("packs").unwrap().into_iter();
        let bytes = |name: String| {
            let path = format!("packs/{name}");
            let file = found.place.disk.open(&path, Access::Read).unwrap();
            let mut bytes = vec![0; usize::try_from(file.len().unwrap().raw()).unwrap()];
            file.read_at(PackOff::from_raw(0), &mut bytes).unwrap();
            (name, bytes)
        };
        names.map(bytes).collect::<BTreeMap<_, _>>()
    };
    for seed in 0..24 {
        let (found, mut world) = made(seed);
        world.put("a", &Dice(seed).bytes(1_500_000));
        world.engine().sync().unwrap();
        // The same pack goes on.
        world.put("b", &Dice(!seed).bytes(1_500_000));
        fail_a_sync(&found, &world);
        world.engine = None;
        let dir = Arc::clone(&world.dir);
        let world = opened(&found, &dir, seed);
        assert_eq!(world.engine().protect().unwrap().covered, 2);
        drop(world);
        let covered = packs(&found);
        assert!(covered.len() >= 2);
        let left = packs(&power_loss(&found, &dir, seed));
        for (name, bytes) in covered {
            assert!(left.get(&name) == Some(&bytes), "seed {seed}: {name}");
        }
    }
}

/// What a killed program's new pack says of the packs before it cuts off a record whose sync had failed. While its name
/// is only on its way, nobody may see the tree without that record: after a loss of power it would be back.
#[test]
fn i1_a_record_that_was_cut_off_does_not_come_back() {
    let mut cut_off = 0;
    for (seed, step) in (0..96).map(|n| (n, n / 4)) {
        let (found, mut world) = made(seed);
        world.put("a", b"first");
        world.engine().sync().unwrap();
        world.put("b", b"second");
        fail_a_sync(&found, &world);
        // It is tried again, in a new pack.
        found.disk.crash_at(found.disk.steps() + step);
        let _ = world.engine().sync();
        world.engine = None;
        let index = found.place.index.as_ref().map(MemoryTables::copy);
        let dir = Arc::clone(&world.dir);
        let found = Found::new(found.disk.medium(), index.unwrap(), &dir, seed);
        let mut world = opened(&found, &dir, seed);
        let was = world.read("b").ok();
        cut_off += usize::from(was.is_none());
        world.engine = None;
        let found = power_loss(&found, &dir, seed);
        let world = opened(&found, &dir, seed);
        assert_eq!(world.read("b").ok(), was, "seed {seed}");
        sound(&world).unwrap();
    }
    assert!(cut_off > 0);
}

/// Bug: a rollback whose commit had failed held on to chunks that nothing else referred to once the snapshot was
/// deleted, and cleaning took them.
#[test]
fn i8_what_a_failed_rollback_refers_to_is_kept_by_a_cleaning() {
    let (found, world) = made(1);
    let old = Dice(1).bytes(2_000_000);
    world.put("f", &old);
    let engine = world.engine();
    engine.snapshot(Some("one"), &no_progress).unwrap();
    world.put("f", &Dice(2).bytes(2_000_000));
    engine.sync().unwrap();
    fail(&found.disk, CallKind::Write, 0, FaultError::NoSpace);
    assert!(engine.rollback("one").is_err());
    found.disk.set_faults(Vec::new());
    engine.delete_snapshot("one").unwrap();
    // Nor does the commit before the cleaning find room.
    fail(&found.disk, CallKind::Write, 0, FaultError::NoSpace);
    let options = CleanOptions {
        unused_percent: 0,
        ..CleanOptions::default()
    };
    engine.clean(&options, &|_, _| {}).unwrap();
    assert_eq!(found.disk.faults_made(), 1);
    found.disk.set_faults(Vec::new());
    assert_eq!(world.read("f").unwrap(), old);
    engine.sync().unwrap();
    assert_eq!(world.read("f").unwrap(), old);
    clean_all(&world).unwrap();
    sound(&world).unwrap();
}
