//! Opening a store whose index or log is not as it should be, and what `check` finds in rows.

use std::path::{Path, PathBuf};

use mmhfs::base::{Error, Ino, Slot};
use mmhfs::disk::StoreLock;
use mmhfs::engine::{Config, Engine};
use mmhfs::format::keys;
use mmhfs::format::rows::{ChunkRow, InodeRow, Op, Table};
use mmhfs::meta::{Index, IndexConfig, Rows};

use super::world::{Dice, World};

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

fn open_index(world: &World) -> Index {
    let config = IndexConfig {
        cache_len: 8 << 20,
        write_buffer_len: 8 << 20,
        open_files_max: 64,
    };
    loop {
        match Index::open(&world.store().join("index"), &config) {
            // The commit thread has the last reference and is about to drop it.
            Err(Error::Index { detail, .. }) if detail.contains("lock") => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

/// Closes the store and waits until the index is no longer open: the lock outlives it.
fn close_fully(world: &mut World) {
    world.close();
    while let Err(error) = StoreLock::take(&world.store()) {
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        std::thread::yield_now();
    }
}

/// Changes rows of the index behind the log's back.
fn falsify(world: &World, change: impl FnOnce(&Index) -> Vec<Op>) {
    let index = open_index(world);
    let mark = index.watermark().unwrap().unwrap();
    let ops = change(&index);
    index.apply(&ops, &mark).unwrap();
    index.flush().unwrap();
}

fn files_of(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let list = std::fs::read_dir(dir).unwrap();
    let mut files: Vec<_> = list.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "sst"));
    files.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    };
    files.into_iter().map(read).collect()
}

fn rebuild(world: &World) -> Result<u64, Error> {
    loop {
        match Engine::rebuild_index(&world.store(), &Config::default()) {
            Err(Error::Locked { .. }) => std::thread::yield_now(),
            other => return other,
        }
    }
}

fn first_log(world: &World) -> PathBuf {
    let mut packs = world.packs();
    packs.retain(|path| path.extension().is_some_and(|e| e == "log"));
    packs.remove(0)
}

/// Bug: an index that was in use, or that could not be read just now, was deleted and made anew.
#[test]
fn an_index_that_is_in_use_is_an_error_and_stays() {
    let mut world = World::new();
    world.put("a", b"some bytes");
    close_fully(&mut world);
    let held = open_index(&world);
    let before = files_of(&world.store().join("index"));
    assert!(!before.is_empty());
    for read_only in [true, false] {
        let refused = match read_only {
            true => world.open_read_only(),
            false => world.open_for_writing(),
        };
        assert!(matches!(refused, Err(Error::Index { .. })), "{refused:?}");
    }
    assert!(matches!(rebuild(&world), Err(Error::Index { .. })));
    assert_eq!(files_of(&world.store().join("index")), before);
    drop(held);
    world.open_again();
    world.assert_sound();
}

#[test]
fn an_index_that_is_damaged_or_incomplete_is_made_anew() {
    let mut world = World::new();
    world.put("a", b"some bytes");
    close_fully(&mut world);
    let index = world.store().join("index");
    for what in ["CURRENT", "sst gone", "sst cut", "all"] {
        let tables = files_of(&index);
        match what {
            "CURRENT" => std::fs::write(index.join("CURRENT"), b"rubbish").unwrap(),
            "sst gone" => std::fs::remove_file(&tables[0].0).unwrap(),
            "sst cut" => std::fs::write(&tables[0].0, &tables[0].1[..20]).unwrap(),
            _ => std::fs::remove_dir_all(&index).unwrap(),
        }
        world.open_for_writing().unwrap();
        assert_eq!(world.read("a").unwrap(), b"some bytes", "{what}");
        world.assert_sound();
        close_fully(&mut world);
    }
}

