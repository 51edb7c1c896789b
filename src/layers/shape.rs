//! Layers without parameters, and layers made of layers. Those that only move values (`ReLU`, max-pool, flatten) round nothing
//! and are not in the census.

use candle_core::{Result, Tensor};

use super::{BoxedLayer, Layer, Pass, Registry, Saved};
use crate::ops::{self, Then};
use crate::spec::{Activation, Pool};

/// A non-linearity.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Activate, Arithmetic, Layer, Mode, Pass, Registry};
/// use mantissa::precision::Format;
/// use mantissa::spec::Activation;
///
/// let layer = Activate::new(&mut Registry::default(), "relu", Activation::Relu);
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &[], &[]);
/// let y = layer.forward(Tensor::new(&[-1.0_f32, 2.0], &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.to_vec1::<f32>()?, [0.0, 2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Activate {
    name: String,
    kind: Activation,
}

impl Activate {
    /// A non-linearity of this kind.
    pub fn new(registry: &mut Registry, name: &str, kind: Activation) -> Self {
        Self { name: registry.layer(name), kind }
    }
}

impl Layer for Activate {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let result = match self.kind {
            Activation::Relu => ops::relu(&x)?,
            Activation::Gelu => ops::gelu(&x)?,
            Activation::GeluTanh => ops::gelu_tanh(&x)?,
            Activation::Tanh => ops::tanh(&x)?,
        };
        // What the gradient is made of: the result of some, the argument of others.
        Ok(match self.kind {
            Activation::Relu => {
                pass.save(Saved::Tensor(result.clone()));
                result
            }
            Activation::Gelu | Activation::GeluTanh => {
                pass.save(Saved::Tensor(x));
                pass.activation(&self.name, result)?
            }
            Activation::Tanh => {
                let y = pass.activation(&self.name, result)?;
                pass.save(Saved::Tensor(y.clone()));
                y
            }
        })
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let saved = pass.take_tensor()?;
        let dx = match self.kind {
            Activation::Relu => return ops::relu_backward(&dy, &saved).map(Some),
            Activation::Gelu => ops::gelu_backward(&dy, &saved)?,
            Activation::GeluTanh => ops::gelu_tanh_backward(&dy, &saved)?,
            Activation::Tanh => ops::tanh_backward(&dy, &saved)?,
        };
        drop((dy, saved));
        pass.activation_gradient(&self.name, dx).map(Some)
    }
}

/// Side of the window of max and average pooling.
const WINDOW: usize = 2;

/// Pooling of N × C × H × W.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, Layer, Mode, Pass, Pooling, Registry};
/// use mantissa::precision::Format;
/// use mantissa::spec::Pool;
///
/// let layer = Pooling::new(&mut Registry::default(), "pool", Pool::Max);
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &[], &[]);
/// let y = layer.forward(Tensor::new(&[[[[1.0_f32, 5.0], [2.0, 3.0]]]], &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [5.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Pooling {
    name: String,
    kind: Pool,
}

impl Pooling {
    /// Pooling of this kind.
    pub fn new(registry: &mut Registry, name: &str, kind: Pool) -> Self {
        Self { name: registry.layer(name), kind }
    }
}

impl Layer for Pooling {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        let shape = Saved::Shape([n, c, h, w]);
        match self.kind {
            Pool::None => Ok(x),
            Pool::Max => {
                let (y, places) = ops::max_pool2d(&x, WINDOW)?;
                pass.save(Saved::Tensor(places));
                pass.save(shape);
                Ok(y)
            }
            Pool::Avg => {
                pass.save(shape);
                pass.activation(&self.name, ops::avg_pool2d(&x, WINDOW)?)
            }
            Pool::Global => {
                pass.save(shape);
                pass.activation(&self.name, ops::global_avg_pool(&x)?)
            }
        }
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        if self.kind == Pool::None {
            return Ok(Some(dy));
        }
        let shape = pass.take_shape()?;
        let dx = match self.kind {
            Pool::Max => {
                let places = pass.take_tensor()?;
                return ops::max_pool2d_backward(&dy, &places, WINDOW, shape).map(Some);
            }
            Pool::Avg => ops::avg_pool2d_backward(&dy, WINDOW, shape)?,
            Pool::Global | Pool::None => ops::global_avg_pool_backward(&dy, shape)?,
        };
        pass.activation_gradient(&self.name, dx).map(Some)
    }
}

