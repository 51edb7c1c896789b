//! How large the values were: a histogram of exponents per role, over the ranges of the formats.

use std::collections::BTreeMap;

use crate::precision::{Format, Policy};
use crate::record::Role;
use crate::report::skips;
use crate::report::table::{Row, Table};
use crate::report::text;
use crate::report::theme::{AXIS, PALETTE};

use super::{
    Arrange, At, Axis, Choices, Figure, Fill, Hatch, Key, Layer, Marks, Panel, Span, Spot, Stroke,
    Swatch, Tick, alt, look, variant_keys,
};

pub(super) const ROLES: [Role; 5] = [
    Role::Weights,
    Role::Activations,
    Role::ActivationGradients,
    Role::WeightGradients,
    Role::Updates,
];

/// Where a format has its full precision, and where it loses it.
const NORMAL: Fill = Fill { colour: AXIS, hatch: Hatch::Plain };
const SUBNORMAL: Fill = Fill { colour: PALETTE[2], hatch: Hatch::Rising };

/// A variant's values of one role by binade: (its middle, in exponents; share of the values that are not 0 and finite).
fn shares(row: &Row<'_>, role: Role) -> Vec<At> {
    let mut binades: BTreeMap<i32, u64> = BTreeMap::new();
    for sum in row.census.iter().filter(|sum| sum.role == role) {
        for (exponent, count) in &sum.binades {
            *binades.entry(*exponent).or_default() += count;
        }
    }
    let all: u64 = binades.values().sum();
    let share =
        |(exponent, count): (i32, u64)| (f64::from(exponent) + 0.5, count as f64 / all as f64);
    binades.into_iter().map(share).collect()
}

/// The formats that the variants hold or compute in, the narrowest range first.
fn formats(table: &Table<'_>) -> Vec<Format> {
    let policies = table.rows.iter().filter_map(|row| row.policy.parse::<Policy>().ok());
    let mut formats: Vec<Format> = Vec::new();
    for format in policies.flat_map(|policy| [policy.compute, policy.params]) {
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    formats.sort_by(|a, b| a.max_finite().total_cmp(&b.max_finite()));
    formats
}

/// The exponents of a format's smallest subnormal and normal, and one past that of its largest value. What is at most half
/// the first rounds to 0, what is beyond the last to infinity.
fn limits(format: Format) -> [f64; 3] {
    let floor = |value: f64| value.log2().floor();
    [floor(format.min_subnormal()), floor(format.min_normal()), floor(format.max_finite()) + 1.0]
}

/// The figure.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let formats = formats(table);
    let roles: Vec<(Role, Vec<Vec<At>>)> = ROLES
        .iter()
        .map(|role| (*role, table.rows.iter().map(|row| shares(row, *role)).collect()))
        .filter(|(_, rows): &(Role, Vec<Vec<At>>)| rows.iter().any(|row| !row.is_empty()))
        .collect();
    let range = range(&roles, &formats);
    let mut panels: Vec<Panel> =
        roles.iter().map(|(role, rows)| panel(table, *role, rows, (&formats, range))).collect();
    match panels.first_mut() {
        Some(first) => {
            first.layers.extend(formats.first().map(|format| limit_words(*format, &first.y)));
            panels.push(ranges(&formats, range));
        }
        None => panels.push(panel(table, Role::Weights, &[], (&formats, range))),
    }
    let mut legend = variant_keys(table, Swatch::Line, |row| {
        row.records.iter().any(|record| !record.census.is_empty())
    });
    legend.push(Key::of_mark("normal range", Swatch::Fill(NORMAL)));
    legend.push(Key::of_mark("subnormal", Swatch::Fill(SUBNORMAL)));
    let narrowest = formats.first().map(|format| {
        format!(
            "Dashed: the limits of {format}, the narrowest format here. What lies left of both rounds to 0, what lies right of both to infinity."
        )
    });
    Figure {
        file: "exponents".into(),
        title: "Magnitudes by role".to_owned(),
        subtitle: "Share of the values in each binade before rounding, on census steps, all layers; zeros are left out.".to_owned(),
        alt: alt("Range of magnitudes by role", table, words),
        room: 118.0 * panels.len() as f64 + 60.0,
        arrange: Arrange::Stacked,
        legend,
        panels,
        notes: narrowest.into_iter().chain(table.rows.iter().filter_map(shift)).collect(),
    }
}

/// From the smallest to the largest exponent that was seen or that the narrowest format has.
fn range(roles: &[(Role, Vec<Vec<At>>)], formats: &[Format]) -> (f64, f64) {
    let seen = roles.iter().flat_map(|(_, rows)| rows.iter().flatten().map(|bin| bin.0));
    let narrow = formats.first().map_or([-1.0, 0.0, 1.0], |format| limits(*format));
    let all = || seen.clone().chain(narrow);
    (all().fold(f64::INFINITY, f64::min) - 2.0, all().fold(f64::NEG_INFINITY, f64::max) + 11.0)
}

