//! Parity of real packs: damage of every sort is repaired byte for byte, and what is beyond repair is named exactly.

#[path = "common/dice.rs"]
mod dice;
#[path = "parity/disk.rs"]
mod disk;
#[path = "chunk/world.rs"]
#[allow(dead_code, reason = "the world of the chunk store's own tests")]
mod store;
#[path = "parity/world.rs"]
mod world;

use std::sync::Arc;

use mmhfs::base::{Error, PackId, PackOff, ParityId};
use mmhfs::chunk::{
    LostRange, ParityConfig, ParityPlace, ParityRepair, ParityStore, RangeOutcome, RepairOutcome,
};
use mmhfs::disk::{Disk, RealDisk};
use mmhfs::format::parity::ParityKind;
use world::{STORE, World, config, sixteen, small};

const SYMBOL: usize = 4096;

fn range(pack: PackId, from: usize, to: usize) -> LostRange {
    LostRange {
        pack,
        range: PackOff::from_raw(from as u64)..PackOff::from_raw(to as u64),
    }
}

#[test]
fn a_bit_a_sector_and_a_burst_are_repaired_byte_for_byte() {
    let (world, id) = World::group();
    let pack = world.packs[5].clone();
    let cases = [(70_001, 1), (3 * SYMBOL, SYMBOL), (1 << 20, 1 << 20)];
    for (nth, (from, len)) in cases.into_iter().enumerate() {
        world.burst(&pack.name(), from, len);
        let damaged = world.read(&pack.name());
        world.check_repaired(id, &[pack.id]);
        // The damaged file is kept as it was.
        let kept = pack.name().replace("packs/", "quarantine/");
        assert!(world.read(&format!("{kept}.{nth}")) == damaged);
    }
}

#[test]
fn the_loss_of_any_one_pack_of_a_full_group_is_repaired() {
    let (world, id) = World::group();
    for pack in world.packs.clone() {
        world.remove(&pack.name());
        world.check_repaired(id, &[pack.id]);
    }
    assert!(!world.path("quarantine").exists());
}

#[test]
fn a_truncated_and_an_extended_pack_are_repaired() {
    let (world, id) = World::group();
    let pack = world.packs[5].clone();
    for len in [0, 1, 4096, pack.bytes.len() / 2 + 7, pack.bytes.len() - 1] {
        world.damage(&pack.name(), |bytes| bytes.truncate(len));
        world.check_repaired(id, &[pack.id]);
    }
    world.damage(&pack.name(), |bytes| bytes.extend([0; 5000]));
    world.check_repaired(id, &[pack.id]);
}

#[test]
fn swapped_blocks_and_an_older_version_of_a_pack_are_repaired() {
    let (world, id) = World::group();
    let pack = world.packs[4].clone();
    world.damage(&pack.name(), |bytes| {
        let (a, b) = bytes.split_at_mut(100 * SYMBOL);
        a[10 * SYMBOL..20 * SYMBOL].swap_with_slice(&mut b[..10 * SYMBOL]);
    });
    world.check_repaired(id, &[pack.id]);
    // As it was before its last part was written: without it, and with zeros in place of it.
    world.damage(&pack.name(), |bytes| bytes.truncate(2 << 20));
    world.check_repaired(id, &[pack.id]);
    world.damage(&pack.name(), |bytes| bytes[2 << 20..].fill(0));
    world.check_repaired(id, &[pack.id]);
    // Another pack of the same store in its place.
    let other = world.packs[5].bytes.clone();
    world.write(&pack.name(), &other);
    world.check_repaired(id, &[pack.id]);
}

#[test]
fn read_errors_of_the_device_count_as_damage() {
    let (mut world, id) = World::group();
    let pack = world.packs[2].clone();
    world.disk.spoil(&pack.name(), 5000..5001);
    world
        .disk
        .spoil(&pack.name(), (1 << 20) + 100..(1 << 20) + 70_000);
    let off = PackOff::from_raw(4000);
    let healed = world.parity.reconstruct_range(pack.id, off, 3000).unwrap();
    assert_eq!(healed, RangeOutcome::Bytes(pack.bytes[4000..7000].to_vec()));
    let done = world.parity.reconstruct(id, &[pack.id], &config()).unwrap();
    let RepairOutcome::Repaired(repaired) = done else {
        panic!("{done:?}")
    };
    // One symbol for the first, 18 for the second: what could be read around them was not computed.
    assert_eq!(repaired[0].symbols, 1 + 18);
    world.reopen();
    world.check_intact();
}

