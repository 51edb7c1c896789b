//! An experiment: plan → runs → results. Decides the order, saves after every run, tells a listener what happens.

mod compare;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::claims;
use crate::data::{self, Batches, DataError, Dataset};
use crate::model::{Model, ModelError};
use crate::record::{
    Control, Environment, Failure, GradientCounts, Results, RunRecord, RunSummary, SCHEMA, Status,
    UpdateCounts, VariantResult,
};
use crate::spec::{ControlKind, ControlPlan, Plan, VariantPlan};
use crate::store::{self, StoreError};
use crate::train::{self, RunError, Timing};

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
    /// The folder holds another experiment's results.
    #[error(
        "{}: holds the results of another plan; choose another --out, or --force to replace them",
        .0.display()
    )]
    Occupied(PathBuf),
    /// The folder's results file is not one that this program can go on with.
    #[error(
        "{}: {reason}; choose another --out, or --force to replace it",
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
    /// The data cannot be had.
    #[error("data: {0}")]
    Data(#[from] DataError),
    /// The model does not fit the data.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The timing phase could not be done.
    #[error("timing: {0}")]
    Timing(RunError),
}

/// How to run, beside the plan.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The folder of the results.
    pub out: &'a Path,
    /// Replace another experiment's results.
    pub force: bool,
    /// Where this runs.
    pub device: &'a Device,
    /// What is known of where this runs.
    pub environment: &'a Environment,
}

