// Number formats against their definitions, computed independently in float64.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "../dtype.h"
#include "test.h"

// A binary format with an implicit leading bit: mantissa bits, bits of exponent, both as IEEE 754 has them.
typedef struct {
    const char* name;
    int mantissa_bits, exponent_bits;
} Binary16;

static const Binary16 f16_format = {"f16", 10, 5}, bf16_format = {"bf16", 7, 8};

static int bias_of(const Binary16* format) {
    return (1 << (format->exponent_bits - 1)) - 1;
}

// The value of 16 bits by the definition: (-1)^s 2^(e - bias) (1 + m / 2^M), and at the ends of e subnormal, infinite
// or NaN.
static double value_of(const Binary16* format, unsigned bits) {
    int M = format->mantissa_bits, top = (1 << format->exponent_bits) - 1;
    int mantissa = (int)(bits & ((1u << M) - 1)), exponent = (int)(bits >> M & (unsigned)top);
    double sign = bits >> 15 ? -1 : 1;
    if (exponent == top) return mantissa == 0 ? sign * INFINITY : NAN;
    if (exponent == 0) return sign * ldexp(mantissa, 1 - bias_of(format) - M);
    return sign * ldexp(mantissa + (1 << M), exponent - bias_of(format) - M);
}

// The value that x rounds to: the nearest multiple of the spacing around x, ties to the even multiple.
static double rounded_to(const Binary16* format, double x) {
    if (isnan(x) || isinf(x) || x == 0) return x;
    int exponent, least = 1 - bias_of(format);
    frexp(x, &exponent); // x = 0.5 .. 1 times 2^exponent
    int spacing = (exponent - 1 > least ? exponent - 1 : least) - format->mantissa_bits;
    double rounded = ldexp(rint(ldexp(x, -spacing)), spacing);
    return fabs(rounded) >= ldexp(1, bias_of(format) + 1) ? copysign(INFINITY, x) : rounded;
}

