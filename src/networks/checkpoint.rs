//! Checkpoints in the layout of Hugging Face's Transformers: a folder of `config.json`, which says what the model is, and of
//! `model.safetensors` or its shards, with the names that each family of models has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::DataShape;
use super::decoder::Decoder;
use super::encoder::Encoder;
use crate::formatting::list_of_at_most;
use crate::hub::{HubError, Kind, Listener, Name, Repository};
use crate::layers::Parameter;
use crate::model::{FileTensor, Model, ModelError, WeightsFile};
use crate::spec::{Activation, DecoderPlan, DecoderStyle, EncoderPlan, NormPlan, TextPool, limits};
use crate::store;

/// More names than these are only counted.
const MOST_SHOWN: usize = 4;

/// The family of a checkpoint, and what its `config.json` says of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "model_type", rename_all = "lowercase")]
enum Config {
    Bert(Bert),
    DistilBert(DistilBert),
    Gpt2(Gpt2),
    Llama(Llama),
}

#[derive(Clone, Debug, Deserialize)]
struct Bert {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    #[serde(default = "bert_epsilon")]
    layer_norm_eps: f32,
    position_embedding_type: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct DistilBert {
    vocab_size: usize,
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    hidden_dim: usize,
    activation: String,
    max_position_embeddings: usize,
}

#[derive(Clone, Debug, Deserialize)]
struct Gpt2 {
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    n_positions: usize,
    activation_function: String,
    layer_norm_epsilon: f32,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Llama {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    /// What newer configurations have in the place of the two before.
    rope_parameters: Option<RopeParameters>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    head_dim: Option<usize>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

fn bert_epsilon() -> f32 {
    1e-12
}

fn yes() -> bool {
    true
}

/// The file of what a model is, that of the weights of a small checkpoint, and that of the table of a large one's shards.
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const SHARDS: &str = "model.safetensors.index.json";

/// Which files have the tensors of a large checkpoint.
#[derive(Deserialize)]
struct Shards {
    weight_map: BTreeMap<String, String>,
}

/// What a checkpoint is a model of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Network {
    Encoder(Encoder),
    Decoder(Decoder),
}

impl Network {
    fn tokens(self) -> usize {
        match self {
            Self::Encoder(Encoder { tokens, .. }) | Self::Decoder(Decoder { tokens, .. }) => tokens,
        }
    }

