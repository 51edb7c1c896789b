//! Attention (Vaswani et al. 2017, arXiv 1706.03762) with several heads, in tiles (Dao et al. 2022, arXiv 2205.14135): the T × S scores
//! are never all there. The backward pass computes them again.
//!
//! Scores, their exponentials and all sums are in f32. Probabilities and the gradients of scores are operands of further products,
//! so they are rounded to the compute format before they are multiplied, as the arithmetic contract asks of operands. A probability
//! is then e to the power of the score less the largest so far; the sum that divides it is of unrounded ones. What is inside is not
//! counted by a census: it is never a tensor.
//!
//! Dropout is of the probabilities: those that it drops are left out of the second product, not of the sum that divides. The mask is
//! a function of the place and of random numbers by a counter (`mask`), so that no pass stores it, and tiles and threads do not matter.
//!
//! A key that a query does not see takes no part: keys behind the end of a sequence are not read, and the scores of later keys are
//! not summed.

#[cfg(feature = "cuda")]
mod cuda;

mod backward;
mod forward;
mod mask;
mod one_query;
mod products;
#[cfg(test)]
mod tests;

use candle_core::{Device, Error, Result, Tensor};

use super::element::by_dtype;
use super::host::{View, expect_shape, view};
use super::linear::count_product;
use super::matmul::kernels;
use crate::precision::Format;

use mask::Mask;
pub use mask::{AttentionDropout, AttentionMasks};

/// What kind of attention.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, AttentionSettings};
/// use mantissa::precision::Format;
///
/// // A causal query sees no later key: the first sees the first alone.
/// let settings = AttentionSettings { heads: 1, kv_heads: 1, causal: true, format: Format::F32 };
/// let q = Tensor::new(&[[[0.0_f32], [0.0]]], &Device::Cpu)?;
/// let v = Tensor::new(&[[[2.0_f32], [4.0]]], &Device::Cpu)?;
/// let (y, _) = ops::attention(&q, &q, &v, None, settings)?;
/// assert_eq!(ops::to_f32(&y)?, [2.0, 3.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionSettings {
    /// Heads of the queries, H.
    pub heads: usize,
    /// Heads of keys and values, G, of which H is a multiple: head h of the queries sees head h · G / H.
    pub kv_heads: usize,
    /// Whether query t sees the keys up to t + S − T alone: itself and those before where T = S.
    pub causal: bool,
    /// The compute format, to which probabilities are rounded. That of the tensors, but for wide arithmetic.
    pub format: Format,
}

/// Gradients of [`attention`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops::{self, AttentionGradients, AttentionSettings};
/// use mantissa::precision::Format;
///
/// // Four heads of queries share two of keys and values.
/// let settings = AttentionSettings { heads: 4, kv_heads: 2, causal: false, format: Format::F32 };
/// let ones = |shape| Tensor::ones(shape, DType::F32, &Device::Cpu);
/// let (q, k) = (ones((1, 3, 8))?, ones((1, 5, 4))?);
/// let (y, logs) = ops::attention(&q, &k, &k, None, settings)?;
/// let gradients = ops::attention_backward(&y, [&q, &k, &k], (&y, &logs), None, settings)?;
/// let AttentionGradients { q: dq, k: dk, v: dv } = gradients;
/// assert_eq!([dq.dims(), dk.dims(), dv.dims()], [q.dims(), k.dims(), k.dims()]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AttentionGradients {
    /// With respect to q.
    pub q: Tensor,
    /// With respect to k.
    pub k: Tensor,
    /// With respect to v.
    pub v: Tensor,
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    sequences: usize,
    /// T and S.
    queries: usize,
    keys: usize,
    /// d.
    width: usize,
    settings: AttentionSettings,
    /// Which probabilities a CPU drops.
    mask: Option<Mask>,
}

impl Sizes {
    fn of(
        [q, k, v]: [&Tensor; 3],
        lengths: Option<&Tensor>,
        settings: AttentionSettings,
    ) -> Result<Self> {
        let ((sequences, queries, all), (_, keys, _)) = (q.dims3()?, k.dims3()?);
        let AttentionSettings { heads, kv_heads, .. } = settings;
        let fits = |whole: usize, parts: usize| parts > 0 && whole.is_multiple_of(parts);
        if !fits(all, heads) || !fits(heads, kv_heads) || all == 0 {
            let text = format!(
                "{heads} heads of queries and {kv_heads} of keys do not divide {all} values: heads must divide them, and be a \
                 multiple of kv_heads"
            );
            return Err(Error::Msg(text).bt());
        }
        let width = all / heads;
        expect_shape("the keys of attention", k, &[sequences, keys, kv_heads * width])?;
        expect_shape("the values of attention", v, k.dims())?;
        if let Some(lengths) = lengths {
            expect_shape("the lengths of sequences", lengths, &[sequences])?;
        }
        Ok(Self { sequences, queries, keys, width, settings, mask: None })
    }

