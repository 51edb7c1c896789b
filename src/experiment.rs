//! An experiment: plan → runs → results. Decides the order, saves after every run, tells a listener what happens.
//!
//! A results folder belongs to the process that has its lock. It is marked by a results file before the first run, which says
//! what plan, build, device and data the runs are of; the record of each run says so too.

mod compare;
mod dry_run;
mod identity;
mod kept;
#[cfg(test)]
mod tests;
mod timed;

pub use dry_run::{DryRun, DryVariant, dry_run};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::claims;
use crate::data::{self, Batches, DataError, Dataset};
use crate::device::LoadMeter;
use crate::model::{Model, ModelError};
use crate::precision::Policy;
use crate::record::{
    Control, DataFacts, Environment, Failure, GradientCounts, Identity, Results, RunRecord,
    RunSummary, SCHEMA, Status, UpdateCounts, VariantResult,
};
use crate::spec::{ControlKind, ControlPlan, Plan, VariantPlan};
use crate::store::{self, Folder, StoreError};
use crate::train::{self, Phase, RunError, Timing};
use kept::{Found, RESULTS};
use timed::TimingRecord;

/// What happens while an experiment runs, for whoever shows progress.
#[derive(Debug)]
pub enum Event<'a> {
    /// The data is there.
    Loaded(&'a Dataset),
    /// Something to know before trusting a result; also a note in the results.
    Note(&'a str),
    /// Before the first run: how many runs there will be, and how many an earlier, interrupted call finished.
    Started {
        /// Runs in all.
        runs: usize,
        /// Runs kept from an interrupted call.
        kept: usize,
    },
    /// Every run and the timing phase were finished before, and nothing is done.
    Finished,
    /// A run that is there is not kept, and is done again.
    NotKept {
        /// The variant's name.
        variant: &'a str,
        /// The seed.
        seed: u64,
        /// Why.
        reason: &'a str,
    },
    /// Timed blocks of an earlier call are kept.
    TimingKept {
        /// How many.
        blocks: usize,
    },
    /// Timed blocks of an earlier call are not kept, and all variants are timed again.
    TimedAgain {
        /// Why.
        reason: &'a str,
    },
    /// A run begins.
    RunStarted {
        /// The variant's name.
        variant: &'a str,
        /// The seed.
        seed: u64,
    },
    /// A step of the current run is done.
    Step {
        /// Steps done.
        done: u64,
        /// Steps in all.
        of: u64,
    },
    /// A run ended.
    RunFinished {
        /// The variant's name.
        variant: &'a str,
        /// How it went.
        summary: &'a RunSummary,
    },
    /// A timed block is done.
    TimingBlock {
        /// Blocks done.
        done: usize,
        /// Blocks in all.
        of: usize,
    },
    /// The results file was written.
    Saved(&'a Path),
}

/// An experiment that could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The folder holds runs that are not of this experiment.
    #[error(
        "{}: holds runs that cannot be kept: {why}; choose another --out, or --force to replace them",
        folder.display()
    )]
    Occupied {
        /// The folder.
        folder: PathBuf,
        /// In what they differ.
        why: String,
    },
    /// The folder holds a file of somebody else in the place of one of ours.
    #[error(
        "{}: is there already, and nothing says that mantissa wrote it; move it away, or choose another --out",
        .0.display()
    )]
    Foreign(PathBuf),
    /// The folder's results file is not one that this program can go on with.
    #[error(
        "{}: {reason}; remove it to go on with the runs beside it, or choose another --out; --force trains all of them again",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data cannot be loaded.
    #[error("data: {0}")]
    Data(#[from] DataError),
    /// The model does not fit the data.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// How to run, beside the plan.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The folder of the results.
    pub folder: &'a Folder,
    /// Train again, and replace what the folder holds.
    pub force: bool,
    /// Where this runs.
    pub device: &'a Device,
    /// What is known of where this runs.
    pub environment: &'a Environment,
}

