//! Judgements of results made by hand, by tables of what is changed in them.

use super::baseline::Baseline;
use super::exact::ACCEPT;
use super::export::Format;
use super::judge::{Asked, Judgement, Outcome, Verdict, judge};
use super::metric::Measured;
use crate::record::{
    Agreement, Control, Counts, DataFacts, Environment, Estimate, Inference, Memory, Numerics,
    Point, Results, RunSummary, SCHEMA, ServedBatch, Serving, Status, TestMetric, TrainTime,
    UpdateCounts, VariantResult, Work,
};
use crate::spec::{self, ControlKind, Overrides, Plan};
use crate::units::{Bytes, Flops, Seconds};

/// Two variants of two seeds, each with all metrics.
pub(super) fn results() -> Results {
    let set = ["variants=[\"fp32\", \"bf16-mixed\"]", "measure.timing_blocks=12"];
    let overrides =
        Overrides { set: set.map(str::to_owned).into(), seeds: Some(2), ..Overrides::default() };
    let plan = Plan::read("default.toml", spec::DEFAULT, &overrides).unwrap();
    let variants = vec![variant("fp32", 0.010, 0), variant("bf16-mixed", 0.006, 7)];
    Results {
        schema: SCHEMA,
        experiment: plan.name.clone(),
        complete: true,
        plan,
        engine: crate::record::Engine::Mantissa,
        environment: environment(),
        data: Some(DataFacts { digest: "d".repeat(64), ..DataFacts::default() }),
        metric: TestMetric::Accuracy,
        machines: Vec::new(),
        machine_kind: None,
        other_kinds: Vec::new(),
        variants,
        claims: Vec::new(),
        controls: Vec::new(),
        other_load: None,
        recommendation: None,
        reference: None,
    }
}

fn environment() -> Environment {
    let paths = ["f32: FMA of AVX2", "f16: widened to f32", "bf16: widened to f32"];
    Environment {
        device: "cpu".to_owned(),
        device_name: "Example (family 6, model 1)".to_owned(),
        threads: 2,
        logical_cpus: 2,
        product_paths: paths.map(str::to_owned).into(),
        os: "Linux 6, x86_64".to_owned(),
        version: "0.1.0".to_owned(),
        git: Some("abc".to_owned()),
        build: "rustc 1.95.0, release".to_owned(),
        ..Environment::default()
    }
}

fn variant(name: &str, step: f64, lost: u64) -> VariantResult {
    let counts =
        |overflow, underflow| Counts { elements: 1000, overflow, underflow, ..Counts::default() };
    VariantResult {
        name: name.to_owned(),
        policy: name.to_owned(),
        emulated: false,
        runs: vec![run(name, 0, 0.96), run(name, 1, 0.95)],
        train: Some(train(step)),
        untimed: None,
        inference: Some(Inference {
            batch_seconds: None,
            batch: 256,
            peak_bytes: Some(Bytes(4_000_000)),
            weights: Bytes(2_000_000),
            blocks: blocks(step / 4.0),
        }),
        serving: None,
        memory: Some(Memory { peak_bytes: Bytes(10_000_000), ..Memory::default() }),
        numerics: Numerics {
            weights: counts(0, 1),
            activations: counts(2, 3),
            activation_gradients: counts(4, 5),
            weight_gradients: counts(0, 0),
            updates: UpdateCounts { elements: 1000, lost },
            ..Numerics::default()
        },
        against_baseline: None,
    }
}

fn run(name: &str, seed: u64, accuracy: f64) -> RunSummary {
    RunSummary {
        seed,
        status: Status::Completed,
        test_accuracy: Some(accuracy),
        test_squared_error: None,
        test_perplexity: None,
        final_loss: Some(0.25),
        steps: 100,
        skipped_steps: 0,
        weights_digest: Some(format!("{name}-{seed}-0123456789")),
        failure: None,
    }
}

