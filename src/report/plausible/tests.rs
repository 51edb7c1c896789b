//! Tests of numbers that cannot be.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::report::figure::{self, Figure};
use crate::report::table::Table;
use crate::report::theme::Theme;
use crate::report::{
    Loaded, Report, csv, draw, fixture, interactive, latex, markdown, mend, terminal,
};

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
    results.environment.gpu = Some(crate::record::Gpu {
        memory_total: Some(Bytes(80 << 30)),
        power_limit_watts: Some(700.0),
        ..Default::default()
    });
    let train = results.variants[1].train.as_mut().unwrap();
    train.gpu = Some(crate::record::GpuLoad {
        step_joules: Some(0.5),
        power_watts: Some(300.0),
        ..Default::default()
    });
    if let Some(advice) = &mut results.recommendation {
        advice.more_seeds = Some(3);
    }
    serde_json::to_value(results).unwrap()
}

#[test]
fn what_is_plausible_stays() {
    let mut kept: Results = parsed(&whole());
    assert_eq!(results(&mut kept), [""; 0]);
    assert_eq!(kept, parsed(&whole()));
    for mut run in fixture::loaded().records {
        let before = run.clone();
        assert_eq!(record(&mut run, "it").unwrap(), [""; 0]);
        assert_eq!(run, before);
    }
}

/// Where a number stands, what it is changed to, what is told of it, and what goes with it: null, or no item of a list.
#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn what_cannot_be_is_told_and_taken_out() {
    let gone = Value::Null;
    for (place, value, part, why) in [
        (
            "train/phases/data",
            json!(1e15),
            "train/phases",
            "data is 1.00e15, where 0 to 3.20e7 can be",
        ),
        ("train/step_seconds/value", json!(0.0), "train", "step_seconds is 0, where 1.00e−12 to"),
        ("train/step_seconds/low", json!(1e9), "train", "step_seconds is 1.00e9"),
        (
            "train/step_seconds/low",
            json!(5.0),
            "train",
            "the interval of step_seconds begins at 5.00",
        ),
        ("train/blocks/3", json!(-1.0), "train", "a block is −1.00"),
        (
            "train/work/operations",
            json!(u64::MAX),
            "train/work",
            "operations is 18446744073709551615",
        ),
        ("train/work/share_of_peak/value", json!(1e300), "train/work", "share_of_peak is 1.00e300"),
        ("train/gpu/power_watts", json!(-1.0), "train/gpu/power_watts", "it is −1.00"),
        (
            "memory/optimizer",
            json!(1_000_000_000_000_u64),
            "memory",
            "optimizer is 1000000000000, where at most",
        ),
        (
            "memory/peak_bytes",
            json!(u64::MAX),
            "memory",
            "peak_bytes is 18446744073709551615, where at most 343597383680 can be",
        ),
        ("inference/batch_seconds/high", json!(1e15), "inference/batch_seconds", "it is 1.00e15"),
        ("inference/weights", json!(1_u64 << 40), "inference", "weights is 1099511627776"),
        (
            "against_baseline/train_time_ratio/value",
            json!(-1.0),
            "against_baseline/train_time_ratio",
            "it is −1.00",
        ),
        (
            "against_baseline/train_memory_ratio",
            json!(1e300),
            "against_baseline/train_memory_ratio",
            "it is 1.00e300",
        ),
        (
            "against_baseline/accuracy_difference/value",
            json!(1.5),
            "against_baseline/accuracy_difference",
            "value is 1.50",
        ),
        (
            "against_baseline/accuracy_difference/p",
            json!(-1.0),
            "against_baseline/accuracy_difference",
            "p is −1.00",
        ),
    ] {
        let mut damaged: Results = parsed(&with(&whole(), &format!("/variants/1/{place}"), &value));
        let notes = results(&mut damaged);
        let told = part.replace('/', ".");
        assert_eq!(notes.len(), 1, "{place}: {notes:?}");
        let start = format!(
            "results.json: variants[1].{told} is not shown, for it is not plausible: {why}"
        );
        assert!(notes[0].starts_with(&start), "{place}: {notes:?}");
        let expected = with(&whole(), &format!("/variants/1/{part}"), &gone);
        assert_eq!(damaged, parsed(&expected), "{place}");
    }
}

#[test]
fn counts_that_cannot_be_are_not_counted() {
    let check = |place: &str, value: u64, why: &str| {
        let mut damaged: Results =
            parsed(&with(&whole(), &format!("/variants/1/{place}"), &json!(value)));
        let notes = results(&mut damaged);
        assert!(notes.len() == 1 && notes[0].contains(why), "{place}: {notes:?}");
        damaged.variants.swap_remove(1)
    };
    // More overflows than values: no sum of the other roles is shown in their place.
    let variant = check(
        "numerics/activations/overflow",
        2_400_001,
        "overflow is 2400001, where at most 2400000",
    );
    let roles = variant.numerics;
    for counts in
        [roles.weights, roles.activations, roles.activation_gradients, roles.weight_gradients]
    {
        assert_eq!(counts, Counts::default());
    }
    assert_eq!(roles.updates.elements, 180_000_000);
    assert_eq!(check("numerics/updates/lost", u64::MAX, "lost is").numerics.updates.elements, 0);
    assert_eq!(check("numerics/gradients/nan", u64::MAX, "nan is").numerics.gradients.elements, 0);
    // Two of each of its three runs.
    assert_eq!(
        check("numerics/skipped_steps", u64::MAX, "the runs' sum").numerics.skipped_steps,
        6
    );
    assert_eq!(check("runs/1/test_accuracy", 2, "test_accuracy is 2.00").runs.len(), 2);
    assert_eq!(check("runs/1/steps", u64::MAX, "steps is").runs.len(), 2);
    assert_eq!(
        check("runs/1/skipped_steps", 241, "skipped_steps is 241, where at most 240").runs.len(),
        2
    );
}

