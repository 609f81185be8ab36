//! The stored format: golden bytes, the examples of docs/format.md, and what decoders must refuse.
//!
//! `MMHFS_BLESS=1 cargo test --test format` writes the golden files anew; do that only together with a
//! new format version or feature bit.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a helper of a test that fails must stop it"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mmhfs::base::{Error, FileOff, Ino, PackId, PackOff, Slot, StoreId};
use mmhfs::format::footer::{TRAILER_LEN, decode_trailer, encode_footer};
use mmhfs::format::frame::{Address, FrameHead, decode_frame, encode_frame, peek_frame_len};
use mmhfs::format::pack::{Cut, PackHeader, Piece, encode_pack_header, piece_at};
use mmhfs::format::parity::{
    PARITY_PAGE_SUMS, ParityHeader, ParityKind, Shape, SourceAt, TablePage, decode_table_page,
    encode_table_page,
};
use mmhfs::format::record::{
    Record, decode_header, decode_record, encode_ops, encode_record, op_len,
};
use mmhfs::format::rows::{DirentRow, DirtyKey, ExtentRow, InodeRow, Table};
use mmhfs::format::split::SplitNode;
use mmhfs::format::superblock::{
    FEATURE_SPLIT_NODES, Superblock, decode_superblock, encode_superblock, is_foreign,
};
use mmhfs::format::{CHAIN_START, Hash, HashFn, keys};
use mmhfs::hash::{Checksum, checksum};
use proptest::prelude::*;

#[path = "format/samples.rs"]
mod samples;

use samples::*;

/// The one check: what decodes is exactly what encodes to the same bytes.
fn check_canonical(sample: &Sample, bytes: &[u8], hash: HashFn<'_>) -> bool {
    match (sample.again)(bytes, hash) {
        Ok(again) => {
            assert_eq!(again, bytes, "{} is not canonical", sample.name);
            true
        }
        Err(
            Error::Malformed { .. } | Error::VersionTooNew { .. } | Error::UnknownFeatures { .. },
        ) => false,
        Err(other) => panic!("{}: another error: {other}", sample.name),
    }
}

fn real_hash(sample: &Sample) -> impl Fn(&[&[u8]]) -> Hash {
    let kind = sample.sealed.unwrap_or(Checksum::Span);
    move |parts| checksum(kind, parts)
}

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

#[test]
fn every_record_encodes_to_its_golden_bytes_and_back() {
    let bless = std::env::var_os("MMHFS_BLESS").is_some();
    for sample in samples() {
        let path = golden_dir().join(format!("{}.bin", sample.name));
        if bless {
            std::fs::write(&path, &sample.bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert_eq!(sample.bytes, golden, "{} has changed", sample.name);
        assert!(check_canonical(&sample, &golden, &real_hash(&sample)));
    }
}

#[test]
fn every_golden_file_belongs_to_a_record() {
    let names: Vec<String> = samples()
        .iter()
        .map(|s| format!("{}.bin", s.name))
        .collect();
    for file in std::fs::read_dir(golden_dir()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&name), "{name} is checked by nothing");
    }
}

#[test]
fn the_examples_of_the_document_are_the_golden_bytes() {
    let doc = include_str!("../docs/format.md");
    let mut seen = 0;
    let by_name: BTreeMap<_, _> = samples().into_iter().map(|s| (s.name, s.bytes)).collect();
    for block in doc.split("```hex ").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        let (body, _) = rest.split_once("```").unwrap();
        let golden = &by_name[name.trim()];
        assert_eq!(
            &parse_dump(body, golden.len()),
            golden,
            "{name} in docs/format.md"
        );
        seen += 1;
    }
    assert!(seen >= 12, "only {seen} examples found");
}

