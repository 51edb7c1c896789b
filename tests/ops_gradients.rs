//! Values and gradients of every operation on f32 tensors against candle's autograd on F64 tensors, or against the
//! definition where candle has no gradient or a wrong one.
//!
//! Tolerances are bounds on rounding, not guesses: a sum of `n` products in f32, in any order, is off by at most about
//! `n · 2⁻²⁴ · Σ|products|` (Higham 2002, section 3.1), and Σ|products| is the same operation on the operands' sizes.

#![expect(clippy::float_cmp, reason = "what is exact is compared exactly")]
#![expect(clippy::many_single_char_names, reason = "the letters of the formulas")]

mod ops_support;
#[path = "ops_support/oracle.rs"]
mod oracle;

use candle_core::{D, DType, Device, Result, Tensor};
use mantissa::ops::{
    self, AdamW, BatchNormSaved, ConvSettings, ConvWanted, Conversion, LossSettings, Operands,
    RandomStream, Sgd, Update, UpdateTensors,
};
use mantissa::precision::Format;
use ops_support::{UNIT, bits, numbers, tensor, uniform};
use oracle::{autograd, check, check_multilinear, to_f64};

/// Numbers of both signs, none of which is 0.
const SIGNED: (f32, f32) = (-2.0, 2.0);

#[test]
fn linear() -> Result<()> {
    for (n, i, o) in [(7, 13, 5), (1, 1, 1), (1, 300, 33), (19, 300, 1), (65, 1, 67), (67, 65, 131)]
    {
        let case = format!("linear {n} × {i} × {o}");
        let (x, w) = (uniform(1, (n, i), SIGNED)?, uniform(2, (o, i), SIGNED)?);
        let (b, dy) = (uniform(3, o, SIGNED)?, uniform(4, (n, o), SIGNED)?);
        let y = ops::linear(&x, &w, Some(&b), Operands::Exact, ops::Then::Nothing)?;
        let dx = ops::linear_input_gradient(&dy, &w, Operands::Exact)?;
        let dw = ops::linear_weight_gradient(&dy, &x, Operands::Exact)?;
        let db = ops::column_sums(&dy)?;
        let terms = n.max(i).max(o);
        check_multilinear(&case, &[&y, &dx, &dw, &db], (&[&x, &w, &b], &dy), terms, |t| {
            t[0].matmul(&t[1].t()?)?.broadcast_add(&t[2])
        })?;
        let y = ops::linear(&x, &w, None, Operands::Exact, ops::Then::Nothing)?;
        check_multilinear(&case, &[&y, &dx, &dw], (&[&x, &w], &dy), terms, |t| {
            t[0].matmul(&t[1].t()?)
        })?;
    }
    Ok(())
}

/// Convolution by its definition: one product for each element of the kernel. candle's own gradient of `conv2d` takes the
/// output padding of the height for the width too, so this is what is differentiated.
fn convolution(t: &[Tensor], settings: ConvSettings) -> Result<Tensor> {
    let ConvSettings { stride, padding, dilation, groups } = settings;
    let (o, channels, kh, kw) = t[1].dims4()?;
    let x = t[0].pad_with_zeros(2, padding, padding)?.pad_with_zeros(3, padding, padding)?;
    let (n, _, h, w) = x.dims4()?;
    let out = |size: usize, kernel: usize| (size - dilation * (kernel - 1) - 1) / stride + 1;
    let (oh, ow) = (out(h, kh), out(w, kw));
    let places = |start: usize, count: usize| -> Result<Tensor> {
        let places = (0..count).map(|at| (start * dilation + at * stride) as u32);
        Tensor::from_iter(places, &Device::Cpu)
    };
    let mut parts = vec![];
    for group in 0..groups {
        let x = x.narrow(1, group * channels, channels)?.contiguous()?;
        let w = t[1].narrow(0, group * (o / groups), o / groups)?;
        let mut sum = Tensor::zeros((n * oh * ow, o / groups), DType::F64, &Device::Cpu)?;
        for i in 0..kh {
            for j in 0..kw {
                let seen = x.index_select(&places(i, oh)?, 2)?.index_select(&places(j, ow)?, 3)?;
                let seen = seen.permute((0, 2, 3, 1))?.contiguous()?;
                let seen = seen.reshape((n * oh * ow, channels))?;
                let w = w.narrow(2, i, 1)?.narrow(3, j, 1)?.contiguous()?;
                sum = (sum + seen.matmul(&w.reshape((o / groups, channels))?.t()?)?)?;
            }
        }
        parts.push(sum);
    }
    let y = Tensor::cat(&parts, 1)?.broadcast_add(&t[2])?;
    y.reshape((n, oh, ow, o))?.permute((0, 3, 1, 2))?.contiguous()
}

/// Images (N, C, H, W), outputs, kernel, and stride, padding, dilation, groups.
type ConvCase = ((usize, usize, usize, usize), usize, (usize, usize), (usize, usize, usize, usize));

const CONVOLUTIONS: [ConvCase; 16] = [
    ((1, 1, 1, 1), 1, (1, 1), (1, 0, 1, 1)),
    ((5, 3, 11, 9), 4, (3, 3), (1, 1, 1, 1)),
    ((19, 3, 7, 5), 2, (3, 3), (1, 0, 1, 1)),
    ((5, 3, 9, 8), 5, (1, 1), (1, 0, 1, 1)),
    ((19, 4, 5, 7), 6, (1, 1), (1, 0, 1, 2)),
    ((5, 3, 9, 8), 5, (1, 1), (2, 0, 1, 1)),
    ((1, 3, 4, 5), 2, (1, 1), (1, 1, 1, 1)),
    ((19, 4, 7, 10), 6, (3, 2), (2, 1, 1, 2)),
    ((5, 6, 5, 7), 6, (3, 3), (1, 1, 1, 6)),
    ((1, 2, 13, 11), 3, (5, 3), (3, 2, 2, 1)),
    ((5, 3, 10, 7), 4, (3, 3), (2, 0, 1, 1)),
    ((5, 2, 3, 4), 2, (3, 3), (1, 2, 2, 1)),
    ((1, 1, 3, 2), 2, (7, 7), (1, 3, 1, 1)),
    ((5, 2, 1, 1), 2, (3, 3), (3, 1, 1, 1)),
    ((1, 1, 3, 2), 1, (5, 5), (2, 4, 2, 1)),
    ((37, 2, 4, 3), 3, (2, 3), (1, 1, 1, 1)),
];

