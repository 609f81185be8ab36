//! Salvage: whatever is damaged, every intact byte comes out, every hole is listed exactly, and the store is not written to.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a failure here is a failed test"
)]

#[path = "engine/world.rs"]
#[allow(dead_code, reason = "the world of the engine's own tests")]
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mmhfs::base::{Error, Result};
use mmhfs::engine::{CleanOptions, Engine, SalvageOptions, SalvageReport};
use world::{Dice, World, config, env, plain_seed, remove_index};

/// Files by path, as they were.
type Files = BTreeMap<String, Vec<u8>>;

/// A store that was closed, what its snapshot `one` holds, and what the live tree does.
struct Made {
    world: World,
    seed: String,
    snapshot: Files,
    live: Files,
}

fn made(protect: bool) -> Made {
    let mut world = World::new();
    let mut live = Files::new();
    let mut put = |world: &World, path: &str, bytes: Vec<u8>| {
        world.put(path, &bytes);
        live.insert(path.to_owned(), bytes);
    };
    world.mkdir("d").unwrap();
    world.mkdir("d/deep").unwrap();
    put(&world, "d/small", b"a small file".to_vec());
    put(&world, "d/big", Dice(1).bytes(6_000_000));
    for n in 0..30 {
        put(&world, &format!("d/deep/f{n}"), Dice(10 + n).bytes(90_000));
        world.engine().sync().unwrap();
    }
    world.link("d/small", "linked").unwrap();
    world.set_xattr("d/small", "user.note", b"kept").unwrap();
    world.symlink("sym", "d/big").unwrap();
    let seed = world.snapshot("one").seed;
    let mut snapshot = Files::new();
    for (path, bytes) in &live {
        snapshot.insert(path.clone(), bytes.clone());
    }
    for n in 0..20 {
        let path = format!("later{n}");
        let bytes = Dice(100 + n).bytes(120_000);
        world.put(&path, &bytes);
        live.insert(path, bytes);
        world.engine().sync().unwrap();
    }
    snapshot.insert("linked".to_owned(), b"a small file".to_vec());
    live.insert("linked".to_owned(), b"a small file".to_vec());
    if protect {
        world.reopen();
        world.engine().protect().unwrap();
    }
    world.close();
    Made {
        world,
        seed,
        snapshot,
        live,
    }
}

impl Made {
    fn store(&self) -> PathBuf {
        self.world.store()
    }

    fn packs(&self, extension: &str) -> Vec<PathBuf> {
        let mut packs = self.world.packs();
        packs.retain(|path| path.extension().is_some_and(|e| e == extension));
        packs
    }

    fn salvage(&self, snapshot: Option<&str>, name: &str) -> Result<SalvageReport> {
        let scratch = self.world.beside(&format!("{name}.scratch"));
        let options = SalvageOptions {
            snapshot: snapshot.map(str::to_owned),
            scratch: name.contains("disk").then(|| scratch.clone()),
            overwrite: false,
        };
        let dest = self.world.beside(name);
        let before = files_of(&self.store());
        let report = loop {
            let done = Engine::salvage(&self.store(), &env(7), &config(), &options, &dest, &|_| ());
            match done {
                Err(Error::Locked { .. }) => std::thread::yield_now(),
                other => break other,
            }
        };
        assert!(
            before == files_of(&self.store()),
            "the store was written to"
        );
        assert!(!scratch.exists(), "the scratch directory is left");
        report
    }

    /// Salvages, and compares every byte with what it was.
    #[track_caller]
    fn check(&self, snapshot: bool, name: &str) -> SalvageReport {
        let report = self
            .salvage(snapshot.then_some(self.seed.as_str()), name)
            .unwrap();
        let want = if snapshot { &self.snapshot } else { &self.live };
        assert_holes(want, &self.world.beside(name), &report);
        report
    }
}

/// All files of a store but for its lock.
fn files_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.file_name().unwrap() != "lock" {
                found.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    found
}

/// Every byte outside of the holes is what it was, every byte in them is zero, and what is absent is said to be.
#[track_caller]
fn assert_holes(want: &Files, dest: &Path, report: &SalvageReport) {
    let damaged: BTreeMap<String, _> = report
        .restored
        .damaged
        .iter()
        .map(|damage| (String::from_utf8(damage.path.clone()).unwrap(), damage))
        .collect();
    for (path, bytes) in want {
        let below_damage = damaged
            .iter()
            .any(|(dir, _)| dir.is_empty() || path.starts_with(&format!("{dir}/")));
        let found = fs::read(dest.join(path));
        let Ok(found) = found else {
            let told = below_damage || damaged.contains_key(path) || !report.skipped.is_empty();
            assert!(told, "{path} is missing and nothing says so: {report:#?}");
            continue;
        };
        let Some(damage) = damaged.get(path) else {
            if report.skipped.is_empty() || report.verified.is_some() {
                assert!(found == *bytes, "{path} differs and nothing says so");
            }
            continue;
        };
        if damage.ranges.is_empty() {
            continue;
        }
        assert_eq!(found.len(), bytes.len(), "{path}");
        let mut expected = bytes.clone();
        for range in &damage.ranges {
            expected[range.start as usize..range.end as usize].fill(0);
        }
        assert!(
            found == expected,
            "{path}: the holes are not those that are listed"
        );
    }
}

fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    how(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_intact_store_comes_out_whole_and_its_seed_verifies() {
    let made = made(false);
    for (n, lost) in ["nothing", "the index", "two superblocks"]
        .into_iter()
        .enumerate()
    {
        match lost {
            "the index" => remove_index(&made.store()),
            "two superblocks" => {
                fs::remove_file(made.store().join("super.0")).unwrap();
                change(&made.store().join("super.2"), |bytes| bytes[20] ^= 1);
            }
            _ => {}
        }
        let name = format!("snapshot-disk-{n}");
        let report = made.check(true, &name);
        assert!(report.is_whole(), "{lost}: {report:#?}");
        assert_eq!(report.verified.as_ref(), Some(&made.seed), "{lost}");
        if nix::unistd::geteuid().is_root() {
            assert_eq!(plain_seed(&made.world.beside(&name)), made.seed);
        }
        let report = made.check(false, &format!("live-{n}"));
        assert!(report.is_whole() && report.skipped.is_empty(), "{lost}");
        let live = made.world.beside(&format!("live-{n}"));
        assert_eq!(
            xattr::get(live.join("d/small"), "user.note")
                .unwrap()
                .unwrap(),
            b"kept"
        );
        assert_eq!(fs::read_link(live.join("sym")).unwrap(), Path::new("d/big"));
        let inode = |path: &str| {
            use std::os::unix::fs::MetadataExt as _;
            fs::metadata(live.join(path)).unwrap().ino()
        };
        assert_eq!(inode("d/small"), inode("linked"));
    }
}

#[test]
fn a_lost_data_pack_is_holes_of_exactly_the_bytes_that_were_in_it() {
    let made = made(false);
    for (n, pack) in made.packs("dat").into_iter().enumerate() {
        let whole = fs::read(&pack).unwrap();
        fs::remove_file(&pack).unwrap();
        let report = made.check(true, &format!("gone{n}"));
        let lost: u64 = report
            .restored
            .damaged
            .iter()
            .flat_map(|damage| &damage.ranges)
            .map(|range| range.end - range.start)
            .sum();
        assert!(lost <= whole.len() as u64 * 2, "{n}: {lost}");
        assert!(lost > 0 || report.is_whole());
        assert!(report.verified.is_some() == report.restored.damaged.is_empty());
        let report = made.check(false, &format!("live-gone{n}"));
        assert!(report.skipped.is_empty());
        fs::write(&pack, &whole).unwrap();
        // Half of it: what is in the other half comes out.
        fs::write(&pack, &whole[..whole.len() / 2]).unwrap();
        made.check(true, &format!("half{n}"));
        fs::write(&pack, whole).unwrap();
    }
}

#[test]
fn damage_in_the_log_is_passed_over_and_told() {
    let made = made(false);
    let logs = made.packs("log");
    assert!(logs.len() > 1, "{logs:?}");
    for (n, log) in logs.iter().enumerate() {
        let whole = fs::read(log).unwrap();
        change(log, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle..middle + 3000].fill(0xaa);
        });
        let report = made.check(true, &format!("log{n}"));
        let name = format!("packs/{}", log.file_name().unwrap().to_str().unwrap());
        assert!(
            report.skipped.iter().any(|skipped| skipped.pack == name),
            "{report:#?}"
        );
        let middle = whole.len() as u64 / 2;
        assert!(
            report.skipped.iter().any(|s| s.range.contains(&middle)),
            "{report:#?}"
        );
        let report = made.check(false, &format!("live-log{n}"));
        assert!(!report.is_whole());
        fs::write(log, whole).unwrap();
    }
}

#[test]
fn a_log_pack_that_is_gone_does_not_take_the_rest_with_it() {
    let made = made(false);
    for (n, log) in made.packs("log").into_iter().enumerate() {
        let whole = fs::read(&log).unwrap();
        fs::remove_file(&log).unwrap();
        match made.salvage(Some(&made.seed), &format!("lost{n}")) {
            Ok(report) => {
                assert!(!report.skipped.is_empty());
                assert_holes(
                    &made.snapshot,
                    &made.world.beside(&format!("lost{n}")),
                    &report,
                );
            }
            // The root itself was in it.
            Err(Error::SeedUnknown(_)) => {}
            Err(error) => panic!("{error}"),
        }
        fs::write(&log, whole).unwrap();
    }
}

