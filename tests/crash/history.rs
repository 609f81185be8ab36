//! One history on a simulated disk: everything that was done, and a picture of the disk at every call.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use mmhfs::base::Error;
use mmhfs::engine::{CleanReport, Config, Engine, InitOptions, Place};
use mmhfs::meta::MemoryTables;
use mmhfs::sim::{CallKind, Dice, Fault, FaultError, Medium, Shot, SimDisk};

use crate::model::{Model, Tree, difference, seen};
use crate::steps::{Sizes, Steps};
use crate::world::{World, config, env};

pub(crate) fn no_progress(_: mmhfs::engine::Progress) {}

pub(crate) fn hash_of(tree: &Tree) -> u64 {
    let mut sum = DefaultHasher::new();
    tree.hash(&mut sum);
    sum.finish()
}

/// What the tree was after an operation.
pub(crate) struct State {
    pub(crate) model: Model,
    /// Steps of the disk before the operation began: it cannot be on the disk before.
    pub(crate) begun: u64,
    hash: OnceCell<u64>,
}

impl State {
    pub(crate) fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| hash_of(&self.model.tree()))
    }
}

/// What is known about a snapshot; the numbers are steps of the disk.
pub(crate) struct Snap {
    pub(crate) model: Model,
    pub(crate) seed: Option<String>,
    pub(crate) begun: u64,
    pub(crate) confirmed: Option<u64>,
    pub(crate) dying: Option<u64>,
    pub(crate) gone: Option<u64>,
}

/// A history that was run once; every step of it can be crashed at.
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) states: Vec<State>,
    /// After how many steps a state was known to be durable.
    pub(crate) confirmed: Vec<(u64, usize)>,
    pub(crate) snaps: BTreeMap<String, Snap>,
    pub(crate) film: Vec<Shot>,
    pub(crate) initialised: u64,
    pub(crate) faults: u64,
    pub(crate) log: Vec<String>,
    /// Of every call of the disk and what came of it.
    pub(crate) calls: u64,
    /// How the store is opened.
    pub(crate) config: Config,
}

impl Run {
    /// The states that may be found after a crash at a step.
    pub(crate) fn allowed(&self, step: u64) -> std::ops::Range<usize> {
        let known = self.confirmed.iter().filter(|(at, _)| *at < step);
        let from = known.map(|(_, state)| *state).max().unwrap_or(0);
        let to = self.states.iter().take_while(|state| state.begun < step);
        from..to.count().max(from + 1)
    }
}

/// Bits of a seed decide what kind of history it is.
pub(crate) fn sizes(dice: &mut Dice) -> Sizes {
    match dice.below(16) {
        // Commits of more than 1 MiB go to DATA packs, several fill a pack.
        0..=1 => Sizes {
            file_max: 3_000_000,
            write: 1_500_000,
            write_max: 1_500_000,
        },
        2..=5 => Sizes {
            file_max: 200_000,
            write: 6_000,
            write_max: 60_000,
        },
        _ => Sizes {
            file_max: 40_000,
            write: 700,
            write_max: 9_000,
        },
    }
}

fn faults(dice: &mut Dice) -> Vec<Fault> {
    let kinds = [
        (CallKind::Write, 12),
        (CallKind::Sync, 16),
        (CallKind::Sync, 16),
        (CallKind::Write, 12),
        (CallKind::Rename, 6),
        (CallKind::Create, 6),
        (CallKind::SyncDir, 8),
        (CallKind::Remove, 4),
        (CallKind::Read, 30),
    ];
    (0..1 + dice.below(3))
        .map(|_| {
            let (kind, span) = kinds[dice.below(kinds.len() as u64) as usize];
            Fault {
                kind,
                after: dice.below(span),
                times: [1, 1, 1, 2, 5][dice.below(5) as usize],
                error: if dice.one_in(3) && kind != CallKind::Read {
                    FaultError::NoSpace
                } else {
                    FaultError::Io
                },
            }
        })
        .collect()
}

/// Whether an error is the disk's fault and not the caller's.
pub(crate) fn is_disk_error(error: &Error) -> bool {
    matches!(
        error,
        Error::Io { .. }
            | Error::NoSpace
            | Error::Halted(_)
            | Error::Index { .. }
            // None of its copies could be read.
            | Error::Superblock { .. }
            | Error::NotAStore { .. }
    ) || matches!(error, Error::InFile { source, .. } if is_disk_error(source))
}

pub(crate) struct Player {
    pub(crate) on: Steps,
    disk: Arc<SimDisk>,
    place: Place,
    faulty: bool,
    /// The last operation has failed by the disk's fault.
    failed: bool,
    run: Run,
}

