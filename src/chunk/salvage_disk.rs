//! A store's disk for reading only, as good as parity makes it: what is damaged in a covered pack is computed in memory,
//! what cannot be read is zeros, which verify as nothing. Nothing is ever written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{PACKS, pack_name, parse_name};
use super::parity::ParityStore;
use super::parity_verify::Compared;
use super::repair::RangeOutcome;
use crate::base::limits::SALVAGE_SECTOR_LEN;
use crate::base::{ByteLen, Error, PackId, PackOff, Result};
use crate::disk::{Access, Disk, DiskFile, Space};
use crate::format::rows::PackKind;

/// Bytes that are computed at a time.
const STEP_LEN: u64 = 1 << 20;

/// The disk of a store that is salvaged.
pub struct SalvageDisk {
    inner: Arc<dyn Disk>,
    parity: Arc<ParityStore>,
    /// Where covered packs are damaged, once they were compared. A leaf.
    damage: Mutex<BTreeMap<PackId, Arc<[Range<u64>]>>>,
}

impl SalvageDisk {
    /// Wraps the disk of a store and its parity.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>, parity: Arc<ParityStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            parity,
            damage: Mutex::default(),
        })
    }

    /// Where a pack is damaged, and its length when it was covered; `None` if nothing covers it.
    fn damage_of(&self, pack: PackId) -> Option<(Arc<[Range<u64>]>, u64)> {
        let len = self.parity.covering(pack)?.member.len.raw();
        if let Some(known) = self.damage.lock().get(&pack) {
            return Some((Arc::clone(known), len));
        }
        let bad = match self.parity.compare(pack, &mut |_| Ok(())) {
            Ok(Compared::Same) => Vec::new(),
            Ok(Compared::Differs(ranges)) => ranges,
            Ok(Compared::Missing { len }) => std::iter::once(0..len).collect(),
            Ok(Compared::Unprotected) => return None,
            Err(_) => std::iter::once(0..len).collect(),
        };
        let bad: Arc<[Range<u64>]> = bad.into();
        self.damage.lock().insert(pack, Arc::clone(&bad));
        Some((bad, len))
    }

    /// Packs that parity covers and that have no file.
    fn absent(&self, names: &[String]) -> Vec<String> {
        let headers = self.parity.all();
        let members = headers.iter().flat_map(|header| header.members());
        let names_of = members.map(|member| pack_name(member.pack, member.kind));
        let plain = names_of.filter_map(|name| Some(name.rsplit('/').next()?.to_owned()));
        plain.filter(|name| !names.contains(name)).collect()
    }
}

fn refused<T>() -> Result<T> {
    Err(Error::ReadOnly("a store is salvaged without writing to it"))
}

/// The pack that a name within the store means.
fn pack_of(name: &str) -> Option<(PackId, PackKind)> {
    parse_name(name.strip_prefix(PACKS)?.strip_prefix('/')?)
}

impl Disk for SalvageDisk {
    fn create_new(&self, _: &str) -> Result<Arc<dyn DiskFile>> {
        refused()
    }

    fn open(&self, name: &str, _: Access) -> Result<Arc<dyn DiskFile>> {
        let opened = self.inner.open(name, Access::Read);
        let Some((pack, _)) = pack_of(name) else {
            return opened;
        };
        let damage = self.damage_of(pack).filter(|(bad, _)| !bad.is_empty());
        let (inner, len, bad) = match (opened, damage) {
            (opened, Some((bad, len))) => (opened.ok(), len, bad),
            (opened, None) => {
                let opened = opened?;
                let len = opened.len()?.raw();
                (Some(opened), len, Arc::from([]))
            }
        };
        Ok(Arc::new(SalvageFile {
            inner,
            pack,
            len,
            bad,
            parity: Arc::clone(&self.parity),
        }))
    }

    fn rename(&self, _: &str, _: &str) -> Result<()> {
        refused()
    }

    fn remove(&self, _: &str) -> Result<()> {
        refused()
    }

