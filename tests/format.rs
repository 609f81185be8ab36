//! The stored format: golden bytes, the examples of docs/format.md, and what decoders must refuse.
//!
//! `MMHFS_BLESS=1 cargo test --test format` writes the golden files anew; do that only together with a
//! new format version or feature bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mmhfs::base::{
    ByteLen, ChunkId, Digest, Error, FileOff, Ino, Lsn, PackId, PackOff, Result, Slot, StoreId,
    Timestamp,
};
use mmhfs::format::footer::{
    Footer, FooterFrame, TRAILER_LEN, decode_footer, decode_trailer, encode_footer,
};
use mmhfs::format::frame::{
    Address, FRAME_HEADER_LEN, FrameChunk, FrameHead, FrameKind, decode_frame, encode_frame,
    peek_frame_len,
};
use mmhfs::format::node::{Body, DirBody, DirChild, DirInner, Entry, FileNode, Node, SegmentNode};
use mmhfs::format::pack::{
    Cut, PackHeader, Piece, decode_pack_header, encode_pack_header, piece_at,
};
use mmhfs::format::record::{
    Record, RecordHead, decode_header, decode_ops, decode_record, encode_ops, encode_record, op_len,
};
use mmhfs::format::rows::{
    Attrs, ChunkRow, DirentRow, DirtyKey, ExtentRow, FLAG_HAS_XATTRS, InodeRow, Kind, Op, PackKind,
    PackRow, SnapDirRow, SnapFileRow, SnapshotRow, Table, decode_counter, encode_counter,
};
use mmhfs::format::superblock::{Superblock, decode_superblock, encode_superblock, is_foreign};
use mmhfs::format::{CHAIN_START, Hash, HashFn, keys};
use mmhfs::hash::{Checksum, checksum};
use proptest::prelude::*;

// ---- values -----------------------------------------------------------------------------------------

const STORE: StoreId = StoreId::from_raw(*b"0123456789abcdef");

fn id(n: u8) -> ChunkId {
    ChunkId::from_raw([n; 32])
}

fn digest(n: u8) -> Digest {
    Digest::from_raw([n; 32])
}

fn time(secs: i64, nanos: u32) -> Timestamp {
    Timestamp { secs, nanos }
}

fn attrs(kind: Kind, size: u64) -> Attrs {
    Attrs {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        rdev_major: 0,
        rdev_minor: 0,
        flags: 0,
        size,
        atime: time(1_700_000_000, 1),
        mtime: time(1_700_000_001, 999_999_999),
        ctime: time(-1, 500_000_000),
        btime: time(0, 0),
    }
}

fn extent(len: u32, chunk_off: u32) -> ExtentRow {
    ExtentRow {
        len,
        chunk: id(0xc1),
        chunk_off,
    }
}

fn inode_file() -> InodeRow {
    InodeRow {
        attrs: attrs(Kind::File, 5),
        nlink: 1,
        mapped: 5,
        parent: Ino::from_raw(0),
        target: Vec::new(),
    }
}

fn inode_symlink() -> InodeRow {
    InodeRow {
        attrs: attrs(Kind::Symlink, 6),
        target: b"target".to_vec(),
        mapped: 0,
        ..inode_file()
    }
}

fn inode_dir() -> InodeRow {
    InodeRow {
        attrs: attrs(Kind::Dir, 2),
        nlink: 2,
        mapped: 0,
        parent: Ino::ROOT,
        target: Vec::new(),
    }
}

fn dirent() -> DirentRow {
    DirentRow {
        ino: Ino::from_raw(2),
        kind: Kind::File,
        name: b"a.txt".to_vec(),
    }
}

fn chunk_row() -> ChunkRow {
    ChunkRow {
        pack: PackId::from_raw(3),
        frame: PackOff::from_raw(4096),
        frame_len: 112,
        idx: 1,
        raw_off: 5,
        len: 6,
    }
}

