//! Which variant to use here: the cheapest one that is shown to keep the accuracy.

mod candidate;
mod inference;

use super::sample_size::SeedsNeeded;
use super::test_values;
use crate::formatting::{list, plural};
use crate::record::{Recommendation, Results, VariantResult};
use crate::spec::Plan;
use crate::stats::MOST_PAIRS;
use candidate::{Candidate, Standing, TimingNeeded, stopped};

/// A variant that is not clearly faster is recommended for its memory only where its peak in training is under this share of
/// the baseline's: less of a saving lets no larger model or batch in.
pub(crate) const LESS_MEMORY: f64 = 0.95;

/// A variant that was timed is recommended for its memory only where the whole interval of its step time is at most this
/// share of the baseline's. A tenth is a price that a larger batch or model may win back; more is a trade that the reader
/// has to make. The whole interval, because otherwise the worse a time is measured the sooner a slow variant would pass.
pub(crate) const LITTLE_SLOWER: f64 = 1.1;

/// What to use, from what there is so far.
///
/// Candidates are the variants with native arithmetic beside the baseline. One is *good* where its accuracy is equivalent or
/// better and none of its runs diverged or failed, *open* where its accuracy is inconclusive, else *lost*; one that is
/// inconclusive but on its way to worse counts as lost. Of the good, the one with the smallest step time whose whole
/// interval is under the baseline's; failing that, the one with the smallest memory under `LESS_MEMORY` whose step time
/// is shown to be at most `LITTLE_SLOWER`, or was not measured; failing that, the baseline. With none good it is the
/// baseline too, unless an open one might be cheaper: then nothing, and how many seeds would settle that one.
///
/// A baseline of which a run stopped is never recommended: then it is the cheapest of the good, whatever it costs, or
/// nothing. Nothing is recommended while a variant of the plan has no run.
///
/// Where nothing is recommended, it still says what to use until then, unless the baseline failed; where another variant saves
/// more memory, it says that too; and it names the seeds and timing blocks that would settle what is open.
pub fn recommend(results: &Results) -> Recommendation {
    let advice = match contest(results) {
        Ok((baseline, candidates)) => match stopped(baseline) {
            None => choose(results, &baseline.name, &candidates),
            Some(stopped) => without_baseline(results, (&baseline.name, &stopped), &candidates),
        },
        Err(NotYet { reason, keep }) => {
            let name = &results.plan.baseline;
            Advice {
                provisional: keep.then(|| format!("For now keep {name}.")),
                ..Advice::none(reason)
            }
        }
    };
    advice.into_recommendation(&results.plan)
}

/// Why nothing can be compared yet.
struct NotYet {
    reason: String,
    /// Whether the baseline may be used meanwhile: it did not fail.
    keep: bool,
}

/// A recommendation in the making: its reason is a sentence of clauses.
struct Advice {
    variant: Option<String>,
    clauses: Vec<String>,
    provisional: Option<String>,
    for_memory: Option<String>,
    seeds: Option<SeedsNeeded>,
    more_blocks: Option<usize>,
}

impl Advice {
    fn none(clause: String) -> Self {
        Self {
            variant: None,
            clauses: vec![clause],
            provisional: None,
            for_memory: None,
            seeds: None,
            more_blocks: None,
        }
    }

    fn of(name: &str, clause: String) -> Self {
        Self { variant: Some(name.to_owned()), ..Self::none(clause) }
    }

    fn and(mut self, clause: Option<String>) -> Self {
        self.clauses.extend(clause);
        self
    }

    /// Names the open variant that would be cheaper.
    fn and_rival(mut self, rival: Option<&Candidate<'_>>, baseline: &str) -> Self {
        let open = rival.and_then(|rival| Some((rival, rival.needed()?)));
        if let Some((rival, needed)) = open {
            let short = rival.results.metric.short();
            let rest = if needed.more().is_some() {
                format!("its {short} not settled yet")
            } else {
                format!(
                    "its {short} not settled by any number of seeds up to {MOST_PAIRS}, if the spread stays as it is"
                )
            };
            self.clauses.push(format!("{}, {rest}", rival.attraction(baseline)));
            self.seeds = Some(needed);
        }
        self
    }

