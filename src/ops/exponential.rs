//! The exponential function in f32, by IEEE operations alone: the same bits on every processor, and a loop over it becomes vectors.

/// ln 2 in two parts, of which the first has zeros at its end, so that a product with a whole number is exact.
pub(super) const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];

/// eˣ, off by at most 1 unit in the last place where the result is normal; 0 and infinity beyond what f32 holds.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which then stands in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    // Beyond these the result is infinite or 0. A NaN stays one.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, SHIFT);
    let whole = shifted - SHIFT;
    let rest = whole.mul_add(-LN_2[1], whole.mul_add(-LN_2[0], x));
    // The first terms of the series, of |rest| ≤ ln 2 / 2: what is left out is below 2⁻²⁷.
    let mut series = 1.0 / 5040.0;
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = rest.mul_add(series, term);
    }
    // 2ⁿ by its exponent, in two factors: n may be beyond those of normal numbers.
    let n = (shifted.to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    series * power(half) * power(n.wrapping_sub(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the C library's algorithm in f64, whose own error is far below a unit of f32.
    #[test]
    fn it_is_within_a_unit_of_the_exact_value() {
        let mut worst = 0.0_f64;
        // Every 97th f32 between -104 and 89, of either sign.
        for bits in (0..=104.0_f32.to_bits()).step_by(97) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                if x > 88.7 {
                    continue;
                }
                let exact = libm::exp(f64::from(x));
                let unit = exact.max(f64::from(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
                worst = worst.max((f64::from(exp(x)) - exact).abs() / unit);
            }
        }
        assert!(worst <= 1.0, "{worst}");
    }

    #[test]
    fn far_out_it_is_zero_infinite_or_nan() {
        for (x, expected) in [
            (0.0, 1.0),
            (-0.0, 1.0),
            (f32::NEG_INFINITY, 0.0),
            (-1e30, 0.0),
            (-104.0, 0.0),
            (f32::INFINITY, f32::INFINITY),
            (1e30, f32::INFINITY),
            (89.0, f32::INFINITY),
            // Python: math.exp(-103) = 1.8521e-45, nearest to the smallest positive f32, 1.4013e-45
            (-103.0, f32::from_bits(1)),
        ] {
            assert_eq!(exp(x), expected, "{x}");
        }
        assert!(exp(f32::NAN).is_nan());
    }
}
