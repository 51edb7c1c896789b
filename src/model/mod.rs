//! A model: layers and their parameters, with the values that these start from.

mod sizes;
mod weights;

use std::sync::Arc;

use candle_core::{Result, Tensor};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::layers::{Layer, NormStatistics, Parameter, Registry, Sequential};
use crate::memory::{self, OutOfMemory};
use weights::Given;

pub use weights::WeightsError;
pub(crate) use weights::{FileTensor, WeightsFile};

/// Whose operations compute.
///
/// ```
/// use mantissa::layers::Sequential;
/// use mantissa::model::{Engine, Model};
///
/// let model = Model::of_layers([1, 28, 28], |_| Ok(Sequential::default()))?;
/// assert_eq!(model.engine(), Engine::Mantissa);
/// assert_eq!(Engine::Candle.name(), "candle");
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// This crate's.
    #[default]
    Mantissa,
    /// candle's, which do not keep this crate's arithmetic contract.
    Candle,
}

impl Engine {
    /// Whether operations are this crate's.
    pub fn is_own(&self) -> bool {
        *self == Self::Mantissa
    }

    /// As in results: `mantissa` or `candle`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mantissa => "mantissa",
            Self::Candle => "candle",
        }
    }
}

/// Makes the layers of a model whose operations are not this crate's.
pub(crate) trait Build: Send + Sync {
    /// Layers that compute with `weights`, one a parameter, and keep what no gradient reaches in `state`. With `trains`, weights
    /// are candle variables, so that a gradient can be had for each.
    ///
    /// # Errors
    /// When the layers cannot be made in the weights' type.
    fn build(&self, weights: &[Tensor], state: &[Tensor], trains: bool) -> Result<Box<dyn Layer>>;
}

/// Where the layers of a model come from.
enum Body {
    /// They read their weights from the pass.
    Layers(Arc<dyn Layer + Send + Sync>),
    /// They are made over their weights.
    Built(Box<dyn Build>),
}

/// A model: its layers and what they need, without values.
pub struct Model {
    body: Body,
    /// The trainable tensors, in the order of the layers.
    pub parameters: Vec<Parameter>,
    /// Tensors that the layers keep and that no gradient reaches, such as running statistics of a candle module.
    pub state: Vec<Parameter>,
    /// Names of the layers, in order.
    pub layer_names: Vec<String>,
    /// The running statistics of each batch norm.
    pub statistics: Vec<NormStatistics>,
    given: Option<Given>,
    /// Where files of weights have each parameter; none where it is under its own name.
    file_tensors: Option<Vec<FileTensor>>,
    /// What to know of it before trusting a result, a sentence each.
    pub notes: Vec<String>,
    largest: sizes::Largest,
    /// The batch norm that sees the fewest values of an image in a channel, and how many.
    smallest_normed: Option<(String, usize)>,
    /// Of each attention, the values of a position's keys, or why nothing can be kept of them.
    cached: std::result::Result<Vec<usize>, String>,
}

/// A model that its data cannot flow through.
///
/// ```
/// use mantissa::model::{Model, ModelError};
///
/// let error = Model::of_layers([1, 8, 8], |_| Err(ModelError("takes images of 28 × 28".to_owned())));
/// assert_eq!(error.err().map(|error| error.to_string()), Some("model: takes images of 28 × 28".to_owned()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model: {0}")]
pub struct ModelError(pub String);

impl Model {
    /// The model whose layers `build` makes, and registers with their parameters, for images of `shape` (C, H, W).
    ///
    /// ```
    /// use mantissa::layers::{Flatten, Linear, Sequential};
    /// use mantissa::model::Model;
    ///
    /// let model = Model::of_layers([1, 28, 28], |registry| {
    ///     let output = Linear::new(registry, "output", (28 * 28, 10), true);
    ///     Ok(Sequential(vec![Box::new(Flatten), Box::new(output)]))
    /// })?;
    /// let names: Vec<_> = model.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    /// assert_eq!(names, ["output.weight", "output.bias"]);
    /// # Ok::<(), mantissa::model::ModelError>(())
    /// ```
    ///
    /// # Errors
    /// Those of `build`, and when a parameter or what an image becomes has more than
    /// 2⁴⁰ values.
    pub fn of_layers(
        shape: [usize; 3],
        build: impl FnOnce(&mut Registry) -> std::result::Result<Sequential, ModelError>,
    ) -> std::result::Result<Self, ModelError> {
        let mut registry = Registry::default();
        let body = Body::Layers(Arc::new(build(&mut registry)?));
        Self::with_body(body, registry, shape)
    }

