//! Batch norm over N, H and W (Ioffe and Szegedy 2015), with statistics in f32 whatever the tensors' type.

#[cfg(feature = "cuda")]
pub(super) mod cuda;

use candle_core::{Device, Result, Tensor, WithDType as _};

use super::element::{Element, by_dtype};
use super::host::{Unwritten, build, edit, expect_shape, first, view};
use super::parallel::{BLOCK, for_each, map_indices, sum, sum_of, vectorized};
use super::pointwise::Then;

/// Added to the variance.
const EPSILON: f32 = 1e-5;

/// Share of the newest batch in the running statistics.
const MOMENTUM: f32 = 0.1;

/// What the backward pass needs beside x and gamma.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, BatchNormSaved, Then};
///
/// let x = Tensor::new(&[1.0_f32, 3.0], &Device::Cpu)?.reshape((2, 1, 1, 1))?;
/// let (gamma, beta) = (Tensor::new(&[1.0_f32], &Device::Cpu)?, Tensor::new(&[0.0_f32], &Device::Cpu)?);
/// let (_, BatchNormSaved { mean, inverse_deviation }, _) = ops::batch_norm(&x, &gamma, &beta, Then::Nothing)?;
/// assert_eq!(ops::to_f32(&mean)?, [2.0]);
/// assert!((ops::to_f32(&inverse_deviation)?[0] - 1.0).abs() < 1e-5, "the variance is 1");
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BatchNormSaved {
    /// Mean of each channel, f32.
    pub mean: Tensor,
    /// 1 / √(variance + 1e-5) of each channel, f32, with the variance over N H W, not one less.
    pub inverse_deviation: Tensor,
}

/// Gradients of [`batch_norm`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops::{self, BatchNormGradients, Then};
///
/// let x = Tensor::new(&[1.0_f32, 3.0], &Device::Cpu)?.reshape((2, 1, 1, 1))?;
/// let (gamma, beta) = (Tensor::new(&[1.0_f32], &Device::Cpu)?, Tensor::new(&[0.0_f32], &Device::Cpu)?);
/// let (_, saved, _) = ops::batch_norm(&x, &gamma, &beta, Then::Nothing)?;
/// let BatchNormGradients { beta, .. } = ops::batch_norm_backward(&x, &x, &gamma, &saved, None)?;
/// assert_eq!(ops::to_f32(&beta)?, [1.0 + 3.0], "the sum of dy");
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BatchNormGradients {
    /// With respect to x.
    pub input: Tensor,
    /// With respect to gamma, C.
    pub gamma: Tensor,
    /// With respect to beta, C.
    pub beta: Tensor,
}

/// The planes of one channel of an N × C × plane tensor, in order of the images.
fn planes<T>(x: &[T], c: usize, plane: usize, channel: usize) -> impl Iterator<Item = &[T]> {
    x.chunks(plane).skip(channel).step_by(c)
}

/// Mean and variance of one channel, in two passes.
fn statistics<T: Element>(x: &[T], c: usize, plane: usize, channel: usize) -> (f32, f32) {
    let count = (x.len() / c) as f32;
    let blocks = || planes(x, c, plane, channel).flat_map(|plane| plane.chunks(BLOCK));
    vectorized!({
        let mut wide = [0.0; BLOCK];
        let mut total = 0.0;
        for block in blocks() {
            total += sum(T::widened(block, &mut wide));
        }
        let mean = total / count;
        let mut squares = 0.0;
        for block in blocks() {
            squares += sum_of(T::widened(block, &mut wide), |v| (v - mean) * (v - mean));
        }
        (mean, squares / count)
    })
}

/// # Errors
/// When a tensor does not have one value for each of `c` channels.
fn expect_parameters(tensors: &[&Tensor], c: usize) -> Result<()> {
    tensors
        .iter()
        .try_for_each(|tensor| expect_shape("what a batch norm has a channel", tensor, &[c]))
}

/// A tensor of one f32 a channel.
fn channels(values: Vec<f32>) -> Result<Tensor> {
    let count = values.len();
    Tensor::from_vec(values, count, &Device::Cpu)
}

