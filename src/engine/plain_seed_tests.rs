//! The walk over plain files. What a seed covers is tested in tests/seed.rs.

use std::fs;
use std::os::unix::fs::FileExt as _;

use super::*;

fn seed(path: &Path, threads: usize) -> PlainSeed {
    let options = PlainSeedOptions {
        threads: NonZeroUsize::new(threads),
    };
    seed_of_dir(path, &options, &|_| ()).unwrap()
}

#[test]
fn i9_the_number_of_threads_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    for at in 0..40 {
        let sub = dir.path().join(format!("d{}", at % 7));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("f{at}")), vec![7; at * 9_000]).unwrap();
    }
    fs::hard_link(dir.path().join("d1/f1"), dir.path().join("d2/link")).unwrap();
    let one = seed(dir.path(), 1);
    assert_eq!(one, seed(dir.path(), 4));
    assert_eq!((one.files, one.dirs), (41, 7));
    assert_eq!(one.bytes, (0..40).map(|at| at * 9_000).sum::<u64>());
}

#[test]
fn holes_and_written_zeros_have_the_same_seed() {
    let size = 3 * SEGMENT_LEN + 12_345;
    let make = |dense: bool| {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(dir.path().join("f")).unwrap();
        file.set_len(size).unwrap();
        if dense {
            let zeros = vec![0; 1 << 20];
            for at in 0..20 {
                file.write_all_at(&zeros, SEGMENT_LEN - (10 << 20) + (at << 20))
                    .unwrap();
            }
        }
        for at in [0, SEGMENT_LEN - 1, 2 * SEGMENT_LEN + 77, size - 1] {
            file.write_all_at(b"x", at).unwrap();
        }
        seed(dir.path(), 2).content
    };
    let want = make(false);
    assert_eq!(want, make(true));
    let mut bytes = FileHasher::new();
    let mut at = 0;
    for place in [0, SEGMENT_LEN - 1, 2 * SEGMENT_LEN + 77, size - 1] {
        bytes.push_zeros(ByteLen::from_raw(place - at));
        bytes.push(b"x");
        at = place + 1;
    }
    let content = bytes.finish(ByteLen::from_raw(size)).unwrap();
    let digests = TwoDigests {
        content,
        full: content,
    };
    let entry = DirEntry {
        name: b"f",
        kind: EntryKind::Regular,
        digests,
    };
    assert_eq!(want.digest(), dir_content(1, trie_root([entry]).content));
}

#[test]
fn a_file_that_changes_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("victim");
    fs::write(&path, vec![1; 3 << 20]).unwrap();
    // The report after the first segment comes while the file is open.
    let grow = |_| {
        fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all_at(b"x", 0)
            .unwrap();
    };
    let text = seed_of_dir(dir.path(), &PlainSeedOptions::default(), &grow)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("victim") && text.contains("changed"),
        "{text}"
    );
}

#[test]
fn a_link_made_between_the_walks_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    let link = |progress: PlainSeedProgress| {
        if progress.files_done == 1 {
            let _ = fs::hard_link(dir.path().join("c"), dir.path().join("d"));
        }
    };
    let options = PlainSeedOptions {
        threads: NonZeroUsize::new(1),
    };
    let text = seed_of_dir(dir.path(), &options, &link)
        .unwrap_err()
        .to_string();
    assert!(text.contains("changed"), "{text}");
}

#[test]
fn the_deepest_path_fits_the_stack() {
    let dir = tempfile::tempdir().unwrap();
    let mut path = dir.path().to_path_buf();
    while path.as_os_str().len() < 4_080 {
        path.push("d");
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("f"), b"x").unwrap();
    assert!(seed(dir.path(), 2).dirs > 2_000);
}

#[test]
fn the_control_directory_is_skipped_at_the_top_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let empty = seed(dir.path(), 1);
    fs::create_dir(dir.path().join(".mmhfs")).unwrap();
    assert_eq!(seed(dir.path(), 1), empty);
    fs::create_dir_all(dir.path().join("sub/.mmhfs")).unwrap();
    assert_eq!(seed(dir.path(), 1).dirs, 2);
}

#[test]
fn what_is_not_a_directory_has_no_seed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path(), Path::new("/nonexistent")] {
        let error = seed_of_dir(path, &PlainSeedOptions::default(), &|_| ()).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()));
    }
}

/// Bug: files of /proc, whose length is said to be 0, were taken for empty ones.
#[test]
fn a_file_that_is_longer_than_it_says_has_no_seed() {
    let path = Path::new("/proc/version");
    // While it is open its facts stay.
    let _held = fs::File::open(path).unwrap();
    let facts = plain_facts(path).unwrap();
    assert_eq!(facts.size_bytes, 0);
    let walk = Walk::new(Survey::default(), &|_| ());
    let error = walk.regular(path, &facts, true).unwrap_err();
    assert!(error.to_string().contains("/proc/version"), "{error}");
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("more bytes than its length"), "{why}");
}
