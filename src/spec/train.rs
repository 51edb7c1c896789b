//! The plan of the training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{defaults, finite};

/// Training.
///
/// ```
/// use mantissa::spec::{DEFAULT, Overrides, Plan};
///
/// let set = vec!["train.steps=500".to_owned(), "train.clip_norm=1".to_owned()];
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() })?;
/// assert_eq!((plan.train.steps, plan.train.clip_norm), (500, Some(1.0)));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrainPlan {
    /// Optimizer steps, skipped ones included. A spec's epochs are these steps from here on.
    pub steps: u64,
    /// Samples in a micro-batch.
    pub batch: usize,
    /// Micro-batches whose gradients are summed, in f32, before a step.
    pub accumulate: usize,
    /// The optimizer.
    pub optimizer: OptimizerPlan,
    /// The learning rate over the steps.
    pub schedule: SchedulePlan,
    /// Largest global norm of the unscaled gradient.
    pub clip_norm: Option<f64>,
    /// ε of label smoothing, 0 ≤ ε < 1.
    #[serde(deserialize_with = "finite")]
    pub label_smoothing: f32,
    /// Test the model every so many steps, beside the end; none: only at the end.
    pub evaluate_every: Option<u64>,
    /// Whether a GPU repeats a captured step (a CUDA graph) instead of launching each operation. Has no effect on a CPU.
    #[serde(default = "default_cuda_graphs")]
    pub cuda_graphs: bool,
    /// When a run is kept as a checkpoint, from which it goes on after an interruption. Changes no result.
    #[serde(default, skip_serializing_if = "CheckpointEvery::is_default")]
    pub checkpoint_every: CheckpointEvery,
}

/// How often a run is kept as a checkpoint.
///
/// ```
/// use mantissa::spec::{CheckpointEvery, DEFAULT, Overrides, Plan};
///
/// let every = |text: &str| {
///     let set = vec![format!("train.checkpoint_every={text}")];
///     let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() });
///     plan.map(|plan| plan.train.checkpoint_every)
/// };
/// assert_eq!(every("500"), Ok(CheckpointEvery::Steps(500)));
/// assert_eq!(every("2 min"), Ok(CheckpointEvery::Seconds(120.0)));
/// assert_eq!(every("never"), Ok(CheckpointEvery::Never));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointEvery {
    /// Only when the run is interrupted.
    Never,
    /// After so many steps.
    Steps(u64),
    /// After so many seconds, at the end of the step that is then on its way.
    Seconds(f64),
}

impl CheckpointEvery {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for CheckpointEvery {
    fn default() -> Self {
        defaults::CHECKPOINT_EVERY
    }
}

/// The optimizer.
///
/// ```
/// use mantissa::spec::{DEFAULT, OptimizerPlan, Overrides, Plan};
///
/// let set = vec!["train.optimizer={ kind = 'sgd', lr = 0.1, momentum = 0.5 }".to_owned()];
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() })?;
/// assert!(matches!(plan.train.optimizer, OptimizerPlan::Sgd { lr: 0.1, momentum: 0.5, .. }));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum OptimizerPlan {
    /// Stochastic gradient descent, `PyTorch`'s definition of momentum.
    Sgd {
        /// Peak learning rate.
        lr: f64,
        /// μ; 0 keeps no momentum.
        momentum: f64,
        /// Nesterov's form.
        nesterov: bool,
        /// L2 penalty added to the gradient.
        weight_decay: f64,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW {
        /// Peak learning rate.
        lr: f64,
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
        /// Decoupled decay.
        weight_decay: f64,
    },
}

/// The learning rate over the steps: a factor on the peak. A skipped step does not advance it.
///
/// ```
/// use mantissa::spec::{DEFAULT, Overrides, Plan, ScheduleKind};
///
/// let schedule = Plan::read("default.toml", DEFAULT, &Overrides::default())?.train.schedule;
/// assert_eq!((schedule.kind, schedule.warmup), (ScheduleKind::Cosine, 10));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SchedulePlan {
    /// The shape after the warm-up.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up from 1/warmup to 1.
    pub warmup: u64,
    /// The factor that cosine and linear end at.
    pub floor: f64,
}

/// The shape of the schedule after its warm-up.
///
/// ```
/// use mantissa::spec::ScheduleKind;
///
/// let kind: ScheduleKind = serde_json::from_str("\"linear\"")?;
/// assert_eq!(kind, ScheduleKind::Linear);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// 1 throughout.
    Constant,
    /// Half a cosine from 1 to the floor.
    Cosine,
    /// A straight line from 1 to the floor.
    Linear,
}

/// What results say that were written before there was a choice.
fn default_cuda_graphs() -> bool {
    defaults::CUDA_GRAPHS
}
