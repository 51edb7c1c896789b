//! A number with its interval.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A point with its 95 % interval.
///
/// The interval of a time, or of a rate that follows from one, is that of the blocks of this run: how well the median of
/// these blocks is known. It says nothing of another run, for machines drift; ratios, paired by block, do.
///
/// ```
/// use mantissa::record::Estimate;
/// use mantissa::units::Ratio;
///
/// let ratio = Estimate { value: Ratio(0.8), low: Ratio(0.7), high: Ratio(0.9) };
/// assert!(ratio.high < Ratio(1.0), "the whole interval lies below 1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate<T> {
    /// The point estimate.
    pub value: T,
    /// Lower end of the interval.
    pub low: T,
    /// Upper end of the interval.
    pub high: T,
}

/// A point that has no interval: both ends are `null`.
///
/// ```
/// use mantissa::record::Point;
///
/// assert_eq!(Point::of(0.5), Point { value: 0.5, low: None, high: None });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Point {
    /// The point.
    pub value: f64,
    /// Always absent; older files have a number.
    pub low: Option<f64>,
    /// As `low`.
    pub high: Option<f64>,
}

impl Point {
    /// This value.
    pub const fn of(value: f64) -> Self {
        Self { value, low: None, high: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_interval_has_null_ends_and_older_files_with_ends_are_read() {
        let share = Point::of(0.5);
        let text = serde_json::to_string(&share).unwrap();
        assert_eq!(text, r#"{"value":0.5,"low":null,"high":null}"#);
        assert_eq!(serde_json::from_str::<Point>(&text).unwrap(), share);
        let older = r#"{"value":0.5,"low":0.4,"high":0.6}"#;
        let expected = Point { value: 0.5, low: Some(0.4), high: Some(0.6) };
        assert_eq!(serde_json::from_str::<Point>(older).unwrap(), expected);
    }
}
