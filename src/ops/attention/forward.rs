//! The forward pass: for each tile of queries, the keys tile by tile, with the largest score and the sum of exponentials so far (Milakov
//! and Gimelshein 2018, arXiv 1805.02867).
//!
//! Everything is transposed: scores are keys × queries, results d × queries. So what belongs to a query is a column, and loops over
//! queries become vectors.
#![expect(unsafe_code, reason = "tasks write the values of their heads, which alternate in memory")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Result;

use super::super::element::Element;
use super::super::exponential::exp;
use super::super::host::zeroed;
use super::super::matmul::{
    Kernels, LANES, Operand, are_right, as_f32_mut, with_fallback, with_space,
};
use super::super::parallel::{carve, for_each, vectorized};
use super::Sizes;
use super::mask::{Tile, drop_others};
use super::products::{
    Heads, HeadsMut, KEYS, MakeTiles, Narrow, QUERIES, Right, TileProduct, right_words, steps, turn,
};
use crate::memory::OutOfMemory;

/// The result, as q, and the logarithms of the sums, N × H × T.
pub(super) fn forward<T: Element>(
    kernels: &Kernels,
    operands: [&[T]; 3],
    lengths: &[usize],
    sizes: &Sizes,
) -> Result<(Vec<T>, Vec<f32>)> {
    let mut y = zeroed::<T>(operands[0].len())?;
    let mut logs = zeroed::<f32>(sizes.sequences * sizes.settings.heads * sizes.queries)?;
    with_fallback::<T>(kernels, |make| {
        let pass = Forward::new(make, operands, (&mut y, sizes));
        Ok(pass.run(lengths, &mut logs)?)
    })?;
    Ok((y, logs))
}

/// A forward pass, as its tasks see it.
struct Forward<'a, T> {
    sizes: &'a Sizes,
    /// Keys by queries.
    scores: TileProduct,
    /// Values by probabilities.
    results: TileProduct,
    q: Heads<'a, T>,
    k: Heads<'a, T>,
    v: Heads<'a, T>,
    y: HeadsMut<'a, T>,
    narrow: Narrow,
}

/// What a task works in for one tile of queries.
struct Space<'a> {
    /// Queries, d × QUERIES, and probabilities, KEYS × QUERIES, as right operands.
    queries: &'a mut [u32],
    probabilities: &'a mut [u32],
    scores: &'a mut [f32],
    results: &'a mut [f32],
    scratch: &'a mut [u32],
    steps: &'a [usize],
    /// Which probabilities of a tile are kept, where some are dropped.
    kept: Vec<bool>,
}

/// A tile of queries of one head.
#[derive(Clone, Copy)]
struct Queries {
    sequence: usize,
    head: usize,
    first: usize,
    count: usize,
}

/// The largest score of each query so far, and the sum of the exponentials of their distances from it.
struct Running {
    largest: [f32; QUERIES],
    sum: [f32; QUERIES],
}

