//! Models of candle as they are, under three precisions: a convolutional network, beside the same network made of this crate's
//! layers, and an attention block.
//!
//! `cargo run --release --example candle_model -- FOLDER` trains them on synthetic digits. Each leaves results and a report in a
//! folder of its own in FOLDER, and FOLDER/side-by-side compares them.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(
    clippy::needless_pass_by_value,
    reason = "functions that make modules get their builder so"
)]

use std::path::{Path, PathBuf};

use candle_core::{D, ModuleT, Result, Tensor};
use candle_nn::{Conv2dConfig, Module, VarBuilder, conv2d, func_t, linear, ops::softmax, seq};
use mantissa::data::{self, DataError, Dataset};
use mantissa::device::Device;
use mantissa::experiment::{Experiment, Machine, Options};
use mantissa::layers::{BoxedLayer, Conv2d, ConvSizes, Flatten, Linear, Sequential};
use mantissa::memory::{self, CountingAllocator};
use mantissa::model::Model;
use mantissa::ops::ConvSettings;
use mantissa::record::files::PAGE;
use mantissa::report;
use mantissa::spec::DataPlan;
use mantissa::store::Folder;
use mantissa::task::{CandleTask, Task, observe};

/// Counts memory: without it, results have none.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What goes wrong here, to be printed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the specs say, but for their names, the data and the models.
const SPEC: &str = r#"
variants = ["fp32", "fp16-mixed", "bf16-mixed"]
seeds = 3

[train]
steps = 200
batch = 50
optimizer = { kind = "adamw", lr = 1e-3 }

[measure]
census_every = 50
timing_blocks = 8
"#;

/// Channels of the convolutions.
const CHANNELS: [usize; 3] = [1, 8, 16];

/// Values of an image behind the convolutions, each of which halves its sides.
const FEATURES: usize = CHANNELS[2] * 7 * 7;

/// Width of the attention block.
const WIDTH: usize = 32;

fn digits() -> std::result::Result<Dataset, DataError> {
    data::load(&DataPlan::Digits { train: 2000, test: 1000, seed: 0 })
}

/// Two convolutions with stride 2, and a linear layer.
fn convolution(weights: VarBuilder<'_>) -> Result<impl ModuleT + use<>> {
    let config = Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::default() };
    let layer = |index: usize| {
        let (inputs, outputs) = (CHANNELS[index], CHANNELS[index + 1]);
        conv2d(inputs, outputs, 3, config, weights.pp(format!("conv{}", index + 1)))
    };
    let output = linear(FEATURES, 10, weights.pp("output"))?;
    let module = seq().add(layer(0)?).add_fn(Tensor::relu).add(layer(1)?).add_fn(Tensor::relu);
    Ok(module.add_fn(|x| x.flatten_from(1)).add(output))
}

/// The same network of this crate's layers.
fn own_convolution() -> std::result::Result<Task, Failure> {
    let data = digits()?;
    let model = Model::of_layers(data.shape(), |registry| {
        let settings = ConvSettings { stride: 2, padding: 1, dilation: 1, groups: 1 };
        let mut layers: Vec<BoxedLayer> = Vec::new();
        for index in 0..2 {
            let (inputs, outputs) = (CHANNELS[index], CHANNELS[index + 1]);
            let sizes = ConvSizes { inputs, outputs, kernel: 3, bias: true };
            let name = format!("conv{}", index + 1);
            let conv = Conv2d::new(registry, &name, sizes, settings, index == 0);
            layers.push(Box::new(conv.with_relu(registry, &format!("relu{}", index + 1))));
        }
        layers.push(Box::new(Flatten));
        layers.push(Box::new(Linear::new(registry, "output", (FEATURES, 10), false)));
        Ok(Sequential(layers))
    })?;
    Ok(Task::new(model, data))
}

/// One head of attention over the rows of an image, and a linear layer on the mean of its results.
fn attention(weights: VarBuilder<'_>) -> Result<impl ModuleT + use<>> {
    let [query, key, value] =
        ["query", "key", "value"].map(|name| linear(28, WIDTH, weights.pp(name)));
    let (query, key, value) = (query?, key?, value?);
    let output = linear(WIDTH, 10, weights.pp("output"))?;
    Ok(func_t(move |x: &Tensor, _| {
        let rows = x.squeeze(1)?;
        let scores = query.forward(&rows)?.matmul(&key.forward(&rows)?.t()?)?;
        let scores = (scores / (WIDTH as f64).sqrt())?;
        observe("scores", &scores);
        let mixed = softmax(&scores, D::Minus1)?.matmul(&value.forward(&rows)?)?;
        output.forward(&mixed.mean(1)?)
    }))
}

/// One experiment, into a folder of its own in `out`.
fn run(out: &Path, name: &str, task: Task) -> std::result::Result<PathBuf, Failure> {
    let plan = task.plan("candle_model", &format!("name = \"{name}\"\n{SPEC}"))?;
    let place = out.join(name);
    let folder = Folder::lock(&place, "the example candle_model")?;
    let machine = Machine::open(Device::Cpu)?;
    let experiment = Experiment::new(plan, task)?;
    let results = experiment.run(Options::new(&folder, &machine), &mut |_| ())?;
    report::render(&place)?;
    println!("{}", report::terminal(&results, report::Verbosity::Summary, 100));
    Ok(place)
}

fn main() -> std::result::Result<(), Failure> {
    memory::keep_freed_pages();
    let out = std::env::args().nth(1).ok_or("usage: candle_model FOLDER")?;
    let out = Path::new(&out);
    let folders = [
        run(out, "convolution-candle", CandleTask::new(digits()?, convolution).build()?)?,
        run(out, "convolution", own_convolution()?)?,
        run(out, "attention-candle", CandleTask::new(digits()?, attention).build()?)?,
    ];
    report::render_together(&folders, &out.join("side-by-side"))?;
    println!("report: {}", out.join("side-by-side").join(PAGE).display());
    Ok(())
}
