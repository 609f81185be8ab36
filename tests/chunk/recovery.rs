//! What is read back of a log and of packs after damage and crashes, and what must be an error.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests: a failure here is a failed test"
)]

use mmhfs::base::{Error, PackId};
use mmhfs::chunk::pack_name;
use mmhfs::format::rows::PackKind;

use super::world::{World, text};
use crate::dice::noise;

/// Length of the trailer, the end of a sealed pack.
const TRAILER_LEN: u64 = 64;

fn log_name(id: PackId) -> String {
    pack_name(id, PackKind::Log)
}

/// Bug: a flipped byte in an inline frame that the index was long past kept the store from being opened at all.
#[test]
fn rot_before_the_watermark_stops_no_replay() {
    for (sealed, followed) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut world = World::new();
        world.commit(true, &[text(1, 1_000)]);
        let first = world.mark();
        world.commit(true, &[noise(2, 700)]);
        let mark = world.mark();
        if followed {
            world.commit(true, &[text(3, 1_000)]);
        }
        if sealed {
            world.close();
        }
        world.crash();
        let name = log_name(mark.pack);
        let last = world.bytes(&name);
        let chain = last
            .windows(32)
            .position(|bytes| bytes == mark.chain)
            .unwrap() as u64;
        assert!(chain > first.off.raw());
        for at in (world.log_start()..mark.off.raw()).step_by(7) {
            world.flip(&name, at);
            let found = world.try_replay_from(mark);
            let hides_mark = (chain..chain + 32).contains(&at) && !sealed && !followed;
            if hides_mark {
                // Nothing else tells this index from a foreign one.
                assert!(matches!(found, Err(Error::LogDamaged { .. })), "byte {at}");
            } else {
                let commits = found.unwrap().unwrap_or_else(|| panic!("byte {at}"));
                assert_eq!(commits.len(), usize::from(followed), "byte {at}");
            }
            world.flip(&name, at);
        }
        // A whole bad sector as well.
        let mut bytes = last.clone();
        bytes[4096..first.off.raw() as usize].fill(0);
        world.write_file(&name, &bytes);
        world.try_reopen(true).unwrap();
        world.try_reopen(false).unwrap();
    }
}

#[test]
fn rot_between_the_watermark_and_the_last_good_record_is_damage_and_after_it_a_torn_tail() {
    let mut world = World::new();
    world.commit(true, &[text(1, 1_000)]);
    let mark = world.mark();
    world.commit(true, &[text(2, 1_000)]);
    let second = world.mark();
    world.commit(true, &[text(3, 1_000)]);
    let third = world.mark();
    world.crash();
    let name = log_name(mark.pack);
    for at in (mark.off.raw()..third.off.raw()).step_by(11) {
        world.flip(&name, at);
        match world.try_replay_from(mark) {
            Err(Error::LogDamaged { path, site, .. }) if at < second.off.raw() => {
                assert!(path.ends_with(&name), "{}", path.display());
                assert_eq!(site.pack, mark.pack);
                assert!((mark.off.raw()..=at).contains(&site.off.raw()), "byte {at}");
            }
            Ok(Some(commits)) if at >= second.off.raw() => assert_eq!(commits.len(), 1),
            other => panic!("byte {at}: {other:?}"),
        }
        world.flip(&name, at);
    }
    assert_eq!(world.replay_from(mark).unwrap().len(), 2);
}

#[test]
fn the_header_of_a_log_pack_that_the_index_is_past_may_be_damaged() {
    let mut world = World::new();
    world.commit(true, &[text(1, 1_000)]);
    let first = world.mark();
    world.crash();
    world.commit(true, &[text(2, 1_000)]);
    let within = world.mark();
    world.commit(true, &[text(3, 1_000)]);
    let second = world.mark();
    world.crash();
    let ids = world.commit(true, &[text(4, 1_000)]);
    let third = world.mark();
    for (mark, damaged, commits) in [
        (within, first, 2),
        (within, second, 2),
        (second, second, 1),
        (third, first, 0),
        (third, second, 0),
    ] {
        let name = log_name(damaged.pack);
        world.flip(&name, 50);
        let found = world.replay_from(mark).unwrap();
        assert_eq!(found.len(), commits, "{mark:?} {damaged:?}");
        world.flip(&name, 50);
    }
    let name = log_name(second.pack);
    world.flip(&name, 50);
    world.reopen();
    assert_eq!(world.read_all(&ids), [text(4, 1_000)]);
    // What is not in the index may not be damaged.
    world.crash();
    let found = world.try_replay_from(first);
    assert!(matches!(found, Err(Error::LogDamaged { .. })), "{found:?}");
}

