//! The operations on sequences: values and gradients against candle's autograd on F64 tensors, native results against wide ones, and
//! special values. Tolerances are bounds on rounding, as in `ops_gradients`.

#![expect(clippy::many_single_char_names, reason = "the letters of the formulas")]

mod ops_support;
#[path = "ops_support/oracle.rs"]
mod oracle;
#[path = "ops_support/rounded.rs"]
mod rounded;

use candle_core::{D, DType, Device, Result, Tensor};
use mantissa::ops::{self, EmbeddingTables, RopeSettings};
use ops_support::{UNIT, bits, numbers, tensor, uniform};
use oracle::{autograd, check, check_multilinear, to_f64};
use rounded::{Results, check_rounded};

const SIGNED: (f32, f32) = (-2.0, 2.0);

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Ids below `rows`, of which some occur often and some never.
fn ids(seed: u32, (n, t): (usize, usize), rows: u32) -> Result<Tensor> {
    let ids = (0..(n * t) as u32).map(|i| {
        let mixed = (i + 1).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8;
        (mixed % rows) & !1 & (mixed >> 12 | 0xff)
    });
    numbers(&ids.collect::<Vec<_>>())?.reshape((n, t))
}

/// The sum of the rows that an embedding takes, as candle takes them.
fn embedding_f64(t: &[Tensor], ids: [&Tensor; 2]) -> Result<Tensor> {
    let (n, length) = ids[0].dims2()?;
    let width = t[0].dim(1)?;
    let rows = |table: &Tensor, ids: &Tensor| {
        table.index_select(&ids.flatten_all()?, 0)?.reshape((n, length, width))
    };
    let sum = rows(&t[0], ids[0])?.broadcast_add(&t[1].narrow(0, 0, length)?)?;
    sum + rows(&t[2], ids[1])?
}

#[test]
fn embeddings() -> Result<()> {
    for (n, length, rows, width) in
        [(1, 1, 1, 1), (3, 5, 11, 7), (33, 20, 300, 65), (2, 70, 2, 300)]
    {
        let case = format!("{n} × {length} ids, {rows} × {width}");
        let (at, kinds) = (ids(1, (n, length), rows as u32)?, ids(2, (n, length), 2)?);
        let (tokens, types) = (uniform(1, (rows, width), SIGNED)?, uniform(3, (2, width), SIGNED)?);
        let positions = uniform(2, (length + 3, width), SIGNED)?;
        let tables = EmbeddingTables {
            tokens: &tokens,
            positions: Some(&positions),
            types: Some((&kinds, &types)),
        };
        let y = ops::embedding(&at, &tables)?;
        let dy = uniform(4, (n, length, width), SIGNED)?;
        let dtokens = ops::embedding_backward(&dy, &at, rows)?;
        let dpositions = ops::position_backward(&dy, length + 3)?;
        let dtypes = ops::embedding_backward(&dy, &kinds, 2)?;
        check_multilinear(
            &case,
            &[&y, &dtokens, &dpositions, &dtypes],
            (&[&tokens, &positions, &types], &dy),
            n * length,
            |t| embedding_f64(t, [&at, &kinds]),
        )?;
        // Alone, the rows of a table are as they are.
        let tables = EmbeddingTables { tokens: &tokens, positions: None, types: None };
        let rows = tokens.index_select(&at.flatten_all()?, 0)?.reshape((n, length, width))?;
        assert_eq!(bits(&ops::embedding(&at, &tables)?)?, bits(&rows)?, "{case}");
    }
    Ok(())
}

