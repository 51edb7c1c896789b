//! Costs against the baseline in words: the same in the recommendation and in every report.

use crate::record::Estimate;
use crate::units::Ratio;

/// What a ratio of step times means for the speed of training, with its interval: `1.82× as fast as fp32 (1.79–1.85×)`,
/// `20% slower than fp32 (15–25%)`, and where the interval holds 1, `at 0.98× the speed of fp32 (0.95–1.01×)`.
pub(crate) fn speed(time: Estimate<Ratio>, baseline: &str) -> String {
    let [value, low, high] = [time.value, time.low, time.high].map(|ratio| ratio.0);
    let (speed, least, most) = (1.0 / value, 1.0 / high, 1.0 / low);
    if high < 1.0 {
        format!("{speed:.2}× as fast as {baseline} ({least:.2}–{most:.2}×)")
    } else if low > 1.0 {
        let [value, low, high] = [value, low, high].map(|ratio| (ratio - 1.0) * 100.0);
        format!("{value:.0}% slower than {baseline} ({low:.0}–{high:.0}%)")
    } else {
        format!("at {speed:.2}× the speed of {baseline} ({least:.2}–{most:.2}×)")
    }
}

/// What a ratio of bytes means: `28% less memory`, `12% more memory`, `the same memory`.
pub(crate) fn memory(ratio: Ratio) -> String {
    let change = (ratio.0 - 1.0) * 100.0;
    match change.round() {
        0.0 => "the same memory".to_owned(),
        less if less < 0.0 => format!("{:.0}% less memory", -less),
        more => format!("{more:.0}% more memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::tests::ratio;

    #[test]
    fn costs_are_told_as_a_person_would() {
        // By hand: 1 ÷ 0.55 is 1.818, 1 ÷ 0.56 is 1.786, 1 ÷ 0.54 is 1.852.
        for (time, words) in [
            (ratio(0.54, 0.55, 0.56), "1.82× as fast as fp32 (1.79–1.85×)"),
            (ratio(1.15, 1.2, 1.25), "20% slower than fp32 (15–25%)"),
            (ratio(0.8, 1.0, 1.25), "at 1.00× the speed of fp32 (0.80–1.25×)"),
        ] {
            assert_eq!(speed(time, "fp32"), words);
        }
        for (bytes, words) in [
            (0.72, "28% less memory"),
            (1.4, "40% more memory"),
            (0.996, "the same memory"),
            (1.004, "the same memory"),
        ] {
            assert_eq!(memory(Ratio(bytes)), words);
        }
    }
}
