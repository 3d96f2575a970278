// Each measurement of arithmetic is a loop over SUMS independent chains of one instruction on registers, so that
// neither memory nor the latency of the instruction counts. Reading goes through memory in two orders, straight on and
// in several streams, as the kernels read several rows together; either can be the faster one.
#include "machine.h"

#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "mapped_file.h"
#include "openmp.h"
#include "processors.h"

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
#define DPBUSD_256(s)    s = _mm256_dpbusd_avx_epi32(s, a, b);
#define DPBUSD_512(s)    s = _mm512_dpbusd_epi32(s, a, b);
// without an instruction of their own, dot products of int8 are three
#define MADD_256(s) s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(s, a), b));
#define MADD_512(s) s = _mm512_add_epi32(s, _mm512_madd_epi16(_mm512_maddubs_epi16(s, a), b));
CHAIN_LOOP(f32_sse, , __m128, "x", _mm_set1_ps(1), _mm_set1_ps(0.5f), MUL_ADD_128)
CHAIN_LOOP(f32_avx2, TARGET("avx2,fma"), __m256, "x", _mm256_set1_ps(1), _mm256_set1_ps(0.5f), FMA_256)
CHAIN_LOOP(f32_avx512, TARGET("avx512f"), __m512, "v", _mm512_set1_ps(1), _mm512_set1_ps(0.5f), FMA_512)
CHAIN_LOOP(bf16_dot, TARGET("avx512f,avx512bf16"), __m512, "v", _mm512_set1_ps(1), _mm512_set1_ps(0.5f), DPBF16_512)
CHAIN_LOOP(int8_avx2, TARGET("avx2"), __m256i, "x", _mm256_set1_epi8(1), _mm256_set1_epi8(1), MADD_256)
CHAIN_LOOP(int8_avxvnni, TARGET("avx2,avxvnni"), __m256i, "x", _mm256_set1_epi8(1), _mm256_set1_epi8(1), DPBUSD_256)
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

// ---------------------------------------------------------------------------------------------------------------------
// Reading.

typedef uint64_t Line __attribute__((vector_size(64)));
enum { STREAMS = 4 };

// An order of reading n lines: line i of stream j is number j * gap + i * step; `ahead` bytes behind each one are
// prefetched.
typedef struct {
    size_t gap, step, ahead;
} ReadOrder;

// uint64_t name(lines, n, order): the sum of the lines, of which only the reading matters.
#define READ_LOOP(name, attributes)                                                                                    \
    attributes static uint64_t name(const Line* lines, size_t n, ReadOrder order) {                                    \
        Line sum[STREAMS] = {{0}};                                                                                     \
        for (size_t i = 0; i < n / STREAMS; i++) {                                                                     \
            for (size_t j = 0; j < STREAMS; j++) {                                                                     \
                const Line* line = lines + j * order.gap + i * order.step;                                             \
                __builtin_prefetch((const char*)line + order.ahead);                                                   \
                sum[j] += *line;                                                                                       \
            }                                                                                                          \
        }                                                                                                              \
        uint64_t total = 0;                                                                                            \
        for (int j = 0; j < STREAMS; j++) {                                                                            \
            for (int k = 0; k < 8; k++) total += sum[j][k];                                                            \
        }                                                                                                              \
        return total;                                                                                                  \
    }

READ_LOOP(read_baseline, )
#if defined(__x86_64__)
READ_LOOP(read_avx2, TARGET("avx2"))
READ_LOOP(read_avx512, TARGET("avx512f"))
#endif

// ---------------------------------------------------------------------------------------------------------------------
// What each variant computes with.

// One instruction (or the few that stand for one) and the operations in it.
typedef struct {
    void (*loop)(long n);
    double operations;
} Chain;

// What a variant reads with and multiplies with: f32, and weights of each type that is not packed. The portable kernels
// widen everything to f32.
typedef struct {
    const char* name;
    uint64_t (*read)(const Line* lines, size_t n, ReadOrder order);
    Chain f32, products[NUM_DTYPES];
} Variant;

static const Variant variants[] = {
#if defined(__x86_64__)
#define SSE                                                                                                            \
    { f32_sse, 2 * 4 }
#define AVX2                                                                                                           \
    { f32_avx2, 2 * 8 }
#define AVX512                                                                                                         \
    { f32_avx512, 2 * 16 }
    {"avx512bf16", read_avx512, AVX512, {AVX512, {bf16_dot, 2 * 32}, AVX512, {int8_dot, 2 * 64}}},
    {"avx512vnni", read_avx512, AVX512, {AVX512, AVX512, AVX512, {int8_dot, 2 * 64}}},
    {"avx512", read_avx512, AVX512, {AVX512, AVX512, AVX512, {int8_avx512, 2 * 64}}},
    {"avxvnni", read_avx2, AVX2, {AVX2, AVX2, AVX2, {int8_avxvnni, 2 * 32}}},
    {"avx2", read_avx2, AVX2, {AVX2, AVX2, AVX2, {int8_avx2, 2 * 32}}},
    {"portable", read_baseline, SSE, {SSE, SSE, SSE, SSE}},
#elif defined(__aarch64__)
#define NEON                                                                                                           \
    { f32_neon, 2 * 4 }
    {"dotprod", read_baseline, NEON, {NEON, NEON, NEON, {int8_dot, 2 * 16}}},
    {"portable", read_baseline, NEON, {NEON, NEON, NEON, NEON}},
#else
#define SCALAR                                                                                                         \
    { f32_scalar, 2 }
    {"portable", read_baseline, SCALAR, {SCALAR, SCALAR, SCALAR, SCALAR}},
#endif
};

