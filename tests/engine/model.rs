//! A tree in memory that does what a file system should do, and descriptions of trees to compare.

use std::collections::BTreeMap;
use std::rc::Rc;

use mmhfs::base::Ino;
use mmhfs::engine::FileKind;

use super::world::{World, caller};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<String, u64>),
    Symlink(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) body: Body,
    pub(crate) mode: u16,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
}

/// Clones share their nodes.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<u64, Rc<Node>>,
    next: u64,
}

/// The operation is not allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused;

pub(crate) type Done = Result<(), Refused>;

/// What can be seen of an inode. Hard links are told by the first of their paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) what: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) nlink: u32,
    pub(crate) mode: u16,
    pub(crate) first: String,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
}

pub(crate) type Tree = BTreeMap<String, Seen>;

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

impl Model {
    pub(crate) fn new() -> Self {
        let root = Node {
            body: Body::Dir(BTreeMap::new()),
            mode: 0o755,
            xattrs: BTreeMap::new(),
        };
        Self {
            nodes: BTreeMap::from([(0, Rc::new(root))]),
            next: 1,
        }
    }

    pub(crate) fn id(&self, path: &str) -> Option<u64> {
        let mut at = 0;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match &self.nodes[&at].body {
                Body::Dir(entries) => at = *entries.get(name)?,
                _ => return None,
            }
        }
        Some(at)
    }

    fn node(&mut self, id: u64) -> &mut Node {
        Rc::make_mut(self.nodes.get_mut(&id).unwrap())
    }

    pub(crate) fn at(&self, path: &str) -> Result<&Node, Refused> {
        self.id(path).map(|id| &*self.nodes[&id]).ok_or(Refused)
    }

    pub(crate) fn at_mut(&mut self, path: &str) -> Result<&mut Node, Refused> {
        let id = self.id(path).ok_or(Refused)?;
        Ok(self.node(id))
    }

    pub(crate) fn file(&mut self, path: &str) -> Result<&mut Vec<u8>, Refused> {
        match &mut self.at_mut(path)?.body {
            Body::File(data) => Ok(data),
            _ => Err(Refused),
        }
    }

    fn place<'a>(&self, path: &'a str) -> Result<(u64, &'a str), Refused> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.id(dir).ok_or(Refused)?;
        match &self.nodes[&dir].body {
            Body::Dir(_) => Ok((dir, name)),
            _ => Err(Refused),
        }
    }

    fn entries(&mut self, dir: u64) -> &mut BTreeMap<String, u64> {
        match &mut self.node(dir).body {
            Body::Dir(entries) => entries,
            other => panic!("{other:?} is no directory"),
        }
    }

    pub(crate) fn make(&mut self, path: &str, body: Body, mode: u16) -> Done {
        let (dir, name) = self.place(path)?;
        if self.id(path).is_some() {
            return Err(Refused);
        }
        let id = self.next;
        self.next += 1;
        let node = Node {
            body,
            mode,
            xattrs: BTreeMap::new(),
        };
        self.nodes.insert(id, Rc::new(node));
        self.entries(dir).insert(name.to_owned(), id);
        Ok(())
    }

    pub(crate) fn link(&mut self, path: &str, new: &str) -> Done {
        let id = self.id(path).ok_or(Refused)?;
        let (dir, name) = self.place(new)?;
        if self.id(new).is_some() || self.is_dir(id) {
            return Err(Refused);
        }
        self.entries(dir).insert(name.to_owned(), id);
        Ok(())
    }

    fn is_dir(&self, id: u64) -> bool {
        matches!(self.nodes[&id].body, Body::Dir(_))
    }

    fn is_empty(&self, id: u64) -> bool {
        matches!(&self.nodes[&id].body, Body::Dir(entries) if entries.is_empty())
    }

    pub(crate) fn remove(&mut self, path: &str, want_dir: bool) -> Done {
        let id = self.id(path).ok_or(Refused)?;
        if self.is_dir(id) != want_dir || want_dir && !self.is_empty(id) {
            return Err(Refused);
        }
        let (dir, name) = self.place(path)?;
        self.entries(dir).remove(name);
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str, exchange: bool) -> Done {
        let id = self.id(from).ok_or(Refused)?;
        let ((dir, name), (new_dir, new_name)) = (self.place(from)?, self.place(to)?);
        let target = self.id(to);
        let below = |path: &str, dir: &str| path.starts_with(&format!("{dir}/"));
        if below(to, from) || exchange && (target.is_none() || below(from, to)) {
            return Err(Refused);
        }
        if target == Some(id) {
            return Ok(());
        }
        if let (Some(target), false) = (target, exchange)
            && (self.is_dir(id) != self.is_dir(target)
                || self.is_dir(target) && !self.is_empty(target))
        {
            return Err(Refused);
        }
        self.entries(dir).remove(name);
        self.entries(new_dir).insert(new_name.to_owned(), id);
        if let (Some(target), true) = (target, exchange) {
            self.entries(dir).insert(name.to_owned(), target);
        }
        Ok(())
    }

    /// All paths, the root's first.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut found = vec![String::new()];
        let mut at = 0;
        while at < found.len() {
            let path = found[at].clone();
            if let Ok(Node {
                body: Body::Dir(entries),
                ..
            }) = self.at(&path)
            {
                found.extend(entries.keys().map(|name| join(&path, name)));
            }
            at += 1;
        }
        found
    }

    pub(crate) fn tree(&self) -> Tree {
        let mut paths = self.paths();
        paths.sort();
        let mut first: BTreeMap<u64, String> = BTreeMap::new();
        let mut count: BTreeMap<u64, u32> = BTreeMap::new();
        for path in &paths {
            let id = self.id(path).unwrap();
            first.entry(id).or_insert_with(|| path.clone());
            *count.entry(id).or_default() += 1;
        }
        let mut tree = Tree::new();
        for path in paths {
            let id = self.id(&path).unwrap();
            let node = &self.nodes[&id];
            let (what, bytes, size, nlink) = match &node.body {
                Body::File(data) => ("File", data.clone(), data.len(), count[&id]),
                Body::Symlink(target) => {
                    let bytes = target.as_bytes().to_vec();
                    ("Symlink", bytes, target.len(), count[&id])
                }
                Body::Dir(entries) => {
                    let dirs = entries.values().filter(|id| self.is_dir(**id)).count();
                    ("Dir", Vec::new(), entries.len(), 2 + dirs as u32)
                }
            };
            tree.insert(
                path,
                Seen {
                    what: what.to_owned(),
                    bytes,
                    size: size as u64,
                    nlink,
                    mode: node.mode,
                    first: first[&id].clone(),
                    xattrs: node.xattrs.clone(),
                },
            );
        }
        tree
    }
}

