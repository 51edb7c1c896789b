//! Rounding of f32 values to a format, to nearest even, without a branch: a loop over a slice becomes vector code.

use super::{Format, Overflow};

const INFINITY: i32 = f32::INFINITY.to_bits().cast_signed();
const NAN: i32 = f32::NAN.to_bits().cast_signed();
const MAGNITUDE: i32 = i32::MAX;

/// A format prepared for rounding many values.
///
/// The magnitude is rounded as an integer, in f32's own bits, where the result is normal: adding just under half of
/// the last place kept, plus that place's bit, carries exactly when nearest-even rounds up, through the exponent too.
/// Where the result is subnormal, all values of the format are multiples of one power of two; adding and subtracting
/// the f32 whose last place is that power lets the addition round. Both are computed and one is chosen.
///
/// Bits are held as `i32`: magnitudes are never negative, and baseline x86-64 compares only signed integers.
///
/// Laid out as in C: the CUDA kernels round by the same fields (`ops/common.cuh`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Rounder {
    dropped_bits: u32,
    below_half: i32,
    parity: i32,
    kept: i32,
    subnormal_shift: f32,
    min_normal: i32,
    max_finite: i32,
    overflow: i32,
}

impl Rounder {
    /// Prepares rounding to `format`.
    #[inline]
    pub fn new(format: Format) -> Self {
        let dropped_bits = 23 - format.mantissa_bits();
        let last_place = 1 << dropped_bits;
        let min_normal = format.min_normal() as f32;
        Self {
            dropped_bits,
            below_half: (last_place / 2 - 1).max(0),
            parity: i32::from(dropped_bits > 0),
            kept: -last_place,
            subnormal_shift: min_normal * last_place as f32,
            min_normal: min_normal.to_bits().cast_signed(),
            max_finite: (format.max_finite() as f32).to_bits().cast_signed(),
            overflow: match format.overflow() {
                Overflow::Infinity => INFINITY,
                Overflow::Nan => NAN,
            },
        }
    }