fn snapshot_row() -> SnapshotRow {
    SnapshotRow {
        seed: digest(1),
        content: digest(2),
        root: id(3),
        created: time(1_700_000_002, 3),
        generation: 4,
        entries: 5,
        bytes: 6,
    }
}

fn snap_dir_row() -> SnapDirRow {
    SnapDirRow {
        trie: id(1),
        content: digest(2),
        groups: digest(3),
        full: digest(4),
        count: 5,
        entries: 6,
        bytes: 7,
    }
}

fn pack_row(sealed: Option<Digest>) -> PackRow {
    PackRow {
        kind: PackKind::Log,
        len: ByteLen::from_raw(8192),
        sealed,
    }
}

fn entry(name: &[u8], kind: Kind, size: u64, body: Body) -> Entry {
    Entry {
        name: name.to_vec(),
        ino: Ino::from_raw(7),
        attrs: attrs(kind, size),
        nlink: 1,
        mapped: 0,
        xattrs: Vec::new(),
        content: digest(0xd1),
        full: digest(0xd2),
        body,
    }
}

fn child(inner: bool, count: u64) -> DirChild {
    DirChild {
        node: id(0xaa),
        inner,
        count,
        content: digest(0xab),
        full: digest(0xac),
        entries: count + 1,
        bytes: 99,
    }
}

fn dir_body() -> Body {
    Body::Dir(DirBody {
        trie: child(false, 3),
        groups: digest(0xee),
    })
}

fn node_root() -> Node {
    Node::Root(Box::new(entry(b"", Kind::Dir, 3, dir_body())))
}

fn node_leaf() -> Node {
    let mut file = entry(
        b"a",
        Kind::File,
        100,
        Body::Inline(vec![(0, extent(10, 0)), (20, extent(80, 5))]),
    );
    file.mapped = 90;
    file.attrs.flags = FLAG_HAS_XATTRS;
    file.xattrs = vec![
        (b"user.a".to_vec(), b"value".to_vec()),
        (b"user.b".to_vec(), Vec::new()),
    ];
    let mut device = entry(b"e", Kind::CharDevice, 0, Body::Special);
    device.attrs.rdev_major = 1;
    device.attrs.rdev_minor = 3;
    Node::DirLeaf(vec![
        file,
        entry(b"b", Kind::File, 2 << 20, Body::File(id(0xf1))),
        entry(b"c", Kind::Dir, 3, dir_body()),
        entry(b"d", Kind::Symlink, 2, Body::Symlink(b"..".to_vec())),
        device,
    ])
}

fn node_inner() -> Node {
    Node::DirInner(DirInner {
        left: child(false, 256),
        right: child(true, 257),
    })
}

fn node_file() -> Node {
    Node::File(FileNode {
        size: (64 << 20) * 3,
        segments: vec![(0, id(1), digest(2)), (2, id(3), digest(4))],
    })
}

fn node_segment() -> Node {
    Node::Segment(SegmentNode {
        len: (1 << 20) + 1,
        extents: vec![(0, extent(1 << 20, 0)), (1 << 20, extent(1, 9))],
        subtrees: vec![digest(5), digest(6)],
    })
}

fn ops() -> Vec<Op> {
    let ino = Ino::from_raw(2);
    let (from, to) = keys::ino_range(Ino::from_raw(9));
    vec![
        Op::Put(
            Table::Extent,
            keys::extent(ino, FileOff::ZERO).to_vec(),
            extent(5, 0).encode(),
        ),
        Op::Put(Table::Orphan, keys::inode(ino).to_vec(), Vec::new()),
        Op::Del(Table::Xattr, keys::xattr(ino, b"user.a")),
        Op::DelRange(Table::Extent, from, to),
    ]
}

fn address() -> Address {
    Address {
        store: STORE,
        pack: PackId::from_raw(1),
        off: PackOff::from_raw(4096),
    }
}

fn frame_head() -> FrameHead {
    let chunk = |n, len| FrameChunk { id: id(n), len };
    FrameHead::new(0, FrameKind::Data, vec![chunk(0x11, 5), chunk(0x22, 6)])
}

