//! The records: what a run leaves behind, and the results file of an experiment. Plain data and serde, nothing else.
//!
//! `results.json` is a contract that tools outside the project read: bytes are integers, times are seconds, ratios are
//! variant ÷ baseline, and what could not be measured is `null`, never 0.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::spec::{ControlKind, Plan};
use crate::units::{Bytes, Flops, Ratio, Seconds};

/// The version of the results file that this program writes and reads.
pub const SCHEMA: u32 = 1;

/// `results.json`: one experiment, complete or interrupted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`] of the program that wrote the file.
    pub schema: u32,
    /// The experiment's name.
    pub experiment: String,
    /// Whether every run and the timing phase finished; false after an interruption.
    pub complete: bool,
    /// The resolved spec.
    pub plan: Plan,
    /// Where it ran.
    pub environment: Environment,
    /// What it learnt from; none in files of before it was told.
    #[serde(default)]
    pub data: Option<DataFacts>,
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
    /// Which variant to use; none in files of before there were recommendations.
    #[serde(default)]
    pub recommendation: Option<Recommendation>,
}

/// The data that runs learn from: runs on other data belong to another experiment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFacts {
    /// SHA-256 of all of it, in hexadecimal digits: `Dataset::facts` says in which order.
    pub digest: String,
    /// Images of the training split.
    pub train: usize,
    /// Images of the test split.
    pub test: usize,
    /// Classes.
    pub classes: usize,
    /// Channels, height and width of an image.
    pub shape: [usize; 3],
}

impl fmt::Display for DataFacts {
    /// One line, with the beginning of the digest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { digest, train, test, classes, shape: [channels, height, width] } = self;
        let digest = digest.get(..12).unwrap_or(digest);
        write!(
            f,
            "{train} training and {test} test images of {channels} × {height} × {width}, {classes} classes, SHA-256 {digest}…"
        )
    }
}

/// What decides a run, but for its seed: runs that agree in all of it can stand in one comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// How it was trained.
    pub kind: ControlKind,
    /// What came of it, under a name such as `fp32+same-seeds`, as in its records; with other seeds, its i-th run is compared with the baseline's i-th.
    pub result: VariantResult,
}

/// What to use here: the cheapest variant whose accuracy is equivalent to the baseline's, or better.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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

/// The machine, the software and the settings that the numbers depend on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// The own name of the GPU, or of the processor with its family and model.
    pub device_name: String,
    /// Worker threads.
    pub threads: usize,
    /// Logical processors of the machine.
    pub logical_cpus: usize,
    /// Memory of the machine.
    pub memory_total: Option<Bytes>,
    /// Instruction sets that matter here and that the processor has, such as `avx2`, `f16c`, `avx512bf16`.
    pub cpu_features: Vec<String>,
    /// How each native format's products run on this processor, such as `bf16: widened to f32 (FMA)`.
    pub product_paths: Vec<String>,
    /// What the processor has for products of 16 bits and this program does not use; empty where a GPU runs, and in files of
    /// before it was recorded.
    #[serde(default)]
    pub unused_units: Vec<UnusedUnits>,
    /// Operating system and architecture.
    pub os: String,
    /// This program's version.
    pub version: String,
    /// Commit of this program's source, with `-dirty-` and the start of `source` where it had changes; none outside a checkout.
    pub git: Option<String>,
    /// SHA-256 of this program's source files, the first 12 hexadecimal digits; empty in files of before it was told.
    #[serde(default)]
    pub source: String,
    /// The compiler and the build profile.
    pub build: String,
    /// When the experiment started, UTC, as `YYYY-MM-DDTHH:MM:SSZ`.
    pub started: String,
    /// What a reader must know before trusting a number, such as a fallback to the CPU.
    pub notes: Vec<String>,
    /// The GPU that ran it; none on the CPU, and left out of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

/// Instructions of a processor that multiply one format, and that this program's products of that format do without: its times
/// say nothing of what the processor can do in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedUnits {
    /// The format's name, such as `bf16`.
    pub format: String,
    /// Their names as in `cpu_features`, such as `amx-bf16`.
    pub instructions: Vec<String>,
}

