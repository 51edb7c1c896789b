//! A small experiment made by hand, for tests: five variants and three seeds, one divergence, one emulated variant.

use std::path::Path;

use crate::precision::{Format, LossScale, Policy};
use crate::record::{
    AgainstBaseline, ClaimMeasure, ClaimResult, ClaimVerdict, Control, Counts, Environment,
    Estimate, Evaluation, Evidence, ExponentHistogram, Failure, GradientCounts, Inference,
    LayerCensus, Memory, MetricDifference, MetricVerdict, Numerics, Phases, Point, Recommendation,
    Results, Role, RunRecord, RunSummary, SCHEMA, Skip, Status, TestMetric, TrainTime,
    UpdateCounts, VariantResult, Work,
};
use crate::spec::{
    Activation, CheckpointEvery, ClaimsPlan, ControlKind, DataPlan, MeasurePlan, ModelPlan,
    OptimizerPlan, Plan, ScheduleKind, SchedulePlan, TrainPlan, VariantPlan,
};
use crate::store;
use crate::units::{Bytes, Flops, Ratio, Seconds};
use crate::{claims, stats};

use super::Loaded;

/// Steps of a run that completes.
pub(super) const STEPS: u64 = 240;

/// Seeds.
pub(super) const SEEDS: u64 = 3;

const KIB: u64 = 1024;

/// The numbers that tell one variant from another.
struct Traits {
    name: &'static str,
    compute: Format,
    /// Step time ÷ the baseline's; none where emulated.
    time: Option<f64>,
    accuracies: [f64; 3],
    overflow: u64,
    underflow: u64,
    /// (step it holds from, scale).
    scale: &'static [(u64, f64)],
    /// The step at which the last seed diverges.
    diverges: Option<u64>,
}

const VARIANTS: [Traits; 5] = [
    Traits {
        name: "fp32",
        compute: Format::F32,
        time: Some(1.0),
        accuracies: [0.961, 0.9585, 0.963],
        overflow: 0,
        underflow: 0,
        scale: &[],
        diverges: None,
    },
    Traits {
        name: "fp16-mixed",
        compute: Format::F16,
        time: Some(1.37),
        accuracies: [0.9605, 0.9595, 0.9625],
        overflow: 52,
        underflow: 4_100,
        scale: &[(0, 65_536.0), (3, 32_768.0), (5, 16_384.0), (120, 32_768.0)],
        diverges: None,
    },
    Traits {
        name: "bf16-mixed",
        compute: Format::BF16,
        time: Some(0.52),
        accuracies: [0.9612, 0.958, 0.9621],
        overflow: 0,
        underflow: 3,
        scale: &[],
        diverges: None,
    },
    Traits {
        name: "fp16-true",
        compute: Format::F16,
        time: Some(1.12),
        accuracies: [0.931, 0.9265, 0.614],
        overflow: 900,
        underflow: 210_000,
        scale: &[],
        diverges: Some(130),
    },
    Traits {
        name: "e5m2",
        compute: Format::BF16,
        time: None,
        accuracies: [0.951, 0.9485, 0.953],
        overflow: 17,
        underflow: 55_000,
        scale: &[],
        diverges: None,
    },
];

/// The whole experiment.
pub(super) fn loaded() -> Loaded {
    let records = VARIANTS
        .iter()
        .enumerate()
        .flat_map(|(index, traits)| (0..SEEDS).map(move |seed| record(traits, index, seed)));
    let again = (0..SEEDS).map(|seed| RunRecord {
        variant: "fp32+same-seeds".to_owned(),
        ..record(&VARIANTS[0], 0, seed)
    });
    let (label, records) = ("digits".to_owned(), records.chain(again).collect());
    Loaded { label, results: results(), records, notes: Vec::new() }
}

/// The same as a regression: every seed's error is 1 − its accuracy, and is tested twice; differences are judged anew.
pub(super) fn regression() -> Loaded {
    let mut loaded = loaded();
    let results = &mut loaded.results;
    results.metric = TestMetric::MeanSquaredError;
    let controls = results.controls.iter_mut().map(|control| &mut control.result);
    for variant in results.variants.iter_mut().chain(controls) {
        variant.runs.iter_mut().for_each(to_error);
    }
    let (plan, metric) = (results.plan.clone(), results.metric);
    let baseline = results.variants[0].clone();
    let values = |variant: &VariantResult| claims::test_values(metric, variant);
    for variant in &mut results.variants[1..] {
        let (of, to) = (values(variant), values(&baseline));
        let margin = claims::margin((&plan, metric), &baseline);
        let against = variant.against_baseline.as_mut().unwrap();
        against.accuracy_difference = None;
        against.squared_error_difference = stats::metric_difference(metric, &of, &to, margin);
    }
    results.controls.clear();
    results.claims = claims::judge(results);
    results.recommendation = Some(claims::recommend(results));
    loaded.records.retain(|record| !record.variant.contains('+'));
    for record in &mut loaded.records {
        to_error(&mut record.summary);
        let error = record.summary.test_squared_error;
        record.evaluations = [10, STEPS]
            .map(|step| Evaluation {
                step,
                accuracy: None,
                squared_error: error,
                perplexity: None,
                loss: error,
            })
            .into();
    }
    loaded
}

