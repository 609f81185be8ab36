//! A file that only keeps room: it goes when cleaning finds no space for its own commits.

use super::store::ChunkStore;
use crate::base::limits::{RESERVE_LEN, RESERVE_ROOM_MIN};
use crate::base::{ByteLen, Error, PackOff, Result};
use crate::disk::Disk;

/// Its name within the store.
const RESERVE: &str = "reserve";
/// Bytes that are written at a time.
const STEP: usize = 1 << 20;

impl ChunkStore {
    /// Makes the file, if it is not there and the disk has plenty of room. Does nothing in a read-only store.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`].
    pub fn hold_reserve(&self) -> Result<()> {
        let disk = self.files.disk();
        let len = ByteLen::from_raw(RESERVE_LEN);
        let enough = disk.space()?.available_bytes >= RESERVE_ROOM_MIN;
        if self.config.read_only || !enough || disk.len(RESERVE)? == Some(len) {
            return Ok(());
        }
        self.release_reserve()?;
        let file = disk.create_new(RESERVE)?;
        // Not zeros, which some filesystems do not store.
        let bytes = vec![0xa5; STEP];
        let mut at = 0;
        while at < RESERVE_LEN {
            file.write_at(PackOff::from_raw(at), &bytes)?;
            at += STEP as u64;
        }
        file.sync_data()
    }

    /// Removes the file; `true` if there was one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn release_reserve(&self) -> Result<bool> {
        remove_reserve(self.files.disk().as_ref())
    }
}

/// As [`ChunkStore::release_reserve`], of a store that is not open yet: on a full disk its index needs that room.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_reserve(disk: &dyn Disk) -> Result<bool> {
    match disk.remove(RESERVE) {
        Ok(()) => Ok(true),
        Err(Error::NotFound) => Ok(false),
        Err(other) => Err(other),
    }
}
