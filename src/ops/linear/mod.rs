//! The fully connected layer's three products, and the sums of its bias.

#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod few_rows;

use std::cell::Cell;

use candle_core::{Error, Result, Tensor};

use super::element::{Element, by_dtype};
use super::host::{Unwritten, build, expect_shape, try_build, view};
use super::matmul::{End, Operand, Product, kernels, multiply};
use super::parallel::{for_each, vectorized};
use super::pointwise::Then;

/// How a product treats f32 operands. Others are as they are.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, Operands, Then};
///
/// let x = Tensor::new(&[[2.0_f32]], &Device::Cpu)?;
/// let product = |how| ops::linear(&x, &x, None, how, Then::Nothing);
/// assert_eq!(ops::to_f32(&product(Operands::Exact)?)?, [4.0]);
/// assert!(product(Operands::Tf32).is_err(), "a CPU has no such products");
/// # Ok::<(), candle_core::Error>(())
/// ```
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
}

/// Multiplications and additions of the matrix products that this thread has asked for since the last call.
pub(crate) fn take_operations() -> u64 {
    OPERATIONS.replace(0)
}

/// Counts a product of m × k and k × n values: a multiplication and an addition for each of m n k.
pub(crate) fn count_product([m, n, k]: [usize; 3]) {
    OPERATIONS.set(OPERATIONS.get() + 2 * (m * n * k) as u64);
}

/// `x wᵀ + b`, and `then`. x: N × I, w: O × I, b: O; result: N × O.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, Operands, Then};
///
/// let x = Tensor::new(&[[1.0_f32, 2.0]], &Device::Cpu)?;
/// let w = Tensor::new(&[[3.0_f32, 4.0], [0.5, -1.0]], &Device::Cpu)?;
/// let b = Tensor::new(&[1.0_f32, 0.0], &Device::Cpu)?;
/// let y = ops::linear(&x, &w, Some(&b), Operands::Exact, Then::Nothing)?;
/// assert_eq!(ops::to_f32(&y)?, [1.0 * 3.0 + 2.0 * 4.0 + 1.0, 1.0 * 0.5 - 2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When a tensor is not a contiguous matrix of the same floating-point type as the others.
pub fn linear(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    how: Operands,
    then: Then,
) -> Result<Tensor> {
    let ((n, inputs), outputs) = (x.dims2()?, w.dim(0)?);
    expect_shape("the weight", w, &[outputs, inputs])?;
    if let Some(b) = b {
        expect_shape("the bias", b, &[outputs])?;
    }
    count_product([n, outputs, inputs]);
    on_gpu!(x => then.after(cuda::linear(x, w, b, how)?));
    how.on_cpu()?;
    by_dtype!(x.dtype(), T => {
        let (x, w) = (view::<T>(x)?, view::<T>(w)?);
        let b = b.map(view::<T>).transpose()?;
        let end = End { bias: b.as_deref(), then };
        if n <= few_rows::MOST {
            return few_rows::linear::<T>((&x, &w), (n, outputs, inputs), end);
        }
        let product = Product {
            left: Operand::along_depth(&x, n, inputs),
            right: Operand::along_depth(&w, outputs, inputs),
            end,
        };
        try_build::<T>((n, outputs), |y| Ok(multiply(&kernels()?, product, y)?))
    })
}

/// The gradient of [`linear`] with respect to x: `dy w`. dy: N × O, w: O × I; result: N × I.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, Operands};
///
/// let dy = Tensor::new(&[[1.0_f32, 10.0]], &Device::Cpu)?;
/// let w = Tensor::new(&[[3.0_f32, 4.0], [0.5, -1.0]], &Device::Cpu)?;
/// let dx = ops::linear_input_gradient(&dy, &w, Operands::Exact)?;
/// assert_eq!(ops::to_f32(&dx)?, [1.0 * 3.0 + 10.0 * 0.5, 1.0 * 4.0 - 10.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
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
        let product = Product {
            left: Operand::along_depth(&dy, n, outputs),
            right: Operand::across_depth(&w, inputs, outputs),
            end: End::NONE,
        };
        try_build::<T>((n, inputs), |dx| Ok(multiply(&kernels()?, product, dx)?))
    })
}

/// The gradient of [`linear`] with respect to w: `dyᵀ x`. dy: N × O, x: N × I; result: O × I.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, Operands};
///
/// let dy = Tensor::new(&[[1.0_f32, 10.0]], &Device::Cpu)?;
/// let x = Tensor::new(&[[1.0_f32, 2.0]], &Device::Cpu)?;
/// let dw = ops::linear_weight_gradient(&dy, &x, Operands::Exact)?;
/// assert_eq!(dw.to_vec2::<f32>()?, [[1.0, 2.0], [10.0, 20.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
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
        let product = Product {
            left: Operand::across_depth(&dy, outputs, n),
            right: Operand::across_depth(&x, inputs, n),
            end: End::NONE,
        };
        try_build::<T>((outputs, inputs), |dw| Ok(multiply(&kernels()?, product, dw)?))
    })
}

/// The gradient of [`linear`] with respect to b: sums of columns, in f32. dy: N × O; result: O.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let dy = Tensor::new(&[[1.0_f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::column_sums(&dy)?)?, [4.0, 6.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
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
