//! The normal distribution in f32, by IEEE operations alone: the same bits on every processor, and a loop over it becomes vectors.

use super::exponential::exp;

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
    /// e^(z²) erfc(z) (1 + 2z) as a polynomial of q = (z − 2) / (z + 2), the greatest power first: the polynomial that has its values at
    /// the zeros of the Chebyshev polynomial of degree 11 for z from 0 to 11, computed with 40 digits. It is 1.2e-8 off.
    const SCALED: [f32; 11] = [
        3.292_978_7e-5,
        -3.500_62e-4,
        -1.249_076_7e-3,
        1.262_663_4e-3,
        8.631_818e-3,
        -8.042_482e-3,
        -5.420_321e-2,
        0.164_053_1,
        -0.166_031_53,
        -9.276_39e-2,
        1.276_978_4,
    ];
    // Beyond 15 the tail is 0 in f32. A NaN stays one.
    let distance = x.abs();
    let distance = if distance > 15.0 { 15.0 } else { distance };
    // e^(−x²/2) with what rounding leaves of the square.
    let half = 0.5 * distance;
    let square = half * distance;
    let rest = half.mul_add(distance, -square);
    let power = exp(-square);
    let power = rest.mul_add(-power, power);
    let z = distance * std::f32::consts::FRAC_1_SQRT_2;
    let q = (z - 2.0) / (z + 2.0);
    let mut scaled = 0.0;
    for coefficient in SCALED {
        scaled = q.mul_add(scaled, coefficient);
    }
    let tail = 0.5 * power * (scaled / z.mul_add(2.0, 1.0));
    Normal { share: if x < 0.0 { tail } else { 1.0 - tail }, density: DENSITY * power }
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
