// Products with Q8 weights, for cpu_kernels.c, which includes this once per instruction set.
//
// A row of weights or activations is a sequence of blocks of 32 int8 with a scale each (Q8_BLOCK). The integer sum of a
// block is exact, so it may be made in any order; what is rounded is
//   lane j = Σ over the blocks b = j, j + VL, j + 2 VL, ... of sum_b · (scale_w · scale_x),
// and then the VL lanes are added as everywhere (sum_lanes4). The product for few rows and the one for many make the
// block sums in different ways and agree from there on, to the bit.
#ifndef CPU_Q8_H
#define CPU_Q8_H

// ---------------------------------------------------------------------------------------------------------------------
// sums of products of integers
//
// Two forms of each: int8_dot for two rows, whose elements lie in the same order, and lane_dot for the product with many
// rows, where a lane is a row of activations. That one takes 32 bits at a time, four int8 or two int16, whichever the
// processor multiplies and adds at once; lane_steps makes VL such steps of a row's elements.

INLINE vi vi_load(const void* p) {
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
// The instruction wants one factor unsigned: w · x = (w + 128) · x - 128 · x. The second term belongs to a block of
// activations, which are packed with it.
enum { INT8_SHIFT = 128, LANE_ELEMENTS = 4 };
#if defined(__AVX512VNNI__)
INLINE vi dot_quads(vi sum, vi w, vi x) {
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
}
#else
INLINE vi dot_quads(vi sum, vi w, vi x) {
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x);
}
#endif
INLINE vi lane_steps(const void* elements) {
    return vi_load(elements);
}
INLINE vi lane_dot(vi sum, vi w, vi x) {
    return dot_quads(sum, w, x);
}
INLINE vi int8_dot(vi w, vi x) {
    return dot_quads((vi){0}, w ^ (int32_t)0x80808080, x);
}
#elif defined(__ARM_FEATURE_DOTPROD)
enum { INT8_SHIFT = 0, LANE_ELEMENTS = 4 };
INLINE vi lane_steps(const void* elements) {
    return vi_load(elements);
}
INLINE vi lane_dot(vi sum, vi w, vi x) {
    return (vi)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)x);
}
INLINE vi int8_dot(vi w, vi x) {
    return lane_dot((vi){0}, w, x);
}
#else
enum { INT8_SHIFT = 0, LANE_ELEMENTS = 2 };
typedef int16_t vs __attribute__((vector_size(4 * VL)));
#if defined(__AVX512F__)
INLINE vi dot_pairs(vs w, vs x) {
    return (vi)_mm512_madd_epi16((__m512i)w, (__m512i)x);
}
#elif defined(__AVX2__)
INLINE vi dot_pairs(vs w, vs x) {
    return (vi)_mm256_madd_epi16((__m256i)w, (__m256i)x);
}
#elif defined(__SSE2__)
INLINE vi dot_pairs(vs w, vs x) {
    return (vi)_mm_madd_epi16((__m128i)w, (__m128i)x);
}
#else
INLINE vi dot_pairs(vs w, vs x) {
    return ((vi)w << 16 >> 16) * ((vi)x << 16 >> 16) + ((vi)w >> 16) * ((vi)x >> 16);
}
#endif
INLINE vi lane_steps(const void* elements) {
    typedef int8_t vb __attribute__((vector_size(2 * VL)));
    vb bytes;
    memcpy(&bytes, elements, sizeof bytes);
    return (vi) __builtin_convertvector(bytes, vs);
}
INLINE vi lane_dot(vi sum, vi w, vi x) {
    return sum + dot_pairs((vs)w, (vs)x);
}
#if defined(__AVX2__) && !defined(__AVX512F__)
// |x| and w with the sign of x are multiplied and added in pairs: at most 2 · 127 · 127, which fits into 16 bits.
INLINE vi int8_dot(vi w, vi x) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)x), _mm256_sign_epi8((__m256i)w, (__m256i)x));
    return (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#else
// Of four int8 a lane, those with even and those with odd numbers, as two int16.
INLINE vi even_elements(vi quads) {
    return (vi)((vs)quads << 8 >> 8);
}
INLINE vi odd_elements(vi quads) {
    return (vi)((vs)quads >> 8);
}
INLINE vi int8_dot(vi w, vi x) {
    return lane_dot(lane_dot((vi){0}, even_elements(w), even_elements(x)), odd_elements(w), odd_elements(x));
}
#endif
#endif

// ---------------------------------------------------------------------------------------------------------------------
// packed activations

enum { Q8_PAD = 512 };                          // elements: whole units and whole vectors of scales for every VL
enum { LANE_STEPS = Q8_BLOCK / LANE_ELEMENTS }; // 32-bit steps of a block
enum { Q8_BLOCK_BYTES = (LANE_STEPS + 2) * 4 }; // of a block in a group of rows

INLINE size_t q8_padded_blocks(size_t C) {
    return (C + Q8_PAD - 1) / Q8_PAD * (Q8_PAD / Q8_BLOCK);
}

// A packed row: int8 elements, then for each block its scale, then what INT8_SHIFT adds to its sums, negated. Whatever
// lies behind C is 0.
typedef struct {
    int8_t* elements;
    float* scales;
    int32_t* shifts;
} Q8Row;

INLINE Q8Row q8_row(const void* packed, size_t C) {
    int8_t* elements = (int8_t*)(uintptr_t)packed;
    size_t blocks = q8_padded_blocks(C);
    float* scales = (float*)(void*)(elements + blocks * Q8_BLOCK);
    return (Q8Row){elements, scales, (int32_t*)(void*)(scales + blocks)};
}

// The largest magnitude in a block; NaN does not count. Lanes of *not_finite that meet a NaN or an infinity become -1.
INLINE float block_magnitude(const float* x, vi* not_finite) {
    vf largest = {0};
    UNROLL for (int i = 0; i < Q8_BLOCK; i += VL) {
        vi magnitude = (vi)vf_load(x + i) & 0x7fffffff;
        *not_finite |= magnitude > 0x7f7fffff;
        largest = vf_max((vf)magnitude, largest);
    }
    return max_lanes(largest);
}

// Block b of a row of C floats: where it lies, or a copy with zeros behind the row's end.
INLINE const float* row_block(float copy[Q8_BLOCK], const float* in, size_t b, size_t C) {
    size_t start = b * Q8_BLOCK;
    if (C - start >= Q8_BLOCK) return in + start;
    memset(copy, 0, Q8_BLOCK * sizeof *copy);
    return memcpy(copy, in + start, (C - start) * sizeof *copy);
}

// The scales in loops of their own, which leaves more to do at the same time: 0.7 of the time of one loop (dev/CPU.md).
// No int8 can tell a number that is not finite: a row with one gets NaN for scales, and so for all that is made of it.
static void pack_q8(void* out, const float* in, size_t C) {
    Q8Row row = q8_row(out, C);
    float copy[Q8_BLOCK];
    size_t blocks = q8_num_scales(C);
    vi not_finite = {0};
    memset(out, 0, q8_padded_blocks(C) * (Q8_BLOCK + 8));
    for (size_t b = 0; b < blocks; b++) row.scales[b] = block_magnitude(row_block(copy, in, b, C), &not_finite);
    for (size_t b = 0; b < blocks; b++) {
        const float* x = row_block(copy, in, b, C);
        float inverse = row.scales[b] > 0 ? 127 / row.scales[b] : 0;
        int8_t elements[Q8_BLOCK]; // not in place: a byte there might be one of x, and no compiler would make vectors
        int32_t sum = 0;
        for (size_t i = 0; i < Q8_BLOCK; i++) {
            // adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits
            elements[i] = (int8_t)(f32_bits(x[i] * inverse + 12582912.0f) & 0xff);
            sum += elements[i];
        }
        memcpy(row.elements + b * Q8_BLOCK, elements, sizeof elements);
        row.shifts[b] = -INT8_SHIFT * sum;
    }
    float damage = sum_lanes((vf)not_finite); // as floats -1 is NaN, 0 is 0
    for (size_t b = 0; b < blocks; b++) row.scales[b] = row.scales[b] / 127 + damage;
}

// ---------------------------------------------------------------------------------------------------------------------
// few rows

// Four vectors of int8 are a unit, VL / 2 blocks; two units make VL block sums.
enum { UNIT = 16 * VL };

// Neighbouring lanes of a, then of b, added in pairs, within each 128 bits. Shuffled as floats: of the same shuffle of
// integers gcc 12 makes three instructions where it could be one.
#if defined(__AVX512F__)
#define EVEN 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30
#define ODD  1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31
#elif defined(__AVX2__)
#define EVEN 0, 2, 8, 10, 4, 6, 12, 14
#define ODD  1, 3, 9, 11, 5, 7, 13, 15
#else
#define EVEN 0, 2, 4, 6
#define ODD  1, 3, 5, 7
#endif
INLINE vi add_pairs(vi a, vi b) {
    return (vi)SHUFFLE((vf)a, (vf)b, EVEN) + (vi)SHUFFLE((vf)a, (vf)b, ODD);
}

// Sums (rows) of a unit of each of some rows at w with one row of activations; `next`: see dot_tile.
INLINE void unit_sums(vi* sums, const char* const* w, const char* x, size_t next) {
    vi dots[4][MR];
    UNROLL for (int i = 0; i < 4; i++) {
        UNROLL for (int m = 0; m < MR; m++) {
            if (next > 0) __builtin_prefetch(w[m] + i * 4 * VL + next);
            dots[i][m] = int8_dot(vi_load(w[m] + i * 4 * VL), vi_load(x + i * 4 * VL));
        }
    }
    UNROLL for (int m = 0; m < MR; m++) {
#if defined(__AVX2__)
        sums[m] = add_pairs(add_pairs(dots[0][m], dots[1][m]), add_pairs(dots[2][m], dots[3][m]));
#else
        sums[m] = add_pairs(dots[0][m] + dots[1][m], dots[2][m] + dots[3][m]); // two vectors are one block
#endif
    }
}

// What unit_sums left of two units: the sums of VL blocks, in their order.
INLINE vi join_units(vi a, vi b) {
#if defined(__AVX512F__)
    vi sums = SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
              SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    return SHUFFLE(sums, sums, 0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
#elif defined(__AVX2__)
    return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
#else
    return add_pairs(a, b);
#endif
}

// The first n of the scales, or VL of them if there are more, widened; 0 in the other lanes.
INLINE vf scales_widen(const uint16_t* scales, size_t n) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(n < VL ? (__mmask16)((1u << n) - 1) : 0xffff, scales));
#else
    uint16_t half[VL] = {0};
    if (n >= VL) return f16_widen(scales);
    memcpy(half, scales, n * sizeof *half);
    return f16_widen(half);
#endif
}

