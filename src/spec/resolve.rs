//! `Spec` → [`Plan`]: fills in what was left out and refuses what cannot be. The variants and seeds that the command line picks
//! afterwards are checked here too, by `choose` and `reseed`; what only the data can tell is checked once they are
//! read (`data::load`, `networks::model`).

mod data;
mod model;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::typed::{
    ClaimsSpec, IntervalSpec, MeasureSpec, OptimizerSpec, ScheduleSpec, SeedsSpec, ServingSpec,
    TrainSpec, VariantSpec,
};
use super::{
    CheckpointEvery, ClaimsPlan, ControlKind, CountImages, DataPlan, IdxTest, MeasurePlan,
    ModelPlan, OptimizerPlan, OwnPlan, Plan, SchedulePlan, ServingPlan, Spec, TaskKind, TrainPlan,
    VariantPlan,
};
use crate::precision::{Format, Policy, PolicyError};

/// What a key means when it is left out.
pub(crate) mod defaults {
    use crate::spec::{
        Activation, CheckpointEvery, DecoderStyle, NormPlan, OptimizerPlan, Pool, ScheduleKind,
        TableTask, TextPool,
    };

    /// Seeds 0, 1 and 2.
    pub(crate) const SEEDS: u64 = 3;
    /// The baseline's name, where a variant of plain f32 has it; else the first variant is the baseline.
    pub(crate) const BASELINE: &str = "fp32";
    /// What a killed run may lose, against what it costs to write the weights.
    pub(crate) const CHECKPOINT_EVERY: CheckpointEvery = CheckpointEvery::Seconds(300.0);
    /// Synthetic digits to train on.
    pub(crate) const DIGITS_TRAIN: usize = 6000;
    /// `seed` of a test share.
    pub(crate) const SHARE_SEED: u64 = 0;
    /// `text`: the column of the texts.
    pub(crate) const TEXT: &str = "text";
    /// `target` of texts: the column of the classes.
    pub(crate) const TEXT_TARGET: &str = "label";
    /// `length`: tokens of a text.
    pub(crate) const LENGTH: usize = 256;
    /// `vocabulary`: tokens of a tokenizer that is made.
    pub(crate) const VOCABULARY: usize = 8_192;
    /// `norm` of a transformer.
    pub(crate) const NORM: NormPlan = NormPlan::Before;
    /// `pool` of a transformer.
    pub(crate) const TEXT_POOL: TextPool = TextPool::Mean;
    /// `feed_forward` of a transformer ÷ its width, as in the paper on attention; of Llama it is 8/3.
    pub(crate) const FEED_FORWARD: usize = 4;
    /// `residual_init` of a transformer.
    pub(crate) const RESIDUAL_INIT: f32 = 1.0;
    /// `style` of a decoder.
    pub(crate) const DECODER_STYLE: DecoderStyle = DecoderStyle::Gpt2;
    /// `task` of arrays and tables.
    pub(crate) const TASK: TableTask = TableTask::Classification;
    /// Synthetic digits to test on.
    pub(crate) const DIGITS_TEST: usize = 2000;
    /// Seed of the drawing.
    pub(crate) const DIGITS_SEED: u64 = 0;
    /// `activation`.
    pub(crate) const ACTIVATION: Activation = Activation::Relu;
    /// `dropout`: none.
    pub(crate) const DROPOUT: f32 = 0.0;
    /// `batch_norm`.
    pub(crate) const BATCH_NORM: bool = false;
    /// `kernel` of a block.
    pub(crate) const KERNEL: usize = 3;
    /// `bias` of a convolution in a list of layers.
    pub(crate) const BIAS: bool = true;
    /// `padding` of a block.
    pub(crate) const PADDING: usize = 0;
    /// `stride`, `dilation` and `groups` of a block.
    pub(crate) const ONE: usize = 1;
    /// `pool` of a block.
    pub(crate) const POOL: Pool = Pool::None;
    /// `width` of a residual network, as in its paper.
    pub(crate) const RESNET_WIDTH: usize = 16;
    /// `accumulate`: every micro-batch makes a step.
    pub(crate) const ACCUMULATE: usize = 1;
    /// `cuda_graphs`.
    pub(crate) const CUDA_GRAPHS: bool = true;
    /// `label_smoothing`: none.
    pub(crate) const LABEL_SMOOTHING: f32 = 0.0;
    /// `momentum` of SGD, as in `PyTorch`.
    pub(crate) const MOMENTUM: f64 = 0.0;
    /// `nesterov` of SGD.
    pub(crate) const NESTEROV: bool = false;
    /// `weight_decay` of SGD, as in `PyTorch`.
    pub(crate) const SGD_WEIGHT_DECAY: f64 = 0.0;
    /// `beta1` of `AdamW`, as in `PyTorch`.
    pub(crate) const BETA1: f64 = 0.9;
    /// `beta2` of `AdamW`, as in `PyTorch`.
    pub(crate) const BETA2: f64 = 0.999;
    /// `eps` of `AdamW`, as in `PyTorch`.
    pub(crate) const EPS: f64 = 1e-8;
    /// `weight_decay` of `AdamW`, as in `PyTorch`.
    pub(crate) const ADAMW_WEIGHT_DECAY: f64 = 0.01;
    /// `kind` of the schedule.
    pub(crate) const SCHEDULE: ScheduleKind = ScheduleKind::Cosine;
    /// `warmup`: a tenth of the steps, at most this.
    pub(crate) const WARMUP: u64 = 50;
    /// `floor` of the schedule.
    pub(crate) const FLOOR: f64 = 0.0;
    /// `census_every`.
    pub(crate) const CENSUS_EVERY: u64 = 200;
    /// `timing_blocks`: enough pairs for a bootstrap interval.
    pub(crate) const TIMING_BLOCKS: usize = 12;
    /// What a plan without training says, which nothing uses.
    pub(crate) const NO_OPTIMIZER: OptimizerPlan = OptimizerPlan::Sgd {
        lr: 0.0,
        momentum: MOMENTUM,
        nesterov: NESTEROV,
        weight_decay: SGD_WEIGHT_DECAY,
    };
    /// Sequences that are served together.
    pub(crate) const SERVING_BATCH: usize = 8;
    /// Prompts on which tokens are compared.
    pub(crate) const SERVING_PROMPTS: usize = 32;
    /// `timing_steps`.
    pub(crate) const TIMING_STEPS: usize = 5;
    /// `timing_warmup`.
    pub(crate) const TIMING_WARMUP: usize = 3;
    /// `equivalence_margin`: half a percent of the test images.
    pub(crate) const EQUIVALENCE_MARGIN: f64 = 0.005;
    /// `error_margin`: a twentieth of the baseline's error.
    pub(crate) const ERROR_MARGIN: f64 = 0.05;
    /// Mixed precision trains in at most this share of FP32's time: the slow end of the claimed 1/2 to 1/3.
    pub(crate) const TRAIN_TIME: f64 = 0.5;
    /// "About the same" training memory as FP32's: within a tenth.
    pub(crate) const TRAIN_MEMORY: [f64; 2] = [0.9, 1.1];
    /// "Half" the memory of inference, to within a tenth: what is not a weight or an activation does not halve.
    pub(crate) const INFERENCE_MEMORY: f64 = 0.55;
    /// "Half" the time of inference, to within a tenth.
    pub(crate) const INFERENCE_TIME: f64 = 0.55;
    /// "Rarer": BF16's share of overflow and underflow is at most this much of FP16's. Its exponent reaches 2^112 times
    /// further both ways, so that less than a halving is no sign of it.
    pub(crate) const RARER: f64 = 0.5;
    /// From this share of gradient values on, underflow counts; Micikevicius et al. 2018 saw about 5 %.
    pub(crate) const GRADIENT_UNDERFLOW: f64 = 0.01;
}