impl<'a, T: Element> Forward<'a, T> {
    fn new(
        make: MakeTiles<'_>,
        [q, k, v]: [&'a [T]; 3],
        (y, sizes): (&'a mut [T], &'a Sizes),
    ) -> Self {
        let (width, settings) = (sizes.width, sizes.settings);
        Self {
            sizes,
            scores: TileProduct::along_depth(make, KEYS, QUERIES),
            results: TileProduct::across_depth(make, width, QUERIES),
            q: Heads::new(q, settings.heads, width),
            k: Heads::new(k, settings.kv_heads, width),
            v: Heads::new(v, settings.kv_heads, width),
            y: HeadsMut::new(y, settings.heads, width),
            narrow: Narrow::of::<T>(settings.format),
        }
    }

    /// Whether the results are right.
    fn run(&self, lengths: &[usize], logs: &mut [f32]) -> std::result::Result<bool, OutOfMemory> {
        let (right, failed) = (AtomicBool::new(true), OnceLock::new());
        let share = self.sizes.group() * self.sizes.queries;
        let tasks = logs.chunks_mut(share.max(1)).collect();
        let kv_heads = self.sizes.settings.kv_heads;
        for_each(tasks, |task, logs: &mut [f32]| {
            let (sequence, kv_head) = (task / kv_heads, task % kv_heads);
            match self.task((sequence, kv_head), lengths[sequence], logs) {
                Ok(true) => {}
                Ok(false) => right.store(false, Ordering::Relaxed),
                Err(error) => _ = failed.set(error),
            }
        });
        failed.into_inner().map_or_else(|| Ok(right.into_inner()), Err)
    }

    /// The heads of queries that see one head of keys.
    fn task(
        &self,
        (sequence, kv_head): (usize, usize),
        keys: usize,
        logs: &mut [f32],
    ) -> std::result::Result<bool, OutOfMemory> {
        let (width, tiles) = (self.sizes.width, self.scores.tiles);
        let tile_words = self.scores.left_words::<T>(KEYS, width);
        let value_words = self.results.left_words::<T>(width, KEYS);
        let count = keys.div_ceil(KEYS);
        let lengths = [
            count * tile_words,
            count * value_words,
            right_words::<T>(tiles, width, QUERIES),
            right_words::<T>(tiles, KEYS, QUERIES),
            self.scores.sums(),
            self.results.sums(),
            tiles.scratch::<T>(),
        ];
        let steps = steps(width.max(KEYS), QUERIES);
        with_space(lengths.iter().sum(), |space| {
            let [packed_keys, packed_values, queries, probabilities, scores, results, scratch] =
                carve(space, lengths);
            self.pack((sequence, kv_head), keys, (packed_keys, packed_values));
            let packed = (&*packed_keys, &*packed_values);
            let (scores, results) = (as_f32_mut(scores), as_f32_mut(results));
            let kept = vec![true; if self.sizes.mask.is_some() { KEYS * QUERIES } else { 0 }];
            let mut space =
                Space { queries, probabilities, scores, results, scratch, steps: &steps, kept };
            tiles.enter();
            let mut right = true;
            let heads = logs.chunks_mut(self.sizes.queries).enumerate();
            for (head, logs) in heads {
                let head = kv_head * self.sizes.group() + head;
                for (index, logs) in logs.chunks_mut(QUERIES).enumerate() {
                    let (first, count) = (index * QUERIES, logs.len());
                    let of = Queries { sequence, head, first, count };
                    right &= self.tile(of, (keys, packed), logs, &mut space);
                }
            }
            tiles.leave();
            right
        })
    }

    /// Packs the keys of a head, and its values transposed, tile after tile.
    fn pack(
        &self,
        (sequence, kv_head): (usize, usize),
        keys: usize,
        (packed_keys, packed_values): (&mut [u32], &mut [u32]),
    ) {
        let width = self.sizes.width;
        let tile_words = self.scores.left_words::<T>(KEYS, width);
        let value_words = self.results.left_words::<T>(width, KEYS);
        let words = packed_keys.chunks_mut(tile_words).zip(packed_values.chunks_mut(value_words));
        for ((packed_keys, packed_values), first) in words.zip((0..keys).step_by(KEYS)) {
            let (row, count) = (sequence * self.sizes.keys + first, KEYS.min(keys - first));
            let (k, v) = (self.k.from(row, kv_head), self.v.from(row, kv_head));
            let operand = Operand::along_depth_apart(k, (count, width), self.k.pitch());
            self.scores.pack(&operand, packed_keys);
            let operand = Operand::across_depth_apart(v, (width, count), self.v.pitch());
            self.results.pack(&operand, packed_values);
        }
    }

    /// The results of one tile of queries. Whether they are right.
    fn tile(
        &self,
        of: Queries,
        (keys, (packed_keys, packed_values)): (usize, (&[u32], &[u32])),
        logs: &mut [f32],
        space: &mut Space<'_>,
    ) -> bool {
        let width = self.sizes.width;
        let row = of.sequence * self.sizes.queries + of.first;
        put_turned(&self.q, (row, of.head), of.count, (self.scores, &mut *space.queries));
        let mut running = Running { largest: [f32::NEG_INFINITY; QUERIES], sum: [0.0; QUERIES] };
        let mut right = true;
        space.results.fill(0.0);
        let tile_words = self.scores.left_words::<T>(KEYS, width);
        let value_words = self.results.left_words::<T>(width, KEYS);
        let packed = packed_keys.chunks(tile_words).zip(packed_values.chunks(value_words));
        for ((packed_keys, packed_values), first) in packed.zip((0..keys).step_by(KEYS)) {
            if self.sizes.first_query(first) >= of.first + of.count {
                break;
            }
            let count = KEYS.min(keys - first);
            let columns = of.count;
            let queries = Right { values: space.queries, columns, steps: &space.steps[..width] };
            let left = (packed_keys, count);
            self.scores.multiply::<T>(left, queries, (space.scores, false), space.scratch);
            right &= all_right::<T>(self.scores, space.scores, (count, of.count));
            if let Some(mask) = self.sizes.mask {
                let head = of.sequence * self.sizes.settings.heads + of.head;
                let tile = Tile { head, queries: (of.first, of.count), keys: (first, count) };
                vectorized!(mask.draw(tile, self.sizes, &mut space.kept));
            }
            vectorized!(self.exponentials((of, first), count, &mut running, space));
            let probabilities =
                Right { values: space.probabilities, columns, steps: &space.steps[..count] };
            let left = (packed_values, width);
            self.results.multiply::<T>(left, probabilities, (space.results, true), space.scratch);
            right &= all_right::<T>(self.results, space.results, (width, of.count));
        }
        vectorized!(self.finish(of, &running, space.results, logs));
        right
    }

    /// Makes probabilities of a tile of scores, and brings sums and results to the new largest scores.
    #[inline(always)]
    fn exponentials(
        &self,
        (of, first_key): (Queries, usize),
        keys: usize,
        running: &mut Running,
        space: &mut Space<'_>,
    ) {
        let (scale, pitch) = (self.sizes.scale(), self.scores.pitch());
        let visible = |key: usize| {
            self.sizes.first_query(first_key + key).saturating_sub(of.first).min(of.count)
        };
        let mut largest = running.largest;
        let rows = space.scores.chunks_exact_mut(pitch).take(keys);
        for (key, scores) in rows.enumerate() {
            let first = visible(key);
            let columns = first..of.count;
            let largest = &mut largest[columns.clone()];
            for (largest, score) in largest.iter_mut().zip(&mut scores[columns]) {
                *score *= scale;
                *largest = if *score > *largest { *score } else { *largest };
            }
        }
        let mut factors = [1.0; QUERIES];
        for (query, factor) in factors[..of.count].iter_mut().enumerate() {
            let (old, new) = (running.largest[query], largest[query]);
            // Nothing to bring where nothing was seen.
            *factor = if new == f32::NEG_INFINITY { 1.0 } else { exp(old - new) };
            running.sum[query] *= *factor;
        }
        running.largest = largest;
        for results in space.results.chunks_exact_mut(self.results.pitch()) {
            for (result, factor) in results.iter_mut().zip(&factors[..of.count]) {
                *result *= factor;
            }
        }
        let mut narrow = [T::default(); QUERIES];
        let rows = space.scores.chunks_exact_mut(pitch).take(keys);
        for (key, scores) in rows.enumerate() {
            let first = visible(key);
            scores[..first].fill(0.0);
            let columns = first..of.count;
            let running =
                running.largest[columns.clone()].iter().zip(&mut running.sum[columns.clone()]);
            for (score, (largest, sum)) in scores[columns].iter_mut().zip(running) {
                *score = exp(*score - largest);
                *sum += *score;
            }
            if self.sizes.mask.is_some() {
                drop_others(&mut scores[..of.count], &space.kept[key * QUERIES..]);
            }
            let narrow = self.narrow.narrow(&mut scores[..of.count], &mut narrow);
            self.scores.tiles.put_line(narrow, space.probabilities, key * QUERIES);
        }
    }

    /// Divides by the sums, and stores.
    #[inline(always)]
    fn finish(&self, of: Queries, running: &Running, results: &mut [f32], logs: &mut [f32]) {
        let (width, scale) = (self.sizes.width, self.sizes.kept_scale());
        let pitch = self.results.pitch();
        // A query that sees a key has a sum of at least 1, or NaN.
        let sees_none = |sum: f32| sum == 0.0;
        for results in results.chunks_exact_mut(pitch).take(width) {
            for (result, sum) in results.iter_mut().zip(&running.sum[..of.count]) {
                *result = if sees_none(*sum) { 0.0 } else { *result / sum * scale };
            }
        }
        let mut lines = vec![0.0; of.count * width];
        turn(results, pitch, (width, of.count), &mut lines);
        for (query, (log, line)) in logs.iter_mut().zip(lines.chunks_exact(width)).enumerate() {
            let sum = running.sum[query];
            *log = if sees_none(sum) {
                f32::NEG_INFINITY
            } else {
                running.largest[query] + libm::logf(sum)
            };
            let row = of.sequence * self.sizes.queries + of.first + query;
            // SAFETY: one task has this head of this sequence.
            unsafe { self.y.write((row, of.head), line) };
        }
    }
}

/// Whether the first rows and columns of sums are right: see [`are_right`].
pub(super) fn all_right<T: Element>(
    product: TileProduct,
    sums: &[f32],
    (rows, columns): (usize, usize),
) -> bool {
    let mut rows = sums.chunks_exact(product.pitch()).take(rows);
    rows.all(|row| are_right::<T>(product.tiles, &row[..columns]))
}

/// Some rows of a head as the columns of a right operand, d × QUERIES.
pub(super) fn put_turned<T: Element>(
    heads: &Heads<'_, T>,
    (row, head): (usize, usize),
    rows: usize,
    (product, to): (TileProduct, &mut [u32]),
) {
    for first in (0..rows).step_by(LANES) {
        let lines = (first..rows.min(first + LANES)).map(|line| heads.row(row + line, head));
        vectorized!(product.tiles.put_across(lines, to, first, QUERIES));
    }
}
