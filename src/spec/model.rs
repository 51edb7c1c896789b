//! The plan of the model.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{finite, is_zero};

/// The model.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::ModelPlan;
///
/// // 3 n blocks of two convolutions, one convolution before them and a linear layer behind them: 6 n + 2 layers with weights.
/// let data = DataShape { shape: [3, 32, 32], vocabulary: None, outputs: 10, next_tokens: false };
/// let model = networks::model(&ModelPlan::Resnet { depth: 20, width: 16 }, &data)?;
/// let weights = model.parameters.iter().filter(|parameter| parameter.shape.len() > 1);
/// assert!(weights.count() >= 20);
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ModelPlan {
    /// Linear layers with an activation between.
    Mlp {
        /// Widths of the hidden layers; input and output follow from the data.
        hidden: Vec<usize>,
        /// Between the layers.
        activation: Activation,
        /// Probability of dropping a hidden activation, 0 ≤ p < 1.
        #[serde(deserialize_with = "finite")]
        dropout: f32,
    },
    /// The one of a task made in Rust; no spec can ask for it.
    Own {
        /// Parameters.
        parameters: usize,
        /// Their values.
        values: u64,
        /// SHA-256 of whose operations compute it, and of the names, shapes and initializations of the parameters, in hexadecimal
        /// digits.
        digest: String,
    },
    /// Blocks of convolution, optional batch norm, activation and pooling; then linear layers.
    Cnn {
        /// The blocks.
        blocks: Vec<ConvBlock>,
        /// Widths of the linear layers after them.
        hidden: Vec<usize>,
        /// After each convolution and hidden linear layer.
        activation: Activation,
        /// Batch norm after each convolution.
        batch_norm: bool,
        /// Probability of dropping before each linear layer.
        #[serde(deserialize_with = "finite")]
        dropout: f32,
    },
    /// The layers of a list, then a linear layer to the outputs.
    Layers {
        /// The layers.
        layers: Vec<LayerPlan>,
    },
    /// A transformer that classifies texts: an embedding, blocks of attention and linear layers, and the pooled result.
    Encoder(EncoderPlan),
    /// A transformer that predicts the next token of each position.
    Decoder(DecoderPlan),
    /// A checkpoint in the layout of Hugging Face's Transformers: an encoder (BERT, `DistilBERT`) or a decoder (GPT-2, Llama).
    Pretrained {
        /// The folder of `config.json` and `model.safetensors` or its shards, or `hub:OWNER/NAME`.
        folder: PathBuf,
        /// Probability of dropping what a block adds.
        #[serde(deserialize_with = "finite")]
        dropout: f32,
        /// Probability of dropping a probability of attention.
        #[serde(default, deserialize_with = "finite", skip_serializing_if = "is_zero")]
        attention_dropout: f32,
    },
    /// The CIFAR residual network of He et al. 2015, section 4.2.
    Resnet {
        /// 6n + 2.
        depth: usize,
        /// Channels of the first stage: 16 in the paper.
        width: usize,
    },
}

/// A transformer that classifies texts.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::{EncoderPlan, ModelPlan, NormPlan, TextPool};
///
/// let plan = EncoderPlan {
///     width: 32,
///     depth: 2,
///     heads: 4,
///     feed_forward: 64,
///     dropout: 0.1,
///     attention_dropout: 0.1,
///     norm: NormPlan::After,
///     pool: TextPool::First,
///     residual_init: 1.0,
/// };
/// // Texts of at most 16 tokens, in two classes.
/// let data = DataShape { shape: [1, 1, 16], vocabulary: Some(100), outputs: 2, next_tokens: false };
/// let model = networks::model(&ModelPlan::Encoder(plan), &data)?;
/// assert_eq!(model.parameters[0].shape, [100, 32], "a row for each token");
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EncoderPlan {
    /// Values of a token.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads of attention, which divide the width.
    pub heads: usize,
    /// Values between the linear layers of a block.
    pub feed_forward: usize,
    /// Probability of dropping what a block adds.
    #[serde(deserialize_with = "finite")]
    pub dropout: f32,
    /// Probability of dropping a probability of attention.
    #[serde(default, deserialize_with = "finite", skip_serializing_if = "is_zero")]
    pub attention_dropout: f32,
    /// Where the norm of a block is.
    pub norm: NormPlan,
    /// What is made of the tokens of a text.
    pub pool: TextPool,
    /// The deviation of the initial weights that end what a block adds, ÷ that of other weights.
    #[serde(deserialize_with = "finite")]
    pub residual_init: f32,
}

