// Every kernel variant that this processor can run, against its definition in float64.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../cpu_kernels.h"
#include "../machine.h"
#include "test.h"

// ---------------------------------------------------------------------------------------------------------------------
// material

// xorshift32: numbers in [-1, 1) that are the same on every machine
static float random_float(uint32_t* state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return (float)(*state >> 8) * 0x1p-23f - 1.0f;
}

// n bytes that end where the next page may not be touched: a read past them is a crash, not a silent success.
typedef struct {
    char* mapping;
    size_t mapping_bytes;
    char* data;
} Guarded;

static Guarded guarded(size_t n) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (n + page - 1) / page * page + page;
    char* mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED || mprotect(mapping + bytes - page, page, PROT_NONE) != 0) {
        perror("test_kernels: guarded memory");
        exit(1);
    }
    return (Guarded){mapping, bytes, mapping + bytes - page - n};
}

static void guarded_free(Guarded* g) {
    munmap(g->mapping, g->mapping_bytes);
}

// A matrix product of random numbers: weights (OC, C) stored as dtype, activations (R, C), bias (OC).
typedef struct {
    size_t R, C, OC;
    Tensor weight;
    Guarded data, scales; // BF16Z: scales holds the places of the rare weights
    uint8_t* common;
    uint32_t* rare;
    float *inp, *bias;
    double *exact, *magnitude; // (R, OC): inp · weightᵀ + bias in float64, and the same sum of absolute values
} Problem;

// A number of [-0.2, 0.2), now and then 2^-30 of it: a weight that is rare in BF16Z.
static float random_weight(uint32_t* state) {
    float x = random_float(state) * 0.2f;
    return *state % 61 == 0 ? x * 0x1p-30f : x;
}

// Turns the weights of a problem in BF16 into BF16Z.
static void problem_pack(Problem* p) {
    size_t C = p->C, OC = p->OC, row_bytes = dtype_stride_bytes(DTYPE_BF16Z, C), num_rare = 0;
    const uint16_t* in = p->weight.data;
    uint32_t counts[128] = {0};
    for (size_t i = 0; i < OC * C; i++) counts[in[i] >> 8 & 127]++;
    Guarded data = guarded(OC * row_bytes), starts = guarded((OC + 1) * sizeof(uint32_t));
    uint32_t* rare_starts = (uint32_t*)(void*)starts.data;
    p->common = malloc(BF16Z_COMMON);
    bf16z_choose_common(p->common, counts);
    p->rare = malloc(OC * C * sizeof *p->rare);
    for (size_t o = 0; o < OC; o++) {
        rare_starts[o] = (uint32_t)num_rare;
        bf16z_list_rare(p->rare + num_rare, in + o * C, p->common, C);
        num_rare += bf16z_pack_row((uint8_t*)data.data + o * row_bytes, in + o * C, p->common, C);
    }
    rare_starts[OC] = (uint32_t)num_rare;
    guarded_free(&p->data);
    guarded_free(&p->scales);
    p->data = data;
    p->scales = starts;
    p->weight = (Tensor){
        .dtype = DTYPE_BF16Z, .data = data.data, .common = p->common, .rare = p->rare, .rare_starts = rare_starts};
}

static Problem problem_make(size_t R, size_t C, size_t OC, DType wanted) {
    Problem p = {.R = R, .C = C, .OC = OC};
    DType dtype = dtype_unpacked(wanted);
    uint32_t state = (uint32_t)(R * 31 + C * 17 + OC * 7 + (size_t)dtype + 1);
    size_t row_bytes = dtype_stride_bytes(dtype, C);
    p.data = guarded(OC * row_bytes);
    p.scales = guarded(OC * q8_num_scales(C) * sizeof(uint16_t));
    p.inp = malloc(R * C * sizeof(float));
    p.bias = malloc(OC * sizeof(float));
    p.exact = calloc(R * OC, sizeof(double));
    p.magnitude = calloc(R * OC, sizeof(double));
    float* row = malloc(C * sizeof(float));
    uint16_t* scales = (uint16_t*)(void*)p.scales.data;
    for (size_t i = 0; i < R * C; i++) p.inp[i] = random_float(&state) * 3;
    for (size_t o = 0; o < OC; o++) {
        p.bias[o] = random_float(&state);
        for (size_t c = 0; c < C; c++) row[c] = random_weight(&state);
        uint16_t* row_scales = scales + o * q8_num_scales(C);
        row_from_f32(p.data.data + o * row_bytes, row_scales, row, dtype, C);
        if (dtype == DTYPE_Q8) q8_row_to_f32(row, (int8_t*)p.data.data + o * row_bytes, row_scales, C);
        else row_to_f32(row, p.data.data + o * row_bytes, dtype, C);
        for (size_t r = 0; r < R; r++) {
            double *exact = &p.exact[r * OC + o], *magnitude = &p.magnitude[r * OC + o];
            *exact = p.bias[o];
            *magnitude = fabs((double)p.bias[o]);
            for (size_t c = 0; c < C; c++) {
                *exact += (double)row[c] * (double)p.inp[r * C + c];
                *magnitude += fabs((double)row[c] * (double)p.inp[r * C + c]);
            }
        }
    }
    free(row);
    p.weight = (Tensor){.dtype = dtype, .data = p.data.data, .scales = dtype == DTYPE_Q8 ? scales : NULL};
    if (wanted == DTYPE_BF16Z) problem_pack(&p);
    return p;
}

