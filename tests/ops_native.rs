//! Operations on f16 and bf16 tensors keep the arithmetic contract: the f32 operation on the widened operands, rounded once
//! to nearest even. And no result depends on the number of threads.

#![expect(clippy::float_cmp, reason = "what is exact is compared exactly")]
#![expect(clippy::many_single_char_names, reason = "the letters of the formulas")]

mod ops_support;
#[path = "ops_support/rounded.rs"]
mod rounded;

use candle_core::{DType, Device, IndexOp, Result, Tensor};
use half::{bf16, f16};
use mantissa::ops::{
    self, AdamW, ConvSettings, ConvWanted, Conversion, LossSettings, Operands, RandomStream, Sgd,
    Then, Update, UpdateTensors,
};
use mantissa::precision::Format;
use mantissa::record::GradientCounts;
use ops_support::{UNIT, bits, numbers, tensor, uniform};
use rounded::{Results, check_rounded};

const SIXTEEN_BITS: [DType; 2] = [DType::F16, DType::BF16];
const INF: f32 = f32::INFINITY;

const ADAM_W: Update = Update::AdamW(AdamW {
    lr: 0.01,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.01,
    correction1: 10.0,
    correction2: 31.6,
});

const POINTWISE: ConvSettings = ConvSettings { stride: 1, padding: 0, dilation: 1, groups: 1 };

/// Every operation that works in a fixed order, on images a and b.
fn fixed_order(a: &Tensor, b: &Tensor) -> Result<Results> {
    let mut results = vec![];
    let mut keep = |name: &str, tensor: &Tensor| results.push((name.to_owned(), tensor.clone()));
    let y = ops::relu(a)?;
    keep("relu", &y);
    keep("relu's gradient", &ops::relu_backward(b, &y)?);
    keep("gelu", &ops::gelu(a)?);
    keep("gelu's gradient", &ops::gelu_backward(b, a)?);
    keep("gelu by tanh", &ops::gelu_tanh(a)?);
    keep("its gradient", &ops::gelu_tanh_backward(b, a)?);
    keep("tanh", &ops::tanh(a)?);
    keep("tanh's gradient", &ops::tanh_backward(b, a)?);
    let random = RandomStream { seed: 7, stream: 1, pass: numbers(&[2])? };
    keep("dropout", &ops::dropout(a, 0.3, &random)?);
    keep("add", &ops::add(a, b, Then::Nothing)?);
    results.extend(pools(a, b)?);
    results.extend(statistics(a, b)?);
    Ok(results)
}

/// Products of few rows and of more, whose sums are whole numbers that f32 holds exactly: each result is that, rounded once.
#[test]
fn a_product_of_whole_numbers_is_exact_with_any_number_of_rows() -> Result<()> {
    let whole = |i: usize, seed: usize| ((i * 7919 + seed * 104_729) % 7) as i64 - 3;
    for (n, inputs, outputs) in
        [(1, 1, 1), (1, 31, 5), (2, 33, 40), (3, 700, 9), (4, 1024, 70), (8, 65, 8), (9, 65, 8)]
    {
        let numbers =
            |len: usize, seed: usize| -> Vec<i64> { (0..len).map(|i| whole(i, seed)).collect() };
        let (x, w, b) = (numbers(n * inputs, 1), numbers(outputs * inputs, 2), numbers(outputs, 3));
        let mut sums = Vec::new();
        for x in x.chunks(inputs) {
            for (w, b) in w.chunks(inputs).zip(&b) {
                sums.push((x.iter().zip(w).map(|(x, w)| x * w).sum::<i64>() + b) as f32);
            }
        }
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let tensor = |values: &[i64], shape: &[usize]| {
                let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
                ops::from_f32(&values, shape, dtype, &Device::Cpu)
            };
            let operands = (tensor(&x, &[n, inputs])?, tensor(&w, &[outputs, inputs])?);
            let b = tensor(&b, &[outputs])?;
            for then in [Then::Nothing, Then::Relu] {
                let y = ops::linear(&operands.0, &operands.1, Some(&b), Operands::Exact, then)?;
                let least = if then == Then::Relu { 0.0 } else { f32::NEG_INFINITY };
                for (found, sum) in ops::to_f32(&y)?.into_iter().zip(&sums) {
                    let sum = sum.max(least);
                    let expected = match dtype {
                        DType::F16 => f16::from_f32(sum).to_f32(),
                        DType::BF16 => bf16::from_f32(sum).to_f32(),
                        _ => sum,
                    };
                    assert_eq!(found, expected, "{n} × {inputs} × {outputs}, {dtype:?}");
                }
            }
        }
    }
    Ok(())
}

