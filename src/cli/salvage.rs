//! `mmhfs restore --salvage`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::control::Client;
use super::exit::{Exit, Failure, Outcome};
use super::facts::Text;
use super::mounts;
use super::target::{retry, store_of};
use super::ui::{Ui, count, size};
use crate::base::Env;
use crate::engine::{Config, Engine, SalvageOptions, SalvageReport};

/// What `restore --salvage` brought out.
#[derive(Serialize)]
struct SalvageFacts {
    entries: u64,
    bytes: u64,
    warnings: Vec<String>,
    /// Bytes that are lost.
    holes: Vec<HoleFacts>,
    /// Holes beyond those that are listed.
    holes_more: u64,
    /// Paths with holes, and those that are lost or incomplete otherwise.
    damaged: Vec<PathFacts>,
    /// Paths beyond those that are listed.
    damaged_more: u64,
    /// Parts of the log that could not be read.
    log_skipped: Vec<SkippedFacts>,
    /// Parts beyond those that are listed.
    log_skipped_more: u64,
    /// Checkpoints that could not be used.
    checkpoints: Vec<String>,
    /// The seed, if all of a snapshot came out and gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<String>,
}

/// A run of bytes of a file that is lost.
#[derive(Serialize)]
struct HoleFacts {
    path: Text,
    offset: u64,
    length: u64,
}

/// A path that is not all there.
#[derive(Serialize)]
struct PathFacts {
    path: Text,
    detail: String,
}

/// Bytes of a pack of the log that were passed over.
#[derive(Serialize)]
struct SkippedFacts {
    pack: String,
    offset: u64,
    length: u64,
    detail: String,
}

impl From<&SalvageReport> for SalvageFacts {
    fn from(report: &SalvageReport) -> Self {
        let restored = &report.restored;
        let holes = restored.damaged.iter().flat_map(|damage| {
            damage.ranges.iter().map(|range| HoleFacts {
                path: Text::new(&damage.path),
                offset: range.start,
                length: range.end.saturating_sub(range.start),
            })
        });
        let paths = restored.damaged.iter().map(|damage| PathFacts {
            path: Text::new(&damage.path),
            detail: damage.cause.clone(),
        });
        let skipped = report.skipped.iter().map(|skipped| SkippedFacts {
            pack: skipped.pack.clone(),
            offset: skipped.range.start,
            length: skipped.range.end.saturating_sub(skipped.range.start),
            detail: skipped.detail.clone(),
        });
        Self {
            entries: restored.entries,
            bytes: restored.bytes,
            warnings: restored.warnings.clone(),
            holes: holes.collect(),
            holes_more: restored
                .damaged
                .iter()
                .map(|damage| damage.ranges_more)
                .sum(),
            damaged: paths.collect(),
            damaged_more: restored.damaged_more,
            log_skipped: skipped.collect(),
            log_skipped_more: report.skipped_more,
            checkpoints: report.checkpoints.clone(),
            verified: report.verified.clone(),
        }
    }
}

/// A directory beside the destination that does not exist.
fn scratch_beside(dest: &Path) -> PathBuf {
    let name = dest.file_name().unwrap_or_default().to_string_lossy();
    dest.with_file_name(format!(".{name}.mmhfs-salvage-{}", std::process::id()))
}

pub(super) fn run(ui: &Ui, store: &Path, mut options: SalvageOptions, dest: &Path) -> Outcome<()> {
    let store = store_of(store)?;
    if Client::connect(&store)?.is_some() {
        return Err(Failure::new(
            Exit::Locked,
            "the store is mounted: unmount it first",
        ));
    }
    let dest = mounts::absolute(dest)?;
    let scratch = options.scratch.take();
    let scratch = scratch.unwrap_or_else(|| scratch_beside(&dest));
    if scratch.exists() {
        return Err(Failure::new(
            Exit::Exists,
            format!("{} exists already", scratch.display()),
        ));
    }
    options.scratch = Some(scratch);
    let config = Config::default();
    let progress = |now: crate::engine::Progress| ui.progress(now.into());
    let report = retry(&store, || {
        Engine::salvage(&store, &Env::real(), &config, &options, &dest, &progress)
    });
    ui.progress_done();
    let report = report?;
    for warning in &report.restored.warnings {
        ui.note(warning);
    }
    ui.show(&SalvageFacts::from(&report), human)?;
    if report.is_whole() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Damage,
        "not everything is there: see the list",
    ))
}

fn human(facts: &SalvageFacts) -> String {
    let mut lines = Vec::new();
    for skipped in &facts.log_skipped {
        let (from, len) = (skipped.offset, skipped.length);
        let place = match len {
            0 => format!("at {from}"),
            _ => format!("bytes {from}-{}", from.saturating_add(len - 1)),
        };
        lines.push(format!("log: {} {place}: {}", skipped.pack, skipped.detail));
    }
    if facts.log_skipped_more > 0 {
        lines.push(format!(
            "and {} more parts of the log",
            facts.log_skipped_more
        ));
    }
    lines.extend(facts.checkpoints.iter().cloned());
    for path in &facts.damaged {
        lines.push(format!("damaged: {}: {}", path.path.shown(), path.detail));
    }
    if facts.damaged_more > 0 {
        lines.push(format!("and {} more damaged paths", facts.damaged_more));
    }
    for hole in &facts.holes {
        lines.push(format!(
            "hole: {} bytes {}-{}",
            hole.path.shown(),
            hole.offset,
            hole.offset.saturating_add(hole.length.saturating_sub(1))
        ));
    }
    if facts.holes_more > 0 {
        lines.push(format!("and {} more holes", facts.holes_more));
    }
    if let Some(seed) = &facts.verified {
        lines.push(format!("all of it is there: {seed} verifies"));
    }
    lines.push(format!(
        "salvaged {}, {}",
        count(facts.entries, "entry", "entries"),
        size(facts.bytes)
    ));
    lines.join("\n")
}