/// Lines of `offset: bytes`; bytes that no line gives are zero.
fn parse_dump(body: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for line in body.lines() {
        let (off, hex) = line.split_once(':').unwrap();
        let off = usize::from_str_radix(off, 16).unwrap();
        for (idx, byte) in hex.split_whitespace().enumerate() {
            bytes[off + idx] = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    bytes
}

#[test]
fn every_truncation_and_every_flipped_byte_of_a_checksummed_record_is_refused() {
    for sample in sealed_samples() {
        let hash = real_hash(&sample);
        for len in 0..sample.bytes.len() {
            let cut = &sample.bytes[..len];
            assert!(
                !check_canonical(&sample, cut, &hash),
                "{} cut at {len}",
                sample.name
            );
        }
        let mut longer = sample.bytes.clone();
        longer.extend_from_slice(&[0; 8]);
        assert!(!check_canonical(&sample, &longer, &hash), "{}", sample.name);
        for at in 0..sample.bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = sample.bytes.clone();
                bytes[at] ^= flip;
                assert!(
                    !check_canonical(&sample, &bytes, &hash),
                    "{} byte {at}",
                    sample.name
                );
            }
        }
    }
}

#[test]
fn truncations_and_flipped_bytes_of_unchecked_records_are_refused_or_canonical() {
    for sample in samples() {
        let constant = |_: &[&[u8]]| [0x5a; 32];
        for len in 0..sample.bytes.len() {
            check_canonical(&sample, &sample.bytes[..len], &constant);
        }
        for at in 0..sample.bytes.len() {
            for bit in 0..8 {
                let mut bytes = sample.bytes.clone();
                bytes[at] ^= 1 << bit;
                check_canonical(&sample, &bytes, &constant);
            }
        }
    }
}

#[test]
fn a_frame_read_from_another_place_is_refused() {
    let hash = |parts: &[&[u8]]| checksum(Checksum::Frame, parts);
    let bytes = encode_frame(&address(), &frame_head(), PAYLOAD, &hash).unwrap();
    assert!(decode_frame(&bytes, &address(), &hash).is_ok());
    let others = [
        Address {
            off: PackOff::from_raw(4104),
            ..address()
        },
        Address {
            pack: PackId::from_raw(2),
            ..address()
        },
        Address {
            store: StoreId::from_raw([0; 16]),
            ..address()
        },
    ];
    for other in others {
        assert!(decode_frame(&bytes, &other, &hash).is_err(), "{other:?}");
    }
}

#[test]
fn a_record_that_does_not_follow_its_predecessor_is_refused() {
    let hash = |parts: &[&[u8]]| checksum(Checksum::Chain, parts);
    let (bytes, _) = encode_record(&record_head(), &encode_ops(&ops()), &hash).unwrap();
    let read = |chain: &Hash, len, span: &Hash| decode_record(&bytes, chain, len, span, &hash);
    let record: Record = read(&CHAIN_START, 152, &span_hash()).unwrap();
    assert_eq!(record.decode_ops(&bytes[record.payload()]).unwrap(), ops());
    assert!(read(&[1; 32], 152, &span_hash()).is_err());
    assert!(read(&CHAIN_START, 160, &span_hash()).is_err());
    assert!(read(&CHAIN_START, 152, &[2; 32]).is_err());
}

#[test]
fn a_foreign_a_damaged_and_a_newer_superblock_are_told_apart() {
    let hash = |parts: &[&[u8]]| checksum(Checksum::Superblock, parts);
    let good = encode_superblock(&superblock(), &hash).unwrap();
    let patch = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        let sum = hash(&[&bytes[..4064]]);
        bytes[4064..].copy_from_slice(&sum);
        bytes
    };
    assert!(is_foreign(b"something else") && !is_foreign(&good));
    let newer = [2, 0, 0, 0, 2, 0, 0, 0];
    assert!(matches!(
        decode_superblock(&patch(8, &newer), &hash),
        Err(Error::VersionTooNew {
            found: 2,
            supported: 1
        })
    ));
    assert!(matches!(
        decode_superblock(&patch(56, &[4]), &hash),
        Err(Error::UnknownFeatures {
            kind: "incompatible",
            bits: 4
        })
    ));
    let read_only = decode_superblock(&patch(64, &[8]), &hash).unwrap();
    assert!(matches!(
        read_only.check_writable(),
        Err(Error::UnknownFeatures {
            kind: "read-only compatible",
            bits: 8
        })
    ));
    let newer_but_readable = decode_superblock(&patch(8, &[2, 0, 0, 0]), &hash).unwrap();
    assert!(newer_but_readable.check_writable().is_err());
    assert!(encode_superblock(&newer_but_readable, &hash).is_err());
    let compatible = decode_superblock(&patch(72, &[1]), &hash).unwrap();
    assert_eq!(
        encode_superblock(&compatible, &hash).unwrap(),
        patch(72, &[1])
    );
    assert!(decode_superblock(&patch(300, &[1]), &hash).is_err());
}