#[test]
fn an_id_without_a_row_is_named() -> Result<()> {
    let table = uniform(1, (4, 3), SIGNED)?;
    let at = numbers(&[0, 1, 2, 3, 4, 0])?.reshape((2, 3))?;
    let tables = EmbeddingTables { tokens: &table, positions: None, types: None };
    let expected =
        "id 4 at position 1 of sequence 1 is not below 4, the number of the table's rows";
    let dy = uniform(2, (2, 3, 3), SIGNED)?;
    for error in [ops::embedding(&at, &tables), ops::embedding_backward(&dy, &at, 4)] {
        let text = error.unwrap_err().to_string();
        assert_eq!(text.lines().next(), Some(expected));
    }
    let short = uniform(1, (2, 3), SIGNED)?;
    let tables = EmbeddingTables { positions: Some(&short), ..tables };
    let text = ops::embedding(&(at * 0.0)?, &tables).unwrap_err().to_string();
    let expected = "a sequence of 3 has more positions than the table's 2 rows";
    assert_eq!(text.lines().next(), Some(expected));
    Ok(())
}

fn layer_norm_f64(t: &[Tensor], epsilon: f64) -> Result<Tensor> {
    let centred = t[0].broadcast_sub(&t[0].mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    normal.broadcast_mul(&t[1])?.broadcast_add(&t[2])
}

fn rms_norm_f64(t: &[Tensor], epsilon: f64) -> Result<Tensor> {
    let square = t[0].sqr()?.mean_keepdim(D::Minus1)?;
    t[0].broadcast_div(&(square + epsilon)?.sqrt()?)?.broadcast_mul(&t[1])
}

/// Every result is a few sums over D values, or over the rows, divided by the deviation: bounded by the longer count times one
/// rounding, times the largest |x| in deviations, times the size of the result.
#[test]
fn layer_and_rms_norms() -> Result<()> {
    for shape in [vec![3, 5, 11], vec![1, 2], vec![40, 130], vec![2, 20, 300]] {
        let width = shape[shape.len() - 1];
        let epsilon = 1e-3_f32;
        let x = uniform(1, shape.clone(), (0.5, 2.0))?;
        let dy = uniform(2, shape.clone(), SIGNED)?;
        let (gamma, beta) = (uniform(3, width, (0.5, 1.5))?, uniform(4, width, SIGNED)?);
        let variances = to_f64(&x.to_dtype(DType::F64)?.var(D::Minus1)?)?;
        let least = variances.iter().copied().fold(f64::INFINITY, f64::min);
        let condition = (width.max(x.elem_count() / width) + 16) as f64 * 2.0 * UNIT;
        let check_all = |case: &str, results: &[&Tensor], expected: &[Tensor], deviation: f64| {
            for (i, (result, expected)) in results.iter().zip(expected).enumerate() {
                let size = to_f64(expected)?.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
                let bound = vec![condition / deviation * size; result.elem_count()];
                check(&format!("{case} {shape:?}, output {i}"), result, expected, &bound)?;
            }
            assert_eq!(results.len(), expected.len());
            Result::Ok(())
        };
        let (y, saved) = ops::layer_norm(&x, &gamma, &beta, epsilon)?;
        let gradients = ops::layer_norm_backward(&dy, &x, &gamma, &saved)?;
        let expected = autograd(&[&x, &gamma, &beta], &dy, |t| layer_norm_f64(t, 1e-3_f32.into()))?;
        let results = [&y, &gradients.input, &gradients.gamma, &gradients.beta];
        let deviation = (least * (width - 1) as f64 / width as f64 + 1e-3).sqrt();
        check_all("layer norm", &results, &expected, deviation * deviation)?;
        let (y, inverse) = ops::rms_norm(&x, &gamma, epsilon)?;
        let gradients = ops::rms_norm_backward(&dy, &x, &gamma, &inverse)?;
        let expected = autograd(&[&x, &gamma], &dy, |t| rms_norm_f64(t, 1e-3_f32.into()))?;
        check_all("RMS norm", &[&y, &gradients.input, &gradients.gamma], &expected, 0.5)?;
    }
    Ok(())
}

/// A row of equal values has no deviation: ε alone keeps the result finite. Squares beyond f16 do not overflow.
#[test]
fn norms_of_special_rows() -> Result<()> {
    for dtype in TYPES {
        let (gamma, beta) = (tensor(&[2.0; 4], dtype)?, tensor(&[0.5; 4], dtype)?);
        let x = tensor(&[3.0, 3.0, 3.0, 3.0, 60000.0, -60000.0, 60000.0, -60000.0], dtype)?;
        let x = x.reshape((2, 4))?;
        let (y, saved) = ops::layer_norm(&x, &gamma, &beta, 1e-5)?;
        let expected = [0.5, 0.5, 0.5, 0.5, 2.5, -1.5, 2.5, -1.5];
        assert_eq!(ops::to_f32(&y)?, expected, "{dtype:?}");
        assert_eq!(ops::to_f32(&saved.mean)?, [3.0, 0.0]);
        let (y, _) = ops::rms_norm(&x, &gamma, 0.0)?;
        assert_eq!(ops::to_f32(&y)?, [2.0, 2.0, 2.0, 2.0, 2.0, -2.0, 2.0, -2.0], "{dtype:?}");
        let (y, _) = ops::rms_norm(&x.zeros_like()?, &gamma, 1e-5)?;
        assert_eq!(ops::to_f32(&y)?, [0.0; 8], "{dtype:?}");
        let mut values = vec![1.0; 8];
        values[2] = f32::NAN;
        let (y, _) =
            ops::layer_norm(&tensor(&values, dtype)?.reshape((2, 4))?, &gamma, &beta, 1e-5)?;
        let y = ops::to_f32(&y)?;
        assert!(y[..4].iter().all(|y| y.is_nan()) && y[4..] == [0.5; 4], "{y:?}");
    }
    assert!(
        ops::layer_norm(
            &tensor(&[1.0; 6], DType::F32)?.reshape((2, 3))?,
            &tensor(&[1.0; 2], DType::F32)?,
            &tensor(&[1.0; 3], DType::F32)?,
            1e-5
        )
        .is_err()
    );
    Ok(())
}

/// The rotation by its definition, with angles in f64.
fn rope_f64(x: &Tensor, settings: RopeSettings) -> Result<Tensor> {
    let RopeSettings { width, base, offset } = settings;
    let (n, length, all) = x.dims3()?;
    let half = width / 2;
    let angle =
        |i: usize| (offset + i / half) as f64 / base.powf(2.0 * (i % half) as f64 / width as f64);
    let of_angles = |f: fn(f64) -> f64| {
        let values: Vec<f64> = (0..length * half).map(|i| f(angle(i))).collect();
        Tensor::from_vec(values, (1, length, 1, half), &Device::Cpu)
    };
    let (cos, sin) = (of_angles(f64::cos)?, of_angles(f64::sin)?);
    let x = x.reshape((n, length, all / width, width))?;
    let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 3)?.reshape((n, length, all))
}

