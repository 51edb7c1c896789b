// What the CUDA kernels share: storage types, rounding, random bits, loops over a grid, sums of a block.
//
// Each kernel keeps the arithmetic contract of the CPU code in the same folder: operands widened to f32, products
// and sums in f32, one rounding to nearest even as a result is stored, subnormals kept. Where a result depends on the order of
// a sum, that order is fixed: no kernel adds floats atomically, and none lets the order depend on the size of the grid.
//
// Compile with --fmad=false and without --use_fast_math. A fused multiply-add rounds once where the CPU rounds twice, and
// flushed subnormals or approximate division would break equality with the CPU, which the tests ask for bit by bit.
//
// Sizes: a count of values is u64; a count of rows, channels, images or values of one plane is u32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef unsigned char u8;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;

// Most threads of a block that sums.
constexpr u32 MAX_THREADS = 1024;

// Defines an entry point for each storage type.
#define FOR_EACH_STORAGE(ENTRY) \
    ENTRY(f32, float)           \
    ENTRY(f16, __half)          \
    ENTRY(bf16, __nv_bfloat16)

// The value as f32, exactly.
__device__ inline float widen(float value) { return value; }
__device__ inline float widen(__half value) { return __half2float(value); }
__device__ inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

// The value rounded once to the storage type: to nearest even, subnormals kept, to infinity past the largest.
template <class T>
__device__ inline T narrow(float value);
template <>
__device__ inline float narrow<float>(float value) {
    return value;
}
template <>
__device__ inline __half narrow<__half>(float value) {
    return __float2half_rn(value);
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
    return __float2bfloat16_rn(value);
}

__device__ inline bool is_nan(float value) { return value != value; }

constexpr i32 MAGNITUDE_BITS = 0x7fffffff;
constexpr i32 INFINITY_BITS = 0x7f800000;
constexpr i32 NAN_BITS = 0x7fc00000;

__device__ inline float infinity() { return __int_as_float(INFINITY_BITS); }

// A format prepared for rounding, with the fields of precision::Rounder in their order.
struct Rounder {
    u32 dropped_bits;
    i32 below_half;
    i32 parity;
    i32 kept;
    float subnormal_shift;
    i32 min_normal;
    i32 max_finite;
    i32 overflow;

    __device__ float round(float value) const {
        const i32 bits = __float_as_int(value);
        const i32 rounded = unbounded(value);
        const i32 bounded = rounded > max_finite ? overflow : rounded;
        const i32 result = (bits & MAGNITUDE_BITS) > INFINITY_BITS ? NAN_BITS : bounded;
        return __int_as_float(result | (bits & ~MAGNITUDE_BITS));
    }

    // Whether a value is finite, and rounds past the largest finite value: to infinity or NaN, or, saturated, to that value.
    __device__ bool overflows(float value) const {
        return (__float_as_int(value) & MAGNITUDE_BITS) < INFINITY_BITS && unbounded(value) > max_finite;
    }

    // The magnitude rounded as if the exponent had no end; of a NaN, anything.
    __device__ i32 unbounded(float value) const {
        const i32 magnitude = __float_as_int(value) & MAGNITUDE_BITS;
        const i32 odd = (magnitude >> dropped_bits) & parity;
        // Unsigned, because the sum may pass the largest i32 where the value is a NaN.
        const i32 normal = (i32)((u32)magnitude + (u32)(below_half + odd)) & kept;
        const float subnormal = (fabsf(value) + subnormal_shift) - subnormal_shift;
        return magnitude < min_normal ? __float_as_int(subnormal) : normal;
    }
};

// Four random words of Philox 4x32-10 (Salmon et al. 2011).
struct Words {
    u32 word[4];
};

