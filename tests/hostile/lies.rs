//! Single lies, each signed: what was found by the programs or by reading, and what became of it.

use std::path::Path;
use std::sync::Arc;

use mmhfs::base::{Digest, Error, FileOff, Ino, Lsn, Result, Slot, Timestamp};
use mmhfs::engine::{Caller, Engine, FileKind, NewNode, RenameHow, RestoreOptions};
use mmhfs::format::keys;
use mmhfs::format::node::{Body, DirBody, DirChild, DirInner, Entry, Node};
use mmhfs::format::record::{RecordHead, encode_record};
use mmhfs::format::rows::{DirentRow, ExtentRow, InodeRow, Kind, Op, Table, encode_counter};
use mmhfs::hash::{Checksum, checksum, name_hash};
use mmhfs::meta::MemoryTables;

use crate::within_bounds;
use crate::world::Base;
use crate::world::base::{RW, config, env};
use crate::world::exercise::{Deeds, exercise, place};
use crate::world::plant::{Commit, append, attrs, child, entry, put_snapshot};
use crate::world::sign::{address, record_hash, resign};

/// Opens a store whose log has one more commit.
fn opened(base: &Base, dir: &Path, commit: &Commit) -> Result<Arc<Engine>> {
    let mut medium = base.stages[STAGE].medium.clone();
    append(base, &mut medium, commit);
    let place = place(dir, medium, MemoryTables::default());
    Engine::open_on(&place, env(3), config())
}

/// Two LOG packs, two snapshots.
const STAGE: usize = 2;

/// Does everything there is to do with it, for writing and for reading only.
fn endure(what: &str, commit: &Commit) {
    within_bounds(what, |base, dir| {
        let mut medium = base.stages[STAGE].medium.clone();
        append(base, &mut medium, commit);
        for salt in 0..12 {
            for deeds in [0xfe, 0xff, 0x9e] {
                let store = (medium.clone(), MemoryTables::default());
                exercise(dir, store, None, Deeds::new(deeds, salt));
            }
        }
    });
}

/// The inode at a path of the store as it is, and its row.
fn inode(base: &Base, path: &str) -> (Ino, InodeRow) {
    let mut at = Ino::ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let rows = base.stages[STAGE].rows.iter();
        let mut rows = rows.filter(|(table, key, _)| {
            *table == Table::Dirent && keys::parse_dirent(key).unwrap().0 == at
        });
        let row = rows.find_map(|(_, _, value)| {
            let row = DirentRow::decode(value).unwrap();
            (row.name == name.as_bytes()).then_some(row)
        });
        at = row.unwrap().ino;
    }
    let key = keys::inode(at);
    let mut rows = base.stages[STAGE].rows.iter();
    let row = rows.find(|(table, of, _)| *table == Table::Inode && of[..] == key);
    (at, InodeRow::decode(&row.unwrap().2).unwrap())
}

fn put_inode(ino: Ino, row: &InodeRow) -> Op {
    Op::Put(Table::Inode, keys::inode(ino).to_vec(), row.encode())
}

fn slot(name: &[u8]) -> Slot {
    let top = u64::from_be_bytes(name_hash(name)[..8].try_into().unwrap());
    Slot::from_raw((top >> 9).max(1) << 8)
}

fn put_entry(ops: &mut Vec<Op>, dir: Ino, name: &[u8], ino: Ino, kind: Kind) {
    let row = DirentRow {
        ino,
        kind,
        name: name.to_vec(),
    };
    let key = keys::dirent(dir, slot(name)).to_vec();
    ops.push(Op::Put(Table::Dirent, key, row.encode()));
    let key = keys::link(ino, dir, slot(name)).to_vec();
    ops.push(Op::Put(Table::Link, key, Vec::new()));
}

fn of(ops: Vec<Op>) -> Commit {
    Commit {
        ops,
        nodes: Vec::new(),
    }
}