    /// Rounds one value, as [`Format::round`] does.
    #[inline]
    pub fn round(self, value: f32) -> f32 {
        let bits = value.to_bits().cast_signed();
        let magnitude = bits & MAGNITUDE;

        let odd = (magnitude >> self.dropped_bits) & self.parity;
        let normal = magnitude.wrapping_add(self.below_half + odd) & self.kept;
        let subnormal = (value.abs() + self.subnormal_shift) - self.subnormal_shift;
        let rounded =
            if magnitude < self.min_normal { subnormal.to_bits().cast_signed() } else { normal };

        let bounded = if rounded > self.max_finite { self.overflow } else { rounded };
        let result = if magnitude > INFINITY { NAN } else { bounded };
        f32::from_bits((result | (bits & !MAGNITUDE)).cast_unsigned())
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "results are exact or wrong")]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// Asserts that `got` is `expected` bit for bit, or that both are NaN.
    #[track_caller]
    fn same(got: f32, expected: f32, what: impl std::fmt::Display) {
        let both_nan = got.is_nan() && expected.is_nan();
        assert!(
            both_nan || got.to_bits() == expected.to_bits(),
            "{what}: {got:e} is not {expected:e}"
        );
    }

    fn format(name: &str) -> Format {
        name.parse().unwrap()
    }

    /// Random words, by `SplitMix64`, for the tests.
    fn words(mut state: u64) -> impl Iterator<Item = u32> {
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed >> 32) as u32
        })
    }

    /// The value itself and its neighbours in f32.
    fn around(value: f32) -> [f32; 3] {
        [value, value.next_up(), value.next_down()]
    }

    /// Every value of a 16-bit format, the midpoint to the next one, and the f32 neighbours of both.
    fn check_16_bits(name: &str, decode: impl Fn(u16) -> f32, oracle: impl Fn(f32) -> f32) {
        let format = format(name);
        for bits in 0..=u16::MAX {
            let value = decode(bits);
            let next = decode(bits.wrapping_add(1));
            // Exact: two values of the format that follow each other have a midpoint in f64 and in f32.
            let midpoint = f64::midpoint(f64::from(value), f64::from(next)) as f32;
            for probe in around(value).into_iter().chain(around(midpoint)) {
                same(format.round(probe), oracle(probe), format_args!("{name} {probe:e}"));
            }
        }
    }

    #[test]
    fn f16_rounds_as_the_half_crate_at_every_value_midpoint_and_neighbour() {
        let decode = |bits| f16::from_bits(bits).to_f32();
        for name in ["f16", "e5m10"] {
            check_16_bits(name, decode, |value| f16::from_f32(value).to_f32());
        }
    }

    #[test]
    fn bf16_rounds_as_the_half_crate_at_every_value_midpoint_and_neighbour() {
        let decode = |bits| bf16::from_bits(bits).to_f32();
        for name in ["bf16", "e8m7"] {
            check_16_bits(name, decode, |value| bf16::from_f32(value).to_f32());
        }
    }

    /// The definition in f64, where every step is exact: count the value in units of the gap between the format's
    /// values around it, round that to an integer, ties to even, and look whether the result is too large.
    fn oracle(format: Format, value: f32) -> f32 {
        if !value.is_finite() || value == 0.0 {
            return if value.is_infinite() && format.overflow() == Overflow::Nan {
                f32::NAN
            } else {
                value
            };
        }
        let wide = f64::from(value);
        let exponent = i32::try_from((wide.to_bits() >> 52) & 0x7ff).unwrap() - 1023;
        let bias = (1 << (format.exponent_bits() - 1)) - 1;
        let gap = 2f64.powi(exponent.max(1 - bias) - format.mantissa_bits().cast_signed());
        let rounded = (wide / gap).round_ties_even() * gap;
        let too_large = match format.overflow() {
            Overflow::Infinity => 2f64.powi(bias + 1),
            Overflow::Nan => 480.0,
        };
        match format.overflow() {
            _ if rounded.abs() < too_large => rounded as f32,
            Overflow::Infinity => f32::INFINITY.copysign(value),
            Overflow::Nan => f32::NAN,
        }
    }

    /// Any f32 at all; values from far below the smallest subnormal to past the largest value; and of these the ones
    /// with few mantissa bits, which are often ties.
    fn probes(format: Format) -> impl Iterator<Item = f32> {
        let lowest = 127 - format.bias() - format.mantissa_bits().cast_signed() - 4;
        let exponents = 2 * format.bias() + format.mantissa_bits().cast_signed() + 8;
        words(7).zip(words(13)).take(30_000).flat_map(move |(word, other)| {
            let exponent = lowest + (other >> 8).cast_signed() % exponents;
            let stored = exponent.clamp(0, 255).cast_unsigned();
            let near = (word & 0x807f_ffff) | (stored << 23);
            let few_bits = u32::MAX << (22 - format.mantissa_bits().min(22));
            [word, near, near & few_bits].map(f32::from_bits)
        })
    }

    #[test]
    fn random_bit_patterns_round_as_the_definition_in_f64() {
        for name in [
            "f32", "tf32", "f16", "bf16", "fp8-e4m3", "fp8-e5m2", "e2m1", "e2m3", "e2m23", "e3m2",
            "e4m3", "e5m2", "e5m10", "e6m9", "e7m1", "e7m23", "e8m1", "e8m22", "e8m23",
        ] {
            let format = format(name);
            let rounder = Rounder::new(format);
            for value in probes(format).flat_map(around) {
                same(rounder.round(value), oracle(format, value), format_args!("{name} {value:e}"));
            }
        }
    }

    #[test]
    fn f32_and_its_subnormals_are_unchanged_and_specials_stay() {
        for word in words(11).take(100_000) {
            let value = f32::from_bits(word);
            same(Format::F32.round(value), value, "f32");
            let subnormal = f32::from_bits(word & 0x807f_ffff);
            same(Format::F32.round(subnormal), subnormal, "f32 subnormal");
        }
        for name in ["f32", "tf32", "f16", "bf16", "fp8-e5m2", "e2m1", "e8m1"] {
            for value in [
                0.0,
                -0.0,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::NAN,
                -f32::NAN,
                f32::from_bits(0x7f80_0001),
            ] {
                same(format(name).round(value), value, name);
            }
        }
        for value in [f32::INFINITY, f32::NEG_INFINITY, 480.0, -1e30, f32::MAX, f32::NAN] {
            assert!(Format::FP8_E4M3.round(value).is_nan(), "{value}");
        }
    }

    /// All values of an 8-bit format by the definition of OCP 8-bit Floating Point Specification 1.0, section 5.
    fn decode_fp8(code: u8, exponent_bits: u32, mantissa_bits: u32) -> f64 {
        let bias = (1 << (exponent_bits - 1)) - 1;
        let exponent = i32::from((code & 0x7f) >> mantissa_bits);
        let mantissa = f64::from(code & ((1 << mantissa_bits) - 1));
        let scaled = mantissa / f64::from(1 << mantissa_bits);
        let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
        match (exponent_bits, code & 0x7f) {
            (4, 0x7f) | (5, 0x7d..=0x7f) => f64::NAN,
            (5, 0x7c) => sign * f64::INFINITY,
            _ if exponent == 0 => sign * scaled * 2f64.powi(1 - bias),
            _ => sign * (1.0 + scaled) * 2f64.powi(exponent - bias),
        }
    }

    #[test]
    fn fp8_rounds_to_the_nearest_of_the_published_values() {
        // OCP OFP8 1.0, table 2: bit patterns of the largest normal, smallest normal, largest and smallest subnormal.
        for (bits, e4m3) in [
            (0x7e, 448.0),
            (0x08, 2f64.powi(-6)),
            (0x07, 0.875 * 2f64.powi(-6)),
            (0x01, 2f64.powi(-9)),
        ] {
            assert_eq!(decode_fp8(bits, 4, 3), e4m3);
        }
        for (bits, e5m2) in [
            (0x7b, 57344.0),
            (0x04, 2f64.powi(-14)),
            (0x03, 0.75 * 2f64.powi(-14)),
            (0x01, 2f64.powi(-16)),
        ] {
            assert_eq!(decode_fp8(bits, 5, 2), e5m2);
        }
        for (format, exponent_bits, mantissa_bits) in
            [(Format::FP8_E4M3, 4, 3), (Format::FP8_E5M2, 5, 2)]
        {
            for bits in 0..=u8::MAX {
                let value = decode_fp8(bits, exponent_bits, mantissa_bits) as f32;
                same(format.round(value), value, format_args!("{format} {bits:#x}"));
                let next = decode_fp8(bits.wrapping_add(1), exponent_bits, mantissa_bits) as f32;
                if !(value.is_finite() && next.is_finite()) {
                    continue;
                }
                let midpoint = f32::midpoint(value, next);
                let (before, after) = if value.is_sign_negative() {
                    (midpoint.next_up(), midpoint.next_down())
                } else {
                    (midpoint.next_down(), midpoint.next_up())
                };
                let even = if bits % 2 == 0 { value } else { next };
                for (probe, nearest) in [(before, value), (midpoint, even), (after, next)] {
                    same(format.round(probe), nearest, format_args!("{format} {probe}"));
                }
            }
        }
    }

    #[test]
    fn overflow_starts_half_a_gap_past_the_largest_value() {
        #[rustfmt::skip]
        let table = [
            ("f16", 65520f32.next_down(), 65504.0, 65520.0, f32::INFINITY),
            ("fp8-e5m2", 61440f32.next_down(), 57344.0, 61440.0, f32::INFINITY),
            ("fp8-e4m3", 464.0, 448.0, 464f32.next_up(), f32::NAN),
            ("e2m1", 3.5f32.next_down(), 3.0, 3.5, f32::INFINITY),
        ];
        for (name, last, largest, first, beyond) in table {
            same(format(name).round(last), largest, name);
            same(format(name).round(-last), -largest, name);
            same(format(name).round(first), beyond, name);
            same(format(name).round(-first), -beyond, name);
        }
    }

    #[test]
    fn stochastic_rounding_is_exact_over_all_words_that_matter() {
        // (format, value, the neighbour nearer to zero, the other one, bits that decide, words that round away)
        let bf16_gap = 2f32.powi(-7);
        #[rustfmt::skip]
        let table = [
            ("bf16", 1.0 + 2f32.powi(-9), 1.0, 1.0 + bf16_gap, 16, 16384),
            ("bf16", -1.0 - 2f32.powi(-23), -1.0, -1.0 - bf16_gap, 16, 1),
            ("bf16", f32::from_bits(0x0001_8000), f32::from_bits(0x0001_0000), f32::from_bits(0x0002_0000), 16, 32768),
            ("f16", 65504.0 + 8.0, 65504.0, f32::INFINITY, 13, 2048),
            ("f16", 2f32.powi(-26), 0.0, 2f32.powi(-24), 13, 2048),
            ("fp8-e4m3", 456.0, 448.0, f32::NAN, 12, 1024),
            ("fp8-e4m3", -2f32.powi(-9) * 1.75, -2f32.powi(-9), -2f32.powi(-8), 12, 3072),
            ("e2m1", 0.125, 0.0, 0.5, 10, 256),
        ];
        for (name, value, inner, outer, bits, expected) in table {
            let mut away = 0;
            for word in 0..1u32 << bits {
                let rounded = format(name).round_stochastic(value, word << (32 - bits));
                let is_outer =
                    rounded.to_bits() == outer.to_bits() || (rounded.is_nan() && outer.is_nan());
                assert!(
                    is_outer || rounded.to_bits() == inner.to_bits(),
                    "{name} {value:e}: {rounded:e}"
                );
                away += u32::from(is_outer);
            }
            assert_eq!(away, expected, "{name} {value:e}");
        }
    }

    #[test]
    fn stochastic_rounding_gives_a_neighbour_and_keeps_what_is_exact() {
        for name in ["f32", "tf32", "f16", "bf16", "fp8-e4m3", "fp8-e5m2", "e2m1", "e3m2", "e8m1"] {
            let format = format(name);
            let smallest_chance = format.min_subnormal() * 2f64.powi(-32);
            for (value, random) in probes(format).zip(words(5)) {
                let nearest = format.round(value);
                for random in [0, random, u32::MAX] {
                    let kept = format.round_stochastic(nearest, random);
                    same(kept, nearest, format_args!("{name} {nearest:e}"));
                }
                let [inner, outer, drawn] =
                    [u32::MAX, 0, random].map(|random| format.round_stochastic(value, random));
                assert_eq!(value.is_sign_negative(), drawn.is_sign_negative(), "{name} {value:e}");
                let magnitude = f64::from(value).abs();
                if magnitude < smallest_chance || magnitude >= format.max_finite() || value.is_nan()
                {
                    continue;
                }
                // Both are values of the format with at most one gap between, and the value is there.
                for end in [inner, outer] {
                    same(format.round(end), end, format_args!("{name} {value:e}"));
                }
                let (low, high) = (f64::from(inner).abs(), f64::from(outer).abs());
                let gap = (low * format.epsilon()).max(format.min_subnormal());
                assert!(
                    low <= magnitude && magnitude <= high && high - low <= gap,
                    "{name} {value:e}"
                );
                assert!([inner, outer].contains(&drawn), "{name} {value:e}");
                assert!([inner, outer].contains(&nearest), "{name} {value:e}");
            }
        }
    }
}