/// Dropout in training; nothing in inference.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, Dropout, Layer, Mode, Pass, Registry};
/// use mantissa::precision::Format;
///
/// let layer = Dropout::new(&mut Registry::default(), "dropout", 0.5);
/// let y = |mode| {
///     let mut pass = Pass::new(Arithmetic::of(Format::F32), mode, &[], &[]);
///     layer.forward(Tensor::new(&[1.0_f32, 1.0, 1.0], &Device::Cpu)?, &mut pass)?.to_vec1::<f32>()
/// };
/// assert_eq!(y(Mode::Inference)?, [1.0; 3]);
/// let training = Mode::Training { seed: 0, pass: Tensor::new(&[0_u32], &Device::Cpu)? };
/// assert!(y(training)?.iter().all(|value| [0.0, 2.0].contains(value)));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Dropout {
    name: String,
    p: f32,
    stream: u32,
}

impl Dropout {
    /// Drops with probability `p`.
    pub fn new(registry: &mut Registry, name: &str, p: f32) -> Self {
        let stream = registry.layers.len() as u32;
        Self { name: registry.layer(name), p, stream }
    }
}

impl Layer for Dropout {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        match pass.random(self.stream) {
            Some(random) => pass.activation(&self.name, ops::dropout(&x, self.p, &random)?),
            None => Ok(x),
        }
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        match pass.random(self.stream) {
            Some(random) => {
                let dx = ops::dropout(&dy, self.p, &random)?;
                pass.activation_gradient(&self.name, dx).map(Some)
            }
            None => Ok(Some(dy)),
        }
    }
}

/// N × C × H × W to N × (C H W).
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::layers::{Arithmetic, Flatten, Layer, Mode, Pass};
/// use mantissa::precision::Format;
///
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &[], &[]);
/// let y = Flatten.forward(Tensor::zeros((2, 3, 4, 5), DType::F32, &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.dims(), [2, 60]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Flatten;

impl Layer for Flatten {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        pass.save(Saved::Shape([n, c, h, w]));
        x.reshape((n, c * h * w))
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let shape = pass.take_shape()?;
        dy.reshape(shape.to_vec()).map(Some)
    }
}

/// Layers one after the other.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Activate, Arithmetic, Flatten, Layer, Mode, Pass, Registry, Sequential};
/// use mantissa::precision::Format;
/// use mantissa::spec::Activation;
///
/// let relu = Activate::new(&mut Registry::default(), "relu", Activation::Relu);
/// let layers = Sequential(vec![Box::new(Flatten), Box::new(relu)]);
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &[], &[]);
/// let y = layers.forward(Tensor::new(&[[[[-1.0_f32, 2.0]]]], &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[0.0, 2.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Default)]
pub struct Sequential(pub Vec<BoxedLayer>);

impl Layer for Sequential {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        self.0.iter().try_fold(x, |x, layer| layer.forward(x, pass))
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let mut gradient = Some(dy);
        for layer in self.0.iter().rev() {
            let Some(dy) = gradient else { break };
            gradient = layer.backward(dy, pass)?;
        }
        Ok(gradient)
    }
}

/// y = body(x) + shortcut(x), and a `ReLU` of it; an empty shortcut passes x on.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, Layer, Mode, Pass, Registry, Residual, Sequential};
/// use mantissa::precision::Format;
///
/// // With nothing on either way: max(x + x, 0).
/// let (body, shortcut) = (Sequential::default(), Sequential::default());
/// let layer = Residual::new(&mut Registry::default(), "block", body, shortcut);
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &[], &[]);
/// let y = layer.forward(Tensor::new(&[-1.0_f32, 2.0], &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.to_vec1::<f32>()?, [0.0, 4.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub struct Residual {
    name: String,
    body: Sequential,
    shortcut: Sequential,
}

impl Residual {
    /// The sum of two ways from one input, called `name.sum`, and the `ReLU`, called `name.relu`.
    pub fn new(
        registry: &mut Registry,
        name: &str,
        body: Sequential,
        shortcut: Sequential,
    ) -> Self {
        let sum = registry.layer(&format!("{name}.sum"));
        registry.layer(&format!("{name}.relu"));
        Self { name: sum, body, shortcut }
    }
}

impl Layer for Residual {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let left = self.body.forward(x.clone(), pass)?;
        let right = self.shortcut.forward(x, pass)?;
        let then = pass.then_relu(true);
        let y = pass.activation(&self.name, ops::add(&left, &right, then)?)?;
        let y = pass.relu_after(true, then, y)?;
        pass.save(Saved::Tensor(y.clone()));
        Ok(y)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let y = pass.take_tensor()?;
        let dy = ops::relu_backward(&dy, &y)?;
        drop(y);
        let right = self.shortcut.backward(dy.clone(), pass)?;
        let left = self.body.backward(dy, pass)?;
        match (left, right) {
            (Some(left), Some(right)) => {
                let dx = ops::add(&left, &right, Then::Nothing)?;
                pass.activation_gradient(&self.name, dx).map(Some)
            }
            (left, right) => Ok(left.or(right)),
        }
    }
}
