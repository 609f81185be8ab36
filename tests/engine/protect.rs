//! Parity as it comes and goes: by itself, at close, on a full disk, on another disk.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};

use mmhfs::base::{ByteLen, Error, FileOff, Result};
use mmhfs::disk::{Access, Disk, DiskFile, RealDisk, Space};
use mmhfs::engine::{Config, Engine, InitOptions, Place, ProtectReport};

use super::heal::{bytes, clean, data_packs, grouped, parity_files, protect, protected, ruin};
use super::model::{assert_same, seen};
use super::world::{World, config};

/// A disk that says how much room it has, and of which one file cannot be opened.
struct TightDisk {
    inner: RealDisk,
    room: AtomicU64,
    blind: OnceLock<String>,
}

impl Disk for TightDisk {
    fn create_new(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        self.inner.create_new(name)
    }
    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn DiskFile>> {
        if self.blind.get().is_some_and(|blind| name.ends_with(blind)) {
            return Err(Error::io("open", std::io::Error::other("told to fail")));
        }
        self.inner.open(name, access)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(name)
    }
    fn create_dir(&self, name: &str) -> Result<()> {
        self.inner.create_dir(name)
    }
    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.inner.sync_dir(dir)
    }
    fn len(&self, name: &str) -> Result<Option<ByteLen>> {
        self.inner.len(name)
    }
    fn space(&self) -> Result<Space> {
        let room = self.room.load(Ordering::Relaxed);
        Ok(Space {
            available_bytes: room,
            free_bytes: room,
            ..self.inner.space()?
        })
    }
    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }
}

/// Opens a closed store on a disk that says how much room it has.
fn open_tight(world: &mut World, room: u64) -> Arc<TightDisk> {
    let disk = Arc::new(TightDisk {
        inner: RealDisk::new(world.store()),
        room: AtomicU64::new(room),
        blind: OnceLock::new(),
    });
    let place = Place {
        disk: Arc::clone(&disk) as Arc<dyn Disk>,
        dir: world.store(),
        index: None,
    };
    let engine = Engine::open_on(&place, world.env.clone(), config()).unwrap();
    world.engine = Some(engine);
    disk
}

/// Opens a closed store as a mount does, with a thread that makes parity and repairs.
fn open_as_mounted(world: &mut World) {
    let config = Config {
        protect: true,
        ..config()
    };
    world.engine = Some(Engine::open(&world.store(), world.env.clone(), config).unwrap());
}

#[test]
fn a_full_disk_refuses_parity_and_nothing_else() {
    let mut world = World::new();
    world.put("f", &bytes(1, 3_000_000));
    world.close();
    let disk = open_tight(&mut world, 64 << 10);
    let refused = world.engine().protect();
    assert!(matches!(refused, Err(Error::NoSpace)), "{refused:?}");
    let stats = world.engine().parity_stats().unwrap();
    assert!(stats.pending > 0 && stats.trouble.is_some(), "{stats:?}");
    assert_eq!(world.read("f").unwrap(), bytes(1, 3_000_000));
    disk.room.store(1 << 40, Ordering::Relaxed);
    assert!(protect(&world).covered > 0);
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.pending, stats.trouble), (0, None));
    world.close();
}

#[test]
fn i8_a_full_disk_is_emptied_although_there_is_no_room_for_new_parity() {
    let mut world = grouped();
    world.engine().delete_snapshot("one").unwrap();
    for n in 0..3 {
        world.unlink(&format!("f{n}")).unwrap();
    }
    let want = seen(&world, world.engine().root());
    let before = data_packs(&world);
    world.close();
    let disk = open_tight(&mut world, 64 << 10);
    let mut kept = Vec::new();
    // What a run has freed is room for the next; here it never is.
    for _ in 0..4 {
        kept.extend(clean(&world).kept);
        if !before[0].exists() {
            break;
        }
    }
    // What is live in the last of three files' packs has moved.
    assert!(before.iter().take(2).all(|pack| !pack.exists()), "{kept:?}");
    let stats = world.engine().parity_stats().unwrap();
    assert!(stats.packs_weakened > 0, "{stats:?}");
    assert_same(&seen(&world, world.engine().root()), &want);
    disk.room.store(1 << 40, Ordering::Relaxed);
    protect(&world);
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.packs_weakened, stats.pending), (0, 0), "{stats:?}");
    world.assert_sound();
    world.close();
}

