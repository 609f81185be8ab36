//! Makes a parity file: for one pack, or for a group of packs.
//!
//! 1. Each pack is read once from front to back: its digest, and the checksum of each symbol. A pack that is not
//!    what its footer, its own parity file or the caller says it is, is not encoded: parity would preserve the damage.
//! 2. The packs are read a second time, block by block, as many blocks at a time as the memory allows; each symbol is
//!    compared with its checksum of the first reading. The blocks' repair symbols are written.
//! 3. The tables and headers are written, the file is synced, renamed to its name, and the directory is synced.

use std::sync::Arc;

use rayon::prelude::*;

use super::files::{pack_name, read_exactly};
use super::parity::{ParityConfig, ParityStore};
use super::parity_group::{
    Block, Group, RUN_LEN, Table, both_headers, create_place, header_binding, remove_if_there,
    symbol_sum,
};
use super::replay::sealed_at;
use super::types::Durable;
use crate::base::limits::{
    PACK_CAPACITY_MAX, PARITY_BLOCK_SYMBOLS, PARITY_BLOCK_SYMBOLS_MAX, PARITY_REPAIR_SYMBOLS_MIN,
    PARITY_SYMBOL_LEN,
};
use crate::base::{ByteLen, Digest, Error, PackId, PackOff, ParityId, Result, Site};
use crate::disk::{Access, DiskFile};
use crate::fec::BlockSize;
use crate::format::footer::decode_footer;
use crate::format::parity::{
    Member, ParityCopy, ParityHeader, ParityKind, Shape, SourceAt, SymbolSum, TablePage,
    block_rows, encode_parity_header, encode_table_page, symbols_of_len,
};
use crate::format::rows::PackKind;
use crate::hash::{Checksum, SpanHasher, checksum};

/// A pack that is to be covered: one that nothing will be appended to any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackToCover {
    /// Its number.
    pub pack: PackId,
    /// LOG or DATA.
    pub kind: PackKind,
    /// Digest of its file, if something vouches for one, as the row of a sealed pack does. Without it a sealed pack whose
    /// trailer is damaged looks like one that was left unsealed.
    pub digest: Option<Digest>,
}

/// A pack as the first reading has found it.
struct Surveyed {
    member: Member,
    sums: Vec<SymbolSum>,
}

fn corrupt(pack: PackId, off: u64, detail: &str) -> Error {
    Error::Corrupt {
        what: "pack",
        site: Site {
            pack,
            off: PackOff::from_raw(off),
        },
        detail: detail.to_owned(),
    }
}

/// The parameters for packs of the given lengths.
///
/// # Errors
/// [`Error::Invalid`] if there is nothing to encode or the overhead is above 100 %.
fn shape(lens: &[ByteLen], percent: u8) -> Result<Shape> {
    if !(1..=100).contains(&percent) {
        return Err(Error::Invalid("an overhead of parity outside of 0..=100 %"));
    }
    let symbols: Vec<u64> = lens
        .iter()
        .map(|len| symbols_of_len(*len, PARITY_SYMBOL_LEN))
        .collect();
    let total: u64 = symbols.iter().sum();
    let most = symbols.iter().copied().max().unwrap_or(0);
    let limit = u64::from(PARITY_BLOCK_SYMBOLS);
    let blocks = u32::try_from(total.div_ceil(limit));
    let mut block_count = blocks.map_err(|_| Error::Invalid("too many packs of a group"))?;
    if block_count == 0 || lens.len() as u64 >= limit {
        return Err(Error::Invalid("a group of packs without bytes"));
    }
    // Each pack may need one row more than its share: a few blocks more at most.
    while block_rows(&symbols, block_count) > limit {
        block_count += 1;
    }
    // As if all packs were as long as the longest, so that a full group survives the loss of any one.
    let rows = most.div_ceil(u64::from(block_count));
    let padded = rows.saturating_mul(lens.len() as u64);
    let repair = padded.saturating_mul(u64::from(percent)).div_ceil(100);
    let repair = u32::try_from(repair).unwrap_or(u32::MAX);
    let source = block_rows(&symbols, block_count);
    Ok(Shape {
        symbol_len: PARITY_SYMBOL_LEN,
        source_count: u32::try_from(source).unwrap_or(u32::MAX),
        repair_count: repair.clamp(PARITY_REPAIR_SYMBOLS_MIN, PARITY_BLOCK_SYMBOLS_MAX),
        block_count,
    })
}

