//! Noisy metrics: compared only with times of the same machine, block by block, corrected for their number, and failed only
//! once a second timing phase says the same.
//!
//! A machine that is busy, or runs at another clock, is slower in everything. Ratios to the experiment's baseline variant,
//! timed in turns, do not see that. Absolute times do: they are judged only where the machine's fastest products are as fast
//! as they were, and told where not.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Estimate, Results};
use crate::stats;
use crate::units::Ratio;
use crate::words::plural;

use super::baseline::{Baseline, MachineTimes};
use super::fingerprint::Machine;
use super::judge::{Finding, Verdict};
use super::measures::Times;
use super::metric::{Key, Measured, Metric};
use super::noise::Change;

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

/// Judges the noisy metrics. Also says whether one of them would fail if a second timing phase, which is not there, said the
/// same.
pub(super) fn judge(
    baseline: &Baseline,
    results: &Results,
    second: Option<&Second>,
) -> (Vec<Finding>, bool) {
    let new = Times::of(results);
    let here = Machine::of(&results.environment);
    let Some(old) = baseline.machines.values().find(|times| times.machine == here) else {
        let why = no_times(baseline, &here);
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
    Comparison::new((old, &new), results, second).findings()
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

/// The median as a value.
fn median(blocks: &[f64]) -> Option<Measured> {
    stats::median(blocks).map(Measured::number)
}

/// Old and new times of one machine.
struct Comparison<'a> {
    old: BTreeMap<Key, Vec<f64>>,
    new: BTreeMap<Key, Vec<f64>>,
    products: [BTreeMap<String, f64>; 2],
    results: &'a Results,
    second: Option<(&'a Second, BTreeMap<Key, Vec<f64>>)>,
}

/// What is known of a metric before all are looked at together.
enum Sight {
    /// It cannot be judged, or not be right.
    Settled(Verdict, String),
    /// It moved so.
    Moved(Change),
}

impl<'a> Comparison<'a> {
    fn new(
        (old, new): (&MachineTimes, &Times),
        results: &'a Results,
        second: Option<&'a Second>,
    ) -> Self {
        let baseline = &results.plan.baseline;
        let old = old.times();
        let second = second.map(|second| {
            let blocks = match second {
                Second::Done(times) => times.with_ratios(baseline),
                Second::Impossible(_) => BTreeMap::new(),
            };
            (second, blocks)
        });
        Self {
            products: [old.products.clone(), new.products.clone()],
            old: old.with_ratios(baseline),
            new: new.with_ratios(baseline),
            results,
            second,
        }
    }

    fn findings(&self) -> (Vec<Finding>, bool) {
        let mut wants_second = false;
        let keys: BTreeSet<&Key> = self.old.keys().chain(self.new.keys()).collect();
        let sights: Vec<(&Key, Sight)> =
            keys.into_iter().map(|key| (key, self.look_at(key))).collect();
        let p: Vec<f64> = sights
            .iter()
            .filter_map(|(_, sight)| match sight {
                Sight::Moved(change) => Some(change.p),
                Sight::Settled(..) => None,
            })
            .collect();
        let least = stats::least_pairs(p.len());
        let mut adjusted = stats::holm(&p).unwrap_or_default().into_iter();
        let finding = |(key, sight): (&Key, Sight)| {
            let (verdict, why, change) = match sight {
                Sight::Settled(verdict, why) => (verdict, why, None),
                Sight::Moved(change) => {
                    let p = adjusted.next().unwrap_or(1.0);
                    let margin = key.metric.margin();
                    let is_enough = change.pairs >= least;
                    let is_slower = change.is_slower_than(margin) && p < stats::SIGNIFICANCE;
                    wants_second |= is_enough && is_slower && self.second.is_none();
                    let (verdict, why) = self.decide(key, change, (p, least));
                    (verdict, why, Some(change.ratio))
                }
            };
            let value = |of: &BTreeMap<Key, Vec<f64>>| median(of.get(key)?);
            let (baseline, measured) = (value(&self.old), value(&self.new));
            Finding { key: key.clone(), verdict, baseline, measured, change, why }
        };
        (sights.into_iter().map(finding).collect(), wants_second)
    }

    /// One metric by itself.
    fn look_at(&self, key: &Key) -> Sight {
        let not_judged = |why: String| Sight::Settled(Verdict::NotJudged, why);
        let (old, new) = match (self.old.get(key), self.new.get(key)) {
            (Some(old), Some(new)) => (old, new),
            (None, _) => {
                let why = "is new: the baseline does not have it; accept a new baseline to judge it from then on";
                return not_judged(why.to_owned());
            }
            // Whether the driver tells the energy is not the program's doing.
            (Some(_), None) if key.metric == Metric::StepJoules => {
                return not_judged("is missing: the driver did not tell it".to_owned());
            }
            (Some(_), None) => return Sight::Settled(Verdict::Failed, self.missing(key)),
        };
        if let [_] = old.as_slice() {
            return not_judged("is one value a timing phase, and chance moves it too".to_owned());
        }
        if old.iter().any(|time| !(time.is_finite() && *time > 0.0)) {
            let why = "is 0 in the baseline in one block or more, and nothing is so many times that; accept a new baseline";
            return not_judged(why.to_owned());
        }
        if old.len() != new.len() {
            let (old, new) = (plural(old.len(), "block"), new.len());
            return not_judged(format!("has {old} in the baseline and {new} now"));
        }
        if key.metric.moves_with_machine()
            && let Some(why) = self.other_state(key)
        {
            return not_judged(why);
        }
        match Change::of(new, old, key.metric.margin()) {
            Some(change) => Sight::Moved(change),
            None => not_judged("has blocks now that are no times".to_owned()),
        }
    }

    /// Why a time of the baseline has none beside it now.
    fn missing(&self, key: &Key) -> String {
        let variant = self.results.variants.iter().find(|variant| variant.name == key.variant);
        let reason = variant.and_then(|variant| variant.untimed.as_ref());
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        format!("is missing: the baseline has it, and these results do not{reason}")
    }

    /// How the machine is not as fast as it was, by the fastest products of the variant's format.
    fn other_state(&self, key: &Key) -> Option<String> {
        let variant = self.results.plan.variants.iter().find(|plan| plan.name == key.variant);
        let format = variant?.policy.compute.to_string();
        let [old, new] = self.products.each_ref().map(|products| products.get(&format));
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

    /// One metric among all, with its p adjusted for their number, and the fewest pairs that can decide.
    fn decide(&self, key: &Key, change: Change, (p, least): (f64, usize)) -> (Verdict, String) {
        let margin = key.metric.margin();
        let moved = moved(change.ratio);
        if change.pairs < least {
            let pairs = plural(change.pairs, "block");
            let why =
                format!("{moved}, by {pairs}: at least {least} are needed (measure.timing_blocks)");
            return (Verdict::Inconclusive, why);
        }
        if change.ratio.value.0 <= 1.0 + margin {
            let faster = change.ratio.high.0 < 1.0 - margin;
            let hint = if faster { "; accept a new baseline to hold it" } else { "" };
            return (Verdict::Passed, format!("{moved}{hint}"));
        }
        if !(change.is_slower_than(margin) && p < stats::SIGNIFICANCE) {
            return (Verdict::Inconclusive, format!("{moved}: that may be chance (p = {p:.2})"));
        }
        match &self.second {
            None => {
                (Verdict::Inconclusive, format!("{moved}; no second timing phase has confirmed it"))
            }
            Some((Second::Impossible(reason), _)) => {
                let why =
                    format!("{moved}; not confirmed, as there is no second timing phase: {reason}");
                (Verdict::Inconclusive, why)
            }
            Some((Second::Done(_), blocks)) => {
                let again = blocks.get(key).zip(self.old.get(key));
                let again = again.and_then(|(new, old)| Change::of(new, old, margin));
                confirm(&moved, again, margin)
            }
        }
    }
}

/// What a second timing phase makes of a time that the first found slower.
fn confirm(moved: &str, again: Option<Change>, margin: f64) -> (Verdict, String) {
    match again {
        Some(again) if again.is_slower_than(margin) => (
            Verdict::Failed,
            format!("{moved}; a second timing phase: {}", self::moved(again.ratio)),
        ),
        Some(again) => {
            let again = self::moved(again.ratio);
            (
                Verdict::Inconclusive,
                format!("{moved}; a second timing phase does not confirm it: {again}"),
            )
        }
        None => (
            Verdict::Inconclusive,
            format!("{moved}; a second timing phase does not confirm it: it has no such times"),
        ),
    }
}

/// `takes 1.23 (1.20 to 1.26) times as long`.
fn moved(ratio: Estimate<Ratio>) -> String {
    let [value, low, high] = [ratio.value, ratio.low, ratio.high].map(|ratio| ratio.0);
    format!("is {value:.3} times the baseline's ({low:.3} to {high:.3})")
}
