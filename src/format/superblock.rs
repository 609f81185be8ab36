//! The superblock: what a store is, in 4096 bytes that are kept three times.

use super::HashFn;
use super::cursor::{Reader, Writer};
use crate::base::limits::{CHUNK_LEN_MAX, PACK_CAPACITY_MAX, PACK_CAPACITY_MIN};
use crate::base::{ByteLen, Error, FileOff, PackId, Result, StoreId, Timestamp};

/// First 8 bytes of a superblock. The high bit and the line ends show a copy in text mode.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"\x89mmhfs\r\n";
/// Length of a superblock in bytes.
pub const SUPERBLOCK_LEN: usize = 4096;
/// The format version that this program writes, and the newest that it understands wholly.
pub const FORMAT_VERSION: u32 = 1;
/// Incompatible feature: snapshots may have nodes of kind split.
pub const FEATURE_SPLIT_NODES: u64 = 1 << 0;
/// Incompatible feature: LOG packs before the place of the oldest checkpoint may be gone.
pub const FEATURE_CHECKPOINTS: u64 = 1 << 1;
/// Incompatible features that this program knows.
pub const FEATURES_INCOMPATIBLE_KNOWN: u64 = FEATURE_SPLIT_NODES | FEATURE_CHECKPOINTS;
/// Read-only compatible feature: the superblock says how much parity the store has.
pub const FEATURE_PARITY_PARAMETERS: u64 = 1 << 0;
/// Read-only compatible features that this program knows.
pub const FEATURES_READ_ONLY_KNOWN: u64 = FEATURE_PARITY_PARAMETERS;
/// Most parity, in percent of what it protects.
pub const PARITY_PERCENT_MAX: u8 = 100;
/// Most chunk-size classes.
pub const CHUNK_CLASSES_MAX: usize = 4;
/// Chunker algorithm: FastCDC as of 2020, normalised chunking level 1, 64-bit gear table.
pub const CHUNKER_FASTCDC_2020: u16 = 1;

/// Bytes that the checksum covers: all before the checksum itself.
const COVERED_LEN: usize = SUPERBLOCK_LEN - 32;
const CLASS_LEN: usize = 24;
/// The percentage of parity and what is reserved for more of that kind.
const PARITY_LEN: usize = 24;

/// What a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Version of the format that the store was written in.
    pub format_version: u32,
    /// The oldest version whose programs may open the store.
    pub min_version: u32,
    /// Grows by one with each write: the copy with the highest one counts.
    pub generation: u64,
    /// Identity of the store.
    pub store: StoreId,
    /// When `init` made it.
    pub created: Timestamp,
    /// Feature bits.
    pub features: Features,
    /// How files are cut into chunks.
    pub chunker: Chunker,
    /// Bytes that a pack will not grow beyond.
    pub pack_capacity: ByteLen,
    /// Parity in percent of what it protects, `0..=PARITY_PERCENT_MAX`, 0 for none. `None`, without
    /// [`FEATURE_PARITY_PARAMETERS`], is the default of the program.
    pub parity_percent: Option<u8>,
    /// The highest number of a pack that a commit may use: written once the pack's header and name are durable and
    /// before its first commit. A number up to it without a file is a missing pack, a pack above it holds no commit.
    pub pack_high_water: PackId,
}

/// Feature bits: what a program must know to open the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// A program that does not know all of these must not open the store.
    pub incompatible: u64,
    /// A program that does not know all of these must open it read-only.
    pub read_only: u64,
    /// A program may ignore these, and keeps them.
    pub compatible: u64,
}

/// How files are cut into chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunker {
    /// The algorithm: [`CHUNKER_FASTCDC_2020`].
    pub algorithm: u16,
    /// Seed of the gear table; 0 is the published table.
    pub gear_seed: u64,
    /// Size classes, `1..=CHUNK_CLASSES_MAX`, ascending by offset, the first at 0.
    pub classes: Vec<ChunkClass>,
}

/// Sizes of chunks in a range of file offsets. All lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkClass {
    /// First file offset that the class is for.
    pub from: FileOff,
    /// Smallest chunk, but for the last of a file.
    pub min_len: u32,
    /// Average that the cut condition aims at; a power of two.
    pub avg_len: u32,
    /// Largest chunk.
    pub max_len: u32,
}

impl Chunker {
    /// What `init` chooses: 16/64/256 KiB below 64 MiB of file offset, from there on nested cut points of
    /// 128 KiB average and at most 512 KiB.
    #[must_use]
    pub fn standard() -> Self {
        let class = |from, min_len, avg_len, max_len| ChunkClass {
            from: FileOff::from_raw(from),
            min_len,
            avg_len,
            max_len,
        };
        Self {
            algorithm: CHUNKER_FASTCDC_2020,
            gear_seed: 0,
            classes: vec![
                class(0, 16 << 10, 64 << 10, 256 << 10),
                class(64 << 20, 16 << 10, 128 << 10, 512 << 10),
            ],
        }
    }

