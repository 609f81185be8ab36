//! The one error type of the library. It says what happened, never an errno; `fuse::errno` maps it.

use std::io;
use std::path::PathBuf;

use super::ids::{PackId, PackOff};

/// The library's result type.
pub type Result<T> = std::result::Result<T, Error>;

/// A place in a store: which pack and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The pack file.
    pub pack: PackId,
    /// Byte offset in it.
    pub off: PackOff,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pack {} offset {}", self.pack, self.off)
    }
}

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- what POSIX callers may run into -------------------------------------------------------
    /// No such file, directory, snapshot entry.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory was given where none may be.
    #[error("is a directory")]
    IsDirectory,
    /// The directory still has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// A name of more than 255 bytes or a symlink target of more than 4095.
    #[error("name too long")]
    NameTooLong,
    /// More hard links than an inode can count.
    #[error("too many links")]
    TooManyLinks,
    /// The backing disk or the size limit is full.
    #[error("no space left")]
    NoSpace,
    /// The mount, the view or the store is read-only.
    #[error("read-only: {0}")]
    ReadOnly(&'static str),
    /// The operation is not permitted on this object (immutable, append-only, owner only).
    #[error("operation not permitted: {0}")]
    NotPermitted(&'static str),
    /// A permission bit denies the access.
    #[error("permission denied")]
    AccessDenied,
    /// An argument makes no sense for this object.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The caller's buffer is too small for the attribute or the list.
    #[error("result too large for the buffer")]
    BufferTooSmall,
    /// An attribute value or list that is larger than the limits.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// A size or offset above 2^63 - 1.
    #[error("file too large")]
    FileTooLarge,
    /// The operation is not offered for this kind of object.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// The two objects live in different trees (live tree, snapshots).
    #[error("cross-device link")]
    CrossTree,
    /// The object is in use in a way that forbids the operation.
    #[error("busy: {0}")]
    Busy(&'static str),
    /// A handle or inode number that the engine does not know.
    #[error("stale handle")]
    Stale,
    /// `SEEK_DATA` or `SEEK_HOLE` at or past the end of the file.
    #[error("no data or hole at or after the offset")]
    PastEnd,

    // ---- the store -----------------------------------------------------------------------------
    /// Stored bytes that do not match their checksum or digest, or do not decode.
    #[error("damaged: {what} at {site}: {detail}")]
    Corrupt {
        /// The kind of record.
        what: &'static str,
        /// Where it is.
        site: Site,
        /// What did not match.
        detail: String,
    },
    /// A checkpoint does not verify, and no other can take its place.
    #[error("{} is damaged at {offset}: {detail}", path.display())]
    CheckpointDamaged {
        /// The file.
        path: PathBuf,
        /// Offset in it.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// The log cannot be replayed: a record before its end does not verify.
    #[error(
        "damaged log: {detail} at {site} in {path}; nothing was changed; restore this pack file from a copy"
    )]
    LogDamaged {
        /// The pack file.
        path: PathBuf,
        /// Where in it.
        site: Site,
        /// What did not match.
        detail: String,
    },
    /// A pack file that the log names is not there.
    #[error(
        "pack file {path} is missing; nothing was changed; put it back, or mount read-only to read what is left"
    )]
    PackMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Damage that a parity file covers, in a store that may not be changed.
    #[error("{source}; parity may bring it back: run `mmhfs scrub --repair {}`", store.display())]
    Repairable {
        /// The store.
        store: PathBuf,
        /// The damage.
        #[source]
        source: Box<Error>,
    },
    /// A pack file is shorter than the log says.
    #[error(
        "pack file {path} is truncated: {found_bytes} bytes, {expected_bytes} expected; nothing was changed"
    )]
    PackTruncated {
        /// The pack file.
        path: PathBuf,
        /// Its length.
        found_bytes: u64,
        /// The length that the log vouches for.
        expected_bytes: u64,
    },
    /// Bytes that do not decode; the caller adds where they were read.
    #[error("malformed {what}: {detail}")]
    Malformed {
        /// The kind of record.
        what: &'static str,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// What went wrong with one file or directory of a tree.
    #[error("{path}: {source}")]
    InFile {
        /// Its path relative to the root of the tree.
        path: String,
        /// What went wrong.
        #[source]
        source: Box<Error>,
    },
    /// A chunk or node that the index does not know although something names it.
    #[error("chunk {0} is not in the index; run `mmhfs rebuild-index`, then `mmhfs check`")]
    ChunkUnknown(String),
    /// The directory is not an mmhfs store.
    #[error("{path} is not an mmhfs store: {detail}")]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is missing or foreign.
        detail: String,
    },
    /// `init` was pointed at something that is not an empty directory.
    #[error("{path} cannot become a store: {detail}")]
    CannotInit {
        /// The directory.
        path: PathBuf,
        /// Why.
        detail: &'static str,
    },
    /// No copy of the superblock can be used.
    #[error("no usable superblock in {path}: {detail}")]
    Superblock {
        /// The store.
        path: PathBuf,
        /// What each copy suffers from.
        detail: String,
    },
    /// The store was written by a newer mmhfs.
    #[error(
        "store format version {found} is newer than this program supports ({supported}); upgrade mmhfs"
    )]
    VersionTooNew {
        /// The store's version.
        found: u32,
        /// The newest that this program can open.
        supported: u32,
    },
    /// The store uses features that this program does not know.
    #[error("store uses unknown {kind} features {bits:#x}; upgrade mmhfs")]
    UnknownFeatures {
        /// "incompatible" or "read-only compatible".
        kind: &'static str,
        /// The unknown bits.
        bits: u64,
    },
    /// Another process has the store open.
    #[error("store {path} is in use by {holder}")]
    Locked {
        /// The store.
        path: PathBuf,
        /// "pid N on HOST", as the holder wrote it.
        holder: String,
    },
    /// A commit failed earlier and the store accepts no more changes until it is opened again.
    #[error("store is read-only since an earlier failure: {0}; unmount and mount again")]
    Halted(String),
    /// The index (RocksDB) failed.
    #[error("index: {op}: {detail}")]
    Index {
        /// What was being done.
        op: &'static str,
        /// RocksDB's words.
        detail: String,
    },
    /// The index is damaged, incomplete or of another program: it has to be made anew, which loses nothing.
    #[error("index: {op}: {detail}; run `mmhfs rebuild-index`")]
    IndexDamaged {
        /// What was being done.
        op: &'static str,
        /// RocksDB's words.
        detail: String,
    },
    /// The operating system refused an operation on the store or on a plain file.
    #[error("{op}: {source}")]
    Io {
        /// The operation and the file, as in "fdatasync packs/…17.log".
        op: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },

    // ---- seeds and snapshots -------------------------------------------------------------------
    /// Text that is not a seed in any of its forms.
    #[error("{text:?} is not a seed: {detail}")]
    SeedSyntax {
        /// What was given.
        text: String,
        /// A mistyped character, a wrong length, an unknown prefix.
        detail: String,
    },
    /// A well-formed seed that no snapshot of this store has.
    #[error(
        "no snapshot of this store has the seed or name {0}; `mmhfs snapshots` lists what there is"
    )]
    SeedUnknown(String),
    /// A short form that fits several snapshots.
    #[error("{0} fits several snapshots; use the long form")]
    SeedAmbiguous(String),
    /// Recomputing a tree gave another seed than the one it is stored under.
    #[error("the tree hashes to {found}, expected {expected}")]
    SeedMismatch {
        /// The seed that was asked for.
        expected: String,
        /// The seed that the bytes give.
        found: String,
    },
    /// A snapshot name that is taken.
    #[error("a snapshot named {0:?} exists already")]
    SnapshotExists(String),
    /// Something was given on the command line or over the control socket that cannot be done.
    #[error("{0}")]
    Usage(String),
    /// The engine found its own state inconsistent. A bug; the store is left as it is on disk.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl Error {
    /// An I/O error with the operation and file that it happened in.
    pub fn io(op: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            op: op.into(),
            source,
        }
    }

    /// Whether the error says that stored bytes are damaged or gone.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        if let Self::InFile { source, .. } | Self::Repairable { source, .. } = self {
            return source.is_damage();
        }
        matches!(
            self,
            Self::Corrupt { .. }
                | Self::LogDamaged { .. }
                | Self::CheckpointDamaged { .. }
                | Self::PackMissing { .. }
                | Self::PackTruncated { .. }
                | Self::Malformed { .. }
                | Self::ChunkUnknown(_)
                | Self::SeedMismatch { .. }
        )
    }
}
