//! Makes checksums, chain hashes and lengths of a changed store right again, so that the lies get past them.
//!
//! 1. Superblocks and pack headers: their own checksums; the cut of a LOG pack continues the pack before it.
//! 2. Frames: the checksum with the address. Records: number, span, chain. What cannot be walked stays as it is.
//! 3. Footers: the digest of the body, the end of the log, both checksums.
//! 4. Checkpoints: the chain hash of their place, all checksums.
//! 5. Parity files: both copies of the header, and the pages of the table.

use std::collections::BTreeMap;

use mmhfs::base::{PackId, PackOff, StoreId};
use mmhfs::format::footer::{FOOTER_HEADER_LEN, TRAILER_LEN, TRAILER_MAGIC};
use mmhfs::format::frame::{Address, FRAME_CHUNK_LEN, FRAME_HEADER_LEN, peek_frame_len};
use mmhfs::format::pack::{PACK_HEADER_LEN, Piece, piece_at};
use mmhfs::format::record::{RECORD_HEADER_LEN, decode_header};
use mmhfs::format::{CHAIN_START, Hash};
use mmhfs::hash::{Checksum, checksum};
use mmhfs::sim::Medium;

/// The state of the log after a record.
#[derive(Clone, Copy, Debug)]
pub struct LogEnd {
    pub pack: u64,
    pub off: usize,
    pub lsn: u64,
    pub chain: Hash,
    pub epoch: u64,
    /// A footer follows.
    pub sealed: bool,
}

