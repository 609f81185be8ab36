//! docs/seed.md holds: the test vectors, and the sensitivity of both digests to everything it lists.
//!
//! The trees of the vectors are made on disk with owners, device nodes and capabilities, so these tests
//! need root (CAP_CHOWN, CAP_MKNOD, CAP_SETFCAP) and a temporary directory with extended attributes and
//! ACLs (ext4, xfs, btrfs). Without them they fail; they do not skip.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use mmhfs::base::{ByteLen, Digest};
use mmhfs::engine::{PlainSeed, PlainSeedOptions, seed_of_dir};
use mmhfs::hash::{
    DirEntry, EntryKind, FileHasher, TwoDigests, dir_leaf, file_content, groups_digest,
    leaf_digest, short_letters, special_content, subtree_digest, symlink_content, zero_subtree,
};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;

const VECTORS: &str = include_str!("seed/vectors.txt");
const PAGE: &str = include_str!("../docs/seed.md");

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .map(|c| u8::try_from((c as char).to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn percent(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        out.extend(hex(&part[..2]));
        out.extend(part[2..].bytes());
    }
    out
}

fn seed(path: &Path) -> PlainSeed {
    seed_of_dir(path, &PlainSeedOptions::default(), &|_| ()).unwrap()
}

fn records(kind: &str) -> Vec<Vec<&'static str>> {
    let lines = VECTORS
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    lines.filter(|words| words[0] == kind).collect()
}

#[test]
fn vectors_of_single_digests_hold() {
    let records = records("digest");
    assert!(records.len() >= 24);
    for words in records {
        let input = if words[2] == "-" {
            Vec::new()
        } else {
            hex(words[2])
        };
        // Each is BLAKE3 in the mode that the page says, and what the library makes of it where it has a
        // function of the same input.
        let context = format!("mmhfs 2026-11 v1 seed {}", words[1].replace('_', " "));
        let plain = Digest::from_raw(blake3::derive_key(&context, &input));
        assert_eq!(plain.to_hex(), words[3], "{words:?}");
        let got = match words[1] {
            "leaf" => leaf_digest(&input),
            // Two known leaves cannot be given in: joining them is the inner node.
            "inner" => mmhfs::hash::join_subtrees(&[
                Digest::from_raw(input[..32].try_into().unwrap()),
                Digest::from_raw(input[32..].try_into().unwrap()),
            ]),
            "symlink" => symlink_content(&input),
            "special" => special_content(match input[0] {
                5 => EntryKind::Fifo,
                6 => EntryKind::Socket,
                7 => EntryKind::CharDevice,
                _ => EntryKind::BlockDevice,
            }),
            "dir_leaf" if input.is_empty() => dir_leaf([]).content,
            "full_dir_leaf" if input.is_empty() => dir_leaf([]).full,
            "link_groups" if input == [0; 4] => groups_digest(&[]),
            "link_groups" if input.ends_with(b"b/c") => {
                groups_digest(&[vec![b"a".to_vec(), b"b/c".to_vec()]])
            }
            _ => plain,
        };
        assert_eq!(got.to_hex(), words[3], "{words:?}");
    }
}

#[test]
fn vectors_of_files_hold_by_every_route() {
    let records = records("bytes");
    assert_eq!(records.len(), 11);
    for words in records {
        let size: u64 = words[1].parse().unwrap();
        let len = ByteLen::from_raw(size);
        let mut hasher = FileHasher::new();
        let root = if words[2] == "zero" {
            hasher.push_zeros(len);
            zero_subtree(len)
        } else {
            let bytes = data(words[2], size);
            hasher.push(&bytes);
            subtree_digest(&bytes)
        };
        assert_eq!(root.to_hex(), words[3], "{words:?}");
        assert_eq!(file_content(len, root).to_hex(), words[4], "{words:?}");
        assert_eq!(hasher.finish(len).unwrap().to_hex(), words[4], "{words:?}");
    }
}

fn data(recipe: &str, size: u64) -> Vec<u8> {
    match recipe.strip_prefix("hex:") {
        Some(digits) => hex(digits),
        None => (0..size).map(|at| (at % 251) as u8).collect(),
    }
}

/// A tree of the vectors that is being made on disk.
struct World {
    dir: tempfile::TempDir,
    /// Modification times are set last, children before parents.
    times: Vec<(PathBuf, TimeSpec)>,
}