#[test]
fn convolutions() -> Result<()> {
    for (image, o, kernel, (stride, padding, dilation, groups)) in CONVOLUTIONS {
        let settings = ConvSettings { stride, padding, dilation, groups };
        let case = format!("conv {image:?}, {o} outputs, kernel {kernel:?}, {settings:?}");
        let x = uniform(1, image, SIGNED)?;
        let w = uniform(2, (o, image.1 / groups, kernel.0, kernel.1), SIGNED)?;
        let b = uniform(3, o, SIGNED)?;
        let y = ops::conv2d(&x, &w, Some(&b), (settings, Operands::Exact), ops::Then::Nothing)?;
        let dy = uniform(4, y.dims(), SIGNED)?;
        let gradients =
            ops::conv2d_backward(&dy, (&x, &w), (settings, Operands::Exact), ConvWanted::ALL)?;
        let dx = gradients.input.clone().expect("it was asked for");
        let db = gradients.bias.clone().expect("it was asked for");
        let results = [&y, &dx, &gradients.weight, &db];
        let terms = w.elem_count().max(y.elem_count() / o);
        check_multilinear(&case, &results, (&[&x, &w, &b], &dy), terms, |t| {
            convolution(t, settings)
        })?;
        // Who leaves a gradient out gets the same others.
        for (input, bias) in [(false, true), (true, false), (false, false)] {
            let wanted = ConvWanted { input, bias };
            let part = ops::conv2d_backward(&dy, (&x, &w), (settings, Operands::Exact), wanted)?;
            assert_eq!(bits(&part.weight)?, bits(&gradients.weight)?, "{case}");
            for (is_wanted, part, whole) in [(input, part.input, &dx), (bias, part.bias, &db)] {
                assert_eq!(is_wanted, part.is_some(), "{case}");
                let Some(part) = part else { continue };
                assert_eq!(bits(&part)?, bits(whole)?, "{case}");
            }
        }
        let plain = ops::conv2d(&x, &w, None, (settings, Operands::Exact), ops::Then::Nothing)?;
        let (wide, kernel) = (x.to_dtype(DType::F64)?, w.to_dtype(DType::F64)?);
        let candle = wide.conv2d(&kernel, padding, stride, dilation, groups)?;
        let bound = vec![terms as f64 * UNIT * 4.0 * w.elem_count() as f64; plain.elem_count()];
        check(&case, &plain, &candle, &bound)?;
    }
    Ok(())
}

#[test]
fn a_convolution_without_a_result_is_an_error() -> Result<()> {
    let x = uniform(1, (1, 4, 3, 3), SIGNED)?;
    for (w, stride, dilation, groups) in [
        ((4, 4, 4, 3), 1, 1, 1),
        ((4, 4, 3, 3), 0, 1, 1),
        ((4, 4, 3, 3), 1, 2, 1),
        ((3, 2, 3, 3), 1, 1, 2),
        ((4, 3, 3, 3), 1, 1, 1),
        ((4, 4, 3, 3), 1, 1, 0),
    ] {
        let settings = ConvSettings { stride, padding: 0, dilation, groups };
        let w = uniform(2, w, SIGNED)?;
        assert!(
            ops::conv2d(&x, &w, None, (settings, Operands::Exact), ops::Then::Nothing).is_err(),
            "{:?} {settings:?}",
            w.dims()
        );
    }
    Ok(())
}

#[test]
fn relu_add_and_accumulate_are_exact() -> Result<()> {
    let (x, dy) = (uniform(1, (7, 13, 5), SIGNED)?, uniform(2, (7, 13, 5), SIGNED)?);
    let y = ops::relu(&x)?;
    let dx = ops::relu_backward(&dy, &y)?;
    let expected = autograd(&[&x], &dy, |t| t[0].relu())?;
    let exact = vec![0.0; x.elem_count()];
    check("relu", &y, &expected[0], &exact)?;
    check("relu's gradient", &dx, &expected[1], &exact)?;

    let sum = ops::add(&x, &dy, ops::Then::Nothing)?;
    let rounded = (x.to_dtype(DType::F64)? + dy.to_dtype(DType::F64)?)?.to_dtype(DType::F32)?;
    check("add", &sum, &rounded, &exact)?;
    let total = x.copy()?;
    ops::accumulate(&total, &dy)?;
    check("accumulate", &total, &rounded, &exact)
}

/// As in `PyTorch`: the gradient of relu at 0 is 0.
#[test]
fn relu_at_zero_and_beyond_the_numbers() -> Result<()> {
    let x = tensor(&[0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-45, -1e-45], DType::F32)?;
    let y = ops::relu(&x)?;
    assert_eq!(ops::to_f32(&y)?, [0.0, 0.0, f32::INFINITY, 0.0, 1e-45, 0.0]);
    let dx = ops::relu_backward(&tensor(&[3.0; 6], DType::F32)?, &y)?;
    assert_eq!(ops::to_f32(&dx)?, [0.0, 0.0, 3.0, 0.0, 3.0, 0.0]);
    Ok(())
}

