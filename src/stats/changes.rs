//! Change points: where the level of a series moved, and stayed there.
//!
//! The levels are those of PELT (Killick, Fearnhead and Eckley 2012, "Optimal Detection of Changepoints With a Linear
//! Computational Cost"): of all ways to cut the series into pieces of one mean each, the one with the least sum of squared
//! deviations, in units of the noise's variance, and a penalty for each cut.

use super::describe::median_of;
use super::finite;

/// A level lasts at least so many values: one or two that stand out are no change.
pub(crate) const LEAST_LEVEL: usize = 3;

/// With fewer values than these the noise cannot be told from a change.
pub(crate) const LEAST_SERIES: usize = 10;

/// A value further than so many standard deviations of the noise from the median of its neighbourhood is an outlier: of
/// normal noise one in some ten thousand is.
const OUTLIER: f64 = 4.0;

/// Values on either side that are a value's neighbourhood.
const NEIGHBOURS: usize = 2;

/// Noise below this share of the largest value is rounding.
const ROUNDING: f64 = 1e-9;

/// The indices at which a new level begins; `None` for fewer than 10 values.
///
/// Outliers are replaced before by the median of their neighbourhood, as by Hampel's filter, since a mean has no defence against
/// a run on a busy machine.
///
/// ```
/// use mantissa::stats::change_points;
///
/// let noise = [3.0, -7.0, 1.0, 9.0, -4.0, 2.0, -9.0, 6.0, -2.0, 1.0];
/// let series = [noise.map(|noise| 100.0 + noise), noise.map(|noise| 200.0 + noise)].concat();
/// assert_eq!(change_points(&series), Some(vec![10]));
/// assert_eq!(change_points(&[1.0, 2.0]), None);
/// ```
pub fn change_points(series: &[f64]) -> Option<Vec<usize>> {
    let series = finite(series).filter(|series| series.len() >= LEAST_SERIES)?;
    let size = series.iter().fold(0.0, |size: f64, value| size.max(value.abs()));
    let noise = noise(series).max(ROUNDING * size);
    if noise <= 0.0 {
        return Some(Vec::new());
    }
    let cleaned: Vec<f64> = without_outliers(series, noise).iter().map(|v| v / noise).collect();
    Some(pelt(&cleaned, penalty(series.len())))
}

/// What a cut must gain, in units of the noise's variance. For known noise the gain of the best cut of n values without a change
/// is the largest of n − 1 dependent χ² of one degree, and Schwarz's criterion asks for 2 ln n. The noise is estimated, and where
/// it came out too small all gains are too large: in one of twenty series by 7.5 or more with 10 values, by 2.5 with 30, by 1.6 with
/// 100, by 1.15 with 1000 (4,000 series of normal noise each). Hence 4 ln n, and up to twice that for short series: of series
/// without a change, 4 % get one with 10 values, 1.7 % with 30, 0.2 % with 100 (5,000 each).
fn penalty(values: usize) -> f64 {
    4.0 * (values as f64).ln() * (1.0 + 10.0 / values as f64)
}

/// The standard deviation of the noise, by the median absolute deviation of the differences between neighbours: a change of
/// level is in one difference only, and a steady drift in their median.
fn noise(series: &[f64]) -> f64 {
    /// Standard deviations of a normal distribution in its median absolute deviation.
    const NORMAL: f64 = 1.482_602_218_505_602;
    let differences: Vec<f64> = series.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let middle = median_of(&differences);
    let deviations: Vec<f64> = differences.iter().map(|value| (value - middle).abs()).collect();
    NORMAL * median_of(&deviations) / 2.0_f64.sqrt()
}

fn without_outliers(series: &[f64], noise: f64) -> Vec<f64> {
    let value = |at: usize| {
        let end = (at + NEIGHBOURS + 1).min(series.len());
        let middle = median_of(&series[at.saturating_sub(NEIGHBOURS)..end]);
        if (series[at] - middle).abs() > OUTLIER * noise { middle } else { series[at] }
    };
    (0..series.len()).map(value).collect()
}

/// A place where the last piece may begin.
struct Start {
    at: usize,
    /// The least cost of what is before it.
    before: f64,
    /// And of the last piece, up to the end that is looked at.
    cost: f64,
    /// From this end on it cannot be the best any more.
    until: usize,
}

