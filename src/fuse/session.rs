//! A mount from its beginning to its end.
//!
//! The mount is made and removed here and not by fuser, whose own clean-up would unmount whatever is
//! at the path by then, and which does not give a mount by root its type.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, available_parallelism};
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access, getgid, getuid, syncfs};
use parking_lot::{Condvar, Mutex};

use super::adapter::{Adapter, Lifetimes};
use super::cache::KernelCache;
use super::fusermount;
use super::mountinfo::{self, FS_TYPE};
use crate::base::{Error, Ino, Result};
use crate::engine::Engine;

const DEVICE: &str = "/dev/fuse";
/// Most threads that read requests unless told otherwise. More readers spread one client's requests
/// over more cores, which costs it more in wake-ups than it gains.
const READERS_MAX: usize = 4;

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// An existing directory.
    pub mountpoint: PathBuf,
    /// What `/proc/mounts` shows as the source: the store.
    pub source: String,
    /// The directory of the engine that is shown as the root: the engine's own unless set to that of a snapshot.
    pub root: Option<Ino>,
    /// Refuse every change already in the kernel.
    pub read_only: bool,
    /// Let other users in.
    pub allow_other: bool,
    /// Let the kernel check modes and ACLs. Without it everyone who gets in may do everything.
    pub default_permissions: bool,
    /// Ignore set-user-ID and set-group-ID bits. Always so for users that are not root.
    pub nosuid: bool,
    /// Do not let device files be opened. Always so for users that are not root.
    pub nodev: bool,
    /// Do not let programs be executed.
    pub noexec: bool,
    /// Do not update access times.
    pub noatime: bool,
    /// Threads that read requests from the kernel; 0 for one per core, at most four.
    pub threads: usize,
    /// How long the kernel may keep names and attributes.
    pub entry_lifetime: Duration,
    /// How long the kernel may keep the absence of a name.
    pub absence_lifetime: Duration,
    /// Readahead in KiB, set when mounted by root; others get the kernel's 128.
    pub readahead_kib: u32,
}

impl MountOptions {
    /// The defaults for mounting `source` at `mountpoint`.
    pub fn new(mountpoint: impl Into<PathBuf>, source: impl Into<String>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            source: source.into(),
            root: None,
            read_only: false,
            allow_other: false,
            default_permissions: true,
            nosuid: false,
            nodev: false,
            noexec: false,
            noatime: false,
            threads: 0,
            // Nobody but the kernel changes the tree, so the kernel need not ask again.
            entry_lifetime: Duration::from_secs(24 * 3600),
            absence_lifetime: Duration::from_secs(24 * 3600),
            readahead_kib: 2048,
        }
    }
}

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmountHow {
    /// Fails if the mount is in use.
    Plain,
    /// Takes the mount out of the tree now; it ends when the last user has gone.
    Lazy,
}

/// Where a mount is and how to recognise it.
#[derive(Clone, Debug)]
struct Place {
    mountpoint: PathBuf,
    device: (u32, u32),
    by_root: bool,
}

/// A mount that is being served.
///
/// Dropping it detaches the mount; [`Mounted::wait`] is the orderly end.
#[derive(Debug)]
pub struct Mounted {
    place: Place,
    cache: KernelCache,
    end: Arc<End>,
}

/// The outcome of the session, once it has one.
#[derive(Debug, Default)]
struct End {
    outcome: Mutex<Outcome>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum Outcome {
    #[default]
    Running,
    Ended(Option<Error>),
}

/// Mounts the engine's tree and starts to serve it. When this returns, the mount can be used.
///
/// # Errors
/// [`Error::Io`] and [`Error::Usage`] if the system refuses; [`Error::Usage`] names what is missing.
pub fn mount(engine: Arc<Engine>, options: &MountOptions) -> Result<Mounted> {
    let at = mountinfo::resolve(&options.mountpoint)?;
    let by_root = getuid().is_root();
    detach_dead(&at, by_root)?;
    let lifetimes = Lifetimes {
        entries: options.entry_lifetime,
        absences: options.absence_lifetime,
    };
    let root = options.root.unwrap_or(engine.root());
    let adapter = Adapter::new(engine, root, lifetimes, options.default_permissions)?;
    let cache = adapter.cache.clone();
    let connection = if by_root {
        mount_directly(&at, options)?
    } else {
        fusermount::mount(&at, &helper_options(options))?
    };
    let place = match mountinfo::on_top(&at)? {
        Some(entry) if entry.fs_type == FS_TYPE => Place {
            mountpoint: at,
            device: entry.device,
            by_root,
        },
        _ => {
            return Err(Error::Usage(format!(
                "{} was covered by another mount",
                at.display()
            )));
        }
    };
    match serve(adapter, connection, &place, options) {
        Ok(end) => {
            if by_root {
                raise_readahead(&place, options.readahead_kib);
            }
            Ok(Mounted { place, cache, end })
        }
        Err(error) => {
            place.detach_if_ours();
            Err(error)
        }
    }
}

impl Mounted {
    /// Waits until the mount is gone, whoever unmounts it.
    ///
    /// # Errors
    /// [`Error::Io`], once, if the connection to the kernel broke.
    pub fn wait(&self) -> Result<()> {
        let mut outcome = self.end.outcome.lock();
        loop {
            match &mut *outcome {
                Outcome::Running => self.end.changed.wait(&mut outcome),
                Outcome::Ended(error) => return error.take().map_or(Ok(()), Err),
            }
        }
    }