/// A result is the sum of two products of a number of up to 2 and a rounded one of up to 1.
#[test]
fn rotary_positions() -> Result<()> {
    for (n, length, heads, width, base, offset) in
        [(1, 1, 1, 2, 10_000.0, 0), (3, 17, 4, 6, 10_000.0, 5), (2, 40, 2, 64, 500_000.0, 100_000)]
    {
        let settings = RopeSettings { width, base, offset };
        let shape = (n, length, heads * width);
        let (x, dy) = (uniform(1, shape, SIGNED)?, uniform(2, shape, SIGNED)?);
        let table = ops::rope_table(length, settings, &Device::Cpu)?;
        let (y, dx) = (ops::rope(&x, &table)?, ops::rope_backward(&dy, &table)?);
        let expected = autograd(&[&x], &dy, |t| rope_f64(&t[0], settings))?;
        let bound = vec![4.0 * UNIT * 4.0; y.elem_count()];
        check("rope", &y, &expected[0], &bound)?;
        check("rope's gradient", &dx, &expected[1], &bound)?;
    }
    Ok(())
}

/// The definition by hand, at position 2 with θ = 10⁴ and d = 4: pairs (1, 3) and (2, 4) are turned by 2 and by 0.02. Were neighbours
/// pairs, it would be (1, 2) and (3, 4).
#[test]
fn rotary_pairs_are_half_a_head_apart() -> Result<()> {
    let settings = RopeSettings { width: 4, base: 10_000.0, offset: 2 };
    let x = tensor(&[1.0, 2.0, 3.0, 4.0], DType::F32)?.reshape((1, 1, 4))?;
    let y = ops::to_f32(&ops::rope(&x, &ops::rope_table(1, settings, &Device::Cpu)?)?)?;
    let (c, s, a, b) = (2f64.cos(), 2f64.sin(), 0.02f64.cos(), 0.02f64.sin());
    let expected = [c - 3.0 * s, 2.0 * a - 4.0 * b, 3.0 * c + s, 4.0 * a + 2.0 * b];
    for (y, expected) in y.iter().zip(expected) {
        assert!((f64::from(*y) - expected).abs() < 1e-6, "{y} {expected}");
    }
    for (width, base) in [(3, 1e4), (0, 1e4), (4, 0.0), (4, f64::NAN), (4, f64::INFINITY)] {
        let settings = RopeSettings { width, base, offset: 0 };
        assert!(ops::rope_table(2, settings, &Device::Cpu).is_err(), "{width} {base}");
    }
    let table = ops::rope_table(1, settings, &Device::Cpu)?;
    assert!(ops::rope(&uniform(1, (1, 1, 6), SIGNED)?, &table).is_err());
    assert!(ops::rope(&uniform(1, (1, 2, 4), SIGNED)?, &table).is_err());
    Ok(())
}

