//! Checkpoints of the index, so that the log before them can go.

use super::count::{Tallies, Tally};
use crate::base::limits::CHECKPOINTS_KEPT;
use crate::base::{Error, PackId, Result};
use crate::chunk::Watermark;
use crate::engine::Engine;
use crate::format::keys;
use crate::format::rows::{Op, Table, encode_counter};
use crate::meta::for_each_row;

/// Above every key of every table.
const KEY_END: [u8; 40] = [0xff; 40];

impl Engine {
    /// Writes a checkpoint of everything that is committed now, and relies on it: LOG packs before the one that is
    /// returned are not needed any more, but for the chunks in them.
    ///
    /// # Errors
    /// Those of the disk and of the index; [`Error::CheckpointDamaged`] if one does not read back.
    pub(super) fn checkpoint(&self) -> Result<PackId> {
        // The log goes on in a new pack, and the checkpoint's place must be in it: it is the first that is kept.
        let next = encode_counter(self.next_ino.load(std::sync::atomic::Ordering::Acquire));
        let key = keys::counter(keys::COUNTER_NEXT_INO);
        self.commit_nodes(&[], vec![Op::Put(Table::Counter, key, next.to_vec())])?;
        let view = self.index().view();
        let mark = view.watermark()?;
        let mark = Watermark::decode(&mark.ok_or(Error::Internal("no watermark"))?)?;
        self.store.write_checkpoint(&mark, &|out| {
            for table in Table::ALL {
                for_each_row(&view, table, &[], &KEY_END, &mut |key, value| {
                    out.put(Op::Put(table, key.to_vec(), value.to_vec()))?;
                    Ok(true)
                })?;
            }
            Ok(())
        })?;
        self.store.rely_on_checkpoints()?;
        Ok(mark.pack)
    }

    /// Makes up for checkpoints that are gone: without them the index is all that stands for the log before them.
    pub(crate) fn replace_checkpoints(&self) {
        let made = self.lacks_checkpoints().and_then(|lacks| {
            if lacks {
                log::warn!("checkpoints are missing; a new one is written");
                self.checkpoint()?;
            }
            Ok(())
        });
        if let Err(error) = made {
            // The next cleaning tries again.
            log::error!("no checkpoint could be written: {error}");
        }
    }

    /// Whether fewer checkpoints are there than should be.
    pub(crate) fn lacks_checkpoints(&self) -> Result<bool> {
        let relies = self.store.relies_on_checkpoints();
        Ok(relies && self.store.checkpoints()?.len() < CHECKPOINTS_KEPT)
    }

    /// Makes new checkpoints if one does not verify.
    ///
    /// # Errors
    /// As [`Engine::checkpoint`].
    pub(crate) fn renew_checkpoints(&self) -> Result<()> {
        self.check_writable()?;
        let _one = self.cleaning.one.lock();
        if self.has_damaged_checkpoint()? {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Whether a checkpoint is gone or does not verify: a new one is worth its space then.
    pub(super) fn has_damaged_checkpoint(&self) -> Result<bool> {
        if self.lacks_checkpoints()? {
            return Ok(true);
        }
        for name in self.store.checkpoints()? {
            match self.store.verify_checkpoint(name) {
                Ok(()) => {}
                Err(error @ (Error::CheckpointDamaged { .. } | Error::Io { .. })) => {
                    log::warn!("{error}");
                    return Ok(true);
                }
                Err(other) => return Err(other),
            }
        }
        Ok(false)
    }
}

/// Whether the log takes so much more than what is live in it that a checkpoint is worth its space.
pub(super) fn is_due(packs: &Tallies, before: PackId, unused_percent: u64) -> bool {
    let live: u64 = packs.values().map(Tally::live_len).sum();
    let logs = packs.iter().filter(|(id, t)| t.log && **id < before);
    let dead: u64 = logs.map(|(_, tally)| tally.dead_len()).sum();
    dead > live.saturating_mul(unused_percent) / 100
}
