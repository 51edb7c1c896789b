//! Data of one's own and regressions from the command line, and what helps to begin: a spec, a dry run, completions.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use assert_cmd::Command;
use half::bf16;
use mantissa::spec::{DEFAULT, Overrides, Plan};
use mantissa::store;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Runs `mantissa` in `folder`, and returns its exit code, stdout and stderr.
fn mantissa(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::cargo_bin("mantissa").unwrap();
    // In the user's folder nothing is kept.
    let command = command.current_dir(folder).env("MANTISSA_CACHE", "cache");
    let output = command.args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn read(path: &Path) -> String {
    String::from_utf8(store::read(path).unwrap()).unwrap()
}

/// A spec of a small regression: y = 2 a − b, which a linear model learns.
const SPEC: &str = r#"
name = "line"
seeds = 2
variants = ["fp32", "bf16-mixed"]
data = { kind = "csv", train = "line.csv", test_share = 0.25, target = "y", task = "regression" }
model = { kind = "mlp", hidden = [] }
measure = { census_every = 50, timing_blocks = 2, timing_steps = 1, timing_warmup = 1 }
[train]
steps = 300
batch = 16
evaluate_every = 100
optimizer = { kind = "adamw", lr = 0.05, weight_decay = 0.0 }
"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let rows = (0..80).map(|i| {
        let (a, b) = (f64::from(i % 9), f64::from(i * 7 % 11));
        format!("{a},{},{b}\n", 2.0 * a - b)
    });
    let table = format!("a,y,b\n{}", rows.collect::<String>());
    store::write(&folder.path().join("line.csv"), table.as_bytes()).unwrap();
    store::write(&folder.path().join("line.toml"), SPEC.as_bytes()).unwrap();
    folder
}

#[test]
fn a_regression_is_trained_judged_and_reported_by_its_error() {
    let folder = folder();
    let arguments = ["experiment", "line.toml", "--out=out", "--device=cpu"];
    let (exit, stdout, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    let first = stderr.lines().next();
    assert_eq!(first, Some("data: 60 training and 20 test samples of 2 × 1 × 1, 1 target value"));
    assert!(stderr.contains("fp32, seed 0: error "), "{stderr}");
    assert!(stdout.contains("error on the test data"), "{stdout}");
    let results: Value =
        serde_json::from_str(&read(&folder.path().join("out/results.json"))).unwrap();
    assert_eq!(results["metric"], "mean_squared_error");
    assert_eq!(
        (&results["data"]["classes"], &results["data"]["target_values"]),
        (&0.into(), &1.into())
    );
    for variant in results["variants"].as_array().unwrap() {
        for run in variant["runs"].as_array().unwrap() {
            assert!(run["test_accuracy"].is_null());
            // The variance of y is over 20: a model that learnt nothing is far above this.
            let error = run["test_squared_error"].as_f64().unwrap();
            assert!((0.0..0.5).contains(&error), "{error}");
        }
    }
    let against = &results["variants"][1]["against_baseline"];
    assert!(against["accuracy_difference"].is_null());
    assert_eq!(against["squared_error_difference"]["pairs"], 2);
    let record = read(&folder.path().join("out/runs/fp32/seed-0/record.json"));
    let record: Value = serde_json::from_str(&record).unwrap();
    for evaluation in record["evaluations"].as_array().unwrap() {
        assert_eq!(evaluation["squared_error"], evaluation["loss"]);
    }

    // The same again is kept, its baseline is accepted, and a change of the error is found.
    let (exit, _, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    assert!(stderr.contains("every run was finished before"), "{stderr}");
    let (exit, _, stderr) = mantissa(folder.path(), &["baseline", "accept", "out"]);
    assert_eq!(exit, Some(0), "{stderr}");
    let path = folder.path().join("out/results.json");
    let mut changed = results.clone();
    changed["variants"][0]["runs"][0]["test_squared_error"] = 0.75.into();
    store::write(&path, changed.to_string().as_bytes()).unwrap();
    let (exit, stdout, stderr) = mantissa(folder.path(), &["check", "out"]);
    assert_eq!(exit, Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("fp32/test_squared_error/seed-0"), "{stdout}");
}

#[test]
fn a_dry_run_tells_what_there_would_be_and_writes_nothing() {
    let folder = folder();
    let (exit, stdout, stderr) = mantissa(folder.path(), &["experiment", "line.toml", "--dry-run"]);
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
    // 2 weights and a bias; 4 bytes each, 2 in the copy for bf16, and two moments of 4.
    let lines: Vec<Vec<&str>> = stdout
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect())
        .collect();
    let has =
        |cells: &[&str]| assert!(lines.iter().any(|line| line == cells), "{cells:?}: {stdout}");
    has(&["all", "3"]);
    has(&["fp32", "12 B", "0 B", "12 B", "24 B"]);
    has(&["bf16-mixed", "6 B", "12 B", "6 B", "24 B"]);
    assert!(
        stdout.contains("error_margin") || stdout.contains("equivalence_margin = 0.005"),
        "{stdout}"
    );
    assert!(stdout.contains("per step") && stdout.contains("In all about "), "{stdout}");
    assert!(!folder.path().join("reports").exists());
}

#[test]
fn init_writes_a_spec_that_is_the_default_experiment_and_replaces_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (exit, _, stderr) = mantissa(folder.path(), &["init"]);
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
    let written = read(&folder.path().join("experiment.toml"));
    let plan = |text: &str| Plan::read("spec.toml", text, &Overrides::default()).unwrap();
    assert_eq!(plan(&written), plan(DEFAULT));
    assert!(written.lines().any(|line| line.starts_with('#')));
    store::write(&folder.path().join("mine.toml"), b"mine").unwrap();
    let (exit, stdout, stderr) = mantissa(folder.path(), &["init", "mine.toml"]);
    assert_eq!((exit, stdout.as_str()), (Some(2), ""));
    assert_eq!(stderr, "mantissa: mine.toml: is there already; give another path\n");
    assert_eq!(read(&folder.path().join("mine.toml")), "mine");
}

