//! Layers of transformers, in models of them all: results and gradients against candle's autograd on F64 tensors, and native passes
//! against wide ones.

#![expect(clippy::many_single_char_names, reason = "the letters of the formulas")]

mod ops_support;
#[path = "ops_support/oracle.rs"]
mod oracle;

use candle_core::{D, DType, Device, Result, Tensor};
use mantissa::layers::{
    Arithmetic, Attention, AttentionSizes, BoxedLayer, Dropout, EachPosition, Embedding,
    EmbeddingSizes, FeedForward, Layer, LayerNorm, Linear, Mode, NormPlace, NormResidual, Pass,
    PoolSequence, Registry, RmsNorm, SequencePool, Sequences, Sequential,
};
use mantissa::numerics::Census;
use mantissa::ops;
use mantissa::precision::Format;
use mantissa::spec::Activation;
use ops_support::{UNIT, bits, numbers, uniform};
use oracle::{autograd, check, to_f64};

const N: usize = 3;
const T: usize = 5;
const WIDTH: usize = 8;
const HIDDEN: usize = 12;
const TOKENS: usize = 11;
const OUTPUTS: usize = 4;
const EPSILON: f32 = 1e-2;

/// A model, its batch, and the same in candle's operations: from its parameters, in order.
struct Case {
    registry: Registry,
    layers: Sequential,
    sequences: Sequences,
    ids: Tensor,
    oracle: fn(&[Tensor], &Self) -> Result<Tensor>,
    outputs: Vec<usize>,
}

fn block(
    registry: &mut Registry,
    (name, place): (&str, NormPlace),
    norm: BoxedLayer,
    body: BoxedLayer,
) -> BoxedLayer {
    let body = Sequential(vec![body]);
    Box::new(NormResidual::new(registry, name, place, (norm, body)))
}

/// As BERT: learned positions and types, norms after the sums, GELU, lengths, pooling.
fn encoder(pool: SequencePool) -> Result<Case> {
    let registry = &mut Registry::default();
    let sizes =
        EmbeddingSizes { tokens: TOKENS, positions: Some(T + 2), types: Some(2), width: WIDTH };
    let embedding = Embedding::new(registry, "embedding", sizes);
    let sizes = AttentionSizes {
        width: WIDTH,
        heads: 2,
        kv_heads: 2,
        causal: false,
        bias: true,
        rope: None,
    };
    let attention = Box::new(Attention::new(registry, "attention", sizes));
    let norm = Box::new(LayerNorm::new(registry, "norm1", WIDTH, EPSILON));
    let first = block(registry, ("block1", NormPlace::After), norm, attention);
    let body =
        Box::new(FeedForward::new(registry, "feed_forward", (WIDTH, HIDDEN), Activation::Gelu));
    let norm = Box::new(LayerNorm::new(registry, "norm2", WIDTH, EPSILON));
    let second = block(registry, ("block2", NormPlace::After), norm, body);
    let pool_layer = Box::new(PoolSequence::new(registry, "pool", pool));
    let output = Box::new(Linear::new(registry, "output", (WIDTH, OUTPUTS), false));
    let types: Vec<u32> = (0..(N * T) as u32).map(|i| u32::from(i % 5 > 2)).collect();
    Ok(Case {
        registry: std::mem::take(registry),
        layers: Sequential(vec![Box::new(embedding), first, second, pool_layer, output]),
        sequences: Sequences {
            lengths: Some(numbers(&[5, 2, 4])?),
            types: Some(numbers(&types)?.reshape((N, T))?),
        },
        ids: ids()?,
        oracle: match pool {
            SequencePool::Mean => |t, case| encoder_f64(t, case, true),
            SequencePool::First => |t, case| encoder_f64(t, case, false),
        },
        outputs: vec![N, OUTPUTS],
    })
}

/// As GPT-2's ends: learned positions, GELU by tanh, a norm, and the embedding as the output's weight, position by position.
fn tied() -> Result<Case> {
    let registry = &mut Registry::default();
    let sizes = EmbeddingSizes { tokens: TOKENS, positions: Some(T), types: None, width: WIDTH };
    let embedding = Embedding::new(registry, "embedding", sizes);
    let rows = embedding.tokens();
    let norm = Box::new(LayerNorm::new(registry, "norm1", WIDTH, EPSILON));
    let sizes = (WIDTH, HIDDEN);
    let body = Box::new(FeedForward::new(registry, "feed_forward", sizes, Activation::GeluTanh));
    let first = block(registry, ("block1", NormPlace::Before), norm, body);
    let norm = Box::new(LayerNorm::new(registry, "norm", WIDTH, EPSILON));
    let output = Box::new(Linear::sharing(registry, "output", rows));
    Ok(Case {
        registry: std::mem::take(registry),
        layers: Sequential(vec![Box::new(embedding), first, norm, Box::new(EachPosition), output]),
        sequences: Sequences::default(),
        ids: ids()?,
        oracle: tied_f64,
        outputs: vec![N * T, TOKENS],
    })
}

