//! The command line from outside: what bad input says, on one line of stderr, and the exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use assert_cmd::Command;

/// Runs `mantissa` in `folder`, and returns its exit code, stdout and stderr.
fn mantissa(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::cargo_bin("mantissa").unwrap();
    let output = command.current_dir(folder).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Each row: arguments, exit code, and all of stderr. Nothing may be printed on stdout, and no file left behind.
fn check(rows: &[(&[&str], i32, &str)]) {
    for (arguments, code, complaint) in rows {
        let folder = tempfile::tempdir().unwrap();
        std::fs::File::create(folder.path().join("file")).unwrap();
        let expected = (Some(*code), String::new(), format!("mantissa: {complaint}\n"));
        assert_eq!(mantissa(folder.path(), arguments), expected, "{arguments:?}");
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "{arguments:?} left something behind");
    }
}

#[test]
fn a_bad_spec_is_one_line_and_exit_code_2() {
    check(&[
        (
            &["experiment", "absent.toml"],
            2,
            "absent.toml: cannot read: No such file or directory (os error 2)",
        ),
        (
            &["experiment", "--set", "train.stesp=3"],
            2,
            "--set train.stesp=3: train.stesp: unknown key \"stesp\"; known: steps, batch, accumulate, optimizer, \
             schedule, clip_norm, label_smoothing, evaluate_every, cuda_graphs",
        ),
        (
            &["experiment", "--set", "data.kind=imagenet"],
            2,
            "--set data.kind=imagenet: data.kind: unknown value \"imagenet\"; known: digits, idx, cifar10, cifar100",
        ),
        (
            &["experiment", "--set", "variants=[\"fp8\"]"],
            2,
            "--set variants=[\"fp8\"]: variants[0].policy: unknown policy \"fp8\"; known: fp32, tf32, fp16-mixed, \
             bf16-mixed, fp16-true, bf16-true, or a text such as params=f32,compute=f16,reduce=f32,scale=dynamic",
        ),
        (
            &["experiment", "--set", "model.hidden=[0]"],
            2,
            "--set model.hidden=[0]: model.hidden[0]: is 0; must be 1 to 65536",
        ),
        (
            &["experiment", "--set=data.train=50", "--set=train.batch=64"],
            2,
            "--set train.batch=64: train.batch: is 64, but there are only 50 training images; choose 1 to 50",
        ),
        (
            &["experiment", "--set", "steps"],
            2,
            "--set steps: expected key=value, such as train.steps=100",
        ),
        (
            &["experiment", "--variants", "fp32,fp7"],
            2,
            "--variants: unknown variant \"fp7\"; in the spec: fp32, fp16-mixed, bf16-mixed, fp16-true, bf16-true; \
             policies: fp32, tf32, fp16-mixed, bf16-mixed, fp16-true, bf16-true",
        ),
        (&["experiment", "--seeds", "0"], 2, "--seeds: is 0; must be 1 to 10000"),
        (
            &["report", "nowhere"],
            2,
            "nowhere/results.json: not found; give the folder that `mantissa experiment` wrote with --out",
        ),
    ]);
}

