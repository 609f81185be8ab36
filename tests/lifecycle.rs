//! Mounting, unmounting, dying and coming back, by the program as users run it. Needs `/dev/fuse`; without it
//! every test here passes without looking.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed test panics"
)]

#[path = "lifecycle/beside.rs"]
mod beside;
#[path = "common/dice.rs"]
mod dice;
#[path = "lifecycle/full_disk.rs"]
mod full_disk;
#[path = "lifecycle/helpers.rs"]
mod helpers;
#[path = "lifecycle/user.rs"]
mod user;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mmhfs"));
    command.env_remove("MMHFS_LOG").stdin(Stdio::null());
    command
}

fn is_mounted(point: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == point.to_str() && line.contains(" - fuse.mmhfs "))
}

/// A store and a mount point, taken away at the end whatever happens.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// `None` where FUSE cannot be used.
    fn new() -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        if device.is_err() {
            eprintln!("no /dev/fuse: not tested");
            return None;
        }
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(world.point()).unwrap();
        world.ok(&["init", &world.store()]);
        Some(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn point(&self) -> PathBuf {
        self.path("mnt")
    }

    fn mnt(&self) -> String {
        self.point().to_str().unwrap().to_owned()
    }

    fn store(&self) -> String {
        self.path("store").to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        program()
            .current_dir(self.dir.path())
            .args(arguments)
            .output()
            .unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        String::from_utf8(output.stderr).unwrap()
    }

    fn mount(&self) {
        self.ok(&["mount", &self.store(), &self.mnt()]);
    }

    fn umount(&self) {
        self.ok(&["umount", &self.mnt()]);
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.point().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.point().join(name)).unwrap()
    }

    /// The process that serves the store: its lock says "pid N on HOST".
    fn daemon(&self) -> Pid {
        let text = fs::read_to_string(self.path("store").join("lock")).unwrap();
        let mut words = text.split_whitespace().skip_while(|word| *word != "pid");
        Pid::from_raw(words.nth(1).unwrap().parse().unwrap())
    }

    /// Kills the serving process and waits until it is no more.
    fn kill_daemon(&self) {
        let pid = self.daemon();
        kill(pid, Signal::SIGKILL).unwrap();
        // It is no child of ours: the end of its last thread shows as a free lock.
        File::open(self.path("store").join("lock"))
            .unwrap()
            .lock()
            .unwrap();
    }

    /// A process whose working directory is in the mount, and which ends when its stdin does.
    fn user(&self) -> Child {
        Command::new("cat")
            .current_dir(self.point())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for _ in 0..3 {
            if is_mounted(&self.point()) {
                let _ = self.run(&["umount", "--lazy", &self.mnt()]);
            }
        }
    }
}

#[test]
fn what_is_written_is_there_after_unmounting_and_mounting_again() {
    let Some(world) = World::new() else { return };
    world.mount();
    assert!(is_mounted(&world.point()));
    world.write("letter", "hello");
    world.umount();
    assert!(!is_mounted(&world.point()));
    world.mount();
    assert_eq!(world.read("letter"), "hello");
}

#[test]
fn umount_returns_when_the_store_is_free() {
    let Some(world) = World::new() else { return };
    for _ in 0..5 {
        world.mount();
        world.umount();
        let lock = File::open(world.path("store").join("lock")).unwrap();
        lock.try_lock().expect("the process still has the store");
        assert!(!world.path("store").join("control").exists());
    }
}

#[test]
fn a_mount_right_after_a_plain_umount_waits_for_the_closing_process() {
    let Some(world) = World::new() else { return };
    for round in 0..5 {
        world.mount();
        world.write("round", &round.to_string());
        let status = Command::new("umount").arg("-i").arg(world.point()).status();
        if !status.is_ok_and(|s| s.success()) {
            assert!(
                Command::new("fusermount3")
                    .arg("-u")
                    .arg(world.point())
                    .status()
                    .unwrap()
                    .success()
            );
        }
        world.mount();
        assert_eq!(world.read("round"), round.to_string());
        world.umount();
    }
}

