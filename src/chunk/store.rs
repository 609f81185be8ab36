//! The chunk store: puts a commit's chunks, makes it durable, gives chunks back verified.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, RwLock};

use super::batch::{Batch, PackedFrame, RawFrame, Turn, compress_frames, hash_pieces};
use super::checkpoint::first_needed;
use super::files::{PackFiles, pack_name};
use super::heal::Healer;
use super::live::LiveSet;
use super::read::Reader;
use super::replay::{LogTail, sealed_at};
use super::scan::{Claim, ScanReport, Scanned, scan};
use super::types::{ChunkBytes, ChunkLookup, Committed, Durable, PackInfo, PutKind, StoreConfig};
use super::writer::{Writer, create_store};
use crate::base::limits::{INLINE_FRAMES_LEN_MAX, LOOKUPS_MAX, PUT_SLICE_LEN};
use crate::base::{ByteLen, ChunkId, Error, PackId, PackOff, Result, Site, Verified};
use crate::codec::Codec;
use crate::disk::Disk;
use crate::format::rows::{ChunkRow, Op, PackKind, PackRow};
use crate::format::superblock::Superblock;

/// The chunks of a store and its log.
///
/// Reads run in parallel with one another and with the one batch. Locks: `writer` guards the open packs and
/// is held across their disk waits; it is taken first and readers never take it.
pub struct ChunkStore {
    pub(super) superblock: Superblock,
    pub(super) files: Arc<PackFiles>,
    pub(super) lookup: Arc<dyn ChunkLookup>,
    pub(super) config: StoreConfig,
    pub(super) reader: Reader,
    pub(super) writer: Mutex<Writer>,
    /// While cleaning is under way: what every commit names joins this set. A leaf lock.
    pub(super) pins: RwLock<Option<Arc<LiveSet>>>,
    /// Length of all packs that are not written to. A leaf lock.
    pub(super) closed_len: Mutex<ClosedLen>,
    turn: Arc<AtomicBool>,
    pub(super) tail: LogTail,
}

/// What is known of the packs that are not written to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClosedLen {
    /// Counts the changes of which the number of the next pack says nothing.
    changes: u64,
    /// Their length in bytes, as long as the next pack has this number.
    known: Option<(PackId, u64)>,
}

impl ClosedLen {
    /// Notes that packs have gone, or are not written to any more.
    pub(super) fn forget(&mut self) {
        self.changes += 1;
        self.known = None;
    }
}

impl ChunkStore {
    /// Makes an empty directory a store: the directory of packs and the superblock.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`].
    pub fn create(disk: &Arc<dyn Disk>, superblock: &Superblock) -> Result<()> {
        create_store(disk, superblock)
    }

    /// Opens a store whose log has been replayed; writes nothing.
    ///
    /// # Errors
    /// [`Error::PackMissing`] for a LOG pack newer than all that are there. For writing also that or
    /// [`Error::PackTruncated`] for an older LOG pack and for a DATA pack that the replayed part
    /// of the log names, [`Error::VersionTooNew`] or [`Error::UnknownFeatures`]. [`Error::Io`].
    pub fn open(
        disk: Arc<dyn Disk>,
        superblock: Superblock,
        tail: LogTail,
        lookup: Arc<dyn ChunkLookup>,
        config: StoreConfig,
    ) -> Result<Arc<Self>> {
        let files = Arc::new(PackFiles::new(disk)?);
        let healer = Healer::new(config.parity.clone(), config.read_only);
        let reader = Reader::new(
            superblock.store,
            Arc::clone(&files),
            config.cache_len,
            healer,
        );
        let writer = Writer::new(
            Arc::clone(&files),
            superblock.clone(),
            &tail,
            config.env.clone(),
            config.level,
        );
        let store = Self {
            superblock,
            files,
            lookup,
            config,
            reader,
            writer: Mutex::new(writer),
            pins: RwLock::new(None),
            closed_len: Mutex::default(),
            turn: Arc::default(),
            tail,
        };
        store.check_unnamed()?;
        if !store.config.read_only {
            store.superblock.check_writable()?;
            if let Some(&id) = store.tail.missing.first() {
                return Err(Error::PackMissing {
                    path: store.files.path(id),
                });
            }
            let logs = store.tail.limits.iter().map(|(id, limit)| {
                let len = ByteLen::from_raw(limit.raw());
                (*id, PackRow::log(len))
            });
            store.check_packs(logs)?;
            store.check_packs(store.tail.rows.iter().map(|(id, row)| (*id, *row)))?;
        }
        Ok(Arc::new(store))
    }

