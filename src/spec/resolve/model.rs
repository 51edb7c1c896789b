//! The `[model]` of a spec.

use super::data::{self, CIFAR_SIDE};
use super::{Checked, at_most, below_one, defaults, limits, positive, refuse, whole};
use crate::spec::typed::{
    BlockSpec, ConvSpec, DecoderSize, DecoderSpec, EncoderSize, EncoderSpec, LayerSpec, ModelSpec,
};
use crate::spec::{
    ConvBlock, ConvPlan, DataPlan, DecoderPlan, DecoderStyle, EncoderPlan, LayerPlan, ModelPlan,
    NormPlan, Pool, TextPool,
};

/// What is known of a sample before its file is read: channels, and the side where it is square.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    channels: Option<usize>,
    side: Option<usize>,
}

impl Shape {
    pub(super) fn of(data: &DataPlan) -> Self {
        let (channels, side) = match data {
            DataPlan::Digits { .. } => (Some(1), Some(28)),
            DataPlan::Idx { .. } => (Some(1), None),
            DataPlan::Cifar10 { .. } | DataPlan::Cifar100 { .. } => (Some(3), Some(CIFAR_SIDE)),
            DataPlan::ImageFolder { .. }
            | DataPlan::Npy { .. }
            | DataPlan::Csv { .. }
            | DataPlan::Text { .. }
            | DataPlan::PlainText { .. }
            | DataPlan::Own { .. } => (None, None),
        };
        Self { channels, side }
    }
}

pub(super) fn resolve(spec: ModelSpec, image: Shape) -> Checked<ModelPlan> {
    Ok(match spec {
        ModelSpec::Mlp { hidden, activation, dropout } => ModelPlan::Mlp {
            hidden: widths(hidden)?,
            activation: activation.unwrap_or(defaults::ACTIVATION),
            dropout: below_one("model.dropout", dropout.unwrap_or(defaults::DROPOUT))?,
        },
        ModelSpec::Cnn { blocks: typed, hidden, activation, batch_norm, dropout } => {
            ModelPlan::Cnn {
                blocks: blocks(&typed, image)?,
                hidden: widths(hidden)?,
                activation: activation.unwrap_or(defaults::ACTIVATION),
                batch_norm: batch_norm.unwrap_or(defaults::BATCH_NORM),
                dropout: below_one("model.dropout", dropout.unwrap_or(defaults::DROPOUT))?,
            }
        }
        ModelSpec::Layers { layers: typed } => {
            ModelPlan::Layers { layers: layers("model.layers", typed, 0)? }
        }
        ModelSpec::Encoder(spec) => ModelPlan::Encoder(encoder(spec)?),
        ModelSpec::Decoder(spec) => ModelPlan::Decoder(decoder(spec)?),
        ModelSpec::Pretrained { folder, dropout, attention_dropout: of_attention } => {
            data::hub_repository("model.folder", &folder)?;
            ModelPlan::Pretrained {
                folder,
                dropout: below_one("model.dropout", dropout.unwrap_or(defaults::DROPOUT))?,
                attention_dropout: attention_dropout(of_attention)?,
            }
        }
        ModelSpec::Resnet { depth, width } => ModelPlan::Resnet {
            depth: resnet_depth(depth)?,
            width: whole(
                "model.width",
                width.unwrap_or(defaults::RESNET_WIDTH),
                1..=limits::WIDTH,
            )?,
        },
    })
}

/// Sizes of a transformer's blocks.
#[derive(Clone, Copy)]
struct Sizes {
    width: usize,
    depth: usize,
    heads: usize,
}

impl Sizes {
    /// BERT-Tiny and BERT-Mini of Turc et al. 2019, arXiv 1908.08962.
    const TINY: Self = Self { width: 128, depth: 2, heads: 2 };
    const MINI: Self = Self { width: 256, depth: 4, heads: 4 };
    const DISTILBERT: Self = Self { width: 768, depth: 6, heads: 12 };
    const GPT2: Self = Self { width: 768, depth: 12, heads: 12 };