static const Variant* find_variant(const char* name) {
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        if (strcmp(variants[i].name, name) == 0) return &variants[i];
    }
    return NULL;
}

// ---------------------------------------------------------------------------------------------------------------------
// Measuring.

// Operations per second of a chain on all threads at once.
static double chain_rate(const Chain* chain, int threads) {
    part_threads(threads);
    double start = seconds_now(), ran = 0;
#pragma omp parallel num_threads(threads) reduction(+ : ran)
    {
        chain->loop(CHAIN_ROUNDS);
        ran += 1;
    }
    return chain->operations * SUMS * CHAIN_ROUNDS * ran / (seconds_now() - start);
}

double machine_f32_rate(const char* variant, int threads) {
    const Variant* v = find_variant(variant);
    return v != NULL ? chain_rate(&v->f32, threads) : 0;
}

double machine_product_rate(const char* variant, DType dtype, int threads) {
    const Variant* v = find_variant(variant);
    return v != NULL ? chain_rate(&v->products[dtype_unpacked(dtype)], threads) : 0;
}

static double read_rate(const Variant* v, const Line* lines, size_t n, int passes, int threads, bool is_straight) {
    uint64_t total = 0;
    size_t shares = (size_t)threads;
    part_threads(threads);
    double start = seconds_now();
#pragma omp parallel for num_threads(threads) reduction(+ : total) schedule(static, 1)
    for (size_t t = 0; t < shares; t++) {
        const Line* own = lines + n * t / shares;
        size_t count = n * (t + 1) / shares - n * t / shares;
        ReadOrder order = {.gap = count / STREAMS, .step = 1, .ahead = 1024};
        if (is_straight) order = (ReadOrder){.gap = 1, .step = STREAMS, .ahead = 4096};
        for (int pass = 0; pass < passes; pass++) {
            total += v->read(own, count, order);
            __asm__ volatile("" : "+r"(own) : : "memory"); // the next pass is to read again
        }
    }
    double seconds = seconds_now() - start;
    volatile uint64_t keep = total; // the sums must be computed
    (void)keep;
    return (double)(n * sizeof *lines) * passes / seconds;
}

void* machine_read_buffer(size_t bytes, Error* error) {
    void* buffer = allocate(bytes, 1, "measuring the bandwidth", error);
    if (buffer == NULL) return NULL;
    prefer_huge_pages(buffer, bytes);
    return memset(buffer, 1, bytes);
}

double machine_read_rate(const char* variant, const void* buffer, size_t bytes, int passes, int threads) {
    const Variant* v = find_variant(variant);
    size_t n = bytes / sizeof(Line);
    if (v == NULL) return 0;
    double straight = read_rate(v, buffer, n, passes, threads, true);
    double in_streams = read_rate(v, buffer, n, passes, threads, false);
    return straight > in_streams ? straight : in_streams;
}

// What one of two threads does: number i of n turns is the other's where i + me is odd. They spin, but on one processor
// would wait for ever longer: then they yield.
static void take_turns(atomic_int* turn, int me, int n) {
    for (int i = me; i < n; i += 2) {
        for (int spins = 0; atomic_load_explicit(turn, memory_order_acquire) != i; spins++) {
            if (spins > 1000) sched_yield();
        }
        atomic_store_explicit(turn, i + 1, memory_order_release);
    }
}

double machine_handover(void) {
    double seconds = 0;
    enum { WARM_UP = 400, TURNS = 4000 };
    struct {
        _Alignas(64) atomic_int warm_up;
        _Alignas(64) atomic_int turn;
    } lines = {0};
    part_threads(2);
#pragma omp parallel num_threads(2)
    if (omp_get_num_threads() == 2) {
        int me = omp_get_thread_num();
        take_turns(&lines.warm_up, me, WARM_UP);
        double start = seconds_now();
        take_turns(&lines.turn, me, TURNS);
        if (me == 0) seconds = (seconds_now() - start) / TURNS;
    }
    return seconds;
}

bool machine_measure(Roof* rates, const char* variant, DType dtype, size_t working_set, int threads, Error* error) {
    *rates = (Roof){.working_set = working_set};
    const size_t least = (size_t)32 << 20; // a pass over less is over before the threads have started
    size_t bytes = (working_set + 4095) / 4096 * 4096, passes = (least + bytes - 1) / bytes;
    if (find_variant(variant) == NULL)
        return fail(error, "the peak rate of the kernels named %s is not known", variant);
    void* buffer = machine_read_buffer(bytes, error);
    if (buffer == NULL) return false;
    for (int i = 0; i < REPEATS; i++) {
        rates->bandwidth = fmax(rates->bandwidth, machine_read_rate(variant, buffer, bytes, (int)passes, threads));
        rates->f32 = fmax(rates->f32, machine_f32_rate(variant, threads));
        rates->products = fmax(rates->products, machine_product_rate(variant, dtype, threads));
    }
    rates->attention = rates->f32;
    free(buffer);
    return true;
}
