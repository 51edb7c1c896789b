//! Convolution on a GPU, by the lowering that conv.cu describes, over ranges of images whose patches fit the work space.

use candle_core::{CudaDevice, DType, Result, Tensor};

use super::{ConvGradients, ConvWanted, Sizes};
use crate::ops::cuda::{address, device_of, empty, launch, most_blocks, operands, planes, suffix};
use crate::ops::host::cuda::Argument;
use crate::ops::linear::cuda::{Product, plain, transposed};
use crate::ops::norm::cuda::channel_sums;
use crate::ops::{Operands, cast, cuda};

/// Bytes of a patch matrix at most, unless one image alone needs more.
const PATCHES: usize = 256 << 20;

/// `Convolution` of conv.cu: all sizes, for a range of images.
#[repr(C)]
#[derive(Clone, Copy)]
struct Convolution {
    images: u32,
    channels: u32,
    height: u32,
    width: u32,
    outputs: u32,
    kernel_height: u32,
    kernel_width: u32,
    out_height: u32,
    out_width: u32,
    stride: u32,
    padding: u32,
    dilation: u32,
}

/// One convolution on a GPU.
struct Lowering<'a> {
    gpu: &'a CudaDevice,
    sizes: Sizes,
    dtype: DType,
    how: Operands,
}

/// A range of images: the first, and how many.
#[derive(Clone, Copy)]
struct Range {
    first: usize,
    images: usize,
}

impl Lowering<'_> {
    /// Rows of the patch matrix of all groups.
    fn patch_rows(&self) -> usize {
        self.sizes.patch() * self.sizes.settings.groups
    }

    /// Columns of the matrices of a range.
    fn columns(&self, range: Range) -> usize {
        range.images * self.sizes.out_plane()
    }

    /// The images, cut so that their patches, in f32 at most, fit.
    fn ranges(&self) -> impl Iterator<Item = Range> + use<> {
        let one = self.patch_rows() * self.sizes.out_plane() * size_of::<f32>();
        let (all, step) = (self.sizes.images, (PATCHES / one.max(1)).max(1));
        (0..all).step_by(step).map(move |first| Range { first, images: step.min(all - first) })
    }

    /// The address of the first image of a range, of `image` values each.
    fn image(&self, tensor: u64, range: Range, image: usize) -> u64 {
        tensor + (range.first * image * self.dtype.size_in_bytes()) as u64
    }

    /// The address of group `group`, each of `values` values of type `dtype`, in a matrix.
    fn group(matrix: u64, group: usize, values: usize, dtype: DType) -> u64 {
        matrix + (group * values * dtype.size_in_bytes()) as u64
    }

    fn convolution(&self, range: Range) -> Argument<Convolution> {
        let (sizes, settings) = (self.sizes, self.sizes.settings);
        let [images, channels, height, width] =
            [range.images, sizes.channels, sizes.height, sizes.width].map(|size| size as u32);
        let [kernel_height, kernel_width, out_height, out_width] =
            [sizes.kernel.0, sizes.kernel.1, sizes.out.0, sizes.out.1].map(|size| size as u32);
        let [outputs, stride, padding, dilation] =
            [sizes.outputs, settings.stride, settings.padding, settings.dilation]
                .map(|size| size as u32);
        Argument(Convolution {
            images,
            channels,
            height,
            width,
            outputs,
            kernel_height,
            kernel_width,
            out_height,
            out_width,
            stride,
            padding,
            dilation,
        })
    }

    /// The patches of a range of images of x.
    fn unfold(&self, x: u64, range: Range) -> Result<Tensor> {
        const THREADS: u32 = 256;
        let (rows, columns) = (self.patch_rows(), self.columns(range));
        let patches = empty(self.gpu, (rows, columns), self.dtype)?;
        let (from, to) = (self.image(x, range, self.sizes.image()), address(&patches)?);
        let name = format!("unfold_{}", suffix(self.dtype)?);
        let down = rows.min(65_535) as u64;
        let along = (columns as u64).div_ceil(THREADS.into());
        let along = along.min(most_blocks(self.gpu)?.div_ceil(down)).max(1);
        let mut geometry = cuda::blocks(self.gpu, along, (THREADS, 1))?;
        geometry.grid_dim.1 = down as u32;
        launch!(self.gpu, CONV, &name, geometry, from, to, self.convolution(range))?;
        Ok(patches)
    }

    /// dy of a range of images with its first two axes swapped.
    fn swapped(&self, dy: u64, range: Range) -> Result<Tensor> {
        let (images, outputs, plane) = (range.images, self.sizes.outputs, self.sizes.out_plane());
        let target = empty(self.gpu, (outputs, images * plane), self.dtype)?;
        let (from, to) = (self.image(dy, range, self.sizes.out_image()), address(&target)?);
        let name = format!("swap_outer_{}", suffix(self.dtype)?);
        let geometry = planes(self.gpu, images * outputs, plane)?;
        let [images, outputs, plane] = [images, outputs, plane].map(|size| size as u32);
        launch!(self.gpu, CONV, &name, geometry, from, to, images, outputs, plane)?;
        Ok(target)
    }

    /// The product of weights and patches, f32: outputs × columns.
    fn forward(&self, w: u64, patches: &Tensor, range: Range) -> Result<Tensor> {
        let (columns, inner, outputs) =
            (self.columns(range), self.sizes.patch(), self.sizes.group_outputs());
        let product = empty(self.gpu, (self.sizes.outputs, columns), DType::F32)?;
        let (from, to) = (address(patches)?, address(&product)?);
        for group in 0..self.sizes.settings.groups {
            Product {
                sizes: [columns, outputs, inner],
                a: plain(Self::group(from, group, inner * columns, self.dtype), columns),
                b: plain(Self::group(w, group, outputs * inner, self.dtype), inner),
                c: (Self::group(to, group, outputs * columns, DType::F32), columns),
                types: (self.dtype, DType::F32),
                beta: 0.0,
                operands: self.how,
            }
            .run(self.gpu)?;
        }
        Ok(product)
    }

    /// Adds a range's share of the weight gradient to `dw`, f32; the first range writes it.
    fn weight_gradient(
        &self,
        (dy, patches): (&Tensor, &Tensor),
        range: Range,
        dw: &Tensor,
    ) -> Result<()> {
        let (columns, inner, outputs) =
            (self.columns(range), self.sizes.patch(), self.sizes.group_outputs());
        let (dy, patches, dw) = (address(dy)?, address(patches)?, address(dw)?);
        for group in 0..self.sizes.settings.groups {
            Product {
                sizes: [inner, outputs, columns],
                a: transposed(Self::group(patches, group, inner * columns, self.dtype), columns),
                b: plain(Self::group(dy, group, outputs * columns, self.dtype), columns),
                c: (Self::group(dw, group, outputs * inner, DType::F32), inner),
                types: (self.dtype, DType::F32),
                beta: if range.first == 0 { 0.0 } else { 1.0 },
                operands: self.how,
            }
            .run(self.gpu)?;
        }
        Ok(())
    }

    /// The gradients of a range's patches, f32.
    fn patch_gradient(&self, (dy, w): (&Tensor, u64), range: Range) -> Result<Tensor> {
        let (columns, inner, outputs) =
            (self.columns(range), self.sizes.patch(), self.sizes.group_outputs());
        let patches = empty(self.gpu, (self.patch_rows(), columns), DType::F32)?;
        let (dy, to) = (address(dy)?, address(&patches)?);
        for group in 0..self.sizes.settings.groups {
            Product {
                sizes: [columns, inner, outputs],
                a: plain(Self::group(dy, group, outputs * columns, self.dtype), columns),
                b: transposed(Self::group(w, group, outputs * inner, self.dtype), inner),
                c: (Self::group(to, group, inner * columns, DType::F32), columns),
                types: (self.dtype, DType::F32),
                beta: 0.0,
                operands: self.how,
            }
            .run(self.gpu)?;
        }
        Ok(patches)
    }

    /// Adds up the gradients of a range's patches to those of its images, in `dx`.
    fn fold(&self, patches: &Tensor, range: Range, dx: u64) -> Result<()> {
        let (from, to) = (address(patches)?, self.image(dx, range, self.sizes.image()));
        let name = format!("fold_{}", suffix(self.dtype)?);
        let count = range.images * self.sizes.channels;
        let geometry = planes(self.gpu, count, self.sizes.height * self.sizes.width)?;
        launch!(self.gpu, CONV, &name, geometry, from, to, self.convolution(range))
    }
}

