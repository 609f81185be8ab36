//! `mmhfs diff`

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::exit::{Exit, Failure, Outcome};
use super::facts::DiffFacts;
use super::request::{Event, Request};
use super::target::{Need, ask_with, show_progress};
use super::ui::Ui;

/// Show what differs between two snapshots, or between a snapshot and the live tree.
///
/// One line per path: `+` added, `-` removed, `M` contents changed, `U` only attributes changed, `R` renamed.
/// With --json one object per line.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mmhfs diff ~/store v1 v2
  mmhfs diff ~/data v1           what has changed since v1
  mmhfs diff --exit-code ~/data v1 >/dev/null || echo changed")]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
    /// The older snapshot: name or seed
    from: String,
    /// The newer snapshot [default: the live tree]
    to: Option<String>,
    /// Exit with code 20 if there are differences
    #[arg(long)]
    exit_code: bool,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let request = Request::Diff {
        from: args.from.clone(),
        to: args.to.clone(),
    };
    let found = AtomicU64::new(0);
    ask_with(
        ui,
        &args.store,
        Need::Read,
        &request,
        &|event| match event {
            Event::Diff(item) => {
                found.fetch_add(1, Ordering::Relaxed);
                ui.show(&item, line)
            }
            other => show_progress(ui, other),
        },
    )?;
    if args.exit_code && found.load(Ordering::Relaxed) > 0 {
        return Err(Failure::new(Exit::Differences, "the trees differ"));
    }
    Ok(())
}

fn line(item: &DiffFacts) -> String {
    let path = item.path.shown();
    match (item.change.as_str(), &item.from) {
        ("added", _) => format!("+ {path}"),
        ("removed", _) => format!("- {path}"),
        ("attributes", _) => format!("U {path}"),
        ("renamed", Some(from)) => format!("R {} -> {path}", from.shown()),
        _ => format!("M {path}"),
    }
}
