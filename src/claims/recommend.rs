//! Which variant to use here: the cheapest one that is shown to keep the accuracy.

use super::accuracies;
use super::needed::{SeedsNeeded, counted, points};
use crate::record::{
    AccuracyDifference, AccuracyVerdict, AgainstBaseline, Estimate, Recommendation, Results,
    Status, VariantResult,
};
use crate::stats::MOST_PAIRS;
use crate::units::Ratio;

/// A variant that is not clearly faster is recommended for its memory only where its peak in training is under this share of
/// the baseline's: less of a saving lets no larger model or batch in.
pub const LESS_MEMORY: f64 = 0.95;

/// What to use, from what there is so far.
///
/// Candidates are the variants with native arithmetic beside the baseline. One is *good* where its accuracy is equivalent or
/// better and none of its runs diverged or failed, *open* where its accuracy is inconclusive, else *lost*. Of the good, the
/// one with the smallest step time whose whole interval is under the baseline's; failing that, the one with the smallest
/// memory under [`LESS_MEMORY`] that is not clearly slower; failing that, the baseline. With none good it is the baseline
/// too, unless an open one might be cheaper: then nothing, and how many seeds would settle that one.
pub fn recommend(results: &Results) -> Recommendation {
    let (baseline, candidates) = match contest(results) {
        Ok(contest) => contest,
        Err(reason) => return Recommendation { variant: None, reason, more_seeds: None },
    };
    let chosen = |choose: fn(&Candidate<'_>) -> bool| -> Vec<&Candidate<'_>> {
        candidates.iter().filter(|candidate| choose(candidate)).collect()
    };
    let good = chosen(|candidate| candidate.kept().is_some());
    let open = chosen(|candidate| candidate.needed().is_some());
    let name = &baseline.name;
    let faster = least(&open, Candidate::faster);
    if let Some(best) = least(&good, Candidate::faster) {
        let rival = faster.filter(|rival| rival.time() < best.time());
        let rival = rival.map(|rival| (rival, " still"));
        return with_rival(&best.variant.name, &best.for_its_time(name), rival);
    }
    let smaller = least(&open, Candidate::smaller);
    if let Some(best) = least(&good, Candidate::smaller) {
        let smaller = smaller.filter(|rival| rival.memory() < best.memory());
        let rival = faster.or(smaller).map(|rival| (rival, ""));
        return with_rival(&best.variant.name, &best.for_its_memory(name), rival);
    }
    if let Some(waiting) = untimed(results, &good) {
        return Recommendation { variant: None, reason: waiting, more_seeds: None };
    }
    if !good.is_empty() {
        let said = none_cheaper(name, "that keeps the accuracy", &good);
        return with_rival(name, &said, faster.or(smaller).map(|rival| (rival, "")));
    }
    let hopeful = chosen(|c| c.needed().is_some() && c.may_be_cheaper());
    if !hopeful.is_empty() {
        return undecided(name, &hopeful);
    }
    if !open.is_empty() {
        let said = none_cheaper(name, "that may keep the accuracy", &open);
        return with_rival(name, &said, None);
    }
    all_lost(baseline, &candidates)
}

/// A variant that might be recommended.
struct Candidate<'a> {
    variant: &'a VariantResult,
    against: &'a AgainstBaseline,
    standing: Standing<'a>,
    /// The δ of equivalence.
    margin: f64,
}

/// What is known of its accuracy.
enum Standing<'a> {
    Good(&'a AccuracyDifference),
    Open(SeedsNeeded),
    /// Why it is out.
    Lost(String),
}

