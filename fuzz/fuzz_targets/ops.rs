//! Operations that decode encode to the same bytes; their keys and values never panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::format::keys::dirty_of;
use mmhfs::format::record::{decode_ops, encode_ops, op_is_valid, op_len};
use mmhfs::format::rows::Op;
use mmhfs_fuzz::decoding;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ops) = decoding(bytes, || decode_ops(bytes)) {
        assert_eq!(encode_ops(&ops), bytes);
        assert_eq!(ops.iter().map(op_len).sum::<usize>(), bytes.len());
        for op in &ops {
            assert!(op_is_valid(op));
            let (Op::Put(table, key, _) | Op::Del(table, key) | Op::DelRange(table, key, _)) = op;
            let _ = dirty_of(*table, key);
        }
    }
});
