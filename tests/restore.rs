//! Restoring snapshots to plain directories and rolling back to them, through the engine.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "restore/world.rs"]
mod world;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use mmhfs::base::{Error, Ino};
use mmhfs::engine::{Caller, PlainSeedOptions, RestoreOptions, RestoreReport, seed_of_dir};
use world::{TREE_NAMES, World, is_root};

const PLAIN: RestoreOptions = RestoreOptions {
    resume: false,
    overwrite: false,
    threads: None,
    salvage: false,
};
const RESUME: RestoreOptions = RestoreOptions {
    resume: true,
    ..PLAIN
};
const OVERWRITE: RestoreOptions = RestoreOptions {
    overwrite: true,
    ..PLAIN
};

fn plain_seed(dir: &Path) -> String {
    let seed = seed_of_dir(dir, &PlainSeedOptions::default(), &|_| ()).unwrap();
    seed.seed.to_string()
}

fn restore(
    world: &World,
    path: Option<&[u8]>,
    dest: &Path,
    options: &RestoreOptions,
) -> Result<RestoreReport, Error> {
    world.engine.restore("snap", path, dest, options, &|_| ())
}

/// Names of everything below a directory, temporary ones included.
fn names(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.to_string_lossy().into_owned());
        if path.is_dir() && !path.is_symlink() {
            found.extend(names(&path));
        }
    }
    found
}

