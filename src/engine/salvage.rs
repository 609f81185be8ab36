//! Getting every intact byte out of a store that is too damaged to be opened.
//!
//! The store is only read: its packs through a disk that computes from parity what it can (`chunk::SalvageDisk`), its log
//! record by record (`chunk::salvage_log`), both into an index of its own, in memory or in a directory outside of
//! the store. What is not in it is looked for in the packs themselves, if anything of the log was passed over:
//!
//! 1. Each frame that verifies says which chunks it holds, so that a chunk whose row is lost is found nevertheless.
//! 2. Roots of snapshots are nodes, so that a snapshot is found by its seed although the log does not name it any more.
//!
//! Then the tree is restored as always, but that damaged files are written as far as they can be read, and every hole is
//! reported.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Engine;
use super::index::index_config;
use super::open::{Config, Lookup};
use super::snap::{
    Live, NodeCache, RestoreOptions, RestoreReport, Source, Tree, What, load_node, pick,
    restore_from, verify_tree,
};
use super::types::Progress;
use crate::base::limits::{MEMORY_MIN, NODES_CACHED_LEN, SALVAGE_ROOTS_MAX};
use crate::base::{ChunkId, Digest, Env, Error, PackId, PackOff, Result, Timestamp};
use crate::chunk::{
    ChunkLookup, ChunkStore, ParityPlace, ParityStore, SalvageDisk, SalvagedLog, Scanned,
    SkippedLog, StoreConfig, Watermark, checkpoints, load_checkpoint, load_superblock, salvage_log,
};
use crate::disk::{Disk, RealDisk, StoreLock, create_dirs, is_within, remove_tree};
use crate::format::frame::{FrameChunk, FrameKind};
use crate::format::keys;
use crate::format::node::{Body, Node};
use crate::format::rows::{ChunkRow, Op, SnapshotRow, Table};
use crate::format::superblock::Superblock;
use crate::hash::{RootRecord, Seed};
use crate::meta::{Index, MemoryTables, Rows, for_each_row};

/// How a store is salvaged.
#[derive(Clone, Debug, Default)]
pub struct SalvageOptions {
    /// The snapshot, by name, seed, content digest or short form; `None` for the live tree.
    pub snapshot: Option<String>,
    /// A directory that does not exist, for the index; it is removed at the end. `None` keeps the index in memory.
    pub scratch: Option<PathBuf>,
    /// Replace what has the name of something to be restored, unless it is a directory in place of a file.
    pub overwrite: bool,
}

/// What a salvage has brought out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SalvageReport {
    /// What was written, and what of it has holes.
    pub restored: RestoreReport,
    /// Parts of the log that could not be read: what was written to the store then may be missing.
    pub skipped: Vec<SkippedLog>,
    /// Number of further ones.
    pub skipped_more: u64,
    /// Checkpoints that could not be used, each with what is wrong.
    pub checkpoints: Vec<String>,
    /// The seed, if a snapshot was asked for and all of it came out as the seed says.
    pub verified: Option<String>,
}

impl SalvageReport {
    /// Whether everything came out.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let restored = &self.restored;
        let holes = !restored.damaged.is_empty() || restored.damaged_more > 0;
        let log = !self.skipped.is_empty() || self.skipped_more > 0;
        // A snapshot does not depend on the rest of the log.
        !holes && (self.verified.is_some() || !log)
    }
}

/// A directory that goes when it is not needed any more.
struct Scratch(Option<PathBuf>);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            // What is left of it is outside of the store.
            let _ = remove_tree(dir);
        }
    }
}

/// A store that is being salvaged.
struct Salvage {
    disk: Arc<dyn Disk>,
    superblock: Superblock,
    index: Arc<Index>,
    store: Arc<ChunkStore>,
    log: SalvagedLog,
    checkpoints: Vec<String>,
}

