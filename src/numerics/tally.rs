//! One tensor's counts, in one walk over its values.

use super::{Counts, Exponents, Format, Rounder};

/// Words of 64 bits in a GPU's tally: seven counters and the bins.
#[cfg(feature = "cuda")]
pub(crate) const TALLY_WORDS: usize = 7 + super::exponents::BINS;

/// Counts and exponents of one layer's tensors in one role.
///
/// ```
/// use mantissa::numerics::{self, Tally};
/// use mantissa::precision::Format;
///
/// let Tally { counts, exponents } = numerics::round_counted(Format::BF16, &mut [3.0]);
/// assert_eq!((counts.elements, counts.overflow), (1, 0));
/// assert_eq!(exponents, numerics::observe(&[2.0]).exponents, "both are in [2, 4)");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// What rounding did.
    pub counts: Counts,
    /// Exponents before rounding.
    pub exponents: Exponents,
}

impl Tally {
    /// Rounds `values` to `format` in place and counts what that did. At most 2^32 - 1 values.
    ///
    /// Overflow is what was finite and rounds past the largest finite value: to infinity, to NaN (fp8 e4m3), which counts
    /// as both, or to that value where the format saturates, since its range was left all the same. A value that was
    /// infinite before rounding is no overflow.
    pub(super) fn of_rounding(format: Format, values: &mut [f32]) -> Self {
        let exponents = Exponents::of(values);
        let rounder = Rounder::new(format);
        let min_normal = format.min_normal() as f32;
        // Counters as wide as the values, so that a vector of values has a vector of counters.
        let [mut zero, mut below_normal, mut overflow, mut nan] = [0u32; 4];
        for value in &mut *values {
            overflow += u32::from(rounder.overflows(*value));
            *value = rounder.round(*value);
            let magnitude = value.abs();
            zero += u32::from(magnitude == 0.0);
            below_normal += u32::from(magnitude < min_normal);
            nan += u32::from(magnitude.is_nan());
        }
        // Rounding leaves zero a zero: those that there are more of afterwards were made.
        Self {
            counts: Counts {
                elements: values.len() as u64,
                overflow: overflow.into(),
                underflow: u64::from(zero) - exponents.zeros,
                subnormal: (below_normal - zero).into(),
                nan: nan.into(),
            },
            exponents,
        }
    }

    /// The tally that a GPU counted: `Tally` of round.cu, word by word.
    #[cfg(feature = "cuda")]
    pub(crate) fn from_words(words: &[u64; TALLY_WORDS]) -> Self {
        let [elements, overflow, underflow, subnormal, nan, zeros, non_finite, bins @ ..] = words;
        let [elements, overflow, underflow, subnormal, nan] =
            [elements, overflow, underflow, subnormal, nan].map(|word| *word);
        let counts = Counts { elements, overflow, underflow, subnormal, nan };
        Self { counts, exponents: Exponents::from_bins(*zeros, *non_finite, bins) }
    }

    /// Counts `values` without rounding: their number, NaNs and exponents.
    pub(super) fn of_values(values: &[f32]) -> Self {
        let nan: u32 = values.iter().map(|value| u32::from(value.is_nan())).sum();
        Self {
            counts: Counts { elements: values.len() as u64, nan: nan.into(), ..Counts::default() },
            exponents: Exponents::of(values),
        }
    }

    /// Both together.
    pub(super) fn plus(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    /// Adds `other` to this one.
    pub(super) fn add(&mut self, other: &Self) {
        self.counts = self.counts.plus(other.counts);
        self.exponents.add(&other.exponents);
    }
}
