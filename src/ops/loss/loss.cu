// Softmax cross-entropy, mean squared error and what belongs to them. Everything is in f32.
//
// logits are rows × classes; labels are below classes, which the caller has checked. A row is worked on by one block at a time:
// blocks of a power of two of threads, whose number sets the order of the sums; any number of blocks.
#include "common.cuh"

// What the loss and the gradient of one row need; the same in every thread of the block.
struct Softmax {
    float largest;
    float total;
    // −log of the softmax at the label, smoothed.
    float loss;
};

template <class T>
__device__ Softmax softmax(const T* logits, u32 classes, u32 label, float smoothing) {
    float part = -infinity();
    for (u32 i = threadIdx.x; i < classes; i += blockDim.x) {
        part = fmaxf(part, widen(logits[i]));
    }
    const float largest = block_max(part);
    float distances = 0.0f;
    float exponentials = 0.0f;
    for (u32 i = threadIdx.x; i < classes; i += blockDim.x) {
        const float distance = widen(logits[i]) - largest;
        distances += distance;
        exponentials += expf(distance);
    }
    const float mean = block_sum(distances) / (float)classes;
    const float total = block_sum(exponentials);
    const float log_total = logf(total);
    const float plain = log_total - (widen(logits[label]) - largest);
    // Where the labels are not smoothed an infinite logit elsewhere must not make 0 · ∞.
    const float smoothed = (1.0f - smoothing) * plain + smoothing * (log_total - mean);
    return {largest, total, smoothing == 0.0f ? plain : smoothed};
}

template <class T>
__device__ void cross_entropy(
    const T* logits, const u32* labels, T* gradient, float* losses, u32 rows, u32 classes, float smoothing,
    const float* scale, u32 micro_batches) {
    const float factor = *scale / (float)micro_batches / (float)rows;
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* x = logits + row * classes;
        const u32 label = labels[row];
        const Softmax result = softmax(x, classes, label, smoothing);
        if (threadIdx.x == 0) {
            losses[row] = result.loss;
        }
        for (u32 i = threadIdx.x; i < classes; i += blockDim.x) {
            const float probability = expf(widen(x[i]) - result.largest) / result.total;
            const float rest = i == label ? probability - (1.0f - smoothing) : probability;
            gradient[row * classes + i] = narrow<T>((rest - smoothing / (float)classes) * factor);
        }
    }
}

// losses: the loss of each row. gradient: of the mean loss over rows, times *scale / micro_batches in f32, rounded once; the
// loss scale is read on the device, as StepControl's first field.
#define CROSS_ENTROPY(suffix, T)                                                                   \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) cross_entropy_##suffix(              \
        const T* logits, const u32* labels, T* gradient, float* losses,                            \
        u32 rows, u32 classes, float smoothing, const float* scale, u32 micro_batches) {           \
        cross_entropy(                                                                             \
            logits, labels, gradient, losses, rows, classes, smoothing, scale, micro_batches);     \
    }
FOR_EACH_STORAGE(CROSS_ENTROPY)

// losses: the loss of each row, labels not smoothed, without a gradient: for evaluation.
#define CROSS_ENTROPY_LOSS(suffix, T)                                                              \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) cross_entropy_loss_##suffix(         \
        const T* logits, const u32* labels, float* losses, u32 rows, u32 classes) {                \
        for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {                                 \
            const Softmax result = softmax(logits + row * classes, classes, labels[row], 0.0f);    \
            if (threadIdx.x == 0) {                                                                \
                losses[row] = result.loss;                                                         \
            }                                                                                      \
        }                                                                                          \
    }
FOR_EACH_STORAGE(CROSS_ENTROPY_LOSS)

// The mean squared difference of a row from its targets; the same in every thread of the block.
template <class T>
__device__ float row_error(const T* outputs, const float* targets, u32 each) {
    float part = 0.0f;
    for (u32 i = threadIdx.x; i < each; i += blockDim.x) {
        const float difference = widen(outputs[i]) - targets[i];
        part += difference * difference;
    }
    return block_sum(part) / (float)each;
}

template <class T>
__device__ void squared_error(
    const T* outputs, const float* targets, T* gradient, float* losses, u32 rows, u32 each, const float* scale,
    u32 micro_batches) {
    const float factor = *scale / (float)micro_batches / (float)rows;
    const float share = 2.0f / (float)each;
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const u64 first = row * each;
        const float loss = row_error(outputs + first, targets + first, each);
        if (threadIdx.x == 0) {
            losses[row] = loss;
        }
        for (u32 i = threadIdx.x; i < each; i += blockDim.x) {
            gradient[first + i] = narrow<T>((widen(outputs[first + i]) - targets[first + i]) * share * factor);
        }
    }
}

// As cross_entropy, of outputs and targets of rows × each.
#define SQUARED_ERROR(suffix, T)                                                                   \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) squared_error_##suffix(              \
        const T* outputs, const float* targets, T* gradient, float* losses,                        \
        u32 rows, u32 each, const float* scale, u32 micro_batches) {                               \
        squared_error(outputs, targets, gradient, losses, rows, each, scale, micro_batches);       \
    }
FOR_EACH_STORAGE(SQUARED_ERROR)

// losses: the mean squared error of each row, without a gradient: for evaluation.
#define SQUARED_ERROR_LOSS(suffix, T)                                                              \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) squared_error_loss_##suffix(         \
        const T* outputs, const float* targets, float* losses, u32 rows, u32 each) {               \
        for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {                                 \
            const float loss = row_error(outputs + row * each, targets + row * each, each);        \
            if (threadIdx.x == 0) {                                                                \
                losses[row] = loss;                                                                \
            }                                                                                      \
        }                                                                                          \
    }
FOR_EACH_STORAGE(SQUARED_ERROR_LOSS)

// *loss = mean of the losses / micro_batches for the first micro-batch, and that much more for the others. One block of a power
// of two of threads.
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
    mean_loss(const float* losses, u32 rows, u32 micro_batches, u32 is_first, float* loss) {
    float part = 0.0f;
    for (u32 row = threadIdx.x; row < rows; row += blockDim.x) {
        part += losses[row];
    }
    const float total = block_sum(part);
    if (threadIdx.x == 0) {
        const float share = total / (float)rows / (float)micro_batches;
        *loss = is_first ? share : *loss + share;
    }
}

// *correct += the number of rows whose largest logit is at the label; on a tie the first class wins, and a row with a NaN is not
// correct.
#define COUNT_CORRECT(suffix, T)                                                                   \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) count_correct_##suffix(              \
        const T* logits, const u32* labels, u32 rows, u32 classes, u64* correct) {                 \
        for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {                                 \
            const T* x = logits + row * classes;                                                   \
            const float target = widen(x[labels[row]]);                                            \
            u32 better = 0;                                                                        \
            for (u32 i = threadIdx.x; i < classes; i += blockDim.x) {                              \
                const float value = widen(x[i]);                                                   \
                /* Written so that a NaN on either side is better. */                              \
                better += i < labels[row] ? !(value < target) : !(value <= target);                \
            }                                                                                      \
            const u32 found = block_sum(better);                                                   \
            if (threadIdx.x == 0 && found == 0) {                                                  \
                atomicAdd(correct, (u64)1);                                                        \
            }                                                                                      \
        }                                                                                          \
    }
FOR_EACH_STORAGE(COUNT_CORRECT)
