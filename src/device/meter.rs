//! Memory on a device: on the CPU as the allocator counts it, on a GPU as its pool of memory does.

use candle_core::{Device, Result};

#[cfg(feature = "cuda")]
use super::stream::{Pool, device_error};
use crate::memory;
use crate::units::Bytes;

/// Counts live bytes from its creation until it is dropped. One at a time on a thread.
#[derive(Debug)]
pub enum Meter {
    /// The allocator's count for this thread.
    Host(memory::HostMeter),
    /// The GPU's pool, and what was live in it before.
    #[cfg(feature = "cuda")]
    Gpu(Pool, u64),
}

impl Meter {
    /// Starts counting from 0. None on the CPU where the allocator does not count: see [`memory::CountingAllocator`].
    ///
    /// # Errors
    /// When the device fails; so for all that follows.
    pub fn start(device: &Device) -> Result<Option<Self>> {
        #[cfg(feature = "cuda")]
        if let Some(pool) = Pool::of(device) {
            let pool = pool.map_err(device_error)?;
            let before = pool.live().map_err(device_error)?;
            pool.reset_peak().map_err(device_error)?;
            return Ok(Some(Self::Gpu(pool, before)));
        }
        let _ = device;
        Ok(memory::HostMeter::start().map(Self::Host))
    }

    /// Bytes allocated and not freed since the start.
    pub fn live(&self) -> Result<Bytes> {
        match self {
            Self::Host(meter) => Ok(meter.live()),
            #[cfg(feature = "cuda")]
            Self::Gpu(pool, before) => {
                Ok(Bytes(pool.live().map_err(device_error)?.saturating_sub(*before)))
            }
        }
    }

    /// The most that was live at one time since the last [`Meter::start_peak`].
    pub fn peak(&self) -> Result<Bytes> {
        match self {
            Self::Host(meter) => Ok(meter.peak()),
            #[cfg(feature = "cuda")]
            Self::Gpu(pool, before) => {
                Ok(Bytes(pool.peak().map_err(device_error)?.saturating_sub(*before)))
            }
        }
    }

    /// Starts a new peak from what is live now, which is returned.
    pub fn start_peak(&self) -> Result<Bytes> {
        match self {
            Self::Host(meter) => meter.reset_peak(),
            #[cfg(feature = "cuda")]
            Self::Gpu(pool, _) => pool.reset_peak().map_err(device_error)?,
        }
        self.live()
    }
}
