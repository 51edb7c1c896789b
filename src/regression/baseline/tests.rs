//! The file of a baseline: written, found, read, and refused.

use std::path::{Path, PathBuf};

use super::super::judge::{Asked, judge};
use super::super::tests::results;
use super::*;

/// A folder with the baseline of [`results`] in it, and where.
fn accepted() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let baseline = Baseline::of(&results(), "first");
    let path = folder.path().join(baseline.place().unwrap());
    store::write(&path, baseline.text().as_bytes()).unwrap();
    (folder, path)
}

#[test]
fn a_baseline_is_read_as_it_was_written_and_written_as_it_was_read() {
    let (folder, path) = accepted();
    let baseline = Baseline::read(&path).unwrap();
    assert_eq!(baseline.text().as_bytes(), store::read(&path).unwrap());
    let (found, at, notes) = find(folder.path(), &results()).unwrap();
    assert_eq!((&found, &at, notes), (&baseline, &path, Vec::new()));
    assert_eq!(list(folder.path()).unwrap(), std::slice::from_ref(&path));
    let (found, at, _) = find(&path, &results()).unwrap();
    assert_eq!((found, at), (baseline, path));
    let judgement = judge(&Baseline::of(&results(), ""), &results(), &Asked::default());
    assert_eq!(judgement.outcome(), super::super::judge::Outcome::Fine);
}

#[test]
fn a_baseline_keeps_the_times_of_other_machines() {
    let older = Baseline::of(&results(), "");
    let mut results = results();
    results.environment.device_name = "Other".to_owned();
    let newer = Baseline::of(&results, "").with_machines_of(&older);
    assert_eq!(newer.machines.len(), 2);
    assert_eq!(
        judge(&newer, &super::super::tests::results(), &Asked::default()).counts().not_judged,
        0
    );
    results.plan.train.steps = 99;
    assert_eq!(Baseline::of(&results, "").with_machines_of(&older).machines.len(), 1);
}

#[test]
fn of_several_baselines_the_one_of_this_arithmetic_is_found_else_one_that_can_be_read() {
    let (folder, path) = accepted();
    let mut other = results();
    other.environment.product_paths[2] = "bf16: AMX-BF16".to_owned();
    let (_, at, _) = find(folder.path(), &other).unwrap();
    assert_eq!(at, path);
    let broken = path.with_file_name("aaa.json");
    store::write(&broken, b"{").unwrap();
    let (_, at, notes) = find(folder.path(), &other).unwrap();
    assert_eq!((at, notes.len()), (path.clone(), 1));
    store::remove(&path).unwrap();
    assert!(matches!(find(folder.path(), &other), Err(BaselineError::Malformed { .. })));
    other.experiment = "unknown".to_owned();
    assert!(matches!(find(folder.path(), &other), Err(BaselineError::Missing(_))));
    for name in ["../x", "/", "a/b", "", ".."] {
        other.experiment = name.to_owned();
        assert!(matches!(find(folder.path(), &other), Err(BaselineError::Name(_))), "{name}");
    }
}

/// A message without the line and the column at the end of its brackets.
fn without_place(error: &str) -> String {
    match error
        .split_once(" at line ")
        .and_then(|(start, rest)| Some((start, rest.split_once(')')?)))
    {
        Some((start, (_, end))) => format!("{start}){end}"),
        None => error.to_owned(),
    }
}

#[test]
fn every_malformed_baseline_is_refused_in_its_own_words() {
    let (folder, path) = accepted();
    let text = String::from_utf8(store::read(&path).unwrap()).unwrap();
    let restore = "restore it, or accept one again with `mantissa baseline accept DIR`";
    let malformed = |what: &str| format!("not a baseline of mantissa ({what}); {restore}");
    let replaced = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let rows = [
        (String::new(), malformed("EOF while parsing a value")),
        ("{".to_owned(), malformed("EOF while parsing an object")),
        ("[]".to_owned(), malformed("it has no schema number")),
        ("{\"name\": \"x\"}".to_owned(), malformed("it has no schema number")),
        ("{\"schema\": \"1\"}".to_owned(), malformed("it has no schema number")),
        ("{\"schema\": 1}".to_owned(), malformed(".: missing field `experiment`")),
        (
            "{\"schema\": 7, \"other\": 1}".to_owned(),
            "schema 7 is newer than this program's 1; use the mantissa that wrote it, or a newer one".to_owned(),
        ),
        (
            replaced("\"bf16-mixed/lost_updates\": 7", "\"bf16-mixed/lost_updates\": NaN"),
            malformed("expected value"),
        ),
        (
            replaced("\"bf16-mixed/lost_updates\": 7", "\"bf16-mixed/lost_updates\": [7]"),
            malformed("metrics.bf16-mixed/lost_updates: data did not match any variant of untagged enum Measured"),
        ),
        (
            replaced("bf16-mixed/lost_updates", "bf16-mixed/lost"),
            malformed("bf16-mixed/lost is no metric"),
        ),
        (
            replaced("\"reason\": \"first\"", "\"reason\": 5"),
            malformed("reason: invalid type: integer `5`, expected a string"),
        ),
        (
            replaced("\"reason\"", "\"season\""),
            malformed("season: unknown field `season`, expected one of `schema`, `experiment`, `program`, `reason`, \
                       `arithmetic`, `plan_digest`, `plan`, `data_digest`, `metrics`, `machines`"),
        ),
    ];
    for (text, why) in rows {
        store::write(&path, text.as_bytes()).unwrap();
        let error = without_place(&Baseline::read(&path).unwrap_err().to_string());
        assert_eq!(error, format!("{}: {why}", path.display()));
    }
    // Cut anywhere, it is refused and never read in part.
    for end in (0..text.len() - 2).step_by(97) {
        store::write(&path, &text.as_bytes()[..end]).unwrap();
        assert!(matches!(Baseline::read(&path), Err(BaselineError::Malformed { .. })), "{end}");
    }
    store::write(&path, b"\xff\xfe").unwrap();
    assert!(matches!(Baseline::read(&path), Err(BaselineError::Malformed { .. })));
    let error = Baseline::read(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("is a folder; give a regular file"), "{error}");
    let absent = Baseline::read(Path::new("absent.json")).unwrap_err().to_string();
    let expected =
        "absent.json: no baseline; make results the baseline with `mantissa baseline accept DIR`";
    assert_eq!(absent, expected);
}

#[test]
fn a_key_that_stands_twice_is_refused_and_not_lost() {
    let (_folder, path) = accepted();
    let text = String::from_utf8(store::read(&path).unwrap()).unwrap();
    let block =
        text.lines().find(|line| line.contains("/step_seconds\": ")).unwrap().trim_end_matches(',');
    for (line, said) in [
        ("\"bf16-mixed/lost_updates\": 7", "bf16-mixed/lost_updates stands there twice"),
        ("\"reason\": \"first\"", "duplicate field `reason`"),
        (block, "/step_seconds stands there twice"),
    ] {
        let twice = text.replacen(line, &format!("{line},\n{line}"), 1);
        assert_ne!(twice, text, "{line}");
        store::write(&path, twice.as_bytes()).unwrap();
        let error = Baseline::read(&path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.contains(said), "{error}");
    }
}
