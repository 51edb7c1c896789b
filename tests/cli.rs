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
            "--set train.stesp=3: train.stesp: unknown key \"stesp\" (did you mean train.steps?); known: steps, epochs, batch, accumulate, optimizer, \
             schedule, clip_norm, label_smoothing, evaluate_every, cuda_graphs, checkpoint_every",
        ),
        (
            &["experiment", "--set", "data.kind=imagenet"],
            2,
            "--set data.kind=imagenet: data.kind: unknown value \"imagenet\"; known: digits, idx, cifar10, cifar100, image-folder, npy, csv, text, plain-text",
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
            "--set train.batch=64: train.batch: is 64, but there are only 50 training samples; choose 1 to 50",
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
        (
            &["show", "nowhere"],
            2,
            "nowhere/results.json: not found; give the folder that `mantissa experiment` wrote with --out",
        ),
    ]);
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Nobody writes to the pipe: opening it would wait for ever.
    assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    std::fs::create_dir(at("results")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("results/results.json")).unwrap();
    let idx = |images, labels| {
        let set = format!(
            "data={{kind=\"idx\",train_images=\"{images}\",train_labels=\"{labels}\",held_out=1}}"
        );
        vec!["experiment".to_owned(), "--set".to_owned(), set]
    };
    let words = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for (arguments, named) in [
        (words("experiment pipe"), "pipe: cannot read: is a pipe; give a regular file"),
        (words("experiment /dev/zero"), "/dev/zero: cannot read: is a device; give a regular file"),
        (words("experiment ."), ".: cannot read: is a folder; give a regular file"),
        (
            idx("/dev/zero", "pipe"),
            "data: /dev/zero: cannot read: is a device; give a regular file",
        ),
        (idx("pipe", "pipe"), "data: pipe: cannot read: is a pipe; give a regular file"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let expected = (Some(2), String::new(), format!("mantissa: {named}\n"));
        assert_eq!(mantissa(folder.path(), &arguments), expected);
    }
    for arguments in [&["report", "results"][..], &["experiment", "--out", "results"]] {
        let (exit, _, stderr) = mantissa(folder.path(), arguments);
        assert!(matches!(exit, Some(2 | 3)), "{stderr}");
        assert!(stderr.starts_with("mantissa: results/results.json: "), "{stderr}");
    }
}

#[test]
fn sizes_that_no_machine_holds_are_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let block = "{channels=65536,kernel=1,padding=1024,pool=\"global\"}";
    let model = format!("--set=model={{kind=\"cnn\",blocks=[{block}],hidden=[]}}");
    let small = ["--set=data.train=64", "--set=data.test=1", "--set=train.batch=64"];
    let arguments = [&["experiment"], &small[..], &[&model]].concat();
    // Python: 65536 * (28 + 2 * 1024)**2 == 282445479936
    let complaint = "mantissa: model: a batch of 64, blocks[0]: 64 × 282445479936 values; at most 1099511627776: \
                     choose smaller sizes\n";
    let expected = (Some(2), String::new(), complaint.to_owned());
    assert_eq!(mantissa(folder.path(), &arguments), expected);
}

/// What ends up on a terminal: no character that commands it.
fn is_plain(text: &str) -> bool {
    let bidi = ['\u{202e}', '\u{2066}', '\u{200f}'];
    !text.chars().any(|c| (c.is_control() && c != '\n') || bidi.contains(&c))
}