static void problem_free(Problem* p) {
    guarded_free(&p->data);
    guarded_free(&p->scales);
    free(p->common);
    free(p->rare);
    free(p->inp);
    free(p->bias);
    free(p->exact);
    free(p->magnitude);
}

// Rows [first, first + R) of the product by one variant, columns [begin, end), into out (R, OC).
static void product(const CpuKernels* k, const Problem* p, float* out, size_t first, size_t R, size_t begin, size_t end,
                    Epilogue epilogue) {
    size_t bytes = k->packed_row_bytes(p->weight.dtype, p->C);
    Guarded packed = guarded(R * bytes);
    for (size_t r = 0; r < R; r++)
        k->pack_row(packed.data + r * bytes, p->inp + (first + r) * p->C, p->weight.dtype, p->C);
    k->matmul(out, packed.data, &p->weight, p->bias, R, p->C, p->OC, begin, end, epilogue);
    guarded_free(&packed);
}

static size_t rows_in_groups(const CpuKernels* k, size_t R) {
    return (R + k->rows_of_group - 1) / k->rows_of_group * k->rows_of_group;
}

// in (R, C), packed for weights of the dtype and grouped.
static Guarded grouped(const CpuKernels* k, const float* in, size_t R, size_t C, DType dtype) {
    size_t bytes = k->packed_row_bytes(dtype, C), group = k->rows_of_group;
    Guarded packed = guarded(rows_in_groups(k, R) * bytes), rows = guarded(group * bytes);
    for (size_t first = 0; first < R; first += group) {
        size_t n = R - first < group ? R - first : group;
        for (size_t r = 0; r < n; r++) k->pack_row(rows.data + r * bytes, in + (first + r) * C, dtype, C);
        k->group_rows(packed.data + first * bytes, rows.data, n, dtype, C);
    }
    guarded_free(&rows);
    return packed;
}

// The same by the product for many rows.
static void product_tall(const CpuKernels* k, const Problem* p, float* out, size_t begin, size_t end,
                         Epilogue epilogue) {
    DType dtype = p->weight.dtype;
    Guarded packed = grouped(k, p->inp, p->R, p->C, dtype), tile = guarded(k->tile_bytes(dtype, p->C));
    k->matmul_tall(out, packed.data, &p->weight, p->bias, p->R, p->C, p->OC, begin, end, epilogue, tile.data);
    guarded_free(&packed);
    guarded_free(&tile);
}

// ---------------------------------------------------------------------------------------------------------------------
// claims

// Largest error of out against the exact product, relative to the sum of the absolute values of its terms.
static double product_error(const Problem* p, const float* out) {
    double worst = 0;
    for (size_t i = 0; i < p->R * p->OC; i++) {
        double error = fabs((double)out[i] - p->exact[i]) / p->magnitude[i];
        if (!(error <= worst)) worst = isnan(error) ? INFINITY : error;
    }
    return worst;
}

// What rounding can do to a product, as a share of the sum of its terms' absolute values: f32 sums lose a few units in
// the last place per lane; activations rounded to bf16 lose up to 2^-9 of each term, int8 activations up to half a step
// of 1/127 of their block's largest, and both average out in a sum.
static double product_bound(DType dtype) {
    return dtype_unpacked(dtype) == DTYPE_BF16 ? 1e-3 : dtype == DTYPE_Q8 ? 5e-3 : 5e-7;
}

