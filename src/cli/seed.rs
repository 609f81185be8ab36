//! `mmhfs seed`

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::Serialize;

use super::exit::Outcome;
use super::facts::ProgressFacts;
use super::ui::Ui;
use crate::engine::{PlainSeedOptions, seed_of_dir};

/// Compute the seed of a plain directory: the one that a snapshot of the same tree has.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mmhfs seed ~/out
  mmhfs seed --content ~/out     of names and bytes only: the same for everybody who holds the same data")]
pub(super) struct Args {
    /// The directory
    dir: PathBuf,
    /// Print the content digest (mmc1…), which ignores times, owners and other attributes
    #[arg(long)]
    content: bool,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

#[derive(Serialize)]
struct Facts {
    seed: String,
    content: String,
    dna: String,
    files: u64,
    dirs: u64,
    bytes: u64,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let options = PlainSeedOptions {
        threads: args.threads,
    };
    let found = seed_of_dir(&args.dir, &options, &|now| {
        ui.progress(ProgressFacts {
            entries: now.files_done,
            entries_total: now.files_total,
            bytes: now.bytes_done,
            bytes_total: now.bytes_total,
        });
    });
    ui.progress_done();
    let found = found?;
    let facts = Facts {
        seed: found.seed.to_string(),
        content: found.content.to_string(),
        dna: found.dna(),
        files: found.files,
        dirs: found.dirs,
        bytes: found.bytes,
    };
    ui.show(&facts, |facts| {
        if args.content {
            facts.content.clone()
        } else {
            facts.seed.clone()
        }
    })
}
