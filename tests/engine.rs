//! The engine as a whole: runs are deterministic, memory is what the shapes give, wide and native agree, divergence is a
//! result, steps timed by phase are ordinary ones, and an interrupted experiment goes on.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not there")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;

use candle_core::Device;
use mantissa::claims;
use mantissa::data::{self, Batches, Dataset};
use mantissa::device::PhaseClock;
use mantissa::experiment::{Event, Experiment, ExperimentError, Options};
use mantissa::memory::{CountingAllocator, HostMeter};
use mantissa::numerics::Census;
use mantissa::ops::StepOutcome;
use mantissa::precision::NON_FINITE_LOSSES;
use mantissa::record::{
    self, Counts, Environment, MetricDifference, MetricVerdict, Phases, Results, Role, RunRecord,
    Status, VariantResult,
};
use mantissa::spec::{
    Activation, CheckpointEvery, ClaimsPlan, ControlKind, ConvBlock, DataPlan, EncoderPlan,
    MeasurePlan, ModelPlan, NormPlan, OptimizerPlan, Plan, Pool, ScheduleKind, SchedulePlan,
    TableTest, TextFiles, TextPool, TrainPlan, VariantPlan,
};
use mantissa::store::{self, Folder};
use mantissa::task::Task;
use mantissa::train::{
    self, Checkpoint, DeviceBatch, Ended, Follow, RunError, Setup, Trainer, Wants,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn cnn() -> ModelPlan {
    let block = |channels, pool| ConvBlock {
        channels,
        kernel: 3,
        stride: 1,
        padding: 1,
        dilation: 1,
        groups: 1,
        pool,
    };
    ModelPlan::Cnn {
        blocks: vec![block(4, Pool::Max), block(6, Pool::Avg)],
        hidden: vec![20],
        activation: Activation::Relu,
        batch_norm: true,
        dropout: 0.1,
    }
}

fn mlp() -> ModelPlan {
    ModelPlan::Mlp { hidden: vec![32], activation: Activation::Gelu, dropout: 0.0 }
}

fn plan(model: ModelPlan, policies: &[&str], steps: u64) -> Plan {
    let variant = |policy: &&str| VariantPlan {
        name: policy.replace(['=', ',', ':'], "-"),
        policy: policy.parse().unwrap(),
    };
    Plan {
        init: None,
        reference: None,
        name: "engine".to_owned(),
        data: DataPlan::Digits { train: 300, test: 90, seed: 3 },
        model,
        train: TrainPlan {
            steps,
            batch: 37,
            accumulate: 1,
            optimizer: OptimizerPlan::AdamW {
                lr: 3e-3,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.01,
            },
            schedule: SchedulePlan { kind: ScheduleKind::Cosine, warmup: 2, floor: 0.0 },
            clip_norm: Some(5.0),
            label_smoothing: 0.1,
            evaluate_every: None,
            cuda_graphs: true,
            checkpoint_every: CheckpointEvery::default(),
        },
        measure: MeasurePlan {
            census_every: 5,
            timing_blocks: 2,
            timing_steps: 2,
            timing_warmup: 1,
            inference_batch: 50,
            equivalence_margin: 0.01,
            error_margin: 0.05,
            serving: None,
        },
        baseline: policies[0].to_owned(),
        variants: policies.iter().map(variant).collect(),
        seeds: vec![0],
        controls: Vec::new(),
        claims: ClaimsPlan::default(),
    }
}

fn record(plan: &Plan, variant: usize, threads: usize) -> RunRecord {
    let task = Task::of_plan(plan).unwrap();
    let setup = Setup::new(plan, &task, &Device::Cpu);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let work = || {
        train::run(setup, (&plan.variants[variant], 0), None, &mut |_: u64| ())
            .unwrap()
            .trained()
            .unwrap()
            .record
    };
    pool.install(work)
}

/// Every policy: the same record, memory and digest included, for 1 and 2 threads and on a second run.
#[test]
fn records_do_not_depend_on_threads_or_on_the_run() {
    let policies = ["fp32", "fp16-mixed", "bf16-mixed", "fp16-true", "bf16-true", "tf32"];
    for model in [cnn(), mlp()] {
        let plan = plan(model, &policies, 7);
        for (variant, policy) in policies.iter().enumerate() {
            let one = record(&plan, variant, 1);
            assert_eq!(one, record(&plan, variant, 2), "{policy} with two threads");
            assert_eq!(one, record(&plan, variant, 2), "{policy} again");
            assert_eq!(one.summary.status, Status::Completed);
        }
    }
}

/// Follows a run to a step at which it is to stop, and takes its checkpoint.
struct StopAt(u64, Option<Vec<u8>>);

impl Follow for StopAt {
    fn step(&mut self, _done: u64) {}

    fn wants(&mut self, done: u64) -> Wants {
        if done >= self.0 { Wants::Stop } else { Wants::Nothing }
    }

    fn keep(&mut self, checkpoint: Checkpoint) -> Result<ControlFlow<()>, RunError> {
        self.1 = Some(checkpoint.to_file(record::Identity::default())?);
        Ok(ControlFlow::Continue(()))
    }
}

/// A run that is stopped after each of its steps, each time continued by what a file holds: batch norm, dropout, a loss scale that
/// comes down and grows, sums of micro-batches, evaluations and censuses on the way.
#[test]
fn a_run_that_goes_on_from_checkpoints_is_one_that_was_never_stopped() {
    let policies = [
        "fp32",
        "fp16-mixed",
        "bf16-true",
        "params=f32,compute=fp8-e4m3-sat,reduce=f32,scale=none",
        "params=f32,compute=f16,reduce=f32,scale=dynamic:init=16777216:interval=3",
    ];
    for (model, accumulate) in [(cnn(), 1), (mlp(), 2)] {
        let mut plan = plan(model, &policies, 12);
        (plan.train.accumulate, plan.train.evaluate_every) = (accumulate, Some(4));
        let task = Task::of_plan(&plan).unwrap();
        let setup = Setup { save_weights: true, ..Setup::new(&plan, &task, &Device::Cpu) };
        for variant in &plan.variants {
            let run = (variant, 0);
            let whole = train::run(setup, run, None, &mut |_: u64| ()).unwrap();
            let mut from = None;
            // Until then the memory of a step is measured.
            for step in 3..=plan.train.steps {
                let mut stop = StopAt(step, None);
                let ended = train::run(setup, run, from, &mut stop).unwrap();
                assert_eq!(ended, Ended::Stopped);
                let checkpoint = Checkpoint::from_file(&stop.1.unwrap()).unwrap();
                assert_eq!((checkpoint.steps(), checkpoint.run()), (step, (&*variant.name, 0)));
                from = Some(checkpoint);
            }
            let ended = train::run(setup, run, from, &mut |_: u64| ()).unwrap();
            assert!(ended == whole, "{}: the record or the weights differ", variant.name);
        }
    }
}

/// Wide e5m10 does what native f16 does but for the order of sums: the same losses to about f16's rounding of logits.
#[test]
fn wide_e5m10_and_native_f16_agree_over_a_run() {
    let text = "params=f32,compute=e5m10,reduce=f32,scale=dynamic";
    let mut plan = plan(mlp(), &["fp16-mixed", text], 40);
    plan.measure.census_every = 0;
    let (native, wide) = (record(&plan, 0, 2), record(&plan, 1, 2));
    let largest = native.loss.iter().zip(&wide.loss).map(|(a, b)| (a.unwrap() - b.unwrap()).abs());
    let largest = largest.fold(0.0, f64::max);
    println!("largest difference of the loss over {} steps: {largest:.2e}", native.loss.len());
    assert!(largest < 0.02, "{largest}");
    assert_eq!(native.summary.skipped_steps, wide.summary.skipped_steps);
}

/// What is persistent is what the shapes give; the MLP 784-32-10 has 784·32 + 32 + 32·10 + 10 = 25,450 parameters.
#[test]
fn memory_is_the_sum_that_the_shapes_give() {
    const PARAMETERS: u64 = 25_450;
    let plan = plan(mlp(), &["fp32", "fp16-mixed", "bf16-true"], 6);
    // Bytes a parameter: weights that compute, master weights, gradients, two moments.
    for (variant, expected) in [[4, 0, 4, 8], [2, 4, 2, 8], [2, 0, 2, 8]].into_iter().enumerate() {
        let memory = record(&plan, variant, 2).memory.unwrap();
        let found = [memory.weights, memory.master_weights, memory.gradients, memory.optimizer];
        assert_eq!(found.map(|bytes| bytes.0), expected.map(|bytes| bytes * PARAMETERS));
        let parts: u64 = found.iter().map(|bytes| bytes.0).sum();
        assert_eq!(memory.peak_bytes.0, parts + memory.activations.0);
        // The peak comes with the first layer's weight gradient, the last of the backward pass: what is live then beside
        // the gradients is the batch in f32, its copy in 16 bits, and the gradient of the first layer's result. The allocator
        // also sees candle's bookkeeping, some hundred bytes for each of some twenty tensors, most in a build with CUDA.
        let (width, copy) = if variant == 0 { (4, 0) } else { (2, 2) };
        let live = 37 * (784 * (4 + copy) + 32 * width);
        let found = memory.activations.0 - memory.work_space.unwrap().0;
        assert!((live..live + 12 * 1024).contains(&found), "{live} {memory:?}");
    }
}

/// A learning rate of 10⁶ makes the loss of any policy infinite or the scale collapse: a result with its step.
#[test]
fn divergence_is_a_result() {
    let mut plan = plan(mlp(), &["fp16-mixed"], 60);
    plan.train.clip_norm = None;
    plan.train.optimizer =
        OptimizerPlan::Sgd { lr: 1e6, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    let record = record(&plan, 0, 2);
    assert_eq!(record.summary.status, Status::Diverged);
    let failure = record.summary.failure.unwrap();
    assert_eq!(failure.step + 1, record.summary.steps);
    assert!(record.summary.test_accuracy.is_some());
}

/// Weights and outcomes after all steps of a run, each timed by phase if there is a clock.
fn steps(plan: &Plan, mut clock: Option<&mut PhaseClock>) -> (String, Vec<StepOutcome>) {
    let task = Task::of_plan(plan).unwrap();
    let setup = Setup::new(plan, &task, &Device::Cpu);
    let mut trainer = Trainer::new(setup, plan.variants[0].policy, 0).unwrap();
    let mut batches = setup.batches(0).unwrap();
    let accumulate = plan.train.accumulate as u64;
    for step in 0..plan.train.steps {
        let mut load = |index| {
            let number = step * accumulate + index as u64;
            DeviceBatch::new(batches.batch(number)?, task.data.shape(), &Device::Cpu)
        };
        match clock.as_deref_mut() {
            Some(clock) => trainer.phased_step(&mut load, clock).unwrap(),
            None => trainer.step(&mut load, None).unwrap(),
        }
    }
    (trainer.weights_digest().unwrap(), trainer.outcomes().unwrap())
}

/// The same weights to the bit, and the same outcomes; skipped steps, of which fp16-mixed has some at first, included.
#[test]
fn a_step_timed_by_phase_is_an_ordinary_step() {
    for policy in ["fp32", "fp16-mixed", "bf16-true"] {
        for accumulate in [1, 2] {
            let mut plan = plan(cnn(), &[policy], 6);
            plan.train.accumulate = accumulate;
            let mut clock = PhaseClock::new(&Device::Cpu);
            let (ordinary, phased) = (steps(&plan, None), steps(&plan, Some(&mut clock)));
            assert_eq!(ordinary, phased, "{policy}, {accumulate} micro-batches");
            assert!(ordinary.1.iter().any(|outcome| outcome.applied), "{policy}");
            let Phases { data, forward, backward, unscale, update } = clock.mean(6);
            for time in [data, forward, backward, unscale, update] {
                assert!(time.0 > 0.0 && time.0.is_finite(), "{policy}: {time}");
            }
        }
    }
}

fn lock(folder: &Path) -> Folder {
    Folder::lock(folder, "a test").unwrap()
}

/// How every experiment here runs that nothing is told of the machine.
fn options(folder: &Folder) -> Options<'_> {
    static NOWHERE: LazyLock<Environment> = LazyLock::new(Environment::default);
    Options {
        folder,
        force: false,
        save_weights: false,
        stop: None,
        device: &Device::Cpu,
        environment: &NOWHERE,
    }
}

fn run(
    plan: &Plan,
    options: Options<'_>,
    listen: &mut dyn FnMut(Event<'_>),
) -> Result<Results, ExperimentError> {
    let task = Task::of_plan(plan).unwrap();
    Experiment::new(plan.clone(), task).unwrap().run(options, listen)
}

/// A variant that is emulated has no phases, as it has no times.
#[test]
fn a_native_variant_has_a_time_for_each_phase() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(mlp(), &["fp32", "fp16-mixed", "bf16-true", "tf32"], 6);
    plan.train.accumulate = 2;
    let results = run(&plan, options(&lock(folder.path())), &mut |_| ()).unwrap();
    for variant in results.variants {
        let phases = variant.train.and_then(|train| train.phases);
        assert_eq!(phases.is_none(), variant.emulated, "{}", variant.name);
        let Some(Phases { data, forward, backward, unscale, update }) = phases else { continue };
        for time in [data, forward, backward, unscale, update] {
            assert!(time.0 > 0.0 && time.0.is_finite(), "{}: {time}", variant.name);
        }
    }
}

/// Runs an experiment that is stopped when so many results were saved.
fn stop_after(saves: usize, plan: &Plan, options: Options<'_>) {
    let interrupted = std::panic::catch_unwind(|| {
        let mut saved = 0;
        let mut listen = |event: Event<'_>| {
            saved += usize::from(matches!(event, Event::Saved(_)));
            assert!(saved < saves, "stopped");
        };
        run(plan, options, &mut listen)
    });
    assert!(interrupted.is_err());
}

