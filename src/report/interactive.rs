//! Figures for the page's plotting library, plotly.js: the same data, to hover over, hide and zoom into. Knows no
//! measurement: only what [`figure`](super::figure) says.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use plotly::common::{
    Anchor, DashType, Fill as PlotlyFill, Font, HoverInfo, Line, Marker, MarkerSymbol, Mode,
    Pattern, PatternFillMode, PatternShape, Position, TickMode, Title,
};
use plotly::layout::{
    Annotation, Axis as PlotlyAxis, AxisType, BarMode, HoverMode, Margin, Shape as PlotlyShape,
    ShapeLayer, ShapeLine, ShapeType,
};
use plotly::{Layout, Plot, Scatter, Trace};
use serde::Serialize;

use super::figure::{
    Arrange, At, Axis, Cell, Figure, Fill, Group, Hatch, Layer, Look, MOST_PANELS, Marks, Panel,
    Scale, Shape, Span, Spot, Stroke,
};
use super::text;
use super::theme::{AXIS, Colour, GRID, GROUND, INK, MUTED, ZONE};

/// A bar and a bar's half, in lines of a category.
const BAR: f64 = 0.6;

/// Pixels above the plots, and below one: labels of ticks, and those of groups and of the axis where there are some.
const ABOVE: f64 = 34.0;
const TICKS: f64 = 26.0;
const GROUPS: f64 = 20.0;
const AXIS_LABEL: f64 = 26.0;

/// Between plots side by side, as a share of the figure's width.
const BESIDE: f64 = 0.09;

/// Pixels that the figure needs in height: as many as its drawing takes on a wide page, where the plot takes its place.
fn height(figure: &Figure) -> f64 {
    figure.room.max(300.0) + 80.0
}

/// Pixels below a plot.
fn below(panel: &Panel) -> f64 {
    let groups = if panel.x.groups.is_empty() { 0.0 } else { GROUPS };
    TICKS + groups + if panel.x.label.is_empty() { 0.0 } else { AXIS_LABEL }
}

/// With more columns than this, words do not fit the cells of a grid.
const MOST_TOLD: usize = 24;

/// The script of plotly.js, compressed by gzip: a third of its size.
pub(super) fn compressed_script() -> Result<Vec<u8>, String> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(script().as_bytes()).map_err(|error| error.to_string())?;
    encoder.finish().map_err(|error| error.to_string())
}

/// The script of plotly.js, which needs nothing else.
fn script() -> String {
    // The crate hands out its own copy in an element, followed by one with a library for formulas, which nothing here has.
    let sources = Plot::offline_js_sources();
    let (_, script) = sources.split_once('>').unwrap_or_default();
    script.split_once("</script>").unwrap_or_default().0.to_owned()
}

/// The figure's traces and layout as JSON that can stand in an element of a page.
pub(super) fn json(figure: &Figure) -> String {
    let mut plot = Plot::new();
    let mut layout = Layout::new()
        .auto_size(true)
        .show_legend(false)
        .hover_mode(HoverMode::Closest)
        .bar_mode(BarMode::Overlay)
        .paper_background_color(GROUND.hex())
        .plot_background_color(GROUND.hex())
        .font(Font::new().color(INK.hex()).size(13).family("system-ui, sans-serif"))
        .margin(margin(figure));
    let (mut shapes, mut annotations) = (Vec::new(), Vec::new());
    for (place, (panel, domains)) in figure.panels.iter().zip(domains(figure)).enumerate() {
        let frame = Frame { panel, number: place + 1, domains };
        layout = frame.axes(layout);
        annotations.extend(frame.annotations());
        for layer in &panel.layers {
            if panel.empty.is_none() {
                shapes.extend(frame.shape(&layer.marks));
                plot.add_traces(frame.halo(layer).into_iter().chain(frame.trace(layer)).collect());
            }
        }
    }
    plot.set_layout(layout.shapes(shapes).annotations(annotations));
    // In an element, `<` could begin its end.
    plot.to_json().replace('<', "\\u003c")
}

fn margin(figure: &Figure) -> Margin {
    let widest = |words: &mut dyn Iterator<Item = &String>| {
        words.map(|words| words.chars().count()).max().unwrap_or(0)
    };
    let right = widest(&mut figure.panels.iter().flat_map(|p| p.gutter.iter().map(|g| &g.1)));
    let left = widest(&mut figure.panels.iter().flat_map(|p| p.y.ticks.iter().map(|t| &t.label)));
    let bottom = figure.panels.last().map_or(0.0, below);
    Margin::new()
        .left(30 + 7 * left)
        .right(20 + 7 * right)
        .top(ABOVE as usize)
        .bottom(bottom as usize)
}