    fn check(&self, r: &Reader<'_>) -> Result<()> {
        let known = self.algorithm == CHUNKER_FASTCDC_2020;
        r.ensure(known, "unknown chunker algorithm")?;
        let count = self.classes.len();
        r.ensure((1..=CHUNK_CLASSES_MAX).contains(&count), "count of classes")?;
        let mut next = 0;
        for (idx, class) in self.classes.iter().enumerate() {
            let from = class.from.raw();
            let ascends = if idx == 0 { from == 0 } else { from >= next };
            r.ensure(ascends, "chunk classes are not in order")?;
            next = from.saturating_add(1);
            let max = usize::try_from(class.max_len).unwrap_or(usize::MAX);
            let sizes = 64 <= class.min_len
                && class.min_len < class.avg_len
                && class.avg_len < class.max_len
                && class.avg_len.is_power_of_two()
                && max <= CHUNK_LEN_MAX;
            r.ensure(sizes, "sizes of a chunk class")?;
        }
        Ok(())
    }
}

impl Superblock {
    /// The first superblock of a new store.
    #[must_use]
    pub fn new(store: StoreId, created: Timestamp, pack_capacity: ByteLen) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            min_version: FORMAT_VERSION,
            generation: 1,
            store,
            created,
            features: Features::default(),
            chunker: Chunker::standard(),
            pack_capacity,
            parity_percent: None,
            pack_high_water: PackId::from_raw(0),
        }
    }

    /// The same, with a percentage of parity of its own.
    #[must_use]
    pub fn with_parity(mut self, percent: u8) -> Self {
        self.parity_percent = Some(percent);
        self.features.read_only |= FEATURE_PARITY_PARAMETERS;
        self
    }

    /// Whether this program may write to the store.
    ///
    /// # Errors
    /// [`Error::VersionTooNew`] or [`Error::UnknownFeatures`] if it may only read.
    pub const fn check_writable(&self) -> Result<()> {
        if self.format_version > FORMAT_VERSION {
            return Err(too_new(self.format_version));
        }
        let bits = self.features.read_only & !FEATURES_READ_ONLY_KNOWN;
        if bits != 0 {
            let kind = "read-only compatible";
            return Err(Error::UnknownFeatures { kind, bits });
        }
        Ok(())
    }

    fn check(&self, r: &Reader<'_>) -> Result<()> {
        let versions = 1 <= self.min_version && self.min_version <= self.format_version;
        r.ensure(versions, "versions")?;
        r.ensure(self.generation != 0, "generation 0")?;
        r.ensure(
            self.created.nanos < 1_000_000_000,
            "nanoseconds out of range",
        )?;
        self.chunker.check(r)?;
        let told = self.features.read_only & FEATURE_PARITY_PARAMETERS != 0;
        r.ensure(told == self.parity_percent.is_some(), "parity parameters")?;
        let percent = self.parity_percent.unwrap_or(0);
        r.ensure(percent <= PARITY_PERCENT_MAX, "percentage of parity")?;
        let capacity = self.pack_capacity.raw();
        let in_bounds = (PACK_CAPACITY_MIN..=PACK_CAPACITY_MAX).contains(&capacity);
        r.ensure(in_bounds, "pack capacity")
    }
}

const fn too_new(found: u32) -> Error {
    Error::VersionTooNew {
        found,
        supported: FORMAT_VERSION,
    }
}

/// Makes the 4096 bytes of a superblock. `hash` is bound to the domain "superblock".
///
/// # Errors
/// `Malformed` if a field breaks a limit; as [`Superblock::check_writable`] if the store is newer than
/// this program, which would lose what it does not know.
pub fn encode_superblock(superblock: &Superblock, hash: HashFn<'_>) -> Result<Vec<u8>> {
    superblock.check(&Reader::new("superblock", &[]))?;
    superblock.check_writable()?;
    let mut w = Writer::with_capacity(SUPERBLOCK_LEN);
    w.bytes(&SUPERBLOCK_MAGIC);
    w.u32(superblock.format_version).u32(superblock.min_version);
    w.u64(superblock.generation)
        .bytes(superblock.store.as_bytes());
    w.timestamp(superblock.created).zeros(4);
    w.u64(superblock.features.incompatible);
    w.u64(superblock.features.read_only);
    w.u64(superblock.features.compatible);
    let chunker = &superblock.chunker;
    w.u16(chunker.algorithm).len_u16(chunker.classes.len());
    w.zeros(4).u64(chunker.gear_seed);
    for class in &chunker.classes {
        w.u64(class.from.raw()).u32(class.min_len);
        w.u32(class.avg_len).u32(class.max_len).zeros(4);
    }
    w.zeros((CHUNK_CLASSES_MAX - chunker.classes.len()) * CLASS_LEN);
    w.u64(superblock.pack_capacity.raw());
    w.bytes(&[superblock.parity_percent.unwrap_or(0)]);
    w.zeros(PARITY_LEN - 1);
    w.u64(superblock.pack_high_water.raw()).u16(0);
    w.zeros(COVERED_LEN - w.len());
    let sum = hash(&[w.as_slice()]);
    w.bytes(&sum);
    Ok(w.finish())
}

