//! Operations on candle tensors: each a forward and, beside it, an explicit backward. No autograd.
//!
//! Every operation keeps the arithmetic contract: operands in the tensors' format, products and sums in f32, one rounding
//! to nearest even of each result. On f32 tensors nothing is rounded further, which is what wide mode builds on: it runs the
//! same operations on f32 tensors and rounds each result to the policy's format afterwards.
//!
//! Results do not depend on the number of threads: work is cut in pieces of fixed size, and sums of pieces are added in order.

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
mod parallel;
mod philox;
mod pointwise;
mod pool;
mod rope;
mod sequence_pool;
mod step;

pub use attention::*;
pub use conv::*;
pub use element::{Element, Stored};
pub use embedding::*;
pub use host::{
    all_finite, cast, copy, copy_into, from_f32, from_host, observe, round, round_counted, to_f32,
    zeros,
};
pub use layer_norm::*;
pub use linear::*;
pub use loss::*;
pub use matmul::{ISA_VARIABLE, Isa, IsaError, isa, product_paths, work_space};
pub use norm::*;
pub use philox::{Philox, RandomStream, first_pass, philox4x32};
pub use pointwise::*;
pub use pool::*;
pub use rope::*;
pub use sequence_pool::*;
pub use step::*;
