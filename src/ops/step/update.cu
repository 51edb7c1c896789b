// The end of a step for all parameters at once, without a word from the host: the CPU has update.rs and precision::LossScale.
//
//   inspect   one launch over all weight gradients: counts and squares of each piece
//   advance   one block: sums, is everything finite, the clip factor, the next loss scale, this step's learning rate
//   update    one launch over all parameters, which does nothing where the step is skipped
//
// Parameters are cut in pieces of PIECE values. `shapes` has a Shape for each parameter and `owners` the parameter of each piece;
// both stay the same for a run. `gradients` has a pointer for each parameter, all of one storage type. Sums are in the order of
// the CPU: sixteen partial sums for each SUM_BLOCK values in f32, then f64; in f64 from the start where f32 does not hold the squares.
#include "common.cuh"

constexpr u32 PIECE = 16 * 1024;
constexpr u32 SUM_BLOCK = 1024;
constexpr u32 LANES = 16;
// A sum of squares below this may have lost squares that are too small for f32: 2^-100.
constexpr float LEAST_SQUARES = 0x1p-100f;
// Threads of a block of inspect: one for each partial sum of a piece.
constexpr u32 INSPECT_THREADS = PIECE / SUM_BLOCK * LANES;

// A parameter's number of values, and its first piece. #[repr(C)]
struct Shape {
    u64 length;
    u64 first_piece;
};

// What inspect finds in one piece. #[repr(C)]
struct PieceSummary {
    double squares;
    u32 zero;
    u32 subnormal;
    u32 infinite;
    u32 nan;
};

// What advance finds in one parameter. #[repr(C)]
struct ParameterSummary {
    double squares;
    u64 zero;
    u64 subnormal;
    u64 infinite;
    u64 nan;
};

// The state of a run between its steps. #[repr(C)]; `scale` is first, so that a pointer to this is one to the loss scale.
struct StepControl {
    // S: what the next loss gradient is multiplied by.
    float scale;
    // Of the last step: 1 / S of its gradients, the factor of clipping, and what was in `rates` for it.
    float unscale;
    float clip;
    float learning_rate;
    float correction1;
    float correction2;
    // Whether the last step's update is made: 0 or 1. Not where its loss or a gradient is not finite, nor once the run is over.
    u32 apply;
    // Whether S changes: precision::DynamicScale, whose numbers follow.
    u32 dynamic;
    double growth;
    double backoff;
    // Largest norm of the unscaled gradients; infinite for no limit.
    double clip_norm;
    float floor;
    float ceiling;
    u32 interval;
    u32 finite_steps;
    // Steps in a row whose loss was not finite, and so many of them end a run under a dynamic scale.
    u32 non_finite_losses;
    u32 most_non_finite_losses;
    u64 steps;
    u64 updates;
    u64 skipped;
    // Steps done when the run ended; 0 while it goes on.
    u64 ended;
};

// Learning rate and bias corrections of one update; the corrections are for AdamW. #[repr(C)]
struct Rates {
    float learning_rate;
    float correction1;
    float correction2;
};

// What one step did. #[repr(C)]; step s is in place s modulo the number of places.
struct StepOutcome {
    double squares;
    u64 elements;
    u64 zero;
    u64 subnormal;
    u64 infinite;
    u64 nan;
    u64 lost;
    float loss;
    // S of this step's gradients.
    float scale;
    float clip;
    // The last parameter, which is the first of the backward pass, whose gradient is not finite; ~0 where all are.
    u32 blamed;
};

