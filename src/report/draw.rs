//! Figures as PNG and SVG, by the same drawing code. Knows no measurement: only what [`figure`](super::figure) says.

mod canvas;
mod clip;
mod layout;

use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::prelude::IntoDrawingArea;

use super::figure::{At, Cell, Figure, Layer, Marks, Panel, Span, Spot, Stroke, Swatch};
use super::text;
use super::theme::{AXIS, Colour, GRID, GROUND, INK, MUTED, Theme, ZONE};
use canvas::{Anchor, Canvas, Script, Type, Weight};
use layout::{Around, Frame, Layout, View};

/// Logical width of every figure.
const WIDTH: u32 = 960;

/// Device units a logical unit: SVG coordinates are integers, and a PNG is drawn larger than it is saved.
const UNITS: u32 = 4;

/// Pixels of a saved PNG a logical unit.
const PIXELS: u32 = 2;

const HEADING: Script = Script::new(19.0, Weight::Bold, INK);
const PANEL: Script = Script::new(13.0, Weight::Bold, INK);
const LABEL: Script = Script::new(12.5, Weight::Normal, INK);
const QUIET: Script = Script::new(12.5, Weight::Normal, MUTED);
const SMALL: Script = Script::new(12.0, Weight::Normal, MUTED);
const EMPTY: Script = Script::new(15.0, Weight::Normal, MUTED);
const CELL: Script = Script::new(10.5, Weight::Normal, INK);

/// How much of its colour a line behind others keeps.
const FAINT: f64 = 0.3;

/// How much of its colour a band keeps.
const BAND: f64 = 0.16;

/// The figure as an SVG document whose text stays text.
pub(super) fn svg(figure: &Figure, theme: Theme) -> Result<String, String> {
    document(figure, theme, Around::All)
}

/// The figure as an SVG document for a page, which has the title and the notes beside it.
pub(super) fn svg_for_page(figure: &Figure) -> Result<String, String> {
    document(figure, Theme::Light, Around::Legend)
}

fn document(figure: &Figure, theme: Theme, around: Around) -> Result<String, String> {
    canvas::register_fonts()?;
    let layout = Layout::of(figure, around);
    let size = (WIDTH * UNITS, layout.height * UNITS);
    let mut document = String::new();
    {
        let area = SVGBackend::with_string(&mut document, size).into_drawing_area();
        let canvas = Canvas::new(&area, (Type::Svg, theme));
        canvas.clear()?;
        draw(&canvas, figure, &layout)?;
        area.present().map_err(|error| error.to_string())?;
    }
    let given = format!("width=\"{}\" height=\"{}\"", size.0, size.1);
    let wanted = format!(
        "width=\"{WIDTH}\" height=\"{}\" role=\"img\" aria-label=\"{}\"",
        layout.height,
        attribute(&figure.alt)
    );
    Ok(document.replacen(&given, &wanted, 1))
}

/// The sample of a legend as an SVG of its own, which is decoration beside its words.
pub(super) fn sample(key: Swatch) -> Result<String, String> {
    let (width, height) = (layout::swatch_width(key) as u32 + 6, 18);
    let size = (width * UNITS, height * UNITS);
    let mut document = String::new();
    {
        let area = SVGBackend::with_string(&mut document, size).into_drawing_area();
        swatch(&Canvas::new(&area, (Type::Svg, Theme::Light)), key, (3.0, 9.0))?;
        area.present().map_err(|error| error.to_string())?;
    }
    let given = format!("width=\"{}\" height=\"{}\"", size.0, size.1);
    let wanted = format!("width=\"{width}\" height=\"{height}\" aria-hidden=\"true\"");
    Ok(document.replacen(&given, &wanted, 1))
}

/// The figure as the bytes of a PNG file, at two pixels a logical unit.
pub(super) fn png(figure: &Figure, theme: Theme) -> Result<Vec<u8>, String> {
    canvas::register_fonts()?;
    let layout = Layout::of(figure, Around::All);
    let size = (WIDTH * UNITS, layout.height * UNITS);
    // Filled already: to do so pixel by pixel is the slowest part of a drawing.
    let Colour(red, green, blue) = theme.colour(GROUND);
    let mut large = [red, green, blue].repeat(size.0 as usize * size.1 as usize);
    {
        let area = BitMapBackend::with_buffer(&mut large, size).into_drawing_area();
        draw(&Canvas::new(&area, (Type::Bitmap, theme)), figure, &layout)?;
        area.present().map_err(|error| error.to_string())?;
    }
    let pixels = reduce(&large, size.0 as usize, (UNITS / PIXELS) as usize);
    encode(&pixels, WIDTH * PIXELS, layout.height * PIXELS)
}

