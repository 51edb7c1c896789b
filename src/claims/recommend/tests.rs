//! Tables of what was measured and the sentence that follows.

use super::*;
use crate::claims::tests::{NOISY, bf16_mixed, bf16_true, differ, fp32, ratio, results};

/// Equivalent within 0.5 points.
// d = numpy.array(KEPT); d.mean() is -0.0005,
// scipy.stats.t.interval(0.95, 5, loc=d.mean(), scale=scipy.stats.sem(d)) is -0.0011961 to 0.0001961
const KEPT: [f64; 6] = [-0.0012, 0.0004, -0.001, 0.0002, -0.0009, -0.0005];
/// Worse: −0.02, −0.0214841 to −0.0185159 by the same snippet.
const WORSE: [f64; 6] = [-0.02, -0.021, -0.019, -0.022, -0.018, -0.02];

const FAST: Option<[f64; 3]> = Some([0.54, 0.55, 0.56]);
const FASTER: Option<[f64; 3]> = Some([0.47, 0.48, 0.49]);
const ALIKE: Option<[f64; 3]> = Some([0.95, 1.0, 1.05]);
const SLOW: Option<[f64; 3]> = Some([1.05, 1.1, 1.15]);

/// Ratios of step time (low, value, high) and of memory, and the differences of accuracy.
type Measured<'a> = (Option<[f64; 3]>, Option<f64>, &'a [f64]);

