//! Convolution (cross-correlation, as everyone's `conv2d`), lowered to matrix products forwards and both ways backwards.
//!
//! Each image is unfolded into a matrix of patches and multiplied; the images are worked on in parallel, in a fixed number of
//! groups with a fixed share of the work space, so that neither sums nor memory depend on the number of threads.

use std::ops::Range;

use candle_core::{DType, Device, Error, Result, Tensor, WithDType as _};
use gemmkit::{Bias, MatMut, MatRef, Parallelism};

#[cfg(feature = "cuda")]
use super::cuda;
use super::element::{Element, by_dtype};
use super::host::{buffer, build, expect_shape, view};
use super::parallel::{carve, for_each, sum, vectorized};
use super::product::{Operands, count_product, product};
use crate::memory::uncounted;

/// Most groups that the images of a batch are worked on in.
const GROUPS: usize = 16;

/// The same in both directions of the image.
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

/// Gradients of [`conv2d`].
#[derive(Clone, Debug)]
pub struct ConvGradients {
    /// With respect to x; none if it was not asked for.
    pub input: Option<Tensor>,
    /// With respect to w.
    pub weight: Tensor,
    /// With respect to b, O.
    pub bias: Tensor,
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

    /// Whether the patches are the image itself.
    fn is_pointwise(self) -> bool {
        let ConvSettings { stride, padding, .. } = self.settings;
        self.kernel == (1, 1) && stride == 1 && padding == 0
    }

    fn images_per_group(self) -> usize {
        self.images.div_ceil(GROUPS)
    }

    fn groups_of_images(self) -> usize {
        self.images.div_ceil(self.images_per_group())
    }

    /// For one row of patches, the kernel element of it at (`channel`, `i`, `j`): calls `each(output row, input row)` for
    /// the output rows that see a row of the image.
    #[inline(always)]
    fn rows(self, i: usize, mut each: impl FnMut(usize, usize)) {
        let ConvSettings { stride, padding, dilation, .. } = self.settings;
        for out_row in 0..self.out.0 {
            let row = out_row * stride + i * dilation;
            if row >= padding && row < self.height + padding {
                each(out_row, row - padding);
            }
        }
    }

    /// The output columns that see a column of the image through kernel column `j`, and the first image column; where none
    /// does, that is the image's end at most.
    fn columns(self, j: usize) -> (usize, usize, usize) {
        let ConvSettings { stride, padding, dilation, .. } = self.settings;
        let shift = j * dilation;
        let first = padding.saturating_sub(shift).div_ceil(stride);
        let end = if self.width + padding > shift {
            ((self.width + padding - shift - 1) / stride + 1).min(self.out.1)
        } else {
            0
        };
        let column = (first * stride + shift).saturating_sub(padding).min(self.width);
        (first.min(end), end, column)
    }
}

/// Unfolds the channels of one group of an image: row (c, i, j) of `patches` holds what kernel element (i, j) of channel c sees.
fn unfold<T: Element>(image: &[T], sizes: Sizes, patches: &mut [T]) {
    let stride = sizes.settings.stride;
    let mut rows = patches.chunks_exact_mut(sizes.out_plane());
    for plane in image.chunks_exact(sizes.height * sizes.width) {
        for i in 0..sizes.kernel.0 {
            for j in 0..sizes.kernel.1 {
                let Some(patch) = rows.next() else { return };
                let (first, end, column) = sizes.columns(j);
                if sizes.settings.padding > 0 {
                    patch.fill(T::default());
                }
                sizes.rows(i, |out_row, row| {
                    let target = &mut patch[out_row * sizes.out.1..][first..end];
                    let source = &plane[row * sizes.width..][..sizes.width];
                    if stride == 1 {
                        target.copy_from_slice(&source[column..column + target.len()]);
                    } else {
                        for (target, source) in
                            target.iter_mut().zip(source[column..].iter().step_by(stride))
                        {
                            *target = *source;
                        }
                    }
                });
            }
        }
    }
}

/// The reverse of [`unfold`]: adds every patch value to the image value that it came from.
#[inline(always)]
fn fold(patches: &[f32], sizes: Sizes, image: &mut [f32]) {
    let stride = sizes.settings.stride;
    let mut rows = patches.chunks_exact(sizes.out_plane());
    for plane in image.chunks_exact_mut(sizes.height * sizes.width) {
        for i in 0..sizes.kernel.0 {
            for j in 0..sizes.kernel.1 {
                let Some(patch) = rows.next() else { return };
                let (first, end, column) = sizes.columns(j);
                sizes.rows(i, |out_row, row| {
                    let source = &patch[out_row * sizes.out.1..][first..end];
                    let target = &mut plane[row * sizes.width..][column..];
                    if stride == 1 {
                        for (target, source) in target.iter_mut().zip(source) {
                            *target += source;
                        }
                    } else {
                        for (target, source) in target.iter_mut().step_by(stride).zip(source) {
                            *target += source;
                        }
                    }
                });
            }
        }
    }
}

