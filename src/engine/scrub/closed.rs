//! Scrubbing a store that cannot be opened: what parity files say of their packs needs neither the log nor the index.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::base::{Error, PackId, Result};
use crate::chunk::{
    Compared, ParityConfig, ParityPlace, ParityStore, RepairOutcome, load_superblock, log_start,
    pack_name, superblocks_that_are_bad,
};
use crate::disk::{Disk, RealDisk, StoreLock};
use crate::engine::heal::parity_trouble;
use crate::engine::protect::parity_config;
use crate::engine::types::{DamageState, ScrubDamage, ScrubReport};
use crate::engine::{Config, Engine};
use crate::format::rows::PackKind;

fn damage(
    file: String,
    ranges: Vec<Range<u64>>,
    detail: impl Into<String>,
    state: DamageState,
) -> ScrubDamage {
    ScrubDamage {
        file,
        ranges,
        detail: detail.into(),
        state,
        paths: Vec::new(),
        paths_more: 0,
    }
}

/// Rebuilds a pack from the first parity file that suffices.
fn rebuild(
    parity: &ParityStore,
    pack: PackId,
    config: &ParityConfig,
    quarantined: &mut Vec<String>,
) -> Result<DamageState> {
    for cover in parity.covers(pack) {
        match parity.reconstruct_only(cover.parity, &[pack], config)? {
            RepairOutcome::Repaired(repaired) => {
                let kept = repaired.into_iter().filter_map(|done| done.quarantined);
                quarantined.extend(kept);
                return Ok(DamageState::Repaired);
            }
            RepairOutcome::Clean => return Ok(DamageState::Repaired),
            RepairOutcome::BeyondRepair { .. } => {}
        }
    }
    Ok(DamageState::BeyondRepair)
}

impl Engine {
    /// Compares the packs of a store that cannot be opened with their parity files; with `repair` rebuilds those that
    /// differ. Paths are not looked for: without the log nobody knows them.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Superblock`], [`Error::Locked`], those of the disk.
    pub fn scrub_closed(dir: &Path, config: &Config, repair: bool) -> Result<ScrubReport> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir));
        load_superblock(disk.as_ref())?;
        let _lock = StoreLock::take(dir)?;
        let superblock = load_superblock(disk.as_ref())?;
        let mut report = ScrubReport::default();
        if let Some(trouble) = parity_trouble(dir, disk.as_ref(), &superblock)? {
            return Err(Error::Usage(trouble));
        }
        for (name, detail) in superblocks_that_are_bad(disk.as_ref(), superblock.store)? {
            let found = damage(name.to_owned(), Vec::new(), detail, DamageState::Repairable);
            report.damaged.push(found);
        }
        let place = ParityPlace::within(Arc::clone(&disk));
        let parity = ParityStore::open(Arc::clone(&disk), place, superblock.store)?;
        if repair {
            parity.finish_repairs()?;
        }
        let start = log_start(disk.as_ref(), &superblock)?;
        let headers = parity.all();
        let members = headers.iter().flat_map(|header| header.members());
        let packs: BTreeMap<PackId, PackKind> = members.map(|m| (m.pack, m.kind)).collect();
        report.parity_files = headers.len() as u64;
        let may_be_gone = |pack, kind| {
            // Cleaning may have removed it.
            kind == PackKind::Data || start.is_some_and(|start| pack < start)
        };
        for (pack, kind) in packs {
            let bytes = &mut report.bytes;
            let compared = parity.compare(pack, &mut |len| {
                *bytes = bytes.saturating_add(len);
                Ok(())
            })?;
            report.packs += 1;
            let ranges = match compared {
                Compared::Same | Compared::Unprotected => continue,
                Compared::Differs(ranges) => ranges,
                Compared::Missing { .. } if may_be_gone(pack, kind) => continue,
                Compared::Missing { len } => std::iter::once(0..len).collect(),
            };
            let mut state = DamageState::Repairable;
            if repair {
                let config = parity_config(config, 0);
                state = rebuild(&parity, pack, &config, &mut report.quarantined)?;
            }
            let detail = "not the bytes that were written";
            let found = damage(pack_name(pack, kind), ranges, detail, state);
            report.damaged.push(found);
        }
        let is_left = |damage: &&ScrubDamage| damage.state != DamageState::Repaired;
        report.left = report.damaged.iter().filter(is_left).count() as u64;
        report.repaired = report.damaged.len() as u64 - report.left;
        report.is_finished = true;
        Ok(report)
    }

    /// The copies of a store's superblock that cannot be used, and what is wrong with each. The store need not be open.
    ///
    /// # Errors
    /// Those of finding the superblock.
    pub fn bad_superblocks(dir: &Path) -> Result<Vec<(String, String)>> {
        let disk = RealDisk::new(dir);
        let store = load_superblock(&disk)?.store;
        let bad = superblocks_that_are_bad(&disk, store)?;
        Ok(bad
            .into_iter()
            .map(|(name, detail)| (name.to_owned(), detail))
            .collect())
    }
}