#[test]
fn a_superblock_says_how_much_parity_there_is_only_with_its_feature_bit() {
    let hash = |parts: &[&[u8]]| checksum(Checksum::Superblock, parts);
    let of = |percent: u8, bit: u8, at_201: u8| {
        let mut bytes = encode_superblock(&superblock(), &hash).unwrap();
        bytes[64] = bit;
        bytes[200] = percent;
        bytes[201] = at_201;
        let sum = hash(&[&bytes[..4064]]);
        bytes[4064..].copy_from_slice(&sum);
        decode_superblock(&bytes, &hash).map(|found| found.parity_percent)
    };
    assert_eq!(of(0, 0, 0).unwrap(), None);
    for percent in [0, 7, 100] {
        assert_eq!(of(percent, 1, 0).unwrap(), Some(percent));
        let with = superblock().with_parity(percent);
        assert!(with.check_writable().is_ok());
        let bytes = encode_superblock(&with, &hash).unwrap();
        assert_eq!(decode_superblock(&bytes, &hash).unwrap(), with);
    }
    assert!(of(101, 1, 0).is_err());
    assert!(of(7, 0, 0).is_err() && of(7, 1, 1).is_err());
    let without_bit = Superblock {
        parity_percent: Some(7),
        ..superblock()
    };
    assert!(encode_superblock(&without_bit, &hash).is_err());
}

#[test]
fn a_footer_is_found_from_the_end_of_the_file() {
    let hash = |parts: &[&[u8]]| checksum(Checksum::Footer, parts);
    let bytes = encode_footer(&footer(), &hash).unwrap();
    assert_eq!(bytes.len(), footer().encoded_len());
    let file_len = 4608 + bytes.len() as u64;
    let last = &bytes[bytes.len() - TRAILER_LEN..];
    let trailer = decode_trailer(last, file_len, &hash).unwrap();
    assert_eq!(trailer.footer_off, PackOff::from_raw(4608));
    assert_eq!(trailer.footer_len, bytes.len() as u64);
    assert!(decode_trailer(last, file_len + 8, &hash).is_err());
}

#[test]
fn what_an_encoder_must_not_write_is_refused() {
    let hash = |_: &[&[u8]]| [0; 32];
    let bad_heads = [
        FrameHead {
            raw_len: 12,
            ..frame_head()
        },
        FrameHead {
            chunks: Vec::new(),
            ..frame_head()
        },
        FrameHead {
            codec: 1,
            ..frame_head()
        },
    ];
    for head in bad_heads {
        let payload = if head.codec == 1 {
            &b"longer than the raw form"[..]
        } else {
            PAYLOAD
        };
        assert!(
            encode_frame(&address(), &head, payload, &hash).is_err(),
            "{head:?}"
        );
    }
    let same_pack = Cut {
        prev: PackId::from_raw(4),
        ..header_log().cut.unwrap()
    };
    let header = PackHeader {
        cut: Some(same_pack),
        ..header_log()
    };
    assert!(encode_pack_header(&header, &hash).is_err());
    let mut overlapping = footer();
    overlapping.frames.push(overlapping.frames[0].clone());
    assert!(encode_footer(&overlapping, &hash).is_err());
}

