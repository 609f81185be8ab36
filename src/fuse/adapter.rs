//! The state behind one mount and what the operations in [`super::ops`] share: containing panics,
//! mapping errors, lifetimes of what the kernel caches.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    Errno, FopenFlags, Generation, InitFlags, KernelConfig, ReplyAttr, ReplyEmpty, ReplyEntry,
    ReplyXattr,
};

use super::cache::KernelCache;
use super::convert::{InoMap, negative};
use super::errno::errno;
use super::known::Known;
use super::offload::{Job, Offload};
use super::panics::contain;
use crate::base::{Error, Ino, Result};
use crate::engine::{Engine, Stat};

/// Inode numbers are never reused (I4), so every inode is of the same generation.
pub(super) const GENERATION: Generation = Generation(0);
/// Largest request that is asked for. The kernel cuts it down to `/proc/sys/fs/fuse/max_pages_limit`
/// pages, 1 MiB unless the administrator has raised it.
const WRITE_LEN_MAX: u32 = 4 << 20;
/// Readahead and writeback requests that may be under way; the kernel's default of 12 starves one
/// sequential reader.
const BACKGROUND_MAX: u16 = 128;

/// What the kernel is asked for, where it knows it.
///
/// Not among them, each for a reason: `POSIX_LOCKS` and `FLOCK_LOCKS` (without them the kernel keeps the
/// locks, which is right for a filesystem with one kernel), `AUTO_INVAL_DATA` (the kernel owns sizes
/// and times with the writeback cache), `PASSTHROUGH` (bytes would not be verified).
const CAPABILITIES: [InitFlags; 15] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_WRITEBACK_CACHE,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // The umask is the engine's business: a default ACL of the directory overrides it.
    InitFlags::FUSE_DONT_MASK,
    // Version 2: the kernel says with each write whether set-id bits are to go. Without it the
    // kernel asks for `security.capability` before every single write.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_HAS_IOCTL_DIR,
    // The kernel may look "." and ".." up by number, for file handles.
    InitFlags::FUSE_EXPORT_SUPPORT,
];

/// How long the kernel may keep what it was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetimes {
    /// Names and attributes.
    pub(super) entries: Duration,
    /// The absence of a name.
    pub(super) absences: Duration,
}

/// The engine behind one FUSE connection.
pub(super) struct Adapter {
    pub(super) engine: Arc<Engine>,
    pub(super) map: InoMap,
    pub(super) cache: KernelCache,
    pub(super) known: Arc<Known>,
    pub(super) offload: Offload,
    pub(super) lifetimes: Lifetimes,
    /// Whether the kernel checks modes and ACLs.
    pub(super) kernel_checks: bool,
    /// Whether a snapshot is mounted, which nothing changes.
    frozen: bool,
}

impl Adapter {
    /// An adapter for the tree below `root`.
    ///
    /// # Errors
    /// [`Error::Io`] if the system gives no threads.
    pub(super) fn new(
        engine: Arc<Engine>,
        root: Ino,
        lifetimes: Lifetimes,
        kernel_checks: bool,
    ) -> Result<Self> {
        let map = InoMap::new(root);
        let frozen = root != Ino::ROOT;
        Ok(Self {
            frozen,
            engine,
            map,
            cache: KernelCache::new(map),
            known: Arc::new(Known::new()),
            offload: Offload::new()?,
            lifetimes,
            kernel_checks,
        })
    }

    /// Negotiates with the kernel.
    pub(super) fn configure(&self, config: &mut KernelConfig) {
        let checks = self.kernel_checks.then_some(InitFlags::FUSE_POSIX_ACL);
        for flag in CAPABILITIES.into_iter().chain(checks) {
            if config.add_capabilities(flag).is_err() {
                log::debug!("the kernel does not offer {flag:?}");
            }
        }
        // Each setter answers with the nearest value it accepts.
        if let Err(nearest) = config.set_max_write(WRITE_LEN_MAX) {
            log::debug!("max_write is limited to {nearest}");
        }
        if config.set_max_background(BACKGROUND_MAX).is_err() {
            log::debug!("max_background stays as it is");
        }
    }

    /// Runs one operation: a panic is contained, an error is logged if it is about the store, and
    /// mapped.
    pub(super) fn run<T>(
        &self,
        op: &'static str,
        ino: Ino,
        work: impl FnOnce(&Engine) -> Result<T>,
    ) -> std::result::Result<T, Errno> {
        contain(op, ino, || work(&self.engine)).map_err(|error| report(op, ino, &error))
    }

    /// As [`Adapter::run`], for an operation that lists entries and notes that it has listed some.
    pub(super) fn listing(
        &self,
        op: &'static str,
        dir: Ino,
        work: impl FnOnce(&Engine, &mut bool) -> Result<()>,
    ) -> std::result::Result<(), Errno> {
        let mut some = false;
        match self.run(op, dir, |engine| work(engine, &mut some)) {
            // What was listed is right, and each entry may hold a reference, which only a reply gives to the
            // kernel; the error comes back with the next request.
            Err(_) if some => Ok(()),
            outcome => outcome,
        }
    }

