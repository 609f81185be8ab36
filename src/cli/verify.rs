//! `mmhfs verify`

use std::path::PathBuf;

use super::exit::Outcome;
use super::report;
use super::request::Request;
use super::target::{Need, ask};
use super::ui::Ui;

/// Recompute a snapshot's seed from its stored bytes; exit code 5 if anything is damaged.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
    /// The snapshot: name, seed or content digest
    seed: String,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let request = Request::Verify {
        text: args.seed.clone(),
    };
    report::show(ui, ask(ui, &args.store, Need::Read, &request)?)
}
