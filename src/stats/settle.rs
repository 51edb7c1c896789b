//! How much more must be measured before a verdict can be expected, if what comes is like what is there.

use super::accuracy::{MIN_PAIRS, SIGNIFICANCE, least_pairs};
use super::describe::{mean, sd};
use super::interval::{TOST_LEVEL, student_half};
use crate::record::Estimate;
use crate::units::Ratio;

/// [`pairs_to_settle`] looks no further: nobody trains a model a thousand times to tell two formats apart.
pub const MOST_PAIRS: usize = 1000;

/// [`blocks_to_settle`] looks no further: a ratio that a thousand blocks leave open is as good as on its threshold.
pub const MOST_BLOCKS: usize = 1000;

/// The verdict that is foreseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The mean difference within the margin.
    Equivalent,
    /// The mean difference over 0.
    Better,
    /// The mean difference under 0.
    Worse,
}

/// When a verdict is foreseen, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Pairs of seeds, those that are there counted.
    pub pairs: usize,
    /// The verdict at that many.
    pub outcome: Outcome,
}

/// How many pairs of seeds would settle differences that are not settled yet, and how: the smallest n, more than there are
/// and at least [`MIN_PAIRS`], at which with the same mean and standard deviation
///
/// - Student's 90 % interval of the mean would lie within ±`margin`: equivalent; or
/// - Student's 95 % interval would leave out 0, its 5 % divided by `comparisons`, and n is at least [`least_pairs`]: better
///   or worse, even where Holm's method multiplies by the number of variants compared.
///
/// An estimate: mean and spread of the seeds to come will not be those of the few that are there. `None` for fewer than two
/// differences, and where no n up to [`MOST_PAIRS`] would do.
pub fn pairs_to_settle(differences: &[f64], margin: f64, comparisons: usize) -> Option<Settled> {
    let (mean, spread) = (mean(differences)?, sd(differences)?);
    let significance = SIGNIFICANCE / comparisons.max(1) as f64;
    let outcome = |n: usize| {
        let half = |level| student_half(spread, n, level).unwrap_or(f64::INFINITY);
        if mean.abs() + half(TOST_LEVEL) < margin {
            return Some(Outcome::Equivalent);
        }
        let differs = n >= least_pairs(comparisons) && half(1.0 - significance) < mean.abs();
        differs.then_some(if mean < 0.0 { Outcome::Worse } else { Outcome::Better })
    };
    let (mut low, mut high) = (MIN_PAIRS.max(differences.len() + 1), MOST_PAIRS);
    if low > high || outcome(high).is_none() {
        return None;
    }
    // Intervals only narrow as n grows.
    while low < high {
        let middle = usize::midpoint(low, high);
        if outcome(middle).is_some() {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(Settled { pairs: high, outcome: outcome(high)? })
}

/// How many timed blocks would bring the far end of the ratio's interval over to the point's side of `threshold`, if its
/// distance from the point shrinks as 1 ÷ √blocks, on the log scale on which ratios are estimated. `None` where that takes
/// more than [`MOST_BLOCKS`].
pub fn blocks_to_settle(ratio: Estimate<Ratio>, blocks: usize, threshold: f64) -> Option<usize> {
    let [value, low, high] = [ratio.value, ratio.low, ratio.high].map(|ratio| ratio.0.ln());
    let gap = threshold.ln() - value;
    let far = if gap >= 0.0 { high - value } else { value - low };
    let needed = (blocks as f64 * (far / gap).powi(2)).ceil();
    (needed <= MOST_BLOCKS as f64).then(|| (needed as usize).max(blocks + 1))
}

#[cfg(test)]
mod tests {
    use super::Outcome::{Better, Equivalent, Worse};
    use super::*;

    // mean, sd = d.mean(), d.std(ddof=1)
    // half = lambda n, level: scipy.stats.t.ppf((1 + level) / 2, n - 1) * sd / n**0.5
    // next((n for n in range(max(6, len(d) + 1), 1001) if abs(mean) + half(n, 0.9) < margin or
    //       m * 2.0**(1 - n) < 0.05 and half(n, 1 - 0.05 / m) < abs(mean)), None)
    // Equivalent where the first of the two holds, else better or worse by the sign of the mean.
    #[test]
    fn pairs_are_those_of_scipys_quantiles() {
        let few = [0.004, -0.0015, 0.006, 0.0025, 0.001, 0.0075];
        let noisy = [0.02, -0.03, 0.01, -0.015, 0.025, -0.01];
        let narrow = [0.002, -0.0015, 0.0014, -0.0018, 0.0026, -0.0025];
        let mirrored = few.map(|d| -d);
        for (differences, margin, comparisons, expected) in [
            (&few[..], 0.005, 1, Some((7, Better))),
            (&few, 0.001, 1, Some((7, Better))),
            (&few, 0.001, 4, Some((10, Better))),
            (&mirrored, 0.001, 4, Some((10, Worse))),
            (&few[..3], 0.005, 1, Some((10, Better))),
            (&noisy, 0.005, 1, Some((53, Equivalent))),
            (&noisy, 0.01, 1, Some((15, Equivalent))),
            (&noisy, 0.01, 4, Some((15, Equivalent))),
            (&noisy, 0.0005, 1, None),
            (&narrow, 0.0015, 1, Some((9, Equivalent))),
            (&[0.0; 3], 0.005, 1, Some((6, Equivalent))),
            (&[0.0; 3], 0.0, 1, None),
            (&[0.03; 3], 0.005, 1, Some((6, Better))),
            (&[-0.03; 3], 0.005, 1, Some((6, Worse))),
            (&[-0.03; 3], 0.005, 4, Some((8, Worse))),
            (&[0.03; 3], 0.005, 4, Some((8, Better))),
            (&[0.03], 0.005, 1, None),
            (&[], 0.005, 1, None),
        ] {
            let found = pairs_to_settle(differences, margin, comparisons);
            let expected = expected.map(|(pairs, outcome)| Settled { pairs, outcome });
            assert_eq!(found, expected, "{differences:?} within {margin}, {comparisons}");
        }
    }

    /// From the definition: with n blocks more the far end is at the point's distance × √(blocks ÷ n), in logarithms.
    #[test]
    fn blocks_bring_the_far_end_to_the_threshold() {
        let ratio =
            |low, value, high| Estimate { value: Ratio(value), low: Ratio(low), high: Ratio(high) };
        for (estimate, blocks, expected) in [
            // The end is twice as far as the threshold: four times the blocks.
            (ratio(0.2, 0.25, 1.0), 12, Some(48)),
            (ratio(0.25, 1.0, 1.5), 12, Some(48)),
            (ratio(0.49, 0.495, 0.5 + 1e-9), 12, Some(13)),
            (ratio(0.4, 0.499, 0.6), 12, None),
            (ratio(0.4, 0.5, 0.6), 12, None),
            (ratio(0.5, 0.5, 0.5), 12, None),
        ] {
            assert_eq!(blocks_to_settle(estimate, blocks, 0.5), expected, "{estimate:?}");
        }
    }
}
