//! How long the phases of a training step take on a device: each between two synchronizations, summed over steps.

use candle_core::{Device, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Stopwatch;
use crate::units::Seconds;

/// The time of a training step by phase: for each the median over the blocks of its mean time a step, over all
/// micro-batches.
///
/// Measured in blocks of their own, each phase between two synchronizations, on eager steps: on a GPU, where a captured step
/// has no gaps, the sum may exceed `step_seconds`. That has no `data` in it on
/// any device.
///
/// ```
/// use mantissa::record::Phases;
/// use mantissa::units::Seconds;
///
/// let phases = Phases { forward: Seconds(0.5), backward: Seconds(1.0), ..Phases::default() };
/// assert_eq!(phases.update, Seconds(0.0));
/// assert_eq!(phases.backward.0 / phases.forward.0, 2.0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Phases {
    /// Drawing the batch from the data set, augmentation included, and moving it to the device.
    pub data: Seconds,
    /// The input's cast to the compute format, the forward pass and the loss, with its gradient with respect to the logits:
    /// one operation computes both.
    pub forward: Seconds,
    /// The backward pass, and summing the gradients of micro-batches.
    pub backward: Seconds,
    /// One pass over the weight gradients that converts them to f32, unscales, counts and squares them, and the decision
    /// whether to skip or to clip. It writes no gradient: the update converts and unscales again what it reads.
    pub unscale: Seconds,
    /// The optimizer's update, and the weights' cast to the compute format in the same pass.
    pub update: Seconds,
}

impl Phases {
    /// The time of one phase.
    pub fn of(&mut self, phase: Phase) -> &mut Seconds {
        match phase {
            Phase::Data => &mut self.data,
            Phase::Forward => &mut self.forward,
            Phase::Backward => &mut self.backward,
            Phase::Unscale => &mut self.unscale,
            Phase::Update => &mut self.update,
        }
    }
}

/// A phase of a training step: a field of [`Phases`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// [`Phases::data`].
    Data,
    /// [`Phases::forward`].
    Forward,
    /// [`Phases::backward`].
    Backward,
    /// [`Phases::unscale`].
    Unscale,
    /// [`Phases::update`].
    Update,
}

/// Measures the time of each phase; the caller says which one begins.
#[derive(Debug)]
pub struct PhaseClock {
    device: Device,
    running: Option<(Phase, Stopwatch)>,
    sums: Phases,
}

impl PhaseClock {
    /// A clock in no phase.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), running: None, sums: Phases::default() }
    }

    /// Ends the phase before, if there is one, and begins another.
    ///
    /// # Errors
    /// When the device fails.
    pub fn enter(&mut self, phase: Phase) -> Result<()> {
        self.leave()?;
        self.running = Some((phase, Stopwatch::start(&self.device)?));
        Ok(())
    }

    /// Ends the phase, if there is one: waits for its work. What follows is in no phase.
    ///
    /// # Errors
    /// When the device fails.
    pub fn leave(&mut self) -> Result<()> {
        if let Some((phase, stopwatch)) = self.running.take() {
            self.sums.of(phase).0 += stopwatch.stop()?.0;
        }
        Ok(())
    }

    /// The mean over `steps` of what was spent in each phase.
    pub fn mean(&self, steps: usize) -> Phases {
        let mean = |sum: Seconds| Seconds(sum.0 / steps as f64);
        let Phases { data, forward, backward, unscale, update } = self.sums;
        Phases {
            data: mean(data),
            forward: mean(forward),
            backward: mean(backward),
            unscale: mean(unscale),
            update: mean(update),
        }
    }
}
