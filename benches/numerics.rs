//! Criterion benchmarks of what a step is made of: products, of many rows and of few, convolution, attention and norms, casts and
//! rounding, the optimizer update, the census, and one whole step a policy, native and wide. `MANTISSA_ISA` pins the instructions of products.

use std::hint::black_box;

use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use mantissa::memory;
use mantissa::numerics::{self, Census};
use mantissa::ops::{
    self, AdamW, AttentionSettings, ConvSettings, ConvWanted, Conversion, Operands, Update,
    UpdateTensors,
};
use mantissa::precision::{Format, Policy};
use mantissa::spec::{DEFAULT, Overrides, Plan};
use mantissa::task::Task;
use mantissa::train::{DeviceBatch, Setup, Trainer};

const TYPES: [(&str, DType); 3] = [("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::BF16)];

/// A tensor of values that repeat with a long period, of both signs, below 1.
fn tensor(shape: &[usize], dtype: DType) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|i: usize| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0)
        .collect();
    ops::from_f32(&values, shape, dtype, &Device::Cpu).expect("a tensor")
}

/// The three products of a fully connected layer: the layouts that operands come in. Rows, columns and depth as a layer has them:
/// batch, outputs, inputs.
fn products(c: &mut Criterion) {
    for [n, outputs, inputs] in
        [[1024, 1024, 1024], [256, 2048, 2048], [256, 512, 512], [256, 10, 2048]]
    {
        let mut group = c.benchmark_group(format!("linear {n}x{outputs}x{inputs}"));
        group.throughput(Throughput::Elements(2 * (n * outputs * inputs) as u64));
        for (name, dtype) in TYPES {
            let (x, w) = (tensor(&[n, inputs], dtype), tensor(&[outputs, inputs], dtype));
            let dy = tensor(&[n, outputs], dtype);
            let how = Operands::Exact;
            group.bench_function(BenchmarkId::new("forward", name), |b| {
                b.iter(|| ops::linear(black_box(&x), &w, None, how, ops::Then::Nothing));
            });
            group.bench_function(BenchmarkId::new("input gradient", name), |b| {
                b.iter(|| ops::linear_input_gradient(black_box(&dy), &w, how));
            });
            group.bench_function(BenchmarkId::new("weight gradient", name), |b| {
                b.iter(|| ops::linear_weight_gradient(black_box(&dy), &x, how));
            });
        }
        group.finish();
    }
}

/// The products of a model that generates a token for one sequence or for several: a new weight each time, too many for a cache of the
/// core's own.
fn few_rows(c: &mut Criterion) {
    const OUTPUTS: usize = 2048;
    const INPUTS: usize = 512;
    const WEIGHTS: usize = 16;
    let mut group = c.benchmark_group(format!("{WEIGHTS} weights of {OUTPUTS}x{INPUTS}"));
    for (name, dtype) in TYPES {
        let weights: Vec<Tensor> =
            (0..WEIGHTS).map(|_| tensor(&[OUTPUTS, INPUTS], dtype)).collect();
        let bytes = WEIGHTS * OUTPUTS * INPUTS * dtype.size_in_bytes();
        group.throughput(Throughput::Bytes(bytes as u64));
        for n in [1, 8] {
            let x = tensor(&[n, INPUTS], dtype);
            let product =
                |w| ops::linear(black_box(&x), w, None, Operands::Exact, ops::Then::Nothing);
            group.bench_function(BenchmarkId::new(format!("rows: {n}"), name), |b| {
                b.iter(|| weights.iter().try_for_each(|w| product(w).map(drop)));
            });
        }
    }
    group.finish();
}

