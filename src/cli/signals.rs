//! Signals that ask the program to stop: it does so at the end of a step, and leaves what it has.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Failure;

/// Becomes true when somebody asks this process to stop, by SIGTERM, SIGUSR2, or SIGINT, as Ctrl-C does; a second SIGINT ends it at
/// once.
///
/// # Errors
/// When the system refuses to tell.
#[cfg(unix)]
pub(super) fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR2};
    use signal_hook::flag;

    /// What a shell reports of a process that SIGINT ended.
    const KILLED: i32 = 128 + SIGINT;
    let stop = Arc::new(AtomicBool::new(false));
    let refused = |error| Failure::Machine(format!("cannot listen for signals: {error}"));
    flag::register_conditional_shutdown(SIGINT, KILLED, Arc::clone(&stop)).map_err(refused)?;
    for signal in [SIGINT, SIGTERM, SIGUSR2] {
        flag::register(signal, Arc::clone(&stop)).map_err(refused)?;
    }
    Ok(stop)
}

/// Never becomes true: there are no such signals.
#[cfg(not(unix))]
pub(super) fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    Ok(Arc::new(AtomicBool::new(false)))
}
