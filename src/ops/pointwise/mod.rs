//! Element-wise operations, in one pass each: activations, dropout, sums of two tensors.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{Result, Tensor};

use super::element::{Element, by_dtype};
use super::exponential::exp;
use super::host::{Unwritten, build, edit, expect_shape, first, view};
use super::normal::{Normal, normal};
use super::parallel::{BLOCK, CHUNK, for_each, vectorized};
use super::philox::{Keep, Philox, RandomStream};

/// `y[i] = f(x[i])`, rounded once; `f` sees the position of the block's first value, its values and where to write.
fn map(x: &Tensor, f: impl Fn(usize, &[f32], &mut [f32]) + Sync + Send) -> Result<Tensor> {
    by_dtype!(x.dtype(), T => {
        let source = view::<T>(x)?;
        build::<T>(x.shape(), |y| {
            let tasks = y.chunks(CHUNK).zip(source.chunks(CHUNK)).collect();
            for_each(tasks, |task, (y, x): (Unwritten<'_, T>, &[T])| vectorized!({
                let (mut from, mut to) = ([0.0; BLOCK], [0.0; BLOCK]);
                for (block, (y, x)) in y.blocks(BLOCK).zip(x.chunks(BLOCK)).enumerate() {
                    let x = T::widened(x, &mut from);
                    T::store(y, &mut to, |y| f(task * CHUNK + block * BLOCK, x, y));
                }
            }));
        })
    })
}

/// `y[i] = f(a[i], b[i])`, rounded once.
fn zip(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(&[f32], &[f32], &mut [f32]) + Sync + Send,
) -> Result<Tensor> {
    by_dtype!(a.dtype(), T => {
        let (left, right) = (view::<T>(a)?, view::<T>(b)?);
        build::<T>(a.shape(), |y| {
            let tasks =
                y.chunks(CHUNK).zip(left.chunks(CHUNK).zip(right.chunks(CHUNK))).collect();
            for_each(tasks, |_, (y, (a, b)): (Unwritten<'_, T>, (&[T], &[T]))| vectorized!({
                let mut buffers = [[0.0; BLOCK]; 3];
                let [from, other, to] = &mut buffers;
                let inputs = a.chunks(BLOCK).zip(b.chunks(BLOCK));
                for (y, (a, b)) in y.blocks(BLOCK).zip(inputs) {
                    let (a, b) = (T::widened(a, from), T::widened(b, other));
                    T::store(y, to, |y| f(a, b, y));
                }
            }));
        })
    })
}

/// What follows an operation in the same pass over memory.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, Then};
///
/// let x = Tensor::new(&[-1.0_f32, 2.0], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::add(&x, &x, Then::Nothing)?)?, [-2.0, 4.0]);
/// assert_eq!(ops::to_f32(&ops::add(&x, &x, Then::Relu)?)?, [0.0, 4.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// `ReLU`: as [`super::relu`] of the result. On a GPU that is what it is.
    Relu,
}

impl Then {
    /// The value that is stored.
    #[inline(always)]
    pub(crate) fn apply(self, value: f32) -> f32 {
        if self == Self::Relu && value <= 0.0 { 0.0 } else { value }
    }

    /// What is left to do after an operation on a GPU, which has no pass for both.
    #[cfg(feature = "cuda")]
    pub(crate) fn after(self, y: Tensor) -> Result<Tensor> {
        match self {
            Self::Nothing => Ok(y),
            Self::Relu => relu(&y),
        }
    }
}

/// `max(x, 0)`; a NaN stays one.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let x = Tensor::new(&[-1.0_f32, 2.0], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::relu(&x)?)?, [0.0, 2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the tensor is not a contiguous tensor of f32, f16 or bf16, or two tensors differ in shape or type; so
/// for every operation here.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    on_gpu!(x => cuda::relu(x));
    map(x, |_, x, y| {
        for (y, x) in y.iter_mut().zip(x) {
            *y = if *x <= 0.0 { 0.0 } else { *x };
        }
    })
}

/// The gradient of [`relu`] from its result `y`: dy where y is not 0, 0 elsewhere.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let dy = Tensor::new(&[5.0_f32, 7.0], &Device::Cpu)?;
/// let y = Tensor::new(&[0.0_f32, 2.0], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::relu_backward(&dy, &y)?)?, [0.0, 7.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`relu`].
pub fn relu_backward(dy: &Tensor, y: &Tensor) -> Result<Tensor> {
    expect_shape("the second operand", y, dy.dims())?;
    on_gpu!(dy => cuda::relu_backward(dy, y));
    zip(dy, y, |dy, y, dx| {
        for (dx, (dy, y)) in dx.iter_mut().zip(dy.iter().zip(y)) {
            *dx = if *y <= 0.0 { 0.0 } else { *dy };
        }
    })
}

