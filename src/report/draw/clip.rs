//! What of a mark lies in its plot. All that is drawn is cut to the plot first: a number that is far off would else cost lines,
//! dashes and hatches without end.

use super::layout::Frame;
use crate::report::figure::At;

/// A mark whose middle is so far off the plot still stands on its edge.
const EDGE: f64 = 0.5;

impl Frame {
    /// Whether a point is in the plot or on its edge.
    pub(super) fn holds(&self, (x, y): At) -> bool {
        self.holds_x(x) && (self.top - EDGE..=self.bottom + EDGE).contains(&y)
    }

    /// Whether a place is between the left and the right of the plot.
    pub(super) fn holds_x(&self, x: f64) -> bool {
        (self.left - EDGE..=self.right + EDGE).contains(&x)
    }

    /// The point of the plot that is next to a point.
    fn nearest(&self, (x, y): At) -> At {
        (x.max(self.left).min(self.right), y.max(self.top).min(self.bottom))
    }

    /// The part of a straight line that is in the plot (Liang and Barsky 1984).
    pub(super) fn segment(&self, from: At, to: At) -> Option<[At; 2]> {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
        for (speed, distance) in [
            (-dx, from.0 - self.left),
            (dx, self.right - from.0),
            (-dy, from.1 - self.top),
            (dy, self.bottom - from.1),
        ] {
            if !(speed.is_finite() && distance.is_finite()) {
                return None;
            }
            let share = distance / speed;
            if speed < 0.0 {
                enter = enter.max(share);
            } else if speed > 0.0 {
                leave = leave.min(share);
            } else if distance < -EDGE {
                return None;
            }
        }
        let at = |share: f64| self.nearest((from.0 + dx * share, from.1 + dy * share));
        (enter <= leave).then(|| [at(enter), at(leave)])
    }

    /// The parts of a line through points that are in the plot.
    pub(super) fn line(&self, points: &[At]) -> Vec<Vec<At>> {
        let mut parts: Vec<Vec<At>> = Vec::new();
        for ends in points.windows(2) {
            let Some([from, to]) = self.segment(ends[0], ends[1]) else {
                continue;
            };
            match parts.last_mut() {
                Some(part) if part.last() == Some(&from) => part.push(to),
                _ => parts.push(vec![from, to]),
            }
        }
        parts
    }

    /// The part of an area that is in the plot (Sutherland and Hodgman 1974).
    pub(super) fn area(&self, corners: &[At]) -> Vec<At> {
        let is_number = |at: &&At| at.0.is_finite() && at.1.is_finite();
        let mut corners: Vec<At> = corners.iter().filter(is_number).copied().collect();
        // How far inside each edge a point is.
        let edges: [&dyn Fn(At) -> f64; 4] =
            [&|at| at.0 - self.left, &|at| self.right - at.0, &|at| at.1 - self.top, &|at| {
                self.bottom - at.1
            }];
        for inside in edges {
            let before = corners.iter().cycle().skip(corners.len().saturating_sub(1));
            let sides: Vec<(At, At)> = before.copied().zip(corners.iter().copied()).collect();
            corners.clear();
            for (from, to) in sides {
                let (a, b) = (inside(from), inside(to));
                if (a < 0.0) != (b < 0.0) {
                    let share = a / (a - b);
                    let between = |a: f64, b: f64| a + (b - a) * share;
                    corners.push((between(from.0, to.0), between(from.1, to.1)));
                }
                if b >= 0.0 {
                    corners.push(to);
                }
            }
        }
        corners.into_iter().map(|at| self.nearest(at)).collect()
    }

    /// The part of an upright rectangle that is in the plot: its left top and its right bottom.
    pub(super) fn rectangle(&self, a: At, b: At) -> Option<[At; 2]> {
        let (left, right) = (a.0.min(b.0), a.0.max(b.0));
        let (top, bottom) = (a.1.min(b.1), a.1.max(b.1));
        let meets = left <= self.right
            && right >= self.left
            && top <= self.bottom
            && bottom >= self.top
            && [a.0, b.0, a.1, b.1].iter().all(|place| !place.is_nan());
        meets.then(|| [self.nearest((left, top)), self.nearest((right, bottom))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame { left: 10.0, right: 110.0, top: 20.0, bottom: 70.0 };

    #[test]
    fn a_line_is_cut_where_it_leaves_the_plot() {
        for (points, expected) in [
            // Inside: as it is.
            (
                vec![(20.0, 30.0), (40.0, 50.0), (60.0, 30.0)],
                vec![vec![(20.0, 30.0), (40.0, 50.0), (60.0, 30.0)]],
            ),
            // Through the plot, from left to right, at half its slope.
            (vec![(-90.0, 0.0), (210.0, 60.0)], vec![vec![(10.0, 20.0), (110.0, 40.0)]]),
            // Out at the bottom and in again.
            (
                vec![(20.0, 60.0), (30.0, 80.0), (40.0, 60.0)],
                vec![vec![(20.0, 60.0), (25.0, 70.0)], vec![(35.0, 70.0), (40.0, 60.0)]],
            ),
            // Beside it, and what is no place.
            (vec![(0.0, 0.0), (120.0, 0.0)], vec![]),
            (vec![(20.0, f64::NAN), (40.0, 50.0), (f64::INFINITY, 30.0)], vec![]),
        ] {
            assert_eq!(FRAME.line(&points), expected, "{points:?}");
        }
        // As far off as numbers go: the ends are in the plot.
        let far = FRAME.line(&[(20.0, 30.0), (1e300, 30.0)]);
        assert_eq!(far, [vec![(20.0, 30.0), (110.0, 30.0)]]);
    }

    #[test]
    fn an_area_is_cut_to_the_plot() {
        let inside = [(20.0, 30.0), (40.0, 30.0), (40.0, 50.0)];
        assert_eq!(FRAME.area(&inside), inside);
        let mut around = FRAME.area(&[(-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9)]);
        // Edges of 2·10⁹ keep no more of a place than a millionth.
        for at in &mut around {
            *at = (at.0.round(), at.1.round());
        }
        around.sort_by(|a, b| a.partial_cmp(b).unwrap());
        around.dedup();
        assert_eq!(around, [(10.0, 20.0), (10.0, 70.0), (110.0, 20.0), (110.0, 70.0)]);
        assert_eq!(FRAME.area(&[(0.0, 0.0), (5.0, 0.0), (5.0, 5.0)]), []);
        assert_eq!(FRAME.area(&[]), []);
    }

    #[test]
    fn a_bar_is_cut_to_the_plot() {
        for (from, to, expected) in [
            ((10.0, 30.0), (50.0, 40.0), Some([(10.0, 30.0), (50.0, 40.0)])),
            ((10.0, 30.0), (1e300, 40.0), Some([(10.0, 30.0), (110.0, 40.0)])),
            ((-5.0, 40.0), (20.0, 30.0), Some([(10.0, 30.0), (20.0, 40.0)])),
            ((200.0, 30.0), (300.0, 40.0), None),
            ((f64::NAN, 30.0), (50.0, 40.0), None),
        ] {
            assert_eq!(FRAME.rectangle(from, to), expected, "{from:?} {to:?}");
        }
    }

    #[test]
    fn a_marker_on_the_edge_is_in_the_plot() {
        for (at, expected) in [
            ((10.0, 20.0), true),
            ((110.0 + 1e-9, 70.0), true),
            ((111.0, 50.0), false),
            ((50.0, f64::NAN), false),
        ] {
            assert_eq!(FRAME.holds(at), expected, "{at:?}");
        }
    }
}
