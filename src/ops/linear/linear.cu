// What cuBLAS leaves to do around the products of a linear layer: its bias, and the gradient of that.
#include "common.cuh"

// The end of a product that was made with an f32 result: adds the bias in f32, rounds once.
// product: rows × columns, bias: columns, or null for none, y: rows × columns. Geometry of for_each_in_planes.
#define BIAS_ROUND(suffix, T)                                                                      \
    extern "C" __global__ void bias_round_##suffix(                                                \
        const float* product, const T* bias, T* y, u32 rows, u32 columns) {                        \
        for_each_in_planes(rows, columns, [&](u64 row, auto each) {                                \
            each([&](u32 i) {                                                                      \
                const float sum = product[row * columns + i];                                      \
                y[row * columns + i] = finish_product<T>(sum, bias ? bias + i : nullptr);          \
            });                                                                                    \
        });                                                                                        \
    }
FOR_EACH_STORAGE(BIAS_ROUND)

// The threads of a block that column_sums is launched with.
constexpr u32 SUM_COLUMNS = 32;
constexpr u32 SUM_ROWS = 16;

template <class T>
__device__ void column_sums(const T* dy, T* sums, u32 rows, u32 columns) {
    __shared__ float partial[SUM_ROWS][SUM_COLUMNS];
    const u32 x = threadIdx.x;
    const u32 y = threadIdx.y;
    for (u32 first = blockIdx.x * SUM_COLUMNS; first < columns; first += gridDim.x * SUM_COLUMNS) {
        float part = 0.0f;
        if (first + x < columns) {
            for (u32 row = y; row < rows; row += SUM_ROWS) {
                part += widen(dy[(u64)row * columns + first + x]);
            }
        }
        partial[y][x] = part;
        __syncthreads();
        for (u32 half = SUM_ROWS / 2; half > 0; half /= 2) {
            if (y < half) {
                partial[y][x] += partial[y + half][x];
            }
            __syncthreads();
        }
        if (y == 0 && first + x < columns) {
            sums[first + x] = narrow<T>(partial[0][x]);
        }
    }
}

// sums: of the columns of dy, in f32, rounded once: the bias gradient of a linear layer. Blocks of 32 × 16 threads, of which
// each works on 32 columns at a time; any number of blocks.
#define COLUMN_SUMS(suffix, T)                                                                     \
    extern "C" __global__ void column_sums_##suffix(                                               \
        const T* dy, T* sums, u32 rows, u32 columns) {                                             \
        column_sums(dy, sums, rows, columns);                                                      \
    }
FOR_EACH_STORAGE(COLUMN_SUMS)