    /// Names the variant whose time is too uncertain.
    fn and_timing(mut self, needed: Option<TimingNeeded>) -> Self {
        if let Some(TimingNeeded { why, more }) = needed {
            self.clauses.push(why);
            self.more_blocks = more;
        }
        self
    }

    /// Says what to use where memory is short, if one of these saves more than what is recommended.
    fn and_memory(mut self, good: &[&Candidate<'_>], baseline: &str) -> Self {
        let chosen =
            good.iter().find(|candidate| Some(candidate.name()) == self.variant.as_deref());
        let taken = chosen.and_then(|chosen| chosen.memory()).unwrap_or(1.0);
        let best = least(good, Candidate::memory)
            .filter(|best| best.memory().is_some_and(|memory| memory < LESS_MEMORY * taken));
        let saves = best.and_then(|best| best.saves(baseline));
        self.for_memory = saves.map(|saves| format!("If memory is what you lack, {saves}."));
        self
    }

    fn into_recommendation(self, plan: &Plan) -> Recommendation {
        Recommendation {
            needed: in_words(plan, self.seeds, self.more_blocks),
            variant: self.variant,
            reason: format!("{}.", self.clauses.join("; ")),
            provisional: self.provisional,
            for_memory: self.for_memory,
            more_seeds: self.seeds.and_then(SeedsNeeded::more).map(|more| more as u64),
            more_blocks: self.more_blocks.map(|more| more as u64),
        }
    }
}

/// What to run, in words and as arguments: `about 3 more seeds (--seeds 9)`.
fn in_words(plan: &Plan, seeds: Option<SeedsNeeded>, blocks: Option<usize>) -> Option<String> {
    let seeds = seeds.and_then(|needed| {
        // The option counts from seed 0.
        let numbered = plan.seeds.iter().zip(0..).all(|(seed, number)| *seed == number);
        let all = plan.seeds.len() + needed.more()?;
        let option = if numbered { format!(" (--seeds {all})") } else { String::new() };
        Some(needed.to_run()? + &option)
    });
    let blocks = blocks.map(|more| {
        let all = plan.measure.timing_blocks + more;
        format!("about {} (--set measure.timing_blocks={all})", plural(more, "more timing block"))
    });
    let parts: Vec<String> = seeds.into_iter().chain(blocks).collect();
    (!parts.is_empty()).then(|| format!("Needed to decide: {}.", list(&parts)))
}

/// The baseline and those that might take its place, or why nothing can be compared yet.
fn contest(results: &Results) -> Result<(&VariantResult, Vec<Candidate<'_>>), NotYet> {
    let (name, planned) = (&results.plan.baseline, &results.plan.variants);
    let not_yet = |reason: String| Err(NotYet { reason, keep: true });
    let found = |name: &str| results.variants.iter().find(|variant| variant.name == name);
    if results.plan.train.steps == 0 {
        return Err(NotYet { reason: inference::clauses(results).join("; "), keep: false });
    }
    let Some(baseline) = found(name).filter(|baseline| !baseline.runs.is_empty()) else {
        return not_yet(format!("The baseline {name} has no run yet to compare with"));
    };
    if let (true, Some(stopped)) =
        (test_values(results.metric, baseline).is_empty(), stopped(baseline))
    {
        let reason = format!("{name} {stopped}, so there is nothing to compare with");
        return Err(NotYet { reason, keep: false });
    }
    if planned.len() == 1 {
        return not_yet(format!("{name} is the only variant, so there is nothing to choose from"));
    }
    let has_run = |name: &str| found(name).is_some_and(|variant| !variant.runs.is_empty());
    let missing = planned.iter().map(|variant| &variant.name).filter(|name| !has_run(name));
    let missing: Vec<String> = missing.cloned().collect();
    if !missing.is_empty() {
        let have = if missing.len() == 1 { "has" } else { "have" };
        let (number, all) = (missing.len(), planned.len());
        return not_yet(format!(
            "{number} of {all} variants {have} no run yet: {}",
            list(&missing)
        ));
    }
    let others = results.variants.iter().filter(|v| v.name != *name && !v.emulated);
    let candidates: Vec<Candidate<'_>> =
        others.filter_map(|variant| Candidate::new(results, variant)).collect();
    if candidates.is_empty() {
        return not_yet(format!(
            "Every variant beside {name} is emulated here, so none can be recommended for this machine"
        ));
    }
    let waiting = |candidate: &Candidate<'_>| {
        let compared = candidate.against.metric_difference().is_some();
        !compared && !matches!(candidate.standing, Standing::Lost(_))
    };
    if candidates.iter().all(waiting) {
        return not_yet(format!("No variant has a run yet with a seed of {name}'s"));
    }
    Ok((baseline, candidates))
}

