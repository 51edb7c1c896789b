//! Whole runs on a GPU: what they record is what the CPU records, but for the order of sums; the same every time, and whether
//! steps are captured or eager.

use std::ops::ControlFlow;

use candle_core::Device;
use mantissa::record::{Identity, Phases, RunRecord, Status};
use mantissa::spec::{
    Activation, CheckpointEvery, ClaimsPlan, ConvBlock, DataPlan, MeasurePlan, ModelPlan,
    OptimizerPlan, Plan, Pool, ScheduleKind, SchedulePlan, TrainPlan, VariantPlan,
};
use mantissa::task::Task;
use mantissa::train::{self, Checkpoint, Follow, RunError, Setup, Timing, Wants};

use crate::gpu;

fn mlp() -> ModelPlan {
    ModelPlan::Mlp { hidden: vec![24, 16], activation: Activation::Gelu, dropout: 0.1 }
}

fn cnn() -> ModelPlan {
    let block = ConvBlock {
        channels: 4,
        kernel: 3,
        stride: 2,
        padding: 1,
        dilation: 1,
        groups: 1,
        pool: Pool::Max,
    };
    ModelPlan::Cnn {
        blocks: vec![block],
        hidden: vec![16],
        activation: Activation::Relu,
        batch_norm: true,
        dropout: 0.1,
    }
}