fn is_malformed<T: std::fmt::Debug>(done: &Result<T>) -> bool {
    matches!(done, Err(Error::Malformed { .. }))
}

/// Bug: taking a snapshot and moving a directory went up in a circle without end.
#[test]
fn directories_in_a_circle_are_an_error_and_no_wait() {
    let base = crate::base();
    let ((a, a_row), (b, b_row)) = (inode(base, "a"), inode(base, "a/b"));
    let (c, _) = inode(base, "a/b/c");
    let mut ops = Vec::new();
    for (ino, row, up) in [(a, &a_row, b), (b, &b_row, a)] {
        let row = InodeRow {
            parent: up,
            ..row.clone()
        };
        ops.push(put_inode(ino, &row));
        put_entry(&mut ops, up, b"circle", ino, Kind::Dir);
    }
    let commit = of(ops.clone());
    within_bounds("a circle", |base, dir| {
        let engine = opened(base, dir, &commit).unwrap();
        assert!(is_malformed(&engine.snapshot(Some("s"), &|_| {})));
        let how = RenameHow::default();
        let moved = engine.rename(Ino::ROOT, b"fifo", c, b"fifo", how);
        assert!(
            moved.is_ok(),
            "what is no directory goes anywhere: {moved:?}"
        );
        let new = NewNode {
            kind: FileKind::Dir,
            mode: 0o755,
            umask: 0,
            rdev: (0, 0),
        };
        engine
            .mknod(&Caller::default(), Ino::ROOT, b"d", &new)
            .unwrap();
        assert!(is_malformed(&engine.rename(Ino::ROOT, b"d", c, b"d", how)));
        let report = engine.check(&|_| {}).unwrap();
        assert!(!report.problems.is_empty());
    });
    endure("a circle", &commit);
    // The links go in a circle as well, below a file with two names.
    for (ino, up) in [(a, b), (b, a)] {
        let (from, to) = keys::ino_range(ino);
        ops.insert(0, Op::DelRange(Table::Link, from, to));
        put_entry(&mut ops, up, b"circle", ino, Kind::Dir);
    }
    endure("a circle of links", &of(ops));
}

/// Bug: removing or moving such an entry tried for ever to find its inode.
#[test]
fn an_entry_without_an_inode_is_an_error_and_no_wait() {
    let mut ops = Vec::new();
    put_entry(
        &mut ops,
        Ino::ROOT,
        b"nobody",
        Ino::from_raw(5000),
        Kind::File,
    );
    let commit = of(ops);
    within_bounds("an entry of nothing", |base, dir| {
        let engine = opened(base, dir, &commit).unwrap();
        let how = RenameHow::default();
        let root = Ino::ROOT;
        assert!(is_malformed(&engine.unlink(root, b"nobody")));
        assert!(is_malformed(
            &engine.rename(root, b"nobody", root, b"x", how)
        ));
        assert!(is_malformed(
            &engine.rename(root, b"fifo", root, b"nobody", how)
        ));
    });
    endure("an entry of nothing", &commit);
}

/// Bug: exchanging such an entry wrote a row that no reader accepts.
#[test]
fn an_entry_of_another_kind_than_its_inode_is_an_error() {
    let base = crate::base();
    let (file, _) = inode(base, "a/small");
    let mut ops = Vec::new();
    put_entry(&mut ops, Ino::ROOT, b"other", file, Kind::Dir);
    let commit = of(ops);
    within_bounds("an entry of another kind", |base, dir| {
        let engine = opened(base, dir, &commit).unwrap();
        let how = RenameHow {
            exchange: true,
            ..RenameHow::default()
        };
        let (dir, _) = inode(base, "a");
        assert!(is_malformed(&engine.rename(
            Ino::ROOT,
            b"other",
            dir,
            b"b",
            how
        )));
        assert!(is_malformed(&engine.rmdir(Ino::ROOT, b"other")));
        assert!(engine.getattr(file).is_ok());
    });
    endure("an entry of another kind", &commit);
}

