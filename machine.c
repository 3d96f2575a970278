// Each measurement of arithmetic is a loop over SUMS independent chains of one instruction on registers, so that neither
// memory nor the latency of the instruction counts.
#include "machine.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { REPEATS = 7, CHAIN_ROUNDS = 400000 }; // some milliseconds each, longer than the threads need to start

// ---------------------------------------------------------------------------------------------------------------------
// Arithmetic.

// Latency 4 on two pipes wants 8 chains, some instructions more; 16 registers less the two factors leave 14. They are
// variables, not an array, so that no compiler keeps them in memory.
enum { SUMS = 14 };
#define FOR_SUMS(X) X(s0) X(s1) X(s2) X(s3) X(s4) X(s5) X(s6) X(s7) X(s8) X(s9) X(s10) X(s11) X(s12) X(s13)

// void name(n): n rounds of SUMS times sum = instruction(sum, a, b). The empty assembler line keeps the sums in
// registers and the compiler from seeing through the loop.
#define CHAIN_LOOP(name, attributes, vector, constraint, start, factor, instruction)                                   \
    attributes static void name(long n) {                                                                              \
        __typeof__(factor) a = factor, b = factor;                                                                     \
        vector s0 = start, s1 = start, s2 = start, s3 = start, s4 = start, s5 = start, s6 = start;                     \
        vector s7 = start, s8 = start, s9 = start, s10 = start, s11 = start, s12 = start, s13 = start;                 \
        for (; n > 0; n--) {                                                                                           \
            FOR_SUMS(instruction)                                                                                      \
            __asm__ volatile(""                                                                                        \
                             : "+" constraint(s0), "+" constraint(s1), "+" constraint(s2), "+" constraint(s3),         \
                               "+" constraint(s4), "+" constraint(s5), "+" constraint(s6), "+" constraint(s7),         \
                               "+" constraint(s8), "+" constraint(s9), "+" constraint(s10), "+" constraint(s11),       \
                               "+" constraint(s12), "+" constraint(s13));                                              \
        }                                                                                                              \
    }

#if defined(__x86_64__)
#define TARGET(features) __attribute__((target(features)))
#define MUL_ADD_128(s)   s = _mm_add_ps(_mm_mul_ps(s, a), b);
#define FMA_256(s)       s = _mm256_fmadd_ps(s, a, b);
#define FMA_512(s)       s = _mm512_fmadd_ps(s, a, b);
#define DPBF16_512(s)    s = _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)b);
#define DPBUSD_512(s)    s = _mm512_dpbusd_epi32(s, a, b);
// without an instruction of their own, dot products of int8 are three
#define MADD_256(s) s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(s, a), b));
#define MADD_512(s) s = _mm512_add_epi32(s, _mm512_madd_epi16(_mm512_maddubs_epi16(s, a), b));
CHAIN_LOOP(f32_sse, , __m128, "x", _mm_set1_ps(1), _mm_set1_ps(0.5f), MUL_ADD_128)
CHAIN_LOOP(f32_avx2, TARGET("avx2,fma"), __m256, "x", _mm256_set1_ps(1), _mm256_set1_ps(0.5f), FMA_256)
CHAIN_LOOP(f32_avx512, TARGET("avx512f"), __m512, "v", _mm512_set1_ps(1), _mm512_set1_ps(0.5f), FMA_512)
CHAIN_LOOP(bf16_dot, TARGET("avx512f,avx512bf16"), __m512, "v", _mm512_set1_ps(1), _mm512_set1_ps(0.5f), DPBF16_512)
CHAIN_LOOP(int8_avx2, TARGET("avx2"), __m256i, "x", _mm256_set1_epi8(1), _mm256_set1_epi8(1), MADD_256)
CHAIN_LOOP(int8_avx512, TARGET("avx512f,avx512bw"), __m512i, "v", _mm512_set1_epi8(1), _mm512_set1_epi8(1), MADD_512)
CHAIN_LOOP(int8_dot, TARGET("avx512f,avx512vnni"), __m512i, "v", _mm512_set1_epi8(1), _mm512_set1_epi8(1), DPBUSD_512)
#elif defined(__aarch64__)
#define FMA_128(s)  s = vfmaq_f32(b, s, a);
#define SDOT_128(s) s = vdotq_s32(s, a, b);
CHAIN_LOOP(f32_neon, , float32x4_t, "w", vdupq_n_f32(1), vdupq_n_f32(0.5f), FMA_128)
CHAIN_LOOP(int8_dot, __attribute__((target("arch=armv8.2-a+dotprod"))), int32x4_t, "w", vdupq_n_s32(1), vdupq_n_s8(1),
           SDOT_128)
#else
#define MUL_ADD(s) s = s * a + b;
CHAIN_LOOP(f32_scalar, , float, "m", 1.0f, 0.5f, MUL_ADD)
#endif

