//! Matrix products: operands in one type, sums in f32, one rounding.
//!
//! The structure is that of BLIS (Van Zee and van de Geijn 2015, doi 10.1145/2764454): operands are packed into panels in the order
//! in which a kernel reads them ([`pack`]), a kernel multiplies two panels into a tile of sums ([`kernel`]), and what is left of the
//! loops cuts the work for caches and threads. A finished row of sums gets its bias, is rounded, and stored.
//!
//! A result is the same on any number of threads, with any cut: it is a sum of blocks of 256 steps of the depth, added in order, and
//! each kernel's own order within a block. All kernels of f32 have the same, so that f32 products have the same bits on every
//! instruction set.
#![expect(unsafe_code, reason = "kernels read packed panels and write tiles through pointers")]
#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "kernels of pairs are there on x86-64 only")
)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod gather;
mod isa;
mod kernel;
mod pack;
mod portable;
mod space;
#[cfg(test)]
mod twin;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::DType;
use half::bf16;

pub(crate) use gather::{Strip, Tiles, are_right, with_fallback};
pub use isa::{Isa, IsaError, VARIABLE as ISA_VARIABLE, isa};
pub(crate) use kernel::{Kernels, LANES, MOST_GROUPS};
pub(crate) use pack::{DEPTH, Operand, transpose};

pub use space::work_space;
pub(crate) use space::{as_f32_mut, with_space};

use super::element::Element;
use super::host::Unwritten;
use super::parallel::{for_each, vectorized};
use super::pointwise::Then;
use crate::device::ProductPaths;
use crate::memory::OutOfMemory;
use kernel::{Left, PairTask, Paired, Path, Sums, Wide, WideTask};
use pack::{Part, pack_lines, pack_wide};

/// Rows or columns of the operand that all tasks share which are worked on at a time: with a block of the depth they stay in the
/// second-level cache.
const SHARED: usize = 192;

/// Most words that a task packs for itself of its own operand over a block of the depth; but for one panel, whatever it takes.
const OWN: usize = 24 * 1024;

/// Words that a cache moves at a time.
const LINE: usize = 16;

/// Sums of a task that are made at a time.
const SUMS: usize = 32 * 1024;

/// Tasks that a product is cut into if it has as many panels: enough for threads to end at about the same time.
const TASKS: usize = 16;

/// The kernels of this process.
///
/// # Errors
/// As [`isa()`].
pub(crate) fn kernels() -> Result<Kernels, IsaError> {
    isa().map(Kernels::of)
}

/// How products are computed here.
///
/// # Errors
/// As [`isa()`].
pub fn product_paths() -> Result<ProductPaths, IsaError> {
    let (isa, kernels) = (isa()?, kernels()?);
    let paths = kernels.paths().map(|(format, path)| format!("{format}: {path}"));
    // By their peak rates four products of AMX are faster than one of AVX512-FP16.
    let units: &[_] = if isa == Isa::Amx { &["amx-bf16", "avx512fp16"] } else { &[] };
    let bf16_flushes = matches!(kernels.path::<bf16>(), Path::Paired(_));
    Ok(ProductPaths { paths: paths.into(), bf16_flushes, units })
}

/// A product: `left × right`, and what its sums end with: a bias for each column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product<'a, T> {
    pub(crate) left: Operand<'a, T>,
    pub(crate) right: Operand<'a, T>,
    pub(crate) end: End<'a, T>,
}

/// What is done with finished sums before they are rounded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a, T> {
    /// Values to be added.
    pub(crate) bias: Option<&'a [T]>,
    pub(crate) then: Then,
}

impl<T> End<'_, T> {
    /// Nothing is done.
    pub(crate) const NONE: Self = Self { bias: None, then: Then::Nothing };

    /// Whether nothing is done.
    fn is_none(&self) -> bool {
        self.bias.is_none() && self.then == Then::Nothing
    }
}

