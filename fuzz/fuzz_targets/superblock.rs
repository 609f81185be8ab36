//! A superblock that decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::format::superblock::{
    FEATURES_READ_ONLY_KNOWN, FORMAT_VERSION, SUPERBLOCK_LEN, decode_superblock, encode_superblock,
};
use mmhfs_fuzz::{decoding, fixed, no_hash};

fn check(bytes: &[u8]) {
    let Ok(superblock) = decoding(bytes, || decode_superblock(bytes, &no_hash)) else {
        return;
    };
    match encode_superblock(&superblock, &no_hash) {
        Ok(again) => assert_eq!(again, bytes),
        // Only what this program may not write.
        Err(_) => assert!(
            superblock.format_version > FORMAT_VERSION
                || superblock.features.read_only & !FEATURES_READ_ONLY_KNOWN != 0
        ),
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&fixed(bytes, SUPERBLOCK_LEN));
});
