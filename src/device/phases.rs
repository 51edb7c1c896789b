//! How long the phases of a training step take on a device: each between two synchronizations, summed over steps.

use candle_core::{Device, Result};

use super::Stopwatch;
use crate::record::{Phase, Phases};
use crate::units::Seconds;

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
