//! Overflow and underflow by layer and role, as shares of the values looked at.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Counts, Numerics, Role};
use crate::report::table::{Row, Table};
use crate::report::text;
use crate::report::theme::{Colour, OVERFLOW, UNDERFLOW};

use super::{
    Arrange, Axis, Cell, Figure, Group, Layer, Marks, Panel, Tick, alt, first_of, room_for,
};

/// The counts of one role over all layers.
type OfRole = fn(&Numerics) -> Counts;

/// One of the counts.
type OfCounts = fn(Counts) -> u64;

/// The roles of the census in the order of a step, with a sign for each.
const ROLES: [(Role, &str, OfRole); 4] = [
    (Role::Weights, "W", |numerics| numerics.weights),
    (Role::Activations, "A", |numerics| numerics.activations),
    (Role::ActivationGradients, "∂A", |numerics| numerics.activation_gradients),
    (Role::WeightGradients, "∂W", |numerics| numerics.weight_gradients),
];

/// What is counted, and its colour.
const KINDS: [(&str, OfCounts, Colour); 2] = [
    ("overflow", |counts| counts.overflow, OVERFLOW),
    ("underflow", |counts| counts.underflow, UNDERFLOW),
];

/// Shares up to this are tinted least; those of 1, most; between, by their logarithm.
const FAINTEST: f64 = 1e-7;

/// Letters that fit below the whole grid.
const GROUP_LETTERS: usize = 110;

/// Layers that are drawn: the plots of more would be taller than a picture can be.
const MOST_LAYERS: usize = 200;

/// A variant and its counts by layer and role, where anything was looked at.
type Census<'a> = (&'a Row<'a>, BTreeMap<(&'a str, Role), Counts>);

fn census<'a>(row: &'a Row<'_>) -> Census<'a> {
    let counted = row.census.iter().filter(|sum| sum.counts.elements > 0);
    (row, counted.map(|sum| ((sum.layer, sum.role), sum.counts)).collect())
}

/// Every layer of the variants' censuses, in the order of the first that has it.
fn layers<'a>(table: &'a Table<'_>) -> Vec<&'a str> {
    let sums = table.rows.iter().flat_map(|row| &row.census);
    let mut known = BTreeSet::new();
    sums.map(|sum| sum.layer).filter(|layer| known.insert(*layer)).collect()
}

/// The figure.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let censuses: Vec<Census<'_>> = table.rows.iter().map(census).collect();
    let mut layers = layers(table);
    let all = layers.len();
    layers.truncate(MOST_LAYERS);
    let signs = ROLES.map(|(role, sign, _)| format!("{sign}: {}", text::role(role)));
    Figure {
        file: "overflow-underflow",
        title: "Overflow and underflow by layer and role".to_owned(),
        subtitle: "Share of the values looked at on census steps; the stronger the tint, the larger, by its logarithm.".to_owned(),
        alt: alt("Overflow and underflow by role", table, words),
        room: 2.0 * room_for(layers.len(), 20.0),
        arrange: Arrange::Stacked,
        legend: Vec::new(),
        panels: KINDS.map(|kind| panel(&censuses, &layers, kind)).to_vec(),
        notes: [
            format!("{}. A 0 is exactly none.", signs.join(", ")),
            "Where a cell is too narrow for its share, the page tells it at the pointer.".to_owned(),
        ]
        .into_iter()
        .chain(first_of(MOST_LAYERS, all, "layers", "the page lists them all"))
        .collect(),
    }
}

fn panel(
    censuses: &[Census<'_>],
    layers: &[&str],
    (name, count, colour): (&str, OfCounts, Colour),
) -> Panel {
    let (mut cells, mut ticks, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (row, census)) in censuses.iter().enumerate() {
        let first = (index * ROLES.len()) as f64;
        let span = (first - 0.5, first + ROLES.len() as f64 - 0.5);
        let shown = text::shorten(&row.label(), (GROUP_LETTERS / censuses.len()).max(3));
        groups.push(Group { span, label: shown });
        for (place, (role, sign, _)) in ROLES.iter().enumerate() {
            let x = first + place as f64;
            ticks.push(Tick { at: x, label: (*sign).to_owned() });
            for (y, layer) in layers.iter().enumerate() {
                let Some(counts) = census.get(&(*layer, *role)).copied() else {
                    continue;
                };
                let share = count(counts) as f64 / counts.elements as f64;
                let words = format!(
                    "{}, {}, {}: {} {name} of {} ({})",
                    row.label(),
                    text::printable(layer),
                    text::role(*role),
                    text::count(count(counts)),
                    text::count(counts.elements),
                    text::share(share)
                );
                let label = brief(share);
                cells.push(Cell { at: (x, y as f64), shade: shade(share), label, words });
            }
        }
    }
    let columns = ticks.len().max(1) as f64;
    let empty = cells.is_empty().then(|| "No census by layer is in.".to_owned());
    Panel {
        title: name.to_owned(),
        x: Axis::grid((-0.5, columns - 0.5), ticks, groups),
        y: Axis::categories(
            layers.iter().map(|l| text::shorten(&text::printable(l), 30)).collect(),
        ),
        layers: vec![Layer::plain(Marks::Cells { cells, colour })],
        gutter: Vec::new(),
        empty,
        weight: 1.0,
    }
}

/// A share in percent with one or two digits, to fit a cell.
fn brief(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0".to_owned(),
        p if p < 0.01 => "<.01%".to_owned(),
        p if p < 0.095 => format!("{p:.2}%"),
        p if p < 9.95 => format!("{p:.1}%"),
        p => format!("{p:.0}%"),
    }
}

/// How strong the tint of a share is, 0 to 1.
fn shade(share: f64) -> f64 {
    if share <= 0.0 {
        return 0.0;
    }
    let part = 1.0 - share.max(FAINTEST).log10() / FAINTEST.log10();
    0.15 + 0.85 * part.clamp(0.0, 1.0)
}

fn words(row: &Row<'_>) -> String {
    if row.counts.elements == 0 {
        return "not counted".to_owned();
    }
    let roles = ROLES.map(|(role, _, counts)| {
        let counts = counts(&row.numerics);
        format!(
            "{} {} overflow and {} underflow of {}",
            text::role(role),
            text::count(counts.overflow),
            text::count(counts.underflow),
            text::count(counts.elements)
        )
    });
    roles.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tints_follow_the_logarithm_of_the_share() {
        assert_eq!(shade(0.0), 0.0);
        assert_eq!(shade(FAINTEST / 10.0), 0.15);
        assert_eq!(shade(1.0), 1.0);
        let half = shade(FAINTEST.sqrt());
        assert!((half - 0.575).abs() < 1e-12, "{half}");
    }
}