    /// Whether the mount is gone.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(*self.end.outcome.lock(), Outcome::Ended(_))
    }

    /// Unmounts; [`Mounted::wait`] then returns. A mount that is gone already is fine.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is in use and `how` is plain, or if another filesystem covers it.
    pub fn unmount(&self, how: UnmountHow) -> Result<()> {
        if self.ended() {
            return Ok(());
        }
        match mountinfo::on_top(&self.place.mountpoint)? {
            None => Ok(()),
            Some(entry) if self.place.is(&entry) => self.place.unmount(how),
            Some(_) => Err(Error::Busy("another filesystem is mounted over this one")),
        }
    }

    /// The directory it is mounted on.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.place.mountpoint
    }

    /// Major and minor number of the device that `stat` gives for its files.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        self.place.device
    }

    /// The kernel's caches of this mount.
    #[must_use]
    pub fn kernel_cache(&self) -> &KernelCache {
        &self.cache
    }

    /// Makes the kernel hand over everything that was written and not yet sent to the engine.
    ///
    /// # Errors
    /// [`Error::Io`] if the mountpoint cannot be opened or the kernel refuses.
    pub fn collect_writes(&self) -> Result<()> {
        let failed = |e: nix::Error| {
            Error::io(
                format!("syncfs {}", self.place.mountpoint.display()),
                e.into(),
            )
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(&self.place.mountpoint, flags, Mode::empty()).map_err(failed)?;
        // syncfs sends times and starts writing all bytes, but newer kernels do not wait for the
        // bytes of a FUSE filesystem; asking file by file does.
        syncfs(&dir).map_err(failed)?;
        self.cache.collect()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.ended() {
            self.place.detach_if_ours();
        }
    }
}

impl Place {
    fn is(&self, entry: &mountinfo::Entry) -> bool {
        entry.fs_type == FS_TYPE && entry.device == self.device
    }

    /// Unmounts what is at the path; the caller has checked that it is this mount.
    fn unmount(&self, how: UnmountHow) -> Result<()> {
        if !self.by_root {
            return fusermount::unmount(&self.mountpoint, how == UnmountHow::Lazy);
        }
        let flags = match how {
            UnmountHow::Plain => MntFlags::empty(),
            UnmountHow::Lazy => MntFlags::MNT_DETACH,
        };
        match umount2(&self.mountpoint, flags | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Ok(()),
            Err(nix::Error::EBUSY) => Err(Error::Busy("the mount is in use")),
            Err(e) => {
                let op = format!("unmount {}", self.mountpoint.display());
                Err(Error::io(op, e.into()))
            }
        }
    }

    /// Leaves no dead mount behind. Nothing can be done about a failure but to say so.
    fn detach_if_ours(&self) {
        let outcome = match mountinfo::on_top(&self.mountpoint) {
            Ok(Some(entry)) if self.is(&entry) => self.unmount(UnmountHow::Lazy),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            log::warn!("{}: {error}", self.mountpoint.display());
        }
    }
}

impl End {
    fn set(&self, error: Option<Error>) {
        *self.outcome.lock() = Outcome::Ended(error);
        self.changed.notify_all();
    }
}

