// Stands in for CUDA's header of this name: IEEE binary16 as it is stored, and conversions, from the definition of the format.
#pragma once

#include "emulator.hpp"

struct __half {
    std::uint16_t bits;
};

inline float __half2float(__half value) {
    const int exponent = value.bits >> 10 & 0x1f;
    const int mantissa = value.bits & 0x3ff;
    float magnitude;
    if (exponent == 0x1f) {
        magnitude = mantissa == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
        magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    } else {
        magnitude = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
    }
    return std::copysign(magnitude, value.bits & 0x8000 ? -1.0f : 1.0f);
}

inline __half __float2half_rn(float value) {
    const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float magnitude = std::fabs(value);
    if (std::isnan(value)) {
        return {0x7fff};
    }
    // Half a unit past the largest finite value, 65504, is nearer to the next power of two, which is not there.
    if (magnitude >= 65520.0f) {
        return {static_cast<std::uint16_t>(sign | 0x7c00)};
    }
    // The unit in the last place of the result is 2^(exponent - 10), and never below that of the subnormals.
    int exponent;
    std::frexp(magnitude, &exponent);
    exponent = std::max(exponent - 1, -14);
    const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
    // A normal value's units are 1024 and more, and rounding up to 2048 carries into the exponent by itself.
    const int bits = magnitude < 0x1p-14f ? units : (exponent + 14) * 1024 + units;
    return {static_cast<std::uint16_t>(sign | bits)};
}
