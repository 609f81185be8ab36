//! Scrubbing: every kind of rot is found, what parity allows comes back byte for byte, and what is lost is named.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a failure here is a failed test"
)]

#[path = "scrub/damage.rs"]
mod damage;
#[path = "scrub/online.rs"]
mod online;
#[path = "engine/world.rs"]
#[allow(dead_code, reason = "the world of the engine's own tests")]
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmhfs::chunk::{
    PackToCover, ParityConfig, ParityPlace, ParityStore, load_superblock, pack_name,
};
use mmhfs::disk::{Disk, RealDisk};
use mmhfs::engine::{DamageState, ScrubOptions, ScrubReport};
use mmhfs::format::parity::ParityKind;
use mmhfs::format::rows::PackKind;
use world::{Dice, World};

pub(crate) const LOOK: ScrubOptions = ScrubOptions {
    repair: false,
    rate: None,
    restart: false,
};
pub(crate) const REPAIR: ScrubOptions = ScrubOptions {
    repair: true,
    ..LOOK
};

pub(crate) fn scrub(world: &World, options: &ScrubOptions) -> ScrubReport {
    let report = world.engine().scrub(options, &|_| true).unwrap();
    assert!(report.is_finished);
    assert_eq!(report.damaged_more, 0);
    report
}

#[track_caller]
pub(crate) fn assert_clean(report: &ScrubReport) {
    assert!(report.damaged.is_empty(), "{:#?}", report.damaged);
    assert_eq!((report.left, report.repaired), (0, 0));
}

/// Files in several packs, a snapshot of them, and one more file that only the live tree has.
pub(crate) fn filled() -> World {
    let world = World::new();
    world.mkdir("d").unwrap();
    world.put("d/small", b"a small file");
    world.put("d/big", &Dice(1).bytes(6_000_000));
    world.put("alone", &Dice(2).bytes(300_000));
    world.link("alone", "d/linked").unwrap();
    world.snapshot("one");
    world.put("later", &Dice(3).bytes(2_000_000));
    world.engine().sync().unwrap();
    world
}

/// Closes a store, covers all its packs as one group, and opens it again.
pub(crate) fn cover(world: &mut World, percent: u8) {
    world.close();
    cover_closed(&world.store(), percent);
    world.open_again();
}

pub(crate) fn cover_closed(store: &Path, percent: u8) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(store));
    let id = load_superblock(disk.as_ref()).unwrap().store;
    let place = ParityPlace::within(Arc::clone(&disk));
    let parity = ParityStore::open(disk, place, id).unwrap();
    let packs: Vec<_> = pack_files(store)
        .keys()
        .map(|path| {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let log = path.extension().is_some_and(|e| e == "log");
            PackToCover {
                pack: mmhfs::base::PackId::from_raw(u64::from_str_radix(stem, 16).unwrap()),
                kind: if log { PackKind::Log } else { PackKind::Data },
                digest: None,
            }
        })
        .collect();
    let config = ParityConfig {
        percent,
        ..ParityConfig::default()
    };
    parity
        .encode(ParityKind::Group, &packs, &config)
        .unwrap()
        .unwrap();
}

/// The pack files and their bytes.
pub(crate) fn pack_files(store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let list = std::fs::read_dir(store.join("packs")).unwrap();
    let files = list.map(|entry| entry.unwrap().path());
    files
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect()
}

/// Name of a pack within the store.
pub(crate) fn name_of(path: &Path) -> String {
    format!("packs/{}", path.file_name().unwrap().to_str().unwrap())
}

pub(crate) fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    how(&mut bytes);
    // In its place, as rot is: whoever has it open sees it.
    std::fs::write(path, bytes).unwrap();
}

/// The parity files.
pub(crate) fn parity_files(world: &World) -> Vec<PathBuf> {
    let list = std::fs::read_dir(world.store().join("parity")).unwrap();
    list.map(|entry| entry.unwrap().path()).collect()
}

/// The one damaged file of a report.
#[track_caller]
pub(crate) fn only(report: &ScrubReport) -> (&str, DamageState) {
    assert_eq!(report.damaged.len(), 1, "{:#?}", report.damaged);
    (&report.damaged[0].file, report.damaged[0].state)
}

#[test]
fn names_of_packs_are_those_of_the_store() {
    let name = pack_name(mmhfs::base::PackId::from_raw(3), PackKind::Data);
    assert_eq!(name_of(Path::new("x").join(&name).as_path()), name);
}
