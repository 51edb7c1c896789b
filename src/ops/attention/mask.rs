//! Which probabilities of attention are dropped. The mask is never all there: what a tile needs is drawn again in each pass.

use candle_core::{Error, Result, Tensor};

use super::super::host::{expect_shape, first};
use super::super::philox::{Keep, Philox, RandomStream};
use super::Sizes;
use super::products::{KEYS, QUERIES};

/// Dropout of the probabilities of attention, after the softmax: each is dropped with probability `p`, and the others are divided by 1 −
/// p. Which ones is what [`crate::ops::dropout`] would drop of a tensor of all probabilities, N × H × T × S: it depends on the random
/// numbers and the place alone.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops::{self, AttentionDropout, AttentionMasks, AttentionSettings, RandomStream};
/// use mantissa::precision::Format;
///
/// // Each of two queries sees two keys with probability 1/2 each, of which none, one or both are left, twice as large.
/// let pass = Tensor::new(&[0_u32], &Device::Cpu)?;
/// let dropout = AttentionDropout { p: 0.5, random: RandomStream { seed: 0, stream: 0, pass } };
/// let settings = AttentionSettings { heads: 1, kv_heads: 1, causal: false, format: Format::F32 };
/// let q = Tensor::zeros((1, 2, 1), DType::F32, &Device::Cpu)?;
/// let v = q.ones_like()?;
/// let masks = AttentionMasks { lengths: None, dropout: Some(&dropout) };
/// let (y, _) = ops::attention_masked(&q, &q, &v, masks, settings)?;
/// assert!(ops::to_f32(&y)?.iter().all(|y| [0.0, 1.0, 2.0].contains(y)));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AttentionDropout {
    /// Probability of dropping a probability, 0 ≤ p < 1.
    pub p: f32,
    /// The random numbers: those of one pass and one layer.
    pub random: RandomStream,
}

/// What takes no part in attention.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, AttentionMasks, AttentionSettings};
/// use mantissa::precision::Format;
///
/// // Of two keys the first is there.
/// let lengths = Tensor::new(&[1_u32], &Device::Cpu)?;
/// let masks = AttentionMasks { lengths: Some(&lengths), dropout: None };
/// let settings = AttentionSettings { heads: 1, kv_heads: 1, causal: false, format: Format::F32 };
/// let q = Tensor::new(&[[[0.0_f32]]], &Device::Cpu)?;
/// let k = Tensor::new(&[[[2.0_f32], [4.0]]], &Device::Cpu)?;
/// let (y, _) = ops::attention_masked(&q, &k, &k, masks, settings)?;
/// assert_eq!(ops::to_f32(&y)?, [2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionMasks<'a> {
    /// How many keys each sequence has, u32; all S where there are none.
    pub lengths: Option<&'a Tensor>,
    /// Which probabilities are dropped; none where there is none.
    pub dropout: Option<&'a AttentionDropout>,
}

impl AttentionMasks<'_> {
    /// The same, without a dropout that drops nothing.
    ///
    /// # Errors
    /// When its probability is not 0 or more and below 1, or the number of the pass is not one number.
    pub(super) fn checked(self) -> Result<Self> {
        let Some(dropout) = self.dropout else { return Ok(self) };
        if !(0.0..1.0).contains(&dropout.p) {
            let text = format!("dropout of {}: must be 0 or more and below 1", dropout.p);
            return Err(Error::Msg(text).bt());
        }
        expect_shape("the number of a pass", &dropout.random.pass, &[1])?;
        Ok(Self { dropout: self.dropout.filter(|dropout| dropout.p > 0.0), ..self })
    }
}

/// The mask of a pass, on a CPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask {
    random: Philox,
    keep: Keep,
}

/// A tile of probabilities: its head among those of all sequences, and of queries and keys the first and how many.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) head: usize,
    pub(super) queries: (usize, usize),
    pub(super) keys: (usize, usize),
}

impl Mask {
    pub(super) fn of(AttentionDropout { p, random }: &AttentionDropout) -> Result<Self> {
        let RandomStream { seed, stream, pass } = random;
        let random = Philox { seed: *seed, stream: *stream, pass: first(pass)? };
        Ok(Self { random, keep: Keep::of(*p) })
    }

    /// What probabilities that are kept are multiplied by.
    pub(super) fn scale(self) -> f32 {
        self.keep.scale
    }

    /// Which probabilities of a tile are kept, KEYS × QUERIES.
    #[inline(always)]
    pub(super) fn draw(self, tile: Tile, sizes: &Sizes, kept: &mut [bool]) {
        let Tile { head, queries: (first_query, queries), keys: (first_key, keys) } = tile;
        let mut words = [0; KEYS + 8];
        for query in 0..queries {
            let row = (head * sizes.queries + first_query + query) as u64;
            let start = row * sizes.keys as u64 + first_key as u64;
            let before = (start % 4) as usize;
            let blocks = (before + keys).div_ceil(4);
            for (words, block) in words.chunks_exact_mut(4).take(blocks).zip(start / 4..) {
                words.copy_from_slice(&self.random.words(block));
            }
            let kept = kept[query..].iter_mut().step_by(QUERIES);
            for (kept, word) in kept.zip(&words[before..before + keys]) {
                *kept = self.keep.keeps(*word);
            }
        }
    }
}

/// Sets to 0 what is not kept.
#[inline(always)]
pub(super) fn drop_others(values: &mut [f32], kept: &[bool]) {
    for (value, kept) in values.iter_mut().zip(kept) {
        *value = if *kept { *value } else { 0.0 };
    }
}

/// Multiplies what is kept, and sets the rest to 0.
#[inline(always)]
pub(super) fn scale_kept(values: &mut [f32], kept: &[bool], scale: f32) {
    for (value, kept) in values.iter_mut().zip(kept) {
        *value = if *kept { *value * scale } else { 0.0 };
    }
}
