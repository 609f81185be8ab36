//! Sparse files: SEEK_DATA and SEEK_HOLE, fallocate.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use crate::store::MountedStore;

const MIB: u64 = 1 << 20;

fn new_file(store: &MountedStore) -> File {
    File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(store.path("a"))
        .unwrap()
}

fn seek(file: &File, from: u64, whence: Whence) -> Result<u64, Errno> {
    lseek(file, i64::try_from(from).unwrap(), whence).map(|at| u64::try_from(at).unwrap())
}

#[test]
fn holes_are_found_in_a_synced_file() {
    let store = MountedStore::new();
    let file = new_file(&store);
    file.write_all_at(&[7; 65_536], 4 * MIB).unwrap();
    file.set_len(8 * MIB).unwrap();
    file.sync_all().unwrap();
    assert_eq!(seek(&file, 0, Whence::SeekData), Ok(4 * MIB));
    assert_eq!(seek(&file, 0, Whence::SeekHole), Ok(0));
    assert_eq!(seek(&file, 4 * MIB, Whence::SeekHole), Ok(4 * MIB + 65_536));
    assert_eq!(seek(&file, 5 * MIB, Whence::SeekData), Err(Errno::ENXIO));
    assert_eq!(seek(&file, 8 * MIB, Whence::SeekHole), Err(Errno::ENXIO));
    assert!(file.metadata().unwrap().blocks() < 1024);
}

/// Without asking the kernel for its dirty pages first, the daemon sees an empty file here and cp(1)
/// would copy nothing.
#[test]
fn data_that_is_only_in_the_page_cache_is_not_taken_for_a_hole() {
    let store = MountedStore::new();
    let file = new_file(&store);
    file.write_all_at(&[7; 4096], 3 * MIB).unwrap();
    assert_eq!(seek(&file, 0, Whence::SeekData), Ok(3 * MIB));
    file.write_all_at(&[7; 4096], MIB).unwrap();
    let other = File::open(store.path("a")).unwrap();
    assert_eq!(seek(&other, 0, Whence::SeekData), Ok(MIB));
    assert_eq!(seek(&other, MIB, Whence::SeekHole), Ok(MIB + 4096));
}

#[test]
fn a_punched_hole_reads_as_zeros_and_keeps_the_size() {
    let store = MountedStore::new();
    let file = new_file(&store);
    file.write_all_at(&[7; 1 << 20], 0).unwrap();
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, 1000, 500_000).unwrap();
    let bytes = fs::read(store.path("a")).unwrap();
    assert_eq!(bytes.len(), 1 << 20);
    assert!(bytes[..1000].iter().all(|b| *b == 7));
    assert!(bytes[1000..501_000].iter().all(|b| *b == 0));
    assert!(bytes[501_000..].iter().all(|b| *b == 7));
}

#[test]
fn reserving_and_zeroing_extend_the_file_unless_told_not_to() {
    let store = MountedStore::new();
    let file = new_file(&store);
    let size = |file: &File| file.metadata().unwrap().len();
    fallocate(&file, FallocateFlags::empty(), 0, 10_000).unwrap();
    assert_eq!(size(&file), 10_000);
    fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 99_000).unwrap();
    assert_eq!(size(&file), 10_000);
    file.write_all_at(&[7; 10_000], 0).unwrap();
    let zero = FallocateFlags::FALLOC_FL_ZERO_RANGE;
    fallocate(&file, zero, 5_000, 10_000).unwrap();
    assert_eq!(size(&file), 15_000);
    fallocate(
        &file,
        zero | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        14_000,
        10_000,
    )
    .unwrap();
    assert_eq!(size(&file), 15_000);
    let bytes = fs::read(store.path("a")).unwrap();
    assert!(bytes[..5_000].iter().all(|b| *b == 7));
    assert!(bytes[5_000..].iter().all(|b| *b == 0));
}

/// The kernel's FUSE client refuses these modes itself.
#[test]
fn collapsing_and_inserting_are_refused_as_not_supported() {
    let store = MountedStore::new();
    let file = new_file(&store);
    file.write_all_at(&[7; 1 << 20], 0).unwrap();
    for flag in [
        FallocateFlags::FALLOC_FL_COLLAPSE_RANGE,
        FallocateFlags::FALLOC_FL_INSERT_RANGE,
    ] {
        assert_eq!(fallocate(&file, flag, 4096, 4096), Err(Errno::EOPNOTSUPP));
    }
}
