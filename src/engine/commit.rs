//! Commit: what makes changes durable, in the order in which it does (docs/architecture.md).
//!
//! 1. freeze: under the barrier, the overlay and all active layers are set aside.
//! 2. store: frozen bytes become chunks in frames.
//! 3. log: data packs are synced, the record is appended, one fdatasync.
//! 4. apply: the rows go to the index, what was frozen is dropped, the waiters are answered.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::Engine;
use super::extents::ExtentEdits;
use super::inode::Inode;
use super::layer::{Layer, Piece};
use crate::base::limits::{
    CHUNK_LEN_MAX, COMMIT_INTERVAL_MS, FOLD_PASS_REGIONS, INLINE_COMMIT_LEN_MAX,
};
use crate::base::{ChunkId, Error, FileOff, Ino, PackId, Result};
use crate::chunk::{Batch, Committed, Durable, PutKind, cut};
use crate::format::keys;
use crate::format::rows::{ExtentRow, InodeRow, Kind, Op, Table, encode_counter};
use crate::meta::{Index, Rows as _};

/// Bytes that are chunked and stored at a time.
const WINDOW_LEN: usize = 8 << 20;

/// Who commits, and up to where commits have got.
#[derive(Debug, Default)]
pub(crate) struct CommitGate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// Wakes the timer thread only, so that the end of one commit is not the cause of another.
    timer: Condvar,
    kicked: AtomicBool,
}

#[derive(Debug, Default)]
struct GateState {
    running: bool,
    /// The thread that has the turn.
    holder: Option<ThreadId>,
    /// All epochs up to this one are durable and in the index.
    done: u64,
    runs: u64,
    /// The number that the next pack had after the last run.
    next_pack: PackId,
    /// The last run that failed, and how.
    failed: Option<(u64, Failure)>,
    /// What a failed run left behind: it is tried again before anything newer is frozen.
    frozen: Option<Frozen>,
    /// Somebody has panicked in the middle of a commit: what was frozen is lost, so nothing is committed any more.
    broken: bool,
    stop: bool,
}

/// The right to commit: nobody else does while it lives.
struct Turn<'a>(&'a Engine);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut gate = self.0.gate.state.lock();
        gate.running = false;
        gate.holder = None;
        gate.broken |= std::thread::panicking();
        self.0.gate.changed.notify_all();
        drop(gate);
        if std::thread::panicking() {
            // What was frozen is lost: nothing may be accepted that could not become durable either.
            self.0.halt("a commit has panicked");
        }
    }
}

/// Enough of an error to give it to every waiter.
#[derive(Clone, Debug)]
enum Failure {
    NoSpace,
    Other(String),
}

impl Failure {
    fn of(error: &Error) -> Self {
        match error {
            Error::NoSpace => Self::NoSpace,
            other => Self::Other(other.to_string()),
        }
    }

    fn error(&self) -> Error {
        match self {
            Self::NoSpace => Error::NoSpace,
            Self::Other(text) => Error::io("commit", std::io::Error::other(text.clone())),
        }
    }
}

/// What one commit takes to the log.
#[derive(Clone, Debug)]
pub(super) struct Frozen {
    epoch: u64,
    pub(super) files: Vec<(Arc<Inode>, Arc<Layer>)>,
    data_len: u64,
    next_ino: u64,
}

impl CommitGate {
    /// Asks the timer thread to commit soon.
    pub(crate) fn kick(&self) {
        if !self.kicked.swap(true, Ordering::AcqRel) {
            // Under the lock, or the timer thread could go to sleep between its look and this call.
            let _state = self.state.lock();
            self.timer.notify_all();
        }
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.timer.notify_all();
    }
}

impl Engine {
    /// Makes everything that was changed before this call durable.
    pub(crate) fn commit(&self) -> Result<()> {
        self.commit_through(self.epoch.load(Ordering::Acquire))
    }

