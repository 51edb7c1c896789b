//! Training loss: by step and by wall time, smoothed, the mean over the seeds and their span as a band, the unsmoothed mean
//! behind, and the ends that were not finite; and its difference to the baseline's, paired by seed.

use crate::record::{RunRecord, Status};
use crate::report::table::{Row, Table};
use crate::report::text;
use crate::stats;

use super::cost::time_unit;
use super::{
    Arrange, Axis, Choices, Figure, Key, Layer, Look, Marks, Panel, Spot, Stroke, Swatch, label,
    look, variant_keys,
};

/// At most so many points a line; twice as many behind it.
const POINTS: usize = 160;

/// A point of a smoothed line is the mean of so many windows, itself in the middle.
const SMOOTHING: usize = 5;

/// Losses that span more than this factor are shown on a logarithmic axis.
const LINEAR_SPAN: f64 = 30.0;

/// One variant's curve.
#[derive(Clone)]
struct Curve {
    /// The variant's place in the table.
    series: usize,
    look: Look,
    name: String,
    /// The windows that any seed reached, cut where a seed ends.
    pieces: Vec<Vec<Window>>,
    /// The mean over the seeds at each step, thinned to the extremes of each window, cut where a seed ends.
    raw: Vec<Vec<(f64, f64)>>,
    /// (step, loss) of the last finite loss of each run that did not stay finite.
    ends: Vec<(f64, f64)>,
}

/// The losses of some steps, over the seeds.
#[derive(Clone, Copy)]
struct Window {
    /// The step in its middle, or the time at it.
    at: f64,
    mean: f64,
    least: f64,
    most: f64,
    seeds: usize,
}

impl Curve {
    /// The loss of the variant at `series` in the table, of windows of so many steps.
    fn of(table: &Table<'_>, series: usize, window: usize) -> Self {
        let row = &table.rows[series];
        let runs: Vec<_> = row.records.iter().map(|run| smoothed(&windows(run, window))).collect();
        Self {
            series,
            look: look(table, series),
            name: row.label(),
            pieces: pieces(&runs, window),
            raw: raw(&row.records, window),
            ends: row.records.iter().filter_map(|record| end(record)).collect(),
        }
    }

    /// The loss minus the baseline's of the same experiment and seed; none of the baseline, and without a common seed.
    fn difference(table: &Table<'_>, series: usize, window: usize) -> Option<Self> {
        let row = &table.rows[series];
        let mut others = table.rows.iter().filter(|other| other.experiment == row.experiment);
        let baseline = others.find(|other| other.is_baseline).filter(|_| !row.is_baseline)?;
        let of_seed = |run: &RunRecord| {
            let mut runs = baseline.records.iter();
            runs.find(|other| other.summary.seed == run.summary.seed)
        };
        let minus = |run: &&RunRecord| {
            let other = windows(of_seed(run)?, window);
            let both = windows(run, window).into_iter().zip(other);
            let differences: Vec<_> = both.map(|(a, b)| Some(a? - b?)).collect();
            Some(smoothed(&differences))
        };
        let runs: Vec<_> = row.records.iter().filter_map(minus).collect();
        let pieces = pieces(&runs, window);
        let (look, name) = (look(table, series), row.label());
        let (raw, ends) = (Vec::new(), Vec::new());
        (!pieces.is_empty()).then_some(Self { series, look, name, pieces, raw, ends })
    }

    /// The same curve where a step takes so much of the horizontal axis.
    fn stretched(mut self, each: f64) -> Self {
        self.pieces.iter_mut().flatten().for_each(|window| window.at *= each);
        self.raw.iter_mut().flatten().for_each(|at| at.0 *= each);
        self.ends.iter_mut().for_each(|at| at.0 *= each);
        self
    }

    fn windows(&self) -> impl Iterator<Item = &Window> {
        self.pieces.iter().flatten()
    }
}

/// Steps in a window.
pub(super) fn window(steps: usize) -> usize {
    steps.div_ceil(POINTS).max(1)
}

/// The figure.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let window = window(table.steps());
    let series = 0..table.rows.len();
    let curves: Vec<Curve> =
        series.clone().map(|series| Curve::of(table, series, window)).collect();
    let differences: Vec<Curve> =
        series.filter_map(|series| Curve::difference(table, series, window)).collect();
    let mut legend =
        variant_keys(table, Swatch::Line, |row| row.records.iter().any(|r| !r.loss.is_empty()));
    if curves.iter().any(|curve| !curve.ends.is_empty()) {
        legend.push(Key::of_mark("loss stopped being finite", Swatch::Cross));
    }
    let by_step = panel(&curves, "training loss", Axis::steps(table.steps()), &at_step);
    let difference = (!differences.is_empty()).then(|| difference_panel(&differences, table));
    let by_time = by_time(table, &curves);
    let panels: Vec<Panel> = [Some(by_step), difference, by_time].into_iter().flatten().collect();
    Figure {
        file: "loss".into(),
        title: "Training loss".to_owned(),
        subtitle: "Line: smoothed mean over the seeds. Band: from the lowest to the highest seed. Faint: not smoothed."
            .to_owned(),
        alt: alt(&curves, &differences),
        room: 100.0 + 230.0 * panels.len() as f64,
        arrange: Arrange::Stacked,
        legend,
        panels,
        notes: notes(table, &curves),
    }
}

