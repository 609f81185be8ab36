//! The control socket: how a command talks to the process that has the store mounted.
//!
//! `STORE/control` is a Unix socket (mode 0600). Each line is one JSON document. A client sends a [`Request`];
//! the server answers with any number of events and one final answer or failure:
//!
//! ```text
//! {"op":"snapshot","name":"v1"}
//! {"progress":{"entries":12,…}}
//! {"answer":{"answer":"snapshot","value":{"name":"v1","seed":"mmh1…",…}}}
//! ```
//!
//! `{"data":N}` is followed by N plain bytes. The socket is bound and reached by way of
//! `/proc/self/fd/N/control`, because the path of a store may be longer than the 108 bytes of a `sockaddr_un`.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::beside::Beside;
use super::exit::{Exit, Failure, Outcome};
use super::facts::{DiffFacts, EntryFacts, ProgressFacts};
use super::request::{Answer, Emit, Event, Request, StatusFacts, execute, forgotten};
use crate::engine::Engine;
use crate::fuse::Mounted;

const NAME: &str = "control";
/// Longest request or answer line.
const LINE_LEN_MAX: u64 = 64 << 20;
/// Longest run of plain bytes after a data line.
const DATA_LEN_MAX: u64 = 16 << 20;
/// Clients served at once; a further one is told that the process is busy.
const CLIENTS_MAX: usize = 32;

/// One line from the server.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    Progress(ProgressFacts),
    Diff(DiffFacts),
    Entry(EntryFacts),
    Data(u64),
    Answer(Answer),
    Failure(Failure),
}

// ---- the client ------------------------------------------------------------------------------------

/// A connection to the process that has the store mounted.
pub(super) struct Client {
    /// Tells when the process at the other end has ended.
    server: Option<OwnedFd>,
    stream: Mutex<BufReader<UnixStream>>,
}

impl Client {
    /// Connects, or returns `None` if no living process serves the store.
    pub(super) fn connect(store: &Path) -> Outcome<Option<Self>> {
        let dir = match File::open(store) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::new(
                    Exit::NotAStore,
                    format!("{} does not exist", store.display()),
                ));
            }
            Err(e) => return Err(Failure::path("open", store, &e)),
        };
        match UnixStream::connect(reach(&dir)) {
            Ok(stream) => Ok(Some(Self {
                server: process_of(&stream),
                stream: Mutex::new(BufReader::new(stream)),
            })),
            // No socket, a socket that a killed process left, or a foreign file of that name.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(Failure::path("reach the process that mounts", store, &e)),
        }
    }

    /// Sends a request and returns its answer; events go to `emit`.
    pub(super) fn call(&self, request: &Request, emit: Emit<'_>) -> Outcome<Answer> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = encode(request)?;
        line.push(b'\n');
        stream.get_mut().write_all(&line).map_err(|e| lost(&e))?;
        loop {
            match receive(&mut stream)? {
                Message::Answer(answer) => return Ok(answer),
                Message::Failure(failure) => return Err(failure),
                Message::Progress(facts) => emit(Event::Progress(facts))?,
                Message::Diff(facts) => emit(Event::Diff(facts))?,
                Message::Entry(facts) => emit(Event::Entry(facts))?,
                Message::Data(len) => {
                    if len > DATA_LEN_MAX {
                        return Err(Failure::new(Exit::General, "malformed answer"));
                    }
                    let mut bytes = Vec::new();
                    let got = stream
                        .by_ref()
                        .take(len)
                        .read_to_end(&mut bytes)
                        .map_err(|e| lost(&e))?;
                    if got as u64 != len {
                        return Err(died());
                    }
                    emit(Event::Data(bytes))?;
                }
            }
        }
    }

    /// Who serves the store.
    pub(super) fn status(&self) -> Outcome<StatusFacts> {
        match self.call(&Request::Status, &|_| Ok(()))? {
            Answer::Status(status) => Ok(status),
            other => Err(super::request::mismatch(&other)),
        }
    }

    /// Registers for the end of the mount. After [`Client::end`] the store is closed and the process gone.
    pub(super) fn start_waiting(&self) -> Outcome<()> {
        self.call(&Request::Wait, &|_| Ok(())).map(|_| ())
    }

    /// Waits for the end after [`Client::start_waiting`] and returns how closing the store went.
    pub(super) fn end(&self) -> Outcome<()> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match receive(&mut stream)? {
            Message::Failure(failure) => Err(failure),
            _ => Ok(()),
        };
        // The connection ends when the process does; which of its files the kernel closes first is not said,
        // so the lock on the store is free only once the process is gone.
        let _ = io::copy(&mut *stream, &mut io::sink());
        if let Some(server) = &self.server {
            let mut ended = [PollFd::new(server.as_fd(), PollFlags::POLLIN)];
            while poll(&mut ended, PollTimeout::NONE) == Err(Errno::EINTR) {}
        }
        outcome
    }
}

