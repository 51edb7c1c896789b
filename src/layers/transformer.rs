//! What stands around attention in a transformer: the feed-forward layer, residual sums with a norm, and pooling of a sequence.

use candle_core::{Result, Tensor};

use super::embedding::TRANSFORMER_INIT;
use super::linear::LinearSizes;
use super::{Activate, BoxedLayer, Layer, Linear, Pass, Registry, Saved, Sequential};
use crate::ops::{self, Then};
use crate::spec::Activation;

/// Two linear layers with a non-linearity between them, position by position. x and y: N × T × D.
///
/// ```
/// use mantissa::layers::{FeedForward, Registry};
/// use mantissa::spec::Activation;
///
/// let mut registry = Registry::default();
/// FeedForward::new(&mut registry, "ff", (8, 32), Activation::Gelu);
/// let shapes: Vec<_> = registry.parameters.iter().map(|p| (&p.name[..], &p.shape[..])).collect();
/// assert_eq!(shapes[0], ("ff.up.weight", &[32, 8][..]));
/// assert_eq!(shapes[2], ("ff.down.weight", &[8, 32][..]));
/// ```
#[derive(Debug)]
pub struct FeedForward {
    up: Linear,
    between: Between,
    down: Linear,
}

/// What is between the linear layers.
#[derive(Debug)]
enum Between {
    Activation(Activate),
    /// `SwiGLU`: its name, and the linear layer of the gate.
    Gate(String, Linear),
}

impl FeedForward {
    /// `down(f(up(x)))` with biases, from D to `hidden` values and back, where f is this non-linearity. The linear layers are called
    /// `name.up` and `name.down`, the non-linearity `name`.
    pub fn new(
        registry: &mut Registry,
        name: &str,
        (width, hidden): (usize, usize),
        activation: Activation,
    ) -> Self {
        let up = linear(registry, &format!("{name}.up"), (width, hidden), true);
        let between = Between::Activation(Activate::new(registry, name, activation));
        let down = linear(registry, &format!("{name}.down"), (hidden, width), true);
        Self { up, between, down }
    }

    /// `down(silu(gate(x)) · up(x))` without biases (Shazeer 2020, arXiv 2002.05202); `gate` is called `name.gate`.
    pub fn swiglu(registry: &mut Registry, name: &str, (width, hidden): (usize, usize)) -> Self {
        let gate = linear(registry, &format!("{name}.gate"), (width, hidden), false);
        let up = linear(registry, &format!("{name}.up"), (width, hidden), false);
        let between = Between::Gate(registry.layer(name), gate);
        let down = linear(registry, &format!("{name}.down"), (hidden, width), false);
        Self { up, between, down }
    }
}

fn linear(
    registry: &mut Registry,
    name: &str,
    (inputs, outputs): (usize, usize),
    bias: bool,
) -> Linear {
    Linear::with(registry, name, LinearSizes { inputs, outputs, bias, init: TRANSFORMER_INIT })
}

impl Layer for FeedForward {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let y = match &self.between {
            Between::Activation(activation) => {
                let up = self.up.forward(x, pass)?;
                activation.forward(up, pass)?
            }
            Between::Gate(name, layer) => {
                let gate = layer.forward(x.clone(), pass)?;
                let up = self.up.forward(x, pass)?;
                let y = ops::swiglu(&gate, &up)?;
                pass.save(Saved::Tensor(gate));
                pass.save(Saved::Tensor(up));
                pass.activation(name, y)?
            }
        };
        self.down.forward(y, pass)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let Some(dy) = self.down.backward(dy, pass)? else { return Ok(None) };
        match &self.between {
            Between::Activation(activation) => match activation.backward(dy, pass)? {
                Some(dup) => self.up.backward(dup, pass),
                None => Ok(None),
            },
            Between::Gate(name, layer) => {
                let (up, gate) = (pass.take_tensor()?, pass.take_tensor()?);
                let (dgate, dup) = ops::swiglu_backward(&dy, &gate, &up)?;
                drop((dy, gate, up));
                let dgate = pass.activation_gradient(name, dgate)?;
                let dup = pass.activation_gradient(name, dup)?;
                let right = self.up.backward(dup, pass)?;
                let left = layer.backward(dgate, pass)?;
                sum(name, (left, right), pass)
            }
        }
    }
}

/// The gradient with respect to what went two ways.
fn sum(
    name: &str,
    gradients: (Option<Tensor>, Option<Tensor>),
    pass: &mut Pass<'_>,
) -> Result<Option<Tensor>> {
    match gradients {
        (Some(left), Some(right)) => {
            let sum = ops::add(&left, &right, Then::Nothing)?;
            pass.activation_gradient(name, sum).map(Some)
        }
        (left, right) => Ok(left.or(right)),
    }
}

/// Where the norm of a [`NormResidual`] is.
///
/// ```
/// use candle_core::{Device, Result, Tensor};
/// use mantissa::layers::{Arithmetic, Layer, Mode, NormPlace, NormResidual, Pass, Registry, RmsNorm, Sequential};
/// use mantissa::precision::Format;
///
/// let y = |place| -> Result<_> {
///     let mut registry = Registry::default();
///     let norm = RmsNorm::new(&mut registry, "norm", 2, 0.0);
///     let layer = NormResidual::new(&mut registry, "block", place, (Box::new(norm), Sequential::default()));
///     let weights = [Tensor::new(&[1.0_f32, 1.0], &Device::Cpu)?];
///     let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &weights, &[]);
///     layer.forward(Tensor::new(&[[2.0_f32, -2.0]], &Device::Cpu)?, &mut pass)?.to_vec2::<f32>()
/// };
/// // x + norm(x), and norm(x + x), where norm gives 1 and −1.
/// assert_eq!(y(NormPlace::Before)?, [[3.0, -3.0]]);
/// assert_eq!(y(NormPlace::After)?, [[1.0, -1.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// y = x + body(norm(x)), as in GPT-2 and Llama.
    Before,
    /// y = norm(x + body(x)), as in the paper on attention and BERT.
    After,
}