impl LogEnd {
    const START: Self = Self {
        pack: 0,
        off: 0,
        lsn: 0,
        chain: CHAIN_START,
        epoch: 0,
        sealed: false,
    };
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(to) = bytes.get_mut(at..at + value.len()) {
        to.copy_from_slice(value);
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    u64::from_le_bytes(word.unwrap_or_default())
}

pub fn address(store: StoreId, pack: u64, off: usize) -> Address {
    Address {
        store,
        pack: PackId::from_raw(pack),
        off: PackOff::from_raw(off as u64),
    }
}

/// The hash of a record at a place.
pub fn record_hash(at: Address) -> impl Fn(&[&[u8]]) -> Hash {
    move |parts| {
        let (pack, off) = (at.pack.raw().to_le_bytes(), at.off.raw().to_le_bytes());
        let mut all: Vec<&[u8]> = vec![at.store.as_bytes(), &pack, &off];
        all.extend(parts);
        checksum(Checksum::Chain, &all)
    }
}

/// The number in the name of a pack, and whether it is a LOG pack.
pub fn pack_of(name: &str) -> Option<(u64, bool)> {
    let (digits, extension) = name.strip_prefix("packs/")?.split_once('.')?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    matches!(extension, "log" | "dat").then_some((number, extension == "log"))
}

/// Signs the last page of a thing that ends with its checksum.
fn sign_end(bytes: &mut [u8], context: Checksum) {
    if let Some(covered) = bytes.len().checked_sub(32) {
        let sum = checksum(context, &[&bytes[..covered]]);
        put(bytes, covered, &sum);
    }
}

/// Signs everything in a store. Of one that nobody has changed not a byte is another after it.
pub fn resign(medium: &mut Medium, store: StoreId) -> LogEnd {
    let names: Vec<String> = medium
        .durable_files()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let mut places = BTreeMap::new();
    let mut end = LogEnd::START;
    for name in &names {
        let mut bytes = medium.bytes(name).unwrap_or_default().to_vec();
        if name.starts_with("super.") {
            sign_end(&mut bytes, Checksum::Superblock);
        } else if let Some((number, is_log)) = pack_of(name) {
            end = sign_pack(&mut bytes, store, (number, is_log), end, &mut places);
        } else {
            continue;
        }
        medium.put(name, bytes);
    }
    for name in names {
        let mut bytes = medium.bytes(&name).unwrap_or_default().to_vec();
        if name.ends_with(".ckp") {
            sign_checkpoint(&mut bytes, &places);
        } else if name.ends_with(".par") {
            sign_parity(&mut bytes);
        } else {
            continue;
        }
        medium.put(&name, bytes);
    }
    end
}

/// Numbers and chain hashes of records by the places where they end.
type Places = BTreeMap<(u64, u64), (u64, Hash)>;

fn sign_pack(
    bytes: &mut [u8],
    store: StoreId,
    (number, is_log): (u64, bool),
    before: LogEnd,
    places: &mut Places,
) -> LogEnd {
    if bytes.len() < PACK_HEADER_LEN {
        return before;
    }
    let mut end = LogEnd {
        pack: number,
        off: PACK_HEADER_LEN,
        sealed: false,
        ..before
    };
    if is_log {
        // It may continue packs that are gone, or lie about what it continues.
        if before.pack != 0 && word(bytes, 72) == before.pack {
            put(bytes, 64, &(before.lsn + 1).to_le_bytes());
            put(bytes, 72, &before.pack.to_le_bytes());
            put(bytes, 80, &(before.off as u64).to_le_bytes());
            put(bytes, 88, &before.lsn.to_le_bytes());
            put(bytes, 96, &(before.epoch + 1).to_le_bytes());
            put(bytes, 104, &before.chain);
        }
        end.lsn = word(bytes, 88);
        end.epoch = word(bytes, 96);
        end.chain = bytes[104..136].try_into().unwrap();
    }
    sign_end(&mut bytes[..PACK_HEADER_LEN], Checksum::PackHeader);
    let (mut at, mut records) = (PACK_HEADER_LEN, 0_u64);
    while let Ok(piece) = piece_at(bytes.get(at..).unwrap_or_default()) {
        let rest = &bytes[at..];
        let claim = match piece {
            Piece::Frame => peek_frame_len(rest),
            Piece::Record => decode_header(rest).map(|record| record.record_len()),
            Piece::Footer => {
                sign_footer(bytes, at, is_log, records, &end);
                end.sealed = true;
                break;
            }
        };
        let Ok(Some(len)) = claim.map(|len| usize::try_from(len).ok()) else {
            break;
        };
        if len > rest.len() {
            break;
        }
        match piece {
            Piece::Frame => sign_frame(&mut bytes[at..at + len], address(store, number, at)),
            _ => {
                let (before, from) = bytes.split_at_mut(at);
                let span = &before[end.off..];
                sign_record(&mut from[..len], address(store, number, at), span, &mut end);
                records += 1;
                end.off = at + len;
                places.insert((number, end.off as u64), (end.lsn, end.chain));
            }
        }
        at += len;
    }
    if is_log { end } else { before }
}

fn sign_frame(frame: &mut [u8], at: Address) {
    let count = usize::from(u16::from_le_bytes([frame[12], frame[13]]));
    let directory_end = FRAME_HEADER_LEN + count * FRAME_CHUNK_LEN;
    let stored = u32::from_le_bytes(frame[20..24].try_into().unwrap()) as usize;
    let payload_end = (directory_end + stored).min(frame.len());
    let (pack, off) = (at.pack.raw().to_le_bytes(), at.off.raw().to_le_bytes());
    let sum = checksum(
        Checksum::Frame,
        &[
            at.store.as_bytes(),
            &pack,
            &off,
            &frame[..32],
            &frame[FRAME_HEADER_LEN..payload_end],
        ],
    );
    put(frame, 32, &sum);
}

fn sign_record(record: &mut [u8], at: Address, span: &[u8], end: &mut LogEnd) {
    let stored = u32::from_le_bytes(record[80..84].try_into().unwrap()) as usize;
    end.lsn += 1;
    put(record, 16, &end.lsn.to_le_bytes());
    put(record, 24, &(span.len() as u64).to_le_bytes());
    put(record, 32, &checksum(Checksum::Span, &[span]));
    put(record, 96, &end.chain);
    let payload = &record[RECORD_HEADER_LEN..RECORD_HEADER_LEN + stored];
    end.chain = record_hash(at)(&[&record[..128], payload]);
    put(record, 128, &end.chain);
}

fn sign_footer(bytes: &mut [u8], at: usize, is_log: bool, records: u64, end: &LogEnd) {
    let len = bytes.len();
    if len < at + FOOTER_HEADER_LEN + 32 + TRAILER_LEN {
        return;
    }
    let body = checksum(Checksum::Pack, &[&bytes[..at]]);
    put(bytes, at + 40, &(at as u64).to_le_bytes());
    put(bytes, at + 104, &body);
    if is_log {
        put(bytes, at + 48, &records.to_le_bytes());
        put(bytes, at + 64, &end.lsn.to_le_bytes());
        put(bytes, at + 72, &end.chain);
    }
    let trailer = len - TRAILER_LEN;
    sign_end(&mut bytes[at..trailer], Checksum::Footer);
    if bytes[trailer..].starts_with(&TRAILER_MAGIC) {
        put(bytes, trailer + 16, &(at as u64).to_le_bytes());
        put(bytes, trailer + 24, &((len - at) as u64).to_le_bytes());
        sign_end(&mut bytes[trailer..], Checksum::Footer);
    }
}

fn sign_checkpoint(bytes: &mut [u8], places: &Places) {
    if bytes.len() < 256 {
        return;
    }
    if let Some((lsn, chain)) = places.get(&(word(bytes, 32), word(bytes, 40))) {
        put(bytes, 48, &lsn.to_le_bytes());
        put(bytes, 56, chain);
    }
    sign_end(&mut bytes[..256], Checksum::Checkpoint);
    let header: Hash = bytes[224..256].try_into().unwrap();
    let mut sums = header.to_vec();
    let mut at = 256;
    while bytes.len() >= at + 64 {
        if bytes[at..].starts_with(b"mmhckend") {
            sums.extend_from_slice(&bytes[at + 8..at + 12]);
            sums.extend_from_slice(&bytes[at + 16..at + 24]);
            let sum = checksum(Checksum::Checkpoint, &[&sums]);
            put(bytes, at + 32, &sum);
            return;
        }
        let stored = u32::from_le_bytes(bytes[at + 20..at + 24].try_into().unwrap()) as usize;
        let len = (64 + stored).next_multiple_of(8);
        if bytes.len() < at + len {
            return;
        }
        let payload = &bytes[at + 64..at + 64 + stored];
        let sum = checksum(
            Checksum::Checkpoint,
            &[&header, &bytes[at..at + 32], payload],
        );
        put(bytes, at + 32, &sum);
        sums.extend_from_slice(&sum);
        at += len;
    }
}

fn sign_parity(bytes: &mut [u8]) {
    if bytes.len() < 4 * 4096 || !bytes.len().is_multiple_of(4096) {
        return;
    }
    let last = bytes.len() - 4096;
    for at in [0, last] {
        sign_end(&mut bytes[at..at + 4096], Checksum::ParityHeader);
    }
    let header: Hash = bytes[4064..4096].try_into().unwrap();
    for at in [4096, last - 4096] {
        let covered = &bytes[at..at + 4064];
        let page = 0_u64.to_le_bytes();
        let sum = checksum(Checksum::ParityTable, &[&header, &page, covered]);
        put(bytes, at + 4064, &sum);
    }
}
