//! Times on further kinds of machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClaimResult, Environment, Estimate, Inference, Serving, TrainTime, VariantResult};
use crate::units::Ratio;

/// The times of all variants on one kind of machine.
///
/// ```
/// use mantissa::record::{KindTimes, Results};
///
/// /// The machines on which an experiment was timed.
/// fn machines(results: &Results) -> Vec<&str> {
///     let others = results.other_kinds.iter().map(|times| &times.environment);
///     std::iter::once(&results.environment).chain(others).map(|on| &on.device_name[..]).collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KindTimes {
    /// The kind's name.
    pub kind: String,
    /// The machine on which was timed.
    pub environment: Environment,
    /// The share of all processors' time, 0 to 1, that other programs took meanwhile; none where the system does not tell.
    pub other_load: Option<f64>,
    /// One entry a variant, in the plan's order.
    pub variants: Vec<VariantTimes>,
    /// The verdict on each claim about times and each variant.
    pub claims: Vec<ClaimResult>,
}

/// The times of a variant on one kind of machine.
///
/// ```
/// use mantissa::record::VariantTimes;
///
/// /// How many times as fast as the baseline a variant trains.
/// fn speed(times: &VariantTimes) -> Option<f64> {
///     Some(1.0 / times.train_time_ratio?.value.0)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariantTimes {
    /// The variant's name.
    pub name: String,
    /// Whether the arithmetic is emulated there: then its times say nothing of hardware and are `null`.
    pub emulated: bool,
    /// Training speed.
    pub train: Option<TrainTime>,
    /// Why there is no training speed, where one could be expected.
    pub untimed: Option<String>,
    /// Inference time and memory with weights in the compute format only.
    pub inference: Option<Inference>,
    /// Speed and memory of serving; none where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
    /// Step time ÷ the baseline's, paired by block; none of the baseline itself.
    pub train_time_ratio: Option<Estimate<Ratio>>,
    /// Inference time ÷ the baseline's, paired by block; none of the baseline itself.
    pub inference_time_ratio: Option<Estimate<Ratio>>,
    /// Peak memory of inference ÷ the baseline's; none of the baseline itself.
    pub inference_memory_ratio: Option<Ratio>,
}

impl VariantTimes {
    /// What was timed of a variant.
    pub fn of(variant: VariantResult) -> Self {
        let against = variant.against_baseline;
        Self {
            name: variant.name,
            emulated: variant.emulated,
            train: variant.train,
            untimed: variant.untimed,
            inference: variant.inference,
            serving: variant.serving,
            train_time_ratio: against.as_ref().and_then(|against| against.train_time_ratio),
            inference_time_ratio: against.as_ref().and_then(|against| against.inference_time_ratio),
            inference_memory_ratio: against.and_then(|against| against.inference_memory_ratio),
        }
    }
}
