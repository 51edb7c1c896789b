//! Floating-point formats by their numbers and names.

use std::fmt;
use std::str::FromStr;

use super::Rounder;

/// A binary floating-point format of at most 32 bits: one sign bit, then exponent, then mantissa, with subnormals.
///
/// Text form: a name of [`Format::NAMED`] or `eXmY`. `-sat` behind one that is emulated asks for saturation: what is
/// beyond the largest finite value becomes that value, with its sign.
///
/// Two formats are equal when they have the same numbers *and* the same name: `e5m10` has the numbers of [`Format::F16`],
/// but it is the emulated form, kept in f32, and `f16` is the native one, stored in 16 bits.
///
/// ```
/// use mantissa::precision::Format;
///
/// let format: Format = "e4m3".parse()?;
/// assert_eq!((format.exponent_bits(), format.mantissa_bits(), format.bits()), (4, 3, 8));
/// assert_eq!(Format::F16.max_finite(), 65_504.0);
/// // Ties go to the even number.
/// assert_eq!(Format::BF16.round(1.0 + 2.0_f32.powi(-8)), 1.0);
/// # Ok::<(), mantissa::precision::FormatError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    name: Option<&'static str>,
    exponent_bits: u8,
    mantissa_bits: u8,
    top: Top,
    overflow: Overflow,
}

/// What the codes with the largest exponent are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Top {
    /// Infinity and NaN, as in IEEE 754.
    Specials,
    /// Numbers, but for the last one, which is NaN.
    OneNan,
    /// Numbers.
    Numbers,
}

/// What a value beyond the largest finite one rounds to. Infinity counts as such a value.
///
/// ```
/// use mantissa::precision::{Format, Overflow};
///
/// assert_eq!(Format::F16.overflow(), Overflow::Infinity);
/// assert_eq!(Format::F16.round(1e5), f32::INFINITY);
/// assert_eq!(Format::FP8_E4M3.overflow(), Overflow::Nan);
/// assert!(Format::FP8_E4M3.round(1e5).is_nan());
/// assert_eq!(Format::FP4_E2M1.overflow(), Overflow::Largest);
/// assert_eq!(Format::FP4_E2M1.round(1e5), 6.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// ±∞, as in IEEE 754.
    Infinity,
    /// NaN: the format has no infinity (fp8 e4m3 of the Open Compute Project).
    Nan,
    /// The largest finite value with the sign: saturation.
    Largest,
}

/// What a format's text ends with where it saturates and another mode is its plain one.
const SATURATING: &str = "-sat";

/// Invalid name of a format.
///
/// ```
/// use mantissa::precision::{Format, FormatError};
///
/// let error: FormatError = "f17".parse::<Format>().unwrap_err();
/// assert!(error.to_string().contains("f17"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown format \"{0}\"; known: {names}, and eXmY with 2 to 8 exponent and 1 to 23 mantissa bits; fp8-… and eXmY also with -sat behind, to saturate",
    names = Format::NAMED.map(|format| format.to_string()).join(", ")
)]
pub struct FormatError(pub String);

impl Format {
    /// IEEE binary32.
    pub const F32: Self = Self::named("f32", 8, 23);
    /// NVIDIA's `TensorFloat-32`: the exponent of f32, the mantissa of f16.
    pub const TF32: Self = Self::named("tf32", 8, 10);
    /// IEEE binary16.
    pub const F16: Self = Self::named("f16", 5, 10);
    /// bfloat16.
    pub const BF16: Self = Self::named("bf16", 8, 7);
    /// OCP 8-bit floating point, E4M3: no infinity, and NaN only where exponent and mantissa are all ones.
    pub const FP8_E4M3: Self =
        Self { top: Top::OneNan, overflow: Overflow::Nan, ..Self::named("fp8-e4m3", 4, 3) };
    /// OCP 8-bit floating point, E5M2.
    pub const FP8_E5M2: Self = Self::named("fp8-e5m2", 5, 2);
    /// The 6-bit element of the OCP's microscaling formats with the wider range. It has neither infinity nor NaN.
    pub const FP6_E3M2: Self = Self::element("fp6-e3m2", 3, 2);
    /// The 6-bit element of the OCP's microscaling formats with the finer steps. It has neither infinity nor NaN.
    pub const FP6_E2M3: Self = Self::element("fp6-e2m3", 2, 3);
    /// The 4-bit element of the OCP's microscaling formats. It has neither infinity nor NaN.
    pub const FP4_E2M1: Self = Self::element("fp4-e2m1", 2, 1);

    /// The formats that have a name, from wide to narrow.
    pub const NAMED: [Self; 9] = [
        Self::F32,
        Self::TF32,
        Self::F16,
        Self::BF16,
        Self::FP8_E4M3,
        Self::FP8_E5M2,
        Self::FP6_E3M2,
        Self::FP6_E2M3,
        Self::FP4_E2M1,
    ];

    const fn named(name: &'static str, exponent_bits: u8, mantissa_bits: u8) -> Self {
        let (top, overflow) = (Top::Specials, Overflow::Infinity);
        Self { name: Some(name), exponent_bits, mantissa_bits, top, overflow }
    }