/// x: N × C × H × W, w: O × C/groups × K × K′, b: O; result: N × O × H′ × W′ with
/// H′ = ⌊(H + 2 padding − dilation (K − 1) − 1) / stride⌋ + 1.
///
/// # Errors
/// When a tensor is not a contiguous tensor of these shapes and one type.
pub fn conv2d(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    (settings, how): (ConvSettings, Operands),
) -> Result<Tensor> {
    let sizes = Sizes::of(x, w, settings)?;
    if let Some(b) = b {
        expect_shape("the bias of a convolution", b, &[sizes.outputs])?;
    }
    sizes.count();
    on_gpu!(x => cuda::conv2d((x, w), b, sizes, how));
    how.on_cpu()?;
    by_dtype!(x.dtype(), T => {
        let (x, w) = (view::<T>(x)?, view::<T>(w)?);
        let b = b.map(view::<T>).transpose()?;
        let patches = if sizes.is_pointwise() { 0 } else { sizes.patch() * sizes.out_plane() };
        let mut space = buffer::<T>(patches * sizes.groups_of_images());
        let shares = split(&mut space, patches, sizes.groups_of_images());
        build::<T>((sizes.images, sizes.outputs, sizes.out.0, sizes.out.1), |y| {
            let images = sizes.images_per_group();
            let tasks = y.chunks_mut(images * sizes.out_image())
                .zip(x.chunks(images * sizes.image()))
                .zip(shares)
                .collect();
            for_each(tasks, |_, ((y, x), space): ((&mut [T], &[T]), &mut [T])| {
                for (y, x) in y.chunks_mut(sizes.out_image()).zip(x.chunks(sizes.image())) {
                    forward_image(sizes, (x, &w, b.as_deref()), space, y);
                }
            });
        })
    })
}

/// `count` pieces of `size` values, which may be 0; the last may be shorter.
fn split<T>(mut space: &mut [T], size: usize, count: usize) -> Vec<&mut [T]> {
    (0..count)
        .map(|_| {
            let size = size.min(space.len());
            let (piece, rest) = std::mem::take(&mut space).split_at_mut(size);
            space = rest;
            piece
        })
        .collect()
}

/// One image of [`conv2d`].
fn forward_image<T: Element>(
    sizes: Sizes,
    (x, w, b): (&[T], &[T], Option<&[T]>),
    space: &mut [T],
    y: &mut [T],
) {
    let (rows, inner, columns) = (sizes.group_outputs(), sizes.patch(), sizes.out_plane());
    let groups = y
        .chunks_mut(rows * columns)
        .zip(x.chunks(sizes.group_channels() * sizes.height * sizes.width))
        .zip(w.chunks(rows * inner));
    for (group, ((y, x), w)) in groups.enumerate() {
        let patches = if sizes.is_pointwise() {
            x
        } else {
            unfold(x, sizes, space);
            &*space
        };
        product(
            MatRef::from_row_major(w, rows, inner),
            MatRef::from_row_major(patches, inner, columns),
            b.map(|b| Bias::PerRow(&b[group * rows..(group + 1) * rows])),
            y,
            Parallelism::Serial,
        );
    }
}

