//! Turning a live inode into an entry of a snapshot, digests included.

use std::collections::BTreeSet;
use std::ops::Range;

use rayon::prelude::*;

use super::nodes;
use super::tree::{Tree, entry_kind, read_extents, read_extents_by};
use super::window::Draft;
use crate::base::limits::{
    INLINE_EXTENTS_FILE_LEN_MAX, INLINE_EXTENTS_MAX, SEGMENT_LEN, SUBTREE_LEN,
};
use crate::base::{ByteLen, ChunkId, Digest, Error, Ino, Result};
use crate::chunk::ChunkStore;
use crate::engine::extents::{clip, clipped};
use crate::format::keys;
use crate::format::node::{Body, DirBody, Entry, FileNode, Node, SegmentNode};
use crate::format::rows::{
    ChunkRow, ExtentRow, FLAG_HAS_XATTRS, InodeRow, Kind, SnapFileRow, Table,
};
use crate::hash::{self, FileHasher, NodeAttrs};
use crate::meta::{Rows, SEGMENT_ALL, View, for_each_row};

/// An entry, and the file's node if it is of a file that has one.
pub(crate) struct Built {
    pub(crate) entry: Entry,
    pub(crate) file: Option<ChunkId>,
}

/// What is in a file whose entry names its extents itself.
pub(crate) struct SmallFile {
    pub(crate) content: Digest,
    pub(crate) extents: Vec<(u64, ExtentRow)>,
}

/// Where chunks of nodes go, each after those that it names.
pub(crate) type PutChunk<'a> = &'a mut dyn FnMut(Vec<u8>) -> Result<()>;

/// Encodes a node and hands its chunks on; returns its id.
pub(crate) fn put_node(node: &Node, put: PutChunk<'_>) -> Result<ChunkId> {
    let encoded = nodes::encode(node)?;
    encoded.chunks.into_iter().try_for_each(put)?;
    Ok(encoded.id)
}

/// What a snapshot reads from.
pub(crate) struct Source<'a> {
    pub(crate) view: &'a View<'a>,
    pub(crate) store: &'a ChunkStore,
    pub(crate) tree: &'a Tree<'a>,
}

