//! System calls that neither the standard library nor nix offers safely.
#![expect(unsafe_code, reason = "thin wrappers around libc for what tests need")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

pub const FS_IMMUTABLE_FL: i32 = 0x10;
pub const FS_APPEND_FL: i32 = 0x20;

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn check(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8], flags: i32) -> Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: both strings end with NUL, and the value's pointer and length belong together.
    let result = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    };
    check(isize::try_from(result).unwrap()).map(|_| ())
}

/// With a buffer of `room` bytes; 0 asks for the length and gives that many zeros.
pub fn get_xattr(path: &Path, name: &str, room: usize) -> Result<Vec<u8>> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    let mut value = vec![0_u8; room];
    // SAFETY: both strings end with NUL, and the buffer has `room` bytes.
    let result = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            room,
        )
    };
    let len = check(result)?;
    value.resize(len, 0);
    Ok(value)
}

pub fn list_xattr(path: &Path) -> Result<Vec<String>> {
    let path = c(path);
    let mut list = vec![0_u8; 65_536];
    // SAFETY: the string ends with NUL, and the buffer has the length that is given.
    let result = unsafe { libc::llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    list.truncate(check(result)?);
    let mut names: Vec<String> = list
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    Ok(names)
}

pub fn remove_xattr(path: &Path, name: &str) -> Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: both strings end with NUL.
    let result = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
    check(isize::try_from(result).unwrap()).map(|_| ())
}

pub fn get_flags(file: &File) -> Result<i32> {
    let mut flags: libc::c_int = 0;
    // SAFETY: FS_IOC_GETFLAGS writes an int.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    check(isize::try_from(result).unwrap()).map(|_| flags)
}

pub fn set_flags(file: &File, flags: i32) -> Result<()> {
    // SAFETY: FS_IOC_SETFLAGS reads an int.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    check(isize::try_from(result).unwrap()).map(|_| ())
}

/// Copies from one offset to the other and advances both.
pub fn copy_file_range(
    from: (&File, &mut i64),
    to: (&File, &mut i64),
    len: usize,
) -> Result<usize> {
    // SAFETY: both descriptors are open and both offsets are the caller's own.
    let result = unsafe {
        libc::copy_file_range(from.0.as_raw_fd(), from.1, to.0.as_raw_fd(), to.1, len, 0)
    };
    check(result)
}

/// A file handle, as `name_to_handle_at(2)` makes and `open_by_handle_at(2)` takes it.
#[repr(C)]
pub struct FileHandle {
    len: u32,
    kind: i32,
    bytes: [u8; 128],
}

pub fn handle_of(path: &Path) -> Result<FileHandle> {
    let path = c(path);
    let (mut handle, mut mount) = (
        FileHandle {
            len: 128,
            kind: 0,
            bytes: [0; 128],
        },
        0,
    );
    // SAFETY: the layout is that of `struct file_handle` with room for 128 bytes, as `len` says.
    let result = unsafe {
        libc::name_to_handle_at(
            libc::AT_FDCWD,
            path.as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            0,
        )
    };
    check(isize::try_from(result).unwrap()).map(|_| handle)
}

pub fn open_handle(mount: &File, handle: &mut FileHandle) -> Result<File> {
    let at = (handle as *mut FileHandle).cast();
    // SAFETY: as in `handle_of`; the kernel only reads it.
    let result = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), at, libc::O_RDONLY) };
    check(isize::try_from(result).unwrap())?;
    // SAFETY: the descriptor has just been opened and has no other owner.
    Ok(unsafe { File::from_raw_fd(result) })
}

/// A directory stream whose place can be told and sought.
pub struct Stream(*mut libc::DIR);

impl Stream {
    pub fn open(path: &Path) -> Self {
        let path = c(path);
        // SAFETY: the string ends with NUL.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!stream.is_null(), "{}", Error::last_os_error());
        Self(stream)
    }

    pub fn next(&mut self) -> Option<String> {
        // SAFETY: the stream is open; the entry is read before the next call.
        unsafe {
            let entry = libc::readdir64(self.0);
            if entry.is_null() {
                return None;
            }
            let name = CStr::from_ptr((*entry).d_name.as_ptr());
            Some(name.to_string_lossy().into_owned())
        }
    }

    pub fn tell(&mut self) -> i64 {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    pub fn seek(&mut self, place: i64) {
        // SAFETY: the stream is open and the place came from `tell`.
        unsafe { libc::seekdir(self.0, place) };
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: opened by `open` and closed once.
        unsafe { libc::closedir(self.0) };
    }
}
