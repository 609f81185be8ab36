//! A parity file: which packs it covers, where each symbol is, and the checksums that locate damage.
//!
//! 1. A pack is a row of *symbols* of equal length; the last one is filled up with zeros that are not stored.
//! 2. With B source blocks, symbol `n` of every pack belongs to block `n % B`, as its row `n / B`. So any run of
//!    damaged symbols, and the loss of a whole pack, spread evenly over all blocks.
//! 3. A block takes `ceil(symbols / B)` rows of each pack, in the order of the packs; a row past the end of a
//!    pack is a symbol of zeros that nobody has to read. Their sum K is the same for all blocks.
//! 4. Each block has R repair symbols, which lie in the file row by row as well: all first ones, all second
//!    ones, and so on.

use super::cursor::{Reader, Writer};
use super::rows::PackKind;
use super::{Hash, HashFn};
use crate::base::limits::{
    PACK_CAPACITY_MAX, PARITY_BLOCK_SYMBOLS_MAX, PARITY_MEMBERS_MAX, PARITY_SYMBOLS_MAX,
};
use crate::base::{ByteLen, Digest, Error, PackId, PackOff, ParityId, Result, StoreId};

/// First 8 bytes of a parity file.
pub const PARITY_MAGIC: [u8; 8] = *b"mmhprty\n";
/// Version of a parity file's layout.
pub const PARITY_VERSION: u16 = 1;
/// Length in bytes of the header and of each page of the table.
pub const PARITY_PAGE_LEN: usize = 4096;
/// Checksums in a page of the table.
pub const PARITY_PAGE_SUMS: usize = COVERED_LEN / SYMBOL_SUM_LEN;
/// Length in bytes of a symbol's checksum.
pub const SYMBOL_SUM_LEN: usize = 8;

/// Bytes of a page that its checksum covers.
const COVERED_LEN: usize = PARITY_PAGE_LEN - 32;
const FIXED_LEN: usize = 64;
const MEMBER_LEN: usize = 64;
const SYMBOL_LEN_MIN: u32 = 4096;
const SYMBOL_LEN_MAX: u32 = 32_768;

const _: () = assert!(FIXED_LEN + PARITY_MEMBERS_MAX * MEMBER_LEN <= COVERED_LEN);
const _: () = assert!(PARITY_PAGE_SUMS * SYMBOL_SUM_LEN == COVERED_LEN);

/// A truncated checksum of a symbol. It says where damage is; what a repair trusts is a pack's digest.
pub type SymbolSum = [u8; SYMBOL_SUM_LEN];

/// What a parity file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ParityKind {
    /// One pack, until its group is full.
    Single = 1,
    /// A group of packs.
    Group = 2,
}

/// A pack that a parity file covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub pack: PackId,
    /// LOG or DATA.
    pub kind: PackKind,
    /// Length of the whole file.
    pub len: ByteLen,
    /// Digest of the whole file.
    pub digest: Digest,
}

/// The header of a parity file. What it holds is valid: only [`ParityHeader::new`] and the decoder make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParityHeader {
    store: StoreId,
    parity: ParityId,
    kind: ParityKind,
    shape: Shape,
    members: Vec<Member>,
}

/// The parameters of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a symbol: a power of two, 4,096 to 32,768.
    pub symbol_len: u32,
    /// Source symbols of each block (K).
    pub source_count: u32,
    /// Repair symbols of each block (R).
    pub repair_count: u32,
    /// Source blocks (B).
    pub block_count: u32,
}

/// A symbol of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolAt {
    /// Index of the member.
    pub member: usize,
    /// Index of the symbol in its pack.
    pub idx: u64,
}

/// A source symbol of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceAt {
    /// Index of the block.
    pub block: u32,
    /// Index of the symbol in the block, `0..K`.
    pub esi: u32,
}

/// Which of the two copies of header and table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParityCopy {
    /// At the start of the file.
    First,
    /// At its end.
    Second,
}

impl ParityKind {
    fn from_raw(raw: u8, r: &Reader<'_>) -> Result<Self> {
        match raw {
            1 => Ok(Self::Single),
            2 => Ok(Self::Group),
            _ => Err(r.error("unknown kind of parity")),
        }
    }
}

/// Symbols of a pack of `len` bytes.
#[must_use]
pub fn symbols_of_len(len: ByteLen, symbol_len: u32) -> u64 {
    len.raw().div_ceil(u64::from(symbol_len).max(1))
}

/// Source symbols that a block has if packs with so many symbols are cut into `block_count` blocks.
#[must_use]
pub fn block_rows(symbols: &[u64], block_count: u32) -> u64 {
    let rows = |count: &u64| count.div_ceil(u64::from(block_count).max(1));
    symbols
        .iter()
        .map(rows)
        .fold(0, |sum, n| sum.saturating_add(n))
}

