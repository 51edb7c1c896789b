//! The units of an experiment: what one process does for it, each known by its number.

use std::fmt;
use std::path::Path;

use super::frozen::Frozen;
use super::kept::{self, Place};
use super::session::{Machines, Session, Stage};
use super::timed::{self, Timed, TimingRecord};
use super::{Event, Experiment, ExperimentError, Options, matrix, run};
use crate::record::RunSummary;
use crate::record::files::{RESULTS, checkpoint_path, record_path};
use crate::spec::{ControlKind, ControlPlan, Plan, VariantPlan};
use crate::store::{self, LockState};

/// A variant or control with its seeds.
pub(super) struct Trained {
    pub(super) variant: VariantPlan,
    pub(super) seeds: Vec<u64>,
    control: Option<ControlKind>,
}

impl Trained {
    /// Whether it takes part in the timing phase. Other seeds are other weights, not other work: timing them would show
    /// nothing that the same seeds do not.
    pub(super) fn is_timed(&self) -> bool {
        self.control != Some(ControlKind::OtherSeeds)
    }
}

/// The variants of the plan, then its controls.
pub(super) fn trained(plan: &Plan) -> Vec<Trained> {
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
pub(super) fn in_order(trained: &[Trained]) -> impl Iterator<Item = (&VariantPlan, u64)> {
    let rounds = trained.iter().map(|trained| trained.seeds.len()).max().unwrap_or(0);
    (0..rounds).flat_map(move |round| {
        trained.iter().filter_map(move |trained| {
            let seed = trained.seeds.get(round)?;
            Some((&trained.variant, *seed))
        })
    })
}

/// The variants and controls that are timed.
pub(super) fn timed_variants(trained: Vec<Trained>) -> Vec<VariantPlan> {
    trained.into_iter().filter(Trained::is_timed).map(|trained| trained.variant).collect()
}

/// A part of an experiment that one process does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)] // for the program
pub enum Unit {
    /// A run.
    Run {
        /// The variant's name, or that of a control.
        variant: String,
        /// The seed.
        seed: u64,
    },
    /// The timing phase: all variants, on one machine.
    Timing {
        /// The kind of machine, where the plan names some.
        kind: Option<String>,
    },
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { variant, seed } => write!(f, "{variant}, seed {seed}"),
            Self::Timing { kind: None } => f.write_str("timing of all variants"),
            Self::Timing { kind: Some(kind) } => write!(f, "timing of all variants on {kind}"),
        }
    }
}

/// The kinds of machine on which is timed; one without a name where a plan names none.
pub(super) fn timed_kinds(kinds: &[String]) -> Vec<Option<String>> {
    if kinds.is_empty() { vec![None] } else { kinds.iter().cloned().map(Some).collect() }
}

/// The units of a plan with these kinds of machine, by their numbers: the runs in their order, then the timing phase, on each kind.
#[doc(hidden)] // for the program
pub fn units(plan: &Plan, kinds: &[String]) -> Vec<Unit> {
    let trained = trained(plan);
    let runs =
        in_order(&trained).map(|(variant, seed)| Unit::Run { variant: variant.name.clone(), seed });
    let timing = timed_kinds(kinds).into_iter().map(|kind| Unit::Timing { kind });
    runs.chain(timing).collect()
}

/// What a unit came to.
#[derive(Clone, Debug, PartialEq)]
#[doc(hidden)] // for the program
pub enum UnitOutcome {
    /// It was finished before, and nothing was done.
    FinishedBefore,
    /// It is finished: of a run, how it went.
    Finished(Option<Box<RunSummary>>),
    /// It was stopped, and goes on with the next call.
    Stopped,
}

/// How far a unit is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)] // for the program
pub enum UnitState {
    /// Nobody began it.
    Waiting,
    /// A process is at it, in its own words.
    Running(String),
    /// It was stopped, and its process said so.
    Stopped,
    /// Its process ended without a word.
    Lost(String),
    /// A run that failed, and why.
    Failed(String),
    /// It is finished; whether it is a run that diverged.
    Finished {
        /// Whether it is a run that diverged.
        diverged: bool,
    },
}

