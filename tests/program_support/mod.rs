//! What the tests of the program share: a folder with a small experiment in which it runs.
#![allow(dead_code, reason = "no test uses all of it")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use mantissa::record::Results;
use serde_json::Value;

/// Two variants of two seeds in a second.
pub(crate) const SPEC: &str = r#"
name = "small"
seeds = 2
variants = ["fp32", "bf16-mixed"]
[data]
kind = "digits"
train = 40
test = 20
[model]
kind = "mlp"
hidden = [8]
[train]
steps = 6
batch = 10
[train.optimizer]
kind = "adamw"
lr = 0.003
[train.schedule]
kind = "constant"
warmup = 1
[measure]
timing_blocks = 2
timing_steps = 1
timing_warmup = 1
inference_batch = 10
"#;

/// The runs of [`SPEC`] in their order.
pub(crate) const RUNS: [(&str, u64); 4] =
    [("fp32", 0), ("bf16-mixed", 0), ("fp32", 1), ("bf16-mixed", 1)];

/// A folder with the spec, in which the program runs and makes the folder `out`.
pub(crate) struct Place(pub(crate) tempfile::TempDir);

/// What a call came to.
pub(crate) struct Call {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::File::create(folder.path().join("file")).unwrap();
        mantissa::store::write(&folder.path().join("small.toml"), SPEC.as_bytes()).unwrap();
        Self(folder)
    }

    /// One with the finished experiment in it. Its page is dated so far ahead that no later call draws the report again: that
    /// is most of the time.
    pub(crate) fn finished() -> Self {
        let place = Self::new();
        let call = place.experiment(&[]);
        assert_eq!(call.code, Some(0), "{}", call.stderr);
        place.date_the_page_ahead();
        place
    }

    fn date_the_page_ahead(&self) {
        let page = std::fs::File::options().append(true).open(self.path("out/report.html"));
        let far = SystemTime::now() + Duration::from_secs(1_000_000);
        page.unwrap().set_modified(far).unwrap();
    }

    /// Puts files in the place of the report, so that no later call draws it: that is most of the time.
    pub(crate) fn skip_the_report(&self) {
        let mark = br#"<meta name="generator" content="mantissa">"#;
        for name in mantissa::record::files::TEXTS {
            mantissa::store::write(&self.path("out").join(name), mark).unwrap();
        }
        self.date_the_page_ahead();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("mantissa"));
        command.current_dir(self.0.path()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn call(&self, arguments: &[&str]) -> Call {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Call {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// `mantissa experiment` on the spec into `out`, with more arguments.
    pub(crate) fn experiment(&self, more: &[&str]) -> Call {
        self.call(&[&EXPERIMENT, more].concat())
    }

    pub(crate) fn results(&self) -> Results {
        serde_json::from_slice(&std::fs::read(self.path("out/results.json")).unwrap()).unwrap()
    }

    pub(crate) fn record(variant: &str, seed: u64) -> String {
        format!("out/runs/{variant}/seed-{seed}/record.json")
    }

    /// Changes a file of JSON.
    pub(crate) fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path(name);
        let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        mantissa::store::write(&path, &serde_json::to_vec(&value).unwrap()).unwrap();
    }

    /// Makes the finished experiment one that was interrupted before it was timed.
    pub(crate) fn interrupt(&self) {
        std::fs::remove_file(self.path(TIMING)).unwrap();
        let path = self.path("out/results.json");
        let text = mantissa::store::read_to_string(&path).unwrap();
        let text = text.replacen("\"complete\": true", "\"complete\": false", 1);
        mantissa::store::write(&path, text.as_bytes()).unwrap();
    }

    /// Every file below a folder, with its contents and the time of its last change.
    pub(crate) fn snapshot(&self, name: &str) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
        let mut found = BTreeMap::new();
        let mut left = vec![self.path(name)];
        while let Some(path) = left.pop() {
            if path.is_dir() {
                let entries = std::fs::read_dir(path).unwrap();
                left.extend(entries.map(|entry| entry.unwrap().path()));
            } else if path.exists() {
                let changed = path.metadata().unwrap().modified().unwrap();
                let contents = std::fs::read(&path).unwrap();
                found.insert(path, (contents, changed));
            }
        }
        found
    }

    /// The seeds and the digests of the weights of each variant, as the results list them.
    pub(crate) fn digests(&self) -> Vec<(String, u64, Option<String>)> {
        let of = |variant: &mantissa::record::VariantResult| {
            let run = |run: &mantissa::record::RunSummary| {
                (variant.name.clone(), run.seed, run.weights_digest.clone())
            };
            variant.runs.iter().map(run).collect::<Vec<_>>()
        };
        self.results().variants.iter().flat_map(of).collect()
    }
}

/// The timed blocks.
pub(crate) const TIMING: &str = "out/runs/timing.json";

pub(crate) const EXPERIMENT: [&str; 6] =
    ["experiment", "small.toml", "--out", "out", "--threads", "2"];

/// The variants and their timed blocks of training.
pub(crate) fn blocks(place: &Place) -> Vec<(String, Vec<f64>)> {
    let of = |variant: mantissa::record::VariantResult| {
        let blocks = variant.train.unwrap().blocks.iter().map(|block| block.0).collect();
        (variant.name, blocks)
    };
    place.results().variants.into_iter().map(of).collect()
}

/// The records below a place by their paths in it.
pub(crate) fn records(place: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
    let runs = place.snapshot("out/runs").into_iter();
    let records = runs.filter(|(path, _)| path.ends_with("record.json"));
    let below = |path: PathBuf| path.strip_prefix(place.0.path()).unwrap().to_owned();
    records.map(|(path, (contents, _))| (below(path), contents)).collect()
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_mins(1), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The program, started, until it is stopped or has ended.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