// Odd shapes, then every number of rows that has code of its own.
static const struct {
    size_t R, C, OC;
} product_shapes[] = {{1, 768, 96},  {1, 30, 37},  {7, 64, 10}, {2, 101, 5},   {13, 520, 33}, {5, 1, 3},
                      {6, 1601, 18}, {2, 768, 21}, {3, 768, 9}, {4, 1024, 34}, {4, 1600, 7},  {5, 768, 20}};
enum { NUM_SHAPES = sizeof product_shapes / sizeof *product_shapes };

static void fill_nan(float* out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = NAN;
}

static void test_products(Tests* t, const CpuKernels* k, DType dtype) {
    double worst = 0;
    bool rows_equal = true, columns_kept = true, added = true;
    for (size_t i = 0; i < NUM_SHAPES; i++) {
        Problem p = problem_make(product_shapes[i].R, product_shapes[i].C, product_shapes[i].OC, dtype);
        size_t n = p.R * p.OC, half = p.OC / 2;
        float *out = malloc(n * sizeof(float)), *other = malloc(n * sizeof(float));
        fill_nan(out, n);
        product(k, &p, out, 0, p.R, 0, p.OC, EPILOGUE_STORE);
        worst = fmax(worst, product_error(&p, out));
        for (size_t r = 0; r < p.R; r++) product(k, &p, other + r * p.OC, r, 1, 0, p.OC, EPILOGUE_STORE);
        rows_equal &= memcmp(out, other, n * sizeof(float)) == 0;
        fill_nan(other, n);
        product(k, &p, other, 0, p.R, half, p.OC, EPILOGUE_STORE);
        for (size_t j = 0; j < n; j++) columns_kept &= j % p.OC < half ? isnan(other[j]) : other[j] == out[j];
        for (size_t j = 0; j < n; j++) other[j] = 0.5f;
        product(k, &p, other, 0, p.R, 0, p.OC, EPILOGUE_ADD);
        for (size_t j = 0; j < n; j++) added &= other[j] == 0.5f + out[j];
        free(out);
        free(other);
        problem_free(&p);
    }
    const char* name = dtype_names[dtype];
    test_check(t, worst <= product_bound(dtype),
               "%s %s: products of %d odd shapes are off by %.1e of their terms, at most %.1e", k->name, name,
               NUM_SHAPES, worst, product_bound(dtype));
    test_check(t, rows_equal, "%s %s: a row computed alone has the same bits as among others", k->name, name);
    test_check(t, columns_kept, "%s %s: columns of other threads are not touched", k->name, name);
    test_check(t, added, "%s %s: the residual is added once", k->name, name);
}

// The product for many rows against the one for few, each way of putting results away, on two ranges of columns.
static void test_tall_products(Tests* t, const CpuKernels* k, DType dtype) {
    static const size_t shapes[][3] = {{1, 30, 37},   {7, 64, 10},   {13, 520, 33},  {6, 1601, 18}, {33, 96, 70},
                                       {37, 768, 64}, {7, 1056, 40}, {17, 3072, 50}, {50, 2500, 7}, {300, 1024, 55}};
    static const Epilogue epilogues[] = {EPILOGUE_STORE, EPILOGUE_ADD, EPILOGUE_GELU};
    enum { SHAPES = sizeof shapes / sizeof *shapes };
    size_t compared = 0, differ = 0;
    for (size_t i = 0; i < SHAPES; i++) {
        Problem p = problem_make(shapes[i][0], shapes[i][1], shapes[i][2], dtype);
        size_t n = p.R * p.OC, split = p.OC * 2 / 3;
        float *few = malloc(n * sizeof(float)), *many = malloc(n * sizeof(float));
        for (size_t e = 0; e < 3; e++) {
            for (size_t j = 0; j < n; j++) few[j] = many[j] = epilogues[e] == EPILOGUE_ADD ? (float)j : NAN;
            product(k, &p, few, 0, p.R, 0, p.OC, epilogues[e]);
            product_tall(k, &p, many, 0, split, epilogues[e]);
            product_tall(k, &p, many, split, p.OC, epilogues[e]);
            for (size_t j = 0; j < n; j++) differ += memcmp(&few[j], &many[j], sizeof(float)) != 0;
            compared += n;
        }
        free(few);
        free(many);
        problem_free(&p);
    }
    test_check(t, differ == 0, "%s %s: the product for many rows has the bits of the one for few: %zu of %zu differ",
               k->name, dtype_names[dtype], differ, compared);
}

