//! The ringcast binary; see `ringcast --help`.

use std::process::ExitCode;

/// Small per-thread heaps and cheap frees within a thread: one thread per core allocates for itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ringcast::cli::main()
}
