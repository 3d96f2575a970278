#include "dtype.h"

#include <math.h>

const char* const dtype_names[NUM_DTYPES] = {"f32", "bf16", "f16", "q8", "bf16z"};

float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = h >> 10 & 0x1f, mantissa = h & 0x3ff;
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent > 0) return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float magnitude = (float)mantissa * 0x1p-24f; // subnormal: a multiple of the smallest step
    return sign ? -magnitude : magnitude;
}

uint16_t f32_to_f16(float f) {
    uint32_t bits = f32_bits(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); // 65520 and more round to infinity
    if (magnitude < 0x38800000) {                                  // below 2^-14: count steps of 2^-24
        return (uint16_t)(sign | (uint32_t)lrintf(f32_from_bits(magnitude) * 0x1p24f));
    }
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (rounded - 0x38000000) >> 13);
}

void row_to_f32(float* out, const void* in, DType dtype, size_t n) {
    const uint16_t* half = in;
    switch (dtype) {
    case DTYPE_F32: memcpy(out, in, n * sizeof(float)); return;
    case DTYPE_BF16:
        for (size_t i = 0; i < n; i++) out[i] = bf16_to_f32(half[i]);
        return;
    default:
        for (size_t i = 0; i < n; i++) out[i] = f16_to_f32(half[i]);
        return;
    }
}

// One block of Q8. Written with integers and constant counts so that compilers make vectors of it: the bits of
// magnitudes sort as the magnitudes do, and adding 1.5 * 2^23 leaves no bits below 1, which rounds to nearest even.
static inline __attribute__((always_inline)) void q8_block_from_f32(int8_t* out, uint16_t* scale, const float* in) {
    int32_t largest = 0;
    for (int i = 0; i < Q8_BLOCK; i++) {
        int32_t magnitude = (int32_t)(f32_bits(in[i]) & 0x7fffffff);
        largest = magnitude > largest ? magnitude : largest;
    }
    *scale = f32_to_f16(f32_from_bits((uint32_t)largest) / 127);
    float divisor = f16_to_f32(*scale); // the elements are divided by what will multiply them
    if (divisor == 0) divisor = 1;      // the block is 0, or so small that it rounds to 0
    int32_t q[Q8_BLOCK];
    for (int i = 0; i < Q8_BLOCK; i++) {
        float rounded = in[i] / divisor + 0x1.8p23f - 0x1.8p23f;
        rounded = rounded > 127 ? 127 : rounded;
        q[i] = (int32_t)(rounded < -127 ? -127 : rounded);
    }
    for (int i = 0; i < Q8_BLOCK; i++) out[i] = (int8_t)q[i];
}

WIDE_VECTORS static void q8_row_from_f32(int8_t* out, uint16_t* scales, const float* in, size_t n) {
    size_t whole = n / Q8_BLOCK * Q8_BLOCK;
    for (size_t i = 0; i < whole; i += Q8_BLOCK) q8_block_from_f32(out + i, &scales[i / Q8_BLOCK], in + i);
    if (whole == n) return;
    float last[Q8_BLOCK] = {0};
    memcpy(last, in + whole, (n - whole) * sizeof *last);
    q8_block_from_f32(out + whole, &scales[whole / Q8_BLOCK], last);
}

void row_from_f32(void* out, uint16_t* scales, const float* in, DType dtype, size_t n) {
    uint16_t* half = out;
    switch (dtype) {
    case DTYPE_F32: memcpy(out, in, n * sizeof(float)); return;
    case DTYPE_BF16:
        for (size_t i = 0; i < n; i++) half[i] = f32_to_bf16(in[i]);
        return;
    case DTYPE_F16:
        for (size_t i = 0; i < n; i++) half[i] = f32_to_f16(in[i]);
        return;
    default: q8_row_from_f32(out, scales, in, n); return;
    }
}

void q8_row_to_f32(float* out, const int8_t* in, const uint16_t* scales, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = f16_to_f32(scales[i / Q8_BLOCK]) * (float)in[i];
}
