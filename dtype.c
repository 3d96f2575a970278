#include "dtype.h"

#include <math.h>

const char* const dtype_names[NUM_DTYPES] = {"f32", "bf16", "f16", "q8"};

size_t dtype_row_stride(DType dtype, size_t C) { return dtype == DTYPE_Q8 ? q8_num_scales(C) * Q8_BLOCK : C; }

size_t dtype_size(DType dtype) { return dtype == DTYPE_F32 ? 4 : dtype == DTYPE_Q8 ? 1 : 2; }

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
    case DTYPE_BF16: for (size_t i = 0; i < n; i++) out[i] = bf16_to_f32(half[i]); return;
    default: for (size_t i = 0; i < n; i++) out[i] = f16_to_f32(half[i]); return;
    }
}

static void q8_row_from_f32(int8_t* out, uint16_t* scales, const float* in, size_t n) {
    for (size_t start = 0; start < n; start += Q8_BLOCK) {
        size_t end = start + Q8_BLOCK < n ? start + Q8_BLOCK : n;
        float largest = 0;
        for (size_t i = start; i < end; i++) largest = fmaxf(largest, fabsf(in[i]));
        uint16_t half = f32_to_f16(largest / 127);
        float scale = f16_to_f32(half); // the elements are divided by what will multiply them
        scales[start / Q8_BLOCK] = half;
        for (size_t i = start; i < start + Q8_BLOCK; i++) {
            float q = i < end && scale > 0 ? rintf(in[i] / scale) : 0;
            out[i] = (int8_t)fmaxf(-127, fminf(127, q));
        }
    }
}

void row_from_f32(void* out, uint16_t* scales, const float* in, DType dtype, size_t n) {
    uint16_t* half = out;
    switch (dtype) {
    case DTYPE_F32: memcpy(out, in, n * sizeof(float)); return;
    case DTYPE_BF16: for (size_t i = 0; i < n; i++) half[i] = f32_to_bf16(in[i]); return;
    case DTYPE_F16: for (size_t i = 0; i < n; i++) half[i] = f32_to_f16(in[i]); return;
    default: q8_row_from_f32(out, scales, in, n); return;
    }
}

void q8_row_to_f32(float* out, const int8_t* in, const uint16_t* scales, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = f16_to_f32(scales[i / Q8_BLOCK]) * (float)in[i];
}
