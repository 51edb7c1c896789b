//! Attention: values and gradients against candle's autograd on F64 tensors, native results against wide ones, and what masks leave out.

#![expect(clippy::float_cmp, reason = "what is exact is compared exactly")]
#![expect(clippy::many_single_char_names, reason = "the letters of the formulas")]

mod ops_support;
#[path = "ops_support/oracle.rs"]
mod oracle;

use candle_core::{D, DType, Device, IndexOp as _, Result, Tensor};
use mantissa::ops::{
    self, AttentionDropout, AttentionGradients, AttentionMasks, AttentionSettings, RandomStream,
};
use mantissa::precision::Format;
use ops_support::{UNIT, bits, numbers, tensor, uniform};
use oracle::{autograd, check, to_f64};

/// Storage types, formats, and half the distance from 1 to the next value of the format.
const NATIVE: [(DType, Format, f64); 3] = [
    (DType::F32, Format::F32, UNIT),
    (DType::F16, Format::F16, 1.0 / 2048.0),
    (DType::BF16, Format::BF16, 1.0 / 256.0),
];

/// Sequences, queries, keys, heads, heads of keys, and values of a head.
#[derive(Clone, Copy, Debug)]
struct Case {
    n: usize,
    t: usize,
    s: usize,
    heads: usize,
    kv_heads: usize,
    d: usize,
}

const CASES: [[usize; 6]; 9] = [
    [1, 1, 1, 1, 1, 1],
    [2, 5, 7, 2, 1, 3],
    [3, 7, 5, 2, 2, 4],
    [1, 97, 130, 2, 2, 8],
    [2, 200, 65, 4, 2, 20],
    [1, 64, 64, 1, 1, 64],
    [1, 3, 140, 3, 1, 260],
    [2, 193, 193, 2, 2, 12],
    [3, 1, 150, 4, 2, 20],
];

impl Case {
    fn of([n, t, s, heads, kv_heads, d]: [usize; 6]) -> Self {
        Self { n, t, s, heads, kv_heads, d }
    }

    fn settings(self, causal: bool, format: Format) -> AttentionSettings {
        AttentionSettings { heads: self.heads, kv_heads: self.kv_heads, causal, format }
    }

    /// q, k, v and dy of a type.
    fn operands(self, dtype: DType) -> Result<[Tensor; 4]> {
        let Self { n, t, s, heads, kv_heads, d } = self;
        let draw = |seed, shape| ops::cast(&uniform(seed, shape, (-1.0, 1.0))?, dtype);
        let (of_q, of_k) = ((n, t, heads * d), (n, s, kv_heads * d));
        Ok([draw(1, of_q)?, draw(2, of_k)?, draw(3, of_k)?, draw(4, of_q)?])
    }

    /// Lengths from none of the keys to all.
    fn lengths(self) -> Vec<u32> {
        (0..self.n).map(|i| ((self.s * (self.n - i)) / self.n.max(2)) as u32).collect()
    }

    /// 1 where a query sees a key, 0 elsewhere: N × 1 × T × S.
    fn visible(self, lengths: Option<&[u32]>, causal: bool) -> Result<Tensor> {
        let Self { n, t, s, .. } = self;
        let values = (0..n * t * s).map(|i| {
            let (sequence, query, key) = (i / (t * s), i / s % t, i % s);
            let is_there = lengths.is_none_or(|lengths| key < lengths[sequence] as usize);
            f64::from(u8::from(is_there && (!causal || key + t <= query + s)))
        });
        Tensor::from_iter(values, &Device::Cpu)?.reshape((n, 1, t, s))
    }

    /// N × T × (H d) as N × H × T × d, each head of keys as often as queries see it.
    fn split(self, x: &Tensor) -> Result<Tensor> {
        let (n, rows, all) = x.dims3()?;
        let heads = all / self.d;
        let x = x.reshape((n, rows, heads, self.d))?.transpose(1, 2)?.contiguous()?;
        let times = self.heads / heads;
        let x = x.unsqueeze(2)?.broadcast_as((n, heads, times, rows, self.d))?.contiguous()?;
        x.reshape((n, self.heads, rows, self.d))
    }

    fn join(self, x: &Tensor) -> Result<Tensor> {
        x.transpose(1, 2)?.contiguous()?.reshape((self.n, self.t, self.heads * self.d))
    }

