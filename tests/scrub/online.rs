//! Scrubs that are interrupted, slow, or run beside everything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mmhfs::engine::{CleanOptions, Engine, ScrubOptions};

use super::world::{Dice, config, env};
use super::{LOOK, REPAIR, assert_clean, change, cover, filled, pack_files, scrub};

#[test]
fn an_interrupted_scrub_goes_on_where_it_was() {
    let mut world = filled();
    cover(&mut world, 20);
    let total = scrub(&world, &LOOK).packs;
    let calls = AtomicU64::new(0);
    let stop = |_| calls.fetch_add(1, Ordering::Relaxed) < 3;
    let first = world.engine().scrub(&LOOK, &stop).unwrap();
    assert!(!first.is_finished && first.resumed_at.is_none());
    assert!(first.packs < total);
    // Also by another process.
    world.reopen();
    let second = scrub(&world, &LOOK);
    assert!(second.resumed_at.is_some());
    assert!(second.packs < total, "{} {total}", second.packs);
    assert!(first.packs + second.packs >= total);
    let third = scrub(&world, &LOOK);
    assert_eq!((third.resumed_at, third.packs >= total), (None, true));
    let calls = AtomicU64::new(0);
    let stop = |_| calls.fetch_add(1, Ordering::Relaxed) < 3;
    world.engine().scrub(&LOOK, &stop).unwrap();
    let restart = ScrubOptions {
        restart: true,
        ..LOOK
    };
    assert_eq!(scrub(&world, &restart).packs, third.packs);
}

/// Bug: a scrub went on behind damage that an interrupted one had found and could not repair, and said that the store
/// was clean.
#[test]
fn a_scrub_never_goes_on_behind_damage_that_is_left() {
    let world = filled();
    let packs = pack_files(&world.store());
    let data = packs
        .keys()
        .find(|path| path.extension().is_some_and(|e| e == "dat"));
    change(data.unwrap(), |bytes| bytes[5000] ^= 1);
    let whole = scrub(&world, &LOOK);
    assert_eq!(whole.left, 1);
    let calls = AtomicU64::new(0);
    let all = u64::MAX;
    let read = AtomicU64::new(all);
    // Told to stop at the last of its bytes.
    let stop = |now: mmhfs::engine::Progress| {
        calls.fetch_add(1, Ordering::Relaxed);
        read.store(
            now.bytes_total - now.bytes.min(now.bytes_total),
            Ordering::Relaxed,
        );
        now.bytes < now.bytes_total
    };
    let first = world.engine().scrub(&REPAIR, &stop).unwrap();
    assert!(!first.is_finished, "{first:?}");
    assert_eq!(first.left, 1);
    let second = scrub(&world, &REPAIR);
    assert!(second.resumed_at.is_some());
    assert_eq!(second.left, 1, "{second:?}");
}

#[test]
fn a_damaged_mark_makes_it_begin_anew() {
    let world = filled();
    let calls = AtomicU64::new(0);
    let stop = |_| calls.fetch_add(1, Ordering::Relaxed) < 3;
    world.engine().scrub(&LOOK, &stop).unwrap();
    change(&world.store().join("scrub"), |bytes| bytes[25] ^= 1);
    assert_eq!(scrub(&world, &LOOK).resumed_at, None);
    assert!(!world.store().join("scrub").exists());
}

#[test]
fn a_rate_is_kept() {
    let mut world = filled();
    world.close();
    let waited = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&waited);
    let env = env(1).with_wait(move |time: Duration| {
        seen.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    });
    let engine = loop {
        match Engine::open(&world.store(), env.clone(), config()) {
            Err(mmhfs::base::Error::Locked { .. }) => std::thread::yield_now(),
            other => break other.unwrap(),
        }
    };
    let options = ScrubOptions {
        rate: Some(1 << 20),
        ..LOOK
    };
    let report = engine.scrub(&options, &|_| true).unwrap();
    let due = report.bytes * 1000 / (1 << 20);
    let waited = waited.load(Ordering::Relaxed);
    // The clock of the test moves by a millisecond each time it is asked.
    assert!(waited <= due && waited > due / 2, "{waited} {due}");
    engine.close().unwrap();
}

#[test]
fn only_one_scrub_runs_at_a_time() {
    let world = filled();
    let inner = AtomicBool::new(false);
    let watch = |_| {
        let again = world.engine().scrub(&LOOK, &|_| true);
        inner.store(again.is_err(), Ordering::Relaxed);
        true
    };
    world.engine().scrub(&LOOK, &watch).unwrap();
    assert!(inner.load(Ordering::Relaxed));
}

#[test]
fn a_store_that_is_written_to_and_cleaned_has_no_damage() {
    let mut world = filled();
    cover(&mut world, 20);
    let done = AtomicBool::new(false);
    let scrubs = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..60 {
                let name = format!("new{}", n % 7);
                world.put(&name, &Dice(100 + n).bytes(400_000 + n as usize * 1000));
                world.engine().sync().unwrap();
                if n % 10 == 9 {
                    world.unlink(&name).unwrap();
                    let clean = CleanOptions {
                        unused_percent: 0,
                        ..CleanOptions::default()
                    };
                    world.engine().clean(&clean, &|_, _| {}).unwrap();
                }
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) && !writer.is_finished() {
            assert_clean(&scrub(&world, &LOOK));
            assert_clean(&scrub(&world, &REPAIR));
            scrubs.fetch_add(2, Ordering::Relaxed);
        }
    });
    assert!(scrubs.load(Ordering::Relaxed) > 0);
    assert_clean(&scrub(&world, &LOOK));
    world.assert_sound();
}
