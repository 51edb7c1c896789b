//! Self-attention with its projections.

use std::sync::{Mutex, PoisonError};

use candle_core::{Error, Result, Tensor};

use super::cache::{Kept, KeyValueCache};
use super::embedding::TRANSFORMER_INIT;
use super::linear::LinearSizes;
use super::{Layer, Linear, Pass, Registry, Saved};
use crate::ops::{
    self, AttentionDropout, AttentionGradients, AttentionMasks, AttentionSettings, RopeSettings,
    Then,
};

/// What an [`Attention`] is.
///
/// ```
/// use mantissa::layers::{Attention, AttentionSizes, Registry};
///
/// // Four heads of 2 values each; pairs of them share a head of keys and values.
/// let sizes = AttentionSizes { width: 8, heads: 4, kv_heads: 2, causal: true, bias: false, rope: None };
/// let mut registry = Registry::default();
/// Attention::new(&mut registry, "attention", sizes);
/// let shapes: Vec<_> = registry.parameters.iter().map(|parameter| &parameter.shape[..]).collect();
/// assert_eq!(shapes, [[8, 8], [4, 8], [4, 8], [8, 8]]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSizes {
    /// Values of a position, D: a multiple of the heads.
    pub width: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values, of which `heads` is a multiple.
    pub kv_heads: usize,
    /// Whether a position sees itself and those before it alone.
    pub causal: bool,
    /// Whether the projections have a bias.
    pub bias: bool,
    /// The base of rotary positions, where queries and keys are turned by them.
    pub rope: Option<f64>,
}

impl AttentionSizes {
    /// Values of a head.
    fn head_width(self) -> usize {
        self.width / self.heads.max(1)
    }
}

/// Self-attention: queries, keys and values are projections of x, and the result is one of what attention gives. Positions behind
/// the end of a sequence are not seen ([`Pass::lengths`]). x and y: N × T × D.
///
/// ```
/// use mantissa::layers::{Attention, AttentionSizes, Registry};
///
/// let sizes = AttentionSizes { width: 8, heads: 2, kv_heads: 2, causal: false, bias: false, rope: Some(10_000.0) };
/// let mut registry = Registry::default();
/// Attention::new(&mut registry, "a", sizes);
/// let names: Vec<_> = registry.parameters.iter().map(|parameter| &parameter.name[..]).collect();
/// assert_eq!(names, ["a.query.weight", "a.key.weight", "a.value.weight", "a.output.weight"]);
/// ```
#[derive(Debug)]
pub struct Attention {
    name: String,
    sizes: AttentionSizes,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    rope: Option<Rope>,
    /// Its number in a cache.
    cached: Option<usize>,
    /// Probability of dropping a probability, and which random numbers it draws.
    dropout: f32,
    stream: u32,
}

impl Attention {
    /// A layer of these sizes. Its projections are called `name.query`, `name.key`, `name.value` and `name.output`.
    pub fn new(registry: &mut Registry, name: &str, sizes: AttentionSizes) -> Self {
        let AttentionSizes { width, bias, .. } = sizes;
        let of_keys = sizes.head_width() * sizes.kv_heads;
        let linear = |registry: &mut Registry, part: &str, inputs, outputs| {
            let sizes = LinearSizes { inputs, outputs, bias, init: TRANSFORMER_INIT };
            Linear::with(registry, &format!("{name}.{part}"), sizes)
        };
        let query = linear(registry, "query", width, sizes.head_width() * sizes.heads);
        let key = linear(registry, "key", width, of_keys);
        let value = linear(registry, "value", width, of_keys);
        let rope = sizes.rope.map(|base| {
            let settings = RopeSettings { width: sizes.head_width(), base, offset: 0 };
            Rope {
                name: registry.layer(&format!("{name}.rope")),
                settings,
                table: Mutex::default(),
            }
        });
        let stream = registry.layers.len() as u32;
        let own = registry.layer(name);
        let cached = registry.attention(name, of_keys, sizes.causal);
        let output = linear(registry, "output", sizes.head_width() * sizes.heads, width);
        let dropout = 0.0;
        Self { name: own, sizes, query, key, value, output, rope, cached, dropout, stream }
    }

    /// The same, which in training drops each probability of attention with this probability, as BERT and GPT-2 do, and divides the
    /// others by 1 less that.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use mantissa::layers::{Arithmetic, Attention, AttentionSizes, Layer, Mode, Pass, Registry};
    /// use mantissa::precision::Format;
    ///
    /// let sizes = AttentionSizes { width: 1, heads: 1, kv_heads: 1, causal: false, bias: false, rope: None };
    /// let layer = Attention::new(&mut Registry::default(), "attention", sizes).with_dropout(0.5);
    /// let one = Tensor::new(&[[1.0_f32]], &Device::Cpu)?;
    /// let weights = [one.clone(), one.clone(), one.clone(), one];
    /// let x = Tensor::new(&[[[3.0_f32]], [[3.0]], [[3.0]]], &Device::Cpu)?;
    /// let y = |mode| {
    ///     let mut pass = Pass::new(Arithmetic::of(Format::F32), mode, &weights, &[]);
    ///     layer.forward(x.clone(), &mut pass)?.flatten_all()?.to_vec1::<f32>()
    /// };
    /// // Of one position the probability is 1.
    /// assert_eq!(y(Mode::Inference)?, [3.0; 3]);
    /// let training = Mode::Training { seed: 0, pass: Tensor::new(&[0_u32], &Device::Cpu)? };
    /// assert!(y(training)?.iter().all(|value| [0.0, 6.0].contains(value)));
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    #[must_use]
    pub fn with_dropout(self, dropout: f32) -> Self {
        Self { dropout, ..self }
    }

