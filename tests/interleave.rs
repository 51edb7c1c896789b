//! `mantissa time` and `mantissa compare --interleave` from outside. No test depends on a speed: where one must fail, both builds
//! are scripts that print blocks with times made by hand.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use mantissa::store;
use serde_json::{Value, json};

/// Two variants of a network that takes no time.
const SPEC: &str = "name = 'tiny'\nvariants = ['fp32', 'fp16-mixed']\nseeds = 1\n\
    [data]\nkind = 'digits'\ntrain = 64\ntest = 40\n\
    [model]\nkind = 'mlp'\nhidden = [16]\n\
    [train]\nsteps = 8\nbatch = 16\noptimizer = {kind = 'sgd', lr = 0.1}\n\
    [measure]\ntiming_blocks = 0\ntiming_steps = 2\ntiming_warmup = 1\n";

/// The blocks that decide on twelve times: 12 · 2 ÷ 2ⁿ is under 0.05 from 9 on.
const ROUNDS: usize = 9;

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// The last line of stderr.
    fn told(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }
}

fn mantissa(folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::cargo_bin("mantissa").unwrap();
    command.current_dir(folder).env("MANTISSA_ISA", "portable").args(arguments);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A folder with the spec, and a block of it with times made by hand.
fn folder() -> (tempfile::TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    store::write(&folder.path().join("tiny.toml"), SPEC.as_bytes()).unwrap();
    let ran = mantissa(folder.path(), &["time", "tiny.toml", "--device=cpu", "--threads=1"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut block: Value = serde_json::from_str(&ran.stdout).unwrap();
    for (metric, time) in [
        ("step", 0.01),
        ("forward", 0.003),
        ("backward", 0.004),
        ("unscale", 0.001),
        ("update", 0.002),
        ("inference", 0.004),
    ] {
        for variant in ["fp32", "fp16-mixed"] {
            let old = block["times"][format!("{variant}/{metric}_seconds")].take();
            assert!(old.as_f64().unwrap() > 0.0, "{block}");
            block["times"][format!("{variant}/{metric}_seconds")] = json!(time);
        }
    }
    (folder, block)
}

/// A script `name` in `folder`.
fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    store::write(&path, format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A build `name` that prints `first` in its first phase and `then` behind it.
fn build(folder: &Path, name: &str, first: &Value, then: &Value) {
    for (part, block) in [("first", first), ("then", then)] {
        let file = folder.join(format!("{name}.{part}"));
        store::write(&file, block.to_string().as_bytes()).unwrap();
    }
    let text = format!(
        "echo x >> {name}.calls\n[ $(wc -l < {name}.calls) -le {ROUNDS} ] && cat {name}.first || cat {name}.then"
    );
    script(folder, name, &text);
}

/// The block with its training steps of `fp16-mixed` so many times as long.
fn slower(block: &Value, factor: f64) -> Value {
    let mut block = block.clone();
    block["times"]["fp16-mixed/step_seconds"] = json!(0.01 * factor);
    block
}

fn calls(folder: &Path, name: &str) -> usize {
    store::read_to_string(&folder.join(format!("{name}.calls"))).unwrap().lines().count()
}

#[test]
fn a_block_has_a_documented_form() {
    let (_folder, block) = folder();
    let keys: Vec<&str> = block.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "data_digest",
        "experiment",
        "machine",
        "mantissa_time",
        "plan",
        "plan_digest",
        "program",
        "times",
        "untimed",
    ];
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert_eq!((&block["mantissa_time"], &block["experiment"]), (&json!(1), &json!("tiny")));
    assert_eq!(block["times"].as_object().unwrap().len(), 12);
}

#[test]
fn a_build_against_itself_is_timed_in_turns_and_does_not_fail() {
    let (folder, _) = folder();
    let binary = assert_cmd::cargo::cargo_bin("mantissa");
    let binary = binary.to_str().unwrap();
    let arguments =
        ["compare", "--interleave", binary, binary, "tiny.toml", "--rounds=3", "--device=cpu"];
    let ran = mantissa(folder.path(), &arguments);
    // Three rounds cannot decide.
    let summary = "12 metrics judged: 0 passed, 0 failed, 12 inconclusive, 0 allowed; 0 not judged";
    assert_eq!(ran.stdout.lines().last(), Some(summary), "{}", ran.stderr);
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    assert!(ran.told().contains("nothing could be judged: every metric is inconclusive; "));
    assert!(ran.stderr.contains("timing: round 3 of 3\n"), "{}", ran.stderr);
}

#[test]
fn a_build_that_is_slower_in_both_phases_fails() {
    let (folder, block) = folder();
    let at = folder.path();
    build(at, "a", &block, &block);
    build(at, "b", &slower(&block, 1.5), &slower(&block, 1.5));
    for (arguments, code) in [
        (&[][..], 1),
        (&["--allow=fp16-mixed/step_seconds=known"], 0),
        (&["--allow=fp16-mixed/train_seconds=known"], 2),
        (&["--format=junit"], 1),
    ] {
        for name in ["a", "b"] {
            store::write(&at.join(format!("{name}.calls")), b"").unwrap();
        }
        let ran = mantissa(
            at,
            &[&["compare", "--interleave", "a", "b", "tiny.toml"], arguments].concat(),
        );
        assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.stderr);
        if code != 2 {
            let why =
                "is 1.500 times A's (1.500 to 1.500); a second timing phase: is 1.500 times A's";
            // XML has another form of an apostrophe.
            let said = ran.stdout.replace("&apos;", "'");
            assert!(said.contains(why), "{}", ran.stdout);
            assert!(ran.stderr.contains("second timing: round 9 of 9\n"), "{}", ran.stderr);
            assert_eq!([calls(at, "a"), calls(at, "b")], [2 * ROUNDS; 2]);
        }
    }
}

#[test]
fn a_build_that_is_slower_in_the_first_phase_only_is_inconclusive() {
    let (folder, block) = folder();
    let at = folder.path();
    build(at, "a", &block, &block);
    build(at, "b", &slower(&block, 1.5), &block);
    let ran = mantissa(at, &["compare", "a", "b", "tiny.toml", "--interleave"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let why = "is 1.500 times A's (1.500 to 1.500); a second timing phase: is 1.000 times A's";
    assert!(ran.stdout.contains(why), "{}", ran.stdout);
    // A is timed again too.
    assert_eq!([calls(at, "a"), calls(at, "b")], [2 * ROUNDS; 2]);
    for name in ["a", "b"] {
        store::write(&at.join(format!("{name}.calls")), b"").unwrap();
    }
    let strict = mantissa(at, &["compare", "a", "b", "tiny.toml", "--interleave", "--strict"]);
    assert_eq!(strict.code, Some(1), "{}", strict.stderr);
    // As fast as before, and in the order A B, B A: one phase.
    for name in ["a", "b"] {
        script(at, name, &format!("echo {name} >> order\ncat a.first"));
    }
    let same = mantissa(at, &["compare", "a", "b", "tiny.toml", "--interleave", "--rounds=10"]);
    assert_eq!(same.code, Some(0), "{}", same.stderr);
    let order = store::read_to_string(&at.join("order")).unwrap();
    assert_eq!(order.lines().collect::<String>(), "abba".repeat(5));
}

/// Text of the script that stands for build B, the exit code, and what is told.
const BAD_BUILDS: [(&str, i32, &str); 8] = [
    (
        "echo \"error: unrecognized subcommand 'time'\" >&2; exit 2",
        4,
        "b (build B): is too old to be timed, as it knows no command `time` (error: unrecognized subcommand 'time')",
    ),
    (
        "[ \"$2\" = --help ] && exit 0; echo 'mantissa: tiny.toml: not found' >&2; exit 2",
        2,
        "b (build B): mantissa: tiny.toml: not found",
    ),
    ("echo hello", 2, "printed what is not a timed block of mantissa (expected value"),
    ("echo '{}'", 2, "(it has no mantissa_time)"),
    ("exec yes", 3, "b (build B): ended by signal 13"),
    (
        "echo '{\"mantissa_time\": 2}'",
        4,
        "version 2 of a timed block is newer than this program's 1",
    ),
    ("echo one >&2; echo two >&2; exit 3", 3, "b (build B): failed with exit code 3: one; two"),
    ("kill -9 $$", 3, "b (build B): ended by signal 9"),
];

#[test]
fn each_bad_build_has_its_exit_code_and_sentence() {
    let (folder, block) = folder();
    let at = folder.path();
    build(at, "a", &block, &block);
    let told = |code: i32, said: &str| {
        let ran = mantissa(at, &["compare", "a", "b", "tiny.toml", "--interleave"]);
        assert_eq!(ran.code, Some(code), "{said}: {}", ran.stderr);
        assert!(
            ran.told().starts_with("mantissa: ") && ran.told().contains(said),
            "{said}: {}",
            ran.told()
        );
    };
    told(2, "b: not found, or no file; give the binary of build B");
    store::write(&at.join("b"), b"text").unwrap();
    told(2, "b: cannot be run: ");
    for (text, code, said) in BAD_BUILDS {
        script(at, "b", text);
        told(code, said);
    }
    let mut other = block.clone();
    other["plan_digest"] = json!("0123456789abcdef");
    other["plan"]["train"]["steps"] = json!(9);
    build(at, "b", &other, &other);
    told(4, "and 0123456789ab: train.steps is 8 there, 9 here");
    let mut one = block.clone();
    one["times"].as_object_mut().unwrap().retain(|key, _| key.starts_with("fp32/"));
    build(at, "b", &one, &one);
    let ran = mantissa(at, &["compare", "a", "b", "tiny.toml", "--interleave"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stdout.contains("is missing: A has it, and B does not"), "{}", ran.stdout);
}

#[test]
fn options_go_to_both_builds_and_need_interleave() {
    let (folder, _) = folder();
    let at = folder.path();
    for name in ["a", "b"] {
        script(at, name, &format!("echo \"$@\" > {name}.arguments; exit 3"));
    }
    let options = ["--device=cpu", "--set=train.batch=8", "--variants=fp32,bf16", "--threads=1"];
    let start = ["compare", "--interleave", "a", "b", "tiny.toml"];
    assert_eq!(mantissa(at, &[&start[..], &options].concat()).code, Some(3));
    let arguments = store::read_to_string(&at.join("a.arguments")).unwrap();
    let expected = "time --block 0 --device=cpu --variants=fp32,bf16 --threads=1 --set=train.batch=8 -- tiny.toml\n";
    assert_eq!(arguments, expected);
    let rows: [(&[&str], &str); 4] = [
        (&["compare", "a", "b", "--threads=1"], "--threads is for --interleave"),
        (&["compare", "a", "b", "tiny.toml"], "--interleave"),
        (&["compare", "a", "b", "--interleave"], "<SPEC>"),
        (&["compare", "a", "b", "--rounds=9"], "--interleave"),
    ];
    for (arguments, said) in rows {
        let ran = mantissa(at, arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}");
        assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    }
}
