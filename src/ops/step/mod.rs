//! The end of a step, for all parameters of a run: what one pass over the gradients finds, whether the step is skipped, the next
//! loss scale, and the update. The state that decides it is on the tensors' device, so that a GPU never waits for the host.

#[cfg(feature = "cuda")]
mod cuda;
mod update;

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::host::{edit, first, zeros};
use crate::device::Phase;
use crate::precision::{Format, LossScale, NON_FINITE_LOSSES};

pub use update::*;

/// What of an update's rule changes from one update to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Rates {
    /// Learning rate.
    pub lr: f32,
    /// AdamW's 1 / (1 − β₁ᵗ), for update t from 1.
    pub correction1: f32,
    /// AdamW's 1 / √(1 − β₂ᵗ).
    pub correction2: f32,
}

/// The rates of each update of a run, computed when they are needed: a table would grow with the length of the run.
#[derive(Clone)]
pub struct RateSchedule(Arc<dyn Fn(u64) -> Rates + Send + Sync>);

impl RateSchedule {
    /// A schedule of which `rates` tells the rates of each update, from 0.
    pub fn new(rates: impl Fn(u64) -> Rates + Send + Sync + 'static) -> Self {
        Self(Arc::new(rates))
    }

    /// The rates of an update, from 0.
    pub fn at(&self, update: u64) -> Rates {
        (self.0)(update)
    }
}

impl fmt::Debug for RateSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RateSchedule").field(&self.at(0)).finish_non_exhaustive()
    }
}

/// How steps end.
#[derive(Clone, Debug)]
pub struct StepSettings {
    /// The rule of the updates; what [`Rates`] has is taken from `rates`.
    pub rule: Update,
    /// The rates of each update.
    pub rates: RateSchedule,
    /// The loss scale at the start.
    pub scale: LossScale,
    /// Largest global norm of the unscaled gradients.
    pub clip_norm: Option<f64>,
    /// The format of the weights.
    pub params: Format,
    /// The format that computes: of gradients, and of copies of the weights.
    pub compute: Format,
}

/// The tensors of one parameter that last as long as the run.
#[derive(Clone, Debug)]
pub struct ParameterTensors {
    /// The weights that are updated, in the policy's `params` format.
    pub weights: Tensor,
    /// The weights in the compute format, where that is another.
    pub copy: Option<Tensor>,
    /// Momentum or first moment, f32; none for SGD without momentum.
    pub first: Option<Tensor>,
    /// Second moment, f32.
    pub second: Option<Tensor>,
}