#[test]
fn a_missing_log_pack_before_the_watermark_keeps_only_writers_out() {
    let mut world = World::new();
    let lost = world.commit(true, &[text(1, 1_000)]);
    let first = world.mark();
    world.crash();
    let kept = world.commit(true, &[text(2, 1_000)]);
    world.close();
    let name = log_name(first.pack);
    let bytes = world.bytes(&name);
    for left in [None, Some(first.off.raw() - 1)] {
        match left {
            None => world.remove(&name),
            Some(len) => world.truncate(&name, len),
        }
        world.try_reopen(true).unwrap();
        assert_eq!(world.read_all(&kept), [text(2, 1_000)]);
        assert!(world.store().get(&lost[0]).is_err_and(|e| e.is_damage()) || left.is_some());
        let refused = world.try_reopen(false);
        assert!(refused.is_err_and(|error| error.is_damage()), "{left:?}");
        world.write_file(&name, &bytes);
    }
    world.try_reopen(false).unwrap();
}

#[test]
fn a_missing_last_log_pack_is_an_error_also_with_an_index() {
    let mut world = World::new();
    world.commit(false, &[text(1, 1_000)]);
    let old = world.mark();
    world.crash();
    world.commit(false, &[text(2, 1_000)]);
    let new = world.mark();
    world.crash();
    world.remove(&log_name(new.pack));
    // The index has seen it.
    let found = world.try_replay_from(new);
    assert!(matches!(found, Err(Error::PackMissing { .. })), "{found:?}");
    assert!(world.try_reopen(true).is_err());
    // The index has not, but the superblock has.
    world.set_mark(old);
    match world.try_reopen(true) {
        Err(Error::PackMissing { path }) => assert!(path.ends_with(log_name(new.pack))),
        other => panic!("{other:?}"),
    }
}

/// A frame with a damaged header has no length that could be believed: nothing after it was looked at.
#[test]
fn a_scan_goes_on_after_a_damaged_frame_header_with_and_without_a_footer() {
    for (inline, sealed) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut world = World::new();
        for n in 0..6 {
            world.commit(inline, &[noise(n, 3_000)]);
        }
        if sealed {
            world.close();
        }
        world.crash();
        world.reopen();
        let kind = if inline {
            PackKind::Log
        } else {
            PackKind::Data
        };
        let id = world.packs(kind)[0];
        let name = pack_name(id, kind);
        let all = world.sound_frames(id);
        assert_eq!(all.len(), 6);
        for hit in 0..6 {
            // Magic, kind, count of chunks, stored length (in the high and in a low byte), checksum, payload.
            for within in [0, 11, 12, 20, 22, 40, 500] {
                world.flip(&name, all[hit] + within);
                let mut left = all.clone();
                left.remove(hit);
                let found = world.sound_frames(id);
                assert_eq!(
                    found, left,
                    "{name} sealed {sealed} frame {hit} byte {within}"
                );
                let (_, problems) = world.scan(id);
                let place = format!("{}: ", all[hit]);
                assert!(
                    problems.iter().any(|p| p.starts_with(&place)),
                    "{problems:?}"
                );
                world.flip(&name, all[hit] + within);
            }
        }
    }
}

