//! Losses on a GPU. Labels are not looked at: that they are classes was checked as the data was read.

use candle_core::{DType, Result, Tensor};

use crate::ops::cuda::{
    address_as, addresses_as, device_of, empty, launch, one_block, operands, pointer, sums,
};
use crate::ops::{LossGradient, LossSettings};

pub(crate) fn cross_entropy(
    logits: &Tensor,
    labels: &Tensor,
    settings: LossSettings,
    scale: &Tensor,
) -> Result<LossGradient> {
    let (gpu, (rows, classes)) = (device_of(logits)?, logits.dims2()?);
    let gradient = empty(gpu, (rows, classes), logits.dtype())?;
    let losses = empty(gpu, rows, DType::F32)?;
    let ([x, to], suffix) = operands([logits, &gradient])?;
    let [losses_at, scale_at] = addresses_as([&losses, scale], DType::F32)?;
    let labels_at = address_as(labels, DType::U32)?;
    let (name, geometry) = (format!("cross_entropy_{suffix}"), sums(gpu, rows)?);
    let LossSettings { smoothing, micro_batches } = settings;
    let (rows, classes, parts) = (rows as u32, classes as u32, micro_batches as u32);
    launch!(
        gpu, LOSS, &name, geometry, x, labels_at, to, losses_at, rows, classes, smoothing,
        scale_at, parts
    )?;
    Ok(LossGradient { losses, gradient })
}

pub(crate) fn mean_loss(
    losses: &Tensor,
    micro_batches: usize,
    is_first: bool,
    loss: &Tensor,
) -> Result<()> {
    let (gpu, rows) = (device_of(losses)?, losses.elem_count() as u32);
    let [from, to] = addresses_as([losses, loss], DType::F32)?;
    let (parts, first) = (micro_batches as u32, u32::from(is_first));
    launch!(gpu, LOSS, "mean_loss", one_block(), from, rows, parts, first, to)
}

pub(crate) fn cross_entropy_loss(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (gpu, (rows, classes)) = (device_of(logits)?, logits.dims2()?);
    let losses = empty(gpu, rows, DType::F32)?;
    let ([x], suffix) = operands([logits])?;
    let (to, labels_at) = (address_as(&losses, DType::F32)?, address_as(labels, DType::U32)?);
    let (name, geometry) = (format!("cross_entropy_loss_{suffix}"), sums(gpu, rows)?);
    launch!(gpu, LOSS, &name, geometry, x, labels_at, to, rows as u32, classes as u32)?;
    Ok(losses)
}

pub(crate) fn squared_error(
    outputs: &Tensor,
    targets: &Tensor,
    micro_batches: usize,
    scale: &Tensor,
) -> Result<LossGradient> {
    let (gpu, (rows, each)) = (device_of(outputs)?, outputs.dims2()?);
    let gradient = empty(gpu, (rows, each), outputs.dtype())?;
    let losses = empty(gpu, rows, DType::F32)?;
    let ([y, to], suffix) = operands([outputs, &gradient])?;
    let [targets_at, losses_at, scale_at] = addresses_as([targets, &losses, scale], DType::F32)?;
    let (name, geometry) = (format!("squared_error_{suffix}"), sums(gpu, rows)?);
    let (rows, each, parts) = (rows as u32, each as u32, micro_batches as u32);
    launch!(gpu, LOSS, &name, geometry, y, targets_at, to, losses_at, rows, each, scale_at, parts)?;
    Ok(LossGradient { losses, gradient })
}

pub(crate) fn squared_error_loss(outputs: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (gpu, (rows, each)) = (device_of(outputs)?, outputs.dims2()?);
    let losses = empty(gpu, rows, DType::F32)?;
    let ([y], suffix) = operands([outputs])?;
    let [targets_at, to] = addresses_as([targets, &losses], DType::F32)?;
    let (name, geometry) = (format!("squared_error_loss_{suffix}"), sums(gpu, rows)?);
    launch!(gpu, LOSS, &name, geometry, y, targets_at, to, rows as u32, each as u32)?;
    Ok(losses)
}

/// Waits for the count.
pub(crate) fn count_correct(logits: &Tensor, labels: &Tensor) -> Result<u64> {
    let (gpu, (rows, classes)) = (device_of(logits)?, logits.dims2()?);
    let ([x], suffix) = operands([logits])?;
    let labels_at = address_as(labels, DType::U32)?;
    let correct = gpu.alloc_zeros::<u64>(1)?;
    let to = pointer(gpu, &correct);
    let (name, geometry) = (format!("count_correct_{suffix}"), sums(gpu, rows)?);
    launch!(gpu, LOSS, &name, geometry, x, labels_at, rows as u32, classes as u32, to)?;
    Ok(gpu.clone_dtoh(&correct)?.iter().sum())
}
