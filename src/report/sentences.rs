//! What the numbers show, in plain sentences: what to use, how the claims fared, and what else they allow to say.

use std::collections::BTreeMap;

use crate::claims::{self, wording};
use crate::record::{
    ClaimVerdict, Estimate, GradientCounts, MetricDifference, MetricVerdict, Recommendation, Status,
};
use crate::stats::{MIN_PAIRS, SIGNIFICANCE, least_pairs, wilson};
use crate::units::Ratio;

use super::load::Loaded;
use super::table::{Row, Table, variants};
use super::{skips, text};

/// What to use, of one experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// The experiment, where there are several.
    pub(super) experiment: Option<String>,
    /// What to use, in a few words.
    pub(super) heading: String,
    /// Why.
    pub(super) reason: String,
    /// What to use until then, what to use where memory is short, and what would settle what is open: sentences.
    pub(super) more: Vec<String>,
    /// What to know before trusting it: what this machine or build cannot do, or what disturbed the times.
    pub(super) caveats: Vec<String>,
}

/// A claim as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    /// Such as `train-time`.
    pub(super) id: String,
    /// The variant it was judged on, behind its experiment where there are several; empty where none is of that kind.
    pub(super) variant: String,
    /// How it fared.
    pub(super) verdict: ClaimVerdict,
    /// The number it was judged by, with its interval.
    pub(super) measured: String,
    /// The threshold.
    pub(super) threshold: String,
    /// What is needed to decide.
    pub(super) missing: String,
}

