//! Experiments as typed ([`Spec`], the TOML) and as meant ([`Plan`], validated).
//!
//! Three steps, a file each: `source` reads TOML and knows where each value stands, `typed` gives it types, `resolve`
//! fills in what was left out and refuses what cannot be. The parts of a plan are in `data`, `model` and `train`.

mod data;
mod difference;
mod keys;
mod matrix;
mod model;
mod reference;
mod resolve;
mod source;
#[cfg(test)]
mod tests;
mod train;
mod typed;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::precision::Policy;

pub use data::{
    Augment, DataPlan, IdxTest, NpyTest, TableTask, TableTest, TaskKind, TestShare, TextFiles,
    TextTest, TokensPlan,
};
pub(crate) use difference::values_that_differ;
#[doc(hidden)] // for the program
pub use matrix::Cell;
pub use model::{
    Activation, ConvBlock, ConvPlan, DecoderPlan, DecoderStyle, EncoderPlan, LayerPlan, ModelPlan,
    NormPlan, Pool, TextPool,
};
#[doc(hidden)] // for reports and this crate's tests
pub use reference::{Reference, ReferenceColumn, ReferenceColumns, ReferenceRow};
pub(crate) use resolve::{Invalid, check_names, defaults, limits};
pub use source::{Overrides, SpecError};
pub use train::{CheckpointEvery, OptimizerPlan, ScheduleKind, SchedulePlan, TrainPlan};
#[doc(hidden)] // for this crate's tests
pub use typed::Spec;

/// Counts the training images of data in files, or says why that is not possible.
#[doc(hidden)] // for the program and this crate's tests
pub type CountImages<'a> = &'a (dyn Fn(&DataPlan) -> Result<usize, String> + Sync);

/// The experiment that runs without a spec: `experiments/default.toml`.
///
/// ```
/// use mantissa::spec::{DEFAULT, Overrides, Plan};
///
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides::default())?;
/// assert_eq!((&plan.name[..], &plan.baseline[..], plan.train.batch), ("digits", "fp32", 256));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
pub const DEFAULT: &str = include_str!("../experiments/default.toml");

/// A whole experiment, resolved: no later code meets a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// The experiment's name: letters, digits, `-` and `_`; the default folder under `reports/`.
    pub name: String,
    /// The data.
    pub data: DataPlan,
    /// What learns.
    pub model: ModelPlan,
    /// A safetensors file of the weights that every run starts from; none: they are drawn from the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// How.
    pub train: TrainPlan,
    /// What is measured, and when a difference counts.
    pub measure: MeasurePlan,
    /// The variant that all are compared with.
    pub baseline: String,
    /// The variants, in the order of the tables.
    pub variants: Vec<VariantPlan>,
    /// One run a variant and seed.
    pub seeds: Vec<u64>,
    /// What the baseline is also compared with.
    #[serde(default)]
    pub controls: Vec<ControlKind>,
    /// When a claim holds.
    #[serde(default)]
    pub claims: ClaimsPlan,
    /// The file of published figures that the report shows beside these; none: it shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<PathBuf>,
}

/// The baseline trained once more: what differs then, differs without any difference of precision.
///
/// ```
/// use mantissa::spec::{ControlKind, DEFAULT, Overrides, Plan};
///
/// let set = vec!["controls=['same-seeds']".to_owned()];
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() })?;
/// assert_eq!(plan.controls, [ControlKind::SameSeeds]);
/// assert_eq!(ControlKind::SameSeeds.of("fp32"), "fp32+same-seeds");
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ControlKind {
    /// With the same seeds: the floor under every difference, 0 where training is deterministic.
    SameSeeds,
    /// With as many other seeds, each against one of the plan's: how far seeds alone move the accuracy.
    OtherSeeds,
}

impl ControlKind {
    /// The name in specs and results: `same-seeds`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SameSeeds => "same-seeds",
            Self::OtherSeeds => "other-seeds",
        }
    }

    /// The name of the control of a baseline: `fp32+same-seeds`. No variant can have a `+` in its name.
    pub fn of(self, baseline: &str) -> String {
        format!("{baseline}+{}", self.name())
    }
}

