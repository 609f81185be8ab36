//! Each value of a table that decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::base::FileOff;
use mmhfs::chunk::Watermark;
use mmhfs::format::keys::check_extent;
use mmhfs::format::rows::{
    ChunkRow, DirentRow, ExtentRow, InodeRow, PackRow, SnapDirRow, SnapFileRow, SnapshotRow,
    decode_counter, encode_counter,
};
use mmhfs_fuzz::decoding;

fuzz_target!(|bytes: &[u8]| {
    macro_rules! check {
        ($($row:ty),*) => {$(
            if let Ok(row) = decoding(bytes, || <$row>::decode(bytes)) {
                assert_eq!(row.encode(), bytes);
            }
        )*};
    }
    check!(ChunkRow, DirentRow, ExtentRow, InodeRow);
    check!(PackRow, SnapDirRow, SnapFileRow, SnapshotRow, Watermark);
    if let Ok(value) = decode_counter(bytes) {
        assert_eq!(encode_counter(value), bytes);
    }
    if let Ok(row) = ExtentRow::decode(bytes) {
        for off in [
            0,
            u64::from(row.len),
            (64 << 20) - 1,
            i64::MAX as u64,
            u64::MAX,
        ] {
            let _ = check_extent(FileOff::from_raw(off), &row);
        }
    }
});
