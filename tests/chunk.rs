//! The chunk store on real files: what it promises about bytes, damage, crashes and failing disks.

#[path = "chunk/clean.rs"]
mod clean;
#[path = "common/dice.rs"]
mod dice;
#[path = "chunk/recovery.rs"]
mod recovery;
#[path = "chunk/world.rs"]
mod world;

use dice::noise;
use mmhfs::base::{Error, PackId};
use mmhfs::chunk::{PutKind, load_superblock, pack_name};
use mmhfs::disk::StoreLock;
use mmhfs::format::rows::{Op, PackKind, Table};
use world::{Fault, World, text};

#[test]
fn what_was_put_is_read_back_by_another_process_too() {
    let mut world = World::new();
    let pieces: Vec<Vec<u8>> = (1..40).map(|n| text(n, n * 977)).collect();
    for inline in [true, false] {
        let ids = world.commit(inline, &pieces);
        let nodes = world.commit_nodes(inline, &[b"a node".to_vec()]);
        assert_eq!(world.read_all(&ids), pieces);
        world.reopen();
        assert_eq!(world.read_all(&ids), pieces);
        assert_eq!(world.read_all(&nodes), [b"a node".to_vec()]);
        world.index_from_scratch();
        assert_eq!(world.read_all(&ids), pieces);
    }
}

#[test]
fn equal_pieces_are_stored_once() {
    let mut world = World::new();
    let piece = noise(1, 100_000);
    let ids = world.commit(false, &[piece.clone(), piece.clone()]);
    assert_eq!(ids[0], ids[1]);
    let used = world.store().used_bytes().unwrap();
    world.commit(false, &[piece]);
    let grown = world.store().used_bytes().unwrap() - used;
    assert!(grown < 2_000, "{grown} bytes for a piece that was there");
}

#[test]
fn data_that_does_not_compress_grows_by_at_most_one_percent() {
    let mut world = World::new();
    let pieces: Vec<Vec<u8>> = (0..600).map(|n| noise(n, 16_384)).collect();
    world.commit(false, &pieces);
    let raw: u64 = pieces.iter().map(|p| p.len() as u64).sum();
    let used = world.store().used_bytes().unwrap();
    assert!(used <= raw + raw / 100, "{used} bytes for {raw}");
}

/// I3: every byte of a frame matters, and none of them can make a read return something else.
#[test]
fn i3_a_flipped_byte_anywhere_in_a_data_pack_is_an_error_or_harmless_never_other_bytes() {
    for inline in [false, true] {
        let mut world = World::new();
        let pieces = [text(1, 300), noise(2, 200), text(3, 50)];
        let ids = world.commit(inline, &pieces);
        world.close();
        let row = world.row(&ids[0]);
        let kind = if inline {
            PackKind::Log
        } else {
            PackKind::Data
        };
        let name = pack_name(row.pack, kind);
        let (from, to) = (row.frame.raw(), row.frame.raw() + u64::from(row.frame_len));
        for at in from..to {
            world.flip(&name, at);
            world.reopen_as_is();
            for (id, piece) in ids.iter().zip(&pieces) {
                match world.store().get(id) {
                    Ok(bytes) => {
                        panic!("byte {at} does not matter: {} {}", bytes.len(), piece.len())
                    }
                    Err(Error::Corrupt { site, .. }) => {
                        assert_eq!((site.pack, site.off), (row.pack, row.frame), "byte {at}");
                    }
                    Err(other) => panic!("byte {at}: {other}"),
                }
            }
            world.flip(&name, at);
        }
        world.reopen_as_is();
        assert_eq!(world.read_all(&ids), pieces);
    }
}

#[test]
fn writing_damaged_content_again_heals_it() {
    let mut world = World::new();
    let pieces = [text(1, 5_000), text(2, 5_000)];
    let ids = world.commit(false, &pieces);
    let row = world.row(&ids[0]);
    world.close();
    world.flip(
        &pack_name(row.pack, PackKind::Data),
        row.frame.raw() + u64::from(row.frame_len) / 2,
    );
    world.reopen_as_is();
    assert!(world.store().get(&ids[0]).is_err());
    world.commit(false, &pieces);
    assert_eq!(world.read_all(&ids), pieces);
}

