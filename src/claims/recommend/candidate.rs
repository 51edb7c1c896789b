//! A variant that might take the baseline's place: how its accuracy stands, what it costs, and both in words.

use super::{LESS_MEMORY, LITTLE_SLOWER};
use crate::claims::needed::{SeedsNeeded, timing_blocks};
use crate::record::{
    AccuracyDifference, AccuracyVerdict, AgainstBaseline, Estimate, Results, Status, VariantResult,
};
use crate::spec::MeasurePlan;
use crate::units::Ratio;
use crate::words::{list, plural, points, points_apart};

/// A variant that might be recommended.
pub(super) struct Candidate<'a> {
    pub(super) variant: &'a VariantResult,
    pub(super) against: &'a AgainstBaseline,
    pub(super) standing: Standing,
    /// The δ of equivalence, and the blocks that were timed.
    measure: &'a MeasurePlan,
}

/// What is known of its accuracy.
pub(super) enum Standing {
    /// Equivalent or better, and no run lost.
    Good,
    /// Inconclusive, and more seeds may show it good.
    Open(SeedsNeeded),
    /// Inconclusive, but more seeds of the same kind would show it worse: why.
    Doubtful(String),
    /// Out, and why.
    Lost(String),
}

impl<'a> Candidate<'a> {
    /// None without a comparison with the baseline.
    pub(super) fn new(results: &'a Results, variant: &'a VariantResult) -> Option<Self> {
        let against = variant.against_baseline.as_ref()?;
        let standing = Standing::of(results, variant, against.accuracy_difference.as_ref());
        Some(Self { variant, against, standing, measure: &results.plan.measure })
    }

    pub(super) fn name(&self) -> &'a str {
        &self.variant.name
    }

    pub(super) fn is_good(&self) -> bool {
        matches!(self.standing, Standing::Good)
    }

    pub(super) fn is_open(&self) -> bool {
        self.needed().is_some()
    }

    pub(super) fn needed(&self) -> Option<SeedsNeeded> {
        match self.standing {
            Standing::Open(needed) => Some(needed),
            _ => None,
        }
    }

    /// Why it is out, or looks as if it will be.
    pub(super) fn fault(&self) -> Option<String> {
        match &self.standing {
            Standing::Lost(why) | Standing::Doubtful(why) => Some(format!("{} {why}", self.name())),
            Standing::Good | Standing::Open(_) => None,
        }
    }

    /// The ratio of step times.
    pub(super) fn time(&self) -> Option<f64> {
        self.against.train_time_ratio.map(|ratio| ratio.value.0)
    }

    /// The ratio of the peaks of training memory.
    pub(super) fn memory(&self) -> Option<f64> {
        self.against.train_memory_ratio.map(|ratio| ratio.0)
    }

    /// The ratio of step times, where the whole interval is under 1.
    pub(super) fn faster(&self) -> Option<f64> {
        let clearly = |ratio: &Estimate<Ratio>| ratio.high.0 < 1.0;
        self.against.train_time_ratio.filter(clearly).map(|ratio| ratio.value.0)
    }

    /// The ratio of memory, where it is small enough to count and the variant, if it was timed, is shown to be little slower
    /// at most.
    pub(super) fn smaller(&self) -> Option<f64> {
        let shown = |ratio: Estimate<Ratio>| ratio.high.0 <= LITTLE_SLOWER;
        self.saving().filter(|_| self.against.train_time_ratio.is_none_or(shown))
    }

    /// The ratio of memory, where it is small enough to count but the interval of step times leaves open whether the variant
    /// is more than a little slower.
    pub(super) fn unsure(&self) -> Option<f64> {
        let open =
            |ratio: Estimate<Ratio>| ratio.low.0 <= LITTLE_SLOWER && ratio.high.0 > LITTLE_SLOWER;
        self.saving().filter(|_| self.against.train_time_ratio.is_some_and(open))
    }

    /// The ratio of memory, where it is small enough to count.
    fn saving(&self) -> Option<f64> {
        self.memory().filter(|ratio| *ratio < LESS_MEMORY)
    }

    pub(super) fn may_be_cheaper(&self) -> bool {
        self.faster().is_some() || self.smaller().is_some() || !self.is_costed()
    }

    /// Whether its times say all that they are asked.
    pub(super) fn is_costed(&self) -> bool {
        self.time().is_some() && self.unsure().is_none()
    }

    /// The sentence of a variant recommended for its speed, without its end.
    pub(super) fn for_its_time(&self, baseline: &str) -> String {
        let Some(time) = self.against.train_time_ratio else {
            return self.for_its_memory(baseline);
        };
        let mut parts = vec![format!("a step takes {} of {baseline}'s time", estimate(time))];
        let memory = self.against.train_memory_ratio;
        parts.extend(memory.map(|ratio| format!("training {ratio} of its memory")));
        self.sentence(parts)
    }

    /// The sentence of a variant recommended for its memory, without its end.
    pub(super) fn for_its_memory(&self, baseline: &str) -> String {
        let memory = self.against.train_memory_ratio;
        let memory = memory.map(|ratio| format!("training takes {ratio} of {baseline}'s memory"));
        let time = match self.against.train_time_ratio {
            Some(ratio) => format!("a step {} of its time", estimate(ratio)),
            None => "its step time is not measured".to_owned(),
        };
        self.sentence(memory.into_iter().chain([time]).collect())
    }

    fn sentence(&self, mut parts: Vec<String>) -> String {
        parts.extend(self.accuracy().map(|accuracy| format!("its test accuracy is {accuracy}")));
        format!("{}: {}", self.name(), list(&parts))
    }

    /// The verdict on the accuracy with its numbers.
    pub(super) fn accuracy(&self) -> Option<String> {
        let difference = self.against.accuracy_difference.as_ref()?;
        let verdict = match difference.verdict {
            AccuracyVerdict::Better => "better".to_owned(),
            AccuracyVerdict::Worse => "worse".to_owned(),
            AccuracyVerdict::Equivalent => {
                let margin = points_apart(self.measure.equivalence_margin);
                format!("equivalent within ±{margin} pp")
            }
            AccuracyVerdict::Inconclusive => "inconclusive".to_owned(),
        };
        let interval = match (difference.low, difference.high) {
            (Some(low), Some(high)) => format!(" ({} to {})", points(low), points(high)),
            _ => String::new(),
        };
        let (value, seeds) = (points(difference.value), plural(difference.pairs, "seed"));
        Some(format!("{verdict}, at {value} pp{interval} over {seeds}"))
    }

    /// What it costs: `at 0.55× (0.54–0.56×) of fp32's step time and 0.76× of its memory`.
    pub(super) fn cost(&self, baseline: &str) -> String {
        let time = self.against.train_time_ratio.map(estimate);
        let memory = self.against.train_memory_ratio;
        match (time, memory) {
            (Some(time), Some(memory)) => {
                format!("at {time} of {baseline}'s step time and {memory} of its memory")
            }
            (Some(time), None) => format!("at {time} of {baseline}'s step time"),
            (None, Some(memory)) => {
                format!("at {memory} of {baseline}'s memory, its step time not measured")
            }
            (None, None) => "its step time not measured".to_owned(),
        }
    }

    /// Why an open variant is worth more seeds: `bf16-true is faster still (0.48×)`.
    pub(super) fn attraction(&self, still: &str) -> String {
        let name = self.name();
        match (self.faster(), self.smaller()) {
            (Some(time), _) => format!("{name} is faster{still} ({})", Ratio(time)),
            (_, Some(memory)) => format!("{name} needs less memory{still} ({})", Ratio(memory)),
            _ => name.to_owned(),
        }
    }

    /// What would tell whether an unsure one may be recommended for its memory.
    pub(super) fn blocks_needed(&self) -> Option<String> {
        let (memory, time) = (self.unsure()?, self.against.train_time_ratio?);
        let blocks = timing_blocks(time, self.measure.timing_blocks, LITTLE_SLOWER);
        Some(format!(
            "{} needs less memory ({}), but its step time, {}, is not measured well enough: {blocks}",
            self.name(),
            Ratio(memory),
            estimate(time),
        ))
    }
}

