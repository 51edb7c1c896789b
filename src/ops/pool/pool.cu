// Pooling over windows that do not overlap (stride = side), and over whole images.
//
// planes is N C. Rows and columns left over at the lower and right edge are ignored, and get the gradient 0.
#include "common.cuh"

template <class T>
__device__ void max_pool2d(const T* x, T* y, u8* places, u64 planes, u32 height, u32 width, u32 side) {
    const u32 out_width = width / side;
    const u32 out_plane = height / side * out_width;
    for_each_in_planes(planes, out_plane, [&](u64 plane, auto each) {
        each([&](u32 i) {
            const T* window = x + plane * height * width + i / out_width * side * width + i % out_width * side;
            float best = -infinity();
            u32 at = 0;
            for (u32 place = 0; place < side * side; ++place) {
                const float value = widen(window[place / side * width + place % side]);
                if (value > best || (is_nan(value) && !is_nan(best))) {
                    best = value;
                    at = place;
                }
            }
            y[plane * out_plane + i] = narrow<T>(best);
            places[plane * out_plane + i] = (u8)at;
        });
    });
}

// y: the largest value of each window, places: where in the window it was. The first of equal values wins; a NaN is larger
// than everything. side is at most 15. Geometry of for_each_in_planes, over output planes.
#define MAX_POOL(suffix, T)                                                                        \
    extern "C" __global__ void max_pool2d_##suffix(                                                \
        const T* x, T* y, u8* places, u64 planes, u32 height, u32 width, u32 side) {               \
        max_pool2d(x, y, places, planes, height, width, side);                                     \
    }
FOR_EACH_STORAGE(MAX_POOL)

// Calls work(input value, output value, place in the window) for each value of each input plane; for values of no window,
// `outside` instead.
template <class F, class G>
__device__ void for_each_input(u64 planes, u32 height, u32 width, u32 side, F work, G outside) {
    const u32 out_height = height / side;
    const u32 out_width = width / side;
    for_each_in_planes(planes, height * width, [&](u64 plane, auto each) {
        each([&](u32 i) {
            const u64 input = plane * height * width + i;
            const u32 row = i / width;
            const u32 column = i % width;
            if (row / side < out_height && column / side < out_width) {
                const u64 output = (plane * out_height + row / side) * out_width + column / side;
                work(input, output, row % side * side + column % side);
            } else {
                outside(input);
            }
        });
    });
}

// dx: dy at the place of each window's maximum, 0 elsewhere. Geometry of for_each_in_planes, over input planes.
#define MAX_POOL_BACKWARD(suffix, T)                                                               \
    extern "C" __global__ void max_pool2d_backward_##suffix(                                       \
        const T* dy, const u8* places, T* dx, u64 planes, u32 height, u32 width, u32 side) {       \
        const T zero = narrow<T>(0.0f);                                                            \
        for_each_input(                                                                            \
            planes, height, width, side,                                                           \
            [&](u64 input, u64 output, u32 place) {                                                \
                dx[input] = places[output] == place ? dy[output] : zero;                           \
            },                                                                                     \
            [&](u64 input) { dx[input] = zero; });                                                 \
    }
FOR_EACH_STORAGE(MAX_POOL_BACKWARD)

template <class T>
__device__ void avg_pool2d(const T* x, T* y, u64 planes, u32 height, u32 width, u32 side) {
    const u32 out_width = width / side;
    const u32 out_plane = height / side * out_width;
    for_each_in_planes(planes, out_plane, [&](u64 plane, auto each) {
        each([&](u32 i) {
            const T* window = x + plane * height * width + i / out_width * side * width + i % out_width * side;
            float total = 0.0f;
            for (u32 place = 0; place < side * side; ++place) {
                total += widen(window[place / side * width + place % side]);
            }
            y[plane * out_plane + i] = narrow<T>(total / (float)(side * side));
        });
    });
}

// y: the mean of each window, summed in f32 in order of rows. Geometry of for_each_in_planes, over output planes.
#define AVG_POOL(suffix, T)                                                                        \
    extern "C" __global__ void avg_pool2d_##suffix(                                                \
        const T* x, T* y, u64 planes, u32 height, u32 width, u32 side) {                           \
        avg_pool2d(x, y, planes, height, width, side);                                             \
    }
FOR_EACH_STORAGE(AVG_POOL)

// dx: dy / side² for every value of the window. Geometry of for_each_in_planes, over input planes.
#define AVG_POOL_BACKWARD(suffix, T)                                                               \
    extern "C" __global__ void avg_pool2d_backward_##suffix(                                       \
        const T* dy, T* dx, u64 planes, u32 height, u32 width, u32 side) {                         \
        const float area = (float)(side * side);                                                   \
        for_each_input(                                                                            \
            planes, height, width, side,                                                           \
            [&](u64 input, u64 output, u32) { dx[input] = narrow<T>(widen(dy[output]) / area); },  \
            [&](u64 input) { dx[input] = narrow<T>(0.0f); });                                      \
    }
FOR_EACH_STORAGE(AVG_POOL_BACKWARD)

template <class T>
__device__ void global_avg_pool(const T* x, T* y, u64 planes, u32 plane) {
    for (u64 index = blockIdx.x; index < planes; index += gridDim.x) {
        float part = 0.0f;
        for (u32 i = threadIdx.x; i < plane; i += blockDim.x) {
            part += widen(x[index * plane + i]);
        }
        const float total = block_sum(part);
        if (threadIdx.x == 0) {
            y[index] = narrow<T>(total / (float)plane);
        }
    }
}

// y: the mean of each plane, summed in f32. A block works on one plane at a time: blocks of a power of two of threads, whose
// number sets the order of the sum; any number of blocks.
#define GLOBAL_AVG_POOL(suffix, T)                                                                 \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS)                                      \
        global_avg_pool_##suffix(const T* x, T* y, u64 planes, u32 plane) {                        \
        global_avg_pool(x, y, planes, plane);                                                      \
    }
FOR_EACH_STORAGE(GLOBAL_AVG_POOL)

// dx: dy / plane for every value of the plane. Geometry of for_each_in_planes, over input planes.
#define GLOBAL_AVG_POOL_BACKWARD(suffix, T)                                                        \
    extern "C" __global__ void global_avg_pool_backward_##suffix(                                  \
        const T* dy, T* dx, u64 planes, u32 plane) {                                               \
        for_each_in_planes(planes, plane, [&](u64 index, auto each) {                              \
            const T value = narrow<T>(widen(dy[index]) / (float)plane);                            \
            each([&](u32 i) { dx[index * plane + i] = value; });                                   \
        });                                                                                        \
    }
FOR_EACH_STORAGE(GLOBAL_AVG_POOL_BACKWARD)