/// A `ReLU` in the same pass gives the bits of one after it, forwards and backwards, also of what is not finite.
#[test]
fn a_relu_in_the_same_pass_is_the_relu_after_it() -> Result<()> {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let image = |seed: u32| {
            let values = (0..2 * 3 * 40 * 30_u32).map(|i| (i * 7919 + seed) % 2003);
            let mut values: Vec<f32> = values.map(|v| v as f32 / 1001.5 - 1.0).collect();
            (values[5], values[77], values[901]) = (f32::NAN, -f32::INFINITY, f32::INFINITY);
            ops::from_f32(&values, (2, 3, 40, 30), dtype, &Device::Cpu)
        };
        let (x, dy) = (image(1)?, image(2)?);
        let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
            Ok(ops::to_f32(tensor)?.into_iter().map(f32::to_bits).collect())
        };
        let sum = ops::relu(&ops::add(&x, &dy, Then::Nothing)?)?;
        assert!(bits(&ops::add(&x, &dy, Then::Relu)?)? == bits(&sum)?);
        let some = |len: usize, shape: &[usize]| -> Result<Tensor> {
            dy.flatten_all()?.narrow(0, 100, len)?.copy()?.reshape(shape)
        };
        let (rows, w, b) = (x.reshape((240, 30))?, some(17 * 30, &[17, 30])?, some(17, &[17])?);
        let linear = |then| ops::linear(&rows, &w, Some(&b), Operands::Exact, then);
        assert!(bits(&linear(Then::Relu)?)? == bits(&ops::relu(&linear(Then::Nothing)?)?)?);
        let (w, b) = (some(5 * 3 * 9, &[5, 3, 3, 3])?, some(5, &[5])?);
        let settings = ConvSettings { stride: 1, padding: 1, dilation: 1, groups: 1 };
        let conv = |then| ops::conv2d(&x, &w, Some(&b), (settings, Operands::Exact), then);
        assert!(bits(&conv(Then::Relu)?)? == bits(&ops::relu(&conv(Then::Nothing)?)?)?);
        // The first channel has no number that is not finite.
        let x = x.narrow(1, 1, 2)?.contiguous()?;
        let dy = dy.narrow(1, 1, 2)?.contiguous()?;
        let gamma = ops::from_f32(&[0.75, -1.5], 2, dtype, &Device::Cpu)?;
        let beta = ops::from_f32(&[0.125, 0.25], 2, dtype, &Device::Cpu)?;
        let (y, saved, variance) = ops::batch_norm(&x, &gamma, &beta, Then::Nothing)?;
        let (together, ..) = ops::batch_norm(&x, &gamma, &beta, Then::Relu)?;
        let after = ops::relu(&y)?;
        assert!(bits(&together)? == bits(&after)?);
        let given = (&saved.mean, &variance);
        let inference = ops::batch_norm_inference(&x, given, (&gamma, &beta), Then::Relu)?;
        assert!(bits(&inference)? == bits(&after)?);
        let expected = ops::relu_backward(&dy, &after)?;
        let expected = ops::batch_norm_backward(&expected, &x, &gamma, &saved, None)?;
        let found = ops::batch_norm_backward(&dy, &x, &gamma, &saved, Some(&together))?;
        for (found, expected) in [
            (found.input, expected.input),
            (found.gamma, expected.gamma),
            (found.beta, expected.beta),
        ] {
            assert!(bits(&found)? == bits(&expected)?);
        }
    }
    Ok(())
}

/// The part of [`fixed_order`] that pools.
fn pools(a: &Tensor, b: &Tensor) -> Result<Results> {
    let (n, c, h, w) = a.dims4()?;
    let shape = [n, c, h, w];
    let mut results = vec![];
    let mut keep = |name: &str, tensor: &Tensor| results.push((name.to_owned(), tensor.clone()));
    let (y, places) = ops::max_pool2d(a, 2)?;
    keep("max-pool", &y);
    keep("max-pool's gradient", &ops::max_pool2d_backward(&y, &places, 2, shape)?);
    let y = ops::avg_pool2d(a, 3)?;
    keep("average pool", &y);
    let dy = ops::max_pool2d(b, 3)?.0;
    keep("average pool's gradient", &ops::avg_pool2d_backward(&dy, 3, shape)?);
    keep("global average pool", &ops::global_avg_pool(a)?);
    let corner = b.narrow(2, 0, 1)?.narrow(3, 0, 1)?.contiguous()?.reshape((n, c))?;
    keep("global average pool's gradient", &ops::global_avg_pool_backward(&corner, shape)?);
    Ok(results)
}

/// The part of [`fixed_order`] that sums over images or rows.
fn statistics(a: &Tensor, b: &Tensor) -> Result<Results> {
    let (n, c, h, w) = a.dims4()?;
    let mut results = vec![];
    let mut keep = |name: &str, tensor: &Tensor| results.push((name.to_owned(), tensor.clone()));
    let gamma = b.flatten_all()?.narrow(0, 0, c)?.contiguous()?;
    let beta = a.flatten_all()?.narrow(0, 0, c)?.contiguous()?;
    let (y, saved, variance) = ops::batch_norm(a, &gamma, &beta, Then::Nothing)?;
    keep("batch norm", &y);
    let gradients = ops::batch_norm_backward(b, a, &gamma, &saved, None)?;
    keep("batch norm, dx", &gradients.input);
    keep("batch norm, dgamma", &gradients.gamma);
    keep("batch norm, dbeta", &gradients.beta);
    let inference =
        ops::batch_norm_inference(a, (&saved.mean, &variance), (&gamma, &beta), Then::Nothing)?;
    keep("batch norm for inference", &inference);
    let logits = a.reshape((n * c, h * w))?;
    let labels: Vec<u32> = (0..(n * c) as u32).map(|i| i * 5 % (h * w) as u32).collect();
    let settings = LossSettings { smoothing: 0.1, micro_batches: 1 };
    let scale = tensor(&[1024.0], DType::F32)?;
    let loss = ops::cross_entropy(&logits, &numbers(&labels)?, settings, &scale)?;
    keep("cross-entropy", &loss.gradient);
    let targets = uniform(9, (n * c, h * w), (-1.0, 1.0))?;
    keep("squared error", &ops::squared_error(&logits, &targets, 1, &scale)?.gradient);
    keep("column sums", &ops::column_sums(&logits)?);
    Ok(results)
}