enum { SCALES_AHEAD = 256 }; // bytes; they are streams of their own, 1/16 as fast as the weights' (dev/CPU.md)

// acc (nr, MR) += what the units of MR rows at w, one or two, add to them. They begin with element k of each row; of the
// scales from there on the first `blocks` count. `next`: see dot_tile.
INLINE void q8_units(vf (*acc)[MR], const char* const* w, const uint16_t* const* w_scales, const char* const* x,
                     size_t C, size_t k, size_t blocks, size_t next, int nr, int units) {
    const char* second[MR];
    vf w_scale[MR];
    size_t b = k / Q8_BLOCK;
    UNROLL for (int m = 0; m < MR; m++) {
        if (next > 0) __builtin_prefetch((const char*)(w_scales[m] + b) + SCALES_AHEAD);
        w_scale[m] = scales_widen(w_scales[m] + b, blocks);
        second[m] = w[m] + UNIT;
    }
    UNROLL for (int n = 0; n < nr; n++) {
        Q8Row row = q8_row(x[n], C);
        const char* elements = (const char*)row.elements + k;
        vi a[MR], z[MR] = {{0}};
        unit_sums(a, w, elements, n == 0 ? next : 0);
        if (units == 2) unit_sums(z, second, elements + UNIT, n == 0 ? next : 0);
        UNROLL for (int m = 0; m < MR; m++) {
            vi sum = join_units(a[m], z[m]);
            if (INT8_SHIFT != 0) sum += vi_load(row.shifts + b);
            acc[n][m] += __builtin_convertvector(sum, vf) * (w_scale[m] * vf_load(row.scales + b));
        }
    }
}

