//! Colours, light and dark. A figure names a light colour; a theme says what stands for it.

use crate::record::files::GROUNDS;

/// Red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour(pub(super) u8, pub(super) u8, pub(super) u8);

impl Colour {
    /// `#RRGGBB`, as the drawing library writes it.
    pub(super) fn hex(self) -> String {
        format!("#{:02X}{:02X}{:02X}", self.0, self.1, self.2)
    }
}

pub(super) const GROUND: Colour = Colour(255, 255, 255);
pub(super) const INK: Colour = Colour(34, 34, 34);
pub(super) const MUTED: Colour = Colour(88, 88, 88);
pub(super) const GRID: Colour = Colour(228, 228, 228);
pub(super) const AXIS: Colour = Colour(140, 140, 140);
pub(super) const ZONE: Colour = Colour(214, 234, 226);
pub(super) const OVERFLOW: Colour = Colour(240, 170, 40);
pub(super) const UNDERFLOW: Colour = Colour(100, 185, 235);

/// The hues of Okabe and Ito (2008), moved until each stands out from white as WCAG 2.2 asks of graphics and any two are
/// further apart than theirs to whoever lacks one kind of cone.
pub(super) const PALETTE: [Colour; 7] = [
    Colour(0, 0, 0),
    Colour(0, 60, 155),
    Colour(230, 100, 14),
    Colour(27, 164, 138),
    Colour(181, 112, 240),
    Colour(140, 72, 9),
    Colour(94, 106, 161),
];

/// Every colour of a figure, and what stands for it on a dark ground: it stands out from that ground, and from the other
/// lines, by as much as is asked of the first on white.
pub(super) const DARK: [(Colour, Colour); 15] = [
    (GROUND, Colour(20, 23, 28)),
    (INK, Colour(230, 233, 238)),
    (MUTED, Colour(162, 171, 184)),
    (GRID, Colour(48, 54, 63)),
    (AXIS, Colour(120, 128, 140)),
    (ZONE, Colour(26, 58, 48)),
    (OVERFLOW, Colour(138, 88, 0)),
    (UNDERFLOW, Colour(20, 95, 150)),
    (PALETTE[0], Colour(245, 245, 245)),
    (PALETTE[1], Colour(67, 114, 220)),
    (PALETTE[2], Colour(242, 113, 29)),
    (PALETTE[3], Colour(34, 180, 136)),
    (PALETTE[4], Colour(175, 147, 228)),
    (PALETTE[5], Colour(245, 183, 45)),
    (PALETTE[6], Colour(141, 212, 255)),
];

/// What a figure is drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// A white ground.
    Light,
    /// A dark ground.
    Dark,
}

impl Theme {
    /// What stands for a colour of a figure.
    pub(super) fn colour(self, colour: Colour) -> Colour {
        let dark = || DARK.iter().find(|(light, _)| *light == colour).map(|(_, dark)| *dark);
        match self {
            Self::Light => colour,
            Self::Dark => dark().unwrap_or(colour),
        }
    }

    /// What follows a figure's name in its files.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Light => GROUNDS[0],
            Self::Dark => GROUNDS[1],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sRGB without its gamma.
    fn linear(Colour(r, g, b): Colour) -> [f64; 3] {
        [r, g, b].map(|part| match f64::from(part) / 255.0 {
            part if part <= 0.04045 => part / 12.92,
            part => ((part + 0.055) / 1.055).powf(2.4),
        })
    }

    fn times(matrix: [[f64; 3]; 3], vector: [f64; 3]) -> [f64; 3] {
        matrix.map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum())
    }

    /// Relative luminance and contrast by WCAG 2.2.
    fn contrast(a: Colour, b: Colour) -> f64 {
        let luminance = |colour| {
            let [r, g, b] = linear(colour);
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_is_read_and_lines_are_seen_in_both_themes() {
        for theme in [Theme::Light, Theme::Dark] {
            let on_ground = |colour| contrast(theme.colour(colour), theme.colour(GROUND));
            for text in [INK, MUTED] {
                assert!(on_ground(text) >= 4.5, "{theme:?} {text:?}: {}", on_ground(text));
            }
            for heat in [OVERFLOW, UNDERFLOW, ZONE] {
                let ratio = contrast(theme.colour(INK), theme.colour(heat));
                assert!(ratio >= 4.5, "{theme:?} ink on {heat:?}: {ratio}");
            }
            for line in PALETTE {
                assert!(on_ground(line) >= 3.0, "{theme:?} {line:?}: {}", on_ground(line));
            }
        }
    }

    /// What is seen without the cones for long, middle or short waves: Machado, Oliveira, Fernandes 2009, severity 1.
    const BLIND: [[[f64; 3]; 3]; 3] = [
        [
            [0.152_286, 1.052_583, -0.204_868],
            [0.114_503, 0.786_281, 0.099_216],
            [-0.003_882, -0.048_116, 1.051_998],
        ],
        [
            [0.367_322, 0.860_646, -0.227_968],
            [0.280_085, 0.672_501, 0.047_413],
            [-0.011_820, 0.042_940, 0.968_881],
        ],
        [
            [1.255_528, -0.076_749, -0.178_779],
            [-0.078_411, 0.930_809, 0.147_602],
            [0.004_733, 0.691_367, 0.303_900],
        ],
    ];

    /// `OKLab` of linear sRGB (Ottosson 2020): its distances are about those that are seen.
    fn oklab(rgb: [f64; 3]) -> [f64; 3] {
        let cones = times(
            [
                [0.412_221_470_8, 0.536_332_536_3, 0.051_445_992_9],
                [0.211_903_498_2, 0.680_699_545_1, 0.107_396_956_6],
                [0.088_302_461_9, 0.281_718_837_6, 0.629_978_700_5],
            ],
            rgb.map(|part| part.clamp(0.0, 1.0)),
        );
        times(
            [
                [0.210_454_255_3, 0.793_617_785_0, -0.004_072_046_8],
                [1.977_998_495_1, -2.428_592_205_0, 0.450_593_709_9],
                [0.025_904_037_1, 0.782_771_766_2, -0.808_675_766_0],
            ],
            cones.map(f64::cbrt),
        )
    }

    /// Okabe and Ito's seven are at least 0.076 apart to the colour-blind, and 0.156 to others.
    #[test]
    fn any_two_lines_are_told_apart_by_everyone() {
        let apart = |seen: &dyn Fn([f64; 3]) -> [f64; 3], a, b| {
            let (a, b) = (oklab(seen(linear(a))), oklab(seen(linear(b))));
            a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
        };
        for theme in [Theme::Light, Theme::Dark] {
            let lines = PALETTE.map(|line| theme.colour(line));
            for (index, a) in lines.into_iter().enumerate() {
                for b in lines.into_iter().skip(index + 1) {
                    assert!(apart(&|rgb| rgb, a, b) >= 0.156, "{theme:?} {a:?} {b:?}");
                    for matrix in BLIND {
                        assert!(apart(&|rgb| times(matrix, rgb), a, b) >= 0.12, "{a:?} {b:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_colour_has_one_that_stands_for_it() {
        for (index, (light, dark)) in DARK.iter().enumerate() {
            assert!(DARK[..index].iter().all(|(l, d)| l != light && d != dark), "{light:?}");
        }
    }
}
