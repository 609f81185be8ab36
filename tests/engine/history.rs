//! Random histories of operations, against the model (I11, I12, I9).

use std::collections::BTreeMap;

use mmhfs::base::FileOff;
use mmhfs::engine::{Allocate, CleanOptions, RenameHow, SetAttr};

use super::model::{Body, Done, Model, assert_same, difference, seen};
use super::world::{Dice, World, caller, plain_seed};

/// Longest file of a history: more than the 1 MiB up to which a file has no node of its own.
const LEN_MAX: u64 = 1_300_000;

struct History {
    dice: Dice,
    world: World,
    model: Model,
    /// What the tree was after each operation since the last one that made it durable.
    since_sync: Vec<Model>,
    snapshots: BTreeMap<String, Model>,
    /// Snapshots made so far.
    made: u64,
    /// What was done, for the message of a failure.
    log: Vec<String>,
}

impl Drop for History {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self.log.len().saturating_sub(40);
            eprintln!("the last operations:\n{}", self.log[last..].join("\n"));
        }
    }
}

impl History {
    fn new(seed: u64) -> Self {
        let model = Model::new();
        Self {
            dice: Dice(seed),
            world: World::with(seed, 4 << 20),
            since_sync: vec![model.clone()],
            model,
            snapshots: BTreeMap::new(),
            made: 0,
            log: Vec::new(),
        }
    }

    fn any_path(&mut self) -> String {
        let paths = self.model.paths();
        let at = self.dice.below(paths.len() as u64) as usize;
        paths[at].clone()
    }

    /// A file if there is one, else anything.
    fn any_file(&mut self) -> String {
        let paths = self.model.paths();
        let is_file = |path: &&String| {
            matches!(
                self.model.at(path).map(|node| &node.body),
                Ok(Body::File(_))
            )
        };
        let files: Vec<&String> = paths.iter().filter(is_file).collect();
        match files.len() as u64 {
            0 => paths[0].clone(),
            n => files[self.dice.below(n) as usize].clone(),
        }
    }

    fn new_path(&mut self) -> String {
        let mut dir = self.any_path();
        if dir.matches('/').count() > 3 {
            dir.clear();
        }
        let name = format!("n{}", self.dice.below(7));
        if dir.is_empty() {
            name
        } else {
            format!("{dir}/{name}")
        }
    }

    fn data(&mut self) -> Vec<u8> {
        let len = match self.dice.below(6) {
            0 => self.dice.below(100) + 1,
            1..=3 => self.dice.below(20_000) + 1,
            _ => self.dice.below(200_000) + 1,
        } as usize;
        match self.dice.below(3) {
            0 => vec![self.dice.below(3) as u8; len],
            // From a small pool, so that much of it is stored already.
            1 => Dice(self.dice.below(3)).bytes(len),
            _ => self.dice.bytes(len),
        }
    }

    fn off(&mut self) -> u64 {
        match self.dice.below(4) {
            0 => 0,
            1 => 4096 * self.dice.below(LEN_MAX / 4096 - 60),
            _ => self.dice.below(LEN_MAX - 210_000),
        }
    }

    /// One operation on both; they must agree on whether it is allowed.
    fn step(&mut self) {
        let (text, model, engine) = match self.dice.below(30) {
            0..=3 => self.make(),
            4..=9 => self.write(),
            10..=11 => self.resize(),
            12..=15 => self.allocate(),
            16..=17 => self.copy(),
            18..=21 => self.rename(),
            22..=23 => self.link(),
            24..=26 => self.remove(),
            _ => self.attributes(),
        };
        self.log.push(format!("{text}: {engine:?}"));
        assert_eq!(model.is_ok(), engine.is_ok(), "{text}: {engine:?}");
        self.since_sync.push(self.model.clone());
    }