/// Bug: a new file took the number and the rows of another one, or waited for its own directory's lock.
#[test]
fn i4_a_counter_that_lies_gives_no_inode_number_out_again() {
    for value in [0, 1, 2, u64::MAX, 1 << 48, 1 << 63] {
        let key = keys::counter(keys::COUNTER_NEXT_INO);
        let op = Op::Put(Table::Counter, key, encode_counter(value).to_vec());
        let commit = of(vec![op]);
        within_bounds("a counter", |base, dir| {
            let engine = opened(base, dir, &commit).unwrap();
            let (small, row) = inode(base, "a/small");
            for n in 0..40 {
                let new = NewNode {
                    kind: FileKind::File,
                    mode: 0o644,
                    umask: 0,
                    rdev: (0, 0),
                };
                let name = format!("new {n}");
                let made = engine.mknod(&Caller::default(), Ino::ROOT, name.as_bytes(), &new);
                match made {
                    Ok(stat) => assert!(stat.ino > small && stat.ino.raw() < 1 << 48),
                    Err(error) => assert!(matches!(error, Error::NoSpace) && value > 2),
                }
            }
            assert_eq!(engine.getattr(small).unwrap().size, row.attrs.size);
        });
        endure("a counter", &commit);
    }
}

/// Bug: one more entry made a row that no reader accepts, and the directory could not be read any more.
#[test]
fn a_directory_that_says_to_be_full_takes_no_entry_and_stays_readable() {
    let (full, mut row) = inode(crate::base(), "a/b");
    row.attrs.size = FileOff::MAX.raw();
    row.nlink = u32::MAX;
    let put = Op::Put(Table::Inode, keys::inode(full).to_vec(), row.encode());
    let commit = of(vec![put]);
    within_bounds("a full directory", |base, dir| {
        let engine = opened(base, dir, &commit).unwrap();
        let (small, _) = inode(base, "a/small");
        let (a, _) = inode(base, "a");
        let caller = Caller::default();
        let new = |kind| NewNode {
            kind,
            mode: 0o755,
            umask: 0,
            rdev: (0, 0),
        };
        let file = new(FileKind::File);
        assert!(is_malformed(&engine.mknod(&caller, full, b"new", &file)));
        assert!(is_malformed(&engine.link(small, full, b"new")));
        let moved = engine.rename(a, b"small", full, b"new", RenameHow::default());
        assert!(is_malformed(&moved));
        // Its count of links is at its end, too: nothing is added up beyond it.
        let other = new(FileKind::Dir);
        engine.mknod(&caller, a, b"other", &other).unwrap();
        let swap = RenameHow {
            exchange: true,
            ..RenameHow::default()
        };
        engine.rename(a, b"other", full, b"text", swap).unwrap();
        engine.sync().unwrap();
        assert_eq!(engine.getattr(full).unwrap().size, FileOff::MAX.raw());
        assert!(!engine.check(&|_| {}).unwrap().problems.is_empty());
    });
    endure("a full directory", &commit);
}

/// Bug: check went round for ever.
#[test]
fn rows_of_the_highest_inode_number_are_a_problem_and_no_wait() {
    let key = keys::extent(Ino::from_raw(u64::MAX), FileOff::ZERO).to_vec();
    let row = ExtentRow {
        len: 1,
        chunk: mmhfs::base::ChunkId::from_raw([1; 32]),
        chunk_off: 0,
    };
    let commit = of(vec![Op::Put(Table::Extent, key, row.encode())]);
    within_bounds("the highest number", |base, dir| {
        let engine = opened(base, dir, &commit).unwrap();
        assert!(!engine.check(&|_| {}).unwrap().problems.is_empty());
    });
}

