//! How long work on a device takes: on the CPU by the clock, on a GPU between two events in its stream.

use std::time::Instant;

use candle_core::{Device, Result};

#[cfg(feature = "cuda")]
use super::stream::{Stream, device_error};
use crate::units::Seconds;

/// A running clock.
#[derive(Debug)]
pub enum Stopwatch {
    /// The processor's.
    Host(Instant),
    /// An event before the work.
    #[cfg(feature = "cuda")]
    Gpu(Stream, candle_core::cuda::cudarc::driver::CudaEvent),
}

impl Stopwatch {
    /// Starts before the work that is given to the device from now on, and after all that was given to it before.
    ///
    /// # Errors
    /// When the device fails.
    pub fn start(device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(stream) = Stream::of(device) {
            let event = stream.event().map_err(device_error)?;
            return Ok(Self::Gpu(stream, event));
        }
        let _ = device;
        Ok(Self::Host(Instant::now()))
    }

    /// The time that the work since the start took. Waits for its end.
    ///
    /// # Errors
    /// When the device fails.
    pub fn stop(self) -> Result<Seconds> {
        match self {
            Self::Host(start) => Ok(Seconds(start.elapsed().as_secs_f64())),
            #[cfg(feature = "cuda")]
            Self::Gpu(stream, start) => {
                let end = stream.event().map_err(device_error)?;
                let milliseconds = start.elapsed_ms(&end).map_err(device_error)?;
                Ok(Seconds(f64::from(milliseconds) / 1e3))
            }
        }
    }
}
