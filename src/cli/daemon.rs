//! The mounting process: going to the background, serving until the end, closing the store.
//!
//! 1. `mmhfs mount` starts itself again with `--background-child`. It does not fork: a child of fork(2) may not
//!    start threads safely, a new program may.
//! 2. The child opens the store and mounts it. Its stdout is a pipe to the parent; it writes one line there: how
//!    it went. The parent prints a failure and exits with its code.
//! 3. The child serves until the mount is gone, by whatever way: `mmhfs umount`, umount(8), a signal.
//! 4. It closes the store, tells those who wait on the control socket, and exits.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::control::Server;
use super::exit::{Exit, Failure, Outcome};
use super::logging;
use super::mounts;
use super::request::{StatusFacts, text_of};
use super::target;
use crate::engine::{Config, Engine};
use crate::fuse::{MountOptions, Mounted, UnmountHow, log_panics, mount};

/// The option that tells the second process what it is.
pub(super) const CHILD_FLAG: &str = "--background-child";

/// Everything that the mounting process needs to know.
pub(super) struct Plan {
    pub(super) store: PathBuf,
    pub(super) config: Config,
    pub(super) mount: MountOptions,
    /// Stay in the foreground: log to stderr, end with the terminal.
    pub(super) foreground: bool,
}

/// Starts the mounting process and waits until the mount can be used.
pub(super) fn start(arguments: &[OsString]) -> Outcome<()> {
    let failed = |e: &io::Error| Failure::io("cannot start the mounting process", e);
    let program = std::env::current_exe()
        .ok()
        .filter(|path| path.exists())
        // The program was replaced since it was started; the kernel still has it.
        .unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut child = Command::new(program)
        .arg0("mmhfs")
        .args(arguments.iter().skip(1))
        .arg(CHILD_FLAG)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(&e))?;
    let Some(pipe) = child.stdout.take() else {
        return Err(Failure::new(
            Exit::General,
            "no pipe to the mounting process",
        ));
    };
    let mut line = String::new();
    BufReader::new(pipe)
        .read_line(&mut line)
        .map_err(|e| failed(&e))?;
    if let Ok(outcome) = serde_json::from_str::<Outcome<()>>(&line) {
        return outcome;
    }
    let status = child.wait().map_err(|e| failed(&e))?;
    Err(Failure::new(
        Exit::General,
        format!(
            "the mounting process ended before it was ready ({status}); see mmhfs.log in the store"
        ),
    ))
}

/// The mounting process in the background: everything after [`start`] on the other side of the pipe.
///
/// The failure that it returns has no message: whoever can hear it has heard it.
pub(super) fn child(plan: &Plan) -> Outcome<()> {
    // A session of its own: signals to the shell's process group and its terminal do not reach it.
    let _ = nix::unistd::setsid();
    // An unusable store has no log; its error reaches the user by the pipe.
    if plan.store.is_dir() {
        let _ = logging::to_store(&plan.store);
    }
    let is_ready = Cell::new(false);
    let outcome = serve(plan, &|| {
        ready_in_background()?;
        is_ready.set(true);
        Ok(())
    });
    outcome.map_err(|failure| {
        let exit = failure.exit;
        if is_ready.get() {
            log::error!("{}", failure.message);
        } else {
            // If the parent has gone, so has everybody who asked.
            let _ = report(&Err(failure));
        }
        Failure::new(exit, "")
    })
}

/// The mounting process in the foreground.
pub(super) fn foreground(plan: &Plan) -> Outcome<()> {
    logging::to_stderr();
    serve(plan, &|| Ok(()))
}

/// Tells the parent, then lets go of everything that was inherited from it.
fn ready_in_background() -> Outcome<()> {
    report(&Ok(())).map_err(|e| Failure::io("the command that mounts was interrupted", &e))?;
    let detach = || -> io::Result<()> {
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        nix::unistd::dup2_stdout(&null)?;
        // The caller's directory may be unmounted.
        std::env::set_current_dir("/")
    };
    detach().map_err(|e| Failure::io("cannot go to the background", &e))
}

fn report(outcome: &Outcome<()>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, outcome)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Opens, mounts, serves and closes.
fn serve(plan: &Plan, ready: &dyn Fn() -> Outcome<()>) -> Outcome<()> {
    log_panics();
    raise_file_limit();
    let engine = target::open(&plan.store, &plan.config)?;
    let outcome = serve_open(plan, &engine, ready);
    let closed = engine.close().map_err(Failure::from);
    let (server, served) = match outcome {
        Ok((server, served)) => (server, served),
        Err(failure) => return closed.and(Err(failure)),
    };
    let outcome = closed.and(served);
    if let Some(server) = server {
        server.finish(&outcome);
    }
    outcome
}

