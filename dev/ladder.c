// From the naive loop to the kernels of the program, step by step: each is checked against the one before and timed.
//
//   ladder [-t THREADS] [-r REPEATS] [--json FILE]
//
// Decode: the matrix-vector products of one token of GPT-2 124M, with the LayerNorms, GELUs and residuals between them,
// without attention (every step has the same 49 products; attention would be the same code in all of them).
//   1 naive f32      llm.c's loop, one thread
//   2 OpenMP f32     a parallel region for each matrix
//   3 bf16           weights of half the bytes, widened one by one
//   4 vectors        4 rows at a time, 16 sums in flight
//   5 one region     one parallel region for the token, a barrier that spins between products
//   6 the program's kernels, bf16: the processor's dot product, rows requested ahead
//   7 the program's kernels, q8
// Prefill: one product of 512 rows, 768 channels to 3072.
//   1 naive f32      one thread
//   2 OpenMP f32     rows shared
//   3 blocked        vectors along the channels, panels of weights that stay in the cache
//   4 register tile  4 rows of weights by 4 rows of activations in registers
//   5, 6, 7 the program's kernels, f32, bf16, q8
// Predictions and figures stand in dev/CPU.md.
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "../cpu_kernels.h"
#include "../gpt2_kernels.h"
#include "../machine.h"
#include "../processors.h"
#include "bench_measure.h"
#include "bench_model.h"

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2,fma"), flatten))
#else
#define WIDE
#endif
#define INLINE static inline __attribute__((always_inline))

enum { VL = 8, MR = 4, TILE = 4 };
typedef float vf __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * VL), aligned(2), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));

// What all steps share. A step reads the model that its weights come from and leaves its result in logits.
typedef struct {
    GPT2Model models[NUM_DTYPES];
    const CpuKernels* kernels;
    int threads, repeats;
    float *x, *norm, *qkv, *fc; // (C), (C), (3C), (4C)
    float* logits;              // (V)
    char* packed;               // (threads) packed rows of 4C elements
    size_t packed_bytes;
    FILE* json;
} Ladder;

// ---------------------------------------------------------------------------------------------------------------------
// the ways to multiply: out[begin .. end) = weight (OC, C) · x (C) + bias (OC)

typedef void Product(float* out, const float* x, const Tensor* weight, const float* bias, size_t C, size_t begin,
                     size_t end);

static void product_f32(float* out, const float* x, const Tensor* weight, const float* bias, size_t C, size_t begin,
                        size_t end) {
    for (size_t o = begin; o < end; o++) {
        const float* w = (const float*)weight->data + o * C;
        float sum = bias != NULL ? bias[o] : 0.0f;
        for (size_t i = 0; i < C; i++) sum += x[i] * w[i];
        out[o] = sum;
    }
}

static void product_bf16(float* out, const float* x, const Tensor* weight, const float* bias, size_t C, size_t begin,
                         size_t end) {
    for (size_t o = begin; o < end; o++) {
        const uint16_t* w = (const uint16_t*)weight->data + o * C;
        float sum = bias != NULL ? bias[o] : 0.0f;
        for (size_t i = 0; i < C; i++) sum += x[i] * bf16_to_f32(w[i]);
        out[o] = sum;
    }
}

