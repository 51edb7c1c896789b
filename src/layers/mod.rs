//! Layers: a forward and a written-out backward over `ops`, their parameters, and the tape between the two.

mod conv;
mod linear;
mod norm;
mod pass;
mod shape;

use candle_core::{Result, Tensor};

pub use conv::{Conv2d, ConvSizes};
pub use linear::Linear;
pub use norm::{BatchNorm, BatchStatistics, RunningStatistics};
pub use pass::{Arithmetic, Finished, Mode, Pass, Saved};
pub use shape::{Activate, Dropout, Flatten, Pooling, Residual, Sequential};

/// A step of a model. What forward puts on the pass's tape, backward takes off it.
pub trait Layer: Send + Sync {
    /// The result for a batch `x`.
    ///
    /// # Errors
    /// When the shape of `x` does not fit the layer.
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor>;

    /// The gradient with respect to x, from the one with respect to the result; gradients of weights go to the pass. None
    /// from the layer that the data enters, where nobody asks for it.
    ///
    /// # Errors
    /// When `dy` is not of the result's shape, or forward was not called before.
    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>>;
}

/// One trainable tensor of a model: what it is, not its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Unique in the model: the layer's name and `weight`, `bias`, `gamma` or `beta`.
    pub name: String,
    /// The layer that it belongs to.
    pub layer: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All the same value.
    Constant(f32),
    /// Uniform in ±√(6 / fan-in) (He et al. 2015, arXiv 1502.01852).
    He {
        /// Inputs that one output sees.
        fan_in: usize,
    },
}

impl Parameter {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no values; a valid model has no such parameter.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The tensors that the layers of a model share out among them while it is built.
#[derive(Debug, Default)]
pub struct Registry {
    /// Parameters, in the order of the layers.
    pub parameters: Vec<Parameter>,
    /// Layer names, in order.
    pub layers: Vec<String>,
    /// Channels of each batch norm's running statistics.
    pub statistics: Vec<usize>,
    /// What each image takes in the layers that make it larger or smaller: what it is, and its shape.
    pub activations: Vec<(String, Vec<usize>)>,
    /// The batch norm that sees the fewest values of an image in a channel, and how many; of several, the first.
    pub smallest_normed: Option<(String, usize)>,
}

impl Registry {
    /// Registers what an image becomes in a layer.
    pub fn activation(&mut self, what: String, shape: &[usize]) {
        self.activations.push((what, shape.to_vec()));
    }

    /// Notes that a batch norm sees planes of so many values.
    pub fn normalizes(&mut self, norm: &str, (height, width): (usize, usize)) {
        let plane = height.saturating_mul(width);
        if self.smallest_normed.as_ref().is_none_or(|(_, smallest)| plane < *smallest) {
            self.smallest_normed = Some((norm.to_owned(), plane));
        }
    }

    /// Registers a layer under its name.
    pub fn layer(&mut self, name: &str) -> String {
        self.layers.push(name.to_owned());
        name.to_owned()
    }

    /// Registers a parameter of a layer and returns its number.
    pub fn parameter(&mut self, layer: &str, part: &str, shape: &[usize], init: Init) -> usize {
        let (name, layer, shape) = (format!("{layer}.{part}"), layer.to_owned(), shape.to_vec());
        self.parameters.push(Parameter { name, layer, shape, init });
        self.parameters.len() - 1
    }
}