/// `x/√2` and `x²/2` are rounded: a relative error δ of the argument moves the distribution by x times the density times δ,
/// and the density by x² times itself times δ.
#[test]
fn gelu() -> Result<()> {
    let (x, dy) = (uniform(1, (7, 13, 15), (-7.0, 7.0))?, uniform(2, (7, 13, 15), SIGNED)?);
    let (y, dx) = (ops::gelu(&x)?, ops::gelu_backward(&dy, &x)?);
    let expected =
        autograd(&[&x], &dy, |t| (&t[0] * 0.5)? * ((&t[0] / 2f64.sqrt())?.erf()? + 1.0)?)?;
    let (mut value_bound, mut gradient_bound) = (vec![], vec![]);
    for ((x, dy), y) in to_f64(&x)?.iter().zip(to_f64(&dy)?).zip(to_f64(&expected[0])?) {
        let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let moved = x * x * density;
        value_bound.push(UNIT * (4.0 * y.abs() + 2.0 * moved) + 1e-15);
        let sizes = y.abs() / x.abs() + x.abs() * density;
        gradient_bound
            .push(UNIT * dy.abs() * (6.0 * sizes + 2.0 * moved * (1.0 + x.abs())) + 1e-15);
    }
    check("gelu", &y, &expected[0], &value_bound)?;
    check("gelu's gradient", &dx, &expected[1], &gradient_bound)
}

/// The argument of σ is off by some units, which moves σ by its slope times the argument; so do its slope and that of the slope. In
/// the lower tail the oracle's own 1 + tanh has few digits left.
#[test]
fn gelu_by_tanh() -> Result<()> {
    let (x, dy) = (uniform(1, (7, 13, 15), (-7.0, 7.0))?, uniform(2, (7, 13, 15), SIGNED)?);
    let (y, dx) = (ops::gelu_tanh(&x)?, ops::gelu_tanh_backward(&dy, &x)?);
    let expected = autograd(&[&x], &dy, |t| {
        let x = &t[0];
        let cube = (x.mul(x)?.mul(x)? * 0.044_715)?;
        let argument = ((x + cube)? * (2.0 / std::f64::consts::PI).sqrt())?;
        (x * 0.5)? * (argument.tanh()? + 1.0)?
    })?;
    let (mut value_bound, mut gradient_bound) = (vec![], vec![]);
    for ((x, dy), y) in to_f64(&x)?.iter().zip(to_f64(&dy)?).zip(to_f64(&expected[0])?) {
        let scale = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
        let argument = scale * (x + 0.044_715 * x * x * x);
        let share = 1.0 / (1.0 + (-argument).exp());
        let (steep, slope) = (share * (1.0 - share), scale * (1.0 + 3.0 * 0.044_715 * x * x));
        let moved = 8.0 * UNIT * argument.abs();
        value_bound.push(6.0 * UNIT * y.abs() + x.abs() * steep * moved + 1e-14);
        let sizes = share + x.abs() * steep * slope;
        let change = steep + x.abs() * slope * steep;
        gradient_bound.push(dy.abs() * (12.0 * UNIT * sizes + change * moved) + 1e-14);
    }
    check("gelu by tanh", &y, &expected[0], &value_bound)?;
    check("its gradient", &dx, &expected[1], &gradient_bound)
}

#[test]
fn gelu_by_tanh_far_out() -> Result<()> {
    let x = tensor(&[-1e30, -40.0, 0.0, 40.0, 1e30, f32::INFINITY], DType::F32)?;
    assert_eq!(ops::to_f32(&ops::gelu_tanh(&x)?)?, [0.0, 0.0, 0.0, 40.0, 1e30, f32::INFINITY]);
    let dx = ops::gelu_tanh_backward(&tensor(&[2.0; 6], DType::F32)?, &x)?;
    assert_eq!(ops::to_f32(&dx)?, [0.0, 0.0, 1.0, 2.0, 2.0, 2.0]);
    Ok(())
}

/// The gradient is made of the rounded result y: 1 − y² is off by 2 |y| times its error.
#[test]
fn tanh() -> Result<()> {
    let (x, dy) = (uniform(1, (7, 13, 15), (-7.0, 7.0))?, uniform(2, (7, 13, 15), SIGNED)?);
    let y = ops::tanh(&x)?;
    let dx = ops::tanh_backward(&dy, &y)?;
    let expected = autograd(&[&x], &dy, |t| t[0].tanh())?;
    let (mut value_bound, mut gradient_bound) = (vec![], vec![]);
    for (dy, y) in to_f64(&dy)?.iter().zip(to_f64(&expected[0])?) {
        value_bound.push(3.0 * UNIT * y.abs());
        gradient_bound.push(UNIT * dy.abs() * (6.0 * y * y + 4.0 * (1.0 - y * y)));
    }
    check("tanh", &y, &expected[0], &value_bound)?;
    check("tanh's gradient", &dx, &expected[1], &gradient_bound)
}

/// ```python
/// from scipy.special import erfc; import numpy as np
/// for x in (-5., -8., -12.): print(x * erfc(-x / np.sqrt(2)) / 2)
/// ```
#[test]
fn gelu_keeps_its_digits_in_the_lower_tail() -> Result<()> {
    let x = tensor(&[-5.0, -8.0, -12.0], DType::F32)?;
    let expected =
        [-1.433_257_859_395_972_5e-6, -4.976_768_459_417_463e-15, -2.131_778_534_493_245e-32];
    for (y, expected) in to_f64(&ops::gelu(&x)?)?.iter().zip(expected) {
        // x / √2 is off by one part in 2²⁴, which the tail magnifies by x².
        assert!((y / expected - 1.0).abs() < 200.0 * UNIT, "{y:e} {expected:e}");
    }
    Ok(())
}

#[test]
fn gelu_far_out() -> Result<()> {
    let x = tensor(&[-1e30, -40.0, 0.0, 40.0, 1e30, f32::INFINITY], DType::F32)?;
    assert_eq!(ops::to_f32(&ops::gelu(&x)?)?, [0.0, 0.0, 0.0, 40.0, 1e30, f32::INFINITY]);
    let dx = ops::gelu_backward(&tensor(&[2.0; 6], DType::F32)?, &x)?;
    assert_eq!(ops::to_f32(&dx)?, [0.0, 0.0, 1.0, 2.0, 2.0, 2.0]);
    Ok(())
}

