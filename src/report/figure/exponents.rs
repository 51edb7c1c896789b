//! How large the values were: a histogram of exponents a role, over the ranges of the formats.

use std::collections::BTreeMap;

use crate::precision::{Format, Policy};
use crate::record::Role;
use crate::report::table::{Row, Table};
use crate::report::text;
use crate::report::theme::{AXIS, PALETTE};

use super::{
    Arrange, At, Axis, Choices, Figure, Fill, Hatch, Key, Layer, Look, Marks, Panel, Span, Spot,
    Stroke, Swatch, Tick, alt, variant_keys,
};

const ROLES: [Role; 5] = [
    Role::Weights,
    Role::Activations,
    Role::ActivationGradients,
    Role::WeightGradients,
    Role::Updates,
];

/// Where a format has its whole precision, and where it loses it.
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
        roles.iter().map(|(role, rows)| panel(*role, rows, &formats, range)).collect();
    if panels.is_empty() {
        panels.push(panel(Role::Weights, &[], &formats, range));
    } else {
        panels.push(ranges(&formats, range));
    }
    let mut legend = variant_keys(table, Swatch::Line, |row| {
        row.records.iter().any(|record| !record.census.is_empty())
    });
    legend.push(Key::of_mark("whole precision", Swatch::Fill(NORMAL)));
    legend.push(Key::of_mark("subnormal", Swatch::Fill(SUBNORMAL)));
    let narrowest = formats.first().map(|format| {
        format!(
            "Dashed: where {format}, the narrowest here, ends. What lies left of both rounds to 0, what lies right of both to infinity."
        )
    });
    Figure {
        file: "exponents",
        title: "Magnitudes by role".to_owned(),
        subtitle: "Share of the values in each binade before rounding, on census steps, all layers; zeros are left out.".to_owned(),
        alt: alt("Range of magnitudes by role", table, words),
        room: 118.0 * panels.len() as f64 + 60.0,
        arrange: Arrange::Stacked,
        legend,
        panels,
        notes: narrowest.into_iter().collect(),
    }
}

/// From the smallest to the largest exponent that was seen or that the narrowest format has.
fn range(roles: &[(Role, Vec<Vec<At>>)], formats: &[Format]) -> (f64, f64) {
    let seen = roles.iter().flat_map(|(_, rows)| rows.iter().flatten().map(|bin| bin.0));
    let narrow = formats.first().map_or([-1.0, 0.0, 1.0], |format| limits(*format));
    let all = || seen.clone().chain(narrow);
    (all().fold(f64::INFINITY, f64::min) - 2.0, all().fold(f64::NEG_INFINITY, f64::max) + 2.0)
}

/// An axis of magnitudes, in exponents.
fn magnitudes(range: (f64, f64)) -> Axis {
    let mut axis = Axis::linear("magnitude", range, |value, _| power(value as i32));
    axis.ticks.retain(|tick: &Tick| tick.at.fract() == 0.0);
    axis
}

fn power(exponent: i32) -> String {
    format!("2{}", text::raised(exponent))
}

fn panel(role: Role, rows: &[Vec<At>], formats: &[Format], range: (f64, f64)) -> Panel {
    let mut layers = Vec::new();
    if let Some([smallest, _, largest]) = formats.first().map(|format| limits(*format)) {
        layers.extend([smallest - 1.0, largest].map(|at| Layer::plain(Marks::Divider(at))));
    }
    for (index, bins) in rows.iter().enumerate() {
        let look = Look::of(index);
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
        part(normal, end, NORMAL, "whole precision");
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
