//! `mmhfs restore`

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::exit::{Exit, Failure, Outcome};
use super::facts::{RestoreFacts, Text};
use super::mounts;
use super::request::{Answer, Request, mismatch, text_of};
use super::salvage;
use super::target::{Need, ask};
use super::ui::{Ui, count, size};
use crate::engine::SalvageOptions;

/// Write a snapshot as plain files, without a mount and without root.
///
/// Owners and device files need root; what could not be restored is told as a warning. What is damaged is left out and
/// listed, everything else is restored, and the exit code is 5.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mmhfs restore ~/store mmh1… ~/out
  mmhfs restore ~/store v1 ~/out --path models/base
  mmhfs restore --resume ~/store v1 ~/out       after an interruption
  mmhfs restore --salvage ~/store v1 ~/out      from a store that is too damaged to be opened
  mmhfs restore --salvage --live ~/store ~/out  its live tree")]
pub(super) struct Args {
    /// The store, or a mount point of it
    store: PathBuf,
    /// The snapshot: name, seed or content digest; with --live not given
    #[arg(value_name = "SEED")]
    seed: String,
    /// Where to; made if it does not exist
    #[arg(value_name = "DEST")]
    dest: Option<PathBuf>,
    /// Only this path of the tree
    #[arg(long, conflicts_with = "salvage")]
    path: Option<PathBuf>,
    /// Go on with a restore that was interrupted: keep what is right already
    #[arg(long, conflicts_with = "salvage")]
    resume: bool,
    /// Get every intact byte out of a store that is too damaged to be opened, without writing to it: damaged files get
    /// holes, and all of them are listed
    #[arg(long)]
    salvage: bool,
    /// With --salvage: the live tree instead of a snapshot
    #[arg(long, requires = "salvage")]
    live: bool,
    /// With --salvage: a directory that does not exist, for an index that is made for the time being [default: beside DEST]
    #[arg(long, value_name = "DIR", requires = "salvage")]
    scratch: Option<PathBuf>,
}

fn human(facts: &RestoreFacts) -> String {
    let damaged = facts.damaged.iter().map(|path| format!("damaged: {path}"));
    let mut lines: Vec<String> = damaged.collect();
    if facts.damaged_more > 0 {
        lines.push(format!("and {} more damaged paths", facts.damaged_more));
    }
    lines.push(format!(
        "restored {}, {}",
        count(facts.entries, "entry", "entries"),
        size(facts.bytes)
    ));
    lines.join("\n")
}

/// The snapshot and the destination among what was given.
fn places(args: &Args) -> Outcome<(Option<String>, PathBuf)> {
    match (args.live, &args.dest) {
        (false, Some(dest)) => Ok((Some(args.seed.clone()), dest.clone())),
        (true, None) => Ok((None, PathBuf::from(&args.seed))),
        (false, None) => Err(Failure::usage("restore needs a snapshot and a destination")),
        (true, Some(_)) => Err(Failure::usage("--live takes the place of the snapshot")),
    }
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let (seed, dest) = places(args)?;
    if args.salvage {
        let options = SalvageOptions {
            snapshot: seed,
            scratch: args.scratch.clone(),
            overwrite: false,
        };
        return salvage::run(ui, &args.store, options, &dest);
    }
    let path = args.path.as_ref();
    let request = Request::Restore {
        text: seed.unwrap_or_default(),
        path: path.map(|p| Text::new(p.as_os_str().as_bytes())),
        dest: text_of(&mounts::absolute(&dest)?),
        resume: args.resume,
    };
    match ask(ui, &args.store, Need::Read, &request)? {
        Answer::Restored(facts) => {
            for warning in &facts.warnings {
                ui.note(warning);
            }
            ui.show(&facts, human)?;
            match facts.damaged.len() as u64 + facts.damaged_more {
                0 => Ok(()),
                n => Err(Failure::new(
                    Exit::Damage,
                    count(n, "path is damaged", "paths are damaged") + " and not restored",
                )),
            }
        }
        other => Err(mismatch(&other)),
    }
}
