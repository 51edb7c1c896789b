//! The state of one training run, and one step of it by the contract of `ARCHITECTURE.md`.

use candle_core::{DType, Device, Result, Tensor};
use sha2::{Digest as _, Sha256};

use super::schedule::factor;
use crate::data::Batch;
use crate::layers::{Arithmetic, Mode, Pass, RunningStatistics};
use crate::memory;
use crate::model::Model;
use crate::numerics::{self, Census};
use crate::ops::{
    self, AdamW, Conversion, GradientSummary, LossSettings, Sgd, Update, UpdateTensors,
};
use crate::precision::{Format, LossScale, Policy};
use crate::record::{GradientCounts, Role};
use crate::spec::{OptimizerPlan, TrainPlan};

/// The name under which the loss gradient is in the census.
const LOSS: &str = "loss";

/// The state of one run: weights, optimizer, statistics, loss scale.
pub struct Trainer<'a> {
    model: &'a Model,
    plan: &'a TrainPlan,
    policy: Policy,
    seed: u64,
    parameters: Vec<Tensors>,
    statistics: Vec<RunningStatistics>,
    scale: LossScale,
    /// Steps begun, and updates made.
    steps: u64,
    updates: u64,
    image: [usize; 3],
}

/// The tensors of one parameter.
struct Tensors {
    /// In the format of the policy's `params`.
    master: Tensor,
    /// In the compute format, where that is another.
    copy: Option<Tensor>,
    /// Momentum or first moment.
    first: Option<Tensor>,
    /// Second moment.
    second: Option<Tensor>,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    /// Mean training loss over the step's samples, not scaled.
    pub loss: f32,
    /// The loss scale that was used.
    pub scale: f32,
    /// The layer to blame, if the update was skipped.
    pub skipped: Option<String>,
    /// What was counted of the weight gradients.
    pub gradients: GradientCounts,
    /// Weights that were updated, and those of them whose update was lost.
    pub updated: u64,
    /// Δw ≠ 0 and w + Δw rounded to w.
    pub lost: u64,
}

/// The model on the test split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Test {
    /// Correct ÷ all.
    pub accuracy: f64,
    /// Mean loss.
    pub loss: f64,
}

/// An f32 tensor of values as they come out of rounding to `format`; stored natively where that is possible.
fn stored(values: &[f32], shape: &[usize], format: Format) -> Result<Tensor> {
    let arithmetic = Arithmetic::of(format);
    let tensor = ops::from_f32(values, shape, arithmetic.dtype())?;
    if arithmetic.wide {
        ops::round_in_place(&tensor, |values| numerics::round(format, values))?;
    }
    Ok(tensor)
}

