//! Tables of measurements and the verdicts that follow.

use super::*;
use crate::precision::DynamicScale;
use crate::record::{Control, Environment, MetricDifference, Numerics, RunSummary, SCHEMA};
use crate::record::{Evidence, GradientCounts, UnusedUnits, UpdateCounts};
use crate::spec::{
    Activation, CheckpointEvery, DataPlan, MeasurePlan, ModelPlan, OptimizerPlan, ScheduleKind,
    SchedulePlan, TrainPlan, VariantPlan,
};
use crate::stats::adjust;
use ClaimVerdict::{Confirmed, Inconclusive, NotMeasured, Refuted};
use MetricVerdict::{Better, Equivalent, Worse};

const SCALED: LossScale = LossScale::Dynamic(DynamicScale {
    scale: 65536.0,
    growth: 2.0,
    backoff: 0.5,
    interval: 2000,
    floor: 1.0,
    ceiling: 16_777_216.0,
    finite_steps: 0,
});

fn policy(params: Format, compute: Format, scale: LossScale) -> Policy {
    Policy { params, compute, reduce: Format::F32, scale }
}

pub(super) fn fp32() -> VariantPlan {
    variant_plan("fp32", policy(Format::F32, Format::F32, LossScale::None))
}

pub(super) fn fp16_mixed() -> VariantPlan {
    variant_plan("fp16-mixed", policy(Format::F32, Format::F16, SCALED))
}

pub(super) fn bf16_mixed() -> VariantPlan {
    variant_plan("bf16-mixed", policy(Format::F32, Format::BF16, LossScale::None))
}

pub(super) fn bf16_true() -> VariantPlan {
    variant_plan("bf16-true", policy(Format::BF16, Format::BF16, LossScale::None))
}

pub(super) fn fp16_true() -> VariantPlan {
    variant_plan("fp16-true", policy(Format::F16, Format::F16, LossScale::None))
}

fn variant_plan(name: &str, policy: Policy) -> VariantPlan {
    VariantPlan { name: name.to_owned(), policy }
}

fn plan(variants: Vec<VariantPlan>) -> Plan {
    let train = TrainPlan {
        steps: 100,
        batch: 64,
        accumulate: 1,
        optimizer: OptimizerPlan::Sgd {
            lr: 0.1,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.0,
        },
        schedule: SchedulePlan { kind: ScheduleKind::Constant, warmup: 0, floor: 1.0 },
        clip_norm: None,
        label_smoothing: 0.0,
        evaluate_every: None,
        cuda_graphs: true,
        checkpoint_every: CheckpointEvery::default(),
    };
    Plan {
        init: None,
        reference: None,
        name: "claims".to_owned(),
        data: DataPlan::Digits { train: 1000, test: 1000, seed: 0 },
        model: ModelPlan::Mlp { hidden: vec![32], activation: Activation::Relu, dropout: 0.0 },
        train,
        measure: MeasurePlan {
            census_every: 10,
            timing_blocks: 8,
            timing_steps: 10,
            timing_warmup: 1,
            inference_batch: 64,
            equivalence_margin: 0.005,
            error_margin: 0.05,
            serving: None,
        },
        baseline: "fp32".to_owned(),
        variants,
        seeds: (0..6).collect(),
        controls: Vec::new(),
        claims: ClaimsPlan::default(),
    }
}

/// Six completed runs of accuracy 0.9, nothing else measured.
fn unmeasured(plan: &VariantPlan) -> VariantResult {
    let run = |seed| RunSummary {
        seed,
        status: Status::Completed,
        test_accuracy: Some(0.9),
        test_squared_error: None,
        test_perplexity: None,
        final_loss: Some(0.1),
        steps: 100,
        skipped_steps: 0,
        weights_digest: Some(String::new()),
        failure: None,
    };
    VariantResult {
        name: plan.name.clone(),
        policy: plan.policy.to_string(),
        emulated: false,
        runs: (0..6).map(run).collect(),
        train: None,
        inference: None,
        serving: None,
        memory: None,
        numerics: Numerics::default(),
        untimed: None,
        against_baseline: (plan.name != "fp32").then(|| AgainstBaseline {
            baseline: "fp32".to_owned(),
            train_time_ratio: None,
            train_memory_ratio: None,
            inference_time_ratio: None,
            inference_memory_ratio: None,
            accuracy_difference: None,
            squared_error_difference: None,
            perplexity_difference: None,
        }),
    }
}