/// A GPU, its driver, and what this program was built with for it. What could not be told is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its own name.
    pub name: String,
    /// Its compute capability, such as `9.0`.
    pub compute_capability: String,
    /// Its memory.
    pub memory_total: Option<Bytes>,
    /// The driver's version.
    pub driver: Option<String>,
    /// The newest version of CUDA that the driver can run.
    pub driver_cuda: String,
    /// The version of CUDA that this program was built with.
    pub build_cuda: String,
    /// The compute capability that this program was built for.
    pub build_capability: String,
    /// The limit of its power in watts.
    pub power_limit_watts: Option<f64>,
    /// The highest clock of its multiprocessors in MHz.
    pub clock_mhz: Option<u32>,
    /// The highest clock of its memory in MHz.
    pub memory_clock_mhz: Option<u32>,
}

impl fmt::Display for Gpu {
    /// What is known, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = [
            Some(self.name.clone()),
            Some(format!("compute capability {}", self.compute_capability)),
            self.memory_total.map(|bytes| bytes.to_string()),
            self.driver.as_ref().map(|version| format!("driver {version}")),
            Some(format!("driver for CUDA {}", self.driver_cuda)),
            self.power_limit_watts.map(|watts| format!("{watts:.0} W at most")),
            self.clock_mhz.map(|clock| format!("{clock} MHz at most")),
            self.memory_clock_mhz.map(|clock| format!("memory {clock} MHz at most")),
        ];
        f.pad(&facts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// Everything measured of one variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Memory of training: the largest over the seeds.
    pub memory: Option<Memory>,
    /// Counts summed over the seeds' census steps.
    pub numerics: Numerics,
    /// The comparison with the baseline; none for the baseline itself.
    pub against_baseline: Option<AgainstBaseline>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The seed.
    pub seed: u64,
    /// How it ended.
    pub status: Status,
    /// Correct ÷ all over the test split, 0 to 1, of the weights at the end, diverged or not.
    pub test_accuracy: Option<f64>,
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

/// Why a run stopped early.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The step, from 0.
    pub step: u64,
    /// The layer to blame, where one is known.
    pub layer: Option<String>,
    /// One sentence.
    pub reason: String,
}

/// A point with its 95 % interval.
///
/// The interval of a time, or of a rate that follows from one, is that of the blocks of this run: how well the median of
/// these blocks is known. It says nothing of another run, for machines drift; ratios, paired by block, do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate<T> {
    /// The point estimate.
    pub value: T,
    /// Lower end of the interval.
    pub low: T,
    /// Upper end of the interval.
    pub high: T,
}

/// A point that has no interval, in the shape of an [`Estimate`]: both ends are `null`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The point.
    pub value: f64,
    /// None; a number in files of before, which claimed one.
    pub low: Option<f64>,
    /// As `low`.
    pub high: Option<f64>,
}

impl Point {
    /// This value.
    pub const fn of(value: f64) -> Self {
        Self { value, low: None, high: None }
    }
}

/// Training speed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainTime {
    /// Median time of one step, with an interval in this run.
    pub step_seconds: Estimate<Seconds>,
    /// Samples of the batch ÷ time of a step, with an interval in this run.
    pub samples_per_second: Estimate<f64>,
    /// Where the time of a step goes.
    #[serde(default)]
    pub phases: Option<Phases>,
    /// What a step multiplies, and how fast.
    #[serde(default)]
    pub work: Option<Work>,
    /// How the GPU was doing meanwhile; none on a CPU, and where the driver does not tell.
    #[serde(default)]
    pub gpu: Option<GpuLoad>,
    /// Mean time of one step in each timed block, in the order of the blocks: block i of every variant is a pair.
    pub blocks: Vec<Seconds>,
}

/// The time of a training step by phase: for each the median over the blocks of its mean time a step, over all
/// micro-batches.
///
/// Measured in blocks of their own, each phase between two synchronizations, on eager steps: on a GPU, where a captured step
/// has no gaps, the sum may exceed [`TrainTime::step_seconds`]. That has no `data` in it on
/// any device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Drawing the batch from the data set, augmentation included, and moving it to the device.
    pub data: Seconds,
    /// The input's cast to the compute format, the forward pass and the loss, with its gradient with respect to the logits:
    /// one operation computes both.
    pub forward: Seconds,
    /// The backward pass, and summing the gradients of micro-batches.
    pub backward: Seconds,
    /// One pass over the weight gradients that converts them to f32, unscales, counts and squares them, and the decision
    /// whether to skip or to clip. It writes no gradient: the update converts and unscales again what it reads.
    pub unscale: Seconds,
    /// The optimizer's update, and the weights' cast to the compute format in the same pass.
    pub update: Seconds,
}

