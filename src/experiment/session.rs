//! What an experiment does with its folder: what it begins with, and the results file that is computed from records and timed
//! blocks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::frozen::Frozen;
use super::kept::{self, Found};
use super::timed::TimingRecord;
use super::units::Trained;
use super::{Event, ExperimentError, Options, compare, identity, machines, matrix, run, timed};
use crate::claims;
use crate::data::Dataset;
use crate::precision::Policy;
use crate::record::files::RESULTS;
use crate::record::{
    Control, Environment, Identity, KindTimes, Results, RunRecord, SCHEMA, VariantResult,
    VariantTimes,
};
use crate::spec::{ControlPlan, Plan, VariantPlan};
use crate::store;
use crate::train::Timing;

/// What the results file says beside the runs.
pub(super) struct Session<'a> {
    pub(super) frozen: &'a Frozen,
    pub(super) options: Options<'a>,
    pub(super) machines: Machines,
}

/// Whose runs can stand in one experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machines {
    /// Those of machines like this one.
    ThisOne,
    /// Those of all machines: what each ran on is said.
    Any,
}

impl<'a> Session<'a> {
    /// The same on a machine with this environment.
    pub(super) fn on<'b>(&self, environment: &'b Environment) -> Session<'b>
    where
        'a: 'b,
    {
        Session { options: Options { environment, ..self.options }, ..*self }
    }

    /// What decides the runs of a policy; without one, what those of all policies have in common.
    pub(super) fn identity(&self, policy: Option<&Policy>) -> Identity {
        identity::identity(self.frozen, policy, self.options.environment)
    }

    /// The plan.
    pub(super) fn plan(&self) -> &Plan {
        &self.frozen.plan
    }

    /// The folder of the results.
    pub(super) fn out(&self) -> &Path {
        self.options.folder.path()
    }

    /// Whether somebody asked to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// The record of the timing phase before its first block, of a kind of machine where the plan names some.
    pub(super) fn nothing_timed(&self, kind: Option<&str>) -> TimingRecord {
        let of = (kind, self.identity(None));
        TimingRecord::new(self.plan(), self.options.environment, of)
    }

    /// Looks at what the folder holds, tells what of it is kept, and marks the folder as this experiment's.
    pub(super) fn begin(
        &self,
        trained: &[Trained],
        data: &Dataset,
        listen: &mut dyn FnMut(Event<'_>),
    ) -> Result<Found, ExperimentError> {
        let found = kept::look(self, trained)?;
        matrix::make_way(self.options.folder, self.options.force)?;
        let Found::Part(part) = &found else {
            listen(Event::Finished);
            return Ok(found);
        };
        if self.options.force {
            kept::clear(self.out())?;
        }
        self.frozen.write(self.out())?;
        listen(Event::Loaded(data));
        for note in &self.frozen.notes {
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
            run::save(self.out(), record)?;
        }
        for (variant, seed) in part.records.keys() {
            run::remove_leftovers(self.out(), (variant, *seed))?;
        }
        store::remove_free_lock(&timed::place(self.out(), None))?;
        let timed = part.timing.as_deref().map(std::slice::from_ref).unwrap_or_default();
        self.save(&part.records, timed, Stage::Running)?;
        Ok(found)
    }

    /// Computes the results of these records and writes them. The first of the timed blocks are those of [`Results::variants`], the
    /// others those of further kinds of machine.
    pub(super) fn save(
        &self,
        records: &Records,
        timed: &[TimingRecord],
        stage: Stage,
    ) -> Result<(Results, PathBuf), ExperimentError> {
        let results = results(self, (records, timed), stage);
        let path = store::write_below(self.out(), Path::new(RESULTS), &json(&results))?;
        Ok((results, path))
    }
}

/// How far an experiment is.
#[derive(Clone, Copy)]
pub(super) enum Stage {
    /// Runs or the timing phase are still to come.
    Running,
    /// All is done; other programs took this share of the processor meanwhile ([`Results::other_load`]).
    Finished { other_load: Option<f64> },
}

