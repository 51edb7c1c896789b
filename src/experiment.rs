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

pub use dry_run::{DryRun, DryVariant};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::claims;
use crate::data::{Batches, Dataset};
use crate::device::{self, DeviceError, LoadMeter};
use crate::formatting;
use crate::model::{Engine, ModelError};
use crate::ops;
use crate::precision::Policy;
use crate::record::files::RESULTS;
use crate::record::{
    Control, DataFacts, Environment, Failure, GradientCounts, Identity, Results, RunRecord,
    RunSummary, SCHEMA, Status, UpdateCounts, VariantResult,
};
use crate::spec::{ControlKind, ControlPlan, Plan, Reference, ServingPlan, VariantPlan};
use crate::store::{self, Folder, StoreError};
use crate::task::{Task, TaskError};
use crate::train::{self, Phase, RunError, Setup, Timing};
use kept::Found;
use timed::TimingRecord;

/// What happens while an experiment runs, for whoever shows progress.
///
/// ```
/// use mantissa::experiment::Event;
///
/// let mut lines = Vec::new();
/// let mut listen = |event: Event<'_>| match event {
///     Event::RunStarted { variant, seed } => lines.push(format!("{variant}, seed {seed}")),
///     Event::Step { done, of } => lines.push(format!("{done} of {of}")),
///     _ => (),
/// };
/// listen(Event::RunStarted { variant: "fp32", seed: 0 });
/// listen(Event::Step { done: 1, of: 100 });
/// assert_eq!(lines, ["fp32, seed 0", "1 of 100"]);
/// ```
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
///
/// ```
/// use mantissa::experiment::ExperimentError;
///
/// /// Whether another folder would do.
/// fn is_about_the_folder(error: &ExperimentError) -> bool {
///     matches!(error, ExperimentError::Occupied { .. } | ExperimentError::Foreign(_))
/// }
///
/// assert!(is_about_the_folder(&ExperimentError::Foreign("report.html".into())));
/// ```
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
}

/// What results of candle's operations say of themselves.
const OF_CANDLE: &str = "candle's own operations computed these models, with its rounding and at its speed: the results are about candle. \
                         Overflow and underflow inside the models cannot be counted.";

/// A device that is open, and what is known of where this runs.
///
/// ```
/// use mantissa::device::Device;
/// use mantissa::experiment::Machine;
///
/// let machine = Machine::open(Device::Cpu)?;
/// assert!(machine.device.is_cpu());
/// assert_eq!(machine.environment.device, "cpu");
/// # Ok::<(), mantissa::experiment::MachineError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Machine {
    /// The device.
    pub device: Device,
    /// The environment, as results have it.
    pub environment: Environment,
}

impl Machine {
    /// Opens a device, for work on the current rayon pool.
    ///
    /// # Errors
    /// When there is no such device, or `MANTISSA_ISA` asks for instructions that the processor lacks.
    pub fn open(device: device::Device) -> Result<Self, MachineError> {
        let choice = device.resolve()?;
        let products = ops::product_paths()?;
        let environment = device::environment(&choice, rayon::current_num_threads(), products);
        Ok(Self { device: choice.open()?, environment })
    }
}

/// A device that cannot be used.
///
/// ```
/// use mantissa::device::Device;
/// use mantissa::experiment::{Machine, MachineError};
///
/// let error = Machine::open(Device::Cuda(99)).err();
/// assert!(matches!(error, Some(MachineError::Device(_))), "there is no such GPU");
/// ```
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// It is not there or does not answer.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The instructions that were asked for are not there.
    #[error(transparent)]
    Instructions(#[from] ops::IsaError),
}

/// How to run, beside the plan.
///
/// ```
/// use mantissa::device::Device;
/// use mantissa::experiment::{Machine, Options};
/// use mantissa::store::Folder;
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// let (folder, machine) = (Folder::lock(path, "the example")?, Machine::open(Device::Cpu)?);
/// let options = Options { save_weights: true, ..Options::new(&folder, &machine) };
/// assert!(!options.force);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The folder of the results.
    pub folder: &'a Folder,
    /// Train again, and replace what the folder holds.
    pub force: bool,
    /// Leave the weights of each run beside its record. A run that is there without them is done again.
    pub save_weights: bool,
    /// Where this runs.
    pub device: &'a Device,
    /// What is known of where this runs.
    pub environment: &'a Environment,
}

