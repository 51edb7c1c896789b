//! `mantissa baseline`, `check` and `compare` from outside: exit codes, what is said, and changes for the worse that are
//! caught.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use assert_cmd::Command;
use mantissa::store;
use serde_json::{Value, json};

/// An experiment of a second or two: two variants of two seeds, and nothing timed.
const TINY: [&str; 9] = [
    "--set=name=\"tiny\"",
    "--set=data.train=64",
    "--set=data.test=40",
    "--set=model.hidden=[16]",
    "--set=train={steps=8,batch=16,optimizer={kind=\"sgd\",lr=0.1},schedule={kind=\"cosine\",warmup=2}}",
    "--set=measure={census_every=3,timing_blocks=0}",
    "--variants=fp32,fp16-mixed",
    "--seeds=2",
    "--quiet",
];

/// What a command came to.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `mantissa` in `folder` with products in portable arithmetic, so that every machine computes the same.
fn mantissa(folder: &Path, arguments: &[&str]) -> Ran {
    on("portable", folder, arguments)
}

fn on(isa: &str, folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::cargo_bin("mantissa").unwrap();
    command.current_dir(folder).env("MANTISSA_ISA", isa).args(arguments);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs the tiny experiment into `folder`/`out`, with more arguments.
fn train(folder: &Path, out: &str, more: &[&str]) {
    let arguments = [&["experiment", "--device=cpu", "--out", out][..], &TINY, more].concat();
    let ran = mantissa(folder, &arguments);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

/// A folder with the results of the tiny experiment in `run`, which are its baseline.
fn accepted() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), "run", &[]);
    let ran = mantissa(folder.path(), &["baseline", "accept", "run", "--reason", "first"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    folder
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&store::read(path).unwrap()).unwrap()
}

/// Changes the JSON file at `path`.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = read(path);
    change(&mut value);
    store::write(path, value.to_string().as_bytes()).unwrap();
}

