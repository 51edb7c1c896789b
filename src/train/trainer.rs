//! The state of one training run, and one step of it by the contract of `ARCHITECTURE.md`.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Shape, Tensor, Var};
use sha2::{Digest as _, Sha256};

use super::Setup;
use super::batch::{DeviceBatch, in_format};
use super::checkpoint::missing;
use super::inference::Inferencer;
use super::optimizer::{rates, rule, states};
use crate::data::Batch;
use crate::device::{CapturedGraph, Phase, PhaseClock};
use crate::layers::{
    Arithmetic, BatchStatistics, Finished, Layer, Mode, Parameter, Pass, RunningStatistics,
};
use crate::memory::OutOfMemory;
use crate::model::{Engine, Model};
use crate::numerics::{Census, Role};
use crate::ops::{
    self, LossSettings, ParameterTensors, StepEnd, StepOutcome, StepSettings, StepState,
};
use crate::precision::{Format, Policy};
use crate::spec::TrainPlan;

/// The name under which the loss gradient is in the census, and the loss among layers to blame.
pub(super) const LOSS: &str = "loss";

/// Steps that a GPU may be ahead of what the host has read of them.
const STEPS_AHEAD: u64 = 32;

/// Eager steps without a census that a GPU does before one is captured: libraries that set themselves up at their first
/// use have done so by then, and the memory of a step is measured on these.
const STEPS_BEFORE_RECORDING: u64 = 3;

/// Micro-batches of a captured step, at most: all of them stay on the GPU, and the graph holds a pass for each.
const CAPTURED_MICRO_BATCHES: usize = 8;

/// What loads a micro-batch of a step, from 0, when its turn has come. The same number is the same batch.
pub type LoadBatch<'f> = dyn FnMut(usize) -> Result<DeviceBatch> + 'f;

/// Where forward and backward find the number of the pass and the loss scale, and put the step's mean loss.
#[derive(Clone, Copy)]
struct StepValues<'t> {
    pass: &'t Tensor,
    scale: &'t Tensor,
    loss: &'t Tensor,
}

/// A step that a GPU repeats, and where it finds its batches.
struct CapturedStep {
    batches: Vec<DeviceBatch>,
    graph: CapturedGraph,
}

/// The state of one run: weights, optimizer, statistics, loss scale.
pub struct Trainer<'a> {
    model: &'a Model,
    layers: Arc<dyn Layer>,
    /// What the layers keep beside their weights, where their operations are candle's.
    state: Vec<Tensor>,
    plan: &'a TrainPlan,
    policy: Policy,
    /// How steps without a census compute.
    arithmetic: Arithmetic,
    seed: u64,
    device: Device,
    end: StepEnd,
    statistics: Vec<RunningStatistics>,
    /// Number of the next forward pass, one u32: for dropout.
    pass: Tensor,
    captured: Option<CapturedStep>,
    operations: u64,
    /// Steps without a census.
    native_steps: u64,
    /// Steps begun, those of them that were read, and what was read and not handed out.
    steps: u64,
    read: u64,
    outcomes: Vec<StepOutcome>,
    image: [usize; 3],
}

impl CapturedStep {
    /// Whether batches have the captured shapes.
    fn takes(&self, batches: &[DeviceBatch]) -> bool {
        let shapes = |batches: &[DeviceBatch]| -> Vec<Shape> {
            batches.iter().map(|batch| batch.inputs.shape().clone()).collect()
        };
        shapes(&self.batches) == shapes(batches)
    }

    /// The step on these batches.
    fn repeat(&mut self, batches: &[DeviceBatch]) -> Result<()> {
        for (target, source) in self.batches.iter().zip(batches) {
            target.copy_from(source)?;
        }
        self.graph.replay()
    }
}

/// The model on the test split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Test {
    /// Correct ÷ all, of labels.
    pub accuracy: Option<f64>,
    /// Mean loss: of targets that are values, the mean squared error.
    pub loss: f64,
}

