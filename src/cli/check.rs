//! `mmhfs check`

use std::path::PathBuf;

use super::exit::Outcome;
use super::report;
use super::request::Request;
use super::target::{Need, ask};
use super::ui::Ui;

/// Read everything in the store and check it; exit code 5 if anything is damaged.
///
/// Names each damaged pack with its offset, and the files that cannot be read because of it.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    report::show(ui, ask(ui, &args.store, Need::Read, &Request::Check)?)
}
