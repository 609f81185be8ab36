//! Keys and values of the index tables, which are also the operations of commit records.

use super::cursor::{Reader, Writer, malformed};
use crate::base::limits::{
    CHUNK_LEN_MAX, FRAME_CHUNKS_MAX, FRAME_RAW_LEN_MAX, NAME_LEN_MAX, SYMLINK_LEN_MAX,
};
use crate::base::{
    ByteLen, ChunkId, Digest, FileOff, Ino, PackId, PackOff, Result, Slot, Timestamp,
};

/// A table of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// ino → [`InodeRow`].
    Inode = 1,
    /// dir, slot → [`DirentRow`].
    Dirent = 2,
    /// ino, dir, slot → empty.
    Link = 3,
    /// ino, file offset → [`ExtentRow`].
    Extent = 4,
    /// ino, attribute name → the value as it is.
    Xattr = 5,
    /// chunk id → [`ChunkRow`].
    Chunk = 6,
    /// ino → empty.
    Orphan = 7,
    /// snapshot name → [`SnapshotRow`].
    Snapshot = 8,
    /// ino → [`SnapDirRow`].
    SnapDir = 9,
    /// ino → [`SnapFileRow`].
    SnapFile = 10,
    /// pack id → [`PackRow`].
    Pack = 11,
    /// counter name → u64 little endian.
    Counter = 12,
    /// generation, ino, kind, sub → empty. Derived, except for `DelRange` in snapshot commits.
    Dirty = 13,
    /// ino → ino of a directory, u64 little endian: where its group belonged in the last snapshot.
    HardLink = 14,
}

impl Table {
    /// Every table, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Inode,
        Self::Dirent,
        Self::Link,
        Self::Extent,
        Self::Xattr,
        Self::Chunk,
        Self::Orphan,
        Self::Snapshot,
        Self::SnapDir,
        Self::SnapFile,
        Self::Pack,
        Self::Counter,
        Self::Dirty,
        Self::HardLink,
    ];

    /// The table of a stored number.
    ///
    /// # Errors
    /// `Malformed` if no table has the number.
    pub fn from_raw(raw: u8) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|table| table.raw() == raw);
        found.ok_or(malformed("operation", "unknown table"))
    }

    /// The number that is stored.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self as u8
    }

    /// The name of the table's column family in the index.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inode => "inode",
            Self::Dirent => "dirent",
            Self::Link => "link",
            Self::Extent => "extent",
            Self::Xattr => "xattr",
            Self::Chunk => "chunk",
            Self::Orphan => "orphan",
            Self::Snapshot => "snapshot",
            Self::SnapDir => "snap_dir",
            Self::SnapFile => "snap_file",
            Self::Pack => "pack",
            Self::Counter => "counter",
            Self::Dirty => "dirty",
            Self::HardLink => "hard_link",
        }
    }
}

/// The kind of an inode. The numbers are those of docs/seed.md except that 2 is not used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Regular file.
    File = 1,
    /// Directory.
    Dir = 3,
    /// Symbolic link.
    Symlink = 4,
    /// Named pipe.
    Fifo = 5,
    /// Unix socket.
    Socket = 6,
    /// Character device.
    CharDevice = 7,
    /// Block device.
    BlockDevice = 8,
}

impl Kind {
    /// The kind of a stored number.
    ///
    /// # Errors
    /// `Malformed` if no kind has the number.
    pub fn from_raw(raw: u8) -> Result<Self> {
        Ok(match raw {
            1 => Self::File,
            3 => Self::Dir,
            4 => Self::Symlink,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::CharDevice,
            8 => Self::BlockDevice,
            _ => return Err(malformed("kind", "unknown kind of inode")),
        })
    }

    /// The number that is stored.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self as u8
    }

    /// Whether it is a character or block device.
    #[must_use]
    pub const fn is_device(self) -> bool {
        matches!(self, Self::CharDevice | Self::BlockDevice)
    }
}

/// Attributes that a row and a snapshot entry share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attrs {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, `mode & 0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device major number; 0 unless a device.
    pub rdev_major: u32,
    /// Device minor number; 0 unless a device.
    pub rdev_minor: u32,
    /// Inode flags: [`FLAG_IMMUTABLE`], [`FLAG_APPEND`], [`FLAG_HAS_XATTRS`].
    pub flags: u32,
    /// Logical size in bytes (symlink: length of the target; directory: number of entries).
    pub size: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
}

