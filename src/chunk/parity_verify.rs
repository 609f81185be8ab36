//! Compares packs with what their parity files say they were, and puts away parity files that cannot be read.
//!
//! An intact pack is read once, from front to back, for its digest. Only one that does not have it is read again,
//! symbol by symbol, to tell where it is damaged.

use std::ops::Range;
use std::sync::Arc;

use super::files::pack_name;
use super::parity::{ParityStore, load_header};
use super::parity_group::RUN_LEN;
use crate::base::limits::QUARANTINE_FILES_MAX;
use crate::base::{Digest, Error, PackId, PackOff, ParityId, Result};
use crate::disk::{Access, DiskFile};
use crate::format::parity::Member;
use crate::hash::{Checksum, SpanHasher};

/// What comparing a pack with its parity file has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// It is byte for byte what was encoded.
    Same,
    /// It has no file.
    Missing {
        /// Bytes that it had.
        len: u64,
    },
    /// These bytes are not what was encoded, cannot be read, are missing or too many; ascending, not touching.
    Differs(Vec<Range<u64>>),
    /// No parity file covers it.
    Unprotected,
}

impl ParityStore {
    /// The name of a parity file within its place, for messages.
    #[must_use]
    pub fn name(&self, id: ParityId) -> String {
        self.place.name(id)
    }

    /// Reads a pack from the medium and compares it with what was encoded; `each` is told how many bytes were read.
    ///
    /// What cannot be read counts as different.
    ///
    /// # Errors
    /// Those of `each`; [`Error::Io`] if the file cannot be opened.
    pub fn compare(
        &self,
        pack: PackId,
        each: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Compared> {
        let Some(cover) = self.covering(pack) else {
            return Ok(Compared::Unprotected);
        };
        let member = &cover.member;
        let len = member.len.raw();
        let file = match self.packs.open(&pack_name(pack, member.kind), Access::Read) {
            Err(Error::NotFound) => return Ok(Compared::Missing { len }),
            other => other?,
        };
        file.drop_cached();
        let same = is_same(file.as_ref(), member, each);
        file.drop_cached();
        if same? {
            return Ok(Compared::Same);
        }
        let found_len = file.len()?.raw();
        drop(file);
        let Some(header) = self.header(cover.parity) else {
            return Ok(Compared::Unprotected);
        };
        let group = self.open_group(Arc::clone(&header));
        let idx = header.member_of(pack).unwrap_or(usize::MAX);
        let survey = self.survey_member(&group, idx)?;
        each(len)?;
        if survey.clean {
            return Ok(Compared::Same);
        }
        let step = group.symbol_len() as u64;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let bad = survey.bad.iter().zip(0_u64..).filter(|(bad, _)| **bad);
        for (_, idx) in bad {
            add_range(&mut ranges, idx * step..((idx + 1) * step).min(len));
        }
        if found_len > len {
            add_range(&mut ranges, len..found_len);
        }
        if ranges.is_empty() {
            ranges.push(0..len);
        }
        Ok(Compared::Differs(ranges))
    }

    /// Gives a parity file that nothing can be read from another name, so that its number is free; returns that name.
    /// `None`: it is of a newer version, or it can be read after all, and stays.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put_away(&self, id: ParityId) -> Result<Option<String>> {
        let _one_at_a_time = self.repairs.lock();
        if let Ok(_) | Err(Error::VersionTooNew { .. }) = load_header(&self.place, id, self.store) {
            return Ok(None);
        }
        let disk = self.place.disk.as_ref();
        let name = self.place.name(id);
        for n in 0..QUARANTINE_FILES_MAX {
            let to = format!("{name}.bad{n}");
            if disk.len(&to)?.is_some() {
                continue;
            }
            match disk.rename(&name, &to) {
                Ok(()) => disk.sync_dir(&self.place.dir)?,
                Err(Error::NotFound) => {}
                Err(other) => return Err(other),
            }
            self.forget_unreadable(id);
            return Ok(Some(to));
        }
        Err(Error::Busy("too many unreadable parity files are kept"))
    }
}

/// Adds a range to those that ascend, joining it to the one before if they touch.
fn add_range(ranges: &mut Vec<Range<u64>>, next: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end >= next.start => last.end = last.end.max(next.end),
        _ => ranges.push(next),
    }
}

/// Whether a file has the length and the digest of a member; a read that fails ends it.
fn is_same(
    file: &dyn DiskFile,
    member: &Member,
    each: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<bool> {
    let len = member.len.raw();
    if file.len()?.raw() != len {
        return Ok(false);
    }
    let mut whole = SpanHasher::new(Checksum::Pack);
    let mut buf = vec![0; RUN_LEN];
    let mut off = 0;
    while off < len {
        let want = usize::try_from(len - off).unwrap_or(usize::MAX);
        let part = buf.get_mut(..want.min(RUN_LEN)).unwrap_or_default();
        match file.read_at(PackOff::from_raw(off), part) {
            Ok(found) if found == part.len() => {}
            _ => return Ok(false),
        }
        whole.update(part);
        off += part.len() as u64;
        each(part.len() as u64)?;
    }
    Ok(Digest::from_raw(whole.finish()) == member.digest)
}
