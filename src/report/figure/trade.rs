//! Accuracy against what it costs: step time and training memory, with the variants that nothing beats in both.

use crate::record::Estimate;
use crate::report::table::{Row, Table};
use crate::report::text;
use crate::report::theme::MUTED;
use crate::stats::{LEVEL, student_interval};

use super::cost::{byte_unit, time_unit};
use super::{
    Arrange, At, Axis, Choices, Figure, Key, Layer, Look, Marks, Panel, Shape, Span, Spot, Stroke,
    Swatch, alt, nothing_in, variant_keys,
};

/// The line through the variants that nothing beats.
const FRONT: Look = Look { colour: MUTED, shape: Shape::Circle, dash: &[5.0, 4.0] };

/// A cost of a variant, in the unit of an axis.
type Cost<'a> = &'a dyn Fn(&Row<'_>) -> Option<Estimate<f64>>;

/// The figure.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let times = table.rows.iter().filter_map(|row| row.train.as_ref());
    let (unit, per_second) = time_unit(times.map(|t| t.step_seconds.value.0).fold(0.0, f64::max));
    let time = |row: &Row<'_>| {
        let Estimate { value, low, high } = row.train.as_ref()?.step_seconds;
        let of = |seconds: f64| seconds * per_second;
        Some(Estimate { value: of(value.0), low: of(low.0), high: of(high.0) })
    };
    let peaks = table.rows.iter().filter_map(|row| row.memory.map(|memory| memory.peak_bytes.0));
    let (bytes, unit_bytes) = byte_unit(peaks.max().unwrap_or(0));
    let memory = |row: &Row<'_>| {
        let peak = row.memory?.peak_bytes.0 as f64 / unit_bytes;
        Some(Estimate { value: peak, low: peak, high: peak })
    };
    let mut legend = variant_keys(table, Swatch::Point, |row| {
        row.accuracy.is_some() && (time(row).is_some() || memory(row).is_some())
    });
    legend.push(Key::of_mark("nothing is cheaper and more accurate", Swatch::Line(FRONT)));
    Figure {
        file: "trade-off",
        title: "Accuracy against its cost".to_owned(),
        subtitle:
            "Up and left is better. Whiskers: 95% intervals of the mean accuracy and of the time."
                .to_owned(),
        alt: alt("Accuracy against its cost", table, |row| {
            let cost = |cost: Option<Estimate<f64>>, unit: &str| {
                cost.map_or("not measured".to_owned(), |c| {
                    format!("{} {unit}", text::decimal(c.value))
                })
            };
            let accuracy =
                row.accuracy.map_or("not measured".to_owned(), |a| text::percent(a.mean));
            format!("{accuracy} at {} and {}", cost(time(row), unit), cost(memory(row), bytes))
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
        row.summaries.iter().filter_map(|run| Some(run.test_accuracy? * 100.0)).collect();
    Some(student_interval(&accuracies, LEVEL).unwrap_or(Estimate {
        value: mean,
        low: mean,
        high: mean,
    }))
}

fn panel(table: &Table<'_>, label: String, cost: Cost<'_>) -> Panel {
    let rows = table.rows.iter().enumerate();
    let placed: Vec<(usize, &Row<'_>, Estimate<f64>, Estimate<f64>)> =
        rows.filter_map(|(index, row)| Some((index, row, cost(row)?, accuracy(row)?))).collect();
    let mut layers = Vec::new();
    let points: Vec<At> = placed.iter().map(|(_, _, x, y)| (x.value, y.value)).collect();
    let marks =
        Marks::Line { points: staircase(front(&points)), look: FRONT, stroke: Stroke::Main };
    layers.push(Layer::plain(marks));
    let mut points = Vec::new();
    for (index, row, x, y) in &placed {
        let look = Look::of(*index);
        let words =
            format!("{}: {:.2}%, {} ({label})", row.label(), y.value, text::decimal(x.value));
        let span = |at: f64, along: &Estimate<f64>| {
            vec![Span { at, from: along.low, to: along.high, words: words.clone() }]
        };
        let upright =
            Marks::Whiskers { spans: span(x.value, y), upright: true, colour: look.colour };
        let level =
            Marks::Whiskers { spans: span(y.value, x), upright: false, colour: look.colour };
        layers.extend([Layer::of(*index, upright), Layer::of(*index, level)]);
        let spots = vec![Spot { at: (x.value, y.value), words }];
        points.push(Layer::of(*index, Marks::Points { spots, look }));
    }
    layers.extend(points);
    let empty =
        nothing_in(table).or_else(|| placed.is_empty().then(|| "No variant has both.".to_owned()));
    let range =
        |ends: &dyn Fn(&(usize, &Row<'_>, Estimate<f64>, Estimate<f64>)) -> Estimate<f64>| {
            let low = placed.iter().map(|place| ends(place).low).fold(f64::INFINITY, f64::min);
            let high =
                placed.iter().map(|place| ends(place).high).fold(f64::NEG_INFINITY, f64::max);
            let pad = ((high - low) * 0.08).max(high.abs() * 1e-3).max(1e-9);
            if low > high { (0.0, 1.0) } else { (low - pad, high + pad) }
        };
    let choices = Choices { log: false, zero: true };
    let (x, y) = (range(&|place| place.2), range(&|place| place.3));
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
