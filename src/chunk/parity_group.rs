//! The symbols of one parity file and its packs, read and checked: damage and I/O errors become erasures.

use std::sync::Arc;

use rayon::prelude::*;

use super::files::pack_name;
use super::parity::{ParityConfig, ParityPlace, ParityStore};
use crate::base::{Error, PackOff, Result};
use crate::disk::{Access, Disk, DiskFile};
use crate::fec::{BlockSize, Numbered, Plans};
use crate::format::Hash;
use crate::format::parity::{
    PARITY_PAGE_LEN, PARITY_PAGE_SUMS, ParityCopy, ParityHeader, SourceAt, SymbolAt, SymbolSum,
    TablePage, decode_table_page, encode_parity_header, header_sum,
};
use crate::hash::{Checksum, checksum};

/// Bytes of table pages, and of symbols in a row, that are read at a time.
pub(super) const RUN_LEN: usize = 1 << 20;
/// Repair symbols that are read beyond those that are missing. So many more have failed nobody yet: each one makes a
/// failure to decode about 100 times less likely.
const SPARE_SYMBOLS: usize = 64;

/// The checksum of a symbol, of which the last bytes may lie past the end of its pack.
pub(super) fn symbol_sum(symbol: &[u8]) -> SymbolSum {
    let sum = checksum(Checksum::ParitySymbol, &[symbol]);
    sum.first_chunk().copied().unwrap_or_default()
}

/// The checksums of all symbols, as far as they are known.
pub(super) struct Table {
    sums: Vec<SymbolSum>,
    /// For each page whether both copies are bad: what it covers counts as erased.
    lost: Vec<bool>,
}

impl Table {
    /// A table that is being made: all of it is known.
    pub(super) fn new(sums: Vec<SymbolSum>) -> Self {
        let lost = vec![false; sums.len().div_ceil(PARITY_PAGE_SUMS)];
        Self { sums, lost }
    }

    /// The checksum at an index of the table, if it is known.
    pub(super) fn get(&self, entry: u64) -> Option<SymbolSum> {
        let entry = usize::try_from(entry).ok()?;
        let lost = self.lost.get(entry / PARITY_PAGE_SUMS)?;
        self.sums.get(entry).filter(|_| !lost).copied()
    }

    /// Sets a checksum.
    pub(super) fn set(&mut self, entry: u64, sum: SymbolSum) {
        let entry = usize::try_from(entry).unwrap_or(usize::MAX);
        if let Some(place) = self.sums.get_mut(entry) {
            *place = sum;
        }
    }

    /// The checksums page by page.
    pub(super) fn pages(&self) -> impl Iterator<Item = &[SymbolSum]> {
        self.sums.chunks(PARITY_PAGE_SUMS)
    }

    /// Whether a symbol is what was encoded. One whose checksum is not known is not.
    fn accepts(&self, entry: u64, symbol: &[u8]) -> bool {
        self.get(entry) == Some(symbol_sum(symbol))
    }
}

/// One source block in memory.
#[derive(Default)]
pub(super) struct Block {
    /// Its index.
    pub(super) block: u32,
    /// All its source symbols, one after another; what could not be read is anything.
    pub(super) bytes: Vec<u8>,
    /// For each symbol whether it is right.
    pub(super) good: Vec<bool>,
    /// The symbols that were not right when they were read.
    pub(super) erased: Vec<u32>,
}

/// A parity file and the packs that it covers, opened.
pub(super) struct Group {
    /// The header.
    pub(super) header: Arc<ParityHeader>,
    /// The packs in the header's order; `None` for one that cannot be opened.
    pub(super) members: Vec<Option<Arc<dyn DiskFile>>>,
    /// The parity file; `None` if it cannot be opened or is being made.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    /// The checksums.
    pub(super) table: Table,
    symbol_len: usize,
    source_count: usize,
}

/// How many blocks are held, and how many of them are worked on, at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width {
    pub(super) held: u32,
    pub(super) busy: usize,
}

impl ParityStore {
    /// Opens what there is of a parity file and its packs and reads its table.
    pub(super) fn open_group(&self, header: Arc<ParityHeader>) -> Group {
        let name = self.place.name(header.parity());
        let file = self.place.disk.open(&name, Access::Read).ok();
        let table = match &file {
            Some(file) => read_table(&header, file.as_ref()),
            None => unknown_table(&header),
        };
        Group::new(self.packs.as_ref(), header, file, table)
    }
}

