//! What was counted: overflow, underflow, gradients and updates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Counts, GradientCounts};

/// Updates that were made and those that changed nothing.
///
/// ```
/// use mantissa::record::UpdateCounts;
///
/// let updates = UpdateCounts { elements: 1000, lost: 250 };
/// assert_eq!(updates.lost as f64 / updates.elements as f64, 0.25);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateCounts {
    /// Weights updated, over all steps that were not skipped.
    pub elements: u64,
    /// Of these, the ones with Δw ≠ 0 where w + Δw rounded to w.
    pub lost: u64,
}

/// Counts that are `null` in files where nothing was counted.
mod counted {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Counts;

    pub(super) fn serialize<S: Serializer>(counts: &Counts, to: S) -> Result<S::Ok, S::Error> {
        (counts.elements > 0).then_some(counts).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Counts, D::Error> {
        Ok(Option::<Counts>::deserialize(from)?.unwrap_or_default())
    }
}

/// Counts by role, `null` where nothing was counted. A census looks at every N-th step; `updates`, `gradients` and `skipped_steps` see every step.
///
/// ```
/// use mantissa::record::{Numerics, VariantResult};
///
/// /// Values beyond what the format of a variant holds, on the way forwards.
/// fn overflows(variant: &VariantResult) -> u64 {
///     let Numerics { weights, activations, .. } = &variant.numerics;
///     weights.overflow + activations.overflow
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Numerics {
    /// Weights cast to the compute format.
    #[serde(with = "counted")]
    #[schemars(with = "Option<Counts>")]
    pub weights: Counts,
    /// Outputs of layers, forwards.
    #[serde(with = "counted")]
    #[schemars(with = "Option<Counts>")]
    pub activations: Counts,
    /// Gradients with respect to activations, scaled.
    #[serde(with = "counted")]
    #[schemars(with = "Option<Counts>")]
    pub activation_gradients: Counts,
    /// Gradients with respect to weights, scaled.
    #[serde(with = "counted")]
    #[schemars(with = "Option<Counts>")]
    pub weight_gradients: Counts,
    /// Weight updates.
    pub updates: UpdateCounts,
    /// Cheap exact counts of every step.
    pub gradients: GradientCounts,
    /// Skipped steps, all seeds.
    pub skipped_steps: u64,
    /// What was counted in which steps; all 0 in older files.
    #[serde(default)]
    pub evidence: Evidence,
}

/// What is known of values that leave their format's range, all roles together: from the census steps of the plan and from rejected
/// steps between them. Under a dynamic loss scale that starts too high, the steps before a run's first update are rejected until it
/// has settled; they are counted separately.
///
/// ```
/// use mantissa::record::{Evidence, VariantResult};
///
/// /// Steps of a variant in which every value was looked at, as planned.
/// fn counted(variant: &VariantResult) -> u64 {
///     let Evidence { census_steps, .. } = variant.numerics.evidence;
///     census_steps
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// Census steps of the plan, all seeds.
    pub census_steps: u64,
    /// Rejected steps beside those that were counted, all seeds.
    pub rejected_steps: u64,
    /// Skipped steps before a run's first update, all seeds.
    pub settling_steps: u64,
    /// The counts of those that were counted.
    pub settling: Counts,
    /// The counts of all other steps that were counted.
    pub settled: Counts,
}