/// Bug: a node was made that no reader accepts.
#[test]
fn two_entries_of_one_name_are_an_error_of_the_snapshot() {
    let base = crate::base();
    let (file, _) = inode(base, "a/small");
    let row = DirentRow {
        ino: file,
        kind: Kind::File,
        name: b"twice".to_vec(),
    };
    let mut ops = Vec::new();
    for n in 0..2 {
        let slot = Slot::from_raw(slot(b"twice").raw() + n);
        let key = keys::dirent(Ino::ROOT, slot).to_vec();
        ops.push(Op::Put(Table::Dirent, key, row.encode()));
    }
    let commit = of(ops);
    within_bounds("two of one name", |base, dir| {
        let engine = opened(base, dir, &commit).unwrap();
        assert!(is_malformed(&engine.snapshot(Some("s"), &|_| {})));
    });
    endure("two of one name", &commit);
}

/// Bug: the part of an extent that another one covers had a negative length.
#[test]
fn extents_that_overlap_are_read_without_an_overflow() {
    let base = crate::base();
    let (file, _) = inode(base, "a/b/text");
    let rows = base.stages[STAGE].rows.iter();
    let mut rows = rows.filter(|(table, key, _)| {
        *table == Table::Extent && keys::parse_extent(key).unwrap().0 == file
    });
    let row = ExtentRow::decode(&rows.next().unwrap().2).unwrap();
    let mut ops = Vec::new();
    for (off, len) in [(5, 100), (6, 3), (50, 2), (100, 700)] {
        let row = ExtentRow { len, ..row };
        let key = keys::extent(file, FileOff::from_raw(off)).to_vec();
        ops.push(Op::Put(Table::Extent, key, row.encode()));
    }
    let commit = of(ops);
    within_bounds("extents that overlap", |base, dir| {
        let engine = opened(base, dir, &commit).unwrap();
        let handle = engine.open_file(file, RW).unwrap();
        for off in 0..120 {
            let mut bytes = Vec::new();
            let done = engine.read(handle, FileOff::from_raw(off), 300, &mut bytes);
            assert!(done.is_err() || bytes.len() == 300);
        }
        assert!(!engine.check(&|_| {}).unwrap().problems.is_empty());
    });
    endure("extents that overlap", &commit);
}

#[test]
fn a_counter_of_snapshots_at_its_end_is_an_error() {
    for value in [u64::MAX, u64::MAX - 1, u64::MAX - 2] {
        let key = keys::counter(keys::COUNTER_GENERATION);
        let op = Op::Put(Table::Counter, key, encode_counter(value).to_vec());
        endure("the last snapshot", &of(vec![op]));
    }
}

fn dir(name: &[u8], ino: u64, trie: DirChild) -> Entry {
    let groups = Digest::from_raw([8; 32]);
    let body = Body::Dir(DirBody { trie, groups });
    entry(name, ino, attrs(Kind::Dir, trie.count), body)
}

/// A chain of inner nodes, each with the one below on one side or on both.
fn chain(commit: &mut Commit, len: usize, both: bool) -> DirChild {
    let names: Vec<Vec<u8>> = (0..256).map(|n| format!("{n:03}").into_bytes()).collect();
    let fifo = |name: &Vec<u8>| entry(name, 60, attrs(Kind::Fifo, 0), Body::Special);
    let leaf = Node::DirLeaf(names.iter().map(fifo).collect());
    let empty = Node::DirLeaf(Vec::new());
    let none = child(&empty, false, 0, 0);
    let mut trie = child(&leaf, false, 256, 256);
    commit.nodes.extend([leaf, empty]);
    for n in 0..len {
        let right = if both { trie } else { none };
        let count = (trie.count + right.count).max(257 + n as u64);
        let node = Node::DirInner(DirInner { left: trie, right });
        trie = child(&node, true, count, count);
        commit.nodes.push(node);
    }
    trie
}

