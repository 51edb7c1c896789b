//! The timed blocks of an experiment: what of an earlier call's is kept, and what is timed now. Block i of every variant is a
//! pair, so blocks are added for all variants at once, and a new variant means that all are timed again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::session::{Session, Stage, Timings, json};
use super::units::Unit;
use super::{Event, ExperimentError, first_seed, identity, run};
use crate::device::LoadMeter;
use crate::formatting;
use crate::precision::Policy;
use crate::record::files::RUNS;
use crate::record::{Environment, Identity};
use crate::spec::{Plan, VariantPlan};
use crate::store::{self, StoreError};
use crate::train::{self, Phase, Setup, Timing};

/// `runs/timing.json`, or `runs/timing-KIND.json` of a kind of machine: the blocks of all variants, and what they were timed with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TimingRecord {
    /// The kind of machine, where the plan names some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<String>,
    identity: Identity,
    threads: usize,
    /// The seed of the weights and the batches.
    seed: u64,
    steps: usize,
    warmup: usize,
    pub(super) blocks: usize,
    /// The greatest [`Results::other_load`] of the calls that timed these blocks.
    ///
    /// [`Results::other_load`]: crate::record::Results::other_load
    #[serde(default)]
    pub(super) other_load: Option<f64>,
    policies: BTreeMap<String, Policy>,
    pub(super) timings: Timings,
    /// Where the last of them were timed; none in older files.
    #[serde(default)]
    pub(super) environment: Option<Environment>,
}

/// What an earlier call timed.
pub(super) enum Timed {
    /// Nothing.
    Never,
    /// These blocks, which are kept.
    Kept(Box<TimingRecord>),
    /// Blocks that cannot be kept, and why.
    Again(String),
    /// Blocks that this plan would replace by others: how they differ.
    Other(Vec<String>),
}

/// Where the blocks are, of a kind of machine where the plan names some.
pub(super) fn place(out: &Path, kind: Option<&str>) -> PathBuf {
    let kind = kind.map(|kind| format!("-{kind}")).unwrap_or_default();
    out.join(RUNS).join(format!("timing{kind}.json"))
}

/// The places of the blocks, or of their locks, that are in a folder.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn places(out: &Path) -> Result<BTreeSet<PathBuf>, StoreError> {
    let place_of = |path: &PathBuf| {
        let rest = path.file_name()?.to_str()?.strip_prefix("timing")?;
        let (kind, _) = rest.split_once('.')?;
        match kind.strip_prefix('-') {
            Some(kind) => Some(place(out, Some(kind))),
            None => kind.is_empty().then(|| place(out, None)),
        }
    };
    Ok(store::list(&out.join(RUNS))?.iter().filter_map(place_of).collect())
}

impl TimingRecord {
    /// No blocks yet, of what this plan times.
    pub(super) fn new(
        plan: &Plan,
        environment: &Environment,
        (kind, identity): (Option<&str>, Identity),
    ) -> Self {
        Self {
            kind: kind.map(str::to_owned),
            identity,
            threads: environment.threads,
            seed: first_seed(plan),
            steps: plan.measure.timing_steps,
            warmup: plan.measure.timing_warmup,
            blocks: 0,
            other_load: None,
            policies: BTreeMap::new(),
            timings: BTreeMap::new(),
            environment: Some(environment.clone()),
        }
    }

    /// Whether it has all that a plan asks for.
    pub(super) fn is_whole(&self, plan: &Plan) -> bool {
        !self.timings.is_empty() && self.blocks >= plan.measure.timing_blocks
    }

    /// How far an experiment is whose runs are all there.
    pub(super) fn stage(&self, plan: &Plan) -> Stage {
        if self.is_whole(plan) {
            Stage::Finished { other_load: self.other_load }
        } else {
            Stage::Running
        }
    }

    /// In what these blocks differ from those that a plan asks for, where somebody asked for others.
    fn differences(&self, plan: &Plan, wanted: &Self) -> Vec<String> {
        let mut why = Vec::new();
        let rows = [
            ("measure.timing_steps", self.steps, wanted.steps),
            ("measure.timing_warmup", self.warmup, wanted.warmup),
        ];
        for (key, there, here) in rows {
            if there != here {
                why.push(format!(
                    "its times are of another plan: {key} is {there} there, {here} here"
                ));
            }
        }
        if self.blocks > plan.measure.timing_blocks {
            let [there, here] = [self.blocks, plan.measure.timing_blocks];
            why.push(format!("measure.timing_blocks is {here}, and {there} blocks are timed"));
        }
        if self.threads != wanted.threads {
            why.push(other_threads(self.threads, wanted.threads));
        }
        why
    }

    /// Why these blocks cannot be kept though nobody asked for others.
    fn unusable(&self, variants: &[&VariantPlan], wanted: &Self) -> Option<String> {
        let differences = identity::differences(&self.identity, &wanted.identity);
        if !differences.is_empty() {
            return Some(differences.join("; "));
        }
        if self.kind != wanted.kind {
            let kind = self.kind.as_deref().unwrap_or("no kind of machine");
            return Some(format!("it is that of {}", kind.escape_debug()));
        }
        if self.seed != wanted.seed {
            return Some(format!("it was done with seed {}", self.seed));
        }
        let new: Vec<String> = variants
            .iter()
            .filter(|variant| self.policies.get(&variant.name) != Some(&variant.policy))
            .map(|variant| variant.name.clone())
            .collect();
        if !new.is_empty() {
            let new = formatting::list(&new);
            return Some(format!("{new} must take turns with the others to be compared"));
        }
        variants.iter().find_map(|variant| {
            let timing = self.timings.get(&variant.name)?;
            let failure = timing.failure.as_ref().filter(|_| timing.inference.is_empty())?;
            Some(format!("{} failed ({failure})", variant.name))
        })
    }
}

