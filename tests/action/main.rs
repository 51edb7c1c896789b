//! The GitHub Action: `action.yml` is read and its steps are run as GitHub runs them, with files in place of GitHub's, a
//! program `gh` that keeps comments in a folder, and the real `mantissa` or one that ends as it is told.
//!
//! Needs bash and jq, which GitHub's machines have; without them the tests say that they were skipped.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod machine;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mantissa::store;
use yaml_rust2::YamlLoader;

use machine::{Machine, action, entries};

/// The steps of a job with a program that is given, in which nothing went wrong before the check.
const STEPS: [&str; 5] = ["run", "check", "actions/upload-artifact@v4", "comment", "finish"];

/// An experiment of a second.
const SPEC: &str = r#"
name = "tiny"
seeds = 1
variants = ["fp32", "fp16-mixed"]
[data]
kind = "digits"
train = 64
test = 40
[model]
kind = "mlp"
hidden = [16]
[train]
steps = 8
batch = 16
optimizer = { kind = "sgd", lr = 0.1 }
schedule = { kind = "cosine", warmup = 2 }
[measure]
census_every = 3
timing_blocks = 0
"#;

#[test]
fn the_real_program_passes_then_catches_a_regression_then_misses_its_baseline() {
    let Some(machine) = Machine::new() else { return };
    // A name that a shell would take apart and run.
    let spec = "my spec $(touch pwned) `touch pwned`;touch pwned.toml";
    store::write(&machine.at("work").join(spec), SPEC.as_bytes()).unwrap();
    machine.mantissa(&["experiment", spec, "--out=first", "--device=cpu", "--quiet"]);
    machine.mantissa(&["baseline", "accept", "first", "--reason", "first"]);
    let inputs = [("spec", spec), ("binary", env!("CARGO_BIN_EXE_mantissa")), ("strict", "true")];

    let job = machine.run(&inputs);
    // Of 2 variants: 5 of a seed, 8 counts of roles, lost updates and 2 of memory.
    let counts = "32 metrics judged: 32 passed, 0 failed, 0 inconclusive, 0 allowed; 0 not judged";
    assert_eq!((job.code, job.steps.as_slice()), (0, &STEPS.map(str::to_owned)[..]), "{}", job.log);
    assert_eq!(job.outputs["exit-code"], "0");
    assert_eq!(job.outputs["summary"], counts);
    assert!(Path::new(&job.outputs["report"]).join("report.html").exists());
    assert!(job.summary.starts_with("### Mantissa, tiny: no regression\n"), "{}", job.summary);
    assert!(job.summary.contains("\n#### The experiment\n") && job.summary.contains("| fp32 |"));
    for file in ["check.md", "junit.xml", "check.json", "experiment.log", "report/results.json"] {
        assert!(machine.at("temp/mantissa/mantissa").join(file).exists(), "{file}");
    }

    let baselines = store::list(&machine.at("work/baselines/tiny")).unwrap();
    let text = store::read_to_string(&baselines[0]).unwrap();
    let changed = text.replacen("/skipped_steps/seed-0\": 0", "/skipped_steps/seed-0\": 3", 1);
    assert_ne!(text, changed);
    store::write(&baselines[0], changed.as_bytes()).unwrap();
    let job = machine.run(&inputs);
    assert_eq!((job.code, job.steps.as_slice()), (1, &STEPS.map(str::to_owned)[..]), "{}", job.log);
    assert_eq!(job.outputs["exit-code"], "1");
    assert!(job.log.contains("::error title=mantissa%2C failed%3A fp16-mixed/skipped_steps/"));
    assert!(job.summary.starts_with("### Mantissa, tiny: a regression\n"), "{}", job.summary);
    let comments = machine.comments();
    assert_eq!(comments.len(), 1);
    assert!(comments[0].contains("fp16-mixed/skipped\\_steps/seed-0 | 3 | 0 |"), "{}", comments[0]);

    store::remove(&baselines[0]).unwrap();
    let job = machine.run(&inputs);
    assert_eq!((job.code, job.steps.as_slice()), (4, &STEPS.map(str::to_owned)[..]), "{}", job.log);
    assert_eq!(job.outputs["exit-code"], "4");
    assert!(job.summary.contains("nothing could be judged"), "{}", job.summary);
    assert!(job.outputs["summary"].contains("no baseline; make results the baseline with"));

    let named = |file: &PathBuf| file.to_string_lossy().contains("pwned");
    let files = store::list(&machine.at("work")).unwrap();
    assert_eq!(files.iter().filter(|file| named(file)).count(), 1, "{files:?}");
}