    /// Scores, probabilities, and the logarithms of the sums of exponentials; 0 and 0 of queries that see nothing.
    fn softmax(self, q: &Tensor, k: &Tensor, visible: &Tensor) -> Result<[Tensor; 3]> {
        let scale = 1.0 / (self.d as f64).sqrt();
        let scores = (self.split(q)?.matmul(&self.split(k)?.t()?.contiguous()?)? * scale)?;
        let least = ((visible - 1.0)? * 1e9)?;
        let largest = scores.broadcast_add(&least)?.max_keepdim(D::Minus1)?.detach();
        // 0 for a query that sees nothing.
        let largest = (&largest * largest.ge(-1e6)?.to_dtype(DType::F64)?)?;
        let weights = scores.broadcast_sub(&largest)?.exp()?.broadcast_mul(visible)?;
        let sum = weights.sum_keepdim(D::Minus1)?;
        let none = sum.eq(0.0)?.to_dtype(DType::F64)?;
        let sum = (sum + none)?;
        Ok([scores, weights.broadcast_div(&sum)?, (largest + sum.log()?)?.squeeze(3)?])
    }

    /// What each probability is multiplied by: what dropout makes of ones in its place, N × H × T × S.
    fn mask(self, dropout: Option<&AttentionDropout>) -> Result<Tensor> {
        let shape = (self.n, self.heads, self.t, self.s);
        let ones = Tensor::ones(shape, DType::F32, &Device::Cpu)?;
        let mask = dropout.map(|AttentionDropout { p, random }| ops::dropout(&ones, *p, random));
        mask.unwrap_or(Ok(ones))?.to_dtype(DType::F64)
    }

    fn attention(self, t: &[Tensor], visible: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let [_, probabilities, _] = self.softmax(&t[0], &t[1], visible)?;
        self.join(&(probabilities * mask)?.matmul(&self.split(&t[2])?)?)
    }

    /// Sums over the queries' heads that see a head of keys: of N × H × S × d, as k.
    fn gather(self, x: &Tensor) -> Result<Tensor> {
        let Self { n, s, heads, kv_heads, d, .. } = self;
        let x = x.reshape((n, kv_heads, heads / kv_heads, s, d))?.sum(2)?;
        x.transpose(1, 2)?.contiguous()?.reshape((n, s, kv_heads * d))
    }
}

/// Bounds on the errors of y, dq, dk and dv.
///
/// A score is a sum of d products, off by e = (d + 2) u Σ|q||k| / √d; its exponential is off by that share, and two units of the
/// function and of its argument. A probability is rounded, by h of itself or, below the normal numbers of f16, by 2⁻²⁵. The gradient
/// of a score is the probability times the difference of two sums of d products, of which D has the rounded y in it, and is rounded
/// again.
fn bounds(
    case: Case,
    [q, k, v, dy]: &[Tensor; 4],
    visible: &Tensor,
    h: f64,
) -> Result<[Tensor; 4]> {
    let wide = |x: &Tensor| x.to_dtype(DType::F64);
    let (q, k, v, dy) = (wide(q)?, wide(k)?, wide(v)?, wide(dy)?);
    let (d, s, t) = (case.d as f64, case.s as f64, case.t as f64);
    let scale = 1.0 / d.sqrt();
    let [_, p, _] = case.softmax(&q, &k, visible)?;
    let [q, k, v, dy] = [&q, &k, &v, &dy].map(|x| case.split(&x.abs()?));
    let (q, k, v, dy) = (q?, k?, v?, dy?);
    let largest = (q.matmul(&k.t()?.contiguous()?)? * scale)?.max_all()?.to_scalar::<f64>()?;
    let share = 2.0 * (d + 3.0) * UNIT * largest + (8.0 + 2.0 * largest) * UNIT;
    // Unnormalized, a probability is up to S times itself.
    let tiny = if h > 1e-6 { 3e-8 } else { 0.0 };
    let y = p.matmul(&v)?;
    let y_bound = ((&y * (2.0 * share + 2.0 * h + (s + 8.0) * UNIT))? + tiny * s)?;
    let along = ((&dy * &y)?.sum_keepdim(D::Minus1)? * 2.0)?;
    let sizes = dy.matmul(&v.t()?.contiguous()?)?.broadcast_add(&along)?;
    let score_sizes = (&p * sizes)?;
    let of_scores = 2.0 * share + 4.0 * h + (2.0 * d + 16.0) * UNIT;
    let dq = score_sizes.matmul(&k)?;
    let dq_bound = ((dq * (scale * (of_scores + s * UNIT)))? + tiny * s * scale)?;
    let dk = score_sizes.t()?.contiguous()?.matmul(&q)?;
    let group = (case.heads / case.kv_heads) as f64;
    let dk_bound = ((dk * (scale * (of_scores + group * t * UNIT)))? + tiny * t * scale)?;
    let dv = p.t()?.contiguous()?.matmul(&dy)?;
    let dv_bound = ((dv * (share + 2.0 * h + (group * t + 8.0) * UNIT))? + tiny * t)?;
    Ok([
        case.join(&y_bound)?,
        case.join(&dq_bound)?,
        case.gather(&dk_bound)?,
        case.gather(&dv_bound)?,
    ])
}

