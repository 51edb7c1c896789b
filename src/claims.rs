//! The claims about mixed precision that an experiment tests, and the verdict on each.
//!
//! A claim is judged on each variant whose policy it speaks of. Where no variant of the experiment is of that kind, the
//! claim is listed once as not measured, with an empty variant. From the same numbers follows which variant to use
//! ([`recommend()`]).

mod disturbance;
mod recommend;
mod sample_size;
pub(crate) mod wording;

use crate::formatting::{chosen_share, list, plural};
use crate::precision::{Format, LossScale, Policy};
use crate::record::{
    AgainstBaseline, ClaimMeasure, ClaimResult, ClaimVerdict, Counts, Estimate, MetricVerdict,
    Results, RunSummary, Status, TestMetric, VariantResult,
};
use crate::spec::{ClaimsPlan, ControlKind, Plan};
use crate::stats::{mean, metric_difference, wilson};
use crate::units::Ratio;
use sample_size::{SeedsNeeded, timing_blocks};

pub use disturbance::BUSY;
pub(crate) use disturbance::disturbance;
pub use recommend::recommend;

/// One claim.
struct Claim {
    id: &'static str,
    /// What it says, in a sentence without its full stop.
    sentence: &'static str,
    /// Who says so.
    source: &'static str,
    threshold: fn(&Results) -> String,
    /// The policies that it speaks of, in words and as a test.
    about: &'static str,
    applies: fn(&Policy) -> bool,
    judge: fn(&Case<'_>) -> Judgement,
}

/// A variant on trial and what it is compared with.
struct Case<'a> {
    results: &'a Results,
    variant: &'a VariantResult,
    policy: Policy,
}

/// A verdict and its grounds.
struct Judgement {
    verdict: ClaimVerdict,
    measured: Option<ClaimMeasure>,
    missing: Option<String>,
}

const ARTICLE: &str =
    "Accelerating Large Language Models with Mixed-Precision Techniques, Lightning AI, 2023";
const PAPER: &str = "Mixed Precision Training, Micikevicius et al., ICLR 2018, arXiv:1710.03740";

/// The claims, in the order of the report.
const CLAIMS: [Claim; 8] = [
    Claim {
        id: "train-time",
        sentence: "Mixed precision trains in half of the time of FP32 or less",
        source: ARTICLE,
        threshold: |results| {
            format!("step time ÷ FP32's at most {}", results.plan.claims.train_time)
        },
        about: "16-bit compute and f32 parameters",
        applies: is_mixed,
        judge: train_time,
    },
    Claim {
        id: "train-memory",
        sentence: "Mixed precision needs about as much memory for training as FP32",
        source: ARTICLE,
        threshold: |results| {
            let [low, high] = results.plan.claims.train_memory;
            format!("peak training memory ÷ FP32's from {low} to {high}")
        },
        about: "16-bit compute and f32 parameters",
        applies: is_mixed,
        judge: train_memory,
    },
    Claim {
        id: "infer-memory",
        sentence: "Inference in 16 bits needs half of the memory",
        source: ARTICLE,
        threshold: |results| {
            format!(
                "peak inference memory ÷ FP32's at most {}",
                results.plan.claims.inference_memory
            )
        },
        about: "16-bit compute",
        applies: is_16_bit,
        judge: inference_memory,
    },
    Claim {
        id: "infer-time",
        sentence: "Inference in 16 bits takes half of the time",
        source: ARTICLE,
        threshold: |results| {
            format!("inference time ÷ FP32's at most {}", results.plan.claims.inference_time)
        },
        about: "16-bit compute",
        applies: is_16_bit,
        judge: inference_time,
    },
    Claim {
        id: "accuracy-kept",
        sentence: "FP16 mixed precision keeps the test accuracy, or raises it",
        source: ARTICLE,
        threshold: |results| {
            let (name, margin) = (results.metric.name(), margin_in_words(results, "FP32"));
            format!("{name} − FP32's equivalent within {margin}, or better, and no run lost")
        },
        about: "f16 compute, f32 parameters and loss scaling",
        applies: |policy| is_mixed(policy) && computes(policy, Format::F16) && is_scaled(policy),
        judge: accuracy_kept,
    },
    Claim {
        id: "bf16-robust",
        sentence: "BF16 overflows and underflows more rarely than FP16",
        source: ARTICLE,
        threshold: |results| {
            format!(
                "overflow and underflow, share of values ÷ FP16's at most {} (refuted from 1 on), \
                 and no larger share of steps skipped",
                results.plan.claims.rarer
            )
        },
        about: "bf16 compute",
        applies: |policy| computes(policy, Format::BF16),
        judge: bf16_robust,
    },
    Claim {
        id: "master-weights",
        sentence: "16-bit weights without a copy in FP32 lose small updates, and accuracy",
        source: PAPER,
        threshold: |results| {
            format!(
                "without master weights: a larger share of updates rounded away and a worse {} than with them",
                results.metric.name()
            )
        },
        about: "16-bit parameters",
        applies: is_true_16_bit,
        judge: master_weights,
    },
    Claim {
        id: "loss-scaling",
        sentence: "Without loss scaling, FP16 gradients underflow",
        source: PAPER,
        threshold: |results| {
            let least = chosen_share(results.plan.claims.gradient_underflow);
            format!("underflow, share of gradient values, at least {least}")
        },
        about: "f16 compute and no loss scaling",
        applies: |policy| computes(policy, Format::F16) && !is_scaled(policy),
        judge: loss_scaling,
    },
];