/// The process at the other end; readable once it has ended (pidfd_open(2)). `None` where the kernel cannot tell.
fn process_of(stream: &UnixStream) -> Option<OwnedFd> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let peer = getsockopt(stream, PeerCredentials).ok()?;
    pidfd_open(Pid::from_raw(peer.pid())?, PidfdFlags::empty()).ok()
}

fn reach(dir: &File) -> PathBuf {
    format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()).into()
}

fn encode(value: &impl Serialize) -> Outcome<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Failure::new(Exit::General, e.to_string()))
}

fn receive(stream: &mut BufReader<UnixStream>) -> Outcome<Message> {
    let mut line = Vec::new();
    stream
        .take(LINE_LEN_MAX)
        .read_until(b'\n', &mut line)
        .map_err(|e| lost(&e))?;
    if line.last() != Some(&b'\n') {
        return Err(died());
    }
    serde_json::from_slice(&line).map_err(|e| {
        Failure::new(
            Exit::Version,
            format!(
                "cannot understand the mounting process ({e}); is it another version of mmhfs?"
            ),
        )
    })
}

/// Reads a line as each end of the socket does.
#[cfg(fuzzing)]
pub(super) fn decode_line(line: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(line) {
        assert!(encode(&request).is_ok());
    }
    if let Ok(message) = serde_json::from_slice::<Message>(line) {
        assert!(encode(&message).is_ok());
    }
}

fn lost(e: &io::Error) -> Failure {
    Failure::io("lost the connection to the mounting process", e)
}

fn died() -> Failure {
    Failure::new(
        Exit::Io,
        "the mounting process died before it answered; what it had not committed is lost, \
         what was synced is safe",
    )
}

// ---- the server ------------------------------------------------------------------------------------

/// The serving side, owned by the mounting process.
pub(super) struct Server {
    shared: Arc<Shared>,
    dir: File,
}

struct Shared {
    engine: Arc<Engine>,
    mounted: Arc<Mounted>,
    beside: Beside,
    status: StatusFacts,
    clients: AtomicUsize,
    end: Mutex<End>,
}

/// Guards the end of the mount: who waits for it, and how it went once it came.
#[derive(Default)]
struct End {
    waiters: Vec<UnixStream>,
    outcome: Option<Outcome<()>>,
}

impl Server {
    /// Binds the socket and serves it from a thread of its own. The caller holds the store's lock, so a
    /// socket that is there already belongs to nobody.
    pub(super) fn start(
        store: &Path,
        engine: Arc<Engine>,
        mounted: Arc<Mounted>,
        status: StatusFacts,
    ) -> Outcome<Self> {
        let failed = |e: &io::Error| Failure::path("make the control socket in", store, e);
        let dir = File::open(store).map_err(|e| failed(&e))?;
        let path = reach(&dir);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(|e| failed(&e))?;
        // Who connects before the mode is set is told from the owner by the check of the peer below.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(|e| failed(&e))?;
        let shared = Arc::new(Shared {
            beside: Beside::new(Arc::clone(&engine)),
            engine,
            mounted,
            status,
            clients: AtomicUsize::new(0),
            end: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &served))
            .map_err(|e| failed(&e))?;
        Ok(Self { shared, dir })
    }

    /// Ends the mounts beside the main one, which has ended.
    pub(super) fn finish_beside(&self) {
        self.shared.beside.finish();
    }

    /// Takes the socket away and tells everybody who waits how closing the store went.
    pub(super) fn finish(&self, outcome: &Outcome<()>) {
        let _ = fs::remove_file(reach(&self.dir));
        let mut end = self
            .shared
            .end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for waiter in &end.waiters {
            tell_end(waiter, outcome);
        }
        // The streams stay open until the process is gone: that is what the clients wait for.
        end.outcome = Some(outcome.clone());
    }
}

