//! Where things stand in a figure, in logical units from the top left.

use super::{LABEL, SMALL, WIDTH};
use crate::report::figure::{Arrange, At, Axis, Figure, Panel, Swatch};

/// No figure with its title is lower than this, and none without.
const LEAST_HEIGHT: f64 = 540.0;
const LEAST_BARE: f64 = 300.0;

/// Left and right of everything.
pub(super) const MARGIN: f64 = 24.0;

/// Between text and what it belongs to.
pub(super) const GAP: f64 = 10.0;

/// Between two entries of a legend.
const KEY_GAP: f64 = 22.0;

/// Height of a line of the legend.
const KEY_LINE: f64 = 22.0;

/// The first line of the legend, or of the plot where there is none: below the title and the line under it, and without them.
const BODY: f64 = 80.0;
const BARE_BODY: f64 = 20.0;

/// Height of a line of the notes.
const NOTE_LINE: f64 = 17.0;

/// Above a plot with a title.
const TITLE: f64 = 26.0;

/// Below a plot: labels of the ticks; and with a label of the axis.
const TICKS: f64 = 26.0;
const AXIS_LABEL: f64 = 20.0;

/// Below the labels of the ticks: those of groups.
const GROUP_LABEL: f64 = 17.0;

/// Bars are not thicker than this.
const THICKEST_BAR: f64 = 17.0;

/// What stands around the plots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Around {
    /// Title, legend and notes.
    All,
    /// The legend only.
    Legend,
}

/// Where everything stands.
#[derive(Debug)]
pub(super) struct Layout {
    /// What stands around the plots.
    pub(super) around: Around,
    /// The whole figure's height.
    pub(super) height: u32,
    /// The left middle of each entry of the legend.
    pub(super) legend: Vec<At>,
    /// The plots.
    pub(super) frames: Vec<Frame>,
    /// The lines of the notes and their middles.
    pub(super) notes: Vec<(String, f64)>,
}

/// The rectangle of a plot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

/// From the axes of a panel to logical units.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    panel: &'a Panel,
    x: (f64, f64),
    y: (f64, f64),
}

impl View<'_> {
    /// A place on the horizontal axis.
    pub(super) fn x(&self, value: f64) -> f64 {
        self.x.0 + self.x.1 * self.panel.x.place(value)
    }

    /// A place on the vertical axis.
    pub(super) fn y(&self, value: f64) -> f64 {
        self.y.0 + self.y.1 * self.panel.y.place(value)
    }

    /// Half the thickness of a bar, where the vertical axis has one line a category.
    pub(super) fn half_bar(&self) -> f64 {
        (self.y.1.abs() * 0.3).min(THICKEST_BAR)
    }

    /// A point.
    pub(super) fn at(&self, (x, y): At) -> At {
        (self.x(x), self.y(y))
    }
}

impl Frame {
    /// The view of a panel in this frame.
    pub(super) fn view<'a>(&self, panel: &'a Panel) -> View<'a> {
        let map = |axis: &Axis, start: f64, end: f64| {
            let (from, to) = (axis.place(axis.from), axis.place(axis.to));
            let factor = (end - start) / (to - from);
            (start - factor * from, factor)
        };
        View {
            panel,
            x: map(&panel.x, self.left, self.right),
            y: map(&panel.y, self.bottom, self.top),
        }
    }
}

impl Layout {
    /// The layout of a figure.
    pub(super) fn of(figure: &Figure, around: Around) -> Self {
        let (body, least, lines) = match around {
            Around::All => (BODY, LEAST_HEIGHT, wrap(&figure.notes)),
            Around::Legend => (BARE_BODY, LEAST_BARE, Vec::new()),
        };
        let legend = legend(figure, body);
        let top = legend.last().map_or(body - 12.0, |at| at.1 + KEY_LINE / 2.0 + 8.0);
        let foot = 14.0 + NOTE_LINE * lines.len() as f64;
        let height = (top + figure.room + foot).max(least).ceil();
        let below = height - foot;
        let notes = lines.into_iter().enumerate();
        let notes = notes.map(|(index, line)| (line, below + NOTE_LINE * (index as f64 + 0.5)));
        Self {
            around,
            height: height as u32,
            legend,
            notes: notes.collect(),
            frames: match figure.arrange {
                Arrange::Stacked => stacked(&figure.panels, top, below),
                Arrange::Beside => beside(&figure.panels, top, below),
            },
        }
    }
}