fn to_error(run: &mut RunSummary) {
    run.test_squared_error = run.test_accuracy.take().map(|accuracy| 1.0 - accuracy);
}

/// The same with another name for its third variant.
pub(super) fn renamed(name: &str) -> Loaded {
    let mut loaded = loaded();
    let old = loaded.results.variants[2].name.clone();
    loaded.results.plan.variants[2].name = name.to_owned();
    loaded.results.variants[2].name = name.to_owned();
    for record in loaded.records.iter_mut().filter(|r| r.variant == old) {
        record.variant = name.to_owned();
    }
    for claim in loaded.results.claims.iter_mut().filter(|c| c.variant == old) {
        claim.variant = name.to_owned();
    }
    loaded
}

/// Writes the experiment as `mantissa experiment` leaves it.
pub(super) fn save(dir: &Path, loaded: &Loaded) {
    let results = serde_json::to_vec(&loaded.results).unwrap();
    store::write(&dir.join("results.json"), &results).unwrap();
    for record in &loaded.records {
        let place = format!("runs/{}/seed-{}/record.json", record.variant, record.summary.seed);
        store::write(&dir.join(place), &serde_json::to_vec(record).unwrap()).unwrap();
    }
}

fn results() -> Results {
    Results {
        schema: SCHEMA,
        experiment: "digits".to_owned(),
        complete: true,
        plan: plan(),
        engine: crate::record::Engine::Mantissa,
        environment: Environment {
            device: "cpu".to_owned(),
            device_name: "Example Processor 9000".to_owned(),
            threads: 2,
            logical_cpus: 2,
            memory_total: Some(Bytes(8 << 30)),
            cpu_features: vec!["avx2".to_owned(), "f16c".to_owned()],
            product_paths: vec!["bf16: widened to f32 (FMA)".to_owned()],
            unused_units: Vec::new(),
            os: "Linux x86_64".to_owned(),
            version: "0.1.0".to_owned(),
            git: None,
            source: String::new(),
            build: "rustc 1.95.0, release".to_owned(),
            started: "2026-01-02T03:04:05Z".to_owned(),
            notes: Vec::new(),
            gpu: None,
        },
        data: None,
        metric: TestMetric::Accuracy,
        machines: Vec::new(),
        machine_kind: None,
        other_kinds: Vec::new(),
        variants: VARIANTS.iter().enumerate().map(|(i, t)| variant(t, i)).collect(),
        claims: vec![ClaimResult {
            id: "train-time".to_owned(),
            variant: "bf16-mixed".to_owned(),
            verdict: ClaimVerdict::Inconclusive,
            measured: Some(ClaimMeasure { value: 0.52, low: Some(0.499), high: Some(0.541) }),
            threshold: "step time ÷ baseline at most 0.5".to_owned(),
            missing: Some("more timed blocks".to_owned()),
        }],
        controls: vec![control()],
        other_load: None,
        recommendation: Some(Recommendation {
            variant: Some("bf16-mixed".to_owned()),
            reason: "It trains 1.92× as fast as fp32.".to_owned(),
            ..Recommendation::default()
        }),
        reference: None,
    }
}

/// The baseline trained once more: nothing differs.
fn control() -> Control {
    let mut result = variant(&VARIANTS[0], 0);
    result.name = "fp32+same-seeds".to_owned();
    let difference = MetricDifference {
        value: 0.0,
        low: Some(0.0),
        high: Some(0.0),
        p: Some(1.0),
        p_holm: None,
        probability_better: Some(0.5),
        pairs: 3,
        verdict: MetricVerdict::Inconclusive,
    };
    result.against_baseline = Some(AgainstBaseline {
        baseline: "fp32".to_owned(),
        train_time_ratio: Some(map(around(1.0), Ratio)),
        train_memory_ratio: None,
        inference_time_ratio: None,
        inference_memory_ratio: None,
        accuracy_difference: Some(difference),
        squared_error_difference: None,
        perplexity_difference: None,
    });
    Control { kind: ControlKind::SameSeeds, result }
}