    /// Makes everything up to `epoch` durable: leads a commit or waits for the one that is running.
    pub(crate) fn commit_through(&self, epoch: u64) -> Result<()> {
        let mut gate = self.gate.state.lock();
        let entered = gate.runs;
        loop {
            if gate.done >= epoch {
                return Ok(());
            }
            // A failure is told to everyone who waited for that run; it is never turned into a success (D1).
            if let Some((run, failure)) = &gate.failed
                && *run > entered
            {
                return Err(failure.error());
            }
            if gate.running {
                self.gate.changed.wait(&mut gate);
                continue;
            }
            let turn = self.take_turn(gate)?;
            // The error is kept in the gate, for this caller and for all who wait.
            let _ = self.run_in_turn(Vec::new());
            drop(turn);
            gate = self.gate.state.lock();
        }
    }

    /// Commits everything together with the operations that `extra` names, and calls `after` before anything
    /// else can be committed.
    pub(crate) fn commit_with<T>(
        &self,
        extra: impl FnOnce(&Index) -> Vec<Op>,
        after: impl FnOnce() -> T,
    ) -> Result<T> {
        self.exclusive(|| {
            // What an earlier failure has left behind goes first, in a commit of its own.
            let left = self.gate.state.lock().frozen.is_some();
            if left {
                self.run_in_turn(Vec::new())?;
            }
            self.run_in_turn(extra(self.index()))?;
            Ok(after())
        })
    }

