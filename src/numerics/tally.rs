//! One tensor's counts, in one walk over its values.

use super::{Counts, Exponents, Format, Rounder};

/// Counts and exponents of one layer's tensors in one role.
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
    /// A value that was infinite before rounding is no overflow. Where the format answers overflow with NaN (fp8
    /// e4m3), a finite value that becomes NaN counts both as overflow and as NaN.
    pub(super) fn of_rounding(format: Format, values: &mut [f32]) -> Self {
        let exponents = Exponents::of(values);
        let rounder = Rounder::new(format);
        let min_normal = format.min_normal() as f32;
        // Counters as wide as the values, so that a vector of values has a vector of counters.
        let [mut overflow, mut underflow, mut subnormal, mut nan] = [0u32; 4];
        for value in &mut *values {
            let before = value.abs();
            *value = rounder.round(*value);
            let after = value.abs();
            // False where `before` is infinite or NaN, and `after` is not below infinity where it is NaN.
            overflow += u32::from(before < f32::INFINITY) & u32::from(!(after < f32::INFINITY));
            underflow += u32::from(before != 0.0) & u32::from(after == 0.0);
            subnormal += u32::from(after != 0.0) & u32::from(after < min_normal);
            nan += u32::from(after.is_nan());
        }
        Self {
            counts: Counts {
                elements: values.len() as u64,
                overflow: overflow.into(),
                underflow: underflow.into(),
                subnormal: subnormal.into(),
                nan: nan.into(),
            },
            exponents,
        }
    }

    /// Counts `values` without rounding: their number, NaNs and exponents.
    pub(super) fn of_values(values: &[f32]) -> Self {
        let nan: u32 = values.iter().map(|value| u32::from(value.is_nan())).sum();
        Self {
            counts: Counts {
                elements: values.len() as u64,
                nan: nan.into(),
                ..Counts::default()
            },
            exponents: Exponents::of(values),
        }
    }

    /// Adds `other` to this one.
    pub(super) fn add(&mut self, other: &Self) {
        self.counts = self.counts.plus(other.counts);
        self.exponents.add(&other.exponents);
    }

    /// Both together.
    pub(super) fn plus(mut self, other: Self) -> Self {
        self.add(&other);
        self
    }
}
