//! Lines, areas, markers and text in logical units on a plotters drawing area. Bridges what its backends do
//! differently.

use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::drawing::DrawingArea;
use plotters::element::{Circle, PathElement, Polygon, Rectangle};
use plotters::prelude::{DrawingBackend, FontDesc, FontFamily, RGBAColor};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontStyle, IntoTextStyle as _, ShapeStyle, register_font};

use super::UNITS;
use crate::report::figure::{At, Fill, Hatch, Look, Shape};
use crate::report::text;
use crate::report::theme::{Colour, GROUND, INK, Theme};

/// Height of the font's box, ascent to descent, in its em: the bitmap backend takes this for the size.
const BOX_PER_EM: f64 = 1.164;

/// The SVG backend writes a font size this many times smaller than what it is given.
const SVG_PER_EM: f64 = 1.24;

/// From the middle of a capital letter down to its baseline, in em.
const HALF_CAPITAL: f64 = 0.365;

/// A backend of plotters.
pub(super) trait Backend: DrawingBackend {}
impl<B: DrawingBackend> Backend for B {}

/// Which backend draws: they size and place text differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Pixels.
    Bitmap,
    /// Vectors.
    Svg,
}

impl Type {
    /// What the backend must be given for a font of one em.
    fn size(self, em: f64) -> f64 {
        match self {
            Self::Bitmap => em * BOX_PER_EM,
            Self::Svg => em * SVG_PER_EM,
        }
    }

    /// How far below the point of a vertically centred text its backend puts the baseline, in em: the bitmap backend
    /// half a size below the top of a box of size ÷ 1.24, the SVG backend half an x-height (0.547 em) below.
    fn baseline(self) -> f64 {
        match self {
            Self::Bitmap => BOX_PER_EM * (0.5 - 0.5 / SVG_PER_EM),
            Self::Svg => 0.5 * 0.547,
        }
    }
}

/// Weight of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Regular.
    Normal,
    /// Bold.
    Bold,
}

/// How a text looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Script {
    em: f64,
    weight: Weight,
    colour: Colour,
}

impl Script {
    /// A font of `em` logical units.
    pub(super) const fn new(em: f64, weight: Weight, colour: Colour) -> Self {
        Self { em, weight, colour }
    }

    /// The width of a text in logical units.
    pub(super) fn width(self, text: &str) -> f64 {
        let size = Type::Bitmap.size(self.em) * f64::from(UNITS);
        let measured = font(size, self.weight).box_size(text);
        measured.map_or(0.0, |(width, _)| f64::from(width) / f64::from(UNITS))
    }
}

/// Which end of a text its point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// Its start.
    Left,
    /// Its middle.
    Middle,
    /// Its end.
    Right,
}

/// Makes the embedded font known to plotters, once.
pub(super) fn register_fonts() -> Result<(), String> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        let name = FontFamily::SansSerif.as_str();
        register_font(name, FontStyle::Normal, dejavu::sans::regular()).is_ok()
            && register_font(name, FontStyle::Bold, dejavu::sans::bold()).is_ok()
    });
    if *done { Ok(()) } else { Err("the embedded font cannot be read".to_owned()) }
}

fn font(size: f64, weight: Weight) -> FontDesc<'static> {
    let style = match weight {
        Weight::Normal => FontStyle::Normal,
        Weight::Bold => FontStyle::Bold,
    };
    FontDesc::new(FontFamily::SansSerif, size, style)
}

/// A drawing area in logical units.
pub(super) struct Canvas<'a, B: Backend> {
    area: &'a DrawingArea<B, Shift>,
    kind: Type,
    theme: Theme,
}

impl<'a, B: Backend> Canvas<'a, B> {
    /// A canvas over the whole area.
    pub(super) fn new(area: &'a DrawingArea<B, Shift>, (kind, theme): (Type, Theme)) -> Self {
        Self { area, kind, theme }
    }

    fn rgba(&self, colour: Colour, alpha: f64) -> RGBAColor {
        let Colour(red, green, blue) = self.theme.colour(colour);
        RGBAColor(red, green, blue, alpha)
    }

    /// The ground everywhere.
    pub(super) fn clear(&self) -> Result<(), String> {
        self.area.fill(&self.rgba(GROUND, 1.0)).map_err(|error| error.to_string())
    }