    /// Most tokens of a sequence.
    fn positions(self) -> usize {
        match self {
            Self::Encoder(Encoder { positions, .. }) | Self::Decoder(Decoder { positions, .. }) => {
                positions
            }
        }
    }
}

/// What training drops: no checkpoint says so, for it is a choice of who trains.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drops {
    /// Probability of dropping what a block adds.
    pub(super) dropout: f32,
    /// Probability of dropping a probability of attention.
    pub(super) attention_dropout: f32,
}

/// The model of a checkpoint for samples of `shape` and so many outputs, which starts from its weights. What the checkpoint lacks of a
/// task's own layers is drawn.
///
/// # Errors
/// When a file is missing or malformed, the model is none that is known here, it is not made for such texts, or a tensor is missing or
/// of another shape: every one is named.
pub(super) fn model(
    (folder, drops): (&Path, Drops),
    data: &DataShape,
    listen: Option<Listener<'_>>,
) -> Result<Model, ModelError> {
    let DataShape { shape: [_, _, length], outputs, .. } = *data;
    let place = Place::of(folder, listen)?;
    let file = place.file(CONFIG)?;
    let refuse = |what: String| Err(ModelError(format!("{}: {what}", file.display())));
    let config = config(&file)?;
    let network = match network(&config, drops) {
        Ok(network) => network,
        Err(what) => return refuse(what),
    };
    let next_tokens = matches!(network, Network::Decoder(_));
    let vocabulary = data.tokens("pretrained", next_tokens)?;
    if vocabulary > network.tokens() {
        return refuse(format!(
            "rows for {} tokens, and the tokenizer has {vocabulary}: choose the checkpoint's tokenizer",
            network.tokens()
        ));
    }
    if length > network.positions() {
        return refuse(format!(
            "{} positions, and data.length is {length}: choose at most {}",
            network.positions(),
            network.positions()
        ));
    }
    let mut model = Model::of_layers([1, 1, length], |registry| {
        Ok(match network {
            Network::Encoder(encoder) => encoder.layers(registry, length, outputs),
            Network::Decoder(decoder) => decoder.layers(registry, length),
        })
    })?;
    start(&mut model, (&place, &file), &config)?;
    Ok(model)
}

fn config(file: &Path) -> Result<Config, ModelError> {
    let text = store::read_to_string(file).map_err(|error| ModelError(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| {
        ModelError(format!(
            "{}: {error}; known models: bert, distilbert, gpt2, llama",
            file.display()
        ))
    })
}

/// What a configuration is a model of, or why it is none that is known here.
fn network(config: &Config, drops: Drops) -> Result<Network, String> {
    let network = match config {
        Config::Bert(bert) => Network::Encoder(bert.encoder(drops)?),
        Config::DistilBert(bert) => Network::Encoder(bert.encoder(drops)?),
        Config::Gpt2(gpt) => Network::Decoder(gpt.decoder(drops)?),
        Config::Llama(llama) => Network::Decoder(llama.decoder(drops)?),
    };
    check(network)?;
    Ok(network)
}

/// BERT's blocks: width, depth, heads, and values between the linear layers.
fn bert_blocks([width, depth, heads, feed_forward]: [usize; 4], drops: Drops) -> EncoderPlan {
    let (norm, pool, residual_init) = (NormPlan::After, TextPool::First, 1.0);
    let Drops { dropout, attention_dropout } = drops;
    EncoderPlan {
        width,
        depth,
        heads,
        feed_forward,
        dropout,
        attention_dropout,
        norm,
        pool,
        residual_init,
    }
}

impl Bert {
    fn encoder(&self, drops: Drops) -> Result<Encoder, String> {
        if self.position_embedding_type.as_deref().is_some_and(|kind| kind != "absolute") {
            return Err("position_embedding_type must be \"absolute\"".to_owned());
        }
        let plan = bert_blocks(
            [
                self.hidden_size,
                self.num_hidden_layers,
                self.num_attention_heads,
                self.intermediate_size,
            ],
            drops,
        );
        Ok(Encoder {
            plan,
            tokens: self.vocab_size,
            positions: self.max_position_embeddings,
            types: Some(self.type_vocab_size),
            activation: activation(&self.hidden_act)?,
            head: Some(Activation::Tanh),
            epsilon: self.layer_norm_eps,
        })
    }
}

impl DistilBert {
    fn encoder(&self, drops: Drops) -> Result<Encoder, String> {
        let plan = bert_blocks([self.dim, self.n_layers, self.n_heads, self.hidden_dim], drops);
        Ok(Encoder {
            plan,
            tokens: self.vocab_size,
            positions: self.max_position_embeddings,
            types: None,
            activation: activation(&self.activation)?,
            head: Some(Activation::Relu),
            epsilon: bert_epsilon(),
        })
    }
}

impl Gpt2 {
    fn decoder(&self, drops: Drops) -> Result<Decoder, String> {
        if !self.scale_attn_weights || self.scale_attn_by_inverse_layer_idx {
            return Err("attention must be scaled by 1/√d alone".to_owned());
        }
        let plan = DecoderPlan {
            width: self.n_embd,
            depth: self.n_layer,
            heads: self.n_head,
            kv_heads: self.n_head,
            feed_forward: self.n_inner.unwrap_or_else(|| self.n_embd.saturating_mul(4)),
            dropout: drops.dropout,
            attention_dropout: drops.attention_dropout,
            style: DecoderStyle::Gpt2,
            residual_init: 1.0,
        };
        Ok(Decoder {
            plan,
            tokens: self.vocab_size,
            positions: self.n_positions,
            activation: activation(&self.activation_function)?,
            tied: self.tie_word_embeddings,
            epsilon: self.layer_norm_epsilon,
            rope: 1.0,
        })
    }
}

impl Llama {
    fn decoder(&self, drops: Drops) -> Result<Decoder, String> {
        let rope = [&self.rope_scaling, &self.rope_parameters];
        let mut kinds = rope.into_iter().flatten().filter_map(|rope| rope.rope_type.as_deref());
        if let Some(kind) = kinds.find(|kind| *kind != "default") {
            return Err(format!(
                "rotary positions are scaled as {kind:?}; only unscaled ones are known"
            ));
        }
        if self.hidden_act != "silu" {
            return Err(format!("hidden_act is {:?}; only \"silu\" is known", self.hidden_act));
        }
        if self.attention_bias || self.mlp_bias {
            return Err("attention_bias and mlp_bias must be false".to_owned());
        }
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if self.head_dim.is_some_and(|head| head.saturating_mul(heads) != width) {
            return Err("head_dim must be hidden_size ÷ num_attention_heads".to_owned());
        }
        let plan = DecoderPlan {
            width,
            depth: self.num_hidden_layers,
            heads,
            kv_heads: self.num_key_value_heads.unwrap_or(heads),
            feed_forward: self.intermediate_size,
            dropout: drops.dropout,
            attention_dropout: drops.attention_dropout,
            style: DecoderStyle::Llama,
            residual_init: 1.0,
        };
        let parameters = self.rope_parameters.as_ref();
        let base = parameters.and_then(|rope| rope.rope_theta).or(self.rope_theta);
        Ok(Decoder {
            plan,
            tokens: self.vocab_size,
            positions: self.max_position_embeddings,
            activation: Activation::GeluTanh,
            tied: self.tie_word_embeddings,
            epsilon: self.rms_norm_eps,
            rope: base.unwrap_or(10_000.0),
        })
    }
}

fn activation(name: &str) -> Result<Activation, String> {
    match name {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        _ => Err(format!(
            "the activation {name:?} is not known; known: gelu, gelu_new, gelu_pytorch_tanh, relu"
        )),
    }
}

/// The sizes that a spec would have to keep to.
fn check(network: Network) -> Result<(), String> {
    let (width, heads, kv_heads, depth, others) = match network {
        Network::Encoder(Encoder { plan, types, .. }) => {
            let others = [plan.feed_forward, types.unwrap_or(1)];
            (plan.width, plan.heads, plan.heads, plan.depth, others)
        }
        Network::Decoder(Decoder { plan, .. }) => {
            (plan.width, plan.heads, plan.kv_heads, plan.depth, [plan.feed_forward, 1])
        }
    };
    let fit = |sizes: &[usize], most| sizes.iter().all(|size| (1..=most).contains(size));
    let rows = [network.tokens(), network.positions()];
    if !fit(&[width, heads, kv_heads], limits::WIDTH)
        || !fit(&others, limits::WIDTH)
        || !fit(&[depth], limits::LAYERS)
        || !fit(&rows, limits::VOCABULARY)
    {
        return Err(format!(
            "a size is 0 or too large: at most {} tokens and positions, {} blocks, and {} of anything else",
            limits::VOCABULARY,
            limits::LAYERS,
            limits::WIDTH
        ));
    }
    let numbers = match network {
        Network::Encoder(Encoder { epsilon, .. }) => [f64::from(epsilon), 1.0],
        Network::Decoder(Decoder { epsilon, rope, .. }) => [f64::from(epsilon), rope],
    };
    if !numbers.iter().all(|number| number.is_finite() && *number > 0.0) {
        return Err("an epsilon of a norm or a base of rotary positions is not over 0".to_owned());
    }
    let turned =
        matches!(network, Network::Decoder(decoder) if decoder.plan.style == DecoderStyle::Llama);
    if turned && !(width / heads).is_multiple_of(2) {
        return Err(format!(
            "rotary positions take heads of an even number of values, not {}",
            width / heads
        ));
    }
    if !width.is_multiple_of(heads) || !heads.is_multiple_of(kv_heads) {
        return Err(format!(
            "{heads} heads do not divide the width, {width}, or {kv_heads} heads of keys the heads"
        ));
    }
    Ok(())
}

/// Reads the weights.
fn start(
    model: &mut Model,
    (place, config_file): (&Place<'_>, &Path),
    config: &Config,
) -> Result<(), ModelError> {
    let files = place.weights(config_file)?;
    let read: Vec<Vec<u8>> = files
        .iter()
        .map(|file| store::read(file).map_err(|error| ModelError(error.to_string())))
        .collect::<Result<_, _>>()?;
    let mut weights = Vec::with_capacity(files.len());
    for (file, bytes) in files.iter().zip(&read) {
        let error = |error| ModelError(format!("{}: {error}", file.display()));
        weights.push(WeightsFile::new(bytes).map_err(error)?);
    }
    let prefix = config.prefix();
    // Without the layers of a task the names have no prefix.
    let mut names = weights.iter().flat_map(WeightsFile::names);
    let prefix = if names.any(|name| name.starts_with(prefix)) { prefix } else { "" };
    let tensors =
        model.parameters.iter().map(|parameter| config.tensor(prefix, parameter)).collect();
    let not_shared = model
        .start_from_checkpoint(&weights, tensors)
        .map_err(|error| ModelError(format!("{}: {error}", place.folder.display())))?;
    let digest = model.given_digest().unwrap_or_default();
    let name = place.name();
    model.notes.push(format!("Every run starts from the weights of {name}, SHA-256 {digest}."));
    let unused: Vec<String> =
        not_shared.unused.into_iter().filter(|name| !is_no_weight(name)).collect();
    for (names, what) in [
        (not_shared.drawn, "The checkpoint lacks these, which start at random"),
        (unused, "Of the checkpoint these are not used"),
    ] {
        if !names.is_empty() {
            model.notes.push(format!("{what}: {}.", list_of_at_most(MOST_SHOWN, names)));
        }
    }
    Ok(())
}

/// Whether a tensor is no weight: masks and numbers that follow from the sizes.
fn is_no_weight(name: &str) -> bool {
    [".attn.bias", ".attn.masked_bias", "position_ids", "rotary_emb.inv_freq"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The names of the files that the table of a checkpoint's shards names.
fn shards(table: &Path) -> Result<Vec<String>, ModelError> {
    let malformed = |what: String| ModelError(format!("{}: {what}", table.display()));
    let text = store::read(table).map_err(|error| ModelError(error.to_string()))?;
    let shards: Shards =
        serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    let files: BTreeSet<String> = shards.weight_map.into_values().collect();
    let is_beside = |name: &str| Path::new(name).file_name().is_some_and(|file| file == name);
    if let Some(elsewhere) = files.iter().find(|name| !is_beside(name)) {
        return Err(malformed(format!("{elsewhere:?} is not the name of a file beside it")));
    }
    if files.is_empty() {
        return Err(malformed("it names no file".to_owned()));
    }
    Ok(files.into_iter().collect())
}

/// Where a checkpoint is: in a folder, or in a repository of the hub.
struct Place<'a> {
    /// As the plan has it.
    folder: &'a Path,
    hub: Option<Repository<'a>>,
}

/// What a user does without a connection.
const INSTEAD: &str =
    "download the checkpoint's files by any means into a folder, and set model.folder=FOLDER";

impl<'a> Place<'a> {
    fn of(folder: &'a Path, listen: Option<Listener<'a>>) -> Result<Self, ModelError> {
        let name = Name::of(folder).transpose().map_err(ModelError)?;
        let of = |name| Repository { kind: Kind::Model, name, instead: INSTEAD, listen };
        Ok(Self { folder, hub: name.map(of) })
    }

    /// What notes call it.
    fn name(&self) -> String {
        match &self.hub {
            Some(_) => self.folder.display().to_string(),
            None => self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    /// Where a file is, which is downloaded if it is not here.
    fn file(&self, name: &str) -> Result<PathBuf, ModelError> {
        match &self.hub {
            Some(repository) => repository.file(name).map_err(of_hub),
            None => Ok(self.folder.join(name)),
        }
    }

    /// The files of the weights beside this file of what the model is.
    fn weights(&self, config: &Path) -> Result<Vec<PathBuf>, ModelError> {
        let Some(repository) = &self.hub else {
            let is_there = |name| {
                store::is_file(&self.folder.join(name))
                    .map_err(|error| ModelError(error.to_string()))
            };
            let names = if is_there(WEIGHTS)? || !is_there(SHARDS)? {
                vec![WEIGHTS.to_owned()]
            } else {
                shards(&self.folder.join(SHARDS))?
            };
            return Ok(names.iter().map(|name| self.folder.join(name)).collect());
        };
        let mut names = vec![CONFIG.to_owned()];
        if has_shards(repository)? {
            names.extend(shards(&repository.file(SHARDS).map_err(of_hub)?)?);
        } else {
            names.push(WEIGHTS.to_owned());
        }
        let mut files = repository.files(&names).map_err(of_hub)?;
        if files.remove(0) != config {
            let name = self.name();
            return Err(ModelError(format!("{name}: changed while it was downloaded; try again")));
        }
        Ok(files)
    }
}

/// Whether a checkpoint of the hub is in shards. What is here tells without a connection.
fn has_shards(repository: &Repository<'_>) -> Result<bool, ModelError> {
    let kept = repository.kept();
    let is_kept = |name: &str| kept.iter().any(|kept| kept == name);
    if is_kept(WEIGHTS) || is_kept(SHARDS) {
        return Ok(!is_kept(WEIGHTS));
    }
    match repository.file(WEIGHTS) {
        Ok(_) => Ok(false),
        Err(error) if error.is_missing => match repository.file(SHARDS) {
            Ok(_) => Ok(true),
            Err(second) if second.is_missing => Err(of_hub(error)),
            Err(second) => Err(of_hub(second)),
        },
        Err(error) => Err(of_hub(error)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "errors are passed on by map_err")]
fn of_hub(error: HubError) -> ModelError {
    ModelError(error.to_string())
}

impl Config {
    /// What the names begin with in a checkpoint with the layers of a task.
    fn prefix(&self) -> &'static str {
        match self {
            Self::Bert(_) => "bert.",
            Self::DistilBert(_) => "distilbert.",
            Self::Gpt2(_) => "transformer.",
            Self::Llama(_) => "model.",
        }
    }

    /// Where a checkpoint has a parameter of the model.
    fn tensor(&self, prefix: &str, parameter: &Parameter) -> FileTensor {
        let (layer, part) = parameter.name.rsplit_once('.').unwrap_or((&parameter.name, ""));
        let part = match part {
            "gamma" => "weight",
            "beta" => "bias",
            other => other,
        };
        if let ("head" | "output", Some(name)) = (layer, self.head(layer)) {
            // A checkpoint without the layers of a task lacks them, but for the output of a language model.
            let optional = matches!(self, Self::Bert(_) | Self::DistilBert(_));
            let prefix = if name == "pooler.dense" { prefix } else { "" };
            let name = format!("{prefix}{name}.{part}");
            return FileTensor { optional, ..FileTensor::as_it_is(name) };
        }
        if layer == "embedding" {
            return FileTensor::as_it_is(format!("{prefix}{}.weight", self.table(part)));
        }
        let (place, rest) = match layer.split_once('.') {
            Some((block, rest)) if block.starts_with("block") => {
                let number = block["block".len()..].parse::<usize>().unwrap_or(1);
                (format!("{}.{}.", self.blocks(), number - 1), rest)
            }
            _ => (String::new(), layer),
        };
        let name = format!("{prefix}{place}{}.{part}", self.layer(rest));
        match self {
            Self::Gpt2(_) => FileTensor {
                // Its linear layers are convolutions of one position, whose matrices are inputs × outputs.
                transposed: parameter.shape.len() == 2,
                part: match rest {
                    "attention.query" => (0, 3),
                    "attention.key" => (1, 3),
                    "attention.value" => (2, 3),
                    _ => (0, 1),
                },
                ..FileTensor::as_it_is(name)
            },
            _ => FileTensor::as_it_is(name),
        }
    }

    /// The layers of a task.
    fn head(&self, layer: &str) -> Option<&'static str> {
        Some(match (self, layer) {
            (Self::Bert(_), "head") => "pooler.dense",
            (Self::DistilBert(_), "head") => "pre_classifier",
            (Self::Bert(_) | Self::DistilBert(_), "output") => "classifier",
            (Self::Gpt2(_) | Self::Llama(_), "output") => "lm_head",
            _ => return None,
        })
    }

    /// The tables of the embedding.
    fn table(&self, part: &str) -> &'static str {
        match (self, part) {
            (Self::Bert(_) | Self::DistilBert(_), "positions") => "embeddings.position_embeddings",
            (Self::Bert(_) | Self::DistilBert(_), "types") => "embeddings.token_type_embeddings",
            (Self::Bert(_) | Self::DistilBert(_), _) => "embeddings.word_embeddings",
            (Self::Gpt2(_), "positions") => "wpe",
            (Self::Gpt2(_), _) => "wte",
            (Self::Llama(_), _) => "embed_tokens",
        }
    }

    /// Where the blocks are.
    fn blocks(&self) -> &'static str {
        match self {
            Self::Bert(_) => "encoder.layer",
            Self::DistilBert(_) => "transformer.layer",
            Self::Gpt2(_) => "h",
            Self::Llama(_) => "layers",
        }
    }

    /// A layer of a block, or a norm outside them.
    fn layer(&self, layer: &str) -> &'static str {
        /// Our name, and those of BERT, `DistilBERT`, GPT-2 and Llama.
        const NAMES: [(&str, [&str; 4]); 11] = [
            ("embedding.norm", ["embeddings.LayerNorm", "embeddings.LayerNorm", "", ""]),
            (
                "attention.query",
                ["attention.self.query", "attention.q_lin", "attn.c_attn", "self_attn.q_proj"],
            ),
            (
                "attention.key",
                ["attention.self.key", "attention.k_lin", "attn.c_attn", "self_attn.k_proj"],
            ),
            (
                "attention.value",
                ["attention.self.value", "attention.v_lin", "attn.c_attn", "self_attn.v_proj"],
            ),
            (
                "attention.output",
                ["attention.output.dense", "attention.out_lin", "attn.c_proj", "self_attn.o_proj"],
            ),
            (
                "attention.norm",
                ["attention.output.LayerNorm", "sa_layer_norm", "ln_1", "input_layernorm"],
            ),
            ("feed_forward.gate", ["", "", "", "mlp.gate_proj"]),
            ("feed_forward.up", ["intermediate.dense", "ffn.lin1", "mlp.c_fc", "mlp.up_proj"]),
            ("feed_forward.down", ["output.dense", "ffn.lin2", "mlp.c_proj", "mlp.down_proj"]),
            (
                "feed_forward.norm",
                ["output.LayerNorm", "output_layer_norm", "ln_2", "post_attention_layernorm"],
            ),
            ("norm", ["", "", "ln_f", "norm"]),
        ];
        let family = match self {
            Self::Bert(_) => 0,
            Self::DistilBert(_) => 1,
            Self::Gpt2(_) => 2,
            Self::Llama(_) => 3,
        };
        NAMES.iter().find(|(name, _)| *name == layer).map_or("", |(_, names)| names[family])
    }
}
