//! Rotary positions (Su et al. 2021, arXiv 2104.09864): pairs of a head's values, turned by an angle that grows with the position. Value
//! i is paired with value i + d/2, as in Llama of Hugging Face's Transformers; the paper's pairs are neighbours.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{Device, Error, Result, Tensor};

use super::element::{Element, by_dtype};
use super::host::{Unwritten, build, expect_shape, from_host, view};
use super::parallel::{CHUNK, for_each, vectorized};

/// What the angles of rotary positions follow from.
///
/// ```
/// use candle_core::Device;
/// use mantissa::ops::{self, RopeSettings};
///
/// let table = |length, offset| {
///     let settings = RopeSettings { width: 4, base: 10_000.0, offset };
///     ops::to_f32(&ops::rope_table(length, settings, &Device::Cpu)?)
/// };
/// // Position 3, by itself and behind three others.
/// assert_eq!(table(1, 3)?, table(4, 0)?[12..]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSettings {
    /// Values of a head, d: an even number.
    pub width: usize,
    /// The base θ: pair i is turned by p θ^(−2i/d) at position p.
    pub base: f64,
    /// The position of the first of a sequence.
    pub offset: usize,
}

/// Cosines and sines of the angles at `length` positions, computed in f64 and rounded to f32: length × d, first the cosines of a
/// position, then its sines.
///
/// ```
/// use candle_core::Device;
/// use mantissa::ops::{self, RopeSettings};
///
/// let settings = RopeSettings { width: 2, base: 10_000.0, offset: 0 };
/// let table = ops::rope_table(2, settings, &Device::Cpu)?;
/// // The angles of the only pair are 0 and 1.
/// let (sin, cos) = 1.0_f64.sin_cos();
/// assert_eq!(table.to_vec2::<f32>()?, [[1.0, 0.0], [cos as f32, sin as f32]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When d is odd or 0, the base is not a positive number, or there is no memory for the table.
pub fn rope_table(length: usize, settings: RopeSettings, device: &Device) -> Result<Tensor> {
    let RopeSettings { width, base, offset } = settings;
    if width == 0 || !width.is_multiple_of(2) {
        let text = format!("rotary positions need heads of an even number of values, not {width}");
        return Err(Error::Msg(text).bt());
    }
    if !(base > 0.0 && base.is_finite()) {
        let text = format!("the base of rotary positions must be a positive number, not {base}");
        return Err(Error::Msg(text).bt());
    }
    let rates: Vec<f64> =
        (0..width / 2).map(|pair| libm::pow(base, -2.0 * pair as f64 / width as f64)).collect();
    let mut values = Vec::with_capacity(length * width);
    for position in offset..offset + length {
        let angles = || rates.iter().map(|rate| position as f64 * rate);
        values.extend(angles().map(|angle| libm::cos(angle) as f32));
        values.extend(angles().map(|angle| libm::sin(angle) as f32));
    }
    from_host(values, (length, width), device)
}

/// x with each pair (a, b) of each head turned by the angle of its position: (a cos − b sin, b cos + a sin). x: N × T × (H d); the
/// table is that of [`rope_table`], T × d.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, RopeSettings};
///
/// let settings = RopeSettings { width: 2, base: 10_000.0, offset: 0 };
/// let table = ops::rope_table(2, settings, &Device::Cpu)?;
/// let x = Tensor::new(&[[[1.0_f32, 0.0], [1.0, 0.0]]], &Device::Cpu)?;
/// let (sin, cos) = 1.0_f64.sin_cos();
/// assert_eq!(ops::to_f32(&ops::rope(&x, &table)?)?, [1.0, 0.0, cos as f32, sin as f32]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When a tensor is not contiguous or not of these shapes, or the table is not f32.
pub fn rope(x: &Tensor, table: &Tensor) -> Result<Tensor> {
    turn(x, table, 1.0)
}

/// The gradient of [`rope`]: turns by the negative angles.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, RopeSettings};
///
/// let settings = RopeSettings { width: 2, base: 10_000.0, offset: 5 };
/// let table = ops::rope_table(1, settings, &Device::Cpu)?;
/// let x = Tensor::new(&[[[3.0_f32, 4.0]]], &Device::Cpu)?;
/// // The gradient turns back.
/// let back = ops::to_f32(&ops::rope_backward(&ops::rope(&x, &table)?, &table)?)?;
/// assert!((back[0] - 3.0).abs() < 1e-5 && (back[1] - 4.0).abs() < 1e-5);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`rope`].
pub fn rope_backward(dy: &Tensor, table: &Tensor) -> Result<Tensor> {
    turn(dy, table, -1.0)
}

/// Turns by the angles of the table times `sign`.
fn turn(x: &Tensor, table: &Tensor, sign: f32) -> Result<Tensor> {
    let ((_, length, all), (_, width)) = (x.dims3()?, table.dims2()?);
    expect_shape("the table of rotary positions", table, &[length, width])?;
    if width == 0 || !width.is_multiple_of(2) || !all.is_multiple_of(width) {
        let text = format!("{all} values are not heads of {width}, an even number");
        return Err(Error::Msg(text).bt());
    }
    on_gpu!(x => cuda::turn(x, table, sign));
    let table = view::<f32>(table)?;
    by_dtype!(x.dtype(), T => {
        let (shape, x) = (x.shape(), view::<T>(x)?);
        let together = (CHUNK / all.max(1)).max(1);
        let row = all.max(1);
        build::<T>(shape, |y| {
            let tasks = y.chunks(together * row).zip(x.chunks(together * row)).collect();
            for_each(tasks, |task, (y, x): (Unwritten<'_, T>, &[T])| vectorized!({
                let (mut from, mut to) = (vec![0.0; width], vec![0.0; width]);
                let rows = (task * together..).zip(y.blocks(row).zip(x.chunks(row)));
                for (index, (y, x)) in rows {
                    let angles = &table[index % length * width..][..width];
                    for (y, x) in y.chunks_mut(width).zip(x.chunks(width)) {
                        let x = T::widened(x, &mut from);
                        T::store(y, &mut to, |y| turn_head(x, angles, sign, y));
                    }
                }
            }));
        })
    })
}

/// Turns the pairs of one head.
#[inline(always)]
fn turn_head(x: &[f32], angles: &[f32], sign: f32, y: &mut [f32]) {
    let half = x.len() / 2;
    let ((first, second), (cosines, sines)) = (x.split_at(half), angles.split_at(half));
    let (to_first, to_second) = y.split_at_mut(half);
    let pairs = first.iter().zip(second).zip(cosines.iter().zip(sines));
    for ((to_a, to_b), ((a, b), (cos, sin))) in to_first.iter_mut().zip(to_second).zip(pairs) {
        let sin = sign * sin;
        *to_a = a * cos - b * sin;
        *to_b = b * cos + a * sin;
    }
}