impl Attrs {
    /// Length of the encoding in bytes.
    pub const ENCODED_LEN: usize = 80;

    pub(super) fn write(&self, w: &mut Writer) {
        w.u8(self.kind.raw()).u8(0).u16(self.mode).u32(self.flags);
        w.u32(self.uid).u32(self.gid);
        w.u32(self.rdev_major).u32(self.rdev_minor).u64(self.size);
        w.timestamp(self.atime).timestamp(self.mtime);
        w.timestamp(self.ctime).timestamp(self.btime);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self> {
        let kind = Kind::from_raw(r.u8()?)?;
        r.zeros(1)?;
        let attrs = Self {
            kind,
            mode: r.u16()?,
            flags: r.u32()?,
            uid: r.u32()?,
            gid: r.u32()?,
            rdev_major: r.u32()?,
            rdev_minor: r.u32()?,
            size: r.u64()?,
            atime: r.timestamp()?,
            mtime: r.timestamp()?,
            ctime: r.timestamp()?,
            btime: r.timestamp()?,
        };
        r.ensure(attrs.mode <= 0o7777, "mode has unknown bits")?;
        r.ensure(attrs.flags & !FLAGS_KNOWN == 0, "unknown inode flags")?;
        r.ensure(attrs.size <= FileOff::MAX.raw(), "size exceeds 63 bits")?;
        let no_rdev = attrs.rdev_major == 0 && attrs.rdev_minor == 0;
        r.ensure(
            kind.is_device() || no_rdev,
            "device number of something that is no device",
        )?;
        Ok(attrs)
    }
}

/// `chattr +i`.
pub const FLAG_IMMUTABLE: u32 = 1;
/// `chattr +a`.
pub const FLAG_APPEND: u32 = 2;
/// The inode has at least one row in `Xattr`.
pub const FLAG_HAS_XATTRS: u32 = 4;
/// `chattr +d` (nodump), kept for programs that set it.
pub const FLAG_NODUMP: u32 = 8;
/// `chattr +A` (noatime).
pub const FLAG_NOATIME: u32 = 16;
/// `chattr +S` (sync).
pub const FLAG_SYNC: u32 = 32;
/// All flags that this version knows.
pub const FLAGS_KNOWN: u32 =
    FLAG_IMMUTABLE | FLAG_APPEND | FLAG_HAS_XATTRS | FLAG_NODUMP | FLAG_NOATIME | FLAG_SYNC;

/// Value of [`Table::Inode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeRow {
    /// Attributes.
    pub attrs: Attrs,
    /// Number of names; of a directory 2 + its subdirectories; 0 while only open handles keep it.
    pub nlink: u32,
    /// Bytes mapped by extents: what `st_blocks` reports, in bytes.
    pub mapped: u64,
    /// Directory: the parent's ino (the root's is itself). 0 for anything else.
    pub parent: Ino,
    /// Target of a symbolic link; empty otherwise.
    pub target: Vec<u8>,
}

impl InodeRow {
    /// The canonical encoding (docs/format.md, "Rows").
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Attrs::ENCODED_LEN + 22 + self.target.len());
        self.attrs.write(&mut w);
        w.u32(self.nlink).u64(self.mapped).u64(self.parent.raw());
        w.len_u16(self.target.len()).bytes(&self.target);
        let bytes = w.finish();
        debug_assert!(Self::decode(&bytes).as_ref().is_ok_and(|row| row == self));
        bytes
    }

    /// Inverse of `encode`.
    ///
    /// # Errors
    /// `Malformed` for bytes that `encode` does not make of a valid row.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("inode row", bytes);
        let attrs = Attrs::read(&mut r)?;
        let nlink = r.u32()?;
        let mapped = r.u64()?;
        let parent = Ino::from_raw(r.u64()?);
        let target_len = usize::from(r.u16()?);
        let target = r.bytes(target_len)?;
        let is_dir = attrs.kind == Kind::Dir;
        r.ensure(is_dir == (parent.raw() != 0), "parent of a directory only")?;
        if attrs.kind == Kind::Symlink {
            r.ensure(target_is_valid(target), "symlink target")?;
            let same = u64::try_from(target_len) == Ok(attrs.size);
            r.ensure(same, "size of a symlink is its target's length")?;
        } else {
            r.ensure(target.is_empty(), "target without a symlink")?;
        }
        let target = target.to_vec();
        r.finish()?;
        Ok(Self {
            attrs,
            nlink,
            mapped,
            parent,
            target,
        })
    }
}

