//! `mmhfs cat`

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::exit::Outcome;
use super::facts::Text;
use super::request::{Event, Request};
use super::target::{Need, ask_with, show_progress};
use super::ui::Ui;

/// Print a file of a snapshot, without mounting it.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
    /// The snapshot: name, seed or content digest
    seed: String,
    /// The file
    path: PathBuf,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let request = Request::Cat {
        text: Some(args.seed.clone()),
        path: Text::new(args.path.as_os_str().as_bytes()),
    };
    ask_with(
        ui,
        &args.store,
        Need::Read,
        &request,
        &|event| match event {
            Event::Data(bytes) => ui.bytes(&bytes),
            other => show_progress(ui, other),
        },
    )
    .map(|_| ())
}
