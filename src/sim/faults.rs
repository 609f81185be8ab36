//! Which calls of a simulated disk fail.

use std::collections::BTreeMap;

use crate::base::{Error, Result};

/// The calls of a disk that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallKind {
    /// `Disk::create_new`.
    Create,
    /// `Disk::rename`.
    Rename,
    /// `Disk::remove`.
    Remove,
    /// `Disk::create_dir`.
    CreateDir,
    /// `Disk::sync_dir`.
    SyncDir,
    /// `DiskFile::write_at`.
    Write,
    /// `DiskFile::sync_data`.
    Sync,
    /// `DiskFile::read_at`.
    Read,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// The device has failed: `EIO`.
    Io,
    /// There is no room: `ENOSPC`.
    NoSpace,
}

/// A run of calls of one kind that fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which calls.
    pub kind: CallKind,
    /// How many of them succeed before, counted from when the plan was made.
    pub after: u64,
    /// How many of them fail.
    pub times: u64,
    /// How.
    pub error: FaultError,
}

/// The faults that a disk still has to make.
#[derive(Debug, Default)]
pub(super) struct Plan {
    faults: Vec<Fault>,
    seen: BTreeMap<CallKind, u64>,
    /// Calls that were made to fail.
    pub(super) made: u64,
}

impl Plan {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        Self {
            faults,
            ..Self::default()
        }
    }

    /// Counts a call; an error if it is to fail.
    pub(super) fn call(&mut self, kind: CallKind, name: &str) -> Result<()> {
        let seen = self.seen.entry(kind).or_default();
        let nth = *seen;
        *seen += 1;
        let hit = self.faults.iter().find(|fault| {
            fault.kind == kind && (fault.after..fault.after + fault.times).contains(&nth)
        });
        let Some(fault) = hit else {
            return Ok(());
        };
        self.made += 1;
        Err(match fault.error {
            FaultError::NoSpace => Error::NoSpace,
            FaultError::Io => Error::io(
                format!("{kind:?} {name}"),
                std::io::Error::other("injected I/O error"),
            ),
        })
    }
}