// By pointer: how a vector is passed depends on the instruction set.
INLINE float vf_sum(const vf* a) {
    float x[8];
    memcpy(x, a, sizeof x);
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

// C is a multiple of 4 * VL here, as all of GPT-2's are. The last rows of a matrix are met again where MR does not
// divide their number.
WIDE static void product_vectors(float* out, const float* x, const Tensor* weight, const float* bias, size_t C,
                                 size_t begin, size_t end) {
    for (size_t o = begin; o < end; o += MR) {
        if (end - o < MR) o = end - MR;
        const uint16_t* w = (const uint16_t*)weight->data + o * C;
        vf sums[MR][4] = {{{0}}};
        for (size_t i = 0; i < C; i += 4 * VL) {
            for (int j = 0; j < 4; j++) {
                vf xs = *(const vf*)(x + i + j * VL);
                for (int m = 0; m < MR; m++) {
                    vu bits = __builtin_convertvector(*(const vh*)(w + (size_t)m * C + i + (size_t)j * VL), vu) << 16;
                    sums[m][j] += xs * (vf)bits;
                }
            }
        }
        for (size_t m = 0; m < MR; m++) {
            vf sum = (sums[m][0] + sums[m][1]) + (sums[m][2] + sums[m][3]);
            out[o + m] = vf_sum(&sum) + (bias != NULL ? bias[o + m] : 0.0f);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// one token, product by product

// How a step runs its products.
typedef struct Step {
    const char* name;
    DType dtype;
    Product* product; // NULL: the program's kernels
    bool threads;     // else one
    bool one_region;  // else a region for each product
    double tolerance; // against the step before: largest difference, as a share of the largest logit
} Step;

typedef struct {
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int rounds;
} Barrier;

static void barrier_wait(Barrier* barrier, int num_threads) {
    enum { SPINS = 2000 };
    int round = atomic_load(&barrier->rounds);
    if (atomic_fetch_add(&barrier->arrived, 1) == num_threads - 1) {
        atomic_store(&barrier->arrived, 0);
        atomic_store(&barrier->rounds, round + 1);
        return;
    }
    for (int spins = 0; atomic_load(&barrier->rounds) == round; spins++) {
        if (spins > SPINS) sched_yield();
    }
}

// What the products of a token are done with: by one caller who shares each out, or by a thread of the one region.
typedef struct {
    Ladder* l;
    const Step* step;
    Barrier* barrier; // of the one region, else NULL
    int thread, num_threads;
} Worker;

static void share(size_t n, int thread, int threads, size_t* begin, size_t* end) {
    size_t units = (n + 15) / 16;
    *begin = units * (size_t)thread / (size_t)threads * 16;
    *end = units * (size_t)(thread + 1) / (size_t)threads * 16;
    if (*end > n) *end = n;
}

// This thread's columns of a product, by whatever the step multiplies with.
static void product_share(const Worker* w, int thread, int threads, float* out, const float* x, const Tensor* weight,
                          const float* bias, size_t C, size_t OC) {
    size_t begin, end;
    share(OC, thread, threads, &begin, &end);
    if (w->step->product != NULL) {
        w->step->product(out, x, weight, bias, C, begin, end);
        return;
    }
    char* packed = w->l->packed + (size_t)thread * w->l->packed_bytes;
    w->l->kernels->pack_row(packed, x, w->step->dtype, C);
    w->l->kernels->matmul(out, packed, weight, bias, 1, C, OC, begin, end, EPILOGUE_STORE);
}

static void multiply(const Worker* w, float* out, const float* x, const Tensor* weight, const float* bias, size_t C,
                     size_t OC) {
    if (w->barrier != NULL) {
        product_share(w, w->thread, w->num_threads, out, x, weight, bias, C, OC);
        barrier_wait(w->barrier, w->num_threads);
        return;
    }
    int threads = w->step->threads ? w->l->threads : 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
    for (int t = 0; t < threads; t++) product_share(w, t, threads, out, x, weight, bias, C, OC);
}

// The small things between products are done by the first thread alone.
static bool is_first(const Worker* w) {
    return w->barrier == NULL || w->thread == 0;
}
static void meet(const Worker* w) {
    if (w->barrier != NULL) barrier_wait(w->barrier, w->num_threads);
}

static void normalise(const Worker* w, const GPT2Model* m, ParameterId weight, ParameterId bias, int layer) {
    size_t C = (size_t)m->config.channels;
    if (is_first(w))
        w->l->kernels->layernorm(w->l->norm, w->l->x, gpt2_vector(m, weight, layer), gpt2_vector(m, bias, layer), C);
    meet(w);
}

static void add_residual(const Worker* w, const float* y, size_t C) {
    if (is_first(w)) {
        for (size_t c = 0; c < C; c++) w->l->x[c] += y[c];
    }
}

static void gelu(const Worker* w, size_t n) {
    if (is_first(w)) {
        for (size_t i = 0; i < n; i++) {
            float x = w->l->fc[i];
            w->l->fc[i] = x / (1.0f + expf(-1.5957691216f * (x + 0.044715f * x * x * x)));
        }
    }
    meet(w);
}

static void token(const Worker* w) {
    Ladder* l = w->l;
    const GPT2Model* m = &l->models[w->step->dtype];
    size_t C = (size_t)m->config.channels, V = (size_t)m->config.vocab_size;
    Tensor wte = gpt2_tensor(m, WTE, 0);
    if (is_first(w)) gpt2_matrix_row(l->x, &wte, 1000, C);
    for (int layer = 0; layer < m->config.num_layers; layer++) {
        Tensor qkvw = gpt2_tensor(m, QKVW, layer), attprojw = gpt2_tensor(m, ATTPROJW, layer);
        Tensor fcw = gpt2_tensor(m, FCW, layer), fcprojw = gpt2_tensor(m, FCPROJW, layer);
        normalise(w, m, LN1W, LN1B, layer);
        multiply(w, l->qkv, l->norm, &qkvw, gpt2_vector(m, QKVB, layer), C, 3 * C);
        // where attention would stand, its result is taken to be v
        multiply(w, l->norm, l->qkv + 2 * C, &attprojw, gpt2_vector(m, ATTPROJB, layer), C, C);
        add_residual(w, l->norm, C);
        normalise(w, m, LN2W, LN2B, layer);
        multiply(w, l->fc, l->norm, &fcw, gpt2_vector(m, FCB, layer), C, 4 * C);
        gelu(w, 4 * C);
        multiply(w, l->norm, l->fc, &fcprojw, gpt2_vector(m, FCPROJB, layer), 4 * C, C);
        add_residual(w, l->norm, C);
    }
    normalise(w, m, LNFW, LNFB, 0);
    multiply(w, l->logits, l->norm, &wte, NULL, C, V);
}

static double token_seconds(Ladder* l, const Step* step) {
    double start = seconds_now();
    if (!step->one_region) {
        token(&(Worker){.l = l, .step = step});
        return seconds_now() - start;
    }
    Barrier barrier = {0};
#pragma omp parallel num_threads(l->threads)
    {
        Worker w = {.l = l, .step = step, .barrier = &barrier, .num_threads = 1};
#ifdef _OPENMP
        w.thread = omp_get_thread_num();
        w.num_threads = omp_get_num_threads();
#endif
        token(&w);
    }
    return seconds_now() - start;
}

// ---------------------------------------------------------------------------------------------------------------------
// checking and reporting

// Largest difference as a share of the largest value; infinite where a value is not a number.
static double difference(const float* a, const float* b, size_t n) {
    double largest = 0, apart = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i])) return INFINITY;
        largest = fmax(largest, fabs((double)b[i]));
        apart = fmax(apart, fabs((double)a[i] - (double)b[i]));
    }
    return apart / largest;
}

