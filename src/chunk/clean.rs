//! What cleaning needs of the store: pins, moving frames, removing packs.
//!
//! A frame of which all chunks are wanted is copied as it is stored, under a new address: what `optimize` has
//! compressed well stays so. Of another one the chunks that are wanted are compressed anew.

use std::collections::HashSet;
use std::sync::Arc;

use super::batch::{Batch, HashedPiece, PackedFrame, RawFrame, compress_frames};
use super::files::{PACKS, pack_name};
use super::live::LiveSet;
use super::read::DecodedFrame;
use super::store::ChunkStore;
use crate::base::{ByteLen, ChunkId, Error, PackId, Result};
use crate::codec::Codec;
use crate::format::frame::{Address, FRAME_LEN_MAX, FrameHead};
use crate::format::rows::{
    ChunkRow, ExtentRow, Op, PackKind, SnapDirRow, SnapFileRow, SnapshotRow, Table,
};
use crate::format::superblock::Superblock;

/// A frame that was read to be moved: all of it has been verified.
pub struct MovingFrame {
    head: FrameHead,
    frame: DecodedFrame,
    payload: Vec<u8>,
}

impl MovingFrame {
    /// The chunks in it, in their order.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.head.chunks.iter().map(|chunk| chunk.id)
    }

    /// Bytes of the frame's payload as it is stored.
    #[must_use]
    pub fn stored_len(&self) -> usize {
        self.payload.len()
    }
}

impl std::fmt::Debug for MovingFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MovingFrame({} chunks)", self.head.chunks.len())
    }
}

/// Adds to `live` every chunk and node that an operation names.
///
/// # Errors
/// [`Error::Malformed`] for a value of no table's shape.
fn pin_op(live: &LiveSet, op: &Op) -> Result<()> {
    if let Op::Put(table, _, value) = op {
        let id = match table {
            Table::Extent => ExtentRow::decode(value)?.chunk,
            Table::Snapshot => SnapshotRow::decode(value)?.root,
            Table::SnapDir => SnapDirRow::decode(value)?.trie,
            Table::SnapFile => SnapFileRow::decode(value)?.node,
            _ => return Ok(()),
        };
        live.insert(&id);
    }
    Ok(())
}

impl ChunkStore {
    /// From now on, every chunk and node that a commit names joins `live`; `None` ends that.
    ///
    /// To be called between two commits: what a commit has named before is not added.
    pub fn pin_into(&self, live: Option<Arc<LiveSet>>) {
        *self.pins.write() = live;
    }

    /// Pins what a put has found or made.
    pub(super) fn pin_ids(&self, ids: &[ChunkId]) {
        if let Some(live) = &*self.pins.read() {
            for id in ids {
                live.insert(id);
            }
        }
    }

    /// Pins what the operations of a commit name.
    pub(super) fn pin_ops(&self, ops: &[Op]) -> Result<()> {
        match &*self.pins.read() {
            Some(live) => ops.iter().try_for_each(|op| pin_op(live, op)),
            None => Ok(()),
        }
    }

    /// The superblock as it is on disk now.
    #[must_use]
    pub fn current_superblock(&self) -> Superblock {
        self.writer.lock().superblock().clone()
    }

    /// The number that the next pack will have: all packs with a smaller one exist or are gone.
    #[must_use]
    pub fn next_pack(&self) -> PackId {
        self.writer.lock().next_pack()
    }

    /// The packs that are being written to.
    #[must_use]
    pub fn open_packs(&self) -> Vec<PackId> {
        let open = self.writer.lock().open_packs();
        open.into_iter().map(|(id, _)| id).collect()
    }

    /// The pack files: number, kind and length.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::PackMissing`] if one disappears meanwhile.
    pub fn pack_files(&self) -> Result<Vec<(PackId, PackKind, ByteLen)>> {
        let len = |(id, kind)| match self.files.disk().len(&pack_name(id, kind))? {
            Some(len) => Ok((id, kind, len)),
            None => Err(Error::PackMissing {
                path: self.files.path(id),
            }),
        };
        self.files.all().into_iter().map(len).collect()
    }

    /// Ends the open packs, so that the next commit begins new ones.
    ///
    /// # Errors
    /// Those of [`ChunkStore::seal`]; the packs are not used any more in any case.
    pub fn roll(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        self.closed_len.lock().forget();
        let sealed = writer.seal();
        if sealed.is_err() {
            writer.give_up();
        }
        sealed
    }