// Results left in groups against those that are put away as rows, then packed and grouped. The bytes behind the last
// group cannot be written.
static void test_results_in_groups(Tests* t, const CpuKernels* k, DType dtype) {
    static const size_t shapes[][3] = {{1, 30, 64}, {7, 64, 128}, {33, 96, 192}, {50, 520, 64}, {70, 101, 1088}};
    enum { SHAPES = sizeof shapes / sizeof *shapes };
    size_t compared = 0, differ = 0;
    for (size_t i = 0; i < SHAPES; i++) {
        if (!k->leaves_groups(dtype, shapes[i][1], shapes[i][2])) continue;
        Problem p = problem_make(shapes[i][0], shapes[i][1], shapes[i][2], dtype);
        size_t group = k->rows_of_group, floats = rows_in_groups(k, p.R) * p.OC;
        float* rows = malloc(p.R * p.OC * sizeof *rows);
        product(k, &p, rows, 0, p.R, 0, p.OC, EPILOGUE_GELU);
        Guarded expected = grouped(k, rows, p.R, p.OC, dtype), out = guarded(floats * sizeof(float));
        const float *want = (float*)(void*)expected.data, *got = (float*)(void*)out.data;
        fill_nan((float*)(void*)out.data, floats);
        product_tall(k, &p, (float*)(void*)out.data, 0, TALL_PRODUCT_COLUMNS, EPILOGUE_GELU_IN_GROUPS);
        product_tall(k, &p, (float*)(void*)out.data, TALL_PRODUCT_COLUMNS, p.OC, EPILOGUE_GELU_IN_GROUPS);
        for (size_t j = 0; j < floats; j++) {
            bool is_row = j / (group * p.OC) * group + j % group < p.R; // a lane of the last group may be none
            differ += is_row && memcmp(&want[j], &got[j], sizeof *got) != 0;
            compared += is_row;
        }
        free(rows);
        guarded_free(&expected);
        guarded_free(&out);
        problem_free(&p);
    }
    test_check(t, differ == 0 && (compared > 0 || dtype == DTYPE_Q8) && !k->leaves_groups(dtype, 64, 100),
               "%s %s: results left in groups are those of rows: %zu of %zu differ", k->name, dtype_names[dtype],
               differ, compared);
}

// Weights in BF16Z give the bits that the same ones in BF16 give, for few rows and for many.
static void test_packed_products(Tests* t, const CpuKernels* k) {
    size_t compared = 0, differ = 0, rare = 0;
    for (size_t i = 0; i < NUM_SHAPES; i++) {
        const size_t R = product_shapes[i].R, C = product_shapes[i].C, OC = product_shapes[i].OC;
        Problem plain = problem_make(R, C, OC, DTYPE_BF16), packed = problem_make(R, C, OC, DTYPE_BF16Z);
        float *expected = malloc(R * OC * sizeof *expected), *out = malloc(R * OC * sizeof *out);
        product(k, &plain, expected, 0, R, 0, OC, EPILOGUE_STORE);
        for (int many = 0; many < 2; many++) {
            fill_nan(out, R * OC);
            if (many) product_tall(k, &packed, out, 0, OC, EPILOGUE_STORE);
            else product(k, &packed, out, 0, R, 0, OC, EPILOGUE_STORE);
            for (size_t j = 0; j < R * OC; j++) differ += memcmp(&out[j], &expected[j], sizeof *out) != 0;
            compared += R * OC;
        }
        rare += packed.weight.rare_starts[OC];
        free(expected);
        free(out);
        problem_free(&plain);
        problem_free(&packed);
    }
    test_check(t, differ == 0 && rare > 500,
               "%s: weights in bf16z, %zu of them rare, give the bits of bf16: %zu of %zu products differ", k->name,
               rare, differ, compared);
}

static void test_gelu(Tests* t, const CpuKernels* k) {
    enum { N = 4001 };
    static float x[N], out[N];
    const float one = 1;
    Tensor weight = {.dtype = DTYPE_F32, .data = &one};
    double worst = 0;
    size_t bytes = k->packed_row_bytes(DTYPE_F32, 1);
    Guarded packed = guarded(N * bytes);
    for (int i = 0; i < N; i++) {
        x[i] = (float)(i - N / 2) * 0.01f;
        k->pack_row(packed.data + (size_t)i * bytes, x + i, DTYPE_F32, 1);
    }
    k->matmul(out, packed.data, &weight, NULL, N, 1, 1, 0, 1, EPILOGUE_GELU);
    for (int i = 0; i < N; i++) {
        double v = x[i], exact = 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
        double error = fabs((double)out[i] - exact) / fmax(1, fabs(v));
        worst = error <= worst ? worst : error;
    }
    guarded_free(&packed);
    test_check(t, worst <= 1e-6, "%s: GELU on [-20, 20] is off by %.1e, at most 1e-6", k->name, worst);
}

