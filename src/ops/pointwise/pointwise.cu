// Element-wise operations, in one pass each.
//
// Kernels that take a count: one-dimensional, any number of blocks and threads; a thread works on four values at a time.
#include "common.cuh"

// y = max(x, 0); a NaN stays one.
#define RELU(suffix, T)                                                                            \
    extern "C" __global__ void relu_##suffix(const T* x, T* y, u64 count) {                        \
        map(x, y, count, [](float x) { return x <= 0.0f ? 0.0f : x; });                            \
    }
FOR_EACH_STORAGE(RELU)

// dx = dy where the result y of relu is not 0, 0 elsewhere.
#define RELU_BACKWARD(suffix, T)                                                                   \
    extern "C" __global__ void relu_backward_##suffix(const T* dy, const T* y, T* dx, u64 count) { \
        zip(dy, y, dx, count, [](float dy, float y) { return y <= 0.0f ? 0.0f : dy; });            \
    }
FOR_EACH_STORAGE(RELU_BACKWARD)

// The distribution function of the standard normal, by erfc so that the lower tail keeps its digits.
__device__ inline float normal_cdf(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }

// y = x Φ(x). The device's erfcf is not the CPU's: equal within some units of f32, not bit by bit.
#define GELU(suffix, T)                                                                            \
    extern "C" __global__ void gelu_##suffix(const T* x, T* y, u64 count) {                        \
        map(x, y, count, [](float x) { return x * normal_cdf(x); });                               \
    }
FOR_EACH_STORAGE(GELU)

__device__ inline float gelu_gradient(float dy, float x) {
    const float density = expf(-0.5f * x * x) * 0.39894228040143268f;
    const float slope = fabsf(x) == infinity() ? 0.0f : x * density;
    return dy * (normal_cdf(x) + slope);
}

// dx = dy (Φ(x) + x φ(x)); x is gelu's argument.
#define GELU_BACKWARD(suffix, T)                                                                   \
    extern "C" __global__ void gelu_backward_##suffix(const T* dy, const T* x, T* dx, u64 count) { \
        zip(dy, x, dx, count, gelu_gradient);                                                      \
    }
FOR_EACH_STORAGE(GELU_BACKWARD)

// 1 / (1 + e⁻ˣ), and 1 less that; neither is a difference, so that both keep their digits.
struct Sigmoids {
    float share;
    float rest;
};

__device__ inline Sigmoids sigmoids(float x) {
    const float smaller = expf(-fabsf(x));
    const float low = smaller / (1.0f + smaller);
    const float high = 1.0f / (1.0f + smaller);
    return x < 0.0f ? Sigmoids{low, high} : Sigmoids{high, low};
}

__device__ inline float silu(float x) { return x * sigmoids(x).share; }

__device__ inline float silu_slope(float x) {
    const Sigmoids s = sigmoids(x);
    return s.share + (fabsf(x) == infinity() ? 0.0f : x * s.share * s.rest);
}

// Twice the argument of the tanh that approximates x Φ(x), and its derivative.
__device__ inline float tanh_argument(float x) { return 1.59576912160573071f * (x + 0.044715f * x * x * x); }
__device__ inline float tanh_slope(float x) { return 1.59576912160573071f * (1.0f + 3.0f * 0.044715f * x * x); }

// y = x σ(2u), u = √(2/π) (x + 0.044715 x³): gelu by its approximation with tanh.
#define GELU_TANH(suffix, T)                                                                       \
    extern "C" __global__ void gelu_tanh_##suffix(const T* x, T* y, u64 count) {                   \
        map(x, y, count, [](float x) { return x * sigmoids(tanh_argument(x)).share; });            \
    }
FOR_EACH_STORAGE(GELU_TANH)

// Far out the slope may be infinite where the rest is 0.
__device__ inline float gelu_tanh_gradient(float dy, float x) {
    const Sigmoids s = sigmoids(tanh_argument(x));
    const float steep = s.share * s.rest;
    return dy * (s.share + (steep == 0.0f ? 0.0f : x * steep * tanh_slope(x)));
}

// dx = dy (σ + x σ (1 − σ) 2u'); x is the argument of gelu_tanh.
#define GELU_TANH_BACKWARD(suffix, T)                                                              \
    extern "C" __global__ void gelu_tanh_backward_##suffix(                                        \
        const T* dy, const T* x, T* dx, u64 count) {                                               \
        zip(dy, x, dx, count, gelu_tanh_gradient);                                                 \
    }
FOR_EACH_STORAGE(GELU_TANH_BACKWARD)

