//! `mmhfs init`

use std::path::PathBuf;

use super::exit::Outcome;
use super::mounts;
use super::options::parse_size;
use super::ui::Ui;
use crate::base::Env;
use crate::engine::{Engine, InitOptions};

/// Make a store in an empty or a new directory.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mmhfs init ~/store
  mmhfs init --pack-size 256M /srv/store")]
pub(super) struct Args {
    /// The directory; made if it does not exist
    store: PathBuf,
    /// Capacity of a pack file, 4M to 1G [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pack_size: Option<u64>,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let store = mounts::absolute(&args.store)?;
    let mut options = InitOptions::default();
    if let Some(size) = args.pack_size {
        options.pack_capacity = size;
    }
    Engine::init(&store, &Env::real(), &options)?;
    if ui.json {
        return ui.document(&serde_json::json!({
            "store": store.display().to_string(),
            "pack_capacity": options.pack_capacity,
        }));
    }
    ui.note(format_args!("{} is a store now", store.display()));
    Ok(())
}