/// The seed and the digest of each run.
fn digests(result: &VariantResult) -> Vec<(u64, Option<&str>)> {
    result.runs.iter().map(|run| (run.seed, run.weights_digest.as_deref())).collect()
}

/// Six seeds with and without controls; those with are interrupted in their second round.
#[test]
fn controls_are_the_baseline_again_and_change_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(mlp(), &["fp32", "bf16-mixed"], 6);
    plan.seeds = (0..6).collect();
    let plain = folder.path().join("plain");
    let expected = run(&plan, options(&lock(&plain)), &mut |_| ()).unwrap();
    assert_eq!(expected.controls, []);
    let folders = store::real_folders(&plain.join("runs")).unwrap();
    assert_eq!(folders.len(), 2);

    plan.controls = vec![ControlKind::SameSeeds, ControlKind::OtherSeeds];
    let out = folder.path().join("controls");
    stop_after(7, &plan, options(&lock(&out)));
    let mut counts = Vec::new();
    let mut trained = Vec::new();
    let mut listen = |event: Event<'_>| match event {
        Event::Started { runs, kept } => counts = vec![runs, kept],
        Event::RunStarted { variant, seed } => trained.push(format!("{variant} {seed}")),
        _ => (),
    };
    let results = run(&plan, options(&lock(&out)), &mut listen).unwrap();
    assert_eq!(counts, [24, 7]);
    assert_eq!(trained[..3], ["fp32+other-seeds 7", "fp32 2", "bf16-mixed 2"]);
    assert_eq!(trained.len(), 17);

    let accuracies = |results: &Results| -> Vec<_> {
        results.variants.iter().map(|v| accuracy_difference(v).cloned()).collect()
    };
    assert_eq!(accuracies(&results), accuracies(&expected));
    for (variant, expected) in results.variants.iter().zip(&expected.variants) {
        assert_eq!(digests(variant), digests(expected));
    }
    check_controls(&results, &out);
}

