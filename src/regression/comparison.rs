//! What is decided of old and new times, wherever the old ones come from: metric by metric and block by block, corrected for
//! the number of metrics, and failed only once a second timing phase says the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::formatting::plural;
use crate::record::Estimate;
use crate::stats;
use crate::units::Ratio;

use super::judge::{Finding, Verdict};
use super::metric::{Key, Measured, Metric};
use super::noise::Change;

/// Timed blocks by metric.
pub(super) type Blocks = BTreeMap<Key, Vec<f64>>;

/// The old and the new blocks of one timing phase. Those at one place are a pair.
#[derive(Default)]
pub(super) struct Sides {
    pub(super) old: Blocks,
    pub(super) new: Blocks,
    /// Why the old and the new times of a metric cannot be compared, where they cannot.
    pub(super) unlike: BTreeMap<Key, String>,
    /// That other programs kept the machine busy: then a change that is not certain says nothing.
    pub(super) busy: Option<String>,
}

/// Where old times come from, and the words that depend on it.
#[derive(Clone, Copy)]
pub(super) enum Old {
    /// They are stored.
    Baseline,
    /// They are those of build A, which was timed in turns with build B.
    BuildA,
}

impl Old {
    fn name(self) -> &'static str {
        match self {
            Self::Baseline => "the baseline",
            Self::BuildA => "A",
        }
    }

    /// What accepting a new baseline is good for, where there is one.
    fn accept(self, purpose: &str) -> String {
        match self {
            Self::Baseline => format!("; accept a new baseline{purpose}"),
            Self::BuildA => String::new(),
        }
    }

    /// What sets the number of blocks.
    fn option(self) -> &'static str {
        match self {
            Self::Baseline => "measure.timing_blocks",
            Self::BuildA => "--rounds",
        }
    }
}

/// Old and new times, and what is known beside.
pub(super) struct Comparison<'a> {
    /// Where the old times come from.
    pub(super) of: Old,
    /// The timing phase that finds a change.
    pub(super) first: Sides,
    /// Whether what is inconclusive counts as failed.
    pub(super) strict: bool,
    /// The one that confirms it, or why there can be none; none where it was not tried.
    pub(super) second: Option<Result<Sides, String>>,
    /// Why a variant has no new times, where that is known.
    pub(super) untimed: &'a dyn Fn(&str) -> Option<String>,
}

/// What is known of a metric before all are looked at together.
enum Sight {
    /// It cannot be judged, or not be right.
    Settled(Verdict, String),
    /// It moved so.
    Moved(Change),
}

