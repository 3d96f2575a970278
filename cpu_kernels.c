// One variant of the CPU kernels: compiled once per instruction set with -DVARIANT=name (see Makefile).
//
// Vectors are the compiler's own (GCC and clang vector extensions), VL floats wide; intrinsics appear only where an
// instruction has no portable spelling (bf16 and int8 dot products, binary16 conversion).
#include "cpu_kernels.h"

#include <math.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
enum { VL = 16 };
#elif defined(__AVX2__)
enum { VL = 8 };
#else
enum { VL = 4 }; // SSE2, NEON, or whatever the compiler makes of four floats
#endif

// The variants that only Intel's processors prefer (cpu_variants.h): what was measured on one of them holds there.
#if defined(__AVXVNNI__) || (defined(__AVX512F__) && !defined(__AVX512BF16__))
enum { IS_INTELS = 1 };
#else
enum { IS_INTELS = 0 };
#endif

// A tile of the matrix product: MR rows of weights times NR rows of activations stay in registers.
enum { MR = 4 };
#if defined(__AVX512F__) || defined(__aarch64__)
enum { NR = 6 }; // 24 of 32 registers accumulate
#else
enum { NR = 3 }; // 12 of 16
#endif

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));
typedef uint16_t vh __attribute__((vector_size(2 * VL)));
typedef float v4f __attribute__((vector_size(16)));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#if defined(__AVX512F__)
#define UNROLL_STEPS _Pragma("GCC unroll 4") // of the product for many rows; in 16 registers two do not fit
#else
#define UNROLL_STEPS
#endif