impl<'a> Trainer<'a> {
    /// A run at its start: weights drawn in f32 from the seed, then cast as the policy says.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn new(
        model: &'a Model,
        plan: &'a TrainPlan,
        policy: Policy,
        seed: u64,
        image: [usize; 3],
    ) -> Result<Self> {
        memory::keep_freed_pages();
        let values = model.initial_values(seed);
        let parameters = model
            .parameters
            .iter()
            .zip(&values)
            .map(|(parameter, values)| Tensors::new(&parameter.shape, values, policy, plan))
            .collect::<Result<_>>()?;
        let statistics = model.statistics.iter().map(|c| RunningStatistics::new(*c)).collect();
        let scale = policy.scale;
        let (steps, updates) = (0, 0);
        Ok(Self { model, plan, policy, seed, parameters, statistics, scale, steps, updates, image })
    }

    /// The loss scale after the steps so far.
    pub fn scale(&self) -> LossScale {
        self.scale
    }

    /// The weights in the compute format, as they are stored between steps.
    fn weights(&self) -> Vec<Tensor> {
        self.parameters.iter().map(|p| p.copy.as_ref().unwrap_or(&p.master).clone()).collect()
    }

    /// The weights cast to the compute format in f32, and counted.
    fn weights_wide(&self, census: &mut Census) -> Result<Vec<Tensor>> {
        let cast = |(tensors, parameter): (&Tensors, &crate::layers::Parameter)| {
            let values = ops::to_f32(&tensors.master)?;
            let tensor = ops::from_f32(&values, parameter.shape.as_slice(), DType::F32)?;
            ops::round_in_place(&tensor, |values| {
                census.round(&parameter.layer, Role::Weights, self.policy.compute, values);
            })?;
            Ok(tensor)
        };
        self.parameters.iter().zip(&self.model.parameters).map(cast).collect()
    }

    /// One step of the contract on `plan.accumulate` micro-batches. With a census it runs wide, and counts.
    ///
    /// # Errors
    /// When a batch is not of the model's shape.
    pub fn step(
        &mut self,
        batches: &[Batch],
        mut census: Option<&mut Census>,
    ) -> Result<StepOutcome> {
        let weights = match census.as_deref_mut() {
            Some(census) => self.weights_wide(census)?,
            None => self.weights(),
        };
        let (loss, gradients) = self.gradients(batches, &weights, census.as_deref_mut())?;
        drop(weights);
        let scale = self.scale.value();
        let (summary, blamed) = self.inspect(&gradients, 1.0 / scale)?;
        self.steps += 1;
        self.scale = self.scale.after(summary.is_finite());
        let (mut updated, mut lost) = (0, 0);
        if summary.is_finite() {
            let clip = self.clip(summary);
            lost = self.update(&gradients, (1.0 / scale, clip), census)?;
            updated = summary.counts.elements;
        }
        let gradients = summary.counts;
        Ok(StepOutcome { loss, scale, skipped: blamed, gradients, updated, lost })
    }

    /// Forward and backward over the micro-batches: the mean loss and the scaled gradients, summed in f32 if there are
    /// several.
    fn gradients(
        &mut self,
        batches: &[Batch],
        weights: &[Tensor],
        mut census: Option<&mut Census>,
    ) -> Result<(f32, Vec<Tensor>)> {
        let arithmetic = match &census {
            Some(_) => Arithmetic { format: self.policy.compute, wide: true },
            None => Arithmetic::of(self.policy.compute),
        };
        let mut loss = 0.0;
        let mut sums: Option<Vec<Tensor>> = None;
        for (index, batch) in batches.iter().enumerate() {
            let mode = self.training(self.steps, (index, batches.len()));
            let mut pass = Pass::new(arithmetic, mode, weights, &mut self.statistics)
                .with_census(census.as_deref_mut());
            let x = input(batch, self.image, arithmetic)?;
            let logits = self.model.forward(x, &mut pass)?;
            let scale = self.scale.value() / batches.len() as f32;
            let settings = LossSettings { smoothing: self.plan.label_smoothing, scale };
            let outcome = ops::cross_entropy(&logits, &batch.labels, settings)?;
            drop(logits);
            loss += outcome.loss / batches.len() as f32;
            let gradient = pass.activation_gradient(LOSS, outcome.gradient)?;
            self.model.backward(gradient, &mut pass)?;
            let gradients = pass.into_gradients()?;
            sums = Some(match sums {
                None if batches.len() == 1 => gradients,
                None => {
                    let wide = gradients.iter().map(|gradient| ops::cast(gradient, DType::F32));
                    wide.collect::<Result<_>>()?
                }
                Some(sums) => {
                    for (sum, gradient) in sums.iter().zip(&gradients) {
                        ops::accumulate(sum, gradient)?;
                    }
                    sums
                }
            });
        }
        Ok((loss, sums.unwrap_or_default()))
    }

    /// Step 5: counts of all gradients, and the layer whose gradient was the first of the backward pass not to be finite.
    fn inspect(
        &self,
        gradients: &[Tensor],
        unscale: f32,
    ) -> Result<(GradientSummary, Option<String>)> {
        let mut total = GradientSummary::default();
        let mut blamed = None;
        for (gradient, parameter) in gradients.iter().zip(&self.model.parameters) {
            let summary = ops::inspect_gradient(gradient, self.policy.compute, unscale)?;
            if !summary.is_finite() {
                blamed = Some(parameter.layer.clone());
            }
            total = total.plus(summary);
        }
        Ok((total, blamed))
    }

    /// The factor that brings the unscaled gradient's global norm down to the plan's limit.
    fn clip(&self, summary: GradientSummary) -> f32 {
        match self.plan.clip_norm {
            // 1e-6 as in PyTorch's `clip_grad_norm_`.
            Some(limit) => (limit / (summary.squares.sqrt() + 1e-6)).min(1.0) as f32,
            None => 1.0,
        }
    }

    /// Step 6: updates every parameter and returns how many updates were lost.
    fn update(
        &mut self,
        gradients: &[Tensor],
        (unscale, clip): (f32, f32),
        mut census: Option<&mut Census>,
    ) -> Result<u64> {
        let rule = self.rule();
        self.updates += 1;
        let Policy { params, compute, .. } = self.policy;
        let conversion = Conversion { unscale, clip, params, compute };
        let mut lost = 0;
        for ((tensors, gradient), parameter) in
            self.parameters.iter().zip(gradients).zip(&self.model.parameters)
        {
            let delta = match &census {
                Some(_) => {
                    let shape = parameter.shape.as_slice();
                    Some(Tensor::zeros(shape, DType::F32, &Device::Cpu)?)
                }
                None => None,
            };
            let set = UpdateTensors {
                weights: &tensors.master,
                copy: tensors.copy.as_ref(),
                gradient,
                first: tensors.first.as_ref(),
                second: tensors.second.as_ref(),
                delta: delta.as_ref(),
            };
            lost += ops::update(rule, set, conversion)?;
            if let (Some(census), Some(delta)) = (census.as_deref_mut(), delta) {
                census.observe(&parameter.layer, Role::Updates, &ops::to_f32(&delta)?);
            }
        }
        Ok(lost)
    }

    /// The optimizer's rule for the next update.
    fn rule(&self) -> Update {
        let schedule = factor(&self.plan.schedule, self.updates, self.plan.steps);
        match self.plan.optimizer {
            OptimizerPlan::Sgd { lr, momentum, nesterov, weight_decay } => Update::Sgd(Sgd {
                lr: (lr * schedule) as f32,
                momentum: momentum as f32,
                nesterov,
                weight_decay: weight_decay as f32,
            }),
            OptimizerPlan::AdamW { lr, beta1, beta2, eps, weight_decay } => {
                let count = (self.updates + 1) as f64;
                Update::AdamW(AdamW {
                    lr: (lr * schedule) as f32,
                    beta1: beta1 as f32,
                    beta2: beta2 as f32,
                    eps: eps as f32,
                    weight_decay: weight_decay as f32,
                    correction1: (1.0 / (1.0 - beta1.powf(count))) as f32,
                    correction2: (1.0 / (1.0 - beta2.powf(count)).sqrt()) as f32,
                })
            }
        }
    }

    /// Accuracy and mean loss over the test split.
    ///
    /// # Errors
    /// When a batch is not of the model's shape.
    pub fn test(&mut self, batches: impl Iterator<Item = Batch>) -> Result<Test> {
        let weights = self.weights();
        let arithmetic = Arithmetic::of(self.policy.compute);
        let (mut correct, mut loss, mut count) = (0, 0.0, 0_usize);
        for batch in batches {
            let mut pass = Pass::new(arithmetic, Mode::Inference, &weights, &mut self.statistics);
            let logits = self.model.forward(input(&batch, self.image, arithmetic)?, &mut pass)?;
            correct += ops::count_correct(&logits, &batch.labels)?;
            let losses = ops::cross_entropy_loss(&logits, &batch.labels)?;
            loss += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
            count += batch.labels.len();
        }
        let count = count.max(1) as f64;
        Ok(Test { accuracy: correct as f64 / count, loss: loss / count })
    }

    /// The layer whose result is the first not to be finite on the micro-batches of the last step, whose update was
    /// skipped: its forward pass is done again.
    ///
    /// # Errors
    /// When a batch is not of the model's shape.
    pub fn layer_to_blame(&self, batches: &[Batch]) -> Result<Option<String>> {
        let weights = self.weights();
        let arithmetic = Arithmetic::of(self.policy.compute);
        // The batch's statistics are not to count twice.
        let mut statistics = self.statistics.clone();
        for (index, batch) in batches.iter().enumerate() {
            let mode = self.training(self.steps.saturating_sub(1), (index, batches.len()));
            let mut pass = Pass::new(arithmetic, mode, &weights, &mut statistics).watching();
            self.model.forward(input(batch, self.image, arithmetic)?, &mut pass)?;
            if let Some(layer) = pass.first_non_finite() {
                return Ok(Some(layer.to_owned()));
            }
        }
        Ok(None)
    }

    /// The mode of micro-batch `index` of `count` in a step.
    fn training(&self, step: u64, (index, count): (usize, usize)) -> Mode {
        Mode::Training { seed: self.seed, pass: step as u32 * count as u32 + index as u32 }
    }

    /// SHA-256 over all master weights as little-endian f32, in the order of the parameters.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn weights_digest(&self) -> Result<String> {
        let mut digest = Sha256::new();
        for tensors in &self.parameters {
            for value in ops::to_f32(&tensors.master)? {
                digest.update(value.to_le_bytes());
            }
        }
        let hex = |text: String, byte: &u8| text + &format!("{byte:02x}");
        Ok(digest.finalize().iter().fold(String::new(), hex))
    }

    /// Bytes of the persistent tensors as their shapes give them: (weights that compute, master weights beside them,
    /// optimizer state).
    pub fn tensor_bytes(&self) -> [u64; 3] {
        let mut total = [0; 3];
        for tensors in &self.parameters {
            let states = tensors.first.iter().chain(&tensors.second).map(bytes).sum::<u64>();
            match &tensors.copy {
                Some(copy) => {
                    total[0] += bytes(copy);
                    total[1] += bytes(&tensors.master);
                }
                None => total[0] += bytes(&tensors.master),
            }
            total[2] += states;
        }
        total
    }

    /// A model for serving: the weights in the compute format and the statistics, nothing else.
    ///
    /// # Errors
    /// When a tensor cannot be copied.
    pub fn for_inference(&self) -> Result<Inferencer<'a>> {
        let weights = self.weights().iter().map(Tensor::copy).collect::<Result<_>>()?;
        let arithmetic = Arithmetic::of(self.policy.compute);
        let statistics = self.statistics.clone();
        Ok(Inferencer { model: self.model, weights, statistics, arithmetic, image: self.image })
    }
}