/// Every symbol of every member has one place among the blocks, and damage spreads evenly over them.
#[test]
fn the_symbols_of_a_parity_file_are_dealt_to_its_blocks_like_cards() {
    let header = parity_header();
    let mut seen = BTreeMap::new();
    for block in 0..2 {
        for esi in 0..3 {
            let source = SourceAt { block, esi };
            if let Some(at) = header.symbol_at(source) {
                assert_eq!(header.source_at(at), source);
                seen.insert((at.member, at.idx), (block, esi));
            }
        }
    }
    let all = [
        ((0, 0), (0, 0)),
        ((0, 1), (1, 0)),
        ((0, 2), (0, 1)),
        ((1, 0), (0, 2)),
        ((1, 1), (1, 2)),
    ];
    assert_eq!(seen, all.into_iter().collect());
    // The third row of block 1 lies past the end of the first pack.
    assert_eq!(header.symbol_at(SourceAt { block: 1, esi: 1 }), None);
    assert_eq!(header.symbol_at(SourceAt { block: 1, esi: 3 }), None);
    let tables = 4096;
    assert_eq!(header.table_pages() * 4096, tables);
    assert_eq!(header.repair_off(0, 0).raw(), 4096 + tables);
    assert_eq!(header.repair_off(1, 0).raw(), 8192 + tables);
    assert_eq!(header.repair_off(0, 1).raw(), 12_288 + tables);
    assert_eq!(header.file_len().raw(), 2 * (4096 + tables) + 16 * 4096);
    assert_eq!(header.page_sums(0), 5 + 16);
    assert!(header.survives_loss_of(0));
}

#[test]
fn a_parity_header_whose_fields_do_not_fit_together_is_refused() {
    let good = parity_header();
    let make = |kind, shape, members| {
        let (store, id) = (good.store(), good.parity());
        ParityHeader::new(store, id, kind, shape, members)
    };
    let (group, shape) = (ParityKind::Group, *good.shape());
    let members = good.members().to_vec();
    assert!(make(group, shape, members.clone()).is_ok());
    let shapes = [
        Shape {
            source_count: 4,
            ..shape
        },
        Shape {
            block_count: 0,
            ..shape
        },
        Shape {
            block_count: 4,
            ..shape
        },
        Shape {
            repair_count: 0,
            ..shape
        },
        Shape {
            repair_count: 8193,
            ..shape
        },
        Shape {
            symbol_len: 2048,
            ..shape
        },
        Shape {
            symbol_len: 6144,
            ..shape
        },
    ];
    for shape in shapes {
        assert!(make(group, shape, members.clone()).is_err(), "{shape:?}");
    }
    assert!(make(ParityKind::Single, shape, members.clone()).is_err());
    assert!(make(group, shape, vec![]).is_err());
    let backwards = members.iter().rev().cloned().collect();
    assert!(make(group, shape, backwards).is_err());
    let twice = vec![members[0].clone(), members[0].clone()];
    assert!(make(group, shape, twice).is_err());
}

#[test]
fn a_page_of_another_parity_file_or_place_is_refused() {
    let hash = |parts: &[&[u8]]| checksum(Checksum::ParityTable, parts);
    let bytes = encode_table_page(&table_page(), &[[7; 8]], &hash).unwrap();
    assert!(decode_table_page(&bytes, &table_page(), 1, &hash).is_ok());
    let others = [
        TablePage {
            page: 1,
            ..table_page()
        },
        TablePage {
            header_sum: [0xab; 32],
            ..table_page()
        },
    ];
    for other in others {
        assert!(decode_table_page(&bytes, &other, 1, &hash).is_err());
    }
    assert!(decode_table_page(&bytes, &table_page(), 0, &hash).is_err());
    let too_many = vec![[0; 8]; PARITY_PAGE_SUMS + 1];
    assert!(encode_table_page(&table_page(), &too_many, &hash).is_err());
}

#[test]
fn names_times_and_extents_out_of_range_are_refused() {
    let mut row = DirentRow {
        name: b"x".to_vec(),
        ..dirent()
    }
    .encode();
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
        row.truncate(9);
        row.extend_from_slice(name);
        assert!(DirentRow::decode(&row).is_err(), "{name:?}");
    }
    let mut row = inode_file().encode();
    row[32 + 8..32 + 12].copy_from_slice(&1_000_000_000_u32.to_le_bytes());
    assert!(InodeRow::decode(&row).is_err());
    let mut row = extent(5, 0).encode();
    row[0] = 0;
    assert!(ExtentRow::decode(&row).is_err());
    assert!(keys::check_extent(FileOff::from_raw((64 << 20) - 5), &extent(5, 0)).is_ok());
    assert!(keys::check_extent(FileOff::from_raw((64 << 20) - 4), &extent(5, 0)).is_err());
}

