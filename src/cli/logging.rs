//! The log: on stderr, or in the background in `STORE/mmhfs.log`, which is bounded.
//!
//! `MMHFS_LOG` chooses what is logged (`error`, `warn`, `info`, `debug`, `trace`, or per module as in
//! `mmhfs::chunk=debug`). The default is `warn`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use env_logger::{Builder, Env, Target};

/// Length at which the log starts anew; the one before it is kept as `mmhfs.log.1`.
const LOG_LEN_MAX: u64 = 1 << 20;

/// Logs to stderr.
pub(super) fn to_stderr() {
    install(Target::Stderr);
}

/// Logs to the store's log file, and sends there what anything else writes on stderr.
///
/// On a store that cannot be written (a read-only medium) stderr goes nowhere.
pub(super) fn to_store(store: &Path) -> io::Result<()> {
    match LogFile::open(store.join("mmhfs.log")) {
        Ok(log) => {
            nix::unistd::dup2_stderr(&log.file)?;
            install(Target::Pipe(Box::new(log)));
            Ok(())
        }
        Err(e) => {
            let null = OpenOptions::new().write(true).open("/dev/null")?;
            nix::unistd::dup2_stderr(&null)?;
            install(Target::Stderr);
            Err(e)
        }
    }
}

fn install(target: Target) {
    let env = Env::new().filter_or("MMHFS_LOG", "warn");
    // A second installation can only come from a test of this crate.
    let _ = Builder::from_env(env).target(target).try_init();
}

struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let len = file.metadata()?.len();
        Ok(Self { path, file, len })
    }

    fn start_anew(&mut self) -> io::Result<()> {
        fs::rename(&self.path, self.path.with_extension("log.1"))?;
        *self = Self::open(self.path.clone())?;
        nix::unistd::dup2_stderr(&self.file)?;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.len >= LOG_LEN_MAX {
            // A log that cannot be renamed goes on where it is.
            let _ = self.start_anew();
        }
        let done = self.file.write(bytes)?;
        self.len += done as u64;
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
