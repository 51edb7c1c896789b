//! Permutation tests of paired differences, and the adjustment for many of them.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{SEED, finite};

/// Up to here all 2ⁿ sign patterns are tried.
pub(crate) const EXACT_PAIRS: usize = 20;

/// Sign patterns drawn where there are too many to try.
pub(crate) const FLIPS: usize = 99_999;

/// Two sums this close, as a share of Σ|d|, are one sum. Differences of accuracies near 1 carry rounding errors of
/// about 1e-16, and the smallest real one is one test sample, so anything between 1e-12 and 1e-6 would do.
const TIE: f64 = 1e-9;

/// Two-sided p of the sign-flip test that the differences are symmetric about 0, with the sum as statistic: the share of
/// sign patterns whose |sum| is at least the one seen. Exact up to 20 pairs; above, (k + 1) ÷ (m + 1) of m drawn
/// patterns (Phipson and Smyth 2010). Its least value is 2 ÷ 2ⁿ: with fewer than 6 pairs it cannot fall under 0.05.
///
/// ```
/// use mantissa::stats::sign_flip_p;
///
/// // Of the 2⁶ patterns of signs, only these and all of them turned have so large a sum.
/// assert_eq!(sign_flip_p(&[1.0, 2.0, 1.0, 3.0, 2.0, 1.0]), Some(2.0 / 64.0));
/// ```
pub fn sign_flip_p(differences: &[f64]) -> Option<f64> {
    let differences = finite(differences)?;
    let size: f64 = differences.iter().map(|d| d.abs()).sum();
    let bound = differences.iter().sum::<f64>().abs() - size * TIE;
    Some(if differences.len() <= EXACT_PAIRS {
        // A pattern and its opposite have the same |sum|: the first sign can stay.
        let extreme = count_extreme(&differences[1..], differences[0], bound);
        extreme as f64 / (1_u64 << (differences.len() - 1)) as f64
    } else {
        (drawn_extreme(differences, bound) + 1) as f64 / (FLIPS + 1) as f64
    })
}

/// How many sign patterns of `rest`, added to `sum`, end at least `bound` away from 0.
fn count_extreme(rest: &[f64], sum: f64, bound: f64) -> u64 {
    match rest {
        [] => u64::from(sum.abs() >= bound),
        [first, rest @ ..] => {
            count_extreme(rest, sum + first, bound) + count_extreme(rest, sum - first, bound)
        }
    }
}

/// How many of [`FLIPS`] drawn sign patterns end at least `bound` away from 0.
fn drawn_extreme(differences: &[f64], bound: f64) -> usize {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let is_extreme = |_: &usize| {
        let mut sum = 0.0;
        for signed in differences.chunks(64) {
            let signs = rng.next_u64();
            for (bit, d) in signed.iter().enumerate() {
                sum += if signs >> bit & 1 == 0 { *d } else { -d };
            }
        }
        sum.abs() >= bound
    };
    (0..FLIPS).filter(is_extreme).count()
}

/// The p values adjusted by Holm's step-down method (1979), in their own order: in ascending order p₍ᵢ₎ × (m − i + 1), at
/// most 1, and never below an earlier one. `None` if one lies outside 0 to 1.
///
/// ```
/// use mantissa::stats::holm;
///
/// // 0.25 × 2, and 0.5 × 1.
/// assert_eq!(holm(&[0.25, 0.5]), Some(vec![0.5, 0.5]));
/// assert_eq!(holm(&[2.0]), None);
/// ```
pub fn holm(p: &[f64]) -> Option<Vec<f64>> {
    if p.iter().any(|p| !(0.0..=1.0).contains(p)) {
        return None;
    }
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut least: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        least = least.max(p[index] * (p.len() - rank) as f64).min(1.0);
        adjusted[index] = least;
    }
    Some(adjusted)
}

#[cfg(test)]
mod tests {
    use super::super::assert_close;
    use super::*;

    // scipy.stats.permutation_test((numpy.array(x),), numpy.sum, permutation_type="samples", n_resamples=numpy.inf).pvalue
    #[test]
    fn exact_p_is_scipys() {
        let paired: &[(&[f64], f64)] = &[
            (&[5.0], 1.0),
            (&[0.0, 0.0, 0.0], 1.0),
            (&[0.1, 0.2, 0.3], 0.25),
            (&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.031_25),
            (&[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], 0.031_25),
            (&[1.0, -2.0, 3.0, 4.0, 5.0, 6.0, -7.0, 8.0], 0.25),
            (&[0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 0.031_25),
            (&[0.004, -0.0015, 0.006, 0.0025, 0.001, 0.0075, -0.0005, 0.003], 0.046_875),
        ];
        for (differences, expected) in paired {
            assert_close(sign_flip_p(differences).unwrap(), *expected, 1e-15);
        }
    }

    /// With a tolerance of a few ulps of the sum, patterns that tie are counted on one side or the other by rounding.
    #[test]
    fn differences_of_accuracies_tie_as_the_counts_do() {
        let hits: [(f64, f64); 7] = [
            (1906.0, 1901.0),
            (1910.0, 1899.0),
            (1912.0, 1896.0),
            (1915.0, 1912.0),
            (1923.0, 1902.0),
            (1915.0, 1918.0),
            (1899.0, 1920.0),
        ];
        let counts: Vec<f64> = hits.iter().map(|(a, b)| a - b).collect();
        let shares: Vec<f64> = hits.iter().map(|(a, b)| a / 2000.0 - b / 2000.0).collect();
        assert_eq!(sign_flip_p(&shares), sign_flip_p(&counts));
    }

    // By convolution of the 24 two-point distributions: p = {0: 1.0}; for k in x: p = the distribution of s ± k;
    // sum(m for s, m in p.items() if abs(s) >= abs(sum(x))) is 0.00714111328125.
    #[test]
    fn sampled_p_is_near_the_exact_one() {
        let x: Vec<f64> = (0..24).map(|i| f64::from(i % 5 - 1)).collect();
        let error = (0.007_14 / FLIPS as f64).sqrt();
        assert_close(sign_flip_p(&x).unwrap(), 0.007_141_113_281_25, 4.0 * error);
        assert_eq!(sign_flip_p(&vec![1.0; 60]), Some(1.0 / (FLIPS + 1) as f64));
        assert_eq!(sign_flip_p(&vec![0.0; 60]), Some(1.0));
    }

    // statsmodels.stats.multitest.multipletests(p, method="holm")[1]
    // By the definition: sorted 0.01, 0.02, 0.03, 0.04 give 4 × 0.01, max(0.04, 3 × 0.02), max(0.06, 2 × 0.03), max(0.06, 0.04).
    #[test]
    fn holm_steps_down() {
        for (p, expected) in [
            (&[][..], &[][..]),
            (&[0.03], &[0.03]),
            (&[0.04, 0.01, 0.03, 0.02], &[0.06, 0.04, 0.06, 0.06]),
            (&[0.5, 0.9, 0.8], &[1.0, 1.0, 1.0]),
            (&[0.03, 0.03], &[0.06, 0.06]),
            (&[0.001, 0.2, 0.012, 0.049, 0.03], &[0.005, 0.2, 0.048, 0.098, 0.09]),
        ] {
            let adjusted = holm(p).unwrap();
            assert_eq!(adjusted.len(), expected.len());
            for (adjusted, expected) in adjusted.into_iter().zip(expected) {
                assert_close(adjusted, *expected, 1e-15);
            }
        }
        assert_eq!(holm(&[0.1, f64::NAN]), None);
    }
}
