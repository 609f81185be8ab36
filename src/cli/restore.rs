//! `mmhfs restore`

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::exit::Outcome;
use super::facts::Text;
use super::mounts;
use super::request::{Answer, Request, mismatch, text_of};
use super::target::{Need, ask};
use super::ui::{Ui, count, size};

/// Write a snapshot as plain files, without a mount and without root.
///
/// Owners and device files need root; what could not be restored is told as a warning.
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
            ui.show(&facts, |facts| {
                format!(
                    "restored {}, {}",
                    count(facts.entries, "entry", "entries"),
                    size(facts.bytes)
                )
            })
        }
        other => Err(mismatch(&other)),
    }
}
