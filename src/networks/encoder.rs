//! A transformer that classifies texts: embeddings of tokens and positions, blocks of attention and two linear layers (Vaswani et al.
//! 2017, arXiv 1706.03762), and a linear layer on the pooled result. With the norm behind, as BERT (Devlin et al. 2018, arXiv 1810.04805).

use crate::layers::{
    Attention, AttentionSizes, BoxedLayer, Dropout, Embedding, EmbeddingSizes, FeedForward,
    LayerNorm, Linear, NormPlace, NormResidual, PoolSequence, Registry, SequencePool, Sequential,
};
use crate::spec::{ModelPlan, NormPlan, TextPool};

/// What is added to a variance before its root is taken: that of BERT.
const EPS: f32 = 1e-12;

/// The layers of an encoder for texts of a vocabulary and at most so many tokens.
pub(super) fn layers(
    registry: &mut Registry,
    plan: &ModelPlan,
    (vocabulary, length): (usize, usize),
    outputs: usize,
) -> Sequential {
    let ModelPlan::Encoder { width, depth, heads, feed_forward, dropout, norm, pool } = *plan
    else {
        return Sequential::default();
    };
    let sizes = EmbeddingSizes { tokens: vocabulary, positions: Some(length), types: None, width };
    let mut layers: Vec<BoxedLayer> = vec![Box::new(Embedding::new(registry, "embedding", sizes))];
    registry.activation("the tokens of a text".to_owned(), &[length, width.max(feed_forward)]);
    if norm == NormPlan::After {
        layers.push(Box::new(LayerNorm::new(registry, "embedding.norm", width, EPS)));
    }
    add_dropout(registry, "embedding.dropout", dropout, &mut layers);
    let place = match norm {
        NormPlan::Before => NormPlace::Before,
        NormPlan::After => NormPlace::After,
    };
    for block in 1..=depth {
        let attention =
            AttentionSizes { width, heads, kv_heads: heads, causal: false, bias: true, rope: None };
        let name = format!("block{block}.attention");
        let mut body: Vec<BoxedLayer> = vec![Box::new(Attention::new(registry, &name, attention))];
        add_dropout(registry, &format!("{name}.dropout"), dropout, &mut body);
        let norm = Box::new(LayerNorm::new(registry, &format!("{name}.norm"), width, EPS));
        layers.push(Box::new(NormResidual::new(registry, &name, place, (norm, Sequential(body)))));

        let name = format!("block{block}.feed_forward");
        let mut body: Vec<BoxedLayer> =
            vec![Box::new(FeedForward::gelu(registry, &name, (width, feed_forward)))];
        add_dropout(registry, &format!("{name}.dropout"), dropout, &mut body);
        let norm = Box::new(LayerNorm::new(registry, &format!("{name}.norm"), width, EPS));
        layers.push(Box::new(NormResidual::new(registry, &name, place, (norm, Sequential(body)))));
    }
    if norm == NormPlan::Before {
        layers.push(Box::new(LayerNorm::new(registry, "norm", width, EPS)));
    }
    let pool = match pool {
        TextPool::Mean => SequencePool::Mean,
        TextPool::First => SequencePool::First,
    };
    layers.push(Box::new(PoolSequence::new(registry, "pool", pool)));
    layers.push(Box::new(Linear::new(registry, "output", (width, outputs), false)));
    Sequential(layers)
}

fn add_dropout(registry: &mut Registry, name: &str, p: f32, layers: &mut Vec<BoxedLayer>) {
    if p > 0.0 {
        layers.push(Box::new(Dropout::new(registry, name, p)));
    }
}