#[test]
fn keys_parse_back_and_sort_like_their_numbers() {
    let (ino, dir, slot) = (Ino::from_raw(300), Ino::from_raw(2), Slot::from_raw(0x1234));
    let off = FileOff::from_raw(1 << 40);
    assert_eq!(keys::parse_inode(&keys::inode(ino)).unwrap(), ino);
    assert_eq!(
        keys::parse_dirent(&keys::dirent(dir, slot)).unwrap(),
        (dir, slot)
    );
    assert_eq!(
        keys::parse_link(&keys::link(ino, dir, slot)).unwrap(),
        (ino, dir, slot)
    );
    assert_eq!(
        keys::parse_extent(&keys::extent(ino, off)).unwrap(),
        (ino, off)
    );
    assert_eq!(keys::parse_chunk(&keys::chunk(&id(7))).unwrap(), id(7));
    let pack = PackId::from_raw(5);
    assert_eq!(keys::parse_pack(&keys::pack(pack)).unwrap(), pack);
    assert_eq!(keys::parse_snapshot(&keys::snapshot("v1")).unwrap(), "v1");
    let counter = keys::counter(keys::COUNTER_NEXT_INO);
    assert_eq!(keys::parse_counter(&counter).unwrap(), "next_ino");
    let xattr = keys::xattr(ino, b"user.a");
    assert_eq!(keys::parse_xattr(&xattr).unwrap(), (ino, &b"user.a"[..]));
    let dirty = [
        DirtyKey::Inode(ino),
        DirtyKey::Segment(ino, 3),
        DirtyKey::Dirent(dir, slot),
    ];
    for key in dirty {
        assert_eq!(keys::parse_dirty(&keys::dirty(9, key)).unwrap(), (9, key));
        let (from, to) = keys::dirty_range(9..10);
        assert!((from..to).contains(&keys::dirty(9, key)));
    }
    let (from, to) = keys::ino_range(ino);
    assert!((from..to).contains(&xattr));
    assert!(keys::inode(Ino::from_raw(255)) < keys::inode(Ino::from_raw(256)));
}

#[test]
fn an_operation_makes_dirty_what_a_snapshot_must_look_at() {
    let (ino, dir, slot) = (Ino::from_raw(300), Ino::from_raw(2), Slot::from_raw(0x1234));
    let off = FileOff::from_raw((64 << 20) * 2 + 1);
    let of = |table, key: &[u8]| keys::dirty_of(table, key).unwrap();
    assert_eq!(
        of(Table::Inode, &keys::inode(ino)),
        Some(DirtyKey::Inode(ino))
    );
    assert_eq!(
        of(Table::Xattr, &keys::xattr(ino, b"user.a")),
        Some(DirtyKey::Inode(ino))
    );
    assert_eq!(
        of(Table::Extent, &keys::extent(ino, off)),
        Some(DirtyKey::Segment(ino, 2))
    );
    assert_eq!(
        of(Table::Dirent, &keys::dirent(dir, slot)),
        Some(DirtyKey::Dirent(dir, slot))
    );
    assert_eq!(of(Table::Link, &keys::link(ino, dir, slot)), None);
    assert_eq!(of(Table::Orphan, &keys::inode(ino)), None);
    assert!(keys::dirty_of(Table::Inode, b"short").is_err());
}

#[test]
fn tables_and_pieces_are_told_by_their_numbers() {
    for table in Table::ALL {
        assert_eq!(Table::from_raw(table.raw()).unwrap(), table);
    }
    assert!(Table::from_raw(0).is_err() && Table::from_raw(15).is_err());
    let all: BTreeMap<_, _> = samples().into_iter().map(|s| (s.name, s.bytes)).collect();
    assert_eq!(piece_at(&all["frame"]).unwrap(), Piece::Frame);
    assert_eq!(piece_at(&all["record"]).unwrap(), Piece::Record);
    assert_eq!(piece_at(&all["footer"]).unwrap(), Piece::Footer);
    assert!(piece_at(&[0; 8]).is_err() && piece_at(b"mmhf").is_err());
    assert_eq!(ops().iter().map(op_len).sum::<usize>(), all["ops"].len());
}

