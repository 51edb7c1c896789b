//! A variant that might take the baseline's place: how its test metric stands, what it costs, and both in words.

use super::{LESS_MEMORY, LITTLE_SLOWER};
use crate::claims::sample_size::SeedsNeeded;
use crate::claims::{margin_in_words, wording};
use crate::formatting::{list, plural};
use crate::record::{
    AgainstBaseline, Estimate, MetricDifference, MetricVerdict, Results, Status, VariantResult,
};
use crate::stats::blocks_to_settle;
use crate::units::Ratio;

/// A variant that might be recommended.
pub(super) struct Candidate<'a> {
    pub(super) variant: &'a VariantResult,
    pub(super) against: &'a AgainstBaseline,
    pub(super) standing: Standing,
    pub(super) results: &'a Results,
}

/// What is known of its test metric.
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
        let standing = Standing::of(results, variant, against.metric_difference());
        Some(Self { variant, against, standing, results })
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

    /// Whether the interval of step times leaves open whether the variant is faster, and it looks as if it were.
    pub(super) fn maybe_faster(&self) -> Option<f64> {
        let open = |ratio: &Estimate<Ratio>| ratio.value.0 < 1.0 && ratio.high.0 >= 1.0;
        self.against.train_time_ratio.filter(open).map(|ratio| ratio.value.0)
    }

    /// What speaks for a variant that is recommended for its speed.
    pub(super) fn for_its_time(&self, baseline: &str) -> String {
        if self.time().is_none() {
            return self.for_its_memory(baseline);
        }
        let memory = self.memory().map(|_| self.takes());
        self.sentence([Some(self.trains(baseline)), memory].into_iter().flatten().collect())
    }

    /// What speaks for a variant that is recommended for its memory.
    pub(super) fn for_its_memory(&self, baseline: &str) -> String {
        let than = if self.time().is_none() { format!(" than {baseline}") } else { String::new() };
        let memory = self.memory().map(|_| self.takes() + &than);
        self.sentence(memory.into_iter().chain([self.trains(baseline)]).collect())
    }

    fn sentence(&self, mut parts: Vec<String>) -> String {
        let name = self.results.metric.name();
        parts.extend(self.verdict().map(|verdict| format!("its {name} is {verdict}")));
        format!("It {}", list(&parts))
    }

    /// `trains 20% slower than fp32 (15–25%)`.
    fn trains(&self, baseline: &str) -> String {
        match self.against.train_time_ratio {
            Some(time) => format!("trains {}", wording::speed(time, baseline)),
            None => "is not timed".to_owned(),
        }
    }

    /// `needs 28% less memory`.
    fn takes(&self) -> String {
        let words = self.against.train_memory_ratio.map(wording::memory);
        format!("needs {}", words.unwrap_or_else(|| "memory that is not measured".to_owned()))
    }

    /// The verdict on the metric with its numbers.
    pub(super) fn verdict(&self) -> Option<String> {
        let difference = self.against.metric_difference()?;
        let metric = self.results.metric;
        let verdict = match difference.verdict {
            MetricVerdict::Better => "better".to_owned(),
            MetricVerdict::Worse => "worse".to_owned(),
            MetricVerdict::Equivalent => {
                format!(
                    "equivalent within {}",
                    margin_in_words(self.results, &self.against.baseline)
                )
            }
            MetricVerdict::Inconclusive => "inconclusive".to_owned(),
        };
        let interval = match (difference.low, difference.high) {
            (Some(low), Some(high)) => {
                format!(", {} to {}", metric.signed(low), metric.signed(high))
            }
            _ => String::new(),
        };
        let value = metric.difference(difference.value);
        let seeds = plural(difference.pairs, "seed");
        Some(format!("{verdict} ({value}{interval}, {seeds})"))
    }

    /// What it costs: `trains 20% slower than fp32 (15–25%) and needs 30% less memory`.
    pub(super) fn cost(&self, baseline: &str) -> String {
        let memory = self.memory().map(|_| self.takes());
        list(&[Some(self.trains(baseline)), memory].into_iter().flatten().collect::<Vec<_>>())
    }

    /// Why an open variant is worth more seeds.
    pub(super) fn attraction(&self, baseline: &str) -> String {
        let name = self.name();
        match (self.faster(), self.smaller()) {
            (Some(_), _) => format!("{name} {}", self.trains(baseline)),
            (_, Some(_)) => format!("{name} {}", self.takes()),
            _ => name.to_owned(),
        }
    }

    /// What it saves where memory is short, and at what price.
    pub(super) fn saves(&self, baseline: &str) -> Option<String> {
        self.saving()?;
        let short = self.results.metric.short();
        let open = if self.is_good() {
            String::new()
        } else {
            format!(", and its {short} is not settled yet")
        };
        Some(format!("{} {} and {}{open}", self.name(), self.takes(), self.trains(baseline)))
    }

    /// Why more timing blocks would tell more, where they would: of a variant that needs less memory whether it is more than a
    /// little slower, of another whether it is faster.
    pub(super) fn timing_needed(&self) -> Option<TimingNeeded> {
        let time = self.against.train_time_ratio?;
        let given = self.results.plan.measure.timing_blocks;
        let (threshold, question) = match (self.unsure(), self.maybe_faster()) {
            (Some(_), _) => {
                let percent = (LITTLE_SLOWER - 1.0) * 100.0;
                (LITTLE_SLOWER, format!("more than {percent:.0}% slower"))
            }
            (None, Some(_)) => (1.0, "faster".to_owned()),
            (None, None) => return None,
        };
        let needed = blocks_to_settle(time, given, threshold);
        let why = format!("it is open whether {} is {question}", self.name());
        Some(TimingNeeded { why, more: needed.map(|needed| needed - given) })
    }
}

/// What timing blocks would tell of a variant.
pub(super) struct TimingNeeded {
    /// What is open.
    pub(super) why: String,
    /// How many more would decide it, by an estimate; none where that takes too many.
    pub(super) more: Option<usize>,
}

impl Standing {
    fn of(
        results: &Results,
        variant: &VariantResult,
        difference: Option<&MetricDifference>,
    ) -> Self {
        if let Some(stopped) = stopped(variant) {
            return Self::Lost(stopped);
        }
        let by = |d: &MetricDifference| results.metric.difference(d.value);
        let needed = SeedsNeeded::against_baseline(results, variant);
        match difference.map(|d| (d, d.verdict)) {
            Some((d, MetricVerdict::Worse)) => Self::Lost(format!("is worse ({})", by(d))),
            Some((_, MetricVerdict::Better | MetricVerdict::Equivalent)) => Self::Good,
            Some((d, MetricVerdict::Inconclusive)) if needed.foresees_worse() => {
                let seeds = needed.to_run().unwrap_or_default();
                Self::Doubtful(format!("looks worse ({}, {seeds} would show it)", by(d)))
            }
            Some((_, MetricVerdict::Inconclusive)) | None => Self::Open(needed),
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
