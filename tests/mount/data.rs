//! Bytes of files: reading, writing, appending, mapping, syncing, copying.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};

use crate::store::{MountedStore, sh};
use crate::sys::copy_file_range;

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap())
        .collect()
}

#[test]
fn what_was_written_is_read_back_after_a_remount() {
    let mut store = MountedStore::new();
    let bytes = pattern(3_000_001);
    fs::write(store.path("a"), &bytes).unwrap();
    assert!(fs::read(store.path("a")).unwrap() == bytes);
    store.remount();
    assert!(fs::read(store.path("a")).unwrap() == bytes);
}

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    let store = MountedStore::new();
    let mut file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(store.path("a"))
        .unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(store.path("a")).unwrap();
    assert!(!store.path("a").exists());
    file.write_all(b" and after").unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before and after");
}

#[test]
fn appends_of_two_handles_interleave_without_loss() {
    let store = MountedStore::new();
    let open = || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(store.path("log"))
            .unwrap()
    };
    let (mut one, mut two) = (open(), open());
    for _ in 0..500 {
        one.write_all(b"one\n").unwrap();
        two.write_all(b"two\n").unwrap();
    }
    drop((one, two));
    assert_eq!(
        fs::read_to_string(store.path("log")).unwrap(),
        "one\ntwo\n".repeat(500)
    );
}

#[test]
fn a_write_only_handle_writes_into_the_middle_of_a_page() {
    let mut store = MountedStore::new();
    fs::write(store.path("a"), pattern(10_000)).unwrap();
    store.remount();
    let file = OpenOptions::new()
        .write(true)
        .open(store.path("a"))
        .unwrap();
    file.write_all_at(b"XYZ", 5_000).unwrap();
    drop(file);
    let mut expected = pattern(10_000);
    expected[5_000..5_003].copy_from_slice(b"XYZ");
    assert_eq!(fs::read(store.path("a")).unwrap(), expected);
}

#[test]
fn a_shared_mapping_and_the_file_are_the_same_bytes() {
    let mut store = MountedStore::new();
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(store.path("a"))
        .unwrap();
    file.set_len(3 * 4096).unwrap();
    drop(file);
    // The mapping belongs to another process: a process that serves a mount must not unmap pages of it, since
    // the thread that is to write them back may need the address space that the unmapping holds.
    let program = "
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
pages = mmap.mmap(fd, 3 * 4096)
pages[4096:4101] = b'hello'
assert os.pread(fd, 5, 4096) == b'hello'
os.pwrite(fd, b'HE', 4096)
assert pages[4096:4101] == b'HEllo'
";
    let status = std::process::Command::new("python3")
        .args(["-c", program])
        .arg(store.path("a"))
        .status()
        .unwrap();
    assert!(status.success());
    store.remount();
    assert_eq!(&fs::read(store.path("a")).unwrap()[4096..4101], b"HEllo");
}

#[test]
fn truncation_drops_bytes_for_good() {
    let store = MountedStore::new();
    fs::write(store.path("a"), pattern(9_000)).unwrap();
    let file = OpenOptions::new()
        .write(true)
        .open(store.path("a"))
        .unwrap();
    file.set_len(100).unwrap();
    file.set_len(9_000).unwrap();
    let bytes = fs::read(store.path("a")).unwrap();
    assert_eq!(bytes[..100], pattern(9_000)[..100]);
    assert!(bytes[100..].iter().all(|b| *b == 0));
    drop(
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(store.path("a"))
            .unwrap(),
    );
    assert_eq!(fs::metadata(store.path("a")).unwrap().len(), 0);
}

#[test]
fn every_way_to_sync_succeeds() {
    let store = MountedStore::new();
    let mut file = File::create(store.path("a")).unwrap();
    file.write_all(b"x").unwrap();
    file.sync_data().unwrap();
    file.write_all(b"y").unwrap();
    file.sync_all().unwrap();
    File::open(store.root()).unwrap().sync_all().unwrap();
    let mut synced = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open(store.path("a"))
        .unwrap();
    synced.write_all(b"z").unwrap();
    nix::unistd::syncfs(&file).unwrap();
    assert_eq!(fs::read(store.path("a")).unwrap(), b"zy");
}

#[test]
fn copy_file_range_copies_bytes_that_were_not_synced() {
    let store = MountedStore::new();
    let bytes = pattern(300_000);
    let mut from = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(store.path("a"))
        .unwrap();
    from.write_all(&bytes).unwrap();
    let to = File::create(store.path("b")).unwrap();
    let (mut at, mut into) = (1_000_i64, 0_i64);
    while into < 200_000 {
        let left = usize::try_from(200_000 - into).unwrap();
        let done = copy_file_range((&from, &mut at), (&to, &mut into), left).unwrap();
        assert_ne!(done, 0);
    }
    drop(to);
    assert!(fs::read(store.path("b")).unwrap() == bytes[1_000..201_000]);
}

#[test]
fn direct_io_and_the_page_cache_see_the_same_bytes() {
    let store = MountedStore::new();
    let output = sh(
        store.root(),
        "dd if=/dev/urandom of=a bs=64k count=20 oflag=direct status=none && \
         dd if=a of=b bs=64k status=none && dd if=a of=c bs=64k iflag=direct status=none && \
         cmp a b && cmp a c",
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_program_in_the_tree_can_be_executed() {
    let store = MountedStore::new();
    fs::copy("/bin/echo", store.path("echo")).unwrap();
    let output = sh(store.root(), "./echo it runs");
    assert_eq!(output.stdout, b"it runs\n");
}

#[test]
fn what_a_program_still_holds_in_the_page_cache_can_be_collected() {
    let store = MountedStore::new();
    let mut file = File::create(store.path("a")).unwrap();
    file.write_all(&pattern(100_000)).unwrap();
    store.mounted().collect_writes().unwrap();
    let blocks = file.metadata().unwrap().blocks();
    assert!(blocks >= 100_000 / 512, "{blocks}");
    file.write_all(b"more").unwrap();
    drop(file);
    assert_eq!(fs::metadata(store.path("a")).unwrap().len(), 100_004);
}