impl<'a> Trainer<'a> {
    /// A run at its start: weights drawn in f32 from the seed, then cast as the policy says.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn new(
        Setup { task, train: plan, device, .. }: Setup<'a>,
        policy: Policy,
        seed: u64,
    ) -> Result<Self> {
        let model = &task.model;
        let arithmetic = Arithmetic::on(policy.compute, device);
        if model.engine() == Engine::Candle {
            expect_type_of_candle(policy.compute)?;
        }
        let held = if arithmetic.wide { policy.compute } else { arithmetic.storage() };
        let formats = [policy.params, held];
        let parameters = model
            .parameters
            .iter()
            .zip(model.initial_values(seed))
            .map(|(parameter, values)| {
                let values = ops::from_host(values?, parameter.shape.as_slice(), device)?;
                parameter_tensors(&values, formats, plan)
            })
            .collect::<Result<Vec<_>>>()?;
        let (parameters, state) = match model.engine() {
            Engine::Mantissa => (parameters, Vec::new()),
            Engine::Candle => {
                (with_variables(parameters)?, initial_state(model, arithmetic, device)?)
            }
        };
        let weights: Vec<Tensor> =
            parameters.iter().map(|tensors| tensors.computing().clone()).collect();
        let layers = model.layers(&weights, &state, true)?;
        let settings = StepSettings {
            rule: rule(plan.optimizer),
            rates: rates(plan),
            scale: policy.scale,
            clip_norm: plan.clip_norm,
            params: policy.params,
            compute: held,
        };
        let statistics = model.statistics.iter().enumerate().map(|(index, norm)| {
            match model.initial_statistics(index) {
                Some(given) => RunningStatistics::of(given, device),
                None => RunningStatistics::new(norm.channels, device),
            }
        });
        Ok(Self {
            model,
            layers,
            state,
            plan,
            policy,
            arithmetic,
            seed,
            device: device.clone(),
            end: StepEnd::new(settings, parameters, device)?,
            statistics: statistics.collect::<Result<_>>()?,
            pass: ops::from_host(vec![0_u32], 1, device)?,
            captured: None,
            operations: 0,
            native_steps: 0,
            steps: 0,
            read: 0,
            outcomes: Vec::new(),
            image: task.data.shape(),
        })
    }

    /// What this run computes in.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Whether the plan has any step.
    pub fn trains(&self) -> bool {
        self.plan.steps > 0
    }

    /// Channels, height and width of an image.
    pub fn image(&self) -> [usize; 3] {
        self.image
    }

    /// Where this run is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The weights in the compute format, as they are stored between steps.
    fn weights(&self) -> Vec<Tensor> {
        self.end.parameters().iter().map(|tensors| tensors.computing().clone()).collect()
    }

    /// The weights cast to the compute format in f32, and counted.
    fn weights_wide(&self, census: &mut Census) -> Result<Vec<Tensor>> {
        let cast = |(tensors, parameter): (&ParameterTensors, &Parameter)| {
            let tensor = match tensors.weights.dtype() {
                DType::F32 => ops::copy(&tensors.weights)?,
                _ => ops::cast(&tensors.weights, DType::F32)?,
            };
            let tally = ops::round_counted(&tensor, self.policy.compute)?;
            census.add(&parameter.layer, Role::Weights, &tally);
            Ok(tensor)
        };
        self.end.parameters().iter().zip(&self.model.parameters).map(cast).collect()
    }

    /// One step of the contract on `plan.accumulate` micro-batches, each loaded when its turn has come. With a census it runs
    /// wide, and counts. [`Trainer::outcomes`] says what it did.
    ///
    /// # Errors
    /// When a batch cannot be loaded or is not of the model's shape.
    pub fn step(&mut self, load: &mut LoadBatch<'_>, census: Option<&mut Census>) -> Result<()> {
        if let Some(census) = census {
            self.census_step(load, census)?;
        } else {
            self.native_step(load)?;
            self.native_steps += 1;
        }
        self.steps += 1;
        Ok(())
    }

    /// A step without a census: on a GPU a launch of the captured one, if that is wanted and its batches have the captured shapes.
    fn native_step(&mut self, load: &mut LoadBatch<'_>) -> Result<()> {
        if self.repeats() && self.native_steps >= STEPS_BEFORE_RECORDING {
            let batches = (0..self.plan.accumulate).map(&mut *load).collect::<Result<Vec<_>>>()?;
            if self.captured.is_none() && self.recur(&batches) {
                self.captured = Some(self.capture(&batches)?);
            }
            if let Some(captured) = &mut self.captured
                && captured.takes(&batches)
            {
                return captured.repeat(&batches);
            }
            return self.eager_step(&mut |index| Ok(batches[index].clone()), &mut |_| Ok(()));
        }
        self.eager_step(load, &mut |_| Ok(()))
    }

    /// As [`Trainer::step`] without a census, always eager, with `clock` in the phase that the step is in; in none at
    /// its end.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn phased_step(&mut self, load: &mut LoadBatch<'_>, clock: &mut PhaseClock) -> Result<()> {
        self.eager_step(load, &mut |phase| clock.enter(phase))?;
        clock.leave()?;
        self.native_steps += 1;
        self.steps += 1;
        Ok(())
    }

    /// An eager step: each operation is launched by itself. `enter` is called at the start of each phase.
    fn eager_step(
        &mut self,
        load: &mut LoadBatch<'_>,
        enter: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<()> {
        ops::take_operations();
        let weights = self.weights();
        let native = (self.arithmetic, weights.as_slice(), self.values());
        let Finished { gradients, statistics } = self.gradients(load, native, None, enter)?;
        self.operations = ops::take_operations();
        self.end.finish(&gradients, None, enter)?;
        self.update_statistics(&statistics)
    }

    /// Takes the statistics of the step's batches into the running ones, unless the step was rejected.
    fn update_statistics(&self, statistics: &[BatchStatistics]) -> Result<()> {
        let applied = self.end.applied();
        statistics.iter().try_for_each(|batch| batch.update_running(&self.statistics, applied))
    }

    /// Where the next step finds and puts what is not a batch.
    fn values(&self) -> StepValues<'_> {
        StepValues { pass: &self.pass, scale: self.end.scale(), loss: self.end.loss() }
    }

    /// Forward and backward as in a step without a census, and nothing of them is kept: what the memory of a step is measured on
    /// where there is no such step.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn try_step(&self, load: &mut LoadBatch<'_>) -> Result<()> {
        let (values, weights) = (self.values_of(0, 1.0)?, self.weights());
        let native = (self.arithmetic, weights.as_slice(), values.at());
        self.gradients(load, native, None, &mut |_| Ok(()))?;
        Ok(())
    }

    /// Counts what step `step` rounded, with the loss scale that it used, once more: it was rejected, and so were all after it, so
    /// that the weights are those that it had. Nothing changes.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn count_again(
        &self,
        (step, scale): (u64, f32),
        load: &mut LoadBatch<'_>,
        census: &mut Census,
    ) -> Result<()> {
        let values = self.values_of(step, scale)?;
        let weights = self.weights_wide(census)?;
        let counting = (self.counting(), weights.as_slice(), values.at());
        self.gradients(load, counting, Some(census), &mut |_| Ok(()))?;
        Ok(())
    }

    /// What step `step` found, for a repetition that leaves the run's own values alone.
    fn values_of(&self, step: u64, scale: f32) -> Result<OwnValues> {
        let device = &self.device;
        Ok(OwnValues {
            pass: ops::from_host(vec![ops::first_pass(step, self.plan.accumulate)], 1, device)?,
            scale: ops::from_host(vec![scale], 1, device)?,
            loss: ops::zeros(1, device)?,
        })
    }

    /// Multiplications and additions in the matrix products of a step without a census; 0 before the first.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Whether steps are captured in a graph and launched from it.
    fn repeats(&self) -> bool {
        let few = self.plan.accumulate <= CAPTURED_MICRO_BATCHES;
        let is_own = self.model.engine() == Engine::Mantissa;
        self.plan.cuda_graphs && few && is_own && self.device.is_cuda()
    }

    /// Whether batches have shapes that come again: of texts the longest that there may be, which is that of all texts that were cut.
    /// So which steps come from a graph depends on their own batches, and not on which came first.
    fn recur(&self, batches: &[DeviceBatch]) -> bool {
        let [_, _, longest] = self.image;
        let is_longest = |batch: &DeviceBatch| batch.inputs.dims().get(1) == Some(&longest);
        batches.iter().all(|batch| batch.lengths.is_none() || is_longest(batch))
    }

    /// Whether steps are done as all that follow will be: where they come from a graph, that it is captured.
    pub fn is_settled(&self) -> bool {
        !self.repeats() || self.captured.is_some()
    }

    /// Captures a step on batches of these shapes.
    fn capture(&mut self, batches: &[DeviceBatch]) -> Result<CapturedStep> {
        let batches = batches.iter().map(DeviceBatch::copy).collect::<Result<Vec<_>>>()?;
        let device = self.device.clone();
        self.end.begin_capture();
        let mut load = |index: usize| Ok(batches[index].clone());
        let graph = CapturedGraph::capture(&device, || self.eager_step(&mut load, &mut |_| Ok(())));
        self.end.end_capture()?;
        let graph = graph.map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default();
            let advice = "--set train.cuda_graphs=false does without";
            Error::Msg(format!("a step cannot be captured in a CUDA graph: {reason}; {advice}"))
                .bt()
        })?;
        Ok(CapturedStep { batches, graph })
    }

    /// The arithmetic of passes that count: wide, but for candle's operations, which round by themselves.
    fn counting(&self) -> Arithmetic {
        match self.model.engine() {
            Engine::Mantissa => Arithmetic { format: self.policy.compute, wide: true },
            Engine::Candle => self.arithmetic,
        }
    }

    /// A step that counts.
    fn census_step(&mut self, load: &mut LoadBatch<'_>, census: &mut Census) -> Result<()> {
        let weights = self.weights_wide(census)?;
        let counting = (self.counting(), weights.as_slice(), self.values());
        let Finished { gradients, statistics } =
            self.gradients(load, counting, Some(census), &mut |_| Ok(()))?;
        drop(weights);
        let shapes = self.model.parameters.iter().map(|parameter| parameter.shape.as_slice());
        let deltas: Vec<Tensor> =
            shapes.map(|shape| ops::zeros(shape, &self.device)).collect::<Result<_>>()?;
        self.end.finish(&gradients, Some(&deltas), &mut |_| Ok(()))?;
        self.update_statistics(&statistics)?;
        self.outcomes.extend(self.end.outcomes()?);
        if self.outcomes.last().is_some_and(|outcome| outcome.applied) {
            for (delta, parameter) in deltas.iter().zip(&self.model.parameters) {
                census.add(&parameter.layer, Role::Updates, &ops::observe(delta)?);
            }
        }
        Ok(())
    }

    /// Whether [`Trainer::outcomes`] should be asked for before the next step.
    pub fn has_news(&self) -> bool {
        self.device.is_cpu() || self.steps - self.read >= STEPS_AHEAD
    }

    /// What the steps since the last call did: one outcome a step, up to the one that ended the run.
    ///
    /// # Errors
    /// When the device fails.
    pub fn outcomes(&mut self) -> Result<Vec<StepOutcome>> {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        outcomes.extend(self.end.outcomes()?);
        self.read = self.steps;
        Ok(outcomes)
    }

    /// Whether the run is over. What the steps so far did is forgotten, so that there may be any number of them since
    /// the last call: [`Trainer::outcomes`] must be asked for at every 64th on a GPU.
    ///
    /// # Errors
    /// When the device fails.
    pub fn is_over(&mut self) -> Result<bool> {
        self.outcomes.clear();
        self.read = self.steps;
        self.end.is_over()
    }

    /// Forward and backward over the micro-batches: the scaled gradients, summed in f32 if there are several. The mean loss goes
    /// to where the step's end finds it. `enter` is called at the start of each phase.
    fn gradients(
        &self,
        load: &mut LoadBatch<'_>,
        (arithmetic, weights, values): (Arithmetic, &[Tensor], StepValues<'_>),
        mut census: Option<&mut Census>,
        enter: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<Finished> {
        let micro_batches = self.plan.accumulate;
        let settings = LossSettings { smoothing: self.plan.label_smoothing, micro_batches };
        let mut step = Finished { gradients: Vec::new(), statistics: Vec::new() };
        for index in 0..micro_batches {
            enter(Phase::Data)?;
            let batch = load(index)?;
            enter(Phase::Forward)?;
            let mut pass =
                Pass::new(arithmetic, self.training(values.pass), weights, &self.statistics)
                    .with_sequences(batch.sequences())
                    .with_census(census.as_deref_mut());
            let logits = self.layers.forward(batch.input(arithmetic)?, &mut pass)?;
            let outcome = batch.loss(&logits, settings, values.scale)?;
            drop(logits);
            ops::mean_loss(&outcome.losses, micro_batches, index == 0, values.loss)?;
            enter(Phase::Backward)?;
            let gradient = pass.activation_gradient(LOSS, outcome.gradient)?;
            self.layers.backward(gradient, &mut pass)?;
            let finished = pass.finish()?;
            ops::next_pass(values.pass)?;
            step.statistics.extend(finished.statistics);
            if micro_batches == 1 {
                step.gradients = finished.gradients;
            } else {
                add_gradients(&mut step.gradients, &finished.gradients)?;
            }
        }
        Ok(step)
    }

    /// Accuracy, of labels, and mean loss over the test split.
    ///
    /// # Errors
    /// When a batch is not of the model's shape.
    pub fn test(
        &self,
        batches: impl Iterator<Item = std::result::Result<Batch, OutOfMemory>>,
    ) -> Result<Test> {
        let (weights, arithmetic) = (self.weights(), self.arithmetic);
        let (mut correct, mut loss, mut count) = (None, 0.0, 0_usize);
        for batch in batches {
            let batch = batch?;
            let batch = DeviceBatch::new(batch, self.image, &self.device)?;
            let mut pass = Pass::new(arithmetic, Mode::Inference, &weights, &self.statistics)
                .with_sequences(batch.sequences());
            let logits = self.layers.forward(batch.input(arithmetic)?, &mut pass)?;
            let (losses, right) = batch.test(&logits)?;
            count += losses.elem_count();
            correct = right.map(|right| correct.unwrap_or(0) + right);
            loss += ops::to_f32(&losses)?.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        }
        let count = count.max(1) as f64;
        let accuracy = correct.map(|correct| correct as f64 / count);
        Ok(Test { accuracy, loss: loss / count })
    }

    /// The layer whose result is the first not to be finite on the micro-batches of step `step`, which was rejected, as were all
    /// after it: its forward pass is done again.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn layer_to_blame(&self, step: u64, load: &mut LoadBatch<'_>) -> Result<Option<String>> {
        let (weights, arithmetic) = (self.weights(), self.arithmetic);
        let number =
            ops::from_host(vec![ops::first_pass(step, self.plan.accumulate)], 1, &self.device)?;
        for index in 0..self.plan.accumulate {
            let batch = load(index)?;
            let mode = self.training(&number);
            let mut pass = Pass::new(arithmetic, mode, &weights, &self.statistics)
                .with_sequences(batch.sequences())
                .watching();
            self.layers.forward(batch.input(arithmetic)?, &mut pass)?;
            if let Some(layer) = pass.first_non_finite() {
                return Ok(Some(layer.to_owned()));
            }
            ops::next_pass(&number)?;
        }
        Ok(None)
    }

    /// The mode of a forward pass of this number that will be followed by a backward one.
    fn training(&self, pass: &Tensor) -> Mode {
        Mode::Training { seed: self.seed, pass: pass.clone() }
    }

    /// SHA-256 over all master weights as little-endian f32, in the order of the parameters.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn weights_digest(&self) -> Result<String> {
        let mut digest = Sha256::new();
        for tensors in self.end.parameters() {
            for value in ops::to_f32(&tensors.weights)? {
                digest.update(value.to_le_bytes());
            }
        }
        let hex = |text: String, byte: &u8| text + &format!("{byte:02x}");
        Ok(digest.finalize().iter().fold(String::new(), hex))
    }

    /// The tensors that last from one step to the next, by name.
    fn lasting(&self) -> Vec<(String, &Tensor)> {
        let mut lasting = vec![("pass".to_owned(), &self.pass)];
        for (index, tensors) in self.end.parameters().iter().enumerate() {
            let ParameterTensors { weights, copy, first, second } = tensors;
            let parts = [("copy", copy), ("first", first), ("second", second)];
            lasting.push((format!("{index}.weights"), weights));
            let parts =
                parts.into_iter().filter_map(|(part, tensor)| Some((part, tensor.as_ref()?)));
            lasting.extend(parts.map(|(part, tensor)| (format!("{index}.{part}"), tensor)));
        }
        for (index, tensor) in self.state.iter().enumerate() {
            lasting.push((format!("{index}.state"), tensor));
        }
        for (index, RunningStatistics { mean, variance }) in self.statistics.iter().enumerate() {
            lasting.push((format!("{index}.mean"), mean));
            lasting.push((format!("{index}.variance"), variance));
        }
        lasting
    }

    /// What a later process needs to go on from here, in the host's memory; to be read before the next step. What the steps did must have been asked for.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub(super) fn save(&self) -> Result<(BTreeMap<String, Tensor>, StepState)> {
        let on_host = |tensor: &Tensor| tensor.to_device(&Device::Cpu);
        let tensors = self.lasting().into_iter().map(|(name, tensor)| Ok((name, on_host(tensor)?)));
        Ok((tensors.collect::<Result<_>>()?, self.end.state()?))
    }

    /// Goes on from what [`Trainer::save`] handed out, of a run of the same policy and seed. Before the first step only.
    ///
    /// # Errors
    /// When a tensor is missing or not of its shape.
    pub(super) fn restore(
        &mut self,
        tensors: &BTreeMap<String, Tensor>,
        state: StepState,
    ) -> Result<()> {
        for (name, tensor) in self.lasting() {
            let saved = tensors.get(&name).ok_or_else(|| missing(&name))?;
            ops::copy_into(tensor, &saved.to_device(&self.device)?)?;
        }
        self.end.restore(state)
    }

    /// The weights as a file, in the type that the policy holds them in, with what the layers keep beside them.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn weights_file(&self) -> Result<Vec<u8>> {
        let weights = self.end.parameters().iter().map(|tensors| &tensors.weights);
        let statistics = self.statistics.iter().flat_map(|norm| [&norm.mean, &norm.variance]);
        let tensors = weights.chain(&self.state).chain(statistics);
        self.model.weights_file(&tensors.cloned().collect::<Vec<_>>())
    }

    /// Number of the weights.
    pub fn weight_count(&self) -> u64 {
        self.model.parameters.iter().map(|parameter| parameter.len() as u64).sum()
    }

    /// Bytes of the persistent tensors as their shapes give them: (weights that compute, master weights beside them,
    /// optimizer state).
    pub fn tensor_bytes(&self) -> [u64; 3] {
        let mut total = [0; 3];
        for tensors in self.end.parameters() {
            let states = tensors.first.iter().chain(&tensors.second).map(bytes).sum::<u64>();
            match &tensors.copy {
                Some(copy) => {
                    total[0] += bytes(copy);
                    total[1] += bytes(&tensors.weights);
                }
                None => total[0] += bytes(&tensors.weights),
            }
            total[2] += states;
        }
        total
    }

    /// Bytes of the gradients, where there is training: stored as the weights that compute are; sums over micro-batches are in f32.
    pub fn gradient_bytes(&self) -> u64 {
        if !self.trains() {
            return 0;
        }
        let [weights, ..] = self.tensor_bytes();
        if self.plan.accumulate == 1 { weights } else { 4 * self.weight_count() }
    }

    /// A model for serving: the weights in the compute format and the statistics, nothing else.
    ///
    /// # Errors
    /// When a tensor cannot be copied.
    pub fn for_inference(&self) -> Result<Inferencer> {
        let weights = self.weights().iter().map(ops::copy).collect::<Result<_>>()?;
        self.serving(weights, self.arithmetic)
    }

    /// The same weights, as the run holds them, served in FP32.
    ///
    /// # Errors
    /// As [`Trainer::for_inference`].
    pub fn for_inference_in_fp32(&self) -> Result<Inferencer> {
        let held = self.end.parameters().iter().map(|tensors| &tensors.weights);
        let wide = held.map(|tensor| match tensor.dtype() {
            DType::F32 => ops::copy(tensor),
            _ => ops::cast(tensor, DType::F32),
        });
        self.serving(wide.collect::<Result<_>>()?, Arithmetic::of(Format::F32))
    }

    fn serving(&self, weights: Vec<Tensor>, arithmetic: Arithmetic) -> Result<Inferencer> {
        let state = self.state.iter().map(ops::copy).collect::<Result<Vec<_>>>()?;
        let statistics = self.statistics.iter().map(RunningStatistics::copy);
        Ok(Inferencer {
            layers: self.model.layers(&weights, &state, false)?,
            weights,
            statistics: statistics.collect::<Result<_>>()?,
            arithmetic,
            cached: self.model.cached().map(<[usize]>::to_vec).unwrap_or_default(),
            device: self.device.clone(),
        })
    }

    /// Counts what rounding does in a forward pass over a batch, as it is served.
    ///
    /// # Errors
    /// When the batch is not of the model's shape.
    pub fn count_inference(&self, batch: &DeviceBatch, census: &mut Census) -> Result<()> {
        let weights = self.weights_wide(census)?;
        let arithmetic = self.counting();
        let mut pass = Pass::new(arithmetic, Mode::Inference, &weights, &self.statistics)
            .with_sequences(batch.sequences())
            .with_census(Some(census));
        self.layers.forward(batch.input(arithmetic)?, &mut pass).map(drop)
    }
}

