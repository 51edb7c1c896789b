//! Exact metrics: two-sided, for an improvement that nobody meant is a change that nobody understood.

use std::collections::{BTreeMap, BTreeSet};

use crate::claims;
use crate::record::Results;

use super::baseline::Baseline;
use super::fingerprint::Arithmetic;
use super::judge::{Finding, Verdict};
use super::measures;
use super::metric::{Better, Key, Measured};

/// What to do about a change that was meant.
pub(super) const ACCEPT: &str = "if the change is meant, accept the new baseline with `mantissa baseline accept DIR --reason TEXT`";

/// Judges the exact metrics.
pub(super) fn judge(baseline: &Baseline, results: &Results) -> Vec<Finding> {
    let (old, new) = (baseline.exact(), measures::exact_metrics(results));
    let here = Arithmetic::of(&results.environment);
    let foreign: BTreeMap<&str, Option<String>> = results
        .plan
        .variants
        .iter()
        .map(|variant| {
            let difference = baseline.arithmetic.difference(&here, &variant.policy);
            (variant.name.as_str(), difference)
        })
        .collect();
    let random = claims::nondeterminism(results);
    let keys: BTreeSet<&Key> = old.keys().chain(new.keys()).collect();
    let finding = |key: &Key| {
        let (was, is) = (old.get(key), new.get(key));
        let foreign = match foreign.get(key.variant.as_str()) {
            Some(difference) => difference.clone(),
            None => Some("no variant of the plan has this name".to_owned()),
        };
        let random = random.as_ref().filter(|_| key.metric.follows_from_values()).map(|_| {
            "the baseline variant trained twice with the same seed gave other weights: here is nothing exact".to_owned()
        });
        let (verdict, why) = match foreign.or(random) {
            Some(why) => (Verdict::NotJudged, why),
            None => compare(key, was, is),
        };
        let (baseline, measured) = (was.cloned(), is.cloned());
        Finding { key: key.clone(), verdict, baseline, measured, change: None, why }
    };
    keys.into_iter().map(finding).collect()
}

/// What to say of a value that was and one that is.
fn compare(key: &Key, was: Option<&Measured>, is: Option<&Measured>) -> (Verdict, String) {
    let metric = key.metric;
    match (was, is) {
        (None, _) => (
            Verdict::NotJudged,
            "is new: the baseline does not have it; accept a new baseline to judge it from then on"
                .to_owned(),
        ),
        (Some(was), None) => (
            Verdict::Failed,
            format!(
                "is missing: the baseline has {}, and these results have none",
                metric.text(was)
            ),
        ),
        (Some(Measured::NotFinite), Some(is)) => (
            Verdict::NotJudged,
            format!(
                "is not a finite number in the baseline, and nothing is more or less than that; it is {} now",
                metric.text(is)
            ),
        ),
        (Some(was), Some(Measured::NotFinite)) => {
            (Verdict::Failed, format!("was {}, and is not a finite number now", metric.text(was)))
        }
        (Some(Measured::Text(was)), Some(Measured::Text(is))) if was == is => {
            (Verdict::Passed, "the same".to_owned())
        }
        (Some(was @ Measured::Text(_)), Some(is @ Measured::Text(_))) => {
            let [was, is] = [was, is].map(|value| metric.text(value));
            (
                Verdict::Failed,
                format!("was {was}, is {is}: training computes something else; {ACCEPT}"),
            )
        }
        (Some(was), Some(is)) => match (was.value(), is.value()) {
            (Some(old), Some(new)) => compare_numbers(key, (was, old), (is, new)),
            _ => (
                Verdict::NotJudged,
                format!("is {was} in the baseline, which is no value that it can have"),
            ),
        },
    }
}

fn compare_numbers(
    key: &Key,
    (was, old): (&Measured, f64),
    (is, new): (&Measured, f64),
) -> (Verdict, String) {
    let metric = key.metric;
    if old == new {
        return (Verdict::Passed, "the same".to_owned());
    }
    let share = (new - old).abs() / old.abs();
    if share <= metric.margin() {
        let why = format!("within {:.1}% of the baseline", metric.margin() * 100.0);
        return (Verdict::Passed, why);
    }
    let by = if old == 0.0 {
        "the baseline has 0".to_owned()
    } else {
        format!("{} by {}", if new > old { "more" } else { "less" }, percent(share))
    };
    let is_better = match metric.better() {
        Better::Lower => new < old,
        Better::Higher => new > old,
        Better::Neither => false,
    };
    let [was, is] = [was, is].map(|value| metric.text(value));
    let judged =
        if is_better { "better than the baseline, which was not expected" } else { "worse" };
    (Verdict::Failed, format!("was {was}, is {is} ({by}): {judged}; {ACCEPT}"))
}

/// A share in percent with as many digits as it takes to see it.
fn percent(share: f64) -> String {
    if share < 0.001 { format!("{:.1e}%", share * 100.0) } else { format!("{:.1}%", share * 100.0) }
}