/// Where the footer of a sealed pack begins and what it says the bytes before it hash to.
fn footer_of(file: &dyn DiskFile, len: u64, pack: PackId) -> Result<Option<(u64, Digest)>> {
    let path = std::path::Path::new("");
    let Some(at) = sealed_at(file, len, path)? else {
        return Ok(None);
    };
    let footer_len = usize::try_from(len.saturating_sub(at.raw())).unwrap_or(usize::MAX);
    let bytes = read_exactly(file, at, footer_len, || path.to_owned())?;
    match decode_footer(&bytes, &|parts| checksum(Checksum::Footer, parts)) {
        Ok(footer) if footer.pack == pack => Ok(Some((at.raw(), Digest::from_raw(footer.body)))),
        Ok(_) => Err(corrupt(pack, at.raw(), "the footer is another pack's")),
        Err(error) => Err(corrupt(pack, at.raw(), &error.to_string())),
    }
}

/// Digest of a whole file, with the checksums of its symbols; `body` is what its first bytes must hash to.
fn digest_file(
    file: &dyn DiskFile,
    pack: PackId,
    len: u64,
    body: Option<(u64, Digest)>,
) -> Result<(Digest, Vec<SymbolSum>)> {
    let symbol_len = usize::try_from(PARITY_SYMBOL_LEN).unwrap_or(usize::MAX);
    let mut sums = Vec::new();
    let mut whole = SpanHasher::new(Checksum::Pack);
    let mut buf = vec![0; RUN_LEN];
    let mut off = 0;
    while off < len {
        let want = usize::try_from(len - off)
            .unwrap_or(usize::MAX)
            .min(RUN_LEN);
        buf.fill(0);
        let part = buf.get_mut(..want).unwrap_or_default();
        if file.read_at(PackOff::from_raw(off), part)? < want {
            return Err(corrupt(pack, off, "the file has become shorter"));
        }
        let end = off + want as u64;
        let split = body.map_or(end, |(at, _)| at).clamp(off, end);
        let (head, tail) = part
            .split_at_checked(usize::try_from(split - off).unwrap_or(0))
            .unwrap_or((part, &[]));
        whole.update(head);
        if let Some((at, digest)) = body
            && at == split
            && whole.len_bytes() == at
            && Digest::from_raw(whole.finish()) != digest
        {
            return Err(corrupt(
                pack,
                0,
                "not the bytes that its footer vouches for",
            ));
        }
        whole.update(tail);
        let padded = want.next_multiple_of(symbol_len);
        let symbols = buf.get(..padded).unwrap_or(&buf);
        sums.extend(symbols.chunks(symbol_len).map(symbol_sum));
        off = end;
    }
    Ok((Digest::from_raw(whole.finish()), sums))
}

impl ParityStore {
    /// Encodes packs and makes their parity file durable: one pack for [`ParityKind::Single`]. `None` if the
    /// configuration asks for no parity.
    ///
    /// Reads all packs twice. What a group replaces is removed by [`ParityStore::remove_replaced`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a pack that is not what its footer, its parity file or `digest` says: repair it first.
    /// [`Error::PackMissing`], [`Error::Invalid`] for packs that make no group, [`Error::NoSpace`], [`Error::Io`]. Nothing
    /// has changed then.
    pub fn encode(
        &self,
        kind: ParityKind,
        packs: &[PackToCover],
        config: &ParityConfig,
    ) -> Result<Option<Durable<ParityId>>> {
        if config.percent == 0 {
            return Ok(None);
        }
        let mut packs = packs.to_vec();
        packs.sort_by_key(|pack| pack.pack);
        let surveyed = self.survey(&packs, config)?;
        let lens: Vec<ByteLen> = surveyed.iter().map(|found| found.member.len).collect();
        let shape = shape(&lens, config.percent)?;
        let mut members = Vec::new();
        let mut sums = Vec::new();
        for found in surveyed {
            members.push(found.member);
            sums.extend(found.sums);
        }
        let id = self.next_id();
        let header = ParityHeader::new(self.store, id, kind, shape, members)?;
        self.write(&header, sums, config)?;
        self.add(header);
        Ok(Some(Durable::after_sync(id)))
    }

    /// Encodes the packs of a parity file anew, to the same bytes.
    pub(super) fn encode_again(&self, header: &ParityHeader, config: &ParityConfig) -> Result<()> {
        let pack = |member: &Member| PackToCover {
            pack: member.pack,
            kind: member.kind,
            digest: Some(member.digest),
        };
        let packs: Vec<_> = header.members().iter().map(pack).collect();
        let surveyed = self.survey(&packs, config)?;
        let sums = surveyed.into_iter().flat_map(|found| found.sums).collect();
        self.write(header, sums, config)
    }

