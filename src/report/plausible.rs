//! Numbers that cannot be: an accuracy over 1, a step of years, more overflows than values. A results file that was damaged or
//! changed by hand holds such; each is told and taken out, as `mend` does with what is missing. The bounds are wide: what a
//! strange machine might measure stays.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::record::{
    AccuracyDifference, AgainstBaseline, ClaimMeasure, Counts, Environment, Estimate, Evaluation,
    Evidence, ExponentHistogram, GradientCounts, Inference, LayerCensus, Memory, Numerics, Phases,
    Results, RunRecord, RunSummary, TrainTime, VariantResult, Work,
};
use crate::spec::limits;
use crate::units::Bytes;

use super::csv::plain;
use super::text;

/// A step or a batch takes at least a picosecond, and at most a year.
const SECONDS: RangeInclusive<f64> = 1e-12..=3.2e7;

/// A part of that may take nothing.
const PART_OF_SECONDS: RangeInclusive<f64> = 0.0..=3.2e7;

const SAMPLES_PER_SECOND: RangeInclusive<f64> = 1e-8..=1e16;

/// Variant ÷ baseline.
const RATIO: RangeInclusive<f64> = 1e-6..=1e6;

/// Operations a second: the fastest computer of 2025 does about 10¹⁸.
const RATE: RangeInclusive<f64> = 1e-3..=1e20;

/// Above 1 where the peak was measured while the machine was busy.
const SHARE_OF_PEAK: RangeInclusive<f64> = 0.0..=1e3;

const JOULES: RangeInclusive<f64> = 0.0..=1e12;

const WATTS: RangeInclusive<f64> = 0.0..=1e6;

const SHARE: RangeInclusive<f64> = 0.0..=1.0;

/// Ends of intervals lie outside −1 to 1 where seeds are few.
const DIFFERENCE: RangeInclusive<f64> = -1e3..=1e3;

/// Of whatever a claim is judged by.
const MEASURE: RangeInclusive<f64> = -1e12..=1e12;

/// A loss is computed in f32; rounding may leave a little under 0.
const LOSS: RangeInclusive<f64> = -0.01..=3.5e38;

/// What f32 holds, its subnormals too.
const LOSS_SCALE: RangeInclusive<f64> = 1e-45..=3.5e38;

/// Exponents of all that f64 holds.
const EXPONENTS: RangeInclusive<i64> = -1100..=1100;

/// Memory of one machine: a mebibyte to a pebibyte.
const MACHINE: RangeInclusive<u64> = 1 << 20..=1 << 50;

/// Live bytes are at most so many times the machine's memory: there may be swap, and pages that were never touched.
const OVERCOMMITTED: u64 = 4;

/// Operations of a step, and values that were counted over all runs: the sum of all that is read stays in 64 bits.
const MOST_COUNTED: u64 = 1_000_000_000_000_000_000;

/// Values that were counted of one layer in one run.
const MOST_OF_LAYER: u64 = MOST_COUNTED / 1_000;

/// Worker threads and logical processors.
const MOST_PROCESSORS: usize = 1 << 16;

/// Samples of a batch, pairs of seeds, seeds to add.
const MOST_SAMPLES: u64 = 1 << 32;

/// Notes on one file; more would say no more.
const MOST_NOTES: usize = 10;

/// What is wrong with a number, by its name.
type Checked = Result<(), String>;

/// Takes what cannot be out of the results; a note for each.
pub(super) fn results(results: &mut Results) -> Vec<String> {
    let mut taken = Taken::default();
    taken.environment(&mut results.environment);
    let machine = most_bytes(&results.environment);
    let margin = &mut results.plan.measure.equivalence_margin;
    if let Err(why) = within("equivalence_margin", *margin, &SHARE) {
        *margin = 0.0;
        taken.note("plan.measure.equivalence_margin", &why);
    }
    for (index, variant) in results.variants.iter_mut().enumerate() {
        taken.variant(&format!("variants[{index}]"), variant, machine);
    }
    for (index, control) in results.controls.iter_mut().enumerate() {
        taken.variant(&format!("controls[{index}].result"), &mut control.result, machine);
    }
    for (index, claim) in results.claims.iter_mut().enumerate() {
        taken.part(&format!("claims[{index}].measured"), &mut claim.measured, measure);
    }
    if let Some(advice) = &mut results.recommendation {
        let few = |more: &u64| at_most("it", *more, MOST_SAMPLES);
        taken.part("recommendation.more_seeds", &mut advice.more_seeds, few);
    }
    taken.notes("results.json")
}

