//! `mmhfs rebuild-index`

use std::path::PathBuf;

use super::exit::Outcome;
use super::target;
use super::ui::{Ui, count};
use crate::engine::{Config, Engine};

/// Make the index anew from the packs. The store must not be mounted.
///
/// The index is derived data: opening a store without one does the same by itself.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The store
    store: PathBuf,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let store = target::store_of(&args.store)?;
    let records = target::retry(&store, || Engine::rebuild_index(&store, &Config::default()))?;
    ui.show(&serde_json::json!({ "records": records }), |_| {
        format!("replayed {}", count(records, "record", "records"))
    })
}
