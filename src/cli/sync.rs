//! `mmhfs sync`

use std::path::PathBuf;

use super::exit::Outcome;
use super::request::Request;
use super::target::{Need, ask};
use super::ui::Ui;

/// Make everything durable that was written so far.
///
/// The kernel hands over what it holds back, then the store commits.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The mount point (or any path in it), or the store
    #[arg(value_name = "MNT")]
    path: PathBuf,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    ask(ui, &args.path, Need::Write, &Request::Sync).map(|_| ())
}