#[test]
fn every_shell_has_completions() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (exit, script, stderr) = mantissa(folder.path(), &["completions", shell]);
        assert_eq!((exit, stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["mantissa", "experiment", "dry-run", "completions"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let (exit, ..) = mantissa(folder.path(), &["completions", "cmd"]);
    assert_eq!(exit, Some(2));
}

/// The example in the repository is a spec, and its table fits it.
#[test]
fn the_example_of_a_regression_can_be_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let arguments = ["experiment", "experiments/regression.toml", "--dry-run", "--device=cpu"];
    let (exit, stdout, stderr) = mantissa(root, &arguments);
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
    assert!(
        stdout.contains("450 training and 150 test samples of 3 × 1 × 1, 1 target value"),
        "{stdout}"
    );
}

/// Texts of 3 to 20 words, of which one says the class.
fn reviews(count: usize, shift: usize) -> String {
    const WORDS: [&str; 6] = ["the", "film", "was", "seen", "by", "many"];
    let rows = (0..count).map(|i| {
        // Nothing but the one word depends on the class: texts come in pairs.
        let pair = i / 2 + shift;
        let mut words: Vec<&str> =
            (0..2 + pair * 5 % 18).map(|k| WORDS[(pair * 7 + k * k) % 6]).collect();
        words.insert(pair * 3 % words.len(), if i % 2 == 0 { "awful" } else { "wonderful" });
        format!("{},\"{}\"\n", i % 2, words.join(" "))
    });
    format!("label,text\n{}", rows.collect::<String>())
}

#[test]
fn an_encoder_learns_to_classify_texts() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        store::write(&folder.path().join(name), text.as_bytes()).unwrap();
    };
    write("train.csv", &reviews(240, 0));
    write("test.csv", &reviews(80, 1));
    write(
        "texts.toml",
        r#"
name = "texts"
seeds = 2
variants = ["fp32", "fp16-mixed", "bf16-mixed", "tf32"]
data = { kind = "text", train = "train.csv", test = "test.csv", length = 16, vocabulary = 256 }
model = { kind = "encoder", width = 16, depth = 1, heads = 2, dropout = 0.1 }
measure = { census_every = 20, timing_blocks = 2, timing_steps = 1, timing_warmup = 1 }
train = { steps = 60, batch = 16, optimizer = { kind = "adamw", lr = 0.01 }, schedule = { warmup = 5 } }
"#,
    );
    let arguments = ["experiment", "texts.toml", "--out=out", "--device=cpu"];
    let (exit, _, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    let first = stderr.lines().next().unwrap();
    let start = "data: 240 training and 80 test texts of at most 16 tokens, of ";
    assert!(first.starts_with(start) && first.ends_with(", 2 classes"), "{first}");
    let results: Value =
        serde_json::from_str(&read(&folder.path().join("out/results.json"))).unwrap();
    assert!(results["data"]["vocabulary"].as_u64().is_some(), "{}", results["data"]);
    let notes = results["environment"]["notes"].to_string();
    assert!(notes.contains("Cut to 16 tokens: "), "{notes}");
    for variant in results["variants"].as_array().unwrap() {
        for run in variant["runs"].as_array().unwrap() {
            let accuracy = run["test_accuracy"].as_f64().unwrap();
            assert!(accuracy > 0.9, "{}: {accuracy}", variant["name"]);
        }
        // On a CPU TF32 is emulated.
        assert!(variant["untimed"].is_null(), "{variant}");
        assert_eq!(variant["train"].is_null(), variant["name"] == "tf32", "{variant}");
        let counted = &variant["numerics"]["activations"]["elements"];
        assert!(counted.as_u64().unwrap() > 0, "{variant}");
    }

    // The tokens are kept, and those are the same data.
    let tokens = store::list(&folder.path().join("cache/tokens")).unwrap();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    let written = store::modified(&tokens[0]).unwrap();
    let (exit, _, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    assert!(stderr.contains("every run was finished before"), "{stderr}");
    assert_eq!(store::modified(&tokens[0]).unwrap(), written);

    let (exit, _, stderr) = mantissa(
        folder.path(),
        &["experiment", "texts.toml", "--out=mlp", "--set", "model={kind=\"mlp\",hidden=[8]}"],
    );
    assert_eq!(exit, Some(2), "{stderr}");
    assert!(stderr.contains("model: it takes no texts: choose model.kind"), "{stderr}");
}

/// A sentence over and over: after some characters the next one is certain, so the perplexity of a model that learnt it is near 1. All
/// characters alike would have 15.
#[test]
fn a_decoder_learns_to_continue_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        store::write(&folder.path().join(name), text.as_bytes()).unwrap();
    };
    write("text.txt", &"the cat sat on the mat, and then ran off. ".repeat(100));
    write(
        "text.toml",
        r#"
name = "text"
seeds = 2
variants = ["fp32", "fp16-mixed", "bf16-mixed"]
data = { kind = "plain-text", train = "text.txt", test_share = 0.2, length = 24 }
model = { kind = "decoder", width = 32, depth = 1, heads = 2, style = "llama" }
measure = { census_every = 50, timing_blocks = 2, timing_steps = 1, timing_warmup = 1 }
train = { steps = 100, batch = 8, optimizer = { kind = "adamw", lr = 0.01 }, schedule = { warmup = 5 } }
"#,
    );
    let arguments = ["experiment", "text.toml", "--out=out", "--device=cpu"];
    let (exit, stdout, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    let first = stderr.lines().next().unwrap();
    // Python: len(set("the cat sat on the mat, and then ran off. ")) + 1 == 16; (3360 - 1) // 24 == 139, (840 - 1) // 24 == 34
    assert_eq!(first, "data: 139 training and 34 test sequences of 24 tokens, of 16");
    assert!(stdout.contains(" perplexity "), "{stdout}");
    let results: Value =
        serde_json::from_str(&read(&folder.path().join("out/results.json"))).unwrap();
    assert_eq!(results["metric"], "perplexity");
    for variant in results["variants"].as_array().unwrap() {
        for run in variant["runs"].as_array().unwrap() {
            let perplexity = run["test_perplexity"].as_f64().unwrap();
            assert!((1.0..1.5).contains(&perplexity), "{}: {perplexity}", variant["name"]);
        }
        assert!(!variant["train"].is_null() && !variant["inference"].is_null(), "{variant}");
    }
    let against = &results["variants"][2]["against_baseline"];
    assert!(against["perplexity_difference"]["value"].is_f64(), "{against}");
    assert!(read(&folder.path().join("out/results.csv")).contains("test_perplexity_mean"));

    // Every record is kept.
    let (exit, _, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    assert!(stderr.contains("every run was finished before"), "{stderr}");
}

/// The serving of a variant of the experiment below.
fn check_serving(variant: &Value) {
    let (name, serving) = (&variant["name"], &variant["serving"]);
    assert!(variant["train"].is_null() && variant["memory"].is_null(), "{variant}");
    // What a token keeps: keys and values of 2 heads of 8 values in each of 2 blocks; 24 positions.
    let bytes = if *name == "fp32" { 4 } else { 2 };
    let batches = serving["batches"].as_array().unwrap();
    let cache = |batch: u64| batch * 24 * 2 * 2 * 2 * 8 * bytes;
    if name == "e4m3" {
        assert!(batches.is_empty(), "{serving}");
    } else {
        assert_eq!(batches.len(), 2, "{serving}");
        for (batch, served) in [1, 4].into_iter().zip(batches) {
            assert_eq!(served["batch"], batch);
            assert_eq!(served["cache"], cache(batch), "{served}");
            assert!(served["peak_bytes"].as_u64().unwrap() > cache(batch), "{served}");
            assert_eq!(served["decode_blocks"].as_array().unwrap().len(), 2);
            assert_eq!(served["against_baseline"].is_null(), name == "fp32", "{served}");
        }
    }
    let agreement = &serving["agreement"];
    assert_eq!((&agreement["prompts"], &agreement["tokens"]), (&6.into(), &16.into()));
    let divergence = agreement["kl_divergence"]["value"].as_f64().unwrap();
    let equal = agreement["equal_tokens"]["value"].as_f64().unwrap();
    if name == "fp32" {
        assert_eq!((equal, divergence), (1.0, 0.0), "{agreement}");
    } else {
        assert!(divergence > 0.0 && divergence < 0.1 && equal > 0.5, "{name}: {agreement}");
    }
    // A census of the test batch.
    assert!(variant["numerics"]["weights"]["elements"].as_u64().unwrap() > 0, "{variant}");
    assert!(variant["numerics"]["activations"]["elements"].as_u64().unwrap() > 0);
}

/// A decoder that was trained, and one that was not, generate: how fast, in what memory, and how far from FP32.
#[test]
fn a_decoder_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        store::write(&folder.path().join(name), text.as_bytes()).unwrap();
    };
    write("text.txt", &"the cat sat on the mat, and then ran off. ".repeat(100));
    write(
        "serve.toml",
        r#"
name = "serve"
seeds = 1
variants = ["fp32", "fp16-mixed", "bf16-mixed", { name = "e4m3", policy = "params=f32,compute=e4m3,reduce=f32,scale=none" }]
data = { kind = "plain-text", train = "text.txt", test_share = 0.2, length = 24 }
model = { kind = "decoder", width = 32, depth = 2, heads = 4, kv_heads = 2, style = "llama" }
train = { steps = 0, batch = 8 }

[measure]
timing_blocks = 2
timing_steps = 1
serving = { prompt = 8, generate = 16, batch = 4, prompts = 6 }
"#,
    );
    let arguments = ["experiment", "serve.toml", "--out=out", "--device=cpu"];
    let (exit, stdout, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    assert!(stdout.contains("Nothing was trained"), "{stdout}");
    let results: Value =
        serde_json::from_str(&read(&folder.path().join("out/results.json"))).unwrap();
    let variants = results["variants"].as_array().unwrap();
    variants.iter().for_each(check_serving);
    let divergence = |index: usize| {
        variants[index]["serving"]["agreement"]["kl_divergence"]["value"].as_f64().unwrap()
    };
    // 11, 8 and 4 bits of precision.
    assert!(divergence(1) < divergence(2) && divergence(2) < divergence(3));
    let page = read(&folder.path().join("out/report.html"));
    assert!(page.contains("<h2 id=\"serving-title\">Serving</h2>"), "the page has the table");

    let train = ["--set", "train={steps=20,batch=8,optimizer={kind=\"adamw\",lr=0.01}}"];
    let arguments = [&["experiment", "serve.toml", "--out=trained", "--device=cpu"][..], &train];
    let (exit, _, stderr) = mantissa(folder.path(), &arguments.concat());
    assert_eq!(exit, Some(0), "{stderr}");
    let results: Value =
        serde_json::from_str(&read(&folder.path().join("trained/results.json"))).unwrap();
    let trained = &results["variants"][0];
    assert!(!trained["train"].is_null() && !trained["serving"].is_null(), "{trained}");
}

