//! `mmhfs delete-snapshot`

use std::path::PathBuf;

use super::exit::Outcome;
use super::request::Request;
use super::target::{Need, ask};
use super::ui::Ui;

/// Delete snapshots by name. The live tree and other snapshots are not touched.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
    /// Their names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    for name in &args.names {
        ask(
            ui,
            &args.store,
            Need::Write,
            &Request::Delete { name: name.clone() },
        )?;
    }
    if ui.json {
        return ui.document(&serde_json::json!({ "deleted": args.names }));
    }
    Ok(())
}
