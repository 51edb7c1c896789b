//! Convolution (cross-correlation, as everyone's `conv2d`): three matrix products, forwards and both ways backwards, whose patches
//! are never written down.
//!
//! Each image is copied once, with its border of zeros, so that what a kernel element sees at eight outputs in a row stands side by
//! side: the patches of all outputs are columns at fixed distances from there ([`matmul::Strip`]). The images are worked on in
//! parallel, and what they add to the weight's gradient in a fixed number of groups, so that neither sums nor memory depend on the
//! number of threads.
#![expect(unsafe_code, reason = "images are written through pointers, each by its own task")]

#[cfg(feature = "cuda")]
mod cuda;
mod weight_gradient;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Error, Result, Tensor, WithDType as _};

use super::element::{Element, by_dtype};
use super::host::{Unwritten, expect_shape, try_build, view, zeroed};
use super::linear::{Operands, count_product};
use super::matmul::{
    DEPTH, End, Kernels, LANES, MOST_GROUPS, Operand, Strip, Tiles, are_right, as_f32_mut, kernels,
    with_fallback, with_space,
};
use super::parallel::{for_each, sum, vectorized};
use super::pointwise::Then;
use crate::memory::OutOfMemory;
use weight_gradient::weight_gradient;

/// Most tasks that the images of a batch are worked on in.
const TASKS: usize = 16;

/// The same in both directions of the image.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops::{self, ConvSettings, Operands, Then};
///
/// // With padding, kernels of 3 × 3 leave the size of an image as it is.
/// let settings = ConvSettings { stride: 1, padding: 1, dilation: 1, groups: 1 };
/// let x = Tensor::zeros((1, 2, 5, 5), DType::F32, &Device::Cpu)?;
/// let w = Tensor::zeros((4, 2, 3, 3), DType::F32, &Device::Cpu)?;
/// let y = ops::conv2d(&x, &w, None, (settings, Operands::Exact), Then::Nothing)?;
/// assert_eq!(y.dims(), [1, 4, 5, 5]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvSettings {
    /// Step of the kernel over the image.
    pub stride: usize,
    /// Zeros added on every side.
    pub padding: usize,
    /// Distance between the kernel's elements.
    pub dilation: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

/// Which gradients of [`conv2d`] are wanted beside the one with respect to w.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops::{self, ConvSettings, ConvWanted, Operands};
///
/// // In a layer that the data enters nobody needs the gradient with respect to x.
/// let wanted = ConvWanted { input: false, bias: true };
/// let ones = Tensor::ones((1, 1, 1, 1), DType::F32, &Device::Cpu)?;
/// let settings = ConvSettings { stride: 1, padding: 0, dilation: 1, groups: 1 };
/// let how = (settings, Operands::Exact);
/// let gradients = ops::conv2d_backward(&ones, (&ones, &ones), how, wanted)?;
/// assert!(gradients.input.is_none() && gradients.bias.is_some());
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvWanted {
    /// With respect to x.
    pub input: bool,
    /// With respect to b.
    pub bias: bool,
}

impl ConvWanted {
    /// All of them.
    pub const ALL: Self = Self { input: true, bias: true };
}

/// Gradients of [`conv2d`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops::{self, ConvGradients, ConvSettings, ConvWanted, Operands};
///
/// let ones = |shape| Tensor::ones(shape, DType::F32, &Device::Cpu);
/// let (dy, x, w) = (ones((1, 3, 4, 4))?, ones((1, 2, 5, 5))?, ones((3, 2, 2, 2))?);
/// let how = (ConvSettings { stride: 1, padding: 0, dilation: 1, groups: 1 }, Operands::Exact);
/// let ConvGradients { input, weight, bias } = ops::conv2d_backward(&dy, (&x, &w), how, ConvWanted::ALL)?;
/// assert_eq!(weight.dims(), w.dims());
/// assert_eq!(input.map(|dx| dx.dims() == x.dims()), Some(true));
/// assert_eq!(bias.map(|db| db.dims() == [3]), Some(true));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConvGradients {
    /// With respect to x; none if it was not asked for.
    pub input: Option<Tensor>,
    /// With respect to w.
    pub weight: Tensor,
    /// With respect to b, O; none if it was not asked for.
    pub bias: Option<Tensor>,
}