    /// What a spec gives, and else what the size has that it names.
    fn of(named: Option<Self>, [width, depth, heads]: [Option<usize>; 3]) -> Checked<Self> {
        let size = |key, given: Option<usize>, of: fn(Self) -> usize, most| {
            let path = format!("model.{key}");
            match given.or(named.map(of)) {
                Some(size) => whole(&path, size, 1..=most),
                None => refuse("model", format!("missing key {key:?}; give it, or size")),
            }
        };
        let sizes = Self {
            width: size("width", width, |sizes| sizes.width, limits::WIDTH)?,
            depth: size("depth", depth, |sizes| sizes.depth, limits::LAYERS)?,
            heads: size("heads", heads, |sizes| sizes.heads, limits::WIDTH)?,
        };
        let Self { width, heads, .. } = sizes;
        if !width.is_multiple_of(heads) {
            let what = format!("is {heads}, which does not divide the width, {width}");
            return refuse("model.heads", what);
        }
        Ok(sizes)
    }
}

fn encoder(spec: EncoderSpec) -> Checked<EncoderPlan> {
    let EncoderSpec { size, width, depth, heads, feed_forward, dropout, .. } = spec;
    let named = size.map(|size| match size {
        EncoderSize::Tiny => Sizes::TINY,
        EncoderSize::Mini => Sizes::MINI,
        EncoderSize::DistilBert => Sizes::DISTILBERT,
    });
    // DistilBERT's blocks are BERT's.
    let (norm_there, pool_there) = match size {
        Some(EncoderSize::DistilBert) => (NormPlan::After, TextPool::First),
        _ => (defaults::NORM, defaults::TEXT_POOL),
    };
    let Sizes { width, depth, heads } = Sizes::of(named, [width, depth, heads])?;
    let feed_forward =
        feed_forward.unwrap_or_else(|| limits::WIDTH.min(defaults::FEED_FORWARD * width));
    Ok(EncoderPlan {
        width,
        depth,
        heads,
        feed_forward: whole("model.feed_forward", feed_forward, 1..=limits::WIDTH)?,
        dropout: below_one("model.dropout", dropout.unwrap_or(defaults::DROPOUT))?,
        attention_dropout: attention_dropout(spec.attention_dropout)?,
        norm: spec.norm.unwrap_or(norm_there),
        pool: spec.pool.unwrap_or(pool_there),
        residual_init: residual_init(spec.residual_init)?,
    })
}

fn decoder(spec: DecoderSpec) -> Checked<DecoderPlan> {
    let DecoderSpec { size, width, depth, heads, kv_heads, feed_forward, dropout, style, .. } =
        spec;
    let named = size.map(|size| match size {
        DecoderSize::Tiny => Sizes::TINY,
        DecoderSize::Mini => Sizes::MINI,
        DecoderSize::Gpt2 => Sizes::GPT2,
    });
    let Sizes { width, depth, heads } = Sizes::of(named, [width, depth, heads])?;
    let style = style.unwrap_or(defaults::DECODER_STYLE);
    if style == DecoderStyle::Llama && !(width / heads).is_multiple_of(2) {
        let what = format!(
            "makes heads of {} values, and rotary positions take an even number",
            width / heads
        );
        return refuse("model.heads", what);
    }
    let kv_heads = whole("model.kv_heads", kv_heads.unwrap_or(heads), 1..=heads)?;
    if !heads.is_multiple_of(kv_heads) {
        let what = format!("is {kv_heads}, which does not divide the heads, {heads}");
        return refuse("model.kv_heads", what);
    }
    let feed_forward = feed_forward.unwrap_or_else(|| {
        let size = match style {
            DecoderStyle::Gpt2 => defaults::FEED_FORWARD * width,
            DecoderStyle::Llama => (8 * width).div_ceil(3).next_multiple_of(8),
        };
        limits::WIDTH.min(size)
    });
    Ok(DecoderPlan {
        width,
        depth,
        heads,
        kv_heads,
        feed_forward: whole("model.feed_forward", feed_forward, 1..=limits::WIDTH)?,
        dropout: below_one("model.dropout", dropout.unwrap_or(defaults::DROPOUT))?,
        attention_dropout: attention_dropout(spec.attention_dropout)?,
        style,
        residual_init: residual_init(spec.residual_init)?,
    })
}