    fn create_dir(&self, _: &str) -> Result<()> {
        refused()
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        let mut names = match self.inner.list(dir) {
            Err(Error::NotFound) if dir == PACKS => Vec::new(),
            other => other?,
        };
        if dir == PACKS {
            names.extend(self.absent(&names));
            names.sort_unstable();
            names.dedup();
        }
        Ok(names)
    }

    fn sync_dir(&self, _: &str) -> Result<()> {
        refused()
    }

    fn len(&self, name: &str) -> Result<Option<ByteLen>> {
        if let Some((pack, _)) = pack_of(name)
            && let Some((bad, len)) = self.damage_of(pack)
            && !bad.is_empty()
        {
            return Ok(Some(ByteLen::from_raw(len)));
        }
        self.inner.len(name)
    }

    fn space(&self) -> Result<Space> {
        self.inner.space()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }
}

/// A pack as good as it can be had.
struct SalvageFile {
    inner: Option<Arc<dyn DiskFile>>,
    pack: PackId,
    len: u64,
    /// What differs from what parity covers, ascending.
    bad: Arc<[Range<u64>]>,
    parity: Arc<ParityStore>,
}

impl SalvageFile {
    /// Reads what the disk has; zeros where it has nothing or fails.
    fn read_raw(&self, off: u64, buf: &mut [u8]) {
        let Some(file) = &self.inner else {
            buf.fill(0);
            return;
        };
        match file.read_at(PackOff::from_raw(off), buf) {
            Ok(found) => buf.get_mut(found..).unwrap_or_default().fill(0),
            Err(_) => {
                let mut at = off;
                for sector in buf.chunks_mut(SALVAGE_SECTOR_LEN) {
                    let found = file.read_at(PackOff::from_raw(at), sector).unwrap_or(0);
                    at += sector.len() as u64;
                    sector.get_mut(found..).unwrap_or_default().fill(0);
                }
            }
        }
    }

    /// Computes the bytes `range` where parity allows it; `again` for what is left between what is lost.
    fn heal(&self, range: Range<u64>, base: u64, buf: &mut [u8], again: bool) {
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        let off = PackOff::from_raw(range.start);
        let place = usize::try_from(range.start - base).unwrap_or(usize::MAX);
        match self.parity.reconstruct_range(self.pack, off, len) {
            Ok(RangeOutcome::Bytes(bytes)) => {
                let to = buf.get_mut(place..place.saturating_add(len));
                if let Some(to) = to.filter(|to| to.len() == bytes.len()) {
                    to.copy_from_slice(&bytes);
                }
            }
            Ok(RangeOutcome::BeyondRepair(lost)) if again => {
                let mut at = range.start;
                let ends = lost.iter().filter(|lost| lost.pack == self.pack);
                let ends = ends.map(|lost| (lost.range.start.raw(), lost.range.end.raw()));
                for (from, to) in ends.chain([(range.end, range.end)]) {
                    let from = from.min(range.end);
                    if at < from {
                        self.heal(at..from, base, buf, false);
                    }
                    at = at.max(to);
                }
            }
            _ => {}
        }
    }
}

impl DiskFile for SalvageFile {
    fn read_at(&self, off: PackOff, buf: &mut [u8]) -> Result<usize> {
        let off = off.raw();
        let left = usize::try_from(self.len.saturating_sub(off)).unwrap_or(usize::MAX);
        let want = buf.len().min(left);
        let part = buf.get_mut(..want).unwrap_or_default();
        self.read_raw(off, part);
        let end = off.saturating_add(want as u64);
        let first = self.bad.partition_point(|range| range.end <= off);
        let hit = self.bad.iter().skip(first);
        for range in hit.take_while(|range| range.start < end) {
            let mut at = range.start.max(off);
            let to = range.end.min(end);
            while at < to {
                let step = (at + STEP_LEN).min(to);
                self.heal(at..step, off, part, true);
                at = step;
            }
        }
        Ok(want)
    }

    fn write_at(&self, _: PackOff, _: &[u8]) -> Result<()> {
        refused()
    }

    fn sync_data(&self) -> Result<()> {
        Ok(())
    }

    fn len(&self) -> Result<ByteLen> {
        Ok(ByteLen::from_raw(self.len))
    }
}
