//! What a variant costs: time, work and memory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Estimate, Phases, Point};
use crate::units::{Bytes, Flops, Seconds};

/// Training speed.
///
/// ```
/// use mantissa::record::{TrainTime, VariantResult};
///
/// /// Samples that a variant trains on in a second.
/// fn speed(variant: &VariantResult) -> Option<f64> {
///     let TrainTime { samples_per_second, .. } = variant.train.as_ref()?;
///     Some(samples_per_second.value)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// The matrix products of a training step: nearly all of its arithmetic.
///
/// ```
/// use mantissa::record::VariantResult;
///
/// /// How much of the fastest product's rate a variant's training step reaches.
/// fn share(variant: &VariantResult) -> Option<f64> {
///     Some(variant.train.as_ref()?.work.as_ref()?.share_of_peak.value)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
///
/// ```
/// use mantissa::record::{GpuLoad, VariantResult};
///
/// /// Why a GPU's clocks were held back while a variant was timed.
/// fn throttled(variant: &VariantResult) -> Option<&[String]> {
///     let GpuLoad { throttled, .. } = variant.train.as_ref()?.gpu.as_ref()?;
///     Some(throttled)
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
///
/// ```
/// use mantissa::record::{Inference, VariantResult};
///
/// /// Samples of a batch of inference, and the bytes of its weights.
/// fn sizes(variant: &VariantResult) -> Option<(usize, u64)> {
///     let Inference { batch, weights, .. } = variant.inference.as_ref()?;
///     Some((*batch, weights.0))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Inference {
    /// Median time of one batch, with an interval in this run; none where the arithmetic is emulated.
    pub batch_seconds: Option<Estimate<Seconds>>,
    /// Samples in that batch.
    pub batch: usize,
    /// Peak live bytes: weights and the largest moment of the forward pass. None where memory was not measured.
    pub peak_bytes: Option<Bytes>,
    /// Bytes of the weights in that.
    pub weights: Bytes,
    /// Mean time of one batch in each timed block.
    pub blocks: Vec<Seconds>,
}

/// Memory of training by category, at the peak.
///
/// ```
/// use mantissa::record::Memory;
///
/// /// The bytes that do not depend on the batch.
/// fn fixed(memory: &Memory) -> u64 {
///     let Memory { weights, master_weights, gradients, optimizer, .. } = memory;
///     [weights, master_weights, gradients, optimizer].iter().map(|bytes| bytes.0).sum()
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// own. None on a GPU, where all policies have the same, and in older files.
    #[serde(default)]
    pub work_space: Option<Bytes>,
}
