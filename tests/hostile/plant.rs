//! Commits that no engine would make, with checksums that are right: rows and nodes full of lies.

use mmhfs::base::{ByteLen, ChunkId, Digest, FileOff, Ino, Lsn, PackId, PackOff, Slot, Timestamp};
use mmhfs::format::frame::{FrameChunk, FrameHead, FrameKind, encode_frame};
use mmhfs::format::keys;
use mmhfs::format::node::{Body, DirBody, DirChild, DirInner, Entry, FileNode, Node};
use mmhfs::format::pack::{Cut, PackHeader, encode_pack_header};
use mmhfs::format::record::{RecordHead, encode_ops, encode_record, op_is_valid};
use mmhfs::format::rows::{
    Attrs, ChunkRow, DirentRow, ExtentRow, InodeRow, Kind, Op, PackKind, PackRow, SnapshotRow,
    Table, encode_counter,
};
use mmhfs::format::superblock::{decode_superblock, encode_superblock};
use mmhfs::hash::{Checksum, RootRecord, checksum, dir_content, name_hash, node_id, root_dir_full};
use mmhfs::sim::Medium;

use super::base::{AllRows, Base};
use super::sign::{LogEnd, address, pack_of, record_hash, resign};

/// A commit that is being made: frames before its record, operations in it.
#[derive(Default)]
pub struct Commit {
    pub nodes: Vec<Node>,
    pub ops: Vec<Op>,
}

/// Gives out what a program chooses.
pub struct Choice<'a> {
    pub bytes: &'a [u8],
}

