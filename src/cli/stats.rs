//! `mmhfs stats`

use std::path::PathBuf;

use super::exit::Outcome;
use super::facts::StatsFacts;
use super::request::{Answer, Request, mismatch};
use super::target::{Need, ask};
use super::ui::{Ui, size};

/// Show how much the store holds and takes.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    match ask(ui, &args.store, Need::Read, &Request::Stats)? {
        Answer::Stats(facts) => ui.show(&facts, human),
        other => Err(mismatch(&other)),
    }
}

fn human(facts: &StatsFacts) -> String {
    let mut lines = vec![
        format!(
            "store      {} (format {})",
            facts.store_id, facts.format_version
        ),
        format!(
            "tree       {} inodes, {}",
            facts.inodes,
            size(facts.logical_bytes)
        ),
        format!("chunks     {}, {}", facts.chunks, size(facts.chunk_bytes)),
        format!("packs      {}, {}", facts.packs, size(facts.pack_bytes)),
        format!("index      {}", size(facts.index_bytes)),
        format!("snapshots  {}", facts.snapshots),
        format!(
            "log        record {}, {} not yet committed",
            facts.lsn,
            size(facts.dirty_bytes)
        ),
    ];
    if let Some(space) = &facts.space {
        lines.push(format!(
            "space      {} live, {} pending, {} leaked, when last counted",
            size(space.live_bytes),
            size(space.pending_bytes),
            size(space.leaked_bytes)
        ));
    }
    let parity = &facts.parity;
    lines.push(format!(
        "parity     {} %, {} files, {}; packs: {} in groups, {} on their own, {} weakened, {} without",
        parity.percent,
        parity.files,
        size(parity.bytes),
        parity.packs_in_groups,
        parity.packs_alone,
        parity.packs_weakened,
        parity.packs_bare
    ));
    lines.push(format!(
        "repair     {} waiting; since opening: {} damaged frames ({} lost), {} reads healed, {} packs repaired",
        parity.pending,
        parity.damaged_frames,
        parity.lost_frames,
        parity.reads_healed,
        parity.packs_repaired
    ));
    if parity.unreadable > 0 || parity.packs_refused > 0 {
        lines.push(format!(
            "DAMAGED    {} parity files cannot be read, {} packs without parity are damaged",
            parity.unreadable, parity.packs_refused
        ));
    }
    if let Some(why) = &parity.trouble {
        lines.push(format!("NO PARITY  {why}"));
    }
    if let Some(why) = &facts.halted {
        lines.push(format!("HALTED     {why}"));
    }
    lines.join("\n")
}