/// Where the lock of the simulated stores is.
pub(crate) fn scratch() -> Arc<tempfile::TempDir> {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    Arc::new(dir.unwrap())
}

/// How a store is opened; `parity`: 0 without making any, 1 as users have it, 2 with small groups.
pub(crate) fn sim_config(parity: u64) -> Config {
    Config {
        verify_writes: false,
        // With more, reads would come in another order each time.
        threads: 1,
        protect: parity > 0,
        parity_group_packs: if parity > 1 { 2 } else { 16 },
        ..config()
    }
}

/// Runs the history of a seed, with a picture of every step.
pub(crate) fn play(seed: u64, dir: &Arc<tempfile::TempDir>) -> Run {
    let mut dice = Dice(seed);
    let sizes = sizes(&mut dice);
    let faulty = dice.one_in(2);
    let parity = dice.below(3);
    let config = sim_config(parity);
    let tables = MemoryTables::default();
    let disk = Arc::new(SimDisk::new(Medium::new(), dice.word()));
    disk.film(Some(tables.clone()));
    let place = Place {
        disk: Arc::clone(&disk) as Arc<dyn mmhfs::disk::Disk>,
        dir: dir.path().to_owned(),
        index: Some(tables),
    };
    let clock = env(seed);
    let pack_capacity = 4 << 20;
    let options = InitOptions {
        pack_capacity,
        // So much that a group of two survives the loss of one.
        parity_percent: (parity > 1).then_some(60),
        ..InitOptions::default()
    };
    Engine::init_on(&place, &clock, &options).unwrap();
    let initialised = disk.steps();
    let engine = Engine::open_on(&place, clock.clone(), config.clone()).unwrap();
    let world = World {
        dir: Arc::clone(dir),
        copy: 0,
        env: clock,
        engine: Some(engine),
    };
    let run = Run {
        seed,
        states: Vec::new(),
        confirmed: Vec::new(),
        snaps: BTreeMap::new(),
        film: Vec::new(),
        initialised,
        faults: 0,
        log: Vec::new(),
        calls: 0,
        config,
    };
    let mut player = Player {
        on: Steps::new(dice, world, sizes),
        disk,
        place,
        faulty,
        failed: false,
        run,
    };
    player.play();
    player.finish()
}

impl Player {
    fn play(&mut self) {
        self.push_state(0);
        self.confirm();
        self.plan_faults();
        // Large files make every look at the tree expensive.
        let long = if self.on.sizes.file_max > 1 << 20 {
            12
        } else {
            40
        };
        for _ in 0..8 + self.on.dice.below(long) {
            if self.on.dice.one_in(6) {
                self.plan_faults();
            }
            match self.on.dice.below(26) {
                0 if long == 12 && self.on.dice.one_in(3) => self.many_attributes(),
                1 if self.on.dice.one_in(2) => self.kill(),
                _ if self.failed && self.on.dice.one_in(4) => self.kill(),
                2..=4 if self.failed => self.sync(),
                0..=12 => self.step(),
                13..=15 => self.fsync(),
                16 => self.sync(),
                17 => self.snapshot(),
                18 => self.unsnap_or_rollback(),
                19..=21 => self.clean(),
                22..=24 if self.run.config.protect => self.protect(),
                _ => self.reopen(),
            }
            if self.on.world.engine.is_none() {
                return;
            }
        }
    }

    fn plan_faults(&mut self) {
        if self.faulty {
            self.run.faults += self.disk.faults_made();
            let plan = faults(&mut self.on.dice);
            self.on.log.push(format!("faults {plan:?}"));
            self.disk.set_faults(plan);
        }
    }

    /// Ends the history; what is in memory is what the successful operations made it, whatever has failed.
    fn finish(mut self) -> Run {
        self.run.faults += self.disk.faults_made();
        self.disk.set_faults(Vec::new());
        if self.on.world.engine.is_some() {
            self.compare("before the crash");
        }
        self.on.world.engine = None;
        self.run.film = self.disk.take_film();
        self.run.calls = self.disk.calls_hash();
        self.run.log = std::mem::take(&mut self.on.log);
        self.run
    }

    fn push_state(&mut self, begun: u64) {
        self.run.states.push(State {
            model: self.on.model.clone(),
            begun,
            hash: OnceCell::new(),
        });
    }

    /// Everything so far is durable.
    fn confirm(&mut self) {
        let last = self.run.states.len() - 1;
        self.run.confirmed.push((self.disk.steps(), last));
    }

