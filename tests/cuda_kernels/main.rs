//! The CUDA kernels against their CPU twins, on a machine without a GPU: compiled as C++ and run by the emulator in
//! `tests/cuda_emulation`. Bit by bit where the order of operations is the same, within the bound of f32 summation where it is
//! not. Every kernel runs with the threads of a block in both orders, so that a race shows.

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "kernels take pointers")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::float_cmp, reason = "what is exact is compared exactly")]

mod attention;
mod conv;
mod emulation;
mod host;
mod linear;
mod loss;
mod norm;
mod pointwise;
mod pool;
mod sequences;
mod support;
mod update;
