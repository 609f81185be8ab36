//! A frame that decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::base::{PackId, PackOff, StoreId};
use mmhfs::format::frame::{Address, decode_frame, encode_frame, peek_frame_len};

fuzz_target!(|bytes: &[u8]| {
    // A constant instead of a hash lets the fuzzer pass the checksum and reach what is behind it.
    let hash = |_: &[&[u8]]| [0; 32];
    let at = Address {
        store: StoreId::from_raw([1; 16]),
        pack: PackId::from_raw(1),
        off: PackOff::from_raw(4096),
    };
    let len = peek_frame_len(bytes);
    if let Ok((head, payload)) = decode_frame(bytes, &at, &hash) {
        assert_eq!(len.unwrap(), bytes.len() as u64);
        let again = encode_frame(&at, &head, &bytes[payload], &hash).unwrap();
        assert_eq!(again, bytes);
    }
});
