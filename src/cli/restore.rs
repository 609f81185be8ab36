//! `mmhfs restore`

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::exit::{Exit, Failure, Outcome};
use super::facts::{RestoreFacts, Text};
use super::mounts;
use super::request::{Answer, Request, mismatch, text_of};
use super::target::{Need, ask};
use super::ui::{Ui, count, size};

/// Write a snapshot as plain files, without a mount and without root.
///
/// Owners and device files need root; what could not be restored is told as a warning. What is damaged is left out and
/// listed, everything else is restored, and the exit code is 5.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mmhfs restore ~/store mmh1… ~/out
  mmhfs restore ~/store v1 ~/out --path models/base
  mmhfs restore --resume ~/store v1 ~/out       after an interruption")]
pub(super) struct Args {
    /// The store, or a mount point of it
    store: PathBuf,
    /// The snapshot: name, seed or content digest
    seed: String,
    /// Where to; made if it does not exist
    dest: PathBuf,
    /// Only this path of the tree
    #[arg(long)]
    path: Option<PathBuf>,
    /// Go on with a restore that was interrupted: keep what is right already
    #[arg(long)]
    resume: bool,
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

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let path = args.path.as_ref();
    let request = Request::Restore {
        text: args.seed.clone(),
        path: path.map(|p| Text::new(p.as_os_str().as_bytes())),
        dest: text_of(&mounts::absolute(&args.dest)?),
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
