//! From the records and timed blocks of the variants to their summaries, and each against the baseline.

use crate::claims::{margin, test_values};
use crate::record::{
    AgainstBaseline, Agreement, Counts, Estimate, Evidence, Inference, MetricDifference, Numerics,
    Phases, Point, PromptAgreement, Role, RunRecord, ServedAgainst, ServedBatch, Serving,
    TestMetric, TrainTime, VariantResult, Work,
};
use crate::spec::{ControlKind, Plan};
use crate::stats;
use crate::train::Timing;
use crate::units::{Flops, Ratio, Seconds};

/// Median step time of a variant with its interval; none without blocks.
pub(super) fn train_time(plan: &Plan, timing: &Timing) -> Option<TrainTime> {
    let blocks = &timing.train;
    let step = median(blocks)?;
    let samples = (plan.train.batch * plan.train.accumulate) as f64;
    let samples_per_second = Estimate {
        value: samples / step.value.0,
        low: samples / step.high.0,
        high: samples / step.low.0,
    };
    Some(TrainTime {
        step_seconds: step,
        samples_per_second,
        phases: phases(&timing.phases),
        work: timing.work.and_then(|(operations, peak)| work(operations, peak, step)),
        gpu: timing.load.summary(),
        blocks: blocks.clone(),
    })
}

/// The median of each phase over the blocks; none without blocks.
fn phases(blocks: &[Phases]) -> Option<Phases> {
    let median = |time: fn(&Phases) -> Seconds| {
        let times: Vec<Seconds> = blocks.iter().map(time).collect();
        stats::median(&numbers(&times)).map(Seconds)
    };
    Some(Phases {
        data: median(|block| block.data)?,
        forward: median(|block| block.forward)?,
        backward: median(|block| block.backward)?,
        unscale: median(|block| block.unscale)?,
        update: median(|block| block.update)?,
    })
}

/// How fast a step multiplies; none where it has no product.
fn work(operations: u64, peak: Flops, step: Estimate<Seconds>) -> Option<Work> {
    let rate = |seconds: Seconds| Flops(operations as f64 / seconds.0);
    let Estimate { value, low, high } = step;
    (operations > 0 && peak.0 > 0.0).then(|| Work {
        operations,
        rate: Estimate { value: rate(value), low: rate(high), high: rate(low) },
        peak,
        share_of_peak: Point::of(rate(value).0 / peak.0),
    })
}

/// Time and memory of inference; none where the arithmetic is emulated.
pub(super) fn inference(plan: &Plan, timing: &Timing) -> Option<Inference> {
    let (peak_bytes, weights) = timing.inference_memory?;
    Some(Inference {
        batch_seconds: median(&timing.inference),
        batch: plan.measure.inference_batch,
        peak_bytes,
        weights,
        blocks: timing.inference.clone(),
    })
}

/// Speed and memory of serving, and how far its tokens are from FP32's; none where nothing of it was measured.
pub(super) fn serving(
    plan: &Plan,
    runs: &[&RunRecord],
    timing: Option<&Timing>,
) -> Option<Serving> {
    let asked = plan.measure.serving?;
    let times = timing.map_or(&[][..], |timing| &timing.serving);
    let batches = times.iter().filter_map(|times| {
        Some(ServedBatch {
            batch: times.batch,
            prefill_tokens_per_second: rate(times.batch * asked.prompt, &times.prefill)?,
            decode_tokens_per_second: rate(times.batch, &times.decode)?,
            peak_bytes: times.peak_bytes,
            cache: times.cache,
            prefill_blocks: times.prefill.clone(),
            decode_blocks: times.decode.clone(),
            against_baseline: None,
        })
    });
    let serving = Serving { batches: batches.collect(), agreement: agreement(runs) };
    (serving.agreement.is_some() || !serving.batches.is_empty()).then_some(serving)
}