#[test]
fn i8_a_repair_does_not_bring_back_a_pack_that_cleaning_has_removed() {
    let mut world = grouped();
    world.engine().delete_snapshot("one").unwrap();
    world.unlink("f0").unwrap();
    let want = seen(&world, world.engine().root());
    let before = data_packs(&world);
    world.close();
    // Without room for parity of the others their group stays, without one of them.
    let _disk = open_tight(&mut world, 64 << 10);
    clean(&world);
    let (there, gone): (Vec<_>, Vec<_>) = before.iter().partition(|pack| pack.exists());
    assert_eq!(gone.len(), 1);
    let stats = world.engine().parity_stats().unwrap();
    assert!(stats.packs_weakened > 0, "{stats:?}");
    ruin(there[2], 500_000, 4096);
    let whole = seen(&world, world.engine().root());
    assert_same(&whole, &want);
    let _ = world.engine().protect();
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!(stats.packs_repaired, 1, "{stats:?}");
    assert!(!gone[0].exists());
    world.close();
}

/// Packs of eighteen commits that have no parity, and the store closed.
fn eighteen_bare() -> World {
    let mut world = World::new();
    for n in 0..18 {
        world.put(&format!("f{n}"), &bytes(100 + n, 3_700_000));
        world.engine().sync().unwrap();
    }
    world.close();
    world
}

#[test]
fn packs_without_parity_become_a_group_without_one_by_one_before() {
    let mut world = eighteen_bare();
    world.open_again();
    let report = protect(&world);
    assert_eq!((report.groups, report.removed), (1, 0), "{report:?}");
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.packs_in_groups, stats.pending), (16, 0), "{stats:?}");
    assert_eq!(stats.packs_bare, 0, "{stats:?}");
    world.assert_sound();
}

#[test]
fn a_pack_that_cannot_be_read_keeps_no_other_from_its_parity() {
    let mut world = eighteen_bare();
    let blind = data_packs(&world).swap_remove(3);
    let disk = open_tight(&mut world, 1 << 40);
    let name = blind.file_name().unwrap().to_str().unwrap();
    disk.blind.set(name.to_owned()).unwrap();
    let failed = world.engine().protect();
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.packs_bare, stats.pending), (1, 1), "{stats:?}");
    assert!(stats.packs_alone + stats.packs_in_groups >= 17, "{stats:?}");
    world.close();
}

/// A crash after the group's file is durable and before the files that it replaces are removed.
#[test]
fn a_group_and_the_files_that_it_replaces_are_both_good() {
    let mut world = eighteen_bare();
    // Too few for groups of this size.
    let alone = Config {
        parity_group_packs: 32,
        ..config()
    };
    world.engine = Some(Engine::open(&world.store(), world.env.clone(), alone).unwrap());
    protect(&world);
    world.close();
    let singles = parity_files(&world).into_iter();
    let singles: Vec<_> = singles
        .map(|p| (p.clone(), std::fs::read(p).unwrap()))
        .collect();
    assert!(singles.len() > 16);
    world.open_again();
    assert_eq!(protect(&world).groups, 1);
    world.close();
    for (path, bytes) in &singles {
        std::fs::write(path, bytes).unwrap();
    }
    world.open_again();
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!(stats.packs_bare + stats.packs_weakened, 0, "{stats:?}");
    assert_eq!(
        (stats.packs_in_groups, stats.pending),
        (16, 16),
        "{stats:?}"
    );
    assert_eq!(protect(&world).removed, 16);
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.packs_in_groups, stats.pending), (16, 0), "{stats:?}");
    world.assert_sound();
}

#[test]
fn after_a_close_every_pack_has_parity() {
    let mut world = World::new();
    world.close();
    open_as_mounted(&mut world);
    world.put("f", &bytes(1, 6_000_000));
    world.put("small", b"a few bytes");
    world.close();
    world.open_read_only().unwrap();
    let stats = world.engine().parity_stats().unwrap();
    assert!(stats.packs_bare == 0 && stats.packs_alone > 2, "{stats:?}");
}

