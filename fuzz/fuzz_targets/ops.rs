//! Operations that decode encode to the same bytes; their keys and values never panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::format::keys::dirty_of;
use mmhfs::format::record::{decode_ops, encode_ops};
use mmhfs::format::rows::Op;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ops) = decode_ops(bytes) {
        assert_eq!(encode_ops(&ops), bytes);
        for op in &ops {
            let (Op::Put(table, key, _) | Op::Del(table, key) | Op::DelRange(table, key, _)) = op;
            let _ = dirty_of(*table, key);
        }
    }
});
