//! Pooling of sequences, N × T × D to N × D: the mean of the positions that are there, and the first position.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{Error, Result, Tensor};

use super::element::{Element, by_dtype};
use super::host::{Unwritten, View, build, expect_shape, view};
use super::parallel::{for_each, vectorized};

/// How many positions of each sequence are there.
fn counts(lengths: Option<&Tensor>, sequences: usize, positions: usize) -> Result<Vec<usize>> {
    let Some(lengths) = lengths else { return Ok(vec![positions; sequences]) };
    let lengths: View<'_, u32> = view(lengths)?;
    match lengths.iter().find(|length| **length as usize > positions) {
        None => Ok(lengths.iter().map(|length| *length as usize).collect()),
        Some(length) => {
            let text = format!("a sequence of length {length} does not fit {positions} positions");
            Err(Error::Msg(text).bt())
        }
    }
}

/// # Errors
/// When there is not one length a sequence.
fn expect_lengths(lengths: Option<&Tensor>, sequences: usize) -> Result<()> {
    lengths
        .map_or(Ok(()), |lengths| expect_shape("the lengths of sequences", lengths, &[sequences]))
}

/// The mean of the first positions of each sequence, as many as `lengths` says, u32; of all T where there are none. Summed in f32 in
/// order, rounded once; 0 of an empty sequence. x: N × T × D; result: N × D.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let x = Tensor::new(&[[[1.0_f32], [3.0], [100.0]]], &Device::Cpu)?;
/// let lengths = Tensor::new(&[2_u32], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::mean_pool(&x, Some(&lengths))?)?, [2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When a tensor is not contiguous or not of these shapes, or a length is above T. A GPU does not look at lengths.
pub fn mean_pool(x: &Tensor, lengths: Option<&Tensor>) -> Result<Tensor> {
    let (n, positions, width) = x.dims3()?;
    expect_lengths(lengths, n)?;
    on_gpu!(x => cuda::mean_pool(x, lengths));
    let counts = counts(lengths, n, positions)?;
    by_dtype!(x.dtype(), T => {
        let x = view::<T>(x)?;
        build::<T>((n, width), |y| {
            let tasks = y.chunks(width.max(1)).collect();
            for_each(tasks, |sequence, y: Unwritten<'_, T>| vectorized!({
                let (mut sum, mut wide) = (vec![0.0; width], vec![0.0; width]);
                let count = counts[sequence];
                let rows = x[sequence * positions * width..][..count * width].chunks(width.max(1));
                for row in rows {
                    for (sum, value) in sum.iter_mut().zip(T::widened(row, &mut wide)) {
                        *sum += value;
                    }
                }
                for sum in &mut sum {
                    *sum /= count.max(1) as f32;
                }
                T::narrow(&sum, y.filled(T::default()));
            }));
        })
    })
}

/// The gradient of [`mean_pool`]: dy / length at each position that is there, 0 elsewhere. dy: N × D; result: N × `positions` × D.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let dy = Tensor::new(&[[4.0_f32]], &Device::Cpu)?;
/// let lengths = Tensor::new(&[2_u32], &Device::Cpu)?;
/// let dx = ops::mean_pool_backward(&dy, Some(&lengths), 3)?;
/// assert_eq!(ops::to_f32(&dx)?, [2.0, 2.0, 0.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`mean_pool`].
pub fn mean_pool_backward(
    dy: &Tensor,
    lengths: Option<&Tensor>,
    positions: usize,
) -> Result<Tensor> {
    let (n, _) = dy.dims2()?;
    expect_lengths(lengths, n)?;
    on_gpu!(dy => cuda::mean_pool_backward(dy, lengths, positions));
    let counts = counts(lengths, n, positions)?;
    spread(dy, positions, |sequence| (counts[sequence], counts[sequence] as f32))
}

/// The first position of each sequence. x: N × T × D with T > 0; result: N × D.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let x = Tensor::new(&[[[1.0_f32, 2.0], [3.0, 4.0]]], &Device::Cpu)?;
/// assert_eq!(ops::first_token(&x)?.to_vec2::<f32>()?, [[1.0, 2.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`mean_pool`].
pub fn first_token(x: &Tensor) -> Result<Tensor> {
    let (n, positions, width) = x.dims3()?;
    if positions == 0 {
        return Err(Error::Msg("a sequence without positions has no first token".to_owned()).bt());
    }
    on_gpu!(x => cuda::first_token(x));
    by_dtype!(x.dtype(), T => {
        let x = view::<T>(x)?;
        build::<T>((n, width), |y| {
            let firsts = x.chunks((positions * width).max(1)).map(|x| &x[..width]);
            for (y, first) in y.chunks(width.max(1)).zip(firsts) {
                y.copied(first);
            }
        })
    })
}

/// The gradient of [`first_token`]: dy at the first of `positions`, 0 elsewhere.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let dy = Tensor::new(&[[5.0_f32, 6.0]], &Device::Cpu)?;
/// let dx = ops::first_token_backward(&dy, 2)?;
/// assert_eq!(dx.to_vec3::<f32>()?, [[[5.0, 6.0], [0.0, 0.0]]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`mean_pool`].
pub fn first_token_backward(dy: &Tensor, positions: usize) -> Result<Tensor> {
    on_gpu!(dy => cuda::first_token_backward(dy, positions));
    spread(dy, positions, |_| (1, 1.0))
}

/// dy over a divisor at the first positions of each sequence, 0 elsewhere: how many, and the divisor.
fn spread(
    dy: &Tensor,
    positions: usize,
    of: impl Fn(usize) -> (usize, f32) + Sync + Send,
) -> Result<Tensor> {
    let (n, width) = dy.dims2()?;
    by_dtype!(dy.dtype(), T => {
        let dy = view::<T>(dy)?;
        build::<T>((n, positions, width), |dx| {
            let rows = dy.chunks(width.max(1));
            let tasks = dx.chunks((positions * width).max(1)).zip(rows).collect();
            for_each(tasks, |sequence, (dx, dy): (Unwritten<'_, T>, &[T])| vectorized!({
                let (count, divisor) = of(sequence);
                let (mut wide, mut shared) = (vec![0.0; width], vec![T::default(); width]);
                T::widen(dy, &mut wide);
                for value in &mut wide {
                    *value /= divisor;
                }
                T::narrow(&wide, &mut shared);
                let dx = dx.filled(T::default());
                for dx in dx.chunks_mut(width.max(1)).take(count) {
                    dx.copy_from_slice(&shared);
                }
            }));
        })
    })
}
