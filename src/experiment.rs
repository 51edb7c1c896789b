//! An experiment: plan → runs → results. Decides the order, saves after every run, tells a listener what happens.
//!
//! A results folder belongs to the process that has its lock. It is marked by a results file before the first run, which says
//! what plan, build, device and data the runs are of; the record of each run says so too.

mod collect;
mod compare;
mod dry_run;
mod frozen;
mod identity;
mod kept;
mod machines;
mod matrix;
mod run;
mod session;
#[cfg(test)]
mod tests;
mod timed;
mod units;

pub use collect::collect;
pub use dry_run::{DryRun, DryVariant};
pub use matrix::{Matrix, UnitPlace, cell_folder, status_of_all, unit_places};
pub use units::{
    Planned, Unit, UnitOutcome, UnitState, UnitStatus, give_up, read_plan, status, units,
};

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use candle_core::Device;

use crate::data::{Batches, Dataset};
use crate::device::{self, DeviceError, LoadMeter};
use crate::formatting;
use crate::model::ModelError;
use crate::ops;
use crate::record::{DataFacts, Environment, Results, RunSummary};
use crate::spec::{Plan, Reference, ServingPlan};
use crate::store::{Folder, StoreError};
use crate::task::{Task, TaskError};
use crate::train::{self, Phase, RunError, Setup, Timing};
use frozen::Frozen;
use kept::Found;
use session::{Machines, Session, Stage};
use units::{in_order, timed_variants, trained};

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
    /// A run goes on from its checkpoint.
    Resumed {
        /// The variant's name.
        variant: &'a str,
        /// The seed.
        seed: u64,
        /// Steps that were done before.
        steps: u64,
    },
    /// A run begins anew although there is a checkpoint.
    CheckpointNotUsed {
        /// The variant's name.
        variant: &'a str,
        /// The seed.
        seed: u64,
        /// Why.
        reason: &'a str,
    },
    /// Timed blocks that are there cannot be used.
    TimesNotKept {
        /// Why.
        reason: &'a str,
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
    /// Another process does a part of it.
    #[error("{}: {what}: is being done by {holder}; wait for its end", folder.display())]
    Held {
        /// The folder.
        folder: PathBuf,
        /// Which part.
        what: String,
        /// Who does it.
        holder: String,
    },
    /// A folder has no plan that can be read.
    #[error("{}: {reason}; make it with mantissa plan", path.display())]
    NoPlan {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no unit of this number.
    #[error("{}: has no unit {index}; give --index 0 to {}", folder.display(), units - 1)]
    NoUnit {
        /// The folder.
        folder: PathBuf,
        /// The number.
        index: usize,
        /// How many there are.
        units: usize,
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
    /// Set to true, by a signal or another thread, to stop at the end of the next step; none: nothing stops it.
    pub stop: Option<&'a AtomicBool>,
    /// Where this runs.
    pub device: &'a Device,
    /// What is known of where this runs.
    pub environment: &'a Environment,
}

impl<'a> Options<'a> {
    /// A run on `machine` that goes on with what `folder` holds.
    pub fn new(folder: &'a Folder, machine: &'a Machine) -> Self {
        let Machine { device, environment } = machine;
        Self { folder, force: false, save_weights: false, stop: None, device, environment }
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

    fn setup<'a>(&'a self, options: Options<'a>) -> Setup<'a> {
        let Options { device, save_weights, .. } = options;
        Setup { save_weights, ..self.setup_on(device) }
    }

    fn setup_on<'a>(&'a self, device: &'a Device) -> Setup<'a> {
        Setup::new(&self.plan, &self.task, device)
    }

    /// Runs every variant and seed of the plan and its controls, then the timing phase, and leaves `results.json` and a record
    /// a run in `options.folder`. Seeds are the outer loop, and controls come last in each round, so that the first full
    /// comparison is there soonest. Runs and timed blocks that an earlier call finished are kept where this plan asks for the
    /// same ones, by the same build on the same device and data; a run that it did not finish goes on from its checkpoint;
    /// where all are there, nothing is done. Where `options.stop` says so, it stops at the next step: the results are not
    /// complete then, and the same call goes on.
    ///
    /// # Errors
    /// When the folder cannot be written or holds something else, or another process does one of the runs. A run that diverges or
    /// fails is a result, not an error.
    pub fn run(
        &self,
        options: Options<'_>,
        listen: &mut dyn FnMut(Event<'_>),
    ) -> Result<Results, ExperimentError> {
        let frozen = Frozen::of(self, options.environment, &[]);
        let session = Session { frozen: &frozen, options, machines: Machines::ThisOne };
        let trained = trained(&self.plan);
        let kept::Part { mut records, timing, .. } =
            match session.begin(&trained, &self.task.data, listen)? {
                Found::Finished(results) => return Ok(*results),
                Found::Part(part) => part,
            };
        let timing = timing.map_or_else(|| session.nothing_timed(None), |timing| *timing);
        let setup = self.setup(options);
        let mut pause = Pause::default();
        for (variant, seed) in in_order(&trained) {
            let key = (variant.name.clone(), seed);
            if records.contains_key(&key) {
                continue;
            }
            let done = run::complete(&session, setup, (variant, seed), listen)?;
            let stopped = done.is_none();
            records.extend(done.map(|record| (key, record)));
            if stopped || pause.is_over() {
                let timed = std::slice::from_ref(&timing);
                let (results, path) =
                    pause.after(|| session.save(&records, timed, Stage::Running))?;
                listen(Event::Saved(&path));
                if stopped {
                    return Ok(results);
                }
            }
        }
        let variants = timed_variants(trained);
        let timing = timed::complete(&session, setup, (timing, &variants), listen)?;
        let stage = timing.stage(&self.plan);
        let (results, path) = session.save(&records, std::slice::from_ref(&timing), stage)?;
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
        train::time_variants(self.setup_on(device), seed, variants, phase, &mut |_, _| {
            ControlFlow::Continue(())
        })
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
            .map(|(variant, timing)| {
                let timed = (plan, device.is_cuda());
                session::summarize(timed, variant, &[], Some(timing))
            })
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

/// The time between two savings of the results. All records go into them, so that of thousands of runs they take long: then they
/// are saved after several runs, so that this takes a tenth of the time at most. Each record is there at once.
#[derive(Default)]
struct Pause(Option<(Instant, Duration)>);

impl Pause {
    /// What takes less is done after each run.
    const SHORT: Duration = Duration::from_millis(100);

    fn is_over(&self) -> bool {
        self.0.is_none_or(|(end, took)| took < Self::SHORT || end.elapsed() >= 9 * took)
    }

    /// Saves, and begins another pause.
    fn after<T>(&mut self, save: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let saved = save();
        self.0 = Some((Instant::now(), start.elapsed()));
        saved
    }
}

/// The seed of the weights and batches that are timed.
fn first_seed(plan: &Plan) -> u64 {
    plan.seeds.first().copied().unwrap_or_default()
}
