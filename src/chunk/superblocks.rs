//! The three copies of the superblock: read the newest good one, replace one after the other.

use std::sync::Arc;

use super::files::read_exactly;
use crate::base::{ByteLen, Error, PackOff, Result, StoreId};
use crate::disk::{Access, Disk};
use crate::format::superblock::{
    SUPERBLOCK_LEN, Superblock, decode_superblock, encode_superblock, is_foreign,
};
use crate::hash::{Checksum, checksum};

const COPIES: [&str; 3] = ["super.0", "super.1", "super.2"];

/// What one copy looks like.
enum Copy {
    Good(Box<Superblock>),
    Missing,
    Foreign,
    Bad(String),
}

/// Reads the superblock of a store: of the intact copies the one with the highest generation.
///
/// # Errors
/// [`Error::NotAStore`] if there is no copy at all, [`Error::Superblock`] with what each copy suffers from if none
/// can be used, [`Error::VersionTooNew`] or [`Error::UnknownFeatures`] if an intact copy says so.
pub fn load_superblock(disk: &dyn Disk) -> Result<Superblock> {
    let mut best: Option<Superblock> = None;
    let mut troubles = Vec::new();
    let mut mmhfs_like = false;
    for name in COPIES {
        match load_copy(disk, name)? {
            Copy::Good(copy) => match &best {
                Some(other) if other.store != copy.store => {
                    troubles.push(format!("{name} belongs to another store"));
                    return Err(unusable(disk, &troubles));
                }
                Some(other) if other.generation >= copy.generation => {}
                _ => best = Some(*copy),
            },
            Copy::Missing => troubles.push(format!("{name} is missing")),
            Copy::Foreign => troubles.push(format!("{name} is not a superblock")),
            Copy::Bad(detail) => {
                mmhfs_like = true;
                troubles.push(format!("{name}: {detail}"));
            }
        }
    }
    match best {
        Some(superblock) => Ok(superblock),
        None if mmhfs_like => Err(unusable(disk, &troubles)),
        None => Err(Error::NotAStore {
            path: disk.path(""),
            detail: troubles.join(", "),
        }),
    }
}

fn unusable(disk: &dyn Disk, troubles: &[String]) -> Error {
    Error::Superblock {
        path: disk.path(""),
        detail: troubles.join(", "),
    }
}

fn load_copy(disk: &dyn Disk, name: &str) -> Result<Copy> {
    let file = match disk.open(name, Access::Read) {
        Ok(file) => file,
        Err(Error::NotFound) => return Ok(Copy::Missing),
        Err(other) => return Ok(Copy::Bad(other.to_string())),
    };
    if file.len()? != ByteLen::from_raw(SUPERBLOCK_LEN as u64) {
        return Ok(Copy::Bad("its length is not 4096 bytes".to_owned()));
    }
    let start = PackOff::from_raw(0);
    let bytes = match read_exactly(file.as_ref(), start, SUPERBLOCK_LEN, || disk.path(name)) {
        Ok(bytes) => bytes,
        Err(other) => return Ok(Copy::Bad(other.to_string())),
    };
    if is_foreign(&bytes) {
        return Ok(Copy::Foreign);
    }
    match decode_superblock(&bytes, &|parts| checksum(Checksum::Superblock, parts)) {
        Ok(superblock) => Ok(Copy::Good(Box::new(superblock))),
        Err(Error::Malformed { detail, .. }) => Ok(Copy::Bad(detail.to_owned())),
        // Intact, and it says that this program must not go on.
        Err(other) => Err(other),
    }
}

/// Replaces all copies, one after the other, each durably: a crash leaves at least two intact ones.
///
/// # Errors
/// [`Error::NoSpace`], [`Error::Io`]; some copies may then be new and some old.
pub(super) fn save_superblock(disk: &Arc<dyn Disk>, superblock: &Superblock) -> Result<()> {
    let bytes = encode_superblock(superblock, &|parts| checksum(Checksum::Superblock, parts))?;
    for name in COPIES {
        replace_copy(disk.as_ref(), name, &bytes)?;
    }
    Ok(())
}

/// Replaces one copy, durably.
///
/// # Errors
/// As [`save_superblock`]; the old copy is still there then, or the new one.
pub(super) fn save_superblock_copy(
    disk: &dyn Disk,
    superblock: &Superblock,
    name: &str,
) -> Result<()> {
    let bytes = encode_superblock(superblock, &|parts| checksum(Checksum::Superblock, parts))?;
    replace_copy(disk, name, &bytes)
}

/// The copies that cannot be used, each with what is wrong. One that is only older than others, as a crash leaves it, is
/// none of them.
///
/// # Errors
/// [`Error::VersionTooNew`] or [`Error::UnknownFeatures`] if an intact copy says so; [`Error::Io`].
pub fn superblocks_that_are_bad(
    disk: &dyn Disk,
    store: StoreId,
) -> Result<Vec<(&'static str, String)>> {
    let mut bad = Vec::new();
    for name in COPIES {
        let detail = match load_copy(disk, name)? {
            Copy::Good(copy) if copy.store == store => continue,
            Copy::Good(_) => "it belongs to another store".to_owned(),
            Copy::Missing => "it is missing".to_owned(),
            Copy::Foreign => "it is not a superblock".to_owned(),
            Copy::Bad(detail) => detail,
        };
        bad.push((name, detail));
    }
    Ok(bad)
}

/// Replaces the copies that are not `superblock`, which [`load_superblock`] has found in another one: what rotted or
/// was lost, and what a crash has left behind. Returns the names of those that were replaced.
///
/// # Errors
/// [`Error::NoSpace`], [`Error::Io`].
pub fn mend_superblock(disk: &dyn Disk, superblock: &Superblock) -> Result<Vec<&'static str>> {
    let bytes = encode_superblock(superblock, &|parts| checksum(Checksum::Superblock, parts))?;
    let mut mended = Vec::new();
    for name in COPIES {
        match load_copy(disk, name)? {
            Copy::Good(copy) if *copy == *superblock => {}
            _ => {
                replace_copy(disk, name, &bytes)?;
                mended.push(name);
            }
        }
    }
    Ok(mended)
}

fn replace_copy(disk: &dyn Disk, name: &str, bytes: &[u8]) -> Result<()> {
    let temp = format!("{name}.tmp");
    match disk.remove(&temp) {
        Ok(()) | Err(Error::NotFound) => {}
        Err(other) => return Err(other),
    }
    let file = disk.create_new(&temp)?;
    file.write_at(PackOff::from_raw(0), bytes)?;
    file.sync_data()?;
    disk.rename(&temp, name)?;
    disk.sync_dir("")
}