/// A transformer that predicts the next token of each position.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::{DecoderPlan, DecoderStyle, ModelPlan};
///
/// let plan = DecoderPlan {
///     width: 32,
///     depth: 2,
///     heads: 4,
///     kv_heads: 2,
///     feed_forward: 64,
///     dropout: 0.0,
///     attention_dropout: 0.0,
///     style: DecoderStyle::Llama,
///     residual_init: 1.0,
/// };
/// let data = DataShape { shape: [1, 1, 16], vocabulary: Some(100), outputs: 100, next_tokens: true };
/// let model = networks::model(&ModelPlan::Decoder(plan), &data)?;
/// assert_eq!(model.parameters[0].shape, [100, 32], "a row for each token");
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DecoderPlan {
    /// Values of a token.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads of attention, which divide the width.
    pub heads: usize,
    /// Heads of keys and values, which divide the heads.
    pub kv_heads: usize,
    /// Values between the linear layers of a block.
    pub feed_forward: usize,
    /// Probability of dropping what a block adds.
    #[serde(deserialize_with = "finite")]
    pub dropout: f32,
    /// Probability of dropping a probability of attention.
    #[serde(default, deserialize_with = "finite", skip_serializing_if = "is_zero")]
    pub attention_dropout: f32,
    /// Whose blocks they are.
    pub style: DecoderStyle,
    /// The deviation of the initial weights that end what a block adds, ÷ that of other weights.
    #[serde(deserialize_with = "finite")]
    pub residual_init: f32,
}

/// Whose blocks those of a decoder are.
///
/// ```
/// use mantissa::spec::DecoderStyle;
///
/// let style: DecoderStyle = serde_json::from_str("\"gpt2\"")?;
/// assert_eq!(style, DecoderStyle::Gpt2);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecoderStyle {
    /// GPT-2 (Radford et al. 2019): layer norm, GELU by tanh, learned positions, biases, and the embedding as the output's weight.
    Gpt2,
    /// Llama (Touvron et al. 2023, arXiv 2302.13971): RMS norm, `SwiGLU`, rotary positions, no biases.
    Llama,
}

/// Where the norm of a transformer's block is.
///
/// ```
/// use mantissa::spec::NormPlan;
///
/// let norm: NormPlan = serde_json::from_str("\"after\"")?;
/// assert_eq!(norm, NormPlan::After);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NormPlan {
    /// x + block(norm(x)), as in GPT-2.
    Before,
    /// norm(x + block(x)), as in BERT.
    After,
}

/// What is made of the tokens of a text.
///
/// ```
/// use mantissa::spec::TextPool;
///
/// let pool: TextPool = serde_json::from_str("\"first\"")?;
/// assert_eq!(pool, TextPool::First);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TextPool {
    /// The mean over all of them.
    Mean,
    /// The first.
    First,
}

