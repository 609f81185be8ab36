//! Writing a snapshot to a plain directory, without a mount and without root.
//!
//! 1. One thread walks the snapshot depth first, a page of entries at a time, makes the directories and
//!    gathers everything else in batches. A batch is written in parallel (`restore_put`), then its hard
//!    links are made, then the directories that are complete get their attributes: nothing changes a
//!    directory's times after that.
//! 2. Whatever is not a directory is written under a temporary name in its own directory, compared with
//!    its digest, given its attributes, and renamed: a final name never shows half a file or a wrong one.
//! 3. Everything happens relative to open directories (`disk::PlainDir`). Those far up are closed on the
//!    way down and opened again by walking from the destination, link by link, following none.
//!
//! Memory: a page of entries for each directory on the way down, a batch, 1 MiB per thread, and an entry
//! for each hard-linked inode that has names still to come.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rayon::prelude::*;

use super::restore_from::Source;
use super::tree::{Quota, Tree};
use crate::base::limits::{
    PLAIN_SEED_STACK_LEN, PLAIN_SEED_THREADS_MAX, RESTORE_BATCH, RESTORE_DAMAGED_MAX,
    RESTORE_OPEN_DIRS_MAX, RESTORE_WARNINGS_MAX,
};
use crate::base::{Error, Ino, Result};
use crate::disk::{PlainDir, PlainKind, is_within};
use crate::engine::Engine;
use crate::engine::types::Progress;
use crate::format::node::{Body, DirBody, Entry};
use crate::format::rows::Kind;

/// How to restore.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestoreOptions {
    /// Continue a restore that was cut short: directories may exist, and a file that exists with the same
    /// size, time of change and content digest is kept. Any other name that is taken is an error.
    pub resume: bool,
    /// Replace what has the name of something to be restored, unless it is a directory in place of a file.
    pub overwrite: bool,
    /// Threads to write with; `None` for one per core.
    pub threads: Option<NonZeroUsize>,
    /// Write what there is of damaged files, with holes where bytes cannot be read, and go on after what would end a
    /// restore otherwise.
    pub salvage: bool,
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Names below the destination that are as in the snapshot now, directories and kept ones included.
    pub entries: u64,
    /// Bytes of the files that were written, holes included, and of those that turned out to be damaged.
    pub bytes: u64,
    /// Names that were there already and were kept.
    pub skipped: u64,
    /// What this user may not set or make, in words with the path: owners, devices, some attributes.
    pub warnings: Vec<String>,
    /// What could not be restored because its stored bytes are damaged: nothing is under these names.
    pub damaged: Vec<DamagedPath>,
    /// Number of further ones.
    pub damaged_more: u64,
}

/// A path of a snapshot that could not be restored whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPath {
    /// The path relative to the root of the snapshot. A file is not there, or, salvaged, has holes; of a directory some
    /// entries are missing.
    pub path: Vec<u8>,
    /// Byte ranges of a file that cannot be read, ascending; none if what says where its bytes are cannot.
    pub ranges: Vec<Range<u64>>,
    /// Number of further ones. Without salvage there are none: the last range takes in those after it.
    pub ranges_more: u64,
    /// What is wrong, of the first place that was found.
    pub cause: String,
}

/// A directory of the destination: the way to it from the top.
#[derive(Debug)]
struct Place {
    parent: Option<Arc<Place>>,
    name: Vec<u8>,
    depth: usize,
}

/// A directory that is being walked.
struct Frame {
    place: Arc<Place>,
    /// `None` while it is closed because the walk is far below.
    dir: Option<Arc<PlainDir>>,
    entry: Entry,
    /// Cookie of the last entry that was read.
    after: u64,
    is_read: bool,
    /// Directories of the page that was read last.
    children: VecDeque<Entry>,
}

/// Something to write that is not a directory.
pub(super) struct Job {
    place: Arc<Place>,
    pub(super) dir: Arc<PlainDir>,
    pub(super) entry: Entry,
}

/// A hard-linked inode that has names still to come.
struct Linked {
    place: Arc<Place>,
    name: Vec<u8>,
    names_left: u32,
}

/// What is done together.
#[derive(Default)]
struct Batch {
    jobs: Vec<Job>,
    /// Further names, each with the place and name of the first one.
    links: Vec<(Job, Arc<Place>, Vec<u8>)>,
    /// Directories whose entries are all in this batch or in earlier ones.
    complete: Vec<Job>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.jobs.len() + self.links.len() + self.complete.len() >= RESTORE_BATCH
    }
}