// As dot_tile, with Q8 weights, whose scales lie at w_scales (MR). 768 channels are whole units, and nothing is decided
// on the way through them: gcc puts what seems unlikely far away, and the loop then ran at half the speed (dev/CPU.md).
INLINE void q8_tile(v4f* sums, const char* const* w, const uint16_t* const* w_scales, const char* const* x, size_t C,
                    size_t next, int nr) {
    vf acc[NR][MR] = {{{0}}};
    size_t stride = dtype_row_stride(DTYPE_Q8, C), blocks = q8_num_scales(C), k = 0;
    const char* at[MR];
    for (; k + 2 * UNIT <= stride; k += 2 * UNIT) {
        UNROLL for (int m = 0; m < MR; m++) at[m] = w[m] + k;
        q8_units(acc, at, w_scales, x, C, k, VL, next, nr, 2);
    }
    if (stride - k == UNIT) {
        UNROLL for (int m = 0; m < MR; m++) at[m] = w[m] + k;
        q8_units(acc, at, w_scales, x, C, k, VL / 2, next, nr, 1);
    } else if (stride > k) { // the rows' end, copied, with zeros behind
        char last[MR][2 * UNIT] = {{0}};
        UNROLL for (int m = 0; m < MR; m++) at[m] = memcpy(last[m], w[m] + k, stride - k);
        q8_units(acc, at, w_scales, x, C, k, blocks - k / Q8_BLOCK, 0, nr, 2);
    }
    UNROLL for (int n = 0; n < nr; n++) sums[n] = sum_lanes4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
}