#[test]
fn nothing_from_outside_commands_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("s.toml");
    let write = |text: &str| {
        use std::io::Write as _;
        std::fs::File::create(&spec).unwrap().write_all(text.as_bytes()).unwrap();
    };
    let default = mantissa::spec::DEFAULT;
    let named = default.replacen("name = \"", "name = \"\\u001b[2J\\u202e", 1);
    let kind = default.replacen("kind = \"digits\"", "kind = \"\\u001b]0;x\\u0007\"", 1);
    for (text, shown) in [
        ("\"\\u001b[31mkey\" = 1", "\\u{1b}[31mkey"),
        (&*named, "\\u{1b}[2J\\u{202e}"),
        (&*kind, "\\u{1b}]0;x\\u{7}"),
    ] {
        write(text);
        let (exit, stdout, stderr) = mantissa(folder.path(), &["experiment", "s.toml"]);
        assert_eq!((exit, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(shown) && is_plain(&stderr), "{stderr:?}");
    }
    for (arguments, shown) in [
        (&["experiment", "\u{1b}[2J\u{2066}.toml"][..], "\\u{1b}[2J\\u{2066}.toml: cannot read"),
        (&["report", "a\u{9b}2Jb"], "a\\u{9b}2Jb/results.json: not found"),
        (&["experiment", "--variants", "\u{200f}fp32"], "unknown variant \"\\u{200f}fp32\""),
        (&["experiment", "--set", "\u{7f}=1"], "--set \\u{7f}=1: expected a key's path"),
        (&["\u{1b}[2Jtrain"], "unrecognized subcommand '\\u{1b}[2Jtrain'"),
        (&["experiment", "--device", "cpu\u{1b}[2J"], "cpu\\u{1b}[2J"),
    ] {
        let (exit, stdout, stderr) = mantissa(folder.path(), arguments);
        assert_eq!((exit, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(shown) && is_plain(&stderr), "{stderr:?}");
    }
}

/// The arguments of an experiment of a moment.
const SMALL: [&str; 11] = [
    "experiment",
    "--variants=fp32",
    "--seeds=1",
    "--set=train.steps=2",
    "--set=train.schedule.warmup=0",
    "--set=data.train=20",
    "--set=data.test=10",
    "--set=train.batch=10",
    "--set=model={kind=\"mlp\",hidden=[4]}",
    "--set=measure.timing_blocks=0",
    "--out=\u{1b}[2J out",
];

#[test]
fn a_small_experiment_tells_what_it_learns_from_and_how_it_went() {
    let folder = tempfile::tempdir().unwrap();
    let (exit, stdout, stderr) = mantissa(folder.path(), &SMALL);
    assert_eq!(exit, Some(0), "{stderr}");
    let mut lines = stderr.lines();
    assert_eq!(
        lines.next(),
        Some("data: 20 training and 10 test images of 1 × 28 × 28, 10 classes")
    );
    assert!(lines.next().unwrap().starts_with("[1/1] fp32, seed 0: accuracy "), "{stderr}");
    assert!(
        is_plain(&stdout) && stdout.ends_with("report: \\u{1b}[2J out/report.html\n"),
        "{stdout:?}"
    );
    // The same again, from the folder.
    let (exit, again, stderr) = mantissa(folder.path(), &["report", "\u{1b}[2J out"]);
    assert_eq!((exit, stderr.as_str(), again.as_str()), (Some(0), "", stdout.as_str()));
    let (exit, shown, stderr) = mantissa(folder.path(), &["show", "\u{1b}[2J out"]);
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
    assert!(stdout.starts_with(&shown) && shown.contains(" variant "), "{shown}");
    let (exit, full, stderr) = mantissa(folder.path(), &["show", "--full", "\u{1b}[2J out"]);
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
    assert!(full.starts_with(shown.trim_end()) && full.contains("lost"), "{full}");
}

// A terminal that moves no cursor shows no bar; `script` is a terminal around a command.
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_that_shows_no_bar_shows_the_lines() {
    let folder = tempfile::tempdir().unwrap();
    let program = assert_cmd::cargo::cargo_bin("mantissa");
    let words: Vec<String> = SMALL.iter().map(|word| format!("'{word}'")).collect();
    let command = format!("'{}' {}", program.display(), words.join(" "));
    let script = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(folder.path())
        .env("TERM", "dumb")
        .output();
    let Ok(output) = script else {
        println!("skipped: no `script` here");
        return;
    };
    let shown = String::from_utf8(output.stdout).unwrap().replace('\r', "");
    assert!(output.status.success(), "{shown}");
    for line in [
        "data: 20 training and 10 test images of 1 × 28 × 28, 10 classes\n",
        "[1/1] fp32, seed 0: accuracy ",
    ] {
        assert!(shown.contains(line), "{shown:?}");
    }
    assert!(is_plain(&shown), "{shown:?}");
}

#[test]
fn a_label_far_from_the_others_is_noted() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, header: &[u32], bytes: &[u8]| {
        let mut file = std::fs::File::create(folder.path().join(name)).unwrap();
        let header: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        file.write_all(&[&header, bytes].concat()).unwrap();
    };
    let labels: Vec<u8> = (0..40).map(|i| if i == 0 { 255 } else { i % 4 }).collect();
    file("images", &[2051, 40, 2, 2], &[7; 160]);
    file("labels", &[2049, 40], &labels);
    let data =
        "--set=data={kind=\"idx\",train_images=\"images\",train_labels=\"labels\",held_out=20}";
    let arguments: Vec<&str> =
        SMALL.into_iter().filter(|word| !word.contains("data.")).chain([data]).collect();
    let (exit, _, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    let note = "Labels 4 to 254 do not occur in the data, yet count among its 256 classes.";
    let lines: Vec<&str> = stderr.lines().take(2).collect();
    assert_eq!(
        lines,
        [
            "data: 20 training and 20 test images of 1 × 2 × 2, 256 classes",
            &format!("note: {note}")
        ]
    );
    let results = std::fs::read(folder.path().join("\u{1b}[2J out/results.json")).unwrap();
    let results: mantissa::record::Results = serde_json::from_slice(&results).unwrap();
    assert!(results.environment.notes.iter().any(|found| found == note));
}

/// The side of IDX images is known only once they are read.
#[test]
fn batch_norm_of_one_value_a_channel_in_files_is_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    // Eight images of 3 × 3 pixels, and their labels.
    let header = |kind: u8, sizes: &[u32]| {
        let sizes = sizes.iter().flat_map(|size| size.to_be_bytes());
        [0, 0, 8, kind].into_iter().chain(sizes).collect::<Vec<u8>>()
    };
    let images = [header(3, &[8, 3, 3]), (0..72).collect()].concat();
    let labels = [header(1, &[8]), vec![0, 1, 0, 1, 0, 1, 0, 1]].concat();
    for (name, bytes) in [("images", images), ("labels", labels)] {
        mantissa::store::write(&folder.path().join(name), &bytes).unwrap();
    }
    let data =
        "--set=data={kind=\"idx\",train_images=\"images\",train_labels=\"labels\",held_out=2}";
    let model = "--set=model={kind=\"cnn\",batch_norm=true,blocks=[{channels=2}],hidden=[]}";
    let train = [
        "--set=train.batch=1",
        "--set=train.steps=2",
        "--set=train.schedule.warmup=0",
        "--set=measure.timing_blocks=0",
    ];
    let arguments = [&["experiment", data, model][..], &train].concat();
    let complaint = "mantissa: model: train.batch is 1, and norm1 sees 1 × 1 pixels of an image: batch norm needs more \
                     than one value a channel; set train.batch to 2 or more\n";
    let expected = (Some(2), String::new(), complaint.to_owned());
    assert_eq!(mantissa(folder.path(), &arguments), expected);
    let (exit, _, stderr) =
        mantissa(folder.path(), &[&arguments[..], &["--set=train.batch=2"]].concat());
    assert_eq!(exit, Some(0), "{stderr}");
}