const PAYLOAD: &[u8] = b"hello world";

fn span_hash() -> Hash {
    checksum(Checksum::Span, &[b"the span"])
}

fn record_head() -> RecordHead {
    let raw = encode_ops(&ops());
    RecordHead {
        lsn: Lsn::from_raw(1),
        part: 0,
        last: true,
        codec: 0,
        span_len: 152,
        span_hash: span_hash(),
        time: time(1_700_000_003, 4),
        raw_len: u32::try_from(raw.len()).unwrap(),
        op_count: 4,
        prev_chain: CHAIN_START,
    }
}

fn header_first_log() -> PackHeader {
    PackHeader {
        store: STORE,
        pack: PackId::from_raw(1),
        capacity: ByteLen::from_raw(64 << 20),
        created: time(1_700_000_004, 5),
        writer: 0x0000_0100,
        cut: Some(Cut::START),
    }
}

fn header_log() -> PackHeader {
    PackHeader {
        pack: PackId::from_raw(4),
        cut: Some(Cut {
            prev: PackId::from_raw(1),
            len: PackOff::from_raw(8192),
            lsn: Lsn::from_raw(17),
            chain: [0xcc; 32],
            epoch: 2,
        }),
        ..header_first_log()
    }
}

fn header_data() -> PackHeader {
    PackHeader {
        pack: PackId::from_raw(3),
        cut: None,
        ..header_first_log()
    }
}

fn footer() -> Footer {
    Footer {
        store: STORE,
        pack: PackId::from_raw(1),
        kind: PackKind::Log,
        data_len: PackOff::from_raw(4608),
        record_count: 1,
        last_lsn: Lsn::from_raw(1),
        chain: [0xcc; 32],
        body: [0xbb; 32],
        frames: vec![FooterFrame {
            off: PackOff::from_raw(4096),
            len: 152,
            kind: FrameKind::Data,
            codec: 0,
            chunks: frame_head().chunks,
        }],
    }
}

fn superblock() -> Superblock {
    Superblock::new(STORE, time(1_700_000_000, 0), ByteLen::from_raw(64 << 20))
}

// ---- the check --------------------------------------------------------------------------------------

