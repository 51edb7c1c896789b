//! Axes: ranges that hold the data and ticks at round numbers.

use crate::report::text;

/// An axis. `from` is left or at the bottom, and may be larger than `to`.
#[derive(Clone, Debug)]
pub(in crate::report) struct Axis {
    /// What it is, with its unit; empty for none.
    pub(in crate::report) label: String,
    /// How values are placed.
    pub(in crate::report) scale: Scale,
    /// Its start.
    pub(in crate::report) from: f64,
    /// Its end.
    pub(in crate::report) to: f64,
    /// Where labels stand.
    pub(in crate::report) ticks: Vec<Tick>,
    /// Labels of several ticks together, below theirs.
    pub(in crate::report) groups: Vec<Group>,
    /// Whether ticks go through the plot as thin lines.
    pub(in crate::report) grid: bool,
    /// What a reader of the page may change.
    pub(in crate::report) choices: Choices,
}

/// How values are placed on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::report) enum Scale {
    /// At equal distances.
    Linear,
    /// Their logarithms at equal distances: values over 0 only.
    Log,
}

/// What a reader of the page may change on an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::report) struct Choices {
    /// Linear or logarithmic.
    pub(in crate::report) log: bool,
    /// From 0, or about the values.
    pub(in crate::report) zero: bool,
}

/// A labelled place on an axis.
#[derive(Clone, Debug)]
pub(in crate::report) struct Tick {
    /// Where.
    pub(in crate::report) at: f64,
    /// What stands there.
    pub(in crate::report) label: String,
}

/// A labelled part of an axis.
#[derive(Clone, Debug)]
pub(in crate::report) struct Group {
    /// From and to.
    pub(in crate::report) span: (f64, f64),
    /// What stands there.
    pub(in crate::report) label: String,
}

impl Axis {
    /// An axis over exactly `from` to `to` with these ticks.
    fn new(
        label: impl Into<String>,
        scale: Scale,
        (from, to): (f64, f64),
        ticks: Vec<Tick>,
    ) -> Self {
        Self {
            label: label.into(),
            scale,
            from,
            to,
            ticks,
            groups: Vec::new(),
            grid: true,
            choices: Choices::default(),
        }
    }

    /// With these choices.
    pub(super) fn with(self, choices: Choices) -> Self {
        Self { choices, ..self }
    }

    /// Where a value is placed: equal distances of this are equal distances on paper.
    pub(in crate::report) fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Log => value.log10(),
        }
    }

    /// A linear axis over exactly `from` to `to` with ticks at round numbers, labelled by `print`, which is given how
    /// many decimals tell them apart.
    pub(super) fn linear(
        label: impl Into<String>,
        (from, to): (f64, f64),
        print: impl Fn(f64, usize) -> String,
    ) -> Self {
        if !((to - from).is_finite() && to - from > 0.0 && from.abs().max(to.abs()) < LARGEST) {
            // What no axis can show: without ticks, and nothing falls on it.
            return Self::new(label, Scale::Linear, (0.0, 1.0), Vec::new());
        }
        let step = round_step((to - from) / 6.0);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let first = (from / step - 1e-9).ceil() as i64;
        let last = (to / step + 1e-9).floor() as i64;
        let ticks = (first..=last)
            .map(|n| Tick { at: n as f64 * step, label: print(n as f64 * step, decimals) });
        Self::new(label, Scale::Linear, (from, to), ticks.collect())
    }

    /// A linear axis labelled with plain numbers.
    pub(super) fn plain(label: impl Into<String>, range: (f64, f64)) -> Self {
        Self::linear(label, range, |value, decimals| match decimals {
            0..=MOST_DECIMALS => format!("{value:.decimals$}"),
            _ => text::decimal(value),
        })
    }

    /// A logarithmic axis with ticks at powers of `base`, labelled by `print`, which is given the exponent: at most about
    /// eight.
    pub(super) fn powers(
        label: impl Into<String>,
        base: f64,
        (from, to): (f64, f64),
        print: impl Fn(i32) -> String,
    ) -> Self {
        if !(from > 0.0 && to.is_finite() && from < to) {
            return Self::new(label, Scale::Log, (1.0, base), Vec::new());
        }
        let exponent = |value: f64| value.ln() / base.ln();
        let first = (exponent(from) - 1e-9).ceil() as i32;
        let last = (exponent(to) + 1e-9).floor() as i32;
        let every = usize::try_from((last - first) / 8 + 1).unwrap_or(1);
        let ticks = (first..=last)
            .rev()
            .step_by(every)
            .map(|exponent| Tick { at: base.powi(exponent), label: print(exponent) });
        Self::new(label, Scale::Log, (from, to), ticks.collect())
    }

    /// A logarithmic axis of plain numbers: powers of ten, and 2 and 5 times them where there are few.
    pub(super) fn decades(label: impl Into<String>, (from, to): (f64, f64)) -> Self {
        let print = |factor: i32, exponent: i32| match exponent {
            -4..=4 => {
                let decimals = usize::try_from(-exponent).unwrap_or(0);
                format!("{:.decimals$}", f64::from(factor) * 10.0_f64.powi(exponent))
            }
            _ => format!("{factor}e{exponent}"),
        };
        let mut axis = Self::powers(label, 10.0, (from, to), |exponent| print(1, exponent));
        if !axis.ticks.is_empty() && (to / from).log10() < 2.5 {
            for exponent in from.log10().floor() as i32..=to.log10().ceil() as i32 {
                for factor in [2, 5] {
                    let at = f64::from(factor) * 10.0_f64.powi(exponent);
                    if (from..=to).contains(&at) {
                        axis.ticks.push(Tick { at, label: print(factor, exponent) });
                    }
                }
            }
        }
        axis
    }

    /// A vertical axis with one line a category, the first on top.
    pub(super) fn categories(labels: Vec<String>) -> Self {
        let last = labels.len().max(1) as f64 - 0.5;
        let ticks =
            labels.into_iter().enumerate().map(|(index, label)| Tick { at: index as f64, label });
        Self { grid: false, ..Self::new("", Scale::Linear, (last, -0.5), ticks.collect()) }
    }

    /// A horizontal axis of columns, in labelled groups.
    pub(super) fn grid(range: (f64, f64), ticks: Vec<Tick>, groups: Vec<Group>) -> Self {
        Self { groups, grid: false, ..Self::new("", Scale::Linear, range, ticks) }
    }

    /// A horizontal axis of commits, of which some are named.
    pub(super) fn commits(range: (f64, f64), ticks: Vec<Tick>) -> Self {
        Self { grid: false, ..Self::new("commit", Scale::Linear, range, ticks) }
    }

    /// An axis of steps from 0, with ticks at whole ones; without ticks where no step was made.
    pub(super) fn steps(steps: usize) -> Self {
        let mut axis = Self::step_range((0.0, steps.max(1) as f64));
        axis.ticks.retain(|_| steps > 0);
        axis
    }

    /// An axis of some steps, with ticks at whole ones.
    pub(super) fn step_range(range: (f64, f64)) -> Self {
        let mut axis = Self::linear("step", range, |value, _| format!("{value:.0}"));
        axis.ticks.retain(|tick| tick.at.fract() == 0.0);
        axis
    }
}