/// `x Φ(x)`, exact (by erf), as Hendrycks and Gimpel 2016 define it.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// // Φ(10) is 1 in f32.
/// let x = Tensor::new(&[0.0_f32, 10.0], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::gelu(&x)?)?, [0.0, 10.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`relu`].
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    on_gpu!(x => cuda::gelu(x));
    map(
        x,
        #[inline(always)]
        |_, x, y| {
            for (y, x) in y.iter_mut().zip(x) {
                *y = x * normal(*x).share;
            }
        },
    )
}

/// The gradient of [`gelu`] from its argument: dy (Φ(x) + x φ(x)).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// // At 0 the derivative is Φ(0) = 1/2.
/// let (dy, x) = (Tensor::new(&[4.0_f32], &Device::Cpu)?, Tensor::new(&[0.0_f32], &Device::Cpu)?);
/// assert_eq!(ops::to_f32(&ops::gelu_backward(&dy, &x)?)?, [2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`relu`].
pub fn gelu_backward(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    expect_shape("the second operand", x, dy.dims())?;
    on_gpu!(dy => cuda::gelu_backward(dy, x));
    zip(
        dy,
        x,
        #[inline(always)]
        |dy, x, dx| {
            for (dx, (dy, x)) in dx.iter_mut().zip(dy.iter().zip(x)) {
                let Normal { share, density } = normal(*x);
                let more = if x.is_infinite() { 0.0 } else { x * density };
                *dx = dy * (share + more);
            }
        },
    )
}

/// `x σ(2u)` with u = √(2/π) (x + 0.044715 x³) and σ(z) = 1 / (1 + e⁻ᶻ): [`gelu`] by its approximation with tanh, as in GPT-2.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let x = Tensor::new(&[0.0_f32, 10.0], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::gelu_tanh(&x)?)?, [0.0, 10.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`relu`].
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    on_gpu!(x => cuda::gelu_tanh(x));
    map(
        x,
        #[inline(always)]
        |_, x, y| {
            for (y, x) in y.iter_mut().zip(x) {
                *y = x * sigmoids(tanh_argument(*x)).0;
            }
        },
    )
}

/// The gradient of [`gelu_tanh`] from its argument: dy (σ + x σ (1 − σ) 2u′).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// // At 0 the derivative is σ(0) = 1/2.
/// let (dy, x) = (Tensor::new(&[4.0_f32], &Device::Cpu)?, Tensor::new(&[0.0_f32], &Device::Cpu)?);
/// assert_eq!(ops::to_f32(&ops::gelu_tanh_backward(&dy, &x)?)?, [2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`relu`].
pub fn gelu_tanh_backward(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    expect_shape("the second operand", x, dy.dims())?;
    on_gpu!(dy => cuda::gelu_tanh_backward(dy, x));
    zip(
        dy,
        x,
        #[inline(always)]
        |dy, x, dx| {
            for (dx, (dy, x)) in dx.iter_mut().zip(dy.iter().zip(x)) {
                let (share, rest) = sigmoids(tanh_argument(*x));
                let steep = share * rest;
                let slope = TANH_SCALE * (1.0 + 3.0 * TANH_CUBE * x * x);
                // Far out the slope may be infinite.
                let more = if steep == 0.0 { 0.0 } else { x * steep * slope };
                *dx = dy * (share + more);
            }
        },
    )
}

/// 2 √(2/π).
const TANH_SCALE: f32 = 2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;

/// What the cube counts in the argument of [`gelu_tanh`]'s tanh.
const TANH_CUBE: f32 = 0.044_715;

/// Twice the argument of [`gelu_tanh`]'s tanh.
#[inline(always)]
fn tanh_argument(x: f32) -> f32 {
    TANH_SCALE * (x + TANH_CUBE * x * x * x)
}

/// `tanh(x)`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let x = Tensor::new(&[0.0_f32, 100.0], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::tanh(&x)?)?, [0.0, 1.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`relu`].
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    on_gpu!(x => cuda::tanh(x));
    map(x, |_, x, y| {
        for (y, x) in y.iter_mut().zip(x) {
            *y = libm::tanhf(*x);
        }
    })
}

