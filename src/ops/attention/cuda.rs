//! Attention on a GPU.

use candle_core::{DType, Error, Result, Tensor};

use super::{AttentionDropout, AttentionGradients, AttentionMasks, Sizes};
use crate::ops::cuda::{address_as, blocks, device_of, empty, launch, operands};
use crate::ops::host::cuda::Argument;
use crate::ops::philox::Keep;
use crate::precision::Rounder;

/// Queries, and keys, of a tile; threads of a block; most values of a head: the kernels' own.
const TILE: usize = 16;
const THREADS: u32 = 256;
const MOST_WIDTH: usize = 128;

/// Which probabilities are dropped: all are kept where there is no pass.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Dropout {
    /// The address of the number of the pass.
    pass: u64,
    from: u64,
    seed: u64,
    stream: u32,
    scale: f32,
}

impl Dropout {
    fn of(dropout: Option<&AttentionDropout>) -> Result<Self> {
        let Some(AttentionDropout { p, random }) = dropout else {
            return Ok(Self { scale: 1.0, ..Self::default() });
        };
        let (pass, Keep { from, scale }) = (address_as(&random.pass, DType::U32)?, Keep::of(*p));
        Ok(Self { pass, from, seed: random.seed, stream: random.stream, scale })
    }
}

/// What the kernels know of an attention.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Shape {
    sequences: u32,
    queries: u32,
    keys: u32,
    heads: u32,
    kv_heads: u32,
    width: u32,
    causal: u32,
    scale: f32,
    rounder: Rounder,
    dropout: Dropout,
}

impl Shape {
    /// # Errors
    /// When heads have more values than the kernels take.
    fn of(sizes: &Sizes, dropout: Option<&AttentionDropout>) -> Result<Argument<Self>> {
        if sizes.width > MOST_WIDTH {
            let width = sizes.width;
            let text =
                format!("attention on a GPU takes heads of up to {MOST_WIDTH} values, not {width}");
            return Err(Error::Msg(text).bt());
        }
        let settings = sizes.settings;
        Ok(Argument(Self {
            sequences: sizes.sequences as u32,
            queries: sizes.queries as u32,
            keys: sizes.keys as u32,
            heads: settings.heads as u32,
            kv_heads: settings.kv_heads as u32,
            width: sizes.width as u32,
            causal: u32::from(settings.causal),
            scale: sizes.scale(),
            rounder: Rounder::new(settings.format),
            dropout: Dropout::of(dropout)?,
        }))
    }
}

/// How many tiles all heads have of so many queries or keys.
fn tiles(sizes: &Sizes, heads: usize, each: usize) -> u64 {
    (sizes.sequences * heads * each.div_ceil(TILE)) as u64
}

/// The address of the lengths, or null.
fn address_of(lengths: Option<&Tensor>) -> Result<u64> {
    lengths.map_or(Ok(0), |lengths| address_as(lengths, DType::U32))
}

pub(super) fn attention(
    [q, k, v]: [&Tensor; 3],
    AttentionMasks { lengths, dropout }: AttentionMasks<'_>,
    sizes: &Sizes,
) -> Result<(Tensor, Tensor)> {
    let (gpu, shape) = (device_of(q)?, Shape::of(sizes, dropout)?);
    let y = empty(gpu, q.shape(), q.dtype())?;
    let heads = sizes.settings.heads;
    let logs = empty(gpu, (sizes.sequences, heads, sizes.queries), DType::F32)?;
    let ([q, k, v, to], suffix) = operands([q, k, v, &y])?;
    let (lengths, logs_at) = (address_of(lengths)?, address_as(&logs, DType::F32)?);
    let tiles = tiles(sizes, heads, sizes.queries);
    if tiles > 0 {
        let (name, geometry) = (format!("attention_{suffix}"), blocks(gpu, tiles, (THREADS, 1))?);
        launch!(gpu, ATTENTION, &name, geometry, q, k, v, lengths, to, logs_at, shape)?;
    }
    Ok((y, logs))
}

pub(super) fn attention_backward(
    (dy, y, logs): (&Tensor, &Tensor, &Tensor),
    [q, k, v]: [&Tensor; 3],
    AttentionMasks { lengths, dropout }: AttentionMasks<'_>,
    sizes: &Sizes,
) -> Result<AttentionGradients> {
    let (gpu, shape) = (device_of(q)?, Shape::of(sizes, dropout)?);
    let gradient = |of: &Tensor| empty(gpu, of.shape(), of.dtype());
    let gradients = AttentionGradients { q: gradient(q)?, k: gradient(k)?, v: gradient(v)? };
    let along = empty(gpu, logs.shape(), DType::F32)?;
    let AttentionGradients { q: dq, k: dk, v: dv } = &gradients;
    let ([q, k, v, dy, y, dq, dk, dv], suffix) = operands([q, k, v, dy, y, dq, dk, dv])?;
    let lengths = address_of(lengths)?;
    let (logs, along_at) = (address_as(logs, DType::F32)?, address_as(&along, DType::F32)?);
    let queries = tiles(sizes, sizes.settings.heads, sizes.queries);
    if queries > 0 {
        let name = format!("attention_backward_queries_{suffix}");
        let geometry = blocks(gpu, queries, (THREADS, 1))?;
        launch!(
            gpu, ATTENTION, &name, geometry, q, k, v, dy, y, lengths, logs, along_at, dq, shape
        )?;
    }
    let keys = tiles(sizes, sizes.settings.kv_heads, sizes.keys);
    if keys > 0 {
        let name = format!("attention_backward_keys_{suffix}");
        let geometry = blocks(gpu, keys, (THREADS, 1))?;
        launch!(
            gpu, ATTENTION, &name, geometry, q, k, v, dy, lengths, logs, along_at, dk, dv, shape
        )?;
    }
    Ok(gradients)
}