/// Whether bytes do not even begin like a superblock: the file is something else.
#[must_use]
pub fn is_foreign(bytes: &[u8]) -> bool {
    !bytes.starts_with(&SUPERBLOCK_MAGIC)
}

/// Verifies and reads a superblock.
///
/// # Errors
/// - `Malformed` with the detail "not a superblock" if it is foreign (see [`is_foreign`]), with another one if
///   it is truncated or damaged;
/// - [`Error::VersionTooNew`] or [`Error::UnknownFeatures`] if it is intact but this program must not open the
///   store. What it may only read is told by [`Superblock::check_writable`].
pub fn decode_superblock(bytes: &[u8], hash: HashFn<'_>) -> Result<Superblock> {
    let mut r = Reader::new("superblock", bytes);
    r.ensure(!is_foreign(bytes), "not a superblock")?;
    r.ensure(bytes.len() == SUPERBLOCK_LEN, "length is not 4096 bytes")?;
    let covered = bytes.get(..COVERED_LEN).unwrap_or_default();
    let sum = bytes.get(COVERED_LEN..).unwrap_or_default();
    r.ensure(sum == hash(&[covered]), "checksum does not match")?;
    r.bytes(SUPERBLOCK_MAGIC.len())?;
    let format_version = r.u32()?;
    let min_version = r.u32()?;
    if min_version > FORMAT_VERSION {
        return Err(too_new(format_version));
    }
    let generation = r.u64()?;
    let store = StoreId::from_raw(r.array()?);
    let created = r.timestamp()?;
    r.zeros(4)?;
    let features = Features {
        incompatible: r.u64()?,
        read_only: r.u64()?,
        compatible: r.u64()?,
    };
    let bits = features.incompatible & !FEATURES_INCOMPATIBLE_KNOWN;
    if bits != 0 {
        let kind = "incompatible";
        return Err(Error::UnknownFeatures { kind, bits });
    }
    let chunker = read_chunker(&mut r)?;
    let pack_capacity = ByteLen::from_raw(r.u64()?);
    let [percent] = r.array()?;
    let has_parity = features.read_only & FEATURE_PARITY_PARAMETERS != 0;
    let parity = r.bytes(PARITY_LEN - 1)?;
    let pack_high_water = PackId::from_raw(r.u64()?);
    let key_slots = r.u16()?;
    let rest = r.bytes(r.remaining().saturating_sub(32))?;
    // A store that this program may only read may have something in the reserved bytes. A compatible
    // feature may not: this program would write zeros over it.
    let unknown_read_only = features.read_only & !FEATURES_READ_ONLY_KNOWN;
    if format_version <= FORMAT_VERSION && unknown_read_only == 0 {
        r.ensure(
            (has_parity || percent == 0) && parity.iter().all(|b| *b == 0),
            "reserved bytes are not zero",
        )?;
        r.ensure(rest.iter().all(|b| *b == 0), "reserved bytes are not zero")?;
    }
    r.ensure(key_slots == 0, "key slots without encryption")?;
    let superblock = Superblock {
        format_version,
        min_version,
        generation,
        store,
        created,
        features,
        chunker,
        pack_capacity,
        parity_percent: has_parity.then_some(percent),
        pack_high_water,
    };
    superblock.check(&r)?;
    Ok(superblock)
}

fn read_chunker(r: &mut Reader<'_>) -> Result<Chunker> {
    let algorithm = r.u16()?;
    let count = usize::from(r.u16()?);
    r.ensure(count <= CHUNK_CLASSES_MAX, "count of chunk classes")?;
    r.zeros(4)?;
    let gear_seed = r.u64()?;
    let mut classes = Vec::with_capacity(count);
    for _ in 0..count {
        classes.push(ChunkClass {
            from: FileOff::from_raw(r.u64()?),
            min_len: r.u32()?,
            avg_len: r.u32()?,
            max_len: r.u32()?,
        });
        r.zeros(4)?;
    }
    r.zeros((CHUNK_CLASSES_MAX - count) * CLASS_LEN)?;
    Ok(Chunker {
        algorithm,
        gear_seed,
        classes,
    })
}
