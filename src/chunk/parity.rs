//! The parity files of a store: which there are, which pack each covers, and what is covered by none.
//!
//! A parity file appears under its final name only when it is whole and durable, and never changes. A group's file
//! takes the place of the files of its packs: those are removed only once it is durable, so that a crash at
//! any point leaves each pack with one or the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use super::files::read_exactly;
use super::types::Durable;
use crate::base::limits::{PARITY_MEMORY_DEFAULT, PARITY_PERCENT_DEFAULT, PROBLEMS_MAX};
use crate::base::{Error, PackId, PackOff, ParityId, Result, StoreId};
use crate::disk::{Access, Disk, DiskFile};
use crate::fec::Plans;
use crate::format::parity::{
    Member, PARITY_PAGE_LEN, ParityHeader, ParityKind, decode_parity_header,
};
use crate::hash::{Checksum, checksum};

/// The directory of parity files within a store.
pub const PARITY_DIR: &str = "parity";

/// How parity is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParityConfig {
    /// Repair symbols in percent of source symbols, `0..=100`, counted as if all packs of a group were as long as
    /// its longest; 0 makes none. The checksums take half a percent more.
    pub percent: u8,
    /// Most blocks that are encoded or decoded at a time.
    pub threads: usize,
    /// Bytes of memory for source blocks; at least one block and its working copies are held whatever it says.
    pub memory_len: usize,
}

impl Default for ParityConfig {
    fn default() -> Self {
        Self {
            percent: PARITY_PERCENT_DEFAULT,
            threads: 2,
            memory_len: PARITY_MEMORY_DEFAULT,
        }
    }
}

/// Where parity files are: within the store, or in another directory, which may be on another disk.
#[derive(Clone)]
pub struct ParityPlace {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The directory on it; `""` is its root.
    pub dir: String,
}

impl ParityPlace {
    /// The directory [`PARITY_DIR`] on a disk.
    #[must_use]
    pub fn within(disk: Arc<dyn Disk>) -> Self {
        let dir = PARITY_DIR.to_owned();
        Self { disk, dir }
    }

    /// Name on the disk of a parity file.
    #[must_use]
    pub fn name(&self, id: ParityId) -> String {
        self.join(&format!("{:016x}.par", id.raw()))
    }

    /// Name of the file that becomes it.
    pub(super) fn temp_name(&self, id: ParityId) -> String {
        self.join(&format!("{:016x}.par.tmp", id.raw()))
    }

    pub(super) fn join(&self, name: &str) -> String {
        if self.dir.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.dir)
        }
    }
}

/// A parity file that nothing can be read from: both copies of its header are bad, or it is of a newer version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableParity {
    /// Its number.
    pub parity: ParityId,
    /// What is wrong.
    pub detail: String,
}

/// Which parity file a pack is repaired from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    /// The parity file.
    pub parity: ParityId,
    /// Whether it is the pack's own or its group's.
    pub kind: ParityKind,
    /// The pack as it was when it was encoded.
    pub member: Member,
}

struct Known {
    files: BTreeMap<ParityId, Arc<ParityHeader>>,
    unreadable: Vec<UnreadableParity>,
    next: ParityId,
    /// Packs of these files that are no part of the store any more: no repair brings them back.
    gone: BTreeSet<PackId>,
}

/// The parity files of a store.
///
/// Locks: `repairs` is held while packs are rewritten, disk waits included; `known` is a leaf.
pub struct ParityStore {
    pub(super) packs: Arc<dyn Disk>,
    pub(super) place: ParityPlace,
    pub(super) store: StoreId,
    pub(super) plans: Plans,
    pub(super) repairs: Mutex<()>,
    known: RwLock<Known>,
    interrupted: AtomicBool,
    /// Names of the packs that were rewritten and nobody has been told of yet. A leaf.
    rewritten: Mutex<BTreeSet<String>>,
}