/// The convolutions of a residual network's stages and of its first halving: images, channels, side, outputs, stride.
fn convolution(c: &mut Criterion) {
    for [n, inputs, side, outputs, stride] in
        [[128, 16, 32, 16, 1], [128, 64, 8, 64, 1], [128, 16, 32, 32, 2], [64, 16, 14, 32, 1]]
    {
        let settings = ConvSettings { stride, padding: 1, dilation: 1, groups: 1 };
        let name = format!("conv2d {n}x{inputs}x{side}x{side} to {outputs}, stride {stride}");
        let mut group = c.benchmark_group(name);
        let out = side.div_ceil(stride);
        let operations = 2 * n * outputs * out * out * inputs * 9;
        for (name, dtype) in TYPES {
            let (x, w) =
                (tensor(&[n, inputs, side, side], dtype), tensor(&[outputs, inputs, 3, 3], dtype));
            let dy = tensor(&[n, outputs, out, out], dtype);
            group.throughput(Throughput::Elements(operations as u64));
            group.bench_function(BenchmarkId::new("forward", name), |b| {
                b.iter(|| {
                    ops::conv2d(
                        black_box(&x),
                        &w,
                        None,
                        (settings, Operands::Exact),
                        ops::Then::Nothing,
                    )
                });
            });
            group.throughput(Throughput::Elements(2 * operations as u64));
            group.bench_function(BenchmarkId::new("backward", name), |b| {
                b.iter(|| {
                    let how = (settings, Operands::Exact);
                    let wanted = ConvWanted { input: true, bias: false };
                    ops::conv2d_backward(black_box(&dy), (&x, &w), how, wanted)
                });
            });
        }
        group.finish();
    }
}

/// Attention of 8 heads of 32 values over 128 tokens, all seen by all or by those behind them, 16 sequences; and the operations of a
/// position by itself that stand around it.
fn transformer(c: &mut Criterion) {
    let (n, t, heads, width) = (16, 128, 8, 256);
    for (name, causal) in [("attention", false), ("causal attention", true)] {
        let mut group = c.benchmark_group(format!("{name} {n}x{t}x{width}, {heads} heads"));
        // The products of queries with keys and of their results with values.
        let operations = 4 * n * t * t * width;
        for (name, dtype) in TYPES {
            let format = match dtype {
                DType::F16 => Format::F16,
                DType::BF16 => Format::BF16,
                _ => Format::F32,
            };
            let settings = AttentionSettings { heads, kv_heads: heads, causal, format };
            let [q, k, v, dy] = [(); 4].map(|()| tensor(&[n, t, width], dtype));
            group.throughput(Throughput::Elements(operations as u64));
            group.bench_function(BenchmarkId::new("forward", name), |b| {
                b.iter(|| ops::attention(black_box(&q), &k, &v, None, settings));
            });
            let (y, logs) = ops::attention(&q, &k, &v, None, settings).expect("a result");
            group.throughput(Throughput::Elements(5 * operations as u64 / 2));
            group.bench_function(BenchmarkId::new("backward", name), |b| {
                b.iter(|| {
                    let results = (&y, &logs);
                    ops::attention_backward(black_box(&dy), [&q, &k, &v], results, None, settings)
                });
            });
        }
        group.finish();
    }
    let mut group = c.benchmark_group(format!("position by position {n}x{t}x{width}"));
    for (name, dtype) in TYPES {
        let (x, dy) = (tensor(&[n, t, width], dtype), tensor(&[n, t, width], dtype));
        let gamma = tensor(&[width], dtype);
        group.throughput(Throughput::Elements((n * t * width) as u64));
        group.bench_function(BenchmarkId::new("layer norm", name), |b| {
            b.iter(|| ops::layer_norm(black_box(&x), &gamma, &gamma, 1e-5));
        });
        let (_, saved) = ops::layer_norm(&x, &gamma, &gamma, 1e-5).expect("a result");
        group.bench_function(BenchmarkId::new("layer norm backward", name), |b| {
            b.iter(|| ops::layer_norm_backward(black_box(&dy), &x, &gamma, &saved));
        });
        group.bench_function(BenchmarkId::new("RMS norm", name), |b| {
            b.iter(|| ops::rms_norm(black_box(&x), &gamma, 1e-5));
        });
        group.bench_function(BenchmarkId::new("GELU", name), |b| {
            b.iter(|| ops::gelu(black_box(&x)));
        });
        group.bench_function(BenchmarkId::new("GELU by tanh", name), |b| {
            b.iter(|| ops::gelu_tanh(black_box(&x)));
        });
        group.bench_function(BenchmarkId::new("SwiGLU", name), |b| {
            b.iter(|| ops::swiglu(black_box(&x), &dy));
        });
    }
    group.finish();
}

