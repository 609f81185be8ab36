//! What can be asked of a store, and the one function that does it.
//!
//! A command builds a [`Request`]. If the store is mounted it travels over the control socket to the mounting
//! process, else this process opens the engine; both run [`execute`], so both give the same answers.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::beside::BesideSpec;
use super::exit::{Failure, Outcome};
use super::facts::{
    CleanFacts, DiffFacts, EntryFacts, FileStorage, ForgetFacts, ProgressFacts, ProtectFacts,
    ReportFacts, RestoreFacts, SnapshotFacts, StatsFacts, Text,
};
use super::scrub::ScrubFacts;
use super::tree;
use crate::base::Ino;
use crate::engine::{CleanOptions, Engine, KeepPolicy, RestoreOptions, ScrubOptions};

/// One request. Snapshots are named by their name, seed or content digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(super) enum Request {
    /// Who serves the store and where it is mounted. Only a mounting process answers.
    Status,
    /// Wait until the store is unmounted and closed. Only a mounting process answers.
    Wait,
    /// Mount a snapshot beside what is mounted. Only a mounting process answers.
    Mount(BesideSpec),
    /// Commit everything.
    Sync,
    /// Take a snapshot.
    Snapshot { name: Option<String> },
    /// List the snapshots.
    Snapshots,
    /// Find one snapshot.
    Resolve { text: String },
    /// Delete a snapshot by name.
    Delete { name: String },
    /// Delete the snapshots that no rule keeps.
    Forget { policy: Policy, dry_run: bool },
    /// Give the space of what was deleted back.
    Protect,
    Clean {
        dry_run: bool,
        max_unused: Option<u64>,
    },
    /// Compare two snapshots, or one with the live tree.
    Diff { from: String, to: Option<String> },
    /// Recompute a snapshot's seed from its stored bytes.
    Verify { text: String },
    /// Check everything in the store.
    Check,
    /// Read everything again and repair what has rotted.
    Scrub {
        repair: bool,
        rate: Option<u64>,
        restart: bool,
        /// The store is open for reading only because it cannot be opened for writing.
        #[serde(default)]
        offline: bool,
    },
    /// Write a snapshot, or a path of it, as plain files.
    Restore {
        text: String,
        path: Option<Text>,
        dest: Text,
        resume: bool,
    },
    /// List a directory of a snapshot or of the live tree.
    List {
        text: Option<String>,
        path: Text,
        recursive: bool,
    },
    /// Send a file's bytes.
    Cat { text: Option<String>, path: Text },
    /// Facts about the store.
    Stats,
    /// How the file with this inode number is stored.
    File { ino: u64 },
}

/// Which snapshots to keep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Policy {
    pub(super) last: u32,
    pub(super) daily: u32,
    pub(super) weekly: u32,
    pub(super) monthly: u32,
    pub(super) yearly: u32,
    pub(super) names: Vec<String>,
}

impl From<Policy> for KeepPolicy {
    fn from(policy: Policy) -> Self {
        Self {
            last: policy.last,
            daily: policy.daily,
            weekly: policy.weekly,
            monthly: policy.monthly,
            yearly: policy.yearly,
            names: policy.names,
        }
    }
}

/// The names of the snapshots that a request to forget would delete.
pub(super) fn forgotten(engine: &Engine, request: &Request) -> Outcome<Vec<String>> {
    let Request::Forget { policy, .. } = request else {
        return Ok(Vec::new());
    };
    let report = engine.forget_snapshots(&policy.clone().into(), true)?;
    Ok(report.removed.into_iter().map(|info| info.name).collect())
}

/// What comes before the answer, any number of times.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Progress(ProgressFacts),
    Diff(DiffFacts),
    Entry(EntryFacts),
    Data(Vec<u8>),
}

/// The answer to a request that succeeded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "kebab-case")]
pub(super) enum Answer {
    Done,
    Status(StatusFacts),
    Snapshot(SnapshotFacts),
    Snapshots(Vec<SnapshotFacts>),
    Report(ReportFacts),
    Restored(RestoreFacts),
    Stats(StatsFacts),
    Forgotten(ForgetFacts),
    Cleaned(CleanFacts),
    Protected(ProtectFacts),
    Scrubbed(ScrubFacts),
    File(FileStorage),
}

/// The mounting process, as it describes itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StatusFacts {
    pub(super) pid: u32,
    pub(super) mount_point: Text,
    /// Whether the kernel still has the mount; `false` while the process is closing the store.
    pub(super) mounted: bool,
    pub(super) read_only: bool,
    /// The seed that is mounted, if it is a snapshot.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) seed: Option<String>,
    /// Where snapshots are mounted beside it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(super) beside: Vec<Text>,
}

/// Receives events; an error ends the request.
pub(super) type Emit<'a> = &'a (dyn Fn(Event) -> Outcome<()> + Sync);

