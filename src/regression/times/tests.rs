//! Times that moved, by results made by hand.

use super::super::judge::{Asked, Outcome, judge};
use super::super::tests::{check_one, judged, results, train};
use super::*;
use crate::record::GpuLoad;
use crate::units::Flops;

/// Results whose training steps of `bf16-mixed` take so many times as long.
fn slower(factor: f64) -> Results {
    let mut results = results();
    results.variants[1].train = Some(train(0.006 * factor));
    results
}

#[test]
fn a_time_fails_only_beyond_its_margin_and_confirmed() {
    let done = |factor| Some(Second::Done(Times::of(&slower(factor))));
    let impossible = Some(Second::Impossible("built from other sources".to_owned()));
    for (factor, second, verdict, wants) in [
        (1.05, None, Verdict::Passed, false),
        (0.5, None, Verdict::Passed, false),
        (1.2, None, Verdict::Inconclusive, true),
        (1.2, impossible, Verdict::Inconclusive, false),
        (1.2, done(1.0), Verdict::Inconclusive, false),
        (1.2, done(1.2), Verdict::Failed, false),
    ] {
        let asked = Asked { second: second.as_ref(), ..Asked::default() };
        let judgement = judge(&Baseline::of(&results(), ""), &slower(factor), &asked);
        assert_eq!(judgement.wants_second_timing, wants, "{factor} {second:?}");
        for finding in &judgement.findings {
            let moved = ["bf16-mixed/step_seconds", "bf16-mixed/step_ratio"];
            let is_moved = moved.contains(&finding.key.to_string().as_str());
            let expected = if is_moved { &verdict } else { &Verdict::Passed };
            assert_eq!(
                finding.verdict, *expected,
                "{factor} {second:?}: {}: {}",
                finding.key, finding.why
            );
        }
    }
}

/// Exact metrics do not depend on how steps were timed, nor on the thresholds of claims.
#[test]
fn another_timing_phase_leaves_the_exact_metrics_judged() {
    let mut other = results();
    other.plan.claims.train_time = 0.75;
    assert_eq!(judged(&other).summary(), judged(&results()).summary());
    other.plan.measure.timing_steps += 1;
    let judgement = judged(&other);
    let counts = judgement.counts();
    assert_eq!((counts.passed, counts.failed, counts.not_judged), (42, 0, 6));
    let [(why, _)] = judgement.not_judged()[..] else { panic!("one reason") };
    assert!(why.starts_with("the baseline was timed in another way: measure.timing_steps is "));
}

#[test]
fn a_busy_machine_has_no_absolute_times_and_keeps_its_ratios() {
    let mut results = results();
    for variant in &mut results.variants {
        let step = variant.train.as_ref().unwrap().step_seconds.value.0;
        let mut slow = train(2.0 * step);
        slow.work.as_mut().unwrap().peak = Flops(0.55e11);
        variant.train = Some(slow);
    }
    let judgement = judged(&results);
    let of = |key: &str| judgement.findings.iter().find(|f| f.key.to_string() == key).unwrap();
    let why = "the fastest products of f32 are 0.55 times as fast as they were: the machine is in another state, or \
               products changed; times of two versions on one machine tell these apart";
    assert_eq!(of("fp32/step_seconds").why, why);
    assert_eq!(of("fp32/step_seconds").verdict, Verdict::NotJudged);
    assert_eq!(of("bf16-mixed/step_ratio").verdict, Verdict::Passed);
    assert_eq!(judgement.outcome(), Outcome::Fine);
}

/// A time that is slower in both phases, while other programs ran in one of them.
#[test]
fn other_programs_leave_only_what_is_certain() {
    let busy = |factor| Results { other_load: Some(0.4), ..slower(factor) };
    let baseline = Baseline::of(&results(), "");
    let find = |results: &Results, second: Option<&Second>, key: &str| {
        let asked = Asked { strict: true, second, ..Asked::default() };
        let judgement = judge(&baseline, results, &asked);
        let found = judgement.findings.into_iter().find(|f| f.key.to_string() == key).unwrap();
        (found.verdict, found.why)
    };
    let (step, ratio) = ("bf16-mixed/step_seconds", "bf16-mixed/step_ratio");
    let why = "other programs took 40% of the processor's time; close them, or time two versions in turns";
    let not_judged = (Verdict::NotJudged, why.to_owned());
    assert_eq!(find(&busy(1.2), None, step), not_judged);
    // A ratio is not confirmed: the same by the first phase, and by a second that does not find it.
    assert_eq!(find(&busy(1.2), None, ratio), not_judged);
    let again = |results: &Results| Second::Done(Times::of(results));
    assert_eq!(find(&busy(1.2), Some(&again(&results())), ratio), not_judged);
    // Certain in both: variants take turns, so that others slow all of them.
    let (verdict, _) = find(&busy(1.2), Some(&again(&busy(1.2))), ratio);
    assert_eq!(verdict, Verdict::Failed);
    // Quiet first, busy then.
    assert_eq!(find(&slower(1.2), Some(&again(&busy(1.2))), step), not_judged);
    // As much as a quiet machine has.
    let quiet = Results { other_load: Some(0.05), ..slower(1.2) };
    let (verdict, _) = find(&quiet, Some(&again(&quiet)), step);
    assert_eq!(verdict, Verdict::Failed);
}

#[test]
fn few_blocks_decide_nothing_and_strict_says_so() {
    let mut short = results();
    for variant in &mut short.variants {
        let train = variant.train.as_mut().unwrap();
        train.blocks.truncate(5);
        variant.inference.as_mut().unwrap().blocks.truncate(5);
    }
    let baseline = Baseline::of(&short, "");
    let judgement = judge(&baseline, &short, &Asked::default());
    // Six metrics of time: 6 · 2 ÷ 2ⁿ is under 0.05 from 8 blocks on.
    let expected = "is 1.000 times the baseline's (1.000 to 1.000), by 5 blocks: at least 8 are needed (measure.timing_blocks)";
    let inconclusive: Vec<&str> = judgement.with("inconclusive").map(|f| f.why.as_str()).collect();
    assert_eq!(inconclusive, [expected; 6]);
    assert_eq!(judgement.outcome(), Outcome::Fine);
    let strict = judge(&baseline, &short, &Asked { strict: true, ..Asked::default() });
    assert_eq!(strict.outcome(), Outcome::Regression);
}

#[test]
fn energy_is_told_and_not_judged() {
    let mut results = results();
    let load = GpuLoad { step_joules: Some(3.0), ..GpuLoad::default() };
    results.variants[0].train.as_mut().unwrap().gpu = Some(load);
    let judgement = judge(&Baseline::of(&results, ""), &results, &Asked::default());
    let why = "is one value a timing phase, and chance moves it too";
    check_one(&judgement, "fp32/step_joules", &Verdict::NotJudged, why);
}
