//! Damaged files: results, run records, plans, baselines, specs, kept tokens, published figures and checkpoints of both kinds, each with seeded
//! random damage to its bytes or to its values. The readers never panic and never hang, what they refuse is named in the error, and what they accept can be judged and rendered.
//!
//! `MANTISSA_MUTATIONS=100000 cargo test --test mutations` tries more, and `MANTISSA_MUTATIONS_FROM=SEED` starts at the seed that
//! a failure names.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use mantissa::data::{self, Loading};
use mantissa::experiment;
use mantissa::layers::{Arithmetic, Mode, Parameter, Pass};
use mantissa::model::Model;
use mantissa::networks::{self, DataShape};
use mantissa::ops;
use mantissa::precision::Format as NumberFormat;
use mantissa::record::{Identity, Results};
use mantissa::regression::export::Format;
use mantissa::regression::{Asked, Baseline, Judgement, judge};
use mantissa::report::{self, Verbosity};
use mantissa::spec::{
    DEFAULT, DataPlan, ModelPlan, Overrides, Plan, Reference, TableTest, TestShare, TextFiles,
};
use mantissa::store;
use mantissa::task::Task;
use mantissa::train::{self, Ended, Follow, RunError, Setup, Wants};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Mutations of each kind of file where nothing else is asked for.
const MUTATIONS: u64 = 1000;

/// One report in so many accepted results is rendered whole: pages, figures, tables.
const RENDERED: u64 = 100;

/// A reader that takes longer hangs: it takes milliseconds.
const HANG: Duration = Duration::from_mins(2);

/// What stands for a value that JSON's library could not write: replaced in the text.
const RAW: &str = "@raw@";

/// A number from the environment.
fn asked(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Calls `read` for each seed, which says why the outcome is wrong, on a thread of its own; fails with all seeds for which it
/// is wrong, panics or hangs.
fn check(read: impl Fn(u64) -> Result<(), String> + Clone + Send + 'static) {
    let first = asked("MANTISSA_MUTATIONS_FROM", 0);
    let last = first + asked("MANTISSA_MUTATIONS", MUTATIONS);
    let (mut seed, mut wrong) = (first, Vec::new());
    while seed < last && wrong.len() < 10 {
        let (send, told) = mpsc::channel();
        let (start, read) = (seed, read.clone());
        let thread = std::thread::spawn(move || {
            for seed in start..last {
                let outcome = read(seed);
                if send.send((seed, outcome)).is_err() {
                    break;
                }
            }
        });
        loop {
            match told.recv_timeout(HANG) {
                Ok((_, Ok(()))) => {}
                Ok((_, Err(why))) => wrong.push(format!("seed {seed}: {why}")),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("seed {seed} hangs; {wrong:?}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            seed += 1;
        }
        if let Err(panic) = thread.join() {
            let text = panic.downcast_ref::<String>().cloned();
            wrong.push(format!("seed {seed} panics: {}", text.unwrap_or_default()));
            seed += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One of a list.
fn pick<'a, T>(random: &mut ChaCha8Rng, items: &'a [T]) -> &'a T {
    &items[random.random_range(0..items.len())]
}

/// Damage to bytes: flipped, removed, inserted, repeated or cut off.
fn damage_bytes(random: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        let end = (at + random.random_range(1..40)).min(bytes.len());
        match random.random_range(0..6) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, random.random_range(0..=255)),
            3 => bytes[at] = b"0123456789-.eE\"{}[],:#=\0"[random.random_range(0..24)],
            4 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => bytes.truncate(at),
        }
    }
}

/// A value where another belongs, and the text that is written for it where JSON's library has none.
fn nasty(random: &mut ChaCha8Rng) -> (Value, Option<String>) {
    let values = [
        Value::Null,
        Value::Bool(true),
        0.into(),
        1.into(),
        (-1).into(),
        2.into(),
        u64::MAX.into(),
        i64::MIN.into(),
        (1_u64 << 53).into(),
        1_000_000_000_000_000_u64.into(),
        0.5.into(),
        (-0.0).into(),
        1e-320.into(),
        1e300.into(),
        f64::MAX.into(),
        "".into(),
        "../../up".into(),
        "fp32".into(),
        "cuda:99".into(),
        "</script><b>|&_".into(),
        "\u{0}\u{1b}[2J\u{202e}\n".into(),
        "é".repeat(5000).into(),
        Value::Array(Vec::new()),
        serde_json::json!({}),
        serde_json::json!([[[null]]]),
    ];
    let raw = [
        "1e999".to_owned(),
        "-1e999".to_owned(),
        "NaN".to_owned(),
        "Infinity".to_owned(),
        "123456789012345678901234567890".to_owned(),
        "[".repeat(100_000),
        format!("{}{}", "[".repeat(120), "]".repeat(120)),
        "{\"a\": 1, \"a\": 2}".to_owned(),
        "\"\\ud800\"".to_owned(),
    ];
    if random.random_range(0..8) == 0 {
        (RAW.into(), Some(pick(random, &raw).clone()))
    } else {
        (pick(random, &values).clone(), None)
    }
}

/// The places of all values below one.
fn places(value: &Value, place: &str, all: &mut Vec<String>) {
    all.push(place.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(field, &format!("{place}/{name}"), all);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{place}/{index}"), all);
            }
        }
        _ => {}
    }
}