#[test]
fn a_torn_tail_is_ignored_and_never_comes_back() {
    let mut world = World::new();
    let kept = world.commit(true, &[text(1, 1_000)]);
    let mark = world.mark();
    let lost = world.commit(true, &[text(2, 1_000)]);
    // The crash tears the last record: all of its bytes but one reached the disk.
    let name = pack_name(mark.pack, PackKind::Log);
    let torn = world.bytes(&name);
    world.truncate(&name, torn.len() as u64 - 1);
    world.crash();
    world.index_from_scratch();
    assert_eq!(world.mark(), mark);
    assert_eq!(world.read_all(&kept), [text(1, 1_000)]);
    assert!(matches!(
        world.store().get(&lost[0]),
        Err(Error::ChunkUnknown(_))
    ));
    let after = world.commit(true, &[text(3, 1_000)]);
    // Even if the missing byte turns up later, what the cut left out stays out.
    world.write_file(&name, &torn);
    world.crash();
    world.index_from_scratch();
    assert_eq!(world.read_all(&after), [text(3, 1_000)]);
    assert!(matches!(
        world.store().get(&lost[0]),
        Err(Error::ChunkUnknown(_))
    ));
}

#[test]
fn every_length_that_a_tear_leaves_is_the_history_up_to_some_commit() {
    let mut world = World::new();
    let mut marks = vec![];
    for n in 0..4 {
        world.commit(true, &[text(n, 400)]);
        marks.push(world.mark());
    }
    let name = pack_name(marks[0].pack, PackKind::Log);
    let whole = world.bytes(&name);
    for len in (world.log_start()..whole.len() as u64).rev().step_by(7) {
        world.truncate(&name, len);
        world.crash();
        world.index_from_scratch();
        let expected = marks.iter().rev().find(|mark| mark.off.raw() <= len);
        assert_eq!(
            world.mark().lsn,
            expected.map_or(world::NO_LSN, |m| m.lsn),
            "length {len}"
        );
    }
}

#[test]
fn rot_before_the_last_commit_is_damage_and_not_a_tear() {
    let mut world = World::new();
    world.commit(true, &[text(1, 1_000)]);
    let first = world.mark();
    world.commit(true, &[text(2, 1_000)]);
    world.commit(true, &[text(3, 1_000)]);
    let name = pack_name(first.pack, PackKind::Log);
    for at in (world.log_start()..first.off.raw()).step_by(13) {
        world.flip(&name, at);
        world.crash();
        match world.try_index_from_scratch() {
            Err(Error::LogDamaged { path, site, .. }) => {
                assert!(path.ends_with(&name), "{}", path.display());
                assert_eq!(site.pack, first.pack);
                assert!(site.off.raw() <= at);
            }
            other => panic!("byte {at}: {other:?}"),
        }
        world.flip(&name, at);
    }
    world.index_from_scratch();
}

#[test]
fn rot_in_a_log_pack_that_was_cut_or_sealed_is_damage() {
    for sealed in [false, true] {
        let mut world = World::new();
        world.commit(true, &[text(1, 1_000)]);
        let mark = world.mark();
        if sealed {
            world.close();
        }
        world.crash();
        world.commit(true, &[text(2, 1_000)]);
        let name = pack_name(mark.pack, PackKind::Log);
        world.flip(&name, mark.off.raw() - 1);
        world.crash();
        let found = world.try_index_from_scratch();
        assert!(matches!(found, Err(Error::LogDamaged { .. })), "{found:?}");
    }
}