fn tell_end(mut stream: &UnixStream, outcome: &Outcome<()>) {
    let message = match outcome {
        Ok(()) => Message::Answer(Answer::Done),
        Err(failure) => Message::Failure(failure.clone()),
    };
    if let Ok(mut line) = encode(&message) {
        line.push(b'\n');
        // A waiter that has gone needs no answer.
        let _ = stream.write_all(&line);
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: do not spin.
            std::thread::sleep(std::time::Duration::from_millis(100));
            continue;
        };
        if !is_owner(&stream) {
            continue;
        }
        if shared.clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
            shared.clients.fetch_sub(1, Ordering::Relaxed);
            let busy = Failure::new(
                Exit::Locked,
                "the mounting process serves too many commands already",
            );
            tell_end(&stream, &Err(busy));
            continue;
        }
        let owned = Arc::clone(shared);
        let spawned = std::thread::Builder::new()
            .name("control-client".into())
            .spawn(move || {
                // A client that goes away in the middle of an answer is no fault of ours.
                if let Err(failure) = serve(stream, &owned) {
                    log::debug!("control: {}", failure.message);
                }
                owned.clients.fetch_sub(1, Ordering::Relaxed);
            });
        if let Err(e) = spawned {
            log::warn!("control: cannot start a thread: {e}");
            shared.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Whether the peer is the user who mounted, or root.
fn is_owner(stream: &UnixStream) -> bool {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    getsockopt(stream, PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}

fn serve(stream: UnixStream, shared: &Shared) -> Outcome<()> {
    let writer = Mutex::new(stream.try_clone().map_err(|e| lost(&e))?);
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        (&mut reader)
            .take(LINE_LEN_MAX)
            .read_until(b'\n', &mut line)
            .map_err(|e| lost(&e))?;
        if line.is_empty() {
            return Ok(());
        }
        let message = match serde_json::from_slice::<Request>(&line) {
            Ok(Request::Wait) => {
                wait_here(&writer, shared)?;
                continue;
            }
            Ok(Request::Mount(spec)) => match shared.beside.mount(&spec) {
                Ok(()) => Message::Answer(Answer::Done),
                Err(failure) => Message::Failure(failure),
            },
            Ok(Request::Status) => Message::Answer(Answer::Status(shared.status())),
            Ok(request) => {
                let emit = |event| send_event(&writer, event);
                match shared
                    .prepare(&request)
                    .and_then(|()| execute(&shared.engine, &request, &emit))
                {
                    Ok(answer) => Message::Answer(answer),
                    Err(failure) => Message::Failure(failure),
                }
            }
            Err(e) => Message::Failure(Failure::new(
                Exit::Version,
                format!("the mounting process does not know this request ({e})"),
            )),
        };
        send(&writer, &message, &[])?;
    }
}

impl Shared {
    /// Makes the kernel hand over its dirty pages before a request that is to see everything written so far, and
    /// keeps what is mounted from being deleted.
    fn prepare(&self, request: &Request) -> Outcome<()> {
        if let Request::Delete { name } = request {
            self.beside.refuse_mounted(name)?;
        }
        if let Request::Forget { dry_run: false, .. } = request {
            for name in forgotten(&self.engine, request)? {
                self.beside.refuse_mounted(&name)?;
            }
        }
        let sees_all = matches!(
            request,
            Request::Sync
                | Request::Snapshot { .. }
                | Request::Diff { to: None, .. }
                | Request::Stats
        );
        if sees_all && !self.mounted.ended() {
            let collected = self.mounted.collect_writes();
            // A store that has halted refuses the bytes; that it has is what `stats` is asked for.
            if !matches!(request, Request::Stats) {
                collected?;
            }
        }
        Ok(())
    }

    fn status(&self) -> StatusFacts {
        StatusFacts {
            mounted: !self.mounted.ended(),
            beside: self.beside.mount_points(),
            ..self.status.clone()
        }
    }
}

fn wait_here(writer: &Mutex<UnixStream>, shared: &Shared) -> Outcome<()> {
    // Held throughout, so that the end cannot come between the answer and the registration.
    let mut end = shared.end.lock().unwrap_or_else(PoisonError::into_inner);
    send(writer, &Message::Answer(Answer::Done), &[])?;
    let stream = {
        let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.try_clone().map_err(|e| lost(&e))?
    };
    if let Some(outcome) = &end.outcome {
        tell_end(&stream, outcome);
    }
    end.waiters.push(stream);
    Ok(())
}

fn send_event(writer: &Mutex<UnixStream>, event: Event) -> Outcome<()> {
    match event {
        Event::Progress(facts) => send(writer, &Message::Progress(facts), &[]),
        Event::Diff(facts) => send(writer, &Message::Diff(facts), &[]),
        Event::Entry(facts) => send(writer, &Message::Entry(facts), &[]),
        Event::Data(bytes) => send(writer, &Message::Data(bytes.len() as u64), &bytes),
    }
}

fn send(writer: &Mutex<UnixStream>, message: &Message, data: &[u8]) -> Outcome<()> {
    let mut line = encode(message)?;
    line.push(b'\n');
    line.extend_from_slice(data);
    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
    writer.write_all(&line).map_err(|e| lost(&e))
}