/// Where a value is, by step.
fn at_step(at: f64) -> String {
    format!("at step {at:.0}")
}

/// The difference to the baseline, which is smaller than what the curves can show.
fn difference_panel(curves: &[Curve], table: &Table<'_>) -> Panel {
    let means = || curves.iter().flat_map(Curve::windows).map(|window| window.mean);
    let (low, high) = (means().fold(0.0, f64::min), means().fold(0.0, f64::max));
    // Bands as far as they make the plot at most three times as high.
    let room = (high - low).max(1e-6);
    let ends = || curves.iter().flat_map(Curve::windows);
    let low = ends().map(|window| window.least).fold(low, f64::min).max(low - room);
    let high = ends().map(|window| window.most).fold(high, f64::max).min(high + room);
    let air = (high - low) * 0.05;
    let mut layers = vec![Layer::plain(Marks::Separator(0.0))];
    layers.extend(self::layers(curves, &at_step));
    Panel {
        title: "training loss − baseline, paired by seed".to_owned(),
        x: Axis::steps(table.steps()),
        y: Axis::plain("", (low - air, high + air)),
        layers,
        gutter: Vec::new(),
        empty: None,
        weight: 0.8,
    }
}

/// The loss by the time that training takes, of the variants whose step was timed.
fn by_time(table: &Table<'_>, curves: &[Curve]) -> Option<Panel> {
    let seconds =
        |curve: &Curve| Some(table.rows[curve.series].train.as_ref()?.step_seconds.value.0);
    let steps = table.steps() as f64;
    let longest = curves.iter().filter_map(seconds).fold(0.0, f64::max) * steps;
    if longest <= 0.0 {
        return None;
    }
    let (unit, per_second) = time_unit(longest);
    let timed = curves.iter().filter_map(|curve| {
        let each = seconds(curve)? * per_second;
        Some(curve.clone().stretched(each))
    });
    let timed: Vec<Curve> = timed.collect();
    let axis = Axis::plain(format!("time of training ({unit})"), (0.0, longest * per_second));
    let at = |at: f64| format!("after {} {unit}", text::decimal(at));
    Some(panel(&timed, "training loss by wall time", axis, &at))
}

fn notes(table: &Table<'_>, curves: &[Curve]) -> Vec<String> {
    let mut notes = Vec::new();
    let window = window(table.steps());
    notes.push(format!(
        "Smoothed: each point is the mean of the {} steps around it.",
        SMOOTHING * window
    ));
    if window > 1 {
        notes.push(format!(
            "Thinned for drawing: of every {window} steps, the faint line keeps the lowest and the highest."
        ));
    }
    if table.rows.iter().any(|row| row.train.is_some()) {
        notes.push("Wall time: steps × the median time of a step in the timing phase.".to_owned());
    }
    if curves.iter().any(|curve| curve.pieces.len() > 1) {
        notes.push(
            "A line breaks where a run ends early: from there it is the mean of the other seeds."
                .to_owned(),
        );
    }
    if table.rows.iter().all(|row| row.runs.planned == 1) {
        notes.push("One seed: there is no band.".to_owned());
    }
    let missing: Vec<String> = table.rows.iter().filter_map(missing_records).collect();
    if !missing.is_empty() {
        notes.push(format!("Run records missing or broken: {}.", text::list(&missing)));
    }
    notes
}

/// How many records of a variant's runs could not be read, if any.
fn missing_records(row: &Row<'_>) -> Option<String> {
    let (read, listed) = (row.records.len(), row.result.runs.len());
    (read < listed).then(|| format!("{} {} of {listed}", label(row), listed - read))
}

/// The mean of each window of steps; none where no loss in it was finite.
fn windows(record: &RunRecord, window: usize) -> Vec<Option<f64>> {
    let mean = |losses: &[Option<f64>]| {
        let finite: Vec<f64> = losses.iter().flatten().copied().collect();
        stats::mean(&finite)
    };
    record.loss.chunks(window).map(mean).collect()
}

