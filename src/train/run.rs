//! One run: a variant under one seed, from the first step to its record.

use candle_core::Device;

use super::trainer::{Loaded, Trainer};
use crate::data::{Batches, DataError, Dataset, augmentation};
use crate::device::Meter;
use crate::memory::OutOfMemory;
use crate::model::Model;
use crate::numerics::Census;
use crate::ops::StepOutcome;
use crate::precision::LossScale;
use crate::record::{
    Evaluation, Failure, GradientCounts, Memory, RunRecord, RunSummary, Skip, Status, UpdateCounts,
};
use crate::spec::{Plan, VariantPlan};
use crate::units::Bytes;

/// Steps before the one whose memory is measured: work space that libraries keep is there by then.
const STEPS_BEFORE_MEMORY: u64 = 2;

/// A run that could not be done at all.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The batches do not fit the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// There is not enough memory.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// An operation failed.
    #[error("{}", first_line(.0))]
    Operation(#[from] candle_core::Error),
}

/// candle appends a backtrace, in lines of its own, where the environment asks for one.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Everything a run gathers on its way.
struct Log {
    loss: Vec<Option<f64>>,
    evaluations: Vec<Evaluation>,
    scale: Vec<(u64, f64)>,
    skips: Vec<Skip>,
    census: Census,
    census_steps: Vec<u64>,
    updates: UpdateCounts,
    gradients: GradientCounts,
    memory: Option<Memory>,
}

impl Log {
    fn new() -> Self {
        Self {
            loss: Vec::new(),
            evaluations: Vec::new(),
            scale: Vec::new(),
            skips: Vec::new(),
            census: Census::default(),
            census_steps: Vec::new(),
            updates: UpdateCounts::default(),
            gradients: GradientCounts::default(),
            memory: None,
        }
    }

    /// Takes in what the next step did; `scales` says whether there is a loss scale.
    fn take_in(&mut self, outcome: StepOutcome, model: &Model, scales: bool) {
        let step = self.loss.len() as u64;
        self.loss.push(outcome.loss.is_finite().then_some(f64::from(outcome.loss)));
        let scale = f64::from(outcome.scale);
        if scales && self.scale.last().is_none_or(|last| last.1 != scale) {
            self.scale.push((step, scale));
        }
        let counts = outcome.gradients.counts;
        match outcome.blamed {
            Some(parameter) => {
                let layer = model.parameters[parameter].layer.clone();
                self.skips.push(Skip { step, layer });
            }
            None => self.updates.elements += counts.elements,
        }
        self.updates.lost += outcome.lost;
        self.gradients = self.gradients.plus(counts);
    }
}

/// Trains one variant under one seed on a device and returns its record; `progress(step)` is called after each step.
///
/// # Errors
/// When the batches do not fit the data or an operation fails; a run that diverges is a record.
pub fn run(
    plan: &Plan,
    (model, data, device): (&Model, &Dataset, &Device),
    (variant, seed): (&VariantPlan, u64),
    progress: &mut dyn FnMut(u64),
) -> Result<RunRecord, RunError> {
    let mut batches = Batches::new(data, plan.train.batch, augmentation(&plan.data), seed)?;
    let meter = Meter::start(device)?;
    let mut trainer = Trainer::new(model, &plan.train, variant.policy, seed, (data.shape, device))?;
    let held = meter.live()?;
    let mut log = Log::new();
    let mut failure = None;
    for step in 0..plan.train.steps {
        let with_census = plan.measure.census_every > 0 && step % plan.measure.census_every == 0;
        let measures = log.memory.is_none() && !with_census && step >= STEPS_BEFORE_MEMORY;
        let before = measures.then(|| meter.start_peak()).transpose()?;
        let micro = micro_batches(&mut batches, &trainer, (step, plan.train.accumulate))?;
        if with_census {
            log.census_steps.push(step);
            trainer.step(&micro, Some(&mut log.census))?;
        } else {
            trainer.step(&micro, None)?;
        }
        drop(micro);
        if let Some(before) = before {
            log.memory = memory(&trainer, (held, meter.peak()?.0 - before.0), variant, plan);
        }
        progress(step + 1);
        let done = step + 1;
        let every = |every: u64| every > 0 && done % every == 0;
        let evaluates = plan.train.evaluate_every.is_some_and(every) && done < plan.train.steps;
        // A step that counts or evaluates must not be one after the run's end.
        let reads = evaluates || every(plan.measure.census_every) || done == plan.train.steps;
        if !(reads || trainer.has_news()) {
            continue;
        }
        for outcome in trainer.outcomes()? {
            log.take_in(outcome, model, variant.policy.scale != LossScale::None);
            if outcome.ends {
                failure = Some(divergence(&trainer, &mut batches, (outcome, plan), &log)?);
            }
        }
        if failure.is_some() {
            break;
        }
        if evaluates {
            log.evaluations.push(evaluate(&trainer, &batches, plan, done)?);
        }
    }
    let end = evaluate(&trainer, &batches, plan, log.loss.len() as u64)?;
    log.evaluations.push(end);
    let digest = trainer.weights_digest()?;
    Ok(record((model, variant), seed, log, (failure, digest)))
}

