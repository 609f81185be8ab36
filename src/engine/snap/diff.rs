//! What differs between two trees: two snapshots, or a snapshot and the committed live tree.
//!
//! 1. Two snapshots are compared trie by trie; equal digests are skipped unread. The live tree has no
//!    digests, so all of it is walked; bytes are read only where the extents differ from the snapshot's.
//! 2. What is only in one tree is paired by content: a directory or a file that is not empty and whose
//!    content digest is unique on either side was renamed.
//! 3. Everything is sorted by path. Memory is in proportion to what differs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::dirty::group_digests;
use super::entry::{Source, hash_file, joined, node_attrs};
use super::tree::{Quota, Tree, entry_kind, read_extents};
use super::verify::{attrs_of, join};
use crate::base::{Digest, Error, Ino, Result, Timestamp};
use crate::engine::Engine;
use crate::engine::extents;
use crate::engine::types::{Change, DiffItem};
use crate::format::keys;
use crate::format::node::{Body, DirBody, DirChild, Entry, Node};
use crate::format::rows::{Attrs, DirentRow, InodeRow, Kind, Table};
use crate::hash::{self, DirEntry, EntryKind, NodeAttrs, TwoDigests, encode_attrs};
use crate::meta::for_each_row;

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;
/// Name, kind and content of a live entry.
type Hashed = (Vec<u8>, EntryKind, Digest);

/// An entry of either kind of tree.
#[derive(Clone)]
enum Item {
    Stored(Arc<Entry>),
    Live(Arc<(Vec<u8>, Ino, InodeRow, Xattrs)>),
}

/// A directory of either kind of tree.
#[derive(Clone)]
enum Dir {
    Stored(DirBody),
    Live(Ino),
}

/// Something that is in one tree only.
struct Lone {
    path: Vec<u8>,
    item: Item,
    /// Not known of a live directory until all of it was read.
    content: Option<Digest>,
}

/// A directory that is in both trees.
struct Pair {
    path: Vec<u8>,
    from: Dir,
    to: Dir,
    /// The two directories themselves; none for the root, whose attributes do not count.
    items: Option<(Item, Item)>,
}

impl Item {
    fn name(&self) -> &[u8] {
        match self {
            Self::Stored(entry) => &entry.name,
            Self::Live(live) => &live.0,
        }
    }

    fn attrs(&self) -> &Attrs {
        match self {
            Self::Stored(entry) => &entry.attrs,
            Self::Live(live) => &live.2.attrs,
        }
    }

    fn kind(&self) -> EntryKind {
        entry_kind(self.attrs().kind, self.attrs().mode)
    }

    fn node_attrs(&self) -> NodeAttrs<'_> {
        match self {
            Self::Stored(entry) => attrs_of(entry),
            Self::Live(live) => node_attrs(&live.2, &live.3),
        }
    }

    fn dir(&self) -> Option<Dir> {
        match self {
            Self::Stored(entry) => match &entry.body {
                Body::Dir(body) => Some(Dir::Stored(*body)),
                _ => None,
            },
            Self::Live(live) => (live.2.attrs.kind == Kind::Dir).then_some(Dir::Live(live.1)),
        }
    }

    /// Whether finding the same content elsewhere says that it was moved there.
    fn is_telling(&self) -> bool {
        match self.attrs().kind {
            // The size of a directory is the number of its entries.
            Kind::File | Kind::Dir => self.attrs().size > 0,
            _ => false,
        }
    }
}

struct Diff<'a> {
    tree: Tree<'a>,
    live: Source<'a>,
    items: Vec<DiffItem>,
    removed: Vec<Lone>,
    added: Vec<Lone>,
    todo: Vec<Pair>,
    /// Digests of the link groups of the live tree's directories that have some; empty if there is no live tree.
    linked: HashMap<Ino, Digest>,
    /// Directories whose link groups differ.
    groups: Vec<Vec<u8>>,
    /// Live directories that were listed: one that comes again lies below itself or has two names.
    listed: HashSet<Ino>,
    /// Entries of the snapshots that are left to come.
    quota: Quota,
}