pub(super) fn results(variants: Vec<VariantPlan>) -> Results {
    Results {
        schema: SCHEMA,
        experiment: "claims".to_owned(),
        complete: true,
        variants: variants.iter().map(unmeasured).collect(),
        plan: plan(variants),
        engine: crate::record::Engine::Mantissa,
        environment: Environment::default(),
        data: None,
        metric: TestMetric::Accuracy,
        machines: Vec::new(),
        machine_kind: None,
        other_kinds: Vec::new(),
        claims: vec![],
        controls: vec![],
        other_load: None,
        recommendation: None,
        reference: None,
    }
}

/// The verdict on `id` for the last variant, after `measure` filled in what was measured of each variant in turn.
#[track_caller]
fn verdict(
    id: &str,
    variants: Vec<VariantPlan>,
    measure: impl FnOnce(&mut [VariantResult]),
) -> ClaimVerdict {
    let mut results = results(variants);
    measure(&mut results.variants);
    let name = &results.variants.last().unwrap().name;
    let judged = judge(&results);
    let mut of_it = judged.iter().filter(|claim| claim.id == id && claim.variant == *name);
    let found = of_it.next().unwrap();
    let settled = matches!(found.verdict, Confirmed | Refuted);
    assert_eq!(found.missing.is_none(), settled, "{found:?}");
    found.verdict
}

fn comparison(variants: &mut [VariantResult]) -> &mut AgainstBaseline {
    variants.last_mut().unwrap().against_baseline.as_mut().unwrap()
}

pub(super) fn ratio(low: f64, value: f64, high: f64) -> Estimate<Ratio> {
    Estimate { value: Ratio(value), low: Ratio(low), high: Ratio(high) }
}

#[test]
fn times_are_judged_by_their_interval() {
    for (measured, train, inference) in [
        (Some(ratio(0.30, 0.33, 0.36)), Confirmed, Confirmed),
        (Some(ratio(0.48, 0.49, 0.50)), Confirmed, Confirmed),
        (Some(ratio(0.48, 0.50, 0.51)), Inconclusive, Confirmed),
        (Some(ratio(0.51, 0.53, 0.55)), Refuted, Confirmed),
        (Some(ratio(0.54, 0.55, 0.56)), Refuted, Inconclusive),
        (Some(ratio(0.56, 0.60, 0.65)), Refuted, Refuted),
        (Some(ratio(1.90, 2.00, 2.10)), Refuted, Refuted),
        (None, NotMeasured, NotMeasured),
    ] {
        let fill = |variants: &mut [VariantResult]| {
            comparison(variants).train_time_ratio = measured;
            comparison(variants).inference_time_ratio = measured;
        };
        let variants = || vec![fp32(), bf16_mixed()];
        assert_eq!(verdict("train-time", variants(), fill), train, "{measured:?}");
        assert_eq!(verdict("infer-time", variants(), fill), inference, "{measured:?}");
    }
}