fn plan() -> Plan {
    let variants = VARIANTS.iter().map(|traits| VariantPlan {
        name: traits.name.to_owned(),
        policy: Policy {
            params: Format::F32,
            compute: traits.compute,
            reduce: Format::F32,
            scale: if traits.scale.is_empty() {
                LossScale::None
            } else {
                LossScale::Static(65_536.0)
            },
        },
    });
    Plan {
        init: None,
        reference: None,
        name: "digits".to_owned(),
        data: DataPlan::Digits { train: 4096, test: 2000, seed: 0 },
        model: ModelPlan::Mlp {
            hidden: vec![256, 256],
            activation: Activation::Relu,
            dropout: 0.0,
        },
        train: TrainPlan {
            steps: STEPS,
            batch: 128,
            accumulate: 1,
            optimizer: OptimizerPlan::Sgd {
                lr: 0.1,
                momentum: 0.9,
                nesterov: false,
                weight_decay: 0.0,
            },
            schedule: SchedulePlan { kind: ScheduleKind::Cosine, warmup: 10, floor: 0.0 },
            clip_norm: None,
            label_smoothing: 0.0,
            evaluate_every: None,
            cuda_graphs: true,
            checkpoint_every: CheckpointEvery::default(),
        },
        measure: MeasurePlan {
            census_every: 20,
            timing_blocks: 10,
            timing_steps: 5,
            timing_warmup: 5,
            inference_batch: 256,
            equivalence_margin: 0.005,
            error_margin: 0.05,
            serving: None,
        },
        baseline: "fp32".to_owned(),
        variants: variants.collect(),
        seeds: (0..SEEDS).collect(),
        controls: Vec::new(),
        claims: ClaimsPlan::default(),
    }
}

fn around(value: f64) -> Estimate<f64> {
    Estimate { value, low: value * 0.98, high: value * 1.03 }
}

fn map<T>(estimate: Estimate<f64>, unit: fn(f64) -> T) -> Estimate<T> {
    Estimate { value: unit(estimate.value), low: unit(estimate.low), high: unit(estimate.high) }
}

fn variant(traits: &Traits, index: usize) -> VariantResult {
    let runs: Vec<RunSummary> = (0..SEEDS).map(|seed| summary(traits, seed)).collect();
    let wide = traits.compute == Format::F32;
    let seconds = |base: f64| traits.time.map(|time| map(around(base * time), Seconds));
    let skipped: u64 = runs.iter().map(|run| run.skipped_steps).sum();
    VariantResult {
        name: traits.name.to_owned(),
        policy: plan().variants[index].policy.to_string(),
        emulated: traits.time.is_none(),
        train: seconds(0.0042).map(|step| TrainTime {
            step_seconds: step,
            samples_per_second: around(128.0 / step.value.0),
            phases: Some(phases(step.value.0)),
            work: Some(Work {
                operations: 1_200_000_000,
                rate: map(around(1.2e9 / step.value.0), Flops),
                peak: Flops(if wide { 4e11 } else { 8e11 }),
                share_of_peak: Point::of(1.2e9 / step.value.0 / if wide { 4e11 } else { 8e11 }),
            }),
            gpu: None,
            blocks: vec![step.value; 10],
        }),
        untimed: None,
        inference: Some(Inference {
            batch_seconds: seconds(0.0011),
            batch: 256,
            peak_bytes: Some(Bytes(if wide { 1930 * KIB } else { 965 * KIB })),
            weights: Bytes(if wide { 1080 * KIB } else { 540 * KIB }),
            blocks: Vec::new(),
        }),
        serving: None,
        memory: traits.time.map(|_| memory(wide)),
        numerics: numerics(traits, skipped),
        against_baseline: (index > 0).then(|| against(traits)),
        runs,
    }
}

/// A step of so many seconds, and the drawing of its batch.
fn phases(step: f64) -> Phases {
    let share = |share: f64| Seconds(step * share);
    Phases {
        data: share(0.05),
        forward: share(0.4),
        backward: share(0.45),
        unscale: share(0.05),
        update: share(0.1),
    }
}

fn memory(wide: bool) -> Memory {
    let (weights, master, gradients, activations) =
        if wide { (1080, 0, 1080, 1290) } else { (540, 1080, 540, 660) };
    let optimizer = 1080;
    Memory {
        peak_bytes: Bytes((weights + master + gradients + optimizer + activations) * KIB),
        weights: Bytes(weights * KIB),
        master_weights: Bytes(master * KIB),
        gradients: Bytes(gradients * KIB),
        optimizer: Bytes(optimizer * KIB),
        activations: Bytes(activations * KIB),
        work_space: None,
    }
}

fn counts(elements: u64, overflow: u64, underflow: u64) -> Counts {
    Counts { elements, overflow, underflow, subnormal: underflow * 2, nan: 0 }
}