impl ParityHeader {
    /// A header, if its fields fit together. Members ascend by number.
    ///
    /// # Errors
    /// `Malformed` if a field breaks a limit or does not follow from the others.
    pub fn new(
        store: StoreId,
        parity: ParityId,
        kind: ParityKind,
        shape: Shape,
        members: Vec<Member>,
    ) -> Result<Self> {
        let header = Self {
            store,
            parity,
            kind,
            shape,
            members,
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        let r = Reader::new("parity header", &[]);
        r.ensure(self.parity.raw() != 0, "parity 0")?;
        let count = self.members.len();
        let in_bounds = (1..=PARITY_MEMBERS_MAX).contains(&count);
        r.ensure(in_bounds, "count of members")?;
        let single = self.kind == ParityKind::Single;
        r.ensure(!single || count == 1, "several members of one pack")?;
        let mut before = PackId::from_raw(0);
        for member in &self.members {
            r.ensure(member.pack > before, "members are not in order")?;
            before = member.pack;
            let fits = member.len.raw() <= PACK_CAPACITY_MAX;
            r.ensure(fits, "length of a member")?;
        }
        self.check_shape(&r)
    }

    fn check_shape(&self, r: &Reader<'_>) -> Result<()> {
        let shape = &self.shape;
        let len = shape.symbol_len;
        let in_bounds = (SYMBOL_LEN_MIN..=SYMBOL_LEN_MAX).contains(&len);
        r.ensure(in_bounds && len.is_power_of_two(), "length of a symbol")?;
        let counts = 1..=PARITY_BLOCK_SYMBOLS_MAX;
        r.ensure(counts.contains(&shape.source_count), "source symbols")?;
        r.ensure(counts.contains(&shape.repair_count), "repair symbols")?;
        let symbols: Vec<u64> = (0..self.members.len())
            .map(|idx| self.symbols(idx))
            .collect();
        let most = symbols.iter().copied().max().unwrap_or(0);
        let blocks = u64::from(shape.block_count);
        r.ensure((1..=most).contains(&blocks), "source blocks")?;
        let rows = block_rows(&symbols, shape.block_count);
        r.ensure(
            rows == u64::from(shape.source_count),
            "source symbols do not fit the members",
        )?;
        let all = self.source_total().saturating_add(self.repair_total());
        r.ensure(all <= PARITY_SYMBOLS_MAX, "count of symbols")
    }

    /// The store that it belongs to.
    #[must_use]
    pub const fn store(&self) -> StoreId {
        self.store
    }

    /// The number of the parity file.
    #[must_use]
    pub const fn parity(&self) -> ParityId {
        self.parity
    }

    /// What it is for.
    #[must_use]
    pub const fn kind(&self) -> ParityKind {
        self.kind
    }

    /// The parameters of the code.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The packs that it covers, ascending by number.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Index of a pack among the members.
    #[must_use]
    pub fn member_of(&self, pack: PackId) -> Option<usize> {
        self.members.iter().position(|member| member.pack == pack)
    }

    /// Symbols of a member; 0 if there is no such member.
    #[must_use]
    pub fn symbols(&self, member: usize) -> u64 {
        let len = self.members.get(member).map(|member| member.len);
        len.map_or(0, |len| symbols_of_len(len, self.shape.symbol_len))
    }

    /// Rows that a block takes from a member.
    #[must_use]
    pub fn rows(&self, member: usize) -> u32 {
        let rows = self.symbols(member).div_ceil(self.blocks());
        u32::try_from(rows).unwrap_or(u32::MAX)
    }

    fn blocks(&self) -> u64 {
        u64::from(self.shape.block_count).max(1)
    }

    /// Source symbols of the block that come before those of a member.
    #[must_use]
    pub fn first_esi(&self, member: usize) -> u32 {
        (0..member).map(|before| self.rows(before)).sum()
    }

    /// Where a member's symbol is among the blocks.
    #[must_use]
    pub fn source_at(&self, at: SymbolAt) -> SourceAt {
        let (row, block) = (at.idx / self.blocks(), at.idx % self.blocks());
        let row = u32::try_from(row).unwrap_or(u32::MAX);
        SourceAt {
            block: u32::try_from(block).unwrap_or(u32::MAX),
            esi: self.first_esi(at.member).saturating_add(row),
        }
    }

    /// Which member's symbol a source symbol is; `None` for one that lies past the end of its pack: zeros.
    #[must_use]
    pub fn symbol_at(&self, at: SourceAt) -> Option<SymbolAt> {
        let mut row = at.esi;
        for member in 0..self.members.len() {
            let rows = self.rows(member);
            if row < rows {
                let idx = u64::from(row) * self.blocks() + u64::from(at.block);
                let symbol = SymbolAt { member, idx };
                return (idx < self.symbols(member)).then_some(symbol);
            }
            row -= rows;
        }
        None
    }

    /// Source symbols of all members, without those past their ends.
    #[must_use]
    pub fn source_total(&self) -> u64 {
        (0..self.members.len()).map(|idx| self.symbols(idx)).sum()
    }

    /// Repair symbols of all blocks.
    #[must_use]
    pub fn repair_total(&self) -> u64 {
        self.blocks() * u64::from(self.shape.repair_count)
    }

    /// Index in the table of a member's symbol: those of the first member come first.
    #[must_use]
    pub fn source_entry(&self, at: SymbolAt) -> u64 {
        let before: u64 = (0..at.member).map(|idx| self.symbols(idx)).sum();
        before + at.idx
    }

    /// Index in the table of a repair symbol: they follow the source symbols, in the order of the file.
    #[must_use]
    pub fn repair_entry(&self, block: u32, repair: u32) -> u64 {
        self.source_total() + u64::from(repair) * self.blocks() + u64::from(block)
    }

    /// Pages of the table.
    #[must_use]
    pub fn table_pages(&self) -> u64 {
        (self.source_total() + self.repair_total()).div_ceil(PARITY_PAGE_SUMS as u64)
    }

    /// Checksums in a page of the table: all pages but the last are full.
    #[must_use]
    pub fn page_sums(&self, page: u64) -> usize {
        let all = self.source_total() + self.repair_total();
        let before = page.saturating_mul(PARITY_PAGE_SUMS as u64);
        let left = usize::try_from(all.saturating_sub(before)).unwrap_or(usize::MAX);
        left.min(PARITY_PAGE_SUMS)
    }

    /// Offset of a repair symbol in the file.
    #[must_use]
    pub fn repair_off(&self, block: u32, repair: u32) -> PackOff {
        let before = u64::from(repair) * self.blocks() + u64::from(block);
        let pages = 1 + self.table_pages();
        let symbols = before * u64::from(self.shape.symbol_len);
        PackOff::from_raw(pages * PARITY_PAGE_LEN as u64 + symbols)
    }

    /// Offset in the file of a page of the table.
    #[must_use]
    pub fn table_off(&self, copy: ParityCopy, page: u64) -> PackOff {
        let start = match copy {
            ParityCopy::First => PARITY_PAGE_LEN as u64,
            ParityCopy::Second => self.repair_off(0, self.shape.repair_count).raw(),
        };
        PackOff::from_raw(start + page * PARITY_PAGE_LEN as u64)
    }

    /// Offset in the file of the header.
    #[must_use]
    pub fn header_off(&self, copy: ParityCopy) -> PackOff {
        match copy {
            ParityCopy::First => PackOff::from_raw(0),
            ParityCopy::Second => self.table_off(copy, self.table_pages()),
        }
    }

    /// Length of the file.
    #[must_use]
    pub fn file_len(&self) -> ByteLen {
        let header = self.header_off(ParityCopy::Second).raw();
        ByteLen::from_raw(header + PARITY_PAGE_LEN as u64)
    }

    /// Whether the repair symbols suffice when a member is lost as a whole and nothing else is.
    #[must_use]
    pub fn survives_loss_of(&self, member: usize) -> bool {
        // Each symbol more than is needed makes a failure to decode about 100 times less likely.
        self.rows(member).saturating_add(2) <= self.shape.repair_count
    }
}

/// Makes the 4096 bytes of a header. `hash` is bound to the domain "parity header".
#[must_use]
pub fn encode_parity_header(header: &ParityHeader, hash: HashFn<'_>) -> Vec<u8> {
    let mut w = Writer::with_capacity(PARITY_PAGE_LEN);
    w.bytes(&PARITY_MAGIC).u16(PARITY_VERSION);
    w.u8(header.kind as u8).zeros(1);
    w.len_u16(header.members.len()).zeros(2);
    w.bytes(header.store.as_bytes()).u64(header.parity.raw());
    let shape = &header.shape;
    w.u32(shape.symbol_len).u32(shape.source_count);
    w.u32(shape.repair_count).u32(shape.block_count);
    w.zeros(FIXED_LEN - w.len());
    for member in &header.members {
        w.u64(member.pack.raw()).u8(member.kind.raw()).zeros(7);
        w.u64(member.len.raw()).zeros(8);
        w.bytes(member.digest.as_bytes());
    }
    w.zeros(COVERED_LEN - w.len());
    let sum = hash(&[w.as_slice()]);
    w.bytes(&sum);
    w.finish()
}

/// Inverse of [`encode_parity_header`]; `bytes` are the first or the last 4096 of the file. The caller compares
/// store and number with what it expects.
///
/// # Errors
/// `Malformed` if it is not the header of a parity file or is damaged; [`Error::VersionTooNew`] if it is intact and
/// of a version that this program does not know.
pub fn decode_parity_header(bytes: &[u8], hash: HashFn<'_>) -> Result<ParityHeader> {
    let mut r = Reader::new("parity header", bytes);
    r.ensure(bytes.len() == PARITY_PAGE_LEN, "length")?;
    let magic: [u8; 8] = r.array()?;
    r.ensure(magic == PARITY_MAGIC, "magic")?;
    let covered = bytes.get(..COVERED_LEN).unwrap_or_default();
    let sum = bytes.get(COVERED_LEN..).unwrap_or_default();
    r.ensure(sum == hash(&[covered]), "checksum does not match")?;
    let version = r.u16()?;
    if version > PARITY_VERSION {
        return Err(Error::VersionTooNew {
            found: u32::from(version),
            supported: u32::from(PARITY_VERSION),
        });
    }
    r.ensure(version == PARITY_VERSION, "version")?;
    let kind = r.u8()?;
    let kind = ParityKind::from_raw(kind, &r)?;
    r.zeros(1)?;
    let count = usize::from(r.u16()?);
    r.ensure(count <= PARITY_MEMBERS_MAX, "count of members")?;
    r.zeros(2)?;
    let store = StoreId::from_raw(r.array()?);
    let parity = ParityId::from_raw(r.u64()?);
    let shape = Shape {
        symbol_len: r.u32()?,
        source_count: r.u32()?,
        repair_count: r.u32()?,
        block_count: r.u32()?,
    };
    r.zeros(FIXED_LEN.saturating_sub(PARITY_PAGE_LEN - r.remaining()))?;
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        members.push(read_member(&mut r)?);
    }
    r.zeros(r.remaining().saturating_sub(32))?;
    ParityHeader::new(store, parity, kind, shape, members)
}

