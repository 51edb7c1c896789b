//! The embedding of tokens.

use candle_core::{Result, Tensor};

use super::{Init, Layer, Pass, Registry, Saved};
use crate::ops::{self, EmbeddingTables};

/// How the weights of transformers start: normal, with this deviation.
pub(crate) const TRANSFORMER_INIT: Init = Init::Normal { mean: 0.0, deviation: 0.02 };

/// The sizes of an [`Embedding`].
///
/// ```
/// use mantissa::layers::{Embedding, EmbeddingSizes, Registry};
///
/// let sizes = EmbeddingSizes { tokens: 100, positions: Some(32), types: None, width: 8 };
/// let mut registry = Registry::default();
/// Embedding::new(&mut registry, "embedding", sizes);
/// let shapes: Vec<_> = registry.parameters.iter().map(|p| (&p.name[..], &p.shape[..])).collect();
/// assert_eq!(shapes, [("embedding.weight", &[100, 8][..]), ("embedding.positions", &[32, 8][..])]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingSizes {
    /// How many tokens there are.
    pub tokens: usize,
    /// Most positions of a sequence, where each has a row that is added.
    pub positions: Option<usize>,
    /// How many types of tokens there are, where each has a row that is added.
    pub types: Option<usize>,
    /// Values of a row, D.
    pub width: usize,
}

/// Rows of a table by token, with those of its position and type added. The data enters here: x is N × T ids, u32; y is N × T × D.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, Embedding, EmbeddingSizes, Layer, Mode, Pass, Registry};
/// use mantissa::precision::Format;
///
/// let sizes = EmbeddingSizes { tokens: 3, positions: None, types: None, width: 2 };
/// let layer = Embedding::new(&mut Registry::default(), "embedding", sizes);
///
/// let weights = [Tensor::new(&[[0.0_f32, 0.0], [1.0, 2.0], [3.0, 4.0]], &Device::Cpu)?];
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &weights, &[]);
/// let y = layer.forward(Tensor::new(&[[2_u32, 1]], &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.to_vec3::<f32>()?, [[[3.0, 4.0], [1.0, 2.0]]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Embedding {
    name: String,
    sizes: EmbeddingSizes,
    tokens: usize,
    positions: Option<usize>,
    types: Option<usize>,
}

impl Embedding {
    /// A layer of these sizes.
    pub fn new(registry: &mut Registry, name: &str, sizes: EmbeddingSizes) -> Self {
        let name = registry.layer(name);
        let mut table =
            |part, rows| registry.parameter(&name, part, &[rows, sizes.width], TRANSFORMER_INIT);
        let tokens = table("weight", sizes.tokens);
        let positions = sizes.positions.map(|rows| table("positions", rows));
        let types = sizes.types.map(|rows| table("types", rows));
        Self { name, sizes, tokens, positions, types }
    }

    /// The parameter of the tokens' rows, V × D: what [`Linear::sharing`](super::Linear::sharing) takes.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

/// The types of a batch's tokens; 0 each where it has none.
fn types(ids: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
    match pass.token_types() {
        Some(types) => Ok(types.clone()),
        None => ops::zeros_u32(ids.shape(), ids.device()),
    }
}

impl Layer for Embedding {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let tokens = pass.weight(self.tokens);
        let first = pass.first_position();
        let positions = match self.positions.map(|table| pass.weight(table)) {
            // An error below says what is missing where there are not so many rows.
            Some(table) if first > 0 && first < table.dim(0)? => {
                Some(table.narrow(0, first, table.dim(0)? - first)?)
            }
            table => table,
        };
        let types = match self.types {
            Some(table) => Some((types(&x, pass)?, pass.weight(table))),
            None => None,
        };
        let tables = EmbeddingTables {
            tokens: &tokens,
            positions: positions.as_ref(),
            types: types.as_ref().map(|(types, table)| (types, table)),
        };
        let y = ops::embedding(&x, &tables)?;
        pass.save(Saved::Tensor(x));
        pass.activation(&self.name, y)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let ids = pass.take_tensor()?;
        let gradient = ops::embedding_backward(&dy, &ids, self.sizes.tokens)?;
        pass.weight_gradient(&self.name, self.tokens, gradient)?;
        if let (Some(table), Some(rows)) = (self.positions, self.sizes.positions) {
            let gradient = ops::position_backward(&dy, rows)?;
            pass.weight_gradient(&self.name, table, gradient)?;
        }
        if let (Some(table), Some(rows)) = (self.types, self.sizes.types) {
            let gradient = ops::embedding_backward(&dy, &types(&ids, pass)?, rows)?;
            pass.weight_gradient(&self.name, table, gradient)?;
        }
        Ok(None)
    }
}