// Prints how far a step is from the one before; ends the program when that is too far.
static void check(const char* name, const float* result, const float* before, size_t n, double tolerance) {
    double apart = difference(result, before, n);
    printf("  differs from the step before by %.1e\n", apart);
    if (apart <= tolerance) return;
    fprintf(stderr, "ladder: %s differs from the step before by %g of the largest value, more than %g\n", name, apart,
            tolerance);
    exit(1);
}

// A check that cannot fail is none: one wrong number in n must be noticed.
static void check_the_check(const float* result, size_t n, double tolerance) {
    Error error;
    float* wrong = allocate(n, sizeof *wrong, "a wrong result", &error);
    if (wrong == NULL) die(&error);
    memcpy(wrong, result, n * sizeof *wrong);
    for (size_t i = n / 2; i < n / 2 + 16; i++) wrong[i] = -wrong[i];
    bool noticed = difference(wrong, result, n) > tolerance;
    free(wrong);
    if (noticed) return;
    fprintf(stderr, "ladder: the comparison does not notice wrong values\n");
    exit(1);
}

static void report_json(const Ladder* l, const char* what, int number, const char* name, const Times* t, double rate,
                        double limit) {
    if (l->json == NULL) return;
    fprintf(l->json,
            "{\"ladder\": \"%s\", \"step\": %d, \"name\": \"%s\", \"threads\": %d, \"rate\": %.6g, \"limit\": %.6g",
            what, number, name, l->threads, rate, limit);
    fprintf(l->json, ", \"seconds\": [");
    for (int i = 0; i < t->n; i++) fprintf(l->json, "%s%.9g", i > 0 ? ", " : "", t->values[i]);
    fprintf(l->json, "]}\n");
}

