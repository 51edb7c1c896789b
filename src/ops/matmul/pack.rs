//! Packing: an operand's values in the order in which a kernel reads them.
//!
//! A panel holds a kernel's number of rows of the left operand, or columns of the right one, over a block of the depth. Its
//! words are f32 values, or pairs of bf16 that stand one after the other in the depth; rows and columns that an operand does not
//! have are 0, and so is what fills up the last pair or block of pairs.

use std::ops::Range;

use super::super::element::Element;
use super::super::parallel::{prefetch, vectorized};
use super::space::as_f32_mut;

/// Most values of the depth in a panel.
pub(crate) const DEPTH: usize = 256;

/// One side of a product: `outer` rows of the left or columns of the right matrix, of `depth` values each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand<'a, T> {
    values: &'a [T],
    pub(crate) outer: usize,
    pub(crate) depth: usize,
    /// From the first value of a line to that of the next.
    pitch: usize,
    /// Whether a line is one row or column, so that its values stand next to each other along the depth. Else a line has one value
    /// of every row or column.
    along_depth: bool,
}

impl<'a, T> Operand<'a, T> {
    /// One row or column after the other.
    ///
    /// # Panics
    /// When there are too few values.
    pub(crate) fn along_depth(values: &'a [T], outer: usize, depth: usize) -> Self {
        assert!(values.len() >= outer * depth, "an operand of too few values");
        Self { values, outer, depth, pitch: depth, along_depth: true }
    }

    /// One step of the depth after the other.
    ///
    /// # Panics
    /// As [`Operand::along_depth`].
    pub(crate) fn across_depth(values: &'a [T], outer: usize, depth: usize) -> Self {
        assert!(values.len() >= outer * depth, "an operand of too few values");
        Self { values, outer, depth, pitch: outer, along_depth: false }
    }

    /// As [`Operand::across_depth`], with steps of the depth that start `pitch` values apart.
    ///
    /// # Panics
    /// As [`Operand::along_depth`].
    pub(crate) fn across_depth_apart(
        values: &'a [T],
        (outer, depth): (usize, usize),
        pitch: usize,
    ) -> Self {
        Self {
            outer,
            depth,
            along_depth: false,
            ..Self::along_depth_apart(values, (depth, outer), pitch)
        }
    }

    /// As [`Operand::along_depth`], with rows or columns that start `pitch` values apart.
    ///
    /// # Panics
    /// As [`Operand::along_depth`].
    pub(crate) fn along_depth_apart(
        values: &'a [T],
        (outer, depth): (usize, usize),
        pitch: usize,
    ) -> Self {
        let needed = if outer == 0 { 0 } else { (outer - 1) * pitch + depth };
        assert!(values.len() >= needed, "an operand of too few values");
        Self { values, outer, depth, pitch, along_depth: true }
    }

    /// Whether its lines go along the depth.
    pub(crate) fn is_along_depth(&self) -> bool {
        self.along_depth
    }

    /// From the first value of a line to that of the next.
    pub(crate) fn pitch(&self) -> usize {
        self.pitch
    }

    /// The values of line `index` in `range`.
    pub(crate) fn line(&self, index: usize, range: Range<usize>) -> &'a [T] {
        &self.values[index * self.pitch..][range]
    }
}

/// Which part of an operand: its rows or columns from `first` on, and a range of its depth.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) first: usize,
    pub(crate) depth: Range<usize>,
}

impl Part {
    /// The rows or columns that a panel of `width` has of `outer`.
    fn valid(&self, width: usize, outer: usize) -> Range<usize> {
        self.first.min(outer)..(self.first + width).min(outer)
    }
}

/// How the words of a panel stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The words of all rows or columns for one step of the depth, then those for the next.
    Steps,
    /// In blocks of sixteen steps: the sixteen words of one row, then those of the next. The left operand of AMX.
    Rows,
}