/// A control as it is trained.
#[derive(Clone, Debug, PartialEq)]
#[doc(hidden)] // for this crate's tests
pub struct ControlPlan {
    /// What it is.
    pub kind: ControlKind,
    /// The baseline's policy under the control's name, such as `fp32+same-seeds`.
    pub variant: VariantPlan,
    /// Its seeds: the i-th is compared with the i-th of the plan.
    pub seeds: Vec<u64>,
}

impl Plan {
    /// The controls, resolved; none in a plan whose baseline is not among its variants.
    #[doc(hidden)] // for this crate's tests
    pub fn control_plans(&self) -> Vec<ControlPlan> {
        let baseline = self.variants.iter().find(|variant| variant.name == self.baseline);
        let control = |kind: ControlKind| {
            let VariantPlan { name, policy } = baseline?;
            let name = kind.of(name);
            let variant = VariantPlan { name, policy: *policy };
            Some(ControlPlan { kind, variant, seeds: self.control_seeds(kind) })
        };
        self.controls.iter().filter_map(|kind| control(*kind)).collect()
    }

    /// The seed of the plan with which one of a control's is compared: the one in its place.
    pub fn paired_seed(&self, kind: ControlKind, seed: u64) -> Option<u64> {
        let place = self.control_seeds(kind).iter().position(|known| *known == seed)?;
        self.seeds.get(place).copied()
    }

    fn control_seeds(&self, kind: ControlKind) -> Vec<u64> {
        let largest = self.seeds.iter().copied().max().unwrap_or_default();
        match kind {
            ControlKind::SameSeeds => self.seeds.clone(),
            ControlKind::OtherSeeds => {
                (largest..=u64::MAX).skip(1).take(self.seeds.len()).collect()
            }
        }
    }
}

/// The thresholds of the claims. Ratios are variant ÷ FP32.
///
/// ```
/// use mantissa::spec::{ClaimsPlan, DEFAULT, Overrides, Plan};
///
/// let set = vec!["claims.train_time=0.8".to_owned()];
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() })?;
/// assert_eq!(plan.claims, ClaimsPlan { train_time: 0.8, ..ClaimsPlan::default() });
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClaimsPlan {
    /// Largest ratio of step times that confirms `train-time`.
    pub train_time: f64,
    /// Smallest and largest ratio of training memory that confirm `train-memory`.
    pub train_memory: [f64; 2],
    /// Largest ratio of inference memory that confirms `infer-memory`.
    pub inference_memory: f64,
    /// Largest ratio of inference times that confirms `infer-time`.
    pub inference_time: f64,
    /// Largest ratio of BF16's share of overflow and underflow to FP16's that confirms `bf16-robust`.
    pub rarer: f64,
    /// Smallest share of gradient values that underflow which confirms `loss-scaling`.
    pub gradient_underflow: f64,
}

impl Default for ClaimsPlan {
    fn default() -> Self {
        Self {
            train_time: defaults::TRAIN_TIME,
            train_memory: defaults::TRAIN_MEMORY,
            inference_memory: defaults::INFERENCE_MEMORY,
            inference_time: defaults::INFERENCE_TIME,
            rarer: defaults::RARER,
            gradient_underflow: defaults::GRADIENT_UNDERFLOW,
        }
    }
}

/// One policy under its name.
///
/// ```
/// use mantissa::precision::Format;
/// use mantissa::spec::{DEFAULT, Overrides, Plan, VariantPlan};
///
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides::default())?;
/// let VariantPlan { name, policy } = &plan.variants[1];
/// assert_eq!((&name[..], policy.compute, policy.params), ("fp16-mixed", Format::F16, Format::F32));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariantPlan {
    /// Unique in the plan; also a folder's name.
    pub name: String,
    /// The policy.
    #[schemars(with = "String")]
    pub policy: Policy,
}

