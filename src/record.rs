//! The records: what a run leaves behind, and the results file of an experiment. Plain data and serde, nothing else.
//!
//! `results.json` is a contract that tools outside the project read: bytes are integers, times are seconds, ratios are
//! variant ÷ baseline, and what could not be measured is `null`, never 0. `schema` writes it down.
//!
//! ```no_run
//! use mantissa::record::Results;
//!
//! let results: Results = serde_json::from_str(&std::fs::read_to_string("results/default/results.json")?)?;
//! for variant in &results.variants {
//!     let seconds = variant.train.as_ref().map(|train| train.step_seconds.value.0);
//!     println!("{}: {seconds:?} seconds a step", variant.name);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod comparison;
mod cost;
mod estimate;
#[doc(hidden)] // for the program and this crate's tests
pub mod files;
mod kinds;
mod metric;
mod numerics;
mod run;
#[doc(hidden)] // for the program and this crate's tests
pub mod schema;
mod serving;

pub use comparison::*;
pub use cost::*;
pub use estimate::*;
pub use kinds::*;
pub use metric::*;
pub use numerics::*;
pub use run::*;
pub use serving::*;

// What the engine counts and knows, as it is written.
pub use crate::data::DataFacts;
pub use crate::device::{Environment, Gpu, Phases, UnusedUnits};
pub use crate::model::Engine;
pub use crate::numerics::{Counts, ExponentHistogram, LayerCensus, Role};
pub use crate::ops::GradientCounts;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::{ControlKind, Plan, Reference};

/// The version of the results file that this program writes and reads.
///
/// ```
/// use mantissa::record::{Results, SCHEMA};
///
/// /// Whether this program wrote results in the form that it reads.
/// fn is_current(results: &Results) -> bool {
///     results.schema == SCHEMA
/// }
/// ```
pub const SCHEMA: u32 = 1;

/// `results.json`: one experiment, complete or interrupted.
///
/// ```
/// use mantissa::record::Results;
///
/// /// The policies of an experiment, by variant.
/// fn policies(results: &Results) -> Vec<(&str, &str)> {
///     results.variants.iter().map(|variant| (&variant.name[..], &variant.policy[..])).collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Results {
    /// Version of this form: 1.
    pub schema: u32,
    /// The experiment's name.
    pub experiment: String,
    /// Whether every run and the timing phase finished; false after an interruption.
    pub complete: bool,
    /// The resolved spec.
    pub plan: Plan,
    /// Whose operations computed the models; left out of the file where they are this program's.
    #[serde(default, skip_serializing_if = "Engine::is_own")]
    pub engine: Engine,
    /// Where it ran.
    pub environment: Environment,
    /// The data; absent in older files.
    #[serde(default)]
    pub data: Option<DataFacts>,
    /// The kinds of machine that did the runs; empty where all were done on one, which `environment` is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<MachineRuns>,
    /// What models are judged by; absent in older files, where it is the accuracy.
    #[serde(default)]
    pub metric: TestMetric,
    /// One entry a variant, in the plan's order.
    pub variants: Vec<VariantResult>,
    /// The verdict on each claim and variant.
    pub claims: Vec<ClaimResult>,
    /// The baseline against itself, as far as the plan asks for it.
    #[serde(default)]
    pub controls: Vec<Control>,
    /// The share of all processors' time, 0 to 1, that other programs took during the timing phase; none where the system does
    /// not tell.
    #[serde(default)]
    pub other_load: Option<f64>,
    /// Which variant to use; absent in older files.
    #[serde(default)]
    pub recommendation: Option<Recommendation>,
    /// The kind of machine of `environment` and of the times, where the plan names kinds; left out where it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_kind: Option<String>,
    /// The times on the other kinds of machine that the plan names, in its order; left out where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_kinds: Vec<KindTimes>,
    /// Published figures to show beside these, as the plan's file had them; left out where the plan names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
}

impl DataFacts {
    /// What a model of this data is judged by.
    pub fn metric(&self) -> TestMetric {
        match self.target_values {
            None if self.next_tokens => TestMetric::Perplexity,
            None => TestMetric::Accuracy,
            Some(_) => TestMetric::MeanSquaredError,
        }
    }
}

