//! Loss scaling. Knows no tensor: its caller says whether the gradients were finite.

use std::fmt;
use std::str::FromStr;

/// The state of the loss scale; [`LossScale::after`] returns the next one.
///
/// Text form: `none`, `static:1024`, or `dynamic` with the settings that are not the defaults, in any order:
/// `dynamic:init=1024:growth=2:backoff=0.5:interval=2000:floor=1:ceiling=16777216`. There is no ceiling unless one is given.
///
/// ```
/// use mantissa::precision::LossScale;
///
/// let scale: LossScale = "static:1024".parse()?;
/// assert_eq!(scale.value(), 1024.0);
/// assert_eq!(scale.after(false), scale, "it never changes");
/// assert_eq!(LossScale::None.value(), 1.0);
/// # Ok::<(), mantissa::precision::ScaleError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossScale {
    /// No scaling.
    None,
    /// A constant.
    Static(f32),
    /// Backs off on a step whose loss or gradients are not finite and grows after enough finite steps.
    Dynamic(DynamicScale),
}

/// A dynamic loss scale, as `PyTorch`'s `GradScaler`, with a floor, and a ceiling if one is asked for.
///
/// ```
/// use mantissa::precision::{DynamicScale, LossScale};
///
/// let scale = LossScale::Dynamic(DynamicScale { scale: 8.0, interval: 2, ..DynamicScale::DEFAULT });
/// assert_eq!(scale.after(false).value(), 4.0);
/// assert_eq!(scale.after(true).value(), 8.0);
/// assert_eq!(scale.after(true).after(true).value(), 16.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicScale {
    /// The scale now.
    pub scale: f32,
    /// Factor after `interval` finite steps.
    pub growth: f64,
    /// Factor after a step whose loss or gradients are not finite.
    pub backoff: f64,
    /// Finite steps in a row before growth.
    pub interval: u32,
    /// Under this the run has diverged.
    pub floor: f32,
    /// Never above this; infinite for none. Growth that would make the scale infinite is left out, as by `GradScaler`.
    pub ceiling: f32,
    /// Finite steps since the last change.
    pub finite_steps: u32,
}

/// Invalid text of a loss scale.
///
/// ```
/// use mantissa::precision::{LossScale, ScaleError};
///
/// let error = "sometimes".parse::<LossScale>().unwrap_err();
/// assert_eq!(error, ScaleError::Unknown("sometimes".to_owned()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    /// Neither of the three kinds.
    #[error(
        "unknown loss scale \"{0}\"; known: none, static:S, dynamic, dynamic:init=S:interval=N"
    )]
    Unknown(String),
    /// A setting of `dynamic` that there is not.
    #[error(
        "loss scale: unknown setting \"{0}\" of dynamic; known: init, growth, backoff, interval, floor, ceiling"
    )]
    UnknownSetting(String),
    /// The same setting twice.
    #[error("loss scale: {0} is given twice")]
    Repeated(String),
    /// A value that is no number, or not one that the setting can have.
    #[error("loss scale: {setting} is \"{value}\"; it must be {expected}")]
    Value {
        /// The setting.
        setting: String,
        /// What was typed.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The start is not between floor and ceiling.
    #[error("loss scale: init {init} must lie between floor {floor} and ceiling {ceiling}")]
    Order {
        /// The start.
        init: String,
        /// The floor.
        floor: String,
        /// The ceiling.
        ceiling: String,
    },
}

/// Steps in a row whose loss is not finite after which a run under a dynamic loss scale has diverged, wherever its scale is.
///
/// ```
/// use mantissa::precision::{DynamicScale, LossScale, NON_FINITE_LOSSES};
///
/// // Halved as often, the scale is under its floor long before.
/// let start = LossScale::Dynamic(DynamicScale::DEFAULT);
/// let end = (0..NON_FINITE_LOSSES).fold(start, |scale, _| scale.after(false));
/// assert!(end.collapsed());
/// ```
pub const NON_FINITE_LOSSES: u32 = 50;