// ---------------------------------------------------------------------------------------------------------------------
// many rows: see "the matrix product with many rows" in cpu_kernels.c

// 32-bit steps of C elements, in whole vectors.
INLINE size_t q8_steps(size_t C) {
    return (q8_num_scales(C) * LANE_STEPS + VL - 1) / VL * VL;
}

// VL steps of a row from number `step` on; zeros behind its `stride` elements.
INLINE vi q8_row_steps(const void* row, size_t step, size_t stride) {
    size_t begin = step * LANE_ELEMENTS, rest = stride - begin;
    if (rest >= VL * LANE_ELEMENTS) return lane_steps((const char*)row + begin);
    char last[VL * LANE_ELEMENTS] = {0};
    return lane_steps(memcpy(last, (const char*)row + begin, rest));
}

// A row of a tile: the steps of a row of weights, then its scales as floats, both in whole vectors.
INLINE size_t q8_tile_row_bytes(size_t C) {
    return (q8_steps(C) + (q8_num_scales(C) + VL - 1) / VL * VL) * sizeof(float);
}

INLINE void q8_tile_row(void* to, const void* weights, const uint16_t* scales, size_t C) {
    size_t stride = dtype_row_stride(DTYPE_Q8, C), blocks = q8_num_scales(C), steps = q8_steps(C);
    float* out = to;
    for (size_t k = 0; k < steps; k += VL) {
        vi w = q8_row_steps(weights, k, stride);
        vf_store(out + k, (vf)(INT8_SHIFT != 0 ? w ^ (int32_t)0x80808080 : w));
    }
    for (size_t b = 0; b < blocks; b += VL) vf_store(out + steps + b, scales_widen(scales + b, blocks - b));
}

