//! What is counted of a tensor, by its role in training, as it is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The role of a tensor in training.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Weights cast to the compute format.
    Weights,
    /// Outputs of layers.
    Activations,
    /// Gradients with respect to activations.
    ActivationGradients,
    /// Gradients with respect to weights.
    WeightGradients,
    /// Weight updates: a histogram of Δw; updates that were rounded away are in `updates`.
    Updates,
}

/// Counts and exponents of one layer's tensors in one role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LayerCensus {
    /// The layer's name.
    pub layer: String,
    /// The role.
    pub role: Role,
    /// The counts; none where the values are known only after rounding, as those of candle's operations.
    pub counts: Option<Counts>,
    /// Exponents of the values before rounding; after it where there are no counts.
    pub exponents: ExponentHistogram,
}

/// How many values lie in each binade, before rounding: a value v ≠ 0 is in bin floor(log2 |v|).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExponentHistogram {
    /// Exact zeros.
    pub zeros: u64,
    /// Infinities and NaNs.
    pub non_finite: u64,
    /// Exponent of the first bin; bins before and after the listed ones are empty.
    pub first: i32,
    /// Values in each binade, from `first` on.
    pub bins: Vec<u64>,
}

/// Counts of one role over the census steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Values looked at.
    pub elements: u64,
    /// Finite before rounding, past the format's largest value after it: infinite, NaN, or held at that value.
    pub overflow: u64,
    /// Not 0 before rounding, 0 after.
    pub underflow: u64,
    /// Non-zero subnormal after rounding.
    pub subnormal: u64,
    /// NaN after rounding.
    pub nan: u64,
}

impl Counts {
    /// Both counts together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            elements: self.elements + other.elements,
            overflow: self.overflow + other.overflow,
            underflow: self.underflow + other.underflow,
            subnormal: self.subnormal + other.subnormal,
            nan: self.nan + other.nan,
        }
    }

    /// What is left of these counts without `other`; 0 where `other` has more.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            elements: self.elements.saturating_sub(other.elements),
            overflow: self.overflow.saturating_sub(other.overflow),
            underflow: self.underflow.saturating_sub(other.underflow),
            subnormal: self.subnormal.saturating_sub(other.subnormal),
            nan: self.nan.saturating_sub(other.nan),
        }
    }
}
