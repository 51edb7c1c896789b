//! How much more must be measured before a verdict can be expected, if what comes is like what is there.

use super::describe::{mean, sd, skewness};
use super::interval::{equivalence_reach, reach};
use super::metric::{MIN_PAIRS, SIGNIFICANCE, least_pairs};
use crate::record::Estimate;
use crate::units::Ratio;

/// [`pairs_to_settle`] looks no further: nobody trains a model a thousand times to tell two formats apart.
pub(crate) const MOST_PAIRS: usize = 1000;

/// [`blocks_to_settle`] looks no further: a ratio that a thousand blocks leave open is as good as on its threshold.
pub(crate) const MOST_BLOCKS: usize = 1000;

/// The verdict that is foreseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The mean difference within the margin.
    Equivalent,
    /// The mean difference over 0.
    Better,
    /// The mean difference under 0.
    Worse,
}

/// When a verdict is foreseen, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Pairs of seeds, those that are there counted.
    pub pairs: usize,
    /// The verdict at that many.
    pub outcome: Outcome,
}

/// How many pairs of seeds would settle differences that are not settled yet, and how: the smallest n, more than there are
/// and at least [`MIN_PAIRS`], at which with the same mean, standard deviation and skewness
///
/// - they would be [`equivalent`](super::equivalent) within ±`margin`; or
/// - the 95 % interval of the mean ([`mean_interval`](super::mean_interval)) would leave out 0, its 5 % divided by
///   `comparisons`, and n is at least [`least_pairs`]: better or worse, even where Holm's method multiplies by the number of
///   variants compared.
///
/// An estimate: mean, spread and skewness of the seeds to come will not be those of the few that are there. `None` for fewer
/// than two differences, and where no n up to [`MOST_PAIRS`] would do.
pub(crate) fn pairs_to_settle(
    differences: &[f64],
    margin: f64,
    comparisons: usize,
) -> Option<Settled> {
    let (mean, spread, skewness) = (mean(differences)?, sd(differences)?, skewness(differences)?);
    let significance = SIGNIFICANCE / comparisons.max(1) as f64;
    let ends = |[below, above]: [f64; 2]| (mean - spread * below, mean + spread * above);
    let outcome = |n: usize| {
        let (low, high) = ends(equivalence_reach(n, skewness)?);
        if -margin < low && high < margin {
            return Some(Outcome::Equivalent);
        }
        if n < least_pairs(comparisons) {
            return None;
        }
        let (low, high) = ends(reach(n, skewness, 1.0 - significance)?);
        let better = (low > 0.0).then_some(Outcome::Better);
        better.or((high < 0.0).then_some(Outcome::Worse))
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
pub(crate) fn blocks_to_settle(
    ratio: Estimate<Ratio>,
    blocks: usize,
    threshold: f64,
) -> Option<usize> {
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

    // ends = lambda n, level: (d.mean() - s * below, d.mean() + s * above), with s, below and above as in the snippet beside the
    //     test of mean_interval, g of d and t of n
    // for n in range(max(6, len(d) + 1), 1001):
    //     more = s * (scipy.stats.t.ppf(0.95, n - 1) / n**0.5 + 5 / (n + 1))
    //     if -margin < min(ends(n, 0.9)[0], d.mean() - more) and max(ends(n, 0.9)[1], d.mean() + more) < margin: equivalent
    //     low, high = ends(n, 1 - 0.05 / m)
    //     if m * 2.0**(1 - n) < 0.05 and (low > 0 or high < 0): better or worse
    #[test]
    fn pairs_are_the_first_whose_interval_settles() {
        let few = [0.004, -0.0015, 0.006, 0.0025, 0.001, 0.0075];
        let noisy = [0.02, -0.03, 0.01, -0.015, 0.025, -0.01];
        let narrow = [0.002, -0.0015, 0.0014, -0.0018, 0.0026, -0.0025];
        let skewed = [0.001, 0.002, -0.03, 0.0015, 0.0005, 0.003];
        let mirrored = few.map(|d| -d);
        for (differences, margin, comparisons, expected) in [
            (&few[..], 0.005, 1, Some((7, Better))),
            (&few, 0.001, 1, Some((7, Better))),
            (&few, 0.001, 4, Some((11, Better))),
            (&mirrored, 0.001, 4, Some((11, Worse))),
            (&few[..3], 0.005, 1, Some((12, Better))),
            (&few[..2], 0.005, 1, Some((11, Equivalent))),
            (&noisy, 0.005, 1, Some((90, Equivalent))),
            (&noisy, 0.01, 1, Some((31, Equivalent))),
            (&noisy, 0.01, 4, Some((31, Equivalent))),
            (&noisy, 0.0005, 1, None),
            (&narrow, 0.0015, 1, Some((19, Equivalent))),
            (&skewed, 0.005, 1, Some((51, Worse))),
            (&skewed, 0.02, 1, Some((12, Equivalent))),
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