/// So many tokens in the time of a block, per second.
fn rate(tokens: usize, blocks: &[Seconds]) -> Option<Estimate<f64>> {
    let Estimate { value, low, high } = median(blocks)?;
    let rate = |seconds: Seconds| tokens as f64 / seconds.0;
    Some(Estimate { value: rate(value), low: rate(high), high: rate(low) })
}

/// The mean over prompts, each the mean over runs.
fn agreement(runs: &[&RunRecord]) -> Option<Agreement> {
    let served: Vec<&[PromptAgreement]> =
        runs.iter().map(|run| &*run.agreement).filter(|prompts| !prompts.is_empty()).collect();
    let prompts = served.iter().map(|prompts| prompts.len()).min()?;
    let over_runs = |value: &dyn Fn(&PromptAgreement) -> Option<f64>| {
        let of_prompt = |prompt: usize| {
            let values: Option<Vec<f64>> = served.iter().map(|run| value(&run[prompt])).collect();
            stats::mean(&values?)
        };
        let means: Option<Vec<f64>> = (0..prompts).map(of_prompt).collect();
        stats::mean_interval(&means?, stats::LEVEL)
    };
    let equal = over_runs(&|prompt| Some(prompt.equal_tokens as f64 / prompt.tokens as f64))?;
    let [low, high] = [equal.low, equal.high].map(|end| end.clamp(0.0, 1.0));
    Some(Agreement {
        prompts,
        tokens: served[0][0].tokens,
        equal_tokens: Estimate { low, high, ..equal },
        // A divergence cannot be below 0, and neither can its mean.
        kl_divergence: over_runs(&|prompt| prompt.kl_divergence)
            .map(|divergence| Estimate { low: divergence.low.max(0.0), ..divergence }),
    })
}

/// Fills in how each batch of a variant is served against the baseline's.
fn serving_against(variant: &mut VariantResult, baseline: &VariantResult) {
    let (Some(serving), Some(baseline)) = (&mut variant.serving, &baseline.serving) else {
        return;
    };
    for batch in &mut serving.batches {
        let Some(other) = baseline.batches.iter().find(|other| other.batch == batch.batch) else {
            continue;
        };
        let ratio =
            |of: &[Seconds], to: &[Seconds]| stats::paired_ratio(&numbers(of), &numbers(to));
        let memory = batch.peak_bytes.zip(other.peak_bytes);
        batch.against_baseline = Some(ServedAgainst {
            prefill_time_ratio: ratio(&batch.prefill_blocks, &other.prefill_blocks),
            decode_time_ratio: ratio(&batch.decode_blocks, &other.decode_blocks),
            memory_ratio: memory.map(|(of, to)| Ratio(of.0 as f64 / to.0 as f64)),
        });
    }
}

/// The median of the blocks with its bootstrap interval, which says nothing of other runs.
fn median(blocks: &[Seconds]) -> Option<Estimate<Seconds>> {
    let estimate = stats::median_estimate(&numbers(blocks))?;
    let Estimate { value, low, high } = estimate;
    Some(Estimate { value: Seconds(value), low: Seconds(low), high: Seconds(high) })
}

fn numbers(blocks: &[Seconds]) -> Vec<f64> {
    blocks.iter().map(|block| block.0).collect()
}

/// Counts of all runs of a variant, by role.
pub(super) fn numerics(runs: &[&RunRecord]) -> Numerics {
    let mut total = Numerics::default();
    for run in runs {
        for layer in &run.census {
            let role: &mut Counts = match layer.role {
                Role::Weights => &mut total.weights,
                Role::Activations => &mut total.activations,
                Role::ActivationGradients => &mut total.activation_gradients,
                Role::WeightGradients => &mut total.weight_gradients,
                Role::Updates => continue,
            };
            *role = role.plus(layer.counts.unwrap_or_default());
        }
        total.updates.elements += run.updates.elements;
        total.updates.lost += run.updates.lost;
        total.gradients = total.gradients.plus(run.gradients);
        total.skipped_steps += run.summary.skipped_steps;
        add_evidence(&mut total.evidence, run);
    }
    total
}