    fn note(&mut self, text: impl std::fmt::Display, came: &dyn std::fmt::Debug) {
        let step = self.disk.steps();
        self.on.log.push(format!("{step:5} {text}: {came:?}"));
    }

    /// An error of the disk is one that was asked for.
    #[track_caller]
    fn excuse(&mut self, error: &Error) {
        self.failed = true;
        assert!(
            self.faulty && is_disk_error(error),
            "an error that nothing explains: {error:?}"
        );
    }

    fn step(&mut self) {
        let (begun, before) = (self.disk.steps(), self.on.model.clone());
        let (text, model, engine) = self.on.step();
        self.note(&text, &engine);
        match engine {
            Err(error) if is_disk_error(&error) => {
                self.excuse(&error);
                self.on.model = before;
            }
            engine => assert_eq!(model.is_ok(), engine.is_ok(), "{text}: {engine:?}"),
        }
        self.push_state(begun);
    }

    /// More metadata than one record holds: the commit has several parts.
    fn many_attributes(&mut self) {
        for n in 0..24 {
            let begun = self.disk.steps();
            let path = format!("heavy{}", n % 2);
            if self.on.model.id(&path).is_none() {
                if let Err(error) = self.on.world.mkdir(&path) {
                    return self.excuse(&error);
                }
                let body = crate::model::Body::Dir(BTreeMap::new());
                self.on.model.make(&path, body, 0o755).unwrap();
                self.push_state(begun);
            }
            let (name, value) = (format!("user.big{n}"), self.on.dice.bytes(60_000));
            let done = self.on.world.set_xattr(&path, &name, &value);
            self.note(format!("setxattr {path} {name}"), &done);
            match done {
                Ok(()) => {
                    let node = self.on.model.at_mut(&path).unwrap();
                    node.xattrs.insert(name, value);
                }
                // A directory that was exchanged has both halves: more than an inode may have.
                Err(Error::NoSpace) => return,
                Err(error) => return self.excuse(&error),
            }
            self.push_state(begun);
        }
    }

    fn fsync(&mut self) {
        let path = self.on.any_file();
        if self.on.model.file(&path).is_err() {
            return;
        }
        let world = &self.on.world;
        let done = world.with_file(&path, |handle| world.engine().fsync(handle, false));
        self.note(format!("fsync {path}"), &done);
        match done {
            Ok(()) => {
                let state = self.last_change(&path);
                self.run.confirmed.push((self.disk.steps(), state));
            }
            Err(error) => self.excuse(&error),
        }
    }

    /// The state that the last change of a file has made: what its fsync promises, and all before it.
    fn last_change(&self, path: &str) -> usize {
        let id = self.on.model.id(path).unwrap();
        let now = self.on.model.facts(id);
        let states = &self.run.states;
        let differs = states
            .iter()
            .rposition(|state| state.model.facts(id) != now);
        differs.map_or(0, |last| (last + 1).min(states.len() - 1))
    }

    fn sync(&mut self) {
        let done = self.on.world.engine().sync();
        self.note("sync", &done);
        self.settled(done);
    }

    fn settled(&mut self, done: mmhfs::base::Result<()>) {
        match done {
            Ok(()) => {
                self.failed = false;
                self.confirm();
            }
            Err(error) => self.excuse(&error),
        }
    }

    fn snapshot(&mut self) {
        let begun = self.disk.steps();
        let name = format!("s{}", self.run.snaps.len());
        let done = self.on.world.engine().snapshot(Some(&name), &no_progress);
        self.note(format!("snapshot {name}"), &done.as_ref().map(|_| ()));
        let confirmed = done.is_ok().then(|| self.disk.steps());
        let snap = Snap {
            model: self.on.model.clone(),
            seed: done.as_ref().ok().map(|info| info.seed.clone()),
            begun,
            confirmed,
            dying: None,
            gone: None,
        };
        self.run.snaps.insert(name, snap);
        self.settled(done.map(|_| ()));
    }

    /// Snapshots that are there for certain.
    fn snapshots_alive(&self) -> Vec<String> {
        let alive = self.run.snaps.iter();
        let alive = alive.filter(|(_, snap)| snap.confirmed.is_some() && snap.dying.is_none());
        alive.map(|(name, _)| name.clone()).collect()
    }

    fn unsnap_or_rollback(&mut self) {
        let names = self.snapshots_alive();
        // A rollback that fails may leave a part of it in memory: only where nothing fails.
        if names.is_empty() {
            self.snapshot();
        } else if self.on.dice.one_in(2) && !self.faulty {
            self.rollback(&names);
        } else {
            self.unsnap(&names);
        }
    }

