//! One crash point: the power fails, the store is opened again, everything that was promised is there.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use mmhfs::base::Error;
use mmhfs::engine::{CleanOptions, Engine, Place};
use mmhfs::meta::MemoryTables;
use mmhfs::sim::{CallKind, Dice, Fault, FaultError, Medium, Shot, SimDisk};

use crate::history::{Run, hash_of, no_progress};
use crate::model::{Tree, difference, seen};
use crate::steps::{Sizes, Steps};
use crate::world::{World, env};

pub(crate) type Outcome<T> = Result<T, String>;

/// How often something happened beside the crash itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) second_crashes: u64,
    pub(crate) kills: u64,
    pub(crate) without_index: u64,
    pub(crate) read_faults: u64,
    pub(crate) continued: u64,
    pub(crate) contents: u64,
    pub(crate) cleaned: u64,
    pub(crate) damages: u64,
    pub(crate) damages_found: u64,
    pub(crate) healed: u64,
    pub(crate) healed_packs: u64,
    pub(crate) healed_crashes: u64,
    pub(crate) healed_groups: u64,
}

/// One crash at one step of a history.
pub(crate) struct Point<'a> {
    pub(crate) run: &'a Run,
    pub(crate) shot: &'a Shot,
    pub(crate) dice: Dice,
    pub(crate) dir: &'a Arc<tempfile::TempDir>,
    pub(crate) tally: &'a mut Tally,
}

/// A store that somebody tries to open.
pub(crate) struct Found {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) place: Place,
}

impl Found {
    pub(crate) fn new(
        medium: Medium,
        index: MemoryTables,
        dir: &Arc<tempfile::TempDir>,
        seed: u64,
    ) -> Self {
        let disk = Arc::new(SimDisk::new(medium, seed));
        let place = Place {
            disk: Arc::clone(&disk) as Arc<dyn mmhfs::disk::Disk>,
            dir: dir.path().to_owned(),
            index: Some(index),
        };
        Self { disk, place }
    }
}

