//! Layer norm and RMS norm over the last axis.

use candle_core::{Result, Tensor};

use super::{Init, Layer, Pass, Registry, Saved};
use crate::ops::{self, LayerNormSaved};

/// Layer norm over the last axis, D.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, Layer, LayerNorm, Mode, Pass, Registry};
/// use mantissa::precision::Format;
///
/// let layer = LayerNorm::new(&mut Registry::default(), "norm", 2, 0.0);
/// let (gamma, beta) = (Tensor::new(&[1.0_f32, 1.0], &Device::Cpu)?, Tensor::new(&[0.0_f32, 0.0], &Device::Cpu)?);
/// let weights = [gamma, beta];
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &weights, &[]);
/// let y = layer.forward(Tensor::new(&[[1.0_f32, 3.0]], &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[-1.0, 1.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct LayerNorm {
    name: String,
    gamma: usize,
    beta: usize,
    epsilon: f32,
}

impl LayerNorm {
    /// A layer over `width` values; `epsilon` is added to the variance.
    pub fn new(registry: &mut Registry, name: &str, width: usize, epsilon: f32) -> Self {
        let name = registry.layer(name);
        let gamma = registry.parameter(&name, "gamma", &[width], Init::Constant(1.0));
        let beta = registry.parameter(&name, "beta", &[width], Init::Constant(0.0));
        Self { name, gamma, beta, epsilon }
    }
}

impl Layer for LayerNorm {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (gamma, beta) = (pass.weight(self.gamma), pass.weight(self.beta));
        let (y, saved) = ops::layer_norm(&x, &gamma, &beta, self.epsilon)?;
        for tensor in [x, saved.mean, saved.inverse_deviation] {
            pass.save(Saved::Tensor(tensor));
        }
        pass.activation(&self.name, y)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let (inverse_deviation, mean) = (pass.take_tensor()?, pass.take_tensor()?);
        let (x, saved) = (pass.take_tensor()?, LayerNormSaved { mean, inverse_deviation });
        let gradients = ops::layer_norm_backward(&dy, &x, &pass.weight(self.gamma), &saved)?;
        drop((x, dy));
        pass.weight_gradient(&self.name, self.gamma, gradients.gamma)?;
        pass.weight_gradient(&self.name, self.beta, gradients.beta)?;
        pass.activation_gradient(&self.name, gradients.input).map(Some)
    }
}

/// RMS norm over the last axis, D.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, Layer, Mode, Pass, Registry, RmsNorm};
/// use mantissa::precision::Format;
///
/// let layer = RmsNorm::new(&mut Registry::default(), "norm", 2, 0.0);
/// let weights = [Tensor::new(&[1.0_f32, 1.0], &Device::Cpu)?];
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &weights, &[]);
/// let y = layer.forward(Tensor::new(&[[2.0_f32, -2.0]], &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[1.0, -1.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct RmsNorm {
    name: String,
    gamma: usize,
    epsilon: f32,
}

impl RmsNorm {
    /// A layer over `width` values; `epsilon` is added to the mean square.
    pub fn new(registry: &mut Registry, name: &str, width: usize, epsilon: f32) -> Self {
        let name = registry.layer(name);
        let gamma = registry.parameter(&name, "gamma", &[width], Init::Constant(1.0));
        Self { name, gamma, epsilon }
    }
}

impl Layer for RmsNorm {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (y, inverse) = ops::rms_norm(&x, &pass.weight(self.gamma), self.epsilon)?;
        pass.save(Saved::Tensor(x));
        pass.save(Saved::Tensor(inverse));
        pass.activation(&self.name, y)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let (inverse, x) = (pass.take_tensor()?, pass.take_tensor()?);
        let gradients = ops::rms_norm_backward(&dy, &x, &pass.weight(self.gamma), &inverse)?;
        drop((x, dy));
        pass.weight_gradient(&self.name, self.gamma, gradients.gamma)?;
        pass.activation_gradient(&self.name, gradients.input).map(Some)
    }
}
