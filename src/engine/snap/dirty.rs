//! Which directories must be visited to take a snapshot, and what has changed in each.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::entry::Source;
use crate::base::{Digest, Error, Ino, Result};
use crate::engine::names::DISCRIMINATORS;
use crate::engine::way::Way;
use crate::format::keys;
use crate::format::rows::{DirentRow, DirtyKey, InodeRow, Kind, SnapDirRow, Table, decode_counter};
use crate::hash;
use crate::meta::{Rows, for_each_row};

/// What has changed since the last snapshot.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Changed entries by directory: the first slots of their names, sorted, each once.
    pub(crate) dirs: HashMap<Ino, Vec<u64>>,
    /// Changed segments of files, sorted, each once: of a first snapshot there is one for every file.
    segments: Vec<(Ino, u64)>,
    /// Inodes that are gone.
    pub(crate) gone: Vec<Ino>,
    /// Digests of the link groups of directories where they have changed.
    pub(crate) groups: HashMap<Ino, Digest>,
    /// Directory of the link group of each inode with several names, where it has changed.
    pub(crate) group_dirs: Vec<(Ino, Ino)>,
}

/// Changed entries of a directory from which on repeated ones are looked for while they are gathered.
const SORT_SLOTS: usize = 4096;

fn sort_once<T: Ord>(list: &mut Vec<T>) {
    list.sort_unstable();
    list.dedup();
}

/// A directory's link groups: names relative to it.
type Groups = BTreeMap<Ino, hash::LinkGroups>;

impl Changes {
    /// Collects everything that the dirty rows of `generations` and below lead to.
    pub(crate) fn collect(source: &Source<'_>, generation: u64) -> Result<Self> {
        let mut changes = Self::default();
        let mut links_changed = false;
        let (from, to) = keys::dirty_range(0..generation.saturating_add(1));
        for_each_row(source.view, Table::Dirty, &from, &to, &mut |key, _| {
            match keys::parse_dirty(key)?.1 {
                DirtyKey::Inode(ino) => {
                    links_changed |= source
                        .view
                        .get(Table::HardLink, &keys::inode(ino))?
                        .is_some();
                    changes.add_inode(source, ino)?;
                }
                DirtyKey::Segment(ino, idx) => {
                    changes.segments.push((ino, idx));
                    changes.add_inode(source, ino)?;
                }
                DirtyKey::Dirent(dir, slot) => {
                    links_changed |= moved(source, dir, slot)?;
                    changes.add_slot(dir, slot.raw());
                }
            }
            Ok(true)
        })?;
        if source
            .view
            .get(Table::SnapDir, &keys::inode(Ino::ROOT))?
            .is_none()
        {
            changes.dirs.entry(Ino::ROOT).or_default();
            links_changed = true;
        }
        if links_changed {
            changes.add_groups(source)?;
        }
        changes.add_parents(source)?;
        changes.dirs.values_mut().for_each(sort_once);
        sort_once(&mut changes.segments);
        Ok(changes)
    }

    /// The changed segments of a file, ascending.
    pub(crate) fn segments_of(&self, ino: Ino) -> &[(Ino, u64)] {
        let first = self.segments.partition_point(|(of, _)| *of < ino);
        let rest = self.segments.get(first..).unwrap_or_default();
        let end = rest.partition_point(|(of, _)| *of == ino);
        rest.get(..end).unwrap_or_default()
    }

    fn add_slot(&mut self, dir: Ino, slot: u64) {
        let slots = self.dirs.entry(dir).or_default();
        // An entry comes up to three times, with its name, its attributes and its bytes: before the memory is doubled
        // for them, they are made one.
        if slots.len() == slots.capacity() && slots.len() >= SORT_SLOTS {
            sort_once(slots);
            if slots.len() > slots.capacity() / 4 * 3 {
                slots.reserve(slots.len());
            }
        }
        slots.push(slot - slot % DISCRIMINATORS);
    }

    /// Adds all names of an inode; a directory is to be visited itself.
    fn add_inode(&mut self, source: &Source<'_>, ino: Ino) -> Result<()> {
        match source.inode(ino)? {
            Some(row) if row.nlink > 0 => {
                if row.attrs.kind == Kind::Dir {
                    self.dirs.entry(ino).or_default();
                } else {
                    self.add_names(source, ino)?;
                }
            }
            _ => self.gone.push(ino),
        }
        Ok(())
    }