/// One restore.
pub(super) struct Restore<'a> {
    pub(super) source: Source<'a>,
    pub(super) options: RestoreOptions,
    top: Arc<PlainDir>,
    /// Path in the snapshot of what the destination stands for, for messages.
    base: Vec<u8>,
    progress: &'a (dyn Fn(Progress) + Sync),
    total: Progress,
    entries: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) skipped: AtomicU64,
    /// Guards nothing else; held for a push.
    warnings: Mutex<(Vec<String>, usize)>,
    /// Guards nothing else; held for a push.
    damage: Mutex<Damage>,
}

/// What could not be restored.
#[derive(Default)]
struct Damage {
    paths: Vec<DamagedPath>,
    more: u64,
    /// Inodes with several names that have no file: none of the names gets one.
    inodes: HashSet<Ino>,
}

impl Engine {
    /// Writes a snapshot, or the directory or file at `path` in it, to the plain directory `dest`.
    ///
    /// `dest` is made if it is missing, and then gets the attributes of the restored directory too; the
    /// entries of a directory, or a file under its own name, come to lie in it. No symbolic link below
    /// `dest` is followed. What was written is durable when this returns. `progress` is called from many
    /// threads.
    ///
    /// # Errors
    /// [`Error::InFile`] with the path in the snapshot and the cause: [`Error::Exists`] for a name that is
    /// taken; [`Error::Io`] with the path on disk. The file
    /// that failed is not there; what was restored before stays, and `resume` continues from it. Damage of the
    /// store is no error unless it is the root that cannot be read: it is in the report, and everything else
    /// is restored. [`Error::Usage`] for a `dest` within the store; [`Error::NotFound`] and [`Error::NotDirectory`] for `path`, and those of [`Engine::resolve`].
    pub fn restore(
        &self,
        text: &str,
        path: Option<&[u8]>,
        dest: &Path,
        options: &RestoreOptions,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<RestoreReport> {
        let (_, row, _in_use) = self.use_row(text)?;
        let root = self.tree().checked_root(&row)?;
        let (entry, base) = self.entry_at(root, path.unwrap_or(b""))?;
        let what = What {
            source: Source::Snapshot(self.tree()),
            entry,
            base,
            store: &self.path,
        };
        restore_from(what, dest, options, progress)
    }

    /// The entry at a path of a snapshot, and the path of the directory that is restored or of the file's.
    fn entry_at(&self, root: Entry, path: &[u8]) -> Result<(Entry, Vec<u8>)> {
        let mut entry = root;
        let mut shown: Vec<&[u8]> = Vec::new();
        for name in path.split(|b| *b == b'/') {
            match name {
                b"" | b"." => continue,
                b".." => return Err(Error::Usage("a path in a snapshot has no '..'".into())),
                _ => {}
            }
            entry = self
                .tree()
                .lookup(Tree::dir(&entry)?, name)?
                .ok_or(Error::NotFound)?;
            shown.push(name);
        }
        if entry.attrs.kind != Kind::Dir {
            shown.pop();
        }
        Ok((entry, shown.join(&b'/')))
    }
}

/// What is restored, and from where.
pub(crate) struct What<'a> {
    /// The tree.
    pub(crate) source: Source<'a>,
    /// The directory or file.
    pub(crate) entry: Entry,
    /// Path in the tree of the directory that is restored, or of the file's.
    pub(crate) base: Vec<u8>,
    /// The directory of the store, in which nothing may be written.
    pub(crate) store: &'a Path,
}

/// As [`Engine::restore`], of a tree that is given.
///
/// # Errors
/// As [`Engine::restore`].
pub(crate) fn restore_from(
    what: What<'_>,
    dest: &Path,
    options: &RestoreOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<RestoreReport> {
    let What {
        source,
        entry,
        base,
        store,
    } = what;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = options.threads.map_or(cores, NonZeroUsize::get);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.min(PLAIN_SEED_THREADS_MAX))
        // A thread that waits for parts of a file takes on other files on top of it.
        .stack_size(PLAIN_SEED_STACK_LEN)
        .thread_name(|at| format!("restore-{at}"))
        .build()
        .map_err(|source| Error::io("start threads", std::io::Error::other(source)))?;
    if is_within(dest, store)? {
        return Err(Error::Usage(format!(
            "{} is inside the store {}",
            dest.display(),
            store.display()
        )));
    }
    let (top, is_new) = PlainDir::open_or_create(dest)?;
    let total = match &entry.body {
        Body::Dir(DirBody { trie, .. }) => (trie.entries, trie.bytes),
        _ => (1, entry.attrs.size),
    };
    let restore = Restore {
        source,
        options: *options,
        top: Arc::new(top),
        base,
        progress,
        total: Progress {
            entries_total: total.0,
            bytes_total: total.1,
            ..Progress::default()
        },
        entries: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        skipped: AtomicU64::new(0),
        warnings: Mutex::default(),
        damage: Mutex::default(),
    };
    pool.install(|| restore.run(entry, is_new))?;
    restore.top.sync_filesystem()?;
    Ok(restore.report())
}

