//! What the instructions for pairs of bf16 compute, in ordinary arithmetic: for tests on processors that have other instructions.
//!
//! Source: Intel's Software Developer's Manual, volume 2, `TDPBF16PS` and `VDPBF16PS`, which name the order of the sums and that
//! subnormal operands and results count as 0; the rest was found by comparing with a processor on 512,000 results of five kinds.

use super::kernel::{AMX_FORM, DOT_FORM, PairTask, Paired, Sums};
use super::pack::Order;

/// The smallest normal f32, and below which exact value a result that rounds to it was still too small.
const SMALLEST: f32 = f32::MIN_POSITIVE;

/// The NaN that an infinity times 0, and the difference of infinities, give.
const INVALID: f32 = f32::from_bits(0xFFC0_0000);

/// A subnormal is a zero of its sign.
fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0.0_f32.copysign(value) } else { value }
}

/// The first NaN of several, quiet.
fn first_nan(values: &[f32]) -> Option<f32> {
    let nan = values.iter().find(|value| value.is_nan())?;
    Some(f32::from_bits(nan.to_bits() | 0x0040_0000))
}

/// a × b + c, rounded once. Whether it is too small is judged after rounding to 24 bits with any exponent: a result that only the
/// step of the smallest exponents rounds up to the smallest normal number is flushed too.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    let (a, b, c) = (flush(a), flush(b), flush(c));
    if let Some(nan) = first_nan(&[a, b, c]) {
        return nan;
    }
    let result = a.mul_add(b, c);
    if result.is_nan() {
        return INVALID;
    }
    if result.abs() == SMALLEST {
        // The product is exact in f64; the sum is `sum` and what it leaves, `rest`.
        let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
        let sum = product + c;
        let part = sum - product;
        let rest = (product - (sum - part)) + (c - part);
        let (sum, rest) = (sum.abs(), rest * sum.signum());
        let limit = f64::from(SMALLEST) - 2.0_f64.powi(-151);
        if sum < limit || (sum == limit && rest < 0.0) {
            return 0.0_f32.copysign(result);
        }
    }
    flush(result)
}

/// a + b, flushed.
fn sum(a: f32, b: f32) -> f32 {
    let (a, b) = (flush(a), flush(b));
    if let Some(nan) = first_nan(&[a, b]) {
        return nan;
    }
    let result = a + b;
    if result.is_nan() { INVALID } else { flush(result) }
}

/// Both values of a pair.
fn both(pair: u32) -> [f32; 2] {
    [f32::from_bits(pair << 16), f32::from_bits(pair & 0xFFFF_0000)]
}

/// What `tdpbf16ps` makes of one sum with the pairs of a row and of a column: a chain over the first values of the pairs, one over the
/// second, and both added to the sum.
fn tile_product(sum_before: f32, pairs: impl Iterator<Item = (u32, u32)>) -> f32 {
    let mut chains = [0.0_f32; 2];
    for (left, right) in pairs {
        let (left, right) = (both(left), both(right));
        for (chain, (left, right)) in chains.iter_mut().zip(left.into_iter().zip(right)) {
            *chain = fused(left, right, *chain);
        }
    }
    sum(sum_before, sum(chains[0], chains[1]))
}

/// What `vdpbf16ps` makes of one sum: the second values of the pairs first.
fn dot_product(sum_before: f32, (left, right): (u32, u32)) -> f32 {
    let (left, right) = (both(left), both(right));
    fused(left[0], right[0], fused(left[1], right[1], sum_before))
}

fn nothing() {}

pub(super) static DOT: Paired =
    Paired { left: DOT_FORM.0, right: DOT_FORM.1, tile: dot, enter: nothing, leave: nothing };

pub(super) static AMX_BF16: Paired =
    Paired { left: AMX_FORM.0, right: AMX_FORM.1, tile: amx::<1>, enter: nothing, leave: nothing };

pub(super) static AMX_F16: Paired =
    Paired { left: AMX_FORM.0, right: AMX_FORM.1, tile: amx::<2>, enter: nothing, leave: nothing };

