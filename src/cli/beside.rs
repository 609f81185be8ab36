//! Snapshots that are mounted beside the live tree, by the process that serves that one.
//!
//! They show the same open store, so they last no longer than the process: when the main mount ends they are
//! detached, and the process ends with the last user of all of them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::exit::{Exit, Failure, Outcome};
use super::facts::Text;
use super::request::{path_of, text_of};
use crate::engine::{Engine, SnapshotInUse};
use crate::fuse::{MountOptions, Mounted, UnmountHow, mount};

/// A snapshot and where and how to mount it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BesideSpec {
    /// Name, seed or content digest.
    pub(super) text: String,
    pub(super) mount_point: Text,
    pub(super) source: String,
    /// `None`: as the user who mounts is used to it.
    pub(super) allow_other: Option<bool>,
    pub(super) nosuid: bool,
    pub(super) nodev: bool,
    pub(super) noexec: bool,
    pub(super) threads: usize,
}

impl BesideSpec {
    fn options(&self) -> MountOptions {
        let mut options = MountOptions::new(path_of(&self.mount_point), self.source.clone());
        options.read_only = true;
        options.allow_other = self
            .allow_other
            .unwrap_or_else(|| nix::unistd::geteuid().is_root());
        options.nosuid = self.nosuid;
        options.nodev = self.nodev;
        options.noexec = self.noexec;
        options.noatime = true;
        options.threads = self.threads;
        options
    }
}

/// One such mount.
struct One {
    snapshot: String,
    /// It can neither be deleted nor cleaned away while it is mounted.
    _in_use: SnapshotInUse,
    mounted: Mounted,
}

/// All of them.
pub(super) struct Beside {
    engine: Arc<Engine>,
    /// `None` once the process is ending.
    mounts: Mutex<Option<Vec<One>>>,
}

impl Beside {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            mounts: Mutex::new(Some(Vec::new())),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Vec<One>) -> Outcome<T>) -> Outcome<T> {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        let mounts = mounts
            .as_mut()
            .ok_or_else(|| Failure::new(Exit::Locked, "the mounting process is ending"))?;
        mounts.retain(|one| !one.mounted.ended());
        work(mounts)
    }

    /// Mounts a snapshot.
    pub(super) fn mount(&self, spec: &BesideSpec) -> Outcome<()> {
        self.with(|mounts| {
            let (info, in_use) = self.engine.use_snapshot(&spec.text)?;
            let snapshot = info.name;
            let mut options = spec.options();
            options.root = Some(self.engine.tree_open(Some(&snapshot))?);
            let mounted = mount(Arc::clone(&self.engine), &options)?;
            mounts.push(One {
                snapshot,
                _in_use: in_use,
                mounted,
            });
            Ok(())
        })
    }

    /// Where snapshots are mounted.
    pub(super) fn mount_points(&self) -> Vec<Text> {
        let points = self.with(|mounts| {
            let points = mounts.iter().map(|one| text_of(one.mounted.mountpoint()));
            Ok(points.collect())
        });
        points.unwrap_or_default()
    }

    /// Fails if the snapshot of this name is mounted, and says where: that it is not mounted from then on until it is
    /// deleted is for the engine to see.
    pub(super) fn refuse_mounted(&self, name: &str) -> Outcome<()> {
        let found = self.with(|mounts| {
            let found = mounts.iter().find(|one| one.snapshot == name);
            Ok(found.map(|one| PathBuf::from(one.mounted.mountpoint())))
        })?;
        match found {
            None => Ok(()),
            Some(point) => Err(Failure::new(
                Exit::Locked,
                format!("snapshot {name} is mounted on {}", point.display()),
            )),
        }
    }

    /// Detaches all and waits for their last users; there will be no more.
    pub(super) fn finish(&self) {
        let mounts = self
            .mounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mounts = mounts.unwrap_or_default();
        for one in &mounts {
            if let Err(error) = one.mounted.unmount(UnmountHow::Lazy) {
                log::warn!("{}: {error}", one.mounted.mountpoint().display());
            }
        }
        for one in &mounts {
            if let Err(error) = one.mounted.wait() {
                log::warn!("{}: {error}", one.mounted.mountpoint().display());
            }
        }
    }
}
