//! Noisy metrics against stored times: compared only with those of the same machine.
//!
//! A machine that is busy, or runs at another clock, is slower in everything. Ratios to the experiment's baseline variant,
//! timed in turns, do not see that. Absolute times do: they are judged only where other programs left the processor alone and the
//! machine's fastest products are as fast as they were, and otherwise the check says so.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::claims::BUSY;
use crate::formatting::plural;
use crate::record::Results;
use crate::spec::Plan;

use super::baseline::{Baseline, MachineTimes};
use super::comparison::{Comparison, Old, Sides, median};
use super::fingerprint::Machine;
use super::judge::{Asked, Finding, Verdict};
use super::measures::Times;
use super::metric::Key;

/// How far the fastest products may differ, as a share, for absolute times to be comparable.
pub const MACHINE_MARGIN: f64 = 0.10;

/// A second timing phase, which confirms what the first one found or does not.
#[derive(Clone, Debug, PartialEq)]
pub enum Second {
    /// It was done.
    Done(Times),
    /// It could not be done here.
    Impossible(String),
}

/// Judges the noisy metrics. Also says whether a second timing phase, which is not there, could decide one of them.
pub(super) fn judge(
    baseline: &Baseline,
    results: &Results,
    asked: &Asked<'_>,
) -> (Vec<Finding>, bool) {
    let new = Times::of(results);
    let here = Machine::of(&results.environment);
    let of_here = baseline.machines.values().find(|times| times.machine == here);
    let other_plan = other_timing(&baseline.plan, &results.plan);
    let (Some(old), None) = (of_here, &other_plan) else {
        let why = other_plan.unwrap_or_else(|| no_times(baseline, &here));
        let blocks = new.with_ratios(&results.plan.baseline);
        let finding = |(key, blocks): (Key, Vec<f64>)| Finding {
            verdict: Verdict::NotJudged,
            baseline: None,
            measured: median(&blocks),
            change: None,
            why: why.clone(),
            key,
        };
        return (blocks.into_iter().map(finding).collect(), false);
    };
    let variant = &results.plan.baseline;
    let old = old.times();
    let sides = |times: &Times| {
        let new = times.with_ratios(variant);
        let busy = busy(times);
        let unlike = new.keys().filter_map(|key| {
            let products = [&old.products, &times.products];
            let busy = || busy.clone().filter(|_| key.metric.moves_with_machine());
            let why = busy().or_else(|| other_state(results, products, key))?;
            Some((key.clone(), why))
        });
        Sides { old: old.with_ratios(variant), unlike: unlike.collect(), new, busy }
    };
    let second = asked.second.map(|second| match second {
        Second::Done(again) => Ok(sides(again)),
        Second::Impossible(reason) => Err(reason.clone()),
    });
    let comparison = Comparison {
        of: Old::Baseline,
        strict: asked.strict,
        first: sides(&new),
        second,
        untimed: &|variant| untimed(results, variant),
    };
    comparison.findings()
}

/// How a plan times in another way than the baseline's.
fn other_timing(old: &Plan, new: &Plan) -> Option<String> {
    let same = Plan { claims: new.claims, ..old.clone() };
    let difference = same.differences(new).into_iter().next()?;
    Some(format!("the baseline was timed in another way: {difference}"))
}

/// Why there are no times to compare with.
fn no_times(baseline: &Baseline, here: &Machine) -> String {
    let Some(MachineTimes { machine, .. }) = baseline.machines.values().next() else {
        return "the baseline has no times".to_owned();
    };
    let difference = machine.difference(here).unwrap_or_default();
    let number = plural(baseline.machines.len(), "machine");
    format!(
        "the baseline has no times of this machine, but of {number}: {difference}; times of two versions on one \
         machine compare anywhere"
    )
}

/// Why a time has none beside it now.
fn untimed(results: &Results, variant: &str) -> Option<String> {
    results.variants.iter().find(|result| result.name == variant)?.untimed.clone()
}

/// That other programs took much of the processors' time. They slow the timed blocks, and may leave the fastest products as they
/// are.
fn busy(times: &Times) -> Option<String> {
    let load = times.other_load.filter(|load| *load > BUSY)?;
    Some(format!(
        "other programs took {:.0}% of the processor's time; close them, or time two versions in turns",
        load * 100.0
    ))
}

/// How the machine is not as fast as it was, by the fastest products of the variant's format.
fn other_state(
    results: &Results,
    products: [&BTreeMap<String, f64>; 2],
    key: &Key,
) -> Option<String> {
    if !key.metric.moves_with_machine() {
        return None;
    }
    let variant = results.plan.variants.iter().find(|plan| plan.name == key.variant);
    let format = variant?.policy.compute.to_string();
    let [old, new] = products.map(|products| products.get(&format));
    let (Some(old), Some(new)) = (old, new) else {
        return Some(format!(
            "how fast products of {format} were is not known, so the machine may have been busy"
        ));
    };
    let ratio = new / old;
    let beyond = !(ratio < 1.0 + MACHINE_MARGIN && ratio > 1.0 / (1.0 + MACHINE_MARGIN));
    beyond.then(|| {
        format!(
            "the fastest products of {format} are {ratio:.2} times as fast as they were: the machine is in another \
             state, or products changed; times of two versions on one machine tell these apart"
        )
    })
}