/// A device that fails now and then: what it gave in one reading it may not give in the next.
#[test]
fn a_symbol_that_can_be_read_only_at_the_second_try_is_no_obstacle() {
    let (world, id) = World::group();
    let pack = world.packs[2].clone();
    // The large read and the one of the symbol fail; when the block is read it comes.
    world.disk.spoil_for(&pack.name(), 5000..5001, 2);
    world.check_repaired(id, &[pack.id]);
}

#[test]
fn a_run_of_damage_of_nine_tenths_of_the_parity_is_repaired() {
    let (world, id) = World::group();
    let header = world.parity.header(id).unwrap();
    let mut left = usize::try_from(header.repair_total()).unwrap() * SYMBOL * 9 / 10;
    // From the middle of one pack over the packs that follow.
    let mut at = 3;
    let mut from = world.packs[at].bytes.len() / 2;
    let mut hit = vec![];
    while left > 0 {
        let pack = &world.packs[at];
        let len = left.min(pack.bytes.len() - from);
        world.burst(&pack.name(), from, len);
        hit.push(pack.id);
        (left, at, from) = (left - len, at + 1, 0);
    }
    assert!(hit.len() >= 2);
    // Only one of them is suspected: the others are found on the way.
    world.check_repaired(id, &hit[..1]);
}

/// The blocks of a pack that nobody suspects are read for another one; it has damage in blocks before and after them too.
#[test]
fn a_pack_that_turns_out_to_be_damaged_is_repaired_everywhere() {
    let (world, id) = World::group();
    let header = world.parity.header(id).unwrap();
    assert!(header.shape().block_count >= 7);
    let (a, b) = (world.packs[4].clone(), world.packs[6].clone());
    let spoil = |pack: &world::Pack, symbol: usize| world.burst(&pack.name(), symbol * SYMBOL, 9);
    spoil(&a, 3);
    for symbol in [1, 3, 6] {
        spoil(&b, symbol);
    }
    // One block in memory at a time.
    let config = ParityConfig {
        memory_len: 0,
        ..config()
    };
    let done = world.parity.reconstruct(id, &[a.id], &config).unwrap();
    let RepairOutcome::Repaired(repaired) = done else {
        panic!("{done:?}")
    };
    let found: Vec<_> = repaired.iter().map(|r| (r.pack, r.symbols)).collect();
    assert_eq!(found, [(a.id, 1), (b.id, 3)]);
    world.check_intact();
}

/// All damaged packs are brought back in one go, for which there is no room.
#[test]
fn where_there_is_no_room_for_two_packs_one_is_repaired() {
    let (world, id) = World::group();
    let large: Vec<_> = world
        .packs
        .iter()
        .filter(|p| p.bytes.len() > 3 << 20)
        .collect();
    let (a, b) = (large[0].clone(), large[4].clone());
    world.burst(&a.name(), 5000, 200_000);
    world.burst(&b.name(), 5000, 1000);
    world.disk.no_room_for(&format!("{}.tmp", b.name()));
    let done = world.parity.reconstruct(id, &[a.id], &config());
    assert!(matches!(done, Err(Error::NoSpace)), "{done:?}");
    let read = |name: &str| std::fs::read(world.path(name)).unwrap();
    assert!(read(&a.name()) == a.bytes, "the first was not repaired");
    assert!(read(&b.name()) != b.bytes);
}

#[test]
fn two_lost_packs_of_a_group_are_beyond_repair_and_nothing_is_written() {
    let (world, id) = World::group();
    let large: Vec<_> = world
        .packs
        .iter()
        .filter(|p| p.bytes.len() > 3 << 20)
        .collect();
    let (a, b) = (large[0].clone(), large[4].clone());
    world.remove(&a.name());
    world.remove(&b.name());
    let lost = world.check_beyond(id, &[a.id]);
    let whole = [range(a.id, 0, a.bytes.len()), range(b.id, 0, b.bytes.len())];
    assert_eq!(lost, whole);
}

