//! Embeddings on a GPU.

use candle_core::{DType, Result, Tensor};

use super::EmbeddingTables;
use crate::ops::cuda::{
    address, address_as, blocks, device_of, empty, launch, operands, planes, sums,
};

/// The address of a tensor of the type, or null.
fn optional(tensor: Option<&Tensor>, dtype: DType) -> Result<u64> {
    tensor.map_or(Ok(0), |tensor| address_as(tensor, dtype))
}

pub(crate) fn embedding(ids: &Tensor, tables: &EmbeddingTables<'_>) -> Result<Tensor> {
    let (gpu, (n, length), (_, width)) = (device_of(ids)?, ids.dims2()?, tables.tokens.dims2()?);
    let dtype = tables.tokens.dtype();
    let y = empty(gpu, (n, length, width), dtype)?;
    let ([tokens, to], suffix) = operands([tables.tokens, &y])?;
    let ids_at = address_as(ids, DType::U32)?;
    let positions = optional(tables.positions, dtype)?;
    let (kinds, types) = match tables.types {
        Some((kinds, types)) => (address_as(kinds, DType::U32)?, address_as(types, dtype)?),
        None => (0, 0),
    };
    if y.elem_count() > 0 {
        let (name, geometry) = (format!("embedding_{suffix}"), planes(gpu, n * length, width)?);
        let (count, length, width) = ((n * length) as u64, length as u32, width as u32);
        launch!(
            gpu, EMBEDDING, &name, geometry, ids_at, kinds, tokens, positions, types, to, count,
            length, width
        )?;
    }
    Ok(y)
}

pub(crate) fn embedding_backward(dy: &Tensor, ids: &Tensor, rows: usize) -> Result<Tensor> {
    /// Columns and rows of threads: the kernel's own.
    const BLOCK: (u32, u32) = (32, 16);
    let (gpu, (n, length, width)) = (device_of(dy)?, dy.dims3()?);
    let table = empty(gpu, (rows, width), dy.dtype())?;
    let firsts = empty(gpu, rows, DType::U32)?;
    let ([from, to], suffix) = operands([dy, &table])?;
    let (ids_at, firsts_at) = (address_as(ids, DType::U32)?, address(&firsts)?);
    if table.elem_count() > 0 {
        let (count, height) = ((n * length) as u32, rows as u32);
        let geometry = sums(gpu, rows)?;
        launch!(gpu, EMBEDDING, "embedding_firsts", geometry, ids_at, firsts_at, count, height)?;
        let name = format!("embedding_backward_{suffix}");
        let tasks = rows as u64 * (width as u64).div_ceil(BLOCK.0.into());
        let (geometry, width) = (blocks(gpu, tasks, BLOCK)?, width as u32);
        launch!(
            gpu, EMBEDDING, &name, geometry, from, ids_at, firsts_at, to, count, height, width
        )?;
    }
    Ok(table)
}

pub(crate) fn position_backward(dy: &Tensor, rows: usize) -> Result<Tensor> {
    let (gpu, (n, length, width)) = (device_of(dy)?, dy.dims3()?);
    let table = empty(gpu, (rows, width), dy.dtype())?;
    let ([from, to], suffix) = operands([dy, &table])?;
    if table.elem_count() > 0 {
        let name = format!("position_backward_{suffix}");
        let geometry = planes(gpu, rows, width)?;
        let [n, length, rows, width] = [n, length, rows, width].map(|size| size as u32);
        launch!(gpu, EMBEDDING, &name, geometry, from, to, n, length, rows, width)?;
    }
    Ok(table)
}