/// Shakes hands with the kernel and starts the threads that answer it.
fn serve(
    adapter: Adapter,
    connection: OwnedFd,
    place: &Place,
    options: &MountOptions,
) -> Result<Arc<End>> {
    let cache = adapter.cache.clone();
    let (engine, known) = (Arc::clone(&adapter.engine), Arc::clone(&adapter.known));
    let mut config = Config::default();
    let readers = readers(options.threads);
    config.n_threads = Some(readers);
    // A reader with a descriptor of its own does not contend for the connection's; it needs the right
    // to open the device, which a user may lack.
    config.clone_fd = readers > 1 && access(DEVICE, AccessFlags::R_OK | AccessFlags::W_OK).is_ok();
    // The kernel itself keeps other users out unless `allow_other` is set.
    let session = Session::from_fd(adapter, connection, SessionACL::All, config)
        .map_err(|e| Error::io("handshake with the kernel's FUSE", e))?;
    cache.connect(session.notifier());
    let end = Arc::new(End::default());
    let (ending, place) = (Arc::clone(&end), place.clone());
    Builder::new()
        .name("mmhfs-session".to_owned())
        .spawn(move || {
            let outcome = session.run();
            // The connection may have been aborted while mounted; then the mount is dead.
            place.detach_if_ours();
            for (ino, references) in known.take_all() {
                engine.forget(ino, references);
            }
            drop(engine);
            ending.set(outcome.err().map(|e| Error::io("FUSE session", e)));
        })
        .map_err(|e| Error::io("start of a thread", e))?;
    Ok(end)
}

fn readers(asked_for: usize) -> usize {
    match asked_for {
        0 => available_parallelism().map_or(2, |cores| cores.get().clamp(2, READERS_MAX)),
        some => some,
    }
}

/// Mounts as root by `mount(2)`.
fn mount_directly(at: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let device = open(DEVICE, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| Error::io(format!("open {DEVICE}"), e.into()))?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        getuid(),
        getgid()
    );
    for (on, word) in [
        (options.allow_other, ",allow_other"),
        (options.default_permissions, ",default_permissions"),
    ] {
        if on {
            data.push_str(word);
        }
    }
    let flags = [
        (options.read_only, MsFlags::MS_RDONLY),
        (options.nosuid, MsFlags::MS_NOSUID),
        (options.nodev, MsFlags::MS_NODEV),
        (options.noexec, MsFlags::MS_NOEXEC),
        (options.noatime, MsFlags::MS_NOATIME),
    ];
    let flags = flags
        .into_iter()
        .filter(|(on, _)| *on)
        .fold(MsFlags::empty(), |all, (_, flag)| all | flag);
    nix::mount::mount(
        Some(options.source.as_str()),
        at,
        Some(FS_TYPE),
        flags,
        Some(data.as_str()),
    )
    .map_err(|e| Error::io(format!("mount on {}", at.display()), e.into()))?;
    Ok(device)
}

/// The options in the form that fusermount3 takes; nosuid and nodev are its own.
fn helper_options(options: &MountOptions) -> String {
    let mut words = vec![
        format!("fsname={}", fusermount::quote(&options.source)),
        "subtype=mmhfs".to_owned(),
    ];
    for (on, word) in [
        (options.read_only, "ro"),
        (options.noexec, "noexec"),
        (options.noatime, "noatime"),
        (options.allow_other, "allow_other"),
        (options.default_permissions, "default_permissions"),
    ] {
        if on {
            words.push(word.to_owned());
        }
    }
    words.join(",")
}

/// Detaches what a killed daemon left behind: a mount of this program that nobody serves.
fn detach_dead(at: &Path, by_root: bool) -> Result<()> {
    let Some(entry) = mountinfo::on_top(at)? else {
        return Ok(());
    };
    // Only a mount of this program is looked at and detached; a stranger's is the user's business.
    let dead = entry.fs_type == FS_TYPE && nix::sys::stat::stat(at) == Err(nix::Error::ENOTCONN);
    if !dead {
        return Ok(());
    }
    log::warn!("{}: detaching a mount whose daemon is gone", at.display());
    let place = Place {
        mountpoint: at.to_owned(),
        device: entry.device,
        by_root,
    };
    place.unmount(UnmountHow::Lazy)
}

/// Raises the readahead, which a FUSE daemon cannot negotiate above 128 KiB. Reading ahead is only
/// about speed, so a failure is not one of the mount.
fn raise_readahead(place: &Place, kib: u32) {
    let (major, minor) = place.device;
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = mountinfo::set(&path, &kib.to_string()) {
        log::debug!("readahead stays as it is: {error}");
    }
}
