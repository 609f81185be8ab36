//! The exit codes, in one table (docs/cli.md shows the same one), and the failure that carries them.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::Error;

/// Why a command ends, as its exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// Done; nothing wrong was found.
    Success,
    /// A failure that has no code of its own, a bug of ours included.
    General,
    /// The command line cannot be understood or asks for something impossible.
    Usage,
    /// Not a store: missing, foreign, or without a usable superblock.
    NotAStore,
    /// Another process has the store open, or the mount is busy.
    Locked,
    /// Stored bytes are damaged.
    Damage,
    /// The store is newer than this program, or uses features it does not know.
    Version,
    /// A well-formed seed or a name that no snapshot of the store has.
    UnknownSeed,
    /// Text that cannot be a seed: a mistyped character, a wrong length.
    MistypedSeed,
    /// A pack file is missing or truncated.
    PackMissing,
    /// The operating system refused an operation.
    Io,
    /// The disk is full.
    NoSpace,
    /// The store, the mount or the view is read-only.
    ReadOnly,
    /// No such file, or a file of the wrong kind.
    NotFound,
    /// The file, directory or snapshot exists already.
    Exists,
    /// The caller may not do this.
    Permission,
    /// `diff --exit-code` found differences.
    Differences,
    /// Damage was found, and all of it is repaired.
    Repaired,
}

/// Every exit code with the sentence that `mmhfs help` and the documentation show.
pub const TABLE: &[(Exit, u8, &str)] = &[
    (Exit::Success, 0, "done; nothing wrong was found"),
    (Exit::General, 1, "a failure that has no code of its own"),
    (Exit::Usage, 2, "the command line cannot be understood"),
    (
        Exit::NotAStore,
        3,
        "not a store: missing, foreign, or no usable superblock",
    ),
    (
        Exit::Locked,
        4,
        "another process has the store open, or the mount is busy",
    ),
    (Exit::Damage, 5, "stored bytes are damaged"),
    (
        Exit::Version,
        6,
        "the store's format version or features are not known to this program",
    ),
    (
        Exit::UnknownSeed,
        7,
        "no snapshot of the store has this seed or name",
    ),
    (
        Exit::MistypedSeed,
        8,
        "not a seed: mistyped, cut off, or of another kind",
    ),
    (Exit::PackMissing, 9, "a pack file is missing or truncated"),
    (Exit::Io, 10, "the operating system refused an operation"),
    (Exit::NoSpace, 11, "no space left"),
    (
        Exit::ReadOnly,
        12,
        "read-only: the mount, the snapshot, or a store that halted after a failure",
    ),
    (
        Exit::NotFound,
        13,
        "no such file, or a file of the wrong kind",
    ),
    (
        Exit::Exists,
        14,
        "the file, directory or snapshot exists already",
    ),
    (Exit::Permission, 15, "permission denied"),
    (Exit::Differences, 20, "diff --exit-code found differences"),
    (
        Exit::Repaired,
        21,
        "damage was found, and all of it is repaired",
    ),
];

impl Exit {
    /// The number that the process exits with.
    #[must_use]
    pub fn code(self) -> u8 {
        TABLE
            .iter()
            .find(|(exit, _, _)| *exit == self)
            .map_or(1, |(_, code, _)| *code)
    }

