//! The program as scripts see it: exit codes, JSON fields, messages. Needs no mount and no root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test panics"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mmhfs::hash::{Checksum, checksum};
use serde_json::Value;

fn mmhfs(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mmhfs"))
        .args(arguments)
        .env_remove("MMHFS_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs a command that must succeed and gives its stdout.
fn ok(arguments: &[&str]) -> String {
    let output = mmhfs(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with `code`, with a message on stderr, nothing on stdout and no panic.
fn fails(code: i32, arguments: &[&str]) -> String {
    let output = mmhfs(arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed on stdout");
    assert!(!message.contains("panicked"), "{message}");
    message
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names
}

/// A scratch directory with a store in it.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        ok(&["init", &world.store()]);
        world
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn store(&self) -> String {
        self.path("store")
    }

    /// The store with one snapshot of its (empty) tree; gives the seed.
    fn with_snapshot() -> (Self, String) {
        let world = Self::new();
        let seed = ok(&["snapshot", &world.store(), "v1"]).trim().to_owned();
        (world, seed)
    }

    fn superblocks(&self) -> Vec<PathBuf> {
        let store = PathBuf::from(self.store());
        ["super.0", "super.1", "super.2"]
            .map(|copy| store.join(copy))
            .into()
    }

    fn packs(&self) -> Vec<PathBuf> {
        let mut packs: Vec<PathBuf> = fs::read_dir(Path::new(&self.store()).join("packs"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "log"))
            .collect();
        packs.sort();
        packs
    }

    fn drop_index(&self) {
        let _ = fs::remove_dir_all(Path::new(&self.store()).join("index"));
    }
}

#[test]
fn a_mistake_on_the_command_line_is_2() {
    fails(2, &["no-such-command"]);
    fails(2, &["mount", "only-one-place"]);
    let world = World::new();
    fails(
        2,
        &["mount", "-o", "noatme", &world.store(), &world.path("")],
    );
    fails(2, &["mount", "--memory", "1M", &world.store(), "/"]);
}

#[test]
fn something_that_is_no_store_is_3() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_str().unwrap();
    fs::write(dir.path().join("letter"), "hello").unwrap();
    assert!(fails(3, &["stats", here]).contains(here));
    fails(3, &["stats", &format!("{here}/nowhere")]);
    fails(3, &["mount", &format!("{here}/nowhere"), "/mnt"]);
}

#[test]
fn init_refuses_a_directory_that_holds_something() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letter"), "hello").unwrap();
    fails(2, &["init", dir.path().to_str().unwrap()]);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "init left something behind"
    );
}

#[test]
fn a_store_that_is_in_use_is_4() {
    let world = World::new();
    let lock = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(Path::new(&world.store()).join("lock"))
        .unwrap();
    lock.lock().unwrap();
    fails(4, &["stats", &world.store()]);
}

#[test]
fn a_newer_store_is_6() {
    let world = World::new();
    // docs/format.md, "Superblock": format version and least version at 8, the checksum in the last 32 bytes.
    for path in world.superblocks() {
        let mut bytes = fs::read(&path).unwrap();
        bytes[8..12].copy_from_slice(&9999u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&9999u32.to_le_bytes());
        let sum = checksum(Checksum::Superblock, &[&bytes[..4064]]);
        bytes[4064..].copy_from_slice(&sum);
        fs::write(path, bytes).unwrap();
    }
    assert!(fails(6, &["stats", &world.store()]).contains("9999"));
}

#[test]
fn one_good_superblock_is_enough_and_none_is_3() {
    let world = World::new();
    let copies = world.superblocks();
    for path in &copies[1..] {
        fs::write(path, "cut off").unwrap();
    }
    ok(&["stats", &world.store()]);
    for path in &copies {
        fs::write(path, "cut off").unwrap();
    }
    fails(3, &["stats", &world.store()]);
}

#[test]
fn an_unknown_seed_is_7_and_a_mistyped_one_8() {
    let (world, seed) = World::with_snapshot();
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("x"), "x").unwrap();
    let unknown = ok(&["seed", other.path().to_str().unwrap()])
        .trim()
        .to_owned();
    fails(7, &["ls", &world.store(), &unknown]);
    fails(7, &["ls", &world.store(), "no-such-name"]);
    // One letter changed: the checksum of the text notices.
    let last = if seed.ends_with('q') { 'p' } else { 'q' };
    let mistyped = format!("{}{last}", &seed[..seed.len() - 1]);
    fails(8, &["ls", &world.store(), &mistyped]);
    fails(
        8,
        &["restore", &world.store(), &mistyped, &world.path("out")],
    );
    assert!(
        !Path::new(&world.path("out")).exists(),
        "a failed restore left something"
    );
}

