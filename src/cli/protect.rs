//! `mmhfs protect`

use std::path::PathBuf;

use super::exit::{Exit, Failure, Outcome};
use super::facts::ProtectFacts;
use super::request::{Answer, Request, mismatch};
use super::target::{Need, ask};
use super::ui::{Ui, count};

/// Give everything that is stored parity now, instead of in the background.
///
/// A mounted store does this by itself within a minute or so, and when it is unmounted. Packs that are being written are
/// finished first. A pack that is damaged and cannot be repaired gets none; it is named, and the exit code is 5 then.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    match ask(ui, &args.store, Need::Write, &Request::Protect)? {
        Answer::Protected(facts) => {
            ui.show(&facts, human)?;
            if facts.refused.is_empty() {
                return Ok(());
            }
            let what = count(
                facts.refused.len() as u64,
                "pack has no parity",
                "packs have no parity",
            );
            Err(Failure::new(Exit::Damage, what))
        }
        other => Err(mismatch(&other)),
    }
}

fn human(facts: &ProtectFacts) -> String {
    let mut lines = vec![format!(
        "{} parity of their own, {} made, {} removed, {} repaired",
        count(facts.covered, "pack got", "packs got"),
        count(facts.groups, "group", "groups"),
        count(facts.removed, "file", "files"),
        count(facts.repaired, "pack", "packs"),
    )];
    lines.extend(facts.refused.iter().map(|why| format!("refused    {why}")));
    lines.join("\n")
}