    /// The exit for an error of the library.
    ///
    /// The list is complete on purpose: a new variant of [`Error`] does not compile until it has a code.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Usage(_)
            | Error::Invalid(_)
            | Error::NameTooLong
            | Error::SeedAmbiguous(_)
            | Error::CannotInit { .. } => Self::Usage,
            Error::NotAStore { .. } | Error::Superblock { .. } => Self::NotAStore,
            Error::Locked { .. } | Error::Busy(_) => Self::Locked,
            Error::Corrupt { .. }
            | Error::LogDamaged { .. }
            | Error::CheckpointDamaged { .. }
            | Error::Malformed { .. }
            | Error::ChunkUnknown(_)
            | Error::SeedMismatch { .. } => Self::Damage,
            Error::VersionTooNew { .. } | Error::UnknownFeatures { .. } => Self::Version,
            Error::SeedUnknown(_) => Self::UnknownSeed,
            Error::SeedSyntax { .. } => Self::MistypedSeed,
            Error::PackMissing { .. } | Error::PackTruncated { .. } => Self::PackMissing,
            Error::InFile { source, .. } | Error::Repairable { source, .. } => Self::of(source),
            Error::Io { source, .. } => Self::of_io(source),
            Error::NoSpace => Self::NoSpace,
            Error::ReadOnly(_) | Error::Halted(_) => Self::ReadOnly,
            Error::NotFound | Error::NotDirectory | Error::IsDirectory | Error::NoAttribute => {
                Self::NotFound
            }
            Error::Exists | Error::NotEmpty | Error::SnapshotExists(_) => Self::Exists,
            Error::NotPermitted(_) | Error::AccessDenied => Self::Permission,
            Error::Index { .. }
            | Error::IndexDamaged { .. }
            | Error::Internal(_)
            | Error::Unsupported(_)
            | Error::TooManyLinks
            | Error::BufferTooSmall
            | Error::AttributeTooLarge
            | Error::FileTooLarge
            | Error::CrossTree
            | Error::Stale
            | Error::PastEnd => Self::General,
        }
    }

    /// The exit for an error of the operating system.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory => Self::NotFound,
            io::ErrorKind::PermissionDenied => Self::Permission,
            io::ErrorKind::AlreadyExists => Self::Exists,
            io::ErrorKind::ResourceBusy => Self::Locked,
            _ => Self::Io,
        }
    }
}

/// A failed command: its exit code and what to tell the user. It travels over the control socket as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The exit code's name.
    pub exit: Exit,
    /// The message with its causes, without "mmhfs: ".
    pub message: String,
}

/// The result of everything in the command line.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure of the given kind with a message of its own.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// A mistake of the caller.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A failed system call or file operation; `doing` says what was tried on what.
    #[must_use]
    pub fn io(doing: impl std::fmt::Display, source: &io::Error) -> Self {
        Self::new(Exit::of_io(source), format!("{doing}: {source}"))
    }

    /// A failed file operation on `path`.
    #[must_use]
    pub fn path(verb: &str, path: &std::path::Path, source: &io::Error) -> Self {
        Self::io(format_args!("cannot {verb} {}", path.display()), source)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            let text = next.to_string();
            // Some errors show their source in their own sentence already.
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = next.source();
        }
        Self {
            exit: Exit::of(&error),
            message,
        }
    }
}

/// The store at `path` is held by a process that does not answer.
#[must_use]
pub fn locked(path: PathBuf, holder: &str) -> Failure {
    Failure::from(Error::Locked {
        path,
        holder: holder.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_has_one_row_and_a_code_of_its_own() {
        let mut codes: Vec<u8> = TABLE.iter().map(|(_, code, _)| *code).collect();
        codes.sort_unstable();
        let rows = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), rows, "two exits share a code");
        for exit in [
            Exit::General,
            Exit::Damage,
            Exit::Differences,
            Exit::Permission,
        ] {
            assert_eq!(TABLE.iter().filter(|(e, _, _)| *e == exit).count(), 1);
        }
    }

    #[test]
    fn a_message_names_its_cause_once() {
        let io = Error::io("open x", io::Error::from_raw_os_error(nix::libc::ENOSPC));
        let failure = Failure::from(io);
        assert_eq!(failure.exit, Exit::NoSpace);
        assert_eq!(failure.message.matches("No space left").count(), 1);
    }

    #[test]
    fn the_documentation_has_the_same_table() {
        let text = include_str!("../../docs/cli.md");
        for (_, code, sentence) in TABLE {
            assert!(
                text.contains(&format!("| {code} | {sentence} |")),
                "docs/cli.md lacks: | {code} | {sentence} |"
            );
        }
    }
}
