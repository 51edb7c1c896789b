//! Tests of numbers that no measurement gives.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;
use crate::record::{Gpu, GpuLoad, PromptAgreement, Results, RunRecord};
use crate::report::figure::{self, Figure};
use crate::report::load::parse;
use crate::report::table::Table;
use crate::report::theme::Theme;
use crate::report::{Loaded, Report, csv, draw, fixture, interactive, latex, markdown, terminal};
use crate::units::Bytes;

/// The value at a place such as `/variants/1/memory/optimizer`, replaced.
fn with(whole: &Value, place: &str, value: &Value) -> Value {
    let mut changed = whole.clone();
    *changed.pointer_mut(place).unwrap() = value.clone();
    changed
}

fn parsed<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn whole() -> Value {
    let mut results = fixture::loaded().results;
    // Everything that can be there is there.
    results.environment.gpu = Some(Gpu {
        memory_total: Some(Bytes(80 << 30)),
        power_limit_watts: Some(700.0),
        ..Default::default()
    });
    let train = results.variants[1].train.as_mut().unwrap();
    train.gpu =
        Some(GpuLoad { step_joules: Some(0.5), power_watts: Some(300.0), ..Default::default() });
    results.variants[1].memory.as_mut().unwrap().work_space = Some(Bytes(1 << 10));
    if let Some(advice) = &mut results.recommendation {
        advice.more_seeds = Some(3);
    }
    serde_json::to_value(results).unwrap()
}

/// What is wrong with a file of this content.
fn refusal(file: &Value) -> String {
    numbers(&mut file.clone()).unwrap_err()
}

#[test]
fn what_was_measured_is_accepted() {
    let bytes = whole().to_string().into_bytes();
    assert_eq!(parse::<Results>(&bytes), Ok(parsed(&whole())));
    for run in fixture::loaded().records {
        assert_eq!(parse::<RunRecord>(&serde_json::to_vec(&run).unwrap()), Ok(run));
    }
}

