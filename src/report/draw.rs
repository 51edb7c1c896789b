//! Figures as PNG and SVG, by the same drawing code. Knows no measurement: only what [`figure`](super::figure) says.

mod canvas;
mod layout;

use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::prelude::IntoDrawingArea;

use super::figure::{Colour, Figure, Mark, Panel, Swatch};
use super::text;
use canvas::{Anchor, Canvas, Script, Type, Weight};
use layout::{Frame, Layout, View};

/// Logical width of every figure.
const WIDTH: u32 = 960;

/// Device units a logical unit: SVG coordinates are integers, and a PNG is drawn larger than it is saved.
const UNITS: u32 = 4;

/// Pixels of a saved PNG a logical unit.
const PIXELS: u32 = 2;

const INK: Colour = Colour(34, 34, 34);
const MUTED: Colour = Colour(88, 88, 88);
const GRID: Colour = Colour(228, 228, 228);
const AXIS: Colour = Colour(140, 140, 140);
const WHITE: Colour = Colour(255, 255, 255);

const HEADING: Script = Script::new(19.0, Weight::Bold, INK);
const PANEL: Script = Script::new(13.0, Weight::Bold, INK);
const LABEL: Script = Script::new(12.5, Weight::Normal, INK);
const QUIET: Script = Script::new(12.5, Weight::Normal, MUTED);
const SMALL: Script = Script::new(12.0, Weight::Normal, MUTED);
const EMPTY: Script = Script::new(15.0, Weight::Normal, MUTED);

/// The figure as an SVG document whose text stays text.
pub(super) fn svg(figure: &Figure) -> Result<String, String> {
    canvas::register_fonts()?;
    let layout = Layout::of(figure);
    let size = (WIDTH * UNITS, layout.height * UNITS);
    let mut document = String::new();
    {
        let area = SVGBackend::with_string(&mut document, size).into_drawing_area();
        let canvas = Canvas::new(&area, Type::Svg);
        canvas.clear(WHITE)?;
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

/// The figure as the bytes of a PNG file, at two pixels a logical unit.
pub(super) fn png(figure: &Figure) -> Result<Vec<u8>, String> {
    canvas::register_fonts()?;
    let layout = Layout::of(figure);
    let size = (WIDTH * UNITS, layout.height * UNITS);
    // White already: to fill it pixel by pixel is the slowest part of a drawing.
    let mut large = vec![u8::MAX; size.0 as usize * size.1 as usize * 3];
    {
        let area = BitMapBackend::with_buffer(&mut large, size).into_drawing_area();
        draw(&Canvas::new(&area, Type::Bitmap), figure, &layout)?;
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
    canvas.text((left, 28.0), &figure.title, HEADING, Anchor::Left)?;
    canvas.text((left, 52.0), &figure.subtitle, QUIET, Anchor::Left)?;
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
    for mark in &panel.marks {
        draw_mark(canvas, mark, frame, &view)?;
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
    view: &View,
) -> Result<(), String> {
    let Frame { left, right, top, bottom, .. } = *frame;
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
        if frame.labels {
            let at = (left - layout::GAP, y);
            canvas.text(at, &tick.label, LABEL, Anchor::Right)?;
        }
    }
    canvas.line(&[(left, top), (left, bottom), (right, bottom)], AXIS, 1.0)?;
    let at = (f64::midpoint(left, right), bottom + 34.0);
    canvas.text(at, &panel.x.label, QUIET, Anchor::Middle)
}

fn draw_mark(
    canvas: &Canvas<'_, impl canvas::Backend>,
    mark: &Mark,
    frame: &Frame,
    view: &View,
) -> Result<(), String> {
    match mark {
        Mark::Band { edges, colour } => {
            let lower = edges.iter().map(|(x, low, _)| view.at((*x, *low)));
            let upper = edges.iter().rev().map(|(x, _, high)| view.at((*x, *high)));
            canvas.polygon(&lower.chain(upper).collect::<Vec<_>>(), *colour, 0.16)
        }
        Mark::Line { points, look } => {
            let points: Vec<_> = points.iter().map(|at| view.at(*at)).collect();
            canvas.dashed(&points, look.colour, 2.0, look.dash)
        }
        Mark::Point { at, look } => canvas.marker(view.at(*at), *look, 4.5),
        Mark::Cross { at, colour } => canvas.cross(view.at(*at), *colour),
        Mark::Bar { y, span, fill } => {
            let half = view.half_bar();
            let (top, bottom) = (view.y(*y) - half, view.y(*y) + half);
            canvas.filled((view.x(span.0), top), (view.x(span.1), bottom), *fill)
        }
        Mark::Whisker { y, span } => {
            let (y, cap) = (view.y(*y), 5.0);
            let (low, high) = (view.x(span.0), view.x(span.1));
            for (colour, width) in [(WHITE, 4.5), (INK, 1.75)] {
                canvas.line(&[(low, y), (high, y)], colour, width)?;
                canvas.line(&[(low, y - cap), (low, y + cap)], colour, width)?;
                canvas.line(&[(high, y - cap), (high, y + cap)], colour, width)?;
            }
            Ok(())
        }
        Mark::Rule { at } => canvas.rule(view.at(*at), view.half_bar() + 5.0),
        Mark::Divider { x } => {
            let x = view.x(*x);
            canvas.dashed(&[(x, frame.top), (x, frame.bottom)], AXIS, 1.0, &[4.0, 4.0])
        }
        Mark::Separator { y } => {
            let y = view.y(*y);
            canvas.line(&[(frame.left, y), (frame.right, y)], GRID, 1.0)
        }
        Mark::Words { at, words } => {
            let (x, y) = view.at(*at);
            let at = (x + layout::GAP, y);
            canvas.text(at, words, QUIET, Anchor::Left)
        }
    }
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
