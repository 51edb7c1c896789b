//! Layers: a forward and a written-out backward over `ops`, their parameters, and the tape between the two.

mod attention;
mod cache;
mod conv;
mod embedding;
mod layer_norm;
mod linear;
mod norm;
mod pass;
mod shape;
mod transformer;

use std::f64::consts::TAU;

use candle_core::Tensor;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::memory::{self, OutOfMemory};

pub use attention::{Attention, AttentionSizes};
pub use cache::KeyValueCache;
pub use conv::{Conv2d, ConvSizes};
pub(crate) use embedding::TRANSFORMER_INIT;
pub use embedding::{Embedding, EmbeddingSizes};
pub use layer_norm::{LayerNorm, RmsNorm};
pub use linear::{Linear, LinearSizes};
#[doc(hidden)] // what training does with the statistics of a batch
pub use norm::BatchStatistics;
pub use norm::{BatchNorm, RunningStatistics};
pub use pass::{Arithmetic, Finished, Mode, Pass, Saved, Sequences};
pub use shape::{Activate, Dropout, Flatten, Pooling, Residual, Sequential};
pub use transformer::{
    EachPosition, FeedForward, NormPlace, NormResidual, PoolSequence, SequencePool,
};

/// A step of a model. What forward puts on the pass's tape, backward takes off it. A result goes through [`Pass::activation`], and a
/// gradient through [`Pass::activation_gradient`] or [`Pass::weight_gradient`]: they round it where the format is emulated, and count.
///
/// ```
/// use candle_core::{Result, Tensor};
/// use mantissa::layers::{Layer, Pass, Saved};
/// use mantissa::ops;
///
/// /// GELU, called "gelu".
/// struct Gelu;
///
/// impl Layer for Gelu {
///     fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
///         let y = pass.activation("gelu", ops::gelu(&x)?)?;
///         pass.save(Saved::Tensor(x));
///         Ok(y)
///     }
///
///     fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
///         let x = pass.take_tensor()?;
///         pass.activation_gradient("gelu", ops::gelu_backward(&dy, &x)?).map(Some)
///     }
/// }
/// ```
pub trait Layer {
    /// The result for a batch `x`.
    ///
    /// # Errors
    /// When the shape of `x` does not fit the layer.
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> candle_core::Result<Tensor>;

    /// The gradient with respect to x, from the one with respect to the result; gradients of weights go to the pass. None
    /// from the layer that the data enters, where nobody asks for it.
    ///
    /// # Errors
    /// When `dy` is not of the result's shape, or forward was not called before.
    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> candle_core::Result<Option<Tensor>>;
}

/// A layer as models hold it.
///
/// ```
/// use mantissa::layers::{BoxedLayer, Flatten, Linear, Registry, Sequential};
///
/// let mut registry = Registry::default();
/// let mut layers: Vec<BoxedLayer> = vec![Box::new(Flatten)];
/// for (name, sizes) in [("hidden", (784, 32)), ("output", (32, 10))] {
///     layers.push(Box::new(Linear::new(&mut registry, name, sizes, name == "hidden")));
/// }
/// assert_eq!(Sequential(layers).0.len(), 3);
/// ```
pub type BoxedLayer = Box<dyn Layer + Send + Sync>;

/// One trainable tensor of a model: what it is, not its values.
///
/// ```
/// use mantissa::layers::{Init, Registry};
///
/// let mut registry = Registry::default();
/// let index = registry.parameter("scale", "gamma", &[2, 3], Init::Constant(1.0));
/// let parameter = &registry.parameters[index];
/// assert_eq!((&parameter.name[..], parameter.len()), ("scale.gamma", 6));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Unique in the model: the layer's name and `weight`, `bias`, `gamma` or `beta`; of an embedding also `positions` or `types`.
    pub name: String,
    /// The layer that it belongs to.
    pub layer: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
}

/// How a parameter starts.
///
/// ```
/// use mantissa::layers::Init;
/// use rand_chacha::ChaCha8Rng;
/// use rand_chacha::rand_core::SeedableRng as _;
///
/// let values = Init::He { fan_in: 6 }.values(100, &mut ChaCha8Rng::seed_from_u64(0))?;
/// assert!(values.iter().all(|value| value.abs() <= 1.0));
/// # Ok::<(), mantissa::memory::OutOfMemory>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All the same value.
    Constant(f32),
    /// Uniform in ±√(6 / fan-in) (He et al. 2015, arXiv 1502.01852).
    He {
        /// Inputs that one output sees.
        fan_in: usize,
    },
    /// Uniform from `low` to below `high`.
    Uniform {
        /// The lower bound.
        low: f32,
        /// The upper bound.
        high: f32,
    },
    /// Normal.
    Normal {
        /// The mean.
        mean: f32,
        /// The standard deviation.
        deviation: f32,
    },
}

