//! `mmhfs rollback`

use std::path::PathBuf;

use super::exit::{Exit, Failure, Outcome};
use super::target;
use super::ui::Ui;
use crate::engine::Config;

/// Make the live tree what it was in a snapshot. The store must not be mounted.
///
/// What the live tree holds now is lost unless a snapshot has it: take one first.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Example:
  mmhfs umount ~/data && mmhfs snapshot ~/store before && mmhfs rollback ~/store v1")]
pub(super) struct Args {
    /// The store
    store: PathBuf,
    /// The snapshot: name or seed
    snapshot: String,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let store = target::store_of(&args.store)?;
    let engine = target::open(&store, &Config::default()).map_err(|mut failure| {
        if failure.exit == Exit::Locked {
            failure = Failure::new(
                Exit::Locked,
                format!("{}; unmount it first", failure.message),
            );
        }
        failure
    })?;
    let done = engine.resolve(&args.snapshot).and_then(|info| {
        engine.rollback(&args.snapshot)?;
        Ok(info)
    });
    let closed = engine.close();
    let info = done?;
    closed?;
    if ui.json {
        return ui.document(&serde_json::json!({ "name": info.name, "seed": info.seed }));
    }
    ui.note(format_args!("the live tree is that of {} again", info.name));
    Ok(())
}