impl Restore<'_> {
    fn run(&self, entry: Entry, is_new: bool) -> Result<()> {
        let place = Arc::new(Place {
            parent: None,
            name: Vec::new(),
            depth: 0,
        });
        if entry.attrs.kind != Kind::Dir {
            let dir = Arc::clone(&self.top);
            let job = Job { place, dir, entry };
            return self.put_counted(&job);
        }
        let mut walk = Walk {
            quota: match &self.source {
                Source::Snapshot(_) => Quota::of(Tree::dir(&entry)?),
                Source::Live(_) => Quota::of_rows(),
            },
            restore: self,
            stack: vec![Frame::new(place, Arc::clone(&self.top), entry)],
            batch: Batch::default(),
            links: HashMap::new(),
            late: Vec::new(),
            is_new,
        };
        while walk.step()? {}
        walk.end()
    }

    /// The open directory of a place.
    fn open(&self, place: &Place) -> Result<Arc<PlainDir>> {
        let mut names = Vec::new();
        let mut at = place;
        while let Some(parent) = &at.parent {
            names.push(&at.name);
            at = parent;
        }
        let mut dir = Arc::clone(&self.top);
        for name in names.into_iter().rev() {
            dir = Arc::new(dir.child(name)?);
        }
        Ok(dir)
    }

    /// Opens the directory of an entry, which is made unless it may be there.
    fn enter(&self, dir: &PlainDir, name: &[u8]) -> Result<PlainDir> {
        let mut is_new = true;
        match dir.facts(name)? {
            None => dir.make_dir(name)?,
            Some(found) if found.kind == PlainKind::Directory => {
                if !self.options.resume && !self.options.overwrite {
                    return Err(Error::Exists);
                }
                is_new = false;
            }
            Some(_) if self.options.overwrite => {
                dir.unlink(name)?;
                dir.make_dir(name)?;
            }
            Some(_) => return Err(Error::Exists),
        }
        let dir = dir.child(name)?;
        if !is_new {
            dir.open_up();
        }
        Ok(dir)
    }

    /// Writes one entry and counts it.
    fn put_counted(&self, job: &Job) -> Result<()> {
        let is_made = self.or_note(&job.place, &job.entry.name, self.put(job))?;
        self.count(u64::from(is_made.unwrap_or(false)), 0);
        Ok(())
    }

    /// The path of an entry in the snapshot.
    fn path(&self, place: &Place, name: &[u8]) -> Vec<u8> {
        let mut names: Vec<&[u8]> = Vec::new();
        if !name.is_empty() {
            names.push(name);
        }
        let mut at = place;
        while let Some(parent) = &at.parent {
            names.push(&at.name);
            at = parent;
        }
        if !self.base.is_empty() {
            names.push(&self.base);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Adds the path of an entry to an error that does not name a file.
    fn named<T>(&self, place: &Place, name: &[u8], result: Result<T>) -> Result<T> {
        result.map_err(|error| match error {
            Error::Io { .. } | Error::InFile { .. } => error,
            error => Error::InFile {
                path: String::from_utf8_lossy(&self.path(place, name)).into_owned(),
                source: Box::new(error),
            },
        })
    }

    /// As [`Restore::named`]; a salvage notes an error that concerns one name only, and goes on without it.
    fn or_note<T>(&self, place: &Place, name: &[u8], result: Result<T>) -> Result<Option<T>> {
        match result {
            Err(error) if self.options.salvage && !matches!(error, Error::NoSpace) => {
                self.note_damage(place, name, (Vec::new(), 0), error.to_string());
                Ok(None)
            }
            other => self.named(place, name, other).map(Some),
        }
    }

    /// Notes that something is left out because it cannot be read.
    fn note_damage(
        &self,
        place: &Place,
        name: &[u8],
        (ranges, ranges_more): (Vec<Range<u64>>, u64),
        cause: String,
    ) {
        let path = self.path(place, name);
        log::error!("cannot restore {}: {cause}", String::from_utf8_lossy(&path));
        let mut damage = self.damage.lock();
        if damage.paths.len() < RESTORE_DAMAGED_MAX {
            damage.paths.push(DamagedPath {
                path,
                ranges,
                ranges_more,
                cause,
            });
        } else {
            damage.more += 1;
        }
    }

    pub(super) fn warn(&self, texts: Vec<String>) {
        if texts.is_empty() {
            return;
        }
        let mut warnings = self.warnings.lock();
        for text in texts {
            if warnings.0.len() < RESTORE_WARNINGS_MAX {
                warnings.0.push(text);
            } else {
                warnings.1 += 1;
            }
        }
    }

    /// Counts what was done and reports it.
    pub(super) fn count(&self, entries: u64, bytes: u64) {
        // Sparse files of exbibytes have more together than a number holds.
        let entries = self
            .entries
            .fetch_add(entries, Ordering::Relaxed)
            .saturating_add(entries);
        let bytes = self
            .bytes
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        (self.progress)(Progress {
            entries,
            bytes,
            ..self.total
        });
    }

    fn report(&self) -> RestoreReport {
        let mut damage = std::mem::take(&mut *self.damage.lock());
        damage.paths.sort_by(|a, b| a.path.cmp(&b.path));
        let mut warnings = self.warnings.lock();
        let mut texts = std::mem::take(&mut warnings.0);
        if warnings.1 > 0 {
            texts.push(format!("and {} more warnings", warnings.1));
        }
        RestoreReport {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            warnings: texts,
            damaged: damage.paths,
            damaged_more: damage.more,
        }
    }
}

impl Job {
    /// Notes that this, or some of it, cannot be read; with the number of ranges that are not listed.
    pub(super) fn damaged(
        &self,
        restore: &Restore<'_>,
        ranges: (Vec<Range<u64>>, u64),
        cause: String,
    ) {
        if self.entry.nlink > 1 {
            restore.damage.lock().inodes.insert(self.entry.ino);
        }
        restore.note_damage(&self.place, &self.entry.name, ranges, cause);
    }

    /// Where it is on disk.
    pub(super) fn path_on_disk(&self) -> PathBuf {
        match self.entry.attrs.kind {
            // The open directory is the entry itself.
            Kind::Dir => self.dir.path_of(b""),
            _ => self.dir.path_of(&self.entry.name),
        }
    }

    /// Whether the inode of this entry was left out under another name.
    pub(super) fn is_left_out(&self, restore: &Restore<'_>) -> bool {
        restore.damage.lock().inodes.contains(&self.entry.ino)
    }
}

impl Frame {
    fn new(place: Arc<Place>, dir: Arc<PlainDir>, entry: Entry) -> Self {
        Self {
            place,
            dir: Some(dir),
            entry,
            after: 0,
            is_read: false,
            children: VecDeque::new(),
        }
    }
}

/// The walk through a snapshot's directories.
struct Walk<'r, 'a> {
    restore: &'r Restore<'a>,
    /// Entries that are left to come.
    quota: Quota,
    stack: Vec<Frame>,
    batch: Batch,
    links: HashMap<Ino, Linked>,
    /// Directories that their owner may not enter when they have their mode: they get it at the very end,
    /// or the source of a later hard link could not be found in them.
    late: Vec<(Arc<Place>, Entry)>,
    /// The destination was made by this restore.
    is_new: bool,
}

impl Walk<'_, '_> {
    /// Goes down one directory, reads one page, or leaves a directory; `false` at the end.
    fn step(&mut self) -> Result<bool> {
        let Some(frame) = self.stack.last_mut() else {
            return Ok(false);
        };
        let dir = match &frame.dir {
            Some(dir) => Arc::clone(dir),
            None => self.restore.open(&frame.place)?,
        };
        frame.dir = Some(Arc::clone(&dir));
        if let Some(child) = frame.children.pop_front() {
            let place = Arc::clone(&frame.place);
            self.down(&place, &dir, child)?;
        } else if !frame.is_read {
            self.read_page(&dir)?;
        } else if let Some(frame) = self.stack.pop() {
            self.leave(frame, dir);
        }
        if self.batch.is_full() {
            self.flush()?;
        }
        Ok(true)
    }

    fn down(&mut self, place: &Arc<Place>, dir: &PlainDir, entry: Entry) -> Result<()> {
        let name = entry.name.clone();
        let entered = self.restore.enter(dir, &name);
        let Some(child) = self.restore.or_note(place, &name, entered)? else {
            return Ok(());
        };
        let place = Arc::new(Place {
            depth: place.depth + 1,
            parent: Some(Arc::clone(place)),
            name,
        });
        if let Some(above) = self.stack.len().checked_sub(RESTORE_OPEN_DIRS_MAX)
            && let Some(frame) = self.stack.get_mut(above)
        {
            frame.dir = None;
        }
        self.stack.push(Frame::new(place, Arc::new(child), entry));
        Ok(())
    }

    fn read_page(&mut self, dir: &Arc<PlainDir>) -> Result<()> {
        let Some(frame) = self.stack.last_mut() else {
            return Ok(());
        };
        let mut page = Vec::new();
        let mut last = frame.after;
        let restore = self.restore;
        let mut each = |cookie, entry: &Entry| {
            page.push(entry.clone());
            last = cookie;
            Ok(page.len() < RESTORE_BATCH)
        };
        // A part of the directory that cannot be read is left out, the others are not.
        let mut bad = |error: Error| {
            restore.note_damage(&frame.place, b"", (Vec::new(), 0), error.to_string());
            Ok(())
        };
        let read = restore
            .source
            .children(&frame.entry, frame.after, &mut each, &mut bad);
        if restore.or_note(&frame.place, b"", read)?.is_none() {
            // What was read of it before is there.
            last = u64::MAX;
        }
        let is_read = page.len() < RESTORE_BATCH || last == u64::MAX;
        let counted = self.quota.take(page.len());
        restore.named(&frame.place, b"", counted)?;
        frame.after = last;
        frame.is_read = is_read;
        for entry in page {
            if entry.attrs.kind == Kind::Dir {
                frame.children.push_back(entry);
                continue;
            }
            let job = Job {
                place: Arc::clone(&frame.place),
                dir: Arc::clone(dir),
                entry,
            };
            match first_name(&mut self.links, &job) {
                Some((place, name)) => self.batch.links.push((job, place, name)),
                None => self.batch.jobs.push(job),
            }
        }
        Ok(())
    }

    fn leave(&mut self, frame: Frame, dir: Arc<PlainDir>) {
        let Frame { place, entry, .. } = frame;
        if place.parent.is_none() && !self.is_new {
            return;
        }
        // Later entries may have to be opened through it.
        if entry.attrs.mode & 0o500 != 0o500 {
            self.late.push((place, entry));
        } else {
            self.batch.complete.push(Job { place, dir, entry });
        }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let restore = self.restore;
        batch
            .jobs
            .par_iter()
            .try_for_each(|job| restore.put_counted(job))?;
        for (job, place, name) in &batch.links {
            let linked = restore
                .open(place)
                .and_then(|from| restore.put_link(job, &from, name));
            let is_made = restore.or_note(&job.place, &job.entry.name, linked)?;
            restore.count(u64::from(is_made.unwrap_or(false)), 0);
        }
        for job in &batch.complete {
            self.complete(job)?;
        }
        Ok(())
    }

    /// Gives a directory its attributes.
    fn complete(&self, job: &Job) -> Result<()> {
        let set = job
            .dir
            .itself()
            .and_then(|node| self.restore.set_meta(&node, job));
        self.restore.or_note(&job.place, b"", set)?;
        if job.place.depth > 0 {
            self.restore.count(1, 0);
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.flush()?;
        // Those below come before those above, which must be open to get there.
        for (place, entry) in std::mem::take(&mut self.late) {
            let dir = self.restore.open(&place)?;
            self.complete(&Job { place, dir, entry })?;
        }
        Ok(())
    }
}

/// The place and name under which the inode of a job was met before; notes it if it was not.
fn first_name(links: &mut HashMap<Ino, Linked>, job: &Job) -> Option<(Arc<Place>, Vec<u8>)> {
    if job.entry.nlink < 2 {
        return None;
    }
    let Some(first) = links.get_mut(&job.entry.ino) else {
        let first = Linked {
            place: Arc::clone(&job.place),
            name: job.entry.name.clone(),
            names_left: job.entry.nlink - 1,
        };
        links.insert(job.entry.ino, first);
        return None;
    };
    first.names_left = first.names_left.saturating_sub(1);
    let found = (Arc::clone(&first.place), first.name.clone());
    if first.names_left == 0 {
        links.remove(&job.entry.ino);
    }
    Some(found)
}