/// As Llama: rotary positions, grouped heads, RMS norms before, `SwiGLU`, causal, an output for each position.
fn decoder() -> Result<Case> {
    let registry = &mut Registry::default();
    let sizes = EmbeddingSizes { tokens: TOKENS, positions: None, types: None, width: WIDTH };
    let embedding = Embedding::new(registry, "embedding", sizes);
    let norm = Box::new(RmsNorm::new(registry, "norm1", WIDTH, EPSILON));
    let sizes = AttentionSizes {
        width: WIDTH,
        heads: 4,
        kv_heads: 2,
        causal: true,
        bias: false,
        rope: Some(100.0),
    };
    let attention = Box::new(Attention::new(registry, "attention", sizes));
    let first = block(registry, ("block1", NormPlace::Before), norm, attention);
    let norm = Box::new(RmsNorm::new(registry, "norm2", WIDTH, EPSILON));
    let body = Box::new(FeedForward::swiglu(registry, "feed_forward", (WIDTH, HIDDEN)));
    let second = block(registry, ("block2", NormPlace::Before), norm, body);
    let output = Box::new(Linear::new(registry, "output", (WIDTH, OUTPUTS), false));
    Ok(Case {
        registry: std::mem::take(registry),
        layers: Sequential(vec![Box::new(embedding), first, second, output]),
        sequences: Sequences::default(),
        ids: ids()?,
        oracle: decoder_f64,
        outputs: vec![N, T, OUTPUTS],
    })
}

fn ids() -> Result<Tensor> {
    let ids: Vec<u32> = (0..(N * T) as u32).map(|i| i * i * 7 % TOKENS as u32).collect();
    numbers(&ids)?.reshape((N, T))
}

fn rows(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    table.index_select(&ids.flatten_all()?, 0)?.reshape((N, T, WIDTH))
}

fn linear_f64(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let shape = x.dims().to_vec();
    let columns = x.dim(D::Minus1)?;
    let y = x.reshape((x.elem_count() / columns, columns))?.matmul(&w.t()?)?;
    let y = if let Some(b) = b { y.broadcast_add(b)? } else { y };
    let outputs = y.dim(1)?;
    y.reshape([&shape[..shape.len() - 1], &[outputs]].concat())
}

fn layer_norm_f64(x: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    rms_norm_f64(&centred, gamma)?.broadcast_add(beta)
}

fn rms_norm_f64(x: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    let square = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(EPSILON))?;
    x.broadcast_div(&square.sqrt()?)?.broadcast_mul(gamma)
}

/// N × T × (heads d) as N × heads × T × d, each head `times` times.
fn split(x: &Tensor, d: usize, times: usize) -> Result<Tensor> {
    let heads = x.dim(2)? / d;
    let x = x.reshape((N, T, heads, d))?.transpose(1, 2)?.contiguous()?.unsqueeze(2)?;
    x.broadcast_as((N, heads, times, T, d))?.contiguous()?.reshape((N, heads * times, T, d))
}

/// Attention by its definition; 1 where a query sees a key.
fn attention_f64([q, k, v]: [&Tensor; 3], visible: &Tensor) -> Result<Tensor> {
    let scores = (q.matmul(&k.t()?.contiguous()?)? / (q.dim(3)? as f64).sqrt())?;
    let weights = scores.exp()?.broadcast_mul(visible)?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    weights.matmul(v)?.transpose(1, 2)?.contiguous()?.reshape((N, T, WIDTH))
}

fn visible(see: impl Fn(usize, usize, usize) -> bool) -> Result<Tensor> {
    let values = (0..N * T * T).map(|i| f64::from(u8::from(see(i / T / T, i / T % T, i % T))));
    Tensor::from_iter(values, &Device::Cpu)?.reshape((N, 1, T, T))
}

