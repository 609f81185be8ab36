//! Random operations, done on the engine and on the model.

use std::collections::BTreeMap;

use mmhfs::base::{FileOff, Result};
use mmhfs::engine::{Allocate, CleanOptions, CleanReport, RenameHow, SetAttr};

use super::model::{Body, Done, Model, Refused};
use super::world::{Dice, World, caller};

/// What was done, what the model says to it and what the engine says.
pub(crate) type Did = (String, Done, Result<()>);

/// How long files and writes get.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) file_max: u64,
    pub(crate) write: u64,
    pub(crate) write_max: u64,
}

/// An engine, its model, and chance that moves both.
pub(crate) struct Steps {
    pub(crate) dice: Dice,
    pub(crate) world: World,
    pub(crate) model: Model,
    pub(crate) sizes: Sizes,
    /// What was done, for the message of a failure.
    pub(crate) log: Vec<String>,
}

impl Drop for Steps {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self.log.len().saturating_sub(40);
            eprintln!("the last operations:\n{}", self.log[last..].join("\n"));
        }
    }
}

impl Steps {
    pub(crate) fn new(dice: Dice, world: World, sizes: Sizes) -> Self {
        Self {
            dice,
            world,
            model: Model::new(),
            sizes,
            log: Vec::new(),
        }
    }

    fn any_path(&mut self) -> String {
        let paths = self.model.paths();
        let at = self.dice.below(paths.len() as u64) as usize;
        paths[at].clone()
    }

    /// A file if there is one, else anything.
    pub(crate) fn any_file(&mut self) -> String {
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
            1..=3 => self.dice.below(self.sizes.write) + 1,
            _ => self.dice.below(self.sizes.write_max) + 1,
        } as usize;
        match self.dice.below(3) {
            0 => vec![self.dice.below(3) as u8; len],
            // From a small pool, so that much of it is stored already.
            1 => Dice(self.dice.below(3)).bytes(len),
            _ => self.dice.bytes(len),
        }
    }

    fn off(&mut self) -> u64 {
        let max = self.sizes.file_max - self.sizes.write_max;
        match self.dice.below(4) {
            0 => 0,
            1 => 4096 * self.dice.below(max / 4096),
            _ => self.dice.below(max),
        }
    }

    /// One operation on both.
    pub(crate) fn step(&mut self) -> Did {
        match self.dice.below(30) {
            0..=3 => self.make(),
            4..=9 => self.write(),
            10..=11 => self.resize(),
            12..=15 => self.allocate(),
            16..=17 => self.copy(),
            18..=21 => self.rename(),
            22..=23 => self.link(),
            24..=26 => self.remove(),
            _ => self.attributes(),
        }
    }

    /// Deletes one of these snapshots; the model's tree stays what it is.
    pub(crate) fn forget(&mut self, names: &[String]) -> (String, Result<()>) {
        let name = names[self.dice.below(names.len() as u64) as usize].clone();
        let done = self.world.engine().delete_snapshot(&name);
        (name, done)
    }

    /// Gives space back, of packs that are mostly dead or of all that hold something dead; the model's tree stays.
    pub(crate) fn clean(&mut self) -> Result<CleanReport> {
        let options = CleanOptions {
            unused_percent: self.dice.below(3) * 10,
            ..CleanOptions::default()
        };
        self.world.engine().clean(&options, &|_, _| {})
    }

    fn make(&mut self) -> Did {
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

    fn write(&mut self) -> Did {
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

    fn resize(&mut self) -> Did {
        let path = self.any_file();
        let size = match self.dice.below(3) {
            0 => 0,
            _ => self.dice.below(self.sizes.file_max),
        };
        let done = self.world.truncate(&path, size);
        let model = self
            .model
            .file(&path)
            .map(|data| data.resize(size as usize, 0));
        (format!("truncate {path} {size}"), model, done)
    }

    fn allocate(&mut self) -> Did {
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
        let (mut off, mut len) = (
            self.dice.below(size + 9000),
            self.dice.below(self.sizes.write_max / 2) + 1,
        );
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

    fn copy(&mut self) -> Did {
        let (from, to) = (self.any_file(), self.any_file());
        let (at, to_at) = (self.off(), self.off());
        let len = self.dice.below(self.sizes.write_max * 3 / 2);
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
            return (text, Err(Refused), done);
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

    fn rename(&mut self) -> Did {
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

    fn link(&mut self) -> Did {
        let (path, new) = (self.any_path(), self.new_path());
        let text = format!("link {path} {new}");
        let done = self.world.link(&path, &new);
        (text, self.model.link(&path, &new), done)
    }

    fn remove(&mut self) -> Did {
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

    fn attributes(&mut self) -> Did {
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
                let model = model.ok_or(Refused);
                (format!("removexattr {path} {name}"), model, done)
            }
        }
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
                return Err(Refused);
            }
            data.drain(off..end);
        }
        Allocate::Insert => {
            if !aligned || off >= size {
                return Err(Refused);
            }
            data.splice(off..off, std::iter::repeat_n(0, len));
        }
    }
    Ok(())
}