/// The cuts of least cost, by dynamic programming over the end of the last piece.
///
/// A start s is left out once F(s) + C(s, t) ≥ F(t): from t on, another start is no worse. As a piece has a least length, t is a
/// start only for ends from t + [`LEAST_LEVEL`] on, and until then s stays.
fn pelt(series: &[f64], penalty: f64) -> Vec<usize> {
    let costs = Costs::of(series);
    let mut best = vec![(0.0, 0); series.len() + 1];
    let mut starts = vec![Start { at: 0, before: 0.0, cost: 0.0, until: usize::MAX }];
    for end in LEAST_LEVEL..=series.len() {
        starts.retain(|start| end < start.until);
        let mut least = (f64::INFINITY, 0);
        for start in &mut starts {
            start.cost = start.before + costs.of_piece(start.at, end);
            if start.cost < least.0 {
                least = (start.cost, start.at);
            }
        }
        for start in &mut starts {
            if start.cost >= least.0 + penalty && start.until == usize::MAX {
                start.until = end + LEAST_LEVEL;
            }
        }
        best[end] = least;
        // What begins here ends at least a piece later, and has room for a piece before.
        let next = end + 1 - LEAST_LEVEL;
        if next >= LEAST_LEVEL {
            let before = best[next].0 + penalty;
            starts.push(Start { at: next, before, cost: before, until: usize::MAX });
        }
    }
    let mut cuts = Vec::new();
    let mut at = best[series.len()].1;
    while at > 0 {
        cuts.push(at);
        at = best[at].1;
    }
    cuts.reverse();
    cuts
}

/// Sums from which the cost of any piece follows.
struct Costs {
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Costs {
    /// Of deviations from the mean of all, which keeps the sums small.
    fn of(series: &[f64]) -> Self {
        let mean = super::describe::mean_of(series);
        let (mut sums, mut squares) = (vec![0.0], vec![0.0]);
        let (mut sum, mut square) = (0.0, 0.0);
        for value in series {
            sum += value - mean;
            square += (value - mean).powi(2);
            sums.push(sum);
            squares.push(square);
        }
        Self { sums, squares }
    }

    /// The squared deviations of a piece from its own mean.
    fn of_piece(&self, from: usize, end: usize) -> f64 {
        let sum = self.sums[end] - self.sums[from];
        self.squares[end] - self.squares[from] - sum * sum / (end - from) as f64
    }
}

/// The indices at which a series of values that repeat to the bit changed: where a value is another than the one that held, and
/// the next one is the same, or there is none yet. `same` says whether two are.
pub fn exact_changes<T>(series: &[T], same: impl Fn(&T, &T) -> bool) -> Vec<usize> {
    let mut changes = Vec::new();
    let mut held = 0;
    for at in 1..series.len() {
        let lasts = series.get(at + 1).is_none_or(|next| same(&series[at], next));
        if lasts && !same(&series[held], &series[at]) {
            changes.push(at);
            held = at;
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Normal noise of standard deviation 1, by Box and Muller.
    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn series(rng: &mut ChaCha8Rng, levels: &[(usize, f64)]) -> Vec<f64> {
        let level = |(count, level): &(usize, f64)| vec![*level; *count];
        levels.iter().flat_map(level).map(|level| level + normal(rng)).collect()
    }

    /// Annual flow of the Nile at Aswan, 1871 to 1970, in 10⁸ m³ (Cobb 1978, "The problem of the Nile"; R's data set `Nile`).
    const NILE: [f64; 100] = [
        1120.0, 1160.0, 963.0, 1210.0, 1160.0, 1160.0, 813.0, 1230.0, 1370.0, 1140.0, 995.0, 935.0,
        1110.0, 994.0, 1020.0, 960.0, 1180.0, 799.0, 958.0, 1140.0, 1100.0, 1210.0, 1150.0, 1250.0,
        1260.0, 1220.0, 1030.0, 1100.0, 774.0, 840.0, 874.0, 694.0, 940.0, 833.0, 701.0, 916.0,
        692.0, 1020.0, 1050.0, 969.0, 831.0, 726.0, 456.0, 824.0, 702.0, 1120.0, 1100.0, 832.0,
        764.0, 821.0, 768.0, 845.0, 864.0, 862.0, 698.0, 845.0, 744.0, 796.0, 1040.0, 759.0, 781.0,
        865.0, 845.0, 944.0, 984.0, 897.0, 822.0, 1010.0, 771.0, 676.0, 649.0, 846.0, 812.0, 742.0,
        801.0, 1040.0, 860.0, 874.0, 848.0, 890.0, 744.0, 749.0, 838.0, 1050.0, 918.0, 986.0,
        797.0, 923.0, 975.0, 815.0, 1020.0, 906.0, 901.0, 1170.0, 912.0, 746.0, 919.0, 718.0,
        714.0, 740.0,
    ];

    /// 1898 is the last year of the old level: Cobb 1978, and Balke 1993 and others after him.
    #[test]
    fn the_nile_flows_lower_from_1899_on() {
        assert_eq!(change_points(&NILE), Some(vec![1899 - 1871]));
    }

    #[test]
    fn known_shifts_are_found_where_they_are() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for levels in [
            &[(30, 0.0), (30, 8.0)][..],
            &[(20, 100.0), (20, 90.0), (20, 100.0)],
            &[(40, 0.0), (LEAST_LEVEL, 10.0)],
            &[(12, 5.0), (12, -5.0), (12, 15.0), (300, 0.0)],
        ] {
            let mut expected = Vec::new();
            let mut at = 0;
            for (count, _) in &levels[..levels.len() - 1] {
                at += count;
                expected.push(at);
            }
            for _ in 0..20 {
                let series = series(&mut rng, levels);
                assert_eq!(change_points(&series), Some(expected.clone()), "{series:?}");
            }
        }
    }

    /// In series of normal noise, of which the noise is estimated, at most one in twenty gets a change, whatever its length; of
    /// long ones far fewer. The bounds are 5 % and 1 %, with room for the chance in a thousand series.
    #[test]
    fn without_a_shift_there_is_rarely_a_change() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for (length, most) in [(LEAST_SERIES, 60), (20, 50), (50, 20), (100, 10), (400, 5)] {
            let is_found = |_: &usize| {
                let found = change_points(&series(&mut rng, &[(length, 3.0)]));
                !found.unwrap().is_empty()
            };
            let found = (0..1000).filter(is_found).count();
            assert!(found <= most, "{found} of 1000 series of {length}");
        }
    }

    /// 1 % a commit over 30 commits, with 2 % of noise: each commit is far within the margin of a check against the one before,
    /// which is 10 %.
    #[test]
    fn a_slow_drift_is_found() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..100 {
            let mut series: Vec<f64> = series(&mut rng, &[(60, 0.0)]);
            for (at, value) in series.iter_mut().enumerate() {
                let drift = at.clamp(15, 45) as f64 - 15.0;
                *value = drift * 1.01_f64.ln() + 0.02 * *value;
            }
            assert!(!change_points(&series).unwrap().is_empty(), "{series:?}");
        }
    }