    /// The first reading of all packs.
    fn survey(&self, packs: &[PackToCover], config: &ParityConfig) -> Result<Vec<Surveyed>> {
        let mut all = Vec::with_capacity(packs.len());
        for some in packs.chunks(config.threads.max(1)) {
            let found: Result<Vec<Surveyed>> =
                some.par_iter().map(|pack| self.survey_pack(pack)).collect();
            all.extend(found?);
        }
        Ok(all)
    }

    fn survey_pack(&self, pack: &PackToCover) -> Result<Surveyed> {
        self.check_interrupted()?;
        let name = pack_name(pack.pack, pack.kind);
        let file = match self.packs.open(&name, Access::Read) {
            Err(Error::NotFound) => {
                let path = self.packs.path(&name);
                return Err(Error::PackMissing { path });
            }
            other => other?,
        };
        let len = file.len()?;
        if len.raw() > PACK_CAPACITY_MAX {
            return Err(corrupt(pack.pack, 0, "longer than any pack"));
        }
        let body = footer_of(file.as_ref(), len.raw(), pack.pack)?;
        let (digest, sums) = digest_file(file.as_ref(), pack.pack, len.raw(), body)?;
        let covered = self.covering(pack.pack).map(|cover| cover.member.digest);
        let vouched = [pack.digest, covered];
        if vouched.into_iter().flatten().any(|other| other != digest) {
            return Err(corrupt(pack.pack, 0, "its digest does not match"));
        }
        Ok(Surveyed {
            member: Member {
                pack: pack.pack,
                kind: pack.kind,
                len,
                digest,
            },
            sums,
        })
    }

    /// Writes a parity file durably; `sums` are the checksums of the source symbols.
    fn write(
        &self,
        header: &ParityHeader,
        mut sums: Vec<SymbolSum>,
        config: &ParityConfig,
    ) -> Result<()> {
        let all = header.source_total() + header.repair_total();
        let all = usize::try_from(all).map_err(|_| Error::Internal("count of symbols"))?;
        sums.resize(all, SymbolSum::default());
        let header = Arc::new(header.clone());
        let group = Group::new(
            self.packs.as_ref(),
            Arc::clone(&header),
            None,
            Table::new(sums),
        );
        self.write_file(&header, |file| self.write_body(group, file, config))
    }

    /// Writes a file under a temporary name and moves it to its own once it is durable.
    pub(super) fn write_file(
        &self,
        header: &ParityHeader,
        body: impl FnOnce(&dyn DiskFile) -> Result<()>,
    ) -> Result<()> {
        create_place(&self.place)?;
        let disk = &self.place.disk;
        let temp = self.place.temp_name(header.parity());
        remove_if_there(disk.as_ref(), &temp)?;
        let file = disk.create_new(&temp)?;
        let done = body(file.as_ref())
            .and_then(|()| file.sync_data())
            .and_then(|()| disk.rename(&temp, &self.place.name(header.parity())))
            .and_then(|()| disk.sync_dir(&self.place.dir));
        if done.is_err() {
            // What is left of it is removed by `remove_leftovers`; the first error is the one that counts. Under its
            // final name the file is whole all the same, only not known to be durable.
            let _ = remove_if_there(disk.as_ref(), &temp);
        }
        done
    }

    fn write_body(
        &self,
        mut group: Group,
        file: &dyn DiskFile,
        config: &ParityConfig,
    ) -> Result<()> {
        let header = Arc::clone(&group.header);
        let width = group.width(config);
        let mut blocks = Vec::new();
        let mut first = 0;
        while first < header.shape().block_count {
            let count = width.held.min(header.shape().block_count - first);
            self.check_interrupted()?;
            group.load(&mut blocks, first, count, config.threads);
            let mut encoded = Vec::with_capacity(blocks.len());
            for some in blocks.chunks_mut(width.busy) {
                let made: Result<Vec<Vec<Vec<u8>>>> = some
                    .par_iter_mut()
                    .map(|block| self.encode_block(&group, block))
                    .collect();
                encoded.extend(made?);
            }
            for repair in 0..header.shape().repair_count {
                let n = usize::try_from(repair).unwrap_or(usize::MAX);
                let mut row = Vec::with_capacity(blocks.len() * group.symbol_len());
                for (block, symbols) in blocks.iter().zip(&encoded) {
                    let symbol = symbols.get(n);
                    let symbol = symbol.ok_or(Error::Internal("count of repair symbols"))?;
                    let entry = header.repair_entry(block.block, repair);
                    group.table.set(entry, symbol_sum(symbol));
                    row.extend_from_slice(symbol);
                }
                file.write_at(header.repair_off(first, repair), &row)?;
            }
            first += count;
        }
        write_tables(&header, &group.table, file)
    }

