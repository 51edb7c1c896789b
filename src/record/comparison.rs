//! A variant against the baseline, and the claims.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Estimate;
use crate::units::Ratio;

/// A variant against the baseline, paired by block (times) or by seed (accuracy, error).
///
/// ```
/// use mantissa::record::VariantResult;
///
/// /// The time of a variant's step ÷ that of the baseline's.
/// fn time_ratio(variant: &VariantResult) -> Option<f64> {
///     Some(variant.against_baseline.as_ref()?.train_time_ratio.as_ref()?.value.0)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgainstBaseline {
    /// The baseline's name.
    pub baseline: String,
    /// Step time, variant ÷ baseline.
    pub train_time_ratio: Option<Estimate<Ratio>>,
    /// Peak training memory, variant ÷ baseline: deterministic, so without an interval.
    pub train_memory_ratio: Option<Ratio>,
    /// Inference time, variant ÷ baseline.
    pub inference_time_ratio: Option<Estimate<Ratio>>,
    /// Peak inference memory, variant ÷ baseline.
    pub inference_memory_ratio: Option<Ratio>,
    /// Test accuracy, variant − baseline; only of a classification.
    pub accuracy_difference: Option<MetricDifference>,
    /// Test mean squared error, variant − baseline; only of a regression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub squared_error_difference: Option<MetricDifference>,
    /// Test perplexity, variant − baseline; only of a language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity_difference: Option<MetricDifference>,
}

impl AgainstBaseline {
    /// The difference of the experiment's metric.
    pub fn metric_difference(&self) -> Option<&MetricDifference> {
        let classification = self.accuracy_difference.as_ref();
        let regression = self.squared_error_difference.as_ref();
        classification.or(regression).or(self.perplexity_difference.as_ref())
    }

    /// The difference of the experiment's metric.
    pub fn metric_difference_mut(&mut self) -> Option<&mut MetricDifference> {
        let classification = self.accuracy_difference.as_mut();
        let regression = self.squared_error_difference.as_mut();
        classification.or(regression).or(self.perplexity_difference.as_mut())
    }
}

/// The mean paired difference of the experiment's metric, variant − baseline.
///
/// ```
/// use mantissa::record::{MetricDifference, MetricVerdict};
///
/// /// Whether a variant does as the baseline, or better.
/// fn is_as_good(difference: &MetricDifference) -> bool {
///     matches!(difference.verdict, MetricVerdict::Equivalent | MetricVerdict::Better)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricDifference {
    /// Mean of the differences by seed.
    pub value: f64,
    /// Lower end of the 95 % interval; none with fewer than two pairs.
    pub low: Option<f64>,
    /// Upper end of the 95 % interval.
    pub high: Option<f64>,
    /// Two-sided sign-flip permutation p, not adjusted.
    pub p: Option<f64>,
    /// `p` adjusted by Holm over the experiment's variants; none of a control, which is compared for itself.
    pub p_holm: Option<f64>,
    /// Share of pairs in which the variant is better, ties counted half.
    pub probability_better: Option<f64>,
    /// Pairs of seeds compared.
    pub pairs: usize,
    /// What follows.
    pub verdict: MetricVerdict,
}

/// What the paired differences allow to say.
///
/// ```
/// use mantissa::record::MetricVerdict;
///
/// assert_eq!(serde_json::to_string(&MetricVerdict::Equivalent)?, "\"equivalent\"");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetricVerdict {
    /// The interval lies on the worse side of 0, which is below it for an accuracy, and p < 0.05.
    Worse,
    /// The interval lies on the better side of 0 and p < 0.05.
    Better,
    /// The 90 % interval lies within ±δ, and would after one more seed had gone 5 standard deviations off.
    Equivalent,
    /// None of these: not a statement that they are the same.
    Inconclusive,
}

/// How a claim fared.
///
/// ```
/// use mantissa::record::{ClaimVerdict, Results};
///
/// /// The claims that an experiment refutes, each with the variant.
/// fn refuted(results: &Results) -> Vec<(&str, &str)> {
///     let refuted = results.claims.iter().filter(|claim| claim.verdict == ClaimVerdict::Refuted);
///     refuted.map(|claim| (&claim.id[..], &claim.variant[..])).collect()
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimVerdict {
    /// The interval lies wholly on the claim's side of the threshold.
    Confirmed,
    /// The interval lies wholly on the other side.
    Refuted,
    /// The interval straddles the threshold, or there are too few seeds.
    Inconclusive,
    /// Nothing here measures it, or what was measured leaves units of the processor unused.
    NotMeasured,
}

/// One claim judged on one variant.
///
/// ```
/// use mantissa::record::ClaimResult;
///
/// /// A claim in one line.
/// fn line(claim: &ClaimResult) -> String {
///     format!("{} of {}: {:?}, {}", claim.id, claim.variant, claim.verdict, claim.threshold)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimResult {
    /// Such as `train-time`.
    pub id: String,
    /// The variant it was judged on.
    pub variant: String,
    /// The verdict.
    pub verdict: ClaimVerdict,
    /// The number it was judged by.
    pub measured: Option<ClaimMeasure>,
    /// The threshold in words and numbers.
    pub threshold: String,
    /// What is needed to decide, where it is open.
    pub missing: Option<String>,
}

/// The number a claim was judged by.
///
/// ```
/// use mantissa::record::ClaimMeasure;
///
/// let measure = ClaimMeasure { value: 0.5, low: Some(0.4), high: Some(0.6) };
/// assert!(measure.low <= Some(measure.value));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimMeasure {
    /// The point.
    pub value: f64,
    /// Lower end of the 95 % interval, where there is one.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}
