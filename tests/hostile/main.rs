//! A store is untrusted input (I10): whatever it says, there is no panic, no wait without end, no memory beyond a
//! bound, no write outside of a destination, and, unless its checksums were made right, nothing is shown that was
//! never there.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    unsafe_code,
    unreachable_pub,
    reason = "tests: a failure here is a failed test; the allocator is measured"
)]

mod lies;
#[path = "../../fuzz/src/meter.rs"]
mod meter;
#[path = "world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use mmhfs::sim::Dice;
use world::{Base, Verdict, resign, run};

/// What every test needs, made once.
fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        Base::new(dir.path())
    })
}

/// Seeds of programs that are run each time.
const SEEDS: u64 = 400;
/// How long one program may take. An unoptimised build on a loaded machine is far below it.
const RUN_MAX: Duration = Duration::from_secs(60);
/// Memory that one program may take.
const MEMORY_MAX: usize = 256 << 20;

/// One program at a time: memory is measured for the whole process.
static ONE: Mutex<()> = Mutex::new(());

fn check(program: &[u8]) -> Verdict {
    within_bounds(&format!("the program {}", hex(program)), |base, dir| {
        run(base, dir, program)
    })
}

/// In memory, where there is some: each restore waits until it is durable.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Does something with a store that may take neither too much time nor too much memory; `dir` is empty.
fn within_bounds<T: Send>(what: &str, work: impl FnOnce(&Base, &Path) -> T + Send) -> T {
    let base = base();
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = scratch();
    let (sent, done) = channel();
    std::thread::scope(|scope| {
        let path = dir.path();
        scope.spawn(move || {
            let ran = catch_unwind(AssertUnwindSafe(|| {
                meter::within(MEMORY_MAX, || work(base, path))
            }));
            let _ = sent.send(ran);
        });
        match done.recv_timeout(RUN_MAX) {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => panic!("{what} ends with a panic"),
            Err(_) => {
                // A thread cannot be ended.
                eprintln!("{what} takes more than {RUN_MAX:?}");
                std::process::abort();
            }
        }
    })
}

fn hex(program: &[u8]) -> String {
    program.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The program of a seed.
fn program(seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let len = 4 + dice.below(60) as usize;
    dice.bytes(len)
}

#[test]
fn a_store_that_is_signed_again_is_the_same() {
    let base = base();
    for (at, stage) in base.stages.iter().enumerate() {
        let mut medium = stage.medium.clone();
        resign(&mut medium, base.store);
        for (name, _) in stage.medium.durable_files() {
            let same = medium.bytes(&name) == stage.medium.bytes(&name);
            assert!(same, "stage {at}: {name} is another");
        }
    }
}

#[test]
fn a_store_that_nobody_has_changed_holds_everything() {
    // Every stage, with and without its index, and everything is done with it.
    for stage in 0..base().stages.len() as u8 {
        for first in [stage, stage | 8] {
            for deeds in [0xff, 0xfe, 0x02] {
                let verdict = check(&[first, deeds]);
                assert!(verdict.opened && !verdict.signed, "stage {stage}");
                assert!(verdict.entries >= 15, "stage {stage}: {verdict:?}");
            }
        }
    }
}

#[test]
fn i10_hundreds_of_changed_stores_do_no_harm() {
    let (mut opened, mut signed) = (0, 0);
    let mut harmful = Vec::new();
    let more = std::env::var("MMHFS_HOSTILE_SEEDS").ok();
    let more = more.map(|count| count.parse::<u64>().unwrap());
    for seed in 0..more.unwrap_or(SEEDS) {
        let program = program(seed);
        match catch_unwind(|| check(&program)) {
            Ok(verdict) => {
                opened += u32::from(verdict.opened);
                signed += u32::from(verdict.signed);
            }
            Err(_) => harmful.push(hex(&program)),
        }
    }
    assert!(harmful.is_empty(), "programs that do harm: {harmful:#?}");
    // Neither are all refused, nor is all that is refused found by checksums alone.
    assert!(u64::from(opened) > SEEDS / 10, "{opened} were opened");
    assert!(u64::from(signed) > SEEDS / 10, "{signed} were signed");
}

/// Runs the program that `MMHFS_HOSTILE` gives in hexadecimal digits: what a failure has printed.
#[test]
fn a_program_that_somebody_asks_for_does_no_harm() {
    let Ok(digits) = std::env::var("MMHFS_HOSTILE") else {
        return;
    };
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    println!("{:?}", check(&pairs.map(byte).collect::<Vec<u8>>()));
}
