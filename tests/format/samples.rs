//! One value of each stored kind, and how its bytes are decoded and encoded again.

use mmhfs::base::{
    ByteLen, ChunkId, Digest, FileOff, Ino, Lsn, PackId, PackOff, ParityId, Result, Slot, StoreId,
    Timestamp,
};
use mmhfs::format::checkpoint::{
    CheckpointEnd, CheckpointHead, CheckpointPiece, PartHead, checkpoint_payload,
    decode_checkpoint_header, decode_checkpoint_piece, encode_checkpoint_end,
    encode_checkpoint_header, encode_checkpoint_part,
};
use mmhfs::format::footer::{Footer, FooterFrame, decode_footer, encode_footer};
use mmhfs::format::frame::{
    Address, FrameChunk, FrameHead, FrameKind, decode_frame, encode_frame, peek_frame_len,
};
use mmhfs::format::node::{Body, DirBody, DirChild, DirInner, Entry, FileNode, Node, SegmentNode};
use mmhfs::format::pack::{Cut, PackHeader, decode_pack_header, encode_pack_header};
use mmhfs::format::parity::{
    Member, ParityHeader, ParityKind, Shape, TablePage, decode_parity_header, decode_table_page,
    encode_parity_header, encode_table_page,
};
use mmhfs::format::record::{
    RecordHead, decode_header, decode_ops, decode_record, encode_ops, encode_record,
};
use mmhfs::format::rows::{
    Attrs, ChunkRow, DirentRow, ExtentRow, FLAG_HAS_XATTRS, InodeRow, Kind, Op, PackKind, PackRow,
    SnapDirRow, SnapFileRow, SnapshotRow, Table, decode_counter, encode_counter,
};
use mmhfs::format::split::SplitNode;
use mmhfs::format::superblock::{Superblock, decode_superblock, encode_superblock};
use mmhfs::format::{CHAIN_START, Hash, HashFn, keys};
use mmhfs::hash::{Checksum, checksum};

pub(crate) const STORE: StoreId = StoreId::from_raw(*b"0123456789abcdef");

pub(crate) fn id(n: u8) -> ChunkId {
    ChunkId::from_raw([n; 32])
}

pub(crate) fn digest(n: u8) -> Digest {
    Digest::from_raw([n; 32])
}

pub(crate) fn time(secs: i64, nanos: u32) -> Timestamp {
    Timestamp { secs, nanos }
}

