//! The commands that do an experiment in parts: its plan, one of its units, its results so far, and how far each unit is.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde_json::json;

use super::progress::Progress;
use super::{
    Failure, Place, Printed, Study, StudyArguments, cells, complete_report, experiment_of,
    failed_runs, holder, print, say, width,
};
use crate::device::{self, Device};
use crate::experiment::{
    Event, ExperimentError, Matrix, Options, Unit, UnitOutcome, UnitPlace, UnitState, UnitStatus,
    collect as collect_results, read_plan, status_of_all, unit_places, units,
};
use crate::formatting::{self, printable};
use crate::ops;
use crate::record::{Environment, Results, RunSummary, Status, files};
use crate::report;
use crate::spec::{Plan, check_names};
use crate::store::Folder;

/// More units of a state are only counted.
const MOST_SHOWN: usize = 20;

/// The variables of a process that say its place among those that were started together: of a job array of Slurm, and of an
/// indexed job of Kubernetes.
const INDEX_VARIABLES: [&str; 2] = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"];

#[derive(Debug, Args)]
pub(super) struct PlanArguments {
    #[command(flatten)]
    study: StudyArguments,
    /// Time all variants on this kind of machine, such as h100 or cpu, in a unit of its own; may be repeated
    #[arg(long = "kind", value_name = "NAME")]
    kinds: Vec<String>,
    /// Print nothing
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// Folder that `mantissa plan` wrote
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The unit's number, as `mantissa plan` lists them; left out: that of the task of a Slurm array or of a Kubernetes job
    #[arg(long, value_name = "I")]
    index: Option<usize>,
    /// Do N units: those from I × N on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    units_per_task: u32,
    /// Of these units do the runs alone
    #[arg(long)]
    runs_only: bool,
    /// Do the timing on this kind of machine, which is this one, of every cell of a matrix
    #[arg(long, value_name = "NAME", conflicts_with_all = ["index", "units_per_task", "runs_only"])]
    kind: Option<String>,
    /// Where to run: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Worker threads [default: one per logical processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=super::MOST_THREADS))]
    threads: Option<u16>,
    /// Print nothing but complaints
    #[arg(long)]
    quiet: bool,
    /// Leave the run's weights beside its record
    #[arg(long)]
    save_weights: bool,
}

#[derive(Debug, Args)]
pub(super) struct CollectArguments {
    /// Folder that `mantissa plan` wrote
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Print the results and nothing else
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    printed: Printed,
    /// Write DIR/tensorboard/ too: event files, which TensorBoard reads
    #[arg(long)]
    tensorboard: bool,
}

/// Fixes a plan in a folder and lists its units.
pub(super) fn plan(arguments: &PlanArguments) -> Result<(), Failure> {
    let PlanArguments { study: asked, kinds, quiet } = arguments;
    check_names("--kind", kinds).map_err(Failure::Input)?;
    let study = asked.study(*quiet)?;
    let out = asked.folder(&study);
    let listed = freeze_study(study, &out, asked, kinds, *quiet)?;
    if *quiet {
        return Ok(());
    }
    let rows: Vec<String> =
        listed.iter().enumerate().map(|(index, unit)| format!("{index:>6}  {unit}")).collect();
    print(&rows.join("\n"))?;
    let (count, folder) = (formatting::plural(listed.len(), "unit"), out.display());
    print(&format!("{count}; one is done by: mantissa run {folder} --index I"))
}

/// Fixes the plan of a spec in a folder, or the plans of its cells, and returns its units in words.
pub(super) fn freeze_study(
    study: Study,
    out: &Path,
    asked: &StudyArguments,
    kinds: &[String],
    quiet: bool,
) -> Result<Vec<String>, Failure> {
    match study {
        Study::One(plan) => {
            let units = freeze(*plan, out, asked, kinds, quiet)?;
            Ok(units.iter().map(Unit::to_string).collect())
        }
        Study::Cells(cells) => cells::plan(cells, out, asked, kinds, quiet),
    }
}

/// Fixes a plan in a folder, and returns its units.
pub(super) fn freeze(
    plan: Plan,
    out: &Path,
    asked: &StudyArguments,
    kinds: &[String],
    quiet: bool,
) -> Result<Vec<Unit>, Failure> {
    let Place { pool, device, environment } = asked.selection.open()?;
    let experiment = pool.install(|| experiment_of(plan, quiet))?;
    let folder = Folder::lock(out, &holder(&environment)).map_err(Failure::input)?;
    let options = Options {
        folder: &folder,
        force: asked.force,
        save_weights: false,
        stop: None,
        device: &device,
        environment: &environment,
    };
    experiment.freeze(options, kinds)?;
    Ok(units(experiment.plan(), kinds))
}