    /// Runs `work` between two commits.
    pub(crate) fn exclusive<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut gate = self.gate.state.lock();
        while gate.running {
            self.gate.changed.wait(&mut gate);
        }
        let _turn = self.take_turn(gate)?;
        work()
    }

    /// Keeps everybody else from committing until the turn is dropped; nobody else may have it.
    fn take_turn(&self, mut gate: MutexGuard<'_, GateState>) -> Result<Turn<'_>> {
        if gate.broken {
            return Err(Error::Halted("a commit has panicked".into()));
        }
        // What memory holds may be half a change: it must not become what the log says.
        if let Some(why) = &*self.halted.lock() {
            return Err(Error::Halted(why.clone()));
        }
        assert!(!gate.running, "one commit at a time");
        gate.running = true;
        gate.holder = Some(std::thread::current().id());
        Ok(Turn(self))
    }

    /// Runs one commit; the caller has the turn. What fails is kept in the gate before the turn ends.
    fn run_in_turn(&self, extra: Vec<Op>) -> Result<()> {
        let (run, retry) = {
            let mut gate = self.gate.state.lock();
            gate.runs += 1;
            (gate.runs, gate.frozen.take())
        };
        let result = self.run_commit(retry, extra);
        let next = self.store.next_pack();
        let mut gate = self.gate.state.lock();
        match result {
            Ok(done) => {
                gate.done = gate.done.max(done);
                if gate.next_pack != next {
                    gate.next_pack = next;
                    // A pack was begun, so one was finished perhaps.
                    self.store.signal().kick();
                }
                Ok(())
            }
            Err((frozen, error)) => {
                log::error!("commit failed: {error}");
                gate.failed = Some((run, Failure::of(&error)));
                gate.frozen = Some(frozen);
                Err(error)
            }
        }
    }

    /// Puts a commit that is in the log into the index.
    pub(crate) fn apply_durable(&self, durable: &Durable<Committed>) -> Result<()> {
        let applied = self
            .index()
            .apply(&durable.ops, &durable.watermark.encode());
        if let Err(error) = &applied {
            // The log has it, the index does not: reads go on from the overlay, changes must wait for a reopen.
            *self.halted.lock() = Some(error.to_string());
        }
        applied
    }

    /// Waits while more is pending than memory should hold.
    ///
    /// # Errors
    /// The error of a failing commit: what cannot be stored is not accepted either.
    pub(crate) fn throttle(&self) -> Result<()> {
        let full = || {
            self.dirty_bytes.load(Ordering::Relaxed) >= self.bounds.dirty_wait
                || self.live.pending_bytes() >= self.bounds.meta_wait
        };
        // Bug: a rollback works in the turn, and an operation of it waited here for the turn to end.
        let holds_turn = || self.gate.state.lock().holder == Some(std::thread::current().id());
        if full() && !holds_turn() {
            self.commit()
        } else {
            Ok(())
        }
    }

    /// The body of the thread that commits every few seconds and when it is asked to.
    pub(crate) fn commit_timer(&self) {
        loop {
            let mut gate = self.gate.state.lock();
            if gate.stop {
                return;
            }
            let idle = !self.gate.kicked.load(Ordering::Acquire);
            if idle {
                self.gate
                    .timer
                    .wait_for(&mut gate, Duration::from_millis(COMMIT_INTERVAL_MS));
                if gate.stop {
                    return;
                }
            }
            drop(gate);
            self.gate.kicked.store(false, Ordering::Release);
            // Without this thread nothing is committed by itself: its end must not pass unnoticed.
            if catch_unwind(AssertUnwindSafe(|| self.timer_round(idle))).is_err() {
                self.halt("the commit thread has panicked");
            }
        }
    }

    fn timer_round(&self, idle: bool) {
        if self.halted.lock().is_some() {
            return;
        }
        // The failure is logged and kept for the next fsync; the changes stay in memory.
        let _ = self.commit();
        if idle && let Err(error) = self.fold(FOLD_PASS_REGIONS) {
            log::warn!("small writes stay apart: {error}");
        }
    }

    /// Calls `each` with the chunks that what is in memory refers to. The caller has the turn.
    pub(crate) fn for_each_pending_chunk(&self, each: &mut dyn FnMut(&ChunkId)) {
        // Nothing moves from one layer to another meanwhile.
        let _barrier = self.barrier.write();
        let mut of_layer = |layer: &Layer| {
            for (_, piece) in layer.iter() {
                if let Piece::Chunk { id, .. } = piece {
                    each(id);
                }
            }
        };
        if let Some(frozen) = &self.gate.state.lock().frozen {
            frozen.files.iter().for_each(|(_, layer)| of_layer(layer));
        }
        for inode in &*self.dirty.lock() {
            of_layer(&inode.layers.lock().active);
        }
    }

    /// Freezes, stores, logs, applies. On failure gives back what is to be tried again.
    fn run_commit(
        &self,
        retry: Option<Frozen>,
        extra: Vec<Op>,
    ) -> std::result::Result<u64, (Frozen, Error)> {
        let frozen = retry.unwrap_or_else(|| self.freeze());
        match self.log_frozen(&frozen, extra) {
            Ok(()) => {
                self.inodes
                    .committed
                    .fetch_max(frozen.epoch, Ordering::AcqRel);
                Ok(frozen.epoch)
            }
            Err(error) => {
                // Deleting is the way out of a full disk: what was kept for that is given to the next try.
                if matches!(error, Error::NoSpace)
                    && frozen.data_len == 0
                    && matches!(self.store.release_reserve(), Ok(true))
                {
                    log::warn!("the disk is full: the room kept for deleting and cleaning is used");
                }
                Err((frozen, error))
            }
        }
    }

    /// Sets everything that has changed aside. Nothing can change meanwhile: the barrier is ours.
    fn freeze(&self) -> Frozen {
        let barrier = self.barrier.write();
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel);
        self.live.freeze();
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let mut files = Vec::with_capacity(dirty.len());
        let mut data_len = 0;
        for inode in dirty {
            let mut layers = inode.layers.lock();
            if layers.active.is_empty() {
                continue;
            }
            let layer = Arc::new(std::mem::take(&mut layers.active));
            data_len += layer.data_len();
            layers.frozen = Some(Arc::clone(&layer));
            drop(layers);
            files.push((inode, layer));
        }
        let next_ino = self.next_ino.load(Ordering::Acquire);
        drop(barrier);
        files.sort_by_key(|(inode, _)| inode.ino);
        Frozen {
            epoch,
            files,
            data_len,
            next_ino,
        }
    }

    fn log_frozen(&self, frozen: &Frozen, mut extra: Vec<Op>) -> Result<()> {
        let mut rows = self.live.frozen_ops();
        if rows.is_empty() && frozen.files.is_empty() && extra.is_empty() {
            self.live.drop_frozen();
            return Ok(());
        }
        self.index().check_current()?;
        let mut batch = self.store.begin(frozen.data_len <= INLINE_COMMIT_LEN_MAX)?;
        let edits = self.store_files(frozen, &mut batch)?;
        let mapped = self.settle_mapped(&mut rows, &edits)?;
        let mut ops = Vec::with_capacity(rows.len() + 16);
        for (_, edit) in edits {
            edit.into_ops(&mut ops);
        }
        // Rows come after extents: a file that went away in this epoch takes its new extents with it.
        ops.append(&mut rows);
        let next_ino = encode_counter(frozen.next_ino).to_vec();
        ops.push(Op::Put(
            Table::Counter,
            keys::counter(keys::COUNTER_NEXT_INO),
            next_ino,
        ));
        ops.append(&mut extra);
        let durable = self.store.finish(batch, ops)?;
        self.apply_durable(&durable)?;
        for (inode, layer) in &frozen.files {
            let mut layers = inode.layers.lock();
            layers.frozen = None;
            if let Some(mapped) = mapped.get(&inode.ino) {
                layers.mapped = *mapped;
            }
            drop(layers);
            self.dirty_bytes
                .fetch_sub(layer.memory_len(), Ordering::Relaxed);
        }
        self.live.drop_frozen();
        self.note_small_pieces(frozen);
        Ok(())
    }

    /// Writes the number of mapped bytes into the inode rows, now that it is known.
    fn settle_mapped(
        &self,
        rows: &mut [Op],
        edits: &BTreeMap<Ino, ExtentEdits>,
    ) -> Result<BTreeMap<Ino, u64>> {
        let mut settled = BTreeMap::new();
        for op in rows {
            let Op::Put(Table::Inode, key, value) = op else {
                continue;
            };
            let ino = keys::parse_inode(key)?;
            let mut row = InodeRow::decode(value)?;
            if row.attrs.kind != Kind::File {
                continue;
            }
            let before = match self.inodes.get(ino) {
                Some(inode) => inode.layers.lock().mapped,
                // Bug: of a file that was removed while its first commit failed, the next one said that nothing was
                // mapped.
                None => {
                    let row = self.index().get(Table::Inode, &keys::inode(ino))?;
                    let row = row.map(|row| InodeRow::decode(&row)).transpose()?;
                    row.map_or(0, |row| row.mapped)
                }
            };
            let delta = edits.get(&ino).map_or(0, ExtentEdits::mapped_delta);
            row.mapped = before.saturating_add_signed(delta);
            settled.insert(ino, row.mapped);
            *value = row.encode();
        }
        Ok(settled)
    }

    fn store_files(
        &self,
        frozen: &Frozen,
        batch: &mut Batch,
    ) -> Result<BTreeMap<Ino, ExtentEdits>> {
        let mut edits: BTreeMap<Ino, ExtentEdits> = BTreeMap::new();
        let mut window = Window::default();
        for (inode, layer) in &frozen.files {
            for (off, piece) in layer.iter() {
                match piece {
                    Piece::Data(bytes) => {
                        window.push(self, batch, &mut edits, inode.ino, off, bytes)?
                    }
                    Piece::Hole(len) => {
                        let edit = edits
                            .entry(inode.ino)
                            .or_insert_with(|| ExtentEdits::new(inode.ino));
                        if off.saturating_add(*len) >= FileOff::MAX.raw() {
                            edit.truncate(self.index().as_ref(), off)?;
                        } else {
                            edit.replace(self.index().as_ref(), off..off + len, &[])?;
                        }
                    }
                    Piece::Chunk {
                        id,
                        off: chunk_off,
                        len,
                    } => {
                        let edit = edits
                            .entry(inode.ino)
                            .or_insert_with(|| ExtentEdits::new(inode.ino));
                        let extent = ExtentRow {
                            len: *len,
                            chunk: *id,
                            chunk_off: *chunk_off,
                        };
                        edit.replace(
                            self.index().as_ref(),
                            off..off + u64::from(*len),
                            &[(off, extent)],
                        )?;
                    }
                }
            }
        }
        window.flush(self, batch, &mut edits, true)?;
        Ok(edits)
    }
}

