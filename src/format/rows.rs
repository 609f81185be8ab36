//! Keys and values of the index tables, which are also the operations of commit records.

use crate::base::{ByteLen, ChunkId, Digest, Ino, PackId, PackOff, Slot, Timestamp};

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

/// Value of [`Table::SnapFile`]: a file that has a node of its own in the last snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapFileRow {
    /// Node of kind `File`.
    pub node: ChunkId,
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

/// What a dirty row says has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DirtyKey {
    /// Attributes, xattrs or target of an inode.
    Inode(Ino),
    /// A 64 MiB segment of a file, by index.
    Segment(Ino, u64),
    /// An entry of a directory.
    Dirent(Ino, Slot),
    /// The set of names of an inode.
    Links(Ino),
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