/// The gradients of [`conv2d`]. dy: N × O × H′ × W′. The one with respect to x only if `with_input`.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_backward(
    dy: &Tensor,
    (x, w): (&Tensor, &Tensor),
    (settings, how): (ConvSettings, Operands),
    with_input: bool,
) -> Result<ConvGradients> {
    let sizes = Sizes::of(x, w, settings)?;
    let shape = [sizes.images, sizes.outputs, sizes.out.0, sizes.out.1];
    expect_shape("the gradient of a convolution", dy, &shape)?;
    sizes.count();
    if with_input {
        sizes.count();
    }
    on_gpu!(x => cuda::conv2d_backward(dy, (x, w), (sizes, with_input), how));
    how.on_cpu()?;
    by_dtype!(x.dtype(), T => {
        let (dy, source, weight) = (view::<T>(dy)?, view::<T>(x)?, view::<T>(w)?);
        let image = if with_input { sizes.image() } else { 0 };
        // f32 needs no f32 copies: space that only 16 bits use would count against the memory of FP32.
        let copies = usize::from(T::DTYPE != DType::F32);
        let mut weight_copy = buffer::<f32>(copies * weight.len());
        let wide_weight = vectorized!(T::widened(&weight, &mut weight_copy));
        let lengths = [
            copies * sizes.image(),
            copies * sizes.out_image(),
            sizes.patch() * sizes.out_plane(),
            copies * image,
            weight.len(),
            sizes.outputs,
        ];
        let share: usize = lengths.iter().sum();
        let groups = sizes.groups_of_images();
        let mut space = buffer::<f32>(share * groups);
        let mut run = |dx: &mut [T]| {
            let images = sizes.images_per_group();
            let outputs = split(dx, images * image, groups);
            let tasks = dy
                .chunks(images * sizes.out_image())
                .zip(source.chunks(images * sizes.image()))
                .zip(space.chunks_mut(share).zip(outputs))
                .collect();
            let work = |_, (inputs, (space, dx)): (_, (&mut [f32], &mut [T]))| {
                let (dy, x): (&[T], &[T]) = inputs;
                backward_images(sizes, (dy, x, wide_weight), carve(space, lengths), dx);
            };
            for_each(tasks, work);
        };
        let input = if with_input {
            Some(build::<T>(x.shape(), run)?)
        } else {
            run(&mut []);
            None
        };
        let offset = share - weight.len() - sizes.outputs;
        let weights = add_shares(&space, share, offset..offset + weight.len());
        let biases = add_shares(&space, share, offset + weight.len()..share);
        Ok(ConvGradients {
            input,
            weight: super::from_f32(&weights, w.shape(), T::DTYPE, &Device::Cpu)?,
            bias: super::from_f32(&biases, sizes.outputs, T::DTYPE, &Device::Cpu)?,
        })
    })
}

/// The sum of one range of every share, added in order.
fn add_shares(space: &[f32], share: usize, range: Range<usize>) -> Vec<f32> {
    let mut total = vec![0.0; range.len()];
    for share in space.chunks(share) {
        for (total, value) in total.iter_mut().zip(&share[range.clone()]) {
            *total += value;
        }
    }
    total
}

/// The images of one share: their dx, and in `space` the sums of their dw and db.
fn backward_images<T: Element>(
    sizes: Sizes,
    (dy, x, w): (&[T], &[T], &[f32]),
    space: [&mut [f32]; 6],
    dx: &mut [T],
) {
    let [wide_x, wide_dy, patches, wide_dx, dw, db] = space;
    dw.fill(0.0);
    db.fill(0.0);
    let mut dx = dx.chunks_mut(sizes.image());
    for (dy, x) in dy.chunks(sizes.out_image()).zip(x.chunks(sizes.image())) {
        let (dy, x) = vectorized!((T::widened(dy, wide_dy), T::widened(x, wide_x)));
        for (db, plane) in db.iter_mut().zip(dy.chunks(sizes.out_plane())) {
            *db += vectorized!(sum(plane));
        }
        weight_gradient(sizes, (dy, x), patches, dw);
        if let Some(dx) = dx.next() {
            let fill = |dx: &mut [f32]| input_gradient(sizes, (dy, w), patches, dx);
            vectorized!(T::store(dx, wide_dx, fill));
        }
    }
}

/// Adds one image's share of the weight gradient, dy × patchesᵀ, to `dw`.
fn weight_gradient(sizes: Sizes, (dy, x): (&[f32], &[f32]), patches: &mut [f32], dw: &mut [f32]) {
    let (rows, inner, columns) = (sizes.group_outputs(), sizes.out_plane(), sizes.patch());
    let groups = dw
        .chunks_mut(rows * columns)
        .zip(dy.chunks(rows * inner))
        .zip(x.chunks(sizes.group_channels() * sizes.height * sizes.width));
    for ((dw, dy), x) in groups {
        let patches = if sizes.is_pointwise() {
            x
        } else {
            unfold(x, sizes, patches);
            &*patches
        };
        uncounted(|| {
            gemmkit::gemm(
                1.0,
                MatRef::from_row_major(dy, rows, inner),
                MatRef::from_col_major(patches, inner, columns),
                1.0,
                MatMut::from_row_major(dw, rows, columns),
                Parallelism::Serial,
            );
        });
    }
}

/// One image's input gradient: wᵀ × dy, folded back onto the image.
fn input_gradient(sizes: Sizes, (dy, w): (&[f32], &[f32]), patches: &mut [f32], dx: &mut [f32]) {
    let (rows, inner, columns) = (sizes.patch(), sizes.group_outputs(), sizes.out_plane());
    dx.fill(0.0);
    let groups = dx
        .chunks_mut(sizes.group_channels() * sizes.height * sizes.width)
        .zip(dy.chunks(inner * columns))
        .zip(w.chunks(inner * rows));
    for ((dx, dy), w) in groups {
        product(
            MatRef::from_col_major(w, rows, inner),
            MatRef::from_row_major(dy, inner, columns),
            None,
            patches,
            Parallelism::Serial,
        );
        vectorized!(fold(patches, sizes, dx));
    }
}
