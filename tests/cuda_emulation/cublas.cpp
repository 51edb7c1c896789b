// cuBLAS on the emulated GPU: products of f32, f16 and bf16 with sums in f32, in the order of k, rounded once.
#include <cublas_v2.h>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "gpu.hpp"

struct cublasContext {
    CUstream stream = nullptr;
    cublasMath_t math = CUBLAS_DEFAULT_MATH;
    cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
    gpu::Range workspace{0, 0};
};

namespace {

struct Matrix {
    const void* values;
    cudaDataType type;
    std::int64_t leading;
    std::int64_t stride;
};

bool is_stored(cudaDataType type) { return type == CUDA_R_32F || type == CUDA_R_16F || type == CUDA_R_16BF; }

std::int64_t bytes_of(cudaDataType type) { return type == CUDA_R_32F ? 4 : 2; }

float load(const void* values, std::int64_t i, cudaDataType type) {
    switch (type) {
    case CUDA_R_16F:
        return __half2float(static_cast<const __half*>(values)[i]);
    case CUDA_R_16BF:
        return __bfloat162float(static_cast<const __nv_bfloat16*>(values)[i]);
    default:
        return static_cast<const float*>(values)[i];
    }
}

void store(void* values, std::int64_t i, cudaDataType type, float value) {
    switch (type) {
    case CUDA_R_16F:
        static_cast<__half*>(values)[i] = __float2half_rn(value);
        break;
    case CUDA_R_16BF:
        static_cast<__nv_bfloat16*>(values)[i] = __float2bfloat16_rn(value);
        break;
    default:
        static_cast<float*>(values)[i] = value;
    }
}

// Rounded to the 10 bits of TF32, to nearest even.
float to_tf32(float value) {
    auto bits = static_cast<std::uint32_t>(__float_as_int(value));
    if (std::isfinite(value)) {
        bits = (bits + 0xfff + (bits >> 13 & 1)) & ~std::uint32_t{0x1fff};
    }
    return __int_as_float(static_cast<int>(bits));
}

// c = alpha op(a) op(b) + beta c, for each of a batch. Matrices are stored by columns.
struct Product {
    bool a_transposed, b_transposed;
    std::int64_t m, n, k;
    float alpha, beta;
    Matrix a, b, c;
    std::int64_t batch;
    cublasComputeType_t compute;

    // What a matrix of the batch holds, row by row and as f32: op(matrix), of rows × columns.
    std::vector<float> rows(
        const Matrix& matrix, bool transposed, std::int64_t rows, std::int64_t columns, std::int64_t number) const {
        const bool tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32;
        std::vector<float> values;
        values.reserve(static_cast<std::size_t>(rows * columns));
        for (std::int64_t row = 0; row < rows; ++row) {
            for (std::int64_t column = 0; column < columns; ++column) {
                const std::int64_t at = transposed ? row * matrix.leading + column : column * matrix.leading + row;
                const float value = load(matrix.values, number * matrix.stride + at, matrix.type);
                values.push_back(tf32 ? to_tf32(value) : value);
            }
        }
        return values;
    }

    void run() const {
        for (std::int64_t number = 0; number < batch; ++number) {
            run_one(number);
        }
    }

    void run_one(std::int64_t number) const {
        // By rows it is cᵀ = op(b)ᵀ op(a)ᵀ: the innermost loop runs along c.
        const std::vector<float> left = rows(b, !b_transposed, n, k, number);
        const std::vector<float> right = rows(a, !a_transposed, k, m, number);
        std::vector<float> sums(static_cast<std::size_t>(m));
        for (std::int64_t column = 0; column < n; ++column) {
            std::fill(sums.begin(), sums.end(), 0.0f);
            for (std::int64_t i = 0; i < k; ++i) {
                const float factor = left[column * k + i];
                const float* values = &right[i * m];
                for (std::int64_t row = 0; row < m; ++row) {
                    sums[row] += factor * values[row];
                }
            }
            for (std::int64_t row = 0; row < m; ++row) {
                const std::int64_t at = number * c.stride + column * c.leading + row;
                // c is not read where beta is 0: it may hold anything.
                const float before = beta == 0.0f ? 0.0f : beta * load(c.values, at, c.type);
                store(const_cast<void*>(c.values), at, c.type, alpha * sums[row] + before);
            }
        }
    }

    gpu::Range range(const Matrix& matrix, std::int64_t rows, std::int64_t columns) const {
        const std::int64_t count = (batch - 1) * matrix.stride + (columns - 1) * matrix.leading + rows;
        const auto start = reinterpret_cast<CUdeviceptr>(matrix.values);
        return {start, static_cast<std::size_t>(count * bytes_of(matrix.type))};
    }

    gpu::Range a_range() const { return a_transposed ? range(a, k, m) : range(a, m, k); }
    gpu::Range b_range() const { return b_transposed ? range(b, n, k) : range(b, k, n); }

