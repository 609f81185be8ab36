//! The only place that chooses errno values.

use fuser::Errno;

use crate::base::Error;

/// The errno that a program gets for an error.
///
/// Exhaustive on purpose: a new kind of error does not compile until somebody has decided what
/// programs are told.
#[must_use]
pub fn errno(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotDirectory => Errno::ENOTDIR,
        Error::IsDirectory => Errno::EISDIR,
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::TooManyLinks => Errno::EMLINK,
        Error::NoSpace => Errno::ENOSPC,
        Error::ReadOnly(_) => Errno::EROFS,
        // Immutable and append-only files, and what only an owner may do: EPERM, as ext4 says it.
        Error::NotPermitted(_) => Errno::EPERM,
        Error::AccessDenied => Errno::EACCES,
        Error::Invalid(_) => Errno::EINVAL,
        // ENOATTR of the xattr manual pages is ENODATA on Linux.
        Error::NoAttribute => Errno::ENODATA,
        Error::BufferTooSmall => Errno::ERANGE,
        // setxattr(2) and listxattr(2) both say E2BIG for what exceeds the kernel's limits.
        Error::AttributeTooLarge => Errno::E2BIG,
        Error::FileTooLarge => Errno::EFBIG,
        // Not ENOSYS: the kernel takes ENOSYS as "never ask for this operation again".
        Error::Unsupported(_) => Errno::EOPNOTSUPP,
        // EXDEV makes mv(1) and cp(1) fall back to copying out of a snapshot.
        Error::CrossTree => Errno::EXDEV,
        Error::Busy(_) | Error::Locked { .. } => Errno::EBUSY,
        // The kernel retries a path walk once, with fresh lookups, when it sees ESTALE.
        Error::Stale => Errno::ESTALE,
        Error::PastEnd => Errno::ENXIO,

        // Damage is EIO, never a short read and never zeroes (I3).
        Error::Corrupt { .. }
        | Error::LogDamaged { .. }
        | Error::CheckpointDamaged { .. }
        | Error::PackMissing { .. }
        | Error::PackTruncated { .. }
        | Error::Malformed { .. }
        | Error::ChunkUnknown(_)
        | Error::SeedMismatch { .. } => Errno::EIO,
        // Not EROFS: changes that were accepted earlier may be lost, which "read-only" would hide,
        // and an fsync that fails with EROFS is taken by some programs as "nothing to sync".
        Error::Halted(_) => Errno::EIO,
        Error::Index { .. } | Error::IndexDamaged { .. } | Error::Internal(_) => Errno::EIO,
        Error::Io { source, .. } => backing(source),
        Error::InFile { source, .. } | Error::Repairable { source, .. } => errno(source),

        // Only `init`, `open` and commands meet these; a mount never does. A program that sees them
        // anyway learns that the storage is at fault, not its own arguments.
        Error::NotAStore { .. }
        | Error::CannotInit { .. }
        | Error::Superblock { .. }
        | Error::VersionTooNew { .. }
        | Error::UnknownFeatures { .. } => Errno::EIO,
        Error::SeedSyntax { .. } | Error::SeedAmbiguous(_) | Error::Usage(_) => Errno::EINVAL,
        Error::SeedUnknown(_) => Errno::ENOENT,
        Error::SnapshotExists(_) => Errno::EEXIST,
    }
}

/// What the backing filesystem's refusal means to a program: a full or read-only disk is passed on, as
/// the user can act on it; anything else (ENOENT of a pack, EBADF) would be misread as being about
/// the program's own file, so it is EIO.
fn backing(source: &std::io::Error) -> Errno {
    match source.raw_os_error() {
        Some(libc::ENOSPC) => Errno::ENOSPC,
        Some(libc::EDQUOT) => Errno::EDQUOT,
        Some(libc::EROFS) => Errno::EROFS,
        Some(libc::ENOMEM) => Errno::ENOMEM,
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_full_backing_disk_is_passed_on_and_a_missing_pack_file_is_not() {
        let full = Error::io("write", io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(errno(&full), Errno::ENOSPC);
        let gone = Error::io("open", io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(errno(&gone), Errno::EIO);
    }

    #[test]
    fn no_error_is_ever_answered_with_enosys() {
        assert_eq!(errno(&Error::Unsupported("x")), Errno::EOPNOTSUPP);
    }
}
