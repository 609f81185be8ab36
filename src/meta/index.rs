//! The index in RocksDB: one column family per table, no write-ahead log, all flushed together.
//!
//! RocksDB's own log is off because the packs are the log. `atomic_flush` makes all column families
//! durable together, and each batch carries the watermark that says up to where the log is in it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, ErrorKind, FlushOptions, LruCacheOptions, Options, ReadOptions, SliceTransform,
    WriteBatch, WriteOptions,
};

use super::memory::{Contents, Edit, MemoryTables};
use super::{Row, Rows};
use crate::base::limits::SEGMENT_LEN;
use crate::base::{Error, FileOff, Ino, Result};
use crate::format::keys;
use crate::format::rows::{DirtyKey, Op, Table};

const WATERMARK: &[u8] = b"watermark";

/// Segment index of a dirty row that stands for all segments of a file.
pub const SEGMENT_ALL: u64 = FileOff::MAX.raw() / SEGMENT_LEN;

/// How to open an index.
#[derive(Clone, Copy, Debug)]
pub struct IndexConfig {
    /// Bytes of RocksDB's block cache; indexes and filters live in it too.
    pub cache_len: usize,
    /// Bytes of all write buffers together.
    pub write_buffer_len: usize,
    /// Open files of RocksDB.
    pub open_files_max: i32,
}

/// Where the rows are.
enum Tables {
    Rocks(DB),
    Memory(MemoryTables),
}

/// Changes on their way into the tables.
enum Batch {
    Rocks(WriteBatch),
    Memory(Vec<Edit>),
}

/// The index of one open store.
pub struct Index {
    db: Tables,
    /// The snapshot generation that dirty rows are derived under; changed only by `apply`.
    generation: Mutex<u64>,
    /// A commit could not be applied: a later one would carry the watermark past it.
    behind: AtomicBool,
}

fn fail(op: &'static str) -> impl Fn(rocksdb::Error) -> Error {
    move |e| Error::Index {
        op,
        detail: e.into_string(),
    }
}

/// What the operating system says when the index is not to blame: RocksDB passes on the words of strerror(3),
/// also within what it calls a corruption.
const NOT_THE_INDEX: [&str; 14] = [
    "lock hold by current process",
    "Resource temporarily unavailable",
    "No locks available",
    "Permission denied",
    "Operation not permitted",
    "Read-only file system",
    "No space left on device",
    "Disk quota exceeded",
    "Input/output error",
    "Too many open files",
    "Cannot allocate memory",
    "Stale file handle",
    "Structure needs cleaning",
    "Connection timed out",
];

/// Tells an index that has to be made anew from one that cannot be opened just now.
fn unusable(op: &'static str) -> impl Fn(rocksdb::Error) -> Error {
    move |error| {
        let kind = error.kind();
        let detail = error.into_string();
        if blames_index(&kind, &detail) {
            Error::IndexDamaged { op, detail }
        } else {
            Error::Index { op, detail }
        }
    }
}

fn blames_index(kind: &ErrorKind, detail: &str) -> bool {
    let outside = NOT_THE_INDEX.iter().any(|words| detail.contains(words));
    let damaged = match kind {
        ErrorKind::Corruption
        | ErrorKind::NotFound
        | ErrorKind::NotSupported
        | ErrorKind::InvalidArgument => true,
        // One of its files is gone.
        ErrorKind::IOError => detail.contains("No such file or directory"),
        _ => false,
    };
    damaged && !outside
}