/// What to use, where the baseline went through.
fn choose(results: &Results, baseline: &str, candidates: &[Candidate<'_>]) -> Advice {
    let good = those(candidates, Candidate::is_good);
    let open = those(candidates, Candidate::is_open);
    let (short, faster) = (results.metric.short(), least(&open, Candidate::faster));
    if let Some(best) = least(&good, Candidate::faster) {
        let rival = faster.filter(|rival| rival.time() < best.time());
        let advice = Advice::of(best.name(), best.for_its_time(baseline));
        return advice.and_rival(rival, baseline).and_memory(&good, baseline);
    }
    if let Some(waiting) = untimed(results, &good) {
        return Advice {
            provisional: Some(for_now(baseline, candidates)),
            ..Advice::none(waiting)
        };
    }
    let (smaller, unsure) = (least(&open, Candidate::smaller), least(&good, Candidate::unsure));
    if let Some(best) = least(&good, Candidate::smaller) {
        let less = |rival: &&Candidate<'_>| rival.memory() < best.memory();
        let advice = Advice::of(best.name(), best.for_its_memory(baseline));
        let advice = advice.and_rival(faster.or(smaller.filter(less)), baseline);
        let advice = advice.and_timing(unsure.filter(less).and_then(Candidate::timing_needed));
        return advice.and_memory(&good, baseline);
    }
    if !good.is_empty() {
        let said = none_cheaper(&format!("that keeps the {short}"), baseline, &good);
        let advice = Advice::of(baseline, said).and_rival(faster.or(smaller), baseline);
        let uncertain = unsure.or_else(|| least(&good, Candidate::maybe_faster));
        let advice = advice.and_timing(uncertain.and_then(Candidate::timing_needed));
        return advice.and_memory(&good, baseline);
    }
    let hopeful = those(candidates, |c| c.is_open() && c.may_be_cheaper());
    if !hopeful.is_empty() {
        let advice = undecided(baseline, &hopeful);
        return Advice { provisional: Some(for_now(baseline, candidates)), ..advice };
    }
    if !open.is_empty() {
        let said = none_cheaper(&format!("that may keep the {short}"), baseline, &open);
        return Advice::of(baseline, said);
    }
    let (ways, faults) = faults(candidates);
    Advice::of(baseline, format!("Every other variant {ways}: {faults}"))
}

/// What to use until something can be recommended.
fn for_now(baseline: &str, candidates: &[Candidate<'_>]) -> String {
    let possible = those(candidates, |candidate| candidate.is_good() || candidate.is_open());
    let timed = possible.iter().any(|candidate| candidate.time().is_some());
    let why = match least(&possible, Candidate::faster) {
        Some(fastest) => {
            let (name, short) = (fastest.name(), fastest.results.metric.short());
            format!("that {name} keeps its {short} is not shown yet")
        }
        None if timed => "no variant is shown to be faster here".to_owned(),
        None => "no step is timed yet".to_owned(),
    };
    let saves = least(&possible, Candidate::memory).and_then(|smallest| smallest.saves(baseline));
    let saves = saves.map(|saves| format!("; if memory is what you lack, {saves}"));
    format!("For now keep {baseline}: {why}{}.", saves.unwrap_or_default())
}

/// What to use, where runs of the baseline stopped: what still has its accuracy, or more, and lost no run.
fn without_baseline(
    results: &Results,
    (baseline, stopped): (&str, &str),
    candidates: &[Candidate<'_>],
) -> Advice {
    let good = those(candidates, Candidate::is_good);
    let open = those(candidates, Candidate::is_open);
    let itself = Some(format!("{baseline} itself {stopped}"));
    if let Some(waiting) = untimed(results, &good) {
        return Advice::none(waiting).and(itself);
    }
    let best = least(&good, Candidate::time).or_else(|| least(&good, Candidate::memory));
    if let Some(best) = best.or_else(|| good.first().copied()) {
        let rival = least(&open, Candidate::faster).filter(|rival| rival.time() < best.time());
        let advice = Advice::of(best.name(), best.for_its_time(baseline)).and(itself);
        return advice.and_rival(rival, baseline).and_memory(&good, baseline);
    }
    if !open.is_empty() {
        return undecided(baseline, &open).and(itself);
    }
    let (ways, faults) = faults(candidates);
    Advice::none(format!("Every other variant {ways}: {faults}")).and(itself)
}

fn those<'c, 'a>(
    candidates: &'c [Candidate<'a>],
    chosen: fn(&Candidate<'a>) -> bool,
) -> Vec<&'c Candidate<'a>> {
    candidates.iter().filter(|candidate| chosen(candidate)).collect()
}

/// The candidate with the smallest of a measure, of those that have it.
fn least<'c, 'a>(
    candidates: &[&'c Candidate<'a>],
    measure: fn(&Candidate<'a>) -> Option<f64>,
) -> Option<&'c Candidate<'a>> {
    let measured = candidates.iter().filter_map(|candidate| Some((candidate, measure(candidate)?)));
    measured.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(candidate, _)| *candidate)
}

/// While the timing phase is still to come, a variant that keeps the accuracy may yet be the cheaper one.
fn untimed(results: &Results, good: &[&Candidate<'_>]) -> Option<String> {
    if results.complete || results.plan.measure.timing_blocks < 2 {
        return None;
    }
    let waiting = good.iter().find(|candidate| candidate.time().is_none())?;
    let (metric, name, verdict) = (results.metric.name(), waiting.name(), waiting.verdict()?);
    Some(format!("No step is timed yet; the {metric} of {name} is {verdict}"))
}

/// Of these, none costs less than the baseline.
fn none_cheaper(which: &str, baseline: &str, candidates: &[&Candidate<'_>]) -> String {
    let nearest = least(candidates, Candidate::time).or_else(|| candidates.first().copied());
    let costs = nearest.map(|nearest| format!(": {} {}", nearest.name(), nearest.cost(baseline)));
    let costed = candidates.iter().all(|candidate| candidate.is_costed());
    let shown = if costed { "" } else { "shown to be " };
    format!(
        "No variant {which} is {shown}faster here, or smaller without being slower{}",
        costs.unwrap_or_default()
    )
}

/// None is shown good, and each of these might be, and might be cheaper.
fn undecided(baseline: &str, open: &[&Candidate<'_>]) -> Advice {
    let more = |candidate: &Candidate<'_>| candidate.needed()?.more();
    let fewest = open.iter().filter_map(|candidate| more(candidate)).min();
    // Of those that as many seeds settle, the fastest.
    let mut soonest = open.to_vec();
    soonest.retain(|candidate| more(candidate) == fewest);
    let first = least(&soonest, Candidate::faster).or_else(|| soonest.first().copied());
    let clauses = first.map(|first| {
        let (metric, cost) = (first.results.metric.name(), first.cost(baseline));
        let verdict = first.verdict().map(|verdict| format!("; its {metric} is {verdict}"));
        format!("{} {cost}{}", first.name(), verdict.unwrap_or_default())
    });
    let advice = Advice::none(format!("No variant is shown equivalent to {baseline} yet"));
    let advice = advice.and(clauses).and(fewest.is_none().then(|| {
        format!(
            "no number of seeds up to {MOST_PAIRS} would decide it if the spread stays as it is"
        )
    }));
    let seeds = first.and_then(Candidate::needed);
    Advice { seeds, ..advice }.and_timing(first.and_then(Candidate::timing_needed))
}

/// In which ways candidates, none of them good or open, are out, and how each.
fn faults(candidates: &[Candidate<'_>]) -> (&'static str, String) {
    let doubtful = |candidate: &Candidate<'_>| matches!(candidate.standing, Standing::Doubtful(_));
    let ways = if candidates.iter().any(doubtful) {
        "is worse, looks worse or was stopped"
    } else {
        "is worse or was stopped"
    };
    let faults: Vec<String> = candidates.iter().filter_map(Candidate::fault).collect();
    (ways, list(&faults))
}

#[cfg(test)]
mod tests;
