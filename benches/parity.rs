//! Speed of parity: encoding a pack and a group, bringing a lost pack back, and the latency of a read that heals.
//!
//! Figures are of one machine at one time: compare two builds on the same machine. The packs are noise without
//! a pack's structure, which the code does not look at.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion's macros; a benchmark may stop"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mmhfs::base::{PackId, PackOff, ParityId, StoreId};
use mmhfs::chunk::{
    PackToCover, ParityConfig, ParityPlace, ParityStore, RangeOutcome, RepairOutcome, pack_name,
};
use mmhfs::disk::{Disk, RealDisk};
use mmhfs::fec::{BlockSize, Numbered, Plans};
use mmhfs::format::parity::ParityKind;
use mmhfs::format::rows::PackKind;

/// Bytes of a pack of the group, as by default.
const PACK_LEN: usize = 64 << 20;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

struct World {
    dir: tempfile::TempDir,
    parity: ParityStore,
    packs: Vec<PackToCover>,
}

impl World {
    fn new(count: u64, len: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("packs")).unwrap();
        let kind = PackKind::Data;
        let make = |n| {
            let pack = PackId::from_raw(n + 1);
            std::fs::write(dir.path().join(pack_name(pack, kind)), noise(n, len)).unwrap();
            PackToCover {
                pack,
                kind,
                digest: None,
            }
        };
        let packs = (0..count).map(make).collect();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path()));
        let place = ParityPlace::within(Arc::clone(&disk));
        let parity = ParityStore::open(disk, place, StoreId::from_raw([7; 16])).unwrap();
        Self { dir, parity, packs }
    }

    fn encode(&self, kind: ParityKind) -> ParityId {
        let config = ParityConfig::default();
        let done = self.parity.encode(kind, &self.packs, &config).unwrap();
        done.unwrap().into_inner()
    }

    fn forget(&self, id: ParityId) {
        self.parity.remove(id).unwrap();
    }
}

fn code(c: &mut Criterion) {
    let mut group = c.benchmark_group("code, one thread");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(3));
    for source_count in [256, 1024, 1888] {
        let size = BlockSize {
            source_count,
            symbol_len: 4096,
        };
        let block = noise(1, size.byte_len().unwrap());
        let plans = Plans::new();
        let repair_count = source_count * 7 / 100 + 1;
        let repair = plans.encode(&size, &block, repair_count).unwrap();
        group.throughput(Throughput::Bytes(block.len() as u64));
        group.bench_function(format!("encode {source_count} symbols, 7 %"), |b| {
            b.iter(|| black_box(plans.encode(&size, &block, repair_count).unwrap()));
        });
        for lost in [1, source_count / 16] {
            let missing: Vec<u32> = (0..lost).collect();
            let mut block = block.clone();
            let repair: Vec<_> = repair
                .iter()
                .zip(0..)
                .map(|(bytes, idx)| Numbered { idx, bytes })
                .collect();
            group.bench_function(format!("decode {source_count} symbols, {lost} lost"), |b| {
                b.iter(|| assert!(plans.recover(&size, &mut block, &missing, &repair).unwrap()));
            });
        }
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("files");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    for (name, count, len) in [("1 MiB pack", 1, 1 << 20), ("64 MiB pack", 1, PACK_LEN)] {
        let world = World::new(count, len);
        group.throughput(Throughput::Bytes(count * len as u64));
        group.bench_function(format!("encode a {name}"), |b| {
            b.iter(|| world.forget(world.encode(ParityKind::Single)));
        });
    }
    let world = World::new(16, PACK_LEN);
    group.throughput(Throughput::Bytes(16 * PACK_LEN as u64));
    group.bench_function("encode a group of 1 GiB", |b| {
        b.iter(|| world.forget(world.encode(ParityKind::Group)));
    });
    let id = world.encode(ParityKind::Group);
    let pack = world.packs.get(3).unwrap();
    let path = world.dir.path().join(pack_name(pack.pack, pack.kind));
    // Of the group, all of which is read; of the pack it is a sixteenth.
    group.bench_function("bring back a pack of a group of 1 GiB", |b| {
        b.iter(|| {
            std::fs::remove_file(&path).unwrap();
            let config = ParityConfig::default();
            let done = world.parity.reconstruct(id, &[pack.pack], &config);
            assert!(matches!(done.unwrap(), RepairOutcome::Repaired(_)));
        });
    });
    let mut bytes = std::fs::read(&path).unwrap();
    if let Some(byte) = bytes.get_mut(1 << 20) {
        *byte ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("read a damaged sector in a group of 1 GiB", |b| {
        b.iter(|| {
            let off = PackOff::from_raw(1 << 20);
            let found = world.parity.reconstruct_range(pack.pack, off, 4096);
            assert!(matches!(found.unwrap(), RangeOutcome::Bytes(_)));
        });
    });
    group.finish();
}

criterion_group!(benches, code, encode);
criterion_main!(benches);
