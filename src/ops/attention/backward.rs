//! The backward pass, after Dao 2023, arXiv 2307.08691: with p = eˢ⁻ˡ, where l is the logarithm of the sum of the exponentials, and D the
//! product of a row of dy and that of y, the gradient of a score is p (dp − D), with dp = dy vᵀ; where dropout drops, dp is 0, and where
//! it keeps, 1 / (1 − its probability) times that. Of one head of keys and all heads of
//! queries that see it, so that sums over queries are of one task, in order.
//!
//! Scores are keys × queries, as in the forward pass.
#![expect(unsafe_code, reason = "tasks write the values of their heads, which alternate in memory")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Result;

use super::super::element::Element;
use super::super::exponential::exp;
use super::super::host::zeroed;
use super::super::matmul::LANES;
use super::super::matmul::{Kernels, Operand, as_f32_mut, with_fallback, with_space};
use super::super::parallel::{carve, for_each, sum, vectorized};
use super::Sizes;
use super::forward::{all_right, put_turned};
use super::mask::{Tile, drop_others, scale_kept};
use super::products::{
    Heads, HeadsMut, KEYS, MakeTiles, Narrow, QUERIES, Right, TileProduct, right_words, steps, turn,
};
use crate::memory::OutOfMemory;

/// The gradients with respect to q, k and v.
pub(super) fn backward<T: Element>(
    kernels: &Kernels,
    inputs: ([&[T]; 3], (&[T], &[T], &[f32])),
    lengths: &[usize],
    sizes: &Sizes,
) -> Result<[Vec<T>; 3]> {
    let [q, k, v] = inputs.0;
    let mut gradients = [zeroed::<T>(q.len())?, zeroed::<T>(k.len())?, zeroed::<T>(v.len())?];
    with_fallback::<T>(kernels, |make| {
        let gradients = gradients.each_mut().map(Vec::as_mut_slice);
        Ok(Backward::new(make, inputs, (gradients, sizes)).run(lengths)?)
    })?;
    Ok(gradients)
}

/// A backward pass, as its tasks see it.
struct Backward<'a, T> {
    sizes: &'a Sizes,
    /// Keys by queries, and values by rows of dy.
    scores: TileProduct,
    /// Probabilities by rows of dy, and gradients of scores by queries.
    of_keys: TileProduct,
    /// Keys by gradients of scores.
    of_queries: TileProduct,
    q: Heads<'a, T>,
    k: Heads<'a, T>,
    v: Heads<'a, T>,
    dy: Heads<'a, T>,
    y: Heads<'a, T>,
    logs: &'a [f32],
    gradients: [HeadsMut<'a, T>; 3],
    narrow: Narrow,
}