fn rounding(c: &mut Criterion) {
    const LEN: usize = 1 << 20;
    let source = tensor(&[LEN], DType::F32);
    let values = ops::to_f32(&source).expect("values");
    let mut group = c.benchmark_group("rounding 2^20 values");
    group.throughput(Throughput::Elements(LEN as u64));
    for (name, dtype) in &TYPES[1..] {
        let narrow = ops::cast(&source, *dtype).expect("a cast");
        group.bench_function(BenchmarkId::new("cast to", name), |b| {
            b.iter(|| ops::cast(black_box(&source), *dtype));
        });
        group.bench_function(BenchmarkId::new("cast from", name), |b| {
            b.iter(|| ops::cast(black_box(&narrow), DType::F32));
        });
    }
    for format in [Format::F16, Format::BF16, Format::FP8_E4M3] {
        let mut buffer = values.clone();
        group.bench_function(BenchmarkId::new("emulated", format), |b| {
            b.iter(|| numerics::round(format, black_box(&mut buffer)));
        });
        group.bench_function(BenchmarkId::new("census", format), |b| {
            b.iter(|| numerics::round_counted(format, black_box(&mut buffer)));
        });
    }
    group.finish();
}

fn update(c: &mut Criterion) {
    const LEN: usize = 1 << 20;
    let rule = Update::AdamW(AdamW {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        correction1: 1.1,
        correction2: 1.1,
    });
    let mut group = c.benchmark_group("AdamW 2^20 weights");
    group.throughput(Throughput::Elements(LEN as u64));
    let state = || Tensor::zeros(LEN, DType::F32, &Device::Cpu).expect("a tensor");
    for name in ["fp32", "fp16-mixed", "bf16-mixed", "fp16-true", "bf16-true"] {
        let policy: Policy = name.parse().expect("a policy");
        let dtype = |format| match format {
            Format::F16 => DType::F16,
            Format::BF16 => DType::BF16,
            _ => DType::F32,
        };
        let (params, compute) = (dtype(policy.params), dtype(policy.compute));
        let (weights, gradient) = (tensor(&[LEN], params), tensor(&[LEN], compute));
        let copy = policy.is_mixed().then(|| tensor(&[LEN], compute));
        let (first, second) = (state(), state());
        let tensors = UpdateTensors {
            weights: &weights,
            copy: copy.as_ref(),
            gradient: &gradient,
            first: Some(&first),
            second: Some(&second),
            delta: None,
        };
        let conversion =
            Conversion { unscale: 1.0, clip: 1.0, params: policy.params, compute: policy.compute };
        group.bench_function(BenchmarkId::new("update", name), |b| {
            b.iter(|| ops::update(rule, black_box(tensors), conversion));
        });
        group.bench_function(BenchmarkId::new("inspect", name), |b| {
            b.iter(|| ops::inspect_gradient(black_box(&gradient), policy.compute, 1.0));
        });
    }
    group.finish();
}

fn whole_steps(c: &mut Criterion) {
    memory::keep_freed_pages();
    let plan = Plan::read("default", DEFAULT, &Overrides::default()).expect("the default plan");
    let task = Task::of_plan(&plan).expect("digits and their model");
    let setup = Setup::new(&plan, &task, &Device::Cpu);
    let mut batches = setup.batches(0).expect("batches");
    let batch = batches.batch(0).expect("memory");
    let batch = DeviceBatch::new(batch, task.data.shape(), &Device::Cpu).expect("a batch");
    let mut group = c.benchmark_group("one step of the default experiment");
    for variant in &plan.variants {
        let mut trainer = Trainer::new(setup, variant.policy, 0).expect("a run");
        group.bench_function(BenchmarkId::new("native", &variant.name), |b| {
            b.iter(|| step(&mut trainer, &batch, None));
        });
        let mut census = Census::default();
        group.bench_function(BenchmarkId::new("census", &variant.name), |b| {
            b.iter(|| step(&mut trainer, &batch, Some(&mut census)));
        });
    }
    group.finish();
}

/// One step, with a look at what it did.
fn step(trainer: &mut Trainer<'_>, batch: &DeviceBatch, census: Option<&mut Census>) {
    trainer.step(&mut |_| Ok(black_box(batch).clone()), census).expect("a step");
    black_box(trainer.outcomes().expect("outcomes"));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = products, few_rows, convolution, transformer, rounding, update, whole_steps
}

fn main() {
    // As the program itself works: operations begin in the pool.
    rayon::scope(|_| {
        benches();
        Criterion::default().configure_from_args().final_summary();
    });
}