/// The most that is accepted: beyond these a number is a slip of the pen, and would only exhaust the machine.
pub(crate) mod limits {
    /// Width of a layer, channels, images in a batch, micro-batches in a step.
    pub(crate) const WIDTH: usize = 65_536;
    /// Values of one tensor: 4 TiB in f32. What is made of them (bytes, operations of a product) then fits 64 bits.
    pub(crate) const VALUES: usize = 1 << 40;
    /// Layers or blocks in a list.
    pub(crate) const LAYERS: usize = 1_000;
    /// Residual layers within each other.
    pub(crate) const NESTED: usize = 8;
    /// Tokens of a text.
    pub(crate) const LENGTH: usize = 8_192;
    /// Tokens of a tokenizer.
    pub(crate) const VOCABULARY: usize = 1_000_000;
    /// Kernel, stride, padding and dilation of a convolution.
    pub(crate) const KERNEL: usize = 1_024;
    /// Layers of a residual network: the deepest of its paper.
    pub(crate) const RESNET_DEPTH: usize = 1_202;
    /// Images drawn.
    pub(crate) const DIGITS: usize = 1_000_000;
    /// Optimizer steps.
    pub(crate) const STEPS: u64 = 1_000_000_000;
    /// Between two checkpoints: 1000 hours.
    pub(crate) const SECONDS: f64 = 3.6e6;
    /// Blocks of the timing phase, and steps in one.
    pub(crate) const TIMING: usize = 10_000;
    /// Variants.
    pub(crate) const VARIANTS: usize = 100;
    /// Seeds.
    pub(crate) const SEEDS: u64 = 10_000;
    /// Letters in a name.
    pub(crate) const NAME: usize = 64;
}