impl Judged {
    /// The titles of [`Judged::cells`].
    pub(super) const TITLES: [&'static str; 6] =
        ["claim", "variant", "verdict", "measured", "threshold", "needed to decide"];

    /// Whether both are verdicts on one claim by one threshold.
    pub(super) fn is_of_one_claim(&self, other: &Self) -> bool {
        self.id == other.id && self.threshold == other.threshold
    }

    /// One cell a title.
    pub(super) fn cells(&self) -> [&str; 6] {
        [
            &self.id,
            &self.variant,
            text::claim_verdict(self.verdict),
            &self.measured,
            &self.threshold,
            &self.missing,
        ]
    }
}

/// What an experiment is called, where there are several.
pub(super) fn label(experiments: &[Loaded], experiment: &Loaded) -> Option<String> {
    (experiments.len() > 1).then(|| text::printable(&experiment.label))
}

/// What to use, by experiment.
pub(super) fn advice(experiments: &[Loaded]) -> Vec<Advice> {
    let advice = experiments.iter().map(|experiment| {
        let results = &experiment.results;
        // Files of before there were recommendations hold none.
        let Recommendation { variant, reason, provisional, for_memory, needed, .. } =
            results.recommendation.clone().unwrap_or_else(|| claims::recommend(results));
        let heading = variant.as_ref().map_or_else(
            || match results.plan.train.steps {
                0 => "Inference alone was measured".to_owned(),
                _ => "No recommendation yet".to_owned(),
            },
            |variant| format!("Use {}", text::printable(variant)),
        );
        let shown = |text: &String| text::printable(text);
        Advice {
            experiment: label(experiments, experiment),
            heading,
            reason: shown(&reason),
            more: [provisional, for_memory, needed].iter().flatten().map(shown).collect(),
            caveats: caveats(experiment),
        }
    });
    advice.collect()
}

/// What to know before trusting the recommendation.
fn caveats(loaded: &Loaded) -> Vec<String> {
    let table = Table::of_one(&loaded.results, &[], None);
    let notes = loaded.results.environment.notes.iter().cloned();
    let said = unfinished(loaded, &table).into_iter().chain(emulated(&table)).chain(notes);
    said.map(|sentence| text::printable(&sentence)).collect()
}

/// How the claims fared: those of several experiments side by side.
pub(super) fn judged(experiments: &[Loaded]) -> Vec<Judged> {
    let judged = experiments.iter().flat_map(|loaded| {
        loaded.results.claims.iter().map(|claim| {
            let experiment = label(experiments, loaded);
            let mut variant = text::printable(&claim.variant);
            let engine = loaded.results.engine;
            if !variant.is_empty() && !engine.is_own() {
                variant += &format!(" ({})", engine.name());
            }
            Judged {
                id: text::printable(&claim.id),
                variant: match &experiment {
                    Some(experiment) if !variant.is_empty() => format!("{experiment} · {variant}"),
                    Some(experiment) => experiment.clone(),
                    None => variant,
                },
                verdict: claim.verdict,
                measured: text::measure(&claim.id, loaded.results.metric, claim.measured),
                threshold: text::printable(&claim.threshold),
                missing: text::printable(claim.missing.as_deref().unwrap_or_default()),
            }
        })
    });
    let mut judged: Vec<Judged> = judged.collect();
    // In the order in which the first experiment has them; within a claim, in the experiments' order.
    let mut order: BTreeMap<String, usize> = BTreeMap::new();
    for (place, judged) in judged.iter().enumerate() {
        order.entry(judged.id.clone()).or_insert(place);
    }
    judged.sort_by_key(|judged| order.get(&judged.id).copied());
    judged
}

/// The sentences, the warnings first, by experiment.
pub(super) fn sentences(experiments: &[Loaded]) -> Vec<String> {
    let said = experiments.iter().flat_map(|experiment| {
        let table = Table::of_one(&experiment.results, &experiment.records, None);
        let label = label(experiments, experiment);
        let sentences = sentences_of(experiment, &table).into_iter();
        sentences.map(move |sentence| match &label {
            Some(label) => format!("{label}: {sentence}"),
            None => sentence,
        })
    });
    said.collect()
}

fn sentences_of(loaded: &Loaded, table: &Table<'_>) -> Vec<String> {
    let mut said = Vec::new();
    said.extend(loaded.notes.iter().cloned());
    said.extend(unfinished(loaded, table));
    said.extend(loaded.results.environment.notes.iter().cloned());
    said.extend(stopped(loaded));
    said.extend(divergence(table));
    said.extend(no_baseline(loaded, table));
    said.extend(no_times(table));
    said.extend(fastest(table));
    for row in table.rows.iter().filter(|row| !row.is_baseline) {
        let parts: Vec<String> = [metric(row), cost(row)].into_iter().flatten().collect();
        if !parts.is_empty() {
            said.push(format!("{}: {}", row.name, parts.join(" ")));
        }
    }
    said.extend(few_seeds(table));
    said.extend(controls(table));
    said.extend(numerics(table));
    said.iter().map(|sentence| text::printable(sentence)).collect()
}

/// What the baseline does against itself.
fn controls(table: &Table<'_>) -> Vec<String> {
    let said = table.controls.iter().filter_map(|control| {
        let difference = metric(control)?;
        let baseline = &control.against_baseline.as_ref()?.baseline;
        let time = control
            .time_ratio()
            .map(|ratio| format!(" Training was {}.", wording::speed(ratio, baseline)));
        Some(format!(
            "Control {}: the baseline against itself. {difference}{}",
            control.name,
            time.unwrap_or_default()
        ))
    });
    said.collect()
}

fn unfinished(loaded: &Loaded, table: &Table<'_>) -> Option<String> {
    let done: usize = table.rows.iter().map(|row| row.runs.done()).sum();
    let planned: usize = table.rows.iter().map(|row| row.runs.planned).sum();
    if planned == 0 {
        return Some("The plan has no variants: there is nothing to compare.".to_owned());
    }
    (!loaded.results.complete).then(|| {
        format!(
            "The experiment is not complete: {done} of {planned} runs are in. What follows covers these only; \
             the same command goes on where it stopped."
        )
    })
}

/// Every run that stopped early, those that stopped alike together.
fn stopped(loaded: &Loaded) -> Vec<String> {
    let mut said = Vec::new();
    for variant in variants(&loaded.results) {
        let mut ends: Vec<(String, Vec<String>)> = Vec::new();
        for run in variant.runs.iter().filter(|run| run.status != Status::Completed) {
            let why = run.failure.as_ref().map(|failure| format!(" {}", text::failure(failure)));
            let end = format!("{}{}", text::status(run.status), why.unwrap_or_default());
            let seed = run.seed.to_string();
            match ends.iter_mut().find(|(known, _)| *known == end) {
                Some((_, seeds)) => seeds.push(seed),
                None => ends.push((end, vec![seed])),
            }
        }
        said.extend(ends.into_iter().map(|(end, seeds)| {
            let noun = if seeds.len() == 1 { "seed" } else { "seeds" };
            format!("{}, {noun} {}, {end}.", variant.name, text::list(&seeds))
        }));
    }
    said
}

/// How often a variant diverged, with the interval that so few runs leave.
fn divergence(table: &Table<'_>) -> Vec<String> {
    let diverged = table.rows.iter().filter(|row| row.runs.diverged > 0);
    let sentences = diverged.filter_map(|row| {
        let (diverged, done) = (row.runs.diverged, row.runs.done());
        let rate = wilson(diverged as u64, done as u64)?;
        Some(format!(
            "{} diverged in {diverged} of {}: a rate with a 95% interval from {} to {}.",
            row.name,
            text::plural(done, "run"),
            text::share(rate.low),
            text::share(rate.high)
        ))
    });
    sentences.collect()
}

fn no_baseline(loaded: &Loaded, table: &Table<'_>) -> Option<String> {
    let name = &loaded.results.plan.baseline;
    let ran = table.baseline().is_some_and(|row| row.runs.done() > 0);
    (!ran && !table.rows.is_empty()).then(|| {
        format!("The baseline {name} has no run, so nothing can be compared: there are no ratios and no verdicts.")
    })
}

fn emulated(table: &Table<'_>) -> Option<String> {
    let names = names(table, |row| row.emulated);
    (!names.is_empty()).then(|| {
        format!(
            "{}: emulated, so the numerics are exact and the times would say nothing of hardware; none are given.",
            text::list(&names)
        )
    })
}

fn no_times(table: &Table<'_>) -> Vec<String> {
    let mut said = Vec::from_iter(emulated(table));
    for row in &table.rows {
        if let Some(reason) = &row.untimed {
            said.push(format!("{}: step time not measured: {reason}.", row.name));
        }
    }
    let untimed = names(table, |row| {
        let untimed = row.train.is_none() && row.untimed.is_none();
        row.trains && untimed && !row.emulated && row.runs.done() > 0
    });
    if !untimed.is_empty() {
        said.push(format!("{}: step time not measured.", text::list(&untimed)));
    }
    said
}

/// Of the variants that completed a run, the one whose step time is the smallest part of the baseline's, if any is
/// clearly faster.
fn fastest(table: &Table<'_>) -> Option<String> {
    let ran = || table.rows.iter().filter(|row| row.runs.completed > 0);
    let ratios = || ran().filter_map(|row| Some((row, row.time_ratio()?)));
    let baseline = &ratios().next()?.0.against_baseline.as_ref()?.baseline;
    let faster = ratios().filter(|(_, ratio)| ratio.high.0 < 1.0);
    let best = faster.min_by(|a, b| a.1.value.0.total_cmp(&b.1.value.0));
    Some(best.map_or_else(
        || format!("No variant trains clearly faster than {baseline} on this machine."),
        |(row, ratio)| {
            let speed = wording::speed(ratio, baseline);
            format!("{} trains fastest on this machine: {speed}.", row.name)
        },
    ))
}

/// Speed and memory against the baseline, of training and of inference.
fn cost(row: &Row<'_>) -> Option<String> {
    let baseline = row.against_baseline.as_ref()?.baseline.as_str();
    let of = |what: &str, time: Option<Estimate<Ratio>>, memory: Option<Ratio>| {
        let speed = time.map(|time| format!("is {}", wording::speed(time, baseline)));
        let needs = memory.map(|memory| format!("needs {}", wording::memory(memory)));
        let said: Vec<String> = speed.into_iter().chain(needs).collect();
        (!said.is_empty()).then(|| format!("{what} {}.", text::list(&said)))
    };
    let training = of("Training", row.time_ratio(), row.memory_ratio());
    let inference = of("Inference", row.inference_time_ratio(), row.inference_memory_ratio());
    let said: Vec<String> = training.into_iter().chain(inference).collect();
    (!said.is_empty()).then(|| said.join(" "))
}

fn metric(row: &Row<'_>) -> Option<String> {
    let difference = row.difference()?;
    let baseline = &row.against_baseline.as_ref()?.baseline;
    let by = format!("{} against {baseline}", row.metric.difference(difference.value));
    let verdict = match difference.verdict {
        MetricVerdict::Worse => "worse".to_owned(),
        MetricVerdict::Better => "better".to_owned(),
        MetricVerdict::Equivalent => {
            "equivalent within the margin that the plan declares".to_owned()
        }
        MetricVerdict::Inconclusive => {
            "inconclusive, which does not mean that they are the same".to_owned()
        }
    };
    let unseen = (difference.verdict == MetricVerdict::Equivalent).then(|| far_off(row)).flatten();
    Some(format!(
        "{} {by} over {}: {verdict}{}.{}",
        row.metric.title(),
        text::plural(difference.pairs, "pair"),
        p_value(difference),
        unseen.unwrap_or_default()
    ))
}

/// How many seeds differ by more than the margin, and how many of all may for what so few seeds show: a mean of few says nothing
/// of what is rare.
fn far_off(row: &Row<'_>) -> Option<String> {
    let (seeds, margin) = (row.differences.len(), row.margin);
    let beyond = row.differences.iter().filter(|(_, d)| d.abs() > margin).count();
    let share = wilson(beyond as u64, seeds as u64)?;
    let lie = match beyond {
        0 => "None of".to_owned(),
        some => format!("{} of", text::count(some as u64)),
    };
    let verb = if beyond == 1 { "differs" } else { "differ" };
    Some(format!(
        " {lie} {} {verb} by more than ±{}; in as many as {} of all runs such a difference cannot be excluded.",
        text::plural(seeds, "seed"),
        row.metric.distance(margin),
        text::share(share.high)
    ))
}

fn p_value(difference: &MetricDifference) -> String {
    match (difference.p, difference.p_holm) {
        (Some(p), Some(holm)) => {
            format!(" (p {}; after Holm's correction, p {})", small(p), small(holm))
        }
        (Some(p), None) => format!(" (p {})", small(p)),
        _ => String::new(),
    }
}

/// A p to three decimals, and never 0.
fn small(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("= {p:.3}") }
}

