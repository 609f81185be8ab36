//! Names of directory entries and the slots they are kept at.

use crate::base::limits::NAME_LEN_MAX;
use crate::base::{Error, Ino, Result, Slot};
use crate::hash;

/// The directory in the root that leads to the snapshots.
pub(crate) const RESERVED: &[u8] = b".mmhfs";

/// Slots whose names share a hash; the low byte of a slot tells them apart.
pub(crate) const DISCRIMINATORS: u64 = 256;

/// Checks that `name` may name a new entry: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
///
/// # Errors
/// [`Error::NameTooLong`], [`Error::Invalid`].
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_LEN_MAX {
        return Err(Error::NameTooLong);
    }
    if name.is_empty()
        || name == b"."
        || name == b".."
        || name.iter().any(|b| *b == b'/' || *b == 0)
    {
        return Err(Error::Invalid("name"));
    }
    Ok(())
}

/// The first slot of names with this name's hash: 55 bits of BLAKE3(name), never zero, and a zero byte.
pub(crate) fn first_slot(name: &[u8]) -> Slot {
    slot_of_hash(&hash::name_hash(name))
}

/// As [`first_slot`], from the hash of the name.
pub(crate) fn slot_of_hash(hash: &[u8; 32]) -> Slot {
    let mut top = [0; 8];
    for (to, from) in top.iter_mut().zip(hash) {
        *to = *from;
    }
    Slot::from_raw((u64::from_be_bytes(top) >> 9).max(1) << 8)
}

/// Whether `name` in `dir` is the directory that leads to the snapshots.
pub(crate) fn is_reserved(dir: Ino, name: &[u8]) -> bool {
    dir == Ino::ROOT && name == RESERVED
}