/// All sizes of one convolution.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) images: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: (usize, usize),
    pub(crate) out: (usize, usize),
    pub(crate) settings: ConvSettings,
}

impl Sizes {
    fn of(x: &Tensor, w: &Tensor, settings: ConvSettings) -> Result<Self> {
        let (images, channels, height, width) = x.dims4()?;
        let (outputs, group_channels, kernel_height, kernel_width) = w.dims4()?;
        let ConvSettings { stride, padding, dilation, groups } = settings;
        let fits = stride > 0
            && dilation > 0
            && groups > 0
            && outputs % groups == 0
            && channels == group_channels * groups
            && kernel_height > 0
            && kernel_width > 0
            && dilation * (kernel_height - 1) < height + 2 * padding
            && dilation * (kernel_width - 1) < width + 2 * padding;
        if !fits {
            let text = format!(
                "a convolution of {:?} with {:?} and {settings:?} has no result",
                x.dims(),
                w.dims()
            );
            return Err(Error::Msg(text).bt());
        }
        let side = |size, kernel| (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
        let out = (side(height, kernel_height), side(width, kernel_width));
        let kernel = (kernel_height, kernel_width);
        Ok(Self { images, channels, height, width, outputs, kernel, out, settings })
    }

    pub(crate) fn image(self) -> usize {
        self.channels * self.height * self.width
    }

    pub(crate) fn out_plane(self) -> usize {
        self.out.0 * self.out.1
    }

    pub(crate) fn out_image(self) -> usize {
        self.outputs * self.out_plane()
    }

    fn group_channels(self) -> usize {
        self.channels / self.settings.groups
    }

    pub(crate) fn group_outputs(self) -> usize {
        self.outputs / self.settings.groups
    }

    /// Rows of a group's patch matrix.
    pub(crate) fn patch(self) -> usize {
        self.group_channels() * self.kernel.0 * self.kernel.1
    }

    /// Counts one of the convolution's three products.
    fn count(self) {
        count_product([self.outputs, self.images * self.out_plane(), self.patch()]);
    }

    /// The same convolution with each plane as one row, where every output sees one value at its own place.
    fn flattened(self) -> Self {
        let ConvSettings { stride, padding, .. } = self.settings;
        if self.kernel != (1, 1) || stride != 1 || padding != 0 {
            return self;
        }
        Self { height: 1, width: self.height * self.width, out: (1, self.out_plane()), ..self }
    }

    /// Values of an image in one group of channels.
    fn group_image(self) -> usize {
        self.group_channels() * self.height * self.width
    }

    /// Values of an output image in one group of channels.
    fn group_out_image(self) -> usize {
        self.group_outputs() * self.out_plane()
    }
}

/// A copy of some planes with a border of zeros. With a stride, values that are as many apart stand side by side: a plane becomes
/// stride × stride smaller ones.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Sides of a plane.
    height: usize,
    width: usize,
    /// Where the copy starts in the plane: at minus the border.
    top: isize,
    left: isize,
    stride: usize,
    /// Sides of one of the smaller planes.
    rows: usize,
    columns: usize,
}

impl Frame {
    /// Values of a plane's copy.
    fn plane(&self) -> usize {
        self.stride * self.stride * self.rows * self.columns
    }

    /// Where the copy has the value at this place of the framed plane.
    fn at(&self, row: usize, column: usize) -> usize {
        let small = row % self.stride * self.stride + column % self.stride;
        (small * self.rows + row / self.stride) * self.columns + column / self.stride
    }

    /// The values of a copy of so many planes, with what is read beyond the last.
    fn len(&self, planes: usize) -> usize {
        planes * self.plane() + LANES
    }

    /// Copies planes. `to` holds zeros where the border is.
    #[inline(always)]
    fn copy<T: Element>(&self, planes: &[T], tiles: Tiles, to: &mut [u32]) {
        // The columns that the copy has of a row, and the zeros before them.
        let first = self.left.max(0).unsigned_abs();
        let border = (-self.left).max(0).unsigned_abs();
        let columns = self.columns * self.stride;
        let end = (first + columns.saturating_sub(border)).min(self.width).max(first);
        for (index, plane) in planes.chunks_exact(self.height * self.width).enumerate() {
            let start = index * self.plane();
            for row in 0..self.rows * self.stride {
                let source = self.top + row.cast_signed();
                let source = usize::try_from(source).ok().filter(|source| *source < self.height);
                let Some(source) = source else { continue };
                let values = &plane[source * self.width..][first..end];
                if self.stride == 1 {
                    tiles.put(values, to, start + row * columns + border);
                    continue;
                }
                // Every so many values stand side by side in a smaller plane.
                for phase in 0..self.stride.min(values.len()) {
                    let at = start + self.at(row, border + phase);
                    let mut few = [T::default(); 64];
                    for (part, values) in values[phase..].chunks(64 * self.stride).enumerate() {
                        let values = values.iter().step_by(self.stride);
                        let count = few.iter_mut().zip(values).map(|(to, v)| *to = *v).count();
                        tiles.put(&few[..count], to, at + part * 64);
                    }
                }
            }
        }
    }
}

