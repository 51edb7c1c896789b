//! Where a series changed.

use super::Series;
use crate::regression::{Measured, Metric};
use crate::stats;

/// Of a noisy series so many of the latest values are looked at: the work grows with their square, and what is older was new once.
const MOST_LOOKED_AT: usize = 2000;

/// A change of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The place of the first point of the new level.
    pub at: usize,
    /// The level before: the value, or for times the median.
    pub before: Measured,
    /// The level from then on.
    pub after: Measured,
}

impl Change {
    /// After ÷ before, less 1; none where one is no number, or before was 0.
    pub fn share(&self) -> Option<f64> {
        let (before, after) = (self.before.value()?, self.after.value()?);
        (before != 0.0).then(|| after / before - 1.0)
    }
}

impl Series {
    /// Where it changed. Of an exact metric that is every lasting change beyond the metric's margin; of a noisy one every change
    /// of level by [`stats::change_points`], on a logarithmic scale, since times vary by factors.
    pub fn changes(&self) -> Vec<Change> {
        if self.is_exact() { self.exact_changes() } else { self.level_changes() }
    }

    fn exact_changes(&self) -> Vec<Change> {
        let values: Vec<&Measured> = self.points.iter().map(|point| &point.value).collect();
        let same = |old: &&Measured, new: &&Measured| is_same(self.key.metric, old, new);
        let mut before = values.first().map(|value| (*value).clone());
        let changes = stats::exact_changes(&values, same).into_iter();
        changes
            .filter_map(|at| {
                let after = values[at].clone();
                let before = before.replace(after.clone())?;
                Some(Change { at, before, after })
            })
            .collect()
    }

    fn level_changes(&self) -> Vec<Change> {
        let numbers = self.points.iter().enumerate().filter_map(|(at, point)| {
            let value = point.value.value().filter(|value| *value > 0.0)?;
            Some((at, value))
        });
        let numbers: Vec<(usize, f64)> = numbers.collect();
        let latest = &numbers[numbers.len().saturating_sub(MOST_LOOKED_AT)..];
        let logarithms: Vec<f64> = latest.iter().map(|(_, value)| value.ln()).collect();
        let cuts = stats::change_points(&logarithms).unwrap_or_default();
        let ends = std::iter::once(0).chain(cuts.iter().copied()).chain([latest.len()]);
        let ends: Vec<usize> = ends.collect();
        let level = |from: usize, end: usize| {
            let values: Vec<f64> = latest[from..end].iter().map(|(_, value)| *value).collect();
            stats::median(&values).map_or(Measured::NotFinite, Measured::number)
        };
        let change = |part: &[usize]| Change {
            at: latest[part[1]].0,
            before: level(part[0], part[1]),
            after: level(part[1], part[2]),
        };
        ends.windows(3).map(change).collect()
    }
}

/// Whether an exact metric is as it was: the rule of a check.
fn is_same(metric: Metric, old: &Measured, new: &Measured) -> bool {
    match (old.value(), new.value()) {
        (Some(old), Some(new)) => (new - old).abs() <= metric.margin() * old.abs(),
        _ => old == new,
    }
}
