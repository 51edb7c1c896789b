//! The timing phase: all variants stay loaded and take turns in short blocks, in ABBA order, so that a drifting machine
//! moves them all. No census, no batch preparation and no evaluation is inside the clock. What the phases of a step take is
//! measured on other steps, behind each block.

use std::ops::{ControlFlow, Range};

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::peak::Peaks;
use super::run::{RunError, loader};
use super::serving::{Prompts, ServingTimes};
use super::trainer::Trainer;
use super::{DeviceBatch, Inferencer, Setup};
use crate::data::Batches;
use crate::device::{Meter, PhaseClock, Probe, Reading, Stopwatch};
use crate::ops;
use crate::precision::Format;
use crate::record::{GpuLoad, Phases};
use crate::spec::{MeasurePlan, VariantPlan};
use crate::units::{Bytes, Flops, Seconds};

/// Steps beyond the warm-up that a loss scale may take to settle before timing starts.
const STEPS_TO_SETTLE: usize = 40;

/// Products of each format before the blocks, and beside each round of them, of which the fastest is the peak.
const PRODUCTS: (usize, usize) = (5, 3);

/// So many steps lie between the batches that two variants draw when their steps are timed by phase: who comes second would
/// find the images of the first in the caches. Texts are small, and of different lengths: there all variants draw the same.
const STEPS_APART: u64 = 1009;

/// Steps, and micro-batches of each, that are on the device while the clock runs, at most. Steps beyond take them again.
const PREPARED: usize = 8;

/// Steps on texts that are on the device: more, since they differ, and take little memory.
const PREPARED_OF_TEXTS: usize = 64;

/// The blocks of one variant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Mean time of a training step in each block; empty where the arithmetic is emulated, and where training diverged: its
    /// steps no longer update.
    pub train: Vec<Seconds>,
    /// Mean time of a step by phase, measured behind each of these blocks.
    pub phases: Vec<Phases>,
    /// Operations of the products of one step, and this program's fastest product of the format.
    pub work: Option<(u64, Flops)>,
    /// How the GPU was doing meanwhile.
    pub load: Load,
    /// Mean time of a batch of inference in each block; empty where the arithmetic is emulated.
    pub inference: Vec<Seconds>,
    /// Serving of a language model, of one sequence and of a batch; empty where it was not asked for, and where the arithmetic is
    /// emulated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serving: Vec<ServingTimes>,
    /// Why there are no times, where some could be expected.
    pub failure: Option<String>,
    /// Peak live bytes of inference, where memory is measured, and the weights in it; none where the arithmetic is emulated.
    pub inference_memory: Option<(Option<Bytes>, Bytes)>,
}

impl Timing {
    /// No times, and why.
    pub fn failed(error: &RunError) -> Self {
        Self { failure: Some(error.to_string()), ..Self::default() }
    }

    /// These blocks and `later` ones of the same variant; `blocks` says how many the phase had then, and how many later. Where
    /// one of them is missing, as of a variant that failed, there are no times, as in one phase: the blocks of all variants
    /// are pairs.
    #[must_use]
    pub fn followed_by(mut self, later: Self, blocks: (usize, usize)) -> Self {
        let fastest = |old: (u64, Flops), new: (u64, Flops)| (new.0, Flops(old.1.0.max(new.1.0)));
        self.load.append(later.load);
        Self {
            train: joined(self.train, later.train, blocks),
            phases: joined(self.phases, later.phases, blocks),
            work: match (self.work, later.work) {
                (Some(old), Some(new)) => Some(fastest(old, new)),
                (old, new) => new.or(old),
            },
            load: self.load,
            inference: joined(self.inference, later.inference, blocks),
            serving: joined_serving(self.serving, later.serving, blocks),
            failure: self.failure.or(later.failure),
            inference_memory: self.inference_memory.and(later.inference_memory),
        }
    }
}

/// All of them where none is missing, else none.
fn joined<T>(mut first: Vec<T>, later: Vec<T>, (blocks, more): (usize, usize)) -> Vec<T> {
    if (first.len(), later.len()) != (blocks, more) {
        return Vec::new();
    }
    first.extend(later);
    first
}