/// Runs of file bytes that wait to be chunked, hashed and stored together, so that all cores have work
/// and small files share frames.
#[derive(Default)]
struct Window {
    runs: Vec<Run>,
    len: usize,
}

struct Run {
    ino: Ino,
    off: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn push(
        &mut self,
        engine: &Engine,
        batch: &mut Batch,
        edits: &mut BTreeMap<Ino, ExtentEdits>,
        ino: Ino,
        off: u64,
        bytes: &[u8],
    ) -> Result<()> {
        match self.runs.last_mut() {
            Some(run) if run.ino == ino && run.off + run.bytes.len() as u64 == off => {
                run.bytes.extend_from_slice(bytes);
            }
            _ => self.runs.push(Run {
                ino,
                off,
                bytes: bytes.to_vec(),
            }),
        }
        self.len += bytes.len();
        if self.len >= WINDOW_LEN {
            self.flush(engine, batch, edits, false)?;
        }
        Ok(())
    }

    /// Stores what is there. Unless it is the end, the tail of the last run waits for what follows it, so
    /// that windows do not show in the cut points.
    fn flush(
        &mut self,
        engine: &Engine,
        batch: &mut Batch,
        edits: &mut BTreeMap<Ino, ExtentEdits>,
        end: bool,
    ) -> Result<()> {
        let runs = std::mem::take(&mut self.runs);
        self.len = 0;
        let last = runs.len().saturating_sub(1);
        let mut pieces: Vec<&[u8]> = Vec::new();
        let mut places: Vec<(Ino, u64)> = Vec::new();
        let mut rest: Option<Run> = None;
        for (n, run) in runs.iter().enumerate() {
            let lens = cut(
                &run.bytes,
                FileOff::from_raw(run.off),
                &engine.superblock.chunker,
            );
            let keep_tail = n == last && !end;
            let mut at = 0;
            for len in lens {
                let Some(piece) = run.bytes.get(at..at + len) else {
                    break;
                };
                let off = run.off + at as u64;
                if keep_tail && run.bytes.len() - at < CHUNK_LEN_MAX {
                    rest = Some(Run {
                        ino: run.ino,
                        off,
                        bytes: run.bytes.get(at..).unwrap_or_default().to_vec(),
                    });
                    break;
                }
                pieces.push(piece);
                places.push((run.ino, off));
                at += len;
            }
        }
        let ids = engine.store.put(batch, PutKind::Data, &pieces)?;
        for ((piece, (ino, off)), id) in pieces.iter().zip(&places).zip(ids) {
            let len = u32::try_from(piece.len())
                .map_err(|_| Error::Internal("chunk longer than 4 GiB"))?;
            let edit = edits.entry(*ino).or_insert_with(|| ExtentEdits::new(*ino));
            let extent = ExtentRow {
                len,
                chunk: id,
                chunk_off: 0,
            };
            edit.replace(
                engine.index().as_ref(),
                *off..*off + u64::from(len),
                &[(*off, extent)],
            )?;
        }
        if let Some(rest) = rest {
            self.len = rest.bytes.len();
            self.runs.push(rest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Env;
    use crate::engine::{Config, InitOptions};

    /// Bug: with much pending by others, an operation of a rollback waited for the end of the turn in which it ran.
    #[test]
    fn an_operation_in_the_turn_does_not_wait_for_the_turn() {
        let dir = tempfile::tempdir().unwrap();
        Engine::init(dir.path(), &Env::real(), &InitOptions::default()).unwrap();
        let engine = Engine::open(dir.path(), Env::real(), Config::default()).unwrap();
        engine
            .dirty_bytes
            .store(crate::base::limits::DIRTY_WAIT_LEN, Ordering::Relaxed);
        let (done, wait) = std::sync::mpsc::channel();
        let other = Arc::clone(&engine);
        let thread = std::thread::Builder::new().name("turn".into());
        let work = move || {
            let _ = done.send(other.exclusive(|| other.throttle()));
        };
        thread.spawn(work).unwrap();
        let waited = wait.recv_timeout(Duration::from_secs(20));
        waited.expect("it waits for itself").unwrap();
        engine.dirty_bytes.store(0, Ordering::Relaxed);
        engine.close().unwrap();
    }
}
