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

/// What a recommendation says beside its variant and reason.
struct More<'a> {
    provisional: Option<&'a str>,
    for_memory: Option<&'a str>,
    needed: Option<&'a str>,
    seeds: Option<u64>,
    blocks: Option<u64>,
}

#[track_caller]
fn check(results: &Results, variant: Option<&str>, reason: &str, more: &More<'_>) {
    let text = |text: Option<&str>| text.map(str::to_owned);
    let expected = Recommendation {
        variant: text(variant),
        reason: reason.to_owned(),
        provisional: text(more.provisional),
        for_memory: text(more.for_memory),
        needed: text(more.needed),
        more_seeds: more.seeds,
        more_blocks: more.blocks,
    };
    assert_eq!(recommend(results), expected);
}

/// Nothing beside the variant and the reason.
const NOTHING: More<'_> =
    More { provisional: None, for_memory: None, needed: None, seeds: None, blocks: None };

/// What the open variant of [`NOISY`] asks for.
const SEEDS: More<'_> = More {
    needed: Some("Needed to decide: about 84 more seeds (--seeds 90)."),
    seeds: Some(84),
    ..NOTHING
};

const EQUIVALENT: &str =
    "its test accuracy is equivalent within ±0.50 pp (−0.05 pp, −0.12 to +0.03, 6 seeds)";

const INCONCLUSIVE: &str = "its test accuracy is inconclusive (±0.00 pp, −2.41 to +2.28, 6 seeds)";

