// Stands in for CUDA's header of this name: bfloat16 as it is stored, the upper half of an f32, and conversions.
#pragma once

#include "emulator.hpp"

struct __nv_bfloat16 {
    std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 value) { return __int_as_float(static_cast<int>(value.bits) << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    if (std::isnan(value)) {
        return {0x7fff};
    }
    const auto bits = static_cast<std::uint32_t>(__float_as_int(value));
    const std::uint32_t kept = bits >> 16;
    const std::uint32_t dropped = bits & 0xffff;
    const bool up = dropped > 0x8000 || (dropped == 0x8000 && (kept & 1) != 0);
    return {static_cast<std::uint16_t>(kept + up)};
}
