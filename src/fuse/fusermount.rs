//! Mounting and unmounting through the set-user-ID helper `fusermount3`, for users that are not root.
#![expect(
    unsafe_code,
    reason = "a descriptor received over a socket is a plain number until it is owned"
)]

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};

use crate::base::{Error, Result};

const PROGRAM: &str = "fusermount3";
/// The variable that tells the helper on which socket to send the descriptor.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// Mounts and gives the connection to the kernel.
///
/// # Errors
/// [`Error::Usage`] with the helper's own words if it refuses; [`Error::Io`] if it is not there.
pub(super) fn mount(mountpoint: &Path, options: &str) -> Result<OwnedFd> {
    let failed = |e: nix::Error| Error::io("socket for fusermount3", e.into());
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(failed)?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(failed)?;
    let output = run(Command::new(PROGRAM)
        .env(SOCKET_VARIABLE, theirs.as_raw_fd().to_string())
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(mountpoint))?;
    // With our copy of its end closed, a helper that sent nothing reads as end of file.
    drop(theirs);
    check(&output)?;
    receive(&ours)
}

/// Unmounts; `lazy` detaches a mount that is in use or dead.
///
/// # Errors
/// As [`mount`].
pub(super) fn unmount(mountpoint: &Path, lazy: bool) -> Result<()> {
    let mut command = Command::new(PROGRAM);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    check(&run(command.arg("--").arg(mountpoint))?)
}

/// Quotes a value for the comma-separated list of options.
pub(super) fn quote(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

fn run(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::io(format!("run {PROGRAM} (package fuse3)"), e))
}

fn check(output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::Usage(words.trim().to_owned()))
}

fn receive(socket: &OwnedFd) -> Result<OwnedFd> {
    let mut byte = [0_u8; 1];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(std::os::fd::RawFd);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut buffers,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .map_err(|e| Error::io("answer of fusermount3", e.into()))?;
    for control in message
        .cmsgs()
        .map_err(|e| Error::io("answer of fusermount3", e.into()))?
    {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(descriptor) = descriptors.first()
        {
            // SAFETY: the kernel has just made this descriptor for us by SCM_RIGHTS; nothing else
            // in the process knows its number.
            return Ok(unsafe { OwnedFd::from_raw_fd(*descriptor) });
        }
    }
    Err(Error::Usage("fusermount3 sent no descriptor".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_the_store_path_does_not_end_the_option() {
        assert_eq!(quote("/a,b\\c"), "/a\\,b\\\\c");
    }
}
