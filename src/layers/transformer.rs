//! What stands around attention in a transformer: the feed-forward layer, residual sums with a norm, and pooling of a sequence.

use candle_core::{Result, Tensor};

use super::embedding::INIT;
use super::linear::LinearSizes;
use super::{BoxedLayer, Layer, Linear, Pass, Registry, Saved, Sequential};
use crate::ops::{self, Then};

/// Two linear layers with a non-linearity between them, position by position. x and y: N × T × D.
#[derive(Debug)]
pub struct FeedForward {
    name: String,
    /// Of `SwiGLU` alone.
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
}

impl FeedForward {
    /// `down(gelu(up(x)))` with biases, from D to `hidden` values and back. The linear layers are called `name.up` and `name.down`,
    /// the non-linearity `name`.
    pub fn gelu(registry: &mut Registry, name: &str, sizes: (usize, usize)) -> Self {
        Self::new(registry, name, sizes, false)
    }

    /// `down(silu(gate(x)) · up(x))` without biases (Shazeer 2020, arXiv 2002.05202); `gate` is called `name.gate`.
    pub fn swiglu(registry: &mut Registry, name: &str, sizes: (usize, usize)) -> Self {
        Self::new(registry, name, sizes, true)
    }

    fn new(
        registry: &mut Registry,
        name: &str,
        (width, hidden): (usize, usize),
        gated: bool,
    ) -> Self {
        let linear = |registry: &mut Registry, part: &str, inputs, outputs| {
            let sizes = LinearSizes { inputs, outputs, bias: !gated, init: INIT };
            Linear::with(registry, &format!("{name}.{part}"), sizes)
        };
        let gate = gated.then(|| linear(registry, "gate", width, hidden));
        let up = linear(registry, "up", width, hidden);
        let own = registry.layer(name);
        let down = linear(registry, "down", hidden, width);
        Self { name: own, gate, up, down }
    }
}

impl Layer for FeedForward {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let gate = match &self.gate {
            Some(layer) => Some(layer.forward(x.clone(), pass)?),
            None => None,
        };
        let up = self.up.forward(x, pass)?;
        let y = match &gate {
            Some(gate) => ops::swiglu(gate, &up)?,
            None => ops::gelu(&up)?,
        };
        for tensor in gate.into_iter().chain([up]) {
            pass.save(Saved::Tensor(tensor));
        }
        let y = pass.activation(&self.name, y)?;
        self.down.forward(y, pass)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let Some(dy) = self.down.backward(dy, pass)? else { return Ok(None) };
        let up = pass.take_tensor()?;
        let Some(layer) = &self.gate else {
            let dup = ops::gelu_backward(&dy, &up)?;
            drop((dy, up));
            let dup = pass.activation_gradient(&self.name, dup)?;
            return self.up.backward(dup, pass);
        };
        let gate = pass.take_tensor()?;
        let (dgate, dup) = ops::swiglu_backward(&dy, &gate, &up)?;
        drop((dy, gate, up));
        let dgate = pass.activation_gradient(&self.name, dgate)?;
        let dup = pass.activation_gradient(&self.name, dup)?;
        let right = self.up.backward(dup, pass)?;
        let left = layer.backward(dgate, pass)?;
        sum(&self.name, (left, right), pass)
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// y = x + body(norm(x)), as in GPT-2 and Llama.
    Before,
    /// y = norm(x + body(x)), as in the paper on attention and BERT.
    After,
}

/// A residual sum with a norm.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequencePool {
    /// The mean of the positions that are there.
    Mean,
    /// The first position.
    First,
}

/// Pooling of N × T × D to N × D.
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
