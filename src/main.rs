//! The `mantissa` command.

use std::process::ExitCode;

use mantissa::memory::{self, CountingAllocator};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> ExitCode {
    memory::keep_freed_pages();
    mantissa::cli::run(std::env::args_os())
}
