//! The spec as it is typed in TOML: every key once, with its type; what may be left out is an `Option`.
//!
//! `kind = "…"` beside other keys names the variant of an enum; `source` has moved it outside them by the time serde
//! sees it, so that errors keep their place in the file.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    Activation, Augment, ControlKind, DecoderStyle, NormPlan, Pool, ScheduleKind, TableTask,
    TextPool,
};

/// An experiment as typed: not validated, defaults not filled in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub(super) name: String,
    /// None where a task brings its own.
    pub(super) data: Option<DataSpec>,
    /// None where a task brings its own.
    pub(super) model: Option<ModelSpec>,
    pub(super) train: TrainSpec,
    #[serde(default)]
    pub(super) measure: MeasureSpec,
    pub(super) init: Option<PathBuf>,
    pub(super) baseline: Option<String>,
    pub(super) variants: Vec<VariantSpec>,
    pub(super) seeds: Option<SeedsSpec>,
    #[serde(default)]
    pub(super) controls: Vec<ControlKind>,
    #[serde(default)]
    pub(super) claims: ClaimsSpec,
    pub(super) reference: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum DataSpec {
    Digits {
        train: Option<usize>,
        test: Option<usize>,
        seed: Option<u64>,
    },
    Idx {
        train_images: PathBuf,
        train_labels: PathBuf,
        test_images: Option<PathBuf>,
        test_labels: Option<PathBuf>,
        held_out: Option<usize>,
    },
    Cifar10 {
        path: PathBuf,
        #[serde(default)]
        augment: Augment,
    },
    Cifar100 {
        path: PathBuf,
        #[serde(default)]
        augment: Augment,
    },
    #[serde(rename = "image-folder")]
    ImageFolder {
        path: PathBuf,
        resize: Option<Vec<usize>>,
        test_share: Option<f64>,
        seed: Option<u64>,
        #[serde(default)]
        augment: Augment,
    },
    Npy {
        archive: Option<PathBuf>,
        train_inputs: PathBuf,
        train_targets: PathBuf,
        test_inputs: Option<PathBuf>,
        test_targets: Option<PathBuf>,
        test_share: Option<f64>,
        seed: Option<u64>,
        task: Option<TableTask>,
    },
    Csv {
        train: PathBuf,
        test: Option<PathBuf>,
        test_share: Option<f64>,
        seed: Option<u64>,
        target: String,
        features: Option<Vec<String>>,
        task: Option<TableTask>,
    },
    Text(TextSpec),
    #[serde(rename = "plain-text")]
    PlainText(PlainTextSpec),
}

