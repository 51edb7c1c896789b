//! What the figures show, as data: axes with units, marks, legends, notes and a text for those who cannot see them.
//! Knows no drawing. Positions on an axis are already transformed (logarithms taken); ticks carry their labels.

mod accuracy;
mod axis;
mod cost;
mod loss;
mod numerics;
mod scale;

use super::load::Loaded;
use super::table::Table;
use super::text;

pub(super) use axis::{Axis, Tick};

/// A point on the axes of a panel.
pub(super) type At = (f64, f64);

/// A figure.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    /// The file's name without its ending.
    pub(super) file: &'static str,
    /// What it shows.
    pub(super) title: String,
    /// How to read it.
    pub(super) subtitle: String,
    /// The same in words and numbers.
    pub(super) alt: String,
    /// The height that the plots need at least, in logical units.
    pub(super) room: f64,
    /// How the panels lie.
    pub(super) arrange: Arrange,
    /// What the marks mean.
    pub(super) legend: Vec<Key>,
    /// The plots.
    pub(super) panels: Vec<Panel>,
    /// What a reader must know beside.
    pub(super) notes: Vec<String>,
}

/// How the panels of a figure lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrange {
    /// One above the other.
    Stacked,
    /// Side by side, with one set of labels for the vertical axis.
    Beside,
}

/// An entry of a legend.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// Its words.
    pub(super) label: String,
    /// What it explains.
    pub(super) swatch: Swatch,
}

/// The sample beside an entry of a legend.
#[derive(Clone, Copy, Debug)]
pub(super) enum Swatch {
    /// A line with its marker.
    Line(Look),
    /// A marker.
    Point(Look),
    /// An area.
    Fill(Fill),
    /// ✕.
    Cross,
    /// A short upright line.
    Rule,
}

/// One plot.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    /// Above the plot: what the vertical axis is.
    pub(super) title: String,
    /// The horizontal axis.
    pub(super) x: Axis,
    /// The vertical axis.
    pub(super) y: Axis,
    /// What is drawn, in this order.
    pub(super) marks: Vec<Mark>,
    /// Text right of the plot at a height of the vertical axis.
    pub(super) gutter: Vec<(f64, String)>,
    /// Said in the middle, where there is nothing to draw.
    pub(super) empty: Option<String>,
    /// Its part of the figure's height or width.
    pub(super) weight: f64,
}

/// One thing to draw.
#[derive(Clone, Debug)]
pub(super) enum Mark {
    /// An area between two lines: (x, lower, upper).
    Band {
        /// Its edges.
        edges: Vec<(f64, f64, f64)>,
        /// Its colour, drawn lightly.
        colour: Colour,
    },
    /// A line through points.
    Line {
        /// The points.
        points: Vec<At>,
        /// Colour and dash.
        look: Look,
    },
    /// A marker.
    Point {
        /// Where.
        at: At,
        /// Colour and shape.
        look: Look,
    },
    /// ✕: a run that ended before its time.
    Cross {
        /// Where.
        at: At,
        /// Its colour.
        colour: Colour,
    },
    /// A horizontal bar.
    Bar {
        /// Its middle on the vertical axis.
        y: f64,
        /// From and to on the horizontal axis.
        span: (f64, f64),
        /// Its look.
        fill: Fill,
    },
    /// A horizontal interval.
    Whisker {
        /// On the vertical axis.
        y: f64,
        /// From and to on the horizontal axis.
        span: (f64, f64),
    },
    /// A short upright line: a mean.
    Rule {
        /// Its middle.
        at: At,
    },
    /// A dashed line over the whole height.
    Divider {
        /// On the horizontal axis.
        x: f64,
    },
    /// A thin line over the whole width.
    Separator {
        /// On the vertical axis.
        y: f64,
    },
    /// Words that begin at a point.
    Words {
        /// Where.
        at: At,
        /// The words.
        words: String,
    },
}

/// Red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour(pub(super) u8, pub(super) u8, pub(super) u8);

/// The palette of Okabe and Ito (2008), safe for the colour-blind; without yellow, which is faint on white.
const PALETTE: [Colour; 7] = [
    Colour(0, 0, 0),
    Colour(0, 114, 178),
    Colour(213, 94, 0),
    Colour(0, 158, 115),
    Colour(204, 121, 167),
    Colour(230, 159, 0),
    Colour(86, 180, 233),
];

/// The shape of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// ●
    Circle,
    /// ■
    Square,
    /// ▲
    Up,
    /// ◆
    Diamond,
    /// ▼
    Down,
}

/// Lengths of strokes and gaps; empty: a whole line.
pub(super) type Dash = &'static [f64];

const SHAPES: [Shape; 5] = [Shape::Circle, Shape::Square, Shape::Up, Shape::Diamond, Shape::Down];

const DASHES: [Dash; 5] = [&[], &[9.0, 4.0], &[3.0, 3.0], &[12.0, 4.0, 3.0, 4.0], &[16.0, 6.0]];

/// How a variant is drawn everywhere: colour, shape and dash all differ from its neighbours'.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    /// The colour.
    pub(super) colour: Colour,
    /// The shape of its points.
    pub(super) shape: Shape,
    /// The dash of its lines.
    pub(super) dash: Dash,
}

impl Look {
    /// The look of the variant at `index` in the plan.
    pub(super) fn of(index: usize) -> Self {
        Self {
            colour: PALETTE[index % PALETTE.len()],
            shape: SHAPES[index % SHAPES.len()],
            dash: DASHES[index % DASHES.len()],
        }
    }
}

/// How an area is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fill {
    /// The colour.
    pub(super) colour: Colour,
    /// The lines over it.
    pub(super) hatch: Hatch,
}

/// White lines over a filled area, so that areas differ without colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hatch {
    /// No lines.
    Plain,
    /// `/`
    Rising,
    /// `\`
    Falling,
    /// `|`
    Upright,
    /// `/` and `\`
    Crossed,
}

/// Every figure of a report.
pub(super) fn all(loaded: &Loaded, table: &Table) -> Vec<Figure> {
    vec![
        loss::figure(loaded, table),
        cost::step_time(table),
        cost::memory(table),
        accuracy::figure(loaded, table),
        numerics::figure(table),
        scale::figure(loaded, table),
    ]
}

/// The height that `rows` lines of the vertical axis need.
fn room_for(rows: usize, each: f64) -> f64 {
    rows.min(400) as f64 * each + 60.0
}

/// A name as a label beside an axis or in a legend.
fn label(name: &str) -> String {
    text::shorten(&text::printable(name), 30)
}

/// A legend with one entry a variant.
fn variant_keys(
    table: &Table,
    swatch: fn(Look) -> Swatch,
    has_data: impl Fn(&str) -> bool,
) -> Vec<Key> {
    let rows = table.rows.iter().enumerate();
    rows.map(|(index, row)| {
        let missing = if has_data(&row.name) { "" } else { " (no data)" };
        Key { label: format!("{}{missing}", label(&row.name)), swatch: swatch(Look::of(index)) }
    })
    .collect()
}
