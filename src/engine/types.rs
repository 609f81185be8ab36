//! The types that callers of the engine see.

use crate::base::limits::CLEAN_UNUSED_PERCENT;
use crate::base::{FileOff, Ino, Timestamp};

/// The kind of an inode, for callers of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Attributes of an inode as `stat(2)` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, `mode & 0o7777`.
    pub mode: u16,
    /// Number of names; 0 when only open handles keep it.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device major and minor number; 0 unless a device.
    pub rdev: (u32, u32),
    /// Logical size in bytes.
    pub size: u64,
    /// Allocated 512-byte blocks: what is not a hole, before compression.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// `FS_IMMUTABLE_FL`-style flags, as the ioctl carries them.
    pub flags: u32,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, for messages.
    pub pid: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The engine's clock.
    Now,
    /// This time.
    At(Timestamp),
}

/// Attributes to set; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// New size: truncates or extends by a hole.
    pub size: Option<FileOff>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the contents.
    pub mtime: Option<SetTime>,
    /// Last change of the inode (the kernel sends it with the writeback cache).
    pub ctime: Option<Timestamp>,
    /// Whether setuid/setgid and capabilities are to be dropped (`FATTR_KILL_SUIDGID`).
    pub kill_suid: bool,
}

/// A new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// What to make.
    pub kind: FileKind,
    /// Permission bits as asked for, before `umask`.
    pub mode: u16,
    /// The caller's umask; ignored where the directory has a default ACL.
    pub umask: u16,
    /// Device numbers; 0 unless a device.
    pub rdev: (u32, u32),
}

/// One entry of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirItem {
    /// Inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// The name.
    pub name: Vec<u8>,
    /// Pass this to `readdir` to continue after this entry.
    pub cookie: u64,
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// How to open a file. Permission checks are the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHow {
    /// Opened for reading.
    pub read: bool,
    /// Opened for writing.
    pub write: bool,
    /// `O_APPEND`.
    pub append: bool,
    /// `O_TRUNC`.
    pub truncate: bool,
    /// `O_SYNC` or `O_DSYNC`: each write is durable before it is answered.
    pub sync: bool,
}

/// How a write came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteHow {
    /// Drop setuid, setgid and capabilities (`FUSE_WRITE_KILL_SUIDGID`).
    pub kill_suid: bool,
    /// Written back from the kernel's page cache (`FUSE_WRITE_CACHE`): the kernel keeps the times and the
    /// size and sends them itself.
    pub cached: bool,
}

/// How `setxattr` treats an existing attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Any,
    /// `XATTR_CREATE`: fail if it exists.
    Create,
    /// `XATTR_REPLACE`: fail if it does not.
    Replace,
}

/// What `fallocate` does to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Makes sure that the range can be written; extends the file unless `keep_size`.
    Reserve {
        /// `FALLOC_FL_KEEP_SIZE`.
        keep_size: bool,
    },
    /// `FALLOC_FL_PUNCH_HOLE` (always with KEEP_SIZE).
    Punch,
    /// `FALLOC_FL_ZERO_RANGE`.
    Zero {
        /// `FALLOC_FL_KEEP_SIZE`.
        keep_size: bool,
    },
    /// `FALLOC_FL_COLLAPSE_RANGE`.
    Collapse,
    /// `FALLOC_FL_INSERT_RANGE`.
    Insert,
}

/// What to seek for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

/// Flags of `renameat2(2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameHow {
    /// `RENAME_NOREPLACE`.
    pub no_replace: bool,
    /// `RENAME_EXCHANGE`.
    pub exchange: bool,
}

/// What `statfs(2)` shows. Blocks are of `block_len` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes per block.
    pub block_len: u32,
    /// Capacity of the backing filesystem.
    pub blocks: u64,
    /// Free blocks of the backing filesystem.
    pub free: u64,
    /// Free blocks for unprivileged users.
    pub available: u64,
    /// Inodes in use plus free ones.
    pub files: u64,
    /// Inodes that can still be made.
    pub files_free: u64,
}

/// A snapshot as listings show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// `mmh1…`
    pub seed: String,
    /// `mmc1…`
    pub content: String,
    /// The 128-bit short form, 64 letters ACGT.
    pub dna: String,
    /// When it was taken.
    pub created: Timestamp,
    /// Entries in the tree.
    pub entries: u64,
    /// Logical bytes in the tree.
    pub bytes: u64,
}

