//! Two builds, by blocks made by hand.

use super::super::judge::{Outcome, Verdict};
use super::super::metric::Metric;
use super::super::tests::results;
use super::*;

/// A block in which the steps of `bf16-mixed` take so many times as long.
fn block(factor: f64) -> TimedBlock {
    let results = results();
    let mut block = TimedBlock::new(&results.plan, &results.environment, "data");
    let times = |step, inference| {
        [(Metric::StepSeconds, Some(step)), (Metric::InferenceSeconds, Some(inference))]
    };
    block.put("fp32", &times(0.010, 0.004));
    block.put("bf16-mixed", &times(0.006 * factor, 0.002));
    block
}

fn rounds(count: usize, factor: f64) -> Rounds {
    let of = |factor| (0..count).map(|_| block(factor)).collect();
    Rounds { a: of(1.0), b: of(factor) }
}

#[test]
fn a_build_fails_only_beyond_the_margin_and_confirmed() {
    for (factor, second, verdict, wants) in [
        (1.05, None, Verdict::Passed, false),
        (0.5, None, Verdict::Passed, false),
        (1.5, None, Verdict::Inconclusive, true),
        (1.5, Some(1.0), Verdict::Inconclusive, false),
        (1.5, Some(1.5), Verdict::Failed, false),
    ] {
        let second = second.map(|factor| rounds(8, factor));
        let judgement = judge_builds(&rounds(8, factor), second.as_ref(), &Asked::default());
        assert_eq!(judgement.wants_second_timing, wants, "{factor} {second:?}");
        assert_eq!(judgement.findings.len(), 4);
        for finding in &judgement.findings {
            let is_moved = finding.key.to_string() == "bf16-mixed/step_seconds";
            let expected = if is_moved { &verdict } else { &Verdict::Passed };
            assert_eq!(finding.verdict, *expected, "{factor}: {}: {}", finding.key, finding.why);
        }
    }
    let failed = judge_builds(&rounds(8, 1.5), Some(&rounds(8, 1.5)), &Asked::default());
    let whys: Vec<&str> = failed.with("failed").map(|finding| finding.why.as_str()).collect();
    let why = "is 1.500 times A's (1.500 to 1.500); a second timing phase: is 1.500 times A's (1.500 to 1.500)";
    assert_eq!(whys, [why]);
    let allowed = ["bf16-mixed/step_seconds=known".parse().unwrap()];
    let asked = Asked { allowed: &allowed, ..Asked::default() };
    let allowed = judge_builds(&rounds(8, 1.5), Some(&rounds(8, 1.5)), &asked);
    assert_eq!((allowed.outcome(), allowed.counts().allowed), (Outcome::Fine, 1));
}

/// The machine gets twice as slow halfway, and both builds with it.
#[test]
fn a_drift_of_the_machine_moves_both_builds_and_is_no_change() {
    let mut drifting = rounds(8, 1.0);
    for blocks in [&mut drifting.a, &mut drifting.b] {
        for block in &mut blocks[4..] {
            for time in block.times.values_mut() {
                *time *= 2.0;
            }
        }
    }
    let judgement = judge_builds(&drifting, None, &Asked::default());
    assert_eq!(judgement.counts().passed, 4);
}

#[test]
fn few_rounds_decide_nothing_and_the_default_is_enough() {
    // Four times: 4 · 2 ÷ 2ⁿ is under 0.05 from 8 rounds on.
    assert_eq!(stats_least(&block(1.0)), 8);
    let judgement = judge_builds(&rounds(7, 1.0), None, &Asked::default());
    let why = "is 1.000 times A's (1.000 to 1.000), by 7 blocks: at least 8 are needed (--rounds)";
    assert!(judgement.findings.iter().all(|finding| finding.why == why));
    assert_eq!(judgement.outcome(), Outcome::NothingJudged);
    let mut long = block(1.0);
    long.plan["measure"]["timing_blocks"] = 20.into();
    assert_eq!(long.rounds(), 20);
}

