//! Accuracy against what it costs: the difference of accuracy to the baseline, against the speedup and the memory saved.

use crate::record::{Estimate, TestMetric};
use crate::report::table::{Row, Table};
use crate::report::theme::{MUTED, ZONE};
use crate::stats::LEVEL;

use super::{
    Arrange, At, Axis, Figure, Fill, Hatch, Key, Layer, Look, Marks, Panel, Shape, Span, Spot,
    Stroke, Swatch, alt, look, nothing_in, variant_keys,
};

/// The line through the variants that nothing beats in both.
const FRONT: Look = Look { colour: MUTED, shape: Shape::Circle, dash: &[5.0, 4.0] };

/// The range in which differences do not matter.
const EQUIVALENT: Fill = Fill { colour: ZONE, hatch: Hatch::Plain };

/// An axis of gains is at least so wide on either side of 1: less is the noise of one machine.
const LEAST_GAIN: f64 = 0.1;

/// Baseline ÷ variant, with its interval: above 1 is a gain.
type Gain<'a> = &'a dyn Fn(&Row<'_>) -> Option<Estimate<f64>>;

/// Baseline ÷ variant of the time of a step.
fn speedup(row: &Row<'_>) -> Option<Estimate<f64>> {
    if row.is_baseline {
        return row.train.as_ref().map(|_| exactly(1.0));
    }
    let ratio = row.time_ratio()?;
    Some(Estimate { value: 1.0 / ratio.value.0, low: 1.0 / ratio.high.0, high: 1.0 / ratio.low.0 })
}

/// Baseline ÷ variant of the peak memory of training.
fn memory(row: &Row<'_>) -> Option<Estimate<f64>> {
    if row.is_baseline {
        return row.memory.map(|_| exactly(1.0));
    }
    Some(exactly(1.0 / row.memory_ratio()?.0))
}

fn exactly(value: f64) -> Estimate<f64> {
    Estimate { value, low: value, high: value }
}

/// The improvement of the metric over the baseline, as it is shown; its own is 0.
fn difference(row: &Row<'_>) -> Option<Estimate<f64>> {
    if row.is_baseline {
        return row.spread.map(|_| exactly(0.0));
    }
    let found = row.difference()?;
    let shown = |difference: f64| row.metric.improvement(difference) * row.metric.shown();
    let value = shown(found.value);
    let [low, high] = [found.low, found.high].map(|end| end.map_or(value, shown));
    Some(Estimate { value, low: low.min(high), high: low.max(high) })
}

/// The figure.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let mut legend = variant_keys(table, Swatch::Point, |row| {
        difference(row).is_some() && (speedup(row).is_some() || memory(row).is_some())
    });
    legend.push(Key::of_mark("Pareto front", Swatch::Line(FRONT)));
    legend.push(Key::of_mark("equivalent: within ±δ", Swatch::Fill(EQUIVALENT)));
    let stopped = table.rows.iter().any(|row| !contends(row));
    if stopped {
        legend.push(Key::of_mark("some runs diverged or failed: not on the front", Swatch::Cross));
    }
    let mut notes = vec![format!(
        "Whiskers: {:.0}% intervals; one that reaches an edge goes on beyond it. On the Pareto front no other variant has both \
         the higher gain and the {} {}; that says nothing of whether a difference is significant.",
        LEVEL * 100.0,
        if table.metric().is_higher_better() { "higher" } else { "lower" },
        table.metric().short()
    )];
    if stopped {
        notes.push("A mark on the lower edge lies below it.".to_owned());
    }
    Figure {
        file: "trade-off".into(),
        title: format!("{} vs. cost", table.metric().short_title()),
        subtitle:
            "Each variant against the baseline, which is at 1× and 0. Up and right is better."
                .to_owned(),
        alt: alt(
            &format!("{}, speed and memory against the baseline", table.metric().short_title()),
            table,
            words,
        ),
        room: 400.0,
        arrange: Arrange::Beside,
        legend,
        panels: vec![
            panel(table, "speedup of a training step (×)", &speedup),
            panel(table, "training memory: baseline ÷ variant (×)", &memory),
        ],
        notes,
    }
}