/// What decides a run, but for its seed: runs that agree in all of it can stand in one comparison.
///
/// ```
/// use mantissa::record::{Identity, RunRecord};
///
/// /// Whether two runs can stand in one comparison.
/// fn are_comparable(one: &RunRecord, other: &RunRecord) -> bool {
///     one.identity.is_some() && one.identity == other.identity
/// }
///
/// assert_eq!(Identity::default().product_paths, [""; 0]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// SHA-256 of what the plan says of the run (model, training, augmentation, what is counted, and the policy) as compact JSON, in
    /// hexadecimal digits. Another number of seeds, or one more variant, is another experiment with the same runs.
    pub plan: String,
    /// The program: version, commit, sources, compiler and profile.
    pub build: String,
    /// The device's name.
    pub device: String,
    /// How each native format's products run there: another way may give other bits.
    pub product_paths: Vec<String>,
    /// The data.
    pub data: DataFacts,
}

/// The baseline trained once more, and compared with its first training as a variant is.
///
/// ```
/// use mantissa::record::Results;
/// use mantissa::spec::ControlKind;
///
/// /// How many runs of the baseline were done again with the same seeds.
/// fn repeated(results: &Results) -> usize {
///     let control = results.controls.iter().find(|control| control.kind == ControlKind::SameSeeds);
///     control.map_or(0, |control| control.result.runs.len())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Control {
    /// How it was trained.
    pub kind: ControlKind,
    /// What came of it, under a name such as `fp32+same-seeds`, as in its records; with other seeds, its i-th run is compared with the baseline's i-th.
    pub result: VariantResult,
}

/// What to use here: the cheapest variant whose accuracy is equivalent to the baseline's, or better.
///
/// ```
/// use mantissa::record::Recommendation;
///
/// /// What to use now.
/// fn choice(recommendation: &Recommendation) -> Option<&str> {
///     recommendation.variant.as_deref().or(recommendation.provisional.as_deref())
/// }
///
/// let provisional = Some("fp32".to_owned());
/// assert_eq!(choice(&Recommendation { provisional, ..Recommendation::default() }), Some("fp32"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Recommendation {
    /// The variant; the baseline where nothing cheaper is as good; none while nothing can be said.
    pub variant: Option<String>,
    /// One sentence: what speaks for it, with its numbers, or why nothing can be recommended.
    pub reason: String,
    /// What to use until something can be recommended; none where something is, and where the baseline failed too.
    #[serde(default)]
    pub provisional: Option<String>,
    /// What to use where memory is short, if that is another variant.
    #[serde(default)]
    pub for_memory: Option<String>,
    /// What to run to settle what is open, in words and as arguments.
    #[serde(default)]
    pub needed: Option<String>,
    /// Seeds to add before more can be said, where more would help.
    pub more_seeds: Option<u64>,
    /// Timing blocks to add before more can be said, where more would help.
    #[serde(default)]
    pub more_blocks: Option<u64>,
}

/// Everything measured of one variant.
///
/// ```
/// use mantissa::record::{Status, VariantResult};
///
/// /// The seeds with which a variant diverged.
/// fn diverged(variant: &VariantResult) -> Vec<u64> {
///     let diverged = variant.runs.iter().filter(|run| run.status == Status::Diverged);
///     diverged.map(|run| run.seed).collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariantResult {
    /// The variant's name.
    pub name: String,
    /// The policy's text form.
    pub policy: String,
    /// Whether the arithmetic is emulated: then its times say nothing of hardware and are `null`.
    pub emulated: bool,
    /// One entry a seed, in the plan's order; fewer after an interruption.
    pub runs: Vec<RunSummary>,
    /// Training speed, from the timing phase.
    pub train: Option<TrainTime>,
    /// Why there is no training speed, where one could be expected.
    #[serde(default)]
    pub untimed: Option<String>,
    /// Inference time and memory with weights in the compute format only.
    pub inference: Option<Inference>,
    /// Serving of a language model; none where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
    /// Memory of training: the largest over the seeds; none where it was not measured.
    pub memory: Option<Memory>,
    /// Counts summed over the seeds' census steps.
    pub numerics: Numerics,
    /// The comparison with the baseline; none for the baseline itself.
    pub against_baseline: Option<AgainstBaseline>,
}