/// How far the loss scale moves a variant's gradients on its census steps.
fn shift(row: &Row<'_>) -> Option<String> {
    let scales = row.records.iter().flat_map(|record| {
        let at = |step: &u64| {
            let known = record.scale.iter().take_while(|(from, _)| from <= step);
            known.last().map(|(_, scale)| *scale)
        };
        record.census_steps.iter().filter_map(at).collect::<Vec<f64>>()
    });
    let scales: Vec<f64> = scales.filter(|scale| *scale > 0.0 && scale.is_finite()).collect();
    let low = scales.iter().copied().reduce(f64::min)?;
    let high = scales.iter().copied().reduce(f64::max)?;
    let [from, to] = [low, high].map(skips::scale);
    let by = if low < high { format!("{from} to {to}") } else { to };
    let binades = |scale: f64| match scale.log2() {
        whole if whole.fract() == 0.0 => whole.to_string(),
        part => text::decimal(part),
    };
    let [from, to] = [low, high].map(binades);
    let binades = if low < high { format!("{from} to {to}") } else { to };
    (high != 1.0 || low != 1.0).then(|| {
        format!(
            "{} multiplies its loss by {by}, so its gradients lie {binades} binades further right than unscaled ones.",
            row.label()
        )
    })
}

/// An axis of magnitudes, in exponents, with about a dozen labels.
pub(super) fn magnitudes(range: (f64, f64)) -> Axis {
    let step =
        [1, 2, 4, 8, 16, 32, 64].into_iter().find(|step| range.1 - range.0 <= f64::from(14 * step));
    let step = step.unwrap_or(128);
    let mut axis = Axis::linear("magnitude", range, |_, _| String::new());
    let multiples =
        (range.0 / f64::from(step)).ceil() as i32..=(range.1 / f64::from(step)).floor() as i32;
    let tick = |n: i32| Tick { at: f64::from(n * step), label: power(n * step) };
    axis.ticks = multiples.map(tick).collect();
    axis
}

pub(super) fn power(exponent: i32) -> String {
    format!("2{}", text::raised(exponent))
}

/// A format's largest value: whole, as long as that is short.
fn largest_words(format: Format) -> String {
    let largest = format.max_finite();
    if largest < 1e6 { text::count(largest as u64) } else { text::decimal(largest) }
}

/// What the dashed lines are, beside them.
fn limit_words(format: Format, y: &Axis) -> Layer {
    let [smallest, _, largest] = limits(format);
    let height = y.to / 2.5;
    let words = |at: f64, words: String| Spot { at: (at, height), words };
    Layer::plain(Marks::Words(vec![
        words(smallest - 1.0, format!("{format} min {}", power(smallest as i32))),
        words(largest, format!("{format} max {}", largest_words(format))),
    ]))
}

fn panel(
    table: &Table<'_>,
    role: Role,
    rows: &[Vec<At>],
    (formats, range): (&[Format], (f64, f64)),
) -> Panel {
    let mut layers = Vec::new();
    if let Some([smallest, _, largest]) = formats.first().map(|format| limits(*format)) {
        layers.extend([smallest - 1.0, largest].map(|at| Layer::plain(Marks::Divider(at))));
    }
    for (index, bins) in rows.iter().enumerate() {
        let look = look(table, index);
        let mut alone = Vec::new();
        // No line where no value was; a binade without neighbours is a marker.
        for points in bins.chunk_by(|a, b| b.0 - a.0 <= 1.0) {
            if let [at] = points {
                let words = format!(
                    "a share of {} in {} alone",
                    text::decimal(at.1),
                    power(at.0.floor() as i32)
                );
                alone.push(Spot { at: *at, words });
            } else {
                let points = points.to_vec();
                layers.push(Layer::of(index, Marks::Line { points, look, stroke: Stroke::Main }));
            }
        }
        layers.push(Layer::of(index, Marks::Points { spots: alone, look }));
    }
    let lowest = rows.iter().flatten().map(|bin| bin.1).fold(0.01, f64::min);
    let mut y = Axis::powers("", 10.0, (lowest / 1.5, 1.0), |exponent| {
        format!("10{}", text::raised(exponent))
    });
    y.ticks.retain(|tick| tick.at.log10().round() % 2.0 == 0.0);
    Panel {
        title: text::role(role).to_owned(),
        x: Axis { label: String::new(), ..magnitudes(range) },
        y: y.with(Choices { log: true, zero: false }),
        layers,
        gutter: Vec::new(),
        empty: rows.is_empty().then(|| "No census was taken.".to_owned()),
        weight: 1.0,
    }
}

/// The formats' ranges, cut to the axis.
fn ranges(formats: &[Format], (from, to): (f64, f64)) -> Panel {
    let mut layers = Vec::new();
    for (index, format) in formats.iter().enumerate() {
        let [subnormal, normal, end] = limits(*format);
        let mut part = |a: f64, b: f64, fill, what: &str| {
            if b > from && a < to {
                let words = format!("{format}, {what}: {} to {}", power(a as i32), power(b as i32));
                let bars = vec![Span { at: index as f64, from: a.max(from), to: b.min(to), words }];
                layers.push(Layer::plain(Marks::Bars { bars, fill }));
            }
        };
        part(subnormal, normal, SUBNORMAL, "subnormal");
        part(normal, end, NORMAL, "normal range");
    }
    Panel {
        title: "ranges of the formats".to_owned(),
        x: magnitudes((from, to)),
        y: Axis::categories(formats.iter().map(ToString::to_string).collect()),
        layers,
        gutter: Vec::new(),
        empty: None,
        weight: 0.35 + 0.2 * formats.len() as f64,
    }
}

fn words(row: &Row<'_>) -> String {
    let roles = ROLES.iter().filter_map(|role| {
        let bins = shares(row, *role);
        let (first, last) = (bins.first()?.0.floor() as i32, bins.last()?.0.floor() as i32);
        Some(format!("{} {} to {}", text::role(*role), power(first), power(last)))
    });
    let roles: Vec<String> = roles.collect();
    if roles.is_empty() { "not counted".to_owned() } else { roles.join(", ") }
}
