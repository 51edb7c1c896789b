//! Statistics of small samples: estimates with intervals, exact tests, and what paired accuracies allow to say. Knows
//! only numbers, no variant and no policy.
//!
//! Every function returns `None` for an empty sample, for NaN or an infinity in it, and where it says so. What is drawn
//! is drawn from `ChaCha` with a fixed seed: the same numbers give the same answer on every machine.
//!
//! ```
//! use mantissa::stats;
//!
//! assert_eq!(stats::mean(&[1.0, 2.0, 6.0]), Some(3.0));
//! assert_eq!(stats::sd(&[1.0, 2.0, 6.0]), Some(7.0_f64.sqrt()));
//! assert_eq!(stats::mean(&[1.0, f64::NAN]), None);
//! ```

mod bootstrap;
mod changes;
mod describe;
mod interval;
mod metric;
mod permutation;
mod settle;

pub use bootstrap::bca;
pub(crate) use bootstrap::{median_estimate, paired_ratio};
pub use changes::change_points;
#[doc(hidden)] // for histories
pub use changes::exact_changes;
pub use describe::{mean, median, sd};
#[doc(hidden)] // for this crate's examples
pub use interval::{FAR_OFF, TOST_LEVEL};
pub use interval::{
    equivalent, mean_difference, mean_interval, probability_better, student_interval, wilson,
};
pub(crate) use metric::{MIN_PAIRS, adjust, least_pairs, paired_differences};
#[doc(hidden)] // for reports and this crate's examples
pub use metric::{SIGNIFICANCE, metric_difference};
pub use permutation::{holm, sign_flip_p};
pub(crate) use settle::{
    MOST_BLOCKS, MOST_PAIRS, Outcome, Settled, blocks_to_settle, pairs_to_settle,
};

/// The level of the intervals that are reported.
///
/// ```
/// use mantissa::stats::{LEVEL, mean_difference, mean_interval};
///
/// let (variant, baseline) = ([3.0, 5.0, 4.0], [1.0, 2.0, 3.0]);
/// assert_eq!(mean_difference(&variant, &baseline), mean_interval(&[2.0, 3.0, 1.0], LEVEL));
/// ```
pub const LEVEL: f64 = 0.95;

/// Seed of everything that is drawn here.
const SEED: u64 = 0;

/// The sample, if it has values and all are finite.
fn finite(samples: &[f64]) -> Option<&[f64]> {
    (!samples.is_empty() && samples.iter().all(|value| value.is_finite())).then_some(samples)
}

/// Differences by pair, if both samples are finite and of one length.
fn differences(a: &[f64], b: &[f64]) -> Option<Vec<f64>> {
    if a.len() != b.len() {
        return None;
    }
    let (a, b) = (finite(a)?, finite(b)?);
    Some(a.iter().zip(b).map(|(a, b)| a - b).collect())
}

/// Asserts that two numbers agree to within `tolerance`.
#[cfg(test)]
#[track_caller]
fn assert_close(measured: f64, expected: f64, tolerance: f64) {
    assert!((measured - expected).abs() <= tolerance, "{measured} is not {expected} ± {tolerance}");
}