pub(crate) fn conv2d(
    (x, w): (&Tensor, &Tensor),
    b: Option<&Tensor>,
    sizes: Sizes,
    how: Operands,
) -> Result<Tensor> {
    let (gpu, dtype) = (device_of(x)?, x.dtype());
    let lowering = Lowering { gpu, sizes, dtype, how };
    let y = empty(gpu, (sizes.images, sizes.outputs, sizes.out.0, sizes.out.1), dtype)?;
    let ([x_at, w_at, y_at], suffix) = operands([x, w, &y])?;
    let b_at = match b {
        Some(b) => operands([x, b])?.0[1],
        None => 0,
    };
    let name = format!("conv_result_{suffix}");
    for range in lowering.ranges() {
        let patches = lowering.unfold(x_at, range)?;
        let product = lowering.forward(w_at, &patches, range)?;
        drop(patches);
        let (from, to) = (address(&product)?, lowering.image(y_at, range, sizes.out_image()));
        let geometry = planes(gpu, range.images * sizes.outputs, sizes.out_plane())?;
        let [images, outputs, plane] =
            [range.images, sizes.outputs, sizes.out_plane()].map(|size| size as u32);
        launch!(gpu, CONV, &name, geometry, from, b_at, to, images, outputs, plane)?;
    }
    Ok(y)
}

pub(crate) fn conv2d_backward(
    dy: &Tensor,
    (x, w): (&Tensor, &Tensor),
    (sizes, wanted): (Sizes, ConvWanted),
    how: Operands,
) -> Result<ConvGradients> {
    let (gpu, dtype) = (device_of(x)?, x.dtype());
    let lowering = Lowering { gpu, sizes, dtype, how };
    let ([dy_at, x_at, w_at], _) = operands([dy, x, w])?;
    let dw = empty(gpu, w.shape(), DType::F32)?;
    let dx = wanted.input.then(|| empty(gpu, x.shape(), dtype)).transpose()?;
    for range in lowering.ranges() {
        let patches = lowering.unfold(x_at, range)?;
        let swapped = lowering.swapped(dy_at, range)?;
        lowering.weight_gradient((&swapped, &patches), range, &dw)?;
        drop(patches);
        if let Some(dx) = &dx {
            let patches = lowering.patch_gradient((&swapped, w_at), range)?;
            lowering.fold(&patches, range, address(dx)?)?;
        }
    }
    let bias = wanted.bias.then(|| channel_sums(dy)).transpose()?;
    Ok(ConvGradients { input: dx, weight: cast(&dw, dtype)?, bias })
}
