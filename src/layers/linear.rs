//! The fully connected layer.

use candle_core::{Result, Tensor};

use super::{Init, Layer, Pass, Registry, Saved};
use crate::ops;

/// y = x wᵀ + b, with or without a `ReLU` behind it. x: N × I, y: N × O.
#[derive(Debug)]
pub struct Linear {
    name: String,
    weight: usize,
    bias: usize,
    takes_data: bool,
    relu: bool,
}

impl Linear {
    /// A layer from `inputs` to `outputs`; `takes_data` where the data enters here, so that no gradient is asked for.
    pub fn new(
        registry: &mut Registry,
        name: &str,
        (inputs, outputs): (usize, usize),
        takes_data: bool,
    ) -> Self {
        let name = registry.layer(name);
        let init = Init::He { fan_in: inputs };
        let weight = registry.parameter(&name, "weight", &[outputs, inputs], init);
        let bias = registry.parameter(&name, "bias", &[outputs], Init::Constant(0.0));
        Self { name, weight, bias, takes_data, relu: false }
    }

    /// With a `ReLU` behind it: see [`super::BatchNorm::with_relu`].
    #[must_use]
    pub fn with_relu(mut self, registry: &mut Registry, name: &str) -> Self {
        registry.layer(name);
        self.relu = true;
        self
    }
}

impl Layer for Linear {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let then = pass.then_relu(self.relu);
        let y = ops::linear(
            &x,
            &pass.weight(self.weight),
            Some(&pass.weight(self.bias)),
            pass.operands(),
            then,
        )?;
        pass.save(Saved::Tensor(x));
        let y = pass.activation(&self.name, y)?;
        pass.save_relu(self.relu, then, y)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let dy = pass.before_relu(self.relu, dy)?;
        let x = pass.take_tensor()?;
        let dw = ops::linear_weight_gradient(&dy, &x, pass.operands())?;
        drop(x);
        pass.weight_gradient(&self.name, self.weight, dw)?;
        pass.weight_gradient(&self.name, self.bias, ops::column_sums(&dy)?)?;
        if self.takes_data {
            return Ok(None);
        }
        let dx = ops::linear_input_gradient(&dy, &pass.weight(self.weight), pass.operands())?;
        pass.activation_gradient(&self.name, dx).map(Some)
    }
}