// Of n packed rows the numbers [0, count) that begin `offset` bytes in, `per_block` for each block, become numbers
// `first` and following of the blocks of a group.
INLINE void q8_group_numbers(void* group, const char* packed, size_t bytes, size_t n, size_t offset, size_t count,
                             size_t per_block, size_t first) {
    for (size_t k = 0; k < count; k += VL) {
        vf rows[VL];
        UNROLL for (size_t r = 0; r < VL; r++) {
            const char* at = packed + r * bytes + offset;
            if (r >= n) rows[r] = (vf){0};
            else rows[r] = per_block > 1 ? (vf)lane_steps(at + k * LANE_ELEMENTS) : vf_load(at + k * sizeof(float));
        }
        transpose(rows);
        for (size_t i = 0; i < VL && k + i < count; i++) {
            size_t number = k + i, block = number / per_block, place = first + number % per_block;
            vf_store((float*)group + (block * (LANE_STEPS + 2) + place) * VL, rows[i]);
        }
    }
}

// n packed rows become a group (blocks, LANE_STEPS + 2, VL): steps, then the scale, then the shift, a lane for each row.
static void q8_group_rows(void* group, const void* packed, size_t bytes, size_t n, size_t C) {
    size_t blocks = q8_num_scales(C);
    Q8Row row = q8_row(packed, C); // the first
    const char *start = packed, *scales = (const char*)row.scales, *shifts = (const char*)row.shifts;
    q8_group_numbers(group, packed, bytes, n, 0, blocks * LANE_STEPS, LANE_STEPS, 0);
    q8_group_numbers(group, packed, bytes, n, (size_t)(scales - start), blocks, 1, LANE_STEPS);
    q8_group_numbers(group, packed, bytes, n, (size_t)(shifts - start), blocks, 1, LANE_STEPS + 1);
}

// acc (TALL_COLUMNS, groups) += block b of groups of rows times block b of a tile's rows of weights.
INLINE void q8_tall_block(vf (*acc)[TALL_GROUPS], const float* const* x, const char* const* w, size_t b, size_t C,
                          int groups) {
    vi sums[TALL_COLUMNS][TALL_GROUPS];
    const float* rows[TALL_GROUPS];
    UNROLL for (int g = 0; g < groups; g++) {
        rows[g] = x[g] + b * (LANE_STEPS + 2) * VL;
        vi shift = INT8_SHIFT != 0 ? vi_load(rows[g] + (LANE_STEPS + 1) * VL) : (vi){0};
        UNROLL for (int c = 0; c < TALL_COLUMNS; c++) sums[c][g] = shift;
    }
    for (size_t i = 0; i < LANE_STEPS; i++) { // not unrolled: gcc would add in another order and spill
        vi elements[TALL_GROUPS];
        UNROLL for (int g = 0; g < groups; g++) elements[g] = vi_load(rows[g] + i * VL);
        UNROLL for (int c = 0; c < TALL_COLUMNS; c++) {
            int32_t weights;
            memcpy(&weights, w[c] + (b * LANE_STEPS + i) * sizeof weights, sizeof weights);
            UNROLL for (int g = 0; g < groups; g++) sums[c][g] = lane_dot(sums[c][g], weights - (vi){0}, elements[g]);
        }
    }
    UNROLL for (int c = 0; c < TALL_COLUMNS; c++) {
        float scale;
        memcpy(&scale, w[c] + (q8_steps(C) + b) * sizeof scale, sizeof scale);
        UNROLL for (int g = 0; g < groups; g++) {
            vf x_scale = vf_load(rows[g] + LANE_STEPS * VL);
            acc[c][g] += __builtin_convertvector(sums[c][g], vf) * (vf_set(scale) * x_scale);
        }
    }
}

// acc (2, TALL_COLUMNS, groups): lanes i and i + LANE_PAIRS of a tile's sums.
INLINE void q8_tall_pair(TallSums* acc, const float* const* x, const char* const* w, size_t i, size_t C, int groups) {
    for (size_t b = i; b < q8_num_scales(C); b += VL) q8_tall_block(acc[0], x, w, b, C, groups);
    for (size_t b = i + LANE_PAIRS; b < q8_num_scales(C); b += VL) q8_tall_block(acc[1], x, w, b, C, groups);
}

#endif
