//! One run: a variant under one seed, from the first step to its record.

use std::ops::ControlFlow;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, State};
use super::serving::Prompts;
use super::trainer::{LOSS, Trainer};
use super::{DeviceBatch, Setup};
use crate::data::{Batches, DataError};
use crate::device::Meter;
use crate::memory::OutOfMemory;
use crate::model::Model;
use crate::numerics::Census;
use crate::ops::{self, StepOutcome};
use crate::precision::{LossScale, NON_FINITE_LOSSES};
use crate::record::{
    CountedStep, Evaluation, Failure, GradientCounts, Memory, PromptAgreement, RunRecord,
    RunSummary, Skip, Status, TestMetric, UpdateCounts,
};
use crate::spec::VariantPlan;
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

/// Rejected steps of a run that get a census beside those of the plan: the first so many, and the one that ends it.
const MOST_REJECTED_CENSUSES: usize = 16;

/// Everything a run gathers on its way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Log {
    loss: Vec<Option<f64>>,
    evaluations: Vec<Evaluation>,
    scale: Vec<(u64, f64)>,
    skips: Vec<Skip>,
    /// Of the plan's census steps, and of rejected steps between them.
    census: Census,
    rejected: Census,
    /// Those of the plan's census steps that came before the first update.
    before_update: Vec<(u64, Census)>,
    counted: Vec<CountedStep>,
    updates: UpdateCounts,
    gradients: GradientCounts,
    /// How far one step rose above what the run holds.
    passing: Option<u64>,
}

impl Log {
    /// Steps so far.
    pub(super) fn steps(&self) -> u64 {
        self.loss.len() as u64
    }

    /// Adds what the next step did, and returns its number; `scales` says whether there is a loss scale.
    fn add_step(&mut self, outcome: StepOutcome, model: &Model, scales: bool) -> u64 {
        let step = self.loss.len() as u64;
        self.loss.push(outcome.loss.is_finite().then_some(f64::from(outcome.loss)));
        let scale = f64::from(outcome.scale);
        if scales && self.scale.last().is_none_or(|last| last.1 != scale) {
            self.scale.push((step, scale));
        }
        let counts = outcome.gradients.counts;
        if outcome.applied {
            self.updates.elements += counts.elements;
        } else {
            let blamed = outcome.blamed.map(|parameter| model.parameters[parameter].layer.clone());
            let layer = blamed.unwrap_or_else(|| LOSS.to_owned());
            self.skips.push(Skip { step, layer });
        }
        for counted in self.counted.iter_mut().rev().take_while(|counted| counted.step >= step) {
            counted.applied &= counted.step != step || outcome.applied;
        }
        self.updates.lost += outcome.lost;
        self.gradients = self.gradients.plus(counts);
        step
    }

    /// Adds the census of a step.
    fn count(&mut self, step: u64, planned: bool, census: Census) {
        let counts = census.totals();
        self.counted.push(CountedStep { step, planned, applied: planned, counts });
        if planned && self.updates.elements == 0 {
            self.before_update.push((step, census.clone()));
        }
        let of = if planned { &mut self.census } else { &mut self.rejected };
        of.merge(census);
    }

    /// Whether a rejected step is to get a census: not if it had one.
    fn counts_again(&self, step: u64, ends: bool) -> bool {
        let so_far = self.counted.iter().filter(|counted| !counted.planned).count();
        let had_one = self.counted.iter().any(|counted| counted.step == step);
        !had_one && (ends || so_far < MOST_REJECTED_CENSUSES)
    }
}

/// A run on its way.
struct Run<'a> {
    setup: Setup<'a>,
    variant: &'a VariantPlan,
    batches: Batches<'a>,
    trainer: Trainer<'a>,
    /// What counts memory, and what the run's state takes; none where memory is not measured.
    meter: Option<(Meter, Bytes)>,
    log: Log,
    /// Steps that an earlier process did.
    resumed: u64,
    failure: Option<Failure>,
}

/// A run that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// Its record.
    pub record: RunRecord,
    /// Its weights as a safetensors file, where they are wanted.
    pub weights: Option<Vec<u8>>,
}

/// How a run ended in this process.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// It is over.
    Trained(Box<Trained>),
    /// It was stopped, and goes on from its checkpoint.
    Stopped,
}

impl Ended {
    /// What is left of a run that is over.
    pub fn trained(self) -> Option<Trained> {
        match self {
            Self::Trained(trained) => Some(*trained),
            Self::Stopped => None,
        }
    }
}

/// Who follows a run, keeps its checkpoints, and can stop it.
pub trait Follow {
    /// A step was done: so many in all.
    fn step(&mut self, done: u64);

    /// Whether the run is to be kept as a checkpoint now, after so many steps, and whether it is to stop then. It is not asked in the
    /// first few steps, until their memory is measured.
    fn wants(&mut self, _done: u64) -> Wants {
        Wants::Nothing
    }

