//! What a results folder holds before the first run, and what of it is kept. The records of runs are the truth: the results
//! file says whose folder it is, and is computed from them again.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::frozen::{Frozen, difference_of_kinds};
use super::session::{Machines, Records, Session};
use super::timed::{self, Timed, TimingRecord};
use super::units::{Trained, Unit, UnitState, in_order, refuse, units};
use super::{ExperimentError, identity};
use crate::formatting;
use crate::record::files::{
    self, FIGURE_FOLDER, MATRIX, PLAN, RESULTS, RUNS, TENSORBOARD, record_path, weights_path,
};
use crate::record::{Identity, Results, RunRecord, RunSummary, Status};
use crate::spec::{ControlKind, Plan, VariantPlan};
use crate::store::{self, LockState, StoreError};

/// The folders of a results folder.
const FOLDERS: [&str; 3] = [RUNS, FIGURE_FOLDER, TENSORBOARD];

/// More runs that would be dropped are only counted.
const MOST_DROPPED: usize = 4;

/// What a folder holds.
pub(super) enum Found {
    /// The whole experiment.
    Finished(Box<Results>),
    /// A part of it, or nothing.
    Part(Part),
}

/// What of a folder is kept, and what is not though it was there.
#[derive(Default)]
pub(super) struct Part {
    pub(super) records: Records,
    /// Of these, those that lie in the place of a control.
    pub(super) misplaced: Vec<RunRecord>,
    pub(super) lost: Vec<Lost>,
    /// The blocks that are kept.
    pub(super) timing: Option<Box<TimingRecord>>,
    /// Why all variants are timed again.
    pub(super) timed_again: Option<String>,
}

/// A run that is there and is done again.
pub(super) struct Lost {
    pub(super) variant: String,
    pub(super) seed: u64,
    pub(super) reason: String,
}

/// Looks at the folder, and changes nothing in it.
///
/// # Errors
/// When going on would discard runs or times, or replace files of somebody else.
pub(super) fn look(session: &Session<'_>, trained: &[Trained]) -> Result<Found, ExperimentError> {
    let Session { frozen, options, .. } = *session;
    let (plan, out) = (&frozen.plan, session.out());
    refuse_links(out, trained)?;
    let place = out.join(RESULTS);
    let bytes = store::exists(&place)?
        .then(|| store::read_at_most(&place, store::MOST_RESULTS))
        .transpose()?;
    if !bytes.as_deref().is_some_and(is_marked)
        && let Some(file) = files::foreign(out)?
    {
        return Err(ExperimentError::Foreign(file));
    }
    refuse_unmarked(out, &[PLAN, MATRIX])?;
    if options.force {
        return Ok(Found::Part(Part::default()));
    }
    let old: Option<Results> =
        bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(|error| {
            let reason = format!("is not a results file of this version ({error})");
            ExperimentError::Unreadable { path: place, reason }
        })?;
    let planned = planned(frozen, out, old.is_some())?;
    let runs = runs(session, trained)?;
    let mut why = if let Some(old) = &old {
        identity::whole_differences(frozen, options.environment, old)
    } else {
        let planned = planned.map(|old| old.differences(frozen)).unwrap_or_default();
        let foreign = || runs.iter().find_map(|run| run.foreign.clone()).into_iter().collect();
        if planned.is_empty() { foreign() } else { planned }
    };
    let holds_runs = old.as_ref().is_none_or(|old| listed(old).next().is_some());
    if !why.is_empty() {
        if holds_runs || runs.iter().any(Place::is_there) {
            refuse(out, &why)?;
        }
        return Ok(Found::Part(Part::default()));
    }
    why.extend(old.as_ref().and_then(|old| dropped(old, &runs)));
    let was_complete = old.as_ref().is_some_and(|old| old.complete);
    let variants: Vec<&VariantPlan> =
        trained.iter().filter(|trained| trained.is_timed()).map(|t| &t.variant).collect();
    let wanted = session.nothing_timed(None);
    let timed = timed::look((out, was_complete), plan, &variants, &wanted)?;
    if let Timed::Other(differences) = &timed {
        why.extend(differences.iter().cloned());
    }
    refuse(out, &why)?;
    match old {
        Some(old) if is_as_planned(session, &old) && is_finished(&old, &runs) => {
            let (there, here) = (old.environment.threads, options.environment.threads);
            if there != here {
                refuse(out, &[timed::other_threads(there, here)])?;
            }
            Ok(Found::Finished(Box::new(old)))
        }
        old => Ok(Found::Part(part(runs, old.as_ref(), timed))),
    }
}