static void test_layernorm(Tests* t, const CpuKernels* k) {
    double worst = 0;
    for (size_t C = 1; C <= 1600; C = C * 3 / 2 + 1) {
        uint32_t state = (uint32_t)C;
        Guarded in = guarded(C * sizeof(float)), out = guarded(C * sizeof(float));
        float *x = (float*)(void*)in.data, *y = (float*)(void*)out.data, *weight = malloc(C * 4), *bias = malloc(C * 4);
        double mean = 0, variance = 0;
        for (size_t i = 0; i < C; i++) {
            x[i] = 5 + 2 * random_float(&state);
            weight[i] = 1 + random_float(&state);
            bias[i] = random_float(&state);
            mean += (double)x[i] / (double)C;
        }
        for (size_t i = 0; i < C; i++) variance += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)C;
        k->layernorm(y, x, weight, bias, C);
        for (size_t i = 0; i < C; i++) {
            double exact = ((double)x[i] - mean) / sqrt(variance + 1e-5) * (double)weight[i] + (double)bias[i];
            double error = fabs((double)y[i] - exact);
            worst = error <= worst ? worst : error;
        }
        guarded_free(&in);
        guarded_free(&out);
        free(weight);
        free(bias);
    }
    test_check(t, worst <= 1e-5, "%s: LayerNorm of 1 to 1600 channels is off by %.1e, at most 1e-5", k->name, worst);
}