/// An invalid value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {what}")]
pub(crate) struct Invalid {
    /// The key's path, such as `model.blocks[1].kernel`.
    pub key: String,
    /// What is wrong and what would be right.
    pub what: String,
}

pub(super) type Checked<T> = Result<T, Invalid>;

pub(super) fn refuse<T>(key: impl Into<String>, what: impl Into<String>) -> Checked<T> {
    Err(Invalid { key: key.into(), what: what.into() })
}

/// `value`, which must be within `range`.
fn whole<T: PartialOrd + Display + Copy>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Checked<T> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = range.into_inner();
    refuse(key, format!("is {value}; must be {least} to {most}"))
}

/// `value`, for which `ok` must hold, as `must` says in words. NaN never does.
pub(super) fn real<T: Display + Copy>(
    key: &str,
    value: T,
    must: &str,
    ok: impl Fn(T) -> bool,
) -> Checked<T> {
    if ok(value) { Ok(value) } else { refuse(key, format!("is {value}; must be {must}")) }
}

/// A finite number, 0 or more.
fn not_negative(key: &str, value: f64) -> Checked<f64> {
    real(key, value, "finite and 0 or more", |v| v.is_finite() && v >= 0.0)
}

/// A finite number over 0.
fn positive(key: &str, value: f64) -> Checked<f64> {
    real(key, value, "finite and over 0", |v| v.is_finite() && v > 0.0)
}

/// 0 ≤ `value` < 1.
fn below_one<T: Display + Copy + Into<f64>>(key: &str, value: T) -> Checked<T> {
    real(key, value, "0 or more and below 1", |v| (0.0..1.0).contains(&v.into()))
}

pub(super) fn at_most(key: &str, length: usize, most: usize, things: &str) -> Checked<()> {
    if length <= most {
        return Ok(());
    }
    refuse(key, format!("has {length} {things}; at most {most}"))
}