fn plan(model: ModelPlan, policies: &[&str], steps: u64) -> Plan {
    let variant =
        |policy: &&str| VariantPlan { name: (*policy).to_owned(), policy: policy.parse().unwrap() };
    Plan {
        init: None,
        reference: None,
        name: "gpu".to_owned(),
        data: DataPlan::Digits { train: 60, test: 30, seed: 1 },
        model,
        train: TrainPlan {
            steps,
            batch: 13,
            accumulate: 2,
            optimizer: OptimizerPlan::AdamW {
                lr: 1e-3,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.01,
            },
            schedule: SchedulePlan { kind: ScheduleKind::Cosine, warmup: 2, floor: 0.1 },
            clip_norm: Some(1.0),
            label_smoothing: 0.1,
            evaluate_every: Some(5),
            cuda_graphs: true,
            checkpoint_every: CheckpointEvery::default(),
        },
        measure: MeasurePlan {
            census_every: 4,
            timing_blocks: 2,
            timing_steps: 2,
            timing_warmup: 1,
            inference_batch: 30,
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

fn record(plan: &Plan, variant: usize, device: &Device) -> RunRecord {
    let task = Task::of_plan(plan).unwrap();
    let setup = Setup::new(plan, &task, device);
    train::run(setup, (&plan.variants[variant], 0), None, &mut |_: u64| ())
        .unwrap()
        .trained()
        .unwrap()
        .record
}

const POLICIES: [&str; 6] = ["fp32", "tf32", "fp16-mixed", "bf16-mixed", "fp16-true", "bf16-true"];

/// Everything but the order of sums is the same: losses agree to the rounding of the format, counts of elements exactly.
#[test]
fn a_run_on_the_gpu_is_the_run_on_the_cpu_but_for_the_order_of_sums() {
    let Some((device, _guard)) = gpu() else { return };
    for model in [mlp(), cnn()] {
        let plan = plan(model, &POLICIES, 10);
        for (variant, policy) in POLICIES.iter().enumerate() {
            let (here, there) =
                (record(&plan, variant, &Device::Cpu), record(&plan, variant, &device));
            assert_eq!(there.summary.status, Status::Completed, "{policy}");
            // One rounding of the logits, carried through ten steps.
            let allowed = if *policy == "fp32" { 1e-4 } else { 0.02 };
            for (step, (a, b)) in here.loss.iter().zip(&there.loss).enumerate() {
                let distance = (a.unwrap() - b.unwrap()).abs();
                assert!(distance < allowed, "{policy}, step {step}: {a:?} {b:?}");
            }
            assert_eq!(here.loss.len(), there.loss.len());
            assert_eq!(here.census_steps, there.census_steps);
            assert_eq!(here.scale, there.scale, "{policy}");
            assert_eq!(here.updates.elements, there.updates.elements);
            assert_eq!(here.gradients.elements, there.gradients.elements);
            let seen = |record: &RunRecord| -> Vec<_> {
                let census = record.census.iter();
                census.map(|c| (c.layer.clone(), c.role, c.counts.unwrap().elements)).collect()
            };
            assert_eq!(seen(&here), seen(&there), "{policy}");
            let steps = |record: &RunRecord| -> Vec<u64> {
                record.evaluations.iter().map(|evaluation| evaluation.step).collect()
            };
            assert_eq!(steps(&here), steps(&there));
        }
    }
}

/// Residual sums and global pooling too.
#[test]
fn a_residual_network_trains_as_on_the_cpu() {
    let Some((device, _guard)) = gpu() else { return };
    let policies = ["fp32", "fp16-mixed"];
    let mut plan = plan(ModelPlan::Resnet { depth: 8, width: 2 }, &policies, 5);
    (plan.train.batch, plan.train.accumulate) = (6, 1);
    for (variant, policy) in policies.iter().enumerate() {
        let (here, there) = (record(&plan, variant, &Device::Cpu), record(&plan, variant, &device));
        for (step, (a, b)) in here.loss.iter().zip(&there.loss).enumerate() {
            let distance = (a.unwrap() - b.unwrap()).abs();
            assert!(distance < 0.02, "{policy}, step {step}: {a:?} {b:?}");
        }
        assert_eq!(here.loss.len(), there.loss.len());
    }
}

/// The census of the first step's weights, which no sum has touched yet, is the CPU's.
#[test]
fn the_census_of_the_first_weights_is_that_of_the_cpu() {
    let Some((device, _guard)) = gpu() else { return };
    let mut plan = plan(cnn(), &["fp16-true"], 1);
    plan.measure.census_every = 1;
    let weights = |record: RunRecord| -> Vec<_> {
        let census = record.census.into_iter();
        census.filter(|census| census.role == mantissa::record::Role::Weights).collect()
    };
    let (here, there) = (record(&plan, 0, &Device::Cpu), record(&plan, 0, &device));
    assert_eq!(weights(here), weights(there));
}

/// A captured step does what an eager one does: the same record, to the bit, with and without CUDA graphs; and again on a second run.
#[test]
fn repeated_steps_are_the_told_ones_to_the_bit() {
    let Some((device, _guard)) = gpu() else { return };
    for model in [mlp(), cnn()] {
        let graphs = plan(model, &POLICIES, 14);
        let mut eager = graphs.clone();
        eager.train.cuda_graphs = false;
        for (variant, policy) in POLICIES.iter().enumerate() {
            let captured = record(&graphs, variant, &device);
            assert_eq!(captured, record(&eager, variant, &device), "{policy}");
            assert_eq!(captured, record(&graphs, variant, &device), "{policy} again");
        }
    }
}

/// Stops a run at the first moment after so many steps at which it can be kept, and takes its checkpoint.
struct StopAfter {
    steps: u64,
    file: Option<Vec<u8>>,
}

impl Follow for StopAfter {
    fn step(&mut self, _done: u64) {}

    fn wants(&mut self, done: u64) -> Wants {
        if done > self.steps { Wants::Stop } else { Wants::Nothing }
    }

    fn keep(&mut self, checkpoint: Checkpoint) -> Result<ControlFlow<()>, RunError> {
        self.file = Some(checkpoint.to_file(Identity::default())?);
        Ok(ControlFlow::Continue(()))
    }
}

/// A run that is stopped wherever it can be, each time continued by what a file holds: captured steps, dropout, batch norm, sums of
/// micro-batches, a loss scale that comes down and grows, and outcomes that the host reads long after their steps.
#[test]
fn a_run_that_goes_on_from_checkpoints_is_one_that_was_never_stopped() {
    let Some((device, _guard)) = gpu() else { return };
    let scaled = "params=f32,compute=f16,reduce=f32,scale=dynamic:init=16777216:interval=3";
    let policies = ["fp32", "tf32", "fp16-mixed", "bf16-true", scaled];
    let looked_at = [mlp(), cnn()].map(|model| plan(model, &policies, 14));
    let mut unlooked_at = plan(mlp(), &policies, 70);
    (unlooked_at.measure.census_every, unlooked_at.train.evaluate_every) = (0, None);
    for plan in looked_at.iter().chain([&unlooked_at]) {
        let task = Task::of_plan(plan).unwrap();
        let setup = Setup { save_weights: true, ..Setup::new(plan, &task, &device) };
        for variant in &plan.variants {
            let run = (variant, 0);
            let whole = train::run(setup, run, None, &mut |_: u64| ()).unwrap();
            let (mut from, mut stops) = (None, Vec::new());
            let ended = loop {
                let steps = stops.last().copied().unwrap_or(0);
                let mut stop = StopAfter { steps, file: None };
                let ended = train::run(setup, run, from.take(), &mut stop).unwrap();
                let Some(file) = stop.file else { break ended };
                let checkpoint = Checkpoint::from_file(&file).unwrap();
                stops.push(checkpoint.steps());
                from = Some(checkpoint);
            };
            // On its way, and after its last step.
            assert!(stops.len() > 1 && stops.last() == Some(&plan.train.steps), "{stops:?}");
            assert!(ended == whole, "{}: the record or the weights differ", variant.name);
        }
    }
}

/// A loss scale that overflows at first: the same steps are skipped as on the CPU, with no word from the host.
#[test]
fn steps_are_skipped_on_the_gpu_as_on_the_cpu() {
    let Some((device, _guard)) = gpu() else { return };
    let policy = "params=f32,compute=f16,reduce=f32,scale=dynamic:init=16777216:interval=3";
    let mut plan = plan(mlp(), &[policy], 40);
    plan.measure.census_every = 0;
    plan.train.evaluate_every = None;
    let (here, there) = (record(&plan, 0, &Device::Cpu), record(&plan, 0, &device));
    assert!(here.summary.skipped_steps > 2, "{:?}", here.skips);
    assert_eq!(here.skips, there.skips);
    assert_eq!(here.scale, there.scale);
}

/// A run that diverges ends at the same step as on the CPU, although the host learns of it later, and leaves the same behind.
#[test]
fn a_run_that_diverges_ends_where_it_does_on_the_cpu() {
    let Some((device, _guard)) = gpu() else { return };
    for (model, census_every) in [(mlp(), 0), (cnn(), 0), (cnn(), 2)] {
        let mut plan = plan(model, &["fp16-true"], 60);
        plan.measure.census_every = census_every;
        plan.train.evaluate_every = None;
        plan.train.clip_norm = None;
        plan.train.optimizer =
            OptimizerPlan::Sgd { lr: 1e5, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
        let (here, there) = (record(&plan, 0, &Device::Cpu), record(&plan, 0, &device));
        assert_eq!(here.summary.status, Status::Diverged);
        assert_eq!(here.summary.failure, there.summary.failure);
        assert_eq!(here.loss.len(), there.loss.len());
        let mut eager = plan.clone();
        eager.train.cuda_graphs = false;
        assert_eq!(record(&eager, 0, &device), there);
    }
}

/// Memory is the pool's: what persists is what the shapes give, and nothing is left behind.
#[test]
fn memory_is_measured_by_the_pool_and_given_back() {
    let Some((device, _guard)) = gpu() else { return };
    let mut plan = plan(mlp(), &["fp32", "fp16-mixed", "tf32"], 8);
    plan.measure.census_every = 0;
    let memories = [0, 1, 2].map(|variant| record(&plan, variant, &device).memory.unwrap());
    // 784 · 24 + 24 + 24 · 16 + 16 + 16 · 10 + 10 parameters, whose gradients are summed in f32 over two micro-batches.
    let gradients = memories.map(|memory| memory.gradients.0);
    assert_eq!(gradients, [4 * 19_410; 3]);
    for memory in memories {
        assert!(memory.peak_bytes.0 > 0);
        let held = [memory.weights, memory.master_weights, memory.gradients, memory.optimizer];
        let held: u64 = held.iter().map(|bytes| bytes.0).sum();
        assert_eq!(memory.peak_bytes.0, held + memory.activations.0);
        // Batches of 13 images of 784 values in f32, of which one is there at a time.
        assert!(memory.activations.0 >= 13 * 784 * 4, "{memory:?}");
    }
    let meter = mantissa::device::Meter::start(&device).unwrap().unwrap();
    record(&plan, 1, &device);
    assert_eq!(meter.live().unwrap().0, 0);
}

/// A block of more steps than a GPU keeps outcomes of has its times.
#[test]
fn long_blocks_are_timed() {
    let Some((device, _guard)) = gpu() else { return };
    let policies = ["fp32", "fp16-mixed"];
    let mut plan = plan(mlp(), &policies, 4);
    plan.train.accumulate = 1;
    plan.measure.timing_steps = 70;
    let task = Task::of_plan(&plan).unwrap();
    let setup = Setup::new(&plan, &task, &device);
    for (timing, policy) in two_blocks(setup, &plan).iter().zip(policies) {
        assert_eq!(timing.failure, None, "{policy}");
        let blocks = [timing.train.len(), timing.phases.len(), timing.inference.len()];
        assert_eq!(blocks, [2; 3], "{policy}");
    }
}

/// Two timed blocks of each variant.
fn two_blocks(setup: Setup<'_>, plan: &Plan) -> Vec<Timing> {
    let phase = train::Phase { blocks: 0..2, products: true };
    let mut go_on = |_, _| ControlFlow::Continue(());
    train::time_variants(setup, 0, &plan.variants, phase, &mut go_on).unwrap()
}

/// Every policy has a time, TF32 too, which a CPU only emulates.
#[test]
fn every_policy_is_timed() {
    let Some((device, _guard)) = gpu() else { return };
    let plan = plan(mlp(), &POLICIES, 4);
    let task = Task::of_plan(&plan).unwrap();
    let setup = Setup::new(&plan, &task, &device);
    for (timing, policy) in two_blocks(setup, &plan).iter().zip(POLICIES) {
        assert_eq!(timing.train.len(), 2, "{policy}");
        assert!(timing.train.iter().chain(&timing.inference).all(|time| time.0 > 0.0), "{policy}");
        assert_eq!(timing.phases.len(), 2, "{policy}");
        for Phases { data, forward, backward, unscale, update } in &timing.phases {
            for time in [data, forward, backward, unscale, update] {
                assert!(time.0 > 0.0 && time.0.is_finite(), "{policy}: {timing:?}");
            }
        }
        assert!(timing.inference_memory.is_some(), "{policy}");
    }
}