/// `y = (x − mean) / √(variance + ε) · gamma + beta`, and `then`, with the batch's own statistics, biased variance, which are returned
/// together with what backward needs. x: N × C × H × W; gamma, beta: C.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, Then};
///
/// // The mean is 2 and the variance 1: x̂ is −1 and 1 but for ε.
/// let x = Tensor::new(&[1.0_f32, 3.0], &Device::Cpu)?.reshape((2, 1, 1, 1))?;
/// let (gamma, beta) = (Tensor::new(&[2.0_f32], &Device::Cpu)?, Tensor::new(&[10.0_f32], &Device::Cpu)?);
/// let (y, saved, variance) = ops::batch_norm(&x, &gamma, &beta, Then::Nothing)?;
/// let y = ops::to_f32(&y)?;
/// assert!((y[0] - 8.0).abs() < 1e-4 && (y[1] - 12.0).abs() < 1e-4);
/// assert_eq!((ops::to_f32(&saved.mean)?, ops::to_f32(&variance)?), (vec![2.0], vec![1.0]));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When a tensor is not a contiguous tensor of these shapes and one type.
pub fn batch_norm(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    then: Then,
) -> Result<(Tensor, BatchNormSaved, Tensor)> {
    let (_, c, h, w) = x.dims4()?;
    expect_parameters(&[gamma, beta], c)?;
    on_gpu!(x => {
        let (y, saved, variance) = cuda::batch_norm(x, gamma, beta)?;
        Ok((then.after(y)?, saved, variance))
    });
    by_dtype!(x.dtype(), T => {
        let values = view::<T>(x)?;
        let statistics: Vec<(f32, f32)> =
            map_indices(c, |channel| statistics::<T>(&values, c, h * w, channel));
        let (mean, variance): (Vec<f32>, Vec<f32>) = statistics.into_iter().unzip();
        let inverse = variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
        let (mean, variance) = (channels(mean)?, channels(variance)?);
        let y = batch_norm_inference(x, (&mean, &variance), (gamma, beta), then)?;
        Ok((y, BatchNormSaved { mean, inverse_deviation: channels(inverse)? }, variance))
    })
}

/// Takes a batch's mean and biased variance into running ones, in place: r ← r + 0.1 (new − r), as PyTorch's default, with the
/// unbiased variance of `count` values a channel. Does nothing where `applied`, one value of 32 bits, is 0: the batch is then of a
/// step that was rejected ([`StepEnd::applied`]).
///
/// [`StepEnd::applied`]: crate::ops::StepEnd::applied
///
/// # Errors
/// When a tensor is not contiguous, not f32, or they differ in shape.
#[doc(hidden)] // for training and this crate's tests
pub fn update_running_statistics(
    running: (&Tensor, &Tensor),
    batch: (&Tensor, &Tensor),
    count: usize,
    applied: &Tensor,
) -> Result<()> {
    let c = running.0.dims1()?;
    let unbiased = count as f32 / (count.max(2) - 1) as f32;
    for tensor in [running.1, batch.0, batch.1] {
        expect_shape("a batch norm's statistics", tensor, &[c])?;
    }
    expect_shape("whether the update was made", applied, &[1])?;
    on_gpu!(batch.0 => cuda::update_running_statistics(running, batch, (MOMENTUM, unbiased), applied));
    if first::<f32>(applied)? == 0.0 {
        return Ok(());
    }
    for (running, new, factor) in [(running.0, batch.0, 1.0), (running.1, batch.1, unbiased)] {
        let new = view::<f32>(new)?;
        edit::<f32>(running, |running| {
            for (running, new) in running.iter_mut().zip(&*new) {
                *running += MOMENTUM * (new * factor - *running);
            }
        })?;
    }
    Ok(())
}

