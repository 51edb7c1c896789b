//! The CUDA side against the CPU's: every operation, and whole runs. Without a GPU these tests skip, and say so; an emulated one
//! (`scripts/emulated-gpu.sh`) will do.
#![cfg(feature = "cuda")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that panics fails, and one that looked at nothing says so"
)]

mod driver;
mod ops;
mod program;
mod runs;
mod step;

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::Device;
use mantissa::device::Device as Asked;

/// The first GPU, for one test at a time: memory is measured, which all tests of a process share. None, with a word about it,
/// where there is no GPU that will do.
pub(crate) fn gpu() -> Option<(Device, MutexGuard<'static, ()>)> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    match Asked::Cuda(0).resolve() {
        Ok(choice) => Some((choice.open().unwrap(), guard)),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}