/// The gradient of [`tanh`] from its result: dy (1 − y) (1 + y).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let (dy, y) = (Tensor::new(&[4.0_f32], &Device::Cpu)?, Tensor::new(&[0.5_f32], &Device::Cpu)?);
/// assert_eq!(ops::to_f32(&ops::tanh_backward(&dy, &y)?)?, [4.0 * 0.5 * 1.5]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`relu`].
pub fn tanh_backward(dy: &Tensor, y: &Tensor) -> Result<Tensor> {
    expect_shape("the second operand", y, dy.dims())?;
    on_gpu!(dy => cuda::tanh_backward(dy, y));
    zip(dy, y, |dy, y, dx| {
        for (dx, (dy, y)) in dx.iter_mut().zip(dy.iter().zip(y)) {
            *dx = dy * ((1.0 - y) * (1.0 + y));
        }
    })
}

/// `silu(gate) · up` with silu(x) = x / (1 + e⁻ˣ) (Shazeer 2020, arXiv 2002.05202), rounded once.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// // silu(0) = 0, and silu(100) is 100 in f32.
/// let gate = Tensor::new(&[0.0_f32, 100.0], &Device::Cpu)?;
/// let up = Tensor::new(&[3.0_f32, 3.0], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::swiglu(&gate, &up)?)?, [0.0, 300.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`relu`].
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    expect_shape("the second operand", up, gate.dims())?;
    on_gpu!(gate => cuda::swiglu(gate, up));
    // Inlined, or the exponential would be code for any processor: see `vectorized!`.
    zip(
        gate,
        up,
        #[inline(always)]
        |gate, up, y| {
            for (y, (gate, up)) in y.iter_mut().zip(gate.iter().zip(up)) {
                *y = silu(*gate) * up;
            }
        },
    )
}

/// The gradients of [`swiglu`] with respect to gate and up: with σ = 1 / (1 + e⁻ᵍ), dy · up · σ (1 + gate (1 − σ)), and
/// dy · gate · σ.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let one = |value: f32| Tensor::new(&[value], &Device::Cpu);
/// // At gate = 0, σ is 1/2.
/// let (dgate, dup) = ops::swiglu_backward(&one(4.0)?, &one(0.0)?, &one(3.0)?)?;
/// assert_eq!((ops::to_f32(&dgate)?, ops::to_f32(&dup)?), (vec![4.0 * 3.0 / 2.0], vec![0.0]));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`relu`].
pub fn swiglu_backward(dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    expect_shape("the second operand", gate, dy.dims())?;
    expect_shape("the third operand", up, dy.dims())?;
    on_gpu!(dy => cuda::swiglu_backward(dy, gate, up));
    let of_up = zip(
        dy,
        gate,
        #[inline(always)]
        |dy, gate, dup| {
            for (dup, (dy, gate)) in dup.iter_mut().zip(dy.iter().zip(gate)) {
                *dup = dy * silu(*gate);
            }
        },
    )?;
    let of_gate = by_dtype!(dy.dtype(), T => {
        let (shape, dy, gate, up) = (dy.shape(), view::<T>(dy)?, view::<T>(gate)?, view::<T>(up)?);
        build::<T>(shape, |to| {
            let inputs = dy.chunks(CHUNK).zip(gate.chunks(CHUNK)).zip(up.chunks(CHUNK));
            let tasks = to.chunks(CHUNK).zip(inputs).collect();
            for_each(tasks, |_, (to, ((dy, gate), up)): (Unwritten<'_, T>, _)| vectorized!({
                let (dy, gate, up): (&[T], &[T], &[T]) = (dy, gate, up);
                let mut buffers = [[0.0; BLOCK]; 4];
                let [wide_dy, wide_gate, wide_up, result] = &mut buffers;
                let inputs = dy.chunks(BLOCK).zip(gate.chunks(BLOCK)).zip(up.chunks(BLOCK));
                for (to, ((dy, gate), up)) in to.blocks(BLOCK).zip(inputs) {
                    let (dy, gate) = (T::widened(dy, wide_dy), T::widened(gate, wide_gate));
                    let inputs = dy.iter().zip(gate).zip(T::widened(up, wide_up));
                    T::store(to, result, #[inline(always)] |to| {
                        for (to, ((dy, gate), up)) in to.iter_mut().zip(inputs) {
                            *to = dy * up * silu_slope(*gate);
                        }
                    });
                }
            }));
        })
    })?;
    Ok((of_gate, of_up))
}