/// One product of a convolution, for every image: rows of weights × patches of planes.
struct Pass<'a, T: Element> {
    weights: Cow<'a, [T]>,
    rows: usize,
    frame: Frame,
    /// Planes that are copied.
    planes: usize,
    /// How far from an output's place in the copy each value of the depth is.
    steps: Vec<usize>,
    /// Outputs, and what is between two of them in the target.
    grid: (usize, usize),
    apart: usize,
    /// Where the first output is in the target, and the target's sides.
    origin: (usize, usize),
    target: (usize, usize),
}

impl<'a, T: Element> Pass<'a, T> {
    /// One group of [`conv2d`].
    fn forward(sizes: Sizes, weights: &'a [T]) -> Self {
        let ConvSettings { stride, padding, dilation, .. } = sizes.settings;
        let small = |out: usize, kernel: usize| {
            ((out - 1) * stride + (kernel - 1) * dilation + 1).div_ceil(stride)
        };
        let frame = Frame {
            height: sizes.height,
            width: sizes.width,
            top: -padding.cast_signed(),
            left: -padding.cast_signed(),
            stride,
            rows: small(sizes.out.0, sizes.kernel.0),
            columns: small(sizes.out.1, sizes.kernel.1),
        };
        let mut steps = Vec::with_capacity(sizes.patch());
        for channel in 0..sizes.group_channels() {
            for i in 0..sizes.kernel.0 {
                for j in 0..sizes.kernel.1 {
                    steps.push(channel * frame.plane() + frame.at(i * dilation, j * dilation));
                }
            }
        }
        Self {
            weights: Cow::Borrowed(weights),
            rows: sizes.group_outputs(),
            frame,
            planes: sizes.group_channels(),
            steps,
            grid: sizes.out,
            apart: 1,
            origin: (0, 0),
            target: sizes.out,
        }
    }

    /// One group of the gradient with respect to x, at the places that are `phase` more than a multiple of the stride: the kernel
    /// elements that see them are the same for all. None see them: no pass.
    fn input_gradient(sizes: Sizes, weights: &[T], phase: (usize, usize)) -> Option<Self> {
        let ConvSettings { stride, padding, dilation, .. } = sizes.settings;
        let seen = |phase: usize, kernel| seen_by(phase + padding, kernel, dilation, stride);
        let (down, across) = (seen(phase.0, sizes.kernel.0), seen(phase.1, sizes.kernel.1));
        let grid = (
            sizes.height.saturating_sub(phase.0).div_ceil(stride),
            sizes.width.saturating_sub(phase.1).div_ceil(stride),
        );
        let first = |seen: &[Seen]| seen.iter().map(|seen| seen.output).min();
        let (top, left) = first(&down).zip(first(&across)).filter(|_| grid.0 * grid.1 > 0)?;
        let side = |seen: &[Seen], grid: usize, first: isize| {
            grid + seen.iter().map(|seen| seen.output.abs_diff(first)).max().unwrap_or(0)
        };
        let frame = Frame {
            height: sizes.out.0,
            width: sizes.out.1,
            top,
            left,
            stride: 1,
            rows: side(&down, grid.0, top),
            columns: side(&across, grid.1, left),
        };
        let (outputs, channels) = (sizes.group_outputs(), sizes.group_channels());
        let mut steps = Vec::with_capacity(outputs * down.len() * across.len());
        let mut turned = Vec::with_capacity(channels * outputs * down.len() * across.len());
        for output in 0..outputs {
            for row in &down {
                for column in &across {
                    let (row, column) = (row.output.abs_diff(top), column.output.abs_diff(left));
                    steps.push(output * frame.plane() + frame.at(row, column));
                }
            }
        }
        for channel in 0..channels {
            for output in 0..outputs {
                for row in &down {
                    let row = (output * channels + channel) * sizes.kernel.0 + row.element;
                    for column in &across {
                        turned.push(weights[row * sizes.kernel.1 + column.element]);
                    }
                }
            }
        }
        Some(Self {
            weights: Cow::Owned(turned),
            rows: channels,
            frame,
            planes: outputs,
            steps,
            grid,
            apart: stride,
            origin: phase,
            target: (sizes.height, sizes.width),
        })
    }

