//! A parity header and a page of its table that decode encode to the same bytes, and no place that a header
//! computes lies outside of its file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::format::parity::{
    PARITY_PAGE_LEN, ParityCopy, SourceAt, SymbolAt, TablePage, decode_parity_header,
    decode_table_page, encode_parity_header, encode_table_page,
};
use mmhfs_fuzz::{decoding, fixed, no_hash};

fn check(bytes: &[u8]) {
    let at = TablePage {
        header_sum: [1; 32],
        page: 3,
    };
    for count in [0, 1, 507, 508, 509] {
        if let Ok(sums) = decoding(bytes, || decode_table_page(bytes, &at, count, &no_hash)) {
            assert_eq!(encode_table_page(&at, &sums, &no_hash).unwrap(), bytes);
        }
    }
    let Ok(header) = decoding(bytes, || decode_parity_header(bytes, &no_hash)) else {
        return;
    };
    assert_eq!(encode_parity_header(&header, &no_hash), bytes);
    let shape = *header.shape();
    let end = header.file_len().raw();
    let last = header.header_off(ParityCopy::Second).raw();
    assert_eq!(last + PARITY_PAGE_LEN as u64, end);
    let (block, repair) = (shape.block_count - 1, shape.repair_count - 1);
    let after = header.repair_off(block, repair).raw() + u64::from(shape.symbol_len);
    assert_eq!(after, header.table_off(ParityCopy::Second, 0).raw());
    let entries = header.source_total() + header.repair_total();
    assert_eq!(header.repair_entry(block, repair) + 1, entries);
    for member in 0..header.members().len() {
        let symbols = header.symbols(member);
        for idx in [0, symbols / 2, symbols.saturating_sub(1)] {
            if idx < symbols {
                let at = SymbolAt { member, idx };
                let source = header.source_at(at);
                assert!(source.esi < shape.source_count && source.block < shape.block_count);
                assert_eq!(header.symbol_at(source), Some(at));
                assert!(header.source_entry(at) < header.source_total());
            }
        }
    }
    let past = SourceAt {
        block,
        esi: shape.source_count,
    };
    assert_eq!(header.symbol_at(past), None);
    for member in header.members() {
        assert!(header.member_of(member.pack).is_some());
    }
    for page in [0, header.table_pages() - 1] {
        assert!(header.page_sums(page) > 0);
    }
    let _ = header.survives_loss_of(0);
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&fixed(bytes, PARITY_PAGE_LEN));
});