fn accuracy_difference(result: &VariantResult) -> Option<&MetricDifference> {
    result.against_baseline.as_ref()?.accuracy_difference.as_ref()
}

fn check_controls(results: &Results, out: &Path) {
    let [same, other] = &results.controls[..] else { panic!("two controls") };
    let baseline = &results.variants[0];
    assert_eq!((same.kind, other.kind), (ControlKind::SameSeeds, ControlKind::OtherSeeds));
    assert_eq!(digests(&same.result), digests(baseline));
    assert_eq!(claims::nondeterminism(results), None);
    let difference = accuracy_difference(&same.result).unwrap();
    let zero = MetricDifference {
        value: 0.0,
        low: Some(0.0),
        high: Some(0.0),
        p: Some(1.0),
        p_holm: None,
        probability_better: Some(0.5),
        pairs: 6,
        verdict: MetricVerdict::Equivalent,
    };
    assert_eq!(*difference, zero);
    let against = same.result.against_baseline.as_ref().unwrap();
    assert!(against.train_time_ratio.is_some() && against.inference_time_ratio.is_some());
    assert_eq!(against.train_memory_ratio.unwrap().0, 1.0);

    let seeds: Vec<u64> = other.result.runs.iter().map(|run| run.seed).collect();
    assert_eq!(seeds, [6, 7, 8, 9, 10, 11]);
    assert!(other.result.train.is_none());
    // By position: seed 6 with seed 0, and so on.
    let of = |result: &VariantResult| -> Vec<f64> {
        result.runs.iter().map(|run| run.test_accuracy.unwrap()).collect()
    };
    let pairs = of(&other.result).into_iter().zip(of(baseline));
    let mean = pairs.map(|(a, b)| a - b).sum::<f64>() / 6.0;
    let difference = accuracy_difference(&other.result).unwrap();
    assert!((difference.value - mean).abs() < 1e-12 && difference.value != 0.0);
    assert_eq!((difference.pairs, difference.p_holm), (6, None));

    for control in &results.controls {
        for run in &control.result.runs {
            let name = &control.result.name;
            let path = record::files::record_path(out, name, run.seed);
            let record: RunRecord = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            assert_eq!((&record.variant, &record.summary), (name, run));
        }
    }
}