impl Standing {
    fn of(
        results: &Results,
        variant: &VariantResult,
        difference: Option<&AccuracyDifference>,
    ) -> Self {
        if let Some(stopped) = stopped(variant) {
            return Self::Lost(stopped);
        }
        let by = |d: &AccuracyDifference| format!("{} pp", points(d.value));
        let needed = SeedsNeeded::against_baseline(results, variant);
        match difference.map(|d| (d, d.verdict)) {
            Some((d, AccuracyVerdict::Worse)) => Self::Lost(format!("is worse ({})", by(d))),
            Some((_, AccuracyVerdict::Better | AccuracyVerdict::Equivalent)) => Self::Good,
            Some((d, AccuracyVerdict::Inconclusive)) if needed.foresees_worse() => {
                let seeds = needed.to_run().unwrap_or_default();
                Self::Doubtful(format!("looks worse ({}, {seeds} would show it)", by(d)))
            }
            Some((_, AccuracyVerdict::Inconclusive)) | None => Self::Open(needed),
        }
    }
}

/// Runs that did not reach their end, in words.
pub(super) fn stopped(variant: &VariantResult) -> Option<String> {
    let runs = variant.runs.len();
    let stopped =
        [(Status::Diverged, "diverged"), (Status::Failed, "failed")].map(|(status, word)| {
            let stopped = variant.runs.iter().filter(|run| run.status == status).count();
            (stopped > 0).then_some((stopped, word))
        });
    match stopped {
        [None, None] => None,
        [Some((stopped, word)), None] | [None, Some((stopped, word))] => {
            Some(format!("{word} in {stopped} of {}", plural(runs, "run")))
        }
        [Some((diverged, _)), Some((failed, _))] => Some(format!(
            "stopped in {} of {} ({diverged} diverged, {failed} failed)",
            diverged + failed,
            plural(runs, "run")
        )),
    }
}

/// `0.55× (0.54–0.56×)`.
fn estimate(ratio: Estimate<Ratio>) -> String {
    let Estimate { value, low, high } = ratio;
    format!("{value} ({:.2}–{high})", low.0)
}