impl World {
    fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes device nodes and foreign owners: run it as root"
        );
        Self {
            dir: tempfile::tempdir().unwrap(),
            times: Vec::new(),
        }
    }

    fn path(&self, text: &str) -> PathBuf {
        self.dir.path().join(OsStr::from_bytes(&percent(text)))
    }

    fn add(&mut self, words: &[&str]) {
        let [kind, mode, uid, gid, mtime, path, options @ ..] = words else {
            panic!("{words:?}");
        };
        let path = self.path(path);
        let option = |key: &str| {
            let found = options.iter().find_map(|option| option.strip_prefix(key));
            found.and_then(|rest| rest.strip_prefix('='))
        };
        let mode = u32::from_str_radix(mode, 8).unwrap();
        match *kind {
            "dir" => fs::create_dir(&path).unwrap(),
            "symlink" => {
                symlink(
                    OsStr::from_bytes(&percent(option("target").unwrap())),
                    &path,
                )
                .unwrap();
            }
            "file" => match (option("data"), option("len")) {
                (Some("zero"), Some(size)) => {
                    fs::File::create(&path)
                        .unwrap()
                        .set_len(size.parse().unwrap())
                        .unwrap();
                }
                (recipe, _) => fs::write(&path, data(recipe.unwrap_or("hex:"), 0)).unwrap(),
            },
            special => make_special(special, &path, option("rdev")),
        }
        lchown(
            &path,
            Some(uid.parse().unwrap()),
            Some(gid.parse().unwrap()),
        )
        .unwrap();
        if *kind != "symlink" {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        for (name, value) in options
            .iter()
            .filter_map(|o| o.strip_prefix("xattr=")?.split_once(':'))
        {
            xattr::set(&path, OsStr::from_bytes(&percent(name)), &hex(value)).unwrap_or_else(
                |error| panic!("{name}: {error}; use a TMPDIR with xattrs and ACLs"),
            );
        }
        let (secs, nanos) = mtime.split_once('.').unwrap();
        self.times.push((
            path,
            TimeSpec::new(secs.parse().unwrap(), nanos.parse().unwrap()),
        ));
    }

    fn seed(&self) -> PlainSeed {
        for (path, time) in self.times.iter().rev() {
            utimensat(
                nix::fcntl::AT_FDCWD,
                path,
                time,
                time,
                UtimensatFlags::NoFollowSymlink,
            )
            .unwrap();
        }
        seed(self.dir.path())
    }
}

fn make_special(kind: &str, path: &Path, rdev: Option<&str>) {
    let flag = match kind {
        "fifo" => SFlag::S_IFIFO,
        "socket" => SFlag::S_IFSOCK,
        "char" => SFlag::S_IFCHR,
        "block" => SFlag::S_IFBLK,
        other => panic!("unknown type {other}"),
    };
    let device = rdev.map_or(0, |numbers| {
        let (major, minor) = numbers.split_once(':').unwrap();
        makedev(major.parse().unwrap(), minor.parse().unwrap())
    });
    mknod(path, flag, Mode::empty(), device).unwrap();
}

#[test]
fn vectors_of_trees_hold_on_disk() {
    let mut world = World::new();
    let mut name = "";
    let mut seen = BTreeSet::new();
    for line in VECTORS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "digest" | "bytes" => {}
            "tree" => {
                name = words[1];
                world = World::new();
            }
            "link" => fs::hard_link(world.path(words[2]), world.path(words[1])).unwrap(),
            "many" => {
                let count: usize = words[2].parse().unwrap();
                for at in 0..count {
                    let path = format!("{}{at}", words[1]);
                    world.add(&["file", "644", "0", "0", "0.0", &path]);
                }
            }
            "expect" => {
                let got = world.seed();
                assert_eq!(got.content.to_string(), words[1], "content of {name}");
                assert_eq!(got.seed.to_string(), words[3], "seed of {name}");
                assert_eq!(
                    short_letters(&got.seed.short()),
                    words[4],
                    "short form of {name}"
                );
                assert!(seen.insert(words[3]), "{name} has the seed of another tree");
            }
            _ => world.add(&words),
        }
    }
    assert_eq!(seen.len(), records("tree").len());
}

#[test]
fn the_page_shows_every_vector_that_it_quotes() {
    // Digests and seeds in the page's worked examples are those of the vectors, to the letter.
    let known: BTreeSet<&str> = VECTORS.split([' ', '\n']).collect();
    let quoted = PAGE.split(|c: char| !c.is_ascii_alphanumeric());
    let mut count = 0;
    for word in quoted {
        let seed = word.len() == 62 && (word.starts_with("mmh1") || word.starts_with("mmc1"));
        let digest = word.len() == 64 && word.bytes().all(|c| c.is_ascii_hexdigit());
        if seed || digest {
            count += 1;
            assert!(
                known.contains(word),
                "docs/seed.md quotes {word}, which no vector has"
            );
        }
    }
    assert!(count >= 40, "docs/seed.md quotes only {count} vectors");
}

