//! The `mmhfs` program.

/// The system's allocator keeps what many threads have freed of large and small buffers in pieces that it cannot use
/// again, so that a snapshot of many files exceeds the budget that its caches keep to.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    mmhfs::cli::main()
}
