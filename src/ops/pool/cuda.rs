//! Pooling on a GPU.

use candle_core::{DType, Result, Tensor};

use crate::ops::cuda::{address_as, device_of, empty, launch, operands, planes, sums};

/// A tensor of the shape `to` of which a kernel computes each plane from the plane of x, of `plane` = height × width values.
fn by_planes(
    kernel: &str,
    x: &Tensor,
    to: [usize; 4],
    [height, width, side]: [usize; 3],
) -> Result<Tensor> {
    let gpu = device_of(x)?;
    let y = empty(gpu, to.to_vec(), x.dtype())?;
    let ([from, target], suffix) = operands([x, &y])?;
    let count = to[0] * to[1];
    let (name, geometry) = (format!("{kernel}_{suffix}"), planes(gpu, count, to[2] * to[3])?);
    let [height, width, side] = [height, width, side].map(|size| size as u32);
    launch!(gpu, POOL, &name, geometry, from, target, count as u64, height, width, side)?;
    Ok(y)
}

pub(crate) fn max_pool2d(x: &Tensor, to: [usize; 4], side: usize) -> Result<(Tensor, Tensor)> {
    let (gpu, (_, _, height, width)) = (device_of(x)?, x.dims4()?);
    let y = empty(gpu, to.to_vec(), x.dtype())?;
    let places = empty(gpu, to.to_vec(), DType::U8)?;
    let ([from, target], suffix) = operands([x, &y])?;
    let at = address_as(&places, DType::U8)?;
    let count = to[0] * to[1];
    let (name, geometry) = (format!("max_pool2d_{suffix}"), planes(gpu, count, to[2] * to[3])?);
    let [height, width, side] = [height, width, side].map(|size| size as u32);
    launch!(gpu, POOL, &name, geometry, from, target, at, count as u64, height, width, side)?;
    Ok((y, places))
}

pub(crate) fn max_pool2d_backward(
    dy: &Tensor,
    places: &Tensor,
    side: usize,
    shape: [usize; 4],
) -> Result<Tensor> {
    let gpu = device_of(dy)?;
    let dx = empty(gpu, shape.to_vec(), dy.dtype())?;
    let ([from, target], suffix) = operands([dy, &dx])?;
    let at = address_as(places, DType::U8)?;
    let [n, c, height, width] = shape;
    let name = format!("max_pool2d_backward_{suffix}");
    let geometry = planes(gpu, n * c, height * width)?;
    let [height, width, side] = [height, width, side].map(|size| size as u32);
    let count = (n * c) as u64;
    launch!(gpu, POOL, &name, geometry, from, at, target, count, height, width, side)?;
    Ok(dx)
}

pub(crate) fn avg_pool2d(x: &Tensor, to: [usize; 4], side: usize) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    by_planes("avg_pool2d", x, to, [height, width, side])
}

pub(crate) fn avg_pool2d_backward(dy: &Tensor, side: usize, shape: [usize; 4]) -> Result<Tensor> {
    by_planes("avg_pool2d_backward", dy, shape, [shape[2], shape[3], side])
}

pub(crate) fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    let (gpu, (n, c, height, width)) = (device_of(x)?, x.dims4()?);
    let y = empty(gpu, (n, c), x.dtype())?;
    let ([from, target], suffix) = operands([x, &y])?;
    let (name, geometry) = (format!("global_avg_pool_{suffix}"), sums(gpu, n * c)?);
    let (count, plane) = ((n * c) as u64, (height * width) as u32);
    launch!(gpu, POOL, &name, geometry, from, target, count, plane)?;
    Ok(y)
}

pub(crate) fn global_avg_pool_backward(dy: &Tensor, shape: [usize; 4]) -> Result<Tensor> {
    let gpu = device_of(dy)?;
    let dx = empty(gpu, shape.to_vec(), dy.dtype())?;
    let ([from, target], suffix) = operands([dy, &dx])?;
    let (count, plane) = (shape[0] * shape[1], shape[2] * shape[3]);
    let name = format!("global_avg_pool_backward_{suffix}");
    let geometry = planes(gpu, count, plane)?;
    launch!(gpu, POOL, &name, geometry, from, target, count as u64, plane as u32)?;
    Ok(dx)
}