impl Comparison<'_> {
    /// What became of each metric. Also says whether a second timing phase, which was not tried, could make one of them fail, or
    /// pass under `strict`.
    pub(super) fn findings(&self) -> (Vec<Finding>, bool) {
        let mut wants_second = false;
        let Sides { old, new, .. } = &self.first;
        let keys: BTreeSet<&Key> = old.keys().chain(new.keys()).collect();
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
                    let is_slower = change.is_slower_than(margin) && p < stats::SIGNIFICANCE;
                    let is_open = is_slower || self.strict && change.ratio.value.0 > 1.0 + margin;
                    wants_second |= change.pairs >= least && is_open && self.second.is_none();
                    let (verdict, why) = match (self.decide(key, change, (p, least)), self.busy()) {
                        ((Verdict::Inconclusive, _), Some(busy)) => {
                            (Verdict::NotJudged, busy.clone())
                        }
                        (decided, _) => decided,
                    };
                    (verdict, why, Some(change.ratio))
                }
            };
            let value = |of: &Blocks| median(of.get(key)?);
            let (baseline, measured) = (value(old), value(new));
            Finding { key: key.clone(), verdict, baseline, measured, change, why }
        };
        (sights.into_iter().map(finding).collect(), wants_second)
    }

    /// Why what the times leave open says nothing: the machine was busy in one of the phases.
    fn busy(&self) -> Option<&String> {
        let second = self.second.iter().flatten().find_map(|second| second.busy.as_ref());
        self.first.busy.as_ref().or(second)
    }

    /// One metric by itself.
    fn look_at(&self, key: &Key) -> Sight {
        let not_judged = |why: String| Sight::Settled(Verdict::NotJudged, why);
        let name = self.of.name();
        let (old, new) = match (self.first.old.get(key), self.first.new.get(key)) {
            (Some(old), Some(new)) => (old, new),
            (None, _) => {
                let accept = self.of.accept(" to judge it from then on");
                return not_judged(format!("is new: {name} does not have it{accept}"));
            }
            // Whether the driver tells the energy is not the program's doing.
            (Some(_), None) if key.metric == Metric::StepJoules => {
                return not_judged("is missing: the driver did not report it".to_owned());
            }
            (Some(_), None) => return Sight::Settled(Verdict::Failed, self.missing(key)),
        };
        if let [_] = old.as_slice() {
            return not_judged("is one value a timing phase, and chance moves it too".to_owned());
        }
        if old.iter().any(|time| !(time.is_finite() && *time > 0.0)) {
            let accept = self.of.accept("");
            return not_judged(format!(
                "is 0 in {name} in one block or more, and nothing is so many times that{accept}"
            ));
        }
        if old.len() != new.len() {
            let (old, new) = (plural(old.len(), "block"), new.len());
            return not_judged(format!("has {old} in {name} and {new} now"));
        }
        if let Some(why) = self.first.unlike.get(key) {
            return not_judged(why.clone());
        }
        match Change::of(new, old, key.metric.margin()) {
            Some(change) => Sight::Moved(change),
            None => not_judged("has blocks now that are no times".to_owned()),
        }
    }

    /// Why an old time has none beside it now.
    fn missing(&self, key: &Key) -> String {
        let reason = (self.untimed)(&key.variant);
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        match self.of {
            Old::Baseline => {
                format!("is missing: the baseline has it, and these results do not{reason}")
            }
            Old::BuildA => format!("is missing: A has it, and B does not{reason}"),
        }
    }

    /// One metric among all, with its p adjusted for their number, and the fewest pairs that can decide.
    fn decide(&self, key: &Key, change: Change, (p, least): (f64, usize)) -> (Verdict, String) {
        let margin = key.metric.margin();
        let moved = self.moved(change.ratio);
        if change.pairs < least {
            let (pairs, option) = (plural(change.pairs, "block"), self.of.option());
            let why = format!("{moved}, by {pairs}: at least {least} are needed ({option})");
            return (Verdict::Inconclusive, why);
        }
        if change.ratio.value.0 <= 1.0 + margin {
            let faster = change.ratio.high.0 < 1.0 - margin;
            let hint = if faster { self.of.accept(" to hold it") } else { String::new() };
            return (Verdict::Passed, format!("{moved}{hint}"));
        }
        let is_slower = change.is_slower_than(margin) && p < stats::SIGNIFICANCE;
        let inconclusive = |why: &str| (Verdict::Inconclusive, format!("{moved}{why}"));
        match &self.second {
            Some(Ok(Sides { unlike, .. })) if unlike.contains_key(key) => {
                inconclusive(&format!("; a second timing phase does not tell: {}", unlike[key]))
            }
            Some(Ok(Sides { old, new, .. })) => {
                let again = new.get(key).zip(old.get(key));
                let again = again.and_then(|(new, old)| Change::of(new, old, margin));
                match again {
                    Some(again) => {
                        let verdict = with_second(is_slower, again, margin);
                        (
                            verdict,
                            format!("{moved}; a second timing phase: {}", self.moved(again.ratio)),
                        )
                    }
                    None => inconclusive("; a second timing phase has no such times"),
                }
            }
            _ if !is_slower => inconclusive(&format!(": that may be chance (p = {p:.2})")),
            None => inconclusive("; no second timing phase has confirmed it"),
            Some(Err(reason)) => inconclusive(&format!(
                "; not confirmed, as there is no second timing phase: {reason}"
            )),
        }
    }

    /// `is 1.230 times the baseline's (1.200 to 1.260)`.
    fn moved(&self, ratio: Estimate<Ratio>) -> String {
        let [value, low, high] = [ratio.value, ratio.low, ratio.high].map(|ratio| ratio.0);
        format!("is {value:.3} times {}'s ({low:.3} to {high:.3})", self.of.name())
    }
}

/// What two timing phases come to, of which the first found a time above its margin: for sure, or perhaps. It fails where both
/// are sure, and passes where the first is not and the second does not find it.
fn with_second(is_slower: bool, again: Change, margin: f64) -> Verdict {
    if is_slower && again.is_slower_than(margin) {
        Verdict::Failed
    } else if !is_slower && again.ratio.value.0 <= 1.0 + margin {
        Verdict::Passed
    } else {
        Verdict::Inconclusive
    }
}

/// The median as a value.
pub(super) fn median(blocks: &[f64]) -> Option<Measured> {
    stats::median(blocks).map(Measured::number)
}