#[test]
fn a_small_pack_loses_exactly_what_its_parity_does_not_reach() {
    let (world, id) = World::single();
    let pack = world.packs[0].clone();
    let header = world.parity.header(id).unwrap();
    assert_eq!(header.shape().block_count, 1);
    let repair = usize::try_from(header.shape().repair_count).unwrap();
    assert!(repair >= 18, "{repair}");
    // Up to two symbols below the limit it is certain, or as good as that.
    world.burst(&pack.name(), 8 * SYMBOL, (repair - 2) * SYMBOL);
    world.check_repaired(id, &[pack.id]);
    world.burst(&pack.name(), 8 * SYMBOL, repair * SYMBOL);
    world.burst(&pack.name(), 100 * SYMBOL + 5, 1);
    let lost = world.check_beyond(id, &[pack.id]);
    let end = (8 + repair) * SYMBOL;
    let holes = [
        range(pack.id, 8 * SYMBOL, end),
        range(pack.id, 100 * SYMBOL, 101 * SYMBOL),
    ];
    assert_eq!(lost, holes);
    // What is intact can still be read, and what is lost is named.
    let read = |from: usize, len| {
        let off = PackOff::from_raw(from as u64);
        world.parity.reconstruct_range(pack.id, off, len).unwrap()
    };
    let intact = pack.bytes[..8 * SYMBOL].to_vec();
    assert_eq!(read(0, 8 * SYMBOL), RangeOutcome::Bytes(intact));
    let hole = range(pack.id, 100 * SYMBOL, 101 * SYMBOL);
    assert_eq!(
        read(99 * SYMBOL, 3 * SYMBOL),
        RangeOutcome::BeyondRepair(vec![hole])
    );
    // The last symbol is short; so is its hole.
    world.remove(&pack.name());
    let lost = world.check_beyond(id, &[pack.id]);
    assert_eq!(lost, [range(pack.id, 0, pack.bytes.len())]);
}

#[test]
fn a_pack_without_holes_is_repaired_beside_one_that_is_lost() {
    let (world, id) = World::group();
    let header = world.parity.header(id).unwrap();
    let blocks = usize::try_from(header.shape().block_count).unwrap();
    // Two packs lose all of block 0, a third one a symbol of another block.
    for pack in &world.packs[4..6] {
        let symbols = pack.bytes.len() / SYMBOL;
        for symbol in (0..symbols).step_by(blocks) {
            world.burst(&pack.name(), symbol * SYMBOL, 1);
        }
    }
    let third = world.packs[6].clone();
    world.burst(&third.name(), SYMBOL + 9, 1);
    let all: Vec<_> = world.packs[4..7].iter().map(|pack| pack.id).collect();
    let done = world.parity.reconstruct(id, &all, &config()).unwrap();
    let RepairOutcome::BeyondRepair { repaired, lost } = done else {
        panic!("{done:?}")
    };
    assert_eq!(repaired.len(), 1);
    assert!(world.read(&third.name()) == third.bytes);
    assert!(lost.iter().all(|lost| all[..2].contains(&lost.pack)));
    assert_eq!(lost[0], range(all[0], 0, SYMBOL));
}

#[test]
fn a_read_of_a_damaged_range_gets_the_right_bytes_and_writes_nothing() {
    let (world, _) = World::group();
    let pack = world.packs[6].clone();
    world.burst(&pack.name(), 9 * SYMBOL + 17, 1);
    let before = world.all_files();
    let read = |from: usize, len| {
        let off = PackOff::from_raw(from as u64);
        world.parity.reconstruct_range(pack.id, off, len).unwrap()
    };
    world.disk.take_reads();
    let cases = [
        (9 * SYMBOL, SYMBOL),
        (9 * SYMBOL + 16, 2),
        (8 * SYMBOL + 1, 200_000),
        (pack.bytes.len() - 3, 3),
        (0, 0),
    ];
    for (from, len) in cases {
        let right = pack.bytes[from..from + len].to_vec();
        assert_eq!(read(from, len), RangeOutcome::Bytes(right), "{from} {len}");
    }
    // One source block each time, not the group.
    assert!(world.disk.take_reads() < 4 * 3000);
    world.remove(&pack.name());
    let right = pack.bytes[9 * SYMBOL..19 * SYMBOL].to_vec();
    assert_eq!(read(9 * SYMBOL, 10 * SYMBOL), RangeOutcome::Bytes(right));
    world.write(&pack.name(), &before[&world.path(&pack.name())]);
    assert!(before == world.all_files());
    let past = PackOff::from_raw(pack.bytes.len() as u64);
    assert!(world.parity.reconstruct_range(pack.id, past, 1).is_err());
    let nobody = world
        .parity
        .reconstruct_range(PackId::from_raw(99), past, 1)
        .unwrap();
    assert_eq!(nobody, RangeOutcome::Unprotected);
}

