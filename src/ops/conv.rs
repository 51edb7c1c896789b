//! Convolution (cross-correlation, as everyone's `conv2d`), lowered to matrix products forwards and both ways backwards.
//!
//! Each image is unfolded into a matrix of patches and multiplied; the images are worked on in parallel, in a fixed number of
//! groups with a fixed share of the work space, so that neither sums nor memory depend on the number of threads.
#![expect(unsafe_code, reason = "work space has no values before it is written")]

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{DType, Device, Error, Result, Tensor, WithDType as _};
use gemmkit::{MatMut, MatRef, Parallelism};

#[cfg(feature = "cuda")]
use super::cuda;
use super::element::{Element, by_dtype};
use super::host::{Unwritten, build, expect_shape, view, work_space, zeroed, zeros_in};
use super::parallel::{carve, for_each, sum, vectorized};
use super::product::{Bias, Matrix, Operands, count_product, product, product_into};
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

/// Which gradients of [`conv2d`] are wanted beside the one with respect to w.
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

/// Unfolds the channels of one group of an image to `space`, which has the values of its patches: row (c, i, j) holds what kernel
/// element (i, j) of channel c sees.
fn unfold<'a, T: Element>(image: &[T], sizes: Sizes, space: &'a mut [MaybeUninit<T>]) -> &'a [T] {
    let stride = sizes.settings.stride;
    assert!(space.len() == sizes.patch() * sizes.out_plane());
    assert!(image.len() == sizes.group_channels() * sizes.height * sizes.width);
    let mut rows = space.chunks_exact_mut(sizes.out_plane());
    for plane in image.chunks_exact(sizes.height * sizes.width) {
        for i in 0..sizes.kernel.0 {
            for (j, patch) in (0..sizes.kernel.1).zip(&mut rows) {
                let (first, end, column) = sizes.columns(j);
                if sizes.settings.padding > 0 {
                    patch.fill(MaybeUninit::new(T::default()));
                }
                sizes.rows(i, |out_row, row| {
                    let target = &mut patch[out_row * sizes.out.1..][first..end];
                    let source = &plane[row * sizes.width..][..sizes.width];
                    if stride == 1 {
                        target.write_copy_of_slice(&source[column..column + target.len()]);
                    } else {
                        for (target, source) in
                            target.iter_mut().zip(source[column..].iter().step_by(stride))
                        {
                            target.write(*source);
                        }
                    }
                });
            }
        }
    }
    // SAFETY: there is a row for each element of the kernel and channel, and each is written: set to 0 first where there is
    // padding; without, every output row and column sees one of the image, so that `rows` and `columns` leave none out.
    unsafe { space.assume_init_ref() }
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
        let mut space = work_space::<T>(patches * sizes.groups_of_images())?;
        let shares = split(&mut space, patches, sizes.groups_of_images());
        build::<T>((sizes.images, sizes.outputs, sizes.out.0, sizes.out.1), |y| {
            let images = sizes.images_per_group();
            let tasks = y.chunks(images * sizes.out_image())
                .zip(x.chunks(images * sizes.image()))
                .zip(shares)
                .collect();
            for_each(tasks, |_, ((y, x), space): ForwardTask<'_, T>| {
                for (y, x) in y.chunks(sizes.out_image()).zip(x.chunks(sizes.image())) {
                    forward_image(sizes, (x, &w, b.as_deref()), space, y);
                }
            });
        })
    })
}

/// Images of y and x, and work space.
type ForwardTask<'a, T> = ((Unwritten<'a, T>, &'a [T]), &'a mut [MaybeUninit<T>]);

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
    space: &mut [MaybeUninit<T>],
    y: Unwritten<'_, T>,
) {
    let (rows, inner, columns) = (sizes.group_outputs(), sizes.patch(), sizes.out_plane());
    let groups = y
        .chunks(rows * columns)
        .zip(x.chunks(sizes.group_channels() * sizes.height * sizes.width))
        .zip(w.chunks(rows * inner));
    for (group, ((y, x), w)) in groups.enumerate() {
        let patches = if sizes.is_pointwise() { x } else { unfold(x, sizes, space) };
        product(
            Matrix::by_rows(w, rows, inner),
            Matrix::by_rows(patches, inner, columns),
            b.map(|b| Bias::PerRow(&b[group * rows..(group + 1) * rows])),
            y,
            Parallelism::Serial,
        );
    }
}