fn encoder_f64(t: &[Tensor], case: &Case, mean: bool) -> Result<Tensor> {
    let types = case.sequences.types.as_ref().expect("an encoder has types");
    let lengths: Vec<u32> = case.sequences.lengths.as_ref().expect("and lengths").to_vec1()?;
    let positions = t[1].narrow(0, 0, T)?;
    let x = (rows(&t[0], &case.ids)?.broadcast_add(&positions)? + rows(&t[2], types)?)?;
    let part = |at: usize| linear_f64(&x, &t[at], Some(&t[at + 1]))?.contiguous();
    let [q, k, v] = [3, 5, 7].map(|at| split(&part(at)?, WIDTH / 2, 1));
    let seen = visible(|sequence, _, key| key < lengths[sequence] as usize)?;
    let y = attention_f64([&q?, &k?, &v?], &seen)?;
    let y = (&x + linear_f64(&y, &t[9], Some(&t[10]))?)?;
    let x = layer_norm_f64(&y, &t[11], &t[12])?;
    let up = linear_f64(&x, &t[13], Some(&t[14]))?;
    let gelu = (&up * 0.5)?.mul(&((&up / 2f64.sqrt())?.erf()? + 1.0)?)?;
    let y = (&x + linear_f64(&gelu, &t[15], Some(&t[16]))?)?;
    let y = layer_norm_f64(&y, &t[17], &t[18])?;
    let shares = (0..N * T).map(|i| match (mean, lengths[i / T]) {
        (true, length) if i % T < length as usize => 1.0 / f64::from(length),
        (false, _) if i % T == 0 => 1.0,
        _ => 0.0,
    });
    let shares = Tensor::from_iter(shares, &Device::Cpu)?.reshape((N, T, 1))?;
    linear_f64(&y.broadcast_mul(&shares)?.sum(1)?, &t[19], Some(&t[20]))
}

/// Turns pairs half a head apart, by the position times 100^(−2i/d).
fn rope_f64(x: &Tensor) -> Result<Tensor> {
    let d = x.dim(3)?;
    let angle =
        |i: usize| (i / (d / 2)) as f64 / 100f64.powf(2.0 * (i % (d / 2)) as f64 / d as f64);
    let of = |f: fn(f64) -> f64| {
        Tensor::from_iter((0..T * d / 2).map(|i| f(angle(i))), &Device::Cpu)?.reshape((
            1,
            1,
            T,
            d / 2,
        ))
    };
    let (cos, sin) = (of(f64::cos)?, of(f64::sin)?);
    let (a, b) = (x.narrow(3, 0, d / 2)?, x.narrow(3, d / 2, d / 2)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 3)?.contiguous()
}

fn decoder_f64(t: &[Tensor], case: &Case) -> Result<Tensor> {
    let d = WIDTH / 4;
    let x = rows(&t[0], &case.ids)?;
    let normal = rms_norm_f64(&x, &t[1])?;
    let q = rope_f64(&split(&linear_f64(&normal, &t[2], None)?, d, 1)?)?;
    let k = rope_f64(&split(&linear_f64(&normal, &t[3], None)?, d, 2)?)?;
    let v = split(&linear_f64(&normal, &t[4], None)?, d, 2)?;
    let y = attention_f64([&q, &k, &v], &visible(|_, query, key| key <= query)?)?;
    let x = (&x + linear_f64(&y, &t[5], None)?)?;
    let normal = rms_norm_f64(&x, &t[6])?;
    let gate = linear_f64(&normal, &t[7], None)?;
    let silu = (&gate / (gate.neg()?.exp()? + 1.0)?)?;
    let y = linear_f64(&(silu * linear_f64(&normal, &t[8], None)?)?, &t[9], None)?;
    linear_f64(&(&x + y)?, &t[10], Some(&t[11]))
}

fn tied_f64(t: &[Tensor], case: &Case) -> Result<Tensor> {
    let x = rows(&t[0], &case.ids)?.broadcast_add(&t[1])?;
    let up = linear_f64(&layer_norm_f64(&x, &t[2], &t[3])?, &t[4], Some(&t[5]))?;
    let argument = ((&up + (up.powf(3.0)? * 0.044_715)?)? * (2.0 / std::f64::consts::PI).sqrt())?;
    let gelu = (&up * 0.5)?.mul(&(argument.tanh()? + 1.0)?)?;
    let x = (&x + linear_f64(&gelu, &t[6], Some(&t[7]))?)?;
    linear_f64(&layer_norm_f64(&x, &t[8], &t[9])?, &t[0], None)?.reshape((N * T, TOKENS))
}

/// Values for the parameters of a model: those of a norm's gamma around 1.
fn weights(case: &Case) -> Result<Vec<Tensor>> {
    let parameters = case.registry.parameters.iter().zip(1..);
    let values = parameters.map(|(parameter, seed)| {
        let range = if parameter.name.ends_with("gamma") { (0.5, 1.5) } else { (-0.6, 0.6) };
        uniform(seed, parameter.shape.clone(), range)
    });
    values.collect()
}