/// No rule is about a number that files do not have.
#[test]
fn every_rule_is_about_a_number_of_the_files() {
    let mut run = fixture::loaded().records.swap_remove(3);
    run.settling_census = run.census.clone();
    run.rejected_census = run.census.clone();
    run.evaluations = vec![crate::record::Evaluation {
        step: 1,
        accuracy: Some(0.5),
        squared_error: Some(0.25),
        perplexity: Some(2.0),
        loss: Some(1.0),
    }];
    run.summary.test_squared_error = Some(0.25);
    run.summary.test_perplexity = Some(2.0);
    let mut variant = whole()["variants"][1].clone();
    let against = &mut variant["against_baseline"];
    against["squared_error_difference"] = against["accuracy_difference"].clone();
    against["perplexity_difference"] = against["accuracy_difference"].clone();
    run.agreement = vec![PromptAgreement { equal_tokens: 3, tokens: 4, kl_divergence: Some(0.1) }];
    let ratio = json!({ "value": 0.5, "low": 0.4, "high": 0.6 });
    let served = json!({
        "prefill_tokens_per_second": ratio, "decode_tokens_per_second": ratio, "peak_bytes": 2, "cache": 1,
        "prefill_blocks": [0.5], "decode_blocks": [0.5],
        "against_baseline": { "prefill_time_ratio": ratio, "decode_time_ratio": ratio, "memory_ratio": 0.5 },
    });
    let agreement = json!({ "equal_tokens": ratio, "kl_divergence": ratio });
    variant["serving"] = json!({ "batches": [served], "agreement": agreement });
    let mut kinds = BTreeSet::new();
    let run = serde_json::to_value(run).unwrap();
    for (file, name) in [(&variant, "variants"), (&run, "run")] {
        let mut places = Vec::new();
        places_of_numbers(file, name, &mut places);
        kinds.extend(places.into_iter().map(|place| place.replace("/0", "").replace('/', ".")));
    }
    for (rule, ..) in RANGES {
        let has = |kind: &String| {
            let estimates = ["", ".value", ".low", ".high"];
            estimates.iter().any(|end| format!(".{kind}").ends_with(&format!(".{rule}{end}")))
        };
        assert!(kinds.iter().any(has), "{rule}");
    }
    for (part, whole) in AT_MOST {
        let above = |kind: &String| kind.strip_suffix(part).map(|above| format!("{above}{whole}"));
        assert!(kinds.iter().filter_map(above).any(|kind| kinds.contains(&kind)), "{part}");
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn a_number_that_cannot_be_is_refused_with_its_place() {
    for (place, value, why) in [
        (
            "train/phases/data",
            json!(1e15),
            "train.phases.data is 1000000000000000, outside 0 to 32000000",
        ),
        (
            "train/step_seconds/value",
            json!(0.0),
            "train.step_seconds.value is 0, outside 1e-12 to 32000000",
        ),
        ("train/step_seconds/low", json!(5), "train.step_seconds.low is 5, above its high of"),
        ("train/blocks/3", json!(-1.0), "train.blocks[3] is -1, outside"),
        (
            "train/work/operations",
            json!(u64::MAX),
            "train.work.operations is 1.8446744073709552e19,",
        ),
        (
            "train/work/share_of_peak/value",
            json!(1e300),
            "train.work.share_of_peak.value is 1e300,",
        ),
        ("train/gpu/power_watts", json!(-1.0), "train.gpu.power_watts is -1,"),
        (
            "memory/optimizer",
            json!(1_000_000_000_000_u64),
            "memory.optimizer is 1000000000000, above its peak_bytes of",
        ),
        (
            "memory/peak_bytes",
            json!(u64::MAX),
            "memory.peak_bytes is 1.8446744073709552e19, outside",
        ),
        ("inference/batch_seconds/high", json!(1e15), "inference.batch_seconds.high is"),
        (
            "inference/weights",
            json!(1_u64 << 40),
            "inference.weights is 1099511627776, above its peak_bytes of",
        ),
        (
            "against_baseline/train_time_ratio/value",
            json!(-1.0),
            "against_baseline.train_time_ratio.value is -1,",
        ),
        (
            "against_baseline/train_memory_ratio",
            json!(1e300),
            "against_baseline.train_memory_ratio is 1e300,",
        ),
        (
            "against_baseline/accuracy_difference/value",
            json!(1.5),
            "against_baseline.accuracy_difference.value is 1.5, outside -1 to 1",
        ),
        (
            "against_baseline/accuracy_difference/p",
            json!(-1.0),
            "against_baseline.accuracy_difference.p is -1,",
        ),
        (
            "numerics/activations/overflow",
            json!(2_400_001),
            "numerics.activations.overflow is 2400001, above its elements of 2400000",
        ),
        ("numerics/updates/lost", json!(u64::MAX), "numerics.updates.lost is"),
        ("numerics/gradients/nan", json!(u64::MAX), "numerics.gradients.nan is"),
        ("runs/1/test_accuracy", json!(2), "runs[1].test_accuracy is 2, outside 0 to 1"),
        ("runs/1/steps", json!(u64::MAX), "runs[1].steps is"),
        (
            "runs/1/skipped_steps",
            json!(241),
            "runs[1].skipped_steps is 241, above its steps of 240",
        ),
    ] {
        let why_not = refusal(&with(&whole(), &format!("/variants/1/{place}"), &value));
        let expected = format!("variants[1].{why}");
        assert!(why_not.starts_with(&expected), "{place}: {why_not}");
    }
    let control = with(&whole(), "/controls/0/result/runs/0/test_accuracy", &json!(-0.5));
    assert_eq!(
        refusal(&control),
        "controls[0].result.runs[0].test_accuracy is -0.5, outside 0 to 1"
    );
}

#[test]
fn a_number_of_a_record_that_cannot_be_is_refused_with_its_place() {
    let record = serde_json::to_value(fixture::loaded().records.swap_remove(3)).unwrap();
    for (place, value, why) in [
        ("/loss/7", json!(-1.0), "loss[7] is -1, outside -0.01 to 3.5e38"),
        ("/scale/1/1", json!(1e300), "scale[1][1] is 1e300, outside 0 to 3.5e38"),
        (
            "/skips/0/step",
            json!(u64::MAX),
            "skips[0].step is 1.8446744073709552e19, outside 0 to 1000000000",
        ),
        (
            "/census/1/counts/nan",
            json!(3_000_001),
            "census[1].counts.nan is 3000001, above its elements of 3000000",
        ),
        (
            "/census/2/exponents/first",
            json!(i32::MAX),
            "census[2].exponents.first is 2147483647, outside -1100 to 1100",
        ),
        ("/summary/test_accuracy", json!(-1.0), "summary.test_accuracy is -1, outside 0 to 1"),
    ] {
        assert_eq!(refusal(&with(&record, place, &value)), why);
    }
}

/// The places of the numbers below `value`, of lists the first item's alone.
fn places_of_numbers(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Number(_) => found.push(place.to_owned()),
        Value::Array(items) => {
            if let Some(first) = items.first() {
                places_of_numbers(first, &format!("{place}/0"), found);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                places_of_numbers(field, &format!("{place}/{name}"), found);
            }
        }
        _ => (),
    }
}

fn extremes() -> [Value; 7] {
    [json!(1e15), json!(1e300), json!(-1), json!(-1.0), json!(1e-300), json!(0), json!(u64::MAX)]
}

/// Bytes of everything that a report writes as text: each line, dash and hatch of a drawing is among them.
fn written(experiment: &Loaded) -> usize {
    let experiments = [experiment.clone()];
    let report = Report::of(&experiments);
    let figures = figure::all(&report.table);
    let drawn: usize =
        figures.iter().map(|figure| drawn(figure) + interactive::json(figure).len()).sum();
    csv::render(&report.table).unwrap().len()
        + latex::render(&report.table).len()
        + markdown::render(&report, &figures).len()
        + terminal(&experiment.results, crate::report::Verbosity::Full, 140).len()
        + drawn
}

/// The bytes of a drawing, of which no line and no area leaves the picture.
fn drawn(figure: &Figure) -> usize {
    let svg = draw::svg(figure, Theme::Light).unwrap();
    let (_, size) = svg.split_once("viewBox=\"0 0 ").unwrap();
    let mut size = size.split(['"', ' ']).map(|side| side.parse::<i64>().unwrap());
    let (width, height) = (size.next().unwrap(), size.next().unwrap());
    for shape in svg.split('<').filter(|shape| !shape.starts_with("text")) {
        for list in ["points=\"", "x1=\"", "x2=\"", "cx=\""] {
            let Some((_, places)) = shape.split_once(list) else { continue };
            let places = places.split('"').next().unwrap().split_whitespace();
            for place in places {
                let mut ends = place.split(',').map(|at| at.parse::<i64>().unwrap());
                let (x, y) = (ends.next().unwrap(), ends.next().unwrap_or(0));
                // The edge of a marker may stand over the edge of its plot.
                assert!((-60..width + 60).contains(&x), "{}: {shape}", figure.file);
                assert!((-60..height + 60).contains(&y), "{}: {shape}", figure.file);
            }
        }
    }
    svg.len()
}

/// A small experiment: two variants, one seed, a record each.
fn small() -> Loaded {
    let mut small = fixture::loaded();
    small.results = parsed(&whole());
    small.results.variants.truncate(2);
    small.results.plan.variants.truncate(2);
    small.results.plan.seeds.truncate(1);
    for variant in &mut small.results.variants {
        variant.runs.truncate(1);
    }
    small.results.controls.clear();
    small.records.retain(|record| {
        record.summary.seed == 0 && small.results.variants.iter().any(|v| v.name == record.variant)
    });
    small
}

/// An extreme value in each number of a results file in turn: it is refused, or the report is about as long as ever.
#[test]
fn no_number_of_a_results_file_makes_a_report_endless() {
    let small = small();
    let whole = serde_json::to_value(&small.results).unwrap();
    let most = 2 * written(&small);
    let mut places = Vec::new();
    places_of_numbers(&whole["plan"], "/plan", &mut places);
    places_of_numbers(&whole["environment"], "/environment", &mut places);
    places_of_numbers(&whole["claims"], "/claims", &mut places);
    places_of_numbers(&whole["recommendation"], "/recommendation", &mut places);
    places_of_numbers(&whole["variants"][1], "/variants/1", &mut places);
    assert!(places.len() > 100, "{}", places.len());
    let mut seen = BTreeSet::new();
    for place in &places {
        for value in extremes() {
            let json = with(&whole, place, &value).to_string();
            let Ok(results) = parse(json.as_bytes()) else { continue };
            let experiment = Loaded { results, ..small.clone() };
            let mut shown = serde_json::to_value(&experiment.results).unwrap();
            for part in ["data", "model", "train", "claims"] {
                // No figure and no table is made of these.
                shown["plan"][part].take();
            }
            if seen.insert(shown.to_string()) {
                let bytes = written(&experiment);
                assert!(bytes < most, "{place} = {value}: {bytes} bytes");
            }
        }
    }
}

/// The same of a run's record.
#[test]
fn no_number_of_a_record_makes_a_report_endless() {
    let small = small();
    let whole = serde_json::to_value(&small.records[1]).unwrap();
    let most = 2 * written(&small);
    let mut places = Vec::new();
    places_of_numbers(&whole, "", &mut places);
    assert!(places.len() > 20, "{}", places.len());
    for place in &places {
        for value in extremes() {
            let json = with(&whole, place, &value).to_string();
            let Ok(damaged) = parse(json.as_bytes()) else { continue };
            let mut experiment = small.clone();
            experiment.records[1] = damaged;
            let bytes = written(&experiment);
            assert!(bytes < most, "{place} = {value}: {bytes} bytes");
        }
    }
}

/// Whatever numbers a figure is made of, as if nothing were refused: no mark leaves its plot, and no line, dash or hatch
/// is drawn for what lies beyond.
#[test]
fn every_mark_is_cut_to_its_plot() {
    let small = small();
    let results = serde_json::to_value(&small.results).unwrap();
    let run = serde_json::to_value(&small.records[1]).unwrap();
    let figures = |results: &Value, run: &Value| {
        let records = [small.records[0].clone(), parsed(run)];
        let results = parsed(results);
        let table = Table::of_one(&results, &records, None);
        figure::all(&table).iter().map(drawn).sum::<usize>()
    };
    let most = 2 * figures(&results, &run);
    let check = |place: &str, value: f64, bytes: usize| {
        assert!(bytes < most, "{place} = {value}: {bytes} bytes");
    };
    for value in [1e12, 1e15, 1e300, -1.0, -1e300, 1e-300] {
        for place in [
            "/variants/1/train/phases/data",
            "/variants/1/train/phases/update",
            "/variants/1/train/step_seconds/value",
            "/variants/1/train/step_seconds/high",
            "/variants/1/inference/batch_seconds/low",
            "/variants/1/runs/0/test_accuracy",
            "/variants/1/against_baseline/accuracy_difference/value",
            "/variants/1/against_baseline/accuracy_difference/low",
            "/plan/measure/equivalence_margin",
        ] {
            check(place, value, figures(&with(&results, place, &json!(value)), &run));
        }
        for place in ["/loss/5", "/scale/0/1"] {
            check(place, value, figures(&results, &with(&run, place, &json!(value))));
        }
    }
    for bytes in [1_000_000_000_000, 1_u64 << 60] {
        for place in ["memory/optimizer", "memory/peak_bytes", "inference/weights"] {
            let place = format!("/variants/1/{place}");
            check(&place, bytes as f64, figures(&with(&results, &place, &json!(bytes)), &run));
        }
    }
}
