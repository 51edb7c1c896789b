//! The convolutional layer.

use candle_core::{Result, Tensor};

use super::{Init, Layer, Pass, Registry, Saved};
use crate::ops::{self, ConvSettings, ConvWanted};

/// A convolution with square kernels, with or without a `ReLU` behind it. x: N × C × H × W.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::layers::{Arithmetic, Conv2d, ConvSizes, Layer, Mode, Pass, Registry};
/// use mantissa::ops::ConvSettings;
/// use mantissa::precision::Format;
///
/// let sizes = ConvSizes { inputs: 1, outputs: 1, kernel: 2, bias: false };
/// let settings = ConvSettings { stride: 1, padding: 0, dilation: 1, groups: 1 };
/// let layer = Conv2d::new(&mut Registry::default(), "conv", sizes, settings, true);
///
/// let weights = [Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu)?];
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &weights, &[]);
/// let x = Tensor::arange(0.0_f32, 9.0, &Device::Cpu)?.reshape((1, 1, 3, 3))?;
/// let y = layer.forward(x, &mut pass)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [8.0, 12.0, 20.0, 24.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Conv2d {
    name: String,
    weight: usize,
    bias: Option<usize>,
    settings: ConvSettings,
    takes_data: bool,
    relu: bool,
}

/// The sizes of a [`Conv2d`].
///
/// ```
/// use mantissa::layers::{Conv2d, ConvSizes, Registry};
/// use mantissa::ops::ConvSettings;
///
/// let sizes = ConvSizes { inputs: 3, outputs: 16, kernel: 5, bias: true };
/// let settings = ConvSettings { stride: 1, padding: 2, dilation: 1, groups: 1 };
/// let mut registry = Registry::default();
/// Conv2d::new(&mut registry, "conv", sizes, settings, true);
/// assert_eq!(registry.parameters[0].shape, [16, 3, 5, 5]);
/// assert_eq!(registry.parameters[1].shape, [16]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ConvSizes {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Whether there is a bias; not before a batch norm.
    pub bias: bool,
}

impl Conv2d {
    /// A layer of these sizes; `takes_data` as for [`super::Linear`].
    pub fn new(
        registry: &mut Registry,
        name: &str,
        sizes: ConvSizes,
        settings: ConvSettings,
        takes_data: bool,
    ) -> Self {
        let name = registry.layer(name);
        let ConvSizes { inputs, outputs, kernel, bias } = sizes;
        let inputs = inputs / settings.groups;
        let shape = [outputs, inputs, kernel, kernel];
        let init = Init::He { fan_in: inputs * kernel * kernel };
        let weight = registry.parameter(&name, "weight", &shape, init);
        let bias = bias.then(|| registry.parameter(&name, "bias", &[outputs], Init::Constant(0.0)));
        Self { name, weight, bias, settings, takes_data, relu: false }
    }

    /// With a `ReLU` behind it: see [`super::BatchNorm::with_relu`].
    #[must_use]
    pub fn with_relu(mut self, registry: &mut Registry, name: &str) -> Self {
        registry.layer(name);
        self.relu = true;
        self
    }
}

impl Layer for Conv2d {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let bias = self.bias.map(|bias| pass.weight(bias));
        let then = pass.then_relu(self.relu);
        let y = ops::conv2d(
            &x,
            &pass.weight(self.weight),
            bias.as_ref(),
            (self.settings, pass.operands()),
            then,
        )?;
        pass.save(Saved::Tensor(x));
        let y = pass.activation(&self.name, y)?;
        pass.save_relu(self.relu, then, y)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let dy = pass.before_relu(self.relu, dy)?;
        let x = pass.take_tensor()?;
        let w = pass.weight(self.weight);
        let wanted = ConvWanted { input: !self.takes_data, bias: self.bias.is_some() };
        let how = (self.settings, pass.operands());
        let gradients = ops::conv2d_backward(&dy, (&x, &w), how, wanted)?;
        drop((x, dy));
        pass.weight_gradient(&self.name, self.weight, gradients.weight)?;
        if let (Some(bias), Some(gradient)) = (self.bias, gradients.bias) {
            pass.weight_gradient(&self.name, bias, gradient)?;
        }
        gradients.input.map(|dx| pass.activation_gradient(&self.name, dx)).transpose()
    }
}
