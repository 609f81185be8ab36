//! Locks, which the kernel keeps.

use std::fs::{self, File};

use crate::store::{MountedStore, out, sh};

#[test]
fn flock_excludes_another_open_of_the_file() {
    let store = MountedStore::new();
    let file = File::create(store.path("a")).unwrap();
    file.lock().unwrap();
    let other = File::open(store.path("a")).unwrap();
    assert!(other.try_lock().is_err());
    file.unlock().unwrap();
    other.try_lock().unwrap();
}

#[test]
fn record_locks_exclude_another_process() {
    use nix::fcntl::{FcntlArg, fcntl};
    let store = MountedStore::new();
    fs::write(store.path("a"), b"0123456789").unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .open(store.path("a"))
        .unwrap();
    let lock = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: 2,
        l_len: 3,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_SETLK(&lock)).unwrap();
    let attempt = |start: u32| {
        let script = format!(
            "python3 -c 'import fcntl,os\nf=os.open(\"a\",os.O_RDWR)\ntry:\n fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,1,{start})\n print(\"got\")\nexcept OSError as e:\n print(e.errno)'"
        );
        out(sh(store.root(), &script))
    };
    assert_eq!(attempt(3), libc::EAGAIN.to_string());
    assert_eq!(attempt(6), "got");
}