#[test]
fn operations_of_fixed_order_round_once() -> Result<()> {
    for dtype in SIXTEEN_BITS {
        // Ordinary numbers; squares and sums beyond f16; f16's subnormals; numbers that bf16 alone holds.
        for (a, b) in [(2.0, 2.0), (6e4, 6e4), (3e-6, 3e-6), (6e4, 1e-6), (1e30, 1e-30)] {
            let a = ops::cast(&uniform(1, (3, 5, 11, 9), (-a, a))?, dtype)?;
            let b = ops::cast(&uniform(2, (3, 5, 11, 9), (-b, b))?, dtype)?;
            let wide = fixed_order(&ops::cast(&a, DType::F32)?, &ops::cast(&b, DType::F32)?)?;
            check_rounded(&fixed_order(&a, &b)?, &wide, dtype, 0)?;
        }
    }
    Ok(())
}

#[test]
fn loss_and_accuracy_are_those_of_the_widened_logits() -> Result<()> {
    let labels: Vec<u32> = (0..33).map(|i| i % 10).collect();
    let labels = numbers(&labels)?;
    let (settings, scale) =
        (LossSettings { smoothing: 0.1, micro_batches: 1 }, tensor(&[1.0], DType::F32)?);
    for dtype in SIXTEEN_BITS {
        let native = ops::cast(&uniform(1, (33, 10), (-30.0, 30.0))?, dtype)?;
        let wide = ops::cast(&native, DType::F32)?;
        let [a, b] = [&native, &wide].map(|x| ops::cross_entropy(x, &labels, settings, &scale));
        assert_eq!(bits(&a?.losses)?, bits(&b?.losses)?);
        let [a, b] = [&native, &wide].map(|x| ops::cross_entropy_loss(x, &labels));
        assert_eq!(bits(&a?)?, bits(&b?)?);
        assert_eq!(ops::count_correct(&native, &labels)?, ops::count_correct(&wide, &labels)?);
        let targets = uniform(2, (33, 10), (-30.0, 30.0))?;
        let [a, b] = [&native, &wide].map(|x| ops::squared_error_loss(x, &targets));
        assert_eq!(bits(&a?)?, bits(&b?)?);
    }
    Ok(())
}

#[test]
fn a_loss_gradient_beyond_f16_is_infinite_and_tiny_ones_are_subnormal() -> Result<()> {
    let logits = tensor(&[60_000.0, -60_000.0, 0.0, 0.0], DType::F16)?.reshape((2, 2))?;
    let settings = LossSettings { smoothing: 0.0, micro_batches: 1 };
    let gradient = |scale: f32| -> Result<Tensor> {
        let scale = tensor(&[scale], DType::F32)?;
        Ok(ops::cross_entropy(&logits, &numbers(&[1, 0])?, settings, &scale)?.gradient)
    };
    let large = gradient(262_144.0)?;
    assert_eq!(ops::to_f32(&large)?, [INF, -INF, -INF, INF]);
    let gradient = gradient(2f32.powi(-22))?;
    let (whole, half) = (2f32.powi(-23), 2f32.powi(-24));
    assert_eq!(ops::to_f32(&gradient)?, [whole, -whole, -half, half]);
    Ok(())
}

/// The results of every product: x is N × I, w is O × I, b is O, dy is N × O.
fn linear_products([x, w, b, dy]: [&Tensor; 4]) -> Result<Results> {
    let name = |what: &str| format!("{what} of {:?} and {:?}", x.dims(), w.dims());
    Ok(vec![
        (name("linear"), ops::linear(x, w, Some(b), Operands::Exact, Then::Nothing)?),
        (name("linear without bias"), ops::linear(x, w, None, Operands::Exact, Then::Nothing)?),
        (name("dx"), ops::linear_input_gradient(dy, w, Operands::Exact)?),
        (name("dw"), ops::linear_weight_gradient(dy, x, Operands::Exact)?),
    ])
}

/// The results of a convolution and its gradients.
fn convolutions([x, w, b, dy]: [&Tensor; 4], settings: ConvSettings) -> Result<Results> {
    let name = |what: &str| format!("{what} of {:?} by {:?}, {settings:?}", x.dims(), w.dims());
    let how = (settings, Operands::Exact);
    let gradients = ops::conv2d_backward(dy, (x, w), how, ConvWanted::ALL)?;
    let dx = gradients.input.map(|dx| (name("dx"), dx));
    let mut results = vec![
        (name("conv"), ops::conv2d(x, w, Some(b), (settings, Operands::Exact), Then::Nothing)?),
        (
            name("conv without bias"),
            ops::conv2d(x, w, None, (settings, Operands::Exact), Then::Nothing)?,
        ),
        (name("dw"), gradients.weight),
    ];
    results.extend(dx);
    results.extend(gradients.bias.map(|db| (name("db"), db)));
    Ok(results)
}

/// Multiples of 1/16 up to 2 in size: f32 holds every sum of their products exactly, in any order, and f16 and bf16 do not.
fn sixteenths(seed: u64, shape: &[usize]) -> Result<Tensor> {
    (uniform(seed, shape.to_vec(), (-32.0, 32.0))?.round()? / 16.0)?.contiguous()
}

fn positive(seed: u64, shape: &[usize]) -> Result<Tensor> {
    uniform(seed, shape.to_vec(), (0.1, 2.0))
}

/// Runs `work` on native operands of the four shapes and on the same widened.
fn check_products(
    shapes: [&[usize]; 4],
    work: impl Fn([&Tensor; 4]) -> Result<Results>,
) -> Result<()> {
    for dtype in SIXTEEN_BITS {
        // Exact sums must agree in every bit. Sums without cancellation may differ by their order: one unit at most.
        for (fill, units) in [(sixteenths as fn(u64, &[usize]) -> Result<Tensor>, 0), (positive, 1)]
        {
            let mut native = vec![];
            for (seed, shape) in (1..).zip(shapes) {
                native.push(ops::cast(&fill(seed, shape)?, dtype)?);
            }
            let wide: Vec<Tensor> =
                native.iter().map(|t| ops::cast(t, DType::F32)).collect::<Result<_>>()?;
            let [native, wide] =
                [&native, &wide].map(|all| work([&all[0], &all[1], &all[2], &all[3]]));
            check_rounded(&native?, &wide?, dtype, units)?;
        }
    }
    Ok(())
}