/// The plan that is in a folder. One that is damaged does no harm beside results, which have it too.
///
/// # Errors
/// When it names other kinds of machine than this one, or cannot be read.
fn planned(
    frozen: &Frozen,
    out: &Path,
    has_results: bool,
) -> Result<Option<Frozen>, ExperimentError> {
    let planned = match Frozen::find(out) {
        Err(_) if has_results => None,
        found => found?,
    };
    let kinds = planned.as_ref().map_or(&[][..], |planned| &planned.kinds);
    let why = difference_of_kinds(kinds, &frozen.kinds);
    refuse(out, why.as_slice())?;
    Ok(planned)
}

/// # Errors
/// When a file is in the folder that somebody else wrote, in the place of one of ours.
pub(super) fn refuse_foreign(out: &Path) -> Result<(), ExperimentError> {
    if refuse_unmarked(out, &[RESULTS, PLAN, MATRIX])? {
        return Ok(());
    }
    files::foreign(out)?.map_or(Ok(()), |file| Err(ExperimentError::Foreign(file)))
}

/// Whether one of these files is there, all of which begin as those of this program do.
///
/// # Errors
/// When one begins otherwise.
fn refuse_unmarked(out: &Path, names: &[&str]) -> Result<bool, ExperimentError> {
    let mut is_there = false;
    for name in names {
        let file = out.join(name);
        if store::exists(&file)? {
            if !is_marked(&store::read_start(&file, 64)?) {
                return Err(ExperimentError::Foreign(file));
            }
            is_there = true;
        }
    }
    Ok(is_there)
}

/// The runs of a results file that this plan lacks, but for those that failed; none where it has them all.
fn dropped(old: &Results, runs: &[Place]) -> Option<String> {
    let is_kept = |variant: &str, seed: u64| {
        let in_place = |run: &Place| run.variant == variant && run.seed == seed;
        runs.iter().any(|run| in_place(run) || run.found_in(variant, seed))
    };
    let dropped: Vec<String> = listed(old)
        .filter(|(variant, run)| run.status != Status::Failed && !is_kept(variant, run.seed))
        .map(|(variant, run)| format!("{variant}, seed {}", run.seed))
        .collect();
    without(&dropped)
}

/// What is said of runs that a plan lacks.
fn without(dropped: &[String]) -> Option<String> {
    let more = dropped.len().saturating_sub(MOST_DROPPED);
    let mut shown = dropped.get(..MOST_DROPPED).unwrap_or(dropped).to_vec();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    let runs = formatting::plural(dropped.len(), "run");
    (!dropped.is_empty()).then(|| format!("this plan is without {runs}: {}", shown.join("; ")))
}

/// Removes what an earlier experiment left in the folder, but for the results file: that says whose folder it is until it is
/// replaced. Only files that this program writes are removed, and folders that are empty then.
///
/// # Errors
/// When a file cannot be removed.
pub(super) fn clear(out: &Path) -> Result<(), ExperimentError> {
    refuse_running(out)?;
    let runs = out.join(RUNS);
    for variant in store::real_folders(&runs)? {
        for run in store::real_folders(&variant)? {
            for name in ["record.json", "weights.safetensors", "checkpoint.safetensors"] {
                let file = run.join(name);
                if store::exists(&file)? {
                    store::remove(&file)?;
                }
            }
            store::remove_free_lock(&run.join("record.json"))?;
            store::remove_if_empty(&run);
        }
        store::remove_if_empty(&variant);
    }
    for timing in timed::places(out)? {
        if store::exists(&timing)? {
            store::remove(&timing)?;
        }
        store::remove_free_lock(&timing)?;
    }
    store::remove_if_empty(&runs);
    Ok(files::remove_report(out)?)
}

