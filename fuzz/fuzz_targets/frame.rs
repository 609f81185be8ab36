//! A frame that decodes encodes to the same bytes, and its payload never takes more than its head says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::base::limits::FRAME_RAW_LEN_MAX;
use mmhfs::base::{PackId, PackOff, StoreId};
use mmhfs::codec::decompress;
use mmhfs::format::frame::{Address, decode_frame, encode_frame, peek_frame_len};
use mmhfs_fuzz::{decoding, no_hash, within};

fn check(bytes: &[u8]) {
    let at = Address {
        store: StoreId::from_raw([1; 16]),
        pack: PackId::from_raw(1),
        off: PackOff::from_raw(4096),
    };
    let len = peek_frame_len(bytes);
    let Ok((head, payload)) = decoding(bytes, || decode_frame(bytes, &at, &no_hash)) else {
        return;
    };
    assert_eq!(len.unwrap(), bytes.len() as u64);
    let payload = &bytes[payload];
    assert_eq!(encode_frame(&at, &head, payload, &no_hash).unwrap(), bytes);
    let raw_len = head.raw_len as usize;
    assert!(raw_len <= FRAME_RAW_LEN_MAX);
    let mut raw = Vec::new();
    let done = within(raw_len + 1024, || {
        decompress(head.codec, payload, raw_len, &mut raw)
    });
    assert!(done.is_err() || raw.len() == raw_len);
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // With a checksum that is right, and as long as the header says.
    let mut bytes = bytes.to_vec();
    if let Some(sum) = bytes.get_mut(32..64) {
        sum.fill(0);
    }
    if let Ok(len) = peek_frame_len(&bytes) {
        bytes.resize(len as usize, 0);
    }
    check(&bytes);
});
