//! `ls` and `cat` of a tree that need not be mounted, by the engine's ordinary operations.

use super::exit::{Exit, Failure, Outcome};
use super::facts::EntryFacts;
use super::request::{Emit, Event};
use crate::base::{FileOff, Ino};
use crate::engine::{Engine, FileKind, OpenHow, Stat};

/// Bytes read at once by `cat`.
const READ_LEN: usize = 1 << 20;
/// Deepest directory that a recursive listing enters; a path is at most 4096 bytes for the kernel.
const DEPTH_MAX: usize = 4096;

/// Kernel-like references to inodes, given back when dropped.
struct References<'a> {
    engine: &'a Engine,
    held: Vec<Ino>,
}

impl Drop for References<'_> {
    fn drop(&mut self) {
        for ino in self.held.drain(..) {
            give_back(self.engine, ino);
        }
    }
}

/// What a mount knows of the live tree is not ours to forget.
fn give_back(engine: &Engine, ino: Ino) {
    if engine.is_virtual(ino) {
        engine.forget(ino, 1);
    }
}

impl References<'_> {
    fn lookup(&mut self, dir: Ino, name: &[u8]) -> Outcome<Stat> {
        let stat = self.engine.lookup(dir, name)?;
        self.held.push(stat.ino);
        Ok(stat)
    }
}

/// Emits the entry at `path`, or the entries of the directory at `path` in byte order of their names.
pub(super) fn list(
    engine: &Engine,
    text: Option<&str>,
    path: &[u8],
    recursive: bool,
    emit: Emit<'_>,
) -> Outcome<()> {
    let mut refs = References {
        engine,
        held: Vec::new(),
    };
    let _in_use = text.map(|text| engine.use_snapshot(text)).transpose()?;
    let root = engine.tree_open(text)?;
    let (stat, path) = walk(&mut refs, root, path)?;
    if stat.kind != FileKind::Dir {
        return show(engine, &path, &stat, emit);
    }
    // Directories still to be listed: the last one is next, so the order is depth first.
    let mut waiting = vec![(stat.ino, path, 0)];
    while let Some((dir, path, depth)) = waiting.pop() {
        if depth > DEPTH_MAX {
            return Err(Failure::new(
                Exit::Damage,
                "the tree is deeper than any tree can be",
            ));
        }
        let mut inner = Vec::new();
        for name in names(engine, dir)? {
            let stat = refs.lookup(dir, &name)?;
            let full = join(&path, &name);
            show(engine, &full, &stat, emit)?;
            if recursive && stat.kind == FileKind::Dir {
                inner.push((stat.ino, full, depth + 1));
            } else if let Some(ino) = refs.held.pop() {
                give_back(engine, ino);
            }
        }
        waiting.extend(inner.into_iter().rev());
    }
    Ok(())
}

/// Emits the bytes of the file at `path`.
pub(super) fn cat(engine: &Engine, text: Option<&str>, path: &[u8], emit: Emit<'_>) -> Outcome<()> {
    let mut refs = References {
        engine,
        held: Vec::new(),
    };
    let _in_use = text.map(|text| engine.use_snapshot(text)).transpose()?;
    let root = engine.tree_open(text)?;
    let (stat, _) = walk(&mut refs, root, path)?;
    match stat.kind {
        FileKind::File => {}
        FileKind::Dir => return Err(crate::base::Error::IsDirectory.into()),
        _ => return Err(Failure::new(Exit::NotFound, "not a regular file")),
    }
    let handle = engine.open_file(
        stat.ino,
        OpenHow {
            read: true,
            ..OpenHow::default()
        },
    )?;
    let mut at = 0;
    let result = loop {
        let mut bytes = Vec::with_capacity(READ_LEN);
        if let Err(e) = engine.read(handle, FileOff::from_raw(at), READ_LEN, &mut bytes) {
            break Err(e.into());
        }
        if bytes.is_empty() {
            break Ok(());
        }
        at += bytes.len() as u64;
        if let Err(e) = emit(Event::Data(bytes)) {
            break Err(e);
        }
    };
    engine.release(handle)?;
    result
}

/// The object at `path` below `root` and its path without superfluous slashes.
fn walk(refs: &mut References<'_>, root: Ino, path: &[u8]) -> Outcome<(Stat, Vec<u8>)> {
    let mut stat = refs.engine.getattr(root)?;
    let mut clean = Vec::new();
    for name in path.split(|b| *b == b'/') {
        if name.is_empty() || name == b"." {
            continue;
        }
        if name == b".." {
            return Err(Failure::usage("a path inside a tree has no `..`"));
        }
        clean = join(&clean, name);
        stat = refs.lookup(stat.ino, name).map_err(|mut failure| {
            failure.message = format!("{}: {}", String::from_utf8_lossy(&clean), failure.message);
            failure
        })?;
    }
    Ok((stat, clean))
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn names(engine: &Engine, dir: Ino) -> Outcome<Vec<Vec<u8>>> {
    let handle = engine.opendir(dir)?;
    let mut names = Vec::new();
    let read = engine.readdir(handle, 0, &mut |item| {
        if item.name != b"." && item.name != b".." {
            names.push(item.name);
        }
        true
    });
    engine.releasedir(handle)?;
    read?;
    names.sort_unstable();
    Ok(names)
}

fn show(engine: &Engine, path: &[u8], stat: &Stat, emit: Emit<'_>) -> Outcome<()> {
    let target = match stat.kind {
        FileKind::Symlink => Some(engine.readlink(stat.ino)?),
        _ => None,
    };
    emit(Event::Entry(EntryFacts::new(path, stat, target.as_deref())))
}