/// What the program ends with is what the job ends with; other codes, of signals and panics, mean that the machine failed.
#[test]
fn every_exit_code_keeps_its_meaning() {
    let Some(mut machine) = Machine::new() else { return };
    let rows = [
        ("0", "0", 0),
        ("0", "1", 1),
        ("0", "2", 2),
        ("0", "3", 3),
        ("0", "4", 4),
        ("0", "101", 3),
        ("0", "kill", 3),
        ("2", "0", 2),
        ("3", "0", 3),
        ("137", "0", 3),
        // Only a check finds a regression.
        ("1", "0", 3),
    ];
    for (experiment, check, code) in rows {
        machine.environment = vec![("EXPERIMENT", experiment.into()), ("CHECK", check.into())];
        let job = machine.run(&[("spec", "a.toml"), ("binary", "mantissa")]);
        assert_eq!((job.code, job.outputs["exit-code"].as_str()), (code, &*code.to_string()));
        assert_eq!(job.steps, STEPS, "{experiment} {check}");
        assert!(job.summary.starts_with("### "), "{}", job.summary);
        let said = if experiment == "0" { "1 failed" } else { "the experiment is done" };
        assert_eq!(job.outputs["summary"], said);
        let comment = machine.comments().concat();
        let told = job.summary.lines().next().unwrap();
        assert!(comment.contains(told), "{comment}");
    }
}

#[test]
fn a_comment_is_posted_once_and_updated() {
    let Some(mut machine) = Machine::new() else { return };
    // Somebody else's comment with the marker, and a bot's of another name.
    let others = ["<!-- mantissa check: mantissa -->\nfine!", "<!-- mantissa check: b -->"];
    store::write(&machine.at("comments/1"), others[0].as_bytes()).unwrap();
    store::write(&machine.at("comments/10"), others[1].as_bytes()).unwrap();
    let inputs = [("spec", "a.toml"), ("binary", "mantissa")];
    for check in ["0", "1", "4"] {
        machine.environment = vec![("CHECK", check.to_owned())];
        machine.run(&inputs);
        let comments = machine.comments();
        assert_eq!(comments.len(), 3, "{comments:?}");
        assert_eq!([&comments[0], &comments[1]], others);
        assert_eq!(
            comments[2],
            "<!-- mantissa check: mantissa -->\n### Judged\n\n#### The experiment\n\n| variant |\n\n\
             [Log and artifacts](https://github.com/me/project/actions/runs/42)\n"
        );
    }
    let calls = machine.read("comments.calls");
    let methods: Vec<&str> = calls.split_whitespace().filter(|word| is_method(word)).collect();
    assert_eq!(methods, ["POST", "PATCH", "PATCH"], "{calls}");

    machine.run(&[&inputs[..], &[("comment", "false")]].concat());
    machine.number = "";
    let job = machine.run(&inputs);
    assert!(job.log.contains("This is no pull request: no comment."), "{}", job.log);
    assert_eq!(machine.read("comments.calls"), calls);
}

fn is_method(word: &str) -> bool {
    ["POST", "PATCH"].contains(&word)
}

