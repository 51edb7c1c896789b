//! The `mantissa` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mantissa::cli::run(std::env::args_os())
}