/// Removes an experiment of this program from its folder, as [`clear`] does, and what says whose folder it is.
///
/// # Errors
/// When a process does a part of it, a file is of somebody else, or one cannot be removed.
pub(super) fn remove(out: &Path) -> Result<(), ExperimentError> {
    let marks = [RESULTS, PLAN];
    if refuse_unmarked(out, &marks)? {
        clear(out)?;
        for mark in marks {
            let file = out.join(mark);
            if store::exists(&file)? {
                store::remove(&file)?;
            }
        }
    }
    Ok(())
}

/// # Errors
/// When a process does a run of the folder or times it.
fn refuse_running(out: &Path) -> Result<(), ExperimentError> {
    let mut places: Vec<PathBuf> = timed::places(out)?.into_iter().collect();
    for variant in store::real_folders(&out.join(RUNS))? {
        let runs = store::real_folders(&variant)?;
        places.extend(runs.into_iter().map(|run| run.join("record.json")));
    }
    for place in places {
        if let LockState::Held(holder) = store::lock_state(&place)? {
            let what = place.strip_prefix(out).unwrap_or(&place).display().to_string();
            return Err(ExperimentError::Held { folder: out.to_owned(), what, holder });
        }
    }
    Ok(())
}

/// What is lost to a plan that lacks units of an earlier one which were done, in words.
pub(super) fn dropped_units(
    out: &Path,
    old: &Plan,
    plan: &Plan,
) -> Result<Option<String>, StoreError> {
    let kept = units(plan, &[]);
    let mut dropped = Vec::new();
    for unit in units(old, &[]) {
        if let Unit::Run { variant, seed } = &unit
            && !kept.contains(&unit)
            && store::exists(&record_path(out, variant, *seed))?
        {
            dropped.push(format!("{variant}, seed {seed}"));
        }
    }
    Ok(without(&dropped))
}

/// A link in the place of a folder would lead what is written to somewhere else.
fn refuse_links(out: &Path, trained: &[Trained]) -> Result<(), StoreError> {
    for name in FOLDERS {
        store::refuse_links(out, Path::new(name))?;
    }
    for (variant, seed) in in_order(trained) {
        let record = record_path(Path::new(""), &variant.name, seed);
        store::refuse_links(out, record.parent().unwrap_or(Path::new("")))?;
    }
    Ok(())
}

/// Whether a results file begins as those of this program do, whole or not.
pub(super) fn is_marked(bytes: &[u8]) -> bool {
    let mut start = bytes.iter().take(64).filter(|byte| !byte.is_ascii_whitespace());
    br#"{"schema":"#.iter().all(|expected| start.next() == Some(expected))
}

/// The place of a run of the plan, and what is in it.
pub(super) struct Place {
    variant: String,
    seed: u64,
    pub(super) record: Option<RunRecord>,
    /// The control in whose place the record is.
    control: Option<String>,
    /// Why the record that is there is not kept.
    pub(super) wrong: Option<String>,
    /// Why it is of another experiment, or may be.
    pub(super) foreign: Option<String>,
    /// Whether the record cannot be read, as one that was copied in part.
    pub(super) damaged: bool,
    /// The record of a run of this experiment that failed, and is not kept for that.
    failed: Option<RunRecord>,
}

impl Place {
    fn is_there(&self) -> bool {
        self.record.is_some() || self.wrong.is_some()
    }

    /// Whether its record is one of this control and seed.
    fn found_in(&self, control: &str, seed: u64) -> bool {
        self.control.as_deref() == Some(control) && self.seed == seed
    }
}

/// Looks into the place of every run of the plan. A run of the baseline that is missing may have been one of the control with
/// other seeds, when the plan had fewer: that is the same run.
fn runs(session: &Session<'_>, trained: &[Trained]) -> Result<Vec<Place>, StoreError> {
    let plan = session.plan();
    let mut places = Vec::new();
    for (variant, seed) in in_order(trained) {
        let mut place = read(session, (variant, &variant.name), seed)?;
        if variant.name == plan.baseline && !place.is_there() {
            let control = ControlKind::OtherSeeds.of(&variant.name);
            let other = read(session, (variant, &control), seed)?;
            if let Some(record) = other.record {
                let record = RunRecord { variant: variant.name.clone(), ..record };
                place = Place { record: Some(record), control: Some(control), ..place };
            }
        }
        places.push(place);
    }
    Ok(places)
}

