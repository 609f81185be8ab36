//! The seed of a plain directory tree: docs/seed.md without a store.
//!
//! 1. A survey reads names and facts of the whole tree. It finds the hard links, whose groups belong to
//!    directories that end only after all of their names are known, and the totals for the progress.
//! 2. A second walk hashes: files in parallel, large files by 1 MiB subtrees in parallel, directories
//!    after their entries. It keeps the names and digests of the directories it is in, nothing else.
//! 3. Both walks compare what they saw: a tree that changes meanwhile has no seed, and an error names the
//!    file that changed.
//!
//! The tree may lie on several filesystems; mount points are entered.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rayon::prelude::*;

use crate::base::limits::{PLAIN_SEED_STACK_LEN, PLAIN_SEED_THREADS_MAX, SEGMENT_LEN, SUBTREE_LEN};
use crate::base::{ByteLen, Digest, Error, Result};
use crate::disk::{
    PlainFacts, PlainFile, PlainId, PlainKind, plain_facts, plain_link_target, plain_names,
    plain_root, plain_xattrs,
};
use crate::hash::{
    ContentSeed, DirEntry, EntryKind, FileHasher, LinkGroups, NodeAttrs, RootRecord, Seed,
    TwoDigests, dir_content, dir_full, file_content, groups_digest, is_counted_xattr,
    join_subtrees, link_groups, node_full, root_dir_full, short_letters, special_content,
    subtree_digest, symlink_content, trie_root, zero_subtree,
};

/// The top-level name that is never part of a tree: a mount shows its control directory there.
///
/// Only the top level is special; a `.mmhfs` further down is an ordinary name.
const CONTROL_NAME: &[u8] = b".mmhfs";

/// How to compute a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainSeedOptions {
    /// Threads to hash with; `None` for one per core. The seed does not depend on it (I9).
    pub threads: Option<NonZeroUsize>,
}

/// The seed of a plain directory and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainSeed {
    /// The seed of the tree.
    pub seed: Seed,
    /// The seed of its content.
    pub content: ContentSeed,
    /// Names of anything but directories.
    pub files: u64,
    /// Directories below the root.
    pub dirs: u64,
    /// Bytes of regular files, holes included, hard links once.
    pub bytes: u64,
}

impl PlainSeed {
    /// The short form of the seed: 128 bits of it, in letters.
    #[must_use]
    pub fn dna(&self) -> String {
        short_letters(&self.seed.short())
    }
}

/// How far a seed is; the totals are known once hashing has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlainSeedProgress {
    /// Names done, of anything but directories.
    pub files_done: u64,
    /// Names there are.
    pub files_total: u64,
    /// Bytes done, holes included.
    pub bytes_done: u64,
    /// Bytes there are.
    pub bytes_total: u64,
}

/// Computes the seed of the directory `path` from its plain files.
///
/// Reads every file once. Memory: the names and digests of the directories on the way down (about 250
/// bytes per entry) and 1 MiB per thread. `progress` is called from many threads, after every file and
/// every 64 MiB of a large one.
///
/// # Errors
/// [`Error::Io`] with the path of what cannot be read, a counted extended attribute included,
/// and with the path of what changed meanwhile.
pub fn seed_of_dir(
    path: &Path,
    options: &PlainSeedOptions,
    progress: &(dyn Fn(PlainSeedProgress) + Sync),
) -> Result<PlainSeed> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = options.threads.map_or(cores, NonZeroUsize::get);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.min(PLAIN_SEED_THREADS_MAX))
        // A directory level costs stack, and a thread that waits takes on other work on top of it.
        .stack_size(PLAIN_SEED_STACK_LEN)
        .thread_name(|at| format!("seed-{at}"))
        .build()
        .map_err(|source| Error::io("start threads", std::io::Error::other(source)))?;
    pool.install(|| {
        let survey = Survey::default();
        plain_root(path)?;
        survey.dir(path, b"")?;
        let walk = Walk::new(survey, progress);
        let record = walk.root(path)?;
        walk.check_totals(path)?;
        Ok(PlainSeed {
            seed: record.seed(),
            content: record.content_seed(),
            files: walk.totals.files,
            dirs: walk.totals.dirs,
            bytes: walk.bytes_done.load(Ordering::Relaxed),
        })
    })
}

/// What the survey counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    files: u64,
    dirs: u64,
    bytes: u64,
}

/// The first walk.
#[derive(Default)]
struct Survey {
    found: Mutex<Found>,
}