/// Three in ten of the probabilities.
fn dropout() -> Result<AttentionDropout> {
    let random = RandomStream { seed: 0x0123_4567_89ab_cdef, stream: 3, pass: numbers(&[41])? };
    Ok(AttentionDropout { p: 0.3, random })
}

/// Results and gradients of a case, with some keys missing or not, causal or not.
fn check_gradients(
    case: Case,
    (dtype, format, h): (DType, Format, f64),
    (masked, causal): (bool, bool),
    dropout: Option<&AttentionDropout>,
) -> Result<()> {
    let operands = case.operands(dtype)?;
    let [q, k, v, dy] = &operands;
    let settings = case.settings(causal, format);
    let lengths = masked.then(|| case.lengths());
    let there = lengths.as_deref().map(numbers).transpose()?;
    let masks = AttentionMasks { lengths: there.as_ref(), dropout };
    let (y, logs) = ops::attention_masked(q, k, v, masks, settings)?;
    let (of, results) = ([q, k, v], (&y, &logs));
    let AttentionGradients { q: dq, k: dk, v: dv } =
        ops::attention_masked_backward(dy, of, results, masks, settings)?;
    let (visible, mask) = (case.visible(lengths.as_deref(), causal)?, case.mask(dropout)?);
    let expected = autograd(&[q, k, v], dy, |t| case.attention(t, &visible, &mask))?;
    let bounds = bounds(case, &operands, &visible, h)?;
    // What is kept is multiplied by 1/0.7, with one rounding more.
    let times = if dropout.is_some() { 1.5 } else { 1.0 };
    let name = format!("{case:?} {dtype:?}, lengths {lengths:?}, causal {causal}, {dropout:?}");
    let all = [("y", &y), ("dq", &dq), ("dk", &dk), ("dv", &dv)];
    for (i, (what, result)) in all.into_iter().enumerate() {
        assert_eq!(result.dtype(), dtype);
        let sizes = to_f64(&expected[i])?;
        let least = if h > 1e-6 { 3e-8 } else { 0.0 };
        let bound: Vec<f64> = to_f64(&bounds[i])?
            .iter()
            .zip(sizes)
            .map(|(bound, size)| times * bound + h * size.abs() + least)
            .collect();
        check(&format!("{what} of {name}"), result, &expected[i], &bound)?;
    }
    check_logs(&name, &logs, case.softmax(&wide(q)?, &wide(k)?, &visible)?, &visible)
}

#[test]
fn attention_and_its_gradients() -> Result<()> {
    for (case, of) in CASES.iter().flat_map(|case| NATIVE.map(|of| (*case, of))) {
        for masks in [(false, false), (true, false), (false, true), (true, true)] {
            check_gradients(Case::of(case), of, masks, None)?;
        }
    }
    Ok(())
}

/// Dropout of the probabilities draws what dropout of a tensor of them would, however they lie in tiles.
#[test]
fn attention_with_dropout_and_its_gradients() -> Result<()> {
    let dropout = dropout()?;
    for (case, of) in CASES.iter().flat_map(|case| NATIVE.map(|of| (*case, of))) {
        for masks in [(false, false), (true, true)] {
            check_gradients(Case::of(case), of, masks, Some(&dropout))?;
        }
    }
    Ok(())
}