    fn rollback(&mut self, names: &[String]) {
        let name = &names[self.on.dice.below(names.len() as u64) as usize];
        let begun = self.disk.steps();
        let done = self.on.world.engine().rollback(name);
        self.note(format!("rollback {name}"), &done);
        done.unwrap();
        self.on.model = self.run.snaps[name].model.clone();
        self.push_state(begun);
        self.confirm();
    }

    fn unsnap(&mut self, names: &[String]) {
        let begun = self.disk.steps();
        let (name, done) = self.on.forget(names);
        self.note(format!("delete snapshot {name}"), &done);
        let steps = self.disk.steps();
        let snap = self.run.snaps.get_mut(&name).unwrap();
        snap.dying = Some(begun);
        snap.gone = done.is_ok().then_some(steps);
        // It is a commit of its own, without the changes of the tree.
        if let Err(error) = done {
            self.excuse(&error);
        }
    }

    /// Gives space back, in several passes: what one has moved or written is dead weight for the next.
    fn clean(&mut self) {
        let names = self.snapshots_alive();
        if !names.is_empty() && self.on.dice.one_in(3) {
            self.unsnap(&names);
        }
        for _ in 0..1 + self.on.dice.below(3) {
            let done = self.on.clean();
            let short = |report: &CleanReport| (report.packs_removed, report.moved_bytes);
            self.note("clean", &done.as_ref().map(short));
            match done {
                // It may have gone on although what is in memory found no room: that promises nothing.
                Ok(_) if self.faulty => {}
                Ok(report) => {
                    assert!(report.kept.is_empty(), "{:?}", report.kept);
                    self.confirm();
                    self.compare("after a cleaning");
                }
                Err(error) => return self.excuse(&error),
            }
        }
    }

    /// Parity for what is finished, which is made so now and then.
    fn protect(&mut self) {
        let done = self.on.world.engine().protect();
        self.note("protect", &done);
        match done {
            Ok(report) => assert!(self.faulty || report.refused.is_empty(), "{report:?}"),
            Err(error) => self.excuse(&error),
        }
    }

    fn open(&self) -> mmhfs::base::Result<Arc<Engine>> {
        let (clock, config) = (self.on.world.env.clone(), self.run.config.clone());
        Engine::open_on(&self.place, clock, config)
    }

    /// What is in memory is what the successful operations made it.
    fn compare(&self, when: &str) {
        let got = seen(&self.on.world, self.on.world.engine().root());
        if let Some(text) = difference(&got, &self.on.model.tree()) {
            panic!("{when}: {text}");
        }
    }

    /// The program dies; another one goes on with what the system has, which is not all on the disk.
    fn kill(&mut self) {
        self.failed = false;
        self.on.world.engine = None;
        self.note("kill", &());
        let opened = self.open();
        self.note("open", &opened.as_ref().map(|_| ()));
        match opened {
            Ok(engine) => {
                self.on.world.engine = Some(engine);
                self.find_state();
            }
            Err(error) => self.excuse(&error),
        }
    }

    /// Closes and opens the store; sometimes the index is lost in between.
    fn reopen(&mut self) {
        let engine = self.on.world.engine.take().unwrap();
        let done = engine.close();
        drop(engine);
        self.note("close", &done);
        self.settled(done);
        if let (Some(index), true) = (&self.place.index, self.on.dice.one_in(4)) {
            index.clear();
        }
        let opened = self.open();
        self.note("open", &opened.as_ref().map(|_| ()));
        match opened {
            Ok(engine) => self.on.world.engine = Some(engine),
            Err(error) => {
                self.excuse(&error);
                // The store is not open: the history ends here, in what the disk has.
                return;
            }
        }
        if self.faulty {
            // A close that failed has left out what was not durable.
            self.find_state();
        }
    }

    /// After a reopen the tree is one of those that may be there; it is what everything goes on from.
    fn find_state(&mut self) {
        // To look at the tree must not fail.
        self.run.faults += self.disk.faults_made();
        self.disk.set_faults(Vec::new());
        let step = self.disk.steps() + 1;
        let got = seen(&self.on.world, self.on.world.engine().root());
        let hash = hash_of(&got);
        let allowed = self.run.allowed(step);
        let found = allowed.rev().find(|n| self.run.states[*n].hash() == hash);
        let found = found.unwrap_or_else(|| panic!("reopened with a tree that never was"));
        self.on.model = self.run.states[found].model.clone();
        self.push_state(step - 1);
        self.confirm();
    }
}