/// The exponential is off by two roundings, and each operation adds one.
#[test]
fn swiglu() -> Result<()> {
    let shape = (7, 13, 15);
    let (gate, up) = (uniform(1, shape, (-12.0, 12.0))?, uniform(2, shape, SIGNED)?);
    let dy = uniform(3, shape, SIGNED)?;
    let y = ops::swiglu(&gate, &up)?;
    let (dgate, dup) = ops::swiglu_backward(&dy, &gate, &up)?;
    let expected = autograd(&[&gate, &up], &dy, |t| {
        ((&t[0] / (t[0].neg()?.exp()? + 1.0)?)? * &t[1])?.contiguous()
    })?;
    let inputs = to_f64(&gate)?.into_iter().zip(to_f64(&up)?).zip(to_f64(&dy)?);
    let mut bounds = [vec![], vec![], vec![]];
    for ((gate, up), dy) in inputs {
        let share = 1.0 / (1.0 + (-gate).exp());
        let slope = share + gate.abs() * share * (1.0 - share);
        let sizes = [(gate * share * up).abs(), (dy * up).abs() * slope, (dy * gate * share).abs()];
        for (bounds, size) in bounds.iter_mut().zip(sizes) {
            bounds.push(16.0 * UNIT * size);
        }
    }
    for (i, result) in [&y, &dgate, &dup].into_iter().enumerate() {
        check(&format!("swiglu, output {i}"), result, &expected[i], &bounds[i])?;
    }
    Ok(())
}

/// x / (1 + e⁻ˣ) and its slope where e⁻ˣ is 0, infinite, or a result is subnormal. At −∞ it is −∞ / ∞.
#[test]
fn swiglu_far_out() -> Result<()> {
    let gate = tensor(&[-1e30, 0.0, 1e30, f32::INFINITY, f32::NEG_INFINITY], DType::F32)?;
    let ones = tensor(&[1.0; 5], DType::F32)?;
    let y = ops::to_f32(&ops::swiglu(&gate, &ones)?)?;
    assert_eq!(y[..4], [0.0, 0.0, 1e30, f32::INFINITY]);
    assert!(y[4].is_nan());
    let (dgate, _) = ops::swiglu_backward(&ones, &gate, &ones)?;
    assert_eq!(ops::to_f32(&dgate)?, [0.0, 0.5, 1.0, 1.0, 0.0]);
    // Python: -95 / (1 + math.exp(95)) == -5.245028163177106e-40, a subnormal number of f32.
    let low =
        ops::to_f32(&ops::swiglu(&tensor(&[-95.0], DType::F32)?, &tensor(&[1.0], DType::F32)?)?)?;
    let exact = -95.0 / (1.0 + 95f64.exp());
    assert!((f64::from(low[0]) / exact - 1.0).abs() < 1e-3, "{low:?} {exact:e}");
    Ok(())
}