/// The rounds of a block whose plan asks for none.
fn stats_least(block: &TimedBlock) -> usize {
    let mut block = block.clone();
    block.plan["measure"]["timing_blocks"] = 0.into();
    block.rounds()
}

#[test]
fn a_variant_that_one_build_lacks_is_missing_or_new_with_its_reason() {
    let mut some = rounds(8, 1.0);
    for block in &mut some.b {
        block.times.retain(|key, _| key.starts_with("fp32/"));
        block.untimed.insert("bf16-mixed".to_owned(), "no memory".to_owned());
    }
    let judgement = judge_builds(&some, None, &Asked::default());
    let failed: Vec<&str> = judgement.with("failed").map(|finding| finding.why.as_str()).collect();
    assert_eq!(failed, ["is missing: A has it, and B does not: no memory"; 2]);
    // The other way round, and in one round only: what is left has no pairs.
    std::mem::swap(&mut some.a, &mut some.b);
    some.a[1..].clone_from_slice(&some.b[1..]);
    let judgement = judge_builds(&some, None, &Asked::default());
    let new: Vec<&str> = judgement.with("not judged").map(|finding| finding.why.as_str()).collect();
    assert_eq!(new, ["is new: A does not have it"; 2]);
    assert_eq!(judgement.outcome(), Outcome::Fine);
}

#[test]
fn blocks_of_other_plans_data_or_machines_are_told() {
    let with = |change: fn(&mut TimedBlock)| {
        let mut block = block(1.0);
        change(&mut block);
        unlike(&self::block(1.0), &block).unwrap_or_default()
    };
    assert_eq!(with(|_| ()), "");
    let told = with(|block| {
        block.plan_digest = "0123456789abcdef".to_owned();
        block.plan["train"]["steps"] = 7.into();
    });
    assert!(told.contains("and 0123456789ab: train.steps is "), "{told}");
    assert!(told.contains(" there, 7 here; give a spec that both read alike"), "{told}");
    assert!(with(|block| block.data_digest.clear()).contains("other data"));
    let told = with(|block| block.machine.profile = "debug".to_owned());
    assert!(told.starts_with("the build is ") && told.ends_with(", debug here"), "{told}");
    // Another way to multiply is the build's own doing.
    assert_eq!(with(|block| block.machine.arithmetic.clear()), "");
    let mut other = rounds(8, 1.0);
    other.b[0].machine.arithmetic = "cpu-other".to_owned();
    let notes = judge_builds(&other, None, &Asked::default()).notes;
    assert!(notes.len() == 1 && notes[0].contains("multiply in other ways"), "{notes:?}");
}

#[test]
fn a_block_is_read_as_it_is_written_and_nothing_else_is() {
    use crate::regression::BlockError;
    let whole = serde_json::to_value(block(1.0)).unwrap();
    let parse = |value: &serde_json::Value| TimedBlock::parse(value.to_string().as_bytes());
    assert_eq!(parse(&whole), Ok(block(1.0)));
    for (key, value, said) in [
        ("mantissa_time", serde_json::json!("1"), "it has no mantissa_time"),
        ("plan_digest", serde_json::json!(1), "plan_digest: invalid type"),
        ("times", serde_json::json!({"fp32/step_seconds": 0.0}), "a time is above 0"),
        ("times", serde_json::json!({"fp32/lost_updates": 1.0}), "fp32/lost_updates is no time"),
        ("times", serde_json::json!({"x": 1.0}), "x is no time"),
    ] {
        let mut changed = whole.clone();
        changed[key] = value;
        let error = parse(&changed).unwrap_err().to_string();
        assert!(
            error.starts_with("not a timed block of mantissa (") && error.contains(said),
            "{error}"
        );
    }
    for bytes in [&b""[..], b"hello", b"[]", b"{\"mantissa_time\": 1}"] {
        assert!(matches!(TimedBlock::parse(bytes), Err(BlockError::Malformed(_))), "{bytes:?}");
    }
    let mut newer = whole;
    newer["mantissa_time"] = 2.into();
    newer["times"] = serde_json::json!([]);
    assert_eq!(parse(&newer), Err(BlockError::Newer(2)));
}