/// Takes what cannot be out of a run's record, which is called `name`; a note for each, or why nothing of it can be used.
pub(super) fn record(record: &mut RunRecord, name: &str) -> Result<Vec<String>, String> {
    run(&record.summary).map_err(|why| format!("its summary cannot be: {why}"))?;
    let steps = record.summary.steps.max(record.loss.len() as u64);
    let mut taken = Taken::default();
    for (step, loss) in record.loss.iter_mut().enumerate() {
        taken.part(&format!("loss[{step}]"), loss, |loss| within("it", *loss, &LOSS));
    }
    taken.items("evaluations", &mut record.evaluations, |at| evaluation(at, steps));
    taken.items("scale", &mut record.scale, |(step, scale)| {
        at_most("its step", *step, steps).and_then(|()| within("it", *scale, &LOSS_SCALE))
    });
    taken.items("skips", &mut record.skips, |skip| at_most("its step", skip.step, steps));
    taken.items("census_steps", &mut record.census_steps, |step| at_most("it", *step, steps));
    taken.items("census", &mut record.census, layer);
    taken.items("rejected_census", &mut record.rejected_census, layer);
    taken.items("counted_steps", &mut record.counted_steps, |at| {
        at_most("its step", at.step, steps).and_then(|()| counted(&at.counts, MOST_COUNTED))
    });
    Ok(taken.notes(name))
}

/// What was taken out: a place and why.
#[derive(Default)]
struct Taken(Vec<(String, String)>);

impl Taken {
    fn note(&mut self, place: &str, why: &str) {
        self.0.push((place.to_owned(), why.to_owned()));
    }

    /// Takes a part out where it cannot be.
    fn part<T>(&mut self, place: &str, part: &mut Option<T>, check: impl Fn(&T) -> Checked) {
        if let Some(Err(why)) = part.as_ref().map(check) {
            *part = None;
            self.note(place, &why);
        }
    }

    /// Takes the items of a list out that cannot be.
    fn items<T>(&mut self, place: &str, items: &mut Vec<T>, check: impl Fn(&T) -> Checked) {
        let mut index = 0;
        items.retain(|item| {
            let checked = check(item);
            if let Err(why) = &checked {
                self.note(&format!("{place}[{index}]"), why);
            }
            index += 1;
            checked.is_ok()
        });
    }

    fn environment(&mut self, environment: &mut Environment) {
        let memory = |bytes: &Bytes| number("it", bytes.0, &MACHINE);
        self.part("environment.memory_total", &mut environment.memory_total, memory);
        for (name, number) in
            [("threads", &mut environment.threads), ("logical_cpus", &mut environment.logical_cpus)]
        {
            if let Err(why) = at_most("it", *number, MOST_PROCESSORS) {
                *number = 0;
                self.note(&format!("environment.{name}"), &why);
            }
        }
        if let Some(gpu) = &mut environment.gpu {
            self.part("environment.gpu.memory_total", &mut gpu.memory_total, memory);
            let watts = |watts: &f64| within("it", *watts, &WATTS);
            self.part("environment.gpu.power_limit_watts", &mut gpu.power_limit_watts, watts);
        }
    }

