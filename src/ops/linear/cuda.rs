//! Matrix products by cuBLAS: sums in f32, one rounding.
//!
//! cuBLAS takes matrices by columns. A row-major matrix is its transpose by columns, so each product is made transposed, with
//! the operands in the other order.
#![expect(unsafe_code, reason = "cuBLAS is called with addresses")]

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda::cudarc::cublas::{CudaBlas, result, sys};
use candle_core::{CudaDevice, DType, Error, Result, Tensor};

use crate::ops::cuda::{address, device_of, empty, kernel_error, launch, operands, planes, suffix};
use crate::ops::{Operands, cuda};

/// Bytes of work space for cuBLAS: what NVIDIA recommends from compute capability 9.0 on.
const WORKSPACE: usize = 32 << 20;

/// A cuBLAS handle in a device's stream.
struct Blas {
    handle: CudaBlas,
    /// Its own, so that it allocates none while a step is captured. Held as long as the handle is.
    _workspace: Tensor,
}

/// The handle of a device, made once.
fn blas(gpu: &CudaDevice) -> Result<Arc<Blas>> {
    static MADE: Mutex<BTreeMap<usize, Arc<Blas>>> = Mutex::new(BTreeMap::new());
    let stream = gpu.cuda_stream();
    let key = stream.cu_stream() as usize;
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(blas) = made.get(&key) {
        return Ok(Arc::clone(blas));
    }
    let failed = |error| kernel_error("of cuBLAS", &error);
    let handle = CudaBlas::new(stream).map_err(failed)?;
    let workspace = empty(gpu, WORKSPACE, DType::U8)?;
    let at = address(&workspace)?;
    // No sum may be split into parts that are rounded to 16 bits before they are added.
    let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    // SAFETY: the handle is this one's own, and the work space lives as long.
    unsafe {
        sys::cublasSetWorkspace_v2(*handle.handle(), at as *mut _, WORKSPACE)
            .result()
            .and_then(|()| sys::cublasSetMathMode(*handle.handle(), mode).result())
    }
    .map_err(failed)?;
    let blas = Arc::new(Blas { handle, _workspace: workspace });
    made.insert(key, Arc::clone(&blas));
    Ok(blas)
}

/// A matrix of a product: where it is, how far apart its columns are, and whether it is used transposed.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Matrix {
    pub(in crate::ops) address: u64,
    pub(in crate::ops) leading: usize,
    pub(in crate::ops) transposed: bool,
}

/// `c = a b + beta c` by columns, with a of m × k and b of k × n, of type `from`; the result is of type `to`.
pub(in crate::ops) struct Product {
    pub(in crate::ops) sizes: [usize; 3],
    pub(in crate::ops) a: Matrix,
    pub(in crate::ops) b: Matrix,
    pub(in crate::ops) c: (u64, usize),
    pub(in crate::ops) types: (DType, DType),
    pub(in crate::ops) beta: f32,
    pub(in crate::ops) operands: Operands,
}