/// Bug: the index was deleted first, also when the log could not be replayed; then nothing opened the store.
#[test]
fn a_rebuild_that_fails_leaves_the_index_and_the_rest_stays_readable() {
    let mut world = World::new();
    let data = Dice(1).bytes(3_000);
    world.put("rotten", &data);
    world.engine().sync().unwrap();
    world.put("good", b"good bytes");
    world.engine().sync().unwrap();
    close_fully(&mut world);
    let log = first_log(&world);
    let bytes = std::fs::read(&log).unwrap();
    let at = bytes
        .windows(64)
        .position(|b| b == &data[100..164])
        .unwrap();
    flip(&log, at);
    match rebuild(&world) {
        Err(Error::LogDamaged { path, site, .. }) => {
            assert_eq!(path, log);
            assert!(site.off.raw() <= at as u64);
        }
        other => panic!("{other:?}"),
    }
    assert!(!world.store().join("index.new").exists());
    // Bug: neither did a store open whose log had rot before the place that the index was at.
    for read_only in [true, false] {
        match read_only {
            true => world.open_read_only().unwrap(),
            false => world.open_for_writing().unwrap(),
        }
        assert_eq!(world.read("good").unwrap(), b"good bytes");
        assert!(world.read("rotten").is_err_and(|error| error.is_damage()));
        let report = world.check();
        let mut problems = report.problems.iter();
        assert!(
            problems.any(|p| p.paths == ["/rotten"] && p.pack.is_some()),
            "{report:#?}"
        );
        close_fully(&mut world);
    }
}

#[test]
fn a_rebuild_does_not_take_rot_in_the_last_commit_for_a_torn_tail() {
    let mut world = World::new();
    world.put("a", b"some bytes");
    world.engine().sync().unwrap();
    world.put("b", b"other bytes");
    world.engine().sync().unwrap();
    world.crash(true, b"");
    close_fully(&mut world);
    // The first pack has no footer; without the later one it is the newest.
    let packs = world.packs();
    let (first, later) = (first_log(&world), &packs[1..]);
    let end = std::fs::metadata(&first).unwrap().len();
    for pack in later {
        let name = pack.file_name().unwrap().to_str().unwrap();
        assert!(name.ends_with(".log"), "{name}");
    }
    flip(&first, end as usize - 9);
    let refused = rebuild(&world);
    assert!(
        matches!(refused, Err(Error::LogDamaged { .. })),
        "{refused:?}"
    );
    world.open_read_only().unwrap();
    assert_eq!(world.read("b").unwrap(), b"other bytes");
}

#[test]
fn a_rebuild_names_a_missing_last_pack_and_keeps_the_index() {
    let mut world = World::new();
    world.put("a", b"some bytes");
    world.reopen();
    world.put("b", b"other bytes");
    close_fully(&mut world);
    let mut logs = world.packs();
    logs.retain(|path| path.extension().is_some_and(|e| e == "log"));
    let last = logs.pop().unwrap();
    let bytes = std::fs::read(&last).unwrap();
    std::fs::remove_file(&last).unwrap();
    for with_index in [true, false] {
        if !with_index {
            std::fs::remove_dir_all(world.store().join("index")).unwrap();
        }
        match rebuild(&world) {
            Err(Error::PackMissing { path }) => assert_eq!(path, last),
            other => panic!("{other:?}"),
        }
        assert_eq!(world.store().join("index").exists(), with_index);
    }
    std::fs::write(&last, bytes).unwrap();
    assert!(rebuild(&world).unwrap() > 0);
    world.open_again();
    assert_eq!(world.read("b").unwrap(), b"other bytes");
    world.assert_sound();
}

#[test]
fn an_interrupted_rebuild_leaves_a_store_that_opens() {
    let mut world = World::new();
    world.put("a", b"some bytes");
    close_fully(&mut world);
    let at = |name: &str| world.store().join(name);
    let (index, new, old) = (at("index"), at("index.new"), at("index.old"));
    for step in 0..3 {
        match step {
            // While the new one was made; between the two renames; before the old one was removed.
            0 => std::fs::create_dir(&new).unwrap(),
            1 => std::fs::rename(&index, &old).unwrap(),
            _ => std::fs::create_dir(&old).unwrap(),
        }
        world.open_for_writing().unwrap();
        assert_eq!(world.read("a").unwrap(), b"some bytes", "{step}");
        world.assert_sound();
        close_fully(&mut world);
        assert!(!new.exists() && !old.exists(), "{step}");
    }
}

