//! Each value of a table that decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::format::rows::{
    ChunkRow, DirentRow, ExtentRow, InodeRow, PackRow, SnapDirRow, SnapFileRow, SnapshotRow,
    decode_counter, encode_counter,
};

fuzz_target!(|bytes: &[u8]| {
    macro_rules! check {
        ($($row:ty),*) => {$(
            if let Ok(row) = <$row>::decode(bytes) {
                assert_eq!(row.encode(), bytes);
            }
        )*};
    }
    check!(ChunkRow, DirentRow, ExtentRow, InodeRow);
    check!(PackRow, SnapDirRow, SnapFileRow, SnapshotRow);
    if let Ok(value) = decode_counter(bytes) {
        assert_eq!(encode_counter(value), bytes);
    }
});