/// An experiment stopped after its first runs keeps them, and the finished whole is as if it had never been stopped.
#[test]
fn an_interrupted_experiment_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(mlp(), &["fp32", "bf16-mixed"], 6);
    plan.seeds = vec![0, 1];
    let whole = folder.path().join("whole");
    let expected = run(&plan, options(&lock(&whole)), &mut |_| ()).unwrap();
    assert!(expected.complete);

    let out = folder.path().join("interrupted");
    stop_after(3, &plan, options(&lock(&out)));
    let read = |path: &Path| -> Results {
        serde_json::from_slice(&std::fs::read(path.join("results.json")).unwrap()).unwrap()
    };
    assert!(!read(&out).complete);

    let mut kept = None;
    let mut listen = |event: Event<'_>| {
        if let Event::Started { kept: count, .. } = event {
            kept = Some(count);
        }
    };
    let resumed = run(&plan, options(&lock(&out)), &mut listen).unwrap();
    assert_eq!(kept, Some(3));
    let digests = |results: &Results| -> BTreeMap<(String, u64), Option<String>> {
        let of = |v: &VariantResult| {
            let name = v.name.clone();
            v.runs
                .iter()
                .map(move |r| ((name.clone(), r.seed), r.weights_digest.clone()))
                .collect::<Vec<_>>()
        };
        results.variants.iter().flat_map(of).collect()
    };
    assert_eq!(digests(&resumed), digests(&expected));

    // Another plan in the same folder is refused, and what is there stays.
    let mut other = plan.clone();
    other.train.steps = 5;
    let error = run(&other, options(&lock(&out)), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(read(&out).plan, plan);
}

