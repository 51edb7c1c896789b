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
///
/// ```
/// use mantissa::precision::{Format, Rounder};
///
/// let rounder = Rounder::new(Format::F16);
/// let rounded = [1.0 / 3.0, 1e-10].map(|value| rounder.round(value));
/// assert_eq!(rounded, [1365.0 / 4096.0, 0.0]);
/// assert!(rounder.overflows(1e5) && !rounder.overflows(65_504.0));
/// ```
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
                Overflow::Largest => (format.max_finite() as f32).to_bits().cast_signed(),
            },
        }
    }

    /// Rounds one value, as [`Format::round`] does.
    #[inline]
    pub fn round(self, value: f32) -> f32 {
        let bits = value.to_bits().cast_signed();
        let rounded = self.unbounded(value);
        let bounded = if rounded > self.max_finite { self.overflow } else { rounded };
        let result = if bits & MAGNITUDE > INFINITY { NAN } else { bounded };
        f32::from_bits((result | (bits & !MAGNITUDE)).cast_unsigned())
    }

    /// Whether `value` is finite, and rounds to more than the largest finite value of the format: to infinity or NaN, or
    /// to that value where the format saturates.
    #[inline]
    pub fn overflows(self, value: f32) -> bool {
        let magnitude = value.to_bits().cast_signed() & MAGNITUDE;
        (magnitude < INFINITY) & (self.unbounded(value) > self.max_finite)
    }

    /// The magnitude rounded as if the exponent had no end; of a NaN, anything.
    #[inline(always)]
    fn unbounded(self, value: f32) -> i32 {
        let magnitude = value.to_bits().cast_signed() & MAGNITUDE;
        let odd = (magnitude >> self.dropped_bits) & self.parity;
        let normal = magnitude.wrapping_add(self.below_half + odd) & self.kept;
        let subnormal = (value.abs() + self.subnormal_shift) - self.subnormal_shift;
        if magnitude < self.min_normal { subnormal.to_bits().cast_signed() } else { normal }
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
        let (name, saturates) = match format.to_string() {
            name if name.ends_with("-sat") => (name.replace("-sat", ""), true),
            name => (name.clone(), name.starts_with("fp6-") || name.starts_with("fp4-")),
        };
        // The largest finite value and the first one that would follow it, by the definitions.
        let bias = (1 << (format.exponent_bits() - 1)) - 1;
        let gap = 2f64.powi(-format.mantissa_bits().cast_signed());
        let (largest, too_large) = match &*name {
            "fp8-e4m3" => (448.0, 480.0),
            "fp4-e2m1" => (6.0, 8.0),
            "fp6-e2m3" => (7.5, 8.0),
            "fp6-e3m2" => (28.0, 32.0),
            _ => ((2.0 - gap) * 2f64.powi(bias), 2f64.powi(bias + 1)),
        };
        let beyond = match &*name {
            _ if saturates => largest as f32,
            "fp8-e4m3" => f32::NAN,
            _ => f32::INFINITY,
        };
        if value.is_nan() || value == 0.0 {
            return value;
        }
        if value.is_infinite() {
            return beyond.copysign(value);
        }
        let wide = f64::from(value);
        let exponent = i32::try_from((wide.to_bits() >> 52) & 0x7ff).unwrap() - 1023;
        let gap = 2f64.powi(exponent.max(1 - bias) - format.mantissa_bits().cast_signed());
        let rounded = (wide / gap).round_ties_even() * gap;
        if rounded.abs() < too_large { rounded as f32 } else { beyond.copysign(value) }
    }

    /// The formats that random values are rounded to.
    const NAMES: [&str; 27] = [
        "f32",
        "tf32",
        "f16",
        "bf16",
        "fp8-e4m3",
        "fp8-e5m2",
        "e2m1",
        "e2m3",
        "e2m23",
        "e3m2",
        "e4m3",
        "e5m2",
        "e5m10",
        "e6m9",
        "e7m1",
        "e7m23",
        "e8m1",
        "e8m22",
        "e8m23",
        "fp4-e2m1",
        "fp6-e2m3",
        "fp6-e3m2",
        "fp8-e4m3-sat",
        "fp8-e5m2-sat",
        "e2m1-sat",
        "e5m10-sat",
        "e8m23-sat",
    ];

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
        for name in NAMES {
            let format = format(name);
            let rounder = Rounder::new(format);
            for value in probes(format).flat_map(around) {
                let expected = oracle(format, value);
                same(rounder.round(value), expected, format_args!("{name} {value:e}"));
            }
        }
    }

    /// A finite value overflows where its nearest one, had the exponent one more value, is past the largest.
    #[test]
    fn what_overflows_is_finite_and_rounds_past_the_largest_value() {
        for name in NAMES {
            let format = format(name);
            let rounder = Rounder::new(format);
            for value in probes(format).flat_map(around) {
                let half_a_gap = 2f64.powi(
                    format.max_finite().log2().floor() as i32 - 1 - format.mantissa_bits() as i32,
                );
                let limit = format.max_finite() + half_a_gap;
                // At the limit itself, the even neighbour: only e4m3's largest value has an even mantissa.
                let magnitude = f64::from(value).abs();
                let overflows =
                    magnitude > limit || (magnitude == limit && !name.starts_with("fp8-e4m3"));
                let expected = value.is_finite() && overflows;
                assert_eq!(rounder.overflows(value), expected, "{name} {value:e}");
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
            ("fp8-e5m2-sat", 61440f32.next_down(), 57344.0, 61440.0, 57344.0),
            ("fp8-e4m3-sat", 464.0, 448.0, 464f32.next_up(), 448.0),
            ("fp8-e4m3-sat", 480.0, 448.0, f32::INFINITY, 448.0),
            ("e2m1-sat", 3.5f32.next_down(), 3.0, 3.5, 3.0),
            ("fp4-e2m1", 6.5, 6.0, f32::INFINITY, 6.0),
            ("fp6-e2m3", 7.75, 7.5, f32::MAX, 7.5),
            ("fp6-e3m2", 30.0, 28.0, f32::INFINITY, 28.0),
        ];
        for (name, last, largest, first, beyond) in table {
            same(format(name).round(last), largest, name);
            same(format(name).round(-last), -largest, name);
            same(format(name).round(first), beyond, name);
            same(format(name).round(-first), -beyond, name);
        }
    }

    /// All values of the elements of OCP Microscaling Formats 1.0, section 5.3, from 0 on. By `ml_dtypes` 0.6:
    /// ```python
    /// for t in (ml_dtypes.float4_e2m1fn, ml_dtypes.float6_e2m3fn, ml_dtypes.float6_e3m2fn):
    ///     n = 2 ** (ml_dtypes.finfo(t).bits - 1)
    ///     print(np.arange(n, dtype=np.uint8).view(t).astype(np.float32).tolist())
    /// ```
    #[test]
    fn elements_of_microscaling_formats_round_to_the_nearest_of_the_published_values() {
        #[rustfmt::skip]
        let table: [(&str, &[f32]); 3] = [
            ("fp4-e2m1", &[0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]),
            ("fp6-e2m3", &[
                0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875,
                2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5,
            ]),
            ("fp6-e3m2", &[
                0.0, 0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5, 1.75,
                2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 28.0,
            ]),
        ];
        for (name, values) in table {
            let format = format(name);
            assert_eq!(values.len(), 1 << (format.bits() - 1), "{name}");
            for sign in [1.0, -1.0] {
                let check = |value: f32, nearest: f32| {
                    same(
                        format.round(sign * value),
                        sign * nearest,
                        format_args!("{name} {value}"),
                    );
                };
                for (code, &value) in values.iter().enumerate() {
                    check(value, value);
                    let Some(&next) = values.get(code + 1) else {
                        // There is nothing past the last value: it is the nearest of all that are larger.
                        for larger in [value.next_up(), 1.1 * value, 1e30, f32::INFINITY] {
                            check(larger, value);
                        }
                        continue;
                    };
                    let midpoint = f32::midpoint(value, next);
                    check(midpoint.next_down(), value);
                    check(midpoint, if code % 2 == 0 { value } else { next });
                    check(midpoint.next_up(), next);
                }
            }
            // There is no NaN to round to; the emulation keeps the one that it is given, so that it is seen.
            assert!(format.round(f32::NAN).is_nan(), "{name}");
        }
    }

    /// By `PyTorch` 2.15, which saturates in e4m3 and not in e5m2:
    /// ```python
    /// x = torch.tensor([448, 464, 464.1, 480, 1e9, torch.inf, -torch.inf, torch.nan, 61439, 61440])
    /// print(x.to(torch.float8_e4m3fn).float(), x.to(torch.float8_e5m2).float())
    /// ```
    /// The column for e5m2 with saturation is by the PTX ISA 9.0, `cvt.satfinite`: beyond the largest value, infinity too, is
    /// that value; NaN is NaN.
    #[test]
    fn saturation_is_that_of_pytorch_and_of_nvidia_hardware() {
        #[rustfmt::skip]
        let table = [
            // value, fp8-e4m3-sat, fp8-e5m2, fp8-e5m2-sat
            (448.0, 448.0, 448.0, 448.0),
            (464.0, 448.0, 448.0, 448.0),
            (464.1, 448.0, 448.0, 448.0),
            (480.0, 448.0, 512.0, 512.0),
            (1e9, 448.0, f32::INFINITY, 57344.0),
            (f32::INFINITY, 448.0, f32::INFINITY, 57344.0),
            (f32::NEG_INFINITY, -448.0, f32::NEG_INFINITY, -57344.0),
            (f32::NAN, f32::NAN, f32::NAN, f32::NAN),
            (61439.0, 448.0, 57344.0, 57344.0),
            (61440.0, 448.0, f32::INFINITY, 57344.0),
        ];
        for (value, e4m3, e5m2, saturated) in table {
            same(format("fp8-e4m3-sat").round(value), e4m3, value);
            same(format("fp8-e5m2").round(value), e5m2, value);
            same(format("fp8-e5m2-sat").round(value), saturated, value);
        }
    }
}