/// Where the panels are in the figure: from and to, horizontally and vertically, as shares from the bottom left.
fn domains(figure: &Figure) -> Vec<[(f64, f64); 2]> {
    let panels = &figure.panels[..figure.panels.len().min(MOST_PANELS)];
    let bottom = panels.last().map_or(0.0, below);
    let after = |panel: &Panel| match figure.arrange {
        Arrange::Stacked => (below(panel) + ABOVE) / (height(figure) - ABOVE - bottom),
        Arrange::Beside => BESIDE,
    };
    let weights: f64 = panels.iter().map(|panel| panel.weight).sum();
    let gaps: f64 = panels.iter().rev().skip(1).map(after).sum();
    let mut from = 0.0;
    let spans = panels.iter().map(|panel| {
        let to: f64 = from + (1.0 - gaps) * panel.weight / weights;
        let span = (from, to.min(1.0));
        from = to + after(panel);
        span
    });
    let place = |(from, to): (f64, f64)| match figure.arrange {
        Arrange::Stacked => [(0.0, 1.0), (1.0 - to, 1.0 - from)],
        Arrange::Beside => [(from, to), (0.0, 1.0)],
    };
    spans.map(place).collect()
}

/// A panel and its place.
struct Frame<'a> {
    panel: &'a Panel,
    /// From 1.
    number: usize,
    domains: [(f64, f64); 2],
}