impl Index {
    /// Opens the index at `path`, creating an empty one if there is none.
    ///
    /// # Errors
    /// [`Error::IndexDamaged`] if it is damaged, incomplete or not one that this program makes: a new one must be made.
    /// [`Error::Index`] if it may well be good but cannot be opened: it is in use, a permission is missing, the
    /// disk fails or is full.
    pub fn open(path: &Path, config: &IndexConfig) -> Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_db_write_buffer_size(config.write_buffer_len);
        options.set_max_open_files(config.open_files_max);
        // By default 16 threads are started for each table, whatever it holds.
        options.set_max_file_opening_threads(1);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_log_level(rocksdb::LogLevel::Warn);
        options.set_max_background_jobs(2);
        options.set_paranoid_checks(true);
        // Few shards: a block that is larger than a shard is never cached and would be read for each lookup.
        let mut how = LruCacheOptions::default();
        how.set_capacity(config.cache_len);
        how.set_num_shard_bits(2);
        let cache = Cache::new_lru_cache_opts(&how);
        let families = Table::ALL
            .iter()
            .map(|t| ColumnFamilyDescriptor::new(t.name(), table_options(*t, &cache, config)));
        let db = DB::open_cf_descriptors(&options, path, families).map_err(unusable("open"))?;
        Self::over(Tables::Rocks(db))
    }

    /// An index over tables in memory: as fast as it gets, and as durable.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn in_memory(tables: MemoryTables) -> Result<Self> {
        Self::over(Tables::Memory(tables))
    }

    fn over(db: Tables) -> Result<Self> {
        let index = Self {
            db,
            generation: Mutex::new(0),
            behind: AtomicBool::new(false),
        };
        let key = keys::counter(keys::COUNTER_GENERATION);
        let generation = match &index.db {
            Tables::Rocks(db) => db
                .get_cf(index.cf(Table::Counter)?, &key)
                .map_err(unusable("get generation"))?,
            Tables::Memory(tables) => tables.contents().get(Table::Counter, &key),
        };
        let generation = generation.and_then(|v| read_u64(&v)).unwrap_or(0);
        *index.generation.lock() = generation;
        Ok(index)
    }

    /// The watermark as `apply` was last given it; `None` in a new index.
    ///
    /// # Errors
    /// As [`Index::open`].
    pub fn watermark(&self) -> Result<Option<Vec<u8>>> {
        match &self.db {
            Tables::Rocks(db) => db.get(WATERMARK).map_err(unusable("get watermark")),
            Tables::Memory(tables) => Ok(tables.contents().watermark()),
        }
    }

    /// Applies the operations of one commit and the watermark that they reach, in one batch.
    ///
    /// Derives the dirty rows: those of this batch belong to the generation before any change of the
    /// generation counter within it.
    ///
    /// # Errors
    /// [`Error::Index`] if RocksDB fails, [`Error::Malformed`] for a key of no table's shape.
    pub fn apply(&self, ops: &[Op], watermark: &[u8]) -> Result<()> {
        self.check_current()?;
        let applied = self.apply_batch(ops, watermark);
        if applied.is_err() {
            self.behind.store(true, Ordering::Release);
        }
        applied
    }

    /// Fails once a commit could not be applied: only opening the index anew, with a replay of the log, mends
    /// that. RocksDB itself may accept writes again when its disk has room again.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn check_current(&self) -> Result<()> {
        if self.behind.load(Ordering::Acquire) {
            return Err(Error::Index {
                op: "write",
                detail: "an earlier commit is missing".into(),
            });
        }
        Ok(())
    }

    fn apply_batch(&self, ops: &[Op], watermark: &[u8]) -> Result<()> {
        let mut generation = self.generation.lock();
        let mut batch = self.batch();
        let mut next_generation = *generation;
        let generation_key = keys::counter(keys::COUNTER_GENERATION);
        // What this batch has put so far, for ranges that are deleted later in it.
        let mut put: BTreeSet<(Table, &[u8])> = BTreeSet::new();
        for op in ops {
            let (table, key) = match op {
                Op::Put(table, key, value) => {
                    if *table == Table::Counter && key.as_slice() == generation_key.as_slice() {
                        next_generation = read_u64(value).unwrap_or(next_generation);
                    }
                    if matches!(table, Table::Extent | Table::Xattr) {
                        put.insert((*table, key));
                    }
                    self.put(&mut batch, *table, key, value)?;
                    (*table, key)
                }
                Op::Del(table, key) => {
                    self.del(&mut batch, *table, key)?;
                    (*table, key)
                }
                Op::DelRange(table, from, to) => {
                    self.del_range(&mut batch, *table, from, to, &put)?;
                    if *table == Table::Extent {
                        // Any segment may have changed: the last possible index stands for all of them.
                        let dirty = DirtyKey::Segment(ino_of(from)?, SEGMENT_ALL);
                        self.mark(&mut batch, *generation, dirty)?;
                    }
                    continue;
                }
            };
            if let Some(dirty) = keys::dirty_of(table, key)? {
                self.mark(&mut batch, *generation, dirty)?;
            }
        }
        self.write(batch, Some(watermark))?;
        *generation = next_generation;
        Ok(())
    }

    fn batch(&self) -> Batch {
        match &self.db {
            Tables::Rocks(_) => Batch::Rocks(WriteBatch::default()),
            Tables::Memory(_) => Batch::Memory(Vec::new()),
        }
    }

    /// Notes that a snapshot must look at something again.
    fn mark(&self, batch: &mut Batch, generation: u64, dirty: DirtyKey) -> Result<()> {
        self.put(batch, Table::Dirty, &keys::dirty(generation, dirty), &[])
    }

    fn put(&self, batch: &mut Batch, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        match batch {
            Batch::Rocks(batch) => batch.put_cf(self.cf(table)?, key, value),
            Batch::Memory(edits) => edits.push(Edit::Put(table, key.to_vec(), value.to_vec())),
        }
        Ok(())
    }

    fn del(&self, batch: &mut Batch, table: Table, key: &[u8]) -> Result<()> {
        match batch {
            Batch::Rocks(batch) => batch.delete_cf(self.cf(table)?, key),
            Batch::Memory(edits) => edits.push(Edit::Del(table, key.to_vec())),
        }
        Ok(())
    }

    /// Writes all changes at once, and the watermark with them if one is given.
    fn write(&self, batch: Batch, watermark: Option<&[u8]>) -> Result<()> {
        match (batch, &self.db) {
            (Batch::Rocks(mut batch), Tables::Rocks(db)) => {
                if let Some(watermark) = watermark {
                    batch.put(WATERMARK, watermark);
                }
                let mut how = WriteOptions::default();
                how.disable_wal(true);
                db.write_opt(batch, &how).map_err(fail("write"))
            }
            (Batch::Memory(edits), Tables::Memory(tables)) => {
                tables.write(edits, watermark);
                Ok(())
            }
            _ => Err(Error::Internal("a batch of another index")),
        }
    }

    /// Deletes a range key by key: RocksDB's range tombstones make every later read of the table slower, so
    /// they are kept for ranges that are too large to list.
    fn del_range(
        &self,
        batch: &mut Batch,
        table: Table,
        from: &[u8],
        to: &[u8],
        put: &BTreeSet<(Table, &[u8])>,
    ) -> Result<()> {
        const LISTED_MAX: usize = 16_384;
        let rows = self.scan(table, from, to, LISTED_MAX)?;
        if rows.len() == LISTED_MAX {
            match batch {
                Batch::Rocks(batch) => batch.delete_range_cf(self.cf(table)?, from, to),
                Batch::Memory(edits) => {
                    edits.push(Edit::DelRange(table, from.to_vec(), to.to_vec()));
                }
            }
            return Ok(());
        }
        for (key, _) in rows {
            self.del(batch, table, &key)?;
        }
        for (_, key) in put.range((table, from)..(table, to)) {
            self.del(batch, table, key)?;
        }
        Ok(())
    }

    /// The snapshot generation that changes are currently recorded under.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.generation.lock()
    }

    /// The operation that makes `generation` the current one from the next commit on.
    #[must_use]
    pub fn set_generation_op(generation: u64) -> Op {
        Op::Put(
            Table::Counter,
            keys::counter(keys::COUNTER_GENERATION),
            generation.to_le_bytes().to_vec(),
        )
    }

    /// Writes everything that was applied to disk; reopening then replays nothing.
    ///
    /// # Errors
    /// [`Error::Index`] if RocksDB fails.
    pub fn flush(&self) -> Result<()> {
        let Tables::Rocks(db) = &self.db else {
            return Ok(());
        };
        let mut families = vec![];
        for table in Table::ALL {
            families.push(self.cf(table)?);
        }
        let default = db.cf_handle("default").ok_or(Error::Index {
            op: "flush",
            detail: "no default column family".into(),
        })?;
        families.push(default);
        let mut how = FlushOptions::default();
        how.set_wait(true);
        db.flush_cfs_opt(&families, &how).map_err(fail("flush"))
    }

    /// A view of the index as it is now, whatever is applied later.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            index: self,
            frozen: match &self.db {
                Tables::Rocks(db) => Frozen::Rocks(db.snapshot()),
                Tables::Memory(tables) => Frozen::Memory(tables.contents()),
            },
        }
    }

    /// An estimate of the number of rows of a table.
    #[must_use]
    pub fn estimate_rows(&self, table: Table) -> u64 {
        match &self.db {
            Tables::Rocks(db) => self
                .cf(table)
                .ok()
                .and_then(|cf| {
                    db.property_int_value_cf(cf, "rocksdb.estimate-num-keys")
                        .ok()
                        .flatten()
                })
                .unwrap_or(0),
            Tables::Memory(tables) => tables.contents().rows_of(table),
        }
    }

    /// Deletes the index at `path`, which must not be open.
    ///
    /// # Errors
    /// [`Error::Index`] if RocksDB cannot delete it.
    pub fn destroy(path: &Path) -> Result<()> {
        DB::destroy(&Options::default(), path).map_err(fail("destroy"))
    }

    /// Whether the index at `path` is empty of everything, watermark included.
    ///
    /// # Errors
    /// [`Error::Index`] if RocksDB fails.
    pub fn is_empty(&self) -> Result<bool> {
        let none = self.scan(Table::Inode, &[], &[0xff; 9], 1)?.is_empty();
        Ok(self.watermark()?.is_none() && none)
    }

    fn cf(&self, table: Table) -> Result<&rocksdb::ColumnFamily> {
        let family = match &self.db {
            Tables::Rocks(db) => db.cf_handle(table.name()),
            Tables::Memory(_) => None,
        };
        family.ok_or_else(|| Error::Index {
            op: "column family",
            detail: table.name().into(),
        })
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Index")
    }
}

