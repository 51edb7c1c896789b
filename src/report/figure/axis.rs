//! Axes: ranges that hold the data and ticks at round numbers.

/// An axis. `from` is left or at the bottom, and may be larger than `to`.
#[derive(Clone, Debug)]
pub(in crate::report) struct Axis {
    /// What it is, with its unit; empty for none.
    pub(in crate::report) label: String,
    /// Its start.
    pub(in crate::report) from: f64,
    /// Its end.
    pub(in crate::report) to: f64,
    /// Where labels stand.
    pub(in crate::report) ticks: Vec<Tick>,
    /// Whether ticks go through the plot as thin lines.
    pub(in crate::report) grid: bool,
}

/// A labelled place on an axis.
#[derive(Clone, Debug)]
pub(in crate::report) struct Tick {
    /// Where.
    pub(in crate::report) at: f64,
    /// What stands there.
    pub(in crate::report) label: String,
}

impl Axis {
    /// A linear axis over exactly `from` to `to` with ticks at round numbers, labelled by `print`, which is told how
    /// many decimals tell them apart.
    pub(super) fn linear(
        label: impl Into<String>,
        (from, to): (f64, f64),
        print: impl Fn(f64, usize) -> String,
    ) -> Self {
        let step = round_step((to - from) / 6.0);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let first = (from / step - 1e-9).ceil() as i64;
        let last = (to / step + 1e-9).floor() as i64;
        let ticks = (first..=last)
            .map(|n| Tick { at: n as f64 * step, label: print(n as f64 * step, decimals) });
        Self { label: label.into(), from, to, ticks: ticks.collect(), grid: true }
    }

    /// A logarithmic axis to the base 10, in exponents, with at most about eight ticks.
    pub(super) fn decades(
        label: impl Into<String>,
        (from, to): (f64, f64),
        print: impl Fn(i32) -> String,
    ) -> Self {
        let (first, last) = ((from - 1e-9).ceil() as i32, (to + 1e-9).floor() as i32);
        let every = usize::try_from((last - first) / 8 + 1).unwrap_or(1);
        let ticks = (first..=last)
            .rev()
            .step_by(every)
            .map(|exponent| Tick { at: f64::from(exponent), label: print(exponent) });
        Self { label: label.into(), from, to, ticks: ticks.collect(), grid: true }
    }

    /// A vertical axis with one line a category, the first on top.
    pub(super) fn categories(labels: Vec<String>) -> Self {
        let number = labels.len().max(1) as f64;
        let ticks =
            labels.into_iter().enumerate().map(|(index, label)| Tick { at: index as f64, label });
        Self {
            label: String::new(),
            from: number - 0.5,
            to: -0.5,
            ticks: ticks.collect(),
            grid: false,
        }
    }

    /// An axis of steps from 0, with ticks at whole ones; without ticks where no step was made.
    pub(super) fn steps(steps: usize) -> Self {
        let range = (0.0, steps.max(1) as f64);
        let mut axis = Self::linear("step", range, |value, _| format!("{value:.0}"));
        axis.ticks.retain(|tick| steps > 0 && tick.at.fract() == 0.0);
        axis
    }
}

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
    fn steps_are_whole() {
        for (steps, expected) in
            [(0, vec![]), (3, vec!["0", "1", "2", "3"]), (9, vec!["0", "2", "4", "6", "8"])]
        {
            assert_eq!(labels(&Axis::steps(steps)), expected, "{steps}");
        }
    }

    #[test]
    fn decades_are_thinned_to_fit() {
        let axis = Axis::decades("", (-12.0, 0.0), |exponent| exponent.to_string());
        assert_eq!(labels(&axis), ["0", "-2", "-4", "-6", "-8", "-10", "-12"]);
    }
}