    /// Fails if a LOG pack is missing that is newer than all that are there: commits are lost.
    fn check_unnamed(&self) -> Result<()> {
        for range in &self.tail.unnamed {
            let mut id = range.start;
            // Ends at the first that the index does not know: it is not longer than the table of packs.
            while id < range.end {
                let row = self.lookup.pack(id)?;
                if row.is_none_or(|row| row.kind != PackKind::Data) {
                    let path = self.files.disk().path(&pack_name(id, PackKind::Log));
                    return Err(Error::PackMissing { path });
                }
                id = id.next();
            }
        }
        Ok(())
    }

    /// Begins a commit. `inline` asks for its frames to go into the LOG pack itself, so that one sync
    /// suffices; should they become more than [`INLINE_FRAMES_LEN_MAX`] bytes, they go to DATA packs after all.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::Internal`] if another batch is open.
    pub fn begin(&self, inline: bool) -> Result<Batch> {
        if self.config.read_only {
            return Err(Error::ReadOnly("the store was opened read-only"));
        }
        let turn = Turn::take(&self.turn)?;
        self.writer.lock().begin();
        Ok(Batch::new(inline, turn))
    }

    /// Stores pieces that the store does not have yet and returns their ids, in order.
    ///
    /// A piece has 1 byte to 1 MiB (a node: 2 MiB). What is returned can be read only once
    /// [`ChunkStore::finish`] has returned and the rows are in the index. A chunk whose frame is damaged is stored again,
    /// so that writing the same content heals every file that shares it: the frame is read, once while the store is open.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`], those of the index. The batch can then only be dropped.
    pub fn put(&self, batch: &mut Batch, kind: PutKind, pieces: &[&[u8]]) -> Result<Vec<ChunkId>> {
        if batch.failed || !batch.is_of(&self.turn) {
            return Err(Error::Internal("a put into a batch that has failed"));
        }
        let mut ids = Vec::with_capacity(pieces.len());
        let done = self.put_slices(batch, kind, pieces, &mut ids);
        batch.failed |= done.is_err();
        done.map(|()| ids)
    }

    fn put_slices(
        &self,
        batch: &mut Batch,
        kind: PutKind,
        pieces: &[&[u8]],
        ids: &mut Vec<ChunkId>,
    ) -> Result<()> {
        let known = |id: &ChunkId| self.lookup.chunk(id);
        let mut rest = pieces;
        while !rest.is_empty() {
            let mut len = 0_usize;
            let fitting = rest.iter().take_while(|piece| {
                let first = len == 0;
                len = len.saturating_add(piece.len());
                first || len <= PUT_SLICE_LEN
            });
            let (now, later) = rest
                .split_at_checked(fitting.count())
                .unwrap_or((rest, &[]));
            let mut hashed = hash_pieces(kind, now, &known)?;
            self.reader.keep_whole(&mut hashed);
            let first = ids.len();
            ids.extend(hashed.iter().map(|piece| piece.id));
            // A deduplication hit counts as a reference from now on.
            self.pin_ids(ids.get(first..).unwrap_or_default());
            let full = batch.add(kind, &hashed);
            self.store_frames(batch, full)?;
            rest = later;
        }
        Ok(())
    }