/// One difference between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffItem {
    /// What happened to it.
    pub change: Change,
    /// Path relative to the root.
    pub path: Vec<u8>,
    /// For [`Change::Renamed`]: where it was.
    pub from: Option<Vec<u8>>,
}

/// The kinds of differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Only in the second tree.
    Added,
    /// Only in the first tree.
    Removed,
    /// Contents differ.
    Changed,
    /// Attributes or xattrs differ, contents do not.
    Attributes,
    /// The same content under another name.
    Renamed,
}

/// Facts about a store and its tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Store id in hexadecimal.
    pub store_id: String,
    /// Format version.
    pub format_version: u32,
    /// Bytes in pack files.
    pub pack_bytes: u64,
    /// Number of pack files.
    pub packs: u64,
    /// Bytes of the index directory.
    pub index_bytes: u64,
    /// Inodes of the live tree.
    pub inodes: u64,
    /// Logical bytes of the live tree's files.
    pub logical_bytes: u64,
    /// Distinct chunks and nodes.
    pub chunks: u64,
    /// Their bytes before compression.
    pub chunk_bytes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Last committed log sequence number.
    pub lsn: u64,
    /// Memory of file data not yet committed.
    pub dirty_bytes: u64,
    /// What the packs held when the store was last cleaned or counted since it was opened.
    pub space: Option<SpaceUse>,
    /// Parity and repair.
    pub parity: ParityStats,
}

/// Facts about the parity of a store, and about damage since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParityStats {
    /// Parity in percent of what it protects; 0: the store has none.
    pub percent: u64,
    /// Parity files that can be read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Parity files that cannot be read.
    pub unreadable: u64,
    /// Packs that the parity of a group protects.
    pub packs_in_groups: u64,
    /// Packs that have parity of their own.
    pub packs_alone: u64,
    /// Packs that a group protects of which other members are gone: with less parity than the others, or too
    /// little for any repair.
    pub packs_weakened: u64,
    /// Packs that no parity protects, those that are being written to included.
    pub packs_bare: u64,
    /// Of these the ones that are damaged, which parity would preserve.
    pub packs_refused: u64,
    /// Pieces of work that wait: packs to be protected or repaired, groups to be made, files to be removed.
    pub pending: u64,
    /// Frames that cannot be read from the disk, as far as is known.
    pub damaged_frames: u64,
    /// Of these those that parity cannot bring back either.
    pub lost_frames: u64,
    /// Frames that reads have got from parity.
    pub reads_healed: u64,
    /// Packs that were repaired.
    pub packs_repaired: u64,
    /// Why parity is not complete, if something is in its way.
    pub trouble: Option<String>,
}

/// Which snapshots are kept when others are forgotten. Counts of 0 are no rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepPolicy {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of so many days, UTC.
    pub daily: u32,
    /// The newest of each of so many weeks, which begin on Monday.
    pub weekly: u32,
    /// The newest of each of so many months.
    pub monthly: u32,
    /// The newest of each of so many years.
    pub yearly: u32,
    /// Those whose names fit one of these patterns, with `*` and `?`.
    pub names: Vec<String>,
}

/// What a policy has kept and what not, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForgetReport {
    /// Snapshots that stay.
    pub kept: Vec<SnapshotInfo>,
    /// Snapshots that were deleted, or would be.
    pub removed: Vec<SnapshotInfo>,
}

/// How a store is cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanOptions {
    /// Change nothing, only count.
    pub dry_run: bool,
    /// Dead bytes, in percent of the live ones, that may stay in packs that are mostly live.
    pub unused_percent: u64,
}

impl Default for CleanOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            unused_percent: CLEAN_UNUSED_PERCENT,
        }
    }
}

/// What a cleaning has just done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanStep {
    /// It is known what is live.
    Marked,
    /// It is known what each pack holds.
    Counted,
    /// What is live in a pack is durable elsewhere.
    Moved,
    /// The log says that a pack is gone.
    Retired,
    /// A pack has been worked on, or must stay.
    Emptied,
    /// The index is on disk; files are about to be removed.
    Flushed,
    /// Files were removed.
    Removed,
    /// A checkpoint of the index was written, verified and given its name.
    Checkpointed,
}