/// Does units of a folder.
pub(super) fn run(arguments: &RunArguments) -> Result<(), Failure> {
    let places = meant(arguments)?;
    let stop = super::signals::stop_flag()?;
    let mut failed = None;
    // Those of one experiment read its data once.
    for chunk in places.chunk_by(|one, other| one.folder == other.folder) {
        failed = failed.or(run_in(&chunk[0].folder, chunk, arguments, &stop)?);
    }
    match failed {
        None => Ok(()),
        Some(reason) => Err(Failure::Machine(format!("the run failed: {reason}"))),
    }
}

/// Where the units are that are meant.
fn meant(arguments: &RunArguments) -> Result<Vec<UnitPlace>, Failure> {
    let RunArguments { folder: out, index, units_per_task, kind, .. } = arguments;
    if let Some(kind) = kind {
        let matrix = Matrix::find(out)?;
        let folders = matrix.map_or_else(|| vec![out.clone()], |matrix| matrix.folders(out));
        return folders.into_iter().map(|folder| timing_on(folder, kind)).collect();
    }
    let index = match index {
        Some(index) => *index,
        None => index_of_process(|name| std::env::var(name).ok())?,
    };
    let places = unit_places(out)?;
    let each = *units_per_task as usize;
    let first = index.saturating_mul(each);
    if first >= places.len() {
        let units = places.len().div_ceil(each);
        return Err(ExperimentError::NoUnit { folder: out.clone(), index, units }.into());
    }
    Ok(places.into_iter().skip(first).take(each).collect())
}

/// Where the timing on a kind of machine is, of one experiment.
fn timing_on(folder: PathBuf, kind: &str) -> Result<UnitPlace, Failure> {
    let planned = read_plan(&folder)?;
    let meant = Unit::Timing { kind: Some(kind.to_owned()) };
    let index = planned.units().iter().position(|unit| *unit == meant).ok_or_else(|| {
        let known = match &planned.kinds[..] {
            [] => "none".to_owned(),
            kinds => formatting::list(kinds),
        };
        let folder = folder.display();
        Failure::Input(format!(
            "{folder}: its plan names no kind of machine {kind}; known: {known}"
        ))
    })?;
    Ok(UnitPlace { folder, index })
}

/// Does units of one experiment, and returns why the first failed that did.
fn run_in(
    out: &Path,
    places: &[UnitPlace],
    arguments: &RunArguments,
    stop: &AtomicBool,
) -> Result<Option<String>, Failure> {
    let RunArguments { device, threads, quiet, save_weights, runs_only, .. } = *arguments;
    let planned = read_plan(out)?;
    let listed = planned.units();
    let is_left_out =
        |place: &UnitPlace| runs_only && matches!(listed[place.index], Unit::Timing { .. });
    let places: Vec<&UnitPlace> = places.iter().filter(|place| !is_left_out(place)).collect();
    if places.is_empty() {
        return Ok(None);
    }
    let Place { pool, device, environment } = Place::open(device, threads)?;
    let experiment = pool.install(|| experiment_of(planned.plan, quiet))?;
    let shared = Folder::share(out, &holder(&environment))?;
    let options = Options {
        folder: &shared,
        force: false,
        save_weights,
        stop: Some(stop),
        device: &device,
        environment: &environment,
    };
    let mut failed = None;
    for UnitPlace { index, .. } in places {
        let mut progress = Progress::new(quiet, experiment.plan());
        let listen = &mut |event: Event<'_>| progress.hear(&event);
        let outcome = pool.install(|| experiment.run_unit(options, *index, listen));
        progress.finish();
        match outcome? {
            UnitOutcome::FinishedBefore if quiet => {}
            UnitOutcome::FinishedBefore => {
                print(&format!("{}: was finished before", listed[*index]))?;
            }
            UnitOutcome::Finished(summary) => failed = failed.or(reason(summary.as_deref())),
            UnitOutcome::Stopped => return Err(Failure::interrupted()),
        }
    }
    Ok(failed)
}

