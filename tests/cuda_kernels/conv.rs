//! Convolution: the kernels around the products, with the products as `conv.cu` says that cuBLAS is called.

use mantissa::ops::{self, ConvSettings};

use crate::emulation::{Array, Device, Geometry, line};
use crate::support::{
    Storage, UNIT, array, assert_near, assert_same, awkward, for_each_storage, narrow, tensor,
    uniform, unwritten, values, wide,
};

const GRID: Geometry = Geometry { grid: (2, 3), block: (16, 1) };
const PLANES: Geometry = Geometry { grid: (3, 1), block: (4, 2) };

/// One convolution: N × C × H × W with O outputs, K × K'.
#[derive(Clone, Copy, Debug)]
struct Case {
    image: [usize; 4],
    outputs: usize,
    kernel: (usize, usize),
    settings: ConvSettings,
}

const fn case(
    image: [usize; 4],
    outputs: usize,
    kernel: (usize, usize),
    [stride, padding, dilation, groups]: [usize; 4],
) -> Case {
    let settings = ConvSettings { stride, padding, dilation, groups };
    Case { image, outputs, kernel, settings }
}

const CASES: [Case; 6] = [
    case([3, 2, 5, 4], 3, (3, 3), [1, 1, 1, 1]),
    case([2, 4, 7, 6], 6, (3, 2), [2, 1, 1, 2]),
    case([3, 3, 6, 7], 3, (2, 3), [1, 2, 2, 3]),
    case([2, 5, 3, 3], 4, (1, 1), [1, 0, 1, 1]),
    case([1, 1, 9, 9], 2, (3, 3), [3, 4, 1, 1]),
    case([2, 2, 4, 5], 2, (2, 2), [3, 0, 1, 1]),
];

/// `Convolution` of `conv.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sizes {
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

