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
use super::parallel::{for_each, for_each_index, threads, vectorized};
use super::pointwise::Then;
use crate::device::ProductPaths;
use crate::memory::OutOfMemory;
use kernel::{Left, PairTask, Paired, Path, Sums, Wide, WideTask};
use pack::{Part, pack_lines, pack_wide};

/// Rows or columns of the operand that all tasks share which are worked on at a time: with a block of the depth they stay in the
/// second-level cache.
const SHARED: usize = 192;

/// Most words of its own operand that a task works on over a block of the depth; but for one panel, whatever it takes.
const OWN: usize = 24 * 1024;

/// Words that a page of memory has at least.
const PAGE: usize = 1024;

/// Words that a cache moves at a time.
const LINE: usize = 16;

/// Sums of a task that are made at a time.
const SUMS: usize = 32 * 1024;

/// Tasks for each thread that a product is cut into at least if it has as many panels: enough for threads to end at about the same
/// time.
const TASKS: usize = 3;

/// Pieces that a block of the shared operand is packed in if it has as many panels, whatever the number of threads.
const PIECES: usize = 16;

/// Words of a shared operand that stay in the second-level cache.
const CACHE: usize = 256 * 1024;

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
        run(&WideKernel::new(kernels.wide(left.outer, right.outer), left), &target)
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
    /// Where a tile reads its rows.
    type Left: Copy;

    fn rows(&self) -> usize;
    fn columns(&self) -> usize;
    /// Values of the depth in a block.
    fn block(&self) -> usize;
    /// Words of a panel over so many values of the depth.
    fn left_len(&self, depth: usize) -> usize;
    fn right_len(&self, depth: usize) -> usize;
    /// Packs panels, one after the other, but for those that tiles read in the operand itself.
    fn pack_left(&self, operand: &Operand<'_, T>, part: &Part, panels: &mut [u32]);
    fn pack_right(&self, operand: &Operand<'_, T>, part: &Part, panels: &mut [u32]);
    /// The rows of one panel, which was packed to `panel` if it was packed.
    fn left(&self, operand: &Operand<'_, T>, part: &Part, panel: &[u32]) -> Self::Left;
    /// Multiplies two panels over so many values of the depth.
    ///
    /// # Safety
    /// The sums have the kernel's rows and columns, the kernel was entered, and `left` is of this depth and what it was made from is
    /// still there.
    unsafe fn tile(&self, depth: usize, operands: TileOperands<'_, Self::Left>, sums: Sums);
    fn enter(&self) {}
    fn leave(&self) {}
}

/// Two panels that are multiplied.
#[derive(Clone, Copy)]
struct TileOperands<'a, L> {
    left: L,
    right: &'a [u32],
    /// What is read soon after.
    ahead: &'a [u32],
}

/// A kernel of f32.
struct WideKernel {
    wide: Wide,
    /// Whether the values of one row for all steps stand side by side in a panel of the left operand; else those of all rows for one
    /// step.
    lines: bool,
    /// Whether tiles read whole panels of the left operand where they are.
    in_place: bool,
    /// Where each step of a packed panel of the right operand starts.
    steps: [usize; DEPTH],
}

impl WideKernel {
    /// The kernel for this left operand.
    fn new<T: Element>(wide: Wide, left: &Operand<'_, T>) -> Self {
        let lines = left.is_along_depth();
        // Lines that start whole pages apart would all take the same few places of the first-level cache.
        let in_place = lines && T::DTYPE == DType::F32 && !left.pitch().is_multiple_of(PAGE);
        Self { wide, lines, in_place, steps: std::array::from_fn(|step| step * wide.columns()) }
    }
}

impl<T: Element> Kernel<T> for WideKernel {
    type Left = Left;

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
        let (rows, depth) = (self.wide.rows, part.depth.clone());
        if self.in_place {
            let whole = operand.outer.saturating_sub(part.first) / rows * rows;
            let cut_short = panels.get_mut(whole * depth.len()..).unwrap_or_default();
            pack_lines(operand, &Part { first: part.first + whole, depth }, cut_short);
        } else if self.lines {
            pack_lines(operand, part, panels);
        } else {
            pack_wide(operand, part, rows, panels);
        }
    }

    fn pack_right(&self, operand: &Operand<'_, T>, part: &Part, panels: &mut [u32]) {
        pack_wide(operand, part, self.wide.columns(), panels);
    }

    fn left(&self, operand: &Operand<'_, T>, part: &Part, panel: &[u32]) -> Left {
        let (rows, depth) = (self.wide.rows, part.depth.len());
        if self.in_place && part.first + rows <= operand.outer {
            let first = operand.line(part.first, part.depth.clone());
            return Left { start: first.as_ptr().cast(), row: operand.pitch(), step: 1 };
        }
        assert!(panel.len() >= rows * depth);
        let (row, step) = if self.lines { (depth, 1) } else { (1, rows) };
        Left { start: panel.as_ptr().cast(), row, step }
    }

    unsafe fn tile(&self, depth: usize, operands: TileOperands<'_, Left>, sums: Sums) {
        let TileOperands { left, right, ahead } = operands;
        assert!(right.len() >= self.wide.columns() * depth);
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
    type Left = *const u32;

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

    fn left(&self, _operand: &Operand<'_, T>, part: &Part, panel: &[u32]) -> *const u32 {
        assert!(panel.len() >= self.0.left.len::<T>(part.depth.len()));
        panel.as_ptr()
    }

    unsafe fn tile(&self, depth: usize, operands: TileOperands<'_, *const u32>, sums: Sums) {
        let TileOperands { left, right, .. } = operands;
        assert!(right.len() >= self.0.right.len::<T>(depth));
        let task = PairTask { steps: self.0.left.steps(depth), left, right: right.as_ptr() };
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
    /// The larger one: each task has a part of it for itself.
    Own,
}

/// A part of a result that is computed at a time.
struct Area {
    /// Panels of the operands, counted as they were packed.
    lefts: Range<usize>,
    rights: Range<usize>,
    /// Where it starts in the result, and how much of the result it has.
    row: usize,
    column: usize,
    rows: usize,
    columns: usize,
    /// The rows and columns of its tiles whose sums are made in the result itself; the others are made in a place of their own.
    whole_rows: usize,
    whole_columns: usize,
    /// From one row of sums in that place to the next.
    pitch: usize,
}

/// A product on its way: what its tasks need to know.
struct Run<'a, T, K> {
    kernel: &'a K,
    target: &'a Target<'a, T>,
    /// Whether the left operand is the shared one.
    shares_left: bool,
    /// The ranges of the depth that are packed and multiplied one after the other.
    blocks: Vec<Range<usize>>,
    /// Tasks that the panels of the own operand are cut into.
    tasks: usize,
    /// Panels of the shared operand that a task works on at a time.
    at_once: usize,
}

/// Computes a product with a kernel.
fn run<T: Element, K: Kernel<T>>(kernel: &K, target: &Target<'_, T>) -> Result<(), OutOfMemory> {
    let Product { left, right, .. } = target.product;
    let blocks = (0..left.depth).step_by(kernel.block());
    let blocks = blocks.map(|start| start..(start + kernel.block()).min(left.depth)).collect();
    let shares_left = left.outer <= right.outer;
    let mut run = Run { kernel, target, shares_left, blocks, tasks: 1, at_once: 1 };
    // A shared operand that no cache of a thread holds is read again by every task: few of them, then, with much of their own.
    let is_streamed = run.all_words(Role::Shared) * run.panels(Role::Shared) > CACHE;
    let (own, shared, sums) =
        if is_streamed { (4 * OWN, usize::MAX, 4 * SUMS) } else { (OWN, SHARED, SUMS) };
    let panels = run.panels(Role::Own);
    let most = own / run.words(Role::Own, kernel.block().min(left.depth)).max(1);
    let tasks = panels.div_ceil(most.max(1)).next_multiple_of(threads()).max(TASKS * threads());
    run.tasks = tasks.min(panels);
    let own = panels.div_ceil(run.tasks.max(1));
    let at_once = shared.min(sums / (own * run.width(Role::Own)).max(1));
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
        self.operand(role).outer.div_ceil(self.width(role))
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
        let operand = self.operand(role);
        if self.is_left(role) {
            self.kernel.pack_left(operand, part, panels);
        } else {
            self.kernel.pack_right(operand, part, panels);
        }
    }

    fn run(&self) -> Result<(), OutOfMemory> {
        let count = self.panels(Role::Shared);
        let failed: OnceLock<OutOfMemory> = OnceLock::new();
        with_space(self.all_words(Role::Shared) * count, |space| {
            self.pack_shared(space);
            let shared = self.packed(Role::Shared, space, count);
            // As many as there are threads to share them: a list of them would count as memory.
            for_each_index(self.tasks, |index| {
                if let Err(error) = self.task(shared, index) {
                    _ = failed.set(error);
                }
            });
        })?;
        failed.into_inner().map_or(Ok(()), Err)
    }

    /// The operand in this role.
    fn operand(&self, role: Role) -> &Operand<'_, T> {
        let Product { left, right, .. } = &self.target.product;
        if self.is_left(role) { left } else { right }
    }

    /// Packs all of the shared operand.
    fn pack_shared(&self, space: &mut [u32]) {
        let (count, width) = (self.panels(Role::Shared), self.width(Role::Shared));
        let together = count.div_ceil(PIECES);
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

    /// Multiplies the panels of the own operand of task `index` by all of the shared one.
    fn task(&self, shared: Panels<'_>, index: usize) -> Result<(), OutOfMemory> {
        let panels = self.panels(Role::Own);
        let mine = index * panels / self.tasks..(index + 1) * panels / self.tasks;
        let own_words = (self.all_words(Role::Own) * mine.len()).next_multiple_of(16);
        let sums = mine.len() * self.width(Role::Own) * self.at_once * self.width(Role::Shared);
        let turned = if self.target.turned { sums } else { 0 };
        with_space(own_words + sums + turned, |space| {
            let (own, sums) = space.split_at_mut(own_words);
            let mut rest = &mut own[..];
            for depth in &self.blocks {
                let len = self.words(Role::Own, depth.len()) * mine.len();
                let (panels, after) = rest.split_at_mut(len);
                rest = after;
                let part = Part { first: mine.start * self.width(Role::Own), depth: depth.clone() };
                self.pack(Role::Own, &part, panels);
            }
            let (own, sums) = (self.packed(Role::Own, own, mine.len()), as_f32_mut(sums));
            self.kernel.enter();
            for start in (0..shared.count).step_by(self.at_once) {
                let area = self.area(&mine, start..(start + self.at_once).min(shared.count));
                for block in 0..self.blocks.len() {
                    self.multiply((shared, own), &area, block, sums);
                }
                self.finish(&area, sums);
            }
            self.kernel.leave();
        })
    }

    /// The part of the result that a task's panels and these of the shared operand give.
    fn area(&self, mine: &Range<usize>, part: Range<usize>) -> Area {
        let (kernel, own) = (self.kernel, 0..mine.len());
        let (rows, columns) = (kernel.rows(), kernel.columns());
        let (lefts, rights, row, column) = if self.shares_left {
            (part.clone(), own, part.start * rows, mine.start * columns)
        } else {
            (own, part.clone(), mine.start * rows, part.start * columns)
        };
        let Product { left, right, .. } = &self.target.product;
        let valid_rows = (lefts.len() * rows).min(left.outer - row);
        let valid_columns = (rights.len() * columns).min(right.outer - column);
        // Whole tiles of the result need no other place for their sums.
        let (whole_rows, whole_columns) = match self.target.direct() {
            Some(_) => (valid_rows / rows * rows, valid_columns / columns * columns),
            None => (0, 0),
        };
        let pitch = rights.len() * columns;
        let (rows, columns) = (valid_rows, valid_columns);
        Area { lefts, rights, row, column, rows, columns, whole_rows, whole_columns, pitch }
    }

    /// Where the sums of a tile of an area go, from this row and column of it on: into the result, or into `sums`.
    fn place(&self, area: &Area, row: usize, column: usize, sums: &mut [f32]) -> (*mut f32, usize) {
        match self.target.direct() {
            Some(to) if row < area.whole_rows && column < area.whole_columns => {
                let pitch = self.target.columns;
                (to.wrapping_add((area.row + row) * pitch + area.column + column), pitch)
            }
            _ => {
                let (rows, columns) = (self.kernel.rows(), self.kernel.columns());
                let tile = &mut sums[row * area.pitch + column..];
                assert!(tile.len() >= (rows - 1) * area.pitch + columns, "a tile cut short");
                (tile.as_mut_ptr(), area.pitch)
            }
        }
    }

    /// Multiplies the panels of an area over a block.
    fn multiply(
        &self,
        (shared, own): (Panels<'_>, Panels<'_>),
        area: &Area,
        block: usize,
        sums: &mut [f32],
    ) {
        let kernel = self.kernel;
        let depth = &self.blocks[block];
        let (left_len, right_len) = (kernel.left_len(depth.len()), kernel.right_len(depth.len()));
        let (lefts, rights) = if self.shares_left { (shared, own) } else { (own, shared) };
        for (tile_column, index) in area.rights.clone().enumerate() {
            let after = (index + 1).min(area.rights.end - 1);
            let after = rights.panel(block, after, right_len);
            let right = rights.panel(block, index, right_len);
            for (tile_row, index) in area.lefts.clone().enumerate() {
                let row = tile_row * kernel.rows();
                let part = Part { first: area.row + row, depth: depth.clone() };
                let left = lefts.panel(block, index, left_len);
                let left = kernel.left(&self.target.product.left, &part, left);
                // Each tile asks for another part of the panel that follows.
                let ahead = after.get(tile_row * depth.len() * LINE..).unwrap_or(right);
                let (to, pitch) = self.place(area, row, tile_column * kernel.columns(), sums);
                let sums = Sums { to, pitch, add: block > 0 };
                // SAFETY: the tile has the kernel's rows and columns, in the sums or in the result, where nobody else writes it; the
                // panels are of this depth and still there, and the caller has entered the kernel.
                unsafe { kernel.tile(depth.len(), TileOperands { left, right, ahead }, sums) };
            }
        }
    }

    /// Finishes the sums of an area.
    fn finish(&self, area: &Area, sums: &mut [f32]) {
        let Area { row, column, rows, columns, whole_rows, whole_columns, pitch, .. } = *area;
        if self.target.turned {
            return self.finish_turned((row, column), (rows, columns), pitch, sums);
        }
        for (index, sums) in sums.chunks_mut(pitch).take(rows).enumerate() {
            let done = if index < whole_rows { whole_columns } else { 0 };
            // SAFETY: each task has rows or columns of its own, and each part of them is finished once.
            unsafe {
                self.target.finish_in_place(row + index, column, done);
                self.target.finish(row + index, column + done, &mut sums[done..columns]);
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