#[test]
fn a_folder_that_cannot_be_written_is_found_before_training() {
    check(&[
        (
            &["experiment", "--out", "file"],
            2,
            "file: cannot make the folder: File exists (os error 17)",
        ),
        (
            &["experiment", "--out", "file/below"],
            2,
            "file/below: cannot make the folder: Not a directory (os error 20)",
        ),
    ]);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn cuda_in_a_build_without_it_is_exit_code_3() {
    for (device, named) in [("cuda", "cuda:0"), ("cuda:1", "cuda:1")] {
        check(&[(
            &["experiment", "--device", device],
            3,
            &format!(
                "--device {named}: this program was built without CUDA; build it with --features cuda or use --device cpu"
            ),
        )]);
    }
}

// On a machine with a driver it counts its GPUs, on one without it says so.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_that_is_not_there_is_one_line_and_exit_code_3() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["experiment", "--device", "cuda:999"];
    let (exit, stdout, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!((exit, stdout.as_str()), (Some(3), ""), "{stderr}");
    assert!(stderr.starts_with("mantissa: --device cuda:999: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_is_0() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, code, on_stdout, on_stderr) in [
        (&["--help"][..], 0, "Usage: mantissa <COMMAND>", ""),
        (&["--version"], 0, concat!("mantissa ", env!("CARGO_PKG_VERSION")), ""),
        (&[], 2, "", "Usage: mantissa <COMMAND>"),
        (&["train"], 2, "", "unrecognized subcommand 'train'"),
        (&["report"], 2, "", "<DIR>"),
        (
            &["experiment", "--device", "tpu"],
            2,
            "",
            "unknown device \"tpu\"; known: auto, cpu, cuda, cuda:N",
        ),
        (&["experiment", "--threads", "0"], 2, "", "0 is not in 1..=1024"),
    ] {
        let (exit, stdout, stderr) = mantissa(folder.path(), arguments);
        assert_eq!(exit, Some(code), "{arguments:?}");
        for (text, part) in [(&stdout, on_stdout), (&stderr, on_stderr)] {
            assert!(text.contains(part), "{arguments:?}: {text}");
            assert_eq!(text.is_empty(), part.is_empty(), "{arguments:?}: {text}");
        }
    }
}

#[test]
fn formats_are_listed_one_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let (exit, stdout, stderr) = mantissa(folder.path(), &["formats"]);
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
    let names = stdout.lines().map(|line| line.split(' ').next().unwrap());
    let names: Vec<_> = names.take_while(|name| !name.is_empty()).collect();
    assert_eq!(names, ["format", "f32", "tf32", "f16", "bf16", "fp8-e4m3", "fp8-e5m2"]);
    let f16 = stdout.lines().nth(3).unwrap();
    assert_eq!(
        f16.split_whitespace().collect::<Vec<_>>(),
        ["f16", "16", "5", "10", "15", "65504", "6.104e-5", "5.960e-8", "9.766e-4", "native"]
    );
}

#[test]
fn doctor_tells_people_and_programs_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (exit, page, stderr) = mantissa(folder.path(), &["doctor"]);
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
    let (exit, json, stderr) = mantissa(folder.path(), &["doctor", "--json"]);
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
    let environment: mantissa::record::Environment = serde_json::from_str(&json).unwrap();
    assert_eq!(environment.product_paths.len(), 3);
    assert!(environment.threads >= 1);
    for fact in [&environment.device_name, &environment.os, &environment.build]
        .into_iter()
        .chain(&environment.product_paths)
    {
        assert!(!fact.is_empty() && page.contains(fact), "{fact}\n{page}");
    }
}

/// Two states of a changed checkout are two builds. The digest is computed here from what is on the disk now, so that it also
/// shows whether the program is built again when a source changes.
#[test]
fn a_build_is_known_by_its_sources() {
    use sha2::{Digest as _, Sha256};
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut left: Vec<_> =
        ["src", "build", "build.rs", "Cargo.toml", "Cargo.lock", "experiments/default.toml"]
            .map(|name| root.join(name))
            .to_vec();
    let mut files = std::collections::BTreeMap::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let name = path.strip_prefix(root).unwrap().to_owned();
            files.insert(name, std::fs::read(path).unwrap());
        }
    }
    let mut digest = Sha256::new();
    for (name, contents) in files {
        let name = name.to_str().unwrap();
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name);
        digest.update((contents.len() as u64).to_le_bytes());
        digest.update(contents);
    }
    let start = format!("{:02x?}", &digest.finalize()[..6]).replace(['[', ']', ',', ' '], "");
    let folder = tempfile::tempdir().unwrap();
    let (_, json, _) = mantissa(folder.path(), &["doctor", "--json"]);
    let environment: mantissa::record::Environment = serde_json::from_str(&json).unwrap();
    assert_eq!(environment.source, start);
    if let Some((_, changed)) = environment.git.as_deref().and_then(|git| git.split_once("-dirty"))
    {
        assert_eq!(changed, format!("-{start}"));
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_panic() {
    use std::process::{Command, Stdio};
    let program = assert_cmd::cargo::cargo_bin("mantissa");
    let mut child = Command::new(program)
        .arg("formats")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(output.status.success());
}