    fn groups(&self) -> Vec<Group> {
        let columns = (0..self.grid.1).step_by(LANES);
        let row_of = |row: usize| {
            let start = row * self.frame.columns;
            columns.clone().map(move |column| Group { start: start + column, row, column })
        };
        (0..self.grid.0).flat_map(row_of).collect()
    }

    /// Multiplies for every image. Whether the results are right.
    fn run(
        &self,
        tiles: Tiles,
        source: &Source<'_, T>,
        target: &Target<'_, T>,
        end: End<'_, T>,
    ) -> Result<bool> {
        let depth = self.steps.len();
        let weights = Operand::along_depth(&self.weights, self.rows, depth);
        let right = AtomicBool::new(true);
        let failed: OnceLock<OutOfMemory> = OnceLock::new();
        let blocks: Vec<Range<usize>> =
            (0..depth).step_by(DEPTH).map(|start| start..(start + DEPTH).min(depth)).collect();
        let words = |block: &Range<usize>| tiles.left_words::<T>(self.rows, block.len());
        with_space(blocks.iter().map(words).sum(), |packed| {
            let mut rest = &mut *packed;
            let mut left = Vec::with_capacity(blocks.len());
            for block in &blocks {
                let (now, after) = rest.split_at_mut(words(block));
                rest = after;
                tiles.pack_left(&weights, block.clone(), now);
                left.push((block.clone(), &*now));
            }
            let groups = self.groups();
            let together = (source.images.len() / source.image).div_ceil(TASKS).max(1);
            let tasks = source.images.chunks(source.image * together).collect();
            for_each(tasks, |task, images: &[T]| {
                let images = images.chunks(source.image).map(|image| &image[source.part.clone()]);
                let images = (task * together..).zip(images);
                match self.run_images(tiles, (&left, &groups), images, (end, target)) {
                    Ok(true) => {}
                    Ok(false) => right.store(false, Ordering::Relaxed),
                    Err(error) => _ = failed.set(error),
                }
            });
        })?;
        failed.into_inner().map_or_else(|| Ok(right.into_inner()), |error| Err(error.into()))
    }

    /// Multiplies for some images, each with its number.
    fn run_images<'i>(
        &self,
        tiles: Tiles,
        (left, groups): (&[(Range<usize>, &[u32])], &[Group]),
        images: impl Iterator<Item = (usize, &'i [T])>,
        (end, target): (End<'_, T>, &Target<'_, T>),
    ) -> std::result::Result<bool, OutOfMemory> {
        let copy = tiles.words::<T>(self.frame.len(self.planes)).next_multiple_of(16);
        let pitch = tiles.groups() * LANES;
        let sums = self.rows.next_multiple_of(tiles.rows()) * pitch;
        with_space(copy + sums + tiles.scratch::<T>(), |space| {
            let (copy, space) = space.split_at_mut(copy);
            let (sums, scratch) = space.split_at_mut(sums);
            let sums = as_f32_mut(sums);
            // The border stays as it is from image to image.
            copy.fill(0);
            tiles.enter();
            let mut right = true;
            for (index, image) in images {
                vectorized!(self.frame.copy(image, tiles, copy));
                for groups in groups.chunks(tiles.groups()) {
                    let mut starts = [0; MOST_GROUPS];
                    for (start, group) in starts.iter_mut().zip(groups) {
                        *start = group.start;
                    }
                    for (block, left) in left {
                        let strip = Strip {
                            left,
                            along_depth: true,
                            source: copy,
                            groups: &starts[..groups.len()],
                            steps: &self.steps[block.clone()],
                            add: block.start > 0,
                        };
                        tiles.strip::<T>(&strip, self.rows, (sums, pitch), scratch);
                    }
                    right &= are_right::<T>(tiles, sums);
                    vectorized!(self.finish(groups, (&mut *sums, pitch), end, (target, index)));
                }
            }
            tiles.leave();
            right
        })
    }

