//! Repair: packs in which reads have found damage, and packs without which a store does not open.
//!
//! A repair runs under `parity_turn`, and only if the pack is part of the store then: cleaning removes packs under the same
//! lock, so what it has removed never comes back. Before the index is open it is not known which packs are part of the
//! store; then only packs that the log cannot do without are rebuilt: those that an error names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::Engine;
use super::protect::parity_config;
use crate::base::limits::{OPEN_REPAIRS_MAX, PARITY_PERCENT_DEFAULT};
use crate::base::{Error, PackId, Result};
use crate::chunk::{
    ChunkStore, LostRange, PARITY_DIR, ParityStore, RepairOutcome, RepairedPack, damaged_pack,
};
use crate::disk::{Access, Disk, link_target};
use crate::format::rows::{ChunkRow, PackKind, Table};
use crate::format::superblock::Superblock;
use crate::meta::{Index, for_each_row};

/// Name of the file that says which store a directory of parity files elsewhere belongs to.
const PARITY_MARK: &str = "mmhfs-store";

impl Engine {
    /// Repairs a pack from parity. Says whether it is sound now, and how many packs were written anew.
    pub(super) fn repair_pack(&self, pack: PackId) -> Result<(bool, u64)> {
        let _turn = self.parity_turn.lock();
        self.repair_in_turn(pack)
    }

    /// As [`Engine::repair_pack`]; the caller has the parity turn.
    pub(super) fn repair_in_turn(&self, pack: PackId) -> Result<(bool, u64)> {
        if !self.store.holds_pack(pack) {
            self.store.forget_pack(pack);
            return Ok((false, 0));
        }
        let (mut sound, mut count) = (false, 0);
        for cover in self.parity.covers(pack) {
            let config = self.parity_config();
            let repaired = match self.parity.reconstruct(cover.parity, &[pack], &config) {
                Ok(RepairOutcome::Clean) => {
                    self.store.pack_rewritten(pack);
                    sound = true;
                    Vec::new()
                }
                Ok(RepairOutcome::Repaired(packs)) => packs,
                Ok(RepairOutcome::BeyondRepair { repaired, lost }) => {
                    lost.iter().for_each(log_lost);
                    repaired
                }
                // What was computed does not have the pack's digest: another file may do.
                Err(error @ Error::Corrupt { .. }) => {
                    log::error!("the repair of pack {pack} has failed: {error}");
                    Vec::new()
                }
                Err(error) => {
                    self.store.note_wounded(pack);
                    return Err(error);
                }
            };
            count += repaired.len() as u64;
            sound |= repaired.iter().any(|found| found.pack == pack);
            self.note_repaired(&repaired);
            if sound {
                return Ok((true, count));
            }
        }
        self.store.note_hopeless(pack);
        Ok((false, count))
    }

    /// Notes that repairs have put other files in the place of packs: readers open them anew.
    pub(super) fn note_repaired(&self, packs: &[RepairedPack]) {
        for found in packs {
            log_repaired(found);
            self.store.pack_rewritten(found.pack);
        }
        if !packs.is_empty() {
            let mut state = self.protection.state.lock();
            state.repaired += packs.len() as u64;
            state.refused.clear();
        }
    }
}

fn log_repaired(found: &RepairedPack) {
    let old = found.quarantined.as_deref().unwrap_or("there was none");
    log::warn!(
        "pack {} was rebuilt from parity, {} symbols of it computed; the damaged file: {old}",
        found.pack,
        found.symbols
    );
}

fn log_lost(lost: &LostRange) {
    let (from, to) = (lost.range.start, lost.range.end);
    log::error!(
        "pack {}: bytes {from}..{to} are damaged beyond what parity can repair",
        lost.pack
    );
}

/// A store that is being opened.
pub(super) struct Opening<'a> {
    pub(super) dir: &'a Path,
    pub(super) parity: &'a Arc<ParityStore>,
    pub(super) config: &'a super::Config,
    pub(super) superblock: &'a Superblock,
}