/// What the survey has found so far.
#[derive(Default)]
struct Found {
    totals: Totals,
    /// Names of files with several links.
    links: Vec<(PlainId, Vec<u8>)>,
    /// The files that these are names of.
    linked: HashSet<PlainId>,
}

impl Survey {
    /// Adds everything below a directory, whose path relative to the root is `inside`.
    fn dir(&self, path: &Path, inside: &[u8]) -> Result<()> {
        let names = names_of(path, inside)?;
        names.par_iter().try_for_each(|name| {
            let path = path.join(OsStr::from_bytes(name));
            let inside = join(inside, name);
            let facts = plain_facts(&path)?;
            if facts.kind == PlainKind::Directory {
                self.found.lock().totals.dirs += 1;
                return self.dir(&path, &inside);
            }
            let mut found = self.found.lock();
            found.totals.files += 1;
            if facts.link_count > 1 {
                // The bytes of a file count once, whatever the number of its names.
                let first = found.linked.insert(facts.id);
                found.totals.bytes += if first { bytes_of(&facts) } else { 0 };
                found.links.push((facts.id, inside));
            } else {
                found.totals.bytes += bytes_of(&facts);
            }
            Ok(())
        })
    }
}

/// The names in a directory that are part of the tree.
fn names_of(path: &Path, inside: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut names = plain_names(path)?;
    if inside.is_empty() {
        names.retain(|name| name != CONTROL_NAME);
    }
    Ok(names)
}

fn join(inside: &[u8], name: &[u8]) -> Vec<u8> {
    if inside.is_empty() {
        name.to_vec()
    } else {
        [inside, name].join(&b'/')
    }
}

fn bytes_of(facts: &PlainFacts) -> u64 {
    match facts.kind {
        PlainKind::Regular => facts.size_bytes,
        _ => 0,
    }
}

/// The second walk.
struct Walk<'p> {
    totals: Totals,
    /// Hard-link groups by the directory that they are recorded at.
    groups: BTreeMap<Vec<u8>, LinkGroups>,
    /// The files with several links that the survey saw. Guards nothing else; held for look-ups only.
    links: Mutex<HashMap<PlainId, Linked>>,
    files_done: AtomicU64,
    dirs_done: AtomicU64,
    bytes_done: AtomicU64,
    progress: &'p (dyn Fn(PlainSeedProgress) + Sync),
}

/// A file with several links.
#[derive(Default)]
struct Linked {
    /// Names of it that the second walk has still to meet.
    names_left: u64,
    /// Its facts, kind and digests once it was hashed by one of its names.
    done: Option<(PlainFacts, EntryKind, TwoDigests)>,
}

/// An entry with its digests.
struct Entry {
    name: Vec<u8>,
    kind: EntryKind,
    digests: TwoDigests,
}

impl<'p> Walk<'p> {
    fn new(survey: Survey, progress: &'p (dyn Fn(PlainSeedProgress) + Sync)) -> Self {
        let Found { totals, links, .. } = survey.found.into_inner();
        let mut linked: HashMap<PlainId, Linked> = HashMap::new();
        for (id, _) in &links {
            linked.entry(*id).or_default().names_left += 1;
        }
        Self {
            totals,
            groups: link_groups(links),
            links: Mutex::new(linked),
            files_done: AtomicU64::new(0),
            dirs_done: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            progress,
        }
    }

    fn root(&self, path: &Path) -> Result<RootRecord> {
        let before = plain_root(path)?;
        let (count, trie) = self.entries(path, b"")?;
        unchanged(path, &before, &plain_root(path)?)?;
        Ok(RootRecord {
            content: dir_content(count, trie.content),
            full: root_dir_full(count, trie.full, self.groups_of(b"")),
        })
    }

    /// The second walk met exactly the names and links of the survey.
    fn check_totals(&self, path: &Path) -> Result<()> {
        let same = self.files_done.load(Ordering::Relaxed) == self.totals.files
            && self.dirs_done.load(Ordering::Relaxed) == self.totals.dirs
            && self.links.lock().values().all(|file| file.names_left == 0);
        if same { Ok(()) } else { Err(changed(path)) }
    }

    fn groups_of(&self, inside: &[u8]) -> Digest {
        groups_digest(self.groups.get(inside).map_or(&[], Vec::as_slice))
    }

