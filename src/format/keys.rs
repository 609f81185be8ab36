//! Keys of the index tables: big endian, so that the order of bytes is the order of numbers.

use std::ops::Range;

use super::cursor::{Reader, Writer};
use super::rows::{DirtyKey, ExtentRow, Table};
use crate::base::limits::{SEGMENT_LEN, XATTR_NAME_LEN_MAX};
use crate::base::{ByteLen, ChunkId, FileOff, Ino, PackId, Result, Slot};

/// Counter: the next inode number to give out.
pub const COUNTER_NEXT_INO: &str = "next_ino";
/// Counter: the snapshot generation that changes belong to now.
/// Counter: 1 once any directory had two names with one hash.
pub const COUNTER_COLLISIONS: &str = "collisions";
/// Counter: the snapshot generation.
pub const COUNTER_GENERATION: &str = "generation";
/// Longest name of a snapshot and of a counter in bytes.
pub const SNAPSHOT_NAME_LEN_MAX: usize = 255;

const KIND_INODE: u8 = 1;
const KIND_SEGMENT: u8 = 2;
const KIND_DIRENT: u8 = 3;

fn join<const N: usize>(parts: &[u64]) -> [u8; N] {
    let mut key = [0; N];
    for (to, part) in key.chunks_exact_mut(8).zip(parts) {
        to.copy_from_slice(&part.to_be_bytes());
    }
    key
}

/// Key of [`Table::Inode`], [`Table::Orphan`], [`Table::SnapDir`] and [`Table::SnapFile`].
#[must_use]
pub fn inode(ino: Ino) -> [u8; 8] {
    ino.raw().to_be_bytes()
}

/// Inverse of [`inode`].
///
/// # Errors
/// `Malformed` if the key is not 8 bytes or the number is 0.
pub fn parse_inode(key: &[u8]) -> Result<Ino> {
    let mut r = Reader::new("inode key", key);
    let ino = read_ino(&mut r)?;
    r.finish()?;
    Ok(ino)
}

/// Key of [`Table::Dirent`].
#[must_use]
pub fn dirent(dir: Ino, slot: Slot) -> [u8; 16] {
    join(&[dir.raw(), slot.raw()])
}

/// Inverse of [`dirent`].
///
/// # Errors
/// `Malformed` if the key is not 16 bytes or a number is out of range.
pub fn parse_dirent(key: &[u8]) -> Result<(Ino, Slot)> {
    let mut r = Reader::new("dirent key", key);
    let parsed = (read_ino(&mut r)?, read_slot(&mut r)?);
    r.finish()?;
    Ok(parsed)
}

/// Key of [`Table::Link`].
#[must_use]
pub fn link(ino: Ino, dir: Ino, slot: Slot) -> [u8; 24] {
    join(&[ino.raw(), dir.raw(), slot.raw()])
}

/// Inverse of [`link`]: inode, directory, slot.
///
/// # Errors
/// `Malformed` if the key is not 24 bytes or a number is out of range.
pub fn parse_link(key: &[u8]) -> Result<(Ino, Ino, Slot)> {
    let mut r = Reader::new("link key", key);
    let parsed = (read_ino(&mut r)?, read_ino(&mut r)?, read_slot(&mut r)?);
    r.finish()?;
    Ok(parsed)
}

/// Key of [`Table::Extent`].
#[must_use]
pub fn extent(ino: Ino, off: FileOff) -> [u8; 16] {
    join(&[ino.raw(), off.raw()])
}

/// Inverse of [`extent`].
///
/// # Errors
/// `Malformed` if the key is not 16 bytes or a number is out of range.
pub fn parse_extent(key: &[u8]) -> Result<(Ino, FileOff)> {
    let mut r = Reader::new("extent key", key);
    let ino = read_ino(&mut r)?;
    let off = FileOff::from_raw(r.u64_be()?);
    r.ensure(off < FileOff::MAX, "offset exceeds 63 bits")?;
    r.finish()?;
    Ok((ino, off))
}

/// Key of [`Table::Xattr`].
#[must_use]
pub fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
    let mut w = Writer::with_capacity(8 + name.len());
    w.u64_be(ino.raw()).bytes(name);
    w.finish()
}