#[test]
fn without_permission_there_is_the_summary_and_the_same_exit_code() {
    let Some(mut machine) = Machine::new() else { return };
    let rows = [
        (
            "Resource not accessible by integration (HTTP 403)",
            "::notice title=mantissa::no permission",
        ),
        ("Server Error (HTTP 502)", "::warning title=mantissa::the comment could not be posted"),
    ];
    for (refused, said) in rows {
        for code in [0, 1, 4] {
            machine.environment =
                vec![("REFUSED", refused.to_owned()), ("CHECK", code.to_string())];
            let job = machine.run(&[("spec", "a.toml"), ("binary", "mantissa")]);
            assert_eq!((job.code, job.steps.as_slice()), (code, &STEPS.map(str::to_owned)[..]));
            assert!(job.log.contains(said), "{}", job.log);
            assert!(job.summary.starts_with("### Judged\n"), "{}", job.summary);
            assert_eq!(machine.comments(), [""; 0]);
        }
    }
}

#[test]
fn inputs_reach_the_program_as_they_are() {
    let Some(machine) = Machine::new() else { return };
    let job = machine.run(&[
        ("spec", "--version"),
        ("binary", "mantissa"),
        ("baseline", "a \"b\" $HOME"),
        ("device", "cuda:1"),
        ("strict", "true"),
        ("allow", "lost_updates=known, $(touch pwned)\r\n\n*=x\n"),
    ]);
    assert_eq!(job.code, 0, "{}", job.log);
    let arguments = machine.read("temp/arguments");
    let out = machine.at("temp/mantissa/mantissa").display().to_string();
    let expected = format!(
        "experiment\n--out={out}/report\n--device=cuda:1\n--quiet\n--\n--version\n\
         check\n--baseline=a \"b\" $HOME\n--format=github\n--write=markdown={out}/check.md\n--write=junit={out}/junit.xml\n\
         --write=json={out}/check.json\n--strict\n--allow=lost_updates=known, $(touch pwned)\n--allow=*=x\n--\n{out}/report\n"
    );
    assert_eq!(arguments, expected);
    assert_eq!(store::list(&machine.at("work")).unwrap(), [""; 0].map(PathBuf::from));
}

/// An input that cannot be is wrong usage, 2, and the job fails.
#[test]
fn a_wrong_input_is_exit_code_2() {
    let Some(machine) = Machine::new() else { return };
    let rows = [
        ("spec", "", "input spec: expected the file of an experiment"),
        ("strict", "yes", "input strict: expected true or false"),
        ("comment", "1", "input comment: expected true or false"),
        ("name", "../x", "input name: expected letters"),
        ("name", "a --> b", "input name: expected letters"),
        ("binary", "absent/mantissa", "no program at absent/mantissa"),
    ];
    for (name, value, said) in rows {
        let job = machine.run(&[("spec", "a.toml"), ("binary", "mantissa"), (name, value)]);
        assert!(job.log.contains(&format!("::error title=mantissa::{said}")), "{}", job.log);
        assert_eq!(job.code, 2, "{name}");
    }
}

/// Without a program the action builds its own; where that fails, nothing is run, and the job fails.
#[test]
fn the_program_is_built_and_a_build_that_fails_fails_the_job() {
    let Some(machine) = Machine::new() else { return };
    machine.program("bin/rustup", "#!/bin/sh\n");
    machine.program("bin/rustc", "#!/bin/sh\necho 'rustc 1.95.0 (abc)'\n");
    machine.program(
        "bin/cargo",
        "#!/bin/sh\necho \"cargo $*\"\nmkdir -p \"$RUNNER_TEMP/mantissa-build/release\"\n\
         cp \"$(dirname \"$0\")/mantissa\" \"$RUNNER_TEMP/mantissa-build/release/\"\n",
    );
    let before = ["key", "actions/cache/restore@v4", "build", "actions/cache/save@v4"];
    let job = machine.run(&[("spec", "a.toml")]);
    assert_eq!(job.code, 0, "{}", job.log);
    assert_eq!(job.steps, [&before[..], &STEPS].concat());
    assert!(job.log.contains("cargo build --release --locked --bin mantissa "), "{}", job.log);

    machine.program("bin/cargo", "#!/bin/sh\nexit 101\n");
    let job = machine.run(&[("spec", "a.toml")]);
    assert_eq!(job.code, 3, "{}", job.log);
    assert_eq!(job.steps, [&before[..3], &STEPS[2..]].concat());
    assert_eq!(job.outputs["exit-code"], "");
    let comments = machine.comments();
    assert!(comments[0].contains("The check did not run; the log says why."), "{comments:?}");
}