/// The result, and the gradients of the parameters.
fn run(
    case: &Case,
    (arithmetic, weights, dy): (Arithmetic, &[Tensor], &Tensor),
    census: Option<&mut Census>,
) -> Result<Vec<Tensor>> {
    let mode = Mode::Training { seed: 0, pass: numbers(&[0])? };
    let mut pass = Pass::new(arithmetic, mode, weights, &[])
        .with_sequences(case.sequences.clone())
        .with_census(census);
    let y = case.layers.forward(case.ids.clone(), &mut pass)?;
    assert!(case.layers.backward(dy.clone(), &mut pass)?.is_none(), "ids have no gradient");
    Ok([vec![y], pass.finish()?.gradients].concat())
}

fn cases() -> Result<[(&'static str, Case); 4]> {
    Ok([
        ("encoder, mean", encoder(SequencePool::Mean)?),
        ("encoder, first", encoder(SequencePool::First)?),
        ("decoder", decoder()?),
        ("tied", tied()?),
    ])
}

/// A result is that of some thirty operations one after the other, each off by the roundings of sums of at most 15 terms, and none
/// magnifies an error by more than a norm may: 1/√ε.
#[test]
fn models_of_transformer_layers() -> Result<()> {
    let f32_native = Arithmetic { format: Format::F32, wide: false };
    for (name, case) in cases()? {
        let weights = weights(&case)?;
        let dy = uniform(99, case.outputs.clone(), (-1.0, 1.0))?;
        let found = run(&case, (f32_native, &weights, &dy), None)?;
        let inputs: Vec<&Tensor> = weights.iter().collect();
        let expected = autograd(&inputs, &dy, |t| (case.oracle)(t, &case))?;
        assert_eq!(found.len(), expected.len());
        let names = case.registry.parameters.iter().map(|parameter| parameter.name.as_str());
        for ((found, expected), what) in
            found.iter().zip(&expected).zip(["y"].into_iter().chain(names))
        {
            let largest = to_f64(expected)?.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
            let bound = 30.0 * 15.0 * UNIT / f64::from(EPSILON).sqrt() * largest.max(1e-3);
            check(&format!("{name}: {what}"), found, expected, &vec![bound; found.elem_count()])?;
            // A parameter that nothing depends on would be right by chance. A bias of all keys moves all scores of a query alike,
            // which softmax does not see; the turns of rotary positions would.
            assert!(largest > 1e-3 || what == "attention.key.bias", "{name}: {what}");
        }
    }
    Ok(())
}

/// Wide passes round what native ones store: the same bits where products of the format are those of f32. And each operation is
/// counted under the name of its layer.
#[test]
fn native_passes_are_wide_ones() -> Result<()> {
    let paths = ops::product_paths()?.paths;
    for (format, dtype, path) in
        [(Format::F16, DType::F16, "f16: "), (Format::BF16, DType::BF16, "bf16: ")]
    {
        if !paths.iter().any(|p| p.starts_with(path) && p.contains("widened")) {
            continue;
        }
        for (name, case) in cases()? {
            let native = weights(&case)?;
            let native: Vec<Tensor> =
                native.iter().map(|tensor| ops::cast(tensor, dtype)).collect::<Result<_>>()?;
            let wide: Vec<Tensor> =
                native.iter().map(|tensor| ops::cast(tensor, DType::F32)).collect::<Result<_>>()?;
            let dy = ops::cast(&uniform(99, case.outputs.clone(), (-1.0, 1.0))?, dtype)?;
            let found = run(&case, (Arithmetic { format, wide: false }, &native, &dy), None)?;
            let dy = ops::cast(&dy, DType::F32)?;
            let mut census = Census::default();
            let arithmetic = (Arithmetic { format, wide: true }, &wide[..], &dy);
            let expected = run(&case, arithmetic, Some(&mut census))?;
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found.dtype(), dtype);
                assert_eq!(bits(found)?, bits(expected)?, "{name} {format:?}, output {i}");
            }
            let records = census.into_records(&case.registry.layers);
            // The first token is moved, not computed.
            let mut counted: Vec<&str> =
                records.iter().map(|record| record.layer.as_str()).collect();
            counted.dedup();
            let layers = case.registry.layers.iter().map(String::as_str);
            let expected: Vec<&str> =
                layers.filter(|layer| *layer != "pool" || name != "encoder, first").collect();
            assert_eq!(counted, expected, "{name}");
        }
    }
    Ok(())
}