#[test]
fn a_record_loses_what_cannot_be() {
    let whole = || fixture::loaded().records.swap_remove(3);
    let mut damaged = whole();
    damaged.loss[7] = Some(-1.0);
    damaged.loss[9] = Some(1e300);
    damaged.scale[1].1 = 1e300;
    damaged.skips[0].step = u64::MAX;
    damaged.census[1].counts.nan = u64::MAX;
    damaged.census[2].exponents.first = i32::MAX;
    damaged.census_steps[0] = u64::MAX;
    let notes = record(&mut damaged, "record").unwrap();
    insta::assert_snapshot!(notes.join("\n"), @r"
    record: loss[7] is not shown, for it is not plausible: it is −1.00, where −0.0100 to 3.50e38 can be.
    record: loss[9] is not shown, for it is not plausible: it is 1.00e300, where −0.0100 to 3.50e38 can be.
    record: scale[1] is not shown, for it is not plausible: it is 1.00e300, where 1.00e−45 to 3.50e38 can be.
    record: skips[0] is not shown, for it is not plausible: its step is 18446744073709551615, where at most 240 can be.
    record: census_steps[0] is not shown, for it is not plausible: it is 18446744073709551615, where at most 240 can be.
    record: census[1] is not shown, for it is not plausible: nan is 18446744073709551615, where at most 3000000 can be.
    record: census[2] is not shown, for it is not plausible: first is 2147483647, where -1100 to 1100 can be.
    ");
    let mut expected = whole();
    (expected.loss[7], expected.loss[9]) = (None, None);
    expected.scale.remove(1);
    expected.skips.remove(0);
    expected.census.truncate(1);
    expected.census_steps.remove(0);
    assert_eq!(damaged, expected);

    damaged.summary.test_accuracy = Some(-1.0);
    let why = record(&mut damaged, "record").unwrap_err();
    assert_eq!(why, "its summary cannot be: test_accuracy is −1.00, where 0 to 1.00 can be");
}

/// Hundreds of damaged numbers are not hundreds of sentences.
#[test]
fn many_are_counted() {
    let mut damaged = fixture::loaded().records.swap_remove(0);
    damaged.loss.fill(Some(-1.0));
    let notes = record(&mut damaged, "record").unwrap();
    assert_eq!(notes.len(), MOST_NOTES + 1);
    assert_eq!(notes[MOST_NOTES], "record: 230 more numbers are not plausible and not shown.");
}

/// The places of the numbers below `value`, of lists the first item's alone.
fn numbers(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Number(_) => found.push(place.to_owned()),
        Value::Array(items) => {
            if let Some(first) = items.first() {
                numbers(first, &format!("{place}/0"), found);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                numbers(field, &format!("{place}/{name}"), found);
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
    numbers(&whole["plan"], "/plan", &mut places);
    numbers(&whole["environment"], "/environment", &mut places);
    numbers(&whole["claims"], "/claims", &mut places);
    numbers(&whole["recommendation"], "/recommendation", &mut places);
    numbers(&whole["variants"][1], "/variants/1", &mut places);
    assert!(places.len() > 100, "{}", places.len());
    let mut seen = BTreeSet::new();
    for place in &places {
        for value in extremes() {
            let json = with(&whole, place, &value).to_string();
            let Ok(mended) = mend::read(json.as_bytes()) else {
                continue;
            };
            let mut experiment = Loaded { results: mended.results, ..small.clone() };
            experiment.notes = [mended.notes, results(&mut experiment.results)].concat();
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
    numbers(&whole, "", &mut places);
    assert!(places.len() > 20, "{}", places.len());
    for place in &places {
        for value in extremes() {
            let damaged = serde_json::from_value::<RunRecord>(with(&whole, place, &value));
            let Ok(mut damaged) = damaged else { continue };
            if damaged == small.records[1] || record(&mut damaged, "it").is_err() {
                continue;
            }
            let mut experiment = small.clone();
            experiment.records[1] = damaged;
            let bytes = written(&experiment);
            assert!(bytes < most, "{place} = {value}: {bytes} bytes");
        }
    }
}

/// Whatever numbers a figure is made of, as if nothing had been taken out: no mark leaves its plot, and no line, dash or hatch
/// is drawn for what lies beyond.
#[test]
fn every_mark_is_cut_to_its_plot() {
    let small = small();
    let results = serde_json::to_value(&small.results).unwrap();
    let run = serde_json::to_value(&small.records[1]).unwrap();
    let figures = |results: &Value, run: &Value| {
        let records = [small.records[0].clone(), parsed(run)];
        let table = Table::of_one(&parsed(results), &records, None);
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