#[test]
fn products_round_once() -> Result<()> {
    for (n, i, o) in
        [(1, 1, 1), (7, 13, 5), (1, 300, 33), (19, 300, 1), (65, 1, 67), (3, 2, 2), (67, 129, 131)]
    {
        check_products([&[n, i], &[o, i], &[o], &[n, o]], linear_products)?;
    }
    Ok(())
}

#[test]
fn convolutions_round_once() -> Result<()> {
    for (x, w, y, (stride, padding, dilation, groups)) in [
        ([5, 3, 11, 9], [4, 3, 3, 3], [11, 9], (1, 1, 1, 1)),
        ([5, 3, 9, 8], [5, 3, 1, 1], [9, 8], (1, 0, 1, 1)),
        ([19, 4, 7, 10], [6, 2, 3, 2], [4, 6], (2, 1, 1, 2)),
        ([1, 2, 13, 11], [3, 2, 5, 3], [3, 4], (3, 2, 2, 1)),
        ([5, 6, 5, 7], [6, 1, 3, 3], [5, 7], (1, 1, 1, 6)),
    ] {
        let settings = ConvSettings { stride, padding, dilation, groups };
        let dy = [x[0], w[0], y[0], y[1]];
        check_products([&x, &w, &[w[0]], &dy], |t| convolutions(t, settings))?;
    }
    Ok(())
}

/// Σ aᵢ bᵢ + c by `linear` and by a pointwise convolution, in several shapes that libraries treat apart.
fn check_dot(dtype: DType, (a, b, c): ([f32; 2], [f32; 2], f32), expected: f32) -> Result<()> {
    for (n, inputs, o) in [(1, 2, 1), (1, 9, 5), (3, 64, 1), (17, 2, 33), (17, 64, 33)] {
        let rows = |values: [f32; 2], count: usize| -> Result<Tensor> {
            let row: Vec<f32> =
                values.into_iter().chain(std::iter::repeat(0.0)).take(inputs).collect();
            ops::from_f32(&row.repeat(count), (count, inputs), dtype, &Device::Cpu)
        };
        let (x, w, bias) = (rows(a, n)?, rows(b, o)?, tensor(&vec![c; o], dtype)?);
        let (image, kernel) = (x.reshape((n, inputs, 1, 1))?, w.reshape((o, inputs, 1, 1))?);
        let results = [
            ops::linear(&x, &w, Some(&bias), Operands::Exact, Then::Nothing)?,
            ops::conv2d(&image, &kernel, Some(&bias), (POINTWISE, Operands::Exact), Then::Nothing)?,
        ];
        for result in results {
            for value in ops::to_f32(&result)? {
                let same = value == expected || (value.is_nan() && expected.is_nan());
                assert!(same, "{dtype:?} {n} × {inputs} × {o}: {value:e}, not {expected:e}");
            }
        }
    }
    Ok(())
}

/// Each expected value is the exact Σ aᵢ bᵢ + c rounded by hand to 11 bits from 2⁻²⁴ to 65504, or 8 bits from 2⁻¹³³.
#[test]
fn products_at_the_ends_of_the_formats() -> Result<()> {
    let power = |exponent: i32| 2f32.powi(exponent);
    for (operands, expected) in [
        (([300.0, 0.0], [300.0, 0.0], 0.0), INF),
        (([-300.0, 0.0], [300.0, 0.0], 0.0), -INF),
        (([255.0, 239.0], [256.0, 1.0], 0.0), 65_504.0),
        (([255.0, 240.0], [256.0, 1.0], 0.0), INF),
        (([300.0, 300.0], [300.0, -299.0], 0.0), 300.0),
        (([300.0, 300.0], [300.0, -1.0], -60_000.0), 29_696.0),
        (([2048.0, 1.0], [1.0, 1.0], 1.0), 2050.0),
        (([power(-12), 0.0], [power(-12), 0.0], 0.0), power(-24)),
        (([power(-12), 0.0], [power(-13), 0.0], 0.0), 0.0),
        (([power(-12), 0.0], [1.5 * power(-13), 0.0], 0.0), power(-24)),
        (([power(-24), power(-24)], [1.0, 1.0], power(-24)), 3.0 * power(-24)),
        (([INF, 0.0], [0.0, 0.0], 0.0), f32::NAN),
        (([INF, 1.0], [1.0, 1.0], -INF), f32::NAN),
        (([f32::NAN, 1.0], [1.0, 1.0], 0.0), f32::NAN),
        (([INF, 1.0], [-1.0, 1.0], 0.0), -INF),
    ] {
        check_dot(DType::F16, operands, expected)?;
    }
    for (operands, expected) in [
        (([power(64), 0.0], [power(64), 0.0], 0.0), INF),
        (([power(64), power(64)], [-power(63), -power(63)], 0.0), -INF),
        (([power(100), power(100)], [power(20), -power(20)], 3.0), 3.0),
        (([256.0, 1.0], [1.0, 1.0], 1.0), 258.0),
        (([f32::NAN, 1.0], [1.0, 1.0], 0.0), f32::NAN),
        (([INF, 1.0], [0.0, 1.0], 0.0), f32::NAN),
    ] {
        check_dot(DType::BF16, operands, expected)?;
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512bf16") {
        // Its dot products flush subnormals: the documented exception to the contract.
        return Ok(());
    }
    for (operands, expected) in [
        (([power(-70), 0.0], [power(-63), 0.0], 0.0), power(-133)),
        (([power(-70), 0.0], [power(-64), 0.0], 0.0), 0.0),
        (([power(-130), power(-130)], [1.0, 1.0], power(-130)), 3.0 * power(-130)),
    ] {
        check_dot(DType::BF16, operands, expected)?;
    }
    Ok(())
}