pub(super) fn train(step: f64) -> TrainTime {
    fn one<T: Copy>(value: T) -> Estimate<T> {
        Estimate { value, low: value, high: value }
    }
    TrainTime {
        step_seconds: one(Seconds(step)),
        samples_per_second: one(1.0),
        phases: None,
        work: Some(Work {
            operations: 1,
            rate: one(Flops(1.0)),
            peak: Flops(1e11),
            share_of_peak: Point::of(0.5),
        }),
        gpu: None,
        blocks: blocks(step),
    }
}

/// Twelve times about this one, with a ripple of 1 %.
fn blocks(time: f64) -> Vec<Seconds> {
    (0..12).map(|i| Seconds(time * (1.0 + 0.01 * f64::from(i % 3)))).collect()
}

/// A judgement by a baseline of unchanged results.
pub(super) fn judged(results: &Results) -> Judgement {
    judge(&Baseline::of(&self::results(), ""), results, &Asked::default())
}

/// Asserts what becomes of one metric, and that every other one passes.
#[track_caller]
pub(super) fn check_one(judgement: &Judgement, key: &str, verdict: &Verdict, why: &str) {
    for finding in &judgement.findings {
        if finding.key.to_string() == key {
            assert_eq!((&finding.verdict, finding.why.as_str()), (verdict, why), "{key}");
        } else {
            assert_eq!(finding.verdict, Verdict::Passed, "{}: {}", finding.key, finding.why);
        }
    }
    assert!(judgement.findings.iter().any(|finding| finding.key.to_string() == key), "{key}");
}

#[test]
fn results_pass_by_themselves() {
    let judgement = judged(&results());
    assert_eq!(judgement.outcome(), Outcome::Fine);
    // By variant: 5 of each of 2 seeds, 8 counts of roles, lost updates, 2 of memory, 2 of time; and 2 ratios of one.
    let expected =
        "48 metrics judged: 48 passed, 0 failed, 0 inconclusive, 0 allowed; 0 not judged";
    assert_eq!(judgement.summary(), expected);
}