/// [`batch_norm`] with given statistics: `y = (x − mean) · factor + beta` a channel, and `then`, rounded once. mean, variance: C,
/// f32.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, Then};
///
/// let one = |value: f32| Tensor::new(&[value], &Device::Cpu);
/// let x = one(6.0)?.reshape((1, 1, 1, 1))?;
/// let (mean, variance, gamma, beta) = (one(2.0)?, one(4.0)?, one(3.0)?, one(1.0)?);
/// let y = ops::batch_norm_inference(&x, (&mean, &variance), (&gamma, &beta), Then::Nothing)?;
/// assert!((ops::to_f32(&y)?[0] - 7.0).abs() < 1e-4, "(6 − 2) / 2 · 3 + 1");
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`batch_norm`].
pub fn batch_norm_inference(
    x: &Tensor,
    (mean, variance): (&Tensor, &Tensor),
    (gamma, beta): (&Tensor, &Tensor),
    then: Then,
) -> Result<Tensor> {
    let (_, c, h, w) = x.dims4()?;
    expect_parameters(&[gamma, beta, mean, variance], c)?;
    on_gpu!(x => then.after(cuda::batch_norm_inference(x, (mean, variance), gamma, beta)?));
    let (gamma, beta) = (super::to_f32(gamma)?, super::to_f32(beta)?);
    let (mean, variance) = (view::<f32>(mean)?, view::<f32>(variance)?);
    by_dtype!(x.dtype(), T => {
        let source = view::<T>(x)?;
        build::<T>(x.shape(), |y| {
            let tasks = y.chunks(h * w).zip(source.chunks(h * w)).collect();
            for_each(tasks, |plane, (y, x): (Unwritten<'_, T>, &[T])| {
                let channel = plane % c;
                let factor = gamma[channel] / (variance[channel] + EPSILON).sqrt();
                let (mean, shift) = (mean[channel], beta[channel]);
                vectorized!({
                    let (mut from, mut to) = ([0.0; BLOCK], [0.0; BLOCK]);
                    for (y, x) in y.blocks(BLOCK).zip(x.chunks(BLOCK)) {
                        let x = T::widened(x, &mut from);
                        T::store(y, &mut to, |y| {
                            for (y, x) in y.iter_mut().zip(x) {
                                *y = then.apply((x - mean) * factor + shift);
                            }
                        });
                    }
                });
            });
        })
    })
}

/// dy where what was stored is above 0, or all of it where nothing followed.
#[inline(always)]
fn masked<'a, T: Element>(dy: &'a [f32], y: Option<&[T]>, buffers: &'a mut Masked) -> &'a [f32] {
    let Some(y) = y else { return dy };
    let y = T::widened(y, &mut buffers.wide);
    let result = &mut buffers.result[..dy.len()];
    for (result, (dy, y)) in result.iter_mut().zip(dy.iter().zip(y)) {
        *result = if *y <= 0.0 { 0.0 } else { *dy };
    }
    result
}

/// What [`masked`] works in.
struct Masked {
    wide: [f32; BLOCK],
    result: [f32; BLOCK],
}

impl Masked {
    const EMPTY: Self = Self { wide: [0.0; BLOCK], result: [0.0; BLOCK] };
}

/// Σ dy and Σ dy x̂ of one channel.
fn gradient_sums<T: Element>(
    (dy, x, y): (&[T], &[T], Option<&[T]>),
    (c, plane, channel): (usize, usize, usize),
    (mean, inverse): (f32, f32),
) -> (f32, f32) {
    let pairs = planes(dy, c, plane, channel).zip(planes(x, c, plane, channel));
    let mut ys = y.map(|y| planes(y, c, plane, channel));
    vectorized!({
        let mut buffers = [[0.0; BLOCK]; 3];
        let [wide_dy, wide_x, products] = &mut buffers;
        let mut mask = Masked::EMPTY;
        let (mut plain, mut weighted) = (0.0, 0.0);
        for (dy, x) in pairs {
            let y = ys.as_mut().and_then(Iterator::next);
            let blocks = dy.chunks(BLOCK).zip(x.chunks(BLOCK)).enumerate();
            for (block, (dy, x)) in blocks {
                let y = y.map(|y| &y[block * BLOCK..][..dy.len()]);
                let (dy, x) = (T::widened(dy, wide_dy), T::widened(x, wide_x));
                let dy = masked(dy, y, &mut mask);
                for (product, (dy, x)) in products.iter_mut().zip(dy.iter().zip(x)) {
                    *product = dy * (x - mean) * inverse;
                }
                plain += sum(dy);
                weighted += sum(&products[..dy.len()]);
            }
        }
        (plain, weighted)
    })
}

