//! Layer norm (Ba et al. 2016, arXiv 1607.06450) and RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467) over the last axis, with
//! statistics in f32 whatever the tensors' type.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{Device, Error, Result, Tensor, WithDType as _};

use super::element::{Element, by_dtype};
use super::host::{Unwritten, build, expect_shape, view, zeroed};
use super::parallel::{CHUNK, carve, for_each, sum, sum_of, vectorized};

/// Groups of rows whose parts of a sum over rows are added in order.
const GROUPS: usize = 16;

/// What the backward pass of [`layer_norm`] needs beside x and gamma.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, LayerNormSaved};
///
/// let tensor = |values: [f32; 2]| Tensor::new(&values, &Device::Cpu);
/// let x = tensor([1.0, 5.0])?;
/// let (_, LayerNormSaved { mean, inverse_deviation }) =
///     ops::layer_norm(&x, &tensor([1.0, 1.0])?, &tensor([0.0, 0.0])?, 0.0)?;
/// assert_eq!((ops::to_f32(&mean)?, ops::to_f32(&inverse_deviation)?), (vec![3.0], vec![0.5]));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LayerNormSaved {
    /// Mean of each row, f32.
    pub mean: Tensor,
    /// 1 / √(variance + ε) of each row, f32, with the variance over D, not one less.
    pub inverse_deviation: Tensor,
}

/// Gradients of [`layer_norm`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, LayerNormGradients};
///
/// let tensor = |values: [f32; 2]| Tensor::new(&values, &Device::Cpu);
/// let (x, gamma) = (tensor([1.0, 3.0])?, tensor([1.0, 1.0])?);
/// let (_, saved) = ops::layer_norm(&x, &gamma, &tensor([0.0, 0.0])?, 0.0)?;
/// let LayerNormGradients { gamma, beta, .. } = ops::layer_norm_backward(&tensor([5.0, 7.0])?, &x, &gamma, &saved)?;
/// // x̂ is −1 and 1.
/// assert_eq!((ops::to_f32(&gamma)?, ops::to_f32(&beta)?), (vec![-5.0, 7.0], vec![5.0, 7.0]));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LayerNormGradients {
    /// With respect to x.
    pub input: Tensor,
    /// With respect to gamma, D.
    pub gamma: Tensor,
    /// With respect to beta, D.
    pub beta: Tensor,
}

/// Gradients of [`rms_norm`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, RmsNormGradients};
///
/// let tensor = |values: [f32; 2]| Tensor::new(&values, &Device::Cpu);
/// let (x, gamma) = (tensor([2.0, 2.0])?, tensor([1.0, 1.0])?);
/// let (_, inverse) = ops::rms_norm(&x, &gamma, 0.0)?;
/// let RmsNormGradients { gamma, .. } = ops::rms_norm_backward(&tensor([5.0, 7.0])?, &x, &gamma, &inverse)?;
/// assert_eq!(ops::to_f32(&gamma)?, [5.0, 7.0], "x̂ is 1 and 1");
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RmsNormGradients {
    /// With respect to x.
    pub input: Tensor,
    /// With respect to gamma, D.
    pub gamma: Tensor,
}

/// The number of rows of x and their length, D, if each parameter has one value for each of D.
fn rows_of(x: &Tensor, parameters: &[&Tensor]) -> Result<(usize, usize)> {
    let width = x.dims().last().copied().unwrap_or(0);
    if width == 0 {
        let text = format!("nothing to normalize in a tensor of shape {:?}", x.dims());
        return Err(Error::Msg(text).bt());
    }
    for parameter in parameters {
        expect_shape("a parameter of layer norm", parameter, &[width])?;
    }
    Ok((x.elem_count() / width, width))
}