    fn encode_block(&self, group: &Group, block: &mut Block) -> Result<Vec<Vec<u8>>> {
        group.check(block);
        let shape = group.header.shape();
        if let Some(&esi) = block.erased.first() {
            let at = SourceAt {
                block: block.block,
                esi,
            };
            let at = group.header.symbol_at(at);
            let member = at.and_then(|at| group.header.members().get(at.member));
            let pack = member.map_or(PackId::from_raw(0), |member| member.pack);
            let off = at.map_or(0, |at| group.offset(at.idx).raw());
            return Err(corrupt(pack, off, "it changes while it is encoded"));
        }
        let size = BlockSize {
            source_count: shape.source_count,
            symbol_len: shape.symbol_len,
        };
        self.plans.encode(&size, &block.bytes, shape.repair_count)
    }
}

/// Writes both copies of table and header.
pub(super) fn write_tables(
    header: &ParityHeader,
    table: &Table,
    file: &dyn DiskFile,
) -> Result<()> {
    let header_sum = header_binding(header);
    let hash = |parts: &[&[u8]]| checksum(Checksum::ParityTable, parts);
    let mut pages = Vec::new();
    for (sums, page) in table.pages().zip(0..) {
        let at = TablePage { header_sum, page };
        pages.extend(encode_table_page(&at, sums, &hash)?);
    }
    for copy in [ParityCopy::First, ParityCopy::Second] {
        file.write_at(header.table_off(copy, 0), &pages)?;
    }
    let hash = |parts: &[&[u8]]| checksum(Checksum::ParityHeader, parts);
    let bytes = encode_parity_header(header, &hash);
    for off in both_headers(header) {
        file.write_at(off, &bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::StoreId;

    fn shape_of(lens: &[u64], percent: u8) -> Shape {
        let lens: Vec<_> = lens.iter().map(|len| ByteLen::from_raw(*len)).collect();
        shape(&lens, percent).unwrap()
    }

    #[test]
    fn a_full_group_takes_1888_symbols_a_block_and_survives_the_loss_of_a_pack() {
        let full = shape_of(&[64 << 20; 16], 7);
        assert_eq!((full.source_count, full.block_count), (1888, 139));
        assert!(full.repair_count >= 1888 / 16 + 8, "{full:?}");
        // Shorter packs make the blocks smaller, not the guarantee.
        let mut lens = [1 << 20; 16];
        lens[3] = 64 << 20;
        let mixed = shape_of(&lens, 7);
        let rows = (16_384_u32).div_ceil(mixed.block_count);
        assert!(mixed.repair_count >= rows + 8, "{mixed:?}");
    }

    #[test]
    fn a_small_pack_is_one_block_with_parity_in_proportion() {
        let small = shape_of(&[1 << 20], 7);
        assert_eq!((small.source_count, small.block_count), (256, 1));
        assert_eq!(small.repair_count, 18);
        assert_eq!(shape_of(&[4097], 7).repair_count, PARITY_REPAIR_SYMBOLS_MIN);
        assert_eq!(shape_of(&[1 << 20], 100).repair_count, 256);
    }

    #[test]
    fn no_bytes_and_overheads_out_of_range_have_no_shape() {
        let len = ByteLen::from_raw;
        assert!(shape(&[], 7).is_err() && shape(&[len(0)], 7).is_err());
        assert!(shape(&[len(1)], 0).is_err() && shape(&[len(1)], 101).is_err());
    }

    #[test]
    fn every_shape_is_one_that_a_header_accepts() {
        for count in [1, 2, 5, 16, 32] {
            for len in [1, 4096, 4097, 1 << 20, (64 << 20) - 8, 64 << 20] {
                for percent in [1, 7, 100] {
                    let lens: Vec<u64> = (0..count).map(|n| (len >> (n % 3)) + 1).collect();
                    let member = |(n, len): (usize, &u64)| Member {
                        pack: PackId::from_raw(n as u64 + 1),
                        kind: PackKind::Data,
                        len: ByteLen::from_raw(*len),
                        digest: Digest::from_raw([0; 32]),
                    };
                    let members = lens.iter().enumerate().map(member).collect();
                    let store = StoreId::from_raw([0; 16]);
                    let (id, kind) = (ParityId::from_raw(1), ParityKind::Group);
                    let shape = shape_of(&lens, percent);
                    let header = ParityHeader::new(store, id, kind, shape, members);
                    assert!(header.is_ok(), "{count} packs of {len}: {shape:?}");
                }
            }
        }
    }
}