#[test]
fn a_second_mount_is_refused_and_names_the_first() {
    let Some(world) = World::new() else { return };
    world.mount();
    fs::create_dir(world.path("other")).unwrap();
    let message = world.fails(4, &["mount", &world.store(), "other"]);
    assert!(message.contains(&world.daemon().to_string()), "{message}");
    assert!(message.contains(&world.mnt()), "{message}");
}

#[test]
fn a_failed_mount_gives_its_own_exit_code_and_one_message() {
    let Some(world) = World::new() else { return };
    let message = world.fails(
        7,
        &["mount", "--seed", "no-such", &world.store(), &world.mnt()],
    );
    assert_eq!(message.matches("mmhfs:").count(), 1, "{message}");
    assert!(!is_mounted(&world.point()));
    world.fails(13, &["mount", &world.store(), "nowhere"]);
}

#[test]
fn a_mount_in_use_is_not_unmounted_and_lazily_ends_with_its_user() {
    let Some(world) = World::new() else { return };
    world.mount();
    let mut user = world.user();
    world.fails(4, &["umount", &world.mnt()]);
    assert!(is_mounted(&world.point()));
    let waiting = program()
        .args(["umount", "--lazy", &world.mnt()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(user.stdin.take());
    user.wait().unwrap();
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!is_mounted(&world.point()));
}

#[test]
fn a_signal_unmounts_and_keeps_everything() {
    let Some(world) = World::new() else { return };
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        world.mount();
        world.write("signal", signal.as_str());
        kill(world.daemon(), Signal::SIGHUP).unwrap();
        assert_eq!(
            world.read("signal"),
            signal.as_str(),
            "SIGHUP ended the mount"
        );
        kill(world.daemon(), signal).unwrap();
        File::open(world.path("store").join("lock"))
            .unwrap()
            .lock()
            .unwrap();
        assert!(!is_mounted(&world.point()));
        world.mount();
        assert_eq!(world.read("signal"), signal.as_str());
        world.umount();
    }
}

#[test]
fn the_foreground_process_ends_when_it_is_interrupted() {
    let Some(world) = World::new() else { return };
    let mut child = program()
        .args(["mount", "--foreground", &world.store(), &world.mnt()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !world.path("store").join("control").exists() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it was ready"
        );
        std::thread::yield_now();
    }
    world.ok(&["sync", &world.mnt()]);
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!is_mounted(&world.point()));
}

#[test]
fn after_kill_9_what_was_synced_is_there_and_nothing_needs_cleaning_up() {
    let Some(world) = World::new() else { return };
    world.mount();
    world.write("synced", "safe");
    world.ok(&["sync", &world.mnt()]);
    world.kill_daemon();
    // Its socket and its dead mount are still there.
    world.ok(&["snapshots", &world.store()]);
    world.mount();
    assert_eq!(world.read("synced"), "safe");
    world.kill_daemon();
    world.umount();
    assert!(!is_mounted(&world.point()));
    fs::remove_dir_all(world.path("store").join("index")).unwrap();
    world.mount();
    assert_eq!(world.read("synced"), "safe");
}

/// Bug: the mount of a killed process that has not quite ended was taken away, and then missed.
#[test]
fn umount_takes_away_the_mount_of_a_process_that_is_still_ending() {
    let Some(world) = World::new() else { return };
    world.mount();
    world.kill_daemon();
    // Its first thread has ended, another one has not: so a killed process looks for a moment, or for long.
    let mut ending = Command::new("python3")
        .arg("-c")
        .arg(
            "import ctypes, sys, threading\n\
             threading.Thread(target=sys.stdin.read).start()\n\
             ctypes.CDLL(None).pthread_exit(None)",
        )
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let stat = PathBuf::from(format!("/proc/{}/stat", ending.id()));
    while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
        std::thread::yield_now();
    }
    let host = nix::unistd::gethostname().unwrap();
    let holder = format!("pid {} on {}\n", ending.id(), host.to_str().unwrap());
    fs::write(world.path("store").join("lock"), holder).unwrap();
    world.umount();
    assert!(!is_mounted(&world.point()));
    drop(ending.stdin.take());
    ending.wait().unwrap();
    world.mount();
}