#[test]
fn element_wise_operations_beyond_the_numbers() -> Result<()> {
    let nan = f32::NAN;
    let same = |result: &Tensor, expected: &[f32]| -> Result<()> {
        let values = ops::to_f32(result)?;
        assert_eq!(values.len(), expected.len());
        for (value, expected) in values.iter().zip(expected) {
            assert!(value == expected || (value.is_nan() && expected.is_nan()), "{values:?}");
        }
        Ok(())
    };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let x = tensor(&[nan, INF, -INF, 1.0], dtype)?;
        same(&ops::relu(&x)?, &[nan, INF, 0.0, 1.0])?;
        same(
            &ops::relu_backward(&x, &tensor(&[0.0, 1.0, 0.0, 1.0], dtype)?)?,
            &[0.0, INF, 0.0, 1.0],
        )?;
        same(
            &ops::add(&x, &tensor(&[1.0, -INF, -INF, nan], dtype)?, Then::Nothing)?,
            &[nan, nan, -INF, nan],
        )?;
        for place in 0..4 {
            for other in [1.0, INF, -INF] {
                let mut window = [other; 4];
                window[place] = nan;
                let image = tensor(&window, dtype)?.reshape((1, 1, 2, 2))?;
                let (y, places) = ops::max_pool2d(&image, 2)?;
                same(&y, &[nan])?;
                assert_eq!(places.flatten_all()?.to_vec1::<u8>()?, [place as u8]);
                same(&ops::avg_pool2d(&image, 2)?, &[nan])?;
                same(&ops::global_avg_pool(&image)?, &[nan])?;
            }
        }
        let low = Tensor::full(-INF, (1, 1, 2, 2), &Device::Cpu)?.to_dtype(dtype)?;
        same(&ops::max_pool2d(&low, 2)?.0, &[-INF])?;
    }
    let large = tensor(&[65_504.0; 4], DType::F16)?.reshape((1, 1, 2, 2))?;
    same(&ops::avg_pool2d(&large, 2)?, &[65_504.0])?;
    same(&ops::global_avg_pool(&large)?, &[65_504.0])?;
    same(&ops::add(&large, &large, Then::Nothing)?, &[INF; 4])?;
    let tiny = tensor(&[2f32.powi(-24), 3.0 * 2f32.powi(-24)], DType::F16)?;
    same(&ops::add(&tiny, &tiny, Then::Nothing)?, &[2f32.powi(-23), 3.0 * 2f32.powi(-23)])?;
    same(&ops::relu(&tiny)?, &[2f32.powi(-24), 3.0 * 2f32.powi(-24)])
}

/// A sum of ones in f16 stops at 2048, in bf16 at 256.
#[test]
fn long_sums_do_not_stop() -> Result<()> {
    let ones = |shape: &[usize], dtype| Tensor::ones(shape, dtype, &Device::Cpu);
    let all = |tensor: &Tensor, expected: f32| -> Result<()> {
        assert!(ops::to_f32(tensor)?.iter().all(|value| *value == expected), "{tensor}");
        Ok(())
    };
    for dtype in SIXTEEN_BITS {
        let (rows, square) = (ones(&[3, 4096], dtype)?, ones(&[5, 4096], dtype)?);
        all(&ops::linear(&rows, &square, None, Operands::Exact, Then::Nothing)?, 4096.0)?;
        let (tall, thin) = (ones(&[4096, 5], dtype)?, ones(&[4096, 3], dtype)?);
        all(&ops::linear_weight_gradient(&tall, &thin, Operands::Exact)?, 4096.0)?;
        all(
            &ops::linear_input_gradient(&rows, &ones(&[4096, 5], dtype)?, Operands::Exact)?,
            4096.0,
        )?;
        all(&ops::column_sums(&tall)?, 4096.0)?;
        all(
            &ops::conv2d(
                &ones(&[2, 4096, 2, 3], dtype)?,
                &ones(&[3, 4096, 1, 1], dtype)?,
                None,
                (POINTWISE, Operands::Exact),
                Then::Nothing,
            )?,
            4096.0,
        )?;

        let planes = ones(&[2, 3, 64, 64], dtype)?;
        all(&ops::global_avg_pool(&planes)?, 1.0)?;
        let single = planes.narrow(0, 0, 1)?.contiguous()?;
        let kernel = ones(&[3, 3, 3, 3], dtype)?;
        let settings = ConvSettings { padding: 1, ..POINTWISE };
        let wanted = ConvWanted { input: false, bias: true };
        let how = (settings, Operands::Exact);
        let gradients = ops::conv2d_backward(&single, (&single, &kernel), how, wanted)?;
        all(&gradients.bias.unwrap(), 4096.0)?;
        // 63 × 63 = 3969 lies between 3968 and 3970 (f16) or 3984 (bf16): both round to 3968.
        let expected = [3968.0, 4032.0, 3968.0, 4032.0, 4096.0, 4032.0, 3968.0, 4032.0, 3968.0];
        assert_eq!(ops::to_f32(&gradients.weight)?, expected.repeat(9));

        let gamma = ones(&[3], dtype)?;
        let (_, saved, _) = ops::batch_norm(&planes, &gamma, &gamma, Then::Nothing)?;
        assert_eq!(ops::to_f32(&saved.mean)?, [1.0; 3]);
        let gradients = ops::batch_norm_backward(&planes, &planes, &gamma, &saved, None)?;
        all(&gradients.beta, 8192.0)?;
    }
    Ok(())
}