/// A unit and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)] // for the program
pub struct UnitStatus {
    /// The unit.
    pub unit: Unit,
    /// How far it is.
    pub state: UnitState,
    /// Whether there is a checkpoint that it goes on from.
    pub has_checkpoint: bool,
}

/// What a folder is planned for.
#[derive(Clone, Debug, PartialEq)]
#[doc(hidden)] // for the program
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// The kinds of machine on which is timed; none: one machine of any kind.
    pub kinds: Vec<String>,
}

impl Planned {
    /// Its units by their numbers.
    pub fn units(&self) -> Vec<Unit> {
        units(&self.plan, &self.kinds)
    }
}

/// The plan of a folder.
///
/// # Errors
/// When there is none, or it cannot be read.
#[doc(hidden)] // for the program
pub fn read_plan(folder: &Path) -> Result<Planned, ExperimentError> {
    let Frozen { plan, kinds, .. } = Frozen::read(folder)?;
    Ok(Planned { plan, kinds })
}

/// How far each unit of a folder is. Changes nothing.
///
/// # Errors
/// When the folder has no plan, or cannot be read.
#[doc(hidden)] // for the program
pub fn status(folder: &Path) -> Result<Vec<UnitStatus>, ExperimentError> {
    let planned = read_plan(folder)?;
    let state = |unit: Unit| {
        let (file, checkpoint) = match &unit {
            Unit::Run { variant, seed } => (
                record_path(folder, variant, *seed),
                store::exists(&checkpoint_path(folder, variant, *seed))?,
            ),
            Unit::Timing { kind } => (timed::place(folder, kind.as_deref()), false),
        };
        let finished = match &unit {
            Unit::Run { .. } => kept::state_of(&file)?,
            Unit::Timing { kind } => {
                let record = timed::read(folder, kind.as_deref())?;
                let is_over = record.is_some_and(|record| record.is_whole(&planned.plan));
                is_over.then_some(UnitState::Finished { diverged: false })
            }
        };
        let state = match (finished, store::lock_state(&file)?) {
            (Some(state @ UnitState::Finished { .. }), _) => state,
            (_, LockState::Held(holder)) => UnitState::Running(holder),
            (Some(state), _) => state,
            (None, LockState::Dead(holder)) => UnitState::Lost(holder),
            (None, LockState::Released) => UnitState::Stopped,
            (None, LockState::Free) => UnitState::Waiting,
        };
        Ok(UnitStatus { unit, state, has_checkpoint: checkpoint })
    };
    planned.units().into_iter().map(state).collect()
}

impl Experiment {
    /// Fixes the plan in a folder, so that its units can be done by their numbers. It is timed on each of these kinds of machine, or on
    /// one of any kind where there are none.
    ///
    /// # Errors
    /// When the folder holds another experiment, or cannot be written.
    #[doc(hidden)] // for the program
    pub fn freeze(&self, options: Options<'_>, kinds: &[String]) -> Result<(), ExperimentError> {
        let frozen = Frozen::of(self, options.environment, kinds);
        let session = Session { frozen: &frozen, options, machines: Machines::Any };
        let out = session.out();
        kept::refuse_foreign(out)?;
        matrix::make_way(options.folder, options.force)?;
        if options.force {
            kept::clear(out)?;
        } else if let Some(old) = Frozen::find(out)? {
            let why = old.differences(&frozen);
            let dropped = kept::dropped_units(out, &old.plan, &frozen.plan)?;
            refuse(out, &why.into_iter().chain(dropped).collect::<Vec<_>>())?;
        } else if store::exists(&out.join(RESULTS))? {
            let why = "its results have no plan.json beside them".to_owned();
            refuse(out, &[why])?;
        }
        Ok(frozen.write(out)?)
    }