/// The one baseline below `folder`.
fn baseline(folder: &Path) -> std::path::PathBuf {
    let files = store::list(&folder.join("baselines/tiny")).unwrap();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn results_are_accepted_listed_shown_and_checked() {
    let folder = accepted();
    let at = folder.path();
    let file = baseline(at);
    let name = file.strip_prefix(at).unwrap().to_str().unwrap();
    let list = mantissa(at, &["baseline", "list"]);
    assert_eq!((list.code, list.stdout.lines().next()), (Some(0), Some(name)));
    assert!(list.stdout.contains("  reason: first\n"), "{}", list.stdout);
    let show = mantissa(at, &["baseline", "show", name]);
    assert!(show.stdout.contains("\"fp32/lost_updates\": "), "{}", show.stdout);

    // Of 2 variants: 5 of each of 2 seeds, 8 counts of roles, lost updates and 2 of memory.
    let summary = "42 metrics judged: 42 passed, 0 failed, 0 inconclusive, 0 allowed; 0 not judged";
    for arguments in
        [&["check", "run"][..], &["check", "run", "--strict"], &["compare", "run", "run"]]
    {
        let ran = mantissa(at, arguments);
        assert_eq!(
            (ran.code, ran.stdout.lines().last()),
            (Some(0), Some(summary)),
            "{}",
            ran.stderr
        );
    }
    // What training came to follows from the seed: again, with one thread, and the file is the same to the byte.
    train(at, "again", &["--threads=1"]);
    assert_eq!(mantissa(at, &["check", "again", "--baseline", name]).code, Some(0));
    let before = store::read(&file).unwrap();
    assert_eq!(mantissa(at, &["baseline", "accept", "again", "--reason", "first"]).code, Some(0));
    assert_eq!(store::read(&file).unwrap(), before);
}

/// Arguments of a check, what is changed before it, its exit code, and what the last line of stderr says.
const WAYS_NOT_TO_PASS: [(&[&str], fn(&Path), i32, &str); 14] = [
    (
        &[],
        |at| {
            edit(&at.join("run/results.json"), |r| {
                r["variants"][1]["numerics"]["updates"]["lost"] = json!(99_999);
            });
        },
        1,
        "1 failed",
    ),
    (
        &["--strict"],
        |at| {
            edit(&at.join("run/results.json"), |r| {
                r["variants"][0]["runs"][0]["test_accuracy"] = json!(0.0);
            });
        },
        1,
        "1 failed",
    ),
    (
        &["--allow", "lost_update=x"],
        |_| (),
        2,
        "--allow lost_update: no such metric; known: diverged,",
    ),
    (&["--allow", "lost_updates"], |_| (), 2, "expected METRIC=REASON"),
    (&["--allow", "fp64/lost_updates=x"], |_| (), 2, "no such variant or seed"),
    (&[], |at| store::remove(&at.join("run/results.json")).unwrap(), 2, "results.json: not found"),
    (
        &[],
        |at| store::write(&at.join("run/results.json"), b"[]").unwrap(),
        2,
        "not a valid results file",
    ),
    (
        &[],
        |at| edit(&at.join("run/results.json"), |r| r["complete"] = json!(false)),
        3,
        "the experiment is not finished",
    ),
    (
        &[],
        |at| {
            edit(&at.join("run/results.json"), |r| {
                r["variants"][0]["runs"][0]["status"] = json!("failed");
            });
        },
        3,
        "1 of 4 runs failed",
    ),
    (
        &[],
        |at| {
            edit(&at.join("run/results.json"), |r| {
                r["variants"][0]["runs"][0]["seed"] = json!("x");
            });
        },
        2,
        "not a valid results file: variants[0].runs[0].seed",
    ),
    (
        &[],
        |at| store::remove(&baseline(at)).unwrap(),
        4,
        "no baseline; make results the baseline with",
    ),
    (
        &[],
        |at| edit(&baseline(at), |b| b["plan"]["train"]["steps"] = json!(9)),
        4,
        "another plan: train.steps is 9 there, 8 here",
    ),
    (&[], |at| edit(&baseline(at), |b| b["data_digest"] = json!("x")), 4, "learnt from other data"),
    (
        &[],
        |at| edit(&baseline(at), |b| b["metrics"] = json!({})),
        4,
        "nothing could be judged: is new",
    ),
];

/// Each way in which a check cannot pass: its exit code, and what the last line of stderr says.
#[test]
fn every_way_not_to_pass_has_its_exit_code_and_sentence() {
    let folder = accepted();
    let at = folder.path();
    let files = [at.join("run/results.json"), baseline(at)];
    let whole = files.clone().map(|file| store::read(&file).unwrap());
    for (arguments, change, code, said) in WAYS_NOT_TO_PASS {
        change(at);
        let ran = mantissa(at, &[&["check", "run"], arguments].concat());
        let last = ran.stderr.lines().last().unwrap();
        assert_eq!(ran.code, Some(code), "{said}: {last}");
        assert!(last.starts_with("mantissa: ") && last.contains(said), "{said}: {last}");
        for (file, whole) in files.iter().zip(&whole) {
            store::write(file, whole).unwrap();
        }
    }
}

#[test]
fn a_malformed_baseline_is_exit_code_4() {
    let folder = accepted();
    let at = folder.path();
    let file = baseline(at);
    let whole = String::from_utf8(store::read(&file).unwrap()).unwrap();
    let rows = [
        (String::new(), "not a baseline of mantissa (EOF"),
        (whole[..whole.len() / 2].to_owned(), "not a baseline of mantissa (EOF"),
        (
            whole.replacen("\"schema\": 1", "\"schema\": 2", 1),
            "schema 2 is newer than this program's 1",
        ),
        (
            whole.replacen(
                "\"fp32/skipped_steps/seed-0\": 0",
                "\"fp32/skipped_steps/seed-0\": NaN",
                1,
            ),
            "not a baseline of mantissa (expected",
        ),
        (
            whole.replacen(
                "\"fp32/skipped_steps/seed-0\": 0",
                "\"fp32/skipped_steps/seed-0\": {}",
                1,
            ),
            "did not match any variant",
        ),
        ("{\"name\": \"package.json\"}".to_owned(), "it has no schema number"),
        (
            whole.replacen(
                "\"fp32/lost_updates\"",
                "\"fp32/lost_updates\": 1,\n\"fp32/lost_updates\"",
                1,
            ),
            "metrics: fp32/lost_updates stands there twice",
        ),
        (format!("<<<<<<< ours\n{whole}"), "not a baseline of mantissa (expected value at line 1"),
        ("\u{7f}ELF\u{2}\0\0".to_owned(), "not a baseline of mantissa (expected value at line 1"),
    ];
    for (text, said) in rows {
        assert_ne!(text, whole, "{said}");
        store::write(&file, text.as_bytes()).unwrap();
        let ran = mantissa(at, &["check", "run", "--format=json"]);
        assert_eq!(ran.code, Some(4), "{said}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
        let judgement: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(
            (&judgement["outcome"], &judgement["judged"]),
            (&json!("nothing judged"), &json!(0))
        );
        assert_eq!(mantissa(at, &["baseline", "list"]).code, Some(4));
    }
}

#[test]
fn a_baseline_that_is_no_regular_file_is_exit_code_4_and_accepting_mends_what_is_broken() {
    let folder = accepted();
    let at = folder.path();
    let file = baseline(at);
    let whole = store::read(&file).unwrap();
    // A sparse file of a gigabyte.
    std::fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    let ran = mantissa(at, &["check", "run"]);
    assert!(
        ran.code == Some(4) && ran.stderr.contains("such a file has at most"),
        "{}",
        ran.stderr
    );
    store::remove(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let ran = mantissa(at, &["check", "run"]);
    assert!(ran.code == Some(4) && ran.stderr.contains("is a folder"), "{}", ran.stderr);
    // Accepting mends what is no baseline, and leaves what is newer.
    std::fs::remove_dir(&file).unwrap();
    store::write(&file, b"{").unwrap();
    assert_eq!(mantissa(at, &["baseline", "accept", "run", "--reason", "first"]).code, Some(0));
    assert_eq!(store::read(&file).unwrap(), whole);
    store::write(&file, b"{\"schema\": 2}").unwrap();
    assert_eq!(mantissa(at, &["baseline", "accept", "run"]).code, Some(4));
    assert_eq!(store::read(&file).unwrap(), b"{\"schema\": 2}");
}

/// The same of results: exit code 2, and the file is named.
#[test]
fn malformed_results_are_exit_code_2() {
    let folder = accepted();
    let at = folder.path();
    let file = at.join("run/results.json");
    let whole = String::from_utf8(store::read(&file).unwrap()).unwrap();
    let rows = [
        (String::new(), "cut short: EOF while parsing a value at line 1 column 0"),
        (whole[..whole.len() / 2].to_owned(), "cut short: EOF"),
        (format!("{whole}{whole}"), "trailing characters"),
        ("\u{7f}ELF\u{2}\0\0".to_owned(), "expected value at line 1 column 1"),
        ("{}".to_owned(), "missing field `schema`"),
        ("[1]".to_owned(), "not a valid results file"),
        (whole.replacen("\"schema\": ", "\"schema\": 9", 1), "is newer than this program's"),
        (
            whole.replacen("\"complete\": true", "\"complete\": 1", 1),
            "complete: invalid type: integer `1`",
        ),
        (
            whole.replacen("\"complete\": true", "\"complete\": true, \"complete\": true", 1),
            "duplicate field `complete`",
        ),
        (whole.replacen("\"status\": \"", "\"status\": \"un", 1), "status: unknown variant"),
        (whole.replacen("\"test_accuracy\": 0.", "\"test_accuracy\": 7.", 1), "outside 0 to 1"),
        (
            whole.replacen("\"test_accuracy\": 0.", "\"test_accuracy\": NaN0.", 1),
            "test_accuracy: expected value",
        ),
        (
            whole.replacen("\"test_accuracy\": 0.", "\"test_accuracy\": -1e999, \"x\": 0.", 1),
            "number out of range",
        ),
        (whole.replacen("\"lost\": ", "\"lost\": 99999999999999999999", 1), "lost: "),
    ];
    for (text, said) in rows {
        assert_ne!(text, whole, "{said}");
        store::write(&file, text.as_bytes()).unwrap();
        for command in [&["check", "run"][..], &["baseline", "accept", "run"], &["show", "run"]] {
            let ran = mantissa(at, command);
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{said}: {}", ran.stderr);
            let named = ran.stderr.starts_with("mantissa: run/results.json: ");
            assert!(named && ran.stderr.contains(said), "{said}: {}", ran.stderr);
        }
    }
    store::write(&file, b"\xff\xfe").unwrap();
    assert_eq!(mantissa(at, &["check", "run"]).code, Some(2));
    // A sparse file, larger than any results.
    std::fs::File::create(&file).unwrap().set_len(store::MOST_RESULTS + 1).unwrap();
    let ran = mantissa(at, &["check", "run"]);
    assert!(ran.stderr.contains("run/results.json: cannot read: has "), "{}", ran.stderr);
    assert!(matches!(ran.code, Some(2 | 3)), "{:?}", ran.code);
    store::remove(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let ran = mantissa(at, &["check", "run"]);
    assert!(
        ran.code == Some(2) && ran.stderr.contains("run/results.json: not found"),
        "{}",
        ran.stderr
    );
}

/// What a check says of one failure.
const SUMMARY: &str =
    "42 metrics judged: 41 passed, 1 failed, 0 inconclusive, 0 allowed; 0 not judged";

/// The judgement is printed in every form, whatever the exit code.
#[test]
fn a_failing_check_prints_its_judgement_in_every_form() {
    let folder = accepted();
    let at = folder.path();
    edit(&at.join("run/results.json"), |r| {
        r["variants"][0]["runs"][0]["test_accuracy"] = json!(0.0);
    });
    for format in [
        "text",
        "json",
        "markdown",
        "junit",
        "github",
        "bencher",
        "benchmark-action",
        "openmetrics",
    ] {
        let ran = mantissa(at, &["check", "run", "--format", format]);
        assert_eq!(ran.code, Some(1), "{format}");
        assert!(ran.stdout.lines().count() > 1, "{format}: {}", ran.stdout);
        assert_eq!(ran.stderr.lines().last(), Some(&*format!("mantissa: {SUMMARY}")), "{format}");
    }
    // The same to a file, beside what is printed.
    let json = mantissa(at, &["check", "run", "--format=json"]).stdout;
    let ran = mantissa(
        at,
        &["check", "run", "--write=json=new/check.json", "--write", "junit=junit.xml"],
    );
    assert_eq!((ran.code, ran.stdout.lines().last()), (Some(1), Some(SUMMARY)));
    assert_eq!(store::read_to_string(&at.join("new/check.json")).unwrap(), json);
    assert!(store::read_to_string(&at.join("junit.xml")).unwrap().contains("<failure "));
    for (written, said) in [
        ("--write=json", "expected FORMAT=PATH, such as junit=junit.xml"),
        ("--write=json=", "expected FORMAT=PATH, such as junit=junit.xml"),
        ("--write=xml=a", "unknown format \"xml\"; known: text, json,"),
    ] {
        let ran = mantissa(at, &["check", "run", written]);
        assert!(ran.code == Some(2) && ran.stderr.contains(said), "{}", ran.stderr);
    }
    let ran = mantissa(at, &["check", "run", "--allow", "fp32/test_accuracy/seed-0=known"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("allowed: known"), "{}", ran.stdout);
    assert_eq!(mantissa(at, &["check", "run", "--format=xml"]).code, Some(2));
}

/// Results of other settings under the plan of the baseline: what a changed program would have left.
#[test]
fn changes_for_the_worse_are_caught_by_the_metrics_that_they_move() {
    let folder = accepted();
    let at = folder.path();
    let plan = read(&at.join("run/results.json"))["plan"].clone();
    let mixed = |scale: &str| {
        let policy = format!("params=f32,compute=f16,reduce=f32,scale={scale}");
        format!("--set=variants=[\"fp32\",{{name=\"fp16-mixed\",policy=\"{policy}\"}}]")
    };
    let scale = mixed("dynamic:init=268435456");
    let rows: [(&str, &str, &[&str], &[&str]); 2] = [
        // The loss scale starts at 2²⁸ in place of 2¹⁶.
        ("scale", &scale, &["fp16-mixed/skipped_steps/seed-0", "fp16-mixed/overflow_"], &["fp32/"]),
        (
            "rate",
            "--set=train.optimizer.lr=0.01",
            &["fp32/final_loss/seed-0", "fp16-mixed/final_loss"],
            &["/diverged"],
        ),
    ];
    for (out, change, caught, spared) in rows {
        train(at, out, &[change]);
        edit(&at.join(out).join("results.json"), |r| r["plan"] = plan.clone());
        let ran = mantissa(at, &["check", out]);
        assert_eq!(ran.code, Some(1), "{out}: {}", ran.stdout);
        let failed = |part: &str| {
            ran.stdout.lines().any(|line| line.starts_with("failed: ") && line.contains(part))
        };
        assert!(caught.iter().all(|part| failed(part)), "{out}: {}", ran.stdout);
        assert!(!spared.iter().any(|part| failed(part)), "{out}: {}", ran.stdout);
    }
}

/// Without a pin every processor takes its best instructions; the same pin gives the same numbers, and another is told.
#[test]
fn instruction_paths_are_compared_where_they_are_alike_and_named_where_not() {
    let folder = accepted();
    let at = folder.path();
    if !mantissa::ops::Isa::Avx2.is_here() {
        println!("skipped: this processor has no AVX2");
        return;
    }
    for out in ["one", "two"] {
        let arguments = [&["experiment", "--device=cpu", "--out", out][..], &TINY].concat();
        assert_eq!(on("avx2", at, &arguments).code, Some(0));
    }
    let ran = on("avx2", at, &["check", "one"]);
    assert_eq!(ran.code, Some(4), "{}", ran.stdout);
    let told = "products of f32 run as \"portable\" there, as \"FMA of AVX2\" here";
    assert!(ran.stdout.contains(told), "{}", ran.stdout);
    assert_eq!(on("avx2", at, &["baseline", "accept", "one"]).code, Some(0));
    assert_eq!(store::list(&at.join("baselines/tiny")).unwrap().len(), 2);
    assert_eq!(on("avx2", at, &["check", "two"]).code, Some(0));
    assert_eq!(mantissa(at, &["check", "run"]).code, Some(0));
}
