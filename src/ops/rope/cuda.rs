//! Rotary positions on a GPU.

use candle_core::{DType, Result, Tensor};

use crate::ops::cuda::{address_as, device_of, empty, launch, operands, planes};

pub(crate) fn turn(x: &Tensor, table: &Tensor, sign: f32) -> Result<Tensor> {
    let (gpu, (n, length, all), (_, width)) = (device_of(x)?, x.dims3()?, table.dims2()?);
    let y = empty(gpu, x.shape(), x.dtype())?;
    let ([from, to], suffix) = operands([x, &y])?;
    let table = address_as(table, DType::F32)?;
    let (rows, heads) = (n * length, all / width);
    if rows * heads > 0 {
        let (name, geometry) = (format!("rope_{suffix}"), planes(gpu, rows * heads, width / 2)?);
        let [length, heads, width] = [length, heads, width].map(|size| size as u32);
        let rows = rows as u64;
        launch!(gpu, ROPE, &name, geometry, from, table, to, rows, length, heads, width, sign)?;
    }
    Ok(y)
}
