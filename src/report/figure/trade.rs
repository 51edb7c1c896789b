//! Accuracy against what it costs: step time and training memory, with the variants that nothing beats in both.

use crate::record::Estimate;
use crate::report::table::{Row, Table};
use crate::report::text;
use crate::report::theme::MUTED;
use crate::stats::{LEVEL, mean_interval};

use super::cost::{byte_unit, time_unit};
use super::{
    Arrange, At, Axis, Choices, Figure, Key, Layer, Look, Marks, Panel, Shape, Span, Spot, Stroke,
    Swatch, alt, nothing_in, variant_keys,
};

/// The line through the variants that nothing beats.
const FRONT: Look = Look { colour: MUTED, shape: Shape::Circle, dash: &[5.0, 4.0] };

/// A cost of a variant in this run, in the unit of an axis.
type Cost<'a> = &'a dyn Fn(&Row<'_>) -> Option<f64>;

/// The figure.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let times = table.rows.iter().filter_map(|row| row.train.as_ref());
    let (unit, per_second) = time_unit(times.map(|t| t.step_seconds.value.0).fold(0.0, f64::max));
    let time = |row: &Row<'_>| Some(row.train.as_ref()?.step_seconds.value.0 * per_second);
    let peaks = table.rows.iter().filter_map(|row| row.memory.map(|memory| memory.peak_bytes.0));
    let (bytes, unit_bytes) = byte_unit(peaks.max().unwrap_or(0));
    let memory = |row: &Row<'_>| Some(row.memory?.peak_bytes.0 as f64 / unit_bytes);
    let mut legend = variant_keys(table, Swatch::Point, |row| {
        row.accuracy.is_some() && (time(row).is_some() || memory(row).is_some())
    });
    legend.push(Key::of_mark("nothing is cheaper and more accurate", Swatch::Line(FRONT)));
    if table.rows.iter().any(|row| row.runs.diverged + row.runs.failed > 0) {
        legend.push(Key::of_mark("runs stopped early: on no front", Swatch::Cross));
    }
    Figure {
        file: "trade-off",
        title: "Accuracy against its cost".to_owned(),
        subtitle: "Up and left is better. Whiskers: 95% intervals of the mean accuracy.".to_owned(),
        alt: alt("Accuracy against its cost", table, |row| {
            let cost = |cost: Option<f64>, unit: &str| {
                cost.map_or("not measured".to_owned(), |c| format!("{} {unit}", text::decimal(c)))
            };
            let accuracy =
                row.accuracy.map_or("not measured".to_owned(), |a| text::percent(a.mean));
            let troubles = row.runs.remark();
            format!(
                "{accuracy} at {} and {}{troubles}",
                cost(time(row), unit),
                cost(memory(row), bytes)
            )
        }),
        room: 380.0,
        arrange: Arrange::Beside,
        legend,
        panels: vec![
            panel(table, format!("time of a training step ({unit})"), &time),
            panel(table, format!("peak memory of training ({bytes})"), &memory),
        ],
        notes: Vec::new(),
    }
}

/// Mean accuracy in percent, with its interval where there are seeds enough.
fn accuracy(row: &Row<'_>) -> Option<Estimate<f64>> {
    let mean = row.accuracy?.mean * 100.0;
    let accuracies: Vec<f64> =
        row.result.runs.iter().filter_map(|run| Some(run.test_accuracy? * 100.0)).collect();
    Some(mean_interval(&accuracies, LEVEL).unwrap_or(Estimate {
        value: mean,
        low: mean,
        high: mean,
    }))
}

/// A variant that has both.
struct Placed<'a> {
    index: usize,
    row: &'a Row<'a>,
    cost: f64,
    accuracy: Estimate<f64>,
}

