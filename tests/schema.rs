//! The JSON schema of the files that experiments write: the committed one is the program's, and the files keep it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use assert_cmd::Command;
use jsonschema::Validator;
use mantissa::store;
use serde_json::Value;

fn mantissa(arguments: &[&str]) -> String {
    let output = Command::cargo_bin("mantissa").unwrap().args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&store::read(path.as_ref()).unwrap()).unwrap()
}

/// The committed schema of `file`, which is what the program prints.
fn schema(file: &str) -> Validator {
    let printed = mantissa(&["schema", file]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schema/{file}.schema.json"));
    let committed = String::from_utf8(store::read(&path).unwrap()).unwrap();
    assert!(
        committed == printed,
        "{} is out of date: cargo run -- schema {file} > schema/{file}.schema.json",
        path.display()
    );
    jsonschema::validator_for(&serde_json::from_str(&printed).unwrap()).unwrap()
}

/// What is wrong with `value`, with where it stands.
fn errors(schema: &Validator, value: &Value) -> Vec<String> {
    let error =
        |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
    schema.iter_errors(value).map(error).collect()
}

/// Settings of a small experiment. e4m3 is emulated, and at this scale skips steps.
const SMALL: [&str; 6] = [
    "--set=variants=[\"fp32\",\"fp16-mixed\",{name=\"e4m3\",policy=\"params=f32,compute=e4m3,reduce=f32,scale=dynamic\"}]",
    "--set=data.train=64",
    "--set=data.test=40",
    "--set=model.hidden=[16]",
    "--set=train={steps=8,batch=16,optimizer={kind=\"sgd\",lr=0.1},schedule={kind=\"cosine\",warmup=2}}",
    "--set=measure={census_every=3,timing_blocks=2,timing_steps=1,timing_warmup=1,inference_batch=20}",
];

#[test]
fn what_an_experiment_writes_keeps_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let experiment = [
        "experiment",
        "--device=cpu",
        "--quiet",
        "--out",
        out.to_str().unwrap(),
        "--seeds=2",
        "--set=controls=[\"same-seeds\"]",
    ];
    mantissa(&[&experiment, &SMALL[..]].concat());
    let results = read(out.join("results.json"));
    assert_eq!(errors(&schema("results"), &results), [""; 0]);
    let records = schema("record");
    for variant in ["fp32", "fp16-mixed", "e4m3"] {
        let record = read(out.join(format!("runs/{variant}/seed-1/record.json")));
        assert_eq!(errors(&records, &record), [""; 0], "{variant}");
    }
}

#[test]
fn times_on_several_kinds_of_machine_keep_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let out_text = out.to_str().unwrap();
    let plan = ["plan", "--device=cpu", "--quiet", "--out", out_text, "--seeds=1"];
    mantissa(&[&plan[..], &SMALL, &["--kind=one", "--kind=two"]].concat());
    for index in ["0", "1", "2", "3", "4"] {
        mantissa(&["run", out_text, "--device=cpu", "--quiet", "--index", index]);
    }
    mantissa(&["collect", out_text, "--quiet"]);
    let results = read(out.join("results.json"));
    assert_eq!(errors(&schema("results"), &results), [""; 0]);
    let times = &results["other_kinds"][0];
    assert_eq!((&results["machine_kind"], &times["kind"]), (&"one".into(), &"two".into()));
    let timed: Vec<bool> =
        (0..3).map(|variant| times["variants"][variant]["train"].is_object()).collect();
    // An emulated format has no times.
    assert_eq!(timed, [true, true, false]);
}

#[test]
fn the_reference_results_keep_the_schema_and_damaged_ones_do_not() {
    let schema = schema("results");
    let place = "reports/reference/epyc-zen3-2-cores/digits/results.json";
    let results = read(Path::new(env!("CARGO_MANIFEST_DIR")).join(place));
    assert_eq!(errors(&schema, &results), [""; 0]);
    let damaged = |pointer: &str, to: Value| {
        let mut results = results.clone();
        *results.pointer_mut(pointer).unwrap() = to;
        errors(&schema, &results)
    };
    for (pointer, to) in [
        ("/schema", "1".into()),
        ("/complete", Value::Null),
        ("/variants/0/memory/peak_bytes", "12 MiB".into()),
        ("/variants/0/memory/peak_bytes", (-1).into()),
        ("/variants/0/runs/0/status", "lost".into()),
        ("/variants/1/against_baseline/accuracy_difference/verdict", "equal".into()),
        ("/plan/train/optimizer/kind", "lion".into()),
        ("/environment", Value::Null),
    ] {
        let errors = damaged(pointer, to);
        // What may be null is either of two things, so the error is about the whole.
        let is_there = |error: &String| {
            let place = error.split(':').next().unwrap_or_default();
            !place.is_empty() && pointer.starts_with(place)
        };
        assert!(errors.len() == 1 && is_there(&errors[0]), "{pointer}: {errors:?}");
    }
    let mut without = results.clone();
    without.as_object_mut().unwrap().remove("plan");
    assert!(!schema.is_valid(&without));
}
