//! A store that is mounted for one test.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use mmhfs::base::Env;
use mmhfs::engine::{Config, Engine, InitOptions};
use mmhfs::fuse::{MountOptions, Mounted, UnmountHow, mount};
use tempfile::TempDir;

/// A user and group that own nothing on this machine.
pub const STRANGER: u32 = 54_321;

/// A fresh store, mounted; unmounted and closed when it goes out of scope, after a panic too.
pub struct MountedStore {
    engine: Option<Arc<Engine>>,
    mounted: Option<Mounted>,
    root: PathBuf,
    dir: TempDir,
}

impl MountedStore {
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// With changed options.
    pub fn with(change: impl FnOnce(&mut MountOptions)) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("mmhfs-mount-")
            .tempdir()
            .unwrap();
        // Strangers have to get through.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let (store, root) = (dir.path().join("store"), dir.path().join("mnt"));
        fs::create_dir(&root).unwrap();
        Engine::init(&store, &Env::real(), &InitOptions::default()).unwrap();
        let mut this = Self {
            engine: None,
            mounted: None,
            root,
            dir,
        };
        this.start(change);
        this
    }

    fn start(&mut self, change: impl FnOnce(&mut MountOptions)) {
        let store = self.dir.path().join("store");
        let engine = Engine::open(&store, Env::real(), Config::default()).unwrap();
        let mut options = MountOptions::new(&self.root, store.display().to_string());
        options.allow_other = true;
        change(&mut options);
        let mounted = mount(Arc::clone(&engine), &options)
            .expect("these tests mount: run them as root with /dev/fuse");
        self.engine = Some(engine);
        self.mounted = Some(mounted);
    }

    /// Unmounts, closes, opens and mounts again.
    pub fn remount(&mut self) {
        self.stop();
        self.start(|_| ());
    }

    fn stop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            if mounted.unmount(UnmountHow::Plain).is_err() {
                mounted.unmount(UnmountHow::Lazy).unwrap();
            }
            mounted.wait().unwrap();
        }
        if let Some(engine) = self.engine.take() {
            engine.close().unwrap();
            drop(engine);
            // The threads of the engine and of the session hold it for another moment.
            let lock = fs::File::open(self.dir.path().join("store/lock")).unwrap();
            lock.lock().unwrap();
        }
    }

    /// Takes a snapshot of everything that programs have written, and gives its name.
    pub fn snapshot(&self) -> String {
        self.mounted().collect_writes().unwrap();
        let engine = self.engine.as_ref().unwrap();
        engine.snapshot(None, &|_| ()).unwrap().name
    }

    pub fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().unwrap()
    }

    /// A path in the mounted tree.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for MountedStore {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test has failed already: only leave no mount behind.
            if let Some(mounted) = self.mounted.take() {
                let _ = mounted.unmount(UnmountHow::Lazy);
            }
        } else {
            self.stop();
        }
    }
}

/// Runs a shell script as root in `dir`.
pub fn sh(dir: &Path, script: &str) -> Output {
    Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(dir)
        .output()
        .unwrap()
}

/// Runs a shell script in `dir` as a user and group without any rights.
pub fn sh_as_stranger(dir: &Path, script: &str) -> Output {
    Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(dir)
        .uid(STRANGER)
        .gid(STRANGER)
        .output()
        .unwrap()
}

/// The trimmed standard output of a script that has to succeed.
pub fn out(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The errno of a failed call.
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// Permission bits.
pub fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

pub fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The names in a directory, sorted.
pub fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| OsStr::to_string_lossy(&entry.unwrap().file_name()).into_owned())
        // The virtual directory, if the root shows it.
        .filter(|name| name != ".mmhfs")
        .collect();
    names.sort();
    names
}