/// The lines of an operand that go along the depth as f32, one after the other, as many as there is room for; those that it does not
/// have are 0.
pub(crate) fn pack_lines<T: Element>(operand: &Operand<'_, T>, part: &Part, words: &mut [u32]) {
    assert!(operand.along_depth, "lines that go across the depth");
    let depth = part.depth.len();
    let lines = as_f32_mut(words).chunks_exact_mut(depth);
    for (line, target) in (part.first..).zip(lines) {
        if line < operand.outer {
            vectorized!(widen_blocks(operand.line(line, part.depth.clone()), target));
        } else {
            target.fill(0.0);
        }
    }
}

/// Panels of f32 values of `width` rows or columns, one after the other, each of `width` words a step of the depth.
pub(crate) fn pack_wide<T: Element>(
    operand: &Operand<'_, T>,
    part: &Part,
    width: usize,
    panels: &mut [u32],
) {
    let panels = as_f32_mut(panels);
    if operand.along_depth {
        vectorized!(pack_turned(operand, part, width, panels));
    } else {
        // Loops of a known length for the widths that kernels have.
        vectorized!(match width {
            4 => pack_steps(operand, part, 4, panels),
            6 => pack_steps(operand, part, 6, panels),
            8 => pack_steps(operand, part, 8, panels),
            14 => pack_steps(operand, part, 14, panels),
            16 => pack_steps(operand, part, 16, panels),
            24 => pack_steps(operand, part, 24, panels),
            32 => pack_steps(operand, part, 32, panels),
            48 => pack_steps(operand, part, 48, panels),
            _ => pack_steps(operand, part, width, panels),
        });
    }
}

/// [`pack_wide`] of an operand whose lines go along the depth: eight of them at a time.
#[inline(always)]
fn pack_turned<T: Element>(
    operand: &Operand<'_, T>,
    part: &Part,
    width: usize,
    panels: &mut [f32],
) {
    let depth = part.depth.len();
    let mut wide = [[0.0; DEPTH]; 8];
    for (index, panel) in panels.chunks_exact_mut(width * depth).enumerate() {
        let part = Part { first: part.first + index * width, depth: part.depth.clone() };
        let valid = part.valid(width, operand.outer);
        for from in (0..width).step_by(8) {
            let lines: [&[f32]; 8] = {
                let mut buffers = wide.iter_mut();
                std::array::from_fn(|lane| {
                    let line = part.first + from + lane;
                    let buffer = buffers.next().map_or(&mut [][..], |buffer| &mut buffer[..depth]);
                    if valid.contains(&line) {
                        T::widened(operand.line(line, part.depth.clone()), buffer)
                    } else {
                        buffer.fill(0.0);
                        buffer
                    }
                })
            };
            transpose(lines, &mut panel[from..], width, (width - from).min(8));
        }
    }
}

/// [`pack_wide`] of an operand whose lines go across the depth: a few lines by a few panels at a time, so that what is read and what is
/// written stays in the first-level cache.
#[inline(always)]
fn pack_steps<T: Element>(operand: &Operand<'_, T>, part: &Part, width: usize, panels: &mut [f32]) {
    const PANELS: usize = 4;
    const LINES: usize = 8;
    let (depth, start) = (part.depth.len(), part.depth.start);
    for (index, panels) in panels.chunks_mut(width * depth * PANELS).enumerate() {
        let first = part.first + index * PANELS * width;
        let all = Part { first, depth: 0..0 }.valid(panels.len() / depth, operand.outer);
        for step in (0..depth).step_by(LINES) {
            let lines = step..(step + LINES).min(depth);
            // Lines lie too far apart for the processor to foresee them.
            let next = lines.end..(lines.end + LINES).min(depth);
            for line in next {
                prefetch(operand.line(start + line, all.clone()));
            }
            for (index, panel) in panels.chunks_exact_mut(width * depth).enumerate() {
                let part = Part { first: first + index * width, depth: 0..0 };
                let valid = part.valid(width, operand.outer);
                let targets = panel[lines.start * width..].chunks_exact_mut(width);
                for (line, target) in lines.clone().zip(targets) {
                    let values = operand.line(start + line, valid.clone());
                    if values.len() == width {
                        // Of a length that is known where `width` is.
                        T::widen(&values[..width], &mut target[..width]);
                    } else {
                        let (target, rest) = target.split_at_mut(values.len());
                        widen_blocks(values, target);
                        rest.fill(0.0);
                    }
                }
            }
        }
    }
}