/// Inverse of [`xattr`].
///
/// # Errors
/// `Malformed` if the name is empty, too long or has a NUL.
pub fn parse_xattr(key: &[u8]) -> Result<(Ino, &[u8])> {
    let mut r = Reader::new("xattr key", key);
    let ino = read_ino(&mut r)?;
    let name = r.rest();
    r.ensure(xattr_name_is_valid(name), "attribute name")?;
    Ok((ino, name))
}

pub(super) fn xattr_name_is_valid(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= XATTR_NAME_LEN_MAX && !name.contains(&0)
}

/// Key of [`Table::Chunk`].
#[must_use]
pub const fn chunk(id: &ChunkId) -> [u8; 32] {
    *id.as_bytes()
}

/// Inverse of [`chunk`].
///
/// # Errors
/// `Malformed` if the key is not 32 bytes.
pub fn parse_chunk(key: &[u8]) -> Result<ChunkId> {
    let mut r = Reader::new("chunk key", key);
    let id = ChunkId::from_raw(r.array()?);
    r.finish()?;
    Ok(id)
}

/// Key of [`Table::Pack`].
#[must_use]
pub fn pack(id: PackId) -> [u8; 8] {
    id.raw().to_be_bytes()
}

/// Inverse of [`pack`].
///
/// # Errors
/// `Malformed` if the key is not 8 bytes or the number is 0.
pub fn parse_pack(key: &[u8]) -> Result<PackId> {
    let mut r = Reader::new("pack key", key);
    let id = PackId::from_raw(r.u64_be()?);
    r.ensure(id.raw() != 0, "pack 0")?;
    r.finish()?;
    Ok(id)
}

/// Key of [`Table::Snapshot`]: the name's UTF-8 bytes.
#[must_use]
pub fn snapshot(name: &str) -> Vec<u8> {
    name.as_bytes().to_vec()
}

/// Inverse of [`snapshot`].
///
/// # Errors
/// `Malformed` if the name is empty, longer than [`SNAPSHOT_NAME_LEN_MAX`], not UTF-8, or has a
/// control character or `/`.
pub fn parse_snapshot(key: &[u8]) -> Result<&str> {
    parse_name("snapshot key", key)
}

/// Key of [`Table::Counter`]: [`COUNTER_NEXT_INO`] or [`COUNTER_GENERATION`].
#[must_use]
pub fn counter(name: &str) -> Vec<u8> {
    name.as_bytes().to_vec()
}

/// Inverse of [`counter`].
///
/// # Errors
/// As [`parse_snapshot`].
pub fn parse_counter(key: &[u8]) -> Result<&str> {
    parse_name("counter key", key)
}

fn parse_name<'a>(what: &'static str, key: &'a [u8]) -> Result<&'a str> {
    let r = Reader::new(what, key);
    let name = std::str::from_utf8(key).map_err(|_| r.error("not UTF-8"))?;
    r.ensure(
        !name.is_empty() && name.len() <= SNAPSHOT_NAME_LEN_MAX,
        "length of the name",
    )?;
    r.ensure(
        !name.chars().any(|c| c.is_control() || c == '/'),
        "character in the name",
    )?;
    Ok(name)
}

/// Key of [`Table::Dirty`]: generation, inode, kind, sub; 25 bytes.
#[must_use]
pub fn dirty(generation: u64, key: DirtyKey) -> Vec<u8> {
    let (ino, kind, sub) = match key {
        DirtyKey::Inode(ino) => (ino, KIND_INODE, 0),
        DirtyKey::Segment(ino, idx) => (ino, KIND_SEGMENT, idx),
        DirtyKey::Dirent(dir, slot) => (dir, KIND_DIRENT, slot.raw()),
    };
    let mut w = Writer::with_capacity(25);
    w.u64_be(generation).u64_be(ino.raw()).u8(kind).u64_be(sub);
    w.finish()
}