/// As [`joined`], of each batch.
fn joined_serving(
    first: Vec<ServingTimes>,
    later: Vec<ServingTimes>,
    blocks: (usize, usize),
) -> Vec<ServingTimes> {
    if blocks.0 == 0 {
        return later;
    }
    let pairs = first.into_iter().zip(later);
    let joined = pairs.map(|(old, new)| ServingTimes {
        prefill: joined(old.prefill, new.prefill, blocks),
        decode: joined(old.decode, new.decode, blocks),
        ..new
    });
    joined.collect()
}

/// One variant, loaded.
struct TimedVariant<'a> {
    index: usize,
    trainer: Trainer<'a>,
    inferencer: Inferencer,
    /// Steps, and batches of inference, so far: which of the prepared ones is next.
    turn: usize,
    inferred: usize,
    /// Where steps that are timed by phase draw their batches from, and which step's are next: where batches differ, which of the steps
    /// that all variants have.
    source: Batches<'a>,
    drawn: u64,
    diverged: bool,
    load: Load,
}

/// The batches that all variants are timed on.
struct Prepared {
    /// Micro-batches of training steps, and which steps of a run these are.
    steps: Vec<Vec<DeviceBatch>>,
    numbers: Vec<u64>,
    /// Batches of inference.
    inference: Vec<DeviceBatch>,
    /// What a language model is served.
    prompts: Option<Prompts>,
    /// The test batch whose memory is measured: the largest.
    largest: DeviceBatch,
}

impl Prepared {
    /// None of a test split without samples.
    fn new(source: &mut Batches<'_>, setup: Setup<'_>) -> Result<Option<Self>, RunError> {
        let Setup { task, train, measure, device, .. } = setup;
        let (image, accumulate) = (task.data.shape(), train.accumulate);
        let most = if source.are_alike() { PREPARED } else { PREPARED_OF_TEXTS };
        let most = measure.timing_steps.min(most);
        let numbers = source.timed_steps(most, accumulate);
        let steps = numbers.iter().map(|step| {
            let load = loader(source, (*step, accumulate), (image, device));
            (0..accumulate.min(PREPARED)).map(load).collect()
        });
        let steps = steps.collect::<candle_core::Result<Vec<_>>>()?;
        let Some(largest) = source.test_batches(measure.inference_batch).next() else {
            return Ok(None);
        };
        let inference = source.timed_test_batches(measure.inference_batch, most)?;
        let on_device = |batch| DeviceBatch::new(batch, image, device);
        let largest = on_device(largest?)?;
        let inference = inference.into_iter().map(on_device).collect::<candle_core::Result<_>>()?;
        let prompts = Prompts::of(setup);
        Ok(Some(Self { steps, numbers, inference, prompts, largest }))
    }
}

/// What was seen of the GPU during one variant's blocks of training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Energy and time of blocks long enough for the driver's counter of energy.
    joules: f64,
    steps: usize,
    readings: Vec<Reading>,
}

impl Load {
    /// Seconds that a block must take for its energy to mean something: the counter moves every tenth of a second or so.
    const BLOCK_SECONDS: f64 = 0.2;

    /// Takes in the readings before and after a block of `steps` steps.
    fn add(&mut self, before: &Reading, after: Reading, (steps, seconds): (usize, f64)) {
        if let (Some(start), Some(end)) = (before.joules, after.joules)
            && seconds >= Self::BLOCK_SECONDS
        {
            self.joules += end - start;
            self.steps += steps;
        }
        self.readings.push(after);
    }

    fn append(&mut self, later: Self) {
        self.joules += later.joules;
        self.steps += later.steps;
        self.readings.extend(later.readings);
    }

    /// What is recorded; none where there was nothing to read.
    pub fn summary(&self) -> Option<GpuLoad> {
        let readings = || self.readings.iter();
        readings().next()?;
        let watts: Vec<f64> = readings().filter_map(|reading| reading.watts).collect();
        let mut throttled: Vec<String> =
            readings().flat_map(|reading| reading.throttled.clone()).collect();
        throttled.sort();
        throttled.dedup();
        Some(GpuLoad {
            step_joules: (self.steps > 0).then(|| self.joules / self.steps as f64),
            power_watts: (!watts.is_empty())
                .then(|| watts.iter().sum::<f64>() / watts.len() as f64),
            lowest_clock_mhz: readings().filter_map(|reading| reading.clock_mhz).min(),
            highest_clock_mhz: readings().filter_map(|reading| reading.clock_mhz).max(),
            highest_celsius: readings().filter_map(|reading| reading.celsius).max(),
            throttled,
        })
    }
}