/// [`Element::widen`] for a few values: in blocks of a known size, which need no call.
#[inline(always)]
pub(crate) fn widen_blocks<T: Element>(source: &[T], target: &mut [f32]) {
    let (blocks, rest) = source.as_chunks::<8>();
    let (to_blocks, to_rest) = target.as_chunks_mut::<8>();
    for (to, block) in to_blocks.iter_mut().zip(blocks) {
        T::widen(block, to);
    }
    let (pairs, rest) = rest.as_chunks::<2>();
    let (to_pairs, to_rest) = to_rest.as_chunks_mut::<2>();
    for (to, pair) in to_pairs.iter_mut().zip(pairs) {
        T::widen(pair, to);
    }
    T::widen(rest, to_rest);
}

/// Writes `count` of eight lines as columns: value `k` of line `lane` to `target[k * width + lane]`.
pub(crate) fn transpose(lines: [&[f32]; 8], target: &mut [f32], width: usize, count: usize) {
    let depth = lines[0].len();
    assert!(lines.iter().all(|line| line.len() == depth) && count <= 8 && count <= width);
    assert!(depth == 0 || target.len() >= (depth - 1) * width + count);
    #[cfg(target_arch = "x86_64")]
    let done = if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2; all lines are of one length, and the target has room for `count` values of each.
        unsafe { transpose_avx2(lines, target, width, count) }
    } else {
        0
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    for k in done..depth {
        for (lane, line) in lines.iter().take(count).enumerate() {
            target[k * width + lane] = line[k];
        }
    }
}

/// [`transpose`] for eight steps at a time; how many it has done.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose_avx2(
    lines: [&[f32]; 8],
    target: &mut [f32],
    width: usize,
    count: usize,
) -> usize {
    use std::arch::x86_64::{
        __m256, _mm_storeu_ps, _mm256_castps256_ps128, _mm256_loadu_ps, _mm256_permute2f128_ps,
        _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };
    let depth = lines[0].len();
    let mut k = 0;
    while k + 8 <= depth {
        // SAFETY: eight values from `k` on are in each line.
        let rows: [__m256; 8] =
            std::array::from_fn(|lane| unsafe { _mm256_loadu_ps(lines[lane].as_ptr().add(k)) });
        let pairs: [__m256; 8] = std::array::from_fn(|i| {
            let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
            if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
        });
        // Of pairs (0, 2), (1, 3), (4, 6), (5, 7): steps 0 and 4, 1 and 5, 2 and 6, 3 and 7 of four lines.
        let fours: [__m256; 8] = std::array::from_fn(|i| {
            let half = i / 4 * 4;
            let (a, b) = (pairs[half + i % 4 / 2], pairs[half + i % 4 / 2 + 2]);
            if i % 2 == 0 {
                _mm256_shuffle_ps::<0b01_00_01_00>(a, b)
            } else {
                _mm256_shuffle_ps::<0b11_10_11_10>(a, b)
            }
        });
        for step in 0..8 {
            let (a, b) = (fours[step % 4], fours[4 + step % 4]);
            let column = if step < 4 {
                _mm256_permute2f128_ps::<0x20>(a, b)
            } else {
                _mm256_permute2f128_ps::<0x31>(a, b)
            };
            // SAFETY: the target has `count` values at this step.
            unsafe {
                let to = target.as_mut_ptr().add((k + step) * width);
                match count {
                    8 => _mm256_storeu_ps(to, column),
                    4 => _mm_storeu_ps(to, _mm256_castps256_ps128(column)),
                    _ => {
                        let mut values = [0.0; 8];
                        _mm256_storeu_ps(values.as_mut_ptr(), column);
                        if count == 6 {
                            to.cast::<[f32; 6]>().write_unaligned([
                                values[0], values[1], values[2], values[3], values[4], values[5],
                            ]);
                        } else {
                            to.copy_from_nonoverlapping(values.as_ptr(), count);
                        }
                    }
                }
            }
        }
        k += 8;
    }
    k
}

