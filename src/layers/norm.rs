//! Batch norm and its running statistics.

use candle_core::{Result, Tensor};

use super::{Layer, Pass, Registry, Saved, Start};
use crate::ops;

/// Share of the newest batch in the running statistics, as PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// Mean and variance over the batches so far, for inference; f32 under every policy.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningStatistics {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Unbiased variance of each channel.
    pub variance: Vec<f32>,
}

impl RunningStatistics {
    /// Mean 0 and variance 1.
    pub fn new(channels: usize) -> Self {
        Self { mean: vec![0.0; channels], variance: vec![1.0; channels] }
    }

    /// Takes in a batch of `count` values a channel; `variance` is the biased one.
    fn take_in(&mut self, mean: &[f32], variance: &[f32], count: usize) {
        let unbiased = count as f32 / (count.max(2) - 1) as f32;
        for (running, new) in self.mean.iter_mut().zip(mean) {
            *running += MOMENTUM * (new - *running);
        }
        for (running, new) in self.variance.iter_mut().zip(variance) {
            *running += MOMENTUM * (new * unbiased - *running);
        }
    }
}

/// Batch norm over N, H and W.
#[derive(Debug)]
pub struct BatchNorm {
    name: String,
    gamma: usize,
    beta: usize,
    statistics: usize,
}

impl BatchNorm {
    /// A layer over `channels`.
    pub fn new(registry: &mut Registry, name: &str, channels: usize) -> Self {
        let name = registry.layer(name);
        let gamma = registry.parameter(&name, "gamma", &[channels], Start::Constant(1.0));
        let beta = registry.parameter(&name, "beta", &[channels], Start::Constant(0.0));
        registry.statistics.push(channels);
        Self { name, gamma, beta, statistics: registry.statistics.len() - 1 }
    }
}

impl Layer for BatchNorm {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (gamma, beta) = (pass.weight(self.gamma), pass.weight(self.beta));
        if !pass.is_training() {
            let running = pass.statistics(self.statistics);
            let given = (running.mean.as_slice(), running.variance.as_slice());
            let y = ops::batch_norm_inference(&x, given, &gamma, &beta)?;
            return pass.activation(&self.name, y);
        }
        let (y, saved, variance) = ops::batch_norm(&x, &gamma, &beta)?;
        let count = x.elem_count() / saved.mean.len();
        pass.statistics(self.statistics).take_in(&saved.mean, &variance, count);
        pass.save(Saved::BatchNorm(x, saved));
        pass.activation(&self.name, y)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let (x, saved) = pass.take_batch_norm()?;
        let gradients = ops::batch_norm_backward(&dy, &x, &pass.weight(self.gamma), &saved)?;
        drop((x, dy));
        pass.weight_gradient(&self.name, self.gamma, gradients.gamma)?;
        pass.weight_gradient(&self.name, self.beta, gradients.beta)?;
        pass.activation_gradient(&self.name, gradients.input).map(Some)
    }
}
