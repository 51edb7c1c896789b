// Batch norm over N, H and W, with statistics in f32 whatever the storage type. And sums over channels.
//
// Tensors are images × channels × plane; images × plane is below 2³². Kernels that sum over a channel give it one block at a
// time: blocks of a power of two of threads, whose number sets the order of the sum; any number of blocks.
#include "common.cuh"

// Added to the variance.
constexpr float EPSILON = 1e-5f;

// Σ f(i) over the indices i of one channel's values in an images × channels × plane tensor, for all threads of the block.
template <class F>
__device__ float channel_sum(u32 images, u32 channels, u32 plane, u32 channel, F f) {
    const u32 count = images * plane;
    float part = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        part += f(((u64)(i / plane) * channels + channel) * plane + i % plane);
    }
    return block_sum(part);
}

template <class T>
__device__ void batch_norm_statistics(
    const T* x, float* mean, float* variance, float* inverse_deviation, u32 images, u32 channels, u32 plane) {
    const float count = (float)((u64)images * plane);
    for (u32 channel = blockIdx.x; channel < channels; channel += gridDim.x) {
        const float total = channel_sum(images, channels, plane, channel, [&](u64 i) { return widen(x[i]); });
        const float centre = total / count;
        const float squares = channel_sum(images, channels, plane, channel, [&](u64 i) {
            const float distance = widen(x[i]) - centre;
            return distance * distance;
        });
        if (threadIdx.x == 0) {
            mean[channel] = centre;
            variance[channel] = squares / count;
            inverse_deviation[channel] = 1.0f / sqrtf(squares / count + EPSILON);
        }
    }
}

// mean, variance (biased) and 1 / √(variance + ε) of each channel, in two passes.
#define BATCH_NORM_STATISTICS(suffix, T)                                                           \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) batch_norm_statistics_##suffix(      \
        const T* x, float* mean, float* variance, float* inverse_deviation,                        \
        u32 images, u32 channels, u32 plane) {                                                     \
        batch_norm_statistics(x, mean, variance, inverse_deviation, images, channels, plane);      \
    }
FOR_EACH_STORAGE(BATCH_NORM_STATISTICS)

// Takes a batch's statistics into the running ones: r ← r + momentum (new − r). The variance that is taken in is the unbiased
// one, `variance` times `unbiased` = n / (n − 1). Nothing where *applied is 0: the step was rejected. One-dimensional, any geometry.
extern "C" __global__ void running_statistics(
    float* running_mean, float* running_variance, const float* mean, const float* variance,
    u32 channels, float momentum, float unbiased, const u32* applied) {
    if (*applied == 0) {
        return;
    }
    for (u64 i = first_index(); i < channels; i += index_step()) {
        running_mean[i] += momentum * (mean[i] - running_mean[i]);
        running_variance[i] += momentum * (variance[i] * unbiased - running_variance[i]);
    }
}

template <class T>
__device__ void batch_norm(
    const T* x, T* y, const float* mean, const float* variance, const T* gamma, const T* beta,
    u32 images, u32 channels, u32 plane) {
    for_each_in_planes((u64)images * channels, plane, [&](u64 index, auto each) {
        const u32 channel = (u32)(index % channels);
        const float centre = mean[channel];
        const float factor = widen(gamma[channel]) / sqrtf(variance[channel] + EPSILON);
        const float shift = widen(beta[channel]);
        each([&](u32 i) {
            y[index * plane + i] = narrow<T>((widen(x[index * plane + i]) - centre) * factor + shift);
        });
    });
}

// y = (x − mean) gamma / √(variance + ε) + beta, rounded once; with the batch's statistics or the running ones.
// Geometry of for_each_in_planes, over images × channels.
#define BATCH_NORM(suffix, T)                                                                      \
    extern "C" __global__ void batch_norm_##suffix(                                                \
        const T* x, T* y, const float* mean, const float* variance, const T* gamma, const T* beta, \
        u32 images, u32 channels, u32 plane) {                                                     \
        batch_norm(x, y, mean, variance, gamma, beta, images, channels, plane);                    \
    }
FOR_EACH_STORAGE(BATCH_NORM)

