//! Pack files by id: their names, their kinds, and a bounded set of open ones.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::{Mutex, RwLock};

use crate::base::limits::OPEN_PACKS_MAX;
use crate::base::{ByteLen, Error, PackId, PackOff, Result};
use crate::disk::{Access, Disk, DiskFile};
use crate::format::rows::PackKind;

/// The directory of the pack files, within the store.
pub(super) const PACKS: &str = "packs";

/// Name of a pack file within the store.
#[must_use]
pub fn pack_name(id: PackId, kind: PackKind) -> String {
    let extension = match kind {
        PackKind::Log => "log",
        PackKind::Data => "dat",
    };
    format!("{PACKS}/{:016x}.{extension}", id.raw())
}

/// The inverse of [`pack_name`], for a name without its directory.
pub(super) fn parse_name(name: &str) -> Option<(PackId, PackKind)> {
    let (digits, extension) = name.split_once('.')?;
    let kind = match extension {
        "log" => PackKind::Log,
        "dat" => PackKind::Data,
        _ => return None,
    };
    let id = PackId::from_raw(u64::from_str_radix(digits, 16).ok()?);
    // Exactly the name that this program writes: no capitals, no missing zeros.
    (pack_name(id, kind).strip_prefix(PACKS)?.strip_prefix('/')? == name).then_some((id, kind))
}

/// Lists the pack files; names that are none are passed over.
///
/// # Errors
/// [`Error::NotAStore`] if there is no directory of packs; [`Error::Corrupt`] if two files have the same
/// id; [`Error::Io`].
pub(super) fn list_packs(disk: &dyn Disk) -> Result<BTreeMap<PackId, PackKind>> {
    let names = match disk.list(PACKS) {
        Err(Error::NotFound) => {
            return Err(Error::NotAStore {
                path: disk.path(""),
                detail: "its directory of packs is missing".to_owned(),
            });
        }
        other => other?,
    };
    let mut packs = BTreeMap::new();
    for (id, kind) in names.iter().filter_map(|name| parse_name(name)) {
        if packs.insert(id, kind).is_some() {
            return Err(Error::NotAStore {
                path: disk.path(""),
                detail: format!("two pack files have the id {id}"),
            });
        }
    }
    Ok(packs)
}

/// The pack files of a store, at most [`OPEN_PACKS_MAX`] of them open.
///
/// Locks: `kinds` and `open` guard only their maps and are never held across a disk wait; `kinds` may be taken
/// under `open`.
pub(super) struct PackFiles {
    disk: Arc<dyn Disk>,
    kinds: RwLock<BTreeMap<PackId, PackKind>>,
    open: Mutex<LruCache<PackId, Arc<dyn DiskFile>>>,
    /// Counts packs whose file was replaced; changed under `open`.
    replaced: AtomicU64,
}