/// As [`StepValues`], with tensors of its own.
struct OwnValues {
    pass: Tensor,
    scale: Tensor,
    loss: Tensor,
}

impl OwnValues {
    fn at(&self) -> StepValues<'_> {
        StepValues { pass: &self.pass, scale: &self.scale, loss: &self.loss }
    }
}

/// The tensors of a parameter that starts with these values, f32, in the formats of the weights and of their copy.
fn parameter_tensors(
    values: &Tensor,
    [params, compute]: [Format; 2],
    plan: &TrainPlan,
) -> Result<ParameterTensors> {
    // The tensors of a run are its own: none may be the values themselves.
    let stored = |format| match in_format(values, Arithmetic::of(format))? {
        tensor if tensor.id() == values.id() => ops::copy(&tensor),
        tensor => Ok(tensor),
    };
    // Without training there is no optimizer.
    let states = if plan.steps == 0 { 0 } else { states(plan.optimizer) };
    let state = |index: usize| {
        (index < states).then(|| ops::zeros(values.shape(), values.device())).transpose()
    };
    Ok(ParameterTensors {
        weights: stored(params)?,
        copy: (params != compute).then(|| stored(compute)).transpose()?,
        first: state(0)?,
        second: state(1)?,
    })
}

/// candle computes in the types that it has, and knows no other rounding.
fn expect_type_of_candle(format: Format) -> Result<()> {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => Ok(()),
        _ => {
            let text = format!(
                "candle has no arithmetic of {format}; its models compute in f32, f16 or bf16"
            );
            Err(Error::Msg(text).bt())
        }
    }
}

