//! Operations on candle tensors: each a forward and, beside it, an explicit backward. No autograd.
//!
//! Every operation keeps the arithmetic contract: operands in the tensors' format, products and sums in f32, one rounding
//! to nearest even of each result. On f32 tensors nothing is rounded further, which is what wide mode builds on: it runs the
//! same operations on f32 tensors and rounds each result to the policy's format afterwards.
//!
//! Results do not depend on the number of threads: work is cut in pieces of fixed size, and sums of pieces are added in order.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mantissa::ops::{self, Operands, Then};
//!
//! let tensor = |values: &[f32], shape: (usize, usize)| ops::from_f32(values, shape, DType::F16, &Device::Cpu);
//! let (x, w) = (tensor(&[1.0, 2.0], (1, 2))?, tensor(&[3.0, 4.0, 0.5, -1.0], (2, 2))?);
//! // y = x wᵀ, and ReLU of it.
//! let y = ops::linear(&x, &w, None, Operands::Exact, Then::Relu)?;
//! assert_eq!(ops::to_f32(&y)?, [11.0, 0.0]);
//!
//! let dy = ops::relu_backward(&tensor(&[1.0, 1.0], (1, 2))?, &y)?;
//! let dx = ops::linear_input_gradient(&dy, &w, Operands::Exact)?;
//! let dw = ops::linear_weight_gradient(&dy, &x, Operands::Exact)?;
//! assert_eq!(ops::to_f32(&dx)?, [3.0, 4.0]);
//! assert_eq!(ops::to_f32(&dw)?, [1.0, 2.0, 0.0, 0.0]);
//! # Ok::<(), candle_core::Error>(())
//! ```

/// Hands an operation on a GPU's tensor to its twin there; nothing in a build without CUDA.
macro_rules! on_gpu {
    ($tensor:expr => $twin:expr) => {
        #[cfg(feature = "cuda")]
        if $tensor.device().is_cuda() {
            return $twin;
        }
    };
}

mod attention;
mod awake;
mod conv;
#[cfg(feature = "cuda")]
mod cuda;
mod element;
mod embedding;
mod exponential;
mod host;
mod layer_norm;
mod linear;
mod loss;
mod matmul;
mod norm;
mod normal;
mod parallel;
mod philox;
mod pointwise;
mod pool;
mod rope;
mod sequence_pool;
mod step;

pub use attention::*;
pub use conv::*;
#[doc(hidden)] // the bounds of some functions
pub use element::{Element, Stored};
pub use embedding::*;
#[doc(hidden)] // for training and this crate's tests
pub use host::{all_finite, copy_into, from_host, zeros_as, zeros_u32};
pub use host::{cast, copy, from_f32, observe, round, round_counted, to_f32, zeros};
pub use layer_norm::*;
pub use linear::*;
pub use loss::*;
#[doc(hidden)] // for the program and this crate's tests
#[doc(hidden)] // for the program and this crate's tests
pub use matmul::{ISA_VARIABLE, Isa, IsaError, isa, product_paths, work_space};
pub use norm::*;
pub use philox::RandomStream;
#[doc(hidden)] // for training and this crate's tests
pub use philox::{Philox, first_pass, philox4x32};
pub use pointwise::*;
pub use pool::*;
pub use rope::*;
pub use sequence_pool::*;
pub use step::GradientCounts;
#[doc(hidden)] // for training and this crate's tests
pub use step::*;