/// Value of [`Table::Dirent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirentRow {
    /// The inode.
    pub ino: Ino,
    /// Its kind, so that readdir needs no inode.
    pub kind: Kind,
    /// The name: 1 to 255 bytes, no `/`, no NUL.
    pub name: Vec<u8>,
}

impl DirentRow {
    /// The canonical encoding (docs/format.md, "Rows").
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(9 + self.name.len());
        w.u64(self.ino.raw()).u8(self.kind.raw()).bytes(&self.name);
        let bytes = w.finish();
        debug_assert!(Self::decode(&bytes).as_ref().is_ok_and(|row| row == self));
        bytes
    }

    /// Inverse of `encode`.
    ///
    /// # Errors
    /// `Malformed` for bytes that `encode` does not make of a valid row.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("dirent row", bytes);
        let ino = Ino::from_raw(r.u64()?);
        r.ensure(ino.raw() != 0, "inode 0")?;
        let kind = Kind::from_raw(r.u8()?)?;
        let name = r.rest();
        r.ensure(name_is_valid(name), "name of an entry")?;
        Ok(Self {
            ino,
            kind,
            name: name.to_vec(),
        })
    }
}

/// Value of [`Table::Extent`]: a run of a file that is a run of a chunk. Gaps between extents are holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentRow {
    /// Length in bytes, at least 1.
    pub len: u32,
    /// The chunk.
    pub chunk: ChunkId,
    /// First byte within the chunk.
    pub chunk_off: u32,
}

impl ExtentRow {
    /// Length of the encoding in bytes.
    pub const ENCODED_LEN: usize = 40;

    pub(super) fn write(&self, w: &mut Writer) {
        w.u32(self.len).u32(self.chunk_off);
        w.bytes(self.chunk.as_bytes());
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self> {
        let len = r.u32()?;
        let chunk_off = r.u32()?;
        let chunk = ChunkId::from_raw(r.array()?);
        r.ensure(len != 0, "extent of length 0")?;
        r.ensure(
            ends_within(chunk_off, len, CHUNK_LEN_MAX),
            "extent exceeds the largest chunk",
        )?;
        Ok(Self {
            len,
            chunk,
            chunk_off,
        })
    }

    /// The canonical encoding (docs/format.md, "Rows").
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::ENCODED_LEN);
        self.write(&mut w);
        let bytes = w.finish();
        debug_assert!(Self::decode(&bytes).as_ref().is_ok_and(|row| row == self));
        bytes
    }

    /// Inverse of `encode`.
    ///
    /// # Errors
    /// `Malformed` for bytes that `encode` does not make of a valid row.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("extent row", bytes);
        let row = Self::read(&mut r)?;
        r.finish()?;
        Ok(row)
    }
}

/// Value of [`Table::Chunk`]: where a chunk or node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRow {
    /// The pack.
    pub pack: PackId,
    /// Offset of the frame's header in the pack.
    pub frame: PackOff,
    /// Length of the whole frame in the pack: header, directory, payload, padding.
    pub frame_len: u32,
    /// Index of the chunk in the frame.
    pub idx: u16,
    /// Offset of the chunk in the decoded payload.
    pub raw_off: u32,
    /// Length of the chunk.
    pub len: u32,
}