/// Equal scores of 64 keys, whose values are the unit vectors: results are the probabilities.
#[test]
fn three_in_ten_probabilities_are_dropped() -> Result<()> {
    let (n, heads, t, s) = (3, 2, 101, 64);
    let dropout = dropout()?;
    for (dtype, format, _) in NATIVE {
        let q = Tensor::zeros((n, t, heads * s), dtype, &Device::Cpu)?;
        let k = Tensor::zeros((n, s, s), dtype, &Device::Cpu)?;
        let units = (0..n * s * s).map(|i| f32::from(u8::from(i / s % s == i % s)));
        let v = tensor(&units.collect::<Vec<_>>(), dtype)?.reshape((n, s, s))?;
        let settings = AttentionSettings { heads, kv_heads: 1, causal: false, format };
        let masks = AttentionMasks { lengths: None, dropout: Some(&dropout) };
        let (y, logs) = ops::attention_masked(&q, &k, &v, masks, settings)?;
        let kept = ops::from_f32(&[1.0 / 0.7 / 64.0], 1, dtype, &Device::Cpu)?;
        let kept = ops::to_f32(&kept)?[0];
        let y = ops::to_f32(&y)?;
        assert!(y.iter().all(|y| *y == 0.0 || *y == kept), "{dtype:?}");
        let all = (n * heads * t * s) as f64;
        let share = y.iter().filter(|y| **y == 0.0).count() as f64 / all;
        // Five standard deviations.
        assert!((share - 0.3).abs() < 5.0 * (0.3 * 0.7 / all).sqrt(), "{share}");
        // The sums are of all exponentials.
        assert!(ops::to_f32(&logs)?.iter().all(|log| (log - 64_f32.ln()).abs() < 1e-5));
    }
    Ok(())
}

/// Other passes, layers and seeds drop others.
#[test]
fn each_pass_drops_other_probabilities() -> Result<()> {
    let case = Case::of([1, 20, 20, 1, 1, 4]);
    let [q, k, v, _] = case.operands(DType::F32)?;
    let y = |seed, stream, pass: u32| {
        let random = RandomStream { seed, stream, pass: numbers(&[pass])? };
        let dropout = AttentionDropout { p: 0.5, random };
        let settings = case.settings(false, Format::F32);
        let masks = AttentionMasks { lengths: None, dropout: Some(&dropout) };
        bits(&ops::attention_masked(&q, &k, &v, masks, settings)?.0)
    };
    let first = y(1, 2, 3)?;
    assert!(first == y(1, 2, 3)?);
    assert!(first != y(0, 2, 3)? && first != y(1, 0, 3)? && first != y(1, 2, 0)?);
    Ok(())
}

fn wide(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::F64)
}

/// The logarithms of the sums, and −∞ where nothing is seen.
fn check_logs(name: &str, logs: &Tensor, softmax: [Tensor; 3], visible: &Tensor) -> Result<()> {
    let [_, probabilities, expected] = softmax;
    let seen = probabilities.broadcast_mul(visible)?.sum(D::Minus1)?;
    let all = to_f64(logs)?.into_iter().zip(to_f64(&expected)?).zip(to_f64(&seen)?);
    for ((log, expected), seen) in all {
        if seen == 0.0 {
            assert_eq!(log, f64::NEG_INFINITY, "{name}");
        } else {
            assert!((log - expected).abs() < 1e-4, "{name}: {log} {expected}");
        }
    }
    Ok(())
}

/// All results as f32 bits, rounded to a type.
fn results(
    [q, k, v, dy]: &[Tensor; 4],
    y: Option<&Tensor>,
    masks: AttentionMasks<'_>,
    settings: AttentionSettings,
) -> Result<Vec<Tensor>> {
    let (result, logs) = ops::attention_masked(q, k, v, masks, settings)?;
    let (of, found) = ([q, k, v], (y.unwrap_or(&result), &logs));
    let gradients = ops::attention_masked_backward(dy, of, found, masks, settings)?;
    Ok(vec![result, gradients.q, gradients.k, gradients.v])
}

/// Wide arithmetic rounds what is inside to the same format: its results, rounded, are the native ones, bit by bit where products of
/// the format are those of f32.
#[test]
fn wide_attention_is_native_attention() -> Result<()> {
    let paths = ops::product_paths()?.paths;
    for (dtype, format) in [(DType::F16, Format::F16), (DType::BF16, Format::BF16)] {
        let is_widened = paths.iter().any(|path| {
            path.starts_with(&format!("{}: ", if dtype == DType::F16 { "f16" } else { "bf16" }))
                && path.contains("widened")
        });
        let dropout = dropout()?;
        let cases = CASES.map(Case::of).into_iter().flat_map(|case| [(case, false), (case, true)]);
        for (case, drops) in cases {
            let lengths = numbers(&case.lengths())?;
            let dropout = drops.then_some(&dropout);
            let masks = AttentionMasks { lengths: Some(&lengths), dropout };
            let settings = case.settings(true, format);
            let native = case.operands(dtype)?;
            let widened = native.each_ref().map(|tensor| ops::cast(tensor, DType::F32));
            let [q, k, v, dy] = widened;
            let found = results(&native, None, masks, settings)?;
            let rounded = ops::cast(&found[0], DType::F32)?;
            let wide = results(&[q?, k?, v?, dy?], Some(&rounded), masks, settings)?;
            for (i, (native, wide)) in found.iter().zip(&wide).enumerate() {
                let wide = ops::cast(wide, dtype)?;
                if is_widened {
                    assert_eq!(bits(native)?, bits(&wide)?, "{case:?} {dtype:?}, output {i}");
                }
            }
        }
    }
    Ok(())
}

