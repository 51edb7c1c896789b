//! Event files that TensorBoard reads: what a run record becomes there. Computes bytes and names, writes nothing.
//!
//! A record does not tell when a step was done, so every event carries the time at which the experiment started:
//! TensorBoard's horizontal axis "step" is right, its "relative" and "wall" say nothing.
//!
//! Steps are the record's: a loss, a scale or a skip is at its step, from 0; an evaluation at the steps done before it.
//! Values are in f32, as TensorBoard's scalars are; a loss that was not finite is NaN.

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::iter;

use jiff::Timestamp;

use crate::record::files::event_file_name;
use crate::record::{Evaluation, ExponentHistogram, LayerCensus, RunRecord};

use super::text;
use file::{Datum, Event, HistogramProto, PluginData, Summary, SummaryMetadata, Value, What};

/// What an event file declares to be, in its first event.
const VERSION: &str = "brain.Event:2";

/// TensorBoard's plugin for histograms.
const HISTOGRAMS: &str = "histograms";

/// `DATA_CLASS_TENSOR`, that of histograms: TensorBoard's fast loader drops the description where none is set.
const TENSOR: i32 = 2;

/// The name of a run's event file.
pub(super) fn file_name(started: &str) -> String {
    event_file_name(seconds(started))
}

/// The event file of a run of the experiment that started at `started`, UTC.
pub(super) fn event_file(record: &RunRecord, started: &str) -> Vec<u8> {
    file::encode(&events(record, started))
}

/// The events in the order of their steps, the version before them.
fn events(record: &RunRecord, started: &str) -> Vec<Event> {
    let wall_time = seconds(started) as f64;
    let mut summaries: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for (step, value) in scalars(record).into_iter().chain(histograms(record)) {
        summaries.entry(step).or_default().push(value);
    }
    let event = |step: u64, what| Event { wall_time, step: step as i64, what: Some(what) };
    let version = event(0, What::FileVersion(VERSION.to_owned()));
    let summaries =
        summaries.into_iter().map(|(step, value)| event(step, What::Summary(Summary { value })));
    iter::once(version).chain(summaries).collect()
}

/// A value and its step.
type Point = (u64, f64);

fn scalars(record: &RunRecord) -> Vec<(u64, Value)> {
    let steps = record.loss.len() as u64;
    // A record has none where a loss was not finite.
    let train = (0..).zip(&record.loss).map(|(step, loss)| (step, loss.unwrap_or(f64::NAN)));
    let evaluated = |of: fn(&Evaluation) -> f64| {
        record.evaluations.iter().map(move |at| (at.step, of(at))).collect()
    };
    let counted = (1u32..).zip(&record.skips).map(|(count, skip)| (skip.step, f64::from(count)));
    let skipped: Vec<Point> = iter::once((0, 0.0)).chain(counted).collect();
    // Of a regression the metric is the test loss.
    let accuracies = record.evaluations.iter();
    let accuracies = accuracies.filter_map(|at| Some((at.step, at.accuracy?))).collect();
    let curves: [(&str, Vec<Point>); 5] = [
        ("loss/train", train.collect()),
        ("loss/test", evaluated(|at| at.loss.unwrap_or(f64::NAN))),
        ("accuracy/test", accuracies),
        ("loss_scale", step_line(&record.scale, steps)),
        ("skipped_steps", step_line(&skipped, steps)),
    ];
    let curves =
        curves.into_iter().flat_map(|(tag, points)| points.into_iter().zip(iter::repeat(tag)));
    curves.map(|((step, value), tag)| (step, scalar(tag, value))).collect()
}

/// A value as its nearest f32. NaN and infinities are written too: TensorBoard marks them, where a gap would look like a step
/// that nobody recorded.
fn scalar(tag: &str, value: f64) -> Value {
    Value { tag: tag.to_owned(), metadata: None, datum: Some(Datum::Scalar(value as f32)) }
}

/// Levels, each from the first step that it holds for, as the points of a line with steps: TensorBoard joins points by
/// straight lines, so a level is there at the first and at the last step that it holds for.
fn step_line(levels: &[Point], steps: u64) -> Vec<Point> {
    let ends = levels.iter().skip(1).map(|next| next.0).chain(iter::once(steps));
    let holds = levels.iter().zip(ends).filter(|(level, end)| level.0 < *end);
    holds
        .flat_map(|(&(first, value), end)| {
            let last = (end - 1 > first).then_some((end - 1, value));
            iter::once((first, value)).chain(last)
        })
        .collect()
}

/// The census is a sum over its steps: it is put at the last of them.
fn histograms(record: &RunRecord) -> Vec<(u64, Value)> {
    let Some(&last) = record.census_steps.last() else {
        return Vec::new();
    };
    record.census.iter().filter_map(|census| Some((last, histogram(census)?))).collect()
}

/// None where every value is zero or not finite.
fn histogram(census: &LayerCensus) -> Option<Value> {
    let proto = binades(&census.exponents)?;
    let plugin_data = PluginData { plugin_name: HISTOGRAMS.to_owned() };
    Some(Value {
        tag: format!(
            "exponents/{}/{}",
            text::role(census.role).replace(' ', "_"),
            text::printable(&census.layer)
        ),
        metadata: Some(SummaryMetadata {
            plugin_data: Some(plugin_data),
            summary_description: description(&census.exponents),
            data_class: TENSOR,
        }),
        datum: Some(Datum::Histogram(proto)),
    })
}

fn description(exponents: &ExponentHistogram) -> String {
    format!(
        "log2 |value| by binade, before rounding, summed over the census steps. Left out: {} zeros and {} infinities or \
         NaNs.",
        text::count(exponents.zeros),
        text::count(exponents.non_finite)
    )
}

/// log2 |v| in buckets one binade wide, from the first that is filled to the last. Sums take each value in the middle of
/// its binade.
fn binades(exponents: &ExponentHistogram) -> Option<HistogramProto> {
    let edges = (i64::from(exponents.first)..).map(|edge| edge as f64);
    let counts = exponents.bins.iter().map(|&count| count as f64);
    let mut binades: Vec<(f64, f64)> = edges.zip(counts).skip_while(|bin| bin.1 == 0.0).collect();
    binades.truncate(binades.iter().rposition(|bin| bin.1 > 0.0)? + 1);
    let sum = |of: fn(f64) -> f64| binades.iter().map(|&(edge, n)| n * of(edge + 0.5)).sum();
    Some(HistogramProto {
        min: binades.first()?.0,
        max: binades.last()?.0 + 1.0,
        num: sum(|_| 1.0),
        sum: sum(|middle| middle),
        sum_squares: sum(|middle| middle * middle),
        bucket_limit: binades.iter().map(|bin| bin.0 + 1.0).collect(),
        bucket: binades.iter().map(|bin| bin.1).collect(),
    })
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SSZ`; 0 where it is no time, or one before.
fn seconds(started: &str) -> u64 {
    let seconds = started.parse().map_or(0, Timestamp::as_second);
    u64::try_from(seconds).unwrap_or(0)
}
