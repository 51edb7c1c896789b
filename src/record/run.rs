//! One run.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Counts, Environment, GradientCounts, Identity, LayerCensus, Memory, PromptAgreement,
    UpdateCounts,
};

/// How a run ended.
///
/// ```
/// use mantissa::record::Status;
///
/// assert_eq!(serde_json::from_str::<Status>("\"diverged\"")?, Status::Diverged);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All its steps were done.
    Completed,
    /// The loss became non-finite, or the loss scale fell under its floor: a result, not an error.
    Diverged,
    /// The machine or the program could not go on.
    Failed,
}

/// One run in one line.
///
/// ```
/// use mantissa::record::VariantResult;
///
/// /// The metric of each run that was done to its end.
/// fn metrics(variant: &VariantResult) -> Vec<f64> {
///     use mantissa::record::Status;
///
///     let completed = variant.runs.iter().filter(|run| run.status == Status::Completed);
///     completed.filter_map(|run| run.metric()).collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunSummary {
    /// The seed.
    pub seed: u64,
    /// How it ended.
    pub status: Status,
    /// Correct ÷ all over the test split, 0 to 1, of the weights at the end, diverged or not; only of a classification.
    pub test_accuracy: Option<f64>,
    /// Mean squared error over the test split of the weights at the end, diverged or not; only of a regression, and none if it
    /// was not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_squared_error: Option<f64>,
    /// e to the mean cross-entropy of the next token over the test split, of the weights at the end, diverged or not; only of a
    /// language model, and none if it was not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_perplexity: Option<f64>,
    /// Training loss of the last step; none if it was not finite.
    pub final_loss: Option<f64>,
    /// Steps attempted, skipped ones included.
    pub steps: u64,
    /// Steps whose update was skipped because the loss or a weight gradient was not finite.
    pub skipped_steps: u64,
    /// SHA-256 of the final weights as f32, little-endian, in the order of the parameters; none of a failed run.
    pub weights_digest: Option<String>,
    /// Why and where it stopped early.
    pub failure: Option<Failure>,
}

impl RunSummary {
    /// The value of the experiment's metric.
    pub fn metric(&self) -> Option<f64> {
        self.test_accuracy.or(self.test_squared_error).or(self.test_perplexity)
    }
}

/// Why a run stopped early.
///
/// ```
/// use mantissa::record::Failure;
///
/// let text = r#"{ "step": 7, "layer": "output", "reason": "the loss is not finite" }"#;
/// let failure: Failure = serde_json::from_str(text)?;
/// assert_eq!((failure.step, failure.layer.as_deref()), (7, Some("output")));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// The step, from 0.
    pub step: u64,
    /// The layer to blame, where one is known.
    pub layer: Option<String>,
    /// One sentence.
    pub reason: String,
}

/// `runs/<variant>/seed-<n>/record.json`: everything one run left behind.
///
/// ```
/// use mantissa::record::RunRecord;
///
/// /// The lowest training loss of a run.
/// fn lowest(record: &RunRecord) -> Option<f64> {
///     record.loss.iter().flatten().copied().reduce(f64::min)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunRecord {
    /// What the run belongs to; absent in older records.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// The variant's name.
    pub variant: String,
    /// The run in one line.
    pub summary: RunSummary,
    /// Training loss of each step; `null` where it was not finite.
    pub loss: Vec<Option<f64>>,
    /// Accuracy and loss on the test split along the way.
    pub evaluations: Vec<Evaluation>,
    /// The loss scale: each change as (first step it holds for, scale); empty without loss scaling.
    pub scale: Vec<(u64, f64)>,
    /// The skipped steps.
    pub skips: Vec<Skip>,
    /// Counts by layer and role, summed over the census steps of the plan.
    pub census: Vec<LayerCensus>,
    /// The part of `census` that was counted before the first update, while the loss scale came down.
    #[serde(default)]
    pub settling_census: Vec<LayerCensus>,
    /// Steps of the plan on which a census was taken.
    pub census_steps: Vec<u64>,
    /// Counts of rejected steps between those, as far as their weights were still there: of the first sixteen, and of the one
    /// that ended the run.
    #[serde(default)]
    pub rejected_census: Vec<LayerCensus>,
    /// Every step that has a census, the plan's and the rejected ones, in order of counting.
    #[serde(default)]
    pub counted_steps: Vec<CountedStep>,
    /// Updates over every step.
    pub updates: UpdateCounts,
    /// Weight gradients over every step.
    pub gradients: GradientCounts,
    /// Memory of this run; none where the arithmetic is emulated, and where memory was not measured.
    pub memory: Option<Memory>,
    /// How far the tokens that it generates are from those of FP32, a prompt each; none where that was not asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agreement: Vec<PromptAgreement>,
    /// What it ran on; absent in older records.
    #[serde(default)]
    pub machine: Option<RunMachine>,
}

/// What a run ran on, as far as its numbers may depend on it.
///
/// ```
/// use mantissa::record::RunRecord;
///
/// /// Whether the same bits can be expected of two runs.
/// fn ran_alike(one: &RunRecord, other: &RunRecord) -> bool {
///     one.machine.is_some() && one.machine == other.machine
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct RunMachine {
    /// `cpu` or `cuda`.
    pub device: String,
    /// The own name of the GPU, or of the processor with its family and model.
    pub device_name: String,
    /// The version of the GPU's driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// How each native format's products ran.
    pub product_paths: Vec<String>,
}

