//! What the figures show, as data: axes with units, series of marks, legends, notes and a text for those who cannot see
//! them. Knows no drawing; `draw` makes PNG and SVG of it, `interactive` what a page can zoom into.

mod accuracy;
mod axis;
mod cost;
mod difference;
mod exponents;
mod heat;
mod layers;
mod loss;
mod scale;
mod serving;
mod trade;
mod trend;

use std::borrow::Cow;

use super::table::{Row, Table};
use super::text;
use super::theme::{Colour, PALETTE};

pub(super) use axis::{Axis, Choices, Group, Scale, Tick};
pub(super) use trend::trends;

/// A point on the axes of a panel.
pub(super) type At = (f64, f64);

/// A figure.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    /// The file's name without its ending.
    pub(super) file: Cow<'static, str>,
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
    /// The plots; at most [`MOST_PANELS`].
    pub(super) panels: Vec<Panel>,
    /// What a reader must know beside.
    pub(super) notes: Vec<String>,
}

impl Figure {
    /// Whether a measurement is drawn.
    fn shows_something(&self) -> bool {
        let panels = self.panels.iter().filter(|panel| panel.empty.is_none());
        panels.flat_map(|panel| &panel.layers).any(|layer| layer.marks.is_measured())
    }
}

/// The plotting library of the page knows no more axes in a figure.
pub(super) const MOST_PANELS: usize = 8;

/// How the panels of a figure lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrange {
    /// One above the other.
    Stacked,
    /// Side by side, each with labels of its own.
    Beside,
}

/// An entry of a legend.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// Its words.
    pub(super) label: String,
    /// What it explains.
    pub(super) swatch: Swatch,
    /// The series that it names, if it names one: a page can hide it.
    pub(super) series: Option<usize>,
}

impl Key {
    /// An entry that names no series.
    fn of_mark(label: &str, swatch: Swatch) -> Self {
        Self { label: label.to_owned(), swatch, series: None }
    }
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
    pub(super) layers: Vec<Layer>,
    /// Text right of the plot at a height of the vertical axis.
    pub(super) gutter: Vec<(f64, String)>,
    /// Said in the middle, where there is nothing to draw.
    pub(super) empty: Option<String>,
    /// Its part of the figure's height or width.
    pub(super) weight: f64,
}

/// Marks of one kind.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// The series of the legend that they belong to, if to one.
    pub(super) series: Option<usize>,
    /// The marks.
    pub(super) marks: Marks,
}

impl Layer {
    /// Marks of a series.
    fn of(series: usize, marks: Marks) -> Self {
        Self { series: Some(series), marks }
    }

    /// Marks of no series.
    fn plain(marks: Marks) -> Self {
        Self { series: None, marks }
    }
}

/// Things to draw, all alike.
#[derive(Clone, Debug)]
pub(super) enum Marks {
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
        /// How strong it is.
        stroke: Stroke,
    },
    /// Markers.
    Points {
        /// Where, and what each is in words.
        spots: Vec<Spot>,
        /// Colour and shape.
        look: Look,
    },
    /// ✕: runs that ended before their time.
    Crosses {
        /// Where, and what each is in words.
        spots: Vec<Spot>,
        /// Their colour.
        colour: Colour,
    },
    /// Short upright lines: means.
    Rules(Vec<Spot>),
    /// Horizontal bars.
    Bars {
        /// The bars.
        bars: Vec<Span>,
        /// Their look.
        fill: Fill,
    },
    /// Intervals, horizontal or upright.
    Whiskers {
        /// The intervals.
        spans: Vec<Span>,
        /// Whether they stand upright: then a span's place is on the horizontal axis.
        upright: bool,
        /// Their colour.
        colour: Colour,
    },
    /// A tinted part of the horizontal axis, over the whole height.
    Zone((f64, f64)),
    /// A tinted part of the vertical axis, over the whole width.
    Strip((f64, f64)),
    /// A dashed line over the whole height, at a place of the horizontal axis.
    Divider(f64),
    /// A thin line over the whole width, at a place of the vertical axis.
    Separator(f64),
    /// Tinted cells of a grid, each one unit wide and high.
    Cells {
        /// The cells.
        cells: Vec<Cell>,
        /// The colour of the strongest.
        colour: Colour,
    },
    /// Words that begin at a point.
    Words(Vec<Spot>),
}

impl Marks {
    /// Whether these are marks of something measured.
    fn is_measured(&self) -> bool {
        match self {
            Self::Band { edges, .. } => !edges.is_empty(),
            Self::Line { points, .. } => !points.is_empty(),
            Self::Points { spots, .. } | Self::Crosses { spots, .. } | Self::Rules(spots) => {
                !spots.is_empty()
            }
            Self::Bars { bars, .. } => !bars.is_empty(),
            Self::Whiskers { spans, .. } => !spans.is_empty(),
            Self::Cells { cells, .. } => !cells.is_empty(),
            Self::Zone(_)
            | Self::Strip(_)
            | Self::Divider(_)
            | Self::Separator(_)
            | Self::Words(_) => false,
        }
    }
}

/// A place and what is there, in words.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// Where.
    pub(super) at: At,
    /// What it is, with its numbers.
    pub(super) words: String,
}

/// A part of an axis at a place on the other, and what it is in words.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// The place on the other axis.
    pub(super) at: f64,
    /// From.
    pub(super) from: f64,
    /// To.
    pub(super) to: f64,
    /// What it is, with its numbers.
    pub(super) words: String,
}