impl Product {
    pub(in crate::ops) fn run(&self, gpu: &CudaDevice) -> Result<()> {
        let blas = blas(gpu)?;
        let size = |size: usize| {
            c_int::try_from(size)
                .map_err(|_| Error::Msg(format!("a matrix of {size} rows is too large")).bt())
        };
        let [m, n, k] = self.sizes;
        if m == 0 || n == 0 {
            return Ok(());
        }
        let operation = |matrix: Matrix| {
            if matrix.transposed {
                sys::cublasOperation_t::CUBLAS_OP_T
            } else {
                sys::cublasOperation_t::CUBLAS_OP_N
            }
        };
        let (from, to) = (data_type(self.types.0)?, data_type(self.types.1)?);
        let compute = match self.operands {
            Operands::Exact => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            Operands::Tf32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        };
        let alpha = 1.0_f32;
        // SAFETY: the sizes are those of the tensors at these addresses, which are held until after the call and freed in the
        // same stream; the scalars are f32, as the compute types ask.
        unsafe {
            result::gemm_ex(
                *blas.handle.handle(),
                operation(self.a),
                operation(self.b),
                size(m)?,
                size(n)?,
                size(k)?,
                (&raw const alpha).cast(),
                self.a.address as *const _,
                from,
                size(self.a.leading)?,
                self.b.address as *const _,
                from,
                size(self.b.leading)?,
                (&raw const self.beta).cast(),
                self.c.0 as *mut _,
                to,
                size(self.c.1)?,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|error| kernel_error("of a matrix product", &error))
    }
}

fn data_type(dtype: DType) -> Result<sys::cudaDataType> {
    match dtype {
        DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
        DType::F16 => Ok(sys::cudaDataType_t::CUDA_R_16F),
        DType::BF16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
        other => Err(Error::UnsupportedDTypeForOp(other, "a product").bt()),
    }
}

/// A matrix as it is stored.
pub(in crate::ops) fn plain(address: u64, leading: usize) -> Matrix {
    Matrix { address, leading, transposed: false }
}

/// A matrix, used transposed.
pub(in crate::ops) fn transposed(address: u64, leading: usize) -> Matrix {
    Matrix { address, leading, transposed: true }
}

pub(crate) fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>, how: Operands) -> Result<Tensor> {
    let (gpu, (rows, inputs), outputs) = (device_of(x)?, x.dims2()?, w.dim(0)?);
    let ([x_at, w_at], suffix) = operands([x, w])?;
    // A bias is added in f32 before the one rounding.
    let made = if b.is_some() { DType::F32 } else { x.dtype() };
    let product = empty(gpu, (rows, outputs), made)?;
    let product_at = address(&product)?;
    Product {
        sizes: [outputs, rows, inputs],
        a: transposed(w_at, inputs),
        b: plain(x_at, inputs),
        c: (product_at, outputs),
        types: (x.dtype(), made),
        beta: 0.0,
        operands: how,
    }
    .run(gpu)?;
    let Some(b) = b else { return Ok(product) };
    let y = empty(gpu, (rows, outputs), x.dtype())?;
    let ([b_at, y_at], _) = operands([b, &y])?;
    let name = format!("bias_round_{suffix}");
    let geometry = planes(gpu, rows, outputs)?;
    let (rows, outputs) = (rows as u32, outputs as u32);
    launch!(gpu, LINEAR, &name, geometry, product_at, b_at, y_at, rows, outputs)?;
    Ok(y)
}

pub(crate) fn linear_input_gradient(dy: &Tensor, w: &Tensor, how: Operands) -> Result<Tensor> {
    let (gpu, (rows, outputs), inputs) = (device_of(dy)?, dy.dims2()?, w.dim(1)?);
    let dx = empty(gpu, (rows, inputs), dy.dtype())?;
    let ([dy_at, w_at, dx_at], _) = operands([dy, w, &dx])?;
    Product {
        sizes: [inputs, rows, outputs],
        a: plain(w_at, inputs),
        b: plain(dy_at, outputs),
        c: (dx_at, inputs),
        types: (dy.dtype(), dy.dtype()),
        beta: 0.0,
        operands: how,
    }
    .run(gpu)?;
    Ok(dx)
}

pub(crate) fn linear_weight_gradient(dy: &Tensor, x: &Tensor, how: Operands) -> Result<Tensor> {
    let (gpu, (rows, outputs), inputs) = (device_of(dy)?, dy.dims2()?, x.dim(1)?);
    let dw = empty(gpu, (outputs, inputs), dy.dtype())?;
    let ([dy_at, x_at, dw_at], _) = operands([dy, x, &dw])?;
    Product {
        sizes: [inputs, outputs, rows],
        a: plain(x_at, inputs),
        b: transposed(dy_at, outputs),
        c: (dw_at, inputs),
        types: (dy.dtype(), dy.dtype()),
        beta: 0.0,
        operands: how,
    }
    .run(gpu)?;
    Ok(dw)
}

pub(crate) fn column_sums(dy: &Tensor) -> Result<Tensor> {
    /// Columns and rows of threads: the kernel's own.
    const BLOCK: (u32, u32) = (32, 16);
    let (gpu, (rows, columns)) = (device_of(dy)?, dy.dims2()?);
    let sums = empty(gpu, columns, dy.dtype())?;
    let ([from, to], _) = operands([dy, &sums])?;
    let name = format!("column_sums_{}", suffix(dy.dtype())?);
    let geometry = cuda::blocks(gpu, (columns as u64).div_ceil(BLOCK.0.into()), BLOCK)?;
    launch!(gpu, LINEAR, &name, geometry, from, to, rows as u32, columns as u32)?;
    Ok(sums)
}