/// Damage to the values of JSON: another value, one less, one twice, two in each other's place, a key twice.
fn damage_values(random: &mut ChaCha8Rng, value: &mut Value) -> Vec<u8> {
    let mut raw = RAW.to_owned();
    for _ in 0..random.random_range(1..4) {
        let mut all = Vec::new();
        places(value, "", &mut all);
        let (place, other) = (pick(random, &all).clone(), pick(random, &all).clone());
        let copy = value.pointer(&other).unwrap().clone();
        let (nasty, text) = nasty(random);
        let found = value.pointer_mut(&place).unwrap();
        match random.random_range(0..6) {
            0 => *found = copy,
            1 => match found {
                Value::Array(items) if !items.is_empty() => {
                    let at = random.random_range(0..items.len());
                    if random.random_range(0..2) == 0 {
                        items.remove(at);
                    } else {
                        items.insert(at, items[at].clone());
                    }
                }
                Value::Object(fields) if !fields.is_empty() => {
                    let key = fields.keys().nth(random.random_range(0..fields.len())).cloned();
                    let value = fields.remove(&key.unwrap()).unwrap();
                    if random.random_range(0..2) == 0 {
                        fields.insert("other".to_owned(), value);
                    }
                }
                Value::Number(number) => {
                    let number = number.as_f64().unwrap_or_default();
                    let factor = *pick(random, &[-1.0, 0.0, 0.1, 2.0, 1e6, 1e12]);
                    *found = (number * factor).into();
                }
                _ => *found = nasty,
            },
            _ => {
                *found = nasty;
                raw = text.unwrap_or(raw);
            }
        }
    }
    value.to_string().replace(&format!("\"{RAW}\""), &raw).into_bytes()
}

/// A damaged copy of a file of JSON.
fn damaged_json(random: &mut ChaCha8Rng, whole: &[u8]) -> Vec<u8> {
    if random.random_range(0..4) == 0 {
        let mut bytes = whole.to_vec();
        damage_bytes(random, &mut bytes);
        return bytes;
    }
    damage_values(random, &mut serde_json::from_slice(whole).unwrap())
}