impl Phases {
    /// The time of one phase.
    pub fn of(&mut self, phase: Phase) -> &mut Seconds {
        match phase {
            Phase::Data => &mut self.data,
            Phase::Forward => &mut self.forward,
            Phase::Backward => &mut self.backward,
            Phase::Unscale => &mut self.unscale,
            Phase::Update => &mut self.update,
        }
    }
}

/// A phase of a training step: a field of [`Phases`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// [`Phases::data`].
    Data,
    /// [`Phases::forward`].
    Forward,
    /// [`Phases::backward`].
    Backward,
    /// [`Phases::unscale`].
    Unscale,
    /// [`Phases::update`].
    Update,
}

/// The matrix products of a training step: nearly all of its arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Multiplications and additions in the products of one step, as they were counted.
    pub operations: u64,
    /// These, over the time of the whole step, with an interval in this run.
    pub rate: Estimate<Flops>,
    /// This program's fastest matrix multiplication of the format: the fastest of many large square products on this device,
    /// all formats in turns, before and after the timed blocks. Not what the hardware can do at most.
    pub peak: Flops,
    /// `rate` ÷ `peak`. No interval: the two are measured minutes apart, and how far the machine drifts meanwhile is not
    /// known.
    pub share_of_peak: Point,
}

/// A GPU during the timed blocks of one variant, by NVML. What it does not tell is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuLoad {
    /// Energy of one step; none where blocks are too short for the driver's counter, of which one is a fifth of a second.
    pub step_joules: Option<f64>,
    /// Mean power at the end of the blocks.
    pub power_watts: Option<f64>,
    /// Lowest clock of the multiprocessors at the end of a block.
    pub lowest_clock_mhz: Option<u32>,
    /// Highest clock of the multiprocessors at the end of a block.
    pub highest_clock_mhz: Option<u32>,
    /// Highest temperature.
    pub highest_celsius: Option<u32>,
    /// Why clocks were held back, by NVML's names.
    pub throttled: Vec<String>,
}

/// Inference in the compute format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inference {
    /// Median time of one batch, with an interval in this run; none where the arithmetic is emulated.
    pub batch_seconds: Option<Estimate<Seconds>>,
    /// Samples in that batch.
    pub batch: usize,
    /// Peak live bytes: weights and the largest moment of the forward pass.
    pub peak_bytes: Bytes,
    /// Bytes of the weights in that.
    pub weights: Bytes,
    /// Mean time of one batch in each timed block.
    pub blocks: Vec<Seconds>,
}

/// Memory of training by category, at the peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Peak of the live bytes that the run holds.
    pub peak_bytes: Bytes,
    /// Weights in the format that computes.
    pub weights: Bytes,
    /// Master weights beside them; 0 where the policy has none.
    pub master_weights: Bytes,
    /// Weight gradients.
    pub gradients: Bytes,
    /// Momentum and Adam moments.
    pub optimizer: Bytes,
    /// The rest of the peak: what forward keeps for backward, and work space.
    pub activations: Bytes,
    /// What of the activations the matrix products pack their operands into, with one thread: each thread more has some of its
    /// own. None on a GPU, where all policies have the same, and in files of before it was measured.
    #[serde(default)]
    pub work_space: Option<Bytes>,
}

/// Counts of one role over the census steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Values looked at.
    pub elements: u64,
    /// Finite before rounding, past the format's largest value after it: infinite, NaN, or held at that value.
    pub overflow: u64,
    /// Not 0 before rounding, 0 after.
    pub underflow: u64,
    /// Non-zero subnormal after rounding.
    pub subnormal: u64,
    /// NaN after rounding.
    pub nan: u64,
}

impl Counts {
    /// Both counts together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            elements: self.elements + other.elements,
            overflow: self.overflow + other.overflow,
            underflow: self.underflow + other.underflow,
            subnormal: self.subnormal + other.subnormal,
            nan: self.nan + other.nan,
        }
    }
}

/// Updates that were made and those that changed nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateCounts {
    /// Weights updated, over all steps that were not skipped.
    pub elements: u64,
    /// Of these, the ones with Δw ≠ 0 where w + Δw rounded to w.
    pub lost: u64,
}

/// What the weight gradients were, over every step, as the backward pass leaves them: still multiplied by the loss scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GradientCounts {
    /// Values looked at.
    pub elements: u64,
    /// Exact zeros.
    pub zero: u64,
    /// Subnormals of the format that the gradient came out in.
    pub subnormal: u64,
    /// Infinities.
    pub infinite: u64,
    /// NaNs.
    pub nan: u64,
}

