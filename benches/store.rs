//! Speed of the stages that every byte goes through: cutting, storing, reading back, hashing a tree.
//!
//! `cargo bench` prints bytes per second for each. Figures are of one machine at one time: compare two builds
//! on the same machine, not with other people's numbers.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion's macros; a benchmark may stop"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mmhfs::base::{Env, FileOff, Ino};
use mmhfs::chunk::cut;
use mmhfs::engine::{
    Caller, Config, Engine, FileKind, Handle, InitOptions, NewNode, OpenHow, PlainSeedOptions,
    WriteHow, seed_of_dir,
};
use mmhfs::format::superblock::Chunker;

const LEN: usize = 16 << 20;

/// Bytes that compress about as well as source code: words of a small vocabulary.
fn text(len: usize) -> Vec<u8> {
    let words = [
        "fn ", "let ", "self.", "match ", "Result<", "offset", "chunk", "(", ")", ";\n", "    ",
        "return ",
    ];
    let mut out = Vec::with_capacity(len + 16);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while out.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let pick = usize::try_from(state >> 33).unwrap() % words.len();
        out.extend_from_slice(words.get(pick).unwrap().as_bytes());
    }
    out.truncate(len);
    out
}

struct World {
    _dir: tempfile::TempDir,
    engine: Arc<Engine>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        Engine::init(&store, &Env::real(), &InitOptions::default()).unwrap();
        let engine = Engine::open(&store, Env::real(), Config::default()).unwrap();
        Self { _dir: dir, engine }
    }

    fn create(&self, name: &str) -> Handle {
        let new = NewNode {
            kind: FileKind::File,
            mode: 0o644,
            umask: 0,
            rdev: (0, 0),
        };
        let how = OpenHow {
            read: true,
            write: true,
            ..OpenHow::default()
        };
        self.engine
            .create(&Caller::default(), Ino::ROOT, name.as_bytes(), &new, how)
            .unwrap()
            .1
    }

    fn write(&self, handle: Handle, bytes: &[u8]) {
        for (n, part) in bytes.chunks(1 << 20).enumerate() {
            let off = FileOff::from_raw((n as u64) << 20);
            self.engine
                .write(&Caller::default(), handle, off, part, WriteHow::default())
                .unwrap();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.engine.close();
    }
}

fn chunking(c: &mut Criterion) {
    let (data, chunker) = (text(LEN), Chunker::standard());
    let mut group = c.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(LEN as u64));
    group.bench_function("cut", |b| {
        b.iter(|| cut(black_box(&data), FileOff::ZERO, &chunker))
    });
    group.finish();
}

fn put_and_get(c: &mut Criterion) {
    let data = text(LEN);
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Bytes(LEN as u64));
    group.sample_size(10);
    group.bench_function("put_new_and_sync", |b| {
        b.iter_batched(
            World::new,
            |world| {
                let handle = world.create("file");
                world.write(handle, &data);
                world.engine.fsync(handle, true).unwrap();
                world
            },
            BatchSize::PerIteration,
        );
    });
    let world = World::new();
    let handle = world.create("file");
    world.write(handle, &data);
    world.engine.sync().unwrap();
    let mut sink = Vec::with_capacity(1 << 20);
    group.bench_function("get_cached", |b| {
        b.iter(|| {
            for n in 0..LEN as u64 >> 20 {
                sink.clear();
                world
                    .engine
                    .read(handle, FileOff::from_raw(n << 20), 1 << 20, &mut sink)
                    .unwrap();
                black_box(&sink);
            }
        });
    });
    group.finish();
}

fn seed(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), text(LEN)).unwrap();
    let mut group = c.benchmark_group("seed");
    group.throughput(Throughput::Bytes(LEN as u64));
    group.sample_size(10);
    group.bench_function("plain_dir", |b| {
        b.iter(|| seed_of_dir(dir.path(), &PlainSeedOptions::default(), &|_| {}).unwrap());
    });
    group.finish();
}

criterion_group!(benches, chunking, put_and_get, seed);
criterion_main!(benches);