/// Adds what the counted steps of a run tell.
fn add_evidence(evidence: &mut Evidence, run: &RunRecord) {
    let settling = run.settling_steps();
    evidence.settling_steps += settling;
    for counted in &run.counted_steps {
        let steps =
            if counted.planned { &mut evidence.census_steps } else { &mut evidence.rejected_steps };
        *steps += 1;
        let counts =
            if counted.step < settling { &mut evidence.settling } else { &mut evidence.settled };
        *counts = counts.plus(counted.counts);
    }
}

/// Fills in the comparison of every variant but the baseline.
pub(super) fn against_baseline(on: (&Plan, TestMetric), variants: &mut [VariantResult]) {
    let (plan, metric) = on;
    let Some(baseline) = variants.iter().find(|v| v.name == plan.baseline).cloned() else {
        return;
    };
    for variant in variants.iter_mut().filter(|variant| variant.name != baseline.name) {
        let values = test_values(metric, variant);
        variant.against_baseline = Some(compare(on, (variant, &values), &baseline));
        serving_against(variant, &baseline);
    }
    let mut differences: Vec<&mut MetricDifference> = variants
        .iter_mut()
        .filter_map(|variant| variant.against_baseline.as_mut()?.metric_difference_mut())
        .collect();
    stats::adjust(metric, &mut differences);
}

/// A control against the baseline: the i-th of its seeds is paired with the i-th of the plan. It is compared for itself, not
/// as one of the variants among which Holm's method adjusts, so that a control changes no verdict on a variant; its
/// own p is not adjusted.
pub(super) fn control(
    on: (&Plan, TestMetric),
    (kind, result): (ControlKind, &VariantResult),
    variants: &[VariantResult],
) -> Option<AgainstBaseline> {
    let (plan, metric) = on;
    let baseline = variants.iter().find(|variant| variant.name == plan.baseline)?;
    let paired = test_values(metric, result).into_iter();
    let pair = |(seed, value)| Some((plan.paired_seed(kind, seed)?, value));
    let paired: Vec<(u64, f64)> = paired.filter_map(pair).collect();
    Some(compare(on, (result, &paired), baseline))
}

/// A variant, with its values of the metric by the seeds to pair them by, against the baseline.
fn compare(
    (plan, metric): (&Plan, TestMetric),
    (variant, by_seed): (&VariantResult, &[(u64, f64)]),
    baseline: &VariantResult,
) -> AgainstBaseline {
    let blocks = |times: Option<&Vec<Seconds>>| times.map(|blocks| numbers(blocks));
    let ratio = |of: Option<Vec<f64>>, to: Option<Vec<f64>>| stats::paired_ratio(&of?, &to?);
    let train = |v: &VariantResult| blocks(v.train.as_ref().map(|train| &train.blocks));
    let inference = |v: &VariantResult| blocks(v.inference.as_ref().map(|i| &i.blocks));
    let train_memory = |v: &VariantResult| v.memory.map(|memory| memory.peak_bytes.0 as f64);
    let inference_memory = |v: &VariantResult| Some(v.inference.as_ref()?.peak_bytes?.0 as f64);
    let memory_ratio = |measure: &dyn Fn(&VariantResult) -> Option<f64>| {
        measure(variant).zip(measure(baseline)).map(|(of, to)| Ratio(of / to))
    };
    let difference = stats::metric_difference(
        metric,
        by_seed,
        &test_values(metric, baseline),
        margin((plan, metric), baseline),
    );
    AgainstBaseline {
        baseline: baseline.name.clone(),
        train_time_ratio: ratio(train(variant), train(baseline)),
        train_memory_ratio: memory_ratio(&train_memory),
        inference_time_ratio: ratio(inference(variant), inference(baseline)),
        inference_memory_ratio: memory_ratio(&inference_memory),
        accuracy_difference: difference.clone().filter(|_| metric == TestMetric::Accuracy),
        squared_error_difference: difference
            .clone()
            .filter(|_| metric == TestMetric::MeanSquaredError),
        perplexity_difference: difference.filter(|_| metric == TestMetric::Perplexity),
    }
}
