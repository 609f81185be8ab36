//! A footer that decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::format::footer::{
    FOOTER_HEADER_LEN, TRAILER_LEN, TRAILER_MAGIC, decode_footer, decode_trailer, encode_footer,
};
use mmhfs_fuzz::{decoding, no_hash};

fn check(bytes: &[u8]) {
    if let Ok(footer) = decoding(bytes, || decode_footer(bytes, &no_hash)) {
        assert_eq!(encode_footer(&footer, &no_hash).unwrap(), bytes);
        assert_eq!(footer.encoded_len(), bytes.len());
    }
}

fuzz_target!(|bytes: &[u8]| {
    for file_len in [0, 64, 1 << 20, u64::MAX] {
        if let Ok(found) = decode_trailer(bytes, file_len, &no_hash) {
            assert_eq!(found.footer_off.raw() + found.footer_len, file_len);
        }
    }
    check(bytes);
    // With checksums and a trailer that fit it.
    let mut whole = bytes.to_vec();
    whole.resize(whole.len().max(FOOTER_HEADER_LEN).next_multiple_of(8), 0);
    let data_len: [u8; 8] = whole[40..48].try_into().unwrap();
    whole.extend([0; 32]);
    let footer_len = (whole.len() + TRAILER_LEN) as u64;
    whole.extend(TRAILER_MAGIC);
    whole.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    whole.extend(data_len);
    whole.extend(footer_len.to_le_bytes());
    whole.extend([0; 32]);
    check(&whole);
});
