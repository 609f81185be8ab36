//! Makes the end of the log certain before anything relies on it.
//!
//! Bug: a process whose `fdatasync` had failed was followed by one that read the record from the system's cache,
//! where Linux leaves it although the disk has not got it. A sync succeeded, since nothing was dirty any more, so the
//! record counted as durable; a loss of power then took it, with everything that came after. So the bytes are written
//! again, as they are: that makes them dirty, and only then does a sync mean something.

use std::ops::Range;

use super::files::{PACKS, list_packs, pack_name, read_exactly};
use super::replay::sealed_at;
use crate::base::{PackOff, Result};
use crate::disk::{Access, Disk, DiskFile};
use crate::format::rows::PackKind;
use crate::format::superblock::Superblock;

/// Bytes that are written again at a time.
const STEP_LEN: u64 = 1 << 20;

/// Writes the newest LOG packs again, each in its place, and syncs them; a sealed one ends the walk, and so does
/// one that may hold commits.
///
/// Changes no byte. Costs at most one pack's length, and nothing after a clean close. To be called before
/// [`replay`](super::replay) of a store that will be written to.
///
/// # Errors
/// [`Error::NoSpace`](crate::base::Error::NoSpace), [`Error::Io`](crate::base::Error::Io): then nothing is known
/// of what the disk has of the last commits.
pub fn settle_log(disk: &dyn Disk, superblock: &Superblock) -> Result<()> {
    let packs = list_packs(disk)?;
    let logs = packs.iter().rev();
    for (&id, _) in logs.filter(|(_, kind)| **kind == PackKind::Log) {
        let name = pack_name(id, PackKind::Log);
        let path = disk.path(&name);
        let file = disk.open(&name, Access::ReadWrite)?;
        let end = file.len()?.raw();
        if sealed_at(file.as_ref(), end, &path)?.is_some() {
            return Ok(());
        }
        write_again(disk, &name, file.as_ref(), 0..end)?;
        if id <= superblock.pack_high_water {
            return Ok(());
        }
        // Its name may be on its way only: its cut must not count now and be gone after the next crash, when what
        // it has cut off would be back.
        disk.sync_dir(PACKS)?;
    }
    Ok(())
}

/// Writes bytes of a file again, as they are, and syncs it.
pub(super) fn write_again(
    disk: &dyn Disk,
    name: &str,
    file: &dyn DiskFile,
    range: Range<u64>,
) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let len = STEP_LEN.min(range.end - at);
        let off = PackOff::from_raw(at);
        let count = usize::try_from(len).unwrap_or(usize::MAX);
        let bytes = read_exactly(file, off, count, || disk.path(name))?;
        file.write_at(off, &bytes)?;
        at += len;
    }
    file.sync_data()
}
