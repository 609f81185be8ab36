//! The packs that nothing is appended to any more: which of them get parity, and what has to be certain before.

use super::files::pack_name;
use super::parity::ParityStore;
use super::parity_encode::PackToCover;
use super::replay::sealed_at;
use super::scan::Scanned;
use super::settle::write_again;
use super::store::ChunkStore;
use crate::base::{ByteLen, Error, PackId, PackOff, Result, Site};
use crate::disk::{Access, Disk};
use crate::format::rows::{PackKind, PackRow};

impl ChunkStore {
    /// The finished packs that no file of `parity` covers, ascending: sealed, or left unsealed, but never one that is
    /// being written to. Those that no commit names are left out: cleaning removes them.
    ///
    /// # Errors
    /// Those of the index.
    pub fn bare_packs(&self, parity: &ParityStore) -> Result<Vec<PackToCover>> {
        // In this order: a pack of the list that is not open any more when it is asked is finished.
        let all = self.files.all();
        let open = self.open_packs();
        let mut bare = Vec::new();
        for (pack, kind) in all {
            if open.contains(&pack) || parity.covering(pack).is_some() {
                continue;
            }
            let row = self.lookup.pack(pack)?;
            let (sealed, retired) = {
                let writer = self.writer.lock();
                (writer.sealed_digest(pack), writer.retired_row(pack))
            };
            let named = match kind {
                PackKind::Data => row.is_some(),
                PackKind::Log => {
                    let known = row.is_some() || retired.is_some() || sealed.is_some();
                    known || self.tail.limits.contains_key(&pack)
                }
            };
            if named {
                bare.push(PackToCover {
                    pack,
                    kind,
                    digest: sealed.or(row.and_then(|row| row.sealed)),
                });
            }
        }
        Ok(bare)
    }

    /// Makes sure that a pack which is to be covered for the first time is on the disk as it looks, and sound as far as
    /// anything vouches for it.
    ///
    /// One that this process has sealed is. Of others the system's cache may show what the disk does not have (see
    /// [`settle_log`](super::settle_log)), and one without a footer has nothing to compare it with: parity of it
    /// as it is would preserve its damage.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for the first thing that is wrong; those of the disk.
    pub fn prepare_cover(&self, pack: &PackToCover) -> Result<()> {
        let (sealed, retired) = {
            let writer = self.writer.lock();
            (
                writer.sealed_digest(pack.pack),
                writer.retired_row(pack.pack),
            )
        };
        if sealed.is_some() {
            return Ok(());
        }
        if settle_finished(self.files.disk().as_ref(), pack.pack, pack.kind)? {
            return Ok(());
        }
        let row: Option<PackRow> = self.lookup.pack(pack.pack)?.or(retired);
        let mut first = None;
        self.scan_pack(pack.pack, row, &mut |found| {
            if let Scanned::Problem { off, detail } = found {
                first.get_or_insert((off, detail));
            }
            Ok(())
        })?;
        let Some((off, detail)) = first else {
            return Ok(());
        };
        Err(Error::Corrupt {
            what: "pack",
            site: Site {
                pack: pack.pack,
                off,
            },
            detail,
        })
    }

    /// The packs of the store, ascending.
    #[must_use]
    pub fn pack_ids(&self) -> Vec<PackId> {
        self.files.all().into_iter().map(|(id, _)| id).collect()
    }

    /// Length of a pack's file.
    ///
    /// # Errors
    /// [`Error::PackMissing`], [`Error::Io`].
    pub fn pack_len(&self, pack: PackId) -> Result<ByteLen> {
        let name = pack_name(pack, self.files.kind(pack)?);
        let len = self.files.disk().len(&name)?;
        len.ok_or_else(|| Error::PackMissing {
            path: self.files.disk().path(&name),
        })
    }

    /// The packs that are being written to, and how far they have got.
    #[must_use]
    pub fn open_pack_lens(&self) -> Vec<(PackId, ByteLen)> {
        let open = self.writer.lock().open_packs();
        let len = |(id, end): (PackId, PackOff)| (id, ByteLen::from_raw(end.raw()));
        open.into_iter().map(len).collect()
    }

    /// Notes that a pack is covered: nothing but its parity file has to vouch for it any more.
    pub fn note_covered(&self, pack: PackId) {
        self.writer.lock().forget_sealed(pack);
    }
}

/// Writes what may be in the system's cache only of a finished pack again and syncs it: all of one without a footer, the
/// footer of a sealed one, since that is written only after all before it was synced. Says whether it is sealed.
///
/// # Errors
/// [`Error::PackMissing`]; those of the disk.
fn settle_finished(disk: &dyn Disk, pack: PackId, kind: PackKind) -> Result<bool> {
    let name = pack_name(pack, kind);
    let file = match disk.open(&name, Access::ReadWrite) {
        Err(Error::NotFound) => {
            return Err(Error::PackMissing {
                path: disk.path(&name),
            });
        }
        other => other?,
    };
    let end = file.len()?.raw();
    let sealed = sealed_at(file.as_ref(), end, &disk.path(&name))?;
    let from = sealed.map_or(0, |at| at.raw());
    write_again(disk, &name, file.as_ref(), from..end)?;
    Ok(sealed.is_some())
}