#[test]
fn a_restored_tree_has_the_seed_of_its_snapshot() {
    let world = World::with_tree();
    let snapshot = world.snapshot("snap");
    let dest = world.path("out/deep/er");
    let report = restore(&world, None, &dest, &PLAIN).unwrap();
    assert_eq!(report.warnings, Vec::<String>::new());
    assert_eq!((report.entries, report.skipped), (snapshot.entries, 0));
    assert_eq!(plain_seed(&dest), snapshot.seed);
    assert!(
        names(&dest)
            .iter()
            .all(|name| !name.contains("mmhfs-restore"))
    );

    let sparse = fs::metadata(dest.join("sparse")).unwrap();
    assert_eq!(sparse.len(), (70 << 20) + 5);
    assert!(sparse.blocks() * 512 < 2 << 20, "holes stay holes");
    let (one, two) = (dest.join("sub/one"), dest.join("other"));
    assert_eq!(
        fs::metadata(one).unwrap().ino(),
        fs::metadata(two).unwrap().ino()
    );
    assert!(
        fs::metadata(dest.join("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    // The destination was made by the restore: it gets the attributes of the root.
    let root = fs::metadata(&dest).unwrap();
    assert_eq!((root.mode() & 0o7777, root.mtime()), (0o751, 1_111_111));
}

#[test]
fn a_directory_that_was_there_keeps_its_own_attributes() {
    let world = World::with_tree();
    let snapshot = world.snapshot("snap");
    let dest = world.path("out");
    fs::create_dir(&dest).unwrap();
    fs::set_permissions(&dest, fs::Permissions::from_mode(0o700)).unwrap();
    restore(&world, None, &dest, &PLAIN).unwrap();
    assert_eq!(fs::metadata(&dest).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(plain_seed(&dest), snapshot.seed);
}

#[test]
fn a_subtree_or_a_file_can_be_restored_alone() {
    let world = World::with_tree();
    world.snapshot("snap");
    let (sub, file) = (world.path("sub"), world.path("file"));
    restore(&world, Some(b"/sub/"), &sub, &PLAIN).unwrap();
    assert_eq!(fs::read(sub.join("one")).unwrap(), b"linked");
    assert!(!sub.join("other").exists());
    let report = restore(&world, Some(b"sub/one"), &file, &PLAIN).unwrap();
    assert_eq!((report.entries, report.bytes), (1, 6));
    assert_eq!(fs::read(file.join("one")).unwrap(), b"linked");
    let missing = restore(&world, Some(b"sub/none"), &file, &PLAIN);
    assert!(matches!(missing, Err(Error::NotFound)));
    let through = restore(&world, Some(b"sub/one/x"), &file, &PLAIN);
    assert!(matches!(through, Err(Error::NotDirectory)));
    let up = restore(&world, Some(b"sub/../sub"), &file, &PLAIN);
    assert!(matches!(up, Err(Error::Usage(_))));
}

#[test]
fn symbolic_links_planted_in_the_destination_are_not_followed() {
    let world = World::with_tree();
    world.snapshot("snap");
    for options in [PLAIN, RESUME, OVERWRITE] {
        let dest = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        // One in place of a directory, one in place of a file.
        symlink(outside.path(), dest.path().join("sub")).unwrap();
        symlink(&victim, dest.path().join("small")).unwrap();
        let result = restore(&world, None, dest.path(), &options);
        assert_eq!(result.is_ok(), options.overwrite, "{result:?}");
        assert_eq!(names(outside.path()).len(), 1);
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        if options.overwrite {
            assert!(!dest.path().join("sub").is_symlink());
            assert!(!dest.path().join("small").is_symlink());
        }
    }
}

#[test]
fn names_that_are_taken_are_an_error_and_stay_as_they_are() {
    let world = World::with_tree();
    world.snapshot("snap");
    let dest = world.path("out");
    fs::create_dir(&dest).unwrap();
    fs::write(dest.join("small"), "mine").unwrap();
    for options in [PLAIN, RESUME] {
        let error = restore(&world, None, &dest, &options).unwrap_err();
        let taken =
            matches!(&error, Error::InFile { source, .. } if matches!(**source, Error::Exists));
        assert!(taken, "{error}");
        assert_eq!(fs::read(dest.join("small")).unwrap(), b"mine");
    }
    let seed = world.engine.resolve("snap").unwrap().seed;
    restore(&world, None, &dest, &OVERWRITE).unwrap();
    assert_eq!(plain_seed(&dest), seed);
}

#[test]
fn resuming_keeps_equal_files_and_restores_the_rest() {
    let world = World::with_tree();
    let snapshot = world.snapshot("snap");
    let dest = world.path("out");
    let first = restore(&world, None, &dest, &PLAIN).unwrap();
    fs::remove_file(dest.join("small")).unwrap();
    fs::remove_file(dest.join("sub/one")).unwrap();
    fs::set_permissions(dest.join("empty"), fs::Permissions::from_mode(0o600)).unwrap();
    let kept = fs::metadata(dest.join("sparse")).unwrap().ino();
    let report = restore(&world, None, &dest, &RESUME).unwrap();
    assert_eq!(fs::metadata(dest.join("sparse")).unwrap().ino(), kept);
    assert_eq!(report.entries, first.entries);
    // All but the two that were gone and the three directories; one of the two is a name of a kept file.
    assert_eq!(report.skipped, first.entries - 2 - 3);
    assert_eq!(report.bytes, 5);
    assert_eq!(plain_seed(&dest), snapshot.seed);
}

#[test]
fn a_file_with_the_same_size_and_time_but_other_bytes_is_not_kept() {
    let world = World::with_tree();
    world.snapshot("snap");
    let dest = world.path("out");
    restore(&world, None, &dest, &PLAIN).unwrap();
    let path = dest.join("small");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "SMALL").unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(time).unwrap();
    let error = restore(&world, None, &dest, &RESUME).unwrap_err();
    assert!(error.to_string().contains("small"), "{error}");
    let both = RestoreOptions {
        overwrite: true,
        ..RESUME
    };
    let report = restore(&world, None, &dest, &both).unwrap();
    assert_eq!(report.bytes, 5);
    assert_eq!(fs::read(&path).unwrap(), b"small");
}

#[test]
fn i3_damage_is_listed_with_its_bytes_and_everything_else_is_restored() {
    let world = World::new();
    let bytes: Vec<u8> = (0..900_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let dir = world.mkdir(Ino::ROOT, b"dir");
    let victim = world.write(dir, b"victim", &bytes);
    world.engine.link(victim, dir, b"another name").unwrap();
    for name in [&b"a"[..], b"good", b"z"] {
        world.write(Ino::ROOT, name, name);
        world.write(dir, name, name);
    }
    world.snapshot("snap");
    let world = world.with_a_flipped_byte();
    let dest = world.path("out");
    let report = restore(&world, None, &dest, &PLAIN).unwrap();
    let damaged: Vec<&[u8]> = report.damaged.iter().map(|d| d.path.as_slice()).collect();
    assert_eq!(damaged, [&b"dir/another name"[..], b"dir/victim"]);
    assert!(report.damaged.iter().all(|d| !d.cause.is_empty()));
    // Only the chunks of one frame are lost, and one of the two names tells which.
    let ranges: Vec<_> = report.damaged.iter().flat_map(|d| &d.ranges).collect();
    let lost: u64 = ranges.iter().map(|r| r.end - r.start).sum();
    assert!(0 < lost && lost < 1_000_000, "{ranges:?}");
    assert!(ranges.iter().all(|r| r.end <= bytes.len() as u64));
    let found = names(&dest);
    // Five directories and files, and three files below.
    assert_eq!(found.len(), 7, "{found:?}");
    assert!(
        found
            .iter()
            .all(|name| !name.contains("victim") && !name.contains("mmhfs-restore")),
        "{found:?}"
    );
    assert_eq!(fs::read(dest.join("dir/good")).unwrap(), b"good");
    assert_eq!(report.entries, 7);
}

#[test]
fn the_store_is_no_place_to_restore_to() {
    let world = World::with_tree();
    world.snapshot("snap");
    let link = world.path("link");
    symlink(&world.store, &link).unwrap();
    let inside = [
        world.store.clone(),
        world.store.join("packs"),
        world.store.join("new/deep"),
        link.join("out"),
        world.store.join("../link/out"),
    ];
    let before = names(&world.store).len();
    for dest in inside {
        let error = restore(&world, None, &dest, &PLAIN).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
        assert!(error.to_string().contains("inside the store"), "{error}");
    }
    assert_eq!(names(&world.store).len(), before);
    restore(&world, None, &world.store.join("../out"), &PLAIN).unwrap();
}

#[test]
fn flags_that_are_not_restored_are_told() {
    let world = World::new();
    let file = world.write(Ino::ROOT, b"locked", b"locked");
    let dir = world.mkdir(Ino::ROOT, b"log");
    for ino in [file, dir] {
        let flags = world.engine.getattr(ino).unwrap().flags;
        let immutable = 0x10;
        world
            .engine
            .set_flags(&Caller::default(), ino, flags | immutable)
            .unwrap();
    }
    world.snapshot("snap");
    let dest = world.path("out");
    let report = restore(&world, None, &dest, &PLAIN).unwrap();
    assert_eq!(report.warnings.len(), 2, "{:?}", report.warnings);
    for name in ["locked", "log"] {
        let path = dest.join(name).to_string_lossy().into_owned();
        let told = |text: &&String| text.starts_with(&path) && text.contains("immutable");
        assert_eq!(report.warnings.iter().filter(told).count(), 1);
    }
}

#[test]
fn a_deep_tree_is_restored_with_few_open_directories() {
    let world = World::new();
    let mut at = Ino::ROOT;
    for n in 0..300 {
        at = world.mkdir(at, b"d");
        world.write(at, b"f", format!("{n}").as_bytes());
    }
    let snapshot = world.snapshot("snap");
    let dest = world.path("out");
    restore(&world, None, &dest, &PLAIN).unwrap();
    assert_eq!(plain_seed(&dest), snapshot.seed);
}

#[test]
fn a_directory_of_many_pages_is_restored_and_rolled_back() {
    let world = World::new();
    let dir = world.mkdir(Ino::ROOT, b"many");
    for n in 0..1_500 {
        world.write(
            dir,
            format!("file {n}").as_bytes(),
            format!("{n}").as_bytes(),
        );
    }
    let snapshot = world.snapshot("snap");
    let dest = world.path("out");
    restore(&world, None, &dest, &PLAIN).unwrap();
    assert_eq!(plain_seed(&dest), snapshot.seed);
    for n in (0..1_500).step_by(2) {
        world
            .engine
            .unlink(dir, format!("file {n}").as_bytes())
            .unwrap();
        world.write(dir, format!("new {n}").as_bytes(), b"new");
    }
    world.engine.rollback("snap").unwrap();
    assert_eq!(world.snapshot("again").seed, snapshot.seed);
}

#[test]
fn rolling_back_gives_the_same_seed_whatever_was_changed() {
    let world = World::with_tree();
    let snapshot = world.snapshot("snap");
    let listing = world.listing();
    world.change_everything();
    assert_ne!(world.snapshot("changed").seed, snapshot.seed);
    world.engine.rollback("snap").unwrap();
    assert_eq!(world.listing(), listing);
    assert_eq!(world.snapshot("again").seed, snapshot.seed);
    // And forth, and from an index that was made anew from the log.
    let changed = world.engine.resolve("changed").unwrap().seed;
    world.engine.rollback("changed").unwrap();
    assert_eq!(world.snapshot("forth").seed, changed);
    let world = world.reopened();
    world.engine.rollback(&snapshot.seed).unwrap();
    assert_eq!(world.listing(), listing);
    assert_eq!(world.snapshot("back").seed, snapshot.seed);
}

#[test]
fn a_removed_tree_comes_back_without_new_data() {
    let world = World::with_tree();
    let snapshot = world.snapshot("snap");
    for name in TREE_NAMES {
        world.remove_all(Ino::ROOT, name);
    }
    world.engine.sync().unwrap();
    let before = world.engine.stats().unwrap().pack_bytes;
    world.engine.rollback("snap").unwrap();
    let after = world.engine.stats().unwrap().pack_bytes;
    assert!(after - before < 64 << 10, "{before} {after}");
    let dest = world.path("out");
    assert_eq!(world.snapshot("again").seed, snapshot.seed);
    world
        .engine
        .restore("again", None, &dest, &PLAIN, &|_| ())
        .unwrap();
    assert_eq!(plain_seed(&dest), snapshot.seed);
}

#[test]
fn a_rollback_survives_a_crash_whole() {
    let world = World::with_tree();
    let snapshot = world.snapshot("snap");
    world.change_everything();
    world.engine.rollback("snap").unwrap();
    // The copy of the store is what a crash right after it leaves.
    let copy = world.copied();
    assert_eq!(copy.snapshot("again").seed, snapshot.seed);
}

#[test]
fn rolling_back_an_unchanged_tree_changes_no_inode() {
    let world = World::with_tree();
    world.snapshot("snap");
    let before = world.ctimes();
    world.engine.rollback("snap").unwrap();
    assert_eq!(world.ctimes(), before);
}

#[test]
fn a_store_with_open_files_is_not_rolled_back() {
    let world = World::with_tree();
    world.snapshot("snap");
    let handle = world.open(b"small");
    assert!(matches!(world.engine.rollback("snap"), Err(Error::Busy(_))));
    world.engine.release(handle).unwrap();
    world.engine.rollback("snap").unwrap();
    assert!(matches!(
        world.engine.rollback("none"),
        Err(Error::SeedUnknown(_))
    ));
}

#[test]
fn names_that_are_not_utf8_come_out_byte_for_byte() {
    let world = World::with_tree();
    world.snapshot("snap");
    let dest = world.path("out");
    restore(&world, None, &dest, &PLAIN).unwrap();
    let odd = dest.join(std::ffi::OsStr::from_bytes(b"odd\xff\n name"));
    assert!(odd.exists());
    assert_eq!(is_root(), dest.join("device").symlink_metadata().is_ok());
}