template <class T>
__device__ void batch_norm_gradient_sums(
    const T* dy, const T* x, const float* mean, const float* inverse_deviation, float* plain, float* weighted,
    T* dgamma, T* dbeta, u32 images, u32 channels, u32 plane) {
    for (u32 channel = blockIdx.x; channel < channels; channel += gridDim.x) {
        const float centre = mean[channel];
        const float inverse = inverse_deviation[channel];
        const float sum = channel_sum(images, channels, plane, channel, [&](u64 i) { return widen(dy[i]); });
        const float product_sum = channel_sum(images, channels, plane, channel, [&](u64 i) {
            return widen(dy[i]) * (widen(x[i]) - centre) * inverse;
        });
        if (threadIdx.x == 0) {
            plain[channel] = sum;
            weighted[channel] = product_sum;
            dgamma[channel] = narrow<T>(product_sum);
            dbeta[channel] = narrow<T>(sum);
        }
    }
}

// plain = Σ dy and weighted = Σ dy x̂ of each channel in f32, and the same rounded: the gradients of beta and gamma.
#define BATCH_NORM_GRADIENT_SUMS(suffix, T)                                                        \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) batch_norm_gradient_sums_##suffix(   \
        const T* dy, const T* x, const float* mean, const float* inverse_deviation,                \
        float* plain, float* weighted, T* dgamma, T* dbeta, u32 images, u32 channels, u32 plane) { \
        batch_norm_gradient_sums(                                                                  \
            dy, x, mean, inverse_deviation, plain, weighted, dgamma, dbeta, images, channels, plane); \
    }
FOR_EACH_STORAGE(BATCH_NORM_GRADIENT_SUMS)

template <class T>
__device__ void batch_norm_backward(
    const T* dy, const T* x, T* dx, const float* mean, const float* inverse_deviation, const T* gamma,
    const float* plain, const float* weighted, u32 images, u32 channels, u32 plane) {
    const float count = (float)((u64)images * plane);
    for_each_in_planes((u64)images * channels, plane, [&](u64 index, auto each) {
        const u32 channel = (u32)(index % channels);
        const float centre = mean[channel];
        const float inverse = inverse_deviation[channel];
        const float mean_gradient = plain[channel] / count;
        const float mean_product = weighted[channel] / count;
        const float factor = widen(gamma[channel]) * inverse;
        each([&](u32 i) {
            const float normal = (widen(x[index * plane + i]) - centre) * inverse;
            const float gradient = widen(dy[index * plane + i]) - mean_gradient - normal * mean_product;
            dx[index * plane + i] = narrow<T>(factor * gradient);
        });
    });
}

// dx = gamma / √(variance + ε) (dy − mean(dy) − x̂ mean(dy x̂)), from the sums of batch_norm_gradient_sums.
// Geometry of for_each_in_planes, over images × channels.
#define BATCH_NORM_BACKWARD(suffix, T)                                                             \
    extern "C" __global__ void batch_norm_backward_##suffix(                                       \
        const T* dy, const T* x, T* dx, const float* mean, const float* inverse_deviation,         \
        const T* gamma, const float* plain, const float* weighted,                                 \
        u32 images, u32 channels, u32 plane) {                                                     \
        batch_norm_backward(                                                                       \
            dy, x, dx, mean, inverse_deviation, gamma, plain, weighted, images, channels, plane);  \
    }
FOR_EACH_STORAGE(BATCH_NORM_BACKWARD)

// sums: over images and plane of each channel of dy, in f32, rounded once: the bias gradient of a convolution.
#define CHANNEL_SUMS(suffix, T)                                                                    \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS)                                      \
        channel_sums_##suffix(const T* dy, T* sums, u32 images, u32 channels, u32 plane) {         \
        for (u32 channel = blockIdx.x; channel < channels; channel += gridDim.x) {                 \
            const float sum =                                                                      \
                channel_sum(images, channels, plane, channel, [&](u64 i) { return widen(dy[i]); }); \
            if (threadIdx.x == 0) {                                                                \
                sums[channel] = narrow<T>(sum);                                                    \
            }                                                                                      \
        }                                                                                          \
    }
FOR_EACH_STORAGE(CHANNEL_SUMS)
