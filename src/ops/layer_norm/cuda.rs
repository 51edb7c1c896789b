//! Layer norm and RMS norm on a GPU.

use candle_core::{DType, Result, Tensor};

use super::{LayerNormGradients, LayerNormSaved, RmsNormGradients};
use crate::ops::cuda::{address_as, blocks, device_of, empty, launch, operands, sums};

/// Rows and their length, which is not 0.
fn sizes(x: &Tensor) -> (usize, usize) {
    let width = x.dims().last().copied().unwrap_or(1);
    (x.elem_count() / width, width)
}

/// The address of an f32 tensor, or null.
fn optional(tensor: Option<&Tensor>) -> Result<u64> {
    tensor.map_or(Ok(0), |tensor| address_as(tensor, DType::F32))
}

/// The result, and 1 / √(…) of each row; the means go to `mean`.
fn forward(
    x: &Tensor,
    gamma: &Tensor,
    beta: Option<&Tensor>,
    mean: Option<&Tensor>,
    epsilon: f32,
) -> Result<(Tensor, Tensor)> {
    let (gpu, (rows, width)) = (device_of(x)?, sizes(x));
    let y = empty(gpu, x.shape(), x.dtype())?;
    let inverse = empty(gpu, rows, DType::F32)?;
    let ([from, gamma, to], suffix) = operands([x, gamma, &y])?;
    let beta = beta.map_or(Ok(0), |beta| address_as(beta, x.dtype()))?;
    let (mean, inverse_at) = (optional(mean)?, address_as(&inverse, DType::F32)?);
    if rows > 0 {
        let (name, geometry) = (format!("layer_norm_{suffix}"), sums(gpu, rows)?);
        let (rows, width) = (rows as u32, width as u32);
        launch!(
            gpu, LAYER_NORM, &name, geometry, from, gamma, beta, to, mean, inverse_at, rows, width,
            epsilon
        )?;
    }
    Ok((y, inverse))
}

pub(crate) fn layer_norm(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    epsilon: f32,
) -> Result<(Tensor, LayerNormSaved)> {
    let mean = empty(device_of(x)?, sizes(x).0, DType::F32)?;
    let (y, inverse_deviation) = forward(x, gamma, Some(beta), Some(&mean), epsilon)?;
    Ok((y, LayerNormSaved { mean, inverse_deviation }))
}

pub(crate) fn rms_norm(x: &Tensor, gamma: &Tensor, epsilon: f32) -> Result<(Tensor, Tensor)> {
    forward(x, gamma, None, None, epsilon)
}

/// The gradients of x and gamma; those of beta go to `dbeta`.
fn backward(
    dy: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    (mean, inverse): (Option<&Tensor>, &Tensor),
    dbeta: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    /// Columns and rows of threads: the kernel's own.
    const BLOCK: (u32, u32) = (32, 16);
    let (gpu, (rows, width), dtype) = (device_of(x)?, sizes(x), x.dtype());
    let (dx, dgamma) = (empty(gpu, x.shape(), dtype)?, empty(gpu, width, dtype)?);
    let ([dy, x, gamma, to, to_gamma], suffix) = operands([dy, x, gamma, &dx, &dgamma])?;
    let to_beta = dbeta.map_or(Ok(0), |dbeta| address_as(dbeta, dtype))?;
    let (mean, inverse) = (optional(mean)?, address_as(inverse, DType::F32)?);
    let (height, length) = (rows as u32, width as u32);
    if rows > 0 {
        let (name, geometry) = (format!("layer_norm_backward_{suffix}"), sums(gpu, rows)?);
        launch!(gpu, LAYER_NORM, &name, geometry, dy, x, gamma, mean, inverse, to, height, length)?;
    }
    let name = format!("layer_norm_parameters_{suffix}");
    let geometry = blocks(gpu, (width as u64).div_ceil(BLOCK.0.into()), BLOCK)?;
    launch!(
        gpu, LAYER_NORM, &name, geometry, dy, x, mean, inverse, to_gamma, to_beta, height, length
    )?;
    Ok((dx, dgamma))
}

pub(crate) fn layer_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    saved: &LayerNormSaved,
) -> Result<LayerNormGradients> {
    let beta = empty(device_of(x)?, sizes(x).1, x.dtype())?;
    let statistics = (Some(&saved.mean), &saved.inverse_deviation);
    let (input, gamma) = backward(dy, x, gamma, statistics, Some(&beta))?;
    Ok(LayerNormGradients { input, gamma, beta })
}

pub(crate) fn rms_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    inverse: &Tensor,
) -> Result<RmsNormGradients> {
    let (input, gamma) = backward(dy, x, gamma, (None, inverse), None)?;
    Ok(RmsNormGradients { input, gamma })
}
