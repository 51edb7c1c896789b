//! Every operation on a GPU against its CPU twin: to the bit where the order of operations is the same, within what the order
//! of f32 sums allows elsewhere.

use candle_core::{DType, Device, Result, Shape, Tensor};
use mantissa::layers::{
    Arithmetic, Attention, AttentionSizes, KeyValueCache, Layer as _, Mode, Pass, Registry,
};
use mantissa::ops::{
    self, AttentionDropout, AttentionMasks, AttentionSettings, BatchNormSaved, ConvSettings,
    ConvWanted, EmbeddingTables, LossSettings, Operands, RandomStream, RopeSettings,
};
use mantissa::precision::Format;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::gpu;

/// Half of f32's epsilon: the largest relative error of one rounding.
const UNIT: f64 = (f32::EPSILON / 2.0) as f64;

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// How near the results of two devices must be.
enum Near {
    /// The same bits.
    Exactly,
    /// Sums of so many terms, whose sizes' sums these are, on the CPU.
    Sum(usize, Tensor),
    /// Within this share of the largest result: sums inside, or the functions of two mathematics libraries.
    Share(f64),
}

/// What an operation computes, by name.
type Results = Vec<(&'static str, Tensor, Near)>;

/// Numbers between -2 and 2 with a few special ones among them, of `dtype` on a device; the same for every device.
fn tensor(seed: u64, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Tensor {
    let shape = shape.into();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> =
        (0..shape.elem_count()).map(|_| random.random_range(-2.0..2.0)).collect();
    ops::from_f32(&values, shape, dtype, device).unwrap()
}

/// The same with zeros, infinities and NaNs.
fn special(seed: u64, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Tensor {
    const SPECIAL: [f32; 7] = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-7, -6e-5];
    let shape = shape.into();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.elem_count())
        .map(|i| match i % 5 {
            0 => SPECIAL[random.random_range(0..SPECIAL.len())],
            _ => random.random_range(-2.0..2.0),
        })
        .collect();
    ops::from_f32(&values, shape, dtype, device).unwrap()
}

fn labels(rows: usize, classes: usize, device: &Device) -> Tensor {
    let labels: Vec<u32> = (0..rows).map(|row| (row * 7 % classes) as u32).collect();
    ops::from_host(labels, rows, device).unwrap()
}

/// The sizes of values, on the CPU.
fn sizes(tensor: &Tensor) -> Result<Tensor> {
    let sizes: Vec<f32> = ops::to_f32(tensor)?.into_iter().map(f32::abs).collect();
    ops::from_f32(&sizes, tensor.shape(), DType::F32, &Device::Cpu)
}

/// Compares what `compute` gives on the two devices.
fn compare(case: &str, device: &Device, compute: impl Fn(&Device) -> Result<Results>) {
    let (here, there) = (compute(&Device::Cpu).unwrap(), compute(device).unwrap());
    assert_eq!(here.len(), there.len());
    for ((name, expected, near), (_, got, _)) in here.iter().zip(&there) {
        assert!(got.device().is_cuda(), "{case}: {name}");
        assert_eq!((got.dims(), got.dtype()), (expected.dims(), expected.dtype()), "{name}");
        let half_epsilon = match expected.dtype() {
            DType::F16 => 2f64.powi(-11),
            DType::BF16 => 2f64.powi(-8),
            _ => UNIT,
        };
        let (expected, got) = (ops::to_f32(expected).unwrap(), ops::to_f32(got).unwrap());
        let finite = expected.iter().filter(|value| value.is_finite());
        let largest = finite.fold(0.0_f64, |largest, value| largest.max(f64::from(value.abs())));
        let bound: Box<dyn Fn(usize) -> f64> = match near {
            Near::Exactly => Box::new(|_| 0.0),
            Near::Sum(terms, sizes) => {
                let sizes = ops::to_f32(sizes).unwrap();
                Box::new(move |i| 2.0 * (*terms as f64) * UNIT * f64::from(sizes[i]))
            }
            Near::Share(share) => Box::new(move |_| share * largest),
        };
        for (i, (a, b)) in expected.iter().zip(&got).enumerate() {
            let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            let distance = (f64::from(*a) - f64::from(*b)).abs();
            let rounding = 2.0 * half_epsilon * f64::from(a.abs().max(b.abs())) + 6e-8;
            let exact = matches!(near, Near::Exactly);
            let is_near = same || (!exact && distance <= bound(i) + rounding);
            assert!(is_near, "{case}: {name}[{i}] is {b:e}, not {a:e}");
        }
    }
}

fn pointwise(dtype: DType, count: usize, device: &Device) -> Result<Results> {
    let (a, b) = (special(1, count, dtype, device), special(2, count, dtype, device));
    let (x, dy) = (tensor(3, count, dtype, device), tensor(4, count, dtype, device));
    let y = ops::relu(&a)?;
    // The last pass before their number starts again.
    let pass = ops::from_host(vec![u32::MAX], 1, device)?;
    let random = RandomStream { seed: 0x0123_4567_89ab_cdef, stream: 3, pass };
    let dropped = ops::dropout(&a, 0.3, &random)?;
    ops::next_pass(&random.pass)?;
    let next = ops::dropout(&a, 0.3, &random)?;
    let sum = special(5, count, DType::F32, device);
    ops::accumulate(&sum, &b)?;
    let target = tensor(6, count, DType::F32, device);
    ops::copy_into(&target, &sum)?;
    let mut results = vec![
        ("relu", y.clone(), Near::Exactly),
        ("relu's gradient", ops::relu_backward(&b, &y)?, Near::Exactly),
        ("sum", ops::add(&a, &b, ops::Then::Nothing)?, Near::Exactly),
        ("dropout", dropped, Near::Exactly),
        ("dropout of the next pass", next, Near::Exactly),
        ("accumulated", sum, Near::Exactly),
        ("copy", ops::copy(&a)?, Near::Exactly),
        ("copied into", target, Near::Exactly),
        ("zeros", ops::zeros(count, device)?, Near::Exactly),
        ("gelu", ops::gelu(&x)?, Near::Share(1e-6)),
        ("gelu's gradient", ops::gelu_backward(&dy, &x)?, Near::Share(1e-6)),
        ("gelu by tanh", ops::gelu_tanh(&x)?, Near::Share(1e-6)),
        ("its gradient", ops::gelu_tanh_backward(&dy, &x)?, Near::Share(1e-6)),
        ("tanh", ops::tanh(&x)?, Near::Share(1e-6)),
        ("tanh's gradient", ops::tanh_backward(&dy, &x)?, Near::Exactly),
    ];
    for (name, to) in [("to f32", DType::F32), ("to f16", DType::F16), ("to bf16", DType::BF16)] {
        results.push((name, ops::cast(&a, to)?, Near::Exactly));
    }
    Ok(results)
}

#[test]
fn element_wise_operations_are_the_cpu_to_the_bit() {
    let Some((device, _guard)) = gpu() else { return };
    for dtype in TYPES {
        for count in [1, 3, 1021, 5000] {
            let case = format!("{count} of {dtype:?}");
            compare(&case, &device, |device| pointwise(dtype, count, device));
        }
        assert!(ops::all_finite(&tensor(1, 3001, dtype, &device)).unwrap());
        assert!(!ops::all_finite(&special(1, 3001, dtype, &device)).unwrap());
    }
}

#[test]
fn rounding_and_the_census_are_the_cpu_to_the_bit() {
    let Some((device, _guard)) = gpu() else { return };
    for format in [Format::F32, Format::TF32, Format::F16, Format::BF16, Format::FP8_E4M3] {
        for count in [1, 1021, 40_000] {
            let case = format!("{count} to {format}");
            compare(&case, &device, |device| {
                let (x, y) =
                    (special(1, count, DType::F32, device), special(1, count, DType::F32, device));
                ops::round(&x, format)?;
                ops::round_counted(&y, format)?;
                Ok(vec![("rounded", x, Near::Exactly), ("counted", y, Near::Exactly)])
            });
            let counts = [&Device::Cpu, &device].map(|device| {
                let x = special(1, count, DType::F32, device);
                let seen = ops::observe(&x).unwrap();
                (seen, ops::round_counted(&x, format).unwrap())
            });
            assert_eq!(counts[0], counts[1], "{case}");
        }
    }
}

fn products(dtype: DType, [rows, inputs, outputs]: [usize; 3], device: &Device) -> Result<Results> {
    let (x, w) =
        (tensor(1, (rows, inputs), dtype, device), tensor(2, (outputs, inputs), dtype, device));
    let (b, dy) = (tensor(3, outputs, dtype, device), tensor(4, (rows, outputs), dtype, device));
    let (xs, ws, bs, dys) = (sizes(&x)?, sizes(&w)?, sizes(&b)?, sizes(&dy)?);
    let exact = Operands::Exact;
    let sum = |terms, sizes| Near::Sum(terms, sizes);
    Ok(vec![
        ("y", ops::linear(&x, &w, Some(&b), exact, ops::Then::Nothing)?, {
            sum(inputs + 1, ops::linear(&xs, &ws, Some(&bs), exact, ops::Then::Nothing)?)
        }),
        ("y without bias", ops::linear(&x, &w, None, exact, ops::Then::Nothing)?, {
            sum(inputs, ops::linear(&xs, &ws, None, exact, ops::Then::Nothing)?)
        }),
        ("dx", ops::linear_input_gradient(&dy, &w, exact)?, {
            sum(outputs, ops::linear_input_gradient(&dys, &ws, exact)?)
        }),
        ("dw", ops::linear_weight_gradient(&dy, &x, exact)?, {
            sum(rows, ops::linear_weight_gradient(&dys, &xs, exact)?)
        }),
        ("db", ops::column_sums(&dy)?, sum(rows, ops::column_sums(&dys)?)),
    ])
}

#[test]
fn products_are_the_cpu_within_the_bound_of_their_sums() {
    let Some((device, _guard)) = gpu() else { return };
    for dtype in TYPES {
        for shape in [[1, 1, 1], [7, 13, 5], [37, 64, 33], [3, 300, 70]] {
            let case = format!("{shape:?} of {dtype:?}");
            compare(&case, &device, |device| products(dtype, shape, device));
        }
    }
}

/// Every kind of product, of f32 operands below 2 in size that are rounded to `format` first. Sums of 40 terms at most.
fn f32_products(format: Format, how: Operands, device: &Device) -> Result<Vec<(&str, Vec<f32>)>> {
    let operand = |seed, shape: &[usize]| {
        let operand = tensor(seed, shape.to_vec(), DType::F32, device);
        ops::round(&operand, format).map(|()| operand)
    };
    let (x, w, dy) = (operand(1, &[9, 40])?, operand(2, &[8, 40])?, operand(3, &[9, 8])?);
    let (images, kernels) = (operand(4, &[1, 3, 6, 7])?, operand(5, &[4, 3, 3, 3])?);
    let gradient = operand(6, &[1, 4, 4, 5])?;
    let how_conv = (ConvSettings { stride: 1, padding: 0, dilation: 1, groups: 1 }, how);
    let gradients =
        ops::conv2d_backward(&gradient, (&images, &kernels), how_conv, ConvWanted::ALL)?;
    [
        ("y", ops::linear(&x, &w, None, how, ops::Then::Nothing)?),
        ("dx", ops::linear_input_gradient(&dy, &w, how)?),
        ("dw", ops::linear_weight_gradient(&dy, &x, how)?),
        ("y of a convolution", ops::conv2d(&images, &kernels, None, how_conv, ops::Then::Nothing)?),
        ("dx of a convolution", gradients.input.unwrap()),
        ("dw of a convolution", gradients.weight),
    ]
    .into_iter()
    .map(|(name, result)| Ok((name, ops::to_f32(&result)?)))
    .collect()
}

/// TF32 has 11 significant bits: operands that it holds give the same products, and others differ.
#[test]
fn tf32_rounds_the_operands_of_every_product() {
    let Some((device, _guard)) = gpu() else { return };
    // Products are below 4. Each is off by two roundings to 11 bits at most, and sums by their order.
    let rounded = 40.0 * 4.0 * 2.0 * 2f32.powi(-10);
    let ordered = 40.0 * 4.0 * 40.0 * f32::EPSILON;
    for (format, bound) in [(Format::F32, rounded), (Format::TF32, ordered)] {
        let exact = f32_products(format, Operands::Exact, &device).unwrap();
        let tf32 = f32_products(format, Operands::Tf32, &device).unwrap();
        for ((name, exact), (_, tf32)) in exact.iter().zip(&tf32) {
            assert!(format == Format::TF32 || exact != tf32, "{name}");
            for (a, b) in exact.iter().zip(tf32) {
                assert!((a - b).abs() <= bound, "{name} of {format}: {a} {b}");
            }
        }
    }
    assert!(f32_products(Format::TF32, Operands::Tf32, &Device::Cpu).is_err());
}

fn convolutions(
    dtype: DType,
    (image, kernel): ([usize; 4], [usize; 4]),
    settings: ConvSettings,
    device: &Device,
) -> Result<Results> {
    let (x, w) =
        (tensor(1, image.to_vec(), dtype, device), tensor(2, kernel.to_vec(), dtype, device));
    let b = tensor(3, kernel[0], dtype, device);
    let (xs, ws, bs) = (sizes(&x)?, sizes(&w)?, sizes(&b)?);
    let how = (settings, Operands::Exact);
    let y = ops::conv2d(&x, &w, Some(&b), how, ops::Then::Nothing)?;
    let dy = tensor(4, y.shape(), dtype, device);
    let dys = sizes(&dy)?;
    let gradients = ops::conv2d_backward(&dy, (&x, &w), how, ConvWanted::ALL)?;
    let of_sizes = ops::conv2d_backward(&dys, (&xs, &ws), how, ConvWanted::ALL)?;
    let patch: usize = kernel[1..].iter().product();
    let places = dy.elem_count() / kernel[0];
    let taps = kernel[0] * kernel[2] * kernel[3];
    Ok(vec![
        ("y", y, Near::Sum(patch + 1, ops::conv2d(&xs, &ws, Some(&bs), how, ops::Then::Nothing)?)),
        ("y without bias", ops::conv2d(&x, &w, None, how, ops::Then::Nothing)?, {
            Near::Sum(patch, ops::conv2d(&xs, &ws, None, how, ops::Then::Nothing)?)
        }),
        ("dw", gradients.weight, Near::Sum(places, of_sizes.weight)),
        ("db", gradients.bias.unwrap(), Near::Sum(places, of_sizes.bias.unwrap())),
        ("dx", gradients.input.unwrap(), Near::Sum(taps, of_sizes.input.unwrap())),
    ])
}

#[test]
fn convolutions_are_the_cpu_within_the_bound_of_their_sums() {
    let Some((device, _guard)) = gpu() else { return };
    let settings =
        |stride, padding, dilation, groups| ConvSettings { stride, padding, dilation, groups };
    for dtype in TYPES {
        for (sizes, settings) in [
            (([2, 3, 9, 11], [4, 3, 3, 3]), settings(1, 1, 1, 1)),
            (([3, 4, 8, 7], [6, 2, 3, 2]), settings(2, 1, 1, 2)),
            (([1, 2, 9, 9], [3, 2, 2, 3]), settings(1, 2, 2, 1)),
            (([5, 6, 4, 4], [8, 6, 1, 1]), settings(1, 0, 1, 1)),
            (([2, 6, 5, 5], [6, 1, 3, 3]), settings(1, 1, 1, 6)),
        ] {
            let case = format!("{sizes:?} {settings:?} of {dtype:?}");
            compare(&case, &device, |device| convolutions(dtype, sizes, settings, device));
        }
    }
}

/// -1, 0 and 1, whose sums are exact in any order while they are below 2²⁴.
fn whole(seed: u64, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Tensor {
    let shape = shape.into();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> =
        (0..shape.elem_count()).map(|_| random.random_range(-1..=1) as f32).collect();
    ops::from_f32(&values, shape, dtype, device).unwrap()
}

/// The patches of these nine images, 32 MiB an image in f32, are more than are unfolded at once.
#[test]
fn a_convolution_in_several_ranges_of_images_is_the_cpu_to_the_bit() {
    let Some((device, _guard)) = gpu() else { return };
    let settings = ConvSettings { stride: 1, padding: 0, dilation: 1, groups: 2 };
    let how = (settings, Operands::Exact);
    for dtype in [DType::F32, DType::F16] {
        compare(&format!("several ranges of {dtype:?}"), &device, |device| {
            let x = whole(1, (9, 2, 263, 263), dtype, device);
            let w = whole(2, (4, 1, 8, 8), dtype, device);
            let b = whole(3, 4, dtype, device);
            let y = ops::conv2d(&x, &w, Some(&b), how, ops::Then::Nothing)?;
            let dy = whole(4, y.shape(), dtype, device);
            let gradients = ops::conv2d_backward(&dy, (&x, &w), how, ConvWanted::ALL)?;
            Ok(vec![
                ("y", y, Near::Exactly),
                ("dx", gradients.input.unwrap(), Near::Exactly),
                ("dw", gradients.weight, Near::Exactly),
                ("db", gradients.bias.unwrap(), Near::Exactly),
            ])
        });
    }
}

fn pools(dtype: DType, shape: [usize; 4], side: usize, device: &Device) -> Result<Results> {
    let (x, odd) =
        (tensor(1, shape.to_vec(), dtype, device), special(2, shape.to_vec(), dtype, device));
    let (max, places) = ops::max_pool2d(&odd, side)?;
    let mean = ops::avg_pool2d(&x, side)?;
    let dy = tensor(3, max.shape(), dtype, device);
    let whole = ops::global_avg_pool(&x)?;
    let plane = shape[2] * shape[3];
    let means = ops::global_avg_pool(&sizes(&x)?)?;
    Ok(vec![
        ("max", max, Near::Exactly),
        ("max's gradient", ops::max_pool2d_backward(&dy, &places, side, shape)?, Near::Exactly),
        ("mean", mean, Near::Exactly),
        ("mean's gradient", ops::avg_pool2d_backward(&dy, side, shape)?, Near::Exactly),
        (
            "global mean's gradient",
            { ops::global_avg_pool_backward(&whole, shape)? },
            Near::Sum(plane, {
                let spread = ops::to_f32(&means)?.into_iter().flat_map(|mean| vec![mean; plane]);
                let spread: Vec<f32> = spread.collect();
                ops::from_f32(&spread, shape.to_vec(), DType::F32, &Device::Cpu)?
            }),
        ),
        ("global mean", whole, Near::Sum(plane, means)),
    ])
}

#[test]
fn pooling_is_the_cpu() {
    let Some((device, _guard)) = gpu() else { return };
    for dtype in TYPES {
        for (shape, side) in [([2, 3, 9, 7], 2), ([1, 1, 4, 4], 4), ([3, 5, 12, 13], 3)] {
            let case = format!("{shape:?} of {dtype:?}");
            compare(&case, &device, |device| pools(dtype, shape, side, device));
        }
    }
}

fn norms(dtype: DType, shape: [usize; 4], device: &Device) -> Result<Results> {
    let c = shape[1];
    let (x, dy) =
        (tensor(1, shape.to_vec(), dtype, device), tensor(2, shape.to_vec(), dtype, device));
    let (gamma, beta) = (tensor(3, c, dtype, device), tensor(4, c, dtype, device));
    let given = [5, 6].map(|seed| tensor(seed, c, DType::F32, device));
    let spread = ops::from_f32(
        &ops::to_f32(&given[1])?.iter().map(|v| v.abs() + 0.1).collect::<Vec<_>>(),
        c,
        DType::F32,
        device,
    )?;
    let inference =
        ops::batch_norm_inference(&x, (&given[0], &spread), (&gamma, &beta), ops::Then::Nothing)?;
    let (y, saved, variance) = ops::batch_norm(&x, &gamma, &beta, ops::Then::Nothing)?;
    let gradients = ops::batch_norm_backward(&dy, &x, &gamma, &saved, None)?;
    let applied = ops::from_host(vec![1.0_f32], 1, device)?;
    ops::update_running_statistics((&given[0], &given[1]), (&spread, &spread), 12, &applied)?;
    Ok(vec![
        ("inference", inference, Near::Exactly),
        ("running mean", given[0].clone(), Near::Exactly),
        ("running variance", given[1].clone(), Near::Exactly),
        ("y", y, Near::Share(1e-5)),
        ("mean", saved.mean, Near::Share(1e-5)),
        ("inverse deviation", saved.inverse_deviation, Near::Share(1e-5)),
        ("variance", variance, Near::Share(1e-5)),
        ("dgamma", gradients.gamma, Near::Share(1e-5)),
        ("dbeta", gradients.beta, Near::Share(1e-5)),
        ("dx", gradients.input, Near::Share(1e-5)),
    ])
}

#[test]
fn batch_norm_is_the_cpu_within_its_sums() {
    let Some((device, _guard)) = gpu() else { return };
    for dtype in TYPES {
        for shape in [[3, 5, 4, 7], [16, 2, 1, 1], [2, 33, 9, 3]] {
            let case = format!("{shape:?} of {dtype:?}");
            compare(&case, &device, |device| norms(dtype, shape, device));
        }
    }
}

#[test]
fn statistics_stay_as_they_are_where_a_step_is_rejected() {
    let Some((device, _guard)) = gpu() else { return };
    for (word, moves) in [(f32::from_bits(1), true), (0.0, false)] {
        let [mean, variance, new] = [1, 2, 3].map(|seed| tensor(seed, 9, DType::F32, &device));
        let before = ops::to_f32(&mean).unwrap();
        let applied = ops::from_host(vec![word], 1, &device).unwrap();
        ops::update_running_statistics((&mean, &variance), (&new, &new), 5, &applied).unwrap();
        assert_eq!(ops::to_f32(&mean).unwrap() != before, moves);
    }
}

fn losses(dtype: DType, (rows, classes): (usize, usize), device: &Device) -> Result<Results> {
    let logits = tensor(1, (rows, classes), dtype, device);
    let labels = labels(rows, classes, device);
    let scale = ops::from_host(vec![1024.0_f32], 1, device)?;
    let mut results = vec![];
    for smoothing in [0.0, 0.1] {
        let settings = LossSettings { smoothing, micro_batches: 3 };
        let loss = ops::cross_entropy(&logits, &labels, settings, &scale)?;
        let mean = ops::from_host(vec![0.25_f32], 1, device)?;
        ops::mean_loss(&loss.losses, 3, smoothing == 0.0, &mean)?;
        results.push(("gradient", loss.gradient, Near::Share(1e-5)));
        results.push(("losses", loss.losses, Near::Share(1e-5)));
        results.push(("mean loss", mean, Near::Share(1e-5)));
    }
    let losses = ops::cross_entropy_loss(&logits, &labels)?;
    results.push(("losses of evaluation", losses, Near::Share(1e-5)));
    let targets = tensor(2, (rows, classes), DType::F32, device);
    let error = ops::squared_error(&logits, &targets, 3, &scale)?;
    results.push(("gradient of the squared error", error.gradient, Near::Share(1e-5)));
    results.push(("squared errors", error.losses, Near::Share(1e-5)));
    let errors = ops::squared_error_loss(&logits, &targets)?;
    results.push(("squared errors of evaluation", errors, Near::Share(1e-5)));
    Ok(results)
}

#[test]
fn losses_are_the_cpu_and_correct_rows_are_counted_alike() {
    let Some((device, _guard)) = gpu() else { return };
    for dtype in TYPES {
        for shape in [(7, 10), (1, 1), (33, 3), (5, 1000)] {
            let case = format!("{shape:?} of {dtype:?}");
            compare(&case, &device, |device| losses(dtype, shape, device));
            let counts = [&Device::Cpu, &device].map(|device| {
                let logits = special(2, shape, dtype, device);
                ops::count_correct(&logits, &labels(shape.0, shape.1, device)).unwrap()
            });
            assert_eq!(counts[0], counts[1], "{case}");
        }
    }
}

/// Ids below `rows`.
fn ids((n, length): (usize, usize), rows: usize, device: &Device) -> Result<Tensor> {
    let ids = (0..n * length).map(|i| (i * i * 7 % rows) as u32).collect();
    ops::from_host(ids, (n, length), device)
}

fn embeddings(
    dtype: DType,
    [n, length, rows, width]: [usize; 4],
    device: &Device,
) -> Result<Results> {
    let (at, kinds) = (ids((n, length), rows, device)?, ids((n, length), 2, device)?);
    let [tokens, positions, types] = [(1, rows), (2, length + 1), (3, 2)]
        .map(|(seed, rows)| tensor(seed, (rows, width), dtype, device));
    let tables = EmbeddingTables {
        tokens: &tokens,
        positions: Some(&positions),
        types: Some((&kinds, &types)),
    };
    let alone = EmbeddingTables { tokens: &tokens, positions: None, types: None };
    let dy = tensor(4, (n, length, width), dtype, device);
    let of_sizes = ops::embedding_backward(&sizes(&dy)?, &at.to_device(&Device::Cpu)?, rows)?;
    Ok(vec![
        ("embedding", ops::embedding(&at, &tables)?, Near::Exactly),
        ("embedding of tokens", ops::embedding(&at, &alone)?, Near::Exactly),
        ("dtokens", ops::embedding_backward(&dy, &at, rows)?, Near::Sum(n * length, of_sizes)),
        ("dpositions", ops::position_backward(&dy, length + 1)?, Near::Exactly),
    ])
}

fn sequences(dtype: DType, [n, length, width]: [usize; 3], device: &Device) -> Result<Results> {
    let x = tensor(1, (n, length, width), dtype, device);
    let (dy, dy_row) =
        (tensor(2, (n, length, width), dtype, device), tensor(3, (n, width), dtype, device));
    let (gamma, beta) = (tensor(4, width, dtype, device), tensor(5, width, dtype, device));
    let (y, saved) = ops::layer_norm(&x, &gamma, &beta, 1e-3)?;
    let gradients = ops::layer_norm_backward(&dy, &x, &gamma, &saved)?;
    let (rms, inverse) = ops::rms_norm(&x, &gamma, 1e-3)?;
    let rms_gradients = ops::rms_norm_backward(&dy, &x, &gamma, &inverse)?;
    let settings = RopeSettings { width: width / 2, base: 1e4, offset: 3 };
    let table = ops::rope_table(length, settings, device)?;
    let lengths = (0..n).map(|i| (i * length / n) as u32).collect();
    let lengths = ops::from_host(lengths, n, device)?;
    let (dgate, dup) = ops::swiglu_backward(&dy, &x, &x)?;
    let mut results = vec![
        ("layer norm", y, Near::Share(1e-5)),
        ("layer norm, dx", gradients.input, Near::Share(1e-5)),
        ("layer norm, dgamma", gradients.gamma, Near::Share(1e-5)),
        ("layer norm, dbeta", gradients.beta, Near::Share(1e-5)),
        ("RMS norm", rms, Near::Share(1e-5)),
        ("RMS norm, dx", rms_gradients.input, Near::Share(1e-5)),
        ("RMS norm, dgamma", rms_gradients.gamma, Near::Share(1e-5)),
        ("rope", ops::rope(&x, &table)?, Near::Exactly),
        ("rope, dx", ops::rope_backward(&dy, &table)?, Near::Exactly),
        ("swiglu", ops::swiglu(&x, &dy)?, Near::Share(1e-6)),
        ("swiglu, dgate", dgate, Near::Share(1e-6)),
        ("swiglu, dup", dup, Near::Share(1e-6)),
        ("first token", ops::first_token(&x)?, Near::Exactly),
        ("first token, dx", ops::first_token_backward(&dy_row, length)?, Near::Exactly),
    ];
    for lengths in [Some(&lengths), None] {
        results.push(("mean", ops::mean_pool(&x, lengths)?, Near::Exactly));
        let dx = ops::mean_pool_backward(&dy_row, lengths, length)?;
        results.push(("mean, dx", dx, Near::Exactly));
    }
    Ok(results)
}

#[test]
fn operations_on_sequences_are_the_cpu() {
    let Some((device, _guard)) = gpu() else { return };
    for dtype in TYPES {
        for shape in [[1, 1, 1, 1], [3, 5, 11, 7], [4, 20, 6, 70]] {
            let case = format!("embeddings of {shape:?}, {dtype:?}");
            compare(&case, &device, |device| embeddings(dtype, shape, device));
        }
        for shape in [[1, 1, 4], [3, 7, 12], [5, 40, 300]] {
            let case = format!("{shape:?} of {dtype:?}");
            compare(&case, &device, |device| sequences(dtype, shape, device));
        }
    }
}

/// Sequences, queries, keys, heads, heads of keys, and values of a head.
fn attentions(
    (dtype, format): (DType, Format),
    [n, queries, keys, heads, kv_heads, width]: [usize; 6],
    causal: bool,
    device: &Device,
) -> Result<Results> {
    let (of_q, of_k) = ((n, queries, heads * width), (n, keys, kv_heads * width));
    let (q, dy) = (tensor(1, of_q, dtype, device), tensor(2, of_q, dtype, device));
    let (k, v) = (tensor(3, of_k, dtype, device), tensor(4, of_k, dtype, device));
    let settings = AttentionSettings { heads, kv_heads, causal, format };
    let lengths = (0..n).map(|i| (keys - i * keys / n) as u32).collect();
    let lengths = ops::from_host(lengths, n, device)?;
    // Where an operand is rounded the other way, a result moves by a unit of it.
    let share = match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 4.0 * 2f64.powi(-11),
        _ => 4.0 * 2f64.powi(-8),
    };
    let mut results = vec![];
    let random =
        RandomStream { seed: 7, stream: 2, pass: ops::from_host(vec![41_u32], 1, device)? };
    let dropout = AttentionDropout { p: 0.3, random };
    for (lengths, drops) in [(Some(&lengths), None), (None, None), (None, Some(&dropout))] {
        let masks = AttentionMasks { lengths, dropout: drops };
        let (y, logs) = ops::attention_masked(&q, &k, &v, masks, settings)?;
        let (of, found) = ([&q, &k, &v], (&y, &logs));
        let gradients = ops::attention_masked_backward(&dy, of, found, masks, settings)?;
        results.push(("y", y, Near::Share(share)));
        results.push(("logs", logs, Near::Share(1e-5)));
        results.push(("dq", gradients.q, Near::Share(share)));
        results.push(("dk", gradients.k, Near::Share(share)));
        results.push(("dv", gradients.v, Near::Share(share)));
    }
    Ok(results)
}

#[test]
fn attention_is_the_cpu_within_its_sums() {
    let Some((device, _guard)) = gpu() else { return };
    for of in [(DType::F32, Format::F32), (DType::F16, Format::F16), (DType::BF16, Format::BF16)] {
        for (shape, causal) in [
            ([1, 1, 1, 1, 1, 1], false),
            ([2, 5, 7, 2, 1, 3], true),
            ([3, 40, 33, 4, 2, 20], false),
            ([2, 33, 33, 2, 2, 128], true),
        ] {
            let case = format!("{shape:?}, causal {causal}, {of:?}");
            compare(&case, &device, |device| attentions(of, shape, causal, device));
        }
    }
    let wide = tensor(1, (1, 2, 129), DType::F32, &device);
    let settings = AttentionSettings { heads: 1, kv_heads: 1, causal: false, format: Format::F32 };
    assert!(ops::attention(&wide, &wide, &wide, None, settings).is_err(), "heads of 129 values");
}

/// An attention that keeps keys and values: three first positions, and two further ones.
fn with_a_cache((dtype, format): (DType, Format), device: &Device) -> Result<Results> {
    let sizes = AttentionSizes {
        width: 16,
        heads: 4,
        kv_heads: 2,
        causal: true,
        bias: true,
        rope: Some(1e4),
    };
    let mut registry = Registry::default();
    let layer = Attention::new(&mut registry, "attention", sizes);
    let parameters = registry.parameters.iter().zip(1..);
    let weights: Vec<Tensor> = parameters
        .map(|(parameter, seed)| tensor(seed, parameter.shape.as_slice(), dtype, device))
        .collect();
    let arithmetic = Arithmetic { format, wide: false };
    let mut cache = KeyValueCache::new(&registry.cached, (2, 5), arithmetic, device)?;
    let share = match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 8.0 * 2f64.powi(-11),
        _ => 8.0 * 2f64.powi(-8),
    };
    let mut results = vec![];
    for (count, seed) in [(3, 20), (1, 21), (1, 22)] {
        let x = tensor(seed, (2, count, 16), dtype, device);
        let mut pass = Pass::new(arithmetic, Mode::Inference, &weights, &[]).with_cache(&cache);
        let y = layer.forward(x, &mut pass)?;
        drop(pass);
        cache.advance(count);
        results.push(("y", y, Near::Share(share)));
    }
    Ok(results)
}