    /// Reads the frame of a chunk from the disk, or computes it from parity, and verifies all of it. Its pack is one that
    /// nobody else removes.
    ///
    /// # Errors
    /// As [`ChunkStore::get`]; the frame is then known to be damaged.
    pub fn read_frame(&self, row: &ChunkRow) -> Result<MovingFrame> {
        let healer = &self.reader.healer;
        let decode = |bytes: &[u8]| self.decode_whole(row, bytes);
        let read = self
            .frame_on_disk(row)
            .or_else(|error| healer.heal(row, error, &|| Ok(true), &decode));
        if read.is_err() {
            self.note_damaged(row);
        }
        read
    }

    /// Whether the frame of a chunk can be read from the disk; if not, it is known to be damaged then.
    pub fn is_on_disk(&self, row: &ChunkRow) -> bool {
        let read = self.frame_on_disk(row);
        if read.is_err() {
            self.note_damaged(row);
        }
        read.is_ok()
    }

    fn frame_on_disk(&self, row: &ChunkRow) -> Result<MovingFrame> {
        let len = usize::try_from(row.frame_len).unwrap_or(usize::MAX);
        self.files
            .read(row.pack, row.frame, len.min(FRAME_LEN_MAX))
            .and_then(|bytes| self.decode_whole(row, &bytes))
    }

    fn decode_whole(&self, row: &ChunkRow, bytes: &[u8]) -> Result<MovingFrame> {
        let at = Address {
            store: self.superblock.store,
            pack: row.pack,
            off: row.frame,
        };
        let (frame, head, payload) = DecodedFrame::decode_whole(bytes, &at)?;
        frame.verify_all(&at)?;
        Ok(MovingFrame {
            head,
            frame,
            payload,
        })
    }

    /// Puts the `wanted` chunks of frames that were read into new frames of DATA packs, in this batch.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`]. The batch can then only be dropped.
    pub fn relocate(
        &self,
        batch: &mut Batch,
        frames: Vec<MovingFrame>,
        wanted: &HashSet<ChunkId>,
    ) -> Result<()> {
        batch.inline = false;
        let mut packed = Vec::with_capacity(frames.len());
        for moving in frames {
            packed.extend(self.packed(moving, wanted)?);
        }
        let done = self.append_frames(batch, packed);
        batch.failed |= done.is_err();
        done
    }

    fn packed(
        &self,
        moving: MovingFrame,
        wanted: &HashSet<ChunkId>,
    ) -> Result<Option<PackedFrame>> {
        let count = moving.chunks().filter(|id| wanted.contains(id)).count();
        if count == moving.head.chunks.len() {
            return Ok(Some(PackedFrame {
                kind: moving.head.kind,
                codec: Codec::from_id(moving.head.codec)?,
                payload: moving.payload,
                chunks: moving.head.chunks,
            }));
        }
        let mut raw = RawFrame::new(moving.head.kind);
        for (id, bytes) in moving.frame.pieces() {
            if wanted.contains(&id) {
                raw.push(&HashedPiece {
                    id,
                    known: None,
                    bytes,
                });
            }
        }
        if count == 0 {
            return Ok(None);
        }
        let config = &self.config;
        let packed = compress_frames(vec![raw], config.level, config.verify_writes)?;
        Ok(packed.into_iter().next())
    }

    /// Removes the files of packs that nothing names any more. The caller has made that durable, in the log and in
    /// the index, and none of them is open. Returns the bytes that were given back.
    ///
    /// # Errors
    /// [`Error::Io`]; some are then removed and some not, which does no harm.
    pub fn remove_packs(&self, ids: &[PackId]) -> Result<u64> {
        let open = self.open_packs();
        let mut bytes = 0_u64;
        for id in ids {
            assert!(!open.contains(id), "a pack that is written to is removed");
            let removed = self.files.remove(*id);
            self.closed_len.lock().forget();
            bytes = bytes.saturating_add(removed?);
            self.reader.healer.forget(*id);
            self.writer.lock().forget_sealed(*id);
        }
        self.files.disk().sync_dir(PACKS)?;
        Ok(bytes)
    }
}