/// What a tree of the engine shows; the attributes of the root are left to the engine.
pub(crate) fn seen(world: &World, root: Ino) -> Tree {
    let engine = world.engine();
    let mut tree = Tree::new();
    let mut inos: BTreeMap<String, Ino> = BTreeMap::new();
    let mut todo = vec![(String::new(), root)];
    while let Some((path, ino)) = todo.pop() {
        let stat = engine.getattr(ino).unwrap();
        let bytes = match stat.kind {
            FileKind::File => world.read_ino(ino).unwrap(),
            FileKind::Symlink => engine.readlink(ino).unwrap(),
            _ => Vec::new(),
        };
        if stat.kind == FileKind::Dir {
            for (name, child) in world.list(ino) {
                let found = engine.lookup(ino, name.as_bytes()).unwrap();
                assert_eq!(found.ino, child, "{path}/{name}");
                todo.push((join(&path, &name), child));
            }
        }
        let names = engine.listxattr(&caller(), ino).unwrap();
        let names = names.split(|b| *b == 0).filter(|name| !name.is_empty());
        let xattrs = names.map(|name| {
            let value = engine.getxattr(ino, name).unwrap();
            (String::from_utf8(name.to_vec()).unwrap(), value)
        });
        inos.insert(path.clone(), ino);
        let seen = Seen {
            what: format!("{:?}", stat.kind),
            bytes,
            size: stat.size,
            nlink: stat.nlink,
            mode: stat.mode,
            first: String::new(),
            xattrs: xattrs.collect(),
        };
        tree.insert(path, seen);
    }
    let mut first: BTreeMap<Ino, String> = BTreeMap::new();
    for (path, ino) in &inos {
        let first = first.entry(*ino).or_insert_with(|| path.clone());
        tree.get_mut(path).unwrap().first = first.clone();
    }
    tree
}

/// The first difference of two trees, in words.
pub(crate) fn difference(got: &Tree, want: &Tree) -> Option<String> {
    for (path, seen) in want {
        let Some(other) = got.get(path) else {
            return Some(format!("{path:?} is missing"));
        };
        if other != seen {
            let at = other
                .bytes
                .iter()
                .zip(&seen.bytes)
                .position(|(a, b)| a != b);
            let short = |seen: &Seen| Seen {
                bytes: Vec::new(),
                ..seen.clone()
            };
            let (got, want) = (short(other), short(seen));
            return Some(format!(
                "{path:?}: got {got:?}, want {want:?}, bytes differ at {at:?}"
            ));
        }
    }
    let extra = got.keys().find(|path| !want.contains_key(*path));
    extra.map(|path| format!("{path:?} should not be there"))
}

#[track_caller]
pub(crate) fn assert_same(got: &Tree, want: &Tree) {
    if let Some(text) = difference(got, want) {
        panic!("{text}");
    }
}