impl Engine {
    /// Calls `each` for every difference from the snapshot `from` to the snapshot `to` (`None`: to what is
    /// committed of the live tree), in the order of the paths.
    ///
    /// A directory's time of change counts only if its names are the same in both trees. Of a renamed
    /// directory only the directory itself is named. A change of hard links is a change of attributes of the
    /// directory that holds all of their names.
    ///
    /// # Errors
    /// Those of [`Engine::resolve`], of the commit before it, and of reading what must be compared.
    pub fn diff(&self, from: &str, to: Option<&str>, each: &mut dyn FnMut(DiffItem)) -> Result<()> {
        let (_, from, _from_in_use) = self.use_row(from)?;
        let to = to.map(|text| self.use_row(text)).transpose()?;
        if to.is_none() && !self.config.read_only {
            self.commit()?;
        }
        let view = self.index().view();
        let tree = self.tree();
        let root = tree.root(&from)?;
        let is_live = to.is_none();
        let to = match &to {
            Some((_, row, _)) => Dir::Stored(*Tree::dir(&tree.root(row)?)?),
            None => Dir::Live(Ino::ROOT),
        };
        let mut quota = Quota::of(Tree::dir(&root)?);
        if let Dir::Stored(to) = &to {
            quota = quota.and(&Quota::of(to));
        }
        let mut diff = Diff {
            tree: self.tree(),
            live: Source {
                view: &view,
                store: &self.store,
                tree: &tree,
            },
            items: Vec::new(),
            removed: Vec::new(),
            added: Vec::new(),
            todo: vec![Pair {
                path: Vec::new(),
                from: Dir::Stored(*Tree::dir(&root)?),
                to,
                items: None,
            }],
            linked: HashMap::new(),
            groups: Vec::new(),
            listed: HashSet::new(),
            quota,
        };
        if is_live {
            diff.linked = group_digests(&diff.live)?;
        }
        while let Some(pair) = diff.todo.pop() {
            diff.pair(&pair)?;
        }
        diff.lone()?;
        let items = diff.finish();
        items.into_iter().for_each(each);
        Ok(())
    }
}

