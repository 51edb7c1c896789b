//! What a model is judged by on the test split.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::Targets;
use crate::formatting;

/// What a model is judged by on the test split: its name, unit, direction and format.
///
/// ```
/// use mantissa::record::TestMetric;
///
/// assert!(TestMetric::Accuracy.is_higher_better());
/// assert_eq!(TestMetric::Accuracy.value(0.9612), "96.12%");
/// // A smaller error is an improvement.
/// assert_eq!(TestMetric::MeanSquaredError.improvement(-0.25), 0.25);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TestMetric {
    /// Classification: correct ÷ all, 0 to 1. Higher is better.
    #[default]
    Accuracy,
    /// Regression: the mean of (output − target)² over samples and values. Lower is better.
    MeanSquaredError,
    /// Language models: e to the mean cross-entropy of the next token, from 1. Lower is better.
    Perplexity,
}

impl TestMetric {
    /// That of a model which predicts such targets.
    pub fn of(targets: &Targets) -> Self {
        match targets {
            Targets::Labels(_) => Self::Accuracy,
            Targets::Values(_) => Self::MeanSquaredError,
            Targets::NextTokens(_) => Self::Perplexity,
        }
    }

    /// `accuracy`, `error`: what it is called once its full name was said.
    pub fn short(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::MeanSquaredError => "error",
            Self::Perplexity => "perplexity",
        }
    }

    /// `Accuracy`, `Error`.
    pub fn short_title(self) -> &'static str {
        match self {
            Self::Accuracy => "Accuracy",
            Self::MeanSquaredError => "Error",
            Self::Perplexity => "Perplexity",
        }
    }

    /// `test accuracy`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "test accuracy",
            Self::MeanSquaredError => "test mean squared error",
            Self::Perplexity => "test perplexity",
        }
    }

    /// `Test accuracy`.
    pub fn title(self) -> &'static str {
        match self {
            Self::Accuracy => "Test accuracy",
            Self::MeanSquaredError => "Test mean squared error",
            Self::Perplexity => "Test perplexity",
        }
    }

    /// Whether a higher value is better.
    pub fn is_higher_better(self) -> bool {
        self == Self::Accuracy
    }

    /// A difference as an improvement: positive is better.
    pub fn improvement(self, difference: f64) -> f64 {
        if self.is_higher_better() { difference } else { -difference }
    }

    /// What a value is multiplied by where it is shown: 100 where the unit is percent.
    pub fn shown(self) -> f64 {
        match self {
            Self::Accuracy => 100.0,
            Self::MeanSquaredError | Self::Perplexity => 1.0,
        }
    }

    /// A value: `96.12%`, `0.03412`.
    pub fn value(self, value: f64) -> String {
        match self {
            Self::Accuracy => format!("{:.2}%", value * 100.0),
            Self::MeanSquaredError | Self::Perplexity => formatting::four_digits(value),
        }
    }

    /// Mean and standard deviation: `96.12% ± 0.31`, `0.03412 ± 0.00021`.
    pub fn spread(self, mean: f64, deviation: f64) -> String {
        match self {
            Self::Accuracy => format!("{} ± {:.2}", self.value(mean), deviation * 100.0),
            Self::MeanSquaredError | Self::Perplexity => {
                format!("{} ± {}", self.value(mean), formatting::four_digits(deviation))
            }
        }
    }

    /// A difference with its sign and without its unit: `+0.20`, `−0.0012`.
    pub fn signed(self, difference: f64) -> String {
        match self {
            Self::Accuracy => formatting::points(difference),
            Self::MeanSquaredError | Self::Perplexity => {
                let sign = match difference {
                    0.0 => "±",
                    d if d < 0.0 => "−",
                    _ => "+",
                };
                format!("{sign}{}", formatting::four_digits(difference.abs()).replace('-', "−"))
            }
        }
    }

    /// A difference with its sign and its unit: `+0.20 pp`, `−0.0012`.
    pub fn difference(self, difference: f64) -> String {
        self.signed(difference) + self.unit_of_differences()
    }

    /// A distance with its unit: `0.5 pp`, `0.0012`.
    pub fn distance(self, distance: f64) -> String {
        match self {
            Self::Accuracy => formatting::points_apart(distance) + self.unit_of_differences(),
            Self::MeanSquaredError | Self::Perplexity => formatting::four_digits(distance),
        }
    }

    /// What stands at an axis of values: `test accuracy (%)`.
    pub fn axis(self) -> &'static str {
        match self {
            Self::Accuracy => "test accuracy (%)",
            Self::MeanSquaredError => "test mean squared error",
            Self::Perplexity => "test perplexity",
        }
    }

    /// What stands at an axis of differences: `difference of test accuracy (percentage points)`.
    pub fn axis_of_differences(self) -> &'static str {
        match self {
            Self::Accuracy => "difference of test accuracy (percentage points)",
            Self::MeanSquaredError => "difference of test mean squared error",
            Self::Perplexity => "difference of test perplexity",
        }
    }

    /// What stands at an axis of improvements, on which up is better.
    pub fn axis_of_improvements(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy − baseline (percentage points)",
            Self::MeanSquaredError => "baseline − error",
            Self::Perplexity => "baseline − perplexity",
        }
    }

    /// How differences are told: `, in percentage points (pp)`, or nothing.
    pub fn in_unit(self) -> &'static str {
        match self {
            Self::Accuracy => " in percentage points (pp)",
            Self::MeanSquaredError | Self::Perplexity => "",
        }
    }

    /// The unit behind a difference, with a space before it.
    pub fn unit_of_differences(self) -> &'static str {
        match self {
            Self::Accuracy => " pp",
            Self::MeanSquaredError | Self::Perplexity => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_says_its_values_and_differences_in_its_unit() {
        let (accuracy, error) = (TestMetric::Accuracy, TestMetric::MeanSquaredError);
        for (printed, expected) in [
            (accuracy.value(0.961_23), "96.12%"),
            (accuracy.spread(0.961_23, 0.0031), "96.12% ± 0.31"),
            (accuracy.difference(-0.0012), "−0.12 pp"),
            (accuracy.distance(0.005), "0.50 pp"),
            (error.value(0.034_123), "0.03412"),
            (error.spread(0.034_123, 0.000_211), "0.03412 ± 0.000211"),
            (error.difference(-0.0012), "−0.0012"),
            (error.difference(12.5), "+12.5"),
            (error.difference(0.0), "±0"),
            (error.distance(0.0012), "0.0012"),
        ] {
            assert_eq!(printed, expected);
        }
        assert_eq!((accuracy.improvement(0.1), error.improvement(0.1)), (0.1, -0.1));
    }
}