    fn make(&mut self) -> (String, Done, mmhfs::base::Result<()>) {
        let path = self.new_path();
        match self.dice.below(5) {
            0..=1 => {
                let done = self.world.create(&path);
                let done = done.and_then(|handle| self.world.engine().release(handle));
                let model = self.model.make(&path, Body::File(Vec::new()), 0o644);
                (format!("create {path}"), model, done)
            }
            2..=3 => {
                let done = self.world.mkdir(&path);
                let model = self.model.make(&path, Body::Dir(BTreeMap::new()), 0o755);
                (format!("mkdir {path}"), model, done)
            }
            _ => {
                let target = format!("to/{}", self.dice.below(100));
                let done = self.world.symlink(&path, &target);
                let model = self.model.make(&path, Body::Symlink(target), 0o777);
                (format!("symlink {path}"), model, done)
            }
        }
    }

    fn write(&mut self) -> (String, Done, mmhfs::base::Result<()>) {
        let (path, off, data) = (self.any_file(), self.off(), self.data());
        let text = format!("write {path} {off} + {}", data.len());
        if self.model.file(&path).is_err() {
            return self.make();
        }
        let done = self.world.write_at(&path, off, &data);
        let file = self.model.file(&path).unwrap();
        let (from, to) = (off as usize, off as usize + data.len());
        file.resize(file.len().max(to), 0);
        file[from..to].copy_from_slice(&data);
        (text, Ok(()), done)
    }

    fn resize(&mut self) -> (String, Done, mmhfs::base::Result<()>) {
        let path = self.any_file();
        let size = match self.dice.below(3) {
            0 => 0,
            _ => self.dice.below(LEN_MAX),
        };
        let done = self.world.truncate(&path, size);
        let model = self
            .model
            .file(&path)
            .map(|data| data.resize(size as usize, 0));
        (format!("truncate {path} {size}"), model, done)
    }

    fn allocate(&mut self) -> (String, Done, mmhfs::base::Result<()>) {
        let path = self.any_file();
        let keep_size = self.dice.below(2) == 0;
        let how = match self.dice.below(7) {
            0..=1 => Allocate::Punch,
            2 => Allocate::Zero { keep_size },
            3 => Allocate::Reserve { keep_size },
            4..=5 => Allocate::Collapse,
            _ => Allocate::Insert,
        };
        let size = self.model.file(&path).map_or(0, |data| data.len() as u64);
        let (mut off, mut len) = (self.dice.below(size + 9000), self.dice.below(90_000) + 1);
        if matches!(how, Allocate::Collapse | Allocate::Insert) && self.dice.below(8) > 0 {
            (off, len) = (off / 2 / 4096 * 4096, len.div_ceil(4096) * 4096);
        }
        let text = format!("fallocate {path} {off} + {len} {how:?}");
        let Ok(data) = self.model.file(&path) else {
            return (text, Ok(()), Ok(()));
        };
        let model = allocated(data, off as usize, len as usize, how);
        let done = self.world.with_file(&path, |handle| {
            let off = FileOff::from_raw(off);
            self.world.engine().fallocate(handle, off, len, how)
        });
        (text, model, done)
    }

    fn copy(&mut self) -> (String, Done, mmhfs::base::Result<()>) {
        let (from, to) = (self.any_file(), self.any_file());
        let (at, to_at) = (self.off(), self.off());
        let len = self.dice.below(300_000);
        let text = format!("copy {from} {at} + {len} to {to} {to_at}");
        let same = self.model.id(&from) == self.model.id(&to);
        let Ok(source) = self.model.file(&from).cloned() else {
            return (text, Ok(()), Ok(()));
        };
        let size = source.len() as u64;
        let real = len.min(size.saturating_sub(at));
        let done = self.world.with_file(&from, |a| {
            self.world.with_file(&to, |b| {
                let (at, to_at) = (FileOff::from_raw(at), FileOff::from_raw(to_at));
                let engine = self.world.engine();
                let done = engine.copy_file_range(&caller(), a, at, b, to_at, len)?;
                assert_eq!(done, real);
                Ok(())
            })
        });
        let overlap = same && at < to_at + real && to_at < at + real;
        if real > 0 && overlap {
            return (text, Err(super::model::Refused), done);
        }
        if real > 0 {
            let bytes = &source[at as usize..(at + real) as usize];
            let target = self.model.file(&to).unwrap();
            let end = (to_at + real) as usize;
            target.resize(target.len().max(end), 0);
            target[to_at as usize..end].copy_from_slice(bytes);
        }
        (text, Ok(()), done)
    }

