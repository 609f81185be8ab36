//! Re-hashes everything that a snapshot reaches.
//!
//! Every node and every run of bytes is compared with what its parent says of it, down from the seed:
//! if all of these comparisons hold, the tree hashes to its seed. No comparison needs the result of another,
//! so that one damaged place is one problem and everything else is still verified.
//!
//! 1. Pieces of work wait on a stack; a batch of them runs in parallel and puts what is below on the stack.
//!    The newest goes first, which keeps the stack to about one leaf per level.
//! 2. Bytes of files are read 1 MiB at a time; holes cost O(log n).
//! 3. Hard-link groups concern the whole tree: they are computed from all names at the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::entry::overlapping;
use super::nodes;
use super::tree::{Tree, entry_kind, read_extents};
use super::trie::summary;
use crate::base::limits::{SEGMENT_LEN, SUBTREE_LEN, TRIE_DEPTH_MAX, VERIFY_BATCH};
use crate::base::{ByteLen, ChunkId, Digest, Error, Ino, Result};
use crate::chunk::{ChunkStore, PackInfo};
use crate::engine::Engine;
use crate::engine::findings::Findings;
use crate::engine::types::{CheckReport, Progress};
use crate::format::node::{Body, DirBody, DirChild, Entry, FileNode, Node, SegmentNode};
use crate::format::rows::{ExtentRow, Kind, SnapshotRow};
use crate::hash::{self, NodeAttrs, RootRecord};

/// A part of a tree that is to be verified.
enum Work {
    /// A node of a directory's trie, below the first `depth` bits of `prefix`.
    Trie {
        child: DirChild,
        depth: u32,
        prefix: [u8; 32],
        path: Arc<[u8]>,
    },
    /// Anything but a directory.
    Entry(Box<Entry>, Arc<[u8]>),
    /// 64 MiB of a file.
    Segment {
        node: ChunkId,
        digest: Digest,
        len: u64,
        path: Arc<[u8]>,
    },
}

/// Names of files with several.
#[derive(Default)]
struct Links {
    names: Vec<(Ino, Vec<u8>)>,
    /// Number of links and content digest of each: its bytes are hashed for the first name only.
    files: HashMap<Ino, (u32, Digest)>,
}

struct Verify<'a> {
    store: &'a ChunkStore,
    /// Name of the snapshot.
    name: &'a str,
    found: Findings<'a>,
    links: Mutex<Links>,
    /// Directories that have hard-link groups, and the digests of these.
    groups: Mutex<BTreeMap<Vec<u8>, Digest>>,
    /// Directories whose nodes do not make a trie: one of them may be met 2^n times, so no more of them is looked at.
    broken: Mutex<HashSet<Arc<[u8]>>>,
}

impl Engine {
    /// Reads everything that a snapshot reaches and compares all digests, up to its seed.
    ///
    /// Goes on after a problem and reports all of them. Bytes that are decoded in memory were verified when
    /// they were read from disk and are not read again; [`Engine::check`] reads the disk.
    ///
    /// # Errors
    /// Those of [`Engine::resolve`] and of the index. What is wrong with the snapshot is in the report.
    pub fn verify(&self, text: &str, progress: &(dyn Fn(Progress) + Sync)) -> Result<CheckReport> {
        let (name, row, _in_use) = self.use_row(text)?;
        verify_tree(&self.store, &name, &row, progress)
    }
}

