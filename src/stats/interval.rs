//! Intervals in closed form: Student's and Hall's for a mean, Wilson's for a share; and the test of equivalence.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use super::describe::{mean, sd, skewness};
use super::{LEVEL, differences};
use crate::record::Estimate;

/// Level of the interval that two one-sided tests at 5 % amount to.
pub const TOST_LEVEL: f64 = 0.90;

/// How far off the one more seed is that [`equivalent`] allows for, in standard deviations.
pub const FAR_OFF: f64 = 5.0;

/// The mean with an interval at `level` that allows for skewed values: from the lower of the lower ends of Student's
/// interval and of Hall's, to the higher of the higher ends. `None` for fewer than two values or a level outside 0 to 1.
///
/// Hall's interval (1992, "On the Removal of Skewness by Transformation") is Student's with the skewness of the sample taken
/// out of the statistic. Student's covers too little of few values where they are skewed, Hall's where their tails are long;
/// both together cover the truth in 94 to 97 of 100 either way (`examples/verdicts.rs`). Hall's ends no further than 3/|γ|
/// standard deviations from the mean, whatever the level of confidence: there his polynomial is flat and its inverse leaps, which
/// would make intervals half as wide again and cover at most one more truth in a hundred.
///
/// ```
/// use mantissa::stats::{mean_interval, student_interval};
///
/// let samples = [1.0, 1.2, 0.9, 4.0, 1.1, 1.0];
/// let (wide, student) = (mean_interval(&samples, 0.95).unwrap(), student_interval(&samples, 0.95).unwrap());
/// assert!(wide.low <= student.low && student.high <= wide.high);
/// assert_eq!(mean_interval(&[1.0], 0.95), None);
/// ```
pub fn mean_interval(samples: &[f64], level: f64) -> Option<Estimate<f64>> {
    let (value, spread) = (mean(samples)?, sd(samples)?);
    let [below, above] = reach(samples.len(), skewness(samples)?, level)?;
    Some(Estimate { value, low: value - spread * below, high: value + spread * above })
}

/// The mean with Student's interval at `level`, which takes the values for normal ones; `None` as for [`mean_interval`].
///
/// ```
/// use mantissa::stats::student_interval;
///
/// // Two values: the mean ± t · sd / √2, where t of one degree of freedom is tan(0.95 · π / 2).
/// let estimate = student_interval(&[0.0, 2.0], 0.95).unwrap();
/// assert_eq!(estimate.value, 1.0);
/// assert!((estimate.high - 1.0 - (0.95 * std::f64::consts::FRAC_PI_2).tan()).abs() < 1e-6);
/// ```
pub fn student_interval(samples: &[f64], level: f64) -> Option<Estimate<f64>> {
    let (value, spread) = (mean(samples)?, sd(samples)?);
    let half = spread * student_reach(samples.len(), level)?;
    Some(Estimate { value, low: value - half, high: value + half })
}

/// How far [`mean_interval`] reaches below and above the mean of `n` values of this skewness, in standard deviations.
pub(super) fn reach(n: usize, skewness: f64, level: f64) -> Option<[f64; 2]> {
    let student = student_reach(n, level)?;
    let [below, above] = [student, -student].map(|end| hall(end, n, skewness));
    Some([student.max(below), student.max(-above)])
}

/// How far Student's interval reaches to either side of the mean of `n` values, in standard deviations.
fn student_reach(n: usize, level: f64) -> Option<f64> {
    if !(level > 0.0 && level < 1.0) {
        return None;
    }
    let student = StudentsT::new(0.0, 1.0, n.checked_sub(1)? as f64).ok()?;
    Some(student.inverse_cdf(f64::midpoint(1.0, level)) / (n as f64).sqrt())
}

/// Hall's transformation undone: the x for which x + γx²/3 + γ²x³/27 + γ/6n = y, but not beyond −3/γ.
fn hall(y: f64, n: usize, skewness: f64) -> f64 {
    let y = y - skewness / (6.0 * n as f64);
    // Nearer to 0 the difference of the root and 1 is lost in rounding.
    if skewness.abs() < 1e-6 {
        return y;
    }
    3.0 / skewness * ((1.0 + skewness * y).max(0.0).cbrt() - 1.0)
}