/// The baseline and those that might take its place, or why nothing can be compared yet.
fn contest(results: &Results) -> Result<(&VariantResult, Vec<Candidate<'_>>), String> {
    let name = &results.plan.baseline;
    let baseline = results.variants.iter().find(|variant| variant.name == *name);
    let Some(baseline) = baseline.filter(|baseline| !accuracies(baseline).is_empty()) else {
        return Err(format!("the baseline {name} has no run yet to compare with."));
    };
    if results.variants.len() == 1 {
        return Err(format!("{name} is the only variant, so there is nothing to choose from."));
    }
    let others = results.variants.iter().filter(|v| v.name != *name && !v.emulated);
    let candidates: Vec<Candidate<'_>> =
        others.filter_map(|variant| Candidate::new(results, variant)).collect();
    if candidates.is_empty() {
        return Err(format!(
            "every variant beside {name} is emulated here, so none can be recommended for this machine."
        ));
    }
    let waiting = |candidate: &Candidate<'_>| {
        let compared = candidate.against.accuracy_difference.is_some();
        !compared && !matches!(candidate.standing, Standing::Lost(_))
    };
    if candidates.iter().all(waiting) {
        return Err(format!("no variant has a run yet with a seed of {name}'s."));
    }
    Ok((baseline, candidates))
}

impl<'a> Candidate<'a> {
    fn new(results: &'a Results, variant: &'a VariantResult) -> Option<Self> {
        let against = variant.against_baseline.as_ref()?;
        let margin = results.plan.measure.equivalence_margin;
        let lost = || {
            let worse = against.accuracy_difference.as_ref();
            let worse = worse.filter(|d| d.verdict == AccuracyVerdict::Worse);
            stopped(variant)
                .or_else(|| worse.map(|d| format!("worse by {} points", points(-d.value))))
        };
        let standing = match (&against.accuracy_difference, lost()) {
            (_, Some(why)) => Standing::Lost(format!("{} {why}", variant.name)),
            (Some(kept), None) if kept.verdict != AccuracyVerdict::Inconclusive => {
                Standing::Good(kept)
            }
            _ => Standing::Open(SeedsNeeded::against_baseline(results, variant)),
        };
        Some(Self { variant, against, standing, margin })
    }