/// Bug: a footer that a crash has cut off was reported as damage for ever.
#[test]
fn what_a_crash_within_a_seal_has_left_is_a_torn_tail_and_no_damage() {
    let mut sealed = World::new();
    sealed.commit(false, &[noise(1, 3_000), noise(2, 3_000)]);
    sealed.commit(true, &[noise(3, 3_000)]);
    let packs = [PackKind::Log, PackKind::Data].map(|kind| sealed.packs(kind)[0]);
    let end = sealed.mark().off.raw();
    sealed.close();
    let log = sealed.bytes(&log_name(packs[0])).len() as u64;
    for left in [8, 100, log - end - TRAILER_LEN, log - end - 1] {
        for kind in [PackKind::Log, PackKind::Data] {
            let mut world = World::new();
            world.commit(false, &[noise(1, 3_000), noise(2, 3_000)]);
            world.commit(true, &[noise(3, 3_000)]);
            let id = world.packs(kind)[0];
            world.close();
            let name = pack_name(id, kind);
            let whole = world.bytes(&name);
            let magic = mmhfs::format::footer::FOOTER_MAGIC;
            let footer = whole.windows(8).rposition(|bytes| bytes == magic).unwrap();
            world.truncate(&name, (footer as u64 + left).min(whole.len() as u64 - 1));
            for round in 0..3 {
                world.crash();
                world.reopen();
                let (_, problems) = world.scan(id);
                assert_eq!(problems, Vec::<String>::new(), "{name} {left} {round}");
                world.commit(true, &[noise(4 + round, 100)]);
                let (_, problems) = world.scan(id);
                assert_eq!(problems, Vec::<String>::new(), "{name} {left} {round}");
            }
            // Not only the process that found it knows.
            world.close();
            world.index_from_scratch();
            let (_, problems) = world.scan(id);
            assert_eq!(problems, Vec::<String>::new(), "{name} {left}");
        }
    }
}

#[test]
fn a_footer_that_rots_after_the_store_was_closed_is_damage() {
    for kind in [PackKind::Log, PackKind::Data] {
        let mut world = World::new();
        world.commit(false, &[noise(1, 3_000)]);
        world.commit(true, &[noise(2, 3_000)]);
        let id = world.packs(kind)[0];
        world.close();
        let name = pack_name(id, kind);
        let len = world.bytes(&name).len() as u64;
        for at in (len - TRAILER_LEN..len).step_by(5) {
            world.flip(&name, at);
            world.reopen();
            let (_, problems) = world.scan(id);
            assert!(!problems.is_empty(), "{name} byte {at}");
            world.crash();
            world.flip(&name, at);
        }
    }
}

#[test]
fn a_pack_that_a_failed_seal_has_left_without_a_footer_is_no_damage_either() {
    use super::world::Fault;
    let mut world = World::new();
    world.commit(true, &[noise(1, 3_000)]);
    let id = world.packs(PackKind::Log)[0];
    world.disk().fail(Some(Fault::Full));
    assert!(world.store().seal().is_err());
    world.disk().fail(None);
    world.crash();
    world.reopen();
    world.commit(true, &[noise(2, 3_000)]);
    world.crash();
    world.commit(true, &[noise(3, 3_000)]);
    let (_, problems) = world.scan(id);
    assert_eq!(problems, Vec::<String>::new());
}

/// Bug: of two packs, of which a crash had left the first with half a footer and the second without a commit, no commit
/// ever said that the first was not sealed, and a scan called its footer damaged.
#[test]
fn a_pack_whose_sealing_a_crash_has_cut_off_is_settled_after_a_second_crash() {
    for from_scratch in [false, true] {
        let mut world = World::new();
        world.commit(true, &[text(1, 1_000)]);
        let first = world.mark().pack;
        world.close();
        world.crash();
        let name = log_name(first);
        world.truncate(&name, world.bytes(&name).len() as u64 - TRAILER_LEN);
        // The next pack is begun, and nothing is committed in it.
        world.reopen();
        let before = world.mark();
        world.commit(true, &[text(2, 1_000)]);
        let second = world.mark().pack;
        assert!(second > first);
        world.crash();
        world.truncate(&log_name(second), world.log_start());
        world.set_mark(before);
        match from_scratch {
            true => world.index_from_scratch(),
            false => world.reopen(),
        }
        assert_eq!(world.scan(first).1, Vec::<String>::new());
        world.commit(true, &[text(3, 1_000)]);
        world.crash();
        world.reopen();
        assert_eq!(world.scan(first).1, Vec::<String>::new());
        assert_eq!(world.scan(second).1, Vec::<String>::new());
    }
}
