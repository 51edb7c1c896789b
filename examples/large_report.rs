//! How time, memory and the page's size grow with an experiment's size: reports on drawn records, of which only the number of
//! steps differs.
//!
//! `cargo run --release --example large_report -- 10 10 10000 DIR` makes reports on ten variants and ten seeds, of 2,500,
//! 5,000 and 10,000 steps, and leaves the last one in DIR. `-- 2000 1 24 DIR` has many variants instead.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use mantissa::memory::{CountingAllocator, HostMeter};
use mantissa::model::Engine;
use mantissa::record::files::record_path;
use mantissa::record::{
    AgainstBaseline, ClaimMeasure, ClaimResult, ClaimVerdict, Counts, Environment, Estimate,
    ExponentHistogram, Inference, LayerCensus, Memory, MetricDifference, MetricVerdict, Numerics,
    Phases, Results, Role, RunRecord, RunSummary, SCHEMA, Skip, Status, TestMetric, TrainTime,
    VariantResult,
};
use mantissa::spec::{self, Overrides, Plan, VariantPlan};
use mantissa::units::{Bytes, Ratio, Seconds};
use mantissa::{claims, report, store};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What goes wrong here, to be printed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Claims that are judged on each variant.
const CLAIMS: [&str; 3] = ["train-time", "train-memory", "accuracy-kept"];

/// Layers of a census.
const LAYERS: usize = 20;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [variants, seeds, steps, dir] = arguments.as_slice() else {
        return Err("give variants, seeds, steps and a folder, such as 10 10 10000 large".into());
    };
    let (variants, seeds, steps): (usize, u64, u64) =
        (variants.parse()?, seeds.parse()?, steps.parse()?);
    println!("{variants} variants, {seeds} seeds");
    println!("{:>8} {:>14} {:>10} {:>12} {:>12}", "steps", "losses", "seconds", "peak", "page");
    for steps in [steps / 4, steps / 2, steps] {
        let dir = PathBuf::from(dir);
        save(&dir, variants, seeds, steps)?;
        let meter = HostMeter::start().ok_or("memory is not counted")?;
        let clock = Instant::now();
        let written = report::render(&dir)?;
        let (seconds, peak) = (clock.elapsed().as_secs_f64(), meter.peak());
        let page = written.last().ok_or("no file was written")?;
        let page = Bytes(store::read(page)?.len() as u64);
        let losses = variants as u64 * seeds * steps;
        println!("{steps:>8} {losses:>14} {seconds:>10.2} {peak:>12} {page:>12}");
    }
    Ok(())
}

/// Writes an experiment as the program leaves it.
fn save(dir: &Path, variants: usize, seeds: u64, steps: u64) -> Result<(), Failure> {
    let mut plan = Plan::read("default.toml", spec::DEFAULT, &Overrides::default())?;
    let policies: Vec<_> = plan.variants.iter().map(|variant| variant.policy).collect();
    plan.variants = (0..variants)
        .map(|index| VariantPlan {
            name: format!("variant-{index}"),
            policy: policies[index % policies.len()],
        })
        .collect();
    plan.seeds = (0..seeds).collect();
    plan.baseline.clone_from(&plan.variants[0].name);
    let mut results = Results {
        schema: SCHEMA,
        experiment: "large".to_owned(),
        complete: true,
        engine: Engine::Mantissa,
        environment: Environment::default(),
        data: None,
        metric: TestMetric::Accuracy,
        machines: Vec::new(),
        machine_kind: None,
        other_kinds: Vec::new(),
        variants: Vec::new(),
        claims: Vec::new(),
        controls: Vec::new(),
        other_load: None,
        recommendation: None,
        reference: None,
        plan,
    };
    for index in 0..variants {
        let variant = results.plan.variants[index].clone();
        let mut runs = Vec::new();
        for seed in 0..seeds {
            let record = record(&variant.name, (index, seed), steps);
            let json = serde_json::to_vec(&record)?;
            store::write(&record_path(dir, &variant.name, seed), &json)?;
            runs.push(record.summary);
        }
        results.claims.extend(CLAIMS.map(|id| claim(id, &variant.name)));
        results.variants.push(measured(&results.plan, (index, variant), runs));
    }
    results.recommendation = Some(claims::recommend(&results));
    Ok(store::write(&dir.join("results.json"), &serde_json::to_vec(&results)?)?)
}

fn claim(id: &str, variant: &str) -> ClaimResult {
    ClaimResult {
        id: id.to_owned(),
        variant: variant.to_owned(),
        verdict: ClaimVerdict::Inconclusive,
        measured: Some(ClaimMeasure { value: 0.52, low: Some(0.4), high: Some(0.6) }),
        threshold: "a threshold".to_owned(),
        missing: Some("more seeds".to_owned()),
    }
}

fn around(value: f64) -> Estimate<f64> {
    Estimate { value, low: value * 0.98, high: value * 1.03 }
}