/// What becomes of changed results, and why: a change, the metric that it moves, and what is said of that. All others pass.
type Row = (fn(&mut Results), &'static str, String);

#[track_caller]
fn check_failures(rows: &[Row]) {
    for (change, key, why) in rows {
        let mut results = results();
        change(&mut results);
        let judgement = judged(&results);
        check_one(&judgement, key, &Verdict::Failed, why);
        assert_eq!(judgement.outcome(), Outcome::Regression, "{key}");
    }
}

/// What is said of a change that may have been meant.
fn meant(what: &str) -> String {
    format!("{what}; {ACCEPT}")
}

/// What is said of an improvement.
fn surprise(what: &str) -> String {
    meant(&format!("{what}: better than the baseline, which was not expected"))
}

#[test]
fn an_exact_metric_of_a_run_fails_in_either_direction() {
    check_failures(&[
        (
            |r| r.variants[0].runs[1].test_accuracy = Some(0.949),
            "fp32/test_accuracy/seed-1",
            meant("was 0.95, is 0.949 (less by 0.1%): worse"),
        ),
        (
            |r| r.variants[0].runs[1].test_accuracy = Some(0.951),
            "fp32/test_accuracy/seed-1",
            surprise("was 0.95, is 0.951 (more by 0.1%)"),
        ),
        (
            |r| r.variants[1].runs[0].final_loss = Some(0.25 + 1e-9),
            "bf16-mixed/final_loss/seed-0",
            meant("was 0.25, is 0.250000001 (more by 4.0e-7%): worse"),
        ),
        (
            |r| r.variants[1].runs[0].final_loss = None,
            "bf16-mixed/final_loss/seed-0",
            "was 0.25, and is not a finite number now".to_owned(),
        ),
        (
            |r| r.variants[0].runs[0].weights_digest = Some("other".to_owned()),
            "fp32/weights_digest/seed-0",
            meant("was fp32-0-01234…, is other…: training computes something else"),
        ),
        (
            |r| r.variants[0].runs[0].status = Status::Diverged,
            "fp32/diverged/seed-0",
            meant("was 0, is 1 (the baseline has 0): worse"),
        ),
        (
            |r| r.variants[0].runs[0].skipped_steps = 3,
            "fp32/skipped_steps/seed-0",
            meant("was 0, is 3 (the baseline has 0): worse"),
        ),
    ]);
}

#[test]
fn an_exact_metric_of_a_variant_fails_in_either_direction() {
    check_failures(&[
        (
            |r| r.variants[1].numerics.activation_gradients.underflow = 4,
            "bf16-mixed/underflow_activation_gradients",
            surprise("was 5, is 4 (less by 20.0%)"),
        ),
        (
            |r| r.variants[1].numerics.activations.overflow = 3,
            "bf16-mixed/overflow_activations",
            meant("was 2, is 3 (more by 50.0%): worse"),
        ),
        (
            |r| r.variants[1].numerics.updates.lost = 8,
            "bf16-mixed/lost_updates",
            meant("was 7, is 8 (more by 14.3%): worse"),
        ),
        (
            |r| r.variants[1].memory = None,
            "bf16-mixed/train_peak_bytes",
            "is missing: the baseline has 9.54 MiB (10,000,000 bytes), and these results have none"
                .to_owned(),
        ),
        // A copy of two million bytes of weights.
        (
            |r| {
                r.variants[1].memory =
                    Some(Memory { peak_bytes: Bytes(12_000_000), ..Memory::default() });
            },
            "bf16-mixed/train_peak_bytes",
            meant(
                "was 9.54 MiB (10,000,000 bytes), is 11.4 MiB (12,000,000 bytes) (more by 20.0%): worse",
            ),
        ),
    ]);
}

#[test]
fn bytes_may_move_by_their_margin() {
    let mut results = results();
    results.variants[0].memory =
        Some(Memory { peak_bytes: Bytes(10_010_000), ..Memory::default() });
    let judgement = judged(&results);
    check_one(&judgement, "fp32/train_peak_bytes", &Verdict::Passed, "within 0.1% of the baseline");
}

/// Changes of a baseline, the metric that each makes incomparable, and what is said of that.
const INCOMPARABLE: [(fn(&mut Baseline), &str, &str); 7] = [
    (
        |b| drop(b.metrics.remove("fp32/lost_updates")),
        "fp32/lost_updates",
        "is new: the baseline does not have it; accept a new baseline to judge it from then on",
    ),
    (
        |b| drop(b.metrics.insert("fp32/final_loss/seed-0".to_owned(), Measured::NotFinite)),
        "fp32/final_loss/seed-0",
        "is not a finite number in the baseline, and nothing is more or less than that; it is 0.25 now",
    ),
    (
        |b| {
            let text = Measured::Text("x".to_owned());
            b.metrics.insert("fp32/final_loss/seed-0".to_owned(), text);
        },
        "fp32/final_loss/seed-0",
        "is x in the baseline, which is no value that it can have",
    ),
    (
        |b| {
            times(b).insert("bf16-mixed/inference_seconds".to_owned(), vec![0.0; 12]);
        },
        "bf16-mixed/inference_seconds",
        "is 0 in the baseline in one block or more, and nothing is so many times that; accept a new baseline",
    ),
    (
        |b| times(b).insert("bf16-mixed/step_seconds".to_owned(), vec![1.0; 11]).map_or((), drop),
        "bf16-mixed/step_seconds",
        "has 11 blocks in the baseline and 12 now",
    ),
    (|b| b.machines.clear(), "fp32/step_seconds", "the baseline has no times"),
    (
        |b| b.machines.values_mut().for_each(|times| times.machine.threads = 4),
        "fp32/step_seconds",
        "the baseline has no times of this machine, but of 1 machine: the number of threads is 4 there, 2 here; \
             times of two versions on one machine compare anywhere",
    ),
];

/// Each in its own words, and none passes for want of something to compare with.
#[test]
fn what_cannot_be_compared_says_so() {
    for (change, key, why) in INCOMPARABLE {
        let mut baseline = Baseline::of(&results(), "");
        change(&mut baseline);
        let judgement = judge(&baseline, &results(), &Asked::default());
        let finding = judgement.findings.iter().find(|finding| finding.key.to_string() == key);
        let finding = finding.unwrap();
        assert_eq!((&finding.verdict, finding.why.as_str()), (&Verdict::NotJudged, why), "{key}");
        assert_eq!(judgement.counts().failed, 0);
        assert_eq!(judgement.outcome(), Outcome::Fine);
    }
}

fn times(baseline: &mut Baseline) -> &mut std::collections::BTreeMap<String, Vec<f64>> {
    &mut baseline.machines.values_mut().next().unwrap().blocks
}

#[test]
fn another_plan_or_other_data_is_not_compared_at_all() {
    type Change = fn(&mut Results);
    let rows: [(Change, &str); 2] = [
        (
            |r| r.plan.train.steps = 99,
            "the baseline is of another plan: train.steps is 100 there, 99 here",
        ),
        (|r| r.data = None, "the baseline learnt from other data: their digests differ"),
    ];
    for (change, why) in rows {
        let mut results = results();
        change(&mut results);
        let judgement = judged(&results);
        assert_eq!(judgement.notes, [why]);
        assert_eq!(judgement.outcome(), Outcome::NothingJudged);
        let expected =
            "0 metrics judged: 0 passed, 0 failed, 0 inconclusive, 0 allowed; 0 not judged";
        assert_eq!(judgement.summary(), expected);
    }
}

#[test]
fn formats_whose_products_run_alike_are_compared_and_the_others_told() {
    let mut results = results();
    results.environment.product_paths[2] = "bf16: AMX-BF16".to_owned();
    results.variants[1].numerics.updates.lost = 99;
    let judgement = judged(&results);
    let why = "products of bf16 run as \"widened to f32\" there, as \"AMX-BF16\" here";
    for finding in &judgement.findings {
        let is_exact = finding.key.metric.kind() == super::metric::Kind::Exact;
        match finding.key.variant.as_str() {
            "fp32" if is_exact => assert_eq!(finding.verdict, Verdict::Passed, "{}", finding.key),
            _ => assert_eq!(finding.verdict, Verdict::NotJudged, "{}", finding.key),
        }
        assert!(finding.key.variant == "fp32" || !is_exact || finding.why == why);
    }
    // Another instruction path for f32 leaves nothing.
    results.environment.product_paths[0] = "f32: portable".to_owned();
    assert_eq!(judged(&results).outcome(), Outcome::NothingJudged);
}

#[test]
fn a_machine_that_is_not_deterministic_has_no_exact_values_but_bytes() {
    let mut results = results();
    let mut again = results.variants[0].clone();
    again.runs[0].weights_digest = Some("other".to_owned());
    results.controls = vec![Control { kind: ControlKind::SameSeeds, result: again }];
    let judgement = judged(&results);
    for finding in judgement.findings.iter().filter(|f| f.key.metric.follows_from_values()) {
        assert_eq!(finding.verdict, Verdict::NotJudged, "{}", finding.key);
    }
    let bytes = judgement.findings.iter().filter(|f| f.key.metric.unit() == "bytes");
    assert!(bytes.clone().count() == 4 && bytes.into_iter().all(|f| f.verdict == Verdict::Passed));
}

#[test]
fn what_is_allowed_passes_with_its_reason_and_what_is_not_needed_is_told() {
    let mut results = results();
    results.variants[1].numerics.updates.lost = 8;
    let allowed = ["lost_updates=new optimizer", "fp32/final_loss=habit"];
    let allowed = allowed.map(|text| text.parse().unwrap());
    let asked = Asked { allowed: &allowed, ..Asked::default() };
    let judgement = judge(&Baseline::of(&self::results(), ""), &results, &asked);
    assert_eq!(judgement.outcome(), Outcome::Fine);
    let only: Vec<String> =
        judgement.with("allowed").map(super::judge::Finding::sentence).collect();
    assert_eq!(only.len(), 1);
    assert!(only[0].ends_with("— allowed: new optimizer"), "{only:?}");
    let note = "--allow fp32/final_loss=habit: nothing failed that it names, so it can go.";
    assert_eq!(judgement.notes, [note]);
    for format in Format::NAMES.map(|(format, _)| format) {
        let text = format.render(&judgement).unwrap();
        let numbers_only = matches!(format, Format::Bencher | Format::OpenMetrics);
        assert!(numbers_only || text.contains("new optimizer"), "{format}: {text}");
    }
    let slip: super::Allowance = "fp16-mixed/lost_updates=x".parse().unwrap();
    let error = slip.check(&judgement).unwrap_err().to_string();
    let expected = "--allow fp16-mixed/lost_updates: no such variant or seed; judged are, among others: \
                    bf16-mixed/lost_updates, fp32/lost_updates";
    assert_eq!(error, expected);
}

/// Both variants, served: the second as fast as the first in prefill, and twice as fast in decode.
fn served() -> Results {
    let mut results = results();
    for (variant, decode) in results.variants.iter_mut().zip([0.004, 0.002]) {
        let batches = [1, 8].map(|batch| ServedBatch {
            batch,
            prefill_tokens_per_second: Estimate { value: 1.0, low: 1.0, high: 1.0 },
            decode_tokens_per_second: Estimate { value: 1.0, low: 1.0, high: 1.0 },
            peak_bytes: Some(Bytes(1_000_000 * batch as u64)),
            cache: Bytes(1000),
            prefill_blocks: blocks(0.008),
            decode_blocks: blocks(decode),
            against_baseline: None,
        });
        let equal_tokens = Estimate { value: 0.75, low: 0.5, high: 1.0 };
        let kl_divergence = Some(Estimate { value: 0.125, low: 0.0, high: 0.25 });
        let agreement = Agreement { prompts: 8, tokens: 16, equal_tokens, kl_divergence };
        variant.serving = Some(Serving { batches: batches.into(), agreement: Some(agreement) });
    }
    results
}

#[test]
fn serving_is_judged_by_its_times_memory_and_tokens() {
    let old = served();
    let baseline = Baseline::of(&old, "");
    for (key, value) in [
        ("bf16-mixed/token_agreement", Measured::Number(0.75)),
        ("bf16-mixed/token_divergence_nats", Measured::Number(0.125)),
        ("bf16-mixed/serving_alone_peak_bytes", Measured::Count(1_000_000)),
        ("bf16-mixed/serving_batch_peak_bytes", Measured::Count(8_000_000)),
    ] {
        assert_eq!(baseline.metrics.get(key), Some(&value), "{key}");
    }
    let medians = super::Times::of(&old).medians("fp32");
    let ratio =
        medians.iter().find(|(key, _)| key.to_string() == "bf16-mixed/serving_batch_decode_ratio");
    assert_eq!(ratio.map(|(_, value)| value), Some(&Measured::Number(0.5)));

    let judged = |results: &Results| judge(&baseline, results, &Asked::default());
    assert!(judged(&old).findings.iter().all(|finding| finding.verdict == Verdict::Passed));
    let mut less = served();
    let serving = less.variants[1].serving.as_mut().unwrap();
    serving.agreement.as_mut().unwrap().equal_tokens.value = 0.5;
    let why = format!("was 0.75, is 0.5 (less by 33.3%): worse; {ACCEPT}");
    check_one(&judged(&less), "bf16-mixed/token_agreement", &Verdict::Failed, &why);
    let mut slower = served();
    let serving = slower.variants[1].serving.as_mut().unwrap();
    serving.batches[1].decode_blocks = blocks(0.003);
    let judgement = judged(&slower);
    for name in ["serving_batch_decode_seconds", "serving_batch_decode_ratio"] {
        let key = format!("bf16-mixed/{name}");
        let finding = judgement.findings.iter().find(|f| f.key.to_string() == key).unwrap();
        assert_ne!(finding.verdict, Verdict::Passed, "{key}: {}", finding.why);
    }
}