    /// OCP Microscaling Formats 1.0, section 5.3: every code is a number, and conversions saturate.
    const fn element(name: &'static str, exponent_bits: u8, mantissa_bits: u8) -> Self {
        let plain = Self::named(name, exponent_bits, mantissa_bits);
        Self { top: Top::Numbers, overflow: Overflow::Largest, ..plain }
    }

    /// The emulated format `eXmY`, built as IEEE 754 builds its own: the largest exponent is for infinity and NaN.
    /// None outside 2 to 8 exponent bits and 1 to 23 mantissa bits, where f32 could not hold every value.
    pub fn ieee(exponent_bits: u8, mantissa_bits: u8) -> Option<Self> {
        ((2..=8).contains(&exponent_bits) && (1..=23).contains(&mantissa_bits))
            .then_some(Self { name: None, ..Self::named("", exponent_bits, mantissa_bits) })
    }

    /// The format with saturation instead of infinities or NaNs; none where it saturates already, and of the formats that
    /// a device may compute in itself.
    pub fn saturating(self) -> Option<Self> {
        let emulated = !self.has_arithmetic(true) && self.overflow != Overflow::Largest;
        emulated.then_some(Self { overflow: Overflow::Largest, ..self })
    }

    /// Bits of the exponent.
    pub fn exponent_bits(self) -> u32 {
        self.exponent_bits.into()
    }

    /// Bits of the mantissa, without the implicit one.
    pub fn mantissa_bits(self) -> u32 {
        self.mantissa_bits.into()
    }

    /// Bits in all: sign, exponent, mantissa.
    pub fn bits(self) -> u32 {
        1 + self.exponent_bits() + self.mantissa_bits()
    }

    /// What the stored exponent of a normal value exceeds its exponent by.
    pub fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    /// What a value beyond [`Format::max_finite`] becomes.
    pub fn overflow(self) -> Overflow {
        self.overflow
    }

    /// Whether values can be stored and computed in the format itself. Every other format is emulated: kept in f32,
    /// with each result rounded.
    pub fn is_native(self) -> bool {
        [Self::F32, Self::F16, Self::BF16].contains(&self)
    }

    /// Whether a device computes in the format itself: in its own storage, or, where it `has_tf32`, in f32's.
    pub fn has_arithmetic(self, has_tf32: bool) -> bool {
        self.is_native() || (self == Self::TF32 && has_tf32)
    }

    /// The largest finite value.
    pub fn max_finite(self) -> f64 {
        match self.top {
            Top::Specials => (2.0 - self.epsilon()) * power_of_two(self.bias()),
            Top::OneNan => (2.0 - 2.0 * self.epsilon()) * power_of_two(self.bias() + 1),
            Top::Numbers => (2.0 - self.epsilon()) * power_of_two(self.bias() + 1),
        }
    }

    /// The smallest positive normal value.
    pub fn min_normal(self) -> f64 {
        power_of_two(1 - self.bias())
    }

    /// The smallest positive value.
    pub fn min_subnormal(self) -> f64 {
        self.min_normal() * self.epsilon()
    }

    /// The distance from 1 to the next larger value.
    pub fn epsilon(self) -> f64 {
        power_of_two(-i32::from(self.mantissa_bits))
    }

    /// Rounds to nearest, ties to even. Keeps subnormals, NaN and the sign of zero; beyond the largest finite value,
    /// the result is what [`Format::overflow`] says. Many values at once: prepare one [`Rounder`] for all of them.
    #[inline]
    pub fn round(self, value: f32) -> f32 {
        Rounder::new(self).round(value)
    }
}

/// 2^`exponent`, exactly. The exponent must be one of a normal f64, as every exponent of these formats is.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(u64::from((exponent + 1023).cast_unsigned()) << 52)
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbered = || format!("e{}m{}", self.exponent_bits, self.mantissa_bits);
        let plain = self.name.map_or_else(numbered, str::to_owned);
        let saturates = self.overflow == Overflow::Largest && self.top != Top::Numbers;
        f.pad(&(plain + if saturates { SATURATING } else { "" }))
    }
}