type Served = (Option<Server>, Outcome<()>);

/// Mounts an open store and returns when the mount is gone.
fn serve_open(
    plan: &Plan,
    engine: &Arc<Engine>,
    ready: &dyn Fn() -> Outcome<()>,
) -> Outcome<Served> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| Failure::io("cannot handle signals", &e))?;
    remove_abandoned(plan);
    let mounted = Arc::new(mount(Arc::clone(engine), &plan.mount)?);
    let server = match start_server(plan, engine, &mounted) {
        Ok(server) => Some(server),
        // A store on a read-only medium can be mounted; it only cannot be talked to.
        Err(failure) if plan.config.read_only => {
            log::warn!("{}", failure.message);
            None
        }
        Err(failure) => {
            mounted.unmount(UnmountHow::Lazy)?;
            return Err(failure);
        }
    };
    let stopped = Arc::clone(&mounted);
    let committed = Arc::clone(engine);
    let foreground = plan.foreground;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                // In the background nobody hangs up; in the foreground the terminal is gone.
                if signal != SIGHUP || foreground {
                    stop(&stopped, &committed);
                }
            }
        })
        .map_err(|e| Failure::io("cannot handle signals", &e))?;
    if let Err(failure) = ready() {
        mounted.unmount(UnmountHow::Lazy)?;
        return Err(failure);
    }
    log::info!(
        "{} is mounted on {}",
        plan.store.display(),
        mounted.mountpoint().display()
    );
    let served = mounted.wait().map_err(Failure::from);
    if let Some(server) = &server {
        server.finish_beside();
    }
    Ok((server, served))
}

/// Takes away a mount of this store at this place that a killed process left.
///
/// Whoever has the store's lock knows that nobody serves another mount of it, even where the kernel has freed the lock
/// of the killed process and not yet ended its connection, so that the mount does not look dead yet.
fn remove_abandoned(plan: &Plan) {
    let point = &plan.mount.mountpoint;
    let table = mounts::table().unwrap_or_default();
    let Some(left) = mounts::at(&table, point) else {
        return;
    };
    if mounts::absolute(&left.source).is_ok_and(|source| source == plan.store) {
        log::warn!(
            "{}: removing the mount of a process that died",
            point.display()
        );
        if let Err(failure) = mounts::unmount(point, true) {
            log::warn!("{}", failure.message);
        }
    }
}

fn start_server(plan: &Plan, engine: &Arc<Engine>, mounted: &Arc<Mounted>) -> Outcome<Server> {
    let status = StatusFacts {
        pid: std::process::id(),
        mount_point: text_of(mounted.mountpoint()),
        mounted: true,
        read_only: plan.config.read_only || plan.mount.read_only,
        seed: plan.config.seed.clone(),
        beside: Vec::new(),
    };
    Server::start(&plan.store, Arc::clone(engine), Arc::clone(mounted), status)
}

/// Ends the mount on a signal: at once if nobody uses it, else detached, so that it ends with its last user.
fn stop(mounted: &Mounted, engine: &Engine) {
    let plain = mounted.unmount(UnmountHow::Plain);
    if let Err(busy) = plain {
        log::warn!("{busy}; detaching the mount");
        // Whoever sent the signal may send SIGKILL next: what has been written so far is made safe first.
        if let Err(e) = mounted.collect_writes().and_then(|()| engine.sync()) {
            log::error!("commit before detaching: {e}");
        }
        if let Err(e) = mounted.unmount(UnmountHow::Lazy) {
            log::error!("unmount: {e}");
        }
    }
}

/// Packs and the index keep many files open; the soft limit of 1024 is for programs that use select(2).
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        log::debug!("RLIMIT_NOFILE stays {soft}: {e}");
    }
}

/// Whether `path` is a directory that a store could be in; a better message than the engine's lower layers have.
pub(super) fn require_directory(path: &Path, exit: Exit) -> Outcome<()> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Failure::new(
            exit,
            format!("{} is not a directory", path.display()),
        )),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Failure::new(
            exit,
            format!("{} does not exist", path.display()),
        )),
        // Dead mounts answer ENOTCONN; mounting over one cleans it up.
        Err(_) => Ok(()),
    }
}
