//! Checks a parity file and writes it anew: from its own second copies, or from the packs.

use std::sync::Arc;

use super::parity::{ParityConfig, ParityStore, header_at};
use super::parity_encode::write_tables;
use super::parity_group::{RUN_LEN, Table, both_headers, header_binding, page_at, symbol_sum};
use crate::base::{Error, PackOff, ParityId, Result};
use crate::disk::{Access, DiskFile};
use crate::format::parity::{ParityCopy, ParityHeader, TablePage};

/// What is wrong with a parity file. All zero: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParityCheck {
    /// Whether the file is not there.
    pub missing: bool,
    /// Whether its length is not the one that its header says.
    pub wrong_len: bool,
    /// Copies of the header that are bad, of two.
    pub headers_bad: u64,
    /// Copies of table pages that are bad.
    pub pages_bad: u64,
    /// Table pages of which both copies are bad.
    pub pages_lost: u64,
    /// Repair symbols that are bad, or whose checksum is lost.
    pub symbols_bad: u64,
}

impl ParityCheck {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// What a repair of a parity file has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParityRepair {
    /// Nothing was wrong; nothing was written.
    Clean,
    /// It was written anew from what was intact in it.
    Copied,
    /// It was encoded anew from its packs.
    Encoded,
}

impl ParityStore {
    /// Reads all of a parity file and says what is wrong with it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a number that is not known. What cannot be read counts as bad.
    pub fn check_parity(&self, id: ParityId) -> Result<ParityCheck> {
        let header = self.header(id);
        let header = header.ok_or(Error::Invalid("no parity file has this number"))?;
        let mut check = ParityCheck::default();
        let Ok(file) = self.place.disk.open(&self.place.name(id), Access::Read) else {
            check.missing = true;
            return Ok(check);
        };
        check.wrong_len = file.len().ok() != Some(header.file_len());
        for off in both_headers(&header) {
            let found = header_at(&self.place, file.as_ref(), off, (id, self.store));
            check.headers_bad += u64::from(found.ok().as_ref() != Some(header.as_ref()));
        }
        let header_sum = header_binding(&header);
        for page in 0..header.table_pages() {
            let at = TablePage { header_sum, page };
            let bad = [ParityCopy::First, ParityCopy::Second]
                .map(|copy| u64::from(page_at(&header, file.as_ref(), copy, &at).is_none()));
            let bad: u64 = bad.iter().sum();
            check.pages_bad += bad;
            check.pages_lost += u64::from(bad == 2);
        }
        let group = self.open_group(Arc::clone(&header));
        check.symbols_bad =
            each_repair_run(&header, file.as_ref(), &group.table, &mut |_, _| Ok(()))?;
        Ok(check)
    }

    /// Writes a damaged or missing parity file anew, with the same number and the same bytes.
    ///
    /// # Errors
    /// As [`ParityStore::encode`] if the packs have to be read and are damaged themselves: repair them first, as
    /// far as the parity file allows. [`Error::Invalid`] for a number that is not known.
    pub fn repair_parity(&self, id: ParityId, config: &ParityConfig) -> Result<ParityRepair> {
        let _one_at_a_time = self.repairs.lock();
        let check = self.check_parity(id)?;
        if check.is_clean() {
            return Ok(ParityRepair::Clean);
        }
        let header = self.header(id);
        let header = header.ok_or(Error::Invalid("no parity file has this number"))?;
        if check.missing || check.pages_lost > 0 || check.symbols_bad > 0 {
            self.encode_again(&header, config)?;
            return Ok(ParityRepair::Encoded);
        }
        let group = self.open_group(Arc::clone(&header));
        let old = group.file.ok_or(Error::Internal("a file that was there"))?;
        let table = group.table;
        self.write_file(&header, |file| {
            let copy = &mut |off, run: &[u8]| file.write_at(off, run);
            if each_repair_run(&header, old.as_ref(), &table, copy)? > 0 {
                return Err(Error::Busy("the parity file changes while it is copied"));
            }
            write_tables(&header, &table, file)
        })?;
        Ok(ParityRepair::Copied)
    }
}

/// Reads the repair symbols from front to back, in runs that are handed to `each`; returns how many are bad.
fn each_repair_run(
    header: &ParityHeader,
    file: &dyn DiskFile,
    table: &Table,
    each: &mut dyn FnMut(PackOff, &[u8]) -> Result<()>,
) -> Result<u64> {
    let symbol_len = usize::try_from(header.shape().symbol_len).unwrap_or(usize::MAX);
    let mut buf = vec![0; RUN_LEN];
    let (mut bad, mut done) = (0, 0);
    while done < header.repair_total() {
        let left = usize::try_from(header.repair_total() - done).unwrap_or(usize::MAX);
        let count = left.min(RUN_LEN / symbol_len.max(1));
        let run = buf.get_mut(..count * symbol_len).unwrap_or_default();
        let start = header.repair_off(0, 0).raw() + done * symbol_len as u64;
        let off = PackOff::from_raw(start);
        let found = file.read_at(off, run);
        if found.is_err() {
            // A bad sector: the symbols that can be read on their own are.
            for (n, symbol) in run.chunks_mut(symbol_len).enumerate() {
                let off = PackOff::from_raw(start + (n * symbol_len) as u64);
                if file.read_at(off, symbol).is_err() {
                    symbol.fill(0);
                }
            }
        }
        let came = found.unwrap_or(run.len());
        for (n, symbol) in run.chunks(symbol_len).enumerate() {
            let entry = header.source_total() + done + n as u64;
            let right =
                (n + 1) * symbol_len <= came && table.get(entry) == Some(symbol_sum(symbol));
            bad += u64::from(!right);
        }
        each(off, run)?;
        done += count as u64;
    }
    Ok(bad)
}