    /// The model whose layers `build` makes, with the parameters and layer names of `registry`, and `state` beside.
    ///
    /// # Errors
    /// As [`Model::of_layers`].
    pub(crate) fn of_build(
        shape: [usize; 3],
        registry: Registry,
        state: Vec<Parameter>,
        build: Box<dyn Build>,
    ) -> std::result::Result<Self, ModelError> {
        let model = Self::with_body(Body::Built(build), registry, shape)?;
        Ok(Self { state, ..model })
    }

    fn with_body(
        body: Body,
        registry: Registry,
        shape: [usize; 3],
    ) -> std::result::Result<Self, ModelError> {
        let largest = sizes::check(&registry, shape)?;
        let Registry { parameters, layers: layer_names, statistics, smallest_normed, .. } =
            registry;
        let cached = match registry.not_causal {
            Some(name) => Err(format!("its {name} sees later positions")),
            None if registry.cached.is_empty() => Err("it has no attention".to_owned()),
            None => Ok(registry.cached),
        };
        let (state, notes, given, file_tensors) = (Vec::new(), Vec::new(), None, None);
        Ok(Self {
            body,
            parameters,
            state,
            layer_names,
            statistics,
            given,
            file_tensors,
            notes,
            largest,
            smallest_normed,
            cached,
        })
    }

    /// Of each attention, the values of a position's keys: what a [`KeyValueCache`](crate::layers::KeyValueCache) keeps.
    ///
    /// # Errors
    /// When it has no attention, or one that sees later positions.
    pub fn cached(&self) -> std::result::Result<&[usize], ModelError> {
        let why = |why: &String| ModelError(format!("it cannot generate tokens one by one: {why}"));
        self.cached.as_deref().map_err(why)
    }

    /// Whose operations compute.
    pub fn engine(&self) -> Engine {
        match self.body {
            Body::Layers(_) => Engine::Mantissa,
            Body::Built(_) => Engine::Candle,
        }
    }

    /// The layers, over these weights and this state where their operations are candle's.
    ///
    /// # Errors
    /// When the layers cannot be made in the weights' type.
    pub fn layers(
        &self,
        weights: &[Tensor],
        state: &[Tensor],
        trains: bool,
    ) -> Result<Arc<dyn Layer>> {
        match &self.body {
            Body::Layers(layers) => Ok(layers.clone()),
            Body::Built(build) => Ok(Arc::from(build.build(weights, state, trains)?)),
        }
    }

    /// Checks the sizes of a batch of images and all that they become.
    ///
    /// # Errors
    /// When one has more than 2⁴⁰ values.
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

    /// The SHA-256 of the file that runs start from; none where their weights are drawn.
    pub fn given_digest(&self) -> Option<&str> {
        self.given.as_ref().map(|given| given.digest.as_str())
    }

    /// The values that the parameters start from, in f32, one parameter after the other: the same for every policy. Each
    /// parameter has its own stream. An error where there is no memory for them.
    pub fn initial_values(
        &self,
        seed: u64,
    ) -> impl Iterator<Item = std::result::Result<Vec<f32>, OutOfMemory>> {
        starts(&self.parameters, self.given.as_ref().map(|given| given.parameters.as_slice()), seed)
    }

    /// As [`Model::initial_values`], of the state.
    pub fn initial_state(
        &self,
    ) -> impl Iterator<Item = std::result::Result<Vec<f32>, OutOfMemory>> {
        starts(&self.state, self.given.as_ref().map(|given| given.state.as_slice()), 0)
    }

    /// Mean and variance that the running statistics of a batch norm start from; none where they are 0 and 1.
    pub fn initial_statistics(&self, index: usize) -> Option<&[Vec<f32>; 2]> {
        self.given.as_ref()?.statistics.get(index)
    }
}

/// The values that are given, or else drawn.
fn starts(
    parameters: &[Parameter],
    given: Option<&[Option<Vec<f32>>]>,
    seed: u64,
) -> impl Iterator<Item = std::result::Result<Vec<f32>, OutOfMemory>> {
    parameters.iter().enumerate().map(move |(index, parameter)| {
        match given.and_then(|given| given[index].as_ref()) {
            Some(values) => memory::collect(values.iter().copied()),
            None => drawn(index, parameter, seed),
        }
    })
}

/// Values of parameters from their [`Init`], in f32, each from its own stream of `seed`.
pub(crate) fn draw(
    parameters: &[Parameter],
    seed: u64,
) -> impl Iterator<Item = std::result::Result<Vec<f32>, OutOfMemory>> {
    parameters.iter().enumerate().map(move |(index, parameter)| drawn(index, parameter, seed))
}

fn drawn(
    index: usize,
    parameter: &Parameter,
    seed: u64,
) -> std::result::Result<Vec<f32>, OutOfMemory> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(index as u64);
    parameter.init.values(parameter.len(), &mut random)
}