#[test]
fn the_fastest_that_keeps_the_accuracy_is_recommended() {
    let mixed = |rows: &[Measured<'_>], reason: &str, more: &More<'_>| {
        check(&measured(rows), Some("bf16-mixed"), reason, more);
    };
    let said = format!("It trains 1.82× as fast as fp32 (1.79–1.85×) and {EQUIVALENT}");
    mixed(&[(FAST, None, &KEPT)], &format!("{said}."), &NOTHING);
    let with_memory = format!(
        "It trains 1.82× as fast as fp32 (1.79–1.85×), needs 24% less memory and {EQUIVALENT}."
    );
    mixed(&[(FAST, Some(0.76), &KEPT)], &with_memory, &NOTHING);
    // A faster one that is worse is out; one that is open is named, a slower one that is open is not.
    mixed(&[(FAST, None, &KEPT), (FASTER, None, &WORSE)], &format!("{said}."), &NOTHING);
    mixed(&[(FAST, None, &KEPT), (ALIKE, None, &NOISY)], &format!("{said}."), &NOTHING);
    let open = "bf16-true trains 2.08× as fast as fp32 (2.04–2.13×), its accuracy not settled";
    mixed(&[(FAST, None, &KEPT), (FASTER, None, &NOISY)], &format!("{said}; {open} yet."), &SEEDS);
    let wild = NOISY.map(|d| d * 10.0);
    mixed(
        &[(FAST, None, &KEPT), (FASTER, None, &wild)],
        &format!("{said}; {open} by any number of seeds up to 1000, if the spread stays as it is."),
        &NOTHING,
    );
    let both = measured(&[(FAST, None, &KEPT), (FASTER, None, &WORSE.map(|d| -d))]);
    let better = "It trains 2.08× as fast as fp32 (2.04–2.13×) and its test accuracy is better (+2.00 pp, +1.85 to +2.15, \
                  6 seeds).";
    check(&both, Some("bf16-true"), better, &NOTHING);
}

#[test]
fn with_none_clearly_faster_memory_decides() {
    let timed = "It needs 30% less memory, trains at 1.00× the speed of fp32 (0.95–1.05×) and";
    let untimed = "It needs 30% less memory than fp32, is not timed and";
    for (time, said) in [(ALIKE, timed), (None, untimed)] {
        let results = measured(&[(time, Some(0.7), &KEPT)]);
        check(&results, Some("bf16-mixed"), &format!("{said} {EQUIVALENT}."), &NOTHING);
    }
    let rival = measured(&[(ALIKE, Some(0.7), &KEPT), (ALIKE, Some(0.6), &NOISY)]);
    let open = "bf16-true needs 40% less memory, its accuracy not settled yet";
    check(&rival, Some("bf16-mixed"), &format!("{timed} {EQUIVALENT}; {open}."), &SEEDS);
}

/// Time and memory give two answers: both are given.
#[test]
fn what_saves_more_memory_is_told_beside_what_is_faster() {
    let rows: [Measured<'_>; 2] = [(FAST, Some(0.9), &KEPT), (SLOW, Some(0.7), &KEPT)];
    let reason = format!(
        "It trains 1.82× as fast as fp32 (1.79–1.85×), needs 10% less memory and {EQUIVALENT}."
    );
    let memory = "If memory is what you lack, bf16-true needs 30% less memory and trains 20% slower than fp32 (15–25%).";
    let more = More { for_memory: Some(memory), ..NOTHING };
    check(&measured(&rows), Some("bf16-mixed"), &reason, &more);
    // A saving beside it that would let nothing more in is not worth a sentence: 0.88 ÷ 0.9 is over 0.95.
    let rows: [Measured<'_>; 2] = [(FAST, Some(0.9), &KEPT), (SLOW, Some(0.88), &KEPT)];
    check(&measured(&rows), Some("bf16-mixed"), &reason, &NOTHING);
}

#[test]
fn with_none_cheaper_it_is_the_baseline() {
    let said = "No variant that keeps the accuracy is faster here, or smaller without being slower: bf16-mixed trains";
    let memory = "If memory is what you lack, bf16-mixed needs 30% less memory and trains 20% slower than fp32 (15–25%).";
    for (time, memory, cost, for_memory) in [
        (SLOW, Some(0.7), "20% slower than fp32 (15–25%) and needs 30% less memory", Some(memory)),
        (
            ALIKE,
            Some(0.96),
            "at 1.00× the speed of fp32 (0.95–1.05×) and needs 4% less memory",
            None,
        ),
        (ALIKE, None, "at 1.00× the speed of fp32 (0.95–1.05×)", None),
    ] {
        let results = measured(&[(time, memory, &KEPT)]);
        check(&results, Some("fp32"), &format!("{said} {cost}."), &More { for_memory, ..NOTHING });
    }
    let rival = measured(&[(SLOW, None, &KEPT), (FASTER, None, &NOISY)]);
    let open = "bf16-true trains 2.08× as fast as fp32 (2.04–2.13×), its accuracy not settled yet";
    check(&rival, Some("fp32"), &format!("{said} 20% slower than fp32 (15–25%); {open}."), &SEEDS);

    let untimed = "No variant that keeps the accuracy is shown to be faster here, or smaller without being slower: bf16-mixed \
                   is not timed.";
    let mut results = measured(&[(None, None, &KEPT)]);
    check(&results, Some("fp32"), untimed, &NOTHING);
    results.complete = false;
    let accuracy = EQUIVALENT.replace("its test accuracy", "the test accuracy of bf16-mixed");
    let provisional = Some("For now keep fp32: no step is timed yet.");
    let more = More { provisional, ..NOTHING };
    check(&results, None, &format!("No step is timed yet; {accuracy}."), &more);

    let slow = "No variant that may keep the accuracy is faster here, or smaller without being slower: bf16-mixed trains 20% \
                slower than fp32 (15–25%).";
    check(&measured(&[(SLOW, None, &NOISY)]), Some("fp32"), slow, &NOTHING);

    // An interval that holds 1: more blocks may show it faster. 8 ln(1.02 ÷ 0.95)² ÷ ln(0.95)² is 15.3.
    let maybe = measured(&[(Some([0.88, 0.95, 1.02]), None, &KEPT)]);
    let reason = format!(
        "{said} at 1.05× the speed of fp32 (0.98–1.14×); it is open whether bf16-mixed is faster."
    );
    let needed =
        Some("Needed to decide: about 8 more timing blocks (--set measure.timing_blocks=16).");
    check(&maybe, Some("fp32"), &reason, &More { needed, blocks: Some(8), ..NOTHING });
}

#[test]
fn with_none_shown_good_more_seeds_are_asked_for() {
    let none = "No variant is shown equivalent to fp32 yet; bf16-mixed trains 1.82× as fast as fp32 (1.79–1.85×); its test \
                accuracy is inconclusive";
    let few = measured(&[(FAST, None, &KEPT[..3]), (SLOW, None, &KEPT[..3])]);
    let reason = format!("{none} (−0.06 pp, −0.28 to +0.33, 3 seeds).");
    let not_shown = "For now keep fp32: that bf16-mixed keeps its accuracy is not shown yet.";
    let more = More {
        provisional: Some(not_shown),
        needed: Some("Needed to decide: 3 more seeds (--seeds 6)."),
        seeds: Some(3),
        ..NOTHING
    };
    check(&few, None, &reason, &more);
    // The one that fewer seeds settle is named, even if another is faster.
    let two = measured(&[(FAST, None, &NOISY), (FASTER, None, &NOISY.map(|d| d * 10.0))]);
    let reason = format!("{none} (±0.00 pp, −2.41 to +2.28, 6 seeds).");
    let provisional =
        Some("For now keep fp32: that bf16-true keeps its accuracy is not shown yet.");
    check(&two, None, &reason, &More { provisional, ..SEEDS });
    let wild = measured(&[(FAST, None, &NOISY.map(|d| d * 10.0))]);
    let reason = format!(
        "{none} (±0.00 pp, −24.11 to +22.75, 6 seeds); no number of seeds up to 1000 would decide it if the spread stays as it \
         is."
    );
    check(&wild, None, &reason, &More { provisional: Some(not_shown), ..NOTHING });
    // Seeds and timing blocks at once: the interval has to come up to 1.1 from below, which takes
    // 8 ln(1.17 ÷ 0.996)² ÷ ln(1.17 ÷ 1.1)² = 54.4 blocks.
    let both = measured(&[(Some([0.996, 1.17, 1.33]), Some(0.72), &NOISY)]);
    let cost = "trains at 0.85× the speed of fp32 (0.75–1.00×)";
    let reason = format!(
        "No variant is shown equivalent to fp32 yet; bf16-mixed {cost} and needs 28% less memory; {INCONCLUSIVE}; it is \
         open whether bf16-mixed is more than 10% slower."
    );
    let provisional = format!(
        "For now keep fp32: no variant is shown to be faster here; if memory is what you lack, bf16-mixed needs 28% less memory \
         and {cost}, and its accuracy is not settled yet."
    );
    let more = More {
        provisional: Some(&provisional),
        needed: Some(
            "Needed to decide: about 84 more seeds (--seeds 90) and about 47 more timing blocks (--set \
             measure.timing_blocks=55).",
        ),
        blocks: Some(47),
        ..SEEDS
    };
    check(&both, None, &reason, &more);
}

#[test]
fn with_all_worse_or_stopped_it_is_the_baseline_if_that_went_through() {
    let mut results = measured(&[(FAST, None, &WORSE), (FAST, None, &KEPT)]);
    results.variants[2].runs[3].status = Status::Diverged;
    let whys = "bf16-mixed is worse (−2.00 pp) and bf16-true diverged in 1 of 6 runs";
    let reason = format!("Every other variant is worse or was stopped: {whys}.");
    check(&results, Some("fp32"), &reason, &NOTHING);
    results.variants[0].runs[0].status = Status::Diverged;
    let reason = format!(
        "Every other variant is worse or was stopped: {whys}; fp32 itself diverged in 1 of 6 runs."
    );
    check(&results, None, &reason, &NOTHING);
}

#[test]
fn before_any_comparison_nothing_is_recommended() {
    let keep = Some("For now keep fp32.");
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
        // Of a baseline that failed, nothing is to be kept.
        let provisional = keep.filter(|_| !reason.contains("failed"));
        check(&results, None, reason, &More { provisional, ..NOTHING });
    }
}

/// At 8 blocks.
#[test]
fn a_time_measured_badly_recommends_no_variant_for_its_memory() {
    let kept = "It needs 28% less memory, trains";
    for (time, said) in [
        ([0.99, 1.02, 1.05], "at 0.98× the speed of fp32 (0.95–1.01×)"),
        ([1.01, 1.02, 1.03], "2% slower than fp32 (1–3%)"),
        ([1.0, 1.05, LITTLE_SLOWER], "at 0.95× the speed of fp32 (0.91–1.00×)"),
    ] {
        let results = measured(&[(Some(time), Some(0.72), &KEPT)]);
        let reason = format!("{kept} {said} and {EQUIVALENT}.");
        check(&results, Some("bf16-mixed"), &reason, &NOTHING);
    }
    let none = "No variant that keeps the accuracy is shown to be faster here, or smaller without being slower: bf16-mixed trains";
    for (time, speed, blocks) in [
        ([0.996, 1.17, 1.33], "at 0.85× the speed of fp32 (0.75–1.00×)", 55),
        ([0.99, 1.90, 3.50], "at 0.53× the speed of fp32 (0.29–1.01×)", 12),
        ([0.85, 0.95, 1.15], "at 1.05× the speed of fp32 (0.87–1.18×)", 14),
    ] {
        let results = measured(&[(Some(time), Some(0.72), &KEPT)]);
        let reason = format!(
            "{none} {speed} and needs 28% less memory; it is open whether bf16-mixed is more than 10% slower."
        );
        let more_blocks = blocks - 8;
        let needed = format!(
            "Needed to decide: about {more_blocks} more timing blocks (--set measure.timing_blocks={blocks})."
        );
        let memory = format!(
            "If memory is what you lack, bf16-mixed needs 28% less memory and trains {speed}."
        );
        let more = More {
            for_memory: Some(&memory),
            needed: Some(&needed),
            blocks: Some(more_blocks),
            ..NOTHING
        };
        check(&results, Some("fp32"), &reason, &more);
    }
}

/// At 8 blocks.
#[test]
fn beside_one_that_is_shown_only_one_that_would_save_more_is_told_of() {
    let kept = "It needs 28% less memory, trains";
    for (memory, clause, more) in [
        (
            0.6,
            "; it is open whether bf16-true is more than 10% slower",
            More {
                for_memory: Some(
                    "If memory is what you lack, bf16-true needs 40% less memory and trains at 0.53× the speed of fp32 \
                     (0.29–1.01×).",
                ),
                needed: Some(
                    "Needed to decide: about 4 more timing blocks (--set measure.timing_blocks=12).",
                ),
                blocks: Some(4),
                ..NOTHING
            },
        ),
        (0.8, "", NOTHING),
    ] {
        let wide = Some([0.99, 1.90, 3.50]);
        let results = measured(&[(ALIKE, Some(0.72), &KEPT), (wide, Some(memory), &KEPT)]);
        let reason =
            format!("{kept} at 1.00× the speed of fp32 (0.95–1.05×) and {EQUIVALENT}{clause}.");
        check(&results, Some("bf16-mixed"), &reason, &more);
    }
}

#[test]
fn before_its_step_is_timed_a_variant_saves_memory_at_an_unknown_price() {
    // While its step is still to be timed, nothing is known of its price.
    let mut waiting = measured(&[(None, Some(0.72), &KEPT)]);
    waiting.complete = false;
    let accuracy = EQUIVALENT.replace("its test accuracy", "the test accuracy of bf16-mixed");
    let provisional = Some(
        "For now keep fp32: no step is timed yet; if memory is what you lack, bf16-mixed needs 28% less memory and is not timed.",
    );
    let more = More { provisional, ..NOTHING };
    check(&waiting, None, &format!("No step is timed yet; {accuracy}."), &more);
}

/// −0.95 points in all six seeds: among four variants six seeds can show no difference, two more would show it worse.
#[test]
fn a_variant_on_its_way_to_worse_is_no_rival() {
    let slightly_worse = WORSE.map(|d| d * 0.475);
    let bad: Measured<'_> = (FASTER, Some(0.69), &slightly_worse);
    let kept: Measured<'_> = (FAST, None, &KEPT);
    let four = |rows: [Measured<'_>; 4]| adjusted(measured(&rows));

    let said = format!("It trains 1.82× as fast as fp32 (1.79–1.85×) and {EQUIVALENT}.");
    check(&four([kept, bad, bad, bad]), Some("bf16-mixed"), &said, &NOTHING);

    let slow: Measured<'_> = (SLOW, None, &KEPT);
    let none = "No variant that keeps the accuracy is faster here, or smaller without being slower: bf16-mixed trains 20% slower \
                than fp32 (15–25%).";
    check(&four([slow, bad, bad, bad]), Some("fp32"), none, &NOTHING);

    let open = format!(
        "No variant is shown equivalent to fp32 yet; bf16-mixed trains 1.82× as fast as fp32 (1.79–1.85×); {INCONCLUSIVE}."
    );
    let provisional =
        Some("For now keep fp32: that bf16-mixed keeps its accuracy is not shown yet.");
    check(
        &four([(FAST, None, &NOISY), bad, bad, bad]),
        None,
        &open,
        &More { provisional, ..SEEDS },
    );

    let looks = "looks worse (−0.95 pp, about 2 more seeds would show it)";
    let all = format!(
        "Every other variant is worse, looks worse or was stopped: bf16-mixed diverged in 1 of 6 runs, bf16-true \
         {looks}, fp16-mixed {looks} and fp16-true {looks}."
    );
    let mut results = four([bad; 4]);
    results.variants[1].runs[0].status = Status::Diverged;
    check(&results, Some("fp32"), &all, &NOTHING);
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
    let slow = "trains 20% slower than fp32 (15–25%), needs 40% more memory";
    let untimed = "needs 2% less memory than fp32, is not timed";
    let slower = Some([1.0, 1.3, 1.6]);
    // Of the good, the least time; of those without times, the least memory.
    for (rows, variant, said) in [
        ([(SLOW, Some(1.4), &KEPT[..]), (slower, Some(1.6), &KEPT)], "bf16-mixed", slow),
        ([(FASTER, None, &WORSE), (SLOW, Some(1.4), &KEPT)], "bf16-true", slow),
        ([(None, Some(0.99), &KEPT), (None, Some(0.98), &KEPT)], "bf16-true", untimed),
        ([(None, None, &WORSE), (None, None, &KEPT)], "bf16-true", "is not timed"),
    ] {
        let said = format!("It {said} and {EQUIVALENT}; {itself}.");
        check(&stopped(&rows), Some(variant), &said, &NOTHING);
    }
    let rival = stopped(&[(SLOW, Some(1.4), &KEPT), (FASTER, None, &NOISY)]);
    let reason = format!(
        "It {slow} and {EQUIVALENT}; {itself}; bf16-true trains 2.08× as fast as fp32 (2.04–2.13×), its accuracy not settled yet."
    );
    check(&rival, Some("bf16-mixed"), &reason, &SEEDS);
    // With none good there is nothing to recommend, be the open one cheaper or not, and nothing to keep.
    let open = format!(
        "No variant is shown equivalent to fp32 yet; bf16-mixed trains 20% slower than fp32 (15–25%); {INCONCLUSIVE}; {itself}."
    );
    check(&stopped(&[(SLOW, None, &NOISY)]), None, &open, &SEEDS);

    let mut both = stopped(&[(SLOW, None, &WORSE)]);
    both.variants[0].runs[5].status = Status::Failed;
    let reason = "Every other variant is worse or was stopped: bf16-mixed is worse (−2.00 pp); fp32 itself stopped in 4 of 6 \
                  runs (3 diverged, 1 failed).";
    check(&both, None, reason, &NOTHING);
}

/// An experiment that was interrupted, or a results file cut short: a variant may be clearly faster than another that
/// has not run.
#[test]
fn nothing_is_recommended_whose_rivals_are_not_in() {
    let rows: [Measured<'_>; 4] = [(FAST, None, &KEPT); 4];
    let keep = More { provisional: Some("For now keep fp32."), ..NOTHING };
    let mut results = measured(&rows);
    results.variants[3].runs.clear();
    results.variants.pop();
    let reason = "2 of 5 variants have no run yet: fp16-mixed and fp16-true.";
    check(&results, None, reason, &keep);
    results.variants.truncate(1);
    let reason =
        "4 of 5 variants have no run yet: bf16-mixed, bf16-true, fp16-mixed and fp16-true.";
    check(&results, None, reason, &keep);
}
