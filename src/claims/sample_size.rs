//! What is needed to decide what is open, in numbers and words.

use std::fmt;

use super::{margin, test_values};
use crate::formatting::plural;
use crate::record::{Estimate, Results, TestMetric, VariantResult};
use crate::spec::VariantPlan;
use crate::stats::{
    MIN_PAIRS, MOST_BLOCKS, MOST_PAIRS, Outcome, Settled, blocks_to_settle, least_pairs,
    paired_differences, pairs_to_settle,
};
use crate::units::Ratio;

/// How many seeds it takes to decide a difference of the metric that is inconclusive, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeedsNeeded {
    given: usize,
    /// Among how many variants Holm's method adjusts.
    comparisons: usize,
    /// None with fewer seeds than [`MIN_PAIRS`], and where no number up to [`MOST_PAIRS`] would do.
    foreseen: Option<Settled>,
}

impl SeedsNeeded {
    /// Of two variants, with the margin of equivalence and the number of comparisons that Holm's method counts.
    pub(super) fn new(
        (variant, other): (&VariantResult, &VariantResult),
        metric: TestMetric,
        (margin, comparisons): (f64, usize),
    ) -> Self {
        let [variant, other] = [variant, other].map(|v| test_values(metric, v));
        let mut differences = paired_differences(&variant, &other).unwrap_or_default();
        for difference in &mut differences {
            *difference = metric.improvement(*difference);
        }
        let given = differences.len();
        let enough = given >= MIN_PAIRS;
        let foreseen = enough.then(|| pairs_to_settle(&differences, margin, comparisons)).flatten();
        Self { given, comparisons, foreseen }
    }

    /// Of a variant and the baseline.
    pub(super) fn against_baseline(results: &Results, variant: &VariantResult) -> Self {
        let comparisons = comparisons(results);
        let metric = results.metric;
        match results.variants.iter().find(|other| other.name == results.plan.baseline) {
            Some(baseline) => {
                let margin = margin((&results.plan, metric), baseline);
                Self::new((variant, baseline), metric, (margin, comparisons))
            }
            None => Self { given: 0, comparisons, foreseen: None },
        }
    }

    /// Seeds beyond those that are there; none where no number of them would do.
    pub(super) fn more(self) -> Option<usize> {
        let needed = if self.is_early() { Some(MIN_PAIRS) } else { self.pairs() };
        needed.map(|needed| needed - self.given)
    }

    /// What to run: `3 more seeds`, `about 3 more seeds` where that is an estimate.
    pub(super) fn to_run(self) -> Option<String> {
        let about = if self.is_early() { "" } else { "about " };
        self.more().map(|more| format!("{about}{}", plural(more, "more seed")))
    }

    /// Whether the seeds to come would show the variant worse, if they were like those that are there.
    pub(super) fn foresees_worse(self) -> bool {
        self.foreseen.is_some_and(|settled| settled.outcome == Outcome::Worse)
    }

    /// Whether there are too few seeds for any verdict.
    fn is_early(self) -> bool {
        self.given < MIN_PAIRS
    }

    fn pairs(self) -> Option<usize> {
        self.foreseen.map(|settled| settled.pairs)
    }
}

/// Among how many variants Holm's method adjusts once all of the plan have run: a variant is left out only where its runs
/// left nothing to compare.
fn comparisons(results: &Results) -> usize {
    let compared = |planned: &&VariantPlan| {
        let found = results.variants.iter().find(|variant| variant.name == planned.name);
        let runs = found.filter(|variant| !variant.runs.is_empty());
        let against = runs.map(|variant| variant.against_baseline.as_ref());
        let missing =
            against.map(|against| against.is_none_or(|a| a.metric_difference().is_none()));
        planned.name != results.plan.baseline && missing != Some(true)
    };
    results.plan.variants.iter().filter(compared).count()
}

impl fmt::Display for SeedsNeeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { given, comparisons, foreseen } = self;
        let least = least_pairs(*comparisons);
        let differ = format!("to call one of {comparisons} variants better or worse");
        match foreseen {
            _ if self.is_early() && least == MIN_PAIRS => {
                write!(f, "at least {MIN_PAIRS} seeds needed, {given} given")
            }
            _ if self.is_early() => {
                write!(f, "at least {MIN_PAIRS} seeds needed, {least} {differ}, {given} given")
            }
            Some(Settled { pairs, outcome })
                if *outcome != Outcome::Equivalent && *pairs == least && *given < least =>
            {
                write!(f, "at least {least} seeds needed {differ}, {given} given")
            }
            Some(Settled { pairs, .. }) => {
                write!(f, "about {pairs} seeds needed, {given} given, if the spread stays as it is")
            }
            None => write!(
                f,
                "no number of seeds up to {MOST_PAIRS} would decide it if the spread stays as it is, \
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
