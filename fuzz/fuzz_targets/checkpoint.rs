//! A checkpoint that decodes encodes to the same bytes; its parts take no more than they say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::codec::decompress;
use mmhfs::format::checkpoint::{
    CHECKPOINT_HEADER_LEN, CheckpointPiece, checkpoint_payload, decode_checkpoint_header,
    decode_checkpoint_piece, decode_checkpoint_rows, encode_checkpoint_end,
    encode_checkpoint_header, encode_checkpoint_part,
};
use mmhfs::format::record::RECORD_RAW_LEN_MAX;
use mmhfs_fuzz::{SHARE, decoding, fixed, no_hash, within};

fn check_header(bytes: &[u8]) {
    if let Ok((head, _)) = decoding(bytes, || decode_checkpoint_header(bytes, &no_hash)) {
        assert_eq!(encode_checkpoint_header(&head, &no_hash), bytes);
    }
}

fn check_piece(bytes: &[u8]) {
    match decode_checkpoint_piece(bytes.get(..64).unwrap_or(bytes)) {
        Ok(CheckpointPiece::Part(head, _)) => {
            let Ok(payload) = checkpoint_payload(&head, bytes, &[0; 32], &no_hash) else {
                return;
            };
            let again = encode_checkpoint_part(&head, payload, &[0; 32], &no_hash);
            assert_eq!(again.unwrap().0, bytes);
            let raw_len = head.raw_len as usize;
            assert!(raw_len <= RECORD_RAW_LEN_MAX);
            let mut raw = Vec::new();
            let done = within(raw_len + 1024, || {
                decompress(head.codec, payload, raw_len, &mut raw)
            });
            if done.is_ok() {
                let mut last = None;
                let rows = within(1024 + SHARE * raw.len(), || {
                    decode_checkpoint_rows(&head, &raw, &mut last)
                });
                assert!(rows.is_err() || last.is_some());
                // The same rows again are no longer in order.
                if rows.is_ok() {
                    assert!(decode_checkpoint_rows(&head, &raw, &mut last).is_err());
                }
            }
        }
        Ok(CheckpointPiece::End(end)) => {
            assert_eq!(encode_checkpoint_end(&end), bytes.get(..64).unwrap());
        }
        Err(_) => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    check_header(bytes);
    check_header(&fixed(bytes, CHECKPOINT_HEADER_LEN));
    check_piece(bytes);
    // With a checksum that is right, and as long as the head says.
    let mut bytes = bytes.to_vec();
    if let Some(sum) = bytes.get_mut(32..64) {
        sum.fill(0);
    }
    if let Ok(CheckpointPiece::Part(head, _)) =
        decode_checkpoint_piece(bytes.get(..64).unwrap_or(&bytes))
    {
        bytes.resize(head.part_len(), 0);
        check_piece(&bytes);
    }
});
