// Rotary positions: pairs of a head's values, half a head apart, turned by the angles of their position.
#include "common.cuh"

// x and y: rows × heads × width, of which row r is at position r % length; table: length × width, f32, first the cosines of a
// position, then its sines. sign is 1 or −1: the direction. Geometry of for_each_in_planes, over rows × heads.
#define ROPE(suffix, T)                                                                            \
    extern "C" __global__ void rope_##suffix(                                                      \
        const T* x, const float* table, T* y, u64 rows, u32 length, u32 heads, u32 width, float sign) { \
        const u32 half = width / 2;                                                                \
        for_each_in_planes(rows * heads, half, [&](u64 index, auto each) {                         \
            const float* angles = table + index / heads % length * width;                          \
            const T* from = x + index * width;                                                     \
            T* to = y + index * width;                                                             \
            each([&](u32 i) {                                                                      \
                const float a = widen(from[i]);                                                    \
                const float b = widen(from[half + i]);                                             \
                const float cosine = angles[i];                                                    \
                const float sine = sign * angles[half + i];                                        \
                to[i] = narrow<T>(a * cosine - b * sine);                                          \
                to[half + i] = narrow<T>(b * cosine + a * sine);                                   \
            });                                                                                    \
        });                                                                                        \
    }
FOR_EACH_STORAGE(ROPE)