/// An emulated format rounds its operands: one mantissa bit leaves probabilities of powers of two and their halves.
#[test]
fn the_format_rounds_probabilities() -> Result<()> {
    // Scores 0 and ln 1.3: probabilities 1/1.3 and 1 before they are divided by their sum, of which e5m1 makes 0.75 and 1.
    let q = tensor(&[1.0], DType::F32)?.reshape((1, 1, 1))?;
    let k = tensor(&[0.0, 1.3_f32.ln()], DType::F32)?.reshape((1, 2, 1))?;
    let v = tensor(&[1.0, 0.0], DType::F32)?.reshape((1, 2, 1))?;
    let format: Format = "e5m1".parse().unwrap();
    let settings = AttentionSettings { heads: 1, kv_heads: 1, causal: false, format };
    let (y, _) = ops::attention(&q, &k, &v, None, settings)?;
    let y = f64::from(ops::to_f32(&y)?[0]);
    let expected = 0.75 / (1.0 + 1.0 / 1.3);
    assert!((y - expected).abs() < 1e-6, "{y} {expected}");
    Ok(())
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() -> Result<()> {
    for (dtype, format, _) in NATIVE {
        let case = Case::of([5, 130, 130, 4, 2, 20]);
        let (operands, lengths) = (case.operands(dtype)?, numbers(&case.lengths())?);
        let dropout = dropout()?;
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let masks = AttentionMasks { lengths: Some(&lengths), dropout: Some(&dropout) };
                let settings = case.settings(true, format);
                let results = results(&operands, None, masks, settings)?;
                results.iter().map(bits).collect::<Result<Vec<_>>>()
            })
        };
        let alone = on(1)?;
        assert!(alone == on(2)? && alone == on(3)?, "{dtype:?}");
    }
    Ok(())
}

/// Keys and values behind the end of a sequence may be anything, and so may their neighbours' padding.
#[test]
fn keys_behind_the_end_are_not_read() -> Result<()> {
    for (dtype, format, _) in NATIVE {
        let case = Case::of([2, 9, 70, 2, 1, 8]);
        let [q, k, v, dy] = case.operands(dtype)?;
        let lengths = [66_u32, 3];
        let spoiled = |x: &Tensor| {
            let mut values = ops::to_f32(x)?;
            for (sequence, length) in lengths.iter().enumerate() {
                values[(sequence * 70 + *length as usize) * 8..(sequence + 1) * 70 * 8]
                    .fill(f32::NAN);
            }
            ops::from_f32(&values, x.shape(), dtype, &Device::Cpu)
        };
        let (settings, lengths) = (case.settings(false, format), numbers(&lengths)?);
        let bad = [q.clone(), spoiled(&k)?, spoiled(&v)?, dy.clone()];
        let masks = AttentionMasks { lengths: Some(&lengths), dropout: None };
        let clean = results(&[q, k, v, dy], None, masks, settings)?;
        for (a, b) in results(&bad, None, masks, settings)?.iter().zip(&clean) {
            assert_eq!(bits(a)?, bits(b)?, "{dtype:?}");
        }
        // No gradient of keys that nobody sees.
        for gradient in &clean[2..] {
            assert!(ops::to_f32(&gradient.i((1, 3..))?.contiguous()?)?.iter().all(|x| *x == 0.0));
        }
    }
    Ok(())
}

