//! `mmhfs snapshot`

use std::path::PathBuf;

use super::exit::Outcome;
use super::request::{Answer, Request, mismatch};
use super::target::{Need, ask};
use super::ui::Ui;

/// Take a snapshot of the whole tree and print its seed.
///
/// The seed names every byte, name and attribute of the tree; `mmhfs seed` computes the same one from plain files.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mmhfs snapshot ~/data v1
  seed=$(mmhfs snapshot ~/data)     the name is made of the time")]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
    /// Its name [default: the UTC time]
    name: Option<String>,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let request = Request::Snapshot {
        name: args.name.clone(),
    };
    match ask(ui, &args.store, Need::Write, &request)? {
        Answer::Snapshot(facts) => ui.show(&facts, |facts| facts.seed.clone()),
        other => Err(mismatch(&other)),
    }
}
