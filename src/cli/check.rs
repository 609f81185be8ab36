//! `mmhfs check`

use std::path::PathBuf;

use serde::Serialize;

use super::control::Client;
use super::exit::{Exit, Failure, Outcome};
use super::facts::ReportFacts;
use super::report;
use super::request::Request;
use super::scrub;
use super::target::{Need, ask, retry, store_of};
use super::ui::{Ui, count};
use crate::engine::{Config, Engine};

/// Read everything in the store and check it; exit code 5 if anything is damaged.
///
/// Names each damaged pack with its offset, and the files that cannot be read because of it. With --repair it first does what
/// `scrub --repair` does, and makes the index anew if that leaves problems and the store is not mounted: the index is made
/// of the log, which is never changed. Then the exit code is 21 if all that was found is repaired.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
    /// Repair what can be derived from what is intact
    #[arg(long)]
    repair: bool,
}

/// What `check --repair` found and did.
#[derive(Serialize)]
struct RepairFacts {
    #[serde(flatten)]
    report: ReportFacts,
    /// Files that were repaired.
    repaired: Vec<String>,
    /// Where damaged files are kept that were replaced.
    quarantined: Vec<String>,
    /// Whether the index was made anew.
    index_rebuilt: bool,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    if !args.repair {
        return report::show(ui, ask(ui, &args.store, Need::Read, &Request::Check)?);
    }
    let facts = repair(ui, args)?;
    ui.show(&facts, human)?;
    report::outcome(&facts.report)?;
    if facts.repaired.is_empty() && !facts.index_rebuilt {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Repaired,
        "damage was found, all repaired",
    ))
}

fn repair(ui: &Ui, args: &Args) -> Outcome<RepairFacts> {
    let scrubbed = scrub::repair(ui, &args.store)?;
    let mut facts = RepairFacts {
        report: check(ui, args)?,
        repaired: scrubbed.repaired_files(),
        quarantined: scrubbed.quarantined,
        index_rebuilt: false,
    };
    let store = store_of(&args.store)?;
    if facts.report.problems.is_empty() {
        return Ok(facts);
    }
    if Client::connect(&store)?.is_some() {
        ui.note("the store is mounted: its index is not made anew");
        return Ok(facts);
    }
    // The old index stays unless the new one is complete.
    match retry(&store, || Engine::rebuild_index(&store, &Config::default())) {
        Ok(_) => {
            facts.index_rebuilt = true;
            facts.report = check(ui, args)?;
        }
        Err(failure) => ui.note(format_args!(
            "the index cannot be made anew: {}",
            failure.message
        )),
    }
    Ok(facts)
}

fn check(ui: &Ui, args: &Args) -> Outcome<ReportFacts> {
    report::of(ask(ui, &args.store, Need::Read, &Request::Check)?)
}

fn human(facts: &RepairFacts) -> String {
    let mut lines: Vec<String> = Vec::new();
    lines.extend(
        facts
            .repaired
            .iter()
            .map(|file| format!("repaired: {file}")),
    );
    lines.extend(
        facts
            .quarantined
            .iter()
            .map(|name| format!("kept as {name}")),
    );
    if facts.index_rebuilt {
        lines.push("the index was made anew".to_owned());
    }
    if !facts.repaired.is_empty() {
        let files = facts.repaired.len() as u64;
        lines.push(format!("repaired {}", count(files, "file", "files")));
    }
    lines.push(report::human(&facts.report));
    lines.join("\n")
}