// ---------------------------------------------------------------------------------------------------------------------
// the two ladders

static void decode_ladder(Ladder* l) {
    static const Step steps[] = {
        {"naive f32, one thread", DTYPE_F32, product_f32, false, false, 0},
        {"OpenMP for each matrix", DTYPE_F32, product_f32, true, false, 1e-5},
        {"bf16 weights", DTYPE_BF16, product_bf16, true, false, 1e-5},
        {"vectors, 4 rows at a time", DTYPE_BF16, product_vectors, true, false, 1e-3},
        {"one region, spinning barrier", DTYPE_BF16, product_vectors, true, true, 1e-5},
        {"the program's kernels, bf16", DTYPE_BF16, NULL, true, true, 3e-2},
        {"the program's kernels, bf16z", DTYPE_BF16Z, NULL, true, true, 0}, // the same numbers
        {"the program's kernels, q8", DTYPE_Q8, NULL, true, true, 6e-2},
    };
    Error error;
    size_t V = (size_t)l->models[DTYPE_F32].config.vocab_size,
           most = gpt2_bytes_per_token(&l->models[DTYPE_F32], DTYPE_F32);
    float* before = allocate(V, sizeof *before, "logits", &error);
    void* buffer = machine_read_buffer(most, &error);
    if (before == NULL || buffer == NULL) die(&error);
    printf("decode: the products of one token, %d thread%s\n", l->threads, l->threads == 1 ? "" : "s");
    for (int s = 0; s < (int)(sizeof steps / sizeof *steps); s++) {
        const Step* step = &steps[s];
        size_t bytes = gpt2_bytes_per_token(&l->models[step->dtype], step->dtype);
        int repeats = s < 3 ? (l->repeats + 2) / 3 : l->repeats; // the slow ones vary less
        Times t = {.n = 0}, bandwidth = {.n = 0};
        token_seconds(l, step);
        for (int i = 0; i < repeats; i++) {
            times_add(&bandwidth,
                      machine_read_rate(l->kernels->name, buffer, bytes, 1, step->threads ? l->threads : 1));
            times_add(&t, token_seconds(l, step));
        }
        double rate = (double)bytes / times_median(&t);
        printf("%d %-30s %9.3f ms [%.3f .. %.3f]  %5.1f GB/s, %3.0f %% of %.1f", s + 1, step->name,
               1e3 * times_median(&t), 1e3 * times_least(&t), 1e3 * times_most(&t), 1e-9 * rate,
               100 * rate / times_median(&bandwidth), 1e-9 * times_median(&bandwidth));
        if (s > 0) check(step->name, l->logits, before, V, step->tolerance);
        else printf("\n");
        check_the_check(l->logits, V, step->tolerance);
        memcpy(before, l->logits, V * sizeof *before);
        report_json(l, "decode", s + 1, step->name, &t, rate, times_median(&bandwidth));
    }
    free(before);
    free(buffer);
}

// Prefill: out (R, OC) = inp (R, C) · weightᵀ + bias
typedef struct {
    const Ladder* l;
    float *out, *inp;      // (R, OC), (R, C)
    char* packed;          // (R rounded up to groups) packed rows
    char* rows;            // (threads) packed rows of a group
    char* tiles;           // (threads) scratch of the product for many rows
    const Tensor* weights; // (NUM_DTYPES)
    const float* bias;     // (OC)
    size_t R, C, OC;
} Gemm;

static void gemm_naive(const Gemm* g, DType dtype) {
    (void)dtype;
    for (size_t r = 0; r < g->R; r++)
        product_f32(g->out + r * g->OC, g->inp + r * g->C, &g->weights[DTYPE_F32], g->bias, g->C, 0, g->OC);
}