impl ParameterTensors {
    /// The weights that compute.
    pub fn computing(&self) -> &Tensor {
        self.copy.as_ref().unwrap_or(&self.weights)
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutcome {
    /// Mean training loss over the step's samples, not scaled.
    pub loss: f32,
    /// The loss scale that was used.
    pub scale: f32,
    /// The factor of clipping.
    pub clip: f32,
    /// What was counted of the weight gradients, and the sum of their squares.
    pub gradients: GradientSummary,
    /// Whether the update was made. It was not where the loss or a gradient is not finite: the step was rejected, and all but the
    /// loss scale is as it was before.
    pub applied: bool,
    /// The parameter whose gradient was the first of the backward pass not to be finite.
    pub blamed: Option<usize>,
    /// Weights that were updated to what they were: Δw ≠ 0 and w + Δw rounded to w.
    pub lost: u64,
    /// Whether the run is over. Under a dynamic loss scale: the scale fell under its floor, or the loss was not finite in
    /// [`NON_FINITE_LOSSES`] steps in a row; otherwise: the loss is not finite.
    pub ends: bool,
}

/// What the end of steps keeps from one to the next beside tensors: with those it tells how a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepState {
    /// The loss scale of the next step.
    pub scale: f32,
    /// Finite steps since the loss scale changed; 0 where it is not dynamic.
    pub finite_steps: u32,
    /// Steps in a row whose loss was not finite.
    pub non_finite_losses: u32,
    /// Updates so far, by which the learning rate is known.
    pub updates: u64,
}

/// The state behind the end of steps.
#[derive(Debug)]
pub struct StepEnd {
    settings: StepSettings,
    parameters: Vec<ParameterTensors>,
    state: State,
}

/// On which device.
#[derive(Debug)]
enum State {
    Host(Host),
    #[cfg(feature = "cuda")]
    Gpu(Box<cuda::Step>),
}

/// The state on the CPU.
#[derive(Debug)]
struct Host {
    scale: LossScale,
    /// The loss scale and the step's loss, as other operations read and write them.
    scale_value: Tensor,
    loss: Tensor,
    /// Whether the last step was applied: 1 or 0.
    applied: Tensor,
    updates: u64,
    /// Steps in a row whose loss was not finite.
    non_finite_losses: u32,
    ended: bool,
    outcomes: Vec<StepOutcome>,
}

impl StepEnd {
    /// The state before a run's first step.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(
        settings: StepSettings,
        parameters: Vec<ParameterTensors>,
        device: &Device,
    ) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            let state = State::Gpu(Box::new(cuda::Step::new(&settings, &parameters, device)?));
            return Ok(Self { settings, parameters, state });
        }
        let state = State::Host(Host {
            scale: settings.scale,
            scale_value: Tensor::from_vec(vec![settings.scale.value()], 1, device)?,
            loss: zeros(1, device)?,
            applied: zeros(1, device)?,
            updates: 0,
            non_finite_losses: 0,
            ended: false,
            outcomes: Vec::new(),
        });
        Ok(Self { settings, parameters, state })
    }

    /// The parameters' tensors, in order.
    pub fn parameters(&self) -> &[ParameterTensors] {
        &self.parameters
    }

    /// The loss scale of the next step, one f32.
    pub fn scale(&self) -> &Tensor {
        match &self.state {
            State::Host(host) => &host.scale_value,
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.scale(),
        }
    }

    /// Where a step's mean loss is put before its end, one f32.
    pub fn loss(&self) -> &Tensor {
        match &self.state {
            State::Host(host) => &host.loss,
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.loss(),
        }
    }

    /// Whether the last finished step was applied: one value of 32 bits, 0 where it was rejected and once the run is over.
    pub fn applied(&self) -> &Tensor {
        match &self.state {
            State::Host(host) => &host.applied,
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.applied(),
        }
    }

    /// The next [`StepEnd::finish`] on the GPU is captured, to be repeated, and not done.
    pub fn begin_capture(&mut self) {
        match &mut self.state {
            State::Host(_) => {}
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.begin_capture(),
        }
    }

    /// After a capture, whatever became of it: the next [`StepEnd::finish`] is done.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn end_capture(&mut self) -> Result<()> {
        match &mut self.state {
            State::Host(_) => Ok(()),
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.end_capture(),
        }
    }

    /// Ends a step: converts the gradients, one per parameter, to f32, unscales and counts them; skips the update and lowers the
    /// scale if one or the loss is not finite, else clips and updates. `deltas`, one per parameter in f32, are where Δw is written if it is to
    /// be looked at. `enter` is called at the start of each phase. Does nothing once the run is over.
    ///
    /// # Errors
    /// When a tensor is not contiguous, not of its parameter's shape, or of a type that it cannot have, or `enter` fails.
    pub fn finish(
        &mut self,
        gradients: &[Tensor],
        deltas: Option<&[Tensor]>,
        enter: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<()> {
        let tensors = (self.parameters.as_slice(), gradients);
        match &mut self.state {
            State::Host(host) => host.finish(&self.settings, tensors, deltas, enter),
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.finish(&self.settings, tensors, deltas, enter),
        }
    }

    /// What it keeps from one step to the next beside tensors. Waits for the steps so far.
    ///
    /// # Errors
    /// When the device fails.
    pub fn state(&self) -> Result<StepState> {
        match &self.state {
            State::Host(host) => Ok(host.state()),
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.state(),
        }
    }

    /// Goes on from a state of an earlier process: the next step is the one after it. Before the first step only.
    ///
    /// # Errors
    /// When the device fails.
    pub fn restore(&mut self, state: StepState) -> Result<()> {
        match &mut self.state {
            State::Host(host) => host.restore(state),
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.restore(state),
        }
    }

    /// What the steps since the last call did. Waits for them.
    ///
    /// # Errors
    /// When the device fails, or a GPU has done more steps than the 64 whose outcomes it keeps.
    pub fn outcomes(&mut self) -> Result<Vec<StepOutcome>> {
        match &mut self.state {
            State::Host(host) => Ok(std::mem::take(&mut host.outcomes)),
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.outcomes(),
        }
    }

    /// Whether the run is over. What the steps so far did is forgotten, so that there may be any number of them. Waits
    /// for them.
    ///
    /// # Errors
    /// When the device fails.
    pub fn is_over(&mut self) -> Result<bool> {
        match &mut self.state {
            State::Host(host) => {
                host.outcomes.clear();
                Ok(host.ended)
            }
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.is_over(),
        }
    }
}

impl Host {
    fn state(&self) -> StepState {
        let finite_steps = match self.scale {
            LossScale::Dynamic(dynamic) => dynamic.finite_steps,
            LossScale::None | LossScale::Static(_) => 0,
        };
        StepState {
            scale: self.scale.value(),
            finite_steps,
            non_finite_losses: self.non_finite_losses,
            updates: self.updates,
        }
    }

