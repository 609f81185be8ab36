//! Reaching a store, wherever it is: in the process that has it mounted, or by opening it here.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::control::Client;
use super::exit::{Exit, Failure, Outcome};
use super::mounts;
use super::request::{Answer, Emit, Event, Request, execute};
use super::ui::Ui;
use crate::base::{Env, Error};
use crate::engine::{Config, Engine};

/// How often, and how many times at most, a store is tried again that a process is about to let go.
const RETRY_WAIT: Duration = Duration::from_millis(20);
const RETRIES_MAX: u32 = 100;

/// What a command needs of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Read,
    Write,
}

/// The store that `path` means: itself, or the one mounted where `path` lies.
pub(super) fn store_of(path: &Path) -> Outcome<PathBuf> {
    mounts::end_stuck()?;
    let full = mounts::absolute(path)?;
    let table = mounts::table()?;
    match mounts::containing(&table, &full) {
        Some(mount) if mount.kind == mounts::TYPE => Ok(mount.source),
        _ => Ok(full),
    }
}

/// Carries out one request on the store that `path` means, and shows progress.
pub(super) fn ask(ui: &Ui, path: &Path, need: Need, request: &Request) -> Outcome<Answer> {
    let show = |event| show_progress(ui, event);
    ask_with(ui, path, need, request, &show)
}

/// As [`ask`]; `emit` gets the events.
pub(super) fn ask_with(
    ui: &Ui,
    path: &Path,
    need: Need,
    request: &Request,
    emit: Emit<'_>,
) -> Outcome<Answer> {
    let store = store_of(path)?;
    let answer = match Client::connect(&store)? {
        Some(client) => client.call(request, emit),
        None => here(&store, need, request, emit),
    };
    ui.progress_done();
    answer
}

/// Feeds the progress line; other events have nobody who asked for them.
pub(super) fn show_progress(ui: &Ui, event: Event) -> Outcome<()> {
    if let Event::Progress(now) = event {
        ui.progress(now);
    }
    Ok(())
}

fn here(store: &Path, need: Need, request: &Request, emit: Emit<'_>) -> Outcome<Answer> {
    let config = Config {
        read_only: need == Need::Read,
        foreground: true,
        ..Config::default()
    };
    let engine = open(store, &config)?;
    let answer = execute(&engine, request, emit);
    let closed = engine.close();
    let answer = answer?;
    closed?;
    Ok(answer)
}

/// Opens a store, waiting for a process that is about to let it go.
///
/// After umount(8) the mounting process still commits and seals for a moment; an immediate mount or command must
/// not fail for that. A store that is really mounted, or used by another command for longer, is an error.
pub(super) fn open(store: &Path, config: &Config) -> Outcome<Arc<Engine>> {
    retry(store, || Engine::open(store, Env::real(), config.clone()))
}

/// Runs `work`, which takes the store's lock, again while a process is about to release it.
pub(super) fn retry<T>(store: &Path, work: impl Fn() -> Result<T, Error>) -> Outcome<T> {
    let mut tries = 0;
    loop {
        match work() {
            Ok(done) => return Ok(done),
            Err(Error::Locked { path, holder }) => {
                tries += 1;
                match wait_for_release(store)? {
                    Held::Mounted(failure) => return Err(failure),
                    Held::Leaving(failure) if tries > RETRIES_MAX => return Err(failure),
                    Held::Unknown if tries > RETRIES_MAX => {
                        return Err(super::exit::locked(path, &holder));
                    }
                    Held::Leaving(_) | Held::Unknown => {}
                }
                std::thread::sleep(RETRY_WAIT);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Who holds a store that is locked.
enum Held {
    /// A mount that stays.
    Mounted(Failure),
    /// A process that says that it serves a mount which is not in the mount table: umount(8) has returned and the process
    /// has not heard of it yet, or it was detached, or mounted in another mount namespace.
    Leaving(Failure),
    /// Nobody who answers, or not any more.
    Unknown,
}

/// Waits for the end of a mount that is being closed.
fn wait_for_release(store: &Path) -> Outcome<Held> {
    let Some(client) = Client::connect(store)? else {
        return Ok(Held::Unknown);
    };
    let Ok(status) = client.status() else {
        // It went away while it was asked.
        return Ok(Held::Unknown);
    };
    if status.mounted {
        let failure = Failure::new(
            Exit::Locked,
            format!(
                "store {} is mounted on {} by pid {}",
                store.display(),
                status.mount_point.shown(),
                status.pid
            ),
        );
        let point = PathBuf::from(OsString::from_vec(status.mount_point.bytes()));
        let listed = mounts::table()?.iter().any(|mount| mount.point == point);
        // Bug: on a busy machine the mount was gone for a while before its process heard of it, and the next mount
        // was refused.
        return Ok(match listed {
            true => Held::Mounted(failure),
            false => Held::Leaving(failure),
        });
    }
    if client.start_waiting().is_ok() {
        // How its end went was for its own users; what counts here is that it is over.
        let _ = client.end();
    }
    Ok(Held::Unknown)
}