impl Plan {
    /// What a spec means; `count` tells how many training images its data have.
    ///
    /// # Errors
    /// When a value cannot be: the first found, with its key.
    pub(super) fn resolve(
        spec: Spec,
        count: CountImages<'_>,
        own: Option<&OwnPlan>,
    ) -> Checked<Self> {
        folder_name("name", &spec.name)?;
        let missing = |key: &str| Invalid { key: key.to_owned(), what: "is missing".to_owned() };
        let (data, model) = if let Some(own) = own {
            (own.data(), own.model())
        } else {
            let typed = spec.data.ok_or_else(|| missing("data"))?;
            let makes_tokens = typed.makes_tokens();
            let mut data = data::resolve(typed)?;
            let image = model::Shape::of(&data);
            let model = model::resolve(spec.model.ok_or_else(|| missing("model"))?, image)?;
            if let ModelPlan::Pretrained { folder, .. } = &model {
                if makes_tokens {
                    return refuse("data.vocabulary", "is that of the checkpoint; remove this key");
                }
                data.take_tokenizer(folder);
            }
            (data, model)
        };
        let train = train(&spec.train, &data, count)?;
        model::normalized(&model, train.batch, model::Shape::of(&data))?;
        let length = match (&data, own) {
            (DataPlan::PlainText { length, .. }, _) => Some(*length),
            (_, own) => own.and_then(|own| own.length),
        };
        let measure = measure(spec.measure, &train, (&data, length))?;
        let variants = variants(spec.variants)?;
        let seeds = seeds(spec.seeds)?;
        Ok(Self {
            name: spec.name,
            init: spec.init,
            model,
            train,
            measure,
            baseline: baseline(spec.baseline, &variants)?,
            controls: controls(spec.controls, &seeds)?,
            seeds,
            claims: claims(spec.claims)?,
            reference: spec.reference,
            data,
            variants,
        })
    }
}

/// A name that can be a folder on every system.
fn folder_name(key: &str, name: &str) -> Checked<()> {
    why_no_folder(name).map_or(Ok(()), |why| refuse(key, why))
}

/// Why a name cannot be that of a folder on every system.
fn why_no_folder(name: &str) -> Option<String> {
    let fits = (1..=limits::NAME).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let most = limits::NAME;
    (!fits).then(|| {
        format!("{name:?} cannot be a folder's name; use 1 to {most} letters, digits, - and _")
    })
}

/// Whether each of these names, which an option gave, can be a part of a path on every system, and none stands twice.
///
/// # Errors
/// Says which cannot, or stands twice.
pub(crate) fn check_names(option: &str, names: &[String]) -> Result<(), String> {
    for (index, name) in names.iter().enumerate() {
        let twice = || names[..index].contains(name).then(|| format!("{name:?} is given twice"));
        if let Some(why) = why_no_folder(name).or_else(twice) {
            return Err(format!("{option}: {why}"));
        }
    }
    Ok(())
}

fn train(spec: &TrainSpec, data: &DataPlan, count: CountImages<'_>) -> Checked<TrainPlan> {
    let batch = whole("train.batch", spec.batch, 1..=limits::WIDTH)?;
    let images = match data {
        DataPlan::Digits { train, .. } | DataPlan::Own { train, .. } => Some(*train),
        _ if spec.epochs.is_some() => {
            Some(count(data).map_err(|what| Invalid { key: "data".to_owned(), what })?)
        }
        _ => None,
    };
    if let Some(images) = images
        && batch > images
    {
        return refuse(
            "train.batch",
            format!(
                "is {batch}, but there are only {images} training samples; choose 1 to {images}"
            ),
        );
    }
    let label_smoothing = below_one(
        "train.label_smoothing",
        spec.label_smoothing.unwrap_or(defaults::LABEL_SMOOTHING),
    )?;
    if data.task() == TaskKind::Regression && label_smoothing != 0.0 {
        return refuse(
            "train.label_smoothing",
            "smooths labels, and a regression has none; remove it",
        );
    }
    let steps = steps(spec, images.unwrap_or_default() / batch)?;
    if let Some(every) = spec.evaluate_every {
        whole("train.evaluate_every", every, 1..=limits::STEPS)?;
    }
    Ok(TrainPlan {
        steps,
        batch,
        accumulate: whole(
            "train.accumulate",
            spec.accumulate.unwrap_or(defaults::ACCUMULATE),
            1..=limits::WIDTH,
        )?,
        optimizer: match (spec.optimizer, steps) {
            (Some(spec), _) => optimizer(spec)?,
            (None, 0) => defaults::NO_OPTIMIZER,
            (None, _) => return refuse("train", "missing key \"optimizer\""),
        },
        schedule: schedule(spec.schedule, steps)?,
        clip_norm: spec.clip_norm.map(|norm| positive("train.clip_norm", norm)).transpose()?,
        label_smoothing,
        evaluate_every: spec.evaluate_every,
        cuda_graphs: spec.cuda_graphs.unwrap_or(defaults::CUDA_GRAPHS),
        checkpoint_every: spec
            .checkpoint_every
            .as_ref()
            .map(checkpoint_every)
            .transpose()?
            .unwrap_or_default(),
    })
}

