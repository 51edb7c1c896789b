//! Overflow and underflow by layer and role, as shares of the values looked at.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Counts, Evidence, Numerics, Role};
use crate::report::table::{LayerSum, Row, Table};
use crate::report::text;
use crate::report::theme::{Colour, GRID, OVERFLOW, UNDERFLOW};

use super::{
    Arrange, At, Axis, Cell, Figure, Fill, Group, Hatch, Key, Layer, Marks, Panel, Swatch, Tick,
    alt, first_of, label, room_for,
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

/// Something that is counted.
struct Kind {
    name: &'static str,
    count: OfCounts,
    colour: Colour,
}

/// What is counted, and its colour.
const KINDS: [Kind; 2] = [
    Kind { name: "overflow", count: |counts| counts.overflow, colour: OVERFLOW },
    Kind { name: "underflow", count: |counts| counts.underflow, colour: UNDERFLOW },
];

/// A cell without a tensor.
const BLANK: Fill = Fill { colour: GRID, hatch: Hatch::Plain };

/// Shares up to this are tinted least; those of 1, most; between, by their logarithm.
const FAINTEST: f64 = 1e-7;

/// Letters that fit below the whole grid.
const GROUP_LETTERS: usize = 110;

/// Layers that are drawn: the plots of more would be taller than a picture can be.
const MOST_LAYERS: usize = 200;

/// The counts of a variant by layer and role: of the steps in which its loss scale settled, or of all others.
struct Census<'a> {
    row: &'a Row<'a>,
    settling: bool,
    /// Of the tensors of which a value was looked at.
    counts: BTreeMap<(&'a str, Role), Counts>,
}

impl<'a> Census<'a> {
    fn of(row: &'a Row<'_>, settling: bool) -> Self {
        let counts = |sum: &LayerSum<'_>| {
            if settling { sum.settling } else { sum.counts.minus(sum.settling) }
        };
        let counts = row.census.iter().map(|sum| ((sum.layer, sum.role), counts(sum)));
        Self { row, settling, counts: counts.filter(|(_, counts)| counts.elements > 0).collect() }
    }

    fn label(&self) -> String {
        let settling = if self.settling { " (while settling)" } else { "" };
        format!("{}{settling}", self.row.label())
    }
}

/// Every layer of some censuses, in the order of the first that has it.
fn layers<'a>(censuses: &[&'a Census<'a>]) -> Vec<&'a str> {
    let sums = censuses.iter().flat_map(|census| &census.row.census);
    let mut known = BTreeSet::new();
    sums.map(|sum| sum.layer).filter(|layer| known.insert(*layer)).collect()
}

/// The part of the censuses in which something was counted: what is 0 everywhere is said and not drawn.
struct Part<'a> {
    kind: &'a Kind,
    censuses: Vec<&'a Census<'a>>,
    layers: Vec<&'a str>,
    /// Variants and layers that are left out, in words.
    left_out: Vec<String>,
}

impl<'a> Part<'a> {
    fn of(kind: &'a Kind, all: &'a [Census<'a>]) -> Self {
        let some = |counts: &Counts| (kind.count)(*counts) > 0;
        let counted = || all.iter().filter(|census| !census.counts.is_empty());
        let has = |census: &&Census<'_>| census.counts.values().any(some);
        let censuses: Vec<_> = counted().filter(has).collect();
        let without: Vec<String> =
            counted().filter(|census| !has(census)).map(Census::label).collect();
        let whole = layers(&censuses);
        let mut kept = whole.clone();
        kept.retain(|layer| {
            let of_layer = |census: &&Census<'_>| {
                census.counts.iter().any(|((name, _), counts)| name == layer && some(counts))
            };
            censuses.iter().any(of_layer)
        });
        let zero = whole.len() - kept.len();
        let all_layers = kept.len();
        kept.truncate(MOST_LAYERS);
        let left_out = [
            (!without.is_empty() && !censuses.is_empty())
                .then(|| format!("No {} on census steps: {}.", kind.name, text::list(&without))),
            (zero > 0).then(|| {
                format!("No {} in any variant: {}.", kind.name, text::plural(zero, "other layer"))
            }),
            first_of(MOST_LAYERS, all_layers, "layers", "the page lists them all"),
        ];
        Self { kind, censuses, layers: kept, left_out: left_out.into_iter().flatten().collect() }
    }
}

