//! Test accuracy: every seed as a point, the mean as a mark.

use crate::record::Status;
use crate::report::load::Loaded;
use crate::report::table::{Row, Table, spread_text, variants};
use crate::report::text;

use super::{
    Arrange, Axis, Colour, Figure, Key, Look, Mark, Panel, Shape, Swatch, label, room_for,
};

/// The figure.
pub(super) fn figure(loaded: &Loaded, table: &Table) -> Figure {
    let variants = variants(&loaded.results);
    let mut points = Vec::new();
    let mut values = Vec::new();
    let mut diverged = false;
    for (index, variant) in variants.iter().enumerate() {
        let look = Look::of(index);
        let number = variant.runs.len() as f64;
        for (seed, run) in variant.runs.iter().enumerate() {
            let Some(accuracy) = run.test_accuracy else {
                continue;
            };
            values.push(accuracy * 100.0);
            // The seeds of a variant lie in lanes of their own, so that equal ones do not hide each other.
            let lane = (seed as f64 - (number - 1.0) / 2.0) * (0.6 / number).min(0.2);
            let at = (accuracy * 100.0, index as f64 + lane);
            if run.status == Status::Completed {
                points.push(Mark::Point { at, look });
            } else {
                diverged = true;
                let colour = look.colour;
                points.push(Mark::Cross { at, colour });
            }
        }
    }
    let mut marks = Vec::new();
    for (index, row) in table.rows.iter().enumerate() {
        let y = index as f64;
        match row.accuracy {
            Some(spread) => marks.push(Mark::Rule { at: (spread.mean * 100.0, y) }),
            None => marks.push(Mark::Words { at: (range(&values).0, y), words: no_accuracy(row) }),
        }
    }
    marks.extend(points);
    let gutter = table.rows.iter().enumerate();
    let gutter = gutter.filter(|(_, row)| row.accuracy.is_some());
    Figure {
        file: "accuracy",
        title: "Test accuracy".to_owned(),
        subtitle: "Every seed is a point. Beside: mean ± standard deviation over the seeds."
            .to_owned(),
        alt: alt(table),
        room: room_for(table.rows.len(), 30.0),
        arrange: Arrange::Stacked,
        legend: legend(diverged),
        panels: vec![Panel {
            title: String::new(),
            x: Axis::linear("test accuracy (%)", range(&values), |value, decimals| {
                format!("{value:.decimals$}")
            }),
            y: Axis::categories(table.rows.iter().map(|row| label(&row.name)).collect()),
            marks,
            gutter: gutter.map(|(index, row)| (index as f64, words(row))).collect(),
            empty: table.rows.is_empty().then(|| "There are no variants.".to_owned()),
            weight: 1.0,
        }],
        notes: Vec::new(),
    }
}

fn legend(diverged: bool) -> Vec<Key> {
    let grey = Look { colour: Colour(90, 90, 90), shape: Shape::Circle, dash: &[] };
    let key = |label: &str, swatch| Key { label: label.to_owned(), swatch };
    let mut keys = vec![
        key("one seed (shape and colour by variant)", Swatch::Point(grey)),
        key("mean over the seeds", Swatch::Rule),
    ];
    if diverged {
        keys.push(key("a run that stopped early: its last weights", Swatch::Cross));
    }
    keys
}

/// A range that holds every value and some air, within 0 and 100 %.
fn range(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.is_empty() {
        return (0.0, 100.0);
    }
    let pad = ((high - low) * 0.08).max(0.25);
    (low - pad, high + pad)
}

fn no_accuracy(row: &Row) -> String {
    let troubles = row.runs.troubles();
    if troubles.is_empty() {
        "no test accuracy".to_owned()
    } else {
        format!("no test accuracy: {}", text::list(&troubles))
    }
}

fn words(row: &Row) -> String {
    let mean = row.accuracy.map(spread_text).unwrap_or_default();
    let troubles = row.runs.troubles();
    if troubles.is_empty() { mean } else { format!("{mean} · {}", troubles.join(", ")) }
}

fn alt(table: &Table) -> String {
    let rows = table.rows.iter().map(|row| {
        let words = if row.accuracy.is_some() { words(row) } else { no_accuracy(row) };
        format!("{}: {words}", row.label())
    });
    let rows: Vec<String> = rows.collect();
    format!("Test accuracy, mean ± standard deviation. {}.", rows.join("; "))
}