/// What a task in Rust brings instead of the `data` and `model` of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnPlan {
    /// Training samples.
    pub train: usize,
    /// Test samples.
    pub test: usize,
    /// What is learnt.
    pub task: TaskKind,
    /// Tokens of a sequence, of a language model.
    pub length: Option<usize>,
    /// Parameters of the model.
    pub parameters: usize,
    /// Their values.
    pub values: u64,
    /// SHA-256 of whose operations compute it, and of the names, shapes and initializations of its parameters, in hexadecimal
    /// digits.
    pub digest: String,
}

impl OwnPlan {
    pub(crate) fn data(&self) -> DataPlan {
        DataPlan::Own { train: self.train, test: self.test, task: self.task }
    }

    pub(crate) fn model(&self) -> ModelPlan {
        let Self { parameters, values, digest, .. } = self.clone();
        ModelPlan::Own { parameters, values, digest }
    }
}

/// What is measured beside training.
///
/// ```
/// use mantissa::spec::{DEFAULT, Overrides, Plan};
///
/// // No timing phase.
/// let set = vec!["measure.timing_blocks=0".to_owned()];
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() })?;
/// assert_eq!((plan.measure.timing_blocks, plan.measure.census_every), (0, 50));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeasurePlan {
    /// A census every so many steps; 0: none.
    pub census_every: u64,
    /// Blocks a variant in the timing phase; 0: no timing.
    pub timing_blocks: usize,
    /// Steps in a block.
    pub timing_steps: usize,
    /// Untimed steps a variant before the first block.
    pub timing_warmup: usize,
    /// Samples in a batch of inference.
    pub inference_batch: usize,
    /// δ of a classification: accuracies closer than this, 0 to 1, are equivalent.
    pub equivalence_margin: f64,
    /// δ of a regression, as a share of the baseline's mean squared error: errors closer than this are equivalent.
    #[serde(default = "default_error_margin", skip_serializing_if = "is_default_error_margin")]
    pub error_margin: f64,
    /// How a language model is served, where that is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<ServingPlan>,
}

/// How a language model is served: tokens of prompts pass through it at once (prefill), then tokens that it generates, one by one
/// (decode), with the keys and values of earlier positions kept in the compute format.
///
/// ```
/// use mantissa::spec::{Overrides, Plan};
///
/// let plan = Plan::read("serve.toml", "
///     name = 'serve'
///     variants = ['fp32', 'bf16-mixed']
///     data = { kind = 'plain-text', train = 'text.txt', test_share = 0.5, length = 64 }
///     model = { kind = 'decoder', size = 'tiny' }
///     train = { steps = 0, batch = 1 }
///     measure = { serving = { prompt = 48 } }
/// ", &Overrides::default())?;
/// // What is not given is what is left of the 64 tokens.
/// assert_eq!(plan.measure.serving.map(|serving| serving.generate), Some(16));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServingPlan {
    /// Tokens of a prompt: the first of a sequence of the test split.
    pub prompt: usize,
    /// Tokens that are generated after each, the most probable one each time.
    pub generate: usize,
    /// Sequences at a time, beside one alone.
    pub batch: usize,
    /// Prompts on which a format's tokens are compared with those of FP32.
    pub prompts: usize,
}

/// What results mean that do not say it.
fn default_error_margin() -> f64 {
    defaults::ERROR_MARGIN
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_error_margin(margin: &f64) -> bool {
    *margin == defaults::ERROR_MARGIN
}

/// Whether a plan means the same without a key, and is written without it: as it was before there was the key.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

/// A number that f32 holds. One beyond would be read as infinite, and be written as `null`, which is no number.
fn finite<'de, D: Deserializer<'de>>(text: D) -> Result<f32, D::Error> {
    let value = f32::deserialize(text)?;
    let is_finite = value.is_finite();
    is_finite.then_some(value).ok_or_else(|| D::Error::custom("is beyond what f32 holds"))
}