/// What a claim says, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// A sentence without its full stop.
    pub sentence: &'static str,
    /// Title, publisher or authors, and year.
    pub source: &'static str,
}

/// What the claim of this name says; none of a name that this version does not know.
pub fn statement(id: &str) -> Option<Statement> {
    let claim = CLAIMS.iter().find(|claim| claim.id == id)?;
    Some(Statement { sentence: claim.sentence, source: claim.source })
}

/// Judges every claim on every variant that it speaks of, in the order of the claims and of the variants.
///
/// Needs the comparisons with the baseline, their p adjusted (`crate::stats::adjust`).
pub fn judge(results: &Results) -> Vec<ClaimResult> {
    CLAIMS.iter().flat_map(|claim| judge_one(claim, results)).collect()
}

/// The claims that times alone decide.
const OF_TIMES: [&str; 2] = ["train-time", "infer-time"];

/// As [`judge`], of the claims that times alone decide.
pub(crate) fn judge_times(results: &Results) -> Vec<ClaimResult> {
    let of_times = CLAIMS.iter().filter(|claim| OF_TIMES.contains(&claim.id));
    of_times.flat_map(|claim| judge_one(claim, results)).collect()
}

/// The metric by seed, of every run that the machine did not fail: a diverged run counts with the value of the weights that it
/// ended with. If even that is unknown, its accuracy is 0; of an error or a perplexity there is no largest, and the run is left out.
pub(crate) fn test_values(metric: TestMetric, variant: &VariantResult) -> Vec<(u64, f64)> {
    let of_run = |run: &RunSummary| match (run.status, metric) {
        (Status::Failed, _) => None,
        (Status::Diverged, TestMetric::Accuracy) => Some(run.metric().unwrap_or(0.0)),
        (Status::Completed | Status::Diverged, _) => run.metric(),
    };
    let runs = variant.runs.iter();
    runs.filter_map(|run| Some((run.seed, of_run(run)?))).collect()
}

/// δ in the unit of the metric: of an error, a share of the baseline's mean; 0 where that has no runs.
pub(crate) fn margin((plan, metric): (&Plan, TestMetric), baseline: &VariantResult) -> f64 {
    match metric {
        TestMetric::Accuracy => plan.measure.equivalence_margin,
        TestMetric::MeanSquaredError | TestMetric::Perplexity => {
            let errors: Vec<f64> =
                test_values(metric, baseline).into_iter().map(|(_, error)| error).collect();
            plan.measure.error_margin * mean(&errors).unwrap_or(0.0)
        }
    }
}

