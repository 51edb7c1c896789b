//! Units of measure. A quantity that leaves the module that computed it carries its unit in its type.
//!
//! ```
//! use mantissa::units::{Bytes, Ratio, Seconds};
//!
//! assert_eq!(Seconds(0.0042).to_string(), "4.20 ms");
//! assert_eq!(Bytes(3 << 19).to_string(), "1.50 MiB");
//! assert_eq!(Ratio(0.5).to_string(), "0.50×");
//! ```

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A duration in seconds.
///
/// ```
/// use mantissa::units::Seconds;
///
/// assert_eq!(Seconds(0.25).to_string(), "250 ms");
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Seconds(pub f64);

/// A size in bytes.
///
/// ```
/// use mantissa::units::Bytes;
///
/// assert_eq!(Bytes(3 << 20).to_string(), "3.00 MiB");
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// A quotient of two quantities of the same unit: variant ÷ baseline wherever both are at hand.
///
/// ```
/// use mantissa::units::Ratio;
///
/// assert_eq!(Ratio(1.5).to_string(), "1.50×");
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Ratio(pub f64);

/// Operations in floating point a second: multiplications and additions count one each.
///
/// ```
/// use mantissa::units::Flops;
///
/// assert_eq!(Flops(2e12).to_string(), "2.00 TFLOP/s");
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Flops(pub f64);

impl fmt::Display for Flops {
    /// Three significant digits with the SI prefix that fits: `412 GFLOP/s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            r if r >= 1e15 => (r / 1e15, "PFLOP/s"),
            r if r >= 1e12 => (r / 1e12, "TFLOP/s"),
            r if r >= 1e9 => (r / 1e9, "GFLOP/s"),
            r => (r / 1e6, "MFLOP/s"),
        };
        f.pad(&format!("{} {unit}", significant(value)))
    }
}

impl fmt::Display for Seconds {
    /// Three significant digits with the SI prefix that fits: `12.3 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0.abs() {
            s if s >= 1.0 || s == 0.0 => (self.0, "s"),
            s if s >= 1e-3 => (self.0 * 1e3, "ms"),
            s if s >= 1e-6 => (self.0 * 1e6, "µs"),
            _ => (self.0 * 1e9, "ns"),
        };
        f.pad(&format!("{} {unit}", significant(value)))
    }
}

impl fmt::Display for Bytes {
    /// Three significant digits with the binary prefix that fits: `1.25 MiB`; whole bytes below one KiB.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        f.pad(&format!("{} {}", significant(value), UNITS[unit]))
    }
}

impl fmt::Display for Ratio {
    /// Two decimals and a multiplication sign: `0.52×`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2}×", self.0))
    }
}

/// `value` with three significant digits, without an exponent.
fn significant(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_print_with_three_significant_digits() {
        for (printed, expected) in [
            (Seconds(0.0).to_string(), "0.00 s"),
            (Seconds(0.012_34).to_string(), "12.3 ms"),
            (Seconds(2.5e-7).to_string(), "250 ns"),
            (Bytes(1023).to_string(), "1023 B"),
            (Bytes(1_310_720).to_string(), "1.25 MiB"),
            (Ratio(0.516).to_string(), "0.52×"),
        ] {
            assert_eq!(printed, expected);
        }
    }
}
