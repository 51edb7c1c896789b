//! The loss scale and the skipped steps, by step, below the loss.

use crate::record::RunRecord;
use crate::report::table::{Row, Table};
use crate::report::text;

use super::{
    Arrange, Axis, Choices, Figure, Key, Layer, Look, Marks, Panel, Spot, Stroke, Swatch, label,
    loss, room_for, row_axis,
};

/// A variant that scales its loss or skipped a step.
struct Scaled<'a> {
    series: usize,
    row: &'a Row<'a>,
    look: Look,
}

impl Scaled<'_> {
    fn skips(&self) -> impl Iterator<Item = u64> {
        let records = self.row.records.iter();
        records.flat_map(|record| record.skips.iter().map(|skip| skip.step))
    }
}

/// Whether a variant scales its loss.
fn scales(row: &Row<'_>) -> bool {
    row.scales || row.records.iter().any(|record| !record.scale.is_empty())
}

/// Whether a variant scales its loss or skipped a step.
fn is_shown(row: &Row<'_>) -> bool {
    scales(row) || row.numerics.skipped_steps > 0
}

/// The figure.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let rows = table.rows.iter().enumerate().filter(|(_, row)| is_shown(row));
    let scaled: Vec<Scaled<'_>> =
        rows.map(|(series, row)| Scaled { series, row, look: Look::of(series) }).collect();
    let steps = table.steps();
    let legend = scaled.iter().map(|variant| Key {
        label: label(variant.row),
        swatch: Swatch::Line(variant.look),
        series: Some(variant.series),
    });
    let mut panels = vec![scale_panel(&scaled, steps)];
    if !scaled.is_empty() {
        panels.insert(0, loss::panel(&loss::curves(table, is_shown), steps));
        panels.push(skip_panel(&scaled, steps));
    }
    if let [above @ .., _] = panels.as_mut_slice() {
        for panel in above {
            panel.x.label.clear();
        }
    }
    Figure {
        file: "loss-scale",
        title: "Loss scale and skipped steps".to_owned(),
        subtitle: "The loss of those that scale it or skipped a step; the loss scale, one line a seed; each skipped step as a mark.".to_owned(),
        alt: alt(&scaled),
        room: 330.0 + room_for(scaled.len(), 36.0),
        arrange: Arrange::Stacked,
        legend: legend.collect(),
        panels,
        notes: notes(steps),
    }
}

fn notes(steps: usize) -> Vec<String> {
    let window = loss::window(steps);
    let note =
        format!("Thinned for drawing: the skipped steps among {window} in a row are one mark.");
    if window > 1 { vec![note] } else { Vec::new() }
}

fn scale_panel(scaled: &[Scaled<'_>], steps: usize) -> Panel {
    let scaling = || scaled.iter().filter(|variant| scales(variant.row));
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    let mut layers = Vec::new();
    for variant in scaling() {
        let mut spots = Vec::new();
        for record in &variant.row.records {
            let points = staircase(record);
            low = points.iter().map(|p| p.1).fold(low, f64::min);
            high = points.iter().map(|p| p.1).fold(high, f64::max);
            spots.extend(points.last().map(|end| Spot {
                at: *end,
                words: format!(
                    "{}, seed {}: {} at the end",
                    variant.row.label(),
                    record.summary.seed,
                    end.1
                ),
            }));
            let look = Look { dash: &[], ..variant.look };
            layers.push(Layer::of(
                variant.series,
                Marks::Line { points, look, stroke: Stroke::Main },
            ));
        }
        layers.push(Layer::of(variant.series, Marks::Points { spots, look: variant.look }));
    }
    let empty = if scaling().next().is_none() {
        Some("No variant scales its loss.")
    } else if low > high {
        Some("No run record holds a loss scale.")
    } else {
        None
    };
    let (from, to) = if low > high { (1.0, 2.0) } else { (low / 1.5, high * 1.5) };
    let mut y =
        Axis::powers("", 2.0, (from, to), |exponent| format!("2{}", text::raised(exponent)));
    if empty.is_some() {
        y.ticks.clear();
    }
    Panel {
        title: "loss scale".to_owned(),
        x: Axis::steps(steps),
        y: y.with(Choices { log: true, zero: false }),
        layers,
        gutter: Vec::new(),
        empty: empty.map(str::to_owned),
        weight: 0.8,
    }
}

/// The changes of a run's scale that can be: over 0, at a step that it has.
fn known(record: &RunRecord) -> impl Iterator<Item = &(u64, f64)> {
    let steps = record.loss.len() as u64;
    record
        .scale
        .iter()
        .filter(move |(step, scale)| *scale > 0.0 && scale.is_finite() && *step <= steps)
}

/// The scale over the steps of a run.
fn staircase(record: &RunRecord) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for &(step, scale) in known(record) {
        if let Some(&(_, before)) = points.last() {
            points.push((step as f64, before));
        }
        points.push((step as f64, scale));
    }
    if let Some(&(_, last)) = points.last() {
        points.push((record.loss.len() as f64, last));
    }
    points
}