INLINE vf vf_load(const void* p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void vf_store(void* p, vf v) {
    memcpy(p, &v, sizeof v);
}
INLINE vf vf_set(float x) {
    return x - (vf){0};
}
INLINE vf vf_select(vi mask, vf yes, vf no) {
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}
INLINE vf vf_max(vf a, vf b) {
#if defined(__AVX512F__) // gcc 12 makes three instructions of the other
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return vf_select(a > b, a, b);
#endif
}

#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)

// Halves of a vector, for sums across lanes. The order of such a sum is the same everywhere in this file:
// lane i meets lane i + VL / 2, then the halves of that, down to two lanes.
#if defined(__AVX512F__)
INLINE v4f sum_lanes4(vf a, vf b, vf c, vf d) {
    vf ab = SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
            SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    vf cd = SHUFFLE(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
            SHUFFLE(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    vf abcd = SHUFFLE(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
              SHUFFLE(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    abcd += SHUFFLE(abcd, abcd, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    abcd += SHUFFLE(abcd, abcd, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return SHUFFLE(abcd, abcd, 0, 4, 8, 12);
}
#elif defined(__AVX2__)
INLINE v4f sum_lanes4(vf a, vf b, vf c, vf d) {
    vf ab = SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    vf cd = SHUFFLE(c, d, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
    vf even = SHUFFLE(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) + SHUFFLE(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15); // a c b d
    even += SHUFFLE(even, even, 1, 0, 3, 2, 5, 4, 7, 6);
    return SHUFFLE(even, even, 0, 4, 2, 6);
}
#else
INLINE v4f sum_lanes4(vf a, vf b, vf c, vf d) {
    v4f a02 = {a[0] + a[2], b[0] + b[2], c[0] + c[2], d[0] + d[2]};
    v4f a13 = {a[1] + a[3], b[1] + b[3], c[1] + c[3], d[1] + d[3]};
    return a02 + a13;
}
#endif

INLINE float sum_lanes(vf a) {
    return sum_lanes4(a, a, a, a)[0];
}

INLINE float max_lanes(vf a) {
#if defined(__AVX512F__)
    a = vf_max(a, SHUFFLE(a, a, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    a = vf_max(a, SHUFFLE(a, a, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
#elif defined(__AVX2__)
    a = vf_max(a, SHUFFLE(a, a, 4, 5, 6, 7, 0, 1, 2, 3));
#endif
    float largest = a[0];
    UNROLL for (int i = 1; i < 4; i++) largest = a[i] > largest ? a[i] : largest;
    return largest;
}

// ---------------------------------------------------------------------------------------------------------------------
// elementary functions

// eˣ for x <= 88, 0 below -87.3: x = n ln 2 + r, a polynomial for eʳ on |r| <= ln 2 / 2 (relative error below 1e-7),
// times 2ⁿ put into the exponent. ln 2 is split in two so that r is exact.
INLINE vf vf_exp(vf x) {
    vf n = x * 1.44269504f + 12582912.0f; // 1.5 * 2^23: the low bits of the sum hold the rounded integer
    vu bits = (vu)n;
    n -= 12582912.0f;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vf result = (vf)((vu)p + (bits << 23));
    return vf_select(x > -87.3f, result, (vf){0});
}

// GELU in its tanh form (Hendrycks and Gimpel 2016; GPT-2's): x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x³).
// As (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u)), it is x / (1 + e^(-2u)).
INLINE vf vf_gelu(vf x) {
    vf minus_2u = -1.5957691216f * (x + 0.044715f * x * x * x);
    minus_2u = vf_select(minus_2u > 80.0f, vf_set(80.0f), minus_2u); // e^80: the quotient is 0 to f32
    return x / (1.0f + vf_exp(minus_2u));
}

// ---------------------------------------------------------------------------------------------------------------------
// binary16, transposition, and what Q8 weights need

#if defined(__AVX512F__)
INLINE vf f16_widen(const void* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}
#elif defined(__AVX2__) && defined(__F16C__)
INLINE vf f16_widen(const void* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
#elif defined(__aarch64__)
INLINE vf f16_widen(const void* p) {
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)p)));
}
#else
// Exponent and mantissa move into place and 2^112 corrects the bias, exactly, subnormals included; exponent 31
// (infinity, NaN) becomes 255.
INLINE vf f16_widen(const void* p) {
    vh half;
    memcpy(&half, p, sizeof half);
    vu bits = __builtin_convertvector(half, vu);
    vu magnitude = (bits & 0x7fff) << 13;
    vu special = (vu)((vi)(magnitude >= 0x0f800000)) & 0x7f800000;
    vf scaled = (vf)magnitude * 0x1p112f;
    return (vf)((vu)scaled | special | (bits & 0x8000) << 16);
}
#endif

// Lane l of the two rows of a transposition that exchange blocks of D lanes.
#define LOW(l, D)       ((l) & (D) ? VL + (l) - (D) : (l))
#define HIGH(l, D)      ((l) & (D) ? VL + (l) : (l) + (D))
#define LANES4(F, l, D) F(l, D), F((l) + 1, D), F((l) + 2, D), F((l) + 3, D)
#if defined(__AVX512F__)
#define LANES(F, D) LANES4(F, 0, D), LANES4(F, 4, D), LANES4(F, 8, D), LANES4(F, 12, D)
#elif defined(__AVX2__)
#define LANES(F, D) LANES4(F, 0, D), LANES4(F, 4, D)
#else
#define LANES(F, D) LANES4(F, 0, D)
#endif
#define TRANSPOSE_BLOCKS(D)                                                                                            \
    UNROLL for (int r = 0; r < VL; r++) {                                                                              \
        if (r & (D)) continue;                                                                                         \
        vf a = rows[r], b = rows[r | (D)];                                                                             \
        rows[r] = SHUFFLE(a, b, LANES(LOW, D));                                                                        \
        rows[r | (D)] = SHUFFLE(a, b, LANES(HIGH, D));                                                                 \
    }

// rows (VL, VL) transposed.
INLINE void transpose(vf* rows) {
#if defined(__AVX512F__)
    TRANSPOSE_BLOCKS(8)
#endif
#if defined(__AVX512F__) || defined(__AVX2__)
    TRANSPOSE_BLOCKS(4)
#endif
    TRANSPOSE_BLOCKS(2)
    TRANSPOSE_BLOCKS(1)
}

// A tile of the product with many rows: up to TALL_GROUPS vectors of rows by TALL_COLUMNS columns, for one pair of
// lanes.
enum { TALL_GROUPS = 2, TALL_COLUMNS = NR, LANE_PAIRS = VL / 2 };
typedef vf TallSums[TALL_COLUMNS][TALL_GROUPS];

#include "cpu_q8.h"

// ---------------------------------------------------------------------------------------------------------------------
// packed activations

// How a product with weights of some dtype is computed.
//   WIDEN_*        weights are widened to f32, activations are f32
//   BF16_BY_BF16   the processor's bf16 dot product: activations are rounded to bf16
//   INT8_BY_INT8   integer dot products of blocks: activations are rounded to int8 with a scale per block
//   UNPACK_*       BF16Z weights are unpacked, the rest is as without
typedef enum {
    WIDEN_F32,
    WIDEN_BF16,
    WIDEN_F16,
    BF16_BY_BF16,
    INT8_BY_INT8,
    UNPACK_WIDEN_BF16,
    UNPACK_BF16_BY_BF16
} Arithmetic;

// What is done with weights once they are unpacked.
INLINE Arithmetic unpacked(Arithmetic arithmetic) {
    return arithmetic == UNPACK_WIDEN_BF16 ? WIDEN_BF16 : arithmetic == UNPACK_BF16_BY_BF16 ? BF16_BY_BF16 : arithmetic;
}

// Rounding activations to bf16 costs up to 2^-9 of each term; in long sums that averages out (logits of GPT-2 shapes
// move by less than half a percent of the largest), in short ones it does not, and there speed does not matter.
enum { LONG_SUM = 512 };

static Arithmetic arithmetic_of(DType dtype, size_t C) {
    switch (dtype) {
    case DTYPE_F32: return WIDEN_F32;
#if defined(__AVX512BF16__)
    case DTYPE_BF16: return C >= LONG_SUM ? BF16_BY_BF16 : WIDEN_BF16;
#else
    case DTYPE_BF16: return (void)C, WIDEN_BF16;
#endif
    case DTYPE_F16: return WIDEN_F16;
    case DTYPE_BF16Z: return arithmetic_of(DTYPE_BF16, C) == WIDEN_BF16 ? UNPACK_WIDEN_BF16 : UNPACK_BF16_BY_BF16;
    default: return INT8_BY_INT8;
    }
}

enum { PAD = 64 }; // elements; a packed row is padded with zeros to whole vectors of every format

INLINE size_t padded(size_t C) {
    return (C + PAD - 1) / PAD * PAD;
}

// A packed row for Q8 weights may become part of a group, which has more bytes: see cpu_q8.h.
static size_t packed_row_bytes(DType dtype, size_t C) {
    switch (unpacked(arithmetic_of(dtype, C))) {
    case INT8_BY_INT8: return q8_padded_blocks(C) * Q8_BLOCK_BYTES;
    case BF16_BY_BF16: return padded(C) * sizeof(uint16_t);
    default: return padded(C) * sizeof(float);
    }
}

static void pack_bf16(uint16_t* out, const float* in, size_t C) {
    for (size_t i = 0; i < C; i++) out[i] = f32_to_bf16(in[i]);
    memset(out + C, 0, (padded(C) - C) * sizeof *out);
}

static void pack_f32(float* out, const float* in, size_t C) {
    memcpy(out, in, C * sizeof *out);
    memset(out + C, 0, (padded(C) - C) * sizeof *out);
}

// In the order in which bf16_widen gives weights: the even ones of 2 VL elements, then the odd ones.
static void pack_pairs(float* out, const float* in, size_t C) {
    memset(out + C, 0, (padded(C) - C) * sizeof *out);
    for (size_t begin = 0; begin < C; begin += 2 * VL) {
        float last[2 * VL] = {0};
        const float* pairs = in + begin; // (VL, 2)
        if (C - begin < 2 * VL) pairs = memcpy(last, pairs, (C - begin) * sizeof *in);
        for (size_t i = 0; i < VL; i++) out[begin + i] = pairs[2 * i];
        for (size_t i = 0; i < VL; i++) out[begin + VL + i] = pairs[2 * i + 1];
    }
}

static void pack_row(void* out, const float* in, DType dtype, size_t C) {
    switch (unpacked(arithmetic_of(dtype, C))) {
    case INT8_BY_INT8: pack_q8(out, in, C); return;
    case BF16_BY_BF16: pack_bf16(out, in, C); return;
    case WIDEN_BF16: pack_pairs(out, in, C); return;
    default: pack_f32(out, in, C); return;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// dot products with f32, bf16 and f16 weights

// VL floats rounded to binary16, by one instruction where there is one.
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__F16C__)) || defined(__aarch64__)
enum { F16_BY_VECTORS = 1 };
#else
enum { F16_BY_VECTORS = 0 };
#endif
INLINE void f16_store(uint16_t* out, vf x) {
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i*)out, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__AVX2__) && defined(__F16C__)
    _mm_storeu_si128((__m128i*)out, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
    vst1_u16(out, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)x)));
#else
    row_from_f32(out, NULL, (const float*)&x, DTYPE_F16, VL);
#endif
}

// n floats rounded to binary16.
static void f16_narrow(uint16_t* out, const float* in, size_t n) {
    size_t i = 0;
    for (; F16_BY_VECTORS && i + VL <= n; i += VL) f16_store(out + i, vf_load(in + i));
    row_from_f32(out + i, NULL, in + i, DTYPE_F16, n - i);
}

// Elements of a row that one vector of a product takes in; the steps that weights are loaded for at once; and how many
// steps C elements fill, or take, in whole pairs where it is two at once.
INLINE size_t step_elements(Arithmetic arithmetic) {
    return unpacked(arithmetic) == BF16_BY_BF16 ? 2 * VL : VL;
}
INLINE size_t steps_at_once(Arithmetic arithmetic) {
    return unpacked(arithmetic) == WIDEN_BF16 ? 2 : 1;
}
INLINE size_t whole_steps(Arithmetic arithmetic, size_t C) {
    return C / (step_elements(arithmetic) * steps_at_once(arithmetic)) * steps_at_once(arithmetic);
}
INLINE size_t num_steps(Arithmetic arithmetic, size_t C) {
    return whole_steps(arithmetic, C + step_elements(arithmetic) * steps_at_once(arithmetic) - 1);
}

// A long row is summed in segments, about equally long: first the lanes of each, then the segments one after the other.
// With them the product for many rows stays in the first-level cache.
enum { MOST_SEGMENT_STEPS = 48 * 16 / VL };

// Steps of a segment, whole pairs; the last one may have fewer.
static size_t segment_steps(size_t steps) {
    const size_t segments = (steps + MOST_SEGMENT_STEPS - 1) / MOST_SEGMENT_STEPS;
    return ((steps + segments - 1) / segments + 1) / 2 * 2;
}

// The 2 VL bf16 weights at w, the even ones and the odd ones: each is the upper half of a float. One instruction makes a
// vector of either, which counts where instructions do (dev/CPU.md); in the order of the row it takes two.
typedef struct {
    vf even, odd;
} Pairs;

INLINE Pairs bf16_widen(const void* w) {
    vu pairs = (vu)vf_load(w);
    return (Pairs){(vf)(pairs << 16), (vf)(pairs & 0xffff0000)};
}

// sum + w · x for the steps at once of weights at w and activations at x, lane by lane.
INLINE vf dot_add(vf sum, const void* w, const void* x, Arithmetic arithmetic) {
#if defined(__AVX512BF16__)
    if (arithmetic == BF16_BY_BF16) {
        return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_loadu_si512(x));
    }
#endif
    if (arithmetic == WIDEN_BF16) {
        Pairs weights = bf16_widen(w);
        sum += weights.even * vf_load(x);
        return sum + weights.odd * vf_load((const vf*)x + 1);
    }
    return sum + (arithmetic == WIDEN_F32 ? vf_load(w) : f16_widen(w)) * vf_load(x);
}

// Requests what lies `near` bytes behind weights at w that are read for the first time. Intel's cores have too few
// requests of the first-level cache under way to fill their share of the bandwidth: there the second-level cache is asked
// too, for what lies `far` bytes behind (dev/CPU.md).
INLINE void request(const char* w, size_t near, size_t far) {
    __builtin_prefetch(w + near);
    if (IS_INTELS) __builtin_prefetch(w + far, 0, 2);
}

// acc (nr, MR) += steps [first, last) of w (MR rows, by pointer) · x (nr packed rows, by pointer), C elements each;
// `next`: see dot_tile.
INLINE void dot_steps(vf (*acc)[MR], const char* const* w, const char* const* x, size_t first, size_t last, size_t C,
                      Arithmetic arithmetic, size_t next, int nr) {
    const size_t w_size = arithmetic == WIDEN_F32 ? 4 : 2, step = step_elements(arithmetic);
    const size_t at_once = steps_at_once(arithmetic), whole = whole_steps(arithmetic, C);
    const size_t w_step = step * w_size, x_step = sizeof(vf); // bytes
    const size_t end = last < whole ? last : whole;
    // by twos: with segments the loop ends more often, which cost 1 % of a token's time (dev/CPU.md)
    _Pragma("GCC unroll 2") for (size_t k = first; k < end; k += at_once) {
        UNROLL for (int m = 0; m < MR; m++) {
            if (next > 0) request(w[m] + k * w_step, next, 3 * next);
            UNROLL for (int n = 0; n < nr; n++) acc[n][m] =
                dot_add(acc[n][m], w[m] + k * w_step, x[n] + k * x_step, arithmetic);
        }
    }
    if (last > whole) { // the packed rows are padded with zeros, the weights are not
        char rest[MR][64] = {{0}};
        for (int m = 0; m < MR; m++) memcpy(rest[m], w[m] + whole * w_step, (C - whole * step) * w_size);
        UNROLL for (int m = 0; m < MR; m++) {
            UNROLL for (int n = 0; n < nr; n++) acc[n][m] =
                dot_add(acc[n][m], rest[m], x[n] + whole * x_step, arithmetic);
        }
    }
}

// The rows of weights of a tile.
typedef struct {
    const char* w[MR];
    const uint16_t* scales[MR];              // Q8
    const uint32_t *rare[MR], *rare_end[MR]; // BF16Z: those still to come
} WeightRows;

#include "cpu_bf16z.h"

// sums (nr, MR) = w · x, in segments of so many steps. What lies `next` bytes behind each of the weights, which are
// read for the first time, is requested now; 0: nothing is.
INLINE void dot_tile(v4f* sums, WeightRows* rows, const uint8_t* common, const char* const* x, size_t C, size_t segment,
                     Arithmetic arithmetic, size_t next, int nr) {
    size_t steps = num_steps(arithmetic, C), first = 0;
    do {
        vf acc[NR][MR] = {{{0}}};
        size_t last = first + segment < steps ? first + segment : steps;
        if (unpacked(arithmetic) != arithmetic) {
            bf16z_dot_steps(acc, rows, vb_table(common), x, first, last, unpacked(arithmetic), next, nr);
        } else {
            dot_steps(acc, rows->w, x, first, last, C, arithmetic, next, nr);
        }
        UNROLL for (int n = 0; n < nr; n++) {
            v4f sum = sum_lanes4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
            sums[n] = first == 0 ? sum : sums[n] + sum;
        }
        first += segment;
    } while (first < steps);
}

// ---------------------------------------------------------------------------------------------------------------------
// the matrix product

// What a product needs to know besides the position of a tile.
typedef struct {
    float* out;         // (R, OC)
    const char* inp;    // (R) packed rows
    const char* weight; // (OC) rows
    const uint16_t* scales;
    const uint8_t* common;
    const uint32_t *rare, *rare_starts;
    const float* bias; // (OC) or NULL
    size_t C, OC, end, inp_bytes, weight_bytes, num_scales;
    size_t segment; // steps
    Epilogue epilogue;
} Product;

// Rows r .. r + count - 1 (count <= nr), columns o, o + apart, o + 2 apart, ... of the result, MR of them. Past the
// last row and column the tile repeats the last one and drops what it computed there. `next`: see dot_tile.
INLINE void product_tile(const Product* p, Arithmetic arithmetic, size_t r, size_t count, size_t o, size_t apart,
                         size_t next, int nr) {
    const char* x[NR];
    WeightRows rows;
    UNROLL for (size_t m = 0; m < MR; m++) {
        size_t row = o + m * apart < p->end ? o + m * apart : p->end - 1;
        rows.w[m] = p->weight + row * p->weight_bytes;
        rows.scales[m] = p->scales + row * p->num_scales;
        if (unpacked(arithmetic) == arithmetic) continue;
        rows.rare[m] = p->rare + p->rare_starts[row];
        rows.rare_end[m] = p->rare + p->rare_starts[row + 1];
    }
    UNROLL for (size_t n = 0; n < (size_t)nr; n++) x[n] = p->inp + (r + (n < count ? n : count - 1)) * p->inp_bytes;
    v4f sums[NR];
    if (arithmetic == INT8_BY_INT8) {
        q8_tile(sums, rows.w, rows.scales, x, p->C, next, nr);
    } else {
        dot_tile(sums, &rows, p->common, x, p->C, p->segment, arithmetic, next, nr);
    }
    for (size_t n = 0; n < count; n++) {
        float* out = p->out + (r + n) * p->OC;
        for (size_t m = 0; m < MR && o + m * apart < p->end; m++) {
            size_t column = o + m * apart;
            float y = sums[n][m] + (p->bias != NULL ? p->bias[column] : 0.0f);
            out[column] = p->epilogue == EPILOGUE_ADD ? out[column] + y : y;
        }
    }
}

// out[0 .. n) = GELU(out[0 .. n))
static void gelu_forward(float* out, size_t n) {
    size_t i = 0;
    for (; i + VL <= n; i += VL) vf_store(out + i, vf_gelu(vf_load(out + i)));
    if (i == n) return;
    vf x = {0};
    memcpy(&x, out + i, (n - i) * sizeof(float));
    x = vf_gelu(x);
    memcpy(out + i, &x, (n - i) * sizeof(float));
}

enum { STREAM_AHEAD = 1024 }; // bytes; 1.5 KB is as good but for q8, a whole row of 6 KB is not (dev/CPU.md)

// Columns [begin, p->end) for few rows, nr at a time. What counts is how memory is read: the MR rows of a tile come from
// MR streams, each of which goes straight through its part of the weights, and meet all rows of activations before the
// next ones are read.
INLINE void product_streams(const Product* p, Arithmetic arithmetic, size_t R, size_t begin, int nr) {
    size_t apart = (p->end - begin + MR - 1) / MR;
    for (size_t i = 0; i < apart; i++) {
        product_tile(p, arithmetic, 0, R < (size_t)nr ? R : (size_t)nr, begin + i, apart, STREAM_AHEAD, nr);
        for (size_t r = (size_t)nr; r < R; r += (size_t)nr) {
            product_tile(p, arithmetic, r, R - r < (size_t)nr ? R - r : (size_t)nr, begin + i, apart, 0, nr);
        }
    }
    for (size_t n = 0; n < R && p->epilogue == EPILOGUE_GELU; n++) {
        gelu_forward(p->out + n * p->OC + begin, p->end - begin);
    }
}

enum { FEW_ROWS = NR > 4 ? 4 : NR };

// From 5 rows on Q8 takes the product for many rows (rows_for_tall), so that wider tiles would hardly be used.
INLINE void product_columns(const Product* p, Arithmetic arithmetic, size_t R, size_t begin) {
    const int most = arithmetic == INT8_BY_INT8 ? FEW_ROWS : NR;
    if (R == 1) product_streams(p, arithmetic, 1, begin, 1);
    else if (R == 2) product_streams(p, arithmetic, 2, begin, 2);
    else if (R <= FEW_ROWS) product_streams(p, arithmetic, R, begin, FEW_ROWS);
    else product_streams(p, arithmetic, R, begin, most);
}

static Product product_of(float* out, const void* inp, const Tensor* weight, const float* bias, size_t C, size_t OC,
                          size_t end, Epilogue epilogue) {
    return (Product){
        .out = out,
        .inp = inp,
        .weight = weight->data,
        .scales = weight->scales,
        .common = weight->common,
        .rare = weight->rare,
        .rare_starts = weight->rare_starts,
        .bias = bias,
        .C = C,
        .OC = OC,
        .end = end,
        .inp_bytes = packed_row_bytes(weight->dtype, C),
        .weight_bytes = dtype_stride_bytes(weight->dtype, C),
        .num_scales = q8_num_scales(C),
        .segment = segment_steps(num_steps(arithmetic_of(weight->dtype, C), C)),
        .epilogue = epilogue,
    };
}

static void matmul(float* out, const void* inp, const Tensor* weight, const float* bias, size_t R, size_t C, size_t OC,
                   size_t begin, size_t end, Epilogue epilogue) {
    Product p = product_of(out, inp, weight, bias, C, OC, end, epilogue);
    if (begin >= end) return;
    switch (arithmetic_of(weight->dtype, C)) { // each call is compiled for its arithmetic
    case WIDEN_F32: product_columns(&p, WIDEN_F32, R, begin); return;
    case WIDEN_BF16: product_columns(&p, WIDEN_BF16, R, begin); return;
    case WIDEN_F16: product_columns(&p, WIDEN_F16, R, begin); return;
    case UNPACK_WIDEN_BF16: product_columns(&p, UNPACK_WIDEN_BF16, R, begin); return;
    case INT8_BY_INT8: product_columns(&p, INT8_BY_INT8, R, begin); return;
#if defined(__AVX512BF16__)
    case BF16_BY_BF16: product_columns(&p, BF16_BY_BF16, R, begin); return;
    case UNPACK_BF16_BY_BF16: product_columns(&p, UNPACK_BF16_BY_BF16, R, begin); return;
#endif
    default: return;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// the matrix product with many rows

#include "cpu_tall.h"

// Where both products take floats, and whole vectors of them.
static bool leaves_groups(DType dtype, size_t C, size_t OC) {
    Arithmetic arithmetic = unpacked(arithmetic_of(dtype, C));
    return arithmetic == unpacked(arithmetic_of(dtype, OC)) && arithmetic != BF16_BY_BF16 &&
           arithmetic != INT8_BY_INT8 && padded(OC) == OC;
}

// Measured (dev/CPU.md). When all other rows fill groups, few that are left are faster multiplied as few rows: the
// weights, just read, come from a cache. More of them make a group, which takes as long as a full one.
static size_t rows_for_tall(DType dtype, size_t R) {
    size_t from = 13, most_left = 6;
    switch (arithmetic_of(dtype, LONG_SUM)) {
    case INT8_BY_INT8: from = 5, most_left = 2; break;
    case WIDEN_F32: from = VL == 16 && IS_INTELS ? 25 : from; break;
    case WIDEN_BF16:
    case WIDEN_F16: from = VL == 16 ? 25 : from; break; // a group has its weights widened and stored before
    default: break;
    }
    if (R < from) return 0;
    return R % VL <= most_left ? R / VL * VL : R;
}

// Weights in f32 with so few rows that many lines are to be requested in a short time (measured with AVX-512). Beside the
// others in one function gcc would keep some of their innermost loops' numbers in memory.
static __attribute__((noinline)) void tall_columns_spread(const Product* p, size_t R, size_t begin, char* tile) {
    tall_columns(p, WIDEN_F32, R, begin, tile, true);
}

static void matmul_tall(float* out, const void* inp, const Tensor* weight, const float* bias, size_t R, size_t C,
                        size_t OC, size_t begin, size_t end, Epilogue epilogue, void* tile) {
    Product p = product_of(out, inp, weight, bias, C, OC, end, epilogue);
    switch (arithmetic_of(weight->dtype, C)) {
    case WIDEN_F32:
        if (VL == 16 && R <= 64) tall_columns_spread(&p, R, begin, tile);
        else tall_columns(&p, WIDEN_F32, R, begin, tile, false);
        return;
    case WIDEN_BF16: tall_columns(&p, WIDEN_BF16, R, begin, tile, false); return;
    case WIDEN_F16: tall_columns(&p, WIDEN_F16, R, begin, tile, false); return;
    case UNPACK_WIDEN_BF16: tall_columns(&p, UNPACK_WIDEN_BF16, R, begin, tile, false); return;
    case INT8_BY_INT8: tall_columns(&p, INT8_BY_INT8, R, begin, tile, false); return;
#if defined(__AVX512BF16__)
    case BF16_BY_BF16: tall_columns(&p, BF16_BY_BF16, R, begin, tile, false); return;
    case UNPACK_BF16_BY_BF16: tall_columns(&p, UNPACK_BF16_BY_BF16, R, begin, tile, false); return;
#endif
    default: return;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// LayerNorm

// VL floats at in + i, or the rest of C with zeros behind it.
INLINE vf load_rest(const float* in, size_t i, size_t C) {
    if (C - i >= VL) return vf_load(in + i);
    vf v = {0};
    memcpy(&v, in + i, (C - i) * sizeof(float));
    return v;
}

static void layernorm(float* out, const float* in, const float* weight, const float* bias, size_t C) {
    vf sum = {0}, squares = {0};
    for (size_t i = 0; i < C; i += VL) sum += load_rest(in, i, C);
    float mean = sum_lanes(sum) / (float)C;
    for (size_t i = 0; i < C; i += VL) {
        vf d = load_rest(in, i, C) - mean;
        if (C - i < VL) {
            for (size_t lane = C - i; lane < VL; lane++) d[lane] = 0;
        }
        squares += d * d;
    }
    float rstd = 1.0f / sqrtf(sum_lanes(squares) / (float)C + 1e-5f);
    for (size_t i = 0; i < C; i++) out[i] = (in[i] - mean) * rstd * weight[i] + bias[i];
}

// ---------------------------------------------------------------------------------------------------------------------
// attention

// Where channel d of the key at some position is. The next position of its block follows, the next channel is KEY_BLOCK
// further on.
INLINE size_t key_index(size_t position, size_t d, size_t hs) {
    return (position / KEY_BLOCK * hs + d) * KEY_BLOCK + position % KEY_BLOCK;
}

// A whole block of keys from position `first` on, rows `stride` floats apart: all channels that fill vectors are
// transposed in registers. Returns how many; none where binary16 is made number by number, better a row at a time.
static size_t store_key_block(const HeadCache* cache, const float* key, size_t stride, size_t hs, size_t first) {
    size_t d = 0;
    if (!F16_BY_VECTORS && cache->dtype == DTYPE_F16) return 0;
    for (; d + VL <= hs; d += VL) {
        UNROLL for (size_t k = 0; k < KEY_BLOCK; k += VL) {
            vf rows[VL];
            UNROLL for (size_t r = 0; r < VL; r++) rows[r] = vf_load(key + (k + r) * stride + d);
            transpose(rows);
            UNROLL for (size_t i = 0; i < VL; i++) {
                size_t at = key_index(first + k, d + i, hs);
                if (cache->dtype == DTYPE_F32) vf_store((float*)cache->keys + at, rows[i]);
                else f16_store((uint16_t*)cache->keys + at, rows[i]);
            }
        }
    }
    return d;
}

// One key, from channel d on.
static void store_key(const HeadCache* cache, const float* key, size_t d, size_t hs, size_t position) {
    uint16_t half[64];
    for (; d < hs && cache->dtype == DTYPE_F32; d++) ((float*)cache->keys)[key_index(position, d, hs)] = key[d];
    for (size_t n; d < hs; d += n) {
        n = hs - d < 64 ? hs - d : 64;
        f16_narrow(half, key + d, n);
        for (size_t i = 0; i < n; i++) ((uint16_t*)cache->keys)[key_index(position, d + i, hs)] = half[i];
    }
}

static void store_value(const HeadCache* cache, const float* value, size_t hs, size_t position) {
    size_t size = dtype_size(cache->dtype), row = padded_head_size(hs);
    char* out = (char*)cache->values + position * row * size;
    if (cache->dtype == DTYPE_F32) memcpy(out, value, hs * size);
    else f16_narrow((uint16_t*)(void*)out, value, hs);
    memset(out + hs * size, 0, (row - hs) * size);
}

static void cache_store(const HeadCache* cache, const float* key, const float* value, size_t stride, size_t hs,
                        size_t first, size_t n) {
    size_t rest = 0; // channels of the block at hand that are not stored yet begin here
    for (size_t i = 0; i < n; i++) {
        if ((first + i) % KEY_BLOCK == 0) {
            rest = n - i < KEY_BLOCK ? 0 : store_key_block(cache, key + i * stride, stride, hs, first + i);
        }
        store_key(cache, key + i * stride, rest, hs, first + i);
        store_value(cache, value + i * stride, hs, first + i);
    }
}

enum { KEYS_AHEAD = 16 * 1024, VALUES_AHEAD = 4096 }; // bytes (dev/CPU.md)

INLINE size_t cache_size(DType dtype) {
    return dtype == DTYPE_F32 ? 4 : 2;
}
INLINE vf cache_load(const char* p, DType dtype) {
    return dtype == DTYPE_F32 ? vf_load(p) : f16_widen(p);
}

// scores (nq, KEY_BLOCK * nb) = q · kᵀ * scale for nb consecutive blocks of keys. What is summed for a key is the same
// for every nq and nb: they only keep enough sums going at a time.
INLINE void attention_score_blocks(float* scores, size_t scores_stride, const float* q, size_t q_stride,
                                   const char* keys, size_t hs, float scale, DType dtype, int nq, int nb) {
    enum { MAX_SUMS = 2 * ATTENTION_MAX_QUERIES };
    size_t size = cache_size(dtype), block_bytes = hs * KEY_BLOCK * size;
    UNROLL for (int lane = 0; lane < KEY_BLOCK; lane += VL) {
        vf acc[MAX_SUMS] = {{0}}; // (nb, nq), nb * nq <= MAX_SUMS
        for (size_t d = 0; d < hs; d++) {
            UNROLL for (int b = 0; b < nb; b++) {
                const char* at = keys + (size_t)b * block_bytes + (d * KEY_BLOCK + (size_t)lane) * size;
                if (nq == 1) __builtin_prefetch(at + KEYS_AHEAD);
                vf key = cache_load(at, dtype);
                UNROLL for (int n = 0; n < nq; n++) acc[b * nq + n] += key * q[(size_t)n * q_stride + d];
            }
        }
        UNROLL for (int b = 0; b < nb; b++) {
            UNROLL for (int n = 0; n < nq; n++) {
                vf_store(scores + (size_t)n * scores_stride + b * KEY_BLOCK + lane, acc[b * nq + n] * scale);
            }
        }
    }
}

// scores (nq, blocks * KEY_BLOCK) = q · kᵀ * scale
INLINE void attention_scores(float* scores, size_t scores_stride, const float* q, size_t q_stride, const char* keys,
                             size_t hs, size_t blocks, float scale, DType dtype, int nq) {
    const size_t together = nq == 1 ? 4 : NR > 4 ? 2 : 1; // blocks; as many sums as registers hold
    size_t block_bytes = hs * KEY_BLOCK * cache_size(dtype), b = 0;
    for (; b + together <= blocks; b += together) {
        attention_score_blocks(scores + b * KEY_BLOCK, scores_stride, q, q_stride, keys + b * block_bytes, hs, scale,
                               dtype, nq, (int)together);
    }
    for (; b < blocks; b++) {
        attention_score_blocks(scores + b * KEY_BLOCK, scores_stride, q, q_stride, keys + b * block_bytes, hs, scale,
                               dtype, nq, 1);
    }
}

// scores[0 .. keys) becomes e^(score - largest), the rest up to the next block 0. Returns the sum.
static float attention_softmax(float* scores, size_t keys) {
    size_t end = (keys + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK;
    for (size_t t = keys; t < end; t++) scores[t] = -INFINITY; // the future, or nothing yet
    vf largest = vf_load(scores), sum = {0};
    for (size_t t = VL; t < end; t += VL) largest = vf_max(largest, vf_load(scores + t));
    float shift = max_lanes(largest);
    for (size_t t = 0; t < end; t += VL) {
        vf p = vf_exp(vf_load(scores + t) - shift);
        vf_store(scores + t, p);
        sum += p;
    }
    return sum_lanes(sum);
}

// Columns [d, d + nv * VL) of out (nq, hs) = scores (nq, keys) · values (keys, hs) * inverse (nq)
INLINE void attention_value_columns(float* out, size_t out_stride, const float* scores, size_t scores_stride,
                                    const char* values, size_t hs, size_t d, size_t keys, const float* inverse,
                                    DType dtype, int nq, int nv) {
    enum { MAX_SUMS = 2 * ATTENTION_MAX_QUERIES };
    size_t size = cache_size(dtype), row_bytes = padded_head_size(hs) * size;
    vf acc[MAX_SUMS] = {{0}}; // (nv, nq), nv * nq <= MAX_SUMS
    for (size_t t = 0; t < keys; t++) {
        UNROLL for (int v = 0; v < nv; v++) {
            const char* at = values + t * row_bytes + (d + (size_t)v * VL) * size;
            if (nq == 1) __builtin_prefetch(at + VALUES_AHEAD);
            vf value = cache_load(at, dtype);
            UNROLL for (int n = 0; n < nq; n++) acc[v * nq + n] += value * scores[(size_t)n * scores_stride + t];
        }
    }
    UNROLL for (int v = 0; v < nv; v++) {
        size_t start = d + (size_t)v * VL, count = start >= hs ? 0 : hs - start < VL ? hs - start : VL;
        UNROLL for (int n = 0; n < nq; n++) {
            vf y = acc[v * nq + n] * inverse[n];
            memcpy(out + (size_t)n * out_stride + start, &y, count * sizeof(float));
        }
    }
}

// out (nq, hs) = scores (nq, keys) · values (keys, hs) * inverse (nq)
INLINE void attention_values(float* out, size_t out_stride, const float* scores, size_t scores_stride,
                             const char* values, size_t hs, size_t keys, const float* inverse, DType dtype, int nq) {
    const int wide = nq == 1 ? 4 : NR > 4 ? 2 : 1; // vectors at a time: as many sums as registers hold
    size_t vectors = padded_head_size(hs) / VL, v = 0;
    for (; v + (size_t)wide <= vectors; v += (size_t)wide) {
        attention_value_columns(out, out_stride, scores, scores_stride, values, hs, v * VL, keys, inverse, dtype, nq,
                                wide);
    }
    for (; v < vectors; v++) {
        attention_value_columns(out, out_stride, scores, scores_stride, values, hs, v * VL, keys, inverse, dtype, nq,
                                1);
    }
}

// nq consecutive queries, the first at position `first`: all see the keys up to the last one's position, each then
// forgets those past its own.
INLINE void attention_tile(float* out, size_t out_stride, const float* q, size_t q_stride, const HeadCache* cache,
                           size_t hs, size_t first, float* scores, DType dtype, int nq) {
    size_t keys = first + (size_t)nq, blocks = (keys + KEY_BLOCK - 1) / KEY_BLOCK, stride = blocks * KEY_BLOCK;
    attention_scores(scores, stride, q, q_stride, cache->keys, hs, blocks, 1.0f / sqrtf((float)hs), dtype, nq);
    float inverse[ATTENTION_MAX_QUERIES];
    for (int n = 0; n < nq; n++) {
        float* row = scores + (size_t)n * stride;
        inverse[n] = 1.0f / attention_softmax(row, first + (size_t)n + 1);
        size_t own_end = (first + (size_t)n + KEY_BLOCK) / KEY_BLOCK * KEY_BLOCK;
        for (size_t t = own_end; t < stride; t++) row[t] = 0;
    }
    attention_values(out, out_stride, scores, stride, cache->values, hs, keys, inverse, dtype, nq);
}

INLINE void attention_typed(float* out, size_t out_stride, const float* q, size_t q_stride, const HeadCache* cache,
                            size_t hs, size_t first, size_t Q, float* scores, DType dtype) {
    if (Q == ATTENTION_MAX_QUERIES) {
        attention_tile(out, out_stride, q, q_stride, cache, hs, first, scores, dtype, ATTENTION_MAX_QUERIES);
        return;
    }
    for (size_t n = 0; n < Q; n++) {
        attention_tile(out + n * out_stride, out_stride, q + n * q_stride, q_stride, cache, hs, first + n, scores,
                       dtype, 1);
    }
}

static void attention(float* out, size_t out_stride, const float* q, size_t q_stride, const HeadCache* cache, size_t hs,
                      size_t first, size_t Q, float* scores) {
    if (cache->dtype == DTYPE_F32) {
        attention_typed(out, out_stride, q, q_stride, cache, hs, first, Q, scores, DTYPE_F32);
    } else {
        attention_typed(out, out_stride, q, q_stride, cache, hs, first, Q, scores, DTYPE_F16);
    }
}

#define STRINGIFY_(x) #x
#define STRINGIFY(x)  STRINGIFY_(x)
#define CONCAT_(a, b) a##b
#define CONCAT(a, b)  CONCAT_(a, b)

const CpuKernels CONCAT(cpu_kernels_, VARIANT) = {
    .name = STRINGIFY(VARIANT),
    .packed_row_bytes = packed_row_bytes,
    .pack_row = pack_row,
    .matmul = matmul,
    .rows_of_group = VL,
    .group_rows = group_rows,
    .tile_bytes = tile_bytes,
    .matmul_tall = matmul_tall,
    .leaves_groups = leaves_groups,
    .rows_for_tall = rows_for_tall,
    .layernorm = layernorm,
    .cache_store = cache_store,
    .attention = attention,
};
