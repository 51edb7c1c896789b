//! A language model that generates tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Estimate;
use crate::units::{Bytes, Ratio, Seconds};

/// How a variant serves: with its weights, keys and values in the compute format.
///
/// ```
/// /// The fastest decode of a variant, in tokens per second.
/// fn fastest(serving: &mantissa::record::Serving) -> Option<f64> {
///     serving.batches.iter().map(|batch| batch.decode_tokens_per_second.value).reduce(f64::max)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Serving {
    /// Of one sequence alone, and of a batch; none where the arithmetic is emulated or nothing was timed.
    pub batches: Vec<ServedBatch>,
    /// How far its tokens are from those of FP32; none before a run has ended.
    pub agreement: Option<Agreement>,
}

/// So many sequences served together.
///
/// ```
/// /// The share of the peak that keys and values take.
/// fn share_of_cache(served: &mantissa::record::ServedBatch) -> Option<f64> {
///     Some(served.cache.0 as f64 / served.peak_bytes?.0 as f64)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServedBatch {
    /// Sequences.
    pub batch: usize,
    /// Tokens of all prompts ÷ the time in which they pass through the model, with an interval in this run.
    pub prefill_tokens_per_second: Estimate<f64>,
    /// Generated tokens of all sequences ÷ their time, with an interval in this run.
    pub decode_tokens_per_second: Estimate<f64>,
    /// Peak live bytes: weights, cache and the largest moment of a pass. None where memory was not measured.
    pub peak_bytes: Option<Bytes>,
    /// Bytes of the keys and values in that.
    pub cache: Bytes,
    /// Mean time of a prefill in each timed block: block i of every variant is a pair.
    pub prefill_blocks: Vec<Seconds>,
    /// Mean time of a pass that gives each sequence one token, in each timed block.
    pub decode_blocks: Vec<Seconds>,
    /// Against the baseline; none for the baseline itself.
    #[serde(default)]
    pub against_baseline: Option<ServedAgainst>,
}

/// Serving of a batch against the baseline, paired by block.
///
/// ```
/// /// Whether decode is shown to be faster than the baseline's.
/// fn is_faster(against: &mantissa::record::ServedAgainst) -> bool {
///     against.decode_time_ratio.is_some_and(|ratio| ratio.high.0 < 1.0)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServedAgainst {
    /// Time of prefill, variant ÷ baseline.
    pub prefill_time_ratio: Option<Estimate<Ratio>>,
    /// Time of decode, variant ÷ baseline.
    pub decode_time_ratio: Option<Estimate<Ratio>>,
    /// Peak memory, variant ÷ baseline: deterministic, so without an interval.
    pub memory_ratio: Option<Ratio>,
}

/// How far the compute format's tokens are from those of FP32 with the same weights: FP32 generates the most probable tokens after
/// each prompt, and both predict each next token after the same tokens. Each prompt is one value, the
/// mean over its positions and the runs; the intervals are over prompts.
///
/// ```
/// /// Tokens that differ, of all that were compared.
/// fn differ(agreement: &mantissa::record::Agreement) -> f64 {
///     let all = agreement.prompts * agreement.tokens;
///     (1.0 - agreement.equal_tokens.value) * all as f64
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Agreement {
    /// Prompts.
    pub prompts: usize,
    /// Tokens generated after each.
    pub tokens: usize,
    /// Share of positions at which both find the same token the most probable, 0 to 1.
    pub equal_tokens: Estimate<f64>,
    /// Kullback–Leibler divergence of the next token's distribution from that of FP32, in nats: 0 where they are the same. None where
    /// logits were not finite.
    pub kl_divergence: Option<Estimate<f64>>,
}

/// One prompt of a run.
///
/// ```
/// use mantissa::record::PromptAgreement;
///
/// let prompt = PromptAgreement { equal_tokens: 15, tokens: 16, kl_divergence: Some(2.5e-4) };
/// assert!(prompt.equal_tokens <= prompt.tokens);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PromptAgreement {
    /// Generated tokens at which both find the same one the most probable.
    pub equal_tokens: usize,
    /// Generated tokens.
    pub tokens: usize,
    /// Mean divergence over these positions, in nats; none where logits were not finite.
    pub kl_divergence: Option<f64>,
}