impl<'a> Options<'a> {
    /// A run on `machine` that goes on with what `folder` holds.
    pub fn new(folder: &'a Folder, machine: &'a Machine) -> Self {
        let Machine { device, environment } = machine;
        Self { folder, force: false, save_weights: false, device, environment }
    }
}

/// A plan and the task that it is carried out on.
///
/// ```
/// use mantissa::experiment::Experiment;
/// use mantissa::spec::{DEFAULT, Overrides, Plan};
/// use mantissa::task::Task;
///
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides::default())?;
/// let task = Task::of_plan(&plan)?;
/// let experiment = Experiment::new(plan, task)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Experiment {
    plan: Plan,
    task: Task,
    reference: Option<Reference>,
}

impl Experiment {
    /// The experiment that does what `plan` says on `task`.
    ///
    /// # Errors
    /// When the plan's batches do not fit the data, the model or this machine's address space, or its published figures cannot
    /// be read.
    pub fn new(plan: Plan, task: Task) -> Result<Self, TaskError> {
        let (train, model) = (&plan.train, &task.model);
        model.check_batch(train.batch.max(plan.measure.inference_batch))?;
        model.check_normalization(train.batch)?;
        if let Some(serving) = &plan.measure.serving {
            check_serving(serving, &task)?;
        }
        Batches::new(&task.data, train.batch, task.augment, 0)?;
        let reference = plan.reference.as_deref().map(Reference::load).transpose()?;
        Ok(Self { plan, task, reference })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What tells its data from any other.
    pub fn data(&self) -> DataFacts {
        self.task.data.facts()
    }

    fn setup<'a>(&'a self, device: &'a Device) -> Setup<'a> {
        Setup::new(&self.plan, &self.task, device)
    }

    /// Runs every variant and seed of the plan and its controls, then the timing phase, and leaves `results.json` and a record
    /// a run in `options.folder`. Seeds are the outer loop, and controls come last in each round, so that the first full
    /// comparison is there soonest. Runs and timed blocks that an earlier call finished are kept where this plan asks for the
    /// same ones, by the same build on the same device and data; where all are there, nothing is done.
    ///
    /// # Errors
    /// When the folder cannot be written or holds something else. A run that diverges or fails is a result, not an error.
    pub fn run(
        &self,
        options: Options<'_>,
        listen: &mut dyn FnMut(Event<'_>),
    ) -> Result<Results, ExperimentError> {
        let Self { plan, task, .. } = self;
        let (data, mut notes) = (task.data.facts(), task.data.notes());
        notes.extend(task.notes.iter().cloned());
        let engine = task.model.engine();
        notes.extend((engine == Engine::Candle).then(|| OF_CANDLE.to_owned()));
        let weights = task.model.given_digest().map(str::to_owned);
        let reference = self.reference.as_ref();
        let session = Session { plan, options, engine, data, weights, notes, reference };
        let trained = trained(plan);
        let kept::Part { mut records, timing, .. } =
            match session.begin(&trained, &task.data, listen)? {
                Found::Finished(results) => return Ok(*results),
                Found::Part(part) => part,
            };
        let timing = timing.map_or_else(|| session.nothing_timed(), |timing| *timing);
        let setup = Setup { save_weights: options.save_weights, ..self.setup(options.device) };
        for (variant, seed) in in_order(&trained) {
            let key = (variant.name.clone(), seed);
            if records.contains_key(&key) {
                continue;
            }
            listen(Event::RunStarted { variant: &variant.name, seed });
            let of = plan.train.steps;
            let mut progress = |done| listen(Event::Step { done, of });
            let trained = train::run(setup, (variant, seed), &mut progress)
                .unwrap_or_else(|error| failed(variant, seed, &error));
            let train::Trained { record, weights } = trained;
            let identity = Some(session.identity(Some(&variant.policy)));
            let record = RunRecord { identity, ..record };
            if let Some(weights) = weights {
                kept::save_weights(options, (&variant.name, seed), &weights)?;
            }
            kept::save_record(options, &record)?;
            listen(Event::RunFinished { variant: &variant.name, summary: &record.summary });
            records.insert(key, record);
            let (_, path) = session.save(&records, &timing.timings, Stage::Running)?;
            listen(Event::Saved(&path));
        }
        let variants: Vec<VariantPlan> =
            trained.into_iter().filter(Trained::is_timed).map(|trained| trained.variant).collect();
        let timing = timed::complete(plan, setup, (timing, &variants), (options, listen))?;
        let stage = Stage::Finished { other_load: timing.other_load };
        let (results, path) = session.save(&records, &timing.timings, stage)?;
        listen(Event::Saved(&path));
        Ok(results)
    }

    /// Times blocks of the plan's timing phase, but for controls. Returns one entry a variant, in the plan's order.
    ///
    /// # Errors
    /// When a batch cannot be made or moved to the device.
    #[doc(hidden)] // for the program
    pub fn time_blocks(&self, device: &Device, phase: Phase) -> Result<Vec<Timing>, RunError> {
        let (seed, variants) = (first_seed(&self.plan), &self.plan.variants);
        train::time_variants(self.setup(device), seed, variants, phase, &mut |_, _| ())
    }

    /// Times the variants of `results`, which are of this experiment, once more, as the timing phase of [`Experiment::run`]
    /// does, but for controls. Returns the results with the new times: variants have nothing but times in them.
    ///
    /// # Errors
    /// As [`Experiment::time_blocks`].
    #[doc(hidden)] // for the program
    pub fn time_again(&self, results: &Results, device: &Device) -> Result<Results, RunError> {
        let plan = &self.plan;
        let load = LoadMeter::start();
        let timings = self.time_blocks(device, Phase::all(&plan.measure))?;
        let other_load = load.others();
        let variants = plan.variants.iter().zip(&timings);
        let variants = variants
            .map(|(variant, timing)| summarize((plan, device), variant, &[], Some(timing)))
            .collect();
        Ok(Results { variants, other_load, ..results.clone() })
    }
}

/// # Errors
/// When the model cannot generate, or the test split has too few prompts.
fn check_serving(serving: &ServingPlan, task: &Task) -> Result<(), ModelError> {
    let wrong = |what: String| ModelError(format!("measure.serving: {what}"));
    task.model.cached().map_err(|error| wrong(error.0))?;
    let prompt = serving.prompt;
    let prompts = task.data.prompts(serving.prompts, prompt).len() / prompt;
    if prompts < 2 {
        let there = formatting::plural(prompts, "sequence");
        return Err(wrong(format!(
            "the test split has {there} of {prompt} tokens, and a comparison needs two; choose a smaller measure.serving.prompt"
        )));
    }
    Ok(())
}

/// The seed of the weights and batches that are timed.
fn first_seed(plan: &Plan) -> u64 {
    plan.seeds.first().copied().unwrap_or_default()
}

/// What the results file says beside the runs.
struct Session<'a> {
    plan: &'a Plan,
    options: Options<'a>,
    engine: Engine,
    data: DataFacts,
    /// The digest of the weights that runs start from, where these are given.
    weights: Option<String>,
    /// What is to be said of the data.
    notes: Vec<String>,
    /// What was published.
    reference: Option<&'a Reference>,
}

impl Session<'_> {
    /// What decides the runs of a policy; without one, what those of all policies have in common.
    fn identity(&self, policy: Option<&Policy>) -> Identity {
        identity::identity(
            self.plan,
            policy,
            self.options.environment,
            (&self.data, self.weights.as_deref()),
        )
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

/// Indented JSON with a line end. Records are plain data, so this cannot fail.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The record of a run that could not be done.
fn failed(variant: &VariantPlan, seed: u64, error: &RunError) -> train::Trained {
    let failure = Failure { step: 0, layer: None, reason: error.to_string() };
    let record = RunRecord {
        identity: None,
        variant: variant.name.clone(),
        summary: RunSummary {
            seed,
            status: Status::Failed,
            test_accuracy: None,
            test_squared_error: None,
            test_perplexity: None,
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
        agreement: Vec::new(),
    };
    train::Trained { record, weights: None }
}

/// The results file from what there is so far.
fn results(
    session: &Session<'_>,
    (records, timings): (&Records, &Timings),
    stage: Stage,
) -> Results {
    let (complete, other_load) = match stage {
        Stage::Running => (false, None),
        Stage::Finished { other_load } => (true, other_load),
    };
    let Session { plan, options, ref data, .. } = *session;
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
        engine: session.engine,
        environment: options.environment.clone(),
        data: Some(data.clone()),
        metric: data.metric(),
        variants,
        claims: Vec::new(),
        controls,
        other_load,
        recommendation: None,
        reference: session.reference.cloned(),
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
        serving: compare::serving(plan, runs, timing),
        memory,
        numerics: compare::numerics(runs),
        against_baseline: None,
    }
}