impl GradientCounts {
    /// Both counts together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            elements: self.elements + other.elements,
            zero: self.zero + other.zero,
            subnormal: self.subnormal + other.subnormal,
            infinite: self.infinite + other.infinite,
            nan: self.nan + other.nan,
        }
    }
}

/// Counts by role. A census looks at every N-th step; `updates`, `gradients` and `skipped_steps` see every step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numerics {
    /// Weights cast to the compute format.
    pub weights: Counts,
    /// Outputs of layers, forwards.
    pub activations: Counts,
    /// Gradients with respect to activations, scaled.
    pub activation_gradients: Counts,
    /// Gradients with respect to weights, scaled.
    pub weight_gradients: Counts,
    /// Weight updates.
    pub updates: UpdateCounts,
    /// Cheap exact counts of every step.
    pub gradients: GradientCounts,
    /// Skipped steps, all seeds.
    pub skipped_steps: u64,
    /// What was counted in which steps; all 0 in files of before this was told.
    #[serde(default)]
    pub evidence: Evidence,
}

/// What is known of values that leave their format's range, all roles together: from the census steps of the plan and from rejected
/// steps between them. Under a dynamic loss scale that starts too high, the steps before a run's first update are rejected until it
/// has settled; they are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Census steps of the plan, all seeds.
    pub census_steps: u64,
    /// Rejected steps beside those that were counted, all seeds.
    pub rejected_steps: u64,
    /// Skipped steps before a run's first update, all seeds.
    pub settling_steps: u64,
    /// The counts of those that were counted.
    pub settling: Counts,
    /// The counts of all other steps that were counted.
    pub settled: Counts,
}

/// A variant against the baseline, paired by block (times) or by seed (accuracy).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgainstBaseline {
    /// The baseline's name.
    pub baseline: String,
    /// Step time, variant ÷ baseline.
    pub train_time_ratio: Option<Estimate<Ratio>>,
    /// Peak training memory, variant ÷ baseline: deterministic, so without an interval.
    pub train_memory_ratio: Option<Ratio>,
    /// Inference time, variant ÷ baseline.
    pub inference_time_ratio: Option<Estimate<Ratio>>,
    /// Peak inference memory, variant ÷ baseline.
    pub inference_memory_ratio: Option<Ratio>,
    /// Test accuracy, variant − baseline.
    pub accuracy_difference: Option<AccuracyDifference>,
}

/// The mean paired difference of test accuracy, variant − baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccuracyDifference {
    /// Mean of the differences by seed.
    pub value: f64,
    /// Lower end of the 95 % interval; none with fewer than two pairs.
    pub low: Option<f64>,
    /// Upper end of the 95 % interval.
    pub high: Option<f64>,
    /// Two-sided sign-flip permutation p, not adjusted.
    pub p: Option<f64>,
    /// `p` adjusted by Holm over the experiment's variants; none of a control, which is compared for itself.
    pub p_holm: Option<f64>,
    /// Share of pairs in which the variant is better, ties counted half.
    pub probability_better: Option<f64>,
    /// Pairs of seeds compared.
    pub pairs: usize,
    /// What follows.
    pub verdict: AccuracyVerdict,
}

/// What the paired differences allow to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccuracyVerdict {
    /// The interval lies below 0 and p < 0.05.
    Worse,
    /// The interval lies above 0 and p < 0.05.
    Better,
    /// The 90 % interval lies within ±δ of the plan, and would after one more seed had gone 5 standard deviations off.
    Equivalent,
    /// None of these: not a statement that they are the same.
    Inconclusive,
}

/// How a claim fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimVerdict {
    /// The interval lies wholly on the claim's side of the threshold.
    Confirmed,
    /// The interval lies wholly on the other side.
    Refuted,
    /// The interval straddles the threshold, or there are too few seeds.
    Inconclusive,
    /// Nothing here measures it, or what was measured leaves units of the processor unused.
    NotMeasured,
}

/// One claim judged on one variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimResult {
    /// Such as `train-time`.
    pub id: String,
    /// The variant it was judged on.
    pub variant: String,
    /// The verdict.
    pub verdict: ClaimVerdict,
    /// The number it was judged by.
    pub measured: Option<ClaimMeasure>,
    /// The threshold in words and numbers.
    pub threshold: String,
    /// What is needed to decide, where it is open.
    pub missing: Option<String>,
}

/// The number a claim was judged by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimMeasure {
    /// The point.
    pub value: f64,
    /// Lower end of the 95 % interval, where there is one.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

