//! In place of `cuda` in a build without the feature: it knows no GPU.

use super::Gpu;
use super::gpu::{Build, Facts, GpuError};

/// What the driver says and what this program was built with: nothing.
pub(super) fn ask() -> Option<Result<(Facts, Build), GpuError>> {
    None
}

/// Opens a GPU: there is none that [`ask`] could have named.
pub(super) fn open(_number: usize) -> Result<candle_core::Device, candle_core::Error> {
    Err(candle_core::Error::NotCompiledWithCudaSupport)
}

/// What a reader of results must know of a GPU: nothing.
pub(super) fn describe(_number: usize) -> Option<Gpu> {
    None
}