/// The checksum of a header, as pages of its table are bound to it.
pub(super) fn header_binding(header: &ParityHeader) -> Hash {
    let hash = |parts: &[&[u8]]| checksum(Checksum::ParityHeader, parts);
    header_sum(&encode_parity_header(header, &hash))
}

fn entries(header: &ParityHeader) -> usize {
    let all = header.source_total() + header.repair_total();
    usize::try_from(all).unwrap_or(0)
}

fn unknown_table(header: &ParityHeader) -> Table {
    let mut table = Table::new(vec![SymbolSum::default(); entries(header)]);
    table.lost.fill(true);
    table
}

/// A page of the table from one of its places.
pub(super) fn page_at(
    header: &ParityHeader,
    file: &dyn DiskFile,
    copy: ParityCopy,
    at: &TablePage,
) -> Option<Vec<SymbolSum>> {
    let mut bytes = vec![0; PARITY_PAGE_LEN];
    let found = file.read_at(header.table_off(copy, at.page), &mut bytes);
    if found.ok()? < bytes.len() {
        return None;
    }
    page_of(&bytes, at, header)
}

fn page_of(bytes: &[u8], at: &TablePage, header: &ParityHeader) -> Option<Vec<SymbolSum>> {
    let hash = |parts: &[&[u8]]| checksum(Checksum::ParityTable, parts);
    decode_table_page(bytes, at, header.page_sums(at.page), &hash).ok()
}

/// Reads the table: each page from its first place, or from its second if that one is bad.
fn read_table(header: &ParityHeader, file: &dyn DiskFile) -> Table {
    let header_sum = header_binding(header);
    let mut sums = Vec::with_capacity(entries(header));
    let mut lost = Vec::new();
    let mut run = vec![0; RUN_LEN];
    let mut page = 0;
    while page < header.table_pages() {
        // Many pages with one read; if that fails each is read on its own below.
        let found = file.read_at(header.table_off(ParityCopy::First, page), &mut run);
        let found = found.unwrap_or(0);
        for bytes in run.chunks(PARITY_PAGE_LEN) {
            if page >= header.table_pages() {
                break;
            }
            let at = TablePage { header_sum, page };
            let first_in_run = page % (RUN_LEN / PARITY_PAGE_LEN) as u64;
            let read = first_in_run.saturating_add(1) * PARITY_PAGE_LEN as u64 <= found as u64;
            let here = read.then(|| page_of(bytes, &at, header)).flatten();
            let there = here
                .or_else(|| page_at(header, file, ParityCopy::First, &at))
                .or_else(|| page_at(header, file, ParityCopy::Second, &at));
            lost.push(there.is_none());
            sums.extend(
                there.unwrap_or_else(|| vec![SymbolSum::default(); header.page_sums(page)]),
            );
            page += 1;
        }
    }
    Table { sums, lost }
}

impl Group {
    /// Opens the packs of a header; `file` is the parity file if there is one.
    pub(super) fn new(
        packs: &dyn Disk,
        header: Arc<ParityHeader>,
        file: Option<Arc<dyn DiskFile>>,
        table: Table,
    ) -> Self {
        let open = |name: String| packs.open(&name, Access::Read).ok();
        let names = header.members().iter().map(|m| pack_name(m.pack, m.kind));
        let members = names.map(open).collect();
        let index = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        Self {
            symbol_len: index(header.shape().symbol_len),
            source_count: index(header.shape().source_count),
            header,
            members,
            file,
            table,
        }
    }

    /// Bytes of a symbol.
    pub(super) fn symbol_len(&self) -> usize {
        self.symbol_len
    }

    fn size(&self) -> BlockSize {
        BlockSize {
            source_count: self.header.shape().source_count,
            symbol_len: self.header.shape().symbol_len,
        }
    }

    /// How many blocks fit into the memory that a configuration allows.
    pub(super) fn width(&self, config: &ParityConfig) -> Width {
        let block_len = self.symbol_len.saturating_mul(self.source_count).max(1);
        let blocks = self.header.shape().block_count.max(1);
        let fitting = config.memory_len / block_len;
        let threads = config.threads.min(rayon::current_num_threads()).max(1);
        // A block that is worked on takes about twice its length more.
        let busy = threads.min(fitting / 3).max(1);
        let held = fitting.saturating_sub(2 * busy).max(1);
        Width {
            held: u32::try_from(held).unwrap_or(u32::MAX).min(blocks),
            busy,
        }
    }