/// A trained model with weights in the compute format only.
pub struct Inferencer<'a> {
    model: &'a Model,
    weights: Vec<Tensor>,
    statistics: Vec<RunningStatistics>,
    arithmetic: Arithmetic,
    image: [usize; 3],
}

impl Inferencer<'_> {
    /// Logits of a batch.
    ///
    /// # Errors
    /// When the batch is not of the model's shape.
    pub fn forward(&mut self, batch: &Batch) -> Result<Tensor> {
        let x = input(batch, self.image, self.arithmetic)?;
        let mut pass =
            Pass::new(self.arithmetic, Mode::Inference, &self.weights, &mut self.statistics);
        self.model.forward(x, &mut pass)
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(bytes).sum()
    }
}

impl Tensors {
    fn new(shape: &[usize], values: &[f32], policy: Policy, plan: &TrainPlan) -> Result<Self> {
        let master = stored(values, shape, policy.params)?;
        let copy = if policy.params == policy.compute {
            None
        } else {
            Some(stored(values, shape, policy.compute)?)
        };
        let states = match plan.optimizer {
            OptimizerPlan::Sgd { momentum: 0.0, .. } => 0,
            OptimizerPlan::Sgd { .. } => 1,
            OptimizerPlan::AdamW { .. } => 2,
        };
        let state = |index: usize| {
            (index < states).then(|| Tensor::zeros(shape, DType::F32, &Device::Cpu)).transpose()
        };
        Ok(Self { master, copy, first: state(0)?, second: state(1)? })
    }
}

/// The images of a batch, N × C × H × W, in the compute format.
fn input(batch: &Batch, [c, h, w]: [usize; 3], arithmetic: Arithmetic) -> Result<Tensor> {
    let shape = (batch.labels.len(), c, h, w);
    let tensor = ops::from_f32(&batch.images, shape, arithmetic.dtype())?;
    if arithmetic.wide {
        ops::round_in_place(&tensor, |values| numerics::round(arithmetic.format, values))?;
    }
    Ok(tensor)
}

/// Bytes of a tensor's values.
fn bytes(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}