impl Source<'_> {
    /// The row of an inode, `None` if it is gone.
    pub(crate) fn inode(&self, ino: Ino) -> Result<Option<InodeRow>> {
        self.view
            .get(Table::Inode, &keys::inode(ino))?
            .map(|row| InodeRow::decode(&row))
            .transpose()
    }

    /// The xattrs of an inode, sorted by name.
    pub(crate) fn xattrs(&self, ino: Ino, row: &InodeRow) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut xattrs = Vec::new();
        if row.attrs.flags & FLAG_HAS_XATTRS != 0 {
            let (from, to) = keys::ino_range(ino);
            for_each_row(self.view, Table::Xattr, &from, &to, &mut |key, value| {
                xattrs.push((keys::parse_xattr(key)?.1.to_vec(), value.to_vec()));
                Ok(true)
            })?;
        }
        Ok(xattrs)
    }

    /// The entry of anything but a directory. `dirty` lists the changed segments of a file that is not `small`; nodes of
    /// the file go to `put` as they are made.
    pub(crate) fn entry(
        &self,
        draft: Draft,
        dirty: &[(Ino, u64)],
        put: PutChunk<'_>,
    ) -> Result<Built> {
        let Draft { dirent, row, small } = draft;
        let (row, ino) = (&row, dirent.ino);
        let kind = entry_kind(row.attrs.kind, row.attrs.mode);
        let mut file = None;
        let (content, body) = match row.attrs.kind {
            Kind::File => match small {
                Some(SmallFile { content, extents }) => (content, Body::Inline(extents)),
                None => {
                    let (content, id) = self.file(ino, row.attrs.size, dirty, put)?;
                    file = Some(id);
                    (content, Body::File(id))
                }
            },
            Kind::Symlink => (
                hash::symlink_content(&row.target),
                Body::Symlink(row.target.clone()),
            ),
            Kind::Dir => return Err(Error::Internal("a directory was taken for something else")),
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                (hash::special_content(kind), Body::Special)
            }
        };
        let xattrs = self.xattrs(ino, row)?;
        let full = hash::node_full(kind, content, &node_attrs(row, &xattrs));
        let entry = new_entry(&dirent.name, ino, row, xattrs, content, full, body);
        Ok(Built { entry, file })
    }

    /// The extents of a file, if it is so small that its entry names them itself.
    pub(crate) fn small_extents(
        &self,
        ino: Ino,
        size: u64,
    ) -> Result<Option<Vec<(u64, ExtentRow)>>> {
        if size > INLINE_EXTENTS_FILE_LEN_MAX {
            return Ok(None);
        }
        let extents = clipped(self.view, ino, 0..size)?;
        Ok((extents.len() <= INLINE_EXTENTS_MAX).then_some(extents))
    }

    /// The content digest of such a file. `first` is the row of its first chunk.
    pub(crate) fn small_content(
        &self,
        size: u64,
        extents: &[(u64, ExtentRow)],
        first: Option<ChunkRow>,
    ) -> Result<Digest> {
        let known = extents.first().map(|(_, e)| e.chunk).zip(first);
        let get = |id: &ChunkId| match known {
            Some((first, row)) if first == *id => self.store.get_near(id, row),
            _ => self.store.get(id),
        };
        let mut bytes = Vec::new();
        read_extents_by(&get, extents, 0..size, &mut bytes)?;
        let root = hash::subtree_digest(&bytes);
        Ok(hash::file_content(ByteLen::from_raw(size), root))
    }

    /// The content digest of a file that is not small, and its node.
    fn file(
        &self,
        ino: Ino,
        size: u64,
        dirty: &[(Ino, u64)],
        put: PutChunk<'_>,
    ) -> Result<(Digest, ChunkId)> {
        let old = self.old_file(ino)?;
        let segments = self.segments(ino, size, dirty, old.as_ref(), put)?;
        let digests = segments.iter().map(|(idx, _, digest)| (*idx, *digest));
        let content = hash::sparse_file_content(
            ByteLen::from_raw(size),
            ByteLen::from_raw(SEGMENT_LEN),
            digests,
        )?;
        let id = put_node(&Node::File(FileNode { size, segments }), put)?;
        Ok((content, id))
    }

    /// The file's node in the last snapshot.
    fn old_file(&self, ino: Ino) -> Result<Option<FileNode>> {
        let Some(row) = self.view.get(Table::SnapFile, &keys::inode(ino))? else {
            return Ok(None);
        };
        match &*self.tree.node(&SnapFileRow::decode(&row)?.node)? {
            Node::File(file) => Ok(Some(file.clone())),
            _ => Err(Error::Malformed {
                what: "snapshot",
                detail: "a file holds another kind of node",
            }),
        }
    }

    /// The segments that are not wholly holes, ascending.
    fn segments(
        &self,
        ino: Ino,
        size: u64,
        dirty: &[(Ino, u64)],
        old: Option<&FileNode>,
        put: PutChunk<'_>,
    ) -> Result<Vec<(u64, ChunkId, Digest)>> {
        let mut changed: BTreeSet<u64> = dirty.iter().map(|(_, idx)| *idx).collect();
        let all = old.is_none() || changed.contains(&SEGMENT_ALL);
        if let Some(old) = old
            && old.size != size
        {
            // The segments that hold the old and the new end have another length now.
            changed.insert(old.size.saturating_sub(1) / SEGMENT_LEN);
            changed.insert(size.saturating_sub(1) / SEGMENT_LEN);
        }
        if all {
            changed = self.mapped_segments(ino, size)?;
        }
        let known = |idx: u64| {
            let segments = &old?.segments;
            let at = segments.binary_search_by_key(&idx, |(i, _, _)| *i).ok()?;
            segments.get(at)
        };
        let mut out: Vec<(u64, ChunkId, Digest)> = Vec::new();
        if !all {
            let kept = old
                .iter()
                .flat_map(|o| &o.segments)
                .filter(|(idx, _, _)| !changed.contains(idx));
            out.extend(kept);
        }
        for idx in changed {
            let start = idx.saturating_mul(SEGMENT_LEN);
            if start >= size {
                continue;
            }
            let range = start..(start + SEGMENT_LEN).min(size);
            let known = known(idx).map(|(_, id, _)| *id);
            if let Some((segment, digest)) = self.segment(ino, range, known)? {
                let id = put_node(&Node::Segment(segment), put)?;
                out.push((idx, id, digest));
            }
        }
        out.sort_by_key(|(idx, ..)| *idx);
        Ok(out)
    }

    /// The indexes of the segments that have extents.
    fn mapped_segments(&self, ino: Ino, size: u64) -> Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        let mut at = 0;
        while at < size {
            let key = |off: u64| keys::extent(ino, crate::base::FileOff::from_raw(off));
            match self
                .view
                .scan(Table::Extent, &key(at), &key(size), 1)?
                .first()
            {
                Some((key, _)) => {
                    let idx = keys::segment_of(keys::parse_extent(key)?.1);
                    found.insert(idx);
                    at = (idx + 1).saturating_mul(SEGMENT_LEN);
                }
                None => break,
            }
        }
        Ok(found)
    }

    /// One segment; digests of 1 MiB subtrees whose extents have not changed are taken over.
    fn segment(
        &self,
        ino: Ino,
        range: Range<u64>,
        old: Option<ChunkId>,
    ) -> Result<Option<(SegmentNode, Digest)>> {
        let extents = clipped(self.view, ino, range.clone())?;
        if extents.is_empty() {
            return Ok(None);
        }
        let old = match old.map(|id| self.tree.node(&id)).transpose()? {
            Some(node) => match &*node {
                Node::Segment(segment) => Some(segment.clone()),
                _ => {
                    return Err(Error::Malformed {
                        what: "snapshot",
                        detail: "a segment is another kind of node",
                    });
                }
            },
            None => None,
        };
        let len = range.end - range.start;
        let subtrees: Vec<Digest> = (0..len.div_ceil(SUBTREE_LEN))
            .into_par_iter()
            .map(|n| {
                let part = range.start + n * SUBTREE_LEN
                    ..(range.start + (n + 1) * SUBTREE_LEN).min(range.end);
                self.subtree(&extents, &part, range.start, old.as_ref())
            })
            .collect::<Result<_>>()?;
        let digest = hash::join_subtrees(&subtrees);
        let extents = extents
            .into_iter()
            .map(|(off, e)| u32::try_from(off - range.start).map(|off| (off, e)))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Error::Internal("offset beyond its segment"))?;
        let node = SegmentNode {
            len,
            extents,
            subtrees,
        };
        Ok(Some((node, digest)))
    }

    fn subtree(
        &self,
        extents: &[(u64, ExtentRow)],
        part: &Range<u64>,
        base: u64,
        old: Option<&SegmentNode>,
    ) -> Result<Digest> {
        let now = overlapping(extents.iter().copied(), part);
        if now.is_empty() {
            return Ok(hash::zero_subtree(ByteLen::from_raw(part.end - part.start)));
        }
        if let Some(old) = old {
            let n = usize::try_from((part.start - base) / SUBTREE_LEN).unwrap_or(usize::MAX);
            let same_len = (old.len.min((n as u64 + 1) * SUBTREE_LEN))
                .saturating_sub(n as u64 * SUBTREE_LEN)
                == part.end - part.start;
            let before = overlapping(
                old.extents
                    .iter()
                    .map(|(off, e)| (base + u64::from(*off), *e)),
                part,
            );
            if let Some(digest) = old.subtrees.get(n)
                && same_len
                && joined(&before) == joined(&now)
            {
                return Ok(*digest);
            }
        }
        let mut bytes = Vec::new();
        read_extents(self.store, &now, part.clone(), &mut bytes)?;
        Ok(hash::subtree_digest(&bytes))
    }
}

