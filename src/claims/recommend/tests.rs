//! Tables of what was measured and the sentence that follows.

use super::*;
use crate::claims::tests::{
    NOISY, adjusted, bf16_mixed, bf16_true, differ, fp16_mixed, fp16_true, fp32, ratio, results,
};
use crate::record::Status;
use crate::units::Ratio;

/// Equivalent within 0.5 points.
// d = numpy.array(KEPT); d.mean() is -0.0005, and interval(d, 0.95) of the snippet beside the test of stats::mean_interval
// -0.0011961 to 0.0003387; of its first three -0.0027656 to 0.0033301
const KEPT: [f64; 6] = [-0.0012, 0.0004, -0.001, 0.0002, -0.0009, -0.0005];
/// Worse: −0.02, −0.0214841 to −0.0185159 by the same snippet.
const WORSE: [f64; 6] = [-0.02, -0.021, -0.019, -0.022, -0.018, -0.02];

const FAST: Option<[f64; 3]> = Some([0.54, 0.55, 0.56]);
const FASTER: Option<[f64; 3]> = Some([0.47, 0.48, 0.49]);
const ALIKE: Option<[f64; 3]> = Some([0.95, 1.0, 1.05]);
const SLOW: Option<[f64; 3]> = Some([1.15, 1.2, 1.25]);

/// Ratios of step time (low, value, high) and of memory, and the differences of accuracy.
type Measured<'a> = (Option<[f64; 3]>, Option<f64>, &'a [f64]);

