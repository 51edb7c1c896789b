//! Matrix products, by gemmkit: operands in one type, sums in f32, one rounding.
#![expect(unsafe_code, reason = "gemmkit writes to memory without values through pointers only")]

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;

use candle_core::{Error, Result, Tensor};
use gemmkit::{BiasDim, Parallelism, Workspace};

#[cfg(feature = "cuda")]
use super::cuda;
use super::element::{Element, by_dtype};
use super::host::{Unwritten, build, expect_shape, view};
use super::parallel::{alone, for_each, threads, vectorized};
use crate::memory;
use crate::units::Bytes;

/// How a product treats f32 operands. Others are as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// As they are.
    Exact,
    /// Rounded to TF32 by a GPU's tensor cores.
    Tf32,
}

impl Operands {
    /// # Errors
    /// When a CPU is asked for TF32.
    pub(crate) fn on_cpu(self) -> Result<()> {
        match self {
            Self::Exact => Ok(()),
            Self::Tf32 => {
                let text = "products of TF32 need a GPU; wide arithmetic emulates them";
                Err(Error::Msg(text.to_owned()).bt())
            }
        }
    }
}

thread_local! {
    /// Operations of the products that this thread has asked for.
    static OPERATIONS: Cell<u64> = const { Cell::new(0) };
    /// What this thread's products pack their operands into. It grows to what the largest product needs, and stays.
    static WORK_SPACE: RefCell<Workspace> = const { RefCell::new(Workspace::new()) };
}

/// Multiplications and additions of the matrix products that this thread has asked for since the last call.
pub fn take_operations() -> u64 {
    OPERATIONS.replace(0)
}

/// Counts a product of m × k and k × n values: a multiplication and an addition for each of m n k.
pub(crate) fn count_product([m, n, k]: [usize; 3]) {
    OPERATIONS.set(OPERATIONS.get() + 2 * (m * n * k) as u64);
}

/// How many workers a product may use: those of the pool that the caller is in.
pub(crate) fn workers() -> Parallelism {
    match threads() {
        1 => Parallelism::Serial,
        threads => Parallelism::Rayon(threads),
    }
}

/// A matrix of a product.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    values: &'a [T],
    rows: usize,
    columns: usize,
    /// Between a value and the one below it, and the one to its right.
    strides: (isize, isize),
}

impl<'a, T> Matrix<'a, T> {
    /// Values row after row.
    ///
    /// # Panics
    /// When there are too few.
    pub(crate) fn by_rows(values: &'a [T], rows: usize, columns: usize) -> Self {
        assert!(values.len() >= rows * columns, "a matrix of too few values");
        Self { values, rows, columns, strides: (columns.cast_signed(), 1) }
    }

    /// Values column after column.
    ///
    /// # Panics
    /// As [`Matrix::by_rows`].
    pub(crate) fn by_columns(values: &'a [T], rows: usize, columns: usize) -> Self {
        assert!(values.len() >= rows * columns, "a matrix of too few values");
        Self { values, rows, columns, strides: (1, rows.cast_signed()) }
    }
}

/// What is added to a product: one value a row or a column.
#[derive(Clone, Copy)]
pub(crate) enum Bias<'a, T> {
    /// One for each row.
    PerRow(&'a [T]),
    /// One for each column.
    PerColumn(&'a [T]),
}

/// `out = a × b + bias`, rounded once; `out` is row-major.
pub(crate) fn product<T: Element>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    bias: Option<Bias<'_, T>>,
    out: Unwritten<'_, T>,
    workers: Parallelism,
) {
    // SAFETY: a product writes all of its values.
    unsafe { out.written_by(|out| _ = product_into(a, b, bias, out, workers)) };
}

/// As [`product`], to work space, which then holds the result.
///
/// # Panics
/// When the sizes do not go together.
pub(crate) fn product_into<'a, T: Element>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    bias: Option<Bias<'_, T>>,
    out: &'a mut [MaybeUninit<T>],
    workers: Parallelism,
) -> &'a mut [T] {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(b.rows == k && k > 0 && out.len() == m * n, "a product of sizes that do not fit");
    let (bias, dim) = match bias {
        None => (None, BiasDim::PerRow),
        Some(Bias::PerRow(bias)) => (Some((bias, m)), BiasDim::PerRow),
        Some(Bias::PerColumn(bias)) => (Some((bias, n)), BiasDim::PerCol),
    };
    assert!(bias.is_none_or(|(bias, len)| bias.len() == len), "a bias of another length");
    let (one, zero) = (one::<T>(), T::default());
    let ((rows_a, columns_a), (rows_b, columns_b)) = (a.strides, b.strides);
    let (a, b) = (a.values.as_ptr(), b.values.as_ptr());
    let (to, row) = (out.as_mut_ptr().cast::<T>(), n.cast_signed());
    // SAFETY: both matrices hold their rows and columns, and `out` and the bias are of the result's size, as was asserted;
    // `out` is borrowed mutably, so that it overlaps nothing. With a beta of 0 gemmkit only writes to it, and writes all of it.
    let multiply = |space: &mut Workspace| unsafe {
        match bias {
            Some((bias, _)) => gemmkit::gemm_fused_unchecked_with(
                space,
                m,
                k,
                n,
                one,
                a,
                rows_a,
                columns_a,
                b,
                rows_b,
                columns_b,
                zero,
                to,
                row,
                1,
                bias.as_ptr(),
                dim,
                true,
                None,
                workers,
            ),
            None => gemmkit::gemm_unchecked_with(
                space, m, k, n, one, a, rows_a, columns_a, b, rows_b, columns_b, zero, to, row, 1,
                workers,
            ),
        }
    };
    memory::work_space(|| {
        WORK_SPACE.with(|space| match space.try_borrow_mut() {
            Ok(mut space) => multiply(&mut space),
            // A product inside another: this thread took a task of it while it waited.
            Err(_) => multiply(&mut Workspace::new()),
        });
    });
    // SAFETY: the product wrote all of it.
    unsafe { out.assume_init_mut() }
}

