//! What disturbed the timing phase, and what to do about it.

use crate::formatting::list;
use crate::record::{Results, VariantResult};
use crate::stats::median;

/// Other programs that take more than this share of the processors' time move the times.
pub const BUSY: f64 = 0.1;

/// A timed block is an outlier from this multiple of its variant's median on.
const OUTLIER: f64 = 1.5;

/// More outliers than this share of all blocks are reported.
const MANY: f64 = 0.05;

/// The baseline's step time in the last third of its blocks over that in the first, or the reverse, from which on it is reported.
const DRIFT: f64 = 1.2;

/// What says that the machine was busy, or changed its speed, while steps were timed, and what to do; none where it was quiet.
pub(crate) fn disturbance(results: &Results) -> Option<String> {
    let found: Vec<String> =
        [busy(results), outliers(results), drift(results)].into_iter().flatten().collect();
    (!found.is_empty()).then(|| format!(
        "The machine was not quiet while steps were timed: {}. Close other programs and run the experiment again; ratios are \
         paired by block and suffer least.",
        list(&found)
    ))
}

fn busy(results: &Results) -> Option<String> {
    results.variants.iter().find(|variant| variant.train.is_some())?;
    let load = results.other_load.filter(|load| *load > BUSY)?;
    Some(format!("other programs took {:.0}% of the processor's time", load * 100.0))
}

fn outliers(results: &Results) -> Option<String> {
    let mut all = 0;
    let mut far = 0;
    for variant in &results.variants {
        let times = blocks(variant);
        let Some(middle) = median(&times) else { continue };
        all += times.len();
        far += times.iter().filter(|time| **time >= OUTLIER * middle).count();
    }
    (far as f64 > MANY * all as f64).then(|| {
        format!(
            "{far} of {all} timed blocks took {OUTLIER} times the median of their variant or longer"
        )
    })
}

fn drift(results: &Results) -> Option<String> {
    let baseline = results.variants.iter().find(|v| v.name == results.plan.baseline)?;
    let times = blocks(baseline);
    let third = times.len() / 3;
    let (first, last) = (median(times.get(..third)?)?, median(times.get(times.len() - third..)?)?);
    let (times, how) = if last > first { (last / first, "slow") } else { (first / last, "fast") };
    (times >= DRIFT).then(|| {
        format!(
            "a step of {} was {times:.2} times as {how} at the end as at the start",
            baseline.name
        )
    })
}

fn blocks(variant: &VariantResult) -> Vec<f64> {
    let train = variant.train.iter();
    train.flat_map(|train| &train.blocks).map(|seconds| seconds.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::tests::{bf16_mixed, fp32, results};
    use crate::record::{Estimate, TrainTime};
    use crate::units::Seconds;

    /// FP32 and BF16-mixed with these timed blocks.
    fn timed(blocks: [&[f64]; 2]) -> Results {
        let mut results = results(vec![fp32(), bf16_mixed()]);
        for (variant, blocks) in results.variants.iter_mut().zip(blocks) {
            let step = Seconds(1.0);
            variant.train = Some(TrainTime {
                step_seconds: Estimate { value: step, low: step, high: step },
                samples_per_second: Estimate { value: 1.0, low: 1.0, high: 1.0 },
                phases: None,
                work: None,
                gpu: None,
                blocks: blocks.iter().copied().map(Seconds).collect(),
            });
        }
        results
    }

    #[test]
    fn a_machine_that_is_not_quiet_is_reported() {
        let quiet = [1.0, 1.1, 0.9, 1.0, 1.0, 1.1, 1.0, 0.9, 1.0];
        let slower = [1.0, 1.0, 1.0, 1.1, 1.1, 1.1, 1.3, 1.3, 1.3];
        // Two of eighteen.
        let far = [1.0, 1.0, 1.6, 1.0, 1.0, 1.0, 9.0, 1.0, 1.0];
        for (load, baseline, other, expected) in [
            (None, quiet, quiet, None),
            (Some(0.1), quiet, quiet, None),
            (Some(0.43), quiet, quiet, Some("other programs took 43% of the processor's time")),
            (
                None,
                slower,
                quiet,
                Some("a step of fp32 was 1.30 times as slow at the end as at the start"),
            ),
            // The pairs with the baseline hold what another variant does.
            (None, quiet, slower, None),
            (
                None,
                quiet,
                far,
                Some("2 of 18 timed blocks took 1.5 times the median of their variant or longer"),
            ),
        ] {
            let mut results = timed([&baseline, &other]);
            results.other_load = load;
            let said = disturbance(&results);
            let expected = expected.map(|sign| {
                format!(
                    "The machine was not quiet while steps were timed: {sign}. Close other programs and run the experiment \
                     again; ratios are paired by block and suffer least."
                )
            });
            assert_eq!(said, expected);
        }
        let mut fewer = timed([&slower.map(|time| 1.0 / time), &quiet]);
        fewer.other_load = Some(0.2);
        let said = disturbance(&fewer).unwrap();
        assert!(
            said.contains("20% of the processor's time and a step of fp32 was 1.30 times as fast"),
            "{said}"
        );
        // Without a timing phase nothing was disturbed.
        fewer.variants.iter_mut().for_each(|variant| variant.train = None);
        assert_eq!(disturbance(&fewer), None);
    }
}