/// 1 / (1 + e⁻ˣ), and 1 less that. Neither is a difference, so that both keep their digits.
#[inline(always)]
fn sigmoids(x: f32) -> (f32, f32) {
    let smaller = exp(-x.abs());
    let (low, high) = (smaller / (1.0 + smaller), 1.0 / (1.0 + smaller));
    if x < 0.0 { (low, high) } else { (high, low) }
}

/// x / (1 + e⁻ˣ).
#[inline(always)]
fn silu(x: f32) -> f32 {
    x * sigmoids(x).0
}

/// The derivative of [`silu`].
#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let (share, rest) = sigmoids(x);
    share + if x.is_infinite() { 0.0 } else { x * share * rest }
}

/// Drops each value with probability `p` and divides the rest by 1 − p. The mask depends on `random` and the position only,
/// so the gradient is the same operation on dy.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops::{self, RandomStream};
///
/// let pass = Tensor::new(&[0_u32], &Device::Cpu)?;
/// let random = RandomStream { seed: 0, stream: 1, pass };
/// let x = Tensor::ones(100, DType::F32, &Device::Cpu)?;
/// let y = ops::to_f32(&ops::dropout(&x, 0.5, &random)?)?;
/// assert!(y.iter().all(|value| [0.0, 2.0].contains(value)));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`relu`].
pub fn dropout(x: &Tensor, p: f32, random: &RandomStream) -> Result<Tensor> {
    expect_shape("the number of a pass", &random.pass, &[1])?;
    let keep = Keep::of(p);
    on_gpu!(x => cuda::dropout(x, keep, random));
    let RandomStream { seed, stream, pass } = random;
    let random = Philox { seed: *seed, stream: *stream, pass: first(pass)? };
    map(x, |start, x, y| {
        let quads = x.chunks(4).zip(y.chunks_mut(4));
        for (quad, (x, y)) in quads.enumerate() {
            let words = random.words((start / 4 + quad) as u64);
            for ((y, x), word) in y.iter_mut().zip(x).zip(words) {
                *y = if keep.keeps(word) { x * keep.scale } else { 0.0 };
            }
        }
    })
}

/// `a + b`, of one shape, and `then`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, Then};
///
/// let a = Tensor::new(&[1.0_f32, -5.0], &Device::Cpu)?;
/// let b = Tensor::new(&[2.0_f32, 3.0], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::add(&a, &b, Then::Nothing)?)?, [3.0, -2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`relu`].
pub fn add(a: &Tensor, b: &Tensor, then: Then) -> Result<Tensor> {
    expect_shape("the second operand", b, a.dims())?;
    on_gpu!(a => then.after(cuda::add(a, b)?));
    zip(a, b, |a, b, y| {
        for (y, (a, b)) in y.iter_mut().zip(a.iter().zip(b)) {
            *y = then.apply(a + b);
        }
    })
}

/// Adds 1 to the number of the forward pass that [`RandomStream`] draws for, modulo 2³².
///
/// # Errors
/// When it is not one number, u32.
#[doc(hidden)] // for training and this crate's tests
pub fn next_pass(pass: &Tensor) -> Result<()> {
    expect_shape("the number of a pass", pass, &[1])?;
    on_gpu!(pass => cuda::next_pass(pass));
    edit::<u32>(pass, |pass| pass[0] = pass[0].wrapping_add(1))
}

/// Adds `gradient` to `sum`, an f32 tensor, in place.
///
/// # Errors
/// As [`relu`].
#[doc(hidden)] // for training and this crate's tests
pub fn accumulate(sum: &Tensor, gradient: &Tensor) -> Result<()> {
    expect_shape("the gradient to add", gradient, sum.dims())?;
    on_gpu!(sum => cuda::accumulate(sum, gradient));
    by_dtype!(gradient.dtype(), T => {
        let gradient = view::<T>(gradient)?;
        edit::<f32>(sum, |sum| {
            let tasks = sum.chunks_mut(CHUNK).zip(gradient.chunks(CHUNK)).collect();
            for_each(tasks, |_, (sum, gradient)| vectorized!({
                let mut wide = [0.0; BLOCK];
                for (sum, gradient) in sum.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK)) {
                    for (sum, value) in sum.iter_mut().zip(T::widened(gradient, &mut wide)) {
                        *sum += value;
                    }
                }
            }));
        })
    })
}