/// How bytes of one kind are decoded and encoded again, with a given hash for every domain.
type Again = fn(&[u8], HashFn<'_>) -> Result<Vec<u8>>;

struct Sample {
    name: &'static str,
    bytes: Vec<u8>,
    again: Again,
    /// A checksum covers every byte, so that any change is refused.
    sealed: Option<Checksum>,
}

macro_rules! rows {
    ($($name:literal: $row:ty = $value:expr;)*) => {
        vec![$(Sample {
            name: $name,
            bytes: $value.encode(),
            again: |bytes, _| Ok(<$row>::decode(bytes)?.encode()),
            sealed: None,
        }),*]
    };
}

fn frame_again(bytes: &[u8], hash: HashFn<'_>) -> Result<Vec<u8>> {
    let (head, payload) = decode_frame(bytes, &address(), hash)?;
    assert_eq!(peek_frame_len(bytes)?, bytes.len() as u64);
    encode_frame(&address(), &head, &bytes[payload], hash)
}

fn record_again(bytes: &[u8], hash: HashFn<'_>) -> Result<Vec<u8>> {
    let record = decode_record(bytes, &CHAIN_START, 152, &span_hash(), hash)?;
    assert_eq!(decode_header(bytes)?, record);
    let (again, chain) = encode_record(&record.head, &bytes[record.payload()], hash)?;
    assert_eq!(chain, record.chain);
    Ok(again)
}

fn sealed_samples() -> Vec<Sample> {
    let real = |kind| move |parts: &[&[u8]]| checksum(kind, parts);
    let header = real(Checksum::PackHeader);
    let frame = real(Checksum::Frame);
    let chain = real(Checksum::Chain);
    let foot = real(Checksum::Footer);
    let superb = real(Checksum::Superblock);
    let sample = |name, kind, bytes: Vec<u8>, again| Sample {
        name,
        bytes,
        again,
        sealed: Some(kind),
    };
    let pack: Again = |bytes, hash| encode_pack_header(&decode_pack_header(bytes, hash)?, hash);
    let payload = encode_ops(&ops());
    vec![
        sample(
            "superblock",
            Checksum::Superblock,
            encode_superblock(&superblock(), &superb).unwrap(),
            |bytes, hash| encode_superblock(&decode_superblock(bytes, hash)?, hash),
        ),
        sample(
            "pack_first_log",
            Checksum::PackHeader,
            encode_pack_header(&header_first_log(), &header).unwrap(),
            pack,
        ),
        sample(
            "pack_log",
            Checksum::PackHeader,
            encode_pack_header(&header_log(), &header).unwrap(),
            pack,
        ),
        sample(
            "pack_data",
            Checksum::PackHeader,
            encode_pack_header(&header_data(), &header).unwrap(),
            pack,
        ),
        sample(
            "frame",
            Checksum::Frame,
            encode_frame(&address(), &frame_head(), PAYLOAD, &frame).unwrap(),
            frame_again,
        ),
        sample(
            "record",
            Checksum::Chain,
            encode_record(&record_head(), &payload, &chain).unwrap().0,
            record_again,
        ),
        sample(
            "footer",
            Checksum::Footer,
            encode_footer(&footer(), &foot).unwrap(),
            |bytes, hash| encode_footer(&decode_footer(bytes, hash)?, hash),
        ),
    ]
}

fn samples() -> Vec<Sample> {
    let mut all = rows! {
        "inode_file": InodeRow = inode_file();
        "inode_symlink": InodeRow = inode_symlink();
        "inode_dir": InodeRow = inode_dir();
        "dirent": DirentRow = dirent();
        "extent": ExtentRow = extent(5, 0);
        "chunk": ChunkRow = chunk_row();
        "snapshot": SnapshotRow = snapshot_row();
        "snap_dir": SnapDirRow = snap_dir_row();
        "snap_file": SnapFileRow = SnapFileRow { node: id(9) };
        "pack_open": PackRow = pack_row(None);
        "pack_sealed": PackRow = pack_row(Some(digest(8)));
        "node_root": Node = node_root();
        "node_dir_leaf": Node = node_leaf();
        "node_dir_empty": Node = Node::DirLeaf(Vec::new());
        "node_dir_inner": Node = node_inner();
        "node_file": Node = node_file();
        "node_segment": Node = node_segment();
    };
    all.push(Sample {
        name: "counter",
        bytes: encode_counter(0x0102_0304).to_vec(),
        again: |bytes, _| Ok(encode_counter(decode_counter(bytes)?).to_vec()),
        sealed: None,
    });
    all.push(Sample {
        name: "ops",
        bytes: encode_ops(&ops()),
        again: |bytes, _| Ok(encode_ops(&decode_ops(bytes)?)),
        sealed: None,
    });
    all.extend(sealed_samples());
    all
}

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

// ---- tests ------------------------------------------------------------------------------------------

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
        DirtyKey::Links(ino),
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
    assert_eq!(
        of(Table::Link, &keys::link(ino, dir, slot)),
        Some(DirtyKey::Links(ino))
    );
    assert_eq!(of(Table::Orphan, &keys::inode(ino)), None);
    assert!(keys::dirty_of(Table::Inode, b"short").is_err());
}

#[test]
fn tables_and_pieces_are_told_by_their_numbers() {
    for table in Table::ALL {
        assert_eq!(Table::from_raw(table.raw()).unwrap(), table);
    }
    assert!(Table::from_raw(0).is_err() && Table::from_raw(14).is_err());
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
        prop_assert!(FRAME_HEADER_LEN <= 64);
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
        "superblock" | "pack_first_log" | "pack_log" | "pack_data" => Some(4064),
        "frame" => Some(32),
        "record" => Some(128),
        "footer" => Some(len - TRAILER_LEN - 32),
        _ => None,
    }
}