/// `y = (x − mean) / √(variance + ε) · gamma + beta` a row, with what backward needs. x: … × D; gamma, beta: D.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let tensor = |values: [f32; 2]| Tensor::new(&values, &Device::Cpu);
/// // The mean is 2 and the variance 1.
/// let (y, _) = ops::layer_norm(&tensor([1.0, 3.0])?, &tensor([1.0, 2.0])?, &tensor([0.0, 10.0])?, 0.0)?;
/// assert_eq!(ops::to_f32(&y)?, [-1.0, 12.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When a tensor is not contiguous, not of these shapes, or not of one type.
pub fn layer_norm(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    epsilon: f32,
) -> Result<(Tensor, LayerNormSaved)> {
    let (_, width) = rows_of(x, &[gamma, beta])?;
    on_gpu!(x => cuda::layer_norm(x, gamma, beta, epsilon));
    let (y, statistics) = normalize(
        x,
        gamma,
        Some(beta),
        #[inline(always)]
        |x| {
            let mean = sum(x) / width as f32;
            let squares = sum_of(x, |x| (x - mean) * (x - mean));
            (mean, 1.0 / (squares / width as f32 + epsilon).sqrt())
        },
    )?;
    let (mean, inverse): (Vec<f32>, Vec<f32>) = statistics.into_iter().unzip();
    Ok((y, LayerNormSaved { mean: row_values(mean)?, inverse_deviation: row_values(inverse)? }))
}

/// `y = x / √(mean(x²) + ε) · gamma` a row, and that 1 / √(…) of each row, f32. x: … × D; gamma: D.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let tensor = |values: [f32; 2]| Tensor::new(&values, &Device::Cpu);
/// let (y, inverse) = ops::rms_norm(&tensor([2.0, -2.0])?, &tensor([1.0, 3.0])?, 0.0)?;
/// assert_eq!((ops::to_f32(&y)?, ops::to_f32(&inverse)?), (vec![1.0, -3.0], vec![0.5]));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm(x: &Tensor, gamma: &Tensor, epsilon: f32) -> Result<(Tensor, Tensor)> {
    let (_, width) = rows_of(x, &[gamma])?;
    on_gpu!(x => cuda::rms_norm(x, gamma, epsilon));
    let (y, statistics) = normalize(
        x,
        gamma,
        None,
        #[inline(always)]
        |x| (0.0, 1.0 / (sum_of(x, |x| x * x) / width as f32 + epsilon).sqrt()),
    )?;
    let inverse = statistics.into_iter().map(|(_, inverse)| inverse).collect();
    Ok((y, row_values(inverse)?))
}

/// The gradients of [`layer_norm`]: with g = dy · gamma, dx = (g − mean(g) − x̂ mean(g x̂)) / √(variance + ε).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let tensor = |values: [f32; 2]| Tensor::new(&values, &Device::Cpu);
/// let (x, gamma) = (tensor([1.0, 3.0])?, tensor([1.0, 1.0])?);
/// let (_, saved) = ops::layer_norm(&x, &gamma, &tensor([0.0, 0.0])?, 0.0)?;
/// // What is added to a whole row does not change the result.
/// let gradients = ops::layer_norm_backward(&tensor([1.0, 1.0])?, &x, &gamma, &saved)?;
/// assert_eq!(ops::to_f32(&gradients.input)?, [0.0, 0.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`layer_norm`].
pub fn layer_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    saved: &LayerNormSaved,
) -> Result<LayerNormGradients> {
    let (rows, width) = rows_of(x, &[gamma])?;
    expect_shape("the gradient of layer norm", dy, x.dims())?;
    expect_shape("the means of layer norm", &saved.mean, &[rows])?;
    expect_shape("the deviations of layer norm", &saved.inverse_deviation, &[rows])?;
    on_gpu!(x => cuda::layer_norm_backward(dy, x, gamma, saved));
    let (mean, inverse) = (view::<f32>(&saved.mean)?, view::<f32>(&saved.inverse_deviation)?);
    let statistics: Vec<_> = mean.iter().copied().zip(inverse.iter().copied()).collect();
    let input = input_gradient((dy, x), gamma, &statistics, true)?;
    let (gamma, beta) = parameter_gradients((dy, x), &statistics, width)?;
    Ok(LayerNormGradients { input, gamma, beta })
}

