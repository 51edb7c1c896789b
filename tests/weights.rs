//! Weights in and out: what a run leaves is what it ended with, and what the next starts from.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not there")]

use std::path::Path;

use mantissa::device::Device;
use mantissa::experiment::{Event, Experiment, Machine, Options};
use mantissa::formatting;
use mantissa::record::Results;
use mantissa::record::files::weights_path;
use mantissa::spec::{Overrides, Plan};
use mantissa::store::{self, Folder};
use mantissa::task::Task;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use sha2::{Digest as _, Sha256};

const SPEC: &str = r#"
name = "weights"
variants = ["fp32", "bf16-mixed", "bf16-true"]
seeds = 2
data = { kind = "digits", train = 100, test = 40 }

[model]
kind = "layers"
layers = [{ conv = { channels = 3, stride = 4 } }, "batch_norm", "relu", { residual = [{ conv = { channels = 3, padding = 1 } }] }]

[train]
steps = 3
batch = 20
optimizer = { kind = "sgd", lr = 0.05 }
schedule = { kind = "constant", warmup = 0 }

[measure]
census_every = 0
timing_blocks = 0
"#;

fn plan(set: &[String]) -> Plan {
    let overrides = Overrides { set: set.to_vec(), ..Overrides::default() };
    Plan::read("weights.toml", SPEC, &overrides).unwrap()
}

/// The results, and how many runs were trained.
fn run(out: &Path, set: &[String], save_weights: bool) -> (Results, usize) {
    let plan = plan(set);
    let task = Task::of_plan(&plan).unwrap();
    let folder = Folder::lock(out, "a test").unwrap();
    let machine = Machine::open(Device::Cpu).unwrap();
    let options = Options { save_weights, ..Options::new(&folder, &machine) };
    let mut trained = 0;
    let mut listen =
        |event: Event<'_>| trained += usize::from(matches!(event, Event::RunStarted { .. }));
    let results = Experiment::new(plan, task).unwrap().run(options, &mut listen).unwrap();
    (results, trained)
}

/// SHA-256 over the parameters as little-endian f32 in the order of the layers, as a record's digest is defined.
fn digest(file: &[u8]) -> String {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let names = [
        "conv1.weight",
        "conv1.bias",
        "norm1.gamma",
        "norm1.beta",
        "residual1.conv1.weight",
        "residual1.conv1.bias",
        "output.weight",
        "output.bias",
    ];
    let mut digest = Sha256::new();
    for name in names {
        let tensor = tensors.tensor(name).unwrap();
        match tensor.dtype() {
            Dtype::F32 => digest.update(tensor.data()),
            // The upper half of an f32.
            Dtype::BF16 => {
                tensor.data().chunks(2).for_each(|bytes| digest.update([0, 0, bytes[0], bytes[1]]));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(tensors.len(), names.len() + 2, "and the running statistics");
    formatting::hex(&digest.finalize())
}

#[test]
fn saved_weights_are_those_at_the_end_and_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    // Without the weights first: a run that is there without them is done again, and then kept.
    assert_eq!(run(&first, &[], false).1, 6);
    let (results, trained) = run(&first, &[], true);
    assert_eq!(trained, 6);
    assert_eq!(run(&first, &[], true).1, 0);
    for variant in &results.variants {
        for run in &variant.runs {
            let file = std::fs::read(weights_path(&first, &variant.name, run.seed)).unwrap();
            assert_eq!(Some(digest(&file)), run.weights_digest, "{}", variant.name);
        }
    }

    // A step that moves nothing: f32's smallest weight here is far above 1e-30. Every seed then ends where it started.
    let path = weights_path(&first, "fp32", 1);
    let init = format!("init={}", path.display());
    let small = ["train.steps=1".to_owned(), "train.optimizer.lr=1e-30".to_owned(), init];
    let (again, _) = run(&second, &small, false);
    let expected = &results.variants[0].runs[1];
    for run in &again.variants[0].runs {
        assert_eq!(run.weights_digest, expected.weights_digest);
        // The running statistics are those of the file, but for one more batch.
        assert!((run.test_accuracy.unwrap() - expected.test_accuracy.unwrap()).abs() < 0.2);
    }
    let says = |note: &String| {
        note.starts_with("Every run starts from the weights of weights.safetensors")
    };
    assert!(again.environment.notes.iter().any(says), "{:?}", again.environment.notes);

    // Another file is another run.
    let other = weights_path(&first, "fp32", 0);
    let [steps, lr, _] = small;
    let (_, trained) =
        run(&folder.path().join("third"), &[steps, lr, format!("init={}", other.display())], false);
    assert_eq!(trained, 6);
}

#[test]
fn a_file_that_does_not_fit_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        let plan = plan(&[format!("init={}", path.display())]);
        Task::of_plan(&plan).err().unwrap().to_string()
    };
    let path = folder.path().join("none.safetensors");
    assert!(refused(&path).starts_with(&format!("init: {}: cannot ", path.display())));
    store::write(&path, b"PK\x03\x04").unwrap();
    let expected = format!("init: {}: not a file of safetensors: ", path.display());
    assert!(refused(&path).starts_with(&expected), "{}", refused(&path));
}
