//! The gradient of a convolution with respect to its weight.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Result;

use super::super::element::Element;
use super::super::host::zeroed;
use super::super::matmul::{
    DEPTH, Kernels, LANES, Operand, Strip, Tiles, are_right, with_fallback, with_space,
};
use super::super::parallel::{for_each, vectorized};
use super::{ConvSettings, Sizes, images_per_slice};
use crate::memory::OutOfMemory;

/// The gradient with respect to w, in f32, with these kernels.
pub(super) fn weight_gradient<T: Element>(
    kernels: &Kernels,
    sizes: Sizes,
    (dy, x): (&[T], &[T]),
) -> Result<Vec<f32>> {
    let mut result = Vec::new();
    with_fallback::<T>(kernels, |tiles| {
        let gradient = WeightGradient::new(sizes, tiles);
        let (values, right) = gradient.run((dy, x))?;
        result = values;
        Ok(right)
    })?;
    Ok(result)
}

/// The product of the weight's gradient: the outputs' gradients × what each kernel element sees. Its depth are the outputs, along
/// which images have no eight values of a row of patches side by side; so an image is copied with its channels last, and a group of
/// columns is eight channels that one kernel element sees.
struct WeightGradient {
    sizes: Sizes,
    tiles: Tiles,
    /// Sides of the copy, with its border, and the channels of a place.
    rows: usize,
    columns: usize,
    channels: usize,
    /// Where each output's patch starts in the copy.
    steps: Vec<usize>,
    /// Where what each kernel element sees of eight channels starts in a patch.
    groups: Vec<usize>,
}

impl WeightGradient {
    fn new(sizes: Sizes, tiles: &dyn Fn(usize, usize) -> Tiles) -> Self {
        let ConvSettings { stride, dilation, .. } = sizes.settings;
        let side = |out: usize, kernel: usize| (out - 1) * stride + (kernel - 1) * dilation + 1;
        let rows = side(sizes.out.0, sizes.kernel.0);
        let columns = side(sizes.out.1, sizes.kernel.1);
        let channels = sizes.group_channels().next_multiple_of(LANES);
        let at = |row: usize, column: usize| (row * columns + column) * channels;
        let steps = (0..sizes.out.0)
            .flat_map(|y| (0..sizes.out.1).map(move |x| at(y * stride, x * stride)))
            .collect();
        let kernel = (0..sizes.kernel.0)
            .flat_map(|i| (0..sizes.kernel.1).map(move |j| at(i * dilation, j * dilation)));
        let groups: Vec<usize> = kernel
            .flat_map(|at| (0..channels).step_by(LANES).map(move |channel| at + channel))
            .collect();
        let tiles = tiles(sizes.group_outputs(), groups.len());
        Self { sizes, tiles, rows, columns, channels, steps, groups }
    }

    /// From one row of sums to the next: whole tiles.
    fn pitch(&self) -> usize {
        self.groups.len().next_multiple_of(self.tiles.groups()) * LANES
    }

    /// Copies one group of channels of an image, with its border, channels last. `to` holds zeros where nothing is copied to.
    #[inline(always)]
    fn copy<T: Element>(&self, image: &[T], to: &mut [u32]) {
        let Sizes { height, width, settings: ConvSettings { padding, .. }, .. } = self.sizes;
        let across = self.columns.saturating_sub(padding).min(width);
        for (group, planes) in image.chunks(LANES * height * width).enumerate() {
            for row in (0..height).take_while(|row| row + padding < self.rows) {
                let at = ((row + padding) * self.columns + padding) * self.channels;
                let planes = planes.chunks_exact(height * width);
                let lines = planes.map(|plane| &plane[row * width..][..across]);
                self.tiles.put_across(lines, to, at + group * LANES, self.channels);
            }
        }
    }

    /// Sums of one group of channels: those of whole tiles.
    fn share(&self) -> usize {
        self.sizes.group_outputs().next_multiple_of(self.tiles.rows()) * self.pitch()
    }

