//! Random histories of operations, against the model (I11, I12, I9).

use std::collections::BTreeMap;

use super::model::{Model, assert_same, difference, seen};
use super::steps::{Sizes, Steps};
use super::world::{Dice, World, plain_seed};

const SIZES: Sizes = Sizes {
    // More than the 1 MiB up to which a file has no node of its own.
    file_max: 1_300_000,
    write: 20_000,
    write_max: 200_000,
};

struct History {
    on: Steps,
    /// What the tree was after each operation since the last one that made it durable.
    since_sync: Vec<Model>,
    snapshots: BTreeMap<String, Model>,
    /// Snapshots made so far.
    made: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        let on = Steps::new(Dice(seed), World::with(seed, 4 << 20), SIZES);
        Self {
            since_sync: vec![on.model.clone()],
            on,
            snapshots: BTreeMap::new(),
            made: 0,
        }
    }

    /// One operation on both; they must agree on whether it is allowed.
    fn step(&mut self) {
        let (text, model, engine) = self.on.step();
        self.on.log.push(format!("{text}: {engine:?}"));
        assert_eq!(model.is_ok(), engine.is_ok(), "{text}: {engine:?}");
        self.since_sync.push(self.on.model.clone());
    }

    fn compare(&self) {
        let root = self.on.world.engine().root();
        assert_same(&seen(&self.on.world, root), &self.on.model.tree());
    }

    fn durable(&mut self) {
        self.since_sync = vec![self.on.model.clone()];
    }

    /// Something that the store must outlive.
    fn event(&mut self) {
        let kind = self.on.dice.below(11);
        self.on.log.push(format!("event {kind}"));
        match kind {
            0..=1 => {
                self.on.world.engine().sync().unwrap();
                self.durable();
            }
            2..=3 => self.snapshot(),
            4 => {
                self.on.world.reopen();
                self.durable();
                self.compare();
            }
            5 => {
                self.on.world.reopen_without_index();
                self.durable();
                self.compare();
                self.on.world.assert_sound();
            }
            6..=7 => self.crash(),
            8 => self.forget(),
            _ => self.clean(),
        }
    }

    fn forget(&mut self) {
        let names: Vec<String> = self.snapshots.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let (name, done) = self.on.forget(&names);
        done.unwrap();
        self.snapshots.remove(&name);
    }

    fn clean(&mut self) {
        let done = self.on.clean().unwrap();
        assert!(done.kept.is_empty(), "{done:?}");
        self.durable();
        self.compare();
        self.on.world.assert_sound();
    }

    fn snapshot(&mut self) {
        let name = format!("s{}", self.made);
        self.made += 1;
        let info = self.on.world.snapshot(&name);
        self.durable();
        self.snapshots.insert(name.clone(), self.on.model.clone());
        assert!(self.on.world.diff(&name, None).is_empty());
        if self.on.dice.below(2) == 0 {
            self.compare();
            let to = self.on.world.beside(&name);
            self.on
                .world
                .materialise(self.on.world.engine().root(), &to);
            assert_eq!(info.seed, plain_seed(&to), "snapshot {name}");
            std::fs::remove_dir_all(&to).unwrap();
        }
        self.on.world.assert_verifies(&name);
    }

    /// After a crash the tree is one that was, and not older than the last sync (I11).
    fn crash(&mut self) {
        let with_index = self.on.dice.below(2) == 0;
        let len = self.on.dice.below(3) as usize * 777;
        let rubbish = self.on.dice.bytes(len);
        self.on.world.crash(with_index, &rubbish);
        let got = seen(&self.on.world, self.on.world.engine().root());
        let states = &self.since_sync;
        let found = states
            .iter()
            .find(|model| difference(&got, &model.tree()).is_none());
        match found {
            Some(model) => self.on.model = model.clone(),
            None => panic!(
                "no state since the last sync: {}",
                difference(&got, &states[0].tree()).unwrap()
            ),
        }
        self.durable();
        self.on.world.assert_sound();
    }

    fn finish(&mut self) {
        self.compare();
        self.on.world.engine().sync().unwrap();
        self.compare();
        self.on.world.assert_sound();
        for (name, model) in &self.snapshots {
            let root = self.on.world.engine().tree_open(Some(name)).unwrap();
            assert_same(&seen(&self.on.world, root), &model.tree());
            self.on.world.assert_verifies(name);
        }
        self.snapshot();
        self.on.world.reopen_without_index();
        self.compare();
        self.on.world.assert_sound();
    }
}

fn run(seed: u64) {
    eprintln!("history of seed {seed}: MMHFS_SEED={seed} runs it alone");
    let mut history = History::new(seed);
    for _ in 0..14 {
        for _ in 0..history.on.dice.below(25) {
            history.step();
        }
        history.event();
    }
    history.finish();
}

/// The seed to run alone, or how many to run, can be set in the environment.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match (number("MMHFS_SEED"), number("MMHFS_SEEDS")) {
        (Some(one), _) => one..one + 1,
        (None, count) => 0..count.unwrap_or(8),
    }
}

#[test]
fn i11_i12_every_history_shows_what_the_model_shows_whatever_happens_to_the_store() {
    seeds().for_each(run);
}

/// Bug: only bytes counted towards the memory of pending changes, so that holes, references and writes of a
/// few bytes, which cost more in the map than in bytes, were never held back.
#[test]
fn i7_pieces_without_bytes_count_towards_pending_memory() {
    let world = World::new();
    world.put("f", b"x");
    world.engine().sync().unwrap();
    world
        .with_file("f", |handle| {
            for n in 0..1000 {
                let off = mmhfs::base::FileOff::from_raw(n * 8192);
                let how = mmhfs::engine::Allocate::Punch;
                world.engine().fallocate(handle, off, 4096, how)?;
            }
            Ok(())
        })
        .unwrap();
    let dirty = |world: &World| world.engine().stats().unwrap().dirty_bytes;
    assert!(dirty(&world) >= 64 * 1000);
    world.engine().sync().unwrap();
    assert_eq!(dirty(&world), 0);
}

/// Bug: a write of no bytes beyond the end made the file longer, and within a hole that was not committed
/// yet it brought back what the hole had hidden.
#[test]
fn a_write_of_no_bytes_changes_nothing() {
    let world = World::new();
    world.put("f", &[7; 9000]);
    world.engine().sync().unwrap();
    world.truncate("f", 100).unwrap();
    world.write_at("f", 5000, b"").unwrap();
    assert_eq!(world.stat("f").unwrap().size, 100);
    world.truncate("f", 9000).unwrap();
    let expected = [vec![7; 100], vec![0; 8900]].concat();
    assert_eq!(world.read("f").unwrap(), expected);
    world.engine().sync().unwrap();
    assert_eq!(world.read("f").unwrap(), expected);
}
