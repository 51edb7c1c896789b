//! Test accuracy against the baseline, seed by seed: the mean difference, the interval that decides about it, and why nothing
//! is decided where nothing is.

use crate::record::{Estimate, MetricDifference, MetricVerdict};
use crate::report::table::{Row, Table};
use crate::report::text;
use crate::report::theme::{INK, ZONE};
use crate::stats::{
    FAR_OFF, LEVEL, MIN_PAIRS, SIGNIFICANCE, TOST_LEVEL, least_pairs, mean_interval,
};

use super::accuracy::{ANY, lane};
use super::{
    Arrange, Axis, Figure, Fill, Hatch, Key, Layer, Marks, Panel, Span, Spot, Swatch, look,
    room_for, row_axis,
};

/// The range in which differences do not matter.
const EQUIVALENT: Fill = Fill { colour: ZONE, hatch: Hatch::Plain };

/// A row of the figure: its place in the table, which a control has none of, and its row.
type Compared<'a> = (Option<usize>, &'a Row<'a>);

/// The differences to the baseline, of the variants and of the controls.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let variants = table.rows.iter().enumerate().filter(|(_, row)| !row.is_baseline);
    let variants = variants.map(|(index, row)| (Some(index), row));
    let compared: Vec<Compared<'_>> =
        variants.chain(table.controls.iter().map(|row| (None, row))).collect();
    let (range, metric) = (range(&compared), table.metric());
    let better = if metric.is_higher_better() { "Right" } else { "Left" };
    let mut layers = zones(&compared);
    layers.push(Layer::plain(Marks::Divider(0.0)));
    let rows = || compared.iter().enumerate();
    layers.extend(rows().flat_map(|(place, row)| row_layers(table, place, *row, range)));
    if !table.controls.is_empty() {
        let first = (compared.len() - table.controls.len()) as f64;
        layers.push(Layer::plain(Marks::Separator(first - 0.5)));
    }
    let gutter = rows().map(|(place, (_, row))| (place as f64, verdict(table, row)));
    let empty = compared.is_empty().then(|| "There is no variant beside the baseline.".to_owned());
    Figure {
        file: "accuracy-difference".into(),
        title: format!("{} against the baseline", metric.title()),
        subtitle: format!("Each point: one seed, variant − baseline. {better} of 0 is better."),
        alt: alt(table, &compared),
        room: room_for(compared.len(), 34.0),
        arrange: Arrange::Stacked,
        legend: vec![
            Key::of_mark("one seed (shape and colour by variant)", Swatch::Point(ANY)),
            Key::of_mark("mean, with the interval that decides", Swatch::Rule),
            Key::of_mark("equivalent: within ±δ of the plan", Swatch::Fill(EQUIVALENT)),
        ],
        panels: vec![Panel {
            title: String::new(),
            x: Axis::plain(metric.axis_of_differences(), range),
            y: row_axis(compared.iter().map(|(_, row)| *row)),
            layers,
            gutter: gutter.collect(),
            empty,
            weight: 1.0,
        }],
        notes: notes(!table.controls.is_empty()),
    }
}

fn notes(has_controls: bool) -> Vec<String> {
    let mut notes = vec![format!(
        "Equivalent: the {:.0}% interval lies within ±δ, and would after one more seed {FAR_OFF} standard deviations off. \
         Better or worse: the {:.0}% interval excludes 0, and p < {SIGNIFICANCE} after Holm's correction. The interval drawn is \
         the {:.0}% one of an equivalent variant, else the {:.0}% one.",
        TOST_LEVEL * 100.0,
        LEVEL * 100.0,
        TOST_LEVEL * 100.0,
        LEVEL * 100.0
    )];
    if has_controls {
        let note = "Below the line: the baseline against itself, trained again with the same seeds or with others; precision does not cause a difference there.";
        notes.push(note.to_owned());
    }
    notes
}

/// The interval that decides about a row, and its level.
fn deciding(row: &Row<'_>) -> Option<(f64, Estimate<f64>)> {
    let difference = row.difference()?;
    let equivalent = difference.verdict == MetricVerdict::Equivalent;
    if equivalent && let Some(interval) = equivalence_interval(row, difference) {
        return Some((TOST_LEVEL, interval));
    }
    let (low, high) = (difference.low?, difference.high?);
    Some((LEVEL, Estimate { value: difference.value, low, high }))
}

/// The interval that is compared with ±δ, where the file holds every seed that was compared.
fn equivalence_interval(row: &Row<'_>, difference: &MetricDifference) -> Option<Estimate<f64>> {
    let differences: Vec<f64> = row.differences.iter().map(|(_, d)| *d).collect();
    let whole = differences.len() == difference.pairs;
    whole.then(|| mean_interval(&differences, TOST_LEVEL)).flatten()
}

