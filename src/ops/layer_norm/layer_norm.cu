// Layer norm and RMS norm over rows of width values, with statistics in f32 whatever the storage type.
//
// A row is worked on by one block at a time: blocks of a power of two of threads, whose number sets the order of the sums; any number
// of blocks. Where means are null nothing is subtracted: RMS norm.
#include "common.cuh"

// Σ f(i) over the values of a row, for all threads of the block.
template <class F>
__device__ float row_sum(u32 width, F f) {
    float part = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        part += f(i);
    }
    return block_sum(part);
}

template <class T>
__device__ void layer_norm(
    const T* x, const T* gamma, const T* beta, T* y, float* means, float* inverses, u32 rows, u32 width, float epsilon) {
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* from = x + row * width;
        const float mean = means ? row_sum(width, [&](u32 i) { return widen(from[i]); }) / (float)width : 0.0f;
        const float squares = row_sum(width, [&](u32 i) {
            const float distance = widen(from[i]) - mean;
            return distance * distance;
        });
        const float inverse = 1.0f / sqrtf(squares / (float)width + epsilon);
        if (threadIdx.x == 0) {
            if (means) {
                means[row] = mean;
            }
            inverses[row] = inverse;
        }
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
            const float value = (widen(from[i]) - mean) * inverse * widen(gamma[i]);
            y[row * width + i] = narrow<T>(beta ? value + widen(beta[i]) : value);
        }
    }
}

// y = (x − mean) / √(variance + ε) gamma + beta a row, and what backward needs; without the mean, and beta, where they are null.
#define LAYER_NORM(suffix, T)                                                                      \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) layer_norm_##suffix(                 \
        const T* x, const T* gamma, const T* beta, T* y, float* means, float* inverses,            \
        u32 rows, u32 width, float epsilon) {                                                      \
        layer_norm(x, gamma, beta, y, means, inverses, rows, width, epsilon);                      \
    }
FOR_EACH_STORAGE(LAYER_NORM)

template <class T>
__device__ void layer_norm_backward(
    const T* dy, const T* x, const T* gamma, const float* means, const float* inverses, T* dx, u32 rows, u32 width) {
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const float mean = means ? means[row] : 0.0f;
        const float inverse = inverses[row];
        const auto normal = [&](u32 i) { return (widen(x[row * width + i]) - mean) * inverse; };
        const auto weighted = [&](u32 i) { return widen(dy[row * width + i]) * widen(gamma[i]); };
        const float plain = means ? row_sum(width, weighted) / (float)width : 0.0f;
        const float along =
            row_sum(width, [&](u32 i) { return weighted(i) * normal(i); }) / (float)width;
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
            dx[row * width + i] = narrow<T>((weighted(i) - plain - normal(i) * along) * inverse);
        }
    }
}

// dx = (g − mean(g) − x̂ mean(g x̂)) / √(variance + ε) with g = dy gamma; without mean(g) where there are no means.
#define LAYER_NORM_BACKWARD(suffix, T)                                                             \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) layer_norm_backward_##suffix(        \
        const T* dy, const T* x, const T* gamma, const float* means, const float* inverses,        \
        T* dx, u32 rows, u32 width) {                                                              \
        layer_norm_backward(dy, x, gamma, means, inverses, dx, rows, width);                       \
    }
FOR_EACH_STORAGE(LAYER_NORM_BACKWARD)

// The threads of a block that layer_norm_parameters is launched with.
constexpr u32 SUM_COLUMNS = 32;
constexpr u32 SUM_ROWS = 16;

// The sum over threadIdx.y of each column of threads, for threadIdx.y = 0.
__device__ inline float column_total(float value) {
    __shared__ float partial[SUM_ROWS][SUM_COLUMNS];
    const u32 x = threadIdx.x;
    const u32 y = threadIdx.y;
    partial[y][x] = value;
    __syncthreads();
    for (u32 half = SUM_ROWS / 2; half > 0; half /= 2) {
        if (y < half) {
            partial[y][x] += partial[y + half][x];
        }
        __syncthreads();
    }
    const float total = partial[0][x];
    // The next sum writes where slower threads still read.
    __syncthreads();
    return total;
}

template <class T>
__device__ void layer_norm_parameters(
    const T* dy, const T* x, const float* means, const float* inverses, T* dgamma, T* dbeta, u32 rows, u32 width) {
    for (u32 first = blockIdx.x * SUM_COLUMNS; first < width; first += gridDim.x * SUM_COLUMNS) {
        const u32 column = first + threadIdx.x;
        float products = 0.0f;
        float plain = 0.0f;
        for (u64 row = threadIdx.y; row < rows && column < width; row += SUM_ROWS) {
            const float gradient = widen(dy[row * width + column]);
            const float mean = means ? means[row] : 0.0f;
            products += gradient * ((widen(x[row * width + column]) - mean) * inverses[row]);
            plain += gradient;
        }
        products = column_total(products);
        plain = column_total(plain);
        if (threadIdx.y == 0 && column < width) {
            dgamma[column] = narrow<T>(products);
            if (dbeta) {
                dbeta[column] = narrow<T>(plain);
            }
        }
    }
}

// dgamma = Σ dy x̂ and dbeta = Σ dy over the rows, in f32, rounded once; dbeta may be null. Blocks of 32 × 16 threads, of which each
// works on 32 columns at a time; any number of blocks.
#define LAYER_NORM_PARAMETERS(suffix, T)                                                           \
    extern "C" __global__ void layer_norm_parameters_##suffix(                                     \
        const T* dy, const T* x, const float* means, const float* inverses, T* dgamma, T* dbeta,   \
        u32 rows, u32 width) {                                                                     \
        layer_norm_parameters(dy, x, means, inverses, dgamma, dbeta, rows, width);                 \
    }
FOR_EACH_STORAGE(LAYER_NORM_PARAMETERS)
