//! `mmhfs scrub`

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::control::Client;
use super::exit::{Exit, Failure, Outcome};
use super::options::parse_size;
use super::request::{Answer, Request, mismatch};
use super::target::{Need, ask, retry, store_of};
use super::ui::{Ui, count, size};
use crate::engine::{Config, DamageState, Engine, ScrubDamage, ScrubReport};

/// Read every stored byte and find what has rotted; with --repair bring it back from parity.
///
/// Exit code 0: nothing was damaged; 21: something was, and all of it is repaired; 5: damage is left. What is damaged is
/// never deleted: repair moves it to STORE/quarantine. Works while the store is mounted and used; when it is interrupted
/// the next one goes on there.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mmhfs scrub ~/store
  mmhfs scrub ~/data --repair --rate 50M/s")]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
    /// Repair what parity allows, and write damaged copies of superblocks, checkpoints and parity files anew
    #[arg(long)]
    repair: bool,
    /// Read so many bytes in a second at most
    #[arg(long, value_name = "SIZE/s", value_parser = parse_rate)]
    rate: Option<u64>,
    /// Begin anew, and not where a scrub was interrupted
    #[arg(long)]
    restart: bool,
}

/// What `scrub` found and did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ScrubFacts {
    pub(super) packs: u64,
    pub(super) bytes: u64,
    /// Packs that no parity covers.
    pub(super) unprotected: u64,
    pub(super) parity_files: u64,
    /// Files that were repaired.
    pub(super) repaired: u64,
    /// Files of which damage is left.
    pub(super) left: u64,
    pub(super) damaged: Vec<ScrubDamageFacts>,
    /// Damaged files beyond those that are listed.
    pub(super) damaged_more: u64,
    /// Where damaged files are kept that were replaced.
    pub(super) quarantined: Vec<String>,
    /// The pack at which it went on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) resumed_at: Option<u64>,
    pub(super) finished: bool,
}

/// A damaged file of a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ScrubDamageFacts {
    pub(super) file: String,
    /// First byte, and the one after the last.
    pub(super) ranges: Vec<(u64, u64)>,
    pub(super) detail: String,
    /// `repaired`, `repairable`, `unprotected` or `beyond-repair`.
    pub(super) state: String,
    pub(super) paths: Vec<String>,
    /// Paths beyond those that are listed.
    pub(super) paths_more: u64,
}

impl From<ScrubDamage> for ScrubDamageFacts {
    fn from(damage: ScrubDamage) -> Self {
        let ranges = damage.ranges.into_iter();
        Self {
            file: damage.file,
            ranges: ranges.map(|range| (range.start, range.end)).collect(),
            detail: damage.detail,
            state: damage.state.name().to_owned(),
            paths: damage.paths,
            paths_more: damage.paths_more,
        }
    }
}

impl From<ScrubReport> for ScrubFacts {
    fn from(report: ScrubReport) -> Self {
        Self {
            packs: report.packs,
            bytes: report.bytes,
            unprotected: report.unprotected,
            parity_files: report.parity_files,
            repaired: report.repaired,
            left: report.left,
            damaged: report.damaged.into_iter().map(Into::into).collect(),
            damaged_more: report.damaged_more,
            quarantined: report.quarantined,
            resumed_at: report.resumed_at.map(crate::base::PackId::raw),
            finished: report.is_finished,
        }
    }
}

impl ScrubFacts {
    /// The files that were repaired.
    pub(super) fn repaired_files(&self) -> Vec<String> {
        let repaired = self.damaged.iter();
        repaired
            .filter(|damage| is(damage, DamageState::Repaired))
            .map(|damage| damage.file.clone())
            .collect()
    }
}

/// Scrubs the whole store and repairs what parity allows.
pub(super) fn repair(ui: &Ui, store: &Path) -> Outcome<ScrubFacts> {
    let args = Args {
        store: store.to_owned(),
        repair: true,
        rate: None,
        restart: true,
    };
    scrub(ui, &args)
}

/// Bytes in a second: `50M`, `50M/s`.
fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text.strip_suffix("/s").unwrap_or(text))? {
        0 => Err("a rate of nothing never ends".to_owned()),
        rate => Ok(rate),
    }
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let facts = scrub(ui, args)?;
    ui.show(&facts, human)?;
    outcome(&facts)
}

/// How the command ends.
fn outcome(facts: &ScrubFacts) -> Outcome<()> {
    let files = |n| count(n, "damaged file", "damaged files");
    if facts.left > 0 {
        let hint = if facts.damaged.iter().any(|d| is(d, DamageState::Repairable)) {
            "; `--repair` may bring it back"
        } else {
            ""
        };
        let message = format!("{}, not repaired{hint}", files(facts.left));
        return Err(Failure::new(Exit::Damage, message));
    }
    if facts.repaired > 0 {
        let rest = if facts.finished {
            "all repaired"
        } else {
            "repaired; run it again for what is left"
        };
        let message = format!("{}, {rest}", files(facts.repaired));
        return Err(Failure::new(Exit::Repaired, message));
    }
    Ok(())
}