#[test]
fn a_parity_file_with_damage_of_its_own_still_repairs_and_is_repaired() {
    let (mut world, id) = World::group();
    let name = world.parity_name(id);
    let good = world.read(&name);
    let header = world.parity.header(id).unwrap();
    let tables = usize::try_from(header.table_pages()).unwrap() * SYMBOL;
    let end = good.len();
    let pack = world.packs[8].clone();
    let copied = ParityRepair::Copied;
    let encoded = ParityRepair::Encoded;
    let cases = [
        ("first header", 0, 100, copied),
        ("first header and table", 0, SYMBOL + tables, copied),
        ("second header", end - 1, 1, copied),
        ("second table", end - SYMBOL - tables, tables, copied),
        ("repair symbols", SYMBOL + tables, 64 * SYMBOL, encoded),
    ];
    for (what, from, len, how) in cases {
        world.burst(&name, from, len);
        world.reopen();
        assert!(world.parity.unreadable().is_empty(), "{what}");
        assert!(!world.parity.check_parity(id).unwrap().is_clean(), "{what}");
        world.burst(&pack.name(), 12_345, 50_000);
        world.check_repaired(id, &[pack.id]);
        let done = world.parity.repair_parity(id, &config()).unwrap();
        assert_eq!(done, how, "{what}");
        assert!(world.read(&name) == good, "{what}");
        assert!(world.parity.check_parity(id).unwrap().is_clean(), "{what}");
    }
    let done = world.parity.repair_parity(id, &config()).unwrap();
    assert_eq!(done, ParityRepair::Clean);
    world.remove(&name);
    assert!(world.parity.check_parity(id).unwrap().missing);
    let done = world.parity.repair_parity(id, &config()).unwrap();
    assert_eq!(done, encoded);
    assert!(world.read(&name) == good);
    // Truncated: the second copies are gone and some symbols.
    world.damage(&name, |bytes| bytes.truncate(end - SYMBOL - tables - 5));
    world.reopen();
    world.burst(&pack.name(), 0, 100);
    world.check_repaired(id, &[pack.id]);
    world.parity.repair_parity(id, &config()).unwrap();
    assert!(world.read(&name) == good);
}

#[test]
fn a_page_of_the_table_that_is_lost_in_both_copies_is_no_loss_of_packs() {
    let (mut world, id) = World::group();
    let name = world.parity_name(id);
    let good = world.read(&name);
    let header = world.parity.header(id).unwrap();
    let tables = usize::try_from(header.table_pages()).unwrap() * SYMBOL;
    world.burst(&name, 3 * SYMBOL, 10);
    world.burst(&name, good.len() - SYMBOL - tables + 2 * SYMBOL, 10);
    world.reopen();
    assert_eq!(world.parity.check_parity(id).unwrap().pages_lost, 1);
    // Nothing is damaged but the table: every pack proves itself by its digest.
    let all: Vec<PackId> = world.packs.iter().map(|pack| pack.id).collect();
    let clean = world.parity.reconstruct(id, &all, &config()).unwrap();
    assert_eq!(clean, RepairOutcome::Clean);
    // A page is 508 symbols: a few of each block, which come back with the damaged ones.
    world.burst(&world.packs[1].name(), 100, 200_000);
    world.burst(&world.packs[2].name(), 100, 200_000);
    world.check_repaired(id, &[world.packs[1].id, world.packs[2].id]);
    let done = world.parity.repair_parity(id, &config()).unwrap();
    assert_eq!(done, ParityRepair::Encoded);
    assert!(world.read(&name) == good);
}

#[test]
fn the_same_packs_give_the_same_parity_whatever_the_threads_and_the_memory() {
    let (world, id) = World::group();
    let good = world.read(&world.parity_name(id));
    for (threads, memory_len) in [(1, 0), (3, 64 << 20), (16, 1 << 30)] {
        world.remove(&world.parity_name(id));
        let config = ParityConfig {
            threads,
            memory_len,
            ..config()
        };
        world.parity.repair_parity(id, &config).unwrap();
        assert!(world.read(&world.parity_name(id)) == good);
    }
}