    fn kept(&self) -> Option<&'a AccuracyDifference> {
        match self.standing {
            Standing::Good(difference) => Some(difference),
            _ => None,
        }
    }

    fn needed(&self) -> Option<SeedsNeeded> {
        match self.standing {
            Standing::Open(needed) => Some(needed),
            _ => None,
        }
    }

    /// The ratio of step times.
    fn time(&self) -> Option<f64> {
        self.against.train_time_ratio.map(|ratio| ratio.value.0)
    }

    /// The ratio of the peaks of training memory.
    fn memory(&self) -> Option<f64> {
        self.against.train_memory_ratio.map(|ratio| ratio.0)
    }

    /// The ratio of step times, where the whole interval is under 1.
    fn faster(&self) -> Option<f64> {
        let clearly = |ratio: &Estimate<Ratio>| ratio.high.0 < 1.0;
        self.against.train_time_ratio.filter(clearly).map(|ratio| ratio.value.0)
    }

    /// The ratio of memory, where it is small enough to count and the variant is not clearly slower.
    fn smaller(&self) -> Option<f64> {
        let slower = self.against.train_time_ratio.is_some_and(|ratio| ratio.low.0 > 1.0);
        self.memory().filter(|ratio| *ratio < LESS_MEMORY && !slower)
    }

    fn may_be_cheaper(&self) -> bool {
        self.faster().is_some() || self.smaller().is_some() || self.time().is_none()
    }

    /// The sentence of a variant recommended for its speed, without its end.
    fn for_its_time(&self, baseline: &str) -> String {
        let time = self.against.train_time_ratio.map(estimate).unwrap_or_default();
        let mut parts = vec![format!("a step takes {time} of {baseline}'s time")];
        let memory = self.against.train_memory_ratio;
        parts.extend(memory.map(|ratio| format!("training {ratio} of its memory")));
        self.sentence(parts)
    }

    /// The sentence of a variant recommended for its memory, without its end.
    fn for_its_memory(&self, baseline: &str) -> String {
        let memory = self.against.train_memory_ratio.unwrap_or_default();
        let time = match self.against.train_time_ratio {
            Some(ratio) => format!("a step {} of its time", estimate(ratio)),
            None => "its step time is not measured".to_owned(),
        };
        self.sentence(vec![format!("training takes {memory} of {baseline}'s memory"), time])
    }

    fn sentence(&self, mut parts: Vec<String>) -> String {
        parts.extend(self.accuracy().map(|accuracy| format!("its test accuracy is {accuracy}")));
        format!("{}: {}", self.variant.name, listed(&parts))
    }

    /// The verdict on the accuracy with its numbers.
    fn accuracy(&self) -> Option<String> {
        let difference = self.against.accuracy_difference.as_ref()?;
        let verdict = match difference.verdict {
            AccuracyVerdict::Better => "better".to_owned(),
            AccuracyVerdict::Worse => "worse".to_owned(),
            AccuracyVerdict::Equivalent => {
                format!("equivalent within ±{} points", points(self.margin))
            }
            AccuracyVerdict::Inconclusive => "inconclusive".to_owned(),
        };
        let interval = match (difference.low, difference.high) {
            (Some(low), Some(high)) => format!("{} to {}, ", points(low), points(high)),
            _ => String::new(),
        };
        let (value, seeds) = (points(difference.value), counted(difference.pairs, "seed"));
        Some(format!("{verdict} ({value} points, {interval}{seeds})"))
    }

    /// What it costs: `at 0.55× (0.54–0.56×) of fp32's step time and 0.76× of its memory`.
    fn cost(&self, baseline: &str) -> String {
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
    fn attraction(&self, still: &str) -> String {
        let name = &self.variant.name;
        match (self.faster(), self.smaller()) {
            (Some(time), _) => format!("{name} is faster{still} ({})", Ratio(time)),
            (_, Some(memory)) => format!("{name} needs less memory{still} ({})", Ratio(memory)),
            _ => name.clone(),
        }
    }
}

/// Runs that did not reach their end, in words.
fn stopped(variant: &VariantResult) -> Option<String> {
    let runs = variant.runs.len();
    [(Status::Diverged, "diverged"), (Status::Failed, "failed")].into_iter().find_map(
        |(status, word)| {
            let stopped = variant.runs.iter().filter(|run| run.status == status).count();
            (stopped > 0).then(|| format!("{word} in {stopped} of {}", counted(runs, "run")))
        },
    )
}

/// The candidate with the smallest of a measure, of those that have it.
fn least<'c, 'a>(
    candidates: &[&'c Candidate<'a>],
    measure: fn(&Candidate<'a>) -> Option<f64>,
) -> Option<&'c Candidate<'a>> {
    let measured = candidates.iter().filter_map(|candidate| Some((candidate, measure(candidate)?)));
    measured.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(candidate, _)| *candidate)
}