impl Opening<'_> {
    /// Does a part of the opening. If it fails because a pack is damaged or gone that parity covers, the pack is rebuilt and
    /// the part done again.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Repairable`] for such damage in a store that is opened read-only.
    pub(super) fn healed<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let mut tried = BTreeSet::new();
        loop {
            let error = match work() {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let suspects = match damaged_pack(&error) {
                Some(pack) => match self.parity.lost_newest_log(self.superblock)? {
                    Some(newest) if is_missing(&error) && !tried.contains(&newest) => vec![newest],
                    _ => vec![pack],
                },
                // A bad sector of the log: which pack it is in is found by reading them.
                None if matches!(error, Error::Io { .. }) => self.parity.unreadable_logs()?,
                None => Vec::new(),
            };
            let covered = |pack: &PackId| self.parity.covering(*pack).is_some();
            if self.config.read_only {
                return Err(match suspects.iter().any(covered) {
                    true => Error::Repairable {
                        store: self.dir.to_owned(),
                        source: Box::new(error),
                    },
                    false => error,
                });
            }
            let mut rebuilt = false;
            for pack in suspects {
                if tried.len() < OPEN_REPAIRS_MAX && tried.insert(pack) {
                    rebuilt |= self.rebuild(pack, &error);
                }
            }
            if !rebuilt {
                return Err(error);
            }
        }
    }

    /// Tells packs that parity covers and that are not there apart: those that cleaning has removed stay removed, those in
    /// which the index has chunks are rebuilt.
    ///
    /// Nothing else notices the loss of a LOG pack before a checkpoint. Costs nothing but after such a loss, or a crash in a
    /// cleaning: then a look at the rows of all chunks.
    pub(super) fn restore_lost(&self, store: &ChunkStore, index: &Index) -> Result<()> {
        let mut absent: BTreeMap<PackId, PackKind> = BTreeMap::new();
        for file in self.parity.all() {
            let members = file.members().iter().filter(|m| !store.holds_pack(m.pack));
            absent.extend(members.map(|m| (m.pack, m.kind)));
        }
        if absent.is_empty() {
            return Ok(());
        }
        let mut named: BTreeSet<PackId> = BTreeSet::new();
        for_each_row(index, Table::Chunk, &[], &[0xff; 33], &mut |_, value| {
            let pack = ChunkRow::decode(value)?.pack;
            if absent.contains_key(&pack) {
                named.insert(pack);
            }
            Ok(named.len() < absent.len())
        })?;
        for (pack, kind) in absent {
            let why = || Error::PackMissing {
                path: store.pack_path(pack, kind),
            };
            if named.contains(&pack) && self.rebuild(pack, &why()) {
                store.adopt(pack, kind);
            } else {
                self.parity.note_gone([pack]);
            }
        }
        Ok(())
    }

    /// Rebuilds a pack; says whether another file is in its place now.
    fn rebuild(&self, pack: PackId, why: &Error) -> bool {
        let percent = self.superblock.parity_percent;
        let config = parity_config(self.config, percent.unwrap_or(PARITY_PERCENT_DEFAULT));
        for cover in self.parity.covers(pack) {
            log::error!(
                "{why}; rebuilding pack {pack} from parity file {}",
                cover.parity
            );
            let done = self.parity.reconstruct_only(cover.parity, &[pack], &config);
            match done {
                Ok(RepairOutcome::Repaired(packs)) => {
                    packs.iter().for_each(log_repaired);
                    return true;
                }
                Ok(RepairOutcome::Clean) => return false,
                Ok(RepairOutcome::BeyondRepair { lost, .. }) => lost.iter().for_each(log_lost),
                Err(error) => log::error!("the repair of pack {pack} has failed: {error}"),
            }
        }
        false
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::PackMissing { .. })
}

/// The bytes of the file that names the store of a directory of parity files.
fn mark_of(superblock: &Superblock) -> Vec<u8> {
    format!("{}\n", superblock.store.to_hex()).into_bytes()
}

/// Marks a new directory of parity files as a store's; durable when this returns.
pub(super) fn mark_parity_dir(disk: &dyn Disk, superblock: &Superblock) -> Result<()> {
    let file = disk.create_new(PARITY_MARK)?;
    file.write_at(crate::base::PackOff::from_raw(0), &mark_of(superblock))?;
    file.sync_data()?;
    disk.sync_dir("")
}

/// Why no parity can be made, if the directory of parity files is a symbolic link that does not lead to this store's:
/// the disk is not mounted, say. What is behind it is not touched then, nor is anything made elsewhere.
pub(super) fn parity_trouble(
    dir: &Path,
    disk: &dyn Disk,
    superblock: &Superblock,
) -> Result<Option<String>> {
    let Some(target) = link_target(&dir.join(PARITY_DIR))? else {
        return Ok(None);
    };
    let want = mark_of(superblock);
    let mut found = vec![0; want.len()];
    let read = disk
        .open(&format!("{PARITY_DIR}/{PARITY_MARK}"), Access::Read)
        .and_then(|file| file.read_at(crate::base::PackOff::from_raw(0), &mut found));
    Ok(match read {
        Ok(_) if found == want => None,
        Ok(_) => Some(format!("{} belongs to another store", target.display())),
        Err(_) => Some(format!(
            "{} is not there, or is not this store's directory of parity files: is its disk mounted?",
            target.display()
        )),
    })
}