/// `runs/<variant>/seed-<n>/record.json`: everything one run left behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// What the run belongs to; none in records of before it was told.
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
    /// Memory of this run; none where the arithmetic is emulated.
    pub memory: Option<Memory>,
}

impl RunRecord {
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps done before it.
    pub step: u64,
    /// Correct ÷ all, 0 to 1.
    pub accuracy: f64,
    /// Mean loss; none if not finite.
    pub loss: Option<f64>,
}

/// A step whose update was skipped, because its loss or a weight gradient was not finite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// The step, from 0.
    pub step: u64,
    /// The layer to blame. Where the loss is not finite: the first of the forward pass whose result is not, as far as the
    /// weights of that step were still there when it was looked for; `loss` where all are. Otherwise the layer whose weight
    /// gradient was the first of the backward pass not to be finite.
    pub layer: String,
}

/// What a census found in one step, all layers and roles together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// The role of a tensor in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Weights cast to the compute format.
    Weights,
    /// Outputs of layers.
    Activations,
    /// Gradients with respect to activations.
    ActivationGradients,
    /// Gradients with respect to weights.
    WeightGradients,
    /// Weight updates: a histogram of Δw; what is lost is in [`UpdateCounts`].
    Updates,
}

/// Counts and exponents of one layer's tensors in one role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerCensus {
    /// The layer's name.
    pub layer: String,
    /// The role.
    pub role: Role,
    /// The counts.
    pub counts: Counts,
    /// Exponents of the values before rounding.
    pub exponents: ExponentHistogram,
}

/// How many values lie in each binade, before rounding: a value v ≠ 0 is in bin floor(log2 |v|).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExponentHistogram {
    /// Exact zeros.
    pub zeros: u64,
    /// Infinities and NaNs.
    pub non_finite: u64,
    /// Exponent of the first bin; bins before and after the listed ones are empty.
    pub first: i32,
    /// Values in each binade, from `first` on.
    pub bins: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_without_a_gpu_is_what_it_was_before_cuda() {
        let cpu = Environment::default();
        let text = serde_json::to_string(&cpu).unwrap();
        assert!(!text.contains("gpu"), "{text}");
        assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), cpu);
        let gpu = Environment { gpu: Some(Gpu::default()), ..cpu };
        let text = serde_json::to_string(&gpu).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), gpu);
    }

    #[test]
    fn what_has_no_interval_has_null_ends_and_older_files_with_ends_are_read() {
        let share = Point::of(0.5);
        let text = serde_json::to_string(&share).unwrap();
        assert_eq!(text, r#"{"value":0.5,"low":null,"high":null}"#);
        assert_eq!(serde_json::from_str::<Point>(&text).unwrap(), share);
        let older = r#"{"value":0.5,"low":0.4,"high":0.6}"#;
        let expected = Point { value: 0.5, low: Some(0.4), high: Some(0.6) };
        assert_eq!(serde_json::from_str::<Point>(older).unwrap(), expected);
    }

    #[test]
    fn unused_units_are_in_the_file_and_none_in_older_ones() {
        let units = UnusedUnits { format: "bf16".into(), instructions: vec!["amx-bf16".into()] };
        let here = Environment { unused_units: vec![units], ..Environment::default() };
        let text = serde_json::to_string(&here).unwrap();
        let named = r#""unused_units":[{"format":"bf16","instructions":["amx-bf16"]}],"#;
        assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), here);
        let older = text.replace(named, "");
        assert_ne!(older, text);
        assert_eq!(serde_json::from_str::<Environment>(&older).unwrap(), Environment::default());
    }

    #[test]
    fn a_gpu_says_what_is_known_of_it() {
        let little = Gpu {
            name: "Example GPU".into(),
            compute_capability: "9.0".into(),
            driver_cuda: "13.0".into(),
            ..Gpu::default()
        };
        let known = "Example GPU, compute capability 9.0, driver for CUDA 13.0";
        assert_eq!(little.to_string(), known);
        let all = Gpu {
            memory_total: Some(Bytes(80 << 30)),
            driver: Some("580.1".into()),
            power_limit_watts: Some(699.6),
            clock_mhz: Some(1980),
            memory_clock_mhz: Some(2619),
            ..little
        };
        assert_eq!(
            all.to_string(),
            "Example GPU, compute capability 9.0, 80.0 GiB, driver 580.1, driver for CUDA 13.0, 700 W at most, \
             1980 MHz at most, memory 2619 MHz at most"
        );
    }
}