/// δ in words: `±0.50 pp`, `±5% of FP32's`.
fn margin_in_words(results: &Results, baseline: &str) -> String {
    match results.metric {
        TestMetric::Accuracy => {
            format!("±{}", results.metric.distance(results.plan.measure.equivalence_margin))
        }
        TestMetric::MeanSquaredError | TestMetric::Perplexity => {
            format!("±{} of {baseline}'s", chosen_share(results.plan.measure.error_margin))
        }
    }
}

/// One sentence where the baseline, trained again with the same seeds, did not end with the same weights.
pub fn nondeterminism(results: &Results) -> Option<String> {
    let again = results.controls.iter().find(|control| control.kind == ControlKind::SameSeeds)?;
    let baseline = results.variants.iter().find(|v| v.name == results.plan.baseline)?;
    let twice = || {
        again.result.runs.iter().filter_map(|run| {
            let first = baseline.runs.iter().find(|first| first.seed == run.seed)?;
            let digests = (first.weights_digest.as_ref()?, run.weights_digest.as_ref()?);
            Some((digests.0 != digests.1, first.metric()? - run.metric()?))
        })
    };
    let differ = twice().filter(|(differs, _)| *differs).count();
    if differ == 0 {
        return None;
    }
    let largest = twice().map(|(_, difference)| difference.abs()).fold(0.0, f64::max);
    let consequence = if largest == 0.0 {
        format!("even if every {} was the same", results.metric.name())
    } else {
        let (short, distance) = (results.metric.short(), results.metric.distance(largest));
        format!("and differences of {short} up to {distance} say nothing of precision")
    };
    Some(format!(
        "{} trained twice with the same seed gave other weights in {differ} of {}: this machine is not \
         deterministic, {consequence}.",
        baseline.name,
        plural(twice().count(), "seed")
    ))
}

fn judge_one(claim: &Claim, results: &Results) -> Vec<ClaimResult> {
    let result = |variant: &str, judgement: Judgement| ClaimResult {
        id: claim.id.to_owned(),
        variant: variant.to_owned(),
        verdict: judgement.verdict,
        measured: judgement.measured,
        threshold: (claim.threshold)(results),
        missing: judgement.missing,
    };
    let judged: Vec<ClaimResult> = cases(results)
        .filter(|case| (claim.applies)(&case.policy))
        .map(|case| result(&case.variant.name, (claim.judge)(&case)))
        .collect();
    if judged.is_empty() {
        let needed = format!("a variant with {}", claim.about);
        return vec![result("", not_measured(needed))];
    }
    judged
}

/// Every variant that has results, with its policy.
fn cases(results: &Results) -> impl Iterator<Item = Case<'_>> {
    results.plan.variants.iter().filter_map(move |planned| {
        let variant = results.variants.iter().find(|variant| variant.name == planned.name)?;
        Some(Case { results, variant, policy: planned.policy })
    })
}

fn computes(policy: &Policy, format: Format) -> bool {
    policy.compute == format
}

fn is_16_bit(policy: &Policy) -> bool {
    computes(policy, Format::F16) || computes(policy, Format::BF16)
}

fn is_mixed(policy: &Policy) -> bool {
    is_16_bit(policy) && policy.params == Format::F32
}

fn is_true_16_bit(policy: &Policy) -> bool {
    is_16_bit(policy) && policy.params == policy.compute
}

fn is_scaled(policy: &Policy) -> bool {
    policy.scale != LossScale::None
}