/// Runs every variant and seed of the plan and its controls, then the timing phase, and leaves `results.json` and a record a
/// run in `options.folder`. Seeds are the outer loop, and controls come last in each round, so that the first full comparison
/// is there soonest. Runs and timed blocks that an earlier call finished are kept where this plan asks for the same ones, by the
/// same build on the same device and data; where all are there, nothing is done.
///
/// # Errors
/// When the data cannot be read, the model does not fit it, the folder cannot be written or holds something else. A run
/// that diverges or fails is a result, not an error.
pub fn run(
    plan: &Plan,
    options: Options<'_>,
    listen: &mut dyn FnMut(Event<'_>),
) -> Result<Results, ExperimentError> {
    let (data, model) = prepare::<ExperimentError>(plan)?;
    let trained = trained(plan);
    let experiment = Experiment { plan, options, data: data.facts(), notes: data.notes() };
    let kept::Part { mut records, timing, .. } = match experiment.begin(&trained, &data, listen)? {
        Found::Finished(results) => return Ok(*results),
        Found::Part(part) => part,
    };
    let timing = timing.map_or_else(|| experiment.nothing_timed(), |timing| *timing);
    let on = (&model, &data, options.device);
    for (variant, seed) in in_order(&trained) {
        let key = (variant.name.clone(), seed);
        if records.contains_key(&key) {
            continue;
        }
        listen(Event::RunStarted { variant: &variant.name, seed });
        let of = plan.train.steps;
        let mut progress = |done| listen(Event::Step { done, of });
        let record = train::run(plan, on, (variant, seed), &mut progress)
            .unwrap_or_else(|error| failed(variant, seed, &error));
        let identity = Some(experiment.identity(Some(&variant.policy)));
        let record = RunRecord { identity, ..record };
        kept::save_record(options, &record)?;
        listen(Event::RunFinished { variant: &variant.name, summary: &record.summary });
        records.insert(key, record);
        let (_, path) = experiment.save(&records, &timing.timings, Stage::Running)?;
        listen(Event::Saved(&path));
    }
    let variants: Vec<VariantPlan> =
        trained.into_iter().filter(Trained::is_timed).map(|trained| trained.variant).collect();
    let timing = timed::complete(plan, on, (timing, &variants), (options, listen))?;
    let stage = Stage::Finished { other_load: timing.other_load };
    let (results, path) = experiment.save(&records, &timing.timings, stage)?;
    listen(Event::Saved(&path));
    Ok(results)
}

/// Times the variants of results once more, as the timing phase of [`run`] does, but for controls. Returns the results with the
/// new times: variants have nothing but times in them.
///
/// # Errors
/// When the data cannot be read, or the model does not fit it or the machine's memory.
pub fn time_again(results: &Results, device: &Device) -> Result<Results, TimeError> {
    let plan = &results.plan;
    let load = LoadMeter::start();
    let (_, timings) =
        time_blocks(plan, device, Phase { blocks: 0..plan.measure.timing_blocks, products: true })?;
    let other_load = load.others();
    let variants = plan.variants.iter().zip(&timings);
    let variants = variants
        .map(|(variant, timing)| summarize((plan, device), variant, &[], Some(timing)))
        .collect();
    Ok(Results { variants, other_load, ..results.clone() })
}

/// Times blocks of a plan's timing phase, but for controls. Returns what the data is and one entry a variant, in the
/// plan's order.
///
/// # Errors
/// When the data cannot be read, or the model does not fit it or the machine's memory.
pub fn time_blocks(
    plan: &Plan,
    device: &Device,
    phase: Phase,
) -> Result<(DataFacts, Vec<Timing>), TimeError> {
    let (data, model) = prepare::<TimeError>(plan)?;
    let on = (&model, &data, device);
    let timings = train::time_variants(plan, on, &plan.variants, phase, &mut |_, _| ())?;
    Ok((data.facts(), timings))
}

/// The data and the model of a plan, which fit each other.
fn prepare<E: From<DataError> + From<ModelError>>(plan: &Plan) -> Result<(Dataset, Model), E> {
    let data = data::load(&plan.data)?;
    let model = Model::new(&plan.model, data.shape(), data.outputs())?;
    model.check_batch(plan.train.batch.max(plan.measure.inference_batch))?;
    model.check_normalization(plan.train.batch)?;
    Batches::new(&data, plan.train.batch, data::augmentation(&plan.data), 0)?;
    Ok((data, model))
}

/// A timing phase that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    /// The data cannot be loaded.
    #[error("data: {0}")]
    Data(#[from] DataError),
    /// The model does not fit the data.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An operation failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// What the results file says beside the runs.
struct Experiment<'a> {
    plan: &'a Plan,
    options: Options<'a>,
    data: DataFacts,
    /// What is to be said of the data.
    notes: Vec<String>,
}

impl Experiment<'_> {
    /// What decides the runs of a policy; without one, what those of all policies have in common.
    fn identity(&self, policy: Option<&Policy>) -> Identity {
        identity::identity(self.plan, policy, self.options.environment, &self.data)
    }

    /// The record of the timing phase before its first block.
    fn nothing_timed(&self) -> TimingRecord {
        TimingRecord::new(self.plan, self.options, self.identity(None))
    }

    /// Looks at what the folder holds, tells what of it is kept, and marks the folder as this experiment's.
    fn begin(
        &self,
        trained: &[Trained],
        data: &Dataset,
        listen: &mut dyn FnMut(Event<'_>),
    ) -> Result<Found, ExperimentError> {
        let found = kept::look(self, trained)?;
        let Found::Part(part) = &found else {
            listen(Event::Finished);
            return Ok(found);
        };
        if self.options.force {
            kept::clear(self.options.folder.path())?;
        }
        listen(Event::Loaded(data));
        for note in &self.notes {
            listen(Event::Note(note));
        }
        let runs = trained.iter().map(|trained| trained.seeds.len()).sum();
        listen(Event::Started { runs, kept: part.records.len() });
        for kept::Lost { variant, seed, reason } in &part.lost {
            listen(Event::NotKept { variant, seed: *seed, reason });
        }
        if let Some(timing) = &part.timing {
            listen(Event::TimingKept { blocks: timing.blocks });
        }
        if let Some(reason) = &part.timed_again {
            listen(Event::TimedAgain { reason });
        }
        for record in &part.misplaced {
            kept::save_record(self.options, record)?;
        }
        let none = Timings::new();
        let timings = part.timing.as_ref().map_or(&none, |timing| &timing.timings);
        self.save(&part.records, timings, Stage::Running)?;
        Ok(found)
    }

    /// Computes the results of these records and writes them.
    fn save(
        &self,
        records: &Records,
        timings: &Timings,
        stage: Stage,
    ) -> Result<(Results, PathBuf), ExperimentError> {
        let mut results = results(self, (records, timings), stage);
        results.environment.notes.extend(self.notes.iter().cloned());
        let folder = self.options.folder.path();
        let path = store::write_below(folder, Path::new(RESULTS), &json(&results))?;
        Ok((results, path))
    }
}

/// How far an experiment is.
#[derive(Clone, Copy)]
enum Stage {
    /// Runs or the timing phase are still to come.
    Running,
    /// All is done; other programs took this share of the processor meanwhile ([`Results::other_load`]).
    Finished { other_load: Option<f64> },
}

/// The records of an experiment by variant and seed.
type Records = BTreeMap<(String, u64), RunRecord>;

/// The timed blocks by variant.
type Timings = BTreeMap<String, Timing>;

/// A variant or control with its seeds.
struct Trained {
    variant: VariantPlan,
    seeds: Vec<u64>,
    control: Option<ControlKind>,
}

impl Trained {
    /// Whether it takes part in the timing phase. Other seeds are other weights, not other work: timing them would show
    /// nothing that the same seeds do not.
    fn is_timed(&self) -> bool {
        self.control != Some(ControlKind::OtherSeeds)
    }
}

/// The variants of the plan, then its controls.
fn trained(plan: &Plan) -> Vec<Trained> {
    let variants = plan.variants.iter().map(|variant| Trained {
        variant: variant.clone(),
        seeds: plan.seeds.clone(),
        control: None,
    });
    let controls = plan.control_plans().into_iter().map(|ControlPlan { kind, variant, seeds }| {
        Trained { variant, seeds, control: Some(kind) }
    });
    variants.chain(controls).collect()
}

/// Every run: a round a seed, in each of which all take their turn.
fn in_order(trained: &[Trained]) -> impl Iterator<Item = (&VariantPlan, u64)> {
    let rounds = trained.iter().map(|trained| trained.seeds.len()).max().unwrap_or(0);
    (0..rounds).flat_map(move |round| {
        trained.iter().filter_map(move |trained| {
            let seed = trained.seeds.get(round)?;
            Some((&trained.variant, *seed))
        })
    })
}

/// Where the record of a run is.
pub fn record_path(out: &Path, variant: &str, seed: u64) -> PathBuf {
    out.join("runs").join(variant).join(format!("seed-{seed}")).join("record.json")
}

/// Indented JSON with a line end. Records are plain data, so this cannot fail.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The record of a run that could not be done.
fn failed(variant: &VariantPlan, seed: u64, error: &RunError) -> RunRecord {
    let failure = Failure { step: 0, layer: None, reason: error.to_string() };
    RunRecord {
        identity: None,
        variant: variant.name.clone(),
        summary: RunSummary {
            seed,
            status: Status::Failed,
            test_accuracy: None,
            test_squared_error: None,
            final_loss: None,
            steps: 0,
            skipped_steps: 0,
            weights_digest: None,
            failure: Some(failure),
        },
        loss: Vec::new(),
        evaluations: Vec::new(),
        scale: Vec::new(),
        skips: Vec::new(),
        census: Vec::new(),
        census_steps: Vec::new(),
        settling_census: Vec::new(),
        rejected_census: Vec::new(),
        counted_steps: Vec::new(),
        updates: UpdateCounts::default(),
        gradients: GradientCounts::default(),
        memory: None,
    }
}

/// The results file from what there is so far.
fn results(
    experiment: &Experiment<'_>,
    (records, timings): (&Records, &Timings),
    stage: Stage,
) -> Results {
    let (complete, other_load) = match stage {
        Stage::Running => (false, None),
        Stage::Finished { other_load } => (true, other_load),
    };
    let Experiment { plan, options, ref data, .. } = *experiment;
    let summary = |variant: &VariantPlan, seeds: &[u64]| {
        let record = |seed: &u64| records.get(&(variant.name.clone(), *seed));
        let runs: Vec<&RunRecord> = seeds.iter().filter_map(record).collect();
        summarize((plan, options.device), variant, &runs, timings.get(&variant.name))
    };
    let mut variants: Vec<VariantResult> =
        plan.variants.iter().map(|variant| summary(variant, &plan.seeds)).collect();
    let on = (plan, data.metric());
    compare::against_baseline(on, &mut variants);
    let control = |planned: ControlPlan| {
        let mut result = summary(&planned.variant, &planned.seeds);
        result.against_baseline = compare::control(on, (planned.kind, &result), &variants);
        Control { kind: planned.kind, result }
    };
    let controls = plan.control_plans().into_iter().map(control).collect();
    let mut results = Results {
        schema: SCHEMA,
        experiment: plan.name.clone(),
        complete,
        plan: plan.clone(),
        environment: options.environment.clone(),
        data: Some(data.clone()),
        metric: data.metric(),
        variants,
        claims: Vec::new(),
        controls,
        other_load,
        recommendation: None,
    };
    results.claims = claims::judge(&results);
    results.recommendation = Some(claims::recommend(&results));
    results.environment.notes.extend(claims::nondeterminism(&results));
    results.environment.notes.extend(claims::disturbance(&results));
    results
}

/// Everything measured of one variant, without the comparison.
fn summarize(
    (plan, device): (&Plan, &Device),
    variant: &VariantPlan,
    runs: &[&RunRecord],
    timing: Option<&Timing>,
) -> VariantResult {
    let memory = runs.iter().filter_map(|run| run.memory).max_by_key(|memory| memory.peak_bytes);
    VariantResult {
        name: variant.name.clone(),
        policy: variant.policy.to_string(),
        emulated: variant.policy.is_emulated(device.is_cuda()),
        runs: runs.iter().map(|run| run.summary.clone()).collect(),
        train: timing.and_then(|timing| compare::train_time(plan, timing)),
        untimed: timing.and_then(|timing| timing.failure.clone()),
        inference: timing.and_then(|timing| compare::inference(plan, timing)),
        memory,
        numerics: compare::numerics(runs),
        against_baseline: None,
    }
}