    fn rename(&mut self) -> (String, Done, mmhfs::base::Result<()>) {
        let from = self.any_path();
        let exchange = self.dice.below(4) == 0;
        let to = if exchange || self.dice.below(3) == 0 {
            self.any_path()
        } else {
            self.new_path()
        };
        let text = format!("rename {from} {to} exchange {exchange}");
        if from.is_empty() || to.is_empty() {
            return (text, Ok(()), Ok(()));
        }
        let how = RenameHow {
            exchange,
            no_replace: false,
        };
        let done = self.world.rename_how(&from, &to, how);
        (text, self.model.rename(&from, &to, exchange), done)
    }

    fn link(&mut self) -> (String, Done, mmhfs::base::Result<()>) {
        let (path, new) = (self.any_path(), self.new_path());
        let text = format!("link {path} {new}");
        let done = self.world.link(&path, &new);
        (text, self.model.link(&path, &new), done)
    }

    fn remove(&mut self) -> (String, Done, mmhfs::base::Result<()>) {
        let path = self.any_path();
        let want_dir = self.dice.below(2) == 0;
        let text = format!("remove {path} dir {want_dir}");
        if path.is_empty() {
            return (text, Ok(()), Ok(()));
        }
        let (dir, name) = self.world.place(&path).unwrap();
        let done = if want_dir {
            self.world.engine().rmdir(dir, name)
        } else if self.dice.below(4) == 0 {
            // The kernel has not forgotten it yet.
            self.world.engine().unlink(dir, name)
        } else {
            self.world.unlink(&path)
        };
        (text, self.model.remove(&path, want_dir), done)
    }

    fn attributes(&mut self) -> (String, Done, mmhfs::base::Result<()>) {
        let path = self.any_path();
        let is_link = |body: &Body| matches!(body, Body::Symlink(_));
        if path.is_empty() || self.model.at(&path).is_ok_and(|node| is_link(&node.body)) {
            return ("nothing".to_owned(), Ok(()), Ok(()));
        }
        match self.dice.below(3) {
            0 => {
                let mode = [0o600, 0o755, 0o640][self.dice.below(3) as usize];
                let set = SetAttr {
                    mode: Some(mode),
                    ..SetAttr::default()
                };
                let done = self.world.set(&path, &set);
                let model = self.model.at_mut(&path).map(|node| node.mode = mode);
                (format!("chmod {path} {mode:o}"), model, done)
            }
            1 => {
                let name = format!("user.{}", self.dice.below(3));
                let len = self.dice.below(50) as usize;
                let value = self.dice.bytes(len);
                let done = self.world.set_xattr(&path, &name, &value);
                let text = format!("setxattr {path} {name}");
                let model = self.model.at_mut(&path).map(|node| {
                    node.xattrs.insert(name, value);
                });
                (text, model, done)
            }
            _ => {
                let name = format!("user.{}", self.dice.below(3));
                let ino = self.world.ino(&path).unwrap();
                let engine = self.world.engine();
                let done = engine.removexattr(&caller(), ino, name.as_bytes());
                let node = self.model.at_mut(&path).unwrap();
                let model = node.xattrs.remove(&name).map(|_| ());
                let model = model.ok_or(super::model::Refused);
                (format!("removexattr {path} {name}"), model, done)
            }
        }
    }

    fn compare(&self) {
        let root = self.world.engine().root();
        assert_same(&seen(&self.world, root), &self.model.tree());
    }

    fn durable(&mut self) {
        self.since_sync = vec![self.model.clone()];
    }