/// The largest values of the windows of one batch of planes, by the definition.
fn largest(x: &[f64], (h, w): (usize, usize), side: usize) -> Vec<f64> {
    let mut y = vec![];
    for plane in x.chunks(h * w) {
        for row in 0..h / side {
            for column in 0..w / side {
                let window = (0..side * side)
                    .map(|i| plane[(row * side + i / side) * w + column * side + i % side]);
                y.push(window.fold(f64::NEG_INFINITY, f64::max));
            }
        }
    }
    y
}

/// candle's gradient of max-pool is wrong: finite differences of the definition instead. The step is smaller than any
/// distance between two values, so the differences are exact but for f64's rounding.
#[test]
fn max_pool_against_finite_differences() -> Result<()> {
    for (shape, side) in
        [([2, 3, 7, 5], 2), ([1, 2, 6, 9], 3), ([1, 1, 4, 4], 1), ([1, 1, 15, 16], 15)]
    {
        let case = format!("max-pool {shape:?} by {side}");
        let image = (shape[2], shape[3]);
        let x = uniform(1, shape.to_vec(), SIGNED)?;
        let (y, places) = ops::max_pool2d(&x, side)?;
        let wide = to_f64(&x)?;
        assert_eq!(to_f64(&y)?, largest(&wide, image, side), "{case}");
        let dy = uniform(2, y.dims(), SIGNED)?;
        let dx = ops::max_pool2d_backward(&dy, &places, side, shape)?;
        let weights = to_f64(&dy)?;
        let loss = |x: &[f64]| -> f64 {
            largest(x, image, side).iter().zip(&weights).map(|(y, dy)| y * dy).sum()
        };
        let step = 2f64.powi(-26);
        for (i, dx) in to_f64(&dx)?.into_iter().enumerate() {
            let (mut up, mut down) = (wide.clone(), wide.clone());
            up[i] += step;
            down[i] -= step;
            let slope = (loss(&up) - loss(&down)) / (2.0 * step);
            assert!((dx - slope).abs() < 1e-4, "{case}[{i}]: {dx} {slope}");
        }
    }
    Ok(())
}

#[test]
fn the_first_of_equal_values_gets_the_gradient_of_max_pool() -> Result<()> {
    let x = Tensor::new(&[[[[1f32, 5.0, -0.0, 0.0], [5.0, 5.0, 0.0, -1.0]]]], &Device::Cpu)?;
    let (y, places) = ops::max_pool2d(&x, 2)?;
    let dx = ops::max_pool2d_backward(&y.ones_like()?, &places, 2, [1, 1, 2, 4])?;
    assert_eq!(ops::to_f32(&dx)?, [0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    Ok(())
}

/// candle's own average pool has a right gradient only where the window divides the image.
fn average_pool(x: &Tensor, side: usize) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let x = x.narrow(2, 0, h / side * side)?.narrow(3, 0, w / side * side)?.contiguous()?;
    x.reshape(vec![n, c, h / side, side, w / side, side])?.mean(5)?.mean(3)
}

#[test]
fn average_pools() -> Result<()> {
    for (shape, side) in [
        ([3, 5, 11, 9], 2),
        ([2, 3, 6, 8], 2),
        ([2, 3, 8, 10], 3),
        ([1, 2, 5, 5], 5),
        ([1, 1, 3, 2], 1),
    ] {
        let case = format!("average pool {shape:?} by {side}");
        let x = uniform(1, shape.to_vec(), SIGNED)?;
        let y = ops::avg_pool2d(&x, side)?;
        let candle = x.to_dtype(DType::F64)?.avg_pool2d(side)?;
        let dy = uniform(2, candle.dims(), SIGNED)?;
        let dx = ops::avg_pool2d_backward(&dy, side, shape)?;
        check(&case, &y, &candle, &vec![2.0 * UNIT * (side * side) as f64; y.elem_count()])?;
        check_multilinear(&case, &[&y, &dx], (&[&x], &dy), side * side, |t| {
            average_pool(&t[0], side)
        })?;
    }
    for shape in [[3, 5, 11, 9], [1, 1, 1, 1], [5, 7, 1, 33]] {
        let (x, dy) =
            (uniform(1, shape.to_vec(), SIGNED)?, uniform(2, (shape[0], shape[1]), SIGNED)?);
        let y = ops::global_avg_pool(&x)?;
        let dx = ops::global_avg_pool_backward(&dy, shape)?;
        check_multilinear("global", &[&y, &dx], (&[&x], &dy), shape[2] * shape[3], |t| {
            t[0].mean((2, 3))
        })?;
    }
    Ok(())
}

/// Channel values as a C tensor brought to N × C × H × W.
fn spread(values: &Tensor) -> Result<Tensor> {
    values.reshape((1, values.elem_count(), 1, 1))
}

fn batch_norm_f64(t: &[Tensor]) -> Result<Tensor> {
    let mean = t[0].mean_keepdim((0, 2, 3))?;
    let centred = t[0].broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim((0, 2, 3))?;
    let normal = centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)?;
    normal.broadcast_mul(&spread(&t[1])?)?.broadcast_add(&spread(&t[2])?)
}