    fn add_names(&mut self, source: &Source<'_>, ino: Ino) -> Result<()> {
        let (from, to) = keys::ino_range(ino);
        for_each_row(source.view, Table::Link, &from, &to, &mut |key, _| {
            let (_, dir, slot) = keys::parse_link(key)?;
            self.add_slot(dir, slot.raw());
            Ok(true)
        })
    }

    /// Adds the way up to the root for every directory; forgets directories that are gone.
    fn add_parents(&mut self, source: &Source<'_>) -> Result<()> {
        let mut todo: Vec<Ino> = self.dirs.keys().copied().collect();
        let mut seen: HashSet<Ino> = HashSet::new();
        while let Some(dir) = todo.pop() {
            if !seen.insert(dir) || dir == Ino::ROOT {
                continue;
            }
            match source.inode(dir)? {
                Some(row) if row.nlink > 0 => {
                    self.add_names(source, dir)?;
                    self.dirs.entry(row.parent).or_default();
                    todo.push(row.parent);
                }
                _ => {
                    self.dirs.remove(&dir);
                    self.gone.push(dir);
                }
            }
        }
        Ok(())
    }

    /// Recomputes the groups of hard links of the whole tree; their directories are to be visited where
    /// they differ from the last snapshot's.
    fn add_groups(&mut self, source: &Source<'_>) -> Result<()> {
        let Linked {
            groups,
            homes,
            before,
        } = Linked::collect(source)?;
        let mut dirs: BTreeSet<Ino> = groups.keys().copied().collect();
        dirs.extend(before.values().copied().filter(|dir| dir.raw() > 0));
        for dir in dirs {
            let digest = hash::groups_digest(groups.get(&dir).map_or(&[], Vec::as_slice));
            let old = source.view.get(Table::SnapDir, &keys::inode(dir))?;
            let old = old.map(|row| SnapDirRow::decode(&row)).transpose()?;
            if old.is_none_or(|row| row.groups != digest) {
                self.groups.insert(dir, digest);
                self.dirs.entry(dir).or_default();
            }
        }
        for (ino, home) in before {
            let now = homes.get(&ino).copied().unwrap_or(Ino::from_raw(0));
            if now != home {
                self.group_dirs.push((ino, now));
            }
        }
        Ok(())
    }
}

/// The link groups of a whole tree.
#[derive(Default)]
struct Linked {
    groups: Groups,
    /// The directory of each inode's group.
    homes: BTreeMap<Ino, Ino>,
    /// What it was in the last snapshot; 0 for none.
    before: BTreeMap<Ino, Ino>,
}

impl Linked {
    fn collect(source: &Source<'_>) -> Result<Self> {
        let mut found = Self::default();
        let mut names: Vec<(Ino, Vec<u8>)> = Vec::new();
        let mut paths = Paths {
            source,
            known: HashMap::new(),
        };
        for_each_row(
            source.view,
            Table::HardLink,
            &[],
            &[0xff; 9],
            &mut |key, value| {
                let ino = keys::parse_inode(key)?;
                found
                    .before
                    .insert(ino, Ino::from_raw(decode_counter(value)?));
                if source.inode(ino)?.is_some_and(|row| row.nlink > 1) {
                    for path in paths.of_file(ino)? {
                        names.push((ino, path));
                    }
                }
                Ok(true)
            },
        )?;
        let owner: HashMap<Vec<u8>, Ino> = names
            .iter()
            .map(|(ino, path)| (path.clone(), *ino))
            .collect();
        let dirs = paths.by_path();
        for (path, list) in hash::link_groups(names) {
            let dir = *dirs
                .get(path.as_slice())
                .ok_or(Error::Internal("a link group outside of the tree"))?;
            for first in list.iter().filter_map(|group| group.first()) {
                let whole = if path.is_empty() {
                    first.clone()
                } else {
                    [&path, &b"/"[..], first].concat()
                };
                if let Some(ino) = owner.get(&whole) {
                    found.homes.insert(*ino, dir);
                }
            }
            found.groups.insert(dir, list);
        }
        Ok(found)
    }
}

/// The digests of the link groups of the directories of a tree that have some.
pub(crate) fn group_digests(source: &Source<'_>) -> Result<HashMap<Ino, Digest>> {
    let groups = Linked::collect(source)?.groups.into_iter();
    Ok(groups
        .map(|(dir, list)| (dir, hash::groups_digest(&list)))
        .collect())
}

