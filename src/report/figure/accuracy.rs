//! Test accuracy: every seed as a point and the mean as a mark; and the differences to the baseline, seed by seed.

use crate::record::Status;
use crate::report::table::{Row, Table, spread_text};
use crate::report::text;
use crate::report::theme::{INK, ZONE};
use crate::stats::FAR_OFF;

use super::{
    Arrange, Axis, Choices, Colour, Figure, Fill, Hatch, Key, Layer, Look, Marks, Panel, Shape,
    Span, Spot, Swatch, nothing_in, room_for, row_axis,
};

/// A point of any variant in a legend.
const ANY: Look = Look { colour: Colour(88, 88, 88), shape: Shape::Circle, dash: &[] };

/// The zone of equivalence.
const EQUIVALENT: Fill = Fill { colour: ZONE, hatch: Hatch::Plain };

/// The accuracies.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let (mut layers, mut values, mut diverged) = (Vec::new(), Vec::new(), false);
    for (index, row) in table.rows.iter().enumerate() {
        let (mut spots, mut crosses) = (Vec::new(), Vec::new());
        for (place, run) in row.result.runs.iter().enumerate() {
            let Some(accuracy) = run.test_accuracy else {
                continue;
            };
            values.push(accuracy * 100.0);
            let y = index as f64 + lane(place, row.result.runs.len());
            let words = format!("{}, seed {}: {}", row.label(), run.seed, text::percent(accuracy));
            let spot = Spot { at: (accuracy * 100.0, y), words };
            if run.status == Status::Completed { spots.push(spot) } else { crosses.push(spot) }
        }
        diverged |= !crosses.is_empty();
        let look = Look::of(index);
        layers.push(Layer::of(index, Marks::Points { spots, look }));
        let marks = Marks::Crosses { spots: crosses, colour: look.colour };
        layers.push(Layer::of(index, marks));
    }
    let range = range(&values);
    let rules = table.rows.iter().enumerate().map(|(index, row)| {
        let y = index as f64;
        let mark = match row.accuracy {
            Some(spread) => {
                let words = format!("{}: {}", row.label(), spread_text(spread));
                Marks::Rules(vec![Spot { at: (spread.mean * 100.0, y), words }])
            }
            None => Marks::Words(vec![Spot { at: (range.0, y), words: no_accuracy(row) }]),
        };
        Layer::of(index, mark)
    });
    layers.splice(0..0, rules);
    let gutter = table.rows.iter().enumerate();
    let gutter = gutter.filter(|(_, row)| row.accuracy.is_some());
    Figure {
        file: "accuracy",
        title: "Test accuracy".to_owned(),
        subtitle: "Every seed is a point. Beside: mean ± standard deviation over the seeds."
            .to_owned(),
        alt: super::alt("Test accuracy, mean ± standard deviation", table, |row| {
            if row.accuracy.is_some() { words(row) } else { no_accuracy(row) }
        }),
        room: room_for(table.rows.len(), 30.0),
        arrange: Arrange::Stacked,
        legend: legend("mean over the seeds", diverged),
        panels: vec![Panel {
            title: String::new(),
            x: Axis::plain("test accuracy (%)", range).with(Choices { log: false, zero: true }),
            y: row_axis(table.rows.iter()),
            layers,
            gutter: gutter.map(|(index, row)| (index as f64, words(row))).collect(),
            empty: nothing_in(table),
            weight: 1.0,
        }],
        notes: Vec::new(),
    }
}