/// Every result is a few sums over N H W values divided by the deviation: bounded by that count times one rounding, times the
/// largest |x| in deviations (which subtracting the mean magnifies), times the size of the result.
#[test]
fn batch_norm() -> Result<()> {
    for shape in [[3, 5, 11, 9], [7, 3, 1, 1], [1, 2, 13, 5], [2, 1, 40, 31]] {
        let case = format!("batch norm {shape:?}");
        let (n, c, h, w) = (shape[0], shape[1], shape[2], shape[3]);
        let (x, dy) =
            (uniform(1, shape.to_vec(), (0.5, 2.0))?, uniform(2, shape.to_vec(), SIGNED)?);
        let (gamma, beta) = (uniform(3, c, (0.5, 1.5))?, uniform(4, c, SIGNED)?);
        let (y, saved, variance) = ops::batch_norm(&x, &gamma, &beta, ops::Then::Nothing)?;
        let gradients = ops::batch_norm_backward(&dy, &x, &gamma, &saved, None)?;
        let expected = autograd(&[&x, &gamma, &beta], &dy, batch_norm_f64)?;
        let wide = x.to_dtype(DType::F64)?;
        let spread_out = to_f64(&wide.transpose(0, 1)?.flatten_from(1)?.var(D::Minus1)?)?;
        let deviation = spread_out.iter().copied().fold(f64::INFINITY, f64::min).sqrt();
        let condition = (n * h * w) as f64 * 2.0 / deviation * UNIT;
        let results = [&y, &gradients.input, &gradients.gamma, &gradients.beta];
        for (i, (result, expected)) in results.into_iter().zip(&expected).enumerate() {
            let size = to_f64(expected)?.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
            let bound = vec![condition * size; result.elem_count()];
            check(&format!("{case}, output {i}"), result, expected, &bound)?;
        }
        let biased = (wide.transpose(0, 1)?.flatten_from(1)?.var(D::Minus1)?
            * ((n * h * w - 1) as f64 / (n * h * w) as f64))?;
        check(&case, &variance, &biased, &vec![condition; c])?;
        let BatchNormSaved { mean, .. } = saved;
        let means = wide.mean((0, 2, 3))?;
        check(&case, &mean, &means, &vec![condition; c])?;
    }
    Ok(())
}

#[test]
fn batch_norm_for_inference() -> Result<()> {
    let x = uniform(1, (3, 5, 11, 9), SIGNED)?;
    let (gamma, beta) = (uniform(2, 5, SIGNED)?, uniform(3, 5, SIGNED)?);
    let (mean, variance) = (uniform(4, 5, SIGNED)?, uniform(5, 5, (0.1, 2.0))?);
    let y = ops::batch_norm_inference(&x, (&mean, &variance), (&gamma, &beta), ops::Then::Nothing)?;
    let wide = |tensor: &Tensor| spread(&tensor.to_dtype(DType::F64)?);
    let deviation = (wide(&variance)? + 1e-5)?.sqrt()?;
    let factor = (wide(&gamma)? / deviation)?;
    let centred = x.to_dtype(DType::F64)?.broadcast_sub(&wide(&mean)?)?;
    let expected = centred.broadcast_mul(&factor)?.broadcast_add(&wide(&beta)?)?;
    let sizes = centred.broadcast_mul(&factor)?.abs()?.broadcast_add(&wide(&beta)?.abs()?)?;
    let bound: Vec<f64> = to_f64(&sizes)?.iter().map(|size| 8.0 * UNIT * size).collect();
    check("inference", &y, &expected, &bound)
}

/// The mask by its definition: value i is kept if word i mod 4 of block ⌊i/4⌋ is at least p 2³².
#[test]
fn dropout_keeps_what_the_generator_says() -> Result<()> {
    let pass = numbers(&[17])?;
    let random = RandomStream { seed: 0x0123_4567_89ab_cdef, stream: 3, pass };
    let x = uniform(1, 40_001, SIGNED)?;
    for p in [0.0_f32, 0.1, 0.5, 0.9] {
        let scale = 1.0 / (1.0 - p);
        let threshold = f64::from(p) * 2f64.powi(32);
        let expected: Vec<f32> = ops::to_f32(&x)?
            .into_iter()
            .enumerate()
            .map(|(i, x)| {
                let counter = [(i / 4) as u32, 0, 17, 3];
                let words = ops::philox4x32(counter, [0x89ab_cdef, 0x0123_4567]);
                if f64::from(words[i % 4]) >= threshold { x * scale } else { 0.0 }
            })
            .collect();
        assert_eq!(ops::to_f32(&ops::dropout(&x, p, &random)?)?, expected, "p = {p}");
        let kept = expected.iter().filter(|value| **value != 0.0).count() as f64;
        let (n, keep) = (40_001.0, 1.0 - f64::from(p));
        // Five standard deviations of a binomial count.
        assert!(
            (kept - n * keep).abs() <= 5.0 * (n * keep * (1.0 - keep)).sqrt(),
            "p = {p}: {kept}"
        );
    }
    Ok(())
}

/// The three passes of a step in which their number comes to the end of its word of the counter: 2³² − 1, 0 and 1.
#[test]
fn dropout_goes_on_where_the_number_of_passes_starts_again() -> Result<()> {
    let step = u64::from(u32::MAX) / 3;
    let random = RandomStream { seed: 9, stream: 2, pass: numbers(&[ops::first_pass(step, 3)])? };
    let ones = Tensor::ones(64, DType::F32, &Device::Cpu)?;
    for pass in [u32::MAX, 0, 1] {
        let kept = |i: u32| ops::philox4x32([i / 4, 0, pass, 2], [9, 0])[i as usize % 4] >= 1 << 31;
        let expected: Vec<f32> = (0..64).map(|i| if kept(i) { 2.0 } else { 0.0 }).collect();
        assert_eq!(ops::to_f32(&ops::dropout(&ones, 0.5, &random)?)?, expected, "pass {pass}");
        ops::next_pass(&random.pass)?;
    }
    Ok(())
}

