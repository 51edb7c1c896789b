//! A transformer that classifies texts: embeddings of tokens and positions, blocks of attention and two linear layers (Vaswani et al.
//! 2017, arXiv 1706.03762), and a linear layer on the pooled result. With the norm behind, as BERT (Devlin et al. 2018, arXiv 1810.04805).

use crate::layers::{
    Activate, Attention, AttentionSizes, BoxedLayer, Dropout, Embedding, EmbeddingSizes,
    FeedForward, Init, LayerNorm, Linear, LinearSizes, NormPlace, NormResidual, Parameter,
    PoolSequence, Registry, SequencePool, Sequential, TRANSFORMER_INIT,
};
use crate::spec::{Activation, EncoderPlan, NormPlan, TextPool};

/// What an encoder is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Encoder {
    pub(super) plan: EncoderPlan,
    /// Rows of the embedding, one a token.
    pub(super) tokens: usize,
    /// Most tokens of a text.
    pub(super) positions: usize,
    /// Types of tokens, of which a text has the first.
    pub(super) types: Option<usize>,
    /// Between the linear layers of a block.
    pub(super) activation: Activation,
    /// What follows a linear layer on the pooled result, before the output; none: there is no such layer.
    pub(super) head: Option<Activation>,
    /// What is added to a variance before its root is taken.
    pub(super) epsilon: f32,
}

impl Encoder {
    /// That of a plan, for texts of a vocabulary and at most so many tokens.
    pub(super) fn of_plan(plan: EncoderPlan, tokens: usize, positions: usize) -> Self {
        // As BERT.
        let (activation, epsilon) = (Activation::Gelu, 1e-12);
        Self { plan, tokens, positions, types: None, activation, head: None, epsilon }
    }

    /// Its layers, for texts of at most so many tokens and with so many outputs.
    pub(super) fn layers(
        &self,
        registry: &mut Registry,
        length: usize,
        outputs: usize,
    ) -> Sequential {
        let EncoderPlan { width, depth, feed_forward, dropout, norm, .. } = self.plan;
        let sizes = EmbeddingSizes {
            tokens: self.tokens,
            positions: Some(self.positions),
            types: self.types,
            width,
        };
        let mut layers: Vec<BoxedLayer> =
            vec![Box::new(Embedding::new(registry, "embedding", sizes))];
        let largest = width.max(feed_forward);
        registry.activation("the tokens of a text".to_owned(), &[length, largest]);
        if norm == NormPlan::After {
            layers.push(self.norm(registry, "embedding.norm"));
        }
        add_dropout(registry, "embedding.dropout", dropout, &mut layers);
        for block in 1..=depth {
            layers.extend(self.block(registry, block));
        }
        scale_residuals(registry, self.plan.residual_init);
        if norm == NormPlan::Before {
            layers.push(self.norm(registry, "norm"));
        }
        let pool = match self.plan.pool {
            TextPool::Mean => SequencePool::Mean,
            TextPool::First => SequencePool::First,
        };
        layers.push(Box::new(PoolSequence::new(registry, "pool", pool)));
        if let Some(activation) = self.head {
            let sizes =
                LinearSizes { inputs: width, outputs: width, bias: true, init: TRANSFORMER_INIT };
            layers.push(Box::new(Linear::with(registry, "head", sizes)));
            layers.push(Box::new(Activate::new(registry, "head.activation", activation)));
            add_dropout(registry, "head.dropout", dropout, &mut layers);
        }
        layers.push(Box::new(Linear::new(registry, "output", (width, outputs), false)));
        Sequential(layers)
    }

    /// Attention and two linear layers.
    fn block(&self, registry: &mut Registry, block: usize) -> [BoxedLayer; 2] {
        let EncoderPlan { width, heads, feed_forward, dropout, norm, .. } = self.plan;
        let place = match norm {
            NormPlan::Before => NormPlace::Before,
            NormPlan::After => NormPlace::After,
        };
        let sizes =
            AttentionSizes { width, heads, kv_heads: heads, causal: false, bias: true, rope: None };
        ["attention", "feed_forward"].map(|part| {
            let name = format!("block{block}.{part}");
            let mut body: Vec<BoxedLayer> = vec![if part == "attention" {
                let attention = Attention::new(registry, &name, sizes);
                Box::new(attention.with_dropout(self.plan.attention_dropout))
            } else {
                Box::new(FeedForward::new(registry, &name, (width, feed_forward), self.activation))
            }];
            add_dropout(registry, &format!("{name}.dropout"), dropout, &mut body);
            let norm = self.norm(registry, &format!("{name}.norm"));
            let body = Sequential(body);
            Box::new(NormResidual::new(registry, &name, place, (norm, body))) as BoxedLayer
        })
    }

    fn norm(&self, registry: &mut Registry, name: &str) -> BoxedLayer {
        Box::new(LayerNorm::new(registry, name, self.plan.width, self.epsilon))
    }
}

/// Multiplies the deviation of the initial weights that end what a block adds.
pub(super) fn scale_residuals(registry: &mut Registry, scale: f32) {
    for Parameter { name, init, .. } in &mut registry.parameters {
        let ends_a_block = name.ends_with(".attention.output.weight")
            || name.ends_with(".feed_forward.down.weight");
        if let (true, Init::Normal { deviation, .. }) = (ends_a_block, init) {
            *deviation *= scale;
        }
    }
}

pub(super) fn add_dropout(
    registry: &mut Registry,
    name: &str,
    p: f32,
    layers: &mut Vec<BoxedLayer>,
) {
    if p > 0.0 {
        layers.push(Box::new(Dropout::new(registry, name, p)));
    }
}