impl ParityStore {
    /// Reads the headers of all parity files; writes nothing. `packs` is the disk of the store.
    ///
    /// A file that cannot be read is no error: see [`ParityStore::unreadable`].
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be listed. That there is none is no error.
    pub fn open(packs: Arc<dyn Disk>, place: ParityPlace, store: StoreId) -> Result<Self> {
        let names = match place.disk.list(&place.dir) {
            Err(Error::NotFound) => Vec::new(),
            other => other?,
        };
        let mut known = Known {
            files: BTreeMap::new(),
            unreadable: Vec::new(),
            next: ParityId::from_raw(1),
            gone: BTreeSet::new(),
        };
        for parity in names.iter().filter_map(|name| parse_name(name)) {
            known.next = known.next.max(parity.next());
            match load_header(&place, parity, store) {
                Ok(header) => {
                    known.files.insert(parity, Arc::new(header));
                }
                Err(error) => known.unreadable.push(UnreadableParity {
                    parity,
                    detail: error.to_string(),
                }),
            }
        }
        Ok(Self {
            packs,
            place,
            store,
            plans: Plans::new(),
            repairs: Mutex::new(()),
            known: RwLock::new(known),
            interrupted: AtomicBool::new(false),
            rewritten: Mutex::default(),
        })
    }

    /// All parity files that can be read, ascending by number.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ParityHeader>> {
        self.known.read().files.values().cloned().collect()
    }

    /// The header of a parity file.
    #[must_use]
    pub fn header(&self, id: ParityId) -> Option<Arc<ParityHeader>> {
        self.known.read().files.get(&id).cloned()
    }

    /// The parity files that were found to be unreadable when the store was opened.
    #[must_use]
    pub fn unreadable(&self) -> Vec<UnreadableParity> {
        self.known.read().unreadable.clone()
    }

    /// The parity file that a pack is best repaired from: its group's before its own, the newest before older ones.
    #[must_use]
    pub fn covering(&self, pack: PackId) -> Option<Cover> {
        self.covers(pack).into_iter().next()
    }

    /// All parity files that cover a pack, the best first: see [`ParityStore::covering`].
    #[must_use]
    pub fn covers(&self, pack: PackId) -> Vec<Cover> {
        let known = self.known.read();
        let cover = |header: &Arc<ParityHeader>| {
            let member = header.members().get(header.member_of(pack)?)?;
            Some(Cover {
                parity: header.parity(),
                kind: header.kind(),
                member: member.clone(),
            })
        };
        let mut covers: Vec<Cover> = known.files.values().filter_map(cover).collect();
        covers.sort_by_key(|cover| std::cmp::Reverse((cover.kind, cover.parity)));
        covers
    }

    /// Notes that packs are no part of the store any more. No repair brings them back, also not one of their group.
    pub fn note_gone(&self, packs: impl IntoIterator<Item = PackId>) {
        let mut known = self.known.write();
        let Known { files, gone, .. } = &mut *known;
        gone.extend(packs);
        // Those that no file covers cannot be brought back anyway: the set stays as small as the tables.
        gone.retain(|pack| files.values().any(|file| file.member_of(*pack).is_some()));
    }

    /// Whether a pack was noted as no part of the store any more.
    #[must_use]
    pub fn is_gone(&self, pack: PackId) -> bool {
        self.known.read().gone.contains(&pack)
    }

    /// Lets what is being encoded or rebuilt end soon, with [`Error::Busy`]; `false` allows it again.
    pub fn interrupt(&self, yes: bool) {
        self.interrupted.store(yes, Ordering::Release);
    }

    /// Fails if the work is to end.
    pub(super) fn check_interrupted(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Acquire) {
            return Err(Error::Busy("work on parity was interrupted"));
        }
        Ok(())
    }

    /// Those of `packs` that no parity file covers.
    #[must_use]
    pub fn unprotected(&self, packs: impl IntoIterator<Item = PackId>) -> Vec<PackId> {
        let bare = |pack: &PackId| self.covering(*pack).is_none();
        packs.into_iter().filter(bare).collect()
    }

    /// Bytes of all parity files that can be read.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let known = self.known.read();
        let lens = known.files.values().map(|header| header.file_len().raw());
        lens.fold(0, u64::saturating_add)
    }

    /// Parity files of single packs that a group's file makes superfluous: it covers the same bytes.
    #[must_use]
    pub fn replaced_by(&self, group: ParityId) -> Vec<ParityId> {
        let known = self.known.read();
        let Some(group) = known.files.get(&group) else {
            return Vec::new();
        };
        let same = |header: &&Arc<ParityHeader>| {
            header.kind() == ParityKind::Single
                && header.parity() != group.parity()
                && header.members().iter().all(|m| group.members().contains(m))
        };
        let replaced = known.files.values().filter(same);
        replaced.map(|header| header.parity()).collect()
    }

    /// Removes the parity files that a group's file, which is durable, has replaced; returns which.
    ///
    /// # Errors
    /// [`Error::Io`]; those that are left are still good, and the next call removes them.
    pub fn remove_replaced(&self, group: &Durable<ParityId>) -> Result<Vec<ParityId>> {
        let replaced = self.replaced_by(**group);
        for id in &replaced {
            self.remove(*id)?;
        }
        Ok(replaced)
    }

    /// Removes a parity file. The caller knows that what it covers is gone, or is covered by another one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, id: ParityId) -> Result<()> {
        match self.place.disk.remove(&self.place.name(id)) {
            Ok(()) | Err(Error::NotFound) => {}
            Err(other) => return Err(other),
        }
        self.known.write().files.remove(&id);
        self.place.disk.sync_dir(&self.place.dir)
    }

    /// Removes files that a crash has left half written; not while anything is encoded.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_leftovers(&self) -> Result<()> {
        let names = match self.place.disk.list(&self.place.dir) {
            Err(Error::NotFound) => return Ok(()),
            other => other?,
        };
        let is_ours = |name: &&String| name.strip_suffix(".tmp").and_then(parse_name).is_some();
        for name in names.iter().filter(is_ours) {
            self.place.disk.remove(&self.place.join(name))?;
        }
        Ok(())
    }

    /// Notes that a pack was rewritten.
    pub(super) fn note_rewritten(&self, name: String) {
        let mut rewritten = self.rewritten.lock();
        if rewritten.len() < PROBLEMS_MAX {
            rewritten.insert(name);
        }
    }

    /// The names of the packs that were rewritten since this was asked last, by whomever.
    #[must_use]
    pub fn take_rewritten(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.rewritten.lock())
    }

    /// Forgets an unreadable file that has been put away.
    pub(super) fn forget_unreadable(&self, id: ParityId) {
        let mut known = self.known.write();
        known.unreadable.retain(|other| other.parity != id);
    }

    /// A number for a new parity file, given out once in the life of this value.
    pub(super) fn next_id(&self) -> ParityId {
        let mut known = self.known.write();
        let id = known.next;
        known.next = id.next();
        id
    }

    /// Makes a parity file known that has just become durable.
    pub(super) fn add(&self, header: ParityHeader) {
        let mut known = self.known.write();
        let id = header.parity();
        known.unreadable.retain(|other| other.parity != id);
        known.files.insert(id, Arc::new(header));
    }
}