/// A recommendation, and the open variant that would be cheaper than it.
fn with_rival(name: &str, said: &str, rival: Option<(&Candidate<'_>, &str)>) -> Recommendation {
    let open = |(rival, still): (&Candidate<'_>, &str)| {
        let needed = rival.needed()?;
        let attraction = rival.attraction(still);
        let rest = match needed.to_run() {
            Some(seeds) => format!("but is not shown equivalent yet: {seeds}"),
            None => format!(
                "but is not shown equivalent, and no number of seeds up to {MOST_PAIRS} would settle it if the spread \
                 stays as it is"
            ),
        };
        Some((format!("{said}; {attraction} {rest}"), needed.more()))
    };
    let (reason, more) = rival.and_then(open).unwrap_or_else(|| (said.to_owned(), None));
    Recommendation {
        variant: Some(name.to_owned()),
        reason: format!("{reason}."),
        more_seeds: more.map(|more| more as u64),
    }
}

/// While the timing phase is still to come, a variant that keeps the accuracy may yet be the cheaper one.
fn untimed(results: &Results, good: &[&Candidate<'_>]) -> Option<String> {
    if results.complete || results.plan.measure.timing_blocks < 2 {
        return None;
    }
    let waiting = good.iter().find(|candidate| candidate.time().is_none())?;
    let accuracy = waiting.accuracy()?;
    let name = &waiting.variant.name;
    Some(format!("no step is timed yet; the test accuracy of {name} is {accuracy}."))
}

/// Of these, none costs less than the baseline.
fn none_cheaper(baseline: &str, which: &str, candidates: &[&Candidate<'_>]) -> String {
    let nearest = least(candidates, Candidate::time).or_else(|| candidates.first().copied());
    let costs = nearest.map(|n| format!(", with {} {}", n.variant.name, n.cost(baseline)));
    let untimed = candidates.iter().any(|candidate| candidate.time().is_none());
    let shown = if untimed { "shown to be " } else { "" };
    format!("{baseline}: no policy {which} is {shown}cheaper here{}", costs.unwrap_or_default())
}

/// None is shown good, and each of these might be, and might be cheaper.
fn undecided(baseline: &str, open: &[&Candidate<'_>]) -> Recommendation {
    let more = |candidate: &Candidate<'_>| candidate.needed()?.more();
    let fewest = open.iter().filter_map(|candidate| more(candidate)).min();
    // Of those that as many seeds settle, the fastest.
    let mut soonest = open.to_vec();
    soonest.retain(|candidate| more(candidate) == fewest);
    let first = least(&soonest, Candidate::faster).or_else(|| soonest.first().copied());
    let facts = first.map(|first| {
        let accuracy = first.accuracy().map(|accuracy| format!(", its test accuracy {accuracy}"));
        let cost = first.cost(baseline);
        format!("{}, {cost}{}", first.variant.name, accuracy.unwrap_or_default())
    });
    let to_run = first.and_then(|first| first.needed()?.to_run());
    let rest = match to_run {
        Some(seeds) => format!(": run {seeds} to settle"),
        None => format!(
            ", and no number of seeds up to {MOST_PAIRS} would settle it if the spread stays as it is:"
        ),
    };
    let facts = facts.unwrap_or_default();
    Recommendation {
        variant: None,
        reason: format!("none shown equivalent to {baseline} yet{rest} {facts}."),
        more_seeds: fewest.map(|more| more as u64),
    }
}

/// Every candidate is worse, diverged or failed.
fn all_lost(baseline: &VariantResult, candidates: &[Candidate<'_>]) -> Recommendation {
    let why = |candidate: &Candidate<'_>| match &candidate.standing {
        Standing::Lost(why) => Some(why.clone()),
        _ => None,
    };
    let whys: Vec<String> = candidates.iter().filter_map(why).collect();
    let (name, whys) = (&baseline.name, whys.join(", "));
    if let Some(stopped) = stopped(baseline) {
        let reason =
            format!("every policy is worse or was stopped: {whys}, and {name} itself {stopped}.");
        return Recommendation { variant: None, reason, more_seeds: None };
    }
    Recommendation {
        variant: Some(name.clone()),
        reason: format!("{name}: every other policy is worse or was stopped: {whys}."),
        more_seeds: None,
    }
}

/// `0.55× (0.54–0.56×)`.
fn estimate(ratio: Estimate<Ratio>) -> String {
    let Estimate { value, low, high } = ratio;
    format!("{value} ({:.2}–{high})", low.0)
}

/// `a`, `a and b`, `a, b, and c`.
fn listed(parts: &[String]) -> String {
    match parts {
        [a, b] => format!("{a} and {b}"),
        [most @ .., last] if !most.is_empty() => format!("{}, and {last}", most.join(", ")),
        _ => parts.concat(),
    }
}

#[cfg(test)]
mod tests;
