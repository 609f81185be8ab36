//! A commit record that decodes encodes to the same bytes; its payload takes no more than its header says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::codec::decompress;
use mmhfs::format::record::{RECORD_RAW_LEN_MAX, decode_header, decode_record, encode_record};
use mmhfs_fuzz::{decoding, no_hash, within};

fn check(bytes: &[u8]) {
    let Ok(claim) = decode_header(bytes) else {
        return;
    };
    let head = claim.head;
    let read = decoding(bytes, || {
        decode_record(
            bytes,
            &head.prev_chain,
            head.span_len,
            &head.span_hash,
            &no_hash,
        )
    });
    let Ok(record) = read else {
        return;
    };
    let payload = &bytes[record.payload()];
    let (again, chain) = encode_record(&record.head, payload, &no_hash).unwrap();
    assert_eq!(again, bytes);
    assert_eq!(chain, record.chain);
    let raw_len = head.raw_len as usize;
    assert!(raw_len <= RECORD_RAW_LEN_MAX);
    let mut raw = Vec::new();
    let done = within(raw_len + 1024, || {
        decompress(head.codec, payload, raw_len, &mut raw)
    });
    if done.is_ok()
        && let Ok(ops) = decoding(&raw, || record.decode_ops(&raw))
    {
        assert_eq!(ops.len(), head.op_count as usize);
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // With a chain hash that is right, and as long as the header says.
    let mut bytes = bytes.to_vec();
    if let Some(chain) = bytes.get_mut(128..160) {
        chain.fill(0);
    }
    if let Ok(claim) = decode_header(&bytes) {
        bytes.resize(claim.record_len() as usize, 0);
    }
    check(&bytes);
});