/// A Xeon with AMX that runs bf16 by AVX512-BF16 alone, and its like. f32 has no such units.
#[test]
fn a_time_that_leaves_the_processors_units_unused_refutes_nothing() {
    let units = |format: &str, names: &[&str]| UnusedUnits {
        format: format.to_owned(),
        instructions: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let amx = vec![units("bf16", &["amx-bf16"])];
    let half = vec![units("f16", &["amx-fp16", "avx512fp16"])];
    let fast = ratio(0.4, 0.45, 0.5);
    let open = ratio(0.4, 0.55, 0.7);
    let slow = ratio(0.9, 1.0, 1.1);
    for (unused, variant, measured, expected) in [
        (&amx, bf16_mixed(), slow, NotMeasured),
        (&amx, bf16_mixed(), open, NotMeasured),
        (&amx, bf16_mixed(), fast, Confirmed),
        (&amx, fp16_mixed(), slow, Refuted),
        (&half, fp16_mixed(), slow, NotMeasured),
        (&half, bf16_mixed(), slow, Refuted),
        (&vec![], bf16_mixed(), slow, Refuted),
    ] {
        let name = variant.name.clone();
        let mut results = results(vec![fp32(), variant]);
        results.environment.unused_units.clone_from(unused);
        comparison(&mut results.variants).train_time_ratio = Some(measured);
        comparison(&mut results.variants).inference_time_ratio = Some(measured);
        for claim in judge(&results).iter().filter(|claim| claim.id.ends_with("-time")) {
            assert_eq!(claim.verdict, expected, "{} of {name} with {unused:?}", claim.id);
        }
    }
    let mut results = results(vec![fp32(), fp16_mixed()]);
    results.environment.unused_units = half;
    let fill = |results: &mut Results| {
        comparison(&mut results.variants).train_time_ratio = Some(slow);
    };
    assert_eq!(
        missing("train-time", results, fill).as_deref(),
        Some(
            "products of f16 by this processor's own instructions for them (amx-fp16 and avx512fp16), which this version \
             does not use"
        )
    );
}

/// What is missing for `id` of the last variant, after `measure`.
fn missing(id: &str, mut results: Results, measure: impl FnOnce(&mut Results)) -> Option<String> {
    measure(&mut results);
    judge(&results).into_iter().rfind(|claim| claim.id == id)?.missing
}

/// At 8 blocks; in logarithms the far end of the first is twice as far from the point as the threshold is.
#[test]
fn an_open_time_says_how_many_blocks_would_settle_it() {
    for (measured, expected) in [
        (ratio(0.2, 0.25, 1.0), "about 32 timing blocks needed, 8 given"),
        (
            ratio(0.4, 0.499, 0.6),
            "more than 1000 timing blocks needed, 8 given: the ratio is too near the threshold to tell",
        ),
    ] {
        let fill = |results: &mut Results| {
            comparison(&mut results.variants).train_time_ratio = Some(measured);
        };
        let found = missing("train-time", results(vec![fp32(), bf16_mixed()]), fill);
        assert_eq!(found.as_deref(), Some(expected));
    }
}

/// Gives a variant's runs these differences to 0.9, compares it, and keeps as many seeds everywhere.
pub(super) fn differ(results: &mut Results, index: usize, differences: &[f64]) {
    results.plan.seeds.truncate(differences.len());
    for variant in &mut results.variants {
        variant.runs.truncate(differences.len());
    }
    let variant = &mut results.variants[index];
    for (run, difference) in variant.runs.iter_mut().zip(differences) {
        run.test_accuracy = Some(0.9 + difference);
    }
    let margin = results.plan.measure.equivalence_margin;
    let [of, to] = [index, 0].map(|i| test_values(TestMetric::Accuracy, &results.variants[i]));
    let against = results.variants[index].against_baseline.as_mut().unwrap();
    against.accuracy_difference = metric_difference(TestMetric::Accuracy, &of, &to, margin);
}

/// The verdicts as Holm's method leaves them.
pub(super) fn adjusted(mut results: Results) -> Results {
    let against = results.variants.iter_mut().filter_map(|v| v.against_baseline.as_mut());
    let mut differences: Vec<_> =
        against.filter_map(|against| against.accuracy_difference.as_mut()).collect();
    adjust(TestMetric::Accuracy, &mut differences);
    results
}

pub(super) const NOISY: [f64; 6] = [0.02, -0.03, 0.01, -0.015, 0.025, -0.01];

/// 90 is that of the snippets beside the tests of `stats`.
#[test]
fn an_open_accuracy_says_how_many_seeds_would_settle_it() {
    let wild = NOISY.map(|d| d * 10.0);
    for (differences, expected) in [
        (&NOISY[..3], "at least 6 seeds needed, 3 given"),
        (&NOISY, "about 90 seeds needed, 6 given, if the spread stays as it is"),
        (
            &wild,
            "no number of seeds up to 1000 would decide it if the spread stays as it is, 6 given",
        ),
    ] {
        let fill = |results: &mut Results| differ(results, 1, differences);
        let found = missing("accuracy-kept", results(vec![fp32(), fp16_mixed()]), fill);
        assert_eq!(found.as_deref(), Some(expected));
    }
}

/// Of four variants, three of which are still to run: Holm's method will let eight seeds call one worse, not six.
#[test]
fn more_variants_need_more_seeds_to_differ() {
    let worse = [-0.0095, -0.01, -0.009, -0.0105, -0.0085, -0.0095];
    // 11 is that of the snippets beside the tests of `stats`.
    let scattered = [-0.004, 0.0015, -0.006, -0.0025, -0.001, -0.0075];
    for (differences, expected) in [
        (
            &NOISY[..3],
            "at least 6 seeds needed, 8 to call one of 4 variants better or worse, 3 given",
        ),
        (&NOISY, "about 90 seeds needed, 6 given, if the spread stays as it is"),
        (&worse, "at least 8 seeds needed to call one of 4 variants better or worse, 6 given"),
        (&scattered, "about 11 seeds needed, 6 given, if the spread stays as it is"),
    ] {
        let mut results =
            results(vec![fp32(), fp16_mixed(), bf16_mixed(), bf16_true(), fp16_true()]);
        differ(&mut results, 1, differences);
        for variant in &mut results.variants[2..] {
            variant.runs.clear();
        }
        let against = results.variants[1].against_baseline.as_mut().unwrap();
        let difference = against.accuracy_difference.as_mut().unwrap();
        difference.verdict = MetricVerdict::Inconclusive;
        assert_eq!(missing("accuracy-kept", results, |_| ()).as_deref(), Some(expected));
    }
}

#[test]
fn thresholds_are_the_plans_in_words_and_in_judgement() {
    let mut results = results(vec![fp32(), fp16_mixed(), bf16_mixed(), fp16_true()]);
    results.plan.claims = ClaimsPlan {
        train_time: 0.8,
        train_memory: [0.5, 0.7],
        inference_memory: 0.4,
        inference_time: 0.7,
        rarer: 0.25,
        gradient_underflow: 0.3,
    };
    for variant in &mut results.variants {
        if let Some(against) = &mut variant.against_baseline {
            against.train_time_ratio = Some(ratio(0.7, 0.75, 0.8));
            against.train_memory_ratio = Some(Ratio(0.6));
            against.inference_memory_ratio = Some(Ratio(0.5));
            against.inference_time_ratio = Some(ratio(0.6, 0.65, 0.75));
        }
    }
    results.variants[1].numerics = census(10, 10);
    results.variants[2].numerics = census(5, 1);
    results.variants[3].numerics = census(0, 0);
    results.variants[3].numerics.weight_gradients.underflow = 500;
    let judged = judge(&results);
    let of = |id: &str| {
        let claim = judged.iter().find(|claim| claim.id == id).unwrap();
        (claim.verdict, claim.threshold.clone())
    };
    for (id, verdict, threshold) in [
        ("train-time", Confirmed, "step time ÷ FP32's at most 0.8"),
        ("train-memory", Confirmed, "peak training memory ÷ FP32's from 0.5 to 0.7"),
        ("infer-memory", Refuted, "peak inference memory ÷ FP32's at most 0.4"),
        ("infer-time", Inconclusive, "inference time ÷ FP32's at most 0.7"),
        (
            "accuracy-kept",
            NotMeasured,
            "test accuracy − FP32's equivalent within ±0.50 pp, or better, and no run lost",
        ),
        (
            "bf16-robust",
            Inconclusive,
            "overflow and underflow, share of values ÷ FP16's at most 0.25 (refuted from 1 on), and no larger share of \
             steps skipped",
        ),
        ("loss-scaling", Refuted, "underflow, share of gradient values, at least 30%"),
    ] {
        assert_eq!(of(id), (verdict, threshold.to_owned()), "{id}");
    }
}

/// The baseline twice: with the same weights, with other weights, and with other accuracies too.
#[test]
fn weights_that_differ_under_the_same_seed_are_told() {
    let mut results = results(vec![fp32()]);
    assert_eq!(nondeterminism(&results), None);
    let mut result = unmeasured(&fp32());
    result.name = "fp32+same-seeds".to_owned();
    results.controls = vec![Control { kind: ControlKind::SameSeeds, result }];
    assert_eq!(nondeterminism(&results), None);
    let start = "fp32 trained twice with the same seed gave other weights in";
    let runs = |results: &mut Results, digest: &str, seed: usize, accuracy| {
        let run = &mut results.controls[0].result.runs[seed];
        (run.weights_digest, run.test_accuracy) = (Some(digest.to_owned()), Some(accuracy));
        nondeterminism(results).unwrap()
    };
    assert_eq!(
        runs(&mut results, "other", 1, 0.9),
        format!(
            "{start} 1 of 6 seeds: this machine is not deterministic, even if every test accuracy was the same."
        )
    );
    assert_eq!(
        runs(&mut results, "another", 4, 0.897),
        format!(
            "{start} 2 of 6 seeds: this machine is not deterministic, and differences of accuracy up to 0.30 pp say \
             nothing of precision."
        )
    );
}

#[test]
fn memory_is_judged_by_its_range() {
    for (measured, train, inference) in [
        (Some(0.50), Refuted, Confirmed),
        (Some(0.55), Refuted, Confirmed),
        (Some(0.56), Refuted, Refuted),
        (Some(0.89), Refuted, Refuted),
        (Some(0.90), Confirmed, Refuted),
        (Some(1.10), Confirmed, Refuted),
        (Some(1.11), Refuted, Refuted),
        (None, NotMeasured, NotMeasured),
    ] {
        let fill = |variants: &mut [VariantResult]| {
            comparison(variants).train_memory_ratio = measured.map(Ratio);
            comparison(variants).inference_memory_ratio = measured.map(Ratio);
        };
        let variants = || vec![fp32(), fp16_mixed()];
        assert_eq!(verdict("train-memory", variants(), fill), train, "{measured:?}");
        assert_eq!(verdict("infer-memory", variants(), fill), inference, "{measured:?}");
    }
}

#[test]
fn accuracy_is_kept_where_it_is_equivalent_or_better_and_no_run_is_lost() {
    let difference = |verdict| MetricDifference {
        value: 0.001,
        low: Some(-0.001),
        high: Some(0.002),
        p: Some(0.5),
        p_holm: Some(0.5),
        probability_better: Some(0.5),
        pairs: 6,
        verdict,
    };
    for (measured, diverged, expected) in [
        (Some(Equivalent), 0, Confirmed),
        (Some(Better), 0, Confirmed),
        (Some(Better), 1, Inconclusive),
        (Some(Worse), 0, Refuted),
        (Some(Worse), 6, Refuted),
        (Some(MetricVerdict::Inconclusive), 0, Inconclusive),
        (Some(MetricVerdict::Inconclusive), 2, Inconclusive),
        (None, 0, NotMeasured),
    ] {
        let fill = |variants: &mut [VariantResult]| {
            comparison(variants).accuracy_difference = measured.map(difference);
            for run in &mut variants[1].runs[..diverged] {
                run.status = Status::Diverged;
            }
        };
        let judged = verdict("accuracy-kept", vec![fp32(), fp16_mixed()], fill);
        assert_eq!(judged, expected, "{measured:?}, {diverged} diverged");
    }
}

/// Counts of 1,000 values in each role, all of what left the range in the activations.
fn census(overflow: u64, underflow: u64) -> Numerics {
    let quiet = Counts { elements: 1000, ..Counts::default() };
    Numerics {
        weights: quiet,
        activations: Counts { overflow, underflow, ..quiet },
        activation_gradients: quiet,
        weight_gradients: quiet,
        updates: UpdateCounts::default(),
        gradients: GradientCounts::default(),
        skipped_steps: 0,
        evidence: Evidence::default(),
    }
}

#[test]
fn bf16_is_robust_where_it_leaves_its_range_half_as_often() {
    let nothing = Numerics::default();
    for (fp16, bf16, bf16_skips, expected) in [
        (census(10, 10), census(0, 0), 0, Confirmed),
        (census(10, 10), census(5, 5), 0, Confirmed),
        (census(10, 10), census(5, 5), 1, Inconclusive),
        (census(10, 10), census(5, 6), 0, Inconclusive),
        (census(10, 10), census(20, 0), 0, Refuted),
        (census(0, 0), census(0, 1), 0, Refuted),
        (census(0, 0), census(0, 0), 0, Inconclusive),
        (nothing, census(0, 0), 0, NotMeasured),
        (census(10, 10), nothing, 0, NotMeasured),
    ] {
        let fill = |variants: &mut [VariantResult]| {
            variants[0].numerics = fp16;
            variants[1].numerics = bf16;
            variants[1].runs[0].skipped_steps = bf16_skips;
        };
        for pair in [[fp16_mixed(), bf16_mixed()], [fp16_true(), bf16_true()]] {
            assert_eq!(verdict("bf16-robust", pair.to_vec(), fill), expected, "{bf16:?}");
        }
    }
    let alone = verdict("bf16-robust", vec![fp16_true(), bf16_mixed()], |_| ());
    assert_eq!(alone, NotMeasured);
}

/// Numbers by their definitions: shares of 2,000 values of settled steps, and of the steps that are left.
#[test]
fn bf16_is_judged_by_rejected_steps_too_and_not_by_a_scale_that_settles() {
    let seen = |settling_overflow, overflow, settling_steps, skipped_steps| {
        let counts = |overflow| Counts { elements: 2000, overflow, ..Counts::default() };
        let evidence = Evidence {
            census_steps: 6,
            rejected_steps: 6,
            settling_steps,
            settling: counts(settling_overflow),
            settled: counts(overflow),
        };
        (Numerics { evidence, ..census(settling_overflow, 0) }, skipped_steps)
    };
    for (fp16, bf16, expected) in [
        // A rejected step between the census steps overflowed.
        (seen(0, 12, 0, 0), seen(0, 0, 0, 0), Confirmed),
        (seen(0, 12, 0, 0), seen(0, 12, 0, 0), Refuted),
        // Only the start of the loss scale overflowed.
        (seen(121, 0, 12, 12), seen(0, 0, 0, 0), Inconclusive),
        // No step that was counted overflowed, but steps were skipped.
        (seen(121, 0, 12, 20), seen(0, 0, 0, 0), Confirmed),
        (seen(121, 0, 12, 20), seen(0, 0, 0, 8), Inconclusive),
        (seen(121, 0, 12, 12), seen(0, 0, 0, 1), Refuted),
    ] {
        let fill = |variants: &mut [VariantResult]| {
            for (variant, (numerics, skipped)) in variants.iter_mut().zip([fp16, bf16]) {
                variant.numerics = numerics;
                variant.runs[0].skipped_steps = skipped;
            }
        };
        let pair = vec![fp16_mixed(), bf16_mixed()];
        assert_eq!(verdict("bf16-robust", pair, fill), expected, "{fp16:?} {bf16:?}");
    }
}

#[test]
fn master_weights_matter_where_updates_and_accuracy_are_lost_without() {
    let updates =
        |lost| Numerics { updates: UpdateCounts { elements: 1000, lost }, ..Numerics::default() };
    let worse = [0.80, 0.81, 0.79, 0.82, 0.78, 0.80];
    for (lost_with, lost_without, accuracies, expected) in [
        (1, 300, worse, Confirmed),
        (300, 300, worse, Refuted),
        (1, 300, [0.9; 6], Refuted),
        (1, 300, [0.8, 0.95, 0.85, 0.93, 0.92, 0.83], Inconclusive),
    ] {
        let fill = |variants: &mut [VariantResult]| {
            variants[0].numerics = updates(lost_with);
            variants[1].numerics = updates(lost_without);
            for (run, accuracy) in variants[1].runs.iter_mut().zip(accuracies) {
                run.test_accuracy = Some(accuracy);
            }
        };
        let judged = verdict("master-weights", vec![bf16_mixed(), bf16_true()], fill);
        assert_eq!(judged, expected, "{lost_with} {lost_without} {accuracies:?}");
    }
    for pair in [[bf16_mixed(), bf16_true()], [fp16_mixed(), bf16_true()]] {
        assert_eq!(verdict("master-weights", pair.to_vec(), |_| ()), NotMeasured);
    }
}

#[test]
fn gradients_underflow_from_one_in_a_hundred_on() {
    for (underflow, expected) in [(20, Confirmed), (19, Refuted), (0, Refuted)] {
        let fill = |variants: &mut [VariantResult]| {
            variants[0].numerics = census(0, 500);
            variants[0].numerics.weight_gradients.underflow = underflow;
        };
        assert_eq!(verdict("loss-scaling", vec![fp16_true()], fill), expected, "{underflow}");
    }
    assert_eq!(verdict("loss-scaling", vec![fp16_true()], |_| ()), NotMeasured);
}

#[test]
fn every_claim_is_listed_whatever_the_variants() {
    let listed = |variants: Vec<VariantPlan>| -> Vec<String> {
        let judged = judge(&results(variants));
        judged.iter().map(|claim| format!("{} {}", claim.id, claim.variant)).collect()
    };
    let none = [
        "train-time ",
        "train-memory ",
        "infer-memory ",
        "infer-time ",
        "accuracy-kept ",
        "bf16-robust ",
        "master-weights ",
        "loss-scaling ",
    ];
    assert_eq!(listed(vec![fp32()]), none);
    let all = [
        "train-time fp16-mixed",
        "train-time bf16-mixed",
        "train-memory fp16-mixed",
        "train-memory bf16-mixed",
        "infer-memory fp16-mixed",
        "infer-memory bf16-mixed",
        "infer-memory fp16-true",
        "infer-memory bf16-true",
        "infer-time fp16-mixed",
        "infer-time bf16-mixed",
        "infer-time fp16-true",
        "infer-time bf16-true",
        "accuracy-kept fp16-mixed",
        "bf16-robust bf16-mixed",
        "bf16-robust bf16-true",
        "master-weights fp16-true",
        "master-weights bf16-true",
        "loss-scaling fp16-true",
    ];
    let named = vec![fp32(), fp16_mixed(), bf16_mixed(), fp16_true(), bf16_true()];
    assert_eq!(listed(named), all);
}

#[test]
fn a_baseline_other_than_fp32_settles_nothing() {
    let mut results = results(vec![bf16_true(), bf16_mixed()]);
    results.plan.baseline = "bf16-true".to_owned();
    comparison(&mut results.variants).train_time_ratio = Some(ratio(0.3, 0.3, 0.3));
    let judged = judge(&results);
    let claim = judged.iter().find(|claim| claim.id == "train-time").unwrap();
    assert_eq!(claim.verdict, NotMeasured);
    assert_eq!(claim.missing.as_deref(), Some("an fp32 baseline"));
}

#[test]
fn diverged_runs_keep_their_place() {
    let mut variant = unmeasured(&fp32());
    variant.runs.truncate(4);
    for (run, (status, accuracy)) in variant.runs.iter_mut().zip([
        (Status::Completed, Some(0.9)),
        (Status::Diverged, Some(0.1)),
        (Status::Diverged, None),
        (Status::Failed, Some(0.5)),
    ]) {
        (run.status, run.test_accuracy) = (status, accuracy);
    }
    assert_eq!(test_values(TestMetric::Accuracy, &variant), [(0, 0.9), (1, 0.1), (2, 0.0)]);
}