/// The figure.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let rows = table.rows.iter();
    let censuses: Vec<Census<'_>> =
        rows.flat_map(|row| [true, false].map(|settling| Census::of(row, settling))).collect();
    let counted = censuses.iter().any(|census| !census.counts.is_empty());
    let parts = KINDS.each_ref().map(|kind| Part::of(kind, &censuses));
    let signs = ROLES.map(|(role, sign, _)| format!("{sign}: {}", text::role(role)));
    let rows: usize = parts.iter().map(|part| part.layers.len()).sum();
    let mut notes = vec![format!("{}. A 0 is exactly none.", signs.join(", "))];
    notes.extend(parts.iter().flat_map(|part| part.left_out.iter().cloned()));
    notes.extend(table.rows.iter().filter_map(settling));
    Figure {
        file: "overflow-underflow".into(),
        title: "Overflow and underflow by layer and role".to_owned(),
        subtitle:
            "Share of the values on census steps. The tint follows the logarithm of the share."
                .to_owned(),
        alt: alt("Overflow and underflow by role", table, words),
        room: room_for(rows, 20.0) + 100.0,
        arrange: Arrange::Stacked,
        legend: vec![Key::of_mark("the layer has no such tensor", Swatch::Fill(BLANK))],
        panels: parts.iter().map(|part| panel(part, counted)).collect(),
        notes,
    }
}

/// What was counted before a run's first update, while its loss scale came down, apart from what was counted after.
fn settling(row: &Row<'_>) -> Option<String> {
    let Evidence { settling, settled, .. } = row.numerics.evidence;
    let of = |counts: Counts| {
        format!(
            "{} overflow and {} underflow of {} values",
            text::count(counts.overflow),
            text::count(counts.underflow),
            text::count(counts.elements)
        )
    };
    (settling.elements > 0).then(|| {
        format!(
            "{}: {} while the loss scale settled; after that {}.",
            label(row),
            of(settling),
            of(settled)
        )
    })
}

fn panel(part: &Part<'_>, counted: bool) -> Panel {
    let Part { kind, censuses, layers, .. } = part;
    let (mut ticks, mut groups) = (Vec::new(), Vec::new());
    let (mut cells, mut blanks) = (Vec::new(), Vec::new());
    for (index, census) in censuses.iter().enumerate() {
        let label = census.label();
        let first = (index * ROLES.len()) as f64;
        let span = (first - 0.5, first + ROLES.len() as f64 - 0.5);
        let letters = (GROUP_LETTERS / censuses.len()).max(3);
        groups.push(Group { span, label: text::shorten(&label, letters) });
        for (place, (role, sign, _)) in ROLES.iter().enumerate() {
            let x = first + place as f64;
            ticks.push(Tick { at: x, label: (*sign).to_owned() });
            for (y, layer) in layers.iter().enumerate() {
                let place = format!("{label}, {}, {}", text::printable(layer), text::role(*role));
                let at = (x, y as f64);
                if let Some(counts) = census.counts.get(&(*layer, *role)) {
                    cells.push(cell(kind, at, *counts, &place));
                } else {
                    let words = format!("{place}: no such tensor");
                    blanks.push(Cell { at, shade: 1.0, label: String::new(), words });
                }
            }
        }
    }
    let columns = ticks.len().max(1) as f64;
    let empty = cells.is_empty().then(|| {
        let none = format!("No {} on the census steps.", kind.name);
        if counted { none } else { "No census by layer is in.".to_owned() }
    });
    let names = layers.iter().map(|l| text::shorten(&text::printable(l), 30)).collect();
    Panel {
        title: kind.name.to_owned(),
        x: Axis::grid((-0.5, columns - 0.5), ticks, groups),
        y: Axis::categories(names),
        layers: [(blanks, GRID), (cells, kind.colour)]
            .map(|(cells, colour)| Layer::plain(Marks::Cells { cells, colour }))
            .to_vec(),
        gutter: Vec::new(),
        empty,
        weight: layers.len().max(2) as f64,
    }
}