/// fp32, bf16-mixed and bf16-true, the last two as measured.
fn measured(rows: &[Measured<'_>]) -> Results {
    let variants = [fp32(), bf16_mixed(), bf16_true()];
    let mut results = results(variants[..=rows.len()].to_vec());
    for (index, (time, memory, differences)) in rows.iter().enumerate() {
        differ(&mut results, index + 1, differences);
        let against = results.variants[index + 1].against_baseline.as_mut().unwrap();
        against.train_time_ratio = time.map(|[low, value, high]| ratio(low, value, high));
        against.train_memory_ratio = memory.map(Ratio);
    }
    results
}

#[track_caller]
fn check(results: &Results, variant: Option<&str>, more_seeds: Option<u64>, reason: &str) {
    let expected = Recommendation {
        variant: variant.map(str::to_owned),
        reason: reason.to_owned(),
        more_seeds,
    };
    assert_eq!(recommend(results), expected);
}

const EQUIVALENT: &str =
    "its test accuracy is equivalent within ±0.50 points (−0.05 points, −0.12 to 0.02, 6 seeds)";

#[test]
fn the_fastest_that_keeps_the_accuracy_is_recommended() {
    let mixed = |rows: &[Measured<'_>], more, reason: &str| {
        check(&measured(rows), Some("bf16-mixed"), more, reason);
    };
    let said =
        format!("bf16-mixed: a step takes 0.55× (0.54–0.56×) of fp32's time and {EQUIVALENT}");
    mixed(&[(FAST, None, &KEPT)], None, &format!("{said}."));
    let with_memory = format!(
        "bf16-mixed: a step takes 0.55× (0.54–0.56×) of fp32's time, training 0.76× of its memory, and {EQUIVALENT}."
    );
    mixed(&[(FAST, Some(0.76), &KEPT)], None, &with_memory);
    // A faster one that is worse is out; one that is open is told, a slower one that is open is not.
    mixed(&[(FAST, None, &KEPT), (FASTER, None, &WORSE)], None, &format!("{said}."));
    mixed(&[(FAST, None, &KEPT), (ALIKE, None, &NOISY)], None, &format!("{said}."));
    let open = "bf16-true is faster still (0.48×) but is not shown equivalent";
    mixed(
        &[(FAST, None, &KEPT), (FASTER, None, &NOISY)],
        Some(47),
        &format!("{said}; {open} yet: about 47 more seeds."),
    );
    let wild = NOISY.map(|d| d * 10.0);
    mixed(
        &[(FAST, None, &KEPT), (FASTER, None, &wild)],
        None,
        &format!(
            "{said}; {open}, and no number of seeds up to 1000 would settle it if the spread stays as it is."
        ),
    );
    let both = measured(&[(FAST, None, &KEPT), (FASTER, None, &WORSE.map(|d| -d))]);
    let better = "bf16-true: a step takes 0.48× (0.47–0.49×) of fp32's time and its test accuracy is better (2.00 points, \
                  1.85 to 2.15, 6 seeds).";
    check(&both, Some("bf16-true"), None, better);
}

#[test]
fn with_none_clearly_faster_memory_decides() {
    let timed = "bf16-mixed: training takes 0.70× of fp32's memory, a step 1.00× (0.95–1.05×) of its time, and";
    let untimed =
        "bf16-mixed: training takes 0.70× of fp32's memory, its step time is not measured, and";
    for (time, said) in [(ALIKE, timed), (None, untimed)] {
        let results = measured(&[(time, Some(0.7), &KEPT)]);
        check(&results, Some("bf16-mixed"), None, &format!("{said} {EQUIVALENT}."));
    }
    let rival = measured(&[(ALIKE, Some(0.7), &KEPT), (ALIKE, Some(0.6), &NOISY)]);
    let open =
        "bf16-true needs less memory (0.60×) but is not shown equivalent yet: about 47 more seeds";
    check(&rival, Some("bf16-mixed"), Some(47), &format!("{timed} {EQUIVALENT}; {open}."));
}

#[test]
fn with_none_cheaper_it_is_the_baseline() {
    let said = "fp32: no policy that keeps the accuracy is cheaper here, with bf16-mixed at";
    for (time, memory, cost) in [
        (SLOW, Some(0.7), "1.10× (1.05–1.15×) of fp32's step time and 0.70× of its memory"),
        (ALIKE, Some(0.96), "1.00× (0.95–1.05×) of fp32's step time and 0.96× of its memory"),
        (ALIKE, None, "1.00× (0.95–1.05×) of fp32's step time"),
    ] {
        let results = measured(&[(time, memory, &KEPT)]);
        check(&results, Some("fp32"), None, &format!("{said} {cost}."));
    }
    let rival = measured(&[(SLOW, None, &KEPT), (FASTER, None, &NOISY)]);
    let cost = "1.10× (1.05–1.15×) of fp32's step time";
    let open = "bf16-true is faster (0.48×) but is not shown equivalent yet: about 47 more seeds";
    check(&rival, Some("fp32"), Some(47), &format!("{said} {cost}; {open}."));

    let untimed = "fp32: no policy that keeps the accuracy is shown to be cheaper here, with bf16-mixed its step time not \
                   measured.";
    let mut results = measured(&[(None, None, &KEPT)]);
    check(&results, Some("fp32"), None, untimed);
    results.complete = false;
    let accuracy = EQUIVALENT.replace("its test accuracy", "the test accuracy of bf16-mixed");
    check(&results, None, None, &format!("no step is timed yet; {accuracy}."));

    let slow = "fp32: no policy that may keep the accuracy is cheaper here, with bf16-mixed at 1.10× (1.05–1.15×) of fp32's \
                step time.";
    check(&measured(&[(SLOW, None, &NOISY)]), Some("fp32"), None, slow);
}

#[test]
fn with_none_shown_good_more_seeds_are_asked_for() {
    let few = measured(&[(FAST, None, &KEPT[..3]), (SLOW, None, &KEPT[..3])]);
    let reason = "none shown equivalent to fp32 yet: run 3 more seeds to settle bf16-mixed, at 0.55× (0.54–0.56×) of \
                  fp32's step time, its test accuracy inconclusive (−0.06 points, −0.28 to 0.16, 3 seeds).";
    check(&few, None, Some(3), reason);
    // The one that fewer seeds settle is named, even if another is faster.
    let two = measured(&[(FAST, None, &NOISY), (FASTER, None, &NOISY.map(|d| d * 10.0))]);
    let reason = "none shown equivalent to fp32 yet: run about 47 more seeds to settle bf16-mixed, at 0.55× \
                  (0.54–0.56×) of fp32's step time, its test accuracy inconclusive (0.00 points, −2.28 to 2.28, 6 seeds).";
    check(&two, None, Some(47), reason);
    let wild = measured(&[(FAST, None, &NOISY.map(|d| d * 10.0))]);
    let reason = "none shown equivalent to fp32 yet, and no number of seeds up to 1000 would settle it if the spread \
                  stays as it is: bf16-mixed, at 0.55× (0.54–0.56×) of fp32's step time, its test accuracy inconclusive \
                  (0.00 points, −22.75 to 22.75, 6 seeds).";
    check(&wild, None, None, reason);
}

#[test]
fn with_all_worse_or_stopped_it_is_the_baseline_if_that_went_through() {
    let mut results = measured(&[(FAST, None, &WORSE), (FAST, None, &KEPT)]);
    results.variants[2].runs[3].status = Status::Diverged;
    let whys = "bf16-mixed worse by 2.00 points, bf16-true diverged in 1 of 6 runs";
    let reason = format!("fp32: every other policy is worse or was stopped: {whys}.");
    check(&results, Some("fp32"), None, &reason);
    results.variants[0].runs[0].status = Status::Diverged;
    let reason = format!(
        "every policy is worse or was stopped: {whys}, and fp32 itself diverged in 1 of 6 runs."
    );
    check(&results, None, None, &reason);
}

#[test]
fn before_any_comparison_nothing_is_recommended() {
    let cases: [(fn(&mut Results), &str); 4] = [
        (
            |results| results.variants[0].runs.clear(),
            "the baseline fp32 has no run yet to compare with.",
        ),
        (
            |results| results.variants.truncate(1),
            "fp32 is the only variant, so there is nothing to choose from.",
        ),
        (
            |results| results.variants[1].emulated = true,
            "every variant beside fp32 is emulated here, so none can be recommended for this machine.",
        ),
        (
            |results| {
                let against = results.variants[1].against_baseline.as_mut();
                against.unwrap().accuracy_difference = None;
                results.variants[1].runs.clear();
            },
            "no variant has a run yet with a seed of fp32's.",
        ),
    ];
    for (change, reason) in cases {
        let mut results = measured(&[(None, None, &KEPT)]);
        change(&mut results);
        check(&results, None, None, reason);
    }
}