/// Runs every variant and seed of the plan and its controls, then the timing phase, and leaves `results.json` and a record a
/// run in `options.out`. Seeds are the outer loop, and controls come last in each round, so that the first full comparison
/// is there soonest. Runs of the same plan that an interrupted call finished are kept.
///
/// # Errors
/// When the data cannot be read, the model does not fit it, the folder cannot be written or holds something else. A run
/// that diverges or fails is a result, not an error.
pub fn run(
    plan: &Plan,
    options: Options<'_>,
    listen: &mut dyn FnMut(Event<'_>),
) -> Result<Results, ExperimentError> {
    let mut records = kept(plan, options)?;
    let data = data::load(&plan.data)?;
    let notes = data.notes();
    let model = Model::new(&plan.model, data.shape, data.classes)?;
    model.check_batch(plan.train.batch.max(plan.measure.inference_batch))?;
    Batches::new(&data, plan.train.batch, data::augmentation(&plan.data), 0)?;
    let trained = trained(plan);
    let runs = trained.iter().map(|trained| trained.seeds.len()).sum();
    let on = (&model, &data, options.device);
    listen(Event::Loaded(&data));
    for note in &notes {
        listen(Event::Note(note));
    }
    listen(Event::Started { runs, kept: records.len() });

    let save = |records: &Records, timings: &Timings, complete: bool| {
        let mut results = results(plan, options, (records, timings), complete);
        results.environment.notes.extend(notes.iter().cloned());
        let path = options.out.join("results.json");
        store::write(&path, &json(&results))?;
        Ok::<_, ExperimentError>((results, path))
    };
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
        store::write(&record_path(options.out, &variant.name, seed), &json(&record))?;
        listen(Event::RunFinished { variant: &variant.name, summary: &record.summary });
        records.insert(key, record);
        let (_, path) = save(&records, &Timings::new(), false)?;
        listen(Event::Saved(&path));
    }
    let timed: Vec<VariantPlan> =
        trained.into_iter().filter(Trained::is_timed).map(|trained| trained.variant).collect();
    let mut progress = |done, of| listen(Event::TimingBlock { done, of });
    let timings =
        train::time_variants(plan, on, &timed, &mut progress).map_err(ExperimentError::Timing)?;
    let timings = timed.into_iter().map(|variant| variant.name).zip(timings).collect();
    let (results, path) = save(&records, &timings, true)?;
    listen(Event::Saved(&path));
    Ok(results)
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

/// The runs that an interrupted call of the same plan, by the same build on the same machine, finished. A folder with
/// anything else in its results file is refused, unless it is to be replaced.
fn kept(plan: &Plan, options: Options<'_>) -> Result<Records, ExperimentError> {
    let path = options.out.join("results.json");
    if options.force || !path.exists() {
        return Ok(Records::new());
    }
    let bytes = store::read_at_most(&path, store::MOST_RESULTS)?;
    let found: Results = serde_json::from_slice(&bytes).map_err(|error| {
        let reason = format!("is not a results file of this version ({error})");
        ExperimentError::Unreadable { path: path.clone(), reason }
    })?;
    if found.plan != *plan {
        return Err(ExperimentError::Occupied(options.out.to_owned()));
    }
    let (here, there) = (options.environment, &found.environment);
    let same_build = here.version == there.version
        && here.git == there.git
        && here.device_name == there.device_name;
    if found.complete || !same_build {
        return Ok(Records::new());
    }
    let controls = found.controls.iter().map(|control| &control.result);
    let finished = found.variants.iter().chain(controls).flat_map(|variant| {
        let completed = variant.runs.iter().filter(|run| run.status != Status::Failed);
        completed.map(|run| (variant.name.clone(), run.seed))
    });
    let read = |(variant, seed): (String, u64)| {
        let record = store::read(&record_path(options.out, &variant, seed)).ok()?;
        Some(((variant, seed), serde_json::from_slice(&record).ok()?))
    };
    Ok(finished.filter_map(read).collect())
}

/// The record of a run that could not be done.
fn failed(variant: &VariantPlan, seed: u64, error: &RunError) -> RunRecord {
    let failure = Failure { step: 0, layer: None, reason: error.to_string() };
    RunRecord {
        variant: variant.name.clone(),
        summary: RunSummary {
            seed,
            status: Status::Failed,
            test_accuracy: None,
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
        updates: UpdateCounts::default(),
        gradients: GradientCounts::default(),
        memory: None,
    }
}

/// The results file from what there is so far.
fn results(
    plan: &Plan,
    options: Options<'_>,
    (records, timings): (&Records, &Timings),
    complete: bool,
) -> Results {
    let summary = |variant: &VariantPlan, seeds: &[u64]| {
        let record = |seed: &u64| records.get(&(variant.name.clone(), *seed));
        let runs: Vec<&RunRecord> = seeds.iter().filter_map(record).collect();
        summarize((plan, options), variant, &runs, timings.get(&variant.name))
    };
    let mut variants: Vec<VariantResult> =
        plan.variants.iter().map(|variant| summary(variant, &plan.seeds)).collect();
    compare::against_baseline(plan, &mut variants);
    let control = |planned: ControlPlan| {
        let mut result = summary(&planned.variant, &planned.seeds);
        result.against_baseline = compare::control(plan, (planned.kind, &result), &variants);
        Control { kind: planned.kind, result }
    };
    let controls = plan.control_plans().into_iter().map(control).collect();
    let mut results = Results {
        schema: SCHEMA,
        experiment: plan.name.clone(),
        complete,
        plan: plan.clone(),
        environment: options.environment.clone(),
        variants,
        claims: Vec::new(),
        controls,
        recommendation: None,
    };
    results.claims = claims::judge(&results);
    results.recommendation = Some(claims::recommend(&results));
    results.environment.notes.extend(claims::nondeterminism(&results));
    results
}

/// Everything measured of one variant, without the comparison.
fn summarize(
    (plan, options): (&Plan, Options<'_>),
    variant: &VariantPlan,
    runs: &[&RunRecord],
    timing: Option<&Timing>,
) -> VariantResult {
    let memory = runs.iter().filter_map(|run| run.memory).max_by_key(|memory| memory.peak_bytes);
    VariantResult {
        name: variant.name.clone(),
        policy: variant.policy.to_string(),
        emulated: variant.policy.is_emulated(options.device.is_cuda()),
        runs: runs.iter().map(|run| run.summary.clone()).collect(),
        train: timing.and_then(|timing| compare::train_time(plan, timing)),
        untimed: timing.and_then(|timing| timing.failure.clone()),
        inference: timing.and_then(|timing| compare::inference(plan, timing)),
        memory,
        numerics: compare::numerics(runs),
        against_baseline: None,
    }
}
