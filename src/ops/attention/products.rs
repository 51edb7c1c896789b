//! The products of attention's tiles, by the kernels of `ops/matmul`, and where its results go.
#![expect(unsafe_code, reason = "tasks write the values of their heads, which alternate in memory")]

use std::marker::PhantomData;

use super::super::element::Element;
use super::super::matmul::{DEPTH, LANES, MOST_GROUPS, Operand, Strip, Tiles, transpose};
use crate::precision::{Format, Rounder};

/// Queries of a tile: a multiple of what the columns of most kernels are.
pub(super) const QUERIES: usize = 64;

/// Keys of a tile.
pub(super) const KEYS: usize = 64;

/// Makes a kernel for so many rows and groups of columns.
pub(super) type MakeTiles<'a> = &'a dyn Fn(usize, usize) -> Tiles;

/// A kernel for products of at most so many rows and columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileProduct {
    pub(super) tiles: Tiles,
    rows: usize,
    columns: usize,
    /// Whether the lines of left operands go along the depth.
    along_depth: bool,
}

/// A right operand: `depth` rows of `columns` values, which are in rows of `pitch`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) values: &'a [u32],
    pub(super) columns: usize,
    /// Where each row starts: as many as the depth.
    pub(super) steps: &'a [usize],
}

impl TileProduct {
    /// Left operands' lines go along the depth.
    pub(super) fn along_depth(make: MakeTiles<'_>, rows: usize, columns: usize) -> Self {
        Self { tiles: make(rows, columns.div_ceil(LANES)), rows, columns, along_depth: true }
    }

    /// Left operands' lines go across the depth.
    pub(super) fn across_depth(make: MakeTiles<'_>, rows: usize, columns: usize) -> Self {
        Self { along_depth: false, ..Self::along_depth(make, rows, columns) }
    }

    /// From one row of the sums to the next.
    pub(super) fn pitch(&self) -> usize {
        self.columns.next_multiple_of(self.tiles.groups() * LANES)
    }

    /// How many sums there are: those of whole tiles.
    pub(super) fn sums(&self) -> usize {
        (self.rows.next_multiple_of(self.tiles.rows()) * self.pitch()).next_multiple_of(16)
    }

    /// Words that a left operand is packed into.
    pub(super) fn left_words<T: Element>(&self, rows: usize, depth: usize) -> usize {
        let blocks = (0..depth).step_by(DEPTH).map(|start| DEPTH.min(depth - start));
        let words: usize = blocks.map(|block| self.tiles.left_words::<T>(rows, block)).sum();
        words.next_multiple_of(16)
    }

    /// Packs a left operand.
    pub(super) fn pack<T: Element>(&self, operand: &Operand<'_, T>, words: &mut [u32]) {
        assert!(operand.is_along_depth() == self.along_depth, "lines that go the other way");
        let mut rest = words;
        for start in (0..operand.depth).step_by(DEPTH) {
            let block = start..(start + DEPTH).min(operand.depth);
            let len = self.tiles.left_words::<T>(operand.outer, block.len());
            let (now, after) = rest.split_at_mut(len);
            rest = after;
            self.tiles.pack_left(operand, block, now);
        }
    }

    /// Multiplies a packed left operand of so many rows, and adds the product to the sums or overwrites them.
    pub(super) fn multiply<T: Element>(
        &self,
        (left, rows): (&[u32], usize),
        right: Right<'_>,
        (sums, add): (&mut [f32], bool),
        scratch: &mut [u32],
    ) {
        let (depth, groups) = (right.steps.len(), right.columns.div_ceil(LANES));
        let mut rest = left;
        for start in (0..depth).step_by(DEPTH) {
            let steps = &right.steps[start..(start + DEPTH).min(depth)];
            let (left, after) = rest.split_at(self.tiles.left_words::<T>(rows, steps.len()));
            rest = after;
            for first in (0..groups).step_by(self.tiles.groups()) {
                let mut starts = [0; MOST_GROUPS];
                for (start, group) in starts.iter_mut().zip(first..) {
                    *start = group * LANES;
                }
                let count = self.tiles.groups().min(groups - first);
                let strip = Strip {
                    left,
                    along_depth: self.along_depth,
                    source: right.values,
                    groups: &starts[..count],
                    steps,
                    add: add || start > 0,
                };
                let sums = &mut sums[first * LANES..];
                self.tiles.strip::<T>(&strip, rows, (sums, self.pitch()), scratch);
            }
        }
    }
}