#[test]
fn parity_brings_out_what_the_disk_does_not_have() {
    let made = made(true);
    let all = made.world.packs();
    for (n, pack) in all.iter().enumerate() {
        let whole = fs::read(pack).unwrap();
        // A sector here and there, in every pack in turn.
        change(pack, |bytes| {
            let at = bytes.len() / 3 / 4096 * 4096;
            let end = bytes.len().min(at + 4096);
            bytes[at..end].fill(0x77);
        });
        let report = made.check(true, &format!("healed{n}"));
        assert_eq!(report.verified.as_ref(), Some(&made.seed), "{report:#?}");
        let report = made.check(false, &format!("live-healed{n}"));
        assert!(report.is_whole(), "{report:#?}");
        fs::write(pack, whole).unwrap();
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_other_one() {
    let mut made = made(false);
    made.world.open_again();
    let clean = CleanOptions {
        unused_percent: 0,
        ..CleanOptions::default()
    };
    for n in 0..3 {
        made.world.put("d/extra", &Dice(900 + n).bytes(100_000));
        made.world.engine().sync().unwrap();
        made.world.unlink("d/extra").unwrap();
        made.world.engine().clean(&clean, &|_, _| {}).unwrap();
    }
    made.world.close();
    let copies = made.world.checkpoints();
    assert_eq!(copies.len(), 2);
    let newest = copies.last().unwrap();
    let whole = fs::read(newest).unwrap();
    change(newest, |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    let report = made.check(true, "checkpoint");
    assert_eq!(report.checkpoints.len(), 1);
    assert_eq!(report.verified.as_ref(), Some(&made.seed));
    made.check(false, "live-checkpoint");
    // Without any the snapshot is found by its root.
    for copy in &copies {
        change(copy, Vec::clear);
    }
    let report = made.check(true, "no-checkpoint");
    assert_eq!(report.verified.as_ref(), Some(&made.seed), "{report:#?}");
    fs::write(newest, whole).unwrap();
}

#[test]
fn i10_rubbish_anywhere_is_survived_and_no_wrong_byte_comes_out() {
    let made = made(false);
    let packs = made.world.packs();
    let whole: Vec<Vec<u8>> = packs.iter().map(|path| fs::read(path).unwrap()).collect();
    let mut dice = Dice(4711);
    for round in 0..25 {
        for _ in 0..=dice.below(4) {
            let n = dice.below(packs.len() as u64) as usize;
            change(&packs[n], |bytes| {
                let len = bytes.len() as u64;
                let at = dice.below(len.max(1)) as usize;
                match dice.below(5) {
                    0 => bytes.truncate(at),
                    1 => bytes
                        .iter_mut()
                        .skip(at)
                        .take(1)
                        .for_each(|byte| *byte ^= 0x20),
                    2 => {
                        let end = bytes.len().min(at + 20_000);
                        let noise = dice.bytes(end - at);
                        bytes[at..end].copy_from_slice(&noise);
                    }
                    3 => {
                        // A piece of another place, as a misdirected write leaves it.
                        let from = dice.below(len.max(1)) as usize / 8 * 8;
                        let len = 4096.min(bytes.len() - at.max(from));
                        bytes.copy_within(from..from + len, at);
                    }
                    _ => bytes.extend_from_slice(&[0x41; 3000]),
                }
            });
        }
        let name = format!("rubbish{round}");
        match made.salvage(Some(&made.seed), &name) {
            Ok(report) => assert_holes(&made.snapshot, &made.world.beside(&name), &report),
            Err(error) => assert!(
                matches!(error, Error::SeedUnknown(_)) || error.is_damage(),
                "{round}: {error}"
            ),
        }
        let _ = made.salvage(None, &format!("live-{name}"));
        for (path, bytes) in packs.iter().zip(&whole) {
            fs::write(path, bytes).unwrap();
        }
    }
}

#[test]
fn a_store_is_not_salvaged_into_itself_nor_while_it_is_used() {
    let mut made = made(false);
    let inside = SalvageOptions {
        scratch: Some(made.store().join("scratch")),
        ..SalvageOptions::default()
    };
    for (options, dest) in [
        (SalvageOptions::default(), made.store().join("out")),
        (inside, made.world.beside("out")),
    ] {
        let refused = Engine::salvage(&made.store(), &env(1), &config(), &options, &dest, &|_| ());
        assert!(matches!(refused, Err(Error::Usage(_))));
        assert!(!dest.exists());
    }
    made.world.open_again();
    let options = SalvageOptions::default();
    let dest = made.world.beside("out");
    let refused = Engine::salvage(&made.store(), &env(1), &config(), &options, &dest, &|_| ());
    assert!(matches!(refused, Err(Error::Locked { .. })));
}