impl ChunkRow {
    /// The canonical encoding (docs/format.md, "Rows").
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(30);
        w.u64(self.pack.raw()).u64(self.frame.raw());
        w.u32(self.frame_len).u16(self.idx);
        w.u32(self.raw_off).u32(self.len);
        let bytes = w.finish();
        debug_assert!(Self::decode(&bytes).as_ref().is_ok_and(|row| row == self));
        bytes
    }

    /// Inverse of `encode`.
    ///
    /// # Errors
    /// `Malformed` for bytes that `encode` does not make of a valid row.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("chunk row", bytes);
        let row = Self {
            pack: PackId::from_raw(r.u64()?),
            frame: PackOff::from_raw(r.u64()?),
            frame_len: r.u32()?,
            idx: r.u16()?,
            raw_off: r.u32()?,
            len: r.u32()?,
        };
        r.ensure(row.pack.raw() != 0, "pack 0")?;
        r.ensure(
            row.frame.raw() != 0 && row.frame.raw().is_multiple_of(8),
            "frame offset",
        )?;
        r.ensure(
            row.frame_len != 0 && row.frame_len.is_multiple_of(8),
            "frame length",
        )?;
        r.ensure(
            usize::from(row.idx) < FRAME_CHUNKS_MAX,
            "index in the frame",
        )?;
        let fits = ends_within(row.raw_off, row.len, FRAME_RAW_LEN_MAX);
        r.ensure(row.len != 0 && fits, "range in the frame")?;
        r.finish()?;
        Ok(row)
    }
}

/// Value of [`Table::Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Digest of the root record: the seed.
    pub seed: Digest,
    /// Content digest of the root.
    pub content: Digest,
    /// Node of kind `Root`.
    pub root: ChunkId,
    /// When it was taken.
    pub created: Timestamp,
    /// Order of creation: the snapshot generation it closed.
    pub generation: u64,
    /// Regular files, directories and other inodes, hard links counted once per name.
    pub entries: u64,
    /// Sum of the logical sizes of all regular files.
    pub bytes: u64,
}

impl SnapshotRow {
    /// The canonical encoding (docs/format.md, "Rows").
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(132);
        w.bytes(self.seed.as_bytes()).bytes(self.content.as_bytes());
        w.bytes(self.root.as_bytes()).timestamp(self.created);
        w.u64(self.generation).u64(self.entries).u64(self.bytes);
        let bytes = w.finish();
        debug_assert!(Self::decode(&bytes).as_ref().is_ok_and(|row| row == self));
        bytes
    }

    /// Inverse of `encode`.
    ///
    /// # Errors
    /// `Malformed` for bytes that `encode` does not make of a valid row.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("snapshot row", bytes);
        let row = Self {
            seed: r.digest()?,
            content: r.digest()?,
            root: ChunkId::from_raw(r.array()?),
            created: r.timestamp()?,
            generation: r.u64()?,
            entries: r.u64()?,
            bytes: r.u64()?,
        };
        r.finish()?;
        Ok(row)
    }
}

/// Value of [`Table::SnapDir`]: a directory as of the last snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapDirRow {
    /// Root node of its trie.
    pub trie: ChunkId,
    /// Its content digest.
    pub content: Digest,
    /// Digest of its hard-link groups (docs/seed.md).
    pub groups: Digest,
    /// Full digest.
    pub full: Digest,
    /// Entries in the directory itself.
    pub count: u64,
    /// Entries of the whole subtree, without the directory itself.
    pub entries: u64,
    /// Logical bytes of the whole subtree.
    pub bytes: u64,
}

impl SnapDirRow {
    /// The canonical encoding (docs/format.md, "Rows").
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(152);
        w.bytes(self.trie.as_bytes()).bytes(self.content.as_bytes());
        w.bytes(self.groups.as_bytes()).bytes(self.full.as_bytes());
        w.u64(self.count).u64(self.entries).u64(self.bytes);
        let bytes = w.finish();
        debug_assert!(Self::decode(&bytes).as_ref().is_ok_and(|row| row == self));
        bytes
    }

    /// Inverse of `encode`.
    ///
    /// # Errors
    /// `Malformed` for bytes that `encode` does not make of a valid row.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("snapshot directory row", bytes);
        let row = Self {
            trie: ChunkId::from_raw(r.array()?),
            content: r.digest()?,
            groups: r.digest()?,
            full: r.digest()?,
            count: r.u64()?,
            entries: r.u64()?,
            bytes: r.u64()?,
        };
        r.finish()?;
        Ok(row)
    }
}

/// Value of [`Table::SnapFile`]: a file that has a node of its own in the last snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapFileRow {
    /// Node of kind `File`.
    pub node: ChunkId,
}

