//! From results to the values of metrics: the exact ones, and the timed blocks of the noisy ones.

use std::collections::BTreeMap;

use crate::record::{Results, Serving, Status, TestMetric, VariantResult};
use crate::stats;
use crate::units::Seconds;

use super::metric::{Key, Measured, Metric};

/// The exact metrics of results. A metric that was not measured, such as the memory of emulated arithmetic, is not there.
pub fn exact_metrics(results: &Results) -> BTreeMap<Key, Measured> {
    results
        .variants
        .iter()
        .flat_map(|variant| of_runs(results.metric, variant).chain(of_variant(variant)))
        .collect()
}

fn of_runs(
    judged_by: TestMetric,
    variant: &VariantResult,
) -> impl Iterator<Item = (Key, Measured)> + '_ {
    let tested = match judged_by {
        TestMetric::Accuracy => Metric::TestAccuracy,
        TestMetric::MeanSquaredError => Metric::TestSquaredError,
        TestMetric::Perplexity => Metric::TestPerplexity,
    };
    variant.runs.iter().filter(move |run| run.status != Status::Failed).flat_map(move |run| {
        let key = |metric| Key::of_seed(&variant.name, metric, run.seed);
        let number = |value: Option<f64>| value.map_or(Measured::NotFinite, Measured::number);
        let diverged = u64::from(run.status == Status::Diverged);
        let values = [
            (Metric::Diverged, Some(Measured::Count(diverged))),
            (tested, Some(number(run.metric()))),
            (Metric::FinalLoss, Some(number(run.final_loss))),
            (Metric::WeightsDigest, run.weights_digest.clone().map(Measured::Text)),
            (Metric::SkippedSteps, Some(Measured::Count(run.skipped_steps))),
        ];
        values.map(|(metric, value)| Some((key(metric), value?))).into_iter().flatten()
    })
}

fn of_variant(variant: &VariantResult) -> impl Iterator<Item = (Key, Measured)> + '_ {
    let numerics = &variant.numerics;
    let roles = [
        (Metric::OverflowWeights, Metric::UnderflowWeights, numerics.weights),
        (Metric::OverflowActivations, Metric::UnderflowActivations, numerics.activations),
        (
            Metric::OverflowActivationGradients,
            Metric::UnderflowActivationGradients,
            numerics.activation_gradients,
        ),
        (
            Metric::OverflowWeightGradients,
            Metric::UnderflowWeightGradients,
            numerics.weight_gradients,
        ),
    ];
    let counts = roles.into_iter().filter(|(_, _, counts)| counts.elements > 0).flat_map(
        |(overflow, underflow, counts)| {
            [(overflow, counts.overflow), (underflow, counts.underflow)]
        },
    );
    let updates = Some((Metric::LostUpdates, numerics.updates.lost));
    let train = variant.memory.map(|memory| (Metric::TrainPeakBytes, memory.peak_bytes.0));
    let inference = variant.inference.as_ref();
    let inference =
        inference.and_then(|found| Some((Metric::InferencePeakBytes, found.peak_bytes?.0)));
    let values = counts.chain(updates).chain(train).chain(inference);
    let counted = values.map(|(metric, value)| (metric, Measured::Count(value)));
    let all = counted.chain(variant.serving.iter().flat_map(of_serving));
    all.map(|(metric, value)| (Key::of(&variant.name, metric), value))
}

/// Memory of serving, and how far the tokens are from FP32's.
fn of_serving(serving: &Serving) -> Vec<(Metric, Measured)> {
    let mut values = Vec::new();
    for batch in &serving.batches {
        let alone = batch.batch == 1;
        let metric =
            if alone { Metric::ServingAlonePeakBytes } else { Metric::ServingBatchPeakBytes };
        values.extend(batch.peak_bytes.map(|peak| (metric, Measured::Count(peak.0))));
    }
    if let Some(agreement) = serving.agreement {
        values.push((Metric::TokenAgreement, Measured::number(agreement.equal_tokens.value)));
        let divergence = agreement.kl_divergence;
        let divergence = divergence.map_or(Measured::NotFinite, |kl| Measured::number(kl.value));
        values.push((Metric::TokenDivergence, divergence));
    }
    values
}

/// What a timing phase measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// The noisy metrics but for ratios, which follow: one value a timed block.
    pub blocks: BTreeMap<Key, Vec<f64>>,
    /// The fastest product of each format that a variant computes in, in operations a second: how fast the machine was.
    pub products: BTreeMap<String, f64>,
    /// The share of the processors' time that other programs took ([`Results::other_load`]).
    pub other_load: Option<f64>,
}

impl Times {
    /// The times of results.
    pub fn of(results: &Results) -> Self {
        let mut times = Self { other_load: results.other_load, ..Self::default() };
        for (variant, planned) in results.variants.iter().zip(&results.plan.variants) {
            let mut put = |metric, blocks: Vec<f64>| {
                if !blocks.is_empty() {
                    times.blocks.insert(Key::of(&variant.name, metric), blocks);
                }
            };
            if let Some(train) = &variant.train {
                put(Metric::StepSeconds, numbers(&train.blocks));
                let joules = train.gpu.as_ref().and_then(|gpu| gpu.step_joules);
                put(Metric::StepJoules, joules.into_iter().collect());
                if let Some(work) = train.work {
                    times.products.insert(planned.policy.compute.to_string(), work.peak.0);
                }
            }
            if let Some(inference) = &variant.inference {
                put(Metric::InferenceSeconds, numbers(&inference.blocks));
            }
            for served in variant.serving.iter().flat_map(|serving| &serving.batches) {
                let [prefill, decode] = Metric::of_serving(served.batch);
                put(prefill, numbers(&served.prefill_blocks));
                put(decode, numbers(&served.decode_blocks));
            }
        }
        times
    }

    /// The blocks, and with them the ratios of every other variant to `baseline`, block by block.
    pub(super) fn with_ratios(&self, baseline: &str) -> BTreeMap<Key, Vec<f64>> {
        let mut all = self.blocks.clone();
        for (key, blocks) in &self.blocks {
            let Some(metric) = key.metric.ratio() else { continue };
            let to = self.blocks.get(&Key::of(baseline, key.metric));
            let Some(to) = to.filter(|to| to.len() == blocks.len() && key.variant != baseline)
            else {
                continue;
            };
            let ratios = blocks.iter().zip(to).map(|(time, to)| time / to).collect();
            all.insert(Key::of(&key.variant, metric), ratios);
        }
        all
    }

    /// The median of each noisy metric, those of the ratios to `baseline` with them.
    pub fn medians(&self, baseline: &str) -> BTreeMap<Key, Measured> {
        let medians = self
            .with_ratios(baseline)
            .into_iter()
            .filter_map(|(key, blocks)| Some((key, Measured::number(stats::median(&blocks)?))));
        medians.collect()
    }
}

fn numbers(blocks: &[Seconds]) -> Vec<f64> {
    blocks.iter().map(|block| block.0).collect()
}
