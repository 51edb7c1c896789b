//! Products whose right operand is not packed whole: its columns stand in groups of [`LANES`] anywhere in memory, and those of one
//! step of the depth as far from those of another in every group. A kernel of f32 reads them where they are; for a kernel of pairs
//! a panel is packed at a time.

use std::ops::Range;

use candle_core::DType;

use super::super::element::Element;
use super::all_finite;
use super::kernel::{
    Kernels, LANES, Left, MOST_GROUPS, PairTask, Paired, Path, Sums, Wide, WideTask,
};
use super::pack::{DEPTH, Operand, Part, pack_lines, pack_wide, transpose, widen_blocks};
use super::space::{as_elements, as_elements_mut, as_f32, as_f32_mut};

/// The kernel of such a product.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tiles {
    /// Reads f32.
    Wide(Wide),
    /// Reads the operands' own type.
    Paired(&'static Paired),
}

/// A strip of a product: all rows by the columns of as many groups as a tile has, over a block of the depth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strip<'a> {
    /// All rows of the left operand over the block, packed.
    pub(crate) left: &'a [u32],
    /// Whether the lines of the left operand go along the depth.
    pub(crate) along_depth: bool,
    /// What the right operand is in.
    pub(crate) source: &'a [u32],
    /// Where each group starts, in values; at most as many as a tile has.
    pub(crate) groups: &'a [usize],
    /// How far from there each step of the block is.
    pub(crate) steps: &'a [usize],
    /// Whether the product is added to the sums.
    pub(crate) add: bool,
}

impl Tiles {
    /// The kernel for so many rows and groups of columns.
    pub(crate) fn of<T: Element>(kernels: &Kernels, rows: usize, groups: usize) -> Self {
        match kernels.path::<T>() {
            Path::Wide => Self::wide(kernels, rows, groups),
            Path::Paired(paired) => Self::Paired(paired),
        }
    }

    /// The kernel of f32.
    pub(crate) fn wide(kernels: &Kernels, rows: usize, groups: usize) -> Self {
        Self::Wide(kernels.wide(rows, groups * LANES))
    }

    /// Rows of a tile.
    pub(crate) fn rows(self) -> usize {
        match self {
            Self::Wide(wide) => wide.rows,
            Self::Paired(paired) => paired.left.width,
        }
    }

    /// Groups of columns of a tile.
    pub(crate) fn groups(self) -> usize {
        match self {
            Self::Wide(wide) => wide.groups,
            Self::Paired(paired) => paired.right.width / LANES,
        }
    }

    /// Words that `values` values of the right operand take.
    pub(crate) fn words<T: Element>(self, values: usize) -> usize {
        match self {
            Self::Wide(_) => values,
            Self::Paired(_) => (values * T::DTYPE.size_in_bytes()).div_ceil(4),
        }
    }

    /// Words that so many rows of the left operand are packed into, over so many values of the depth.
    pub(crate) fn left_words<T: Element>(self, rows: usize, depth: usize) -> usize {
        rows.div_ceil(self.rows()) * self.panel::<T>(depth)
    }

    /// Words of a panel of the left operand.
    fn panel<T: Element>(self, depth: usize) -> usize {
        match self {
            Self::Wide(wide) => wide.rows * depth,
            Self::Paired(paired) => paired.left.len::<T>(depth),
        }
    }

    /// Words that a strip needs beside its operands.
    pub(crate) fn scratch<T: Element>(self) -> usize {
        match self {
            Self::Wide(_) => 0,
            Self::Paired(paired) => paired.right.len::<T>(DEPTH),
        }
    }

    /// Packs the left operand over a part of the depth, into [`Tiles::left_words`] words.
    pub(crate) fn pack_left<T: Element>(
        self,
        operand: &Operand<'_, T>,
        depth: Range<usize>,
        words: &mut [u32],
    ) {
        let part = Part { first: 0, depth };
        match self {
            Self::Wide(_) if operand.is_along_depth() => pack_lines(operand, &part, words),
            Self::Wide(wide) => pack_wide(operand, &part, wide.rows, words),
            Self::Paired(paired) => paired.left.pack(operand, &part, words),
        }
    }

    /// Writes one row of a left operand whose lines go along the depth, which is that of one block, where [`Tiles::pack_left`] puts it.
    #[inline(always)]
    pub(crate) fn put_left<T: Element>(self, values: &[T], row: usize, words: &mut [u32]) {
        let depth = values.len();
        match self {
            Self::Wide(_) => T::widen(values, &mut as_f32_mut(words)[row * depth..][..depth]),
            Self::Paired(paired) => {
                let (width, len) = (paired.left.width, self.panel::<T>(depth));
                paired.left.put_line(values, row % width, &mut words[row / width * len..][..len]);
            }
        }
    }

    /// Writes values of the right operand, from value `at` on.
    #[inline(always)]
    pub(crate) fn put<T: Element>(self, values: &[T], to: &mut [u32], at: usize) {
        match self {
            Self::Wide(_) => {
                widen_blocks(values, &mut as_f32_mut(to)[at..at + values.len()]);
            }
            Self::Paired(_) => {
                as_elements_mut::<T>(to)[at..at + values.len()].copy_from_slice(values);
            }
        }
    }

    /// As [`Tiles::put`], for many values.
    #[inline(always)]
    pub(crate) fn put_line<T: Element>(self, values: &[T], to: &mut [u32], at: usize) {
        match self {
            Self::Wide(_) => T::widen(values, &mut as_f32_mut(to)[at..at + values.len()]),
            Self::Paired(_) => self.put(values, to, at),
        }
    }

