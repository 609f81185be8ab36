//! The lock that keeps a second process out of a store.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::base::{Error, Result};

/// Bytes of the lock file that are read back for a message.
const HOLDER_LEN_MAX: u64 = 256;

/// The lock of a store: `flock(2)` on `STORE/lock`, given back when this is dropped or the process ends.
///
/// The file holds "pid N on HOST" and is never removed: removing it would let two processes lock two
/// different files of the same name.
#[derive(Debug)]
pub struct StoreLock(#[expect(dead_code, reason = "held for its effect")] Flock<File>);

impl StoreLock {
    /// Locks the store in `dir`, for readers and writers alike.
    ///
    /// # Errors
    /// [`Error::Locked`] with the holder's words if another process has it; [`Error::Io`] otherwise.
    pub fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        // Opened without truncation: the words of a holder must survive this attempt.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::io(format!("open {}", path.display()), e))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut held) => {
                // The lock holds even where its words cannot be written (a full disk).
                let words = format!("{}\n", own_name());
                if held.set_len(0).is_ok() {
                    let _ = held.write_all(words.as_bytes());
                }
                Ok(Self(held))
            }
            Err((mut file, Errno::EWOULDBLOCK)) => Err(Error::Locked {
                path: dir.to_owned(),
                holder: holder(&mut file),
            }),
            Err((_, errno)) => Err(Error::io(format!("flock {}", path.display()), errno.into())),
        }
    }
}

fn own_name() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "an unknown host".to_owned());
    format!("pid {} on {host}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.take(HOLDER_LEN_MAX).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    match text.trim() {
        "" => "another process".to_owned(),
        words if read.is_ok() => words.to_owned(),
        _ => "another process".to_owned(),
    }
}