impl Frame<'_> {
    /// The name of an axis here: `x`, `y2`.
    fn axis(&self, letter: char) -> String {
        if self.number == 1 { letter.to_string() } else { format!("{letter}{}", self.number) }
    }

    /// The layout with this panel's axes.
    fn axes(&self, layout: Layout) -> Layout {
        let [across, up] = self.domains;
        let shown = self.panel.empty.is_none();
        let x = axis(&self.panel.x, across, &self.axis('y'), shown);
        let y = axis(&self.panel.y, up, &self.axis('x'), shown);
        match self.number {
            1 => layout.x_axis(x).y_axis(y),
            2 => layout.x_axis2(x).y_axis2(y),
            3 => layout.x_axis3(x).y_axis3(y),
            4 => layout.x_axis4(x).y_axis4(y),
            5 => layout.x_axis5(x).y_axis5(y),
            6 => layout.x_axis6(x).y_axis6(y),
            7 => layout.x_axis7(x).y_axis7(y),
            _ => layout.x_axis8(x).y_axis8(y),
        }
    }

    /// The panel's title, its texts beside, its groups and what it says where it is empty.
    fn annotations(&self) -> Vec<Annotation> {
        let (x, y) = (self.axis('x'), self.axis('y'));
        let inside = |letter: &str| format!("{letter} domain");
        let note = |words: &str, refs: (String, String), at: (f64, f64)| {
            Annotation::new()
                .text(escape(words))
                .show_arrow(false)
                .x_ref(refs.0)
                .y_ref(refs.1)
                .x(at.0)
                .y(at.1)
        };
        let mut notes = Vec::new();
        if !self.panel.title.is_empty() {
            let words = note(&self.panel.title, (inside(&x), inside(&y)), (0.0, 1.0));
            let bold = Font::new().size(13).color(INK.hex());
            notes.push(words.x_anchor(Anchor::Left).y_anchor(Anchor::Bottom).font(bold));
        }
        if let Some(words) = &self.panel.empty {
            notes.push(note(words, (inside(&x), inside(&y)), (0.5, 0.5)));
            return notes;
        }
        for (at, words) in &self.panel.gutter {
            let words = note(words, (inside(&x), y.clone()), (1.005, self.panel.y.place(*at)));
            notes.push(words.x_anchor(Anchor::Left).y_anchor(Anchor::Middle));
        }
        for Group { span, label } in &self.panel.x.groups {
            let words = note(label, (x.clone(), inside(&y)), (f64::midpoint(span.0, span.1), 0.0));
            let quiet = Font::new().size(12).color(MUTED.hex());
            notes.push(words.y_anchor(Anchor::Top).y_shift(-20.0).font(quiet));
        }
        notes
    }

    /// What lies below or across a whole plot.
    fn shape(&self, marks: &Marks) -> Option<PlotlyShape> {
        let (x, y) = (self.axis('x'), self.axis('y'));
        let line = |dash| ShapeLine::new().color(AXIS.hex()).width(1.0).dash(dash);
        let upright = |from: f64, to: f64| {
            let shape = PlotlyShape::new().x_ref(x.clone()).y_ref(format!("{y} domain"));
            shape.x0(from).x1(to).y0(0.0).y1(1.0).layer(ShapeLayer::Below)
        };
        let level = |from: f64, to: f64| {
            let shape = PlotlyShape::new().x_ref(format!("{x} domain")).y_ref(y.clone());
            shape.x0(0.0).x1(1.0).y0(from).y1(to).layer(ShapeLayer::Below)
        };
        let tinted = |shape: PlotlyShape| {
            let shape = shape.shape_type(ShapeType::Rect).fill_color(ZONE.hex());
            shape.line(ShapeLine::new().width(0.0))
        };
        Some(match marks {
            Marks::Zone((from, to)) => tinted(upright(*from, *to)),
            Marks::Strip((from, to)) => tinted(level(*from, *to)),
            Marks::Divider(at) => {
                upright(*at, *at).shape_type(ShapeType::Line).line(line(DashType::Dash))
            }
            Marks::Separator(at) => {
                level(*at, *at).shape_type(ShapeType::Line).line(line(DashType::Solid))
            }
            _ => return None,
        })
    }

    /// The trace of a layer, if its marks are not a shape.
    fn trace(&self, layer: &Layer) -> Option<Box<dyn Trace>> {
        let group = layer.series.map(|series| series.to_string()).unwrap_or_default();
        let scatter = |points: &mut dyn Iterator<Item = At>| {
            let (x, y) = points.map(|at| (short(at.0), short(at.1))).unzip();
            let trace = Scatter::new(x, y).x_axis(self.axis('x')).y_axis(self.axis('y'));
            trace.legend_group(group.as_str()).hover_info(HoverInfo::Text)
        };
        let marked = |spots: &[Spot], marker: Marker| -> Box<dyn Trace> {
            let words = spots.iter().map(|spot| escape(&spot.words)).collect();
            let trace = scatter(&mut spots.iter().map(|spot| spot.at)).mode(Mode::Markers);
            trace.hover_text_array(words).marker(marker)
        };
        Some(match &layer.marks {
            Marks::Band { edges, colour } => {
                let there = edges.iter().map(|(x, low, _)| (*x, *low));
                let back = edges.iter().rev().map(|(x, _, high)| (*x, *high));
                let band = scatter(&mut there.chain(back)).mode(Mode::Lines);
                let (edge, fill) = (Line::new().width(0.0), format!("{}29", colour.hex()));
                band.fill(PlotlyFill::ToSelf)
                    .fill_color(fill)
                    .line(edge)
                    .hover_info(HoverInfo::Skip)
            }
            Marks::Line { points, look, stroke } => {
                let line = scatter(&mut points.iter().copied())
                    .mode(Mode::Lines)
                    .line(line(*look, *stroke));
                match stroke {
                    Stroke::Main => {
                        let template = "%{y:.4~g} at %{x:.4~g}<extra></extra>";
                        line.hover_info(HoverInfo::All).hover_template(template)
                    }
                    Stroke::Faint => line.hover_info(HoverInfo::Skip),
                }
            }
            Marks::Points { spots, look } => marked(spots, marker(*look)),
            Marks::Crosses { spots, colour } => marked(spots, cross(*colour)),
            Marks::Rules(spots) => marked(spots, rule()),
            Marks::Bars { bars, fill } => Box::new(self.bars(bars, *fill, &group)),
            Marks::Whiskers { spans, upright, colour } => {
                let ends = spans.iter().flat_map(|span| ends(span, *upright));
                let words = spans.iter().flat_map(|span| vec![escape(&span.words); 3]).collect();
                let symbol = if *upright { MarkerSymbol::LineEW } else { MarkerSymbol::LineNS };
                let edge = Line::new().color(colour.hex()).width(1.75);
                let caps = Marker::new().symbol(symbol).size(5).line(edge.clone());
                let trace = scatter(&mut { ends }).mode(Mode::LinesMarkers).line(edge);
                trace.marker(caps).hover_text_array(words)
            }
            Marks::Cells { cells, colour } => Box::new(self.grid(cells, *colour)),
            Marks::Words(spots) => {
                let words = spots.iter().map(|spot| escape(&spot.words)).collect();
                let trace = scatter(&mut spots.iter().map(|spot| spot.at)).mode(Mode::Text);
                let trace = trace.text_array(words).text_position(Position::MiddleRight);
                trace.hover_info(HoverInfo::Skip)
            }
            Marks::Zone(_) | Marks::Strip(_) | Marks::Divider(_) | Marks::Separator(_) => {
                return None;
            }
        })
    }

    /// An edge of the ground around intervals, which else are lost on a dark bar.
    fn halo(&self, layer: &Layer) -> Option<Box<dyn Trace>> {
        let Marks::Whiskers { spans, upright, .. } = &layer.marks else {
            return None;
        };
        let ends = spans.iter().flat_map(|span| ends(span, *upright));
        let (x, y) = ends.map(|at| (short(at.0), short(at.1))).unzip();
        let trace = Scatter::new(x, y).x_axis(self.axis('x')).y_axis(self.axis('y'));
        let group = layer.series.map(|series| series.to_string()).unwrap_or_default();
        let edge = Line::new().color(GROUND.hex()).width(4.5);
        Some(trace.mode(Mode::Lines).line(edge).legend_group(&group).hover_info(HoverInfo::Skip))
    }

    fn bars(&self, bars: &[Span], fill: Fill, group: &str) -> Bars {
        let shape = match fill.hatch {
            Hatch::Plain => PatternShape::None,
            Hatch::Rising => PatternShape::RightDiagonalLine,
            Hatch::Falling => PatternShape::LeftDiagonalLine,
            Hatch::Upright => PatternShape::VerticalLine,
            Hatch::Crossed => PatternShape::DiagonalCross,
        };
        let pattern = Pattern::new()
            .shape(shape)
            .fill_mode(PatternFillMode::Overlay)
            .foreground_color(GROUND.hex())
            .size(8.0)
            .solidity(0.15);
        Bars {
            r#type: "bar",
            orientation: "h",
            xaxis: self.axis('x'),
            yaxis: self.axis('y'),
            legendgroup: group.to_owned(),
            base: bars.iter().map(|bar| short(bar.from)).collect(),
            x: bars.iter().map(|bar| short(bar.to - bar.from)).collect(),
            y: bars.iter().map(|bar| bar.at).collect(),
            width: BAR,
            hoverinfo: "text",
            hovertext: bars.iter().map(|bar| escape(&bar.words)).collect(),
            marker: Marker::new().color(fill.colour.hex()).pattern(pattern),
        }
    }

    fn grid(&self, cells: &[Cell], colour: Colour) -> Grid {
        let columns = self.panel.x.ticks.len();
        let rows = self.panel.y.ticks.len();
        let mut grid = Grid {
            r#type: "heatmap",
            xaxis: self.axis('x'),
            yaxis: self.axis('y'),
            z: vec![vec![None; columns]; rows],
            text: vec![vec![String::new(); columns]; rows],
            hovertext: vec![vec![String::new(); columns]; rows],
            hoverinfo: "text",
            texttemplate: if columns > MOST_TOLD { "" } else { "%{text}" },
            textfont: Font::new().size(11),
            colorscale: [(0.0, GROUND.hex()), (1.0, colour.hex())],
            zmin: 0.0,
            zmax: 1.0,
            showscale: false,
            xgap: 1,
            ygap: 1,
        };
        for cell in cells {
            let (column, row) = (cell.at.0 as usize, cell.at.1 as usize);
            grid.z[row][column] = short(cell.shade);
            grid.text[row][column] = escape(&cell.label);
            grid.hovertext[row][column] = escape(&cell.words);
        }
        grid
    }
}