/// A two-sided sign-flip test of n pairs cannot give less than 2 of its 2ⁿ sign patterns, and Holm's method multiplies the
/// least by the number of variants compared.
fn few_seeds(table: &Table<'_>) -> Option<String> {
    let compared: Vec<_> = table.rows.iter().filter_map(Row::difference).collect();
    let most = compared.iter().map(|difference| difference.pairs).max()?;
    let needed = least_pairs(compared.len());
    let smallest = 2.0_f64.powi(1 - i32::try_from(most).ok()?);
    let among = match compared.len() {
        1 => String::new(),
        several => {
            format!(", and Holm's correction multiplies the least of {several} by {several}")
        }
    };
    (most < needed).then(|| {
        format!(
            "With {} no difference of {} can reach p < {SIGNIFICANCE}: the smallest p of a two-sided sign-flip test \
             is then {smallest}{among}. It takes at least {needed} seeds to call a variant worse or better, and {MIN_PAIRS} \
             to call it equivalent.",
            text::plural(most, "seed"),
            table.metric().short(),
        )
    })
}

fn numerics(table: &Table<'_>) -> Vec<String> {
    let counted = |row: &&Row<'_>| row.counts.elements > 0;
    let mut said = Vec::new();
    for (word, of, on) in [
        ("overflow", (|row| row.counted().overflow) as fn(&Row<'_>) -> u64, counted_steps(table)),
        ("underflow", |row| row.counts.underflow, counted_steps(table)),
        ("updates rounded away", |row| row.numerics.updates.lost, None),
    ] {
        let said_of = |row: &Row<'_>| {
            let settling = row.settling().filter(|_| word == "overflow");
            let settling = settling.map(|settling| format!(" ({settling})"));
            format!("{} {}{}", row.name, text::count(of(row)), settling.unwrap_or_default())
        };
        let rows = table.rows.iter().filter(counted).filter(|row| of(row) > 0);
        let some: Vec<String> = rows.map(said_of).collect();
        let what = match on {
            _ if !some.is_empty() => text::list(&some),
            Some(steps) => format!("none on {steps}"),
            None => "none".to_owned(),
        };
        if table.rows.iter().any(|row| counted(&row)) {
            said.push(format!("Counted {word}: {what}."));
        }
    }
    if table.rows.iter().any(|row| counted(&row) && !row.engine.is_own()) {
        let known = "Of candle's operations only the rounding of weights is counted";
        said.push(format!(
            "{known}: whether anything else overflowed or underflowed is not known."
        ));
    }
    said.extend(table.rows.iter().filter_map(overflow_on_rejected_steps));
    said.extend(skipped(table));
    said.extend(non_finite_gradients(table));
    let uncounted = names(table, |row| row.counts.elements == 0 && row.runs.done() > 0);
    if !uncounted.is_empty() {
        said.push(format!(
            "{}: no census was taken, so overflow and underflow are unknown.",
            text::list(&uncounted)
        ));
    }
    said
}

/// Where the overflow was that had steps rejected, most first.
fn overflow_on_rejected_steps(row: &Row<'_>) -> Option<String> {
    /// More places are only counted.
    const SHOWN: usize = 3;
    let mut places = BTreeMap::new();
    let censuses = row
        .records
        .iter()
        .flat_map(|record| record.settling_census.iter().chain(&record.rejected_census));
    for census in censuses {
        let overflow = census.counts.map_or(0, |counts| counts.overflow);
        if overflow > 0 {
            *places.entry((census.layer.as_str(), census.role)).or_insert(0) += overflow;
        }
    }
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_by_key(|(_, overflow)| std::cmp::Reverse(*overflow));
    let more = places.len().saturating_sub(SHOWN);
    let shown = places.iter().take(SHOWN).map(|((layer, role), overflow)| {
        format!("{layer} ({}, {})", text::role(*role), text::count(*overflow))
    });
    let mut shown: Vec<String> = shown.collect();
    if more > 0 {
        shown.push(text::plural(more, "other"));
    }
    let places = text::list(&shown);
    (!shown.is_empty()).then(|| format!("{}: overflow on rejected steps in {places}.", row.name))
}

/// The skipped steps of each variant that skipped one.
fn skipped(table: &Table<'_>) -> Vec<String> {
    let of = |row: &Row<'_>| Some(format!("{}: {}.", row.name, skips::sentence(row)?));
    let mut said: Vec<String> = table.rows.iter().filter_map(of).collect();
    if said.is_empty() && table.rows.iter().any(|row| row.steps > 0) {
        said.push("No step was skipped.".to_owned());
    }
    said
}

/// The steps that a census looked at, where all runs have the same: a sample, which says nothing of the others.
fn counted_steps(table: &Table<'_>) -> Option<String> {
    /// More than so many are only counted.
    const LISTED: usize = 4;
    let records = || table.rows.iter().flat_map(|row| &row.records);
    let steps = &records().find(|record| !record.census_steps.is_empty())?.census_steps;
    let longest = records().map(|record| record.census_steps.len()).max()?;
    let numbers: Vec<String> = steps.iter().map(|step| format!("step {step}")).collect();
    Some(match numbers.as_slice() {
        _ if longest != steps.len() => "the census steps of each run".to_owned(),
        [one] => format!("the one census step of each run, {one}"),
        few if few.len() <= LISTED => {
            format!("the {} census steps of each run, {}", few.len(), text::list(few))
        }
        many => format!("the {} census steps of each run", many.len()),
    })
}

/// Every step tells these, whether it has a census or not.
fn non_finite_gradients(table: &Table<'_>) -> Option<String> {
    let of = |row: &Row<'_>| {
        let GradientCounts { infinite, nan, .. } = row.numerics.gradients;
        let kinds = [(infinite, "infinite"), (nan, "NaN")];
        let kinds = kinds.into_iter().filter(|(count, _)| *count > 0);
        let kinds: Vec<_> =
            kinds.map(|(count, kind)| format!("{} {kind}", text::count(count))).collect();
        (!kinds.is_empty()).then(|| format!("{} {}", row.name, kinds.join(" and ")))
    };
    let rows: Vec<String> = table.rows.iter().filter_map(of).collect();
    (!rows.is_empty()).then(|| {
        format!(
            "Weight gradients that were not finite, over every step: {}. The updates of these steps were skipped.",
            text::list(&rows)
        )
    })
}

fn names(table: &Table<'_>, chosen: impl Fn(&Row<'_>) -> bool) -> Vec<String> {
    let rows = table.rows.iter().filter(|row| chosen(row));
    rows.map(|row| row.name.clone()).collect()
}
