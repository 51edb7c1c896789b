//! Products of a few rows, as of a model that serves one sequence at a time: each row of the weight is read once, as it lies, and
//! nothing is packed. The time is that of reading the weight.

use candle_core::Result;

use super::super::element::Element;
use super::super::host::{build, zeroed};
use super::super::matmul::End;
use super::super::parallel::{add_products_of_four, for_each, prefetch, tree, vectorized};
use super::super::pointwise::Then;
use candle_core::Tensor;

/// Most rows of x.
pub(super) const MOST: usize = 8;

/// Sums that a result is made of: value k of the depth goes to sum k mod 32, by a fused multiply-add. The sums are added as a tree. So
/// results are the same on every processor and any number of threads.
const SUMS: usize = 32;

/// Values of a row of the weight that are widened at a time.
const BLOCK: usize = 16 * SUMS;

/// Values of the weight that a task reads.
const TASK: usize = 64 * 1024;

/// `x wᵀ + b`, and what follows. x: n × I with n of at most [`MOST`], w: O × I.
pub(super) fn linear<T: Element>(
    (x, w): (&[T], &[T]),
    (n, outputs, inputs): (usize, usize, usize),
    end: End<'_, T>,
) -> Result<Tensor> {
    let mut rows = zeroed::<f32>(x.len())?;
    T::widen(x, &mut rows);
    let rows: Vec<&[f32]> = rows.chunks(inputs.max(1)).collect();
    // Of each output, its n results.
    let mut results = zeroed::<f32>(outputs * n)?;
    let together = (TASK / inputs.max(1)).max(1);
    let tasks = results.chunks_mut((together * n).max(1)).collect();
    for_each(tasks, |task, results: &mut [f32]| {
        vectorized!({
            let mut wide = [[0.0; BLOCK]; 4];
            let mut sums = [[[0.0; SUMS]; 4]; MOST];
            let four = |first: usize| {
                std::array::from_fn(|output| {
                    let output = (first + output).min(outputs - 1);
                    &w[output * inputs..(output + 1) * inputs]
                })
            };
            let firsts = (task * together..).step_by(4);
            for (first, results) in firsts.zip(results.chunks_mut(4 * n)) {
                four_outputs(&rows, [four(first), four(first + 4)], &mut wide, &mut sums, results);
            }
        });
    });
    let mut bias = vec![0.0; end.bias.map_or(0, <[T]>::len)];
    if let Some(values) = end.bias {
        T::widen(values, &mut bias);
    }
    let relu = end.then == Then::Relu;
    build::<T>((n, outputs), |y| {
        for (row, y) in y.blocks(outputs.max(1)).enumerate() {
            let mut values: Vec<f32> = results[row..].iter().step_by(n).copied().collect();
            for (value, bias) in values.iter_mut().zip(&bias) {
                *value += bias;
            }
            if relu {
                for value in &mut values {
                    *value = end.then.apply(*value);
                }
            }
            vectorized!(T::narrow(&values, y));
        }
    })
}

/// The products of four rows of the weight with each row of x. Four rows are read from memory side by side, and for the other rows of
/// x from a cache, while what is read next comes from memory: `after` are the four rows that follow.
#[inline(always)]
fn four_outputs<T: Element>(
    rows: &[&[f32]],
    [w, after]: [[&[T]; 4]; 2],
    wide: &mut [[f32; BLOCK]; 4],
    sums: &mut [[[f32; SUMS]; 4]; MOST],
    results: &mut [f32],
) {
    sums[..rows.len()].fill([[0.0; SUMS]; 4]);
    let inputs = w[0].len();
    for start in (0..inputs).step_by(BLOCK) {
        let part = start..(start + BLOCK).min(inputs);
        let (next, first) = if part.end < inputs { (w, part.end) } else { (after, 0) };
        let next = next.map(|w| &w[first..(first + BLOCK).min(inputs)]);
        let [wide0, wide1, wide2, wide3] = &mut *wide;
        let w = [
            T::widened(&w[0][part.clone()], wide0),
            T::widened(&w[1][part.clone()], wide1),
            T::widened(&w[2][part.clone()], wide2),
            T::widened(&w[3][part.clone()], wide3),
        ];
        for (index, (sums, row)) in sums.iter_mut().zip(rows).enumerate() {
            *sums = add_products_of_four(w, &row[part.clone()], *sums);
            if rows.len() > 1 {
                for next in next {
                    let len = next.len();
                    prefetch(&next[len * index / rows.len()..len * (index + 1) / rows.len()]);
                }
            }
        }
    }
    for (output, results) in results.chunks_mut(rows.len()).enumerate() {
        for (result, sums) in results.iter_mut().zip(&*sums) {
            let sums = &sums[output];
            *result = tree(std::array::from_fn(|lane| sums[lane] + sums[lane + SUMS / 2]));
        }
    }
}