fn checkpoint_every(spec: &IntervalSpec) -> Checked<CheckpointEvery> {
    const KEY: &str = "train.checkpoint_every";
    let text = match spec {
        IntervalSpec::Steps(steps) => {
            return whole(KEY, *steps, 1..=limits::STEPS).map(CheckpointEvery::Steps);
        }
        IntervalSpec::Text(text) if text == "never" => return Ok(CheckpointEvery::Never),
        IntervalSpec::Text(text) => text,
    };
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "s" => Some(1.0),
        "min" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let number: Option<f64> = number.trim().parse().ok();
    match number.zip(unit).map(|(number, unit)| number * unit) {
        Some(seconds) if (1.0..=limits::SECONDS).contains(&seconds) => {
            Ok(CheckpointEvery::Seconds(seconds))
        }
        _ => refuse(
            KEY,
            format!(
                "is \"{text}\"; give a number of steps, a time of 1 s to 1000 h such as \"10 min\", or \"never\""
            ),
        ),
    }
}

/// The length of the training, where an epoch has so many whole batches.
fn steps(spec: &TrainSpec, batches: usize) -> Checked<u64> {
    const EPOCHS: &str = "train.epochs";
    match (spec.steps, spec.epochs) {
        (Some(steps), None) => whole("train.steps", steps, 0..=limits::STEPS),
        (None, Some(epochs)) => {
            let epochs = positive(EPOCHS, epochs)?;
            let accumulate = spec.accumulate.unwrap_or(defaults::ACCUMULATE).max(1);
            let steps = (epochs * batches as f64 / accumulate as f64).round();
            if (1.0..=limits::STEPS as f64).contains(&steps) {
                return Ok(steps as u64);
            }
            let most = limits::STEPS;
            refuse(EPOCHS, format!("is {epochs}, which makes {steps} steps; must make 1 to {most}"))
        }
        (Some(_), Some(_)) => refuse(EPOCHS, "is given beside steps; give one of the two"),
        (None, None) => refuse("train", "missing key \"steps\" or \"epochs\""),
    }
}

fn optimizer(spec: OptimizerSpec) -> Checked<OptimizerPlan> {
    const LR: &str = "train.optimizer.lr";
    const WEIGHT_DECAY: &str = "train.optimizer.weight_decay";
    match spec {
        OptimizerSpec::Sgd { lr, momentum, nesterov, weight_decay } => {
            let momentum =
                below_one("train.optimizer.momentum", momentum.unwrap_or(defaults::MOMENTUM))?;
            let nesterov = nesterov.unwrap_or(defaults::NESTEROV);
            if nesterov && momentum == 0.0 {
                return refuse("train.optimizer.nesterov", "needs momentum; set momentum over 0");
            }
            Ok(OptimizerPlan::Sgd {
                lr: not_negative(LR, lr)?,
                momentum,
                nesterov,
                weight_decay: not_negative(
                    WEIGHT_DECAY,
                    weight_decay.unwrap_or(defaults::SGD_WEIGHT_DECAY),
                )?,
            })
        }
        OptimizerSpec::AdamW { lr, beta1, beta2, eps, weight_decay } => Ok(OptimizerPlan::AdamW {
            lr: not_negative(LR, lr)?,
            beta1: below_one("train.optimizer.beta1", beta1.unwrap_or(defaults::BETA1))?,
            beta2: below_one("train.optimizer.beta2", beta2.unwrap_or(defaults::BETA2))?,
            eps: positive("train.optimizer.eps", eps.unwrap_or(defaults::EPS))?,
            weight_decay: not_negative(
                WEIGHT_DECAY,
                weight_decay.unwrap_or(defaults::ADAMW_WEIGHT_DECAY),
            )?,
        }),
    }
}

