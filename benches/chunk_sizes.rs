//! What an average chunk size costs and gains: deduplicated and compressed size against rows of the index.
//!
//! `cargo bench --bench chunk_sizes -- DIR...` reads all regular files of the directories (one after the other, so
//! give versions of the same thing to see deduplication), and prints one line for each average size. Frames are
//! those of the store: about 128 KiB of new chunks, zstd level 1.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program that prints a table"
)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use mmhfs::base::FileOff;
use mmhfs::chunk::cut;
use mmhfs::codec::compress;
use mmhfs::format::superblock::{ChunkClass, Chunker};
use mmhfs::hash::chunk_id;

const FRAME_LEN: usize = 128 << 10;
/// Bytes of the index for each chunk: a row of `Chunk` and one of `Extent`, keys included (docs/format.md).
const INDEX_LEN: usize = 32 + 30 + 16 + 40;

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let facts = std::fs::symlink_metadata(&path).unwrap();
        if facts.is_dir() {
            files(&path, out);
        } else if facts.is_file() {
            out.push(path);
        }
    }
}

fn chunker(avg: u32) -> Chunker {
    let class = ChunkClass {
        from: FileOff::ZERO,
        min_len: avg / 4,
        avg_len: avg,
        max_len: avg * 4,
    };
    Chunker {
        classes: vec![class],
        ..Chunker::standard()
    }
}

fn main() {
    let dirs: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    if dirs.is_empty() {
        println!("chunk_sizes: no directory given, nothing measured");
        return;
    }
    let mut paths = Vec::new();
    for dir in &dirs {
        files(Path::new(dir), &mut paths);
    }
    println!(
        "| average | logical MiB | distinct MiB | stored MiB | ratio | chunks | index MiB per stored GiB |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let averages = [16, 32, 64, 128, 256];
    let alike = averages.map(|kib| (format!("{kib} KiB"), chunker(kib << 10)));
    let standard = ("the default".to_owned(), Chunker::standard());
    for (name, chunker) in alike.into_iter().chain([standard]) {
        let mut seen = HashSet::new();
        let (mut logical, mut distinct, mut stored, mut chunks) =
            (0_usize, 0_usize, 0_usize, 0_usize);
        let mut frame: Vec<u8> = Vec::new();
        let mut pack = |frame: &mut Vec<u8>| {
            let mut out = Vec::new();
            compress(frame, 1, &mut out).unwrap();
            stored += out.len();
            frame.clear();
        };
        for path in &paths {
            let data = std::fs::read(path).unwrap();
            logical += data.len();
            let mut at = 0;
            for len in cut(&data, FileOff::ZERO, &chunker) {
                let piece = data.get(at..at + len).unwrap();
                at += len;
                chunks += 1;
                if seen.insert(chunk_id(piece)) {
                    distinct += len;
                    frame.extend_from_slice(piece);
                    if frame.len() >= FRAME_LEN {
                        pack(&mut frame);
                    }
                }
            }
        }
        pack(&mut frame);
        let mib = |n: usize| n >> 20;
        println!(
            "| {} | {} | {} | {} | {}.{:02} | {} | {} |",
            name,
            mib(logical),
            mib(distinct),
            mib(stored),
            logical / stored,
            logical * 100 / stored % 100,
            chunks,
            mib(seen.len() * INDEX_LEN * 1024 / (stored >> 20).max(1)),
        );
    }
}
