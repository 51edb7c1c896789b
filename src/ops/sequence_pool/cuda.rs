//! Pooling of sequences on a GPU.

use candle_core::{DType, Result, Tensor};

use crate::ops::cuda::{address_as, device_of, empty, launch, operands, planes};

/// The address of the lengths, or null.
fn address_of(lengths: Option<&Tensor>) -> Result<u64> {
    lengths.map_or(Ok(0), |lengths| address_as(lengths, DType::U32))
}

pub(crate) fn mean_pool(x: &Tensor, lengths: Option<&Tensor>) -> Result<Tensor> {
    let (gpu, (n, positions, width)) = (device_of(x)?, x.dims3()?);
    let y = empty(gpu, (n, width), x.dtype())?;
    let ([from, to], suffix) = operands([x, &y])?;
    let lengths = address_of(lengths)?;
    if y.elem_count() > 0 {
        let (name, geometry) = (format!("mean_pool_{suffix}"), planes(gpu, n, width)?);
        let [n, positions, width] = [n, positions, width].map(|size| size as u32);
        launch!(gpu, SEQUENCE_POOL, &name, geometry, from, lengths, to, n, positions, width)?;
    }
    Ok(y)
}

pub(crate) fn mean_pool_backward(
    dy: &Tensor,
    lengths: Option<&Tensor>,
    positions: usize,
) -> Result<Tensor> {
    let (gpu, (n, width)) = (device_of(dy)?, dy.dims2()?);
    let dx = empty(gpu, (n, positions, width), dy.dtype())?;
    let ([from, to], suffix) = operands([dy, &dx])?;
    let lengths = address_of(lengths)?;
    if dx.elem_count() > 0 {
        let name = format!("mean_pool_backward_{suffix}");
        let geometry = planes(gpu, n * positions, width)?;
        let [n, positions, width] = [n, positions, width].map(|size| size as u32);
        launch!(gpu, SEQUENCE_POOL, &name, geometry, from, lengths, to, n, positions, width)?;
    }
    Ok(dx)
}

pub(crate) fn first_token(x: &Tensor) -> Result<Tensor> {
    let (gpu, (n, positions, width)) = (device_of(x)?, x.dims3()?);
    let y = empty(gpu, (n, width), x.dtype())?;
    let ([from, to], suffix) = operands([x, &y])?;
    if y.elem_count() > 0 {
        let (name, geometry) = (format!("first_token_{suffix}"), planes(gpu, n, width)?);
        let [n, positions, width] = [n, positions, width].map(|size| size as u32);
        launch!(gpu, SEQUENCE_POOL, &name, geometry, from, to, n, positions, width)?;
    }
    Ok(y)
}

pub(crate) fn first_token_backward(dy: &Tensor, positions: usize) -> Result<Tensor> {
    let (gpu, (n, width)) = (device_of(dy)?, dy.dims2()?);
    let dx = empty(gpu, (n, positions, width), dy.dtype())?;
    let ([from, to], suffix) = operands([dy, &dx])?;
    if dx.elem_count() > 0 {
        let name = format!("first_token_backward_{suffix}");
        let geometry = planes(gpu, n * positions, width)?;
        let [n, positions, width] = [n, positions, width].map(|size| size as u32);
        launch!(gpu, SEQUENCE_POOL, &name, geometry, from, to, n, positions, width)?;
    }
    Ok(dx)
}
