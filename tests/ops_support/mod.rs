//! What the tests of the operations share: numbers from a seed, and tensors read back.
#![allow(dead_code, reason = "no test uses all of it")]

use candle_core::{DType, Device, Result, Shape, Tensor};
use mantissa::ops;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Half of f32's epsilon: the largest relative error of one rounding.
pub(crate) const UNIT: f64 = (f32::EPSILON / 2.0) as f64;

/// An f32 tensor of numbers between `low` and `high`.
pub(crate) fn uniform(
    seed: u64,
    shape: impl Into<Shape>,
    (low, high): (f32, f32),
) -> Result<Tensor> {
    let shape = shape.into();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> =
        (0..shape.elem_count()).map(|_| random.random_range(low..high)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// A tensor of `dtype` from f32 values.
pub(crate) fn tensor(values: &[f32], dtype: DType) -> Result<Tensor> {
    ops::from_f32(values, values.len(), dtype, &Device::Cpu)
}

/// The bits of every value as f32, which holds all of f16 and bf16.
pub(crate) fn bits(tensor: &Tensor) -> Result<Vec<u32>> {
    Ok(ops::to_f32(tensor)?.iter().map(|value| value.to_bits()).collect())
}

/// A tensor of whole numbers: labels, or the number of a pass.
pub(crate) fn numbers(values: &[u32]) -> Result<Tensor> {
    Tensor::new(values, &Device::Cpu)
}