/// A query that sees no key gives zeros, and its gradient is 0.
#[test]
fn a_query_that_sees_nothing_gives_zeros() -> Result<()> {
    for (dtype, format, _) in NATIVE {
        // Of 7 queries and 4 causal keys the first 3 see none; the second sequence has no keys.
        let case = Case::of([2, 7, 4, 1, 1, 2]);
        let [q, k, v, dy] = case.operands(dtype)?;
        let settings = case.settings(true, format);
        let lengths = numbers(&[4, 0])?;
        let (y, logs) = ops::attention(&q, &k, &v, Some(&lengths), settings)?;
        let gradients =
            ops::attention_backward(&dy, [&q, &k, &v], (&y, &logs), Some(&lengths), settings)?;
        for tensor in [&y, &gradients.q] {
            let values = ops::to_f32(tensor)?;
            assert!(values[..6].iter().chain(&values[14..]).all(|value| *value == 0.0));
        }
        assert!(ops::to_f32(&y)?[6..14].iter().all(|value| *value != 0.0));
        let logs = ops::to_f32(&logs)?;
        assert!(logs[..3].iter().chain(&logs[7..]).all(|log| *log == f32::NEG_INFINITY));
        assert!(logs[3..7].iter().all(|log| log.is_finite()));
    }
    Ok(())
}

/// Scores of 3072 · 2048 · 2, beyond f16: the largest takes all, and nothing overflows.
#[test]
fn large_scores_pick_the_largest() -> Result<()> {
    for (dtype, format, _) in NATIVE {
        let q = tensor(&[3072.0; 4], dtype)?.reshape((1, 1, 4))?;
        let keys = [[-2048.0_f32; 4], [2048.0; 4], [1024.0; 4]].concat();
        let k = tensor(&keys, dtype)?.reshape((1, 3, 4))?;
        let v: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let v = tensor(&v, dtype)?.reshape((1, 3, 4))?;
        let settings = AttentionSettings { heads: 1, kv_heads: 1, causal: false, format };
        let (y, logs) = ops::attention(&q, &k, &v, None, settings)?;
        assert_eq!(ops::to_f32(&y)?, [4.0, 5.0, 6.0, 7.0], "{dtype:?}");
        assert_eq!(ops::to_f32(&logs)?, [12_582_912.0], "{dtype:?}");
        let dy = tensor(&[1.0; 4], dtype)?.reshape((1, 1, 4))?;
        let gradients = ops::attention_backward(&dy, [&q, &k, &v], (&y, &logs), None, settings)?;
        let dv = ops::to_f32(&gradients.v)?;
        assert_eq!(dv, [[0.0; 4], [1.0; 4], [0.0; 4]].concat(), "{dtype:?}");
        assert_eq!(ops::to_f32(&gradients.q)?, [0.0; 4]);
    }
    Ok(())
}

#[test]
fn what_does_not_belong_together_is_an_error() -> Result<()> {
    let case = Case::of([2, 3, 4, 2, 1, 2]);
    let [q, k, v, dy] = case.operands(DType::F32)?;
    let settings = case.settings(false, Format::F32);
    let (y, logs) = ops::attention(&q, &k, &v, None, settings)?;
    let half = ops::cast(&k, DType::F16)?;
    let long = numbers(&[4, 5])?;
    for (name, result) in [
        ("heads", ops::attention(&q, &k, &v, None, AttentionSettings { heads: 3, ..settings })),
        ("groups", ops::attention(&q, &k, &v, None, AttentionSettings { kv_heads: 2, ..settings })),
        ("none", ops::attention(&q, &k, &v, None, AttentionSettings { kv_heads: 0, ..settings })),
        ("types", ops::attention(&q, &half, &v, None, settings)),
        ("values", ops::attention(&q, &k, &q, None, settings)),
        ("lengths", ops::attention(&q, &k, &v, Some(&numbers(&[4])?), settings)),
        ("a length", ops::attention(&q, &k, &v, Some(&long), settings)),
    ] {
        assert!(result.is_err(), "{name}");
    }
    for p in [1.0, -0.1, f32::NAN] {
        let dropout = AttentionDropout { p, ..dropout()? };
        let masks = AttentionMasks { lengths: None, dropout: Some(&dropout) };
        assert!(ops::attention_masked(&q, &k, &v, masks, settings).is_err(), "{p}");
    }
    let text = ops::attention(&q, &k, &v, Some(&long), settings).unwrap_err().to_string();
    assert_eq!(text.lines().next(), Some("a sequence of length 5 does not fit 4 keys"));
    assert!(ops::attention_backward(&k, [&q, &k, &v], (&y, &logs), None, settings).is_err());
    assert!(ops::attention_backward(&dy, [&q, &k, &v], (&y, &y), None, settings).is_err());
    Ok(())
}