#[test]
fn a_missing_or_truncated_pack_is_named() {
    let mut world = World::new();
    world.commit(true, &[text(1, 1_000)]);
    let old = world.mark();
    world.close();
    world.crash();
    world.commit(true, &[text(2, 1_000)]);
    world.commit(false, &[text(3, 1_000)]);
    let new = world.mark();
    world.crash();
    for id in [old.pack, new.pack] {
        let name = pack_name(id, PackKind::Log);
        let bytes = world.bytes(&name);
        world.remove(&name);
        match world.try_index_from_scratch() {
            Err(Error::PackMissing { path }) => {
                assert!(path.ends_with(&name), "{}", path.display())
            }
            other => panic!("{name}: {other:?}"),
        }
        world.write_file(&name, &bytes);
    }
    let name = pack_name(old.pack, PackKind::Log);
    world.truncate(&name, old.off.raw() - 1);
    match world.try_index_from_scratch() {
        Err(Error::PackTruncated {
            path,
            expected_bytes,
            ..
        }) => {
            assert!(path.ends_with(&name));
            assert_eq!(expected_bytes, old.off.raw());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_data_pack_is_named() {
    let mut world = World::new();
    let ids = world.commit(false, &[text(3, 1_000)]);
    let row = world.row(&ids[0]);
    let name = pack_name(row.pack, PackKind::Data);
    world.crash();
    world.remove(&name);
    match world.try_index_from_scratch() {
        Err(Error::PackMissing { path }) => assert!(path.ends_with(&name), "{}", path.display()),
        other => panic!("{other:?}"),
    }
}

/// I1, and: a failed sync is never later reported as success.
#[test]
fn a_failed_sync_fails_the_commit_and_the_next_one_goes_to_a_new_pack() {
    for (inline, fault) in [
        (true, Fault::Sync("log")),
        (false, Fault::Sync("log")),
        (false, Fault::Sync("dat")),
        (true, Fault::Write("log")),
        (false, Fault::Write("dat")),
    ] {
        let mut world = World::new();
        let kept = world.commit(inline, &[text(1, 1_000)]);
        let before = world.mark();
        world.disk().fail(Some(fault));
        assert!(
            world.try_commit(inline, &[text(2, 1_000)]).is_err(),
            "{fault:?}"
        );
        world.disk().fail(None);
        let after = world.commit(inline, &[text(2, 1_000), text(3, 1_000)]);
        if matches!(fault, Fault::Sync("log") | Fault::Write("log")) {
            assert!(world.mark().pack > before.pack, "{fault:?}");
        }
        assert_eq!(world.mark().lsn, before.lsn.next(), "{fault:?}");
        world.crash();
        world.index_from_scratch();
        assert_eq!(world.mark().lsn, before.lsn.next(), "{fault:?}");
        assert_eq!(world.read_all(&kept), [text(1, 1_000)]);
        assert_eq!(world.read_all(&after), [text(2, 1_000), text(3, 1_000)]);
    }
}

#[test]
fn a_full_disk_fails_the_commit_and_nothing_else() {
    let mut world = World::new();
    let kept = world.commit(true, &[text(1, 1_000)]);
    world.disk().fail(Some(Fault::Full));
    assert!(matches!(
        world.try_commit(false, &[noise(1, 9_000)]),
        Err(Error::NoSpace)
    ));
    assert!(matches!(
        world.try_commit(true, &[noise(1, 9_000)]),
        Err(Error::NoSpace)
    ));
    world.disk().fail(None);
    let after = world.commit(true, &[noise(1, 9_000)]);
    world.crash();
    world.index_from_scratch();
    assert_eq!(world.read_all(&kept), [text(1, 1_000)]);
    assert_eq!(world.read_all(&after), [noise(1, 9_000)]);
}

#[test]
fn the_log_rolls_to_new_packs_and_is_replayed_across_them() {
    let mut world = World::new();
    let mut all = vec![];
    for n in 0..12 {
        let piece = noise(n, 900_000);
        all.push((world.commit(true, std::slice::from_ref(&piece)), piece));
    }
    let logs = world.packs(PackKind::Log);
    assert!(logs.len() > 2, "{logs:?}");
    world.crash();
    world.index_from_scratch();
    for (ids, piece) in &all {
        assert_eq!(world.read_all(ids), std::slice::from_ref(piece));
    }
}

#[test]
fn a_commit_of_many_operations_takes_effect_as_a_whole() {
    let mut world = World::new();
    world.commit(true, &[text(1, 100)]);
    let before = world.mark();
    let ops = world.many_ops(60_000);
    world.commit_ops(ops.clone());
    let after = world.mark();
    assert!(after.lsn.raw() > before.lsn.raw() + 1, "one record");
    assert_eq!(world.replayed_ops().last(), Some(&ops));
    // Without its last part none of it counts.
    let name = pack_name(after.pack, PackKind::Log);
    world.truncate(&name, after.off.raw() - 1);
    world.crash();
    world.index_from_scratch();
    assert_eq!(world.mark(), before);
    world.commit(true, &[text(2, 100)]);
    world.crash();
    world.index_from_scratch();
    assert_eq!(world.mark().lsn, before.lsn.next());
}

#[test]
fn replay_from_a_watermark_gives_only_what_follows() {
    let mut world = World::new();
    world.commit(true, &[text(1, 1_000)]);
    let mark = world.mark();
    assert_eq!(world.replay_from(mark).unwrap().len(), 0);
    world.commit(false, &[text(2, 1_000)]);
    world.crash();
    world.commit(true, &[text(3, 1_000)]);
    assert_eq!(world.replay_from(mark).unwrap().len(), 2);
    assert_eq!(world.replay_from(world.mark()).unwrap().len(), 0);
    let mut foreign = mark;
    foreign.chain[0] ^= 1;
    assert!(world.replay_from(foreign).is_none());
    let mut foreign = mark;
    foreign.off = mmhfs::base::PackOff::from_raw(mark.off.raw() - 8);
    assert!(world.replay_from(foreign).is_none());
}

/// I4 and I2: a pack found unsealed is not appended to, a sealed one does not change.
#[test]
fn i2_a_pack_of_an_earlier_run_never_changes() {
    let mut world = World::new();
    world.commit(false, &[text(1, 1_000)]);
    world.crash();
    let before: Vec<(PackId, Vec<u8>)> = world.all_pack_bytes();
    world.reopen();
    world.commit(false, &[text(2, 1_000)]);
    world.commit(true, &[text(3, 1_000)]);
    world.close();
    let after = world.all_pack_bytes();
    for (id, bytes) in before {
        assert!(after.contains(&(id, bytes)), "{id}");
    }
}

#[test]
fn a_read_only_store_writes_nothing() {
    let mut world = World::new();
    let ids = world.commit(false, &[text(1, 1_000)]);
    world.crash();
    let before = world.all_files();
    world.reopen_read_only();
    assert_eq!(world.read_all(&ids), [text(1, 1_000)]);
    assert!(matches!(world.store().begin(true), Err(Error::ReadOnly(_))));
    world.store().seal().unwrap();
    assert_eq!(world.all_files(), before);
}

#[test]
fn a_scan_of_a_pack_sees_every_frame_and_record_and_every_flipped_byte() {
    let mut world = World::new();
    world.commit(true, &[text(1, 400)]);
    world.commit(false, &[text(2, 400), noise(3, 300)]);
    world.close();
    world.reopen_as_is();
    for kind in [PackKind::Log, PackKind::Data] {
        let id = world.packs(kind)[0];
        let (report, problems) = world.scan(id);
        assert_eq!(problems, Vec::<String>::new());
        assert!(report.frames > 0);
        let name = pack_name(id, kind);
        for at in 0..world.bytes(&name).len() as u64 {
            world.flip(&name, at);
            let (_, problems) = world.scan(id);
            assert!(!problems.is_empty(), "{name} byte {at}");
            world.flip(&name, at);
        }
    }
}

#[test]
fn reading_ahead_decodes_into_memory() {
    let mut world = World::new();
    let pieces: Vec<Vec<u8>> = (0..8).map(|n| noise(n, 200_000)).collect();
    let ids = world.commit(false, &pieces);
    world.store().prefetch(ids.clone());
    assert_eq!(world.read_all(&ids), pieces);
}

#[test]
fn only_one_batch_at_a_time() {
    let world = World::new();
    let first = world.store().begin(true).unwrap();
    assert!(world.store().begin(true).is_err());
    drop(first);
    let mut batch = world.store().begin(false).unwrap();
    world
        .store()
        .put(&mut batch, PutKind::Data, &[b"x"])
        .unwrap();
}

#[test]
fn a_second_process_is_refused_with_the_holders_name() {
    let dir = tempfile::tempdir().unwrap();
    let held = StoreLock::take(dir.path()).unwrap();
    match StoreLock::take(dir.path()) {
        Err(Error::Locked { path, holder }) => {
            assert_eq!(path, dir.path());
            let words = format!("pid {} on ", std::process::id());
            assert!(holder.starts_with(&words), "{holder}");
        }
        other => panic!("{other:?}"),
    }
    drop(held);
    StoreLock::take(dir.path()).unwrap();
}

#[test]
fn one_good_copy_of_the_superblock_is_enough_and_the_newest_counts() {
    let mut world = World::new();
    let old = world.bytes("super.2");
    let ids = world.commit(true, &[text(1, 1_000)]);
    world.crash();
    world.write_file("super.2", &old);
    world.flip("super.0", 100);
    world.index_from_scratch();
    assert_eq!(world.read_all(&ids), [text(1, 1_000)]);
    world.crash();
    world.truncate("super.1", 4000);
    world.write_file("super.2", b"foreign");
    match load_superblock(world.disk()) {
        Err(Error::Superblock { detail, .. }) => {
            for name in ["super.0", "super.1", "super.2"] {
                assert!(detail.contains(name), "{detail}");
            }
        }
        other => panic!("{other:?}"),
    }
    for name in ["super.0", "super.1", "super.2"] {
        world.remove(name);
    }
    let found = load_superblock(world.disk());
    assert!(matches!(found, Err(Error::NotAStore { .. })), "{found:?}");
}

/// A crash between the creation of a pack and the superblock's high-water mark.
#[test]
fn a_pack_that_was_being_created_in_a_crash_is_passed_over_and_its_number_is_not_reused() {
    for header in [vec![], vec![0; 4096], vec![7; 100]] {
        let mut world = World::new();
        let ids = world.commit(true, &[text(1, 1_000)]);
        let torn = PackId::from_raw(world.mark().pack.raw() + 1);
        world.crash();
        world.write_file(&pack_name(torn, PackKind::Log), &header);
        world.index_from_scratch();
        assert_eq!(world.read_all(&ids), [text(1, 1_000)]);
        world.commit(true, &[text(2, 1_000)]);
        assert!(world.mark().pack > torn);
        world.crash();
        world.index_from_scratch();
        assert_eq!(world.mark().lsn.raw(), 2);
    }
}

/// A process that dies before its sync leaves a record that only the system's cache holds. Who opens the store
/// next builds on it: its index and the cut of its LOG pack say that the record is there.
#[test]
fn a_commit_that_recovery_found_unsynced_is_durable_before_anything_builds_on_it() {
    let mut world = World::new();
    world.commit(true, &[text(1, 1_000)]);
    world.disk().fail(Some(Fault::Sync("log")));
    assert!(world.try_commit(true, &[text(2, 1_000)]).is_err());
    world.disk().fail(None);
    world.crash();
    world.index_from_scratch();
    let recovered = world.mark();
    let ids = world.commit(true, &[text(3, 1_000)]);
    world.lose_power();
    world.index_from_scratch();
    assert_eq!(world.read_all(&ids), [text(3, 1_000)]);
    assert_eq!(world.mark().lsn, recovered.lsn.next());
}

/// A torn LOG pack counts for nothing because its number is above the high-water mark. A DATA pack that raised the
/// mark over it before there was a new LOG pack made it look like damage for ever.
#[test]
fn a_torn_log_pack_stays_harmless_when_a_later_data_pack_raises_the_high_water_mark() {
    let mut world = World::new();
    let ids = world.commit(true, &[text(1, 1_000)]);
    let torn = PackId::from_raw(world.mark().pack.raw() + 1);
    world.crash();
    world.write_file(&pack_name(torn, PackKind::Log), &[]);
    world.index_from_scratch();
    let store = std::sync::Arc::clone(world.store());
    let mut batch = store.begin(false).unwrap();
    let piece = noise(1, 200_000);
    store.put(&mut batch, PutKind::Data, &[&piece]).unwrap();
    drop((batch, store));
    world.crash();
    world.index_from_scratch();
    assert_eq!(world.read_all(&ids), [text(1, 1_000)]);
}

/// A frame of an abandoned commit waits in memory for the next write: it is no damage of the pack.
#[test]
fn a_scan_beside_a_batch_sees_no_damage() {
    let mut world = World::new();
    world.commit(false, &[text(1, 1_000)]);
    let store = std::sync::Arc::clone(world.store());
    let mut batch = store.begin(false).unwrap();
    let piece = noise(1, 200_000);
    store.put(&mut batch, PutKind::Data, &[&piece]).unwrap();
    for kind in [PackKind::Log, PackKind::Data] {
        for id in world.packs(kind) {
            let (_, problems) = world.scan(id);
            assert_eq!(problems, Vec::<String>::new(), "{id}");
        }
    }
}

/// What replay would refuse must not get into the log: no record after it could be read any more.
#[test]
fn operations_that_replay_refuses_are_refused_before_they_are_written() {
    for op in [
        Op::DelRange(Table::Extent, vec![1; 16], vec![1; 16]),
        Op::Put(Table::Inode, vec![], vec![]),
        Op::Put(Table::Xattr, vec![1; 9], vec![0; 70_000]),
        Op::Del(Table::Xattr, vec![1; 513]),
    ] {
        let mut world = World::new();
        world.commit(true, &[text(1, 1_000)]);
        let batch = world.store().begin(true).unwrap();
        let refused = world.store().finish(batch, vec![op.clone()]);
        assert!(matches!(refused, Err(Error::Internal(_))), "{op:?}");
        world.commit(true, &[text(2, 1_000)]);
        world.crash();
        world.index_from_scratch();
        assert_eq!(world.mark().lsn.raw(), 2);
    }
}

/// I10: a number in the superblock allocates nothing in proportion to it.
#[test]
fn a_high_water_mark_far_above_all_packs_is_a_missing_pack_at_once() {
    let mut world = World::new();
    world.commit(true, &[text(1, 1_000)]);
    world.crash();
    world.set_high_water(PackId::from_raw(u64::MAX));
    let found = world.try_index_from_scratch();
    assert!(matches!(found, Err(Error::PackMissing { .. })), "{found:?}");
}

#[test]
fn a_row_that_does_not_decode_is_named_with_its_pack_and_offset() {
    let mut world = World::new();
    world.commit_ops(vec![Op::Put(Table::Pack, vec![1; 3], vec![1])]);
    let pack = world.mark().pack;
    world.crash();
    match world.try_index_from_scratch() {
        Err(Error::LogDamaged { site, .. }) => {
            assert_eq!((site.pack, site.off.raw()), (pack, world.log_start()));
        }
        other => panic!("{other:?}"),
    }
}

/// Bug: `close` ended the packs under a commit of another thread; if their sync failed, the commit named bytes that no
/// disk had.
#[test]
fn i1_a_commit_whose_pack_was_ended_under_it_is_refused() {
    let mut world = World::new();
    world.commit(false, &[noise(1, 1000)]);
    let store = std::sync::Arc::clone(world.store());
    let pieces: Vec<Vec<u8>> = (10..20).map(|n| noise(n, 100_000)).collect();
    let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    for fails in [true, false] {
        let mut batch = store.begin(false).unwrap();
        store.put(&mut batch, PutKind::Data, &pieces).unwrap();
        world.disk().fail(fails.then_some(Fault::Sync(".dat")));
        assert_eq!(store.seal().is_err(), fails);
        world.disk().fail(None);
        assert!(store.finish(batch, Vec::new()).is_err());
        store.roll().unwrap();
    }
    let ids = world.commit(false, &[noise(10, 100_000)]);
    assert_eq!(world.read_all(&ids), [noise(10, 100_000)]);
}

/// Bug: a sum of lengths that was begun before packs were removed was kept, and the store stayed full.
#[test]
fn the_length_of_all_packs_is_right_after_packs_were_removed_or_given_up() {
    let mut world = World::new();
    for n in 0..4 {
        world.commit(false, &[noise(n, 300_000)]);
        world.store().roll().unwrap();
    }
    let store = std::sync::Arc::clone(world.store());
    let first = world.packs(PackKind::Data)[0];
    let remover = std::sync::Arc::clone(&store);
    // All but the first two lengths have been asked for when that one goes.
    world.disk().after_lens(3, move || {
        remover.remove_packs(&[first]).unwrap();
    });
    store.used_now().unwrap();
    assert!(!world.packs(PackKind::Data).contains(&first));
    assert_eq!(store.used_now().unwrap(), store.used_bytes().unwrap());
    drop(store);
    world.commit(false, &[noise(8, 300_000)]);
    world.store().used_now().unwrap();
    world.disk().fail(Some(Fault::Sync(".dat")));
    assert!(world.try_commit(false, &[noise(9, 300_000)]).is_err());
    world.disk().fail(None);
    let store = world.store();
    assert_eq!(store.used_now().unwrap(), store.used_bytes().unwrap());
}