template <class T>
__device__ void inspect(
    const T* const* gradients, const Shape* shapes, const u32* owners, u32 pieces, float min_normal,
    const StepControl* control, PieceSummary* summaries) {
    __shared__ float lanes[INSPECT_THREADS];
    __shared__ double sums[PIECE / SUM_BLOCK];
    __shared__ u32 counts[4];
    const float unscale = 1.0f / control->scale;
    const u32 block = threadIdx.x / LANES;
    const u32 lane = threadIdx.x % LANES;
    for (u32 piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
        const u32 owner = owners[piece];
        const u64 start = (piece - shapes[owner].first_piece) * PIECE;
        const u64 left = shapes[owner].length - start;
        const u32 length = left < PIECE ? (u32)left : PIECE;
        const T* values = gradients[owner] + start;
        if (threadIdx.x < 4) {
            counts[threadIdx.x] = 0;
        }
        __syncthreads();

        u32 zero = 0, small = 0, infinite = 0, nan = 0;
        const auto square = [&](u32 i) {
            const float value = widen(values[i]);
            const float size = fabsf(value);
            zero += size == 0.0f;
            small += size < min_normal;
            infinite += size == infinity();
            nan += is_nan(size);
            return (value * unscale) * (value * unscale);
        };
        const u32 first = block * SUM_BLOCK;
        const u32 end = first + SUM_BLOCK < length ? first + SUM_BLOCK : length;
        const u32 whole = end > first ? (end - first) / LANES : 0;
        float part = 0.0f;
        for (u32 row = 0; row < whole; ++row) {
            part += square(first + row * LANES + lane);
        }
        // What does not fill the lanes is summed on its own, by one thread.
        float rest = 0.0f;
        if (lane == 0) {
            for (u32 i = first + whole * LANES; i < end; ++i) {
                rest += square(i);
            }
        }
        lanes[threadIdx.x] = part;
        __syncthreads();
        for (u32 half = LANES / 2; half > 0; half /= 2) {
            if (lane < half) {
                lanes[threadIdx.x] += lanes[threadIdx.x + half];
            }
            __syncthreads();
        }
        if (lane == 0) {
            const float total = rest + lanes[threadIdx.x];
            double squares = (double)total;
            if (!(total >= LEAST_SQUARES && total < infinity())) {
                squares = 0.0;
                for (u32 i = first; i < end; ++i) {
                    const double unscaled = (double)(widen(values[i]) * unscale);
                    squares += unscaled * unscaled;
                }
            }
            sums[block] = squares;
        }
        atomicAdd(&counts[0], zero);
        atomicAdd(&counts[1], small - zero);
        atomicAdd(&counts[2], infinite);
        atomicAdd(&counts[3], nan);
        __syncthreads();
        if (threadIdx.x == 0) {
            double squares = 0.0;
            for (u32 i = 0; i < PIECE / SUM_BLOCK; ++i) {
                squares += sums[i];
            }
            summaries[piece] = {squares, counts[0], counts[1], counts[2], counts[3]};
        }
        __syncthreads();
    }
}

// summaries: counts of each piece, of values as they are, and the sum of squares of values / S. min_normal is the smallest
// normal value of the format that gradients come out in. Blocks of 256 threads, a piece at a time; any number of blocks.
#define INSPECT(suffix, T)                                                                         \
    extern "C" __global__ void __launch_bounds__(INSPECT_THREADS) inspect_##suffix(                \
        const T* const* gradients, const Shape* shapes, const u32* owners, u32 pieces,             \
        float min_normal, const StepControl* control, PieceSummary* summaries) {                   \
        inspect(gradients, shapes, owners, pieces, min_normal, control, summaries);                \
    }
FOR_EACH_STORAGE(INSPECT)

// The loss scale after a step, as precision::LossScale::after: factors in f64, one rounding.
__device__ inline void advance_scale(StepControl* control, bool finite) {
    if (!control->dynamic) {
        return;
    }
    const double scale = (double)control->scale;
    control->finite_steps += 1;
    if (!finite) {
        control->scale = (float)(scale * control->backoff);
        control->finite_steps = 0;
    } else if (control->finite_steps >= control->interval) {
        control->scale = fminf((float)(scale * control->growth), control->ceiling);
        control->finite_steps = 0;
    }
}

