//! A store in a temporary directory, an index in memory, and a disk that can be told to fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test support: a failure here is a failed test"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::dice::noise;
use mmhfs::base::{ByteLen, ChunkId, Env, Error, Lsn, PackId, PackOff, Result, StoreId};
use mmhfs::chunk::{
    ChunkLookup, ChunkStore, LogTail, PutKind, Replay, ScanReport, Scanned, StoreConfig, Watermark,
    load_superblock, replay,
};
use mmhfs::disk::{Access, Disk, DiskFile, RealDisk, Space};
use mmhfs::format::rows::{ChunkRow, Op, PackKind, PackRow, Table};
use mmhfs::format::superblock::{Superblock, encode_superblock};
use mmhfs::hash::{Checksum, checksum};

/// What the disk refuses, by the end of the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Sync(&'static str),
    Write(&'static str),
    Full,
}

type Faults = Arc<Mutex<Option<Fault>>>;

/// Lengths of the files as they were when they were last synced.
type SyncedLens = Arc<Mutex<BTreeMap<String, u64>>>;

pub(crate) struct FaultyDisk {
    inner: RealDisk,
    fault: Faults,
    synced: SyncedLens,
}

struct FaultyFile {
    name: String,
    inner: Arc<dyn DiskFile>,
    fault: Faults,
    synced: SyncedLens,
}

impl FaultyDisk {
    pub(crate) fn fail(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    fn wrap(&self, name: &str, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile {
            name: name.to_owned(),
            inner,
            fault: Arc::clone(&self.fault),
            synced: Arc::clone(&self.synced),
        })
    }
}

impl Disk for FaultyDisk {
    fn create_new(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(name, self.inner.create_new(name)?))
    }
    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(name, self.inner.open(name, access)?))
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(name)
    }
    fn create_dir(&self, name: &str) -> Result<()> {
        self.inner.create_dir(name)
    }
    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.inner.sync_dir(dir)
    }
    fn len(&self, name: &str) -> Result<Option<ByteLen>> {
        self.inner.len(name)
    }
    fn space(&self) -> Result<Space> {
        self.inner.space()
    }
    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }
}

fn broken(op: &str) -> Error {
    Error::io(op, std::io::Error::other("told to fail"))
}

impl DiskFile for FaultyFile {
    fn read_at(&self, off: PackOff, buf: &mut [u8]) -> Result<usize> {
        self.inner.read_at(off, buf)
    }
    fn write_at(&self, off: PackOff, buf: &[u8]) -> Result<()> {
        match *self.fault.lock().unwrap() {
            Some(Fault::Full) => {
                // A full disk takes some bytes first.
                self.inner.write_at(off, &buf[..buf.len() / 2])?;
                Err(Error::NoSpace)
            }
            Some(Fault::Write(end)) if self.name.ends_with(end) => Err(broken("write")),
            _ => self.inner.write_at(off, buf),
        }
    }
    fn sync_data(&self) -> Result<()> {
        match *self.fault.lock().unwrap() {
            Some(Fault::Sync(end)) if self.name.ends_with(end) => Err(broken("fdatasync")),
            _ => {
                self.inner.sync_data()?;
                let len = self.inner.len()?.raw();
                self.synced.lock().unwrap().insert(self.name.clone(), len);
                Ok(())
            }
        }
    }
    fn len(&self) -> Result<ByteLen> {
        self.inner.len()
    }
}

/// The index: what was applied, in order.
#[derive(Default)]
pub(crate) struct Index {
    rows: Mutex<BTreeMap<ChunkId, ChunkRow>>,
    packs: Mutex<BTreeMap<PackId, PackRow>>,
    /// Rows as they were, each of which is given once more.
    stale: Mutex<BTreeMap<ChunkId, ChunkRow>>,
}

impl ChunkLookup for Index {
    fn chunk(&self, id: &ChunkId) -> Result<Option<ChunkRow>> {
        if let Some(row) = self.stale.lock().unwrap().remove(id) {
            return Ok(Some(row));
        }
        Ok(self.rows.lock().unwrap().get(id).copied())
    }

    fn pack(&self, id: PackId) -> Result<Option<PackRow>> {
        Ok(self.packs.lock().unwrap().get(&id).copied())
    }
}