    fn store_frames(&self, batch: &mut Batch, frames: Vec<RawFrame>) -> Result<()> {
        let frames = compress_frames(frames, self.config.level, self.config.verify_writes)?;
        for frame in frames {
            batch.staged_len = batch.staged_len.saturating_add(frame.total_len());
            batch.staged.push(frame);
        }
        if batch.inline && batch.staged_len <= INLINE_FRAMES_LEN_MAX {
            return Ok(());
        }
        batch.inline = false;
        batch.staged_len = 0;
        let staged = std::mem::take(&mut batch.staged);
        self.append_frames(batch, staged)
    }

    /// Appends frames to DATA packs.
    pub(super) fn append_frames(&self, batch: &mut Batch, frames: Vec<PackedFrame>) -> Result<()> {
        let mut writer = self.writer.lock();
        for frame in frames {
            match writer.append_data(&frame) {
                Ok(rows) => batch.rows.extend(rows),
                Err(error) => {
                    writer.give_up();
                    self.closed_len.lock().forget();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Makes a batch and `ops` durable, as one commit: all of it survives a crash or nothing.
    ///
    /// Syncs the DATA packs it uses, appends its records and syncs the LOG pack once.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`]: the commit has not happened (though after a crash right now it may turn
    /// out to have); the packs concerned are not written again, and the next commit starts new ones.
    pub fn finish(&self, mut batch: Batch, ops: Vec<Op>) -> Result<Durable<Committed>> {
        if batch.failed || !batch.is_of(&self.turn) {
            return Err(Error::Internal("a batch that has failed is finished"));
        }
        self.pin_ops(&ops)?;
        let open = batch.close();
        self.store_frames(&mut batch, open)?;
        let mut writer = self.writer.lock();
        let done = writer.commit(&mut batch, ops);
        if done.is_err() {
            writer.give_up();
            self.closed_len.lock().forget();
        }
        done
    }

    /// The bytes of a chunk or node (I3).
    ///
    /// Costs a lookup, and on a miss of the cache one read; concurrent readers of a frame decode it once. A frame that the
    /// disk does not give any more is computed from parity, if it can be.
    ///
    /// # Errors
    /// [`Error::ChunkUnknown`], [`Error::Corrupt`], [`Error::PackMissing`], [`Error::PackTruncated`], [`Error::Io`];
    /// the frame is then known to be damaged.
    pub fn get(&self, id: &ChunkId) -> Result<Verified<ChunkBytes>> {
        let unknown = || Error::ChunkUnknown(id.to_hex());
        let row = self.lookup.chunk(id)?.ok_or_else(unknown)?;
        self.get_near(id, row)
    }

    /// As [`ChunkStore::get`], for who has looked its row up before: it need not be the current one.
    ///
    /// # Errors
    /// As [`ChunkStore::get`].
    pub fn get_near(&self, id: &ChunkId, mut row: ChunkRow) -> Result<Verified<ChunkBytes>> {
        let mut tries = 1;
        loop {
            let is_current = || Ok(self.lookup.chunk(id)? == Some(row));
            let error = match self.reader.chunk(id, &row, &is_current) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            // Cleaning may have moved it, and removed its pack, since the index was asked.
            match self.lookup.chunk(id)? {
                Some(now) if now != row && tries < LOOKUPS_MAX => row = now,
                _ => {
                    let key = (row.pack, row.frame);
                    self.reader.healer.note_damage(key, row.frame_len);
                    return Err(error);
                }
            }
            tries += 1;
        }
    }

    /// As [`ChunkStore::get`], with a row that the caller has, and without parity: for who looks for damage.
    ///
    /// # Errors
    /// As [`ChunkStore::get`].
    pub fn get_at(&self, id: &ChunkId, row: &ChunkRow) -> Result<Verified<ChunkBytes>> {
        let read = self.reader.chunk_on_disk(id, row);
        if read.is_err() {
            self.note_damaged(row);
        }
        read
    }

    /// Notes that the frame of a chunk does not verify on the disk: deduplication does not rely on it.
    pub fn note_damaged(&self, row: &ChunkRow) {
        let key = (row.pack, row.frame);
        self.reader.healer.note_damage(key, row.frame_len);
    }

    /// Decodes chunks that will be asked for soon, in the background; a hint that may be ignored.
    pub fn prefetch(self: &Arc<Self>, ids: Vec<ChunkId>) {
        let mut last = None;
        for id in ids {
            let Ok(Some(row)) = self.lookup.chunk(&id) else {
                continue;
            };
            let key = (row.pack, row.frame);
            if last.replace(key) == Some(key) || self.reader.holds(&row) {
                continue;
            }
            if !self.reader.try_ahead() {
                return;
            }
            let store = Arc::clone(self);
            rayon::spawn(move || store.reader.warm(&row));
        }
    }

    /// The frames that could not be read since the store was opened.
    #[must_use]
    pub fn damaged(&self) -> Vec<Site> {
        self.reader.healer.damaged()
    }

    /// How the frame of a chunk is compressed, and its decoded length in bytes.
    ///
    /// # Errors
    /// As [`ChunkStore::get`]; [`Error::Malformed`] for a codec that this program does not know.
    pub fn frame_facts(&self, row: &ChunkRow) -> Result<(Codec, u64)> {
        let (codec, raw_len) = self.reader.frame_facts(row)?;
        Ok((Codec::from_id(codec)?, u64::from(raw_len)))
    }

    /// Notes incompatible features in the superblock, unless they are there: what is stored next needs them.
    ///
    /// Durable when this returns, so that no program that does not know them ever meets what needs them.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::NoSpace`], [`Error::Io`]; the store may have the features then.
    pub fn require_features(&self, bits: u64) -> Result<()> {
        if self.config.read_only {
            return Err(Error::ReadOnly("the store was opened read-only"));
        }
        self.writer.lock().require_features(bits)
    }

    /// The superblock as it was when the store was opened.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Checks that pack files are there and as long as their rows say.
    ///
    /// # Errors
    /// [`Error::PackMissing`] or [`Error::PackTruncated`] for the first that is not.
    pub fn check_packs(&self, rows: impl Iterator<Item = (PackId, PackRow)>) -> Result<()> {
        for (id, row) in rows {
            let path = self.files.disk().path(&pack_name(id, row.kind));
            match self.files.disk().len(&pack_name(id, row.kind))? {
                None => return Err(Error::PackMissing { path }),
                Some(len) if len < row.len => {
                    return Err(Error::PackTruncated {
                        path,
                        found_bytes: len.raw(),
                        expected_bytes: row.len.raw(),
                    });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// LOG packs that the log leads to, that no checkpoint stands for, and that are not there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn missing_logs(&self) -> Result<Vec<PackId>> {
        let superblock = self.current_superblock();
        let disk = self.files.disk().as_ref();
        let start = first_needed(disk, &superblock, Some(&self.tail.mark))?.unwrap_or_default();
        let ids = self.tail.limits.keys().copied();
        let missing = ids.filter(|id| *id >= start && !self.files.holds(*id));
        Ok(missing.collect())
    }

    /// All pack files, ascending by number.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn packs(&self) -> Result<Vec<PackInfo>> {
        let info = |(id, kind)| {
            let path = self.files.path(id);
            let file = self.files.file(id)?;
            let len = file.len()?;
            let sealed = sealed_at(file.as_ref(), len.raw(), &path)?.is_some();
            Ok(PackInfo {
                id,
                kind,
                len,
                sealed,
                path,
            })
        };
        self.files.all().into_iter().map(info).collect()
    }

    /// Bytes of all pack files.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn used_bytes(&self) -> Result<u64> {
        let len = |(id, kind)| self.files.disk().len(&pack_name(id, kind));
        let mut lens = self.files.all().into_iter().map(len);
        lens.try_fold(0_u64, |sum, len| {
            Ok(sum.saturating_add(len?.map_or(0, ByteLen::raw)))
        })
    }

    /// Number of pack files.
    #[must_use]
    pub fn pack_count(&self) -> usize {
        self.files.all().len()
    }

    /// Bytes of all pack files, without asking the disk for each: the files that are not written to are asked once
    /// after each change of their number.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn used_now(&self) -> Result<u64> {
        let ClosedLen { changes, known } = *self.closed_len.lock();
        let (next, open) = {
            let writer = self.writer.lock();
            (writer.next_pack(), writer.open_packs())
        };
        let open_len: u64 = open.iter().map(|(_, end)| end.raw()).sum();
        let closed = match known {
            Some((at, len)) if at == next => len,
            _ => {
                let is_closed = |id: &PackId| open.iter().all(|(other, _)| other != id);
                let all = self.files.all().into_iter();
                let mut len = 0_u64;
                for (id, kind) in all.filter(|(id, _)| is_closed(id)) {
                    let found = self.files.disk().len(&pack_name(id, kind))?;
                    len = len.saturating_add(found.map_or(0, ByteLen::raw));
                }
                let mut closed = self.closed_len.lock();
                // Bug: a sum that was begun before packs were removed was kept, and the store stayed full.
                if closed.changes == changes {
                    closed.known = Some((next, len));
                }
                len
            }
        };
        Ok(closed.saturating_add(open_len))
    }

    /// Verifies all of a pack: header, frames, every chunk's digest, records, footer. `each` is called with every
    /// frame, record and problem.
    ///
    /// `row` is the pack's row: its length are the bytes of a pack without a footer that must verify.
    ///
    /// # Errors
    /// Those of `each`. What is wrong with the pack is a [`Scanned::Problem`].
    pub fn scan_pack(
        &self,
        id: PackId,
        row: Option<PackRow>,
        each: &mut dyn FnMut(Scanned) -> Result<()>,
    ) -> Result<ScanReport> {
        let open = self.writer.lock().open_packs();
        let own = open
            .iter()
            .find(|(pack, _)| *pack == id)
            .map(|(_, end)| *end);
        let vouched = own
            .or_else(|| self.tail.limits.get(&id).copied())
            .or_else(|| row.map(|row| PackOff::from_raw(row.len.raw())));
        let claim = Claim {
            vouched,
            unfinished: own.is_some() || self.is_unfinished(id, row)?,
        };
        scan(&self.files, self.superblock.store, id, claim, each)
    }

    /// Whether nothing says that a pack was ever sealed.
    fn is_unfinished(&self, id: PackId, row: Option<PackRow>) -> Result<bool> {
        let unsealed_row = row.map(|row| row.sealed.is_none());
        Ok(match self.files.kind(id) {
            // Only one that was found unsealed, or could not be sealed, has a row.
            Ok(PackKind::Log) => {
                unsealed_row == Some(true)
                    || self.tail.unsettled.contains_key(&id)
                    || self.writer.lock().has_retired(id)
            }
            // Its row is put before it is sealed, and again only if it is sealed in a commit.
            Ok(PackKind::Data) => unsealed_row != Some(false),
            Err(Error::PackMissing { .. }) => false,
            Err(error) => return Err(error),
        })
    }

    /// Ends the open packs with footers: at close. Does nothing in a read-only store.
    ///
    /// Their final rows are in no record: who reads the packs later finds the footers. The row of a DATA pack goes
    /// on saying that it is not sealed.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`]. Nothing that was committed is lost: a pack without a footer is only
    /// slower to check.
    pub fn seal(&self) -> Result<()> {
        if self.config.read_only {
            return Ok(());
        }
        self.writer.lock().seal()
    }
}

impl std::fmt::Debug for ChunkStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkStore({:?})", self.superblock.store)
    }
}
