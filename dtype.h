// Number formats of weights and the exact conversions between them.
#ifndef DTYPE_H
#define DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "bf16z.h"

#ifdef __cplusplus
extern "C" {
#endif

// How the elements of a matrix are stored.
//   F32   IEEE binary32
//   BF16  the upper half of a binary32
//   F16   IEEE binary16
//   Q8    int8, one binary16 scale for every Q8_BLOCK elements of a row: weight = scale * int8
//   BF16Z the numbers of BF16 in 12 bits each (bf16z.h); matrices on the CPU only
// Images (image.h) store these values, so they must not change.
typedef enum { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_Q8, DTYPE_BF16Z, NUM_DTYPES } DType;

enum { NUM_GPU_DTYPES = DTYPE_BF16Z }; // the types before it exist on a GPU too

enum { Q8_BLOCK = 32 };

// "f32", "bf16", "f16", "q8", "bf16z": the values of --dtype.
extern const char* const dtype_names[NUM_DTYPES];

// The type of the numbers in a matrix, whose arithmetic its products use.
static inline DType dtype_unpacked(DType dtype) {
    return dtype == DTYPE_BF16Z ? DTYPE_BF16 : dtype;
}

// Elements from the start of one row to the start of the next in a matrix with C columns:
// C itself, but for Q8 and BF16Z C rounded up to whole blocks (the elements past C are 0).
static inline size_t dtype_row_stride(DType dtype, size_t C) {
    size_t block = dtype == DTYPE_Q8 ? Q8_BLOCK : dtype == DTYPE_BF16Z ? BF16Z_BLOCK : 1;
    return (C + block - 1) / block * block;
}

// Bytes of one element, of an unpacked one in BF16Z; the scales of Q8 are counted separately, see q8_num_scales.
static inline size_t dtype_size(DType dtype) {
    return dtype == DTYPE_F32 ? 4 : dtype == DTYPE_Q8 ? 1 : 2;
}

// Bytes from the start of one row to the start of the next in a matrix with C columns.
static inline size_t dtype_stride_bytes(DType dtype, size_t C) {
    if (dtype == DTYPE_BF16Z) return bf16z_blocks(C) * BF16Z_BLOCK_BYTES;
    return dtype_row_stride(dtype, C) * dtype_size(dtype);
}

// Scales in one row of a Q8 matrix with C columns.
static inline size_t q8_num_scales(size_t C) {
    return (C + Q8_BLOCK - 1) / Q8_BLOCK;
}

// Bytes of one row of C elements, with its scales (Q8) or the index of its first rare weight (BF16Z), but without the
// rare weights themselves.
static inline size_t dtype_row_bytes(DType dtype, size_t C) {
    size_t scales = dtype == DTYPE_Q8 ? q8_num_scales(C) * sizeof(uint16_t) : 0;
    return dtype_stride_bytes(dtype, C) + scales + (dtype == DTYPE_BF16Z ? sizeof(uint32_t) : 0);
}

static inline float f32_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t f32_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float bf16_to_f32(uint16_t h) {
    return f32_from_bits((uint32_t)h << 16);
}

// Rounds to nearest, ties to even; a NaN stays a NaN.
static inline uint16_t f32_to_bf16(float f) {
    uint32_t bits = f32_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// For functions that are compiled for wider vectors too, where the loader can choose at start; the results are the same
// to the bit. Not under ThreadSanitizer, which is not ready when the loader asks.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_THREAD__)
#define WIDE_VECTORS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE_VECTORS
#endif

float f16_to_f32(uint16_t h);

// Rounds to nearest, ties to even; overflow becomes infinity; a NaN stays a NaN.
uint16_t f32_to_f16(float f);

// One row: n elements of `dtype` at `in` (not Q8, not BF16Z) widened to out (n). Exact.
void row_to_f32(float* out, const void* in, DType dtype, size_t n);

// One row: n floats rounded to `dtype` at `out`, which has room for dtype_row_stride(dtype, n) elements.
// Q8 also fills scales (q8_num_scales(n)): scale = largest magnitude of the block / 127 as binary16, and each
// element in / scale rounded to the nearest integer. The other formats ignore scales. Not for BF16Z, whose matrices are
// made as a whole (pack.h).
void row_from_f32(void* out, uint16_t* scales, const float* in, DType dtype, size_t n);

// One row of a Q8 matrix: out (n) = scales * in.
void q8_row_to_f32(float* out, const int8_t* in, const uint16_t* scales, size_t n);

#ifdef __cplusplus
}
#endif

#endif
