//! What a results folder holds before the first run, and what of it is kept. The records of runs are the truth: the results
//! file says whose folder it is, and is computed from them again.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{ExperimentError, Options, Records, Trained, json, record_path};
use crate::record::{DataFacts, Environment, Identity, Results, RunRecord, RunSummary, Status};
use crate::report;
use crate::spec::Plan;
use crate::store::{self, StoreError};
use crate::words;

/// The results file, and the mark of a folder as this program's.
pub(super) const RESULTS: &str = "results.json";

/// The folders of an experiment.
const FOLDERS: [&str; 3] = ["runs", "figures", report::TENSORBOARD];

/// More characters of a value that differs are not told.
const LONGEST_VALUE: usize = 100;

/// What a folder holds.
pub(super) enum Found {
    /// The whole experiment.
    Finished(Box<Results>),
    /// Runs that are kept, and those that are not.
    Part(Records, Vec<Lost>),
}

/// A run that is there and is done again.
pub(super) struct Lost {
    pub(super) variant: String,
    pub(super) seed: u64,
    pub(super) reason: String,
}

/// What the runs of a plan on these data, here and by this build, have in common.
pub(super) fn identity(plan: &Plan, environment: &Environment, data: &DataFacts) -> Identity {
    let Environment { version, git, source, build, .. } = environment;
    let commit = git.as_deref().unwrap_or("no commit");
    Identity {
        plan: words::hex(&Sha256::digest(serde_json::to_vec(plan).unwrap_or_default())),
        build: format!("mantissa {version} of {commit}, sources {source}, {build}"),
        device: environment.device_name.clone(),
        product_paths: environment.product_paths.clone(),
        data: data.clone(),
    }
}

/// Looks at the folder, and changes nothing in it.
///
/// # Errors
/// When going on would discard runs that are not of this experiment, or replace files of somebody else.
pub(super) fn look(
    (plan, trained): (&Plan, &[Trained]),
    options: Options<'_>,
    identity: &Identity,
) -> Result<Found, ExperimentError> {
    let out = options.folder.path();
    refuse_links(out, trained)?;
    let place = out.join(RESULTS);
    let bytes = store::exists(&place)?
        .then(|| store::read_at_most(&place, store::MOST_RESULTS))
        .transpose()?;
    if !bytes.as_deref().is_some_and(is_marked)
        && let Some(file) = report::foreign(out)?
    {
        return Err(ExperimentError::Foreign(file));
    }
    if options.force {
        return Ok(Found::Part(Records::new(), Vec::new()));
    }
    let old: Option<Results> =
        bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(|error| {
            let reason = format!("is not a results file of this version ({error})");
            ExperimentError::Unreadable { path: place, reason }
        })?;
    let runs = runs(plan, trained, (out, identity))?;
    let why = match &old {
        Some(old) => whole_difference((plan, identity), old),
        None => runs.iter().find_map(|run| run.foreign.clone()).into_iter().collect(),
    };
    let holds_runs = old.as_ref().is_some_and(|old| listed(old).next().is_some());
    if !why.is_empty() && (holds_runs || runs.iter().any(Place::is_there)) {
        return Err(ExperimentError::Occupied { folder: out.to_owned(), why: why.join("; ") });
    }
    let old = old.filter(|_| why.is_empty());
    match old {
        Some(old) if is_finished(&old, &runs) => {
            let (there, here) = (old.environment.threads, options.environment.threads);
            if there != here {
                let [there, here] = [there, here].map(|threads| words::plural(threads, "thread"));
                let why = format!("its times are those of {there}, this is with {here}");
                return Err(ExperimentError::Occupied { folder: out.to_owned(), why });
            }
            Ok(Found::Finished(Box::new(old)))
        }
        old => Ok(part(runs, old.as_ref())),
    }
}

/// Removes what an earlier experiment left in the folder, but for the results file: that says whose folder it is until it is
/// replaced. Only files that this program writes are removed, and folders that are empty then.
///
/// # Errors
/// When a file cannot be removed.
pub(super) fn clear(out: &Path) -> Result<(), StoreError> {
    let runs = out.join("runs");
    for variant in store::real_folders(&runs)? {
        for run in store::real_folders(&variant)? {
            let record = run.join("record.json");
            if store::exists(&record)? {
                store::remove(&record)?;
                store::remove_if_empty(&run);
            }
        }
        store::remove_if_empty(&variant);
    }
    store::remove_if_empty(&runs);
    report::clear(out)
}