static void gemm_openmp(const Gemm* g, DType dtype) {
    (void)dtype;
#pragma omp parallel for num_threads(g->l->threads)
    for (size_t r = 0; r < g->R; r++)
        product_f32(g->out + r * g->OC, g->inp + r * g->C, &g->weights[DTYPE_F32], g->bias, g->C, 0, g->OC);
}

// nr rows of activations by MR rows of weights, in registers along the channels.
INLINE void gemm_tile(const Gemm* g, size_t r, size_t o, int nr, int mr) {
    vf sums[TILE][MR] = {{{0}}};
    const float *w = (const float*)g->weights[DTYPE_F32].data + o * g->C, *x = g->inp + r * g->C;
    for (size_t i = 0; i < g->C; i += VL) {
        for (int m = 0; m < mr; m++) {
            for (int n = 0; n < nr; n++)
                sums[n][m] += *(const vf*)(w + (size_t)m * g->C + i) * *(const vf*)(x + (size_t)n * g->C + i);
        }
    }
    for (int n = 0; n < nr; n++) {
        for (int m = 0; m < mr; m++)
            g->out[(r + (size_t)n) * g->OC + o + (size_t)m] = vf_sum(&sums[n][m]) + g->bias[o + (size_t)m];
    }
}

// Panels of 32 weight rows (96 KB) pass by all activations of a thread. R and OC are multiples of 32 here.
enum { PANEL = 32 };

WIDE static void gemm_blocked_share(const Gemm* g, size_t begin, size_t end) {
    for (size_t p = begin; p < end; p += PANEL) {
        for (size_t r = 0; r < g->R; r++) {
            for (size_t o = p; o < p + PANEL; o++) gemm_tile(g, r, o, 1, 1);
        }
    }
}

WIDE static void gemm_tiled_share(const Gemm* g, size_t begin, size_t end) {
    for (size_t p = begin; p < end; p += PANEL) {
        for (size_t r = 0; r < g->R; r += 3) {
            for (size_t o = p; o < p + PANEL; o += MR) {
                if (r + 3 <= g->R) gemm_tile(g, r, o, 3, MR);
                else
                    for (size_t last = r; last < g->R; last++) gemm_tile(g, last, o, 1, MR);
            }
        }
    }
}

static void gemm_shares(const Gemm* g, void (*shared)(const Gemm*, size_t, size_t)) {
    int threads = g->l->threads;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        size_t panels = g->OC / PANEL;
        shared(g, panels * (size_t)t / (size_t)threads * PANEL, panels * (size_t)(t + 1) / (size_t)threads * PANEL);
    }
}

static void gemm_blocked(const Gemm* g, DType dtype) {
    (void)dtype;
    gemm_shares(g, gemm_blocked_share);
}

static void gemm_tiled(const Gemm* g, DType dtype) {
    (void)dtype;
    gemm_shares(g, gemm_tiled_share);
}

static void gemm_kernels(const Gemm* g, DType dtype) {
    int threads = g->l->threads;
    size_t bytes = g->l->kernels->packed_row_bytes(dtype, g->C);
#pragma omp parallel for num_threads(threads)
    for (size_t r = 0; r < g->R; r++) g->l->kernels->pack_row(g->packed + r * bytes, g->inp + r * g->C, dtype, g->C);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        size_t begin, end;
        share(g->OC, t, threads, &begin, &end);
        g->l->kernels->matmul(g->out, g->packed, &g->weights[dtype], g->bias, g->R, g->C, g->OC, begin, end,
                              EPILOGUE_STORE);
    }
}