impl<'a> Case<'a> {
    fn thresholds(&self) -> &'a ClaimsPlan {
        &self.results.plan.claims
    }

    /// The comparison with the baseline, if the baseline is FP32: the claims speak of no other.
    fn against_fp32(&self) -> Result<&'a AgainstBaseline, Judgement> {
        let baseline = &self.results.plan.baseline;
        let is_fp32 = cases(self.results).any(|case| {
            let Policy { params, compute, .. } = case.policy;
            case.variant.name == *baseline && params == Format::F32 && compute == Format::F32
        });
        if !is_fp32 {
            return Err(not_measured("an fp32 baseline".to_owned()));
        }
        let comparison = self.variant.against_baseline.as_ref();
        comparison.ok_or_else(|| not_measured("a comparison with the baseline".to_owned()))
    }

    /// What times in the variant's format would need, where the processor has units for it that this program leaves unused.
    fn unused_units(&self) -> Option<String> {
        let format = self.policy.compute.to_string();
        let mut unused = self.results.environment.unused_units.iter();
        let units = unused.find(|units| units.format == format)?;
        let instructions = list(&units.instructions);
        Some(format!(
            "products of {format} by this processor's own instructions for them ({instructions}), which this version \
             does not use"
        ))
    }

    /// The variant of these formats to compare with, one with loss scaling where there is a choice.
    fn partner(&self, params: Format, compute: Format) -> Option<Self> {
        let like = |case: &Case<'_>| case.policy.params == params && case.policy.compute == compute;
        cases(self.results).filter(like).max_by_key(|case| is_scaled(&case.policy))
    }
}

fn not_measured(missing: String) -> Judgement {
    Judgement { verdict: ClaimVerdict::NotMeasured, measured: None, missing: Some(missing) }
}

fn train_time(case: &Case<'_>) -> Judgement {
    time_at_most(case, |comparison| comparison.train_time_ratio, case.thresholds().train_time)
}

fn inference_time(case: &Case<'_>) -> Judgement {
    let threshold = case.thresholds().inference_time;
    time_at_most(case, |comparison| comparison.inference_time_ratio, threshold)
}

fn train_memory(case: &Case<'_>) -> Judgement {
    let [low, high] = case.thresholds().train_memory;
    memory_within(case, |comparison| comparison.train_memory_ratio, low..=high)
}

fn inference_memory(case: &Case<'_>) -> Judgement {
    let range = 0.0..=case.thresholds().inference_memory;
    memory_within(case, |comparison| comparison.inference_memory_ratio, range)
}

/// Confirmed with the whole interval at or under the threshold, refuted with all of it above. Where the processor has units
/// for the variant's format that this program leaves unused, a time that does not confirm the claim refutes nothing: the claim
/// speaks of the format, not of this program.
fn time_at_most(
    case: &Case<'_>,
    ratio: impl Fn(&AgainstBaseline) -> Option<Estimate<Ratio>>,
    threshold: f64,
) -> Judgement {
    let comparison = match case.against_fp32() {
        Ok(comparison) => comparison,
        Err(judgement) => return judgement,
    };
    let Some(ratio) = ratio(comparison) else {
        let needed = if case.variant.emulated {
            "a device that computes in this format: emulated times say nothing"
        } else {
            "a timing phase of two blocks or more"
        };
        return not_measured(needed.to_owned());
    };
    let Estimate { value, low, high } = ratio;
    let (verdict, missing) = if high.0 <= threshold {
        (ClaimVerdict::Confirmed, None)
    } else if let Some(unused) = case.unused_units() {
        return not_measured(unused);
    } else if low.0 > threshold {
        (ClaimVerdict::Refuted, None)
    } else {
        let blocks = case.results.plan.measure.timing_blocks;
        (ClaimVerdict::Inconclusive, Some(timing_blocks(ratio, blocks, threshold)))
    };
    let measured = ClaimMeasure { value: value.0, low: Some(low.0), high: Some(high.0) };
    Judgement { verdict, measured: Some(measured), missing }
}