/// The mean of `variant − baseline` by pair, with its 95 % [`mean_interval`]; `None` for fewer than two pairs or samples of
/// unequal length.
///
/// ```
/// use mantissa::stats::mean_difference;
///
/// let estimate = mean_difference(&[0.91, 0.92, 0.93], &[0.90, 0.92, 0.91]).unwrap();
/// assert!((estimate.value - 0.01).abs() < 1e-9);
/// assert!(estimate.low < 0.01 && 0.01 < estimate.high);
/// ```
pub fn mean_difference(variant: &[f64], baseline: &[f64]) -> Option<Estimate<f64>> {
    mean_interval(&differences(variant, baseline)?, LEVEL)
}

/// Whether the mean difference is within ±`margin`: two one-sided tests (Schuirmann 1987), that is, the 90 %
/// [`mean_interval`] inside the margin; and so is Student's after one more difference, 5 standard deviations from
/// the mean on either side, has moved it by 5 ÷ (n + 1) of them. `None` for fewer than two differences.
///
/// Where one seed in ten or twenty goes badly, most samples of six to ten hold none of these and look better than the truth.
/// The interval alone is then inside the margin in 8 to 14 of 100 experiments whose true difference is as large as the margin, if
/// such seeds are 5 standard deviations off; with the allowance in 2 to 4 (`examples/verdicts.rs` counts). Where they are
/// further off it errs more often, and no test of so few seeds can see what is not among them.
///
/// ```
/// use mantissa::stats::equivalent;
///
/// let differences = [0.001, -0.001, 0.0005, -0.0005, 0.001, -0.001, 0.0, 0.0];
/// assert_eq!(equivalent(&differences, 0.01), Some(true));
/// assert_eq!(equivalent(&differences, 0.0001), Some(false));
/// assert_eq!(equivalent(&[0.0], 0.01), None);
/// ```
pub fn equivalent(differences: &[f64], margin: f64) -> Option<bool> {
    let (mean, spread) = (mean(differences)?, sd(differences)?);
    let [below, above] = equivalence_reach(differences.len(), skewness(differences)?)?;
    Some(-margin < mean - spread * below && mean + spread * above < margin)
}

/// How far below and above the mean of `n` differences of this skewness [`equivalent`] looks, in standard deviations.
pub(super) fn equivalence_reach(n: usize, skewness: f64) -> Option<[f64; 2]> {
    let one_more = student_reach(n, TOST_LEVEL)? + FAR_OFF / (n + 1) as f64;
    Some(reach(n, skewness, TOST_LEVEL)?.map(|end| end.max(one_more)))
}

/// A share of `of` trials with Wilson's 95 % interval (1927); `None` for no trials or more successes than trials.
///
/// ```
/// use mantissa::stats::wilson;
///
/// let share = wilson(8, 10).unwrap();
/// assert_eq!(share.value, 0.8);
/// assert!(share.low > 0.0 && share.high < 1.0);
/// assert_eq!(wilson(0, 0), None);
/// ```
pub fn wilson(successes: u64, of: u64) -> Option<Estimate<f64>> {
    (0 < of && successes <= of).then(|| score_interval(successes as f64 / of as f64, of as f64))
}

/// P(A > B) by pair, ties counted half, with Wilson's 95 % interval. A tie varies less than a win or a loss, so with ties
/// the interval is on the wide side; unlike a bootstrap's it keeps a width when all pairs agree. `None` for samples of
/// unequal length.
///
/// ```
/// use mantissa::stats::probability_better;
///
/// // Two wins, a tie and a loss.
/// let share = probability_better(&[2.0, 3.0, 1.0, 0.0], &[1.0, 1.0, 1.0, 1.0]).unwrap();
/// assert_eq!(share.value, 2.5 / 4.0);
/// ```
pub fn probability_better(a: &[f64], b: &[f64]) -> Option<Estimate<f64>> {
    let differences = differences(a, b)?;
    let points = |d: &f64| match d.total_cmp(&0.0) {
        _ if *d == 0.0 => 0.5,
        order => f64::from(u8::from(order.is_gt())),
    };
    let pairs = differences.len() as f64;
    let share = differences.iter().map(points).sum::<f64>() / pairs;
    Some(score_interval(share, pairs))
}