impl<'a> TimedVariant<'a> {
    /// A variant that is settled, with what can be said of it before the clock starts.
    fn load(
        (index, mut trainer): (usize, Trainer<'a>),
        measure: &MeasurePlan,
        (source, prepared): (&Batches<'a>, &Prepared),
        timing: &mut Timing,
    ) -> Result<Self, RunError> {
        let diverged = trainer.trains() && settle(&mut trainer, measure, &prepared.steps)?;
        let inferencer = trainer.for_inference()?;
        let memory = inference_memory(&inferencer, &prepared.largest, trainer.device())?;
        timing.inference_memory = Some(memory);
        if let Some(prompts) = &prepared.prompts {
            timing.serving = prompts.measure(&inferencer)?;
        }
        let (source, load) = (source.clone(), Load::default());
        let drawn = if source.are_alike() { index as u64 * STEPS_APART } else { 0 };
        let (turn, inferred) = (0, 0);
        Ok(Self { index, trainer, inferencer, turn, inferred, source, drawn, diverged, load })
    }

    /// One step on the next of the prepared batches.
    fn step(&mut self, batches: &[Vec<DeviceBatch>]) -> Result<(), RunError> {
        self.trainer.step(&mut prepared(batches, self.turn), None)?;
        self.turn += 1;
        Ok(())
    }

    /// Inference on the next of the prepared batches.
    fn infer(&mut self, batches: &[DeviceBatch]) -> Result<(), RunError> {
        self.inferencer.forward(&batches[self.inferred % batches.len()])?;
        self.inferred += 1;
        Ok(())
    }

    /// The mean time of each phase over `steps` steps on batches that are loaded as a run loads them: new ones where all are alike, else
    /// those of the steps `numbers`, which all variants have.
    fn phases(
        &mut self,
        steps: usize,
        accumulate: usize,
        numbers: &[u64],
    ) -> Result<Phases, RunError> {
        let device = self.trainer.device().clone();
        let mut clock = PhaseClock::new(&device);
        for _ in 0..steps {
            let step = if self.source.are_alike() {
                self.drawn
            } else {
                numbers[self.drawn as usize % numbers.len()]
            };
            let step = (step, accumulate);
            let mut load = loader(&mut self.source, step, (self.trainer.image(), &device));
            self.trainer.phased_step(&mut load, &mut clock)?;
            self.drawn += 1;
        }
        Ok(clock.mean(steps))
    }

    /// What is said after the last block.
    fn conclude(&self, timing: &mut Timing, peaks: &Peaks) {
        timing.load = self.load.clone();
        let peak = peaks.of(self.trainer.policy().compute);
        timing.work = peak.map(|peak| (self.trainer.operations(), peak));
        if self.diverged {
            (timing.train, timing.phases) = (Vec::new(), Vec::new());
            timing.failure = Some("training diverged, and its steps no longer update".to_owned());
        }
    }

    /// Learns whether the steps so far ended the run. Outside the clock: a GPU keeps the outcomes of fewer steps than a block
    /// may have, and to read them meanwhile would stop it.
    fn check(&mut self) -> Result<(), RunError> {
        self.diverged |= self.trainer.is_over()?;
        Ok(())
    }
}

/// What is timed in one call.
#[derive(Clone, Debug)]
pub struct Phase {
    /// These blocks of the phase: all, or those that follow the ones of an earlier call ([`Timing::followed_by`]).
    pub blocks: Range<usize>,
    /// Whether the fastest products of each format are measured beside.
    pub products: bool,
}

impl Phase {
    /// The whole timing phase.
    pub fn all(measure: &MeasurePlan) -> Self {
        Self { blocks: 0..measure.timing_blocks, products: true }
    }
}

/// Times training steps and inference of every variant with native arithmetic. `progress(done, of)` is called after each
/// block; where it breaks, that block was the last. Returns one entry a variant.
///
/// # Errors
/// When the batches do not fit the data or an operation fails.
pub fn time_variants(
    setup: Setup<'_>,
    seed: u64,
    variants: &[VariantPlan],
    Phase { blocks, products }: Phase,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Timing>, RunError> {
    let Setup { measure, device, .. } = setup;
    let mut source = setup.batches(seed)?;
    let Some(prepared) = Prepared::new(&mut source, setup)? else {
        return Ok(vec![Timing::default(); variants.len()]);
    };
    let has_peaks = products && !blocks.is_empty();
    let mut peaks = peaks(if has_peaks { variants } else { &[] }, device);
    let mut timings = vec![Timing::default(); variants.len()];
    let mut timed = Vec::new();
    for (index, variant) in variants.iter().enumerate() {
        if variant.policy.is_emulated(device.is_cuda()) {
            continue;
        }
        let trainer = Trainer::new(setup, variant.policy, seed);
        let loaded = trainer.map_err(RunError::from).and_then(|trainer| {
            let timing = &mut timings[index];
            TimedVariant::load((index, trainer), measure, (&source, &prepared), timing)
        });
        match loaded {
            Ok(variant) => timed.push(variant),
            Err(error) => timings[index] = Timing::failed(&error),
        }
    }
    let probe = Probe::of(device);
    let (first, of) = (blocks.start, blocks.len());
    for block in blocks {
        // ABBA: every other round goes through the variants backwards.
        if block % 2 == 1 {
            timed.reverse();
        }
        timed.retain_mut(|variant| {
            let timing = &mut timings[variant.index];
            let outcome = time_block(variant, &prepared, setup, (timing, &probe));
            outcome.map_err(|error| *timing = Timing::failed(&error)).is_ok()
        });
        if block % 2 == 1 {
            timed.reverse();
        }
        // What was fastest so far stands where these fail, as for want of memory.
        peaks.measure(PRODUCTS.1).ok();
        if progress(block + 1 - first, of).is_break() {
            break;
        }
    }
    for variant in &timed {
        variant.conclude(&mut timings[variant.index], &peaks);
    }
    Ok(timings)
}

/// How fast products are in each format that a variant computes in: once a format, so that variants of one format are held
/// against one number. None where there is no memory even for small matrices.
fn peaks(variants: &[VariantPlan], device: &Device) -> Peaks {
    let mut formats: Vec<Format> = Vec::new();
    for VariantPlan { policy, .. } in variants {
        if !policy.is_emulated(device.is_cuda()) && !formats.contains(&policy.compute) {
            formats.push(policy.compute);
        }
    }
    let measured = Peaks::new(&formats, device)
        .and_then(|mut peaks| peaks.measure(PRODUCTS.0).map(|()| peaks));
    measured.unwrap_or_default()
}

/// Untimed steps, until the warm-up is over, the last step made an update, and steps are done as all that follow will be. Whether the run diverged meanwhile.
fn settle(
    trainer: &mut Trainer<'_>,
    measure: &MeasurePlan,
    batches: &[Vec<DeviceBatch>],
) -> Result<bool, RunError> {
    let warmup = measure.timing_warmup.max(1);
    for step in 0..warmup + STEPS_TO_SETTLE {
        trainer.step(&mut prepared(batches, step), None)?;
        let outcomes = trainer.outcomes()?;
        if outcomes.iter().any(|outcome| outcome.ends) {
            return Ok(true);
        }
        let warm = step + 1 >= warmup && trainer.is_settled();
        if warm && outcomes.iter().all(|outcome| outcome.applied) {
            break;
        }
    }
    Ok(false)
}

/// What hands out the prepared micro-batches of a step.
fn prepared(
    batches: &[Vec<DeviceBatch>],
    step: usize,
) -> impl FnMut(usize) -> candle_core::Result<DeviceBatch> {
    let batches = &batches[step % batches.len()];
    move |index| Ok(batches[index % batches.len()].clone())
}

/// The peak of one batch of inference with the weights and the batch in the compute format, where memory is measured, and the
/// weights alone.
fn inference_memory(
    inferencer: &Inferencer,
    sample: &DeviceBatch,
    device: &Device,
) -> Result<(Option<Bytes>, Bytes), RunError> {
    // Once without measuring, so that work space that libraries keep is there.
    inferencer.forward(sample)?;
    let weights = inferencer.weight_bytes();
    let forward = || inferencer.forward(sample).map(drop);
    let work_space = if device.is_cpu() { ops::work_space(forward)? } else { Some(Bytes(0)) };
    let (Some(work_space), Some(meter)) = (work_space, Meter::start(device)?) else {
        return Ok((None, Bytes(weights)));
    };
    inferencer.forward_own(sample)?;
    Ok((Some(Bytes(weights + meter.peak()?.0 + work_space.0)), Bytes(weights)))
}

/// One block of one variant: training steps, as many by phase, then batches of inference, and serving.
fn time_block(
    variant: &mut TimedVariant<'_>,
    prepared: &Prepared,
    setup: Setup<'_>,
    (timing, probe): (&mut Timing, &Option<Probe>),
) -> Result<(), RunError> {
    if variant.trainer.trains() {
        time_training(variant, prepared, setup, (timing, probe))?;
    }
    let (device, steps) = (setup.device, setup.measure.timing_steps);
    let inference = &prepared.inference;
    variant.infer(inference)?;
    let clock = Stopwatch::start(device)?;
    for _ in 0..steps {
        variant.infer(inference)?;
    }
    timing.inference.push(Seconds(clock.stop()?.0 / steps as f64));
    if let Some(prompts) = &prepared.prompts {
        prompts.time(&variant.inferencer, &mut timing.serving)?;
    }
    Ok(())
}

/// The training steps of a block, and as many by phase.
fn time_training(
    variant: &mut TimedVariant<'_>,
    Prepared { steps: batches, numbers, .. }: &Prepared,
    Setup { train, measure, device, .. }: Setup<'_>,
    (timing, probe): (&mut Timing, &Option<Probe>),
) -> Result<(), RunError> {
    let steps = measure.timing_steps;
    // One step outside the clock: the caches hold another variant's tensors.
    variant.step(batches)?;
    let before = probe.as_ref().map(Probe::read);
    let clock = Stopwatch::start(device)?;
    for _ in 0..steps {
        variant.step(batches)?;
    }
    let seconds = clock.stop()?.0;
    timing.train.push(Seconds(seconds / steps as f64));
    if let (Some(before), Some(probe)) = (before, probe) {
        variant.load.add(&before, probe.read(), (steps, seconds));
    }
    variant.check()?;

    timing.phases.push(variant.phases(steps, train.accumulate, numbers)?);
    variant.check()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_only_where_none_is_missing() {
        let seconds = |times: &[f64]| times.iter().copied().map(Seconds).collect::<Vec<_>>();
        let timing = |times: &[f64], peak| Timing {
            train: seconds(times),
            inference: seconds(times),
            work: Some((10, Flops(peak))),
            inference_memory: Some((Some(Bytes(3)), Bytes(2))),
            ..Timing::default()
        };
        let (old, new) = (timing(&[1.0, 2.0], 7.0), timing(&[3.0], 5.0));
        let expected = timing(&[1.0, 2.0, 3.0], 7.0);
        assert_eq!(old.clone().followed_by(new.clone(), (2, 1)), expected);
        // Diverged later: its inference was timed all the same.
        let diverged =
            Timing { train: Vec::new(), failure: Some("it diverged".into()), ..new.clone() };
        let both = old.clone().followed_by(diverged, (2, 1));
        assert_eq!((both.train, both.inference), (Vec::new(), seconds(&[1.0, 2.0, 3.0])));
        assert_eq!(both.failure.as_deref(), Some("it diverged"));
        let failed = Timing { failure: Some("no memory".into()), ..Timing::default() };
        let both = old.followed_by(failed, (2, 1));
        assert_eq!((both.train, both.inference, both.inference_memory), Default::default());
        // Nothing was timed before, and there was no peak.
        let none = Timing { work: None, ..timing(&[], 0.0) };
        assert_eq!(none.followed_by(new.clone(), (0, 1)), new);
    }

    #[test]
    fn the_load_of_a_gpu_is_summed_up_over_its_blocks() {
        let reading = |joules, watts, clock_mhz, celsius, reason: &str| Reading {
            joules: Some(joules),
            watts: Some(watts),
            clock_mhz: Some(clock_mhz),
            celsius: Some(celsius),
            throttled: vec![reason.to_owned()],
        };
        let mut load = Load::default();
        assert_eq!(load.summary(), None);
        let first = reading(10.0, 100.0, 1800, 50, "b");
        let second = reading(40.0, 300.0, 1500, 70, "a");
        load.add(&first, second.clone(), (10, 0.5));
        // Too short for its energy to count.
        load.add(&second, reading(41.0, 200.0, 1700, 60, "a"), (10, 0.1));
        let expected = GpuLoad {
            step_joules: Some(3.0),
            power_watts: Some(250.0),
            lowest_clock_mhz: Some(1500),
            highest_clock_mhz: Some(1700),
            highest_celsius: Some(70),
            throttled: vec!["a".to_owned()],
        };
        assert_eq!(load.summary(), Some(expected));
    }
}
