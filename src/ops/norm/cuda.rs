//! Batch norm on a GPU.

use candle_core::{DType, Result, Tensor};

use crate::ops::cuda::{
    address_as, addresses_as, device_of, empty, launch, line, operands, planes, sums,
};
use crate::ops::{BatchNormGradients, BatchNormSaved};

/// Images, channels and values of a plane, as the kernels take them.
fn sizes(x: &Tensor) -> Result<[u32; 3]> {
    let (n, c, h, w) = x.dims4()?;
    Ok([n, c, h * w].map(|size| size as u32))
}

/// An f32 tensor of one value a channel, and its address.
fn channels(x: &Tensor) -> Result<(Tensor, u64)> {
    let tensor = empty(device_of(x)?, x.dim(1)?, DType::F32)?;
    let at = address_as(&tensor, DType::F32)?;
    Ok((tensor, at))
}

pub(crate) fn batch_norm(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
) -> Result<(Tensor, BatchNormSaved, Tensor)> {
    let (gpu, [images, c, plane]) = (device_of(x)?, sizes(x)?);
    let ((mean, mean_at), (variance, variance_at)) = (channels(x)?, channels(x)?);
    let (inverse_deviation, inverse_at) = channels(x)?;
    let ([from], suffix) = operands([x])?;
    let (name, geometry) = (format!("batch_norm_statistics_{suffix}"), sums(gpu, c as usize)?);
    launch!(gpu, NORM, &name, geometry, from, mean_at, variance_at, inverse_at, images, c, plane)?;
    let y = batch_norm_inference(x, (&mean, &variance), gamma, beta)?;
    Ok((y, BatchNormSaved { mean, inverse_deviation }, variance))
}

pub(crate) fn batch_norm_inference(
    x: &Tensor,
    (mean, variance): (&Tensor, &Tensor),
    gamma: &Tensor,
    beta: &Tensor,
) -> Result<Tensor> {
    let (gpu, [images, c, plane]) = (device_of(x)?, sizes(x)?);
    let y = empty(gpu, x.shape(), x.dtype())?;
    let ([from, to, gamma, beta], suffix) = operands([x, &y, gamma, beta])?;
    let [mean, variance] = addresses_as([mean, variance], DType::F32)?;
    let name = format!("batch_norm_{suffix}");
    let geometry = planes(gpu, (images * c) as usize, plane as usize)?;
    launch!(gpu, NORM, &name, geometry, from, to, mean, variance, gamma, beta, images, c, plane)?;
    Ok(y)
}

pub(crate) fn update_running_statistics(
    (running_mean, running_variance): (&Tensor, &Tensor),
    (mean, variance): (&Tensor, &Tensor),
    (momentum, unbiased): (f32, f32),
    applied: &Tensor,
) -> Result<()> {
    let (gpu, count) = (device_of(mean)?, mean.elem_count());
    let tensors = [running_mean, running_variance, mean, variance];
    let [old_mean, old_variance, mean, variance] = addresses_as(tensors, DType::F32)?;
    let applied = address_as(applied, DType::F32)?;
    launch!(
        gpu,
        NORM,
        "running_statistics",
        line(gpu, count)?,
        old_mean,
        old_variance,
        mean,
        variance,
        count as u32,
        momentum,
        unbiased,
        applied
    )
}

pub(crate) fn batch_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    saved: &BatchNormSaved,
) -> Result<BatchNormGradients> {
    let (gpu, [images, c, plane]) = (device_of(x)?, sizes(x)?);
    let (channel_count, dtype) = (c as usize, x.dtype());
    let dx = empty(gpu, x.shape(), dtype)?;
    let (dgamma, dbeta) = (empty(gpu, channel_count, dtype)?, empty(gpu, channel_count, dtype)?);
    // Held until the kernel that reads them is launched; what frees them comes after it in the stream.
    let ((_plain, plain_at), (_weighted, weighted_at)) = (channels(x)?, channels(x)?);
    let ([dy, x, to, gamma, to_gamma, to_beta], suffix) =
        operands([dy, x, &dx, gamma, &dgamma, &dbeta])?;
    let [mean, inverse] = addresses_as([&saved.mean, &saved.inverse_deviation], DType::F32)?;
    let name = format!("batch_norm_gradient_sums_{suffix}");
    let geometry = sums(gpu, channel_count)?;
    launch!(
        gpu,
        NORM,
        &name,
        geometry,
        dy,
        x,
        mean,
        inverse,
        plain_at,
        weighted_at,
        to_gamma,
        to_beta,
        images,
        c,
        plane
    )?;
    let name = format!("batch_norm_backward_{suffix}");
    let geometry = planes(gpu, (images * c) as usize, plane as usize)?;
    launch!(
        gpu,
        NORM,
        &name,
        geometry,
        dy,
        x,
        to,
        mean,
        inverse,
        gamma,
        plain_at,
        weighted_at,
        images,
        c,
        plane
    )?;
    Ok(BatchNormGradients { input: dx, gamma: dgamma, beta: dbeta })
}

/// The sums over images and plane of each channel of dy: the bias gradient of a convolution.
pub(in crate::ops) fn channel_sums(dy: &Tensor) -> Result<Tensor> {
    let (gpu, [images, c, plane]) = (device_of(dy)?, sizes(dy)?);
    let total = empty(gpu, c as usize, dy.dtype())?;
    let ([from, to], suffix) = operands([dy, &total])?;
    let (name, geometry) = (format!("channel_sums_{suffix}"), sums(gpu, c as usize)?);
    launch!(gpu, NORM, &name, geometry, from, to, images, c, plane)?;
    Ok(total)
}
