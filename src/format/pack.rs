//! The header of a pack file, and how to tell what lies at a place in one.

use super::cursor::{Reader, Writer, malformed};
use super::footer::FOOTER_MAGIC;
use super::frame::FRAME_MAGIC;
use super::record::RECORD_MAGIC;
use super::rows::PackKind;
use super::{ALIGN, CHAIN_START, Hash, HashFn};
use crate::base::limits::{PACK_CAPACITY_MAX, PACK_CAPACITY_MIN};
use crate::base::{ByteLen, Error, Lsn, PackId, PackOff, Result, StoreId, Timestamp};

/// First 8 bytes of a pack file.
pub const PACK_MAGIC: [u8; 8] = *b"mmhpack\n";
/// Version of the header's layout, and of all that the pack may hold.
pub const PACK_VERSION: u16 = 1;
/// Length of the header in bytes; frames and records follow.
pub const PACK_HEADER_LEN: usize = 4096;

/// Bytes that the checksum covers: all before the checksum itself.
const COVERED_LEN: usize = PACK_HEADER_LEN - 32;

/// Where the log before a LOG pack ends: whatever the previous pack holds after `len` is no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The previous LOG pack; 0 for the first one of a store.
    pub prev: PackId,
    /// Bytes of it that count: the end of its last record, or of its header.
    pub len: PackOff,
    /// LSN of the last record before the cut, 0 if there is none.
    pub lsn: Lsn,
    /// Chain hash of that record, [`CHAIN_START`] if there is none.
    pub chain: Hash,
    /// 1 for the first LOG pack, and one more for each that follows.
    pub epoch: u64,
}

impl Cut {
    /// The cut of the first LOG pack of a store.
    pub const START: Self = Self {
        prev: PackId::from_raw(0),
        len: PackOff::from_raw(0),
        lsn: Lsn::from_raw(0),
        chain: CHAIN_START,
        epoch: 1,
    };
}

/// What a pack file says of itself in its first 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackHeader {
    /// The store that the pack belongs to.
    pub store: StoreId,
    /// The number of the pack.
    pub pack: PackId,
    /// Bytes that the pack will not grow beyond.
    pub capacity: ByteLen,
    /// When it was created.
    pub created: Timestamp,
    /// Version of the program that created it: major << 16 | minor << 8 | patch. For humans.
    pub writer: u32,
    /// The cut of a LOG pack; `None` makes it a DATA pack.
    pub cut: Option<Cut>,
}

impl PackHeader {
    /// LOG or DATA.
    #[must_use]
    pub const fn kind(&self) -> PackKind {
        match self.cut {
            Some(_) => PackKind::Log,
            None => PackKind::Data,
        }
    }

    /// The LSN of the first record that a LOG pack will hold; 0 for a DATA pack.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.cut.map_or(Lsn::from_raw(0), |cut| cut.lsn.next())
    }

    fn check(&self) -> Result<()> {
        let r = Reader::new("pack header", &[]);
        r.ensure(self.pack.raw() != 0, "pack 0")?;
        r.ensure(
            self.created.nanos < 1_000_000_000,
            "nanoseconds out of range",
        )?;
        let in_bounds = (PACK_CAPACITY_MIN..=PACK_CAPACITY_MAX).contains(&self.capacity.raw());
        r.ensure(in_bounds, "capacity")?;
        let Some(cut) = &self.cut else { return Ok(()) };
        if cut.prev.raw() == 0 {
            return r.ensure(*cut == Cut::START, "cut of the first LOG pack");
        }
        r.ensure(cut.prev < self.pack, "previous pack is not older")?;
        let len = cut.len.raw();
        let in_bounds = (PACK_HEADER_LEN as u64..=PACK_CAPACITY_MAX).contains(&len);
        r.ensure(in_bounds, "valid length of the previous pack")?;
        let aligned = len.is_multiple_of(ALIGN as u64);
        r.ensure(aligned, "valid length of the previous pack")?;
        r.ensure(cut.epoch > 1, "epoch")?;
        let no_record = cut.lsn.raw() == 0;
        r.ensure(no_record == (cut.chain == CHAIN_START), "chain of the cut")
    }
}