pub(crate) fn overlapping(
    extents: impl Iterator<Item = (u64, ExtentRow)>,
    part: &Range<u64>,
) -> Vec<(u64, ExtentRow)> {
    extents
        .filter(|(off, e)| *off < part.end && off + u64::from(e.len) > part.start)
        .map(|(off, e)| clip(off, e, part))
        .collect()
}

/// Extents with neighbours that continue one another joined: the same bytes may be mapped in several ways.
pub(crate) fn joined(extents: &[(u64, ExtentRow)]) -> Vec<(u64, ExtentRow)> {
    let mut out: Vec<(u64, ExtentRow)> = Vec::new();
    for (off, e) in extents {
        match out.last_mut() {
            Some((last, l))
                if last.saturating_add(u64::from(l.len)) == *off
                    && l.chunk == e.chunk
                    && l.chunk_off.saturating_add(l.len) == e.chunk_off =>
            {
                l.len += e.len;
            }
            _ => out.push((*off, *e)),
        }
    }
    out
}

/// Attributes in the terms of docs/seed.md.
pub(crate) fn node_attrs<'a>(row: &InodeRow, xattrs: &'a [(Vec<u8>, Vec<u8>)]) -> NodeAttrs<'a> {
    NodeAttrs {
        mode: u32::from(row.attrs.mode),
        uid: row.attrs.uid,
        gid: row.attrs.gid,
        mtime: row.attrs.mtime,
        rdev_major: row.attrs.rdev_major,
        rdev_minor: row.attrs.rdev_minor,
        xattrs,
    }
}

/// An entry with everything that is known of it.
pub(crate) fn new_entry(
    name: &[u8],
    ino: Ino,
    row: &InodeRow,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: Digest,
    full: Digest,
    body: Body,
) -> Entry {
    Entry {
        name: name.to_vec(),
        ino,
        attrs: row.attrs,
        nlink: row.nlink,
        mapped: row.mapped,
        xattrs,
        content,
        full,
        body,
    }
}

/// A directory's body.
pub(crate) fn dir_body(trie: crate::format::node::DirChild, groups: Digest) -> Body {
    Body::Dir(DirBody { trie, groups })
}
/// The digest of bytes that are read in pieces; kept for verification of files of any size.
pub(crate) fn hash_file(
    size: u64,
    mut read: impl FnMut(Range<u64>, &mut Vec<u8>) -> Result<()>,
    mut skip: impl FnMut(u64) -> Result<u64>,
) -> Result<Digest> {
    let mut hasher = FileHasher::new();
    let mut at = 0;
    let mut bytes = Vec::new();
    while at < size {
        let data = skip(at)?.min(size);
        hasher.push_zeros(ByteLen::from_raw(data - at));
        at = data;
        let end = (at + SUBTREE_LEN).min(size);
        if at < end {
            bytes.clear();
            read(at..end, &mut bytes)?;
            hasher.push(&bytes);
            at = end;
        }
    }
    hasher.finish(ByteLen::from_raw(size))
}