/// The width of a sample in a legend.
pub(super) fn swatch_width(swatch: Swatch) -> f64 {
    match swatch {
        Swatch::Line(_) => 36.0,
        Swatch::Fill(_) => 26.0,
        Swatch::Point(_) | Swatch::Cross | Swatch::Rule => 12.0,
    }
}

fn legend(figure: &Figure, top: f64) -> Vec<At> {
    let (mut x, mut y) = (MARGIN, top);
    let mut places = Vec::new();
    for key in &figure.legend {
        let width = swatch_width(key.swatch) + 8.0 + LABEL.width(&key.label);
        if x > MARGIN && x + width > f64::from(WIDTH) - MARGIN {
            (x, y) = (MARGIN, y + KEY_LINE);
        }
        places.push((x, y));
        x += width + KEY_GAP;
    }
    places
}

/// The notes in lines that fit.
fn wrap(notes: &[String]) -> Vec<String> {
    let fits = |line: &str| SMALL.width(line) <= f64::from(WIDTH) - 2.0 * MARGIN;
    let mut lines = Vec::new();
    for note in notes {
        let mut line = String::new();
        for word in note.split(' ') {
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if fits(&longer) || line.is_empty() {
                line = longer;
            } else {
                lines.push(std::mem::replace(&mut line, word.to_owned()));
            }
        }
        lines.push(line);
    }
    lines
}

/// The room for the labels of the vertical axis: at most a third of the figure.
fn label_room(panels: &[Panel]) -> f64 {
    let labels = panels.iter().flat_map(|panel| &panel.y.ticks);
    let widest = labels.map(|tick| LABEL.width(&tick.label)).fold(0.0, f64::max);
    if widest > 0.0 { (widest + GAP).min(f64::from(WIDTH) / 3.0) } else { 0.0 }
}

/// The room for the text beside the plots: at most half of the figure, whatever number stands there.
fn gutter_room(panels: &[Panel]) -> f64 {
    let texts = panels.iter().flat_map(|panel| &panel.gutter);
    let widest = texts.map(|(_, words)| LABEL.width(words)).fold(0.0, f64::max);
    if widest > 0.0 { (widest + GAP).min(f64::from(WIDTH) / 2.0) } else { 0.0 }
}

fn above(panel: &Panel) -> f64 {
    if panel.title.is_empty() { 6.0 } else { TITLE }
}

fn under(panel: &Panel) -> f64 {
    let groups = if panel.x.groups.is_empty() { 0.0 } else { GROUP_LABEL };
    TICKS + groups + if panel.x.label.is_empty() { 0.0 } else { AXIS_LABEL }
}

fn stacked(panels: &[Panel], top: f64, bottom: f64) -> Vec<Frame> {
    let left = MARGIN + label_room(panels);
    let right = f64::from(WIDTH) - MARGIN - gutter_room(panels).max(GAP);
    let taken: f64 = panels.iter().map(|panel| above(panel) + under(panel)).sum();
    let weights: f64 = panels.iter().map(|panel| panel.weight).sum();
    let mut y = top;
    let mut frames = Vec::new();
    for panel in panels {
        let height = (bottom - top - taken) * panel.weight / weights;
        frames.push(Frame {
            left,
            right,
            top: y + above(panel),
            bottom: y + above(panel) + height,
        });
        y += above(panel) + height + under(panel);
    }
    frames
}

fn beside(panels: &[Panel], top: f64, bottom: f64) -> Vec<Frame> {
    let between = 32.0;
    let rooms: Vec<f64> =
        panels.iter().map(|panel| label_room(std::slice::from_ref(panel))).collect();
    let weights: f64 = panels.iter().map(|panel| panel.weight).sum();
    let taken = rooms.iter().sum::<f64>() + between * (panels.len().saturating_sub(1)) as f64;
    let room = f64::from(WIDTH) - 2.0 * MARGIN - GAP - taken;
    let mut x = MARGIN;
    let mut frames = Vec::new();
    for (panel, labels) in panels.iter().zip(rooms) {
        let (left, width) = (x + labels, room * panel.weight / weights);
        frames.push(Frame {
            left,
            right: left + width,
            top: top + above(panel),
            bottom: bottom - under(panel),
        });
        x = left + width + between;
    }
    frames
}