impl Diff<'_> {
    fn push(&mut self, change: Change, path: &[u8]) {
        self.items.push(DiffItem {
            change,
            path: path.to_vec(),
            from: None,
        });
    }

    /// Compares two directories of the same path.
    fn pair(&mut self, pair: &Pair) -> Result<()> {
        let (mut from, mut to) = (BTreeMap::new(), BTreeMap::new());
        if let (Dir::Stored(a), Dir::Stored(b)) = (&pair.from, &pair.to) {
            if a.groups != b.groups {
                self.groups.push(pair.path.clone());
            }
            self.tries(&a.trie, &b.trie, &mut from, &mut to)?;
            self.quota.take(from.len().saturating_add(to.len()))?;
        } else {
            if let (Dir::Stored(old), Dir::Live(ino)) = (&pair.from, &pair.to) {
                let none = || hash::groups_digest(&[]);
                if old.groups != self.linked.get(ino).copied().unwrap_or_else(none) {
                    self.groups.push(pair.path.clone());
                }
            }
            self.list(&pair.from, &mut from)?;
            self.list(&pair.to, &mut to)?;
        }
        let mut same_names = true;
        for (name, old) in from {
            let path = join(&pair.path, &name);
            match to.remove(&name) {
                Some(new) if new.attrs().kind == old.attrs().kind => {
                    self.compare(path, old, new)?;
                }
                other => {
                    same_names = false;
                    self.removed.push(self.new_lone(path.clone(), old)?);
                    if let Some(new) = other {
                        self.added.push(self.new_lone(path, new)?);
                    }
                }
            }
        }
        for (name, new) in to {
            same_names = false;
            let path = join(&pair.path, &name);
            self.added.push(self.new_lone(path, new)?);
        }
        if let Some((old, new)) = &pair.items {
            let (mut a, mut b) = (old.node_attrs(), new.node_attrs());
            if !same_names {
                (a.mtime, b.mtime) = (Timestamp::default(), Timestamp::default());
            }
            let kind = EntryKind::Directory;
            if encode_attrs(kind, &a) != encode_attrs(kind, &b) {
                self.push(Change::Attributes, &pair.path);
            }
        }
        Ok(())
    }

    /// The entries of two tries, without those in parts that are equal.
    fn tries(
        &self,
        a: &DirChild,
        b: &DirChild,
        from: &mut BTreeMap<Vec<u8>, Item>,
        to: &mut BTreeMap<Vec<u8>, Item>,
    ) -> Result<()> {
        let mut stack = vec![(*a, *b)];
        let mut seen = HashSet::new();
        while let Some((a, b)) = stack.pop() {
            if (a.count, a.content, a.full) == (b.count, b.content, b.full) {
                continue;
            }
            if a.inner && b.inner && !seen.insert((a.node, b.node)) {
                return Err(twice());
            }
            let (node_a, node_b) = (self.tree.node(&a.node)?, self.tree.node(&b.node)?);
            if let (Node::DirInner(a), Node::DirInner(b)) = (&*node_a, &*node_b) {
                stack.push((a.left, b.left));
                stack.push((a.right, b.right));
            } else {
                self.list_trie(&a, from)?;
                self.list_trie(&b, to)?;
            }
        }
        Ok(())
    }

    fn list(&mut self, dir: &Dir, into: &mut BTreeMap<Vec<u8>, Item>) -> Result<()> {
        match dir {
            Dir::Stored(body) => {
                self.list_trie(&body.trie, into)?;
                self.quota.take(into.len())
            }
            Dir::Live(ino) => {
                if !self.listed.insert(*ino) {
                    return Err(Error::Malformed {
                        what: "directory",
                        detail: "it lies below itself or has two names",
                    });
                }
                let (start, end) = keys::ino_range(*ino);
                for_each_row(
                    self.live.view,
                    Table::Dirent,
                    &start,
                    &end,
                    &mut |_, value| {
                        let entry = DirentRow::decode(value)?;
                        if let Some(row) = self.live.inode(entry.ino)? {
                            let xattrs = self.live.xattrs(entry.ino, &row)?;
                            let live = (entry.name.clone(), entry.ino, row, xattrs);
                            into.insert(entry.name, Item::Live(Arc::new(live)));
                        }
                        Ok(true)
                    },
                )
            }
        }
    }

    /// The entries of a trie, or of a part of one, in which no node is in two places.
    fn list_trie(&self, trie: &DirChild, into: &mut BTreeMap<Vec<u8>, Item>) -> Result<()> {
        let mut stack = vec![*trie];
        let mut seen = HashSet::new();
        while let Some(child) = stack.pop() {
            if child.inner && !seen.insert(child.node) {
                return Err(twice());
            }
            match &*self.tree.node(&child.node)? {
                Node::DirInner(inner) => stack.extend([inner.left, inner.right]),
                Node::DirLeaf(entries) => into.extend(
                    entries
                        .iter()
                        .map(|e| (e.name.clone(), Item::Stored(Arc::new(e.clone())))),
                ),
                _ => {}
            }
        }
        Ok(())
    }

    /// Compares two entries of one name and kind.
    fn compare(&mut self, path: Vec<u8>, old: Item, new: Item) -> Result<()> {
        if let (Item::Stored(a), Item::Stored(b)) = (&old, &new)
            && (a.content, a.full) == (b.content, b.full)
            && old.kind() == new.kind()
        {
            return Ok(());
        }
        if let (Some(from), Some(to)) = (old.dir(), new.dir()) {
            self.todo.push(Pair {
                path,
                from,
                to,
                items: Some((old, new)),
            });
            return Ok(());
        }
        if !self.same_content(&old, &new)? {
            self.push(Change::Changed, &path);
        } else if old.kind() != new.kind()
            || encode_attrs(old.kind(), &old.node_attrs())
                != encode_attrs(new.kind(), &new.node_attrs())
        {
            self.push(Change::Attributes, &path);
        }
        Ok(())
    }

    /// Whether two entries of one kind that are no directories have the same bytes or target.
    fn same_content(&self, old: &Item, new: &Item) -> Result<bool> {
        if let (Item::Stored(a), Item::Live(b)) = (old, new)
            && a.attrs.kind == Kind::File
        {
            if a.attrs.size != b.2.attrs.size {
                return Ok(false);
            }
            let size = a.attrs.size;
            let before = joined(&self.tree.extents(a, 0..size)?);
            if before == joined(&extents::clipped(self.live.view, b.1, 0..size)?) {
                return Ok(true);
            }
        }
        Ok(self.content(old)? == self.content(new)?)
    }

    /// The content digest of anything but a live directory.
    fn content(&self, item: &Item) -> Result<Digest> {
        let live = match item {
            Item::Stored(entry) => return Ok(entry.content),
            Item::Live(live) => live,
        };
        let (ino, row) = (live.1, &live.2);
        match row.attrs.kind {
            Kind::File => self.live_content(ino, row.attrs.size),
            Kind::Symlink => Ok(hash::symlink_content(&row.target)),
            _ => Ok(hash::special_content(item.kind())),
        }
    }

    /// The content digest of a live file, from its bytes.
    fn live_content(&self, ino: Ino, size: u64) -> Result<Digest> {
        let view = self.live.view;
        hash_file(
            size,
            |range, sink| {
                let found = extents::clipped(view, ino, range.clone())?;
                read_extents(self.live.store, &found, range, sink)
            },
            |at| {
                let mut next = size;
                extents::for_each_overlapping(view, ino, at..size, &mut |off, _| {
                    next = off.max(at);
                    Ok(false)
                })?;
                Ok(next)
            },
        )
    }

    fn new_lone(&self, path: Vec<u8>, item: Item) -> Result<Lone> {
        let content = match &item {
            Item::Live(live) if live.2.attrs.kind == Kind::Dir => None,
            // Links and special files are never paired: their content does not tell.
            Item::Live(_) if !item.is_telling() => None,
            _ => Some(self.content(&item)?),
        };
        Ok(Lone {
            path,
            item,
            content,
        })
    }

    /// Pairs what is in one tree only, first as it is, then with everything that lies below.
    fn lone(&mut self) -> Result<()> {
        let mut removed = std::mem::take(&mut self.removed);
        let mut added = std::mem::take(&mut self.added);
        self.match_renames(&mut removed, &mut added);
        let mut removed = self.expand(removed)?;
        let mut added = self.expand(added)?;
        self.match_renames(&mut removed, &mut added);
        for lone in removed {
            self.push(Change::Removed, &lone.path);
        }
        for lone in added {
            self.push(Change::Added, &lone.path);
        }
        Ok(())
    }

    /// Adds everything below the directories; sorted by path, digests of live directories filled in.
    fn expand(&mut self, lone: Vec<Lone>) -> Result<Vec<Lone>> {
        let mut all = Vec::new();
        let mut todo = lone;
        while let Some(one) = todo.pop() {
            if let Some(dir) = one.item.dir() {
                let mut below = BTreeMap::new();
                self.list(&dir, &mut below)?;
                for (name, item) in below {
                    todo.push(self.new_lone(join(&one.path, &name), item)?);
                }
            }
            all.push(one);
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        self.digest_dirs(&mut all)?;
        Ok(all)
    }

    /// Computes the content digests of live directories, the deepest first.
    fn digest_dirs(&self, all: &mut [Lone]) -> Result<()> {
        let mut below: HashMap<Vec<u8>, Vec<Hashed>> = HashMap::new();
        let mut order: Vec<usize> = (0..all.len()).collect();
        let depth = |lone: &Lone| lone.path.iter().filter(|b| **b == b'/').count();
        order.sort_by_key(|at| std::cmp::Reverse(all.get(*at).map_or(0, depth)));
        for at in order {
            let Some(lone) = all.get_mut(at) else {
                continue;
            };
            if lone.item.dir().is_some() && lone.content.is_none() {
                let entries = below.remove(&lone.path).unwrap_or_default();
                let trie = hash::trie_root(entries.iter().map(|(name, kind, content)| DirEntry {
                    name,
                    kind: *kind,
                    digests: TwoDigests {
                        content: *content,
                        full: *content,
                    },
                }));
                lone.content = Some(hash::dir_content(entries.len() as u64, trie.content));
            }
            if matches!(lone.item, Item::Live(_)) {
                let content = match lone.content {
                    Some(content) => content,
                    None => self.content(&lone.item)?,
                };
                let parent = lone.path.iter().rposition(|b| *b == b'/').unwrap_or(0);
                let parent = lone.path.get(..parent).unwrap_or_default().to_vec();
                let entry = (lone.item.name().to_vec(), lone.item.kind(), content);
                below.entry(parent).or_default().push(entry);
            }
        }
        Ok(())
    }

    /// Takes out what was renamed: directories first, with everything below them, then files.
    fn match_renames(&mut self, removed: &mut Vec<Lone>, added: &mut Vec<Lone>) {
        for kind in [Kind::Dir, Kind::File] {
            let (old, new) = (unique(removed, kind), unique(added, kind));
            let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = new
                .iter()
                .filter_map(|(content, path)| Some((old.get(content)?.clone(), path.clone())))
                .collect();
            pairs.sort();
            let mut gone: Vec<Vec<u8>> = Vec::new();
            let mut come: Vec<Vec<u8>> = Vec::new();
            for (from, to) in pairs {
                // A directory within one that was renamed went with it.
                if is_below(&from, &gone) || is_below(&to, &come) {
                    continue;
                }
                self.items.push(DiffItem {
                    change: Change::Renamed,
                    path: to.clone(),
                    from: Some(from.clone()),
                });
                gone.push(from);
                insert_sorted(&mut come, to);
            }
            removed.retain(|lone| !is_below(&lone.path, &gone));
            added.retain(|lone| !is_below(&lone.path, &come));
        }
    }

    fn finish(mut self) -> Vec<DiffItem> {
        for path in std::mem::take(&mut self.groups) {
            let told = |item: &DiffItem| item.change == Change::Attributes && item.path == path;
            if !self.items.iter().any(told) {
                self.push(Change::Attributes, &path);
            }
        }
        let order = |change: Change| match change {
            Change::Removed => 0,
            Change::Added => 1,
            Change::Renamed => 2,
            Change::Changed => 3,
            Change::Attributes => 4,
        };
        self.items
            .sort_by(|a, b| (&a.path, order(a.change)).cmp(&(&b.path, order(b.change))));
        self.items
    }
}

