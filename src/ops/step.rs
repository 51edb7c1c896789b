//! The end of a step, for all parameters of a run: what one pass over the gradients finds, whether the step is skipped, the next
//! loss scale, and the update. The state that decides it is on the tensors' device, so that a GPU never waits for the host.

use candle_core::{Device, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::host::{edit, first, zeros};
use super::update::{
    AdamW, Conversion, GradientSummary, Sgd, Update, UpdateTensors, inspect_gradient, update,
};
use crate::precision::{Format, LossScale};
use crate::record::Phase;

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

/// How steps end.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSettings {
    /// The rule of the updates; what [`Rates`] has is taken from `rates`.
    pub rule: Update,
    /// One entry for each update of the run; the last is for all that follow. Never empty.
    pub rates: Vec<Rates>,
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
    /// The parameter whose gradient was the first of the backward pass not to be finite; the update was skipped then.
    pub blamed: Option<usize>,
    /// Weights that were updated to what they were: Δw ≠ 0 and w + Δw rounded to w.
    pub lost: u64,
    /// Whether the run is over: the loss is not finite, or the loss scale fell under its floor.
    pub ends: bool,
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
    updates: u64,
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
            updates: 0,
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

    /// On a GPU, which may be ahead of what the host has read: not 0 once the run is over, a u64 as two words.
    pub fn ended(&self) -> Option<&Tensor> {
        match &self.state {
            State::Host(_) => None,
            #[cfg(feature = "cuda")]
            State::Gpu(step) => Some(step.ended()),
        }
    }

    /// The next [`StepEnd::finish`] on the GPU is recorded, to be repeated, and not done.
    pub fn begin_recording(&mut self) {
        match &mut self.state {
            State::Host(_) => {}
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.begin_recording(),
        }
    }

    /// After a recording, whatever became of it: the next [`StepEnd::finish`] is done.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn end_recording(&mut self) -> Result<()> {
        match &mut self.state {
            State::Host(_) => Ok(()),
            #[cfg(feature = "cuda")]
            State::Gpu(step) => step.end_recording(),
        }
    }

    /// Ends a step: converts the gradients, one a parameter, to f32, unscales and counts them; skips the update and lowers the
    /// scale if one is not finite, else clips and updates. `deltas`, one a parameter in f32, are where Δw is written if it is to
    /// be looked at. `enter` is told of the phases that this comes to. Does nothing once the run is over.
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

    /// Whether the run is over. What the steps so far did is not told any more, so that there may be any number of them. Waits
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
    fn finish(
        &mut self,
        settings: &StepSettings,
        (parameters, gradients): (&[ParameterTensors], &[Tensor]),
        deltas: Option<&[Tensor]>,
        enter: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        enter(Phase::Unscale)?;
        let scale = self.scale.value();
        let unscale = 1.0 / scale;
        let (summary, blamed) = inspect(gradients, settings.compute, unscale)?;
        let (mut clip, mut lost) = (1.0, 0);
        if blamed.is_none() {
            clip = clip_factor(settings.clip_norm, summary);
            enter(Phase::Update)?;
            let last = settings.rates.len() - 1;
            let rates = settings.rates[last.min(self.updates as usize)];
            let rule = settings.rule.at(rates);
            let StepSettings { params, compute, .. } = *settings;
            let conversion = Conversion { unscale, clip, params, compute };
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
            self.updates += 1;
        }
        self.scale = self.scale.after(blamed.is_none());
        edit::<f32>(&self.scale_value, |value| value[0] = self.scale.value())?;
        let loss = first::<f32>(&self.loss)?;
        let ends = !loss.is_finite() || self.scale.collapsed();
        self.ended = ends;
        let outcome = StepOutcome { loss, scale, clip, gradients: summary, blamed, lost, ends };
        self.outcomes.push(outcome);
        Ok(())
    }
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
