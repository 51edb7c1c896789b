//! What is counted of a tensor, by its role in training, as it is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The role of a tensor in training.
///
/// ```
/// use mantissa::numerics::{self, Census, Role};
/// use mantissa::precision::Format;
///
/// let mut census = Census::default();
/// for role in [Role::Activations, Role::WeightGradients] {
///     census.add("hidden", role, &numerics::round_counted(Format::F16, &mut [1e-10]));
/// }
/// let records = census.into_records(&["hidden".to_owned()]);
/// assert_eq!(records.iter().map(|record| record.role).collect::<Vec<_>>(), [Role::Activations, Role::WeightGradients]);
/// ```
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
///
/// ```
/// use mantissa::numerics::{self, Census, LayerCensus, Role};
/// use mantissa::precision::Format;
///
/// let mut census = Census::default();
/// census.add("hidden", Role::Activations, &numerics::round_counted(Format::F16, &mut [1e5, 1.0]));
/// let [LayerCensus { layer, counts, .. }] = &census.into_records(&[])[..] else { panic!("one layer and role") };
/// assert_eq!(layer, "hidden");
/// assert_eq!(counts.map(|counts| (counts.elements, counts.overflow)), Some((2, 1)));
/// ```
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
///
/// ```
/// use mantissa::numerics::{self, Census, Role};
///
/// let mut census = Census::default();
/// census.add("hidden", Role::Updates, &numerics::observe(&[0.0, 1.0, 1.5, 8.0]));
/// let histogram = &census.into_records(&[])[0].exponents;
/// // 1 and 1.5 are in the binade of 2⁰, 8 in that of 2³.
/// assert_eq!((histogram.zeros, histogram.first), (1, 0));
/// assert_eq!(histogram.bins, [2, 0, 0, 1]);
/// ```
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
///
/// ```
/// use mantissa::numerics;
/// use mantissa::precision::Format;
///
/// // 10⁻⁶ is a subnormal number of f16, 10⁻¹⁰ becomes 0, and 10⁵ infinity.
/// let counts = numerics::round_counted(Format::F16, &mut [1.0, 1e-6, 1e-10, 1e5]).counts;
/// assert_eq!((counts.elements, counts.subnormal, counts.underflow, counts.overflow), (4, 1, 1, 1));
/// ```
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