/// Wilson's interval of a share of `n`.
fn score_interval(share: f64, n: f64) -> Estimate<f64> {
    let z = Normal::standard().inverse_cdf(f64::midpoint(1.0, LEVEL));
    let z2 = z * z / n;
    let centre = (share + z2 / 2.0) / (1.0 + z2);
    let half = (share * (1.0 - share) * z2 + z2 * z2 / 4.0).sqrt() / (1.0 + z2);
    Estimate { value: share, low: (centre - half).max(0.0), high: (centre + half).min(1.0) }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::assert_close;
    use super::*;

    // d = numpy.array([0.004, -0.0015, 0.006, 0.0025, 0.001, 0.0075])[:n]
    // scipy.stats.t.interval(level, n - 1, loc=d.mean(), scale=scipy.stats.sem(d))
    #[test]
    fn students_interval_is_scipys() {
        let d = [0.004, -0.0015, 0.006, 0.0025, 0.001, 0.0075];
        for (n, level, low, high) in [
            (2, 0.90, -0.016_112_816_665_356_37, 0.018_612_816_665_356_347),
            (3, 0.90, -0.003_714_064_703_492_563_2, 0.009_380_731_370_159_226),
            (6, 0.90, 0.000_537_158_103_813_341, 0.005_962_841_896_186_657),
            (3, 0.95, -0.006_814_378_705_194_118, 0.012_481_045_371_860_785),
            (6, 0.95, -0.000_210_751_708_781_974, 0.006_710_751_708_781_973),
        ] {
            let interval = student_interval(&d[..n], level).unwrap();
            assert_close(interval.low, low, 1e-10);
            assert_close(interval.high, high, 1e-10);
        }
        assert_eq!(student_interval(&d[..1], 0.9), None);
    }

    // def interval(d, level):
    //     n, g, t = len(d), scipy.stats.skew(d), scipy.stats.t.ppf((1 + level) / 2, len(d) - 1) / len(d)**0.5
    //     h = lambda x: x + g * x**2 / 3 + g**2 * x**3 / 27 + g / (6 * n)
    //     def hall(y):
    //         if g == 0: return y
    //         if (y - h(-3 / g)) * g <= 0: return -3 / g
    //         return scipy.optimize.brentq(lambda x: h(x) - y, -3 / g, 1000 * numpy.sign(g), xtol=1e-15, rtol=1e-14)
    //     s = d.std(ddof=1)
    //     return d.mean() - s * max(t, hall(t)), d.mean() + s * max(t, -hall(-t))
    #[test]
    fn a_mean_reaches_as_far_as_students_interval_and_halls() {
        let even = [0.004, -0.0015, 0.006, 0.0025, 0.001, 0.0075];
        let skewed = [0.001, 0.002, -0.03, 0.0015, 0.0005, 0.003];
        for (d, level, low, high) in [
            (&even[..2], 0.95, -0.033_692_063_024_480_4, 0.036_192_063_024_480_4),
            (&even[..3], 0.90, -0.008_335_126_588_668_538, 0.009_380_731_370_159_226),
            (&even[..3], 0.95, -0.020_373_067_321_183_644, 0.012_481_045_371_860_785),
            (&even, 0.90, 0.000_423_039_174_904_292_5, 0.005_962_841_896_186_657),
            (&even, 0.95, -0.000_391_780_095_944_484_1, 0.006_710_751_708_781_974),
            (&skewed, 0.90, -0.025_569_146_329_003_874, 0.006_969_489_184_841_643),
            (&skewed, 0.95, -0.025_569_146_329_003_874, 0.009_901_796_202_371_14),
        ] {
            let found = mean_interval(d, level).unwrap();
            assert_close(found.low, low, 1e-10);
            assert_close(found.high, high, 1e-10);
            let mirrored: Vec<f64> = d.iter().map(|value| -value).collect();
            let mirrored = mean_interval(&mirrored, level).unwrap();
            assert_eq!((mirrored.low, mirrored.high), (-found.high, -found.low));
        }
        assert_eq!(
            mean_interval(&[0.5; 4], 0.9),
            Some(Estimate { value: 0.5, low: 0.5, high: 0.5 })
        );
        for (d, level) in [(&even[..1], 0.9), (&even, 0.0), (&even, 1.0), (&even, f64::NAN)] {
            assert_eq!(mean_interval(d, level), None, "{d:?} {level}");
        }
    }

    /// Hall's polynomial at what undoes it is what was to be undone, or its flat place where that is nearer.
    #[test]
    fn halls_transformation_is_undone() {
        for (n, g) in [(3, 0.7), (6, -1.7), (10, 0.3), (30, 1e-5), (30, 1e-7), (30, 0.0)] {
            let polynomial =
                |x: f64| x + g * x * x / 3.0 + g * g * x.powi(3) / 27.0 + g / (6.0 * n as f64);
            for y in [-2.5, -0.4, 0.0, 0.4, 2.5] {
                let (x, level) = (hall(y, n, g), -3.0 / g);
                let beyond = g != 0.0 && (y - polynomial(level)) * g < 0.0;
                let expected = if beyond { polynomial(level) } else { y };
                assert_close(polynomial(x), expected, 1e-6);
            }
        }
    }

    // scipy.stats.ttest_rel(v, b).confidence_interval(0.95)
    #[test]
    fn differences_are_paired() {
        let baseline = [0.9, 0.8, 0.7, 0.95];
        let variant = [0.91, 0.83, 0.72, 0.99];
        let paired = mean_difference(&variant, &baseline).unwrap();
        assert_close(paired.value, 0.025, 1e-12);
        // The differences are .01, .03, .02, .04: s = sqrt(5/3)/100, and t(3) at 0.975 is 3.182446305284263.
        let half = 3.182_446_305_284_263 * (5.0_f64 / 3.0).sqrt() / 200.0;
        assert_close(paired.low, 0.025 - half, 1e-9);
        assert_close(paired.high, 0.025 + half, 1e-9);
        assert_eq!(mean_difference(&variant, &baseline[1..]), None);
    }

    // d as above; shift = d.std(ddof=1) * 5 / (len(d) + 1)
    // scipy.stats.ttest_1samp(d, margin - shift, alternative="less").pvalue is the p beside each margin: these differences
    // reach furthest above by Student's interval, and far from the margin below by either. Without the shift 0.006 would do.
    #[test]
    fn equivalence_is_two_one_sided_tests_of_scipy_that_allow_for_one_more_seed() {
        let d = [0.004, -0.0015, 0.006, 0.0025, 0.001, 0.0075];
        for (margin, p) in [
            (0.006, 0.390_641_630_609_233_2),
            (0.0083, 0.050_878_028_765_775_664),
            (0.008_31, 0.050_397_840_658_857_44),
            (0.008_32, 0.049_922_386_998_572_15),
            (0.01, 0.011_171_512_711_215_787),
        ] {
            assert_eq!(equivalent(&d, margin), Some(p < 0.05), "{margin}");
        }
    }

    // interval(numpy.array([0.001, 0.002, -0.03, 0.0015, 0.0005, 0.003]), 0.9) of the snippet above begins at -0.02557, where
    // scipy.stats.t.interval begins at -0.01430
    #[test]
    fn a_long_tail_keeps_differences_from_being_equivalent() {
        let skewed = [0.001, 0.002, -0.03, 0.0015, 0.0005, 0.003];
        assert_eq!(equivalent(&skewed, 0.02), Some(false));
        assert_eq!(equivalent(&skewed, 0.0255), Some(false));
        assert_eq!(equivalent(&skewed, 0.0256), Some(true));
    }

    #[test]
    fn equivalence_needs_the_whole_interval_inside_the_margin() {
        let d = [0.004, -0.0015, 0.006, 0.0025, 0.001, 0.0075];
        let mirrored = d.map(|d| -d);
        for (margin, expected) in [(0.0084, true), (0.0083, false), (0.0, false), (f64::NAN, false)]
        {
            assert_eq!(equivalent(&d, margin), Some(expected), "{margin}");
            assert_eq!(equivalent(&mirrored, margin), Some(expected), "{margin}");
        }
        assert_eq!(equivalent(&[0.0; 6], 0.001), Some(true));
        assert_eq!(equivalent(&d[..1], 0.01), None);
    }

    /// One seed in ten 5 standard deviations off, the mean difference as large as the margin: 5 % of experiments may be called
    /// equivalent, and the 90 % interval alone calls 12 % so. Of differences that are normal and 0 on average, with a margin of
    /// 2.5 standard deviations, most of six must be.
    #[test]
    fn seeds_that_are_not_in_the_sample_are_allowed_for() {
        const EXPERIMENTS: usize = 4000;
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let margin = 2.5;
        for n in [6, 10] {
            let (mut wrong, mut alone, mut right) = (0, 0, 0);
            for _ in 0..EXPERIMENTS {
                let normal: Vec<f64> = (0..n).map(|_| normal(&mut random)).collect();
                right += usize::from(equivalent(&normal, margin) == Some(true));
                let far: Vec<f64> = normal
                    .iter()
                    .map(|value| {
                        let off = if random.random_range(0..10) == 0 { 5.0 } else { 0.0 };
                        value + 0.5 - off - margin
                    })
                    .collect();
                wrong += usize::from(equivalent(&far, margin) == Some(true));
                let interval = mean_interval(&far, TOST_LEVEL).unwrap();
                alone += usize::from(-margin < interval.low && interval.high < margin);
            }
            let share = |hits: usize| hits as f64 / EXPERIMENTS as f64;
            let (wrong, alone, right) = (share(wrong), share(alone), share(right));
            assert!(wrong < 0.05 && alone > 0.1, "{n} seeds: {wrong} wrong, {alone} before");
            assert!(right > 0.8, "{n} seeds: {right} right");
        }
    }

    /// By Box and Muller's method.
    fn normal(random: &mut ChaCha8Rng) -> f64 {
        let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    // scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    #[test]
    fn wilsons_interval_is_scipys() {
        for (k, n, low, high) in [
            (0, 3, 0.0, 0.561_497_031_755_045_4),
            (3, 3, 0.438_502_968_244_954_6, 1.0),
            (1, 10, 0.017_876_213_095_072_896, 0.404_150_026_795_238_5),
            (7, 20, 0.181_191_824_101_082_1, 0.567_145_723_314_763_7),
        ] {
            let interval = wilson(k, n).unwrap();
            assert_close(interval.value, k as f64 / n as f64, 0.0);
            assert_close(interval.low, low, 1e-10);
            assert_close(interval.high, high, 1e-10);
        }
        assert_eq!((wilson(0, 0), wilson(4, 3)), (None, None));
    }

    /// 1 win, 2 losses, 1 tie: 1.5 of 4. All wins of 3: as Wilson's 3 of 3.
    // a, b = numpy.array([2, 1, 1, 0]), numpy.array([1, 2, 2, 0]); numpy.mean((numpy.sign(a - b) + 1) / 2) is 0.375;
    // statsmodels.stats.proportion.proportion_confint(1.5, 4, method="wilson")
    #[test]
    fn ties_count_half() {
        let mixed = probability_better(&[2.0, 1.0, 1.0, 0.0], &[1.0, 2.0, 2.0, 0.0]).unwrap();
        assert_close(mixed.value, 0.375, 0.0);
        assert_close(mixed.low, 0.091_899_229_179_012_17, 1e-10);
        assert_close(mixed.high, 0.780_573_479_934_637_2, 1e-10);
        assert_eq!(probability_better(&[1.0; 3], &[0.0; 3]), wilson(3, 3));
        assert_eq!(probability_better(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(probability_better(&[f64::NAN], &[1.0]), None);
    }
}