impl Point<'_> {
    /// Crashes, recovers and looks.
    pub(crate) fn check(mut self) -> Outcome<()> {
        if self.run.faults == 0 && self.dice.one_in(10) {
            return self.damage();
        }
        if self.run.config.protect && self.run.faults == 0 && self.dice.one_in(4) {
            return self.heal();
        }
        // Now and then only the program dies: what it wrote stays on its way.
        let killed = self.dice.one_in(8);
        self.tally.kills += u64::from(killed);
        let medium = if killed {
            self.shot.medium.clone()
        } else {
            self.shot.medium.after_power_loss(&mut self.dice)
        };
        let index = self.index();
        let seed = self.dice.word();
        let mut found = Found::new(medium, index, self.dir, seed);
        let mut seen_before = None;
        if killed || self.dice.one_in(5) {
            seen_before = self.crash_again(&mut found)?;
        }
        if self.dice.one_in(8) {
            self.fail_reads(&found, seen_before)?;
        }
        let Some(mut world) = self.open(&found)? else {
            return Ok(());
        };
        let state = self.look(&world, seen_before)?;
        self.snapshots(&world)?;
        if self.dice.one_in(2) {
            sound(&world)?;
        }
        if self.dice.one_in(64) && self.run.states[state].model.paths().len() > 1 {
            self.content(&world, state)?;
        }
        if self.dice.one_in(8) {
            self.go_on(world, &found, state)?;
        } else {
            world.engine = None;
        }
        Ok(())
    }

    /// Something that was durable before the last commits is changed or gone: that may be an error, but never an
    /// older tree. (Damage to the very last commit of a pack that was open is a tear to whoever reads it.)
    fn damage(mut self) -> Outcome<()> {
        let Some((name, len)) = self.victim() else {
            return Ok(());
        };
        self.tally.damages += 1;
        let mut medium = self.shot.medium.after_power_loss(&mut self.dice);
        if self.dice.one_in(3) {
            medium.lose(&name);
        } else {
            medium.flip(&name, self.dice.below(len as u64) as usize);
        }
        let index = self.index();
        let found = Found::new(medium, index, self.dir, self.dice.word());
        let looked = quietly(|| {
            let opened = Engine::open_on(
                &found.place,
                env(self.run.seed ^ 4),
                self.run.config.clone(),
            );
            let world = self.new_world(opened.map_err(|_| ()).unwrap());
            self.look(&world, None)
        });
        match looked {
            Ok(state) => state
                .map(|_| ())
                .map_err(|text| format!("{name} was damaged: {text}")),
            Err(_) => {
                self.tally.damages_found += 1;
                Ok(())
            }
        }
    }

    /// A file and how many bytes of it are older than a commit that was confirmed before the crash.
    fn victim(&mut self) -> Option<(String, usize)> {
        let step = self.shot.step;
        let known = self.run.confirmed.iter().rev();
        let mut known = known.filter(|(at, _)| *at < step);
        let newest = known.next()?.1;
        let before = known.find(|(_, state)| *state < newest)?.0;
        let old = self.run.film.get((before as usize).checked_sub(1)?)?;
        let now = self.shot.medium.durable_files();
        let now_of = |name: &str| now.iter().find(|(other, _)| other == name);
        let continued = |name: &str, len: usize| {
            let is_later = |(other, len): &&(String, usize)| {
                other.as_str() > name && other.ends_with(".log") && *len > 4096
            };
            let grown = now_of(name).is_some_and(|(_, now)| *now > len);
            grown || now.iter().any(|other| is_later(&other))
        };
        let old = old.medium.durable_files().into_iter();
        let mut fit: Vec<(String, usize)> = old
            .filter(|(name, len)| *len > 0 && !name.starts_with("super") && now_of(name).is_some())
            .filter(|(name, len)| !name.ends_with(".log") || continued(name, *len))
            .collect();
        if fit.is_empty() {
            return None;
        }
        let at = self.dice.below(fit.len() as u64) as usize;
        Some(fit.swap_remove(at))
    }

    /// What is left of the index: it is never ahead of the moment of the crash, and may be older or gone.
    pub(crate) fn index(&mut self) -> MemoryTables {
        let step = match self.dice.below(4) {
            0 => {
                self.tally.without_index += 1;
                return MemoryTables::default();
            }
            1 => 1 + self.dice.below(self.shot.step),
            _ => self.shot.step,
        };
        let shot = &self.run.film[step as usize - 1];
        shot.index.as_ref().map(MemoryTables::copy).unwrap()
    }

    pub(crate) fn new_world(&self, engine: Arc<Engine>) -> World {
        World {
            dir: Arc::clone(self.dir),
            copy: 0,
            env: env(self.run.seed ^ 0x5eed),
            engine: Some(engine),
        }
    }

    /// The power fails during recovery, or soon after.
    fn crash_again(&mut self, found: &mut Found) -> Outcome<Option<usize>> {
        self.tally.second_crashes += 1;
        let clean = self.dice.one_in(3);
        let span = if clean { 80 } else { 20 };
        found.disk.crash_at(1 + self.dice.below(span));
        let opened = Engine::open_on(
            &found.place,
            env(self.run.seed ^ 1),
            self.run.config.clone(),
        );
        let state = match opened {
            Ok(engine) => {
                let mut world = self.new_world(engine);
                let state = self.look(&world, None)?;
                if clean {
                    self.tally.cleaned += 1;
                    let done = clean_all(&world);
                    if !found.disk.is_off() {
                        done?;
                    }
                }
                world.engine = None;
                Some(state)
            }
            Err(_) if found.disk.is_off() => None,
            Err(error) => return self.refused(&error).map(|()| None),
        };
        let medium = found.disk.medium().after_power_loss(&mut self.dice);
        let index = match &found.place.index {
            Some(index) if self.dice.one_in(2) => index.copy(),
            _ => MemoryTables::default(),
        };
        *found = Found::new(medium, index, self.dir, self.dice.word());
        Ok(state)
    }

    /// A read error while opening is an error, or harmless, but never a different tree.
    fn fail_reads(&mut self, found: &Found, before: Option<usize>) -> Outcome<()> {
        self.tally.read_faults += 1;
        found.disk.set_faults(vec![Fault {
            kind: CallKind::Read,
            after: self.dice.below(40),
            times: 1 + self.dice.below(3),
            error: FaultError::Io,
        }]);
        let opened = Engine::open_on(
            &found.place,
            env(self.run.seed ^ 2),
            self.run.config.clone(),
        );
        found.disk.set_faults(Vec::new());
        match opened {
            Ok(engine) => {
                let mut world = self.new_world(engine);
                let looked = self.look(&world, before).map(|_| ());
                world.engine = None;
                looked
            }
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn open(&self, found: &Found) -> Outcome<Option<World>> {
        match Engine::open_on(
            &found.place,
            env(self.run.seed ^ 3),
            self.run.config.clone(),
        ) {
            Ok(engine) => Ok(Some(self.new_world(engine))),
            Err(error) => self.refused(&error).map(|()| None),
        }
    }

    /// Only a store that was never made may be none.
    fn refused(&self, error: &Error) -> Outcome<()> {
        let none = matches!(error, Error::NotAStore { .. } | Error::Superblock { .. });
        if none && self.shot.step <= self.run.initialised {
            Ok(())
        } else {
            Err(format!("the store does not open: {error}"))
        }
    }

    /// The tree must be one that was, and not older than what was confirmed.
    pub(crate) fn look(&self, world: &World, before: Option<usize>) -> Outcome<usize> {
        let got = seen(world, world.engine().root());
        let mut allowed = self.run.allowed(self.shot.step);
        if let Some(state) = before {
            // What a recovered store has shown must stay.
            if self.run.states[state].hash() == hash_of(&got) {
                return Ok(state);
            }
            return Err(format!(
                "the tree was state {state} after the first recovery: {}",
                self.story(&got, state)
            ));
        }
        let hash = hash_of(&got);
        let newest = allowed.end - 1;
        let found = allowed.rfind(|n| self.run.states[*n].hash() == hash);
        found.ok_or_else(|| {
            let any = (0..self.run.states.len()).rev();
            let known = any.clone().find(|n| self.run.states[*n].hash() == hash);
            let allowed = self.run.allowed(self.shot.step);
            format!(
                "states {allowed:?} are allowed, found {known:?}; against the newest: {}",
                self.story(&got, newest)
            )
        })
    }

    fn story(&self, got: &Tree, state: usize) -> String {
        let want = self.run.states[state].model.tree();
        difference(got, &want).unwrap_or_else(|| "the same".to_owned())
    }

    /// Confirmed snapshots are there, deleted ones are not, and all verify.
    pub(crate) fn snapshots(&mut self, world: &World) -> Outcome<()> {
        let list = world.engine().snapshots().map_err(|e| e.to_string())?;
        let step = self.shot.step;
        let before = |at: Option<u64>| at.is_some_and(|at| at < step);
        for (name, snap) in &self.run.snaps {
            let info = list.iter().find(|info| info.name == *name);
            let must = before(snap.confirmed) && snap.dying.is_none_or(|at| at >= step);
            let must_not = before(snap.gone) || snap.begun >= step;
            match info {
                None if must => return Err(format!("snapshot {name} is lost")),
                Some(_) if must_not => return Err(format!("snapshot {name} should not be there")),
                Some(info) if snap.seed.as_ref().is_some_and(|seed| *seed != info.seed) => {
                    return Err(format!("snapshot {name} has another seed"));
                }
                _ => {}
            }
            if info.is_some() && self.dice.one_in(3) {
                self.verify(world, name)?;
            }
        }
        match list
            .iter()
            .find(|info| !self.run.snaps.contains_key(&info.name))
        {
            Some(other) => Err(format!("snapshot {} was never taken", other.name)),
            None => Ok(()),
        }
    }

    fn verify(&self, world: &World, name: &str) -> Outcome<()> {
        let report = world.engine().verify(name, &no_progress);
        let report = report.map_err(|e| format!("verify {name}: {e}"))?;
        if !report.problems.is_empty() {
            return Err(format!("snapshot {name}: {:?}", report.problems));
        }
        let root = world.engine().tree_open(Some(name));
        let root = root.map_err(|e| format!("open {name}: {e}"))?;
        let got = seen(world, root);
        match difference(&got, &self.run.snaps[name].model.tree()) {
            None => Ok(()),
            Some(text) => Err(format!("snapshot {name}: {text}")),
        }
    }

    /// The content digest of the recovered tree is the one that the plain implementation computes of the
    /// model's files (I9).
    fn content(&mut self, world: &World, state: usize) -> Outcome<()> {
        self.tally.contents += 1;
        let plain = tempfile::tempdir_in(self.dir.path()).unwrap();
        self.run.states[state].model.write_out(plain.path());
        let options = mmhfs::engine::PlainSeedOptions::default();
        let want = mmhfs::engine::seed_of_dir(plain.path(), &options, &|_| {}).unwrap();
        let got = world.engine().snapshot(Some("content"), &no_progress);
        let got = got.map_err(|e| format!("snapshot: {e}"))?;
        let deleted = world.engine().delete_snapshot("content");
        deleted.map_err(|e| format!("delete snapshot: {e}"))?;
        if got.content == want.content.to_string() {
            Ok(())
        } else {
            Err("the content digest is not that of the plain files".to_owned())
        }
    }

    /// Life goes on: more operations, a clean close, and the log alone is enough.
    fn go_on(&mut self, world: World, found: &Found, state: usize) -> Outcome<()> {
        self.tally.continued += 1;
        let sizes = Sizes {
            file_max: 40_000,
            write: 700,
            write_max: 9_000,
        };
        let mut on = Steps::new(Dice(self.dice.word()), world, sizes);
        on.model = self.run.states[state].model.clone();
        for _ in 0..6 {
            let (text, model, engine) = on.step();
            if model.is_ok() != engine.is_ok() {
                return Err(format!("after recovery: {text}: {engine:?}"));
            }
        }
        let want = on.model.tree();
        let same = |world: &World, when: &str| match difference(
            &seen(world, world.engine().root()),
            &want,
        ) {
            None => Ok(()),
            Some(text) => Err(format!("{when}: {text}")),
        };
        same(&on.world, "after more operations")?;
        if self.dice.one_in(3) {
            self.tally.cleaned += 1;
            clean_all(&on.world)?;
            same(&on.world, "after a cleaning")?;
        }
        let engine = on.world.engine.take().unwrap();
        engine.close().map_err(|e| format!("close: {e}"))?;
        drop(engine);
        if let Some(index) = &found.place.index {
            index.clear();
        }
        let again = self.open(found)?.ok_or("the store is gone")?;
        same(&again, "from the log alone")?;
        sound(&again)
    }
}

/// Gives all the space back that can be.
pub(crate) fn clean_all(world: &World) -> Outcome<()> {
    let options = CleanOptions {
        unused_percent: 0,
        ..CleanOptions::default()
    };
    let done = world.engine().clean(&options, &|_, _| {});
    let report = done.map_err(|e| format!("clean: {e}"))?;
    match report.kept.first() {
        None => Ok(()),
        Some(why) => Err(format!("clean keeps {why}")),
    }
}

pub(crate) fn sound(world: &World) -> Outcome<()> {
    let report = world.engine().check(&no_progress);
    let report = report.map_err(|e| format!("check: {e}"))?;
    match report.problems.first() {
        None => Ok(()),
        // Whether a footer was cut off when it was written or has rotted since cannot be told.
        Some(problem) if problem.detail.contains("footer") => Ok(()),
        Some(problem) => Err(format!("check: {problem:?}")),
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs something that may panic because the store is damaged, without a word about it.
fn quietly<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    done
}

/// A disk, a directory with a RocksDB index beside it, and the operations that are done on it.
fn open_rocks(medium: Medium, dir: &Arc<tempfile::TempDir>) -> (Place, Arc<SimDisk>) {
    let disk = Arc::new(SimDisk::new(medium, 5));
    let place = Place {
        disk: Arc::clone(&disk) as Arc<dyn mmhfs::disk::Disk>,
        dir: dir.path().to_owned(),
        index: None,
    };
    (place, disk)
}

fn index_files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let list = std::fs::read_dir(dir.join("index")).unwrap();
    let mut files: Vec<_> = list
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

fn put_index(dir: &Path, files: &[(PathBuf, Vec<u8>)]) {
    std::fs::remove_dir_all(dir.join("index")).unwrap();
    std::fs::create_dir(dir.join("index")).unwrap();
    for (path, bytes) in files {
        std::fs::write(path, bytes).unwrap();
    }
}

/// One crash with the index in RocksDB: as of an earlier flush, and with one of its files changed, cut or
/// gone. A damaged index may be an error, after which it is deleted; it never shows another tree.
pub(crate) fn rocks(run: &Run, mut dice: Dice) -> Outcome<()> {
    let dir = crate::history::scratch();
    let shot = &run.film[dice.below(run.film.len() as u64) as usize];
    if shot.step <= run.initialised {
        return Ok(());
    }
    let (place, disk) = open_rocks(shot.medium.after_power_loss(&mut dice), &dir);
    let open = |place: &Place| {
        let opened = Engine::open_on(place, env(run.seed ^ 6), run.config.clone());
        opened.map(|engine| World {
            dir: Arc::clone(&dir),
            copy: 0,
            env: env(run.seed ^ 6),
            engine: Some(engine),
        })
    };
    // Dropping it without a close flushes what it has.
    drop(open(&place).map_err(|e| format!("the store does not open: {e}"))?);
    let old = index_files(dir.path());
    let world = open(&place).map_err(|e| format!("the store does not open again: {e}"))?;
    let sizes = Sizes {
        file_max: 40_000,
        write: 700,
        write_max: 9_000,
    };
    let mut on = Steps::new(Dice(dice.word()), world, sizes);
    let root = on.world.engine().root();
    let before = seen(&on.world, root);
    let at = on.world.engine().getattr(root).map(|_| ());
    at.map_err(|e| e.to_string())?;
    let path = format!("rocks-{}", dice.below(100));
    on.world.put(&path, &dice.bytes(3000));
    on.world.engine().sync().map_err(|e| e.to_string())?;
    let want = seen(&on.world, root);
    if want.len() != before.len() + 1 {
        return Err("a new file is not the only difference".to_owned());
    }
    on.world.engine = None;
    if dice.one_in(2) {
        put_index(dir.path(), &old);
    }
    let mut files = index_files(dir.path());
    if dice.below(3) > 0 {
        let victim = dice.below(files.len() as u64) as usize;
        let (_, bytes) = &mut files[victim];
        match dice.below(3) {
            0 => bytes.truncate(dice.below(bytes.len() as u64 + 1) as usize),
            1 if !bytes.is_empty() => {
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] ^= 0x40;
            }
            _ => drop(files.remove(victim)),
        }
        put_index(dir.path(), &files);
    }
    let (place, _) = open_rocks(disk.medium().after_power_loss(&mut dice), &dir);
    let look = |place: &Place| {
        quietly(|| {
            let world = open(place).map_err(|_| ()).unwrap();
            seen(&world, world.engine().root())
        })
    };
    let got = match look(&place) {
        Ok(got) => got,
        Err(_) => {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
            look(&place).map_err(|_| "the store does not open without its index")?
        }
    };
    difference(&got, &want).map_or(Ok(()), Err)
}
