// Convolution lowered to matrix products over a range of R images at a time.
//
// All matrices are row-major. Let P = H′ W′ be the values of one output plane, Q = R P, below 2³², and for one of G groups
// O' = O / G outputs and K' = (C / G) K K′ values of a patch.
//
//   patches   C K K′ × Q   row (c, i, j), column (image, output row, output column); group g has K' rows from g K' on
//   product   O × Q        group g has O' rows from g O' on; the images' axis is the second, not the first
//   dy'       O × Q        dy with its first two axes swapped, by swap_outer
//   w, dw     O × K'       as stored; group g has O' rows
//
// Each group is one product, here as cuBLAS is called, which is column-major: (opA, opB, m, n, k, A, lda, B, ldb, C, ldc).
// Operands are of the storage type, sums and results f32, so that each result is rounded once, by the kernel that follows.
//
//   forward          unfold; (N, N, Q, O', K', patches_g, Q, w_g, K', product_g, Q), beta 0; conv_result
//   weight gradient  unfold; swap_outer of dy; (T, N, K', O', Q, patches_g, Q, dy'_g, Q, dw_g, K'), beta 0 for the first range
//                    of images and 1 after it; cast
//   input gradient   swap_outer of dy; (N, T, Q, K', O', dy'_g, Q, w_g, K', patches_g, Q), beta 0, f32 patches; fold
//   bias gradient    channel_sums over the whole batch (norm.cu), where there is a bias
#include "common.cuh"

// Sizes of one convolution, passed by value. x: images × channels × height × width; the images are those of the range.
struct Convolution {
    u32 images;
    u32 channels;
    u32 height;
    u32 width;
    u32 outputs;
    u32 kernel_height;
    u32 kernel_width;
    u32 out_height;
    u32 out_width;
    u32 stride;
    u32 padding;
    u32 dilation;
};

template <class T>
__device__ void unfold(const T* x, T* patches, Convolution sizes) {
    const u32 plane = sizes.out_height * sizes.out_width;
    const u32 columns = sizes.images * plane;
    const u32 kernel = sizes.kernel_height * sizes.kernel_width;
    const u32 rows = sizes.channels * kernel;
    for (u32 row = blockIdx.y; row < rows; row += gridDim.y) {
        const u32 channel = row / kernel;
        // Above and left of the image these wrap past its end, so that one comparison finds what is outside.
        const u32 shift_y = row % kernel / sizes.kernel_width * sizes.dilation - sizes.padding;
        const u32 shift_x = row % sizes.kernel_width * sizes.dilation - sizes.padding;
        for (u64 column = first_index(); column < columns; column += index_step()) {
            const u32 image = (u32)column / plane;
            const u32 place = (u32)column % plane;
            const u32 image_y = place / sizes.out_width * sizes.stride + shift_y;
            const u32 image_x = place % sizes.out_width * sizes.stride + shift_x;
            const bool inside = image_y < sizes.height && image_x < sizes.width;
            const u64 source = (u64)image * sizes.channels + channel;
            patches[(u64)row * columns + column] =
                inside ? x[(source * sizes.height + image_y) * sizes.width + image_x] : narrow<T>(0.0f);
        }
    }
}

// patches[(c, i, j)][(image, row, column)] = what kernel element (i, j) sees of channel c there, 0 outside the image.
// Grid: (blocks over the Q columns, rows C K K′, both of any number); block: one-dimensional, any number of threads.
#define UNFOLD(suffix, T)                                                                          \
    extern "C" __global__ void unfold_##suffix(const T* x, T* patches, Convolution sizes) {        \
        unfold(x, patches, sizes);                                                                 \
    }
FOR_EACH_STORAGE(UNFOLD)

// That no output sees a value.
constexpr u32 NONE = 0xffffffff;