impl Init {
    /// `len` values. 24 random bits make a uniform value in [0, 1) that f32 holds exactly; normal ones come two by two from the
    /// transform of Box and Muller (1958), in f64.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn values(self, len: usize, random: &mut ChaCha8Rng) -> Result<Vec<f32>, OutOfMemory> {
        let mut bits = || random.next_u32() >> 8;
        match self {
            Self::Constant(value) => memory::filled(value, len),
            Self::He { fan_in } => {
                let bound = (6.0 / fan_in as f32).sqrt();
                let mut uniform = || bits() as f32 / 16_777_216.0;
                memory::collect((0..len).map(|_| bound * (2.0 * uniform() - 1.0)))
            }
            Self::Uniform { low, high } => {
                let mut uniform = || bits() as f32 / 16_777_216.0;
                memory::collect((0..len).map(|_| low + (high - low) * uniform()))
            }
            Self::Normal { mean, deviation } => {
                // In (0, 1], so that the logarithm is finite.
                let mut uniform = || f64::from(bits() + 1) / 16_777_216.0;
                let mut second = None;
                let mut normal = || {
                    second.take().unwrap_or_else(|| {
                        let radius = (-2.0 * libm::log(uniform())).sqrt();
                        let (sin, cos) = libm::sincos(TAU * uniform());
                        second = Some(radius * sin);
                        radius * cos
                    })
                };
                let scaled = |value: f64| (f64::from(mean) + f64::from(deviation) * value) as f32;
                memory::collect((0..len).map(|_| scaled(normal())))
            }
        }
    }
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

/// The running statistics that a batch norm has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)] // what a registry and a model have of each batch norm
pub struct NormStatistics {
    /// The batch norm.
    pub layer: String,
    /// Its channels.
    pub channels: usize,
}

/// The tensors that the layers of a model share out among them while it is built.
///
/// ```
/// use mantissa::layers::{Init, Registry};
///
/// /// A layer of one's own: a factor for each of `width` values.
/// struct Scale {
///     name: String,
///     gamma: usize, // what `Pass::weight` takes
/// }
///
/// impl Scale {
///     fn new(registry: &mut Registry, name: &str, width: usize) -> Self {
///         let name = registry.layer(name);
///         let gamma = registry.parameter(&name, "gamma", &[width], Init::Constant(1.0));
///         Self { name, gamma }
///     }
/// }
///
/// let mut registry = Registry::default();
/// let scale = Scale::new(&mut registry, "scale", 8);
/// assert_eq!((scale.name, scale.gamma), ("scale".to_owned(), 0));
/// assert_eq!(registry.parameters[0].name, "scale.gamma");
/// ```
#[derive(Debug, Default)]
pub struct Registry {
    /// Parameters, in the order of the layers.
    pub parameters: Vec<Parameter>,
    /// Layer names, in order.
    pub layers: Vec<String>,
    /// The running statistics of each batch norm.
    pub statistics: Vec<NormStatistics>,
    /// What each image takes in the layers that make it larger or smaller: what it is, and its shape.
    pub activations: Vec<(String, Vec<usize>)>,
    /// The batch norm that sees the fewest values of an image in a channel, and how many; of several, the first.
    pub smallest_normed: Option<(String, usize)>,
    /// Of each causal attention, the values of a position's keys: what a [`KeyValueCache`] keeps.
    pub cached: Vec<usize>,
    /// The first attention that sees later positions, so that nothing can be kept.
    pub not_causal: Option<String>,
}

impl Registry {
    /// Registers an attention with so many values in a position's keys. Its number in a [`KeyValueCache`], if it is causal.
    pub fn attention(&mut self, name: &str, width: usize, causal: bool) -> Option<usize> {
        if !causal {
            self.not_causal.get_or_insert_with(|| name.to_owned());
            return None;
        }
        self.cached.push(width);
        Some(self.cached.len() - 1)
    }

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
