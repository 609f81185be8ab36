//! `mmhfs init`

use std::path::PathBuf;

use super::exit::Outcome;
use super::mounts;
use super::options::parse_size;
use super::ui::Ui;
use crate::base::Env;
use crate::base::limits::PARITY_PERCENT_DEFAULT;
use crate::engine::{Engine, InitOptions};

/// Make a store in an empty or a new directory.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mmhfs init ~/store
  mmhfs init --pack-size 256M /srv/store
  mmhfs init --parity-dir /mnt/other-disk/parity /srv/store")]
pub(super) struct Args {
    /// The directory; made if it does not exist
    store: PathBuf,
    /// Capacity of a pack file, 4M to 1G [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pack_size: Option<u64>,
    /// Parity in percent of what it protects, 0 for none, to 100 [default: 7, which suffices for the loss of any one
    /// pack of a full group]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    parity: Option<u8>,
    /// Keep the parity files in this directory, on another disk perhaps; made if it does not exist
    #[arg(long, value_name = "DIR")]
    parity_dir: Option<PathBuf>,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let store = mounts::absolute(&args.store)?;
    let mut options = InitOptions::default();
    if let Some(size) = args.pack_size {
        options.pack_capacity = size;
    }
    options.parity_percent = args.parity;
    if let Some(dir) = &args.parity_dir {
        options.parity_dir = Some(mounts::absolute(dir)?);
    }
    Engine::init(&store, &Env::real(), &options)?;
    if ui.json {
        return ui.document(&serde_json::json!({
            "store": store.display().to_string(),
            "pack_capacity": options.pack_capacity,
            "parity": args.parity.unwrap_or(PARITY_PERCENT_DEFAULT),
            "parity_dir": options.parity_dir.as_ref().map(|dir| dir.display().to_string()),
        }));
    }
    ui.note(format_args!("{} is a store now", store.display()));
    Ok(())
}