/// Computes a product, row-major, each result rounded once.
///
/// # Errors
/// When there is no memory for the packed operands.
///
/// # Panics
/// When the sizes do not go together.
pub(crate) fn multiply<T: Element>(
    kernels: &Kernels,
    product: Product<'_, T>,
    out: Unwritten<'_, T>,
) -> Result<(), OutOfMemory> {
    let (rows, columns) = (product.left.outer, product.right.outer);
    assert!(product.left.depth == product.right.depth, "operands of different depths");
    let bias = product.end.bias;
    assert!(bias.is_none_or(|bias| bias.len() == columns), "a bias of another length");
    let write = |out: &mut [std::mem::MaybeUninit<T>]| {
        assert!(out.len() == rows * columns, "a result of another size");
        let mut target = Target {
            to: out.as_mut_ptr().cast(),
            columns,
            product,
            turned: false,
            finite: AtomicBool::new(true),
        };
        if let Path::Paired(paired) = kernels.path::<T>() {
            run(&PairedKernel(paired), &target)?;
            if T::PARTS == 1 || target.finite.load(Ordering::Relaxed) {
                return Ok(());
            }
            // An infinity times the second part of a value, 0, is a NaN. Sums of products of finite f16 cannot overflow, so that
            // what is not finite tells of such an operand.
        }
        target.turn();
        let Product { left, right, .. } = &target.product;
        let wide = kernels.wide(left.outer, right.outer);
        run(&WideKernel::new(wide, left.is_along_depth()), &target)
    };
    // SAFETY: a product writes every row and column of its result, or fails.
    unsafe { out.try_written_by(write) }
}

/// Where the results of a product go.
struct Target<'a, T> {
    to: *mut T,
    columns: usize,
    product: Product<'a, T>,
    /// Whether the operands have changed places: what is computed is the transpose of the result.
    turned: bool,
    /// Whether all sums were finite.
    finite: AtomicBool,
}

// SAFETY: tasks write disjoint parts of the result through it.
unsafe impl<T: Sync> Sync for Target<'_, T> {}

impl<T: Element> Target<'_, T> {
    /// Makes the larger operand the left one where both lie along the depth: kernels of f32 take the lines of the left one as they
    /// are, while those of the right one are turned.
    fn turn(&mut self) {
        let Product { left, right, .. } = &mut self.product;
        self.turned = left.is_along_depth() && right.is_along_depth() && right.outer > left.outer;
        if self.turned {
            std::mem::swap(left, right);
        }
    }

    /// The result itself, where it can hold sums before they are finished.
    fn direct(&self) -> Option<*mut f32> {
        (T::DTYPE == DType::F32 && !self.turned).then_some(self.to.cast())
    }

    /// Does with the sums of a row, from column `first` on, what they end with.
    fn end(&self, first: usize, sums: &mut [f32]) {
        let End { bias, then } = self.product.end;
        if let Some(bias) = bias {
            let mut wide = [0.0; 64];
            vectorized!(for (sums, bias) in sums.chunks_mut(64).zip(bias[first..].chunks(64)) {
                let bias = T::widened(&bias[..sums.len()], &mut wide);
                for (sum, bias) in sums.iter_mut().zip(bias) {
                    *sum += bias;
                }
            });
        }
        if then == Then::Relu {
            vectorized!(for sum in &mut *sums {
                *sum = then.apply(*sum);
            });
        }
    }

    /// Finishes the sums of a row, from column `first` on.
    ///
    /// # Safety
    /// Nobody else reads or writes these results.
    unsafe fn finish(&self, row: usize, first: usize, sums: &mut [f32]) {
        if T::PARTS > 1 && !vectorized!(all_finite(sums)) {
            self.finite.store(false, Ordering::Relaxed);
        }
        self.end(first, sums);
        assert!(first + sums.len() <= self.columns);
        // SAFETY: the row has these columns, and nobody else has them.
        unsafe { vectorized!(T::write(sums, self.to.add(row * self.columns + first))) };
    }

    /// Finishes `count` sums of a row, from column `first` on, that are in the result itself.
    ///
    /// # Safety
    /// As of [`Target::finish`], and the sums were written there.
    unsafe fn finish_in_place(&self, row: usize, first: usize, count: usize) {
        let Some(to) = self.direct().filter(|_| !self.product.end.is_none()) else { return };
        assert!(first + count <= self.columns);
        // SAFETY: the row has these columns, of f32, which have values, and nobody else has them.
        let sums =
            unsafe { std::slice::from_raw_parts_mut(to.add(row * self.columns + first), count) };
        self.end(first, sums);
    }
}