/// What cannot be served is refused before anything runs.
#[test]
fn serving_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    store::write(&folder.path().join("text.txt"), "abcdefgh ".repeat(12).as_bytes()).unwrap();
    let spec = r#"
name = "serve"
variants = ["fp32"]
data = { kind = "plain-text", train = "text.txt", test_share = 0.2, length = 16 }
model = { kind = "decoder", width = 16, depth = 1, heads = 2 }
train = { steps = 0, batch = 2 }
measure = { serving = { } }
"#;
    store::write(&folder.path().join("serve.toml"), spec.as_bytes()).unwrap();
    for (set, message) in [
        ("measure.serving.prompt=16", "measure.serving.prompt: is 16; must be 1 to 15"),
        (
            "measure.serving={prompt=8,generate=9}",
            "measure.serving.generate: is 9, which with a prompt of 8 is more than the 16 tokens of data.length",
        ),
        ("measure.serving.prompts=1", "measure.serving.prompts: is 1; must be 2 to "),
        ("measure.serving.tokens=1", "measure.serving.tokens: unknown key"),
        (
            "measure.serving.prompt=8",
            "measure.serving: the test split has 1 sequence of 8 tokens, and a comparison needs two",
        ),
        ("train.steps=1", "train: missing key \"optimizer\""),
    ] {
        let arguments = ["experiment", "serve.toml", "--out=out", "--device=cpu", "--set", set];
        let (exit, _, stderr) = mantissa(folder.path(), &arguments);
        assert_eq!(exit, Some(2), "{set}: {stderr}");
        assert!(stderr.contains(message), "{set}: {stderr}");
    }
}