__device__ inline Words philox4x32(u64 block, u32 step, u32 stream, u64 seed) {
    u32 counter[4] = {(u32)block, (u32)(block >> 32), step, stream};
    u32 key[2] = {(u32)seed, (u32)(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        const u64 first = (u64)counter[0] * 0xD2511F53u;
        const u64 second = (u64)counter[2] * 0xCD9E8D57u;
        const u32 next[4] = {
            (u32)(second >> 32) ^ counter[1] ^ key[0],
            (u32)second,
            (u32)(first >> 32) ^ counter[3] ^ key[1],
            (u32)first,
        };
        for (int i = 0; i < 4; ++i) {
            counter[i] = next[i];
        }
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return {{counter[0], counter[1], counter[2], counter[3]}};
}

// The first index of this thread in a loop over all values, and the step of that loop: any one-dimensional grid will do.
__device__ inline u64 first_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline u64 index_step() { return (u64)gridDim.x * blockDim.x; }

// Four neighbouring values that are read and written at once where they are aligned to their size.
template <class T>
struct alignas(4 * sizeof(T)) Quad {
    T values[4];
};

template <class T>
__device__ inline bool holds_quads(const T* values) {
    return (size_t)values % sizeof(Quad<T>) == 0;
}

// y[i] = f(x[i]), rounded once. x and y may be the same.
template <class S, class T, class F>
__device__ inline void map(const S* x, T* y, u64 count, F f) {
    const u64 quads = holds_quads(x) && holds_quads(y) ? count / 4 : 0;
    for (u64 quad = first_index(); quad < quads; quad += index_step()) {
        const Quad<S> from = reinterpret_cast<const Quad<S>*>(x)[quad];
        Quad<T> to;
        for (int i = 0; i < 4; ++i) {
            to.values[i] = narrow<T>(f(widen(from.values[i])));
        }
        reinterpret_cast<Quad<T>*>(y)[quad] = to;
    }
    for (u64 i = quads * 4 + first_index(); i < count; i += index_step()) {
        y[i] = narrow<T>(f(widen(x[i])));
    }
}

// y[i] = f(a[i], b[i]), rounded once. y may be a or b.
template <class S, class R, class T, class F>
__device__ inline void zip(const S* a, const R* b, T* y, u64 count, F f) {
    const bool whole = holds_quads(a) && holds_quads(b) && holds_quads(y);
    const u64 quads = whole ? count / 4 : 0;
    for (u64 quad = first_index(); quad < quads; quad += index_step()) {
        const Quad<S> left = reinterpret_cast<const Quad<S>*>(a)[quad];
        const Quad<R> right = reinterpret_cast<const Quad<R>*>(b)[quad];
        Quad<T> to;
        for (int i = 0; i < 4; ++i) {
            to.values[i] = narrow<T>(f(widen(left.values[i]), widen(right.values[i])));
        }
        reinterpret_cast<Quad<T>*>(y)[quad] = to;
    }
    for (u64 i = quads * 4 + first_index(); i < count; i += index_step()) {
        y[i] = narrow<T>(f(widen(a[i]), widen(b[i])));
    }
}

// Calls work(plane, i) for each value i of each plane. The threads of one threadIdx.y work on one plane at a time, so that
// what belongs to the plane is read or computed once for many values. Any block shape, any grid along x.
template <class F>
__device__ inline void for_each_in_planes(u64 planes, u32 size, F work) {
    const u64 step = (u64)gridDim.x * blockDim.y;
    for (u64 plane = (u64)blockIdx.x * blockDim.y + threadIdx.y; plane < planes; plane += step) {
        work(plane, [size](auto each) {
            for (u32 i = threadIdx.x; i < size; i += blockDim.x) {
                each(i);
            }
        });
    }
}

// The sum over the threads of a one-dimensional block, in pairs, for all of them. blockDim.x is a power of two.
template <class V>
__device__ inline V block_sum(V value) {
    __shared__ V partial[MAX_THREADS];
    partial[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            partial[threadIdx.x] += partial[threadIdx.x + half];
        }
        __syncthreads();
    }
    const V total = partial[0];
    // The next sum writes where slower threads still read.
    __syncthreads();
    return total;
}

// The largest value of a block, NaNs left out; as block_sum.
__device__ inline float block_max(float value) {
    __shared__ float partial[MAX_THREADS];
    partial[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            partial[threadIdx.x] = fmaxf(partial[threadIdx.x], partial[threadIdx.x + half]);
        }
        __syncthreads();
    }
    const float largest = partial[0];
    __syncthreads();
    return largest;
}

// The smallest value of a block; as block_sum.
__device__ inline u32 block_min(u32 value) {
    __shared__ u32 partial[MAX_THREADS];
    partial[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half && partial[threadIdx.x + half] < partial[threadIdx.x]) {
            partial[threadIdx.x] = partial[threadIdx.x + half];
        }
        __syncthreads();
    }
    const u32 smallest = partial[0];
    __syncthreads();
    return smallest;
}

// The end of a product with an f32 result: bias (none where it is null) added in f32, one rounding.
template <class T>
__device__ inline T finish_product(float sum, const T* bias) {
    return narrow<T>(bias ? sum + widen(*bias) : sum);
}