/// The gradients of [`conv2d`]. dy: N × O × H′ × W′.
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
    by_dtype!(x.dtype(), T => {
        let (dy, source, weight) = (view::<T>(dy)?, view::<T>(x)?, view::<T>(w)?);
        // f32 needs no f32 copies: space that only 16 bits use would count against the memory of FP32.
        let copies = usize::from(T::DTYPE != DType::F32);
        let mut weight_copy = zeroed::<f32>(copies * weight.len())?;
        let wide_weight = vectorized!(T::widened(&weight, &mut weight_copy));
        let lengths = [
            copies * sizes.image(),
            copies * sizes.out_image(),
            sizes.patch() * sizes.out_plane(),
            copies * usize::from(wanted.input) * sizes.image(),
            weight.len(),
            usize::from(wanted.bias) * sizes.outputs,
        ];
        let share: usize = lengths.iter().sum();
        let mut space = work_space::<f32>(share * sizes.groups_of_images())?;
        let mut run = |dx: Option<Unwritten<'_, T>>| {
            let images = sizes.images_per_group();
            let mut parts = dx.map(|dx| dx.chunks(images * sizes.image()));
            let outputs = std::iter::from_fn(|| Some(parts.as_mut().and_then(Iterator::next)));
            let tasks = dy
                .chunks(images * sizes.out_image())
                .zip(source.chunks(images * sizes.image()))
                .zip(space.chunks_mut(share).zip(outputs))
                .collect();
            for_each(tasks, |_, ((dy, x), (space, dx)): BackwardTask<'_, T>| {
                backward_images(sizes, (dy, x, wide_weight), carve(space, lengths), dx);
            });
        };
        let input = if wanted.input {
            Some(build::<T>(x.shape(), |dx| run(Some(dx)))?)
        } else {
            run(None);
            None
        };
        let [biases, weights] = [lengths[5], lengths[4] + lengths[5]].map(|end| share - end);
        let weights = add_shares(&space, share, weights..biases)?;
        let bias = wanted.bias.then(|| add_shares(&space, share, biases..share)).transpose()?;
        let result = |values: &[f32], shape: &[usize]| {
            super::from_f32(values, shape, T::DTYPE, &Device::Cpu)
        };
        Ok(ConvGradients {
            input,
            weight: result(&weights, w.dims())?,
            bias: bias.map(|bias| result(&bias, &[sizes.outputs])).transpose()?,
        })
    })
}

/// Images of dy and x, work space, and images of dx if they are wanted.
type BackwardTask<'a, T> =
    ((&'a [T], &'a [T]), (&'a mut [MaybeUninit<f32>], Option<Unwritten<'a, T>>));

/// The sum of one range of every share, added in order: sums of weights or biases, which every share has.
fn add_shares(space: &[MaybeUninit<f32>], share: usize, range: Range<usize>) -> Result<Vec<f32>> {
    let mut total = zeroed::<f32>(range.len())?;
    for share in space.chunks(share) {
        // SAFETY: there are as many shares as groups of images, and `backward_images` begins by setting these to 0.
        let values = unsafe { share[range.clone()].assume_init_ref() };
        for (total, value) in total.iter_mut().zip(values) {
            *total += value;
        }
    }
    Ok(total)
}