/// What to say of times that were taken with another number of threads.
pub(super) fn other_threads(there: usize, here: usize) -> String {
    let [there, here] = [there, here].map(|threads| formatting::plural(threads, "thread"));
    format!("its times are those of {there}, this is with {here}")
}

/// The record of a folder, whatever it is of; none where there is none that can be read.
///
/// # Errors
/// When the file system does not say.
pub(super) fn read(out: &Path, kind: Option<&str>) -> Result<Option<TimingRecord>, StoreError> {
    let path = place(out, kind);
    if !store::exists(&path)? {
        return Ok(None);
    }
    Ok(serde_json::from_slice(&store::read(&path)?).ok())
}

/// Looks at the blocks in a folder. `wanted` is what this call would time.
pub(super) fn look(
    (out, was_complete): (&Path, bool),
    plan: &Plan,
    variants: &[&VariantPlan],
    wanted: &TimingRecord,
) -> Result<Timed, StoreError> {
    let path = place(out, wanted.kind.as_deref());
    if !store::exists(&path)? {
        let missing = || Timed::Again("its record is missing".to_owned());
        let was_timed = was_complete && plan.measure.timing_blocks > 0;
        return Ok(was_timed.then(missing).unwrap_or(Timed::Never));
    }
    let record: TimingRecord = match serde_json::from_slice(&store::read(&path)?) {
        Ok(record) => record,
        Err(error) => return Ok(Timed::Again(format!("its record cannot be read ({error})"))),
    };
    if record.blocks == 0 && plan.measure.timing_blocks > 0 {
        return Ok(Timed::Never);
    }
    let unusable = record.unusable(variants, wanted);
    let differences = record.differences(plan, wanted);
    Ok(match (differences.is_empty(), unusable) {
        (false, _) => Timed::Other(differences),
        (true, Some(why)) => Timed::Again(why),
        (true, None) => Timed::Kept(Box::new(record)),
    })
}

/// As [`look`], as the machine would that timed the blocks, whatever this one is.
pub(super) fn look_from_anywhere(
    session: &Session<'_>,
    kind: Option<&str>,
    variants: &[&VariantPlan],
) -> Result<Timed, StoreError> {
    let there = read(session.out(), kind)?.and_then(|record| record.environment);
    let there = there.as_ref().unwrap_or(session.options.environment);
    let wanted = session.on(there).nothing_timed(kind);
    look((session.out(), false), session.plan(), variants, &wanted)
}

/// Times what is missing of the blocks of the plan and saves all; where it is stopped, those that were timed by then.
pub(super) fn complete(
    session: &Session<'_>,
    setup: Setup<'_>,
    (mut record, variants): (TimingRecord, &[VariantPlan]),
    listen: &mut dyn FnMut(Event<'_>),
) -> Result<TimingRecord, ExperimentError> {
    let plan = session.plan();
    let (kept, all) = (record.blocks, plan.measure.timing_blocks);
    if record.is_whole(plan) || session.is_stopped() {
        return Ok(record);
    }
    let kind = record.kind.clone();
    let what = Unit::Timing { kind: kind.clone() }.to_string();
    let lock = run::take_lock(session, &place(session.out(), kind.as_deref()), &what)?;
    // Another process may have timed them since the folder was looked at.
    let planned: Vec<&VariantPlan> = variants.iter().collect();
    if let Some(there) = read(session.out(), kind.as_deref())?
        && there.is_whole(plan)
        && there.unusable(&planned, &record).is_none()
    {
        lock.finish();
        return Ok(there);
    }
    let mut timed = kept;
    let mut progress = |done, of| {
        listen(Event::TimingBlock { done, of });
        timed = kept + done;
        if session.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let load = LoadMeter::start();
    // Without the batches that all share there are no times at all, but what was trained is there.
    let phase = Phase { blocks: kept..all, products: true };
    let timings = train::time_variants(setup, first_seed(plan), variants, phase, &mut progress);
    let timings = timings.unwrap_or_else(|error| {
        timed = all;
        vec![Timing::failed(&error); variants.len()]
    });
    record.other_load = [record.other_load, load.others()].into_iter().flatten().reduce(f64::max);
    let mut before = std::mem::take(&mut record.timings);
    for (VariantPlan { name, .. }, timing) in variants.iter().zip(timings) {
        let timing = match before.remove(name) {
            Some(before) => before.followed_by(timing, (kept, timed - kept)),
            None => timing,
        };
        record.timings.insert(name.clone(), timing);
    }
    record.policies = variants.iter().map(|v| (v.name.clone(), v.policy)).collect();
    record.blocks = timed;
    record.environment = Some(session.options.environment.clone());
    let name = place(Path::new(""), kind.as_deref());
    store::write_below(session.out(), &name, &json(&record))?;
    if record.is_whole(plan) {
        lock.finish();
    }
    Ok(record)
}
