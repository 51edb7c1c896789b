//! What values of the test metric paired by seed allow to say.

use std::collections::BTreeMap;

use super::describe::mean_of;
use super::{differences, equivalent, holm, mean_difference, probability_better, sign_flip_p};
use crate::record::{MetricDifference, MetricVerdict, TestMetric};

/// Under this p a difference counts.
pub const SIGNIFICANCE: f64 = 0.05;

/// Fewer pairs of seeds than this allow no verdict: the sign-flip test cannot fall under 0.05, and that a few skewed
/// differences lie close together says little of the next one.
pub(crate) const MIN_PAIRS: usize = 6;

/// How many pairs it takes before one of so many variants compared can be called better or worse: the smallest n, at least
/// [`MIN_PAIRS`], with `comparisons` · 2 ÷ 2ⁿ under [`SIGNIFICANCE`]. The least p of n pairs is 2 ÷ 2ⁿ, and Holm's method
/// multiplies the least of all by their number: six pairs for one variant, eight for four. Equivalence rests on no p and
/// takes no more than [`MIN_PAIRS`].
pub(crate) fn least_pairs(comparisons: usize) -> usize {
    let mut pairs = MIN_PAIRS;
    let mut adjusted = comparisons as f64 * 0.5_f64.powf(pairs as f64 - 1.0);
    while adjusted >= SIGNIFICANCE {
        pairs += 1;
        adjusted /= 2.0;
    }
    pairs
}

/// The values of a metric of a variant against the baseline's, given as (seed, value) and paired by seed; seeds that only one
/// has are left out. `margin` is the δ within which values are equivalent. `None` without a pair, with a seed
/// given twice, or with a value that is not finite.
///
/// The verdict is `Inconclusive` under `MIN_PAIRS`. Else it is `Equivalent` where two one-sided tests put the mean
/// difference within the margin, even if it also differs from 0: the plan declares such differences to be of no
/// practical account (Lakens 2017, "Equivalence Tests", calls this outcome statistically different and practically
/// equivalent), and the interval and p still show it. Else it is `Better` or `Worse` where the 95 % interval excludes
/// 0 and p < 0.05. `p_holm` is left to `adjust`.
pub fn metric_difference(
    metric: TestMetric,
    variant: &[(u64, f64)],
    baseline: &[(u64, f64)],
    margin: f64,
) -> Option<MetricDifference> {
    let (a, b) = paired(variant, baseline)?;
    let differences = differences(&a, &b)?;
    let p = sign_flip_p(&differences)?;
    let interval = mean_difference(&a, &b);
    let (better, worse) = if metric.is_higher_better() { (&a, &b) } else { (&b, &a) };
    let mut difference = MetricDifference {
        value: beyond_rounding(mean_of(&differences), &a, &b),
        low: interval.map(|interval| interval.low),
        high: interval.map(|interval| interval.high),
        p: Some(p),
        p_holm: None,
        probability_better: probability_better(better, worse).map(|share| share.value),
        pairs: differences.len(),
        verdict: MetricVerdict::Inconclusive,
    };
    if differences.len() >= MIN_PAIRS {
        difference.verdict = match equivalent(&differences, margin) {
            Some(true) => MetricVerdict::Equivalent,
            _ => direction(metric, &difference, p),
        };
    }
    Some(difference)
}

/// A mean of differences, and 0 where it is no larger than some roundings of the values that were subtracted.
fn beyond_rounding(mean: f64, a: &[f64], b: &[f64]) -> f64 {
    let largest = a.iter().chain(b).fold(0.0, |largest: f64, value| largest.max(value.abs()));
    if mean.abs() <= 16.0 * f64::EPSILON * largest { 0.0 } else { mean }
}

/// `variant − baseline` of each seed that both have, by seed; `None` where a seed is given twice or a value is not finite.
pub(crate) fn paired_differences(
    variant: &[(u64, f64)],
    baseline: &[(u64, f64)],
) -> Option<Vec<f64>> {
    let (a, b) = paired(variant, baseline)?;
    differences(&a, &b)
}

/// The values of both for each seed that both have.
fn paired(variant: &[(u64, f64)], baseline: &[(u64, f64)]) -> Option<(Vec<f64>, Vec<f64>)> {
    let (variant, baseline) = (by_seed(variant)?, by_seed(baseline)?);
    let pair = |(seed, value): (&u64, &f64)| Some((*value, *baseline.get(seed)?));
    Some(variant.iter().filter_map(pair).unzip())
}