impl Index {
    fn apply(&self, ops: &[Op]) {
        for op in ops {
            if let Op::Put(Table::Chunk, key, value) = op {
                let id = ChunkId::from_raw(key[..].try_into().unwrap());
                let row = ChunkRow::decode(value).unwrap();
                self.rows.lock().unwrap().insert(id, row);
            }
            if let Op::Put(Table::Pack, key, value) = op {
                // A test may commit one that does not decode.
                if let (Ok(id), Ok(row)) = (key[..].try_into(), PackRow::decode(value)) {
                    let id = PackId::from_raw(u64::from_be_bytes(id));
                    self.packs.lock().unwrap().insert(id, row);
                }
            }
        }
    }
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    disk: Arc<FaultyDisk>,
    index: Arc<Index>,
    mark: Watermark,
    store: Option<Arc<ChunkStore>>,
    read_only: bool,
    tail: Option<LogTail>,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk {
            inner: RealDisk::new(dir.path()),
            fault: Arc::default(),
            synced: Arc::default(),
        });
        let env = Env::real();
        let store = StoreId::from_raw([7; 16]);
        let capacity = ByteLen::from_raw(4 << 20);
        let superblock = Superblock::new(store, env.now(), capacity);
        let dyn_disk: Arc<dyn Disk> = Arc::<FaultyDisk>::clone(&disk);
        ChunkStore::create(&dyn_disk, &superblock).unwrap();
        let mut world = Self {
            dir,
            disk,
            index: Arc::default(),
            mark: Watermark::START,
            store: None,
            read_only: false,
            tail: None,
        };
        world.reopen();
        world
    }

    pub(crate) fn store(&self) -> &Arc<ChunkStore> {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn disk(&self) -> &FaultyDisk {
        &self.disk
    }

    pub(crate) fn mark(&self) -> Watermark {
        self.mark
    }

    /// Lets the index be older than it is, as far as the log is concerned.
    pub(crate) fn set_mark(&mut self, mark: Watermark) {
        self.mark = mark;
    }

    fn superblock(&self) -> Superblock {
        load_superblock(self.disk.as_ref()).unwrap()
    }

    /// Ends the process without closing anything.
    pub(crate) fn crash(&mut self) {
        self.store = None;
    }

    /// Ends the machine: of a pack only what was synced is left.
    pub(crate) fn lose_power(&mut self) {
        self.store = None;
        let synced = self.disk.synced.lock().unwrap().clone();
        for (name, len) in synced.iter().filter(|(name, _)| name.starts_with("packs/")) {
            self.truncate(name, *len);
        }
    }

    /// Ends the process in order.
    pub(crate) fn close(&mut self) {
        self.store().seal().unwrap();
        self.store = None;
        let each = &mut |_: Vec<Op>, _| Ok(());
        match replay(
            self.disk.as_ref(),
            &self.superblock(),
            Some(self.mark),
            each,
        )
        .unwrap()
        {
            Replay::Done(tail) => self.tail = Some(tail),
            Replay::Foreign => panic!("the watermark does not match"),
        }
    }

    fn open(&mut self, tail: LogTail) -> Result<()> {
        let config = StoreConfig {
            level: 1,
            verify_writes: true,
            cache_len: 8 << 20,
            parity: None,
            read_only: self.read_only,
            env: Env::real(),
        };
        let disk: Arc<dyn Disk> = Arc::<FaultyDisk>::clone(&self.disk);
        let index: Arc<dyn ChunkLookup> = Arc::<Index>::clone(&self.index);
        self.store = Some(ChunkStore::open(
            disk,
            self.superblock(),
            tail,
            index,
            config,
        )?);
        Ok(())
    }

    /// Opens the store again with the index as it was.
    pub(crate) fn reopen(&mut self) {
        let read_only = self.read_only;
        self.try_reopen(read_only).unwrap();
    }

    /// Opens the store again as [`World::close`] left it, without looking at the log.
    pub(crate) fn reopen_as_is(&mut self) {
        self.store = None;
        self.read_only = false;
        let tail = self.tail.clone().expect("closed before");
        self.open(tail).unwrap();
    }

    pub(crate) fn reopen_read_only(&mut self) {
        self.read_only = true;
        self.reopen();
    }

    /// Rebuilds the index from the log and opens the store.
    pub(crate) fn try_index_from_scratch(&mut self) -> Result<()> {
        self.store = None;
        let index = Arc::new(Index::default());
        let mut mark = Watermark::START;
        let each = &mut |ops: Vec<Op>, at| {
            index.apply(&ops);
            mark = at;
            Ok(())
        };
        let done = replay(self.disk.as_ref(), &self.superblock(), None, each)?;
        let Replay::Done(tail) = done else {
            panic!("no watermark was given")
        };
        assert_eq!(tail.watermark(), mark);
        self.index = index;
        self.mark = mark;
        self.open(tail)
    }

    pub(crate) fn index_from_scratch(&mut self) {
        self.try_index_from_scratch().unwrap();
    }

    /// The commits after `from`; `None` if it does not match the log.
    pub(crate) fn try_replay_from(&self, from: Watermark) -> Result<Option<Vec<Vec<Op>>>> {
        let mut commits = vec![];
        let each = &mut |ops: Vec<Op>, _| {
            commits.push(ops);
            Ok(())
        };
        match replay(self.disk.as_ref(), &self.superblock(), Some(from), each)? {
            Replay::Done(_) => Ok(Some(commits)),
            Replay::Foreign => {
                assert!(commits.is_empty());
                Ok(None)
            }
        }
    }

    pub(crate) fn replay_from(&self, from: Watermark) -> Option<Vec<Vec<Op>>> {
        self.try_replay_from(from).unwrap()
    }

    /// Opens the store again with the index as it was; what is wrong with the log is an error.
    pub(crate) fn try_reopen(&mut self, read_only: bool) -> Result<()> {
        self.store = None;
        self.read_only = read_only;
        let (index, mut mark) = (Arc::clone(&self.index), self.mark);
        let each = &mut |ops: Vec<Op>, at| {
            index.apply(&ops);
            mark = at;
            Ok(())
        };
        let from = Some(self.mark);
        let Replay::Done(tail) = replay(self.disk.as_ref(), &self.superblock(), from, each)? else {
            panic!("the watermark does not match")
        };
        self.mark = mark;
        self.open(tail)
    }

    pub(crate) fn replayed_ops(&self) -> Vec<Vec<Op>> {
        self.replay_from(Watermark::START).unwrap()
    }

    fn try_put(
        &mut self,
        inline: bool,
        kind: PutKind,
        pieces: &[Vec<u8>],
        ops: Vec<Op>,
    ) -> Result<Vec<ChunkId>> {
        if self.store.is_none() {
            self.reopen();
        }
        let store = Arc::clone(self.store());
        let mut batch = store.begin(inline)?;
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let ids = store.put(&mut batch, kind, &pieces)?;
        let done = store.finish(batch, ops)?;
        self.index.apply(&done.ops);
        self.mark = done.watermark;
        Ok(ids)
    }

    pub(crate) fn try_commit(&mut self, inline: bool, pieces: &[Vec<u8>]) -> Result<Vec<ChunkId>> {
        self.try_put(inline, PutKind::Data, pieces, vec![])
    }

    pub(crate) fn commit(&mut self, inline: bool, pieces: &[Vec<u8>]) -> Vec<ChunkId> {
        self.try_commit(inline, pieces).unwrap()
    }

    pub(crate) fn commit_nodes(&mut self, inline: bool, pieces: &[Vec<u8>]) -> Vec<ChunkId> {
        self.try_put(inline, PutKind::Node, pieces, vec![]).unwrap()
    }

    pub(crate) fn commit_ops(&mut self, ops: Vec<Op>) {
        self.try_put(true, PutKind::Data, &[], ops).unwrap();
    }

    /// Moves chunks to new frames, as cleaning does.
    pub(crate) fn move_chunks(&mut self, ids: &[ChunkId]) {
        let store = Arc::clone(self.store());
        let wanted = ids.iter().copied().collect();
        let mut frames = BTreeMap::new();
        for id in ids {
            let row = self.row(id);
            let key = (row.pack, row.frame);
            frames
                .entry(key)
                .or_insert_with(|| store.read_frame(&row).unwrap());
        }
        let mut batch = store.begin(false).unwrap();
        let frames = frames.into_values().collect();
        store.relocate(&mut batch, frames, &wanted).unwrap();
        let done = store.finish(batch, vec![]).unwrap();
        self.index.apply(&done.ops);
        self.mark = done.watermark;
    }

    /// Lets the index give an old row of a chunk once.
    pub(crate) fn answer_once(&self, id: &ChunkId, row: ChunkRow) {
        self.index.stale.lock().unwrap().insert(*id, row);
    }

    /// Lets the index forget a chunk.
    pub(crate) fn forget_row(&self, id: &ChunkId) {
        self.index.rows.lock().unwrap().remove(id);
    }

    pub(crate) fn many_ops(&self, count: u64) -> Vec<Op> {
        (0..count)
            .map(|n| Op::Put(Table::Xattr, n.to_be_bytes().to_vec(), noise(n, 100)))
            .collect()
    }

    pub(crate) fn read_all(&self, ids: &[ChunkId]) -> Vec<Vec<u8>> {
        let read = |id| self.store().get(id).unwrap().to_vec();
        ids.iter().map(read).collect()
    }

    pub(crate) fn row(&self, id: &ChunkId) -> ChunkRow {
        self.index.chunk(id).unwrap().unwrap()
    }

    pub(crate) fn packs(&self, kind: PackKind) -> Vec<PackId> {
        let packs = self.store().packs().unwrap();
        packs
            .iter()
            .filter(|pack| pack.kind == kind)
            .map(|pack| pack.id)
            .collect()
    }

    /// Offsets of the frames that a scan of a pack finds sound.
    pub(crate) fn sound_frames(&self, id: PackId) -> Vec<u64> {
        let mut frames = vec![];
        let each = &mut |found| {
            if let Scanned::Frame { off, .. } = found {
                frames.push(off.raw());
            }
            Ok(())
        };
        let row = self.index.pack(id).unwrap();
        self.store().scan_pack(id, row, each).unwrap();
        frames
    }

    pub(crate) fn scan(&self, id: PackId) -> (ScanReport, Vec<String>) {
        let mut problems = vec![];
        let each = &mut |found| {
            if let Scanned::Problem { off, detail } = found {
                problems.push(format!("{off}: {detail}"));
            }
            Ok(())
        };
        let row = self.index.pack(id).unwrap();
        let report = self.store().scan_pack(id, row, each).unwrap();
        assert_eq!(report.problems, problems.len() as u64);
        (report, problems)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn write_file(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    pub(crate) fn truncate(&self, name: &str, len: u64) {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(self.path(name))
            .unwrap();
        file.set_len(len).unwrap();
    }

    pub(crate) fn flip(&self, name: &str, at: u64) {
        let mut bytes = self.bytes(name);
        bytes[usize::try_from(at).unwrap()] ^= 0x10;
        // In place: the store may have the file open.
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(self.path(name))
            .unwrap();
        file.write_all_at(&bytes[usize::try_from(at).unwrap()..][..1], at)
            .unwrap();
    }

    /// Replaces all copies of the superblock by ones with another high-water mark.
    pub(crate) fn set_high_water(&self, id: PackId) {
        let mut superblock = self.superblock();
        superblock.pack_high_water = id;
        let hash = |parts: &[&[u8]]| checksum(Checksum::Superblock, parts);
        let bytes = encode_superblock(&superblock, &hash).unwrap();
        for name in ["super.0", "super.1", "super.2"] {
            self.write_file(name, &bytes);
        }
    }

    /// Offset of the first record's span in a pack.
    pub(crate) fn log_start(&self) -> u64 {
        4096
    }

    pub(crate) fn all_pack_bytes(&self) -> Vec<(PackId, Vec<u8>)> {
        let dir = self.path("packs");
        let mut all: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let id = path.file_stem().unwrap().to_str().unwrap();
                let id = PackId::from_raw(u64::from_str_radix(id, 16).unwrap());
                (id, std::fs::read(path).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    pub(crate) fn all_files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(dir: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                } else {
                    let bytes = std::fs::read(&path).unwrap();
                    found.push((path, bytes));
                }
            }
        }
        let mut found = vec![];
        walk(self.dir.path(), &mut found);
        found.sort();
        found
    }
}

/// Bytes that compress, another run for each seed.
pub(crate) fn text(seed: u64, len: u64) -> Vec<u8> {
    let len = usize::try_from(len).unwrap();
    let line = format!("line {seed} of a text that repeats itself; ");
    line.bytes().cycle().take(len).collect()
}

/// The number before the first record.
pub(crate) const NO_LSN: Lsn = Lsn::from_raw(0);