fn schedule(spec: ScheduleSpec, steps: u64) -> Checked<SchedulePlan> {
    let warmup = spec.warmup.unwrap_or(defaults::WARMUP.min(steps / 10));
    if warmup > steps {
        return refuse(
            "train.schedule.warmup",
            format!("is {warmup}, more than the {steps} steps of the training"),
        );
    }
    Ok(SchedulePlan {
        kind: spec.kind.unwrap_or(defaults::SCHEDULE),
        warmup,
        floor: real(
            "train.schedule.floor",
            spec.floor.unwrap_or(defaults::FLOOR),
            "0 to 1",
            |floor| (0.0..=1.0).contains(&floor),
        )?,
    })
}

fn measure(
    spec: MeasureSpec,
    train: &TrainPlan,
    (data, length): (&DataPlan, Option<usize>),
) -> Checked<MeasurePlan> {
    let test_images = match data {
        DataPlan::Digits { test, .. } | DataPlan::Own { test, .. } => *test,
        DataPlan::Idx { test: IdxTest::HeldOut(images), .. } => *images,
        _ => usize::MAX,
    };
    let blocks = spec.timing_blocks.unwrap_or(defaults::TIMING_BLOCKS);
    let steps = spec.timing_steps.unwrap_or(defaults::TIMING_STEPS);
    let warmup = spec.timing_warmup.unwrap_or(defaults::TIMING_WARMUP);
    Ok(MeasurePlan {
        census_every: whole(
            "measure.census_every",
            spec.census_every.unwrap_or(defaults::CENSUS_EVERY),
            0..=limits::STEPS,
        )?,
        timing_blocks: whole("measure.timing_blocks", blocks, 0..=limits::TIMING)?,
        timing_steps: whole("measure.timing_steps", steps, 1..=limits::TIMING)?,
        timing_warmup: whole("measure.timing_warmup", warmup, 0..=limits::TIMING)?,
        inference_batch: whole(
            "measure.inference_batch",
            spec.inference_batch.unwrap_or(train.batch.min(test_images)),
            1..=limits::WIDTH.min(test_images),
        )?,
        equivalence_margin: real(
            "measure.equivalence_margin",
            spec.equivalence_margin.unwrap_or(defaults::EQUIVALENCE_MARGIN),
            "over 0 and below 1",
            |margin| margin > 0.0 && margin < 1.0,
        )?,
        error_margin: real(
            "measure.error_margin",
            spec.error_margin.unwrap_or(defaults::ERROR_MARGIN),
            "over 0 and below 1",
            |margin| margin > 0.0 && margin < 1.0,
        )?,
        serving: spec.serving.map(|spec| serving(spec, length)).transpose()?,
    })
}

/// With sequences of so many tokens, where the data have any.
fn serving(spec: ServingSpec, length: Option<usize>) -> Checked<ServingPlan> {
    let Some(length) = length else {
        return refuse("measure.serving", "needs a language model: data.kind = \"plain-text\"");
    };
    if length < 2 {
        return refuse(
            "data.length",
            format!("is {length}; must be 2 or more for measure.serving"),
        );
    }
    let prompt = match (spec.prompt, spec.generate) {
        (Some(prompt), _) => prompt,
        (None, Some(generate)) => length.saturating_sub(generate),
        (None, None) => length / 2,
    };
    let prompt = whole("measure.serving.prompt", prompt, 1..=length - 1)?;
    let generate = spec.generate.unwrap_or(length - prompt);
    let key = "measure.serving.generate";
    if generate > length - prompt {
        return refuse(
            key,
            format!(
                "is {generate}, which with a prompt of {prompt} is more than the {length} tokens of data.length"
            ),
        );
    }
    Ok(ServingPlan {
        prompt,
        generate: whole(key, generate, 1..=length - prompt)?,
        batch: whole(
            "measure.serving.batch",
            spec.batch.unwrap_or(defaults::SERVING_BATCH),
            1..=limits::WIDTH,
        )?,
        prompts: whole(
            "measure.serving.prompts",
            spec.prompts.unwrap_or(defaults::SERVING_PROMPTS),
            2..=limits::WIDTH,
        )?,
    })
}

