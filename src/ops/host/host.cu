// Conversions, and wide mode: rounding of f32 tensors in place to any format, with or without the census of numerics.
#include "common.cuh"

// y = x in another storage type, rounded once.
#define CAST(from, S, to, T)                                                                       \
    extern "C" __global__ void cast_##from##_##to(const S* x, T* y, u64 count) {                   \
        map(x, y, count, [](float x) { return x; });                                               \
    }
CAST(f32, float, f16, __half)
CAST(f32, float, bf16, __nv_bfloat16)
CAST(f16, __half, f32, float)
CAST(f16, __half, bf16, __nv_bfloat16)
CAST(bf16, __nv_bfloat16, f32, float)
CAST(bf16, __nv_bfloat16, f16, __half)

// How many values of x are infinite or NaN is added to *total, which the caller sets to 0 before.
#define COUNT_NON_FINITE(suffix, T)                                                                \
    extern "C" __global__ void count_non_finite_##suffix(const T* x, u64 count, u64* total) {      \
        u32 found = 0;                                                                             \
        for (u64 i = first_index(); i < count; i += index_step()) {                                \
            found += !(fabsf(widen(x[i])) < infinity());                                           \
        }                                                                                          \
        if (found > 0) {                                                                           \
            atomicAdd(total, (u64)found);                                                          \
        }                                                                                          \
    }
FOR_EACH_STORAGE(COUNT_NON_FINITE)

// values = values rounded. One-dimensional, any geometry.
extern "C" __global__ void round_values(float* values, u64 count, Rounder rounder) {
    map(values, values, count, [rounder](float value) { return rounder.round(value); });
}

// One bin for each exponent of f32 from -149 to 127, of which the first 23 are those below its normal range.
constexpr u32 BINS = 277;
constexpr u32 SUBNORMAL_BINS = 23;

// What a census adds up, as numerics::Tally does. #[repr(C)], all u64.
struct Tally {
    u64 elements;
    u64 overflow;
    u64 underflow;
    u64 subnormal;
    u64 nan;
    // Of the values before rounding.
    u64 zeros;
    u64 non_finite;
    u64 bins[BINS];
};

// One block's share of a tally; a block sees fewer than 2^32 values.
struct BlockTally {
    u32 overflow;
    u32 underflow;
    u32 subnormal;
    u32 nan;
    u32 zeros;
    u32 non_finite;
    u32 bins[BINS];
};

constexpr u32 COUNTERS = sizeof(BlockTally) / sizeof(u32);

// Counts the exponent of a value before rounding.
__device__ inline void count_exponent(BlockTally& tally, float value) {
    const u32 magnitude = (u32)(__float_as_int(value) & MAGNITUDE_BITS);
    const u32 field = magnitude >> 23;
    if (magnitude == 0) {
        atomicAdd(&tally.zeros, 1u);
    } else if (field == 255) {
        atomicAdd(&tally.non_finite, 1u);
    } else {
        const u32 bin = field > 0 ? SUBNORMAL_BINS + field - 1 : 31 - __clz((i32)magnitude);
        atomicAdd(&tally.bins[bin], 1u);
    }
}

// Counts what rounding did to a value. One that was infinite before is no overflow; a finite one that became NaN counts as
// both, where the format answers overflow with NaN; one that was held at the largest value, where it saturates, has overflowed.
__device__ inline void count_rounding(BlockTally& tally, const Rounder& rounder, float before, float after) {
    const float magnitude = fabsf(after);
    if (rounder.overflows(before)) {
        atomicAdd(&tally.overflow, 1u);
    }
    if (before != 0.0f && magnitude == 0.0f) {
        atomicAdd(&tally.underflow, 1u);
    }
    if (magnitude > 0.0f && magnitude < __int_as_float(rounder.min_normal)) {
        atomicAdd(&tally.subnormal, 1u);
    }
    if (is_nan(after)) {
        atomicAdd(&tally.nan, 1u);
    }
}

// Lets `count_value` count each value into the block's own tally, and adds that to the whole one.
template <class F>
__device__ void tally_values(u64 count, Tally* tally, F count_value) {
    __shared__ BlockTally shared;
    u32* counters = reinterpret_cast<u32*>(&shared);
    for (u32 i = threadIdx.x; i < COUNTERS; i += blockDim.x) {
        counters[i] = 0;
    }
    __syncthreads();
    for (u64 i = first_index(); i < count; i += index_step()) {
        count_value(shared, i);
    }
    __syncthreads();
    // Both structures hold the same counters in the same order, but for `elements`.
    u64* totals = &tally->overflow;
    for (u32 i = threadIdx.x; i < COUNTERS; i += blockDim.x) {
        if (counters[i] > 0) {
            atomicAdd(&totals[i], (u64)counters[i]);
        }
    }
    if (first_index() == 0) {
        atomicAdd(&tally->elements, count);
    }
}

// values = values rounded, and what that did is added to *tally. One-dimensional, any geometry.
extern "C" __global__ void round_census(float* values, u64 count, Rounder rounder, Tally* tally) {
    tally_values(count, tally, [&](BlockTally& shared, u64 i) {
        const float before = values[i];
        const float after = rounder.round(before);
        count_exponent(shared, before);
        count_rounding(shared, rounder, before, after);
        values[i] = after;
    });
}

// Adds to *tally the number of values, of NaNs, and the exponents, of what is not rounded. One-dimensional, any geometry.
extern "C" __global__ void observe_census(const float* values, u64 count, Tally* tally) {
    tally_values(count, tally, [&](BlockTally& shared, u64 i) {
        count_exponent(shared, values[i]);
        if (is_nan(values[i])) {
            atomicAdd(&shared.nan, 1u);
        }
    });
}