/// Carries out one request on an open engine.
pub(super) fn execute(engine: &Engine, request: &Request, emit: Emit<'_>) -> Outcome<Answer> {
    let progress = |now: crate::engine::Progress| {
        // Nobody needs to see progress for the work to go on.
        let _ = emit(Event::Progress(now.into()));
    };
    match request {
        Request::Status | Request::Wait | Request::Mount(_) => {
            Err(Failure::usage("the store is not mounted by this process"))
        }
        Request::Sync => {
            engine.sync()?;
            Ok(Answer::Done)
        }
        Request::Snapshot { name } => {
            let info = engine.snapshot(name.as_deref(), &progress)?;
            Ok(Answer::Snapshot((&info).into()))
        }
        Request::Snapshots => {
            let list = engine.snapshots()?;
            Ok(Answer::Snapshots(list.iter().map(Into::into).collect()))
        }
        Request::Resolve { text } => Ok(Answer::Snapshot((&engine.resolve(text)?).into())),
        Request::Delete { name } => {
            engine.delete_snapshot(name)?;
            Ok(Answer::Done)
        }
        Request::Forget { policy, dry_run } => {
            let report = engine.forget_snapshots(&policy.clone().into(), *dry_run)?;
            Ok(Answer::Forgotten(ForgetFacts::new(&report, *dry_run)))
        }
        Request::Clean {
            dry_run,
            max_unused,
        } => {
            let defaults = CleanOptions::default();
            let options = CleanOptions {
                dry_run: *dry_run,
                unused_percent: max_unused.unwrap_or(defaults.unused_percent),
            };
            let report = engine.clean(&options, &|_, now| progress(now))?;
            Ok(Answer::Cleaned(report.into()))
        }
        Request::Protect => Ok(Answer::Protected(engine.protect_all()?.into())),
        Request::Diff { from, to } => diff(engine, from, to.as_deref(), emit),
        Request::Verify { text } => Ok(Answer::Report(engine.verify(text, &progress)?.into())),
        Request::Check => Ok(Answer::Report(engine.check(&progress)?.into())),
        Request::Scrub {
            repair,
            rate,
            restart,
            offline,
        } => {
            let options = ScrubOptions {
                repair: *repair,
                rate: *rate,
                restart: *restart,
            };
            // Who asked for it has gone: it stops, and the next one goes on there.
            let watch = |now: crate::engine::Progress| emit(Event::Progress(now.into())).is_ok();
            let report = if *offline {
                engine.scrub_offline(&options, &watch)?
            } else {
                engine.scrub(&options, &watch)?
            };
            Ok(Answer::Scrubbed(report.into()))
        }
        Request::Restore {
            text,
            path,
            dest,
            resume,
        } => {
            let path = path.as_ref().map(Text::bytes);
            let dest = path_of(dest);
            let options = RestoreOptions {
                resume: *resume,
                ..RestoreOptions::default()
            };
            let report = engine.restore(text, path.as_deref(), &dest, &options, &progress)?;
            Ok(Answer::Restored(report.into()))
        }
        Request::List {
            text,
            path,
            recursive,
        } => {
            tree::list(engine, text.as_deref(), &path.bytes(), *recursive, emit)?;
            Ok(Answer::Done)
        }
        Request::Cat { text, path } => {
            tree::cat(engine, text.as_deref(), &path.bytes(), emit)?;
            Ok(Answer::Done)
        }
        Request::Stats => Ok(Answer::Stats(StatsFacts::new(
            &engine.stats()?,
            engine.halted(),
        ))),
        Request::File { ino } => Ok(Answer::File(engine.file_facts(Ino::from_raw(*ino))?.into())),
    }
}

fn diff(engine: &Engine, from: &str, to: Option<&str>, emit: Emit<'_>) -> Outcome<Answer> {
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    engine.diff(from, to, &mut |item| {
        // The engine cannot be told to stop: after a failure the rest is dropped.
        if let Ok(mut failed) = failed.lock()
            && failed.is_none()
        {
            *failed = emit(Event::Diff((&item).into())).err();
        }
    })?;
    match failed.into_inner() {
        Ok(Some(failure)) => Err(failure),
        _ => Ok(Answer::Done),
    }
}

/// A path as it travels.
pub(super) fn text_of(path: &Path) -> Text {
    use std::os::unix::ffi::OsStrExt as _;
    Text::new(path.as_os_str().as_bytes())
}

/// The path that [`text_of`] packed.
pub(super) fn path_of(text: &Text) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    std::ffi::OsString::from_vec(text.bytes()).into()
}

/// An answer of another kind than the request asks for: the mounting process is another version of mmhfs.
pub(super) fn mismatch(answer: &Answer) -> Failure {
    Failure::new(
        super::exit::Exit::Version,
        format!("unexpected answer {answer:?}; the store is mounted by another version of mmhfs"),
    )
}