/// What the pack files hold, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceUse {
    /// Needed by the live tree or a snapshot.
    pub live_bytes: u64,
    /// Of files and snapshots that were deleted: cleaning gives them back, now or when enough of a pack is dead.
    pub pending_bytes: u64,
    /// In files that nothing names, such as a crash leaves: cleaning removes them.
    pub leaked_bytes: u64,
    /// Of the log, from which the index can be made anew.
    pub log_bytes: u64,
}

/// What a cleaning has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// What the packs held before.
    pub space: SpaceUse,
    /// Bytes of all pack files before.
    pub pack_bytes_before: u64,
    /// Bytes of all pack files after.
    pub pack_bytes_after: u64,
    /// Pack files that were removed.
    pub packs_removed: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Stored bytes that were moved to new packs.
    pub moved_bytes: u64,
    /// Packs that would have been removed, each with the reason why it stays.
    pub kept: Vec<String>,
}

/// How a store is scrubbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Bring back what parity allows, and write damaged copies anew.
    pub repair: bool,
    /// Bytes that are read in a second at most; `None` as fast as it goes.
    pub rate: Option<u64>,
    /// Begin anew, and not where a scrub was interrupted.
    pub restart: bool,
}

/// What has become of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageState {
    /// It is repaired: the file is byte for byte what it was.
    Repaired,
    /// It was not repaired because nobody asked for it; parity or another copy is there.
    Repairable,
    /// No parity covers the file.
    Unprotected,
    /// There is more damage than parity, or the repair has failed.
    BeyondRepair,
}

impl DamageState {
    /// Its name, as scripts see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repaired => "repaired",
            Self::Repairable => "repairable",
            Self::Unprotected => "unprotected",
            Self::BeyondRepair => "beyond-repair",
        }
    }
}

/// A damaged file of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubDamage {
    /// Its name within the store.
    pub file: String,
    /// The bytes that are damaged, ascending; none if the whole file is written anew in any case. Of a pack beyond repair
    /// those that cannot be computed.
    pub ranges: Vec<std::ops::Range<u64>>,
    /// What is wrong.
    pub detail: String,
    /// What has become of it.
    pub state: DamageState,
    /// Paths that cannot be read because of it: of the live tree, and `snapshot:path`.
    pub paths: Vec<String>,
    /// Number of further ones.
    pub paths_more: u64,
}

/// What a scrub has read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Packs that were read.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs among them that no parity covers.
    pub unprotected: u64,
    /// Parity files that were read.
    pub parity_files: u64,
    /// Files of which damage was repaired.
    pub repaired: u64,
    /// Files of which damage is left.
    pub left: u64,
    /// What was damaged.
    pub damaged: Vec<ScrubDamage>,
    /// Number of further damaged files.
    pub damaged_more: u64,
    /// Where damaged files are kept that were replaced.
    pub quarantined: Vec<String>,
    /// The pack at which it went on, if an earlier one was interrupted.
    pub resumed_at: Option<crate::base::PackId>,
    /// Whether it came to its end.
    pub is_finished: bool,
}

/// Facts about one file, shown as `user.mmhfs.*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// Logical size.
    pub size: u64,
    /// Share of the stored frames, in bytes.
    pub stored: u64,
    /// Extents.
    pub extents: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Names of the codecs in use, sorted.
    pub codecs: Vec<String>,
}

/// What `verify` and `check` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Packs read.
    pub packs: u64,
    /// Frames read.
    pub frames: u64,
    /// Commit records read.
    pub records: u64,
    /// Entries of trees walked.
    pub entries: u64,
    /// Bytes read or hashed.
    pub bytes: u64,
    /// Packs that no parity covers: no problem, but what is damaged in them cannot be repaired. Only `check` counts them.
    pub unprotected: Option<u64>,
    /// Each problem in words: pack, offset, path.
    pub problems: Vec<Problem>,
}

/// One problem that `check` or `verify` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Pack file, if one is concerned.
    pub pack: Option<String>,
    /// Offset in it.
    pub offset: Option<u64>,
    /// Paths (or `snapshot:path`) that cannot be read because of it.
    pub paths: Vec<String>,
    /// What is wrong.
    pub detail: String,
}

/// Progress of a long operation; the callback is called at most some times per second per thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries done.
    pub entries: u64,
    /// Entries in all, 0 if unknown.
    pub entries_total: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, 0 if unknown.
    pub bytes_total: u64,
}