/// Each window's mean with those around it; none where the window itself has none.
fn smoothed(windows: &[Option<f64>]) -> Vec<Option<f64>> {
    let reach = SMOOTHING / 2;
    let around = |index: usize| {
        windows[index]?;
        let near = &windows[index.saturating_sub(reach)..(index + reach + 1).min(windows.len())];
        let near: Vec<f64> = near.iter().flatten().copied().collect();
        stats::mean(&near)
    };
    (0..windows.len()).map(around).collect()
}

/// The step in the middle of a window.
fn middle(index: usize, window: usize) -> f64 {
    index as f64 * window as f64 + (window - 1) as f64 / 2.0
}

/// A mean over other seeds is another curve: a piece ends where the number of seeds changes, and where no loss was finite.
fn pieces(runs: &[Vec<Option<f64>>], window: usize) -> Vec<Vec<Window>> {
    let longest = runs.iter().map(Vec::len).max().unwrap_or(0);
    let point = |index: usize| {
        let values: Vec<f64> =
            runs.iter().filter_map(|run| run.get(index).copied().flatten()).collect();
        Some(Window {
            at: middle(index, window),
            mean: stats::mean(&values)?,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            seeds: values.len(),
        })
    };
    let windows: Vec<Window> = (0..longest).filter_map(point).collect();
    let joined = |a: &Window, b: &Window| a.seeds == b.seeds && b.at - a.at <= window as f64;
    windows.chunk_by(joined).map(<[Window]>::to_vec).collect()
}

/// The mean over the seeds at each step, without what lies between the extremes of a window.
fn raw(records: &[&RunRecord], window: usize) -> Vec<Vec<(f64, f64)>> {
    let longest = records.iter().map(|record| record.loss.len()).max().unwrap_or(0);
    let mean = |step: usize| {
        let losses = records.iter().filter_map(|record| record.loss.get(step).copied().flatten());
        let (sum, seeds) =
            losses.fold((0.0, 0_usize), |(sum, seeds), loss| (sum + loss, seeds + 1));
        (seeds > 0).then(|| (step as f64, sum / seeds as f64, seeds))
    };
    let steps: Vec<(f64, f64, usize)> = (0..longest).filter_map(mean).collect();
    let pieces = steps.chunk_by(|a, b| a.2 == b.2 && b.0 - a.0 == 1.0);
    pieces.map(|piece| piece.chunks(window).flat_map(extremes).collect()).collect()
}

/// The lowest and the highest of some steps, in their order.
fn extremes(steps: &[(f64, f64, usize)]) -> Vec<(f64, f64)> {
    let by_loss = |a: &&(f64, f64, usize), b: &&(f64, f64, usize)| a.1.total_cmp(&b.1);
    let ends = [steps.iter().min_by(by_loss), steps.iter().max_by(by_loss)];
    let mut ends: Vec<(f64, f64)> = ends.into_iter().flatten().map(|s| (s.0, s.1)).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    ends.dedup();
    ends
}

/// The last finite loss of a run that did not stay finite, and its step.
fn end(record: &RunRecord) -> Option<(f64, f64)> {
    let stopped = record.summary.status == Status::Diverged;
    let lost = record.loss.last().is_some_and(Option::is_none);
    let last = record.loss.iter().rposition(Option::is_some)?;
    (stopped || lost).then_some((last as f64, record.loss[last]?))
}

/// The plot of some curves.
fn panel(curves: &[Curve], title: &str, x: Axis, at: &dyn Fn(f64) -> String) -> Panel {
    let losses = || {
        let windows = curves.iter().flat_map(Curve::windows);
        let raw = curves.iter().flat_map(|curve| curve.raw.iter().flatten().map(|at| at.1));
        let ends = curves.iter().flat_map(|curve| curve.ends.iter().map(|at| at.1));
        windows.flat_map(|window| [window.least, window.most]).chain(raw).chain(ends)
    };
    let low = losses().fold(f64::INFINITY, f64::min);
    let high = losses().fold(f64::NEG_INFINITY, f64::max);
    let empty = !(low.is_finite() && high.is_finite());
    let y = match (empty, low > 0.0) {
        (true, _) => Axis::plain("", (0.0, 1.0)),
        (_, true) if high / low > LINEAR_SPAN => Axis::decades("", (low / 1.12, high * 1.12)),
        _ => {
            let pad = ((high - low) * 0.05).max(high.abs() * 0.01).max(1e-6);
            let bottom = if low >= 0.0 { (low - pad).max(0.0) } else { low - pad };
            Axis::plain("", (bottom, high + pad))
        }
    };
    Panel {
        title: title.to_owned(),
        x,
        y: y.with(Choices { log: low > 0.0, zero: true }),
        layers: layers(curves, at),
        gutter: Vec::new(),
        empty: empty.then(|| "No run left a finite training loss.".to_owned()),
        weight: 1.0,
    }
}