pub(crate) fn attrs(kind: Kind, size: u64) -> Attrs {
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

pub(crate) fn extent(len: u32, chunk_off: u32) -> ExtentRow {
    ExtentRow {
        len,
        chunk: id(0xc1),
        chunk_off,
    }
}

pub(crate) fn inode_file() -> InodeRow {
    InodeRow {
        attrs: attrs(Kind::File, 5),
        nlink: 1,
        mapped: 5,
        parent: Ino::from_raw(0),
        target: Vec::new(),
    }
}

pub(crate) fn inode_symlink() -> InodeRow {
    InodeRow {
        attrs: attrs(Kind::Symlink, 6),
        target: b"target".to_vec(),
        mapped: 0,
        ..inode_file()
    }
}

pub(crate) fn inode_dir() -> InodeRow {
    InodeRow {
        attrs: attrs(Kind::Dir, 2),
        nlink: 2,
        mapped: 0,
        parent: Ino::ROOT,
        target: Vec::new(),
    }
}

pub(crate) fn dirent() -> DirentRow {
    DirentRow {
        ino: Ino::from_raw(2),
        kind: Kind::File,
        name: b"a.txt".to_vec(),
    }
}

pub(crate) fn chunk_row() -> ChunkRow {
    ChunkRow {
        pack: PackId::from_raw(3),
        frame: PackOff::from_raw(4096),
        frame_len: 112,
        idx: 1,
        raw_off: 5,
        len: 6,
    }
}

pub(crate) fn snapshot_row() -> SnapshotRow {
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

pub(crate) fn snap_dir_row() -> SnapDirRow {
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

pub(crate) fn pack_row(sealed: Option<Digest>) -> PackRow {
    PackRow {
        kind: PackKind::Log,
        len: ByteLen::from_raw(8192),
        sealed,
    }
}

pub(crate) fn entry(name: &[u8], kind: Kind, size: u64, body: Body) -> Entry {
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

pub(crate) fn child(inner: bool, count: u64) -> DirChild {
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

pub(crate) fn dir_body() -> Body {
    Body::Dir(DirBody {
        trie: child(false, 3),
        groups: digest(0xee),
    })
}

pub(crate) fn node_root() -> Node {
    Node::Root(Box::new(entry(b"", Kind::Dir, 3, dir_body())))
}

pub(crate) fn node_leaf() -> Node {
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

pub(crate) fn node_inner() -> Node {
    Node::DirInner(DirInner {
        left: child(false, 256),
        right: child(true, 257),
    })
}

pub(crate) fn node_file() -> Node {
    Node::File(FileNode {
        size: (64 << 20) * 3,
        segments: vec![(0, id(1), digest(2)), (2, id(3), digest(4))],
    })
}

pub(crate) fn node_segment() -> Node {
    Node::Segment(SegmentNode {
        len: (1 << 20) + 1,
        extents: vec![(0, extent(1 << 20, 0)), (1 << 20, extent(1, 9))],
        subtrees: vec![digest(5), digest(6)],
    })
}

pub(crate) fn node_split() -> SplitNode {
    SplitNode {
        len: (2 << 20) + 1,
        parts: vec![id(0xa1), id(0xa2), id(0xa3)],
    }
}

pub(crate) fn ops() -> Vec<Op> {
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

pub(crate) fn address() -> Address {
    Address {
        store: STORE,
        pack: PackId::from_raw(1),
        off: PackOff::from_raw(4096),
    }
}

pub(crate) fn frame_head() -> FrameHead {
    let chunk = |n, len| FrameChunk { id: id(n), len };
    FrameHead::new(0, FrameKind::Data, vec![chunk(0x11, 5), chunk(0x22, 6)])
}

pub(crate) const PAYLOAD: &[u8] = b"hello world";

pub(crate) fn span_hash() -> Hash {
    checksum(Checksum::Span, &[b"the span"])
}

pub(crate) fn record_head() -> RecordHead {
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

pub(crate) fn header_first_log() -> PackHeader {
    PackHeader {
        store: STORE,
        pack: PackId::from_raw(1),
        capacity: ByteLen::from_raw(64 << 20),
        created: time(1_700_000_004, 5),
        writer: 0x0000_0100,
        cut: Some(Cut::START),
    }
}

pub(crate) fn header_log() -> PackHeader {
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

pub(crate) fn header_data() -> PackHeader {
    PackHeader {
        pack: PackId::from_raw(3),
        cut: None,
        ..header_first_log()
    }
}

pub(crate) fn footer() -> Footer {
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

pub(crate) fn superblock() -> Superblock {
    Superblock::new(STORE, time(1_700_000_000, 0), ByteLen::from_raw(64 << 20))
}

/// How bytes of one kind are decoded and encoded again, with a given hash for every domain.
pub(crate) type Again = fn(&[u8], HashFn<'_>) -> Result<Vec<u8>>;

pub(crate) struct Sample {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub again: Again,
    /// A checksum covers every byte, so that any change is refused.
    pub sealed: Option<Checksum>,
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

pub(crate) fn frame_again(bytes: &[u8], hash: HashFn<'_>) -> Result<Vec<u8>> {
    let (head, payload) = decode_frame(bytes, &address(), hash)?;
    assert_eq!(peek_frame_len(bytes)?, bytes.len() as u64);
    encode_frame(&address(), &head, &bytes[payload], hash)
}

pub(crate) fn record_again(bytes: &[u8], hash: HashFn<'_>) -> Result<Vec<u8>> {
    let record = decode_record(bytes, &CHAIN_START, 152, &span_hash(), hash)?;
    assert_eq!(decode_header(bytes)?, record);
    let (again, chain) = encode_record(&record.head, &bytes[record.payload()], hash)?;
    assert_eq!(chain, record.chain);
    Ok(again)
}

pub(crate) fn checkpoint_head() -> CheckpointHead {
    CheckpointHead {
        store: STORE,
        pack: PackId::from_raw(3),
        off: PackOff::from_raw(0x2000),
        lsn: Lsn::from_raw(17),
        chain: [0xcc; 32],
        created: time(1_700_000_000, 5),
    }
}

/// The checksum of the header that the sample part belongs to.
pub(crate) const CHECKPOINT_SUM: Hash = [0xab; 32];

/// Rows of a checkpoint, and what its part says of them.
pub(crate) fn checkpoint_rows() -> (PartHead, Vec<u8>) {
    let dirent = Op::Put(
        Table::Dirent,
        keys::dirent(Ino::ROOT, Slot::from_raw(0x1000)).to_vec(),
        dirent().encode(),
    );
    let chunk = Op::Put(
        Table::Chunk,
        keys::chunk(&id(0xc1)).to_vec(),
        chunk_row().encode(),
    );
    let raw = encode_ops(&[dirent, chunk]);
    let len = u32::try_from(raw.len()).unwrap();
    let head = PartHead {
        index: 0,
        codec: 0,
        raw_len: len,
        stored_len: len,
        row_count: 2,
    };
    (head, raw)
}

pub(crate) fn checkpoint_piece_again(bytes: &[u8], hash: HashFn<'_>) -> Result<Vec<u8>> {
    match decode_checkpoint_piece(bytes.get(..64).unwrap_or(bytes))? {
        CheckpointPiece::Part(head, _) => {
            let payload = checkpoint_payload(&head, bytes, &CHECKPOINT_SUM, hash)?;
            let again = encode_checkpoint_part(&head, payload, &CHECKPOINT_SUM, hash)?;
            Ok(again.0)
        }
        CheckpointPiece::End(end) => Ok(encode_checkpoint_end(&end)),
    }
}

/// A group of a LOG pack of three symbols and a DATA pack of two, in two blocks.
pub(crate) fn parity_header() -> ParityHeader {
    let member = |pack, kind, len| Member {
        pack: PackId::from_raw(pack),
        kind,
        len: ByteLen::from_raw(len),
        digest: digest(0xd0),
    };
    let members = vec![
        member(5, PackKind::Log, 8200),
        member(9, PackKind::Data, 8192),
    ];
    let shape = Shape {
        symbol_len: 4096,
        source_count: 3,
        repair_count: 8,
        block_count: 2,
    };
    let id = ParityId::from_raw(2);
    ParityHeader::new(STORE, id, ParityKind::Group, shape, members).unwrap()
}

pub(crate) fn table_page() -> TablePage {
    TablePage {
        header_sum: [0xaa; 32],
        page: 0,
    }
}

fn superblock_samples() -> Vec<Sample> {
    let hash = |parts: &[&[u8]]| checksum(Checksum::Superblock, parts);
    let sample = |name, superblock: Superblock| Sample {
        name,
        bytes: encode_superblock(&superblock, &hash).unwrap(),
        again: |bytes, hash| encode_superblock(&decode_superblock(bytes, hash)?, hash),
        sealed: Some(Checksum::Superblock),
    };
    vec![
        sample("superblock", superblock()),
        sample("superblock_parity", superblock().with_parity(25)),
    ]
}

pub(crate) fn sealed_samples() -> Vec<Sample> {
    let checkpoint = |parts: &[&[u8]]| checksum(Checksum::Checkpoint, parts);
    let (part, rows) = checkpoint_rows();
    let real = |kind| move |parts: &[&[u8]]| checksum(kind, parts);
    let header = real(Checksum::PackHeader);
    let frame = real(Checksum::Frame);
    let chain = real(Checksum::Chain);
    let foot = real(Checksum::Footer);
    let sample = |name, kind, bytes: Vec<u8>, again| Sample {
        name,
        bytes,
        again,
        sealed: Some(kind),
    };
    let pack: Again = |bytes, hash| encode_pack_header(&decode_pack_header(bytes, hash)?, hash);
    let payload = encode_ops(&ops());
    let mut samples = superblock_samples();
    samples.extend(vec![
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
        sample(
            "checkpoint",
            Checksum::Checkpoint,
            encode_checkpoint_header(&checkpoint_head(), &checkpoint),
            |bytes, hash| {
                let (head, _) = decode_checkpoint_header(bytes, hash)?;
                Ok(encode_checkpoint_header(&head, hash))
            },
        ),
        sample(
            "checkpoint_part",
            Checksum::Checkpoint,
            encode_checkpoint_part(&part, &rows, &CHECKPOINT_SUM, &checkpoint)
                .unwrap()
                .0,
            checkpoint_piece_again,
        ),
        sample(
            "parity_header",
            Checksum::ParityHeader,
            encode_parity_header(&parity_header(), &real(Checksum::ParityHeader)),
            |bytes, hash| {
                let header = decode_parity_header(bytes, hash)?;
                Ok(encode_parity_header(&header, hash))
            },
        ),
        sample(
            "parity_table",
            Checksum::ParityTable,
            encode_table_page(
                &table_page(),
                &[[1; 8], *b"checksum", [3; 8]],
                &real(Checksum::ParityTable),
            )
            .unwrap(),
            |bytes, hash| {
                let sums = decode_table_page(bytes, &table_page(), 3, hash)?;
                encode_table_page(&table_page(), &sums, hash)
            },
        ),
    ]);
    samples
}

pub(crate) fn samples() -> Vec<Sample> {
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
        "node_split": SplitNode = node_split();
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
    let end = CheckpointEnd {
        part_count: 1,
        row_count: 2,
        sum: [0xee; 32],
    };
    all.push(Sample {
        name: "checkpoint_end",
        bytes: encode_checkpoint_end(&end),
        again: checkpoint_piece_again,
        sealed: None,
    });
    all.extend(sealed_samples());
    all
}
