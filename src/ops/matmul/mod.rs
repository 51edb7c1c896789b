//! Matrix products: operands in one type, sums in f32, one rounding.
//!
//! The structure is that of BLIS (Van Zee and van de Geijn 2015, doi 10.1145/2764454): operands are packed into panels in the order
//! in which a kernel reads them ([`pack`]), a kernel multiplies two panels into a tile of sums ([`kernel`]), and what is left of the
//! loops cuts the work for caches and threads. A finished row of sums gets its bias, is rounded, and stored.
//!
//! A result is the same on any number of threads, with any cut: it is a sum of blocks of 256 words of the depth, added in order, and
//! each kernel's own order within a block. All kernels of f32 have the same, so that f32 products have the same bits on every
//! instruction set.
#![expect(unsafe_code, reason = "kernels read packed panels and write tiles through pointers")]

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

pub(crate) use gather::{Strip, Tiles, are_right};
pub use isa::{Isa, IsaError, VARIABLE as ISA_VARIABLE, isa};
pub(crate) use kernel::{Kernels, LANES};
pub(crate) use pack::{DEPTH, Operand, Part};
pub use space::work_space;
pub(crate) use space::{as_f32_mut, with_space};

use super::element::Element;
use super::host::Unwritten;
use super::parallel::{for_each, vectorized};
use crate::memory::OutOfMemory;
use kernel::{PairTask, Paired, Path, Sums, Wide, WideTask};
use pack::pack_wide;

/// Rows or columns of the operand that all tasks share which are worked on at a time: with a block of the depth they stay in the
/// second-level cache.
const SHARED: usize = 192;

/// Most words of the operand's part that a task packs for itself; but for one panel, whatever it takes.
const OWN: usize = 48 * 1024;

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

/// How the products of each format that tensors are stored in are computed here: format and path.
///
/// # Errors
/// As [`isa()`].
pub fn product_paths() -> Result<[(&'static str, &'static str); 3], IsaError> {
    kernels().map(|kernels| kernels.paths())
}

/// A product: `left × right + bias`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product<'a, T> {
    pub(crate) left: Operand<'a, T>,
    pub(crate) right: Operand<'a, T>,
    /// One value for each column.
    pub(crate) bias: Option<&'a [T]>,
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
    assert!(product.bias.is_none_or(|bias| bias.len() == columns), "a bias of another length");
    let wide = || WideKernel::new(kernels.wide(rows, columns));
    let write = |out: &mut [std::mem::MaybeUninit<T>]| {
        assert!(out.len() == rows * columns, "a result of another size");
        let target =
            Target { to: out.as_mut_ptr().cast(), columns, product, finite: AtomicBool::new(true) };
        match kernels.path::<T>() {
            Path::Wide => run(&wide(), &target),
            Path::Paired(paired) => {
                run(&PairedKernel(paired), &target)?;
                if T::PARTS == 1 || target.finite.load(Ordering::Relaxed) {
                    return Ok(());
                }
                // An infinity times the second part of a value, 0, is a NaN. Sums of products of finite f16 cannot overflow, so
                // that what is not finite tells of such an operand.
                run(&wide(), &target)
            }
        }
    };
    // SAFETY: a product writes every row and column of its result, or fails.
    unsafe { out.try_written_by(write) }
}

/// Where the results of a product go.
struct Target<'a, T> {
    to: *mut T,
    columns: usize,
    product: Product<'a, T>,
    /// Whether all sums were finite.
    finite: AtomicBool,
}

// SAFETY: tasks write disjoint parts of the result through it.
unsafe impl<T: Sync> Sync for Target<'_, T> {}

impl<T: Element> Target<'_, T> {
    /// Finishes the sums of a row, from column `first` on.
    ///
    /// # Safety
    /// Nobody else reads or writes these results.
    unsafe fn finish(&self, row: usize, first: usize, sums: &mut [f32]) {
        if T::PARTS > 1 && !vectorized!(all_finite(sums)) {
            self.finite.store(false, Ordering::Relaxed);
        }
        if let Some(bias) = self.product.bias {
            let mut wide = [0.0; 64];
            for (sums, bias) in sums.chunks_mut(64).zip(bias[first..].chunks(64)) {
                vectorized!({
                    let bias = T::widened(&bias[..sums.len()], &mut wide);
                    for (sum, bias) in sums.iter_mut().zip(bias) {
                        *sum += bias;
                    }
                });
            }
        }
        assert!(first + sums.len() <= self.columns);
        // SAFETY: the row has these columns, and nobody else has them.
        unsafe { vectorized!(T::write(sums, self.to.add(row * self.columns + first))) };
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
    unsafe fn tile(&self, depth: usize, left: &[u32], right: &[u32], sums: Sums);
    fn enter(&self) {}
    fn leave(&self) {}
}

