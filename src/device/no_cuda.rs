//! In place of `cuda` in a build without the feature: it knows no GPU.

use super::gpu::{Build, Facts, GpuError};
use crate::record::Gpu;

/// What the driver says and what this program was built with: nothing.
pub(super) fn ask() -> Option<Result<(Facts, Build), GpuError>> {
    None
}

/// What a reader of results must know of a GPU: nothing.
pub(super) fn describe(_number: usize) -> Option<Gpu> {
    None
}
