//! Times training steps of one model under one policy and prints a line of JSON: the half of `benches/peers` that is ours.
//!
//! `cargo run --release --example step_time -- mlp bf16-mixed 50`; models: `mlp`, `cnn`, `resnet20`, `wide-mlp`,
//! `encoder`, `gpu-mlp`, `gpu-resnet`; `candle-mlp` and `candle-wide-mlp` are modules of candle.
//! With `--device cuda` before the model the steps are a GPU's. They are timed a few at a time there, so that the GPU need not
//! wait for the host after each, and each of these is told to have taken the mean of them.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use mantissa::data::{self, DataError, Dataset, Inputs, Split, Targets, Tokens};
use mantissa::device::{self, Stopwatch};
use mantissa::memory;
use mantissa::networks::{self, DataShape};
use mantissa::precision::Policy;
use mantissa::spec::{
    Activation, CheckpointEvery, ConvBlock, DEFAULT, DataPlan, EncoderPlan, ModelPlan, NormPlan,
    OptimizerPlan, Overrides, Plan, Pool, ScheduleKind, SchedulePlan, TextPool, TrainPlan,
};
use mantissa::task::{CandleTask, Task};
use mantissa::train::{DeviceBatch, Setup, Trainer};

/// Before the name of a model: as a module of candle.
const CANDLE: &str = "candle-";

/// Steps before the clock starts.
const WARM_UP: u64 = 5;

/// Steps of a GPU that are timed together.
const STEPS_TOGETHER: u64 = 10;

/// What goes wrong here, to be printed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    // As the program itself works: freed pages are kept, and steps are done in the pool.
    memory::keep_freed_pages();
    rayon::scope(|_| run())
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (device, name, policy, steps) = match arguments.as_slice() {
        [flag, device, name, policy, steps] if flag == "--device" => (device, name, policy, steps),
        [name, policy, steps] => (&"cpu".to_owned(), name, policy, steps),
        _ => return Err("usage: step_time [--device DEVICE] MODEL POLICY STEPS".into()),
    };
    let device = device.parse::<device::Device>()?.resolve()?.open()?;
    let (plan, batch) = model(name.strip_prefix(CANDLE).unwrap_or(name))?;
    let (named, policy, steps): (_, Policy, u64) = (policy, policy.parse()?, steps.parse()?);
    let data = match name.as_str() {
        "resnet20" => noise([3, 32, 32], batch * 8)?,
        "encoder" => texts(batch * 8)?,
        _ => data::load(&DataPlan::Digits { train: batch * 8, test: batch, seed: 0 })?,
    };
    let shape = data.shape();
    let train = train_plan(name, batch, steps + WARM_UP);
    let measure = Plan::read("default", DEFAULT, &Overrides::default())?.measure;
    let task = task(&plan, data, name.starts_with(CANDLE))?;
    let setup = Setup {
        task: &task,
        train: &train,
        measure: &measure,
        device: &device,
        save_weights: false,
    };
    let mut source = setup.batches(0)?;
    let mut trainer = Trainer::new(setup, policy, 0)?;
    for step in 0..WARM_UP {
        let batch = DeviceBatch::new(source.batch(step)?, shape, &device)?;
        trainer.step(&mut |_| Ok(batch.clone()), None)?;
    }
    let together = if device.is_cpu() { 1 } else { STEPS_TOGETHER };
    let mut seconds = Vec::new();
    let mut done = 0;
    while done < steps {
        let count = together.min(steps - done);
        let load = |step| DeviceBatch::new(source.batch(WARM_UP + done + step)?, shape, &device);
        let batches = (0..count).map(load).collect::<Result<Vec<_>, _>>()?;
        trainer.outcomes()?;
        let clock = Stopwatch::start(&device)?;
        for batch in batches {
            trainer.step(&mut |_| Ok(batch.clone()), None)?;
        }
        let each = clock.stop()?.0 / count as f64;
        seconds.extend(std::iter::repeat_n(each, count as usize));
        done += count;
    }
    println!("{}", serde_json::json!({"model": name, "policy": named, "step_seconds": seconds}));
    Ok(())
}