/// The memory into which the products of `work` pack their operands, with this thread alone: with more threads each has some of
/// its own.
///
/// # Errors
/// Those of `work`.
pub fn work_space(work: impl FnOnce() -> Result<()>) -> Result<Bytes> {
    let kept = WORK_SPACE.replace(Workspace::new());
    let before = memory::work_space_of_this_thread();
    let outcome = alone(work);
    let after = memory::work_space_of_this_thread();
    memory::work_space(|| drop(WORK_SPACE.replace(kept)));
    outcome.map(|()| Bytes(after.0.saturating_sub(before.0)))
}

/// 1 in the type of the operands.
fn one<T: Element>() -> T {
    T::from_f64(1.0)
}

/// `x wᵀ + b`. x: N × I, w: O × I, b: O; result: N × O.
///
/// # Errors
/// When a tensor is not a contiguous matrix of the same floating-point type as the others.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>, how: Operands) -> Result<Tensor> {
    let ((n, inputs), outputs) = (x.dims2()?, w.dim(0)?);
    expect_shape("the weight", w, &[outputs, inputs])?;
    if let Some(b) = b {
        expect_shape("the bias", b, &[outputs])?;
    }
    count_product([n, outputs, inputs]);
    on_gpu!(x => cuda::linear(x, w, b, how));
    how.on_cpu()?;
    by_dtype!(x.dtype(), T => {
        let (x, w) = (view::<T>(x)?, view::<T>(w)?);
        let b = b.map(view::<T>).transpose()?;
        build::<T>((n, outputs), |y| product(
            Matrix::by_rows(&x, n, inputs),
            Matrix::by_columns(&w, inputs, outputs),
            b.as_deref().map(Bias::PerColumn),
            y,
            workers(),
        ))
    })
}

/// The gradient of [`linear`] with respect to x: `dy w`. dy: N × O, w: O × I; result: N × I.
///
/// # Errors
/// As [`linear`].
pub fn linear_input_gradient(dy: &Tensor, w: &Tensor, how: Operands) -> Result<Tensor> {
    let ((n, outputs), inputs) = (dy.dims2()?, w.dim(1)?);
    expect_shape("the weight", w, &[outputs, inputs])?;
    count_product([n, outputs, inputs]);
    on_gpu!(dy => cuda::linear_input_gradient(dy, w, how));
    how.on_cpu()?;
    by_dtype!(dy.dtype(), T => {
        let (dy, w) = (view::<T>(dy)?, view::<T>(w)?);
        build::<T>((n, inputs), |dx| product(
            Matrix::by_rows(&dy, n, outputs),
            Matrix::by_rows(&w, outputs, inputs),
            None,
            dx,
            workers(),
        ))
    })
}

/// The gradient of [`linear`] with respect to w: `dyᵀ x`. dy: N × O, x: N × I; result: O × I.
///
/// # Errors
/// As [`linear`].
pub fn linear_weight_gradient(dy: &Tensor, x: &Tensor, how: Operands) -> Result<Tensor> {
    let ((n, outputs), inputs) = (dy.dims2()?, x.dim(1)?);
    expect_shape("the input", x, &[n, inputs])?;
    count_product([n, outputs, inputs]);
    on_gpu!(dy => cuda::linear_weight_gradient(dy, x, how));
    how.on_cpu()?;
    by_dtype!(dy.dtype(), T => {
        let (dy, x) = (view::<T>(dy)?, view::<T>(x)?);
        build::<T>((outputs, inputs), |dw| product(
            Matrix::by_columns(&dy, outputs, n),
            Matrix::by_rows(&x, n, inputs),
            None,
            dw,
            workers(),
        ))
    })
}

/// The gradient of [`linear`] with respect to b: sums of columns, in f32. dy: N × O; result: O.
///
/// # Errors
/// As [`linear`].
pub fn column_sums(dy: &Tensor) -> Result<Tensor> {
    const COLUMNS: usize = 64;
    let (_, outputs) = dy.dims2()?;
    on_gpu!(dy => cuda::column_sums(dy));
    by_dtype!(dy.dtype(), T => {
        let dy = view::<T>(dy)?;
        build::<T>(outputs, |sums| {
            let tasks = sums.chunks(COLUMNS).collect();
            for_each(tasks, |task, sums: Unwritten<'_, T>| vectorized!({
                let sums = sums.filled(T::default());
                let mut wide = [0.0; COLUMNS];
                let mut total = [0.0_f32; COLUMNS];
                let start = task * COLUMNS;
                for row in dy.chunks_exact(outputs) {
                    let row = T::widened(&row[start..start + sums.len()], &mut wide);
                    for (total, value) in total.iter_mut().zip(row) {
                        *total += value;
                    }
                }
                T::narrow(&total[..sums.len()], sums);
            }));
        })
    })
}
