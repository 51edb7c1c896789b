//! Models: layers put together as a plan says, with the values that their parameters start from.

mod cnn;
mod mlp;
mod resnet;
mod sizes;

use candle_core::{Result, Tensor};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::layers::{Layer as _, Parameter, Pass, Registry, Sequential, Start};
use crate::spec::ModelPlan;

/// A model: its layers and what they need, without values.
pub struct Model {
    layers: Sequential,
    /// The trainable tensors, in the order of the layers.
    pub parameters: Vec<Parameter>,
    /// Names of the layers, in order.
    pub layer_names: Vec<String>,
    /// Channels of each batch norm's running statistics.
    pub statistics: Vec<usize>,
    largest: sizes::Largest,
}

/// A model that its data cannot flow through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model: {0}")]
pub struct ModelError(pub String);

impl Model {
    /// The model of a plan for images of `shape` (C, H, W) and a number of classes.
    ///
    /// # Errors
    /// When a convolution or pooling does not fit the images, or a parameter or what an image becomes has more than
    /// [`VALUES`](crate::spec::limits::VALUES).
    pub fn new(
        plan: &ModelPlan,
        shape: [usize; 3],
        classes: usize,
    ) -> std::result::Result<Self, ModelError> {
        let mut registry = Registry::default();
        let layers = match plan {
            ModelPlan::Mlp { hidden, activation, dropout } => {
                let inputs = shape.into_iter().fold(1, usize::saturating_mul);
                let settings = mlp::Head { hidden, activation: *activation, dropout: *dropout };
                mlp::layers(&mut registry, inputs, classes, &settings)
            }
            ModelPlan::Cnn { .. } => cnn::layers(&mut registry, plan, shape, classes)?,
            ModelPlan::Resnet { depth, width } => {
                resnet::layers(&mut registry, (*depth, *width), shape, classes)?
            }
        };
        let largest = sizes::check(&registry, shape)?;
        let Registry { parameters, layers: layer_names, statistics, .. } = registry;
        Ok(Self { layers, parameters, layer_names, statistics, largest })
    }

    /// Checks the sizes of a batch of images and all that they become.
    ///
    /// # Errors
    /// When one has more than [`VALUES`](crate::spec::limits::VALUES).
    pub fn check_batch(&self, batch: usize) -> std::result::Result<(), ModelError> {
        self.largest.check_batch(batch)
    }

    /// Logits, N × classes, of images N × C × H × W.
    ///
    /// # Errors
    /// When the images are not of the model's shape.
    pub fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        self.layers.forward(x, pass)
    }

    /// Gradients of all parameters, into the pass, from the one of the logits.
    ///
    /// # Errors
    /// When forward was not called before.
    pub fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<()> {
        self.layers.backward(dy, pass).map(drop)
    }

    /// The values that the parameters start from, in f32: the same for every policy. Each parameter has its own stream.
    pub fn initial_values(&self, seed: u64) -> Vec<Vec<f32>> {
        let values = |(index, parameter): (usize, &Parameter)| match parameter.start {
            Start::Constant(value) => vec![value; parameter.len()],
            Start::He { fan_in } => {
                let bound = (6.0 / fan_in as f32).sqrt();
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                random.set_stream(index as u64);
                // 24 random bits make a uniform value in [0, 1) that f32 holds exactly.
                let mut uniform = || (random.next_u32() >> 8) as f32 / 16_777_216.0;
                (0..parameter.len()).map(|_| bound * (2.0 * uniform() - 1.0)).collect()
            }
        };
        self.parameters.iter().enumerate().map(values).collect()
    }
}
