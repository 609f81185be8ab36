//! A pack header that decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::format::pack::{PACK_HEADER_LEN, decode_pack_header, encode_pack_header, piece_at};
use mmhfs_fuzz::{decoding, fixed, no_hash};

fn check(bytes: &[u8]) {
    let _ = piece_at(bytes);
    if let Ok(header) = decoding(bytes, || decode_pack_header(bytes, &no_hash)) {
        assert_eq!(encode_pack_header(&header, &no_hash).unwrap(), bytes);
        assert!(header.first_lsn() >= header.cut.map(|cut| cut.lsn).unwrap_or_default());
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&fixed(bytes, PACK_HEADER_LEN));
});
