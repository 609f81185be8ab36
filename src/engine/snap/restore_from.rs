//! What a restore reads: a snapshot, or the live tree of a store that is salvaged.

use std::collections::HashSet;
use std::ops::Range;

use parking_lot::Mutex;

use super::entry::new_entry;
use super::tree::Tree;
use crate::base::limits::SEGMENT_LEN;
use crate::base::{ChunkId, Digest, Error, FileOff, Ino, Result, Timestamp};
use crate::chunk::ChunkStore;
use crate::engine::extents::clipped;
use crate::format::keys;
use crate::format::node::{Body, DirBody, DirChild, Entry};
use crate::format::rows::{Attrs, DirentRow, ExtentRow, FLAG_HAS_XATTRS, InodeRow, Kind, Table};
use crate::meta::{Index, Rows, for_each_row};

/// A tree of entries.
pub(crate) enum Source<'a> {
    /// A snapshot, all of which has digests.
    Snapshot(Tree<'a>),
    /// The live tree.
    Live(Live<'a>),
}

/// The live tree as the rows of an index have it. Nothing vouches for it but that each row was logged once.
pub(crate) struct Live<'a> {
    rows: &'a Index,
    store: &'a ChunkStore,
    /// Directories that were met. Damaged rows may hold a loop. A leaf.
    met: Mutex<HashSet<Ino>>,
}

/// Called with each entry and its cookie; `false` ends the walk.
pub(super) type EachEntry<'e> = &'e mut dyn FnMut(u64, &Entry) -> Result<bool>;

const NOTHING: Digest = Digest::from_raw([0; 32]);

fn malformed(detail: &'static str) -> Error {
    Error::Malformed {
        what: "live tree",
        detail,
    }
}

impl<'a> Source<'a> {
    pub(super) fn store(&self) -> &'a ChunkStore {
        match self {
            Self::Snapshot(tree) => tree.store,
            Self::Live(live) => live.store,
        }
    }

    /// Whether contents have digests to be compared with.
    pub(super) fn has_digests(&self) -> bool {
        matches!(self, Self::Snapshot(_))
    }

    /// Calls `each` for the entries of a directory after `after`; what cannot be read is told to `bad`.
    pub(super) fn children(
        &self,
        dir: &Entry,
        after: u64,
        each: EachEntry<'_>,
        bad: &mut dyn FnMut(Error) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Snapshot(tree) => tree.for_each_readable(Tree::dir(dir)?, after, each, bad),
            Self::Live(live) => live.children(dir.ino, after, each, bad),
        }
    }

    /// The segments of a file that may have extents, ascending.
    pub(super) fn segments(&self, entry: &Entry) -> Result<Vec<u64>> {
        match self {
            Self::Snapshot(tree) => tree.segments(entry),
            Self::Live(live) => live.segments(entry.ino, entry.attrs.size),
        }
    }

    /// The extents of a file that overlap `range`, clipped to it, ascending.
    pub(super) fn extents(
        &self,
        entry: &Entry,
        range: Range<u64>,
    ) -> Result<Vec<(u64, ExtentRow)>> {
        match self {
            Self::Snapshot(tree) => tree.extents(entry, range),
            Self::Live(live) => clipped(live.rows, entry.ino, range),
        }
    }
}

impl<'a> Live<'a> {
    pub(crate) fn new(rows: &'a Index, store: &'a ChunkStore) -> Self {
        Self {
            rows,
            store,
            met: Mutex::new(HashSet::from([Ino::ROOT])),
        }
    }

    /// The root directory; if its row is lost, one with made-up attributes.
    ///
    /// # Errors
    /// Those of the index.
    pub(crate) fn root(&self) -> Result<Entry> {
        let row = match self.row(Ino::ROOT)? {
            Some(row) if row.attrs.kind == Kind::Dir => row,
            _ => self.made_up(Ino::ROOT, Kind::Dir)?,
        };
        self.entry(b"", Ino::ROOT, &row)
    }

    fn row(&self, ino: Ino) -> Result<Option<InodeRow>> {
        let row = self.rows.get(Table::Inode, &keys::inode(ino))?;
        Ok(row.and_then(|row| InodeRow::decode(&row).ok()))
    }