fn read_member(r: &mut Reader<'_>) -> Result<Member> {
    let pack = PackId::from_raw(r.u64()?);
    let kind = PackKind::from_raw(r.u8()?)?;
    r.zeros(7)?;
    let len = ByteLen::from_raw(r.u64()?);
    r.zeros(8)?;
    let digest = r.digest()?;
    Ok(Member {
        pack,
        kind,
        len,
        digest,
    })
}

/// What a page of the table is bound to: the header's checksum stands for all that the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablePage {
    /// The last 32 bytes of the header.
    pub header_sum: Hash,
    /// Index of the page.
    pub page: u64,
}

/// The last 32 bytes of a header's encoding.
#[must_use]
pub fn header_sum(header: &[u8]) -> Hash {
    let sum = header.get(COVERED_LEN..).and_then(<[u8]>::first_chunk);
    sum.copied().unwrap_or_default()
}

fn page_hash(at: &TablePage, covered: &[u8], hash: HashFn<'_>) -> Hash {
    hash(&[&at.header_sum, &at.page.to_le_bytes(), covered])
}

/// Makes the 4096 bytes of a page of the table. `hash` is bound to the domain "parity table".
///
/// # Errors
/// `Malformed` if there are more than [`PARITY_PAGE_SUMS`].
pub fn encode_table_page(at: &TablePage, sums: &[SymbolSum], hash: HashFn<'_>) -> Result<Vec<u8>> {
    let r = Reader::new("parity table", &[]);
    r.ensure(sums.len() <= PARITY_PAGE_SUMS, "count of checksums")?;
    let mut w = Writer::with_capacity(PARITY_PAGE_LEN);
    for sum in sums {
        w.bytes(sum);
    }
    w.zeros(COVERED_LEN - w.len());
    let sum = page_hash(at, w.as_slice(), hash);
    w.bytes(&sum);
    Ok(w.finish())
}

/// Inverse of [`encode_table_page`]: the first `count` checksums, which the header knows; the others are zero.
///
/// # Errors
/// `Malformed` if the page is damaged or another one's.
pub fn decode_table_page(
    bytes: &[u8],
    at: &TablePage,
    count: usize,
    hash: HashFn<'_>,
) -> Result<Vec<SymbolSum>> {
    let mut r = Reader::new("parity table", bytes);
    r.ensure(bytes.len() == PARITY_PAGE_LEN, "length")?;
    r.ensure(count <= PARITY_PAGE_SUMS, "count of checksums")?;
    let covered = bytes.get(..COVERED_LEN).unwrap_or_default();
    let sum = bytes.get(COVERED_LEN..).unwrap_or_default();
    let expected = page_hash(at, covered, hash);
    r.ensure(sum == expected, "checksum does not match")?;
    let mut sums = Vec::with_capacity(count);
    for _ in 0..count {
        sums.push(r.array()?);
    }
    r.zeros((PARITY_PAGE_SUMS - count) * SYMBOL_SUM_LEN)?;
    Ok(sums)
}
