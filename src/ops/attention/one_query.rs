//! The forward pass of one query a sequence, as where a model serves and keeps the keys and values of earlier positions: they are read
//! once, as they lie, and nothing is packed.

use candle_core::Result;

use super::super::element::Element;
use super::super::exponential::exp;
use super::super::host::zeroed;
use super::super::parallel::{add_products, for_each, tree, vectorized};
use super::Sizes;
use super::products::{Heads, Narrow};

/// What a task needs for the heads that see one head of keys.
struct Space<T> {
    query: Vec<f32>,
    line: Vec<f32>,
    /// Scores, then probabilities, of each key; rounded, and as f32 again.
    scores: Vec<f32>,
    narrow: Vec<T>,
    rounded: Vec<f32>,
    result: Vec<f32>,
}

/// As [`super::forward::forward`], of one query a sequence.
pub(super) fn forward<T: Element>(
    [q, k, v]: [&[T]; 3],
    lengths: &[usize],
    sizes: &Sizes,
) -> Result<(Vec<T>, Vec<f32>)> {
    let (width, kv_heads) = (sizes.width, sizes.settings.kv_heads);
    let group = sizes.group();
    let mut y = zeroed::<T>(q.len())?;
    let mut logs = zeroed::<f32>(sizes.sequences * sizes.settings.heads)?;
    let (keys, values) = (Heads::new(k, kv_heads, width), Heads::new(v, kv_heads, width));
    let narrow = Narrow::of::<T>(sizes.settings.format);
    let most = lengths.iter().copied().max().unwrap_or(0);
    let tasks = y.chunks_mut(group * width).zip(logs.chunks_mut(group)).collect();
    for_each(tasks, |task, (y, logs): (&mut [T], &mut [f32])| {
        let (sequence, kv_head) = (task / kv_heads, task % kv_heads);
        let q = &q[task * group * width..][..group * width];
        let mut space = Space {
            query: vec![0.0; width],
            line: vec![0.0; width],
            scores: vec![0.0; most],
            narrow: vec![T::default(); most],
            rounded: vec![0.0; most],
            result: vec![0.0; width],
        };
        let (first, count) = (sequence * sizes.keys, lengths[sequence]);
        for ((q, y), log) in q.chunks(width).zip(y.chunks_mut(width)).zip(logs) {
            vectorized!({
                T::widen(q, &mut space.query);
                let key = |index: usize| keys.row(first + index, kv_head);
                let value = |index: usize| values.row(first + index, kv_head);
                *log = one_head((count, sizes.scale(), narrow), key, value, &mut space);
                T::narrow(&space.result, y);
            });
        }
    });
    Ok((y, logs))
}

/// The result of one head for the query, into the space; the logarithm of the sum of its exponentials.
#[inline(always)]
fn one_head<'a, T: Element>(
    (count, scale, narrow): (usize, f32, Narrow),
    key: impl Fn(usize) -> &'a [T],
    value: impl Fn(usize) -> &'a [T],
    space: &mut Space<T>,
) -> f32 {
    let Space { query, line, scores, narrow: buffer, rounded, result } = space;
    let scores = &mut scores[..count];
    result.fill(0.0);
    if count == 0 {
        return f32::NEG_INFINITY;
    }
    let mut largest = f32::NEG_INFINITY;
    for (index, score) in scores.iter_mut().enumerate() {
        *score = dot(query, T::widened(key(index), line)) * scale;
        largest = if *score > largest { *score } else { largest };
    }
    let mut sum = 0.0;
    for score in &mut *scores {
        *score = exp(*score - largest);
        sum += *score;
    }
    let probabilities = T::widened(narrow.narrow(scores, buffer), rounded);
    for (index, probability) in probabilities.iter().enumerate() {
        for (result, value) in result.iter_mut().zip(T::widened(value(index), line)) {
            *result = probability.mul_add(*value, *result);
        }
    }
    for result in result {
        *result /= sum;
    }
    largest + libm::logf(sum)
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    tree(add_products(a, b, [0.0; 16]))
}
