//! Training loss by step: the mean over the seeds, their span as a band, and the ends that were not finite.

use crate::record::{RunRecord, Status};
use crate::report::load::Loaded;
use crate::report::table::Table;
use crate::report::text;

use super::{Arrange, Axis, Figure, Key, Look, Mark, Panel, Swatch, label, variant_keys};

/// At most so many points a line.
const POINTS: usize = 160;

/// Losses that span more than this factor are shown on a logarithmic axis.
const LINEAR_SPAN: f64 = 30.0;

/// One variant's curve.
struct Curve {
    name: String,
    look: Look,
    /// (step, mean, least, most) of each window that any seed reached.
    points: Vec<(f64, f64, f64, f64)>,
    /// (step, loss) of the last finite window of each run whose loss did not stay finite.
    ends: Vec<(f64, f64)>,
}

/// The figure.
pub(super) fn figure(loaded: &Loaded, table: &Table) -> Figure {
    let steps = loaded.records.iter().map(|r| r.loss.len()).max().unwrap_or(0);
    let window = steps.div_ceil(POINTS).max(1);
    let curves: Vec<Curve> = table
        .rows
        .iter()
        .enumerate()
        .map(|(index, row)| Curve {
            name: row.name.clone(),
            look: Look::of(index),
            points: band(loaded.records_of(&row.name), window),
            ends: ends(loaded.records_of(&row.name), window),
        })
        .collect();
    let with_data = |name: &str| curves.iter().any(|c| c.name == name && !c.points.is_empty());
    let mut legend = variant_keys(table, Swatch::Line, with_data);
    if curves.iter().any(|curve| !curve.ends.is_empty()) {
        legend.push(Key { label: "loss stopped being finite".to_owned(), swatch: Swatch::Cross });
    }
    Figure {
        file: "loss",
        title: "Training loss by step".to_owned(),
        subtitle: "Line: mean over the seeds. Band: from the lowest to the highest seed."
            .to_owned(),
        alt: alt(&curves),
        height: 540,
        arrange: Arrange::Stacked,
        legend,
        panels: vec![panel(&curves, steps)],
        notes: notes(loaded, &curves, window),
    }
}

fn notes(loaded: &Loaded, curves: &[Curve], window: usize) -> Vec<String> {
    let mut notes = Vec::new();
    if window > 1 {
        notes.push(format!("Each point is the mean of {window} steps."));
    }
    if loaded.results.plan.seeds.len() == 1 {
        notes.push("One seed: there is no band.".to_owned());
    }
    for curve in curves {
        let listed = loaded.results.variants.iter().find(|v| v.name == curve.name);
        let listed = listed.map_or(0, |variant| variant.runs.len());
        let read = loaded.records_of(&curve.name).count();
        if read < listed {
            notes.push(format!(
                "{}: the records of {} of {} are missing or broken.",
                label(&curve.name),
                listed - read,
                text::plural(listed, "run"),
            ));
        }
    }
    notes
}

/// The mean of each window of steps; none where no loss in it was finite.
fn windows(record: &RunRecord, window: usize) -> Vec<Option<f64>> {
    let mean = |losses: &[Option<f64>]| {
        let finite: Vec<f64> = losses.iter().flatten().copied().collect();
        (!finite.is_empty()).then(|| finite.iter().sum::<f64>() / finite.len() as f64)
    };
    record.loss.chunks(window).map(mean).collect()
}

/// The step in the middle of a window.
fn middle(index: usize, window: usize) -> f64 {
    index as f64 * window as f64 + (window - 1) as f64 / 2.0
}

fn band<'a>(
    records: impl Iterator<Item = &'a RunRecord>,
    window: usize,
) -> Vec<(f64, f64, f64, f64)> {
    let runs: Vec<Vec<Option<f64>>> = records.map(|record| windows(record, window)).collect();
    let longest = runs.iter().map(Vec::len).max().unwrap_or(0);
    let point = |index: usize| {
        let values: Vec<f64> =
            runs.iter().filter_map(|run| run.get(index).copied().flatten()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (!values.is_empty()).then_some((middle(index, window), mean, least, most))
    };
    (0..longest).filter_map(point).collect()
}

fn ends<'a>(records: impl Iterator<Item = &'a RunRecord>, window: usize) -> Vec<(f64, f64)> {
    let end = |record: &RunRecord| {
        let stopped = record.summary.status == Status::Diverged;
        let lost = record.loss.last().is_some_and(Option::is_none);
        let windows = windows(record, window);
        let last = windows.iter().rposition(Option::is_some)?;
        (stopped || lost).then_some((middle(last, window), windows[last]?))
    };
    records.filter_map(end).collect()
}