/// Why a run failed, if it did.
fn reason(summary: Option<&RunSummary>) -> Option<String> {
    let failed = summary.filter(|summary| summary.status == Status::Failed)?;
    Some(failed.failure.as_ref().map_or_else(String::new, |failure| failure.reason.clone()))
}

/// The place of this process among those that were started together.
fn index_of_process(variable: impl Fn(&str) -> Option<String>) -> Result<usize, Failure> {
    for name in INDEX_VARIABLES {
        if let Some(text) = variable(name) {
            return text.parse().map_err(|_| {
                Failure::Input(format!("{name} is \"{text}\"; it must be a number from 0 on"))
            });
        }
    }
    let [slurm, kubernetes] = INDEX_VARIABLES;
    Err(Failure::Input(format!("which unit? give --index, or set {slurm} or {kubernetes}")))
}

/// Makes results and report of what a folder has, and of its cells where it has some.
pub(super) fn collect(arguments: &CollectArguments) -> Result<(), Failure> {
    let out = &arguments.folder;
    match Matrix::find(out)? {
        Some(matrix) => cells::collect(&matrix, out, |cell| collect_one(cell, arguments)),
        None => collect_one(out, arguments),
    }
}

fn collect_one(out: &Path, arguments: &CollectArguments) -> Result<(), Failure> {
    let CollectArguments { quiet, printed, tensorboard, .. } = *arguments;
    let results = collect_into(out, quiet)?;
    let reported = complete_report(&results, out, tensorboard).map_err(Failure::machine);
    print(&report::terminal(&results, printed.verbosity(), width()))?;
    reported?;
    if !quiet {
        print(&printable(&format!("report: {}", out.join(files::PAGE).display())))?;
    }
    failed_runs(&results)?;
    if results.complete {
        return Ok(());
    }
    let what = format!("not every unit is finished: mantissa status {}", out.display());
    Err(Failure::Interrupted(what))
}

/// Makes the results of what a folder has.
pub(super) fn collect_into(out: &Path, quiet: bool) -> Result<Results, Failure> {
    let environment = this_program()?;
    // Of a folder without a plan nothing is made.
    read_plan(out)?;
    let folder = Folder::lock(out, &holder(&environment)).map_err(Failure::input)?;
    let mut listen = |event: Event<'_>| match event {
        Event::NotKept { variant, seed, reason } if !quiet => {
            say(&format!("{variant}, seed {seed}, is left out: {reason}"));
        }
        Event::TimesNotKept { reason } if !quiet => say(&format!("times are left out: {reason}")),
        _ => {}
    };
    Ok(collect_results(&folder, &environment, &mut listen)?)
}

/// What is known of this program where it trains nothing.
pub(super) fn this_program() -> Result<Environment, Failure> {
    let choice = Device::Cpu.resolve().map_err(Failure::machine)?;
    let products = ops::product_paths().map_err(Failure::input)?;
    Ok(device::environment(&choice, rayon::current_num_threads(), products))
}

/// Prints how far each unit of a folder is.
pub(super) fn status(out: &Path, as_json: bool) -> Result<(), Failure> {
    let statuses = status_of_all(out)?;
    if as_json {
        return print(&json_of(&statuses)?);
    }
    print(&page(&statuses))
}

/// The name of a state, and what is to be said of a unit in it.
fn words(status: &UnitStatus) -> (&'static str, String) {
    let kept = if status.has_checkpoint { "goes on from its checkpoint" } else { "begins anew" };
    match &status.state {
        UnitState::Finished { diverged: true } => ("finished", "diverged".to_owned()),
        UnitState::Finished { .. } => ("finished", String::new()),
        UnitState::Running(holder) => ("running", holder.clone()),
        UnitState::Failed(reason) => ("failed", reason.clone()),
        UnitState::Lost(holder) => ("lost", format!("{holder} ended without a word; {kept}")),
        UnitState::Stopped => ("stopped", kept.to_owned()),
        UnitState::Waiting if status.has_checkpoint => ("stopped", kept.to_owned()),
        UnitState::Waiting => ("waiting", String::new()),
    }
}

/// The states in which a unit is listed, in this order.
const LISTED: [&str; 4] = ["running", "failed", "lost", "stopped"];