/// Whether a changed entry is a name of a hard-linked inode or of a directory that existed before: then
/// relative paths of link groups may have changed.
fn moved(source: &Source<'_>, dir: Ino, slot: crate::base::Slot) -> Result<bool> {
    let Some(row) = source.view.get(Table::Dirent, &keys::dirent(dir, slot))? else {
        return Ok(false);
    };
    let row = DirentRow::decode(&row)?;
    let table = if row.kind == Kind::Dir {
        Table::SnapDir
    } else {
        Table::HardLink
    };
    Ok(source.view.get(table, &keys::inode(row.ino))?.is_some())
}

/// Paths of inodes, with those of directories remembered.
struct Paths<'a> {
    source: &'a Source<'a>,
    known: HashMap<Ino, Vec<u8>>,
}

impl Paths<'_> {
    /// All paths of a file, relative to the root.
    fn of_file(&mut self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let mut places = Vec::new();
        let (from, to) = keys::ino_range(ino);
        for_each_row(self.source.view, Table::Link, &from, &to, &mut |key, _| {
            let (_, dir, slot) = keys::parse_link(key)?;
            places.push((dir, slot));
            Ok(true)
        })?;
        let mut paths = Vec::new();
        for (dir, slot) in places {
            let row = self
                .source
                .view
                .get(Table::Dirent, &keys::dirent(dir, slot))?;
            let row = DirentRow::decode(&row.ok_or(Error::Internal("a link without its entry"))?)?;
            let mut path = self.of_dir(dir)?;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&row.name);
            paths.push(path);
        }
        Ok(paths)
    }

    fn of_dir(&mut self, dir: Ino) -> Result<Vec<u8>> {
        let mut up: Vec<(Ino, Vec<u8>)> = Vec::new();
        let mut at = dir;
        let mut way = Way::new(dir);
        let mut path = loop {
            if at == Ino::ROOT {
                break Vec::new();
            }
            if let Some(path) = self.known.get(&at) {
                break path.clone();
            }
            let (from, to) = keys::ino_range(at);
            let link = self.source.view.scan(Table::Link, &from, &to, 1)?.pop();
            let (key, _) = link.ok_or(Error::Internal("a directory without a name"))?;
            let (_, parent, slot) = keys::parse_link(&key)?;
            let row = self
                .source
                .view
                .get(Table::Dirent, &keys::dirent(parent, slot))?;
            let row = DirentRow::decode(&row.ok_or(Error::Internal("a link without its entry"))?)?;
            up.push((at, row.name));
            at = parent;
            way.step(at)?;
        };
        for (ino, name) in up.into_iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.known.insert(ino, path.clone());
        }
        Ok(path)
    }

    /// The directories whose paths were asked for, and those above them, by their paths.
    fn by_path(&self) -> HashMap<&[u8], Ino> {
        let known = self.known.iter().map(|(ino, path)| (path.as_slice(), *ino));
        known.chain([(&b""[..], Ino::ROOT)]).collect()
    }
}

/// The depth of each directory below the root, for visiting the deepest first.
pub(crate) fn by_depth(source: &Source<'_>, dirs: impl Iterator<Item = Ino>) -> Result<Vec<Ino>> {
    let mut depth: HashMap<Ino, u32> = HashMap::from([(Ino::ROOT, 0)]);
    let mut order = Vec::new();
    for dir in dirs {
        let mut passed = Vec::new();
        let mut at = dir;
        let mut way = Way::new(dir);
        let base = loop {
            if let Some(depth) = depth.get(&at) {
                break *depth;
            }
            passed.push(at);
            let row: InodeRow = source
                .inode(at)?
                .ok_or(Error::Internal("a directory above is gone"))?;
            at = row.parent;
            way.step(at)?;
        };
        for (n, ino) in passed.iter().rev().enumerate() {
            depth.insert(
                *ino,
                base.saturating_add(u32::try_from(n + 1).unwrap_or(u32::MAX)),
            );
        }
        order.push((depth.get(&dir).copied().unwrap_or(0), dir));
    }
    order.sort_unstable_by(|a, b| b.cmp(a));
    Ok(order.into_iter().map(|(_, dir)| dir).collect())
}