/// Each pixel the mean of a square of `side` × `side`, which smooths every edge.
fn reduce(large: &[u8], width: usize, side: usize) -> Vec<u8> {
    let mut small = Vec::with_capacity(large.len() / (side * side));
    let mut sums = vec![0_u16; width / side * 3];
    for rows in large.chunks_exact(width * 3 * side) {
        sums.fill(0);
        for row in rows.chunks_exact(width * 3) {
            for (sum, square) in sums.chunks_exact_mut(3).zip(row.chunks_exact(3 * side)) {
                for pixel in square.chunks_exact(3) {
                    sum[0] += u16::from(pixel[0]);
                    sum[1] += u16::from(pixel[1]);
                    sum[2] += u16::from(pixel[2]);
                }
            }
        }
        small.extend(sums.iter().map(|sum| (sum / (side * side) as u16) as u8));
    }
    small
}

fn encode(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, String> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Default);
    encoder.set_filter(png::FilterType::Up);
    let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
    writer.write_image_data(pixels).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    Ok(file)
}

/// Text inside the quotes of an XML attribute.
fn attribute(text: &str) -> String {
    text::printable(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn draw(
    canvas: &Canvas<'_, impl canvas::Backend>,
    figure: &Figure,
    layout: &Layout,
) -> Result<(), String> {
    let left = layout::MARGIN;
    if layout.around == Around::All {
        canvas.text((left, 28.0), &figure.title, HEADING, Anchor::Left)?;
        canvas.text((left, 52.0), &figure.subtitle, QUIET, Anchor::Left)?;
    }
    for (key, at) in figure.legend.iter().zip(&layout.legend) {
        swatch(canvas, key.swatch, *at)?;
        let words = (at.0 + layout::swatch_width(key.swatch) + 8.0, at.1);
        canvas.text(words, &key.label, LABEL, Anchor::Left)?;
    }
    for (panel, frame) in figure.panels.iter().zip(&layout.frames) {
        draw_panel(canvas, panel, frame)?;
    }
    for (line, y) in &layout.notes {
        canvas.text((left, *y), line, SMALL, Anchor::Left)?;
    }
    Ok(())
}

fn swatch(
    canvas: &Canvas<'_, impl canvas::Backend>,
    swatch: Swatch,
    (x, y): (f64, f64),
) -> Result<(), String> {
    let end = x + layout::swatch_width(swatch);
    let middle = (f64::midpoint(x, end), y);
    match swatch {
        Swatch::Line(look) => {
            canvas.dashed(&[(x, y), (end, y)], look.colour, 2.25, look.dash)?;
            canvas.marker(middle, look, 4.5)
        }
        Swatch::Point(look) => canvas.marker(middle, look, 5.0),
        Swatch::Fill(fill) => canvas.filled((x, y - 7.0), (end, y + 7.0), fill),
        Swatch::Cross => canvas.cross(middle, INK),
        Swatch::Rule => canvas.rule(middle, 9.0),
    }
}

fn draw_panel(
    canvas: &Canvas<'_, impl canvas::Backend>,
    panel: &Panel,
    frame: &Frame,
) -> Result<(), String> {
    let view = frame.view(panel);
    if let Some(words) = &panel.empty {
        let middle =
            (f64::midpoint(frame.left, frame.right), f64::midpoint(frame.top, frame.bottom));
        return canvas.text(middle, words, EMPTY, Anchor::Middle);
    }
    axes(canvas, panel, frame, &view)?;
    for Layer { marks, .. } in &panel.layers {
        draw_marks(canvas, marks, frame, &view)?;
    }
    for (y, words) in &panel.gutter {
        let at = (frame.right + layout::GAP, view.y(*y));
        canvas.text(at, words, LABEL, Anchor::Left)?;
    }
    Ok(())
}

fn axes(
    canvas: &Canvas<'_, impl canvas::Backend>,
    panel: &Panel,
    frame: &Frame,
    view: &View<'_>,
) -> Result<(), String> {
    let Frame { left, right, top, bottom } = *frame;
    if !panel.title.is_empty() {
        let at = (left, top - 14.0);
        canvas.text(at, &panel.title, PANEL, Anchor::Left)?;
    }
    for tick in &panel.x.ticks {
        let x = view.x(tick.at);
        if panel.x.grid {
            canvas.line(&[(x, top), (x, bottom)], GRID, 1.0)?;
        }
        let at = (x, bottom + 14.0);
        canvas.text(at, &tick.label, SMALL, Anchor::Middle)?;
    }
    for tick in &panel.y.ticks {
        let y = view.y(tick.at);
        if panel.y.grid {
            canvas.line(&[(left, y), (right, y)], GRID, 1.0)?;
        }
        let at = (left - layout::GAP, y);
        canvas.text(at, &tick.label, LABEL, Anchor::Right)?;
    }
    for group in &panel.x.groups {
        let (from, to) = (view.x(group.span.0), view.x(group.span.1));
        let below = bottom + 24.0;
        canvas.line(&[(from + 2.0, below), (to - 2.0, below)], AXIS, 1.0)?;
        canvas.text((f64::midpoint(from, to), below + 9.0), &group.label, SMALL, Anchor::Middle)?;
    }
    canvas.line(&[(left, top), (left, bottom), (right, bottom)], AXIS, 1.0)?;
    let at = (f64::midpoint(left, right), bottom + 34.0);
    canvas.text(at, &panel.x.label, QUIET, Anchor::Middle)
}

/// Draws what of the marks lies in the plot.
fn draw_marks(
    canvas: &Canvas<'_, impl canvas::Backend>,
    marks: &Marks,
    frame: &Frame,
    view: &View<'_>,
) -> Result<(), String> {
    let at_spots = |spots: &[Spot], draw: &dyn Fn(At, &str) -> Result<(), String>| {
        let seen = spots.iter().map(|spot| (view.at(spot.at), &*spot.words));
        seen.filter(|(at, _)| frame.holds(*at)).try_for_each(|(at, words)| draw(at, words))
    };
    match marks {
        Marks::Band { edges, colour } => {
            let lower = edges.iter().map(|(x, low, _)| view.at((*x, *low)));
            let upper = edges.iter().rev().map(|(x, _, high)| view.at((*x, *high)));
            let corners = frame.area(&lower.chain(upper).collect::<Vec<_>>());
            canvas.polygon(&corners, *colour, BAND)
        }
        Marks::Line { points, look, stroke } => {
            let points: Vec<_> = points.iter().map(|at| view.at(*at)).collect();
            frame.line(&points).iter().try_for_each(|part| match stroke {
                Stroke::Main => canvas.dashed(part, look.colour, 2.0, look.dash),
                Stroke::Faint => canvas.faint_line(part, (look.colour, FAINT), 1.0),
            })
        }
        Marks::Points { spots, look } => at_spots(spots, &|at, _| canvas.marker(at, *look, 4.5)),
        Marks::Crosses { spots, colour } => at_spots(spots, &|at, _| canvas.cross(at, *colour)),
        Marks::Rules(spots) => at_spots(spots, &|at, _| canvas.rule(at, view.half_bar() + 5.0)),
        Marks::Bars { bars, fill } => bars.iter().try_for_each(|Span { at, from, to, .. }| {
            let half = view.half_bar();
            let (top, bottom) = (view.y(*at) - half, view.y(*at) + half);
            match frame.rectangle((view.x(*from), top), (view.x(*to), bottom)) {
                Some([from, to]) => canvas.filled(from, to, *fill),
                None => Ok(()),
            }
        }),
        Marks::Whiskers { spans, upright, colour } => spans
            .iter()
            .try_for_each(|span| whisker(canvas, span, (*upright, *colour), (frame, view))),
        Marks::Zone((from, to)) => {
            let (left, right) = (view.x(*from), view.x(*to));
            tint(canvas, frame, (left, frame.top), (right, frame.bottom))
        }
        Marks::Strip((from, to)) => {
            let (bottom, top) = (view.y(*from), view.y(*to));
            tint(canvas, frame, (frame.left, top), (frame.right, bottom))
        }
        Marks::Divider(_) | Marks::Separator(_) => ruler(canvas, marks, frame, view),
        Marks::Cells { cells, colour } => {
            cells.iter().try_for_each(|cell| draw_cell(canvas, cell, *colour, (frame, view)))
        }
        Marks::Words(spots) => at_spots(spots, &|(x, y), words| {
            canvas.text((x + layout::GAP, y), words, QUIET, Anchor::Left)
        }),
    }
}

/// What of a rectangle is in the plot, tinted.
fn tint(
    canvas: &Canvas<'_, impl canvas::Backend>,
    frame: &Frame,
    from: At,
    to: At,
) -> Result<(), String> {
    let Some([(left, top), (right, bottom)]) = frame.rectangle(from, to) else {
        return Ok(());
    };
    let corners = [(left, top), (right, top), (right, bottom), (left, bottom)];
    canvas.polygon(&corners, ZONE, 1.0)
}

/// A line over the whole height or width.
fn ruler(
    canvas: &Canvas<'_, impl canvas::Backend>,
    marks: &Marks,
    frame: &Frame,
    view: &View<'_>,
) -> Result<(), String> {
    let Frame { left, right, top, bottom } = *frame;
    match marks {
        Marks::Divider(at) if frame.holds_x(view.x(*at)) => {
            let x = view.x(*at);
            canvas.dashed(&[(x, top), (x, bottom)], AXIS, 1.0, &[4.0, 4.0])
        }
        Marks::Separator(at) if frame.holds((left, view.y(*at))) => {
            let y = view.y(*at);
            canvas.line(&[(left, y), (right, y)], AXIS, 1.0)
        }
        _ => Ok(()),
    }
}

/// An interval, and a cap at each end that is in the plot.
fn whisker(
    canvas: &Canvas<'_, impl canvas::Backend>,
    span: &Span,
    (upright, colour): (bool, Colour),
    (frame, view): (&Frame, &View<'_>),
) -> Result<(), String> {
    let cap = 5.0;
    let ends = [span.from, span.to].map(|end| {
        if upright { (view.x(span.at), view.y(end)) } else { (view.x(end), view.y(span.at)) }
    });
    let across = if upright { (cap, 0.0) } else { (0.0, cap) };
    let Some(seen) = frame.segment(ends[0], ends[1]) else {
        return Ok(());
    };
    for (colour, width) in [(GROUND, 4.5), (colour, 1.75)] {
        canvas.line(&seen, colour, width)?;
        for (x, y) in ends.into_iter().filter(|end| frame.holds(*end)) {
            let cap = [(x - across.0, y - across.1), (x + across.0, y + across.1)];
            canvas.line(&cap, colour, width)?;
        }
    }
    Ok(())
}

/// A cell with its words, where they fit.
fn draw_cell(
    canvas: &Canvas<'_, impl canvas::Backend>,
    cell: &Cell,
    colour: Colour,
    (frame, view): (&Frame, &View<'_>),
) -> Result<(), String> {
    let (x, y) = cell.at;
    let gap = 0.5;
    let (left, right) = (view.x(x - 0.5) + gap, view.x(x + 0.5) - gap);
    let (top, bottom) = (view.y(y - 0.5) + gap, view.y(y + 0.5) - gap);
    if !frame.holds(view.at(cell.at)) {
        return Ok(());
    }
    if cell.shade > 0.0 {
        let corners = [(left, top), (right, top), (right, bottom), (left, bottom)];
        canvas.polygon(&corners, colour, cell.shade)?;
    }
    if bottom - top < 12.0 || CELL.width(&cell.label) > right - left {
        return Ok(());
    }
    let script = if cell.shade > 0.0 { CELL } else { Script::new(10.5, Weight::Normal, AXIS) };
    canvas.text(view.at(cell.at), &cell.label, script, Anchor::Middle)
}

#[cfg(test)]
mod tests {
    use super::reduce;

    #[test]
    fn a_pixel_becomes_the_mean_of_its_square() {
        // Two rows of four pixels: a white square beside one of two reds and two blacks.
        let (white, red, black) = ([255; 3], [200, 0, 0], [0; 3]);
        let large = [white, white, red, black, white, white, black, red].concat();
        assert_eq!(reduce(&large, 4, 2), [255, 255, 255, 100, 0, 0]);
    }
}