/// A damaged copy of a file of TOML: its bytes, its lines, or the value behind a `=`.
fn damaged_toml(random: &mut ChaCha8Rng, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    if random.random_range(0..3) == 0 {
        damage_bytes(random, &mut bytes);
        return bytes;
    }
    let text = String::from_utf8(bytes).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..random.random_range(1..4) {
        let (at, other) =
            (random.random_range(0..lines.len()), random.random_range(0..lines.len()));
        match random.random_range(0..8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(other, lines[at].clone()),
            2 => lines.swap(at, other),
            _ => {
                let (value, text) = nasty(random);
                let text = text.unwrap_or_else(|| value.to_string().replace("null", "nan"));
                let key = lines[at].split_once('=').map(|(key, _)| key.to_owned());
                lines[at] = key.map_or(text.clone(), |key| format!("{key}= {text}"));
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\n").into_bytes()
}

/// A finished experiment that was timed, with a control, in `folder`/run.
fn experiment(folder: &Path) -> PathBuf {
    let arguments = [
        "experiment",
        "--device=cpu",
        "--out=run",
        "--set=name=\"tiny\"",
        "--set=data.train=64",
        "--set=data.test=40",
        "--set=model.hidden=[16]",
        "--set=train={steps=8,batch=16,optimizer={kind=\"sgd\",lr=0.1},schedule={kind=\"cosine\",warmup=2},evaluate_every=4}",
        "--set=measure={census_every=3,timing_blocks=3,timing_steps=1}",
        "--set=controls=[\"same-seeds\"]",
        "--variants=fp32,fp16-mixed,bf16-true",
        "--seeds=2",
        "--quiet",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_mantissa"));
    let output = command.args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join("run")
}

/// A judgement in all forms; one of JSON must be JSON.
fn render_all(judgement: &Judgement) -> Result<(), String> {
    for (format, name) in Format::NAMES {
        let text = format.render(judgement).map_err(|error| format!("{name}: {error}"))?;
        if matches!(format, Format::Json | Format::Bencher | Format::BenchmarkAction) {
            serde_json::from_str::<Value>(&text).map_err(|error| format!("{name}: {error}"))?;
        }
    }
    Ok(())
}

/// Results that were accepted: judged both ways, and told on a terminal.
fn use_results(results: &Results, original: &Results) -> Result<(), String> {
    for (before, after) in [(original, results), (results, original), (results, results)] {
        let baseline = Baseline::of(before, "");
        render_all(&judge(&baseline, after, &Asked { strict: true, ..Asked::default() }))?;
    }
    for detail in [Verbosity::Summary, Verbosity::Full] {
        no_number_that_is_none(&report::terminal(results, detail, 120))?;
    }
    Ok(())
}

/// What reports say of NaNs that is no shown number: a column's heading, and what overflow is.
const NAMES: [&str; 2] = [r#"<th scope="col">NaN</th>"#, "infinite, NaN, or held at it"];

/// Whether a text shows a number that is none. NaNs that were counted, `3 NaN`, are no such number.
fn no_number_that_is_none(text: &str) -> Result<(), String> {
    let text = NAMES.iter().fold(text.to_owned(), |text, name| text.replace(name, ""));
    let is_word = |c: char| c.is_alphanumeric();
    for none in ["NaN", "inf", "Infinity"] {
        for (at, _) in text.match_indices(none) {
            let (before, after) = (&text[..at], &text[at + none.len()..]);
            let counted =
                before.ends_with(' ') && before.trim_end().ends_with(|c: char| c.is_ascii_digit());
            if !counted && !before.ends_with(is_word) && !after.starts_with(is_word) {
                return Err(format!("{none} is shown: {text}"));
            }
        }
    }
    Ok(())
}

/// The whole report of accepted results.
fn render_report(folder: &Path) -> Result<(), String> {
    for file in report::render(folder).map_err(|error| error.to_string())? {
        let bytes = store::read(&file).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&bytes);
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("csv" | "tex" | "md" | "svg") => no_number_that_is_none(&text)?,
            // Of the page, what is behind its scripts: the program that draws has such words.
            Some("html") => {
                for part in text.split("</script>") {
                    no_number_that_is_none(part.split("<script").next().unwrap_or_default())?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// An error must name the file.
fn named(error: &impl ToString, file: &Path) -> Result<(), String> {
    let (error, file) = (error.to_string(), file.display().to_string());
    if error.contains(&file) { Ok(()) } else { Err(format!("the error lacks {file}: {error}")) }
}

#[test]
fn damaged_results() {
    let folder = tempfile::tempdir().unwrap();
    let run = experiment(folder.path());
    let file = run.join("results.json");
    let whole = store::read(&file).unwrap();
    let original = report::load_results(&run).unwrap();
    check(move |seed| {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        store::write(&file, &damaged_json(random, &whole)).unwrap();
        match report::load(&run) {
            Ok(loaded) => {
                use_results(&loaded.results, &original)?;
                if seed % RENDERED == 0 { render_report(&run) } else { Ok(()) }
            }
            Err(error) => named(&error, &file),
        }
    });
}

#[test]
fn damaged_run_records() {
    let folder = tempfile::tempdir().unwrap();
    let run = experiment(folder.path());
    let file = run.join("runs/fp16-mixed/seed-1/record.json");
    let whole = store::read(&file).unwrap();
    check(move |seed| {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        store::write(&file, &damaged_json(random, &whole)).unwrap();
        let loaded = report::load(&run).map_err(|error| error.to_string())?;
        if let [note, ..] = loaded.notes.as_slice() {
            return named(note, Path::new("runs/fp16-mixed/seed-1/record.json"));
        }
        report::tensorboard(&run).map_err(|error| error.to_string())?;
        if seed % RENDERED == 0 { render_report(&run) } else { Ok(()) }
    });
}

/// A plan has a digest: what is accepted is the plan that was written, whatever its bytes.
#[test]
fn damaged_plans() {
    let folder = tempfile::tempdir().unwrap();
    let run = experiment(folder.path());
    let file = run.join("plan.json");
    let whole = store::read(&file).unwrap();
    let original = experiment::read_plan(&run).unwrap();
    check(move |seed| {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        store::write(&file, &damaged_json(random, &whole)).unwrap();
        match experiment::read_plan(&run) {
            Ok(plan) if plan == original => Ok(()),
            Ok(_) => Err("another plan was accepted".to_owned()),
            Err(error) => named(&error, &file),
        }
    });
}

/// Stops a run after a few steps, and takes its checkpoint.
struct Stopped(Option<Vec<u8>>);

impl Follow for Stopped {
    fn step(&mut self, _done: u64) {}

    fn wants(&mut self, _done: u64) -> Wants {
        Wants::Stop
    }

    fn keep(&mut self, checkpoint: train::Checkpoint) -> Result<ControlFlow<()>, RunError> {
        self.0 = Some(checkpoint.to_file(Identity::default())?);
        Ok(ControlFlow::Continue(()))
    }
}

/// One that is accepted, since nothing tells another value of a weight from the one that was there, can be gone on from.
#[test]
fn damaged_run_checkpoints() {
    let set = [
        "data.train=64",
        "data.test=20",
        "model.hidden=[4]",
        "train={steps=8,batch=16,optimizer={kind=\"adamw\",lr=0.1},schedule={warmup=2}}",
        "measure={census_every=3}",
    ];
    let set = set.map(str::to_owned).to_vec();
    let overrides = Overrides { set, ..Overrides::default() };
    let plan = Plan::read("default.toml", DEFAULT, &overrides).unwrap();
    let task = Task::of_plan(&plan).unwrap();
    let variant = plan.variants.iter().position(|variant| variant.name == "fp16-mixed").unwrap();
    let setup = Setup::new(&plan, &task, &Device::Cpu);
    let mut stopped = Stopped(None);
    train::run(setup, (&plan.variants[variant], 0), None, &mut stopped).unwrap();
    let whole = stopped.0.unwrap();
    check(move |seed| {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let mut damaged = whole.clone();
        damage_bytes(random, &mut damaged);
        let Ok(checkpoint) = train::Checkpoint::from_file(&damaged) else { return Ok(()) };
        let task = Task::of_plan(&plan).map_err(|error| error.to_string())?;
        let setup = Setup::new(&plan, &task, &Device::Cpu);
        let ended =
            train::run(setup, (&plan.variants[variant], 0), Some(checkpoint), &mut |_: u64| ());
        match ended {
            Ok(Ended::Trained(trained)) if trained.record.loss.len() > 8 => {
                Err("more steps than planned".to_owned())
            }
            _ => Ok(()),
        }
    });
}

#[test]
fn damaged_baselines() {
    let folder = tempfile::tempdir().unwrap();
    let results = report::load_results(&experiment(folder.path())).unwrap();
    let file = folder.path().join("baseline.json");
    let whole = Baseline::of(&results, "first").text().into_bytes();
    check(move |seed| {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        store::write(&file, &damaged_json(random, &whole)).unwrap();
        match Baseline::read(&file) {
            Ok(baseline) => {
                let asked = Asked { strict: seed % 2 == 0, ..Asked::default() };
                render_all(&judge(&baseline, &results, &asked))?;
                // What is read can be written, and read again as the same.
                let text = baseline.text();
                store::write(&file, text.as_bytes()).unwrap();
                let again = Baseline::read(&file).map_err(|error| error.to_string())?;
                if again.text() == text { Ok(()) } else { Err("another when read again".into()) }
            }
            Err(error) => named(&error, &file),
        }
    });
}

#[test]
fn damaged_references() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/references");
    let files = store::list(&folder).unwrap();
    let references: Vec<Vec<u8>> = files.iter().map(|path| store::read(path).unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reference.toml");
    check(move |seed| {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let reference = pick(random, &references).clone();
        store::write(&file, &damaged_toml(random, &reference)).unwrap();
        match Reference::load(&file) {
            Ok(reference) => {
                // Results hold it: it can be written, and read again as the same.
                let json = serde_json::to_string(&reference).map_err(|error| error.to_string())?;
                let again: Reference = serde_json::from_str(&json).map_err(|e| e.to_string())?;
                if again == reference { Ok(()) } else { Err("another when read again".into()) }
            }
            Err(error) => named(&error, &file),
        }
    });
}

#[test]
fn damaged_specs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let files = store::list(&folder).unwrap();
    let specs = files.iter().filter(|path| store::is_file(path).unwrap());
    let specs: Vec<Vec<u8>> = specs.map(|path| store::read(path).unwrap()).collect();
    assert!(specs.len() > 4);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spec.toml");
    check(move |seed| {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let spec = pick(random, &specs).clone();
        store::write(&file, &damaged_toml(random, &spec)).unwrap();
        let text = match store::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => return named(&error, &file),
        };
        let count = |_: &_| Ok(1000);
        let name = file.display().to_string();
        match Plan::read_counting((&name, &text), &Overrides::default(), &count) {
            Ok(plan) => {
                // A plan is what results hold: it can be written, and read again as the same.
                let json = serde_json::to_string(&plan).map_err(|error| error.to_string())?;
                let again: Plan = serde_json::from_str(&json).map_err(|error| error.to_string())?;
                let same = again == plan && again.digest() == plan.digest();
                plan.control_plans();
                if same { Ok(()) } else { Err(format!("another when read again: {json}")) }
            }
            Err(error) => named(&error, &file),
        }
    });
}

/// Tokens that are kept: whatever is in their file, the data are those of the texts.
#[test]
fn damaged_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let (texts, cache) = (folder.path().join("texts.csv"), folder.path().join("tokens"));
    store::write(&texts, b"label,text\n0,a good film\n1,a bad one\n0,good\n1,bad\n").unwrap();
    let plan = DataPlan::Text {
        files: TextFiles::Named {
            train: texts,
            test: TableTest::Share(TestShare { share: 0.5, seed: 0 }),
        },
        text: "text".to_owned(),
        target: "label".to_owned(),
        length: 8,
        tokenizer: None,
        vocabulary: 256,
    };
    let original = data::load(&plan).unwrap();
    let load = move |cache: &Path| {
        let loading = Loading { cache: Some(cache), ..Loading::default() };
        data::load_with(&plan, loading).map_err(|error| error.to_string())
    };
    load(&cache).unwrap();
    let file = store::list(&cache).unwrap().remove(0);
    let whole = store::read(&file).unwrap();
    check(move |seed| {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = whole.clone();
        damage_bytes(random, &mut bytes);
        store::write(&file, &bytes).unwrap();
        if load(&cache)? == original { Ok(()) } else { Err("other data".to_owned()) }
    });
}

/// What a checkpoint's files say is either refused, or a model that computes something.
#[test]
fn damaged_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for name in ["bert", "distilbert", "gpt2", "llama"] {
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints").join(name);
        for path in store::list(&there).unwrap() {
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            let bytes = store::read(&path).unwrap();
            let copy = folder.path().join(name).join(&file);
            store::write(&copy, &bytes).unwrap();
            if file.starts_with("config") || file.starts_with("model") {
                files.push((copy, bytes));
            }
        }
    }
    check(move |seed| {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let (file, whole) = pick(random, &files);
        let damaged = if file.extension().is_some_and(|ending| ending == "json") {
            damaged_json(random, whole)
        } else {
            let mut bytes = whole.clone();
            // Nearly all damage would be to values, and go unseen.
            let header = bytes.split_off(bytes.len().min(2000));
            damage_bytes(random, &mut bytes);
            [bytes, header].concat()
        };
        store::write(file, &damaged).unwrap();
        let folder = file.parent().unwrap();
        let next_tokens = ["gpt2", "llama"].iter().any(|name| folder.ends_with(name));
        let outputs = if next_tokens { 40 } else { 3 };
        let data = DataShape { shape: [1, 1, 8], vocabulary: Some(40), outputs, next_tokens };
        let plan = ModelPlan::Pretrained {
            folder: folder.to_owned(),
            dropout: 0.0,
            attention_dropout: 0.0,
        };
        let outcome = match networks::model(&plan, &data) {
            Ok(model) => compute(&model),
            // The kind of data is asked for by the kind of model, which was damaged.
            Err(error) if error.to_string().contains("takes data.kind") => Ok(()),
            Err(error) => named(&error, folder),
        };
        store::write(file, whole).unwrap();
        outcome
    });
}

/// One forward pass, which may give an error.
fn compute(model: &Model) -> Result<(), String> {
    let values =
        model.initial_values(0).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let tensor = |(values, parameter): (Vec<f32>, &Parameter)| {
        Tensor::from_vec(values, parameter.shape.as_slice(), &Device::Cpu)
    };
    let weights = values.into_iter().zip(&model.parameters).map(tensor);
    let weights = weights.collect::<candle_core::Result<Vec<_>>>().map_err(|e| e.to_string())?;
    let ids = ops::from_host((0..8_u32).collect(), (1, 8), &Device::Cpu).unwrap();
    let arithmetic = Arithmetic { format: NumberFormat::F32, wide: false };
    let mut pass = Pass::new(arithmetic, Mode::Inference, &weights, &[]);
    // A damaged size that fits all shapes may still be one that an operation refuses.
    drop(model.layers(&weights, &[], false).unwrap().forward(ids, &mut pass));
    Ok(())
}