    /// Keeps a checkpoint. Where it breaks, the run stops.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    fn keep(&mut self, _checkpoint: Checkpoint) -> Result<ControlFlow<()>, RunError> {
        Ok(ControlFlow::Continue(()))
    }
}

impl<F: FnMut(u64)> Follow for F {
    fn step(&mut self, done: u64) {
        self(done);
    }
}

/// What [`Follow::wants`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// The next step.
    Nothing,
    /// A checkpoint, and the next step.
    Checkpoint,
    /// A checkpoint, and no step more.
    Stop,
}

/// Trains one variant under one seed, from its checkpoint where there is one. Its record is then that of a run that was
/// never stopped.
///
/// # Errors
/// When the batches do not fit the data, an operation fails, or the checkpoint is not of this run; a run that diverges is a record.
pub fn run(
    setup: Setup<'_>,
    (variant, seed): (&VariantPlan, u64),
    from: Option<Checkpoint>,
    follow: &mut dyn Follow,
) -> Result<Ended, RunError> {
    let mut run = Run::start(setup, (variant, seed))?;
    if let Some(checkpoint) = from {
        run.resume(checkpoint)?;
    }
    for step in run.resumed..setup.train.steps {
        run.step(step)?;
        follow.step(step + 1);
        let is_known = run.reads_after(step + 1);
        if is_known {
            run.read_outcomes()?;
        }
        if run.failure.is_some() {
            break;
        }
        if run.evaluates_after(step + 1) {
            run.evaluate()?;
        }
        // Only where the outcomes are known anyway, so that a checkpoint changes no record.
        let can_stop = is_known && run.has_measured_memory();
        let wants = if can_stop { follow.wants(step + 1) } else { Wants::Nothing };
        if wants != Wants::Nothing {
            let kept = follow.keep(run.checkpoint(seed)?)?;
            if wants == Wants::Stop || kept.is_break() {
                return Ok(Ended::Stopped);
            }
        }
    }
    if setup.train.steps == 0 {
        run.count_inference()?;
    }
    run.evaluate()?;
    let memory = run.memory()?;
    let agreement = run.agreement()?;
    let digest = run.trainer.weights_digest()?;
    let weights = setup.save_weights.then(|| run.trainer.weights_file()).transpose()?;
    let record = RunRecord { agreement, ..run.into_record(seed, memory, digest) };
    Ok(Ended::Trained(Box::new(Trained { record, weights })))
}

