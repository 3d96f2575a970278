// Each measurement is a loop over SUMS independent chains of one instruction on registers, so that neither memory nor
// the latency of the instruction counts.
#include "bench_peak.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Latency 4 on two pipes wants 8 chains, some instructions more; 16 registers less the two factors leave 14. They are
// variables, not an array, so that no compiler keeps them in memory.
enum { SUMS = 14 };
#define FOR_SUMS(X) X(s0) X(s1) X(s2) X(s3) X(s4) X(s5) X(s6) X(s7) X(s8) X(s9) X(s10) X(s11) X(s12) X(s13)

// void name(n): n rounds of SUMS times sum = instruction(sum, a, b). The empty assembler line keeps the sums in
// registers and the compiler from seeing through the loop.
#define PEAK_LOOP(name, attributes, vector, constraint, start, factor, instruction)                                    \
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
#define FMA_256(s)       s = _mm256_fmadd_ps(s, a, b);
#define FMA_512(s)       s = _mm512_fmadd_ps(s, a, b);
#define DPBF16_512(s)    s = _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)b);
#define DPBUSD_512(s)    s = _mm512_dpbusd_epi32(s, a, b);
PEAK_LOOP(f32_avx2, TARGET("avx2,fma"), __m256, "x", _mm256_set1_ps(1), _mm256_set1_ps(0.5f), FMA_256)
PEAK_LOOP(f32_avx512, TARGET("avx512f"), __m512, "v", _mm512_set1_ps(1), _mm512_set1_ps(0.5f), FMA_512)
PEAK_LOOP(bf16_avx512, TARGET("avx512f,avx512bf16"), __m512, "v", _mm512_set1_ps(1), _mm512_set1_ps(0.5f), DPBF16_512)
PEAK_LOOP(int8_avx512, TARGET("avx512f,avx512vnni"), __m512i, "v", _mm512_set1_epi8(1), _mm512_set1_epi8(1), DPBUSD_512)
#elif defined(__aarch64__)
#define FMA_128(s)  s = vfmaq_f32(b, s, a);
#define SDOT_128(s) s = vdotq_s32(s, a, b);
PEAK_LOOP(f32_neon, , float32x4_t, "w", vdupq_n_f32(1), vdupq_n_f32(0.5f), FMA_128)
PEAK_LOOP(int8_dotprod, __attribute__((target("arch=armv8.2-a+dotprod"))), int32x4_t, "w", vdupq_n_s32(1),
          vdupq_n_s8(1), SDOT_128)
#endif

// Operations per second of `loop`, whose instruction does `operations`, on all threads at once.
static double measure(void (*loop)(long), double operations, int threads, int repeats) {
    enum { ROUNDS = 2000000 }; // some 10 ms, longer than the threads need to start
    Times rates = {.n = 0};
    for (int i = 0; i < repeats; i++) {
        double start = seconds_now();
#pragma omp parallel num_threads(threads)
        loop(ROUNDS);
        times_add(&rates, operations * SUMS * ROUNDS * threads / (seconds_now() - start));
    }
    return times_median(&rates);
}

PeakRates peak_rates(const char* variant, int threads, int repeats) {
    PeakRates peak = {0};
#if defined(__x86_64__)
    if (strcmp(variant, "avx2") == 0) peak.f32 = measure(f32_avx2, 2 * 8, threads, repeats);
    if (strncmp(variant, "avx512", 6) == 0) peak.f32 = measure(f32_avx512, 2 * 16, threads, repeats);
    if (strcmp(variant, "avx512bf16") == 0) {
        peak.bf16 = measure(bf16_avx512, 2 * 32, threads, repeats);
        peak.int8 = measure(int8_avx512, 2 * 64, threads, repeats);
    }
#elif defined(__aarch64__)
    peak.f32 = measure(f32_neon, 2 * 4, threads, repeats);
    if (strcmp(variant, "dotprod") == 0) peak.int8 = measure(int8_dotprod, 2 * 16, threads, repeats);
#else
    (void)variant, (void)threads, (void)repeats, (void)measure;
#endif
    return peak;
}

double peak_of_dtype(const PeakRates* peak, DType dtype) {
    if (dtype == DTYPE_Q8) return peak->int8;
    return dtype == DTYPE_BF16 && peak->bf16 > 0 ? peak->bf16 : peak->f32; // else bf16 and f16 are widened to f32
}