    /// Rounds and stores the sums of some groups of outputs. A bias is one value for each row.
    #[inline(always)]
    fn finish(
        &self,
        groups: &[Group],
        (sums, pitch): (&mut [f32], usize),
        End { bias, then }: End<'_, T>,
        (target, image): (&Target<'_, T>, usize),
    ) {
        let plane = self.target.0 * self.target.1;
        let planes = target.images.at(image, target.start..target.start + self.rows * plane);
        // Where each group goes in a plane, and how many of its values there are.
        let mut places = [(0, 0); MOST_GROUPS];
        let places = &mut places[..groups.len()];
        for (place, group) in places.iter_mut().zip(groups) {
            let row = self.origin.0 + group.row * self.apart;
            let at = row * self.target.1 + self.origin.1 + group.column * self.apart;
            let count = LANES.min(self.grid.1 - group.column);
            assert!(at + (count - 1) * self.apart < plane, "a group beyond its plane");
            *place = (at, count);
        }
        let mut rounded = [T::default(); LANES];
        for (row, sums) in sums.chunks_exact_mut(pitch).take(self.rows).enumerate() {
            if let Some(bias) = bias {
                let bias = bias[row].to_f64() as f32;
                for sum in &mut *sums {
                    *sum += bias;
                }
            }
            if then == Then::Relu {
                for sum in &mut *sums {
                    *sum = then.apply(*sum);
                }
            }
            let to = planes.wrapping_add(row * plane);
            for ((at, count), sums) in places.iter().zip(sums.as_chunks::<LANES>().0) {
                if self.apart == 1 && *count == LANES {
                    // SAFETY: the images have room for all outputs, and each belongs to one row and group.
                    unsafe { T::write(sums, to.add(*at)) };
                    continue;
                }
                T::narrow(sums, &mut rounded);
                for (offset, value) in rounded[..*count].iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { to.add(at + offset * self.apart).write(*value) };
                }
            }
        }
    }
}

/// A kernel element that sees a place, on one side, and the output that it sees it for, relative to the place's own number.
#[derive(Clone, Copy)]
struct Seen {
    element: usize,
    output: isize,
}

/// What sees the places at `place`, in the image with its border, and at whole strides from there.
fn seen_by(place: usize, kernel: usize, dilation: usize, stride: usize) -> Vec<Seen> {
    let stride = stride.cast_signed();
    let shifts = (0..kernel)
        .map(|element| (element, place.cast_signed() - (element * dilation).cast_signed()));
    shifts
        .filter(|(_, shift)| shift.rem_euclid(stride) == 0)
        .map(|(element, shift)| Seen { element, output: shift.div_euclid(stride) })
        .collect()
}

/// [`LANES`] outputs side by side.
#[derive(Clone, Copy)]
struct Group {
    /// Where the first is in the copy.
    start: usize,
    row: usize,
    /// Column of the first.
    column: usize,
}

/// The planes of a group of channels in each of several images.
struct Source<'a, T> {
    images: &'a [T],
    /// Values of an image.
    image: usize,
    /// The group's values of an image.
    part: Range<usize>,
}

/// Where a group of channels goes in each image.
struct Target<'a, T> {
    images: &'a Images<T>,
    /// Where the group's values start in an image.
    start: usize,
}

/// Images that tasks write.
struct Images<T> {
    to: *mut T,
    /// Values of one, and how many there are.
    image: usize,
    count: usize,
}

// SAFETY: tasks write disjoint parts of the images through it.
unsafe impl<T: Sync> Sync for Images<T> {}

impl<T> Images<T> {
    /// Where some values of an image are.
    #[inline(always)]
    fn at(&self, image: usize, at: Range<usize>) -> *mut T {
        assert!(image < self.count && at.end <= self.image);
        self.to.wrapping_add(image * self.image + at.start)
    }
}