impl Default for DynamicScale {
    /// [`DynamicScale::DEFAULT`].
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl DynamicScale {
    /// `GradScaler`'s defaults in `PyTorch` (2^16, × 2, × 0.5, 2000 steps, no ceiling), with floor 1.
    pub const DEFAULT: Self = Self {
        scale: 65_536.0,
        growth: 2.0,
        backoff: 0.5,
        interval: 2000,
        floor: 1.0,
        ceiling: f32::INFINITY,
        finite_steps: 0,
    };

    /// The settings of the text form, in the order in which they are printed.
    fn settings(self) -> [(&'static str, String); 6] {
        [
            ("init", self.scale.to_string()),
            ("growth", self.growth.to_string()),
            ("backoff", self.backoff.to_string()),
            ("interval", self.interval.to_string()),
            ("floor", self.floor.to_string()),
            ("ceiling", self.ceiling.to_string()),
        ]
    }

    /// Factors are f64 and the scale f32, and a product is rounded once: so does `PyTorch`, and so are the scales the same.
    fn after(self, finite: bool) -> Self {
        let times = |factor: f64| (f64::from(self.scale) * factor) as f32;
        let finite_steps = self.finite_steps + 1;
        match finite {
            false => Self { scale: times(self.backoff), finite_steps: 0, ..self },
            true if finite_steps >= self.interval => {
                let grown = times(self.growth);
                let scale = if grown.is_finite() { grown.min(self.ceiling) } else { self.scale };
                Self { scale, finite_steps: 0, ..self }
            }
            true => Self { finite_steps, ..self },
        }
    }
}

impl LossScale {
    /// The factor on the loss gradient.
    pub fn value(self) -> f32 {
        match self {
            Self::None => 1.0,
            Self::Static(scale) => scale,
            Self::Dynamic(dynamic) => dynamic.scale,
        }
    }

    /// The state after a step whose loss and gradients were all finite, or not.
    #[must_use]
    pub fn after(self, finite: bool) -> Self {
        match self {
            Self::Dynamic(dynamic) => Self::Dynamic(dynamic.after(finite)),
            Self::None | Self::Static(_) => self,
        }
    }

    /// Whether a step that used the scale `value` and was not finite takes a dynamic scale under its floor.
    pub fn collapses_from(self, value: f32) -> bool {
        match self {
            Self::Dynamic(dynamic) => {
                Self::Dynamic(DynamicScale { scale: value, ..dynamic }.after(false)).collapsed()
            }
            Self::None | Self::Static(_) => false,
        }
    }

    /// Whether the last back-off took a dynamic scale under its floor: the run has diverged.
    pub fn collapsed(self) -> bool {
        matches!(self, Self::Dynamic(dynamic) if dynamic.scale < dynamic.floor)
    }
}

impl fmt::Display for LossScale {
    /// The state as a start: finite steps counted so far are not part of the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Static(scale) => f.pad(&format!("static:{scale}")),
            Self::Dynamic(dynamic) => {
                let settings = dynamic.settings().into_iter().zip(DynamicScale::DEFAULT.settings());
                let changed = settings.filter(|(setting, default)| setting != default);
                let text = changed.map(|((name, value), _)| format!(":{name}={value}"));
                f.pad(&format!("dynamic{}", text.collect::<String>()))
            }
        }
    }
}

impl FromStr for LossScale {
    type Err = ScaleError;
    fn from_str(text: &str) -> Result<Self, ScaleError> {
        match text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest))) {
            ("none", None) => Ok(Self::None),
            ("static", Some(value)) => Ok(Self::Static(positive("static", value)?)),
            ("dynamic", settings) => Ok(Self::Dynamic(dynamic(settings)?)),
            _ => Err(ScaleError::Unknown(text.to_owned())),
        }
    }
}

/// The settings after `dynamic:`, over the defaults.
fn dynamic(settings: Option<&str>) -> Result<DynamicScale, ScaleError> {
    let growth = |factor: &f64| (1.0..f64::INFINITY).contains(factor);
    let backoff = |factor: &f64| 0.0 < *factor && *factor < 1.0;
    let interval = |steps: &u32| *steps >= 1;
    let mut dynamic = DynamicScale::DEFAULT;
    let mut seen = Vec::new();
    for setting in settings.into_iter().flat_map(|settings| settings.split(':')) {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        if seen.contains(&name) {
            return Err(ScaleError::Repeated(name.to_owned()));
        }
        seen.push(name);
        match name {
            "init" => dynamic.scale = positive(name, value)?,
            "floor" => dynamic.floor = positive(name, value)?,
            "ceiling" => dynamic.ceiling = positive(name, value)?,
            "growth" => dynamic.growth = number(name, value, "a finite number from 1 on", growth)?,
            "backoff" => {
                dynamic.backoff = number(name, value, "a number between 0 and 1", backoff)?;
            }
            "interval" => {
                dynamic.interval = number(name, value, "a whole number from 1 on", interval)?;
            }
            _ => return Err(ScaleError::UnknownSetting(name.to_owned())),
        }
    }
    if dynamic.floor <= dynamic.scale && dynamic.scale <= dynamic.ceiling {
        return Ok(dynamic);
    }
    Err(ScaleError::Order {
        init: dynamic.scale.to_string(),
        floor: dynamic.floor.to_string(),
        ceiling: dynamic.ceiling.to_string(),
    })
}