// The output row or column, of `outputs`, that sees image position `at` through kernel element `element`.
__device__ inline u32 seen_by(u32 at, u32 element, u32 outputs, Convolution sizes) {
    const i32 distance = (i32)(at + sizes.padding) - (i32)(element * sizes.dilation);
    if (distance < 0 || (u32)distance % sizes.stride != 0) {
        return NONE;
    }
    const u32 output = (u32)distance / sizes.stride;
    return output < outputs ? output : NONE;
}

template <class T>
__device__ void fold(const float* patches, T* x, Convolution sizes) {
    const u32 out_plane = sizes.out_height * sizes.out_width;
    const u32 columns = sizes.images * out_plane;
    const u64 planes = (u64)sizes.images * sizes.channels;
    const u32 size = sizes.height * sizes.width;
    for_each_in_planes(planes, size, [&](u64 plane, auto each) {
        const u32 image = (u32)(plane / sizes.channels);
        const u32 channel = (u32)(plane % sizes.channels);
        each([&](u32 at) {
            float total = 0.0f;
            for (u32 i = 0; i < sizes.kernel_height; ++i) {
                const u32 row = seen_by(at / sizes.width, i, sizes.out_height, sizes);
                if (row == NONE) {
                    continue;
                }
                for (u32 j = 0; j < sizes.kernel_width; ++j) {
                    const u32 column = seen_by(at % sizes.width, j, sizes.out_width, sizes);
                    if (column != NONE) {
                        const u64 patch = ((u64)channel * sizes.kernel_height + i) * sizes.kernel_width + j;
                        total += patches[patch * columns + image * out_plane + row * sizes.out_width + column];
                    }
                }
            }
            x[plane * size + at] = narrow<T>(total);
        });
    });
}

// The reverse of unfold on f32 patches: each image value is the sum in f32 of the patch values that came from it, over the
// kernel's elements in order, rounded once. Geometry of for_each_in_planes, over images × channels planes of height × width.
#define FOLD(suffix, T)                                                                            \
    extern "C" __global__ void fold_##suffix(const float* patches, T* x, Convolution sizes) {      \
        fold(patches, x, sizes);                                                                   \
    }
FOR_EACH_STORAGE(FOLD)

template <class T>
__device__ void conv_result(const float* product, const T* bias, T* y, u32 images, u32 outputs, u32 plane) {
    const u64 columns = (u64)images * plane;
    for_each_in_planes((u64)images * outputs, plane, [&](u64 index, auto each) {
        const u64 image = index / outputs;
        const u64 output = index % outputs;
        const T* shift = bias ? bias + output : nullptr;
        each([&](u32 i) {
            const float sum = product[output * columns + image * plane + i];
            y[index * plane + i] = finish_product(sum, shift);
        });
    });
}

// y[image][o][i] = product[o][image][i] + bias[o] in f32, rounded once. bias may be null.
// Geometry of for_each_in_planes, over images × outputs planes.
#define CONV_RESULT(suffix, T)                                                                     \
    extern "C" __global__ void conv_result_##suffix(                                               \
        const float* product, const T* bias, T* y, u32 images, u32 outputs, u32 plane) {           \
        conv_result(product, bias, y, images, outputs, plane);                                     \
    }
FOR_EACH_STORAGE(CONV_RESULT)

template <class T>
__device__ void swap_outer(const T* x, T* y, u32 outer, u32 inner, u32 plane) {
    for_each_in_planes((u64)outer * inner, plane, [&](u64 index, auto each) {
        const u64 target = index % inner * outer + index / inner;
        each([&](u32 i) { y[target * plane + i] = x[index * plane + i]; });
    });
}

// x: outer × inner × plane; y: inner × outer × plane, the same values. Geometry of for_each_in_planes, over outer × inner.
#define SWAP_OUTER(suffix, T)                                                                      \
    extern "C" __global__ void swap_outer_##suffix(                                                \
        const T* x, T* y, u32 outer, u32 inner, u32 plane) {                                       \
        swap_outer(x, y, outer, inner, plane);                                                     \
    }
FOR_EACH_STORAGE(SWAP_OUTER)