impl SnapFileRow {
    /// The canonical encoding (docs/format.md, "Rows").
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(32);
        w.bytes(self.node.as_bytes());
        let bytes = w.finish();
        debug_assert!(Self::decode(&bytes).as_ref().is_ok_and(|row| row == self));
        bytes
    }

    /// Inverse of `encode`.
    ///
    /// # Errors
    /// `Malformed` for bytes that `encode` does not make of a valid row.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("snapshot file row", bytes);
        let node = ChunkId::from_raw(r.array()?);
        r.finish()?;
        Ok(Self { node })
    }
}

/// LOG or DATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PackKind {
    /// Commit records and inline frames.
    Log = 1,
    /// Frames only.
    Data = 2,
}

impl PackKind {
    /// The kind of a stored number.
    ///
    /// # Errors
    /// `Malformed` if no kind has the number.
    pub fn from_raw(raw: u8) -> Result<Self> {
        match raw {
            1 => Ok(Self::Log),
            2 => Ok(Self::Data),
            _ => Err(malformed("pack", "unknown kind of pack")),
        }
    }

    /// The number that is stored.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self as u8
    }
}

/// Value of [`Table::Pack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackRow {
    /// LOG or DATA.
    pub kind: PackKind,
    /// Bytes of the pack that are durable as of this row.
    pub len: ByteLen,
    /// Digest of the whole file once it is sealed.
    pub sealed: Option<Digest>,
}

impl PackRow {
    /// The row of a LOG pack without a footer of which `len` bytes count.
    #[must_use]
    pub const fn log(len: ByteLen) -> Self {
        Self {
            kind: PackKind::Log,
            len,
            sealed: None,
        }
    }

    /// The canonical encoding (docs/format.md, "Rows").
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(42);
        w.u8(self.kind.raw()).u8(u8::from(self.sealed.is_some()));
        w.u64(self.len.raw());
        if let Some(digest) = &self.sealed {
            w.bytes(digest.as_bytes());
        }
        let bytes = w.finish();
        debug_assert!(Self::decode(&bytes).as_ref().is_ok_and(|row| row == self));
        bytes
    }

    /// Inverse of `encode`.
    ///
    /// # Errors
    /// `Malformed` for bytes that `encode` does not make of a valid row.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("pack row", bytes);
        let kind = PackKind::from_raw(r.u8()?)?;
        let is_sealed = r.u8()?;
        r.ensure(is_sealed <= 1, "seal flag")?;
        let len = ByteLen::from_raw(r.u64()?);
        let sealed = match is_sealed {
            0 => None,
            _ => Some(r.digest()?),
        };
        r.finish()?;
        Ok(Self { kind, len, sealed })
    }
}

/// What a dirty row says has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DirtyKey {
    /// Attributes, xattrs or target of an inode.
    Inode(Ino),
    /// A 64 MiB segment of a file, by index.
    Segment(Ino, u64),
    /// An entry of a directory.
    Dirent(Ino, Slot),
}

/// One operation of a commit record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The key has this value from now on.
    Put(Table, Vec<u8>, Vec<u8>),
    /// The key has no value from now on.
    Del(Table, Vec<u8>),
    /// No key in `from..to` has a value from now on.
    DelRange(Table, Vec<u8>, Vec<u8>),
}

/// The value of [`Table::Counter`].
#[must_use]
pub const fn encode_counter(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

/// Inverse of [`encode_counter`].
///
/// # Errors
/// `Malformed` unless there are exactly 8 bytes.
pub fn decode_counter(bytes: &[u8]) -> Result<u64> {
    let mut r = Reader::new("counter row", bytes);
    let value = r.u64()?;
    r.finish()?;
    Ok(value)
}

/// Whether bytes may be the name of a directory entry.
#[must_use]
pub fn name_is_valid(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

/// Whether bytes may be the target of a symbolic link.
#[must_use]
pub fn target_is_valid(target: &[u8]) -> bool {
    !target.is_empty() && target.len() <= SYMLINK_LEN_MAX && !target.contains(&0)
}

/// Whether `off..off + len` lies within `0..max`.
fn ends_within(off: u32, len: u32, max: usize) -> bool {
    let end = u64::from(off) + u64::from(len);
    usize::try_from(end).is_ok_and(|end| end <= max)
}