/// The share of one layer and role.
fn cell(kind: &Kind, at: At, counts: Counts, place: &str) -> Cell {
    let count = (kind.count)(counts);
    let share = count as f64 / counts.elements as f64;
    let words = format!(
        "{place}: {} {} of {} ({})",
        text::count(count),
        kind.name,
        text::count(counts.elements),
        text::share(share)
    );
    Cell { at, shade: shade(share), label: brief(share), words }
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

    /// The fixture's censuses have overflow in one layer of two, of all variants but the baseline and bf16-mixed.
    #[test]
    fn what_is_0_everywhere_is_said_and_not_drawn() {
        let loaded = [crate::report::fixture::loaded()];
        let figure = figure(&Table::of(&loaded));
        let names =
            |panel: &Panel| panel.y.ticks.iter().map(|t| t.label.clone()).collect::<Vec<_>>();
        let [overflow, _] = figure.panels.as_slice() else { panic!("two panels") };
        assert_eq!(names(overflow), ["hidden.0"]);
        assert!(overflow.x.groups.iter().all(|group| group.label != "fp32"));
        let said = "No overflow on census steps: fp32, bf16-mixed and e5m2.";
        assert!(figure.notes.iter().any(|note| note == said), "{:?}", figure.notes);
        // hidden.0 has no counts of two roles: blank, which is not 0.
        let Marks::Cells { cells: blanks, .. } = &overflow.layers[0].marks else { panic!() };
        let Marks::Cells { cells, .. } = &overflow.layers[1].marks else { panic!() };
        assert_eq!((blanks.len(), cells.len()), (2 * 2, 2 * 2));
    }

    /// What was counted while the loss scale settled has columns of its own, and is not in the others.
    #[test]
    fn counts_while_the_loss_scale_settled_stand_apart() {
        let mut loaded = [crate::report::fixture::loaded()];
        let of = |table: &Table<'_>, group: &str| {
            let figure = figure(table);
            let panel = &figure.panels[0];
            let place = panel.x.groups.iter().position(|g| g.label == group)?;
            let span = panel.x.groups[place].span;
            let Marks::Cells { cells, .. } = &panel.layers[1].marks else { panic!("cells") };
            let inside = cells.iter().filter(|cell| cell.at.0 > span.0 && cell.at.0 < span.1);
            Some(inside.map(|cell| cell.words.clone()).collect::<Vec<_>>())
        };
        let variant = loaded[0].results.variants[1].name.clone();
        let apart = format!("{variant} (while settling)");
        assert_eq!(of(&Table::of(&loaded), &apart), None);
        let records = loaded[0].records.iter_mut().filter(|record| record.variant == variant);
        // Of 5 in every run, 3 fell into the steps in which the scale settled.
        for record in records {
            record.census[0].counts.as_mut().unwrap().overflow = 5;
            record.settling_census = record.census[..1].to_vec();
            let counts = record.settling_census[0].counts.as_mut().unwrap();
            (counts.elements, counts.overflow) = (counts.elements / 2, 3);
        }
        let table = Table::of(&loaded);
        let runs = table.rows[1].records.len();
        for (group, overflow) in [(&apart, 3 * runs), (&variant, 2 * runs)] {
            let words = of(&table, group).unwrap();
            assert!(words[0].contains(&format!(": {overflow} overflow")), "{group}: {words:?}");
        }
    }

    #[test]
    fn tints_follow_the_logarithm_of_the_share() {
        assert_eq!(shade(0.0), 0.0);
        assert_eq!(shade(FAINTEST / 10.0), 0.15);
        assert_eq!(shade(1.0), 1.0);
        let half = shade(FAINTEST.sqrt());
        assert!((half - 0.575).abs() < 1e-12, "{half}");
    }
}