fn attention_dropout(given: Option<f32>) -> Checked<f32> {
    below_one("model.attention_dropout", given.unwrap_or(defaults::DROPOUT))
}

fn residual_init(given: Option<f32>) -> Checked<f32> {
    let given = given.unwrap_or(defaults::RESIDUAL_INIT);
    positive("model.residual_init", f64::from(given)).map(|given| given as f32)
}

/// Checks each layer by itself; whether they fit each other and the data is seen when the model is made.
fn layers(key: &str, typed: Vec<LayerSpec>, depth: usize) -> Checked<Vec<LayerPlan>> {
    at_most(key, typed.len(), limits::LAYERS, "layers")?;
    if depth > limits::NESTED {
        return refuse(key, format!("is nested {depth} times; at most {}", limits::NESTED));
    }
    let layer = |(i, typed): (usize, LayerSpec)| layer(&format!("{key}[{i}]"), typed, depth);
    typed.into_iter().enumerate().map(layer).collect()
}

fn layer(key: &str, typed: LayerSpec, depth: usize) -> Checked<LayerPlan> {
    Ok(match typed {
        LayerSpec::Linear(width) => {
            LayerPlan::Linear(whole(&format!("{key}.linear"), width, 1..=limits::WIDTH)?)
        }
        LayerSpec::Conv(typed) => LayerPlan::Conv(convolution(&format!("{key}.conv"), typed)?),
        LayerSpec::BatchNorm => LayerPlan::BatchNorm,
        LayerSpec::Relu => LayerPlan::Relu,
        LayerSpec::Gelu => LayerPlan::Gelu,
        LayerSpec::GeluTanh => LayerPlan::GeluTanh,
        LayerSpec::Tanh => LayerPlan::Tanh,
        LayerSpec::MaxPool => LayerPlan::MaxPool,
        LayerSpec::AvgPool => LayerPlan::AvgPool,
        LayerSpec::GlobalAvgPool => LayerPlan::GlobalAvgPool,
        LayerSpec::Flatten => LayerPlan::Flatten,
        LayerSpec::Dropout(p) => LayerPlan::Dropout(below_one(&format!("{key}.dropout"), p)?),
        LayerSpec::Residual(inner) => {
            let key = format!("{key}.residual");
            if inner.is_empty() {
                return refuse(key, "is empty; give at least one layer");
            }
            LayerPlan::Residual(layers(&key, inner, depth + 1)?)
        }
    })
}

fn convolution(key: &str, typed: ConvSpec) -> Checked<ConvPlan> {
    let size = |name, value: Option<usize>, default, least| {
        let value = value.unwrap_or(default);
        whole(&format!("{key}.{name}"), value, least..=limits::KERNEL)
    };
    let channels = |name, value| whole(&format!("{key}.{name}"), value, 1..=limits::WIDTH);
    Ok(ConvPlan {
        channels: channels("channels", typed.channels)?,
        kernel: size("kernel", typed.kernel, defaults::KERNEL, 1)?,
        stride: size("stride", typed.stride, defaults::ONE, 1)?,
        padding: size("padding", typed.padding, defaults::PADDING, 0)?,
        dilation: size("dilation", typed.dilation, defaults::ONE, 1)?,
        groups: channels("groups", typed.groups.unwrap_or(defaults::ONE))?,
        bias: typed.bias.unwrap_or(defaults::BIAS),
    })
}

fn widths(hidden: Vec<usize>) -> Checked<Vec<usize>> {
    at_most("model.hidden", hidden.len(), limits::LAYERS, "layers")?;
    for (i, &width) in hidden.iter().enumerate() {
        whole(&format!("model.hidden[{i}]"), width, 1..=limits::WIDTH)?;
    }
    Ok(hidden)
}

fn resnet_depth(depth: usize) -> Checked<usize> {
    if (8..=limits::RESNET_DEPTH).contains(&depth) && depth % 6 == 2 {
        return Ok(depth);
    }
    let below = (depth.clamp(8, limits::RESNET_DEPTH) - 2) / 6 * 6 + 2;
    let nearest = if below == depth.clamp(8, limits::RESNET_DEPTH) {
        format!("nearest: {below}")
    } else {
        format!("nearest: {below} and {}", below + 6)
    };
    refuse(
        "model.depth",
        format!("is {depth}; must be 6n+2, from 8 to {} ({nearest})", limits::RESNET_DEPTH),
    )
}

