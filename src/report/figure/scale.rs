//! The loss scale and the skipped steps, by step.

use crate::precision::LossScale;
use crate::record::RunRecord;
use crate::report::load::Loaded;
use crate::report::table::{Row, Table};
use crate::report::text;

use super::{Arrange, Axis, Figure, Key, Look, Mark, Panel, Swatch, label, room_for};

/// A variant that scales its loss or skipped a step.
struct Scaled<'a> {
    row: &'a Row,
    look: Look,
    scales: bool,
    records: Vec<&'a RunRecord>,
}

impl Scaled<'_> {
    fn skips(&self) -> impl Iterator<Item = u64> {
        let records = self.records.iter();
        records.flat_map(|record| record.skips.iter().map(|skip| skip.step))
    }
}

/// The figure.
pub(super) fn figure(loaded: &Loaded, table: &Table) -> Figure {
    let scaled = scaled(loaded, table);
    let steps = loaded.records.iter().map(|r| r.loss.len()).max().unwrap_or(0);
    let scaling: Vec<&Scaled<'_>> = scaled.iter().filter(|v| v.scales).collect();
    let legend = scaling
        .iter()
        .map(|variant| Key { label: label(&variant.row.name), swatch: Swatch::Line(variant.look) });
    let mut panels = vec![scale_panel(&scaling, steps)];
    if !scaled.is_empty() {
        panels.push(skip_panel(&scaled, steps));
    }
    if let [.., first, _] = panels.as_mut_slice() {
        first.x.label.clear();
    }
    Figure {
        file: "loss-scale",
        title: "Loss scale and skipped steps".to_owned(),
        subtitle: "Above: the loss scale, one line a seed. Below: each skipped step as a mark, one lane a seed.".to_owned(),
        alt: alt(&scaled),
        room: room_for(scaled.len() + 6, 36.0),
        arrange: Arrange::Stacked,
        legend: legend.collect(),
        panels,
        notes: Vec::new(),
    }
}

fn scaled<'a>(loaded: &'a Loaded, table: &'a Table) -> Vec<Scaled<'a>> {
    let mut scaled = Vec::new();
    for (index, row) in table.rows.iter().enumerate() {
        let plan = &loaded.results.plan.variants;
        let plan = plan.iter().find(|plan| plan.name == row.name);
        let records: Vec<&RunRecord> = loaded.records_of(&row.name).collect();
        let scales = plan.is_some_and(|plan| plan.policy.scale != LossScale::None)
            || records.iter().any(|record| !record.scale.is_empty());
        if scales || row.numerics.skipped_steps > 0 {
            scaled.push(Scaled { row, look: Look::of(index), scales, records });
        }
    }
    scaled
}

fn scale_panel(scaling: &[&Scaled<'_>], steps: usize) -> Panel {
    let mut marks = Vec::new();
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for variant in scaling {
        for record in &variant.records {
            let points = staircase(record);
            low = points.iter().map(|p| p.1).fold(low, f64::min);
            high = points.iter().map(|p| p.1).fold(high, f64::max);
            marks.push(Mark::Line { points, look: variant.look });
        }
    }
    let empty = if scaling.is_empty() {
        Some("No variant scales its loss.")
    } else if low > high {
        Some("No run record holds a loss scale.")
    } else {
        None
    };
    let (from, to) = if low > high { (0.0, 1.0) } else { (low - 0.5, high + 0.5) };
    let mut y = Axis::decades("", (from, to), |exponent| format!("2{}", text::raised(exponent)));
    if empty.is_some() {
        y.ticks.clear();
    }
    Panel {
        title: "loss scale (log scale)".to_owned(),
        x: Axis::steps(steps),
        y,
        marks,
        gutter: Vec::new(),
        empty: empty.map(str::to_owned),
        weight: 1.0,
    }
}

/// The scale over the steps of a run, as (step, exponent of two).
fn staircase(record: &RunRecord) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for &(step, scale) in record.scale.iter().filter(|(_, scale)| *scale > 0.0) {
        let at = scale.log2();
        if let Some(&(_, before)) = points.last() {
            points.push((step as f64, before));
        }
        points.push((step as f64, at));
    }
    if let Some(&(_, last)) = points.last() {
        points.push((record.loss.len() as f64, last));
    }
    points
}

fn skip_panel(scaled: &[Scaled<'_>], steps: usize) -> Panel {
    let mut marks = Vec::new();
    for (index, variant) in scaled.iter().enumerate() {
        let number = variant.records.len() as f64;
        for (seed, record) in variant.records.iter().enumerate() {
            let lane = (seed as f64 - (number - 1.0) / 2.0) * 0.7 / number.max(1.0);
            marks.extend(record.skips.iter().map(|skip| Mark::Point {
                at: (skip.step as f64, index as f64 + lane),
                look: variant.look,
            }));
        }
        if index > 0 {
            marks.push(Mark::Separator { y: index as f64 - 0.5 });
        }
    }
    let gutter = scaled.iter().enumerate();
    let gutter = gutter.map(|(index, variant)| (index as f64, skipped_words(variant.row)));
    Panel {
        title: "skipped steps".to_owned(),
        x: Axis::steps(steps),
        y: Axis::categories(scaled.iter().map(|v| label(&v.row.name)).collect()),
        marks,
        gutter: gutter.collect(),
        empty: None,
        weight: 0.35 + 0.15 * scaled.len() as f64,
    }
}

fn skipped_words(row: &Row) -> String {
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
        let last = variant.records.iter().filter_map(|record| record.scale.last());
        let last: Vec<String> = last.map(|(_, scale)| scale.to_string()).collect();
        let scale = match (variant.scales, last.is_empty()) {
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