#[test]
fn attention_with_a_cache_is_the_cpu_within_its_sums() {
    let Some((device, _guard)) = gpu() else { return };
    for of in [(DType::F32, Format::F32), (DType::F16, Format::F16), (DType::BF16, Format::BF16)] {
        compare(&format!("{of:?}"), &device, |device| with_a_cache(of, device));
    }
}

/// Shapes, types and devices that do not belong together are refused before anything is launched.
#[test]
fn what_does_not_belong_together_is_an_error() {
    let Some((device, _guard)) = gpu() else { return };
    let matrix = tensor(1, (3, 4), DType::F32, &device);
    let half = tensor(1, (3, 4), DType::F16, &device);
    let here = tensor(1, (3, 4), DType::F32, &Device::Cpu);
    let other = tensor(1, (4, 4), DType::F32, &device);
    for (name, result) in [
        ("types", ops::add(&matrix, &half, ops::Then::Nothing)),
        ("devices", ops::add(&matrix, &here, ops::Then::Nothing)),
        ("shapes", ops::add(&matrix, &other, ops::Then::Nothing)),
        (
            "types of a product",
            ops::linear(&matrix, &half, None, Operands::Exact, ops::Then::Nothing),
        ),
        ("type", ops::relu(&ops::from_host(vec![1_u32], 1, &device).unwrap())),
        ("layout", ops::relu(&matrix.t().unwrap())),
    ] {
        assert!(result.is_err(), "{name}");
    }
}