/// Bytes are exact: confirmed within the range, refuted outside.
fn memory_within(
    case: &Case<'_>,
    ratio: impl Fn(&AgainstBaseline) -> Option<Ratio>,
    range: std::ops::RangeInclusive<f64>,
) -> Judgement {
    match case.against_fp32().map(ratio) {
        Err(judgement) => judgement,
        Ok(None) => not_measured("the peak memory of both".to_owned()),
        Ok(Some(Ratio(value))) => exact(value, confirmed_if(range.contains(&value))),
    }
}

fn confirmed_if(holds: bool) -> ClaimVerdict {
    if holds { ClaimVerdict::Confirmed } else { ClaimVerdict::Refuted }
}

/// A settled verdict on a number without an interval.
fn exact(value: f64, verdict: ClaimVerdict) -> Judgement {
    let measured = Some(ClaimMeasure { value, low: None, high: None });
    Judgement { verdict, measured, missing: None }
}

fn accuracy_kept(case: &Case<'_>) -> Judgement {
    let difference = match case.against_fp32() {
        Ok(comparison) => comparison.metric_difference(),
        Err(judgement) => return judgement,
    };
    let Some(difference) = difference else {
        return not_measured("a seed on which both were tested".to_owned());
    };
    let (verdict, missing) = match (difference.verdict, lost_runs(case)) {
        (MetricVerdict::Worse, _) => (ClaimVerdict::Refuted, None),
        (_, Some(lost)) => (ClaimVerdict::Inconclusive, Some(lost)),
        (MetricVerdict::Inconclusive, None) => {
            let needed = SeedsNeeded::against_baseline(case.results, case.variant);
            (ClaimVerdict::Inconclusive, Some(needed.to_string()))
        }
        (MetricVerdict::Better | MetricVerdict::Equivalent, None) => {
            (ClaimVerdict::Confirmed, None)
        }
    };
    let (value, low, high) = (difference.value, difference.low, difference.high);
    Judgement { verdict, measured: Some(ClaimMeasure { value, low, high }), missing }
}

/// The variant's diverged runs in words, if there are any.
fn lost_runs(case: &Case<'_>) -> Option<String> {
    let runs = &case.variant.runs;
    let diverged = runs.iter().filter(|run| run.status == Status::Diverged).count();
    let share = wilson(diverged as u64, runs.len() as u64)?;
    (diverged > 0).then(|| {
        format!(
            "a training that no run loses: {diverged} of {} diverged (95 % interval of the share: {:.2} to \
             {:.2})",
            runs.len(),
            share.low,
            share.high
        )
    })
}

fn bf16_robust(case: &Case<'_>) -> Judgement {
    let params = if is_mixed(&case.policy) { Format::F32 } else { Format::F16 };
    let Some(fp16) = case.partner(params, Format::F16) else {
        return not_measured("the same policy in f16".to_owned());
    };
    let counted = (out_of_range(case.variant), out_of_range(fp16.variant));
    let (Some(share), Some(fp16_share)) = counted else {
        return not_measured("census steps".to_owned());
    };
    let (skipped, fp16_skipped) = (skipped_share(case.variant), skipped_share(fp16.variant));
    let skips_more = skipped > fp16_skipped;
    if fp16_share == 0.0 && share == 0.0 {
        // No counted step left the range, but a skipped step is one that did.
        return if skips_more {
            Judgement { verdict: ClaimVerdict::Refuted, measured: None, missing: None }
        } else if fp16_skipped > 0.0 && skipped <= case.thresholds().rarer * fp16_skipped {
            exact(skipped / fp16_skipped, ClaimVerdict::Confirmed)
        } else {
            let missing = Some("a model or more steps that leave FP16's range".to_owned());
            Judgement { verdict: ClaimVerdict::Inconclusive, measured: None, missing }
        };
    }
    if fp16_share == 0.0 {
        return Judgement { verdict: ClaimVerdict::Refuted, measured: None, missing: None };
    }
    let ratio = share / fp16_share;
    if ratio >= 1.0 {
        return exact(ratio, ClaimVerdict::Refuted);
    }
    let rarer = case.thresholds().rarer;
    let missing = if skips_more {
        "agreement: values leave the range less often, yet more steps were skipped".to_owned()
    } else if ratio > rarer {
        let more = match case.results.plan.measure.census_every {
            1 => "more steps".to_owned(),
            every => format!("more census steps than one in {every}"),
        };
        format!("{more}: rarer, {ratio:.2} of FP16's, but not {rarer}")
    } else {
        return exact(ratio, ClaimVerdict::Confirmed);
    };
    Judgement { missing: Some(missing), ..exact(ratio, ClaimVerdict::Inconclusive) }
}