fn panel(curves: &[Curve], steps: usize) -> Panel {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let low = points().map(|p| p.2).fold(f64::INFINITY, f64::min);
    let high = points().map(|p| p.3).fold(f64::NEG_INFINITY, f64::max);
    let logarithmic = low > 0.0 && high / low > LINEAR_SPAN;
    let place = |loss: f64| if logarithmic { loss.log10() } else { loss };
    let empty = !(low.is_finite() && high.is_finite());
    let y = match (empty, logarithmic) {
        (true, _) => Axis::linear("", (0.0, 1.0), |_, _| String::new()),
        (_, true) => {
            let range = (place(low) - 0.05, place(high) + 0.05);
            Axis::decades("", range, power_of_ten)
        }
        _ => {
            let pad = ((high - low) * 0.05).max(high.abs() * 0.01).max(1e-6);
            let bottom = if low >= 0.0 { (low - pad).max(0.0) } else { low - pad };
            Axis::linear("", (bottom, high + pad), |value, decimals| format!("{value:.decimals$}"))
        }
    };
    Panel {
        title: format!("training loss{}", if logarithmic { " (log scale)" } else { "" }),
        x: Axis::steps(steps),
        y,
        marks: marks(curves, place),
        gutter: Vec::new(),
        empty: empty.then(|| "No run left a finite training loss.".to_owned()),
        weight: 1.0,
    }
}

fn marks(curves: &[Curve], place: impl Fn(f64) -> f64) -> Vec<Mark> {
    let (mut bands, mut lines) = (Vec::new(), Vec::new());
    for (index, curve) in curves.iter().enumerate() {
        let edges = curve.points.iter();
        bands.push(Mark::Band {
            edges: edges.map(|p| (p.0, place(p.2), place(p.3))).collect(),
            colour: curve.look.colour,
        });
        let points: Vec<_> = curve.points.iter().map(|p| (p.0, place(p.1))).collect();
        // Markers apart from each other, and apart from the other curves' markers.
        let every = (points.len() / 8).max(1);
        let first = index * every / curves.len().max(1);
        let markers = points.iter().skip(first).step_by(every);
        let markers: Vec<Mark> = markers.map(|&at| Mark::Point { at, look: curve.look }).collect();
        lines.push(Mark::Line { points, look: curve.look });
        lines.extend(markers);
    }
    let crosses = curves.iter().flat_map(|curve| {
        let colour = curve.look.colour;
        curve.ends.iter().map(move |end| (*end, colour))
    });
    let crosses =
        crosses.map(|((step, loss), colour)| Mark::Cross { at: (step, place(loss)), colour });
    bands.into_iter().chain(lines).chain(crosses).collect()
}

fn power_of_ten(exponent: i32) -> String {
    match exponent {
        0..=4 => 10_u32.pow(exponent.unsigned_abs()).to_string(),
        -4..=-1 => format!("{:.*}", exponent.unsigned_abs() as usize, 10.0_f64.powi(exponent)),
        _ => format!("1e{exponent}"),
    }
}

fn alt(curves: &[Curve]) -> String {
    let of = |curve: &Curve| {
        let name = text::printable(&curve.name);
        let (Some(first), Some(last)) = (curve.points.first(), curve.points.last()) else {
            return format!("{name}: no data");
        };
        let (first, last) = (text::decimal(first.1), text::decimal(last.1));
        let ends = match curve.ends.len() {
            0 => String::new(),
            number => format!(", {} not finite at the end", text::plural(number, "run")),
        };
        format!("{name}: from {first} to {last}{ends}")
    };
    let curves: Vec<String> = curves.iter().map(of).collect();
    format!("Training loss by step, mean over the seeds. {}.", curves.join("; "))
}
