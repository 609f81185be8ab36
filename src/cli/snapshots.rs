//! `mmhfs snapshots`

use std::path::PathBuf;

use super::exit::Outcome;
use super::facts::SnapshotFacts;
use super::request::{Answer, Request, mismatch};
use super::target::{Need, ask};
use super::ui::{Ui, size};

/// List the snapshots, oldest first: time, entries, size, name and seed.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
    /// Show only this one: its name, seed, content digest or short form
    snapshot: Option<String>,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let request = match &args.snapshot {
        Some(text) => Request::Resolve { text: text.clone() },
        None => Request::Snapshots,
    };
    let list = match ask(ui, &args.store, Need::Read, &request)? {
        Answer::Snapshots(list) => list,
        Answer::Snapshot(one) => vec![one],
        other => return Err(mismatch(&other)),
    };
    ui.show(&list, |list| {
        let width = list
            .iter()
            .map(|s| s.name.chars().count())
            .max()
            .unwrap_or(0);
        let rows: Vec<String> = list.iter().map(|s| row(s, width)).collect();
        rows.join("\n")
    })
}

fn row(snapshot: &SnapshotFacts, width: usize) -> String {
    format!(
        "{}  {:>9}  {:>9}  {:width$}  {}",
        snapshot.created,
        snapshot.entries,
        size(snapshot.bytes),
        snapshot.name,
        snapshot.seed,
    )
}