/// What is f32 under every policy, or one value, is refused where it is not: on either device, so that none reads past it.
#[test]
fn statistics_losses_and_single_values_of_another_type_or_shape_are_errors() {
    let Some((gpu, _guard)) = gpu() else { return };
    for device in [&gpu, &Device::Cpu] {
        let f16 = |shape: &[usize]| tensor(1, shape.to_vec(), DType::F16, device);
        let f32 = |shape: &[usize]| tensor(1, shape.to_vec(), DType::F32, device);
        let numbers = |count| ops::from_host(vec![0_u32; count], count, device).unwrap();
        let (x, four) = (f16(&[2, 4, 3, 3]), f16(&[4]));
        let saved = BatchNormSaved { mean: f16(&[4]), inverse_deviation: f16(&[4]) };
        let (logits, labels) = (f16(&[3, 4]), numbers(3));
        let settings = LossSettings { smoothing: 0.0, micro_batches: 1 };
        let random = RandomStream { seed: 1, stream: 0, pass: numbers(2) };
        let pair = (&four, &four);
        let cases = [
            (
                "inference",
                ops::batch_norm_inference(&x, pair, (&four, &four), ops::Then::Nothing).is_err(),
            ),
            ("backward", ops::batch_norm_backward(&x, &x, &four, &saved, None).is_err()),
            ("running", ops::update_running_statistics(pair, pair, 9, &f32(&[1])).is_err()),
            ("losses", ops::mean_loss(&four, 1, true, &f16(&[1])).is_err()),
            ("loss", ops::mean_loss(&f32(&[4]), 1, true, &f32(&[2])).is_err()),
            ("scale", ops::cross_entropy(&logits, &labels, settings, &f32(&[2])).is_err()),
            ("pass", ops::dropout(&x, 0.5, &random).is_err()),
        ];
        let accepted: Vec<_> = cases.iter().filter(|(_, is_error)| !is_error).collect();
        assert!(accepted.is_empty(), "{accepted:?} on {device:?}");
    }
    let [statistics, applied] = [4, 2].map(|count| ops::zeros(count, &gpu).unwrap());
    let pair = (&statistics, &statistics);
    let result = ops::update_running_statistics(pair, pair, 9, &applied);
    assert!(result.is_err(), "two words that say whether a step was applied");
}