#[test]
fn a_missing_or_truncated_pack_is_9() {
    let (world, _) = World::with_snapshot();
    let first = world.packs().first().unwrap().clone();
    let bytes = fs::read(&first).unwrap();
    world.drop_index();
    // With its parity it would come back.
    fs::remove_dir_all(format!("{}/parity", world.store())).unwrap();
    fs::write(&first, &bytes[..bytes.len() / 2]).unwrap();
    fails(9, &["stats", &world.store()]);
    fs::remove_file(&first).unwrap();
    fails(9, &["stats", &world.store()]);
    fs::write(&first, &bytes).unwrap();
    ok(&["stats", &world.store()]);
}

#[test]
fn a_flipped_byte_is_5_and_names_the_pack() {
    let (world, _) = World::with_snapshot();
    let first = world.packs().first().unwrap().clone();
    let mut bytes = fs::read(&first).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&first, bytes).unwrap();
    world.drop_index();
    let output = mmhfs(&["check", &world.store()]);
    let text = format!("{output:?}");
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(
        text.contains(first.file_stem().unwrap().to_str().unwrap()),
        "{text}"
    );
}

#[test]
fn a_snapshot_name_that_is_taken_is_14() {
    let (world, _) = World::with_snapshot();
    fails(14, &["snapshot", &world.store(), "v1"]);
}

#[test]
fn failures_are_json_too() {
    let message = fails(3, &["--json", "stats", "/dev"]);
    let value = json(&message);
    assert_eq!(names(&value), ["code", "error", "exit"]);
    assert_eq!(value["code"], 3);
    assert_eq!(value["exit"], "not-a-store");
}

#[test]
fn json_has_the_promised_fields() {
    let world = World::new();
    let store = world.store();
    let snapshot = [
        "bytes", "content", "created", "dna", "entries", "name", "seed",
    ];
    let taken = json(&ok(&["--json", "snapshot", &store, "v1"]));
    assert_eq!(names(&taken), snapshot);
    assert!(taken["seed"].as_str().unwrap().starts_with("mmh1"));
    assert!(taken["content"].as_str().unwrap().starts_with("mmc1"));
    let list = json(&ok(&["snapshots", &store, "--json"]));
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0], taken);
    let stats = json(&ok(&["--json", "stats", &store]));
    for field in [
        "store_id",
        "format_version",
        "pack_bytes",
        "packs",
        "logical_bytes",
        "chunks",
        "snapshots",
        "lsn",
    ] {
        assert!(!stats[field].is_null(), "stats lacks {field}");
    }
    let report = json(&ok(&["--json", "check", &store]));
    assert_eq!(
        names(&report),
        [
            "bytes",
            "entries",
            "frames",
            "packs",
            "problems",
            "records",
            "unprotected"
        ]
    );
    let dir = tempfile::tempdir().unwrap();
    let seed = json(&ok(&["--json", "seed", dir.path().to_str().unwrap()]));
    assert_eq!(
        names(&seed),
        ["bytes", "content", "dirs", "dna", "files", "seed"]
    );
    // The same tree as that of the snapshot: an empty one.
    assert_eq!(seed["seed"], taken["seed"]);
    assert_eq!(seed["dna"], taken["dna"]);
    ok(&["verify", &store, seed["dna"].as_str().unwrap()]);
}

#[test]
fn snapshots_come_and_go() {
    let (world, seed) = World::with_snapshot();
    let store = world.store();
    assert!(ok(&["snapshots", &store]).contains(&seed));
    assert_eq!(
        ok(&["snapshot", &store, "again"]).trim(),
        seed,
        "the same tree has the same seed"
    );
    assert_eq!(ok(&["diff", &store, "v1", "again"]), "");
    ok(&["verify", &store, &seed]);
    ok(&["restore", &store, "v1", &world.path("out")]);
    ok(&["rollback", &store, "v1"]);
    ok(&["delete-snapshot", &store, "v1", "again"]);
    assert_eq!(ok(&["snapshots", &store]), "");
    fails(7, &["delete-snapshot", &store, "v1"]);
}

