//! The `mmhfs` program.

fn main() -> std::process::ExitCode {
    mmhfs::cli::main()
}