impl Choice<'_> {
    /// The next byte, 0 at the end.
    pub fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((first, rest)) => {
                self.bytes = rest;
                *first
            }
            None => 0,
        }
    }

    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number in `0..n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.word()).checked_rem(n).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Numbers at which something may go wrong.
    pub fn number(&mut self) -> u64 {
        let small = u64::from(self.byte());
        match self.byte() % 16 {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => u64::MAX - small,
            4 => i64::MAX as u64,
            5 => (i64::MAX as u64).wrapping_add(1),
            6 => u64::from(u32::MAX),
            7 => u64::from(u32::MAX) + 1,
            8 => (1 << 48) | small,
            9 => (1 << 63) | small,
            10 => 64 << 20,
            11 => (64 << 20) - 1,
            12 => small << 20,
            13 => small << 55,
            _ => small,
        }
    }
}

/// Appends a commit to the log of a store that is signed; makes a new LOG pack if the last one is sealed.
pub fn append(base: &Base, medium: &mut Medium, commit: &Commit) {
    let end = resign(medium, base.store);
    if end.pack == 0 {
        return;
    }
    let mut end = end;
    if end.sealed {
        end = next_pack(base, medium, &end);
    }
    let name = format!("packs/{:016x}.log", end.pack);
    let Some(bytes) = medium.bytes(&name) else {
        return;
    };
    let mut bytes = bytes[..end.off.min(bytes.len())].to_vec();
    let mut ops = Vec::new();
    for node in &commit.nodes {
        let payload = node.encode();
        let head = FrameHead::new(
            0,
            FrameKind::Nodes,
            vec![FrameChunk {
                id: node_id(&payload),
                len: payload.len() as u32,
            }],
        );
        let at = address(base.store, end.pack, bytes.len());
        let hash = |parts: &[&[u8]]| checksum(Checksum::Frame, parts);
        let frame = encode_frame(&at, &head, &payload, &hash).unwrap();
        let row = ChunkRow {
            pack: at.pack,
            frame: at.off,
            frame_len: frame.len() as u32,
            idx: 0,
            raw_off: 0,
            len: payload.len() as u32,
        };
        let key = keys::chunk(&node_id(&payload)).to_vec();
        ops.push(Op::Put(Table::Chunk, key, row.encode()));
        bytes.extend(frame);
    }
    ops.extend(commit.ops.iter().filter(|op| op_is_valid(op)).cloned());
    let span = &bytes[end.off..];
    let payload = encode_ops(&ops);
    let head = RecordHead {
        lsn: Lsn::from_raw(end.lsn + 1),
        part: 0,
        last: true,
        codec: 0,
        span_len: span.len() as u64,
        span_hash: checksum(Checksum::Span, &[span]),
        time: Timestamp::default(),
        raw_len: payload.len() as u32,
        op_count: ops.len() as u32,
        prev_chain: end.chain,
    };
    let at = address(base.store, end.pack, bytes.len());
    if let Ok((record, _)) = encode_record(&head, &payload, &record_hash(at)) {
        bytes.extend(record);
        medium.put(&name, bytes);
    }
}

/// A new LOG pack after a sealed one, and superblocks that know of it.
fn next_pack(base: &Base, medium: &mut Medium, end: &LogEnd) -> LogEnd {
    let files = medium.durable_files();
    let numbers = files.iter().filter_map(|(name, _)| pack_of(name));
    let pack = numbers.map(|(number, _)| number).max().unwrap_or(0) + 1;
    let header = PackHeader {
        store: base.store,
        pack: PackId::from_raw(pack),
        capacity: ByteLen::from_raw(4 << 20),
        created: Timestamp::default(),
        writer: 1,
        cut: Some(Cut {
            prev: PackId::from_raw(end.pack),
            len: PackOff::from_raw(end.off as u64),
            lsn: Lsn::from_raw(end.lsn),
            chain: end.chain,
            epoch: end.epoch + 1,
        }),
    };
    let hash = |parts: &[&[u8]]| checksum(Checksum::PackHeader, parts);
    let Ok(bytes) = encode_pack_header(&header, &hash) else {
        return *end;
    };
    let off = bytes.len();
    medium.put(&format!("packs/{pack:016x}.log"), bytes);
    let hash = |parts: &[&[u8]]| checksum(Checksum::Superblock, parts);
    for name in ["super.0", "super.1", "super.2"] {
        let known = medium.bytes(name).unwrap_or_default();
        if let Ok(mut superblock) = decode_superblock(known, &hash) {
            superblock.pack_high_water = superblock.pack_high_water.max(header.pack);
            if let Ok(bytes) = encode_superblock(&superblock, &hash) {
                medium.put(name, bytes);
            }
        }
    }
    LogEnd {
        pack,
        off,
        epoch: end.epoch + 1,
        sealed: false,
        ..*end
    }
}

/// A row of the index as it is, but for some bytes of its value or its key.
pub fn distort(rows: &AllRows, choice: &mut Choice<'_>, commit: &mut Commit) {
    let table = Table::ALL[choice.below(Table::ALL.len())];
    let of: Vec<_> = rows.iter().filter(|row| row.0 == table).collect();
    let Some((_, key, value)) = of.get(choice.below(of.len())) else {
        return;
    };
    let (mut key, mut value) = (key.clone(), value.clone());
    match choice.byte() % 8 {
        0 => commit.ops.push(Op::Del(table, key.clone())),
        1 => {
            let to = [&key[..], &[0xff; 8]].concat();
            commit.ops.push(Op::DelRange(table, key.clone(), to));
        }
        // The value of another row of the table.
        2 => {
            if let Some((_, _, other)) = of.get(choice.below(of.len())) {
                value.clone_from(other);
            }
            commit.ops.push(Op::Put(table, key, value));
        }
        // The row under another key.
        3 => {
            let at = choice.below(key.len());
            key[at] = choice.byte();
            commit.ops.push(Op::Put(table, key, value));
        }
        4 => {
            let at = choice.below(value.len().max(1));
            let number = choice.number().to_le_bytes();
            for (to, from) in value.iter_mut().skip(at).zip(number) {
                *to = from;
            }
            commit.ops.push(Op::Put(table, key, value));
        }
        5 => {
            value.truncate(choice.below(value.len() + 1));
            value.push(choice.byte());
            commit.ops.push(Op::Put(table, key, value));
        }
        _ => {
            for _ in 0..=choice.byte() % 4 {
                let at = choice.below(value.len().max(1));
                if let Some(byte) = value.get_mut(at) {
                    *byte ^= choice.byte();
                }
            }
            commit.ops.push(Op::Put(table, key, value));
        }
    }
}

/// All rows of a table.
fn of(rows: &AllRows, table: Table) -> Vec<(&[u8], &[u8])> {
    let rows = rows.iter().filter(|row| row.0 == table);
    rows.map(|(_, key, value)| (&key[..], &value[..])).collect()
}

/// A slot for a name: that of its hash.
fn slot(name: &[u8]) -> Slot {
    let hash = name_hash(name);
    let top = u64::from_be_bytes(hash[..8].try_into().unwrap());
    Slot::from_raw((top >> 9).max(1) << 8)
}

fn put_name(ops: &mut Vec<Op>, dir: Ino, name: &[u8], ino: Ino, kind: Kind) {
    // Also what no encoder lets through.
    let mut row = ino.raw().to_le_bytes().to_vec();
    row.push(kind.raw());
    row.extend_from_slice(name);
    let slot = slot(name);
    ops.push(Op::Put(
        Table::Dirent,
        keys::dirent(dir, slot).to_vec(),
        row,
    ));
    let link = keys::link(ino, dir, slot).to_vec();
    ops.push(Op::Put(Table::Link, link, Vec::new()));
}

/// Inodes of a kind.
fn inodes(rows: &AllRows, kind: Kind) -> Vec<(Ino, InodeRow)> {
    let rows = of(rows, Table::Inode).into_iter();
    let rows = rows.map(|(key, value)| {
        (
            keys::parse_inode(key).unwrap(),
            InodeRow::decode(value).unwrap(),
        )
    });
    rows.filter(|(_, row)| row.attrs.kind == kind).collect()
}

fn put_inode(ops: &mut Vec<Op>, ino: Ino, row: &InodeRow) {
    let key = keys::inode(ino).to_vec();
    ops.push(Op::Put(Table::Inode, key, row.encode()));
}

fn put_counter(ops: &mut Vec<Op>, name: &str, value: u64) {
    let value = encode_counter(value).to_vec();
    ops.push(Op::Put(Table::Counter, keys::counter(name), value));
}

/// Two directories and a file that a lie is about.
#[derive(Clone, Copy)]
struct About<'a> {
    dir: Ino,
    dir_row: &'a InodeRow,
    other: Ino,
    other_row: &'a InodeRow,
    file: Ino,
    file_row: &'a InodeRow,
}

/// One of many lies about the live tree.
pub fn lie(rows: &AllRows, choice: &mut Choice<'_>, commit: &mut Commit) {
    let (dirs, files) = (inodes(rows, Kind::Dir), inodes(rows, Kind::File));
    let (Some((dir, dir_row)), Some((file, file_row))) = (
        dirs.get(choice.below(dirs.len())),
        files.get(choice.below(files.len())),
    ) else {
        return;
    };
    let (other, other_row) = &dirs[choice.below(dirs.len())];
    let about = About {
        dir: *dir,
        dir_row,
        other: *other,
        other_row,
        file: *file,
        file_row,
    };
    match choice.byte() % 24 {
        kind @ 0..=8 => lie_of_names(kind, &about, choice, &mut commit.ops),
        kind @ (9..=11 | 15 | 16) => lie_of_inodes(kind, rows, &about, choice, &mut commit.ops),
        kind => lie_of_tables(kind, rows, &about, choice, &mut commit.ops),
    }
}

fn lie_of_names(kind: u8, about: &About<'_>, choice: &mut Choice<'_>, ops: &mut Vec<Op>) {
    let About {
        dir,
        dir_row,
        other,
        other_row,
        file,
        ..
    } = *about;
    match kind {
        // Names that lead elsewhere.
        0 => {
            let names: [&[u8]; 6] = [b"..", b".", b"a/b", b"../x", b"", b"/etc/x"];
            let name = names[choice.below(names.len())];
            put_name(ops, dir, name, file, Kind::File);
        }
        // A directory with two names; loops.
        1 => put_name(ops, dir, b"again", other, Kind::Dir),
        2 => {
            let row = InodeRow {
                parent: other,
                ..dir_row.clone()
            };
            put_inode(ops, dir, &row);
        }
        3 => {
            put_name(ops, dir, b"loop", other, Kind::Dir);
            put_name(ops, other, b"loop", dir, Kind::Dir);
            for (ino, row, parent) in [(dir, dir_row, other), (other, other_row, dir)] {
                let row = InodeRow {
                    parent,
                    ..row.clone()
                };
                put_inode(ops, ino, &row);
            }
        }
        // Links that go up in a circle, apart from the root.
        4 => {
            for (ino, up) in [(dir, other), (other, dir)] {
                let (from, to) = keys::ino_range(ino);
                ops.push(Op::DelRange(Table::Link, from, to));
                let link = keys::link(ino, up, slot(b"circle")).to_vec();
                ops.push(Op::Put(Table::Link, link, Vec::new()));
                put_name(ops, up, b"circle", ino, Kind::Dir);
            }
        }
        // Entries of nothing, and of something else than they say.
        5 => put_name(
            ops,
            dir,
            b"nobody",
            Ino::from_raw(choice.number()),
            Kind::File,
        ),
        6 => put_name(ops, dir, b"other kind", file, Kind::Dir),
        7 => put_name(ops, dir, b"other kind", other, Kind::Symlink),
        // Two entries of one name.
        _ => {
            for n in 0..2 {
                let row = DirentRow {
                    ino: file,
                    kind: Kind::File,
                    name: b"twice".to_vec(),
                };
                let slot = Slot::from_raw(slot(b"twice").raw() + n * (1 + choice.number() % 300));
                let key = keys::dirent(dir, slot).to_vec();
                ops.push(Op::Put(Table::Dirent, key, row.encode()));
            }
        }
    }
}

fn lie_of_inodes(
    kind: u8,
    rows: &AllRows,
    about: &About<'_>,
    choice: &mut Choice<'_>,
    ops: &mut Vec<Op>,
) {
    let About {
        dir,
        dir_row,
        file,
        file_row,
        ..
    } = *about;
    match kind {
        9 => {
            let mut row = file_row.clone();
            row.attrs.size = choice.number() & (i64::MAX as u64);
            put_inode(ops, file, &row);
        }
        10 => {
            let mut row = if choice.byte() & 1 == 0 {
                file_row.clone()
            } else {
                dir_row.clone()
            };
            let ino = if row.parent.raw() == 0 { file } else { dir };
            row.nlink = choice.number() as u32;
            row.mapped = choice.number();
            if row.parent.raw() != 0 {
                row.attrs.size = choice.number() & (i64::MAX as u64);
            }
            put_inode(ops, ino, &row);
        }
        // Extents that overlap, lie behind the end or in another file's chunks.
        11 => {
            let extents = of(rows, Table::Extent);
            let Some((_, value)) = extents.get(choice.below(extents.len())) else {
                return;
            };
            let mut row = ExtentRow::decode(value).unwrap();
            row.chunk_off = choice.number() as u32 & 0xfffff;
            row.len = (choice.number() as u32).clamp(1, (1 << 20) - row.chunk_off);
            let off = FileOff::from_raw(choice.number());
            let key = keys::extent(file, off).to_vec();
            ops.push(Op::Put(Table::Extent, key, row.encode()));
        }
        // Inodes that are to be reaped although they have names; the root among them.
        15 => {
            let ino = [dir, file, Ino::ROOT, Ino::from_raw(choice.number())][choice.below(4)];
            ops.push(Op::Put(
                Table::Orphan,
                keys::inode(ino).to_vec(),
                Vec::new(),
            ));
        }
        _ => {
            let ino = [dir, file, Ino::ROOT][choice.below(3)];
            let (from, to) = keys::ino_range(ino);
            let table = [Table::Inode, Table::Dirent, Table::Link, Table::Extent];
            ops.push(Op::DelRange(table[choice.below(4)], from, to));
        }
    }
}

fn lie_of_tables(
    kind: u8,
    rows: &AllRows,
    about: &About<'_>,
    choice: &mut Choice<'_>,
    ops: &mut Vec<Op>,
) {
    let About {
        dir,
        file,
        file_row,
        ..
    } = *about;
    match kind {
        12 => put_counter(ops, keys::COUNTER_NEXT_INO, choice.number()),
        13 => put_counter(ops, keys::COUNTER_GENERATION, choice.number()),
        14 => put_counter(ops, keys::COUNTER_COLLISIONS, choice.number()),
        17 => {
            let row = PackRow {
                kind: [PackKind::Log, PackKind::Data][choice.below(2)],
                len: ByteLen::from_raw(choice.number()),
                sealed: (choice.byte() & 1 == 0).then_some(Digest::from_raw([1; 32])),
            };
            let pack = PackId::from_raw(1 + choice.number() % 20);
            ops.push(Op::Put(
                Table::Pack,
                keys::pack(pack).to_vec(),
                row.encode(),
            ));
        }
        // Chunks that are said to be where others are.
        18 => {
            let chunks = of(rows, Table::Chunk);
            let (Some((key, value)), Some((_, from))) = (
                chunks.get(choice.below(chunks.len())),
                chunks.get(choice.below(chunks.len())),
            ) else {
                return;
            };
            let mut row = ChunkRow::decode(from).unwrap();
            let own = ChunkRow::decode(value).unwrap();
            match choice.byte() % 4 {
                0 => {}
                1 => {
                    row = ChunkRow {
                        pack: row.pack,
                        ..own
                    }
                }
                2 => {
                    row = ChunkRow {
                        frame_len: (choice.number() as u32).max(8) & !7,
                        ..own
                    }
                }
                _ => {
                    row = ChunkRow {
                        raw_off: choice.number() as u32 & 0xfffff,
                        len: (choice.number() as u32 & 0xfffff).max(1),
                        ..own
                    }
                }
            }
            ops.push(Op::Put(Table::Chunk, key.to_vec(), row.encode()));
        }
        19 => {
            let links = keys::link(file, dir, Slot::from_raw(choice.number())).to_vec();
            ops.push(Op::Put(Table::Link, links, Vec::new()));
        }
        20 => {
            let key = keys::xattr(file, b"user.\xff\n/..");
            let value = vec![7; choice.below(66_000)];
            ops.push(Op::Put(Table::Xattr, key, value));
        }
        21 => {
            let value = encode_counter(choice.number()).to_vec();
            let ino = [dir, file, Ino::from_raw(99)][choice.below(3)];
            ops.push(Op::Put(Table::HardLink, keys::inode(ino).to_vec(), value));
        }
        22 => {
            let key = keys::dirty(choice.number(), mmhfs::format::rows::DirtyKey::Inode(file));
            ops.push(Op::Put(Table::Dirty, key, Vec::new()));
        }
        _ => {
            // A name that leads to another kind of thing: a file that becomes a directory.
            let mut row = file_row.clone();
            row.attrs.kind = Kind::Dir;
            row.attrs.size = 0;
            row.parent = dir;
            put_inode(ops, file, &row);
        }
    }
}

pub fn attrs(kind: Kind, size: u64) -> Attrs {
    Attrs {
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        rdev_major: 0,
        rdev_minor: 0,
        flags: 0,
        size,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        btime: Timestamp::default(),
    }
}

pub fn entry(name: &[u8], ino: u64, attrs: Attrs, body: Body) -> Entry {
    Entry {
        name: name.to_vec(),
        ino: Ino::from_raw(ino),
        attrs,
        nlink: 1,
        mapped: 0,
        xattrs: Vec::new(),
        content: Digest::from_raw([3; 32]),
        full: Digest::from_raw([4; 32]),
        body,
    }
}

pub fn child(node: &Node, inner: bool, count: u64, entries: u64) -> DirChild {
    DirChild {
        node: node_id(&node.encode()),
        inner,
        count,
        content: Digest::from_raw([5; 32]),
        full: Digest::from_raw([6; 32]),
        entries,
        bytes: 7,
    }
}

/// Entries of a directory, one of which may lie.
fn entries_that_lie(rows: &AllRows, choice: &mut Choice<'_>, commit: &mut Commit) -> Vec<Entry> {
    let extents = of(rows, Table::Extent);
    let extent = extents
        .first()
        .map(|(_, value)| ExtentRow::decode(value).unwrap());
    let mut leaf = vec![entry(
        b"way",
        50,
        attrs(Kind::Symlink, 3),
        Body::Symlink(b"../".to_vec()),
    )];
    if let Some(mut extent) = extent {
        extent.chunk_off = choice.number() as u32 & 0xff;
        let off = choice.number() % 900;
        let size = off + u64::from(extent.len) + choice.number() % 1000;
        let body = Body::Inline(vec![(off, extent)]);
        leaf.push(entry(b"file", 51, attrs(Kind::File, size), body));
    }
    let ino = [1, 50, 52, u64::MAX][choice.below(4)];
    match choice.byte() % 8 {
        // An entry of a kind that its node is not of.
        0 => {
            let node = commit
                .nodes
                .first()
                .map_or(ChunkId::from_raw([9; 32]), |node| node_id(&node.encode()));
            let size = choice.number() & (i64::MAX as u64);
            leaf.push(entry(
                b"node",
                ino,
                attrs(Kind::File, size),
                Body::File(node),
            ));
        }
        // A file of exbibytes.
        1 => {
            let size = choice.number() & (i64::MAX as u64);
            let node = Node::File(FileNode {
                size,
                segments: Vec::new(),
            });
            let body = Body::File(node_id(&node.encode()));
            commit.nodes.push(node);
            leaf.push(entry(b"huge", ino, attrs(Kind::File, size), body));
        }
        2 => leaf.push(entry(
            b"dev",
            ino,
            attrs(Kind::BlockDevice, 0),
            Body::Special,
        )),
        // Two that say to be one.
        3 => {
            for name in [&b"one"[..], b"two"] {
                let mut one = entry(name, ino, attrs(Kind::Fifo, 0), Body::Special);
                one.nlink = 2 + u32::from(choice.byte());
                one.attrs.mode = u16::from(choice.byte());
                leaf.push(one);
            }
        }
        _ => {}
    }
    leaf.sort_by(|a, b| a.name.cmp(&b.name));
    leaf.dedup_by(|a, b| a.name == b.name);
    leaf
}

/// A snapshot whose nodes lie; its seed is that of its root.
pub fn snapshot(rows: &AllRows, choice: &mut Choice<'_>, commit: &mut Commit) {
    let leaf = entries_that_lie(rows, choice, commit);
    let mut entries = leaf.len() as u64;
    let mut at = Node::DirLeaf(leaf);
    let mut trie = child(&at, false, entries, entries);
    commit.nodes.push(at);
    // Directories in directories, or a trie that is deeper than its hashes; both twice as large with each step.
    let (deep, wide) = (choice.byte() % 80, choice.byte() & 1 == 0);
    let inner = choice.byte() & 1 == 0;
    for n in 0..deep {
        entries = entries.saturating_mul(2).saturating_add(2);
        if inner {
            let count = 257 + u64::from(n);
            at = Node::DirInner(DirInner {
                left: trie,
                right: trie,
            });
            trie = child(&at, true, count, count.max(entries));
        } else {
            let names: &[&[u8]] = if wide { &[b"l", b"r"] } else { &[b"d"] };
            let body = Body::Dir(DirBody {
                trie,
                groups: Digest::from_raw([8; 32]),
            });
            let below = names
                .iter()
                .enumerate()
                .map(|(at, name)| {
                    let ino = 100 + u64::from(n) * 2 + at as u64;
                    entry(name, ino, attrs(Kind::Dir, trie.count), body.clone())
                })
                .collect();
            at = Node::DirLeaf(below);
            let lies = if choice.byte() & 1 == 0 { entries } else { 3 };
            trie = child(&at, false, names.len() as u64, lies);
        }
        commit.nodes.push(at);
    }
    put_snapshot(commit, trie, trie.entries);
    if let Some(Op::Put(Table::Snapshot, _, row)) = commit.ops.last_mut() {
        let generation = choice.number();
        let planted = SnapshotRow {
            generation,
            ..SnapshotRow::decode(row).unwrap()
        };
        *row = planted.encode();
    }
}

/// Makes a snapshot of the name "planted" of a directory; its seed is that of its root.
pub fn put_snapshot(commit: &mut Commit, trie: DirChild, entries: u64) {
    let groups = Digest::from_raw([8; 32]);
    let mut root = entry(
        b"",
        1,
        attrs(Kind::Dir, trie.count),
        Body::Dir(DirBody { trie, groups }),
    );
    root.content = dir_content(trie.count, trie.content);
    root.full = root_dir_full(trie.count, trie.full, groups);
    let seed = RootRecord {
        content: root.content,
        full: root.full,
    }
    .seed();
    let node = Node::Root(Box::new(root.clone()));
    let row = SnapshotRow {
        seed: Digest::from_raw(*seed.as_bytes()),
        content: root.content,
        root: node_id(&node.encode()),
        created: Timestamp::default(),
        generation: 3,
        entries,
        bytes: 7,
    };
    commit.nodes.push(node);
    let key = keys::snapshot("planted");
    commit.ops.push(Op::Put(Table::Snapshot, key, row.encode()));
}