/// How a panel of pairs is filled up and ordered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairs {
    /// Rows or columns.
    pub(crate) width: usize,
    /// Pairs that a panel has a multiple of: those of one block. With several parts a block has the first part of all of its pairs,
    /// then the second.
    pub(crate) block: usize,
    pub(crate) order: Order,
}

impl Pairs {
    /// Pairs that a panel over so many values of the depth has.
    pub(crate) fn steps(self, depth: usize) -> usize {
        depth.div_ceil(2).next_multiple_of(self.block)
    }

    /// Words of a panel over so many values of the depth.
    pub(crate) fn len<T: Element>(self, depth: usize) -> usize {
        self.width * self.steps(depth) * T::PARTS
    }

    /// Where the word of part `part` of row or column `lane` at pair `step` stands.
    #[inline(always)]
    fn place(self, part: usize, parts: usize, step: usize, lane: usize) -> usize {
        let (block, within) = (step / self.block, step % self.block);
        let start = (block * parts + part) * self.block * self.width;
        match self.order {
            Order::Steps => start + within * self.width + lane,
            Order::Rows => start + lane * self.block + within,
        }
    }

    /// Panels of this form, one after the other.
    pub(crate) fn pack<T: Element>(
        self,
        operand: &Operand<'_, T>,
        part: &Part,
        panels: &mut [u32],
    ) {
        let len = self.len::<T>(part.depth.len());
        for (index, panel) in panels.chunks_exact_mut(len).enumerate() {
            let part = Part { first: part.first + index * self.width, depth: part.depth.clone() };
            let valid = part.valid(self.width, operand.outer);
            panel.fill(0);
            if operand.along_depth {
                for line in valid {
                    let values = operand.line(line, part.depth.clone());
                    self.put_line(values, line - part.first, panel);
                }
            } else {
                let depth = part.depth.clone();
                for (step, at) in depth.clone().step_by(2).enumerate() {
                    let first = operand.line(at, valid.clone());
                    let second = (at + 1 < depth.end).then(|| operand.line(at + 1, valid.clone()));
                    self.put_step(first, second, (step, 0), panel);
                }
            }
        }
    }

    /// Writes the values of one row or column, and zeros behind them.
    #[inline(always)]
    pub(crate) fn put_line<T: Element>(self, values: &[T], lane: usize, panel: &mut [u32]) {
        for part in 0..T::PARTS {
            for (step, pair) in values.chunks(2).enumerate() {
                let high = pair.get(1).map_or(0, |value| value.part(part));
                panel[self.place(part, T::PARTS, step, lane)] =
                    u32::from(pair[0].part(part)) | u32::from(high) << 16;
            }
            for step in values.len().div_ceil(2)..self.steps(values.len()) {
                panel[self.place(part, T::PARTS, step, lane)] = 0;
            }
        }
    }

    /// Writes the pairs of one step for the rows or columns from `lane` on: values of `first` with those of `second`, or with 0.
    pub(crate) fn put_step<T: Element>(
        self,
        first: &[T],
        second: Option<&[T]>,
        (step, lane): (usize, usize),
        panel: &mut [u32],
    ) {
        for part in 0..T::PARTS {
            let from = self.place(part, T::PARTS, step, lane);
            let apart = if self.order == Order::Steps { 1 } else { self.block };
            let targets = panel[from..].iter_mut().step_by(apart);
            match second {
                Some(second) => {
                    for ((target, low), high) in targets.zip(first).zip(second) {
                        *target = u32::from(low.part(part)) | u32::from(high.part(part)) << 16;
                    }
                }
                None => {
                    for (target, low) in targets.zip(first) {
                        *target = u32::from(low.part(part));
                    }
                }
            }
        }
    }
}