// Attention of Q queries from position `first` on with a cache of some dtype, against float64 from the keys and values
// as the cache rounds them; what it holds past the last key is NaN (0xffff as binary16, 0xffffffff as binary32).
static double attention_error(const CpuKernels* k, DType dtype, size_t hs, size_t first, size_t Q) {
    size_t T = first + Q, stride = hs + 3;
    size_t keys_bytes = (T + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK * hs * dtype_size(dtype);
    size_t values_bytes = T * padded_head_size(hs) * dtype_size(dtype);
    Guarded keys = guarded(keys_bytes), values = guarded(values_bytes);
    HeadCache cache = {dtype, keys.data, values.data};
    float *key = malloc(T * hs * 4), *value = malloc(T * hs * 4), *q = malloc(Q * stride * 4),
          *out = malloc(Q * stride * 4);
    float* scores = malloc(ATTENTION_MAX_QUERIES * (T + KEY_BLOCK) * 4);
    uint32_t state = (uint32_t)(hs * 1000 + first * 10 + Q);
    memset(cache.keys, 0xff, keys_bytes);
    memset(cache.values, 0xff, values_bytes);
    for (size_t i = 0; i < T * hs; i++) key[i] = 2 * random_float(&state), value[i] = random_float(&state);
    for (size_t i = 0; i < Q * stride; i++) q[i] = 2 * random_float(&state);
    size_t before = T < 64 ? 0 : T * 2 / 3; // long ones in two runs, as prompts come in chunks
    k->cache_store(&cache, key, value, hs, hs, 0, before);
    k->cache_store(&cache, key + before * hs, value + before * hs, hs, hs, before, T - before);
    bool is_future_untouched = true;
    for (size_t i = T; i % KEY_BLOCK != 0; i++) {
        size_t size = dtype_size(dtype), last = (i / KEY_BLOCK * hs + hs - 1) * KEY_BLOCK + i % KEY_BLOCK;
        is_future_untouched &= memcmp((char*)cache.keys + last * size, "\xff\xff\xff\xff", size) == 0;
    }
    k->attention(out, stride, q, stride, &cache, hs, first, Q, scores);
    for (size_t i = 0; i < T * hs && dtype == DTYPE_F16; i++) {
        key[i] = f16_to_f32(f32_to_f16(key[i]));
        value[i] = f16_to_f32(f32_to_f16(value[i]));
    }
    double worst = is_future_untouched ? 0 : INFINITY;
    for (size_t n = 0; n < Q; n++) {
        double p[2048], sum = 0;
        for (size_t i = 0; i <= first + n; i++) {
            double score = 0;
            for (size_t d = 0; d < hs; d++) score += (double)q[n * stride + d] * (double)key[i * hs + d];
            sum += p[i] = exp(score / sqrt((double)hs));
        }
        for (size_t d = 0; d < hs; d++) {
            double exact = 0;
            for (size_t i = 0; i <= first + n; i++) exact += p[i] / sum * (double)value[i * hs + d];
            double error = fabs((double)out[n * stride + d] - exact);
            if (!(error <= worst)) worst = isnan(error) ? INFINITY : error;
        }
    }
    guarded_free(&keys);
    guarded_free(&values);
    free(key), free(value), free(q), free(out), free(scores);
    return worst;
}

static void test_attention(Tests* t, const CpuKernels* k, DType dtype) {
    const size_t head_sizes[] = {1, 15, 32, 64, 80, 96, 128}, firsts[] = {0, 1, 14, 15, 16, 700};
    double worst = 0;
    for (size_t h = 0; h < sizeof head_sizes / sizeof *head_sizes; h++) {
        for (size_t f = 0; f < sizeof firsts / sizeof *firsts; f++) {
            worst = fmax(worst, attention_error(k, dtype, head_sizes[h], firsts[f], 1));
            worst = fmax(worst, attention_error(k, dtype, head_sizes[h], firsts[f], 5));
            worst = fmax(worst, attention_error(k, dtype, head_sizes[h], firsts[f], ATTENTION_MAX_QUERIES));
        }
    }
    test_check(t, worst <= 2e-6,
               "%s: attention with a KV cache of %s, heads of 1 to 128 channels, is off by %.1e, at most 2e-6", k->name,
               dtype_names[dtype], worst);
}

// A profile sets what a variant reaches beside what its instructions could: machine.c must know them.
static void test_peak_rates(Tests* t, const CpuKernels* k) {
    double f32 = machine_f32_rate(k->name, 1), q8 = machine_product_rate(k->name, DTYPE_Q8, 1);
    test_check(t, f32 > 0 && q8 > 0, "%s: one thread could do %.0f Gop/s in f32, %.0f in products of q8", k->name,
               1e-9 * f32, 1e-9 * q8);
}

// The most that each variant was seen to do, in turn: a single measurement may have met another process.
static void test_preferred_variant(Tests* t) {
    enum { ROUNDS = 5, VARIANTS = 8 };
    double rates[VARIANTS] = {0};
    int fastest = 0;
    const CpuKernels* k;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < VARIANTS && (k = cpu_kernels_supported(i)) != NULL; i++) {
            rates[i] = fmax(rates[i], machine_product_rate(k->name, DTYPE_BF16, 1));
            if (rates[i] > rates[fastest]) fastest = i;
        }
    }
    test_check(t, rates[0] >= 0.7 * rates[fastest],
               "the preferred variant, %s, could do %.0f Gop/s in products of bf16; no other much more (%s %.0f)",
               cpu_kernels_select(NULL)->name, 1e-9 * rates[0], cpu_kernels_supported(fastest)->name,
               1e-9 * rates[fastest]);
}

// A checker that cannot fail proves nothing: each is fed a wrong answer.
static void test_checkers(Tests* t) {
    Problem p = problem_make(2, 101, 5, DTYPE_F32);
    float out[10];
    for (int i = 0; i < 10; i++) out[i] = (float)p.exact[i];
    double right = product_error(&p, out);
    out[7] += (float)(1e-6 * p.magnitude[7]);
    double wrong = product_error(&p, out);
    out[7] = NAN;
    double poisoned = product_error(&p, out);
    problem_free(&p);
    test_check(t, right <= product_bound(DTYPE_F32) && wrong > product_bound(DTYPE_F32) && poisoned > 1,
               "the checker of products accepts %.1e and refuses %.1e and NaN", right, wrong);
}

void test_kernels(Tests* t) {
    test_section("CPU kernels against float64");
    test_checkers(t);
    const CpuKernels* k;
    for (int i = 0; (k = cpu_kernels_supported(i)) != NULL; i++) {
        for (int dtype = 0; dtype < NUM_DTYPES; dtype++) {
            test_products(t, k, (DType)dtype);
            test_tall_products(t, k, (DType)dtype);
            test_results_in_groups(t, k, (DType)dtype);
        }
        test_packed_products(t, k);
        test_peak_rates(t, k);
        test_gelu(t, k);
        test_layernorm(t, k);
        test_attention(t, k, DTYPE_F32);
        test_attention(t, k, DTYPE_F16);
    }
    test_preferred_variant(t);
    test_check(t, cpu_kernels_select("no-such-kernels") == NULL, "a variant of an unknown name is refused");
}