fn is(damage: &ScrubDamageFacts, state: DamageState) -> bool {
    damage.state == state.name()
}

/// Scrubs the store; one that cannot be opened is compared with its parity all the same.
fn scrub(ui: &Ui, args: &Args) -> Outcome<ScrubFacts> {
    let request = |offline| Request::Scrub {
        repair: args.repair,
        rate: args.rate,
        restart: args.restart,
        offline,
    };
    let store = store_of(&args.store)?;
    let mounted = Client::connect(&store)?.is_some();
    if mounted || !args.repair {
        let answer = ask(
            ui,
            &args.store,
            if args.repair { Need::Write } else { Need::Read },
            &request(false),
        );
        return match answer {
            Err(failure) if !mounted && is_damage(&failure) => closed(ui, &store, &failure, false),
            answer => of(answer?),
        };
    }
    // Opening the store for writing writes them anew.
    let superblocks = Engine::bad_superblocks(&store)?;
    let mut answer = ask(ui, &args.store, Need::Write, &request(false)).and_then(of);
    if answer.as_ref().is_err_and(is_damage) {
        answer = ask(ui, &args.store, Need::Read, &request(true)).and_then(of);
    }
    let mut facts = match answer {
        Err(failure) if is_damage(&failure) => return closed(ui, &store, &failure, true),
        answer => answer?,
    };
    for (file, detail) in superblocks {
        if facts.damaged.iter().all(|damage| damage.file != file) {
            facts.repaired += 1;
            facts.damaged.push(ScrubDamageFacts {
                file,
                ranges: Vec::new(),
                detail,
                state: DamageState::Repaired.name().to_owned(),
                paths: Vec::new(),
                paths_more: 0,
            });
        }
    }
    Ok(facts)
}

fn is_damage(failure: &Failure) -> bool {
    matches!(failure.exit, Exit::Damage | Exit::PackMissing)
}

fn of(answer: Answer) -> Outcome<ScrubFacts> {
    match answer {
        Answer::Scrubbed(facts) => Ok(facts),
        other => Err(mismatch(&other)),
    }
}

/// What can be told of a store that cannot be opened, because of `failure`.
fn closed(ui: &Ui, store: &Path, failure: &Failure, repair: bool) -> Outcome<ScrubFacts> {
    ui.note(&failure.message);
    let config = Config {
        foreground: true,
        ..Config::default()
    };
    let mut facts: ScrubFacts =
        retry(store, || Engine::scrub_closed(store, &config, repair))?.into();
    if facts.damaged.is_empty() {
        return Err(failure.clone());
    }
    facts.finished = false;
    Ok(facts)
}

fn human(facts: &ScrubFacts) -> String {
    let mut lines = Vec::new();
    for damage in &facts.damaged {
        lines.push(format!(
            "{}: {}: {}",
            damage.state, damage.file, damage.detail
        ));
        for (from, to) in &damage.ranges {
            lines.push(format!("  bytes {from}-{}", to.saturating_sub(1)));
        }
        let paths = damage.paths.iter();
        lines.extend(paths.map(|path| format!("  affects {}", path.escape_debug())));
        if damage.paths_more > 0 {
            lines.push(format!("  and {} more paths", damage.paths_more));
        }
    }
    if facts.damaged_more > 0 {
        lines.push(format!("and {} more damaged files", facts.damaged_more));
    }
    lines.extend(
        facts
            .quarantined
            .iter()
            .map(|name| format!("kept as {name}")),
    );
    if let Some(pack) = facts.resumed_at {
        lines.push(format!("went on at pack {pack}; --restart begins anew"));
    }
    if facts.unprotected > 0 && facts.unprotected == facts.packs && facts.parity_files == 0 {
        lines.push("nothing has parity: damage can be found, but not repaired".to_owned());
    } else if facts.unprotected > 0 {
        lines.push(format!(
            "{} without parity",
            count(facts.unprotected, "pack is", "packs are")
        ));
    }
    let end = if facts.finished { "" } else { "; not finished" };
    lines.push(format!(
        "scrubbed {}, {}, {}{end}",
        count(facts.packs, "pack", "packs"),
        size(facts.bytes),
        count(facts.parity_files, "parity file", "parity files"),
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_in_a_second() {
        assert_eq!(parse_rate("50M/s"), Ok(50 << 20));
        assert_eq!(parse_rate("7"), Ok(7));
        assert!(parse_rate("0").is_err() && parse_rate("M/s").is_err());
    }
}
