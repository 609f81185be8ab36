//! Problems that `check` and `verify` find, gathered from many threads and bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::types::{CheckReport, Problem, Progress};
use crate::base::limits::{PROBLEM_PATHS_MAX, PROBLEMS_MAX};
use crate::base::{Error, PackId};
use crate::chunk::pack_name;
use crate::format::rows::PackKind;

/// Where a problem is, and what it is.
type Key = (Option<String>, Option<u64>, String);

#[derive(Debug, Default)]
struct Paths {
    listed: BTreeSet<String>,
    more: u64,
}

#[derive(Debug, Default)]
struct State {
    problems: BTreeMap<Key, Paths>,
    more: u64,
}

/// What was found so far. One damaged place is one problem, however many paths suffer from it.
pub(crate) struct Findings<'a> {
    /// Kinds of the packs, for their names.
    kinds: BTreeMap<PackId, PackKind>,
    /// Guards the problems; a leaf lock.
    state: Mutex<State>,
    pub(crate) packs: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) bytes: AtomicU64,
    totals: Progress,
    progress: &'a (dyn Fn(Progress) + Sync),
}

impl<'a> Findings<'a> {
    /// Nothing found yet; `totals` says how much there is to do.
    pub(crate) fn new(
        kinds: BTreeMap<PackId, PackKind>,
        totals: Progress,
        progress: &'a (dyn Fn(Progress) + Sync),
    ) -> Self {
        Self {
            kinds,
            state: Mutex::default(),
            packs: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            records: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            totals,
            progress,
        }
    }

    /// Name of a pack file within the store.
    pub(crate) fn pack_name(&self, id: PackId) -> String {
        // A pack without a file is most likely one of bulk data.
        let kind = self.kinds.get(&id).copied().unwrap_or(PackKind::Data);
        pack_name(id, kind)
    }

    /// Notes a problem at a place in a pack.
    pub(crate) fn at(
        &self,
        pack: PackId,
        offset: u64,
        detail: impl Into<String>,
        path: Option<String>,
    ) {
        self.add(
            (Some(self.pack_name(pack)), Some(offset), detail.into()),
            path,
        );
    }

    /// Notes a problem of a file that is no pack.
    pub(crate) fn file(&self, name: impl Into<String>, detail: impl Into<String>) {
        self.add((Some(name.into()), None, detail.into()), None);
    }

    /// Notes a problem that has no place in a pack.
    pub(crate) fn of(&self, detail: impl Into<String>, path: Option<String>) {
        self.add((None, None, detail.into()), path);
    }

    /// Notes what an error says.
    pub(crate) fn error(&self, error: &Error, path: Option<String>) {
        match error {
            Error::Corrupt { what, site, detail } => {
                let detail = format!("damaged {what}: {detail}");
                self.at(site.pack, site.off.raw(), detail, path);
            }
            Error::PackMissing { path: file } | Error::PackTruncated { path: file, .. } => {
                let name = file.file_name().map(|name| name.to_string_lossy());
                let name = name.map(|name| format!("packs/{name}"));
                self.add((name, None, error.to_string()), path);
            }
            other => self.of(other.to_string(), path),
        }
    }

    fn add(&self, key: Key, path: Option<String>) {
        let mut state = self.state.lock();
        if !state.problems.contains_key(&key) && state.problems.len() >= PROBLEMS_MAX {
            state.more += 1;
            return;
        }
        let paths = state.problems.entry(key).or_default();
        match path {
            Some(path) if paths.listed.len() < PROBLEM_PATHS_MAX => {
                paths.listed.insert(path);
            }
            Some(path) => paths.more += u64::from(!paths.listed.contains(&path)),
            None => {}
        }
    }

    /// Names of one file: what concerns one of them concerns all.
    pub(crate) fn share(&self, names: &[String]) {
        for paths in self.state.lock().problems.values_mut() {
            if names.iter().any(|name| paths.listed.contains(name)) {
                let room = PROBLEM_PATHS_MAX.saturating_sub(paths.listed.len());
                paths.listed.extend(names.iter().take(room).cloned());
            }
        }
    }

    /// Whether nothing was found.
    pub(crate) fn is_clean(&self) -> bool {
        self.state.lock().problems.is_empty()
    }

    /// Tells how far the work is.
    pub(crate) fn report(&self) {
        (self.progress)(Progress {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            ..self.totals
        });
    }

    /// Everything that was found, in the order of packs and offsets.
    pub(crate) fn finish(self) -> CheckReport {
        let state = self.state.into_inner();
        let mut problems: Vec<Problem> = Vec::with_capacity(state.problems.len());
        for ((pack, offset, mut detail), paths) in state.problems {
            if paths.more > 0 {
                detail = format!("{detail} (and {} more paths)", paths.more);
            }
            problems.push(Problem {
                pack,
                offset,
                paths: paths.listed.into_iter().collect(),
                detail,
            });
        }
        if state.more > 0 {
            problems.push(Problem {
                pack: None,
                offset: None,
                paths: Vec::new(),
                detail: format!("{} more problems are not listed", state.more),
            });
        }
        CheckReport {
            packs: self.packs.into_inner(),
            frames: self.frames.into_inner(),
            records: self.records.into_inner(),
            entries: self.entries.into_inner(),
            bytes: self.bytes.into_inner(),
            unprotected: None,
            problems,
        }
    }
}