/// The small checkpoint of Llama in `folder/llama`, with a tokenizer of five words, and a text of these in `folder/text.txt`.
fn checkpoint(folder: &Path) {
    let copy = folder.join("llama");
    let there = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints/llama");
    for file in store::list(&there).unwrap() {
        let bytes = store::read(&file).unwrap();
        store::write(&copy.join(file.file_name().unwrap()), &bytes).unwrap();
    }
    // The tokenizer has fewer words than the checkpoint has rows.
    let vocabulary = ["one", "two", "three", "four", "five", "[UNK]"];
    let ids: serde_json::Map<String, Value> =
        vocabulary.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), id.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": ids, "unk_token": "[UNK]" },
    });
    store::write(&copy.join("tokenizer.json"), tokenizer.to_string().as_bytes()).unwrap();
    let text = "one two three four five ".repeat(60);
    store::write(&folder.join("text.txt"), text.as_bytes()).unwrap();
}

/// A checkpoint is trained further, and what is saved is one again.
#[test]
fn a_checkpoint_is_trained_and_saved() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let copy = folder.path().join("llama");
    let spec = r#"
name = "further"
seeds = 1
variants = ["fp32", "fp16-mixed", "bf16-mixed"]
data = { kind = "plain-text", train = "text.txt", test_share = 0.2, length = 12 }
model = { kind = "pretrained", folder = "llama" }
measure = { census_every = 10, timing_blocks = 1, timing_steps = 1, timing_warmup = 1 }
train = { steps = 40, batch = 4, optimizer = { kind = "adamw", lr = 0.01 }, schedule = { warmup = 2 } }
"#;
    store::write(&folder.path().join("further.toml"), spec.as_bytes()).unwrap();
    let arguments = ["experiment", "further.toml", "--out=out", "--device=cpu", "--save-weights"];
    let (exit, _, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    assert!(
        stderr.contains("note: Every run starts from the weights of llama, SHA-256 "),
        "{stderr}"
    );
    let results: Value =
        serde_json::from_str(&read(&folder.path().join("out/results.json"))).unwrap();
    for variant in results["variants"].as_array().unwrap() {
        let perplexity = variant["runs"][0]["test_perplexity"].as_f64().unwrap();
        // The five words alike would have 5, and the checkpoint's weights are random.
        assert!(perplexity < 2.0, "{}: {perplexity}", variant["name"]);
    }
    // What was saved has the names that the checkpoint has: it is one of a single file.
    for shard in ["model-00001-of-00003", "model-00002-of-00003", "model-00003-of-00003"] {
        store::remove(&copy.join(format!("{shard}.safetensors"))).unwrap();
    }
    let saved = folder.path().join("out/runs/fp32/seed-0/weights.safetensors");
    store::write(&copy.join("model.safetensors"), &store::read(&saved).unwrap()).unwrap();
    let arguments = ["experiment", "further.toml", "--out=again", "--device=cpu", "--dry-run"];
    let (exit, stdout, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!((exit, stderr.as_str()), (Some(0), ""), "{stdout}");

    let (exit, _, stderr) = mantissa(
        folder.path(),
        &["experiment", "further.toml", "--out=long", "--set", "data.length=13"],
    );
    assert_eq!(exit, Some(2), "{stderr}");
    assert!(stderr.contains("12 positions, and data.length is 13: choose at most 12"), "{stderr}");
}

/// The tensors of the small checkpoint in bf16, in one file: `tensor` with a first value of 2¹⁷, which f16 cannot hold.
fn in_bf16(folder: &Path, tensor: &str) {
    let mut tensors = BTreeMap::new();
    for part in 1..=3 {
        let path = folder.join(format!("model-0000{part}-of-00003.safetensors"));
        let bytes = store::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let values =
                view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let mut values: Vec<bf16> = values.map(bf16::from_f32).collect();
            if name == tensor {
                values[0] = bf16::from_f32(131_072.0);
            }
            let bytes: Vec<u8> = values.into_iter().flat_map(bf16::to_le_bytes).collect();
            tensors.insert(name.to_owned(), (view.shape().to_vec(), bytes));
        }
        store::remove(&path).unwrap();
    }
    store::remove(&folder.join("model.safetensors.index.json")).unwrap();
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    store::write(&folder.join("model.safetensors"), &file).unwrap();
}

