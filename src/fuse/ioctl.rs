//! The inode flags of `chattr(1)` and `lsattr(1)`, as the kernel's FUSE client asks for them.
//!
//! For `FS_IOC_SETFLAGS` the kernel first sends `FS_IOC_FSGETXATTR`, to keep what the program did not
//! mention, and checks ownership and CAP_LINUX_IMMUTABLE itself; so all four requests are answered.

use crate::base::{Error, Result};

/// `_IOR('f', 1, long)`; the argument is an `int` in spite of its name.
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
/// `_IOW('f', 2, long)`.
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
/// `_IOR('X', 31, struct fsxattr)`.
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
/// `_IOW('X', 32, struct fsxattr)`.
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
/// Length of `struct fsxattr`; its first four bytes are the flags.
const FSXATTR_LEN: usize = 28;

/// (`FS_*_FL`, `FS_XFLAG_*`) of the flags that both forms have.
const PAIRS: [(u32, u32); 5] = [
    (0x0000_0010, 0x0000_0008), // immutable
    (0x0000_0020, 0x0000_0010), // append only
    (0x0000_0008, 0x0000_0020), // sync
    (0x0000_0080, 0x0000_0040), // noatime
    (0x0000_0040, 0x0000_0080), // nodump
];

/// A request that this filesystem answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Give the flags back, in the form of `FS_IOC_GETFLAGS`.
    GetFlags,
    /// Give the flags back as a `struct fsxattr`.
    GetXflags,
    /// Replace all flags by these.
    SetFlags(u32),
    /// Replace the flags that `struct fsxattr` can name by these; the rest stay.
    SetXflags(u32),
}

/// Reads a request; `None` means "not this filesystem's" and is answered with ENOTTY.
///
/// # Errors
/// [`Error::Invalid`] if the argument is shorter than the command says.
pub(super) fn parse(command: u32, argument: &[u8]) -> Result<Option<Request>> {
    Ok(Some(match command {
        FS_IOC_GETFLAGS => Request::GetFlags,
        FS_IOC_FSGETXATTR => Request::GetXflags,
        FS_IOC_SETFLAGS => Request::SetFlags(first_word(argument)?),
        FS_IOC_FSSETXATTR => Request::SetXflags(from_xflags(first_word(argument)?)),
        _ => return Ok(None),
    }))
}

/// The flags that a `SetXflags` of `wanted` leaves on an inode that has `current`.
pub(super) fn merge_xflags(current: u32, wanted: u32) -> u32 {
    let named = PAIRS.iter().fold(0, |all, (flag, _)| all | flag);
    (current & !named) | (wanted & named)
}

/// The answer to `GetFlags`.
pub(super) fn flags_reply(flags: u32) -> Vec<u8> {
    flags.to_ne_bytes().to_vec()
}

/// The answer to `GetXflags`: everything but the flags is zero.
pub(super) fn xflags_reply(flags: u32) -> Vec<u8> {
    let xflags = PAIRS
        .iter()
        .filter(|(flag, _)| flags & flag != 0)
        .fold(0, |all, (_, xflag)| all | xflag);
    let mut reply = u32::to_ne_bytes(xflags).to_vec();
    reply.resize(FSXATTR_LEN, 0);
    reply
}

fn from_xflags(xflags: u32) -> u32 {
    PAIRS
        .iter()
        .filter(|(_, xflag)| xflags & xflag != 0)
        .fold(0, |all, (flag, _)| all | flag)
}

fn first_word(argument: &[u8]) -> Result<u32> {
    match argument.first_chunk::<4>() {
        Some(word) => Ok(u32::from_ne_bytes(*word)),
        None => Err(Error::Invalid("ioctl argument")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn immutable_is_the_same_flag_in_both_forms() {
        let reply = xflags_reply(0x10);
        assert_eq!(reply.len(), FSXATTR_LEN);
        assert_eq!(
            parse(FS_IOC_FSSETXATTR, &reply).unwrap(),
            Some(Request::SetXflags(0x10))
        );
    }

    #[test]
    fn flags_that_fsxattr_cannot_name_survive_it() {
        assert_eq!(merge_xflags(0x0001_0010, 0x20), 0x0001_0020);
    }

    #[test]
    fn a_short_argument_is_refused_and_a_foreign_command_is_not_ours() {
        assert!(parse(FS_IOC_SETFLAGS, &[1, 2]).is_err());
        assert_eq!(parse(0x5401, &[]).unwrap(), None);
    }
}