// One instruction (or the few that stand for one) and the operations in it.
typedef struct {
    void (*loop)(long n);
    double operations;
} Chain;

// What a variant multiplies with: f32, and weights of each type. The portable kernels widen everything to f32.
typedef struct {
    const char* variant;
    Chain f32, products[NUM_DTYPES];
} VariantChains;

static const VariantChains variants[] = {
#if defined(__x86_64__)
#define SSE                                                                                                            \
    { f32_sse, 2 * 4 }
#define AVX2                                                                                                           \
    { f32_avx2, 2 * 8 }
#define AVX512                                                                                                         \
    { f32_avx512, 2 * 16 }
    {"avx512bf16", AVX512, {AVX512, {bf16_dot, 2 * 32}, AVX512, {int8_dot, 2 * 64}}},
    {"avx512", AVX512, {AVX512, AVX512, AVX512, {int8_avx512, 2 * 64}}},
    {"avx2", AVX2, {AVX2, AVX2, AVX2, {int8_avx2, 2 * 32}}},
    {"portable", SSE, {SSE, SSE, SSE, SSE}},
#elif defined(__aarch64__)
#define NEON                                                                                                           \
    { f32_neon, 2 * 4 }
    {"dotprod", NEON, {NEON, NEON, NEON, {int8_dot, 2 * 16}}},
    {"portable", NEON, {NEON, NEON, NEON, NEON}},
#else
#define SCALAR                                                                                                         \
    { f32_scalar, 2 }
    {"portable", SCALAR, {SCALAR, SCALAR, SCALAR, SCALAR}},
#endif
};

// Operations per second of a chain on all threads at once.
static double chain_rate(const Chain* chain, int threads) {
    double best = 0;
    (void)threads; // without OpenMP there is one
    for (int i = 0; i < REPEATS; i++) {
        double start = seconds_now(), ran = 0;
#pragma omp parallel num_threads(threads) reduction(+ : ran)
        {
            chain->loop(CHAIN_ROUNDS);
            ran += 1;
        }
        double rate = chain->operations * SUMS * CHAIN_ROUNDS * ran / (seconds_now() - start);
        if (rate > best) best = rate;
    }
    return best;
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading.

typedef uint64_t Line __attribute__((vector_size(64)));

// The sum of lines [begin, end), of which only the reading matters; prefetched as the kernels do.
static uint64_t read_lines(const Line* lines, size_t begin, size_t end) {
    Line sum[4] = {{0}};
    for (size_t i = begin; i + 4 <= end; i += 4) {
        for (size_t j = 0; j < 4; j++) {
            __builtin_prefetch((const char*)(lines + i + j) + 4096);
            sum[j] += lines[i + j];
        }
    }
    sum[0] += sum[1] + sum[2] + sum[3];
    uint64_t total = 0;
    for (int j = 0; j < 8; j++) total += sum[0][j];
    return total;
}

// Bytes per second of reading `bytes` `passes` times, every thread its own contiguous share, as a token reads weights.
static double read_rate(const Line* lines, size_t bytes, size_t passes, int threads) {
    uint64_t total = 0;
    size_t n = bytes / sizeof *lines, shares = (size_t)threads;
    double start = seconds_now();
#pragma omp parallel for num_threads(threads) reduction(+ : total) schedule(static, 1)
    for (size_t t = 0; t < shares; t++) {
        for (size_t pass = 0; pass < passes; pass++) {
            total += read_lines(lines, n * t / shares, n * (t + 1) / shares);
            __asm__ volatile("" : "+r"(lines) : : "memory"); // the next pass is to read again
        }
    }
    double seconds = seconds_now() - start;
    volatile uint64_t keep = total; // the sums must be computed
    (void)keep;
    return (double)n * sizeof *lines * (double)passes / seconds;
}

bool machine_measure(Roof* rates, const char* variant, DType dtype, size_t working_set, int threads, Error* error) {
    *rates = (Roof){0};
    const size_t least = (size_t)32 << 20; // a pass over less is over before the threads have started
    size_t bytes = (working_set + 4095) / 4096 * 4096, passes = (least + bytes - 1) / bytes;
    char* buffer = allocate(bytes, 1, "measuring the bandwidth", error);
    if (buffer == NULL) return false;
    memset(buffer, 1, bytes);
    for (int i = 0; i < REPEATS; i++) {
        double rate = read_rate((const Line*)(const void*)buffer, bytes, passes, threads);
        if (rate > rates->bandwidth) rates->bandwidth = rate;
    }
    free(buffer);
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        if (strcmp(variants[i].variant, variant) != 0) continue;
        rates->f32 = chain_rate(&variants[i].f32, threads);
        rates->products = chain_rate(&variants[i].products[dtype], threads);
        return true;
    }
    return fail(error, "the peak rate of the kernels named %s is not known", variant);
}