#[test]
fn node_ids_are_listed_for_reachability() {
    let mut ids = Vec::new();
    node_leaf().for_each_id(|id| ids.push(*id));
    assert_eq!(ids, [id(0xc1), id(0xc1), id(0xf1), id(0xaa)]);
}

proptest! {
    #[test]
    fn i10_arbitrary_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        magic in any::<prop::sample::Index>(),
    ) {
        let constant = |_: &[&[u8]]| [0x5a; 32];
        let all = samples();
        let start = &all[magic.index(all.len())].bytes;
        for sample in &all {
            check_canonical(sample, &bytes, &constant);
        }
        let len = bytes.len().min(12).min(start.len());
        bytes[..len].copy_from_slice(&start[..len]);
        for sample in &all {
            check_canonical(sample, &bytes, &constant);
        }
        let _ = peek_frame_len(&bytes);
        let _ = decode_header(&bytes);
        let _ = decode_trailer(&bytes, 4608 + bytes.len() as u64, &constant);
        let _ = keys::parse_dirty(&bytes);
        for table in Table::ALL {
            let _ = keys::dirty_of(table, &bytes);
        }
    }

    #[test]
    fn i10_golden_bytes_with_changes_are_refused_or_canonical(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        fill in any::<bool>(),
    ) {
        let all = samples();
        let sample = &all[which.index(all.len())];
        let mut bytes = sample.bytes.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // A constant hash lets changes pass the checksum and reach the checks behind it.
        if fill && let Some(sum) = checksum_at(sample.name, bytes.len()) {
            bytes[sum..sum + 32].fill(0x5a);
            if sample.name == "footer" {
                let len = bytes.len();
                bytes[len - 32..].fill(0x5a);
            }
        }
        check_canonical(sample, &bytes, &|_: &[&[u8]]| [0x5a; 32]);
    }
}

fn checksum_at(name: &str, len: usize) -> Option<usize> {
    match name {
        "superblock" | "superblock_parity" | "pack_first_log" | "pack_log" | "pack_data"
        | "parity_header" | "parity_table" => Some(4064),
        "frame" => Some(32),
        "record" => Some(128),
        "footer" => Some(len - TRAILER_LEN - 32),
        _ => None,
    }
}

#[test]
fn i10_a_split_node_is_refused_unless_its_length_and_its_parts_fit() {
    let bytes = node_split().encode();
    assert_eq!(SplitNode::decode(&bytes).unwrap(), node_split());
    let with_len = |len: u32, parts: usize| {
        let mut bytes = bytes[..2].to_vec();
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.resize(6 + 32 * parts, 7);
        SplitNode::decode(&bytes)
    };
    assert!(with_len((2 << 20) + 1, 3).is_ok());
    assert!(with_len(512 << 20, 512).is_ok());
    // What fits one chunk is never split, and no reader gathers more than 512 MiB.
    for (len, parts) in [
        (0, 0),
        (2 << 20, 2),
        ((512 << 20) + 1, 513),
        (u32::MAX, 4096),
        (u32::MAX, 0),
        ((2 << 20) + 1, 2),
        ((2 << 20) + 1, 4),
    ] {
        assert!(with_len(len, parts).is_err(), "{len} {parts}");
    }
}

#[test]
fn a_store_with_split_nodes_is_refused_by_who_does_not_know_them() {
    let hash = |parts: &[&[u8]]| checksum(Checksum::Superblock, parts);
    let mut superblock = superblock();
    superblock.features.incompatible = FEATURE_SPLIT_NODES;
    let bytes = encode_superblock(&superblock, &hash).unwrap();
    assert_eq!(decode_superblock(&bytes, &hash).unwrap(), superblock);
    // A program that knows none of the bits sees this one as any other that it does not know.
    superblock.features.incompatible |= 1 << 63;
    let bytes = encode_superblock(&superblock, &hash).unwrap();
    let refused = decode_superblock(&bytes, &hash).unwrap_err();
    assert!(matches!(refused, Error::UnknownFeatures { bits, .. } if bits == 1 << 63));
}