fn table_options(table: Table, cache: &Cache, config: &IndexConfig) -> Options {
    let mut block = BlockBasedOptions::default();
    block.set_block_cache(cache);
    block.set_block_size(16 << 10);
    block.set_format_version(6);
    // Filters and indexes are charged to the block cache, so that memory is bounded (I7).
    block.set_cache_index_and_filter_blocks(true);
    block.set_cache_index_and_filter_blocks_with_high_priority(true);
    block.set_bloom_filter(10.0, false);
    // Filters and indexes in parts, so that those of a table larger than the cache are read as they are needed.
    block.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    block.set_partition_filters(true);
    block.set_metadata_block_size(4 << 10);
    block.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&block);
    options.set_write_buffer_size((config.write_buffer_len / 2).max(1 << 20));
    options.set_level_compaction_dynamic_level_bytes(true);
    // Chunk ids are random bytes; everything else is structured.
    options.set_compression_type(match table {
        Table::Chunk => DBCompressionType::None,
        _ => DBCompressionType::Lz4,
    });
    if matches!(
        table,
        Table::Dirent | Table::Link | Table::Extent | Table::Xattr
    ) {
        options.set_prefix_extractor(SliceTransform::create_fixed_prefix(8));
    }
    options
}

/// The inode that the keys of a range belong to.
fn ino_of(key: &[u8]) -> Result<Ino> {
    match key.first_chunk::<8>() {
        Some(prefix) => Ok(Ino::from_raw(u64::from_be_bytes(*prefix))),
        None => Err(Error::Malformed {
            what: "extent range",
            detail: "no inode",
        }),
    }
}