fn blocks(typed: &[BlockSpec], mut image: Shape) -> Checked<Vec<ConvBlock>> {
    if typed.is_empty() {
        return refuse("model.blocks", "is empty; give at least one block, or kind = \"mlp\"");
    }
    at_most("model.blocks", typed.len(), limits::LAYERS, "blocks")?;
    let mut blocks = Vec::with_capacity(typed.len());
    for (i, typed) in typed.iter().enumerate() {
        let key = format!("model.blocks[{i}]");
        let block = block(&key, typed, image.channels)?;
        image = after(&key, block, image)?;
        blocks.push(block);
    }
    Ok(blocks)
}

fn block(key: &str, typed: &BlockSpec, channels_in: Option<usize>) -> Checked<ConvBlock> {
    let size = |name, value: Option<usize>, default, least| {
        let value = value.unwrap_or(default);
        whole(&format!("{key}.{name}"), value, least..=limits::KERNEL)
    };
    let block = ConvBlock {
        channels: whole(&format!("{key}.channels"), typed.channels, 1..=limits::WIDTH)?,
        kernel: size("kernel", typed.kernel, defaults::KERNEL, 1)?,
        stride: size("stride", typed.stride, defaults::ONE, 1)?,
        padding: size("padding", typed.padding, defaults::PADDING, 0)?,
        dilation: size("dilation", typed.dilation, defaults::ONE, 1)?,
        groups: whole(
            &format!("{key}.groups"),
            typed.groups.unwrap_or(defaults::ONE),
            1..=limits::WIDTH,
        )?,
        pool: typed.pool.unwrap_or(defaults::POOL),
    };
    for (side, channels) in [("input", channels_in), ("output", Some(block.channels))] {
        if let Some(channels) = channels
            && !channels.is_multiple_of(block.groups)
        {
            return refuse(
                format!("{key}.groups"),
                format!("{} groups do not divide the {channels} {side} channels", block.groups),
            );
        }
    }
    Ok(block)
}

/// Batch norm of one value a channel trains nothing. Where the side of the images is not known yet, the model looks again once
/// it is; the smallest images that are known end as 7 × 7 in a residual network.
pub(super) fn normalized(model: &ModelPlan, batch: usize, mut image: Shape) -> Checked<()> {
    let ModelPlan::Cnn { blocks, batch_norm: true, .. } = model else {
        return Ok(());
    };
    for (i, block) in blocks.iter().enumerate() {
        let key = format!("model.blocks[{i}]");
        let convolution = ConvBlock { pool: Pool::None, ..*block };
        if batch == 1 && after(&key, convolution, image)?.side == Some(1) {
            return refuse(
                "train.batch",
                format!(
                    "is 1, and the convolution of {key} leaves 1 × 1 pixels of an image: batch norm needs more than one value \
                     a channel; choose 2 or more"
                ),
            );
        }
        image = after(&key, *block, image)?;
    }
    Ok(())
}

/// The shape behind a block, or an error where the image is too small for it.
fn after(key: &str, block: ConvBlock, image: Shape) -> Checked<Shape> {
    let channels = Some(block.channels);
    let Some(side) = image.side else {
        return Ok(Shape { channels, side: None });
    };
    let span = block.dilation * (block.kernel - 1) + 1;
    let padded = side + 2 * block.padding;
    if span > padded {
        return refuse(
            format!("{key}.kernel"),
            format!(
                "spans {span} pixels, but its input has only {side} and {} of padding on each side",
                block.padding
            ),
        );
    }
    let convolved = (padded - span) / block.stride + 1;
    let side = match block.pool {
        Pool::None => convolved,
        Pool::Global => 1,
        Pool::Max | Pool::Avg if convolved >= 2 => convolved / 2,
        Pool::Max | Pool::Avg => {
            return refuse(
                format!("{key}.pool"),
                "its input is 1 pixel wide; 2 × 2 pooling needs at least 2",
            );
        }
    };
    Ok(Shape { channels, side: Some(side) })
}