/// A link in the place of a folder would lead what is written to somewhere else.
fn refuse_links(out: &Path, trained: &[Trained]) -> Result<(), StoreError> {
    for name in FOLDERS {
        store::refuse_links(out, Path::new(name))?;
    }
    for (variant, seed) in super::in_order(trained) {
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
struct Place {
    variant: String,
    seed: u64,
    record: Option<RunRecord>,
    /// Why the record that is there is not kept.
    wrong: Option<String>,
    /// Why it is of another experiment.
    foreign: Option<String>,
}

impl Place {
    fn is_there(&self) -> bool {
        self.record.is_some() || self.wrong.is_some()
    }
}

/// Looks into the place of every run of the plan.
fn runs(
    plan: &Plan,
    trained: &[Trained],
    (out, identity): (&Path, &Identity),
) -> Result<Vec<Place>, StoreError> {
    let look = |variant: &str, seed| {
        let path = record_path(out, variant, seed);
        let empty =
            Place { variant: variant.to_owned(), seed, record: None, wrong: None, foreign: None };
        if !store::exists(&path)? {
            return Ok(empty);
        }
        let record: RunRecord = match serde_json::from_slice(&store::read(&path)?) {
            Ok(record) => record,
            Err(error) => {
                let wrong = Some(format!("its record cannot be read ({error})"));
                let foreign = Some(format!("{} cannot be read", path.display()));
                return Ok(Place { wrong, foreign, ..empty });
            }
        };
        let difference = record_difference(&record, identity);
        let foreign = difference.as_ref().map(|why| format!("{}: {why}", path.display()));
        let wrong = difference.or_else(|| impossible(&record, (variant, seed), plan));
        let record = wrong.is_none().then_some(record);
        Ok(Place { record, wrong, foreign, ..empty })
    };
    super::in_order(trained).map(|(variant, seed)| look(&variant.name, seed)).collect()
}

/// How a record is of another experiment.
fn record_difference(record: &RunRecord, here: &Identity) -> Option<String> {
    let Some(there) = &record.identity else {
        return Some("its record does not tell what it belongs to".to_owned());
    };
    let mut why = differences(there, here);
    if there.plan != here.plan {
        why.insert(0, "it is of another plan".to_owned());
    }
    (!why.is_empty()).then(|| why.join("; "))
}

/// Why a record of this experiment is not that of the run in whose place it is, or of no run at all.
pub(super) fn impossible(
    record: &RunRecord,
    (variant, seed): (&str, u64),
    plan: &Plan,
) -> Option<String> {
    let RunRecord { summary, loss, evaluations, .. } = record;
    let RunSummary { status, steps, test_accuracy, .. } = summary;
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
    let evaluated = evaluations.last().map(|last| last.accuracy);
    let is_share = test_accuracy.is_some_and(|accuracy| (0.0..=1.0).contains(&accuracy));
    if !is_share || evaluated != *test_accuracy {
        return Some("its accuracy is not that of its last evaluation".to_owned());
    }
    None
}

/// In what two experiments differ, but for their plans.
fn differences(there: &Identity, here: &Identity) -> Vec<String> {
    let mut why = Vec::new();
    if there.build != here.build {
        why.push(format!("built as {}, this is {}", there.build, here.build));
    }
    if there.device != here.device {
        why.push(format!("run on {}, this is {}", there.device, here.device));
    } else if there.product_paths != here.product_paths {
        let [there, here] = [there, here].map(|identity| identity.product_paths.join(", "));
        why.push(format!("products ran as {there}, here as {here}"));
    }
    if there.data != here.data {
        let there = if there.data == DataFacts::default() {
            "data that are not told".to_owned()
        } else {
            there.data.to_string()
        };
        why.push(format!("learnt from {there}; this is {}", here.data));
    }
    why
}

/// In what the experiment of a results file differs from this one.
fn whole_difference((plan, here): (&Plan, &Identity), old: &Results) -> Vec<String> {
    let data = old.data.clone().unwrap_or_default();
    let there = identity(&old.plan, &old.environment, &data);
    let mut why = differences(&there, here);
    if there.plan != here.plan {
        let [old, new] = [&old.plan, plan].map(|plan| serde_json::to_value(plan).ok());
        let where_ = first_difference("", &old.unwrap_or_default(), &new.unwrap_or_default());
        why.insert(0, format!("another plan: {}", where_.unwrap_or_default()));
    }
    why
}

/// The first value that differs between two plans, by its key.
pub(super) fn first_difference(key: &str, there: &Value, here: &Value) -> Option<String> {
    let below = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
    match (there, here) {
        _ if there == here => None,
        (Value::Object(old), Value::Object(new)) if old.keys().eq(new.keys()) => old
            .iter()
            .zip(new)
            .find_map(|((name, old), (_, new))| first_difference(&below(name), old, new)),
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            old.iter().zip(new).enumerate().find_map(|(index, (old, new))| {
                first_difference(&format!("{key}[{index}]"), old, new)
            })
        }
        _ => Some(format!("{key} is {} there, {} here", short(there), short(here))),
    }
}

/// A value as JSON, without its end where that is long.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(LONGEST_VALUE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
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

/// What is kept of runs, and what is not though it was there.
fn part(runs: Vec<Place>, old: Option<&Results>) -> Found {
    let (mut records, mut lost) = (Records::new(), Vec::new());
    for Place { variant, seed, record, wrong, .. } in runs {
        let was_listed = old.is_some_and(|old| {
            listed(old).any(|(name, run)| (name, run.seed) == (variant.as_str(), seed))
        });
        match (record, wrong) {
            (Some(record), _) => {
                records.insert((variant, seed), record);
            }
            (None, Some(reason)) => lost.push(Lost { variant, seed, reason }),
            (None, None) if was_listed => {
                let reason = "its record is missing".to_owned();
                lost.push(Lost { variant, seed, reason });
            }
            (None, None) => {}
        }
    }
    Found::Part(records, lost)
}

/// Writes the record of a run into its place.
pub(super) fn save_record(options: Options<'_>, record: &RunRecord) -> Result<PathBuf, StoreError> {
    let name = record_path(Path::new(""), &record.variant, record.summary.seed);
    store::write_below(options.folder.path(), &name, &json(record))
}