/// A cell of a grid.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// Its middle.
    pub(super) at: At,
    /// How strong its tint is, 0 to 1.
    pub(super) shade: f64,
    /// What stands in it.
    pub(super) label: String,
    /// What it is, with its numbers.
    pub(super) words: String,
}

/// How strong a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stroke {
    /// What the figure is about.
    Main,
    /// What stands behind that.
    Faint,
}

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
    /// The look of the variant at `index` of one experiment.
    pub(super) fn of(index: usize) -> Self {
        Self::new(index, index)
    }

    fn new(colour: usize, mark: usize) -> Self {
        Self {
            colour: PALETTE[colour % PALETTE.len()],
            shape: SHAPES[mark % SHAPES.len()],
            dash: DASHES[mark % DASHES.len()],
        }
    }
}

/// The look of a row of the table. Of several experiments side by side, the colour is the policy and shape and dash are the
/// experiment, as long as there are colours and shapes enough for that and no experiment trains a policy twice.
fn look(table: &Table<'_>, index: usize) -> Look {
    let keys: Vec<[&str; 2]> =
        table.rows.iter().map(|row| [row.policy.as_str(), row.experiment]).collect();
    let Some([policy, experiment]) = keys.get(index) else {
        return Look::of(index);
    };
    let distinct = |part: usize| {
        let mut known: Vec<&str> = Vec::new();
        for key in &keys {
            if !known.contains(&key[part]) {
                known.push(key[part]);
            }
        }
        known
    };
    let (policies, experiments) = (distinct(0), distinct(1));
    let fits = policies.len() <= PALETTE.len() && experiments.len() <= SHAPES.len();
    let once = (1..keys.len()).all(|at| !keys[..at].contains(&keys[at]));
    let place = |known: &[&str], key: &str| known.iter().position(|known| *known == key);
    match (place(&policies, policy), place(&experiments, experiment)) {
        (Some(colour), Some(mark)) if experiments.len() > 1 && fits && once => {
            Look::new(colour, mark)
        }
        _ => Look::of(index),
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

/// Lines over a filled area, so that areas differ without colour.
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

/// Figures that a page shows on request only.
pub(super) const FOLDED: [&str; 1] = ["exponents-by-layer"];

/// Variants that are drawn: with more, two would look alike, colour, shape and dash.
pub(super) const MOST_DRAWN: usize = PALETTE.len() * SHAPES.len();

/// Every figure of a report, of the first [`MOST_DRAWN`] variants. Where nothing was trained those that have nothing to show are left
/// out.
pub(super) fn all(table: &Table<'_>) -> Vec<Figure> {
    let drawn = &table.first(MOST_DRAWN);
    let mut figures = vec![
        difference::figure(drawn),
        trade::figure(drawn),
        cost::step_time(drawn),
        cost::memory(drawn),
        cost::inference(drawn),
    ];
    figures.extend(serving::figure(drawn));
    figures.extend([
        loss::figure(drawn),
        accuracy::figure(drawn),
        scale::figure(drawn),
        heat::figure(drawn),
        exponents::figure(drawn),
        layers::figure(drawn),
    ]);
    if !drawn.rows.is_empty() && drawn.rows.iter().all(|row| !row.trains) {
        figures.retain(|figure| figure.file == "inference" || figure.shows_something());
    }
    let cut = first_of(MOST_DRAWN, table.rows.len(), "variants", "the tables hold them all");
    for figure in &mut figures {
        figure.notes.extend(cut.clone());
    }
    figures
}

/// That only the first so many are drawn, where there are more, and where the others are.
fn first_of(most: usize, all: usize, what: &str, others: &str) -> Option<String> {
    (all > most).then(|| {
        format!("The first {most} of {} {what} are drawn; {others}.", text::count(all as u64))
    })
}

/// The height that `rows` lines of the vertical axis need.
fn room_for(rows: usize, each: f64) -> f64 {
    rows as f64 * each + 60.0
}

/// A row's name as a label beside an axis or in a legend.
fn label(row: &Row<'_>) -> String {
    text::shorten(&row.label(), 30)
}

/// A vertical axis with one line a row.
fn row_axis<'a>(rows: impl Iterator<Item = &'a Row<'a>>) -> Axis {
    Axis::categories(rows.map(label).collect())
}

/// What stands in a figure that has no variant.
fn nothing_in(table: &Table<'_>) -> Option<String> {
    table.rows.is_empty().then(|| "There are no variants.".to_owned())
}

/// A legend with one entry a variant.
fn variant_keys(
    table: &Table<'_>,
    swatch: fn(Look) -> Swatch,
    has_data: impl Fn(&Row<'_>) -> bool,
) -> Vec<Key> {
    let rows = table.rows.iter().enumerate();
    rows.map(|(index, row)| {
        let missing = if has_data(row) { "" } else { " (no data)" };
        let label = format!("{}{missing}", label(row));
        Key { label, swatch: swatch(look(table, index)), series: Some(index) }
    })
    .collect()
}

/// A figure in words: what each row shows.
fn alt(title: &str, table: &Table<'_>, words: impl Fn(&Row<'_>) -> String) -> String {
    let rows = table.rows.iter();
    let rows: Vec<String> = rows.map(|row| format!("{}: {}", row.label(), words(row))).collect();
    format!("{title}. {}.", rows.join("; "))
}