/// What [`ops::inspect_gradient`] should count, one value at a time.
fn naive_counts(values: &[f32], format: Format) -> GradientCounts {
    let mut counts = GradientCounts { elements: values.len() as u64, ..GradientCounts::default() };
    for value in values {
        let size = f64::from(value.abs());
        if size == 0.0 {
            counts.zero += 1;
        } else if size < format.min_normal() {
            counts.subnormal += 1;
        } else if value.is_infinite() {
            counts.infinite += 1;
        } else if value.is_nan() {
            counts.nan += 1;
        }
    }
    counts
}

#[test]
fn gradients_are_counted_as_a_naive_loop_counts_them() -> Result<()> {
    let special = [0.0, -0.0, INF, -INF, f32::NAN, 3e-6, -3e-6, 1e-40, 6.103_515_6e-5, 6.1e-5];
    for (dtype, format) in [
        (DType::F32, Format::F32),
        (DType::F32, Format::F16),
        (DType::F32, Format::FP8_E5M2),
        (DType::F16, Format::F16),
        (DType::BF16, Format::BF16),
    ] {
        // Around powers of two, where work is cut.
        for len in [1, 31, 1024, 1025, 16_384, 16_385, 2 * 16_384 + 37] {
            let mut values = ops::to_f32(&uniform(1, len, (-4.0, 4.0))?)?;
            let finite = tensor(&values, dtype)?;
            let summary = ops::inspect_gradient(&finite, format, 0.125)?;
            assert!(summary.is_finite());
            let squares: f64 =
                ops::to_f32(&finite)?.iter().map(|v| f64::from(*v * 0.125).powi(2)).sum();
            assert!((summary.squares / squares - 1.0).abs() < 1024.0 * UNIT, "{dtype:?} {len}");
            let borders = [0, 1023, 1024, 1025, 16_383, 16_384, 16_385, 32_767, 32_768, len - 1];
            for (shift, special) in special.iter().enumerate() {
                for border in borders {
                    if let Some(value) = values.get_mut(border.wrapping_sub(shift)) {
                        *value = *special;
                    }
                }
            }
            let gradient = tensor(&values, dtype)?;
            let expected = naive_counts(&ops::to_f32(&gradient)?, format);
            let summary = ops::inspect_gradient(&gradient, format, 0.125)?;
            assert_eq!(summary.counts, expected, "{dtype:?} {len}");
            assert_eq!(summary.is_finite(), expected.infinite + expected.nan == 0);
        }
    }
    Ok(())
}

/// One plain SGD step of rate 1 from weights of 1, and the number of lost updates.
fn step(gradient: &[f32], dtype: DType, params: Format) -> Result<(Vec<f32>, u64)> {
    let weights = tensor(&vec![1.0; gradient.len()], dtype)?;
    let tensors = UpdateTensors {
        weights: &weights,
        copy: None,
        gradient: &tensor(gradient, DType::F32)?,
        first: None,
        second: None,
        delta: None,
    };
    let rule = Update::Sgd(Sgd { lr: 1.0, momentum: 0.0, nesterov: false, weight_decay: 0.0 });
    let conversion = Conversion { unscale: 1.0, clip: 1.0, params, compute: params };
    let lost = ops::update(rule, tensors, conversion)?;
    Ok((ops::to_f32(&weights)?, lost))
}

/// Below 1 the distance of two numbers is 2⁻¹¹ in f16 and 2⁻⁸ in bf16, above it twice that; half of it is a tie, which 1
/// wins as the even one.
#[test]
fn updates_too_small_for_the_weights_are_lost() -> Result<()> {
    let power = |exponent: i32| 2f32.powi(exponent);
    let formats = [
        (DType::F32, Format::F32),
        (DType::F16, Format::F16),
        (DType::BF16, Format::BF16),
        (DType::F32, Format::F16),
        (DType::F32, Format::BF16),
    ];
    for (change, lost) in [
        (0.0, [false; 5]),
        (-power(-12), [false, true, true, true, true]),
        (-1.5 * power(-12), [false, false, true, false, true]),
        (power(-11), [false, true, true, true, true]),
        (1.5 * power(-11), [false, false, true, false, true]),
        (-power(-9), [false, false, true, false, true]),
        (-1.5 * power(-9), [false; 5]),
        (power(-26), [true; 5]),
        (1e-45, [true; 5]),
    ] {
        for ((dtype, params), lost) in formats.into_iter().zip(lost) {
            // Every second weight of more than two chunks is changed.
            let gradient: Vec<f32> =
                (0..40_001).map(|i| if i % 2 == 1 { -change } else { 0.0 }).collect();
            let (weights, count) = step(&gradient, dtype, params)?;
            let expected = if lost { 20_000 } else { 0 };
            assert_eq!(count, expected, "{change:e} {dtype:?} {params:?}");
            let moved = weights.iter().filter(|weight| **weight != 1.0).count();
            let expected = if lost || change == 0.0 { 0 } else { 20_000 };
            assert_eq!(moved, expected, "{change:e} {dtype:?} {params:?}");
        }
    }
    Ok(())
}

/// A gradient that overflows one weight must not reach another, in this block of the work or the next.
#[test]
fn an_infinite_velocity_stays_where_it_is() -> Result<()> {
    let mut gradient = vec![0.5; 3000];
    gradient[7] = INF;
    let (weights, _) = step(&gradient, DType::F32, Format::F32)?;
    let mut expected = vec![0.5; 3000];
    expected[7] = -INF;
    assert_eq!(weights, expected);
    Ok(())
}

