//! Models: layers put together as a plan says, with the values that their parameters start from.

mod cnn;
mod mlp;
mod resnet;
mod sizes;

use candle_core::{Result, Tensor};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::layers::{Init, Layer as _, Parameter, Pass, Registry, Sequential};
use crate::memory::{self, OutOfMemory};
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
    /// The batch norm that sees the fewest values of an image in a channel, and how many.
    smallest_normed: Option<(String, usize)>,
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
        let Registry { parameters, layers: layer_names, statistics, smallest_normed, .. } =
            registry;
        Ok(Self { layers, parameters, layer_names, statistics, largest, smallest_normed })
    }

    /// Checks the sizes of a batch of images and all that they become.
    ///
    /// # Errors
    /// When one has more than [`VALUES`](crate::spec::limits::VALUES).
    pub fn check_batch(&self, batch: usize) -> std::result::Result<(), ModelError> {
        self.largest.check_batch(batch)
    }

    /// Whether the model can be trained on batches of so many images.
    ///
    /// # Errors
    /// When a batch norm would see one value a channel: that is its own mean, and trains nothing.
    pub fn check_normalization(&self, batch: usize) -> std::result::Result<(), ModelError> {
        match &self.smallest_normed {
            Some((norm, plane)) if batch.saturating_mul(*plane) < 2 => Err(ModelError(format!(
                "train.batch is {batch}, and {norm} sees 1 × 1 pixels of an image: batch norm needs more than one value a \
                 channel; set train.batch to 2 or more"
            ))),
            _ => Ok(()),
        }
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

    /// The values that the parameters start from, in f32, one parameter after the other: the same for every policy. Each
    /// parameter has its own stream. An error where there is no memory for them.
    pub fn initial_values(
        &self,
        seed: u64,
    ) -> impl Iterator<Item = std::result::Result<Vec<f32>, OutOfMemory>> {
        let values = move |(index, parameter): (usize, &Parameter)| match parameter.init {
            Init::Constant(value) => memory::filled(value, parameter.len()),
            Init::He { fan_in } => {
                let bound = (6.0 / fan_in as f32).sqrt();
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                random.set_stream(index as u64);
                // 24 random bits make a uniform value in [0, 1) that f32 holds exactly.
                let mut uniform = || (random.next_u32() >> 8) as f32 / 16_777_216.0;
                memory::collect((0..parameter.len()).map(|_| bound * (2.0 * uniform() - 1.0)))
            }
        };
        self.parameters.iter().enumerate().map(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Activation, ConvBlock, Pool};

    /// A block of one channel.
    const BLOCK: ConvBlock = ConvBlock {
        channels: 1,
        kernel: 3,
        stride: 1,
        padding: 0,
        dilation: 1,
        groups: 1,
        pool: Pool::None,
    };

    fn cnn(blocks: Vec<ConvBlock>, batch_norm: bool) -> ModelPlan {
        let (hidden, activation, dropout) = (vec![], Activation::Relu, 0.0);
        ModelPlan::Cnn { blocks, hidden, activation, batch_norm, dropout }
    }

    /// What `torch.nn.BatchNorm2d(1)(torch.ones(1, 1, 1, 1))` says in PyTorch 2.15: "Expected more than 1 value per channel when
    /// training, got input size torch.Size([1, 1, 1, 1])". Of 2 images, or 1 × 2 pixels, it says nothing.
    #[test]
    fn batch_norm_of_one_value_a_channel_is_refused() {
        let pooled = ConvBlock { pool: Pool::Max, ..BLOCK };
        #[rustfmt::skip]
        let table = [
            // model, height and width of the images, the norm that a batch of one image is too small for
            (cnn(vec![BLOCK], true), (3, 3), Some("norm1")),
            (cnn(vec![BLOCK], true), (3, 4), None),
            (cnn(vec![BLOCK], false), (3, 3), None),
            // Pooling comes after batch norm: 2 × 2 pixels, then 1 × 1.
            (cnn(vec![pooled], true), (4, 4), None),
            (cnn(vec![pooled, ConvBlock { kernel: 1, ..BLOCK }], true), (4, 4), Some("norm2")),
            (cnn(vec![ConvBlock { stride: 9, ..BLOCK }], true), (9, 9), Some("norm1")),
            (cnn(vec![ConvBlock { padding: 1, dilation: 2, ..BLOCK }], true), (3, 3), Some("norm1")),
            (ModelPlan::Resnet { depth: 8, width: 1 }, (4, 4), Some("stage3.block1.1.norm")),
            (ModelPlan::Resnet { depth: 8, width: 1 }, (4, 5), None),
            (ModelPlan::Mlp { hidden: vec![1], activation: Activation::Relu, dropout: 0.0 }, (1, 1), None),
        ];
        for (plan, (height, width), norm) in table {
            let model = Model::new(&plan, [1, height, width], 2).unwrap();
            let what = format!("{plan:?} on {height} × {width}");
            let refusal = model.check_normalization(1).err().map(|error| error.to_string());
            let expected = norm.map(|norm| format!(
                "model: train.batch is 1, and {norm} sees 1 × 1 pixels of an image: batch norm needs more than one value a \
                 channel; set train.batch to 2 or more"
            ));
            assert_eq!(refusal, expected, "{what}");
            assert_eq!(model.check_normalization(2), Ok(()), "{what}");
        }
    }
}