/// As [`Engine::verify`], of a snapshot that is given.
///
/// # Errors
/// None yet: what is wrong with the snapshot is in the report.
pub(crate) fn verify_tree(
    store: &ChunkStore,
    name: &str,
    row: &SnapshotRow,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<CheckReport> {
    let packs = store.packs().unwrap_or_default();
    let kinds = packs.iter().map(|PackInfo { id, kind, .. }| (*id, *kind));
    let totals = Progress {
        entries_total: row.entries,
        bytes_total: row.bytes,
        ..Progress::default()
    };
    let verify = Verify {
        store,
        name,
        found: Findings::new(kinds.collect(), totals, progress),
        links: Mutex::default(),
        groups: Mutex::default(),
        broken: Mutex::default(),
    };
    let mut stack = Vec::new();
    match verify.root(row) {
        Ok(work) => stack.push(work),
        Err(error) => verify.problem(&error, b""),
    }
    while !stack.is_empty() {
        let batch = stack.split_off(stack.len().saturating_sub(VERIFY_BATCH));
        let below: Vec<Vec<Work>> = batch.into_par_iter().map(|work| verify.run(work)).collect();
        stack.extend(below.into_iter().flatten());
        if verify.found.entries.load(Ordering::Relaxed) > row.entries {
            // That it says less than it holds is one of the problems; how much more, a tree of nodes that are in
            // many places need not end to tell.
            verify.differs("the count of entries", b"");
            break;
        }
        verify.found.report();
    }
    verify.link_groups();
    Ok(verify.found.finish())
}

impl Verify<'_> {
    fn path(&self, path: &[u8]) -> String {
        format!("{}:/{}", self.name, String::from_utf8_lossy(path))
    }

    fn problem(&self, error: &Error, path: &[u8]) {
        self.found.error(error, Some(self.path(path)));
    }

    fn differs(&self, what: &str, path: &[u8]) {
        self.found.of(
            format!("{what} is not what was stored"),
            Some(self.path(path)),
        );
    }

    fn expect(&self, holds: bool, what: &str, path: &[u8]) {
        if !holds {
            self.differs(what, path);
        }
    }

    /// A node, read past the cache of decoded nodes.
    fn node(&self, id: &ChunkId) -> Result<Node> {
        nodes::load(self.store, id).map(|(node, _)| node)
    }

    fn root(&self, row: &SnapshotRow) -> Result<Work> {
        let Node::Root(entry) = self.node(&row.root)? else {
            return Err(Error::Malformed {
                what: "snapshot",
                detail: "its root is another kind of node",
            });
        };
        let body = Tree::dir(&entry)?;
        let trie = &body.trie;
        let record = RootRecord {
            content: entry.content,
            full: entry.full,
        };
        let seed = record.seed().as_bytes() == row.seed.as_bytes();
        self.expect(seed, "the seed", b"");
        self.expect(entry.content == row.content, "the content digest", b"");
        self.expect(
            entry.content == hash::dir_content(trie.count, trie.content)
                && entry.full == hash::root_dir_full(trie.count, trie.full, body.groups),
            "the digest of the root directory",
            b"",
        );
        let counts = (row.entries, row.bytes) == (trie.entries, trie.bytes);
        self.expect(counts, "the count of entries and bytes", b"");
        self.note_groups(body, b"");
        Ok(below(body, Arc::from(&b""[..])))
    }

    /// Verifies a piece of work and returns what is below it.
    fn run(&self, work: Work) -> Vec<Work> {
        let (done, path) = match work {
            Work::Trie {
                child,
                depth,
                prefix,
                path,
            } => (self.trie(&child, depth, &prefix, &path), path),
            Work::Entry(entry, path) => (self.entry(&entry, &path), path),
            Work::Segment {
                node,
                digest,
                len,
                path,
            } => {
                let done = self.segment(&node, digest, len, &path);
                self.found.report();
                (done.map(|()| Vec::new()), path)
            }
        };
        done.unwrap_or_else(|error| {
            self.problem(&error, &path);
            Vec::new()
        })
    }

    fn trie(
        &self,
        child: &DirChild,
        depth: u32,
        prefix: &[u8; 32],
        path: &Arc<[u8]>,
    ) -> Result<Vec<Work>> {
        if self.broken.lock().contains(path) {
            return Ok(Vec::new());
        }
        let node = self.node(&child.node)?;
        let same = summary(child.node, &node)? == *child;
        self.expect(same, "the digest of a part of the directory", path);
        match node {
            Node::DirInner(inner) => {
                let mut right = *prefix;
                if let Some(byte) = right.get_mut((depth / 8) as usize) {
                    *byte |= 0x80 >> (depth % 8);
                }
                let sides = [(inner.left, *prefix), (inner.right, right)];
                let work = |(child, prefix)| Work::Trie {
                    child,
                    depth: depth + 1,
                    prefix,
                    path: Arc::clone(path),
                };
                // Bits of names end at 256; a trie cannot be deeper.
                self.expect(depth < TRIE_DEPTH_MAX, "the depth of the directory", path);
                let count = inner.left.count.checked_add(inner.right.count);
                if depth >= TRIE_DEPTH_MAX || count != Some(child.count) {
                    self.broken.lock().insert(Arc::clone(path));
                    return Ok(Vec::new());
                }
                Ok(sides.into_iter().map(work).collect())
            }
            Node::DirLeaf(entries) => {
                let mut work = Vec::with_capacity(entries.len());
                let dir = Arc::clone(path);
                for entry in entries {
                    let name = hash::name_hash(&entry.name);
                    let here = (0..depth)
                        .all(|bit| hash::trie_bit(&name, bit) == hash::trie_bit(prefix, bit));
                    let path: Arc<[u8]> = join(path, &entry.name).into();
                    self.expect(here, "the place in the directory", &path);
                    if !here {
                        self.broken.lock().insert(Arc::clone(&dir));
                    }
                    self.found.entries.fetch_add(1, Ordering::Relaxed);
                    work.push(match &entry.body {
                        Body::Dir(body) => {
                            self.dir(&entry, body, &path);
                            below(body, path)
                        }
                        _ => Work::Entry(Box::new(entry), path),
                    });
                }
                Ok(work)
            }
            _ => Ok(Vec::new()),
        }
    }

    fn dir(&self, entry: &Entry, body: &DirBody, path: &[u8]) {
        let trie = &body.trie;
        let content = hash::dir_content(trie.count, trie.content);
        let full = hash::dir_full(trie.count, trie.full, &attrs_of(entry), body.groups);
        self.expect(
            (entry.content, entry.full) == (content, full),
            "the digest of the directory",
            path,
        );
        self.expect(entry.attrs.size == trie.count, "the size", path);
        self.note_groups(body, path);
    }

    fn note_groups(&self, body: &DirBody, path: &[u8]) {
        if body.groups != hash::groups_digest(&[]) {
            self.groups.lock().insert(path.to_vec(), body.groups);
        }
    }

    fn entry(&self, entry: &Entry, path: &Arc<[u8]>) -> Result<Vec<Work>> {
        let kind = entry_kind(entry.attrs.kind, entry.attrs.mode);
        let full = hash::node_full(kind, entry.content, &attrs_of(entry));
        self.expect(entry.full == full, "the digest of the attributes", path);
        let content = match &entry.body {
            Body::Symlink(target) => hash::symlink_content(target),
            Body::Special => hash::special_content(kind),
            Body::Inline(_) | Body::File(_) | Body::Dir(_) => entry.content,
        };
        self.expect(entry.content == content, "the digest of the content", path);
        let first = entry.nlink < 2 || self.link(entry, path);
        if entry.attrs.kind != Kind::File || !first {
            return Ok(Vec::new());
        }
        let size = entry.attrs.size;
        match &entry.body {
            Body::File(id) => match self.node(id)? {
                Node::File(file) => self.file(entry, &file, path),
                _ => Err(Error::Malformed {
                    what: "snapshot",
                    detail: "a file holds another kind of node",
                }),
            },
            Body::Inline(extents) => {
                let mut bytes = Vec::new();
                read_extents(self.store, extents, 0..size, &mut bytes)?;
                let root = hash::subtree_digest(&bytes);
                let content = hash::file_content(ByteLen::from_raw(size), root);
                self.expect(entry.content == content, "the digest of the bytes", path);
                self.found.bytes.fetch_add(size, Ordering::Relaxed);
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Notes a name of a file with several; `true` for the first.
    fn link(&self, entry: &Entry, path: &[u8]) -> bool {
        let mut links = self.links.lock();
        links.names.push((entry.ino, path.to_vec()));
        let now = (entry.nlink, entry.content);
        let known = links.files.insert(entry.ino, now);
        drop(links);
        self.expect(
            known.is_none_or(|known| known == now),
            "the content of a hard link",
            path,
        );
        known.is_none_or(|known| known != now)
    }

    fn file(&self, entry: &Entry, file: &FileNode, path: &Arc<[u8]>) -> Result<Vec<Work>> {
        let size = entry.attrs.size;
        if file.size != size {
            self.differs("the size", path);
            return Ok(Vec::new());
        }
        let segments = file.segments.iter().map(|(idx, _, digest)| (*idx, *digest));
        let content = hash::sparse_file_content(
            ByteLen::from_raw(size),
            ByteLen::from_raw(SEGMENT_LEN),
            segments,
        )?;
        self.expect(entry.content == content, "the digest of the file", path);
        let covered = |idx: u64| SEGMENT_LEN.min(size - idx * SEGMENT_LEN);
        let stored: u64 = file.segments.iter().map(|(idx, ..)| covered(*idx)).sum();
        // Segments that are wholly holes are done.
        self.found.bytes.fetch_add(size - stored, Ordering::Relaxed);
        let work = file
            .segments
            .iter()
            .map(|(idx, node, digest)| Work::Segment {
                node: *node,
                digest: *digest,
                len: covered(*idx),
                path: Arc::clone(path),
            });
        Ok(work.collect())
    }

    fn segment(&self, id: &ChunkId, digest: Digest, len: u64, path: &[u8]) -> Result<()> {
        let Node::Segment(segment) = self.node(id)? else {
            return Err(Error::Malformed {
                what: "snapshot",
                detail: "a segment is another kind of node",
            });
        };
        if segment.len != len {
            self.differs("the length of a segment", path);
            return Ok(());
        }
        let same = hash::join_subtrees(&segment.subtrees) == digest;
        self.expect(same, "the digest of a segment", path);
        segment
            .subtrees
            .par_iter()
            .enumerate()
            .for_each(|(n, expected)| match self.subtree(&segment, n as u64) {
                Ok(found) => self.expect(found == *expected, "the digest of the bytes", path),
                Err(error) => self.problem(&error, path),
            });
        Ok(())
    }

    /// The digest of one MiB of a segment, from its bytes.
    fn subtree(&self, segment: &SegmentNode, n: u64) -> Result<Digest> {
        let part = n * SUBTREE_LEN..((n + 1) * SUBTREE_LEN).min(segment.len);
        let len = part.end - part.start;
        self.found.bytes.fetch_add(len, Ordering::Relaxed);
        let extents = segment.extents.iter();
        let extents: Vec<(u64, ExtentRow)> =
            overlapping(extents.map(|(off, e)| (u64::from(*off), *e)), &part);
        if extents.is_empty() {
            return Ok(hash::zero_subtree(ByteLen::from_raw(len)));
        }
        let mut bytes = Vec::new();
        read_extents(self.store, &extents, part, &mut bytes)?;
        Ok(hash::subtree_digest(&bytes))
    }

    /// Compares the hard-link groups of all directories, and the counts of links, with the names.
    fn link_groups(&self) {
        let links = std::mem::take(&mut *self.links.lock());
        let mut groups = std::mem::take(&mut *self.groups.lock());
        let mut files: BTreeMap<Ino, Vec<&[u8]>> = BTreeMap::new();
        for (ino, path) in &links.names {
            files.entry(*ino).or_default().push(path);
        }
        for (ino, names) in files {
            let nlink = links.files.get(&ino).map(|(nlink, _)| *nlink);
            let same = nlink.map(u64::from) == Some(names.len() as u64);
            self.expect(
                same,
                "the number of links",
                names.first().unwrap_or(&&b""[..]),
            );
            if !self.found.is_clean() {
                // Bytes were read by one of the names only.
                let names: Vec<String> = names.into_iter().map(|name| self.path(name)).collect();
                self.found.share(&names);
            }
        }
        for (path, list) in hash::link_groups(links.names) {
            let stored = groups.remove(&path);
            let same = stored == Some(hash::groups_digest(&list));
            self.expect(same, "the groups of hard links", &path);
        }
        for path in groups.keys() {
            self.differs("the groups of hard links", path);
        }
    }
}

fn below(body: &DirBody, path: Arc<[u8]>) -> Work {
    Work::Trie {
        child: body.trie,
        depth: 0,
        prefix: [0; 32],
        path,
    }
}

/// The path of an entry of the directory `path`; that of the root is empty.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        name.to_vec()
    } else {
        [path, name].join(&b'/')
    }
}

/// Attributes of an entry in the terms of docs/seed.md.
pub(crate) fn attrs_of(entry: &Entry) -> NodeAttrs<'_> {
    NodeAttrs {
        mode: u32::from(entry.attrs.mode),
        uid: entry.attrs.uid,
        gid: entry.attrs.gid,
        mtime: entry.attrs.mtime,
        rdev_major: entry.attrs.rdev_major,
        rdev_minor: entry.attrs.rdev_minor,
        xattrs: &entry.xattrs,
    }
}