/// The images of one share: their dx, and in `space` the sums of their dw and db.
fn backward_images<T: Element>(
    sizes: Sizes,
    (dy, x, w): (&[T], &[T], &[f32]),
    [wide_x, wide_dy, patches, wide_dx, dw, db]: [&mut [MaybeUninit<f32>]; 6],
    dx: Option<Unwritten<'_, T>>,
) {
    let [wide_x, wide_dy, wide_dx, dw, db] = [wide_x, wide_dy, wide_dx, dw, db].map(zeros_in);
    let mut dx = dx.map(|dx| dx.blocks(sizes.image()));
    for (dy, x) in dy.chunks(sizes.out_image()).zip(x.chunks(sizes.image())) {
        let (dy, x) = vectorized!((T::widened(dy, wide_dy), T::widened(x, wide_x)));
        for (db, plane) in db.iter_mut().zip(dy.chunks(sizes.out_plane())) {
            *db += vectorized!(sum(plane));
        }
        weight_gradient(sizes, (dy, x), patches, dw);
        if let Some(dx) = dx.as_mut().and_then(Iterator::next) {
            let fill = |dx: &mut [f32]| input_gradient(sizes, (dy, w), patches, dx);
            vectorized!(T::store(dx, wide_dx, fill));
        }
    }
}

/// Adds one image's share of the weight gradient, dy × patchesᵀ, to `dw`.
fn weight_gradient(
    sizes: Sizes,
    (dy, x): (&[f32], &[f32]),
    space: &mut [MaybeUninit<f32>],
    dw: &mut [f32],
) {
    let (rows, inner, columns) = (sizes.group_outputs(), sizes.out_plane(), sizes.patch());
    let groups = dw
        .chunks_mut(rows * columns)
        .zip(dy.chunks(rows * inner))
        .zip(x.chunks(sizes.group_channels() * sizes.height * sizes.width));
    for ((dw, dy), x) in groups {
        let patches = if sizes.is_pointwise() { x } else { unfold(x, sizes, space) };
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
fn input_gradient(
    sizes: Sizes,
    (dy, w): (&[f32], &[f32]),
    space: &mut [MaybeUninit<f32>],
    dx: &mut [f32],
) {
    let (rows, inner, columns) = (sizes.patch(), sizes.group_outputs(), sizes.out_plane());
    dx.fill(0.0);
    let groups = dx
        .chunks_mut(sizes.group_channels() * sizes.height * sizes.width)
        .zip(dy.chunks(inner * columns))
        .zip(w.chunks(inner * rows));
    for ((dx, dy), w) in groups {
        let (a, b) = (Matrix::by_columns(w, rows, inner), Matrix::by_rows(dy, inner, columns));
        let patches = product_into(a, b, None, space, Parallelism::Serial);
        vectorized!(fold(patches, sizes, dx));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: what kernel element (i, j) of a channel sees at an output, 0 outside the image. Space that was not
    /// written would show, to Miri in any case.
    #[test]
    fn patches_are_what_the_kernel_sees_and_none_is_left_out() {
        for (stride, padding, dilation, groups) in
            [(1, 0, 1, 1), (1, 1, 1, 2), (2, 0, 1, 1), (2, 1, 2, 1), (3, 2, 1, 2), (1, 3, 3, 1)]
        {
            let settings = ConvSettings { stride, padding, dilation, groups };
            let (channels, height, width, kernel) = (4, 7, 6, (3, 2));
            let x = super::super::zeros((1, channels, height, width), &Device::Cpu).unwrap();
            let w = (2, channels / groups, kernel.0, kernel.1);
            let w = super::super::zeros(w, &Device::Cpu).unwrap();
            let sizes = Sizes::of(&x, &w, settings).unwrap();
            let plane = height * width;
            let image: Vec<f32> = (1..=sizes.group_channels() * plane).map(|i| i as f32).collect();
            let mut space = work_space::<f32>(sizes.patch() * sizes.out_plane()).unwrap();
            let patches = unfold(&image, sizes, &mut space);
            for (place, patch) in patches.iter().enumerate() {
                let (row, at) = (place / sizes.out_plane(), place % sizes.out_plane());
                let (channel, element) = (row / 6, row % 6);
                let y = (at / sizes.out.1 * stride + element / 2 * dilation).checked_sub(padding);
                let x = (at % sizes.out.1 * stride + element % 2 * dilation).checked_sub(padding);
                let seen = y.zip(x).filter(|(y, x)| *y < height && *x < width);
                let expected = seen.map_or(0.0, |(y, x)| image[channel * plane + y * width + x]);
                assert!(*patch == expected, "{settings:?} {place}: {patch}, not {expected}");
            }
        }
    }
}