impl std::fmt::Debug for ParityStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ParityStore({:?})", self.store)
    }
}

/// The number of a parity file, from its name without the directory.
fn parse_name(name: &str) -> Option<ParityId> {
    let digits = name.strip_suffix(".par")?;
    let id = ParityId::from_raw(u64::from_str_radix(digits, 16).ok()?);
    (format!("{:016x}", id.raw()) == digits && id.raw() != 0).then_some(id)
}

/// The header at one of its two places, if it is intact and the one that belongs there.
pub(super) fn header_at(
    place: &ParityPlace,
    file: &dyn DiskFile,
    off: PackOff,
    (parity, store): (ParityId, StoreId),
) -> Result<ParityHeader> {
    let path = || place.disk.path(&place.name(parity));
    let bytes = read_exactly(file, off, PARITY_PAGE_LEN, path)?;
    let hash = |parts: &[&[u8]]| checksum(Checksum::ParityHeader, parts);
    let header = decode_parity_header(&bytes, &hash)?;
    if header.store() == store && header.parity() == parity {
        return Ok(header);
    }
    Err(Error::Malformed {
        what: "parity header",
        detail: "it belongs to another store or file",
    })
}

/// The first copy of a file's header, or the second if that one is bad.
pub(super) fn load_header(
    place: &ParityPlace,
    parity: ParityId,
    store: StoreId,
) -> Result<ParityHeader> {
    let file = place.disk.open(&place.name(parity), Access::Read)?;
    let start = PackOff::from_raw(0);
    let first = header_at(place, file.as_ref(), start, (parity, store));
    let Err(error) = first else {
        return first;
    };
    let last = file.len()?.raw().checked_sub(PARITY_PAGE_LEN as u64);
    match last {
        Some(off) if off > 0 => {
            let off = PackOff::from_raw(off);
            header_at(place, file.as_ref(), off, (parity, store)).map_err(|_| error)
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_store_writes_are_parity_files() {
        assert_eq!(
            parse_name("00000000000000ab.par"),
            Some(ParityId::from_raw(0xab))
        );
        for other in [
            "ab.par",
            "00000000000000AB.par",
            "00000000000000ab.par.tmp",
            "00000000000000ab",
            "0000000000000000.par",
            "",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
