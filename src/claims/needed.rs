//! What would settle what is not settled, in numbers and words.

use std::fmt;

use super::accuracies;
use crate::record::{Estimate, Results, VariantResult};
use crate::stats::{
    MIN_PAIRS, MOST_BLOCKS, MOST_PAIRS, blocks_to_settle, paired_differences, pairs_to_settle,
};
use crate::units::Ratio;

/// How many seeds would settle a difference of accuracies that is inconclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeedsNeeded {
    given: usize,
    /// None where no number up to [`MOST_PAIRS`] would do.
    needed: Option<usize>,
}

impl SeedsNeeded {
    /// Of two variants, with the margin of equivalence and the number of comparisons that Holm's method counts.
    pub(super) fn new(
        variant: &VariantResult,
        other: &VariantResult,
        (margin, comparisons): (f64, usize),
    ) -> Self {
        let differences = paired_differences(&accuracies(variant), &accuracies(other));
        let differences = differences.unwrap_or_default();
        let given = differences.len();
        let needed = if given < MIN_PAIRS {
            Some(MIN_PAIRS)
        } else {
            pairs_to_settle(&differences, margin, comparisons)
        };
        Self { given, needed }
    }

    /// Of a variant and the baseline.
    pub(super) fn against_baseline(results: &Results, variant: &VariantResult) -> Self {
        let compared = |variant: &&VariantResult| {
            let against = variant.against_baseline.as_ref();
            against.is_some_and(|against| against.accuracy_difference.is_some())
        };
        let comparisons = results.variants.iter().filter(compared).count();
        let margin = results.plan.measure.equivalence_margin;
        match results.variants.iter().find(|other| other.name == results.plan.baseline) {
            Some(baseline) => Self::new(variant, baseline, (margin, comparisons)),
            None => Self { given: 0, needed: Some(MIN_PAIRS) },
        }
    }

    /// Seeds beyond those that are there; none where no number of them would do.
    pub(super) fn more(self) -> Option<usize> {
        self.needed.map(|needed| needed - self.given)
    }

    /// What to run: `3 more seeds`, `about 3 more seeds` where that is an estimate.
    pub(super) fn to_run(self) -> Option<String> {
        let about = if self.given < MIN_PAIRS { "" } else { "about " };
        self.more().map(|more| format!("{about}{}", counted(more, "more seed")))
    }
}

impl fmt::Display for SeedsNeeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { given, needed } = self;
        match needed {
            Some(needed) if *given < MIN_PAIRS => {
                write!(f, "at least {needed} seeds needed, {given} given")
            }
            Some(needed) => write!(
                f,
                "about {needed} seeds needed, {given} given, if the spread stays as it is"
            ),
            None => write!(
                f,
                "no number of seeds up to {MOST_PAIRS} would settle it if the spread stays as it is, \
                 {given} given"
            ),
        }
    }
}

/// What would bring an interval of times off its threshold.
pub(super) fn timing_blocks(ratio: Estimate<Ratio>, given: usize, threshold: f64) -> String {
    match blocks_to_settle(ratio, given, threshold) {
        Some(needed) => format!("about {needed} timing blocks needed, {given} given"),
        None => format!(
            "more than {MOST_BLOCKS} timing blocks needed, {given} given: the ratio is too near the threshold to tell"
        ),
    }
}

/// A share or a difference of shares in percentage points: `−0.05`.
pub(super) fn points(share: f64) -> String {
    let text = format!("{:.2}", (share * 100.0).abs());
    let sign = if share < 0.0 && text != "0.00" { "−" } else { "" };
    format!("{sign}{text}")
}

/// `1 seed`, `2 seeds`.
pub(super) fn counted(number: usize, noun: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{end}")
}