static void gemm_tall(const Gemm* g, DType dtype) {
    const CpuKernels* k = g->l->kernels;
    int threads = g->l->threads;
    size_t bytes = k->packed_row_bytes(dtype, g->C), group = k->rows_of_group, tile = k->tile_bytes(dtype, g->C);
    size_t groups = (g->R + group - 1) / group;
#pragma omp parallel for num_threads(threads)
    for (size_t i = 0; i < groups; i++) {
        char* rows = g->rows + (size_t)omp_get_thread_num() * group * g->l->packed_bytes;
        size_t first = i * group, n = g->R - first < group ? g->R - first : group;
        for (size_t r = 0; r < n; r++) k->pack_row(rows + r * bytes, g->inp + (first + r) * g->C, dtype, g->C);
        k->group_rows(g->packed + first * bytes, rows, n, dtype, g->C);
    }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        size_t begin, end;
        share(g->OC, t, threads, &begin, &end);
        k->matmul_tall(g->out, g->packed, &g->weights[dtype], g->bias, g->R, g->C, g->OC, begin, end, EPILOGUE_STORE,
                       g->tiles + (size_t)t * tile);
    }
}

static void prefill_steps(Ladder* l, Gemm* g, float* before) {
    static const struct {
        const char* name;
        void (*run)(const Gemm*, DType);
        DType dtype;
        double tolerance;
    } steps[] = {
        {"naive f32, one thread", gemm_naive, DTYPE_F32, 0},
        {"OpenMP over rows", gemm_openmp, DTYPE_F32, 1e-6},
        {"blocked, vectors", gemm_blocked, DTYPE_F32, 1e-5},
        {"register tile", gemm_tiled, DTYPE_F32, 1e-6},
        {"the program's tiles, f32", gemm_kernels, DTYPE_F32, 1e-5},
        {"rows as lanes, f32", gemm_tall, DTYPE_F32, 0},
        {"the program's tiles, bf16", gemm_kernels, DTYPE_BF16, 1e-2},
        {"rows as lanes, bf16", gemm_tall, DTYPE_BF16, 0},
        {"the program's tiles, q8", gemm_kernels, DTYPE_Q8, 3e-2},
        {"rows as lanes, q8", gemm_tall, DTYPE_Q8, 0},
    };
    size_t n = g->R * g->OC;
    for (int s = 0; s < (int)(sizeof steps / sizeof *steps); s++) {
        int repeats = s < 2 ? (l->repeats + 2) / 3 : l->repeats;
        Times t = {.n = 0}, peak = {.n = 0};
        for (int i = -1; i < repeats; i++) { // the first is not counted
            double start = seconds_now();
            steps[s].run(g, steps[s].dtype);
            if (i < 0) continue;
            times_add(&t, seconds_now() - start);
            times_add(&peak, machine_product_rate(l->kernels->name, steps[s].dtype, l->threads));
        }
        double rate = 2.0 * (double)g->R * (double)g->C * (double)g->OC / times_median(&t);
        double limit = times_median(&peak);
        printf("%d %-30s %9.3f ms [%.3f .. %.3f]  %5.0f Gop/s", s + 1, steps[s].name, 1e3 * times_median(&t),
               1e3 * times_least(&t), 1e3 * times_most(&t), 1e-9 * rate);
        printf(", %3.0f %% of %.0f", 100 * rate / limit, 1e-9 * limit);
        if (s > 0) check(steps[s].name, g->out, before, n, steps[s].tolerance);
        else printf("\n");
        check_the_check(g->out, n, steps[s].tolerance);
        memcpy(before, g->out, n * sizeof *before);
        report_json(l, "prefill", s + 1, steps[s].name, &t, rate, limit);
    }
}

