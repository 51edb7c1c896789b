//! An opened GPU: the one stream that all its work is in, and the pool that its memory comes from.

use std::sync::Arc;

use candle_core::cuda::cudarc::driver::result::{self, DriverError};
use candle_core::cuda::cudarc::driver::sys::{
    self, CUevent_flags, CUmemPool_attribute, CUmemoryPool,
};
use candle_core::cuda::cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use candle_core::{Device, Error};

/// Opens GPU `number`, which [`super::gpu::judge`] said can be used.
///
/// # Errors
/// When the driver refuses it.
pub(super) fn open(number: usize) -> Result<Device, Error> {
    let device = Device::new_cuda_with_stream(number)?;
    if let Device::Cuda(gpu) = &device {
        // SAFETY: all work is in the device's one stream, where nothing is used before it is made or after it is freed.
        unsafe { gpu.disable_event_tracking() };
    }
    if let Some(pool) = Pool::of(&device) {
        // What is freed stays in the pool: a step allocates what the one before it freed.
        let keep =
            |pool: Pool| pool.set(CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX);
        pool.and_then(keep).map_err(device_error)?;
    }
    Ok(device)
}

/// An error of the driver, for those who hear of candle's.
pub(super) fn device_error(error: DriverError) -> Error {
    Error::Msg(format!("the GPU's driver: {error}")).bt()
}

/// The stream that an opened GPU's work is in.
#[derive(Clone, Debug)]
pub struct Stream(pub(super) Arc<CudaStream>);

impl Stream {
    /// None for the CPU.
    pub(super) fn of(device: &Device) -> Option<Self> {
        match device {
            Device::Cuda(gpu) => Some(Self(gpu.cuda_stream())),
            _ => None,
        }
    }

    /// Gives back the memory that no graph has any more.
    pub(super) fn trim_graph_memory(&self) -> Result<(), DriverError> {
        let context = self.0.context();
        context.synchronize()?;
        // SAFETY: the device is the context's.
        unsafe { sys::cuDeviceGraphMemTrim(context.cu_device()) }.result()
    }

    /// An event behind all work so far.
    pub(super) fn event(&self) -> Result<CudaEvent, DriverError> {
        self.0.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
    }
}

/// The pool that an opened GPU's memory comes from.
#[derive(Clone, Debug)]
pub struct Pool {
    context: Arc<CudaContext>,
    pool: CUmemoryPool,
}

impl Pool {
    /// None for the CPU.
    pub(super) fn of(device: &Device) -> Option<Result<Self, DriverError>> {
        let Stream(stream) = Stream::of(device)?;
        let context = Arc::clone(stream.context());
        // SAFETY: the device is the context's.
        let pool = unsafe { result::device::get_default_mem_pool(context.cu_device()) };
        Some(pool.map(|pool| Self { context, pool }))
    }

    /// Bytes in use.
    pub(super) fn live(&self) -> Result<u64, DriverError> {
        self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
    }

    /// The most bytes in use since the last [`Pool::reset_peak`].
    pub(super) fn peak(&self) -> Result<u64, DriverError> {
        self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
    }

    /// Starts a new peak.
    pub(super) fn reset_peak(&self) -> Result<(), DriverError> {
        self.set(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)
    }

    fn get(&self, what: CUmemPool_attribute) -> Result<u64, DriverError> {
        // What was given back in the stream is given back for good once the stream is there.
        self.context.synchronize()?;
        let mut value = 0_u64;
        // SAFETY: these attributes are u64.
        unsafe { result::mem_pool::get_attribute(self.pool, what, (&raw mut value).cast()) }?;
        Ok(value)
    }

    fn set(&self, what: CUmemPool_attribute, mut value: u64) -> Result<(), DriverError> {
        self.context.synchronize()?;
        // SAFETY: these attributes are u64.
        unsafe { result::mem_pool::set_attribute(self.pool, what, (&raw mut value).cast()) }
    }
}

// SAFETY: the pool is the device's own; the driver's functions on it may be called from any thread.
unsafe impl Send for Pool {}
