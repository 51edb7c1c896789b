//! The library as others use it: the example with a network of one's own, and a program outside this repository that depends on
//! the library without its default features.

use std::path::Path;
use std::process::Command;

use mantissa::record::files::PAGE;
use mantissa::store;

#[path = "../examples/own_model.rs"]
#[expect(dead_code, reason = "its main is for the command line")]
mod own_model;

const MAIN: &str = r#"
use candle_core::{Result, Tensor};
use mantissa::data;
use mantissa::device::Device;
use mantissa::experiment::{Experiment, Machine, Options};
use mantissa::layers::{Flatten, Layer, Linear, Pass, Saved, Sequential};
use mantissa::memory::CountingAllocator;
use mantissa::model::Model;
use mantissa::ops;
use mantissa::spec::DataPlan;
use mantissa::store::Folder;
use mantissa::task::Task;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// GELU, as a layer of this program's own.
struct Smooth;

impl Layer for Smooth {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let y = pass.activation("smooth", ops::gelu(&x)?)?;
        pass.save(Saved::Tensor(x));
        Ok(y)
    }

    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let x = pass.take_tensor()?;
        pass.activation_gradient("smooth", ops::gelu_backward(&dy, &x)?).map(Some)
    }
}

const SPEC: &str = "
name = 'outside'
variants = ['fp32', 'bf16-mixed']
seeds = 2
[train]
steps = 40
batch = 20
optimizer = { kind = 'adamw', lr = 1e-2 }
schedule = { kind = 'constant', warmup = 0 }
[measure]
timing_blocks = 2
";

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let data = data::load(&DataPlan::Digits { train: 400, test: 200, seed: 0 })?;
    let model = Model::of_layers(data.shape(), |registry| {
        let inputs = data.shape().iter().product();
        let first = Linear::new(registry, "first", (inputs, 32), true);
        registry.layer("smooth");
        let output = Linear::new(registry, "output", (32, data.outputs()), false);
        Ok(Sequential(vec![Box::new(Flatten), Box::new(first), Box::new(Smooth), Box::new(output)]))
    })?;
    let task = Task::new(model, data);
    let plan = task.plan("main.rs", SPEC)?;
    let folder = Folder::lock("results".as_ref(), "outside")?;
    let machine = Machine::open(Device::Cpu)?;
    let results = Experiment::new(plan, task)?.run(Options::new(&folder, &machine), &mut |_| ())?;
    for variant in &results.variants {
        let accuracy = variant.runs.iter().filter_map(|run| run.test_accuracy);
        println!("{} {} {}", variant.name, accuracy.fold(1.0, f64::min), variant.memory.is_some());
    }
    Ok(())
}
"#;

#[test]
fn the_example_of_an_own_model_learns_and_has_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let results = own_model::experiment(folder.path()).unwrap();
    assert!(results.complete);
    let names: Vec<_> = results.variants.iter().map(|variant| variant.name.as_str()).collect();
    assert_eq!(names, ["fp32", "fp16-mixed", "bf16-mixed"]);
    for variant in &results.variants {
        assert_eq!(variant.runs.len(), 2, "{}", variant.name);
        // One class in ten is right by chance.
        assert!(
            variant.runs.iter().all(|run| run.test_accuracy.unwrap() > 0.5),
            "{}",
            variant.name
        );
        assert!(variant.memory.is_some() && variant.train.is_some(), "{}", variant.name);
    }
    assert!(folder.path().join(PAGE).is_file());
}

/// Takes minutes where the dependencies are not compiled with these features yet. Offline, with the
/// versions of this repository's lock file and its profiles, in its target folder, so that what is there is not compiled again.
#[test]
#[ignore = "compiles the library once more: cargo test --test library -- --ignored"]
fn a_program_elsewhere_trains_a_model_with_a_layer_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let read = |name: &str| String::from_utf8(store::read(&root.join(name)).unwrap()).unwrap();
    let own = read("Cargo.toml");
    let (profiles, _) = own.split_once("[profile.test]").unwrap();
    let (_, profiles) = profiles.split_once("[profile.dev.package").unwrap();
    let manifest = format!(
        "[package]\nname = \"outside\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\ncandle-core = {{ version = \
         \"0.11.1\", default-features = false }}\nmantissa = {{ path = {root:?}, default-features = false }}\n\n\
         [profile.dev.package{profiles}"
    );
    let folder = tempfile::tempdir().unwrap();
    let lock = read("Cargo.lock");
    for (name, text) in [("Cargo.toml", &*manifest), ("src/main.rs", MAIN), ("Cargo.lock", &lock)] {
        store::write(&folder.path().join(name), text.as_bytes()).unwrap();
    }
    let output = Command::new(env!("CARGO"))
        .args(["run", "--offline"])
        .current_dir(folder.path())
        .env("CARGO_TARGET_DIR", target)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complained}");
    // In a build without its default features nothing of the library is unused.
    assert!(!complained.contains("warning"), "{complained}");
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ["fp32", "bf16-mixed"], "{said}");
    for row in rows {
        // One class in ten is right by chance.
        assert!(row[1].parse::<f64>().unwrap() > 0.5, "{said}");
        assert_eq!(row[2], "true", "memory is counted: {said}");
    }
}