#[test]
fn a_batch_without_types_is_of_the_first() -> Result<()> {
    let mut case = encoder(SequencePool::Mean)?;
    let weights = weights(&case)?;
    let arithmetic = Arithmetic { format: Format::F32, wide: false };
    let mut outputs = Vec::new();
    for types in [None, Some(numbers(&[0; N * T])?.reshape((N, T))?)] {
        case.sequences.types = types;
        let mut pass = Pass::new(arithmetic, Mode::Inference, &weights, &[])
            .with_sequences(case.sequences.clone());
        outputs.push(ops::to_f32(&case.layers.forward(case.ids.clone(), &mut pass)?)?);
    }
    assert_eq!(outputs[0], outputs[1]);
    Ok(())
}

/// Dropout behind attention in the body of a residual sum: what it drops is x alone.
#[test]
fn dropout_stands_behind_what_it_drops() -> Result<()> {
    let registry = &mut Registry::default();
    let norm = Box::new(RmsNorm::new(registry, "norm", 4, EPSILON));
    let sizes =
        AttentionSizes { width: 4, heads: 1, kv_heads: 1, causal: true, bias: false, rope: None };
    let attention = Box::new(Attention::new(registry, "attention", sizes));
    let dropout = Box::new(Dropout::new(registry, "dropout", 0.5));
    let body = Sequential(vec![attention, dropout]);
    let layer = NormResidual::new(registry, "block", NormPlace::Before, (norm, body));
    let weights: Vec<Tensor> = registry
        .parameters
        .iter()
        .zip(1..)
        .map(|(parameter, seed)| uniform(seed, parameter.shape.clone(), (0.2, 0.9)))
        .collect::<Result<_>>()?;
    let x = uniform(9, (2, 6, 4), (0.5, 1.0))?;
    let mode = Mode::Training { seed: 3, pass: numbers(&[0])? };
    let arithmetic = Arithmetic { format: Format::F32, wide: false };
    let mut pass = Pass::new(arithmetic, mode, &weights, &[]);
    let y = ops::to_f32(&layer.forward(x.clone(), &mut pass)?)?;
    let dx = layer.backward(x.ones_like()?, &mut pass)?.expect("x is no data");
    assert_eq!(dx.dims(), x.dims());
    let x = ops::to_f32(&x)?;
    let dropped = y.iter().zip(&x).filter(|(y, x)| y == x).count();
    // Five standard deviations of 48 throws of a coin.
    assert!(dropped.abs_diff(24) <= 17 && y.iter().zip(&x).all(|(y, x)| y >= x), "{dropped}");
    Ok(())
}

/// Of one position the probability is 1: y is x and dx is 1, or both are 0, twice as large. In inference nothing is dropped.
#[test]
fn attention_drops_probabilities_in_training_alone() -> Result<()> {
    let sizes =
        AttentionSizes { width: 1, heads: 1, kv_heads: 1, causal: true, bias: false, rope: None };
    let registry = &mut Registry::default();
    let layer = Attention::new(registry, "attention", sizes).with_dropout(0.5);
    let weights = vec![Tensor::ones((1, 1), DType::F32, &Device::Cpu)?; 4];
    let x = uniform(9, (100, 1, 1), (0.5, 1.0))?;
    let arithmetic = Arithmetic { format: Format::F32, wide: false };
    let mut pass = Pass::new(arithmetic, Mode::Inference, &weights, &[]);
    assert_eq!(ops::to_f32(&layer.forward(x.clone(), &mut pass)?)?, ops::to_f32(&x)?);
    let mode = Mode::Training { seed: 3, pass: numbers(&[0])? };
    let mut pass = Pass::new(arithmetic, mode, &weights, &[]);
    let y = ops::to_f32(&layer.forward(x.clone(), &mut pass)?)?;
    let dx = layer.backward(x.ones_like()?, &mut pass)?.expect("x is no data");
    let (x, dx) = (ops::to_f32(&x)?, ops::to_f32(&dx)?);
    let mut dropped = 0;
    for ((x, y), dx) in x.iter().zip(&y).zip(&dx) {
        assert!((*y, *dx) == (0.0, 0.0) || (*y, *dx) == (2.0 * x, 2.0), "{x} {y} {dx}");
        dropped += usize::from(*y == 0.0);
    }
    // Five standard deviations.
    assert!(dropped.abs_diff(50) <= 25, "{dropped}");
    Ok(())
}
