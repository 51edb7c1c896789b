//! Times training steps of one model under one policy and prints a line of JSON: the half of `benches/peers` that is ours.
//!
//! `cargo run --release --example step_time -- mlp bf16-mixed 50`; models: `mlp`, `cnn`, `wide-mlp`.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::time::Instant;

use candle_core::Device;
use mantissa::data::{self, Batches};
use mantissa::model::Model;
use mantissa::precision::Policy;
use mantissa::spec::{
    Activation, Augment, ConvBlock, DataPlan, ModelPlan, OptimizerPlan, Pool, ScheduleKind,
    SchedulePlan, TrainPlan,
};
use mantissa::train::Trainer;

/// Steps before the clock starts.
const WARM_UP: u64 = 5;

/// What goes wrong here, to be printed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    // In the pool, as the program itself works.
    rayon::scope(|_| run())
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, policy, steps] = arguments.as_slice() else {
        return Err("usage: step_time MODEL POLICY STEPS".into());
    };
    let (plan, batch) = model(name)?;
    let (policy, steps): (Policy, u64) = (policy.parse()?, steps.parse()?);
    let data = data::load(&DataPlan::Digits { train: batch * 8, test: batch, seed: 0 })?;
    let model = Model::new(&plan, data.shape, data.classes)?;
    let train = train_plan(batch, steps + WARM_UP);
    let mut batches = Batches::new(&data, batch, Augment::default(), 0)?;
    let mut trainer = Trainer::new(&model, &train, policy, 0, (data.shape, &Device::Cpu))?;
    let mut seconds = Vec::new();
    for step in 0..steps + WARM_UP {
        let batch = [trainer.load(batches.batch(step))?];
        let start = Instant::now();
        trainer.step(&batch, None)?;
        trainer.outcomes()?;
        if step >= WARM_UP {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let policy = &arguments[1];
    println!("{}", serde_json::json!({"model": name, "policy": policy, "step_seconds": seconds}));
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
        "cnn" => {
            let blocks = vec![block(16), block(32)];
            let (hidden, activation) = (vec![128], Activation::Relu);
            let (batch_norm, dropout) = (false, 0.0);
            Ok((ModelPlan::Cnn { blocks, hidden, activation, batch_norm, dropout }, 64))
        }
        other => Err(format!("unknown model {other:?}; known: mlp, cnn, wide-mlp")),
    }
}

/// AdamW at a constant rate.
fn train_plan(batch: usize, steps: u64) -> TrainPlan {
    TrainPlan {
        steps,
        batch,
        accumulate: 1,
        optimizer: OptimizerPlan::AdamW {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
        },
        schedule: SchedulePlan { kind: ScheduleKind::Constant, warmup: 0, floor: 0.0 },
        clip_norm: None,
        label_smoothing: 0.0,
        evaluate_every: None,
        cuda_graphs: true,
    }
}