    /// Writes at most [`LANES`] lines of one length across: value `k` of line `lane` at `at + k * apart + lane`.
    #[inline(always)]
    pub(crate) fn put_across<'a, T: Element>(
        self,
        lines: impl Iterator<Item = &'a [T]>,
        to: &mut [u32],
        at: usize,
        apart: usize,
    ) {
        const PART: usize = 64;
        match self {
            Self::Wide(_) => {
                let to = as_f32_mut(to);
                let mut all: [&[T]; LANES] = [&[]; LANES];
                let count = all.iter_mut().zip(lines).map(|(to, line)| *to = line).count();
                let (lines, len) = (&all[..count], all[0].len());
                let mut wide = [[0.0; PART]; LANES];
                for start in (0..len).step_by(PART) {
                    let end = (start + PART).min(len);
                    let mut buffers = wide.iter_mut();
                    let parts: [&[f32]; LANES] = std::array::from_fn(|lane| {
                        let buffer =
                            buffers.next().map_or(&mut [][..], |buffer| &mut buffer[..end - start]);
                        match lines.get(lane) {
                            Some(line) => T::widened(&line[start..end], buffer),
                            None => buffer,
                        }
                    });
                    transpose(parts, &mut to[at + start * apart..], apart, count);
                }
            }
            Self::Paired(_) => {
                let to = as_elements_mut::<T>(to);
                for (lane, line) in lines.enumerate() {
                    for (to, value) in to[at + lane..].iter_mut().step_by(apart).zip(line) {
                        *to = *value;
                    }
                }
            }
        }
    }

    /// Called by a thread before its first strip.
    pub(crate) fn enter(self) {
        if let Self::Paired(paired) = self {
            (paired.enter)();
        }
    }

    /// Called by a thread after its last.
    pub(crate) fn leave(self) {
        if let Self::Paired(paired) = self {
            (paired.leave)();
        }
    }

    /// Multiplies a strip for `rows` rows. The sums are those of whole tiles, row after row.
    ///
    /// # Panics
    /// When a part is too short.
    pub(crate) fn strip<T: Element>(
        self,
        strip: &Strip<'_>,
        rows: usize,
        (sums, pitch): (&mut [f32], usize),
        scratch: &mut [u32],
    ) {
        let Strip { left, along_depth, source, groups, steps, add } = *strip;
        let depth = steps.len();
        let last = groups.iter().max().zip(steps.iter().max());
        let (Some((group, step)), true) = (last, groups.len() <= self.groups()) else { return };
        let end = group + step + LANES;
        let (tile, columns) = (self.rows(), self.groups() * LANES);
        assert!(sums.len() >= (rows.next_multiple_of(tile) - 1) * pitch + columns);
        assert!(left.len() >= self.left_words::<T>(rows, depth));
        let panels = left.chunks_exact(self.panel::<T>(depth)).zip((0..rows).step_by(tile));
        let tiles = panels.map(|(left, row)| {
            let to = sums[row * pitch..].as_mut_ptr();
            (left, Sums { to, pitch, add })
        });
        match self {
            Self::Wide(wide) => {
                let source = as_f32(source);
                assert!(end <= source.len());
                // Groups that there are not are computed as the first.
                let groups: [*const f32; MOST_GROUPS] = std::array::from_fn(|index| {
                    let group = groups.get(index).unwrap_or(&groups[0]);
                    source[*group..].as_ptr()
                });
                let (groups, steps) = (groups.as_ptr(), steps.as_ptr());
                let (row, step) = if along_depth { (depth, 1) } else { (1, wide.rows) };
                for (left, sums) in tiles {
                    let left = Left { start: left.as_ptr().cast(), row, step };
                    let ahead = left.start;
                    let task = WideTask { depth, left, groups, steps, ahead };
                    // SAFETY: the panel has this depth, every group and step is in the source, and the sums have room: asserted.
                    unsafe { (wide.tile)(&task, sums) };
                }
            }
            Self::Paired(paired) => {
                let source = as_elements::<T>(source);
                assert!(end <= source.len());
                let panel = &mut scratch[..paired.right.len::<T>(depth)];
                panel.fill(0);
                for (step, pair) in steps.chunks(2).enumerate() {
                    for (index, group) in groups.iter().enumerate() {
                        let values = |at: &usize| &source[group + at..][..LANES];
                        let second = pair.get(1).map(values);
                        let place = (step, index * LANES);
                        paired.right.put_step(values(&pair[0]), second, place, panel);
                    }
                }
                let steps = paired.right.steps(depth);
                for (left, sums) in tiles {
                    let task = PairTask { steps, left: left.as_ptr(), right: panel.as_ptr() };
                    // SAFETY: both panels have this depth and the kernel's forms, and the sums have room, as was asserted.
                    unsafe { (paired.tile)(task, sums) };
                }
            }
        }
    }
}

/// Whether the sums of products of pairs are right: see [`super::multiply`].
pub(crate) fn are_right<T: Element>(tiles: Tiles, sums: &[f32]) -> bool {
    let may_fail = matches!(tiles, Tiles::Paired(_)) && T::DTYPE == DType::F16;
    !may_fail || all_finite(sums)
}

/// Runs products with the kernels of a type, and again in f32 where the results are not right.
pub(crate) fn with_fallback<T: Element>(
    kernels: &Kernels,
    mut all: impl FnMut(&dyn Fn(usize, usize) -> Tiles) -> candle_core::Result<bool>,
) -> candle_core::Result<()> {
    if !all(&|rows, groups| Tiles::of::<T>(kernels, rows, groups))? {
        all(&|rows, groups| Tiles::wide(kernels, rows, groups))?;
    }
    Ok(())
}
