//! The end of a step: one pass that converts, unscales and counts the weight gradients, and one that updates the weights.

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Result, Tensor};
use half::{bf16, f16};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ops::element::{Element, by_dtype};
use crate::ops::host::{edit, expect_shape, view};
use crate::ops::parallel::{BLOCK, CHUNK, for_each, map_indices, sum, vectorized};
use crate::precision::Format;

/// What the weight gradients were, over every step, as the backward pass leaves them: still multiplied by the loss scale.
///
/// ```
/// use mantissa::record::GradientCounts;
///
/// let counts = GradientCounts { elements: 100, zero: 3, ..GradientCounts::default() };
/// assert_eq!(counts.plus(counts).zero, 6);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GradientCounts {
    /// Values looked at.
    pub elements: u64,
    /// Exact zeros.
    pub zero: u64,
    /// Subnormals of the format that the gradient came out in.
    pub subnormal: u64,
    /// Infinities.
    pub infinite: u64,
    /// NaNs.
    pub nan: u64,
}

impl GradientCounts {
    /// Both counts together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            elements: self.elements + other.elements,
            zero: self.zero + other.zero,
            subnormal: self.subnormal + other.subnormal,
            infinite: self.infinite + other.infinite,
            nan: self.nan + other.nan,
        }
    }
}

/// What one pass over a weight gradient finds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradientSummary {
    /// The counts.
    pub counts: GradientCounts,
    /// Sum of the squares of the unscaled values, which is finite where they are: f32 within a block of the tensor, f64 where that
    /// would overflow or lose small squares, and over the blocks.
    pub squares: f64,
}

impl GradientSummary {
    /// Whether every value was finite.
    pub fn is_finite(self) -> bool {
        self.counts.infinite == 0 && self.counts.nan == 0
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { counts: self.counts.plus(other.counts), squares: self.squares + other.squares }
    }
}

/// Converts a weight gradient to f32, multiplies by `unscale` and counts, in one pass that writes nothing: [`update`] does
/// the same conversion again. Subnormals are those of `format`, which the gradient came out in.
///
/// # Errors
/// When the tensor is not a contiguous CPU tensor of f32, f16 or bf16.
pub fn inspect_gradient(
    gradient: &Tensor,
    format: Format,
    unscale: f32,
) -> Result<GradientSummary> {
    let smallest_normal = format.min_normal() as f32;
    by_dtype!(gradient.dtype(), T => {
        let values = view::<T>(gradient)?;
        let pieces = map_indices(values.len().div_ceil(CHUNK), |piece| {
            let end = values.len().min((piece + 1) * CHUNK);
            vectorized!(inspect::<T>(&values[piece * CHUNK..end], smallest_normal, unscale))
        });
        Ok(pieces.into_iter().fold(GradientSummary::default(), GradientSummary::plus))
    })
}

/// A block's sum of squares below this may have lost squares that are too small for f32: 2⁻¹⁰⁰.
const LEAST_SQUARES: f32 = 1.0 / (1_u128 << 100) as f32;

/// Sum of the squares of the unscaled values of a block whose squares f32 does not hold.
#[cold]
#[inline(never)]
fn squares_in_f64(block: &[f32], unscale: f32) -> f64 {
    let unscaled = block.iter().map(|value| f64::from(value * unscale));
    unscaled.fold(0.0, |sum, value| sum + value * value)
}

/// One piece of [`inspect_gradient`].
#[inline(always)]
fn inspect<T: Element>(values: &[T], smallest_normal: f32, unscale: f32) -> GradientSummary {
    let mut buffers = [[0.0; BLOCK]; 2];
    let [wide, squares] = &mut buffers;
    let mut total = GradientSummary::default();
    for block in values.chunks(BLOCK) {
        let block = T::widened(block, wide);
        let [mut zero, mut small, mut infinite, mut nan] = [0_u32; 4];
        for (square, value) in squares.iter_mut().zip(block) {
            let size = value.abs();
            zero += u32::from(size == 0.0);
            small += u32::from(size < smallest_normal);
            infinite += u32::from(size == f32::INFINITY);
            nan += u32::from(size.is_nan());
            *square = (value * unscale) * (value * unscale);
        }
        total.counts.elements += block.len() as u64;
        total.counts.zero += u64::from(zero);
        total.counts.subnormal += u64::from(small - zero);
        total.counts.infinite += u64::from(infinite);
        total.counts.nan += u64::from(nan);
        let sum = sum(&squares[..block.len()]);
        total.squares += if (LEAST_SQUARES..f32::INFINITY).contains(&sum) {
            f64::from(sum)
        } else if zero == block.len() as u32 {
            0.0
        } else {
            squares_in_f64(block, unscale)
        };
    }
    total
}