/// The values by seed, if each seed is there once.
fn by_seed(values: &[(u64, f64)]) -> Option<BTreeMap<u64, f64>> {
    let map: BTreeMap<u64, f64> = values.iter().copied().collect();
    (map.len() == values.len()).then_some(map)
}

/// Better or worse, if the interval and `p` both say so.
fn direction(metric: TestMetric, difference: &MetricDifference, p: f64) -> MetricVerdict {
    let (below, above) = if metric.is_higher_better() {
        (MetricVerdict::Worse, MetricVerdict::Better)
    } else {
        (MetricVerdict::Better, MetricVerdict::Worse)
    };
    match (difference.low, difference.high) {
        (_, Some(high)) if high < 0.0 && p < SIGNIFICANCE => below,
        (Some(low), _) if low > 0.0 && p < SIGNIFICANCE => above,
        _ => MetricVerdict::Inconclusive,
    }
}

/// Adjusts the p of an experiment's variants for their number by Holm's method, and takes back each `Better` and `Worse`
/// that the adjusted p no longer carries. An `Equivalent` stays: it rests on no p.
pub(crate) fn adjust(metric: TestMetric, differences: &mut [&mut MetricDifference]) {
    let p: Vec<f64> = differences.iter().filter_map(|d| d.p).collect();
    let adjusted = holm(&p).unwrap_or_default();
    let tested = differences.iter_mut().filter(|d| d.p.is_some());
    for (difference, p) in tested.zip(adjusted) {
        difference.p_holm = Some(p);
        if difference.verdict != MetricVerdict::Equivalent && difference.pairs >= MIN_PAIRS {
            difference.verdict = direction(metric, difference, p);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::assert_close;
    use super::*;
    use MetricVerdict::{Better, Equivalent, Inconclusive, Worse};

    /// Accuracies of seeds 0, 1, 2, … that differ from 0.9 by `differences`, and as many of 0.9.
    fn pairs(differences: &[f64]) -> [Vec<(u64, f64)>; 2] {
        let seeds = 0..differences.len() as u64;
        let variant = seeds.clone().zip(differences).map(|(seed, d)| (seed, 0.9 + d)).collect();
        [variant, seeds.map(|seed| (seed, 0.9)).collect()]
    }

    fn judged(differences: &[f64], margin: f64) -> MetricDifference {
        let [variant, baseline] = pairs(differences);
        metric_difference(TestMetric::Accuracy, &variant, &baseline, margin).unwrap()
    }

    /// Python: sum([0.065 - 0.079, 0.079 - 0.009, 0.009 - 0.065]) / 3 == 2.3129646346357427e-18, and the three values are the same.
    #[test]
    fn a_mean_below_the_rounding_of_the_values_is_0() {
        let of = |values: [f64; 3]| -> Vec<(u64, f64)> { (0..3).zip(values).collect() };
        let (variant, baseline) = (of([0.065, 0.079, 0.009]), of([0.079, 0.009, 0.065]));
        let error = TestMetric::MeanSquaredError;
        let difference = metric_difference(error, &variant, &baseline, 0.01).unwrap();
        assert_eq!(difference.value, 0.0);
        let larger = of([0.065, 0.079, 0.009 + 3e-15]);
        let difference = metric_difference(error, &larger, &baseline, 0.01).unwrap();
        assert_close(difference.value, 1e-15, 1e-17);
    }

    #[test]
    fn verdicts() {
        let few = [0.001, 0.0005, 0.0008, 0.0012, 0.0007, 0.0009];
        let many = few.map(|d| d * 30.0);
        let noisy = [0.02, -0.03, 0.01, -0.015, 0.025, -0.01];
        let diverged = [-0.8, -0.79, -0.81, -0.8, -0.78, -0.8];
        for (differences, margin, verdict) in [
            (&few[..], 0.005, Equivalent),
            (&few[..], 0.0001, Better),
            (&many, 0.005, Better),
            (&many.map(|d| -d), 0.005, Worse),
            (&noisy, 0.005, Inconclusive),
            (&[0.0; 6], 0.005, Equivalent),
            (&[0.0; 6], 0.0, Inconclusive),
            (&diverged, 0.005, Worse),
            (&many[..5], 0.005, Inconclusive),
            (&[0.0; 5], 0.005, Inconclusive),
            (&[0.001], 0.005, Inconclusive),
        ] {
            let judged = judged(differences, margin);
            assert_eq!(judged.verdict, verdict, "{differences:?} within {margin}");
        }
    }

    /// An error that falls as an accuracy rises is judged as that accuracy, and its difference has the other sign.
    #[test]
    fn a_lower_error_is_better() {
        let differences = [0.03, 0.015, 0.024, 0.036, 0.021, 0.027];
        for (sign, verdict, share) in [(-1.0, Better, 1.0), (1.0, Worse, 0.0)] {
            let [variant, baseline] = pairs(&differences.map(|d| sign * d));
            let metric = TestMetric::MeanSquaredError;
            let mut judged = metric_difference(metric, &variant, &baseline, 0.005).unwrap();
            assert_eq!((judged.verdict, judged.probability_better), (verdict, Some(share)));
            assert_close(judged.value, sign * 0.0255, 1e-15);
            adjust(metric, &mut [&mut judged]);
            assert_eq!(judged.verdict, verdict);
        }
    }

    #[test]
    fn seeds_pair_whatever_their_order_and_company() {
        let variant = [(3, 0.5), (1, 0.7), (9, 0.1)];
        let baseline = [(1, 0.6), (2, 0.0), (3, 0.25)];
        let judged = metric_difference(TestMetric::Accuracy, &variant, &baseline, 0.01).unwrap();
        assert_eq!((judged.pairs, judged.p, judged.p_holm), (2, Some(0.5), None));
        assert_eq!(judged.probability_better, Some(1.0));
        assert_close(judged.value, 0.175, 1e-15);

        let single = metric_difference(TestMetric::Accuracy, &variant, &[(1, 0.6)], 0.01).unwrap();
        assert_eq!((single.pairs, single.low, single.high, single.p), (1, None, None, Some(1.0)));

        let none: [&[(u64, f64)]; 3] = [&[], &[(7, 0.5)], &[(1, 0.5), (1, 0.5)]];
        for other in none {
            assert_eq!(
                metric_difference(TestMetric::Accuracy, &variant, other, 0.01),
                None,
                "{other:?}"
            );
        }
        assert_eq!(metric_difference(TestMetric::Accuracy, &variant, &[(1, f64::NAN)], 0.01), None);
    }

    /// From the definition: all differences of one sign, the least p that there is, in every one of the variants compared.
    #[test]
    fn least_pairs_are_the_first_that_holms_method_lets_through() {
        for (comparisons, expected) in (1..=10).zip([6, 7, 7, 8, 8, 8, 9, 9, 9, 9]) {
            let lets_through = |pairs: usize| {
                let p = sign_flip_p(&vec![0.01; pairs]).unwrap();
                let adjusted = holm(&vec![p; comparisons]).unwrap();
                adjusted.iter().any(|p| *p < SIGNIFICANCE)
            };
            let first = (1..20).find(|pairs| lets_through(*pairs));
            let found = least_pairs(comparisons);
            assert_eq!((found, first), (expected, Some(expected)), "{comparisons} compared");
        }
        assert_eq!(least_pairs(0), MIN_PAIRS);
    }

    /// Six pairs give p = 0.03125 at best: alone significant, among two variants 0.0625 and not.
    #[test]
    fn more_variants_ask_for_more_evidence() {
        let seven = [-0.03, -0.02, -0.025, -0.021, -0.024, -0.022, -0.028];
        let mut worse = judged(&seven[..6], 0.001);
        adjust(TestMetric::Accuracy, &mut [&mut worse]);
        assert_eq!((worse.verdict, worse.p_holm), (Worse, Some(0.031_25)));

        let (mut second, mut same) = (worse.clone(), judged(&[0.0; 6], 0.001));
        let mut strong = judged(&seven, 0.001);
        adjust(TestMetric::Accuracy, &mut [&mut worse, &mut second, &mut same, &mut strong]);
        assert_eq!(
            [&worse, &second, &same, &strong].map(|d| (d.verdict, d.p_holm)),
            [
                (Inconclusive, Some(0.093_75)),
                (Inconclusive, Some(0.093_75)),
                (Equivalent, Some(1.0)),
                (Inconclusive, Some(0.0625)),
            ]
        );
    }
}
