//! The fully connected layer.

use candle_core::{Result, Tensor};

use super::{Init, Layer, Pass, Registry, Saved};
use crate::ops;

/// y = x wᵀ + b, with or without a `ReLU` behind it. x: … × I, y: … × O: one or more axes of rows.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, Layer, Linear, Mode, Pass, Registry};
/// use mantissa::precision::Format;
///
/// let mut registry = Registry::default();
/// let layer = Linear::new(&mut registry, "output", (2, 1), true);
/// assert_eq!(registry.parameters[0].name, "output.weight");
///
/// let weights = [Tensor::new(&[[3.0_f32, 4.0]], &Device::Cpu)?, Tensor::new(&[0.5_f32], &Device::Cpu)?];
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &weights, &[]);
/// let y = layer.forward(Tensor::new(&[[1.0_f32, 2.0]], &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[1.0 * 3.0 + 2.0 * 4.0 + 0.5]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Linear {
    name: String,
    weight: usize,
    bias: Option<usize>,
    takes_data: bool,
    relu: bool,
}

/// What a [`Linear`] is, where the data does not enter.
///
/// ```
/// use mantissa::layers::{Init, Linear, LinearSizes, Registry};
///
/// let init = Init::Normal { mean: 0.0, deviation: 0.02 };
/// let sizes = LinearSizes { inputs: 4, outputs: 2, bias: false, init };
/// let mut registry = Registry::default();
/// Linear::with(&mut registry, "projection", sizes);
/// assert_eq!(registry.parameters.len(), 1);
/// assert_eq!(registry.parameters[0].shape, [2, 4]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LinearSizes {
    /// Values of a row of x.
    pub inputs: usize,
    /// Values of a row of y.
    pub outputs: usize,
    /// Whether there is a bias, which starts at 0.
    pub bias: bool,
    /// How the weight starts.
    pub init: Init,
}

impl Linear {
    /// A layer from `inputs` to `outputs`; `takes_data` where the data enters here, so that no gradient is asked for.
    pub fn new(
        registry: &mut Registry,
        name: &str,
        (inputs, outputs): (usize, usize),
        takes_data: bool,
    ) -> Self {
        let init = Init::He { fan_in: inputs };
        let sizes = LinearSizes { inputs, outputs, bias: true, init };
        Self { takes_data, ..Self::with(registry, name, sizes) }
    }

    /// A layer of these sizes.
    pub fn with(registry: &mut Registry, name: &str, sizes: LinearSizes) -> Self {
        let LinearSizes { inputs, outputs, bias, init } = sizes;
        let name = registry.layer(name);
        let weight = registry.parameter(&name, "weight", &[outputs, inputs], init);
        let bias = bias.then(|| registry.parameter(&name, "bias", &[outputs], Init::Constant(0.0)));
        Self { name, weight, bias, takes_data: false, relu: false }
    }

    /// A layer without bias whose weight is another layer's parameter, O × I: the gradients of both add up.
    pub fn sharing(registry: &mut Registry, name: &str, weight: usize) -> Self {
        let name = registry.layer(name);
        Self { name, weight, bias: None, takes_data: false, relu: false }
    }

    /// With a `ReLU` behind it: see [`super::BatchNorm::with_relu`].
    #[must_use]
    pub fn with_relu(mut self, registry: &mut Registry, name: &str) -> Self {
        registry.layer(name);
        self.relu = true;
        self
    }
}

/// A tensor's rows as a matrix.
fn rows(x: Tensor) -> Result<Tensor> {
    if x.rank() <= 2 { Ok(x) } else { x.flatten_to(x.rank() - 2) }
}

/// A matrix with the axes of rows that `like` has.
fn with_axes(y: Tensor, like: &[usize]) -> Result<Tensor> {
    let Some((_, axes)) = like.split_last().filter(|_| like.len() > 2) else { return Ok(y) };
    let columns = y.dim(1)?;
    y.reshape([axes, &[columns]].concat())
}

impl Layer for Linear {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (shape, x) = (x.dims().to_vec(), rows(x)?);
        let bias = self.bias.map(|bias| pass.weight(bias));
        let then = pass.then_relu(self.relu);
        let w = pass.weight(self.weight);
        let y = ops::linear(&x, &w, bias.as_ref(), pass.operands(), then)?;
        pass.save(Saved::Tensor(x));
        let y = with_axes(pass.activation(&self.name, y)?, &shape)?;
        pass.save_relu(self.relu, then, y)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let dy = pass.before_relu(self.relu, dy)?;
        let (shape, dy) = (dy.dims().to_vec(), rows(dy)?);
        let x = pass.take_tensor()?;
        let dw = ops::linear_weight_gradient(&dy, &x, pass.operands())?;
        drop(x);
        pass.weight_gradient(&self.name, self.weight, dw)?;
        if let Some(bias) = self.bias {
            pass.weight_gradient(&self.name, bias, ops::column_sums(&dy)?)?;
        }
        if self.takes_data {
            return Ok(None);
        }
        let dx = ops::linear_input_gradient(&dy, &pass.weight(self.weight), pass.operands())?;
        with_axes(pass.activation_gradient(&self.name, dx)?, &shape).map(Some)
    }
}