/// A residual sum with a norm.
///
/// ```
/// use mantissa::layers::{FeedForward, LayerNorm, NormPlace, NormResidual, Registry, Sequential};
/// use mantissa::spec::Activation;
///
/// // The second half of a block of GPT-2.
/// let mut registry = Registry::default();
/// let norm = LayerNorm::new(&mut registry, "norm", 8, 1e-5);
/// let body = FeedForward::new(&mut registry, "ff", (8, 32), Activation::GeluTanh);
/// let parts = (Box::new(norm) as _, Sequential(vec![Box::new(body)]));
/// NormResidual::new(&mut registry, "block", NormPlace::Before, parts);
/// assert_eq!(registry.layers.last().map(String::as_str), Some("block.sum"));
/// ```
pub struct NormResidual {
    name: String,
    place: NormPlace,
    norm: BoxedLayer,
    body: Sequential,
}

impl NormResidual {
    /// The sum, called `name.sum`, of x and what the body makes of it.
    pub fn new(
        registry: &mut Registry,
        name: &str,
        place: NormPlace,
        (norm, body): (BoxedLayer, Sequential),
    ) -> Self {
        Self { name: registry.layer(&format!("{name}.sum")), place, norm, body }
    }
}

impl Layer for NormResidual {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let y = match self.place {
            NormPlace::Before => self.norm.forward(x.clone(), pass)?,
            NormPlace::After => x.clone(),
        };
        let y = self.body.forward(y, pass)?;
        let y = pass.activation(&self.name, ops::add(&x, &y, Then::Nothing)?)?;
        match self.place {
            NormPlace::Before => Ok(y),
            NormPlace::After => self.norm.forward(y, pass),
        }
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let dy = match self.place {
            NormPlace::Before => Some(dy),
            NormPlace::After => self.norm.backward(dy, pass)?,
        };
        let Some(dy) = dy else { return Ok(None) };
        let dx = match (self.place, self.body.backward(dy.clone(), pass)?) {
            (NormPlace::Before, Some(dx)) => self.norm.backward(dx, pass)?,
            (_, dx) => dx,
        };
        sum(&self.name, (Some(dy), dx), pass)
    }
}

/// How a sequence becomes one row.
///
/// ```
/// use candle_core::{Device, Result, Tensor};
/// use mantissa::layers::{Arithmetic, Layer, Mode, Pass, PoolSequence, Registry, SequencePool};
/// use mantissa::precision::Format;
///
/// let pooled = |kind| -> Result<_> {
///     let layer = PoolSequence::new(&mut Registry::default(), "pool", kind);
///     let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &[], &[]);
///     layer.forward(Tensor::new(&[[[1.0_f32], [3.0]]], &Device::Cpu)?, &mut pass)?.to_vec2::<f32>()
/// };
/// assert_eq!(pooled(SequencePool::Mean)?, [[2.0]]);
/// assert_eq!(pooled(SequencePool::First)?, [[1.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequencePool {
    /// The mean of the positions that are there.
    Mean,
    /// The first position.
    First,
}

/// Pooling of N × T × D to N × D.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::layers::{Arithmetic, Layer, Mode, Pass, PoolSequence, Registry, SequencePool};
/// use mantissa::precision::Format;
///
/// let layer = PoolSequence::new(&mut Registry::default(), "pool", SequencePool::Mean);
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &[], &[]);
/// let y = layer.forward(Tensor::zeros((2, 16, 8), DType::F32, &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.dims(), [2, 8]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct PoolSequence {
    name: String,
    kind: SequencePool,
}

impl PoolSequence {
    /// Pooling of this kind.
    pub fn new(registry: &mut Registry, name: &str, kind: SequencePool) -> Self {
        Self { name: registry.layer(name), kind }
    }
}

impl Layer for PoolSequence {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        pass.save(Saved::Positions(x.dim(1)?));
        match self.kind {
            SequencePool::Mean => {
                let y = ops::mean_pool(&x, pass.lengths())?;
                pass.activation(&self.name, y)
            }
            // Nothing is rounded, and nothing counted.
            SequencePool::First => ops::first_token(&x),
        }
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let positions = pass.take_positions()?;
        match self.kind {
            SequencePool::Mean => {
                let dx = ops::mean_pool_backward(&dy, pass.lengths(), positions)?;
                pass.activation_gradient(&self.name, dx).map(Some)
            }
            SequencePool::First => ops::first_token_backward(&dy, positions).map(Some),
        }
    }
}

/// N × T × D as (N T) × D: what follows takes each position by itself. With a cache the last position alone goes on, N × D.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::layers::{Arithmetic, EachPosition, Layer, Mode, Pass};
/// use mantissa::precision::Format;
///
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &[], &[]);
/// let y = EachPosition.forward(Tensor::zeros((2, 16, 8), DType::F32, &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.dims(), [32, 8]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct EachPosition;

impl Layer for EachPosition {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (_, positions, _) = x.dims3()?;
        if pass.cache().is_some() {
            return x.narrow(1, positions.saturating_sub(1), 1)?.contiguous()?.flatten_to(1);
        }
        pass.save(Saved::Positions(positions));
        x.flatten_to(1)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let positions = pass.take_positions()?;
        let (rows, width) = dy.dims2()?;
        dy.reshape((rows / positions.max(1), positions, width)).map(Some)
    }
}
