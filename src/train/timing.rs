//! The timing phase: all variants stay loaded and take turns in short blocks, in ABBA order, so that a drifting machine
//! moves them all. No census, no batch preparation and no evaluation is inside the clock.

use candle_core::Device;

use super::run::RunError;
use super::trainer::{Inferencer, Loaded, Trainer};
use crate::data::{Batches, Dataset, augmentation};
use crate::device::{Meter, Stopwatch};
use crate::model::Model;
use crate::spec::{Plan, VariantPlan};
use crate::units::{Bytes, Seconds};

/// Steps beyond the warm-up that a loss scale may take to settle before timing starts.
const STEPS_TO_SETTLE: usize = 40;

/// The blocks of one variant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timing {
    /// Mean time of a training step in each block; empty where the arithmetic is emulated, and where training diverged: its
    /// steps no longer update.
    pub train: Vec<Seconds>,
    /// Mean time of a batch of inference in each block; empty where the arithmetic is emulated.
    pub inference: Vec<Seconds>,
    /// Peak live bytes of inference, and the weights in it; none where the arithmetic is emulated.
    pub inference_memory: Option<(Bytes, Bytes)>,
}

/// One variant, loaded.
struct Contender<'a> {
    index: usize,
    trainer: Trainer<'a>,
    inferencer: Inferencer<'a>,
    turn: usize,
    diverged: bool,
}

impl Contender<'_> {
    /// One step on the next of the prepared batches.
    fn step(&mut self, batches: &[Vec<Loaded>]) -> Result<(), RunError> {
        self.trainer.step(&batches[self.turn % batches.len()], None)?;
        self.turn += 1;
        Ok(())
    }
}

/// Times training steps and inference of every variant with native arithmetic. `progress(done, of)` is called after each
/// block. Returns one entry a variant.
///
/// # Errors
/// When the batches do not fit the data or an operation fails.
pub fn time_variants(
    plan: &Plan,
    (model, data, device): (&Model, &Dataset, &Device),
    variants: &[VariantPlan],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Timing>, RunError> {
    let seed = plan.seeds.first().copied().unwrap_or(0);
    let mut source = Batches::new(data, plan.train.batch, augmentation(&plan.data), seed)?;
    let accumulate = plan.train.accumulate as u64;
    let batches: Vec<Vec<Loaded>> = (0..plan.measure.timing_steps as u64)
        .map(|step| {
            let batches = (0..accumulate).map(|i| source.batch(step * accumulate + i));
            batches.map(|batch| Loaded::new(batch, data.shape, device)).collect()
        })
        .collect::<Result<_, _>>()?;
    let Some(sample) = source.test_batches(plan.measure.inference_batch).next() else {
        return Ok(vec![Timing::default(); variants.len()]);
    };
    let sample = Loaded::new(sample, data.shape, device)?;
    let mut timings = vec![Timing::default(); variants.len()];
    let mut contenders = Vec::new();
    for (index, variant) in variants.iter().enumerate() {
        if variant.policy.is_emulated(device.is_cuda()) {
            continue;
        }
        let mut trainer =
            Trainer::new(model, &plan.train, variant.policy, seed, (data.shape, device))?;
        let diverged = settle(&mut trainer, plan, &batches)?;
        let inferencer = trainer.for_inference()?;
        timings[index].inference_memory = Some(inference_memory(&inferencer, &sample, device)?);
        contenders.push(Contender { index, trainer, inferencer, turn: 0, diverged });
    }
    let blocks = plan.measure.timing_blocks;
    for block in 0..blocks {
        // ABBA: every other round goes through the variants backwards.
        if block % 2 == 1 {
            contenders.reverse();
        }
        for contender in &mut contenders {
            let timing = &mut timings[contender.index];
            let steps = plan.measure.timing_steps;
            time_block(contender, (&batches, &sample), steps, (timing, device))?;
        }
        if block % 2 == 1 {
            contenders.reverse();
        }
        progress(block + 1, blocks);
    }
    for contender in contenders.iter().filter(|contender| contender.diverged) {
        timings[contender.index].train.clear();
    }
    Ok(timings)
}

/// Untimed steps, until the warm-up is over, the last step made an update, and steps are done as all that follow will be. Whether the run diverged meanwhile.
fn settle(
    trainer: &mut Trainer<'_>,
    plan: &Plan,
    batches: &[Vec<Loaded>],
) -> Result<bool, RunError> {
    let warmup = plan.measure.timing_warmup.max(1);
    for step in 0..warmup + STEPS_TO_SETTLE {
        trainer.step(&batches[step % batches.len()], None)?;
        let outcomes = trainer.outcomes()?;
        if outcomes.iter().any(|outcome| outcome.ends) {
            return Ok(true);
        }
        let warm = step + 1 >= warmup && trainer.is_settled();
        if warm && outcomes.iter().all(|outcome| outcome.blamed.is_none()) {
            break;
        }
    }
    Ok(false)
}

/// The peak of one batch of inference with the weights, and the weights alone.
fn inference_memory(
    inferencer: &Inferencer<'_>,
    sample: &Loaded,
    device: &Device,
) -> Result<(Bytes, Bytes), RunError> {
    // Once without measuring, so that work space that libraries keep is there.
    inferencer.forward(sample)?;
    let weights = inferencer.weight_bytes();
    let meter = Meter::start(device)?;
    inferencer.forward(sample)?;
    Ok((Bytes(weights + meter.peak()?.0), Bytes(weights)))
}

/// One block of one variant: training steps, then batches of inference.
fn time_block(
    contender: &mut Contender<'_>,
    (batches, sample): (&[Vec<Loaded>], &Loaded),
    steps: usize,
    (timing, device): (&mut Timing, &Device),
) -> Result<(), RunError> {
    // One step outside the clock: the caches hold another variant's tensors.
    contender.step(batches)?;
    let clock = Stopwatch::start(device)?;
    for _ in 0..steps {
        contender.step(batches)?;
    }
    timing.train.push(Seconds(clock.stop()?.0 / steps as f64));
    contender.diverged |= contender.trainer.outcomes()?.iter().any(|outcome| outcome.ends);

    contender.inferencer.forward(sample)?;
    let clock = Stopwatch::start(device)?;
    for _ in 0..steps {
        contender.inferencer.forward(sample)?;
    }
    timing.inference.push(Seconds(clock.stop()?.0 / steps as f64));
    Ok(())
}