    /// Bytes of a member's symbol that lie in its pack: all of them but for the last one's.
    pub(super) fn real_len(&self, at: SymbolAt) -> usize {
        let len = self.header.members().get(at.member);
        let len = len.map_or(0, |member| member.len.raw());
        let rest = len.saturating_sub(self.offset(at.idx).raw());
        usize::try_from(rest)
            .unwrap_or(usize::MAX)
            .min(self.symbol_len)
    }

    /// Offset in its pack of a symbol.
    pub(super) fn offset(&self, idx: u64) -> PackOff {
        PackOff::from_raw(idx.saturating_mul(self.symbol_len as u64))
    }

    /// Reads consecutive symbols of a member into `buf`, whose length says how many; says for each whether it
    /// came. What lies past the end of the pack is zero.
    pub(super) fn read_run(&self, first: SymbolAt, buf: &mut [u8]) -> Vec<bool> {
        buf.fill(0);
        let count = buf.len() / self.symbol_len.max(1);
        let Some(Some(file)) = self.members.get(first.member) else {
            return vec![false; count];
        };
        let nth = |n: usize| SymbolAt {
            member: first.member,
            idx: first.idx.saturating_add(n as u64),
        };
        let real: usize = (0..count).map(|n| self.real_len(nth(n))).sum();
        let want = buf.get_mut(..real).unwrap_or_default();
        if let Ok(found) = file.read_at(self.offset(first.idx), want) {
            let came = |n: usize| n * self.symbol_len + self.real_len(nth(n)) <= found;
            return (0..count).map(came).collect();
        }
        // A bad sector somewhere: only the symbols that cannot be read on their own are erased.
        let symbols = buf.chunks_mut(self.symbol_len).enumerate();
        let read = |(n, symbol): (usize, &mut [u8])| {
            let real = self.real_len(nth(n));
            let part = symbol.get_mut(..real).unwrap_or_default();
            let found = file.read_at(self.offset(nth(n).idx), part);
            let came = found.is_ok_and(|found| found == real);
            if !came {
                symbol.fill(0);
            }
            came
        };
        symbols.map(read).collect()
    }

    /// Whether a member's symbol is what was encoded.
    pub(super) fn accepts(&self, at: SymbolAt, symbol: &[u8]) -> bool {
        self.table.accepts(self.header.source_entry(at), symbol)
    }

    /// Reads consecutive blocks: one read per row of each pack, with more than one thread the packs in parallel.
    /// Nothing is checked yet. `blocks` is anything, of which the memory is used again.
    ///
    /// With one thread no pool is asked: a read that heals may run where others wait for it.
    pub(super) fn load(&self, blocks: &mut Vec<Block>, first: u32, count: u32, threads: usize) {
        blocks.resize_with(usize::try_from(count).unwrap_or(usize::MAX), Block::default);
        for (block, number) in blocks.iter_mut().zip(first..) {
            block.block = number;
            block.bytes.resize(self.symbol_len * self.source_count, 0);
            block.good.clear();
            block.good.resize(self.source_count, false);
            block.erased.clear();
        }
        // Each pack's part of each block: disjoint slices, so that packs can be read side by side.
        let mut parts: Vec<Vec<(&mut [u8], &mut [bool])>> = Vec::new();
        parts.resize_with(self.members.len(), Vec::new);
        for block in blocks {
            let mut bytes = block.bytes.as_mut_slice();
            let mut good = block.good.as_mut_slice();
            for (member, part) in parts.iter_mut().enumerate() {
                let rows = usize::try_from(self.header.rows(member)).unwrap_or(0);
                let (Some((own, rest)), Some((own_good, rest_good))) = (
                    std::mem::take(&mut bytes).split_at_mut_checked(rows * self.symbol_len),
                    std::mem::take(&mut good).split_at_mut_checked(rows),
                ) else {
                    break;
                };
                part.push((own, own_good));
                (bytes, good) = (rest, rest_good);
            }
            bytes.fill(0);
        }
        let parts: Vec<_> = parts.into_iter().enumerate().collect();
        let load = |(member, part)| self.load_member(member, first, part);
        if threads > 1 {
            parts.into_par_iter().for_each(load);
        } else {
            parts.into_iter().for_each(load);
        }
    }