/// See [`Paired::tile`].
unsafe fn dot(task: PairTask, sums: Sums) {
    let (rows, columns) = (DOT_FORM.0.width, DOT_FORM.1.width);
    for row in 0..rows {
        for column in 0..columns {
            let mut total = 0.0;
            // SAFETY: the caller's promise.
            unsafe {
                for step in 0..task.steps {
                    let left = *task.left.add(step * rows + row);
                    let right = *task.right.add(step * columns + column);
                    total = dot_product(total, (left, right));
                }
                let to = sums.to.add(row * sums.pitch + column);
                *to = if sums.add { *to + total } else { total };
            }
        }
    }
}

/// See [`Paired::tile`].
unsafe fn amx<const PARTS: usize>(task: PairTask, sums: Sums) {
    const BLOCK: usize = 16;
    let order: &[(usize, usize)] =
        if PARTS == 1 { &[(0, 0)] } else { &[(0, 0), (0, 1), (1, 1), (1, 0)] };
    let width = AMX_FORM.0.width;
    assert!(AMX_FORM.0.order == Order::Rows && AMX_FORM.1.order == Order::Steps);
    for row in 0..width {
        for column in 0..width {
            // SAFETY: the caller's promise.
            unsafe {
                let to = sums.to.add(row * sums.pitch + column);
                let mut total = if sums.add { *to } else { 0.0 };
                for block in 0..task.steps / BLOCK {
                    for (left_part, right_part) in order {
                        let left = task.left.add((block * PARTS + left_part) * BLOCK * width);
                        let right = task.right.add((block * PARTS + right_part) * BLOCK * width);
                        let pairs = (0..BLOCK).map(|step| {
                            (*left.add(row * BLOCK + step), *right.add(step * width + column))
                        });
                        total = tile_product(total, pairs);
                    }
                }
                *to = total;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn pair(first: f32, second: f32) -> u32 {
        u32::from(bf16::from_f32(first).to_bits())
            | u32::from(bf16::from_f32(second).to_bits()) << 16
    }

    /// By the manual's pseudocode and the cases that were compared with a processor.
    #[test]
    fn sums_are_flushed_and_ordered_as_the_instructions_do() {
        let tiny = 2.0_f32.powi(-126);
        // Subnormal operands, results and sums are 0; an exact product below the smallest number is not lost before it is added.
        assert_eq!(fused(1.0, tiny / 2.0, 0.0).to_bits(), 0);
        assert_eq!(fused(-0.5, tiny, 0.0).to_bits(), 0x8000_0000);
        assert_eq!(fused(0.5, tiny, tiny), 1.5 * tiny);
        assert_eq!(sum(1.5 * tiny, -tiny).to_bits(), 0);
        // Both round to 2⁻¹²⁶ with the steps of f32. With 24 bits of any exponent 2⁻¹²⁶ − 2⁻¹⁵¹, a tie, does too; 2⁻¹²⁶ − 2⁻¹⁵⁰ does not.
        let step = |exponent: i32| 2.0_f32.powi(exponent);
        assert_eq!(fused(step(-76), -step(-75), tiny), tiny);
        assert_eq!(fused(step(-75), -step(-75), tiny), 0.0);
        // The second values of a pair come first in a dot product, and the chains of a tile meet at the end.
        let (big, one) = (step(30), 1.0);
        assert_eq!(dot_product(0.0, (pair(-big, big), pair(one, one))), 0.0);
        let pairs = [(pair(big, one), pair(one, one)), (pair(-big, one), pair(one, one))];
        assert_eq!(tile_product(0.5, pairs.into_iter()), 2.5);
        assert_eq!(pairs.into_iter().fold(0.5, dot_product), 0.0);
    }

    #[test]
    fn infinities_and_nans_come_out_as_the_instructions_give_them() {
        let inf = f32::INFINITY;
        assert_eq!(fused(inf, 0.0, 1.0).to_bits(), 0xFFC0_0000);
        assert_eq!(fused(inf, 1.0, -inf).to_bits(), 0xFFC0_0000);
        assert_eq!(sum(inf, -inf).to_bits(), 0xFFC0_0000);
        let signalling = f32::from_bits(0x7F80_0001);
        assert_eq!(fused(1.0, signalling, f32::NAN).to_bits(), 0x7FC0_0001);
        assert_eq!(sum(inf, signalling).to_bits(), 0x7FC0_0001);
    }
}