    /// What stands for the row of an inode that is lost: a file is as long as its extents reach.
    fn made_up(&self, ino: Ino, kind: Kind) -> Result<InodeRow> {
        let (mut size, mut mapped) = (0_u64, 0_u64);
        if kind == Kind::File {
            let all = 0..FileOff::MAX.raw();
            for (off, extent) in clipped(self.rows, ino, all)? {
                size = size.max(off.saturating_add(u64::from(extent.len)));
                mapped = mapped.saturating_add(u64::from(extent.len));
            }
        }
        let then = Timestamp::default();
        Ok(InodeRow {
            attrs: Attrs {
                kind,
                mode: if kind == Kind::Dir { 0o755 } else { 0o644 },
                uid: 0,
                gid: 0,
                rdev_major: 0,
                rdev_minor: 0,
                flags: FLAG_HAS_XATTRS,
                size,
                atime: then,
                mtime: then,
                ctime: then,
                btime: then,
            },
            nlink: 1,
            mapped,
            parent: Ino::ROOT,
            target: Vec::new(),
        })
    }

    fn entry(&self, name: &[u8], ino: Ino, row: &InodeRow) -> Result<Entry> {
        let node = ChunkId::from_raw([0; 32]);
        let body = match row.attrs.kind {
            Kind::File => Body::File(node),
            Kind::Dir => Body::Dir(DirBody {
                trie: DirChild {
                    node,
                    inner: false,
                    count: 0,
                    content: NOTHING,
                    full: NOTHING,
                    entries: 0,
                    bytes: 0,
                },
                groups: NOTHING,
            }),
            Kind::Symlink => Body::Symlink(row.target.clone()),
            _ => Body::Special,
        };
        let mut xattrs = Vec::new();
        if row.attrs.flags & FLAG_HAS_XATTRS != 0 {
            let (from, to) = keys::ino_range(ino);
            for_each_row(self.rows, Table::Xattr, &from, &to, &mut |key, value| {
                xattrs.push((keys::parse_xattr(key)?.1.to_vec(), value.to_vec()));
                Ok(true)
            })?;
        }
        Ok(new_entry(name, ino, row, xattrs, NOTHING, NOTHING, body))
    }

    fn children(
        &self,
        dir: Ino,
        after: u64,
        each: EachEntry<'_>,
        bad: &mut dyn FnMut(Error) -> Result<()>,
    ) -> Result<()> {
        let (_, to) = keys::ino_range(dir);
        let from = keys::dirent(dir, crate::base::Slot::from_raw(after.saturating_add(1)));
        for_each_row(self.rows, Table::Dirent, &from, &to, &mut |key, value| {
            let (_, slot) = keys::parse_dirent(key)?;
            let (entry, trouble) = match self.child(value) {
                Ok((entry, trouble)) => (Some(entry), trouble),
                Err(error @ (Error::Malformed { .. } | Error::InFile { .. })) => {
                    (None, Some(error))
                }
                Err(other) => return Err(other),
            };
            if let Some(trouble) = trouble {
                bad(trouble)?;
            }
            entry.map_or(Ok(true), |entry| each(slot.raw(), &entry))
        })
    }

    /// The entry of a row of a directory, and what is wrong with it.
    fn child(&self, value: &[u8]) -> Result<(Entry, Option<Error>)> {
        let dirent = DirentRow::decode(value)?;
        let named = |detail| Error::InFile {
            path: String::from_utf8_lossy(&dirent.name).into_owned(),
            source: Box::new(malformed(detail)),
        };
        let (row, trouble) = match self.row(dirent.ino)? {
            Some(row) => (row, None),
            None if matches!(dirent.kind, Kind::Dir | Kind::File) => {
                let row = self.made_up(dirent.ino, dirent.kind)?;
                (
                    row,
                    Some(named("its inode is lost, the attributes are made up")),
                )
            }
            None => return Err(named("its inode is lost")),
        };
        if row.attrs.kind == Kind::Dir && !self.met.lock().insert(dirent.ino) {
            return Err(named("a directory that is in another one too"));
        }
        let entry = self.entry(&dirent.name, dirent.ino, &row)?;
        Ok((entry, trouble))
    }

    fn segments(&self, ino: Ino, size: u64) -> Result<Vec<u64>> {
        let mut found: Vec<u64> = Vec::new();
        let key = |off: u64| keys::extent(ino, FileOff::from_raw(off));
        for_each_row(
            self.rows,
            Table::Extent,
            &key(0),
            &key(size),
            &mut |key, value| {
                let (_, off) = keys::parse_extent(key)?;
                let extent = ExtentRow::decode(value)?;
                let end = off.raw().saturating_add(u64::from(extent.len)).min(size);
                // An extent is at most 4 GiB.
                for idx in off.raw() / SEGMENT_LEN..end.div_ceil(SEGMENT_LEN) {
                    if found.last().is_none_or(|last| *last < idx) {
                        found.push(idx);
                    }
                }
                Ok(true)
            },
        )?;
        Ok(found)
    }
}