impl PackFiles {
    /// The files that exist now.
    pub(super) fn new(disk: Arc<dyn Disk>) -> Result<Self> {
        let kinds = RwLock::new(list_packs(disk.as_ref())?);
        let bound = NonZeroUsize::new(OPEN_PACKS_MAX).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            disk,
            kinds,
            open: Mutex::new(LruCache::new(bound)),
            replaced: AtomicU64::new(0),
        })
    }

    /// The disk they are on.
    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// All packs, ascending.
    pub(super) fn all(&self) -> Vec<(PackId, PackKind)> {
        self.kinds
            .read()
            .iter()
            .map(|(&id, &kind)| (id, kind))
            .collect()
    }

    /// Makes a pack that was just created known.
    pub(super) fn add(&self, id: PackId, kind: PackKind, file: Arc<dyn DiskFile>) {
        self.kinds.write().insert(id, kind);
        self.open.lock().put(id, file);
    }

    /// Makes a pack known whose file was put in its place by a repair.
    pub(super) fn adopt(&self, id: PackId, kind: PackKind) {
        self.kinds.write().insert(id, kind);
    }

    /// Removes the file of a pack and returns its length in bytes. One that is not there is no error.
    ///
    /// Who has it open goes on reading it; its number is never used again (I4).
    pub(super) fn remove(&self, id: PackId) -> Result<u64> {
        let Some(kind) = self.kinds.write().remove(&id) else {
            return Ok(0);
        };
        self.open.lock().pop(&id);
        let name = pack_name(id, kind);
        let removed = self
            .disk
            .len(&name)
            .and_then(|len| match self.disk.remove(&name) {
                Ok(()) | Err(Error::NotFound) => Ok(len.map_or(0, ByteLen::raw)),
                Err(error) => Err(error),
            });
        match removed {
            Ok(len) => Ok(len),
            // It is still there, and part of the store.
            Err(error) => {
                self.kinds.write().insert(id, kind);
                Err(error)
            }
        }
    }

    /// Whether a pack is part of the store.
    pub(super) fn holds(&self, id: PackId) -> bool {
        self.kinds.read().contains_key(&id)
    }

    /// Lets the next reader of a pack open its file anew: another one has taken its name.
    pub(super) fn reopen(&self, id: PackId) {
        let mut open = self.open.lock();
        self.replaced.fetch_add(1, Ordering::AcqRel);
        open.pop(&id);
    }

    /// Makes a pack known that has come back.
    pub(super) fn note(&self, id: PackId, kind: PackKind) {
        self.kinds.write().insert(id, kind);
    }

    /// The kind of a pack.
    pub(super) fn kind(&self, id: PackId) -> Result<PackKind> {
        // An index row may name a pack whose file is gone; rows of bulk data are the many.
        let known = self.kinds.read().get(&id).copied();
        known.ok_or_else(|| self.missing(id, PackKind::Data))
    }

    /// The path of a pack, for messages.
    pub(super) fn path(&self, id: PackId) -> PathBuf {
        let kind = self.kinds.read().get(&id).copied();
        self.disk
            .path(&pack_name(id, kind.unwrap_or(PackKind::Data)))
    }

    fn missing(&self, id: PackId, kind: PackKind) -> Error {
        Error::PackMissing {
            path: self.disk.path(&pack_name(id, kind)),
        }
    }

    /// The open file of a pack.
    ///
    /// # Errors
    /// [`Error::PackMissing`] if it does not exist; [`Error::Io`].
    pub(super) fn file(&self, id: PackId) -> Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.open.lock().get(&id) {
            return Ok(Arc::clone(file));
        }
        let kind = self.kind(id)?;
        let replaced = self.replaced.load(Ordering::Acquire);
        let file = match self.disk.open(&pack_name(id, kind), Access::Read) {
            Err(Error::NotFound) => return Err(self.missing(id, kind)),
            other => other?,
        };
        let mut open = self.open.lock();
        // One that was removed meanwhile must not be kept open: its space would not come back. Nor one that was
        // replaced: it is the damaged one.
        let same = self.replaced.load(Ordering::Acquire) == replaced;
        if same && self.kinds.read().contains_key(&id) {
            open.put(id, Arc::clone(&file));
        }
        Ok(file)
    }

    /// Reads exactly `len` bytes of a pack.
    ///
    /// # Errors
    /// [`Error::PackTruncated`] if the file ends before; otherwise as [`PackFiles::file`].
    pub(super) fn read(&self, id: PackId, off: PackOff, len: usize) -> Result<Vec<u8>> {
        let file = self.file(id)?;
        read_exactly(file.as_ref(), off, len, || self.path(id))
    }
}

/// Reads exactly `len` bytes at `off`, which the caller has bounded.
///
/// # Errors
/// [`Error::PackTruncated`] with the path if the file ends before; [`Error::Io`].
pub(super) fn read_exactly(
    file: &dyn DiskFile,
    off: PackOff,
    len: usize,
    path: impl FnOnce() -> PathBuf,
) -> Result<Vec<u8>> {
    let mut buf = vec![0; len];
    let found = file.read_at(off, &mut buf)?;
    if found < len {
        return Err(Error::PackTruncated {
            path: path(),
            found_bytes: off.raw().saturating_add(found as u64),
            expected_bytes: off.raw().saturating_add(len as u64),
        });
    }
    Ok(buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_store_writes_are_packs() {
        let id = PackId::from_raw(0xab);
        for kind in [PackKind::Log, PackKind::Data] {
            let name = pack_name(id, kind);
            assert_eq!(
                parse_name(name.strip_prefix("packs/").unwrap()),
                Some((id, kind))
            );
        }
        for other in [
            "ab.log",
            "00000000000000AB.log",
            "00000000000000ab.tmp",
            "00000000000000ab",
            "",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
