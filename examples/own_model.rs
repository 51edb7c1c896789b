//! A network of one's own under three precisions: layers of this crate, put together in Rust.
//!
//! `cargo run --release --example own_model -- FOLDER` trains it on synthetic digits, and leaves results and a report in FOLDER.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::path::Path;

use mantissa::data;
use mantissa::device::Device;
use mantissa::experiment::{Experiment, Machine, Options};
use mantissa::layers::{BoxedLayer, Flatten, Linear, Residual, Sequential};
use mantissa::memory::{self, CountingAllocator};
use mantissa::model::Model;
use mantissa::record::Results;
use mantissa::report;
use mantissa::spec::DataPlan;
use mantissa::store::Folder;
use mantissa::task::Task;

/// Counts memory: without it, results have none.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What goes wrong here, to be printed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a spec says, but for the data and the model.
const SPEC: &str = r#"
name = "own-model"
variants = ["fp32", "fp16-mixed", "bf16-mixed"]
seeds = 2

[train]
steps = 120
batch = 50
optimizer = { kind = "adamw", lr = 1e-3 }

[measure]
census_every = 40
timing_blocks = 4
"#;

/// A linear layer, a residual block, and a linear layer to the classes: no spec has one like it.
fn task() -> Result<Task, Failure> {
    let data = data::load(&DataPlan::Digits { train: 1000, test: 500, seed: 0 })?;
    let model = Model::of_layers(data.shape(), |registry| {
        let inputs = data.shape().iter().product();
        let first = Linear::new(registry, "first", (inputs, 64), true);
        let inner = Linear::new(registry, "block.1", (64, 32), false).with_relu(registry, "relu");
        let outer = Linear::new(registry, "block.2", (32, 64), false);
        let body = Sequential(vec![Box::new(inner), Box::new(outer)]);
        let block = Residual::new(registry, "block", body, Sequential::default());
        let output = Linear::new(registry, "output", (64, data.outputs()), false);
        let layers: Vec<BoxedLayer> =
            vec![Box::new(Flatten), Box::new(first), Box::new(block), Box::new(output)];
        Ok(Sequential(layers))
    })?;
    Ok(Task::new(model, data))
}

/// The whole experiment, into a folder.
pub(crate) fn experiment(out: &Path) -> Result<Results, Failure> {
    let task = task()?;
    let plan = task.plan("own_model", SPEC)?;
    let folder = Folder::lock(out, "the example own_model")?;
    let machine = Machine::open(Device::Cpu)?;
    let options = Options::new(&folder, &machine);
    let results = Experiment::new(plan, task)?.run(options, &mut |_| ())?;
    report::render(out)?;
    Ok(results)
}

fn main() -> Result<(), Failure> {
    memory::keep_freed_pages();
    let out = std::env::args().nth(1).ok_or("usage: own_model FOLDER")?;
    let results = experiment(Path::new(&out))?;
    println!("{}", report::terminal(&results, report::Verbosity::Summary, 100));
    Ok(())
}