#[test]
fn damage_that_a_read_has_found_is_mended_without_being_asked_for() {
    let (mut world, data) = protected(3_000_000);
    let pack = data_packs(&world)[0].clone();
    let whole = std::fs::read(&pack).unwrap();
    ruin(&pack, 1_000_000, 4096);
    open_as_mounted(&mut world);
    assert_eq!(world.read("f").unwrap(), data);
    while world.engine().parity_stats().unwrap().packs_repaired == 0 {
        std::thread::yield_now();
    }
    assert_eq!(std::fs::read(&pack).unwrap(), whole);
    world.close();
    assert_eq!(std::fs::read(&pack).unwrap(), whole);
}

#[test]
fn readers_of_one_damaged_frame_compute_it_once() {
    let (mut world, data) = protected(3_000_000);
    ruin(&data_packs(&world)[0], 100_000, 1);
    world.open_again();
    let (world, together) = (&world, Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut read = Vec::new();
                let first = |handle| {
                    together.wait();
                    let engine = world.engine();
                    engine.read(handle, FileOff::ZERO, 200_000, &mut read)
                };
                world.with_file("f", first).unwrap();
                assert!(read == data[..200_000]);
            });
        }
    });
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!(
        (stats.reads_healed, stats.damaged_frames),
        (1, 1),
        "{stats:?}"
    );
}

#[test]
fn parity_may_be_on_another_disk_which_may_be_missing() {
    let mut world = World::new();
    world.close();
    let (store, other) = (world.dir.path().join("store-7"), world.beside("other"));
    let options = InitOptions {
        pack_capacity: 4 << 20,
        parity_percent: Some(25),
        parity_dir: Some(other.clone()),
    };
    Engine::init(&store, &world.env, &options).unwrap();
    world.copy = 7;
    world.open_again();
    world.put("f", &bytes(1, 3_000_000));
    world.reopen();
    assert!(protect(&world).covered > 0);
    assert_eq!(world.engine().parity_stats().unwrap().percent, 25);
    assert!(std::fs::read_dir(&other).unwrap().count() > 2);
    world.close();
    // Its disk is not mounted: the directory is gone, or it is there and empty.
    let away = world.beside("away");
    std::fs::rename(&other, &away).unwrap();
    for empty in [false, true] {
        if empty {
            std::fs::create_dir(&other).unwrap();
        }
        world.open_again();
        world.put("g", &bytes(2 + u64::from(empty), 100_000));
        world.reopen();
        assert_eq!(protect(&world), ProtectReport::default());
        let stats = world.engine().parity_stats().unwrap();
        assert!(stats.trouble.is_some() && stats.packs_bare > 0, "{stats:?}");
        assert_eq!(other.exists(), empty);
        assert!(!empty || std::fs::read_dir(&other).unwrap().count() == 0);
        world.close();
    }
    std::fs::remove_dir(&other).unwrap();
    std::fs::rename(&away, &other).unwrap();
    world.open_again();
    protect(&world);
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.packs_bare, stats.trouble), (0, None));
    // A directory that has something in it is not taken.
    let second = world.dir.path().join("store-8");
    let refused = Engine::init(&second, &world.env, &options);
    assert!(
        matches!(refused, Err(Error::CannotInit { .. })),
        "{refused:?}"
    );
    world.close();
}

#[test]
fn a_store_without_parity_makes_none() {
    let mut world = World::new();
    world.close();
    let store = world.dir.path().join("store-7");
    let options = InitOptions {
        parity_percent: Some(0),
        ..InitOptions::default()
    };
    Engine::init(&store, &world.env, &options).unwrap();
    world.copy = 7;
    open_as_mounted(&mut world);
    world.put("f", &bytes(1, 3_000_000));
    world.close();
    world.open_again();
    assert_eq!(protect(&world), ProtectReport::default());
    assert!(parity_files(&world).is_empty());
    let stats = world.engine().parity_stats().unwrap();
    assert_eq!((stats.percent, stats.pending), (0, 0), "{stats:?}");
}