impl FromStr for Format {
    type Err = FormatError;
    fn from_str(text: &str) -> Result<Self, FormatError> {
        let (plain, saturates) =
            text.strip_suffix(SATURATING).map_or((text, false), |plain| (plain, true));
        let numbered = || {
            let (exponent, mantissa) = plain.strip_prefix('e')?.split_once('m')?;
            Self::ieee(exponent.parse().ok()?, mantissa.parse().ok()?)
        };
        Self::NAMED
            .into_iter()
            .find(|format| format.name == Some(plain))
            .or_else(numbered)
            .and_then(|format| if saturates { format.saturating() } else { Some(format) })
            // `e05m+2` has the numbers of a format, but one format has one text.
            .filter(|format| format.to_string() == text)
            .ok_or_else(|| FormatError(text.to_owned()))
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "results are exact or wrong")]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_parsed_as_it_is_printed() {
        let numbered = (2..=8).flat_map(|x| (1..=23).filter_map(move |y| Format::ieee(x, y)));
        for format in Format::NAMED.into_iter().chain(numbered) {
            assert_eq!(format.to_string().parse(), Ok(format));
            if let Some(saturating) = format.saturating() {
                assert_eq!(saturating.to_string(), format!("{format}-sat"));
                assert_eq!(saturating.to_string().parse(), Ok(saturating));
                assert_eq!(saturating.max_finite(), format.max_finite());
                assert!(saturating != format && saturating.saturating().is_none());
            }
        }
        assert_eq!(Format::ieee(5, 10).unwrap().to_string(), "e5m10");
        assert_ne!(Format::ieee(5, 10).unwrap(), Format::F16);
        assert_eq!(format!("{:>6}|{:<6}|", Format::F16, Format::BF16), "   f16|bf16  |");
    }

    #[test]
    fn a_text_that_is_no_format_names_the_known_ones() {
        for text in [
            "",
            "F32",
            "f64",
            "fp16",
            "e4",
            "m3",
            "e1m2",
            "e9m2",
            "e5m0",
            "e5m24",
            "e05m2",
            "e+5m2",
            "e5m2 ",
            "f32-sat",
            "tf32-sat",
            "f16-sat",
            "bf16-sat",
            "fp4-e2m1-sat",
            "fp8-e4m3-sat-sat",
            "-sat",
            "e5m2-SAT",
        ] {
            let message = text.parse::<Format>().unwrap_err().to_string();
            assert!(message.contains(&format!("\"{text}\"")), "{message}");
            for format in Format::NAMED {
                assert!(message.contains(&format.to_string()), "{message}");
            }
        }
    }

    /// From `PyTorch` 2.15, but for tf32 and e2m1, which are from the definition, and for the last three, which are from
    /// OCP Microscaling Formats 1.0, tables 4 and 5, and the same in `ml_dtypes` 0.6 (`float6_e3m2fn`, …):
    /// ```python
    /// for t in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
    ///     f = torch.finfo(t); print(f.bits, f.max, f.smallest_normal, f.smallest_normal * f.eps, f.eps)
    /// ```
    #[test]
    fn the_numbers_of_a_format() {
        #[rustfmt::skip]
        let table = [
            ("f32", 32, 127, 3.402_823_466_385_288_6e38, 1.175_494_350_822_287_5e-38, 1.401_298_464_324_817e-45, 1.192_092_895_507_812_5e-7),
            ("tf32", 19, 127, 3.401_162_134_214_653_5e38, 1.175_494_350_822_287_5e-38, 1.147_943_701_974_890_1e-41, 0.000_976_562_5),
            ("f16", 16, 15, 65504.0, 0.000_061_035_156_25, 5.960_464_477_539_063e-8, 0.000_976_562_5),
            ("bf16", 16, 127, 3.389_531_389_251_535_5e38, 1.175_494_350_822_287_5e-38, 9.183_549_615_799_121e-41, 0.007_812_5),
            ("fp8-e4m3", 8, 7, 448.0, 0.015_625, 0.001_953_125, 0.125),
            ("fp8-e5m2", 8, 15, 57344.0, 0.000_061_035_156_25, 0.000_015_258_789_062_5, 0.25),
            ("e2m1", 4, 1, 3.0, 1.0, 0.5, 0.5),
            ("fp8-e4m3-sat", 8, 7, 448.0, 0.015_625, 0.001_953_125, 0.125),
            ("e2m1-sat", 4, 1, 3.0, 1.0, 0.5, 0.5),
            ("fp6-e3m2", 6, 3, 28.0, 0.25, 0.0625, 0.25),
            ("fp6-e2m3", 6, 1, 7.5, 1.0, 0.125, 0.125),
            ("fp4-e2m1", 4, 1, 6.0, 1.0, 0.5, 0.5),
        ];
        for (name, bits, bias, max, min_normal, min_subnormal, epsilon) in table {
            let format: Format = name.parse().unwrap();
            assert_eq!(
                (format.bits(), format.bias(), format.exponent_bits() + format.mantissa_bits()),
                (bits, bias, bits - 1),
                "{name}"
            );
            assert_eq!(
                [
                    format.max_finite(),
                    format.min_normal(),
                    format.min_subnormal(),
                    format.epsilon()
                ],
                [max, min_normal, min_subnormal, epsilon],
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_native_and_what_overflow_does() {
        use Overflow::{Infinity, Largest, Nan};
        let native = Format::NAMED.map(Format::is_native);
        assert_eq!(native, [true, false, true, true, false, false, false, false, false]);
        for text in ["e5m10", "e5m10-sat", "e8m23-sat"] {
            assert!(!text.parse::<Format>().unwrap().is_native(), "{text}");
        }
        let overflow = Format::NAMED.map(Format::overflow);
        let [ieee, elements] = [[Infinity; 4], [Largest; 4]];
        assert_eq!((&overflow[..4], &overflow[4..6]), (&ieee[..], &[Nan, Infinity][..]));
        assert_eq!(overflow[6..], elements[..3]);
    }
}