fn layers(curves: &[Curve], at: &dyn Fn(f64) -> String) -> Vec<Layer> {
    let (mut raw, mut bands, mut lines, mut rest) = (vec![], vec![], vec![], vec![]);
    for (index, curve) in curves.iter().enumerate() {
        let look = curve.look;
        for points in &curve.raw {
            let points = points.clone();
            raw.push(Layer::of(
                curve.series,
                Marks::Line { points, look: Look { dash: &[], ..look }, stroke: Stroke::Faint },
            ));
        }
        for piece in &curve.pieces {
            let edges = piece.iter().map(|w| (w.at, w.least, w.most)).collect();
            bands.push(Layer::of(curve.series, Marks::Band { edges, colour: look.colour }));
            let points = piece.iter().map(|w| (w.at, w.mean)).collect();
            lines.push(Layer::of(curve.series, Marks::Line { points, look, stroke: Stroke::Main }));
        }
        // Markers apart from each other, and apart from the other curves' markers.
        let every = (curve.windows().count() / 8).max(1);
        let first = index * every / curves.len().max(1);
        let spot = |x: f64, loss: f64, what: &str| Spot {
            at: (x, loss),
            words: format!("{}: {}{what} {}", curve.name, text::decimal(loss), at(x)),
        };
        let marked = curve.windows().skip(first).step_by(every);
        let spots = marked.map(|w| spot(w.at, w.mean, "")).collect();
        rest.push(Layer::of(curve.series, Marks::Points { spots, look }));
        let ends = curve.ends.iter().map(|end| spot(end.0, end.1, ", the last finite loss"));
        let marks = Marks::Crosses { spots: ends.collect(), colour: look.colour };
        rest.push(Layer::of(curve.series, marks));
    }
    raw.into_iter().chain(bands).chain(lines).chain(rest).collect()
}

fn alt(curves: &[Curve], differences: &[Curve]) -> String {
    let of = |curve: &Curve| {
        let name = &curve.name;
        let (Some(first), Some(last)) = (curve.windows().next(), curve.windows().last()) else {
            return format!("{name}: no data");
        };
        let (first, last) = (text::decimal(first.mean), text::decimal(last.mean));
        let ends = match curve.ends.len() {
            0 => String::new(),
            number => format!(", {} not finite at the end", text::plural(number, "run")),
        };
        let difference = differences.iter().find(|other| other.series == curve.series);
        let difference = difference.and_then(|other| other.windows().last());
        let difference = difference
            .map(|last| format!(", {} against the baseline at the end", text::decimal(last.mean)));
        format!("{name}: from {first} to {last}{}{ends}", difference.unwrap_or_default())
    };
    let curves: Vec<String> = curves.iter().map(of).collect();
    format!("Training loss by step, smoothed, mean over the seeds. {}.", curves.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_extremes_of_every_window() {
        let steps: Vec<(f64, f64, usize)> = [3.0, 1.0, 2.0, 9.0, 4.0, 4.0, 4.0]
            .iter()
            .enumerate()
            .map(|(i, l)| (i as f64, *l, 1))
            .collect();
        let thinned: Vec<_> = steps.chunks(4).flat_map(extremes).collect();
        assert_eq!(thinned, [(1.0, 1.0), (3.0, 9.0), (4.0, 4.0), (6.0, 4.0)]);
    }

    #[test]
    fn smoothing_is_a_mean_of_neighbours_and_leaves_gaps() {
        let windows = [Some(1.0), Some(2.0), None, Some(6.0), Some(3.0), None];
        assert_eq!(
            smoothed(&windows),
            [Some(1.5), Some(3.0), None, Some(11.0 / 3.0), Some(4.5), None]
        );
    }

    /// By the definition: the mean over the seeds that both have of variant − baseline.
    #[test]
    fn a_difference_is_paired_by_seed() {
        let mut loaded = crate::report::fixture::loaded();
        for record in &mut loaded.records {
            let seed = record.summary.seed as f64;
            let variant = if record.variant == "fp16-mixed" { 0.25 * (seed + 1.0) } else { 0.0 };
            record.loss = vec![Some(2.0 * seed + variant); 10];
        }
        // The baseline lacks its last seed.
        loaded.records.retain(|run| run.variant != "fp32" || run.summary.seed < 2);
        let loaded = [loaded];
        let table = Table::of(&loaded);
        let curve = Curve::difference(&table, 1, 1).unwrap();
        assert_eq!(curve.windows().count(), 10);
        for window in curve.windows() {
            assert_eq!(
                (window.mean, window.least, window.most, window.seeds),
                (0.375, 0.25, 0.5, 2)
            );
        }
        assert!(Curve::difference(&table, 0, 1).is_none(), "the baseline itself");
    }
}