/// Inverse of [`dirty`].
///
/// # Errors
/// `Malformed` if the key is not 25 bytes, the kind is unknown or a number is out of range.
pub fn parse_dirty(key: &[u8]) -> Result<(u64, DirtyKey)> {
    let mut r = Reader::new("dirty key", key);
    let generation = r.u64_be()?;
    let ino = read_ino(&mut r)?;
    let kind = r.u8()?;
    let sub = r.u64_be()?;
    let parsed = match kind {
        KIND_INODE => {
            r.ensure(sub == 0, "sub of a kind that has none")?;
            DirtyKey::Inode(ino)
        }
        KIND_SEGMENT => {
            r.ensure(sub <= FileOff::MAX.raw() / SEGMENT_LEN, "segment index")?;
            DirtyKey::Segment(ino, sub)
        }
        KIND_DIRENT => {
            let slot = Slot::from_raw(sub);
            r.ensure(slot_is_valid(slot), "slot out of range")?;
            DirtyKey::Dirent(ino, slot)
        }
        _ => return Err(r.error("unknown kind")),
    };
    r.finish()?;
    Ok((generation, parsed))
}

/// All keys that begin with the inode, in any table keyed by inode first: a half-open range.
#[must_use]
pub fn ino_range(ino: Ino) -> (Vec<u8>, Vec<u8>) {
    let from = ino.raw().to_be_bytes().to_vec();
    let to = match ino.raw().checked_add(1) {
        Some(next) => next.to_be_bytes().to_vec(),
        // Longer than any key of the prefix that a table may hold (a dirent name is not in its key).
        None => vec![0xff; 512],
    };
    (from, to)
}

/// The keys of a file's extents that start in a range of the file.
#[must_use]
pub fn extent_range(ino: Ino, offs: Range<FileOff>) -> (Vec<u8>, Vec<u8>) {
    (
        extent(ino, offs.start).to_vec(),
        extent(ino, offs.end).to_vec(),
    )
}

/// The keys of [`Table::Dirty`] of a half-open range of generations.
#[must_use]
pub fn dirty_range(generations: Range<u64>) -> (Vec<u8>, Vec<u8>) {
    (
        generations.start.to_be_bytes().to_vec(),
        generations.end.to_be_bytes().to_vec(),
    )
}

/// What a `Put` or `Del` of a key makes dirty: at most one thing.
///
/// One key suffices for an extent because an extent never crosses a multiple of
/// [`SEGMENT_LEN`]; see [`check_extent`].
///
/// # Errors
/// `Malformed` if the key does not parse.
pub fn dirty_of(table: Table, key: &[u8]) -> Result<Option<DirtyKey>> {
    Ok(match table {
        Table::Inode => Some(DirtyKey::Inode(parse_inode(key)?)),
        Table::Xattr => Some(DirtyKey::Inode(parse_xattr(key)?.0)),
        Table::Extent => {
            let (ino, off) = parse_extent(key)?;
            Some(DirtyKey::Segment(ino, segment_of(off)))
        }
        Table::Dirent => {
            let (dir, slot) = parse_dirent(key)?;
            Some(DirtyKey::Dirent(dir, slot))
        }
        Table::Link
        | Table::HardLink
        | Table::Chunk
        | Table::Orphan
        | Table::Snapshot
        | Table::SnapDir
        | Table::SnapFile
        | Table::Pack
        | Table::Counter
        | Table::Dirty => None,
    })
}

/// Index of the 64 MiB segment that an offset is in.
#[must_use]
pub const fn segment_of(off: FileOff) -> u64 {
    off.raw() / SEGMENT_LEN
}

/// Checks an extent's key against its value: the extent ends within 63 bits and within the
/// segment that it starts in.
///
/// # Errors
/// `Malformed` if it does not.
pub fn check_extent(off: FileOff, row: &ExtentRow) -> Result<()> {
    let r = Reader::new("extent", &[]);
    let within = off.raw() % SEGMENT_LEN + u64::from(row.len) <= SEGMENT_LEN;
    r.ensure(within, "crosses a segment boundary")?;
    let ends = off.end(ByteLen::from_raw(u64::from(row.len))).is_ok();
    r.ensure(ends, "ends past 63 bits")
}

fn read_ino(r: &mut Reader<'_>) -> Result<Ino> {
    let ino = Ino::from_raw(r.u64_be()?);
    r.ensure(ino.raw() != 0, "inode 0")?;
    Ok(ino)
}

fn read_slot(r: &mut Reader<'_>) -> Result<Slot> {
    let slot = Slot::from_raw(r.u64_be()?);
    r.ensure(slot_is_valid(slot), "slot out of range")?;
    Ok(slot)
}

const fn slot_is_valid(slot: Slot) -> bool {
    slot.raw() >= 256 && slot.raw() <= i64::MAX as u64
}