fn read_u64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

fn scan_page(mut it: DBRawIterator<'_>, from: &[u8], limit: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    it.seek(from);
    while rows.len() < limit {
        match it.item() {
            Some((key, value)) => rows.push((key.to_vec(), value.to_vec())),
            None => break,
        }
        it.next();
    }
    it.status().map_err(fail("scan"))?;
    Ok(rows)
}

fn seek_back(mut it: DBRawIterator<'_>, at: &[u8]) -> Result<Option<Row>> {
    it.seek_for_prev(at);
    let row = it.item().map(|(key, value)| (key.to_vec(), value.to_vec()));
    it.status().map_err(fail("seek"))?;
    Ok(row)
}

fn bounded(from: &[u8], to: &[u8]) -> ReadOptions {
    let mut how = ReadOptions::default();
    // Keys of one table may have several prefixes within a range, so the prefix filter must not hide any.
    how.set_total_order_seek(true);
    how.set_iterate_lower_bound(from);
    how.set_iterate_upper_bound(to);
    how
}

fn after(at: &[u8]) -> Vec<u8> {
    let mut next = at.to_vec();
    next.push(0);
    next
}

impl Rows for Index {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match &self.db {
            Tables::Rocks(db) => db.get_cf(self.cf(table)?, key).map_err(fail("get")),
            Tables::Memory(tables) => Ok(tables.contents().get(table, key)),
        }
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>> {
        match &self.db {
            Tables::Rocks(db) => {
                let it = db.raw_iterator_cf_opt(self.cf(table)?, bounded(from, to));
                scan_page(it, from, limit)
            }
            Tables::Memory(tables) => Ok(tables.contents().scan(table, from, to, limit)),
        }
    }

    fn last_at(&self, table: Table, from: &[u8], at: &[u8]) -> Result<Option<Row>> {
        match &self.db {
            Tables::Rocks(db) => {
                let it = db.raw_iterator_cf_opt(self.cf(table)?, bounded(from, &after(at)));
                seek_back(it, at)
            }
            Tables::Memory(tables) => Ok(tables.contents().last_at(table, from, at)),
        }
    }
}

impl Index {
    /// Puts rows as they are, for an index that is made from a checkpoint: no dirty rows are derived, and there
    /// is no watermark until [`Index::loaded`].
    ///
    /// # Errors
    /// [`Error::Index`] if RocksDB fails; [`Error::Internal`] for an operation that is no put.
    pub fn load(&self, rows: &[Op]) -> Result<()> {
        let mut batch = self.batch();
        for row in rows {
            let Op::Put(table, key, value) = row else {
                return Err(Error::Internal("a row that is no put"));
            };
            self.put(&mut batch, *table, key, value)?;
        }
        self.write(batch, None)
    }