/// Share of the values counted that overflowed or underflowed, in census steps and in rejected ones. What happens while a loss scale
/// settles says how it starts, and nothing of the format.
fn out_of_range(variant: &VariantResult) -> Option<f64> {
    let numerics = &variant.numerics;
    let counts = match numerics.evidence.settled {
        Counts { elements: 0, .. } => {
            numerics.weights.plus(numerics.activations).plus(gradients(variant))
        }
        settled => settled,
    };
    share(counts.overflow + counts.underflow, counts.elements)
}

/// The counts of both roles of gradients.
fn gradients(variant: &VariantResult) -> Counts {
    variant.numerics.activation_gradients.plus(variant.numerics.weight_gradients)
}

/// Share of the steps that were skipped, but for those while a loss scale settles.
fn skipped_share(variant: &VariantResult) -> f64 {
    let settling = variant.numerics.evidence.settling_steps;
    let steps: u64 = variant.runs.iter().map(|run| run.steps).sum();
    let skipped: u64 = variant.runs.iter().map(|run| run.skipped_steps).sum();
    share(skipped.saturating_sub(settling), steps.saturating_sub(settling)).unwrap_or(0.0)
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

fn master_weights(case: &Case<'_>) -> Judgement {
    let Some(mixed) = case.partner(Format::F32, case.policy.compute) else {
        return not_measured("the same compute format with f32 parameters".to_owned());
    };
    let lost = |variant: &VariantResult| {
        share(variant.numerics.updates.lost, variant.numerics.updates.elements)
    };
    let (Some(lost_without), Some(lost_with)) = (lost(case.variant), lost(mixed.variant)) else {
        return not_measured("updates of both".to_owned());
    };
    let metric = case.results.metric;
    let margin = margin((&case.results.plan, metric), mixed.variant);
    let [without, with] = [case.variant, mixed.variant].map(|v| test_values(metric, v));
    let Some(difference) = metric_difference(metric, &without, &with, margin) else {
        return not_measured("a seed on which both were tested".to_owned());
    };
    let (verdict, missing) = match difference.verdict {
        _ if lost_without <= lost_with => (ClaimVerdict::Refuted, None),
        MetricVerdict::Worse => (ClaimVerdict::Confirmed, None),
        MetricVerdict::Better | MetricVerdict::Equivalent => (ClaimVerdict::Refuted, None),
        MetricVerdict::Inconclusive => {
            let seeds = SeedsNeeded::new((case.variant, mixed.variant), metric, (margin, 1));
            let shares =
                format!("updates rounded away: {lost_without:.2e} without, {lost_with:.2e} with");
            (ClaimVerdict::Inconclusive, Some(format!("{seeds} ({shares})")))
        }
    };
    let (value, low, high) = (difference.value, difference.low, difference.high);
    Judgement { verdict, measured: Some(ClaimMeasure { value, low, high }), missing }
}

fn loss_scaling(case: &Case<'_>) -> Judgement {
    let counts = gradients(case.variant);
    match share(counts.underflow, counts.elements) {
        None => not_measured("census steps".to_owned()),
        Some(share) => exact(share, confirmed_if(share >= case.thresholds().gradient_underflow)),
    }
}

#[cfg(test)]
mod tests;
