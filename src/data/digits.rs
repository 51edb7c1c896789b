//! Synthetic digits: 28 × 28 grey images of handwritten-like digits, from a seed and no files.
//!
//! Digit `i` of a split shows class `i` mod 10, and is drawn from a generator of its own, keyed by seed, split and `i`: it
//! does not depend on how many are drawn nor on the threads that draw them.

use std::f32::consts::TAU;

use rayon::prelude::*;

use super::DataError;
use super::dataset::{Dataset, Images, Split};
use super::glyphs::{GLYPHS, Stroke};
use super::random::{Purpose, Random};

/// The most digits drawn for a split: 748 MiB of pixels.
pub(super) const MOST: usize = 1_000_000;

const SIDE: usize = 28;
/// Pixels a unit of a glyph's box of 60 × 100, before a writer's scale.
const UNIT: f32 = 0.19;
/// Straight pieces that a curve between two points of a stroke is cut into.
const PIECES: usize = 5;
/// Deviation of a point of a stroke from its place, in glyph units.
const SHAKE: f32 = 3.0;
/// Share of images with a stray line.
const STRAY: f32 = 0.15;
/// Deviation of the noise of the noisiest images; a full pixel is 1.
const NOISE: f32 = 0.1;

/// Draws both splits.
pub(super) fn load(train: usize, test: usize, seed: u64) -> Result<Dataset, DataError> {
    for (split, asked) in [("train", train), ("test", test)] {
        if asked > MOST {
            return Err(DataError::TooMany { split, asked });
        }
    }
    Ok(Dataset {
        shape: [1, SIDE, SIDE],
        outputs: GLYPHS.len(),
        train: draw_split(Purpose::TrainDigit, train, seed),
        test: draw_split(Purpose::TestDigit, test, seed),
    })
}

fn draw_split(purpose: Purpose, count: usize, seed: u64) -> Split {
    let mut pixels = vec![0; count * SIDE * SIDE];
    pixels.par_chunks_exact_mut(SIDE * SIDE).enumerate().for_each(|(index, image)| {
        let mut random = Random::new(purpose, seed, 0, index as u64);
        draw(class(index), &mut random, image);
    });
    let labels = (0..count).map(|index| class(index) as u32).collect();
    Images { pixels, labels }.into()
}

fn class(index: usize) -> usize {
    index % GLYPHS.len()
}

/// Draws one digit of a class.
fn draw(class: usize, random: &mut Random, image: &mut [u8]) {
    let styles = GLYPHS[class];
    let glyph = styles[random.below(styles.len())];
    let hand = Hand::draw(random);
    let mut ink = Ink::blank();
    for stroke in glyph {
        let path = hand.path(stroke, random);
        ink.stroke(&path, hand.radius, hand.pressure);
    }
    if random.between(0.0, 1.0) < STRAY {
        let radius = random.between(0.5, 1.0);
        ink.stroke(&stray(random), radius, 0.0);
    }
    ink.develop(random, image);
}

/// How one image is written: what a writer's hand does to a glyph.
struct Hand {
    /// Scale, slant and rotation: pixels right and down from glyph units right and down.
    linear: [[f32; 2]; 2],
    /// Where the middle of the glyph's box lies, in pixels.
    middle: [f32; 2],
    /// Smooth warp.
    waves: [Wave; 2],
    /// Half the thickness of a line, in pixels.
    radius: f32,
    /// Share by which a stroke begins thicker and ends thinner; negative: the other way round.
    pressure: f32,
}

/// One wave of the warp: pixels at `x` move by `shift` · sin(`frequency` · `x` + `phase`).
struct Wave {
    shift: [f32; 2],
    frequency: [f32; 2],
    phase: f32,
}

impl Hand {
    fn draw(random: &mut Random) -> Self {
        let size = UNIT * random.between(0.8, 1.12);
        let (wide, high) = (size * random.between(0.75, 1.3), size);
        let slant = 0.12 + 0.16 * random.normal();
        let (sin, cos) = libm::sincosf(0.1 * random.normal());
        Self {
            linear: [
                [cos * wide, -(sin + slant * cos) * high],
                [sin * wide, (cos - slant * sin) * high],
            ],
            middle: [(); 2].map(|()| SIDE as f32 / 2.0 + random.between(-1.2, 1.2)),
            waves: [(); 2].map(|()| Wave::draw(random)),
            radius: random.between(0.6, 1.7),
            pressure: 0.2 * random.normal(),
        }
    }

    /// The pen's path over the image, in pixels from its corner.
    fn path(&self, stroke: Stroke, random: &mut Random) -> Vec<[f32; 2]> {
        let points = shaky(stroke, random);
        let curves = points.windows(4).zip(stroke.windows(2));
        curves
            .filter(|(_, written)| written[0] != written[1])
            .flat_map(|(points, _)| (0..=PIECES).map(|k| spline(points, k as f32 / PIECES as f32)))
            .map(|point| self.place(point))
            .collect()
    }

