//! Products of a few rows, as of a model that serves one sequence at a time: each row of the weight is read once, as it lies, and
//! nothing is packed. The time is that of reading the weight.

use std::array;
use std::hint::black_box;
use std::slice::Chunks;

use candle_core::{Result, Tensor};

use super::super::element::Element;
use super::super::host::{build, zeroed};
use super::super::matmul::End;
use super::super::parallel::{for_each, prefetch, tree, vectorized};
use super::super::pointwise::Then;

/// Most rows of x.
pub(super) const MOST: usize = 8;

/// Sums that a result is made of: value k of the depth goes to sum k mod 32, by a fused multiply-add. The sums are added as a tree. So
/// results are the same on every processor and any number of threads.
const SUMS: usize = 32;

/// Values of the weight that a task reads: few, so that no thread is done long before another.
const TASK: usize = 16 * 1024;

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
    let together = (TASK / inputs.max(1)).max(1).next_multiple_of(4);
    let tasks = results.chunks_mut((together * n).max(1)).collect();
    for_each(tasks, |task, results: &mut [f32]| {
        vectorized!({
            let firsts = (task * together..).step_by(4);
            for (first, results) in firsts.zip(results.chunks_mut(4 * n)) {
                let four = array::from_fn(|output| {
                    let output = (first + output).min(outputs - 1);
                    &w[output * inputs..(output + 1) * inputs]
                });
                let [next, end] = [4, 8].map(|count| (first + count).min(outputs) * inputs);
                four_outputs(&rows, four, &w[next..end], results);
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

/// The products of four rows of the weight with each row of x: of each output, its results. `next` are the rows that follow: they come
/// from memory meanwhile.
#[inline(always)]
fn four_outputs<T: Element>(rows: &[&[f32]], w: [&[T]; 4], next: &[T], results: &mut [f32]) {
    let mut store = |row: usize, output: usize, halves: [Half; 2]| {
        // The last outputs may be fewer than four.
        if let Some(result) = results.get_mut(output * rows.len() + row) {
            *result = total(halves, w[output], rows[row]);
        }
    };
    let (fours, others) = rows.as_chunks::<4>();
    let steps = w[0].len() / SUMS * (2 * fours.len() + others.len());
    let mut next = next.chunks(next.len().div_ceil(steps.max(1)).max(1));
    for (index, x) in fours.iter().enumerate() {
        // Not by `map`: code in its closure is not compiled for the vector unit.
        let low = four_rows(w, x, 0, &mut next);
        let high = four_rows(w, x, 1, &mut next);
        for row in 0..4 {
            for output in 0..4 {
                store(4 * index + row, output, [low[row][output], high[row][output]]);
            }
        }
    }
    for (index, x) in others.iter().enumerate() {
        let [low, high] = one_row(w, x, &mut next);
        for output in 0..4 {
            store(4 * fours.len() + index, output, [low[output], high[output]]);
        }
    }
}

/// Half of the sums of a result.
type Half = [f32; SUMS / 2];

/// One half of the sums of four rows of the weight with four of x: as many as there are registers for, and a value that is read has a
/// part in four of them.
#[inline(always)]
fn four_rows<T: Element>(
    w: [&[T]; 4],
    x: &[&[f32]; 4],
    half: usize,
    next: &mut Chunks<'_, T>,
) -> [[Half; 4]; 4] {
    let ([w0, w1, w2, w3], [x0, x1, x2, x3]) = (w.map(blocks), x.map(blocks));
    let [mut s0, mut s1, mut s2, mut s3] = [[[0.0; SUMS / 2]; 4]; 4];
    for (((w0, w1), (w2, w3)), ((x0, x1), (x2, x3))) in
        w0.iter().zip(w1).zip(w2.iter().zip(w3)).zip(x0.iter().zip(x1).zip(x2.iter().zip(x3)))
    {
        prefetch(next.next().unwrap_or_default());
        let w = widened_four([w0, w1, w2, w3], half);
        s0 = add_products(&w, &widened(x0, half), s0);
        s1 = add_products(&w, &widened(x1, half), s1);
        s2 = add_products(&w, &widened(x2, half), s2);
        s3 = add_products(&w, &widened(x3, half), s3);
    }
    // From memory, or the loop would be made of vectors as short as those that the sums end in.
    black_box([s0, s1, s2, s3])
}

/// Both halves of the sums of four rows of the weight with one of x.
#[inline(always)]
fn one_row<T: Element>(w: [&[T]; 4], x: &[f32], next: &mut Chunks<'_, T>) -> [[Half; 4]; 2] {
    let ([w0, w1, w2, w3], x) = (w.map(blocks), blocks(x));
    let [mut low, mut high] = [[[0.0; SUMS / 2]; 4]; 2];
    for (((w0, w1), (w2, w3)), x) in w0.iter().zip(w1).zip(w2.iter().zip(w3)).zip(x) {
        prefetch(next.next().unwrap_or_default());
        let w = [w0, w1, w2, w3];
        low = add_products(&widened_four(w, 0), &widened(x, 0), low);
        high = add_products(&widened_four(w, 1), &widened(x, 1), high);
    }
    // As above.
    black_box([low, high])
}

fn blocks<T>(values: &[T]) -> &[[T; SUMS]] {
    values.as_chunks().0
}

/// The values of a block that go to one half of the sums.
#[inline(always)]
fn widened<T: Element>(block: &[T; SUMS], half: usize) -> Half {
    let mut wide = [0.0; SUMS / 2];
    T::widen(&block.as_chunks::<{ SUMS / 2 }>().0[half], &mut wide);
    wide
}

#[inline(always)]
fn widened_four<T: Element>([w0, w1, w2, w3]: [&[T; SUMS]; 4], half: usize) -> [Half; 4] {
    [widened(w0, half), widened(w1, half), widened(w2, half), widened(w3, half)]
}

#[inline(always)]
fn add_products(w: &[Half; 4], x: &Half, [s0, s1, s2, s3]: [Half; 4]) -> [Half; 4] {
    [
        add_product(&w[0], x, s0),
        add_product(&w[1], x, s1),
        add_product(&w[2], x, s2),
        add_product(&w[3], x, s3),
    ]
}

#[inline(always)]
fn add_product(w: &Half, x: &Half, mut sums: Half) -> Half {
    for lane in 0..SUMS / 2 {
        sums[lane] = w[lane].mul_add(x[lane], sums[lane]);
    }
    sums
}

/// A result from the sums of its whole blocks, and from what of the rows is left.
#[inline(always)]
fn total<T: Element>(mut halves: [Half; 2], w: &[T], x: &[f32]) -> f32 {
    let rest = w.as_chunks::<SUMS>().1;
    if !rest.is_empty() {
        let mut wide = [0.0; SUMS];
        let rest = T::widened(rest, &mut wide).iter().zip(x.as_chunks::<SUMS>().1);
        for (sum, (w, x)) in halves.as_flattened_mut().iter_mut().zip(rest) {
            *sum = w.mul_add(*x, *sum);
        }
    }
    tree(array::from_fn(|lane| halves[0][lane] + halves[1][lane]))
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// Values of both signs and of many sizes, so that another order of additions shows. bf16 and f16 have each.
    fn values(len: usize) -> Vec<f32> {
        let mut state = 1_u32;
        let value = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bf16::from_f32((state >> 8) as f32 / 1e4 - 800.0).to_f32()
        };
        (0..len).map(value).collect()
    }

    /// By the definition of [`SUMS`].
    fn defined(w: &[f32], x: &[f32]) -> f32 {
        let mut sums = [0.0_f32; SUMS];
        for (index, (w, x)) in w.iter().zip(x).enumerate() {
            sums[index % SUMS] = w.mul_add(*x, sums[index % SUMS]);
        }
        let mut half = SUMS / 2;
        while half > 0 {
            for lane in 0..half {
                sums[lane] += sums[lane + half];
            }
            half /= 2;
        }
        sums[0]
    }

    /// [`linear`] of values that `T` has.
    fn computed<T: Element>(x: &[f32], w: &[f32], sizes: (usize, usize, usize)) -> Vec<T> {
        let end = End { bias: None, then: Then::Nothing };
        let y = linear::<T>((&narrowed(x), &narrowed(w)), sizes, end).unwrap();
        y.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn narrowed<T: Element>(values: &[f32]) -> Vec<T> {
        let mut narrow = vec![T::default(); values.len()];
        T::narrow(values, &mut narrow);
        narrow
    }

    #[test]
    fn results_are_bit_for_bit_what_is_defined() {
        for inputs in [1, 31, 32, 45, 64, 1000, 5000] {
            for outputs in [1, 4, 6, 9, 70] {
                let w = values(outputs * inputs);
                for n in 1..=MOST {
                    let x = values(n * inputs);
                    let row = |x| w.chunks(inputs).map(move |w| defined(w, x));
                    let expected: Vec<f32> = x.chunks(inputs).flat_map(row).collect();
                    let sizes = (n, outputs, inputs);
                    assert_eq!(computed::<f32>(&x, &w, sizes), expected, "{sizes:?}");
                    let (in_bf16, in_f16) =
                        (narrowed::<bf16>(&expected), narrowed::<f16>(&expected));
                    assert_eq!(computed::<bf16>(&x, &w, sizes), in_bf16, "{sizes:?} in bf16");
                    assert_eq!(computed::<f16>(&x, &w, sizes), in_f16, "{sizes:?} in f16");
                }
            }
        }
    }
}
