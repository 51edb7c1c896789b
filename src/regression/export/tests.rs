//! Each form of one judgement, whole; hostile names and many failures in each; and what reads them.

mod readers;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use self::readers::{junit_faults, read_openmetrics};
use super::Format;
use crate::record::Estimate;
use crate::regression::baseline::Program;
use crate::regression::judge::{Finding, Judgement, Verdict};
use crate::regression::metric::{Key, Measured, Metric};
use crate::units::Ratio;

/// One metric of every verdict.
fn judgement() -> Judgement {
    let finding = |key: &str, verdict, baseline, measured, why: &str| Finding {
        key: key.parse().unwrap(),
        verdict,
        baseline,
        measured,
        change: None,
        why: why.to_owned(),
    };
    let number = |value| Some(Measured::number(value));
    let count = |value| Some(Measured::Count(value));
    let mut findings = vec![
        finding(
            "bf16/test_accuracy/seed-0",
            Verdict::Passed,
            number(0.75),
            number(0.75),
            "the same",
        ),
        finding(
            "bf16/lost_updates",
            Verdict::Failed,
            count(7),
            count(8),
            "was 7, is 8: worse, 100%",
        ),
        finding(
            "bf16/train_peak_bytes",
            Verdict::Allowed("a, b: c".to_owned()),
            count(1000),
            count(2048),
            "was 1000, is 2048",
        ),
        finding(
            "bf16/step_seconds",
            Verdict::Inconclusive,
            number(0.5),
            number(0.625),
            "may be chance",
        ),
        finding("fp32/lost_updates", Verdict::NotJudged, None, count(0), "is new"),
    ];
    let ratio = |value| Ratio(value);
    findings[3].change = Some(Estimate { value: ratio(1.25), low: ratio(1.0), high: ratio(1.5) });
    Judgement {
        experiment: "ci".to_owned(),
        program: Program { version: "0.1.0".to_owned(), commit: Some("abc".to_owned()) },
        against: "baselines/ci/cpu-1.json (def)".to_owned(),
        strict: false,
        notes: vec!["a note.".to_owned()],
        wants_second_timing: false,
        findings,
    }
}

/// What every form ends with, of [`judgement`].
const SUMMARY: &str =
    "4 metrics judged: 1 passed, 1 failed, 1 inconclusive, 1 allowed; 1 not judged";

fn render(format: Format, judgement: &Judgement) -> String {
    format.render(judgement).unwrap()
}