/// Out of memory is a failed run, on a processor as on a GPU: the others go on, and the report is written.
#[cfg(target_os = "linux")]
#[test]
fn a_run_that_does_not_fit_the_memory_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let program = assert_cmd::cargo::cargo_bin("mantissa");
    // Of 19 million weights, bf16-mixed holds 77 MB in f32 beside what bf16-true holds. It trains second, in a process that
    // has freed memory behind it, so that it always needs more.
    let settings = [
        "model={kind=\"mlp\",hidden=[4000,4000]}",
        "data={kind=\"digits\",train=64,test=16}",
        "train={steps=2,batch=8,optimizer={kind=\"adamw\",lr=1e-4}}",
        "measure={census_every=0,timing_blocks=1,timing_steps=1,timing_warmup=0}",
        "variants=[\"bf16-true\",\"bf16-mixed\"]",
        "baseline=\"bf16-mixed\"",
    ];
    let settings = settings.map(|setting| format!("--set={setting}"));
    let run = |kilobytes: u64| {
        // The shell's own limit, then the program in its place.
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("ulimit -v {kilobytes}; exec \"$@\""), "sh"])
            .arg(&program)
            .args(["experiment", "--out=out", "--seeds=1", "--threads=1", "--force"])
            .args(&settings)
            // Without it each thread reserves 64 MB of addresses of its own, at the first moment that it allocates.
            .env("MALLOC_ARENA_MAX", "1")
            .current_dir(folder.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let path = folder.path().join("out/results.json");
        let results = std::fs::read(path)
            .map(|text| serde_json::from_slice::<mantissa::record::Results>(&text).unwrap());
        (output.status.code(), stderr, results)
    };
    // What a process takes beside its tensors differs by machine, so the limit that the one fits under and the other does not is
    // looked for. Under none of them does the program abort.
    let (mut low, mut high) = (280_000, 560_000);
    let (exit, stderr, results) = loop {
        assert!(
            high - low > 1_000,
            "no limit between {low} and {high} kB fits one and not the other"
        );
        let limit = u64::midpoint(low, high);
        let (exit, stderr, results) = run(limit);
        match exit {
            Some(0) => high = limit,
            Some(3) if stderr.contains("1 of 2 runs failed") => break (exit, stderr, results),
            Some(2 | 3) => low = limit,
            _ => panic!("under {limit} kB: {stderr}"),
        }
    };
    assert_eq!(exit, Some(3), "{stderr}");
    let results = results.unwrap();
    assert!(results.complete);
    let [bf16, mixed] = &results.variants[..] else { panic!("two variants") };
    let reason = &mixed.runs[0].failure.as_ref().unwrap().reason;
    let bytes = reason.strip_prefix("out of memory: ").unwrap();
    let bytes: u64 = bytes.strip_suffix(" bytes were asked for").unwrap().parse().unwrap();
    assert!(bytes >= 4000 * 784 * 2, "{reason}");
    assert!(
        stderr.ends_with(&format!("mantissa: 1 of 2 runs failed; the first: {reason}\n")),
        "{stderr}"
    );
    assert!(mixed.untimed.as_ref().unwrap().starts_with("out of memory: "), "{:?}", mixed.untimed);
    assert_eq!(bf16.runs[0].status, mantissa::record::Status::Completed);
    assert!(folder.path().join("out/report.html").exists());
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
    let named = mantissa::precision::Format::NAMED.map(|format| format.to_string());
    assert_eq!(names[0], "format");
    assert_eq!(names[1..], named);
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
            let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
            let hidden = |name: std::ffi::OsString| name.to_string_lossy().starts_with('.');
            left.extend(entries.filter(|e| !hidden(e.file_name())).map(|entry| entry.path()));
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