/// A checkpoint in bf16 served in f16: the value that f16 cannot hold is counted in its layer, and the report has no perplexity of it.
#[test]
fn a_checkpoint_served_in_a_format_that_cannot_hold_it_says_where() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    in_bf16(&folder.path().join("llama"), "model.layers.1.mlp.up_proj.weight");
    let spec = r#"
name = "serve"
seeds = 1
variants = ["fp32", "fp16-mixed", "bf16-mixed"]
data = { kind = "plain-text", train = "text.txt", test_share = 0.5, length = 12 }
model = { kind = "pretrained", folder = "llama" }
measure = { timing_blocks = 0, serving = { prompt = 6, prompts = 4 } }
train = { steps = 0, batch = 4 }
"#;
    store::write(&folder.path().join("serve.toml"), spec.as_bytes()).unwrap();
    let arguments = ["experiment", "serve.toml", "--out=out", "--device=cpu"];
    let (exit, _, stderr) = mantissa(folder.path(), &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    let out = folder.path().join("out");
    let overflow = |variant: &str| -> Vec<(String, u64)> {
        let path = out.join(format!("runs/{variant}/seed-0/record.json"));
        let record: Value = serde_json::from_str(&read(&path)).unwrap();
        let layers = record["census"].as_array().unwrap().iter();
        let weights = layers.filter(|layer| layer["role"] == "weights");
        let counts = weights.map(|layer| {
            let count = layer["counts"]["overflow"].as_u64().unwrap();
            (layer["layer"].as_str().unwrap().to_owned(), count)
        });
        counts.filter(|(_, count)| *count > 0).collect()
    };
    assert_eq!(overflow("fp16-mixed"), [("block2.feed_forward.up".to_owned(), 1)]);
    assert_eq!((overflow("fp32"), overflow("bf16-mixed")), (vec![], vec![]));
    let results: Value = serde_json::from_str(&read(&out.join("results.json"))).unwrap();
    let [single, half, brain] = [0, 1, 2].map(|variant| &results["variants"][variant]);
    assert!(half["runs"][0]["test_perplexity"].is_null(), "{half}");
    let agreement = &half["serving"]["agreement"];
    assert_eq!(agreement["equal_tokens"]["value"], 0.0, "{agreement}");
    assert!(agreement["kl_divergence"].is_null(), "{agreement}");
    // Every value of the file is one of bf16: what differs is the arithmetic.
    assert!(
        single["runs"][0]["test_perplexity"].is_f64()
            && brain["runs"][0]["test_perplexity"].is_f64()
    );
    assert!(brain["serving"]["agreement"]["kl_divergence"]["value"].is_f64(), "{brain}");
    let page = read(&out.join("report.html"));
    assert!(page.contains("block2.feed_forward.up"), "the page has the table of layers");
}