    fn variant(&mut self, place: &str, variant: &mut VariantResult, machine: u64) {
        self.items(&format!("{place}.runs"), &mut variant.runs, run);
        if let Some(train) = &mut variant.train {
            self.train_parts(&format!("{place}.train"), train);
        }
        self.part(&format!("{place}.train"), &mut variant.train, train);
        if let Some(inference) = &mut variant.inference {
            let (place, part) =
                (format!("{place}.inference.batch_seconds"), &mut inference.batch_seconds);
            self.part(&place, part, |time| {
                estimate("it", plain(*time, |seconds| seconds.0), &SECONDS)
            });
        }
        let fits = |inference: &Inference| inference_fits(inference, machine);
        self.part(&format!("{place}.inference"), &mut variant.inference, fits);
        let fits = |memory: &Memory| memory_fits(memory, machine);
        self.part(&format!("{place}.memory"), &mut variant.memory, fits);
        let skipped = variant.runs.iter().map(|run| run.skipped_steps).sum();
        self.numerics(&format!("{place}.numerics"), &mut variant.numerics, skipped);
        if let Some(against) = &mut variant.against_baseline {
            self.against(&format!("{place}.against_baseline"), against);
        }
    }

    fn train_parts(&mut self, place: &str, train: &mut TrainTime) {
        self.part(&format!("{place}.phases"), &mut train.phases, phases);
        self.part(&format!("{place}.work"), &mut train.work, work);
        if let Some(gpu) = &mut train.gpu {
            let joules = |joules: &f64| within("it", *joules, &JOULES);
            self.part(&format!("{place}.gpu.step_joules"), &mut gpu.step_joules, joules);
            let watts = |watts: &f64| within("it", *watts, &WATTS);
            self.part(&format!("{place}.gpu.power_watts"), &mut gpu.power_watts, watts);
        }
    }

    /// Counts are not optional: no values looked at is how one says that nothing was counted.
    fn numerics(&mut self, place: &str, numerics: &mut Numerics, skipped: u64) {
        let census = [
            ("weights", &mut numerics.weights),
            ("activations", &mut numerics.activations),
            ("activation_gradients", &mut numerics.activation_gradients),
            ("weight_gradients", &mut numerics.weight_gradients),
        ];
        let mut wrong = false;
        for (role, counts) in &census {
            if let Err(why) = counted(counts, MOST_COUNTED) {
                self.note(&format!("{place}.{role}"), &why);
                wrong = true;
            }
        }
        if wrong {
            // The tables tell the sum of the roles: without one of them it would be another number.
            for (_, counts) in census {
                *counts = Counts::default();
            }
        }
        if let Err(why) = evidence(&numerics.evidence, skipped) {
            numerics.evidence = Evidence::default();
            self.note(&format!("{place}.evidence"), &why);
        }
        if let Err(why) = updates(numerics) {
            numerics.updates = crate::record::UpdateCounts::default();
            self.note(&format!("{place}.updates"), &why);
        }
        if let Err(why) = gradients(&numerics.gradients) {
            numerics.gradients = GradientCounts::default();
            self.note(&format!("{place}.gradients"), &why);
        }
        if numerics.skipped_steps > MOST_COUNTED {
            let why = at_most("it", numerics.skipped_steps, MOST_COUNTED);
            numerics.skipped_steps = skipped;
            let why = why.err().unwrap_or_default();
            self.note(&format!("{place}.skipped_steps"), &format!("{why}; the runs' sum is shown"));
        }
    }

    fn against(&mut self, place: &str, against: &mut AgainstBaseline) {
        let place = |name: &str| format!("{place}.{name}");
        for (name, ratio) in [
            ("train_time_ratio", &mut against.train_time_ratio),
            ("inference_time_ratio", &mut against.inference_time_ratio),
        ] {
            self.part(&place(name), ratio, |ratio| {
                estimate("it", plain(*ratio, |ratio| ratio.0), &RATIO)
            });
        }
        for (name, ratio) in [
            ("train_memory_ratio", &mut against.train_memory_ratio),
            ("inference_memory_ratio", &mut against.inference_memory_ratio),
        ] {
            self.part(&place(name), ratio, |ratio| within("it", ratio.0, &RATIO));
        }
        self.part(&place("accuracy_difference"), &mut against.accuracy_difference, difference);
    }