    fn restore(&mut self, state: StepState) -> Result<()> {
        let StepState { scale, finite_steps, non_finite_losses, updates } = state;
        if let LossScale::Dynamic(dynamic) = &mut self.scale {
            (dynamic.scale, dynamic.finite_steps) = (scale, finite_steps);
        }
        (self.non_finite_losses, self.updates) = (non_finite_losses, updates);
        edit::<f32>(&self.scale_value, |value| value[0] = scale)
    }

    fn finish(
        &mut self,
        settings: &StepSettings,
        (parameters, gradients): (&[ParameterTensors], &[Tensor]),
        deltas: Option<&[Tensor]>,
        enter: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<()> {
        if self.ended {
            return edit::<f32>(&self.applied, |applied| applied[0] = 0.0);
        }
        enter(Phase::Unscale)?;
        let loss = first::<f32>(&self.loss)?;
        let scale = self.scale.value();
        let unscale = 1.0 / scale;
        let (summary, blamed) = inspect(gradients, settings.compute, unscale)?;
        let applied = blamed.is_none() && loss.is_finite();
        let (mut clip, mut lost) = (1.0, 0);
        if applied {
            clip = clip_factor(settings.clip_norm, summary);
            enter(Phase::Update)?;
            let StepSettings { params, compute, .. } = *settings;
            let conversion = Conversion { unscale, clip, params, compute };
            let rule = settings.rule.at(settings.rates.at(self.updates));
            lost = update_all(rule, (parameters, gradients), deltas, conversion)?;
            self.updates += 1;
        }
        edit::<f32>(&self.applied, |value| value[0] = f32::from(u8::from(applied)))?;
        let gradients = summary;
        let outcome =
            StepOutcome { loss, scale, clip, gradients, applied, blamed, lost, ends: false };
        self.advance(outcome)
    }

    /// The loss scale after a step, and whether the run is over.
    fn advance(&mut self, outcome: StepOutcome) -> Result<()> {
        let finite_loss = outcome.loss.is_finite();
        self.scale = self.scale.after(outcome.applied);
        edit::<f32>(&self.scale_value, |value| value[0] = self.scale.value())?;
        self.non_finite_losses = if finite_loss { 0 } else { self.non_finite_losses + 1 };
        self.ended = match self.scale {
            LossScale::Dynamic(_) => {
                self.scale.collapsed() || self.non_finite_losses >= NON_FINITE_LOSSES
            }
            LossScale::None | LossScale::Static(_) => !finite_loss,
        };
        self.outcomes.push(StepOutcome { ends: self.ended, ..outcome });
        Ok(())
    }
}

/// Updates every parameter, and returns the number of updates that were rounded away.
fn update_all(
    rule: Update,
    (parameters, gradients): (&[ParameterTensors], &[Tensor]),
    deltas: Option<&[Tensor]>,
    conversion: Conversion,
) -> Result<u64> {
    let mut lost = 0;
    for (index, (tensors, gradient)) in parameters.iter().zip(gradients).enumerate() {
        let set = UpdateTensors {
            weights: &tensors.weights,
            copy: tensors.copy.as_ref(),
            gradient,
            first: tensors.first.as_ref(),
            second: tensors.second.as_ref(),
            delta: deltas.map(|deltas| &deltas[index]),
        };
        lost += update(rule, set, conversion)?;
    }
    Ok(lost)
}

/// Counts of all gradients, and the last one that is not finite, which is the first of the backward pass.
fn inspect(
    gradients: &[Tensor],
    format: Format,
    unscale: f32,
) -> Result<(GradientSummary, Option<usize>)> {
    let mut total = GradientSummary::default();
    let mut blamed = None;
    for (index, gradient) in gradients.iter().enumerate() {
        let summary = inspect_gradient(gradient, format, unscale)?;
        if !summary.is_finite() {
            blamed = Some(index);
        }
        total = total.plus(summary);
    }
    Ok((total, blamed))
}

/// The factor that brings the unscaled gradient's global norm down to the limit.
fn clip_factor(limit: Option<f64>, summary: GradientSummary) -> f32 {
    match limit {
        // 1e-6 as in PyTorch's `clip_grad_norm_`.
        Some(limit) => (limit / (summary.squares.sqrt() + 1e-6)).min(1.0) as f32,
        None => 1.0,
    }
}

impl Update {
    /// The rule with the rates of one update.
    #[must_use]
    pub fn at(self, rates: Rates) -> Self {
        let Rates { lr, correction1, correction2 } = rates;
        match self {
            Self::Sgd(sgd) => Self::Sgd(Sgd { lr, ..sgd }),
            Self::AdamW(adam) => Self::AdamW(AdamW { lr, correction1, correction2, ..adam }),
        }
    }
}
