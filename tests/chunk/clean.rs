//! Moving frames and removing packs, beneath the engine.

use std::collections::HashSet;
use std::sync::Arc;

use mmhfs::base::{ChunkId, Error};
use mmhfs::chunk::{LiveSet, PutKind};
use mmhfs::format::rows::PackKind;

use super::world::{World, text};
use crate::dice::noise;

/// Bug that this guards against: a reader looks a chunk up, the chunk is moved and its pack removed, and the reader finds
/// no file at the old place.
#[test]
fn i3_a_read_whose_chunk_was_moved_since_it_was_looked_up_asks_again() {
    let mut world = World::new();
    let pieces = [noise(1, 50_000), text(2, 9_000), noise(3, 300_000)];
    let ids = world.commit(false, &pieces);
    let old: Vec<_> = ids.iter().map(|id| world.row(id)).collect();
    world.store().roll().unwrap();
    world.move_chunks(&ids);
    let gone = old[0].pack;
    assert!(world.row(&ids[0]).pack > gone);
    world.store().remove_packs(&[gone]).unwrap();
    assert!(!world.packs(PackKind::Data).contains(&gone));
    for (id, row) in ids.iter().zip(&old) {
        world.answer_once(id, *row);
    }
    assert_eq!(world.read_all(&ids), pieces);
    assert!(world.store().damaged().is_empty());
    // One that is really gone is an error, and known as damage.
    world.forget_row(&ids[0]);
    world.answer_once(&ids[0], old[0]);
    let lost = world.store().get(&ids[0]);
    assert!(matches!(lost, Err(Error::PackMissing { .. })), "{lost:?}");
}

#[test]
fn only_the_chunks_that_are_wanted_move_and_whole_frames_keep_their_bytes() {
    let mut world = World::new();
    let pieces: Vec<Vec<u8>> = (0..20).map(|n| text(n, 3_000)).collect();
    let ids = world.commit(false, &pieces);
    let old = world.row(&ids[0]);
    let whole = world.store().read_frame(&old).unwrap().stored_len();
    world.store().roll().unwrap();
    world.move_chunks(&ids);
    let new = world.row(&ids[0]);
    assert_eq!(world.store().read_frame(&new).unwrap().stored_len(), whole);
    world.store().roll().unwrap();
    world.move_chunks(&ids[3..5]);
    assert_eq!(world.row(&ids[0]), new);
    let part = world.store().read_frame(&world.row(&ids[3])).unwrap();
    assert_eq!(part.chunks().collect::<Vec<_>>(), ids[3..5]);
    world.reopen();
    assert_eq!(world.read_all(&ids), pieces);
}

#[test]
fn i8_what_a_batch_finds_or_stores_is_pinned() {
    let mut world = World::new();
    let known = world.commit(false, &[noise(1, 5_000)]);
    let live = Arc::new(LiveSet::new(0, 0, [1, 2]));
    world.store().pin_into(Some(Arc::clone(&live)));
    let ids = world.commit(true, &[noise(1, 5_000), noise(2, 5_000)]);
    let nodes = world.commit_nodes(true, &[b"node".to_vec()]);
    assert_eq!(ids[0], known[0]);
    let all: HashSet<ChunkId> = ids.into_iter().chain(nodes).collect();
    assert!(all.iter().all(|id| live.contains(id)));
    world.store().pin_into(None);
    let later = world.commit(true, &[noise(9, 5_000)]);
    assert!(!live.contains(&later[0]));
    let mut batch = world.store().begin(true).unwrap();
    assert!(
        world
            .store()
            .put(&mut batch, PutKind::Data, &[])
            .unwrap()
            .is_empty()
    );
}

#[test]
fn the_reserve_is_made_once_and_given_back() {
    let mut world = World::new();
    let len = |world: &World| {
        let files = world.all_files().into_iter();
        let reserve = files.filter(|(path, _)| path.ends_with("reserve"));
        reserve.map(|(_, bytes)| bytes.len()).sum::<usize>()
    };
    world.store().hold_reserve().unwrap();
    assert_eq!(len(&world), 4 << 20);
    world.store().hold_reserve().unwrap();
    assert!(world.store().release_reserve().unwrap());
    assert!(!world.store().release_reserve().unwrap());
    assert_eq!(len(&world), 0);
    world.reopen_read_only();
    world.store().hold_reserve().unwrap();
    assert_eq!(len(&world), 0);
}