/// Why nothing is decided about a row, in a few words.
pub(super) fn undecided(table: &Table<'_>, row: &Row<'_>) -> Option<String> {
    let difference = row.difference()?;
    if difference.verdict != MetricVerdict::Inconclusive {
        return None;
    }
    let pairs = difference.pairs;
    if pairs < MIN_PAIRS {
        return Some(format!("too few seeds ({pairs} of {MIN_PAIRS})"));
    }
    let excludes_zero = difference.low.is_some_and(|low| low > 0.0)
        || difference.high.is_some_and(|high| high < 0.0);
    let significant = difference.p.is_some_and(|p| p < SIGNIFICANCE);
    let compared = table.rows.iter().filter(|other| {
        other.experiment == row.experiment && other.difference().is_some_and(|d| d.p.is_some())
    });
    let needed = least_pairs(compared.count());
    let holm = difference.p_holm.is_some();
    Some(match (excludes_zero, significant) {
        (true, true) if holm && pairs < needed => {
            format!("too few seeds for Holm ({pairs} of {needed})")
        }
        (true, true) if holm => "not significant after Holm".to_owned(),
        (true, _) => "not significant".to_owned(),
        (false, _) => {
            let within = equivalence_interval(row, difference)
                .is_some_and(|i| i.low > -row.margin && i.high < row.margin);
            let why =
                if within { "too few seeds for equivalence" } else { "interval reaches past ±δ" };
            why.to_owned()
        }
    })
}

/// From the least to the most that is seen, and ±δ.
fn range(compared: &[Compared<'_>]) -> (f64, f64) {
    let of_row = |row: &Row<'_>| {
        let seeds = row.differences.iter().map(|(_, d)| *d);
        let interval = deciding(row).map(|(_, interval)| [interval.low, interval.high]);
        let margin = [-row.margin, row.margin];
        seeds.chain(interval.into_iter().flatten()).chain(margin).collect::<Vec<_>>()
    };
    let seen = || {
        compared.iter().flat_map(|(_, row)| of_row(row).into_iter().map(|d| d * row.metric.shown()))
    };
    let (low, high) = (seen().fold(0.0, f64::min), seen().fold(0.0, f64::max));
    let pad = if high > low { (high - low) * 0.05 } else { 1e-6 };
    (low - pad, high + pad)
}