    /// Where a point of the glyph falls on the image.
    fn place(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let flat = self.linear.map(|[a, b]| a * x + b * y);
        let mut placed = [self.middle[0] + flat[0], self.middle[1] + flat[1]];
        for wave in &self.waves {
            let at = wave.frequency[0] * flat[0] + wave.frequency[1] * flat[1] + wave.phase;
            let sin = libm::sinf(at);
            placed[0] += wave.shift[0] * sin;
            placed[1] += wave.shift[1] * sin;
        }
        placed
    }
}

impl Wave {
    fn draw(random: &mut Random) -> Self {
        Self {
            shift: [(); 2].map(|()| 0.7 * random.normal()),
            frequency: [(); 2].map(|()| random.between(-0.4, 0.4)),
            phase: random.between(0.0, TAU),
        }
    }
}

/// The points of a stroke about the middle of its box, each a little off its place, the first and the last doubled. A
/// corner stays one point.
fn shaky(stroke: Stroke, random: &mut Random) -> Vec<[f32; 2]> {
    let mut points: Vec<[f32; 2]> = Vec::with_capacity(stroke.len() + 2);
    for (k, &(right, down)) in stroke.iter().enumerate() {
        let point = if k > 0 && stroke[k - 1] == (right, down) {
            points[points.len() - 1]
        } else {
            let mut off = || SHAKE * random.normal();
            [f32::from(right) - 30.0 + off(), f32::from(down) - 50.0 + off()]
        };
        points.extend(std::iter::repeat_n(point, if k == 0 { 2 } else { 1 }));
    }
    points.extend(points.last().copied());
    points
}

/// The point at `t`, 0 to 1, between the middle two of four points of a Catmull-Rom spline.
fn spline(points: &[[f32; 2]], t: f32) -> [f32; 2] {
    std::array::from_fn(|axis| {
        let [before, from, to, after] = [0, 1, 2, 3].map(|k| points[k][axis]);
        let bend = 2.0 * before - 5.0 * from + 4.0 * to - after;
        let twist = 3.0 * (from - to) + after - before;
        from + 0.5 * t * (to - before + t * (bend + t * twist))
    })
}

/// A short line that belongs to no digit.
fn stray(random: &mut Random) -> [[f32; 2]; 2] {
    let start = [(); 2].map(|()| random.between(2.0, SIDE as f32 - 2.0));
    let end = start.map(|at| at + random.between(-6.0, 6.0));
    [start, end]
}

/// A drawing before it is turned into grey values: for each pixel, how deep its centre lies within a line, in pixels;
/// negative outside.
struct Ink([f32; SIDE * SIDE]);

impl Ink {
    fn blank() -> Self {
        Self([-2.0; SIDE * SIDE])
    }

    /// Draws the straight pieces between the points of a path.
    fn stroke(&mut self, path: &[[f32; 2]], radius: f32, pressure: f32) {
        let pieces = path.len().saturating_sub(1) as f32;
        for (k, ends) in path.windows(2).enumerate() {
            let done = k as f32 / pieces;
            self.piece(ends[0], ends[1], radius * (1.0 + pressure * (1.0 - 2.0 * done)));
        }
    }

    /// Draws one straight piece with round ends.
    fn piece(&mut self, from: [f32; 2], to: [f32; 2], radius: f32) {
        let reach = |axis: usize| {
            let (low, high) = (from[axis].min(to[axis]), from[axis].max(to[axis]));
            let bound = |at: f32| at.clamp(0.0, SIDE as f32) as usize;
            bound(low - radius - 1.0)..bound(high + radius + 2.0)
        };
        let along = [to[0] - from[0], to[1] - from[1]];
        let length2 = (along[0] * along[0] + along[1] * along[1]).max(f32::MIN_POSITIVE);
        for y in reach(1) {
            for x in reach(0) {
                let off = [x as f32 + 0.5 - from[0], y as f32 + 0.5 - from[1]];
                let t = ((off[0] * along[0] + off[1] * along[1]) / length2).clamp(0.0, 1.0);
                let (dx, dy) = (off[0] - t * along[0], off[1] - t * along[1]);
                let depth = radius - (dx * dx + dy * dy).sqrt();
                let pixel = &mut self.0[y * SIDE + x];
                *pixel = pixel.max(depth);
            }
        }
    }

    /// Grey values: the share of a pixel that is inked, about, at this pen's darkness, and noise.
    fn develop(&self, random: &mut Random, image: &mut [u8]) {
        let darkness = random.between(0.7, 1.0);
        let noise = random.between(0.0, NOISE);
        for (pixel, depth) in image.iter_mut().zip(self.0) {
            let inked = darkness * (depth + 0.5).clamp(0.0, 1.0);
            let grey = inked + noise * random.normal();
            *pixel = (255.0 * grey.clamp(0.0, 1.0)).round() as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const AREA: usize = SIDE * SIDE;

    fn images(split: &Split) -> BTreeSet<&[u8]> {
        split.pixels().chunks_exact(AREA).collect()
    }

    #[test]
    fn a_digit_does_not_depend_on_the_number_drawn() {
        let (few, many) = (load(7, 23, 3).unwrap(), load(40, 5, 3).unwrap());
        assert_eq!(few.train.pixels(), &many.train.pixels()[..7 * AREA]);
        assert_eq!(few.train.labels(), &many.train.labels()[..7]);
        assert_eq!(&few.test.pixels()[..5 * AREA], many.test.pixels());
    }

    #[test]
    fn a_digit_does_not_depend_on_the_number_of_threads() {
        let draw = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| load(60, 60, 1)).unwrap()
        };
        assert_eq!(draw(1), draw(3));
    }