    cublasStatus_t judge() const {
        const auto holds = [](const Matrix& matrix, std::int64_t rows) {
            return matrix.leading >= std::max<std::int64_t>(rows, 1);
        };
        const bool sizes = m >= 0 && n >= 0 && k >= 0 && batch >= 0;
        if (!sizes || !holds(a, a_transposed ? k : m) || !holds(b, b_transposed ? n : k) || !holds(c, m)) {
            return CUBLAS_STATUS_INVALID_VALUE;
        }
        const bool sums_f32 = compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_PEDANTIC ||
                              compute == CUBLAS_COMPUTE_32F_FAST_TF32;
        // cuBLAS has no products of two types, and rounds to TF32 what is f32 only.
        const bool types = is_stored(a.type) && a.type == b.type && (c.type == a.type || c.type == CUDA_R_32F) &&
                           (compute != CUBLAS_COMPUTE_32F_FAST_TF32 || a.type == CUDA_R_32F);
        return sums_f32 && types ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
    }
};

cublasStatus_t give(cublasHandle_t handle, const Product& product) {
    const bool reads_scalars = handle->pointers == CUBLAS_POINTER_MODE_HOST;
    const cublasStatus_t verdict = reads_scalars ? product.judge() : CUBLAS_STATUS_NOT_SUPPORTED;
    if (verdict != CUBLAS_STATUS_SUCCESS) {
        gpu::complaint(CUDA_ERROR_INVALID_VALUE, "cuBLAS has no such product");
        return verdict;
    }
    if (product.m == 0 || product.n == 0 || product.batch == 0) {
        return CUBLAS_STATUS_SUCCESS;
    }
    std::vector<gpu::Range> touches{product.range(product.c, product.m, product.n), handle->workspace};
    if (product.k > 0) {
        touches.push_back(product.a_range());
        touches.push_back(product.b_range());
    }
    gpu::Work work{"a product by cuBLAS", [product] { product.run(); }, std::move(touches)};
    const CUresult status = gpu::call([&] { gpu::give(handle->stream, std::move(work)); });
    return status == CUDA_SUCCESS ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

float scalar(const void* value) { return *static_cast<const float*>(value); }

}  // namespace

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
    const CUresult status = gpu::call([&] { *handle = new cublasContext; });
    return status == CUDA_SUCCESS ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int* version) {
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}

// A new stream takes the workspace away, as NVIDIA's does.
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    handle->workspace = {0, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t* stream) {
    *stream = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}

// Nothing is written there, but each product asks that it still be memory.
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes) {
    if (reinterpret_cast<CUdeviceptr>(workspace) % 256 != 0) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    handle->workspace = {reinterpret_cast<CUdeviceptr>(workspace), bytes};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
    *mode = handle->math;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
    handle->pointers = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t* mode) {
    *mode = handle->pointers;
    return CUBLAS_STATUS_SUCCESS;
}

const char* cublasGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "an error of the emulated cuBLAS";
}

const char* cublasGetStatusName(cublasStatus_t status) { return cublasGetStatusString(status); }

cublasStatus_t cublasGemmStridedBatchedEx(
    cublasHandle_t handle, cublasOperation_t a_operation, cublasOperation_t b_operation, int m, int n, int k,
    const void* alpha, const void* a, cudaDataType a_type, int lda, long long a_stride, const void* b,
    cudaDataType b_type, int ldb, long long b_stride, const void* beta, void* c, cudaDataType c_type, int ldc,
    long long c_stride, int batch, cublasComputeType_t compute, cublasGemmAlgo_t) {
    const bool a_transposed = a_operation != CUBLAS_OP_N, b_transposed = b_operation != CUBLAS_OP_N;
    const Matrix left{a, a_type, lda, a_stride}, right{b, b_type, ldb, b_stride}, result{c, c_type, ldc, c_stride};
    return give(
        handle, {a_transposed, b_transposed, m, n, k, scalar(alpha), scalar(beta), left, right, result, batch, compute});
}

cublasStatus_t cublasGemmEx(
    cublasHandle_t handle, cublasOperation_t a_operation, cublasOperation_t b_operation, int m, int n, int k,
    const void* alpha, const void* a, cudaDataType a_type, int lda, const void* b, cudaDataType b_type, int ldb,
    const void* beta, void* c, cudaDataType c_type, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
    return cublasGemmStridedBatchedEx(
        handle, a_operation, b_operation, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type, ldc, 0,
        1, compute, algorithm);
}

cublasStatus_t cublasSgemm_v2(
    cublasHandle_t handle, cublasOperation_t a_operation, cublasOperation_t b_operation, int m, int n, int k,
    const float* alpha, const float* a, int lda, const float* b, int ldb, const float* beta, float* c, int ldc) {
    const bool tf32 = handle->math == CUBLAS_TF32_TENSOR_OP_MATH;
    return cublasGemmEx(
        handle, a_operation, b_operation, m, n, k, alpha, a, CUDA_R_32F, lda, b, CUDA_R_32F, ldb, beta, c, CUDA_R_32F,
        ldc, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