#[test]
fn dropout_drops_other_values_for_other_steps_streams_and_seeds() -> Result<()> {
    let ones = Tensor::ones(4096, DType::F32, &Device::Cpu)?;
    let pass = numbers(&[0])?;
    let first = RandomStream { seed: 1, stream: 0, pass: pass.clone() };
    let mask = |random: &RandomStream| ops::to_f32(&ops::dropout(&ones, 0.5, random)?);
    let mut masks = [
        first.clone(),
        RandomStream { stream: 1, ..first.clone() },
        RandomStream { seed: 2, ..first.clone() },
        RandomStream { seed: 1 | 1 << 32, ..first.clone() },
    ]
    .iter()
    .map(mask)
    .collect::<Result<Vec<_>>>()?;
    ops::next_pass(&pass)?;
    masks.push(mask(&first)?);
    for (i, a) in masks.iter().enumerate() {
        for b in &masks[..i] {
            let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
            // Five standard deviations of 4096 throws of a coin around a half.
            assert!(same.abs_diff(2048) <= 160, "{same} of 4096 alike");
        }
    }
    Ok(())
}

/// Micro-batches share a step: each adds its mean over their number, and divides its gradient by it.
#[test]
fn micro_batches_share_the_loss() -> Result<()> {
    let logits = uniform(1, (5, 3), SIGNED)?;
    let labels = numbers(&[0, 2, 1, 0, 2])?;
    let scale = tensor(&[8.0], DType::F32)?;
    let of = |micro_batches| {
        let settings = LossSettings { smoothing: 0.0, micro_batches };
        ops::cross_entropy(&logits, &labels, settings, &scale)
    };
    let (whole, shared) = (of(1)?, of(4)?);
    let quarter = (whole.gradient / 4.0)?;
    assert_eq!(bits(&shared.gradient)?, bits(&quarter)?, "a power of two divides exactly");
    let loss = tensor(&[55.0], DType::F32)?;
    for index in 0..4 {
        ops::mean_loss(&shared.losses, 4, index == 0, &loss)?;
    }
    let mean = f64::from(ops::to_f32(&loss)?[0]);
    let losses = ops::to_f32(&whole.losses)?;
    let expected = losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / 5.0;
    assert!((mean - expected).abs() <= 16.0 * UNIT * expected, "{mean} {expected}");
    Ok(())
}

/// A difference is off by one rounding of values of up to 10 and 4, its square by as much of up to 400, their sum by the roundings
/// of a sum.
#[test]
fn squared_error() -> Result<()> {
    for (n, each) in [(7, 1), (1, 1), (33, 10), (5, 1001)] {
        for (scale, micro_batches) in [(1.0_f32, 1), (65536.0, 1), (0.25, 3)] {
            let case = format!("{n} × {each}, scale {scale}, {micro_batches} micro-batches");
            let outputs = uniform(1, (n, each), (-10.0, 10.0))?;
            let targets = uniform(2, (n, each), (-4.0, 4.0))?;
            let factor = tensor(&[scale], DType::F32)?;
            let result = ops::squared_error(&outputs, &targets, micro_batches, &factor)?;
            let loss = ops::zeros(1, &Device::Cpu)?;
            ops::mean_loss(&result.losses, 1, true, &loss)?;
            let wide = targets.to_dtype(DType::F64)?;
            let one = Tensor::full(1.0_f64, (), &Device::Cpu)?;
            let expected = autograd(&[&outputs], &one, |t| (&t[0] - &wide)?.sqr()?.mean_all())?;
            let rounding = UNIT * (each + n + 8) as f64;
            check(&case, &loss.squeeze(0)?, &expected[0], &[rounding * 400.0])?;
            let share = f64::from(scale) / micro_batches as f64;
            let bound = vec![8.0 * UNIT * 28.0 * share / (n * each) as f64; n * each];
            check(&case, &result.gradient, &(&expected[1] * share)?, &bound)?;
            let rows = ops::squared_error_loss(&outputs, &targets)?;
            assert_eq!(bits(&rows)?, bits(&result.losses)?, "{case}");
        }
    }
    Ok(())
}

#[test]
fn targets_of_another_shape_or_type_are_refused() -> Result<()> {
    let (outputs, scale) = (uniform(1, (2, 3), SIGNED)?, tensor(&[1.0], DType::F32)?);
    for targets in [
        uniform(2, (3, 2), SIGNED)?,
        uniform(2, (2, 1), SIGNED)?,
        uniform(2, 6, SIGNED)?,
        ops::cast(&uniform(2, (2, 3), SIGNED)?, DType::F16)?,
    ] {
        assert!(ops::squared_error(&outputs, &targets, 1, &scale).is_err(), "{targets:?}");
        assert!(ops::squared_error_loss(&outputs, &targets).is_err(), "{targets:?}");
    }
    Ok(())
}

#[test]
fn a_label_that_is_no_class_is_refused() -> Result<()> {
    let logits = uniform(1, (2, 3), SIGNED)?;
    for labels in [&[0, 3][..], &[0], &[0, 1, 2]] {
        assert!(ops::count_correct(&logits, &numbers(labels)?).is_err(), "{labels:?}");
        assert!(ops::cross_entropy_loss(&logits, &numbers(labels)?).is_err(), "{labels:?}");
    }
    Ok(())
}

/// The mean cross-entropy with smoothed labels, as Szegedy et al. 2016 define it.
fn smoothed_loss(logits: &Tensor, labels: &[u32], smoothing: f64) -> Result<Tensor> {
    let (n, classes) = logits.dims2()?;
    let log = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let target: Vec<f64> = (0..n * classes)
        .map(|i| {
            let hit = labels[i / classes] as usize == i % classes;
            smoothing / classes as f64 + if hit { 1.0 - smoothing } else { 0.0 }
        })
        .collect();
    let target = Tensor::from_vec(target, (n, classes), &Device::Cpu)?;
    (log * target)?.sum_all()?.neg()? / n as f64
}

