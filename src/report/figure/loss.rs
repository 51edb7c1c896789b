//! Training loss by step: the mean over the seeds, their span as a band, and the ends that were not finite.

use crate::record::{RunRecord, Status};
use crate::report::load::Loaded;
use crate::report::table::Table;
use crate::report::text;
use crate::stats;

use super::{Arrange, Axis, Figure, Key, Look, Mark, Panel, Swatch, Tick, label, variant_keys};

/// At most so many points a line.
const POINTS: usize = 160;

/// Losses that span more than this factor are shown on a logarithmic axis.
const LINEAR_SPAN: f64 = 30.0;

/// One variant's curve.
struct Curve {
    name: String,
    look: Look,
    /// The windows that any seed reached, cut where a seed ends.
    pieces: Vec<Vec<Window>>,
    /// (step, loss) of the last finite window of each run whose loss did not stay finite.
    ends: Vec<(f64, f64)>,
}

/// The losses of some steps, over the seeds.
#[derive(Clone, Copy)]
struct Window {
    step: f64,
    mean: f64,
    least: f64,
    most: f64,
    seeds: usize,
}

impl Curve {
    fn windows(&self) -> impl Iterator<Item = &Window> {
        self.pieces.iter().flatten()
    }
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
            pieces: pieces(loaded.records_of(&row.name), window),
            ends: ends(loaded.records_of(&row.name), window),
        })
        .collect();
    let with_data = |name: &str| curves.iter().any(|c| c.name == name && !c.pieces.is_empty());
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
        room: 300.0,
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
    if curves.iter().any(|curve| curve.pieces.len() > 1) {
        notes.push(
            "A line breaks where a run ends early: from there it is the mean of the other seeds."
                .to_owned(),
        );
    }
    if loaded.results.plan.seeds.len() == 1 {
        notes.push("One seed: there is no band.".to_owned());
    }
    let missing: Vec<String> =
        curves.iter().filter_map(|curve| missing_records(loaded, &curve.name)).collect();
    if !missing.is_empty() {
        notes.push(format!("Run records missing or broken: {}.", text::list(&missing)));
    }
    notes
}

/// How many records of a variant's runs could not be read, if any.
fn missing_records(loaded: &Loaded, name: &str) -> Option<String> {
    let listed = loaded.results.variants.iter().find(|variant| variant.name == name)?.runs.len();
    let read = loaded.records_of(name).count();
    (read < listed).then(|| format!("{} {} of {listed}", label(name), listed - read))
}

/// The mean of each window of steps; none where no loss in it was finite.
fn windows(record: &RunRecord, window: usize) -> Vec<Option<f64>> {
    let mean = |losses: &[Option<f64>]| {
        let finite: Vec<f64> = losses.iter().flatten().copied().collect();
        stats::mean(&finite)
    };
    record.loss.chunks(window).map(mean).collect()
}

/// The step in the middle of a window.
fn middle(index: usize, window: usize) -> f64 {
    index as f64 * window as f64 + (window - 1) as f64 / 2.0
}

/// A mean over other seeds is another curve: a piece ends where the number of seeds changes.
fn pieces<'a>(records: impl Iterator<Item = &'a RunRecord>, window: usize) -> Vec<Vec<Window>> {
    let runs: Vec<Vec<Option<f64>>> = records.map(|record| windows(record, window)).collect();
    let longest = runs.iter().map(Vec::len).max().unwrap_or(0);
    let point = |index: usize| {
        let values: Vec<f64> =
            runs.iter().filter_map(|run| run.get(index).copied().flatten()).collect();
        Some(Window {
            step: middle(index, window),
            mean: stats::mean(&values)?,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            seeds: values.len(),
        })
    };
    let windows: Vec<Window> = (0..longest).filter_map(point).collect();
    windows.chunk_by(|a, b| a.seeds == b.seeds).map(<[Window]>::to_vec).collect()
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
    let windows = || curves.iter().flat_map(Curve::windows);
    let low = windows().map(|w| w.least).fold(f64::INFINITY, f64::min);
    let high = windows().map(|w| w.most).fold(f64::NEG_INFINITY, f64::max);
    let logarithmic = low > 0.0 && high / low > LINEAR_SPAN;
    let place = |loss: f64| if logarithmic { loss.log10() } else { loss };
    let empty = !(low.is_finite() && high.is_finite());
    let y = match (empty, logarithmic) {
        (true, _) => Axis::linear("", (0.0, 1.0), |_, _| String::new()),
        (_, true) => {
            let range = (place(low) - 0.05, place(high) + 0.05);
            logarithmic_axis(range)
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
    let (mut bands, mut lines, mut markers) = (Vec::new(), Vec::new(), Vec::new());
    for (index, curve) in curves.iter().enumerate() {
        let look = curve.look;
        for piece in &curve.pieces {
            let edges = piece.iter().map(|w| (w.step, place(w.least), place(w.most)));
            bands.push(Mark::Band { edges: edges.collect(), colour: look.colour });
            let points = piece.iter().map(|w| (w.step, place(w.mean)));
            lines.push(Mark::Line { points: points.collect(), look });
        }
        // Markers apart from each other, and apart from the other curves' markers.
        let every = (curve.windows().count() / 8).max(1);
        let first = index * every / curves.len().max(1);
        let marked = curve.windows().skip(first).step_by(every);
        markers.extend(marked.map(|w| Mark::Point { at: (w.step, place(w.mean)), look }));
    }
    let crosses = curves.iter().flat_map(|curve| {
        let colour = curve.look.colour;
        curve.ends.iter().map(move |end| (*end, colour))
    });
    let crosses =
        crosses.map(|((step, loss), colour)| Mark::Cross { at: (step, place(loss)), colour });
    bands.into_iter().chain(lines).chain(markers).chain(crosses).collect()
}

/// Decades, and 2 and 5 between them where there are few.
fn logarithmic_axis((from, to): (f64, f64)) -> Axis {
    let label = |factor: u32, exponent: i32| {
        let decimals = usize::try_from(-exponent).unwrap_or(0);
        match exponent {
            -4..=4 => format!("{:.decimals$}", f64::from(factor) * 10.0_f64.powi(exponent)),
            _ => format!("{factor}e{exponent}"),
        }
    };
    let mut axis = Axis::decades("", (from, to), |exponent| label(1, exponent));
    if to - from < 2.5 {
        for exponent in from.floor() as i32..=to.ceil() as i32 {
            for factor in [2, 5] {
                let at = f64::from(factor).log10() + f64::from(exponent);
                if (from..=to).contains(&at) {
                    axis.ticks.push(Tick { at, label: label(factor, exponent) });
                }
            }
        }
    }
    axis
}

fn alt(curves: &[Curve]) -> String {
    let of = |curve: &Curve| {
        let name = text::printable(&curve.name);
        let (Some(first), Some(last)) = (curve.windows().next(), curve.windows().last()) else {
            return format!("{name}: no data");
        };
        let (first, last) = (text::decimal(first.mean), text::decimal(last.mean));
        let ends = match curve.ends.len() {
            0 => String::new(),
            number => format!(", {} not finite at the end", text::plural(number, "run")),
        };
        format!("{name}: from {first} to {last}{ends}")
    };
    let curves: Vec<String> = curves.iter().map(of).collect();
    format!("Training loss by step, mean over the seeds. {}.", curves.join("; "))
}
