//! An allocator that measures: every allocation of Rust code is seen, one that is too large ends the process at once,
//! and [`within`] holds a piece of work to a bound (I10). Memory of C code (zstd) is not seen.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of one allocation, and of all together, that nothing may exceed.
const SINGLE_LEN_MAX: usize = 64 << 20;
const LIVE_LEN_MAX: usize = 512 << 20;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, metered.
struct Meter;

#[global_allocator]
static METER: Meter = Meter;

fn count(len: usize) {
    let live = LIVE.fetch_add(len, Ordering::Relaxed) + len;
    PEAK.fetch_max(live, Ordering::Relaxed);
    if len > SINGLE_LEN_MAX || live > LIVE_LEN_MAX {
        // The message needs memory itself.
        LIVE.store(0, Ordering::Relaxed);
        eprintln!("an allocation of {len} bytes, {live} in all, is beyond the bound");
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
        std::process::abort();
    }
}

fn discount(len: usize) {
    let less = |live: usize| Some(live.saturating_sub(len));
    let _ = LIVE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        discount(layout.size());
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        count(new);
        discount(layout.size());
        unsafe { System.realloc(at, layout, new) }
    }
}

/// Runs `work`, which may take `len_max` bytes at its peak.
///
/// # Panics
/// If it takes more.
pub fn within<T>(len_max: usize, work: impl FnOnce() -> T) -> T {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let done = work();
    let taken = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    assert!(
        taken <= len_max,
        "{taken} bytes were allocated, {len_max} were allowed"
    );
    done
}