fn words(row: &Row<'_>) -> String {
    let gain = |gain: Option<Estimate<f64>>, what: &str| match gain {
        Some(gain) => format!("{what} {:.2}×", gain.value),
        None => format!("{what} not measured"),
    };
    let difference = match difference(row) {
        Some(found) => shown_difference(row, found.value),
        None => format!("{} not compared", row.metric.short()),
    };
    let (speed, memory) = (gain(speedup(row), "speedup"), gain(memory(row), "memory saved"));
    format!("{difference}, {speed}, {memory}{}", row.runs.remark())
}

/// The difference of the metric that is drawn at this height.
fn shown_difference(row: &Row<'_>, height: f64) -> String {
    row.metric.difference(row.metric.improvement(height / row.metric.shown()))
}

/// Whether all its runs went through: only then can a variant be on a front.
fn contends(row: &Row<'_>) -> bool {
    row.runs.diverged + row.runs.failed == 0
}

/// A variant that has both.
struct Placed<'a> {
    index: usize,
    row: &'a Row<'a>,
    gain: Estimate<f64>,
    difference: Estimate<f64>,
}

/// The ranges of both axes.
#[derive(Clone, Copy)]
struct Ranges {
    x: (f64, f64),
    y: (f64, f64),
}

impl Ranges {
    /// Ranges that hold the baseline, ±δ and every point; intervals only as far as points and they need together, and of the
    /// variants that lost runs only the gain.
    fn of(placed: &[Placed<'_>]) -> Self {
        let margins = placed.iter().map(|place| place.row.margin * place.row.metric.shown());
        let margin = match (margins.fold(0.0, f64::max), placed.first()) {
            (margin, Some(first)) if first.row.metric == TestMetric::Accuracy => margin.max(0.1),
            (margin, _) if margin > 0.0 => margin,
            _ => 0.1,
        };
        let all = || placed.iter();
        let whole = || placed.iter().filter(|place| contends(place.row));
        Self {
            x: range(all().map(|place| place.gain), (1.0 - LEAST_GAIN, 1.0 + LEAST_GAIN)),
            y: range(whole().map(|place| place.difference), (-1.3 * margin, 1.3 * margin)),
        }
    }
}

/// A range that holds `least` and all values; and the intervals, as long as they make it at most twice as wide.
fn range(values: impl Iterator<Item = Estimate<f64>> + Clone, least: (f64, f64)) -> (f64, f64) {
    let points = || values.clone().map(|value| value.value);
    let (low, high) = (points().fold(least.0, f64::min), points().fold(least.1, f64::max));
    let room = (high - low) / 2.0;
    let lowest = values.clone().map(|value| value.low).fold(low, f64::min).max(low - room);
    let highest = values.map(|value| value.high).fold(high, f64::max).min(high + room);
    let air = (highest - lowest) * 0.05;
    (lowest - air, highest + air)
}

impl Placed<'_> {
    /// Its intervals, and its point above all intervals.
    fn layers(&self, look: Look, label: &str, ranges: Ranges) -> [Layer; 3] {
        let (x, y) = (self.gain, self.difference);
        let words = format!(
            "{}: {}, {:.2}× ({label}){}",
            self.row.label(),
            shown_difference(self.row, y.value),
            x.value,
            self.row.runs.remark()
        );
        let whisker = |at, of: Estimate<f64>, upright| {
            let span = Span { at, from: of.low, to: of.high, words: words.clone() };
            let spans = if of.low < of.high { vec![span] } else { Vec::new() };
            Layer::of(self.index, Marks::Whiskers { spans, upright, colour: look.colour })
        };
        let (across, upright) = (whisker(y.value, x, false), whisker(x.value, y, true));
        let at = (x.value, y.value.clamp(ranges.y.0, ranges.y.1));
        let spots = vec![Spot { at, words: words.clone() }];
        let point = if contends(self.row) {
            Marks::Points { spots, look }
        } else {
            Marks::Crosses { spots, colour: look.colour }
        };
        [across, upright, Layer::of(self.index, point)]
    }
}

