//! Location and spread of one sample.

use super::finite;

/// Arithmetic mean.
///
/// ```
/// use mantissa::stats::mean;
///
/// assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
/// assert_eq!(mean(&[]), None);
/// ```
pub fn mean(samples: &[f64]) -> Option<f64> {
    finite(samples).map(mean_of)
}

/// Standard deviation with n − 1; `None` for fewer than two values.
///
/// ```
/// use mantissa::stats::sd;
///
/// assert_eq!(sd(&[1.0, 2.0, 3.0]), Some(1.0));
/// assert_eq!(sd(&[1.0]), None);
/// ```
pub fn sd(samples: &[f64]) -> Option<f64> {
    let samples = finite(samples)?;
    if samples.len() < 2 {
        return None;
    }
    let mean = mean_of(samples);
    let squares: f64 = samples.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (samples.len() - 1) as f64).sqrt())
}

/// Skewness: the third moment about the mean over that of second order to the power of 3/2; 0 where all values are the same.
pub(super) fn skewness(samples: &[f64]) -> Option<f64> {
    let mean = mean(samples)?;
    let moment = |order| {
        let powers: f64 = samples.iter().map(|value| (value - mean).powi(order)).sum();
        powers / samples.len() as f64
    };
    // The mean of equal values may be rounded, and then they deviate from it.
    let same = samples.iter().all(|value| *value == samples[0]);
    Some(if same { 0.0 } else { moment(3) / moment(2).powf(1.5) })
}

/// Median: the mean of the two middle values where their number is even.
///
/// ```
/// use mantissa::stats::median;
///
/// assert_eq!(median(&[5.0, 1.0, 100.0]), Some(5.0));
/// assert_eq!(median(&[1.0, 2.0]), Some(1.5));
/// ```
pub fn median(samples: &[f64]) -> Option<f64> {
    finite(samples).map(median_of)
}

/// The mean of a sample known to have values.
pub(super) fn mean_of(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}

/// The median of a sample known to have values.
pub(super) fn median_of(samples: &[f64]) -> f64 {
    sorted_quantile(&sorted(samples), 0.5)
}

/// In ascending order.
pub(super) fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Quantile at `p`, from 0 to 1, of an ascending sample that has values: interpolated linearly between order statistics (type 7
/// of Hyndman and Fan 1996, `NumPy`'s default).
pub(super) fn sorted_quantile(sorted: &[f64], p: f64) -> f64 {
    let position = p * (sorted.len() - 1) as f64;
    let below = sorted[position.floor() as usize];
    let above = sorted[position.ceil() as usize];
    below + (above - below) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::super::assert_close;
    use super::*;

    // x = [3.1, 0.2, 8.5, -1.0, 4.4, 2.7]
    // numpy.mean(x), numpy.std(x, ddof=1), numpy.median(x)
    // [numpy.quantile(x, q) for q in (0, .1, .25, .9, 1)], scipy.stats.skew(x)
    #[test]
    fn location_spread_and_skewness_are_scipys() {
        let x = [3.1, 0.2, 8.5, -1.0, 4.4, 2.7];
        assert_close(mean(&x).unwrap(), 2.983_333_333_333_334, 1e-14);
        assert_close(sd(&x).unwrap(), 3.351_069_481_026_418, 1e-14);
        assert_close(median(&x).unwrap(), 2.9, 1e-14);
        for (p, expected) in [(0.0, -1.0), (0.1, -0.4), (0.25, 0.825), (0.9, 6.45), (1.0, 8.5)] {
            assert_close(sorted_quantile(&sorted(&x), p), expected, 1e-14);
        }
        assert_eq!(median(&[5.0, 1.0, 3.0]), Some(3.0));
        assert_close(skewness(&x).unwrap(), 0.500_389_677_241_036, 1e-14);
        assert_eq!(skewness(&[0.1; 3]), Some(0.0));
    }

    #[test]
    fn what_has_no_answer_is_none() {
        for samples in [&[][..], &[1.0, f64::NAN], &[1.0, f64::INFINITY]] {
            let answers = [mean(samples), sd(samples), median(samples), skewness(samples)];
            assert_eq!(answers, [None; 4], "{samples:?}");
        }
        assert_eq!(sd(&[1.0]), None);
    }
}
