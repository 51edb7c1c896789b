// Pooling of sequences × positions × width to sequences × width. Lengths are at most the number of positions; without any, all are
// there. Geometry of for_each_in_planes, over sequences, or over sequences × positions where a gradient is spread.
#include "common.cuh"

// y = the mean of the first positions of each sequence, summed in f32 in order, rounded once; 0 of an empty one.
#define MEAN_POOL(suffix, T)                                                                       \
    extern "C" __global__ void mean_pool_##suffix(                                                 \
        const T* x, const u32* lengths, T* y, u32 sequences, u32 positions, u32 width) {           \
        for_each_in_planes(sequences, width, [&](u64 sequence, auto each) {                        \
            const u32 count = lengths ? lengths[sequence] : positions;                             \
            const T* from = x + sequence * positions * width;                                      \
            each([&](u32 i) {                                                                      \
                float sum = 0.0f;                                                                  \
                for (u64 position = 0; position < count; ++position) {                             \
                    sum += widen(from[position * width + i]);                                      \
                }                                                                                  \
                y[sequence * width + i] = narrow<T>(sum / (float)(count > 0 ? count : 1));         \
            });                                                                                    \
        });                                                                                        \
    }
FOR_EACH_STORAGE(MEAN_POOL)

// dx = dy / length at the positions that are there, 0 elsewhere.
#define MEAN_POOL_BACKWARD(suffix, T)                                                              \
    extern "C" __global__ void mean_pool_backward_##suffix(                                        \
        const T* dy, const u32* lengths, T* dx, u32 sequences, u32 positions, u32 width) {         \
        for_each_in_planes((u64)sequences * positions, width, [&](u64 place, auto each) {          \
            const u64 sequence = place / positions;                                                \
            const u32 count = lengths ? lengths[sequence] : positions;                             \
            const bool is_there = place % positions < count;                                       \
            each([&](u32 i) {                                                                      \
                const float share = is_there ? widen(dy[sequence * width + i]) / (float)count : 0.0f; \
                dx[place * width + i] = narrow<T>(share);                                          \
            });                                                                                    \
        });                                                                                        \
    }
FOR_EACH_STORAGE(MEAN_POOL_BACKWARD)

// y = the first position of each sequence.
#define FIRST_TOKEN(suffix, T)                                                                     \
    extern "C" __global__ void first_token_##suffix(                                               \
        const T* x, T* y, u32 sequences, u32 positions, u32 width) {                               \
        for_each_in_planes(sequences, width, [&](u64 sequence, auto each) {                        \
            each([&](u32 i) { y[sequence * width + i] = x[sequence * positions * width + i]; });   \
        });                                                                                        \
    }
FOR_EACH_STORAGE(FIRST_TOKEN)

// dx = dy at the first position, 0 elsewhere.
#define FIRST_TOKEN_BACKWARD(suffix, T)                                                            \
    extern "C" __global__ void first_token_backward_##suffix(                                      \
        const T* dy, T* dx, u32 sequences, u32 positions, u32 width) {                             \
        for_each_in_planes((u64)sequences * positions, width, [&](u64 place, auto each) {          \
            const bool is_first = place % positions == 0;                                          \
            each([&](u32 i) {                                                                      \
                dx[place * width + i] = is_first ? dy[place / positions * width + i] : narrow<T>(0.0f); \
            });                                                                                    \
        });                                                                                        \
    }
FOR_EACH_STORAGE(FIRST_TOKEN_BACKWARD)