fn panel(table: &Table<'_>, label: &str, gain: Gain<'_>) -> Panel {
    let place =
        |(index, row)| Some(Placed { index, row, gain: gain(row)?, difference: difference(row)? });
    let placed: Vec<Placed<'_>> = table.rows.iter().enumerate().filter_map(place).collect();
    let ranges = Ranges::of(&placed);
    let margins = || placed.iter().map(|place| place.row.margin * place.row.metric.shown());
    let margin = margins().next().filter(|first| margins().all(|margin| margin == *first));
    let mut layers: Vec<Layer> =
        margin.map(|margin| Layer::plain(Marks::Strip((-margin, margin)))).into_iter().collect();
    layers.push(Layer::plain(Marks::Divider(1.0)));
    layers.push(Layer::plain(Marks::Separator(0.0)));
    // What one machine does says nothing of another: each experiment has a front of its own.
    for experiment in placed.chunk_by(|a, b| a.row.experiment == b.row.experiment) {
        let contending = experiment.iter().filter(|place| contends(place.row));
        let points: Vec<At> = contending.map(|p| (p.gain.value, p.difference.value)).collect();
        let (points, look) = (staircase(front(&points)), FRONT);
        layers.push(Layer::plain(Marks::Line { points, look, stroke: Stroke::Main }));
    }
    let of_variant = |place: &Placed<'_>| place.layers(look(table, place.index), label, ranges);
    let drawn: Vec<[Layer; 3]> = placed.iter().map(of_variant).collect();
    let (mut whiskers, mut points) = (Vec::new(), Vec::new());
    for [across, upright, point] in drawn {
        whiskers.extend([across, upright]);
        points.push(point);
    }
    layers.extend(whiskers.into_iter().chain(points));
    let empty =
        nothing_in(table).or_else(|| placed.is_empty().then(|| "No variant has both.".to_owned()));
    Panel {
        title: table.metric().axis_of_improvements().to_owned(),
        x: Axis::plain(label, ranges.x),
        y: Axis::plain("", ranges.y),
        layers,
        gutter: Vec::new(),
        empty,
        weight: 1.0,
    }
}

/// The points for which no other is at least as far right and at least as far up, from left to right.
fn front(points: &[At]) -> Vec<At> {
    let beats = |a: &At, b: &At| a.0 >= b.0 && a.1 >= b.1 && a != b;
    let mut front: Vec<At> =
        points.iter().filter(|b| points.iter().all(|a| !beats(a, b))).copied().collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0));
    front.dedup();
    front
}

/// A line that falls only where a point is left behind: what lies between two points is nobody's.
fn staircase(front: Vec<At>) -> Vec<At> {
    let mut line: Vec<At> = Vec::new();
    for point in front {
        if let Some((before, _)) = line.last().copied() {
            line.push((before, point.1));
        }
        line.push(point);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    /// By the definition: (2, 5) is beaten by (3, 5), (1, 4) by all, a twin by none.
    #[test]
    fn the_front_is_what_nothing_beats() {
        let points = [(1.0, 4.0), (3.0, 5.0), (2.0, 5.0), (0.5, 9.0), (0.5, 9.0)];
        assert_eq!(front(&points), [(0.5, 9.0), (3.0, 5.0)]);
        assert_eq!(staircase(front(&points)), [(0.5, 9.0), (0.5, 5.0), (3.0, 5.0)]);
        assert_eq!(front(&[]), []);
    }

    /// The fixture's bf16-mixed takes 0.52 of the baseline's time, its interval 0.98 to 1.03 of that.
    #[test]
    fn a_speedup_is_baseline_over_variant_and_its_interval_is_turned() {
        let loaded = [fixture::loaded()];
        let table = Table::of(&loaded);
        let found = speedup(&table.rows[2]).unwrap();
        for (found, ratio) in
            [(found.value, 0.52), (found.low, 0.52 * 1.03), (found.high, 0.52 * 0.98)]
        {
            assert!((found * ratio - 1.0).abs() < 1e-12, "{found} {ratio}");
        }
        assert_eq!(speedup(&table.rows[0]).unwrap().value, 1.0);
        assert!(speedup(&table.rows[4]).is_none(), "emulated");
    }

    /// A variant that diverged far below does not press the others together.
    #[test]
    fn ranges_hold_the_baseline_the_margin_and_the_variants_whose_runs_all_went_through() {
        let loaded = [fixture::loaded()];
        let table = Table::of(&loaded);
        let panel = panel(&table, "", &speedup);
        assert!(panel.y.from < -0.5 && panel.y.to > 0.5, "{:?}", panel.y);
        assert!(panel.y.from > -3.0, "fp16-true lost a run at −13.8 pp: {:?}", panel.y);
        assert!(panel.x.from < 0.9 && panel.x.to > 1.0 / 0.52, "{:?}", panel.x);
    }
}