    /// What it drops in this pass.
    fn drops(&self, pass: &Pass<'_>) -> Option<AttentionDropout> {
        let random = pass.random(self.stream).filter(|_| self.dropout > 0.0)?;
        Some(AttentionDropout { p: self.dropout, random })
    }

    /// What the queries of new positions see of these and of those that are kept.
    fn with_cache(
        &self,
        cache: &KeyValueCache,
        q: &Tensor,
        (k, v): (Tensor, Tensor),
        settings: AttentionSettings,
    ) -> Result<Tensor> {
        let Some(index) = self.cached else {
            let text = format!("{} sees later positions: no cache can be used", self.name);
            return Err(Error::Msg(text).bt());
        };
        let Kept { keys, values, lengths } = cache.add(index, k, v)?;
        // The one query that is not among the first sees all keys that there are.
        let settings = AttentionSettings { causal: lengths.is_none(), ..settings };
        Ok(ops::attention(q, &keys, &values, lengths.as_ref(), settings)?.0)
    }

    fn settings(&self, pass: &Pass<'_>) -> AttentionSettings {
        let AttentionSizes { heads, kv_heads, causal, .. } = self.sizes;
        AttentionSettings { heads, kv_heads, causal, format: pass.arithmetic().format }
    }
}

impl Layer for Attention {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut q = self.query.forward(x.clone(), pass)?;
        let mut k = self.key.forward(x.clone(), pass)?;
        let v = self.value.forward(x, pass)?;
        if let Some(rope) = &self.rope {
            (q, k) = (rope.forward(&q, pass)?, rope.forward(&k, pass)?);
        }
        let settings = self.settings(pass);
        if let Some(cache) = pass.cache() {
            let y = self.with_cache(cache, &q, (k, v), settings)?;
            let y = pass.activation(&self.name, y)?;
            return self.output.forward(y, pass);
        }
        let lengths = pass.lengths().cloned();
        let drops = self.drops(pass);
        let masks = AttentionMasks { lengths: lengths.as_ref(), dropout: drops.as_ref() };
        let (y, logs) = ops::attention_masked(&q, &k, &v, masks, settings)?;
        let y = pass.activation(&self.name, y)?;
        for tensor in [q, k, v, y.clone(), logs] {
            pass.save(Saved::Tensor(tensor));
        }
        self.output.forward(y, pass)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let Some(dy) = self.output.backward(dy, pass)? else { return Ok(None) };
        let (logs, y, v) = (pass.take_tensor()?, pass.take_tensor()?, pass.take_tensor()?);
        let (k, q) = (pass.take_tensor()?, pass.take_tensor()?);
        let (settings, lengths) = (self.settings(pass), pass.lengths().cloned());
        let drops = self.drops(pass);
        let masks = AttentionMasks { lengths: lengths.as_ref(), dropout: drops.as_ref() };
        let AttentionGradients { q: dq, k: dk, v: dv } =
            ops::attention_masked_backward(&dy, [&q, &k, &v], (&y, &logs), masks, settings)?;
        drop((dy, y, logs, q, k, v));
        let mut dq = pass.activation_gradient(&self.name, dq)?;
        let mut dk = pass.activation_gradient(&self.name, dk)?;
        let dv = pass.activation_gradient(&self.name, dv)?;
        if let Some(rope) = &self.rope {
            (dq, dk) = (rope.backward(&dq, pass)?, rope.backward(&dk, pass)?);
        }
        let mut total = None;
        for (layer, gradient) in [(&self.value, dv), (&self.key, dk), (&self.query, dq)] {
            let dx = layer.backward(gradient, pass)?;
            total = match (total, dx) {
                (Some(total), Some(dx)) => {
                    let sum = ops::add(&total, &dx, Then::Nothing)?;
                    Some(pass.activation_gradient(&self.name, sum)?)
                }
                (total, dx) => total.or(dx),
            };
        }
        Ok(total)
    }
}

/// Rotary positions, with the table of the last sequences' length, or of a cache's. It is made on the first pass, which is never
/// captured in a graph.
#[derive(Debug)]
struct Rope {
    name: String,
    settings: RopeSettings,
    table: Mutex<Option<Tensor>>,
}

impl Rope {
    /// The angles of x's positions.
    fn table(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let positions = x.dim(1)?;
        let rows = pass.cache().map_or(positions, KeyValueCache::capacity);
        let mut kept = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |table: &Tensor| {
            table.dim(0).is_ok_and(|there| there == rows) && table.device().same_device(x.device())
        };
        let table = match &*kept {
            Some(table) if fits(table) => table.clone(),
            _ => ops::rope_table(rows, self.settings, x.device())?,
        };
        *kept = Some(table.clone());
        table.narrow(0, pass.first_position(), positions)
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let table = self.table(x, pass)?;
        pass.activation(&self.name, ops::rope(x, &table)?)
    }

    fn backward(&self, dy: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let table = self.table(dy, pass)?;
        pass.activation_gradient(&self.name, ops::rope_backward(dy, &table)?)
    }
}