/// Words of a right operand of so many rows.
pub(super) fn right_words<T: Element>(tiles: Tiles, depth: usize, pitch: usize) -> usize {
    tiles.words::<T>(depth * pitch + LANES).next_multiple_of(16)
}

/// Where rows of `pitch` values start.
pub(super) fn steps(depth: usize, pitch: usize) -> Vec<usize> {
    (0..depth).map(|step| step * pitch).collect()
}

/// Rounds f32 values to the compute format and to the storage type, which is that format or f32.
#[derive(Clone, Copy)]
pub(super) struct Narrow(Option<Rounder>);

impl Narrow {
    pub(super) fn of<T: Element>(format: Format) -> Self {
        let is_wide = T::PARTS == 0 && format != Format::F32;
        Self(is_wide.then(|| Rounder::new(format)))
    }

    /// Rounds the values in place, and hands them over in the storage type: themselves, or what is put into `buffer`.
    #[must_use]
    #[inline(always)]
    pub(super) fn narrow<'a, T: Element>(
        self,
        values: &'a mut [f32],
        buffer: &'a mut [T],
    ) -> &'a [T] {
        if let Some(rounder) = self.0 {
            for value in &mut *values {
                *value = rounder.round(*value);
            }
        }
        T::narrowed(values, buffer)
    }
}

/// The first `rows` rows of sums as columns: those of one column stand side by side in `to`.
pub(super) fn turn(sums: &[f32], pitch: usize, (rows, columns): (usize, usize), to: &mut [f32]) {
    for first in (0..rows).step_by(LANES) {
        let row = |lane: usize| &sums[(first + lane).min(rows - 1) * pitch..][..columns];
        let lines: [&[f32]; LANES] = std::array::from_fn(row);
        transpose(lines, &mut to[first..], rows, LANES.min(rows - first));
    }
}

/// The heads of a tensor of rows × (heads · d).
pub(super) struct Heads<'a, T> {
    values: &'a [T],
    count: usize,
    width: usize,
}

impl<'a, T> Heads<'a, T> {
    pub(super) fn new(values: &'a [T], count: usize, width: usize) -> Self {
        Self { values, count, width }
    }

    /// From a head's values in one row to those in the next.
    pub(super) fn pitch(&self) -> usize {
        self.count * self.width
    }

    /// The values from a head's in this row on.
    pub(super) fn from(&self, row: usize, head: usize) -> &'a [T] {
        &self.values[(row * self.count + head) * self.width..]
    }

    /// A head's values in this row.
    pub(super) fn row(&self, row: usize, head: usize) -> &'a [T] {
        &self.from(row, head)[..self.width]
    }
}

/// As [`Heads`], to be written: each row of a head by one task.
pub(super) struct HeadsMut<'a, T> {
    values: *mut T,
    len: usize,
    count: usize,
    width: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: who writes through it promises to be the only one at its place.
unsafe impl<T: Send> Sync for HeadsMut<'_, T> {}

impl<'a, T: Element> HeadsMut<'a, T> {
    pub(super) fn new(values: &'a mut [T], count: usize, width: usize) -> Self {
        let (len, values) = (values.len(), values.as_mut_ptr());
        Self { values, len, count, width, borrowed: PhantomData }
    }

    /// Rounds and stores a head's values in this row.
    ///
    /// # Safety
    /// No other thread writes this head in this row.
    #[inline(always)]
    pub(super) unsafe fn write(&self, (row, head): (usize, usize), values: &[f32]) {
        let start = (row * self.count + head) * self.width;
        assert!(values.len() == self.width && start + self.width <= self.len);
        // SAFETY: the place is inside, and the caller's promise.
        unsafe { T::write(values, self.values.add(start)) };
    }
}