#[test]
fn copies_and_changes_belong_to_the_new_weights() -> Result<()> {
    let len = 40_001;
    for (params, compute, copy_type) in [
        (Format::F32, Format::F16, DType::F16),
        (Format::F32, Format::BF16, DType::BF16),
        (Format::F32, Format::BF16, DType::F32),
        (Format::F16, Format::F16, DType::F16),
    ] {
        let stored = if params == Format::F16 { DType::F16 } else { DType::F32 };
        let weights = ops::cast(&uniform(1, len, (-2.0, 2.0))?, stored)?;
        let copy = Tensor::zeros(len, copy_type, &Device::Cpu)?;
        let delta = Tensor::zeros(len, DType::F32, &Device::Cpu)?;
        let [first, second] = [delta.zeros_like()?, delta.zeros_like()?];
        let before = ops::to_f32(&weights)?;
        let tensors = UpdateTensors {
            weights: &weights,
            copy: Some(&copy),
            gradient: &ops::cast(&uniform(2, len, (-2.0, 2.0))?, DType::BF16)?,
            first: Some(&first),
            second: Some(&second),
            delta: Some(&delta),
        };
        let conversion = Conversion { unscale: 1.0, clip: 1.0, params, compute };
        ops::update(ADAM_W, tensors, conversion)?;
        let moved: Vec<f32> = before.iter().zip(ops::to_f32(&delta)?).map(|(w, d)| w + d).collect();
        let expected = tensor(&moved, DType::F32)?.to_dtype(stored)?;
        assert_eq!(bits(&weights)?, bits(&expected)?);
        assert!(ops::to_f32(&delta)?.iter().all(|delta| *delta != 0.0));
        let narrow = if compute == Format::F16 { DType::F16 } else { DType::BF16 };
        assert_eq!(bits(&copy)?, bits(&weights.to_dtype(narrow)?)?, "{params:?} {compute:?}");
    }
    Ok(())
}

fn zeros(shape: &[usize]) -> Result<Tensor> {
    Tensor::zeros(shape, DType::F32, &Device::Cpu)
}

#[test]
fn matrices_that_do_not_belong_together_are_errors() -> Result<()> {
    let row = zeros(&[2])?;
    let (matrix, other) = (zeros(&[4, 3])?, zeros(&[5, 2])?);
    let half = ops::cast(&matrix, DType::F16)?;
    for (name, result) in [
        ("linear", ops::linear(&matrix, &other, None, Operands::Exact, Then::Nothing)),
        (
            "bias",
            ops::linear(&matrix, &zeros(&[5, 3])?, Some(&row), Operands::Exact, Then::Nothing),
        ),
        ("types", ops::linear(&matrix, &half, None, Operands::Exact, Then::Nothing)),
        ("dx", ops::linear_input_gradient(&matrix, &other, Operands::Exact)),
        ("dw", ops::linear_weight_gradient(&matrix, &other, Operands::Exact)),
        ("relu", ops::relu_backward(&matrix, &other)),
        ("gelu", ops::gelu_backward(&matrix, &other)),
        ("gelu by tanh", ops::gelu_tanh_backward(&matrix, &other)),
        ("tanh", ops::tanh_backward(&matrix, &other)),
        ("add", ops::add(&matrix, &other, Then::Nothing)),
        ("layout", ops::relu(&matrix.t()?)),
        ("values", ops::from_f32(&[1.0], 2, DType::F32, &Device::Cpu)),
    ] {
        assert!(result.is_err(), "{name}");
    }
    assert!(ops::accumulate(&matrix, &other).is_err());
    assert!(ops::cross_entropy_loss(&matrix, &numbers(&[0, 1, 2])?).is_err());
    assert!(ops::cross_entropy_loss(&matrix, &numbers(&[0, 1, 2, 3])?).is_err());
    Ok(())
}

#[test]
fn images_that_do_not_belong_together_are_errors() -> Result<()> {
    let shape = [2, 3, 4, 4];
    let (image, kernel) = (zeros(&shape)?, zeros(&[5, 3, 1, 1])?);
    let (row, channels) = (zeros(&[2])?, zeros(&[3])?);
    let (_, saved, _) = ops::batch_norm(&image, &channels, &channels, Then::Nothing)?;
    let (pooled, places) = ops::max_pool2d(&image, 2)?;
    let one = (&zeros(&[1])?, &zeros(&[1])?);
    for (name, result) in [
        (
            "conv bias",
            ops::conv2d(&image, &kernel, Some(&row), (POINTWISE, Operands::Exact), Then::Nothing),
        ),
        (
            "statistics",
            ops::batch_norm_inference(&image, one, (&channels, &channels), Then::Nothing),
        ),
        ("max", ops::max_pool2d_backward(&image, &places, 2, shape)),
        ("places", ops::max_pool2d_backward(&pooled, &places.i(..1)?, 2, shape)),
        ("average", ops::avg_pool2d_backward(&image, 2, shape)),
        ("global", ops::global_avg_pool_backward(&pooled, shape)),
        ("no window", ops::avg_pool2d(&image, 0)),
    ] {
        assert!(result.is_err(), "{name}");
    }
    assert!(ops::max_pool2d(&image, 5).is_err());
    // Places of one image out of many are that image's.
    let rising = uniform(1, shape.to_vec(), (-1.0, 1.0))?;
    let (pooled_rising, places) = ops::max_pool2d(&rising, 2)?;
    let both = ops::max_pool2d_backward(&pooled_rising, &places, 2, shape)?;
    let dy = pooled_rising.i(1..)?.contiguous()?;
    let second = ops::max_pool2d_backward(&dy, &places.i(1..)?, 2, [1, 3, 4, 4])?;
    assert_eq!(bits(&second)?, bits(&both.i(1..)?.contiguous()?)?);
    let how = (POINTWISE, Operands::Exact);
    assert!(ops::conv2d_backward(&image, (&image, &kernel), how, ConvWanted::ALL).is_err());
    assert!(ops::batch_norm(&image, &row, &channels, Then::Nothing).is_err());
    assert!(ops::batch_norm_backward(&pooled, &image, &channels, &saved, None).is_err());
    Ok(())
}