/// An interval's ends, and a gap before the next.
fn ends(span: &Span, upright: bool) -> [At; 3] {
    let place = |along: f64| if upright { (span.at, along) } else { (along, span.at) };
    [place(span.from), place(span.to), (f64::NAN, f64::NAN)]
}

/// Bars that begin anywhere, which the crate's do not.
#[derive(Clone, Serialize)]
struct Bars {
    r#type: &'static str,
    orientation: &'static str,
    xaxis: String,
    yaxis: String,
    legendgroup: String,
    base: Vec<Option<f64>>,
    x: Vec<Option<f64>>,
    y: Vec<f64>,
    width: f64,
    hoverinfo: &'static str,
    hovertext: Vec<String>,
    marker: Marker,
}

/// A heat map with words in its cells, which the crate's has not.
#[derive(Clone, Serialize)]
struct Grid {
    r#type: &'static str,
    xaxis: String,
    yaxis: String,
    z: Vec<Vec<Option<f64>>>,
    text: Vec<Vec<String>>,
    hovertext: Vec<Vec<String>>,
    hoverinfo: &'static str,
    texttemplate: &'static str,
    textfont: Font,
    colorscale: [(f64, String); 2],
    zmin: f64,
    zmax: f64,
    showscale: bool,
    xgap: u8,
    ygap: u8,
}