fn page(statuses: &[(Option<String>, UnitStatus)]) -> String {
    let in_state = |state: &str| {
        let rows = statuses.iter().enumerate().filter(|(_, (_, status))| words(status).0 == state);
        let row = |(index, (cell, status)): (usize, &(Option<String>, UnitStatus))| {
            let cell = cell.as_ref().map(|cell| format!("{cell}: ")).unwrap_or_default();
            format!("{state} {index}: {cell}{}: {}", status.unit, words(status).1)
        };
        rows.map(row).collect::<Vec<_>>()
    };
    let count =
        |state: &str| format!("{} {state}", formatting::count(in_state(state).len() as u64));
    let counts: Vec<String> =
        ["finished", "running", "failed", "lost", "stopped", "waiting"].map(count).to_vec();
    let diverged = UnitState::Finished { diverged: true };
    let diverged = statuses.iter().filter(|(_, status)| status.state == diverged).count();
    let mut lines =
        vec![format!("{}: {}", formatting::plural(statuses.len(), "unit"), counts.join(", "))];
    if diverged > 0 {
        lines.push(format!("{} diverged", formatting::plural(diverged, "finished run")));
    }
    for state in LISTED {
        let rows = in_state(state);
        lines.extend(rows.iter().take(MOST_SHOWN).cloned());
        if rows.len() > MOST_SHOWN {
            lines.push(format!("{state}: {} more; --json lists all", rows.len() - MOST_SHOWN));
        }
    }
    lines.join("\n")
}

fn json_of(statuses: &[(Option<String>, UnitStatus)]) -> Result<String, Failure> {
    let unit = |(index, (cell, status)): (usize, &(Option<String>, UnitStatus))| {
        let (state, said) = words(status);
        let (variant, seed, kind) = match &status.unit {
            Unit::Run { variant, seed } => (Some(variant), Some(seed), None),
            Unit::Timing { kind } => (None, None, kind.as_ref()),
        };
        json!({
            "index": index, "cell": cell, "variant": variant, "seed": seed, "kind": kind, "state": state, "said": said,
            "checkpoint": status.has_checkpoint,
        })
    };
    let units: Vec<_> = statuses.iter().enumerate().map(unit).collect();
    serde_json::to_string_pretty(&units).map_err(Failure::machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(unit: Unit, state: UnitState, has_checkpoint: bool) -> (Option<String>, UnitStatus) {
        (None, UnitStatus { unit, state, has_checkpoint })
    }

    fn run(seed: u64) -> Unit {
        Unit::Run { variant: "fp32".to_owned(), seed }
    }

    #[test]
    fn a_process_is_told_its_number_by_its_environment() {
        let index = |variables: &[(&str, &str)]| {
            let found = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            index_of_process(found).map_err(|failure| failure.to_string())
        };
        assert_eq!(index(&[("SLURM_ARRAY_TASK_ID", "7")]), Ok(7));
        assert_eq!(index(&[("JOB_COMPLETION_INDEX", "0")]), Ok(0));
        let error = "SLURM_ARRAY_TASK_ID is \"-1\"; it must be a number from 0 on".to_owned();
        assert_eq!(index(&[("SLURM_ARRAY_TASK_ID", "-1")]), Err(error));
        let none = "which unit? give --index, or set SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX";
        assert_eq!(index(&[]), Err(none.to_owned()));
    }

    #[test]
    fn units_are_counted_by_their_states() {
        let statuses = [
            status(run(0), UnitState::Finished { diverged: false }, false),
            status(run(1), UnitState::Finished { diverged: true }, false),
            status(run(2), UnitState::Running("process 3 on here".to_owned()), true),
            status(run(3), UnitState::Failed("no memory".to_owned()), false),
            status(run(4), UnitState::Lost("process 4 on there".to_owned()), true),
            status(run(5), UnitState::Waiting, true),
            status(Unit::Timing { kind: None }, UnitState::Waiting, false),
        ];
        let expected = "\
7 units: 2 finished, 1 running, 1 failed, 1 lost, 1 stopped, 1 waiting
1 finished run diverged
running 2: fp32, seed 2: process 3 on here
failed 3: fp32, seed 3: no memory
lost 4: fp32, seed 4: process 4 on there ended without a word; goes on from its checkpoint
stopped 5: fp32, seed 5: goes on from its checkpoint";
        assert_eq!(page(&statuses), expected);
        let many: Vec<_> =
            (0..25).map(|seed| status(run(seed), UnitState::Stopped, false)).collect();
        assert!(page(&many).ends_with("begins anew\nstopped: 5 more; --json lists all"));
    }
}