/// The micro-batches of one step, on the run's device.
pub(super) fn micro_batches(
    batches: &mut Batches<'_>,
    trainer: &Trainer<'_>,
    (step, accumulate): (u64, usize),
) -> Result<Vec<Loaded>, RunError> {
    let first = step * accumulate as u64;
    let load = |index| Ok(trainer.load(batches.batch(first + index)?)?);
    (0..accumulate as u64).map(load).collect()
}

/// Why the run could not go on after its last step.
fn divergence(
    trainer: &Trainer<'_>,
    batches: &mut Batches<'_>,
    (outcome, plan): (StepOutcome, &Plan),
    log: &Log,
) -> Result<Failure, RunError> {
    let step = log.loss.len() as u64 - 1;
    if outcome.loss.is_finite() {
        let reason = "the loss scale fell under its floor".to_owned();
        return Ok(Failure { step, layer: None, reason });
    }
    let micro = micro_batches(batches, trainer, (step, plan.train.accumulate))?;
    let layer = trainer.layer_to_blame(step, &micro)?;
    let reason = "the loss is not finite".to_owned();
    Ok(Failure { step, layer, reason })
}

fn evaluate(
    trainer: &Trainer<'_>,
    batches: &Batches<'_>,
    plan: &Plan,
    step: u64,
) -> Result<Evaluation, RunError> {
    let test = trainer.test(batches.test_batches(plan.measure.inference_batch))?;
    let loss = test.loss.is_finite().then_some(test.loss);
    Ok(Evaluation { step, accuracy: test.accuracy, loss })
}

/// Memory by category: what the allocator says the run's state holds, and how far one measured step rose above what was
/// live before it. None where the arithmetic is emulated: its tensors are wider than the format.
fn memory(
    trainer: &Trainer<'_>,
    (held, passing): (Bytes, u64),
    variant: &VariantPlan,
    plan: &Plan,
) -> Option<Memory> {
    if variant.policy.is_emulated(trainer.device().is_cuda()) {
        return None;
    }
    let [weights, master, optimizer] = trainer.tensor_bytes();
    // A gradient is stored as the weights that compute are; sums over micro-batches are in f32.
    let gradients = if plan.train.accumulate == 1 {
        weights
    } else if master > 0 {
        master
    } else {
        weights * 4 / (u64::from(variant.policy.compute.bits()) / 8)
    };
    let peak = held.0 + passing;
    Some(Memory {
        peak_bytes: Bytes(peak),
        weights: Bytes(weights),
        master_weights: Bytes(master),
        gradients: Bytes(gradients),
        optimizer: Bytes(optimizer),
        activations: Bytes(peak.saturating_sub(weights + master + optimizer + gradients)),
    })
}

/// The record of a run that is over.
fn record(
    (model, variant): (&Model, &VariantPlan),
    seed: u64,
    log: Log,
    (failure, weights_digest): (Option<Failure>, String),
) -> RunRecord {
    let status = if failure.is_some() { Status::Diverged } else { Status::Completed };
    let summary = RunSummary {
        seed,
        status,
        test_accuracy: log.evaluations.last().map(|evaluation| evaluation.accuracy),
        final_loss: log.loss.last().copied().flatten(),
        steps: log.loss.len() as u64,
        skipped_steps: log.skips.len() as u64,
        weights_digest: Some(weights_digest),
        failure,
    };
    RunRecord {
        variant: variant.name.clone(),
        summary,
        loss: log.loss,
        evaluations: log.evaluations,
        scale: log.scale,
        skips: log.skips,
        census: log.census.into_records(&model.layer_names),
        census_steps: log.census_steps,
        updates: log.updates,
        gradients: log.gradients,
        memory: log.memory,
    }
}