/// Makes a small tree, applies a change, and says whether the content digest and the seed changed.
fn effect(change: impl Fn(&mut World)) -> (bool, bool) {
    let make = || {
        let mut world = World::new();
        world.add(&["dir", "755", "1", "2", "5.6", "d", "xattr=user.k:01"]);
        world.add(&[
            "file",
            "644",
            "1",
            "2",
            "5.6",
            "d/f",
            "data=hex:6162",
            "xattr=user.k:01",
        ]);
        world.add(&["symlink", "777", "1", "2", "5.6", "d/s", "target=f"]);
        world.add(&["char", "600", "1", "2", "5.6", "d/c", "rdev=1:3"]);
        world
    };
    let before = make().seed();
    let mut world = make();
    change(&mut world);
    let after = world.seed();
    (before.content != after.content, before.seed != after.seed)
}

const NOTHING: (bool, bool) = (false, false);
const FULL_ONLY: (bool, bool) = (false, true);
const BOTH: (bool, bool) = (true, true);

#[test]
fn what_counts_counts_and_nothing_else_does() {
    let chmod = |path: &'static str, mode| {
        move |w: &mut World| {
            fs::set_permissions(w.path(path), fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    let xattr = |path: &'static str, name: &'static str| {
        move |w: &mut World| xattr::set(w.path(path), name, b"new").unwrap()
    };
    let time = |at: usize| move |w: &mut World| w.times[at].1 = TimeSpec::new(5, 7);
    let root_time = |w: &mut World| {
        w.times
            .insert(0, (w.dir.path().to_owned(), TimeSpec::new(1, 1)))
    };
    assert_eq!(effect(|_| ()), NOTHING, "no change");
    assert_eq!(effect(chmod("d/f", 0o640)), FULL_ONLY, "mode");
    assert_eq!(effect(chmod("d/f", 0o744)), BOTH, "owner's execute bit");
    assert_eq!(
        effect(chmod("d/f", 0o655)),
        FULL_ONLY,
        "others' execute bits"
    );
    assert_eq!(effect(chmod("d", 0o700)), FULL_ONLY, "mode of a directory");
    assert_eq!(effect(chmod("", 0o711)), NOTHING, "mode of the root");
    assert_eq!(effect(root_time), NOTHING, "time of the root");
    assert_eq!(
        effect(xattr("", "user.x")),
        NOTHING,
        "attribute of the root"
    );
    for at in 0..4 {
        assert_eq!(effect(time(at)), FULL_ONLY, "mtime of entry {at}");
    }
    for path in ["d", "d/f", "d/s", "d/c"] {
        let own = |w: &mut World| lchown(w.path(path), Some(9), None).unwrap();
        assert_eq!(effect(own), FULL_ONLY, "owner of {path}");
        let group = |w: &mut World| lchown(w.path(path), None, Some(9)).unwrap();
        assert_eq!(effect(group), FULL_ONLY, "group of {path}");
    }
    for path in ["d", "d/f"] {
        assert_eq!(effect(xattr(path, "user.k")), FULL_ONLY, "value on {path}");
        assert_eq!(effect(xattr(path, "user.new")), FULL_ONLY, "name on {path}");
        assert_eq!(
            effect(xattr(path, "user.mmhfs.new")),
            NOTHING,
            "own name on {path}"
        );
        assert_eq!(
            effect(xattr(path, "trusted.new")),
            NOTHING,
            "trusted on {path}"
        );
    }
    let bytes = |w: &mut World| fs::write(w.path("d/f"), b"ac").unwrap();
    assert_eq!(effect(bytes), BOTH, "bytes");
    let rename = |w: &mut World| {
        fs::rename(w.path("d/f"), w.path("d/g")).unwrap();
        w.times[1].0 = w.path("d/g");
    };
    assert_eq!(effect(rename), BOTH, "name");
    let link = |w: &mut World| fs::hard_link(w.path("d/f"), w.path("d/g")).unwrap();
    assert_eq!(effect(link), BOTH, "a further name");
    let outside = tempfile::tempdir().unwrap();
    let link_out = |w: &mut World| {
        let to = outside.path().join("link");
        let _ = fs::remove_file(&to);
        fs::hard_link(w.path("d/f"), to).unwrap();
    };
    assert_eq!(effect(link_out), NOTHING, "a link outside the tree");
    let control = |w: &mut World| fs::create_dir(w.path(".mmhfs")).unwrap();
    assert_eq!(effect(control), NOTHING, "control directory");
}

#[test]
fn one_entry_of_each_kind_has_its_own_leaf() {
    let digest = leaf_digest(b"");
    let digests = TwoDigests {
        content: digest,
        full: digest,
    };
    let kinds = [
        EntryKind::Regular,
        EntryKind::Executable,
        EntryKind::Directory,
        EntryKind::Symlink,
        EntryKind::Fifo,
        EntryKind::Socket,
        EntryKind::CharDevice,
        EntryKind::BlockDevice,
    ];
    let leaves: BTreeSet<_> = kinds
        .map(|kind| {
            dir_leaf([DirEntry {
                name: b"n",
                kind,
                digests,
            }])
            .content
        })
        .into();
    assert_eq!(leaves.len(), kinds.len());
}
