//! The test metric: over the steps, and at the end every seed as a point and the mean as a mark.

use std::collections::BTreeMap;

use crate::record::{Status, TestMetric};
use crate::report::table::{Row, Table};
use crate::report::text;
use crate::stats;

use super::{
    Arrange, Axis, Choices, Colour, Figure, Key, Layer, Look, Marks, Panel, Shape, Spot, Stroke,
    Swatch, look, nothing_in, room_for, row_axis, variant_keys,
};

/// A point of any variant in a legend.
pub(super) const ANY: Look = Look { colour: Colour(88, 88, 88), shape: Shape::Circle, dash: &[] };

/// The accuracies.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let over_steps = over_steps(table);
    let mut legend = match &over_steps {
        Some(_) => variant_keys(table, Swatch::Line, |row| row.spread.is_some()),
        None => Vec::new(),
    };
    legend.extend(self::legend(table));
    let mut notes = Vec::new();
    if over_steps.is_none() {
        let note =
            "The model was tested at the end only; `train.evaluate_every` tests it more often.";
        notes.push(note.to_owned());
    }
    let room = room_for(table.rows.len(), 30.0);
    Figure {
        file: "accuracy".into(),
        title: table.metric().title().to_owned(),
        subtitle: match &over_steps {
            Some(_) => "Above: mean over the seeds; the band is from the lowest to the highest. Below: every seed at the end, mean ± standard deviation.",
            None => "Every seed is a point. Beside: mean ± standard deviation over the seeds.",
        }
        .to_owned(),
        alt: super::alt(&format!("{}, mean ± standard deviation", table.metric().title()), table, |row| {
            if row.spread.is_some() { words(row) } else { no_value(row) }
        }),
        room: if over_steps.is_some() { room + 280.0 } else { room },
        arrange: Arrange::Stacked,
        legend,
        panels: over_steps.into_iter().chain([at_the_end(table)]).collect(),
        notes,
    }
}

/// Every seed's value at the end.
fn at_the_end(table: &Table<'_>) -> Panel {
    let metric = table.metric();
    let (mut layers, mut values) = (Vec::new(), Vec::new());
    for (index, row) in table.rows.iter().enumerate() {
        let (mut spots, mut crosses) = (Vec::new(), Vec::new());
        for (place, run) in row.result.runs.iter().enumerate() {
            let Some(value) = run.metric() else {
                continue;
            };
            values.push(value * metric.shown());
            let y = index as f64 + lane(place, row.result.runs.len());
            let words = format!("{}, seed {}: {}", row.label(), run.seed, metric.value(value));
            let spot = Spot { at: (value * metric.shown(), y), words };
            if run.status == Status::Completed { spots.push(spot) } else { crosses.push(spot) }
        }
        let look = look(table, index);
        layers.push(Layer::of(index, Marks::Points { spots, look }));
        let marks = Marks::Crosses { spots: crosses, colour: look.colour };
        layers.push(Layer::of(index, marks));
    }
    let range = range(metric, &values);
    let rules = table.rows.iter().enumerate().map(|(index, row)| {
        let y = index as f64;
        let mark = match row.spread {
            Some(spread) => {
                let words = format!("{}: {}", row.label(), row.spread_text(spread));
                Marks::Rules(vec![Spot { at: (spread.mean * metric.shown(), y), words }])
            }
            None => Marks::Words(vec![Spot { at: (range.0, y), words: no_value(row) }]),
        };
        Layer::of(index, mark)
    });
    layers.splice(0..0, rules);
    let gutter = table.rows.iter().enumerate();
    let gutter = gutter.filter(|(_, row)| row.spread.is_some());
    Panel {
        title: "at the end".to_owned(),
        x: Axis::plain(metric.axis(), range).with(Choices { log: false, zero: true }),
        y: row_axis(table.rows.iter()),
        layers,
        gutter: gutter.map(|(index, row)| (index as f64, words(row))).collect(),
        empty: nothing_in(table),
        weight: 0.4 + 0.12 * table.rows.len() as f64,
    }
}

/// The metric after so many steps: over the seeds that were tested then, their mean and their ends.
struct Tested {
    step: f64,
    mean: f64,
    least: f64,
    most: f64,
    seeds: usize,
}

/// A variant's values by step, as they are shown.
fn tested(row: &Row<'_>) -> Vec<Tested> {
    let mut steps: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for evaluation in row.records.iter().flat_map(|record| &record.evaluations) {
        let values = steps.entry(evaluation.step).or_default();
        values.extend(evaluation.metric().map(|value| value * row.metric.shown()));
    }
    let tested = steps.into_iter().filter_map(|(step, values)| {
        Some(Tested {
            step: step as f64,
            mean: stats::mean(&values)?,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            seeds: values.len(),
        })
    });
    tested.collect()
}

