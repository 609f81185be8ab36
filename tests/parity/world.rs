//! Packs that the chunk store has made, with their parity, in a temporary directory where they can be damaged.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test support: a failure here is a failed test"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use mmhfs::base::{PackId, ParityId, StoreId};
use mmhfs::chunk::{
    LostRange, PackToCover, ParityConfig, ParityPlace, ParityStore, RepairOutcome, pack_name,
};
use mmhfs::disk::Disk;
use mmhfs::format::parity::ParityKind;
use mmhfs::format::rows::PackKind;

use super::disk::SickDisk;
use super::store;

/// A pack as the chunk store has written it.
#[derive(Clone)]
pub(crate) struct Pack {
    pub(crate) id: PackId,
    pub(crate) kind: PackKind,
    pub(crate) bytes: Vec<u8>,
}

impl Pack {
    pub(crate) fn name(&self) -> String {
        pack_name(self.id, self.kind)
    }
}

fn packs_of(world: &store::World) -> Vec<Pack> {
    let infos = world.store().packs().unwrap();
    let bytes: BTreeMap<_, _> = world.all_pack_bytes().into_iter().collect();
    let pack = |info: &mmhfs::chunk::PackInfo| Pack {
        id: info.id,
        kind: info.kind,
        bytes: bytes[&info.id].clone(),
    };
    infos.iter().map(pack).collect()
}

/// Sixteen packs: a process that crashed has left a LOG and a DATA pack unsealed, the others are sealed.
pub(crate) fn sixteen() -> Vec<Pack> {
    static MADE: OnceLock<Vec<Pack>> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut world = store::World::new();
        let mut seed = 0;
        let mut commit = |world: &mut store::World| {
            let pieces: Vec<Vec<u8>> = (0..8)
                .map(|n| crate::dice::noise(seed * 8 + n, 256 << 10))
                .collect();
            seed += 1;
            world.commit(false, &pieces);
        };
        for _ in 0..3 {
            commit(&mut world);
        }
        world.crash();
        world.reopen();
        while world.store().packs().unwrap().len() < 16 {
            commit(&mut world);
        }
        world.close();
        world.reopen_as_is();
        let packs = packs_of(&world);
        assert_eq!(packs.len(), 16);
        assert!(packs.iter().any(|pack| pack.kind == PackKind::Log));
        packs
    })
    .clone()
}

/// One sealed DATA pack of about 1 MiB.
pub(crate) fn small() -> Pack {
    static MADE: OnceLock<Pack> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut world = store::World::new();
        let pieces: Vec<Vec<u8>> = (0..16).map(|n| crate::dice::noise(n, 65_536)).collect();
        world.commit(false, &pieces);
        world.close();
        world.reopen_as_is();
        let packs = packs_of(&world);
        packs
            .into_iter()
            .find(|pack| pack.kind == PackKind::Data)
            .unwrap()
    })
    .clone()
}

/// Packs in a directory of their own, and their parity.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) disk: Arc<SickDisk>,
    pub(crate) packs: Vec<Pack>,
    pub(crate) parity: Arc<ParityStore>,
}

pub(crate) const STORE: StoreId = StoreId::from_raw([7; 16]);

pub(crate) fn config() -> ParityConfig {
    ParityConfig::default()
}

impl World {
    /// Writes packs; nothing covers them yet.
    pub(crate) fn new(packs: Vec<Pack>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("packs")).unwrap();
        for pack in &packs {
            std::fs::write(dir.path().join(pack.name()), &pack.bytes).unwrap();
        }
        let disk = SickDisk::new(dir.path());
        let parity = Self::open(&disk);
        Self {
            dir,
            disk,
            packs,
            parity,
        }
    }

    /// Sixteen packs with the parity of their group.
    pub(crate) fn group() -> (Self, ParityId) {
        let world = Self::new(sixteen());
        let id = world.encode(ParityKind::Group, &world.packs);
        (world, id)
    }

    /// A small pack with parity of its own.
    pub(crate) fn single() -> (Self, ParityId) {
        let world = Self::new(vec![small()]);
        let id = world.encode(ParityKind::Single, &world.packs);
        (world, id)
    }

    fn open(disk: &Arc<SickDisk>) -> Arc<ParityStore> {
        let packs: Arc<dyn Disk> = Arc::<SickDisk>::clone(disk);
        let place = ParityPlace::within(Arc::clone(&packs));
        Arc::new(ParityStore::open(packs, place, STORE).unwrap())
    }

    /// Forgets what is in memory, faults of the disk included.
    pub(crate) fn reopen(&mut self) {
        self.disk = SickDisk::new(self.dir.path());
        self.parity = Self::open(&self.disk);
    }

    pub(crate) fn cover(pack: &Pack) -> PackToCover {
        PackToCover {
            pack: pack.id,
            kind: pack.kind,
            digest: None,
        }
    }

    pub(crate) fn encode(&self, kind: ParityKind, packs: &[Pack]) -> ParityId {
        let packs: Vec<_> = packs.iter().map(Self::cover).collect();
        let done = self.parity.encode(kind, &packs, &config()).unwrap();
        done.unwrap().into_inner()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn parity_name(&self, id: ParityId) -> String {
        format!("parity/{:016x}.par", id.raw())
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Changes bytes of a file.
    pub(crate) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.read(name);
        change(&mut bytes);
        self.write(name, &bytes);
    }

    /// Overwrites bytes with something else.
    pub(crate) fn burst(&self, name: &str, from: usize, len: usize) {
        self.damage(name, |bytes| {
            for byte in &mut bytes[from..from + len] {
                *byte = !*byte;
            }
        });
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// Repairs suspected packs; all of the packs must then be what they were, and a second look finds nothing.
    pub(crate) fn check_repaired(&self, id: ParityId, suspects: &[PackId]) {
        let done = self.parity.reconstruct(id, suspects, &config()).unwrap();
        let RepairOutcome::Repaired(repaired) = done else {
            panic!("{done:?}");
        };
        assert!(!repaired.is_empty());
        self.check_intact();
        let all: Vec<PackId> = self.packs.iter().map(|pack| pack.id).collect();
        let again = self.parity.reconstruct(id, &all, &config()).unwrap();
        assert_eq!(again, RepairOutcome::Clean);
    }

    /// All packs are what they were, and nothing else is left in their directory.
    pub(crate) fn check_intact(&self) {
        for pack in &self.packs {
            assert!(
                self.read(&pack.name()) == pack.bytes,
                "pack {} is not what it was",
                pack.id
            );
        }
        let left = std::fs::read_dir(self.path("packs")).unwrap().count();
        assert_eq!(left, self.packs.len(), "something is left over");
    }

    /// What a repair that cannot succeed reports; nothing may have changed.
    pub(crate) fn check_beyond(&self, id: ParityId, suspects: &[PackId]) -> Vec<LostRange> {
        let before = self.all_files();
        let done = self.parity.reconstruct(id, suspects, &config()).unwrap();
        let RepairOutcome::BeyondRepair { repaired, lost } = done else {
            panic!("{done:?}");
        };
        assert!(repaired.is_empty());
        assert!(before == self.all_files(), "something was written");
        lost
    }

    pub(crate) fn all_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![self.dir.path().to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    found.insert(path.clone(), std::fs::read(path).unwrap());
                }
            }
        }
        found
    }
}