fn positive(setting: &str, value: &str) -> Result<f32, ScaleError> {
    let positive = |scale: &f32| 0.0 < *scale && *scale < f32::INFINITY;
    number(setting, value, "a positive finite number", positive)
}

fn number<T: FromStr>(
    setting: &str,
    value: &str,
    expected: &'static str,
    allowed: impl Fn(&T) -> bool,
) -> Result<T, ScaleError> {
    value.parse().ok().filter(allowed).ok_or_else(|| ScaleError::Value {
        setting: setting.to_owned(),
        value: value.to_owned(),
        expected,
    })
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "results are exact or wrong")]
mod tests {
    use super::*;

    fn scale(text: &str) -> LossScale {
        text.parse().unwrap()
    }

    /// The scale after each step: `+` finite, `-` not.
    fn scales(text: &str, steps: &str) -> Vec<f32> {
        let mut state = scale(text);
        let after = |step| {
            state = state.after(step == '+');
            state.value()
        };
        steps.chars().map(after).collect()
    }

    /// Expected scales from `PyTorch` 2.15:
    /// ```python
    /// def run(init, growth, backoff, interval, steps):
    ///     scaler = torch.amp.GradScaler(device="cpu", init_scale=init, growth_factor=growth, backoff_factor=backoff,
    ///                                   growth_interval=interval)
    ///     weight = torch.nn.Parameter(torch.zeros(1)); optimizer = torch.optim.SGD([weight], lr=0.0); scales = []
    ///     for step in steps:
    ///         scaler.scale(torch.zeros(1))
    ///         weight.grad = torch.tensor([1.0 if step == "+" else float("inf")])
    ///         scaler.step(optimizer); scaler.update(); scales.append(scaler.get_scale())
    ///     return scales
    /// run(65536., 2., .5, 2000, "++-+--+"); run(1024., 2., .5, 3, "+++++-+++-++-+++"); run(8., 4., .25, 2, "++++-+++-")
    /// run(1., 1.5, .3, 1, "+-++--+"); run(65536., 2., .5, 2, "-+-+-++++++")
    /// ```
    #[test]
    fn the_scale_follows_grad_scaler() {
        #[rustfmt::skip]
        let table: [(&str, &str, &[f32]); 5] = [
            ("dynamic", "++-+--+", &[65536., 65536., 32768., 32768., 16384., 8192., 8192.]),
            ("dynamic:init=1024:interval=3", "+++++-+++-++-+++",
                &[1024., 1024., 2048., 2048., 2048., 1024., 1024., 1024., 2048., 1024., 1024., 1024., 512., 512., 512., 1024.]),
            ("dynamic:init=8:growth=4:backoff=0.25:interval=2", "++++-+++-", &[8., 32., 32., 128., 32., 32., 128., 128., 32.]),
            ("dynamic:init=1:growth=1.5:backoff=0.3:interval=1", "+-++--+",
                &[1.5, 0.45, 0.674_999_95, 1.012_499_9, 0.303_749_98, 0.091_125, 0.136_687_49]),
            ("dynamic:interval=2", "-+-+-++++++",
                &[32768., 32768., 16384., 16384., 8192., 8192., 16384., 16384., 32768., 32768., 65536.]),
        ];
        for (text, steps, expected) in table {
            assert_eq!(scales(text, steps), expected, "{text} {steps}");
        }
    }

    /// `run(65536., 2., .5, 2000, steps)` of the snippet above, where its scale changes.
    #[test]
    fn the_default_interval_counts_2000_finite_steps_in_a_row() {
        let (row, short) = ("+".repeat(2000), "+".repeat(1999));
        let scales = scales("dynamic", &format!("{row}-{short}-{row}"));
        let changes: Vec<_> = (0..scales.len())
            .filter(|&step| step == 0 || scales[step] != scales[step - 1])
            .map(|step| (step, scales[step]))
            .collect();
        let expected =
            [(0, 65536.), (1999, 131_072.), (2000, 65536.), (4000, 32768.), (6000, 65536.)];
        assert_eq!(changes, expected);
    }