/// A kernel of f32 on packed panels.
struct WideKernel {
    wide: Wide,
    /// Where each step of a packed panel of the right operand starts.
    steps: [usize; DEPTH],
}

impl WideKernel {
    fn new(wide: Wide) -> Self {
        Self { wide, steps: std::array::from_fn(|step| step * wide.columns()) }
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
        pack_wide(operand, part, self.wide.rows, panels);
    }

    fn pack_right(&self, operand: &Operand<'_, T>, part: &Part, panels: &mut [u32]) {
        pack_wide(operand, part, self.wide.columns(), panels);
    }

    unsafe fn tile(&self, depth: usize, left: &[u32], right: &[u32], sums: Sums) {
        assert!(left.len() >= self.wide.rows * depth && right.len() >= self.wide.columns() * depth);
        let right = right.as_ptr().cast::<f32>();
        let groups: [*const f32; MOST_GROUPS] =
            std::array::from_fn(|group| right.wrapping_add(group * LANES));
        let (groups, steps) = (groups.as_ptr(), self.steps.as_ptr());
        let task = WideTask { depth, left: left.as_ptr().cast(), groups, steps };
        // SAFETY: panels of this depth and these widths, and the caller's promise.
        unsafe { (self.wide.tile)(&task, sums) };
    }
}

