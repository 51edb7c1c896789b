//! The end of a step: one pass that converts, unscales and counts the weight gradients, and one that updates the weights.

use candle_core::{DType, Result, Tensor};
use half::{bf16, f16};

use super::element::{Element, by_dtype};
use super::host::{edit, expect_shape, view};
use super::parallel::{BLOCK, CHUNK, for_each, map_indices, sum, vectorized};
use crate::precision::Format;
use crate::record::GradientCounts;

/// What one pass over a weight gradient finds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradientSummary {
    /// The counts.
    pub counts: GradientCounts,
    /// Sum of the squares of the unscaled values: f32 within a piece of the tensor, f64 over the pieces.
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
        total.squares += f64::from(sum(&squares[..block.len()]));
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

/// A tensor's values for writing, of any type; cut in chunks with the others.
enum Values<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    Bf16(&'a mut [bf16]),
}

impl Values<'_> {
    fn chunks(self) -> Vec<Self> {
        match self {
            Self::F32(values) => values.chunks_mut(CHUNK).map(Self::F32).collect(),
            Self::F16(values) => values.chunks_mut(CHUNK).map(Self::F16).collect(),
            Self::Bf16(values) => values.chunks_mut(CHUNK).map(Self::Bf16).collect(),
        }
    }

    #[inline(always)]
    fn load(&self, start: usize, target: &mut [f32]) {
        let end = start + target.len();
        match self {
            Self::F32(values) => f32::widen(&values[start..end], target),
            Self::F16(values) => f16::widen(&values[start..end], target),
            Self::Bf16(values) => bf16::widen(&values[start..end], target),
        }
    }

    /// Stores `source` rounded once, to `format` where the storage type does not do it.
    #[inline(always)]
    fn store(&mut self, start: usize, source: &mut [f32], format: Format) {
        let end = start + source.len();
        match self {
            Self::F32(values) => {
                if format != Format::F32 {
                    for value in source.iter_mut() {
                        *value = format.round(*value);
                    }
                }
                f32::narrow(source, &mut values[start..end]);
            }
            Self::F16(values) => f16::narrow(source, &mut values[start..end]),
            Self::Bf16(values) => bf16::narrow(source, &mut values[start..end]),
        }
    }
}

/// Calls `work` with the values of a tensor for writing; without any where there is no tensor.
fn with_values<R>(
    tensor: Option<&Tensor>,
    work: impl FnOnce(Option<Values<'_>>) -> Result<R>,
) -> Result<R> {
    let Some(tensor) = tensor else {
        return work(None);
    };
    let mut result = None;
    match tensor.dtype() {
        DType::F16 => edit::<f16>(tensor, |v| result = Some(work(Some(Values::F16(v))))),
        DType::BF16 => edit::<bf16>(tensor, |v| result = Some(work(Some(Values::Bf16(v))))),
        _ => edit::<f32>(tensor, |v| result = Some(work(Some(Values::F32(v))))),
    }?;
    result.unwrap_or_else(|| Err(candle_core::Error::Msg("nothing was edited".to_owned()).bt()))
}

/// One chunk of every tensor of a parameter.
struct Piece<'a> {
    weights: Values<'a>,
    copy: Option<Values<'a>>,
    first: Option<Values<'a>>,
    second: Option<Values<'a>>,
    delta: Option<Values<'a>>,
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
/// weights updated; the copy in the compute format refreshed. Returns the number of lost updates: Δw ≠ 0 and w + Δw
/// rounded to w.
///
/// # Errors
/// When a tensor is not a contiguous CPU tensor of f32, f16 or bf16, or a tensor that the rule needs is missing.
pub fn update(rule: Update, tensors: UpdateTensors<'_>, conversion: Conversion) -> Result<u64> {
    check_tensors(rule, tensors)?;
    by_dtype!(tensors.gradient.dtype(), G => {
        let gradient = view::<G>(tensors.gradient)?;
        with_values(Some(tensors.weights), |weights| with_values(tensors.copy, |copy| {
            with_values(tensors.first, |first| with_values(tensors.second, |second| {
                with_values(tensors.delta, |delta| {
                    let pieces = pieces([weights, copy, first, second, delta], gradient.len());
                    let lost = std::sync::atomic::AtomicU64::new(0);
                    let tasks = pieces.into_iter().zip(gradient.chunks(CHUNK)).collect();
                    for_each(tasks, |_, (piece, gradient)| {
                        let count = vectorized!(update_piece(rule, piece, gradient, conversion));
                        lost.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
                    });
                    Ok(lost.into_inner())
                })
            }))
        }))
    })
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

/// The tensors of a parameter cut into chunks that belong together. The first must be there.
fn pieces(tensors: [Option<Values<'_>>; 5], len: usize) -> Vec<Piece<'_>> {
    let count = len.div_ceil(CHUNK);
    let [weights, copy, first, second, delta] = tensors.map(|values| {
        let mut chunks: Vec<Option<Values<'_>>> =
            values.map_or_else(Vec::new, |v| v.chunks().into_iter().map(Some).collect());
        chunks.resize_with(count, || None);
        chunks.into_iter()
    });
    weights
        .zip(copy.zip(first).zip(second.zip(delta)))
        .filter_map(|(weights, ((copy, first), (second, delta)))| {
            weights.map(|weights| Piece { weights, copy, first, second, delta })
        })
        .collect()
}

/// One chunk of [`update`].
#[inline(always)]
fn update_piece<G: Element>(
    rule: Update,
    mut piece: Piece<'_>,
    gradient: &[G],
    conversion: Conversion,
) -> u64 {
    let mut buffers = [[0.0_f32; BLOCK]; 5];
    let mut lost = 0;
    for (block, gradient) in gradient.chunks(BLOCK).enumerate() {
        let (start, len) = (block * BLOCK, gradient.len());
        let [g, old, new, first, second] = buffers.each_mut().map(|buffer| &mut buffer[..len]);
        G::widen(gradient, g);
        for value in g.iter_mut() {
            *value = *value * conversion.unscale * conversion.clip;
        }
        piece.weights.load(start, old);
        for (state, values) in [(&piece.first, &mut *first), (&piece.second, &mut *second)] {
            if let Some(state) = state {
                state.load(start, values);
            }
        }
        match rule {
            Update::Sgd(sgd) => {
                sgd.delta(g, old, piece.first.is_some().then_some(&mut *first), new);
            }
            Update::AdamW(adam) => adam.delta(g, old, (&mut *first, &mut *second), new),
        }
        for (state, values) in [(&mut piece.first, &mut *first), (&mut piece.second, &mut *second)]
        {
            if let Some(state) = state {
                state.store(start, values, Format::F32);
            }
        }
        if let Some(delta) = &mut piece.delta {
            delta.store(start, new, Format::F32);
        }
        // `g` has done its work: it now says where Δw was not 0.
        for ((moved, new), old) in g.iter_mut().zip(new.iter_mut()).zip(old.iter()) {
            *moved = *new;
            *new += old;
        }
        piece.weights.store(start, new, conversion.params);
        piece.weights.load(start, new);
        let mut count = 0_u32;
        for ((moved, new), old) in g.iter().zip(new.iter()).zip(old.iter()) {
            count += u32::from(*moved != 0.0) & u32::from(new == old);
        }
        lost += u64::from(count);
        if let Some(copy) = &mut piece.copy {
            copy.store(start, new, conversion.compute);
        }
    }
    lost
}

impl Sgd {
    /// Δw of a block into `delta`; `velocity` is updated.
    #[inline(always)]
    fn delta(
        self,
        gradient: &[f32],
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
        gradient: &[f32],
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