/// A trainer of a model on the first batches of its data, for what a whole run does not show.
fn with_trainer<R>(plan: &Plan, work: impl FnOnce(Trainer<'_>, &mut Batches<'_>) -> R) -> R {
    let task = Task::of_plan(plan).unwrap();
    let setup = Setup::new(plan, &task, &Device::Cpu);
    let trainer = Trainer::new(setup, plan.variants[0].policy, 0).unwrap();
    work(trainer, &mut setup.batches(0).unwrap())
}

/// A training batch; its first pixel is infinite in f16 and bf16 where it is a bad one.
fn batch(batches: &mut Batches<'_>, step: u64, is_bad: bool) -> DeviceBatch {
    let mut batch = batches.batch(step).unwrap();
    if is_bad {
        batch.inputs[0] = f32::MAX;
    }
    DeviceBatch::new(batch, [1, 28, 28], &Device::Cpu).unwrap()
}

/// A loss scale that takes every gradient of f16 to infinity: the statistics of the rejected batch, which are finite, leave no
/// trace in the evaluation.
#[test]
fn a_rejected_step_leaves_running_statistics_as_they_were() {
    for census in [false, true] {
        let policy = "params=f32,compute=f16,reduce=f32,scale=static:1e30";
        with_trainer(&plan(cnn(), &[policy], 2), |mut trainer, batches| {
            let before = trainer.test(batches.test_batches(50)).unwrap();
            let batch = batch(batches, 0, false);
            let mut counted = Census::default();
            trainer.step(&mut |_| Ok(batch.clone()), census.then_some(&mut counted)).unwrap();
            let outcomes = trainer.outcomes().unwrap();
            assert!(!outcomes[0].applied && outcomes[0].loss.is_finite());
            assert_eq!(trainer.test(batches.test_batches(50)).unwrap(), before);
        });
    }
}