/// The metric by step, if a run was tested before its end.
fn over_steps(table: &Table<'_>) -> Option<Panel> {
    let metric = table.metric();
    let shown = |value: f64| metric.value(value / metric.shown());
    let mut records = table.rows.iter().flat_map(|row| &row.records);
    records.find(|record| record.evaluations.len() > 1)?;
    let (mut bands, mut lines, mut points) = (Vec::new(), Vec::new(), Vec::new());
    let mut values = Vec::new();
    for (index, row) in table.rows.iter().enumerate() {
        let (look, tested) = (look(table, index), tested(row));
        values.extend(tested.iter().flat_map(|at| [at.least, at.most]));
        // A mean over other seeds is another curve.
        for piece in tested.chunk_by(|a, b| a.seeds == b.seeds) {
            let edges = piece.iter().map(|at| (at.step, at.least, at.most)).collect();
            bands.push(Layer::of(index, Marks::Band { edges, colour: look.colour }));
            let points = piece.iter().map(|at| (at.step, at.mean)).collect();
            lines.push(Layer::of(index, Marks::Line { points, look, stroke: Stroke::Main }));
        }
        let spot = |at: &Tested| Spot {
            at: (at.step, at.mean),
            words: format!(
                "{}: {} after step {}, {} to {} over {}",
                row.label(),
                shown(at.mean),
                text::count(at.step as u64),
                shown(at.least),
                shown(at.most),
                text::plural(at.seeds, "seed")
            ),
        };
        let spots = tested.iter().map(spot).collect();
        points.push(Layer::of(index, Marks::Points { spots, look }));
    }
    Some(Panel {
        title: format!("{}, by step", metric.axis()),
        x: Axis::steps(table.steps()),
        y: Axis::plain("", range(metric, &values)).with(Choices { log: false, zero: true }),
        layers: bands.into_iter().chain(lines).chain(points).collect(),
        gutter: Vec::new(),
        empty: None,
        weight: 1.0,
    })
}

/// The seeds of a variant lie in lanes of their own, so that equal ones do not hide each other.
pub(super) fn lane(place: usize, of: usize) -> f64 {
    let of = of as f64;
    (place as f64 - (of - 1.0) / 2.0) * (0.6 / of).min(0.2)
}

fn legend(table: &Table<'_>) -> Vec<Key> {
    let mut keys = vec![
        Key::of_mark("one seed (shape and colour by variant)", Swatch::Point(ANY)),
        Key::of_mark("mean over the seeds", Swatch::Rule),
    ];
    let runs = || table.rows.iter().flat_map(|row| &row.result.runs);
    if runs().any(|run| run.metric().is_some() && run.status != Status::Completed) {
        keys.push(Key::of_mark("a run that stopped early: its last weights", Swatch::Cross));
    }
    keys
}

/// A range that holds every value and some air.
fn range(metric: TestMetric, values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.is_empty() {
        return (0.0, metric.shown());
    }
    let least = match metric {
        TestMetric::Accuracy => 0.25,
        TestMetric::MeanSquaredError | TestMetric::Perplexity if high > 0.0 => 0.01 * high,
        TestMetric::MeanSquaredError | TestMetric::Perplexity => 1e-6,
    };
    let pad = ((high - low) * 0.08).max(least);
    (low - pad, high + pad)
}

fn no_value(row: &Row<'_>) -> String {
    let (name, troubles) = (row.metric.name(), row.runs.troubles());
    if troubles.is_empty() {
        format!("no {name}")
    } else {
        format!("no {name}: {}", text::list(&troubles))
    }
}

fn words(row: &Row<'_>) -> String {
    let mean = row.spread.map(|spread| row.spread_text(spread)).unwrap_or_default();
    let troubles = row.runs.troubles();
    if troubles.is_empty() { mean } else { format!("{mean} · {}", troubles.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Evaluation;
    use crate::report::fixture;

    #[test]
    fn accuracy_over_steps_is_the_mean_over_the_seeds_tested_then() {
        let mut loaded = fixture::loaded();
        let test = |step, accuracy| Evaluation {
            step,
            accuracy: Some(accuracy),
            squared_error: None,
            perplexity: None,
            loss: None,
        };
        for record in &mut loaded.records {
            let seed = record.summary.seed;
            record.evaluations = vec![test(10, 0.5 + 0.1 * seed as f64)];
            if seed < 2 {
                record.evaluations.push(test(20, 0.8));
            }
        }
        let table_of = [loaded];
        let table = Table::of(&table_of);
        let [first, second] = &tested(&table.rows[0])[..] else { panic!("two steps") };
        assert_eq!((first.step, first.seeds, second.step, second.seeds), (10.0, 3, 20.0, 2));
        assert!((first.mean - 60.0).abs() < 1e-9, "{}", first.mean);
        assert!((first.least - 50.0).abs() < 1e-9 && (first.most - 70.0).abs() < 1e-9);
        assert!(over_steps(&table).is_some());
        let end = figure(&Table::of(&[fixture::loaded()])).panels.len();
        assert_eq!(end, 1, "the fixture's runs were not tested on their way");
    }
}