/// A probability is an exponential (off by the roundings of its argument, of size 20 at most here) over a sum of C.
#[test]
fn cross_entropy() -> Result<()> {
    for (n, classes) in [(7, 13), (1, 2), (33, 10), (5, 1001), (3, 1)] {
        for (smoothing, scale) in [(0.0_f32, 1.0_f32), (0.1, 1.0), (0.0, 65536.0), (0.1, 0.25)] {
            let case = format!("{n} × {classes}, smoothing {smoothing}, scale {scale}");
            let logits = uniform(1, (n, classes), (-10.0, 10.0))?;
            let labels: Vec<u32> = (0..n as u32).map(|i| (i * 7 + 1) % classes as u32).collect();
            let settings = LossSettings { smoothing, micro_batches: 1 };
            let (at, factor) = (numbers(&labels)?, tensor(&[scale], DType::F32)?);
            let result = ops::cross_entropy(&logits, &at, settings, &factor)?;
            let loss = ops::zeros(1, &Device::Cpu)?;
            ops::mean_loss(&result.losses, 1, true, &loss)?;
            let dy = Tensor::full(f64::from(scale), (), &Device::Cpu)?;
            let expected =
                autograd(&[&logits], &dy, |t| smoothed_loss(&t[0], &labels, f64::from(smoothing)))?;
            let rounding = UNIT * (classes + 24) as f64;
            check(&case, &loss.squeeze(0)?, &expected[0], &[rounding * (20.0 + n as f64)])?;
            let bound = vec![rounding * f64::from(scale) / n as f64; n * classes];
            check(&case, &result.gradient, &expected[1], &bound)?;
            if smoothing == 0.0 {
                let rows = ops::cross_entropy_loss(&logits, &at)?;
                assert_eq!(bits(&rows)?, bits(&result.losses)?, "{case}");
            }
        }
    }
    Ok(())
}

/// ```python
/// import torch, torch.nn.functional as F; inf = float("inf")
/// x = torch.tensor([[1., -inf, 2.], [1, inf, 2], [-inf, -inf, -inf]])
/// for e in (0, .1): print(F.cross_entropy(x, torch.tensor([0, 0, 0]), reduction="none", label_smoothing=e))
/// # tensor([1.3133,    nan,    nan])
/// # tensor([   inf,    nan,    nan])
/// ```
#[test]
fn cross_entropy_of_infinite_logits() -> Result<()> {
    let inf = f32::INFINITY;
    for (row, plain, smoothed) in [
        ([1.0, -inf, 2.0], 1.313_261_7, inf),
        ([1.0, inf, 2.0], f32::NAN, f32::NAN),
        ([-inf, -inf, -inf], f32::NAN, f32::NAN),
        ([1.0, f32::NAN, 2.0], f32::NAN, f32::NAN),
        ([-3e38, 3e38, 0.0], inf, inf),
    ] {
        let logits = tensor(&row, DType::F32)?.reshape((1, 3))?;
        for (smoothing, expected) in [(0.0, plain), (0.1, smoothed)] {
            let settings = LossSettings { smoothing, micro_batches: 1 };
            let one = tensor(&[1.0], DType::F32)?;
            let losses = ops::cross_entropy(&logits, &numbers(&[0])?, settings, &one)?.losses;
            let loss = ops::to_f32(&losses)?[0];
            let same = loss == expected || (loss - expected).abs() < 1e-6;
            assert!(same || (loss.is_nan() && expected.is_nan()), "{row:?}: {loss} {expected}");
        }
    }
    Ok(())
}

#[test]
fn only_a_label_with_the_first_largest_logit_is_correct() -> Result<()> {
    let inf = f32::INFINITY;
    for (row, correct) in [
        ([1.0, 2.0, 0.0], [0, 1, 0]),
        ([2.0, 2.0, 0.0], [1, 0, 0]),
        ([-inf, -inf, -inf], [1, 0, 0]),
        ([inf, 1.0, inf], [1, 0, 0]),
        ([f32::NAN, 1.0, 0.0], [0, 0, 0]),
        ([0.0, 1.0, f32::NAN], [0, 0, 0]),
    ] {
        let logits = tensor(&row, DType::F32)?.reshape((1, 3))?;
        for (label, expected) in (0_u32..).zip(correct) {
            assert_eq!(
                ops::count_correct(&logits, &numbers(&[label])?)?,
                expected,
                "{row:?} {label}"
            );
        }
    }
    Ok(())
}

/// The rule of step `t`, counted from 1.
fn at_step(rule: Update, t: i32) -> Update {
    match rule {
        Update::Sgd(_) => rule,
        Update::AdamW(adam) => Update::AdamW(AdamW {
            correction1: (1.0 / (1.0 - f64::from(adam.beta1).powi(t))) as f32,
            correction2: (1.0 / (1.0 - f64::from(adam.beta2).powi(t)).sqrt()) as f32,
            ..adam
        }),
    }
}

/// Step `t` on one weight, as `PyTorch`'s pages on `torch.optim.SGD` and `torch.optim.AdamW` write it, in f64. The states are
/// b, or m and v.
fn documented_step(rule: Update, t: i32, (w, g): (f64, f64), state: &mut [f64; 2]) -> f64 {
    match rule {
        Update::Sgd(Sgd { lr, momentum, nesterov, weight_decay }) => {
            let (lr, momentum) = (f64::from(lr), f64::from(momentum));
            let mut g = g + f64::from(weight_decay) * w;
            if momentum != 0.0 {
                state[0] = if t > 1 { momentum * state[0] + g } else { g };
                g = if nesterov { g + momentum * state[0] } else { state[0] };
            }
            w - lr * g
        }
        Update::AdamW(AdamW { lr, beta1, beta2, eps, weight_decay, .. }) => {
            let [lr, beta1, beta2, eps, decay] =
                [lr, beta1, beta2, eps, weight_decay].map(f64::from);
            let w = w - lr * decay * w;
            state[0] = beta1 * state[0] + (1.0 - beta1) * g;
            state[1] = beta2 * state[1] + (1.0 - beta2) * g * g;
            let first = state[0] / (1.0 - beta1.powi(t));
            let second = state[1] / (1.0 - beta2.powi(t));
            w - lr * first / (second.sqrt() + eps)
        }
    }
}