fn twice() -> Error {
    Error::Malformed {
        what: "snapshot",
        detail: "a part of a directory is in it twice",
    }
}

/// The paths of what has a content that nothing else of the kind has.
fn unique(lone: &[Lone], kind: Kind) -> HashMap<Digest, Vec<u8>> {
    let mut found: HashMap<Digest, Option<Vec<u8>>> = HashMap::new();
    for one in lone {
        if let Some(content) = one.content
            && one.item.attrs().kind == kind
            && one.item.is_telling()
        {
            found
                .entry(content)
                .and_modify(|path| *path = None)
                .or_insert_with(|| Some(one.path.clone()));
        }
    }
    found
        .into_iter()
        .filter_map(|(content, path)| Some((content, path?)))
        .collect()
}

fn insert_sorted(paths: &mut Vec<Vec<u8>>, path: Vec<u8>) {
    let at = paths.partition_point(|known| *known < path);
    paths.insert(at, path);
}

/// Whether a path is one of the sorted `roots` or lies below one.
fn is_below(path: &[u8], roots: &[Vec<u8>]) -> bool {
    let is_root = |path: &[u8]| {
        roots
            .binary_search_by(|root| root.as_slice().cmp(path))
            .is_ok()
    };
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    is_root(path)
        || slashes
            .into_iter()
            .any(|(at, _)| is_root(path.get(..at).unwrap_or_default()))
}