/// The tensors with weights that compute as variables: candle records what is computed of these, and has gradients for them.
fn with_variables(parameters: Vec<ParameterTensors>) -> Result<Vec<ParameterTensors>> {
    let variable = |tensor: &Tensor| Var::from_tensor(tensor).map(Var::into_inner);
    let with_variable = |tensors: ParameterTensors| {
        Ok(match &tensors.copy {
            Some(copy) => ParameterTensors { copy: Some(variable(copy)?), ..tensors },
            None => ParameterTensors { weights: variable(&tensors.weights)?, ..tensors },
        })
    };
    parameters.into_iter().map(with_variable).collect()
}

/// What the layers keep beside their weights, as it starts.
fn initial_state(model: &Model, arithmetic: Arithmetic, device: &Device) -> Result<Vec<Tensor>> {
    let tensor = |(parameter, values): (&Parameter, _)| {
        let values = ops::from_host(values?, parameter.shape.as_slice(), device)?;
        Ok(Var::from_tensor(&in_format(&values, arithmetic)?)?.into_inner())
    };
    model.state.iter().zip(model.initial_state()).map(tensor).collect()
}

/// Adds the gradients of a micro-batch to the sums of those before it, in f32; to none, they are the sums.
fn add_gradients(sums: &mut Vec<Tensor>, gradients: &[Tensor]) -> Result<()> {
    if sums.is_empty() {
        let wide = gradients.iter().map(|gradient| ops::cast(gradient, DType::F32));
        *sums = wide.collect::<Result<_>>()?;
        return Ok(());
    }
    sums.iter().zip(gradients).try_for_each(|(sum, gradient)| ops::accumulate(sum, gradient))
}

/// Bytes of a tensor's values.
pub(super) fn bytes(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}