/// Stochastic gradient descent with momentum, as PyTorch defines it: v ← μ v + g, Δw = −lr v, or −lr (g + μ v) with
/// Nesterov's form; v starts as the first gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate of this step.
    pub lr: f32,
    /// μ.
    pub momentum: f32,
    /// Nesterov's form.
    pub nesterov: bool,
    /// L2 penalty: λ w is added to the gradient.
    pub weight_decay: f32,
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to √v̂.
    pub eps: f32,
    /// Decoupled decay: lr λ w is subtracted.
    pub weight_decay: f32,
    /// 1 / (1 − β₁ᵗ), for update t from 1.
    pub correction1: f32,
    /// 1 / √(1 − β₂ᵗ).
    pub correction2: f32,
}

/// The rule of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Update {
    /// Momentum in the first state.
    Sgd(Sgd),
    /// First and second moment in the two states.
    AdamW(AdamW),
}

/// The tensors of one parameter that an update reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct UpdateTensors<'a> {
    /// The weights that are updated, in the policy's `params` format.
    pub weights: &'a Tensor,
    /// The copy in the compute format, where it is another tensor.
    pub copy: Option<&'a Tensor>,
    /// The gradient, in any type.
    pub gradient: &'a Tensor,
    /// Momentum or first moment, f32; none for SGD without momentum.
    pub first: Option<&'a Tensor>,
    /// Second moment, f32.
    pub second: Option<&'a Tensor>,
    /// Where Δw is written, f32, if it is to be looked at.
    pub delta: Option<&'a Tensor>,
}

/// Calls `work` with the values of a tensor for writing; without any where there is no tensor.
fn with_values<T: Element, R>(
    tensor: Option<&Tensor>,
    work: impl FnOnce(Option<&mut [T]>) -> Result<R>,
) -> Result<R> {
    let Some(tensor) = tensor else {
        return work(None);
    };
    let mut result = None;
    edit::<T>(tensor, |values| result = Some(work(Some(values))))?;
    result.unwrap_or_else(|| Err(candle_core::Error::Msg("nothing was edited".to_owned()).bt()))
}

/// A gradient's values, of any type.
#[derive(Clone, Copy)]
enum Gradient<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl<'a> Gradient<'a> {
    /// The values from `start`, `len` at most.
    fn part(self, start: usize, len: usize) -> Self {
        fn part<T>(values: &[T], start: usize, len: usize) -> &[T] {
            &values[start..values.len().min(start + len)]
        }
        match self {
            Self::F32(values) => Self::F32(part(values, start, len)),
            Self::F16(values) => Self::F16(part(values, start, len)),
            Self::Bf16(values) => Self::Bf16(part(values, start, len)),
        }
    }

    /// As f32: itself if it is, else widened into `buffer`.
    #[inline(always)]
    fn widened(self, buffer: &'a mut [f32]) -> &'a [f32] {
        match self {
            Self::F32(values) => values,
            Self::F16(values) => f16::widened(values, buffer),
            Self::Bf16(values) => bf16::widened(values, buffer),
        }
    }
}

/// The values of one parameter, or a part of them: weights in W, their copy in C.
struct Piece<'a, W, C> {
    weights: &'a mut [W],
    copy: Option<&'a mut [C]>,
    gradient: Gradient<'a>,
    first: Option<&'a mut [f32]>,
    second: Option<&'a mut [f32]>,
    delta: Option<&'a mut [f32]>,
}