    /// Heads of queries that see one head of keys.
    fn group(&self) -> usize {
        self.settings.heads / self.settings.kv_heads
    }

    /// What scores are multiplied by: 1 / √d.
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// What results are multiplied by beside: 1 where nothing is dropped.
    fn kept_scale(&self) -> f32 {
        self.mask.map_or(1.0, Mask::scale)
    }

    /// The first query that sees a key, which may be none.
    fn first_query(&self, key: usize) -> usize {
        if self.settings.causal { (key + self.queries).saturating_sub(self.keys) } else { 0 }
    }

    /// Counts so many of the products of queries and keys. That sequences have ends is not known everywhere, and left out.
    fn count(&self, products: usize) {
        let Self { queries, keys, .. } = *self;
        let pairs = if self.settings.causal {
            (0..keys).map(|key| queries - self.first_query(key).min(queries)).sum()
        } else {
            queries * keys
        };
        let heads = self.sequences * self.settings.heads;
        count_product([products * heads, pairs, self.width]);
    }
}

/// How many keys each sequence has.
fn lengths_of(lengths: Option<&Tensor>, sizes: &Sizes) -> Result<Vec<usize>> {
    let Some(lengths) = lengths else { return Ok(vec![sizes.keys; sizes.sequences]) };
    let lengths: View<'_, u32> = view(lengths)?;
    match lengths.iter().find(|length| **length as usize > sizes.keys) {
        None => Ok(lengths.iter().map(|length| *length as usize).collect()),
        Some(length) => {
            let text = format!("a sequence of length {length} does not fit {} keys", sizes.keys);
            Err(Error::Msg(text).bt())
        }
    }
}

/// `softmax(q kᵀ / √d) v` for each sequence and head, and the logarithm of the sum of the exponentials of the scores of each sequence,
/// head and query, N × H × T in f32. q: N × T × (H d); k, v: N × S × (G d); the first result is as q. `lengths`, u32: how many keys
/// each sequence has; all S where there are none. A query that sees no key gives zeros, and −∞.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, AttentionSettings};
/// use mantissa::precision::Format;
///
/// // Keys of zeros have equal scores: the result is the mean of the values.
/// let settings = AttentionSettings { heads: 1, kv_heads: 1, causal: false, format: Format::F32 };
/// let q = Tensor::new(&[[[1.0_f32, 5.0]]], &Device::Cpu)?;
/// let k = Tensor::new(&[[[0.0_f32, 0.0], [0.0, 0.0]]], &Device::Cpu)?;
/// let v = Tensor::new(&[[[2.0_f32, 0.0], [4.0, 2.0]]], &Device::Cpu)?;
/// let (y, _) = ops::attention(&q, &k, &v, None, settings)?;
/// assert_eq!(ops::to_f32(&y)?, [3.0, 1.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When a tensor is not contiguous, not of these shapes or one type, or a length is above S. A GPU does not look at lengths.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    lengths: Option<&Tensor>,
    settings: AttentionSettings,
) -> Result<(Tensor, Tensor)> {
    attention_masked(q, k, v, AttentionMasks { lengths, dropout: None }, settings)
}

/// [`attention`] with dropout of its probabilities: `dropout(softmax(q kᵀ / √d)) v`. The logarithms are of all exponentials.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, AttentionDropout, AttentionMasks, AttentionSettings, RandomStream};
/// use mantissa::precision::Format;
///
/// // The one key has probability 1, which is dropped in about a quarter of 1000 sequences.
/// let pass = Tensor::new(&[0_u32], &Device::Cpu)?;
/// let dropout = AttentionDropout { p: 0.25, random: RandomStream { seed: 0, stream: 0, pass } };
/// let settings = AttentionSettings { heads: 1, kv_heads: 1, causal: false, format: Format::F32 };
/// let x = Tensor::ones((1000, 1, 1), candle_core::DType::F32, &Device::Cpu)?;
/// let masks = AttentionMasks { lengths: None, dropout: Some(&dropout) };
/// let (y, _) = ops::attention_masked(&x, &x, &x, masks, settings)?;
/// let dropped = ops::to_f32(&y)?.iter().filter(|y| **y == 0.0).count();
/// // Five standard deviations.
/// assert!(dropped.abs_diff(250) < 70);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`attention`], and when the probability is not 0 or more and below 1.
pub fn attention_masked(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    masks: AttentionMasks<'_>,
    settings: AttentionSettings,
) -> Result<(Tensor, Tensor)> {
    let masks = masks.checked()?;
    let AttentionMasks { lengths, dropout } = masks;
    let mut sizes = Sizes::of([q, k, v], lengths, settings)?;
    sizes.count(2);
    on_gpu!(q => cuda::attention([q, k, v], masks, &sizes));
    sizes.mask = dropout.map(Mask::of).transpose()?;
    let lengths = lengths_of(lengths, &sizes)?;
    by_dtype!(q.dtype(), T => {
        let (shape, q, k, v) = (q.shape(), view::<T>(q)?, view::<T>(k)?, view::<T>(v)?);
        let (y, logs) = if sizes.queries == 1 && sizes.mask.is_none() {
            one_query::forward::<T>([&q, &k, &v], &lengths, &sizes)?
        } else {
            forward::forward::<T>(&kernels()?, [&q, &k, &v], &lengths, &sizes)?
        };
        let of_logs = (sizes.sequences, sizes.settings.heads, sizes.queries);
        Ok((Tensor::from_vec(y, shape, &Device::Cpu)?, Tensor::from_vec(logs, of_logs, &Device::Cpu)?))
    })
}

