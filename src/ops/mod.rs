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

mod conv;
#[cfg(feature = "cuda")]
mod cuda;
mod element;
mod host;
mod linear;
mod loss;
mod matmul;
mod norm;
mod parallel;
mod philox;
mod pointwise;
mod pool;
mod step;

pub use conv::{ConvGradients, ConvSettings, ConvWanted, conv2d, conv2d_backward};
pub use element::{Element, Stored};
pub use host::{
    all_finite, cast, copy, copy_into, from_f32, from_host, observe, round, round_counted, to_f32,
    zeros,
};
pub use linear::{
    Operands, column_sums, linear, linear_input_gradient, linear_weight_gradient, take_operations,
};
pub use loss::{
    LossGradient, LossSettings, count_correct, cross_entropy, cross_entropy_loss, mean_loss,
    squared_error, squared_error_loss,
};
pub use matmul::{ISA_VARIABLE, Isa, IsaError, isa, product_paths, work_space};
pub use norm::{
    BatchNormGradients, BatchNormSaved, batch_norm, batch_norm_backward, batch_norm_inference,
    update_running_statistics,
};
pub use philox::{Philox, RandomStream, first_pass, philox4x32};
pub use pointwise::{
    Then, accumulate, add, dropout, gelu, gelu_backward, next_pass, relu, relu_backward,
};
pub use pool::{
    avg_pool2d, avg_pool2d_backward, global_avg_pool, global_avg_pool_backward, max_pool2d,
    max_pool2d_backward,
};
pub use step::{
    AdamW, Conversion, GradientCounts, GradientSummary, ParameterTensors, RateSchedule, Rates, Sgd,
    StepEnd, StepOutcome, StepSettings, Update, UpdateTensors, inspect_gradient, update,
};