impl<W, C> Piece<'_, W, C> {
    /// Cuts it into pieces of `size` values; the last may be shorter.
    fn parts(self, size: usize) -> impl Iterator<Item = Self> {
        fn cut<'a, T>(
            values: Option<&'a mut [T]>,
            size: usize,
        ) -> impl FnMut() -> Option<&'a mut [T]> {
            let mut parts = values.map(|values| values.chunks_mut(size));
            move || parts.as_mut()?.next()
        }
        let (mut copy, mut delta) = (cut(self.copy, size), cut(self.delta, size));
        let (mut first, mut second) = (cut(self.first, size), cut(self.second, size));
        self.weights.chunks_mut(size).enumerate().map(move |(index, weights)| Self {
            weights,
            copy: copy(),
            gradient: self.gradient.part(index * size, size),
            first: first(),
            second: second(),
            delta: delta(),
        })
    }
}

/// How gradients and weights are converted: `unscale` is 1/S times the factor of clipping.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    /// Multiplies the gradient, in f32.
    pub unscale: f32,
    /// Multiplies the unscaled gradient: clipping.
    pub clip: f32,
    /// The format of the weights.
    pub params: Format,
    /// The format of their copy.
    pub compute: Format,
}

/// Updates one parameter in f32, in one pass over all its tensors: gradient converted, unscaled and clipped; moments and
/// weights updated; the copy in the compute format refreshed. Returns the number of updates that were rounded away: Δw ≠ 0 and w + Δw
/// rounded to w.
///
/// # Errors
/// When a tensor is not a contiguous CPU tensor of f32, f16 or bf16, or a tensor that the rule needs is missing.
pub fn update(rule: Update, tensors: UpdateTensors<'_>, conversion: Conversion) -> Result<u64> {
    check_tensors(rule, tensors)?;
    let UpdateTensors { weights, copy, gradient, first, second, delta } = tensors;
    let copy_dtype = copy.unwrap_or(weights).dtype();
    by_dtype!(weights.dtype(), W => by_dtype!(copy_dtype, C => {
        with_gradient(gradient, |gradient| with_values::<W, _>(Some(weights), |weights| {
            with_values::<C, _>(copy, |copy| with_values(first, |first| {
                with_values(second, |second| with_values(delta, |delta| {
                    let weights = weights.unwrap_or_default();
                    let piece = Piece { weights, copy, gradient, first, second, delta };
                    Ok(update_values(rule, piece, conversion))
                }))
            }))
        }))
    }))
}

