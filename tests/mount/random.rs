//! Random sequences of system calls, on a mount and on a directory of an ordinary filesystem: each call has the
//! same result on both, and both trees are the same after every sequence and after a remount.
//!
//! `MMHFS_SEQUENCES` makes more of them, `MMHFS_SEED` starts elsewhere. A difference is shown with its seed and
//! with the shortest part of its sequence that still shows one.

use std::path::Path;

use tempfile::TempDir;

use crate::calls::{Call, Side, sequence};
use crate::dice::Dice;
use crate::store::MountedStore;
use crate::trees::{Tree, tree};

/// Sequences of one run, and how many share a mount.
const SEQUENCES: u64 = 300;
const SEQUENCES_PER_MOUNT: u64 = 30;
/// Calls of one sequence.
const CALLS: usize = 60;
/// Attempts at a shorter sequence that shows the same difference.
const SHORTER_MAX: usize = 400;

/// A mount, and a directory beside it for the same calls.
struct Pair {
    store: MountedStore,
    plain: TempDir,
}

/// One sequence's directories in both.
struct Sides {
    name: String,
    ours: Side,
    theirs: Side,
    /// Snapshots that were taken, with the tree that each one has.
    snapshots: Vec<(String, Tree)>,
}

impl Pair {
    fn new() -> Self {
        Self {
            store: MountedStore::new(),
            plain: tempfile::Builder::new()
                .prefix("mmhfs-plain-")
                .tempdir()
                .unwrap(),
        }
    }

    fn sides(&self, name: &str) -> Sides {
        Sides {
            name: name.to_owned(),
            ours: Side::new(self.store.path(name)),
            theirs: Side::new(self.plain.path().join(name)),
            snapshots: Vec::new(),
        }
    }

    /// Runs the calls; the first difference ends it.
    fn run(&mut self, sides: &mut Sides, calls: &[Call]) -> Result<(), String> {
        for (at, call) in calls.iter().enumerate() {
            match call {
                Call::Remount => {
                    sides.ours.close();
                    sides.theirs.close();
                    self.store.remount();
                    same_trees(&self.store.path(&sides.name), &sides.theirs, "remount")?;
                }
                Call::Snapshot => {
                    let taken = self.store.snapshot();
                    sides.snapshots.push((taken, tree(sides.theirs.root())));
                }
                call => {
                    let (ours, theirs) = (sides.ours.run(call), sides.theirs.run(call));
                    if ours != theirs {
                        return Err(format!(
                            "call {at}, {call:?}: {ours} on the mount, {theirs} on the other"
                        ));
                    }
                }
            }
        }
        same_trees(sides.ours.root(), &sides.theirs, "the sequence")?;
        sides.ours.close();
        sides.theirs.close();
        self.compare(sides, "closing")
    }

    /// Compares the trees, and the snapshots with what they were taken of.
    fn compare(&self, sides: &Sides, after: &str) -> Result<(), String> {
        same_trees(sides.ours.root(), &sides.theirs, after)?;
        for (name, taken) in &sides.snapshots {
            let shown = self
                .store
                .path(".mmhfs/snapshots")
                .join(name)
                .join(&sides.name);
            let difference = tree(&shown).difference(taken);
            if let Some(difference) = difference {
                return Err(format!("snapshot {name}, after {after}: {difference}"));
            }
        }
        Ok(())
    }
}

fn same_trees(ours: &Path, theirs: &Side, after: &str) -> Result<(), String> {
    match tree(ours).difference(&tree(theirs.root())) {
        Some(difference) => Err(format!("after {after}: {difference}")),
        None => Ok(()),
    }
}

/// What a sequence does on a mount of its own, a remount at the end included.
fn difference_of(calls: &[Call]) -> Option<String> {
    let mut pair = Pair::new();
    let mut sides = pair.sides("alone");
    let outcome = pair.run(&mut sides, calls).and_then(|()| {
        pair.store.remount();
        pair.compare(&sides, "a remount")
    });
    outcome.err()
}

/// Shows a difference: its seed and the shortest sequence found by leaving parts out.
fn fail(seed: u64, mut calls: Vec<Call>, difference: String) -> ! {
    let Some(mut shown) = difference_of(&calls) else {
        panic!("seed {seed}, only after other sequences on the same mount: {difference}");
    };
    let (mut part, mut tries) = (calls.len() / 2, 0);
    while part > 0 && tries < SHORTER_MAX {
        let mut at = 0;
        while at < calls.len() && tries < SHORTER_MAX {
            let mut shorter = calls.clone();
            shorter.drain(at..(at + part).min(shorter.len()));
            tries += 1;
            match difference_of(&shorter) {
                Some(difference) => (calls, shown) = (shorter, difference),
                None => at += part,
            }
        }
        part /= 2;
    }
    let list: Vec<String> = calls.iter().map(|call| format!("  {call:?}")).collect();
    panic!("seed {seed}: {shown}\n{}", list.join("\n"));
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn random_calls_do_on_a_mount_what_they_do_on_an_ordinary_filesystem() {
    let first = number("MMHFS_SEED", 1);
    let last = first + number("MMHFS_SEQUENCES", SEQUENCES);
    let mut next = first;
    while next < last {
        let mut pair = Pair::new();
        let mut done = Vec::new();
        while next < last && (done.len() as u64) < SEQUENCES_PER_MOUNT {
            let calls = sequence(&mut Dice(next), CALLS);
            let mut sides = pair.sides(&format!("s{next}"));
            if let Err(difference) = pair.run(&mut sides, &calls) {
                drop(pair);
                fail(next, calls, difference);
            }
            done.push((next, calls, sides));
            next += 1;
        }
        pair.store.remount();
        for (seed, calls, sides) in done {
            if let Err(difference) = pair.compare(&sides, "a remount") {
                drop(pair);
                fail(seed, calls, difference);
            }
        }
    }
}