/// fp32, then bf16-mixed, bf16-true, fp16-mixed and fp16-true, as many as were measured.
fn measured(rows: &[Measured<'_>]) -> Results {
    let variants = [fp32(), bf16_mixed(), bf16_true(), fp16_mixed(), fp16_true()];
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
    "its test accuracy is equivalent within ±0.50 pp, at −0.05 pp (−0.12 to +0.03) over 6 seeds";

#[test]
fn the_fastest_that_keeps_the_accuracy_is_recommended() {
    let mixed = |rows: &[Measured<'_>], more, reason: &str| {
        check(&measured(rows), Some("bf16-mixed"), more, reason);
    };
    let said =
        format!("bf16-mixed: a step takes 0.55× (0.54–0.56×) of fp32's time and {EQUIVALENT}");
    mixed(&[(FAST, None, &KEPT)], None, &format!("{said}."));
    let with_memory = format!(
        "bf16-mixed: a step takes 0.55× (0.54–0.56×) of fp32's time, training 0.76× of its memory and {EQUIVALENT}."
    );
    mixed(&[(FAST, Some(0.76), &KEPT)], None, &with_memory);
    // A faster one that is worse is out; one that is open is told, a slower one that is open is not.
    mixed(&[(FAST, None, &KEPT), (FASTER, None, &WORSE)], None, &format!("{said}."));
    mixed(&[(FAST, None, &KEPT), (ALIKE, None, &NOISY)], None, &format!("{said}."));
    let open = "bf16-true is faster still (0.48×) but is not shown equivalent";
    mixed(
        &[(FAST, None, &KEPT), (FASTER, None, &NOISY)],
        Some(84),
        &format!("{said}; {open} yet: about 84 more seeds."),
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
    let better = "bf16-true: a step takes 0.48× (0.47–0.49×) of fp32's time and its test accuracy is better, at +2.00 pp \
                  (+1.85 to +2.15) over 6 seeds.";
    check(&both, Some("bf16-true"), None, better);
}

#[test]
fn with_none_clearly_faster_memory_decides() {
    let timed = "bf16-mixed: training takes 0.70× of fp32's memory, a step 1.00× (0.95–1.05×) of its time and";
    let untimed =
        "bf16-mixed: training takes 0.70× of fp32's memory, its step time is not measured and";
    for (time, said) in [(ALIKE, timed), (None, untimed)] {
        let results = measured(&[(time, Some(0.7), &KEPT)]);
        check(&results, Some("bf16-mixed"), None, &format!("{said} {EQUIVALENT}."));
    }
    let rival = measured(&[(ALIKE, Some(0.7), &KEPT), (ALIKE, Some(0.6), &NOISY)]);
    let open =
        "bf16-true needs less memory (0.60×) but is not shown equivalent yet: about 84 more seeds";
    check(&rival, Some("bf16-mixed"), Some(84), &format!("{timed} {EQUIVALENT}; {open}."));
}

#[test]
fn with_none_cheaper_it_is_the_baseline() {
    let said = "fp32: no policy that keeps the accuracy is faster here, or smaller without being slower, with bf16-mixed at";
    for (time, memory, cost) in [
        (SLOW, Some(0.7), "1.20× (1.15–1.25×) of fp32's step time and 0.70× of its memory"),
        (ALIKE, Some(0.96), "1.00× (0.95–1.05×) of fp32's step time and 0.96× of its memory"),
        (ALIKE, None, "1.00× (0.95–1.05×) of fp32's step time"),
    ] {
        let results = measured(&[(time, memory, &KEPT)]);
        check(&results, Some("fp32"), None, &format!("{said} {cost}."));
    }
    let rival = measured(&[(SLOW, None, &KEPT), (FASTER, None, &NOISY)]);
    let cost = "1.20× (1.15–1.25×) of fp32's step time";
    let open = "bf16-true is faster (0.48×) but is not shown equivalent yet: about 84 more seeds";
    check(&rival, Some("fp32"), Some(84), &format!("{said} {cost}; {open}."));

    let untimed = "fp32: no policy that keeps the accuracy is shown to be faster here, or smaller without being slower, with bf16-mixed its step time not \
                   measured.";
    let mut results = measured(&[(None, None, &KEPT)]);
    check(&results, Some("fp32"), None, untimed);
    results.complete = false;
    let accuracy = EQUIVALENT.replace("its test accuracy", "the test accuracy of bf16-mixed");
    check(&results, None, None, &format!("No step is timed yet; {accuracy}."));

    let slow = "fp32: no policy that may keep the accuracy is faster here, or smaller without being slower, with bf16-mixed at 1.20× (1.15–1.25×) of fp32's \
                step time.";
    check(&measured(&[(SLOW, None, &NOISY)]), Some("fp32"), None, slow);
}

#[test]
fn with_none_shown_good_more_seeds_are_asked_for() {
    let few = measured(&[(FAST, None, &KEPT[..3]), (SLOW, None, &KEPT[..3])]);
    let reason = "None shown equivalent to fp32 yet: run 3 more seeds to settle bf16-mixed, at 0.55× (0.54–0.56×) of \
                  fp32's step time, its test accuracy inconclusive, at −0.06 pp (−0.28 to +0.33) over 3 seeds.";
    check(&few, None, Some(3), reason);
    // The one that fewer seeds settle is named, even if another is faster.
    let two = measured(&[(FAST, None, &NOISY), (FASTER, None, &NOISY.map(|d| d * 10.0))]);
    let reason = "None shown equivalent to fp32 yet: run about 84 more seeds to settle bf16-mixed, at 0.55× \
                  (0.54–0.56×) of fp32's step time, its test accuracy inconclusive, at ±0.00 pp (−2.41 to +2.28) over 6 seeds.";
    check(&two, None, Some(84), reason);
    let wild = measured(&[(FAST, None, &NOISY.map(|d| d * 10.0))]);
    let reason = "None shown equivalent to fp32 yet, and no number of seeds up to 1000 would settle it if the spread \
                  stays as it is: bf16-mixed, at 0.55× (0.54–0.56×) of fp32's step time, its test accuracy inconclusive, \
                  at ±0.00 pp (−24.11 to +22.75) over 6 seeds.";
    check(&wild, None, None, reason);
}

#[test]
fn with_all_worse_or_stopped_it_is_the_baseline_if_that_went_through() {
    let mut results = measured(&[(FAST, None, &WORSE), (FAST, None, &KEPT)]);
    results.variants[2].runs[3].status = Status::Diverged;
    let whys = "bf16-mixed is worse (−2.00 pp) and bf16-true diverged in 1 of 6 runs";
    let reason = format!("fp32: every other policy is worse or was stopped: {whys}.");
    check(&results, Some("fp32"), None, &reason);
    results.variants[0].runs[0].status = Status::Diverged;
    let reason = format!(
        "Every other policy is worse or was stopped: {whys}; fp32 itself diverged in 1 of 6 runs."
    );
    check(&results, None, None, &reason);
}

#[test]
fn before_any_comparison_nothing_is_recommended() {
    let cases: [(fn(&mut Results), &str); 7] = [
        (
            |results| {
                for run in &mut results.variants[0].runs {
                    run.status = Status::Failed;
                }
            },
            "fp32 failed in 6 of 6 runs, so there is nothing to compare with.",
        ),
        (|results| results.variants.truncate(1), "1 of 2 variants has no run yet: bf16-mixed."),
        (|results| results.variants[1].runs.clear(), "1 of 2 variants has no run yet: bf16-mixed."),
        (
            |results| results.variants[0].runs.clear(),
            "The baseline fp32 has no run yet to compare with.",
        ),
        (
            |results| {
                results.variants.truncate(1);
                results.plan.variants.truncate(1);
            },
            "fp32 is the only variant, so there is nothing to choose from.",
        ),
        (
            |results| results.variants[1].emulated = true,
            "Every variant beside fp32 is emulated here, so none can be recommended for this machine.",
        ),
        (
            |results| {
                let against = results.variants[1].against_baseline.as_mut();
                against.unwrap().accuracy_difference = None;
                results.variants[1].runs.truncate(1);
                results.variants[1].runs[0].seed = 99;
            },
            "No variant has a run yet with a seed of fp32's.",
        ),
    ];
    for (change, reason) in cases {
        let mut results = measured(&[(None, None, &KEPT)]);
        change(&mut results);
        check(&results, None, None, reason);
    }
}

/// At 8 blocks.
#[test]
fn a_time_measured_badly_recommends_no_variant_for_its_memory() {
    let kept = "bf16-mixed: training takes 0.72× of fp32's memory, a step";
    for (time, said) in [
        ([0.99, 1.02, 1.05], "1.02× (0.99–1.05×)"),
        ([1.01, 1.02, 1.03], "1.02× (1.01–1.03×)"),
        ([1.0, 1.05, LITTLE_SLOWER], "1.05× (1.00–1.10×)"),
    ] {
        let results = measured(&[(Some(time), Some(0.72), &KEPT)]);
        let reason = format!("{kept} {said} of its time and {EQUIVALENT}.");
        check(&results, Some("bf16-mixed"), None, &reason);
    }
    let none = "fp32: no policy that keeps the accuracy is shown to be faster here, or smaller without being slower, with bf16-mixed at";
    for (time, said, blocks) in [
        ([0.996, 1.17, 1.33], "1.17× (1.00–1.33×)", "about 55 timing"),
        ([0.99, 1.90, 3.50], "1.90× (0.99–3.50×)", "about 12 timing"),
        ([0.85, 0.95, 1.15], "0.95× (0.85–1.15×)", "about 14 timing"),
    ] {
        let results = measured(&[(Some(time), Some(0.72), &KEPT)]);
        let reason = format!(
            "{none} {said} of fp32's step time and 0.72× of its memory; bf16-mixed needs less memory (0.72×), but its \
             step time, {said}, is not measured well enough: {blocks} blocks needed, 8 given."
        );
        check(&results, Some("fp32"), None, &reason);
    }
    // Beside one that is shown, only one that would save more is told of.
    for (memory, more) in [
        (
            0.6,
            "; bf16-true needs less memory (0.60×), but its step time, 1.90× (0.99–3.50×), is not measured well enough: \
             about 12 timing blocks needed, 8 given",
        ),
        (0.8, ""),
    ] {
        let wide = Some([0.99, 1.90, 3.50]);
        let results = measured(&[(ALIKE, Some(0.72), &KEPT), (wide, Some(memory), &KEPT)]);
        let reason = format!("{kept} 1.00× (0.95–1.05×) of its time and {EQUIVALENT}{more}.");
        check(&results, Some("bf16-mixed"), None, &reason);
    }
    // While its step is still to be timed, nothing is known of its price.
    let mut waiting = measured(&[(None, Some(0.72), &KEPT)]);
    waiting.complete = false;
    let accuracy = EQUIVALENT.replace("its test accuracy", "the test accuracy of bf16-mixed");
    check(&waiting, None, None, &format!("No step is timed yet; {accuracy}."));
}

/// −0.95 points in all six seeds: among four variants six seeds can show no difference, two more would show it worse.
#[test]
fn a_variant_on_its_way_to_worse_is_no_rival() {
    let slightly_worse = WORSE.map(|d| d * 0.475);
    let bad: Measured<'_> = (FASTER, Some(0.69), &slightly_worse);
    let kept: Measured<'_> = (FAST, None, &KEPT);
    let four = |rows: [Measured<'_>; 4]| adjusted(measured(&rows));

    let said =
        format!("bf16-mixed: a step takes 0.55× (0.54–0.56×) of fp32's time and {EQUIVALENT}.");
    check(&four([kept, bad, bad, bad]), Some("bf16-mixed"), None, &said);

    let slow: Measured<'_> = (SLOW, None, &KEPT);
    let none = "fp32: no policy that keeps the accuracy is faster here, or smaller without being slower, with bf16-mixed at 1.20× (1.15–1.25×) of fp32's \
                step time.";
    check(&four([slow, bad, bad, bad]), Some("fp32"), None, none);

    let open = "None shown equivalent to fp32 yet: run about 84 more seeds to settle bf16-mixed, at 0.55× (0.54–0.56×) of \
                fp32's step time, its test accuracy inconclusive, at ±0.00 pp (−2.41 to +2.28) over 6 seeds.";
    check(&four([(FAST, None, &NOISY), bad, bad, bad]), None, Some(84), open);

    let looks = "looks worse (−0.95 pp, about 2 more seeds would show it)";
    let all = format!(
        "fp32: every other policy is worse, looks worse or was stopped: bf16-mixed diverged in 1 of 6 runs, bf16-true \
         {looks}, fp16-mixed {looks} and fp16-true {looks}."
    );
    let mut results = four([bad; 4]);
    results.variants[1].runs[0].status = Status::Diverged;
    check(&results, Some("fp32"), None, &all);
}

#[test]
fn a_baseline_that_stopped_is_never_recommended() {
    let stopped = |rows: &[Measured<'_>]| {
        let mut results = measured(rows);
        for run in &mut results.variants[0].runs[..3] {
            run.status = Status::Diverged;
        }
        results
    };
    let itself = "fp32 itself diverged in 3 of 6 runs";
    let slow = "a step takes 1.20× (1.15–1.25×) of fp32's time, training 1.40× of its memory";
    let untimed = "training takes 0.98× of fp32's memory, its step time is not measured";
    let slower = Some([1.0, 1.3, 1.6]);
    // Of the good, the least time; of those without times, the least memory.
    for (rows, variant, said) in [
        ([(SLOW, Some(1.4), &KEPT[..]), (slower, Some(0.6), &KEPT)], "bf16-mixed", slow),
        ([(FASTER, None, &WORSE), (SLOW, Some(1.4), &KEPT)], "bf16-true", slow),
        ([(None, Some(0.99), &KEPT), (None, Some(0.98), &KEPT)], "bf16-true", untimed),
        ([(None, None, &WORSE), (None, None, &KEPT)], "bf16-true", "its step time is not measured"),
    ] {
        let said = format!("{variant}: {said} and {EQUIVALENT}; {itself}.");
        check(&stopped(&rows), Some(variant), None, &said);
    }
    let rival = stopped(&[(SLOW, Some(1.4), &KEPT), (FASTER, None, &NOISY)]);
    let reason = format!(
        "bf16-mixed: {slow} and {EQUIVALENT}; {itself}; bf16-true is faster still (0.48×) but is not shown equivalent yet: \
         about 84 more seeds."
    );
    check(&rival, Some("bf16-mixed"), Some(84), &reason);
    // With none good there is nothing to recommend, be the open one cheaper or not.
    let open = format!(
        "None shown equivalent to fp32 yet: run about 84 more seeds to settle bf16-mixed, at 1.20× (1.15–1.25×) of fp32's \
         step time, its test accuracy inconclusive, at ±0.00 pp (−2.41 to +2.28) over 6 seeds; {itself}."
    );
    check(&stopped(&[(SLOW, None, &NOISY)]), None, Some(84), &open);

    let mut both = stopped(&[(SLOW, None, &WORSE)]);
    both.variants[0].runs[5].status = Status::Failed;
    let reason = "Every other policy is worse or was stopped: bf16-mixed is worse (−2.00 pp); fp32 itself stopped in 4 of 6 \
                  runs (3 diverged, 1 failed).";
    check(&both, None, None, reason);
}

/// An experiment that was interrupted, or a results file cut short: a variant may be clearly faster than another that
/// has not run.
#[test]
fn nothing_is_recommended_whose_rivals_are_not_in() {
    let rows: [Measured<'_>; 4] = [(FAST, None, &KEPT); 4];
    let mut results = measured(&rows);
    results.variants[3].runs.clear();
    results.variants.pop();
    let reason = "2 of 5 variants have no run yet: fp16-mixed and fp16-true.";
    check(&results, None, None, reason);
    results.variants.truncate(1);
    let reason =
        "4 of 5 variants have no run yet: bf16-mixed, bf16-true, fp16-mixed and fp16-true.";
    check(&results, None, None, reason);
}