/// Makes the 4096 bytes of a pack header. `hash` is bound to the domain "pack header".
///
/// # Errors
/// `Malformed` if a field breaks a limit.
pub fn encode_pack_header(header: &PackHeader, hash: HashFn<'_>) -> Result<Vec<u8>> {
    header.check()?;
    let mut w = Writer::with_capacity(PACK_HEADER_LEN);
    w.bytes(&PACK_MAGIC).u16(PACK_VERSION);
    w.u8(header.kind().raw()).zeros(5);
    w.bytes(header.store.as_bytes()).u64(header.pack.raw());
    w.u64(header.capacity.raw()).timestamp(header.created);
    w.u32(header.writer).u64(header.first_lsn().raw());
    if let Some(cut) = &header.cut {
        w.u64(cut.prev.raw()).u64(cut.len.raw()).u64(cut.lsn.raw());
        w.u64(cut.epoch).bytes(&cut.chain);
    }
    w.zeros(COVERED_LEN - w.len());
    let sum = hash(&[w.as_slice()]);
    w.bytes(&sum);
    Ok(w.finish())
}

/// Inverse of [`encode_pack_header`]; `bytes` are the first 4096 of the file. The caller compares store
/// and pack number with what it expects.
///
/// # Errors
/// `Malformed` if it is not a pack header or is damaged; [`Error::VersionTooNew`] if it is intact and
/// of a version that this program does not know.
pub fn decode_pack_header(bytes: &[u8], hash: HashFn<'_>) -> Result<PackHeader> {
    let mut r = Reader::new("pack header", bytes);
    r.ensure(bytes.len() == PACK_HEADER_LEN, "length")?;
    let magic: [u8; 8] = r.array()?;
    r.ensure(magic == PACK_MAGIC, "magic")?;
    let covered = bytes.get(..COVERED_LEN).unwrap_or_default();
    let sum = bytes.get(COVERED_LEN..).unwrap_or_default();
    r.ensure(sum == hash(&[covered]), "checksum does not match")?;
    let version = r.u16()?;
    if version > PACK_VERSION {
        return Err(Error::VersionTooNew {
            found: u32::from(version),
            supported: u32::from(PACK_VERSION),
        });
    }
    r.ensure(version == PACK_VERSION, "version")?;
    let kind = PackKind::from_raw(r.u8()?)?;
    r.zeros(5)?;
    let store = StoreId::from_raw(r.array()?);
    let pack = PackId::from_raw(r.u64()?);
    let capacity = ByteLen::from_raw(r.u64()?);
    let created = r.timestamp()?;
    let writer = r.u32()?;
    let first_lsn = Lsn::from_raw(r.u64()?);
    let cut = match kind {
        PackKind::Data => None,
        PackKind::Log => Some(read_cut(&mut r)?),
    };
    r.zeros(r.remaining().saturating_sub(32))?;
    let header = PackHeader {
        store,
        pack,
        capacity,
        created,
        writer,
        cut,
    };
    r.ensure(first_lsn == header.first_lsn(), "first LSN")?;
    header.check()?;
    Ok(header)
}

fn read_cut(r: &mut Reader<'_>) -> Result<Cut> {
    let prev = PackId::from_raw(r.u64()?);
    let len = PackOff::from_raw(r.u64()?);
    let lsn = Lsn::from_raw(r.u64()?);
    let epoch = r.u64()?;
    let chain = r.array()?;
    Ok(Cut {
        prev,
        len,
        lsn,
        chain,
        epoch,
    })
}

/// What begins at a place in a pack, to judge by its magic alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A frame: [`super::frame::peek_frame_len`] says how long.
    Frame,
    /// A commit record: [`super::record::decode_header`] says how long.
    Record,
    /// The footer: the pack is sealed.
    Footer,
}

/// Tells by the first 8 bytes what begins there.
///
/// # Errors
/// `Malformed` if there are fewer than 8 bytes or they are no magic: damage, or a torn tail.
pub fn piece_at(bytes: &[u8]) -> Result<Piece> {
    match bytes.first_chunk::<8>() {
        Some(&FRAME_MAGIC) => Ok(Piece::Frame),
        Some(&RECORD_MAGIC) => Ok(Piece::Record),
        Some(&FOOTER_MAGIC) => Ok(Piece::Footer),
        _ => Err(malformed("pack", "no frame, record or footer begins here")),
    }
}
