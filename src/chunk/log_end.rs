//! What parity knows of the end of the log, and of the packs that errors name.
//!
//! The end of a log without a footer may be torn: that is how a crash leaves it. So a newest LOG pack that has lost its
//! footer, or was replaced by an older copy of itself, looks like one that a crash has cut off, and an older tree would
//! be shown. A pack that parity covers was finished, and what it was is known.

use super::files::{list_packs, pack_name, parse_name};
use super::parity::ParityStore;
use super::parity_group::RUN_LEN;
use super::replay::sealed_at;
use crate::base::{ByteLen, Digest, Error, PackId, PackOff, Result, Site};
use crate::disk::{Access, DiskFile};
use crate::format::rows::PackKind;
use crate::format::superblock::Superblock;
use crate::hash::{Checksum, SpanHasher};

/// The pack that an error of reading says is damaged or gone.
#[must_use]
pub fn damaged_pack(error: &Error) -> Option<PackId> {
    match error {
        Error::Corrupt { site, .. } | Error::LogDamaged { site, .. } => Some(site.pack),
        Error::PackMissing { path } | Error::PackTruncated { path, .. } => {
            let name = path.file_name()?.to_str()?;
            parse_name(name).map(|(pack, _)| pack)
        }
        _ => None,
    }
}

impl ParityStore {
    /// Compares the newest LOG packs with what parity says they were when they were finished; the first that is sealed, or
    /// may hold commits, is the last that is looked at.
    ///
    /// Costs the lengths of these packs, and reading one that has no footer.
    ///
    /// # Errors
    /// [`Error::LogDamaged`] for one that is not what it was; [`Error::Io`].
    pub fn check_log_end(&self, superblock: &Superblock) -> Result<()> {
        let disk = self.packs.as_ref();
        let packs = list_packs(disk)?;
        let logs = packs.iter().rev();
        for (&pack, _) in logs.filter(|(_, kind)| **kind == PackKind::Log) {
            let name = pack_name(pack, PackKind::Log);
            let file = disk.open(&name, Access::Read)?;
            let len = file.len()?;
            let sealed = sealed_at(file.as_ref(), len.raw(), &disk.path(&name))?.is_some();
            if let Some(cover) = self.covering(pack) {
                let same_len = len == cover.member.len;
                if !same_len || (!sealed && digest_of(file.as_ref())?.0 != cover.member.digest) {
                    let off = PackOff::from_raw(len.raw().min(cover.member.len.raw()));
                    return Err(Error::LogDamaged {
                        path: disk.path(&name),
                        site: Site { pack, off },
                        detail: "it is not what it was when its parity was made".to_owned(),
                    });
                }
            }
            if sealed || pack <= superblock.pack_high_water {
                break;
            }
        }
        Ok(())
    }

    /// The newest LOG pack that parity covers, that is not there, and that is newer than all LOG packs which are.
    ///
    /// Without the end of the log it is not known which of the numbers that have no file is missing: an error names the first,
    /// which cleaning may have removed. The newest it never removes.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory of packs cannot be listed.
    pub fn lost_newest_log(&self, superblock: &Superblock) -> Result<Option<PackId>> {
        let packs = list_packs(self.packs.as_ref())?;
        let is_log = |kind: PackKind| kind == PackKind::Log;
        // One above the mark may be what a crash has left of its creation.
        let logs = packs.range(..=superblock.pack_high_water);
        let logs = logs.filter(|(_, kind)| is_log(**kind));
        let newest = logs.map(|(pack, _)| *pack).max().unwrap_or_default();
        let files = self.all();
        let members = files.iter().flat_map(|file| file.members());
        let lost = members.filter(|m| is_log(m.kind) && m.pack > newest);
        Ok(lost.map(|m| m.pack).max())
    }

    /// The LOG packs that parity covers and of which something cannot be read at all.
    ///
    /// Reads them all. To be asked when reading the log has failed without saying where.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory of packs cannot be listed.
    pub fn unreadable_logs(&self) -> Result<Vec<PackId>> {
        let disk = self.packs.as_ref();
        let logs = list_packs(disk)?.into_iter();
        let logs =
            logs.filter(|(pack, kind)| *kind == PackKind::Log && self.covering(*pack).is_some());
        let unreadable = |(pack, kind): &(PackId, PackKind)| {
            let file = disk.open(&pack_name(*pack, *kind), Access::Read);
            file.and_then(|file| digest_of(file.as_ref())).is_err()
        };
        Ok(logs.filter(unreadable).map(|(pack, _)| pack).collect())
    }
}

/// Digest and length of a whole file.
pub(super) fn digest_of(file: &dyn DiskFile) -> Result<(Digest, ByteLen)> {
    let mut whole = SpanHasher::new(Checksum::Pack);
    let mut buf = vec![0; RUN_LEN];
    let mut off = 0;
    loop {
        let found = file.read_at(PackOff::from_raw(off), &mut buf)?;
        if found == 0 {
            return Ok((Digest::from_raw(whole.finish()), ByteLen::from_raw(off)));
        }
        whole.update(buf.get(..found).unwrap_or_default());
        off += found as u64;
    }
}