impl Trace for Bars {
    fn to_json(&self) -> String {
        plain_json(self)
    }
}

impl Trace for Grid {
    fn to_json(&self) -> String {
        plain_json(self)
    }
}

/// JSON of plain data, which cannot fail.
fn plain_json(trace: &impl Serialize) -> String {
    serde_json::to_string(trace).unwrap_or_default()
}

fn axis(axis: &Axis, (from, to): (f64, f64), anchor: &str, shown: bool) -> PlotlyAxis {
    let kind = match axis.scale {
        Scale::Linear => AxisType::Linear,
        Scale::Log => AxisType::Log,
    };
    let placed = PlotlyAxis::new()
        .type_(kind)
        .domain(&[from, to])
        .anchor(anchor)
        .range(vec![axis.place(axis.from), axis.place(axis.to)])
        .visible(shown)
        .zero_line(false)
        .show_line(true)
        .line_color(AXIS.hex())
        .show_grid(axis.grid)
        .grid_color(GRID.hex())
        .tick_mode(TickMode::Array)
        .tick_values(axis.ticks.iter().map(|tick| tick.at).collect())
        .tick_text(axis.ticks.iter().map(|tick| escape(&tick.label)).collect());
    if axis.label.is_empty() {
        placed
    } else {
        placed.title(Title::with_text(escape(&axis.label)).font(Font::new().size(13)))
    }
}

fn line(look: Look, stroke: Stroke) -> Line {
    match stroke {
        Stroke::Main => Line::new().color(look.colour.hex()).width(2.0).dash(dash(look)),
        Stroke::Faint => Line::new().color(format!("{}66", look.colour.hex())).width(1.0),
    }
}

/// The library's dash that is most like a look's.
fn dash(look: Look) -> DashType {
    match *look.dash {
        [] => DashType::Solid,
        [stroke, ..] if stroke < 5.0 => DashType::Dot,
        [_, _, _, _] => DashType::DashDot,
        [stroke, ..] if stroke > 12.0 => DashType::LongDash,
        _ => DashType::Dash,
    }
}

fn marker(look: Look) -> Marker {
    let symbol = match look.shape {
        Shape::Circle => MarkerSymbol::Circle,
        Shape::Square => MarkerSymbol::Square,
        Shape::Up => MarkerSymbol::TriangleUp,
        Shape::Diamond => MarkerSymbol::Diamond,
        Shape::Down => MarkerSymbol::TriangleDown,
    };
    let edge = Line::new().color(GROUND.hex()).width(1.0);
    Marker::new().symbol(symbol).size(9).color(look.colour.hex()).line(edge)
}

fn cross(colour: Colour) -> Marker {
    Marker::new().symbol(MarkerSymbol::X).size(9).color(colour.hex())
}

fn rule() -> Marker {
    let edge = Line::new().color(INK.hex()).width(2.5);
    Marker::new().symbol(MarkerSymbol::LineNS).size(13).line(edge)
}

/// Six significant digits are more than a screen shows, and a fraction of the bytes.
fn short(value: f64) -> Option<f64> {
    format!("{value:.5e}").parse().ok().filter(|value: &f64| value.is_finite())
}

/// Text that the library shows as it is, where it would else take tags and entities for markup. A `#` is written so that no
/// text looks like one of our colours, which a dark page replaces.
fn escape(words: &str) -> String {
    text::printable(words)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('#', "&#35;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_plotlys_alone() {
        let script = script();
        assert!(script.contains("plotly.js v"), "{}", &script[..200.min(script.len())]);
        assert!(!script.contains("</script") && !script.contains("MathJax Consortium"));
    }

    #[test]
    fn numbers_are_shortened_and_what_is_none_is_null() {
        assert_eq!(short(1.0 / 3.0), Some(0.333_333));
        assert_eq!(short(123_456_789.0), Some(123_457_000.0));
        assert_eq!((short(f64::NAN), short(f64::INFINITY)), (None, None));
    }

    #[test]
    fn markup_is_shown_and_not_followed() {
        assert_eq!(escape("<b>&#000000"), "&lt;b&gt;&amp;&#35;000000");
    }
}