/// The gradients of [`rms_norm`] from its second result: with g = dy · gamma, dx = (g − x̂ mean(g x̂)) / √(mean(x²) + ε).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let tensor = |values: [f32; 2]| Tensor::new(&values, &Device::Cpu);
/// let (x, gamma) = (tensor([2.0, 2.0])?, tensor([1.0, 1.0])?);
/// let (_, inverse) = ops::rms_norm(&x, &gamma, 0.0)?;
/// // x̂ is 1 and 1: g x̂ has the mean 0.
/// let gradients = ops::rms_norm_backward(&tensor([1.0, -1.0])?, &x, &gamma, &inverse)?;
/// assert_eq!(ops::to_f32(&gradients.input)?, [0.5, -0.5]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    inverse: &Tensor,
) -> Result<RmsNormGradients> {
    let (rows, width) = rows_of(x, &[gamma])?;
    expect_shape("the gradient of RMS norm", dy, x.dims())?;
    expect_shape("the inverse roots of RMS norm", inverse, &[rows])?;
    on_gpu!(x => cuda::rms_norm_backward(dy, x, gamma, inverse));
    let inverse = view::<f32>(inverse)?;
    let statistics: Vec<_> = inverse.iter().map(|inverse| (0.0, *inverse)).collect();
    let input = input_gradient((dy, x), gamma, &statistics, false)?;
    let (gamma, _) = parameter_gradients((dy, x), &statistics, width)?;
    Ok(RmsNormGradients { input, gamma })
}

/// A tensor of one f32 a row.
fn row_values(values: Vec<f32>) -> Result<Tensor> {
    let count = values.len();
    Tensor::from_vec(values, count, &Device::Cpu)
}

/// Rows of a result with those of an operand, and their statistics.
type Task<'a, T> = ((Unwritten<'a, T>, &'a [T]), &'a mut [(f32, f32)]);

/// `(x − mean) · inverse · gamma + beta` of each row, with the mean and the inverse that `of_row` makes of it.
fn normalize(
    x: &Tensor,
    gamma: &Tensor,
    beta: Option<&Tensor>,
    of_row: impl Fn(&[f32]) -> (f32, f32) + Sync + Send,
) -> Result<(Tensor, Vec<(f32, f32)>)> {
    by_dtype!(x.dtype(), T => {
        let (x_shape, x) = (x.shape(), view::<T>(x)?);
        let gamma = widened::<T>(gamma)?;
        let beta = beta.map(widened::<T>).transpose()?;
        let width = gamma.len();
        let together = (CHUNK / width).max(1);
        let mut statistics = vec![(0.0, 0.0); x.len() / width];
        let y = build::<T>(x_shape, |y| {
            let rows = y.chunks(together * width).zip(x.chunks(together * width));
            let tasks = rows.zip(statistics.chunks_mut(together)).collect();
            for_each(tasks, |_, ((y, x), statistics): Task<'_, T>| vectorized!({
                let (mut from, mut to) = (vec![0.0; width], vec![0.0; width]);
                let rows = y.blocks(width).zip(x.chunks(width)).zip(statistics);
                for ((y, x), statistics) in rows {
                    let x = T::widened(x, &mut from);
                    *statistics = of_row(x);
                    let (mean, inverse) = *statistics;
                    T::store(y, &mut to, #[inline(always)] |y| {
                        for ((y, x), gamma) in y.iter_mut().zip(x).zip(&gamma) {
                            *y = (x - mean) * inverse * gamma;
                        }
                        if let Some(beta) = &beta {
                            for (y, beta) in y.iter_mut().zip(beta) {
                                *y += beta;
                            }
                        }
                    });
                }
            }));
        })?;
        Ok((y, statistics))
    })
}

/// A parameter's values as f32, if they are of type `T`.
fn widened<T: Element>(parameter: &Tensor) -> Result<Vec<f32>> {
    let values = view::<T>(parameter)?;
    let mut wide = zeroed(values.len())?;
    T::widen(&values, &mut wide);
    Ok(wide)
}

