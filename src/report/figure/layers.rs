//! How large the values of each layer were: for those who look for the layer that leaves a format's range.

use std::collections::BTreeMap;

use crate::record::Role;
use crate::report::table::{Row, Table};
use crate::report::text;

use super::accuracy::lane;
use super::exponents::{ROLES, magnitudes, power};
use super::{
    Arrange, Axis, Figure, Layer, Marks, Panel, Span, Spot, Swatch, alt, first_of, look,
    variant_keys,
};

/// Layers that are drawn: the plots of more would be taller than a picture can be.
const MOST_LAYERS: usize = 12;

/// The share of a layer's values below an interval, and above it.
const TAIL: f64 = 0.01;

/// Where a layer's values lie, in exponents.
struct Spread {
    least: i32,
    low: i32,
    median: i32,
    high: i32,
    most: i32,
}

impl Spread {
    /// Of the values that are not 0 and finite, by exponent; none of none.
    fn of(binades: &BTreeMap<i32, u64>) -> Option<Self> {
        let all: u64 = binades.values().sum();
        let below = |share: f64| {
            let (mut seen, wanted) = (0, share * all as f64);
            let mut exponents = binades.iter().filter(|(_, count)| **count > 0);
            let found = exponents.find(|(_, count)| {
                seen += **count;
                seen as f64 > wanted
            });
            found.map(|(exponent, _)| *exponent)
        };
        let counted = || binades.iter().filter(|(_, count)| **count > 0).map(|(at, _)| *at);
        let (least, most) = (counted().next()?, counted().next_back()?);
        let (low, median) = (below(TAIL)?, below(0.5)?);
        Some(Self { least, low, median, high: below(1.0 - TAIL).unwrap_or(most), most })
    }
}

/// The figure.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let mut layers: Vec<&str> = Vec::new();
    for sum in table.rows.iter().flat_map(|row| &row.census) {
        if !layers.contains(&sum.layer) {
            layers.push(sum.layer);
        }
    }
    let all = layers.len();
    layers.truncate(MOST_LAYERS);
    let mut panels: Vec<Panel> =
        ROLES.iter().filter_map(|role| panel(table, &layers, *role)).collect();
    if let [above @ .., _] = panels.as_mut_slice() {
        for panel in above {
            panel.x.label.clear();
        }
    }
    let rows: usize = panels.iter().map(|panel| panel.y.ticks.len()).sum();
    let each = (8.0 + 5.0 * table.rows.len() as f64).clamp(16.0, 36.0);
    let room = each * rows as f64 + 60.0 * panels.len() as f64;
    if panels.is_empty() {
        panels.push(nothing());
    }
    let legend = variant_keys(table, Swatch::Point, |row| !row.census.is_empty());
    Figure {
        file: "exponents-by-layer".into(),
        title: "Magnitudes by layer and role".to_owned(),
        subtitle: "Mark: median exponent. Line: the middle 98% of the values before rounding, on census steps, without zeros."
            .to_owned(),
        alt: alt("Range of magnitudes by layer", table, words),
        room,
        arrange: Arrange::Stacked,
        legend,
        panels,
        notes: first_of(MOST_LAYERS, all, "layers", "the page lists them all").into_iter().collect(),
    }
}

fn nothing() -> Panel {
    Panel {
        title: String::new(),
        x: magnitudes((-1.0, 1.0)),
        y: Axis::categories(Vec::new()),
        layers: Vec::new(),
        gutter: Vec::new(),
        empty: Some("No census was taken.".to_owned()),
        weight: 1.0,
    }
}

/// A role over the layers that have it.
fn panel(table: &Table<'_>, layers: &[&str], role: Role) -> Option<Panel> {
    let has = |layer: &&&str| {
        let mut sums = table.rows.iter().flat_map(|row| &row.census);
        sums.any(|sum| sum.layer == **layer && sum.role == role && !sum.binades.is_empty())
    };
    let layers: Vec<&str> = layers.iter().filter(has).copied().collect();
    let (mut drawn, mut ends) = (Vec::new(), Vec::new());
    for (index, row) in table.rows.iter().enumerate() {
        let (mut spans, mut medians) = (Vec::new(), Vec::new());
        for sum in row.census.iter().filter(|sum| sum.role == role) {
            let Some(place) = layers.iter().position(|layer| *layer == sum.layer) else { continue };
            let Some(spread) = Spread::of(&sum.binades) else { continue };
            let at = place as f64 + lane(index, table.rows.len());
            let words = format!(
                "{}, {}, {}: median {}, 98% from {} to {}, all from {} to {}",
                row.label(),
                text::printable(sum.layer),
                text::role(role),
                power(spread.median),
                power(spread.low),
                power(spread.high),
                power(spread.least),
                power(spread.most)
            );
            let (from, to) = (f64::from(spread.low), f64::from(spread.high) + 1.0);
            ends.extend([from, to]);
            let median = (f64::from(spread.median) + 0.5, at);
            spans.push(Span { at, from, to, words: words.clone() });
            medians.push(Spot { at: median, words });
        }
        let look = look(table, index);
        let whiskers = Marks::Whiskers { spans, upright: false, colour: look.colour };
        drawn.push(Layer::of(index, whiskers));
        drawn.push(Layer::of(index, Marks::Points { spots: medians, look }));
    }
    let least = ends.iter().copied().reduce(f64::min)?;
    let most = ends.iter().copied().reduce(f64::max)?;
    let names = layers.iter().map(|layer| text::shorten(&text::printable(layer), 30)).collect();
    Some(Panel {
        title: text::role(role).to_owned(),
        x: magnitudes((least - 1.0, most + 1.0)),
        y: Axis::categories(names),
        layers: drawn,
        gutter: Vec::new(),
        empty: None,
        weight: layers.len().max(1) as f64,
    })
}

fn words(row: &Row<'_>) -> String {
    let layers = row.census.iter().filter_map(|sum| {
        let spread = Spread::of(&sum.binades)?;
        Some(format!(
            "{} {} {} to {}",
            text::printable(sum.layer),
            text::role(sum.role),
            power(spread.low),
            power(spread.high)
        ))
    });
    let layers: Vec<String> = layers.take(MOST_LAYERS * ROLES.len()).collect();
    if layers.is_empty() { "not counted".to_owned() } else { layers.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand values, 5 of them far below the others and 5 far above: less than a hundredth.
    #[test]
    fn an_interval_leaves_out_a_hundredth_on_either_side() {
        let binades = BTreeMap::from([(-30, 5), (-3, 490), (0, 500), (9, 5)]);
        let Spread { least, low, median, high, most } = Spread::of(&binades).unwrap();
        assert_eq!([least, low, median, high, most], [-30, -3, 0, 0, 9]);
        let Spread { least, low, median, high, most } =
            Spread::of(&BTreeMap::from([(2, 1)])).unwrap();
        assert_eq!([least, low, median, high, most], [2; 5]);
        assert!(Spread::of(&BTreeMap::new()).is_none());
    }
}