// The part of advance that follows from the sums of all parameters.
__device__ inline void advance_control(
    StepControl* control, StepOutcome outcome, const Rates* rates, u64 rate_count, StepOutcome* outcomes,
    u64 places) {
    const bool finite_loss = fabsf(outcome.loss) < infinity();
    const bool finite = finite_loss && outcome.infinite == 0 && outcome.nan == 0;
    // 1e-6 as in PyTorch's clip_grad_norm_.
    const double clip = fmin(control->clip_norm / (sqrt(outcome.squares) + 1e-6), 1.0);
    outcome.scale = control->scale;
    outcome.clip = finite ? (float)clip : 1.0f;
    control->unscale = 1.0f / control->scale;
    control->clip = outcome.clip;
    control->apply = finite;
    const u64 rate = control->updates % rate_count;
    control->learning_rate = rates[rate].learning_rate;
    control->correction1 = rates[rate].correction1;
    control->correction2 = rates[rate].correction2;
    control->updates += finite;
    control->skipped += !finite;
    outcomes[control->steps % places] = outcome;
    control->steps += 1;
    advance_scale(control, finite);
    control->non_finite_losses = finite_loss ? 0 : control->non_finite_losses + 1;
    const bool ends = control->dynamic ? control->scale < control->floor ||
                                             control->non_finite_losses >= control->most_non_finite_losses
                                       : !finite_loss;
    if (ends) {
        control->ended = control->steps;
    }
}

// parameters: the sums of each parameter's pieces, in order. Then, unless the run has ended, the step's outcome and the state
// after it. rates is a ring: update u is in place u modulo their number. loss is the step's mean loss.
// One block, any number of threads.
extern "C" __global__ void advance(
    StepControl* control, const PieceSummary* summaries, const Shape* shapes, u32 count, ParameterSummary* parameters,
    const Rates* rates, u64 rate_count, const float* loss, StepOutcome* outcomes, u64 places) {
    if (control->ended > 0) {
        if (threadIdx.x == 0) {
            control->apply = 0;
        }
        return;
    }
    for (u32 parameter = threadIdx.x; parameter < count; parameter += blockDim.x) {
        const Shape shape = shapes[parameter];
        const u64 end = shape.first_piece + (shape.length + PIECE - 1) / PIECE;
        ParameterSummary total = {0.0, 0, 0, 0, 0};
        for (u64 piece = shape.first_piece; piece < end; ++piece) {
            total.squares += summaries[piece].squares;
            total.zero += summaries[piece].zero;
            total.subnormal += summaries[piece].subnormal;
            total.infinite += summaries[piece].infinite;
            total.nan += summaries[piece].nan;
        }
        parameters[parameter] = total;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        StepOutcome outcome = {0.0, 0, 0, 0, 0, 0, 0, *loss, 0.0f, 0.0f, ~0u};
        for (u32 parameter = 0; parameter < count; ++parameter) {
            const ParameterSummary summary = parameters[parameter];
            outcome.squares += summary.squares;
            outcome.elements += shapes[parameter].length;
            outcome.zero += summary.zero;
            outcome.subnormal += summary.subnormal;
            outcome.infinite += summary.infinite;
            outcome.nan += summary.nan;
            if (summary.infinite > 0 || summary.nan > 0) {
                outcome.blamed = parameter;
            }
        }
        advance_control(control, outcome, rates, rate_count, outcomes, places);
    }
}

// The tensors of one parameter. #[repr(C)]; null where there is none.
struct ParameterTensors {
    void* weights;
    // The weights in the compute format, where they are another tensor.
    void* copy;
    // Momentum or first moment; second moment.
    float* first;
    float* second;
    // Where Δw is written, if it is to be looked at.
    float* delta;
};

// How a tensor whose type is known when a run starts is stored. #[repr(C)]
struct Storage {
    // 0: f32, 1: f16, 2: bf16.
    u32 type;
    // Whether values are rounded by `rounder` first: formats that are kept in f32.
    u32 rounds;
    Rounder rounder;

    __device__ float load(const void* values, u64 i) const {
        switch (type) {
        case 1:
            return widen(static_cast<const __half*>(values)[i]);
        case 2:
            return widen(static_cast<const __nv_bfloat16*>(values)[i]);
        default:
            return static_cast<const float*>(values)[i];
        }
    }

    // Stores the value rounded once, and returns what is stored.
    __device__ float store(void* values, u64 i, float value) const {
        switch (type) {
        case 1: {
            const __half stored = narrow<__half>(value);
            static_cast<__half*>(values)[i] = stored;
            return widen(stored);
        }
        case 2: {
            const __nv_bfloat16 stored = narrow<__nv_bfloat16>(value);
            static_cast<__nv_bfloat16*>(values)[i] = stored;
            return widen(stored);
        }
        default: {
            const float stored = rounds ? rounder.round(value) : value;
            static_cast<float*>(values)[i] = stored;
            return stored;
        }
        }
    }
};

