//! Each key that parses is made of its parts again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::format::keys;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ino) = keys::parse_inode(bytes) {
        assert_eq!(keys::inode(ino), bytes);
    }
    if let Ok((dir, slot)) = keys::parse_dirent(bytes) {
        assert_eq!(keys::dirent(dir, slot), bytes);
    }
    if let Ok((ino, dir, slot)) = keys::parse_link(bytes) {
        assert_eq!(keys::link(ino, dir, slot), bytes);
    }
    if let Ok((ino, off)) = keys::parse_extent(bytes) {
        assert_eq!(keys::extent(ino, off), bytes);
    }
    if let Ok((ino, name)) = keys::parse_xattr(bytes) {
        assert_eq!(keys::xattr(ino, name), bytes);
    }
    if let Ok(id) = keys::parse_chunk(bytes) {
        assert_eq!(keys::chunk(&id), bytes);
    }
    if let Ok(pack) = keys::parse_pack(bytes) {
        assert_eq!(keys::pack(pack), bytes);
    }
    if let Ok(name) = keys::parse_snapshot(bytes) {
        assert_eq!(keys::snapshot(name), bytes);
    }
    if let Ok(name) = keys::parse_counter(bytes) {
        assert_eq!(keys::counter(name), bytes);
    }
    if let Ok((generation, key)) = keys::parse_dirty(bytes) {
        assert_eq!(keys::dirty(generation, key), bytes);
    }
});