impl Engine {
    /// Writes what can be read of a snapshot, or of the live tree, to the plain directory `dest`, from a store that may be
    /// too damaged to be opened. Nothing in the store is written.
    ///
    /// Of damaged files what can be read is written, with holes for the rest; all holes are in the report. Of the live
    /// tree nothing vouches for what is absent: the report says which parts of the log could not be read.
    ///
    /// # Errors
    /// [`Error::Locked`] while a process uses the store; [`Error::NotAStore`] and [`Error::Superblock`] if no superblock
    /// is left; [`Error::SeedUnknown`] if nothing of the snapshot is found; [`Error::NoSpace`]; [`Error::Usage`] for a
    /// `dest` within the store.
    pub fn salvage(
        dir: &Path,
        env: &Env,
        config: &Config,
        options: &SalvageOptions,
        dest: &Path,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<SalvageReport> {
        for place in [Some(dest), options.scratch.as_deref()]
            .into_iter()
            .flatten()
        {
            if is_within(place, dir)? {
                return Err(Error::Usage(format!(
                    "{} is inside the store {}",
                    place.display(),
                    dir.display()
                )));
            }
        }
        let real: Arc<dyn Disk> = Arc::new(RealDisk::new(dir));
        let superblock = load_superblock(real.as_ref())?;
        let _lock = match StoreLock::take(dir) {
            Ok(lock) => Some(lock),
            // A medium that cannot be written to: nobody else writes to it either.
            Err(Error::Io { .. }) => None,
            Err(other) => return Err(other),
        };
        let scratch = Scratch(options.scratch.clone());
        let salvage = Salvage::open(real, superblock, env, config, scratch.0.as_deref())?;
        if !salvage.log.is_whole() || !salvage.checkpoints.is_empty() {
            salvage.find_chunks(options.snapshot.as_deref())?;
        }
        let report = salvage.restore(dir, options, dest, progress);
        drop(salvage);
        drop(scratch);
        report
    }
}

impl Salvage {
    fn open(
        real: Arc<dyn Disk>,
        superblock: Superblock,
        env: &Env,
        config: &Config,
        scratch: Option<&Path>,
    ) -> Result<Self> {
        let mut config = config.clone();
        config.memory = config.memory.max(MEMORY_MIN);
        let place = ParityPlace::within(Arc::clone(&real));
        let parity = ParityStore::open(Arc::clone(&real), place, superblock.store)?;
        let disk: Arc<dyn Disk> = SalvageDisk::new(real, Arc::new(parity));
        let mut troubles = Vec::new();
        let (index, log) = read_log(&disk, &superblock, &config, scratch, &mut troubles)?;
        let index = Arc::new(index);
        let store_config = StoreConfig {
            level: config.level,
            verify_writes: false,
            cache_len: usize::try_from(config.memory / 4).unwrap_or(usize::MAX),
            read_only: true,
            env: env.clone(),
            // The disk itself computes what is damaged.
            parity: None,
        };
        let lookup: Arc<dyn ChunkLookup> = Arc::new(Lookup(Arc::clone(&index)));
        let store = ChunkStore::open(
            Arc::clone(&disk),
            superblock.clone(),
            log.tail(),
            lookup,
            store_config,
        )?;
        Ok(Self {
            disk,
            superblock,
            index,
            store,
            log,
            checkpoints: troubles,
        })
    }

    /// Reads all packs for chunks that no row, or a row that leads nowhere, names; and for roots of snapshots.
    fn find_chunks(&self, snapshot: Option<&str>) -> Result<()> {
        let mut nodes = Vec::new();
        let packs = self.store.pack_sizes()?;
        for (pack, ..) in &packs {
            self.store.scan_frames(*pack, &mut |scanned| {
                let Scanned::Frame {
                    off,
                    len,
                    kind,
                    chunks,
                } = scanned
                else {
                    return Ok(());
                };
                if kind == FrameKind::Nodes && snapshot.is_some() {
                    nodes.extend(chunks.iter().map(|chunk| chunk.id));
                }
                self.take_frame((*pack, off, len), &chunks)
            })?;
        }
        match snapshot {
            Some(text) if pick(self.snapshots()?, text).is_err() => self.find_roots(&nodes),
            _ => Ok(()),
        }
    }