// How weights and their copies are stored. #[repr(C)]
struct Conversion {
    Storage weights;
    Storage copy;
};

// Stochastic gradient descent, as ops::Sgd. #[repr(C)]
struct Sgd {
    float momentum;
    float weight_decay;
    // 0 or 1.
    u32 nesterov;

    __device__ float delta(const StepControl& control, const ParameterTensors& tensors, u64 i, float g, float w) const {
        const float gradient = g + weight_decay * w;
        if (!tensors.first) {
            return -control.learning_rate * gradient;
        }
        const float velocity = momentum * tensors.first[i] + gradient;
        tensors.first[i] = velocity;
        return -control.learning_rate * (nesterov ? gradient + momentum * velocity : velocity);
    }
};

// Adam with decoupled weight decay, as ops::AdamW. #[repr(C)]
struct AdamW {
    float beta1;
    float beta2;
    float eps;
    float weight_decay;

    __device__ float delta(const StepControl& control, const ParameterTensors& tensors, u64 i, float g, float w) const {
        const float m = beta1 * tensors.first[i] + (1.0f - beta1) * g;
        const float v = beta2 * tensors.second[i] + (1.0f - beta2) * g * g;
        tensors.first[i] = m;
        tensors.second[i] = v;
        const float root = sqrtf(v) * control.correction2 + eps;
        return -control.learning_rate * (m * control.correction1 / root + weight_decay * w);
    }
};

template <class T, class Rule>
__device__ void update(
    const T* const* gradients, const ParameterTensors* parameters, const Shape* shapes, const u32* owners, u32 pieces,
    Rule rule, Conversion conversion, const StepControl* state, StepOutcome* outcomes, u64 places) {
    const StepControl control = *state;
    if (!control.apply) {
        return;
    }
    u32 lost = 0;
    for (u32 piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
        const u32 owner = owners[piece];
        const ParameterTensors tensors = parameters[owner];
        const T* gradient = gradients[owner];
        const u64 start = (piece - shapes[owner].first_piece) * PIECE;
        const u64 end = start + PIECE < shapes[owner].length ? start + PIECE : shapes[owner].length;
        const u64 first = start + blockIdx.y * blockDim.x + threadIdx.x;
        for (u64 i = first; i < end; i += gridDim.y * blockDim.x) {
            const float g = widen(gradient[i]) * control.unscale * control.clip;
            const float before = conversion.weights.load(tensors.weights, i);
            const float moved = rule.delta(control, tensors, i, g, before);
            if (tensors.delta) {
                tensors.delta[i] = moved;
            }
            const float after = conversion.weights.store(tensors.weights, i, moved + before);
            lost += moved != 0.0f && after == before;
            if (tensors.copy) {
                conversion.copy.store(tensors.copy, i, after);
            }
        }
    }
    const u32 total = block_sum(lost);
    if (threadIdx.x == 0 && total > 0) {
        atomicAdd(&outcomes[(control.steps - 1) % places].lost, (u64)total);
    }
}

// Updates every parameter in one pass over all its tensors: gradient converted, unscaled and clipped; moments and weights
// updated; the copy in the compute format refreshed; and adds the lost updates to the outcome of the last step: Δw ≠ 0 and
// w + Δw rounded to w. The suffix is the storage type of the gradients.
// Blocks of a power of two of threads; grid: (any number, a piece at a time; any number, that share each piece).
#define UPDATE(rule, Rule, suffix, T)                                                              \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) update_##rule##_##suffix(            \
        const T* const* gradients, const ParameterTensors* parameters, const Shape* shapes,        \
        const u32* owners, u32 pieces, Rule rule, Conversion conversion,                           \
        const StepControl* control, StepOutcome* outcomes, u64 places) {                           \
        update(                                                                                    \
            gradients, parameters, shapes, owners, pieces, rule, conversion, control, outcomes,    \
            places);                                                                               \
    }
#define UPDATE_SGD(suffix, T) UPDATE(sgd, Sgd, suffix, T)
#define UPDATE_ADAMW(suffix, T) UPDATE(adamw, AdamW, suffix, T)
FOR_EACH_STORAGE(UPDATE_SGD)
FOR_EACH_STORAGE(UPDATE_ADAMW)