static bool is_same(double a, double b) {
    return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

// How many of the 65536 patterns `widen` gets wrong.
static int wrong_widenings(const Binary16* format, float (*widen)(uint16_t)) {
    int wrong = 0;
    for (unsigned bits = 0; bits < 65536; bits++) wrong += !is_same(widen((uint16_t)bits), value_of(format, bits));
    return wrong;
}

static int is_wrong_rounding(const Binary16* format, uint16_t (*narrow)(float), float x) {
    return !is_same(value_of(format, narrow(x)), rounded_to(format, x));
}

// How many floats `narrow` rounds wrongly, of every point where rounding can turn: all values of the format, the
// middles between neighbours and the floats on both sides of each; and of a sample of all floats. *tried is how many
// there were.
static int wrong_roundings(const Binary16* format, uint16_t (*narrow)(float), int* tried) {
    int wrong = 0;
    *tried = 0;
    for (unsigned bits = 0; bits < 65536; bits++) {
        double here = value_of(format, bits), next = value_of(format, bits + 1);
        if (isnan(here) || isinf(here) || (bits & 0x7fff) == 0x7fff) continue;
        // the last middle lies half a spacing above the largest value: from there on it is infinity
        double step = isinf(next) ? here - value_of(format, bits - 1) : next - here;
        float points[] = {(float)here, (float)(here + step / 2)};
        for (int i = 0; i < 2; i++) {
            wrong += is_wrong_rounding(format, narrow, points[i]);
            wrong += is_wrong_rounding(format, narrow, nextafterf(points[i], -INFINITY));
            wrong += is_wrong_rounding(format, narrow, nextafterf(points[i], INFINITY));
            *tried += 3;
        }
    }
    for (uint64_t bits = 0; bits < 1ull << 32; bits += 65521) { // a prime, so that low bits vary
        wrong += is_wrong_rounding(format, narrow, f32_from_bits((uint32_t)bits));
        *tried += 1;
    }
    return wrong;
}

static float inline_bf16_to_f32(uint16_t h) {
    return bf16_to_f32(h);
}
static uint16_t inline_f32_to_bf16(float f) {
    return f32_to_bf16(f);
}
static uint16_t truncate_to_bf16(float f) {
    return (uint16_t)(f32_bits(f) >> 16);
}
static uint16_t f16_ties_away(float f) { // the middles look one float larger
    return f32_to_f16(nextafterf(f, copysignf(INFINITY, f)));
}

static void test_half_formats(Tests* t) {
    int tried, wrong;
    wrong = wrong_widenings(&f16_format, f16_to_f32);
    test_check(t, wrong == 0, "f16 to f32: all 65536 patterns have the value of IEEE 754 (%d wrong)", wrong);
    wrong = wrong_widenings(&bf16_format, inline_bf16_to_f32);
    test_check(t, wrong == 0, "bf16 to f32: all 65536 patterns have the value of the definition (%d wrong)", wrong);
    wrong = wrong_widenings(&bf16_format, f16_to_f32);
    test_check(t, wrong > 60000, "the checker refuses f16's widening for bf16 (%d wrong)", wrong);
    wrong = wrong_roundings(&f16_format, f32_to_f16, &tried);
    test_check(t, wrong == 0, "f32 to f16 rounds to nearest even: every turning point, %d floats (%d wrong)", tried,
               wrong);
    wrong = wrong_roundings(&bf16_format, inline_f32_to_bf16, &tried);
    test_check(t, wrong == 0, "f32 to bf16 rounds to nearest even: every turning point, %d floats (%d wrong)", tried,
               wrong);
    wrong = wrong_roundings(&bf16_format, truncate_to_bf16, &tried);
    test_check(t, wrong > 60000, "the checker refuses truncation to bf16 (%d wrong)", wrong);
    wrong = wrong_roundings(&f16_format, f16_ties_away, &tried);
    test_check(t, wrong > 20000, "the checker refuses ties that go away from zero in f16 (%d wrong)", wrong);
}

// row_to_f32 of row_from_f32 of every finite value of the format, in rows of `n`: how many elements changed.
static int row_changes(DType dtype, const Binary16* format, size_t n) {
    float *in = malloc(n * sizeof *in), *out = malloc(n * sizeof *out);
    uint16_t* row = malloc(n * sizeof *row);
    int changes = 0;
    for (unsigned start = 0; start < 65536 && in && out && row; start += (unsigned)n) {
        for (size_t i = 0; i < n; i++) {
            double value = value_of(format, (start + (unsigned)i) & 0xffff);
            in[i] = isfinite(value) ? (float)value : 0;
        }
        row_from_f32(row, NULL, in, dtype, n);
        row_to_f32(out, row, dtype, n);
        for (size_t i = 0; i < n; i++) changes += f32_bits(in[i]) != f32_bits(out[i]);
    }
    bool ok = in != NULL && out != NULL && row != NULL;
    free(in);
    free(out);
    free(row);
    return ok ? changes : -1;
}

static void test_rows(Tests* t) {
    static const size_t sizes[] = {1, 7, 33, 768};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int f16 = row_changes(DTYPE_F16, &f16_format, sizes[i]), bf16 = row_changes(DTYPE_BF16, &bf16_format, sizes[i]);
        test_check(t, f16 == 0 && bf16 == 0, "rows of %zu keep every finite f16 and bf16 (%d and %d changed)", sizes[i],
                   f16, bf16);
    }
    float in[3] = {1.1f, -0.0f, 3e38f}, out[3], wide[3];
    row_from_f32(out, NULL, in, DTYPE_F32, 3);
    row_to_f32(wide, out, DTYPE_F32, 3);
    test_check(t, memcmp(in, wide, sizeof in) == 0, "rows of f32 are copied bit for bit");
}

static void test_strides(Tests* t) {
    static const struct {
        size_t C, q8_stride, q8_scales;
    } rows[] = {{1, 32, 1}, {31, 32, 1}, {32, 32, 1}, {33, 64, 2}, {768, 768, 24}, {1600, 1600, 50}};
    int wrong = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        wrong +=
            dtype_row_stride(DTYPE_Q8, rows[i].C) != rows[i].q8_stride || q8_num_scales(rows[i].C) != rows[i].q8_scales;
        for (int d = 0; d < DTYPE_Q8; d++) wrong += dtype_row_stride((DType)d, rows[i].C) != rows[i].C;
    }
    test_check(t, wrong == 0, "a row takes C elements, in q8 whole blocks of 32 with one scale each (%d wrong)", wrong);
    wrong = dtype_size(DTYPE_F32) != 4 || dtype_size(DTYPE_BF16) != 2 || dtype_size(DTYPE_F16) != 2 ||
            dtype_size(DTYPE_Q8) != 1;
    test_check(t, !wrong, "an element takes 4, 2, 2 and 1 bytes in f32, bf16, f16 and q8");
}