#[test]
fn the_index_can_be_made_anew() {
    let (world, seed) = World::with_snapshot();
    world.drop_index();
    ok(&["rebuild-index", &world.store()]);
    assert!(ok(&["snapshots", &world.store()]).contains(&seed));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mmhfs"))
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn manuals_and_completions_cover_every_command() {
    let dir = tempfile::tempdir().unwrap();
    ok(&["man", dir.path().to_str().unwrap()]);
    for command in ["mount", "umount", "snapshot", "restore", "rebuild-index"] {
        let page = fs::read_to_string(dir.path().join(format!("mmhfs-{command}.1"))).unwrap();
        assert!(page.contains("EXIT STATUS"), "{command} has no exit codes");
        for shell in ["bash", "zsh", "fish"] {
            assert!(
                ok(&["completions", shell]).contains(command),
                "{shell} lacks {command}"
            );
        }
    }
}

/// Covers every pack of a store that is not open, each by a parity file of its own.
fn cover(store: &str) {
    use mmhfs::chunk::{PackToCover, ParityConfig, ParityPlace, ParityStore, load_superblock};
    use mmhfs::disk::{Disk, RealDisk};
    use mmhfs::format::{parity::ParityKind, rows::PackKind};
    use std::sync::Arc;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(store));
    let id = load_superblock(disk.as_ref()).unwrap().store;
    let place = ParityPlace::within(Arc::clone(&disk));
    let parity = ParityStore::open(disk, place, id).unwrap();
    for entry in fs::read_dir(Path::new(store).join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let pack = mmhfs::base::PackId::from_raw(u64::from_str_radix(stem, 16).unwrap());
        if parity.covering(pack).is_some() {
            continue;
        }
        let log = path.extension().is_some_and(|e| e == "log");
        let kind = if log { PackKind::Log } else { PackKind::Data };
        let cover = PackToCover {
            pack,
            kind,
            digest: None,
        };
        let config = ParityConfig::default();
        parity
            .encode(ParityKind::Single, &[cover], &config)
            .unwrap();
    }
}

#[test]
fn scrub_says_by_its_exit_code_what_it_found() {
    let (world, _) = World::with_snapshot();
    let store = world.store();
    let clean = json(&ok(&["--json", "scrub", &store]));
    assert_eq!(
        names(&clean),
        [
            "bytes",
            "damaged",
            "damaged_more",
            "finished",
            "left",
            "packs",
            "parity_files",
            "quarantined",
            "repaired",
            "unprotected"
        ]
    );
    cover(&store);
    let pack = world.packs().first().unwrap().clone();
    let good = fs::read(&pack).unwrap();
    let mut bytes = good.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&pack, &bytes).unwrap();
    let found = mmhfs(&["--json", "scrub", &store]);
    assert_eq!(found.status.code(), Some(5), "{found:?}");
    let facts = json(&String::from_utf8(found.stdout).unwrap());
    let damage = &facts["damaged"][0];
    assert_eq!(
        names(damage),
        ["detail", "file", "paths", "paths_more", "ranges", "state"]
    );
    assert_eq!(damage["state"], "repairable");
    let repaired = mmhfs(&["scrub", &store, "--repair", "--rate", "100M/s"]);
    assert_eq!(repaired.status.code(), Some(21), "{repaired:?}");
    assert!(fs::read(&pack).unwrap() == good);
    let text = ok(&["scrub", &store, "--restart"]);
    assert!(text.contains("scrubbed"), "{text}");
    fails(2, &["scrub", &store, "--rate", "fast"]);
}

#[test]
fn salvage_lists_what_is_lost_and_says_when_nothing_is() {
    let (world, seed) = World::with_snapshot();
    let (store, out, live) = (world.store(), world.path("out"), world.path("live"));
    let facts = json(&ok(&[
        "--json",
        "restore",
        "--salvage",
        &store,
        &seed,
        &out,
    ]));
    assert_eq!(
        names(&facts),
        [
            "bytes",
            "checkpoints",
            "damaged",
            "damaged_more",
            "entries",
            "holes",
            "holes_more",
            "log_skipped",
            "log_skipped_more",
            "verified",
            "warnings"
        ]
    );
    assert_eq!(facts["verified"], seed.as_str());
    ok(&["restore", "--salvage", "--live", &store, &live]);
    assert!(Path::new(&live).is_dir());
    fails(2, &["restore", "--salvage", &store, &seed]);
    fails(2, &["restore", "--live", &store, &live]);
    fails(2, &["restore", "--salvage", "--live", &store, &seed, &live]);
    fails(
        7,
        &["restore", "--salvage", &store, "nothing", &world.path("x")],
    );
    let inside = format!("{store}/out");
    fails(2, &["restore", "--salvage", &store, &seed, &inside]);
}

#[test]
fn check_repairs_what_can_be_derived() {
    let (world, _) = World::with_snapshot();
    let store = world.store();
    ok(&["check", "--repair", &store]);
    cover(&store);
    let pack = world.packs().first().unwrap().clone();
    let good = fs::read(&pack).unwrap();
    let mut bytes = good.clone();
    bytes[200] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let done = mmhfs(&["--json", "check", "--repair", &store]);
    assert_eq!(done.status.code(), Some(21), "{done:?}");
    let facts = json(&String::from_utf8(done.stdout).unwrap());
    assert_eq!(facts["repaired"].as_array().unwrap().len(), 1);
    assert_eq!(facts["problems"].as_array().unwrap().len(), 0);
    assert!(fs::read(&pack).unwrap() == good);
    ok(&["check", "--repair", &store]);
}