/// Whether all sums are finite.
#[inline(always)]
fn all_finite(sums: &[f32]) -> bool {
    sums.iter().fold(true, |all, sum| all & sum.is_finite())
}

/// What the loops need to know of a kernel.
trait Kernel<T>: Sync {
    fn rows(&self) -> usize;
    fn columns(&self) -> usize;
    /// Values of the depth in a block.
    fn block(&self) -> usize;
    /// Words of a panel over so many values of the depth.
    fn left_len(&self, depth: usize) -> usize;
    fn right_len(&self, depth: usize) -> usize;
    /// Packs panels, one after the other.
    fn pack_left(&self, operand: &Operand<'_, T>, part: &Part, panels: &mut [u32]);
    fn pack_right(&self, operand: &Operand<'_, T>, part: &Part, panels: &mut [u32]);
    /// Multiplies two panels over so many values of the depth.
    ///
    /// # Safety
    /// The sums have the kernel's rows and columns, and the kernel was entered.
    unsafe fn tile(&self, depth: usize, panels: TileOperands<'_>, sums: Sums);
    fn enter(&self) {}
    fn leave(&self) {}
}

/// Two panels that are multiplied.
#[derive(Clone, Copy)]
struct TileOperands<'a> {
    left: &'a [u32],
    right: &'a [u32],
    /// What is read soon after.
    ahead: &'a [u32],
}

/// A kernel of f32 on packed panels.
struct WideKernel {
    wide: Wide,
    /// Whether the values of one row for all steps stand side by side in a panel of the left operand; else those of all rows for one
    /// step.
    lines: bool,
    /// Where each step of a packed panel of the right operand starts.
    steps: [usize; DEPTH],
}

impl WideKernel {
    fn new(wide: Wide, lines: bool) -> Self {
        Self { wide, lines, steps: std::array::from_fn(|step| step * wide.columns()) }
    }
}

impl<T: Element> Kernel<T> for WideKernel {
    fn rows(&self) -> usize {
        self.wide.rows
    }

    fn columns(&self) -> usize {
        self.wide.columns()
    }

    fn block(&self) -> usize {
        DEPTH
    }

    fn left_len(&self, depth: usize) -> usize {
        self.wide.rows * depth
    }

    fn right_len(&self, depth: usize) -> usize {
        self.wide.columns() * depth
    }

    fn pack_left(&self, operand: &Operand<'_, T>, part: &Part, panels: &mut [u32]) {
        if self.lines {
            pack_lines(operand, part, panels);
        } else {
            pack_wide(operand, part, self.wide.rows, panels);
        }
    }

    fn pack_right(&self, operand: &Operand<'_, T>, part: &Part, panels: &mut [u32]) {
        pack_wide(operand, part, self.wide.columns(), panels);
    }

    unsafe fn tile(&self, depth: usize, panels: TileOperands<'_>, sums: Sums) {
        let TileOperands { left, right, ahead } = panels;
        assert!(left.len() >= self.wide.rows * depth && right.len() >= self.wide.columns() * depth);
        let (row, step) = if self.lines { (depth, 1) } else { (1, self.wide.rows) };
        let left = Left { start: left.as_ptr().cast(), row, step };
        let right = right.as_ptr().cast::<f32>();
        let groups: [*const f32; MOST_GROUPS] =
            std::array::from_fn(|group| right.wrapping_add(group * LANES));
        let (groups, steps) = (groups.as_ptr(), self.steps.as_ptr());
        let task = WideTask { depth, left, groups, steps, ahead: ahead.as_ptr().cast() };
        // SAFETY: panels of this depth and these widths, and the caller's promise.
        unsafe { (self.wide.tile)(&task, sums) };
    }
}

/// A kernel of pairs on packed panels.
struct PairedKernel(&'static Paired);

impl<T: Element> Kernel<T> for PairedKernel {
    fn rows(&self) -> usize {
        self.0.left.width
    }

    fn columns(&self) -> usize {
        self.0.right.width
    }

    fn block(&self) -> usize {
        DEPTH
    }

    fn left_len(&self, depth: usize) -> usize {
        self.0.left.len::<T>(depth)
    }

    fn right_len(&self, depth: usize) -> usize {
        self.0.right.len::<T>(depth)
    }

    fn pack_left(&self, operand: &Operand<'_, T>, part: &Part, panels: &mut [u32]) {
        self.0.left.pack(operand, part, panels);
    }

    fn pack_right(&self, operand: &Operand<'_, T>, part: &Part, panels: &mut [u32]) {
        self.0.right.pack(operand, part, panels);
    }

    unsafe fn tile(&self, depth: usize, panels: TileOperands<'_>, sums: Sums) {
        let TileOperands { left, right, .. } = panels;
        assert!(left.len() >= self.0.left.len::<T>(depth));
        assert!(right.len() >= self.0.right.len::<T>(depth));
        let steps = self.0.left.steps(depth);
        let task = PairTask { steps, left: left.as_ptr(), right: right.as_ptr() };
        // SAFETY: panels of this depth and these forms, and the caller's promise.
        unsafe { (self.0.tile)(task, sums) };
    }

    fn enter(&self) {
        (self.0.enter)();
    }

    fn leave(&self) {
        (self.0.leave)();
    }
}

/// Panels of one operand: `count` of them, block of the depth after block.
#[derive(Clone, Copy)]
struct Panels<'a> {
    words: &'a [u32],
    count: usize,
    /// Words of a whole block of one panel.
    whole: usize,
}

impl<'a> Panels<'a> {
    /// Panel `index` of block `block`, which has `len` words.
    fn panel(self, block: usize, index: usize, len: usize) -> &'a [u32] {
        &self.words[block * self.count * self.whole + index * len..][..len]
    }
}

/// The two operands of a product, as its tasks see them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The smaller one: packed once, whole, for all tasks.
    Shared,
    /// The larger one: each task packs a part of it for itself.
    Own,
}

