//! What a scrub looks at and mends beside packs and their parity: the copies of the superblock and of checkpoints; and
//! where it has got to.

use super::checkpoint::{CheckpointName, load_checkpoint};
use super::files::{pack_name, read_exactly};
use super::store::ChunkStore;
use super::superblocks::{save_superblock_copy, superblocks_that_are_bad};
use crate::base::limits::QUARANTINE_FILES_MAX;
use crate::base::{ByteLen, Error, PackId, PackOff, Result};
use crate::disk::{Access, Disk};
use crate::format::rows::PackKind;
use crate::format::scrub::{SCRUB_MARK_LEN, decode_scrub_mark, encode_scrub_mark};
use crate::hash::{Checksum, checksum};

/// The file that says how far a scrub has got.
const MARK: &str = "scrub";
/// The directory of damaged files that were replaced.
const QUARANTINE: &str = "quarantine";
/// Bytes that are copied at a time.
const STEP_LEN: usize = 1 << 20;

/// A file of a store that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    /// Its name within the store.
    pub name: String,
    /// What is wrong with it.
    pub detail: String,
}

impl ChunkStore {
    /// The copies of the superblock that cannot be used.
    ///
    /// # Errors
    /// [`Error::VersionTooNew`], [`Error::UnknownFeatures`], [`Error::Io`].
    pub fn bad_superblocks(&self) -> Result<Vec<BadFile>> {
        let _not_while_they_are_written = self.writer.lock();
        let bad = superblocks_that_are_bad(self.files.disk().as_ref(), self.superblock.store)?;
        let bad = bad.into_iter().map(|(name, detail)| BadFile {
            name: name.to_owned(),
            detail,
        });
        Ok(bad.collect())
    }

    /// Writes the copies of the superblock that cannot be used anew. The other ones are not touched.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`] and those of [`ChunkStore::bad_superblocks`].
    pub fn mend_superblocks(&self) -> Result<()> {
        let writer = self.writer.lock();
        let disk = self.files.disk();
        for (name, _) in superblocks_that_are_bad(disk.as_ref(), self.superblock.store)? {
            put_aside(disk.as_ref(), name)?;
            save_superblock_copy(disk.as_ref(), writer.superblock(), name)?;
        }
        Ok(())
    }

