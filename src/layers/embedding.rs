//! The embedding of tokens.

use candle_core::{Result, Tensor};

use super::{Init, Layer, Pass, Registry, Saved};
use crate::ops::{self, EmbeddingTables};

/// How the weights of transformers start: normal, with this deviation.
pub(crate) const TRANSFORMER_INIT: Init = Init::Normal { mean: 0.0, deviation: 0.02 };

/// The sizes of an [`Embedding`].
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
        let positions = self.positions.map(|table| pass.weight(table));
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