    fn notes(self, file: &str) -> Vec<String> {
        let note = |(place, why): &(String, String)| {
            format!("{file}: {place} is not shown, for it is not plausible: {why}.")
        };
        let mut notes: Vec<String> = self.0.iter().take(MOST_NOTES).map(note).collect();
        if self.0.len() > MOST_NOTES {
            let more = text::count((self.0.len() - MOST_NOTES) as u64);
            notes.push(format!("{file}: {more} more numbers are not plausible and not shown."));
        }
        notes
    }
}

/// NaN is within nothing.
fn within(name: &str, value: f64, range: &RangeInclusive<f64>) -> Checked {
    if range.contains(&value) {
        return Ok(());
    }
    let [value, least, most] = [value, *range.start(), *range.end()].map(text::decimal);
    Err(format!("{name} is {value}, where {least} to {most} can be"))
}

fn number<T: PartialOrd + Display + Copy>(
    name: &str,
    value: T,
    range: &RangeInclusive<T>,
) -> Checked {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("{name} is {value}, where {} to {} can be", range.start(), range.end()))
}

fn at_most<T: PartialOrd + Display + Copy>(name: &str, value: T, most: T) -> Checked {
    if value <= most {
        Ok(())
    } else {
        Err(format!("{name} is {value}, where at most {most} can be"))
    }
}

fn estimate(name: &str, estimate: Estimate<f64>, range: &RangeInclusive<f64>) -> Checked {
    let Estimate { value, low, high } = estimate;
    for end in [value, low, high] {
        within(name, end, range)?;
    }
    interval(name, low, high)
}

fn interval(name: &str, low: f64, high: f64) -> Checked {
    if low <= high {
        return Ok(());
    }
    let (low, high) = (text::decimal(low), text::decimal(high));
    Err(format!("the interval of {name} begins at {low} and ends at {high}"))
}

/// Live bytes that a machine can have.
fn most_bytes(environment: &Environment) -> u64 {
    let gpu = environment.gpu.as_ref().and_then(|gpu| gpu.memory_total);
    let largest = environment.memory_total.into_iter().chain(gpu).map(|bytes| bytes.0).max();
    largest.map_or(*MACHINE.end(), |bytes| bytes.saturating_mul(OVERCOMMITTED))
}

fn run(run: &RunSummary) -> Checked {
    at_most("steps", run.steps, limits::STEPS)?;
    at_most("skipped_steps", run.skipped_steps, run.steps)?;
    run.test_accuracy.map_or(Ok(()), |accuracy| within("test_accuracy", accuracy, &SHARE))?;
    run.final_loss.map_or(Ok(()), |loss| within("final_loss", loss, &LOSS))?;
    let step = run.failure.as_ref().map_or(0, |failure| failure.step);
    at_most("failure.step", step, limits::STEPS)
}

fn train(train: &TrainTime) -> Checked {
    estimate("step_seconds", plain(train.step_seconds, |seconds| seconds.0), &SECONDS)?;
    estimate("samples_per_second", train.samples_per_second, &SAMPLES_PER_SECOND)?;
    train.blocks.iter().try_for_each(|block| within("a block", block.0, &SECONDS))
}

fn phases(phases: &Phases) -> Checked {
    let Phases { data, forward, backward, unscale, update } = phases;
    for (name, time) in [
        ("data", data),
        ("forward", forward),
        ("backward", backward),
        ("unscale", unscale),
        ("update", update),
    ] {
        within(name, time.0, &PART_OF_SECONDS)?;
    }
    Ok(())
}

fn work(work: &Work) -> Checked {
    at_most("operations", work.operations, MOST_COUNTED)?;
    estimate("rate", plain(work.rate, |rate| rate.0), &RATE)?;
    within("peak", work.peak.0, &RATE)?;
    within("share_of_peak", work.share_of_peak.value, &SHARE_OF_PEAK)
}

fn inference_fits(inference: &Inference, machine: u64) -> Checked {
    at_most("batch", inference.batch as u64, MOST_SAMPLES)?;
    at_most("peak_bytes", inference.peak_bytes.0, machine)?;
    at_most("weights", inference.weights.0, inference.peak_bytes.0)?;
    inference.blocks.iter().try_for_each(|block| within("a block", block.0, &SECONDS))
}