/// Bug: a directory was walked by a recursion as deep as its nodes are many, and each node as often as it was named.
#[test]
fn a_directory_that_is_deeper_than_its_names_are_long_is_an_error() {
    for (len, both) in [(400, false), (12_000, false), (52, true), (3, true)] {
        let mut commit = Commit::default();
        let trie = chain(&mut commit, len, both);
        put_snapshot(&mut commit, trie, trie.entries);
        within_bounds("a deep directory", |base, dir| {
            let engine = opened(base, dir, &commit).unwrap();
            let report = engine.verify("planted", &|_| {}).unwrap();
            assert!(!report.problems.is_empty());
            let root = engine.tree_open(Some("planted")).unwrap();
            let handle = engine.opendir(root).unwrap();
            assert!(engine.readdirplus(handle, 0, &mut |_, _| true).is_err());
            let dest = dir.join("dest");
            let options = RestoreOptions::default();
            let report = engine.restore("planted", None, &dest, &options, &|_| {});
            assert!(report.is_err() || !report.unwrap().damaged.is_empty());
            let _ = engine.diff("planted", Some("v2"), &mut |_| {});
            let _ = engine.diff("planted", None, &mut |_| {});
            let _ = engine.rollback("planted");
            let _ = engine.clean(&mmhfs::engine::CleanOptions::default(), &|_, _| {});
        });
    }
}

/// Bug: 2^n directories in n nodes were restored, verified and compared without end, whatever was said of their number.
#[test]
fn a_tree_larger_than_it_says_is_not_restored_without_end() {
    let mut commit = Commit::default();
    let leaf = Node::DirLeaf(Vec::new());
    let mut trie = child(&leaf, false, 0, 0);
    commit.nodes.push(leaf);
    for n in 0..60 {
        let node = Node::DirLeaf(vec![
            dir(b"l", 100 + 2 * n, trie),
            dir(b"r", 101 + 2 * n, trie),
        ]);
        trie = child(&node, false, 2, 50);
        commit.nodes.push(node);
    }
    put_snapshot(&mut commit, trie, 50);
    within_bounds("a large tree", |base, dir| {
        let engine = opened(base, dir, &commit).unwrap();
        assert_eq!(engine.resolve("planted").unwrap().entries, 50);
        let dest = dir.join("dest");
        let options = RestoreOptions::default();
        let done = engine.restore("planted", None, &dest, &options, &|_| {});
        assert!(matches!(done, Err(Error::InFile { .. })), "{done:?}");
        let report = engine.verify("planted", &|_| {}).unwrap();
        assert!(!report.problems.is_empty());
        assert!(is_malformed(&engine.rollback("planted")));
        assert!(is_malformed(&engine.diff(
            "planted",
            Some("v2"),
            &mut |_| {}
        )));
        assert!(is_malformed(&engine.diff("planted", None, &mut |_| {})));
        engine.check(&|_| {}).unwrap();
    });
    endure("a large tree", &commit);
}

/// Bug: no digest covers inode numbers, so a mounted snapshot whose every digest was right showed one file in the place of
/// another.
#[test]
fn two_entries_that_say_to_be_one_inode_are_not_shown_as_one() {
    let mut commit = Commit::default();
    let mut leaf = vec![
        entry(b"one", 70, attrs(Kind::Fifo, 0), Body::Special),
        entry(b"two", 70, attrs(Kind::Fifo, 0), Body::Special),
    ];
    leaf[1].content = Digest::from_raw([99; 32]);
    let leaf = Node::DirLeaf(leaf);
    let trie = child(&leaf, false, 2, 2);
    commit.nodes.push(leaf);
    put_snapshot(&mut commit, trie, 2);
    within_bounds("one inode", |base, dir| {
        let engine = opened(base, dir, &commit).unwrap();
        let root = engine.tree_open(Some("planted")).unwrap();
        assert!(engine.lookup(root, b"one").is_ok());
        assert!(is_malformed(&engine.lookup(root, b"two")));
        let handle = engine.opendir(root).unwrap();
        assert!(is_malformed(
            &engine.readdirplus(handle, 0, &mut |_, _| true)
        ));
    });
}