fn variants(typed: Vec<VariantSpec>) -> Checked<Vec<VariantPlan>> {
    if typed.is_empty() {
        return refuse("variants", "is empty; give at least one policy");
    }
    at_most("variants", typed.len(), limits::VARIANTS, "variants")?;
    let mut names = BTreeSet::new();
    let mut variants = Vec::with_capacity(typed.len());
    for (i, VariantSpec { name, policy }) in typed.into_iter().enumerate() {
        let policy: Policy = policy.parse().map_err(|error: PolicyError| Invalid {
            key: format!("variants[{i}].policy"),
            what: error.to_string(),
        })?;
        folder_name(&format!("variants[{i}].name"), &name)?;
        // Some file systems do not tell `FP32` from `fp32`.
        if !names.insert(name.to_ascii_lowercase()) {
            return refuse(
                format!("variants[{i}].name"),
                format!("a second variant with the name {name:?}; give each its own"),
            );
        }
        variants.push(VariantPlan { name, policy });
    }
    Ok(variants)
}

fn baseline(typed: Option<String>, variants: &[VariantPlan]) -> Checked<String> {
    let Some(name) = typed else {
        return Ok(default_baseline(variants));
    };
    let is_planned = |name: &str| variants.iter().any(|variant| variant.name == name);
    if is_planned(&name) {
        return Ok(name);
    }
    if let Some(named) = Policy::canonical(&name).filter(|named| is_planned(named)) {
        return Ok(named.to_owned());
    }
    refuse("baseline", format!("no variant is called {name:?}; known: {}", names(variants)))
}

/// The variant `fp32`, if it is plain f32; else the first.
fn default_baseline(variants: &[VariantPlan]) -> String {
    let plain = |variant: &&VariantPlan| {
        variant.name == defaults::BASELINE
            && variant.policy.params == Format::F32
            && variant.policy.compute == Format::F32
    };
    let chosen = variants.iter().find(plain).or(variants.first());
    chosen.map(|variant| variant.name.clone()).unwrap_or_default()
}

/// The variants' names, for a message.
fn names(variants: &[VariantPlan]) -> String {
    let names: Vec<_> = variants.iter().map(|variant| &*variant.name).collect();
    names.join(", ")
}

fn seeds(typed: Option<SeedsSpec>) -> Checked<Vec<u64>> {
    match typed.unwrap_or(SeedsSpec::Count(defaults::SEEDS)) {
        SeedsSpec::Count(count) => Ok((0..whole("seeds", count, 1..=limits::SEEDS)?).collect()),
        SeedsSpec::List(seeds) => {
            whole("seeds", seeds.len() as u64, 1..=limits::SEEDS).map_err(|_| Invalid {
                key: "seeds".to_owned(),
                what: format!("lists {} seeds; must be 1 to {}", seeds.len(), limits::SEEDS),
            })?;
            let mut distinct = BTreeSet::new();
            match seeds.iter().find(|seed| !distinct.insert(**seed)) {
                Some(seed) => refuse("seeds", format!("lists {seed} twice")),
                None => Ok(seeds),
            }
        }
    }
}

fn controls(typed: Vec<ControlKind>, seeds: &[u64]) -> Checked<Vec<ControlKind>> {
    let number = seeds.len() as u64;
    let room = seeds.iter().all(|seed| seed.checked_add(number).is_some());
    for (i, kind) in typed.iter().enumerate() {
        let key = || format!("controls[{i}]");
        if typed[..i].contains(kind) {
            return refuse(key(), format!("lists {:?} twice", kind.name()));
        }
        if *kind == ControlKind::OtherSeeds && !room {
            return refuse(
                key(),
                format!("needs {number} seeds above the largest of the plan; choose smaller seeds"),
            );
        }
    }
    Ok(typed)
}