/// The differences to the baseline, of the variants and of the controls.
pub(super) fn differences(table: &Table<'_>) -> Figure {
    let compared = table.rows.iter().enumerate().filter(|(_, row)| !row.is_baseline);
    let compared: Vec<(usize, &Row<'_>)> =
        compared.chain(table.controls.iter().map(|row| (0, row))).collect();
    let margin = table.rows.iter().map(|row| row.margin).fold(0.0, f64::max) * 100.0;
    let by_seed = |row: &Row<'_>| row.differences.iter().map(|(_, d)| *d).collect::<Vec<_>>();
    let seen = compared.iter().flat_map(|(_, row)| by_seed(row).into_iter().chain(bounds(row)));
    let reach = seen.fold(margin / 100.0, |reach, d| reach.max(d.abs())) * 110.0;
    let mut layers = zones(&compared);
    layers.push(Layer::plain(Marks::Divider(0.0)));
    let rows = || compared.iter().enumerate();
    layers.extend(rows().flat_map(|(place, row)| difference_layers(place, *row, reach)));
    if !table.controls.is_empty() {
        let first = (compared.len() - table.controls.len()) as f64;
        layers.push(Layer::plain(Marks::Separator(first - 0.5)));
    }
    let gutter = rows().map(|(place, (_, row))| (place as f64, verdict(row)));
    let mut legend = legend("mean difference and its 95% interval", false);
    legend.push(Key::of_mark("equivalent: within ±δ of the plan", Swatch::Fill(EQUIVALENT)));
    let mut notes = vec![format!(
        "A variant is equivalent where the 90% interval of its mean difference lies within ±δ, and would after one more \
             seed had gone {FAR_OFF} standard deviations off."
    )];
    if !table.controls.is_empty() {
        let note = "Below the line: the baseline against itself, trained again with the same seeds or with others; a difference there is not the precision's.";
        notes.push(note.to_owned());
    }
    Figure {
        file: "accuracy-difference",
        title: "Test accuracy against the baseline".to_owned(),
        subtitle: "Each point: one seed, variant − baseline. Right of 0 is better.".to_owned(),
        alt: alt_differences(&compared),
        room: room_for(compared.len(), 34.0),
        arrange: Arrange::Stacked,
        legend,
        panels: vec![Panel {
            title: String::new(),
            x: Axis::plain(
                "difference of test accuracy (percentage points)",
                (-reach.max(1e-6), reach.max(1e-6)),
            ),
            y: row_axis(compared.iter().map(|(_, row)| *row)),
            layers,
            gutter: gutter.collect(),
            empty: compared
                .is_empty()
                .then(|| "There is no variant beside the baseline.".to_owned()),
            weight: 1.0,
        }],
        notes,
    }
}

/// The ends of a difference's interval.
fn bounds(row: &Row<'_>) -> impl Iterator<Item = f64> {
    let ends = row.difference().map(|difference| [difference.low, difference.high]);
    ends.into_iter().flatten().flatten()
}

/// Where differences are of no matter: one zone, or one a row where plans declare different ones.
fn zones(rows: &[(usize, &Row<'_>)]) -> Vec<Layer> {
    let margins = || rows.iter().map(|(_, row)| row.margin * 100.0);
    let Some(first) = margins().next() else {
        return Vec::new();
    };
    if margins().all(|margin| margin == first) {
        return vec![Layer::plain(Marks::Zone((-first, first)))];
    }
    let bars = margins().enumerate().map(|(place, margin)| {
        let words = format!("equivalent within ±{} pp", text::decimal(margin));
        Span { at: place as f64, from: -margin, to: margin, words }
    });
    vec![Layer::plain(Marks::Bars { bars: bars.collect(), fill: EQUIVALENT })]
}

fn difference_layers(place: usize, (index, row): (usize, &Row<'_>), reach: f64) -> Vec<Layer> {
    let y = place as f64;
    let name = row.label();
    let Some(difference) = row.difference() else {
        let words = "no seed on which both were tested".to_owned();
        return vec![Layer::of(index, Marks::Words(vec![Spot { at: (-reach, y), words }]))];
    };
    let spot = |(place, (seed, d)): (usize, &(u64, f64))| Spot {
        at: (d * 100.0, y + lane(place, row.differences.len())),
        words: format!("{name}, seed {seed}: {} pp", text::points(*d)),
    };
    let spots = row.differences.iter().enumerate().map(spot).collect();
    let mut layers = Vec::new();
    let words = format!("{name}: {}", verdict(row));
    if let (Some(low), Some(high)) = (difference.low, difference.high) {
        let span = Span { at: y, from: low * 100.0, to: high * 100.0, words: words.clone() };
        layers.push(Layer::of(
            index,
            Marks::Whiskers { spans: vec![span], upright: false, colour: INK },
        ));
    }
    let mean = Spot { at: (difference.value * 100.0, y), words };
    layers.push(Layer::of(index, Marks::Rules(vec![mean])));
    layers.push(Layer::of(index, Marks::Points { spots, look: Look::of(index) }));
    layers
}

/// The mean difference and what it allows to say.
fn verdict(row: &Row<'_>) -> String {
    row.difference().map_or_else(
        || text::NOT_MEASURED.to_owned(),
        |difference| {
            let (value, verdict) =
                (text::points(difference.value), text::accuracy_verdict(difference.verdict));
            format!("{value} pp · {verdict}")
        },
    )
}

fn alt_differences(rows: &[(usize, &Row<'_>)]) -> String {
    let rows = rows.iter().map(|(_, row)| {
        let interval = row.difference().and_then(|d| Some((d.low?, d.high?)));
        let interval = interval.map(|(low, high)| {
            format!(", 95% interval {} to {}", text::points(low), text::points(high))
        });
        let pairs = row.difference().map_or(0, |difference| difference.pairs);
        let pairs = text::plural(pairs, "pair");
        format!(
            "{}: {}{}, {pairs}, δ {} pp",
            row.label(),
            verdict(row),
            interval.unwrap_or_default(),
            text::decimal(row.margin * 100.0)
        )
    });
    let rows: Vec<String> = rows.collect();
    format!("Test accuracy, variant − baseline, in percentage points (pp). {}.", rows.join("; "))
}

/// The seeds of a variant lie in lanes of their own, so that equal ones do not hide each other.
fn lane(place: usize, of: usize) -> f64 {
    let of = of as f64;
    (place as f64 - (of - 1.0) / 2.0) * (0.6 / of).min(0.2)
}

fn legend(rule: &str, diverged: bool) -> Vec<Key> {
    let mut keys = vec![
        Key::of_mark("one seed (shape and colour by variant)", Swatch::Point(ANY)),
        Key::of_mark(rule, Swatch::Rule),
    ];
    if diverged {
        keys.push(Key::of_mark("a run that stopped early: its last weights", Swatch::Cross));
    }
    keys
}

/// A range that holds every value and some air.
fn range(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.is_empty() {
        return (0.0, 100.0);
    }
    let pad = ((high - low) * 0.08).max(0.25);
    (low - pad, high + pad)
}

fn no_accuracy(row: &Row<'_>) -> String {
    let troubles = row.runs.troubles();
    if troubles.is_empty() {
        "no test accuracy".to_owned()
    } else {
        format!("no test accuracy: {}", text::list(&troubles))
    }
}

fn words(row: &Row<'_>) -> String {
    let mean = row.accuracy.map(spread_text).unwrap_or_default();
    let troubles = row.runs.troubles();
    if troubles.is_empty() { mean } else { format!("{mean} · {}", troubles.join(", ")) }
}