/// The runs of an experiment that were done on one kind of machine.
///
/// ```
/// use mantissa::record::{MachineRuns, Results};
///
/// /// Which seeds of a variant were run on a device.
/// fn seeds_on<'r>(results: &'r Results, device: &str, variant: &str) -> Option<&'r [u64]> {
///     let on = |runs: &&MachineRuns| runs.machine.device_name == device;
///     results.machines.iter().find(on)?.seeds.get(variant).map(Vec::as_slice)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MachineRuns {
    /// The kind of machine.
    pub machine: RunMachine,
    /// The seeds of each variant and control.
    pub seeds: BTreeMap<String, Vec<u64>>,
}

impl RunMachine {
    /// What of an environment a run's numbers may depend on.
    pub fn of(environment: &Environment) -> Self {
        let Environment { device, device_name, product_paths, gpu, .. } = environment;
        let kind = device.split(':').next().unwrap_or_default();
        Self {
            device: kind.to_owned(),
            device_name: device_name.clone(),
            driver: gpu.as_ref().and_then(|gpu| gpu.driver.clone()),
            product_paths: product_paths.clone(),
        }
    }
}

impl RunRecord {
    /// One that says how a run went, and nothing else.
    ///
    /// ```
    /// use mantissa::record::{RunRecord, RunSummary};
    ///
    /// /// A record of a run, with its losses.
    /// fn record(variant: &str, summary: RunSummary, loss: Vec<Option<f64>>) -> RunRecord {
    ///     RunRecord { loss, ..RunRecord::new(variant, summary) }
    /// }
    /// ```
    pub fn new(variant: &str, summary: RunSummary) -> Self {
        Self {
            identity: None,
            variant: variant.to_owned(),
            summary,
            loss: Vec::new(),
            evaluations: Vec::new(),
            scale: Vec::new(),
            skips: Vec::new(),
            census: Vec::new(),
            settling_census: Vec::new(),
            census_steps: Vec::new(),
            rejected_census: Vec::new(),
            counted_steps: Vec::new(),
            updates: UpdateCounts::default(),
            gradients: GradientCounts::default(),
            memory: None,
            agreement: Vec::new(),
            machine: None,
        }
    }

    /// Steps that were skipped before the first update while the loss scale came down: those from step 0 on without a gap; 0 of
    /// a run that never made an update.
    pub fn settling_steps(&self) -> u64 {
        let skipped = self.skips.iter().zip(0..).take_while(|(skip, step)| skip.step == *step);
        let skipped = skipped.count() as u64;
        let scale_moves = self.scale.len() > 1;
        if scale_moves && skipped < self.summary.steps { skipped } else { 0 }
    }
}

/// The model on the test split at one step.
///
/// ```
/// use mantissa::record::RunRecord;
///
/// /// The metric of a run along the way, each with the steps done before.
/// fn curve(record: &RunRecord) -> Vec<(u64, Option<f64>)> {
///     record.evaluations.iter().map(|evaluation| (evaluation.step, evaluation.metric())).collect()
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evaluation {
    /// Steps done before it.
    pub step: u64,
    /// Correct ÷ all, 0 to 1; only of a classification.
    pub accuracy: Option<f64>,
    /// Mean squared error; only of a regression, and none if not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub squared_error: Option<f64>,
    /// e to the mean loss; only of a language model, and none if not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Mean loss; none if not finite.
    pub loss: Option<f64>,
}

impl Evaluation {
    /// The value of the experiment's metric.
    pub fn metric(&self) -> Option<f64> {
        self.accuracy.or(self.squared_error).or(self.perplexity)
    }
}

/// A step whose update was skipped, because its loss or a weight gradient was not finite.
///
/// ```
/// use mantissa::record::{RunRecord, Skip};
///
/// /// The steps of a run that were skipped because of one layer.
/// fn because_of(record: &RunRecord, blamed: &str) -> Vec<u64> {
///     let skips = record.skips.iter().filter(|Skip { layer, .. }| layer == blamed);
///     skips.map(|skip| skip.step).collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Skip {
    /// The step, from 0.
    pub step: u64,
    /// The layer to blame. Where the loss is not finite: the first of the forward pass whose result is not, as far as the
    /// weights of that step were still there when it was looked for; `loss` where all are. Otherwise the layer whose weight
    /// gradient was the first of the backward pass not to be finite.
    pub layer: String,
}

/// What a census found in one step, all layers and roles together.
///
/// ```
/// use mantissa::record::RunRecord;
///
/// /// The steps of a run in which values became 0 that were not.
/// fn underflowed(record: &RunRecord) -> Vec<u64> {
///     let steps = record.counted_steps.iter().filter(|step| step.counts.underflow > 0);
///     steps.map(|step| step.step).collect()
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CountedStep {
    /// The step, from 0.
    pub step: u64,
    /// Whether the plan asked for it; else it was counted because it was rejected.
    pub planned: bool,
    /// Whether its update was made.
    pub applied: bool,
    /// The counts.
    pub counts: Counts,
}