/// The packed keys and values of a head, tile after tile.
struct Packed<'a> {
    keys: &'a mut [u32],
    values: &'a mut [u32],
    /// Transposed: d × keys.
    across: &'a mut [u32],
    /// The sums of the gradients of keys and values.
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// What a task works in for one tile of queries.
struct Space<'a> {
    /// Queries and rows of dy as right operands: transposed, and as they are.
    queries: [&'a mut [u32]; 2],
    turned: [&'a mut [u32]; 2],
    /// The gradients of a tile of scores as right operand.
    right: &'a mut [u32],
    /// A tile of probabilities or of gradients of scores as left operand.
    left: &'a mut [u32],
    scores: &'a mut [f32],
    products: &'a mut [f32],
    dq: &'a mut [f32],
    scratch: &'a mut [u32],
    /// Where rows of a tile of queries, and of d values, start.
    steps: &'a [usize],
    wide_steps: &'a [usize],
    logs: [f32; QUERIES],
    /// Σ dy y of each query.
    along: [f32; QUERIES],
    /// Which probabilities of a tile are kept, where some are dropped.
    kept: Vec<bool>,
}

/// A tile of queries of one head.
#[derive(Clone, Copy)]
struct Queries {
    /// The first row in tensors, and in its sequence.
    row: usize,
    first: usize,
    head: usize,
    count: usize,
}

impl<'a, T: Element> Backward<'a, T> {
    fn new(
        make: MakeTiles<'_>,
        ([q, k, v], (dy, y, logs)): ([&'a [T]; 3], (&'a [T], &'a [T], &'a [f32])),
        ([dq, dk, dv], sizes): ([&'a mut [T]; 3], &'a Sizes),
    ) -> Self {
        let (width, settings) = (sizes.width, sizes.settings);
        let of_queries = |values| Heads::new(values, settings.heads, width);
        let of_keys = |values| Heads::new(values, settings.kv_heads, width);
        Self {
            sizes,
            scores: TileProduct::along_depth(make, KEYS, QUERIES),
            of_keys: TileProduct::along_depth(make, KEYS, width),
            of_queries: TileProduct::across_depth(make, width, QUERIES),
            q: of_queries(q),
            k: of_keys(k),
            v: of_keys(v),
            dy: of_queries(dy),
            y: of_queries(y),
            logs,
            gradients: [
                HeadsMut::new(dq, settings.heads, width),
                HeadsMut::new(dk, settings.kv_heads, width),
                HeadsMut::new(dv, settings.kv_heads, width),
            ],
            narrow: Narrow::of::<T>(settings.format),
        }
    }

    /// Whether the gradients are right.
    fn run(&self, lengths: &[usize]) -> std::result::Result<bool, OutOfMemory> {
        let (right, failed) = (AtomicBool::new(true), OnceLock::new());
        let kv_heads = self.sizes.settings.kv_heads;
        let tasks = (0..self.sizes.sequences * kv_heads).collect();
        for_each(tasks, |_, task: usize| {
            let (sequence, kv_head) = (task / kv_heads, task % kv_heads);
            match self.task((sequence, kv_head), lengths[sequence]) {
                Ok(true) => {}
                Ok(false) => right.store(false, Ordering::Relaxed),
                Err(error) => _ = failed.set(error),
            }
        });
        failed.into_inner().map_or_else(|| Ok(right.into_inner()), Err)
    }

    /// From one row of d values as right operand to the next.
    fn wide_pitch(&self) -> usize {
        self.sizes.width.next_multiple_of(LANES)
    }

    /// Words of a tile's packed keys or values, of its transposed keys, and of its probabilities.
    fn left_words(&self) -> [usize; 3] {
        let width = self.sizes.width;
        [
            self.scores.left_words::<T>(KEYS, width),
            self.of_queries.left_words::<T>(width, KEYS),
            self.of_keys.left_words::<T>(KEYS, QUERIES),
        ]
    }

    /// One head of keys and the heads of queries that see it.
    fn task(
        &self,
        (sequence, kv_head): (usize, usize),
        keys: usize,
    ) -> std::result::Result<bool, OutOfMemory> {
        let (width, tiles, count) = (self.sizes.width, self.scores.tiles, keys.div_ceil(KEYS));
        let [packed, across, left] = self.left_words();
        let turned = right_words::<T>(tiles, width, QUERIES);
        let plain = right_words::<T>(tiles, QUERIES, self.wide_pitch());
        let scores = self.scores.sums();
        let of_head = [count * packed, count * packed, count * across];
        let sums = [count * self.of_keys.sums(); 2];
        let right = right_words::<T>(tiles, KEYS, QUERIES);
        let lengths = [
            of_head.iter().chain(&sums).sum(),
            turned,
            turned,
            plain,
            plain,
            right,
            left,
            scores,
            scores,
            self.of_queries.sums(),
            tiles.scratch::<T>(),
        ];
        let steps_of = (steps(width.max(KEYS), QUERIES), steps(QUERIES, self.wide_pitch()));
        with_space(lengths.iter().sum(), |space| {
            let [packed, a, b, c, d, right, left, scores, products, dq, scratch] =
                carve(space, lengths);
            let [keys_words, values, across, dk, dv] =
                carve(packed, [of_head[0], of_head[1], of_head[2], sums[0], sums[1]]);
            let (dk, dv) = (as_f32_mut(dk), as_f32_mut(dv));
            let mut packed = Packed { keys: keys_words, values, across, dk, dv };
            let mut space = Space {
                queries: [c, d],
                turned: [a, b],
                right,
                left,
                scores: as_f32_mut(scores),
                products: as_f32_mut(products),
                dq: as_f32_mut(dq),
                scratch,
                steps: &steps_of.0,
                wide_steps: &steps_of.1,
                logs: [0.0; QUERIES],
                along: [0.0; QUERIES],
                kept: vec![true; if self.sizes.mask.is_some() { KEYS * QUERIES } else { 0 }],
            };
            self.pack((sequence, kv_head), keys, &mut packed);
            tiles.enter();
            let right = self.heads((sequence, kv_head), keys, &mut packed, &mut space);
            tiles.leave();
            self.store((sequence, kv_head), keys, &packed);
            right
        })
    }

    /// Packs the keys and values of a head.
    fn pack(&self, (sequence, kv_head): (usize, usize), keys: usize, packed: &mut Packed<'_>) {
        let width = self.sizes.width;
        let [words, across_words, _] = self.left_words();
        packed.dk.fill(0.0);
        packed.dv.fill(0.0);
        let tiles = packed.keys.chunks_mut(words).zip(packed.values.chunks_mut(words));
        let tiles = tiles.zip(packed.across.chunks_mut(across_words)).zip((0..keys).step_by(KEYS));
        for (((to_keys, to_values), to_across), first) in tiles {
            let (row, count) = (sequence * self.sizes.keys + first, KEYS.min(keys - first));
            for (heads, to) in [(&self.k, to_keys), (&self.v, to_values)] {
                let lines = heads.from(row, kv_head);
                let operand = Operand::along_depth_apart(lines, (count, width), heads.pitch());
                self.scores.pack(&operand, to);
            }
            let k = self.k.from(row, kv_head);
            let operand = Operand::across_depth_apart(k, (width, count), self.k.pitch());
            self.of_queries.pack(&operand, to_across);
        }
    }

    /// All queries that see a head of keys. Whether their gradients are right.
    fn heads(
        &self,
        (sequence, kv_head): (usize, usize),
        keys: usize,
        packed: &mut Packed<'_>,
        space: &mut Space<'_>,
    ) -> bool {
        let Sizes { queries, .. } = *self.sizes;
        let mut right = true;
        for head in kv_head * self.sizes.group()..(kv_head + 1) * self.sizes.group() {
            for first in (0..queries).step_by(QUERIES) {
                let (row, count) = (sequence * queries + first, QUERIES.min(queries - first));
                let of = Queries { row, first, head, count };
                let logs = (sequence * self.sizes.settings.heads + head) * queries + first;
                space.logs[..count].copy_from_slice(&self.logs[logs..logs + count]);
                self.put_queries(of, space);
                right &= self.tile(of, keys, packed, space);
                vectorized!(self.store_queries(of, space));
            }
        }
        right
    }

    /// Queries and rows of dy as right operands, and Σ dy y.
    fn put_queries(&self, of: Queries, space: &mut Space<'_>) {
        let (tiles, width) = (self.scores.tiles, self.sizes.width);
        let mut buffers = vec![0.0; 2 * width];
        for (heads, (turned, plain)) in
            [&self.q, &self.dy].into_iter().zip(space.turned.iter_mut().zip(&mut space.queries))
        {
            put_turned(heads, (of.row, of.head), of.count, (self.scores, &mut **turned));
            for query in 0..of.count {
                let values = heads.row(of.row + query, of.head);
                vectorized!(tiles.put_line(values, plain, query * self.wide_pitch()));
            }
        }
        for (query, along) in space.along[..of.count].iter_mut().enumerate() {
            let rows = [&self.dy, &self.y].map(|heads| heads.row(of.row + query, of.head));
            vectorized!({
                let [dy, y] = carve(&mut buffers, [width; 2]);
                T::widen(rows[0], dy);
                T::widen(rows[1], y);
                for (dy, y) in dy.iter_mut().zip(&*y) {
                    *dy *= y;
                }
                *along = sum(dy);
            });
        }
    }

    /// What one tile of queries adds to the gradients. Whether it is right.
    fn tile(
        &self,
        of: Queries,
        keys: usize,
        packed: &mut Packed<'_>,
        space: &mut Space<'_>,
    ) -> bool {
        let (width, columns) = (self.sizes.width, of.count);
        let [words, across_words, _] = self.left_words();
        let sums = self.of_keys.sums();
        let mut right = true;
        space.dq.fill(0.0);
        for (tile, first) in (0..keys).step_by(KEYS).enumerate() {
            if self.sizes.first_query(first) >= of.first + of.count {
                break;
            }
            let count = KEYS.min(keys - first);
            let steps = &space.steps[..width];
            let packed_sides = [&packed.keys[tile * words..], &packed.values[tile * words..]];
            let results = [&mut *space.scores, &mut *space.products];
            for ((left, turned), to) in packed_sides.into_iter().zip(&space.turned).zip(results) {
                let values = Right { values: turned, columns, steps };
                self.scores.multiply::<T>((left, count), values, (to, false), space.scratch);
                right &= all_right::<T>(self.scores, to, (count, columns));
            }
            self.draw(of, (first, count), space);
            vectorized!(self.probabilities((of, first), count, space));
            self.add_to_keys((of, count), &mut packed.dv[tile * sums..][..sums], (1, &mut *space));
            vectorized!(self.score_gradients((of, first), count, space));
            self.add_to_keys((of, count), &mut packed.dk[tile * sums..][..sums], (0, &mut *space));
            let values = Right { values: space.right, columns, steps: &space.steps[..count] };
            let left = (&packed.across[tile * across_words..], width);
            self.of_queries.multiply::<T>(left, values, (space.dq, true), space.scratch);
            for sums in [&packed.dv, &packed.dk].map(|all| &all[tile * sums..][..sums]) {
                right &= all_right::<T>(self.of_keys, sums, (count, width));
            }
            right &= all_right::<T>(self.of_queries, space.dq, (width, columns));
        }
        right
    }

    /// Which probabilities of a tile are kept, and the gradients with respect to all of them from those of what is left.
    fn draw(&self, of: Queries, (first, count): (usize, usize), space: &mut Space<'_>) {
        let Some(mask) = self.sizes.mask else { return };
        let sequence = of.row / self.sizes.queries;
        let head = sequence * self.sizes.settings.heads + of.head;
        let tile = Tile { head, queries: (of.first, of.count), keys: (first, count) };
        vectorized!({
            mask.draw(tile, self.sizes, &mut space.kept);
            let rows = space.products.chunks_exact_mut(self.scores.pitch());
            for (products, kept) in rows.zip(space.kept.chunks_exact(QUERIES)).take(count) {
                scale_kept(&mut products[..of.count], kept, mask.scale());
            }
        });
    }

    /// The first query of a tile that sees a key.
    fn first_seeing(&self, of: Queries, key: usize) -> usize {
        self.sizes.first_query(key).saturating_sub(of.first).min(of.count)
    }

    /// Makes probabilities of a tile of scores, and rounds them.
    #[inline(always)]
    fn probabilities(&self, (of, first_key): (Queries, usize), keys: usize, space: &mut Space<'_>) {
        let (scale, pitch) = (self.sizes.scale(), self.scores.pitch());
        let (mut rounded, mut narrow) = ([0.0; QUERIES], [T::default(); QUERIES]);
        let rows = space.scores.chunks_exact_mut(pitch).take(keys);
        for (key, scores) in rows.enumerate() {
            let first = self.first_seeing(of, first_key + key);
            scores[..first].fill(0.0);
            let logs = &space.logs[first..of.count];
            for (score, log) in scores[first..of.count].iter_mut().zip(logs) {
                *score = exp(*score * scale - log);
            }
            let rounded = &mut rounded[..of.count];
            rounded.copy_from_slice(&scores[..of.count]);
            if self.sizes.mask.is_some() {
                drop_others(rounded, &space.kept[key * QUERIES..]);
            }
            let narrow = self.narrow.narrow(rounded, &mut narrow);
            self.of_keys.tiles.put_left(narrow, key, space.left);
        }
    }

    /// The gradients of a tile of scores from their probabilities and dp, rounded.
    #[inline(always)]
    fn score_gradients(
        &self,
        (of, first_key): (Queries, usize),
        keys: usize,
        space: &mut Space<'_>,
    ) {
        let pitch = self.scores.pitch();
        let mut narrow = [T::default(); QUERIES];
        let rows = space.scores.chunks_exact_mut(pitch).zip(space.products.chunks_exact(pitch));
        for (key, (scores, products)) in rows.take(keys).enumerate() {
            let first = self.first_seeing(of, first_key + key);
            let columns = first..of.count;
            let inputs = products[columns.clone()].iter().zip(&space.along[columns.clone()]);
            for (score, (product, along)) in scores[columns].iter_mut().zip(inputs) {
                *score *= product - along;
            }
            let narrow = self.narrow.narrow(&mut scores[..of.count], &mut narrow);
            self.of_keys.tiles.put_left(narrow, key, space.left);
            self.scores.tiles.put_line(narrow, space.right, key * QUERIES);
        }
    }

    /// Adds the product of what is in `space.left` and the queries or the rows of dy to sums of keys or values.
    fn add_to_keys(
        &self,
        (of, keys): (Queries, usize),
        sums: &mut [f32],
        (side, space): (usize, &mut Space<'_>),
    ) {
        let (values, steps) = (&*space.queries[side], &space.wide_steps[..of.count]);
        let values = Right { values, columns: self.sizes.width, steps };
        self.of_keys.multiply::<T>((space.left, keys), values, (sums, true), space.scratch);
    }

    /// Stores the gradient of a tile of queries.
    #[inline(always)]
    fn store_queries(&self, of: Queries, space: &Space<'_>) {
        let (width, scale) = (self.sizes.width, self.sizes.scale());
        let mut lines = vec![0.0; of.count * width];
        turn(space.dq, self.of_queries.pitch(), (width, of.count), &mut lines);
        for (query, line) in lines.chunks_exact_mut(width).enumerate() {
            for value in &mut *line {
                *value *= scale;
            }
            // SAFETY: one task has this head of this sequence.
            unsafe { self.gradients[0].write((of.row + query, of.head), line) };
        }
    }

    /// Stores the gradients of a head of keys and values.
    fn store(&self, (sequence, kv_head): (usize, usize), keys: usize, packed: &Packed<'_>) {
        let (width, scale, kept) = (self.sizes.width, self.sizes.scale(), self.sizes.kept_scale());
        let (sums, pitch) = (self.of_keys.sums(), self.of_keys.pitch());
        let mut line = vec![0.0; width];
        for key in 0..keys {
            let at = (sequence * self.sizes.keys + key, kv_head);
            let start = key / KEYS * sums + key % KEYS * pitch;
            for (value, sum) in line.iter_mut().zip(&packed.dk[start..]) {
                *value = sum * scale;
            }
            // SAFETY: one task has this head of this sequence.
            unsafe { self.gradients[1].write(at, &line) };
            for (value, sum) in line.iter_mut().zip(&packed.dv[start..]) {
                *value = sum * kept;
            }
            // SAFETY: as above.
            unsafe { self.gradients[2].write(at, &line) };
        }
    }
}
