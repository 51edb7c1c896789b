//! Products of a few rows, as of a model that serves one sequence at a time: each row of the weight is read once, as it lies, and
//! nothing is packed. The time is that of reading the weight.

use candle_core::Result;

use super::super::element::Element;
use super::super::host::{build, zeroed};
use super::super::matmul::End;
use super::super::parallel::{add_products, add_products_of_four, for_each, tree, vectorized};
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
            let mut wide = [0.0; BLOCK];
            for (output, results) in (task * together..).zip(results.chunks_mut(n)) {
                let w = &w[output * inputs..(output + 1) * inputs];
                one_output(&rows, w, &mut wide, results);
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

/// The products of one row of the weight with each row of x.
#[inline(always)]
fn one_output<T: Element>(rows: &[&[f32]], w: &[T], wide: &mut [f32; BLOCK], results: &mut [f32]) {
    let mut sums = [[0.0_f32; SUMS]; MOST];
    for (block, w) in w.chunks(BLOCK).enumerate() {
        let w = T::widened(w, wide);
        // One row's chain of sums would wait for itself.
        let part = block * BLOCK..block * BLOCK + w.len();
        let (fours, rest) = rows.as_chunks::<4>();
        let (sums, sums_rest) = sums.split_at_mut(4 * fours.len());
        for (sums, rows) in sums.as_chunks_mut::<4>().0.iter_mut().zip(fours) {
            *sums = add_products_of_four(rows.map(|row| &row[part.clone()]), w, *sums);
        }
        for (sums, row) in sums_rest.iter_mut().zip(rest) {
            *sums = add_products(&row[part.clone()], w, *sums);
        }
    }
    for (result, sums) in results.iter_mut().zip(&sums) {
        *result = tree(std::array::from_fn(|lane| sums[lane] + sums[lane + SUMS / 2]));
    }
}