/// Most groups of a kernel of f32.
pub(crate) const MOST_GROUPS: usize = 6;

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

    unsafe fn tile(&self, depth: usize, left: &[u32], right: &[u32], sums: Sums) {
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

/// What tasks cut between them, and how.
struct Cut {
    /// Whether all share the left operand, whole, and each has columns of its own; else rows.
    shares_left: bool,
    /// Panels of the shared operand.
    shared: usize,
    /// Panels of the other operand.
    panels: usize,
    /// Panels that a task has of its own.
    own: usize,
    /// Panels of the shared operand that a task works on at a time.
    at_once: usize,
}

impl Cut {
    fn new<T: Element, K: Kernel<T>>(kernel: &K, product: &Product<'_, T>) -> Self {
        let (m, n, depth) = (product.left.outer, product.right.outer, product.left.depth);
        let shares_left = m <= n;
        let [left, right] = [(m, kernel.rows()), (n, kernel.columns())];
        let [(shared, shared_width), (other, own_width)] =
            if shares_left { [left, right] } else { [right, left] };
        let panels = other.div_ceil(own_width);
        let words = if shares_left { kernel.right_len(depth) } else { kernel.left_len(depth) };
        let own = (OWN / words.max(1)).min(panels.div_ceil(TASKS)).max(1);
        let at_once = SHARED.min(SUMS / (own * own_width)) / shared_width;
        Self {
            shares_left,
            shared: shared.div_ceil(shared_width),
            panels,
            own,
            at_once: at_once.max(1),
        }
    }
}

/// Computes a product with a kernel.
fn run<T: Element, K: Kernel<T>>(kernel: &K, target: &Target<'_, T>) -> Result<(), OutOfMemory> {
    let Product { left, right, .. } = target.product;
    let cut = Cut::new(kernel, &target.product);
    let blocks: Vec<Range<usize>> = (0..left.depth)
        .step_by(kernel.block())
        .map(|start| start..(start + kernel.block()).min(left.depth))
        .collect();
    let lens = |depth: usize| -> (usize, usize) {
        let (left, right) = (kernel.left_len(depth), kernel.right_len(depth));
        if cut.shares_left { (left, right) } else { (right, left) }
    };
    let (shared_len, own_len): (usize, usize) =
        blocks.iter().fold((0, 0), |(shared, own), block| {
            let lens = lens(block.len());
            (shared + lens.0, own + lens.1)
        });
    let (shared_whole, own_whole) = lens(kernel.block().min(left.depth));
    let pack = |left_side: bool, part: &Part, panels: &mut [u32]| {
        if left_side {
            kernel.pack_left(&left, part, panels);
        } else {
            kernel.pack_right(&right, part, panels);
        }
    };
    let failed: OnceLock<OutOfMemory> = OnceLock::new();
    with_space(shared_len * cut.shared, |space| {
        let width = if cut.shares_left { kernel.rows() } else { kernel.columns() };
        let mut tasks = Vec::new();
        for (depth, words) in blocks.iter().zip(space.chunks_mut(shared_whole * cut.shared)) {
            let len = lens(depth.len()).0;
            let panels = cut.shared.div_ceil(TASKS);
            for (index, words) in words.chunks_mut(len * panels).enumerate() {
                tasks.push((Part { first: index * panels * width, depth: depth.clone() }, words));
            }
        }
        for_each(tasks, |_, (part, words): (Part, &mut [u32])| pack(cut.shares_left, &part, words));
        let shared = Panels { words: space, count: cut.shared, whole: shared_whole };
        let width = if cut.shares_left { kernel.columns() } else { kernel.rows() };
        let firsts: Vec<usize> = (0..cut.panels).step_by(cut.own).collect();
        for_each(firsts, |_, first| {
            let count = cut.own.min(cut.panels - first);
            let (rows, columns) = if cut.shares_left {
                (cut.at_once * kernel.rows(), count * kernel.columns())
            } else {
                (count * kernel.rows(), cut.at_once * kernel.columns())
            };
            let work = |space: &mut [u32]| {
                let (own, sums) = space.split_at_mut((own_len * count).next_multiple_of(16));
                let mut rest = &mut own[..];
                for depth in &blocks {
                    let panels;
                    (panels, rest) = rest.split_at_mut(lens(depth.len()).1 * count);
                    let part = Part { first: first * width, depth: depth.clone() };
                    pack(!cut.shares_left, &part, panels);
                }
                let own = Panels { words: own, count, whole: own_whole };
                kernel.enter();
                let sums = as_f32_mut(sums);
                for start in (0..cut.shared).step_by(cut.at_once) {
                    let part = start..(start + cut.at_once).min(cut.shared);
                    multiply_part(
                        kernel,
                        &blocks,
                        (&cut, shared, own),
                        part.clone(),
                        (sums, columns),
                    );
                    let (row, column) = if cut.shares_left {
                        (part.start * kernel.rows(), first * kernel.columns())
                    } else {
                        (first * kernel.rows(), part.start * kernel.columns())
                    };
                    for (index, sums) in sums.chunks_mut(columns).enumerate() {
                        let valid = (right.outer - column).min(columns);
                        let valid = if cut.shares_left {
                            valid
                        } else {
                            valid.min(part.len() * kernel.columns())
                        };
                        let last = if cut.shares_left { part.len() * kernel.rows() } else { rows };
                        if index < last && row + index < left.outer {
                            // SAFETY: each task has rows or columns of its own, and a part of them is finished once.
                            unsafe { target.finish(row + index, column, &mut sums[..valid]) };
                        }
                    }
                }
                kernel.leave();
            };
            let words = (own_len * count).next_multiple_of(16) + rows * columns;
            if let Err(error) = with_space(words, work) {
                _ = failed.set(error);
            }
        });
    })?;
    failed.into_inner().map_or(Ok(()), Err)
}

/// The sums of a task's panels with some of the shared ones.
fn multiply_part<T: Element, K: Kernel<T>>(
    kernel: &K,
    blocks: &[Range<usize>],
    (cut, shared, own): (&Cut, Panels<'_>, Panels<'_>),
    part: Range<usize>,
    (sums, pitch): (&mut [f32], usize),
) {
    for (block, depth) in blocks.iter().enumerate() {
        let depth = depth.len();
        let (left_len, right_len) = (kernel.left_len(depth), kernel.right_len(depth));
        let (lefts, rights) = if cut.shares_left {
            (part.clone(), 0..own.count)
        } else {
            (0..own.count, part.clone())
        };
        let (left_panels, right_panels) =
            if cut.shares_left { (shared, own) } else { (own, shared) };
        for (column, right) in rights.enumerate() {
            let right = right_panels.panel(block, right, right_len);
            for (row, left) in lefts.clone().enumerate() {
                let left = left_panels.panel(block, left, left_len);
                let at = row * kernel.rows() * pitch + column * kernel.columns();
                let tile = &mut sums[at..][..(kernel.rows() - 1) * pitch + kernel.columns()];
                let sums = Sums { to: tile.as_mut_ptr(), pitch, add: block > 0 };
                // SAFETY: the tile has the kernel's rows and columns, and the caller has entered the kernel.
                unsafe { kernel.tile(depth, left, right, sums) };
            }
        }
    }
}