    /// Does the unit of this number, from 0, in a folder with a plan, unless it is finished.
    ///
    /// # Errors
    /// When the folder is of another experiment, there is no such unit, another process does it, or a file cannot be written.
    #[doc(hidden)] // for the program
    pub fn run_unit(
        &self,
        options: Options<'_>,
        index: usize,
        listen: &mut dyn FnMut(Event<'_>),
    ) -> Result<UnitOutcome, ExperimentError> {
        let out = options.folder.path();
        let frozen = Frozen::read(out)?;
        let here = Frozen::of(self, options.environment, &frozen.kinds);
        refuse(out, &frozen.differences(&here))?;
        let session = Session { frozen: &frozen, options, machines: Machines::Any };
        let trained = trained(&frozen.plan);
        let runs: Vec<(&VariantPlan, u64)> = in_order(&trained).collect();
        if let Some(run) = runs.get(index) {
            return self.run_of(&session, *run, listen);
        }
        let kinds = timed_kinds(&frozen.kinds);
        match kinds.get(index - runs.len()) {
            Some(kind) => self.time_in(&session, kind.as_deref(), listen),
            None => Err(ExperimentError::NoUnit {
                folder: out.to_owned(),
                index,
                units: runs.len() + kinds.len(),
            }),
        }
    }

    fn run_of(
        &self,
        session: &Session<'_>,
        (variant, seed): (&VariantPlan, u64),
        listen: &mut dyn FnMut(Event<'_>),
    ) -> Result<UnitOutcome, ExperimentError> {
        let Place { record, wrong, foreign, damaged, .. } =
            kept::read(session, (variant, &variant.name), seed)?;
        if record.is_some() {
            run::remove_leftovers(session.out(), (&variant.name, seed))?;
            return Ok(UnitOutcome::FinishedBefore);
        }
        if !damaged {
            refuse(session.out(), foreign.as_slice())?;
        }
        if let Some(reason) = &wrong {
            listen(Event::NotKept { variant: &variant.name, seed, reason });
        }
        let folder = record_path(session.out(), &variant.name, seed);
        store::sweep_one(folder.parent().unwrap_or(session.out()))?;
        let setup = self.setup(session.options);
        let done = run::complete(session, setup, (variant, seed), listen)?;
        Ok(done.map_or(UnitOutcome::Stopped, |record| {
            UnitOutcome::Finished(Some(Box::new(record.summary)))
        }))
    }

    fn time_in(
        &self,
        session: &Session<'_>,
        kind: Option<&str>,
        listen: &mut dyn FnMut(Event<'_>),
    ) -> Result<UnitOutcome, ExperimentError> {
        let variants = timed_variants(trained(session.plan()));
        let planned: Vec<&VariantPlan> = variants.iter().collect();
        if let Timed::Kept(record) = timed::look_from_anywhere(session, kind, &planned)?
            && record.is_whole(session.plan())
        {
            store::remove_free_lock(&timed::place(session.out(), kind))?;
            return Ok(UnitOutcome::FinishedBefore);
        }
        let wanted = session.nothing_timed(kind);
        let timing = match timed::look((session.out(), false), session.plan(), &planned, &wanted)? {
            Timed::Never => wanted,
            Timed::Kept(record) => *record,
            Timed::Other(why) => {
                refuse(session.out(), &why)?;
                wanted
            }
            Timed::Again(reason) => {
                listen(Event::TimedAgain { reason: &reason });
                wanted
            }
        };
        let setup = self.setup(session.options);
        let timing: TimingRecord = timed::complete(session, setup, (timing, &variants), listen)?;
        if matches!(timing.stage(session.plan()), Stage::Running) {
            return Ok(UnitOutcome::Stopped);
        }
        Ok(UnitOutcome::Finished(None))
    }
}

/// Leaves the record of the run of this number, which took its process with it.
///
/// # Errors
/// As [`Experiment::run_unit`].
#[doc(hidden)] // for the program
pub fn give_up(
    options: Options<'_>,
    index: usize,
    reason: String,
) -> Result<Option<RunSummary>, ExperimentError> {
    let frozen = Frozen::read(options.folder.path())?;
    let session = Session { frozen: &frozen, options, machines: Machines::Any };
    let trained = trained(&frozen.plan);
    let run = in_order(&trained).nth(index);
    let record = run.map(|run| run::give_up(&session, run, reason)).transpose()?;
    Ok(record.map(|record| record.summary))
}

/// # Errors
/// When there is a reason not to go on in a folder.
pub(super) fn refuse(folder: &Path, why: &[String]) -> Result<(), ExperimentError> {
    if why.is_empty() {
        return Ok(());
    }
    Err(ExperimentError::Occupied { folder: folder.to_owned(), why: why.join("; ") })
}
