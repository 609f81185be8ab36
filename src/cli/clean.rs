//! `mmhfs clean`

use std::path::PathBuf;

use super::exit::{Exit, Failure, Outcome};
use super::facts::CleanFacts;
use super::request::{Answer, Request, mismatch};
use super::target::{Need, ask};
use super::ui::{Ui, count, size};

/// Give the space of deleted files and snapshots back to the disk.
///
/// Works while the store is mounted. Packs of which little is needed any more are rewritten; a pack that cannot be read
/// stays, and the exit code is 5 then.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
    /// Change nothing; only tell what is needed, what would be given back, and what nothing refers to
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Leave so much that is not needed, in percent of what is: less rewrites more [default: 5]
    #[arg(long, value_name = "PERCENT")]
    max_unused: Option<u64>,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let request = Request::Clean {
        dry_run: args.dry_run,
        max_unused: args.max_unused,
    };
    let need = if args.dry_run {
        Need::Read
    } else {
        Need::Write
    };
    match ask(ui, &args.store, need, &request)? {
        Answer::Cleaned(facts) => {
            ui.show(&facts, human)?;
            if facts.kept.is_empty() {
                return Ok(());
            }
            let what = count(facts.kept.len() as u64, "pack stays", "packs stay");
            Err(Failure::new(Exit::Damage, what))
        }
        other => Err(mismatch(&other)),
    }
}

fn human(facts: &CleanFacts) -> String {
    let mut lines = vec![
        format!("live       {}", size(facts.live_bytes)),
        format!(
            "pending    {} of what was deleted",
            size(facts.pending_bytes)
        ),
        format!("leaked     {} that nothing names", size(facts.leaked_bytes)),
        format!("log        {}", size(facts.log_bytes)),
    ];
    if !facts.dry_run {
        lines.push(format!(
            "removed    {}, {}; moved {}",
            count(facts.packs_removed, "pack", "packs"),
            size(facts.freed_bytes),
            size(facts.moved_bytes)
        ));
        lines.push(format!(
            "packs      {}, before {}",
            size(facts.pack_bytes_after),
            size(facts.pack_bytes_before)
        ));
    }
    lines.extend(facts.kept.iter().map(|why| format!("kept       {why}")));
    lines.join("\n")
}