/// A model by name, and its batch.
fn model(name: &str) -> Result<(ModelPlan, usize), String> {
    let mlp = |hidden: &[usize]| ModelPlan::Mlp {
        hidden: hidden.to_vec(),
        activation: Activation::Relu,
        dropout: 0.0,
    };
    let block = |channels| ConvBlock {
        channels,
        kernel: 3,
        stride: 1,
        padding: 1,
        dilation: 1,
        groups: 1,
        pool: Pool::Max,
    };
    match name {
        "mlp" => Ok((mlp(&[512, 512]), 256)),
        "wide-mlp" => Ok((mlp(&[2048, 2048, 2048]), 256)),
        "resnet20" => Ok((ModelPlan::Resnet { depth: 20, width: 16 }, 128)),
        "encoder" => Ok((
            ModelPlan::Encoder(EncoderPlan {
                width: 256,
                depth: 4,
                heads: 8,
                feed_forward: 1024,
                dropout: 0.0,
                attention_dropout: 0.0,
                norm: NormPlan::Before,
                pool: TextPool::Mean,
                residual_init: 1.0,
            }),
            16,
        )),
        "gpu-mlp" => Ok((mlp(&[4096, 4096, 4096]), 8192)),
        "gpu-resnet" => Ok((ModelPlan::Resnet { depth: 20, width: 64 }, 1024)),
        "cnn" => {
            let blocks = vec![block(16), block(32)];
            let (hidden, activation) = (vec![128], Activation::Relu);
            let (batch_norm, dropout) = (false, 0.0);
            Ok((ModelPlan::Cnn { blocks, hidden, activation, batch_norm, dropout }, 64))
        }
        other => {
            let known = "mlp, cnn, resnet20, wide-mlp, encoder, gpu-mlp, gpu-resnet";
            Err(format!("unknown model {other:?}; known: {known}"))
        }
    }
}

/// The model of a plan as this crate's layers, or as a module of candle.
fn task(plan: &ModelPlan, data: Dataset, of_candle: bool) -> Result<Task, Failure> {
    if !of_candle {
        let model = networks::model(plan, &DataShape::of(&data))?;
        return Ok(Task::new(model, data));
    }
    let ModelPlan::Mlp { hidden, .. } = plan else {
        return Err("only MLPs are there as modules of candle".into());
    };
    let inputs = data.shape().iter().product();
    let widths: Vec<usize> =
        std::iter::once(inputs).chain(hidden.iter().copied()).chain([data.outputs()]).collect();
    let task = CandleTask::new(data, move |weights| {
        let mut module = candle_nn::seq().add_fn(|x| x.flatten_from(1));
        for (index, pair) in widths.windows(2).enumerate() {
            if index > 0 {
                module = module.add_fn(candle_core::Tensor::relu);
            }
            let linear = candle_nn::linear(pair[0], pair[1], weights.pp(index))?;
            module = module.add(linear);
        }
        Ok(module)
    });
    Ok(task.build()?)
}

/// Images of noise, for sizes that the built-in data do not have.
fn noise(shape: [usize; 3], images: usize) -> Result<Dataset, DataError> {
    let pixels = |images: usize| 0..images * shape.iter().product::<usize>();
    let split = |images: usize| Split {
        inputs: Inputs::Pixels(pixels(images).map(|i| (i * 7919 % 251) as u8).collect()),
        targets: Targets::Labels((0..images).map(|i| (i % 10) as u32).collect()),
    };
    Dataset::new(shape, 10, split(images), split(images / 8))
}

/// Texts of 128 tokens each, of 8,192.
fn texts(count: usize) -> Result<Dataset, DataError> {
    const LENGTH: usize = 128;
    const VOCABULARY: usize = 8192;
    let split = |count: usize| Split {
        inputs: Inputs::Tokens(Tokens {
            ids: (0..count * LENGTH).map(|i| (i * 7919 % VOCABULARY) as u32).collect(),
            ends: (1..=count).map(|text| text * LENGTH).collect(),
            vocabulary: VOCABULARY,
            cut: 0,
        }),
        targets: Targets::Labels((0..count).map(|i| (i % 2) as u32).collect()),
    };
    Dataset::new([1, 1, LENGTH], 2, split(count), split(count / 8))
}

/// A constant rate; SGD as in `experiments/cifar-resnet.toml` for `resnet20`, AdamW for the others.
fn train_plan(model: &str, batch: usize, steps: u64) -> TrainPlan {
    let optimizer = match model {
        "resnet20" => {
            OptimizerPlan::Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 5e-4 }
        }
        _ => OptimizerPlan::AdamW {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
        },
    };
    TrainPlan {
        steps,
        batch,
        accumulate: 1,
        optimizer,
        schedule: SchedulePlan { kind: ScheduleKind::Constant, warmup: 0, floor: 0.0 },
        clip_norm: None,
        label_smoothing: 0.0,
        evaluate_every: None,
        cuda_graphs: true,
        checkpoint_every: CheckpointEvery::default(),
    }
}