/// Looks for the record of a run under a name, which is the variant's or that of a control.
pub(super) fn read(
    session: &Session<'_>,
    (variant, name): (&VariantPlan, &str),
    seed: u64,
) -> Result<Place, StoreError> {
    let path = record_path(session.out(), name, seed);
    let empty = Place {
        variant: variant.name.clone(),
        seed,
        record: None,
        control: None,
        wrong: None,
        foreign: None,
        damaged: false,
        failed: None,
    };
    if !store::exists(&path)? {
        return Ok(empty);
    }
    let record: RunRecord = match serde_json::from_slice(&store::read(&path)?) {
        Ok(record) => record,
        Err(error) => {
            let wrong = Some(format!("its record cannot be read ({error})"));
            let foreign = Some(format!("{} cannot be read", path.display()));
            return Ok(Place { wrong, foreign, damaged: true, ..empty });
        }
    };
    let here = session.identity(Some(&variant.policy));
    let difference = record_difference(&record, &here, session.machines);
    let foreign = difference.as_ref().map(|why| format!("{}: {why}", path.display()));
    let weights = weights_path(session.out(), name, seed);
    let unsaved = session.options.save_weights && !store::exists(&weights)?;
    let unsaved = unsaved.then(|| "its weights were not saved".to_owned());
    let is_of_this = difference.is_none();
    let wrong = impossible(&record, (name, seed), session.plan()).or(difference).or(unsaved);
    let is_its_own = record.variant == name && record.summary.seed == seed;
    let has_failed = record.summary.status == Status::Failed && is_of_this && is_its_own;
    let (record, failed) = match wrong {
        None => (Some(record), None),
        Some(_) => (None, Some(record).filter(|_| has_failed)),
    };
    Ok(Place { record, wrong, foreign, failed, ..empty })
}

/// The record of a run that is finished.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn finished(
    session: &Session<'_>,
    (variant, seed): (&VariantPlan, u64),
) -> Result<Option<RunRecord>, StoreError> {
    Ok(read(session, (variant, &variant.name), seed)?.record)
}

/// The records of the runs that are over, failed ones included, and why others that are there are none.
///
/// # Errors
/// When a record is of another experiment, or the folder cannot be read.
pub(super) fn gather(
    session: &Session<'_>,
    trained: &[Trained],
) -> Result<(Records, Vec<Lost>), ExperimentError> {
    let (mut records, mut lost) = (Records::new(), Vec::new());
    refuse_links(session.out(), trained)?;
    for (variant, seed) in in_order(trained) {
        let name = variant.name.clone();
        let Place { record, failed, wrong, foreign, damaged, .. } =
            read(session, (variant, &name), seed)?;
        if let Some(why) = foreign.filter(|_| !damaged) {
            return Err(ExperimentError::Occupied { folder: session.out().to_owned(), why });
        }
        match (record.or(failed), wrong) {
            (Some(record), _) => {
                records.insert((name, seed), record);
            }
            (None, Some(reason)) => lost.push(Lost { variant: name, seed, reason }),
            (None, None) => {}
        }
    }
    Ok((records, lost))
}

/// What the record of a run says of how it ended; none where there is no record that can be read.
///
/// # Errors
/// When the file system does not say.
pub(super) fn state_of(path: &Path) -> Result<Option<UnitState>, StoreError> {
    #[derive(Deserialize)]
    struct Head {
        summary: RunSummary,
    }
    if !store::exists(path)? {
        return Ok(None);
    }
    let head: Option<Head> = serde_json::from_slice(&store::read(path)?).ok();
    Ok(head.map(|Head { summary }| match summary.status {
        Status::Completed => UnitState::Finished { diverged: false },
        Status::Diverged => UnitState::Finished { diverged: true },
        Status::Failed => {
            UnitState::Failed(summary.failure.map(|failure| failure.reason).unwrap_or_default())
        }
    }))
}

/// How a record is of another experiment.
fn record_difference(record: &RunRecord, here: &Identity, machines: Machines) -> Option<String> {
    let Some(there) = &record.identity else {
        return Some("its record does not tell what it belongs to".to_owned());
    };
    let why = match machines {
        Machines::ThisOne => identity::differences(there, here),
        Machines::Any => identity::differences_on_any_machine(there, here),
    };
    (!why.is_empty()).then(|| why.join("; "))
}