impl Case {
    fn sizes(self, images: usize) -> Sizes {
        let ConvSettings { stride, padding, dilation, .. } = self.settings;
        let side = |size, kernel| (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
        let [_, channels, height, width] = self.image;
        Sizes {
            images: images as u32,
            channels: channels as u32,
            height: height as u32,
            width: width as u32,
            outputs: self.outputs as u32,
            kernel_height: self.kernel.0 as u32,
            kernel_width: self.kernel.1 as u32,
            out_height: side(height, self.kernel.0) as u32,
            out_width: side(width, self.kernel.1) as u32,
            stride: stride as u32,
            padding: padding as u32,
            dilation: dilation as u32,
        }
    }

    fn image_len(self) -> usize {
        self.image[1..].iter().product()
    }

    fn out_plane(self) -> usize {
        let sizes = self.sizes(1);
        (sizes.out_height * sizes.out_width) as usize
    }

    fn out_shape(self) -> Vec<usize> {
        let sizes = self.sizes(1);
        vec![self.image[0], self.outputs, sizes.out_height as usize, sizes.out_width as usize]
    }

    /// Rows of the patches of all groups.
    fn rows(self) -> usize {
        self.image[1] * self.kernel.0 * self.kernel.1
    }

    fn group_rows(self) -> usize {
        self.rows() / self.settings.groups
    }

    fn group_outputs(self) -> usize {
        self.outputs / self.settings.groups
    }

    fn weight_shape(self) -> Vec<usize> {
        let channels = self.image[1] / self.settings.groups;
        vec![self.outputs, channels, self.kernel.0, self.kernel.1]
    }

    fn weight_len(self) -> usize {
        self.outputs * self.group_rows()
    }

    /// For each patch value, row by row: where its value is in an image of `images` × C × H × W.
    fn sources(self, images: usize) -> Vec<Option<usize>> {
        let [_, channels, height, width] = self.image;
        let ConvSettings { stride, padding, dilation, .. } = self.settings;
        let sizes = self.sizes(images);
        let mut sources = vec![];
        for row in 0..self.rows() {
            let (channel, place) =
                (row / (self.kernel.0 * self.kernel.1), row % (self.kernel.0 * self.kernel.1));
            let (i, j) = (place / self.kernel.1, place % self.kernel.1);
            for image in 0..images {
                for out in 0..self.out_plane() {
                    let (y, x) = (out / sizes.out_width as usize, out % sizes.out_width as usize);
                    let row = (y * stride + i * dilation).checked_sub(padding);
                    let column = (x * stride + j * dilation).checked_sub(padding);
                    let at =
                        row.zip(column).filter(|(row, column)| *row < height && *column < width);
                    sources.push(at.map(|(row, column)| {
                        ((image * channels + channel) * height + row) * width + column
                    }));
                }
            }
        }
        sources
    }
}

/// How a matrix is read by [`gemm`].
#[derive(Clone, Copy, PartialEq)]
enum Op {
    N,
    T,
}

/// `C = op(A) op(B) + beta C`, all column-major, as cuBLAS; operands of one type, sums and result in f32.
struct Gemm {
    ops: (Op, Op),
    sizes: [usize; 3],
    leading: [usize; 3],
    beta: f32,
}

impl Gemm {
    fn run<T: Storage>(&self, a: &[T], b: &[T], c: &mut [f32]) {
        let ([m, n, k], [lda, ldb, ldc]) = (self.sizes, self.leading);
        for column in 0..n {
            for row in 0..m {
                let mut total = 0.0;
                for inner in 0..k {
                    let at = |op, (row, column), leading| match op {
                        Op::N => row + column * leading,
                        Op::T => column + row * leading,
                    };
                    let left = wide(a[at(self.ops.0, (row, inner), lda)]);
                    let right = wide(b[at(self.ops.1, (inner, column), ldb)]);
                    total += left * right;
                }
                let target = &mut c[row + column * ldc];
                *target = if self.beta == 0.0 { total } else { total + self.beta * *target };
            }
        }
    }
}

fn check_unfold<T: Storage>(device: Device) {
    for case in CASES {
        let images = case.image[0];
        let x: Vec<T> = awkward(1, images * case.image_len());
        let expected: Vec<T> =
            case.sources(images).iter().map(|at| at.map_or(narrow(0.0), |at| x[at])).collect();
        assert_same(&format!("{case:?}"), &unfold(device, case, &x), &expected);
    }
}

fn unfold<T: Storage>(device: Device, case: Case, x: &[T]) -> Vec<T> {
    let images = x.len() / case.image_len();
    let source = array(x);
    let patches = unwritten::<T>(case.rows() * images * case.out_plane());
    let arguments = (source.pointer(), patches.pointer(), case.sizes(images));
    device.launch(&format!("unfold_{}", T::SUFFIX), GRID, arguments);
    patches.values()
}

fn check_fold<T: Storage>(device: Device) {
    for case in CASES {
        let images = case.image[0];
        let sources = case.sources(images);
        let patches: Vec<f32> = awkward(2, sources.len());
        let mut expected = vec![0.0_f32; images * case.image_len()];
        for (at, value) in sources.iter().zip(&patches) {
            if let Some(at) = at {
                expected[*at] += value;
            }
        }
        let expected: Vec<T> = expected.into_iter().map(narrow).collect();
        assert_same(&format!("{case:?}"), &fold(device, case, &patches), &expected);
    }
}

fn fold<T: Storage>(device: Device, case: Case, patches: &[f32]) -> Vec<T> {
    let images = patches.len() / case.rows() / case.out_plane();
    let (source, x) = (array(patches), unwritten::<T>(images * case.image_len()));
    let arguments = (source.pointer(), x.pointer(), case.sizes(images));
    device.launch(&format!("fold_{}", T::SUFFIX), PLANES, arguments);
    x.values()
}

#[test]
fn patches_are_unfolded_and_folded_back_in_order() {
    for_each_storage!(check_unfold);
    for_each_storage!(check_fold);
}

fn swap_outer<T: Storage>(device: Device, x: &[T], [outer, inner, plane]: [usize; 3]) -> Vec<T> {
    let (source, target) = (array(x), unwritten::<T>(x.len()));
    let arguments = (source.pointer(), target.pointer(), outer as u32, inner as u32, plane as u32);
    device.launch(&format!("swap_outer_{}", T::SUFFIX), PLANES, arguments);
    target.values()
}

fn check_swap<T: Storage>(device: Device) {
    for [outer, inner, plane] in [[3, 5, 7], [1, 4, 6], [4, 1, 1]] {
        let x: Vec<T> = awkward(3, outer * inner * plane);
        let swapped = tensor(&x, (outer, inner, plane)).transpose(0, 1).unwrap();
        let expected = values::<T>(&swapped.contiguous().unwrap());
        assert_same("swap_outer", &swap_outer(device, &x, [outer, inner, plane]), &expected);
    }
}

#[test]
fn outer_axes_are_swapped() {
    for_each_storage!(check_swap);
}

/// Operands of a convolution.
struct Operands<T> {
    x: Vec<T>,
    w: Vec<T>,
    b: Vec<T>,
    dy: Vec<T>,
}

impl<T: Storage> Operands<T> {
    fn new(case: Case) -> Self {
        let results = case.out_shape().iter().product();
        Self {
            x: uniform(4, case.image[0] * case.image_len(), (-1.0, 1.0)),
            w: uniform(5, case.weight_len(), (-1.0, 1.0)),
            b: uniform(6, case.outputs, (-1.0, 1.0)),
            dy: uniform(7, results, (-1.0, 1.0)),
        }
    }
}

/// `y` of all images, in ranges of two.
fn forward<T: Storage>(device: Device, case: Case, operands: &Operands<T>) -> Vec<T> {
    let mut y = vec![];
    for x in operands.x.chunks(2 * case.image_len()) {
        let images = x.len() / case.image_len();
        let columns = images * case.out_plane();
        let (rows, outputs) = (case.group_rows(), case.group_outputs());
        let patches = unfold(device, case, x);
        let mut product = vec![0.0; case.outputs * columns];
        let gemm = Gemm {
            ops: (Op::N, Op::N),
            sizes: [columns, outputs, rows],
            leading: [columns, rows, columns],
            beta: 0.0,
        };
        for group in 0..case.settings.groups {
            gemm.run(
                &patches[group * rows * columns..],
                &operands.w[group * outputs * rows..],
                &mut product[group * outputs * columns..],
            );
        }
        let (product, bias) = (array(&product), array(&operands.b));
        let result = unwritten::<T>(images * case.outputs * case.out_plane());
        let sizes = (images as u32, case.outputs as u32, case.out_plane() as u32);
        let arguments =
            (product.pointer(), bias.pointer(), result.pointer(), sizes.0, sizes.1, sizes.2);
        device.launch(&format!("conv_result_{}", T::SUFFIX), PLANES, arguments);
        y.extend(result.values());
    }
    y
}

/// The gradients of all images, in ranges of two: of x, and of w in f32.
fn backward<T: Storage>(device: Device, case: Case, operands: &Operands<T>) -> (Vec<T>, Vec<f32>) {
    let (rows, outputs) = (case.group_rows(), case.group_outputs());
    let (mut dx, mut dw) = (vec![], vec![0.0; case.weight_len()]);
    let gradients = operands.dy.chunks(2 * case.outputs * case.out_plane());
    for (range, (x, dy)) in operands.x.chunks(2 * case.image_len()).zip(gradients).enumerate() {
        let images = x.len() / case.image_len();
        let columns = images * case.out_plane();
        let patches = unfold(device, case, x);
        let dy = swap_outer(device, dy, [images, case.outputs, case.out_plane()]);
        let mut dpatches = vec![0.0; case.rows() * columns];
        for group in 0..case.settings.groups {
            let dy = &dy[group * outputs * columns..];
            let weights = group * outputs * rows;
            let gemm = Gemm {
                ops: (Op::T, Op::N),
                sizes: [rows, outputs, columns],
                leading: [columns, columns, rows],
                beta: if range == 0 { 0.0 } else { 1.0 },
            };
            gemm.run(&patches[group * rows * columns..], dy, &mut dw[weights..]);
            let gemm = Gemm {
                ops: (Op::N, Op::T),
                sizes: [columns, rows, outputs],
                leading: [columns, rows, columns],
                beta: 0.0,
            };
            gemm.run(dy, &operands.w[weights..], &mut dpatches[group * rows * columns..]);
        }
        dx.extend(fold::<T>(device, case, &dpatches));
    }
    (dx, dw)
}

fn check_convolution<T: Storage>(device: Device) {
    for case in CASES {
        let operands = Operands::<T>::new(case);
        let x = tensor(&operands.x, case.image.to_vec());
        let w = tensor(&operands.w, case.weight_shape());
        let b = tensor(&operands.b, case.outputs);
        let y = ops::conv2d(
            &x,
            &w,
            Some(&b),
            (case.settings, ops::Operands::Exact),
            ops::Then::Nothing,
        )
        .unwrap();
        // Operands are below 1: sums of n products below n, each off by n roundings at most.
        let bound = |terms: usize| 2.0 * (terms as f64 + 1.0).powi(2) * UNIT;
        let got = forward(device, case, &operands);
        assert_near("y", &got, &values::<T>(&y), |_| bound(case.group_rows()));

        let dy = tensor(&operands.dy, case.out_shape());
        let how = (case.settings, ops::Operands::Exact);
        let expected = ops::conv2d_backward(&dy, (&x, &w), how, ops::ConvWanted::ALL).unwrap();
        let (dx, dw) = backward(device, case, &operands);
        let terms = case.group_outputs() * case.kernel.0 * case.kernel.1;
        assert_near("dx", &dx, &values::<T>(&expected.input.unwrap()), |_| bound(terms));
        let (sums, rounded) = (array(&dw), unwritten::<T>(dw.len()));
        if T::SUFFIX == "f32" {
            assert_near("dw", &dw, &values::<f32>(&expected.weight), |_| {
                bound(case.image[0] * case.out_plane())
            });
            continue;
        }
        let arguments = (sums.pointer(), rounded.pointer(), dw.len() as u64);
        device.launch(&format!("cast_f32_{}", T::SUFFIX), line(2, 16), arguments);
        assert_near("dw", &rounded.values(), &values::<T>(&expected.weight), |_| {
            bound(case.image[0] * case.out_plane())
        });
        let sums = Array::new(&operands.dy, narrow(0.0));
        let db = unwritten::<T>(case.outputs);
        let sizes = case.out_shape();
        let arguments = (
            sums.pointer(),
            db.pointer(),
            sizes[0] as u32,
            sizes[1] as u32,
            case.out_plane() as u32,
        );
        device.launch(&format!("channel_sums_{}", T::SUFFIX), line(2, 8), arguments);
        assert_near("db", &db.values(), &values::<T>(&expected.bias.unwrap()), |_| {
            bound(case.image[0] * case.out_plane())
        });
    }
}

#[test]
fn a_convolution_made_of_kernels_and_products_is_the_cpu_within_the_bound_of_its_sums() {
    for_each_storage!(check_convolution);
}
