//! `mmhfs forget`

use std::path::PathBuf;

use super::exit::Outcome;
use super::facts::ForgetFacts;
use super::request::{Answer, Policy, Request, mismatch};
use super::target::{Need, ask};
use super::ui::{Ui, count};

/// Delete snapshots by a policy: all that no rule keeps.
///
/// A rule keeps the newest snapshot of each of the newest N days, weeks (from Monday), months or years (UTC) that have
/// one. The space comes back with `mmhfs clean`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
    /// Keep the newest N
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_last: u32,
    /// Keep one for each of N days
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_daily: u32,
    /// Keep one for each of N weeks
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_weekly: u32,
    /// Keep one for each of N months
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_monthly: u32,
    /// Keep one for each of N years
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_yearly: u32,
    /// Keep those whose names fit a pattern with * and ?; may be given several times
    #[arg(long, value_name = "GLOB")]
    keep_name: Vec<String>,
    /// Delete nothing; only tell what would be
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let request = Request::Forget {
        policy: Policy {
            last: args.keep_last,
            daily: args.keep_daily,
            weekly: args.keep_weekly,
            monthly: args.keep_monthly,
            yearly: args.keep_yearly,
            names: args.keep_name.clone(),
        },
        dry_run: args.dry_run,
    };
    let need = if args.dry_run {
        Need::Read
    } else {
        Need::Write
    };
    match ask(ui, &args.store, need, &request)? {
        Answer::Forgotten(facts) => ui.show(&facts, human),
        other => Err(mismatch(&other)),
    }
}

fn human(facts: &ForgetFacts) -> String {
    let (verb, end) = match facts.dry_run {
        true => ("would delete", "would be deleted"),
        false => ("deleted", "deleted"),
    };
    let mut lines: Vec<String> = Vec::new();
    for info in &facts.kept {
        lines.push(format!("kept     {}  {}", info.created, info.name));
    }
    for info in &facts.removed {
        lines.push(format!("{verb}  {}  {}", info.created, info.name));
    }
    let removed = facts.removed.len() as u64;
    lines.push(format!("{} {end}", count(removed, "snapshot", "snapshots")));
    lines.join("\n")
}
