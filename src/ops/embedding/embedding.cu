// Rows of a table by number, and their gradients.
//
// ids are below the number of rows, which the caller has checked. Rows are of width values.
#include "common.cuh"

// y[i] = tokens[ids[i]] + positions[i % length] + types[kinds[i]] for each of `count` places, added in f32 in this order, rounded
// once; positions and types may be null. Geometry of for_each_in_planes, over places.
#define EMBEDDING(suffix, T)                                                                       \
    extern "C" __global__ void embedding_##suffix(                                                 \
        const u32* ids, const u32* kinds, const T* tokens, const T* positions, const T* types,     \
        T* y, u64 count, u32 length, u32 width) {                                                  \
        for_each_in_planes(count, width, [&](u64 place, auto each) {                               \
            const T* token = tokens + (u64)ids[place] * width;                                     \
            const T* position = positions ? positions + place % length * width : nullptr;          \
            const T* type = types ? types + (u64)kinds[place] * width : nullptr;                   \
            each([&](u32 i) {                                                                      \
                float sum = widen(token[i]);                                                       \
                sum = position ? sum + widen(position[i]) : sum;                                   \
                sum = type ? sum + widen(type[i]) : sum;                                           \
                y[place * width + i] = narrow<T>(sum);                                             \
            });                                                                                    \
        });                                                                                        \
    }
FOR_EACH_STORAGE(EMBEDDING)

// firsts[row] = the first place of the row in ids, or count where there is none. One block a row at a time, of a power of two of
// threads; any number of blocks.
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
    embedding_firsts(const u32* ids, u32* firsts, u32 count, u32 rows) {
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        u32 first = count;
        for (u32 place = threadIdx.x; place < count && first == count; place += blockDim.x) {
            first = ids[place] == row ? place : first;
        }
        const u32 found = block_min(first);
        if (threadIdx.x == 0) {
            firsts[row] = found;
        }
    }
}

// The threads of a block that embedding_backward is launched with.
constexpr u32 SUM_COLUMNS = 32;
constexpr u32 SUM_ROWS = 16;

template <class T>
__device__ void embedding_backward(
    const T* dy, const u32* ids, const u32* firsts, T* table, u32 count, u32 rows, u32 width) {
    __shared__ float partial[SUM_ROWS][SUM_COLUMNS];
    const u32 x = threadIdx.x;
    const u32 y = threadIdx.y;
    const u32 parts = (width + SUM_COLUMNS - 1) / SUM_COLUMNS;
    for (u64 task = blockIdx.x; task < (u64)rows * parts; task += gridDim.x) {
        const u32 row = (u32)(task / parts);
        const u32 column = (u32)(task % parts) * SUM_COLUMNS + x;
        float part = 0.0f;
        if (column < width) {
            for (u64 place = (u64)firsts[row] + y; place < count; place += SUM_ROWS) {
                part += ids[place] == row ? widen(dy[place * width + column]) : 0.0f;
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
        if (y == 0 && column < width) {
            table[(u64)row * width + column] = narrow<T>(partial[0][x]);
        }
        // The next sum writes where slower threads still read.
        __syncthreads();
    }
}

// table[row] = the sum of dy over the places whose id it is, in f32, rounded once; 0 where there is none. firsts: of
// embedding_firsts. Blocks of 32 × 16 threads, of which each works on 32 columns of a row at a time; any number of blocks.
#define EMBEDDING_BACKWARD(suffix, T)                                                              \
    extern "C" __global__ void embedding_backward_##suffix(                                        \
        const T* dy, const u32* ids, const u32* firsts, T* table, u32 count, u32 rows, u32 width) { \
        embedding_backward(dy, ids, firsts, table, count, rows, width);                            \
    }
FOR_EACH_STORAGE(EMBEDDING_BACKWARD)

// table[row] = the sum over sequences of dy at position row, in f32 in order, rounded once; 0 from row `length` on. dy: sequences ×
// length × width. Geometry of for_each_in_planes, over rows.
#define POSITION_BACKWARD(suffix, T)                                                               \
    extern "C" __global__ void position_backward_##suffix(                                         \
        const T* dy, T* table, u32 sequences, u32 length, u32 rows, u32 width) {                   \
        for_each_in_planes(rows, width, [&](u64 row, auto each) {                                  \
            each([&](u32 i) {                                                                      \
                float sum = 0.0f;                                                                  \
                for (u64 sequence = 0; sequence < sequences && row < length; ++sequence) {         \
                    sum += widen(dy[(sequence * length + row) * width + i]);                       \
                }                                                                                  \
                table[row * width + i] = narrow<T>(sum);                                           \
            });                                                                                    \
        });                                                                                        \
    }
FOR_EACH_STORAGE(POSITION_BACKWARD)