static void prefill_ladder(Ladder* l) {
    Error error;
    size_t C = (size_t)l->models[DTYPE_F32].config.channels;
    Tensor weights[NUM_DTYPES] = {{0}};
    Gemm g = {.l = l, .weights = weights, .R = 512, .C = C, .OC = 4 * C};
    for (int dtype = 0; dtype < NUM_DTYPES; dtype++) {
        if (l->models[dtype].num_parameters > 0) weights[dtype] = gpt2_tensor(&l->models[dtype], FCW, 0);
    }
    g.bias = gpt2_vector(&l->models[DTYPE_F32], FCB, 0);
    g.inp = allocate(g.R * g.C, sizeof *g.inp, "activations", &error);
    g.out = allocate(g.R * g.OC, sizeof *g.out, "activations", &error);
    g.packed = allocate(g.R + l->kernels->rows_of_group, l->packed_bytes, "activations", &error);
    g.rows = allocate((size_t)l->threads * l->kernels->rows_of_group, l->packed_bytes, "activations", &error);
    size_t tile = 1; // processors without bf16 products copy those weights too
    for (int dtype = 0; dtype < NUM_DTYPES; dtype++) {
        size_t bytes = l->kernels->tile_bytes((DType)dtype, C);
        if (bytes > tile) tile = bytes;
    }
    g.tiles = allocate((size_t)l->threads, tile, "tiles of weights", &error);
    float* before = allocate(g.R * g.OC, sizeof *before, "activations", &error);
    if (g.inp == NULL || g.out == NULL || g.packed == NULL || g.rows == NULL || g.tiles == NULL || before == NULL)
        die(&error);
    Tensor wte = gpt2_tensor(&l->models[DTYPE_F32], WTE, 0);
    for (size_t r = 0; r < g.R; r++) gpt2_matrix_row(g.inp + r * C, &wte, r, C);
    printf("prefill: %zu rows, %zu to %zu channels, %d thread%s\n", g.R, g.C, g.OC, l->threads,
           l->threads == 1 ? "" : "s");
    prefill_steps(l, &g, before);
    free(g.inp);
    free(g.out);
    free(g.packed);
    free(g.rows);
    free(g.tiles);
    free(before);
}

// ---------------------------------------------------------------------------------------------------------------------

static void ladder_open(Ladder* l) {
    static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_BF16Z, DTYPE_Q8};
    Error error;
    const GPT2Config* c = bench_shape("124M");
    size_t C = (size_t)c->channels;
    l->kernels = cpu_kernels_select(NULL);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (!bench_model_random(&l->models[dtypes[i]], c, dtypes[i], &error)) die(&error);
        size_t bytes = l->kernels->packed_row_bytes(dtypes[i], 4 * C);
        if (bytes > l->packed_bytes) l->packed_bytes = bytes;
    }
    l->x = allocate(9 * C, sizeof *l->x, "activations", &error); // (C) + (C) + (3C) + (4C)
    l->logits = allocate((size_t)c->vocab_size, sizeof *l->logits, "logits", &error);
    l->packed = allocate((size_t)l->threads, l->packed_bytes, "activations", &error);
    if (l->x == NULL || l->logits == NULL || l->packed == NULL) die(&error);
    l->norm = l->x + C;
    l->qkv = l->norm + C;
    l->fc = l->qkv + 3 * C;
}

static void ladder_close(Ladder* l) {
    for (int dtype = 0; dtype < NUM_DTYPES; dtype++) bench_model_free(&l->models[dtype]);
    free(l->x);
    free(l->logits);
    free(l->packed);
}

static bool read_number(int* out, const char* text, int most) {
    char* end;
    errno = 0;
    long n = strtol(text, &end, 10);
    *out = (int)n;
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && n >= 1 && n <= most;
}

int main(int argc, char** argv) {
    static const struct option flags[] = {
        {"threads", 1, NULL, 't'}, {"repeats", 1, NULL, 'r'}, {"json", 1, NULL, 'j'}, {0}};
    Ladder l = {.threads = cpu_physical_cores(), .repeats = 9};
    bool ok = true;
    for (int flag; (flag = getopt_long(argc, argv, "t:r:", flags, NULL)) != -1;) {
        if (flag == 't') ok = ok && read_number(&l.threads, optarg, 256);
        else if (flag == 'r') ok = ok && read_number(&l.repeats, optarg, MAX_REPEATS);
        else if (flag == 'j') ok = ok && (l.json = fopen(optarg, "a")) != NULL;
        else ok = false;
    }
    if (!ok || optind < argc) return fprintf(stderr, "usage: ladder [-t THREADS] [-r REPEATS] [--json FILE]\n"), 2;
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return fprintf(stderr, "ladder: its middle steps need AVX2\n"), 1;
#endif
    ladder_open(&l);
    decode_ladder(&l);
    prefill_ladder(&l);
    ladder_close(&l);
    if (l.json != NULL && fclose(l.json) != 0) return fprintf(stderr, "ladder: %s\n", strerror(errno)), 1;
    return 0;
}