    /// A line through points.
    pub(super) fn line(&self, points: &[At], colour: Colour, width: f64) -> Result<(), String> {
        self.faint_line(points, (colour, 1.0), width)
    }

    /// A line through points that lets what is below shine through.
    pub(super) fn faint_line(
        &self,
        points: &[At],
        (colour, alpha): (Colour, f64),
        width: f64,
    ) -> Result<(), String> {
        if points.len() < 2 {
            return Ok(());
        }
        let style = ShapeStyle {
            color: self.rgba(colour, alpha),
            filled: false,
            stroke_width: device(width).unsigned_abs(),
        };
        let points: Vec<_> = points.iter().map(|at| place(*at)).collect();
        self.area.draw(&PathElement::new(points, style)).map_err(|error| error.to_string())
    }

    /// A line through points, in strokes and gaps.
    pub(super) fn dashed(
        &self,
        points: &[At],
        colour: Colour,
        width: f64,
        dash: &[f64],
    ) -> Result<(), String> {
        if points.len() < 2 {
            return Ok(());
        }
        for stroke in strokes(points, dash) {
            self.line(&stroke, colour, width)?;
        }
        Ok(())
    }

    /// A filled area.
    pub(super) fn polygon(&self, points: &[At], colour: Colour, alpha: f64) -> Result<(), String> {
        if points.len() < 3 {
            return Ok(());
        }
        let points: Vec<_> = points.iter().map(|at| place(*at)).collect();
        self.area
            .draw(&Polygon::new(points, self.rgba(colour, alpha).filled()))
            .map_err(|error| error.to_string())
    }

    /// A filled rectangle with its hatch, in a thin border that parts it from its neighbours.
    pub(super) fn filled(&self, from: At, to: At, fill: Fill) -> Result<(), String> {
        let corners = [place(from), place(to)];
        self.area
            .draw(&Rectangle::new(corners, self.rgba(fill.colour, 1.0).filled()))
            .map_err(|error| error.to_string())?;
        for line in hatch(from, to, fill.hatch) {
            self.line(&line, GROUND, 0.75)?;
        }
        let right = [(to.0, from.1), to];
        self.line(&right, GROUND, 1.0)
    }

    /// A marker with an edge of the ground, so that markers on top of each other stay apart.
    pub(super) fn marker(&self, at: At, look: Look, radius: f64) -> Result<(), String> {
        self.shape(at, look.shape, radius + 1.25, GROUND)?;
        self.shape(at, look.shape, radius, look.colour)
    }

    fn shape(&self, at: At, shape: Shape, radius: f64, colour: Colour) -> Result<(), String> {
        let (x, y) = at;
        let corner = |dx: f64, dy: f64| (x + dx * radius, y + dy * radius);
        let corners = match shape {
            Shape::Circle => {
                let circle =
                    Circle::new(place(at), device(radius), self.rgba(colour, 1.0).filled());
                return self.area.draw(&circle).map_err(|error| error.to_string());
            }
            Shape::Square => vec![
                corner(-0.88, -0.88),
                corner(0.88, -0.88),
                corner(0.88, 0.88),
                corner(-0.88, 0.88),
            ],
            Shape::Up => vec![corner(0.0, -1.2), corner(1.1, 0.8), corner(-1.1, 0.8)],
            Shape::Down => vec![corner(0.0, 1.2), corner(1.1, -0.8), corner(-1.1, -0.8)],
            Shape::Diamond => {
                vec![corner(0.0, -1.25), corner(1.05, 0.0), corner(0.0, 1.25), corner(-1.05, 0.0)]
            }
        };
        self.polygon(&corners, colour, 1.0)
    }

    /// ✕ with an edge of the ground.
    pub(super) fn cross(&self, (x, y): At, colour: Colour) -> Result<(), String> {
        let arm = 5.5;
        for (colour, width) in [(GROUND, 5.5), (colour, 2.75)] {
            self.line(&[(x - arm, y - arm), (x + arm, y + arm)], colour, width)?;
            self.line(&[(x - arm, y + arm), (x + arm, y - arm)], colour, width)?;
        }
        Ok(())
    }

    /// A short upright line with an edge of the ground.
    pub(super) fn rule(&self, (x, y): At, half: f64) -> Result<(), String> {
        for (colour, width, half) in [(GROUND, 5.0, half + 1.0), (INK, 2.5, half)] {
            self.line(&[(x, y - half), (x, y + half)], colour, width)?;
        }
        Ok(())
    }