fn memory_fits(memory: &Memory, machine: u64) -> Checked {
    at_most("peak_bytes", memory.peak_bytes.0, machine)?;
    for (name, part) in [
        ("weights", memory.weights),
        ("master_weights", memory.master_weights),
        ("gradients", memory.gradients),
        ("optimizer", memory.optimizer),
        ("activations", memory.activations),
    ] {
        at_most(name, part.0, memory.peak_bytes.0)?;
    }
    let work_space = memory.work_space.map_or(0, |space| space.0);
    at_most("work_space", work_space, memory.activations.0)
}

fn evidence(evidence: &Evidence, skipped: u64) -> Checked {
    let Evidence { census_steps, rejected_steps, settling_steps, settling, settled } = evidence;
    at_most("census_steps", *census_steps, MOST_COUNTED)?;
    at_most("rejected_steps", *rejected_steps, skipped)?;
    at_most("settling_steps", *settling_steps, skipped)?;
    counted(settling, MOST_COUNTED)?;
    counted(settled, MOST_COUNTED)
}

fn counted(counts: &Counts, most: u64) -> Checked {
    let Counts { elements, overflow, underflow, subnormal, nan } = *counts;
    at_most("elements", elements, most)?;
    for (name, part) in
        [("overflow", overflow), ("underflow", underflow), ("subnormal", subnormal), ("nan", nan)]
    {
        at_most(name, part, elements)?;
    }
    Ok(())
}

fn updates(numerics: &Numerics) -> Checked {
    at_most("elements", numerics.updates.elements, MOST_COUNTED)?;
    at_most("lost", numerics.updates.lost, numerics.updates.elements)
}

fn gradients(gradients: &GradientCounts) -> Checked {
    let GradientCounts { elements, zero, subnormal, infinite, nan } = *gradients;
    at_most("elements", elements, MOST_COUNTED)?;
    for (name, part) in
        [("zero", zero), ("subnormal", subnormal), ("infinite", infinite), ("nan", nan)]
    {
        at_most(name, part, elements)?;
    }
    Ok(())
}

fn difference(difference: &AccuracyDifference) -> Checked {
    within("value", difference.value, &(-1.0..=1.0))?;
    let ends = [difference.low, difference.high];
    ends.into_iter().flatten().try_for_each(|end| within("its interval", end, &DIFFERENCE))?;
    if let (Some(low), Some(high)) = (difference.low, difference.high) {
        interval("value", low, high)?;
    }
    for (name, share) in [
        ("p", difference.p),
        ("p_holm", difference.p_holm),
        ("probability_better", difference.probability_better),
    ] {
        share.map_or(Ok(()), |share| within(name, share, &SHARE))?;
    }
    at_most("pairs", difference.pairs as u64, limits::SEEDS)
}

fn measure(measure: &ClaimMeasure) -> Checked {
    within("value", measure.value, &MEASURE)?;
    let ends = [measure.low, measure.high];
    ends.into_iter().flatten().try_for_each(|end| within("its interval", end, &MEASURE))
}

fn evaluation(at: &Evaluation, steps: u64) -> Checked {
    at_most("step", at.step, steps)?;
    within("accuracy", at.accuracy, &SHARE)?;
    at.loss.map_or(Ok(()), |loss| within("loss", loss, &LOSS))
}

fn layer(census: &LayerCensus) -> Checked {
    counted(&census.counts, MOST_OF_LAYER)?;
    let ExponentHistogram { zeros, non_finite, first, bins } = &census.exponents;
    number("first", i64::from(*first), &EXPONENTS)?;
    at_most("the last exponent", i64::from(*first) + bins.len() as i64, *EXPONENTS.end())?;
    let all =
        bins.iter().chain([zeros, non_finite]).fold(0, |sum: u64, bin| sum.saturating_add(*bin));
    at_most("the sum of the exponents", all, MOST_OF_LAYER)
}

#[cfg(test)]
mod tests;