#[test]
fn an_update_without_its_tensors_is_an_error() -> Result<()> {
    let (weights, other) = (zeros(&[3])?, zeros(&[2])?);
    let whole = UpdateTensors {
        weights: &weights,
        copy: None,
        gradient: &zeros(&[3])?,
        first: Some(&zeros(&[3])?),
        second: Some(&zeros(&[3])?),
        delta: None,
    };
    let conversion =
        Conversion { unscale: 1.0, clip: 1.0, params: Format::F32, compute: Format::F32 };
    assert_eq!(ops::update(ADAM_W, whole, conversion)?, 0);
    for tensors in [
        UpdateTensors { first: None, ..whole },
        UpdateTensors { second: None, ..whole },
        UpdateTensors { gradient: &other, ..whole },
        UpdateTensors { copy: Some(&other), ..whole },
        UpdateTensors { second: Some(&other), ..whole },
        UpdateTensors { delta: Some(&other), ..whole },
    ] {
        assert!(ops::update(ADAM_W, tensors, conversion).is_err());
    }
    let momentum = Sgd { lr: 1.0, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    let without = UpdateTensors { first: None, ..whole };
    assert!(ops::update(Update::Sgd(momentum), without, conversion).is_err());
    Ok(())
}

/// The tensors that an update from weights `a` with gradient `b` leaves.
fn updates(a: &Tensor, b: &Tensor) -> Result<Results> {
    let (weights, copy) = (ops::cast(a, DType::F32)?.copy()?, a.zeros_like()?);
    let [first, second] = [weights.zeros_like()?, weights.zeros_like()?];
    let tensors = UpdateTensors {
        weights: &weights,
        copy: Some(&copy),
        gradient: b,
        first: Some(&first),
        second: Some(&second),
        delta: None,
    };
    let conversion =
        Conversion { unscale: 0.5, clip: 0.9, params: Format::F32, compute: Format::F32 };
    ops::update(ADAM_W, tensors, conversion)?;
    ops::accumulate(&first, b)?;
    let names = ["weights", "copy", "first", "second"].map(str::to_owned);
    Ok(names.into_iter().zip([weights, copy, first, second]).collect())
}

/// Everything there is, on tensors of several chunks, as bits.
fn everything(dtype: DType) -> Result<Vec<(String, Vec<u32>)>> {
    let draw =
        |seed, shape: &[usize]| ops::cast(&uniform(seed, shape.to_vec(), (-2.0, 2.0))?, dtype);
    let (a, b) = (draw(1, &[5, 7, 61, 33])?, draw(2, &[5, 7, 61, 33])?);
    let mut results = fixed_order(&a, &b)?;
    let linear =
        [draw(1, &[131, 257])?, draw(2, &[193, 257])?, draw(3, &[193])?, draw(4, &[131, 193])?];
    results.extend(linear_products(linear.each_ref())?);
    let settings = ConvSettings { stride: 1, padding: 1, dilation: 1, groups: 1 };
    let conv = [
        draw(1, &[37, 5, 13, 11])?,
        draw(2, &[9, 5, 3, 3])?,
        draw(3, &[9])?,
        draw(4, &[37, 9, 13, 11])?,
    ];
    results.extend(convolutions(conv.each_ref(), settings)?);
    results.extend(updates(&a, &b)?);
    let squares = ops::inspect_gradient(&b, Format::F32, 0.3)?.squares.to_bits();
    let mut all: Vec<(String, Vec<u32>)> = results
        .into_iter()
        .map(|(name, tensor)| Ok((name, bits(&tensor)?)))
        .collect::<Result<_>>()?;
    all.push(("squares".to_owned(), vec![squares as u32, (squares >> 32) as u32]));
    Ok(all)
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() -> Result<()> {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut runs = vec![];
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            runs.push((threads, pool.install(|| everything(dtype))?));
        }
        let (_, alone) = runs.swap_remove(0);
        for (threads, run) in runs {
            for ((name, expected), (_, values)) in alone.iter().zip(run) {
                assert!(*expected == values, "{name} {dtype:?} with {threads} threads");
            }
        }
    }
    Ok(())
}

/// Squares that f32 does not hold: the sum by its definition, in f64. A NaN or an infinity stays one.
#[test]
fn the_norm_of_very_large_and_very_small_gradients_is_that_of_f64() {
    for (values, unscale) in [
        (vec![1e22_f32; 3000], 1.0),
        (vec![3e-25; 1500], 1.0),
        (vec![1e30, 0.0, -2e5, 3e-25], 1.0),
        (vec![f32::MAX; 2], 2.0_f32.powi(-16)),
        (vec![0.0; 5], 1.0),
    ] {
        let expected: f64 = values.iter().map(|value| f64::from(value * unscale).powi(2)).sum();
        let count = values.len();
        let gradient = Tensor::from_vec(values, count, &Device::Cpu).unwrap();
        let found = ops::inspect_gradient(&gradient, Format::F32, unscale).unwrap().squares;
        assert!((found - expected).abs() <= 1e-6 * expected, "{found} {expected}");
    }
    for value in [f32::INFINITY, f32::NAN] {
        let gradient = Tensor::from_vec(vec![1.0, value], 2, &Device::Cpu).unwrap();
        let summary = ops::inspect_gradient(&gradient, Format::F32, 1.0).unwrap();
        assert!(!summary.squares.is_finite() && !summary.is_finite());
    }
}