    #[test]
    fn one_or_two_values_that_stand_out_are_no_change() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for place in [vec![0], vec![20], vec![20, 21], vec![39], vec![5, 25]] {
            let mut series = series(&mut rng, &[(40, 0.0)]);
            for at in &place {
                series[*at] += 100.0;
            }
            assert_eq!(change_points(&series), Some(Vec::new()), "{place:?}");
        }
    }

    #[test]
    fn a_series_without_noise_changes_where_its_value_does() {
        let series = [vec![2.0; 20], vec![2.1; 20]].concat();
        assert_eq!(change_points(&series), Some(vec![20]));
        for constant in [[7.0; 20], [0.0; 20]] {
            assert_eq!(change_points(&constant), Some(Vec::new()));
        }
        for none in [&[1.0; LEAST_SERIES - 1][..], &[f64::NAN; 20], &[]] {
            assert_eq!(change_points(none), None, "{none:?}");
        }
    }

    /// The least cost of all ways to cut a series, by recursion over the first piece.
    fn least_cost(series: &[f64], penalty: f64) -> f64 {
        let cost = |piece: &[f64]| {
            let mean = piece.iter().sum::<f64>() / piece.len() as f64;
            piece.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
        };
        let mut least = cost(series);
        for first in LEAST_LEVEL..=series.len().saturating_sub(LEAST_LEVEL) {
            let rest = least_cost(&series[first..], penalty);
            least = least.min(cost(&series[..first]) + penalty + rest);
        }
        least
    }

    #[test]
    fn leaving_starts_out_leaves_no_better_cut_out() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for penalty in [0.5, 2.0, 5.0, 20.0] {
            for _ in 0..50 {
                let series = series(&mut rng, &[(6, 0.0), (5, 2.0), (8, -1.0)]);
                let cuts = pelt(&series, penalty);
                let ends: Vec<usize> =
                    std::iter::once(0).chain(cuts.iter().copied()).chain([series.len()]).collect();
                assert!(ends.windows(2).all(|pair| pair[1] - pair[0] >= LEAST_LEVEL), "{cuts:?}");
                let costs = Costs::of(&series);
                let found = ends.windows(2).map(|pair| costs.of_piece(pair[0], pair[1]));
                let found = found.sum::<f64>() + penalty * cuts.len() as f64;
                let least = least_cost(&series, penalty);
                assert!((found - least).abs() < 1e-9, "{found} {least} {cuts:?}");
            }
        }
    }

    #[test]
    fn exact_values_change_where_another_one_lasts() {
        let changes = |text: &str| {
            let values: Vec<char> = text.chars().collect();
            exact_changes(&values, |a, b| a == b)
        };
        for (series, expected) in [
            ("", vec![]),
            ("a", vec![]),
            ("aaaa", vec![]),
            ("aabb", vec![2]),
            ("aaab", vec![3]),
            ("aabaa", vec![]),
            ("aabccaa", vec![3, 5]),
            ("aabbaab", vec![2, 4, 6]),
        ] {
            assert_eq!(changes(series), expected, "{series}");
        }
    }
}