/// The convolution, and `then`. x: N × C × H × W, w: O × C/groups × K × K′, b: O; result: N × O × H′ × W′ with
/// H′ = ⌊(H + 2 padding − dilation (K − 1) − 1) / stride⌋ + 1.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops::{self, ConvSettings, Operands, Then};
///
/// // A kernel of ones sums what it sees.
/// let x = Tensor::arange(0.0_f32, 9.0, &Device::Cpu)?.reshape((1, 1, 3, 3))?;
/// let w = Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu)?;
/// let settings = ConvSettings { stride: 1, padding: 0, dilation: 1, groups: 1 };
/// let y = ops::conv2d(&x, &w, None, (settings, Operands::Exact), Then::Nothing)?;
/// assert_eq!(ops::to_f32(&y)?, [8.0, 12.0, 20.0, 24.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When a tensor is not a contiguous tensor of these shapes and one type.
pub fn conv2d(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    (settings, how): (ConvSettings, Operands),
    then: Then,
) -> Result<Tensor> {
    let sizes = Sizes::of(x, w, settings)?;
    if let Some(b) = b {
        expect_shape("the bias of a convolution", b, &[sizes.outputs])?;
    }
    sizes.count();
    on_gpu!(x => then.after(cuda::conv2d((x, w), b, sizes, how)?));
    how.on_cpu()?;
    let kernels = kernels()?;
    by_dtype!(x.dtype(), T => {
        let (x, w) = (view::<T>(x)?, view::<T>(w)?);
        let b = b.map(view::<T>).transpose()?;
        try_build::<T>((sizes.images, sizes.outputs, sizes.out.0, sizes.out.1), |y| {
            let end = End { bias: b.as_deref(), then };
            forward(&kernels, sizes.flattened(), (&x, &w), end, y)
        })
    })
}

/// [`conv2d`] with these kernels.
fn forward<T: Element>(
    kernels: &Kernels,
    sizes: Sizes,
    (x, w): (&[T], &[T]),
    end: End<'_, T>,
    y: Unwritten<'_, T>,
) -> Result<()> {
    let (rows, patch) = (sizes.group_outputs(), sizes.patch());
    let all = |tiles: &dyn Fn(usize, usize) -> Tiles, to: *mut T| {
        let target = Images { to, image: sizes.out_image(), count: sizes.images };
        let mut right = true;
        for (group, w) in w.chunks(rows * patch).enumerate() {
            let pass = Pass::forward(sizes, w);
            let part = |size: usize| group * size..(group + 1) * size;
            right &= pass.run(
                tiles(rows, pass.groups().len()),
                &Source { images: x, image: sizes.image(), part: part(sizes.group_image()) },
                &Target { images: &target, start: group * sizes.group_out_image() },
                End { bias: end.bias.map(|bias| &bias[part(rows)]), ..end },
            )?;
        }
        Ok(right)
    };
    // SAFETY: the groups' passes write every output of every image.
    unsafe {
        y.try_written_by(|y| with_fallback::<T>(kernels, |tiles| all(tiles, y.as_mut_ptr().cast())))
    }
}

/// The gradients of [`conv2d`]. dy: N × O × H′ × W′.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops::{self, ConvSettings, ConvWanted, Operands};
///
/// let ones = Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu)?;
/// let x = Tensor::arange(0.0_f32, 9.0, &Device::Cpu)?.reshape((1, 1, 3, 3))?;
/// let how = (ConvSettings { stride: 1, padding: 0, dilation: 1, groups: 1 }, Operands::Exact);
/// let gradients = ops::conv2d_backward(&ones, (&x, &ones), how, ConvWanted::ALL)?;
/// // The value in the middle takes part in all four outputs.
/// let dx = gradients.input.map(|dx| ops::to_f32(&dx)).transpose()?;
/// assert_eq!(dx.as_deref(), Some(&[1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0][..]));
/// assert_eq!(ops::to_f32(&gradients.weight)?, [8.0, 12.0, 20.0, 24.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_backward(
    dy: &Tensor,
    (x, w): (&Tensor, &Tensor),
    (settings, how): (ConvSettings, Operands),
    wanted: ConvWanted,
) -> Result<ConvGradients> {
    let sizes = Sizes::of(x, w, settings)?;
    let shape = [sizes.images, sizes.outputs, sizes.out.0, sizes.out.1];
    expect_shape("the gradient of a convolution", dy, &shape)?;
    sizes.count();
    if wanted.input {
        sizes.count();
    }
    on_gpu!(x => cuda::conv2d_backward(dy, (x, w), (sizes, wanted), how));
    how.on_cpu()?;
    let kernels = kernels()?;
    by_dtype!(x.dtype(), T => {
        let (dy, source, weight) = (view::<T>(dy)?, view::<T>(x)?, view::<T>(w)?);
        let flat = sizes.flattened();
        let input = wanted.input.then(|| try_build::<T>(x.shape(), |dx| {
            input_gradient(&kernels, flat, (&dy, &weight), dx)
        }));
        let result = |values: &[f32], shape: &[usize]| {
            super::from_f32(values, shape, T::DTYPE, &Device::Cpu)
        };
        let bias = wanted.bias.then(|| result(&bias_gradient(sizes, &dy)?, &[sizes.outputs]));
        Ok(ConvGradients {
            input: input.transpose()?,
            weight: result(&weight_gradient(&kernels, flat, (&dy, &source))?, w.dims())?,
            bias: bias.transpose()?,
        })
    })
}

