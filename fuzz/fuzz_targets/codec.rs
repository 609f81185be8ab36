//! What is stored never decodes to more than was asked for, and what is compressed comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::base::limits::FRAME_RAW_LEN_MAX;
use mmhfs::codec::{compress, decompress};
use mmhfs_fuzz::within;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[codec, a, b, c], stored)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let claim = u32::from_le_bytes([a, b, c, 0]) as usize;
    let mut out = Vec::new();
    let max = claim.min(FRAME_RAW_LEN_MAX);
    let done = within(max + 1024, || decompress(codec, stored, claim, &mut out));
    assert!(done.is_err() || out.len() == claim);
    assert!(out.capacity() <= max.max(8));

    let mut packed = Vec::new();
    let codec = compress(stored, i32::from(a % 4), &mut packed).unwrap();
    assert!(packed.len() <= stored.len());
    decompress(codec.id(), &packed, stored.len(), &mut out).unwrap();
    assert_eq!(out, stored);
});
