//! Many histories, many crashes in each; how many is set in the environment (see scripts/soak).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mmhfs::sim::Dice;

use crate::history::{play, scratch};
use crate::recovery::{Point, Tally, rocks};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[derive(Default)]
struct Totals {
    points: u64,
    failures: u64,
    seeds: u64,
    faulty: u64,
    faults: u64,
    labels: BTreeMap<String, u64>,
    tally: Tally,
}

/// Everything of a run happens on one thread: with more, reads would come in another order each time.
fn on_one_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.unwrap().install(work)
}

/// How many crash points one history gets.
const POINTS_OF_A_SEED: u64 = 64;

/// So many failures are told before a run gives up.
const FAILURES_MAX: u64 = 10;

/// Plays one history and crashes it at up to `count` steps.
fn crash_one(seed: u64, count: u64, only: Option<u64>, totals: &mut Totals) {
    let dir = scratch();
    let run = match catch_unwind(AssertUnwindSafe(|| play(seed, &dir))) {
        Ok(run) => run,
        Err(_) => {
            println!("FAILED seed {seed}: the history itself, see above");
            totals.failures += 1;
            return;
        }
    };
    totals.seeds += 1;
    totals.faults += run.faults;
    totals.faulty += u64::from(run.faults > 0);
    let mut dice = Dice(seed ^ 0xc4a5_4000);
    for nth in 0..count {
        let shot = &run.film[dice.below(run.film.len() as u64) as usize];
        let chance = Dice(dice.word());
        if only.is_some_and(|only| only != nth) {
            continue;
        }
        let point = Point {
            run: &run,
            shot,
            dice: chance,
            dir: &dir,
            tally: &mut totals.tally,
        };
        totals.points += 1;
        *totals.labels.entry(shot.label.clone()).or_default() += 1;
        let outcome = catch_unwind(AssertUnwindSafe(|| point.check()));
        let text = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(text)) => text,
            Err(_) => "a panic, see above".to_owned(),
        };
        let last = run.log.len().saturating_sub(60);
        if totals.failures == 0 || only.is_some() {
            println!("history of seed {seed}:\n{}", run.log[last..].join("\n"));
        }
        println!(
            "FAILED seed {seed} point {nth}: crash at step {} ({}): {text}\n\
             replay it with: scripts/soak --replay {seed}:{nth}",
            shot.step, shot.label
        );
        totals.failures += 1;
    }
}

fn report(totals: &Totals) {
    println!(
        "{} crash points in {} histories, {} of them with faults ({} faults)",
        totals.points, totals.seeds, totals.faulty, totals.faults
    );
    println!("{:?}", totals.tally);
    for (label, count) in &totals.labels {
        println!("{count:8} at {label}");
    }
    println!("{} distinct kinds of disk calls", totals.labels.len());
}

/// `MMHFS_CRASH_POINTS`: how many; `MMHFS_CRASH_SEED`: the first seed; `MMHFS_CRASH_REPLAY=SEED[:POINT]`.
#[test]
fn i11_after_any_crash_the_tree_is_a_prefix_that_holds_everything_confirmed() {
    let replay = std::env::var("MMHFS_CRASH_REPLAY").ok();
    if replay.is_some() {
        // What the store says, as far as RUST_LOG asks for it.
        let _ = env_logger::try_init();
    }
    let points = number("MMHFS_CRASH_POINTS").unwrap_or(15_000);
    let mut seed = number("MMHFS_CRASH_SEED").unwrap_or(1);
    on_one_thread(move || {
        let mut totals = Totals::default();
        if let Some(text) = replay {
            let (seed, point) = text.split_once(':').unwrap_or((&text, ""));
            let (seed, point) = (seed.parse().unwrap(), point.parse().ok());
            crash_one(seed, POINTS_OF_A_SEED, point, &mut totals);
        } else {
            let mut told = 0;
            while totals.points < points && totals.failures < FAILURES_MAX {
                let count = POINTS_OF_A_SEED.min(points - totals.points);
                crash_one(seed, count, None, &mut totals);
                seed += 1;
                if totals.points - told >= 5_000 {
                    told = totals.points;
                    println!("{told} points, next seed {seed}");
                }
            }
        }
        report(&totals);
        assert_eq!(totals.failures, 0, "crash points that lost something");
    });
}

/// The index that users have.
#[test]
fn i12_an_index_in_rocksdb_that_is_old_damaged_or_gone_changes_nothing() {
    let count = number("MMHFS_CRASH_ROCKS").unwrap_or(40);
    on_one_thread(move || {
        for seed in 1..=count {
            let run = play(seed, &scratch());
            if let Err(text) = rocks(&run, Dice(seed)) {
                panic!("seed {seed}: {text}");
            }
        }
    });
}

/// One seed, one run: the same calls of the disk in the same order, and the same trees.
#[test]
fn the_same_seed_gives_the_same_run() {
    on_one_thread(|| {
        for seed in 1..40 {
            let once = || {
                let run = play(seed, &scratch());
                let states: Vec<u64> = run.states.iter().map(|state| state.hash()).collect();
                (run.calls, states, run.log)
            };
            let (first, second) = (once(), once());
            assert_eq!(first.2, second.2, "seed {seed}: the operations differ");
            assert!(first == second, "seed {seed}: the calls differ");
        }
    });
}
