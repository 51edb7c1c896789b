//! Colours, light and dark. A figure names a light colour; a theme says what stands for it.

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

/// The palette of Okabe and Ito (2008), safe for the colour-blind; without yellow, which is faint on white.
pub(super) const PALETTE: [Colour; 7] = [
    Colour(0, 0, 0),
    Colour(0, 114, 178),
    Colour(213, 94, 0),
    Colour(0, 158, 115),
    Colour(204, 121, 167),
    Colour(230, 159, 0),
    Colour(86, 180, 233),
];

/// Every colour of a figure, and what stands for it on a dark ground: as far from that ground as the first is from white,
/// and from its neighbours as far as before.
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
    (PALETTE[1], Colour(70, 140, 225)),
    (PALETTE[2], Colour(242, 120, 40)),
    (PALETTE[3], Colour(30, 180, 135)),
    (PALETTE[4], Colour(226, 150, 192)),
    (PALETTE[5], Colour(240, 178, 50)),
    (PALETTE[6], Colour(150, 214, 255)),
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
            Self::Light => "",
            Self::Dark => "-dark",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance and contrast by WCAG 2.2.
    fn contrast(a: Colour, b: Colour) -> f64 {
        let luminance = |Colour(r, g, b): Colour| {
            let linear = |part: u8| match f64::from(part) / 255.0 {
                part if part <= 0.04045 => part / 12.92,
                part => ((part + 0.055) / 1.055).powf(2.4),
            };
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
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
                assert!(on_ground(line) >= 2.0, "{theme:?} {line:?}: {}", on_ground(line));
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