/// The records of an experiment by variant and seed.
pub(super) type Records = BTreeMap<(String, u64), RunRecord>;

/// The timed blocks by variant.
pub(super) type Timings = BTreeMap<String, Timing>;

/// Indented JSON with a line end. Records are plain data, so this cannot fail.
pub(super) fn json(value: &impl serde::Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The results file from what there is so far.
fn results(
    session: &Session<'_>,
    (records, timed): (&Records, &[TimingRecord]),
    stage: Stage,
) -> Results {
    let first = timed.first();
    let mut results = measured(session, (records, first.map(|first| &first.timings)), stage);
    results.machine_kind = first.and_then(|first| first.kind.clone());
    let others = timed.iter().skip(1);
    results.other_kinds = others.filter_map(|timed| on_kind(session, timed)).collect();
    results.claims = claims::judge(&results);
    results.recommendation = Some(claims::recommend(&results));
    results.environment.notes.extend(claims::nondeterminism(&results));
    results.environment.notes.extend(claims::disturbance(&results));
    results.environment.notes.extend(machines::notes(&results));
    results.environment.notes.extend(machines::notes_on_kinds(&session.frozen.kinds, &results));
    results.environment.notes.extend(session.frozen.notes.iter().cloned());
    results
}

/// What was timed on a further kind of machine, computed as that of the first; none where nothing says where it was.
fn on_kind(session: &Session<'_>, timed: &TimingRecord) -> Option<KindTimes> {
    let there = session.on(timed.environment.as_ref()?);
    let stage = Stage::Finished { other_load: timed.other_load };
    let mut results = measured(&there, (&Records::new(), Some(&timed.timings)), stage);
    results.environment.notes.extend(claims::disturbance(&results));
    Some(KindTimes {
        kind: timed.kind.clone()?,
        claims: claims::judge_times(&results),
        environment: results.environment,
        other_load: results.other_load,
        variants: results.variants.into_iter().map(VariantTimes::of).collect(),
    })
}

/// What these records and blocks give, without verdicts and notes.
fn measured(
    session: &Session<'_>,
    (records, timings): (&Records, Option<&Timings>),
    stage: Stage,
) -> Results {
    let (complete, other_load) = match stage {
        Stage::Running => (false, None),
        Stage::Finished { other_load } => (true, other_load),
    };
    let Session { frozen, options, .. } = *session;
    let Frozen { plan, data, .. } = frozen;
    let is_cuda = options.environment.device.starts_with("cuda");
    let summary = |variant: &VariantPlan, seeds: &[u64]| {
        let record = |seed: &u64| records.get(&(variant.name.clone(), *seed));
        let runs: Vec<&RunRecord> = seeds.iter().filter_map(record).collect();
        summarize(
            (plan, is_cuda),
            variant,
            &runs,
            timings.and_then(|timings| timings.get(&variant.name)),
        )
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
    Results {
        schema: SCHEMA,
        experiment: plan.name.clone(),
        complete,
        plan: plan.clone(),
        machines: machines::kinds(records),
        engine: frozen.engine,
        environment: options.environment.clone(),
        data: Some(data.clone()),
        metric: data.metric(),
        variants,
        claims: Vec::new(),
        controls,
        other_load,
        recommendation: None,
        reference: frozen.reference.clone(),
        machine_kind: None,
        other_kinds: Vec::new(),
    }
}

/// Everything measured of one variant, without the comparison.
pub(super) fn summarize(
    (plan, is_cuda): (&Plan, bool),
    variant: &VariantPlan,
    runs: &[&RunRecord],
    timing: Option<&Timing>,
) -> VariantResult {
    let memory = runs.iter().filter_map(|run| run.memory).max_by_key(|memory| memory.peak_bytes);
    VariantResult {
        name: variant.name.clone(),
        policy: variant.policy.to_string(),
        emulated: variant.policy.is_emulated(is_cuda),
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