fn seconds(value: f64) -> Estimate<Seconds> {
    let Estimate { value, low, high } = around(value);
    Estimate { value: Seconds(value), low: Seconds(low), high: Seconds(high) }
}

fn ratio(Estimate { value, low, high }: Estimate<f64>) -> Estimate<Ratio> {
    Estimate { value: Ratio(value), low: Ratio(low), high: Ratio(high) }
}

/// A comparison with drawn numbers.
fn against(baseline: &str, wobble: f64, pairs: usize) -> AgainstBaseline {
    AgainstBaseline {
        baseline: baseline.to_owned(),
        train_time_ratio: Some(ratio(around(wobble))),
        train_memory_ratio: Some(Ratio(wobble)),
        inference_time_ratio: Some(ratio(around(wobble))),
        inference_memory_ratio: Some(Ratio(wobble)),
        squared_error_difference: None,
        perplexity_difference: None,
        accuracy_difference: Some(MetricDifference {
            value: 0.01 * (wobble - 1.0),
            low: Some(-0.01),
            high: Some(0.01),
            p: Some(0.5),
            p_holm: Some(1.0),
            probability_better: Some(0.5),
            pairs,
            verdict: MetricVerdict::Inconclusive,
        }),
    }
}

/// A variant with drawn numbers, compared with the first.
fn measured(
    plan: &Plan,
    (index, variant): (usize, VariantPlan),
    runs: Vec<RunSummary>,
) -> VariantResult {
    let wobble = 1.0 + 0.1 * (index as f64 * 0.7).sin();
    let pairs = runs.len();
    let part = Seconds(0.0008 * wobble);
    let bytes = Bytes((wobble * 1e6) as u64);
    VariantResult {
        name: variant.name,
        policy: variant.policy.to_string(),
        emulated: false,
        runs,
        train: Some(TrainTime {
            step_seconds: seconds(0.004 * wobble),
            samples_per_second: around(32_000.0 / wobble),
            phases: Some(Phases {
                data: part,
                forward: part,
                backward: part,
                unscale: part,
                update: part,
            }),
            work: None,
            gpu: None,
            blocks: vec![Seconds(0.004 * wobble); 10],
        }),
        untimed: None,
        inference: Some(Inference {
            batch_seconds: Some(seconds(0.001 * wobble)),
            batch: 256,
            peak_bytes: Some(Bytes(2 * bytes.0)),
            weights: bytes,
            blocks: Vec::new(),
        }),
        serving: None,
        memory: Some(Memory {
            peak_bytes: Bytes(5 * bytes.0),
            weights: bytes,
            master_weights: bytes,
            gradients: bytes,
            optimizer: bytes,
            activations: bytes,
            work_space: None,
        }),
        numerics: Numerics::default(),
        against_baseline: (index > 0).then(|| against(&plan.baseline, wobble, pairs)),
    }
}

/// Counts of every layer and role.
fn census(index: usize) -> Vec<LayerCensus> {
    let roles = [
        Role::Weights,
        Role::Activations,
        Role::ActivationGradients,
        Role::WeightGradients,
        Role::Updates,
    ];
    let layers = (0..LAYERS).flat_map(|layer| {
        roles.map(|role| LayerCensus {
            layer: format!("layer{layer}"),
            role,
            counts: Some(Counts {
                elements: 100_000,
                overflow: (layer * index % 7) as u64,
                underflow: (layer * 31 * index % 900) as u64,
                subnormal: 0,
                nan: 0,
            }),
            exponents: ExponentHistogram {
                zeros: 5,
                non_finite: 0,
                first: -30 - index as i32,
                bins: (0..40).map(|bin| 1 + bin * (40 - bin) * 20).collect(),
            },
        })
    });
    layers.collect()
}

/// A record whose loss falls with a wobble, and is not finite now and then.
fn record(variant: &str, (index, seed): (usize, u64), steps: u64) -> RunRecord {
    let loss = |step: u64| {
        let at = step as f64;
        let wobble = (at * 0.9 + seed as f64).sin() * (at * 0.013 + index as f64).cos();
        (step % 5003 != 5002).then(|| 2.3 * (-at / 900.0).exp() + 0.1 + 0.04 * wobble)
    };
    let skips = (0..steps).step_by(500).map(|step| Skip { step, layer: "layer0".to_owned() });
    let summary = RunSummary {
        seed,
        status: Status::Completed,
        test_accuracy: Some(0.95 + 0.001 * ((seed * 7 + index as u64 * 3) % 11) as f64),
        test_squared_error: None,
        test_perplexity: None,
        final_loss: loss(steps - 1),
        steps,
        skipped_steps: steps / 500,
        weights_digest: None,
        failure: None,
    };
    RunRecord {
        loss: (0..steps).map(loss).collect(),
        scale: (0..steps)
            .step_by(500)
            .map(|step| (step, 2.0_f64.powi((step % 13) as i32)))
            .collect(),
        skips: skips.collect(),
        census: census(index),
        census_steps: vec![0],
        ..RunRecord::new(variant, summary)
    }
}