/// Bug: for each of them everything before it was hashed: hours for a pack.
#[test]
fn a_tail_full_of_records_is_no_wait() {
    let base = crate::base();
    for is_signed in [false, true] {
        // A store whose newest LOG pack is open, and then 3 MiB of records that each claim all before them.
        let mut medium = base.stages[STAGE].medium.clone();
        let end = resign(&mut medium, base.store);
        assert!(!end.sealed);
        let name = format!("packs/{:016x}.log", end.pack);
        let mut bytes = medium.bytes(&name).unwrap()[..end.off].to_vec();
        bytes.extend([7; 8]);
        while bytes.len() < 3 << 20 {
            let head = RecordHead {
                lsn: Lsn::from_raw(1 << 40),
                part: 0,
                last: true,
                codec: 0,
                span_len: (bytes.len() - end.off) as u64,
                span_hash: [1; 32],
                time: Timestamp::default(),
                raw_len: 0,
                op_count: 0,
                prev_chain: [2; 32],
            };
            let at = address(base.store, end.pack, bytes.len());
            let (record, _) = if is_signed {
                encode_record(&head, &[], &record_hash(at)).unwrap()
            } else {
                encode_record(&head, &[], &|_| [3; 32]).unwrap()
            };
            bytes.extend(record);
        }
        medium.put(&name, bytes);
        within_bounds("a tail of records", |_, dir| {
            let place = place(dir, medium, MemoryTables::default());
            let opened = Engine::open_on(&place, env(3), config());
            match opened {
                Ok(_) => assert!(!is_signed),
                Err(error) => assert!(is_signed && matches!(error, Error::LogDamaged { .. })),
            }
        });
    }
}

/// Bug: each of them was hashed, 2 MiB for every hundred bytes: hours for a pack.
#[test]
fn a_damaged_pack_full_of_frames_is_no_wait() {
    let base = crate::base();
    let mut medium = base.stages[STAGE].medium.clone();
    // The first LOG pack without its footer, of which the second one says that 12 MiB count.
    let (first, second) = (
        "packs/0000000000000001.log",
        format!("packs/{:016x}.log", resign(&mut medium, base.store).pack),
    );
    let frame = {
        let mut frame = b"mmhframe\x01\x00\x00\x01\x01\x00\x00\x00".to_vec();
        frame.extend((2_u32 << 20).to_le_bytes());
        frame.extend((2_u32 << 20).to_le_bytes());
        frame.resize(104, 1);
        frame[24..32].fill(0);
        frame[96..100].copy_from_slice(&(2_u32 << 20).to_le_bytes());
        frame
    };
    let mut bytes = medium.bytes(first).unwrap()[..4096].to_vec();
    while bytes.len() < 12 << 20 {
        bytes.extend_from_slice(&frame);
    }
    let len = bytes.len() as u64;
    medium.put(first, bytes);
    let mut bytes = medium.bytes(&second).unwrap().to_vec();
    bytes[80..88].copy_from_slice(&len.to_le_bytes());
    let sum = checksum(Checksum::PackHeader, &[&bytes[..4064]]);
    bytes[4064..4096].copy_from_slice(&sum);
    medium.put(&second, bytes);
    within_bounds("a pack of frames", |base, dir| {
        // The index has all that is before the second pack.
        let place = place(dir, medium, base.stages[STAGE].index.copy());
        let engine = Engine::open_on(&place, env(3), config()).unwrap();
        let report = engine.check(&|_| {}).unwrap();
        let details = report.problems.iter().map(|problem| &problem.detail);
        let limits = details.filter(|detail| detail.contains("too much"));
        assert_eq!(limits.count(), 1);
    });
}
