//! Batch norm and its running statistics.

use candle_core::{DType, Device, Result, Tensor};

use super::{Init, Layer, NormStatistics, Pass, Registry, Saved};
use crate::ops;

/// Mean and variance over the batches so far, for inference; f32 under every policy.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, BatchNorm, Layer, Mode, Pass, Registry, RunningStatistics};
/// use mantissa::precision::Format;
///
/// let layer = BatchNorm::new(&mut Registry::default(), "norm", 1);
/// let weights = [Tensor::new(&[1.0_f32], &Device::Cpu)?, Tensor::new(&[0.0_f32], &Device::Cpu)?];
/// let statistics = [RunningStatistics::of(&[vec![2.0], vec![4.0]], &Device::Cpu)?];
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &weights, &statistics);
/// let y = layer.forward(Tensor::new(&[[[[6.0_f32]]]], &Device::Cpu)?, &mut pass)?;
/// assert!((y.flatten_all()?.to_vec1::<f32>()?[0] - 2.0).abs() < 1e-4, "(6 − 2) / √4");
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RunningStatistics {
    /// Mean of each channel.
    pub mean: Tensor,
    /// Unbiased variance of each channel.
    pub variance: Tensor,
}

impl RunningStatistics {
    /// Mean 0 and variance 1.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn new(channels: usize, device: &Device) -> Result<Self> {
        let mean = ops::zeros(channels, device)?;
        let variance = ops::from_f32(&vec![1.0; channels], channels, DType::F32, device)?;
        Ok(Self { mean, variance })
    }

    /// These values of each channel.
    ///
    /// # Errors
    /// As [`RunningStatistics::new`].
    pub fn of([mean, variance]: &[Vec<f32>; 2], device: &Device) -> Result<Self> {
        let tensor = |values: &[f32]| ops::from_f32(values, values.len(), DType::F32, device);
        Ok(Self { mean: tensor(mean)?, variance: tensor(variance)? })
    }

    /// Equal statistics that change on their own.
    ///
    /// # Errors
    /// As [`RunningStatistics::new`].
    pub fn copy(&self) -> Result<Self> {
        Ok(Self { mean: ops::copy(&self.mean)?, variance: ops::copy(&self.variance)? })
    }
}

/// What one batch norm found in one batch.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// Which running statistics they are for.
    pub index: usize,
    /// Mean of each channel, f32.
    pub mean: Tensor,
    /// Biased variance of each channel, f32.
    pub variance: Tensor,
    /// Values of each channel.
    pub count: usize,
}

impl BatchStatistics {
    /// Updates the running statistics of their batch norm with them, unless `applied` is 0 ([`ops::update_running_statistics`]).
    ///
    /// # Errors
    /// When these are not the statistics of the model.
    pub fn update_running(&self, running: &[RunningStatistics], applied: &Tensor) -> Result<()> {
        let RunningStatistics { mean, variance } = &running[self.index];
        ops::update_running_statistics(
            (mean, variance),
            (&self.mean, &self.variance),
            self.count,
            applied,
        )
    }
}

/// Batch norm over N, H and W.
///
/// ```
/// use mantissa::layers::{BatchNorm, Registry};
///
/// let mut registry = Registry::default();
/// BatchNorm::new(&mut registry, "norm", 16).with_relu(&mut registry, "relu");
/// let names: Vec<_> = registry.parameters.iter().map(|parameter| &parameter.name[..]).collect();
/// assert_eq!(names, ["norm.gamma", "norm.beta"]);
/// assert_eq!(registry.layers, ["norm", "relu"]);
/// ```
#[derive(Debug)]
pub struct BatchNorm {
    name: String,
    gamma: usize,
    beta: usize,
    statistics: usize,
    relu: bool,
}

impl BatchNorm {
    /// A layer over `channels`.
    pub fn new(registry: &mut Registry, name: &str, channels: usize) -> Self {
        let name = registry.layer(name);
        let gamma = registry.parameter(&name, "gamma", &[channels], Init::Constant(1.0));
        let beta = registry.parameter(&name, "beta", &[channels], Init::Constant(0.0));
        registry.statistics.push(NormStatistics { layer: name.clone(), channels });
        Self { name, gamma, beta, statistics: registry.statistics.len() - 1, relu: false }
    }

    /// With a `ReLU` behind it, in the same pass over memory where nothing is rounded between the two.
    #[must_use]
    pub fn with_relu(mut self, registry: &mut Registry, name: &str) -> Self {
        registry.layer(name);
        self.relu = true;
        self
    }
}

impl Layer for BatchNorm {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (gamma, beta) = (pass.weight(self.gamma), pass.weight(self.beta));
        let then = pass.then_relu(self.relu);
        if !pass.is_training() {
            let running = pass.statistics(self.statistics);
            let given = (&running.mean, &running.variance);
            let y = ops::batch_norm_inference(&x, given, (&gamma, &beta), then)?;
            let y = pass.activation(&self.name, y)?;
            return pass.relu_after(self.relu, then, y);
        }
        let (y, saved, variance) = ops::batch_norm(&x, &gamma, &beta, then)?;
        pass.keep_statistics(BatchStatistics {
            index: self.statistics,
            mean: saved.mean.clone(),
            variance,
            count: x.elem_count() / saved.mean.elem_count(),
        });
        let y = pass.activation(&self.name, y)?;
        let y = pass.save_relu(self.relu, then, y)?;
        pass.save(Saved::BatchNorm(x, saved));
        Ok(y)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let (x, saved) = pass.take_batch_norm()?;
        let y = if self.relu { Some(pass.take_tensor()?) } else { None };
        let gamma = pass.weight(self.gamma);
        let gradients = ops::batch_norm_backward(&dy, &x, &gamma, &saved, y.as_ref())?;
        drop((x, y, dy));
        pass.weight_gradient(&self.name, self.gamma, gradients.gamma)?;
        pass.weight_gradient(&self.name, self.beta, gradients.beta)?;
        pass.activation_gradient(&self.name, gradients.input).map(Some)
    }
}