/// The mean of the positions before each length.
fn mean_pool_f64(x: &Tensor, lengths: &[u32]) -> Result<Tensor> {
    let (n, positions, _) = x.dims3()?;
    let shares = (0..n * positions).map(|i| {
        let length = lengths[i / positions];
        if i % positions < length as usize { 1.0 / f64::from(length) } else { 0.0 }
    });
    let shares = Tensor::from_iter(shares, &Device::Cpu)?.reshape((n, positions, 1))?;
    x.broadcast_mul(&shares)?.sum(1)
}

#[test]
fn pools_of_sequences() -> Result<()> {
    for (lengths, positions, width) in
        [(vec![1], 1, 1), (vec![3, 7, 0, 1], 7, 5), (vec![40, 33], 40, 300)]
    {
        let n = lengths.len();
        let (x, dy) = (uniform(1, (n, positions, width), SIGNED)?, uniform(2, (n, width), SIGNED)?);
        let there = numbers(&lengths)?;
        let y = ops::mean_pool(&x, Some(&there))?;
        let dx = ops::mean_pool_backward(&dy, Some(&there), positions)?;
        let case = format!("mean of {lengths:?}");
        check_multilinear(&case, &[&y, &dx], (&[&x], &dy), positions, |t| {
            mean_pool_f64(&t[0], &lengths)
        })?;
        let whole = numbers(&vec![positions as u32; n])?;
        let y = ops::mean_pool(&x, None)?;
        assert_eq!(bits(&y)?, bits(&ops::mean_pool(&x, Some(&whole))?)?);
        let dx = ops::mean_pool_backward(&dy, None, positions)?;
        assert_eq!(bits(&dx)?, bits(&ops::mean_pool_backward(&dy, Some(&whole), positions)?)?);
        let results = [&ops::first_token(&x)?, &ops::first_token_backward(&dy, positions)?];
        let expected = autograd(&[&x], &dy, |t| t[0].narrow(1, 0, 1)?.squeeze(1))?;
        for (result, expected) in results.into_iter().zip(&expected) {
            check("first token", result, expected, &vec![0.0; result.elem_count()])?;
        }
    }
    let x = uniform(1, (2, 3, 1), SIGNED)?;
    assert!(ops::mean_pool(&x, Some(&numbers(&[3, 4])?)).is_err());
    assert!(ops::mean_pool(&x, Some(&numbers(&[3])?)).is_err());
    Ok(())
}

/// What is behind the end of a sequence does not reach its mean.
#[test]
fn positions_that_are_not_there_are_not_read() -> Result<()> {
    let x = tensor(&[1.0, 3.0, f32::NAN, f32::INFINITY], DType::F32)?.reshape((1, 4, 1))?;
    assert_eq!(ops::to_f32(&ops::mean_pool(&x, Some(&numbers(&[2])?))?)?, [2.0]);
    Ok(())
}

/// Numbers of a type, up to `size`.
fn drawn(dtype: DType, seed: u64, shape: &[usize], size: f32) -> Result<Tensor> {
    ops::cast(&uniform(seed, shape.to_vec(), (-size, size))?, dtype)
}