    /// Something that the store must outlive.
    fn event(&mut self) {
        let kind = self.dice.below(11);
        self.log.push(format!("event {kind}"));
        match kind {
            0..=1 => {
                self.world.engine().sync().unwrap();
                self.durable();
            }
            2..=3 => self.snapshot(),
            4 => {
                self.world.reopen();
                self.durable();
                self.compare();
            }
            5 => {
                self.world.reopen_without_index();
                self.durable();
                self.compare();
                self.world.assert_sound();
            }
            6..=7 => self.crash(),
            8 => self.forget(),
            _ => self.clean(),
        }
    }

    fn forget(&mut self) {
        let count = self.snapshots.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.dice.below(count) as usize;
        let name = self.snapshots.keys().nth(at).unwrap().clone();
        self.snapshots.remove(&name);
        self.world.engine().delete_snapshot(&name).unwrap();
    }

    fn clean(&mut self) {
        let options = CleanOptions {
            unused_percent: self.dice.below(3) * 10,
            ..CleanOptions::default()
        };
        let done = self.world.engine().clean(&options, &|_, _| {}).unwrap();
        assert!(done.kept.is_empty(), "{done:?}");
        self.durable();
        self.compare();
        self.world.assert_sound();
    }

    fn snapshot(&mut self) {
        let name = format!("s{}", self.made);
        self.made += 1;
        let info = self.world.snapshot(&name);
        self.durable();
        self.snapshots.insert(name.clone(), self.model.clone());
        assert!(self.world.diff(&name, None).is_empty());
        if self.dice.below(2) == 0 {
            self.compare();
            let to = self.world.beside(&name);
            self.world.materialise(self.world.engine().root(), &to);
            assert_eq!(info.seed, plain_seed(&to), "snapshot {name}");
            std::fs::remove_dir_all(&to).unwrap();
        }
        self.world.assert_verifies(&name);
    }

    /// After a crash the tree is one that was, and not older than the last sync (I11).
    fn crash(&mut self) {
        let with_index = self.dice.below(2) == 0;
        let len = self.dice.below(3) as usize * 777;
        let rubbish = self.dice.bytes(len);
        self.world.crash(with_index, &rubbish);
        let got = seen(&self.world, self.world.engine().root());
        let states = &self.since_sync;
        let found = states
            .iter()
            .find(|model| difference(&got, &model.tree()).is_none());
        match found {
            Some(model) => self.model = model.clone(),
            None => panic!(
                "no state since the last sync: {}",
                difference(&got, &states[0].tree()).unwrap()
            ),
        }
        self.durable();
        self.world.assert_sound();
    }

    fn finish(&mut self) {
        self.compare();
        self.world.engine().sync().unwrap();
        self.compare();
        self.world.assert_sound();
        for (name, model) in &self.snapshots {
            let root = self.world.engine().tree_open(Some(name)).unwrap();
            assert_same(&seen(&self.world, root), &model.tree());
            self.world.assert_verifies(name);
        }
        self.snapshot();
        self.world.reopen_without_index();
        self.compare();
        self.world.assert_sound();
    }
}

fn allocated(data: &mut Vec<u8>, off: usize, len: usize, how: Allocate) -> Done {
    let (size, end) = (data.len(), off + len);
    let aligned = off.is_multiple_of(4096) && len.is_multiple_of(4096);
    match how {
        Allocate::Punch | Allocate::Zero { keep_size: true } => {
            data[off.min(size)..end.min(size)].fill(0);
        }
        Allocate::Zero { keep_size: false } => {
            data.resize(size.max(end), 0);
            data[off..end].fill(0);
        }
        Allocate::Reserve { keep_size: true } => {}
        Allocate::Reserve { keep_size: false } => data.resize(size.max(end), 0),
        Allocate::Collapse => {
            if !aligned || end >= size {
                return Err(super::model::Refused);
            }
            data.drain(off..end);
        }
        Allocate::Insert => {
            if !aligned || off >= size {
                return Err(super::model::Refused);
            }
            data.splice(off..off, std::iter::repeat_n(0, len));
        }
    }
    Ok(())
}

fn run(seed: u64) {
    eprintln!("history of seed {seed}: MMHFS_SEED={seed} runs it alone");
    let mut history = History::new(seed);
    for _ in 0..14 {
        for _ in 0..history.dice.below(25) {
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