/// The gradient with respect to x, with these kernels.
fn input_gradient<T: Element>(
    kernels: &Kernels,
    sizes: Sizes,
    (dy, w): (&[T], &[T]),
    dx: Unwritten<'_, T>,
) -> Result<()> {
    let stride = sizes.settings.stride;
    let all = |tiles: &dyn Fn(usize, usize) -> Tiles, to: *mut T| {
        let target = Images { to, image: sizes.image(), count: sizes.images };
        let mut right = true;
        for (group, w) in w.chunks(sizes.group_outputs() * sizes.patch()).enumerate() {
            let part = |size: usize| group * size..(group + 1) * size;
            for phase in (0..stride).flat_map(|row| (0..stride).map(move |column| (row, column))) {
                // Places that nobody sees stay 0.
                let Some(pass) = Pass::input_gradient(sizes, w, phase) else { continue };
                right &= pass.run(
                    tiles(pass.rows, pass.groups().len()),
                    &Source {
                        images: dy,
                        image: sizes.out_image(),
                        part: part(sizes.group_out_image()),
                    },
                    &Target { images: &target, start: group * sizes.group_image() },
                    End::NONE,
                )?;
            }
        }
        Ok(right)
    };
    let ConvSettings { padding, dilation, .. } = sizes.settings;
    let seen = |side: usize, kernel: usize| {
        (0..stride.min(side))
            .all(|phase| !seen_by(phase + padding, kernel, dilation, stride).is_empty())
    };
    let are_seen = seen(sizes.height, sizes.kernel.0) && seen(sizes.width, sizes.kernel.1);
    let write = |dx: &mut [std::mem::MaybeUninit<T>]| {
        if !are_seen {
            dx.fill(std::mem::MaybeUninit::new(T::default()));
        }
        with_fallback::<T>(kernels, |tiles| all(tiles, dx.as_mut_ptr().cast()))
    };
    // SAFETY: the passes write every place that a kernel element sees, and where there are others all were set to 0.
    unsafe { dx.try_written_by(write) }
}

/// The gradient with respect to b: the sums of the planes of dy, in f32.
fn bias_gradient<T: Element>(sizes: Sizes, dy: &[T]) -> Result<Vec<f32>> {
    let mut sums = zeroed::<f32>(sizes.images.div_ceil(images_per_slice(sizes)) * sizes.outputs)?;
    let tasks = sums
        .chunks_mut(sizes.outputs)
        .zip(dy.chunks(images_per_slice(sizes) * sizes.out_image()))
        .collect();
    for_each(tasks, |_, (sums, dy): (&mut [f32], &[T])| {
        let mut wide = [0.0; 1024];
        for image in dy.chunks(sizes.out_image()) {
            for (total, plane) in sums.iter_mut().zip(image.chunks(sizes.out_plane())) {
                for part in plane.chunks(wide.len()) {
                    *total += vectorized!(sum(T::widened(part, &mut wide)));
                }
            }
        }
    });
    add_slices(&sums, sizes.outputs)
}

/// The sum of slices of `len` values, added in order.
fn add_slices(slices: &[f32], len: usize) -> Result<Vec<f32>> {
    let mut total = zeroed::<f32>(len)?;
    for slice in slices.chunks(len) {
        vectorized!(total.iter_mut().zip(slice).for_each(|(total, value)| *total += value));
    }
    Ok(total)
}

/// Images that are summed up one after the other.
fn images_per_slice(sizes: Sizes) -> usize {
    sizes.images.div_ceil(TASKS)
}

#[cfg(test)]
mod tests;