fn claims(spec: ClaimsSpec) -> Checked<ClaimsPlan> {
    let ratio = |key, typed: Option<f64>, default| positive(key, typed.unwrap_or(default));
    Ok(ClaimsPlan {
        train_time: ratio("claims.train_time", spec.train_time, defaults::TRAIN_TIME)?,
        train_memory: train_memory(spec.train_memory)?,
        inference_memory: ratio(
            "claims.inference_memory",
            spec.inference_memory,
            defaults::INFERENCE_MEMORY,
        )?,
        inference_time: ratio(
            "claims.inference_time",
            spec.inference_time,
            defaults::INFERENCE_TIME,
        )?,
        rarer: real(
            "claims.rarer",
            spec.rarer.unwrap_or(defaults::RARER),
            "over 0 and at most 1",
            |ratio| ratio > 0.0 && ratio <= 1.0,
        )?,
        gradient_underflow: real(
            "claims.gradient_underflow",
            spec.gradient_underflow.unwrap_or(defaults::GRADIENT_UNDERFLOW),
            "over 0 and below 1",
            |share| share > 0.0 && share < 1.0,
        )?,
    })
}

/// The smallest and the largest ratio.
fn train_memory(typed: Option<Vec<f64>>) -> Checked<[f64; 2]> {
    const KEY: &str = "claims.train_memory";
    let Some(typed) = typed else {
        return Ok(defaults::TRAIN_MEMORY);
    };
    let [low, high] = typed[..] else {
        let number = typed.len();
        return refuse(KEY, format!("lists {number} numbers; give the smallest and the largest"));
    };
    for (i, ratio) in [low, high].into_iter().enumerate() {
        positive(&format!("{KEY}[{i}]"), ratio)?;
    }
    if low < high {
        return Ok([low, high]);
    }
    refuse(KEY, format!("{low} is not below {high}; give the smallest first, then the largest"))
}

impl Plan {
    /// Keeps the variants in `chosen`, in that order; a name that the plan lacks may be a policy's. A baseline that is
    /// not among them gives way to the default one.
    pub(super) fn choose(&mut self, chosen: &[String]) -> Checked<()> {
        const KEY: &str = "--variants";
        let mut variants: Vec<VariantPlan> = Vec::with_capacity(chosen.len());
        for name in chosen {
            let is_planned = self.variants.iter().any(|variant| variant.name == *name);
            let named = if is_planned { None } else { Policy::canonical(name) };
            let name = named.unwrap_or(name);
            if variants.iter().any(|variant| variant.name == name) {
                return refuse(KEY, format!("{name} is given twice"));
            }
            let planned = self.variants.iter().find(|variant| variant.name == name);
            let named = Policy::NAMED.iter().find(|(known, _)| *known == name);
            variants.push(match (planned, named) {
                (Some(variant), _) => variant.clone(),
                (None, Some((name, policy))) => {
                    VariantPlan { name: (*name).to_owned(), policy: *policy }
                }
                (None, None) => {
                    return refuse(
                        KEY,
                        format!(
                            "unknown variant {name:?}; in the spec: {}; policies: {}",
                            names(&self.variants),
                            Policy::NAMED.map(|(name, _)| name).join(", ")
                        ),
                    );
                }
            });
        }
        if variants.is_empty() {
            return refuse(KEY, "names no variant");
        }
        if !variants.iter().any(|variant| variant.name == self.baseline) {
            self.baseline = default_baseline(&variants);
        }
        self.variants = variants;
        Ok(())
    }

    /// Replaces the seeds by 0 to `count` − 1.
    pub(super) fn reseed(&mut self, count: u64) -> Checked<()> {
        self.seeds = (0..whole("--seeds", count, 1..=limits::SEEDS)?).collect();
        Ok(())
    }
}