#[test]
fn commands_reach_a_mounted_store_from_any_path_in_it() {
    let Some(world) = World::new() else { return };
    world.mount();
    fs::create_dir(world.point().join("inner")).unwrap();
    world.write("inner/letter", "hello");
    let inner = world.point().join("inner");
    let seed = world.ok(&["snapshot", inner.to_str().unwrap(), "v1"]);
    assert!(
        world
            .ok(&["snapshots", &world.store()])
            .contains(seed.trim())
    );
    assert_eq!(
        world.ok(&["cat", &world.mnt(), "v1", "inner/letter"]),
        "hello"
    );
    assert_eq!(
        world.ok(&["ls", "-R", &world.mnt(), "v1"]),
        "inner\ninner/letter\n"
    );
    world.ok(&["verify", &world.mnt(), "v1"]);
    world.ok(&["check", &world.mnt()]);
    let output = program()
        .arg("stat")
        .arg(inner.join("letter"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    world.write("inner/letter", "other");
    let changes = world.ok(&["diff", &world.mnt(), "v1"]);
    assert!(changes.contains("M inner/letter"), "{changes}");
    world.fails(20, &["diff", "--exit-code", &world.mnt(), "v1"]);
    world.fails(4, &["rollback", &world.store(), "v1"]);
    world.fails(4, &["rebuild-index", &world.store()]);
}

#[test]
fn a_snapshot_sees_what_the_kernel_still_holds_back() {
    let Some(world) = World::new() else { return };
    world.mount();
    let mut file = File::create(world.point().join("open")).unwrap();
    // Neither closed nor synced.
    file.write_all(&[7; 3_000_000]).unwrap();
    let taken = world.ok(&["snapshot", &world.mnt()]);
    let plain = world.ok(&["seed", &world.mnt()]);
    assert_eq!(taken, plain);
    drop(file);
}

#[test]
fn a_snapshot_is_mounted_read_only_by_its_seed() {
    let Some(world) = World::new() else { return };
    world.mount();
    world.write("letter", "old");
    let seed = world.ok(&["snapshot", &world.mnt(), "v1"]);
    world.write("letter", "new");
    world.umount();
    world.ok(&["mount", "--seed", seed.trim(), &world.store(), &world.mnt()]);
    assert_eq!(world.read("letter"), "old");
    let refused = fs::write(world.point().join("letter"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(world.ok(&["seed", &world.mnt()]), seed);
    world.umount();
    world.mount();
    assert_eq!(world.read("letter"), "new");
}

#[test]
fn a_store_with_a_very_long_path_can_be_mounted() {
    let Some(world) = World::new() else { return };
    // The control socket's address holds 108 bytes.
    let long = world.path(&"long-".repeat(40));
    fs::create_dir(&long).unwrap();
    let store = long.join("store").to_str().unwrap().to_owned();
    world.ok(&["init", &store]);
    world.ok(&["mount", &store, &world.mnt()]);
    world.ok(&["stats", &store]);
    world.umount();
}

#[test]
fn under_the_names_of_the_helpers_it_understands_mount_and_umount() {
    let Some(world) = World::new() else { return };
    let (mount, umount) = (world.path("mount.mmhfs"), world.path("umount.fuse.mmhfs"));
    for link in [&mount, &umount] {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mmhfs"), link).unwrap();
    }
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        (output.status.code().unwrap(), output)
    };
    let (code, output) = run(
        &mount,
        &[
            &world.store(),
            &world.mnt(),
            "-n",
            "-o",
            "rw,noatime,_netdev,x-a.b=c",
        ],
    );
    assert_eq!(code, 0, "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert!(is_mounted(&world.point()));
    let (code, output) = run(&umount, &[&world.mnt()]);
    assert_eq!(code, 0, "{output:?}");
    assert!(!is_mounted(&world.point()));
    let (code, _) = run(&mount, &[&world.store(), &world.mnt(), "-o", "bogus"]);
    assert_eq!(code, 1);
    let (code, _) = run(&mount, &["/dev", &world.mnt()]);
    assert_eq!(code, 32);
}
