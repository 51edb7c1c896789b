//! Element-wise operations on a GPU: one launch an operation.

use candle_core::{DType, Result, Tensor};

use crate::ops::RandomStream;
use crate::ops::cuda::{
    address, address_as, device_of, empty, launch, line, one_block, operands, suffix,
};
use crate::ops::philox::Keep;

/// `y = kernel(x)`.
fn map(kernel: &str, x: &Tensor) -> Result<Tensor> {
    let gpu = device_of(x)?;
    let y = empty(gpu, x.shape(), x.dtype())?;
    let ([from, to], suffix) = operands([x, &y])?;
    let (name, count) = (format!("{kernel}_{suffix}"), x.elem_count());
    if count > 0 {
        launch!(gpu, POINTWISE, &name, line(gpu, count)?, from, to, count as u64)?;
    }
    Ok(y)
}

/// `y = kernel(a, b)`.
fn zip(kernel: &str, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let gpu = device_of(a)?;
    let y = empty(gpu, a.shape(), a.dtype())?;
    let ([left, right, to], suffix) = operands([a, b, &y])?;
    let (name, count) = (format!("{kernel}_{suffix}"), a.elem_count());
    if count > 0 {
        launch!(gpu, POINTWISE, &name, line(gpu, count)?, left, right, to, count as u64)?;
    }
    Ok(y)
}

pub(crate) fn relu(x: &Tensor) -> Result<Tensor> {
    map("relu", x)
}

pub(crate) fn relu_backward(dy: &Tensor, y: &Tensor) -> Result<Tensor> {
    zip("relu_backward", dy, y)
}

pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    map("gelu", x)
}

pub(crate) fn gelu_backward(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    zip("gelu_backward", dy, x)
}

pub(crate) fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    map("gelu_tanh", x)
}

pub(crate) fn gelu_tanh_backward(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    zip("gelu_tanh_backward", dy, x)
}

pub(crate) fn tanh(x: &Tensor) -> Result<Tensor> {
    map("tanh", x)
}

pub(crate) fn tanh_backward(dy: &Tensor, y: &Tensor) -> Result<Tensor> {
    zip("tanh_backward", dy, y)
}

pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    zip("add", a, b)
}

pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    zip("swiglu", gate, up)
}

pub(crate) fn swiglu_backward(dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    let gpu = device_of(dy)?;
    let (dgate, dup) = (empty(gpu, dy.shape(), dy.dtype())?, empty(gpu, dy.shape(), dy.dtype())?);
    let ([from, gate, up, to_gate, to_up], suffix) = operands([dy, gate, up, &dgate, &dup])?;
    let (name, count) = (format!("swiglu_backward_{suffix}"), dy.elem_count());
    if count > 0 {
        let (geometry, count) = (line(gpu, count)?, count as u64);
        launch!(gpu, POINTWISE, &name, geometry, from, gate, up, to_gate, to_up, count)?;
    }
    Ok((dgate, dup))
}

pub(crate) fn dropout(x: &Tensor, keep: Keep, random: &RandomStream) -> Result<Tensor> {
    let gpu = device_of(x)?;
    let y = empty(gpu, x.shape(), x.dtype())?;
    let ([from, to], suffix) = operands([x, &y])?;
    let pass = address_as(&random.pass, DType::U32)?;
    let (name, count) = (format!("dropout_{suffix}"), x.elem_count());
    if count > 0 {
        launch!(
            gpu,
            POINTWISE,
            &name,
            line(gpu, count)?,
            from,
            to,
            count as u64,
            keep.from,
            keep.scale,
            random.seed,
            random.stream,
            pass
        )?;
    }
    Ok(y)
}

pub(crate) fn next_pass(pass: &Tensor) -> Result<()> {
    let at = address_as(pass, DType::U32)?;
    launch!(device_of(pass)?, POINTWISE, "next_pass", one_block(), at)
}

pub(crate) fn accumulate(sum: &Tensor, gradient: &Tensor) -> Result<()> {
    let gpu = device_of(sum)?;
    let (total, more) = (address_as(sum, DType::F32)?, address(gradient)?);
    let name = format!("accumulate_{}", suffix(gradient.dtype())?);
    let count = sum.elem_count();
    if count > 0 {
        launch!(gpu, POINTWISE, &name, line(gpu, count)?, total, more, count as u64)?;
    }
    Ok(())
}