/// The failure on purpose: f16 overflows in what a block adds, in the forward pass, and no loss scale helps; bf16 learns.
#[test]
fn activations_that_pass_65504_end_fp16_and_not_bf16() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arguments = [
        "experiment",
        "experiments/fp16-overflow.toml",
        &format!("--out={}", out.display()),
        "--device=cpu",
        "--seeds=1",
        "--set=measure.timing_blocks=0",
        "--set=train.steps=50",
    ];
    let (exit, _, stderr) = mantissa(root, &arguments);
    assert_eq!(exit, Some(0), "{stderr}");
    let record = |variant: &str| -> Value {
        let path = out.join(format!("runs/{variant}/seed-0/record.json"));
        serde_json::from_str(&read(&path)).unwrap()
    };
    let overflow = |record: &Value| -> Vec<(String, String)> {
        let censuses = ["census", "settling_census", "rejected_census"];
        let layers = censuses.iter().filter_map(|census| record[census].as_array()).flatten();
        let some = layers.filter(|layer| layer["counts"]["overflow"].as_u64() > Some(0));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        some.map(|layer| (text(&layer["layer"]), text(&layer["role"]))).collect()
    };
    let (half, brain, single) = (record("fp16-mixed"), record("bf16-mixed"), record("fp32"));
    assert_eq!(half["summary"]["status"], "diverged", "{stderr}");
    let layer = half["summary"]["failure"]["layer"].as_str().unwrap();
    assert!(layer.starts_with("block"), "{layer}");
    // The first layer with an infinity had no larger number to round to.
    let found = overflow(&half);
    assert!(found.contains(&(layer.to_owned(), "activations".to_owned())), "{layer}: {found:?}");
    for other in [&brain, &single] {
        assert_eq!(other["summary"]["status"], "completed");
        assert_eq!(overflow(other), []);
    }
    let perplexity = |record: &Value| record["summary"]["test_perplexity"].as_f64().unwrap();
    let (brain, single) = (perplexity(&brain), perplexity(&single));
    assert!((brain - single).abs() < 0.02 * single, "{brain} {single}");
}
