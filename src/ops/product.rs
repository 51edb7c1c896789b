//! Matrix products, by gemmkit: operands in one type, sums in f32, one rounding.

use std::cell::{Cell, RefCell};

use candle_core::{Error, Result, Tensor};
use gemmkit::{Bias, MatMut, MatRef, Parallelism, Workspace};

#[cfg(feature = "cuda")]
use super::cuda;
use super::element::{Element, by_dtype};
use super::host::{build, expect_shape, view};
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

/// `out = a × b + bias`, rounded once; `out` is row-major.
pub(crate) fn product<T: Element>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    bias: Option<Bias<'_, T>>,
    out: &mut [T],
    workers: Parallelism,
) {
    let out = MatMut::from_row_major(out, a.rows(), b.cols());
    let multiply = |space: &mut Workspace| {
        gemmkit::gemm_fused_with(space, one(), a, b, T::default(), out, bias, None, workers);
    };
    memory::work_space(|| {
        WORK_SPACE.with(|space| match space.try_borrow_mut() {
            Ok(mut space) => multiply(&mut space),
            // A product inside another: this thread took a task of it while it waited.
            Err(_) => multiply(&mut Workspace::new()),
        });
    });
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
            MatRef::from_row_major(&x, n, inputs),
            MatRef::from_col_major(&w, inputs, outputs),
            b.as_deref().map(Bias::PerCol),
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
            MatRef::from_row_major(&dy, n, outputs),
            MatRef::from_row_major(&w, outputs, inputs),
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
            MatRef::from_col_major(&dy, outputs, n),
            MatRef::from_row_major(&x, n, inputs),
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
            let tasks = sums.chunks_mut(COLUMNS).collect();
            for_each(tasks, |task, sums: &mut [T]| vectorized!({
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