    /// The gradient, and whether it is right.
    fn run<T: Element>(&self, (dy, x): (&[T], &[T])) -> Result<(Vec<f32>, bool)> {
        let (sizes, images) = (self.sizes, images_per_slice(self.sizes));
        let slice = sizes.settings.groups * self.share();
        let mut sums = zeroed::<f32>(sizes.images.div_ceil(images) * slice)?;
        let right = AtomicBool::new(true);
        let failed: OnceLock<OutOfMemory> = OnceLock::new();
        let tasks = sums
            .chunks_mut(slice)
            .zip(dy.chunks(images * sizes.out_image()).zip(x.chunks(images * sizes.image())))
            .collect();
        for_each(tasks, |_, (sums, images): (&mut [f32], (&[T], &[T]))| {
            if let Err(error) = self.run_slice(images, sums) {
                _ = failed.set(error);
            }
            if !are_right::<T>(self.tiles, sums) {
                right.store(false, Ordering::Relaxed);
            }
        });
        if let Some(error) = failed.into_inner() {
            return Err(error.into());
        }
        Ok((self.ordered(&sums)?, right.into_inner()))
    }

    /// The sums of some images.
    fn run_slice<T: Element>(
        &self,
        (dy, x): (&[T], &[T]),
        sums: &mut [f32],
    ) -> std::result::Result<(), OutOfMemory> {
        let (sizes, tiles, depth) = (self.sizes, self.tiles, self.steps.len());
        let outputs = sizes.group_outputs();
        let copy = tiles.words::<T>(self.rows * self.columns * self.channels + LANES);
        let copy = copy.next_multiple_of(16);
        let left = tiles.left_words::<T>(outputs, DEPTH.min(depth)).next_multiple_of(16);
        with_space(copy + left + tiles.scratch::<T>(), |space| {
            let (copy, space) = space.split_at_mut(copy);
            let (left, scratch) = space.split_at_mut(left);
            // The border stays as it is from image to image.
            copy.fill(0);
            tiles.enter();
            for (group, sums) in sums.chunks_mut(self.share()).enumerate() {
                let part = |size: usize| group * size..(group + 1) * size;
                let each = dy.chunks(sizes.out_image()).zip(x.chunks(sizes.image()));
                for (index, (dy, x)) in each.enumerate() {
                    vectorized!(self.copy(&x[part(sizes.group_image())], copy));
                    let dy = &dy[part(sizes.group_out_image())];
                    let dy = Operand::along_depth(dy, outputs, depth);
                    for start in (0..depth).step_by(DEPTH) {
                        let block = start..(start + DEPTH).min(depth);
                        let left = &mut left[..tiles.left_words::<T>(outputs, block.len())];
                        tiles.pack_left(&dy, block.clone(), left);
                        for (at, groups) in self.groups.chunks(tiles.groups()).enumerate() {
                            let (steps, add) = (&self.steps[block.clone()], index > 0 || start > 0);
                            let along_depth = true;
                            let strip =
                                Strip { left, along_depth, source: copy, groups, steps, add };
                            let sums = &mut sums[at * tiles.groups() * LANES..];
                            tiles.strip::<T>(&strip, outputs, (sums, self.pitch()), scratch);
                        }
                    }
                }
            }
            tiles.leave();
        })
    }

    /// The sum of the slices, in the order of the weights: what the sums of a row have by kernel element and channel, by channel and
    /// kernel element.
    fn ordered(&self, sums: &[f32]) -> Result<Vec<f32>> {
        let share = self.share();
        let Sizes { kernel, settings, .. } = self.sizes;
        let (outputs, channels) = (self.sizes.group_outputs(), self.sizes.group_channels());
        let elements = kernel.0 * kernel.1;
        let mut result = zeroed::<f32>(settings.groups * outputs * channels * elements)?;
        let rows = result.chunks_mut(channels * elements).enumerate();
        for (row, weights) in rows {
            let (group, output) = (row / outputs, row % outputs);
            let start = group * share + output * self.pitch();
            for slice in sums.chunks(settings.groups * share) {
                for channel in 0..channels {
                    for element in 0..elements {
                        weights[channel * elements + element] +=
                            slice[start + element * self.channels + channel];
                    }
                }
            }
        }
        Ok(result)
    }
}