#[test]
fn a_damaged_pack_is_not_encoded() {
    // A sealed pack says itself what it should be; one that was left unsealed is known by its own parity.
    let world = World::new(sixteen());
    let sealed = world.packs.last().cloned().map(|pack| vec![pack]);
    let sealed = sealed.unwrap_or_default();
    world.burst(&sealed[0].name(), 70_000, 1);
    let encode = |packs: &[world::Pack], digest| {
        let mut packs: Vec<_> = packs.iter().map(World::cover).collect();
        packs[0].digest = digest;
        world.parity.encode(ParityKind::Single, &packs, &config())
    };
    assert!(matches!(
        encode(&sealed, None),
        Err(Error::Corrupt { what: "pack", .. })
    ));
    let unsealed = &world.packs[0..1];
    let wrong = mmhfs::base::Digest::from_raw([1; 32]);
    assert!(encode(unsealed, Some(wrong)).is_err());
    assert!(world.parity.all().is_empty() && !world.path("parity").exists());
    encode(unsealed, None).unwrap();
    world.burst(&unsealed[0].name(), 5000, 1);
    assert!(encode(unsealed, None).is_err());
    world.remove(&unsealed[0].name());
    assert!(matches!(
        encode(unsealed, None),
        Err(Error::PackMissing { .. })
    ));
}

#[test]
fn no_overhead_is_no_parity() {
    let world = World::new(vec![small()]);
    let none = ParityConfig {
        percent: 0,
        ..config()
    };
    let packs = [World::cover(&world.packs[0])];
    let done = world.parity.encode(ParityKind::Single, &packs, &none);
    assert!(done.unwrap().is_none());
    let id = world.packs[0].id;
    assert_eq!(world.parity.unprotected([id]), [id]);
}

#[test]
fn with_as_much_parity_as_data_a_single_lost_pack_comes_back() {
    let world = World::new(vec![small()]);
    let mirror = ParityConfig {
        percent: 100,
        ..config()
    };
    let packs = [World::cover(&world.packs[0])];
    let done = world.parity.encode(ParityKind::Single, &packs, &mirror);
    let id = done.unwrap().unwrap().into_inner();
    world.remove(&world.packs[0].name());
    // As many repair symbols as source symbols suffice in 99 of 100 cases: this is one of them.
    world.check_repaired(id, &[world.packs[0].id]);
}

#[test]
fn parity_may_lie_on_another_disk_and_belongs_to_one_store() {
    let world = World::new(vec![small()]);
    let elsewhere = tempfile::tempdir().unwrap();
    let place = ParityPlace {
        disk: Arc::new(RealDisk::new(elsewhere.path())),
        dir: String::new(),
    };
    let open = |store| {
        let packs: Arc<dyn Disk> = Arc::<disk::SickDisk>::clone(&world.disk);
        ParityStore::open(packs, place.clone(), store).unwrap()
    };
    let packs = [World::cover(&world.packs[0])];
    let done = open(STORE).encode(ParityKind::Single, &packs, &config());
    let id = done.unwrap().unwrap().into_inner();
    assert!(!world.path("parity").exists());
    let parity = open(STORE);
    assert_eq!(parity.all().len(), 1);
    world.burst(&world.packs[0].name(), 4096, 4096);
    let suspects = [world.packs[0].id];
    parity.reconstruct(id, &suspects, &config()).unwrap();
    world.check_intact();
    let foreign = open(mmhfs::base::StoreId::from_raw([8; 16]));
    assert_eq!((foreign.all().len(), foreign.unreadable().len()), (0, 1));
    // A number that was seen is not given out again.
    let packs = [World::cover(&world.packs[0])];
    let next = foreign.encode(ParityKind::Single, &packs, &config());
    assert_eq!(next.unwrap().unwrap().into_inner(), id.next());
}

#[test]
fn a_groups_parity_takes_the_place_of_its_packs_own() {
    let mut world = World::new(sixteen());
    let (some, rest) = world.packs.split_at(3);
    let singles: Vec<ParityId> = some
        .iter()
        .map(|pack| world.encode(ParityKind::Single, std::slice::from_ref(pack)))
        .collect();
    let other = world.encode(ParityKind::Single, &rest[..1]);
    let ids = |packs: &[world::Pack]| packs.iter().map(|pack| pack.id).collect::<Vec<_>>();
    assert_eq!(world.parity.unprotected(ids(&world.packs)), ids(&rest[1..]));
    let covers: Vec<_> = some.iter().map(World::cover).collect();
    let group = world.parity.encode(ParityKind::Group, &covers, &config());
    let group = group.unwrap().unwrap();
    let cover = world.parity.covering(some[0].id).unwrap();
    assert_eq!((cover.parity, cover.kind), (*group, ParityKind::Group));
    assert_eq!(world.parity.remove_replaced(&group).unwrap(), singles);
    let left: Vec<ParityId> = world.parity.all().iter().map(|h| h.parity()).collect();
    assert_eq!(left, [other, *group]);
    let used = world.parity.used_bytes();
    let all = world.all_files();
    let lens = all
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "par"));
    assert_eq!(used, lens.map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    world.reopen();
    let left: Vec<ParityId> = world.parity.all().iter().map(|h| h.parity()).collect();
    assert_eq!(left, [other, *group]);
}

