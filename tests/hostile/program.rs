//! What is done to a store and then with it, as a few bytes say.
//!
//! 1. The first byte chooses the store and what is left of its index, the second what is done with it.
//! 2. Then come changes, each a byte for its kind and what that asks for, up to [`CHANGES_MAX`] of them.
//! 3. As long as no change has made a checksum right, a reader is shown only what was once there, or an error.

use std::path::Path;

use mmhfs::meta::MemoryTables;
use mmhfs::sim::{Medium, noise};

use super::base::Base;
use super::exercise::{Deeds, exercise};
use super::plant::{self, Choice, Commit};
use super::sign::resign;

/// More changes tell nothing new.
const CHANGES_MAX: usize = 24;
/// Bytes that a change adds to a file at most.
const GROWTH_MAX: usize = 20_000;

/// What came of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Checksums were made right after a change.
    pub signed: bool,
    /// The store could be opened.
    pub opened: bool,
    /// Entries that were seen.
    pub entries: usize,
}

/// Runs a program; `dir` is for the lock, and for what is restored.
pub fn run(base: &Base, dir: &Path, program: &[u8]) -> Verdict {
    let mut choice = Choice { bytes: program };
    let (first, deeds) = (choice.byte(), choice.byte());
    let at = usize::from(first & 7) % base.stages.len();
    let stage = &base.stages[at];
    let other = choice.below(base.stages.len());
    let index = match first >> 3 & 3 {
        0 => MemoryTables::default(),
        3 => base.stages[other].index.copy(),
        _ => stage.index.copy(),
    };
    let mut medium = stage.medium.clone();
    let mut signed = false;
    for _ in 0..CHANGES_MAX {
        if choice.is_empty() {
            break;
        }
        signed |= change(base, at, &mut medium, &mut choice);
    }
    let salt = program.iter().fold(7_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    let known = (!signed).then_some(&base.known);
    let seen = exercise(dir, (medium, index), known, Deeds::new(deeds, salt));
    Verdict {
        signed,
        opened: seen.is_some(),
        entries: seen.unwrap_or(0),
    }
}

/// Makes one change; `true` if checksums are right after it that were not before, or if it signed lies.
fn change(base: &Base, at: usize, medium: &mut Medium, choice: &mut Choice<'_>) -> bool {
    let kind = choice.byte() % 20;
    let rows = &base.stages[at].rows;
    let mut commit = Commit::default();
    match kind {
        12 => {
            resign(medium, base.store);
            return true;
        }
        13..=15 => {
            for _ in 0..=choice.byte() % 4 {
                plant::lie(rows, choice, &mut commit);
            }
            plant::append(base, medium, &commit);
            return true;
        }
        16..=17 => {
            for _ in 0..=choice.byte() % 4 {
                plant::distort(rows, choice, &mut commit);
            }
            plant::append(base, medium, &commit);
            return true;
        }
        18 => {
            plant::snapshot(rows, choice, &mut commit);
            plant::append(base, medium, &commit);
            return true;
        }
        _ => {}
    }
    change_file(kind, base, medium, choice);
    false
}

/// Changes the bytes or the name of a file.
fn change_file(kind: u8, base: &Base, medium: &mut Medium, choice: &mut Choice<'_>) {
    let files = medium.durable_files();
    let Some((name, _)) = files.get(choice.below(files.len())) else {
        return;
    };
    let mut bytes = medium.bytes(name).unwrap_or_default().to_vec();
    let place = place_in(&bytes, choice);
    match kind {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << (choice.byte() % 8);
            }
        }
        2 => {
            let number = choice.number().to_le_bytes();
            let count = 1 + usize::from(choice.byte() % 8);
            for (to, from) in bytes.iter_mut().skip(place).zip(number).take(count) {
                *to = from;
            }
        }
        3 => bytes.truncate(place),
        4 => {
            let count = choice.below(GROWTH_MAX);
            match choice.byte() % 3 {
                0 => bytes.resize(bytes.len() + count, 0),
                1 => bytes.extend(noise(u64::from(choice.byte()), count)),
                // The same again.
                _ => bytes.extend_from_within(place.max(bytes.len().saturating_sub(count))..),
            }
        }
        5 => {
            medium.lose(name);
            return;
        }
        // Under the name of another one, and under a name that nobody has.
        6 => {
            let (to, _) = &files[choice.below(files.len())];
            medium.put(to, bytes);
            return;
        }
        7 => {
            let number = choice.number() % 40;
            let kind = ["log", "dat", "log.tmp"][choice.below(3)];
            medium.put(&format!("packs/{number:016x}.{kind}"), bytes);
            return;
        }
        // Two blocks of the file change places; a block of another file is put over one.
        8 => {
            let (len, to) = (block(choice), place_in(&bytes, choice));
            let len = len.min(bytes.len() - place.max(to));
            let first = bytes[place..place + len].to_vec();
            bytes.copy_within(to..to + len, place);
            bytes[to..to + len].copy_from_slice(&first);
        }
        9 => {
            let (other, _) = &files[choice.below(files.len())];
            let other = medium.bytes(other).unwrap_or_default();
            let (len, from) = (block(choice), place_in(other, choice));
            for (to, from) in bytes.iter_mut().skip(place).zip(&other[from..]).take(len) {
                *to = *from;
            }
        }
        // As it was at another time.
        10 | 11 => {
            let stage = &base.stages[choice.below(base.stages.len())];
            match stage.medium.bytes(name) {
                Some(old) => bytes = old.to_vec(),
                None => {
                    medium.lose(name);
                    return;
                }
            }
        }
        _ => {
            for byte in bytes.iter_mut().skip(place).take(block(choice)) {
                *byte = 0;
            }
        }
    }
    medium.put(name, bytes);
}

/// A place in a file, more often near its start, its end, or the start of its pieces.
fn place_in(bytes: &[u8], choice: &mut Choice<'_>) -> usize {
    let small = choice.below(160);
    let last = bytes.len().saturating_sub(1);
    let place = match choice.byte() % 8 {
        0 => small,
        1 => last.saturating_sub(small),
        2 => 4096 + small,
        3..=5 => {
            // The n-th thing that begins like a piece.
            let nth = usize::from(choice.byte());
            let starts = bytes.chunks(8).enumerate();
            let starts = starts.filter(|(_, chunk)| chunk.starts_with(b"mmh"));
            let starts: Vec<usize> = starts.map(|(at, _)| at * 8).collect();
            let start = nth.checked_rem(starts.len()).map_or(0, |at| starts[at]);
            start + small
        }
        _ => {
            let high = usize::from(choice.byte()) << 16;
            (high | usize::from(choice.word())) % bytes.len().max(1)
        }
    };
    place.min(last)
}

fn block(choice: &mut Choice<'_>) -> usize {
    [8, 64, 512, 4096][choice.below(4)]
}
