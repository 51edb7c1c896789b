//! The normal distribution in f32, by IEEE operations alone: the same bits on every processor, and a loop over it becomes vectors.

use super::exponential::LN_2;

/// What is known of the standard normal distribution at one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normal {
    /// Φ(x): the share below x.
    pub(crate) share: f32,
    /// φ(x): the density.
    pub(crate) density: f32,
}

/// Φ and φ at x, each off by at most 4 units in the last place where the result is normal: the lower tail keeps its digits.
#[inline(always)]
pub(crate) fn normal(x: f32) -> Normal {
    /// 1 / √(2π).
    const DENSITY: f32 = 0.5 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    const MIDDLE: f32 = 4.0;
    /// Φ(−d) e^(d²/2) (d + 4) as a polynomial of q = (d − 4) / (d + 4), the greatest power first: the polynomial that has its values
    /// at the zeros of the Chebyshev polynomial of degree 10 for d from 0 to 15, computed with 40 digits. It is 1.3e-8 off.
    const SCALED: [f32; 10] = [
        -1.255_583_9e-4,
        1.889_965_2e-4,
        1.566_881_7e-3,
        -3.520_972_8e-3,
        -7.525_402_6e-3,
        6.040_618_6e-2,
        -0.186_523_3,
        0.387_136_7,
        -0.607_896_57,
        0.755_285_14,
    ];
    // Beyond 15 the tail is 0 in f32. A NaN stays one.
    let distance = x.abs();
    let distance = if distance > 15.0 { 15.0 } else { distance };
    let power = power_of_distance(distance);
    let inverse = 1.0 / (distance + MIDDLE);
    let q = inverse.mul_add(-2.0 * MIDDLE, 1.0);
    let mut scaled = SCALED[0];
    for coefficient in &SCALED[1..] {
        scaled = q.mul_add(scaled, *coefficient);
    }
    let tail = power * (scaled * inverse) / LIFT;
    Normal { share: if x < 0.0 { tail } else { 1.0 - tail }, density: power * (DENSITY / LIFT) }
}

/// What [`power_of_distance`] multiplies by, 2⁴⁰, so that its results are normal.
const LIFT: f32 = (1_u64 << 40) as f32;

/// e^(−d²/2) · [`LIFT`] for d from 0 to 15.
#[inline(always)]
fn power_of_distance(distance: f32) -> f32 {
    /// Adding it to n rounds to a whole number, whose low bits are then the exponent of 2ⁿ · [`LIFT`].
    const SHIFT: f32 = 12_582_912.0 + 127.0 + 40.0;
    /// eʳ as a polynomial of r, the greatest power first: 1 + r + r² p(r) with p found as `SCALED` for |r| ≤ 0.347. It is 1e-8 off.
    const SERIES: [f32; 7] =
        [1.392_625e-3, 8.363_233e-3, 4.166_655_2e-2, 0.166_665_76, 0.5, 1.0, 1.0];
    let half = -0.5 * distance;
    let shifted = (half * distance).mul_add(std::f32::consts::LOG2_E, SHIFT);
    let whole = shifted - SHIFT;
    // From the square before it is rounded.
    let rest = whole.mul_add(-LN_2[1], half.mul_add(distance, whole * -LN_2[0]));
    let mut series = SERIES[0];
    for coefficient in &SERIES[1..] {
        series = rest.mul_add(series, *coefficient);
    }
    series * f32::from_bits(shifted.to_bits() << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against erfc and exp in f64, whose own errors are far below a unit of f32.
    #[test]
    fn it_is_within_four_units_of_the_exact_values() {
        let mut worst = [0.0_f64; 2];
        for bits in (0..=14.0_f32.to_bits()).step_by(97) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                let wide = f64::from(x);
                let share = 0.5 * libm::erfc(-wide * std::f64::consts::FRAC_1_SQRT_2);
                let density = libm::exp(-0.5 * wide * wide) / (2.0 * std::f64::consts::PI).sqrt();
                let found = normal(x);
                for (worst, (found, exact)) in
                    worst.iter_mut().zip([(found.share, share), (found.density, density)])
                {
                    let unit = exact.max(f64::from(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
                    *worst = worst.max((f64::from(found) - exact).abs() / unit);
                }
            }
        }
        assert!(worst.iter().all(|worst| *worst <= 4.0), "{worst:?}");
    }

    #[test]
    fn far_out_it_is_zero_one_or_nan() {
        for (x, share) in [(0.0, 0.5), (-0.0, 0.5), (f32::INFINITY, 1.0), (-1e30, 0.0), (40.0, 1.0)]
        {
            let found = normal(x);
            assert!((found.share - share).abs() <= f32::EPSILON, "{x}: {found:?}");
            assert!(x == 0.0 || found.density == 0.0, "{x}: {found:?}");
        }
        let found = normal(f32::NAN);
        assert!(found.share.is_nan() && found.density.is_nan());
    }
}