impl<'a> Run<'a> {
    fn start(setup: Setup<'a>, (variant, seed): (&'a VariantPlan, u64)) -> Result<Self, RunError> {
        let batches = setup.batches(seed)?;
        let meter = Meter::start(setup.device)?;
        let trainer = Trainer::new(setup, variant.policy, seed)?;
        let meter = meter.map(|meter| meter.live().map(|held| (meter, held))).transpose()?;
        let (log, resumed, failure) = (Log::default(), 0, None);
        Ok(Self { setup, variant, batches, trainer, meter, log, resumed, failure })
    }

    /// Goes on from a checkpoint of this run.
    fn resume(&mut self, checkpoint: Checkpoint) -> Result<(), RunError> {
        let Checkpoint { state, tensors } = checkpoint;
        self.trainer.restore(&tensors, state.end)?;
        if let (Some((_, held)), Some(before)) = (&mut self.meter, state.held) {
            *held = before;
        }
        (self.log, self.resumed) = (state.log, state.steps);
        Ok(())
    }

    /// What a later process goes on from.
    fn checkpoint(&self, seed: u64) -> Result<Checkpoint, RunError> {
        let (tensors, end) = self.trainer.save()?;
        let state = State {
            identity: None,
            variant: self.variant.name.clone(),
            seed,
            steps: self.log.steps(),
            end,
            held: self.meter.as_ref().map(|(_, held)| *held),
            log: self.log.clone(),
        };
        Ok(Checkpoint { state, tensors })
    }

    /// One step, with a census or with its memory measured where that is due.
    fn step(&mut self, step: u64) -> Result<(), RunError> {
        let every = self.setup.measure.census_every;
        let with_census = every > 0 && step.is_multiple_of(every);
        let measures = self.log.passing.is_none()
            && !with_census
            && step >= STEPS_BEFORE_MEMORY
            && self.batches.are_alike();
        let meter = self.meter.as_ref().filter(|_| measures);
        let before = meter.map(|(meter, _)| meter.start_peak()).transpose()?;
        let device = self.trainer.device().clone();
        let on = (self.setup.task.data.shape(), &device);
        let mut load = loader(&mut self.batches, (step, self.setup.train.accumulate), on);
        if with_census {
            let mut census = Census::default();
            self.trainer.step(&mut load, Some(&mut census))?;
            self.log.count(step, true, census);
        } else {
            self.trainer.step(&mut load, None)?;
        }
        if let (Some((meter, _)), Some(before)) = (&self.meter, before) {
            self.log.passing = Some(meter.peak()?.0 - before.0);
        }
        Ok(())
    }

    /// Whether the memory of a step was measured, or is measured at the end only. It is measured on one and the same step whether
    /// the run is interrupted or not.
    fn has_measured_memory(&self) -> bool {
        let counts_all = self.setup.measure.census_every == 1;
        let on_a_step = self.meter.is_some() && self.batches.are_alike() && !counts_all;
        self.log.passing.is_some() || !on_a_step
    }

    /// The census of an experiment that does not train: of the first test batch.
    fn count_inference(&mut self) -> Result<(), RunError> {
        if self.setup.measure.census_every == 0 {
            return Ok(());
        }
        let mut batches = self.batches.test_batches(self.setup.measure.inference_batch);
        let Some(batch) = batches.next() else { return Ok(()) };
        let image = self.setup.task.data.shape();
        let batch = DeviceBatch::new(batch?, image, self.trainer.device())?;
        drop(batches);
        let mut census = Census::default();
        self.trainer.count_inference(&batch, &mut census)?;
        self.log.count(0, true, census);
        Ok(())
    }

    /// How far the tokens that the model generates are from those of FP32 with the same weights.
    fn agreement(&self) -> Result<Vec<PromptAgreement>, RunError> {
        let Some(prompts) = Prompts::of(self.setup) else { return Ok(Vec::new()) };
        let reference = self.trainer.for_inference_in_fp32()?;
        Ok(prompts.agreement(&reference, &self.trainer.for_inference()?)?)
    }

    fn evaluates_after(&self, done: u64) -> bool {
        let every = self.setup.train.evaluate_every;
        every.is_some_and(|every| done.is_multiple_of(every)) && done < self.setup.train.steps
    }

    /// Whether what the steps did must be known before the next: one that counts or evaluates must not be one after the run's
    /// end.
    fn reads_after(&self, done: u64) -> bool {
        let every = self.setup.measure.census_every;
        let before_census = every > 0 && done.is_multiple_of(every);
        let last = done == self.setup.train.steps;
        before_census || last || self.evaluates_after(done) || self.trainer.has_news()
    }

    fn read_outcomes(&mut self) -> Result<(), RunError> {
        let outcomes = self.trainer.outcomes()?;
        let last_applied = outcomes.iter().rposition(|outcome| outcome.applied);
        let scales = self.variant.policy.scale != LossScale::None;
        for (index, outcome) in outcomes.into_iter().enumerate() {
            let step = self.log.add_step(outcome, &self.setup.task.model, scales);
            // The weights are still those that the step had.
            if !outcome.applied && last_applied.is_none_or(|last| index > last) {
                self.look_into(step, outcome)?;
            }
            if outcome.ends {
                self.failure = Some(self.divergence(step, outcome));
            }
        }
        Ok(())
    }

    /// Finds out what can be found out of a rejected step whose weights and batches are still there: the layer to blame for a
    /// loss that is not finite, and what rounding did.
    fn look_into(&mut self, step: u64, outcome: StepOutcome) -> Result<(), RunError> {
        let device = self.trainer.device().clone();
        let on = (self.setup.task.data.shape(), &device);
        let mut load = loader(&mut self.batches, (step, self.setup.train.accumulate), on);
        if !outcome.loss.is_finite()
            && let Some(layer) = self.trainer.layer_to_blame(step, &mut load)?
            && let Some(skip) = self.log.skips.last_mut()
        {
            skip.layer = layer;
        }
        if self.log.counts_again(step, outcome.ends) {
            let mut census = Census::default();
            self.trainer.count_again((step, outcome.scale), &mut load, &mut census)?;
            self.log.count(step, false, census);
        }
        Ok(())
    }

    /// Why the run could not go on after `step`.
    fn divergence(&self, step: u64, outcome: StepOutcome) -> Failure {
        let scale = self.variant.policy.scale;
        let reason = if scale.collapses_from(outcome.scale) {
            "the loss scale fell under its floor".to_owned()
        } else if matches!(scale, LossScale::Dynamic(_)) {
            format!("the loss was not finite in {NON_FINITE_LOSSES} steps in a row")
        } else {
            "the loss is not finite".to_owned()
        };
        let layer = self.log.skips.last().map(|skip| skip.layer.clone());
        Failure { step, layer, reason }
    }

    fn evaluate(&mut self) -> Result<(), RunError> {
        let batches = self.batches.test_batches(self.setup.measure.inference_batch);
        let test = self.trainer.test(batches)?;
        let loss = test.loss.is_finite().then_some(test.loss);
        let step = self.log.loss.len() as u64;
        let mut evaluation =
            Evaluation { step, accuracy: None, squared_error: None, perplexity: None, loss };
        match TestMetric::of(&self.setup.task.data.train().targets) {
            TestMetric::Accuracy => evaluation.accuracy = test.accuracy,
            TestMetric::MeanSquaredError => evaluation.squared_error = loss,
            TestMetric::Perplexity => {
                evaluation.perplexity = loss.map(libm::exp).filter(|value| value.is_finite());
            }
        }
        self.log.evaluations.push(evaluation);
        Ok(())
    }

    /// Memory by category: what the allocator says the run's state holds, how far one step rose above what was live before it,
    /// and the work space of its products. Where batches differ in size, the step is one on the largest. None where memory is not
    /// measured, and where the arithmetic is emulated: its tensors are wider than the format.
    fn memory(&mut self) -> Result<Option<Memory>, RunError> {
        let device = self.trainer.device().clone();
        let Some((meter, held)) = &self.meter else {
            return Ok(None);
        };
        if self.variant.policy.is_emulated(device.is_cuda()) || self.setup.train.steps == 0 {
            return Ok(None);
        }
        let image = self.setup.task.data.shape();
        let largest = self.batches.largest()?;
        let mut first =
            loader(&mut self.batches, (0, self.setup.train.accumulate), (image, &device));
        let mut load = |index| match &largest {
            Some(batch) => DeviceBatch::new(batch.clone(), image, &device),
            None => first(index),
        };
        let trainer = &self.trainer;
        let passing = if let Some(passing) = self.log.passing {
            passing
        } else {
            // No step was without a census, or steps differ.
            for _ in 0..STEPS_BEFORE_MEMORY {
                trainer.try_step(&mut load)?;
            }
            let before = meter.start_peak()?;
            trainer.try_step(&mut load)?;
            meter.peak()?.0 - before.0
        };
        let work_space =
            device.is_cpu().then(|| ops::work_space(|| trainer.try_step(&mut load))).transpose()?;
        let work_space = work_space.flatten();
        let [weights, master_weights, optimizer] = trainer.tensor_bytes();
        let gradients = trainer.gradient_bytes();
        let peak = held.0 + passing + work_space.map_or(0, |space| space.0);
        let named = weights + master_weights + optimizer + gradients;
        Ok(Some(Memory {
            peak_bytes: Bytes(peak),
            weights: Bytes(weights),
            master_weights: Bytes(master_weights),
            gradients: Bytes(gradients),
            optimizer: Bytes(optimizer),
            activations: Bytes(peak.saturating_sub(named)),
            work_space,
        }))
    }

    /// The record of a run that is over.
    fn into_record(self, seed: u64, memory: Option<Memory>, digest: String) -> RunRecord {
        let Self { log, failure, variant, .. } = self;
        let model = &self.setup.task.model;
        let last = log.evaluations.last();
        let status = if failure.is_some() { Status::Diverged } else { Status::Completed };
        let summary = RunSummary {
            seed,
            status,
            test_accuracy: last.and_then(|evaluation| evaluation.accuracy),
            test_squared_error: last.and_then(|evaluation| evaluation.squared_error),
            test_perplexity: last.and_then(|evaluation| evaluation.perplexity),
            final_loss: log.loss.last().copied().flatten(),
            steps: log.loss.len() as u64,
            skipped_steps: log.skips.len() as u64,
            weights_digest: Some(digest),
            failure,
        };
        let planned = log.counted.iter().filter(|counted| counted.planned);
        let mut record = RunRecord {
            loss: log.loss,
            evaluations: log.evaluations,
            scale: log.scale,
            skips: log.skips,
            census_steps: planned.map(|counted| counted.step).collect(),
            census: log.census.into_records(&model.layer_names),
            rejected_census: log.rejected.into_records(&model.layer_names),
            counted_steps: log.counted,
            updates: log.updates,
            gradients: log.gradients,
            memory,
            ..RunRecord::new(&variant.name, summary)
        };
        let mut settling = Census::default();
        for (step, census) in log.before_update {
            if step < record.settling_steps() {
                settling.merge(census);
            }
        }
        record.settling_census = settling.into_records(&model.layer_names);
        record
    }
}

/// What loads the micro-batches of a step onto a device, as images of this shape.
pub(super) fn loader<'f>(
    batches: &'f mut Batches<'_>,
    (step, accumulate): (u64, usize),
    (image, device): ([usize; 3], &'f Device),
) -> impl FnMut(usize) -> candle_core::Result<DeviceBatch> + 'f {
    let first = step * accumulate as u64;
    move |index| DeviceBatch::new(batches.batch(first + index as u64)?, image, device)
}