impl Placed<'_> {
    /// Where it is, if all its runs went through: only then can it be on a front.
    fn contends(&self) -> Option<At> {
        let whole = self.row.runs.diverged + self.row.runs.failed == 0;
        whole.then_some((self.cost, self.accuracy.value))
    }

    /// The interval of its accuracy, and its point above all intervals.
    fn layers(&self, label: &str) -> (Layer, Layer) {
        let look = Look::of(self.index);
        let troubles = self.row.runs.remark();
        let (x, y) = (self.cost, self.accuracy);
        let words = format!(
            "{}: {:.2}%, {} ({label}){troubles}",
            self.row.label(),
            y.value,
            text::decimal(x)
        );
        let spans = vec![Span { at: x, from: y.low, to: y.high, words: words.clone() }];
        let whisker = Marks::Whiskers { spans, upright: true, colour: look.colour };
        let spots = vec![Spot { at: (x, y.value), words }];
        let point = match self.contends() {
            Some(_) => Marks::Points { spots, look },
            None => Marks::Crosses { spots, colour: look.colour },
        };
        (Layer::of(self.index, whisker), Layer::of(self.index, point))
    }
}

fn panel(table: &Table<'_>, label: String, cost: Cost<'_>) -> Panel {
    let place =
        |(index, row)| Some(Placed { index, row, cost: cost(row)?, accuracy: accuracy(row)? });
    let placed: Vec<Placed<'_>> = table.rows.iter().enumerate().filter_map(place).collect();
    let mut layers = Vec::new();
    // What one machine does says nothing of another: each experiment has a front of its own.
    for experiment in placed.chunk_by(|a, b| a.row.experiment == b.row.experiment) {
        let points: Vec<At> = experiment.iter().filter_map(Placed::contends).collect();
        let (points, look) = (staircase(front(&points)), FRONT);
        layers.push(Layer::plain(Marks::Line { points, look, stroke: Stroke::Main }));
    }
    let (whiskers, points): (Vec<_>, Vec<_>) = placed.iter().map(|p| p.layers(&label)).unzip();
    layers.extend(whiskers.into_iter().chain(points));
    let empty =
        nothing_in(table).or_else(|| placed.is_empty().then(|| "No variant has both.".to_owned()));
    let range = |ends: fn(&Placed<'_>) -> [f64; 2]| {
        let low = placed.iter().map(|place| ends(place)[0]).fold(f64::INFINITY, f64::min);
        let high = placed.iter().map(|place| ends(place)[1]).fold(f64::NEG_INFINITY, f64::max);
        let pad = ((high - low) * 0.08).max(high.abs() * 1e-3).max(1e-9);
        if low > high { (0.0, 1.0) } else { (low - pad, high + pad) }
    };
    let choices = Choices { log: false, zero: true };
    let x = range(|place| [place.cost; 2]);
    let y = range(|place| [place.accuracy.low, place.accuracy.high]);
    Panel {
        title: "test accuracy (%)".to_owned(),
        x: Axis::plain(label, x).with(choices),
        y: Axis::plain("", y).with(choices),
        layers,
        gutter: Vec::new(),
        empty,
        weight: 1.0,
    }
}

/// The points for which no other is at most as far right and at least as far up, from left to right.
fn front(points: &[At]) -> Vec<At> {
    let beats = |a: &At, b: &At| a.0 <= b.0 && a.1 >= b.1 && a != b;
    let mut front: Vec<At> =
        points.iter().filter(|b| points.iter().all(|a| !beats(a, b))).copied().collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0));
    front.dedup();
    front
}

/// A line that rises only where a point is reached: what lies between two points is nobody's.
fn staircase(front: Vec<At>) -> Vec<At> {
    let mut line: Vec<At> = Vec::new();
    for point in front {
        if let Some((_, before)) = line.last().copied() {
            line.push((point.0, before));
        }
        line.push(point);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: (2, 5) is beaten by (1, 5), (3, 4) by both others, a twin by none.
    #[test]
    fn the_front_is_what_nothing_beats() {
        let points = [(3.0, 4.0), (1.0, 5.0), (2.0, 5.0), (4.0, 9.0), (4.0, 9.0)];
        assert_eq!(front(&points), [(1.0, 5.0), (4.0, 9.0)]);
        assert_eq!(staircase(front(&points)), [(1.0, 5.0), (4.0, 5.0), (4.0, 9.0)]);
        assert_eq!(front(&[]), []);
    }
}