    /// The number of entries of a directory and the roots of its tries.
    fn entries(&self, path: &Path, inside: &[u8]) -> Result<(u64, TwoDigests)> {
        let entries: Vec<Entry> = names_of(path, inside)?
            .into_par_iter()
            .map(|name| {
                let path = path.join(OsStr::from_bytes(&name));
                let (kind, digests) = self.entry(&path, &join(inside, &name))?;
                Ok(Entry {
                    name,
                    kind,
                    digests,
                })
            })
            .collect::<Result<_>>()?;
        let trie = trie_root(entries.iter().map(|entry| DirEntry {
            name: &entry.name,
            kind: entry.kind,
            digests: entry.digests,
        }));
        Ok((entries.len() as u64, trie))
    }

    fn entry(&self, path: &Path, inside: &[u8]) -> Result<(EntryKind, TwoDigests)> {
        let facts = plain_facts(path)?;
        if facts.kind == PlainKind::Directory {
            return Ok((EntryKind::Directory, self.dir(path, inside, &facts)?));
        }
        let found = if facts.link_count > 1 {
            self.linked(path, &facts)?
        } else {
            let found = self.node(path, &facts, true)?;
            unchanged(path, &facts, &plain_facts(path)?)?;
            found
        };
        self.files_done.fetch_add(1, Ordering::Relaxed);
        self.report();
        Ok(found)
    }

    fn dir(&self, path: &Path, inside: &[u8], facts: &PlainFacts) -> Result<TwoDigests> {
        let (count, trie) = self.entries(path, inside)?;
        let xattrs = plain_xattrs(path, is_counted_xattr)?;
        unchanged(path, facts, &plain_facts(path)?)?;
        self.dirs_done.fetch_add(1, Ordering::Relaxed);
        let groups = self.groups_of(inside);
        Ok(TwoDigests {
            content: dir_content(count, trie.content),
            full: dir_full(count, trie.full, &attrs_of(facts, &xattrs), groups),
        })
    }

    /// A file with several links: hashed by the first of its names.
    ///
    /// Two names that are met at the same time are both hashed: waiting for each other could make a thread
    /// wait for work that lies below on its own stack.
    fn linked(&self, path: &Path, facts: &PlainFacts) -> Result<(EntryKind, TwoDigests)> {
        if let Some(done) = self.meet(path, facts, None)? {
            return Ok(done);
        }
        let (kind, digests) = self.node(path, facts, false)?;
        unchanged(path, facts, &plain_facts(path)?)?;
        self.meet(path, facts, Some((kind, digests)))?
            .ok_or(Error::Internal("a hashed file has no digest"))
    }

    /// Takes one name off a file with several links if its digests are known, or `found` makes them so.
    fn meet(
        &self,
        path: &Path,
        facts: &PlainFacts,
        found: Option<(EntryKind, TwoDigests)>,
    ) -> Result<Option<(EntryKind, TwoDigests)>> {
        let mut links = self.links.lock();
        // A file that the survey saw with one link, or not at all, is in no group.
        let file = links.get_mut(&facts.id).ok_or_else(|| changed(path))?;
        if let (None, Some((kind, digests))) = (&file.done, found) {
            file.done = Some((*facts, kind, digests));
            self.bytes_done
                .fetch_add(bytes_of(facts), Ordering::Relaxed);
        }
        let Some((before, kind, digests)) = &file.done else {
            return Ok(None);
        };
        unchanged(path, before, facts)?;
        file.names_left = file
            .names_left
            .checked_sub(1)
            .ok_or_else(|| changed(path))?;
        Ok(Some((*kind, *digests)))
    }

    /// The digests of anything but a directory.
    fn node(
        &self,
        path: &Path,
        facts: &PlainFacts,
        count_bytes: bool,
    ) -> Result<(EntryKind, TwoDigests)> {
        let (kind, content) = match facts.kind {
            PlainKind::Regular => {
                let content = self.regular(path, facts, count_bytes)?;
                (EntryKind::of_regular(facts.mode), content)
            }
            PlainKind::Symlink => {
                let target = plain_link_target(path)?;
                (EntryKind::Symlink, symlink_content(&target))
            }
            PlainKind::Fifo => special(EntryKind::Fifo),
            PlainKind::Socket => special(EntryKind::Socket),
            PlainKind::CharDevice => special(EntryKind::CharDevice),
            PlainKind::BlockDevice => special(EntryKind::BlockDevice),
            PlainKind::Directory => return Err(Error::IsDirectory),
        };
        let xattrs = plain_xattrs(path, is_counted_xattr)?;
        let full = node_full(kind, content, &attrs_of(facts, &xattrs));
        Ok((kind, TwoDigests { content, full }))
    }