fn numerics(traits: &Traits, skipped_steps: u64) -> Numerics {
    Numerics {
        weights: counts(9_000_000, 0, traits.underflow / 100),
        activations: counts(2_400_000, traits.overflow / 10, 0),
        activation_gradients: counts(2_400_000, traits.overflow / 2, traits.underflow),
        weight_gradients: counts(9_000_000, traits.overflow, traits.underflow / 3),
        updates: UpdateCounts { elements: 180_000_000, lost: traits.underflow * 7 },
        gradients: GradientCounts {
            elements: 180_000_000,
            zero: 1_000,
            subnormal: traits.underflow,
            infinite: traits.overflow,
            nan: 0,
        },
        skipped_steps,
        evidence: Evidence::default(),
    }
}

fn against(traits: &Traits) -> AgainstBaseline {
    let base = VARIANTS[0].accuracies;
    let difference = (0..3).map(|i| traits.accuracies[i] - base[i]).sum::<f64>() / 3.0;
    AgainstBaseline {
        baseline: "fp32".to_owned(),
        train_time_ratio: traits.time.map(|time| map(around(time), Ratio)),
        train_memory_ratio: traits
            .time
            .map(|_| Ratio(memory(false).peak_bytes.0 as f64 / memory(true).peak_bytes.0 as f64)),
        inference_time_ratio: traits.time.map(|time| map(around(time), Ratio)),
        inference_memory_ratio: Some(Ratio(0.5)),
        squared_error_difference: None,
        perplexity_difference: None,
        accuracy_difference: Some(MetricDifference {
            value: difference,
            low: Some(difference - 0.002),
            high: Some(difference + 0.0015),
            p: Some(0.25),
            p_holm: Some(1.0),
            probability_better: Some(0.5),
            pairs: 3,
            verdict: MetricVerdict::Inconclusive,
        }),
    }
}

fn summary(traits: &Traits, seed: u64) -> RunSummary {
    let stop = traits.diverges.filter(|_| seed + 1 == SEEDS);
    RunSummary {
        seed,
        status: if stop.is_some() { Status::Diverged } else { Status::Completed },
        test_accuracy: Some(traits.accuracies[seed as usize]),
        test_squared_error: None,
        test_perplexity: None,
        final_loss: stop.is_none().then(|| loss(STEPS - 1, seed)),
        steps: stop.map_or(STEPS, |step| step + 1),
        skipped_steps: skips(traits).len() as u64,
        weights_digest: Some("0123456789abcdef".repeat(4)),
        failure: stop.map(|step| Failure {
            step,
            layer: Some("hidden.1".to_owned()),
            reason: "the loss is not finite".to_owned(),
        }),
    }
}

fn census(layer: &str, role: Role, counts: Counts) -> LayerCensus {
    let bins = vec![0, 5, 100, 90, 0];
    let exponents = ExponentHistogram { zeros: 10, non_finite: 0, first: -20, bins };
    LayerCensus { layer: layer.to_owned(), role, counts: Some(counts), exponents }
}

/// A falling curve with a wobble of its own for each seed.
fn loss(step: u64, seed: u64) -> f64 {
    let (step, seed) = (step as f64, seed as f64);
    2.3 * (-step / 45.0).exp() + 0.05 + 0.02 * (step * 0.37 + seed * 2.1).sin() + 0.015 * seed
}

fn skips(traits: &Traits) -> Vec<Skip> {
    let falls = traits.scale.windows(2).filter(|pair| pair[1].1 < pair[0].1);
    let skip = |pair: &[(u64, f64)]| Skip { step: pair[1].0 - 1, layer: "hidden.0".to_owned() };
    falls.map(skip).collect()
}

fn record(traits: &Traits, index: usize, seed: u64) -> RunRecord {
    let summary = summary(traits, seed);
    let (steps, stopped) = (summary.steps, summary.failure.is_some());
    // Precisions differ a little; a run that diverges climbs before it ends.
    let at = |step: u64| {
        let climb = if stopped { (step as f64 / 60.0).powi(4) * 0.1 } else { 0.0 };
        (!(stopped && step + 1 == steps)).then(|| loss(step, seed) + 0.02 * index as f64 + climb)
    };
    RunRecord {
        loss: (0..steps).map(at).collect(),
        scale: traits.scale.to_vec(),
        skips: skips(traits),
        census: vec![
            census("hidden.0", Role::Activations, counts(800_000, traits.overflow / 30, 0)),
            census("hidden.0", Role::WeightGradients, counts(3_000_000, 0, traits.underflow / 9)),
            census("hidden.1", Role::Activations, counts(800_000, 0, 0)),
        ],
        census_steps: vec![0, 20],
        ..RunRecord::new(traits.name, summary)
    }
}