    /// `run(2.**126, 2., .5, 1, "+++-")` of the snippet above: `_amp_update_scale_` keeps a scale whose growth is not finite.
    #[test]
    fn growth_that_is_not_finite_is_left_out() {
        let largest = 2.0_f32.powi(127);
        let text = format!("dynamic:init={}:interval=1", 2.0_f32.powi(126));
        assert_eq!(scales(&text, "+++-"), [largest, largest, largest, largest / 2.0]);
    }

    #[test]
    fn the_ceiling_holds_and_under_the_floor_the_run_has_diverged() {
        assert_eq!(scales("dynamic:init=4:interval=1:ceiling=10", "+++"), [8.0, 10.0, 10.0]);
        let mut state = scale("dynamic:init=4:floor=2");
        assert!(!state.collapsed());
        state = state.after(false);
        assert_eq!((state.value(), state.collapsed()), (2.0, false));
        state = state.after(true);
        assert_eq!((state.value(), state.collapsed()), (2.0, false));
        state = state.after(false);
        assert_eq!((state.value(), state.collapsed()), (1.0, true));
    }

    #[test]
    fn none_and_static_never_change() {
        for (text, value) in [("none", 1.0), ("static:1024", 1024.0), ("static:0.5", 0.5)] {
            let after = scale(text).after(false).after(true);
            assert_eq!(
                (after, after.value(), after.collapsed()),
                (scale(text), value, false),
                "{text}"
            );
        }
    }

    #[test]
    fn a_scale_is_parsed_as_it_is_printed() {
        for text in [
            "none",
            "static:1024",
            "static:0.1",
            "dynamic",
            "dynamic:init=1024",
            "dynamic:growth=1.1:interval=1",
            "dynamic:init=3:growth=4:backoff=0.3:interval=7:floor=0.25:ceiling=1000000",
        ] {
            assert_eq!(scale(text).to_string(), text);
        }
        assert_eq!(scale("dynamic:interval=9:init=2").to_string(), "dynamic:init=2:interval=9");
        assert_eq!(scale("dynamic:init=65536:floor=1").to_string(), "dynamic");
        assert_eq!(scale("dynamic"), LossScale::Dynamic(DynamicScale::DEFAULT));
    }

    #[test]
    fn a_wrong_kind_names_the_known_ones() {
        for text in ["", "None", "static", "none:1", "1024"] {
            let expected = format!(
                "unknown loss scale \"{text}\"; known: none, static:S, dynamic, dynamic:init=S:interval=N"
            );
            assert_eq!(text.parse::<LossScale>().unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_wrong_setting_says_what_is_wrong() {
        #[rustfmt::skip]
        let table = [
            ("static:0", "static is \"0\"; it must be a positive finite number"),
            ("static:inf", "static is \"inf\"; it must be a positive finite number"),
            ("dynamic:", "unknown setting \"\" of dynamic; known: init, growth, backoff, interval, floor, ceiling"),
            ("dynamic:start=2", "unknown setting \"start\" of dynamic; known: init, growth, backoff, interval, floor, ceiling"),
            ("dynamic:init", "init is \"\"; it must be a positive finite number"),
            ("dynamic:init=NaN", "init is \"NaN\"; it must be a positive finite number"),
            ("dynamic:growth=0.9", "growth is \"0.9\"; it must be a finite number from 1 on"),
            ("dynamic:backoff=1", "backoff is \"1\"; it must be a number between 0 and 1"),
            ("dynamic:interval=0", "interval is \"0\"; it must be a whole number from 1 on"),
            ("dynamic:init=2:init=4", "init is given twice"),
            ("dynamic:init=0.5", "init 0.5 must lie between floor 1 and ceiling inf"),
            ("dynamic:init=32:ceiling=16", "init 32 must lie between floor 1 and ceiling 16"),
        ];
        for (text, expected) in table {
            let message = text.parse::<LossScale>().unwrap_err().to_string();
            assert_eq!(message, format!("loss scale: {expected}"), "{text}");
        }
    }
}