    /// Reads one pack's rows of consecutive blocks, of which `part` has the places.
    fn load_member(&self, member: usize, first: u32, mut part: Vec<(&mut [u8], &mut [bool])>) {
        let symbols = self.header.symbols(member);
        let stride = u64::from(self.header.shape().block_count);
        let mut stripe = vec![0; part.len() * self.symbol_len];
        for row in 0..self.header.rows(member) {
            let idx = u64::from(row) * stride + u64::from(first);
            let there = usize::try_from(symbols.saturating_sub(idx)).unwrap_or(usize::MAX);
            let there = there.min(part.len());
            let buf = stripe.get_mut(..there * self.symbol_len);
            let buf = buf.unwrap_or_default();
            let came = self.read_run(SymbolAt { member, idx }, buf);
            let row = usize::try_from(row).unwrap_or(usize::MAX);
            for (n, (bytes, good)) in part.iter_mut().enumerate() {
                let from = buf.chunks(self.symbol_len).nth(n);
                let to = bytes.chunks_mut(self.symbol_len).nth(row);
                match (from, to) {
                    (Some(from), Some(to)) => to.copy_from_slice(from),
                    (None, Some(to)) => to.fill(0),
                    (_, None) => {}
                }
                if let Some(good) = good.get_mut(row) {
                    // Past the end of the pack: zeros, which are right without being read.
                    *good = came.get(n).copied().unwrap_or(true);
                }
            }
        }
    }

    /// Compares the symbols of a block that was just loaded with their checksums.
    pub(super) fn check(&self, block: &mut Block) {
        let symbols = block.bytes.chunks(self.symbol_len).zip(&mut block.good);
        for ((symbol, good), esi) in symbols.zip(0..) {
            let at = SourceAt {
                block: block.block,
                esi,
            };
            if let Some(at) = self.header.symbol_at(at) {
                *good = *good && self.accepts(at, symbol);
            }
            if !*good {
                block.erased.push(esi);
            }
        }
    }

    /// Computes what is missing in a block that was checked. Returns whether the block is whole now.
    ///
    /// # Errors
    /// [`Error::Internal`] for sizes that do not fit together.
    pub(super) fn recover(&self, plans: &Plans, block: &mut Block) -> Result<bool> {
        let missing = block.erased.len();
        if missing == 0 {
            return Ok(true);
        }
        let repair = self.repair_symbols(block.block, missing + SPARE_SYMBOLS);
        if repair.len() < missing {
            return Ok(false);
        }
        let repair: Vec<_> = repair
            .iter()
            .map(|(idx, bytes)| Numbered { idx: *idx, bytes })
            .collect();
        let size = self.size();
        if !plans.recover(&size, &mut block.bytes, &block.erased, &repair)? {
            return Ok(false);
        }
        let nth = |esi: u32| usize::try_from(esi).unwrap_or(usize::MAX);
        let symbol = |esi: u32| block.bytes.chunks(self.symbol_len).nth(nth(esi));
        // A wrong result would mean that a damaged symbol has passed as a good one.
        let is_right = |&esi: &u32| {
            let at = self.header.symbol_at(SourceAt {
                block: block.block,
                esi,
            });
            let entry = at.map(|at| self.header.source_entry(at));
            let sum = entry.and_then(|entry| self.table.get(entry));
            sum.is_none_or(|sum| sum == symbol_sum(symbol(esi).unwrap_or_default()))
        };
        if !block.erased.iter().all(is_right) {
            return Ok(false);
        }
        block.good.fill(true);
        Ok(true)
    }

    /// Up to `most` intact repair symbols of a block.
    fn repair_symbols(&self, block: u32, most: usize) -> Vec<(u32, Vec<u8>)> {
        let Some(file) = &self.file else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for repair in 0..self.header.shape().repair_count {
            if found.len() >= most {
                break;
            }
            let mut symbol = vec![0; self.symbol_len];
            let came = file.read_at(self.header.repair_off(block, repair), &mut symbol);
            let entry = self.header.repair_entry(block, repair);
            if came.is_ok_and(|n| n == symbol.len()) && self.table.accepts(entry, &symbol) {
                found.push((repair, symbol));
            }
        }
        found
    }
}

/// Where the second header of a file of a given header lies, and where the first.
pub(super) fn both_headers(header: &ParityHeader) -> [PackOff; 2] {
    [ParityCopy::First, ParityCopy::Second].map(|copy| header.header_off(copy))
}

/// Creates the directory of parity files if there is none.
pub(super) fn create_place(place: &ParityPlace) -> Result<()> {
    if place.dir.is_empty() {
        return Ok(());
    }
    place.disk.create_dir(&place.dir)?;
    let above = place.dir.rsplit_once('/').map_or("", |(above, _)| above);
    place.disk.sync_dir(above)
}

/// Removes a file that may not be there.
pub(super) fn remove_if_there(disk: &dyn Disk, name: &str) -> Result<()> {
    match disk.remove(name) {
        Err(Error::NotFound) => Ok(()),
        other => other,
    }
}