    /// Replaces a checkpoint by a copy of another one of the same place that verifies; `false` if there is none. The
    /// damaged file is put aside.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`].
    pub fn mend_checkpoint(&self, name: CheckpointName) -> Result<bool> {
        let disk = self.files.disk();
        let others = self.checkpoints()?.into_iter();
        let same = |other: &CheckpointName| {
            *other != name && (other.lsn, other.pack) == (name.lsn, name.pack)
        };
        for other in others.filter(same) {
            if self.verify_checkpoint(other).is_err() {
                continue;
            }
            let temp = format!("{}.tmp", name.path());
            match disk.remove(&temp) {
                Ok(()) | Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
            copy_file(disk.as_ref(), &other.path(), &temp)?;
            put_aside(disk.as_ref(), &name.path())?;
            disk.rename(&temp, &name.path())?;
            disk.sync_dir("checkpoints")?;
            let mut none = |_| Ok(());
            load_checkpoint(disk.as_ref(), &self.superblock, name, &mut none)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Opens a pack anew at its next reading, and reads it from the medium then: a file that is open can be read
    /// although its name is gone, or leads to another one.
    pub fn open_anew(&self, pack: PackId) {
        self.files.reopen(pack);
        // What is wrong with it shows when it is read.
        if let Ok(file) = self.files.file(pack) {
            file.drop_cached();
        }
    }

    /// Makes a pack known that was missing and is there again.
    pub fn note_pack_back(&self, pack: PackId, kind: PackKind) {
        self.files.note(pack, kind);
        self.closed_len.lock().forget();
    }

    /// The pack files that are known: number, kind, and length in bytes if the file is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn pack_sizes(&self) -> Result<Vec<(PackId, PackKind, Option<ByteLen>)>> {
        let disk = self.files.disk();
        let all = self.files.all().into_iter();
        all.map(|(id, kind)| Ok((id, kind, disk.len(&pack_name(id, kind))?)))
            .collect()
    }

    /// The kind of a pack that the store has; `None` if it has no pack of this number, or none any more.
    #[must_use]
    pub fn kind_of(&self, pack: PackId) -> Option<PackKind> {
        self.files.kind(pack).ok()
    }

    /// The LOG packs that the log leads through, as it was found when the store was opened.
    #[must_use]
    pub fn chained_logs(&self) -> Vec<(PackId, ByteLen)> {
        let limits = self.tail.limits.iter();
        let len = |off: &PackOff| ByteLen::from_raw(off.raw());
        limits.map(|(id, off)| (*id, len(off))).collect()
    }

    /// The pack at which an interrupted scrub goes on; `None` if none was interrupted.
    ///
    /// A file that does not verify says nothing: then a scrub begins anew.
    #[must_use]
    pub fn scrub_mark(&self) -> Option<PackId> {
        let disk = self.files.disk();
        let file = disk.open(MARK, Access::Read).ok()?;
        let start = PackOff::from_raw(0);
        let bytes = read_exactly(file.as_ref(), start, SCRUB_MARK_LEN, || disk.path(MARK)).ok()?;
        let hash = |parts: &[&[u8]]| checksum(Checksum::ScrubMark, parts);
        let (store, next) = decode_scrub_mark(&bytes, &hash).ok()?;
        (store == self.superblock.store).then_some(next)
    }

    /// Notes durably at which pack a scrub would go on; `None` once it has come to its end.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`].
    pub fn note_scrub(&self, next: Option<PackId>) -> Result<()> {
        let disk = self.files.disk();
        let gone = |name: &str| match disk.remove(name) {
            Ok(()) | Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        };
        let temp = format!("{MARK}.tmp");
        gone(&temp)?;
        let Some(next) = next else {
            gone(MARK)?;
            return disk.sync_dir("");
        };
        let hash = |parts: &[&[u8]]| checksum(Checksum::ScrubMark, parts);
        let bytes = encode_scrub_mark(self.superblock.store, next, &hash);
        let file = disk.create_new(&temp)?;
        file.write_at(PackOff::from_raw(0), &bytes)?;
        file.sync_data()?;
        disk.rename(&temp, MARK)?;
        disk.sync_dir("")
    }
}

/// Moves a damaged file to quarantine; one that is not there is fine.
fn put_aside(disk: &dyn Disk, name: &str) -> Result<()> {
    if disk.len(name)?.is_none() {
        return Ok(());
    }
    disk.create_dir(QUARANTINE)?;
    disk.sync_dir("")?;
    let plain = name.rsplit('/').next().unwrap_or(name);
    for n in 0..QUARANTINE_FILES_MAX {
        let to = format!("{QUARANTINE}/{plain}.{n}");
        if disk.len(&to)?.is_none() {
            disk.rename(name, &to)?;
            return disk.sync_dir(QUARANTINE);
        }
    }
    Err(Error::Busy("quarantine holds too many files of one name"))
}

/// Copies a file to a new name and syncs it; the name itself is not durable yet.
fn copy_file(disk: &dyn Disk, from: &str, to: &str) -> Result<()> {
    let source = disk.open(from, Access::Read)?;
    let target = disk.create_new(to)?;
    let mut buf = vec![0; STEP_LEN];
    let mut off = 0;
    loop {
        let found = source.read_at(PackOff::from_raw(off), &mut buf)?;
        if found == 0 {
            return target.sync_data();
        }
        target.write_at(PackOff::from_raw(off), buf.get(..found).unwrap_or_default())?;
        off += found as u64;
    }
}