    /// A line of text whose capitals are vertically centred on the point.
    pub(super) fn text(
        &self,
        (x, y): At,
        text: &str,
        script: Script,
        anchor: Anchor,
    ) -> Result<(), String> {
        let Script { em, weight, colour } = script;
        let horizontal = match anchor {
            Anchor::Left => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::Right => HPos::Right,
        };
        let size = self.kind.size(em) * f64::from(UNITS);
        let colour = self.rgba(colour, 1.0);
        let style = font(size, weight)
            .into_text_style(self.area)
            .color(&colour)
            .pos(Pos::new(horizontal, VPos::Center));
        let drop = (HALF_CAPITAL - self.kind.baseline()) * em;
        let text = text::printable(text);
        self.area.draw_text(&text, &style, place((x, y + drop))).map_err(|error| error.to_string())
    }
}

fn device(logical: f64) -> i32 {
    (logical * f64::from(UNITS)).round() as i32
}

fn place((x, y): At) -> (i32, i32) {
    (device(x), device(y))
}

/// The parts of a line that its strokes cover.
fn strokes(points: &[At], dash: &[f64]) -> Vec<Vec<At>> {
    let length = |ends: &[At]| (ends[1].0 - ends[0].0).hypot(ends[1].1 - ends[0].1);
    if dash.is_empty() {
        return vec![points.to_vec()];
    }
    let (mut strokes, mut stroke) = (Vec::new(), vec![points[0]]);
    let (mut part, mut left) = (0, dash[0]);
    for ends in points.windows(2) {
        let (from, to) = (ends[0], ends[1]);
        let length = length(ends);
        let mut done = 0.0;
        while length - done > left {
            done += left;
            let share = done / length;
            let at = (from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share);
            if part % 2 == 0 {
                stroke.push(at);
                strokes.push(std::mem::take(&mut stroke));
            } else {
                stroke = vec![at];
            }
            part = (part + 1) % dash.len();
            left = dash[part];
        }
        left -= length - done;
        if part % 2 == 0 {
            stroke.push(to);
        }
    }
    if stroke.len() > 1 {
        strokes.push(stroke);
    }
    strokes
}

/// The lines of a hatch, cut to the rectangle.
fn hatch((left, top): At, (right, bottom): At, hatch: Hatch) -> Vec<[At; 2]> {
    let gap = 7.0;
    let height = bottom - top;
    let places = |from: f64| {
        let number = ((right - from) / gap).max(0.0) as usize;
        (1..=number).map(move |index| from + gap * index as f64)
    };
    // A diagonal that meets the bottom (rising) or the top (falling) at x, between the sides.
    let diagonal = |x: f64, rising: bool| {
        let (enter, leave) = (x.max(left), (x + height).min(right));
        let y = |at: f64| {
            if rising { bottom - (at - x) } else { top + (at - x) }
        };
        [(enter, y(enter)), (leave, y(leave))]
    };
    let diagonals = |rising| places(left - height).map(move |x| diagonal(x, rising));
    match hatch {
        Hatch::Plain => Vec::new(),
        Hatch::Rising => diagonals(true).collect(),
        Hatch::Falling => diagonals(false).collect(),
        Hatch::Upright => places(left).map(|x| [(x, top), (x, bottom)]).collect(),
        Hatch::Crossed => diagonals(true).chain(diagonals(false)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strokes_cover_their_share_of_a_bent_line() {
        let line = [(0.0, 0.0), (5.0, 0.0), (5.0, 5.0)];
        assert_eq!(
            strokes(&line, &[4.0, 2.0]),
            [vec![(0.0, 0.0), (4.0, 0.0)], vec![(5.0, 1.0), (5.0, 5.0)],]
        );
        assert_eq!(strokes(&line, &[]), [line.to_vec()]);
    }

    #[test]
    fn a_hatch_stays_inside_its_rectangle() {
        for kind in [Hatch::Rising, Hatch::Falling, Hatch::Upright, Hatch::Crossed] {
            let lines = hatch((10.0, 20.0), (60.0, 50.0), kind);
            assert!(!lines.is_empty());
            for (x, y) in lines.into_iter().flatten() {
                assert!(
                    (10.0..=60.0).contains(&x) && (20.0..=50.0).contains(&y),
                    "{kind:?} {x} {y}"
                );
            }
        }
    }
}