    /// Gives chunks of a frame that verifies their rows, unless they have better ones.
    fn take_frame(
        &self,
        (pack, frame, frame_len): (PackId, PackOff, u32),
        chunks: &[FrameChunk],
    ) -> Result<()> {
        let mut rows = Vec::new();
        let mut raw_off = 0_u32;
        for (idx, chunk) in chunks.iter().enumerate() {
            let row = ChunkRow {
                pack,
                frame,
                frame_len,
                idx: u16::try_from(idx).unwrap_or(u16::MAX),
                raw_off,
                len: chunk.len,
            };
            raw_off = raw_off.saturating_add(chunk.len);
            let key = keys::chunk(&chunk.id);
            let known = self.index.get(Table::Chunk, &key)?;
            let known = known.and_then(|known| ChunkRow::decode(&known).ok());
            let keep = match known {
                Some(known) if known == row => true,
                Some(known) => self.store.read_frame(&known).is_ok(),
                None => false,
            };
            if !keep {
                rows.push(Op::Put(Table::Chunk, key.to_vec(), row.encode()));
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.index.load(&rows)
    }

    fn snapshots(&self) -> Result<Vec<(String, SnapshotRow)>> {
        let mut rows = Vec::new();
        for_each_row(
            self.index.as_ref(),
            Table::Snapshot,
            &[],
            &[0xff; 4],
            &mut |key, value| {
                if let (Ok(name), Ok(row)) = (keys::parse_snapshot(key), SnapshotRow::decode(value))
                {
                    rows.push((name.to_owned(), row));
                }
                Ok(true)
            },
        )?;
        rows.sort_by_key(|(_, row)| row.generation);
        Ok(rows)
    }

    /// Makes rows of the roots among nodes.
    fn find_roots(&self, nodes: &[ChunkId]) -> Result<()> {
        let mut found = 0_usize;
        for id in nodes {
            let Ok((Node::Root(entry), _)) = load_node(&self.store, id) else {
                continue;
            };
            let Body::Dir(body) = &entry.body else {
                continue;
            };
            let record = RootRecord {
                content: entry.content,
                full: entry.full,
            };
            let row = SnapshotRow {
                seed: Digest::from_raw(*record.seed().as_bytes()),
                content: entry.content,
                root: *id,
                created: Timestamp::default(),
                generation: 0,
                entries: body.trie.entries,
                bytes: body.trie.bytes,
            };
            found += 1;
            let key = keys::snapshot(&format!("salvaged-{found}"));
            let op = Op::Put(Table::Snapshot, key, row.encode());
            self.index.load(&[op])?;
            if found >= SALVAGE_ROOTS_MAX {
                break;
            }
        }
        Ok(())
    }

    fn restore(
        &self,
        dir: &Path,
        options: &SalvageOptions,
        dest: &Path,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<SalvageReport> {
        let cache = NodeCache::new(NODES_CACHED_LEN as u64);
        let tree = Tree {
            store: &self.store,
            cache: &cache,
        };
        let mut wanted = None;
        let (source, entry) = match &options.snapshot {
            Some(text) => {
                let (name, row) = self.pick(text)?;
                let entry = tree.checked_root(&row)?;
                wanted = Some((name, row));
                (Source::Snapshot(tree), entry)
            }
            None => {
                let live = Live::new(&self.index, &self.store);
                let root = live.root()?;
                (Source::Live(live), root)
            }
        };
        let what = What {
            source,
            entry,
            base: Vec::new(),
            store: dir,
        };
        let how = RestoreOptions {
            overwrite: options.overwrite,
            salvage: true,
            ..RestoreOptions::default()
        };
        let mut report = SalvageReport {
            restored: restore_from(what, dest, &how, progress)?,
            skipped: self.log.skipped.clone(),
            skipped_more: self.log.skipped_more,
            checkpoints: self.checkpoints.clone(),
            verified: None,
        };
        let whole = report.restored.damaged.is_empty() && report.restored.damaged_more == 0;
        if let Some((name, row)) = wanted
            && whole
            && verify_tree(&self.store, &name, &row, &|_| ())?
                .problems
                .is_empty()
        {
            report.verified = Some(Seed::from_raw(*row.seed.as_bytes()).to_string());
        }
        Ok(report)
    }

    /// The snapshot that is meant. If the log does not name it, it may still be in the packs.
    fn pick(&self, text: &str) -> Result<(String, SnapshotRow)> {
        match pick(self.snapshots()?, text) {
            Err(Error::SeedUnknown(_)) => {}
            other => return other,
        }
        self.find_chunks(Some(text))?;
        pick(self.snapshots()?, text)
    }
}

impl std::fmt::Debug for Salvage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.disk.path("");
        write!(
            f,
            "Salvage({}, {:?})",
            path.display(),
            self.superblock.store
        )
    }
}

/// Makes an index of the newest checkpoint that verifies and of every record that does.
fn read_log(
    disk: &Arc<dyn Disk>,
    superblock: &Superblock,
    config: &Config,
    scratch: Option<&Path>,
    troubles: &mut Vec<String>,
) -> Result<(Index, SalvagedLog)> {
    let empty = || match scratch {
        Some(dir) => {
            remove_tree(dir)?;
            create_dirs(dir)?;
            Index::open(dir, &index_config(config))
        }
        None => Index::in_memory(MemoryTables::default()),
    };
    let mut base: Option<(Index, Watermark)> = None;
    for name in checkpoints(disk.as_ref())
        .unwrap_or_default()
        .into_iter()
        .rev()
    {
        let index = empty()?;
        let mut put = |rows: Vec<Op>| index.load(&rows);
        match load_checkpoint(disk.as_ref(), superblock, name, &mut put) {
            Ok(mark) => {
                index.loaded(&mark.encode())?;
                base = Some((index, mark));
                break;
            }
            Err(error @ (Error::Index { .. } | Error::NoSpace)) => return Err(error),
            Err(error) => troubles.push(error.to_string()),
        }
    }
    let (index, mark) = match base {
        Some((index, mark)) => (index, Some(mark)),
        None => (empty()?, None),
    };
    let mut each = |ops: Vec<Op>, mark: Watermark| index.apply(&ops, &mark.encode());
    let log = salvage_log(disk.as_ref(), superblock, mark, &mut each)?;
    Ok((index, log))
}