#[test]
fn text_is_lines() {
    insta::assert_snapshot!(render(Format::Text, &judgement()), @r"
    ci: mantissa 0.1.0 (abc) against baselines/ci/cpu-1.json (def)
    failed: bf16/lost_updates was 7, is 8: worse, 100%.
    inconclusive: bf16/step_seconds may be chance.
    allowed: bf16/train_peak_bytes was 1000, is 2048 — allowed: a, b: c.
    not judged: 1 metric (fp32/lost_updates): is new.
    note: a note.
    4 metrics judged: 1 passed, 1 failed, 1 inconclusive, 1 allowed; 1 not judged
    ");
}

#[test]
fn markdown_is_a_table() {
    insta::assert_snapshot!(render(Format::Markdown, &judgement()), @r"
    ### Mantissa, ci: a regression

    0.1.0 (abc) against baselines/ci/cpu-1.json (def)

    | | metric | baseline | now | |
    | --- | --- | ---: | ---: | --- |
    | ❌ failed | bf16/lost\_updates | 7 | 8 | was 7, is 8: worse, 100% |
    | ❔ inconclusive | bf16/step\_seconds | 500 ms | 625 ms | may be chance |
    | ✔️ allowed | bf16/train\_peak\_bytes | 1000 B (1,000 bytes) | 2.00 KiB (2,048 bytes) | was 1000, is 2048 — allowed: a, b: c |

    - not judged: 1 metric (fp32/lost\_updates): is new

    - a note.

    **4 metrics judged: 1 passed, 1 failed, 1 inconclusive, 1 allowed; 1 not judged**
    ");
}

#[test]
fn github_gets_annotations() {
    insta::assert_snapshot!(render(Format::Github, &judgement()), @r"
    ::error title=mantissa%2C failed%3A bf16/lost_updates::was 7, is 8: worse, 100%25
    ::warning title=mantissa%2C inconclusive%3A bf16/step_seconds::may be chance
    ::notice title=mantissa%2C allowed%3A bf16/train_peak_bytes::was 1000, is 2048 — allowed: a, b: c
    ::warning title=mantissa%2C check::a note.
    ::notice title=mantissa%2C not judged::1 metric (fp32/lost_updates): is new
    4 metrics judged: 1 passed, 1 failed, 1 inconclusive, 1 allowed; 1 not judged
    ");
}

#[test]
fn junit_has_a_suite_a_variant() {
    insta::assert_snapshot!(render(Format::Junit, &judgement()), @r#"
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites name="mantissa ci" tests="6" failures="1" errors="0">
        <testsuite name="bf16" tests="4" skipped="1" errors="0" failures="1">
            <testcase name="test_accuracy seed-0" classname="mantissa.bf16"/>
            <testcase name="lost_updates" classname="mantissa.bf16">
                <failure message="was 7, is 8: worse, 100%"/>
            </testcase>
            <testcase name="train_peak_bytes" classname="mantissa.bf16">
                <system-out>was 1000, is 2048 — allowed: a, b: c</system-out>
            </testcase>
            <testcase name="step_seconds" classname="mantissa.bf16">
                <skipped message="inconclusive: may be chance"/>
            </testcase>
        </testsuite>
        <testsuite name="fp32" tests="1" skipped="1" errors="0" failures="0">
            <testcase name="lost_updates" classname="mantissa.fp32">
                <skipped message="not judged: is new"/>
            </testcase>
        </testsuite>
        <testsuite name="check" tests="1" skipped="0" errors="0" failures="0">
            <testcase name="something was judged" classname="mantissa">
                <system-out>a note.</system-out>
            </testcase>
            <system-out>4 metrics judged: 1 passed, 1 failed, 1 inconclusive, 1 allowed; 1 not judged</system-out>
        </testsuite>
    </testsuites>
    "#);
}

#[test]
fn bencher_gets_measures() {
    insta::assert_snapshot!(render(Format::Bencher, &judgement()), @r#"
    {
      "bf16/seed-0": {"test-accuracy": {"value":0.75}},
      "bf16": {"lost-updates": {"value":8.0}, "train-peak-bytes": {"value":2048.0}, "step-seconds": {"value":0.625}},
      "fp32": {"lost-updates": {"value":0.0}},
      "mantissa check": {"metrics-judged": {"value":4}, "metrics-passed": {"value":1}, "metrics-failed": {"value":1}, "metrics-inconclusive": {"value":1}}
    }
    "#);
}

#[test]
fn benchmark_action_gets_what_is_better_smaller() {
    insta::assert_snapshot!(render(Format::BenchmarkAction, &judgement()), @r#"
    [
      {"extra":"passed: the same","name":"bf16/test_error/seed-0","unit":"share","value":0.25},
      {"extra":"failed: was 7, is 8: worse, 100%","name":"bf16/lost_updates","unit":"count","value":8.0},
      {"extra":"allowed: was 1000, is 2048 — allowed: a, b: c","name":"bf16/train_peak_bytes","unit":"bytes","value":2048.0},
      {"extra":"inconclusive: may be chance","name":"bf16/step_seconds","unit":"seconds","value":0.625},
      {"extra":"not judged: is new","name":"fp32/lost_updates","unit":"count","value":0.0},
      {"extra":"4 metrics judged: 1 passed, 1 failed, 1 inconclusive, 1 allowed; 1 not judged","name":"metrics failed","unit":"metrics","value":1}
    ]
    "#);
}

#[test]
fn openmetrics_has_a_family_a_metric() {
    insta::assert_snapshot!(render(Format::OpenMetrics, &judgement()), @r#"
    # TYPE mantissa_test_accuracy gauge
    mantissa_test_accuracy{experiment="ci",variant="bf16",seed="0"} 0.75
    # TYPE mantissa_lost_updates gauge
    mantissa_lost_updates{experiment="ci",variant="bf16"} 8
    mantissa_lost_updates{experiment="ci",variant="fp32"} 0
    # TYPE mantissa_train_peak_bytes gauge
    # UNIT mantissa_train_peak_bytes bytes
    mantissa_train_peak_bytes{experiment="ci",variant="bf16"} 2048
    # TYPE mantissa_step_seconds gauge
    # UNIT mantissa_step_seconds seconds
    mantissa_step_seconds{experiment="ci",variant="bf16"} 0.625
    # TYPE mantissa_metrics gauge
    # HELP mantissa_metrics Metrics by what became of them in a check.
    mantissa_metrics{experiment="ci",verdict="judged"} 4
    mantissa_metrics{experiment="ci",verdict="passed"} 1
    mantissa_metrics{experiment="ci",verdict="failed"} 1
    mantissa_metrics{experiment="ci",verdict="inconclusive"} 1
    mantissa_metrics{experiment="ci",verdict="allowed"} 1
    mantissa_metrics{experiment="ci",verdict="not judged"} 1
    # EOF
    "#);
}

#[test]
fn json_holds_everything_and_ends_with_the_summary() {
    let text = render(Format::Json, &judgement());
    assert!(text.ends_with(&format!("\"summary\": \"{SUMMARY}\"\n}}\n")), "{text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    let expected = serde_json::json!({
        "key": "bf16/step_seconds",
        "variant": "bf16",
        "metric": "step_seconds",
        "seed": null,
        "verdict": "inconclusive",
        "baseline": 0.5,
        "measured": 0.625,
        "ratio": {"value": 1.25, "low": 1.0, "high": 1.5},
        "why": "may be chance",
        "allowed_for": null,
    });
    assert_eq!(value["metrics"][3], expected);
    assert_eq!(value["metrics"][2]["allowed_for"], "a, b: c");
    let counts = ["judged", "passed", "failed", "inconclusive", "allowed", "not_judged"];
    assert_eq!(counts.map(|count| value[count].as_u64().unwrap()), [4, 1, 1, 1, 1, 1]);
}

/// The last line where the form has free lines, else the last element.
#[test]
fn every_form_ends_with_the_counts() {
    for (format, _) in Format::NAMES {
        let text = render(format, &judgement());
        let last = text.lines().last().unwrap();
        match format {
            Format::Text | Format::Github => assert_eq!(last, SUMMARY),
            Format::Markdown => assert_eq!(last, format!("**{SUMMARY}**")),
            Format::Junit => {
                let end = format!(
                    "<system-out>{SUMMARY}</system-out>\n    </testsuite>\n</testsuites>\n"
                );
                assert!(text.ends_with(&end), "{text}");
            }
            Format::Json => assert!(text.ends_with(&format!("{SUMMARY}\"\n}}\n")), "{text}"),
            Format::BenchmarkAction => assert!(text.contains(SUMMARY), "{text}"),
            Format::Bencher => {
                let end = "{\"metrics-judged\": {\"value\":4}, \"metrics-passed\": {\"value\":1}, \
                           \"metrics-failed\": {\"value\":1}, \"metrics-inconclusive\": {\"value\":1}}\n}\n";
                assert!(text.ends_with(end), "{text}");
            }
            Format::OpenMetrics => {
                let end = "verdict=\"allowed\"} 1\nmantissa_metrics{experiment=\"ci\",verdict=\"not judged\"} 1\n# EOF\n";
                assert!(text.ends_with(end), "{text}");
            }
        }
    }
}

/// Five thousand failures of a variant whose name, reason and baseline come from somebody who means harm.
fn hostile() -> Judgement {
    let mut judgement = judgement();
    let name = "a\"b\\c\n::error::<!--|]]>%0A\u{1b}[31m\u{202e}";
    judgement.experiment = name.to_owned();
    judgement.against = name.repeat(100);
    judgement.notes = vec![name.repeat(1000)];
    judgement.findings = (0..5000)
        .map(|seed| Finding {
            key: Key { variant: name.to_owned(), metric: Metric::FinalLoss, seed: Some(seed) },
            verdict: if seed < 4900 { Verdict::Failed } else { Verdict::NotJudged },
            baseline: Some(Measured::number(1.0)),
            measured: Some(Measured::number(2.0)),
            change: None,
            why: name.repeat(20),
        })
        .collect();
    judgement
}

#[test]
fn github_gets_ten_annotations_that_cannot_be_broken_out_of() {
    let text = render(Format::Github, &hostile());
    let lines: Vec<&str> = text.lines().collect();
    let annotations = lines.iter().filter(|line| line.starts_with("::")).count();
    assert_eq!((annotations, lines.len()), (10, 12));
    assert_eq!(lines[10], "4,892 annotations more left out here.");
    for line in &lines[..10] {
        assert!(
            line.starts_with("::error title=mantissa%2C failed%3A a\"b\\c\\u{a}%3A%3Aerror"),
            "{line}"
        );
        assert!(line.contains("%250A"), "{line}");
    }
}

#[test]
fn markdown_fits_a_comment_and_shows_names_as_they_are() {
    let text = render(Format::Markdown, &hostile());
    assert!(text.len() < super::markdown::MOST_BYTES, "{}", text.len());
    let rows = text.lines().filter(|line| line.starts_with("| ❌")).count();
    let left_out = crate::formatting::count(4900 - rows as u64);
    let left_out = format!("{left_out} rows more left out here.");
    assert!(rows > 20 && text.contains(&left_out), "{rows}");
    assert!(!text.contains("<!--") && !text.contains('\u{1b}') && !text.contains('\u{202e}'));
    // A bar in a cell would make another.
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    assert!(text.lines().filter(|line| line.starts_with('|')).all(|line| cells(line) == 6));
}

#[test]
fn junit_is_read_back_with_its_counts() {
    for (judgement, strict) in [(judgement(), false), (judgement(), true), (hostile(), false)] {
        let judgement = Judgement { strict, ..judgement };
        let text = render(Format::Junit, &judgement);
        let report = quick_junit::Report::deserialize_from_str(&text).unwrap();
        let counts = judgement.counts();
        let failed = counts.failed + if strict { counts.inconclusive } else { 0 };
        // The check as a whole is a case of its own.
        let expected = (judgement.findings.len() + 1, failed, 0);
        assert_eq!((report.tests, report.failures, report.errors), expected);
    }
    let nothing = Judgement { findings: Vec::new(), ..judgement() };
    let report =
        quick_junit::Report::deserialize_from_str(&render(Format::Junit, &nothing)).unwrap();
    assert_eq!((report.tests, report.failures, report.errors), (1, 0, 1));
}

#[test]
fn junit_keeps_the_schema_of_jenkins() {
    let nothing = Judgement { findings: Vec::new(), ..judgement() };
    let named = Judgement { experiment: " skipped=\"9\" <testsuite ".to_owned(), ..judgement() };
    for judgement in [judgement(), hostile(), nothing, named] {
        for strict in [false, true] {
            let text = render(Format::Junit, &Judgement { strict, ..judgement.clone() });
            assert_eq!(junit_faults(&text), [""; 0], "{text}");
        }
    }
    // What the library writes by itself, and other things that the schema does not have.
    let text = render(Format::Junit, &judgement());
    for (from, to, fault) in [
        ("<testsuites ", "<testsuites skipped=\"2\" ", "testsuites has skipped"),
        ("<testcase name", "<testcase title", "testcase has title"),
        ("<testcase name", "<testcase title", "testcase lacks name"),
        ("<skipped message=\"inc", "<warning message=\"inc", "element warning"),
        ("<failure ", "<testsuite ", "testsuite in Some(\"testcase\")"),
    ] {
        let faults = junit_faults(&text.replacen(from, to, 1));
        assert!(faults.iter().any(|found| found == fault), "{fault}: {faults:?}");
    }
}

/// Bencher Metric Format: an object of objects of objects with a number `value`. Its schema is at <https://bencher.dev/bmf.json>.
#[test]
fn bencher_s_form_is_three_objects_deep() {
    for judgement in [judgement(), hostile()] {
        let text = render(Format::Bencher, &judgement);
        let value: BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>> =
            serde_json::from_str(&text).unwrap();
        let measures = value.values().flat_map(BTreeMap::values);
        assert!(measures.clone().count() > 4);
        assert!(measures.into_iter().all(|measure| measure.keys().eq(["value"])));
    }
}

/// A list of entries with a name, a unit and a number `value`; no name twice, for they are the series.
#[test]
fn benchmark_action_s_form_is_a_list() {
    for judgement in [judgement(), hostile()] {
        let entries: Vec<Value> =
            serde_json::from_str(&render(Format::BenchmarkAction, &judgement)).unwrap();
        let names: BTreeSet<&str> = entries.iter().map(|e| e["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), entries.len());
        assert!(
            entries.iter().all(|entry| entry["unit"].is_string() && entry["value"].is_number())
        );
    }
}

// By Prometheus' own reader: list(prometheus_client.openmetrics.parser.text_string_to_metric_families(text)).
#[test]
fn openmetrics_is_read_back() {
    let samples = read_openmetrics(&render(Format::OpenMetrics, &judgement())).unwrap();
    let owned = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let labels = vec![owned("experiment", "ci"), owned("variant", "bf16"), owned("seed", "0")];
    assert_eq!(samples[0], ("mantissa_test_accuracy".to_owned(), labels));
    assert_eq!(samples.len(), 5 + 6);
    let mut hostile = hostile();
    hostile.findings.truncate(3);
    let samples = read_openmetrics(&render(Format::OpenMetrics, &hostile)).unwrap();
    assert_eq!(samples[0].1[1].1, hostile.findings[0].key.variant);
    for broken in ["", "a{b=\"c\"} 1\n# EOF\n", "# TYPE a gauge\na{b=\"c\"} x\n# EOF\n"] {
        assert!(read_openmetrics(broken).is_err(), "{broken}");
    }
}

#[test]
fn a_form_is_read_as_it_is_written() {
    for (format, name) in Format::NAMES {
        assert_eq!(name.parse(), Ok(format));
        assert_eq!(format.to_string(), name);
    }
    let error = "xml".parse::<Format>().unwrap_err().to_string();
    let expected = "unknown format \"xml\"; known: text, json, markdown, junit, github, bencher, benchmark-action, openmetrics";
    assert_eq!(error, expected);
}