#[test]
fn a_long_table_is_cut_by_whole_lines_with_a_sentence() {
    let Some(machine) = Machine::new() else { return };
    let mut table = String::new();
    for row in 0..100_000 {
        let _ = writeln!(table, "| é {row} |");
    }
    store::write(&machine.at("table.md"), table.as_bytes()).unwrap();
    let job = machine.run(&[("spec", "a.toml"), ("binary", "mantissa")]);
    let end = "|\n\nThe rest is left out here; it is in the artifact mantissa.\n";
    assert!(job.summary.ends_with(end) && job.summary.len() < 1 << 20, "{}", job.summary.len());
    let comments = machine.comments();
    assert!(comments[0].contains(end) && comments[0].len() < 65_536, "{}", comments[0].len());
    assert!(job.summary.len() > 990_000 && comments[0].len() > 59_000);
}

/// The job for GitLab, as GitLab runs it: its lines in one shell that ends with the first that fails.
#[test]
fn the_lines_for_gitlab_pass_and_fail_with_the_exit_code_of_the_check() {
    let Some(machine) = Machine::new() else { return };
    let work = machine.at("work");
    store::write(&work.join("ci.toml"), SPEC.as_bytes()).unwrap();
    std::fs::create_dir_all(work.join(".mantissa/bin")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_mantissa"));
    std::os::unix::fs::symlink(program, work.join(".mantissa/bin/mantissa")).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gitlab-ci.yml");
    let job = YamlLoader::load_from_str(&store::read_to_string(&path).unwrap()).unwrap().remove(0);
    let job = &job["mantissa"];
    let lines = job["script"].as_vec().unwrap().iter().map(|line| line.as_str().unwrap());
    let script = lines.collect::<Vec<_>>().join("\n");
    let run = || {
        let mut bash = Command::new("bash");
        let bash = bash.args(["-eo", "pipefail", "-c", &script]).current_dir(&work);
        bash.env("MANTISSA_ISA", "portable").output().unwrap().status.code()
    };
    assert_eq!(run(), Some(4), "there is no baseline");
    machine.mantissa(&["baseline", "accept", "mantissa-report"]);
    assert_eq!(run(), Some(0));
    let baseline = &store::list(&work.join("baselines/tiny")).unwrap()[0];
    let text = store::read_to_string(baseline).unwrap();
    let changed = text.replacen("/skipped_steps/seed-0\": 0", "/skipped_steps/seed-0\": 3", 1);
    store::write(baseline, changed.as_bytes()).unwrap();
    assert_eq!(run(), Some(1));
    let artifacts = &job["artifacts"];
    assert_eq!(artifacts["when"].as_str(), Some("always"));
    let junit = work.join(artifacts["reports"]["junit"].as_str().unwrap());
    assert!(store::read_to_string(&junit).unwrap().contains("<failure "));
}

/// Each declared input is used, and is in the documentation.
#[test]
fn every_input_is_used_and_documented() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = store::read_to_string(&folder.join("action.yml")).unwrap();
    let docs = store::read_to_string(&folder.join("docs/ci.md")).unwrap();
    let action = action();
    assert_eq!(entries(&action["inputs"]).count(), 10);
    for (name, input) in entries(&action["inputs"]) {
        assert!(text.contains(&format!("inputs.{name} ")), "{name}");
        assert!(docs.contains(&format!("| `{name}` |")), "{name}");
        assert!(input["description"].as_str().is_some(), "{name}");
    }
    for (name, _) in entries(&action["outputs"]) {
        assert!(docs.contains(&format!("`{name}`")), "{name}");
    }
}