/// Calls `work` with the values of a gradient.
fn with_gradient<R>(gradient: &Tensor, work: impl FnOnce(Gradient<'_>) -> Result<R>) -> Result<R> {
    match gradient.dtype() {
        DType::F16 => work(Gradient::F16(&view::<f16>(gradient)?)),
        DType::BF16 => work(Gradient::Bf16(&view::<bf16>(gradient)?)),
        _ => work(Gradient::F32(&view::<f32>(gradient)?)),
    }
}

/// All of [`update`] on one parameter's values.
fn update_values<W: Element, C: Element>(
    rule: Update,
    piece: Piece<'_, W, C>,
    conversion: Conversion,
) -> u64 {
    let lost = AtomicU64::new(0);
    for_each(piece.parts(CHUNK).collect(), |_, piece| {
        let count = vectorized!({
            // Not a sum of a map: that would be a call to code without the wide vectors.
            let (mut buffers, mut count) = ([[0.0; BLOCK]; 4], 0);
            for block in piece.parts(BLOCK) {
                count += update_block(rule, block, conversion, &mut buffers);
            }
            count
        });
        lost.fetch_add(count, Ordering::Relaxed);
    });
    lost.into_inner()
}

/// # Errors
/// When a tensor is not of the weights' shape, or one that the rule needs is missing.
fn check_tensors(rule: Update, tensors: UpdateTensors<'_>) -> Result<()> {
    let UpdateTensors { weights, copy, gradient, first, second, delta } = tensors;
    for tensor in [copy, Some(gradient), first, second, delta].into_iter().flatten() {
        expect_shape("a tensor of an update", tensor, weights.dims())?;
    }
    let missing = match rule {
        Update::Sgd(sgd) => sgd.momentum != 0.0 && first.is_none(),
        Update::AdamW(_) => first.is_none() || second.is_none(),
    };
    if missing {
        let text = format!("an update by {rule:?} needs its moments");
        return Err(candle_core::Error::Msg(text).bt());
    }
    Ok(())
}

/// One block of [`update`].
#[inline(always)]
fn update_block<W: Element, C: Element>(
    rule: Update,
    piece: Piece<'_, W, C>,
    conversion: Conversion,
    buffers: &mut [[f32; BLOCK]; 4],
) -> u64 {
    let Conversion { unscale, clip, params, compute } = conversion;
    let len = piece.weights.len();
    let [wide, old, moved, new] = buffers.each_mut().map(|buffer| &mut buffer[..len]);
    let gradient = Converted { values: piece.gradient.widened(wide), unscale, clip };
    W::widen(piece.weights, old);
    match (rule, piece.first, piece.second) {
        (Update::Sgd(sgd), first, _) => sgd.delta(gradient, old, first, moved),
        (Update::AdamW(adam), Some(first), Some(second)) => {
            adam.delta(gradient, old, (first, second), moved);
        }
        // `check_tensors` saw that they are there.
        (Update::AdamW(_), _, _) => return 0,
    }
    W::store(piece.weights, new, |new| {
        for ((new, old), moved) in new.iter_mut().zip(&*old).zip(&*moved) {
            *new = old + moved;
        }
        round::<W>(params, new);
    });
    let new = W::widened(piece.weights, new);
    let mut lost = 0_u32;
    for ((moved, new), old) in moved.iter().zip(new).zip(&*old) {
        lost += u32::from(*moved != 0.0) & u32::from(new == old);
    }
    if let Some(delta) = piece.delta {
        delta.copy_from_slice(moved);
    }
    if let Some(copy) = piece.copy {
        C::store(copy, moved, |copy| {
            copy.copy_from_slice(new);
            round::<C>(compute, copy);
        });
    }
    lost.into()
}

/// Rounds to `format` what is stored in f32; another storage type rounds as it is written.
#[inline(always)]
fn round<T: Element>(format: Format, values: &mut [f32]) {
    if T::DTYPE == DType::F32 && format != Format::F32 {
        for value in values {
            *value = format.round(*value);
        }
    }
}

/// A gradient as the rules see it.
#[derive(Clone, Copy)]
struct Converted<'a> {
    values: &'a [f32],
    unscale: f32,
    clip: f32,
}

impl<'a> Converted<'a> {
    #[inline(always)]
    fn iter(self) -> impl Iterator<Item = f32> + use<'a> {
        self.values.iter().map(move |value| value * self.unscale * self.clip)
    }
}

impl Sgd {
    /// Δw of a block into `delta`; `velocity` is updated.
    #[inline(always)]
    fn delta(
        self,
        gradient: Converted<'_>,
        weights: &[f32],
        velocity: Option<&mut [f32]>,
        delta: &mut [f32],
    ) {
        let gradients = gradient.iter().zip(weights).map(|(g, w)| g + self.weight_decay * w);
        let Some(velocity) = velocity else {
            for (delta, g) in delta.iter_mut().zip(gradients) {
                *delta = -self.lr * g;
            }
            return;
        };
        for ((v, delta), g) in velocity.iter_mut().zip(delta).zip(gradients) {
            *v = self.momentum * *v + g;
            *delta = -self.lr * if self.nesterov { g + self.momentum * *v } else { *v };
        }
    }
}

impl AdamW {
    /// Δw of a block into `delta`; the moments are updated.
    #[inline(always)]
    fn delta(
        self,
        gradient: Converted<'_>,
        weights: &[f32],
        (first, second): (&mut [f32], &mut [f32]),
        delta: &mut [f32],
    ) {
        let states = first.iter_mut().zip(second).zip(delta);
        for (((m, v), delta), (g, w)) in states.zip(gradient.iter().zip(weights)) {
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
            let root = v.sqrt() * self.correction2 + self.eps;
            *delta = -self.lr * (*m * self.correction1 / root + self.weight_decay * w);
        }
    }
}