    #[test]
    fn no_image_comes_twice_in_either_split_or_under_another_seed() {
        let (one, two) = (load(500, 500, 0).unwrap(), load(500, 500, 1).unwrap());
        let splits = [&one.train, &one.test, &two.train, &two.test].map(images);
        let all: BTreeSet<_> = splits.iter().flatten().collect();
        assert_eq!(all.len(), 2000);
    }

    #[test]
    fn ten_images_in_a_row_show_the_ten_classes() {
        let data = load(20, 10, 0).unwrap();
        let expected: Vec<u32> = (0..10).chain(0..10).collect();
        assert_eq!(data.train.labels(), expected);
        assert_eq!(data.test.labels(), &expected[..10]);
        assert_eq!((data.outputs, data.shape), (10, [1, 28, 28]));
    }

    /// Labels fit what is drawn, and the classes are no trivial templates: the nearest class mean, the weakest of
    /// classifiers, is far above chance (10%) and far from perfect.
    #[test]
    fn labels_fit_the_images() {
        let data = load(1000, 500, 0).unwrap();
        let mut means = vec![[0.0_f32; AREA]; 10];
        for (image, &label) in data.train.pixels().chunks_exact(AREA).zip(data.train.labels()) {
            for (mean, &pixel) in means[label as usize].iter_mut().zip(image) {
                *mean += f32::from(pixel) / 100.0;
            }
        }
        let distance = |image: &[u8], class: usize| -> f32 {
            let differences = image.iter().zip(&means[class]).map(|(&p, m)| f32::from(p) - m);
            differences.map(|d| d * d).sum()
        };
        let right = data.test.pixels().chunks_exact(AREA).zip(data.test.labels());
        let right = right.filter(|(image, label)| {
            let nearest =
                (0..10).min_by(|&a, &b| distance(image, a).total_cmp(&distance(image, b)));
            nearest == Some(**label as usize)
        });
        let right = right.count();
        assert!((300..475).contains(&right), "{right} of 500");
    }

    #[test]
    fn a_spline_passes_through_its_points_and_keeps_lines_straight() {
        let bent = [[0.0, 1.0], [2.0, 5.0], [4.0, -3.0], [9.0, 0.0]];
        let bits = |point: [f32; 2]| point.map(f32::to_bits);
        assert_eq!(bits(spline(&bent, 0.0)), bits(bent[1]));
        assert_eq!(bits(spline(&bent, 1.0)), bits(bent[2]));
        let straight = [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0]];
        assert_eq!(bits(spline(&straight, 0.25)), bits([1.25, 2.5]));
    }

    #[test]
    fn a_corner_is_one_point_and_the_ends_are_doubled() {
        const STROKE: Stroke = &[(0, 0), (50, 0), (50, 0), (50, 90)];
        let points = shaky(STROKE, &mut Random::new(Purpose::TrainDigit, 0, 0, 0));
        let bits: Vec<_> = points.iter().map(|p| p.map(f32::to_bits)).collect();
        let same: Vec<bool> = bits.windows(2).map(|w| w[0] == w[1]).collect();
        assert_eq!(same, [true, false, true, false, true]);
        for (point, (right, down)) in points[1..5].iter().zip(STROKE) {
            let off = [point[0] - (f32::from(*right) - 30.0), point[1] - (f32::from(*down) - 50.0)];
            assert!(off.iter().all(|o| o.abs() < 3.47 * SHAKE), "{off:?}");
        }
    }

    /// The depth of a pixel is the radius less its centre's distance from the segment, wherever it matters: from half a
    /// pixel outside inwards.
    #[test]
    fn a_piece_covers_what_lies_within_its_radius() {
        let (from, to, radius) = ([6.5, 10.5], [16.5, 20.5], 1.5);
        let mut ink = Ink::blank();
        ink.piece(from, to, radius);
        for (index, &depth) in ink.0.iter().enumerate() {
            let (x, y) = ((index % SIDE) as f32 + 0.5, (index / SIDE) as f32 + 0.5);
            // The nearest of 10,001 points of the segment.
            let nearest = (0..=10_000).map(|k| {
                let along = k as f32 / 1000.0;
                (x - from[0] - along).hypot(y - from[1] - along)
            });
            let expected = radius - nearest.fold(f32::INFINITY, f32::min);
            let (depth, expected) = (depth.max(-0.5), expected.max(-0.5));
            assert!((depth - expected).abs() < 1e-3, "{x} {y}: {depth} {expected}");
        }
    }

    #[test]
    fn more_digits_than_can_be_drawn_are_an_error() {
        let error = load(1, MOST + 1, 0).unwrap_err().to_string();
        let expected = "cannot draw 1000001 digits for the test split: the most is 1000000";
        assert_eq!(error, expected);
    }
}