/// One layer of a list. What it takes follows from the layer before it.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::{LayerPlan, ModelPlan};
///
/// let data = DataShape { shape: [1, 8, 8], vocabulary: None, outputs: 10, next_tokens: false };
/// let layers = vec![LayerPlan::Flatten, LayerPlan::Linear(32), LayerPlan::Relu];
/// let model = networks::model(&ModelPlan::Layers { layers }, &data)?;
/// // The layer to the outputs is added.
/// let values: usize = model.parameters.iter().map(|parameter| parameter.len()).sum();
/// assert_eq!(values, 64 * 32 + 32 + 32 * 10 + 10);
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LayerPlan {
    /// A fully connected layer with bias, of so many outputs; of images it takes the values of all channels and pixels.
    Linear(usize),
    /// A convolution.
    Conv(ConvPlan),
    /// Batch norm over the images of a batch and their pixels.
    BatchNorm,
    /// max(x, 0).
    Relu,
    /// x Φ(x), exact (erf).
    Gelu,
    /// x Φ(x) by its approximation with tanh.
    GeluTanh,
    /// tanh(x).
    Tanh,
    /// Largest of 2 × 2.
    MaxPool,
    /// Mean of 2 × 2.
    AvgPool,
    /// Mean over the whole image.
    GlobalAvgPool,
    /// An image as its values in one row.
    Flatten,
    /// Drops values with this probability, 0 ≤ p < 1.
    Dropout(#[serde(deserialize_with = "finite")] f32),
    /// These layers and x itself, added, then max(·, 0). Where the layers change the shape, x goes through a 1 × 1 convolution with
    /// batch norm, or through a linear layer.
    Residual(Vec<Self>),
}

/// A convolution of a list of layers.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::{ConvPlan, LayerPlan, ModelPlan};
///
/// let conv = ConvPlan { channels: 16, kernel: 3, stride: 1, padding: 1, dilation: 1, groups: 1, bias: false };
/// let layers = vec![LayerPlan::Conv(conv), LayerPlan::BatchNorm, LayerPlan::Relu, LayerPlan::GlobalAvgPool];
/// let data = DataShape { shape: [3, 32, 32], vocabulary: None, outputs: 10, next_tokens: false };
/// let model = networks::model(&ModelPlan::Layers { layers }, &data)?;
/// assert_eq!(model.parameters[0].shape, [16, 3, 3, 3]);
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConvPlan {
    /// Output channels.
    pub channels: usize,
    /// Side of the square kernel.
    pub kernel: usize,
    /// Step of the kernel.
    pub stride: usize,
    /// Zero padding on every side.
    pub padding: usize,
    /// Distance between kernel elements.
    pub dilation: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Whether it adds a bias a channel.
    pub bias: bool,
}

/// One block of a convolutional network.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::{Activation, ConvBlock, ModelPlan, Pool};
///
/// let block = ConvBlock { channels: 8, kernel: 3, stride: 1, padding: 1, dilation: 1, groups: 1, pool: Pool::Max };
/// let plan = ModelPlan::Cnn {
///     blocks: vec![block, ConvBlock { channels: 16, ..block }],
///     hidden: vec![],
///     activation: Activation::Relu,
///     batch_norm: false,
///     dropout: 0.0,
/// };
/// let data = DataShape { shape: [1, 28, 28], vocabulary: None, outputs: 10, next_tokens: false };
/// let model = networks::model(&plan, &data)?;
/// // 28 × 28 pixels are halved twice.
/// assert!(model.parameters.iter().any(|parameter| parameter.shape == [10, 16 * 7 * 7]));
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConvBlock {
    /// Output channels.
    pub channels: usize,
    /// Side of the square kernel.
    pub kernel: usize,
    /// Step of the kernel.
    pub stride: usize,
    /// Zero padding on every side.
    pub padding: usize,
    /// Distance between kernel elements.
    pub dilation: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Pooling after the activation.
    pub pool: Pool,
}

/// Pooling, 2 × 2 with stride 2, or over the whole image.
///
/// ```
/// use mantissa::spec::Pool;
///
/// let pool: Pool = serde_json::from_str("\"avg\"")?;
/// assert_eq!(pool, Pool::Avg);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// None.
    None,
    /// Largest of 2 × 2.
    Max,
    /// Mean of 2 × 2.
    Avg,
    /// Mean over the whole image.
    Global,
}

/// A non-linearity.
///
/// ```
/// use mantissa::spec::Activation;
///
/// let activation: Activation = serde_json::from_str("\"gelu_tanh\"")?;
/// assert_eq!(activation, Activation::GeluTanh);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x Φ(x), exact (erf).
    Gelu,
    /// x Φ(x) by its approximation with tanh, as in GPT-2.
    #[serde(rename = "gelu_tanh")]
    GeluTanh,
    /// tanh(x).
    Tanh,
}