/// The gradient with respect to x; `centred` where the mean was subtracted.
fn input_gradient(
    (dy, x): (&Tensor, &Tensor),
    gamma: &Tensor,
    statistics: &[(f32, f32)],
    centred: bool,
) -> Result<Tensor> {
    by_dtype!(x.dtype(), T => {
        let (shape, x, dy) = (x.shape(), view::<T>(x)?, view::<T>(dy)?);
        let gamma = widened::<T>(gamma)?;
        let width = gamma.len();
        let together = (CHUNK / width).max(1);
        build::<T>(shape, |dx| {
            let inputs = dy.chunks(together * width).zip(x.chunks(together * width));
            let tasks = dx.chunks(together * width).zip(inputs)
                .zip(statistics.chunks(together)).collect();
            for_each(tasks, |_, ((dx, (dy, x)), statistics): GradientTask<'_, T>| vectorized!({
                let mut buffers = vec![0.0; 4 * width];
                let [normal, weighted, products, to] = carve(&mut buffers, [width; 4]);
                let inputs = dy.chunks(width).zip(x.chunks(width));
                for ((dx, (dy, x)), (mean, inverse)) in dx.blocks(width).zip(inputs).zip(statistics) {
                    T::widen(x, normal);
                    T::widen(dy, weighted);
                    let rows = normal.iter_mut().zip(weighted.iter_mut()).zip(&mut *products);
                    for (((normal, weighted), product), gamma) in rows.zip(&gamma) {
                        *normal = (*normal - mean) * inverse;
                        *weighted *= gamma;
                        *product = *weighted * *normal;
                    }
                    let plain = if centred { sum(weighted) / width as f32 } else { 0.0 };
                    let along = sum(products) / width as f32;
                    T::store(dx, to, #[inline(always)] |dx| {
                        let rows = weighted.iter().zip(&*normal);
                        for (dx, (weighted, normal)) in dx.iter_mut().zip(rows) {
                            *dx = (weighted - plain - normal * along) * inverse;
                        }
                    });
                }
            }));
        })
    })
}

/// Rows of a gradient with those of two operands, and their statistics.
type GradientTask<'a, T> = ((Unwritten<'a, T>, (&'a [T], &'a [T])), &'a [(f32, f32)]);

/// Σ dy x̂ and Σ dy over the rows: the gradients of gamma and beta.
fn parameter_gradients(
    (dy, x): (&Tensor, &Tensor),
    statistics: &[(f32, f32)],
    width: usize,
) -> Result<(Tensor, Tensor)> {
    by_dtype!(x.dtype(), T => {
        let (dy, x) = (view::<T>(dy)?, view::<T>(x)?);
        let together = statistics.len().div_ceil(GROUPS).max(1);
        let mut groups = zeroed::<f32>(statistics.len().div_ceil(together) * 2 * width)?;
        let inputs = dy.chunks(together * width).zip(x.chunks(together * width));
        let tasks = groups.chunks_mut(2 * width).zip(inputs).zip(statistics.chunks(together)).collect();
        for_each(tasks, |_, ((sums, (dy, x)), statistics): SumTask<'_, T>| vectorized!({
            let (mut wide_dy, mut wide_x) = (vec![0.0; width], vec![0.0; width]);
            let (gamma, beta) = sums.split_at_mut(width);
            let rows = dy.chunks(width).zip(x.chunks(width)).zip(statistics);
            for ((dy, x), (mean, inverse)) in rows {
                let (dy, x) = (T::widened(dy, &mut wide_dy), T::widened(x, &mut wide_x));
                let sums = gamma.iter_mut().zip(beta.iter_mut());
                for ((gamma, beta), (dy, x)) in sums.zip(dy.iter().zip(x)) {
                    *gamma += dy * ((x - mean) * inverse);
                    *beta += dy;
                }
            }
        }));
        let mut totals = zeroed::<f32>(2 * width)?;
        for sums in groups.chunks(2 * width) {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total += sum;
            }
        }
        let tensor = |sums: &[f32]| super::from_f32(sums, width, T::DTYPE, &Device::Cpu);
        Ok((tensor(&totals[..width])?, tensor(&totals[width..])?))
    })
}

/// Sums of a group of rows, the rows of two operands, and their statistics.
type SumTask<'a, T> = ((&'a mut [f32], (&'a [T], &'a [T])), &'a [(f32, f32)]);