impl DataSpec {
    /// Whether it asks for a tokenizer to be made.
    pub(super) fn makes_tokens(&self) -> bool {
        match self {
            Self::Text(TextSpec { vocabulary, .. })
            | Self::PlainText(PlainTextSpec { vocabulary, .. }) => vocabulary.is_some(),
            _ => false,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlainTextSpec {
    pub(super) train: PathBuf,
    pub(super) test: Option<PathBuf>,
    pub(super) test_share: Option<f64>,
    pub(super) length: Option<usize>,
    pub(super) tokenizer: Option<PathBuf>,
    pub(super) vocabulary: Option<usize>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TextSpec {
    pub(super) source: Option<PathBuf>,
    pub(super) train: Option<PathBuf>,
    pub(super) test: Option<PathBuf>,
    pub(super) test_share: Option<f64>,
    pub(super) seed: Option<u64>,
    pub(super) text: Option<String>,
    pub(super) target: Option<String>,
    pub(super) length: Option<usize>,
    pub(super) tokenizer: Option<PathBuf>,
    pub(super) vocabulary: Option<usize>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum ModelSpec {
    Mlp {
        hidden: Vec<usize>,
        activation: Option<Activation>,
        dropout: Option<f32>,
    },
    Cnn {
        blocks: Vec<BlockSpec>,
        hidden: Vec<usize>,
        activation: Option<Activation>,
        batch_norm: Option<bool>,
        dropout: Option<f32>,
    },
    Encoder(EncoderSpec),
    Decoder(DecoderSpec),
    Pretrained {
        folder: PathBuf,
        dropout: Option<f32>,
        attention_dropout: Option<f32>,
    },
    Resnet {
        depth: usize,
        width: Option<usize>,
    },
    Layers {
        layers: Vec<LayerSpec>,
    },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EncoderSpec {
    pub(super) size: Option<EncoderSize>,
    pub(super) width: Option<usize>,
    pub(super) depth: Option<usize>,
    pub(super) heads: Option<usize>,
    pub(super) feed_forward: Option<usize>,
    pub(super) dropout: Option<f32>,
    pub(super) attention_dropout: Option<f32>,
    pub(super) norm: Option<NormPlan>,
    pub(super) pool: Option<TextPool>,
    pub(super) residual_init: Option<f32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DecoderSpec {
    pub(super) size: Option<DecoderSize>,
    pub(super) width: Option<usize>,
    pub(super) depth: Option<usize>,
    pub(super) heads: Option<usize>,
    pub(super) kv_heads: Option<usize>,
    pub(super) feed_forward: Option<usize>,
    pub(super) dropout: Option<f32>,
    pub(super) attention_dropout: Option<f32>,
    pub(super) style: Option<DecoderStyle>,
    pub(super) residual_init: Option<f32>,
}

/// The names of an encoder's sizes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum EncoderSize {
    Tiny,
    Mini,
    DistilBert,
}

/// The names of a decoder's sizes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DecoderSize {
    Tiny,
    Mini,
    Gpt2,
}

/// One layer of a list: a bare name, or a table of one key with its settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LayerSpec {
    Linear(usize),
    Conv(ConvSpec),
    BatchNorm,
    Relu,
    Gelu,
    GeluTanh,
    Tanh,
    MaxPool,
    AvgPool,
    GlobalAvgPool,
    Flatten,
    Dropout(f32),
    Residual(Vec<Self>),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConvSpec {
    pub(super) channels: usize,
    pub(super) kernel: Option<usize>,
    pub(super) stride: Option<usize>,
    pub(super) padding: Option<usize>,
    pub(super) dilation: Option<usize>,
    pub(super) groups: Option<usize>,
    pub(super) bias: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BlockSpec {
    pub(super) channels: usize,
    pub(super) kernel: Option<usize>,
    pub(super) stride: Option<usize>,
    pub(super) padding: Option<usize>,
    pub(super) dilation: Option<usize>,
    pub(super) groups: Option<usize>,
    pub(super) pool: Option<Pool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainSpec {
    pub(super) steps: Option<u64>,
    pub(super) epochs: Option<f64>,
    pub(super) batch: usize,
    pub(super) accumulate: Option<usize>,
    pub(super) optimizer: Option<OptimizerSpec>,
    #[serde(default)]
    pub(super) schedule: ScheduleSpec,
    pub(super) clip_norm: Option<f64>,
    pub(super) label_smoothing: Option<f32>,
    pub(super) evaluate_every: Option<u64>,
    pub(super) cuda_graphs: Option<bool>,
    pub(super) checkpoint_every: Option<IntervalSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of steps, a time such as \"10 min\", or \"never\""
)]
pub(super) enum IntervalSpec {
    Steps(u64),
    Text(String),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum OptimizerSpec {
    Sgd {
        lr: f64,
        momentum: Option<f64>,
        nesterov: Option<bool>,
        weight_decay: Option<f64>,
    },
    AdamW {
        lr: f64,
        beta1: Option<f64>,
        beta2: Option<f64>,
        eps: Option<f64>,
        weight_decay: Option<f64>,
    },
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScheduleSpec {
    pub(super) kind: Option<ScheduleKind>,
    pub(super) warmup: Option<u64>,
    pub(super) floor: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MeasureSpec {
    pub(super) census_every: Option<u64>,
    pub(super) timing_blocks: Option<usize>,
    pub(super) timing_steps: Option<usize>,
    pub(super) timing_warmup: Option<usize>,
    pub(super) inference_batch: Option<usize>,
    pub(super) equivalence_margin: Option<f64>,
    pub(super) error_margin: Option<f64>,
    pub(super) serving: Option<ServingSpec>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServingSpec {
    pub(super) prompt: Option<usize>,
    pub(super) generate: Option<usize>,
    pub(super) batch: Option<usize>,
    pub(super) prompts: Option<usize>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClaimsSpec {
    pub(super) train_time: Option<f64>,
    pub(super) train_memory: Option<Vec<f64>>,
    pub(super) inference_memory: Option<f64>,
    pub(super) inference_time: Option<f64>,
    pub(super) rarer: Option<f64>,
    pub(super) gradient_underflow: Option<f64>,
}

/// In TOML also a bare name, which `source` has turned into a table with that name and policy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VariantSpec {
    pub(super) name: String,
    pub(super) policy: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number of seeds, or a list of seeds from 0 upwards")]
pub(super) enum SeedsSpec {
    Count(u64),
    List(Vec<u64>),
}