/// A disk that dies at any call while the parity of a group takes the place of that of its packs.
#[test]
fn at_no_moment_is_a_pack_without_the_parity_that_it_had() {
    let mut changes = 0;
    loop {
        let mut world = World::new(vec![small()]);
        world.encode(ParityKind::Single, &world.packs);
        let covers = [World::cover(&world.packs[0])];
        world.disk.die_after(Some(changes));
        let done = world.parity.encode(ParityKind::Group, &covers, &config());
        let done = done.and_then(|group| match group {
            Some(group) => world.parity.remove_replaced(&group).map(|_| ()),
            None => Ok(()),
        });
        world.reopen();
        world.parity.remove_leftovers().unwrap();
        let cover = world.parity.covering(world.packs[0].id);
        let Some(cover) = cover else {
            panic!("unprotected after {changes} changes")
        };
        let check = world.parity.check_parity(cover.parity).unwrap();
        assert!(check.is_clean(), "after {changes} changes: {check:?}");
        let files = std::fs::read_dir(world.path("parity")).unwrap().count();
        assert_eq!(files, world.parity.all().len());
        world.burst(&world.packs[0].name(), 5000, 5000);
        world.check_repaired(cover.parity, &[world.packs[0].id]);
        if done.is_ok() {
            break;
        }
        changes += 1;
    }
    assert!(changes > 20, "{changes}");
}

/// A disk that dies at any call of a repair: the next one ends it.
#[test]
fn a_repair_that_is_interrupted_anywhere_is_ended_later() {
    let mut changes = 0;
    let mut placed = 0;
    loop {
        let (mut world, id) = World::single();
        let pack = world.packs[0].clone();
        // In pieces: what lies between them is copied in as many writes.
        for n in 0..8 {
            world.burst(&pack.name(), 5000 + n * 20_000, 4000);
        }
        world.disk.die_after(Some(changes));
        let done = world.parity.reconstruct(id, &[pack.id], &config());
        world.reopen();
        placed += world.parity.finish_repairs().unwrap().len();
        // The pack is there in one form or the other before anything is computed anew: parity of this size could
        // not bring it back as a whole.
        let there = world.path(&pack.name()).exists();
        assert!(there, "after {changes} changes");
        let again = world.parity.reconstruct(id, &[pack.id], &config()).unwrap();
        assert!(!matches!(again, RepairOutcome::BeyondRepair { .. }));
        world.check_intact();
        if done.is_ok() {
            break;
        }
        changes += 1;
    }
    assert!(changes > 30 && placed > 0, "{changes} {placed}");
}

#[test]
fn names_that_nothing_covers_are_errors() {
    let (world, id) = World::single();
    let nobody = PackId::from_raw(77);
    assert!(world.parity.reconstruct(id, &[nobody], &config()).is_err());
    let none = ParityId::from_raw(77);
    assert!(world.parity.reconstruct(none, &[], &config()).is_err());
    assert!(world.parity.check_parity(none).is_err());
}

#[test]
fn a_parity_file_without_headers_is_reported_and_the_pack_can_be_encoded_again() {
    let (mut world, id) = World::single();
    let name = world.parity_name(id);
    world.damage(&name, |bytes| {
        let len = bytes.len();
        bytes[7] ^= 1;
        bytes[len - 9] ^= 1;
    });
    world.reopen();
    assert_eq!(world.parity.unreadable().len(), 1);
    let pack = world.packs[0].id;
    assert_eq!(world.parity.unprotected([pack]), [pack]);
    let next = world.encode(ParityKind::Single, &world.packs);
    assert_eq!(next, id.next());
    world.parity.remove(id).unwrap();
    world.reopen();
    assert!(world.parity.unreadable().is_empty());
    assert!(world.parity.unprotected([pack]).is_empty());
}