#[cfg(test)]
mod tests {
    use crate::spec::{DEFAULT, DecoderPlan, DecoderStyle, ModelPlan, Overrides, Plan};

    fn read(model: &str) -> Result<ModelPlan, String> {
        let kind = if model.contains("decoder") { "plain-text" } else { "text" };
        let data = format!("data={{kind='{kind}',train='a.csv',test='b.csv'}}");
        let set = vec![data, format!("model={model}")];
        let overrides = Overrides { set, ..Overrides::default() };
        let plan = Plan::read("default.toml", DEFAULT, &overrides);
        plan.map(|plan| plan.model).map_err(|error| error.what)
    }

    #[test]
    fn a_named_size_is_the_default_of_its_keys() {
        let sizes = |model: &str| match read(model).unwrap() {
            ModelPlan::Encoder(plan) => [plan.width, plan.depth, plan.heads, plan.feed_forward],
            ModelPlan::Decoder(plan) => [plan.width, plan.depth, plan.heads, plan.feed_forward],
            other => panic!("{other:?}"),
        };
        for (model, expected) in [
            ("{kind='encoder',size='tiny'}", [128, 2, 2, 512]),
            ("{kind='encoder',size='mini'}", [256, 4, 4, 1024]),
            ("{kind='encoder',size='distilbert'}", [768, 6, 12, 3072]),
            ("{kind='decoder',size='gpt2'}", [768, 12, 12, 3072]),
            ("{kind='decoder',size='tiny',depth=3}", [128, 3, 2, 512]),
            ("{kind='encoder',width=6,depth=1,heads=3}", [6, 1, 3, 24]),
        ] {
            assert_eq!(sizes(model), expected, "{model}");
        }
        let llama = read("{kind='decoder',width=16,depth=1,heads=4,kv_heads=2,style='llama'}");
        // 8/3 of 16 is 42.7.
        let expected = DecoderPlan {
            width: 16,
            depth: 1,
            heads: 4,
            kv_heads: 2,
            feed_forward: 48,
            dropout: 0.0,
            attention_dropout: 0.0,
            style: DecoderStyle::Llama,
            residual_init: 1.0,
        };
        assert_eq!(llama, Ok(ModelPlan::Decoder(expected)));
        let dropout = |model: &str| match read(model) {
            Ok(ModelPlan::Encoder(plan)) => plan.attention_dropout,
            Ok(ModelPlan::Decoder(plan)) => plan.attention_dropout,
            Ok(ModelPlan::Pretrained { attention_dropout, .. }) => attention_dropout,
            other => panic!("{other:?}"),
        };
        for kind in [
            "kind='encoder',size='tiny'",
            "kind='decoder',size='tiny'",
            "kind='pretrained',folder='x'",
        ] {
            assert!(dropout(&format!("{{{kind}}}")) == 0.0, "{kind}");
            let given = dropout(&format!("{{{kind},attention_dropout=0.25}}"));
            assert!((given - 0.25).abs() < 1e-9, "{kind}: {given}");
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_errors() {
        for (model, message) in [
            (
                "{kind='encoder',size='tiny',attention_dropout=1.0}",
                "model.attention_dropout: is 1; must be 0 or more and below 1",
            ),
            ("{kind='encoder',depth=1,heads=1}", "model: missing key \"width\"; give it, or size"),
            (
                "{kind='decoder',size='tiny',heads=3}",
                "model.heads: is 3, which does not divide the width, 128",
            ),
            ("{kind='decoder',size='tiny',kv_heads=3}", "model.kv_heads: is 3; must be 1 to 2"),
            (
                "{kind='decoder',size='mini',kv_heads=3}",
                "model.kv_heads: is 3, which does not divide the heads, 4",
            ),
            (
                "{kind='decoder',width=6,depth=1,heads=2,style='llama'}",
                "model.heads: makes heads of 3 values, and rotary positions take an even number",
            ),
        ] {
            assert_eq!(read(model).unwrap_err(), message, "{model}");
        }
    }
}