// ---------------------------------------------------------------------------------------------------------------------
// Q8

enum { MAX_ROW = 100, MAX_STRIDE = 128 };

static double largest_magnitude(const float* in, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) {
        double magnitude = fabs((double)in[i]);
        if (magnitude > largest) largest = magnitude; // fmax() here stops gcc 12 for aarch64 with an internal error
    }
    return largest;
}

// Judges one quantised block by the definition in dtype.h: how many of its elements or scales are wrong.
static int wrong_in_block(const int8_t* q, uint16_t scale_bits, const float* in, size_t n) {
    double largest = largest_magnitude(in, n);
    double scale = value_of(&f16_format, scale_bits);
    // largest / 127 is taken in f32 before it becomes f16, which may move a tie
    double exact = rounded_to(&f16_format, (double)(float)(largest / 127));
    int wrong = scale != exact;
    for (size_t i = 0; i < Q8_BLOCK; i++) {
        if (i >= n || scale == 0) {
            wrong += q[i] != 0;
            continue;
        }
        double quotient = in[i] / scale, clamped = fmax(-127, fmin(127, quotient));
        wrong += fabs(q[i] - clamped) > 0.5 + 1e-5; // the quotient is taken in f32, which may move a tie
    }
    return wrong;
}

// Quantises a row and judges it, its widening included. `spoil` is added to the first element of q beforehand.
static int wrong_in_row(const float* in, size_t n, int spoil) {
    int8_t q[MAX_STRIDE];
    uint16_t scales[MAX_STRIDE / Q8_BLOCK];
    float wide[MAX_ROW];
    memset(q, 99, sizeof q);
    row_from_f32(q, scales, in, DTYPE_Q8, n);
    q[0] = (int8_t)(q[0] + spoil);
    int wrong = 0;
    for (size_t start = 0; start < n; start += Q8_BLOCK) {
        size_t length = n - start < Q8_BLOCK ? n - start : Q8_BLOCK;
        wrong += wrong_in_block(q + start, scales[start / Q8_BLOCK], in + start, length);
    }
    q8_row_to_f32(wide, q, scales, n);
    for (size_t i = 0; i < n; i++)
        wrong += (double)wide[i] != (double)(float)(value_of(&f16_format, scales[i / Q8_BLOCK]) * q[i]);
    return wrong;
}

static void fill_row(float* row, size_t n, float size, uint32_t seed) {
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        row[i] = ((float)(seed >> 8) * 0x1p-23f - 1) * size;
    }
}

static void test_q8(Tests* t) {
    static const size_t lengths[] = {1, 2, 31, 32, 33, 63, 64, 65, 96, 100};
    static const float sizes[] = {0, 1e-8f, 3e-6f, 1e-4f, 0.02f, 1, 300, 6e4f, 8e6f};
    float row[MAX_ROW];
    int wrong = 0, rows = 0;
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (uint32_t seed = 1; seed <= 20; seed++, rows++) {
                fill_row(row, lengths[l], sizes[s], seed);
                wrong += wrong_in_row(row, lengths[l], 0);
            }
        }
    }
    test_check(t, wrong == 0, "q8: scales, rounding to nearest, zero padding and widening of %d rows (%d wrong)", rows,
               wrong);
    fill_row(row, 100, 1, 7);
    wrong = wrong_in_row(row, 100, 1);
    test_check(t, wrong > 0, "the checker refuses a q8 element that is off by one (%d wrong)", wrong);

    double worst = 0;
    for (uint32_t seed = 1; seed <= 200; seed++) {
        int8_t q[Q8_BLOCK];
        uint16_t scale;
        float wide[Q8_BLOCK];
        fill_row(row, Q8_BLOCK, 0.1f, seed);
        row_from_f32(q, &scale, row, DTYPE_Q8, Q8_BLOCK);
        q8_row_to_f32(wide, q, &scale, Q8_BLOCK);
        double largest = largest_magnitude(row, Q8_BLOCK);
        for (int i = 0; i < Q8_BLOCK; i++) wide[i] -= row[i];
        double error = largest_magnitude(wide, Q8_BLOCK) / largest;
        if (error > worst) worst = error;
    }
    // half a step of 1/127, and the largest element may lose what its scale lost in f16: 2^-11
    test_check(t, worst <= 0.5 / 127 * (1 + 0x1p-11) + 0x1p-11,
               "q8 is off by at most half a step of its block (%.5f of the largest)", worst);
}

