//! How far a scrub has got: a small file of the store, which may be deleted at any time.

use super::HashFn;
use super::cursor::{Reader, Writer};
use crate::base::{PackId, Result, StoreId};

/// First 8 bytes of the file.
pub const SCRUB_MARK_MAGIC: [u8; 8] = *b"mmhscrub";
/// Length of the file in bytes.
pub const SCRUB_MARK_LEN: usize = 64;
/// Bytes that the checksum covers: all before the checksum itself.
const COVERED_LEN: usize = SCRUB_MARK_LEN - 32;

/// Makes the 64 bytes of a mark: all packs before `next` were read, and nothing that is damaged was left in them.
/// `hash` is bound to the domain "scrub mark".
#[must_use]
pub fn encode_scrub_mark(store: StoreId, next: PackId, hash: HashFn<'_>) -> Vec<u8> {
    let mut w = Writer::with_capacity(SCRUB_MARK_LEN);
    w.bytes(&SCRUB_MARK_MAGIC).bytes(store.as_bytes());
    w.u64(next.raw());
    let sum = hash(&[w.as_slice()]);
    w.bytes(&sum);
    w.finish()
}

/// Inverse of [`encode_scrub_mark`]: the store that the mark is of, and the next pack.
///
/// # Errors
/// `Malformed` for bytes that are no intact mark.
pub fn decode_scrub_mark(bytes: &[u8], hash: HashFn<'_>) -> Result<(StoreId, PackId)> {
    let mut r = Reader::new("scrub mark", bytes);
    r.ensure(bytes.len() == SCRUB_MARK_LEN, "length")?;
    let (covered, sum) = bytes.split_at_checked(COVERED_LEN).unwrap_or((bytes, &[]));
    let magic: [u8; 8] = r.array()?;
    r.ensure(magic == SCRUB_MARK_MAGIC, "magic")?;
    r.ensure(sum == hash(&[covered]), "checksum does not match")?;
    let store = StoreId::from_raw(r.array()?);
    Ok((store, PackId::from_raw(r.u64()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(parts: &[&[u8]]) -> [u8; 32] {
        let mut sum = [7_u8; 32];
        for (n, byte) in parts.iter().flat_map(|part| part.iter()).enumerate() {
            sum[n % 32] = sum[n % 32].wrapping_mul(31) ^ byte;
        }
        sum
    }

    #[test]
    fn a_mark_survives_its_encoding_and_no_changed_byte_passes() {
        let store = StoreId::from_raw([5; 16]);
        let bytes = encode_scrub_mark(store, PackId::from_raw(0x1234), &hash);
        assert_eq!(bytes.len(), SCRUB_MARK_LEN);
        assert_eq!(&bytes[..8], b"mmhscrub");
        assert_eq!(&bytes[24..32], &[0x34, 0x12, 0, 0, 0, 0, 0, 0]);
        let found = decode_scrub_mark(&bytes, &hash).unwrap();
        assert_eq!(found, (store, PackId::from_raw(0x1234)));
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(decode_scrub_mark(&other, &hash).is_err(), "{at}");
        }
        assert!(decode_scrub_mark(&bytes[..63], &hash).is_err());
        assert!(decode_scrub_mark(&[], &hash).is_err());
    }
}