/// The step that ends a run is rejected: what is evaluated is the run as it was before it.
#[test]
fn a_diverged_run_is_evaluated_as_the_same_run_that_stopped_before() {
    for policy in ["fp32", "fp16-true", "bf16-mixed"] {
        let mut diverges = plan(cnn(), &[policy], 30);
        diverges.measure.census_every = 0;
        diverges.train.clip_norm = None;
        diverges.train.schedule =
            SchedulePlan { kind: ScheduleKind::Constant, warmup: 0, floor: 0.0 };
        diverges.train.optimizer =
            OptimizerPlan::Sgd { lr: 1e10, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
        let diverged = record(&diverges, 0, 2);
        assert_eq!(diverged.summary.status, Status::Diverged, "{policy}");
        let failure = diverged.summary.failure.clone().unwrap();
        assert!(failure.step > 0 && failure.layer.is_some(), "{policy}: {failure:?}");
        let mut stops = diverges.clone();
        stops.train.steps = failure.step;
        let stopped = record(&stops, 0, 2);
        assert_eq!(stopped.summary.status, Status::Completed, "{policy}");
        assert_eq!(diverged.summary.weights_digest, stopped.summary.weights_digest, "{policy}");
        assert_eq!(diverged.summary.test_accuracy, stopped.summary.test_accuracy, "{policy}");
        let losses = [&diverged, &stopped].map(|record| record.evaluations.last().unwrap().loss);
        assert_eq!(losses[0], losses[1], "{policy}");
    }
}

/// One image that is infinite in 16 bits: `GradScaler` skips the step, halves the scale and goes on. Without a loss scale nothing
/// can recover, and the run ends.
#[test]
fn a_loss_that_is_not_finite_is_a_skipped_step_under_a_dynamic_scale() {
    for (policy, goes_on) in [("fp16-mixed", true), ("fp16-true", false), ("bf16-mixed", false)] {
        let policy = if goes_on {
            "params=f32,compute=f16,reduce=f32,scale=dynamic:init=256"
        } else {
            policy
        };
        with_trainer(&plan(mlp(), &[policy], 4), |mut trainer, batches| {
            let batches: Vec<DeviceBatch> = (0..3).map(|i| batch(batches, i, i == 1)).collect();
            for batch in &batches {
                trainer.step(&mut |_| Ok(batch.clone()), None).unwrap();
            }
            let outcomes = trainer.outcomes().unwrap();
            let applied: Vec<bool> = outcomes.iter().map(|outcome| outcome.applied).collect();
            let ends: Vec<bool> = outcomes.iter().map(|outcome| outcome.ends).collect();
            assert!(!outcomes[1].loss.is_finite());
            if goes_on {
                assert_eq!((applied, ends), (vec![true, false, true], vec![false; 3]));
                let scales: Vec<f32> = outcomes.iter().map(|outcome| outcome.scale).collect();
                assert_eq!(scales, [256.0, 256.0, 128.0]);
            } else {
                assert_eq!((applied, ends), (vec![true, false], vec![false, true]), "{policy}");
                let layer = trainer.layer_to_blame(1, &mut |_| Ok(batches[1].clone())).unwrap();
                assert_eq!(layer.as_deref(), Some("linear1"));
            }
        });
    }
}

/// A floor near 0 would let a scale fall without end.
#[test]
fn losses_that_stay_non_finite_end_a_run() {
    let policy = "params=f32,compute=f16,reduce=f32,scale=dynamic:init=256:floor=1e-37";
    with_trainer(&plan(mlp(), &[policy], 100), |mut trainer, batches| {
        let batches = [false, true].map(|is_bad| batch(batches, 0, is_bad));
        for step in 0..60 {
            trainer.step(&mut |_| Ok(batches[usize::from(step > 3)].clone()), None).unwrap();
        }
        let outcomes = trainer.outcomes().unwrap();
        assert_eq!(outcomes.len(), 4 + NON_FINITE_LOSSES as usize);
        let ends = |outcome: &StepOutcome| outcome.ends;
        assert_eq!(outcomes.iter().position(ends), Some(outcomes.len() - 1));
    });
}

/// Steps that are skipped while the loss scale settles get a census although the plan asks for none, and are told apart.
#[test]
fn rejected_steps_are_counted() {
    let policy = "params=f32,compute=f16,reduce=f32,scale=dynamic:init=16777216";
    let mut plan = plan(mlp(), &[policy], 30);
    plan.variants[0].name = "scaled".to_owned();
    plan.baseline = "scaled".to_owned();
    plan.measure.census_every = 0;
    let record = record(&plan, 0, 2);
    let skipped: Vec<u64> = record.skips.iter().map(|skip| skip.step).collect();
    assert!(skipped.len() > 1 && skipped.len() < 16, "{skipped:?}");
    assert!(record.census_steps.is_empty() && record.census.is_empty());
    assert!(record.counted_steps.iter().map(|counted| counted.step).eq(skipped.iter().copied()));
    for counted in &record.counted_steps {
        assert!(!counted.planned && !counted.applied && counted.counts.overflow > 0, "{counted:?}");
    }
    let overflow: u64 = record.counted_steps.iter().map(|counted| counted.counts.overflow).sum();
    let by_layer = record.rejected_census.iter().filter(|census| census.role != Role::Updates);
    assert_eq!(by_layer.filter_map(|census| Some(census.counts?.overflow)).sum::<u64>(), overflow);
    let temporary = tempfile::tempdir().unwrap();
    let folder = lock(temporary.path());
    let results = run(&plan, options(&folder), &mut |_| ()).unwrap();
    let evidence = results.variants[0].numerics.evidence;
    assert_eq!((evidence.census_steps, evidence.rejected_steps), (0, skipped.len() as u64));
    assert_eq!(evidence.settling_steps, skipped.len() as u64);
    assert_eq!((evidence.settling.overflow, evidence.settled), (overflow, Counts::default()));
}

/// The census of a step in which the loss scale settled is told apart by layer: it is what the same run counts when it ends there.
#[test]
fn the_census_of_settling_steps_is_told_apart() {
    let policy = "params=f32,compute=f16,reduce=f32,scale=dynamic:init=16777216";
    let mut plan = plan(mlp(), &[policy], 30);
    plan.measure.census_every = 1;
    let whole = record(&plan, 0, 2);
    let settling = whole.settling_steps();
    assert!(settling > 1 && whole.census_steps.len() as u64 > settling);
    plan.train.steps = settling;
    let short = record(&plan, 0, 2);
    assert_eq!(short.skips.len() as u64, settling);
    assert_eq!(whole.settling_census, short.census);
    // A run that makes no update never settles.
    assert!(short.settling_census.is_empty());
}

/// What a run holds does not grow with its length, and what a step takes not with its micro-batches.
#[test]
fn memory_depends_neither_on_steps_nor_on_micro_batches() {
    let mut plan = plan(mlp(), &["fp32", "bf16-mixed"], 4);
    plan.measure.census_every = 0;
    for variant in 0..2 {
        plan.train.accumulate = 2;
        let two = record(&plan, variant, 2).memory.unwrap();
        plan.train.accumulate = 9;
        let nine = record(&plan, variant, 2).memory.unwrap();
        assert_eq!(two, nine);
        assert_eq!(two.gradients.0, 4 * 25_450, "sums of micro-batches are in f32");
    }
    plan.train.accumulate = 1;
    let held = [10, 1_000_000_000].map(|steps| {
        plan.train.steps = steps;
        let meter = HostMeter::start().unwrap();
        with_trainer(&plan, |_trainer, _| meter.live())
    });
    // The thread pool's queues grow by a block of 1.5 KiB when they please.
    let difference = held[0].0.abs_diff(held[1].0);
    assert!(difference <= 16 * 1024, "{held:?}");
}

/// With a census on every step there is none whose memory could be measured in passing. The work space of products is counted.
#[test]
fn memory_is_measured_with_a_census_on_every_step_too() {
    let mut plan = plan(mlp(), &["fp32", "bf16-mixed"], 6);
    for variant in 0..2 {
        let [seldom, always] = [0, 1].map(|every| {
            plan.measure.census_every = every;
            record(&plan, variant, 2).memory.unwrap()
        });
        let difference = seldom.peak_bytes.0.abs_diff(always.peak_bytes.0);
        assert!(difference < 4 * 1024, "{seldom:?} {always:?}");
        assert_eq!(seldom.work_space, always.work_space);
        assert!(seldom.work_space.unwrap().0 > 0);
    }
}

/// A run has room for a batch of its longest texts, whether it meets it or not: as much as where all texts are so long.
#[test]
fn memory_of_texts_is_that_of_the_longest() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(mlp(), &["fp32", "bf16-mixed"], 1);
    plan.model = ModelPlan::Encoder(EncoderPlan {
        width: 16,
        depth: 1,
        heads: 2,
        feed_forward: 32,
        dropout: 0.1,
        attention_dropout: 0.0,
        norm: NormPlan::Before,
        pool: TextPool::Mean,
        residual_init: 1.0,
    });
    plan.train.batch = 8;
    let mut peak = |words: &dyn Fn(usize) -> usize, steps: u64, variant: usize| {
        let path = folder.path().join("texts.csv");
        let text = |i: usize| (0..words(i)).map(move |k| ["a ", "b ", "c ", "d "][(i + k) % 4]);
        let rows = (0..60).map(|i| format!("{},{}\n", i % 2, text(i).collect::<String>()));
        let csv = format!("label,text\n{}", rows.collect::<String>());
        store::write(&path, csv.as_bytes()).unwrap();
        plan.data = DataPlan::Text {
            files: TextFiles::Named { train: path.clone(), test: TableTest::File(path) },
            text: "text".to_owned(),
            target: "label".to_owned(),
            length: 16,
            tokenizer: None,
            vocabulary: 256,
        };
        plan.train.steps = steps;
        record(&plan, variant, 2).memory.unwrap().peak_bytes.0
    };
    // A token stands before and one behind the words.
    let mixed = |i: usize| 1 + i * 5 % 14;
    for variant in 0..2 {
        let longest = peak(&|_| 14, 1, variant);
        for steps in [1, 12] {
            let found = peak(&mixed, steps, variant);
            assert!(found.abs_diff(longest) < 4 * 1024, "{steps} steps: {found} {longest}");
        }
        let shortest = peak(&|_| 1, 1, variant);
        assert!(shortest + 16 * 1024 < longest, "{shortest} {longest}");
    }
}

/// The gradients of micro-batches summed in f32 are those of the whole batch: four quarters make the same loss.
#[test]
fn accumulated_micro_batches_train_like_one_batch() {
    let mut whole = plan(mlp(), &["fp32"], 1);
    whole.measure.census_every = 0;
    whole.train.batch = 40;
    let mut parts = whole.clone();
    (parts.train.batch, parts.train.accumulate) = (10, 4);
    let data: Dataset = data::load(&whole.data).unwrap();
    assert!(data.samples()[0] >= 40);
    let (whole, parts) = (record(&whole, 0, 2), record(&parts, 0, 2));
    let difference = (whole.loss[0].unwrap() - parts.loss[0].unwrap()).abs();
    assert!(difference < 1e-5, "{difference}");
    let tests = [&whole, &parts].map(|record| record.evaluations[0].loss.unwrap());
    assert!((tests[0] - tests[1]).abs() < 1e-4, "{tests:?}");
}