    /// Ends the loading of a checkpoint: from here on the index is that of `watermark`.
    ///
    /// # Errors
    /// [`Error::Index`] if RocksDB fails.
    pub fn loaded(&self, watermark: &[u8]) -> Result<()> {
        let counter = self.get(Table::Counter, &keys::counter(keys::COUNTER_GENERATION))?;
        *self.generation.lock() = counter.and_then(|v| read_u64(&v)).unwrap_or(0);
        self.apply_batch(&[], watermark)
    }
}

impl View<'_> {
    /// The watermark that belongs to the view; `None` in a new index.
    ///
    /// # Errors
    /// [`Error::Index`] if RocksDB fails.
    pub fn watermark(&self) -> Result<Option<Vec<u8>>> {
        match &self.frozen {
            Frozen::Rocks(db) => db.get(WATERMARK).map_err(fail("get watermark")),
            Frozen::Memory(contents) => Ok(contents.watermark()),
        }
    }
}

/// What a view reads.
enum Frozen<'a> {
    Rocks(rocksdb::Snapshot<'a>),
    Memory(Arc<Contents>),
}

/// The index as it was at one moment.
pub struct View<'a> {
    index: &'a Index,
    frozen: Frozen<'a>,
}

impl Rows for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match &self.frozen {
            Frozen::Rocks(db) => db.get_cf(self.index.cf(table)?, key).map_err(fail("get")),
            Frozen::Memory(contents) => Ok(contents.get(table, key)),
        }
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>> {
        match &self.frozen {
            Frozen::Rocks(db) => {
                let it = db.raw_iterator_cf_opt(self.index.cf(table)?, bounded(from, to));
                scan_page(it, from, limit)
            }
            Frozen::Memory(contents) => Ok(contents.scan(table, from, to, limit)),
        }
    }

    fn last_at(&self, table: Table, from: &[u8], at: &[u8]) -> Result<Option<Row>> {
        match &self.frozen {
            Frozen::Rocks(db) => {
                let it = db.raw_iterator_cf_opt(self.index.cf(table)?, bounded(from, &after(at)));
                seek_back(it, at)
            }
            Frozen::Memory(contents) => Ok(contents.last_at(table, from, at)),
        }
    }
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("View")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bug: whatever kept the index from being opened, it was deleted and made anew.
    #[test]
    fn only_damage_and_missing_files_blame_the_index() {
        for (kind, detail, blamed) in [
            (
                ErrorKind::Corruption,
                "Corruption: CURRENT file corrupted",
                true,
            ),
            (
                ErrorKind::IOError,
                "IO error: No such file or directory: While open a file for random read: index/000012.sst",
                true,
            ),
            (
                ErrorKind::InvalidArgument,
                "Invalid argument: Column families not opened: later",
                true,
            ),
            (
                ErrorKind::IOError,
                "IO error: lock hold by current process, acquire time 1: index/LOCK: No locks available",
                false,
            ),
            (
                ErrorKind::IOError,
                "IO error: While lock file: index/LOCK: Resource temporarily unavailable",
                false,
            ),
            (
                ErrorKind::Corruption,
                "Corruption: Can't access /000012.sst: IO error: While open: index/000012.sst: Permission denied",
                false,
            ),
            (
                ErrorKind::IOError,
                "IO error: No space left on device: While appending to file: index/MANIFEST-000001",
                false,
            ),
            (
                ErrorKind::IOError,
                "IO error: While pread offset 0 len 53: index/000012.sst: Input/output error",
                false,
            ),
            (ErrorKind::Aborted, "Operation aborted", false),
        ] {
            assert_eq!(blames_index(&kind, detail), blamed, "{detail}");
        }
    }

    /// Bug: after a commit that was in the log but could not be applied, the next one was, with a watermark
    /// beyond the missing one: no replay ever brought its rows.
    #[test]
    fn after_a_commit_that_could_not_be_applied_no_later_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let config = IndexConfig {
            cache_len: 1 << 20,
            write_buffer_len: 1 << 20,
            open_files_max: 64,
        };
        let index = Index::open(dir.path(), &config).unwrap();
        let bad = Op::Put(Table::Inode, vec![1], Vec::new());
        index.apply(&[bad], b"one").unwrap_err();
        index.apply(&[], b"two").unwrap_err();
        assert_eq!(index.watermark().unwrap(), None);
    }
}