#[test]
fn check_finds_rows_of_chunks_that_lead_to_something_else() {
    let mut world = World::new();
    world.put("a", &Dice(1).bytes(20_000));
    world.put("b", &Dice(2).bytes(400_000));
    world.engine().sync().unwrap();
    world.put("c", &Dice(3).bytes(30_000));
    close_fully(&mut world);
    let index = open_index(&world);
    let rows = index.scan(Table::Chunk, &[], &[0xff; 33], 1_000).unwrap();
    drop(index);
    let rows: Vec<(Vec<u8>, ChunkRow)> = rows
        .into_iter()
        .map(|(key, value)| (key, ChunkRow::decode(&value).unwrap()))
        .collect();
    assert!(rows.len() > 3);
    let (key, good) = rows.iter().find(|(_, row)| row.idx > 0).unwrap();
    let (_, other) = rows
        .iter()
        .find(|(_, row)| row.frame != good.frame)
        .unwrap();
    let with = |change: &dyn Fn(&mut ChunkRow)| {
        let mut row = *good;
        change(&mut row);
        row
    };
    let wrong = [
        with(&|row| row.idx -= 1),
        with(&|row| row.raw_off += 1),
        with(&|row| row.len -= 1),
        with(&|row| row.frame_len += 8),
        with(&|row| row.frame = mmhfs::base::PackOff::from_raw(row.frame.raw() + 8)),
        with(&|row| {
            (row.pack, row.frame, row.frame_len) = (other.pack, other.frame, other.frame_len)
        }),
    ];
    for row in wrong {
        falsify(&world, |_| {
            vec![Op::Put(Table::Chunk, key.clone(), row.encode())]
        });
        world.open_read_only().unwrap();
        let report = world.check();
        let named = |path: &str| {
            let mut problems = report.problems.iter();
            problems.any(|p| p.paths.iter().any(|p| p == path))
        };
        assert!(!report.problems.is_empty(), "{row:?}");
        assert!(named("/b"), "{row:?}: {report:#?}");
        // The frame itself is sound, and so are the files that have other chunks of it.
        assert!(!named("/a") && !named("/c"), "{row:?}: {report:#?}");
        close_fully(&mut world);
    }
    falsify(&world, |_| {
        vec![Op::Put(Table::Chunk, key.clone(), good.encode())]
    });
    world.open_again();
    world.assert_sound();
}

/// Every row of such a loop agrees with its neighbours.
#[test]
fn check_finds_a_loop_of_directories_that_is_cut_off_from_the_root() {
    let mut world = World::new();
    world.mkdir("kept").unwrap();
    world.mkdir("a").unwrap();
    world.mkdir("a/b").unwrap();
    world.mkdir("a/b/below").unwrap();
    let (a, b) = (world.ino("a").unwrap(), world.ino("a/b").unwrap());
    close_fully(&mut world);
    falsify(&world, |index| {
        let (from, to) = keys::ino_range(a);
        let link = index.scan(Table::Link, &from, &to, 2).unwrap();
        let (_, root, slot): (Ino, Ino, Slot) = keys::parse_link(&link[0].0).unwrap();
        assert_eq!(root, Ino::ROOT);
        let entry = index.get(Table::Dirent, &keys::dirent(root, slot)).unwrap();
        let inode = |ino: Ino, change: &dyn Fn(&mut InodeRow)| {
            let row = index.get(Table::Inode, &keys::inode(ino)).unwrap().unwrap();
            let mut row = InodeRow::decode(&row).unwrap();
            change(&mut row);
            Op::Put(Table::Inode, keys::inode(ino).to_vec(), row.encode())
        };
        vec![
            Op::Del(Table::Link, keys::link(a, root, slot).to_vec()),
            Op::Del(Table::Dirent, keys::dirent(root, slot).to_vec()),
            Op::Put(Table::Link, keys::link(a, b, slot).to_vec(), vec![]),
            Op::Put(
                Table::Dirent,
                keys::dirent(b, slot).to_vec(),
                entry.unwrap(),
            ),
            inode(a, &|row| row.parent = b),
            inode(b, &|row| {
                row.attrs.size += 1;
                row.nlink += 1;
            }),
            inode(root, &|row| {
                row.attrs.size -= 1;
                row.nlink -= 1;
            }),
        ]
    });
    world.open_read_only().unwrap();
    let report = world.check();
    let loops: Vec<_> = report.problems.iter().collect();
    assert_eq!(loops.len(), 1, "{report:#?}");
    assert!(loops[0].detail.contains("loop"), "{report:#?}");
    // The two, and what is below them.
    assert_eq!(loops[0].paths.len(), 3, "{report:#?}");
    assert!(loops[0].paths.contains(&format!("inode {a}")));
}

/// Bug: an fsync succeeded on a store that had halted if the engine had not seen a change of the file, which it does not
/// see either where it has refused the bytes.
#[test]
fn a_store_that_has_halted_confirms_no_fsync() {
    let world = World::new();
    let handle = world.create("f").unwrap();
    world.engine().fsync(handle, false).unwrap();
    world.engine().halt("for this test");
    assert!(matches!(
        world.engine().fsync(handle, false),
        Err(Error::Halted(_))
    ));
    assert!(world.write_at("f", 0, b"x").is_err());
    world.engine().release(handle).unwrap();
}