/// The skipped steps of a run, those that would lie on each other together: the first and the last of them, and how many.
fn skips(record: &RunRecord, window: u64) -> Vec<(u64, u64, usize)> {
    let groups = record.skips.chunk_by(|a, b| a.step / window == b.step / window);
    groups.map(|group| (group[0].step, group[group.len() - 1].step, group.len())).collect()
}

fn skip_panel(scaled: &[Scaled<'_>], steps: usize) -> Panel {
    let window = loss::window(steps) as u64;
    let mut layers = Vec::new();
    for (index, variant) in scaled.iter().enumerate() {
        let number = variant.row.records.len() as f64;
        let mut spots = Vec::new();
        for (seed, record) in variant.row.records.iter().enumerate() {
            let lane = (seed as f64 - (number - 1.0) / 2.0) * 0.7 / number.max(1.0);
            spots.extend(skips(record, window).into_iter().map(|(first, last, number)| {
                let steps = if number == 1 {
                    format!("step {first}")
                } else {
                    format!("{number} steps from {first} to {last}")
                };
                let (label, seed) = (variant.row.label(), record.summary.seed);
                Spot {
                    at: (first as f64, index as f64 + lane),
                    words: format!("{label}, seed {seed}: skipped {steps}"),
                }
            }));
        }
        layers.push(Layer::of(variant.series, Marks::Points { spots, look: variant.look }));
        if index > 0 {
            layers.push(Layer::plain(Marks::Separator(index as f64 - 0.5)));
        }
    }
    let gutter = scaled.iter().enumerate();
    let gutter = gutter.map(|(index, variant)| (index as f64, skipped_words(variant.row)));
    Panel {
        title: "skipped steps".to_owned(),
        x: Axis::steps(steps),
        y: row_axis(scaled.iter().map(|variant| variant.row)),
        layers,
        gutter: gutter.collect(),
        empty: None,
        weight: 0.35 + 0.15 * scaled.len() as f64,
    }
}

fn skipped_words(row: &Row<'_>) -> String {
    if row.steps == 0 {
        return "no run".to_owned();
    }
    format!("{} of {}", text::count(row.numerics.skipped_steps), text::count(row.steps))
}

fn alt(scaled: &[Scaled<'_>]) -> String {
    if scaled.is_empty() {
        return "No variant scales its loss, and no step was skipped.".to_owned();
    }
    let variants = scaled.iter().map(|variant| {
        let last = variant.row.records.iter().filter_map(|record| record.scale.last());
        let last: Vec<String> = last.map(|(_, scale)| scale.to_string()).collect();
        let scale = match (scales(variant.row), last.is_empty()) {
            (false, _) => "no loss scale".to_owned(),
            (true, true) => "loss scale not recorded".to_owned(),
            (true, false) => format!("loss scale {} at the end", text::list(&last)),
        };
        let first = variant.skips().min();
        let first = first.map(|step| format!(", the first at step {step}"));
        format!(
            "{}: {scale}, skipped steps {}{}",
            variant.row.label(),
            skipped_words(variant.row),
            first.unwrap_or_default()
        )
    });
    let variants: Vec<String> = variants.collect();
    format!("Loss scale and skipped steps. {}.", variants.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Skip;
    use crate::report::fixture;

    #[test]
    fn skips_that_would_lie_on_each_other_are_one_mark() {
        let mut record = fixture::loaded().records[0].clone();
        let skip = |step| Skip { step, layer: String::new() };
        record.skips = [0, 3, 4, 9, 25].map(skip).to_vec();
        assert_eq!(skips(&record, 5), [(0, 4, 3), (9, 9, 1), (25, 25, 1)]);
        assert_eq!(skips(&record, 1).len(), 5);
    }
}