// y = tanh(x). The device's tanhf is not the CPU's: equal within some units of f32.
#define TANH(suffix, T)                                                                            \
    extern "C" __global__ void tanh_##suffix(const T* x, T* y, u64 count) {                        \
        map(x, y, count, [](float x) { return tanhf(x); });                                        \
    }
FOR_EACH_STORAGE(TANH)

// dx = dy (1 − y) (1 + y); y is the result of tanh.
#define TANH_BACKWARD(suffix, T)                                                                   \
    extern "C" __global__ void tanh_backward_##suffix(const T* dy, const T* y, T* dx, u64 count) { \
        zip(dy, y, dx, count, [](float dy, float y) { return dy * ((1.0f - y) * (1.0f + y)); });   \
    }
FOR_EACH_STORAGE(TANH_BACKWARD)

// y = silu(gate) up, with silu(x) = x / (1 + e⁻ˣ). The device's expf is not the CPU's: equal within some units of f32.
#define SWIGLU(suffix, T)                                                                          \
    extern "C" __global__ void swiglu_##suffix(const T* gate, const T* up, T* y, u64 count) {      \
        zip(gate, up, y, count, [](float gate, float up) { return silu(gate) * up; });             \
    }
FOR_EACH_STORAGE(SWIGLU)

// dgate = dy up silu'(gate) and dup = dy silu(gate). One-dimensional, any geometry.
#define SWIGLU_BACKWARD(suffix, T)                                                                 \
    extern "C" __global__ void swiglu_backward_##suffix(                                           \
        const T* dy, const T* gate, const T* up, T* dgate, T* dup, u64 count) {                    \
        for (u64 i = first_index(); i < count; i += index_step()) {                                \
            const float slope = silu_slope(widen(gate[i]));                                        \
            dgate[i] = narrow<T>(widen(dy[i]) * widen(up[i]) * slope);                             \
            dup[i] = narrow<T>(widen(dy[i]) * silu(widen(gate[i])));                               \
        }                                                                                          \
    }
FOR_EACH_STORAGE(SWIGLU_BACKWARD)

template <class T>
__device__ void dropout(const T* x, T* y, u64 count, u64 keep_from, float scale, u64 seed, u32 stream, u32 step) {
    const bool whole = holds_quads(x) && holds_quads(y);
    for (u64 quad = first_index(); quad * 4 < count; quad += index_step()) {
        const Words words = philox4x32(quad, step, stream, seed);
        const auto drop = [&](T value, int i) {
            return narrow<T>(words.word[i] >= keep_from ? widen(value) * scale : 0.0f);
        };
        if (whole && quad * 4 + 4 <= count) {
            Quad<T> values = reinterpret_cast<const Quad<T>*>(x)[quad];
            for (int i = 0; i < 4; ++i) {
                values.values[i] = drop(values.values[i], i);
            }
            reinterpret_cast<Quad<T>*>(y)[quad] = values;
        } else {
            for (int i = 0; i < 4 && quad * 4 + i < count; ++i) {
                y[quad * 4 + i] = drop(x[quad * 4 + i], i);
            }
        }
    }
}

// Keeps a value, times `scale`, where its random word is at least `keep_from`; else 0. The CPU's: keep_from is ⌊p 2³²⌋ and
// scale is 1 / (1 − p) in f32; *pass is the number of the forward pass, read here so that a recorded step sees it. Value i takes
// word i mod 4 of Philox block i / 4. The gradient is the same operation on dy.
#define DROPOUT(suffix, T)                                                                         \
    extern "C" __global__ void dropout_##suffix(                                                   \
        const T* x, T* y, u64 count, u64 keep_from, float scale, u64 seed, u32 stream,             \
        const u32* pass) {                                                                         \
        dropout(x, y, count, keep_from, scale, seed, stream, *pass);                               \
    }
FOR_EACH_STORAGE(DROPOUT)

// The number of the next forward pass. One thread does it.
extern "C" __global__ void next_pass(u32* pass) {
    if (first_index() == 0) {
        *pass += 1;
    }
}

// y = a + b.
#define ADD(suffix, T)                                                                             \
    extern "C" __global__ void add_##suffix(const T* a, const T* b, T* y, u64 count) {             \
        zip(a, b, y, count, [](float a, float b) { return a + b; });                               \
    }
FOR_EACH_STORAGE(ADD)

// sum += gradient, in f32: what several micro-batches or ranges of images add up to.
#define ACCUMULATE(suffix, T)                                                                      \
    extern "C" __global__ void accumulate_##suffix(float* sum, const T* gradient, u64 count) {     \
        zip(sum, gradient, sum, count, [](float sum, float gradient) { return sum + gradient; });  \
    }
FOR_EACH_STORAGE(ACCUMULATE)
