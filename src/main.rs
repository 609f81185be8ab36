//! The `mmhfs` program.

/// The system's allocator keeps what many threads have freed of large and small buffers in pieces that it cannot use again:
/// a first snapshot of a million files took half as much memory again.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    mmhfs::cli::main()
}