fn sgd(momentum: f32, nesterov: bool, weight_decay: f32) -> Update {
    Update::Sgd(Sgd { lr: 0.1, momentum, nesterov, weight_decay })
}

fn adam_w((beta1, beta2): (f32, f32), eps: f32, weight_decay: f32) -> Update {
    let (correction1, correction2) = (1.0, 1.0);
    Update::AdamW(AdamW { lr: 0.1, beta1, beta2, eps, weight_decay, correction1, correction2 })
}

/// The weights after one update with each of `gradients`, which come scaled by 1024 and are clipped by a half.
fn updated(rule: Update, weights: &[f32], gradients: &[Vec<f32>]) -> Result<Vec<f32>> {
    let weights = tensor(weights, DType::F32)?;
    let (first, second) = (weights.zeros_like()?, weights.zeros_like()?);
    let has_first = !matches!(rule, Update::Sgd(Sgd { momentum: 0.0, .. }));
    let conversion =
        Conversion { unscale: 1.0 / 1024.0, clip: 0.5, params: Format::F32, compute: Format::F32 };
    for (gradient, t) in gradients.iter().zip(1..) {
        let scaled: Vec<f32> = gradient.iter().map(|g| g * 2048.0).collect();
        let tensors = UpdateTensors {
            weights: &weights,
            copy: None,
            gradient: &tensor(&scaled, DType::F32)?,
            first: has_first.then_some(&first),
            second: matches!(rule, Update::AdamW(_)).then_some(&second),
            delta: None,
        };
        ops::update(at_step(rule, t), tensors, conversion)?;
    }
    ops::to_f32(&weights)
}

/// Five steps of a dozen roundings each, of numbers below 16.
const UPDATE_TOLERANCE: f64 = 5.0 * 12.0 * 16.0 * UNIT;

/// ```python
/// import torch
/// g = [[1., -2., 0.5], [0.25, 1., -3.], [-1., 0.125, 2.], [0., -0.5, 1.], [3., 0.75, -0.25]]
/// def run(make):
///     w = torch.tensor([1., -0.5, 2.], dtype=torch.float64, requires_grad=True)
///     o = make([w])
///     for row in g:
///         w.grad = torch.tensor(row, dtype=torch.float64); o.step()
///     print([float(f"{v:.9g}") for v in w.tolist()])
/// run(lambda p: torch.optim.SGD(p, lr=.1))
/// run(lambda p: torch.optim.SGD(p, lr=.1, momentum=.9))
/// run(lambda p: torch.optim.SGD(p, lr=.1, momentum=.9, weight_decay=.01))
/// run(lambda p: torch.optim.SGD(p, lr=.1, momentum=.9, nesterov=True, weight_decay=.01))
/// run(lambda p: torch.optim.AdamW(p, lr=.1, betas=(.9, .999), eps=1e-8, weight_decay=0.))
/// run(lambda p: torch.optim.AdamW(p, lr=.1, betas=(.8, .95), eps=1e-3, weight_decay=.05))
/// ```
#[test]
fn updates_end_where_pytorch_ends() -> Result<()> {
    let gradients = [
        vec![1.0, -2.0, 0.5],
        vec![0.25, 1.0, -3.0],
        vec![-1.0, 0.125, 2.0],
        vec![0.0, -0.5, 1.0],
        vec![3.0, 0.75, -0.25],
    ];
    for (rule, expected) in [
        (sgd(0.0, false, 0.0), [0.675, -0.4375, 1.975]),
        (sgd(0.9, false, 0.0), [0.475_515, -0.038_755, 2.119_945]),
        (sgd(0.9, false, 0.01), [0.463_963_293, -0.034_729_932_1, 2.092_729_12]),
        (sgd(0.9, true, 0.01), [0.189_094_849, -0.018_836_768, 2.047_438_36]),
        (adam_w((0.9, 0.999), 1e-8, 0.0), [0.764_426_1, -0.326_002_339, 1.950_320_07]),
        (adam_w((0.8, 0.95), 1e-3, 0.05), [0.755_763_374, -0.337_157_069, 1.893_892_91]),
    ] {
        let weights = updated(rule, &[1.0, -0.5, 2.0], &gradients)?;
        let bound = [UPDATE_TOLERANCE; 3];
        check(
            &format!("{rule:?}"),
            &tensor(&weights, DType::F32)?,
            &Tensor::new(&expected, &Device::Cpu)?,
            &bound,
        )?;
    }
    Ok(())
}

#[test]
fn updates_of_many_weights_follow_the_documented_formulas() -> Result<()> {
    const WEIGHTS: usize = 40_001;
    let start = ops::to_f32(&uniform(1, WEIGHTS, SIGNED)?)?;
    let gradients: Vec<Vec<f32>> =
        (2..7).map(|seed| ops::to_f32(&uniform(seed, WEIGHTS, SIGNED)?)).collect::<Result<_>>()?;
    for rule in [
        sgd(0.0, false, 0.01),
        sgd(0.0, true, 0.0),
        sgd(0.9, true, 0.0),
        sgd(0.9, false, 0.1),
        adam_w((0.9, 0.999), 1e-8, 0.01),
        adam_w((0.5, 0.9), 0.1, 0.5),
    ] {
        let weights = updated(rule, &start, &gradients)?;
        for i in 0..WEIGHTS {
            let (mut w, mut state) = (f64::from(start[i]), [0.0; 2]);
            for (gradient, t) in gradients.iter().zip(1..) {
                w = documented_step(rule, t, (w, f64::from(gradient[i])), &mut state);
            }
            let error = (f64::from(weights[i]) - w).abs();
            assert!(error <= UPDATE_TOLERANCE, "{rule:?} [{i}]: {} {w}", weights[i]);
        }
    }
    Ok(())
}