/// A product on its way: what its tasks need to know.
struct Run<'a, T, K> {
    kernel: &'a K,
    target: &'a Target<'a, T>,
    /// Whether the left operand is the shared one.
    shares_left: bool,
    /// The ranges of the depth that are packed and multiplied one after the other.
    blocks: Vec<Range<usize>>,
    /// Panels of the own operand that a task has.
    own: usize,
    /// Panels of the shared operand that a task works on at a time.
    at_once: usize,
}

/// Computes a product with a kernel.
fn run<T: Element, K: Kernel<T>>(kernel: &K, target: &Target<'_, T>) -> Result<(), OutOfMemory> {
    let Product { left, right, .. } = target.product;
    let blocks = (0..left.depth).step_by(kernel.block());
    let blocks = blocks.map(|start| start..(start + kernel.block()).min(left.depth)).collect();
    let shares_left = left.outer <= right.outer;
    let mut run = Run { kernel, target, shares_left, blocks, own: 1, at_once: 1 };
    let own = OWN / run.words(Role::Own, kernel.block().min(left.depth)).max(1);
    run.own = own.min(run.panels(Role::Own).div_ceil(TASKS)).max(1);
    let at_once = SHARED.min(SUMS / (run.own * run.width(Role::Own)));
    run.at_once = (at_once / run.width(Role::Shared)).max(1);
    run.run()
}