/// Why a record of this experiment is not that of the run in whose place it is, or of no run at all.
pub(super) fn impossible(
    record: &RunRecord,
    (variant, seed): (&str, u64),
    plan: &Plan,
) -> Option<String> {
    let RunRecord { summary, loss, evaluations, .. } = record;
    let RunSummary { status, steps, .. } = summary;
    if record.variant != variant || summary.seed != seed {
        let found = record.variant.escape_debug();
        return Some(format!("its record is that of {found}, seed {}", summary.seed));
    }
    let planned = plan.train.steps;
    let right_steps = match status {
        Status::Failed => return Some("it failed".to_owned()),
        Status::Completed => *steps == planned,
        Status::Diverged => (1..=planned).contains(steps),
    };
    if !right_steps {
        return Some(format!("its record tells of {steps} steps of {planned}"));
    }
    if loss.len() as u64 != *steps {
        return Some(format!("its record has {} losses of {steps} steps", loss.len()));
    }
    let evaluated = evaluations.last();
    let of_summary = [summary.test_accuracy, summary.test_squared_error, summary.test_perplexity];
    let can_be = match of_summary {
        [Some(accuracy), None, None] => (0.0..=1.0).contains(&accuracy),
        [None, Some(error), None] => error >= 0.0,
        [None, None, Some(perplexity)] => perplexity >= 1.0,
        [None, None, None] => evaluated.is_some_and(|last| last.loss.is_none()),
        _ => false,
    };
    let of_last = evaluated.map(|last| [last.accuracy, last.squared_error, last.perplexity]);
    if !can_be || of_last != Some(of_summary) {
        let name = match of_summary {
            [_, Some(_), _] => "error",
            [_, _, Some(_)] => "perplexity",
            _ => "accuracy",
        };
        return Some(format!("its {name} is not that of its last evaluation"));
    }
    None
}

/// The runs that a results file lists, controls included.
fn listed(results: &Results) -> impl Iterator<Item = (&str, &RunSummary)> {
    let controls = results.controls.iter().map(|control| &control.result);
    results
        .variants
        .iter()
        .chain(controls)
        .flat_map(|variant| variant.runs.iter().map(|run| (variant.name.as_str(), run)))
}

/// Whether the results say the same of what was planned and published.
fn is_as_planned(session: &Session<'_>, results: &Results) -> bool {
    results.plan == *session.plan() && results.reference == session.frozen.reference
}

/// Whether the results are whole: every run of the plan is listed, none failed, and no record says otherwise. A record that was
/// taken away leaves its run as it is.
fn is_finished(results: &Results, runs: &[Place]) -> bool {
    let is_right = |place: &Place| {
        let run = listed(results)
            .find(|(variant, run)| *variant == place.variant && run.seed == place.seed);
        run.is_some_and(|(_, summary)| {
            let is_told = place.record.as_ref().is_none_or(|record| record.summary == *summary);
            summary.status != Status::Failed && place.wrong.is_none() && is_told
        })
    };
    results.complete && listed(results).count() == runs.len() && runs.iter().all(is_right)
}

/// What is kept of runs and times, and what is not though it was there.
fn part(runs: Vec<Place>, old: Option<&Results>, timed: Timed) -> Part {
    let mut part = Part::default();
    for Place { variant, seed, record, control, wrong, .. } in runs {
        let was_listed = old.is_some_and(|old| {
            listed(old).any(|(name, run)| (name, run.seed) == (variant.as_str(), seed))
        });
        match (record, wrong) {
            (Some(record), _) => {
                part.misplaced.extend(control.map(|_| record.clone()));
                part.records.insert((variant, seed), record);
            }
            (None, Some(reason)) => part.lost.push(Lost { variant, seed, reason }),
            (None, None) if was_listed => {
                let reason = "its record is missing".to_owned();
                part.lost.push(Lost { variant, seed, reason });
            }
            (None, None) => {}
        }
    }
    match timed {
        Timed::Kept(record) => part.timing = Some(record),
        Timed::Again(why) => part.timed_again = Some(why),
        Timed::Never | Timed::Other(_) => {}
    }
    part
}
