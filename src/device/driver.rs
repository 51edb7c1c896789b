//! NVIDIA's driver library, `libcuda`, loaded when it is asked for and not when the program starts.
//!
//! candle links it as a library that must be there at the start: without a driver the program would not even print its
//! help. So the build script writes a function of the same name for each that CUDA's header declares. It jumps to where
//! the table points: at first to an answer that says there is no driver, and to the driver's own after [`load`].

use std::error::Error as _;
use std::ffi::{CStr, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use libloading::Library;

// The functions' names.
include!(concat!(env!("OUT_DIR"), "/driver.rs"));

core::arch::global_asm!(include_str!(concat!(env!("OUT_DIR"), "/driver.s")), table = sym TABLE);

/// Where each function is, in the order of [`NAMES`].
static TABLE: [AtomicPtr<c_void>; NAMES.len()] =
    [const { AtomicPtr::new(no_driver as *mut c_void) }; NAMES.len()];

/// The code of `CUDA_ERROR_STUB_LIBRARY`: a library without a driver behind it.
const STUB_LIBRARY: u32 = 34;

extern "C" fn no_driver() -> u32 {
    STUB_LIBRARY
}

/// Loads the driver, once. No function of CUDA works before.
///
/// # Errors
/// Why there is none.
pub(super) fn load() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(fill).clone()
}

fn fill() -> Result<(), String> {
    // SAFETY: what the driver does as it is loaded is what it does in every CUDA program.
    let library = unsafe { Library::new("libcuda.so.1") }.map_err(|error| {
        // The error itself says no more than that it failed.
        error.source().map_or_else(|| error.to_string(), ToString::to_string)
    })?;
    for (name, place) in NAMES.iter().zip(&TABLE) {
        // SAFETY: an address is read and not followed. An older driver lacks some, and those keep their answer.
        if let Ok(address) = unsafe { library.get::<*mut c_void>(*name) } {
            place.store(*address, Ordering::Release);
        }
    }
    // The table points into it from now on.
    std::mem::forget(library);
    Ok(())
}