    /// The content digest of a regular file.
    fn regular(&self, path: &Path, facts: &PlainFacts, count_bytes: bool) -> Result<Digest> {
        let size = facts.size_bytes;
        let file = PlainFile::open(path)?;
        unchanged(path, facts, &file.facts()?)?;
        let content = self.bytes(&file, size, count_bytes);
        let whole = file.ends_at(size);
        // A file that was cut short fails to read; say rather that it changed.
        unchanged(path, facts, &file.facts()?)?;
        if !whole? {
            let detail = "it has more bytes than its length says: it is no ordinary file";
            return Err(Error::io(
                format!("hash {}", path.display()),
                std::io::Error::other(detail),
            ));
        }
        content
    }

    /// The content digest of the first `size` bytes of an open file.
    fn bytes(&self, file: &PlainFile, size: u64, count_bytes: bool) -> Result<Digest> {
        let count = |bytes| {
            if count_bytes {
                self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
            }
        };
        if size <= SUBTREE_LEN {
            count(size);
            return Ok(file_content(
                ByteLen::from_raw(size),
                read_subtree(file, 0, size)?,
            ));
        }
        let mut hasher = FileHasher::new();
        while let Some(data) = file.next_data(hasher.len().raw(), size)? {
            // Segments before the one that holds the data are holes. `hasher.len()` is a multiple of
            // SEGMENT_LEN here, so the start of the data's segment is not before it.
            let start = data.start - data.start % SEGMENT_LEN;
            let hole = start - hasher.len().raw();
            let len = SEGMENT_LEN.min(size - start);
            hasher.push_zeros(ByteLen::from_raw(hole));
            hasher.push_subtree(ByteLen::from_raw(len), segment(file, start, len)?);
            count(hole + len);
            self.report();
        }
        let tail = size - hasher.len().raw();
        hasher.push_zeros(ByteLen::from_raw(tail));
        count(tail);
        hasher.finish(ByteLen::from_raw(size))
    }

    fn report(&self) {
        (self.progress)(PlainSeedProgress {
            files_done: self.files_done.load(Ordering::Relaxed),
            files_total: self.totals.files,
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            bytes_total: self.totals.bytes,
        });
    }
}

/// The digest of the segment at `start`, its subtrees in parallel.
fn segment(file: &PlainFile, start: u64, len: u64) -> Result<Digest> {
    let subtrees = (0..len.div_ceil(SUBTREE_LEN)).into_par_iter().map(|idx| {
        let at = start + idx * SUBTREE_LEN;
        let end = (at + SUBTREE_LEN).min(start + len);
        match file.next_data(at, end)? {
            Some(_) => read_subtree(file, at, end - at),
            None => Ok(zero_subtree(ByteLen::from_raw(end - at))),
        }
    });
    Ok(join_subtrees(&subtrees.collect::<Result<Vec<_>>>()?))
}

/// The digest of at most 1 MiB of a file.
fn read_subtree(file: &PlainFile, at: u64, len: u64) -> Result<Digest> {
    thread_local! {
        /// One per thread, at most SUBTREE_LEN long. No other work starts while it is borrowed.
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let len = usize::try_from(len).map_err(|_| Error::Internal("a subtree above 1 MiB"))?;
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(len.max(buffer.len()), 0);
        let bytes = buffer
            .get_mut(..len)
            .ok_or(Error::Internal("a read buffer is too short"))?;
        file.read_exact_at(bytes, at)?;
        Ok(subtree_digest(bytes))
    })
}

fn special(kind: EntryKind) -> (EntryKind, Digest) {
    (kind, special_content(kind))
}

fn attrs_of<'a>(facts: &PlainFacts, xattrs: &'a [(Vec<u8>, Vec<u8>)]) -> NodeAttrs<'a> {
    NodeAttrs {
        mode: facts.mode,
        uid: facts.uid,
        gid: facts.gid,
        mtime: facts.mtime,
        rdev_major: facts.rdev_major,
        rdev_minor: facts.rdev_minor,
        xattrs,
    }
}

/// Compares the facts of before with those of after (I9: half of an old and half of a new file is no tree).
fn unchanged(path: &Path, before: &PlainFacts, after: &PlainFacts) -> Result<()> {
    if before == after {
        Ok(())
    } else {
        Err(changed(path))
    }
}

fn changed(path: &Path) -> Error {
    Error::io(
        format!("hash {}", path.display()),
        std::io::Error::other("it changed while its seed was being computed; try again"),
    )
}

#[cfg(test)]
#[path = "plain_seed_tests.rs"]
mod tests;