    pub(super) fn empty(
        &self,
        op: &'static str,
        ino: Ino,
        reply: ReplyEmpty,
        work: impl FnOnce(&Engine) -> Result<()>,
    ) {
        match self.run(op, ino, work) {
            Ok(()) => reply.ok(),
            Err(code) => reply.error(code),
        }
    }

    pub(super) fn attr(
        &self,
        op: &'static str,
        ino: Ino,
        reply: ReplyAttr,
        work: impl FnOnce(&Engine) -> Result<Stat>,
    ) {
        match self.run(op, ino, work) {
            Ok(stat) => reply.attr(&self.lifetime(stat.ino), &self.map.attr(&stat)),
            Err(code) => reply.error(code),
        }
    }

    pub(super) fn entry(
        &self,
        op: &'static str,
        dir: Ino,
        reply: ReplyEntry,
        work: impl FnOnce(&Engine) -> Result<Stat>,
    ) {
        match self.run(op, dir, work) {
            Ok(stat) => self.reply_entry(&stat, reply),
            Err(code) => reply.error(code),
        }
    }

    /// Gives the kernel an entry, and with it a reference to its inode.
    fn reply_entry(&self, stat: &Stat, reply: ReplyEntry) {
        self.known.give(stat.ino);
        reply.entry(&self.lifetime(stat.ino), &self.map.attr(stat), GENERATION);
    }

    /// A lookup: an absent name is an answer that the kernel remembers, too.
    pub(super) fn look_up(&self, dir: Ino, name: &OsStr, reply: ReplyEntry) {
        if name == "." {
            // Not a name but the question behind open_by_handle_at(2) and NFS: is there an inode of
            // this number? It may be a file. One without a name that somebody has open is in the
            // kernel's cache and not asked for; one that is asked for is about to go.
            return self.entry("lookup", dir, reply, |engine| match engine.getattr(dir) {
                Ok(stat) if stat.nlink == 0 => Err(Error::Stale),
                other => other,
            });
        }
        match contain("lookup", dir, || self.engine.lookup(dir, name.as_bytes())) {
            Ok(stat) => self.reply_entry(&stat, reply),
            Err(Error::NotFound) if !self.volatile(dir) => {
                reply.entry(&self.lifetimes.absences, &negative(), GENERATION);
            }
            Err(error) => reply.error(report("lookup", dir, &error)),
        }
    }

    /// An attribute or a list of names, by the rules of `getxattr(2)`: size 0 asks for the length.
    pub(super) fn xattr(
        &self,
        op: &'static str,
        ino: Ino,
        size: u32,
        reply: ReplyXattr,
        work: impl FnOnce(&Engine) -> Result<Vec<u8>>,
    ) {
        let value = self.run(op, ino, |engine| {
            let value = work(engine)?;
            let len = u32::try_from(value.len()).map_err(|_| Error::AttributeTooLarge)?;
            if size != 0 && len > size {
                return Err(Error::BufferTooSmall);
            }
            Ok((len, value))
        });
        match value {
            Ok((len, _)) if size == 0 => reply.size(len),
            Ok((_, value)) => reply.data(&value),
            Err(code) => reply.error(code),
        }
    }

    /// Runs an operation that waits for the disk on another thread.
    pub(super) fn empty_elsewhere(
        &self,
        op: &'static str,
        ino: Ino,
        reply: ReplyEmpty,
        work: impl FnOnce(&Engine) -> Result<()> + Send + 'static,
    ) {
        let engine = Arc::clone(&self.engine);
        let job: Job = Box::new(move || match contain(op, ino, || work(&engine)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(report(op, ino, &error)),
        });
        // A full queue slows the reader down instead of growing.
        if let Err(job) = self.offload.run(job) {
            job();
        }
    }

    /// Whether an inode may change without the kernel's doing: the virtual directories of snapshots in
    /// a live tree, which commands add to and take from.
    fn volatile(&self, ino: Ino) -> bool {
        !self.frozen && self.engine.is_virtual(ino)
    }

    /// How long the kernel may keep an inode's names and attributes. Nobody but the kernel changes
    /// anything else, so that is long.
    pub(super) fn lifetime(&self, ino: Ino) -> Duration {
        if self.volatile(ino) {
            Duration::ZERO
        } else {
            self.lifetimes.entries
        }
    }

    /// How the kernel may cache an open file's bytes: across opens, unless they may have changed.
    pub(super) fn file_caching(&self, ino: Ino) -> FopenFlags {
        if self.volatile(ino) {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        }
    }

    /// How the kernel may cache an open directory's listing. It drops the listing at every change that
    /// goes through it, and cookies stay valid across that because they are places in the directory.
    pub(super) fn dir_caching(&self, ino: Ino) -> FopenFlags {
        if self.volatile(ino) {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR
        }
    }
}

/// Logs what an administrator must know of and gives the errno that the program gets.
pub(super) fn report(op: &'static str, ino: Ino, error: &Error) -> Errno {
    let about_the_store = error.is_damage()
        || matches!(
            error,
            Error::Io { .. } | Error::Index { .. } | Error::Internal(_)
        );
    if about_the_store {
        log::error!("{op} of inode {ino}: {error}");
    } else {
        log::trace!("{op} of inode {ino}: {error}");
    }
    errno(error)
}