/// The gradients of [`attention`] from its operands q, k, v and its results.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, AttentionSettings};
/// use mantissa::precision::Format;
///
/// let settings = AttentionSettings { heads: 1, kv_heads: 1, causal: false, format: Format::F32 };
/// let q = Tensor::new(&[[[1.0_f32]]], &Device::Cpu)?;
/// let k = Tensor::new(&[[[0.0_f32], [0.0]]], &Device::Cpu)?;
/// let v = Tensor::new(&[[[2.0_f32], [4.0]]], &Device::Cpu)?;
/// let (y, logs) = ops::attention(&q, &k, &v, None, settings)?;
/// let dy = Tensor::new(&[[[6.0_f32]]], &Device::Cpu)?;
/// // Both probabilities are 1/2.
/// let gradients = ops::attention_backward(&dy, [&q, &k, &v], (&y, &logs), None, settings)?;
/// assert_eq!(ops::to_f32(&gradients.v)?, [3.0, 3.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`attention`].
pub fn attention_backward(
    dy: &Tensor,
    operands: [&Tensor; 3],
    results: (&Tensor, &Tensor),
    lengths: Option<&Tensor>,
    settings: AttentionSettings,
) -> Result<AttentionGradients> {
    attention_masked_backward(
        dy,
        operands,
        results,
        AttentionMasks { lengths, dropout: None },
        settings,
    )
}

/// The gradients of [`attention_masked`], which drops the same probabilities again.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops::{self, AttentionDropout, AttentionMasks, AttentionSettings, RandomStream};
/// use mantissa::precision::Format;
///
/// let pass = Tensor::new(&[0_u32], &Device::Cpu)?;
/// let dropout = AttentionDropout { p: 0.5, random: RandomStream { seed: 0, stream: 0, pass } };
/// let settings = AttentionSettings { heads: 1, kv_heads: 1, causal: false, format: Format::F32 };
/// let x = Tensor::ones((9, 1, 1), DType::F32, &Device::Cpu)?;
/// let masks = AttentionMasks { lengths: None, dropout: Some(&dropout) };
/// let (y, logs) = ops::attention_masked(&x, &x, &x, masks, settings)?;
/// let results = (&y, &logs);
/// let gradients = ops::attention_masked_backward(&x, [&x, &x, &x], results, masks, settings)?;
/// // With one key y is v, or 0, twice as large: so is the gradient.
/// assert_eq!(ops::to_f32(&gradients.v)?, ops::to_f32(&y)?);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`attention_masked`].
pub fn attention_masked_backward(
    dy: &Tensor,
    operands: [&Tensor; 3],
    (y, logs): (&Tensor, &Tensor),
    masks: AttentionMasks<'_>,
    settings: AttentionSettings,
) -> Result<AttentionGradients> {
    let masks = masks.checked()?;
    let AttentionMasks { lengths, dropout } = masks;
    let mut sizes = Sizes::of(operands, lengths, settings)?;
    let [q, k, v] = operands;
    expect_shape("the gradient of attention", dy, q.dims())?;
    expect_shape("the result of attention", y, q.dims())?;
    expect_shape("the sums of attention", logs, &[sizes.sequences, settings.heads, sizes.queries])?;
    sizes.count(5);
    on_gpu!(q => cuda::attention_backward((dy, y, logs), operands, masks, &sizes));
    sizes.mask = dropout.map(Mask::of).transpose()?;
    let lengths = lengths_of(lengths, &sizes)?;
    let logs = view::<f32>(logs)?;
    by_dtype!(q.dtype(), T => {
        let shapes = [q, k].map(|tensor| tensor.shape().clone());
        let operands = [&*view::<T>(q)?, &*view::<T>(k)?, &*view::<T>(v)?];
        let results = (&*view::<T>(dy)?, &*view::<T>(y)?, &*logs);
        let [dq, dk, dv] =
            backward::backward::<T>(&kernels()?, (operands, results), &lengths, &sizes)?;
        Ok(AttentionGradients {
            q: Tensor::from_vec(dq, shapes[0].clone(), &Device::Cpu)?,
            k: Tensor::from_vec(dk, shapes[1].clone(), &Device::Cpu)?,
            v: Tensor::from_vec(dv, shapes[1].clone(), &Device::Cpu)?,
        })
    })
}
