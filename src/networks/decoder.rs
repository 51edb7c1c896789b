//! A transformer that predicts the next token of each position from those up to it: GPT-2 (Radford et al. 2019) and Llama (Touvron et
//! al. 2023, arXiv 2302.13971).

use super::encoder::{add_dropout, scale_residuals};
use crate::layers::{
    Attention, AttentionSizes, BoxedLayer, EachPosition, Embedding, EmbeddingSizes, FeedForward,
    LayerNorm, Linear, LinearSizes, NormPlace, NormResidual, Registry, RmsNorm, Sequential,
    TRANSFORMER_INIT,
};
use crate::spec::{Activation, DecoderPlan, DecoderStyle};

/// What a decoder is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Decoder {
    pub(super) plan: DecoderPlan,
    /// Rows of the embedding, one a token, and outputs of a position.
    pub(super) tokens: usize,
    /// Most tokens of a sequence: of learned positions there is a row each.
    pub(super) positions: usize,
    /// Between the linear layers of a block of GPT-2.
    pub(super) activation: Activation,
    /// Whether the embedding is the output's weight.
    pub(super) tied: bool,
    /// What is added to a variance, or a mean square, before its root is taken.
    pub(super) epsilon: f32,
    /// The base of Llama's rotary positions.
    pub(super) rope: f64,
}

impl Decoder {
    /// That of a plan, for sequences of a vocabulary and so many tokens.
    pub(super) fn of_plan(plan: DecoderPlan, tokens: usize, positions: usize) -> Self {
        let tied = plan.style == DecoderStyle::Gpt2;
        let (activation, epsilon, rope) = (Activation::GeluTanh, 1e-5, 10_000.0);
        Self { plan, tokens, positions, activation, tied, epsilon, rope }
    }

    /// Its layers, for sequences of so many tokens: N × T become (N T) × as many logits as there are tokens.
    pub(super) fn layers(&self, registry: &mut Registry, length: usize) -> Sequential {
        let DecoderPlan { width, depth, feed_forward, dropout, style, .. } = self.plan;
        let positions = (style == DecoderStyle::Gpt2).then_some(self.positions);
        let sizes = EmbeddingSizes { tokens: self.tokens, positions, types: None, width };
        let embedding = Embedding::new(registry, "embedding", sizes);
        let rows = embedding.tokens();
        let mut layers: Vec<BoxedLayer> = vec![Box::new(embedding)];
        let largest = width.max(feed_forward).max(self.tokens);
        registry.activation("the tokens of a sequence".to_owned(), &[length, largest]);
        add_dropout(registry, "embedding.dropout", dropout, &mut layers);
        for block in 1..=depth {
            layers.extend(self.block(registry, block));
        }
        scale_residuals(registry, self.plan.residual_init);
        layers.push(self.norm(registry, "norm"));
        layers.push(Box::new(EachPosition));
        let output = if self.tied {
            Linear::sharing(registry, "output", rows)
        } else {
            let (inputs, outputs) = (width, self.tokens);
            let sizes = LinearSizes { inputs, outputs, bias: false, init: TRANSFORMER_INIT };
            Linear::with(registry, "output", sizes)
        };
        layers.push(Box::new(output));
        Sequential(layers)
    }

    /// Attention and linear layers.
    fn block(&self, registry: &mut Registry, block: usize) -> [BoxedLayer; 2] {
        let DecoderPlan { width, heads, kv_heads, feed_forward, dropout, style, .. } = self.plan;
        let (bias, rope) = match style {
            DecoderStyle::Gpt2 => (true, None),
            DecoderStyle::Llama => (false, Some(self.rope)),
        };
        let sizes = AttentionSizes { width, heads, kv_heads, causal: true, bias, rope };
        ["attention", "feed_forward"].map(|part| {
            let name = format!("block{block}.{part}");
            let mut body: Vec<BoxedLayer> = vec![match (part, style) {
                ("attention", _) => {
                    let attention = Attention::new(registry, &name, sizes);
                    Box::new(attention.with_dropout(self.plan.attention_dropout))
                }
                (_, DecoderStyle::Gpt2) => {
                    let sizes = (width, feed_forward);
                    Box::new(FeedForward::new(registry, &name, sizes, self.activation))
                }
                (_, DecoderStyle::Llama) => {
                    Box::new(FeedForward::swiglu(registry, &name, (width, feed_forward)))
                }
            }];
            add_dropout(registry, &format!("{name}.dropout"), dropout, &mut body);
            let norm = self.norm(registry, &format!("{name}.norm"));
            let parts = (norm, Sequential(body));
            Box::new(NormResidual::new(registry, &name, NormPlace::Before, parts)) as BoxedLayer
        })
    }

    fn norm(&self, registry: &mut Registry, name: &str) -> BoxedLayer {
        match self.plan.style {
            DecoderStyle::Gpt2 => {
                Box::new(LayerNorm::new(registry, name, self.plan.width, self.epsilon))
            }
            DecoderStyle::Llama => {
                Box::new(RmsNorm::new(registry, name, self.plan.width, self.epsilon))
            }
        }
    }
}
