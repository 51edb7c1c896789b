//! Whole files in, figures or exact messages out.

use super::*;

/// A small file that is right; the table below breaks it one line at a time.
const GOOD: &str = r#"title = "a network"
source = "example.org"
machine = "a GPU"
settings = "one epoch"

[columns]
time = { unit = "min", measured = "the whole training" }
accuracy = { unit = "%", measured = "the test split" }

[[rows]]
label = "32"
policy = "32-true"
time = 2
accuracy = 90.5

[[rows]]
label = "other"
time = 1.5
"#;

fn read(text: &str) -> Result<Reference, String> {
    Reference::read("figures.toml", text).map_err(|error| error.to_string())
}

#[test]
fn a_good_file_is_read_and_kept_in_results_as_it_is() {
    let row = |label: &str, policy: Option<&str>, time, accuracy| ReferenceRow {
        label: label.into(),
        policy: policy.map(|policy| policy.parse().unwrap()),
        time: Some(time),
        memory: None,
        accuracy,
        note: None,
    };
    let column = |unit: &str, measured: &str| {
        Some(ReferenceColumn { unit: unit.into(), measured: measured.into() })
    };
    let expected = Reference {
        title: "a network".into(),
        source: "example.org".into(),
        machine: "a GPU".into(),
        settings: "one epoch".into(),
        notes: Vec::new(),
        columns: ReferenceColumns {
            time: column("min", "the whole training"),
            memory: None,
            accuracy: column("%", "the test split"),
        },
        rows: vec![row("32", Some("fp32"), 2.0, Some(90.5)), row("other", None, 1.5, None)],
    };
    assert_eq!(read(GOOD), Ok(expected.clone()));
    let json = serde_json::to_string(&expected).unwrap();
    assert_eq!(serde_json::from_str::<Reference>(&json).unwrap(), expected);
}

/// Each row: what to look for in [`GOOD`], what to put there, and the message that must follow.
#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn what_cannot_be_is_refused_with_its_place() {
    for (old, new, message) in [
        (
            "settings =",
            "setings =",
            "figures.toml:4:1: setings: unknown key \"setings\"; known: title, source, machine, settings, notes, columns, rows",
        ),
        (
            "accuracy = 90.5",
            "acuracy = 90.5",
            "figures.toml:14:1: rows[0].acuracy: unknown key \"acuracy\"; known: label, policy, time, memory, accuracy, note",
        ),
        ("unit = \"min\", ", "", "figures.toml:7:8: columns.time: missing key \"unit\""),
        (
            "\"min\"",
            "\"minutes\"",
            "figures.toml:7:17: columns.time.unit: unknown unit \"minutes\"; known: ms, s, min, h",
        ),
        (
            "32-true",
            "fp8",
            "figures.toml:12:10: rows[0].policy: unknown policy \"fp8\"; known: fp32, tf32, fp16-mixed, bf16-mixed, fp16-true, \
             bf16-true, or a text such as params=f32,compute=f16,reduce=f32,scale=dynamic",
        ),
        (
            "label = \"other\"",
            "label = \"other\"\npolicy = \"fp32\"",
            "figures.toml:18:10: rows[1].policy: is that of the row \"32\"; give a policy to one row only",
        ),
        (
            "\"other\"",
            "\"32\"",
            "figures.toml:17:9: rows[1].label: a second row with the label \"32\"; give each its own",
        ),
        (
            "time = 2",
            "time = nan",
            "figures.toml:13:8: rows[0].time: is NaN; must be over 0 and at most 1e9",
        ),
        (
            "time = 2",
            "time = inf",
            "figures.toml:13:8: rows[0].time: is inf; must be over 0 and at most 1e9",
        ),
        (
            "time = 2",
            "time = -2",
            "figures.toml:13:8: rows[0].time: is -2; must be over 0 and at most 1e9",
        ),
        (
            "time = 2",
            "time = \"2 min\"",
            "figures.toml:13:8: rows[0].time: invalid type: string \"2 min\", expected a number",
        ),
        ("90.5", "905", "figures.toml:14:12: rows[0].accuracy: is 905; must be 0 to 100"),
        ("90.5", "-nan", "figures.toml:14:12: rows[0].accuracy: is NaN; must be 0 to 100"),
        (
            "time = 1.5",
            "memory = 1.5",
            "figures.toml:18:10: rows[1].memory: has no column; add columns.memory, or remove the value",
        ),
        ("\"a GPU\"", "\" \"", "figures.toml:3:11: machine: is empty; say it in a few words"),
    ] {
        assert_eq!(GOOD.matches(old).count(), 1, "{old} once");
        assert_eq!(read(&GOOD.replace(old, new)).err().as_deref(), Some(message), "{new}");
    }
}

#[test]
fn a_file_without_columns_or_rows_is_refused() {
    let (head, _) = GOOD.split_once("[columns]").unwrap();
    for (rest, message) in [
        (
            "rows = []\n[columns]\n",
            "figures.toml:7:1: columns: is empty; give at least one of time, memory and accuracy",
        ),
        (
            "rows = []\ncolumns.time = { unit = \"s\", measured = \"a step\" }\n",
            "figures.toml:6:8: rows: is empty; give at least one row",
        ),
    ] {
        assert_eq!(read(&format!("{head}{rest}")).err().as_deref(), Some(message));
    }
    let error = read(head).unwrap_err();
    assert!(error.ends_with("missing key \"columns\""), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("figures.toml");
    let error = Reference::load(&path).unwrap_err().to_string();
    let start = format!("reference: {}: cannot ", path.display());
    assert!(error.starts_with(&start), "{error}");
    store::write(&path, GOOD.as_bytes()).unwrap();
    assert_eq!(Reference::load(&path).map_err(|error| error.to_string()), read(GOOD));
}

#[test]
fn every_file_in_experiments_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/references");
    let files = store::list(&folder).unwrap();
    assert!(!files.is_empty());
    for file in files {
        Reference::load(&file).unwrap();
    }
}