// ---------------------------------------------------------------------------------------------------------------------
// BF16Z

enum { MAX_PACKED_ROW = 1700 };

// Packs n bf16 with a table and unpacks them: how many differ in any bit, and in *rare how many were rare.
static int changed_by_packing(const uint16_t* in, const uint8_t* common, size_t n, size_t* rare) {
    static uint8_t blocks[2000 / BF16Z_BLOCK * BF16Z_BLOCK_BYTES + 1];
    static uint32_t list[MAX_PACKED_ROW];
    static float out[MAX_PACKED_ROW];
    int changed = 0;
    memset(blocks, 0xee, sizeof blocks);
    *rare = bf16z_pack_row(blocks, in, common, n);
    changed += blocks[bf16z_blocks(n) * BF16Z_BLOCK_BYTES] != 0xee; // what lies behind
    bf16z_list_rare(list, in, common, n);
    bf16z_row_to_f32(out, blocks, common, list, list + *rare, n);
    for (size_t i = 0; i < n; i++) changed += f32_bits(out[i]) != (uint32_t)in[i] << 16;
    return changed;
}

static void test_bf16z(Tests* t) {
    static const size_t lengths[] = {1, 63, 127, 128, 129, 768, 1600};
    static uint16_t row[MAX_PACKED_ROW];
    uint32_t counts[128] = {0};
    uint8_t common[BF16Z_COMMON];
    counts[7] = 5, counts[127] = 4, counts[60] = 9, counts[61] = 8, counts[0] = 3, counts[62] = 2, counts[58] = 2;
    bf16z_choose_common(common, counts);
    static const uint8_t expected[] = {60, 61, 7, 127, 0};
    bool is_chosen = memcmp(common, expected, sizeof expected) == 0;
    for (int i = 0; i < BF16Z_COMMON / 2; i++) is_chosen &= common[i + BF16Z_COMMON / 2] == (common[i] | 0x80);
    test_check(t, is_chosen, "bf16z: the table holds the commonest high bytes, then the same with the sign set");

    bool is_there[BF16Z_BLOCK] = {false};
    for (size_t i = 0; i < BF16Z_BLOCK; i++) is_there[bf16z_slot(i)] = true;
    int missing = 0;
    for (size_t i = 0; i < BF16Z_BLOCK; i++) missing += !is_there[i];
    test_check(t, missing == 0, "bf16z: the weights of a block lie in slots of their own (%d are free)", missing);

    int changed = 0, tried = 0;
    size_t rare = 0, expected_rare = 0;
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        for (unsigned start = 0; start < 65536; start += (unsigned)lengths[l], tried++) { // all patterns, NaNs included
            size_t in_row;
            for (size_t i = 0; i < lengths[l]; i++) {
                row[i] = (uint16_t)((start + i) * 40503u); // a permutation
                expected_rare += memchr(common, row[i] >> 8, BF16Z_COMMON) == NULL;
            }
            changed += changed_by_packing(row, common, lengths[l], &in_row);
            rare += in_row;
        }
    }
    test_check(t, changed == 0 && rare == expected_rare,
               "bf16z: %d rows of every bf16 there is come back bit by bit (%d changed), %zu of them rare (%zu)", tried,
               changed, rare, expected_rare);
    size_t none;
    for (int i = 0; i < 768; i++) row[i] = (uint16_t)(common[i % BF16Z_COMMON] << 8 | (i * 7 & 0xff));
    changed = changed_by_packing(row, common, 768, &none);
    test_check(t, changed == 0 && none == 0 && dtype_stride_bytes(DTYPE_BF16Z, 768) == 1152,
               "bf16z: 768 weights of the table's take 1152 bytes, none is rare (%zu)", none);
}

void test_dtype(Tests* t) {
    test_section("dtype: number formats");
    test_half_formats(t);
    test_rows(t);
    test_strides(t);
    test_q8(t);
    test_bf16z(t);
}
