//! Whole stores, changed as the input says and then opened, read, checked, restored, changed further.
#![no_main]

#[path = "../../tests/hostile/world.rs"]
mod world;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mmhfs_fuzz::within;

/// Memory that one store may take.
const MEMORY_MAX: usize = 256 << 20;

fuzz_target!(|bytes: &[u8]| {
    static READY: OnceLock<(tempfile::TempDir, world::Base)> = OnceLock::new();
    let (dir, base) = READY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let base = world::Base::new(dir.path());
        (dir, base)
    });
    within(MEMORY_MAX, || world::run(base, dir.path(), bytes));
});