/// The gradients of [`batch_norm`]: dx = gamma / √(variance + ε) · (dy − mean(dy) − x̂ mean(dy x̂)). `relu` is the result where a
/// `ReLU` followed; dy is then the gradient of that.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, Then};
///
/// let x = Tensor::new(&[1.0_f32, 3.0], &Device::Cpu)?.reshape((2, 1, 1, 1))?;
/// let (gamma, beta) = (Tensor::new(&[1.0_f32], &Device::Cpu)?, Tensor::new(&[0.0_f32], &Device::Cpu)?);
/// let (_, saved, _) = ops::batch_norm(&x, &gamma, &beta, Then::Nothing)?;
/// // What is added to every value does not change the result.
/// let dy = Tensor::new(&[1.0_f32, 1.0], &Device::Cpu)?.reshape((2, 1, 1, 1))?;
/// let gradients = ops::batch_norm_backward(&dy, &x, &gamma, &saved, None)?;
/// assert_eq!(ops::to_f32(&gradients.input)?, [0.0, 0.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`batch_norm`].
pub fn batch_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    saved: &BatchNormSaved,
    relu: Option<&Tensor>,
) -> Result<BatchNormGradients> {
    let (n, c, h, w) = x.dims4()?;
    let (plane, count) = (h * w, (n * h * w) as f32);
    expect_parameters(&[gamma, &saved.mean, &saved.inverse_deviation], c)?;
    expect_shape("the gradient of batch norm", dy, x.dims())?;
    if let Some(y) = relu {
        expect_shape("the result of batch norm", y, x.dims())?;
    }
    on_gpu!(x => match relu {
        Some(y) => cuda::batch_norm_backward(&super::relu_backward(dy, y)?, x, gamma, saved),
        None => cuda::batch_norm_backward(dy, x, gamma, saved),
    });
    let scale = super::to_f32(gamma)?;
    let (mean, inverse) = (view::<f32>(&saved.mean)?, view::<f32>(&saved.inverse_deviation)?);
    by_dtype!(x.dtype(), T => {
        let (gradient, source) = (view::<T>(dy)?, view::<T>(x)?);
        let result = relu.map(view::<T>).transpose()?;
        let result = result.as_deref();
        let sums: Vec<(f32, f32)> = map_indices(c, |channel| gradient_sums::<T>(
            (&gradient, &source, result),
            (c, plane, channel),
            (mean[channel], inverse[channel]),
        ));
        let input = build::<T>(x.shape(), |dx| {
            let inputs = gradient.chunks(plane).zip(source.chunks(plane));
            let tasks = dx.chunks(plane).zip(inputs).collect();
            for_each(tasks, |index, (dx, (dy, x)): (Unwritten<'_, T>, (&[T], &[T]))| {
                let channel = index % c;
                let y = result.map(|y| &y[index * plane..(index + 1) * plane]);
                let (mean, inverse) = (mean[channel], inverse[channel]);
                let (plain, weighted) = (sums[channel].0 / count, sums[channel].1 / count);
                let factor = scale[channel] * inverse;
                vectorized!({
                    let mut buffers = [[0.0; BLOCK]; 3];
                    let [wide_dy, wide_x, to] = &mut buffers;
                    let mut mask = Masked::EMPTY;
                    let inputs = dy.chunks(BLOCK).zip(x.chunks(BLOCK)).enumerate();
                    for (dx, (block, (dy, x))) in dx.blocks(BLOCK).zip(inputs) {
                        let y = y.map(|y| &y[block * BLOCK..][..dy.len()]);
                        let (dy, x) = (T::widened(dy, wide_dy), T::widened(x, wide_x));
                        let dy = masked(dy, y, &mut mask);
                        T::store(dx, to, |dx| {
                            for (dx, (dy, x)) in dx.iter_mut().zip(dy.iter().zip(x)) {
                                let normal = (x - mean) * inverse;
                                *dx = factor * (dy - plain - normal * weighted);
                            }
                        });
                    }
                });
            });
        })?;
        let (beta, gamma): (Vec<f32>, Vec<f32>) = sums.into_iter().unzip();
        Ok(BatchNormGradients {
            input,
            gamma: super::from_f32(&gamma, c, T::DTYPE, &Device::Cpu)?,
            beta: super::from_f32(&beta, c, T::DTYPE, &Device::Cpu)?,
        })
    })
}