/// With more decimals than this, a number is read better with an exponent.
const MOST_DECIMALS: usize = 9;

/// Beyond this, values are no measurement, and their differences are lost to rounding.
const LARGEST: f64 = 1e15;

/// The smallest of 1, 2 and 5 times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    if !(least.is_finite() && least > 0.0) {
        return 1.0;
    }
    let power = 10.0_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= least * (1.0 - 1e-9))
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn ticks_stand_at_round_numbers_inside_the_range() {
        let plain = |value: f64, decimals: usize| format!("{value:.decimals$}");
        for (range, expected) in [
            ((0.0, 1.0), vec!["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
            ((0.0, 600.0), vec!["0", "100", "200", "300", "400", "500", "600"]),
            ((0.93, 0.98), vec!["0.93", "0.94", "0.95", "0.96", "0.97", "0.98"]),
            ((-0.5, 0.5), vec!["-0.4", "-0.2", "0.0", "0.2", "0.4"]),
        ] {
            assert_eq!(labels(&Axis::linear("", range, plain)), expected, "{range:?}");
        }
    }

    #[test]
    fn what_no_axis_can_show_is_not_shown() {
        let print = |value: f64, _: usize| value.to_string();
        for range in
            [(0.0, f64::INFINITY), (f64::NAN, 1.0), (0.0, 1e308), (1.0, 1.0), (1e300, 2e300)]
        {
            assert_eq!(labels(&Axis::linear("", range, print)), [""; 0], "{range:?}");
        }
        assert_eq!(labels(&Axis::decades("", (0.0, 1.0))), [""; 0]);
        assert_eq!(labels(&Axis::decades("", (1.0, f64::INFINITY))), [""; 0]);
    }

    #[test]
    fn steps_are_whole() {
        for (steps, expected) in
            [(0, vec![]), (3, vec!["0", "1", "2", "3"]), (9, vec!["0", "2", "4", "6", "8"])]
        {
            assert_eq!(labels(&Axis::steps(steps)), expected, "{steps}");
        }
    }

    #[test]
    fn powers_are_thinned_to_fit() {
        let axis = Axis::powers("", 10.0, (1e-12, 1.0), |exponent| exponent.to_string());
        assert_eq!(labels(&axis), ["0", "-2", "-4", "-6", "-8", "-10", "-12"]);
        let axis = Axis::powers("", 2.0, (1024.0, 65_536.0), |exponent| exponent.to_string());
        assert_eq!(labels(&axis), ["16", "15", "14", "13", "12", "11", "10"]);
    }

    #[test]
    fn few_decades_are_divided() {
        let mut axis = Axis::decades("", (0.04, 3.0));
        axis.ticks.sort_by(|a, b| a.at.total_cmp(&b.at));
        assert_eq!(labels(&axis), ["0.05", "0.1", "0.2", "0.5", "1", "2"]);
    }
}