/// Every operation here, on operands that `draw` makes from a seed, a shape and a size.
fn everything(
    draw: &dyn Fn(u64, &[usize], f32) -> Result<Tensor>,
    [a, b]: [f32; 2],
) -> Result<Results> {
    let mut results = vec![];
    let mut keep = |name: &str, tensor: Tensor| results.push((name.to_owned(), tensor));
    let (x, dy) = (draw(1, &[3, 37, 66], a)?, draw(2, &[3, 37, 66], b)?);
    let (gamma, beta) = (draw(3, &[66], a)?, draw(4, &[66], b)?);
    let at = ids(1, (3, 37), 50)?;
    let tables = EmbeddingTables {
        tokens: &draw(5, &[50, 66], a)?,
        positions: Some(&draw(6, &[37, 66], b)?),
        types: Some((&ids(2, (3, 37), 2)?, &draw(7, &[2, 66], b)?)),
    };
    keep("embedding", ops::embedding(&at, &tables)?);
    keep("embedding, dtable", ops::embedding_backward(&dy, &at, 50)?);
    keep("embedding, dpositions", ops::position_backward(&dy, 40)?);
    let (y, saved) = ops::layer_norm(&x, &gamma, &beta, 1e-5)?;
    keep("layer norm", y);
    let gradients = ops::layer_norm_backward(&dy, &x, &gamma, &saved)?;
    keep("layer norm, dx", gradients.input);
    keep("layer norm, dgamma", gradients.gamma);
    keep("layer norm, dbeta", gradients.beta);
    let (y, inverse) = ops::rms_norm(&x, &gamma, 1e-5)?;
    keep("RMS norm", y);
    let gradients = ops::rms_norm_backward(&dy, &x, &gamma, &inverse)?;
    keep("RMS norm, dx", gradients.input);
    keep("RMS norm, dgamma", gradients.gamma);
    let settings = RopeSettings { width: 22, base: 1e4, offset: 3 };
    let table = ops::rope_table(37, settings, &Device::Cpu)?;
    keep("rope", ops::rope(&x, &table)?);
    keep("rope, dx", ops::rope_backward(&dy, &table)?);
    keep("swiglu", ops::swiglu(&x, &dy)?);
    let (dgate, dup) = ops::swiglu_backward(&dy, &x, &dy)?;
    keep("swiglu, dgate", dgate);
    keep("swiglu, dup", dup);
    let lengths = numbers(&[37, 0, 20])?;
    keep("mean pool", ops::mean_pool(&x, Some(&lengths))?);
    let dy = draw(8, &[3, 66], b)?;
    keep("mean pool, dx", ops::mean_pool_backward(&dy, Some(&lengths), 37)?);
    keep("first token, dx", ops::first_token_backward(&dy, 37)?);
    keep("first token", ops::first_token(&x)?);
    Ok(results)
}

#[test]
fn operations_round_once() -> Result<()> {
    for dtype in [DType::F16, DType::BF16] {
        // Ordinary numbers; squares and sums beyond f16; f16's subnormals; numbers that bf16 alone holds.
        for sizes in [[2.0, 2.0], [6e4, 6e4], [3e-6, 3e-6], [6e4, 1e-6], [1e30, 1e-30]] {
            let native = everything(&|seed, shape, size| drawn(dtype, seed, shape, size), sizes)?;
            let wide = everything(
                &|seed, shape, size| ops::cast(&drawn(dtype, seed, shape, size)?, DType::F32),
                sizes,
            )?;
            check_rounded(&native, &wide, dtype, 0)?;
        }
    }
    Ok(())
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() -> Result<()> {
    for dtype in TYPES {
        let run = || {
            let results =
                everything(&|seed, shape, size| drawn(dtype, seed, shape, size), [2.0; 2])?;
            results.into_iter().map(|(_, tensor)| bits(&tensor)).collect::<Result<Vec<_>>>()
        };
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(run)
        };
        let alone = on(1)?;
        assert!(alone == on(2)? && alone == on(3)?, "{dtype:?}");
    }
    Ok(())
}