impl<T: Element, K: Kernel<T>> Run<'_, T, K> {
    /// Whether this operand is the left one.
    fn is_left(&self, role: Role) -> bool {
        (role == Role::Shared) == self.shares_left
    }

    /// Rows or columns of a panel.
    fn width(&self, role: Role) -> usize {
        if self.is_left(role) { self.kernel.rows() } else { self.kernel.columns() }
    }

    /// Panels of an operand.
    fn panels(&self, role: Role) -> usize {
        let Product { left, right, .. } = &self.target.product;
        let outer = if self.is_left(role) { left.outer } else { right.outer };
        outer.div_ceil(self.width(role))
    }

    /// Words of a panel over so many values of the depth.
    fn words(&self, role: Role, depth: usize) -> usize {
        if self.is_left(role) { self.kernel.left_len(depth) } else { self.kernel.right_len(depth) }
    }

    /// Words of a panel over all blocks.
    fn all_words(&self, role: Role) -> usize {
        self.blocks.iter().map(|block| self.words(role, block.len())).sum()
    }

    /// Panels of an operand that were packed.
    fn packed<'a>(&self, role: Role, words: &'a [u32], count: usize) -> Panels<'a> {
        let whole = self.blocks.first().map_or(0, |block| self.words(role, block.len()));
        Panels { words, count, whole }
    }

    fn pack(&self, role: Role, part: &Part, panels: &mut [u32]) {
        let Product { left, right, .. } = &self.target.product;
        if self.is_left(role) {
            self.kernel.pack_left(left, part, panels);
        } else {
            self.kernel.pack_right(right, part, panels);
        }
    }

    fn run(&self) -> Result<(), OutOfMemory> {
        let count = self.panels(Role::Shared);
        let failed: OnceLock<OutOfMemory> = OnceLock::new();
        with_space(self.all_words(Role::Shared) * count, |space| {
            self.pack_shared(space);
            let shared = self.packed(Role::Shared, space, count);
            let firsts = (0..self.panels(Role::Own)).step_by(self.own).collect();
            for_each(firsts, |_, first| {
                if let Err(error) = self.task(shared, first) {
                    _ = failed.set(error);
                }
            });
        })?;
        failed.into_inner().map_or(Ok(()), Err)
    }

    /// Packs all of the shared operand.
    fn pack_shared(&self, space: &mut [u32]) {
        let (count, width) = (self.panels(Role::Shared), self.width(Role::Shared));
        let together = count.div_ceil(TASKS);
        let mut tasks = Vec::new();
        let mut rest = space;
        for depth in &self.blocks {
            let len = self.words(Role::Shared, depth.len());
            let (block, after) = rest.split_at_mut(len * count);
            rest = after;
            for (index, panels) in block.chunks_mut(len * together).enumerate() {
                let part = Part { first: index * together * width, depth: depth.clone() };
                tasks.push((part, panels));
            }
        }
        for_each(tasks, |_, (part, panels): (Part, &mut [u32])| {
            self.pack(Role::Shared, &part, panels);
        });
    }

    /// Multiplies some panels of the own operand, from `first` on, by all of the shared one.
    fn task(&self, shared: Panels<'_>, first: usize) -> Result<(), OutOfMemory> {
        let count = self.own.min(self.panels(Role::Own) - first);
        let own_words = (self.all_words(Role::Own) * count).next_multiple_of(16);
        let sums = count * self.width(Role::Own) * self.at_once * self.width(Role::Shared);
        let turned = if self.target.turned { sums } else { 0 };
        with_space(own_words + sums + turned, |space| {
            let (own, sums) = space.split_at_mut(own_words);
            let mut rest = &mut own[..];
            for depth in &self.blocks {
                let len = self.words(Role::Own, depth.len()) * count;
                let (panels, after) = rest.split_at_mut(len);
                rest = after;
                let part = Part { first: first * self.width(Role::Own), depth: depth.clone() };
                self.pack(Role::Own, &part, panels);
            }
            let own = self.packed(Role::Own, own, count);
            self.kernel.enter();
            for start in (0..shared.count).step_by(self.at_once) {
                let part = start..(start + self.at_once).min(shared.count);
                self.multiply((shared, own), first, part, as_f32_mut(sums));
            }
            self.kernel.leave();
        })
    }

    /// Multiplies a task's panels by a part of the shared ones, and finishes the sums.
    fn multiply(
        &self,
        (shared, own): (Panels<'_>, Panels<'_>),
        first: usize,
        part: Range<usize>,
        sums: &mut [f32],
    ) {
        let (kernel, own_range) = (self.kernel, 0..own.count);
        let (rows, columns) = (kernel.rows(), kernel.columns());
        let (lefts, rights, row, column) = if self.shares_left {
            (part.clone(), own_range, part.start * rows, first * columns)
        } else {
            (own_range, part.clone(), first * rows, part.start * columns)
        };
        let (left_panels, right_panels) =
            if self.shares_left { (shared, own) } else { (own, shared) };
        let pitch = rights.len() * columns;
        let Product { left, right, .. } = &self.target.product;
        let valid = pitch.min(right.outer - column);
        let valid_rows = (lefts.len() * rows).min(left.outer - row);
        // Whole tiles of the result need no other place for their sums.
        let direct = self.target.direct();
        let (whole, whole_rows) =
            direct.map_or((0, 0), |_| (valid / columns * columns, valid_rows / rows * rows));
        for (block, depth) in self.blocks.iter().enumerate() {
            let depth = depth.len();
            for (tile_column, right) in rights.clone().enumerate() {
                let len = kernel.right_len(depth);
                let next = if right + 1 < rights.end { right + 1 } else { right };
                let next = right_panels.panel(block, next, len);
                let right = right_panels.panel(block, right, len);
                for (tile_row, left) in lefts.clone().enumerate() {
                    let left = left_panels.panel(block, left, kernel.left_len(depth));
                    // Each tile asks for another part of the panel that follows.
                    let ahead = next.get(tile_row * depth * LINE..).unwrap_or(right);
                    let (first_row, first) = (tile_row * rows, tile_column * columns);
                    let (to, pitch) = match direct {
                        Some(to) if first_row < whole_rows && first < whole => {
                            let pitch = self.target.columns;
                            (to.wrapping_add((row + first_row) * pitch + column + first), pitch)
                        }
                        _ => {
                            let tile = &mut sums[first_row * pitch + first..];
                            assert!(tile.len() >= (rows - 1) * pitch + columns, "a tile cut short");
                            (tile.as_mut_ptr(), pitch)
                        }
                    };
                    let sums = Sums { to, pitch, add: block > 0 };
                    // SAFETY: the tile has the kernel's rows and columns, in the sums or in the result, where nobody else writes it,
                    // and the caller has entered the kernel.
                    unsafe { kernel.tile(depth, TileOperands { left, right, ahead }, sums) };
                }
            }
        }
        if self.target.turned {
            return self.finish_turned((row, column), (valid_rows, valid), pitch, sums);
        }
        for (index, sums) in sums.chunks_mut(pitch).take(valid_rows).enumerate() {
            let done = if index < whole_rows { whole } else { 0 };
            // SAFETY: each task has rows or columns of its own, and each part of them is finished once.
            unsafe {
                self.target.finish_in_place(row + index, column, done);
                self.target.finish(row + index, column + done, &mut sums[done..valid]);
            }
        }
    }

    /// Finishes sums of a result that is transposed: `rows` lines of `columns` sums, `pitch` apart, and behind them room for as many.
    fn finish_turned(
        &self,
        (row, column): (usize, usize),
        (rows, columns): (usize, usize),
        pitch: usize,
        sums: &mut [f32],
    ) {
        let (sums, space) = sums.split_at_mut(rows.next_multiple_of(self.kernel.rows()) * pitch);
        let mut lines = sums.chunks_exact(pitch).take(rows);
        for lane in (0..rows).step_by(8) {
            let lines: [&[f32]; 8] = std::array::from_fn(|_| {
                lines.next().map_or(&sums[..columns], |line| &line[..columns])
            });
            transpose(lines, &mut space[lane..], rows, (rows - lane).min(8));
        }
        for (index, sums) in space.chunks_exact_mut(rows).take(columns).enumerate() {
            // SAFETY: each task has rows or columns of its own, and each part of them is finished once.
            unsafe { self.target.finish(column + index, row, sums) };
        }
    }
}