/// Where differences do not matter: one range, or one per row where plans declare different ones.
fn zones(rows: &[Compared<'_>]) -> Vec<Layer> {
    let margins = || rows.iter().map(|(_, row)| row.margin * row.metric.shown());
    let Some(first) = margins().next() else {
        return Vec::new();
    };
    if margins().all(|margin| margin == first) {
        return vec![Layer::plain(Marks::Zone((-first, first)))];
    }
    let bars = margins().enumerate().map(|(place, margin)| {
        let unit = rows[place].1.metric.unit_of_differences();
        let words = format!("equivalent within ±{}{unit}", text::decimal(margin));
        Span { at: place as f64, from: -margin, to: margin, words }
    });
    vec![Layer::plain(Marks::Bars { bars: bars.collect(), fill: EQUIVALENT })]
}

fn row_layers(
    table: &Table<'_>,
    place: usize,
    (index, row): Compared<'_>,
    range: (f64, f64),
) -> Vec<Layer> {
    let (y, shown) = (place as f64, row.metric.shown());
    let name = row.label();
    let layer = |marks| Layer { series: index, marks };
    let Some(difference) = row.difference() else {
        let words = "no seed on which both were tested".to_owned();
        return vec![layer(Marks::Words(vec![Spot { at: (range.0, y), words }]))];
    };
    let spot = |(place, (seed, d)): (usize, &(u64, f64))| Spot {
        at: (d * row.metric.shown(), y + lane(place, row.differences.len())),
        words: format!("{name}, seed {seed}: {}", row.metric.difference(*d)),
    };
    let spots = row.differences.iter().enumerate().map(spot).collect();
    let mut layers = Vec::new();
    let words = format!("{name}: {}{}", verdict(table, row), interval_words(row));
    if let Some((_, Estimate { low, high, .. })) = deciding(row) {
        let span = Span { at: y, from: low * shown, to: high * shown, words: words.clone() };
        layers.push(layer(Marks::Whiskers { spans: vec![span], upright: false, colour: INK }));
    }
    let mean = Spot { at: (difference.value * shown, y), words };
    layers.push(layer(Marks::Rules(vec![mean])));
    layers.push(layer(Marks::Points { spots, look: look(table, index.unwrap_or(0)) }));
    layers
}

/// The mean difference, and the verdict or why there is none.
fn verdict(table: &Table<'_>, row: &Row<'_>) -> String {
    let Some(difference) = row.difference() else {
        return text::NOT_MEASURED.to_owned();
    };
    let verdict = text::verdict(difference.verdict).to_owned();
    let verdict = undecided(table, row).unwrap_or(verdict);
    format!("{} · {verdict}", row.metric.difference(difference.value))
}

/// `, 90% interval −0.10 to +0.01`, where there is one.
fn interval_words(row: &Row<'_>) -> String {
    let words = deciding(row).map(|(level, Estimate { low, high, .. })| {
        let (low, high) = (row.metric.signed(low), row.metric.signed(high));
        format!(", {:.0}% interval {low} to {high}", level * 100.0)
    });
    words.unwrap_or_default()
}

fn alt(table: &Table<'_>, rows: &[Compared<'_>]) -> String {
    let rows = rows.iter().map(|(_, row)| {
        let pairs = row.difference().map_or(0, |difference| difference.pairs);
        format!(
            "{}: {}{}, {}, δ {}{}",
            row.label(),
            verdict(table, row),
            interval_words(row),
            text::plural(pairs, "pair"),
            text::decimal(row.margin * row.metric.shown()),
            row.metric.unit_of_differences()
        )
    });
    let rows: Vec<String> = rows.collect();
    format!(
        "{}, variant − baseline{}. {}.",
        table.metric().title(),
        table.metric().in_unit().replacen(" in", ", in", 1),
        rows.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TestMetric;
    use crate::report::fixture;
    use crate::stats::metric_difference;

    /// A report whose second variant differs from the baseline by so much on each seed, `p` multiplied by `holm`.
    fn compared(differences: &[f64], holm: f64) -> crate::report::Loaded {
        let mut loaded = fixture::loaded();
        let run = loaded.results.variants[0].runs[0].clone();
        let runs = |of: &dyn Fn(usize) -> f64| {
            let run = |seed: usize| crate::record::RunSummary {
                seed: seed as u64,
                test_accuracy: Some(of(seed)),
                test_squared_error: None,
                test_perplexity: None,
                ..run.clone()
            };
            (0..differences.len()).map(run).collect::<Vec<_>>()
        };
        loaded.results.variants.truncate(2);
        loaded.results.variants[0].runs = runs(&|_| 0.9);
        loaded.results.variants[1].runs = runs(&|seed| 0.9 + differences[seed]);
        let pairs = |of: &dyn Fn(usize) -> f64| {
            (0..differences.len()).map(|seed| (seed as u64, of(seed))).collect::<Vec<_>>()
        };
        let (variant, baseline) = (pairs(&|seed| 0.9 + differences[seed]), pairs(&|_| 0.9));
        let mut difference =
            metric_difference(TestMetric::Accuracy, &variant, &baseline, 0.005).unwrap();
        difference.p_holm = difference.p.map(|p| (p * holm).min(1.0));
        if difference.p_holm >= Some(SIGNIFICANCE)
            && difference.verdict != MetricVerdict::Equivalent
        {
            difference.verdict = MetricVerdict::Inconclusive;
        }
        let against = loaded.results.variants[1].against_baseline.as_mut().unwrap();
        against.accuracy_difference = Some(difference);
        loaded
    }

    /// The reason by the rules of `stats::accuracy`: `MIN_PAIRS`, then the interval, then Holm's p, then ±δ.
    #[test]
    fn why_nothing_is_decided_is_said() {
        let far = [-0.03, -0.02, -0.025, -0.021, -0.024, -0.022, -0.028, -0.03];
        let wide = [0.03, -0.02, 0.025, -0.021, 0.024, -0.022, 0.028, -0.03];
        let near = [0.002, -0.002, 0.004, -0.004, 0.006, -0.006];
        for (differences, holm, said) in [
            (&far[..3], 1.0, Some("too few seeds (3 of 6)")),
            (&far[..], 1.0, None),
            (&far[..], 10.0, Some("not significant after Holm")),
            (&wide[..], 1.0, Some("interval reaches past ±δ")),
            (&near[..], 1.0, Some("too few seeds for equivalence")),
        ] {
            let loaded = [compared(differences, holm)];
            let table = Table::of(&loaded);
            assert_eq!(undecided(&table, &table.rows[1]).as_deref(), said, "{differences:?}");
        }
    }

    #[test]
    fn an_equivalent_variant_shows_the_interval_of_the_two_one_sided_tests() {
        let same = [0.0005, -0.0005, 0.0004, -0.0004, 0.0003, -0.0003, 0.0002, -0.0002];
        for (differences, level) in [(same, TOST_LEVEL), (same.map(|d| d * 60.0), LEVEL)] {
            let loaded = [compared(&differences, 1.0)];
            let table = Table::of(&loaded);
            let (found, interval) = deciding(&table.rows[1]).unwrap();
            assert_eq!(found, level);
            let expected = mean_interval(&differences, level).unwrap();
            assert!((interval.low - expected.low).abs() < 1e-9, "{interval:?} {expected:?}");
        }
    }
}
